//! A region whose bitmap is in memory.
//!
//! Two bitmaps tell its story. `view` is the durable checkpoint's: exactly the blocks that its trees refer to,
//! and the fixed ones. `alloc` is what must not be handed out: `view`, plus what was taken since, plus what a
//! checkpoint freed but somebody may still read. Invariants: `view` is a subset of `alloc`; `pending` counts the
//! bits where they differ. A region can be dropped from memory if somebody remembers those, and read again.
use crate::bitmap::{Bitmap, WORD_BITS};
use crate::runs::Runs;

/// A loaded region.
#[derive(Clone)]
pub struct Region {
    blocks: u32,
    alloc: Bitmap,
    view: Bitmap,
    runs: Runs,
    free: u32,
    pending: u32,
}

impl Region {
    /// An empty frame for regions of `blocks` blocks.
    pub fn new(blocks: u32) -> Self {
        let mut runs = Runs::new(blocks);
        runs.build(&Bitmap::EMPTY);
        Self { blocks, alloc: Bitmap::EMPTY, view: Bitmap::EMPTY, runs, free: blocks, pending: 0 }
    }

    /// Becomes the region with this durable bitmap; `taken` names further blocks that must not be handed out.
    /// False if one of them is used in the bitmap already.
    pub fn load(&mut self, view: &Bitmap, taken: impl Iterator<Item = u32>) -> bool {
        self.view.clone_from(view);
        self.alloc.clone_from(view);
        self.pending = 0;
        let mut fresh = true;
        for bit in taken {
            let set = self.alloc.set(bit);
            self.pending += u32::from(set);
            fresh &= set;
        }
        self.free = self.blocks - self.alloc.used();
        self.runs.build(&self.alloc);
        fresh
    }

    /// The durable checkpoint's bits.
    pub fn view(&self) -> &Bitmap {
        &self.view
    }

    /// What must not be handed out.
    pub fn alloc(&self) -> &Bitmap {
        &self.alloc
    }

    /// Blocks that can be handed out.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Blocks that can be handed out in one run.
    pub fn longest(&self) -> u32 {
        self.runs.longest()
    }

    /// Number of blocks that must not be handed out though the durable checkpoint does not refer to them.
    pub fn pending(&self) -> u32 {
        self.pending
    }

    /// Those blocks, in order.
    pub fn pending_bits(&self) -> impl Iterator<Item = u32> {
        let words = self.blocks / WORD_BITS;
        (0..words).flat_map(|i| {
            let mut word = self.alloc.word(i as usize) & !self.view.word(i as usize);
            core::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(i * WORD_BITS + bit)
            })
        })
    }

    /// First of `count` adjacent free blocks at or after `from`.
    pub fn find(&self, count: u32, from: u32) -> Option<u32> {
        self.runs.find(&self.alloc, count, from)
    }

    /// Hands out a run, which must be free.
    pub fn take(&mut self, first: u32, count: u32) {
        assert_eq!(self.alloc.set_run(first, count), count, "a block is handed out twice");
        self.free -= count;
        self.pending += count;
        self.runs.refresh(&self.alloc, first, count);
    }

    /// Whether all of a run is taken and no checkpoint refers to any of it.
    pub fn is_taken(&self, first: u32, count: u32) -> bool {
        self.view.used_in(first, count) == 0 && self.alloc.used_in(first, count) == count
    }

    /// Takes back a run that no checkpoint refers to.
    pub fn give_back(&mut self, first: u32, count: u32) {
        assert_eq!(self.view.used_in(first, count), 0, "a mapped block is given back");
        assert_eq!(self.alloc.clear_run(first, count), count, "a free block is given back");
        self.free += count;
        self.pending -= count;
        self.runs.refresh(&self.alloc, first, count);
    }

    /// The durable checkpoint refers to this block from now on. It was taken before.
    pub fn map(&mut self, bit: u32) {
        assert!(self.alloc.get(bit), "a checkpoint maps a block that was not taken");
        assert!(self.view.set(bit), "a block is mapped twice");
        self.pending -= 1;
    }

    /// The durable checkpoint does not refer to this block any more (or never did). It stays taken.
    pub fn unmap(&mut self, bit: u32) {
        assert!(self.alloc.get(bit), "a checkpoint frees a block that was not taken");
        self.pending += u32::from(self.view.clear(bit));
    }

    /// Makes a block that the durable checkpoint does not refer to free. Between the first `free_bit` and
    /// `freed` the index of runs is behind.
    pub fn free_bit(&mut self, bit: u32) {
        assert!(!self.view.get(bit), "a mapped block is freed");
        assert!(self.alloc.clear(bit), "a block is freed twice");
        self.free += 1;
        self.pending -= 1;
    }

    /// Ends a row of `free_bit` calls on bits from `first` to `last`.
    pub fn freed(&mut self, first: u32, last: u32) {
        self.runs.refresh(&self.alloc, first, last - first + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_lives_from_take_to_free() {
        let mut region = Region::new(128);
        let mut view = Bitmap::EMPTY;
        view.set_run(0, 3);
        assert!(region.load(&view, [5, 6].into_iter()));
        assert!(!region.is_taken(2, 4) && region.is_taken(5, 2) && !region.is_taken(6, 2));
        assert!(!region.load(&view, [2, 5].into_iter()), "a block is mapped and taken");
        assert!(region.load(&view, [5, 6].into_iter()));
        assert_eq!((region.free(), region.longest(), region.pending()), (123, 121, 2));
        assert_eq!(region.find(1, 0), Some(3));
        region.take(7, 2);
        region.give_back(8, 1);
        assert!(region.pending_bits().eq([5, 6, 7]));
        for bit in [5, 7] {
            region.map(bit);
        }
        region.unmap(6);
        region.free_bit(6);
        region.freed(6, 6);
        assert_eq!(region.pending(), 0);
        assert_eq!(region.free(), 123);
        region.unmap(7);
        assert!(region.pending() == 1 && region.alloc().get(7) && !region.view().get(7));
    }

    #[test]
    #[should_panic(expected = "handed out twice")]
    fn a_used_block_is_never_handed_out() {
        let mut region = Region::new(64);
        region.take(3, 2);
        region.take(4, 1);
    }
}
