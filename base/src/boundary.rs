//! The boundary between the engine and whatever drives it (io_uring or the simulator): requests and replies
//! in, actions out.
//!
//! One pass down, one pass up: the driver hands in requests and completions as they come, then calls the
//! engine's `poll` once, which appends actions to a list that the driver owns. An action names memory by
//! `BufId`; its token comes back with its completion, exactly once.
use crate::{Blocks, BufId, DriveBlock, DriveIx, ExtentNo, LegId, RowNo, Sector, Sectors, Uuid};
use alloc::vec::Vec;

/// What the guest asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Fill the slot's buffer.
    Read,
    /// Store the slot's buffer.
    Write,
    /// Make every write acknowledged so far durable.
    Flush,
    /// The range is no longer needed; it reads as zero from now on.
    Discard,
    /// The range reads as zero from now on.
    WriteZeroes,
}

/// A request slot: the front end's tag. Each slot owns `SLOT_DATA_BLOCKS` blocks of memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SlotId(pub u16);

/// One request of the guest. Its data lies in the slot's buffer, at byte `sector.offset_in_block()`, so that
/// block boundaries of the volume are block boundaries of the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The slot, free until now and owned by the engine until it is completed.
    pub slot: SlotId,
    /// What to do.
    pub op: Op,
    /// First sector (0 for a flush).
    pub sector: Sector,
    /// Length (0 for a flush).
    pub sectors: Sectors,
    /// The write counts only once it is durable.
    pub fua: bool,
}

/// Why an operation did not do what it should. Drives report the first group, guests get the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The drive failed the operation (EIO and its like).
    Medium,
    /// The drive is not there any more (ENODEV, ENXIO, reset connection).
    Gone,
    /// The operation exceeded its deadline.
    Timeout,
    /// To guests: the data cannot be returned or stored.
    Io,
    /// To guests: no space is left.
    NoSpace,
    /// To guests: the group takes no writes (any more).
    ReadOnly,
    /// To guests: the request lies outside the volume or is malformed.
    Invalid,
}

/// Names an action until its completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IoToken(pub u64);

/// What to do to a drive. Reads and writes are whole blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriveOp {
    /// Fill the memory from the drive.
    Read,
    /// Store the memory on the drive.
    Write,
    /// Make all writes that completed before this was issued durable (never done by a drive without a
    /// volatile cache: there it completes when all writes issued before it have).
    Flush,
}

/// Adjacent blocks of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The first block.
    pub buf: BufId,
    /// How many.
    pub blocks: u32,
}

/// A run of entries in `Actions::segments`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentRange {
    /// First entry.
    pub first: u32,
    /// Number of entries.
    pub count: u32,
}

/// An extent of a drive, by the group's drive table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// The drive.
    pub drive: DriveIx,
    /// The extent on it.
    pub extent: ExtentNo,
}

/// A drive that joins a group: it holds nothing of it yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewDrive {
    /// Its identity, from its label.
    pub uuid: Uuid,
    /// The number by which the driver knows it, ready for actions.
    pub handle: DriveIx,
    /// Its size.
    pub blocks: Blocks,
    /// Whether completed writes can be lost until a flush.
    pub volatile: bool,
}

/// The extents of one new row, ordered by leg, then column: entry `leg * columns + column`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowGrant {
    /// The row that they will form; the group's next one.
    pub row: RowNo,
    /// `legs * columns` extents.
    pub extents: Vec<Extent>,
    /// Drives of the row that the group's drive table does not list. In `extents` they have the numbers behind those of the
    /// table, in this order; where they get their places is the engine's affair.
    pub joining: Vec<NewDrive>,
}

/// What a move changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Everything that the group has on this drive goes elsewhere, and the drive is left.
    Leave(Uuid),
    /// Some of what it has on this drive goes elsewhere; the rest stays.
    Shift(Uuid),
    /// Every row gets one more copy, as the last leg.
    AddLeg,
    /// Every row loses its copy on this leg; the legs behind it move up.
    DropLeg(LegId),
}

/// Extents of a group go to other drives, or their number changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveGrant {
    /// What changes.
    pub change: Change,
    /// The drives that take over. Those that the group has already keep the handle that they have.
    pub to: Vec<NewDrive>,
    /// For each extent that is copied: which one, and the extent that its content goes to, as the place of its drive
    /// in `to` and its number there. `Leave`: all of the drive's extents. `Shift`: some of them. `AddLeg`: leg 0's
    /// extent at every place, row by row and column by column. `DropLeg`: none.
    pub extents: Vec<(ExtentNo, usize, ExtentNo)>,
}

/// What the engine wants done. Every action but `Complete` and `GiveUp` is answered exactly once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// I/O to a drive; answered by a completion with the same token.
    Drive {
        /// Comes back with the completion.
        token: IoToken,
        /// Which drive.
        drive: DriveIx,
        /// What to do.
        op: DriveOp,
        /// First block on the drive (0 for a flush).
        at: DriveBlock,
        /// Total length (0 for a flush).
        blocks: Blocks,
        /// The memory, in order; empty for a flush.
        segments: SegmentRange,
    },
    /// Nobody waits any longer for what is in flight on this drive. Each operation on it is answered as always, with
    /// what became of it or with `Fault::Timeout`, at once, or as soon as its memory can be spared where a driver cannot
    /// exchange it: from its answer on it reads and writes no memory of the engine's. What it does to the drive may still come, until `Reply::Quiet`
    /// says that nothing more will. Not asked again for this number before that.
    GiveUp {
        /// Which drive, by the driver's number.
        drive: DriveIx,
    },
    /// A request is finished. For reads the slot's buffer holds the data.
    Complete {
        /// The slot, free again from now on.
        slot: SlotId,
        /// How it went.
        result: Result<(), Fault>,
    },
    /// Space runs short: extents for this row are wanted. Answered by `Reply::Row` or `Reply::NoRow`. Asked again
    /// for a row that was answered with `Reply::Row`, it says that nothing of that grant is used or in flight any
    /// more: its extents go back, and so do the drives that would have joined with it.
    WantRow {
        /// The row that would be added.
        row: RowNo,
    },
    /// These drives (bit `n` = drive `n`) are stale; the catalogue must know before a write that they miss is
    /// acknowledged. Answered by `Reply::StaleStored` with the same version, once it is durable.
    StoreStale {
        /// Bit set of drives.
        drives: u32,
        /// Version of the superblock that says so.
        version: u64,
    },
    /// This drive's copy is current again; superblocks say so, and it is counted on once the catalogue knows.
    /// Answered by `Reply::CurrentStored` with the same version, once it is durable.
    StoreCurrent {
        /// The drive, by the group's drive table.
        drive: DriveIx,
        /// Version of the superblock that says so.
        version: u64,
    },
}

/// Answers of the control plane to `WantRow` and `StoreStale`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The extents are ours; their headers are not written yet.
    Row(RowGrant),
    /// The pool has none. The engine asks again after a while or when told that space was added.
    NoRow,
    /// The pool grew: ask again.
    SpaceAdded,
    /// A drive of the group that is not current is there again: nothing that was ever issued to it before can reach
    /// it any more. It is brought up to date, unless another one is at this moment, or something that was given up
    /// (`Action::GiveUp`) may still land on it: then it is to be handed back again later.
    Returned(NewDrive),
    /// Nothing that was given up on this drive (by the driver's number) can have any effect on it any more.
    Quiet {
        /// Which drive.
        drive: DriveIx,
    },
    /// Extents are to go elsewhere, and their successors are handed out. Ignored while a drive is brought up to date
    /// or another move is under way: the caller sees that in the figures and asks again.
    Move(MoveGrant),
    /// The catalogue calls the drive of this superblock version current.
    CurrentStored {
        /// The version that was answered.
        version: u64,
    },
    /// The stale marks of this superblock version are durable in the catalogue.
    StaleStored {
        /// The version that was answered.
        version: u64,
    },
}

/// A caller-owned list of actions with fixed capacity; the engine stops before it overflows.
pub struct Actions {
    /// The actions, in order. Order between them means nothing to a drive.
    pub actions: Vec<Action>,
    /// Memory that the actions name.
    pub segments: Vec<Segment>,
}

impl Actions {
    /// A list with room for `actions` actions naming `segments` runs of memory in all.
    pub fn with_capacity(actions: usize, segments: usize) -> Self {
        Self { actions: Vec::with_capacity(actions), segments: Vec::with_capacity(segments) }
    }

    /// Forgets everything; keeps the capacity.
    pub fn clear(&mut self) {
        self.actions.clear();
        self.segments.clear();
    }

    /// Whether this many more fit.
    pub fn has_room(&self, actions: usize, segments: usize) -> bool {
        self.actions.len() + actions <= self.actions.capacity()
            && self.segments.len() + segments <= self.segments.capacity()
    }

    /// Appends an action. Panics when full: the engine asks `has_room` first.
    pub fn push(&mut self, action: Action) {
        assert!(self.actions.len() < self.actions.capacity(), "action list overflow");
        self.actions.push(action);
    }

    /// The memory of an action.
    pub fn memory(&self, range: SegmentRange) -> &[Segment] {
        &self.segments[range.first as usize..(range.first + range.count) as usize]
    }

    /// Appends I/O to a drive over these segments.
    pub fn drive(&mut self, token: IoToken, drive: DriveIx, op: DriveOp, at: DriveBlock, memory: &[Segment]) {
        assert!(self.segments.len() + memory.len() <= self.segments.capacity(), "segment list overflow");
        let first = self.segments.len() as u32;
        let blocks = Blocks::new(memory.iter().map(|s| u64::from(s.blocks)).sum());
        assert!((op == DriveOp::Flush) == memory.is_empty(), "only a flush moves no memory");
        self.segments.extend_from_slice(memory);
        let segments = SegmentRange { first, count: memory.len() as u32 };
        self.push(Action::Drive { token, drive, op, at, blocks, segments });
    }
}
