//! The guest and the weather of a run: which requests come, and which faults strike when.
use crate::focus::Focus;
use crate::run::{Kind, Run};
use crate::shape::Weather;
use crate::subject::Subject;
use base::{Duration, Op, Phase, SECTORS_PER_BLOCK};
use simkit::{Armed, FaultKind};

/// Discards and write-zeroes longer than this are rare.
const SHORT_HOLE: u64 = 16;

impl<S: Subject> Run<S> {
    /// One request of the workload.
    pub(crate) fn submit_work(&mut self) {
        let op = [Op::Read, Op::Write, Op::Flush, Op::Discard, Op::WriteZeroes]
            [self.rng.weighted(&self.shape.mix)];
        if op == Op::Flush {
            let acks = self.model.acks.len();
            return self.submit(op, 0, 0, false, Kind::Flush(acks));
        }
        let (sector, sectors) = self.draw_range(op);
        if op == Op::Read || self.model.needs_a_read(sector, sectors) {
            let limit = u64::from(base::limits::MAX_REQUEST_BLOCKS) * SECTORS_PER_BLOCK;
            let sectors = self.shape.side_by_side(sector, sectors.min(limit));
            return self.submit_read(sector, sectors);
        }
        let fua = op != Op::Discard && self.rng.below(100) < self.shape.fua;
        let id = self.model.issue(sector, sectors, op != Op::Write, self.world.steps);
        self.submit(op, sector, sectors, fua, Kind::Write(id));
    }

    /// Where a request goes: mostly into the hot blocks, mostly at block boundaries.
    fn draw_range(&mut self, op: Op) -> (u64, u64) {
        let volume = self.size;
        let zeroes = matches!(op, Op::Discard | Op::WriteZeroes);
        let longest = match zeroes {
            true if self.rng.chance(1, 8) => volume,
            true => SHORT_HOLE,
            false => self.shape.longest,
        };
        let blocks = match self.rng.below(3) {
            0 => 1,
            1 => self.rng.between(1, longest.min(4)),
            _ => self.rng.between(1, longest),
        };
        let first = if self.rng.chance(2, 3) {
            self.rng.below(self.shape.hot_blocks.min(volume))
        } else {
            self.rng.below(volume)
        };
        let blocks = blocks.min(volume - first);
        let (mut sector, mut sectors) = (first * SECTORS_PER_BLOCK, blocks * SECTORS_PER_BLOCK);
        if self.rng.below(100) < self.shape.unaligned {
            let skip = self.rng.below(SECTORS_PER_BLOCK);
            sector += skip;
            sectors = self.rng.between(1, sectors).min(volume * SECTORS_PER_BLOCK - sector);
        }
        if !zeroes {
            sectors = self.shape.side_by_side(sector, sectors);
        }
        (sector, sectors)
    }

    /// A drive joins the pool: soon when space is short, now and then when it is not. Power likes to go away then.
    pub(crate) fn join_a_drive(&mut self) {
        let next = self.shape.drives() + self.joined;
        if next == self.shape.all_drives() {
            return;
        }
        let often = match self.world.control.pool.is_full() {
            true if self.shape.doors => 60,
            true => 8,
            false => 400,
        };
        if !self.rng.chance(1, often) {
            return;
        }
        self.joined += 1;
        let extents = (0..self.shape.extents_of(next)).rev().map(base::ExtentNo::new).collect();
        self.world.control.pool.add_drive(next, self.shape.place_of(next), extents);
        self.world.trace.event(b"jo", [next as u64, 0, 0, 0]);
        self.world.trace.say(|| format!("{:>12} drive {next} joins the pool", self.world.now().nanos()));
        self.world.space_added();
        self.may_be_ill(next);
        if self.shape.crash_every != 0 && self.rng.chance(1, 2) {
            self.joining_left = Some(self.rng.below(80));
        }
    }

    /// Drives that lack something, by their number in the world.
    pub(crate) fn lacking(&self) -> Vec<usize> {
        let place = |uuid| self.world.drives.iter().position(|drive| drive.uuid == uuid);
        S::lacking(self.world.engine()).into_iter().filter_map(place).collect()
    }

    /// What an operator does with drives, now and then.
    pub(crate) fn drives_come_and_go(&mut self) {
        if self.verbs.chance(1, 250) {
            self.move_a_drive();
        }
        let scrubs = self.shape.scrubs || self.shape.outs != 0 || self.shape.weather == Weather::Rot;
        if scrubs && self.verbs.chance(1, 200) {
            S::start_scrub(self.world.engine_mut());
        }
        if scrubs && self.verbs.chance(1, 20) {
            S::scrub(self.world.engine_mut());
        }
        if self.verbs.chance(1, if self.shape.disasters { 400 } else { 60 }) {
            self.bring_drives_back();
        }
        if self.shape.outs != 0 && self.verbs.chance(1, self.shape.outs) {
            let drives = (0..self.world.drives.len()).filter(|drive| self.shape.is_bad(*drive));
            let drives: Vec<usize> = drives.collect();
            let drive = *self.verbs.pick(&drives);
            self.world.trace.event(b"ou", [drive as u64, 0, 0, 0]);
            self.world.trace.say(|| format!("{:>12} drive {drive} is put out", self.world.now().nanos()));
            let uuid = self.world.drives[drive].uuid;
            S::take_out(self.world.engine_mut(), uuid);
        }
        if self.shape.ends && self.verbs.chance(1, 30) {
            self.move_a_drive();
        }
        if self.shape.ghosts && self.verbs.chance(1, 25) {
            let drives = (0..self.world.drives.len()).filter(|drive| self.shape.is_bad(*drive));
            let drives: Vec<usize> = drives.collect();
            self.world.drives[*self.verbs.pick(&drives)].remember(&mut self.verbs);
        }
        if self.shape.ghosts && self.verbs.chance(1, 40) {
            // Nothing is lost by a slow drive, whichever it is.
            let drive = self.verbs.below(self.world.drives.len() as u64) as usize;
            self.world.drives[drive].arm(Armed::once(FaultKind::Slow));
        }
        if self.shape.silences && !self.shape.doors && self.verbs.chance(1, 250) {
            let drives = (0..self.world.drives.len()).filter(|drive| self.shape.is_bad(*drive));
            let drives: Vec<usize> = drives.collect();
            let drive = *self.verbs.pick(&drives);
            self.falls_silent(drive);
        }
        self.drives_are_unplugged();
        self.all_is_remembered();
        if self.shape.pauses != 0 && self.verbs.chance(1, self.shape.pauses) {
            let time = Duration::from_nanos(1_000_000 << self.verbs.below(16));
            if self.verbs.chance(1, 2) {
                self.world.pause(time)
            } else {
                self.world.leap(time)
            }
            // Nobody answers for a time in which nothing ran.
            self.slots.iter_mut().flatten().for_each(|pending| pending.since = pending.since + time);
        }
    }

    pub(crate) fn falls_silent(&mut self, drive: usize) {
        self.world.trace.event(b"si", [drive as u64, 0, 0, 0]);
        self.world.trace.say(|| format!("{:>12} drive {drive} falls silent", self.world.now().nanos()));
        self.world.drives[drive].fall_silent();
    }

    /// Whoever brings this drive back brought something else, under the same label.
    fn haunt(&mut self, drive: usize) {
        let (at, uuid) = (&self.world.drives[drive], self.world.drives[drive].uuid);
        if at.is_dead() || !at.is_idle() || !S::is_out(self.world.engine(), uuid) {
            return;
        }
        let kind = match self.verbs.below(6) {
            0..=2 if self.world.drives[drive].set_back(false) => FaultKind::OldContent,
            3 => {
                let other = self.verbs.below(self.world.drives.len() as u64) as usize;
                let other = self.world.drives[other].clone();
                self.world.drives[drive].swap_content(&other);
                FaultKind::ForeignContent
            }
            _ => return,
        };
        self.world.trace.event(b"gh", [drive as u64, kind as u64, 0, 0]);
        self.world
            .trace
            .say(|| format!("{:>12} drive {drive} has {}", self.world.now().nanos(), kind.name()));
    }

    /// A drive of the leg that faults strike gives its place to its twin, or takes it back, or gives a part of it.
    pub(crate) fn move_a_drive(&mut self) {
        if !self.shape.twins || S::moving(self.world.engine()) || self.world.phase() != Phase::Serving {
            return;
        }
        if self.shape.doors {
            return self.a_drive_is_left();
        }
        let places: Vec<usize> = (0..self.shape.drives()).filter(|place| self.shape.is_bad(*place)).collect();
        let first = *self.verbs.pick(&places);
        let twin = first + self.shape.all_drives();
        let extents = |drive: usize| S::extents_on(self.world.engine(), self.world.drives[drive].uuid);
        let shared = !extents(first).is_empty() && !extents(twin).is_empty();
        let back = extents(first).is_empty() || (shared && self.verbs.chance(1, 2));
        let (from, to) = if back { (twin, first) } else { (first, twin) };
        let mut moved = extents(from);
        if S::counts_on(self.world.engine(), self.world.drives[to].uuid) {
            // A crash came after the rows had switched and before the old drive was stale.
            moved.clear();
            self.moved = vec![from];
            return self.world.move_drive(to, None, moved, true);
        }
        if self.world.drives[to].is_dead() || !self.world.drives[to].is_idle() || moved.is_empty() {
            return;
        }
        if extents(to).is_empty() {
            let subject = self.world.opener().clone();
            subject.wipe(&mut self.world.drives[to]);
        }
        let all = !self.shape.shifts || self.verbs.chance(1, 2);
        if !all {
            // Those of the home row stay.
            let home = self.world.opener().home_extents(from);
            moved.retain(|extent| !home.contains(extent));
            let most = 1 + self.verbs.below(3) as usize;
            moved.truncate(most);
        }
        if !moved.is_empty() {
            self.moved = vec![from, to];
            self.world.move_drive(from, Some(to), moved, all);
        }
    }

    /// Drives that lack something and can be used are handed back, healed or not.
    pub(crate) fn bring_drives_back(&mut self) {
        for drive in self.lacking() {
            if self.verbs.chance(1, 2) {
                self.world.drives[drive].heal();
            }
            self.plug_in(drive);
            if self.shape.ghosts {
                self.haunt(drive);
            }
            // Whoever hands back a drive that has no row has seen to it that nothing of the group is on it.
            let engine = self.world.engine();
            let rowless = S::extents_on(engine, self.world.drives[drive].uuid).is_empty();
            if rowless && S::legs(engine).is_some() {
                if !self.world.drives[drive].is_idle() || self.world.drives[drive].is_dead() {
                    continue;
                }
                let subject = self.world.opener().clone();
                subject.wipe(&mut self.world.drives[drive]);
            }
            let out = S::is_out(self.world.engine(), self.world.drives[drive].uuid);
            if self.world.drive_back(drive, out) {
                self.copies_begin();
            }
        }
    }

    /// A fault on the leg that faults strike, or on any leg beyond the budget.
    pub(crate) fn strike(&mut self) {
        use FaultKind as F;
        if self.shape.lies {
            return self.strike_with_lies();
        }
        let columns = u64::from(self.shape.columns);
        let beyond = matches!(self.shape.weather, Weather::Beyond | Weather::Hiccups);
        let any = beyond && !self.shape.seesaw;
        let leg =
            if any { self.rng.below(u64::from(self.shape.legs)) } else { u64::from(self.shape.bad_leg) };
        let mut drive = (leg * columns + self.rng.below(columns)) as usize;
        if self.shape.spares > 0 {
            drive += self.shape.drives() * self.rng.below(u64::from(self.shape.spares) + 1) as usize;
        }
        if self.shape.twins && drive < self.shape.drives() && self.verbs.chance(1, 2) {
            drive += self.shape.all_drives();
        }
        if self.shape.doors {
            drive = self.one_at_work().unwrap_or(drive);
        }
        let reported = [F::ReadError, F::WriteError, F::FlushError, F::Slow, F::Hang, F::Death, F::SlowRead];
        let hidden = [
            F::BitRot,
            F::Misdirected,
            F::LostWrite,
            F::StaleRead,
            F::GarbageRead,
            F::LyingFlush,
            F::ReadError,
        ];
        let kind = match self.shape.silent && self.rng.chance(2, 3) {
            _ if !self.shape.only.is_empty() => *self.rng.pick(self.shape.only),
            _ if self.shape.seesaw => F::WriteError,
            _ if self.shape.weather == Weather::Rot => F::BitRot,
            _ if self.shape.weather == Weather::Hiccups => F::WriteError,
            true if beyond => F::BitRot,
            true => *self.rng.pick(&hidden),
            false => reported[self.rng.weighted(&[6, 3, 3, 3, 4, 1, 6])],
        };
        // One after the other, and of a drive that counts: else most of them would hit one that nobody counts on.
        let uuid = self.world.drives[drive].uuid;
        let counts = || S::is_current(self.world.engine(), uuid) && !self.world.drives[drive].is_armed();
        if self.shape.forgets && !counts() {
            return;
        }
        self.world.trace.event(b"st", [drive as u64, kind as u64, 0, 0]);
        self.world
            .trace
            .say(|| format!("{:>12} strike drive {drive} with {}", self.world.now().nanos(), kind.name()));
        if self.shape.weather == Weather::Rot {
            // Everything is read, so that the damage is met, and repaired, while it is the only one.
            self.verify.get_or_insert(0);
        }
        let target = &mut self.world.drives[drive];
        match kind {
            // Beyond the budget damage comes in swarms, so that it hits logs as well.
            F::BitRot if beyond => (0..8).for_each(|_| target.rot(&mut self.rng)),
            F::BitRot if self.shape.focus == Focus::Repairs => {
                (0..2).for_each(|_| target.rot(&mut self.rng));
            }
            F::BitRot => target.rot(&mut self.rng),
            F::Death => target.kill(),
            F::Reset => target.reset(&mut self.rng),
            _ if self.shape.weather == Weather::Hiccups || !self.shape.only.is_empty() => {
                target.arm(Armed::once(kind));
            }
            _ if self.rng.chance(1, 6) && kind != F::Hang => target.arm(Armed::for_ever(kind)),
            _ => target.arm(Armed { kind, times: self.rng.between(1, 3) as u32 }),
        }
    }

    /// A drive of the leg that faults strike may be set back while the machine is off, though the group counts on it.
    fn ghosts_after_crash(&mut self) {
        let drives = (0..self.world.drives.len()).filter(|drive| self.shape.is_bad(*drive));
        for drive in drives.collect::<Vec<usize>>() {
            // A dead one may be back before the group has done without it.
            let counted_on = self.world.control.catalogue.may_count(drive);
            if self.verbs.chance(1, 8) && self.world.drives[drive].set_back(counted_on) {
                self.world
                    .trace
                    .say(|| format!("{:>12} drive {drive} is set back", self.world.now().nanos()));
            }
        }
    }

    fn heal_all(&mut self) {
        self.world.drives.iter_mut().for_each(simkit::SimDrive::heal);
    }

    /// Where moves end: of the drives that gave their place, those that took it, and all others, some come back.
    fn some_come_back(&mut self) {
        let style = self.verbs.weighted(&[3, 3, 1, 1, 2]);
        for drive in 0..self.world.drives.len() {
            let twin = drive >= self.shape.all_drives();
            let bad = self.shape.is_bad(drive);
            let gone = match style {
                0 => twin || !bad,
                1 => !twin || !bad,
                2 => twin && bad,
                3 => !twin && bad,
                _ => false,
            };
            if gone {
                self.world.drives[drive].kill();
            } else {
                self.world.drives[drive].revive();
            }
        }
    }

    /// What a crash does to faulty drives: some come back, some are well again.
    pub(crate) fn weather_after_crash(&mut self) {
        if self.shape.disasters {
            return self.disaster_after_crash();
        }
        if self.shape.fails || self.shape.forgets {
            return self.heal_all();
        }
        if self.shape.ends {
            return match self.shape.most_legs {
                0 => self.some_come_back(),
                _ => self.some_legs_come_back(),
            };
        }
        if self.shape.ghosts {
            self.ghosts_after_crash();
        }
        if self.shape.lies {
            self.lies_after_crash();
        }
        self.strangers_after_crash();
        // The crash may be the end of the faulty leg as well: the others must have all that was promised.
        // Beyond the budget any leg may be gone, the next time another one: then the group must refuse.
        let doomed = match self.shape.weather {
            // What recovery hears is to change from one to the next, and the leg is to count in both.
            _ if self.shape.recovery_faults > 0 && !self.shape.lies => return self.heal_all(),
            Weather::OneLeg if self.rng.chance(1, 4) => Some(self.shape.bad_leg),
            Weather::Beyond if self.rng.chance(1, 3) => {
                Some(self.rng.below(u64::from(self.shape.legs)) as u8)
            }
            _ => None,
        };
        let turned = self.shape.seesaw && self.rng.chance(1, 2);
        for (i, drive) in self.world.drives.iter_mut().enumerate() {
            if !self.shape.is_bad(i) {
                continue;
            }
            if turned {
                drive.heal();
                if self.shape.leg_of(i) == self.shape.bad_leg {
                    drive.revive();
                } else {
                    drive.kill();
                }
                continue;
            }
            if doomed == Some(self.shape.leg_of(i)) {
                drive.kill();
                continue;
            }
            if drive.is_dead() && self.rng.chance(1, 2) {
                drive.revive();
            }
            if self.rng.chance(1, 2) {
                drive.heal();
            }
        }
    }
}
