//! Drives that come back: they get what they missed while the group goes on, and are as good as the others then.
use crate::world;
use crate::world::story::{assert_each_leg_is_whole, broken, some_writes, some_writes_below};
use crate::world::{Shape, Verdict, World};
use base::{DriveOp, Engine, Phase};
use std::cell::Cell;
use std::rc::Rc;
use volume::{CopyHealth, ResyncStats};

fn health(world: &World, drive: u8) -> CopyHealth {
    world.engine.stats().expect("served").drives[usize::from(drive)].health
}

fn is_current(world: &World, drive: u8) -> bool {
    health(world, drive) == CopyHealth::Current
}

/// Waits for the end of a resync: what it has done.
fn until_current(world: &mut World, drive: u8) -> ResyncStats {
    world.run_until("the drive is current", |world| is_current(world, drive));
    let last = world.engine.stats().expect("served").last_resync.expect("it was resynced");
    assert_eq!(last.drive, base::DriveIx::new(drive));
    last
}

fn shapes() -> [Shape; 3] {
    [Shape::MIRROR, Shape { legs: 3, ..Shape::MIRROR }, Shape { columns: 2, ..Shape::MIRROR }]
}

#[test]
fn a_drive_that_missed_writes_gets_them_while_others_are_served() {
    for shape in shapes() {
        let mut world = World::new(shape);
        let broken = broken(&mut world);
        some_writes(&mut world, 200);
        world.flush().expect("flushed");
        broken.set(2);
        some_writes(&mut world, 300);
        assert!(matches!(health(&world, 1), CopyHealth::Stale(_)));
        broken.set(0);
        world.settle();
        world.back(1);
        let mut rounds = 0;
        while !is_current(&world, 1) {
            some_writes(&mut world, 1);
            rounds += 1;
            assert!(rounds < 5000, "{:?}", world.engine.stats().expect("served").resync);
        }
        some_writes(&mut world, 50);
        assert_each_leg_is_whole(&mut world);
    }
}

/// What is copied is what was missed, with the pages above it.
#[test]
fn little_is_copied_of_much() {
    let mut world = World::new(Shape { rows: 60, sectors: 8 * 4096, ..Shape::MIRROR });
    for first in 0..512 {
        world.write(first * 64, 64).expect("written");
    }
    world.flush().expect("flushed");
    world.close();
    world.reopen();
    let broken = broken(&mut world);
    broken.set(2);
    world.write(64, 8).expect("written");
    world.write(64 * 300, 8).expect("written");
    broken.set(0);
    world.settle();
    world.back(1);
    let copied = until_current(&mut world, 1).copied_blocks;
    assert!((2..120).contains(&copied), "{copied} blocks copied");
    assert_each_leg_is_whole(&mut world);
}

/// Failing again, crashes of process and power, closes: at any moment of a resync.
#[test]
fn any_story_of_failures_and_crashes_ends_well() {
    for seed in 0..120u64 {
        let shape = shapes()[(seed % 3) as usize];
        let mut world = World::new(shape);
        world.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        world.shuffle = seed % 2 == 0;
        let broken = broken(&mut world);
        some_writes(&mut world, 40);
        for _ in 0..12 {
            match world.random() % 8 {
                0 | 1 => {
                    broken.set(2);
                    some_writes(&mut world, 20);
                }
                2 | 3 if !is_current(&world, 1) => {
                    broken.set(0);
                    world.settle();
                    world.back(1);
                    let pace = world.random() % 60;
                    some_writes(&mut world, pace);
                }
                4 => {
                    broken.set(0);
                    world.cut_power();
                    world.reopen();
                }
                5 => {
                    broken.set(0);
                    world.kill_and_reopen();
                }
                6 => {
                    broken.set(0);
                    world.close();
                    world.reopen();
                }
                _ => some_writes(&mut world, 30),
            }
            world.check_all();
        }
        broken.set(0);
        world.settle();
        while !is_current(&world, 1) {
            world.settle();
            if world.engine.stats().expect("served").resync.is_none() {
                world.back(1);
            }
            some_writes(&mut world, 5);
        }
        assert_eq!(world.engine.phase(), Phase::Serving, "seed {seed}");
        assert_each_leg_is_whole(&mut world);
    }
}

/// A drive that was set back is handed back while a superblock version is under way, which says of it what was known before
/// it was asked. It got that version's second slot and no flush later power failed: what it showed then was a superblock of its
/// own, as new as the others', by which it had everything up to its mark. It got what was written since, and counted.
#[test]
fn a_version_that_says_too_much_of_a_drive_is_not_written_there() {
    let mut midway = 0;
    for (before, after) in (0..14).flat_map(|before| (0..16).map(move |after| (before, after))) {
        let mut world = World::new(Shape { legs: 3, ..Shape::MIRROR });
        some_writes(&mut world, 20);
        world.close();
        world.reopen();
        let old = world.drives[1].clone();
        some_writes(&mut world, 50);
        world.flush().expect("flushed");
        assert!(world.engine.take_out(world::uuid(1)).is_ok());
        world.settle();
        world.drives[1] = old;
        // What calls this one stale is the version.
        assert!(world.engine.take_out(world::uuid(2)).is_ok());
        for _ in 0..before {
            world.step();
        }
        let stale = matches!(health(&world, 2), CopyHealth::Stale(_));
        world.back(1);
        for _ in 0..after {
            world.step();
        }
        midway += u32::from(!stale && matches!(health(&world, 1), CopyHealth::Resyncing(_)));
        world.lose_power(true);
        world.reopen();
        for drive in [1, 2] {
            world.settle();
            world.back(drive);
            world.run_until("the drive is current", |world| is_current(world, drive));
        }
        assert_each_leg_is_whole(&mut world);
    }
    assert!(midway > 0, "no version was under way");
}

/// A drive that was set back to an older state cannot be believed. What it has all the same is not written again.
#[test]
fn a_drive_that_was_rolled_back_is_compared() {
    let mut world = World::new(Shape::MIRROR);
    let broken = broken(&mut world);
    for sector in (4096..8192).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    some_writes_below(&mut world, 50, 4096);
    world.close();
    world.reopen();
    let old = world.drives[1].clone();
    some_writes_below(&mut world, 300, 4096);
    world.close();
    world.reopen();
    broken.set(2);
    some_writes_below(&mut world, 5, 4096);
    broken.set(0);
    world.settle();
    world.drives[1] = old;
    world.back(1);
    let done = until_current(&mut world, 1);
    // What was written before lies where it lay; of the rest some may have come to lie on its old place.
    assert!(done.kept_blocks >= 512 && done.copied_blocks < 1200, "{done:?}");
    assert_each_leg_is_whole(&mut world);
}

/// The process dies in the middle of a compare. By then the drive shows superblocks that are as new as can be, but it is
/// no more what it should be than before; and what was copied is right, but nobody knows whether a flush of it failed
/// (`failed_flush.rs`). So all of it is copied.
#[test]
fn a_drive_whose_compare_was_cut_short_is_copied_whole() {
    for units in [1, 3, 6, 10] {
        let mut world = World::new(Shape::MIRROR);
        let broken = broken(&mut world);
        some_writes(&mut world, 20);
        world.close();
        world.reopen();
        let old = world.drives[1].clone();
        for sector in (0..8192).step_by(512) {
            world.write(sector, 512).expect("written");
        }
        world.close();
        world.reopen();
        broken.set(2);
        world.write(8192, 8).expect("written");
        broken.set(0);
        world.settle();
        world.drives[1] = old;
        world.back(1);
        let copied = |world: &World| {
            world.engine.stats().and_then(|stats| stats.resync).map_or(0, |resync| resync.copied_blocks)
        };
        world.run_until("a part is copied", |world| copied(world) > units * 64);
        world.kill_and_reopen();
        assert!(!is_current(&world, 1));
        world.settle();
        world.back(1);
        let done = until_current(&mut world, 1);
        assert!(done.kept_blocks == 0 && done.copied_blocks > 1000, "{done:?}");
        assert_each_leg_is_whole(&mut world);
    }
}

/// A drive failed a flush and went. It came back with superblocks that cannot be read, and shows out of its cache what it
/// could not flush: right today, and nobody knows about tomorrow. What is newer than its last good flush is written
/// again.
#[test]
fn what_a_flush_did_not_cover_is_not_compared() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 20);
    world.close();
    world.reopen();
    world.flush().expect("flushed");
    // Not so much that a checkpoint is due, which flushes.
    for sector in (0..1536).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    world.verdict =
        Box::new(|io| if io.drive == 1 && io.op == DriveOp::Flush { Verdict::Fail } else { Verdict::Do });
    world.flush().expect("the other drive's");
    assert!(!is_current(&world, 1));
    world.verdict = Box::new(|_| Verdict::Do);
    world.settle();
    for slot in [3, 4] {
        world.drives[1].damage(u64::from(world.shape.extent) + slot);
    }
    world.back(1);
    let done = until_current(&mut world, 1);
    assert!(done.copied_blocks >= 192, "{done:?}");
    assert_each_leg_is_whole(&mut world);
}

/// A drive that holds later rows only has no superblock to show and no ring, so all that it has is compared; what it
/// missed is copied.
#[test]
fn a_drive_without_superblocks_is_compared() {
    let mut world = World::new(Shape { rows: 2, sectors: 1 << 20, ..Shape::MIRROR });
    let broken = broken(&mut world);
    let mut sector = 0;
    while world.write(sector, 64).is_ok() {
        sector += 64;
    }
    let joining = vec![world.add_drive(), world.add_drive()];
    let extent = |drive| base::Extent { drive: base::DriveIx::new(drive), extent: base::ExtentNo::new(0) };
    let extents = vec![extent(2), extent(3)];
    world.grants.push_back(base::RowGrant { row: base::RowNo::ZERO, extents, joining });
    world.engine.reply(base::Reply::SpaceAdded);
    world.settle();
    for _ in 0..20 {
        world.write(sector, 64).expect("mostly on the new row");
        sector += 64;
    }
    world.close();
    world.reopen();
    broken.set(8);
    // Until it was missed: the allocator goes on somewhere.
    while is_current(&world, 3) {
        world.write(sector, 64).expect("written");
        sector += 64;
    }
    broken.set(0);
    world.settle();
    world.back(3);
    let done = until_current(&mut world, 3);
    assert!(done.kept_blocks >= 80 && (1..60).contains(&done.copied_blocks), "{done:?}");
    world.close();
    world.absent = 1 << 1 | 1 << 2;
    world.reopen();
    world.check_range(0, sector);
}

/// A drive was set back to a moment after the checkpoint that its mark speaks of, and before the flush that it speaks
/// of. It shows the superblock that it had when it went, so nothing seemed wrong, and what had been flushed in between
/// was not copied: the group had one copy of it and counted two.
#[test]
fn a_drive_set_back_behind_its_last_checkpoint_gets_what_was_flushed_since() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 50);
    world.close();
    world.reopen();
    world.flush().expect("flushed");
    let broken = broken(&mut world);
    let old = world.drives[1].clone();
    for first in 0..5 {
        world.write(first * 64, 8).expect("written");
    }
    world.flush().expect("flushed");
    broken.set(2);
    world.write(640, 8).expect("written");
    broken.set(0);
    world.settle();
    world.drives[1] = old;
    world.back(1);
    world.run_until("the drive is current", |world| is_current(world, 1));
    assert_each_leg_is_whole(&mut world);
}

/// The other drive's content came back under this one's label: its superblocks are the group's, and as new as can be, but
/// say that they lie on the other drive.
#[test]
fn a_drive_with_anothers_content_is_copied_whole() {
    let shape = Shape { columns: 2, ..Shape::MIRROR };
    let mut world = World::new(shape);
    some_writes(&mut world, 100);
    world.flush().expect("flushed");
    let broken = broken(&mut world);
    broken.set(2);
    some_writes(&mut world, 5);
    broken.set(0);
    world.settle();
    world.drives[1] = world.drives[0].clone();
    world.back(1);
    world.run_until("the drive is current", |world| is_current(world, 1));
    assert_each_leg_is_whole(&mut world);
}

/// Nothing waits for a drive that is resynced, and nobody reads from it before it is current.
#[test]
fn a_drive_is_not_read_before_it_is_current() {
    let mut world = World::new(Shape::MIRROR);
    let broken = broken(&mut world);
    some_writes(&mut world, 100);
    broken.set(2);
    some_writes(&mut world, 100);
    broken.set(0);
    world.settle();
    world.log = Some(Vec::new());
    world.back(1);
    while !is_current(&world, 1) {
        some_writes(&mut world, 1);
        let reads = world.take_log().into_iter().filter(|io| io.drive == 1 && io.op == DriveOp::Read);
        // Header, superblock slots and ring of its extent of the home row: what it says of itself.
        let home = u64::from(world.shape.extent);
        let of_itself = |io: &world::DriveIo| {
            let (first, end) = (io.at - home, io.at - home + io.blocks);
            matches!((first, end), (0, 1) | (3, 4) | (4, 5))
                || (8 <= first && end <= 8 + u64::from(world.shape.ring))
        };
        let others: Vec<_> = reads.filter(|io| !of_itself(io)).collect();
        assert!(others.is_empty(), "read from a drive that lacks something: {others:?}");
        world.log = Some(Vec::new());
    }
}

/// The copy that has everything is lost, and its mate misses writes: it opens by the operator's word only, which is
/// needed once. When the lost copy turns up again nothing on it counts, also where both have the same Seqs.
#[test]
fn a_stale_copy_alone_serves_by_the_operators_word() {
    for shape in [Shape::MIRROR, Shape { columns: 2, ..Shape::MIRROR }] {
        let mut world = World::new(shape);
        let broken = broken(&mut world);
        let (columns, all) = (shape.columns, (1u32 << shape.columns) - 1);
        some_writes(&mut world, 100);
        world.write(0, 512).expect("written");
        world.flush().expect("flushed");
        broken.set(all << columns);
        world.write(0, 512).expect("written");
        world.flush().expect("flushed");
        world.settle();
        broken.set(0);
        assert!(!is_current(&world, columns));
        world.kill();
        world.absent = all;
        world.open_with(shape.config);
        assert_eq!(world.engine.phase(), Phase::Refused);
        world.forced = true;
        world.reopen();
        world.forced = false;
        // What was given up is written anew: from here on the model is right again.
        world.write(0, 512).expect("written");
        some_writes(&mut world, 50);
        world.flush().expect("flushed");
        world.check_all();
        world.kill_and_reopen();
        world.check_all();
        some_writes(&mut world, 50);
        world.flush().expect("flushed");
        world.kill();
        world.absent = 0;
        world.reopen();
        for drive in 0..columns {
            assert!(!is_current(&world, drive));
            world.settle();
            world.back(drive);
            world.run_until("the drive is current", |world| is_current(world, drive));
        }
        assert_each_leg_is_whole(&mut world);
    }
}

/// A sector of the leg that is read from is bad: of the blocks that are read with it only that one is lost.
#[test]
fn a_bad_sector_costs_one_block() {
    let mut world = World::new(Shape::MIRROR);
    let broken = broken(&mut world);
    some_writes(&mut world, 50);
    broken.set(2);
    let first = 1024;
    for sector in (first..first + 1024).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    world.flush().expect("flushed");
    world.close();
    world.reopen();
    // The middle of what lies side by side on the only current leg.
    world.log = Some(Vec::new());
    world.check_range(first, first + 512);
    let log = world.take_log();
    let longest = log.iter().max_by_key(|io| io.blocks).expect("reads");
    let bad = longest.at + longest.blocks / 2;
    assert!(longest.drive == 0 && longest.blocks > 8, "{longest:?}");
    world.verdict = Box::new(move |io| {
        let hit = io.drive == 0 && io.op == DriveOp::Read && (io.at..io.at + io.blocks).contains(&bad);
        if hit { Verdict::Fail } else { Verdict::Do }
    });
    world.back(1);
    let lost = Rc::new(Cell::new(0));
    let seen = lost.clone();
    world.run_until("the drive is current", |world| {
        let now = world.engine.stats().and_then(|stats| stats.resync).map_or(0, |resync| resync.lost_blocks);
        seen.set(seen.get().max(now));
        is_current(world, 1)
    });
    assert_eq!(lost.get(), 1);
}

/// A drive that came back got commits before it said that it lacks something. When the others were lost then and it was
/// opened by force, the commits that lay over its log cut off what had been flushed on it.
#[test]
fn a_drive_that_is_back_says_first_that_it_lacks_something() {
    for steps in 0..16 {
        let mut world = World::new(Shape::MIRROR);
        let broken = broken(&mut world);
        some_writes(&mut world, 50);
        broken.set(2);
        some_writes(&mut world, 50);
        broken.set(0);
        world.settle();
        let home = world.engine.extents_on(world::uuid(1))[0];
        let start = volume::label::extent_start(home, world.shape.extent).get();
        world.log = Some(Vec::new());
        world.shuffle = true;
        world.back(1);
        for _ in 0..steps {
            world.step();
        }
        let slots: Vec<_> = (0..8).map(|i| world.begin(base::Op::Write, i * 1024, 8, false)).collect();
        slots.into_iter().for_each(|slot| world.wait(slot).expect("written"));
        world.run_until("the drive is current", |world| is_current(world, 1));
        let slots = volume::layout::extent::SUPERBLOCKS.map(|slot| start + u64::from(slot));
        let log = world.take_log();
        let mut written = log.iter().filter(|io| io.drive == 1 && io.op == DriveOp::Write);
        let before = written.position(|io| !slots.contains(&io.at)).expect("it got the rest too");
        assert!(before >= 2, "{before} superblocks were written before anything else");
    }
}
