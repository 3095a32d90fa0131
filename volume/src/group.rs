//! A group that is being served: the way of every request, from its arrival to its completion.
//!
//! `poll` is one pass: ended drive operations are looked at first (`io`), then every part that may have work
//! does a bounded amount of it. A write goes slot -> space and Seq -> commit (`write`), which is issued to every
//! current leg together with its data; when all legs have both and every earlier commit is complete, the Refs
//! enter the delta and the write is acknowledged. A read goes slot -> delta or map -> one leg, and is checked
//! (`read`). A flush waits for the commits before it and takes a ticket (`flush`). Behind these, the checkpoint
//! (`checkpoint`), the superblock writer (`super_writer`) and the growth of the space (`growth`) run as state
//! machines of their own; what ties them together is in this struct.
//!
//! The order of a poll matters in one place: completions are handed over first and slots are swept at the next
//! poll, so that an overlapping request begins only after its predecessor's completion was handed over.
use crate::buffers::Buffers;
use crate::config::{Config, Stats};
use crate::drives::Drives;
use crate::flusher::Flusher;
use crate::geometry::Geometry;
use crate::holds::Holds;
use crate::keys::Keyed;
use crate::ops::{Ops, Run};
use crate::planted::Planted;
use crate::rows::{HomePages, RowPages};
use crate::slots::{Slot, Slots, State};
use crate::superblock::Superblock;
use alloc::vec::Vec;
use base::{Action, Actions, Duration, Extent, Fault, Instant, Op, Phase, Reply, Request, Seq, SlotId};
use cow::directory::{CutList, Directory, VolumeEntry};
use cow::{Delta, Merge, Open, PageCache, Seal, Space};

pub(crate) mod checkpoint;
pub(crate) mod flush;
pub(crate) mod growth;
pub(crate) mod io;
pub(crate) mod joining;
pub(crate) mod moving;
pub(crate) mod opening;
pub(crate) mod overdue;
pub(crate) mod pace;
pub(crate) mod pages;
pub(crate) mod read;
pub(crate) mod rekey;
pub(crate) mod repair;
pub(crate) mod resize;
pub(crate) mod resync;
pub(crate) mod scrub;
pub(crate) mod super_writer;
pub(crate) mod sweep;
pub(crate) mod write;

/// After so long without a flush the engine flushes by itself.
pub(crate) const AUTO_FLUSH_AFTER: Duration = Duration::from_millis(1000);
/// And after so many bytes.
pub(crate) const AUTO_FLUSH_BYTES: u64 = 64 << 20;
/// Data that lies above D at most: writes are held at it until a flush has ended. As much as a flush begins with may be
/// written while it runs.
pub(crate) const MAX_UNFLUSHED_BYTES: u64 = 2 * AUTO_FLUSH_BYTES;
/// Long holes in one layer of the delta.
pub(crate) const DELTA_RANGES: usize = 1024;

/// Actions that a poll appends without asking for room: a completion for each slot, `WantRow`, `StoreStale`.
const UNASKED: usize = base::limits::MAX_SLOTS + 2;
const _: () = assert!(crate::config::MAX_UNIT_OPS + UNASKED <= base::limits::MAX_POLL_ACTIONS);

/// What one `poll` works with.
pub(crate) struct Turn<'a, M: Keyed> {
    pub now: Instant,
    pub memory: &'a mut M,
    pub out: &'a mut Actions,
}

impl<M: Keyed> Turn<'_, M> {
    /// Whether a unit of work with so many actions fits, beside the completion of every slot and the questions
    /// to the control plane, which are handed over without asking.
    pub fn fits(&self, actions: usize) -> bool {
        self.out.has_room(actions + UNASKED, actions * 2)
    }
}

/// Why a group stopped taking writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Halt {
    /// A flush failed on the last current copy: what is durable is not known.
    FlushFailed,
    /// A commit and every void for it failed on the last current copy.
    LogFailed,
    /// A superblock could not be written anywhere.
    SuperblockFailed,
    /// The map cannot be read or written any more.
    MapFailed,
    /// Free space contradicts the map, and both have right checks: nothing is written any more, because a block that
    /// is in use might be handed out.
    SpaceContradicts,
    /// The history has no place for a further activation: nothing can be written in the name of one.
    HistoryFull,
    /// No number is left for a further checkpoint.
    CheckpointsEnded,
    /// The numbers of activations, versions, commits or writes are at their end. Nobody counts so far: they were forged.
    NumbersEnded,
}

impl core::fmt::Display for Halt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::FlushFailed => "a flush failed on the last current copy",
            Self::LogFailed => "the log could not be written on the last current copy",
            Self::SuperblockFailed => "no superblock could be written",
            Self::MapFailed => "the map cannot be read or written",
            Self::SpaceContradicts => "free space contradicts the map",
            Self::HistoryFull => "it was opened so often that its history has no place for another time",
            Self::CheckpointsEnded => "it has used up the numbers of checkpoints",
            Self::NumbersEnded => "it has used up the numbers of activations or writes",
        })
    }
}

/// Everything of a group that is being served.
pub(crate) struct Group {
    pub config: Config,
    pub geometry: Geometry,
    pub phase: Phase,
    pub halt: Option<Halt>,
    pub buffers: Buffers,
    pub drives: Drives,
    /// Extents of all rows; `row * legs * columns + leg * columns + column`.
    pub rows: Vec<Extent>,
    /// Operations and jobs.
    pub ops: Ops,
    pub slots: Slots,
    /// What the next superblock version will say.
    pub superblock: Superblock,
    pub writer: super_writer::Writer,
    pub flusher: Flusher,
    pub holds: Holds,
    pub log: write::Log,
    /// The map as of the last checkpoint.
    pub volume: VolumeEntry,
    /// The durable directory, and the cut list that the running checkpoint makes.
    pub directory: Directory,
    pub cuts: CutList,
    /// The volume as the running checkpoint will leave it.
    pub new_volume: VolumeEntry,
    /// The rest of an open: no checkpoint begins before it is done.
    pub opening: Option<Open>,
    pub top_read: bool,
    pub open_failed: bool,
    /// The size that the volume is growing to: durable before it counts.
    pub grown: base::Sectors,
    /// Blocks of long holes in the active layer, as far as a checkpoint may have to free them one by one.
    pub hole_changes: u64,
    pub row_pages: RowPages,
    pub new_row_pages: Option<RowPages>,
    pub home_pages: HomePages,
    /// How many of them the history has, and how many lines the newest of those has.
    pub history_pages: usize,
    pub history_lines: usize,
    /// How many of the delta's replaced blocks a planted bug has freed.
    pub planted_freed: usize,
    /// How many it listed when the flush began that is under way.
    pub planted_flushing: usize,
    pub active: Delta,
    pub frozen: Delta,
    pub cache: PageCache,
    pub reads: pages::PageReads,
    pub space: Space,
    pub merge: Merge,
    pub seal: Seal,
    pub checkpoint: checkpoint::Checkpoint,
    pub growth: growth::Growth,
    pub repairs: repair::Repairs,
    pub sweep: sweep::Sweep,
    pub rekey: rekey::Rekey,
    pub moving: moving::Moving,
    pub overdue: overdue::Overdue,
    /// The activations before this one, as far as they are known.
    pub history: Vec<rlog::Line>,
    /// Last Seq whose commit is complete, in order.
    pub completed: Seq,
    /// D.
    pub durable: Seq,
    /// Bytes written since the last flush began, and when the first of them completed.
    pub unflushed: u64,
    /// Bytes that the flush under way covers.
    pub flushing: u64,
    pub unflushed_since: Option<Instant>,
    /// Something changed that may let a waiting part go on: call again.
    pub again: bool,
    pub closing: bool,
    /// Scratch: the runs of one unit of work.
    pub runs: Vec<Run>,
    /// What the running checkpoint writes next.
    pub gathered: checkpoint::Gathered,
    pub columns: io::ColumnIo,
}

impl Group {
    /// Takes a request in; its slot must be free.
    pub fn submit(&mut self, request: Request) {
        if self.slots.get(request.slot).finished {
            self.slots.sweep();
        }
        self.slots.enter(request);
    }

    /// Takes an answer of the control plane.
    pub fn reply(&mut self, reply: Reply) {
        match reply {
            Reply::StaleStored { version } => self.stale_stored(version),
            Reply::Row(grant) => self.growth.granted(grant),
            Reply::NoRow => self.growth.refused(),
            Reply::SpaceAdded => self.growth.ask_again(),
            Reply::Returned(drive) => self.drive_returned(drive),
            Reply::Quiet { drive } => self.drive_quiet(drive),
            Reply::Move(grant) => self.move_asked(grant),
            Reply::CurrentStored { version } => self.current_stored(version),
        }
        self.again = true;
    }

    /// One pass.
    pub fn poll<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) -> Option<Instant> {
        self.again = false;
        self.ops.now = self.overdue.tick(turn.now);
        self.slots.sweep();
        self.look_at_ended(turn);
        self.advance_overdue(turn);
        self.settle_jobs(turn);
        self.complete_commits(turn);
        self.begin_requests(turn);
        self.advance_reads(turn);
        self.advance_edges(turn);
        self.advance_flushes(turn);
        self.seal_commits(turn);
        self.advance_opening(turn);
        self.advance_checkpoint(turn);
        self.advance_growth(turn);
        self.load_bitmaps(turn);
        self.advance_repairs(turn);
        self.advance_sweep(turn);
        self.advance_rekey(turn);
        self.advance_writer(turn);
        self.start_flush(turn);
        self.advance_close();
        self.reads.forget_lost();
        self.deadline(turn.now)
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let finished =
            self.slots.order.iter().any(|id| self.slots.get(*id).finished && self.slots.order.len() > 1);
        if self.again || finished || self.ops.any_settled() {
            return Some(now);
        }
        let overdue = self.overdue.deadline(self.ops.in_flight());
        if self.halt.is_some() || self.config.read_only {
            return overdue;
        }
        // A flush that is under way ends with an event; until then its successor's time may have come.
        let since = self.unflushed_since.filter(|_| !self.flusher.running());
        let flush = since.map(|since| since + AUTO_FLUSH_AFTER);
        // Requests that a closing group still serves may need the row.
        let growth = self.growth.deadline().filter(|_| !self.closing || !self.served());
        [flush, growth, self.sweep.rests_until(), self.rekey_rests_until(), overdue]
            .into_iter()
            .flatten()
            .min()
    }

    /// Begins what waits: in order of arrival, behind overlapping changes.
    fn begin_requests<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        for i in 0..self.slots.order.len() {
            let id = self.slots.order[i];
            let slot = *self.slots.get(id);
            let waits = self.waits_for_growth(&slot) || self.waits_for_volume(&slot);
            if slot.state != State::Waiting || slot.finished || waits {
                continue;
            }
            if let Err(fault) = self.admit(&slot.request) {
                self.finish(turn, id, Err(fault));
                continue;
            }
            let next = match slot.request.op {
                Op::Flush => State::AfterCommit(self.log.next_commit()),
                _ if slot.blocks == 0 => {
                    self.finish(turn, id, Ok(()));
                    continue;
                }
                Op::Read => self.hold(id, State::Resolving),
                Op::Write | Op::Discard | Op::WriteZeroes if self.waits_for_another(id) => continue,
                _ if slot.rewrites => self.hold(id, State::Resolving),
                _ if slot.edges() != [false, false] => self.hold(id, State::Edges),
                _ => State::Ready,
            };
            self.slots.get_mut(id).state = next;
        }
    }

    /// The first checkpoint of a group makes its volume. Until it is durable the drives alone do not tell what
    /// volume a write belonged to, so none is acknowledged.
    fn waits_for_volume(&self, slot: &Slot) -> bool {
        slot.changes() && self.directory.at.is_absent() && self.halt.is_none() && !self.config.read_only
    }

    /// Whether an earlier request that changes blocks still covers one of this one's.
    fn waits_for_another(&self, id: SlotId) -> bool {
        let partial = self.slots.get(id).edges() != [false, false];
        let hasty = self.config.bug(Planted::OverlapNotSerialised)
            || (self.config.bug(Planted::MergeWithoutWait) && partial);
        !hasty && self.slots.behind_another(id)
    }

    /// Whether a request may be served at all.
    fn admit(&self, request: &Request) -> Result<(), Fault> {
        let end = request.sector.get().checked_add(request.sectors.get()).ok_or(Fault::Invalid)?;
        let slot = Slot::new(*request, 0);
        let buffered = matches!(request.op, Op::Read | Op::Write);
        if end > self.volume.sectors.get()
            || (buffered && slot.blocks > u64::from(base::limits::SLOT_DATA_BLOCKS))
        {
            return Err(Fault::Invalid);
        }
        let refused = self.halt.is_some() || self.config.read_only;
        if refused && request.op != Op::Read {
            return if request.op == Op::Flush && self.halt.is_none() {
                Ok(())
            } else {
                Err(Fault::ReadOnly)
            };
        }
        Ok(())
    }

    fn hold(&mut self, id: SlotId, state: State) -> State {
        let batch = self.holds.take();
        let slot = self.slots.get_mut(id);
        assert!(slot.hold.is_none());
        slot.hold = Some(batch);
        self.slots.tried(id).fill(0);
        state
    }

    /// Lets go of what a slot held.
    pub fn release(&mut self, id: SlotId) {
        if let Some(batch) = self.slots.get_mut(id).hold.take() {
            self.holds.release(batch);
        }
    }

    /// Hands a completion over.
    pub fn finish<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId, result: Result<(), Fault>) {
        self.release(id);
        let slot = self.slots.get_mut(id);
        assert!(!slot.finished && slot.outstanding == 0, "slot {id:?} finished with I/O in flight");
        slot.finished = true;
        if slot.rewrites {
            return self.rewrite_ended(turn.now, id, result);
        }
        turn.out.push(Action::Complete { slot: id, result });
    }

    /// Stops taking writes; what is in the log stays for the next recovery to judge.
    pub fn halt(&mut self, why: Halt) {
        if self.halt.is_none() {
            self.halt = Some(why);
            if self.phase == Phase::Serving {
                self.phase = Phase::ReadOnly;
            }
            self.again = true;
        }
    }

    /// Finishes, checkpoints and seals: `Phase::Closed` in the end.
    pub fn close(&mut self) {
        if self.phase == Phase::Serving || self.phase == Phase::ReadOnly {
            self.phase = Phase::Closing;
            self.closing = true;
            self.again = true;
        }
    }

    fn advance_close(&mut self) {
        if self.phase != Phase::Closing || !self.slots.order.iter().all(|id| self.slots.get(*id).finished) {
            return;
        }
        let writes_nothing = self.halt.is_some() || self.config.read_only;
        if !writes_nothing && self.growth.changing() {
            return;
        }
        let sealed =
            writes_nothing || (self.superblock.clean && self.writer.is_durable(self.writer.wanted()));
        if sealed && self.ops.idle() && self.checkpoint.idle() {
            self.phase = Phase::Closed;
        } else if !writes_nothing && self.log.idle() && self.checkpoint.idle() && !self.superblock.clean {
            let mapped = self.active.is_empty() && !self.directory.at.is_absent();
            if mapped && self.durable == self.completed {
                self.superblock.clean = true;
                self.writer.want();
                self.again = true;
            } else if mapped {
                self.again |= !self.flusher.due() && !self.flusher.running();
                self.flusher.ticket();
            } else {
                // Asked for once: what it waits for (a repair, a reader) wakes us when it ends.
                self.again |= !core::mem::replace(&mut self.checkpoint.force, true);
            }
        }
    }

    /// Ends a pass early if the list of actions is full: `poll` is then called again.
    pub fn room<M: Keyed>(&mut self, turn: &Turn<'_, M>, actions: usize) -> bool {
        // What a checkpoint has gathered is written in this poll: its room is taken.
        let actions = actions
            + self.gathered.len() * (usize::from(self.geometry.legs) + usize::from(self.moving.active()));
        let fits = turn.fits(actions) && self.ops.room() >= actions && self.ops.job_room() >= 8;
        self.again |= !fits && self.ops.room() >= actions && self.ops.job_room() >= 8;
        fits
    }

    /// `room` for a read of a guest: leaves the operations that a commit can need, or a stream of scattered
    /// reads would keep every write waiting.
    pub fn room_beside_writes<M: Keyed>(&mut self, turn: &Turn<'_, M>, actions: usize) -> bool {
        self.room(turn, actions) && self.ops.room() >= actions + crate::config::MAX_UNIT_OPS
    }

    /// What is not finished, in words: for whoever waits for a close.
    pub fn unfinished(&self) -> alloc::string::String {
        alloc::format!(
            "phase {:?}, halt {:?}, requests {:?}, checkpoint {:?}, log idle {}, delta {} + {}, operations idle {}, \
             repairs idle {}, D {} of {}, superblock {} of {}, clean {}, opening {}, holds released {}, limbo {}, resync {:?}",
            self.phase,
            self.halt,
            self.slots.order.iter().map(|id| self.slots.get(*id).state).collect::<Vec<_>>(),
            self.checkpoint,
            self.log.idle(),
            self.active.len(),
            self.frozen.len(),
            self.ops.idle(),
            self.repairs.idle(),
            self.durable,
            self.completed,
            self.writer.durable_version(),
            self.writer.wanted(),
            self.superblock.clean,
            self.opening.is_some(),
            self.holds.clone().all_released(),
            self.space.limbo(),
            self.sweep,
        )
    }

    /// Blocks of the volume that hold data: exact right after a checkpoint, and between two of them never less
    /// than the truth (a block written again counts twice until the merge learns of it).
    fn mapped_blocks(&self) -> Option<u64> {
        let layers = self.active.len() + self.frozen.len();
        let size = self.volume.sectors.get().div_ceil(base::SECTORS_PER_BLOCK);
        self.volume.data.map(|data| data.get().saturating_add(layers as u64).min(size))
    }

    /// How many checkpoints can still be taken, if no activation comes in between.
    fn checkpoints_left(&self) -> u32 {
        let ended = self.halt == Some(Halt::CheckpointsEnded);
        let left = checkpoint::LAST_NUMBER.get().saturating_sub(self.superblock.ckpt.get());
        if ended { 0 } else { left }
    }

    /// How many activations the history can still note, if it has no end.
    fn activations_left(&self) -> Option<u64> {
        let encrypted = self.superblock.checks == base::CheckKind::AesGcm;
        encrypted.then(|| Geometry::activations_left(self.home_pages.free(), self.history_lines))
    }

    /// What everybody may see.
    pub fn stats(&self) -> Stats {
        Stats {
            seq: Seq::new(self.log.next_seq.get() - 1),
            durable: self.durable,
            generation: self.superblock.generation,
            version: self.superblock.version,
            checkpoint: self.superblock.ckpt.get(),
            checkpoints_left: self.checkpoints_left(),
            ring_used_permille: self.log.ring.used_permille(),
            rows: self.superblock.rows,
            rows_ended: self.rows_ended(),
            activations_left: self.activations_left(),
            legs: self.geometry.legs,
            space_blocks: u64::from(self.superblock.rows) * self.geometry.row_blocks(),
            mapped_blocks: self.mapped_blocks(),
            free_blocks: self.space.free_now().get(),
            limbo_blocks: self.space.limbo().get(),
            drives: self.drives.views(self.superblock.drives.len(), &self.growth.joining),
            resync: self.sweep.resync_stats(),
            last_resync: self.sweep.last,
            scrub: self.scrub_stats(),
            rekey: self.rekey.stats(),
            data_key: self.superblock.line.map_or(0, |line| line.key),
            moving: self.move_stats(),
            home: self.superblock.home.clone(),
        }
    }
}
