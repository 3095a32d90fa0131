//! How a move ends: the rows in memory switch and what was left goes out, or it is given up.
use super::{MoveOutcome, MoveRefusal, Moved, Over, key};
use crate::drives::Health;
use crate::group::sweep::{Errand, Stage};
use crate::group::{Group, Turn};
use crate::keys::Keyed;
use crate::layout::extent as fixed;
use crate::ops::JobKind;
use crate::planted::Planted;
use base::{BLOCK_BYTES, Change, DriveIx, Extent, Segment};
use fence::{CopyState, DriveSet};

fn drives_of<'a>(extents: impl Iterator<Item = &'a Extent>) -> DriveSet {
    let mut set = DriveSet::EMPTY;
    extents.for_each(|extent| set.insert(extent.drive));
    set
}

impl Group {
    /// Whether the leg that is being dropped may be read no more: nobody begins to, and who has begun ends first. Its
    /// number means nothing once the rows have switched.
    pub(in crate::group) fn is_dropped(&self, leg: base::LegId) -> bool {
        matches!(self.sweep.stage, Stage::DropReads(_)) && leg.get() == self.geometry.legs - 1
    }

    /// Reads of the leg that is being dropped have ended, if they have.
    pub(in crate::group) fn drop_reads(&mut self, started: u64) {
        let (columns, extents) = (usize::from(self.geometry.columns), self.geometry.row_extents());
        let dropped = self.rows.chunks_exact(extents).flat_map(|row| &row[extents - columns..]);
        if !drives_of(dropped).iter().any(|drive| self.ops.reads_since(drive, started)) {
            self.switch_rows();
        }
    }

    /// The rows in memory follow; what is left still gets every write.
    pub(super) fn switch_rows(&mut self) {
        let change = self.moving.change.expect("a move under way");
        let (columns, extents) = (usize::from(self.geometry.columns), self.geometry.row_extents());
        let before = core::mem::replace(&mut self.rows, core::mem::take(&mut self.moving.rows));
        match change {
            Change::Leave(_) => self.moving.places.sort_unstable_by_key(|place| key(place.new)),
            Change::Shift(_) | Change::AddLeg => self.moving.places.clear(),
            Change::DropLeg(_) => {
                let dropped = |row: usize| (0..columns).map(move |column| (row * extents, column));
                let places = (0..before.len() / extents).flat_map(dropped).map(|(row, column)| Moved {
                    index: row,
                    old: before[row + extents - columns + column],
                    new: before[row + column],
                });
                self.moving.places = places.collect();
                self.moving.places.sort_unstable_by_key(|place| key(place.new));
                let dropped = drives_of(self.moving.places.iter().map(|place| &place.old));
                let kept = drives_of(self.rows.iter());
                (self.moving.left, self.moving.shed) = (dropped.without(kept), dropped.and(kept));
            }
        }
        self.moving.switched = true;
        self.geometry.legs = self.superblock.geometry.legs;
        self.row_pages = self.moving.pages.take().expect("row pages being named");
        self.home_pages.settle();
        self.retire_left();
    }

    /// Drives that are left go stale: no row names them any more.
    pub(super) fn retire_left(&mut self) {
        // From here on there is no way back: before they go out. Without places the rows have switched long ago.
        self.moving.switched = true;
        self.sweep_to(Stage::Wipe);
        for drive in self.moving.left.iter() {
            if self.drives.current(drive) && !self.is_never_retired() {
                let out = self.put_out(drive);
                assert!(out, "no place of a row is on a drive that is left");
            }
        }
    }

    fn is_never_retired(&self) -> bool {
        let drops = matches!(self.moving.change, Some(Change::DropLeg(_)));
        self.config.bug(Planted::MoveNotRetired) || (drops && self.config.bug(Planted::LegNotRetired))
    }

    /// Superblock slots that say what was before, or what did not come to be, on drives that stay: found alone they would be
    /// believed.
    pub(in crate::group) fn wipe_slots<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let drops = matches!(self.moving.change, Some(Change::DropLeg(_)));
        let none = self.moving.places.iter().all(|place| self.slots_to_wipe(place).is_none());
        if none && !(drops && self.moving.switched) {
            return self.wipe_ended();
        }
        if !self.room(turn, 64) {
            return;
        }
        let buf = self.unit_buffer(0);
        *turn.memory.block_mut(buf) = [0; BLOCK_BYTES];
        let job = self.ops.open_job(JobKind::Copy);
        for i in 0..self.moving.places.len() {
            let Some(extent) = self.slots_to_wipe(&self.moving.places[i]) else { continue };
            for slot in fixed::SUPERBLOCKS {
                self.write_just_extent(turn, job, extent, slot, &[Segment { buf, blocks: 1 }]);
            }
        }
        self.sweep.writing = true;
        self.ops.seal_job(job);
        self.sweep_to(Stage::Wiped);
    }

    /// The extent of this place that was or was to be of the home row, on a drive that stays: of a leg that was dropped the
    /// old one, of rows that are not named after all the new one.
    fn slots_to_wipe(&self, place: &Moved) -> Option<Extent> {
        let drops = matches!(self.moving.change, Some(Change::DropLeg(_)));
        let home = place.index < self.geometry.row_extents();
        let (extent, stays) = if self.moving.switched {
            (place.old, drops && self.moving.shed.contains(place.old.drive))
        } else {
            (place.new, self.drives.current(place.new.drive))
        };
        (home && stays).then_some(extent)
    }

    /// Nothing is there any more that might be believed, durably: what was left goes back, or what was to take over.
    pub(in crate::group) fn wipe_ended(&mut self) {
        if self.moving.switched {
            return self.sweep_to(Stage::Retire);
        }
        self.home_pages.forget_new();
        self.give_up_places(MoveRefusal::DriveFailed);
    }

    /// The slots are wiped: a flush.
    pub(in crate::group) fn slots_wiped(&mut self) {
        let ticket = self.flusher.ticket();
        self.sweep_to(Stage::WipeFlush(ticket));
    }

    /// Drives that are left are stale: nothing goes to what was left any more.
    pub(in crate::group) fn retire(&mut self) {
        let out = |drive: DriveIx| matches!(self.drives.get(drive).health, Health::Stale | Health::Missing);
        if !self.moving.left.iter().all(out) && !self.is_never_retired() {
            return;
        }
        let drives = self.moving.left.union(self.moving.shed);
        self.over_but_for(drives, MoveOutcome::Done);
    }

    /// From here on nothing is sent to what goes back, on these drives, with this outcome: the sweep is free for others.
    fn over_but_for(&mut self, drives: DriveSet, outcome: MoveOutcome) {
        assert!(self.moving.over.is_none(), "a move ends once");
        self.moving.places.clear();
        self.moving.over = Some(Over { outcome, drives, late: drives, started: self.ops.started() });
        self.moving.figures = Some((self.sweep.copied, self.sweep.walked));
        self.sweep_to(Stage::Leaving);
    }

    /// Tells how a move came out that is over, once nothing can land any more in extents that go back.
    pub(in crate::group) fn tell_over(&mut self) {
        // Its own sweep ends first: of the walk, and of row pages, something may be under way.
        let lingers = self.config.bug(Planted::MoveLingers);
        let free = self.sweep.errand != Errand::Move || lingers;
        let Some(over) = self.moving.over.filter(|_| free) else { return };
        assert!(!self.moving.active(), "extents that go back are written to");
        let busy = |drive: &DriveIx| self.ops.busy_since(*drive, over.started);
        // A drive is waited for once: what goes there in its next life goes to other extents.
        let late: DriveSet = over.late.iter().filter(busy).collect();
        if late.is_empty() || self.config.bug(Planted::MoveToldEarly) {
            self.moving.over = None;
            return self.end_move(over.outcome);
        }
        self.moving.over = Some(Over { late, ..over });
    }

    /// A drive that was to take over failed before anybody counted on it.
    pub(in crate::group) fn successor_failed(&mut self, drive: DriveIx) {
        self.drives.get_mut(drive).health = Health::Stale;
        let version = self.writer.want();
        let entry = &mut self.superblock.drives[usize::from(drive.get())];
        (entry.state, entry.version) = (CopyState::EMPTY, version);
        if self.sweep.errand == Errand::Move && self.sweep.stage != Stage::Leaving {
            self.move_failed(MoveRefusal::DriveFailed);
        }
    }

    /// The version that names the old rows again is durable. The one before it may be so, too, on a drive that was to take
    /// over a home place and stays for rows of its own: until its slots are wiped that place gets every write.
    ///
    /// Crash story: a leg was added to a group with one, and the home row's successor was a drive that had other rows. Another
    /// successor failed, the old rows were named again, and the drive went on as a current copy of its rows. What was
    /// written then went to the old home row alone. Power failed, the drive of that was away, and the other one was found
    /// with the version that nobody named any more: it opened with it, and what had been flushed was gone without a word.
    pub(in crate::group) fn unnamed(&mut self) {
        self.sweep_to(Stage::Wipe);
    }

    /// Nothing goes to the successors any more.
    fn give_up_places(&mut self, why: MoveRefusal) {
        self.moving.unwritten.clear();
        self.moving.pages = None;
        self.over_but_for(self.moving.to, MoveOutcome::GivenUp(why));
    }

    /// Bug only: the sweep stays with a move that is over.
    pub(in crate::group) fn move_lingers(&self) -> bool {
        self.config.bug(Planted::MoveLingers)
            && self.moving.over.is_some()
            && self.sweep.errand == Errand::Move
    }

    /// The row pages of a move that was given up are nobody's, once no write of them is under way but what was given up.
    pub(in crate::group) fn forget_successor_pages(&mut self) {
        if core::mem::take(&mut self.moving.forget) {
            self.home_pages.forget_new();
        }
    }

    /// The group takes no writes any more: a move that had not begun never does.
    pub(in crate::group) fn refuse_move(&mut self) {
        if self.moving.asked.take().is_some() {
            self.end_move(MoveOutcome::GivenUp(MoveRefusal::NotServing));
        }
    }

    /// Drives that were to take over have nothing that counts, and get nothing more.
    pub(super) fn unlist(&mut self, drives: DriveSet) {
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
    pub(in crate::group) fn move_failed(&mut self, why: MoveRefusal) {
        self.unlist(self.moving.to);
        // A page of them may be on its way: its place is free only when that has ended (`leave_sweep`).
        self.moving.forget = self.moving.pages.is_some();
        self.give_up_places(why);
    }

    /// The group closes or halts.
    pub(in crate::group) fn give_up_move(&mut self) {
        match self.sweep.stage {
            Stage::Leaving
            | Stage::NameMoved(_)
            | Stage::TellMoved(..)
            | Stage::DropReads(_)
            | Stage::Wipe
            | Stage::Wiped
            | Stage::WipeFlush(_)
            | Stage::Retire
            | Stage::Unname(_) => {}
            _ => self.move_failed(MoveRefusal::NotServing),
        }
    }
}
