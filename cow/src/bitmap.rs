//! A region's bits: bit `i` is block `region * region_blocks + i`, 1 = used.
//!
//! On the drives a bitmap is one block of little-endian 64-bit words; bits from `region_blocks` on are zero. A
//! bitmap never moves: it has two slots of one block, and a checkpoint writes the one that the durable directory
//! does not name, so that a crash at any instant finds the durable one whole.
use base::{BLOCK_BYTES, Block, codec};

/// Blocks of a region at most: what one block of bits can tell (format).
pub const MAX_REGION_BLOCKS: u32 = (BLOCK_BYTES * 8) as u32;
/// Bits of a word.
pub const WORD_BITS: u32 = 64;
/// Words of a bitmap.
pub const WORDS: usize = (MAX_REGION_BLOCKS / WORD_BITS) as usize;

const _: () = assert!(WORDS * 8 == BLOCK_BYTES);

/// The bits of one region.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: [u64; WORDS],
}

impl Bitmap {
    /// Every block free.
    pub const EMPTY: Self = Self { words: [0; WORDS] };

    /// Takes the bits from a block of a drive.
    pub fn decode(block: &Block) -> Self {
        let mut bitmap = Self::EMPTY;
        for (i, word) in bitmap.words.iter_mut().enumerate() {
            *word = codec::u64_at(block, i * 8);
        }
        bitmap
    }

    /// Writes the bits as a block of a drive.
    pub fn encode(&self, block: &mut Block) {
        for (i, word) in self.words.iter().enumerate() {
            codec::put_u64(block, i * 8, *word);
        }
    }

    /// Word `i`.
    pub fn word(&self, i: usize) -> u64 {
        self.words[i]
    }

    /// Whether the block is used.
    pub fn get(&self, bit: u32) -> bool {
        self.words[(bit / WORD_BITS) as usize] >> (bit % WORD_BITS) & 1 == 1
    }

    /// Marks a block used; whether it was free.
    pub fn set(&mut self, bit: u32) -> bool {
        let word = &mut self.words[(bit / WORD_BITS) as usize];
        let mask = 1 << (bit % WORD_BITS);
        let was_free = *word & mask == 0;
        *word |= mask;
        was_free
    }

    /// Marks a block free; whether it was used.
    pub fn clear(&mut self, bit: u32) -> bool {
        let word = &mut self.words[(bit / WORD_BITS) as usize];
        let mask = 1 << (bit % WORD_BITS);
        let was_used = *word & mask != 0;
        *word &= !mask;
        was_used
    }

    /// Marks a run used; how many of its blocks were free.
    pub fn set_run(&mut self, first: u32, count: u32) -> u32 {
        let mut changed = 0;
        for_words(first, count, |i, mask| {
            changed += (mask & !self.words[i]).count_ones();
            self.words[i] |= mask;
        });
        changed
    }

    /// Marks a run free; how many of its blocks were used.
    pub fn clear_run(&mut self, first: u32, count: u32) -> u32 {
        let mut changed = 0;
        for_words(first, count, |i, mask| {
            changed += (mask & self.words[i]).count_ones();
            self.words[i] &= !mask;
        });
        changed
    }

    /// Used blocks of a run.
    pub fn used_in(&self, first: u32, count: u32) -> u32 {
        let mut used = 0;
        for_words(first, count, |i, mask| used += (mask & self.words[i]).count_ones());
        used
    }

    /// Used blocks.
    pub fn used(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Number of free blocks and length of the longest free run among the first `blocks` bits.
    pub fn summary(&self, blocks: u32) -> Summary {
        let (mut free, mut longest, mut run) = (0, 0, 0);
        for word in &self.words[..(blocks / WORD_BITS) as usize] {
            free += word.count_zeros();
            if *word == 0 {
                run += WORD_BITS;
                continue;
            }
            longest = longest.max(run + word.trailing_zeros()).max(longest_zeros(*word));
            run = word.leading_zeros();
        }
        Summary { free, longest: longest.max(run) }
    }
}

/// What is told about a bitmap without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Free blocks.
    pub free: u32,
    /// Blocks of the longest free run.
    pub longest: u32,
}

/// Length of the longest run of zero bits in a word.
pub(crate) fn longest_zeros(word: u64) -> u32 {
    let mut free = !word;
    let mut longest = 0;
    while free != 0 {
        free >>= free.trailing_zeros();
        let run = free.trailing_ones();
        longest = longest.max(run);
        if run == WORD_BITS {
            break;
        }
        free >>= run;
    }
    longest
}

/// Calls `each` with every word that the run touches and the mask of its bits there.
fn for_words(first: u32, count: u32, mut each: impl FnMut(usize, u64)) {
    let end = first + count;
    assert!(end <= MAX_REGION_BLOCKS, "run outside the region");
    let mut at = first;
    while at < end {
        let low = at % WORD_BITS;
        let bits = (WORD_BITS - low).min(end - at);
        let mask = (u64::MAX >> (WORD_BITS - bits)) << low;
        each((at / WORD_BITS) as usize, mask);
        at += bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_and_summary_equal_a_naive_count(
            runs in prop::collection::vec((0u32..500, 1u32..80, any::<bool>()), 0..40)
        ) {
            let mut bitmap = Bitmap::EMPTY;
            let mut model = [false; 640];
            for (first, count, used) in runs {
                let range = first as usize..(first + count) as usize;
                let before = model[range.clone()].iter().filter(|bit| **bit == used).count();
                let changed =
                    if used { bitmap.set_run(first, count) } else { bitmap.clear_run(first, count) };
                prop_assert_eq!(changed as usize, count as usize - before);
                model[range].fill(used);
                let counted = model[first as usize..].iter().filter(|bit| **bit).count();
                prop_assert_eq!(bitmap.used_in(first, 640 - first) as usize, counted);
            }
            let free = model.iter().filter(|bit| !**bit).count() as u32;
            let longest = model.split(|bit| *bit).map(<[bool]>::len).max().unwrap_or(0) as u32;
            prop_assert_eq!(bitmap.summary(640), Summary { free, longest });
            let mut block = [0xff; BLOCK_BYTES];
            bitmap.encode(&mut block);
            prop_assert!(Bitmap::decode(&block) == bitmap);
        }
    }

    /// Golden bytes: block 0 is the lowest bit of the first byte.
    #[test]
    fn bits_lie_low_first() {
        let mut bitmap = Bitmap::EMPTY;
        assert!(bitmap.set(0) && bitmap.set(9) && bitmap.set(MAX_REGION_BLOCKS - 1));
        assert!(!bitmap.set(9) && bitmap.get(9) && !bitmap.get(8));
        let mut block = [0; BLOCK_BYTES];
        bitmap.encode(&mut block);
        assert_eq!(&block[..3], &[0x01, 0x02, 0x00]);
        assert_eq!(block[BLOCK_BYTES - 1], 0x80);
        assert!(bitmap.clear(9) && !bitmap.clear(9));
    }
}
