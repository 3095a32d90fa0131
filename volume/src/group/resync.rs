//! Resync: a drive that missed writes gets what it lacks while the group goes on.
//!
//! The drive's entry says S and C: what it has is everything up to Seq S and pages up to checkpoint C. It is asked
//! for what it says itself first (`Probe`): a drive that is older than C, or of an activation that is not in the
//! group's history, was rolled back or has gone another way; nothing on it counts then, and S and C are 0.
//!
//! Steps:
//! 1. A superblock version that calls it resyncing. From the moment that it is asked for, everything that is
//!    written (data, commits, pages, bitmaps, superblocks) goes to the drive too; nobody waits for what it misses.
//! 2. Once every commit that was issued before has completed, a checkpoint begins; when it is durable, what the
//!    drive lacks is all below the directory, and the log behind the checkpoint is whole on it.
//! 3. The walk: map, cut subtrees, bitmap tree with bitmaps, the directory's own pages, row and history pages,
//!    headers. Blocks are copied a unit at a time; a unit holds its blocks from the look-up until its last write
//!    has ended, so a block is never handed out under it.
//! 4. A flush of all drives; then a version that calls it current; the catalogue; then it is counted on.
//!
//! Crash story: until the last version is durable the entry keeps S and C, so whatever was copied, the next resync
//! copies it again. A failure of the drive before that is nobody's but its own: it is stale since S and C again.
//! While the last version is being written (`Returning`) a recovery may find the drive called current, so from
//! then on it fails like a current drive: what it misses waits until its mark is durable.
//!
//! Row pages lie where growth writes new ones, so the two take turns (`holds_growth`).
mod copy;

use super::pace::Pace;
use super::{Group, Turn};
use crate::drives::Health;
use crate::header::Header;
use crate::layout::extent as fixed;
use crate::ops::{Job, JobKind, Purpose};
use crate::planted::Planted;
use crate::superblock::Superblock;
use alloc::vec::Vec;
use base::{
    Action, BufId, Check, CkptNo, Column, CommitNo, DriveIx, DriveOp, Extent, Fault, Instant, LegId, Memory,
    NewDrive, Pba, RowNo, Segment, Seq,
};
use cow::space_layout::CUTS_MAX;
use cow::{PAGE_REFS, Ref, Walk, WalkStep};
use fence::Event;

/// Blocks of a unit at most: the data of a leaf and the pages that lead to it.
pub(crate) const UNIT_BLOCKS: u32 = PAGE_REFS as u32 + 8;
/// Steps of a walk in one poll.
const STEPS_PER_POLL: usize = 32;

/// A block of a unit.
#[derive(Clone, Copy, Debug)]
struct Item {
    pba: Pba,
    check: Check,
    /// Legs that it was read from.
    tried: u8,
    /// Its content is in the unit's buffer and right.
    ready: bool,
    /// No leg has it: the drive is left as bad as the others.
    lost: bool,
}

/// Where a resync stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    /// Nothing of the drive's former life may be in flight.
    Quiet,
    Probe,
    Announce(u64),
    /// Commits before this one must complete.
    Commits(CommitNo),
    Checkpoint(CkptNo),
    Map,
    Cuts,
    Bitmaps,
    Directory,
    Rows(usize),
    /// This history page is next.
    History(Ref),
    /// It is being copied, and says which one is before it.
    HistoryPage,
    Headers(u32),
    Flush(u64),
    Name(u64),
    Tell(u64),
    /// Given up; what is in flight ends first.
    Leaving,
}

/// What a resync has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResyncStats {
    /// The drive.
    pub drive: DriveIx,
    /// Blocks copied so far.
    pub copied_blocks: u64,
    /// Blocks that no leg has right.
    pub lost_blocks: u64,
    /// Blocks of the volume that were looked at, with or without need to copy them.
    pub walked_blocks: u64,
}

/// A resync of one drive at a time.
#[derive(Debug)]
pub(crate) struct Resync {
    stage: Stage,
    asked: Option<NewDrive>,
    drive: DriveIx,
    seq: Seq,
    ckpt: CkptNo,
    /// Last Seq handed out when it began: what is newer reached the drive by itself.
    began: Seq,
    /// Pages of this checkpoint and newer ones reached the drive by themselves.
    fresh: CkptNo,
    walk: Walk,
    cut: Option<Ref>,
    cuts_done: Vec<Ref>,
    unit: Vec<Item>,
    reading: u32,
    writing: bool,
    batch: Option<u64>,
    copied: u64,
    lost: u64,
    pace: Pace,
    /// Blocks of a unit that ended and was not paced yet.
    ended: Option<u64>,
    /// Blocks of the volume that the walk of the map has passed.
    walked: u64,
}

impl Resync {
    pub fn new() -> Self {
        Self {
            stage: Stage::Idle,
            asked: None,
            drive: DriveIx::ZERO,
            seq: Seq::ZERO,
            ckpt: CkptNo::ZERO,
            began: Seq::ZERO,
            fresh: CkptNo::ZERO,
            walk: Walk::new(CkptNo::ZERO, 0),
            cut: None,
            cuts_done: Vec::with_capacity(CUTS_MAX),
            unit: Vec::with_capacity(UNIT_BLOCKS as usize),
            reading: 0,
            writing: false,
            batch: None,
            copied: 0,
            lost: 0,
            pace: Pace::new(),
            ended: None,
            walked: 0,
        }
    }

    /// Whether none is under way.
    pub fn idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Whether row pages are being copied: growth waits.
    pub fn holds_growth(&self) -> bool {
        matches!(self.stage, Stage::Rows(_) | Stage::History(_) | Stage::HistoryPage | Stage::Headers(_))
    }

    /// The one that is under way.
    pub fn stats(&self) -> Option<ResyncStats> {
        let under_way = !matches!(self.stage, Stage::Idle | Stage::Leaving);
        let stats = ResyncStats {
            drive: self.drive,
            copied_blocks: self.copied,
            lost_blocks: self.lost,
            walked_blocks: self.walked,
        };
        under_way.then_some(stats)
    }

    /// Whether it goes from unit to unit.
    fn walking(&self) -> bool {
        use Stage::{Bitmaps, Cuts, Directory, Headers, History, HistoryPage, Map, Rows};
        matches!(
            self.stage,
            Map | Cuts | Bitmaps | Directory | Rows(_) | History(_) | HistoryPage | Headers(_)
        )
    }

    /// Bounds its rate, in blocks a second; 0 is no bound.
    pub fn set_rate(&mut self, blocks: u64) {
        self.pace.set_rate(blocks);
    }

    /// When it goes on, if it rests.
    pub fn rests_until(&self) -> Option<Instant> {
        let rests = self.walking() && self.unit.is_empty();
        self.pace.deadline().filter(|_| rests)
    }

    fn unit_busy(&self) -> bool {
        self.reading > 0 || self.writing
    }
}

impl Group {
    /// A drive of the group that is not current can be used again. Ignored while another one is resynced: the
    /// caller sees that in the figures and asks again.
    pub fn drive_returned(&mut self, drive: NewDrive) {
        if self.resync.idle() {
            self.resync.asked = Some(drive);
        }
        self.again = true;
    }

    /// Takes the resync further.
    pub fn advance_resync<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        if self.resync.stage == Stage::Idle && self.resync.asked.is_none() {
            return;
        }
        if self.halt.is_some() || self.config.read_only || self.closing {
            self.resync.asked = None;
            self.give_up_resync();
        }
        if let Some(blocks) = self.resync.ended.take() {
            let waits = self.slots.order.iter().any(|id| !self.slots.get(*id).finished);
            self.resync.pace.done(turn.now, blocks, waits);
        }
        if self.resync.unit_busy() {
            return;
        }
        if !self.resync.unit.is_empty() && !matches!(self.resync.stage, Stage::Probe | Stage::Leaving) {
            return self.unit_on(turn);
        }
        if self.resync.walking() && !self.resync.pace.may_go(turn.now) {
            return;
        }
        match self.resync.stage {
            Stage::Idle => self.begin_resync(),
            Stage::Quiet => self.probe(turn),
            Stage::Probe => self.judge_probe(turn),
            Stage::Announce(version) if self.writer.is_durable(version) => {
                self.resync_at(Stage::Commits(self.log.next_commit()));
            }
            Stage::Commits(commit)
                if self.log.complete_before(commit) || self.config.bug(Planted::ResyncTooEarly) =>
            {
                self.checkpoint.force = true;
                self.resync_at(Stage::Checkpoint(self.checkpoint.next_number()));
            }
            Stage::Checkpoint(number) => self.checkpoint_step(number),
            Stage::Map | Stage::Cuts | Stage::Bitmaps => self.walk_on(turn),
            Stage::Directory => self.copy_directory(turn),
            Stage::Rows(from) => self.copy_rows(turn, from),
            Stage::History(page) => self.copy_history(turn, page),
            Stage::Headers(row) => self.copy_headers(turn, row),
            Stage::Flush(ticket)
                if self.flusher.is_done(ticket) || self.config.bug(Planted::ResyncNotFlushed) =>
            {
                self.name_it();
            }
            Stage::Name(version) if self.writer.is_durable(version) => self.tell_it(turn, version),
            Stage::Leaving => self.leave_resync(),
            _ => {}
        }
    }

    fn resync_at(&mut self, stage: Stage) {
        self.resync.stage = stage;
        self.again = true;
    }

    fn begin_resync(&mut self) {
        let Some(asked) = self.resync.asked.take().filter(|_| self.opening.is_none()) else { return };
        let Some(at) = self.superblock.drives.iter().position(|entry| entry.drive == asked.uuid) else {
            return;
        };
        let drive = DriveIx::new(at as u8);
        let out = matches!(self.drives.get(drive).health, Health::Stale | Health::Missing);
        if !out
            || self.superblock.drives[at].state.is_current()
            || asked.blocks < self.drives.get(drive).info.blocks
        {
            return;
        }
        self.resync.drive = drive;
        self.resync.asked = Some(asked);
        (self.resync.copied, self.resync.lost, self.resync.walked) = (0, 0, 0);
        self.resync.pace.rewind();
        self.resync_at(Stage::Quiet);
    }

    /// Reads what the drive says of itself, once nothing of its former life is in flight.
    fn probe<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        let drive = self.resync.drive;
        if self.ops.busy_on(drive) || !self.room(turn, 2) {
            return;
        }
        let asked = self.resync.asked.take().expect("a drive that returned");
        let place = self.drives.get_mut(drive);
        place.handle = asked.handle;
        (place.info.volatile, place.info.blocks) = (asked.volatile, asked.blocks);
        assert!(place.reads_in_flight == 0, "a drive without operations has no reads in flight");
        self.resync.unit.clear();
        let home = self.superblock.homes().map(|home| home.extent).find(|extent| extent.drive == drive);
        if let Some(home) = home {
            for (i, slot) in fixed::SUPERBLOCKS.iter().enumerate() {
                let purpose = Purpose::Copy { first: i as u8, count: 1, leg: u8::MAX };
                let memory = [Segment { buf: self.unit_buffer(i), blocks: 1 }];
                let token = self.ops.start(purpose, drive, false);
                self.drives.get_mut(drive).reads_in_flight += 1;
                turn.out.drive(
                    token,
                    asked.handle,
                    DriveOp::Read,
                    self.geometry.drive_block(home, *slot),
                    &memory,
                );
                self.resync.reading += 1;
                self.resync.unit.push(Item {
                    pba: Pba::ZERO,
                    check: Check::NONE,
                    tried: 0,
                    ready: false,
                    lost: false,
                });
            }
        }
        self.resync_at(Stage::Probe);
    }

    /// Whether what the drive has is the group's up to S and C; a drive without superblocks cannot say.
    fn probe_agrees<M: Memory>(&self, turn: &Turn<'_, M>, ckpt: CkptNo) -> bool {
        let read = (0..self.resync.unit.len()).filter(|i| self.resync.unit[*i].ready);
        let found = read.filter_map(|i| Superblock::decode(turn.memory.block(self.unit_buffer(i))).ok());
        let Some((newest, _)) = found.max_by_key(|(superblock, _)| superblock.newness()) else {
            return false;
        };
        let ours = |line: rlog::Line| {
            let now = self.superblock.line;
            now.iter()
                .chain(&self.history)
                .any(|known| (known.generation, known.id) == (line.generation, line.id))
        };
        newest.group == self.superblock.group && newest.ckpt >= ckpt && newest.line.is_some_and(ours)
    }

    fn judge_probe<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        let drive = self.resync.drive;
        let at = usize::from(drive.get());
        let entry = self.superblock.drives[at];
        let (_, ckpt) = entry.state.since().expect("a drive that is not current");
        let known = if self.probe_agrees(turn, ckpt) || self.config.bug(Planted::ResyncUnprobed) {
            Ok(entry.state)
        } else {
            entry.state.after(Event::Diverge)
        };
        self.resync.unit.clear();
        let state = known.and_then(|state| state.after(Event::BeginResync)).expect("a stale copy");
        let (seq, ckpt) = state.since().expect("a copy that is resynced");
        let version = self.writer.want();
        let entry = &mut self.superblock.drives[at];
        (entry.state, entry.version) = (state, version);
        self.drives.get_mut(drive).health = Health::Resyncing;
        (self.resync.seq, self.resync.ckpt) = (seq, ckpt);
        self.resync.began = Seq::new(self.log.next_seq.get() - 1);
        self.resync_at(Stage::Announce(version));
    }

    fn checkpoint_step(&mut self, number: CkptNo) {
        // With nothing new since the last one there is no checkpoint, and the log behind it is empty.
        let nothing =
            self.checkpoint.idle() && self.active.is_empty() && self.log.idle() && !self.checkpoint.force;
        if self.checkpoint.durable() >= number || nothing {
            self.resync.fresh = number;
            self.resync.walk = Walk::new(self.resync.ckpt, 0);
            return self.resync_at(Stage::Map);
        }
        // An attempt that found nothing to do took the wish with it.
        self.again |= !core::mem::replace(&mut self.checkpoint.force, true);
    }

    /// The drive failed: what it has is what it had.
    pub fn resync_failed(&mut self) {
        let drive = self.resync.drive;
        assert!(self.drives.is(drive, Health::Resyncing));
        self.drives.get_mut(drive).health = Health::Stale;
        let version = self.writer.want();
        let entry = &mut self.superblock.drives[usize::from(drive.get())];
        let fail = Event::Fail { seq: Seq::ZERO, ckpt: CkptNo::ZERO };
        (entry.state, entry.version) = (entry.state.after(fail).expect("a copy may fail"), version);
        if self.config.bug(Planted::ResyncFailureCounts) {
            entry.state = fence::CopyState::Stale { seq: self.durable, ckpt: self.superblock.ckpt };
        }
        self.resync_at(Stage::Leaving);
    }

    fn give_up_resync(&mut self) {
        match self.resync.stage {
            Stage::Idle | Stage::Leaving => {}
            Stage::Quiet | Stage::Probe => {
                self.resync.asked = None;
                self.resync_at(Stage::Leaving);
            }
            // It is complete, and the version that says so may be durable: this goes to its end, or to the next open.
            Stage::Name(_) | Stage::Tell(_) => {}
            _ => self.resync_failed(),
        }
    }

    fn leave_resync(&mut self) {
        self.end_unit();
        self.resync.stage = Stage::Idle;
        self.again = true;
    }

    /// Everything was copied and flushed.
    fn name_it(&mut self) {
        let drive = self.resync.drive;
        let version = self.writer.want();
        let entry = &mut self.superblock.drives[usize::from(drive.get())];
        let state = entry.state.after(Event::FinishResync).expect("a copy that was resynced");
        (entry.state, entry.version) = (state, version);
        let (durable, ckpt) = (self.durable, self.superblock.ckpt);
        let place = self.drives.get_mut(drive);
        place.health = Health::Returning;
        (place.flushed, place.flushed_ckpt) = (durable, ckpt);
        self.writer.forget_stored(drive);
        self.resync_at(Stage::Name(version));
    }

    fn tell_it<M: Memory>(&mut self, turn: &mut Turn<'_, M>, version: u64) {
        if !self.drives.is(self.resync.drive, Health::Returning) {
            // It failed meanwhile, as a current drive does.
            return self.resync_at(Stage::Leaving);
        }
        if turn.fits(1) {
            turn.out.push(Action::StoreCurrent { drive: self.resync.drive, version });
            self.resync_at(Stage::Tell(version));
        }
    }

    /// The catalogue calls the drive current.
    pub fn current_stored(&mut self, version: u64) {
        if self.resync.stage != Stage::Tell(version) {
            return;
        }
        let place = self.drives.get_mut(self.resync.drive);
        if place.health == Health::Returning {
            place.health = Health::Current;
        }
        self.resync_at(Stage::Leaving);
    }
}
