//! The memory of an engine in a world: new and zeroed at each opening, without the price of that.
//!
//! An engine owns some megabytes and is opened some fifteen times per run, mostly to touch a few hundred blocks of
//! them. Making that memory anew took two fifths of the time of a campaign. So each thread keeps what its worlds
//! have left: the blocks that were written are noted, and those alone are zeroed before the memory is used again.
//! Nobody can tell it from new memory: what a crash took is gone.
use base::{BLOCK_BYTES, BufId, Memory};
use std::cell::RefCell;

/// How many memories a thread keeps: a run has its own world, and a copy beside it at times.
const KEPT: usize = 3;

thread_local! {
    /// Memories that nobody uses, all zero over their whole length.
    static KEEP: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Zeroed blocks that know which of them were written.
pub struct Buffers {
    bytes: Vec<u8>,
    /// How many blocks there are; `bytes` may be longer.
    count: u32,
    /// One bit for each block that may not be zero.
    written: Vec<u64>,
}

impl Buffers {
    /// `count` zeroed blocks.
    pub fn new(count: u32) -> Self {
        let mut bytes = KEEP.with_borrow_mut(Vec::pop).unwrap_or_default();
        let length = count as usize * BLOCK_BYTES;
        if bytes.len() < length {
            bytes = vec![0; length];
        }
        Self { bytes, count, written: vec![0; count.div_ceil(u64::BITS) as usize] }
    }

    fn range(&self, first: BufId, count: u32) -> std::ops::Range<usize> {
        let end = first.get().checked_add(count).expect("a block's number");
        assert!(end <= self.count, "blocks {} to {end} of {}", first.get(), self.count);
        first.get() as usize * BLOCK_BYTES..end as usize * BLOCK_BYTES
    }

    fn note(&mut self, first: BufId, count: u32) {
        for block in first.get()..first.get() + count {
            self.written[(block / u64::BITS) as usize] |= 1 << (block % u64::BITS);
        }
    }
}

impl Memory for Buffers {
    fn blocks(&self, first: BufId, count: u32) -> &[u8] {
        &self.bytes[self.range(first, count)]
    }

    fn blocks_mut(&mut self, first: BufId, count: u32) -> &mut [u8] {
        let range = self.range(first, count);
        self.note(first, count);
        &mut self.bytes[range]
    }

    fn copy_block(&mut self, from: BufId, to: BufId) {
        let (from, into) = (self.range(from, 1), self.range(to, 1));
        self.note(to, 1);
        self.bytes.copy_within(from, into.start);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for (i, word) in self.written.iter().enumerate() {
            let mut left = *word;
            while left != 0 {
                let block = i * u64::BITS as usize + left.trailing_zeros() as usize;
                self.bytes[block * BLOCK_BYTES..][..BLOCK_BYTES].fill(0);
                left &= left - 1;
            }
        }
        let bytes = std::mem::take(&mut self.bytes);
        // At the end of a thread there is nobody left to keep it.
        let _ = KEEP.try_with(|keep| {
            let mut keep = keep.borrow_mut();
            if keep.len() < KEPT {
                keep.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_used_comes_back_as_new() {
        let mut first = Buffers::new(130);
        first.blocks_mut(BufId::new(0), 130).fill(7);
        first.copy_block(BufId::new(1), BufId::new(129));
        drop(first);
        let mut second = Buffers::new(100);
        assert!(second.blocks(BufId::new(0), 100).iter().all(|byte| *byte == 0));
        second.block_mut(BufId::new(64))[3] = 1;
        drop(second);
        let third = Buffers::new(130);
        assert!(third.blocks(BufId::new(0), 130).iter().all(|byte| *byte == 0));
    }

    #[test]
    #[should_panic(expected = "of 100")]
    fn a_block_outside_is_refused_though_the_memory_was_longer_once() {
        drop(Buffers::new(130));
        let _ = Buffers::new(100).block(BufId::new(100));
    }
}
