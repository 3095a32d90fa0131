//! Memory of the engine: bounded however much the map holds, and nothing is allocated per request after start.
//!
//! Counted is what the engine allocates while it is being called; the drives and the guest of the tests are not.
mod world;
use base::{DriveOp, Engine, Op};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use volume::Config;
use world::story::hold_superblocks;
use world::{INSIDE, Shape, Verdict, World};

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    static TRAP: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn note(bytes: i64) {
    if INSIDE.try_with(Cell::get).unwrap_or(false) {
        LIVE.set(LIVE.get() + bytes);
        PEAK.set(PEAK.get().max(LIVE.get()));
        COUNT.set(COUNT.get() + u64::from(bytes > 0));
        if bytes > 0 && TRAP.get() {
            TRAP.set(false);
            INSIDE.set(false);
            panic!("{bytes} bytes were allocated for a request");
        }
    }
}

// SAFETY: everything is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as i64));
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Blocks of the span that the next test touches: 64 GiB.
const SPAN: u64 = 1 << 24;
/// Leaf pages of the map over that span.
const LEAVES: u64 = SPAN / 128;

/// The block of leaf `i` that is touched, with `i` taken in an order that jumps about.
fn touched(i: u64) -> u64 {
    let leaf = i * 40_503 % LEAVES;
    (leaf * 128 + leaf % 128) * 8
}

#[test]
fn a_map_much_larger_than_the_cache() {
    // The map's pages alone are 512 MiB.
    let config = Config { cache_pages: 2048, loaded_regions: 64, max_rows: 4096, ..Config::SERVED };
    let shape = Shape {
        extent: 16_384,
        ring: 4096,
        sectors: SPAN * 8,
        rows: 40,
        volatile: false,
        config,
        ..Shape::MIRROR
    };
    let mut world = World::new(shape);
    for first in (0..LEAVES).step_by(32) {
        for i in first..first + 32 {
            world.begin(Op::Write, touched(i), 8, false);
        }
        assert!(world.wait_all().iter().all(Result::is_ok));
    }
    for first in (0..LEAVES).step_by(32) {
        for i in first..first + 32 {
            world.begin(Op::Read, touched(i.wrapping_mul(17) % LEAVES), 8, false);
        }
        assert!(world.wait_all().iter().all(Result::is_ok));
    }
    world.close();
    world.reopen();
    for i in (0..LEAVES).step_by(97) {
        world.ask(Op::Read, touched(i), 8).expect("read");
    }
    let heap = LIVE.get();
    let buffers = i64::from(world.engine.memory_blocks()) * 4096;
    let total = (heap + buffers) >> 20;
    assert!(total < 256, "the engine takes {total} MiB: {} MiB of heap", heap >> 20);

    world.settle();
    world.log = Some(Vec::new());
    for i in 0..1000 {
        world.write(touched(i * 131), 8).expect("written");
    }
    world.take_log();
    let before = world.engine.stats().expect("served").checkpoint;
    world.close();
    world.reopen();
    assert!(world.engine.stats().expect("served").checkpoint > before);
    let log = world.take_log();
    let written: u64 = log.iter().filter(|io| io.op == DriveOp::Write).map(|io| io.blocks).sum();
    assert!(written * 4096 <= 32 << 20, "a checkpoint after 1000 writes wrote {written} blocks");
}

/// A group that soon has all its rows: adding one may allocate.
fn full_grown(columns: u8) -> Shape {
    let rows = 8 / u32::from(columns);
    Shape { columns, rows, config: Config { max_rows: rows, ..world::SMALL }, ..Shape::MIRROR }
}

/// One round of everything that a guest can ask for.
fn round(world: &mut World, sectors: u64) {
    for _ in 0..24 {
        let at = world.random() % (sectors - 512);
        let length = 1 + world.random() % 512;
        let aligned = at / 8 * 8;
        match world.random() % 12 {
            0..=2 => world.begin(Op::Write, at, length, false),
            3 => world.begin(Op::Write, aligned, 512, false),
            4..=5 => world.begin(Op::Write, aligned, 8, false),
            6 => world.begin(Op::Write, at, 1, true),
            7 => world.begin(Op::Discard, at, length, false),
            8 => world.begin(Op::WriteZeroes, aligned / 4096 * 4096, (sectors / 4).min(8192), false),
            9 => world.begin(Op::Flush, 0, 0, false),
            _ => world.begin(Op::Read, at, length, false),
        };
    }
    assert!(world.wait_all().iter().all(Result::is_ok));
}

#[test]
fn a_request_allocates_nothing() {
    for columns in [1, 2] {
        let shape = full_grown(columns);
        let mut world = World::new(shape);
        for _ in 0..150 {
            round(&mut world, shape.sectors);
        }
        assert_eq!(world.engine.stats().expect("served").rows, shape.rows);
        world.settle();
        let before = world.engine.stats().expect("served").checkpoint;
        TRAP.set(true);
        for _ in 0..300 {
            round(&mut world, shape.sectors);
        }
        TRAP.set(false);
        let checkpoints = world.engine.stats().expect("served").checkpoint - before;
        assert!(COUNT.get() > 0, "the start allocates: the counter does not count");
        assert!(checkpoints >= 5, "only {checkpoints} checkpoints were seen");
        world.check_all();
    }
}

/// Recovery may allocate; what it found must not make the group allocate later.
#[test]
fn nor_after_a_recovery() {
    let shape = full_grown(1);
    let mut world = World::new(shape);
    for _ in 0..150 {
        round(&mut world, shape.sectors);
    }
    assert_eq!(world.engine.stats().expect("served").rows, shape.rows);
    for _ in 0..4 {
        world.cut_power();
        world.reopen();
        world.settle();
        TRAP.set(true);
        for _ in 0..60 {
            round(&mut world, shape.sectors);
        }
        TRAP.set(false);
    }
    world.check_all();
}

/// Writes one block at a time, each twice, until no more is taken. How many were.
fn write_until_held(world: &mut World, blocks: u64, at_once: u64) -> u64 {
    let mut taken = 0;
    for first in (0..).step_by(at_once as usize) {
        for _ in 0..2 {
            for block in first..first + at_once {
                world.begin(Op::Write, block % blocks * 8, 8, false);
            }
            world.settle();
            taken += world.take_answers().len() as u64;
            if world.asked() > 0 {
                return taken;
            }
        }
    }
    unreachable!("it is held some time")
}

/// Both layers of the delta are full when the process dies, and again each time before the first checkpoint ends. The log
/// went into one layer then that was made as large as it took, and larger at each crash.
#[test]
fn the_longest_log_takes_the_memory_of_an_empty_one() {
    let config = Config { delta_entries: 2048, max_rows: 8, ..world::SMALL };
    let shape = Shape { extent: 16_384, ring: 8192, sectors: 1 << 17, rows: 8, config, ..Shape::MIRROR };
    let mut world = World::new(shape);
    world.settle();
    world.close();
    world.reopen();
    let empty = LIVE.get();
    for crash in 0..4 {
        hold_superblocks(&mut world);
        let taken = write_until_held(&mut world, 8192, 32);
        assert!(crash > 0 || taken > 2 * 2048, "only {taken} writes were taken");
        world.kill();
        world.verdict = Box::new(|_| Verdict::Do);
        world.reopen();
        let grown = LIVE.get() - empty;
        assert!(grown < 1 << 20, "{grown} bytes more than for an empty log, after {} crashes", crash + 1);
    }
    let before = world.engine.stats().expect("served").checkpoint;
    world.settle();
    assert!(world.engine.stats().expect("served").checkpoint > before, "the first layer is not merged");
    world.check_written();
    world.close();
    world.reopen();
    world.check_written();
}

/// 262,144 records above the checkpoint and more, of one block each: what a served volume's two layers can hold. The engine
/// died of that at each start.
#[test]
fn a_log_of_more_records_than_one_layer_can_hold_is_replayed() {
    const BLOCKS: u64 = 1 << 19;
    let config = Config { slots: 128, max_rows: 20, ..Config::SERVED };
    let shape = Shape {
        legs: 1,
        extent: 32_768,
        ring: 16_384,
        sectors: BLOCKS * 8,
        rows: 20,
        volatile: false,
        config,
        ..Shape::MIRROR
    };
    let mut world = World::new(shape);
    // The space is there before superblocks are held back: a row needs one.
    for first in (0..BLOCKS).step_by(64) {
        world.begin(Op::Write, first * 8, 512, false);
        if first % 4096 == 0 {
            assert!(world.wait_all().iter().all(Result::is_ok));
        }
    }
    assert!(world.wait_all().iter().all(Result::is_ok));
    world.ask(Op::Discard, 0, BLOCKS * 8).expect("all of it");
    world.settle();
    world.close();
    world.reopen();
    world.settle();
    hold_superblocks(&mut world);
    let taken = write_until_held(&mut world, BLOCKS / 2, 128);
    assert!(taken > 262_144, "only {taken} writes were taken");
    world.kill();
    world.verdict = Box::new(|_| Verdict::Do);
    world.reopen();
    world.check_written();
}

/// A flush takes its time while the guest writes: it is held before more lies above D than two flushes' worth, and a recovery
/// that has to compare all that has a part of it in memory at a time.
#[test]
fn what_is_not_flushed_is_bounded_and_so_is_what_recovery_keeps_of_it() {
    const MIB: u64 = 1 << 20;
    let config = Config { delta_entries: 49_152, max_rows: 4, ..world::SMALL };
    let shape = Shape { extent: 32_768, ring: 8192, sectors: 49_152 * 8, rows: 4, config, ..Shape::MIRROR };
    let mut world = World::new(shape);
    world.write(0, 8).expect("written");
    world.flush().expect("flushed");
    world.settle();
    world.verdict = Box::new(|io| if io.op == DriveOp::Flush { Verdict::Later } else { Verdict::Do });
    let mut written = 0;
    for first in (0..).step_by(64) {
        assert!(first < 49_152, "{} MiB were taken without a flush", written / MIB);
        world.begin(Op::Write, first * 8, 512, false);
        world.settle();
        written += world.take_answers().len() as u64 * 64 * 4096;
        if world.asked() > 0 {
            break;
        }
    }
    assert!((120 * MIB..=128 * MIB).contains(&written), "{} MiB were taken", written / MIB);
    assert!(world.is_quiet(), "a write that waits for a flush keeps the thread busy");
    let (drives, model) = (world.drives.clone(), world.model.clone());
    world.verdict = Box::new(|_| Verdict::Do);
    world.wait_all();
    world.write(0, 8).expect("written after the flush");

    // Power fails before the flush has ended. What lies above D is read on both legs.
    world.kill();
    world.drives = drives;
    world.forget_to(model);
    let read_only = Config { read_only: true, ..config };
    world.open_with(read_only);
    world.log = Some(Vec::new());
    PEAK.set(LIVE.get());
    world.kill();
    world.open_with(read_only);
    let log = world.take_log();
    let read: u64 = log.iter().filter(|io| io.op == DriveOp::Read).map(|io| io.blocks * 4096).sum();
    assert!(read > 2 * written, "{} MiB were read", read / MIB);
    let peak = (PEAK.get() - LIVE.get()) / MIB as i64;
    assert!(peak < 64, "recovery had {peak} MiB more than the group that it led to");

    // One leg lacks all of it: it gets it from the other, a part at a time, and has everything then.
    world.kill();
    world.drives[1].cut(|| 0);
    world.reopen();
    let peak = (PEAK.get() - LIVE.get()) / MIB as i64;
    assert!(peak < 128 + 64, "recovery had {peak} MiB more than the group that it led to");
    let log = world.take_log();
    let wrote = log.iter().filter(|io| io.drive == 1 && io.op == DriveOp::Write);
    assert!(wrote.map(|io| io.blocks * 4096).sum::<u64>() >= written, "the leg does not get what it lacks");
    world.settle();
    world.close();
    world.kill();
    world.absent = 1;
    world.reopen();
    world.check_range(0, written / 512);
}
