//! What a move cannot read or write: nothing that was right before is lost by it, and nobody is told that it is done.
use crate::doors_joining::{fill, row};
use crate::world::story::outcome;
use crate::world::{self, Shape, Verdict, World};
use base::{DriveOp, Engine, ExtentNo, Op, Phase, Reply};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use volume::label::extent_start;
use volume::layout::extent as fixed;
use volume::{CopyHealth, MoveOutcome, MoveRefusal};

/// Blocks of the guest in `written`.
const BLOCKS: u64 = 1024;
/// Pages of rows and history that a home extent of these groups has room for.
const HOME_PAGES: u64 = 16;

/// Where an extent begins on its drive.
fn start(world: &World, extent: u32) -> u64 {
    extent_start(ExtentNo::new(extent), world.shape.extent).get()
}

/// Waits for the end of a move.
fn end_of_move(world: &mut World) -> MoveOutcome {
    world.run_until("the move is over", |world| outcome(world) != Some(MoveOutcome::Copying));
    outcome(world).expect("asked for")
}

/// A group with one leg, full: its home row on drive 0, its second row on drive 1. And how many blocks it has.
fn on_two_drives() -> (World, u64) {
    let mut world = World::new(Shape { legs: 1, rows: 1, sectors: 1 << 20, ..Shape::MIRROR });
    let first = fill(&mut world, 0);
    let new = world.add_drive();
    world.grants.push_back(row(&[1], 5, &[new]));
    world.engine.reply(Reply::SpaceAdded);
    world.settle();
    let all = fill(&mut world, first);
    assert!(all > first + 100, "{all} blocks, {first} of them in the home row");
    world.flush().expect("flushed");
    world.settle();
    (world, all)
}

/// The first of these operations on drive 0 fails, once: whether it did.
fn fails_once(world: &mut World, op: DriveOp, at: Range<u64>, longer_than: u32) -> Rc<Cell<bool>> {
    let failed = Rc::new(Cell::new(false));
    let seen = failed.clone();
    world.verdict = Box::new(move |io| {
        let there = io.drive == 0 && io.op == op && at.contains(&io.at) && io.blocks as u32 > longer_than;
        if there && !seen.replace(true) { Verdict::Fail } else { Verdict::Do }
    });
    failed
}

/// One write of a copy failed on a drive that had other rows, and that the group could not do without. The move went on, was done,
/// and what had been left went back to the pool with the only copy of these blocks.
#[test]
fn a_copy_that_could_not_be_written_ends_the_move() {
    let (mut world, blocks) = on_two_drives();
    let zero = world.drive(0);
    let extent = start(&world, 5)..start(&world, 6);
    let failed = fails_once(&mut world, DriveOp::Write, extent, 8);
    world.leave(1, &[zero]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::GivenUp(MoveRefusal::DriveFailed));
    assert!(failed.get() && world.engine.halted().is_none());
    world.check_range(0, blocks * 8);
    // It can be asked for again.
    world.settle();
    let zero = world.drive(0);
    world.leave(1, &[zero]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
    world.drives[1] = Default::default();
    world.check_range(0, blocks * 8);
}

/// A row page of a move could not be written, on the only drive with the home row. The next version named it all the same, and no
/// open found the rows any more.
#[test]
fn a_row_page_that_could_not_be_written_is_not_named() {
    let (mut world, blocks) = on_two_drives();
    let new = world.add_drive();
    let first = start(&world, 0) + u64::from(fixed::RING_FIRST) + u64::from(world.shape.ring);
    let failed = fails_once(&mut world, DriveOp::Write, first..first + HOME_PAGES, 0);
    world.leave(1, &[new]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::GivenUp(MoveRefusal::DriveFailed));
    assert!(failed.get());
    world.check_range(0, blocks * 8);
    world.kill();
    world.open_with(world.shape.config);
    assert_eq!(world.engine.phase(), Phase::Serving, "{:?}", world.engine.refusal());
    world.check_range(0, blocks * 8);
}

/// A volume of which nothing is in memory.
fn written(shape: Shape) -> World {
    let mut world = World::new(shape);
    for block in (0..BLOCKS).step_by(64) {
        world.write(block * 8, 512).expect("written");
    }
    world.close();
    world.reopen();
    world.settle();
    world
}

fn assert_all_is_there(world: &mut World) {
    let lost = (0..BLOCKS).filter(|block| world.ask(Op::Read, block * 8, 8).is_err()).count();
    assert_eq!(lost, 0, "of {BLOCKS} blocks");
}

/// One read of a page of the map failed, once, and everything below it was left behind by a move that was done.
#[test]
fn a_page_that_cannot_be_read_at_first_is_asked_for_again() {
    let mut world = written(Shape { legs: 1, ..Shape::MIRROR });
    let new = world.add_drive();
    let failed = fails_once(&mut world, DriveOp::Read, 0..u64::MAX, 0);
    world.leave(0, &[new]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
    assert!(failed.get());
    world.drives[0] = Default::default();
    assert_all_is_there(&mut world);
}

/// One that nobody can read ends the move: what lies below it stays where it is.
#[test]
fn a_page_that_cannot_be_read_at_all_ends_the_move() {
    let mut world = written(Shape { legs: 1, ..Shape::MIRROR });
    let new = world.add_drive();
    let bad = Rc::new(Cell::new(None));
    let seen = bad.clone();
    world.verdict = Box::new(move |io| {
        let first = io.drive == 0 && io.op == DriveOp::Read && seen.get().is_none();
        if first {
            seen.set(Some(io.at));
        }
        let fails = io.drive == 0 && io.op == DriveOp::Read && seen.get() == Some(io.at);
        if fails { Verdict::Fail } else { Verdict::Do }
    });
    world.leave(0, &[new]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::GivenUp(MoveRefusal::LastCopy));
    world.verdict = Box::new(|_| Verdict::Do);
    assert_all_is_there(&mut world);
}

/// The same of a resync: the drive was called current and lacked what lay below the page.
#[test]
fn a_resync_asks_again_for_a_page_too() {
    let mut world = World::new(Shape::MIRROR);
    let broken = world::story::broken(&mut world);
    broken.set(2);
    for block in (0..BLOCKS).step_by(64) {
        world.write(block * 8, 512).expect("written");
    }
    world.close();
    broken.set(0);
    world.reopen();
    world.settle();
    let failed = fails_once(&mut world, DriveOp::Read, 0..u64::MAX, 0);
    world.back(1);
    let current =
        |world: &World| world.engine.stats().expect("served").drives[1].health == CopyHealth::Current;
    world.run_until("the drive is current", current);
    assert!(failed.get());
    world.flush().expect("flushed");
    world.close();
    world.kill();
    world.absent = 1;
    world.open_with(world.shape.config);
    assert_eq!(world.engine.phase(), Phase::Serving, "{:?}", world.engine.refusal());
    assert_all_is_there(&mut world);
}
