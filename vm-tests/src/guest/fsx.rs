//! An exerciser of a block device in the manner of fsx: random operations against a model in memory.
//!
//! Reads and writes of any length and place through the page cache, aligned ones past it, zeroing, discard,
//! syncs and dropped caches. Every read is compared with the model. One thread, so that the model is exact.

use super::load::drop_caches;
use super::memory::{LARGEST, Memory};
use crate::error::{Context, Error, Result};
use crate::random::Random;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const SECTOR: u64 = 512;

/// Counts of what was done, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Reads compared.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Ranges zeroed or discarded.
    pub zeroed: u64,
}

/// Runs `operations` on the first `bytes` of `device`, beginning with zeroing them.
///
/// # Errors
/// An operation fails, or a read differs from the model: the message has the operation and the place.
pub fn exercise(device: &Path, bytes: u64, operations: u64, seed: u64) -> Result<Done> {
    assert!(bytes.is_multiple_of(4096), "the range is whole blocks");
    let open = |flags: OFlag| {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(flags.bits());
        options.open(device).doing(|| format!("open {}", device.display()))
    };
    let mut world = World {
        cached: open(OFlag::empty())?,
        direct: open(OFlag::O_DIRECT)?,
        model: vec![0; usize::try_from(bytes).expect("a range that fits memory")],
        buffer: Memory::new(),
        random: Random::new(seed),
        done: Done::default(),
    };
    world.zero(0, bytes, FallocateFlags::FALLOC_FL_ZERO_RANGE)?;
    for number in 0..operations {
        world.step().map_err(|e| Error::failed(format!("operation {number} of seed {seed}: {e}")))?;
    }
    world.sync()?;
    drop_caches();
    world.compare_all()?;
    Ok(world.done)
}

struct World {
    cached: File,
    direct: File,
    model: Vec<u8>,
    buffer: Memory,
    random: Random,
    done: Done,
}

impl World {
    fn step(&mut self) -> Result<()> {
        match self.random.below(100) {
            0..30 => self.read(false),
            30..45 => self.read(true),
            45..70 => self.write(false),
            70..88 => self.write(true),
            88..92 => {
                let (at, length) = self.range(SECTOR);
                self.zero(at, length, FallocateFlags::FALLOC_FL_ZERO_RANGE)
            }
            92..96 => {
                let (at, length) = self.range(SECTOR);
                self.zero(at, length, FallocateFlags::FALLOC_FL_PUNCH_HOLE)
            }
            96..99 => self.sync(),
            _ => {
                drop_caches();
                Ok(())
            }
        }
    }

    /// A range inside the device whose ends are multiples of `unit`. Most are small.
    fn range(&mut self, unit: u64) -> (u64, u64) {
        let total = self.model.len() as u64;
        let largest = if self.random.below(4) == 0 { LARGEST } else { 16 << 10 };
        let length = unit * (1 + self.random.below(largest / unit));
        let at = self.random.below((total - length) / unit + 1) * unit;
        (at, length)
    }

    fn read(&mut self, direct: bool) -> Result<()> {
        let (at, length) = self.range(if direct { SECTOR } else { 1 });
        self.compare(at, length, direct)
    }

    fn compare(&mut self, at: u64, length: u64, direct: bool) -> Result<()> {
        let bytes = self.buffer.take(length);
        // What the page cache holds must reach the device before a read past it; the kernel sees to that.
        let file = if direct { &self.direct } else { &self.cached };
        file.read_exact_at(bytes, at).doing(|| format!("read {length} at {at}"))?;
        let start = usize::try_from(at).expect("it fits");
        let want = &self.model[start..start + bytes.len()];
        if let Some(off) = bytes.iter().zip(want).position(|(have, want)| have != want) {
            return Err(Error::failed(format!(
                "byte {} is {:#04x} and should be {:#04x} (read of {length} at {at}, direct {direct})",
                start + off,
                bytes[off],
                want[off]
            )));
        }
        self.done.reads += 1;
        Ok(())
    }

    fn write(&mut self, direct: bool) -> Result<()> {
        let (at, length) = self.range(if direct { SECTOR } else { 1 });
        let mut fill = self.random.draw();
        let bytes = self.buffer.take(length);
        for chunk in bytes.chunks_mut(8) {
            fill = fill.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            chunk.copy_from_slice(&fill.to_le_bytes()[..chunk.len()]);
        }
        let file = if direct { &self.direct } else { &self.cached };
        file.write_all_at(bytes, at).doing(|| format!("write {length} at {at}"))?;
        let start = usize::try_from(at).expect("it fits");
        self.model[start..start + bytes.len()].copy_from_slice(bytes);
        self.done.writes += 1;
        Ok(())
    }

    fn zero(&mut self, at: u64, length: u64, how: FallocateFlags) -> Result<()> {
        let signed = |n: u64| i64::try_from(n).expect("device sizes fit an i64");
        let flags = how | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.cached, flags, signed(at), signed(length))
            .doing(|| format!("zero {length} at {at}"))?;
        let start = usize::try_from(at).expect("it fits");
        self.model[start..start + usize::try_from(length).expect("it fits")].fill(0);
        self.done.zeroed += 1;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.cached.sync_all().doing(|| "sync the device".into())
    }

    fn compare_all(&mut self) -> Result<()> {
        let total = self.model.len() as u64;
        for at in (0..total).step_by(LARGEST as usize) {
            self.compare(at, LARGEST.min(total - at), true)?;
        }
        Ok(())
    }
}
