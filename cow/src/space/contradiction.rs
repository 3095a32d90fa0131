//! Free space and the map contradict each other.
//!
//! Both have right checks then, so no drive did it: somebody forged one of them, or an error of ours made it so. It is
//! noticed where a checkpoint is about to believe it: a block that is mapped twice, or freed twice, or mapped though a
//! record names it as taken. From then on nothing is handed out, because a block that is in use might be, and the
//! checkpoint under way is not finished: what is durable stays as it is, and whoever owns the space stops writing.
use super::Space;
use crate::bitmap::Bitmap;
use base::{Blocks, Pba, RegionNo};
use core::fmt;

/// What contradicts what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contradiction {
    /// Records above the checkpoint name more blocks than are free.
    TooManyTaken,
    /// A record above the checkpoint names a block of this region that the checkpoint maps.
    TakenAndMapped(RegionNo),
    /// The new map refers to a block that the old one referred to already, or that nobody took.
    MappedUntaken(Pba),
    /// A block is no longer referred to that nothing referred to, or twice.
    FreedUntaken(Pba),
    /// A region's bitmap is not the one that its entry describes.
    Bitmap(RegionNo),
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyTaken => write!(f, "the log names more blocks than are free"),
            Self::TakenAndMapped(region) => {
                write!(f, "the log names blocks of region {region} that the map refers to")
            }
            Self::MappedUntaken(pba) => write!(f, "block {pba} would be mapped and is not free to be"),
            Self::FreedUntaken(pba) => write!(f, "block {pba} would be freed and is not used, or twice"),
            Self::Bitmap(region) => write!(f, "the bitmap of region {region} is not as its entry says"),
        }
    }
}

impl Space {
    /// What contradicts what, if anything does: nothing can be taken any more.
    pub fn contradiction(&self) -> Option<Contradiction> {
        self.contradiction
    }

    pub(super) fn contradict(&mut self, what: Contradiction) {
        self.contradiction.get_or_insert(what);
    }

    /// Whether the running checkpoint's changes to a region fit its durable bits: each block that it maps is taken
    /// and not mapped, each that it frees is mapped or taken, and none is mapped or freed twice.
    pub(super) fn changes_fit(&mut self, region: RegionNo, durable: &Bitmap) -> Result<(), Contradiction> {
        self.settle_marks();
        let (first, _) = self.bounds(region);
        let (mut set, mut cleared) = (Bitmap::EMPTY, Bitmap::EMPTY);
        for change in self.changes.of(region) {
            let (bit, pba) = (change.bit, first + Blocks::new(u64::from(change.bit)));
            let mapped = durable.get(bit);
            if change.clear && !(cleared.set(bit) && (mapped || self.is_taken(region, bit))) {
                return Err(Contradiction::FreedUntaken(pba));
            }
            if !change.clear && (mapped || !set.set(bit) || !self.is_taken(region, bit)) {
                return Err(Contradiction::MappedUntaken(pba));
            }
        }
        Ok(())
    }

    /// Whether a block is taken and the durable checkpoint does not refer to it.
    fn is_taken(&self, region: RegionNo, bit: u32) -> bool {
        match self.frame_of(region) {
            Some(frame) => self.frames[frame as usize].is_taken(bit, 1),
            None => self.marks.has(self.bounds(region).0 + Blocks::new(u64::from(bit))),
        }
    }
}
