//! Drives that are not what their labels say when a group is opened: another group's content, none at all, a copy of
//! another drive, or the content of each other.
//!
//! The label, by which the driver knows a drive, is right in all of them: a drive that only has another place is at
//! hand in another order at every opening anyway. Where that is one leg's trouble the group must go on as after any
//! other fault of that leg. Where it is any leg's the group may refuse to open; then the drives get their own content
//! back, as by somebody who puts the cables right, and everything must be there as if nothing had been. It may also open,
//! if it has all that counts, and answer with errors from then on.
use crate::lies::Said;
use crate::model::Model;
use crate::run::{Run, Unconfirmed};
use crate::shape::{Shape, Strangers, Weather};
use crate::subject::Subject;
use simkit::{FaultKind, Memory, Rng, SimDrive};

/// A group that is opened on strangers and may refuse.
pub(crate) struct Strange {
    undo: Undo,
    /// What the guest knew at the crash.
    model: Model,
    said: Said,
    unconfirmed: Vec<Unconfirmed>,
}

enum Undo {
    Exchange(usize, usize),
    PutBack(Vec<(usize, Memory)>),
}

impl<S: Subject> Run<S> {
    /// While the machine is off somebody touches the drives.
    pub(crate) fn strangers_after_crash(&mut self) {
        match self.shape.strangers {
            Strangers::OneLeg if self.verbs.chance(1, 2) => self.estrange_one(),
            Strangers::AnyLeg if self.may_estrange() && self.verbs.chance(1, 2) => self.estrange_any(),
            _ => {}
        }
    }

    /// Once a group was served on strangers, what is its own drive's is another history.
    fn may_estrange(&self) -> bool {
        self.strange.is_none() && !self.errors_allowed
    }

    fn drives_of_pool(&self) -> Vec<usize> {
        (0..self.world.drives.len()).filter(|drive| self.world.control.pool.has(*drive)).collect()
    }

    fn is_counted_on(&self, drive: usize) -> bool {
        self.world.control.catalogue.may_count(drive)
    }

    fn say_estranged(&mut self, drive: usize, what: &str) {
        self.world.trace.event(b"sg", [drive as u64, 0, 0, 0]);
        let now = self.world.now().nanos();
        self.world.trace.say(|| format!("{now:>12} drive {drive} is {what}"));
    }

    /// A drive of the leg that faults strike, or two of them.
    fn estrange_one(&mut self) {
        let all = self.drives_of_pool();
        let bad: Vec<usize> = all.iter().copied().filter(|drive| self.shape.is_bad(*drive)).collect();
        let drive = *self.verbs.pick(&bad);
        let other = *self.verbs.pick(&all);
        match self.verbs.below(6) {
            0 => self.make_blank(drive),
            1 | 2 => self.make_anothers(drive),
            3 if other != drive => self.make_copy(drive, other),
            _ => {
                let other = *self.verbs.pick(&bad);
                if other == drive { self.make_blank(drive) } else { self.exchange(drive, other) }
            }
        }
    }

    /// Drives of any leg, or all.
    fn estrange_any(&mut self) {
        let all = self.drives_of_pool();
        let contents = |drives: &[usize], run: &Self| {
            drives.iter().map(|drive| (*drive, run.world.drives[*drive].content())).collect::<Vec<_>>()
        };
        let (model, said, unconfirmed) = (self.model.clone(), self.said.clone(), self.unconfirmed.clone());
        let one = *self.verbs.pick(&all);
        let other = *self.verbs.pick(&all);
        let undo = match self.verbs.below(5) {
            0 => {
                let undo = Undo::PutBack(contents(&all, self));
                all.iter().for_each(|drive| self.make_anothers(*drive));
                undo
            }
            1 => {
                let undo = Undo::PutBack(contents(&all, self));
                all.iter().for_each(|drive| self.make_blank(*drive));
                undo
            }
            _ if one == other => {
                let undo = Undo::PutBack(contents(&[one], self));
                self.make_anothers(one);
                undo
            }
            2 => {
                let undo = Undo::PutBack(contents(&[one], self));
                self.make_copy(one, other);
                undo
            }
            _ => {
                // What does not fit on the smaller one is not on either: it is put back.
                let alike = self.world.drives[one].blocks() == self.world.drives[other].blocks();
                let kept = (!alike).then(|| contents(&[one, other], self));
                self.exchange(one, other);
                kept.map_or(Undo::Exchange(one, other), Undo::PutBack)
            }
        };
        self.strange = Some(Box::new(Strange { undo, model, said, unconfirmed }));
    }

    fn make_blank(&mut self, drive: usize) {
        let counted_on = self.is_counted_on(drive);
        let noise = self.verbs.chance(1, 2).then_some(&mut self.verbs);
        self.world.drives[drive].become_blank(noise, counted_on);
        self.say_estranged(drive, "blank");
    }

    fn make_copy(&mut self, drive: usize, other: usize) {
        let counted_on = self.is_counted_on(drive);
        let other = self.world.drives[other].clone();
        self.world.drives[drive].become_like(&other, counted_on, FaultKind::ForeignContent);
        self.say_estranged(drive, "a copy of another one");
    }

    fn make_anothers(&mut self, drive: usize) {
        let counted_on = self.is_counted_on(drive);
        if self.others.is_empty() {
            self.others = another_group::<S>(&self.shape);
        }
        let other = &self.others[drive % self.others.len()];
        self.world.drives[drive].become_like(other, counted_on, FaultKind::OtherGroup);
        self.say_estranged(drive, "another group's");
    }

    fn exchange(&mut self, one: usize, other: usize) {
        let counted_on = [one, other].map(|drive| self.is_counted_on(drive));
        self.exchange_contents(one, other, counted_on);
        self.say_estranged(one, "in another's place");
        self.say_estranged(other, "in another's place");
    }

    fn exchange_contents(&mut self, one: usize, other: usize, counted_on: [bool; 2]) {
        let mut first = self.world.drives[one].clone();
        SimDrive::exchange(&mut first, &mut self.world.drives[other], counted_on);
        self.world.drives[one] = first;
    }

    /// The group has refused: the drives are what they were before, and so is what must be on them.
    pub(crate) fn strangers_leave(&mut self) {
        let Some(strange) = self.strange.take() else { return };
        self.world.crash_process();
        let Strange { undo, model, said, unconfirmed } = *strange;
        match undo {
            Undo::Exchange(one, other) => self.exchange_contents(one, other, [false; 2]),
            Undo::PutBack(contents) => {
                contents.iter().for_each(|(drive, content)| self.world.drives[*drive].hold(content, false));
            }
        }
        (self.model, self.said, self.unconfirmed) = (model, said, unconfirmed);
        self.reopen();
    }

    /// The group is served though not all its drives were its own: what is missing reads as an error from now on.
    pub(crate) fn served_with_strangers(&mut self) {
        if self.strange.take().is_some() {
            self.errors_allowed = true;
        }
    }
}

/// Drives of a group that was served for a while.
fn another_group<S: Subject>(shape: &Shape) -> Vec<SimDrive> {
    let other = Shape {
        seed: !shape.seed,
        weather: Weather::Calm,
        strangers: Strangers::None,
        requests: 40,
        crash_every: 0,
        fault_every: 0,
        outs: 0,
        closes: 0,
        pauses: 0,
        ..shape.clone()
    };
    let mut run = Run::<S>::new(other, None, false);
    let played = run.play();
    assert!(played.is_ok(), "of the other group: {played:?}");
    let mut drives = std::mem::take(&mut run.world.drives);
    let mut rng = Rng::new(shape.seed);
    drives.iter_mut().for_each(|drive| drive.crash(&mut rng, simkit::CrashMode::KeepAll));
    drives
}
