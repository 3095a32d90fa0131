//! How fast a scrub reads: all copies together not faster than its bound, whatever it looks at; time is the test's own.
use crate::world::story::some_writes;
use crate::world::{SMALL, Shape, World};
use base::DriveOp;
use volume::ScrubStats;

/// Copies in a second.
const RATE: u64 = 2_000;
const SECOND: u64 = 1_000_000_000;
/// What a unit reads of one leg at most, and the map pages that it needs to find that.
const UNIT: u64 = 136 + 4;

fn stats(world: &World) -> ScrubStats {
    world.engine.stats().expect("served").scrub
}

/// Blocks that the drives have read since this was asked last.
fn read(world: &mut World) -> u64 {
    let done = world.take_log().into_iter().filter(|io| io.op == DriveOp::Read);
    done.map(|io| io.blocks).sum()
}

/// However short the time that is looked at, not more is read in it than the bound and one unit: of data and pages, and
/// of the log, whose commits are small and lie far apart.
#[test]
fn the_bound_of_the_rate_holds_over_all_legs_and_over_the_log() {
    for legs in [2, 3] {
        let config = volume::Config { cache_pages: 512, ..SMALL };
        let mut world = World::new(Shape { legs, ring: 128, config, ..Shape::MIRROR });
        some_writes(&mut world, 300);
        assert!(world.engine.start_scrub(0));
        world.run_until("everything is below a checkpoint", |w| stats(w).finished);
        world.engine.set_scrub_rate(RATE);
        assert!(world.engine.start_scrub(0));
        while stats(&world).walked_blocks == 0 {
            world.step();
        }
        // One commit each: they are in the log when the walk comes to it.
        for n in 0..40 {
            world.write(n * 64, 8).expect("written");
        }
        world.log = Some(Vec::new());
        let (begin, mut all) = (world.now, 0);
        let mut seen = vec![(begin, 0)];
        while !stats(&world).finished {
            world.step();
            all += read(&mut world);
            if all > seen.last().expect("the first").1 {
                seen.push((world.now, all));
            }
        }
        for (i, (since, before)) in seen.iter().enumerate() {
            for (now, after) in &seen[i..] {
                let bound = (now - since) * RATE / SECOND + UNIT * u64::from(legs);
                assert!(after - before <= bound, "{} blocks within {} ns", after - before, now - since);
            }
        }
        let took = world.now - begin;
        assert!(all > 3 * UNIT * u64::from(legs), "{all} blocks");
        // It uses what it may: nobody else wants the drives.
        assert!(took < 2 * all * SECOND / RATE, "{all} blocks in {took} ns");
    }
}
