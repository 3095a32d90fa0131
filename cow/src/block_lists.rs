//! Lists of blocks that wait for something: for a checkpoint, for its durability, for the last reader.
//!
//! Capacities are fixed at construction; only the marks that recovery makes, before the first request, may grow
//! beyond.
use alloc::vec::Vec;
use base::Pba;

/// What a checkpoint changes in the bitmaps.
///
/// An entry is `pba * 2`, plus 1 when the block is freed, so that after sorting a block's `set` comes before its
/// `clear`. That order is the right one whatever the order of the calls was: a block can be set only while it is
/// taken and unmapped, and once cleared it stays taken until the checkpoint is durable, so that no second set
/// can follow within the same checkpoint. A block that is set and cleared ends as not mapped.
pub(crate) struct Changes {
    entries: Vec<u64>,
    sorted: bool,
}

/// One entry of `Changes`, with a set that a clear of the same checkpoint undoes left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// The block.
    pub pba: Pba,
    /// Freed rather than mapped.
    pub clear: bool,
}

impl Changes {
    /// A list of at most this many entries.
    pub fn new(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity), sorted: true }
    }

    /// Entries that still fit.
    pub fn room(&self) -> usize {
        self.entries.capacity() - self.entries.len()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Appends an entry. Panics when there is no room: limits of the delta keep it from happening.
    pub fn push(&mut self, pba: Pba, clear: bool) {
        assert!(self.room() > 0, "the change list of the checkpoint is full");
        self.entries.push(pba.get() * 2 + u64::from(clear));
        self.sorted = false;
    }

    /// Sorts. About 12 ms for a million entries (benches), once per checkpoint.
    pub fn sort(&mut self) {
        if !self.sorted {
            self.entries.sort_unstable();
            self.sorted = true;
            assert!(self.entries.windows(2).all(|w| w[0] != w[1]), "a block changes twice in one checkpoint");
        }
    }

    /// The blocks in the order of calls, from entry `from` on.
    pub fn raw(&self, from: usize) -> impl Iterator<Item = Pba> {
        self.entries[from..].iter().map(|entry| Pba::new(entry / 2))
    }

    /// Entries with `first <= pba < end`, sorted.
    pub fn range(&self, first: Pba, end: Pba) -> impl Iterator<Item = Change> {
        assert!(self.sorted);
        let low = self.entries.partition_point(|entry| entry / 2 < first.get());
        let high = self.entries.partition_point(|entry| entry / 2 < end.get());
        let entries = &self.entries[low..high];
        entries.iter().enumerate().filter_map(|(i, entry)| {
            let undone = entry % 2 == 0 && entries.get(i + 1) == Some(&(entry + 1));
            (!undone).then(|| Change { pba: Pba::new(entry / 2), clear: entry % 2 == 1 })
        })
    }

    /// Number of entries with `first <= pba < end`, those that are left out above included.
    pub fn count(&self, first: Pba, end: Pba) -> usize {
        assert!(self.sorted);
        self.entries.partition_point(|entry| entry / 2 < end.get())
            - self.entries.partition_point(|entry| entry / 2 < first.get())
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.entries.clear();
        self.sorted = true;
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

    /// Whether `replace` may add so many.
    pub fn has_room(&self, count: usize) -> bool {
        self.entries.len() + count <= self.entries.capacity()
    }

    /// Replaces what is dead in `first .. end` by live marks, which come in order. Nothing there may be live.
    /// Moves what lies behind: tens of microseconds for a hundred thousand marks.
    pub fn replace(&mut self, first: Pba, end: Pba, count: usize, marks: impl Iterator<Item = Pba>) {
        assert!(self.sorted && self.has_room(count));
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

/// Blocks that the durable checkpoint does not refer to any more but somebody may still read.
pub(crate) struct Limbo {
    blocks: Vec<Pba>,
    sorted: bool,
}

impl Limbo {
    /// An empty limbo for this many blocks.
    pub fn new(capacity: usize) -> Self {
        Self { blocks: Vec::with_capacity(capacity), sorted: true }
    }

    /// Blocks in it.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Adds a block.
    pub fn push(&mut self, pba: Pba) {
        assert!(self.blocks.len() < self.blocks.capacity(), "limbo must be released between checkpoints");
        self.sorted = self.sorted && self.blocks.last().is_none_or(|last| *last < pba);
        self.blocks.push(pba);
    }

    /// Sorts what was added.
    pub fn settle(&mut self) {
        if !self.sorted {
            self.blocks.sort_unstable();
            self.sorted = true;
        }
        assert!(self.blocks.windows(2).all(|w| w[0] < w[1]), "a block is freed twice");
    }

    /// Blocks in `first .. end`.
    pub fn range(&self, first: Pba, end: Pba) -> &[Pba] {
        assert!(self.sorted);
        let low = self.blocks.partition_point(|pba| *pba < first);
        let high = self.blocks.partition_point(|pba| *pba < end);
        &self.blocks[low..high]
    }

    /// The blocks, sorted.
    pub fn blocks(&self) -> &[Pba] {
        &self.blocks
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.blocks.clear();
        self.sorted = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_set_and_cleared_in_either_order_ends_cleared() {
        let mut changes = Changes::new(8);
        let pba = Pba::new(7);
        changes.push(pba, true);
        changes.push(Pba::new(3), false);
        changes.push(pba, false);
        changes.sort();
        let left: Vec<Change> = changes.range(Pba::ZERO, Pba::new(9)).collect();
        assert_eq!(left, [Change { pba: Pba::new(3), clear: false }, Change { pba, clear: true }]);
        assert_eq!(changes.range(Pba::new(4), Pba::new(7)).count(), 0);
    }

    #[test]
    #[should_panic(expected = "changes twice")]
    fn a_block_freed_twice_is_a_bug() {
        let mut changes = Changes::new(8);
        changes.push(Pba::new(7), true);
        changes.push(Pba::new(7), true);
        changes.sort();
    }

    #[test]
    fn marks_die_once() {
        let mut marks = Marks::new(9);
        for pba in [5, 2, 5, 9] {
            marks.push(Pba::new(pba));
        }
        assert_eq!((marks.unsettled(), marks.settle(), marks.unsettled()), (4, 3, 0));
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
}
