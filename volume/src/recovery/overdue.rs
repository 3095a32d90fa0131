//! Drives that do not answer while a group is recovered: the recovery begins again without them.
//!
//! Crash story: whatever step it had come to, to begin again from the superblocks is what a crash at that step would
//! have led to, and every step may crash. The drive counts as absent then: it is stale as of the superblock that is
//! found, and the catalogue hears of that before a superblock says so. What was given up on it may still land there,
//! as after a crash; the group that is made in the end knows that it is not quiet yet, and brings it up to date only
//! when it is.
//!
//! As in a group that is served (`group/overdue.rs`) a drive goes only in favour of others that answer. Before the
//! superblocks are read nobody knows who is needed: a drive that does not answer then is forsaken if another one does,
//! and if the group does not open without it, it is waited for after all.
use super::log::SILENT;
use super::pages::NO_PAGE;
use super::{OpenRequest, Recovery, Stage};
use crate::config::Refusal;
use crate::group::Turn;
use crate::group::overdue::Overdue;
use crate::keys::Keyed;
use crate::ops::Ops;
use crate::planted::Planted;
use alloc::vec::Vec;
use base::{Action, DriveIx, DriveSet, Duration, Seq, Uuid};
use fence::CopyEntry;

/// The drives that a recovery does without, though they are at hand; by the driver's numbers.
pub(crate) struct Forsaken {
    pub drives: DriveSet,
    /// Those of which only superblocks had been asked.
    unasked: DriveSet,
    /// The group does not open without them: nobody is forsaken before the superblocks are read.
    patient: bool,
    /// D, as versions say it that could not be read to their end.
    pub said: Seq,
    /// The line of this activation may be on drives.
    pub composed: bool,
    /// It begins again once nothing is in flight.
    pub again: bool,
    pub watch: Overdue,
}

impl Forsaken {
    pub fn none(bound: Duration) -> Self {
        let none = DriveSet::EMPTY;
        Self {
            drives: none,
            unasked: none,
            patient: false,
            said: Seq::ZERO,
            composed: false,
            again: false,
            watch: Overdue::new(bound),
        }
    }
}

impl Recovery {
    /// Changes the bound; see `Volume::set_slow_bound`.
    pub fn set_slow_bound(&mut self, bound: Duration) {
        self.forsaken.watch.set_bound(bound);
    }

    /// Forsakes drives that do not answer. Whether the recovery waits to begin again.
    pub(super) fn begins_again<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if self.stage != Stage::Done && self.forsaken.watch.due(turn.now) {
            self.forsake_overdue(turn);
        }
        if self.forsaken.again && self.ops.idle() && self.asked_catalogue.is_none() {
            self.begin_again();
        }
        self.forsaken.again
    }

    /// The superblocks say that the group does not open. Those of drives that were forsaken may say something else:
    /// whether the recovery begins again, and waits for them.
    pub(super) fn waits_after_all(&mut self) -> bool {
        let unasked = core::mem::take(&mut self.forsaken.unasked);
        if self.stage != Stage::Supers || unasked.is_empty() {
            return false;
        }
        self.forsaken.drives = self.forsaken.drives.without(unasked);
        (self.forsaken.patient, self.forsaken.again) = (true, true);
        true
    }

    /// What some drives have cannot be read from them, and the group is refused as it stands. Where each of them has a
    /// current mate that answers, or a current drive lacks the version that only they have, the recovery begins again without
    /// them: whether it does. As drives that are absent
    /// from the start they are stale before anything is served, and if one of them is the only one that is current, the
    /// group does not open.
    ///
    /// Crash story, of the log: power failed with a commit on one drive of a mirror only. That drive was read, and died
    /// before the commit was read again. It may not be cut as long as the drive counts as current and at hand, or what an
    /// absent mate never got would be lost; and the group was refused, with a drive beside it that had all that was ever
    /// acknowledged.
    ///
    /// Crash story, of pages: a version that named a new row was on one drive of a mirror only when the power failed. A
    /// recovery without that drive took the place of the version's row page for its history page, and was cut short. The
    /// drive came back, its version was the newest, its row page could not be read on it, and nowhere else was it any more.
    /// The same happened to a version that named the rows behind a move, on the drive that was to take over: it was the only
    /// one of its place by that version, and none by the version before.
    ///
    /// Whether that version was durable or not, the D that it says was: everything up to there was flushed on every drive
    /// that counted before the version was made. So who opens without it has all of that, or does not open.
    ///
    /// Crash story: both drives of a mirror lied. One lost a version and the commits behind it, both lost the row page
    /// that this version named. The group was opened on the one that had lost the most, and what had been flushed under
    /// that version was gone without a word.
    pub(super) fn forsakes_unreadable(&mut self, refusal: &Refusal) -> bool {
        let mut out = DriveSet::EMPTY;
        match *refusal {
            _ if self.config.bug(Planted::SlowKept) => {}
            SILENT => {
                let silent = self.script.silent.without(self.forsaken.drives);
                silent
                    .iter()
                    .filter(|drive| self.opens_without(*drive, silent))
                    .for_each(|drive| out.insert(drive));
            }
            // Whether the others can do without them is for the version to say that they have.
            NO_PAGE => {
                out = self.with_the_newest_superblock();
                if !out.is_empty() {
                    self.forsaken.said = self.forsaken.said.max(self.superblock().durable);
                }
            }
            _ => {}
        }
        self.forsaken.drives = self.forsaken.drives.union(out);
        self.forsaken.again = !out.is_empty();
        self.forsaken.again
    }

    /// The current drives that have the newest version, if others do not. A version that is durable is on all that it
    /// calls current; so no promise rests on one that is not.
    fn with_the_newest_superblock(&self) -> DriveSet {
        let homes: Vec<DriveIx> = self.superblock().homes().map(|home| home.extent.drive).collect();
        let current = homes.iter().zip(&self.lagging).filter(|(drive, _)| self.current.contains(**drive));
        let (behind, newest): (Vec<_>, Vec<_>) = current.partition(|(_, lagging)| **lagging);
        let mut handles = DriveSet::EMPTY;
        for (drive, _) in newest.iter().filter(|_| !behind.is_empty()) {
            if let Some(handle) = self.handles[usize::from(drive.get())] {
                handles.insert(handle);
            }
        }
        handles
    }

    fn forsake_overdue<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if self.config.bug(Planted::SlowKept) {
            return;
        }
        let late = self.ops.older_than(self.forsaken.watch.bound());
        for drive in late.without(self.ops.given_up()).iter() {
            if !turn.fits(1) || !self.opens_without(drive, late) {
                continue;
            }
            self.ops.give_up(drive);
            turn.out.push(Action::GiveUp { drive });
            self.forsaken.drives.insert(drive);
            if self.stage == Stage::Supers {
                self.forsaken.unasked.insert(drive);
            }
            self.forsaken.again = true;
        }
    }

    /// Whether others answer that have what this drive has, as far as that is known.
    fn opens_without(&self, drive: DriveIx, late: DriveSet) -> bool {
        let out = late.union(self.forsaken.drives);
        if self.stage == Stage::Supers {
            let mut others =
                self.request.drives.iter().enumerate().filter(|(_, other)| !other.homes.is_empty());
            return !self.forsaken.patient && others.any(|(i, _)| !out.contains(DriveIx::new(i as u8)));
        }
        let answers = |index: DriveIx| {
            let handle = self.handles[usize::from(index.get())];
            handle.is_some_and(|handle| handle != drive && !out.contains(handle))
        };
        let has = |index: DriveIx| self.handles[usize::from(index.get())] == Some(drive);
        self.places().map(|place| place.and(self.current)).all(|place| {
            let mut here = place.iter();
            !place.iter().any(has) || here.any(answers)
        })
    }

    /// Nothing is in flight for this recovery any more: the next one finds what a crash would have left.
    fn begin_again(&mut self) {
        let Self { config, forsaken, .. } = self;
        let config = *config;
        forsaken.again = false;
        let forsaken = core::mem::replace(forsaken, Forsaken::none(forsaken.watch.bound()));
        let ops = core::mem::replace(&mut self.ops, Ops::new());
        let request: OpenRequest = self.request.clone();
        let keys = self.keys.take();
        *self = Self { keys, ..Self::without(config, request, ops, forsaken) };
    }

    /// The number of a drive that was forsaken.
    pub(super) fn forsaken_as(&self, drive: Uuid) -> Option<DriveIx> {
        self.number_of(drive).filter(|number| self.forsaken.drives.contains(*number))
    }

    fn number_of(&self, drive: Uuid) -> Option<DriveIx> {
        let at = self.request.drives.iter().position(|candidate| candidate.info.uuid == drive);
        at.map(|at| DriveIx::new(at as u8))
    }

    /// The operations of the group that is made: none, but what was given up may still have effects.
    pub(super) fn group_ops(&self, table: &[CopyEntry]) -> Ops {
        let mut ops = Ops::new();
        for (i, entry) in table.iter().enumerate() {
            if self.number_of(entry.drive).is_some_and(|number| self.ops.given_up().contains(number)) {
                ops.give_up(DriveIx::new(i as u8));
            }
        }
        ops
    }
}
