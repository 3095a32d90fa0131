//! Memory of the engine: bounded however much the map holds, and nothing is allocated per request after start.
//!
//! Counted is what the engine allocates while it is being called; the drives and the guest of the tests are not.
mod world;
use base::{DriveOp, Engine, Op};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use volume::Config;
use world::{INSIDE, Shape, World};

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static TRAP: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn note(bytes: i64) {
    if INSIDE.try_with(Cell::get).unwrap_or(false) {
        LIVE.set(LIVE.get() + bytes);
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
