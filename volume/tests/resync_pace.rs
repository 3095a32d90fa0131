//! How fast a resync goes beside the guest: not faster than its bound, and the guest keeps at least its half.
//!
//! Drives here serve one operation after the other, each of which takes its time; time is the test's own.
use crate::world::story::broken;
use crate::world::{SMALL, Shape, Verdict, World};
use base::{DriveOp, Op};
use std::cell::Cell;
use std::rc::Rc;
use volume::{Config, CopyHealth};

/// Nanoseconds between two looks at the drives.
const STEP: u64 = 20_000;
/// What an operation takes, and what each of its blocks adds: a drive that does 10,000 a second, and 400 MB.
const OPERATION: u64 = 100_000;
const BLOCK: u64 = 10_000;
/// Blocks that drive 1 misses.
const MISSED: u64 = 64 * 64;

/// A mirror whose second drive missed much, and is away.
fn behind() -> World {
    let config = Config { delta_entries: 8192, ..SMALL };
    let shape = Shape { rows: 60, sectors: 16 * 4096, config, ..Shape::MIRROR };
    let mut world = World::new(shape);
    for sector in (0..16 * 4096).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    let broken = broken(&mut world);
    broken.set(2);
    for sector in (0..MISSED * 8).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    world.flush().expect("flushed");
    broken.set(0);
    world.settle();
    world
}

fn is_current(world: &World) -> bool {
    world.engine.stats().expect("served").drives[1].health == CopyHealth::Current
}

fn copied(world: &World) -> u64 {
    let stats = world.engine.stats().expect("served");
    stats.resync.or(stats.last_resync).map_or(0, |resync| resync.copied_blocks)
}

/// However short the time that is looked at, not more is copied in it than the bound and one unit.
#[test]
fn the_bound_of_the_rate_holds() {
    const RATE: u64 = 2_000;
    let mut world = behind();
    world.engine.set_resync_rate(RATE);
    world.back(1);
    let start = world.now;
    let mut seen = vec![(start, 0)];
    while !is_current(&world) {
        world.step();
        if copied(&world) > seen.last().expect("the first").1 {
            seen.push((world.now, copied(&world)));
        }
    }
    assert!(copied(&world) >= MISSED);
    let unit = 136;
    for (i, (since, before)) in seen.iter().enumerate() {
        for (now, after) in &seen[i..] {
            let bound = (now - since) * RATE / 1_000_000_000 + unit;
            assert!(after - before <= bound, "{} blocks within {} ns", after - before, now - since);
        }
    }
    let took = world.now - start;
    assert!(took >= (MISSED - unit) * 1_000_000_000 / RATE, "{took} ns");
    // It uses what it may: nobody else wants the drives.
    assert!(took < 2 * copied(&world) * 1_000_000_000 / RATE, "{took} ns");
}

/// From here on each drive serves one operation at a time.
fn take_time(world: &mut World) -> Rc<Cell<u64>> {
    let now = Rc::new(Cell::new(world.now));
    let (clock, mut free_at) = (now.clone(), [world.now; 2]);
    world.verdict = Box::new(move |io| {
        let free_at = &mut free_at[usize::from(io.drive)];
        if *free_at > clock.get() {
            return Verdict::Later;
        }
        let takes = if io.op == DriveOp::Flush { OPERATION } else { OPERATION + io.blocks * BLOCK };
        *free_at = clock.get() + takes;
        Verdict::Do
    });
    now
}

/// The guest reads single blocks, so many at once, until `end`: how many were answered.
fn read_until(world: &mut World, clock: &Cell<u64>, depth: usize, end: impl Fn(&World) -> bool) -> u64 {
    let mut answered = 0;
    while !end(world) {
        while world.asked() < depth {
            let block = world.random() % (world.shape.sectors / 8);
            world.begin(Op::Read, block * 8, 8, false);
        }
        world.settle();
        let answers = world.take_answers();
        assert!(answers.iter().all(Result::is_ok));
        answered += answers.len() as u64;
        world.now += STEP;
        clock.set(world.now);
    }
    world.verdict = Box::new(|_| Verdict::Do);
    world.wait_all();
    answered
}

/// The drive that has everything serves the guest and is what the resync reads from.
#[test]
fn the_guest_keeps_its_half_and_the_resync_gets_on() {
    for depth in [1, 4, 16] {
        let mut world = behind();
        let clock = take_time(&mut world);
        let end = world.now + 1_000_000_000;
        let alone = read_until(&mut world, &clock, depth, |world| world.now >= end);
        world.settle();
        world.back(1);
        let clock = take_time(&mut world);
        let start = world.now;
        let beside = read_until(&mut world, &clock, depth, is_current);
        let took = world.now - start;
        let share = beside * 1_000_000_000 / took * 100 / alone;
        assert!(share >= 50, "depth {depth}: {share} % of {alone} reads a second");
        assert!(took < 60_000_000_000, "depth {depth}: {} blocks in {took} ns", copied(&world));
    }
}
