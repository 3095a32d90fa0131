//! C10: once faults stop, every outstanding request completes in bounded time.
//!
//! Counts steps and simulated time since something last ended. A world in which nothing will ever happen while a
//! request is outstanding is a violation at once. Within the fault budget each request ends in bounded time too,
//! whatever hangs on the leg that faults strike.
use super::Violation;
use base::{Duration, Instant};

/// Steps without any request, recovery or close ending.
const STEPS: u64 = 200_000;
/// Simulated time without it once faults have stopped: what hangs already ends within 300 s.
const TIME: Duration = Duration::from_millis(400_000);
/// The same while faults strike: a recovery can meet many hanging and slow operations one after the other.
const STORMY_TIME: Duration = Duration::from_millis(4_000_000);
/// How long a request may take where another leg answers: the bound of a drive for each of those of a leg (two columns,
/// each with up to two that joined later), what a slow drive takes that goes on answering, and a slow control plane.
const REQUEST_TIME: Duration = Duration::from_millis(90_000);

/// When something last ended.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    step: u64,
    at: Instant,
}

/// Judges how long a request took, or takes by now, while all that is wrong is wrong on one leg.
pub fn request(took: Duration, which: impl FnOnce() -> String) -> Result<(), Violation> {
    if took <= REQUEST_TIME {
        return Ok(());
    }
    let what =
        format!("a request takes {} ms beside a leg that answers: {}", took.nanos() / 1_000_000, which());
    Err(Violation::new("C10", what))
}

/// Judges a group that says that it is closed: nothing waits, and nothing is under way but what was given up.
pub fn closed(outstanding: bool, quiet: bool) -> Result<(), Violation> {
    match (outstanding, quiet) {
        (true, _) => Err(Violation::new("C10", "the group is closed, but requests are outstanding")),
        (_, false) => Err(Violation::new("C10", "the group is closed, but operations are in flight")),
        _ => Ok(()),
    }
}

/// What should have come to its end within so many steps has not.
pub fn endless(what: impl Into<String>) -> Violation {
    Violation::new("C10", what)
}

impl Progress {
    /// Something ended now.
    pub const fn new(step: u64, at: Instant) -> Self {
        Self { step, at }
    }

    /// Judges a world in which something is outstanding.
    pub fn check(
        &self,
        step: u64,
        now: Instant,
        asleep: bool,
        calm: bool,
        waiting: impl FnOnce() -> String,
    ) -> Result<(), Violation> {
        let late = if asleep {
            "nothing will ever happen".to_string()
        } else if step - self.step > STEPS {
            format!("nothing ended for {} steps", step - self.step)
        } else if now - self.at > if calm { TIME } else { STORMY_TIME } {
            format!("nothing ended for {} ms", (now - self.at).nanos() / 1_000_000)
        } else {
            return Ok(());
        };
        Err(Violation::new("C10", format!("{late}, but this waits: {}", waiting())))
    }
}
