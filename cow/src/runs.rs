//! The index of a region's free runs: "the first run of n blocks at or after p" and "the longest run" without
//! scanning.
//!
//! A segment tree over the bitmap's 64-bit words: each node tells the free blocks at its left edge, at its right
//! edge, and in its longest run. A search goes down at most two paths of 9 nodes; a change touches the changed
//! words' leaves and what is above them. Invariant: a node equals the join of its children; leaves equal their
//! words; words past the region's end count as used.
use crate::bitmap::{Bitmap, WORD_BITS, WORDS, longest_zeros};

/// Free blocks of a span of the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Node {
    /// At its left edge.
    prefix: u16,
    /// At its right edge.
    suffix: u16,
    /// In its longest run.
    longest: u16,
}

impl Node {
    fn of(word: u64) -> Self {
        Self {
            prefix: word.trailing_zeros() as u16,
            suffix: word.leading_zeros() as u16,
            longest: longest_zeros(word) as u16,
        }
    }

    /// Two neighbours of `span` blocks each as one.
    fn join(left: Self, right: Self, span: u32) -> Self {
        let span = span as u16;
        Self {
            prefix: if left.prefix == span { span + right.prefix } else { left.prefix },
            suffix: if right.suffix == span { span + left.suffix } else { right.suffix },
            longest: left.longest.max(right.longest).max(left.suffix + right.prefix),
        }
    }
}

/// The index of one region's runs. Node 1 is the root, node `i` has the children `2i` and `2i + 1`, leaf `i` is
/// node `leaves + i`.
#[derive(Clone)]
pub struct Runs {
    nodes: [Node; 2 * WORDS],
    leaves: u32,
    words: u32,
}

const _: () = assert!(WORDS.is_power_of_two());
const _: () = assert!(WORDS as u32 * WORD_BITS <= u16::MAX as u32);

impl Runs {
    /// An index for regions of `blocks` blocks (a multiple of 64), to be built from a bitmap.
    pub fn new(blocks: u32) -> Self {
        let words = blocks / WORD_BITS;
        assert!(blocks.is_multiple_of(WORD_BITS) && (1..=WORDS as u32).contains(&words));
        Self { nodes: [Node::default(); 2 * WORDS], leaves: words.next_power_of_two(), words }
    }

    /// Reads all bits anew.
    pub fn build(&mut self, bits: &Bitmap) {
        self.refresh(bits, 0, self.words * WORD_BITS);
    }

    /// Takes over a change of these bits.
    pub fn refresh(&mut self, bits: &Bitmap, first: u32, count: u32) {
        assert!(count > 0 && first + count <= self.words * WORD_BITS);
        let mut low = (first / WORD_BITS + self.leaves) as usize;
        let mut high = ((first + count - 1) / WORD_BITS + self.leaves) as usize;
        for at in low..=high {
            self.nodes[at] = Node::of(bits.word(at - self.leaves as usize));
        }
        let mut span = WORD_BITS;
        while low > 1 {
            (low, high) = (low / 2, high / 2);
            for at in low..=high {
                self.nodes[at] = Node::join(self.nodes[2 * at], self.nodes[2 * at + 1], span);
            }
            span *= 2;
        }
    }

    /// Blocks of the longest free run.
    pub fn longest(&self) -> u32 {
        u32::from(self.nodes[1].longest)
    }

    /// First block of the first `count` adjacent free blocks at or after `from`.
    pub fn find(&self, bits: &Bitmap, count: u32, from: u32) -> Option<u32> {
        assert!(count > 0);
        if self.longest() < count {
            return None;
        }
        let mut before = 0;
        self.search(bits, Search { count, from }, 1, 0, self.leaves * WORD_BITS, &mut before)
    }

    /// Looks below node `at`, which covers `span` blocks from `first`. `before` is the length of the free run
    /// that ends where the node begins and lies at or after `from`; it is kept up to date on the way right.
    fn search(
        &self,
        bits: &Bitmap,
        wish: Search,
        at: usize,
        first: u32,
        span: u32,
        before: &mut u32,
    ) -> Option<u32> {
        if first + span <= wish.from {
            return None;
        }
        let node = self.nodes[at];
        if first >= wish.from {
            if *before + u32::from(node.prefix) >= wish.count {
                return Some(first - *before);
            }
            if u32::from(node.longest) < wish.count {
                let suffix = u32::from(node.suffix);
                *before = if suffix == span { *before + span } else { suffix };
                return None;
            }
        }
        if span == WORD_BITS {
            let i = at - self.leaves as usize;
            if i >= self.words as usize {
                *before = 0;
                return None;
            }
            return search_word(bits.word(i), wish, first, before);
        }
        let half = span / 2;
        self.search(bits, wish, 2 * at, first, half, before)
            .or_else(|| self.search(bits, wish, 2 * at + 1, first + half, half, before))
    }
}

/// What `find` looks for.
#[derive(Clone, Copy)]
struct Search {
    count: u32,
    from: u32,
}

/// `Runs::search` within one word, whose first block is `first`.
fn search_word(word: u64, wish: Search, first: u32, before: &mut u32) -> Option<u32> {
    let skip = wish.from.saturating_sub(first);
    let used = if skip == 0 { word } else { word | (u64::MAX >> (WORD_BITS - skip)) };
    let mut at = 0;
    while at < WORD_BITS {
        let free = (used >> at).trailing_zeros().min(WORD_BITS - at);
        if *before + free >= wish.count {
            return Some(first + at - *before);
        }
        at += free;
        if at == WORD_BITS {
            *before += free;
            return None;
        }
        at += (used >> at).trailing_ones();
        *before = 0;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bits: &Bitmap, blocks: u32, count: u32, from: u32) -> Option<u32> {
        (from..blocks).find(|at| at + count <= blocks && bits.used_in(*at, count) == 0)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400.max(ProptestConfig::default().cases), ..Default::default() })]
        #[test]
        fn finds_what_a_scan_finds(
            words in 1u32..14,
            changes in prop::collection::vec((any::<bool>(), 0u32..896, 1u32..150), 1..40),
            asks in prop::collection::vec((1u32..300, 0u32..900), 1..30),
        ) {
            let blocks = words * WORD_BITS;
            let mut bits = Bitmap::EMPTY;
            let mut runs = Runs::new(blocks);
            runs.build(&bits);
            for (used, first, count) in changes {
                let first = first % blocks;
                let count = count.min(blocks - first);
                if used { bits.set_run(first, count) } else { bits.clear_run(first, count) };
                runs.refresh(&bits, first, count);
                prop_assert_eq!(runs.longest(), bits.summary(blocks).longest);
            }
            for (count, from) in asks {
                prop_assert_eq!(runs.find(&bits, count, from), naive(&bits, blocks, count, from));
            }
        }
    }

    #[test]
    fn one_run_over_a_whole_region_of_the_largest_size() {
        let bits = Bitmap::EMPTY;
        let mut runs = Runs::new(crate::bitmap::MAX_REGION_BLOCKS);
        runs.build(&bits);
        assert_eq!(runs.longest(), 32768);
        assert_eq!(runs.find(&bits, 32768, 0), Some(0));
        assert_eq!(runs.find(&bits, 32768, 1), None);
        assert_eq!(runs.find(&bits, 32767, 1), Some(1));
    }
}
