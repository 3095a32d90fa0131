//! Crash everywhere: a run is played without crashes, and after each of its steps a copy of the world loses power
//! with unflushed writes kept, dropped and torn; each copy recovers, is read completely and judged, and crashes
//! once more inside a recovery of its own.
//!
//! A state is one such copy. Steps are taken from as many runs as it needs to reach the number asked for.
use crate::campaign::{guarded, on_threads};
use crate::checks::Violation;
use crate::run::Run;
use crate::shape::{Shape, Weather};
use crate::subject::Subject;
use simkit::{CrashMode, Rng, World};

/// The ways in which each state is cut.
const MODES: [CrashMode; 4] = [CrashMode::KeepAll, CrashMode::DropAll, CrashMode::TearAll, CrashMode::Mixed];
/// Steps of a run that are crashed at, at most: so that many shapes take part.
const STATES_PER_RUN: u64 = 400;

/// States that passed and that failed.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many were right.
    pub passed: u64,
    /// The first few that were not, with the seed of their run.
    pub failed: Vec<(u64, Violation)>,
}

/// Crashes at so many states.
pub fn run<S: Subject>(states: u64, first_seed: u64, threads: usize) -> Tally {
    let mut tally = Tally::default();
    let per_run = STATES_PER_RUN.min(states.max(1));
    let runs = states.div_ceil(per_run);
    let work = |index: u64| crash_a_run::<S>(first_seed + index, per_run.min(states - index * per_run));
    on_threads(runs, threads, work, |index, (passed, violation)| {
        tally.passed += passed;
        tally.failed.extend(violation.map(|v| (first_seed + index, v)));
    });
    tally.failed.sort_by_key(|(seed, _)| *seed);
    tally
}

/// The shape of a run to be crashed: small, without weather of its own.
fn shape_of(seed: u64) -> Shape {
    let mut shape = Shape::of(seed);
    shape.weather = Weather::Crashes;
    shape.crash_every = 0;
    shape.fault_every = 0;
    shape.recovery_crashes = 0;
    shape.recovery_faults = 0;
    shape.volume_blocks = shape.volume_blocks.min(256);
    shape.requests = u64::MAX;
    shape.eager = true;
    shape
}

fn crash_a_run<S: Subject>(seed: u64, states: u64) -> (u64, Option<Violation>) {
    let mut passed = 0;
    let played = guarded(|| {
        let shape = shape_of(seed);
        let mut dice = Rng::new(seed ^ 0x4352_4153_4845);
        let mut run = Run::<S>::new(shape, None, false);
        let mut last = 0;
        while passed < states {
            run.turn(true)?;
            if run.world.steps == last {
                continue;
            }
            last = run.world.steps;
            for mode in MODES {
                // Twice in three the recovery itself is cut short, up to three deep.
                let depth = dice.below(3);
                let mut copy = copy_of(&mut run, dice.fork());
                copy.cut_and_judge(mode, depth, &mut dice).map_err(|v| {
                    Violation::new(v.checker, format!("step {last}, {mode:?}, depth {depth}: {}", v.what))
                })?;
                passed += 1;
                if passed == states {
                    break;
                }
            }
        }
        Ok(())
    });
    (passed, played.unwrap_or_else(Err).err())
}

/// A world that is about to lose what is not durable; its own engine is not used.
fn copy_of<S: Subject>(run: &mut Run<S>, rng: Rng) -> Run<S> {
    let subject = run.world.opener().clone();
    let mut fork = rng;
    let world = World::new(subject, run.world.drives.clone(), run.world.control.clone(), fork.fork());
    let mut copy = Run::around(run.shape.clone(), world, run.model.clone(), fork);
    copy.joined = run.joined;
    copy
}

impl<S: Subject> Run<S> {
    /// Loses power now and `depth` times more within the recoveries, then reads and judges everything.
    fn cut_and_judge(&mut self, mode: CrashMode, depth: u64, dice: &mut Rng) -> Result<(), Violation> {
        self.shape.verify_first = true;
        self.world.crash_node(mode);
        self.reopen();
        for _ in 0..depth {
            for _ in 0..dice.below(60) {
                self.turn(false)?;
            }
            self.world.crash_node(*dice.pick(&MODES));
            self.reopen();
        }
        self.settle_down()
    }
}
