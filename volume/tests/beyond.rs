//! Damage beyond what the legs of a group make good: it is told, and nobody waits for ever.
mod world;
use base::{Engine, Op, Phase};
use volume::Refusal;
use world::story::{broken, some_writes};
use world::{Shape, Verdict, World};

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
