//! Lists of blocks that wait for something: for a checkpoint, for its durability, for the last reader.
//!
//! Capacities are fixed at construction; only the marks that recovery makes, before the first request, may grow
//! beyond.
use crate::bitmap::Bitmap;
use alloc::vec;
use alloc::vec::Vec;
use base::{Pba, RegionNo};

/// What a checkpoint changes in the bitmaps, grouped by region: a linked list for each region, in one array. So
/// nothing is ever sorted, and the regions that change are known at every instant.
///
/// An entry is the number of the next one `<<` 32, the block's bit in its region `<<` 1, and 1 if the block is
/// freed. The order within a list means nothing, because "freed wins": a block can be set only while it is taken
/// and unmapped, and once cleared it stays taken until the checkpoint is durable, so no set can follow a clear
/// within a checkpoint. A block that is set and cleared ends as not mapped.
pub(crate) struct Changes {
    entries: Vec<u64>,
    /// First entry of each region.
    heads: Vec<u32>,
    /// Regions with entries, in the order of their first.
    regions: Vec<RegionNo>,
    /// Entries that free.
    clears: usize,
}

const NONE: u32 = u32::MAX;

/// One change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// The block, counted from its region's first.
    pub bit: u32,
    /// Freed rather than mapped.
    pub clear: bool,
}

impl Changes {
    /// A list of at most `capacity` changes in this many regions.
    pub fn new(capacity: usize, regions: u32) -> Self {
        assert!(capacity < NONE as usize);
        Self {
            entries: Vec::with_capacity(capacity),
            heads: vec![NONE; regions as usize],
            regions: Vec::with_capacity(regions as usize),
            clears: 0,
        }
    }

    /// Room for this many changes, in this many regions.
    pub fn make_room(&mut self, capacity: usize, regions: u32) {
        assert!(capacity < NONE as usize);
        self.entries.reserve_exact(capacity.saturating_sub(self.entries.len()));
        self.heads.resize(self.heads.len().max(regions as usize), NONE);
        self.regions.reserve_exact((regions as usize).saturating_sub(self.regions.len()));
    }

    /// Entries that still fit.
    pub fn room(&self) -> usize {
        self.entries.capacity() - self.entries.len()
    }

    /// Appends a change. Panics when there is no room: limits of the delta keep it from happening.
    pub fn push(&mut self, region: RegionNo, change: Change) {
        assert!(self.room() > 0, "the change list of the checkpoint is full");
        let head = &mut self.heads[region.get() as usize];
        if *head == NONE {
            self.regions.push(region);
        }
        self.clears += usize::from(change.clear);
        let next = core::mem::replace(head, self.entries.len() as u32);
        let change = u64::from(change.bit) << 1 | u64::from(change.clear);
        self.entries.push(u64::from(next) << 32 | change);
    }

    /// The regions that change, in the order of their first change.
    pub fn regions(&self) -> &[RegionNo] {
        &self.regions
    }

    /// The changes of a region.
    pub fn of(&self, region: RegionNo) -> impl Iterator<Item = Change> {
        let mut at = self.heads[region.get() as usize];
        core::iter::from_fn(move || {
            let entry = *self.entries.get(at as usize)?;
            at = (entry >> 32) as u32;
            Some(Change { bit: entry as u32 >> 1, clear: entry & 1 == 1 })
        })
    }

    /// The bits that a region's changes free.
    pub fn cleared(&self, region: RegionNo) -> Bitmap {
        let mut bits = Bitmap::EMPTY;
        for change in self.of(region).filter(|change| change.clear) {
            bits.set(change.bit);
        }
        bits
    }

    /// Number of entries that free.
    pub fn clears(&self) -> usize {
        self.clears
    }

    /// Takes away the changes of the region that was touched last, which are done with: how many they were.
    pub fn pop(&mut self) -> usize {
        let Some(region) = self.regions.pop() else { return 0 };
        let count = self.of(region).count();
        self.clears -= self.of(region).filter(|change| change.clear).count();
        self.heads[region.get() as usize] = NONE;
        if self.regions.is_empty() {
            assert_eq!(self.clears, 0);
            self.entries.clear();
        }
        count
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        while let Some(region) = self.regions.pop() {
            self.heads[region.get() as usize] = NONE;
        }
        self.entries.clear();
        self.clears = 0;
    }
}

/// Blocks in regions that are not in memory that are taken, though no bitmap says so yet: recovery found them in
/// records above the checkpoint, or their region was dropped from memory while they waited for a checkpoint.
///
/// A mark lives until its region is loaded (then a bit of `alloc` stands for it), until a durable checkpoint has
/// mapped or freed its block, or until the block is given back. An entry is `pba * 2`, plus 1 when dead.
pub(crate) struct Marks {
    entries: Vec<u64>,
    live: usize,
    sorted: bool,
}

impl Marks {
    /// No marks, room for this many before memory grows.
    pub fn new(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity), live: 0, sorted: true }
    }

    /// Room for this many before memory grows.
    pub fn make_room(&mut self, capacity: usize) {
        self.entries.reserve_exact(capacity.saturating_sub(self.entries.len()));
    }

    /// Adds a block; the same one may come several times.
    pub fn push(&mut self, pba: Pba) {
        self.entries.push(pba.get() * 2);
        self.sorted = false;
    }

    /// Sorts; returns how many blocks are marked now and were not before.
    pub fn settle(&mut self) -> usize {
        if self.sorted {
            return 0;
        }
        self.entries.sort_unstable();
        self.entries.dedup();
        self.sorted = true;
        let before = self.live;
        self.live = self.entries.iter().filter(|entry| *entry % 2 == 0).count();
        self.live - before
    }

    /// Whether `replace` may add so many: beside those that are alive.
    ///
    /// Crash story: the dead ones counted too, and they went only when nothing was alive, which never is while writes
    /// flow. A large group that was nearly full and in pieces wrote until they filled the list: no region could be
    /// dropped from memory for the next one then, no write nor page of a checkpoint found a block of the many that were
    /// free, and only a restart helped.
    pub fn has_room(&self, count: usize) -> bool {
        self.live + self.unsettled() + count <= self.entries.capacity()
    }

    /// Replaces what is dead in `first .. end` by live marks, which come in order. Nothing there may be live.
    /// Moves what lies behind: tens of microseconds for a hundred thousand marks. When the list is full the dead ones
    /// everywhere go: milliseconds, and seldom, for those alive are less than half of what fits.
    pub fn replace(&mut self, first: Pba, end: Pba, count: usize, marks: impl Iterator<Item = Pba>) {
        assert!(self.sorted && self.has_room(count));
        if self.entries.len() + count > self.entries.capacity() {
            self.entries.retain(|entry| entry % 2 == 0);
        }
        let low = self.entries.partition_point(|entry| entry / 2 < first.get());
        let high = self.entries.partition_point(|entry| entry / 2 < end.get());
        assert!(self.entries[low..high].iter().all(|entry| entry % 2 == 1), "a region is dropped twice");
        let len = self.entries.len();
        let to = low + count;
        self.entries.resize(len.max(to + len - high), 0);
        self.entries.copy_within(high..len, to);
        self.entries.truncate(to + len - high);
        let mut filled = 0;
        for pba in marks {
            self.entries[low + filled] = pba.get() * 2;
            filled += 1;
        }
        assert_eq!(filled, count);
        self.live += count;
    }

    /// Marks that `settle` has not looked at.
    pub fn unsettled(&self) -> usize {
        if self.sorted { 0 } else { self.entries.len() - self.live }
    }

    /// Ends the mark of a block, if it has a live one.
    pub fn kill(&mut self, pba: Pba) -> bool {
        if self.live == 0 {
            return false;
        }
        assert!(self.sorted);
        let Ok(at) = self.entries.binary_search(&(pba.get() * 2)) else { return false };
        self.entries[at] += 1;
        self.live -= 1;
        if self.live == 0 {
            self.entries.clear();
        }
        true
    }

    /// Whether a block has a live mark.
    pub fn has(&self, pba: Pba) -> bool {
        assert!(self.sorted);
        self.entries.binary_search(&(pba.get() * 2)).is_ok()
    }

    /// Live marks with `first <= pba < end`.
    pub fn range(&self, first: Pba, end: Pba) -> impl Iterator<Item = Pba> {
        assert!(self.sorted);
        let low = self.entries.partition_point(|entry| entry / 2 < first.get());
        let high = self.entries.partition_point(|entry| entry / 2 < end.get());
        self.entries[low..high].iter().filter(|entry| *entry % 2 == 0).map(|entry| Pba::new(entry / 2))
    }

    /// Ends all marks with `first <= pba < end`.
    pub fn kill_range(&mut self, first: Pba, end: Pba) {
        assert!(self.sorted);
        let low = self.entries.partition_point(|entry| entry / 2 < first.get());
        let high = self.entries.partition_point(|entry| entry / 2 < end.get());
        for entry in &mut self.entries[low..high] {
            self.live -= usize::from(*entry % 2 == 0);
            *entry |= 1;
        }
        if self.live == 0 {
            self.entries.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Blocks;

    #[test]
    fn changes_are_grouped_by_region() {
        let mut changes = Changes::new(5, 9);
        let change = |bit, clear| Change { bit, clear };
        let region = RegionNo::new;
        for (at, bit, clear) in [(7, 3, true), (2, 3, false), (7, 3, false), (7, 32767, true)] {
            changes.push(region(at), change(bit, clear));
        }
        assert_eq!((changes.room(), changes.clears()), (1, 2));
        assert_eq!(changes.regions(), [region(7), region(2)]);
        let seven: Vec<Change> = changes.of(region(7)).collect();
        assert_eq!(seven, [change(32767, true), change(3, false), change(3, true)]);
        assert_eq!(changes.of(region(0)).count(), 0);
        let cleared = changes.cleared(region(7));
        assert!(cleared.used() == 2 && cleared.get(3) && cleared.get(32767));
        assert_eq!((changes.pop(), changes.pop(), changes.pop(), changes.room()), (1, 3, 0, 5));
        changes.push(region(2), change(1, true));
        changes.reset();
        assert_eq!((changes.of(region(2)).count(), changes.clears()), (0, 0));
    }

    #[test]
    fn marks_die_once() {
        let mut marks = Marks::new(9);
        for pba in [5, 2, 5, 9] {
            marks.push(Pba::new(pba));
        }
        assert_eq!((marks.unsettled(), marks.settle(), marks.unsettled()), (4, 3, 0));
        assert!(marks.has(Pba::new(5)) && !marks.has(Pba::new(6)));
        assert!(marks.kill(Pba::new(5)) && !marks.kill(Pba::new(5)) && !marks.kill(Pba::new(6)));
        assert_eq!(marks.range(Pba::ZERO, Pba::new(9)).collect::<Vec<_>>(), [Pba::new(2)]);
        for spilled in [&[4, 5, 6][..], &[], &[7]] {
            marks.kill_range(Pba::new(4), Pba::new(8));
            assert!(marks.has_room(spilled.len()));
            let it = spilled.iter().map(|pba| Pba::new(*pba));
            marks.replace(Pba::new(4), Pba::new(8), spilled.len(), it);
            let all: Vec<u64> = marks.range(Pba::ZERO, Pba::new(10)).map(Pba::get).collect();
            assert_eq!(all, [&[2], spilled, &[9]].concat());
        }
        marks.kill_range(Pba::ZERO, Pba::new(10));
        assert!(!marks.kill(Pba::new(9)));
    }

    /// One mark lives on while others come and go, each somewhere else.
    #[test]
    fn dead_marks_take_no_room() {
        let mut marks = Marks::new(8);
        let capacity = marks.entries.capacity();
        marks.replace(Pba::ZERO, Pba::new(10), 1, core::iter::once(Pba::new(3)));
        for first in (10..1000).step_by(10).map(Pba::new) {
            assert!(marks.has_room(5) && !marks.has_room(capacity));
            marks.replace(first, first + Blocks::new(10), 5, (0..5).map(|i| first + Blocks::new(i)));
            assert!(marks.has(first) && marks.has(Pba::new(3)));
            marks.kill_range(first, first + Blocks::new(10));
        }
        assert_eq!(marks.entries.capacity(), capacity, "the list has grown");
    }
}
