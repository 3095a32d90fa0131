//! Moves: everything that a group has on one drive goes to other drives, and the drive is left.
//!
//! One more copy, and then the rows switch. The drives that take over are in the drive table first, as copies that have
//! nothing (resyncing since 0), without a row. From then on whatever is written to an extent that moves is written to
//! its successor too, and the walk of the sweep copies what is there already. Then new row pages, and one superblock
//! version that names the successors, in rows, home row and drive table alike; the catalogue; and only then the rows
//! in memory switch. The drive that is left still gets every write until it is durably stale: catalogue, superblocks.
//! When nothing of it is in flight any more it is `left`, and its extents may be wiped and handed out.
//!
//! Crash story, step by step:
//! - Before the version that names the successors: the next activation finds the old rows, and drives in the table that
//!   have no row and nothing that counts. Their extents go back, or the move is asked for again.
//! - Between the copies of that version: either it is found, and the successors have everything, for they got it all
//!   and were flushed before; or the one before it, and the old drive has everything, for it still gets every write.
//! - After it, before the old drive is stale: found alone, the old drive would open with its old superblock, so writes
//!   must not miss it yet. That is why it is left through its stale mark, which the catalogue has first.
//! - A successor fails before the version is asked for: the move is given up, nobody else is touched. It fails after
//!   that, while the version is not durable: the next version names the old rows again and calls it stale, and what it
//!   missed waits for that, as with any drive that fails.
//!
//! While a drive is being left no row may lie on it: a grant with such a row goes back, and whoever waits for space waits
//! on (`growth.rs`). Names in the headers of the home row are the agent's, which writes them again after a move.
//!
//! Superblock slots are never copied: a superblock says where it lies. The successors' slots get the version that names
//! them.
use super::sweep::{Errand, Stage};
use super::{Group, Turn};
use crate::config::DriveStats;
use crate::drives::{Drive, Health};
use crate::label::extent_start;
use crate::ops::{JobKind, Run};
use crate::rows::RowPages;
use crate::superblock::Home;
use alloc::boxed::Box;
use alloc::vec::Vec;
use base::limits::{MAX_DRIVES, MAX_LEGS};
use base::{Action, Block, Change, CkptNo, DriveIx, Extent, ExtentNo, Memory, MoveGrant, NewDrive, Pba, Seq};
use fence::{CopyEntry, CopyState, DriveSet, Event};

/// A place that moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Moved {
    /// Index into the rows.
    index: usize,
    old: Extent,
    new: Extent,
}

/// How the last move came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveOutcome {
    /// Under way.
    Copying,
    /// It is done: nothing of the group is on what it left any more.
    Done,
    /// It was given up; the group is as it was.
    GivenUp(MoveRefusal),
}

/// Why a move did not take place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveRefusal {
    /// The grant does not fit the group: not all extents of the drive, a drive too small, two legs on one drive.
    Misfit,
    /// The drive table, or the pages of the home row, are full.
    TableFull,
    /// A drive that was to take over failed.
    DriveFailed,
    /// The group was closed or takes no writes any more.
    NotServing,
}

/// What a move is doing, or the last one did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoveStats {
    /// What was asked for.
    pub change: Change,
    /// How far it is.
    pub outcome: MoveOutcome,
    /// Blocks copied so far.
    pub copied_blocks: u64,
    /// Blocks of the volume that were looked at.
    pub walked_blocks: u64,
}

/// A move.
#[derive(Debug, Default)]
pub(crate) struct Moving {
    asked: Option<MoveGrant>,
    from: DriveIx,
    to: DriveSet,
    /// By old extent, while writes go to both.
    places: Vec<Moved>,
    /// The rows have switched: the old extents are the shadows now.
    switched: bool,
    pages: Option<RowPages>,
    /// New row pages were given up, and may still be on their way.
    forget: bool,
    /// Row pages that are yet to be written.
    unwritten: Vec<(Pba, Box<Block>)>,
    last: Option<(Change, MoveOutcome)>,
    /// It was given up when so many operations had been started: the successors may still be written by them.
    given_up: Option<(MoveRefusal, u64)>,
}

impl Moving {
    /// Whether extents have shadows.
    pub fn active(&self) -> bool {
        !self.places.is_empty()
    }

    /// Where a write to this extent goes too.
    pub fn shadow(&self, extent: Extent) -> Option<Extent> {
        if self.places.is_empty() {
            return None;
        }
        if self.switched {
            return self.places.iter().find(|place| place.new == extent).map(|place| place.old);
        }
        let at = self.places.binary_search_by_key(&key(extent), |place| key(place.old)).ok()?;
        Some(self.places[at].new)
    }

    /// Whether this drive takes over in the move that is under way.
    pub fn takes_over(&self, drive: DriveIx) -> bool {
        self.active() && self.to.contains(drive)
    }

    /// Whether an extent of this drive may not be added to the group: it is being left.
    pub fn leaves(&self, drive: DriveIx) -> bool {
        self.active() && self.from == drive
    }

    /// Whether new row pages are being made.
    pub fn holds_growth(&self) -> bool {
        self.pages.is_some() || self.forget
    }
}

fn key(extent: Extent) -> (u8, u32) {
    (extent.drive.get(), extent.extent.get())
}

impl Group {
    /// A drive is to be left.
    pub fn move_asked(&mut self, grant: MoveGrant) {
        if matches!(self.sweep.errand, Errand::None | Errand::Scrub) && self.moving.asked.is_none() {
            self.moving.last = Some((grant.change, MoveOutcome::Copying));
            self.moving.asked = Some(grant);
        }
        self.again = true;
    }

    /// How the move stands, or how the last one came out since the group was opened.
    pub fn move_stats(&self) -> Option<MoveStats> {
        let (change, outcome) = self.moving.last?;
        let (copied_blocks, walked_blocks) = (self.sweep.copied, self.sweep.walked);
        Some(MoveStats { change, outcome, copied_blocks, walked_blocks })
    }

    pub(super) fn move_waits(&self) -> bool {
        self.moving.asked.is_some()
    }

    fn end_move(&mut self, outcome: MoveOutcome) {
        if let Some(last) = &mut self.moving.last {
            last.1 = outcome;
        }
    }

    /// Begins with the move that was asked for. False if there is none, or it cannot be.
    pub(super) fn begin_move(&mut self) -> bool {
        // The table of a grant of growth counts on the drives that are listed now.
        if self.opening.is_some() || self.growth.has_grant() {
            return false;
        }
        let Some(grant) = self.moving.asked.take() else { return false };
        let known = match grant.change {
            Change::Leave(from) => self.superblock.drives.iter().position(|entry| entry.drive == from),
            _ => None,
        };
        let planned = known.map_or(Err(MoveRefusal::Misfit), |at| {
            let from = DriveIx::new(at as u8);
            self.plan_move(from, &grant).map(|places| (from, places))
        });
        let (from, places) = match planned {
            Ok(plan) => plan,
            Err(why) => {
                self.end_move(MoveOutcome::GivenUp(why));
                return false;
            }
        };
        self.moving.from = from;
        self.moving.to = DriveSet::EMPTY;
        for place in &places {
            self.moving.to.insert(place.new.drive);
        }
        (self.moving.places, self.moving.switched) = (places, false);
        self.sweep.errand = Errand::Move;
        (self.sweep.seq, self.sweep.ckpt) = (Seq::ZERO, CkptNo::ZERO);
        self.sweep.began = Seq::new(self.log.next_seq.get() - 1);
        (self.sweep.copied, self.sweep.lost, self.sweep.walked) = (0, 0, 0);
        self.sweep.pace.rewind();
        if self.moving.places.is_empty() {
            // The rows had switched, and a crash came before the drive was stale.
            self.retire_from();
            return true;
        }
        let version = self.writer.want();
        for entry in &mut self.superblock.drives {
            if matches!(entry.state, CopyState::Resyncing { .. }) {
                entry.version = version;
            }
        }
        self.sweep_to(Stage::Announce(version));
        true
    }

    /// Which places move where; new drives are listed.
    fn plan_move(&mut self, from: DriveIx, grant: &MoveGrant) -> Result<Vec<Moved>, MoveRefusal> {
        let here: Vec<usize> = (0..self.rows.len()).filter(|i| self.rows[*i].drive == from).collect();
        let mut news: Vec<(usize, ExtentNo)> = grant.extents.iter().map(|(_, to, new)| (*to, *new)).collect();
        let mut olds: Vec<ExtentNo> = grant.extents.iter().map(|(old, ..)| *old).collect();
        news.sort_unstable();
        olds.sort_unstable();
        let once =
            news.windows(2).all(|pair| pair[0] != pair[1]) && olds.windows(2).all(|pair| pair[0] != pair[1]);
        let whole =
            here.len() == olds.len() && grant.extents.iter().all(|extent| self.may_move(from, grant, extent));
        if !once || !whole || usize::from(self.geometry.legs) == MAX_LEGS {
            return Err(MoveRefusal::Misfit);
        }
        let mut listed: Vec<Option<DriveIx>> = Vec::with_capacity(grant.to.len());
        for (i, drive) in grant.to.iter().enumerate() {
            let used = grant.extents.iter().any(|(_, to, _)| *to == i);
            match used.then(|| self.list_drive(drive)).transpose() {
                Ok(index) => listed.push(index),
                Err(why) => {
                    let mut drives = DriveSet::EMPTY;
                    listed.iter().flatten().for_each(|index| drives.insert(*index));
                    self.unlist(drives);
                    return Err(why);
                }
            }
        }
        let moved = |index: usize| {
            let old = self.rows[index];
            let (_, to, new) =
                grant.extents.iter().find(|(no, ..)| *no == old.extent).expect("each is there");
            Moved { index, old, new: Extent { drive: listed[*to].expect("listed"), extent: *new } }
        };
        let mut places: Vec<Moved> = here.into_iter().map(moved).collect();
        places.sort_by_key(|place| key(place.old));
        Ok(places)
    }

    /// Whether an extent of the drive can go where it is to: it is the group's, its successor lies on its drive and is
    /// not the group's, and no other leg of its row is on that drive or goes there.
    fn may_move(
        &self,
        from: DriveIx,
        grant: &MoveGrant,
        (old, to, new): &(ExtentNo, usize, ExtentNo),
    ) -> bool {
        let Some(index) = self.rows.iter().position(|e| e.drive == from && e.extent == *old) else {
            return false;
        };
        let Some(drive) = grant.to.get(*to) else { return false };
        let end = extent_start(ExtentNo::new(new.get() + 1), self.geometry.extent_blocks);
        let uuid = |extent: &Extent| self.drives.get(extent.drive).info.uuid;
        let extents = self.geometry.row_extents();
        let row = &self.rows[index / extents * extents..][..extents];
        Change::Leave(drive.uuid) != grant.change
            && grant.to.iter().filter(|other| other.uuid == drive.uuid).count() == 1
            && end.get() <= drive.blocks.get()
            && row.iter().all(|other| uuid(other) != drive.uuid)
            && self.rows.iter().all(|other| uuid(other) != drive.uuid || other.extent != *new)
    }

    /// The place of a drive that takes over in the drive table. One that has no row of the group yet is listed as a
    /// copy that has nothing, at the place of one that is not current and has no row either, if there is such a one.
    fn list_drive(&mut self, drive: &NewDrive) -> Result<DriveIx, MoveRefusal> {
        let has_row = |group: &Self, at: usize| group.rows.iter().any(|e| usize::from(e.drive.get()) == at);
        let known = self.superblock.drives.iter().position(|entry| entry.drive == drive.uuid);
        if let Some(at) = known.filter(|at| has_row(self, *at)) {
            let index = DriveIx::new(at as u8);
            return if self.drives.current(index) { Ok(index) } else { Err(MoveRefusal::DriveFailed) };
        }
        let idle = |group: &Self, at: usize| {
            matches!(group.drives.list[at].health, Health::Stale | Health::Missing)
                && !group.superblock.drives[at].state.is_current()
                && !has_row(group, at)
                && !group.ops.busy_on(DriveIx::new(at as u8))
        };
        let count = self.superblock.drives.len();
        let at = match known {
            // One that was left and is not stale yet, or that is still at work.
            Some(at) if !idle(self, at) => return Err(MoveRefusal::DriveFailed),
            Some(at) => at,
            None => (0..count).find(|at| idle(self, *at)).unwrap_or(count),
        };
        if at == MAX_DRIVES {
            return Err(MoveRefusal::TableFull);
        }
        let info =
            crate::config::DriveInfo { uuid: drive.uuid, blocks: drive.blocks, volatile: drive.volatile };
        let place = Drive {
            info,
            handle: drive.handle,
            health: Health::Resyncing,
            flushed: Seq::ZERO,
            flushed_ckpt: CkptNo::ZERO,
            reads_in_flight: 0,
            stats: DriveStats::default(),
        };
        let state = CopyState::EMPTY.after(Event::BeginResync).expect("a copy that has nothing");
        let entry = CopyEntry { drive: drive.uuid, state, version: self.writer.wanted() + 1 };
        if at == count {
            self.drives.list.push(place);
            self.superblock.drives.push(entry);
        } else {
            (self.drives.list[at], self.superblock.drives[at]) = (place, entry);
        }
        let index = DriveIx::new(at as u8);
        self.writer.forget_stored(index);
        Ok(index)
    }

    /// Whether all drives that take over are well.
    fn successors_well(&self) -> bool {
        self.moving.to.iter().all(|drive| {
            matches!(self.drives.get(drive).health, Health::Current | Health::Resyncing | Health::Returning)
        })
    }

    /// One that is current for other rows and failed ends the move like any other.
    pub(super) fn look_at_successors(&mut self) {
        if !self.successors_well() {
            self.move_failed(MoveRefusal::DriveFailed);
        }
    }

    /// Everything was copied and a checkpoint is behind it: new row pages.
    pub(super) fn name_successors<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        if !self.successors_well() {
            return self.move_failed(MoveRefusal::DriveFailed);
        }
        if self.growth.changing() {
            return;
        }
        let mut rows = self.rows.clone();
        let mut first = rows.len();
        for place in &self.moving.places {
            rows[place.index] = place.new;
            first = first.min(place.index);
        }
        let paged = !self.superblock.row_pages.is_absent();
        let extended = if paged { self.row_pages.extended(&rows, first, &mut self.home_pages) } else { None };
        match extended {
            None if paged => return self.move_failed(MoveRefusal::TableFull),
            None => self.moving.pages = Some(self.row_pages.clone()),
            Some(extended) => {
                (self.moving.pages, self.moving.unwritten) = (Some(extended.tree), extended.written);
            }
        }
        self.write_successor_pages(turn);
    }

    /// Row pages, a few at a time; then a flush.
    pub(super) fn write_successor_pages<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        if self.moving.unwritten.is_empty() {
            let ticket = self.flusher.ticket();
            return self.sweep_to(Stage::MoveFlush(ticket));
        }
        self.sweep_to(Stage::MovePages);
        if !self.room(turn, 64) {
            return;
        }
        let count = self.moving.unwritten.len().min(crate::buffers::ROW_PAGE_BUFFERS as usize);
        let job = self.ops.open_job(JobKind::Copy);
        self.runs.clear();
        for (i, (pba, page)) in self.moving.unwritten.drain(..count).enumerate() {
            let buf = self.buffers.row_pages.plus(i as u32);
            *turn.memory.block_mut(buf) = *page;
            self.runs.push(Run { pba, buf, blocks: 1 });
        }
        self.write_runs(turn, job);
        self.sweep.writing = true;
        self.ops.seal_job(job);
    }

    /// The version that names the successors is asked for.
    pub(super) fn name_moved(&mut self) {
        if !self.successors_well() {
            return self.move_failed(MoveRefusal::DriveFailed);
        }
        let version = self.writer.want();
        for drive in self.moving.to.iter() {
            if !self.drives.is(drive, Health::Resyncing) {
                continue;
            }
            let entry = &mut self.superblock.drives[usize::from(drive.get())];
            let state = entry.state.after(Event::FinishResync).expect("a copy that was resynced");
            (entry.state, entry.version) = (state, version);
            let (durable, ckpt) = (self.durable, self.superblock.ckpt);
            let place = self.drives.get_mut(drive);
            place.health = Health::Returning;
            (place.flushed, place.flushed_ckpt) = (durable, ckpt);
        }
        let tree = self.moving.pages.as_ref().expect("row pages being named");
        if !self.superblock.row_pages.is_absent() {
            (self.superblock.row_pages, self.superblock.row_height) = tree.root();
        }
        self.name_homes(true);
        self.sweep_to(Stage::NameMoved(version));
    }

    /// The home row and the places of superblocks: the successors', or the old ones again.
    fn name_homes(&mut self, successors: bool) {
        let home = self.superblock.home.len();
        for place in self.moving.places.iter().filter(|place| place.index < home) {
            self.superblock.home[place.index] = if successors { place.new } else { place.old };
        }
        let homes: Vec<Home> = self.superblock.homes().collect();
        self.writer.set_homes(homes);
    }

    /// A drive that takes over failed while the version that names it may be durable here or there, and before the rows
    /// switched: the next one names the old rows again. Its own mark, which what it missed waits for, is in that
    /// version too.
    pub(super) fn unname_moved(&mut self) {
        if self.sweep.errand != Errand::Move
            || !matches!(self.sweep.stage, Stage::NameMoved(_) | Stage::TellMoved(..))
        {
            return;
        }
        self.name_homes(false);
        let (page, height) = self.row_pages.root();
        if !self.superblock.row_pages.is_absent() {
            (self.superblock.row_pages, self.superblock.row_height) = (page, height);
        }
        // The others that were to take over have nothing to take over.
        let version = self.writer.want();
        for drive in self.moving.to.iter() {
            // One that the catalogue was told of goes the long way, as a current one that failed.
            if !self.drives.is(drive, Health::Returning) {
                continue;
            }
            self.drives.get_mut(drive).health = Health::Failing;
            let entry = &mut self.superblock.drives[usize::from(drive.get())];
            (entry.state, entry.version) = (CopyState::EMPTY, version);
        }
        self.sweep_to(Stage::Unname(version));
    }

    /// The version is durable: the catalogue hears of each drive that is current now.
    pub(super) fn tell_moved<M: Memory>(&mut self, turn: &mut Turn<'_, M>, version: u64) {
        match self.moving.to.iter().find(|drive| self.drives.is(*drive, Health::Returning)) {
            _ if !self.successors_well() => {}
            Some(drive) if turn.fits(1) => {
                turn.out.push(Action::StoreCurrent { drive, version });
                self.sweep_to(Stage::TellMoved(version, drive));
            }
            Some(_) => {}
            None => self.switch_rows(),
        }
    }

    /// The rows in memory follow; the old drive still gets every write.
    fn switch_rows(&mut self) {
        for place in &self.moving.places {
            self.rows[place.index] = place.new;
        }
        self.moving.switched = true;
        self.row_pages = self.moving.pages.take().expect("row pages being named");
        self.home_pages.settle();
        self.retire_from();
    }

    /// The drive that is left goes stale: no row names it any more.
    fn retire_from(&mut self) {
        if self.drives.current(self.moving.from) {
            let out = self.put_out(self.moving.from);
            assert!(out, "no place of a row is on a drive that is left");
        }
        self.sweep_to(Stage::Retire);
    }

    /// The old drive is stale, and nothing of it is in flight: it is left.
    pub(super) fn retire(&mut self) {
        let from = self.moving.from;
        if !matches!(self.drives.get(from).health, Health::Stale | Health::Missing) {
            return;
        }
        self.moving.places.clear();
        if self.ops.busy_on(from) {
            return;
        }
        self.end_move(MoveOutcome::Done);
        self.sweep_to(Stage::Leaving);
    }

    /// The catalogue calls this drive current: it counts.
    pub(super) fn told_moved(&mut self, version: u64, drive: DriveIx) {
        let place = self.drives.get_mut(drive);
        if place.health == Health::Returning {
            place.health = Health::Current;
        }
        self.sweep_to(Stage::NameMoved(version));
    }

    /// A drive that was to take over failed before anybody counted on it.
    pub(super) fn successor_failed(&mut self, drive: DriveIx) {
        self.drives.get_mut(drive).health = Health::Stale;
        let version = self.writer.want();
        let entry = &mut self.superblock.drives[usize::from(drive.get())];
        (entry.state, entry.version) = (CopyState::EMPTY, version);
        if self.sweep.errand == Errand::Move && self.sweep.stage != Stage::Leaving {
            self.move_failed(MoveRefusal::DriveFailed);
        }
    }

    /// The version that names the old rows again is durable.
    pub(super) fn unnamed(&mut self) {
        self.home_pages.forget_new();
        self.give_up_places(MoveRefusal::DriveFailed);
    }

    /// Nothing goes to the successors any more; what is on its way to them ends first.
    fn give_up_places(&mut self, why: MoveRefusal) {
        self.moving.places.clear();
        self.moving.unwritten.clear();
        self.moving.pages = None;
        self.moving.given_up = Some((why, self.ops.started()));
        self.sweep_to(Stage::Leaving);
    }

    /// Whether a move that ends may be said to have ended. One that was given up has when no write can reach the
    /// successors any more: their extents go back to the pool then, and a late write would land in another group. The
    /// places of its row pages are free then, too.
    pub(super) fn move_over(&mut self) -> bool {
        let Some((why, started)) = self.moving.given_up else { return true };
        if self.moving.to.iter().any(|drive| self.ops.busy_since(drive, started)) {
            return false;
        }
        self.moving.given_up = None;
        if core::mem::take(&mut self.moving.forget) {
            self.home_pages.forget_new();
        }
        self.end_move(MoveOutcome::GivenUp(why));
        true
    }

    /// The group takes no writes any more: a move that had not begun never does.
    pub(super) fn refuse_move(&mut self) {
        if self.moving.asked.take().is_some() {
            self.end_move(MoveOutcome::GivenUp(MoveRefusal::NotServing));
        }
    }

    /// Drives that were to take over have nothing that counts, and get nothing more.
    fn unlist(&mut self, drives: DriveSet) {
        let version = self.writer.want();
        for drive in drives.iter() {
            if self.drives.is(drive, Health::Resyncing) {
                self.drives.get_mut(drive).health = Health::Stale;
                let entry = &mut self.superblock.drives[usize::from(drive.get())];
                (entry.state, entry.version) = (CopyState::EMPTY, version);
            }
        }
    }

    /// Gives up before anything was named.
    pub(super) fn move_failed(&mut self, why: MoveRefusal) {
        self.unlist(self.moving.to);
        // A page of them may be on its way: its place is free only when that has ended (`move_over`).
        self.moving.forget = self.moving.pages.is_some();
        self.give_up_places(why);
    }

    /// The group closes or halts.
    pub(super) fn give_up_move(&mut self) {
        match self.sweep.stage {
            Stage::Leaving
            | Stage::NameMoved(_)
            | Stage::TellMoved(..)
            | Stage::Retire
            | Stage::Unname(_) => {}
            _ => self.move_failed(MoveRefusal::NotServing),
        }
    }
}
