//! Drives that join, are left and come back, one behind the other and at the same time.
//!
//! A drive table has few places, so the place of a drive that was left is used again. Here every drive of the pool has others
//! that can take its place, also those that join with a row, and there is always one to go to; some of them fall silent
//! meanwhile, or answer late. A drive that was left is handed back, too, as by somebody who wants its place filled again, and
//! taken out once more. Whoever hands it back has seen to it that nothing of the group is on it.
use crate::run::Run;
use crate::subject::Subject;
use base::limits::MAX_DRIVES;
use base::{DriveIx, Phase, Uuid};
use simkit::{Armed, FaultKind};
use std::fmt;

/// Drives of the group that are silent at the same time, at most: with all of them so nothing would go on.
const MOST_SILENT: usize = 2;

/// How often places of the drive table were used again.
#[derive(Clone, Copy, Default, Debug)]
pub struct Reused {
    /// Another drive has the place.
    places: u64,
    /// One that joined with a row.
    by_rows: u64,
    /// Likewise, while a move was under way or not told of.
    meanwhile: u64,
    /// Something that was given up could still land on a drive, or one of those that are at work was silent.
    late: u64,
}

impl Reused {
    fn each(&mut self, other: &Self, with: impl Fn(&mut u64, u64)) {
        with(&mut self.places, other.places);
        with(&mut self.by_rows, other.by_rows);
        with(&mut self.meanwhile, other.meanwhile);
        with(&mut self.late, other.late);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.each(other, |sum, more| *sum += more);
    }

    /// One for each kind that was met.
    pub(crate) fn met(&self) -> Self {
        let mut met = Self::default();
        met.each(self, |met, count| *met = u64::from(count > 0));
        met
    }
}

impl fmt::Display for Reused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { places, by_rows, meanwhile, late } = self;
        write!(f, "{places} ({by_rows} by rows, {meanwhile} during a move, {late} while a drive was late)")
    }
}

/// The drive table of the engine as it was last.
#[derive(Default)]
pub(crate) struct Places {
    table: Vec<Uuid>,
    pub(crate) reused: Reused,
}

impl Places {
    /// The next look is at another engine.
    pub(crate) fn forget(&mut self) {
        self.table.clear();
    }
}

impl<S: Subject> Run<S> {
    fn table(&self) -> Vec<Uuid> {
        (0..MAX_DRIVES as u8).map_while(|at| S::drive_of(self.world.engine(), DriveIx::new(at))).collect()
    }

    /// Counts the places that another drive has than a moment ago.
    pub(crate) fn places_are_looked_at(&mut self) {
        if !self.shape.doors || self.world.phase() != Phase::Serving {
            return;
        }
        let table = self.table();
        let before = std::mem::replace(&mut self.places.table, table);
        let changed = before.iter().zip(&self.places.table).filter(|(was, is)| was != is);
        for (_, new) in changed {
            let drive = self.world.drives.iter().position(|drive| drive.uuid == *new);
            let by_row = drive.is_none_or(|drive| !self.moved.contains(&drive));
            let silent = |drive: usize| self.world.drives[drive].is_silent() && self.has_rows(drive);
            let late = (0..self.world.drives.len())
                .any(|drive| silent(drive) || self.world.drives[drive].has_given_up());
            let reused = &mut self.places.reused;
            reused.places += 1;
            reused.by_rows += u64::from(by_row);
            reused.meanwhile += u64::from(by_row && S::moving(self.world.engine()));
            reused.late += u64::from(late);
        }
    }

    fn has_rows(&self, drive: usize) -> bool {
        !S::extents_on(self.world.engine(), self.world.drives[drive].uuid).is_empty()
    }

    /// Drives are left, handed back and taken out, fall silent and answer late.
    pub(crate) fn doors_open_and_close(&mut self) {
        if !self.shape.doors || self.world.phase() != Phase::Serving {
            return;
        }
        if self.verbs.chance(1, 8) {
            self.a_drive_is_left();
        }
        if self.verbs.chance(1, 400) {
            self.a_left_drive_comes_back();
        }
        if self.verbs.chance(1, 60) {
            self.a_spare_one_is_taken_out();
        }
        if self.verbs.chance(1, 60) {
            self.a_spare_one_is_plugged_in();
        }
        if self.shape.silences && self.verbs.chance(1, 1500) {
            let silent = self.world.drives.iter().filter(|drive| drive.is_silent()).count();
            if let Some(drive) = self.one_at_work().filter(|_| silent < MOST_SILENT) {
                self.falls_silent(drive);
            }
        }
        if self.verbs.chance(1, 3000)
            && let Some(drive) = self.one_at_work()
        {
            self.world.drives[drive].arm(Armed::once(FaultKind::Hang));
        }
    }

    /// One that joins the pool may be ill already: the row that brings it is given up.
    pub(crate) fn may_be_ill(&mut self, drive: usize) {
        if !self.shape.doors || !self.shape.is_bad(drive) {
            return;
        }
        match self.verbs.below(10) {
            0 if self.shape.silences => self.falls_silent(drive),
            1 => self.world.drives[drive].arm(Armed::once(FaultKind::Hang)),
            2 => self.world.drives[drive].arm(Armed { kind: FaultKind::WriteError, times: 3 }),
            _ => {}
        }
    }

    /// A drive of the leg that faults strike that the group uses, or is about to.
    pub(crate) fn one_at_work(&mut self) -> Option<usize> {
        let table = self.table();
        let joins = self.shape.drives()..self.shape.drives() + self.joined;
        let at_work = |drive: &usize| {
            let next = joins.contains(drive) && !table.contains(&self.world.drives[*drive].uuid);
            self.shape.is_bad(*drive) && (next || self.moved.contains(drive) || self.has_rows(*drive))
        };
        let drives: Vec<usize> = (0..self.world.drives.len()).filter(at_work).collect();
        (!drives.is_empty()).then(|| *self.verbs.pick(&drives))
    }

    /// A drive of the pool is left for one of those that can take its place, or the other way round.
    pub(crate) fn a_drive_is_left(&mut self) {
        if S::moving(self.world.engine()) {
            return;
        }
        let pool: Vec<usize> =
            (0..self.shape.all_drives()).filter(|drive| self.shape.is_bad(*drive)).collect();
        if pool.is_empty() {
            return;
        }
        let first = *self.verbs.pick(&pool);
        let all: Vec<usize> = std::iter::once(first).chain(self.world.twins_of(first)).collect();
        let engine = self.world.engine();
        let from: Vec<usize> = all.iter().copied().filter(|drive| self.has_rows(*drive)).collect();
        let can_take = |drive: &usize| {
            let at = &self.world.drives[*drive];
            !at.is_dead() && at.is_idle() && !S::counts_on(engine, at.uuid) && !self.has_rows(*drive)
        };
        let to: Vec<usize> = all.iter().copied().filter(can_take).collect();
        if from.is_empty() || to.is_empty() {
            return;
        }
        let (from, to) = (*self.verbs.pick(&from), *self.verbs.pick(&to));
        self.wipe_home(to);
        let extents = S::extents_on(self.world.engine(), self.world.drives[from].uuid);
        self.moved = vec![from, to];
        self.world.move_drive(from, Some(to), extents, true);
    }

    /// A drive that has no superblock has nothing that anybody would believe.
    fn wipe_home(&mut self, drive: usize) {
        let subject = self.world.opener().clone();
        if !subject.home_extents(drive).is_empty() {
            subject.wipe(&mut self.world.drives[drive]);
        }
    }

    /// A drive that was left is handed back.
    fn a_left_drive_comes_back(&mut self) {
        let engine = self.world.engine();
        let is_left = |drive: &usize| {
            let at = &self.world.drives[*drive];
            let free = !at.is_dead() && at.is_idle() && S::is_out(engine, at.uuid);
            self.shape.is_bad(*drive) && free && !self.has_rows(*drive)
        };
        let left: Vec<usize> = (0..self.world.drives.len()).filter(is_left).collect();
        if left.is_empty() {
            return;
        }
        let drive = *self.verbs.pick(&left);
        self.wipe_home(drive);
        self.world.drive_back(drive, true);
    }

    /// One that counts and has no row goes again.
    fn a_spare_one_is_taken_out(&mut self) {
        let engine = self.world.engine();
        let is_spare =
            |drive: &usize| self.shape.is_bad(*drive) && S::counts_on(engine, self.world.drives[*drive].uuid);
        let spare: Vec<usize> = (0..self.world.drives.len()).filter(is_spare).collect();
        if !spare.is_empty() && !S::moving(engine) {
            let drive = *self.verbs.pick(&spare);
            let uuid = self.world.drives[drive].uuid;
            S::take_out(self.world.engine_mut(), uuid);
        }
    }

    /// A dead drive that has no row is plugged in again; one that the group does not know was cut off only.
    fn a_spare_one_is_plugged_in(&mut self) {
        let dead = |drive: &usize| {
            let at = &self.world.drives[*drive];
            at.is_dead() && at.is_idle() && !self.has_rows(*drive)
        };
        let dead: Vec<usize> = (0..self.world.drives.len()).filter(dead).collect();
        if dead.is_empty() {
            return;
        }
        let drive = *self.verbs.pick(&dead);
        if self.table().contains(&self.world.drives[drive].uuid) {
            return self.plug_in(drive);
        }
        self.world.drives[drive].replug(&mut self.verbs, true);
        self.world.trace.event(b"pl", [drive as u64, 1, 0, 0]);
        self.world.trace.say(|| format!("{:>12} drive {drive} is plugged in", self.world.now().nanos()));
    }
}
