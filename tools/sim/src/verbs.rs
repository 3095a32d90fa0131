//! What an operator asks of a group that serves: a leg more or less, a larger volume, to be closed and opened again.
//!
//! Each comes at any moment, whatever else goes on, and power may go away at any step of it. What a crash leaves
//! undone the operator asks for again, as an agent does that finds the group another way than its catalogue has it.
use crate::checks::{c10, growth};
use crate::run::{Run, Turned};
use crate::shape::Weather;
use crate::subject::Subject;
use base::{ExtentNo, LegId, Phase};
use simkit::CrashMode;

impl<S: Subject> Run<S> {
    /// Legs of the group: those that it had last, while it is not served.
    pub(crate) fn legs(&mut self) -> u8 {
        if let Some(legs) = S::legs(self.world.engine()) {
            self.legs = legs;
        }
        self.legs
    }

    /// What lies under older keys is written again, now and then; when that is over nobody has them any more.
    pub(crate) fn keys_come_and_go(&mut self) {
        if !self.shape.encrypted || self.world.phase() != Phase::Serving {
            return;
        }
        if self.rekeys.chance(1, 20) {
            let starts = self.rekeys.chance(1, 8);
            let (opener, engine) = self.world.opener_and_engine();
            if starts {
                opener.start_rekey(engine);
            }
            opener.rekeyed(engine);
        }
    }

    /// A leg more or less, now and then.
    pub(crate) fn legs_come_and_go(&mut self) {
        let serves = self.world.phase() == Phase::Serving;
        if self.shape.most_legs == 0 || !serves || S::moving(self.world.engine()) {
            return;
        }
        if !self.verbs.chance(1, 40) {
            return;
        }
        // A change that was asked for since the last look may have come to nothing.
        self.pool_follows();
        let legs = self.legs();
        if self.shape.mixed && legs <= 2 {
            return;
        }
        if legs == 1 || (legs < self.shape.most_legs && self.verbs.chance(1, 2)) {
            self.add_a_leg();
        } else if self.can_do_without(legs - 1) {
            self.drop_a_leg();
        }
    }

    /// Rows that are handed out have the legs that the group has: a change is over, came to nothing, or a crash came.
    pub(crate) fn pool_follows(&mut self) {
        // While it recovers nobody knows whether a leg was added.
        let serves = S::legs(self.world.engine()).is_some();
        if self.shape.most_legs == 0 || !serves || S::moving(self.world.engine()) {
            return;
        }
        let places = usize::from(self.legs() * self.shape.columns);
        self.world.control.pool.keep_places(places);
    }

    /// Whether a leg stays on which no fault strikes.
    fn can_do_without(&self, last: u8) -> bool {
        self.shape.weather == Weather::Crashes || self.shape.bad_leg != 0 || last > 1
    }

    /// Asks for a leg more, if its drives can be used.
    pub(crate) fn add_a_leg(&mut self) {
        let legs = self.legs();
        let drives: Vec<usize> = self.shape.drives_of_leg(legs).collect();
        let engine = self.world.engine();
        let usable = |drive: &usize| {
            let at = &self.world.drives[*drive];
            !at.is_dead() && at.is_idle() && !S::counts_on(engine, at.uuid)
        };
        if legs >= self.shape.most_legs || !drives.iter().all(usable) {
            return;
        }
        let subject = self.world.opener().clone();
        drives.iter().for_each(|drive| subject.wipe(&mut self.world.drives[*drive]));
        let leg_0: Vec<Vec<ExtentNo>> = self.shape.drives_of_leg(0).map(|at| self.extents_at(at)).collect();
        let columns = leg_0.len();
        let free: Vec<ExtentNo> = (0..self.shape.extents_of(0)).rev().map(ExtentNo::new).collect();
        let new = self.world.control.pool.add_leg(&drives, &free, leg_0[0].len());
        let step = |(i, new): (usize, &ExtentNo)| (leg_0[i % columns][i / columns], i % columns, *new);
        let extents = new.iter().enumerate().map(step).collect();
        self.world.add_leg(&drives, extents);
        self.moved = drives;
    }

    /// The extents of a place of the home row's leg 0, on the drive that has it now.
    fn extents_at(&self, drive: usize) -> Vec<ExtentNo> {
        let drive = self.world.in_place_of(drive);
        S::extents_on(self.world.engine(), self.world.drives[drive].uuid)
    }

    /// Asks for a leg less.
    pub(crate) fn drop_a_leg(&mut self) {
        let last = self.legs() - 1;
        let of_leg = (0..self.world.drives.len()).filter(|drive| self.shape.leg_of(*drive) == last);
        let has_rows =
            |drive: &usize| !S::extents_on(self.world.engine(), self.world.drives[*drive].uuid).is_empty();
        // Where drives are handed back that were left, on one of them something may land that was never of the leg.
        self.moved = of_leg.filter(|drive| !self.shape.doors || has_rows(drive)).collect();
        self.world.drop_leg(LegId::new(last));
    }

    /// Where legs come and go, after a power loss often only some are found: one alone, all but one, or those that were
    /// left.
    pub(crate) fn some_legs_come_back(&mut self) {
        let (legs, style) = (self.legs(), self.verbs.weighted(&[3, 2, 2, 3]));
        let one = self.verbs.below(u64::from(legs)) as u8;
        for drive in 0..self.world.drives.len() {
            let leg = self.shape.leg_of(drive);
            let gone = match style {
                0 => leg != one,
                1 => leg == one,
                2 => leg + 1 < legs,
                _ => false,
            };
            if gone {
                self.world.drives[drive].kill();
            } else {
                self.world.drives[drive].revive();
            }
        }
    }

    /// The volume grows, now and then; what a crash took back is asked for again before anybody relies on it.
    pub(crate) fn volume_grows(&mut self) -> Turned {
        if self.shape.first_blocks == 0 || self.world.phase() != Phase::Serving {
            return Ok(());
        }
        let durable = S::sectors(self.world.engine()).expect("it serves");
        growth::size(self.durable_sectors, durable)?;
        self.durable_sectors = durable;
        let more = self.size < self.shape.volume_blocks && self.verbs.chance(1, 100);
        if more {
            self.size += self.verbs.between(1, self.shape.volume_blocks - self.size);
        }
        let sectors = self.shape.sectors_for(self.size);
        if more || std::mem::take(&mut self.regrow) {
            growth::grows(S::grow(self.world.engine_mut(), sectors), sectors)?;
        }
        Ok(())
    }

    /// The group is closed while requests are outstanding, and opened again; or a crash comes first.
    pub(crate) fn close_and_reopen(&mut self) -> Turned {
        self.world.close();
        while !matches!(self.world.phase(), Phase::Closed | Phase::Refused) {
            if self.shape.crash_every != 0 && self.verbs.chance(1, self.shape.crash_every) {
                return self.crash();
            }
            self.step()?;
        }
        let quiet = self.world.drives.iter().all(simkit::SimDrive::is_given_up);
        c10::closed(self.slots.iter().any(Option::is_some), quiet)?;
        // A clean close promises what a flush does, even if power goes away now.
        if !S::has_halted(self.world.engine()) {
            self.model.flushed(self.model.acks.len());
        }
        if self.verbs.chance(1, 2) {
            self.world.crash_node(CrashMode::Random);
            self.weather_after_crash();
        }
        self.reopen();
        Ok(())
    }

    /// Closes the group, now and then.
    pub(crate) fn may_close(&mut self) -> bool {
        let serves = self.world.phase() == Phase::Serving;
        self.shape.closes != 0 && serves && self.verbs.chance(1, self.shape.closes)
    }
}
