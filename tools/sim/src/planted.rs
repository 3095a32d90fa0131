//! Bugs planted to see that they are caught.
//!
//! Each planted bug must be caught within a bounded number of seeds, and the seed that catches it must be green
//! without it: otherwise what was caught is something else. A search takes minutes where a bug shows only now and
//! then, so the seed that each was last found at is recorded (`planted.txt`) and tried first; a hint that does not
//! catch its bug any more is said to be stale, and the search begins at the first seed. The canary needs no help
//! from the engine: it expects a write that was never made, so a run with it must always fail.
use crate::campaign::{guarded, on_threads, run_seed};
use crate::checks::Violation;
use crate::run::Run;
use crate::shape::{Shape, Weather};
use crate::subject::Subject;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds within which a planted bug must be caught.
pub const SEEDS: u64 = 10_000;

/// The seed that each bug was last found at: a name and a seed per line.
const HINTS: &str = include_str!("planted.txt");

/// What became of a planted bug.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// A checker saw it at this seed.
    Caught {
        /// The seed.
        seed: u64,
        /// What was seen.
        violation: Violation,
    },
    /// Nobody saw it.
    Missed,
    /// It was seen at a seed that fails without it too.
    RedWithoutIt {
        /// The seed.
        seed: u64,
        /// What is seen without it.
        violation: Violation,
    },
}

/// The recorded seed of a bug.
///
/// Panics on a line that is not a name and a seed.
pub fn hint(name: &str) -> Option<u64> {
    hints().find(|(hinted, _)| *hinted == name).map(|(_, seed)| seed)
}

fn hints() -> impl Iterator<Item = (&'static str, u64)> {
    HINTS.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a name");
        (name, words.next().and_then(|seed| seed.parse().ok()).expect("a seed behind each name"))
    })
}

/// Tries one planted bug at one seed: what is seen, unless nobody sees it.
pub fn try_seed<S: Subject>(name: &str, seed: u64) -> Verdict {
    match run_seed::<S>(seed, Some(name), false).violation {
        None => Verdict::Missed,
        Some(violation) => without::<S>(seed, violation),
    }
}

/// The seed that catches a bug must be green without it.
fn without<S: Subject>(seed: u64, violation: Violation) -> Verdict {
    match run_seed::<S>(seed, None, false).violation {
        None => Verdict::Caught { seed, violation },
        Some(violation) => Verdict::RedWithoutIt { seed, violation },
    }
}

/// Looks for one planted bug on so many threads: the lowest seed that catches it counts.
pub fn hunt<S: Subject>(name: &str, first: u64, seeds: u64, threads: usize) -> Verdict {
    // Seeds above one that caught it need not be run; those below it do, or the answer would depend on the threads.
    let lowest = AtomicU64::new(u64::MAX);
    let best: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
    let work = |index: u64| {
        if index > lowest.load(Ordering::Relaxed) {
            return None;
        }
        let violation = run_seed::<S>(first + index, Some(name), false).violation;
        if violation.is_some() {
            lowest.fetch_min(index, Ordering::Relaxed);
        }
        violation
    };
    on_threads(seeds, threads, work, |index, violation| {
        let mut best = best.lock().expect("no panic holds it");
        if let Some(violation) = violation
            && best.as_ref().is_none_or(|(seed, _)| first + index < *seed)
        {
            *best = Some((first + index, violation));
        }
    });
    match best.into_inner().expect("no panic holds it") {
        None => Verdict::Missed,
        Some((seed, violation)) => without::<S>(seed, violation),
    }
}

/// Runs one seed that expects what never happened. None means that the checkers are blind.
pub fn canary<S: Subject>(seed: u64) -> Option<Violation> {
    let work = || {
        let mut shape = Shape::of(seed);
        (shape.weather, shape.crash_every) = (Weather::Calm, 0);
        (shape.fault_every, shape.recovery_faults) = (0, 0);
        let mut run = Run::<S>::new(shape, None, false);
        run.canary = true;
        run.run().violation
    };
    guarded(work).unwrap_or_else(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line for a bug that is no more, or a second one for the same bug, misleads.
    #[test]
    fn recorded_seeds_are_of_bugs_that_are() {
        for (i, (name, _)) in hints().enumerate() {
            assert!(volume::Planted::ALL.iter().any(|bug| bug.name() == name), "{name}");
            assert!(hints().take(i).all(|(other, _)| other != name), "{name} has two");
        }
        assert!(hints().all(|(_, seed)| seed < SEEDS));
        assert_eq!(hint("nobody"), None);
    }
}
