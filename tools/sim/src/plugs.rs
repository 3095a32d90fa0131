//! Drives that are unplugged, and plugged in again while the group is served.
//!
//! One that comes back has what it held when it was pulled, or lost of it what was in its cache, or is an older copy of
//! itself. It is handed to the group only when nothing that it was asked for before is under way and the group does
//! without it: before that nobody would open it anew.
use crate::run::Run;
use crate::subject::Subject;
use simkit::FaultKind;

impl<S: Subject> Run<S> {
    /// A drive of the leg that faults strike is unplugged, now and then; or somebody copies what it holds.
    pub(crate) fn drives_are_unplugged(&mut self) {
        if self.shape.unplugs == 0 {
            return;
        }
        let drives: Vec<usize> =
            (0..self.world.drives.len()).filter(|drive| self.shape.is_bad(*drive)).collect();
        if self.verbs.chance(1, self.shape.unplugs) {
            let drive = *self.verbs.pick(&drives);
            self.world.trace.event(b"un", [drive as u64, 0, 0, 0]);
            self.world.trace.say(|| format!("{:>12} drive {drive} is unplugged", self.world.now().nanos()));
            self.world.drives[drive].kill();
        }
        if self.verbs.chance(1, 100) {
            let drive = *self.verbs.pick(&drives);
            self.world.drives[drive].remember(&mut self.verbs);
        }
    }

    /// A dead drive that the group has let go of is plugged in again, if somebody gets to it.
    pub(crate) fn plug_in(&mut self, drive: usize) {
        let at = &self.world.drives[drive];
        let free = at.is_dead() && at.is_idle() && S::is_out(self.world.engine(), at.uuid);
        if self.shape.unplugs == 0 || !free || self.verbs.chance(1, 3) {
            return;
        }
        let powered = self.verbs.chance(1, 2);
        self.world.drives[drive].replug(&mut self.verbs, powered);
        let older = self.verbs.chance(1, 3) && self.world.drives[drive].set_back(false);
        if older {
            self.world.counts.add(FaultKind::ReplugOld);
        }
        self.world.trace.event(b"pl", [drive as u64, powered.into(), older.into(), 0]);
        self.world.trace.say(|| format!("{:>12} drive {drive} is plugged in", self.world.now().nanos()));
    }
}
