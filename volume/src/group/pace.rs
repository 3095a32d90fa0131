//! How fast a background walk goes: a bound that the operator sets, and a floor for the guest.
//!
//! A walk works in units. If a request of the guest was under way at any time during a unit, the walk rests behind it for
//! as long as the unit took, so that the guest has the drives for itself at least half of the time; a rest is bounded, so
//! that the walk goes on under any load. With nobody waiting it goes as fast as the bound allows. To look only at the end
//! of a unit was not enough: a guest that asks for one thing at a time has nothing under way at many an instant, and kept
//! less than half (`tests/resync_pace.rs`).
use base::{Duration, Instant};

/// The longest rest for the guest's sake.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// The pace of a walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    began: Option<Instant>,
    ready_at: Instant,
}

impl Pace {
    pub fn new() -> Self {
        Self { began: None, ready_at: Instant::ZERO }
    }

    /// A walk begins.
    pub fn rewind(&mut self) {
        (self.began, self.ready_at) = (None, Instant::ZERO);
    }

    /// Whether a unit may go on: one that has begun, or a new one whose time has come.
    pub fn may_go(&mut self, now: Instant) -> bool {
        if self.began.is_none() && now >= self.ready_at {
            self.began = Some(now);
        }
        self.began.is_some()
    }

    /// When the next unit may begin, if that is what the walk waits for.
    pub fn deadline(&self) -> Option<Instant> {
        self.began.is_none().then_some(self.ready_at)
    }

    /// What was begun came to nothing; the next unit may begin at this time.
    pub fn rest(&mut self, until: Instant) {
        (self.began, self.ready_at) = (None, until);
    }

    /// A unit of so many blocks is done, of a walk that is bound to so many blocks a second (0: not at all).
    pub fn done(&mut self, now: Instant, blocks: u64, (rate, guest_waits): (u64, bool)) {
        let Some(began) = self.began.take() else { return };
        let took = now.nanos().saturating_sub(began.nanos());
        let rest = if guest_waits { took.min(LONGEST_REST.nanos()) } else { 0 };
        let bound = match rate {
            0 => 0,
            rate => blocks.saturating_mul(1_000_000_000) / rate,
        };
        let from_start = began.nanos().saturating_add(bound);
        self.ready_at = Instant::from_nanos(from_start.max(now.nanos() + rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_bound_is_kept_and_an_idle_group_is_not_waited_for() {
        let mut pace = Pace::new();
        assert!(pace.may_go(at(0)));
        pace.done(at(5), 128, (0, false));
        assert!(pace.may_go(at(5)), "no bound, nobody waits");
        pace.done(at(6), 100, (1000, false));
        assert_eq!(pace.deadline(), Some(at(105)), "100 blocks at 1,000 a second from the unit's start");
        assert!(!pace.may_go(at(104)) && pace.may_go(at(105)));
        assert_eq!(pace.deadline(), None, "a unit under way waits for drives, not for time");
    }

    #[test]
    fn the_guest_has_half_of_the_time_and_the_walk_never_starves() {
        let mut pace = Pace::new();
        assert!(pace.may_go(at(0)));
        pace.done(at(10), 128, (0, true));
        assert_eq!(pace.deadline(), Some(at(20)));
        assert!(pace.may_go(at(20)));
        pace.done(at(10_000), 128, (0, true));
        assert_eq!(pace.deadline(), Some(at(10_100)), "a rest is bounded");
    }
}
