//! Moves: extents of a group go to other drives, or every row gets a copy more or a copy less.
//!
//! One more copy, and then the rows switch. The drives that take over are in the drive table first, as copies that have
//! nothing (resyncing since 0), without a row. From then on whatever is written to an extent that moves is written to
//! its successor too, and the walk of the sweep copies what is there already. Then new row pages, and one superblock
//! version that names the new rows, in row pages, home row and drive table alike; the catalogue; and only then the rows
//! in memory switch. What is left gets every write until nobody can open the group from it alone.
//!
//! Four changes are this one machine (`base::Change`):
//! - *Leave*: all extents of a drive. Once the rows have switched the drive is made durably stale (catalogue,
//!   superblocks), and until then it gets every write.
//! - *Shift*: some extents of a drive that stays, none of the home row. The drive has the new version itself, or it has
//!   no superblock at all, so nothing more goes to the old extents once that version is durable.
//! - *AddLeg*: a successor for each place of leg 0, which stays too. A row that is granted meanwhile brings the extents
//!   of the new leg with it, behind the others (`growth.rs`).
//! - *DropLeg*: nothing is copied; the rows end before their last leg. Drives that have nothing else are left like one
//!   that is left for others. Of a drive that has other rows, the superblock slots of the old home extent are wiped and
//!   flushed. Until then the leg gets every write. It is the last leg, so that the numbers of the others stay.
//!
//! Crash story, step by step:
//! - Before the version that names the new rows: the next activation finds the old rows, and drives in the table that
//!   have no row and nothing that counts. Their extents go back, or the move is asked for again.
//! - Between the copies of that version: either it is found, and what it names has everything, for it got it all and
//!   was flushed before; or the one before it, and what that names has everything, for it still gets every write.
//! - After it, before a drive that is left is stale: found alone, that drive would open with its old superblock, so
//!   writes must not miss it yet. That is why it is left through its stale mark, which the catalogue has first. After a
//!   crash here the drive is in the table as a current copy without rows, and the next activation makes it stale before
//!   it serves, and wipes what drives that stay still say of the rows before; a *Leave* without extents ends what is left
//!   to do.
//! - The version that names the new rows names the directory of the one before it, and no checkpoint counts until a drive
//!   that has only that one is stale or wiped. Else the log behind it would be trimmed and the blocks of its directory handed
//!   out, and the drive, which gets every write, overwrites them: found alone it would open what is there no more.
//! - A successor fails before the version is asked for: the move is given up, nobody else is touched. It fails after
//!   that, while the version is not durable: the next version names the old rows again and calls it stale, and what it
//!   missed waits for that, as with any drive that fails. While a leg is being dropped the same holds for any drive:
//!   its other copy may be the one that is dropped. A successor that stays, for it has rows of its own, has its slots of a
//!   home place wiped and flushed before that place misses a write (`ending.rs`).
//!
//! While a drive is being left no row may lie on it: a grant with such a row goes back, and whoever waits for space waits
//! on (`growth.rs`). Names in the headers of the home row are the agent's, which writes them again after a move.
//!
//! A move is over when nothing is sent any more to what goes back: to what was left, once the drives that were are durably
//! stale, or to the successors of a move that was given up. It is said to be over when nothing can land there any more either
//! (`Over`): the pool may give the extents to another group then, and what was given up on a drive that hangs lands when it
//! likes, perhaps never. Only that word waits for it. The sweep is free for resyncs and scrubs, what the walk held is
//! released, and rows come and go; one such move at most is kept, so that another move begins only when somebody heard how
//! this one came out. Until then drives whose extents go back are not taken back either.
//!
//! Crash story: none, but a long one. A drive hung for ever and was left for another one; the rows had switched, and the
//! sweep waited until the drive was quiet. The other copy was away for a moment, and was never brought up to date: the new
//! drive alone had everything. Power fails while a move is over and nobody was told: its rows are durable, or were never
//! named, and every drive that was left is durably stale; the next activation has nothing to do. Nothing of the operations
//! that were given up outlives power, and whoever opens the group next waits for the locks of the process before it.
//!
//! Superblock slots are never copied: a superblock says where it lies. The successors' slots get the version that names
//! them.
//!
//! A drive that is back goes first, for until then the group has a copy less: the walk of a move stands aside between
//! two units, and goes on behind the resync. What is written meanwhile goes to the successors as before, so what they
//! have stays right.
mod ending;
mod naming;
mod plan;

use super::Group;
use super::sweep::{Errand, Stage};
use crate::drives::Health;
use crate::rows::RowPages;
use alloc::boxed::Box;
use alloc::vec::Vec;
use base::{Block, Change, CkptNo, DriveIx, Extent, ExtentNo, MoveGrant, NewDrive, Pba, RowNo, Seq};
use fence::DriveSet;

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
    /// A place would be left without a current copy, or what lies below a page of the map that no drive can read.
    LastCopy,
    /// The drive table, or the pages of the home row, are full.
    TableFull,
    /// A drive that was to take over failed, or one that must be told of it.
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
    /// Under way only because something that was given up may still land in extents that go back with the outcome: what
    /// that will be. The group goes on with everything else but another move.
    pub settled: Option<MoveOutcome>,
    /// Blocks copied so far.
    pub copied_blocks: u64,
    /// Blocks of the volume that were looked at.
    pub walked_blocks: u64,
}

/// What the walk of a move needs to go on where it was.
#[derive(Clone, Copy, Debug)]
struct Paused {
    from: u64,
    began: Seq,
    fresh: CkptNo,
    copied: u64,
    lost: u64,
    walked: u64,
}

/// A move.
#[derive(Debug, Default)]
pub(crate) struct Moving {
    asked: Option<MoveGrant>,
    change: Option<Change>,
    to: DriveSet,
    /// Places that are written twice, by the extent whose writes the other one gets: by `old`, and once the rows have
    /// switched by `new`.
    places: Vec<Moved>,
    switched: bool,
    /// The rows that the next version names.
    rows: Vec<Extent>,
    pages: Option<RowPages>,
    /// New row pages were given up, and may still be on their way.
    forget: bool,
    /// Row pages that are yet to be written.
    unwritten: Vec<(Pba, Box<Block>)>,
    /// Drives that have nothing of the group once the rows have switched.
    left: DriveSet,
    /// Drives that have less then.
    shed: DriveSet,
    last: Option<(Change, MoveOutcome)>,
    /// What the last one had copied, and looked at, when the sweep was free for other errands.
    figures: Option<(u64, u64)>,
    /// It stands aside for a drive that is back.
    paused: Option<Paused>,
    /// It is over, and nobody was told yet. One at most: until then no other move begins.
    over: Option<Over>,
}

/// A move of which everything is done but to say so.
#[derive(Clone, Copy, Debug)]
struct Over {
    outcome: MoveOutcome,
    /// Extents on these drives go back with the outcome.
    drives: DriveSet,
    /// Those of them where an operation may still land that was started by then.
    late: DriveSet,
    /// How many operations had been started when the last one went there.
    started: u64,
}

fn key(extent: Extent) -> (u8, u32) {
    (extent.drive.get(), extent.extent.get())
}

impl Moving {
    /// Whether extents are written twice.
    pub fn active(&self) -> bool {
        !self.places.is_empty()
    }

    /// Where a write to this extent goes too.
    pub fn shadow(&self, extent: Extent) -> Option<Extent> {
        if self.places.is_empty() {
            return None;
        }
        let at = if self.switched {
            self.places.binary_search_by_key(&key(extent), |place| key(place.new)).ok()?
        } else {
            self.places.binary_search_by_key(&key(extent), |place| key(place.old)).ok()?
        };
        Some(if self.switched { self.places[at].old } else { self.places[at].new })
    }

    /// The successors of places in this row.
    pub fn successors_in(&self, row: RowNo, row_extents: usize) -> impl Iterator<Item = Extent> + '_ {
        let of_row = move |place: &&Moved| place.index / row_extents == row.get() as usize;
        self.places.iter().filter(of_row).map(|place| place.new)
    }

    /// Whether the failure of this drive ends the move that is under way: it takes over, or a leg is being dropped.
    pub fn depends_on(&self, drive: DriveIx) -> bool {
        self.takes_over(drive) || matches!(self.change, Some(Change::DropLeg(_)))
    }

    /// Whether this drive takes over in the move that is under way.
    pub fn takes_over(&self, drive: DriveIx) -> bool {
        self.active() && self.to.contains(drive)
    }

    /// Whether an extent of this drive may not be added to the group: it is being left.
    pub fn leaves(&self, drive: DriveIx) -> bool {
        // A grant may name drives that no table has a place for: those are in no set.
        self.active() && self.left.iter().any(|left| left == drive)
    }

    /// Whether a move that is under way (by the sweep's `errand`, or stands aside), or over and not told of, counts on what
    /// this place of the table is.
    pub fn means(&self, drive: DriveIx, errand: bool) -> bool {
        let over = self.over.is_some_and(|over| over.drives.contains(drive));
        let sets = [self.to, self.left, self.shed];
        over || (errand || self.paused.is_some()) && sets.iter().any(|set| set.contains(drive))
    }

    /// Whether new row pages are being made.
    pub fn holds_growth(&self) -> bool {
        self.pages.is_some() || self.forget
    }

    /// Whether each row that is added must bring the extents of one more leg.
    pub fn adds_leg(&self) -> bool {
        self.active() && self.change == Some(Change::AddLeg)
    }

    /// Whether rows that are granted may bring extents of a leg that the rows do not have: it is not added after all, or
    /// it is dropped, and nobody was told yet, because something may still be on its way to its drives.
    pub fn brings_more(&self) -> bool {
        match self.change {
            Some(Change::AddLeg) => self.over.is_some_and(|over| over.outcome != MoveOutcome::Done),
            Some(Change::DropLeg(_)) => self.switched,
            _ => false,
        }
    }

    /// Whether a leg was asked for, and nothing is copied to it yet.
    pub fn will_add_leg(&self) -> bool {
        self.asked.as_ref().is_some_and(|grant| grant.change == Change::AddLeg)
    }

    /// A row was added before the leg that was asked for, and these are its successors in it. Nothing if it was refused
    /// meanwhile.
    pub fn add_to_asked(&mut self, successors: &[(ExtentNo, NewDrive, ExtentNo)]) {
        let Some(grant) = self.asked.as_mut() else { return };
        for (old, drive, new) in successors {
            let known = grant.to.iter().position(|to| to.uuid == drive.uuid);
            let to = known.unwrap_or(grant.to.len());
            if known.is_none() {
                grant.to.push(*drive);
            }
            grant.extents.push((*old, to, *new));
        }
    }

    /// A row was added, and these are its extents of the leg that is being added; `first` is the index of its first.
    pub fn row_added(&mut self, first: usize, leg_0: &[Extent], added: &[Extent]) {
        for (i, (old, new)) in leg_0.iter().zip(added).enumerate() {
            let at = self.places.partition_point(|place| key(place.old) < key(*old));
            self.places.insert(at, Moved { index: first + i, old: *old, new: *new });
            self.to.insert(new.drive);
        }
    }
}

impl Group {
    /// Extents are to move.
    pub fn move_asked(&mut self, grant: MoveGrant) {
        let idle = matches!(self.sweep.errand, Errand::None | Errand::Scrub)
            && self.moving.paused.is_none()
            && self.moving.over.is_none();
        if idle && self.moving.asked.is_none() {
            self.moving.last = Some((grant.change, MoveOutcome::Copying));
            self.moving.figures = Some((0, 0));
            self.moving.asked = Some(grant);
        }
        self.again = true;
    }

    /// How the move stands, or how the last one came out since the group was opened.
    pub fn move_stats(&self) -> Option<MoveStats> {
        let (change, outcome) = self.moving.last?;
        let paused = self.moving.paused.map(|was| (was.copied, was.walked));
        let now = (self.sweep.copied, self.sweep.walked);
        let (copied_blocks, walked_blocks) = paused.or(self.moving.figures).unwrap_or(now);
        let settled = self.moving.over.map(|over| over.outcome);
        Some(MoveStats { change, outcome, settled, copied_blocks, walked_blocks })
    }

    pub(super) fn move_waits(&self) -> bool {
        self.moving.asked.is_some()
    }

    fn end_move(&mut self, outcome: MoveOutcome) {
        self.moving.change = None;
        if let Some(last) = &mut self.moving.last {
            last.1 = outcome;
        }
    }

    /// Begins with the move that was asked for. False if there is none, or it cannot be.
    pub(super) fn begin_move(&mut self) -> bool {
        // The table of a grant of growth counts on the drives that are listed now.
        let joining = !self.growth.joining.is_empty();
        if self.opening.is_some() || self.growth.has_grant() || joining {
            return false;
        }
        let Some(grant) = self.moving.asked.take() else { return false };
        assert!(self.moving.over.is_none(), "a move was taken while nobody knows how the last one came out");
        let places = match self.plan_move(&grant) {
            Ok(places) => places,
            Err(why) => {
                self.end_move(MoveOutcome::GivenUp(why));
                return false;
            }
        };
        self.moving.change = Some(grant.change);
        self.moving.to = DriveSet::EMPTY;
        for place in &places {
            self.moving.to.insert(place.new.drive);
        }
        (self.moving.left, self.moving.shed) = (DriveSet::EMPTY, DriveSet::EMPTY);
        self.moving.figures = None;
        (self.moving.places, self.moving.switched) = (places, false);
        self.sweep.errand = Errand::Move;
        (self.sweep.seq, self.sweep.ckpt, self.sweep.shows) = (Seq::ZERO, CkptNo::ZERO, None);
        self.sweep.began = Seq::new(self.log.next_seq.get() - 1);
        (self.sweep.copied, self.sweep.lost, self.sweep.walked) = (0, 0, 0);
        self.sweep.pace.rewind();
        self.move_begun(grant.change);
        true
    }

    fn move_begun(&mut self, change: Change) {
        let known = |group: &Self, uuid| group.superblock.drives.iter().position(|entry| entry.drive == uuid);
        match change {
            Change::Leave(from) => {
                let from = known(self, from).expect("planned");
                self.moving.left.insert(DriveIx::new(from as u8));
            }
            Change::Shift(from) => {
                let from = known(self, from).expect("planned");
                self.moving.shed.insert(DriveIx::new(from as u8));
            }
            // Nothing is copied: new row pages are next.
            Change::DropLeg(_) => return self.sweep_to(Stage::Last(CkptNo::ZERO)),
            Change::AddLeg => {}
        }
        if self.moving.places.is_empty() {
            // The rows had switched, and a crash came before the drive was stale.
            return self.retire_left();
        }
        let version = self.writer.want();
        for entry in &mut self.superblock.drives {
            if matches!(entry.state, fence::CopyState::Resyncing { .. }) {
                entry.version = version;
            }
        }
        self.sweep_to(Stage::Announce(version));
    }

    /// The walk makes room for a drive that is back.
    pub(super) fn pause_move(&mut self) {
        let sweep = &self.sweep;
        self.moving.paused = Some(Paused {
            from: self.walk_position(),
            began: sweep.began,
            fresh: sweep.fresh,
            copied: sweep.copied,
            lost: sweep.lost,
            walked: sweep.walked,
        });
        self.sweep_to(Stage::Leaving);
    }

    /// Goes on with a move that stood aside. False if there is none.
    pub(super) fn resume_move(&mut self) -> bool {
        let Some(was) = self.moving.paused.take() else { return false };
        self.sweep.errand = Errand::Move;
        (self.sweep.seq, self.sweep.ckpt, self.sweep.shows) = (Seq::ZERO, CkptNo::ZERO, None);
        (self.sweep.began, self.sweep.fresh) = (was.began, was.fresh);
        self.walk_from(was.from);
        (self.sweep.copied, self.sweep.lost, self.sweep.walked) = (was.copied, was.lost, was.walked);
        self.sweep.pace.rewind();
        true
    }

    /// Whether a move that stands aside has to be given up: a drive that was to take over failed.
    pub(super) fn paused_in_vain(&self) -> bool {
        self.moving.paused.is_some() && !self.successors_well()
    }

    /// Whether this drive, if it is back, is of no use at present: it is being left, or takes over.
    pub(super) fn moves_concern(&self, drive: base::Uuid) -> bool {
        let at = self.superblock.drives.iter().position(|entry| entry.drive == drive);
        at.is_some_and(|at| {
            let drive = DriveIx::new(at as u8);
            // What goes back when the outcome is told is not to be written meanwhile.
            let goes_back = self.moving.over.is_some_and(|over| over.drives.contains(drive));
            self.moving.leaves(drive)
                || self.moving.takes_over(drive)
                || (goes_back && !self.has_places(drive))
        })
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
}
