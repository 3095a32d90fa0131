//! Fault sweep: the k-th drive operation of a workload fails, once or that drive's operations from then on, for
//! every k.
//!
//! A mirror must serve on without an error; on a single leg errors are allowed, wrong answers are not. Each run
//! ends like any other (see `run`), after one more power loss.
use crate::campaign::{guarded, on_threads};
use crate::checks::Violation;
use crate::everywhere::Tally;
use crate::run::Run;
use crate::shape::{Shape, Weather};
use crate::subject::Subject;
use simkit::{Armed, CrashMode, FaultKind};

/// Sweeps over so many workloads.
pub fn run<S: Subject>(workloads: u64, first_seed: u64, threads: usize) -> Tally {
    let mut tally = Tally::default();
    for seed in first_seed..first_seed + workloads {
        let shape = shape_of(seed);
        let operations = match guarded(|| play::<S>(&shape, None, false)) {
            Ok(Ok(operations)) => operations,
            Ok(Err(violation)) | Err(violation) => {
                tally.failed.push((seed, violation));
                continue;
            }
        };
        let work = |index: u64| {
            let error = FaultKind::ReadError;
            let fault = if index.is_multiple_of(2) { Armed::once(error) } else { Armed::for_ever(error) };
            let k = index / 2 + 1;
            let outcome = guarded(|| play::<S>(&shape, Some((k, fault)), false)).unwrap_or_else(Err);
            outcome.err().map(|v| {
                Violation::new(v.checker, format!("operation {k}, {} times: {}", fault.times, v.what))
            })
        };
        on_threads(operations * 2, threads, work, |_, violation| match violation {
            None => tally.passed += 1,
            Some(violation) => tally.failed.push((seed, violation)),
        });
    }
    tally
}

/// One workload with one failing operation, told event by event: once, or from then on.
pub fn replay<S: Subject>(seed: u64, operation: u64, once: bool) -> Option<Violation> {
    let error = FaultKind::ReadError;
    let fault = if once { Armed::once(error) } else { Armed::for_ever(error) };
    let shape = shape_of(seed);
    guarded(|| play::<S>(&shape, Some((operation, fault)), true)).unwrap_or_else(Err).err()
}

/// A short workload in fair weather; every third on one leg.
fn shape_of(seed: u64) -> Shape {
    let mut shape = Shape::of(seed);
    shape.legs = if seed % 3 == 2 { 1 } else { 2 };
    shape.weather = if shape.legs == 1 { Weather::Beyond } else { Weather::Crashes };
    shape.crash_every = 0;
    shape.fault_every = 0;
    shape.recovery_faults = 0;
    // The operation that fails is all that goes wrong: nobody takes drives out beside it.
    (shape.outs, shape.twins) = (0, false);
    shape.bad_leg = 0;
    shape.volume_blocks = shape.volume_blocks.min(256);
    shape.requests = shape.requests.min(80);
    shape
}

/// Plays the workload; says how many drive operations it had.
fn play<S: Subject>(shape: &Shape, fault: Option<(u64, Armed)>, verbose: bool) -> Result<u64, Violation> {
    let mut run = Run::<S>::new(shape.clone(), None, verbose);
    run.world.fail_at = fault;
    run.play()?;
    run.settle_down()?;
    let operations = run.world.issued;
    if !run.is_over() {
        run.world.crash_node(CrashMode::Random);
        run.world.drives.iter_mut().for_each(simkit::SimDrive::heal);
        run.reopen();
        run.finish()?;
    }
    Ok(operations)
}
