//! What a round of writes costs, and what recovery reads.
use crate::world::{DriveIo, SMALL, Shape, Verdict, World};
use base::{DriveOp, Engine, ExtentNo, Op, Phase};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use volume::Config;
use volume::layout::extent as fixed;

const EXTENT: u32 = 4096;
const RING: u32 = 512;

fn roomy() -> Shape {
    let config = Config { slots: 64, delta_entries: 8192, cache_pages: 512, ..SMALL };
    Shape { extent: EXTENT, ring: RING, sectors: 1 << 18, rows: 16, config, ..Shape::MIRROR }
}

/// The block within the home extent.
fn in_home(at: u64) -> Option<u32> {
    let start = volume::label::extent_start(ExtentNo::new(0), EXTENT).get();
    at.checked_sub(start).filter(|block| *block < u64::from(EXTENT)).map(|block| block as u32)
}

fn in_ring(at: u64) -> bool {
    in_home(at).is_some_and(|block| (fixed::RING_FIRST..fixed::RING_FIRST + RING).contains(&block))
}

#[test]
fn a_round_of_writes_is_few_operations() {
    for (columns, sectors) in [(1, 8), (1, 64), (1, 128), (2, 8)] {
        let mut world = World::new(Shape { columns, ..roomy() });
        world.write(0, 8).expect("written");
        world.settle();
        // A checkpoint begins when the delta is half full; its pages are not what is counted here.
        for round in 1..20u64.min(4000 / (4 * sectors)) {
            world.log = Some(Vec::new());
            for i in 0..32 {
                world.begin(Op::Write, round * 8192 + i * 5 % 32 * sectors, sectors, false);
            }
            assert!(world.wait_all().iter().all(Result::is_ok));
            let log = world.take_log();
            let writes = |drive: u8, ring: bool| {
                let of =
                    |io: &&DriveIo| io.op == DriveOp::Write && io.drive == drive && in_ring(io.at) == ring;
                log.iter().filter(of).count()
            };
            for leg in 0..2 {
                let drives = leg * columns..(leg + 1) * columns;
                let (data, commits) =
                    drives.fold((0, 0), |sum, d| (sum.0 + writes(d, false), sum.1 + writes(d, true)));
                assert!(commits <= 1, "{commits} commits in round {round}");
                assert!(data <= 4 * usize::from(columns), "{data} data writes in round {round}");
            }
            world.settle();
        }
    }
}

/// Writes on a large space of which almost nothing is free, against the same writes on an empty one: where a run
/// is looked for by scanning, the first takes many times as long.
#[test]
fn free_runs_are_found_without_scanning() {
    let config = Config { slots: 64, delta_entries: 8192, cache_pages: 2048, max_rows: 16, ..SMALL };
    let shape = Shape {
        legs: 1,
        extent: 32_768,
        ring: RING,
        sectors: 1 << 24,
        rows: 16,
        volatile: false,
        config,
        ..Shape::MIRROR
    };
    let mut world = World::new(shape);
    let blocks = 16 * 32_768 * 80 / 100;
    let mut times = Vec::new();
    for fill in 0..2 {
        // Every other block of what is there is a hole afterwards: no run is longer than a few blocks.
        if fill == 1 {
            for first in (0..blocks).step_by(32 * 64) {
                for i in 0..32 {
                    world.begin(Op::Write, (first + i * 64) * 8, 512, false);
                }
                assert!(world.wait_all().iter().all(Result::is_ok));
            }
            for block in (0..blocks).step_by(2 * 32) {
                for i in 0..32 {
                    world.begin(Op::Discard, (block + 2 * i) * 8, 8, false);
                }
                assert!(world.wait_all().iter().all(Result::is_ok));
            }
        }
        world.settle();
        // The best of many: other work on this machine only ever adds time.
        let mut best = Duration::MAX;
        for round in 0..200u64 {
            let start = Instant::now();
            for i in 0..32 {
                let block = (1 << 20) + (round * 32 + i) * 2;
                world.begin(Op::Write, block * 8, 16, false);
            }
            assert!(world.wait_all().iter().all(Result::is_ok));
            best = best.min(start.elapsed());
        }
        times.push(best);
    }
    // Each write is two data writes instead of a part of one; a scan would cost a thousand times as much.
    assert!(times[1] < times[0] * 12, "empty: {:?}, full of holes: {:?}", times[0], times[1]);
}

/// What an open reads, by place, until the first request can be served.
#[derive(Default, Clone, Copy, Debug)]
struct Reads {
    superblocks: u64,
    ring: u64,
    home_pages: u64,
    other: u64,
}

fn reads_of_an_open(world: &mut World) -> Reads {
    let seen = Rc::new(RefCell::new(Reads::default()));
    let reads = seen.clone();
    world.verdict = Box::new(move |io| {
        if io.op == DriveOp::Read {
            let reads = &mut *reads.borrow_mut();
            let first = fixed::RING_FIRST;
            match in_home(io.at) {
                Some(block) if block < first => reads.superblocks += io.blocks,
                Some(block) if block < first + RING => reads.ring += io.blocks,
                Some(block) if block < first + RING + EXTENT / 16 => reads.home_pages += io.blocks,
                _ => reads.other += io.blocks,
            }
        }
        Verdict::Do
    });
    let config = world.shape.config;
    world.begin_open(config);
    world.run_until("served", |w| base::Engine::phase(&w.engine) == Phase::Serving);
    world.verdict = Box::new(|_| Verdict::Do);
    let reads = *seen.borrow();
    world.settle();
    reads
}

#[test]
fn recovery_reads_little() {
    let mut world = World::new(roomy());
    for i in 0..2000u64 {
        world.write(i * 101 % 32_000 * 8, 8).expect("written");
    }
    world.close();
    let reads = reads_of_an_open(&mut world);
    // Two slots, and the top pages of the directory: its root, the volumes and the list of cut subtrees.
    assert_eq!(reads.superblocks, 2 * 2, "{reads:?}");
    assert!(reads.ring <= 2 * u64::from(RING) && reads.home_pages <= 2 * 4, "{reads:?}");
    assert!(reads.other <= 4, "{reads:?}");

    // Ten blocks are flushed and seven are not: the seven are read on both legs.
    for i in 0..10 {
        world.write(i * 800, 8).expect("written");
    }
    world.flush().expect("flushed");
    for i in 0..7 {
        world.write(i * 1600, 8).expect("written");
    }
    world.kill();
    let reads = reads_of_an_open(&mut world);
    assert_eq!(reads.superblocks, 2 * 2, "{reads:?}");
    assert!(reads.home_pages <= 2 * 4, "{reads:?}");
    // The ring once, and the commits that count a second time.
    assert!(reads.ring <= 2 * u64::from(RING) + 2 * 17, "{reads:?}");
    assert!(reads.other <= 2 * 7 + 4, "more than the data above D is read: {reads:?}");
    world.check_range(0, 1 << 15);
}

/// The same group with sixteen times as much in it takes no more reads to open.
#[test]
fn recovery_does_not_depend_on_how_much_there_is() {
    let mut all = Vec::new();
    for writes in [100u64, 1600] {
        let mut world = World::new(Shape { sectors: 1 << 24, ..roomy() });
        for i in 0..writes {
            world.write(i * 4096, 64).expect("written");
        }
        world.close();
        world.reopen();
        for i in 0..50 {
            world.write(i * 4096, 64).expect("written");
        }
        world.flush().expect("flushed");
        world.kill();
        let reads = reads_of_an_open(&mut world);
        all.push(reads.ring + reads.other + reads.home_pages + reads.superblocks);
    }
    assert!(all[1] <= all[0] + 4, "{all:?}");
}

/// Requests that wait for each other and for the log, completed in any order.
#[test]
fn a_deep_queue_in_any_order() {
    for shape in [
        Shape::MIRROR,
        Shape { legs: 1, ..Shape::MIRROR },
        Shape { legs: 3, columns: 2, ..Shape::MIRROR },
        Shape { columns: 3, stripe: 16, ring: 48, ..Shape::MIRROR },
        Shape { volatile: false, ..Shape::MIRROR },
        Shape { columns: 2, extent: 128, ring: 42, rows: 60, ..Shape::MIRROR },
    ] {
        let mut world = World::new(shape);
        world.shuffle = true;
        world.random ^= u64::from(shape.legs) << 40 | u64::from(shape.columns) << 20;
        for round in 0..400 {
            while world.asked() < 28 {
                world.take_answers();
                let at = world.random() % (shape.sectors - 520);
                let hot = at % 700;
                let length = 1 + world.random() % 513;
                match world.random() % 16 {
                    0..=3 => world.begin(Op::Write, hot, length, false),
                    4 => world.begin(Op::Write, at, 513, false),
                    5 => world.begin(Op::Write, at / 8 * 8, 512, true),
                    6 => world.begin(Op::Write, hot, 1, true),
                    7 => world.begin(Op::Discard, hot, length, false),
                    8 => world.begin(Op::WriteZeroes, at, (shape.sectors - at).min(9000), false),
                    9 => world.begin(Op::Discard, at, 1, world.random & 1 == 0),
                    10 => world.begin(Op::Flush, 0, 0, false),
                    _ => world.begin(Op::Read, hot, length, false),
                };
            }
            for _ in 0..world.random() % 12 {
                world.step();
            }
            assert!(world.take_answers().iter().all(Result::is_ok));
            if round % 50 == 49 {
                assert!(world.wait_all().iter().all(Result::is_ok));
                world.check_all();
            }
            match round % 100 {
                30 => world.kill_and_reopen(),
                70 => {
                    world.cut_power();
                    world.reopen();
                }
                _ => {}
            }
        }
        assert!(world.wait_all().iter().all(Result::is_ok));
        world.check_all();
        assert!(world.is_quiet());
        world.close();
        world.reopen();
        world.check_all();
    }
}

/// While the catalogue or a drive is silent nothing spins, and all goes on when it answers.
#[test]
fn a_silent_drive_costs_no_polls() {
    let mut world = World::new(Shape::MIRROR);
    world.settle();
    let silent = Rc::new(Cell::new(true));
    let seen = silent.clone();
    world.verdict = Box::new(move |io| {
        let waits = io.drive == 1 && io.op == DriveOp::Flush && seen.get();
        if waits { Verdict::Later } else { Verdict::Do }
    });
    let write = world.begin(Op::Write, 0, 8, true);
    world.settle();
    world.now += 5_000_000_000;
    world.write(64, 8).expect("a write needs no flush");
    world.now += 5_000_000_000;
    assert!(world.is_quiet(), "a flush that takes long keeps the thread busy");
    assert!(!world.answered(write));
    silent.set(false);
    world.wait(write).expect("written");
    world.check_all();
}

/// The only leg has a commit that was flushed and acknowledged, and no later one that says so. The scan finds it; a moment
/// later the drive does not answer, or errs. The log is not cut: what was promised may be in it.
#[test]
fn a_commit_that_was_there_a_moment_ago_is_not_cut() {
    for verdict in [Verdict::Silent, Verdict::Fail] {
        let mut world = World::new(Shape { legs: 1, ..Shape::MIRROR });
        (0..20).for_each(|i| world.write(i * 64, 8).expect("written"));
        world.close();
        world.reopen();
        world.write(0, 8).expect("written");
        world.flush().expect("flushed");
        world.kill();
        let once = Rc::new(Cell::new(false));
        let asked = once.clone();
        world.verdict = Box::new(move |io| {
            let again = io.op == DriveOp::Read && io.blocks == 1 && (264..328).contains(&io.at);
            if again && !asked.replace(true) { verdict } else { Verdict::Do }
        });
        let config = world.shape.config;
        world.open_with(config);
        assert!(once.get(), "the commit was read again");
        if world.engine.phase() == Phase::Refused {
            world.kill();
            world.reopen();
        }
        world.check_all();
    }
}

/// A mirror loses its process while a write is under way, so that its commit may be on one drive only. The scan finds it;
/// then that drive says nothing any more. The group opens with the other one, which has all that was acknowledged.
#[test]
fn a_drive_that_dies_while_the_log_is_read_is_left() {
    let in_log = |io: &DriveIo| (264..328).contains(&io.at);
    for round in 0..12 {
        let mut world = World::new(Shape::MIRROR);
        world.random ^= round << 20;
        (0..20).for_each(|i| world.write(i * 64, 8).expect("written"));
        world.flush().expect("flushed");
        let written = Rc::new(Cell::new(false));
        let wrote = written.clone();
        world.verdict = Box::new(move |io| {
            wrote.set(wrote.get() || (io.op == DriveOp::Write && io.drive == 0 && in_log(io)));
            if io.op == DriveOp::Write && io.drive == 1 { Verdict::Later } else { Verdict::Do }
        });
        world.begin(Op::Write, 0, 8, false);
        while !written.get() {
            world.step();
        }
        world.kill();
        let died = Rc::new(Cell::new(false));
        let dies = died.clone();
        world.verdict = Box::new(move |io| {
            let again = io.op == DriveOp::Read && io.drive == 0 && io.blocks == 1 && in_log(io);
            dies.set(dies.get() || again);
            if dies.get() && io.drive == 0 { Verdict::Silent } else { Verdict::Do }
        });
        let config = world.shape.config;
        world.open_with(config);
        assert!(died.get(), "the commit was read again");
        assert_eq!(world.engine.phase(), Phase::Serving, "round {round}: {:?}", world.engine.refusal());
        world.check_all();
    }
}
