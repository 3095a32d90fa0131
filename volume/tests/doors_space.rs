//! Space: full pools, room made by discards, overwriting without end, exact counts, growth.
use crate::world::{SMALL, Shape, World};
use base::{Engine, Fault, Op, Phase, Reply, Sectors};

/// A group of a few fixed rows, as large a volume as one likes.
fn fixed(rows: u32, sectors: u64) -> Shape {
    let config = volume::Config { max_rows: rows, ..SMALL };
    Shape { rows, sectors, config, ..Shape::MIRROR }
}

/// Fills the volume from block `first` on until there is no space; returns the block that was refused.
fn fill(world: &mut World, first: u64, each: u64) -> u64 {
    let mut block = first;
    loop {
        match world.write(block * 8, each * 8) {
            Ok(()) => block += each,
            Err(Fault::NoSpace) => return block,
            Err(other) => panic!("block {block}: {other:?}"),
        }
    }
}

/// Free blocks as an open of the closed group finds them; the count must not have changed by that.
fn free_after_reopen(world: &mut World) -> u64 {
    // A row that is on its way is in use with the next open only.
    world.settle();
    world.close();
    let before = world.free_blocks();
    world.reopen();
    world.settle();
    let stats = world.engine.stats().expect("served");
    assert_eq!(stats.limbo_blocks, 0);
    assert_eq!(stats.free_blocks, before, "the count of free blocks changed by a close and an open");
    stats.free_blocks
}

#[test]
fn a_full_group_refuses_writes_and_keeps_what_it_has() {
    for each in [1, 7, 64] {
        let mut world = World::new(fixed(4, 1 << 20));
        let full = fill(&mut world, 0, each);
        assert!(full >= 4 * 256 / 2, "full after {full} blocks of 1024");
        for _ in 0..3 {
            assert_eq!(world.write(full * 8, each * 8), Err(Fault::NoSpace));
        }
        world.check_range(0, full * 8);
        world.kill_and_reopen();
        world.check_range(0, full * 8);
        assert_eq!(world.write(full * 8, each * 8), Err(Fault::NoSpace));
        world.ask(Op::Discard, 0, full * 4 / 8 * 8).expect("a discard on a full group");
        let room = fill(&mut world, full, each) - full;
        assert!(room + 2 * each + 48 >= full / 2, "a discard of {} blocks made room for {room}", full / 2);
        world.cut_power();
        world.reopen();
        world.check_range(0, (full + room) * 8);
    }
}

#[test]
fn space_that_is_added_is_used() {
    let mut world = World::new(Shape { rows: 4, sectors: 1 << 20, ..Shape::MIRROR });
    let full = fill(&mut world, 0, 16);
    world.extents = 8;
    // Nobody said so yet: the pool is asked again only after a while.
    assert_eq!(world.write(full * 8, 128), Err(Fault::NoSpace));
    world.engine.reply(Reply::SpaceAdded);
    world.write(full * 8, 128).expect("written into a new row");
    world.check_range(0, full * 8 + 128);
    world.extents = 12;
    let more = fill(&mut world, full + 16, 16);
    assert!(more > full + 3 * 256, "{more} after {full}");
    world.extents = 16;
    world.now += 11_000_000_000;
    world.step();
    world.write(more * 8, 128).expect("the pool was asked again after a while");
    world.kill_and_reopen();
    world.check_range(0, more * 8 + 128);
}

#[test]
fn many_requests_meet_a_full_group_at_once() {
    let mut world = World::new(Shape { columns: 2, ..fixed(3, 1 << 20) });
    world.shuffle = true;
    let (mut block, mut refused) = (0, 0);
    while refused < 100 {
        for _ in 0..16 {
            let blocks = 1 + world.random() % 32;
            world.begin(Op::Write, block * 8, blocks * 8, false);
            block += blocks;
        }
        for result in world.wait_all() {
            match result {
                Ok(()) => {}
                Err(Fault::NoSpace) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    world.check_range(0, block * 8);
    world.kill_and_reopen();
    world.check_range(0, block * 8);
}

#[test]
fn overwriting_without_end_at_95_percent() {
    for (columns, each) in [(1, 1), (1, 13), (2, 64)] {
        let mut world = World::new(Shape { columns, ..fixed(8, 1 << 20) });
        let capacity = fill(&mut world, 0, 64);
        world.ask(Op::Discard, 0, 1 << 20).expect("all of it");
        let empty = free_after_reopen(&mut world);
        let blocks = capacity * 95 / 100;
        for block in (0..blocks).step_by(32) {
            world.write(block * 8, (blocks - block).min(32) * 8).expect("the first time");
        }
        let mut written = 0;
        while written < 10 * capacity {
            for _ in 0..8 {
                let block = world.random() % (blocks - each);
                world.begin(Op::Write, block * 8, each * 8, false);
                written += each;
            }
            assert!(world.wait_all().iter().all(Result::is_ok), "after {written} blocks, {each} at a time");
        }
        world.check_range(0, blocks * 8);
        let free = free_after_reopen(&mut world);
        let leaves = blocks.div_ceil(128);
        // Five levels; the directory takes as much as it did when all was empty, but for a page or two.
        let pages = leaves + leaves.div_ceil(128) + 3;
        let missing = empty as i64 - free as i64 - (blocks + pages) as i64;
        assert!((-2..=2).contains(&missing), "{missing} blocks are missing of {empty}, {free} are free");
        world.ask(Op::Discard, 0, 1 << 20).expect("all of it");
        assert_eq!(free_after_reopen(&mut world), empty, "space leaks");
    }
}

/// Free space after the same content was reached in two ways is the same: nothing leaks over crashes.
#[test]
fn crashes_leak_nothing() {
    let mut world = World::new(fixed(8, 8192));
    let mut plain = World::new(fixed(8, 8192));
    plain.ask(Op::Write, 0, 512).expect("written");
    plain.ask(Op::Discard, 0, 8192).expect("all of it");
    // A header and two bitmaps for each row.
    let used = |world: &mut World| {
        let free = free_after_reopen(world);
        let stats = world.engine.stats().expect("served");
        stats.space_blocks - free - 3 * u64::from(stats.rows)
    };
    let empty = used(&mut plain);
    for crash in 0..40 {
        for _ in 0..30 {
            let (at, sectors) = (world.random() % 7600, 1 + world.random() % 512);
            let op = if world.one_in(4) { Op::WriteZeroes } else { Op::Write };
            world.begin(op, at, sectors, false);
            if world.one_in(3) {
                assert!(world.wait_all().iter().all(Result::is_ok));
            }
            if world.asked() > 20 {
                break;
            }
        }
        for _ in 0..world.random() % 20 {
            world.step();
        }
        if crash % 2 == 0 {
            world.kill()
        } else {
            world.cut_power()
        }
        world.reopen();
        world.check_all();
    }
    world.ask(Op::Discard, 0, 8192).expect("all of it");
    assert_eq!(used(&mut world), empty, "space leaks");
}

/// Discards of what is a hole already must not use up what a full group needs to be discarded in earnest.
#[test]
fn a_full_group_can_always_be_discarded() {
    for hole in [1, 8, 20, 200] {
        let mut world = World::new(fixed(4, 1 << 22));
        let full = fill(&mut world, 0, 8);
        for i in 0..600 {
            let block = 4096 + i * 761;
            match world.ask(Op::Discard, block * 8, hole * 8) {
                Ok(()) | Err(Fault::NoSpace) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        world.ask(Op::Discard, 0, full * 8).expect("the data can be discarded");
        world.write(0, 512).expect("and there is room again");
        world.check_range(0, full * 8);
    }
}

#[test]
fn a_volume_grows() {
    let mut world = World::new(Shape::MIRROR);
    world.write(16384 - 8, 8).expect("at the end");
    assert_eq!(world.write(16384 - 8, 16), Err(Fault::Invalid));
    assert!(!world.engine.grow(Sectors::new(16376)), "a volume shrank");
    assert!(world.engine.grow(Sectors::new(20000)));
    world.write(20000 - 16, 16).expect("in the new part, as soon as its size is durable");
    assert_eq!(world.engine.sectors(), Some(Sectors::new(20000)));
    assert_eq!(world.write(20000 - 8, 16), Err(Fault::Invalid));
    world.ask(Op::Read, 16384, 512).expect("what is new is zero");
    world.cut_power();
    world.reopen();
    assert_eq!(world.engine.sectors(), Some(Sectors::new(20000)));
    world.ask(Op::Read, 20000 - 16, 16).expect("read");
    assert!(!world.engine.grow(Sectors::new(u64::MAX)), "beyond the map");
    world.close();
    world.reopen();
    assert_eq!(world.engine.sectors(), Some(Sectors::new(20000)));
}

#[test]
fn closing_leaves_nothing_to_recover_and_reading_only_writes_nothing() {
    let mut world = World::new(Shape::MIRROR);
    for i in 0..50 {
        world.write(i * 77, 99).expect("written");
    }
    for _ in 0..3 {
        for i in 0..20 {
            world.begin(Op::Write, i * 500, 100, i % 2 == 0);
        }
        world.close();
        assert!(world.take_answers().iter().all(Result::is_ok), "a close waits for its requests");
        world.reopen();
        world.check_all();
    }
    world.kill();
    world.log = Some(Vec::new());
    world.open_with(volume::Config { read_only: true, ..world.shape.config });
    assert_eq!(world.engine.phase(), Phase::Serving, "{:?}", world.engine.refusal());
    world.check_all();
    assert_eq!(world.write(0, 8), Err(Fault::ReadOnly));
    world.flush().expect("nothing to flush");
    assert!(world.is_quiet());
    world.close();
    assert!(world.take_log().iter().all(|io| io.op == base::DriveOp::Read), "something was written");
    world.reopen();
    world.check_all();
}

/// The story: power failed before the first checkpoint was through, again and again. Each life had no directory to read, took the
/// group for one without any space, and was given a row before it had the regions of those that the superblock named; the
/// one for which there was no room in memory ended the process, and so did each open from then on.
#[test]
fn a_group_without_a_directory_asks_for_no_row_before_it_is_served() {
    for steps in 1..60 {
        let mut world = World::closed(Shape { rows: 12, sectors: 8 * 16, ..Shape::MIRROR });
        for _life in 0..8 {
            for _ in 0..steps {
                let (granted, phase) = (world.next_extent, world.engine.phase());
                world.step();
                assert!(granted == world.next_extent || phase != Phase::Recovering, "after {steps} steps");
            }
            world.kill();
            let config = world.shape.config;
            world.begin_open(config);
        }
        world.run_until("the group is served", |world| world.engine.phase() == Phase::Serving);
    }
}
