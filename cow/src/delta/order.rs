//! The order of a layer's points, made in bounded steps.
//!
//! Sorting 256 Ki keys at once takes 4 to 11 ms (measured, shared cores), in which the engine would serve no
//! request. So it is a merge sort whose state is kept between calls: runs of `SORT_CHUNK` keys, then passes
//! that merge pairs of runs from one buffer into the other, `SORT_CHUNK` keys per call.
use super::{Entry, KEY_INDEX_BITS, MAX_DELTA_ENTRIES};
use crate::layout::PAGE_REFS;
use alloc::vec::Vec;
use base::Lba;
use core::mem::swap;

/// Keys that one step sorts or merges: about 0.1 ms.
pub(super) const SORT_CHUNK: usize = 8192;

/// Where the sort stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not begun, or void because something was put.
    Unsorted,
    /// `keys` holds sorted runs of `SORT_CHUNK` of the first entries.
    Runs,
    /// Runs of `width` keys are merged in pairs from `keys` into `spare`. The pair under way begins at `pair`;
    /// `left` and `right` are the next keys of its runs.
    Merging {
        width: usize,
        pair: usize,
        left: usize,
        right: usize,
    },
    Sorted,
}

/// The sort keys of a layer's entries: Lba and index in one number.
pub(super) struct Order {
    keys: Vec<u64>,
    spare: Vec<u64>,
    phase: Phase,
}

impl Order {
    /// For at most so many entries.
    pub fn new(entries: usize) -> Self {
        let (keys, spare) = (Vec::with_capacity(entries), Vec::with_capacity(entries));
        Self { keys, spare, phase: Phase::Unsorted }
    }

    /// The entries changed.
    pub fn invalidate(&mut self) {
        self.phase = Phase::Unsorted;
    }

    pub fn is_sorted(&self) -> bool {
        self.phase == Phase::Sorted
    }

    /// Goes on by `SORT_CHUNK` keys; whether the keys are in order.
    pub fn sort_step(&mut self, entries: &[Entry]) -> bool {
        match self.phase {
            Phase::Sorted => {}
            Phase::Unsorted => {
                self.keys.clear();
                self.phase = Phase::Runs;
                self.add_run(entries);
            }
            Phase::Runs => self.add_run(entries),
            Phase::Merging { .. } => self.merge_some(),
        }
        self.is_sorted()
    }

    fn add_run(&mut self, entries: &[Entry]) {
        let from = self.keys.len();
        let next = entries.iter().enumerate().skip(from).take(SORT_CHUNK);
        self.keys.extend(next.map(|(i, entry)| entry.lba.get() << KEY_INDEX_BITS | i as u64));
        self.keys[from..].sort_unstable();
        if self.keys.len() == entries.len() {
            self.begin_pass(SORT_CHUNK);
        }
    }

    fn begin_pass(&mut self, width: usize) {
        self.spare.clear();
        self.phase = match width < self.keys.len() {
            true => Phase::Merging { width, pair: 0, left: 0, right: width },
            false => Phase::Sorted,
        };
    }

    fn merge_some(&mut self) {
        let Phase::Merging { width, mut pair, mut left, mut right } = self.phase else { unreachable!() };
        let len = self.keys.len();
        let stop = len.min(self.spare.len() + SORT_CHUNK);
        while self.spare.len() < stop {
            let (middle, end) = (len.min(pair + width), len.min(pair + 2 * width));
            // No branch on the comparison, which no processor can predict: half the time.
            while left < middle && right < end && self.spare.len() < stop {
                let (a, b) = (self.keys[left], self.keys[right]);
                self.spare.push(a.min(b));
                left += usize::from(a < b);
                right += usize::from(a >= b);
            }
            let room = stop - self.spare.len();
            let rest =
                if left < middle { left..middle.min(left + room) } else { right..end.min(right + room) };
            if left == middle || right == end {
                self.spare.extend_from_slice(&self.keys[rest.clone()]);
                if left < middle { left = rest.end } else { right = rest.end }
            }
            if left == middle && right == end {
                (pair, left, right) = (end, end, len.min(end + width));
            }
        }
        self.phase = Phase::Merging { width, pair, left, right };
        if self.spare.len() == len {
            swap(&mut self.keys, &mut self.spare);
            self.begin_pass(2 * width);
        }
    }

    /// The Lba of the `i`th point and its index among the entries.
    pub fn get(&self, i: usize) -> Option<(Lba, usize)> {
        let key = self.keys.get(i)?;
        Some((Lba::new(key >> KEY_INDEX_BITS), (key & (MAX_DELTA_ENTRIES as u64 - 1)) as usize))
    }

    /// The first point at or after the `i`th that does not lie below `lba`, at most one leaf's points away.
    pub fn first_from(&self, i: usize, lba: Lba) -> usize {
        let end = self.keys.len().min(i + PAGE_REFS);
        i + self.keys[i..end].partition_point(|key| key >> KEY_INDEX_BITS < lba.get())
    }
}
