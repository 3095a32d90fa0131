//! Moves: everything that a group has on one drive goes to others while it is served, whatever fails meanwhile.
use crate::world;
use crate::world::story::{assert_each_leg_is_whole, broken, end_of_move, outcome, some_writes};
use crate::world::{Shape, Verdict, World};
use base::{Engine, NewDrive, Op, Phase};
use std::cell::Cell;
use std::rc::Rc;
use volume::{CopyHealth, MoveOutcome, MoveRefusal};

/// The drive that had a place is wiped; another one has it.
fn taken_over(world: &mut World, old: u8, new: u8) {
    let at = world.places.iter().position(|drive| *drive == old).expect("a drive with rows");
    world.places[at] = new;
    world.drives[usize::from(old)] = Default::default();
}

fn shapes() -> [Shape; 4] {
    [
        Shape::MIRROR,
        Shape { legs: 3, ..Shape::MIRROR },
        Shape { columns: 2, ..Shape::MIRROR },
        Shape { legs: 1, ..Shape::MIRROR },
    ]
}

#[test]
fn a_drive_is_left_while_the_group_is_served() {
    for shape in shapes() {
        let mut world = World::new(shape);
        some_writes(&mut world, 200);
        let last = shape.legs * shape.columns - 1;
        let new = world.add_drive();
        world.leave(last, &[new]);
        assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
        taken_over(&mut world, last, last + 1);
        some_writes(&mut world, 200);
        world.check_all();
        assert_each_leg_is_whole(&mut world);
        some_writes(&mut world, 50);
        world.cut_power();
        world.reopen();
        world.check_all();
    }
}

/// The only copy goes back to a drive that was left before, which the catalogue has a mark against. Power goes away when
/// the version that names it is durable and before the catalogue hears of it: nobody else can be meant, and it has
/// everything, but the group was refused for ever.
#[test]
fn the_only_copy_goes_back_and_the_catalogue_does_not_hear_of_it() {
    let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
    some_writes(&mut world, 100);
    let new = world.add_drive();
    world.leave(0, &[new]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
    taken_over(&mut world, 0, 1);
    some_writes(&mut world, 50);
    world.flush().expect("flushed");
    let back = world.drive(0);
    world.catalogue_silent = true;
    world.leave(1, &[back]);
    for _ in 0..300_000 {
        world.step();
    }
    assert_eq!(outcome(&world), Some(MoveOutcome::Copying), "it waits for the catalogue");
    world.catalogue_silent = false;
    world.cut_power();
    world.reopen();
    world.check_all();
    assert_eq!(
        world.engine.extents_on(world::uuid(1)).len(),
        0,
        "the version that names drive 0 was durable"
    );
    // Drive 1 gets nothing any more, and was not made stale before the crash: it must be now, for it has a superblock.
    some_writes(&mut world, 50);
    world.flush().expect("flushed");
    world.kill();
    world.absent = !2;
    world.open_with(world.shape.config);
    assert_eq!(world.engine.phase(), Phase::Refused, "it lacks what was flushed");
    world.kill();
    world.absent = 0;
    world.reopen();
    world.check_all();
    taken_over(&mut world, 1, 0);
    some_writes(&mut world, 50);
    world.close();
    world.reopen();
    world.check_all();
}

/// A drive that is gone is replaced by two.
#[test]
fn a_dead_drive_is_replaced_by_two() {
    let mut world = World::new(Shape::MIRROR);
    let broken = broken(&mut world);
    for sector in (0..12_000).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    assert!(world.engine.extents_on(world::uuid(1)).len() > 2, "extents for both");
    broken.set(2);
    some_writes(&mut world, 50);
    let (a, b) = (world.add_drive(), world.add_drive());
    world.leave(1, &[a, b]);
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
    assert!(world.engine.extents_on(world::uuid(1)).is_empty());
    let views = world.engine.stats().expect("served").drives;
    assert!(views.iter().filter(|view| view.health == CopyHealth::Current).count() == 3, "{views:?}");
    world.close();
    let drives = world.drives.clone();
    world.kill();
    world.absent = 0b11;
    world.reopen();
    world.check_all();
    world.close();
    world.drives = drives;
}

/// The table of drives does not fill up with those that were left.
#[test]
fn drives_may_be_replaced_for_ever() {
    let mut world = World::new(Shape { sectors: 2048, ..Shape::MIRROR });
    some_writes(&mut world, 30);
    for round in 0..40u8 {
        let new = world.add_drive();
        let old = world.places[usize::from(round % 2)];
        world.leave(old, &[new]);
        assert_eq!(end_of_move(&mut world), MoveOutcome::Done, "round {round}");
        let added = world.drives.len() as u8 - 1;
        taken_over(&mut world, old, added);
        some_writes(&mut world, 3);
    }
    assert!(world.engine.drives().count() < 6);
    world.check_all();
}

#[test]
fn a_move_that_does_not_fit_changes_nothing() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 200);
    let new = world.add_drive();
    let refused = |world: &mut World, to: &[NewDrive]| {
        world.leave(1, to);
        world.settle();
        outcome(world)
    };
    let misfit = Some(MoveOutcome::GivenUp(MoveRefusal::Misfit));
    let small = NewDrive { blocks: base::Blocks::new(300), ..new };
    assert_eq!(refused(&mut world, &[small]), misfit);
    // The other leg's drive.
    let other = NewDrive { uuid: world::uuid(0), ..new };
    assert_eq!(refused(&mut world, &[other]), misfit);
    assert_eq!(refused(&mut world, &[new, new]), misfit);
    assert_eq!(world.engine.drives().count(), 2);
    assert_eq!(refused(&mut world, &[new]), Some(MoveOutcome::Done));
}

/// Failures of any drive, crashes, power cuts, closes, at any moment of a move: what was acknowledged stays, and in the
/// end the drive can be left.
#[test]
fn any_story_of_a_move_ends_well() {
    for seed in 0..200u64 {
        let shape = shapes()[(seed % 3) as usize];
        let mut world = World::new(Shape { sectors: 8192, ..shape });
        world.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        world.shuffle = seed % 2 == 0;
        let broken = broken(&mut world);
        some_writes(&mut world, 40);
        let mut last = shape.legs * shape.columns - 1;
        let new = last + 1;
        world.add_drive();
        for _ in 0..8 {
            let idle = outcome(&world) != Some(MoveOutcome::Copying);
            match world.random() % 8 {
                0..3 if idle && last != new => {
                    world.settle();
                    let new = world.drive(new);
                    world.leave(last, &[new]);
                    let steps = world.random() % 400;
                    for _ in 0..steps {
                        world.step();
                    }
                }
                3 => {
                    // One leg only: the one that moves, or its successor.
                    broken.set(1 << if world.one_in(2) { new } else { last });
                    some_writes(&mut world, 10);
                    broken.set(0);
                    world.settle();
                }
                4 => {
                    world.cut_power();
                    world.reopen();
                }
                5 => world.kill_and_reopen(),
                6 if world.one_in(3) => {
                    world.close();
                    world.reopen();
                }
                _ => some_writes(&mut world, 10),
            }
            if last != new && world.engine.extents_on(world::uuid(last)).is_empty() {
                // It was left, or a crash came before it was stale: then it is left now.
                while outcome(&world) != Some(MoveOutcome::Done) {
                    world.settle();
                    let to = world.drive(new);
                    world.leave(last, &[to]);
                    world.settle();
                }
                taken_over(&mut world, last, new);
                last = new;
            }
            for drive in 0..world.drives.len() as u8 {
                let stats = world.engine.stats().expect("served");
                let stale = stats
                    .drives
                    .iter()
                    .any(|view| view.uuid == world::uuid(drive) && view.health != CopyHealth::Current);
                let has_rows = !world.engine.extents_on(world::uuid(drive)).is_empty();
                if stale && has_rows {
                    world.settle();
                    world.back(drive);
                    world.settle();
                }
            }
            world.check_all();
        }
        broken.set(0);
        world.settle();
        assert_eq!(world.engine.phase(), Phase::Serving, "seed {seed}");
        let idle = |world: &World| world.engine.stats().expect("served").resync.is_none();
        for _ in 0..6 {
            for drive in world.places.clone() {
                world.settle();
                if idle(&world) {
                    world.back(drive);
                }
                world.settle();
            }
        }
        let stats = world.engine.stats().expect("served");
        for place in &world.places {
            let view = stats.drives.iter().find(|view| view.uuid == world::uuid(*place)).expect("listed");
            assert_eq!(view.health, CopyHealth::Current, "seed {seed}: {:?}", stats.drives);
        }
        assert_each_leg_is_whole(&mut world);
    }
}

/// A move that was given up is over when nothing can reach the extents that were to take over: a late write would land
/// in the group that has them next.
#[test]
fn a_move_is_not_over_while_a_write_is_on_its_way() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 50);
    let new = world.add_drive();
    let late = Rc::new(Cell::new(false));
    let seen = late.clone();
    world.verdict = Box::new(move |io| {
        let waits = io.drive == 2 && io.op == base::DriveOp::Write && seen.get();
        if waits { Verdict::Later } else { Verdict::Do }
    });
    world.leave(1, &[new]);
    world.run_until("it is copied", |world| {
        world.engine.stats().and_then(|stats| stats.moving).is_some_and(|moving| moving.copied_blocks > 0)
    });
    late.set(true);
    world.settle();
    let slot = world.begin(Op::Write, 64, 64, false);
    world.settle();
    assert!(!world.answered(slot), "its successor does not answer");
    world.engine.take_out(world::uuid(2)).expect("nobody counts on it");
    world.settle();
    assert_eq!(outcome(&world), Some(MoveOutcome::Copying));
    late.set(false);
    world.wait(slot).expect("written");
    world.settle();
    assert_eq!(outcome(&world), Some(MoveOutcome::GivenUp(MoveRefusal::DriveFailed)));
    world.check_all();
}

/// A drive that is back in the middle of a move is current before the move is over; nothing is copied twice for that.
#[test]
fn a_drive_that_is_back_goes_before_a_move() {
    let mut world = World::new(Shape { legs: 3, ..Shape::MIRROR });
    for sector in (0..12_000).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    world.engine.take_out(world::uuid(0)).expect("two others are there");
    world.settle();
    some_writes(&mut world, 50);
    let new = world.add_drive();
    world.engine.set_resync_rate(2_000);
    world.leave(2, &[new]);
    let copied = |world: &World| world.engine.stats().expect("served").moving.map_or(0, |m| m.copied_blocks);
    world.run_until("a part was copied", |world| copied(world) > 300);
    let before = copied(&world);
    world.back(0);
    let is_current = |world: &World| {
        let drives = world.engine.stats().expect("served").drives;
        drives.iter().any(|view| view.uuid == world::uuid(0) && view.health == CopyHealth::Current)
    };
    world.run_until("it is current again", is_current);
    assert_eq!(outcome(&world), Some(MoveOutcome::Copying));
    assert!(copied(&world) >= before && copied(&world) < 1_400, "{} of 1,500 blocks", copied(&world));
    world.engine.set_resync_rate(0);
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
    assert!(copied(&world) < 2_500, "{} blocks copied of some 1,500", copied(&world));
    taken_over(&mut world, 2, 3);
    some_writes(&mut world, 50);
    world.check_all();
    assert_each_leg_is_whole(&mut world);
}

/// Two drives take over. The catalogue was told that the first is current when the second failed: the old rows are
/// named again, and the first, which gets nothing from then on, must not be taken for a copy.
#[test]
fn a_successor_that_was_told_of_does_not_stay_current_without_places() {
    let mut world = World::new(Shape::MIRROR);
    let broken = broken(&mut world);
    for sector in (0..12_000).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    world.settle();
    let others = [world.add_drive(), world.add_drive()];
    let (one, two) = (2u8, 3u8);
    world.leave(1, &others);
    let known = |world: &World| {
        let entry = world.catalogue.iter().find(|entry| entry.drive == world::uuid(one));
        entry.map(|entry| entry.state)
    };
    for _ in 0..2_000_000 {
        if known(&world) == Some(fence::CopyState::Current) {
            break;
        }
        world.step();
    }
    assert_eq!(known(&world), Some(fence::CopyState::Current));
    broken.set(1 << two);
    while outcome(&world) == Some(MoveOutcome::Copying) {
        some_writes(&mut world, 3);
    }
    assert!(matches!(outcome(&world), Some(MoveOutcome::GivenUp(_))));
    assert!(world.engine.extents_on(world::uuid(one)).is_empty());
    assert_eq!(known(&world), Some(fence::CopyState::EMPTY));
    let health = world.engine.stats().expect("served").drives[usize::from(one)].health;
    assert!(!matches!(health, CopyHealth::Current), "{health:?}");
    broken.set(0);
    some_writes(&mut world, 20);
    assert_each_leg_is_whole(&mut world);
}
