//! Drives that do not answer: they are put out within the bound, nobody waits for them, and what they do late lands on
//! nothing that counts.
use crate::world;
use crate::world::story::{assert_each_leg_is_whole, end_of_move, hanging};
use crate::world::{Shape, Verdict, World};
use base::{DriveOp, Duration, Engine, Op, Phase};
use std::cell::Cell;
use std::rc::Rc;
use volume::{CopyHealth, SLOW_BOUND};

fn health(world: &World, drive: u8) -> CopyHealth {
    world.engine.stats().expect("served").drives[usize::from(drive)].health
}

fn given_up(world: &World, drive: u8) -> u64 {
    world.engine.stats().expect("served").drives[usize::from(drive)].stats.given_up
}

/// The bound, and how much later at most an operation is found, in nanoseconds.
fn bound_and_slack() -> u64 {
    SLOW_BOUND.nanos() + SLOW_BOUND.nanos() / 4
}

fn some_writes(world: &mut World, count: u64) {
    for _ in 0..count {
        let sector = world.random() % (world.shape.sectors - 512);
        match world.random() % 8 {
            0 => world.ask(Op::Discard, sector, 1 + sector % 400).expect("done"),
            1 => world.flush().expect("flushed"),
            _ => world.write(sector, 1 + sector % 64).expect("written"),
        }
    }
}

/// The second drive does not answer until it is put out. What it was told stays on its way.
fn hangs_and_is_put_out(world: &mut World, hanging: &Cell<u32>) {
    hanging.set(2);
    for at in 0..16 {
        world.begin(Op::Write, at * 64, 40, false);
    }
    world.wait_all();
    hanging.set(0);
}

fn come_back(world: &mut World, drive: u8) {
    world.settle();
    world.back(drive);
    let mut rounds = 0;
    while health(world, drive) != CopyHealth::Current {
        some_writes(world, 5);
        rounds += 1;
        assert!(rounds < 500, "{}", world.engine.unfinished());
    }
}

/// A drive alone has everything that was acknowledged.
fn assert_whole_alone(world: &mut World, drive: u8) {
    world.flush().expect("flushed");
    world.close();
    world.kill();
    world.absent = !(1 << drive) & 0b11;
    world.reopen();
    world.check_all();
}

/// The second drive answers again, and has everything in the end.
fn ends_well(world: &mut World, hanging: &Cell<u32>) {
    hanging.set(0);
    world.land(1);
    come_back(world, 1);
    assert_whole_alone(world, 1);
}

#[test]
fn a_drive_that_hangs_is_put_out_and_nobody_waits_for_it() {
    for columns in [1, 2] {
        let mut world = World::new(Shape { columns, ..Shape::MIRROR });
        let hanging = hanging(&mut world);
        some_writes(&mut world, 100);
        world.flush().expect("flushed");
        hanging.set(1);
        let began = world.now;
        for at in 0..16 {
            world.begin([Op::Write, Op::Read][at as usize % 2], at * 70 + at % 3, 9, at % 4 == 0);
        }
        world.begin(Op::Flush, 0, 0, false);
        assert!(world.wait_all().iter().all(Result::is_ok));
        assert!(world.now - began <= bound_and_slack(), "{} ms", (world.now - began) / 1_000_000);
        assert!(world.now - began >= SLOW_BOUND.nanos(), "not before its time");
        assert!(matches!(health(&world, 0), CopyHealth::Stale(_)));
        assert_eq!(given_up(&world, 0), 1);
        assert!(world.late(0) > 0);
        world.check_all();
    }
}

/// The story: what was given up lands while the drive is away, over blocks that the group has long used again elsewhere.
/// The drive was handed back before that; the resync waits, and the drive alone is whole in the end.
#[test]
fn the_next_life_of_a_drive_begins_when_nothing_of_the_last_can_land() {
    for seed in 1..6 {
        let mut world = World::new(Shape::MIRROR);
        world.random = seed;
        let hanging = hanging(&mut world);
        some_writes(&mut world, 100);
        hangs_and_is_put_out(&mut world, &hanging);
        some_writes(&mut world, 200);
        world.settle();
        world.back(1);
        world.settle();
        some_writes(&mut world, 20);
        assert!(matches!(health(&world, 1), CopyHealth::Stale(_)), "it waits for what may still land");
        assert!(world.late(1) > 0);
        world.land(1);
        come_back(&mut world, 1);
        assert_whole_alone(&mut world, 1);
    }
}

#[test]
fn the_last_current_copy_is_waited_for() {
    let mut world = World::new(Shape::MIRROR);
    let hanging = hanging(&mut world);
    world.engine.take_out(world::uuid(1)).expect("two copies");
    world.write(800, 8).expect("written");
    hanging.set(1);
    let began = world.now;
    let write = world.begin(Op::Write, 8, 8, true);
    let read = world.begin(Op::Read, 800, 8, false);
    while world.now < began + 100 * SLOW_BOUND.nanos() {
        world.step();
        assert!(!world.answered(write) && !world.answered(read), "nobody else has it");
    }
    assert_eq!(health(&world, 0), CopyHealth::Current);
    hanging.set(0);
    assert!(world.wait_all().iter().all(Result::is_ok));
    assert_eq!(given_up(&world, 0), 0);
    world.check_all();
}

/// Of two that hang neither is put out: the one that stayed might be the one that never answers.
#[test]
fn nobody_is_put_out_in_favour_of_one_that_hangs_too() {
    let mut world = World::new(Shape::MIRROR);
    let hanging = hanging(&mut world);
    some_writes(&mut world, 10);
    hanging.set(3);
    let began = world.now;
    let write = world.begin(Op::Write, 8, 8, false);
    while world.now < began + 10 * SLOW_BOUND.nanos() {
        world.step();
    }
    assert!(!world.answered(write));
    assert!([0, 1].iter().all(|drive| health(&world, *drive) == CopyHealth::Current));
    hanging.set(2);
    assert_eq!(world.wait(write), Ok(()));
    assert!(matches!(health(&world, 1), CopyHealth::Stale(_)), "the other one answers");
    world.check_all();
}

#[test]
fn reads_of_a_drive_that_hangs_come_from_another() {
    let mut world = World::new(Shape::MIRROR);
    for at in 0..32 {
        world.write(at * 256, 256).expect("written");
    }
    world.flush().expect("flushed");
    world.settle();
    world.verdict =
        Box::new(|io| if io.drive == 1 && io.op == DriveOp::Read { Verdict::Later } else { Verdict::Do });
    let began = world.now;
    for at in 0..32 {
        world.begin(Op::Read, at * 256, 256, false);
    }
    // What was read is compared with what was written.
    assert!(world.wait_all().iter().all(Result::is_ok));
    assert!(world.now - began <= bound_and_slack());
    world.run_until("it is stale", |w| matches!(health(w, 1), CopyHealth::Stale(_)));
}

#[test]
fn a_group_closes_beside_a_drive_that_hangs() {
    let mut world = World::new(Shape::MIRROR);
    let hanging = hanging(&mut world);
    some_writes(&mut world, 50);
    hanging.set(2);
    let began = world.now;
    world.begin(Op::Write, 64, 64, false);
    world.engine.close();
    world.run_until("the group is closed", |w| w.engine.phase() == Phase::Closed);
    assert!(world.now - began <= 2 * bound_and_slack());
    assert!(world.wait_all().iter().all(Result::is_ok));
    world.kill();
    world.absent = 2;
    hanging.set(0);
    world.reopen();
    world.check_all();
}

#[test]
fn a_drive_that_hangs_while_it_is_brought_up_to_date_misses_it() {
    let mut world = World::new(Shape::MIRROR);
    let hanging = hanging(&mut world);
    some_writes(&mut world, 100);
    world.engine.take_out(world::uuid(1)).expect("two copies");
    some_writes(&mut world, 100);
    world.settle();
    world.back(1);
    world.run_until("the resync copies", |w| {
        w.engine.stats().expect("served").resync.is_some_and(|resync| resync.copied_blocks > 0)
    });
    hanging.set(2);
    some_writes(&mut world, 100);
    world.run_until("it is given up", |w| given_up(w, 1) == 1);
    assert!(matches!(health(&world, 1), CopyHealth::Stale(_)));
    ends_well(&mut world, &hanging);
}

/// The pool must not hand the row's extents to another group while a header may still land in one of them.
#[test]
fn a_new_drive_that_hangs_costs_the_row_and_keeps_its_extents_until_it_is_quiet() {
    let mut world = World::new(Shape { rows: 4, ..Shape::MIRROR });
    let hanging = hanging(&mut world);
    let new = world.add_drive();
    let (known, joining) = (base::DriveIx::new(0), base::DriveIx::new(2));
    let extent = |drive| base::Extent { drive, extent: base::ExtentNo::new(3) };
    world.grants.push_back(base::RowGrant {
        row: base::RowNo::ZERO,
        extents: vec![extent(known), extent(joining)],
        joining: vec![new],
    });
    hanging.set(4);
    let rows = world.next_extent;
    for at in (0..8000).step_by(8) {
        let _ = world.write(at, 8);
        if world.late(2) > 0 {
            break;
        }
    }
    world.run_until("the new drive is given up", |w| w.late(2) > 0);
    let asked_at = world.now;
    while world.now < asked_at + 10 * SLOW_BOUND.nanos() {
        world.write(0, 8).expect("written");
        world.now += 1_000_000_000;
        world.step();
    }
    assert_eq!(world.next_extent, rows, "the pool is not asked again");
    // Nobody else waits for it: a move goes on, and a scrub.
    let other = world.add_drive();
    world.leave(1, &[new]);
    assert!(matches!(end_of_move(&mut world), volume::MoveOutcome::GivenUp(_)), "it is the one that hangs");
    world.leave(1, &[other]);
    world.run_until("the move is over", |w| {
        w.engine.stats().expect("served").moving.map(|moving| moving.outcome)
            == Some(volume::MoveOutcome::Done)
    });
    world.places[1] = 3;
    assert!(world.engine.start_scrub(0));
    world.run_until("the scrub ends", |w| w.engine.stats().expect("served").scrub.finished);
    assert_eq!(world.next_extent, rows, "something may still land");
    hanging.set(0);
    world.land(2);
    for at in (0..16_000).step_by(8) {
        let _ = world.write(at, 8);
        if world.next_extent > rows {
            return world.check_all();
        }
        world.now += 1_000_000_000;
    }
    panic!("no other row is asked for, {} {:?}", world.engine.unfinished(), world.engine.stats());
}

#[test]
fn without_a_bound_everybody_waits() {
    let mut world = World::new(Shape::MIRROR);
    let hanging = hanging(&mut world);
    world.engine.set_slow_bound(Duration::default());
    hanging.set(1);
    let write = world.begin(Op::Write, 8, 8, false);
    world.settle();
    world.now += 1000 * SLOW_BOUND.nanos();
    world.settle();
    assert!(!world.answered(write));
    // A bound that is set later is one for what hangs already.
    world.engine.set_slow_bound(Duration::from_millis(1000));
    assert_eq!(world.wait(write), Ok(()));
    assert!(matches!(health(&world, 0), CopyHealth::Stale(_)));
}

/// A drive that hangs at every step of a recovery: the group is served without it, and it comes back when it is quiet.
#[test]
fn a_drive_that_hangs_while_the_group_is_recovered_is_left_out() {
    let mut reached = 0;
    for step in 0..200 {
        let mut world = World::new(Shape::MIRROR);
        some_writes(&mut world, 60);
        world.cut_power();
        let count = Rc::new(Cell::new(0));
        let seen = count.clone();
        world.verdict = Box::new(move |io| {
            seen.set(seen.get() + u32::from(io.drive == 0));
            if io.drive == 0 && seen.get() > step { Verdict::Later } else { Verdict::Do }
        });
        let began = world.now;
        world.reopen();
        if count.get() <= step {
            break;
        }
        reached = step;
        assert!(
            world.now - began <= 2 * bound_and_slack(),
            "step {step}: {} ms",
            (world.now - began) / 1_000_000
        );
        assert_eq!(health(&world, 0), CopyHealth::Missing, "step {step}");
        assert!(!world.catalogue.is_empty(), "the catalogue has heard of it");
        world.verdict = Box::new(|_| Verdict::Do);
        some_writes(&mut world, 30);
        world.back(0);
        some_writes(&mut world, 30);
        assert_eq!(health(&world, 0), CopyHealth::Missing, "it is not quiet");
        world.land(0);
        come_back(&mut world, 0);
        if step % 8 == 0 {
            assert_whole_alone(&mut world, 0);
        } else {
            world.check_all();
        }
    }
    assert!(reached > 10, "{reached} steps");
}

/// Without the drive the group does not open: it is waited for, as long as it takes.
#[test]
fn a_recovery_waits_for_the_only_current_copy() {
    let mut world = World::new(Shape::MIRROR);
    world.engine.take_out(world::uuid(1)).expect("two copies");
    some_writes(&mut world, 30);
    world.kill();
    let hanging = hanging(&mut world);
    hanging.set(1);
    let config = world.shape.config;
    world.begin_open(config);
    let began = world.now;
    while world.now < began + 20 * SLOW_BOUND.nanos() {
        world.step();
        assert_eq!(world.engine.phase(), Phase::Recovering, "{:?}", world.engine.refusal());
    }
    hanging.set(0);
    world.land(0);
    world.run_until("the group is served", |w| w.engine.phase() == Phase::Serving);
    world.check_all();
}

/// Writes that need many checkpoints, each of them answered.
fn many_writes(world: &mut World) {
    for at in 0..3000 {
        world.write(at * 8 % 4096, 8).expect("written");
    }
}

/// A drive that is handed back says nothing when it is asked what it has. It is left, and nobody waits for it.
#[test]
fn a_drive_that_hangs_when_it_is_asked_what_it_has_is_left() {
    let mut world = World::new(Shape::MIRROR);
    let hanging = hanging(&mut world);
    some_writes(&mut world, 100);
    world.engine.take_out(world::uuid(1)).expect("two copies");
    some_writes(&mut world, 100);
    world.settle();
    hanging.set(2);
    world.back(1);
    world.run_until("it is given up", |w| given_up(w, 1) == 1);
    many_writes(&mut world);
    assert!(matches!(health(&world, 1), CopyHealth::Stale(_)));
    ends_well(&mut world, &hanging);
}

/// A drive that is to take over hangs. Its places are kept until it is quiet; the guest's writes, the checkpoints that
/// they need and the space that those free wait for nothing.
#[test]
fn a_successor_that_hangs_keeps_nobody_waiting() {
    let mut world = World::new(Shape::MIRROR);
    let hanging = hanging(&mut world);
    (0..500).for_each(|at| world.write(at * 8, 8).expect("written"));
    let new = world.add_drive();
    world.leave(1, &[new]);
    world.run_until("it copies", |w| {
        w.engine.stats().expect("served").moving.is_some_and(|moving| moving.copied_blocks > 0)
    });
    hanging.set(4);
    many_writes(&mut world);
    assert!(world.late(2) > 0, "it was given up");
    let outcome = |world: &World| world.engine.stats().expect("served").moving.map(|moving| moving.outcome);
    assert_eq!(outcome(&world), Some(volume::MoveOutcome::Copying), "its places may still be written to");
    hanging.set(0);
    world.land(2);
    world.settle();
    assert!(matches!(outcome(&world), Some(volume::MoveOutcome::GivenUp(_))));
    world.check_all();
}

/// A leg was asked for, and a drive that is back went first. Every row that came while that was brought up to date had an
/// extent of the leg and was refused, and the guest waited as long.
#[test]
fn a_leg_that_waits_behind_a_drive_that_is_back_keeps_no_row_waiting() {
    for columns in [1, 2] {
        let mut world = World::new(Shape { columns, ..Shape::MIRROR });
        let hanging = hanging(&mut world);
        some_writes(&mut world, 20);
        hangs_and_is_put_out(&mut world, &hanging);
        some_writes(&mut world, 50);
        world.settle();
        world.land(1);
        let rows = world.engine.stats().expect("served").rows;
        let drives = (2 * columns)..(3 * columns);
        let new: Vec<u8> = drives.collect();
        for _ in &new {
            world.add_drive();
        }
        world.engine.set_resync_rate(64);
        world.add_leg(&new);
        world.back(1);
        for sector in (0..world.shape.sectors - 512).step_by(512) {
            world.write(sector, 512).expect("written");
        }
        assert!(matches!(health(&world, 1), CopyHealth::Resyncing(_)), "the leg waits");
        assert!(world.engine.stats().expect("served").rows > rows, "there are more rows");
        world.engine.set_resync_rate(0);
        world.run_until("the drive has everything", |w| health(w, 1) == CopyHealth::Current);
        assert_eq!(end_of_move(&mut world), volume::MoveOutcome::Done);
        world.leg_added();
        world.settle();
        assert_each_leg_is_whole(&mut world);
    }
}
