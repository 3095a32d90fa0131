//! Requests in flight: their states, and who waits for whom.
//!
//! Writes, discards and write-zeroes that overlap in any block are served one after the other: the later one
//! begins (takes its Seq, reads what it merges with) only in a `poll` after the one that handed over the
//! earlier's completion. Crash story: so an unacknowledged write never has a recorded overlapping successor,
//! and a request that the kernel re-issues after the target died is simply applied again.
use alloc::vec;
use alloc::vec::Vec;
use base::limits::{MAX_SLOTS, SLOT_DATA_BLOCKS};
use base::{Blocks, CommitNo, Fault, Lba, Op, Request, Sector, Sectors, SlotId};
use cow::Ref;

/// Blocks of memory of a slot: its data and the old content of the first and the last block.
pub(crate) const SLOT_BLOCKS: u32 = SLOT_DATA_BLOCKS + 2;

/// Where a request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// No request.
    Free,
    /// Not begun: new, or behind an overlapping write.
    Waiting,
    /// A read looks its blocks up.
    Resolving,
    /// A read's data is on its way.
    Reading,
    /// A partial write looks its edges up and reads them.
    Edges,
    /// A write that can take space and Seq.
    Ready,
    /// In a commit.
    Sealed,
    /// A flush that waits for the commits before it.
    AfterCommit(CommitNo),
    /// Waits for a flush of the drives with at least this number.
    Flushing(u64),
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub state: State,
    pub request: Request,
    /// First block that the request touches.
    pub first: Lba,
    /// Blocks that it touches.
    pub blocks: u64,
    /// Order of arrival.
    pub arrival: u64,
    /// Blocks looked up so far (reads), or edges settled (bit 0 first, bit 1 last).
    pub cursor: u32,
    /// Drive operations outstanding.
    pub outstanding: u32,
    /// A read: some blocks are to be read again, from another leg.
    pub retry: bool,
    /// A write: blocks of space found so far, while bitmaps are being read.
    pub taken: u32,
    pub fault: Option<Fault>,
    /// The free batch that this slot holds back.
    pub hold: Option<u64>,
    /// When the completion was handed over; the slot is free in the next poll.
    pub finished: bool,
    /// Not of the guest: what the blocks hold is written again (`group/rekey.rs`).
    pub rewrites: bool,
    /// Such a one has read, and writes.
    pub writes: bool,
    /// Next slot of the same commit.
    pub next: Option<SlotId>,
}

/// How a request's blocks divide: what is stored as data (slot buffers 0.. in order) and what becomes a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parts {
    /// Blocks of data before the hole (all of them for a write).
    pub head: u32,
    /// The hole: first block and length.
    pub hole: (Lba, u64),
    /// Blocks of data after the hole (0 or 1).
    pub tail: u32,
}

impl Parts {
    /// Blocks of data.
    pub fn data(&self) -> u32 {
        self.head + self.tail
    }
    /// Records in the log.
    pub fn records(&self) -> u32 {
        u32::from(self.head > 0) + u32::from(self.hole.1 > 0) + u32::from(self.tail > 0)
    }
}

impl Slot {
    pub const FREE: Self = Self {
        state: State::Free,
        request: Request {
            slot: SlotId(0),
            op: Op::Read,
            sector: Sector::ZERO,
            sectors: Sectors::ZERO,
            fua: false,
        },
        first: Lba::ZERO,
        blocks: 0,
        arrival: 0,
        cursor: 0,
        outstanding: 0,
        retry: false,
        taken: 0,
        fault: None,
        hold: None,
        finished: false,
        rewrites: false,
        writes: false,
        next: None,
    };

    /// A slot with this request, not begun.
    pub fn new(request: Request, arrival: u64) -> Self {
        let first = request.sector.lba();
        // What lies beyond any volume is refused when the request begins.
        let end = request.sector.get().saturating_add(request.sectors.get());
        let blocks =
            if request.sectors.get() == 0 { 0 } else { end.div_ceil(base::SECTORS_PER_BLOCK) - first.get() };
        Self { state: State::Waiting, request, first, blocks, arrival, ..Self::FREE }
    }

    /// Whether the request changes blocks.
    pub fn changes(&self) -> bool {
        matches!(self.request.op, Op::Write | Op::Discard | Op::WriteZeroes)
    }

    /// Whether the first block is touched in part, and whether the last is.
    pub fn edges(&self) -> [bool; 2] {
        let start = self.request.sector.get() % base::SECTORS_PER_BLOCK;
        let end = (self.request.sector.get() + self.request.sectors.get()) % base::SECTORS_PER_BLOCK;
        if self.blocks == 1 { [start != 0 || end != 0, false] } else { [start != 0, end != 0] }
    }

    /// The block of an edge.
    pub fn edge_lba(&self, edge: u8) -> Lba {
        if edge == 0 { self.first } else { self.first + Blocks::new(self.blocks - 1) }
    }

    /// The slot's buffer block that an edge is merged into.
    pub fn edge_buffer(&self, edge: u8) -> u32 {
        match (edge, self.request.op) {
            (0, _) => 0,
            (_, Op::Write) => self.blocks as u32 - 1,
            _ => self.parts().data() - 1,
        }
    }

    /// The bytes of an edge block that the request writes.
    pub fn edge_bytes(&self, edge: u8) -> core::ops::Range<usize> {
        let block = self.edge_lba(edge).get() * base::SECTORS_PER_BLOCK;
        let start = self.request.sector.get().max(block) - block;
        let end = (self.request.sector.get() + self.request.sectors.get())
            .min(block + base::SECTORS_PER_BLOCK)
            - block;
        start as usize * base::SECTOR_BYTES..end as usize * base::SECTOR_BYTES
    }

    /// How the request divides.
    pub fn parts(&self) -> Parts {
        if self.request.op == Op::Write {
            return Parts { head: self.blocks as u32, hole: (self.first, 0), tail: 0 };
        }
        let [first, last] = self.edges();
        let (head, tail) = (u64::from(first), u64::from(last));
        let hole = (self.first + Blocks::new(head), self.blocks - head - tail);
        Parts { head: head as u32, hole, tail: tail as u32 }
    }

    /// The logical block of data block `index`.
    pub fn data_lba(&self, index: u32) -> Lba {
        let parts = self.parts();
        let skipped = if index < parts.head { 0 } else { parts.hole.1 };
        self.first + Blocks::new(u64::from(index) + skipped)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let end = |slot: &Self| slot.first.get() + slot.blocks;
        self.first.get() < end(other) && other.first.get() < end(self)
    }
}

/// All slots, and the Refs of the blocks that each handles.
pub(crate) struct Slots {
    pub list: Vec<Slot>,
    refs: Vec<Ref>,
    tried: Vec<u8>,
    arrivals: u64,
    /// Slots that are not free, in order of arrival.
    pub order: Vec<SlotId>,
}

impl Slots {
    /// So many for the guest, and one more (`rewrites`).
    pub fn new(guests: u16) -> Self {
        assert!((1..=MAX_SLOTS).contains(&usize::from(guests)), "{guests} slots");
        let count = guests + 1;
        let blocks = usize::from(count) * SLOT_DATA_BLOCKS as usize;
        Self {
            list: vec![Slot::FREE; usize::from(count)],
            refs: vec![Ref::ABSENT; blocks],
            tried: vec![0; blocks],
            arrivals: 0,
            order: Vec::with_capacity(usize::from(count)),
        }
    }

    pub fn get(&self, id: SlotId) -> &Slot {
        &self.list[usize::from(id.0)]
    }

    pub fn get_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.list[usize::from(id.0)]
    }

    /// The Refs of a slot's buffer blocks.
    pub fn refs(&mut self, id: SlotId) -> &mut [Ref] {
        let start = usize::from(id.0) * SLOT_DATA_BLOCKS as usize;
        &mut self.refs[start..start + SLOT_DATA_BLOCKS as usize]
    }

    /// Bit sets of the legs that each buffer block was tried on.
    pub fn tried(&mut self, id: SlotId) -> &mut [u8] {
        let start = usize::from(id.0) * SLOT_DATA_BLOCKS as usize;
        &mut self.tried[start..start + SLOT_DATA_BLOCKS as usize]
    }

    /// Takes a request in.
    pub fn enter(&mut self, request: Request) {
        assert!(self.get(request.slot).state == State::Free, "slot {:?} is in use", request.slot);
        self.arrivals += 1;
        let arrival = self.arrivals;
        *self.get_mut(request.slot) = Slot::new(request, arrival);
        self.order.push(request.slot);
    }

    /// Frees slots whose completion was handed over in an earlier poll.
    pub fn sweep(&mut self) {
        let Self { list, order, .. } = self;
        order.retain(|id| {
            let slot = &mut list[usize::from(id.0)];
            let keep = !slot.finished;
            if !keep {
                *slot = Slot::FREE;
            }
            keep
        });
    }

    /// Whether an earlier request that changes blocks still covers one of this slot's.
    pub fn behind_another(&self, id: SlotId) -> bool {
        let slot = self.get(id);
        self.order
            .iter()
            .map(|other| self.get(*other))
            .any(|other| other.arrival < slot.arrival && other.changes() && other.overlaps(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(op: Op, sector: u64, sectors: u64) -> Slot {
        let request = Request {
            slot: SlotId(0),
            op,
            sector: Sector::new(sector),
            sectors: Sectors::new(sectors),
            fua: false,
        };
        Slot::new(request, 1)
    }

    #[test]
    fn edges_of_a_write() {
        assert_eq!(slot(Op::Write, 8, 16).edges(), [false, false]);
        assert_eq!(slot(Op::Write, 9, 15).edges(), [true, false]);
        assert_eq!(slot(Op::Write, 8, 17).edges(), [false, true]);
        assert_eq!(slot(Op::Write, 8, 1).edges(), [true, false]);
        assert_eq!(slot(Op::Write, 15, 2).edge_bytes(0), 3584..4096);
        assert_eq!(slot(Op::Write, 15, 2).edge_bytes(1), 0..512);
    }

    #[test]
    fn zeroes_divide_into_edges_and_hole() {
        let parts = slot(Op::WriteZeroes, 9, 30).parts();
        assert_eq!(parts, Parts { head: 1, hole: (Lba::new(2), 2), tail: 1 });
        assert_eq!(slot(Op::WriteZeroes, 9, 30).data_lba(1), Lba::new(4));
        assert_eq!(slot(Op::Discard, 8, 16).parts(), Parts { head: 0, hole: (Lba::new(1), 2), tail: 0 });
        assert_eq!(slot(Op::WriteZeroes, 9, 3).parts(), Parts { head: 1, hole: (Lba::new(2), 0), tail: 0 });
    }

    #[test]
    fn only_earlier_overlapping_writes_block() {
        let mut slots = Slots::new(4);
        let request = |slot, op, sector| Request {
            slot: SlotId(slot),
            op,
            sector: Sector::new(sector),
            sectors: Sectors::new(1),
            fua: false,
        };
        slots.enter(request(0, Op::Write, 0));
        slots.enter(request(1, Op::Read, 9));
        slots.enter(request(2, Op::Write, 7));
        slots.enter(request(3, Op::Write, 8));
        assert!(!slots.behind_another(SlotId(0)));
        assert!(slots.behind_another(SlotId(2)), "same block, other sector");
        assert!(!slots.behind_another(SlotId(3)), "reads block nobody");
        slots.get_mut(SlotId(0)).finished = true;
        assert!(slots.behind_another(SlotId(2)), "until the next poll");
        slots.sweep();
        assert!(!slots.behind_another(SlotId(2)));
    }
}
