//! Drives that join a group with a row: what goes right, what goes wrong at every step, and what must not fit.
use crate::world;
use crate::world::story::outcome;
use crate::world::{DriveIo, Shape, Verdict, World};
use base::limits::MAX_DRIVES;
use base::{DriveIx, DriveOp, Engine, Extent, ExtentNo, Fault, NewDrive, Phase, Reply, RowGrant, RowNo};
use std::cell::Cell;
use std::rc::Rc;
use volume::{CopyHealth, MoveOutcome};

/// A group whose pool has two rows.
fn cramped(legs: u8) -> World {
    World::new(Shape { legs, rows: 2, sectors: 1 << 20, ..Shape::MIRROR })
}

/// Writes from block `first` on until there is no space; returns the block that was refused.
pub fn fill(world: &mut World, first: u64) -> u64 {
    let mut block = first;
    loop {
        match world.write(block * 8, 64) {
            Ok(()) => block += 8,
            Err(Fault::NoSpace) => return block,
            Err(other) => panic!("block {block}: {other:?}"),
        }
    }
}

/// A row on these drives of the table, each at this extent.
pub fn row(drives: &[u8], extent: u32, joining: &[NewDrive]) -> RowGrant {
    let extent = ExtentNo::new(extent);
    let extents = drives.iter().map(|drive| Extent { drive: DriveIx::new(*drive), extent }).collect();
    RowGrant { row: RowNo::ZERO, extents, joining: joining.to_vec() }
}

/// A row on new drives only.
fn new_row(world: &mut World) -> RowGrant {
    let known = world.engine.drives().count() as u8;
    let joining: Vec<NewDrive> = (0..world.shape.legs).map(|_| world.add_drive()).collect();
    let places: Vec<u8> = (known..known + world.shape.legs).collect();
    row(&places, 0, &joining)
}

/// Says that the pool grew and lets the engine do what it can.
fn offer(world: &mut World, grant: RowGrant) {
    world.grants.push_back(grant);
    world.engine.reply(Reply::SpaceAdded);
    world.settle();
}

fn health(world: &World, drive: usize) -> CopyHealth {
    world.engine.stats().expect("served").drives[drive].health
}

fn listed(world: &World) -> usize {
    world.engine.stats().expect("served").drives.len()
}

#[test]
fn a_full_group_goes_on_on_new_drives() {
    for legs in [1, 2] {
        let mut world = cramped(legs);
        let full = fill(&mut world, 0);
        let grant = new_row(&mut world);
        let joined: Vec<_> = grant.joining.iter().map(|drive| drive.uuid).collect();
        offer(&mut world, grant);
        assert_eq!(listed(&world), 2 * usize::from(legs));
        let more = fill(&mut world, full);
        assert!(more > full + 128, "{more} after {full}");
        world.check_range(0, more * 8);
        world.flush().expect("flushed");
        world.cut_power();
        world.reopen();
        assert_eq!(world.engine.drives().skip(usize::from(legs)).collect::<Vec<_>>(), joined);
        world.check_range(0, more * 8);
        world.close();
        world.reopen();
        world.check_range(0, more * 8);
        // The next row needs nobody new.
        let again = row(&(legs..2 * legs).collect::<Vec<_>>(), 1, &[]);
        offer(&mut world, again);
        assert!(fill(&mut world, more) > more + 128);
    }
}

/// One leg of the new row on a drive that the group has, the other on a new one.
#[test]
fn a_row_may_mix_old_and_new_drives() {
    let mut world = cramped(2);
    let full = fill(&mut world, 0);
    let new = world.add_drive();
    offer(&mut world, row(&[2, 0], 7, &[new]));
    let more = fill(&mut world, full);
    assert!(more > full + 128, "{more} after {full}");
    world.flush().expect("flushed");
    // Drive 0 holds a leg of every row, the first of one and the second of another: the two others are a copy.
    world.kill();
    world.absent = 1 << 0;
    world.reopen();
    world.check_range(0, more * 8);
    world.kill();
    world.absent = 1 << 2;
    world.open_with(world.shape.config);
    assert_eq!(world.engine.phase(), Phase::Refused, "drive 0 missed an activation");
}

#[test]
fn power_fails_at_every_step_of_joining() {
    for legs in [1, 2] {
        let mut steps = 0;
        loop {
            let mut world = cramped(legs);
            world.random ^= steps;
            let full = fill(&mut world, 0);
            let grant = new_row(&mut world);
            world.grants.push_back(grant);
            world.engine.reply(Reply::SpaceAdded);
            let done = (0..steps).any(|_| !world.step());
            world.cut_power();
            world.reopen();
            world.check_range(0, full * 8);
            let joined = listed(&world) > usize::from(legs);
            if !joined {
                // Not named: the pool hands the row out again, as it likes.
                world.grants.clear();
                let known = world.engine.drives().count() as u8;
                let mut fresh: Vec<NewDrive> = (0..legs).map(|_| world.add_drive()).collect();
                fresh.reverse();
                offer(&mut world, row(&(known..known + legs).collect::<Vec<_>>(), 3, &fresh));
            }
            let more = fill(&mut world, full);
            assert!(more > full + 128, "step {steps}: {more} after {full}, {joined}");
            world.cut_power();
            world.reopen();
            world.check_range(0, more * 8);
            if done || steps > 400 {
                assert!(joined, "it joined in the end");
                break;
            }
            steps += 1;
        }
    }
}

/// The n-th write or flush of the new drive fails: up to the version that names it nobody minds, but the row.
#[test]
fn a_drive_that_fails_while_it_joins_is_passed_over() {
    for legs in [1, 2] {
        for fails in [DriveOp::Write, DriveOp::Flush] {
            let mut world = cramped(legs);
            let full = fill(&mut world, 0);
            let grant = new_row(&mut world);
            let bad = legs;
            let met = Rc::new(Cell::new(false));
            let seen = met.clone();
            world.verdict = Box::new(move |io: &DriveIo| {
                let hit = io.drive == bad && io.op == fails && !seen.get();
                seen.set(seen.get() || hit);
                if hit { Verdict::Fail } else { Verdict::Do }
            });
            offer(&mut world, grant);
            assert!(met.get(), "{fails:?}");
            assert_eq!(world.engine.phase(), Phase::Serving, "{fails:?}: {:?}", world.engine.halted());
            assert_eq!(listed(&world), usize::from(legs));
            assert!((0..usize::from(legs)).all(|drive| health(&world, drive) == CopyHealth::Current));
            assert!(
                world.marks.is_empty() && world.catalogue.is_empty(),
                "no mark for a drive of no superblock"
            );
            world.write(full * 8, 64).expect_err("still full");
            world.check_range(0, full * 8);
            // The next grant is better.
            let good = new_row(&mut world);
            let joined: Vec<_> = good.joining.iter().map(|drive| drive.uuid).collect();
            offer(&mut world, good);
            let more = fill(&mut world, full);
            assert!(more > full + 128, "{more} after {full}");
            world.cut_power();
            world.reopen();
            assert_eq!(world.engine.drives().skip(usize::from(legs)).collect::<Vec<_>>(), joined);
            world.check_range(0, more * 8);
        }
    }
}

/// Of a new row's place the old drive fails while the new one joins: the group does not suffer from it.
#[test]
fn an_old_drive_fails_while_a_new_one_joins() {
    let mut world = cramped(2);
    let full = fill(&mut world, 0);
    let new = world.add_drive();
    world.verdict =
        Box::new(|io| if io.drive == 0 && io.op != DriveOp::Read { Verdict::Fail } else { Verdict::Do });
    offer(&mut world, row(&[2, 0], 7, &[new]));
    assert_eq!(world.engine.phase(), Phase::Serving);
    assert!(matches!(health(&world, 0), CopyHealth::Stale(_)), "{:?}", health(&world, 0));
    assert!(matches!(health(&world, 1), CopyHealth::Current));
    world.check_range(0, full * 8);
    let more = fill(&mut world, full);
    world.flush().expect("flushed");
    world.kill();
    world.verdict = Box::new(|_| Verdict::Do);
    world.reopen();
    world.check_range(0, more * 8);
}

/// It joined, and then it fails: stale, like any other drive, and the catalogue hears which one.
#[test]
fn a_drive_that_joined_goes_stale() {
    let mut world = cramped(2);
    let full = fill(&mut world, 0);
    let grant = new_row(&mut world);
    offer(&mut world, grant);
    world.write(full * 8, 64).expect("written into the new row");
    world.flush().expect("flushed");
    world.verdict =
        Box::new(|io| if io.drive == 3 && io.op == DriveOp::Write { Verdict::Fail } else { Verdict::Do });
    let more = fill(&mut world, full + 8);
    assert!(matches!(health(&world, 3), CopyHealth::Stale(_)), "{:?}", health(&world, 3));
    assert_eq!(world.catalogue.iter().map(|entry| entry.drive).collect::<Vec<_>>(), [world::uuid(3)]);
    world.verdict = Box::new(|_| Verdict::Do);
    world.cut_power();
    world.reopen();
    assert!(matches!(health(&world, 3), CopyHealth::Stale(_)));
    world.check_range(0, more * 8);
    world.kill();
    world.absent = 1 << 2;
    world.open_with(world.shape.config);
    assert_eq!(world.engine.phase(), Phase::Refused, "the only current copy of a place is missing");
}

#[test]
fn what_does_not_fit_is_not_used() {
    let mut world = cramped(2);
    let full = fill(&mut world, 0);
    let (a, b) = (world.add_drive(), world.add_drive());
    let known = NewDrive { uuid: world::uuid(1), ..a };
    let small = NewDrive { blocks: base::Blocks::new(256 + 256), ..b };
    let taken = NewDrive { handle: DriveIx::new(0), ..b };
    for (what, grant) in [
        ("a drive that is listed", row(&[2, 3], 0, &[known, b])),
        ("a drive twice", row(&[2, 3], 0, &[a, a])),
        ("a drive that the row does not use", row(&[0, 2], 9, &[a, b])),
        ("an index without a drive", row(&[2, 3], 0, &[a])),
        ("an extent beyond the end", row(&[2, 3], 1, &[a, small])),
        ("the number of another drive", row(&[2, 3], 0, &[a, taken])),
        ("too few extents", row(&[], 0, &[])),
    ] {
        offer(&mut world, grant);
        assert_eq!(listed(&world), 2, "{what}");
        assert_eq!(world.write(full * 8, 64), Err(Fault::NoSpace), "{what}");
    }
    offer(&mut world, row(&[2, 3], 0, &[a, small]));
    assert!(fill(&mut world, full) > full, "the drives themselves are fine");
}

#[test]
fn a_group_has_so_many_drives_and_no_more() {
    let mut world = cramped(1);
    let mut full = fill(&mut world, 0);
    while listed(&world) < MAX_DRIVES {
        let grant = new_row(&mut world);
        offer(&mut world, grant);
        let more = fill(&mut world, full);
        assert!(more > full, "with {} drives", listed(&world));
        full = more;
    }
    let grant = new_row(&mut world);
    offer(&mut world, grant);
    assert_eq!((listed(&world), world.write(full * 8, 64)), (MAX_DRIVES, Err(Fault::NoSpace)));
    world.added -= 1;
    world.cut_power();
    world.reopen();
    assert_eq!(listed(&world), MAX_DRIVES);
    world.check_range(0, full * 8);
}

/// Until no drive more can be listed.
fn with_a_full_table() -> (World, u64) {
    let mut world = cramped(1);
    let mut full = fill(&mut world, 0);
    while listed(&world) < MAX_DRIVES {
        let grant = new_row(&mut world);
        offer(&mut world, grant);
        full = fill(&mut world, full);
    }
    (world, full)
}

/// Every drive that ever joined kept its place in the table: when it was full a group got no row on a new drive any more,
/// for ever, though most of its drives had been left long ago.
#[test]
fn places_of_drives_that_were_left_are_used_again() {
    let (mut world, mut full) = with_a_full_table();
    for round in 0..3u8 {
        // What the drive of one row has goes to the one of another: its place is idle.
        let (left, to) = (5 + round, 20 + round);
        let from = world::uuid(left);
        let extents = world.engine.extents_on(from);
        let moved =
            extents.iter().map(|extent| (*extent, 0, ExtentNo::new(100 + u32::from(round)))).collect();
        let change = base::Change::Leave(from);
        let to = vec![world.drive(to)];
        world.engine.reply(Reply::Move(base::MoveGrant { change, to, extents: moved }));
        world.run_until("the drive is left", |world| {
            world::story::outcome(world) == Some(volume::MoveOutcome::Done)
        });
        let grant = new_row(&mut world);
        // In one round it comes to nothing at first, and the former drive has its place again.
        if round == 1 {
            let bad = world.drives.len() as u8 - 1;
            world.verdict = Box::new(move |io| {
                if io.drive == bad && io.op == DriveOp::Flush { Verdict::Fail } else { Verdict::Do }
            });
            offer(&mut world, grant.clone());
            assert_eq!(world.engine.index_of(from), Some(DriveIx::new(left)), "it is listed still");
            world.verdict = Box::new(|_| Verdict::Do);
        }
        let joins = grant.joining[0].uuid;
        offer(&mut world, grant);
        assert_eq!((listed(&world), world.engine.index_of(joins)), (MAX_DRIVES, Some(DriveIx::new(left))));
        let more = fill(&mut world, full);
        assert!(more > full + 128, "round {round}: {more} after {full}");
        full = more;
        world.check_range(0, full * 8);
    }
    world.flush().expect("flushed");
    world.cut_power();
    world.absent = 0b111 << 5;
    world.reopen();
    world.check_range(0, full * 8);
    assert!((0..MAX_DRIVES).all(|drive| health(&world, drive) == CopyHealth::Current));
}

/// A row on new drives was granted while a drive was left, and the table had no place: the process ended, and so did each
/// one that followed and was granted the same.
#[test]
fn a_row_on_a_drive_without_a_place_is_refused_while_a_drive_is_left() {
    let (mut world, full) = with_a_full_table();
    world::story::hold_superblocks(&mut world);
    let from = world::uuid(3);
    let extents = world.engine.extents_on(from).iter().map(|e| (*e, 0, ExtentNo::new(100))).collect();
    let change = base::Change::Leave(from);
    let to = vec![world.drive(20)];
    world.engine.reply(Reply::Move(base::MoveGrant { change, to, extents }));
    world.settle();
    let grant = new_row(&mut world);
    offer(&mut world, grant);
    let slot = world.begin(base::Op::Write, full * 8, 64, false);
    world.settle();
    assert_eq!(world::story::outcome(&world), Some(volume::MoveOutcome::Copying));
    assert_eq!(listed(&world), MAX_DRIVES);
    world.verdict = Box::new(|_| Verdict::Do);
    assert_eq!(world.wait(slot), Err(Fault::NoSpace));
}

/// Whether the sweep is free in the end, and all that counts is there.
fn ends_well(mut world: World, full: u64) {
    let mut more = fill(&mut world, full);
    if more == full {
        // It did not fit when it came: the pool hands out another one.
        world.grants.clear();
        let grant = new_row(&mut world);
        offer(&mut world, grant);
        more = fill(&mut world, full);
    }
    assert!(more > full + 128, "{more} after {full}");
    world.settle();
    assert!(world.engine.start_scrub(0));
    let finished = |world: &World| world.engine.stats().is_some_and(|stats| stats.scrub.finished);
    world.run_until("the scrub ends", finished);
    world.flush().expect("flushed");
    world.cut_power();
    world.reopen();
    world.check_range(0, more * 8);
}

fn move_ends(world: &mut World) {
    world.run_until("the move ends", |world| outcome(world) == Some(MoveOutcome::Done));
}

/// A drive that was left has its place for nothing until somebody means it: it is handed back, and a row is granted on new
/// drives at any moment of that. The story: between two looks at it nothing was under way there, a drive that joined took its
/// place, and the resync went on with that one.
#[test]
fn a_drive_that_comes_back_keeps_its_place_from_those_that_join() {
    for steps in 0..60 {
        let mut world = cramped(2);
        let full = fill(&mut world, 0);
        let new = world.add_drive();
        world.leave(1, &[new]);
        move_ends(&mut world);
        let grant = new_row(&mut world);
        world.back(1);
        for _ in 0..steps {
            world.step();
        }
        offer(&mut world, grant);
        ends_well(world, full);
    }
}

/// Likewise the places that a move empties: they are meant until it is known how it came out.
#[test]
fn a_move_keeps_its_places_from_those_that_join() {
    for steps in 0..150 {
        let mut world = cramped(2);
        let full = fill(&mut world, 0);
        let new = world.add_drive();
        world.leave(1, &[new]);
        for _ in 0..steps * 4 {
            world.step();
        }
        let grant = new_row(&mut world);
        offer(&mut world, grant);
        move_ends(&mut world);
        ends_well(world, full);
    }
}

/// What was told of a drive by its place in the table is never said of the one that has the place behind it.
#[test]
fn nothing_is_said_of_a_drive_that_was_true_of_the_former_one() {
    let mut world = cramped(2);
    let full = fill(&mut world, 0);
    assert!(world.engine.take_out(world::uuid(1)).is_ok());
    world.settle();
    world.back(1);
    world.run_until("it has everything", |world| health(world, 1) == CopyHealth::Current);
    let last = world.drives[1].written().max().expect("the guest's data");
    world.drives[1].damage(last);
    assert!(world.engine.start_scrub(0));
    world.run_until("the scrub ends", |world| world.engine.stats().expect("served").scrub.finished);
    let new = world.add_drive();
    world.leave(1, &[new]);
    move_ends(&mut world);
    let resynced = |world: &World| world.engine.stats().expect("served").last_resync.map(|last| last.drive);
    assert_eq!(resynced(&world), Some(DriveIx::new(1)));
    let grant = new_row(&mut world);
    let joins: Vec<_> = grant.joining.iter().map(|drive| drive.uuid).collect();
    offer(&mut world, grant);
    let places = |world: &World| joins.iter().map(|uuid| world.engine.index_of(*uuid)).collect::<Vec<_>>();
    assert!(!places(&world).contains(&Some(DriveIx::new(1))), "what was found on drive 1 was not taken yet");
    let mut findings = Vec::new();
    world.engine.take_findings(&mut findings);
    assert_eq!(findings.iter().map(|finding| finding.drive).collect::<Vec<_>>(), [DriveIx::new(1)]);
    let more = fill(&mut world, full);
    let grant = new_row(&mut world);
    let joins = grant.joining[0].uuid;
    offer(&mut world, grant);
    assert_eq!(world.engine.index_of(joins), Some(DriveIx::new(1)));
    assert_eq!(resynced(&world), None);
    world.check_range(0, more * 8);
}
