//! The copies that have everything are lost while another one lacks something: a disaster that an operator ends.
//!
//! A leg is put out; what is acknowledged from then on is on the others alone. Power goes away, and of the drives only
//! those of that leg are found. The group must refuse, unless they have everything by then (D17). Then either the others
//! turn up again, or the operator gives up what the leg lacks and opens by force, after which the volume is what a crash
//! at the moment when the leg was put out would have left: that is what may be lost, and nothing more. When the others
//! turn up later they are drives of another history: nothing on them counts.
//!
//! A leg that was being brought up to date when the others were lost is a mixture of two times, and its drives say so
//! themselves: it is refused, also by force, and nothing is changed by that.
use crate::checks::{Violation, d17};
use crate::model::Model;
use crate::run::{Run, Turned};
use crate::subject::Subject;
use base::Phase;
use simkit::SimDrive;

/// How a disaster stands.
#[derive(Default)]
pub(crate) struct Disaster {
    /// What the guest knew when the leg was put out that lacks something since.
    before: Option<Box<Model>>,
    /// It was about to be brought up to date at some time since: it may have everything.
    returns: bool,
    /// The group is opened by force, and must refuse.
    mixture: bool,
    /// The operator has given his word, and the group is not served yet.
    pub(crate) forced: bool,
}

impl<S: Subject> Run<S> {
    fn drives_put_out(&self) -> std::ops::Range<usize> {
        self.shape.drives_of_leg(self.shape.bad_leg)
    }

    fn is_current(&self, drive: usize) -> bool {
        let uuid = self.world.drives[drive].uuid;
        !self.world.control.catalogue.is_stale(drive) && S::is_current(self.world.engine(), uuid)
    }

    /// A leg is put out, now and then, where all have everything.
    pub(crate) fn a_leg_falls_behind(&mut self) {
        if !self.shape.disasters || self.world.phase() != Phase::Serving {
            return;
        }
        if self.disaster.before.is_some() && self.drives_put_out().all(|drive| self.is_current(drive)) {
            self.disaster = Disaster::default();
        }
        let all = (0..self.world.drives.len()).all(|drive| self.is_current(drive));
        if !all || !self.verbs.chance(1, 60) {
            return;
        }
        self.disaster.before = Some(Box::new(self.model.clone()));
        for drive in self.drives_put_out() {
            let uuid = self.world.drives[drive].uuid;
            self.world.trace.event(b"ou", [drive as u64, 0, 0, 0]);
            self.world.trace.say(|| format!("{:>12} drive {drive} falls behind", self.world.now().nanos()));
            S::take_out(self.world.engine_mut(), uuid);
        }
    }

    /// A drive that lacks something is brought up to date.
    pub(crate) fn copies_begin(&mut self) {
        self.disaster.returns = true;
    }

    /// After a power loss all copies that have everything may be lost; those that were lost may be found.
    pub(crate) fn disaster_after_crash(&mut self) {
        if self.disaster.forced {
            // What it says of itself may not have been flushed.
            return self.look_for_mixture();
        }
        if self.are_some_away() {
            if self.verbs.chance(1, 2) {
                self.world.drives.iter_mut().for_each(SimDrive::revive);
            }
            return;
        }
        let behind = self.drives_put_out();
        let lacks = |drive: usize| self.world.control.catalogue.is_stale(drive);
        if self.disaster.before.is_some() && behind.clone().all(lacks) && self.verbs.chance(1, 2) {
            let lost = (0..self.world.drives.len()).filter(|drive| !behind.contains(drive));
            lost.for_each(|drive| self.world.drives[drive].kill());
        }
    }

    /// The group refuses because drives are lost: they turn up, or the operator forces it.
    pub(crate) fn after_refusal(&mut self) -> Turned {
        let Disaster { mixture, forced, .. } = self.disaster;
        if forced && !mixture {
            let what = format!("forced, on a leg without damage: {}", S::refusal(self.world.engine()));
            return Err(Violation::new("C9", what));
        }
        // Columns of which one has come back and another has not are of two times, and no superblock says so.
        let apart = self.disaster.returns && self.shape.columns > 1;
        let force = !forced && !apart && self.disaster.before.is_some() && self.verbs.chance(2, 3);
        self.give_word(force);
        if !force {
            self.all_come_back();
            return Ok(());
        }
        self.look_for_mixture();
        self.world.crash_process();
        self.reopen();
        Ok(())
    }

    fn look_for_mixture(&mut self) {
        let subject = self.world.opener().clone();
        let mut behind = self.drives_put_out();
        self.disaster.mixture = !behind.all(|drive| subject.says_current(&self.world.drives[drive]));
    }

    fn give_word(&mut self, forced: bool) {
        self.disaster.forced = forced;
        self.world.opener().force(forced);
    }

    /// The group is served by the operator's word: from here on it has the history of the leg that was left.
    pub(crate) fn served_by_force(&mut self) -> Turned {
        if !self.disaster.forced {
            return Ok(());
        }
        self.give_word(false);
        let Disaster { before, returns, mixture, .. } = std::mem::take(&mut self.disaster);
        d17::by_force(mixture)?;
        self.model.fork(&before.expect("forced only if a leg fell behind"), returns);
        self.untouched &= !returns;
        self.shape.bad_leg = (self.shape.bad_leg + 1) % self.shape.legs;
        Ok(())
    }

    /// The end of a run is not the moment for a disaster: every drive is there.
    pub(crate) fn end_disaster(&mut self) -> Turned {
        if self.disaster.forced {
            self.settle_down()?;
            if self.is_over() {
                return self.after_refusal();
            }
        }
        if self.are_some_away() {
            self.all_come_back();
        }
        Ok(())
    }
}
