//! A sweep: everything that the superblock leads to is visited, block by block, while the group goes on.
//!
//! Three errands send it. A *resync* (`resync.rs`) brings what a drive lacks to that drive; a *move* (`moving.rs`) what
//! one drive has to others; a *scrub* (`scrub.rs`) reads every copy that counts and has wrong ones written again. They
//! share the way: a checkpoint first, so that all
//! that matters lies below the directory; then map, cut subtrees, bitmap tree with bitmaps, the directory's own
//! pages, row and history pages, headers. Blocks go a unit at a time; a unit holds its blocks from the look-up until
//! its last write has ended, so that a block is never handed out under it. Between two units it rests (`pace.rs`).
//!
//! One errand at a time. A drive that comes back goes first: a scrub or a move stands aside at the end of a unit and
//! goes on where it was.
//!
//! Row pages lie where growth writes new ones, so the two take turns (`holds_growth`).
mod copy;
mod log;
mod slots;
mod verify;
mod walk;

use super::pace::Pace;
use super::scrub::What;
use super::{Group, Turn};
use crate::keys::{Form, Keyed};
use crate::ops::Job;
use alloc::vec::Vec;
use base::{Check, CkptNo, CommitNo, DriveIx, Fault, Instant, NewDrive, Pba, Phase, Seq, VolumeId};
use cow::space_layout::CUTS_MAX;
use cow::{PAGE_REFS, Ref, Walk};

/// Blocks of a unit at most: the data of a leaf and the pages that lead to it.
pub(crate) const UNIT_BLOCKS: u32 = PAGE_REFS as u32 + 8;
const _: () = assert!(rlog::MAX_COMMIT_BLOCKS <= UNIT_BLOCKS);

/// A page or block that no leg has right is asked for so many times more before it is lost: an error that passes must not
/// leave behind what lies below it.
const ASKS_AGAIN: u8 = 3;

/// In place of a leg: the drive itself that a resync is for.
pub(super) const OWN: u8 = u8::MAX;

/// What a sweep is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Errand {
    None,
    Resync,
    Move,
    Scrub,
}

/// A block of a unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub pba: Pba,
    pub check: Check,
    /// Of data the Seq of its write.
    pub when: Seq,
    /// Of pages the checkpoint that wrote it.
    pub ckpt: CkptNo,
    /// Legs that it was read from.
    pub tried: u8,
    /// Of those, the legs where it was not right.
    pub wrong: u8,
    /// It is read alone: a read of several failed.
    pub alone: bool,
    /// Its content is in the unit's buffer and right.
    pub ready: bool,
    /// No leg has it.
    pub lost: bool,
    /// How often all legs were asked again.
    pub asked: u8,
    /// Resync: the drive itself may have it, and is read first.
    pub shown: bool,
    /// Resync: the drive itself has it right.
    pub kept: bool,
    /// What it is.
    pub what: What,
}

impl Item {
    /// What a Ref leads to.
    pub fn new(to: &Ref, what: What) -> Self {
        Self {
            pba: to.pba,
            check: to.check,
            when: to.when,
            ckpt: to.ckpt(),
            tried: 0,
            wrong: 0,
            alone: false,
            ready: false,
            lost: false,
            asked: 0,
            shown: false,
            kept: false,
            what,
        }
    }

    /// Whether nobody knows yet what becomes of it.
    pub fn is_open(&self) -> bool {
        !(self.ready || self.lost || self.kept)
    }

    /// How it got its check.
    pub fn form(&self, volume: VolumeId) -> Form {
        match self.what {
            What::Data(lba) => Form::Data(volume, lba, self.when),
            What::Page { .. } | What::CutPage | What::Bitmap(_) | What::BitmapPage | What::Directory => {
                Form::Page(self.ckpt)
            }
            What::RowPage | What::HistoryPage => Form::Home,
            What::Unknown | What::Header { .. } | What::Superblock | What::Commit(_) => Form::Plain,
        }
    }
}

/// Where a sweep stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Idle,
    /// Resync: nothing of the drive's former life may be in flight.
    Quiet,
    /// Resync: the drive says what it is.
    Probe,
    /// Resync: its ring, from here on, says how much had been flushed there.
    ProbeRing(u32),
    /// This superblock version calls the drive resyncing, or those that are to take over.
    Announce(u64),
    /// The ring of a drive that is new or unproven, or of those that take over the home row, is wiped from this offset on.
    WipeRing(u32),
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
    /// It is being read, and says which one is before it.
    HistoryPage,
    Headers(u32),
    /// Scrub: superblock slots.
    Slots,
    /// Scrub: the log, up to this commit.
    Log(CommitNo),
    Flush(u64),
    /// Resync: a checkpoint behind the last copy.
    Last(CkptNo),
    /// Resync: this version calls the drive current.
    Name(u64),
    /// Resync: the catalogue hears of it.
    Tell(u64),
    /// Move: row pages are being written.
    MovePages,
    /// Move: this flush is behind them.
    MoveFlush(u64),
    /// Move: this version names the drives that take over.
    NameMoved(u64),
    /// Move: the catalogue hears of this one.
    TellMoved(u64, DriveIx),
    /// Move: reads of a leg that is dropped end, those that were started by then.
    DropReads(u64),
    /// Move: superblock slots of extents that were left, or are not taken over after all, on drives that stay, are wiped;
    /// they were; this flush is behind it.
    Wipe,
    Wiped,
    WipeFlush(u64),
    /// Move: drives that are left go stale.
    Retire,
    /// Move: this version names the old rows again.
    Unname(u64),
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
    /// Blocks that the drive was found to have right, so far: it could not say itself what it has.
    pub kept_blocks: u64,
    /// Blocks that no leg has right.
    pub lost_blocks: u64,
    /// Blocks of the volume that were looked at, with or without need to copy them.
    pub walked_blocks: u64,
}

/// A sweep of one errand at a time.
#[derive(Debug)]
pub(crate) struct Sweep {
    pub(super) errand: Errand,
    pub(super) stage: Stage,
    pub(super) asked: Option<NewDrive>,
    /// It had a row when it was handed back.
    pub(super) asked_named: bool,
    /// Resync: the drive, and what it has.
    pub(super) drive: DriveIx,
    pub(super) seq: Seq,
    pub(super) ckpt: CkptNo,
    /// Resync of an unproven copy: its S and C. What is not newer is read there first.
    pub(super) shows: Option<(Seq, CkptNo)>,
    /// Resync, while the drive's ring is read: the state of its copy but for that, and what was found.
    pub(super) believed: fence::CopyState,
    pub(super) witness: Option<rlog::Witness>,
    /// Resync: the drive has not the header of its extent of the home row.
    pub(super) header_lost: bool,
    /// Last Seq handed out when it began: what is newer reached the drive by itself.
    pub(super) began: Seq,
    /// Pages of this checkpoint and newer ones reached the drive by themselves.
    pub(super) fresh: CkptNo,
    pub(super) walk: Walk,
    cut: Option<Ref>,
    cuts_done: Vec<Ref>,
    pub(super) unit: Vec<Item>,
    pub(super) reading: u32,
    pub(super) writing: bool,
    pub(super) batch: Option<u64>,
    pub(super) copied: u64,
    pub(super) kept: u64,
    pub(super) lost: u64,
    /// How often the walk has asked for a page that nobody had.
    asked_in_vain: u8,
    pub(super) pace: Pace,
    /// Bounds in blocks a second, of either errand; 0 is none.
    pub resync_rate: u64,
    pub scrub_rate: u64,
    /// The last resync that made its drive current.
    pub last: Option<ResyncStats>,
    /// The guest waited for something since the last unit ended.
    guest_waits: bool,
    /// Blocks of a unit that ended and was not paced yet.
    ended: Option<u64>,
    /// Blocks of the volume that the walk of the map has passed.
    pub(super) walked: u64,
    pub(super) scrub: super::scrub::Scrub,
    log: log::LogWalk,
    slots: slots::SlotsRead,
    verify: verify::Verify,
}

impl Sweep {
    pub fn new() -> Self {
        Self {
            errand: Errand::None,
            stage: Stage::Idle,
            asked: None,
            asked_named: false,
            drive: DriveIx::ZERO,
            seq: Seq::ZERO,
            ckpt: CkptNo::ZERO,
            shows: None,
            believed: fence::CopyState::EMPTY,
            witness: None,
            header_lost: false,
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
            kept: 0,
            lost: 0,
            asked_in_vain: 0,
            pace: Pace::new(),
            resync_rate: 0,
            scrub_rate: 0,
            last: None,
            guest_waits: false,
            ended: None,
            walked: 0,
            scrub: super::scrub::Scrub::new(),
            log: log::LogWalk::default(),
            slots: slots::SlotsRead::default(),
            verify: verify::Verify::Read,
        }
    }

    /// Whether row pages are being read or copied: growth waits.
    pub fn holds_growth(&self) -> bool {
        matches!(self.stage, Stage::Rows(_) | Stage::History(_) | Stage::HistoryPage | Stage::Headers(_))
    }

    /// Whether this drive is about to be called resyncing, and nobody has said so durably, or its ring is not ready.
    pub fn is_announced(&self, drive: DriveIx) -> bool {
        let early = matches!(self.stage, Stage::Announce(_) | Stage::WipeRing(_));
        self.errand == Errand::Resync && early && self.drive == drive
    }

    /// Whether successors get nothing yet but what is wiped: their rings are not ready.
    pub fn prepares_move(&self) -> bool {
        self.errand == Errand::Move && matches!(self.stage, Stage::Announce(_) | Stage::WipeRing(_))
    }

    /// The resync that is under way.
    pub fn resync_stats(&self) -> Option<ResyncStats> {
        let under_way = self.errand == Errand::Resync && self.stage != Stage::Leaving;
        under_way.then_some(self.resync_so_far())
    }

    /// What the resync of this drive has done.
    pub(super) fn resync_so_far(&self) -> ResyncStats {
        ResyncStats {
            drive: self.drive,
            copied_blocks: self.copied,
            kept_blocks: self.kept,
            lost_blocks: self.lost,
            walked_blocks: self.walked,
        }
    }

    /// Whether it goes from unit to unit.
    pub(super) fn walking(&self) -> bool {
        use Stage::{Bitmaps, Cuts, Directory, Headers, History, HistoryPage, Log, Map, Rows, Slots};
        matches!(
            self.stage,
            Map | Cuts
                | Bitmaps
                | Directory
                | Rows(_)
                | History(_)
                | HistoryPage
                | Headers(_)
                | Slots
                | Log(_)
        )
    }

    /// When it goes on, if it rests. A scrub without room for findings waits for whoever takes them, not for a time.
    pub fn rests_until(&self) -> Option<Instant> {
        let rests = self.walking() && self.unit.is_empty() && self.reading == 0;
        let full = self.errand == Errand::Scrub && self.scrub.is_full();
        self.pace.deadline().filter(|_| rests && !full)
    }

    pub(super) fn unit_busy(&self) -> bool {
        self.reading > 0 || self.writing
    }
}

impl Group {
    /// Takes the sweep further.
    pub fn advance_sweep<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        self.tell_over();
        if self.sweep.errand == Errand::None && !self.next_errand() {
            return;
        }
        if self.halt.is_some() || self.config.read_only || self.closing {
            self.give_up_sweep();
        }
        self.sweep.guest_waits |= self.slots.order.iter().any(|id| !self.slots.get(*id).finished);
        if let Some(blocks) = self.sweep.ended.take() {
            let waits = core::mem::take(&mut self.sweep.guest_waits);
            let rate = match self.sweep.errand {
                Errand::Scrub => self.sweep.scrub_rate,
                _ => self.sweep.resync_rate,
            };
            self.sweep.pace.done(turn.now, blocks, (rate, waits));
        }
        if self.sweep.errand == Errand::Move && self.sweep.walking() {
            self.look_at_successors();
        }
        if self.sweep.unit_busy() {
            return;
        }
        if !self.sweep.unit.is_empty() && !matches!(self.sweep.stage, Stage::Probe | Stage::Leaving) {
            return self.unit_on(turn);
        }
        let walks = self.sweep.walking();
        // What a scrub mends keeps a checkpoint off.
        let scrubs = walks && self.sweep.errand == Errand::Scrub;
        if self.stands_aside()
            || (walks && !self.sweep.pace.may_go(turn.now))
            || (scrubs && self.checkpoint_waits())
        {
            return;
        }
        let stage = self.sweep.stage;
        match stage {
            Stage::Quiet => self.probe(turn),
            Stage::Probe => self.judge_probe(turn),
            Stage::ProbeRing(offset) => self.probe_ring(turn, offset),
            Stage::Announce(version) if self.writer.is_durable(version) => {
                if self.wipes_ring() {
                    self.sweep_to(Stage::WipeRing(0))
                } else {
                    self.announced()
                }
            }
            Stage::WipeRing(offset) => self.wipe_ring(turn, offset),
            Stage::Commits(commit) if self.log.complete_before(commit) => {
                let number = self.next_checkpoint();
                self.sweep_to(Stage::Checkpoint(number));
            }
            Stage::Checkpoint(number) if self.checkpointed(number) => {
                self.sweep.fresh = number;
                self.begin_walk();
            }
            Stage::Last(number) if self.checkpointed(number) => match self.sweep.errand {
                Errand::Move => self.name_successors(turn),
                _ => self.name_it(),
            },
            Stage::MovePages => self.write_successor_pages(turn),
            Stage::MoveFlush(ticket) if self.flusher.is_done(ticket) => self.name_moved(),
            Stage::NameMoved(version) if self.writer.is_durable(version) => self.tell_moved(turn, version),
            Stage::DropReads(started) => self.drop_reads(started),
            Stage::Wipe => self.wipe_slots(turn),
            Stage::Wiped => self.slots_wiped(),
            Stage::WipeFlush(ticket) if self.flusher.is_done(ticket) => self.wipe_ended(),
            Stage::Retire => self.retire(),
            Stage::Unname(version) if self.writer.is_durable(version) => self.unnamed(),
            Stage::Map | Stage::Cuts | Stage::Bitmaps => self.walk_on(turn),
            Stage::Directory => self.visit_directory(),
            Stage::Rows(from) => self.visit_rows(from),
            Stage::History(page) => self.visit_history(page),
            Stage::Headers(row) => self.visit_headers(turn, row),
            Stage::Slots => self.visit_slots(turn),
            Stage::Log(end) => self.visit_log(turn, end),
            Stage::Flush(ticket) if self.flusher.is_done(ticket) => self.swept(),
            Stage::Name(version) if self.writer.is_durable(version) => self.tell_it(turn, version),
            Stage::Leaving => self.leave_sweep(),
            _ => {}
        }
    }

    pub(super) fn sweep_to(&mut self, stage: Stage) {
        self.sweep.stage = stage;
        self.again = true;
    }

    /// Begins what is asked for, drives first. False if nothing is.
    fn next_errand(&mut self) -> bool {
        if self.halt.is_some() || self.config.read_only || self.closing {
            self.sweep.asked = None;
            self.refuse_move();
            return self.resume_move();
        }
        if self.paused_in_vain() {
            return self.resume_move();
        }
        // A move that waits for the growth under way keeps a scrub from beginning only to stand aside again.
        self.begin_resync()
            || self.resume_move()
            || if self.move_waits() { self.begin_move() } else { self.begin_scrub() }
    }

    /// Asks for a checkpoint.
    pub(super) fn next_checkpoint(&mut self) -> CkptNo {
        self.checkpoint.force = true;
        self.again = true;
        self.checkpoint.next_number()
    }

    /// Whether a checkpoint that was asked for is durable, or there is nothing that it could hold.
    pub(super) fn checkpointed(&mut self, number: CkptNo) -> bool {
        // With nothing new since the last one there is no checkpoint, and the log behind it is empty.
        let nothing =
            self.checkpoint.idle() && self.active.is_empty() && self.log.idle() && !self.checkpoint.force;
        if self.checkpoint.durable() >= number || nothing {
            return true;
        }
        // An attempt that found nothing to do took the wish with it. While commits are in flight there may be nothing to
        // do until one ends, which wakes everybody: a slow drive kept a resync asking here without a pause.
        self.again |= !core::mem::replace(&mut self.checkpoint.force, true) && self.log.idle();
        false
    }

    fn give_up_sweep(&mut self) {
        match self.sweep.errand {
            // It waits for what it has in flight.
            _ if self.sweep.stage == Stage::Leaving => {}
            Errand::None => {}
            Errand::Resync => self.give_up_resync(),
            Errand::Move => self.give_up_move(),
            Errand::Scrub => self.sweep_to(Stage::Leaving),
        }
    }

    fn leave_sweep(&mut self) {
        // What was given up on a drive may still land there, and nowhere else: nobody waits for that but the word that a
        // move is over (`tell_over`).
        //
        // Crash story: none, but a long one. A successor hung. The blocks that were to be copied to it stayed held, so the
        // checkpoint could not release what it had freed; and the places of new row pages stayed taken, so no row could
        // come. A guest's write waited for minutes for a drive that had nothing to do with it.
        self.end_unit();
        self.forget_successor_pages();
        if self.move_lingers() {
            return;
        }
        // A group that closes writes both anyway.
        if self.phase == Phase::Serving && self.halt.is_none() {
            self.leave_slots();
            self.leave_log();
        }
        self.sweep.verify = verify::Verify::Read;
        (self.sweep.stage, self.sweep.errand) = (Stage::Idle, Errand::None);
        self.again = true;
    }

    /// Everything was visited and flushed.
    fn swept(&mut self) {
        match self.sweep.errand {
            Errand::Resync | Errand::Move => {
                let number = self.next_checkpoint();
                self.sweep_to(Stage::Last(number));
            }
            _ => self.scrub_ended(),
        }
    }

    /// A unit goes on: what is not there yet is read, then it is delivered.
    fn unit_on<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if !self.room_beside_writes(turn, UNIT_BLOCKS as usize) {
            return;
        }
        match self.sweep.errand {
            Errand::Scrub => self.verify_unit(turn),
            _ => self.copy_unit(turn),
        }
    }

    /// A read of a sweep ended.
    pub fn sweep_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        (first, count, leg): (u8, u8, u8),
        result: Result<(), Fault>,
    ) {
        self.sweep.reading -= 1;
        self.again = true;
        match (self.sweep.stage, self.sweep.errand) {
            // Given up: nobody wants it any more.
            (Stage::Leaving, _) => {}
            // Of the probe: the content is its own check.
            (Stage::Probe, _) => self.sweep.unit[usize::from(first)].ready = result.is_ok(),
            (Stage::ProbeRing(offset), _) => {
                self.probe_ring_read(turn, (offset, u32::from(count)), result);
            }
            (Stage::Slots, _) => self.slot_read_ended(turn, usize::from(first), result),
            (Stage::Log(_), _) => self.log_read_ended(turn, (count, leg), result),
            (_, Errand::Scrub) => self.verify_read_ended(turn, (first, count, leg), result),
            _ => self.copy_read_ended(turn, (first, count, leg), result),
        }
    }

    /// The writes of a unit, of row pages, or of what is wiped have ended.
    pub fn copy_written(&mut self, job: Job) {
        self.sweep.writing = false;
        if job.lost {
            self.copy_lost();
        }
        self.unit_done(self.sweep.unit.len());
    }

    /// A unit of so many blocks is over.
    fn unit_done(&mut self, blocks: usize) {
        self.sweep.ended = Some(blocks as u64);
        self.end_unit();
        self.again = true;
    }

    pub(super) fn end_unit(&mut self) {
        self.sweep.unit.clear();
        if let Some(batch) = self.sweep.batch.take() {
            self.holds.release(batch);
        }
    }
}
