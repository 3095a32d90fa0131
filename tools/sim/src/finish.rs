//! The end of a run: all faults stop, and everything is asked for.
//!
//! Every request ends (C10), everything reads right, the group closes, its legs are alike and its free space is
//! exact (C5), it opens again and answers the same (C4), also without any leg whose loss it must survive.
use crate::checks::c5::{AtRest, Places};
use crate::checks::{self, Violation, c10, d17, d22};
use crate::run::{Run, Turned};
use crate::subject::Subject;
use base::{DriveBlock, DriveIx, Phase};
use simkit::{CrashMode, Rng, World};

/// Steps that bringing all drives up to date may take.
const MOST_STEPS: u64 = 200_000;

impl<S: Subject> Run<S> {
    /// Stops all faults and asks for everything: every request ends, everything reads right, the group closes, its
    /// legs are alike, it opens again and answers the same, also without any leg whose loss it must survive.
    pub(crate) fn finish(&mut self) -> Turned {
        self.calm_down();
        if self.shape.disasters {
            self.end_disaster()?;
        }
        if self.shape.ends && self.are_some_away() {
            self.all_come_back();
        }
        self.settle_down()?;
        if self.is_over() && self.strange.is_some() {
            self.strangers_leave();
            self.settle_down()?;
        }
        if self.is_over() || self.world.phase() == Phase::ReadOnly {
            return Ok(());
        }
        if self.canary {
            self.expect_the_impossible();
        }
        self.read_everything()?;
        self.copies_are_right()?;
        self.all_drives_back()?;
        let scrubbed = self.scrub_everything()?;
        self.legs();
        let rows = |drive: &simkit::SimDrive| S::extents_on(self.world.engine(), drive.uuid).is_empty();
        self.rowless = self.world.drives.iter().map(rows).collect();
        self.world.close();
        while !matches!(self.world.phase(), Phase::Closed | Phase::Refused) {
            self.step()?;
        }
        // A clean close promises what a flush does.
        if !S::has_halted(self.world.engine()) {
            self.model.flushed(self.model.acks.len());
        }
        // What was given up on a drive that does not answer is nobody's any more.
        c10::closed(false, self.world.drives.iter().all(simkit::SimDrive::is_given_up))?;
        let at_rest = self.compare_legs(scrubbed)?;
        let loses: Vec<u8> = (0..self.legs).filter(|leg| self.may_lose(*leg, &at_rest)).collect();
        if !self.errors_allowed {
            // Before the next activation, which makes stale what a crash left without rows.
            self.with_what_was_left()?;
        }
        self.shape.verify_first = true;
        self.reopen();
        self.settle_down()?;
        if self.errors_allowed {
            return Ok(());
        }
        loses.into_iter().try_for_each(|leg| self.without(leg, &at_rest))
    }

    /// Opens a copy of everything on those drives alone that do not count any more: it must refuse (D17).
    fn with_what_was_left(&mut self) -> Turned {
        let (world, fresh) =
            self.copy_with(0x4c45_4654, |run, drive| !run.counts(drive) || run.rowless[drive]);
        // An engine without rows leaves no drive.
        if world.drives.iter().all(simkit::SimDrive::is_dead) || !self.rowless.contains(&false) {
            return Ok(());
        }
        let mut run = Self::around(self.shape.clone(), world, self.model.clone(), fresh);
        run.errors_allowed = true;
        run.calm_down();
        (run.size, run.legs) = (self.size, self.legs);
        run.settle_down()?;
        d17::alone(run.world.phase())
    }

    /// Every drive that is there and answers is brought up to date, whichever others never do; and a move is over, but for
    /// its word where one of them may still be written to.
    fn all_drives_back(&mut self) -> Turned {
        let silent = self.world.drives.iter().any(simkit::SimDrive::is_silent);
        for _ in 0..MOST_STEPS {
            let drives = &self.world.drives;
            let lacks =
                self.lacking().iter().any(|drive| !drives[*drive].is_dead() && !drives[*drive].is_silent());
            let engine = self.world.engine();
            let waits = lacks || (S::moving(engine) && !(silent && S::lingers(engine)));
            if !waits || self.world.phase() != Phase::Serving {
                return Ok(());
            }
            if self.verbs.chance(1, 20) {
                self.bring_drives_back();
            }
            self.step()?;
        }
        Err(c10::endless(format!("drives are never current: {}", S::refusal(self.world.engine()))))
    }

    /// A scrub finds and mends everything that is wrong; a second one finds nothing. Whether that was done.
    fn scrub_everything(&mut self) -> Result<bool, Violation> {
        if self.errors_allowed || self.world.phase() != Phase::Serving {
            return Ok(false);
        }
        // One that is under way has found, and mended, what was spoiled before now.
        S::stop_scrub(self.world.engine_mut());
        self.step()?;
        while !self.world.drives.iter().all(simkit::SimDrive::is_given_up) {
            self.step()?;
        }
        S::scrub(self.world.engine_mut());
        // What a drive spoiled may be wrong, and all of one that died unnoticed; everything else is the engine's own doing.
        let before = self.world.drives.clone();
        if !S::start_scrub(self.world.engine_mut()) {
            return Ok(false);
        }
        for round in 0..=d22::LAST_ROUND {
            d22::found(round, &self.one_scrub()?, &before)?;
            if round < d22::LAST_ROUND {
                S::start_scrub(self.world.engine_mut());
            }
        }
        Ok(true)
    }

    /// Waits for the end of a scrub; the wrong copies that it found.
    fn one_scrub(&mut self) -> Result<Vec<(base::Uuid, DriveBlock)>, Violation> {
        let mut wrong = Vec::new();
        for step in 0..MOST_STEPS {
            if step % 32 != 0 && !self.world.is_asleep() {
                // Looking wakes the engine: not so often that time stands still.
                self.step()?;
                continue;
            }
            let scrub = S::scrub(self.world.engine_mut());
            wrong.extend(scrub.wrong);
            d22::lost(scrub.lost)?;
            if scrub.finished || self.world.phase() != Phase::Serving {
                return Ok(wrong);
            }
            self.step()?;
        }
        Err(c10::endless("a scrub does not end"))
    }

    /// Steps until nothing waits.
    pub(crate) fn settle_down(&mut self) -> Turned {
        while (self.waits() || self.verify.is_some()) && !self.is_over() {
            self.turn(false)?;
        }
        Ok(())
    }

    /// Reads the whole volume.
    pub(crate) fn read_everything(&mut self) -> Turned {
        self.verify = Some(0);
        self.settle_down()
    }

    fn calm_down(&mut self) {
        self.world.slow_control = 0;
        self.shape.eager = true;
        self.calm = true;
        self.world.drives.iter_mut().for_each(simkit::SimDrive::heal);
        self.left = 0;
    }

    /// Whether what a drive holds counts: it is there, and nobody called it stale.
    pub(crate) fn counts(&self, drive: usize) -> bool {
        !self.world.drives[drive].is_dead() && !self.world.control.catalogue.is_stale(drive)
    }

    fn compare_legs(&mut self, scrubbed: bool) -> Result<AtRest, Violation> {
        if self.errors_allowed {
            return Ok(AtRest::default());
        }
        let subject = self.world.opener().clone();
        let drives = &self.world.drives;
        let counts: Vec<bool> = (0..drives.len()).map(|i| self.counts(i)).collect();
        let at_rest = subject.at_rest(drives, &counts, scrubbed)?;
        self.compared += checks::c5::at_rest(drives, &at_rest.mapped)? as u64;
        Ok(at_rest)
    }

    /// Whether everything of this leg has another copy that is current and not in doubt.
    fn may_lose(&self, leg: u8, at_rest: &AtRest) -> bool {
        let columns = usize::from(self.shape.columns);
        let drives = &self.world.drives;
        let stays = |drive: usize| self.shape.leg_of(drive) != leg && self.counts(drive);
        // A place may have had several drives, one after the other.
        let all_there = |place: usize| {
            let mut here = (0..drives.len()).filter(|i| self.shape.place_of(*i) == place);
            here.all(|i| {
                let unused = if self.shape.twins || self.shape.most_legs > 0 {
                    self.rowless[i]
                } else {
                    !self.world.control.pool.has(i)
                };
                self.counts(i) || unused
            })
        };
        let held = |places: &Places| places.iter().any(|(drive, _)| stays(usize::from(drive.get())));
        let right = |(drive, at): &(DriveIx, DriveBlock)| {
            let drive = usize::from(drive.get());
            !stays(drive) || !drives[drive].in_doubt(*at)
        };
        let whole = !at_rest.leaving_is_short
            || (0..drives.len()).all(|drive| !stays(drive) || !drives[drive].has_doubts());
        let others = || (0..self.legs).filter(|other| *other != leg).map(usize::from);
        (0..columns).all(|column| others().any(|other| all_there(other * columns + column)))
            && whole
            && at_rest.mapped.iter().chain(&at_rest.leaving).chain(&at_rest.rows).all(held)
            && at_rest.own.iter().all(right)
    }

    /// A copy of everything after a power loss, on the drives that stay.
    fn copy_with(&mut self, salt: u64, stays: impl Fn(&Self, usize) -> bool) -> (World<S>, Rng) {
        let mut drives = self.world.drives.clone();
        let mut fresh = Rng::new(self.shape.seed ^ salt);
        for (i, drive) in drives.iter_mut().enumerate() {
            drive.crash(&mut fresh, CrashMode::Random);
            if !stays(self, i) {
                drive.kill();
            }
        }
        let subject = self.world.opener().clone();
        let mut world = World::new(subject, drives, self.world.control.clone(), fresh.fork());
        world.trace.verbose = self.world.trace.verbose;
        (world.twins, world.columns) = (self.world.twins.clone(), self.world.columns);
        (world, fresh)
    }

    /// Opens a copy of everything without one leg and reads all of it, unless the power loss shows that a drive which stays
    /// gave up what it had said was flushed: that is a fault of another leg.
    fn without(&mut self, leg: u8, at_rest: &AtRest) -> Turned {
        let (world, fresh) =
            self.copy_with(u64::from(leg) ^ 0x4c45_4700, |run, drive| run.shape.leg_of(drive) != leg);
        let lost = |(drive, at): &(DriveIx, DriveBlock)| {
            let drive = &world.drives[usize::from(drive.get())];
            !drive.is_dead() && drive.in_doubt(*at)
        };
        let places = at_rest.mapped.iter().chain(&at_rest.leaving).flatten();
        if places.chain(&at_rest.own).any(lost) {
            return Ok(());
        }
        world.trace.say(|| format!("without leg {leg}"));
        let mut model = self.model.clone();
        model.crash();
        let mut run = Self::around(self.shape.clone(), world, model, fresh);
        run.calm_down();
        (run.size, run.legs) = (self.size, self.legs);
        run.verify = Some(0);
        run.settle_down().map_err(|v| Violation::new(v.checker, format!("without leg {leg}: {}", v.what)))?;
        self.world.trace.event(b"wl", [u64::from(leg), run.world.trace.hash(), 0, 0]);
        Ok(())
    }
}
