//! Fault sweep: the k-th drive operation of a workload fails, once or that drive's operations from then on, for
//! every k.
//!
//! In a quarter of the workloads, on three legs, a drive goes out and comes back, another one moves, a leg is added and the
//! last one dropped, one after the other, while the guest goes on.
//!
//! A mirror must serve on without an error; on a single leg errors are allowed, wrong answers are not. Each run
//! ends like any other (see `run`), after one more power loss.
use crate::campaign::{guarded, on_threads};
use crate::checks::Violation;
use crate::everywhere::Tally;
use crate::run::Run;
use crate::shape::{ISLAND_BLOCKS, Shape, Strangers, Weather};
use crate::subject::Subject;
use base::Phase;
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
    // The operation that fails is all that goes wrong: nobody takes drives or legs out beside it.
    (shape.outs, shape.twins, shape.most_legs) = (0, false, 0);
    (shape.lies, shape.strangers, shape.unplugs) = (false, Strangers::None, 0);
    (shape.forgets, shape.silences) = (false, false);
    (shape.doors, shape.stand_ins) = (false, 0);
    shape.bad_leg = 0;
    shape.volume_blocks = shape.volume_blocks.min(256);
    shape.requests = shape.requests.min(80);
    if has_verbs(seed) {
        // One leg that is away, one on which the operation fails, and one that has everything.
        (shape.legs, shape.columns, shape.most_legs) = (3, 1, 4);
        (shape.weather, shape.bad_leg, shape.twins, shape.mixed) = (Weather::Crashes, 1, true, false);
        (shape.spares, shape.tight, shape.closes, shape.first_blocks) = (0, false, 0, 0);
        (shape.ends, shape.disasters, shape.ghosts, shape.pauses, shape.shifts) =
            (false, false, false, 0, false);
        (shape.spread, shape.extent_blocks, shape.volume_blocks) = (ISLAND_BLOCKS, 256, 128);
        (shape.extents_per_drive, shape.requests) = (6, 40);
    }
    shape
}

/// Whether something is asked of the drives of this workload.
fn has_verbs(seed: u64) -> bool {
    seed % 4 == 1
}

/// What is asked for, in this order; each waits for the end of the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    TakeOut,
    Return,
    Move,
    AddLeg,
    DropLeg,
}

/// Turns in which a verb must come to its end, or to nothing.
const MOST_TURNS: u64 = 4_000;

/// Plays the verbs, and the guest's requests meanwhile. Where an operation has failed a verb may come to nothing.
fn play_verbs<S: Subject>(run: &mut Run<S>) -> Result<(), Violation> {
    let drive = run.shape.drives_of_leg(1).start;
    let uuid = run.world.drives[drive].uuid;
    for verb in [Verb::TakeOut, Verb::Return, Verb::Move, Verb::AddLeg, Verb::DropLeg] {
        let mut asked = false;
        for turn in 0..MOST_TURNS {
            run.turn(true)?;
            if run.is_over() || run.world.phase() != Phase::Serving || S::moving(run.world.engine()) {
                continue;
            }
            match verb {
                _ if !std::mem::replace(&mut asked, true) => ask(run, verb, drive),
                Verb::TakeOut if S::is_out(run.world.engine(), uuid) => break,
                Verb::Return if S::is_current(run.world.engine(), uuid) => break,
                Verb::Return if turn % 64 == 0 => ask(run, verb, drive),
                Verb::TakeOut | Verb::Return => {}
                Verb::Move | Verb::AddLeg | Verb::DropLeg => break,
            }
        }
    }
    Ok(())
}

fn ask<S: Subject>(run: &mut Run<S>, verb: Verb, drive: usize) {
    match verb {
        Verb::TakeOut => {
            let uuid = run.world.drives[drive].uuid;
            S::take_out(run.world.engine_mut(), uuid);
        }
        Verb::Return => run.bring_drives_back(),
        Verb::Move => run.move_a_drive(),
        Verb::AddLeg => run.add_a_leg(),
        Verb::DropLeg => run.drop_a_leg(),
    }
}

/// Plays the workload; says how many drive operations it had.
fn play<S: Subject>(shape: &Shape, fault: Option<(u64, Armed)>, verbose: bool) -> Result<u64, Violation> {
    let mut run = Run::<S>::new(shape.clone(), None, verbose);
    run.world.fail_at = fault;
    if has_verbs(shape.seed) {
        run.scripted = true;
        play_verbs(&mut run)?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A leg was taken out of a mirror of two, and the other one was struck, which no mirror bears.
    #[test]
    fn beside_the_operation_that_fails_nothing_takes_a_copy_away_that_is_needed() {
        for shape in (0..1_000).map(shape_of) {
            let (legs, most) = if has_verbs(shape.seed) { (3, 4) } else { (shape.legs, 0) };
            assert_eq!((shape.legs, shape.most_legs), (legs, most), "{shape:?}");
            assert_eq!((shape.outs, shape.unplugs, shape.crash_every), (0, 0, 0), "{shape:?}");
        }
    }
}
