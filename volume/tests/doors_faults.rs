//! Drives that err: what is acknowledged stays, what misses something is marked, and the group goes on.
use crate::world;
use crate::world::{DriveIo, Shape, Verdict, World};
use base::{DriveOp, Engine, ExtentNo, Fault, Op, Phase};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use volume::{CopyHealth, Halt, Refusal};

/// A switch that a verdict looks at.
fn switch() -> (Rc<Cell<bool>>, Rc<Cell<bool>>) {
    let on = Rc::new(Cell::new(false));
    (on.clone(), on)
}

fn fails_when(world: &mut World, fails: impl Fn(&DriveIo) -> bool + 'static) -> Rc<Cell<bool>> {
    let (on, seen) = switch();
    world.verdict = Box::new(move |io| if seen.get() && fails(io) { Verdict::Fail } else { Verdict::Do });
    on
}

/// A block's place in the first extent of its drive.
fn in_home(io: &DriveIo) -> Option<u64> {
    let start = volume::label::extent_start(ExtentNo::new(0), 256).get();
    io.at.checked_sub(start).filter(|block| *block < 256)
}

fn is_superblock(io: &DriveIo) -> bool {
    let slots = volume::layout::extent::SUPERBLOCKS;
    in_home(io).is_some_and(|block| slots.contains(&(block as u32)))
}

fn is_ring(io: &DriveIo) -> bool {
    let first = u64::from(volume::layout::extent::RING_FIRST);
    io.op == DriveOp::Write && in_home(io).is_some_and(|block| (first..first + 64).contains(&block))
}

fn health(world: &World, drive: usize) -> CopyHealth {
    world.engine.stats().expect("served").drives[drive].health
}

#[test]
fn a_lone_leg_that_errs_fails_the_request_and_goes_on() {
    let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
    world.write(0, 64).expect("written");
    world.settle();
    // The commit or the data of one write fails; the void behind it does not.
    let failed = Rc::new(Cell::new(0u64));
    let seen = failed.clone();
    world.verdict = Box::new(move |io| {
        let fails = seen.get() > 0 && io.op == DriveOp::Write && is_ring(io) == (seen.get() == 1);
        if fails {
            seen.set(0);
        }
        if fails { Verdict::Fail } else { Verdict::Do }
    });
    for round in 0..20 {
        world.settle();
        failed.set(1 + round % 2);
        let slot = world.begin(Op::Write, 512 * (round % 4), 64, round % 4 < 2);
        assert_eq!(world.wait(slot), Err(Fault::Io), "round {round}");
        world.write(4096 + round * 8, 8).expect("the next one is written");
        world.flush().expect("flushed");
    }
    assert_eq!(world.engine.phase(), Phase::Serving);
    world.check_all();
    world.kill_and_reopen();
    world.check_all();
}

#[test]
fn a_lone_leg_whose_log_errs_for_good_takes_no_more_writes() {
    let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
    world.write(0, 64).expect("written");
    world.settle();
    let fails = fails_when(&mut world, is_ring);
    fails.set(true);
    assert_eq!(world.write(0, 8), Err(Fault::Io));
    assert_eq!(world.engine.halted(), Some(Halt::LogFailed));
    assert_eq!(world.write(0, 8), Err(Fault::ReadOnly));
    world.ask(Op::Read, 0, 64).expect("reads are served");
    assert!(world.is_quiet(), "a group that halted keeps its thread busy");
    fails.set(false);
    world.close();
    world.reopen();
    world.check_all();
}

#[test]
fn a_failed_flush_of_the_last_copy_is_never_acknowledged() {
    let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
    world.write(0, 64).expect("written");
    world.settle();
    let fails = fails_when(&mut world, |io| io.op == DriveOp::Flush);
    fails.set(true);
    assert_eq!(world.flush(), Err(Fault::Io));
    fails.set(false);
    assert_eq!(world.engine.halted(), Some(Halt::FlushFailed));
    assert_eq!(world.engine.phase(), Phase::ReadOnly);
    assert_eq!(world.flush(), Err(Fault::ReadOnly));
    assert_eq!(world.write(0, 8), Err(Fault::ReadOnly));
    assert!(world.is_quiet(), "a group that halted keeps its thread busy");
    world.cut_power();
    world.reopen();
    world.check_all();
}

/// What was unflushed when the group halted made its deadline lie in the past for ever.
#[test]
fn a_halted_group_with_unflushed_writes_is_quiet() {
    let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
    world.settle();
    world.write(0, 64).expect("written");
    let fails = fails_when(&mut world, |io| io.op == DriveOp::Write);
    fails.set(true);
    assert_eq!(world.write(64, 8), Err(Fault::Io));
    assert_eq!(world.engine.halted(), Some(Halt::LogFailed));
    world.now += 5_000_000_000;
    assert!(world.is_quiet(), "a group that halted keeps its thread busy");
}

#[test]
fn a_leg_that_errs_is_marked_durably_before_it_is_left_behind() {
    for op in [DriveOp::Write, DriveOp::Flush] {
        let mut world = World::new(Shape::MIRROR);
        world.write(0, 512).expect("written");
        world.flush().expect("flushed");
        let fails = fails_when(&mut world, move |io| io.drive == 1 && io.op == op);
        world.catalogue_silent = true;
        fails.set(true);
        let slot = world.begin(Op::Write, 256, 64, true);
        world.settle();
        assert!(!world.answered(slot), "acknowledged before the catalogue knows");
        assert_eq!(world.marks.len(), 1);
        assert_eq!(world.marks[0].0, 2);
        world.log = Some(Vec::new());
        world.store_marks();
        world.catalogue_silent = false;
        world.wait(slot).expect("the write goes on with one leg");
        let slots = world.take_log().iter().filter(|io| io.drive == 0 && io.op == DriveOp::Flush).count();
        assert!(slots >= 2, "acknowledged before a superblock says so");
        assert!(matches!(health(&world, 1), CopyHealth::Stale(_)));
        assert!(world.engine.stats().expect("served").drives[1].stats.write_errors >= 1);
        for round in 0..200 {
            world.write(round * 16, 16).expect("one leg is enough");
        }
        world.flush().expect("flushed");
        fails.set(false);
        world.cut_power();
        world.reopen();
        assert!(matches!(health(&world, 1), CopyHealth::Stale(_)), "forgotten in the crash");
        world.check_all();
        world.kill();
        world.absent = 1;
        world.open_with(world.shape.config);
        let refusal = world.engine.refusal();
        assert!(matches!(refusal, Some(Refusal::NoCurrentCopy { .. })), "{refusal:?}");
    }
}

#[test]
fn both_legs_erring_one_after_the_other_leave_the_last() {
    let mut world = World::new(Shape::MIRROR);
    world.shuffle = true;
    let fails = fails_when(&mut world, |io| io.op == DriveOp::Write && !is_ring(io));
    for round in 0..50 {
        world.write(round * 64, 64).expect("written");
    }
    fails.set(true);
    for round in 0..8 {
        world.begin(Op::Write, 8 * 512 + round * 64, 64, false);
    }
    for result in world.wait_all() {
        assert!(matches!(result, Err(Fault::Io | Fault::ReadOnly)), "{result:?}");
    }
    fails.set(false);
    let stale = (0..2).filter(|d| matches!(health(&world, *d), CopyHealth::Stale(_))).count();
    assert!(stale <= 1, "the last copy was marked stale");
    world.kill_and_reopen();
    world.check_all();
    world.write(0, 64).expect("written");
    world.check_all();
}

/// A superblock that cannot be written anywhere halts the group; what waited for it must be answered.
#[test]
fn nothing_waits_for_ever_for_a_superblock_that_failed() {
    let mut world = World::new(Shape::MIRROR);
    world.write(0, 64).expect("written");
    world.settle();
    let fails = fails_when(&mut world, |io| io.op == DriveOp::Write && (io.drive == 1 || is_superblock(io)));
    fails.set(true);
    let slots: Vec<_> = (0..4).map(|i| world.begin(Op::Write, i * 64, 8, false)).collect();
    for slot in slots {
        let result = world.wait(slot);
        assert!(matches!(result, Err(Fault::Io | Fault::ReadOnly)), "{result:?}");
    }
    fails.set(false);
    world.close();
    world.reopen();
    world.check_all();
}

#[test]
fn a_bad_copy_is_served_from_the_other_leg_and_repaired() {
    let mut world = World::new(Shape::MIRROR);
    for i in 0..64 {
        world.write(i * 64, 64).expect("written");
    }
    world.close();
    world.reopen();
    world.settle();
    // All of one leg's data and pages outside of the home extent.
    let damaged: Vec<u64> = world.drives[0].written().filter(|at| *at > 2 * 256).collect();
    for at in damaged {
        world.drives[0].damage(at);
    }
    for _ in 0..4 {
        world.check_all();
        world.flush().expect("flushed");
    }
    let stats = world.engine.stats().expect("served").drives[0];
    assert_eq!(stats.health, CopyHealth::Current);
    assert!(stats.stats.check_errors > 0 && stats.stats.repaired_blocks > 0, "{stats:?}");
    assert_eq!(world.engine.stats().expect("served").drives[1].stats.check_errors, 0);
}

#[test]
fn a_leg_that_cannot_read_is_served_from_the_other() {
    let mut world = World::new(Shape::MIRROR);
    for i in 0..64 {
        world.write(i * 64, 64).expect("written");
    }
    let fails = fails_when(&mut world, |io| io.drive == 0 && io.op == DriveOp::Read);
    fails.set(true);
    world.check_all();
    world.write(3, 7).expect("a partial write reads from the other leg");
    world.check_all();
    world.flush().expect("flushed");
    let stats = world.engine.stats().expect("served").drives[0];
    assert!(stats.stats.read_errors > 0, "{stats:?}");
    assert_eq!(stats.health, CopyHealth::Current, "a read error is no reason to leave a leg behind");
    fails.set(false);
    world.kill_and_reopen();
    world.check_all();
}

/// A leg that is pulled out under a deep queue of large reads: every block of them is tried again on the other
/// leg, which must neither overflow the list of actions nor the table of operations.
#[test]
fn a_leg_lost_under_a_deep_queue_of_reads() {
    let config = volume::Config { slots: 128, ..world::SMALL };
    let mut world = World::new(Shape { config, sectors: 128 * 512, rows: 100, ..Shape::MIRROR });
    for i in 0..128 {
        world.write(i * 512, 512).expect("written");
    }
    let fails = fails_when(&mut world, |io| io.drive == 0 && io.op == DriveOp::Read);
    fails.set(true);
    for _ in 0..3 {
        for i in 0..128 {
            world.begin(Op::Read, i * 512, 512, false);
        }
        assert!(world.wait_all().iter().all(Result::is_ok));
    }
}

/// A drive dies at each of the steps of an open. Whatever was served after that, the drive must not come back
/// as if it had it.
#[test]
fn a_drive_that_dies_while_the_group_is_opened_is_marked_stale() {
    for step in 0..60 {
        let mut world = World::new(Shape::MIRROR);
        for i in 0..8 {
            world.write(i * 64, 64).expect("written");
        }
        world.kill();
        let left = Rc::new(Cell::new(step));
        let seen = left.clone();
        world.verdict = Box::new(move |io| {
            if io.drive != 1 {
                return Verdict::Do;
            }
            if seen.get() == 0 {
                return Verdict::Fail;
            }
            seen.set(seen.get() - 1);
            Verdict::Do
        });
        world.reopen();
        let opened_whole = left.get() > 0;
        for i in 0..8 {
            world.write(i * 64 + 32, 64).expect("written");
        }
        world.flush().expect("flushed");
        world.verdict = Box::new(|_| Verdict::Do);
        world.cut_power();
        world.reopen();
        world.check_all();
        assert!(matches!(health(&world, 1), CopyHealth::Stale(_)), "step {step}");
        world.kill();
        world.absent = 1;
        world.open_with(world.shape.config);
        let refusal = world.engine.refusal();
        assert!(matches!(refusal, Some(Refusal::NoCurrentCopy { .. })), "step {step}: {refusal:?}");
        if opened_whole {
            break;
        }
        assert!(step < 59, "an open takes more steps than were tried");
    }
}

/// Drives that err now and then, in whatever they are doing, with crashes between: nothing that was acknowledged
/// is lost as long as a current copy is left, whatever state the group is in.
#[test]
fn errors_now_and_then_lose_nothing() {
    for seed in 1..40u64 {
        let legs = 2 + (seed % 2) as u8;
        let columns = 1 + (seed / 2 % 2) as u8;
        let mut world = World::new(Shape { legs, columns, rows: 20, ..Shape::MIRROR });
        world.settle();
        world.random ^= seed << 32;
        world.shuffle = !seed.is_multiple_of(3);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let rarely = 300 + seed * 31 % 1000;
        world.verdict = Box::new(move |io| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // The first leg's drives do their duty: they are what is left in the end.
            let weak = io.drive >= columns;
            match (random >> 8) % rarely {
                0 if weak => Verdict::Fail,
                1 if weak => Verdict::DoAndFail,
                _ => Verdict::Do,
            }
        });
        for round in 0..300 {
            let (at, sectors) = (world.random() % 15_000, 1 + world.random() % 300);
            match world.random() % 8 {
                0..=3 => world.begin(Op::Write, at, sectors, round % 7 == 0),
                4 => world.begin(Op::WriteZeroes, at, sectors * 4, false),
                5 => world.begin(Op::Flush, 0, 0, false),
                _ => world.begin(Op::Read, at, sectors, false),
            };
            for _ in 0..world.random() % 8 {
                world.step();
            }
            if world.asked() > 20 {
                world.run_until("half of the requests are answered", |w| w.asked() < 10);
            }
            world.take_answers();
            if world.one_in(40) {
                if world.one_in(2) {
                    world.kill()
                } else {
                    world.cut_power()
                }
                world.reopen();
            }
        }
        world.wait_all();
        assert_eq!(world.engine.halted(), None, "seed {seed}");
        world.verdict = Box::new(|_| Verdict::Do);
        world.check_all();
        world.close();
        world.reopen();
        world.check_all();
    }
}

/// Every drive errs now and then, the last copy too: requests may fail and the group may halt, but it never
/// hangs, and what was acknowledged is there when it is opened again on drives that are well.
#[test]
fn errors_everywhere_never_hang() {
    for seed in 1..60u64 {
        let (legs, columns) = (1 + (seed % 3) as u8, 1 + (seed / 3 % 2) as u8);
        let mut world = World::new(Shape { legs, columns, rows: 20, ..Shape::MIRROR });
        world.settle();
        world.random ^= seed << 32;
        world.shuffle = !seed.is_multiple_of(4);
        let sick = Rc::new(Cell::new(true));
        let seen = sick.clone();
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        world.verdict = Box::new(move |_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            match (random >> 8) % 400 {
                0 if seen.get() => Verdict::Fail,
                1 if seen.get() => Verdict::DoAndFail,
                _ => Verdict::Do,
            }
        });
        for round in 0..400 {
            let (at, sectors) = (world.random() % 15_000, 1 + world.random() % 300);
            match world.random() % 8 {
                0..=3 => world.begin(Op::Write, at, sectors, round % 7 == 0),
                4 => world.begin(Op::WriteZeroes, at, sectors * 4, false),
                5 => world.begin(Op::Flush, 0, 0, false),
                _ => world.begin(Op::Read, at, sectors, false),
            };
            for _ in 0..world.random() % 8 {
                world.step();
            }
            if world.asked() > 20 {
                world.run_until("half of the requests are answered", |w| w.asked() < 10);
            }
            world.take_answers();
            if world.engine.halted().is_some() || world.one_in(60) {
                world.wait_all();
                if world.one_in(3) {
                    world.close();
                } else if world.one_in(2) {
                    world.kill();
                } else {
                    world.cut_power();
                }
                sick.set(false);
                world.reopen();
                world.check_all();
                sick.set(true);
            }
        }
        world.wait_all();
    }
}

/// A page of the directory that cannot be read is found after the group is served. No checkpoint can be taken
/// without it, so writes must be refused at once, not when the delta is full.
#[test]
fn a_directory_that_is_lost_while_serving_stops_writes() {
    let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
    world.write(0, 512).expect("written");
    world.close();
    let config = world.shape.config;
    world.begin_open(config);
    let fails = fails_when(&mut world, |io| io.op == DriveOp::Read);
    world.run_until("served", |w| w.engine.phase() == Phase::Serving);
    fails.set(true);
    world.settle();
    fails.set(false);
    assert_eq!(world.engine.halted(), Some(Halt::MapFailed));
    assert_eq!(world.write(0, 8), Err(Fault::ReadOnly));
    world.close();
    world.reopen();
    world.check_all();
}

/// Rows whose extents lie on drives that are not current hold nothing: such a grant is refused.
#[test]
fn a_row_without_a_current_copy_is_not_used() {
    let mut world = World::new(Shape { rows: 1, sectors: 1 << 20, legs: 3, ..Shape::MIRROR });
    world.settle();
    let fails = fails_when(&mut world, |io| io.drive > 0 && io.op == DriveOp::Write);
    fails.set(true);
    world.write(0, 8).expect("one leg is left");
    world.settle();
    fails.set(false);
    world.catalogue_silent = true;
    // The pool knows better than to do this; the engine does not rely on it.
    world.bad_row = true;
    world.extents = 2;
    world.engine.reply(base::Reply::SpaceAdded);
    world.settle();
    assert_eq!(world.engine.stats().expect("served").rows, 1, "a row without a current copy was taken");
    world.bad_row = false;
    world.extents = 4;
    world.engine.reply(base::Reply::SpaceAdded);
    world.run_until("another row is there", |w| w.engine.stats().expect("served").rows > 1);
    world.write(8, 512).expect("written");
    world.check_range(0, 1 << 13);
}

/// Commits that failed on the last copy, whether or not they reached it, and crashes right behind: what the void
/// names does not count, and what follows it does.
#[test]
fn voids_hold_over_crashes() {
    let mut voided = 0;
    for seed in 1..60u64 {
        let mut world = World::new(Shape { legs: 1, columns: 1 + (seed % 2) as u8, ..Shape::MIRROR });
        world.settle();
        world.random ^= seed << 40;
        world.shuffle = seed.is_multiple_of(3);
        for _ in 0..6 {
            let left = Rc::new(Cell::new(1 + world.random() % 3));
            let data = world.one_in(2);
            let done = world.one_in(2);
            let seen = left.clone();
            world.verdict = Box::new(move |io| {
                if seen.get() == 0 || io.op != DriveOp::Write || is_ring(io) == data || is_superblock(io) {
                    return Verdict::Do;
                }
                seen.set(seen.get() - 1);
                if done { Verdict::DoAndFail } else { Verdict::Fail }
            });
            for _ in 0..12 {
                let (at, sectors) = (world.random() % 2000, 1 + world.random() % 64);
                let fua = world.one_in(5);
                world.begin(Op::Write, at, sectors, fua);
                for _ in 0..world.random() % 3 {
                    world.step();
                }
            }
            if world.one_in(2) {
                world.wait_all();
            }
            if world.one_in(2) {
                world.kill()
            } else {
                world.cut_power()
            }
            world.verdict = Box::new(|_| Verdict::Do);
            world.reopen();
            voided += world.engine.recovery_rows().of(rlog::replay::Row::Voided);
            world.check_range(0, 2100);
            world.settle();
        }
        world.close();
        world.reopen();
        world.check_all();
    }
    assert!(voided > 20, "only {voided} voided commits were found");
}

/// A deep queue of writes to the last copy: all that may be in flight is, then all of it fails at once. Every write hears
/// of that, and the log goes on behind it.
#[test]
fn a_pipeline_full_of_commits_that_fail_is_emptied() {
    let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
    (0..28).for_each(|i| world.write(i * 8, 8).expect("written"));
    world.flush().expect("flushed");
    let (fails, seen) = switch();
    let held = RefCell::new(HashSet::new());
    // What is held back fails; what is asked for later is done.
    world.verdict = Box::new(move |io| match io.op {
        DriveOp::Write if !seen.get() && is_ring(io) => {
            held.borrow_mut().insert(io.at);
            Verdict::Later
        }
        DriveOp::Write if held.borrow_mut().remove(&io.at) => Verdict::Fail,
        _ => Verdict::Do,
    });
    let depth = 28;
    for i in 0..depth {
        world.begin(Op::Write, i * 8, 8, false);
        world.step();
    }
    fails.set(true);
    let answers = world.wait_all();
    let failed = answers.iter().filter(|answer| **answer == Err(Fault::Io)).count();
    assert!(
        failed >= 16 && answers.iter().all(|answer| matches!(answer, Ok(()) | Err(Fault::Io))),
        "{answers:?}"
    );
    world.write(0, 8).expect("written");
    world.check_all();
    world.kill_and_reopen();
    world.check_all();
}

/// Commits fail one after the other, the newest first, while the oldest is still on its way, and that one last. What voids
/// the newer ones must leave a place for what voids the oldest.
#[test]
fn commits_that_fail_one_by_one_behind_a_slow_one_are_voided() {
    let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
    (0..28).for_each(|i| world.write(i * 8, 8).expect("written"));
    world.flush().expect("flushed");
    let held = Rc::new(RefCell::new(BTreeSet::new()));
    let fails = Rc::new(Cell::new(u64::MAX));
    let open = Rc::new(Cell::new(true));
    let (holds, from, opens) = (held.clone(), fails.clone(), open.clone());
    world.verdict = Box::new(move |io| {
        if opens.get() && is_ring(io) {
            holds.borrow_mut().insert(io.at);
        }
        match holds.borrow().contains(&io.at) && is_ring(io) {
            true if io.at >= from.get() => Verdict::Fail,
            true => Verdict::Later,
            false => Verdict::Do,
        }
    });
    for i in 0..28 {
        world.begin(Op::Write, i * 8, 8, false);
        world.settle();
    }
    open.set(false);
    let places: Vec<u64> = held.borrow().iter().rev().copied().collect();
    assert_eq!(places.len(), 16, "as many as may be in flight");
    for at in places {
        fails.set(at);
        world.settle();
    }
    let answers = world.wait_all();
    assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(Fault::Io))), "{answers:?}");
    world.write(0, 8).expect("written");
    world.check_all();
    world.kill_and_reopen();
    world.check_all();
}

/// The first of three commits failed, the second is whole, the third is still on its way. Were the first one voided now,
/// by a fourth, the second would be acknowledged; and lost with the third, for nobody would reach the fourth.
#[test]
fn no_commit_is_voided_behind_one_that_is_under_way() {
    let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
    (0..4).for_each(|i| world.write(i * 8, 8).expect("written"));
    world.flush().expect("flushed");
    world.settle();
    let held = Rc::new(RefCell::new(Vec::new()));
    let (open, opens) = switch();
    open.set(true);
    let holds = held.clone();
    world.verdict = Box::new(move |io| {
        let new = is_ring(io) && opens.get() && !holds.borrow().contains(&io.at);
        if new {
            holds.borrow_mut().push(io.at);
        }
        match holds.borrow().iter().position(|at| *at == io.at && is_ring(io)) {
            Some(_) if opens.get() => Verdict::Later,
            Some(0) => Verdict::Fail,
            Some(2) => Verdict::Later,
            _ => Verdict::Do,
        }
    });
    let writes: Vec<_> = (0..3)
        .map(|i| {
            let slot = world.begin(Op::Write, i * 8, 8, false);
            world.settle();
            slot
        })
        .collect();
    assert_eq!(held.borrow().len(), 3, "a commit each");
    open.set(false);
    world.settle();
    assert!(!world.answered(writes[1]), "acknowledged behind a commit that is not there yet");
    world.begin(Op::Flush, 0, 0, false);
    world.settle();
    world.cut_power();
    world.verdict = Box::new(|_| Verdict::Do);
    world.reopen();
    world.check_all();
    world.write(0, 32).expect("written");
    world.check_all();
}
