//! One leg more, one leg less, and a part of a drive that goes elsewhere, while the group is served.
use crate::world;
use crate::world::story::{assert_each_leg_is_whole, broken, end_of_move, outcome, some_writes};
use crate::world::{Shape, Verdict, World};
use base::{DriveIx, DriveOp, Engine, Extent, ExtentNo, Op, Phase, RowGrant, RowNo};
use std::cell::Cell;
use std::rc::Rc;
use volume::{CopyHealth, MoveOutcome, MoveRefusal};

fn shapes() -> [Shape; 5] {
    [
        Shape::MIRROR,
        Shape { legs: 1, ..Shape::MIRROR },
        Shape { columns: 2, ..Shape::MIRROR },
        Shape { legs: 3, ..Shape::MIRROR },
        Shape { legs: 1, columns: 2, ..Shape::MIRROR },
    ]
}

/// Drives for one leg more.
fn new_drives(world: &mut World) -> Vec<u8> {
    (0..world.shape.columns).map(|_| world.add_drive()).for_each(drop);
    let count = world.drives.len() as u8;
    (count - world.shape.columns..count).collect()
}

fn given_up(world: &World, why: MoveRefusal) -> bool {
    outcome(world) == Some(MoveOutcome::GivenUp(why))
}

#[test]
fn a_leg_is_added_while_the_group_is_served_and_grows() {
    for shape in shapes() {
        let mut world = World::new(shape);
        some_writes(&mut world, 60);
        let rows = world.engine.stats().expect("served").rows;
        let drives = new_drives(&mut world);
        world.add_leg(&drives);
        for sector in (0..12_000).step_by(512) {
            world.write(sector, 512).expect("written");
        }
        assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
        let stats = world.engine.stats().expect("served");
        assert!(stats.rows > rows, "it grew meanwhile");
        assert_eq!(stats.legs, shape.legs + 1);
        world.leg_added();
        some_writes(&mut world, 100);
        world.check_all();
        assert_each_leg_is_whole(&mut world);
        some_writes(&mut world, 50);
        world.cut_power();
        world.reopen();
        world.check_all();
    }
}

#[test]
fn a_leg_is_dropped_while_the_group_is_served() {
    for shape in shapes().into_iter().filter(|shape| shape.legs > 1) {
        let mut world = World::new(shape);
        world.shuffle = true;
        some_writes(&mut world, 150);
        world.drop_leg();
        assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
        assert_eq!(world.engine.stats().expect("served").legs, shape.legs - 1);
        world.leg_dropped();
        some_writes(&mut world, 100);
        world.check_all();
        assert_each_leg_is_whole(&mut world);
        world.cut_power();
        world.reopen();
        world.check_all();
        let drives = new_drives(&mut world);
        world.add_leg(&drives);
        assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
        world.leg_added();
        world.check_all();
        assert_each_leg_is_whole(&mut world);
    }
}

#[test]
fn a_part_of_a_drive_goes_to_another_one() {
    let mut world = World::new(Shape::MIRROR);
    for sector in (0..12_000).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    let here = world.engine.extents_on(world::uuid(1));
    assert!(here.len() > 4);
    let new = world.add_drive();
    world.shift(1, new, &here[1..3]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
    assert_eq!(world.engine.extents_on(new.uuid), here[1..3]);
    let rest = world.engine.extents_on(world::uuid(1));
    assert!(rest.contains(&here[0]) && !rest.contains(&here[1]) && !rest.contains(&here[2]));
    let again = world.drive(2);
    world.shift(1, again, &here[3..4]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
    some_writes(&mut world, 100);
    let stats = world.engine.stats().expect("served");
    assert!(stats.drives.iter().all(|view| view.health == CopyHealth::Current));
    world.check_all();
    // Leg 1 alone is whole: on two drives now.
    world.close();
    world.kill();
    world.absent = 0b001;
    world.reopen();
    world.check_all();
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let mut world = World::new(Shape::MIRROR);
    for sector in (0..8_000).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    let here = world.engine.extents_on(world::uuid(1));
    let new = world.add_drive();
    let other = world.drive(0);
    for (to, extents) in
        [(new, &here[..1]), (new, &here[1..1]), (new, &[ExtentNo::new(29)]), (other, &here[1..2])]
    {
        world.shift(1, to, extents);
        world.settle();
        assert!(given_up(&world, MoveRefusal::Misfit), "{extents:?} to {to:?}");
    }
    world.add_leg(&[0]);
    world.settle();
    assert!(given_up(&world, MoveRefusal::Misfit));
    world.adding.clear();
    assert_eq!(world.engine.drives().count(), 2, "nobody joined");
    // The leg that would stay lacks something.
    world.engine.take_out(world::uuid(0)).expect("the other one is there");
    world.settle();
    world.drop_leg();
    world.settle();
    assert!(given_up(&world, MoveRefusal::LastCopy));
    assert_eq!(world.engine.stats().expect("served").legs, 2);
    some_writes(&mut world, 20);
    world.check_all();
}

/// A leg less and a leg more, again and again, with failures of any drive, crashes and power cuts at any moment: what
/// was acknowledged stays.
#[test]
fn any_story_of_legs_ends_well() {
    for seed in 0..200u64 {
        let shape = shapes()[(seed % 5) as usize];
        let mut world = World::new(Shape { sectors: 8192, ..shape });
        world.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        world.shuffle = seed % 2 == 0;
        let broken = broken(&mut world);
        some_writes(&mut world, 40);
        let mut wished = None;
        for _ in 0..10 {
            let legs = world.shape.legs;
            match world.random() % 7 {
                0..2 if wished.is_none() && world.drives.len() < 24 => {
                    let adds = legs == 1 || (legs < 4 && world.one_in(2));
                    wished = Some(if adds { legs + 1 } else { legs - 1 });
                    if adds {
                        let drives = new_drives(&mut world);
                        world.add_leg(&drives);
                    } else {
                        world.drop_leg();
                    }
                    let steps = world.random() % 300;
                    for _ in 0..steps {
                        world.step();
                    }
                }
                // The leg that is being dropped may be gone by now.
                2 if legs.min(wished.unwrap_or(legs)) > 1 => {
                    // Any one drive, old or new.
                    let drive = world.random() % world.drives.len() as u64;
                    broken.set(1 << drive);
                    some_writes(&mut world, 10);
                    broken.set(0);
                    world.settle();
                }
                3 => {
                    world.cut_power();
                    world.reopen();
                }
                4 => world.kill_and_reopen(),
                _ => some_writes(&mut world, 10),
            }
            if let Some(legs) = wished.filter(|_| outcome(&world) != Some(MoveOutcome::Copying)) {
                follow(&mut world, legs);
                wished = None;
            }
            heal(&mut world);
            world.check_all();
        }
        if let Some(legs) = wished {
            some_writes(&mut world, 3);
            world.settle();
            end_of_move(&mut world);
            follow(&mut world, legs);
        }
        for _ in 0..6 {
            heal(&mut world);
        }
        assert_eq!(world.engine.phase(), Phase::Serving, "seed {seed}");
        let stats = world.engine.stats().expect("served");
        for place in &world.places {
            let view = stats.drives.iter().find(|view| view.uuid == world::uuid(*place)).expect("listed");
            assert_eq!(view.health, CopyHealth::Current, "seed {seed}: {:?}", stats.drives);
        }
        world.check_all();
        assert_each_leg_is_whole(&mut world);
    }
}

/// What the catalogue does when a move is over, or a crash came: as the rows say.
fn follow(world: &mut World, wished: u8) {
    let legs = world.engine.stats().expect("served").legs;
    if legs == wished && legs > world.shape.legs {
        return world.leg_added();
    }
    if legs == wished && legs < world.shape.legs {
        // A crash may have come before the drives were stale.
        let columns = usize::from(world.shape.columns);
        let gone: Vec<u8> = world.places.iter().rev().take(columns).copied().collect();
        for drive in gone {
            world.settle();
            world.leave(drive, &[]);
            world.settle();
        }
        return world.leg_dropped();
    }
    world.adding.clear();
}

/// Drives that lack something come back, one after the other.
fn heal(world: &mut World) {
    for drive in world.places.clone() {
        world.settle();
        let stats = world.engine.stats().expect("served");
        let lacks =
            |view: &volume::DriveView| view.uuid == world::uuid(drive) && view.health != CopyHealth::Current;
        if stats.drives.iter().any(lacks) {
            world.back(drive);
            world.settle();
        }
    }
}

/// Reads that were on their way to the leg that is dropped end as they began.
#[test]
fn reads_go_on_while_a_leg_is_dropped() {
    let mut world = World::new(Shape { legs: 3, ..Shape::MIRROR });
    for sector in (0..8_000).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    world.shuffle = true;
    world.drop_leg();
    for round in 0..400u64 {
        let slots: Vec<_> =
            (0..8).map(|i| world.begin(Op::Read, (round * 8 + i) * 97 % 7_000, 64, false)).collect();
        for _ in 0..round % 7 {
            world.step();
        }
        for slot in slots {
            world.wait(slot).expect("read");
        }
    }
    assert_eq!(outcome(&world), Some(MoveOutcome::Done));
}

/// The leg that would stay fails at any operation while the other one is dropped: it is kept then.
#[test]
fn a_leg_is_kept_when_the_others_fail() {
    let mut kept = 0;
    for (k, flushes) in (0..40).flat_map(|k| [(k, false), (k, true)]) {
        let mut world = World::new(Shape { sectors: 4096, ..Shape::MIRROR });
        some_writes(&mut world, 20);
        world.settle();
        let mut seen = 0;
        world.verdict = Box::new(move |io| {
            let counts = io.drive == 0 && io.op == if flushes { DriveOp::Flush } else { DriveOp::Write };
            seen += u64::from(counts);
            if counts && seen > k { Verdict::Fail } else { Verdict::Do }
        });
        world.drop_leg();
        world.settle();
        let legs = world.engine.stats().expect("served").legs;
        // Once the version that drops the leg is durable there is no way back: the one leg that is left fails alone.
        assert!(
            legs == 1
                || given_up(&world, MoveRefusal::DriveFailed)
                || given_up(&world, MoveRefusal::LastCopy)
        );
        kept += u64::from(legs == 2);
        if legs == 2 {
            some_writes(&mut world, 10);
            assert_eq!(world.engine.phase(), Phase::Serving, "k {k}");
        }
        world.verdict = Box::new(|_| Verdict::Do);
        world.check_all();
        world.cut_power();
        world.reopen();
        world.check_all();
    }
    assert!(kept > 3, "the leg was kept {kept} times");
}

/// What is under way when the power fails.
type Began = fn(&mut World);

/// Power fails after any step of a change, and only one of the drives is found, at once or after the group was served
/// once more: the group is refused, or has everything.
#[test]
fn any_drive_alone_after_a_crash_has_everything_or_is_refused() {
    let drop_leg: Began = World::drop_leg;
    let add_leg: Began = |world| {
        let drives = new_drives(world);
        world.add_leg(&drives);
    };
    let leave: Began = |world| {
        let new = world.add_drive();
        world.leave(1, &[new]);
    };
    let shift: Began = |world| {
        let here = world.engine.extents_on(world::uuid(1));
        let new = world.add_drive();
        world.shift(1, new, &here[1..]);
    };
    let mut served = 0;
    for (began, most) in [(drop_leg, 120u32), (add_leg, 260), (leave, 260), (shift, 260)] {
        for steps in (0..most).step_by(5) {
            for (alone, twice) in [(0, false), (1, false), (2, false), (1, true)] {
                let mut world = World::new(Shape { sectors: 4096, ..Shape::MIRROR });
                world.random = u64::from(steps + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                world.shuffle = steps % 2 == 0;
                for sector in (0..3_584).step_by(512) {
                    world.write(sector, 512).expect("written");
                }
                began(&mut world);
                for _ in 0..steps / 40 {
                    some_writes(&mut world, 1);
                }
                for _ in 0..steps % 40 {
                    world.step();
                }
                // Acknowledged and flushed at the very end: whoever missed it must not serve.
                world.write(u64::from(steps), 1).expect("written");
                world.flush().expect("flushed");
                world.cut_power();
                if twice {
                    // Whoever was left by then misses this.
                    world.reopen();
                    world.write(u64::from(steps) + 1, 1).expect("written");
                    world.flush().expect("flushed");
                    world.cut_power();
                }
                world.absent = !(1u32 << alone);
                world.open_with(world.shape.config);
                if world.engine.phase() == Phase::Serving {
                    world.check_all();
                    served += 1;
                }
            }
        }
    }
    assert!(served > 60, "one drive alone is often enough: {served}");
}

/// Rows whose legs lie the other way round: both drives stay when a leg is dropped, each with superblocks of before.
/// Power fails after any step, the group is served once more, power fails again, and only one drive is found: what it said
/// before the leg was dropped must not be believed.
#[test]
fn what_a_drive_that_stays_said_before_is_not_believed() {
    for steps in (0..120u64).step_by(3) {
        let mut world = World::new(Shape { sectors: 4096, ..Shape::MIRROR });
        world.random = (steps + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        world.shuffle = steps % 2 == 0;
        for extent in world.next_extent..world.next_extent + 5 {
            let extents =
                [1, 0].map(|drive| Extent { drive: DriveIx::new(drive), extent: ExtentNo::new(extent) });
            world.grants.push_back(RowGrant {
                row: RowNo::ZERO,
                extents: extents.into(),
                joining: Vec::new(),
            });
            world.next_extent = extent + 1;
        }
        for sector in (0..3_584).step_by(512) {
            world.write(sector, 512).expect("written");
        }
        world.drop_leg();
        for _ in 0..steps {
            world.step();
        }
        world.write(steps, 1).expect("written");
        world.flush().expect("flushed");
        world.cut_power();
        world.reopen();
        world.write(steps + 1, 1).expect("written");
        world.flush().expect("flushed");
        world.cut_power();
        for alone in 0..2u8 {
            let (drives, catalogue) = (world.drives.clone(), world.catalogue.clone());
            world.absent = !(1u32 << alone);
            world.open_with(world.shape.config);
            if world.engine.phase() == Phase::Serving {
                world.check_all();
            }
            world.kill();
            (world.drives, world.catalogue, world.absent) = (drives, catalogue, 0);
        }
    }
}

/// A read that is on its way to the leg that is dropped ends before the leg is gone.
#[test]
fn a_leg_is_there_until_its_last_reader_is_done() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 50);
    world.settle();
    let late = Rc::new(Cell::new(true));
    let seen = late.clone();
    world.verdict = Box::new(move |io| {
        let waits = io.drive == 1 && io.op == DriveOp::Read && seen.get();
        if waits { Verdict::Later } else { Verdict::Do }
    });
    let slots: Vec<_> = (0..6).map(|i| world.begin(Op::Read, i * 2048, 64, false)).collect();
    world.settle();
    world.drop_leg();
    world.settle();
    assert_eq!(outcome(&world), Some(MoveOutcome::Copying));
    assert!(slots.iter().any(|slot| !world.answered(*slot)), "one of them went to the last leg");
    assert_eq!(world.engine.stats().expect("served").legs, 2);
    late.set(false);
    for slot in slots {
        world.wait(slot).expect("read");
    }
    world.settle();
    assert_eq!(outcome(&world), Some(MoveOutcome::Done));
    world.check_all();
}
