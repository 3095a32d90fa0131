//! What stories of drives have in common: writes of any kind, drives that fail, and the question whether each leg is
//! whole.
use super::{Verdict, World};
use base::Op;
use std::cell::Cell;
use std::rc::Rc;
use volume::MoveOutcome;
use volume::layout::{FIRST_EXTENT_BLOCK, extent};

/// Drives that fail everything, a bit for each.
pub fn broken(world: &mut World) -> Rc<Cell<u32>> {
    let broken = Rc::new(Cell::new(0u32));
    let seen = broken.clone();
    world.verdict =
        Box::new(move |io| if seen.get() >> io.drive & 1 == 1 { Verdict::Fail } else { Verdict::Do });
    broken
}

/// Drives that do not answer, a bit for each.
pub fn hanging(world: &mut World) -> Rc<Cell<u32>> {
    let hanging = Rc::new(Cell::new(0u32));
    let seen = hanging.clone();
    world.verdict =
        Box::new(move |io| if seen.get() >> io.drive & 1 == 1 { Verdict::Later } else { Verdict::Do });
    hanging
}

pub fn some_writes(world: &mut World, count: u64) {
    some_writes_below(world, count, world.shape.sectors);
}

/// The same below this sector.
pub fn some_writes_below(world: &mut World, count: u64, end: u64) {
    for _ in 0..count {
        let sector = world.random() % (end - 512);
        match world.random() % 10 {
            0 => world.ask(Op::Discard, sector, 1 + sector % 4000 % (end - sector)).expect("done"),
            1 => world.flush().expect("flushed"),
            _ => world.write(sector, 1 + sector % 64).expect("written"),
        }
    }
}

pub fn outcome(world: &World) -> Option<MoveOutcome> {
    world.engine.stats().and_then(|stats| stats.moving).map(|moving| moving.outcome)
}

/// Waits for the end of a move while the guest writes.
pub fn end_of_move(world: &mut World) -> MoveOutcome {
    loop {
        match outcome(world).expect("a move was asked for") {
            MoveOutcome::Copying => some_writes(world, 3),
            end => return end,
        }
    }
}

/// Each leg alone has everything that was acknowledged.
pub fn assert_each_leg_is_whole(world: &mut World) {
    world.flush().expect("flushed");
    let (legs, columns) = (world.shape.legs, world.shape.columns);
    for leg in 0..legs {
        world.close();
        let columns = usize::from(columns);
        let of_leg = world.places[usize::from(leg) * columns..][..columns]
            .iter()
            .fold(0, |all, drive| all | 1u32 << drive);
        let (drives, catalogue) = (world.drives.clone(), world.catalogue.clone());
        world.kill();
        world.absent = !of_leg;
        world.reopen();
        world.check_all();
        world.close();
        world.kill();
        (world.drives, world.catalogue, world.absent) = (drives, catalogue, 0);
        world.reopen();
    }
}

/// Holds back what becomes of superblock slots: no checkpoint ends.
pub fn hold_superblocks(world: &mut World) {
    let slots = extent::SUPERBLOCKS.map(|slot| u64::from(slot) + FIRST_EXTENT_BLOCK);
    world.verdict = Box::new(move |io| {
        let held = io.op == base::DriveOp::Write && slots.contains(&io.at);
        if held { Verdict::Later } else { Verdict::Do }
    });
}
