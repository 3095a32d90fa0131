//! Another data key: what lies under the older one is written again, while everything goes on.
use crate::world;
use crate::world::story::{assert_each_leg_is_whole, some_writes};
use crate::world::{Shape, Verdict, World};
use base::{DriveOp, Engine, Op, Phase};
use volume::{Refusal, RekeyStats};

const ENCRYPTED: Shape = Shape { encrypted: true, ..Shape::MIRROR };

fn stats(world: &World) -> RekeyStats {
    world.engine.stats().expect("served").rekey
}

/// The group closes and opens again; its activation has the second data key.
fn with_second_key(world: &mut World) {
    world.close();
    world.data_keys = (1, 2);
    world.reopen();
}

fn rekeyed(world: &mut World) {
    assert!(world.engine.start_rekey());
    world.run_until("the walk ends", |world| !stats(world).running);
}

/// Nobody has the first key any more.
fn without_first_key(world: &mut World) {
    world.data_keys = (2, 2);
    world.reopen();
    world.check_all();
    assert_each_leg_is_whole(world);
}

fn refusal(world: &mut World, data_keys: (u16, u16)) -> Option<Refusal> {
    world.kill();
    world.data_keys = data_keys;
    world.open_with(world.shape.config);
    world.engine.refusal().cloned()
}

#[test]
fn the_older_key_can_be_given_up_behind_the_walk_and_not_before() {
    for columns in [1, 2] {
        let mut world = World::new(Shape { columns, ..ENCRYPTED });
        some_writes(&mut world, 200);
        with_second_key(&mut world);
        world.check_all();
        assert_eq!(refusal(&mut world, (2, 2)), Some(Refusal::KeyMissing { number: 1 }));
        assert_eq!(refusal(&mut world, (1, 1)), Some(Refusal::KeyMissing { number: 2 }));
        world.data_keys = (1, 2);
        world.reopen();
        rekeyed(&mut world);
        let stats = stats(&world);
        assert!(stats.finished && stats.lost_blocks == 0 && stats.rewritten_blocks > 0, "{stats:?}");
        world.kill();
        without_first_key(&mut world);
    }
}

#[test]
fn a_second_walk_finds_nothing_to_do_and_a_plain_group_neither() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 100);
    with_second_key(&mut world);
    rekeyed(&mut world);
    rekeyed(&mut world);
    assert_eq!((stats(&world).rewritten_blocks, stats(&world).finished), (0, true));
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 100);
    rekeyed(&mut world);
    assert_eq!((stats(&world).rewritten_blocks, stats(&world).finished), (0, true));
}

#[test]
fn crashes_at_any_time_and_writes_meanwhile_lose_nothing() {
    for seed in 1..24u64 {
        let mut world = World::new(Shape { columns: 1 + (seed % 2) as u8, ..ENCRYPTED });
        world.random ^= seed << 40;
        world.shuffle = seed.is_multiple_of(3);
        some_writes(&mut world, 150);
        with_second_key(&mut world);
        let mut crashes = 0;
        while !stats(&world).finished {
            assert!(world.engine.start_rekey());
            for _ in 0..world.random() % 400 {
                if world.asked() < 8 && world.one_in(4) {
                    let (at, sectors) = (world.random() % 2000, 1 + world.random() % 64);
                    let op = [Op::Write, Op::Write, Op::Discard, Op::Read][world.random() as usize % 4];
                    world.begin(op, at, sectors, false);
                }
                world.step();
                world.take_answers();
            }
            if crashes < 12 && world.one_in(2) {
                crashes += 1;
                if world.one_in(2) {
                    world.kill()
                } else {
                    world.cut_power()
                }
                world.reopen();
                world.check_all();
            } else if crashes == 12 {
                world.wait_all();
                rekeyed(&mut world);
            }
        }
        if world.one_in(2) {
            world.kill()
        } else {
            world.cut_power()
        }
        without_first_key(&mut world);
    }
}

#[test]
fn a_block_that_no_leg_has_keeps_the_older_key() {
    let mut world = World::new(Shape { legs: 1, ..ENCRYPTED });
    world.write(0, 8 * 40).expect("written");
    with_second_key(&mut world);
    let bad = std::rc::Rc::new(std::cell::Cell::new(None));
    let seen = bad.clone();
    // A block of the run goes bad when the run is read.
    world.verdict = Box::new(move |io| {
        if io.op != DriveOp::Read || seen.get().unwrap_or(io.blocks) < 32 || seen.get() == Some(u64::MAX) {
            return Verdict::Do;
        }
        let at = seen.get().unwrap_or(io.at + 3);
        seen.set(Some(at));
        if (io.at..io.at + io.blocks).contains(&at) { Verdict::Fail } else { Verdict::Do }
    });
    rekeyed(&mut world);
    let found = stats(&world);
    assert!(!found.finished && found.lost_blocks >= 1, "{found:?}");
    bad.set(Some(u64::MAX));
    rekeyed(&mut world);
    let found = stats(&world);
    assert!(found.finished && found.rewritten_blocks <= 8, "only what could not be read is left: {found:?}");
    world.kill();
    without_first_key(&mut world);
}

/// Nobody who reads or writes meanwhile is kept waiting for long, and a group that closes is not either.
#[test]
fn a_close_does_not_wait_for_the_walk() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 200);
    with_second_key(&mut world);
    world.engine.set_rekey_rate(1);
    assert!(world.engine.start_rekey());
    for _ in 0..50 {
        world.step();
    }
    some_writes(&mut world, 20);
    world.close();
    assert_eq!(world.engine.phase(), Phase::Closed);
    world.reopen();
    world.check_all();
    rekeyed(&mut world);
    assert!(stats(&world).finished);
}

/// A copy that was away while the key was given up is of no use without it, and says so.
#[test]
fn a_copy_that_was_away_needs_the_older_key() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 50);
    with_second_key(&mut world);
    world.flush().expect("flushed");
    world.engine.take_out(world::uuid(1)).expect("the other one is there");
    world.settle();
    rekeyed(&mut world);
    assert!(stats(&world).finished);
    // It is brought up to date without it.
    world.data_keys = (2, 2);
    world.kill_and_reopen();
    let before = (world.drives.clone(), world.catalogue.clone());
    world.settle();
    world.back(1);
    let done = |world: &World| world.engine.stats().expect("served").last_resync.is_some();
    world.run_until("it is up to date", done);
    assert_each_leg_is_whole(&mut world);
    // Alone it is refused, also by the operator's word.
    world.kill();
    (world.drives, world.catalogue) = before;
    (world.absent, world.forced) = (1, true);
    assert_eq!(refusal(&mut world, (2, 2)), Some(Refusal::KeyMissing { number: 1 }));
    world.data_keys = (1, 2);
    world.reopen();
}
