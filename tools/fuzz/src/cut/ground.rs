//! Drives in memory: what was safe, shared by all images of a cut, and what one image has on top.
//!
//! A write of recovery is pending until the drive is flushed. When the power fails, each pending write is kept, dropped
//! or torn at a sector, in the order in which they were made.
use crate::image::Drive;
use crate::random::Random;
use base::{BLOCK_BYTES, Block, Blocks, DriveBlock, SECTOR_BYTES};
use nix::unistd::{Whence, lseek};
use plinth_check::Media;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vm_tests::writelog::{Log, Manner, Survivor, survivors};

/// A drive as it was before its log began, with what the log made durable.
pub struct Ground {
    content: Vec<Option<Box<Block>>>,
    log: Log,
    source: File,
    /// Entries of the log that are in `content`.
    durable: usize,
}

impl Ground {
    /// Reads the drive `image` as it was before its log began, and the log.
    ///
    /// # Errors
    /// The operating system's, or the log is none.
    pub fn load(image: &Path, log_path: &Path, manner: Manner) -> io::Result<Self> {
        let file = File::open(image)?;
        let bytes = file.metadata()?.len();
        let blocks = usize::try_from(bytes / BLOCK_BYTES as u64).expect("drives of tests are small");
        let mut content = vec![None; blocks];
        let mut at = 0;
        while let Some((start, end)) = next_data(&file, at, bytes)? {
            for block in start / BLOCK_BYTES as u64..end.div_ceil(BLOCK_BYTES as u64).min(blocks as u64) {
                let mut bytes = Box::new([0; BLOCK_BYTES]);
                file.read_exact_at(&mut bytes[..], block * BLOCK_BYTES as u64)?;
                content[block as usize] = bytes.iter().any(|byte| *byte != 0).then_some(bytes);
            }
            at = end;
        }
        let log = Log::read(log_path, bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let durable = if manner.lies { 0 } else { log.durable() };
        let mut ground = Self { content, durable, log, source: File::open(log_path)? };
        for entry in &ground.log.entries[..ground.durable] {
            let content = &mut ground.content;
            entry.replay(&ground.source, 0..entry.count, |at, bytes| {
                in_blocks(at, bytes, |block, from, piece| {
                    let block = &mut content[block as usize];
                    let block = block.get_or_insert_with(|| Box::new([0; BLOCK_BYTES]));
                    block[from..from + piece.len()].copy_from_slice(piece);
                });
                Ok(())
            })?;
        }
        Ok(ground)
    }

    /// The drive as a power cut leaves it; the same seed gives the same drive. Also how many writes at risk were kept,
    /// dropped and torn.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn after_cut(&self, manner: Manner, seed: u64) -> io::Result<(Layered<'_>, [u64; 3])> {
        let (there, fate) = survivors(&self.log, self.durable, manner, seed);
        let mut drive =
            Layered { ground: self, over: HashMap::new(), pending: Vec::new(), newest: HashMap::new() };
        for Survivor { entry, sectors } in there {
            self.log.entries[entry].replay(&self.source, sectors, |at, bytes| {
                in_blocks(at, bytes, |block, from, piece| drive.put_safely(block, from, piece));
                Ok(())
            })?;
        }
        Ok((drive, [fate.kept, fate.dropped, fate.torn]))
    }

    /// Writes at risk when the power went.
    pub fn at_risk(&self) -> usize {
        self.log.entries.len() - self.durable
    }
}

/// The next range of a file that is no hole, from `at` on.
fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    let offset = |at: u64| i64::try_from(at).expect("file sizes fit an i64");
    match lseek(file, offset(at), Whence::SeekData) {
        Ok(start) if (start as u64) < end => {
            let stop = lseek(file, start, Whence::SeekHole)?;
            Ok(Some((start as u64, (stop as u64).min(end))))
        }
        Ok(_) | Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Cuts a range of bytes of a drive into its blocks: the block, where in it, and the bytes.
fn in_blocks(at: u64, bytes: &[u8], mut each: impl FnMut(u64, usize, &[u8])) {
    let (mut at, mut rest) = (at, bytes);
    while !rest.is_empty() {
        let from = (at % BLOCK_BYTES as u64) as usize;
        let (piece, behind) = rest.split_at(rest.len().min(BLOCK_BYTES - from));
        each(at / BLOCK_BYTES as u64, from, piece);
        (at, rest) = (at + piece.len() as u64, behind);
    }
}

/// One image of a drive.
pub struct Layered<'a> {
    ground: &'a Ground,
    /// Safe, and other than the ground.
    over: HashMap<u64, Box<Block>>,
    /// Written and not flushed, oldest first.
    pending: Vec<(u64, Box<Block>)>,
    /// The newest of the pending writes of a block, by its place among them.
    newest: HashMap<u64, usize>,
}

impl Layered<'_> {
    fn safe(&self, at: u64) -> Option<&Block> {
        self.over.get(&at).or(self.ground.content[at as usize].as_ref()).map(|block| &**block)
    }

    fn put_safely(&mut self, at: u64, from: usize, bytes: &[u8]) {
        let mut block = Box::new(self.safe(at).copied().unwrap_or([0; BLOCK_BYTES]));
        block[from..from + bytes.len()].copy_from_slice(bytes);
        self.over.insert(at, block);
    }

    /// The power fails: what was not flushed is kept, dropped or torn.
    pub fn lose_power(&mut self, random: &mut Random) {
        let temper = random.below(4);
        self.newest.clear();
        for (at, block) in std::mem::take(&mut self.pending) {
            match if temper > 1 { random.below(3) } else { temper } {
                0 => {}
                1 => drop(self.over.insert(at, block)),
                _ => {
                    let cut = (1 + random.below(BLOCK_BYTES / SECTOR_BYTES - 1)) * SECTOR_BYTES;
                    let (first, second) = block.split_at(cut);
                    match random.below(2) {
                        0 => self.put_safely(at, 0, first),
                        _ => self.put_safely(at, cut, second),
                    }
                }
            }
        }
    }
}

impl Media for Layered<'_> {
    fn blocks(&self) -> Blocks {
        Blocks::new(self.ground.content.len() as u64)
    }

    fn read_into(&self, at: DriveBlock, into: &mut [u8]) -> io::Result<()> {
        for (i, piece) in into.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let at = at.get() + i as u64;
            if at >= self.ground.content.len() as u64 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let pending = self.newest.get(&at).map(|place| &*self.pending[*place].1);
            match pending.or_else(|| self.safe(at)) {
                Some(block) => piece.copy_from_slice(block),
                None => piece.fill(0),
            }
        }
        Ok(())
    }
}

impl Drive for Layered<'_> {
    fn write(&mut self, at: DriveBlock, block: &Block) {
        self.newest.insert(at.get(), self.pending.len());
        self.pending.push((at.get(), Box::new(*block)));
    }

    fn flush(&mut self) {
        self.newest.clear();
        for (at, block) in self.pending.drain(..) {
            self.over.insert(at, block);
        }
    }
}
