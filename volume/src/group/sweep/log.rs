//! A scrub's look at the log: every commit behind the checkpoint, on every leg.
//!
//! The log moves: commits are added, and a checkpoint gives the oldest up. So the look goes as far as the log reached
//! when it began, and whatever was given up while it was being read does not count. A commit that is wrong on a leg
//! is not written again: a checkpoint is made, behind which nobody needs it. That comes last, for it would give up
//! commits that were not looked at yet, and what is wrong with those would never be named.
use super::Stage;
use crate::group::scrub::{Finding, Outcome, What};
use crate::group::{Group, Turn};
use crate::keys::Keyed;
use crate::ops::Purpose;
use base::{Check, CkptNo, CommitNo, Fault, LegId, Segment};
use rlog::{Commit, MAX_COMMIT_BLOCKS, ring::Positions};

/// Where the look stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct LogWalk {
    /// The commit that is looked at, and the check of the one before it.
    no: CommitNo,
    previous: Check,
    positions: Positions,
    /// It may lie at the begin of the next piece instead: there now.
    skipped: bool,
    tried: u8,
    wrong: u8,
    /// Blocks that were read for this commit: more than it has, for how long it is shows only then.
    read: u32,
    /// What a right copy says: check and length.
    found: Option<(Check, u32)>,
    /// Something was wrong so far.
    damaged: bool,
    /// The checkpoint that makes what was wrong superfluous.
    mends: Option<CkptNo>,
}

impl Group {
    /// Begins with the oldest commit that is kept.
    pub(super) fn begin_log(&mut self) {
        self.sweep.log = LogWalk::default();
        self.log_from_tail();
        self.sweep_to(Stage::Log(self.log.mark.next));
    }

    fn log_from_tail(&mut self) {
        let (damaged, mends) = (self.sweep.log.damaged, self.sweep.log.mends);
        let (no, previous) = (self.superblock.next_commit, self.superblock.previous);
        let positions = self.superblock.ring_start;
        self.sweep.log = LogWalk { no, previous, positions, damaged, mends, ..LogWalk::default() };
    }

    /// Looks at the next copy of a commit.
    pub(super) fn visit_log<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, end: CommitNo) {
        if self.superblock.next_commit > self.sweep.log.no {
            self.log_from_tail();
        }
        if self.sweep.log.no >= end {
            return self.end_log();
        }
        let column = self.log.ring.shape().column_of(self.sweep.log.no);
        let offset = self.log_offset();
        let (row, block, _) = self.geometry.ring_place(offset);
        let unread = |leg: &LegId| {
            let drive = self.extent(row, *leg, column).drive;
            self.sweep.log.tried >> leg.get() & 1 == 0 && self.drives.current(drive)
        };
        let Some(leg) = self.legs().find(unread) else { return self.judge_commit(end) };
        let blocks = self.log.ring.shape().left_in_piece(offset).min(MAX_COMMIT_BLOCKS);
        if !self.room_beside_writes(turn, 1) {
            return;
        }
        let place = crate::geometry::Place { row, column, block };
        let contiguous = self.geometry.pba(place);
        let purpose = Purpose::Copy { first: 0, count: blocks as u8, leg: leg.get() };
        let memory = Segment { buf: self.unit_buffer(0), blocks };
        self.sweep.log.tried |= 1 << leg.get();
        self.sweep.log.read += blocks;
        self.sweep.reading += 1;
        self.read_leg(turn, purpose, leg, contiguous, memory);
    }

    /// Where the commit is looked for.
    fn log_offset(&self) -> u32 {
        let (log, shape) = (&self.sweep.log, self.log.ring.shape());
        let at = log.positions.of(shape.column_of(log.no));
        if log.skipped { shape.advance(at, shape.left_in_piece(at)) } else { at }
    }

    pub(super) fn log_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        (count, leg): (u8, u8),
        result: Result<(), Fault>,
    ) {
        let offset = self.log_offset();
        let bytes = turn.memory.blocks(self.unit_buffer(0), u32::from(count));
        let log = &mut self.sweep.log;
        let found = Commit::parse(bytes).ok().filter(|view| {
            let fields = view.fields();
            result.is_ok()
                && (fields.group, fields.no, fields.offset, fields.previous)
                    == (self.superblock.group, log.no, offset, log.previous)
        });
        match found {
            Some(view) => log.found = Some((view.check(), Commit::blocks(bytes).expect("a whole commit"))),
            None => log.wrong |= 1 << leg,
        }
        self.sweep.scrub.stats.checked_copies += 1;
    }

    /// All copies of a commit were read.
    fn judge_commit(&mut self, end: CommitNo) {
        self.again = true;
        let log = self.sweep.log;
        let shape = self.log.ring.shape();
        let column = shape.column_of(log.no);
        let short = shape.left_in_piece(log.positions.of(column)) < MAX_COMMIT_BLOCKS;
        if log.found.is_none() && short && !log.skipped {
            self.sweep.log = LogWalk { skipped: true, tried: 0, wrong: 0, ..log };
            return;
        }
        let offset = self.log_offset();
        let (row, block, _) = self.geometry.ring_place(offset);
        for leg in self.legs().filter(|leg| log.wrong >> leg.get() & 1 == 1) {
            let extent = self.extent(row, leg, column);
            self.drives.get_mut(extent.drive).stats.check_errors += 1;
            let at = self.geometry.drive_block(extent, block);
            let what = What::Commit(log.no);
            self.note(Finding { what, drive: extent.drive, at, outcome: Outcome::Repaired });
            self.sweep.log.damaged = true;
        }
        let Some((check, blocks)) = log.found else {
            // What comes behind cannot be found; a checkpoint makes all of it superfluous.
            self.sweep.log.no = end;
            return;
        };
        let mut positions = log.positions;
        positions.0[usize::from(column.get())] = self.log.ring.shape().advance(offset, blocks);
        let damaged = self.sweep.log.damaged;
        self.sweep.log =
            LogWalk { no: log.no.next(), previous: check, positions, damaged, ..LogWalk::default() };
        // So that it rests, as long as what was read on all legs asks for.
        self.unit_done(log.read as usize);
    }

    /// A scrub ends where it is: what it called right is right only behind a checkpoint.
    pub(super) fn leave_log(&mut self) {
        let log = core::mem::take(&mut self.sweep.log);
        if log.damaged && log.mends.is_none() {
            self.next_checkpoint();
        }
    }

    /// The look is over once nobody needs what was wrong.
    fn end_log(&mut self) {
        if self.sweep.log.damaged && self.sweep.log.mends.is_none() {
            self.sweep.log.mends = Some(self.next_checkpoint());
        }
        if self.sweep.log.mends.is_some_and(|number| !self.checkpointed(number)) {
            return;
        }
        let ticket = self.flusher.ticket();
        self.sweep_to(Stage::Flush(ticket));
    }
}
