//! The label of a drive: which pool it belongs to and which drive of it it is.
//!
//! Two copies, at block 0 and at the first block of the drive's last whole MiB. Crash story: a label is
//! written to one place, flushed, then to the other; a reader takes the newer of those that pass their check,
//! and whoever finds only one good copy writes the other again. A drive is recognised by its label, never by
//! its path.
use crate::layout::{FIRST_EXTENT_BLOCK, TAIL_BLOCKS, label as at};
use crate::sealed::{self, Bad};
use alloc::string::{String, ToString};
use base::{Block, Blocks, DriveBlock, ExtentNo, Uuid, codec};

/// The smallest drive that a pool takes: 256 MiB.
pub const MIN_DRIVE_BLOCKS: u64 = 65_536;

/// What a label says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// The pool.
    pub pool: Uuid,
    /// The pool's name when the label was written.
    pub pool_name: String,
    /// The drive.
    pub drive: Uuid,
    /// Size of the drive, in blocks.
    pub blocks: Blocks,
    /// Blocks of an extent, the same for the whole pool.
    pub extent_blocks: u32,
    /// Number of this writing; the newer label wins.
    pub written: u64,
    /// Where the drive is: node, rack, zone; empty if not said.
    pub node: String,
    /// Its rack.
    pub rack: String,
    /// Its zone.
    pub zone: String,
    /// Its class of speed.
    pub class: String,
}

/// The two places of a label on a drive of this size.
pub fn places(drive: Blocks) -> [DriveBlock; 2] {
    let last_mib = drive.get() / TAIL_BLOCKS * TAIL_BLOCKS - TAIL_BLOCKS;
    [DriveBlock::ZERO, DriveBlock::new(last_mib)]
}

/// How many extents a drive of this size holds.
pub fn extents(drive: Blocks, extent_blocks: u32) -> u32 {
    let end = places(drive)[1].get();
    u32::try_from(end.saturating_sub(FIRST_EXTENT_BLOCK) / u64::from(extent_blocks)).unwrap_or(u32::MAX)
}

/// First block of an extent.
pub fn extent_start(extent: ExtentNo, extent_blocks: u32) -> DriveBlock {
    DriveBlock::new(FIRST_EXTENT_BLOCK + u64::from(extent.get()) * u64::from(extent_blocks))
}

impl Label {
    /// The block to write at `places()[copy]`. Panics if a text is longer than 128 bytes (checked on input).
    pub fn encode(&self, copy: u8) -> Block {
        let mut block = [0; 4096];
        block[at::COPY_AT] = copy;
        codec::put_u64(&mut block, at::WRITTEN_AT, self.written);
        codec::put_uuid(&mut block, at::POOL_AT, self.pool);
        codec::put_uuid(&mut block, at::DRIVE_AT, self.drive);
        codec::put_u64(&mut block, at::BLOCKS_AT, self.blocks.get());
        codec::put_u32(&mut block, at::EXTENT_BLOCKS_AT, self.extent_blocks);
        let texts = [&self.pool_name, &self.node, &self.rack, &self.zone, &self.class];
        for (i, text) in texts.iter().enumerate() {
            assert!(text.len() <= at::NAME_BYTES, "label text longer than {} bytes", at::NAME_BYTES);
            let start = at::TEXTS_AT + i * at::TEXT_STRIDE;
            block[start] = text.len() as u8;
            block[start + 8..start + 8 + text.len()].copy_from_slice(text.as_bytes());
        }
        sealed::seal(&mut block, at::MAGIC);
        block
    }

    /// Reads a label.
    ///
    /// # Errors
    /// `Bad`, as for every block with a check of its own.
    pub fn decode(block: &Block) -> Result<Self, Bad> {
        sealed::open(block, at::MAGIC)?;
        let label = Self {
            pool: codec::uuid_at(block, at::POOL_AT),
            pool_name: text(block, 0)?,
            drive: codec::uuid_at(block, at::DRIVE_AT),
            blocks: Blocks::new(codec::u64_at(block, at::BLOCKS_AT)),
            extent_blocks: codec::u32_at(block, at::EXTENT_BLOCKS_AT),
            written: codec::u64_at(block, at::WRITTEN_AT),
            node: text(block, 1)?,
            rack: text(block, 2)?,
            zone: text(block, 3)?,
            class: text(block, 4)?,
        };
        let sane = label.blocks.get() >= 2 * TAIL_BLOCKS && label.extent_blocks >= 64;
        if sane { Ok(label) } else { Err(Bad::Content) }
    }
}

fn text(block: &Block, index: usize) -> Result<String, Bad> {
    let start = at::TEXTS_AT + index * at::TEXT_STRIDE;
    let length = usize::from(block[start]);
    if length > at::NAME_BYTES {
        return Err(Bad::Content);
    }
    let bytes = &block[start + 8..start + 8 + length];
    core::str::from_utf8(bytes).map(ToString::to_string).map_err(|_| Bad::Content)
}

/// What the two places of a label say together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Both copies agree.
    Good(Label),
    /// The label, and the copy that is missing, damaged, older or not meant for its place and should be written again.
    Repair(Label, u8),
    /// No copy is a label: the drive is not ours.
    None,
    /// There is a label, but every copy of it is damaged.
    Damaged,
    /// A copy was written by a newer version of the format.
    Newer(u16),
}

/// Judges the two blocks read from `places()`; a place that could not be read counts as damaged.
pub fn judge(first: Option<&Block>, second: Option<&Block>) -> Found {
    let read = |block: Option<&Block>| block.map_or(Err(Bad::Check), Label::decode);
    let strayed = |block: Option<&Block>, copy| block.is_some_and(|block| block[at::COPY_AT] != copy);
    match (read(first), read(second)) {
        (Err(Bad::Newer(version)), _) | (_, Err(Bad::Newer(version))) => Found::Newer(version),
        (Ok(a), Ok(b)) if a == b && strayed(first, 0) => Found::Repair(a, 0),
        (Ok(a), Ok(b)) if a == b && strayed(second, 1) => Found::Repair(a, 1),
        (Ok(a), Ok(b)) if a == b => Found::Good(a),
        (Ok(a), Ok(b)) if a.drive != b.drive || a.written >= b.written => Found::Repair(a, 1),
        (Ok(_), Ok(b)) => Found::Repair(b, 0),
        (Ok(a), Err(_)) => Found::Repair(a, 1),
        (Err(_), Ok(b)) => Found::Repair(b, 0),
        (Err(Bad::Magic), Err(Bad::Magic)) => Found::None,
        (Err(_), Err(_)) => Found::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        Label {
            pool: Uuid([1; 16]),
            pool_name: "fast".into(),
            drive: Uuid([2; 16]),
            blocks: Blocks::new(65_536),
            extent_blocks: 16_384,
            written: 1,
            node: "n1".into(),
            rack: String::new(),
            zone: "z".into(),
            class: String::new(),
        }
    }

    #[test]
    fn golden() {
        let block = label().encode(0);
        assert_eq!(&block[..12], b"PLNTHDRV\x01\0\0\0");
        assert_eq!(alloc::format!("{:?}", Check::of(&block)), "acbdac80008bb4af0533d1b924307f63");
        assert_eq!(Label::decode(&block), Ok(label()));
    }
    use base::Check;

    #[test]
    fn damage_in_any_byte_is_found() {
        let good = label().encode(1);
        for i in 0..good.len() {
            let mut bad = good;
            bad[i] ^= 0x40;
            assert!(Label::decode(&bad).is_err(), "byte {i}");
            assert_eq!(judge(Some(&bad), Some(&label().encode(1))), Found::Repair(label(), 0));
        }
    }

    #[test]
    fn the_newer_copy_wins() {
        let newer = Label { written: 2, ..label() };
        assert_eq!(judge(Some(&label().encode(0)), Some(&newer.encode(1))), Found::Repair(newer, 0));
    }

    /// A copy that says it is the other one was written to the wrong place: its content counts, its number does not.
    #[test]
    fn a_copy_in_the_wrong_place_is_written_again() {
        let [zero, one] = [label().encode(0), label().encode(1)];
        assert_eq!(judge(Some(&zero), Some(&one)), Found::Good(label()));
        assert_eq!(judge(Some(&one), Some(&one)), Found::Repair(label(), 0));
        assert_eq!(judge(Some(&zero), Some(&zero)), Found::Repair(label(), 1));
        assert_eq!(judge(Some(&one), Some(&zero)), Found::Repair(label(), 0));
    }

    #[test]
    fn an_empty_drive_is_not_ours() {
        assert_eq!(judge(Some(&[0; 4096]), Some(&[0; 4096])), Found::None);
    }

    #[test]
    fn a_drive_of_256_mib_holds_three_extents() {
        assert_eq!(extents(Blocks::new(MIN_DRIVE_BLOCKS), 16_384), 3);
        assert_eq!(places(Blocks::new(MIN_DRIVE_BLOCKS))[1], DriveBlock::new(65_280));
    }
}
