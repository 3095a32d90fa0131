//! Legs that come and go beside everything else: rows that are granted, drives that come back, a close, a larger volume,
//! and power that fails before anybody was told.
use crate::world;
use crate::world::story::{broken, end_of_move, outcome, some_writes};
use crate::world::{Shape, Verdict, World};
use base::{
    Change, DriveIx, DriveOp, Engine, Extent, ExtentNo, MoveGrant, Op, Phase, Reply, RowGrant, RowNo, Sectors,
};
use std::cell::Cell;
use std::rc::Rc;
use volume::layout::extent::SUPERBLOCKS;
use volume::superblock::Superblock;
use volume::{CopyHealth, Header, MoveOutcome};

fn lost_but(world: &mut World, drive: u8) {
    world.absent = !(1u32 << drive);
}

fn health(world: &World, drive: u8) -> CopyHealth {
    let stats = world.engine.stats().expect("served");
    stats.drives.iter().find(|view| view.uuid == world::uuid(drive)).expect("listed").health
}

/// A drive came back while its leg was being dropped, and its turn came when no row named it any more: it was called
/// current, and found alone it opened with what it had had.
#[test]
fn a_drive_whose_leg_was_dropped_does_not_come_back() {
    for steps in 0..40 {
        let mut world = World::new(Shape { sectors: 4096, ..Shape::MIRROR });
        some_writes(&mut world, 20);
        world.engine.take_out(world::uuid(1)).expect("the other one is there");
        world.settle();
        world.write(7, 1).expect("written");
        world.flush().expect("flushed");
        world.drop_leg();
        for _ in 0..steps {
            world.step();
        }
        world.settle();
        if world.engine.extents_on(world::uuid(1)).is_empty() {
            continue;
        }
        world.back(1);
        world.settle();
        assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
        world.settle();
        assert_ne!(health(&world, 1), CopyHealth::Current, "steps {steps}");
        world.write(9, 1).expect("written");
        world.flush().expect("flushed");
        world.cut_power();
        lost_but(&mut world, 1);
        world.open_with(world.shape.config);
        assert_eq!(world.engine.phase(), Phase::Refused, "steps {steps}");
    }
}

/// A row that does not fit, for the pool knows of a change of legs too early or too late.
fn misfit() -> RowGrant {
    let extent = base::Extent { drive: DriveIx::new(0), extent: ExtentNo::new(9) };
    RowGrant { row: RowNo::ZERO, extents: vec![extent], joining: Vec::new() }
}

/// The last requests of a group that was being closed needed a row, and nobody asked for it again.
#[test]
fn a_closing_group_asks_again_for_a_row() {
    let mut world = World::new(Shape::MIRROR);
    world.grants.push_back(misfit());
    let slots: Vec<_> = (0..24).map(|i| world.begin(Op::Write, i * 512, 512, false)).collect();
    world.settle();
    assert!(world.grants.is_empty(), "rows were asked for");
    assert!(slots.iter().any(|slot| !world.answered(*slot)), "some wait for a row");
    world.close();
    assert!(slots.iter().all(|slot| world.answered(*slot)));
}

/// The drives of a leg that was added were being told of when a row came that has their extents: it was taken for a refusal
/// of the pool, and the guest heard of no space.
#[test]
fn a_row_waits_while_the_drives_of_a_new_leg_are_told_of() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 20);
    world.settle();
    world.catalogue_silent = true;
    world.add_drive();
    world.add_leg(&[2]);
    world.settle();
    let version = world.engine.stats().expect("served").version;
    let slots: Vec<_> = (0..24).map(|i| world.begin(Op::Write, i * 512, 512, false)).collect();
    world.settle();
    assert!(slots.iter().any(|slot| !world.answered(*slot)), "some wait for a row");
    world.catalogue_silent = false;
    world.engine.reply(Reply::CurrentStored { version });
    slots.into_iter().for_each(|slot| world.wait(slot).expect("there is space"));
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
}

/// A row was refused while a move was being named, and the home pages of the move went back with it: the next row page was
/// written over one that the superblock named.
#[test]
fn a_row_that_is_refused_frees_nothing_of_a_move() {
    for steps in 0..40 {
        let mut world = World::new(Shape::MIRROR);
        for sector in (0..4_000).step_by(512) {
            world.write(sector, 512).expect("written");
        }
        world.settle();
        assert!(world.engine.stats().expect("served").rows > 1, "there are row pages");
        world.catalogue_silent = true;
        world.add_drive();
        world.add_leg(&[2]);
        world.settle();
        let version = world.engine.stats().expect("served").version;
        world.grants.push_back(misfit());
        let slots: Vec<_> = (8..24).map(|i| world.begin(Op::Write, i * 512, 512, false)).collect();
        world.settle();
        assert!(world.grants.is_empty(), "a row was asked for");
        world.catalogue_silent = false;
        world.engine.reply(Reply::CurrentStored { version });
        world.settle();
        world.leg_added();
        for _ in 0..steps {
            world.step();
        }
        drop(slots);
        world.cut_power();
        world.reopen();
        world.check_all();
    }
}

/// A drive that came back while a leg was being added got headers that called it a drive of that leg.
#[test]
fn a_drive_that_is_back_keeps_its_leg() {
    let mut world = World::new(Shape::MIRROR);
    world.engine.take_out(world::uuid(1)).expect("the other one is there");
    world.settle();
    for sector in (0..8_000).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    world.settle();
    world.add_drive();
    world.add_leg(&[2]);
    world.shuffle = true;
    for _ in 0..40 {
        world.step();
    }
    assert_eq!(outcome(&world), Some(MoveOutcome::Copying));
    world.back(1);
    assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
    world.settle();
    assert_eq!(health(&world, 1), CopyHealth::Current);
    for extent in world.engine.extents_on(world::uuid(1)) {
        let mut block = [0; base::BLOCK_BYTES];
        let start = volume::label::extent_start(extent, world.shape.extent);
        world.drives[1].read(start.get(), &mut block);
        assert_eq!(Header::decode(&block).expect("a header").leg.get(), 1, "{extent:?}");
    }
}

/// A version that drops a leg was here and there when power failed. The drives of that leg alone were found, and power
/// failed again when the catalogue had heard that the others are stale: with all of them there the group was refused.
#[test]
fn a_leg_that_was_dropped_here_and_there_may_have_the_last_word() {
    for steps in 0..60u64 {
        let mut world = World::new(Shape { sectors: 4096, ..Shape::MIRROR });
        world.random = (steps + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        world.shuffle = true;
        some_writes(&mut world, 10);
        world.drop_leg();
        for _ in 0..steps {
            world.step();
        }
        world.cut_power();
        lost_but(&mut world, 1);
        world.catalogue_silent = true;
        world.begin_open(world.shape.config);
        for _ in 0..200 {
            if world.marks.is_empty() {
                world.step();
            }
        }
        world.store_marks();
        world.cut_power();
        (world.catalogue_silent, world.absent) = (false, 0);
        world.reopen();
        world.check_all();
    }
}

/// Whether the drive's own newest superblock says that it has everything.
fn says_current(world: &World, drive: u8, home: ExtentNo) -> bool {
    let start = volume::label::extent_start(home, world.shape.extent).get();
    let slot = |slot: u32| {
        let mut block = [0; base::BLOCK_BYTES];
        world.drives[usize::from(drive)].read(start + u64::from(slot), &mut block);
        Superblock::decode(&block).ok()
    };
    let found = volume::layout::extent::SUPERBLOCKS.into_iter().filter_map(slot);
    let newest =
        found.map(|(superblock, _)| superblock).max_by_key(Superblock::newness).expect("one is valid");
    newest.drives.iter().any(|entry| entry.drive == world::uuid(drive) && entry.state.is_current())
}

/// A leg was being brought up to date when the others were lost. It was opened by force, was no copy of any moment, and the
/// drive that had everything counted for nothing when it turned up.
#[test]
fn a_mixture_of_two_times_is_not_opened_by_force() {
    let mut refused = 0;
    for steps in (0..160).step_by(4) {
        let mut world = World::new(Shape { sectors: 4096, ..Shape::MIRROR });
        let broken = broken(&mut world);
        some_writes(&mut world, 40);
        broken.set(2);
        some_writes(&mut world, 40);
        broken.set(0);
        world.settle();
        world.shuffle = true;
        world.back(1);
        for _ in 0..steps {
            world.step();
        }
        let copied = world.engine.stats().and_then(|stats| stats.resync).is_some_and(|r| r.copied_blocks > 0);
        let home = world.engine.extents_on(world::uuid(1))[0];
        world.cut_power();
        if !copied || says_current(&world, 1, home) {
            continue;
        }
        // What is known of it then is that it is stale since the same moment as before.
        world.reopen();
        world.cut_power();
        lost_but(&mut world, 1);
        world.forced = true;
        world.open_with(world.shape.config);
        assert_eq!(world.engine.phase(), Phase::Refused, "steps {steps}");
        refused += 1;
        world.kill();
        (world.forced, world.absent) = (false, 0);
        world.reopen();
        world.check_all();
    }
    assert!(refused > 0, "some were cut while blocks were copied");
}

/// A checkpoint went into the version that drops a leg: the leg, which was not stale yet and got every write, had only the
/// directory of before, whose blocks were handed out. Found alone it lacked what had been promised.
#[test]
fn a_version_that_names_other_rows_names_no_other_directory() {
    for steps in 0..30 {
        let mut world = World::new(Shape { sectors: 4096, ..Shape::MIRROR });
        some_writes(&mut world, 30);
        world.settle();
        world.catalogue_silent = true;
        world.shuffle = true;
        world.drop_leg();
        for _ in 0..steps {
            world.step();
        }
        world.engine.grow(Sectors::new(8192));
        for _ in 0..200 {
            world.step();
        }
        let told = world.engine.sectors().expect("served").get();
        world.cut_power();
        world.catalogue_silent = false;
        world.marks.clear();
        lost_but(&mut world, 1);
        world.open_with(world.shape.config);
        if world.engine.phase() == Phase::Serving {
            assert!(world.engine.sectors().expect("served").get() >= told, "steps {steps}");
            world.check_all();
        }
    }
}

/// A group with one leg that gets another: the home row is on the first drive, two rows on the second. The second one is
/// to have the home row's copy, the third those of the other rows. That one fails from the moment on at which the
/// version that names them reaches the second drive.
fn a_leg_fails_when_it_is_named(world: &mut World) {
    let second = world.add_drive();
    for row in 1..3 {
        let joining = if row == 1 { vec![second] } else { Vec::new() };
        let extents = vec![Extent { drive: DriveIx::new(1), extent: ExtentNo::new(row) }];
        world.grants.push_back(RowGrant { row: RowNo::ZERO, extents, joining });
    }
    for sector in (0..3_584).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    world.run_until("it has its rows", |w| w.engine.stats().expect("served").rows == 3);
    world.flush().expect("flushed");
    let home = ExtentNo::new(20);
    let start = volume::label::extent_start(home, world.shape.extent).get();
    let slots = SUPERBLOCKS.map(|slot| start + u64::from(slot));
    let named = Rc::new(Cell::new(false));
    let seen = named.clone();
    world.verdict = Box::new(move |io| {
        seen.set(seen.get() || io.drive == 1 && io.op == DriveOp::Write && slots.contains(&io.at));
        if io.drive == 2 && seen.get() { Verdict::Fail } else { Verdict::Do }
    });
    let to = vec![second, world.add_drive()];
    let mut extents = vec![(ExtentNo::ZERO, 0, home)];
    extents.extend([1, 2].map(|row| (ExtentNo::new(row), 1, ExtentNo::new(row))));
    world.engine.reply(Reply::Move(MoveGrant { change: Change::AddLeg, to, extents }));
    while !named.get() {
        world.step();
    }
}

/// A drive that was to take over the home row's place, and stays for other rows, had the version that said so. The old rows
/// were named again, and the drive found alone opened with that version, without what had been written since.
#[test]
fn a_successor_that_stays_says_nothing_of_rows_that_are_not_named() {
    let mut given_up = 0;
    for steps in (0..240u64).step_by(4) {
        let mut world = World::new(Shape { legs: 1, sectors: 4096, ..Shape::MIRROR });
        world.extents = 1;
        world.random = (steps + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        world.shuffle = true;
        a_leg_fails_when_it_is_named(&mut world);
        for sector in 0..16 {
            world.begin(Op::Write, sector * 64, 64, false);
        }
        for _ in 0..steps {
            world.step();
        }
        assert!(world.wait_all().iter().all(Result::is_ok));
        for sector in 0..steps % 16 {
            world.write(sector * 128, 128).expect("written");
        }
        given_up += u32::from(matches!(outcome(&world), Some(MoveOutcome::GivenUp(_))));
        world.flush().expect("flushed");
        world.cut_power();
        for alone in 0..2 {
            let (drives, catalogue) = (world.drives.clone(), world.catalogue.clone());
            lost_but(&mut world, alone);
            world.open_with(world.shape.config);
            if world.engine.phase() == Phase::Serving {
                world.check_all();
            }
            world.kill();
            (world.drives, world.catalogue, world.absent) = (drives, catalogue, 0);
        }
        world.reopen();
        world.check_all();
    }
    assert!(given_up > 10, "the old rows were named again: {given_up}");
}
