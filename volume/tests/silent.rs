//! Drives that never answer again: what was given up on them may land for ever, and nobody else waits for that. Resyncs,
//! scrubs and rows go on; extents go back only when nothing can land in them any more.
use crate::world;
use crate::world::story::{end_of_move, hanging, outcome, some_writes};
use crate::world::{Shape, Verdict, World};
use base::{DriveIx, Duration, Extent, ExtentNo, RowGrant, RowNo};
use std::cell::Cell;
use std::rc::Rc;
use volume::{CopyHealth, MoveOutcome, MoveRefusal, SLOW_BOUND};

fn health(world: &World, drive: u8) -> CopyHealth {
    world.engine.stats().expect("served").drives[usize::from(drive)].health
}

fn settled(world: &World) -> Option<MoveOutcome> {
    world.engine.stats().expect("served").moving.and_then(|moving| moving.settled)
}

/// A drive never answers again, has writes that were given up, and is stale.
fn falls_silent(world: &mut World, hanging: &Cell<u32>, drive: u8) {
    hanging.set(hanging.get() | 1 << drive);
    for at in 0..16 {
        world.begin(base::Op::Write, at * 64, 40, false);
    }
    assert!(world.wait_all().iter().all(Result::is_ok));
    world.settle();
    assert!(matches!(health(world, drive), CopyHealth::Stale(_)) && world.late(drive) > 0);
}

/// A drive is away for some writes, and is brought up to date.
fn blips(world: &mut World, drive: u8) {
    world.engine.take_out(world::uuid(drive)).expect("two copies");
    some_writes(world, 50);
    world.settle();
    assert!(matches!(health(world, drive), CopyHealth::Stale(_)));
    world.back(drive);
    for _ in 0..500 {
        some_writes(world, 5);
        if health(world, drive) == CopyHealth::Current {
            return;
        }
    }
    panic!("drive {drive} is never brought up to date: {}", world.engine.unfinished());
}

fn scrubs(world: &mut World) {
    assert!(world.engine.start_scrub(0));
    world.run_until("the scrub ends", |w| w.engine.stats().expect("served").scrub.finished);
}

/// One of these drives alone has everything that was acknowledged.
fn assert_whole_on(world: &mut World, drive: u8) {
    world.flush().expect("flushed");
    world.close();
    let (drives, catalogue) = (world.drives.clone(), world.catalogue.clone());
    world.kill();
    world.absent = !(1 << drive);
    world.reopen();
    world.check_all();
    world.close();
    world.kill();
    (world.drives, world.catalogue, world.absent) = (drives, catalogue, 0);
}

/// The story: a drive hung for ever and was replaced. The move stayed under way, for what had been given up on the drive might
/// still land there, and no other errand had its turn: when the other drive was away for a moment it was never brought up to
/// date again, and the new one alone had everything.
#[test]
fn a_drive_that_was_left_and_never_answers_keeps_no_errand_waiting() {
    for legs in [2, 3] {
        let mut world = World::new(Shape { legs, ..Shape::MIRROR });
        let hanging = hanging(&mut world);
        some_writes(&mut world, 50);
        let (silent, new) = (legs - 1, legs);
        falls_silent(&mut world, &hanging, silent);
        let drive = world.add_drive();
        world.leave(silent, &[drive]);
        world.run_until("the move is over", |w| settled(w) == Some(MoveOutcome::Done));
        assert!(world.engine.extents_on(world::uuid(silent)).is_empty(), "the rows have switched");
        world.places[usize::from(silent)] = new;
        let was = world.engine.stats().expect("served").moving.expect("a move");
        for drive in (0..legs - 1).chain([new]) {
            blips(&mut world, drive);
        }
        scrubs(&mut world);
        // Handed back it would be written where other groups will lie.
        world.back(silent);
        some_writes(&mut world, 20);
        assert!(matches!(health(&world, silent), CopyHealth::Stale(_)));
        // Another move does not begin: nobody would hear how this one came out.
        let other = world.add_drive();
        world.leave(0, &[other]);
        some_writes(&mut world, 50);
        assert!(!world.engine.extents_on(world::uuid(0)).is_empty());
        assert_eq!(world.engine.stats().expect("served").moving, Some(was), "it may still be written to");
        assert_eq!(outcome(&world), Some(MoveOutcome::Copying));
        world.land(silent);
        world.settle();
        assert_eq!((outcome(&world), settled(&world)), (Some(MoveOutcome::Done), None));
        world.leave(0, &[other]);
        assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
        world.check_all();
        world.places[0] = new + 1;
        hanging.set(0);
        for drive in world.places.clone() {
            assert_whole_on(&mut world, drive);
        }
    }
}

/// Power fails while nothing but the silent drive is waited for: the rows hold, and nobody has to be told anything.
#[test]
fn power_fails_while_a_move_is_over_but_for_a_silent_drive() {
    for seed in 1..6 {
        let mut world = World::new(Shape::MIRROR);
        world.random = seed;
        let hanging = hanging(&mut world);
        some_writes(&mut world, 50);
        falls_silent(&mut world, &hanging, 1);
        let drive = world.add_drive();
        world.leave(1, &[drive]);
        world.run_until("the move is over", |w| settled(w) == Some(MoveOutcome::Done));
        world.places[1] = 2;
        blips(&mut world, 0);
        some_writes(&mut world, seed);
        hanging.set(0);
        world.cut_power();
        // What was given up is in the drive's queue no more.
        world.land(1);
        world.reopen();
        assert!(world.engine.extents_on(world::uuid(1)).is_empty());
        world.check_all();
        assert_whole_on(&mut world, 2);
    }
}

/// Likewise where it is the drive that was to take over: the group is as it was, and goes on with everything else.
#[test]
fn a_successor_that_never_answers_keeps_no_errand_waiting() {
    let mut world = World::new(Shape::MIRROR);
    let hanging = hanging(&mut world);
    (0..500).for_each(|at| world.write(at * 8, 8).expect("written"));
    let new = world.add_drive();
    world.leave(1, &[new]);
    world.run_until("it copies", |w| {
        w.engine.stats().expect("served").moving.is_some_and(|moving| moving.copied_blocks > 0)
    });
    hanging.set(4);
    let given_up = MoveOutcome::GivenUp(MoveRefusal::DriveFailed);
    for at in 0..3000 {
        world.write(at * 8 % 4096, 8).expect("written");
    }
    assert_eq!((outcome(&world), settled(&world)), (Some(MoveOutcome::Copying), Some(given_up)));
    assert!(world.late(2) > 0);
    blips(&mut world, 0);
    blips(&mut world, 1);
    scrubs(&mut world);
    assert_eq!(outcome(&world), Some(MoveOutcome::Copying), "its places may still be written to");
    world.land(2);
    world.settle();
    assert_eq!((outcome(&world), settled(&world)), (Some(given_up), None));
    hanging.set(0);
    assert_whole_on(&mut world, 0);
    world.reopen();
    assert_whole_on(&mut world, 1);
}

/// A leg is dropped of which a drive never answers: there is one leg less, and a scrub, a row and a flush go on.
#[test]
fn a_dropped_leg_that_never_answers_keeps_no_errand_waiting() {
    let mut world = World::new(Shape { legs: 3, ..Shape::MIRROR });
    let hanging = hanging(&mut world);
    some_writes(&mut world, 50);
    falls_silent(&mut world, &hanging, 2);
    world.drop_leg();
    world.run_until("the move is over", |w| settled(w) == Some(MoveOutcome::Done));
    blips(&mut world, 0);
    blips(&mut world, 1);
    scrubs(&mut world);
    assert_eq!(outcome(&world), Some(MoveOutcome::Copying), "its places may still be written to");
    world.land(2);
    world.settle();
    assert_eq!(outcome(&world), Some(MoveOutcome::Done));
    world.check_all();
}

/// The story: a drive was handed back while something that was given up could still land there. Nobody else had his turn.
#[test]
fn a_drive_that_is_handed_back_and_is_never_quiet_keeps_no_errand_waiting() {
    let mut world = World::new(Shape { legs: 3, ..Shape::MIRROR });
    let hanging = hanging(&mut world);
    some_writes(&mut world, 50);
    falls_silent(&mut world, &hanging, 2);
    hanging.set(0);
    world.back(2);
    scrubs(&mut world);
    world.back(2);
    blips(&mut world, 1);
    world.back(2);
    let new = world.add_drive();
    world.leave(0, &[new]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
    assert!(matches!(health(&world, 2), CopyHealth::Stale(_)) && world.late(2) > 0);
    world.land(2);
    world.back(2);
    for _ in 0..200 {
        some_writes(&mut world, 5);
    }
    assert_eq!(health(&world, 2), CopyHealth::Current);
    world.places[0] = 3;
    for drive in [3, 1, 2] {
        assert_whole_on(&mut world, drive);
        world.reopen();
    }
}

/// Fails writes of headers on this drive, so many of them.
fn failing_headers(world: &mut World, hanging: &Rc<Cell<u32>>, drive: u8) -> Rc<Cell<u32>> {
    let left = Rc::new(Cell::new(0u32));
    let (fails, hangs, extent) = (left.clone(), hanging.clone(), u64::from(world.shape.extent));
    world.verdict = Box::new(move |io| {
        let first = volume::layout::FIRST_EXTENT_BLOCK;
        let header =
            io.op == base::DriveOp::Write && io.at >= first && (io.at - first).is_multiple_of(extent);
        if hangs.get() >> io.drive & 1 == 1 {
            return Verdict::Later;
        }
        if header && io.drive == drive && fails.get() > 0 {
            fails.set(fails.get() - 1);
            return Verdict::Fail;
        }
        Verdict::Do
    });
    left
}

/// Writes on until the space has grown by a row. Whether it did: no space is an answer.
fn grows(world: &mut World) -> bool {
    let rows = world.engine.stats().expect("served").rows;
    for at in (0..world.shape.sectors - 512).step_by(256) {
        if world.write(at, 256).is_err() {
            return false;
        }
        if world.engine.stats().expect("served").rows > rows {
            return true;
        }
    }
    false
}

/// The story: a drive hung for ever, and rows came that lay on it too, without a word to it. One write for such a row failed
/// on the other drive. The row's extents were to go back when the drive that hung is quiet, so no other row was asked for,
/// and the guest heard of no space in a pool that had some.
#[test]
fn a_row_that_is_given_up_waits_for_no_drive_that_it_was_not_sent_to() {
    let mut world = World::new(Shape { rows: 30, ..Shape::MIRROR });
    let hanging = hanging(&mut world);
    let fails = failing_headers(&mut world, &hanging, 0);
    some_writes(&mut world, 10);
    falls_silent(&mut world, &hanging, 1);
    assert!(grows(&mut world), "a row on a drive that is away");
    fails.set(1);
    for round in 0..20 {
        if fails.get() == 0 && round > 0 {
            break;
        }
        let _ = grows(&mut world);
    }
    assert_eq!(fails.get(), 0, "a row was given up");
    // The pool is asked again a while after that.
    world.now += Duration::from_millis(11_000).nanos();
    world.settle();
    assert!(world.late(1) > 0);
    assert!(grows(&mut world), "no other row is asked for: {}", world.engine.unfinished());
    world.check_all();
}

/// The other side of it: a header is on its way to the drive that hangs, so its extent stays until it is quiet.
#[test]
fn a_row_that_is_given_up_waits_for_a_header_that_may_still_land() {
    let mut world = World::new(Shape { rows: 30, ..Shape::MIRROR });
    let hanging = hanging(&mut world);
    let fails = failing_headers(&mut world, &hanging, 0);
    some_writes(&mut world, 10);
    world.settle();
    // The new drive is of no use, so the row is given up; the second one hangs when it gets its header.
    let new = world.add_drive();
    let (second, joining) = (DriveIx::new(1), DriveIx::new(2));
    let extent = |drive| Extent { drive, extent: ExtentNo::new(20) };
    let extents = vec![extent(joining), extent(second)];
    world.grants.push_back(RowGrant { row: RowNo::ZERO, extents, joining: vec![new] });
    drop(fails);
    let hangs = hanging.clone();
    world.verdict = Box::new(move |io| {
        let header = io.op == base::DriveOp::Write
            && io.at == volume::label::extent_start(ExtentNo::new(20), 256).get();
        match io.drive {
            2 if header => Verdict::Fail,
            1 if header => {
                hangs.set(2);
                Verdict::Later
            }
            1 if hangs.get() == 2 => Verdict::Later,
            _ => Verdict::Do,
        }
    });
    for _ in 0..20 {
        if hanging.get() == 2 {
            break;
        }
        let _ = grows(&mut world);
    }
    world.run_until("it is given up", |w| w.late(1) > 0 && matches!(health(w, 1), CopyHealth::Stale(_)));
    let rows = world.next_extent;
    for _ in 0..20 {
        world.now += SLOW_BOUND.nanos();
        world.settle();
        let _ = world.write(0, 8);
    }
    assert_eq!(world.next_extent, rows, "its extents must not go back yet");
    hanging.set(0);
    world.land(1);
    world.now += 2 * SLOW_BOUND.nanos();
    world.settle();
    assert!(grows(&mut world), "{}", world.engine.unfinished());
    world.check_all();
}
