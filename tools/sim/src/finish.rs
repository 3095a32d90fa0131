//! The end of a run: all faults stop, and everything is asked for.
//!
//! Every request ends (C10), everything reads right, the group closes, its legs are alike and its free space is
//! exact (C5), it opens again and answers the same (C4), also without any leg whose loss it must survive.
use crate::checks::{self, Violation};
use crate::run::{Run, Turned};
use crate::subject::Subject;
use base::Phase;
use simkit::{CrashMode, FaultCounts, Rng, World};

impl<S: Subject> Run<S> {
    /// Stops all faults and asks for everything: every request ends, everything reads right, the group closes, its
    /// legs are alike, it opens again and answers the same, also without any leg whose loss it must survive.
    pub(crate) fn finish(&mut self) -> Turned {
        self.calm_down();
        self.settle_down()?;
        if self.is_over() || self.world.phase() == Phase::ReadOnly {
            return Ok(());
        }
        if self.canary {
            self.expect_the_impossible();
        }
        self.read_everything()?;
        self.world.close();
        while !matches!(self.world.phase(), Phase::Closed | Phase::Refused) {
            self.step()?;
        }
        // A clean close promises what a flush does.
        self.model.flushed(self.model.acks.len());
        if !self.world.is_quiet() {
            return Err(Violation::new("C10", "the group is closed, but operations are in flight"));
        }
        self.compare_legs()?;
        self.shape.verify_first = true;
        self.reopen();
        self.settle_down()?;
        if self.errors_allowed {
            return Ok(());
        }
        let legs = 0..self.shape.legs;
        legs.filter(|leg| self.may_lose(*leg))
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|leg| self.without(leg))
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

    fn compare_legs(&mut self) -> Turned {
        if self.errors_allowed {
            return Ok(());
        }
        let subject = self.world.opener().clone();
        let catalogue = &self.world.control.catalogue;
        let drives = &self.world.drives;
        let counts =
            |i: usize| !drives[i].is_dead() && !catalogue.is_stale(i) && !drives[i].counts.left_damage();
        let mapped = subject.mapped(drives, &(0..drives.len()).map(counts).collect::<Vec<_>>())?;
        self.compared += checks::c5::at_rest(drives, &mapped)? as u64;
        Ok(())
    }

    /// Whether every place of this leg has another copy that is current and undamaged.
    fn may_lose(&self, leg: u8) -> bool {
        let columns = usize::from(self.shape.columns);
        let good = |drive: usize| {
            let state = &self.world.drives[drive];
            !state.is_dead() && !self.world.control.catalogue.is_stale(drive) && !state.counts.left_damage()
        };
        // A place may have had several drives, one after the other.
        let all_good = |place: usize| {
            let mut drives = (0..self.world.drives.len()).filter(|i| self.shape.place_of(*i) == place);
            drives.all(|i| good(i) || !self.world.control.pool.has(i))
        };
        (0..columns).all(|column| {
            (0..self.shape.legs).any(|other| other != leg && all_good(usize::from(other) * columns + column))
        })
    }

    /// Opens a copy of everything without one leg and reads all of it.
    fn without(&mut self, leg: u8) -> Turned {
        let mut drives = self.world.drives.clone();
        let mut fresh = Rng::new(self.shape.seed ^ u64::from(leg) ^ 0x4c45_4700);
        for (i, drive) in drives.iter_mut().enumerate() {
            drive.counts = FaultCounts::default();
            drive.crash(&mut fresh, CrashMode::Random);
            if self.shape.leg_of(i) == leg {
                drive.kill();
            }
        }
        let subject = self.world.opener().clone();
        let mut world = World::new(subject, drives, self.world.control.clone(), fresh.fork());
        world.trace.verbose = self.world.trace.verbose;
        world.trace.say(|| format!("without leg {leg}"));
        let mut model = self.model.clone();
        model.crash();
        let mut run = Self::around(self.shape.clone(), world, model, fresh);
        run.calm_down();
        run.verify = Some(0);
        run.settle_down().map_err(|v| Violation::new(v.checker, format!("without leg {leg}: {}", v.what)))?;
        self.world.trace.event(b"wl", [u64::from(leg), run.world.trace.hash(), 0, 0]);
        Ok(())
    }
}
