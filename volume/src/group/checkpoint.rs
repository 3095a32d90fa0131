//! The checkpoint: the delta becomes part of the map, the ring gets its room back, replaced blocks become free.
//!
//! Crash story. The layer is frozen at a commit boundary: it holds exactly the log up to there. Its merge writes
//! pages to free blocks, the seal writes bitmaps to slots that the durable directory does not name: until the
//! superblock names the new directory, a crash finds the old one whole and the log that follows it. Then, in
//! this order: everything is flushed; the superblock is written, both slots; the ring is trimmed to the commit
//! boundary; what the new map does not refer to is in limbo, and free once no reader from before holds it. The
//! frozen layer serves reads until the new root does.
//!
//! Attempts are numbered and no number is used twice in an activation, so that no (block, checkpoint) ever means
//! two pages. An attempt that fails (a page of the old map is lost on every leg) leaves the group read-only.
//!
//! Crash story of pages that nobody needs: a large discard had put a subtree on the cut list, and one of its pages was
//! lost: a bad sector of the only leg. The attempt that was to free it failed. All that the guest had was intact, and
//! yet the group was read-only, after each open again, for a cut list is a reason for a checkpoint by itself. So such a
//! page is passed by, with what only it leads to: space that stays used, and that a check names. Nobody knows how much of it
//! was data, so the volume's blocks of data are not counted any more: a figure that is wrong would look like damage.
//! If a leg may have the page that did not answer, the next checkpoint asks again, and then another one: the drive has
//! been put out by then, as each of them writes to all drives, or it is a sector that never answers in time.
use super::write::Mark;
use super::{Group, Halt, Turn};
use crate::buffers::{MERGE_BUFFERS, SEAL_BUFFERS};
use crate::config::Config;
use crate::keys::Keyed;
use crate::ops::{JobKind, Run};
use crate::planted::Planted;
use alloc::vec::Vec;
use base::{Blocks, BufId, CkptNo, Pba, Seq};
use cow::directory::{CutEntry, CutList, VolumeEntry, Volumes};
use cow::{Class, Reap, ReapStep, Ref, SealStep, Sink, Space, Step};

/// The ring may be this full, in thousandths, before a checkpoint begins.
const RING_FORCE_PERMILLE: u32 = 500;
/// Steps of merge or seal in one poll.
const STEPS_PER_POLL: usize = 64;
/// Pages read ahead of the merge.
const PREFETCH: usize = 32;
/// Leaves of cut subtrees that one checkpoint frees at most.
pub(crate) const REAP_LEAVES: u32 = 2048;
/// Checkpoints that ask in vain, one after the other, for a page of a cut subtree that a leg may have.
const ASKS_AGAIN: u8 = 3;
/// Changes of free space that the reaping of one leaf can make.
pub(crate) const REAP_LEAF_CHANGES: usize = 128 + 8;
/// Checkpoint attempts beyond the durable one that an activation can make; the next activation begins behind.
pub(crate) const MAX_ATTEMPTS: u32 = 16;
/// The last number that a checkpoint may have: behind it there is room for the first attempt of an activation, so that
/// no sum of numbers runs over.
pub(crate) const LAST_NUMBER: CkptNo = CkptNo::new(u32::MAX - 4 * MAX_ATTEMPTS);

/// Where a checkpoint stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    Sort,
    Merge,
    Reap { left: u32 },
    Seal,
    Flush(u64),
    Superblock(u64),
    Limbo,
}

/// The checkpoint of a group.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// One is wanted whether or not ring and delta ask for it.
    pub force: bool,
    /// One is to begin although it changes nothing.
    pub needed: bool,
    stage: Stage,
    /// Number of the attempt that runs, or of the last one.
    number: CkptNo,
    durable: CkptNo,
    /// The Seq up to which the frozen layer reaches, and the log behind it.
    seq: Seq,
    mark: Option<Mark>,
    root: Option<Ref>,
    reap: Option<Reap>,
    /// Checkpoints that asked in vain for the page that reaping needs next.
    asked_in_vain: u8,
}

impl Checkpoint {
    /// None under way; the next attempt gets the number behind `number`.
    pub fn new(number: CkptNo) -> Self {
        Self {
            force: false,
            needed: false,
            stage: Stage::Idle,
            number,
            durable: CkptNo::ZERO,
            seq: Seq::ZERO,
            mark: None,
            root: None,
            reap: None,
            asked_in_vain: 0,
        }
    }

    /// One of a layer that recovery has filled is about to begin, with the number behind `number`: the log up to here, and
    /// this Seq.
    pub fn of_frozen(number: CkptNo, (mark, seq): (Mark, Seq)) -> Self {
        Self { stage: Stage::Sort, seq, mark: Some(mark), ..Self::new(number.next()) }
    }

    /// The number of the next attempt.
    pub fn next_number(&self) -> CkptNo {
        self.number.next()
    }

    /// The newest one that became durable since the group was opened.
    pub fn durable(&self) -> CkptNo {
        self.durable
    }

    /// Whether none is under way.
    pub fn idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Whether the version that is being written, or is about to be, names a new directory.
    pub fn names_directory(&self) -> bool {
        matches!(self.stage, Stage::Superblock(_))
    }

    /// The checkpoint whose pages are all written: what a flush that begins now makes durable.
    pub fn pages_complete(&self) -> CkptNo {
        match self.stage {
            Stage::Flush(_) | Stage::Superblock(_) | Stage::Limbo => self.number,
            _ => CkptNo::ZERO,
        }
    }
}

/// Blocks of a checkpoint that are to be written, gathered over the steps of one poll: a merge takes most of its
/// blocks side by side, so that tens of pages become one write of each leg. None outlives the poll.
#[derive(Debug)]
pub(crate) struct Gathered {
    runs: Vec<Run>,
    /// Their buffers, a bit for each, counted from the first one of the merge or the seal.
    buffers: u64,
}

const _: () = assert!(MERGE_BUFFERS <= u64::BITS && SEAL_BUFFERS <= u64::BITS);

impl Gathered {
    /// Nothing.
    pub fn new() -> Self {
        Self { runs: Vec::with_capacity(u64::BITS as usize), buffers: 0 }
    }

    /// How many blocks it holds.
    pub fn len(&self) -> usize {
        self.runs.len()
    }
}

/// Where the merge takes blocks from and reports to.
struct SpaceSink<'a> {
    space: &'a mut Space,
    cuts: &'a mut CutList,
    volume: &'a mut VolumeEntry,
    blocks: Blocks,
    config: &'a Config,
}

impl Sink for SpaceSink<'_> {
    fn place(&mut self) -> Option<Pba> {
        self.space.take(Class::Page, Blocks::new(1)).map(|(pba, _)| pba)
    }
    fn mapped(&mut self, pba: Pba) {
        self.space.set(pba);
    }
    fn replaced(&mut self, pba: Pba) {
        self.space.clear(pba);
    }
    fn data(&mut self, change: i64) {
        // Saturating: a forged figure is found by fsck and is no reason to stop.
        let data = &mut self.volume.data;
        *data = data.map(|data| Blocks::new(data.get().saturating_add_signed(change)));
    }
    fn cut_room(&self) -> usize {
        self.cuts.room()
    }
    fn cut(&mut self, subtree: Ref, level: u8) {
        self.cuts.push(CutEntry { volume: self.volume.id, subtree, level, cursor: 0 });
    }
    fn space_blocks(&self) -> Blocks {
        self.blocks
    }
    fn part_of(&self, hole: &Ref) -> Ref {
        if self.config.bug(Planted::SplitHoleOld) { Ref::hole(Seq::ZERO) } else { *hole }
    }
    fn emptied(&self, newest: Seq) -> Ref {
        if self.config.bug(Planted::EmptiedDropped) { Ref::ABSENT } else { Ref::hole(newest) }
    }
}

impl Group {
    /// Begins a checkpoint when one is due, and takes the running one further.
    pub fn advance_checkpoint<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        // Found where blocks are taken or bitmaps come in; a write that waits for space would wait for ever.
        if self.space.contradiction().is_some() && self.phase != base::Phase::Recovering {
            self.halt(Halt::SpaceContradicts);
        }
        if self.halt.is_some() || self.config.read_only {
            return self.give_up_checkpoint();
        }
        self.begin_checkpoint();
        self.again |= self.checkpoint_steps(turn);
        self.write_gathered(turn);
    }

    /// The steps of one poll. Whether there are more that wait for nothing.
    fn checkpoint_steps<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) -> bool {
        // One of what recovery has found waits for the rest of the open, as any other does.
        if self.opening.is_some() {
            return false;
        }
        for _ in 0..STEPS_PER_POLL {
            if !self.room(turn, 2 * base::limits::MAX_LEGS) {
                return false;
            }
            let goes_on = match self.checkpoint.stage {
                Stage::Idle => false,
                Stage::Sort => self.sort_step(),
                Stage::Merge => self.merge_step(turn),
                Stage::Reap { left } => self.reap_step(turn, left),
                Stage::Seal => self.seal_step(turn),
                Stage::Flush(ticket) => self.flush_step(ticket),
                Stage::Superblock(version) => self.superblock_step(version),
                Stage::Limbo => self.limbo_step(),
            };
            if !goes_on {
                return false;
            }
        }
        true
    }

    /// A halted group finishes nothing: its last durable checkpoint and the log stay as they are.
    fn give_up_checkpoint(&mut self) {
        self.checkpoint.force = false;
        // Not asked of merge and seal: a bitmap that no leg has is never handed to the seal that waits for it.
        if self.checkpoint.stage != Stage::Idle && self.ops.idle() {
            self.checkpoint.stage = Stage::Idle;
        }
    }

    /// Whether a checkpoint is due.
    fn checkpoint_due(&self) -> bool {
        self.checkpoint.force
            || self.log.ring.used_permille() >= RING_FORCE_PERMILLE
            || self.delta_pressure()
            || (!self.directory.cuts.is_empty() && self.log.idle())
    }

    /// Whether a checkpoint is due and has not begun: what keeps it off does not begin either.
    pub(super) fn checkpoint_waits(&self) -> bool {
        self.checkpoint.stage == Stage::Idle && self.halt.is_none() && self.checkpoint_due()
    }

    fn begin_checkpoint(&mut self) {
        let due = self.checkpoint_due();
        let free = self.checkpoint.stage == Stage::Idle
            && self.opening.is_none()
            && self.repairs.idle()
            && self.holds.room();
        if !due || !free {
            return;
        }
        self.checkpoint.force = false;
        let mark = self.log.mark;
        let gains = core::mem::take(&mut self.checkpoint.needed)
            || !self.active.is_empty()
            || mark.next != self.superblock.next_commit
            || !self.log.abandoned.is_empty()
            || !self.directory.cuts.is_empty()
            || self.grown != self.volume.sectors
            || self.directory.at.is_absent();
        if !gains {
            return;
        }
        // A superblock's number is as high as it may be: the group is read from here on.
        if self.checkpoint.number >= LAST_NUMBER {
            return self.halt(Halt::CheckpointsEnded);
        }
        self.make_room();
        assert!(self.frozen.is_empty());
        core::mem::swap(&mut self.active, &mut self.frozen);
        self.hole_changes = 0;
        self.cuts = self.directory.cuts.clone();
        self.new_volume = self.volume;
        (self.planted_freed, self.planted_flushing) = (0, 0);
        let reused = self.config.bug(Planted::CkptReused) && self.checkpoint.durable != CkptNo::ZERO;
        if !reused {
            self.checkpoint.number = self.checkpoint.number.next();
        }
        let ahead = self.checkpoint.number.get() - self.superblock.ckpt.get();
        assert!(ahead <= 2 * MAX_ATTEMPTS, "checkpoint numbers run ahead");
        self.checkpoint.seq = self.completed;
        self.checkpoint.mark = Some(mark);
        for pba in self.log.abandoned.drain(..) {
            self.space.clear(pba);
        }
        if self.config.bug(Planted::TrimEarly) {
            self.log.ring.trim(mark.positions);
        }
        self.checkpoint.stage = Stage::Sort;
    }

    /// Brings the frozen layer into order, a bounded part in each poll.
    fn sort_step(&mut self) -> bool {
        let sorted = self.frozen.sort_step();
        if sorted {
            self.merge.begin(self.volume.root, self.volume.height, self.checkpoint.number, &self.frozen);
            self.checkpoint.stage = Stage::Merge;
        }
        self.again = true;
        sorted
    }

    fn merge_step<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if let Some(root) = self.checkpoint.root {
            let over = self.merge.writing() == 0;
            if over {
                self.new_volume.root = root;
                self.checkpoint.root = None;
                self.checkpoint.stage = Stage::Reap { left: REAP_LEAVES };
            }
            return over;
        }
        self.prefetch(turn);
        let blocks = self.space_blocks();
        let volume = &mut self.new_volume;
        let mut sink =
            SpaceSink { space: &mut self.space, cuts: &mut self.cuts, volume, blocks, config: &self.config };
        match self.merge.step(&self.frozen, &mut self.cache, turn.memory, &mut sink) {
            Step::Need(page) => self.need_page(turn, &page),
            Step::Write { page, buf } => {
                self.gather_block(page.pba, buf, self.buffers.merge);
                true
            }
            Step::More => true,
            Step::Wait => false,
            Step::NoSpace => self.no_space_for_pages(),
            Step::Damaged(_) => self.map_failed(),
            Step::Done { root } => {
                self.checkpoint.root = Some(root);
                true
            }
        }
    }

    /// Has pages read that the merge will need soon.
    fn prefetch<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let window = PREFETCH.min(self.cache.frames() as usize / 4);
        for _ in 0..window {
            let Some(page) = self.merge.prefetch(window, &self.frozen, &mut self.cache, turn.memory) else {
                return;
            };
            if !self.fetch_page(turn, &page) {
                return;
            }
        }
    }

    /// A page is not in the cache: have it read, and wait.
    fn need_page<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, page: &Ref) -> bool {
        if !self.fetch_page(turn, page) {
            self.map_failed();
        }
        false
    }

    fn map_failed(&mut self) -> bool {
        self.halt(Halt::MapFailed);
        false
    }

    /// Pages find no block: the reserve makes this a matter of bitmaps that are still to be loaded, or of rows.
    ///
    /// Crash story: damage beyond what the legs make good took the only bitmap of a small group, and its pool was full. What
    /// had been kept for checkpoints lay in that region. A checkpoint that waited for ever for its first page kept every
    /// write waiting with it, which was told neither of an error nor that there is no space.
    fn no_space_for_pages(&mut self) -> bool {
        if self.growth.possible() {
            self.growth.want();
        } else if self.space.lacks_lost_regions() {
            return self.map_failed();
        }
        false
    }

    /// Notes a block that is to be written; `first` is the first buffer of its kind.
    fn gather_block(&mut self, pba: Pba, buf: BufId, first: BufId) {
        let bit = 1u64 << (buf.get() - first.get());
        assert!(self.gathered.buffers & bit == 0, "{buf:?} is gathered twice");
        self.gathered.buffers |= bit;
        self.gathered.runs.push(Run { pba, buf, blocks: 1 });
    }

    /// Writes what was gathered. There is room: `room` counts it in.
    fn write_gathered<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if self.gathered.runs.is_empty() {
            return;
        }
        // Neither stage ends before its last write has.
        let kind = match self.checkpoint.stage {
            Stage::Merge => JobKind::MergePages(self.gathered.buffers),
            Stage::Seal => JobKind::SealBlocks(self.gathered.buffers),
            other => panic!("blocks are gathered in stage {other:?}"),
        };
        self.gathered.buffers = 0;
        let job = self.ops.open_job(kind);
        core::mem::swap(&mut self.runs, &mut self.gathered.runs);
        self.write_runs(turn, job);
        core::mem::swap(&mut self.runs, &mut self.gathered.runs);
        self.ops.seal_job(job);
    }

    /// Frees a bounded part of the subtrees that discards cut off.
    fn reap_step<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, left: u32) -> bool {
        let first = self.cuts.iter().next().copied();
        let Some(cut) = first.filter(|_| left > 0 && self.space.change_room() > 4 * REAP_LEAF_CHANGES) else {
            self.checkpoint.reap = None;
            return self.begin_seal();
        };
        let mut reap =
            self.checkpoint.reap.take().unwrap_or_else(|| Reap::new(cut.subtree, cut.level, cut.cursor));
        let mut step = self.reap_one(turn, &mut reap, None);
        if let ReapStep::Need(page) = step
            && !self.fetch_page(turn, &page)
        {
            if !self.reads.is_lost_for_good(&page) && self.checkpoint.asked_in_vain < ASKS_AGAIN {
                self.checkpoint.asked_in_vain += 1;
                return self.begin_seal();
            }
            step = self.reap_one(turn, &mut reap, Some(&page));
            // Nobody knows how many blocks of data lay below it.
            self.new_volume.data = None;
        }
        match step {
            ReapStep::Need(_) => {
                self.checkpoint.reap = Some(reap);
                return false;
            }
            ReapStep::Paused { .. } => self.checkpoint.reap = Some(reap),
            ReapStep::Finished => {
                self.cuts.remove(0);
            }
            // What is left of a damaged subtree stays used: freeing by a page that lies would be worse.
            ReapStep::Damaged(_) => {
                self.new_volume.data = None;
                self.cuts.remove(0);
            }
        }
        self.checkpoint.asked_in_vain = 0;
        self.checkpoint.stage = Stage::Reap { left: left - 1 };
        true
    }

    /// Goes on with the first subtree of the list by one leaf, or past a page that nobody has.
    fn reap_one<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        reap: &mut Reap,
        lost: Option<&Ref>,
    ) -> ReapStep {
        let blocks = self.space_blocks();
        let mut unused = CutList::default();
        let volume = &mut self.new_volume;
        let mut sink =
            SpaceSink { space: &mut self.space, cuts: &mut unused, volume, blocks, config: &self.config };
        let step = match lost {
            None => reap.step(1, &mut self.cache, turn.memory, &mut sink),
            Some(page) => reap.pass_by(page, &mut self.cache, turn.memory, &mut sink),
        };
        let entry = self.cuts.iter_mut().next().expect("the entry being reaped");
        entry.cursor = reap.cursor();
        step
    }

    fn begin_seal(&mut self) -> bool {
        let mut volumes = Volumes::default();
        self.new_volume.sectors = self.grown;
        volumes.push(self.new_volume);
        let (number, seq) = (self.checkpoint.number, self.checkpoint.seq);
        self.seal.begin(&self.directory, number, seq, &volumes, &self.cuts);
        self.checkpoint.stage = Stage::Seal;
        true
    }

    fn seal_step<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) -> bool {
        match self.seal.step(&mut self.space, &mut self.cache, turn.memory, &self.geometry) {
            SealStep::NeedPage(page) => self.need_page(turn, &page),
            SealStep::NeedBitmap { region, bitmap, buf } => {
                self.start_bitmap(turn, region, bitmap, buf, true);
                true
            }
            SealStep::WriteBlock { pba, buf } => {
                self.gather_block(pba, buf, self.buffers.seal);
                true
            }
            SealStep::More => true,
            SealStep::Wait => false,
            SealStep::NoSpace => self.no_space_for_pages(),
            SealStep::Contradiction => {
                self.halt(Halt::SpaceContradicts);
                false
            }
            SealStep::Done { .. } => {
                let skips_flush = self.config.bug(Planted::CheckpointNotFlushed);
                let ticket = if skips_flush { 0 } else { self.flusher.ticket() };
                self.checkpoint.stage = Stage::Flush(ticket);
                true
            }
        }
    }

    fn flush_step(&mut self, ticket: u64) -> bool {
        // A version that names other rows names no other directory (`moving.rs`).
        if !self.flusher.is_done(ticket) || self.names_rows() {
            return false;
        }
        let mark = self.checkpoint.mark.expect("a checkpoint under way");
        self.superblock.ckpt = self.checkpoint.number;
        self.superblock.ckpt_seq = self.checkpoint.seq;
        self.superblock.next_commit = mark.next;
        self.superblock.previous = mark.previous;
        self.superblock.ring_start = mark.positions;
        self.superblock.directory = self.seal.directory().at;
        let version = self.writer.want();
        self.checkpoint.stage = Stage::Superblock(version);
        true
    }

    fn superblock_step(&mut self, version: u64) -> bool {
        if !self.writer.is_durable(version) {
            return false;
        }
        let mark = self.checkpoint.mark.take().expect("a checkpoint under way");
        self.volume = self.new_volume;
        self.checkpoint.durable = self.checkpoint.number;
        self.directory = self.seal.directory().clone();
        self.frozen.clear();
        if !self.config.bug(Planted::TrimEarly) {
            self.log.ring.trim(mark.positions);
        }
        self.space.checkpoint_durable();
        self.holds.next_batch();
        self.checkpoint.stage = Stage::Limbo;
        self.again = true;
        true
    }

    fn limbo_step(&mut self) -> bool {
        if !self.holds.all_released() && !self.config.bug(Planted::FreeHeld) {
            return false;
        }
        self.again = true;
        if self.space.release_limbo() {
            self.checkpoint.stage = Stage::Idle;
        }
        false
    }
}
