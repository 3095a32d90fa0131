//! Bugs planted to see that they are caught.
//!
//! Each planted bug must be caught within a bounded number of seeds, and the seed that catches it must be green
//! without it: otherwise what was caught is something else. The canary needs no help from the engine: it
//! expects a write that was never made, so a run with it must always fail.
use crate::campaign::{guarded, on_threads, run_seed};
use crate::checks::Violation;
use crate::run::Run;
use crate::shape::{Shape, Weather};
use crate::subject::Subject;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Seeds within which a planted bug must be caught.
pub const SEEDS: u64 = 10_000;

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

/// Looks for one planted bug on so many threads: the lowest seed that catches it counts.
pub fn hunt<S: Subject>(name: &str, first: u64, seeds: u64, threads: usize) -> Verdict {
    let found = AtomicBool::new(false);
    let best: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
    let work = |index: u64| {
        if found.load(Ordering::Relaxed) {
            return None;
        }
        let violation = run_seed::<S>(first + index, Some(name), false).violation;
        if violation.is_some() {
            found.store(true, Ordering::Relaxed);
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
        Some((seed, violation)) => match run_seed::<S>(seed, None, false).violation {
            None => Verdict::Caught { seed, violation },
            Some(violation) => Verdict::RedWithoutIt { seed, violation },
        },
    }
}

/// Runs one seed that expects what never happened. None means that the checkers are blind.
pub fn canary<S: Subject>(seed: u64) -> Option<Violation> {
    let work = || {
        let mut shape = Shape::of(seed);
        (shape.weather, shape.crash_every, shape.fault_every) = (Weather::Calm, 0, 0);
        let mut run = Run::<S>::new(shape, None, false);
        run.canary = true;
        run.run().violation
    };
    guarded(work).unwrap_or_else(Some)
}
