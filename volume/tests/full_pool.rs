//! A pool without space, and many requests at once: each is answered, with what it asked for or with "no space".
use crate::world::{SMALL, Shape, World};
use base::{Fault, Op};
use volume::Config;

/// Blocks under one page of the second level of the map.
const INNER: u64 = 1 << 21;
/// Requests at once.
const DEPTH: u64 = 30;

/// A volume of 512 GiB over six rows.
fn thin() -> World {
    let config = Config { max_rows: 6, ..SMALL };
    World::new(Shape { rows: 6, sectors: 1 << 30, config, ..Shape::MIRROR })
}

/// Everything that was asked for is answered; how much of it for want of space.
fn refused(world: &mut World, what: &str) -> usize {
    let free = world.free_blocks();
    world.run_until(&format!("{what}, {free} free before"), |world| world.asked() == 0);
    let answers = world.take_answers();
    assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(Fault::NoSpace))), "{answers:?}");
    answers.iter().filter(|answer| answer.is_err()).count()
}

fn goes_on(world: &mut World) {
    let sectors = world.shape.sectors;
    world.ask(Op::Discard, 0, sectors).expect("a full group can be discarded");
    world.write(0, 8).expect("there is room again");
}

/// Writes of one block each, so many at once, below so many inner pages, until the pool is full and for a while beyond.
fn scattered(depth: u64, inner_pages: u64) {
    let mut world = thin();
    let (mut no_space, mut round) = (0, 0);
    while no_space < 200 {
        round += 1;
        for i in 0..depth {
            let inner = (i * 2 + round) % inner_pages;
            let block = inner * INNER + world.random() % INNER;
            world.begin(Op::Write, block * 8, 8, false);
        }
        no_space += refused(&mut world, &format!("round {round}"));
    }
    goes_on(&mut world);
}

/// Requests that one commit collects each looked at what was free as if they were alone. The checkpoint of all of them found
/// no blocks for its pages, everybody waited for it, and nobody was told that there is no space.
#[test]
fn writes_at_depth_are_told_of_a_full_pool() {
    scattered(DEPTH, 64);
}

#[test]
fn neighbours_at_depth_are_told_of_a_full_pool() {
    scattered(DEPTH, 1);
}

#[test]
fn one_write_after_the_other_is_told_of_a_full_pool() {
    scattered(1, 64);
}

/// The same by discards, which may use what is kept from writes: each ends between two blocks of data, so that pages are made anew
/// at both ends.
#[test]
fn discards_at_depth_leave_enough_for_a_checkpoint() {
    let mut world = thin();
    let ends = |pair: u64| {
        let first = pair % 64 * INNER + (pair / 64) * (2 << 14) + (127 << 7);
        (first, first + 255)
    };
    let mut no_space = 0;
    for pair in 0.. {
        let (first, last) = ends(pair);
        for block in [first, last] {
            match world.write(block * 8, 8) {
                Ok(()) => {}
                Err(Fault::NoSpace) => no_space += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        if no_space > 20 {
            break;
        }
    }
    world.settle();
    for pair in 0..DEPTH {
        let (first, last) = ends(pair);
        world.begin(Op::Discard, (first + 1) * 8, (last - first - 1) * 8, false);
    }
    assert_eq!(refused(&mut world, "discards at once"), 0, "what frees space is not refused");
    goes_on(&mut world);
}

/// What a served volume gets: 64 requests at once, each a block anywhere.
#[test]
fn a_served_volume_is_told_of_a_full_pool() {
    let config = Config { max_rows: 4, ..Config::SERVED };
    let (extent, ring) = (16_384, volume::Geometry::default_ring(1, 16_384));
    let shape = Shape { stripe: 16, extent, ring, sectors: 1 << 27, rows: 4, config, ..Shape::MIRROR };
    let mut world = World::new(shape);
    let (mut no_space, mut round) = (0, 0);
    while no_space < 200 {
        round += 1;
        for _ in 0..64 {
            let block = world.random() % (1 << 24);
            world.begin(Op::Write, block * 8, 8, false);
        }
        no_space += refused(&mut world, &format!("round {round}"));
    }
}
