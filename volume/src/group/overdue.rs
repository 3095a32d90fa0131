//! Drives that do not answer: one whose operation is older than the bound is put out as if it had failed, and what is
//! in flight on it is given up, so that nobody waits for it.
//!
//! Crash story. Giving up ends an operation for the engine, not for the drive: a write that hangs may land a second or
//! a day later. So the drive is `Failing` from that instant and goes the way of every drive that failed (`drives`,
//! `super_writer`): durably stale first, then what it misses is acknowledged. Where a late write can land nothing of
//! value is: on a stale copy everything above S is copied again, and what is below S is never written over, but in the
//! superblock slot and the bitmap slots that do not count. It must not land in the *next* life of the drive, so the
//! drive is not taken back before nothing that was given up can come any more (`may_land_late`), and no extent goes back
//! to the pool before (`moving`, `growth`, `joining`). That may be never, so nothing else waits for it: no resync of
//! another drive, no scrub, no checkpoint, no row. The memory of what is given up is the driver's affair
//! (`Action::GiveUp`).
//!
//! A drive goes only in favour of others that answer: if some place of its rows would be left without a current copy
//! on a drive that is not overdue itself, it stays and everybody waits. So the last current copy is never put out, and
//! of two that hang none is, for nothing would be won and it might be the wrong one.
//!
//! Time. An operation ages while somebody looks. Time passes at most `LOOKS` times to the bound between two polls: after
//! a pause of the whole process (stopped, its machine suspended, starved) all operations look old though their ends lie
//! in the queue. Those ends are taken in before ages are judged, and a pause of any length counts as one look.
use super::{Group, Turn};
use crate::drives::Health;
use crate::keys::Keyed;
use crate::planted::Planted;
use base::{Action, DriveIx, Duration, Instant};
use fence::DriveSet;

/// How old an operation of a drive may become, if nobody says otherwise. Drives answer within seconds also when they
/// are ill (an NVMe controller is reset after 30 s, a disk gives up on a sector after 7 s or so); a guest's own patience
/// is 30 s.
pub const SLOW_BOUND: Duration = Duration::from_millis(10_000);
/// How often ages are looked at within the bound: an operation is found at most an eighth too late.
const LOOKS: u64 = 8;

/// The watch over the ages of operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overdue {
    /// How old an operation may become; zero is any age.
    bound: Duration,
    /// Time by which operations age.
    clock: Instant,
    polled: Instant,
    next_look: Instant,
}

impl Overdue {
    pub fn new(bound: Duration) -> Self {
        Self { bound, clock: Instant::ZERO, polled: Instant::ZERO, next_look: Instant::ZERO }
    }

    /// Changes the bound, also for what is in flight.
    pub fn set_bound(&mut self, bound: Duration) {
        (self.bound, self.next_look) = (bound, self.polled);
    }

    /// How far apart looks are.
    fn pause(&self) -> Duration {
        self.bound.part(LOOKS)
    }

    /// A poll: the time by which operations age.
    pub fn tick(&mut self, now: Instant) -> Instant {
        self.clock = self.clock + (now - self.polled).min(self.pause());
        self.polled = now;
        self.clock
    }

    /// Whether it is time to look; the next one is a pause later.
    pub fn due(&mut self, now: Instant) -> bool {
        let due = self.bound > Duration::default() && now >= self.next_look;
        if due {
            self.next_look = now + self.pause();
        }
        due
    }

    /// The bound.
    pub fn bound(&self) -> Duration {
        self.bound
    }

    /// When to look again, if anything is in flight.
    pub fn deadline(&self, in_flight: bool) -> Option<Instant> {
        (in_flight && self.bound > Duration::default()).then_some(self.next_look)
    }
}

impl Group {
    /// Puts drives out that do not answer, and gives up what is in flight on them.
    pub fn advance_overdue<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if !self.overdue.due(turn.now) || self.config.bug(Planted::SlowKept) {
            return;
        }
        let late = self.ops.older_than(self.overdue.bound());
        for drive in late.without(self.ops.given_up()).iter() {
            if !turn.fits(1) {
                self.again = true;
                return self.overdue.set_bound(self.overdue.bound());
            }
            if self.goes_without(drive, late) {
                self.drives.get_mut(drive).stats.given_up += 1;
                self.ops.give_up(drive);
                turn.out.push(Action::GiveUp { drive: self.drives.get(drive).handle });
                self.again = true;
            }
        }
    }

    /// Puts an overdue drive out, if the group can go on without it and those that are overdue like it.
    fn goes_without(&mut self, drive: DriveIx, late: DriveSet) -> bool {
        let rows = [&self.rows[..], self.growth.pending()];
        let shape = (self.geometry.legs, self.geometry.columns);
        match self.drives.get(drive).health {
            Health::Failing | Health::Stale | Health::Missing => true,
            // Its operations end with errors, and with the first the row is given up.
            Health::Joining => {
                self.drives.get_mut(drive).health = Health::Missing;
                true
            }
            Health::Resyncing | Health::Returning => self.take_out_now(drive),
            Health::Current if !self.drives.can_spare(drive, rows, shape, late) => false,
            // Nothing is written, so it misses nothing: it is only not asked any more.
            Health::Current if self.config.read_only => {
                self.drives.get_mut(drive).health = Health::Missing;
                true
            }
            Health::Current => self.take_out_now(drive),
        }
    }

    /// Nothing that was given up on this drive, by the driver's number, can have effects any more.
    pub fn drive_quiet(&mut self, handle: DriveIx) {
        self.growth.quiet(handle);
        let known = |drive: &DriveIx| self.drives.get(*drive).handle == handle;
        let given_up = self.ops.given_up();
        if let Some(drive) = self.drives.all().find(|drive| given_up.contains(*drive) && known(drive)) {
            self.ops.quiet(drive);
        }
        self.again = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Instant = |ms| Instant::from_nanos(ms * 1_000_000);

    #[test]
    fn a_pause_of_the_process_is_no_age() {
        let mut overdue = Overdue::new(Duration::from_millis(800));
        assert_eq!(overdue.tick(MS(50)), MS(50));
        assert_eq!(overdue.tick(MS(150)), MS(150));
        assert_eq!(overdue.tick(MS(600_150)), MS(250), "ten minutes count as one look");
        assert_eq!(overdue.tick(MS(600_160)), MS(260));
    }

    #[test]
    fn looks_are_an_eighth_of_the_bound_apart() {
        let mut overdue = Overdue::new(Duration::from_millis(800));
        assert!(overdue.due(MS(0)) && !overdue.due(MS(99)) && overdue.due(MS(100)));
        assert_eq!(overdue.deadline(true), Some(MS(200)));
        assert_eq!(overdue.deadline(false), None);
        overdue.set_bound(Duration::default());
        assert!(!overdue.due(MS(10_000)));
        assert_eq!(overdue.deadline(true), None, "no bound, no looks");
    }
}
