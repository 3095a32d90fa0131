//! Crash everywhere: a run is played without crashes, and after each of its steps copies of the world lose power
//! with unflushed writes kept, dropped and torn. Each copy recovers, is read completely and judged; most of them lose
//! power again inside that recovery, and half of those inside the next one too.
//!
//! A state is one such copy. Steps are taken from as many runs as it needs to reach the number asked for, a hundred in a
//! row from each. Where a
//! recovery is cut follows from how long the last one of the same run took, so that cuts lie everywhere in it; one that
//! was over before its cut counts as no cut. Some states end as every run does: closed, compared, without each leg.
use crate::campaign::{guarded, on_threads};
use crate::checks::Violation;
use crate::run::Run;
use crate::shape::{Shape, Strangers, Weather};
use crate::subject::Subject;
use base::Phase;
use simkit::{CrashMode, Rng, World};

/// The ways in which each state is cut.
const MODES: [CrashMode; 4] = [CrashMode::KeepAll, CrashMode::DropAll, CrashMode::TearAll, CrashMode::Mixed];
/// Steps of a run that are crashed at, at most: so that many shapes take part.
const STATES_PER_RUN: u64 = 400;

/// Power losses of a state at most: in the run, in the recovery, in the recovery of that.
pub const DEPTH: usize = 3;
/// One state in so many is closed and compared at its end.
const CLOSED: u64 = 8;

/// States that passed and that failed.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many were right.
    pub passed: u64,
    /// The first few that were not, with the seed of their run.
    pub failed: Vec<(u64, Violation)>,
    /// Of those that passed, how many lost power so many times, each but the first inside the recovery before.
    pub depths: [u64; DEPTH],
}

/// Crashes at so many states.
pub fn run<S: Subject>(states: u64, first_seed: u64, threads: usize) -> Tally {
    let mut tally = Tally::default();
    let per_run = STATES_PER_RUN.min(states.max(1));
    let runs = states.div_ceil(per_run);
    let work = |index: u64| crash_a_run::<S>(first_seed + index, per_run.min(states - index * per_run));
    on_threads(runs, threads, work, |index, (depths, violation)| {
        tally.passed += depths.iter().sum::<u64>();
        tally.depths.iter_mut().zip(depths).for_each(|(sum, more)| *sum += more);
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
    (shape.lies, shape.strangers, shape.unplugs) = (false, Strangers::None, 0);
    shape.volume_blocks = shape.volume_blocks.min(256);
    shape.requests = u64::MAX;
    shape.eager = true;
    shape
}

fn crash_a_run<S: Subject>(seed: u64, states: u64) -> ([u64; DEPTH], Option<Violation>) {
    let mut depths = [0; DEPTH];
    let played = guarded(|| {
        let shape = shape_of(seed);
        let mut dice = Rng::new(seed ^ 0x4352_4153_4845);
        let mut run = Run::<S>::new(shape, None, false);
        let (mut last, mut usual) = (0, 20);
        // Some runs from the first step on, most from some later one: the first checkpoint is far from the start.
        let begin = [0, dice.below(300), dice.below(3_000), dice.below(10_000)][dice.below(4) as usize];
        loop {
            run.turn(true)?;
            if run.world.steps == last || run.world.steps < begin {
                continue;
            }
            last = run.world.steps;
            for mode in MODES {
                let mut copy = copy_of(&mut run, dice.fork());
                let done = copy.cut_and_judge(mode, &mut usual, &mut dice);
                depths[done.map_err(|v| at_step(last, mode, v))? - 1] += 1;
                if depths.iter().sum::<u64>() == states {
                    return Ok(());
                }
            }
        }
    });
    (depths, played.unwrap_or_else(Err).err())
}

fn at_step(step: u64, mode: CrashMode, violation: Violation) -> Violation {
    Violation::new(violation.checker, format!("step {step}, {mode:?}: {}", violation.what))
}

/// A world that is about to lose what is not durable; its own engine is not used.
fn copy_of<S: Subject>(run: &mut Run<S>, rng: Rng) -> Run<S> {
    let subject = run.world.opener().clone();
    let mut fork = rng;
    let mut world = World::new(subject, run.world.drives.clone(), run.world.control.clone(), fork.fork());
    (world.twins, world.columns) = (run.world.twins.clone(), run.world.columns);
    let mut copy = Run::around(run.shape.clone(), world, run.model.clone(), fork);
    copy.joined = run.joined;
    (copy.size, copy.legs) = (run.size, run.legs);
    copy
}

impl<S: Subject> Run<S> {
    /// Loses power now and perhaps within the recoveries, then reads and judges everything. Says how many of the
    /// power losses came in time. `usual` is how many turns a recovery of this run takes.
    fn cut_and_judge(
        &mut self,
        mode: CrashMode,
        usual: &mut u64,
        dice: &mut Rng,
    ) -> Result<usize, Violation> {
        self.shape.verify_first = true;
        let wanted = [1, 2, DEPTH, DEPTH][dice.below(4) as usize];
        let closes = dice.chance(1, CLOSED);
        let mut depth = 1;
        self.world.crash_node(mode);
        self.reopen();
        for _ in 1..wanted {
            self.recover_for(dice.below(*usual))?;
            depth += usize::from(self.world.phase() == Phase::Recovering);
            self.world.crash_node(*dice.pick(&MODES));
            self.reopen();
        }
        *usual = self.recover_for(u64::MAX)?.max(1);
        if closes {
            self.finish()?
        } else {
            self.settle_down()?
        }
        Ok(depth)
    }

    /// Goes on until the recovery is over, or for so many turns; says how many it took.
    fn recover_for(&mut self, most: u64) -> Result<u64, Violation> {
        let mut turns = 0;
        while turns < most && self.world.phase() == Phase::Recovering {
            self.turn(false)?;
            turns += 1;
        }
        Ok(turns)
    }
}
