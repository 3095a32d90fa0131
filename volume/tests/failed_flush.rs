//! A flush fails, and the drive gives up what it should have covered: reads return it, later flushes succeed, and a power
//! loss takes it. Only what is written again can be durable.
use crate::world::story::{assert_each_leg_is_whole, some_writes};
use crate::world::{Shape, Verdict, World};
use base::{DriveOp, Engine, Op, Phase};
use std::cell::Cell;
use std::rc::Rc;
use volume::layout::{FIRST_EXTENT_BLOCK, extent};

const SINGLE: Shape = Shape { legs: 1, ..Shape::MIRROR };

fn shapes_of_one_leg() -> [Shape; 3] {
    [SINGLE, Shape { columns: 2, ..SINGLE }, Shape { encrypted: true, ..SINGLE }]
}

/// The flushes of these drives fail from now on.
fn flushes_fail(world: &mut World, drives: u32) {
    world.verdict = Box::new(move |io| {
        let fails = io.op == DriveOp::Flush && drives >> io.drive & 1 == 1;
        if fails { Verdict::GiveUp } else { Verdict::Do }
    });
}

fn all_is_well(world: &mut World) {
    world.verdict = Box::new(|_| Verdict::Do);
}

/// The last current copy failed a flush, and the group was opened again: all that was read was right, the flush of the
/// recovery succeeded, and so did the guest's. Then power failed, and what it had acknowledged was gone.
#[test]
fn what_the_last_copy_could_not_flush_is_durable_after_the_next_flush() {
    for (shape, killed) in shapes_of_one_leg().into_iter().flat_map(|shape| [(shape, true), (shape, false)]) {
        let mut world = World::new(shape);
        some_writes(&mut world, 50);
        world.flush().expect("flushed");
        // Of several lengths, so that commits lie in all columns.
        for first in 0..12 {
            world.write(first * 1024, 8 + first * 17).expect("written");
        }
        flushes_fail(&mut world, 0b11);
        world.flush().expect_err("the last copy");
        assert_eq!(world.engine.phase(), Phase::ReadOnly);
        all_is_well(&mut world);
        if !killed {
            world.close();
        }
        world.kill_and_reopen();
        world.flush().expect("flushed");
        world.lose_power(true);
        world.reopen();
        world.check_all();
        some_writes(&mut world, 50);
        world.check_all();
    }
}

/// Power fails again and again inside the recovery that follows, at any step: what was flushed before is there, and the
/// rest counts once a recovery has come to its end.
#[test]
fn power_may_fail_at_any_step_of_that_recovery() {
    for (shape, all) in shapes_of_one_leg().into_iter().flat_map(|shape| [(shape, true), (shape, false)]) {
        for steps in 0..60 {
            let mut world = World::new(shape);
            world.random = (steps + 1) * 0x9e37_79b9;
            some_writes(&mut world, 30);
            world.flush().expect("flushed");
            for first in 0..6 {
                world.write(first * 1024, 8 + first * 17).expect("written");
            }
            flushes_fail(&mut world, 0b11);
            world.flush().expect_err("the last copy");
            all_is_well(&mut world);
            world.kill();
            world.begin_open(shape.config);
            for _ in 0..steps {
                world.step();
            }
            world.lose_power(all);
            world.reopen();
            world.check_all();
            world.flush().expect("flushed");
            world.lose_power(true);
            world.reopen();
            world.check_all();
        }
    }
}

/// One drive of a mirror failed a flush, and the process was killed before anybody knew. The drive was opened as current,
/// with holes in what the next flush had acknowledged, and the other one died.
#[test]
fn what_one_leg_could_not_flush_is_there_when_the_other_one_dies() {
    for columns in [1, 2] {
        let mut world = World::new(Shape { columns, ..Shape::MIRROR });
        some_writes(&mut world, 50);
        world.flush().expect("flushed");
        for first in 0..12 {
            world.write(first * 1024, 8 + first * 17).expect("written");
        }
        let second_leg = ((1 << columns) - 1) << columns;
        flushes_fail(&mut world, second_leg);
        world.catalogue_silent = true;
        let flush = world.begin(base::Op::Flush, 0, 0, false);
        world.settle();
        assert!(!world.answered(flush), "nobody knows yet that the drive is stale");
        world.kill();
        (world.catalogue_silent, world.marks) = (false, Vec::new());
        all_is_well(&mut world);
        world.reopen();
        world.flush().expect("flushed");
        world.lose_power(true);
        world.reopen();
        world.check_all();
        assert_each_leg_is_whole(&mut world);
        let (drives, catalogue) = (world.drives.clone(), world.catalogue.clone());
        for leg in [0, 1] {
            world.kill();
            (world.drives, world.catalogue) = (drives.clone(), catalogue.clone());
            world.absent = ((1 << columns) - 1) << (columns * leg);
            world.reopen();
            world.check_all();
        }
    }
}

/// Two flushes are under way on the last drive, one behind this write of a superblock slot and then one that the guest asks for.
/// This one fails, and the other one succeeds. The guest's is returned.
fn two_flushes(world: &mut World, behind_write: u32, fails: u32) -> base::SlotId {
    let last = world.shape.legs - 1;
    let slots = extent::SUPERBLOCKS.map(|slot| u64::from(slot) + FIRST_EXTENT_BLOCK);
    let (behind, held, go) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (is_behind, holds, goes) = (behind.clone(), held.clone(), go.clone());
    let (mut written, mut ended) = (0, 0);
    world.verdict = Box::new(move |io| {
        written += u32::from(io.op == DriveOp::Write && io.drive == last && slots.contains(&io.at));
        is_behind.set(written >= behind_write);
        if io.op != DriveOp::Flush || io.drive != last || !is_behind.get() {
            return Verdict::Do;
        }
        holds.set(holds.get() + 1);
        if !goes.get() {
            return Verdict::Later;
        }
        ended += 1;
        if ended == fails { Verdict::GiveUp } else { Verdict::Do }
    });
    // Until a checkpoint names itself.
    for first in 0..1000 {
        let write = world.begin(Op::Write, first % 16 * 512, 64, false);
        while !behind.get() && !world.answered(write) {
            world.step();
        }
        if behind.get() {
            break;
        }
        world.wait(write).expect("written");
    }
    let flush = world.begin(Op::Flush, 0, 0, false);
    let both = (0..1000).any(|_| {
        held.set(0);
        world.step();
        held.get() == 2
    });
    assert!(both, "both are under way");
    go.set(true);
    world.settle();
    flush
}

/// Of a mirror the second flush was acknowledged, and D moved, before anybody durably knew that the drive is stale; power failed,
/// and the drive was opened as current with holes below D.
#[test]
fn a_flush_that_succeeds_behind_one_that_failed_says_nothing() {
    let mut world = World::new(Shape { sectors: 8192, ..Shape::MIRROR });
    some_writes(&mut world, 30);
    world.flush().expect("flushed");
    world.catalogue_silent = true;
    let flush = two_flushes(&mut world, 1, 1);
    assert!(!world.answered(flush), "nobody knows yet that the drive is stale");
    world.kill();
    (world.catalogue_silent, world.marks) = (false, Vec::new());
    all_is_well(&mut world);
    world.lose_power(true);
    world.reopen();
    world.check_all();
    world.flush().expect("flushed");
    assert_each_leg_is_whole(&mut world);
}

/// A version counts that was flushed on every drive that it calls current. The last of its flushes succeeded behind the guest's,
/// which failed there: it does not count, and it is never named.
#[test]
fn a_version_does_not_count_whose_flush_succeeds_behind_one_that_failed() {
    let mut world = World::new(Shape { sectors: 8192, ..Shape::MIRROR });
    some_writes(&mut world, 30);
    world.flush().expect("flushed");
    world.catalogue_silent = true;
    let counts = |world: &World| {
        let told = world.engine.unfinished();
        let (_, version) = told.split_once(", superblock ").expect("it says so");
        version.split(' ').next().and_then(|version| version.parse::<u64>().ok()).expect("a number")
    };
    let before = counts(&world);
    let flush = two_flushes(&mut world, 2, 2);
    assert!(!world.answered(flush), "nobody knows yet that the drive is stale");
    assert_eq!(counts(&world), before);
}

/// So it is on the only copy.
#[test]
fn a_flush_of_the_only_copy_that_succeeds_behind_one_that_failed_is_an_error() {
    let mut world = World::new(Shape { sectors: 8192, ..SINGLE });
    some_writes(&mut world, 30);
    world.flush().expect("flushed");
    let flush = two_flushes(&mut world, 1, 1);
    world.wait(flush).expect_err("what it should have covered may be gone");
    assert_eq!(world.engine.phase(), Phase::ReadOnly);
}

/// What was seen of a flush of the guest's that fails beside one behind the first slot of a version, which succeeds later.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    /// Flushes wait.
    Both,
    /// The guest's, which is asked for last, fails.
    Fails,
    /// The other one succeeds, and nothing waits any more.
    Succeeds,
}

/// The version that was in one slot went to the other one, too, though nobody knew the first to be flushed: a power loss could tear
/// both, and nothing of the group was found any more.
#[test]
fn a_version_stays_in_one_slot_when_a_flush_of_the_only_copy_failed() {
    let mut world = World::new(Shape { sectors: 8192, ..SINGLE });
    some_writes(&mut world, 30);
    world.flush().expect("flushed");
    let slots = extent::SUPERBLOCKS.map(|slot| u64::from(slot) + FIRST_EXTENT_BLOCK);
    let state = Rc::new(Cell::new((Beside::Both, 0_u32, 0_u32)));
    let seen = state.clone();
    world.verdict = Box::new(move |io| {
        let (mut beside, mut written, mut flushes) = seen.get();
        written += u32::from(io.op == DriveOp::Write && slots.contains(&io.at));
        let waits = io.op == DriveOp::Flush && written > 0 && beside != Beside::Succeeds;
        flushes += u32::from(waits);
        let fails = waits && beside == Beside::Fails && flushes == 2;
        if fails {
            beside = Beside::Succeeds;
        }
        seen.set((beside, written, flushes));
        match (fails, waits) {
            (true, _) => Verdict::GiveUp,
            (_, true) => Verdict::Later,
            _ => Verdict::Do,
        }
    });
    let behind = || state.get().1 > 0;
    for first in 0..1000 {
        let write = world.begin(Op::Write, first % 16 * 512, 64, false);
        while !behind() && !world.answered(write) {
            world.step();
        }
        if behind() {
            break;
        }
        world.wait(write).expect("written");
    }
    let flush = world.begin(Op::Flush, 0, 0, false);
    let both = (0..1000).any(|_| {
        state.set((Beside::Both, 1, 0));
        world.step();
        state.get().2 == 2
    });
    assert!(both, "both are under way");
    state.set((Beside::Fails, 1, 0));
    world.settle();
    world.wait(flush).expect_err("it failed");
    assert_eq!(world.engine.phase(), Phase::ReadOnly);
    let (beside, written, _) = state.get();
    assert!(beside == Beside::Succeeds && written == 1, "{written} slots");
}

/// The flush behind a superblock version failed: it is found, and so it is recovered from. What only the version before leads
/// to, as its history page, was written over before the one that was found was durable.
#[test]
fn a_version_whose_flush_failed_is_durable_before_anything_counts_on_it() {
    let mut halted = 0;
    for (shape, nth) in shapes_of_one_leg().into_iter().flat_map(|shape| [(shape, 0), (shape, 1), (shape, 2)])
    {
        for steps in 0..60 {
            let mut world = World::new(Shape { sectors: 8192, ..shape });
            world.random = (steps + 1) * 0x9e37_79b9;
            some_writes(&mut world, 30);
            world.flush().expect("flushed");
            let slots = extent::SUPERBLOCKS.map(|slot| u64::from(slot) + FIRST_EXTENT_BLOCK);
            let (mut behind, mut seen, mut failed) = (0u32, 0, 0u32);
            world.verdict = Box::new(move |io| {
                if io.op == DriveOp::Write && slots.contains(&io.at) {
                    behind |= 1 << io.drive;
                    return Verdict::Do;
                }
                if io.op != DriveOp::Flush || behind >> io.drive & 1 == 0 {
                    return Verdict::Do;
                }
                (behind, seen) = (behind & !(1 << io.drive), seen + 1);
                failed |= u32::from(seen > nth) << io.drive;
                if failed >> io.drive & 1 == 1 { Verdict::GiveUp } else { Verdict::Do }
            });
            // Until a checkpoint names itself.
            for first in 0..600 {
                if world.write(first % 16 * 512, 64).is_err() {
                    break;
                }
            }
            halted += u64::from(world.engine.phase() == Phase::ReadOnly);
            all_is_well(&mut world);
            world.kill();
            world.begin_open(shape.config);
            for _ in 0..steps {
                world.step();
            }
            world.lose_power(true);
            world.reopen();
            world.check_all();
            world.flush().expect("flushed");
            world.lose_power(true);
            world.reopen();
            world.check_all();
        }
    }
    assert!(halted > 400, "{halted}");
}

/// An open that is to write nothing writes nothing.
#[test]
fn an_open_for_reading_leaves_it_as_it_is() {
    let mut world = World::new(SINGLE);
    some_writes(&mut world, 50);
    flushes_fail(&mut world, 1);
    world.flush().expect_err("the last copy");
    all_is_well(&mut world);
    world.kill();
    world.log = Some(Vec::new());
    world.open_with(volume::Config { read_only: true, ..SINGLE.config });
    world.check_all();
    assert!(world.take_log().iter().all(|io| io.op == DriveOp::Read));
}

/// Behind a clean close there is nothing of the kind: a block for each copy, and as many flushes as ever.
#[test]
fn a_clean_close_leaves_nothing_to_write_again() {
    for legs in [1u8, 2] {
        let mut world = World::new(Shape { legs, ..Shape::MIRROR });
        some_writes(&mut world, 300);
        world.close();
        world.kill();
        world.log = Some(Vec::new());
        world.reopen();
        let log = world.take_log();
        let legs = u64::from(legs);
        let written: u64 = log.iter().filter(|io| io.op == DriveOp::Write).map(|io| io.blocks).sum();
        let flushes = log.iter().filter(|io| io.op == DriveOp::Flush).count() as u64;
        // The version that was found, a history page, both slots of the new version.
        assert_eq!((written, flushes), (4 * legs, 4 * legs));
    }
}

/// The slots that an open writes, in order.
fn slots_written(world: &mut World) -> Vec<u64> {
    world.log = Some(Vec::new());
    world.reopen();
    let slots = extent::SUPERBLOCKS.map(|slot| u64::from(slot) + FIRST_EXTENT_BLOCK);
    let log = world.take_log();
    let writes = log.iter().filter(|io| io.op == DriveOp::Write && slots.contains(&io.at));
    writes.map(|io| io.at - slots[0]).collect()
}

/// The only drive failed the write of a version and left that slot garbled. The group was opened again, wrote the version
/// that was left where it lay, and the drive failed that, too: of the whole volume nothing was found any more. A version
/// behind which another one was begun is flushed.
#[test]
fn a_version_behind_which_another_one_was_begun_is_left_alone() {
    for slot in [0, 1] {
        let mut world = World::new(SINGLE);
        some_writes(&mut world, 300);
        world.close();
        world.kill();
        world.drives[0].damage(u64::from(extent::SUPERBLOCKS[slot]) + FIRST_EXTENT_BLOCK);
        assert_eq!(slots_written(&mut world), [slot as u64, 1 - slot as u64], "the other one comes last");
        world.check_all();
    }
}

/// So it is with one that a commit names.
#[test]
fn a_version_that_a_commit_names_is_left_alone() {
    for shape in shapes_of_one_leg().into_iter().filter(|shape| shape.columns == 1) {
        let mut world = World::new(shape);
        some_writes(&mut world, 50);
        world.kill();
        assert_eq!(slots_written(&mut world).len(), 2);
        // Now both slots have the version of this activation, and no commit has come behind it.
        world.kill();
        assert_eq!(slots_written(&mut world).len(), 3);
        world.check_all();
    }
}

/// A drive that cannot say what it has was compared and copied, and the flush of what was copied failed. It came back once
/// more, all of it was read as it should be, and nothing was written: it counted with what the next power loss took.
#[test]
fn what_a_compare_finds_right_was_not_left_by_a_flush_that_failed() {
    for killed in [false, true] {
        let mut world = World::new(Shape::MIRROR);
        some_writes(&mut world, 20);
        world.close();
        world.reopen();
        let old = world.drives[1].clone();
        for sector in (0..8192).step_by(512) {
            world.write(sector, 512).expect("written");
        }
        world.close();
        world.reopen();
        world.verdict = Box::new(|io| if io.drive == 1 { Verdict::Fail } else { Verdict::Do });
        world.write(8192, 8).expect("written");
        all_is_well(&mut world);
        world.settle();
        world.drives[1] = old;
        world.back(1);
        let copied = |world: &World| {
            world.engine.stats().and_then(|stats| stats.resync).map_or(0, |resync| resync.copied_blocks)
        };
        world.run_until("a part is copied", |world| copied(world) > 512);
        let issued = world.drives[1].now();
        world.drives[1].give_up(issued);
        flushes_fail(&mut world, 0b10);
        if killed {
            world.kill();
            all_is_well(&mut world);
            world.reopen();
        } else {
            world.flush().expect("the other drive's");
            all_is_well(&mut world);
        }
        world.settle();
        world.back(1);
        world.run_until("the drive is current", |world| {
            world.engine.stats().expect("served").drives[1].health == volume::CopyHealth::Current
        });
        world.lose_power(true);
        world.reopen();
        world.kill();
        world.absent = 1;
        world.reopen();
        world.check_all();
    }
}

/// What is written again may be all that there is of something that was acknowledged: a write that fails is tried again,
/// and the group opens.
#[test]
fn a_write_of_a_recovery_that_fails_is_tried_again() {
    let mut world = World::new(SINGLE);
    some_writes(&mut world, 50);
    world.write(0, 512).expect("written");
    world.flush().expect("flushed");
    world.kill();
    // Each of them the first three times.
    let mut tried = std::collections::HashMap::new();
    world.verdict = Box::new(move |io| {
        if io.op != DriveOp::Write {
            return Verdict::Do;
        }
        let tries = tried.entry((io.at, io.blocks)).or_insert(0);
        *tries += 1;
        if *tries % 4 == 0 { Verdict::Do } else { Verdict::Fail }
    });
    world.begin_open(SINGLE.config);
    let named = |world: &World| world.engine.phase() != Phase::Recovering;
    world.run_until("recovery is over", named);
    assert_ne!(world.engine.phase(), Phase::Refused, "{:?}", world.engine.refusal());
    all_is_well(&mut world);
    world.cut_power();
    world.reopen();
    world.check_all();
}
