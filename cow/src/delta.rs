//! One layer of the delta: the Refs that are newer than a checkpoint, in memory of fixed size.
//!
//! The delta is exactly what the log holds after the checkpoint: a write enters it when its commit is complete
//! on every current leg, and recovery fills it again from the ring. It is lost with the process and costs
//! nothing but replay. Invariants:
//! - the Seq of an entry is larger than that of what it replaces; a look-up answers with the newest;
//! - nothing is forgotten: a block that an entry named and a newer entry replaced stays listed (`replaced`)
//!   until the merge reports it, for it was never in any map and no one else would free it. It must not be
//!   freed before: until the checkpoint is durable, a replay of the log names it again;
//! - no allocation after `new`: whoever puts asks for room first, and a full layer forces a checkpoint.
//!
//! Points (single blocks) lie in a hash table, long holes in a sorted list of disjoint ranges: a newer range
//! trims or splits the older ones under it, which it hides anyway. Points are not searched when a range comes
//! over them (a discard of everything would visit them all); the merge reports them as it passes.
use crate::layout::REF_FLAG_BITS;
use crate::refs::Ref;
use crate::tree::Height;
use alloc::vec;
use alloc::vec::Vec;
use base::{Blocks, Check, Lba, Pba, Seq};
use core::mem::size_of;

mod order;
use order::Order;

/// Holes of at most this many blocks become points.
///
/// A point costs 67 to 75 bytes (`Delta::memory_bytes`), a range up to 48 (it may split another) and a shift of the
/// sorted list when it enters. Memory alone would favour ranges from one block on; but guests that trim small
/// pieces (databases punching 16 KiB pages, journals) do so by the ten thousand, where the shift is the cost
/// and the list, which is kept short, would force checkpoints. At 8 blocks a full table of points stands for
/// as many discards as a list an eighth as long.
pub const POINT_HOLE_BLOCKS: u64 = 8;

/// Points that a layer can hold at most.
pub const MAX_DELTA_ENTRIES: usize = 1 << KEY_INDEX_BITS;

/// A sort key packs Lba and index of an entry, so that sorting moves 8 bytes and compares integers.
const KEY_INDEX_BITS: u32 = 22;
const _: () = assert!(Height::MAX.covers().get() << (KEY_INDEX_BITS - 1) == 1 << 63);

/// Newer than any Seq.
const NEVER: Seq = Seq::new(Seq::LIMIT);

/// An empty place of the hash table.
const EMPTY: u32 = u32::MAX;

/// A point: a Ref to own data or a hole, so without tag; 40 bytes.
#[derive(Clone, Copy)]
struct Entry {
    lba: Lba,
    pba: Pba,
    /// *when*, shifted by the flag bits, with the hole flag.
    word: u64,
    check: Check,
}

impl Entry {
    fn new(lba: Lba, to: &Ref) -> Self {
        assert!(to.tag == 0 && (to.is_hole() || to.pba != Pba::ZERO), "{to:?} is neither data nor hole");
        let word = to.when.get() << REF_FLAG_BITS | u64::from(to.flags.get());
        Self { lba, pba: to.pba, word, check: to.check }
    }

    fn when(&self) -> Seq {
        Seq::new(self.word >> REF_FLAG_BITS)
    }

    fn get(&self) -> Ref {
        match self.pba {
            Pba::ZERO => Ref::hole(self.when()),
            pba => Ref::data(pba, self.when(), self.check),
        }
    }
}

/// A long hole: all blocks of `first .. end` since `seq`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HoleRange {
    pub first: Lba,
    pub end: Lba,
    pub seq: Seq,
}

/// A layer of the delta of one volume. Look-ups and puts are O(1) (plus a binary search of the ranges).
pub struct Delta {
    entries: Vec<Entry>,
    /// Indices into `entries`, open addressing with linear probing.
    table: Vec<u32>,
    /// Disjoint, in order.
    ranges: Vec<HoleRange>,
    replaced: Vec<Pba>,
    /// Points, and blocks that they replaced, at most.
    limit: usize,
    order: Order,
    newest: Seq,
    oldest: Seq,
}

impl Delta {
    /// A layer for `entries` points and `ranges` long holes.
    pub fn new(entries: usize, ranges: usize) -> Self {
        assert!(entries <= MAX_DELTA_ENTRIES, "a delta of {entries} entries is larger than can be sorted");
        Self {
            entries: Vec::with_capacity(entries),
            table: vec![EMPTY; table_places(entries)],
            ranges: Vec::with_capacity(ranges),
            replaced: Vec::with_capacity(entries),
            limit: entries,
            order: Order::new(entries),
            newest: Seq::ZERO,
            oldest: NEVER,
        }
    }

    /// Bytes that `new` takes.
    pub const fn memory_bytes(entries: usize, ranges: usize) -> usize {
        let per_entry = size_of::<Entry>() + size_of::<Pba>() + 2 * size_of::<u64>();
        entries * per_entry + table_places(entries) * size_of::<u32>() + ranges * size_of::<HoleRange>()
    }

    /// Takes no more from now on than a layer for `entries` points would; what is there already stays.
    pub fn limit(&mut self, entries: usize) {
        self.limit = self.limit.min(entries);
    }

    /// So many `put`s fit, whatever they replace.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.entries.len().max(self.replaced.len()))
    }

    /// So many `put_holes` of more than `POINT_HOLE_BLOCKS` fit; shorter ones take `room`, one for each block.
    pub fn room_for_ranges(&self) -> usize {
        // A range that falls inside an older one splits it: two more than before.
        (self.ranges.capacity() - self.ranges.len()) / 2
    }

    /// Whether one `put_holes` of this length fits.
    pub fn holes_fit(&self, blocks: Blocks) -> bool {
        if blocks.get() <= POINT_HOLE_BLOCKS {
            self.room() as u64 >= blocks.get()
        } else {
            self.room_for_ranges() > 0
        }
    }

    /// The block at `lba` is now `to` (data in the own space, or a hole). Panics without room, or if `to` is
    /// not newer than the point that it replaces.
    pub fn put(&mut self, lba: Lba, to: Ref) {
        assert!(self.room() > 0, "the delta is full");
        assert!(lba.get() < Height::MAX.covers().get(), "Lba {lba} lies outside any map");
        self.order.invalidate();
        self.newest = self.newest.max(to.when);
        self.oldest = self.oldest.min(to.when);
        let place = self.place(lba);
        if self.table[place] == EMPTY {
            self.table[place] = self.entries.len() as u32;
            self.entries.push(Entry::new(lba, &to));
            return;
        }
        let entry = &mut self.entries[self.table[place] as usize];
        assert!(entry.when() < to.when, "Seq {} at Lba {lba} after Seq {}", to.when, entry.when());
        if entry.pba != Pba::ZERO {
            self.replaced.push(entry.pba);
        }
        *entry = Entry::new(lba, &to);
    }

    /// The blocks `first .. first + blocks` are holes since `seq`. Panics without room (`holes_fit`).
    pub fn put_holes(&mut self, first: Lba, blocks: Blocks, seq: Seq) {
        assert!(self.holes_fit(blocks), "the delta is full");
        let end = first + blocks;
        assert!(end.get() <= Height::MAX.covers().get(), "Lba {end} lies outside any map");
        if blocks.get() <= POINT_HOLE_BLOCKS {
            for lba in first.get()..end.get() {
                self.put(Lba::new(lba), Ref::hole(seq));
            }
            return;
        }
        self.order.invalidate();
        self.newest = self.newest.max(seq);
        self.oldest = self.oldest.min(seq);
        self.put_range(HoleRange { first, end, seq });
    }

    /// Enters a range in place of all that it hides.
    fn put_range(&mut self, new: HoleRange) {
        let from = self.ranges.partition_point(|r| r.end <= new.first);
        let to = self.ranges.partition_point(|r| r.first < new.end);
        let hidden = &self.ranges[from..to];
        assert!(hidden.iter().all(|r| r.seq < new.seq), "Seq {} is not newer than what it hides", new.seq);
        let left = hidden.first().filter(|r| r.first < new.first);
        let left = left.map(|r| HoleRange { end: new.first, ..*r });
        let right = hidden.last().filter(|r| r.end > new.end);
        let right = right.map(|r| HoleRange { first: new.end, ..*r });
        let parts = [left, Some(new), right];
        let count = parts.iter().flatten().count();
        for _ in to - from..count {
            self.ranges.insert(to, new);
        }
        if count < to - from {
            self.ranges.drain(from + count..to);
        }
        for (slot, part) in self.ranges[from..from + count].iter_mut().zip(parts.into_iter().flatten()) {
            *slot = part;
        }
    }

    /// What this layer says of a block: the newer of its point and the range over it.
    pub fn get(&self, lba: Lba) -> Option<Ref> {
        let point = self.table[self.place(lba)];
        let point = (point != EMPTY).then(|| self.entries[point as usize].get());
        let range = self.range_over(lba).map(|r| Ref::hole(r.seq));
        match (point, range) {
            (Some(point), Some(range)) => Some(if point.when > range.when { point } else { range }),
            (point, range) => point.or(range),
        }
    }

    /// Whether nothing was put since `new` or `clear`.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.ranges.is_empty()
    }

    /// Points and long holes held.
    pub fn len(&self) -> usize {
        self.entries.len() + self.ranges.len()
    }

    /// Long holes, as newer ones have cut them up.
    pub fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// The newest Seq that was put; 0 when empty.
    pub fn newest(&self) -> Seq {
        self.newest
    }

    /// The oldest Seq that was put; `Seq::LIMIT` when empty.
    pub fn oldest(&self) -> Seq {
        self.oldest
    }

    /// Forgets everything: the checkpoint that merged this layer is durable and its root serves the reads.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.table.fill(EMPTY);
        self.ranges.clear();
        self.replaced.clear();
        self.order.invalidate();
        self.newest = Seq::ZERO;
        self.oldest = NEVER;
    }

    /// Puts the points in order for the merge. Nothing may be put from here to `clear`; look-ups go on.
    pub fn sort(&mut self) {
        while !self.sort_step() {}
    }

    /// A bounded part of `sort` (about 0.1 ms); whether all is in order.
    pub fn sort_step(&mut self) -> bool {
        self.order.sort_step(&self.entries)
    }

    /// Whether the points are in order: nothing was put since `sort`.
    pub fn is_sorted(&self) -> bool {
        self.order.is_sorted()
    }

    /// The `i`th point in order.
    pub(crate) fn point(&self, i: usize) -> Option<(Lba, Ref)> {
        let (lba, entry) = self.order.get(i)?;
        Some((lba, self.entries[entry].get()))
    }

    /// The Lba of the `i`th point in order; unlike `point` this reads nothing but the keys.
    pub(crate) fn point_lba(&self, i: usize) -> Option<Lba> {
        self.order.get(i).map(|(lba, _)| lba)
    }

    /// The first point at or after the `i`th that does not lie below `lba`, at most one leaf's points away.
    pub(crate) fn first_point_from(&self, i: usize, lba: Lba) -> usize {
        self.order.first_from(i, lba)
    }

    /// The `i`th range in order.
    pub(crate) fn range(&self, i: usize) -> Option<HoleRange> {
        self.ranges.get(i).copied()
    }

    /// The range over a block.
    pub(crate) fn range_over(&self, lba: Lba) -> Option<HoleRange> {
        let at = self.ranges.partition_point(|r| r.end <= lba);
        self.ranges.get(at).copied().filter(|r| r.first <= lba)
    }

    /// Blocks of data that were put and then replaced by another point, in this layer.
    pub fn replaced(&self) -> &[Pba] {
        &self.replaced
    }

    /// The place of a block in the table: its own, or the empty one where it would go.
    fn place(&self, lba: Lba) -> usize {
        let mask = self.table.len() - 1;
        let mut place = mix(lba.get()) as usize & mask;
        loop {
            let at = self.table[place];
            if at == EMPTY || self.entries[at as usize].lba == lba {
                return place;
            }
            place = (place + 1) & mask;
        }
    }
}

/// Places of the hash table: a power of two, at most three quarters full.
const fn table_places(entries: usize) -> usize {
    (entries * 4 / 3 + 1).next_power_of_two()
}

/// Spreads an Lba over all bits (the finaliser of MurmurHash3): guests write in strides, and linear probing
/// would suffer from a weaker one.
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests;
