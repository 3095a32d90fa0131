//! Damage beyond what the legs of a group make good: it is told, and nobody waits for ever.
use crate::world;
use crate::world::story::{broken, some_writes};
use crate::world::{Shape, Verdict, World};
use base::{Engine, Op, Phase};
use volume::Refusal;

/// Of a mirror one drive was left, and the other one served alone. Then what that one has is another drive's, or nothing,
/// and none of its superblocks is its own. The table of the drive that was left calls it current, and the group was opened
/// on it as of the moment when the other one had been left.
#[test]
fn a_group_is_not_what_only_a_stale_drive_says() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 60);
    let broken = broken(&mut world);
    broken.set(0b10);
    some_writes(&mut world, 60);
    world.flush().expect("flushed");
    world.verdict = Box::new(|_| Verdict::Do);
    world.kill();
    let own = world.drives[0].clone();
    for other in [world.drives[1].clone(), Default::default()] {
        world.drives[0] = other;
        world.open_with(world.shape.config);
        let expected = Refusal::NotTheirOwn { drives: vec![world::uuid(0)] };
        assert_eq!((world.engine.phase(), world.engine.refusal()), (Phase::Refused, Some(&expected)));
        world.kill();
    }
    world.drives[0] = own;
    world.reopen();
    world.check_all();
}

/// The only bitmap of a small group is gone on both drives, and its pool is full. What had been kept for checkpoints lay in
/// that region: the checkpoint of what the log held waited for ever for its first page, and every write with it.
#[test]
fn a_write_that_waits_for_a_lost_bitmap_is_told() {
    let mut world = World::new(Shape { rows: 1, sectors: 640, ..Shape::MIRROR });
    for round in 0..3 {
        (0..10).for_each(|i| world.write(i * 64, 8 + round * 8).expect("written"));
    }
    world.close();
    world.reopen();
    (0..10).for_each(|i| world.write(i * 64, 8).expect("written"));
    world.flush().expect("flushed");
    world.kill();
    for drive in &mut world.drives {
        [257, 258].into_iter().for_each(|slot| drive.damage(slot));
    }
    world.reopen();
    for i in 0..10 {
        if world.engine.phase() != Phase::Serving {
            return;
        }
        let slot = world.begin(Op::Write, i * 64, 8, false);
        for _ in 0..50_000 {
            if world.answered(slot) {
                break;
            }
            world.step();
        }
        assert!(world.answered(slot), "{}", world.engine.unfinished());
        assert!(world.wait(slot).is_err(), "nobody knows what is free");
    }
    panic!("the group goes on taking writes");
}

/// A group of three leaves with data, and where the page of the second one lies on drive 0.
fn with_three_leaves(shape: Shape) -> (World, u64) {
    let mut world = World::new(shape);
    (0..3 * LEAF / 64).for_each(|i| world.write(i * 64, 64).expect("written"));
    world.close();
    world.reopen();
    world.log = Some(Vec::new());
    world.check_range(LEAF, LEAF + 8);
    let log = world.take_log();
    // Directory, bitmaps; then root, inner pages, leaf; then the data.
    let page = log[log.len() - 2].at;
    world.log = None;
    world.close();
    (world, page)
}

/// Sectors under one leaf.
const LEAF: u64 = 128 * 8;

/// One region for all, so that free blocks can be counted.
const ONE_REGION: Shape =
    Shape { legs: 1, extent: 1024, ring: 41, rows: 1, sectors: 4 * LEAF, ..Shape::MIRROR };

/// Free blocks once the group was closed and opened again.
fn free(world: &mut World) -> u64 {
    world.close();
    world.reopen();
    world.settle();
    world.free_blocks()
}

/// A large discard cut off leaves of the map, and the page of one of them is lost: one bad sector of the only leg, or the
/// same block on both. The group was read-only from then on, after each open again, though nothing of the guest's was lost.
#[test]
fn garbage_that_cannot_be_read_stops_nobody() {
    let mirror = Shape { legs: 2, ..ONE_REGION };
    for (shape, rotten) in [(ONE_REGION, true), (ONE_REGION, false), (mirror, true)] {
        let (mut world, page) = with_three_leaves(shape);
        let empty = free(&mut World::new(shape));
        if rotten {
            world.drives.iter_mut().for_each(|drive| drive.damage(page));
        } else {
            world.verdict = Box::new(move |io| {
                let bad = io.at <= page && page < io.at + io.blocks;
                if bad { Verdict::Fail } else { Verdict::Do }
            });
        }
        world.reopen();
        world.ask(Op::Discard, 0, shape.sectors).expect("discarded");
        // The page and what is below it stay used; everything else is free again.
        for _ in 0..2 {
            assert_eq!(empty - free(&mut world), 128 + 1, "{} legs, rotten {rotten}", shape.legs);
        }
        (0..3 * LEAF / 64).for_each(|i| world.write(i * 64, 64).expect("written"));
        world.flush().expect("flushed");
        world.kill_and_reopen();
        world.check_all();
    }
}

/// What did not answer is asked again: nothing is lost if it does then, and a sector that never answers holds nobody up.
#[test]
fn garbage_on_a_drive_that_does_not_answer_is_asked_for_again() {
    for (times, leaks) in [(1, 0), (3, 0), (u32::MAX, 128 + 1)] {
        let (mut world, page) = with_three_leaves(ONE_REGION);
        let empty = free(&mut World::new(ONE_REGION));
        world.reopen();
        let mut left = times;
        world.verdict = Box::new(move |io| {
            let slow = io.op == base::DriveOp::Read && io.at == page && left > 0;
            left -= u32::from(slow);
            if slow { Verdict::Silent } else { Verdict::Do }
        });
        world.ask(Op::Discard, 0, ONE_REGION.sectors).expect("discarded");
        world.flush().expect("flushed");
        world.write(3 * LEAF, 8).expect("written");
        world.ask(Op::Discard, 3 * LEAF, 8).expect("discarded");
        // Closing takes one checkpoint; those that follow are because of what is on the list.
        let free = free(&mut world);
        world.verdict = Box::new(|_| Verdict::Do);
        assert_eq!(empty - free, leaks, "{times} times");
        (0..3 * LEAF / 64).for_each(|i| world.write(i * 64, 64).expect("written"));
        world.check_all();
    }
}

/// A page that the map needs is needed still.
#[test]
fn a_page_of_the_map_that_cannot_be_read_ends_the_writes() {
    let (mut world, page) = with_three_leaves(ONE_REGION);
    world.drives[0].damage(page);
    world.reopen();
    world.write(LEAF, 8).expect("written");
    world.engine.close();
    world.run_until("the group is closed", |world| world.engine.phase() == Phase::Closed);
    assert_eq!(world.engine.halted(), Some(volume::Halt::MapFailed));
}
