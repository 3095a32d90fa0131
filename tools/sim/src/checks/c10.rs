//! C10: once faults stop, every outstanding request completes in bounded time.
//!
//! Counts steps and simulated time since something last ended. A world in which nothing will ever happen while a
//! request is outstanding is a violation at once. Does not bound how long a request takes while others end.
use super::Violation;
use base::{Duration, Instant};

/// Steps without any request, recovery or close ending.
const STEPS: u64 = 200_000;
/// Simulated time without it once faults have stopped: what hangs already ends within 40 s.
const TIME: Duration = Duration::from_millis(100_000);
/// The same while faults strike: a recovery can meet many hanging and slow operations one after the other.
const STORMY_TIME: Duration = Duration::from_millis(2_000_000);

/// When something last ended.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    step: u64,
    at: Instant,
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
