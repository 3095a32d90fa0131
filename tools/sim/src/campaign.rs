//! Many seeds, on several threads, and their sum.
//!
//! The sum does not depend on the order in which threads finish. Now and then a seed is run twice: if the hash of
//! its trace differs, the simulator itself is broken, and that is a failure like any other.
use crate::checks::Violation;
use crate::doors::Reused;
use crate::run::{Outcome, Run};
use crate::shape::Shape;
use crate::subject::Subject;
use simkit::{FaultCounts, FaultKind};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// One seed in so many is run twice.
const TWICE: u64 = 50;
/// From so many seeds on, every fault and every row of the recovery table must have acted.
pub const COVERAGE_SEEDS: u64 = 2_000;

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the text of panics for the report instead of printing it; call once at start.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        PANIC.with(|panic| *panic.borrow_mut() = Some(text));
    }));
}

/// Runs something of which a panic is a violation too.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Violation> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        let text = PANIC.with(|panic| panic.borrow_mut().take());
        Violation::new("assertion", text.unwrap_or_else(|| "a panic without text".into()).replace('\n', " "))
    })
}

/// Runs one seed.
pub fn run_seed<S: Subject>(seed: u64, planted: Option<&str>, verbose: bool) -> Outcome {
    run_shape::<S>(Shape::of(seed), planted, verbose)
}

/// Runs one shape.
pub fn run_shape<S: Subject>(shape: Shape, planted: Option<&str>, verbose: bool) -> Outcome {
    let run = guarded(|| Run::<S>::new(shape, planted, verbose).run());
    run.unwrap_or_else(|violation| Outcome {
        violation: Some(violation),
        crashes: 0,
        faults: FaultCounts::default(),
        rows: Vec::new(),
        hash: 0,
        ended: 0,
        compared: 0,
        reused: Reused::default(),
        at_the_limit: false,
    })
}

/// What many seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those that failed, in order.
    pub failed: Vec<(u64, Violation)>,
    /// Crashes.
    pub crashes: u64,
    /// Faults by name.
    pub faults: FaultCounts,
    /// Rows of the recovery table.
    pub rows: Vec<(&'static str, u64)>,
    /// One number for all traces.
    pub hash: u64,
    /// Requests that ended.
    pub ended: u64,
    /// Mapped blocks whose legs were compared.
    pub compared: u64,
    /// Places of drive tables that were used again.
    pub reused: Reused,
    /// And in how many runs each of those kinds was met.
    pub reusing: Reused,
    /// Runs that ended where the contract says nothing more.
    pub at_the_limit: u64,
}

impl Summary {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.crashes += outcome.crashes;
        self.ended += outcome.ended;
        self.compared += outcome.compared;
        self.reused.add(&outcome.reused);
        self.reusing.add(&outcome.reused.met());
        self.at_the_limit += u64::from(outcome.at_the_limit);
        self.faults.merge(&outcome.faults);
        let mut mixed = seed ^ outcome.hash.rotate_left(17);
        self.hash = self.hash.wrapping_add(simkit::rng::splitmix(&mut mixed));
        if self.rows.is_empty() {
            self.rows = outcome.rows;
        } else {
            for (sum, (_, count)) in self.rows.iter_mut().zip(outcome.rows) {
                sum.1 += count;
            }
        }
        if let Some(violation) = outcome.violation {
            self.failed.push((seed, violation));
        }
    }

    /// Faults and rows that never acted.
    pub fn silent_parts(&self) -> Vec<&'static str> {
        let faults = FaultKind::ALL.iter().filter(|kind| self.faults.of(**kind) == 0).map(|kind| kind.name());
        let rows = self.rows.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name);
        faults.chain(rows).collect()
    }
}

/// Runs all of these on so many threads.
pub fn on_threads<T: Send>(
    count: u64,
    threads: usize,
    work: impl Fn(u64) -> T + Sync,
    each: impl FnMut(u64, T) + Send,
) {
    let next = AtomicU64::new(0);
    let each = Mutex::new(each);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let done = work(index);
                    (each.lock().expect("no panic holds it"))(index, done);
                }
            });
        }
    });
}

/// Runs these seeds.
pub fn run<S: Subject>(seeds: &[u64], threads: usize, mut progress: impl FnMut(&Summary) + Send) -> Summary {
    let mut summary = Summary::default();
    let work = |index: u64| {
        let seed = seeds[index as usize];
        let mut outcome = run_seed::<S>(seed, None, false);
        if index.is_multiple_of(TWICE) && outcome.violation.is_none() {
            let again = run_seed::<S>(seed, None, false);
            if again.hash != outcome.hash {
                outcome.violation = Some(Violation::new("determinism", "the same seed gave two traces"));
            }
        }
        outcome
    };
    on_threads(seeds.len() as u64, threads, work, |index, outcome| {
        summary.add(seeds[index as usize], outcome);
        progress(&summary);
    });
    summary.failed.sort_by_key(|(seed, _)| *seed);
    summary
}
