//! Where commits go: one logical ring of blocks for each column, made of pieces.
//!
//! Invariants: commit `n` goes to column `n % columns`; a commit lies within one piece, so that it is one write
//! to one drive; no block between a column's tail and its head is handed out again before it was trimmed, so no
//! ring block is written twice in a lap (a torn write can then never damage a commit that still counts); a column
//! is never filled to the last block, so that tail = head means empty; ordinary commits leave `VOID_ROOM_BLOCKS`
//! in each column, so that a commit that failed on a full ring can still be voided.
use crate::layout::{MAX_COMMIT_BLOCKS, MAX_VOIDS_IN_BLOCK};
use alloc::vec::Vec;
use base::limits::MAX_COLUMNS;
use base::{Blocks, Column, CommitNo};

/// Blocks of each column that only voids may use. A void takes one block; a void that fails takes another.
pub const VOID_ROOM_BLOCKS: u32 = 8;
/// Commits in flight at most: a single block must be able to void all of them.
pub const MAX_COMMITS_IN_FLIGHT: usize = 64;
/// Pieces of a ring at most.
pub const MAX_PIECES: usize = 64;

const _: () = assert!(MAX_COMMITS_IN_FLIGHT <= MAX_VOIDS_IN_BLOCK);

/// A contiguous part of the ring, on each column of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its length on one column.
    pub blocks: Blocks,
}

/// A place on the ring, the same on every leg.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RingPos {
    /// The column.
    pub column: Column,
    /// Block of the column's logical ring.
    pub offset: u32,
}

/// One offset for each column; those beyond the group's columns are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions(pub [u32; MAX_COLUMNS]);

impl Positions {
    /// The offset of a column.
    pub const fn of(&self, column: Column) -> u32 {
        self.0[column.get() as usize]
    }
}

/// The geometry of a ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingShape {
    ends: Vec<u32>,
    columns: u8,
}

impl RingShape {
    /// A ring of these pieces, in order, on each of so many columns. Panics if a piece cannot hold the largest
    /// commit, or the ring would not leave room for commits beside the voids.
    pub fn new(pieces: &[Piece], columns: usize) -> Self {
        assert!((1..=MAX_COLUMNS).contains(&columns), "{columns} columns");
        assert!((1..=MAX_PIECES).contains(&pieces.len()), "{} pieces", pieces.len());
        let mut end = 0u32;
        let mut ends = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let blocks = u32::try_from(piece.blocks.get()).expect("a piece of at most 16 TiB");
            assert!(blocks >= MAX_COMMIT_BLOCKS, "a piece of {blocks} blocks cannot hold every commit");
            end = end.checked_add(blocks).expect("a ring of at most 16 TiB");
            ends.push(end);
        }
        // Room for the voids, for one commit, for what it may skip before it, and the block that stays free.
        assert!(end > VOID_ROOM_BLOCKS + 2 * MAX_COMMIT_BLOCKS, "a ring of {end} blocks is too small");
        Self { ends, columns: columns as u8 }
    }

    /// Length of each column's ring in blocks.
    pub fn len(&self) -> u32 {
        *self.ends.last().expect("at least one piece")
    }
    /// A ring is never empty.
    pub const fn is_empty(&self) -> bool {
        false
    }
    /// Number of columns.
    pub const fn columns(&self) -> usize {
        self.columns as usize
    }
    /// The columns.
    pub fn each_column(&self) -> impl Iterator<Item = Column> + use<> {
        (0..self.columns).map(Column::new)
    }
    /// The column of a commit.
    pub const fn column_of(&self, no: CommitNo) -> Column {
        Column::new((no.get() % self.columns as u64) as u8)
    }
    /// The piece that holds an offset, and the offset within it.
    pub fn locate(&self, offset: u32) -> (usize, Blocks) {
        assert!(offset < self.len(), "offset {offset} outside a ring of {}", self.len());
        let piece = self.ends.partition_point(|end| *end <= offset);
        let start = if piece == 0 { 0 } else { self.ends[piece - 1] };
        (piece, Blocks::new(u64::from(offset - start)))
    }
    /// Blocks from an offset to the end of its piece.
    pub fn left_in_piece(&self, offset: u32) -> u32 {
        self.ends[self.locate(offset).0] - offset
    }
    /// The offset that lies `blocks` further on, around the end; not more than one lap.
    pub fn advance(&self, offset: u32, blocks: u32) -> u32 {
        ((u64::from(offset) + u64::from(blocks)) % u64::from(self.len())) as u32
    }
    /// How far it is from one offset forward to another; less than a lap.
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        let len = u64::from(self.len());
        ((u64::from(to) + len - u64::from(from)) % len) as u32
    }
}

/// The writer's side of the ring: for each column, from where commits are kept and where the next one goes.
#[derive(Clone, Debug)]
pub struct Ring {
    shape: RingShape,
    tail: Positions,
    head: Positions,
}

impl Ring {
    /// An empty ring.
    pub fn new(pieces: &[Piece], columns: usize) -> Self {
        Self::restore(RingShape::new(pieces, columns), Positions::default(), Positions::default())
    }

    /// The ring as recovery found it: commits are kept from `tail` on, the next ones go to `head`
    /// (`Chain::heads`).
    pub fn restore(shape: RingShape, tail: Positions, head: Positions) -> Self {
        for column in shape.each_column() {
            assert!(tail.of(column) < shape.len() && head.of(column) < shape.len(), "positions off the ring");
        }
        Self { shape, tail, head }
    }

    /// The geometry.
    pub const fn shape(&self) -> &RingShape {
        &self.shape
    }

    /// Takes room for commit `no`; `None` when it would meet the tail or the room kept for voids: the caller
    /// waits for a checkpoint to trim.
    pub fn place(&mut self, no: CommitNo, blocks: u32) -> Option<RingPos> {
        self.place_leaving(no, blocks, VOID_ROOM_BLOCKS)
    }

    /// Takes a block for commit `no`, which holds nothing but voids, also from the room kept for them.
    pub fn place_void(&mut self, no: CommitNo) -> Option<RingPos> {
        self.place_leaving(no, 1, 0)
    }

    fn place_leaving(&mut self, no: CommitNo, blocks: u32, room: u32) -> Option<RingPos> {
        assert!((1..=MAX_COMMIT_BLOCKS).contains(&blocks), "a commit of {blocks} blocks");
        let column = self.shape.column_of(no);
        let head = self.head.of(column);
        let left = self.shape.left_in_piece(head);
        let skip = if left < blocks { left } else { 0 };
        if self.used(column).get() + u64::from(skip + blocks + room) >= u64::from(self.shape.len()) {
            return None;
        }
        let offset = self.shape.advance(head, skip);
        self.head.0[column.get() as usize] = self.shape.advance(offset, blocks);
        Some(RingPos { column, offset })
    }

    /// Where the next commits would go. Taken when a checkpoint freezes the delta, this is what `trim` takes
    /// when that checkpoint is durable.
    pub const fn positions(&self) -> Positions {
        self.head
    }
    /// From where commits are kept: the superblock's start of the ring.
    pub const fn tails(&self) -> Positions {
        self.tail
    }
    /// Where the next commit of this column would go.
    pub const fn position(&self, column: Column) -> u32 {
        self.head.of(column)
    }

    /// Gives up everything before these positions, which must lie between tail and head.
    pub fn trim(&mut self, to: Positions) {
        for column in self.shape.each_column() {
            let forward = self.shape.distance(self.tail.of(column), to.of(column));
            assert!(u64::from(forward) <= self.used(column).get(), "trimmed beyond the head");
            self.tail.0[column.get() as usize] = to.of(column);
        }
    }

    /// Blocks of a column that are in use, skipped ones included.
    pub fn used(&self, column: Column) -> Blocks {
        Blocks::new(u64::from(self.shape.distance(self.tail.of(column), self.head.of(column))))
    }

    /// How full the fullest column is, in thousandths.
    pub fn used_permille(&self) -> u32 {
        let used = self.shape.each_column().map(|c| self.used(c).get()).max().unwrap_or(0);
        (used * 1000 / u64::from(self.shape.len())) as u32
    }
}

#[cfg(test)]
mod tests;
