//! Power fails while a version that names other rows is not durable, and of the drives that it names not all come back: whoever was
//! to be left still has everything, and serves.
use crate::world::story::some_writes;
use crate::world::{self, Shape, Verdict, World};
use base::{DriveIx, DriveOp, Engine, Extent, ExtentNo, Phase, RowGrant, RowNo};
use std::cell::Cell;
use std::rc::Rc;
use volume::layout::{FIRST_EXTENT_BLOCK, extent};

/// A group of two columns that differs with the moment at which power is to fail.
fn columns(legs: u8, steps: u64) -> World {
    let mut world = World::new(Shape { sectors: 4096, legs, columns: 2, ..Shape::MIRROR });
    world.random = (steps + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    some_writes(&mut world, 10);
    world.flush().expect("flushed");
    world.settle();
    world
}

fn steps_on(world: &mut World, steps: u64) {
    for _ in 0..steps {
        world.step();
    }
}

fn has_mark(world: &World, drive: u8) -> bool {
    world.catalogue.iter().any(|entry| entry.drive == world::uuid(drive) && !entry.state.is_current())
}

/// Power fails. Whether the group opens without this drive, and has everything then.
fn serves_without(world: &mut World, absent: u32) -> bool {
    world.cut_power();
    world.verdict = Box::new(|_| Verdict::Do);
    world.absent = absent;
    world.open_with(world.shape.config);
    if world.engine.phase() == Phase::Serving {
        world.check_all();
    }
    world.engine.phase() == Phase::Serving
}

/// From the second write of a superblock slot on this drive answers with errors: whether it has come to that.
fn dies_at_its_second_slot(world: &mut World, drive: u8) -> Rc<Cell<bool>> {
    let dead = Rc::new(Cell::new(false));
    let (dies, mut slot_writes) = (dead.clone(), 0);
    let slots = extent::SUPERBLOCKS.map(|slot| u64::from(slot) + FIRST_EXTENT_BLOCK);
    world.verdict = Box::new(move |io| {
        slot_writes += u32::from(io.op == DriveOp::Write && io.drive == drive && slots.contains(&io.at));
        dies.set(dies.get() || slot_writes == 2);
        if io.drive == drive && dies.get() { Verdict::Fail } else { Verdict::Do }
    });
    dead
}

/// A leg of two columns was being dropped, and one drive of the other leg did not come back. The version that names the other leg
/// alone was on its other drive: the group was refused for ever, also by force, though the leg that was to go has everything.
#[test]
fn a_leg_that_is_being_dropped_serves_when_the_other_one_loses_a_drive() {
    let mut midway = 0;
    for steps in 0..200 {
        let mut world = columns(2, steps);
        world.shuffle = true;
        world.drop_leg();
        steps_on(&mut world, steps);
        // Once its drives are marked the leg is gone.
        if has_mark(&world, 2) || has_mark(&world, 3) {
            continue;
        }
        midway += 1;
        assert!(serves_without(&mut world, 1), "{steps}: {:?}", world.engine.refusal());
    }
    assert!(midway > 5, "{midway} times");
}

/// The same where the drive failed while that version was being written, and the catalogue has heard of it.
#[test]
fn a_leg_that_is_being_dropped_serves_when_the_other_one_fails_a_write() {
    let mut midway = 0;
    for steps in 0..200 {
        for absent in [1, 0] {
            let mut world = columns(2, steps);
            dies_at_its_second_slot(&mut world, 0);
            world.drop_leg();
            steps_on(&mut world, steps);
            if has_mark(&world, 0) {
                midway += 1;
                assert!(serves_without(&mut world, absent), "{steps}: {:?}", world.engine.refusal());
            }
        }
    }
    assert!(midway > 5, "{midway} times");
}

/// The same of a leg that has other drives for its second row: only the table of rows tells that one of them is not there.
#[test]
fn a_leg_that_is_being_dropped_serves_when_a_later_row_loses_a_drive() {
    let mut midway = 0;
    for steps in 0..200 {
        let mut world = World::new(Shape { sectors: 4096, ..Shape::MIRROR });
        world.random = (steps + 1_u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        world.extents = 1;
        let joining = vec![world.add_drive(), world.add_drive()];
        let on = |drive| Extent { drive: DriveIx::new(drive), extent: ExtentNo::new(1) };
        world.grants.push_back(RowGrant { row: RowNo::ZERO, extents: vec![on(2), on(3)], joining });
        for sector in (0..1_536).step_by(512) {
            world.write(sector, 512).expect("written");
        }
        world.run_until("it has two rows", |world| world.engine.stats().expect("served").rows == 2);
        world.flush().expect("flushed");
        world.settle();
        world.shuffle = true;
        world.drop_leg();
        steps_on(&mut world, steps);
        if (0..4).any(|drive| has_mark(&world, drive)) {
            continue;
        }
        midway += 1;
        assert!(serves_without(&mut world, 0b100), "{steps}: {:?}", world.engine.refusal());
    }
    assert!(midway > 5, "{midway} times");
}

/// The only leg's first drive was being left. Its successor failed while the version that names it was being written, and power did
/// before the next one named the old rows again.
#[test]
fn a_drive_that_is_being_left_serves_when_its_successor_fails() {
    let mut midway = 0;
    for steps in 0..60 {
        for absent in [0b100, 0] {
            let mut world = columns(1, steps);
            let new = world.add_drive();
            let dead = dies_at_its_second_slot(&mut world, 2);
            world.leave(0, &[new]);
            world.run_until("the successor fails", |_| dead.get());
            steps_on(&mut world, steps);
            if has_mark(&world, 2) {
                midway += 1;
                assert!(serves_without(&mut world, absent), "{steps}: {:?}", world.engine.refusal());
            }
        }
    }
    assert!(midway > 5, "{midway} times");
}
