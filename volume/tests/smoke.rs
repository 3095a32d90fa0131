//! A group from its creation through writes, checkpoints and crashes, on drives that do what they are told.
use crate::world::{Shape, World};
use base::Op;

#[test]
fn a_mirror_keeps_what_is_written_over_checkpoints_and_crashes() {
    let mut world = World::new(Shape::MIRROR);
    for round in 0..3000u64 {
        let sector = world.random() % 16300;
        let sectors = 1 + world.random() % 60;
        match world.random() % 10 {
            0..=5 => world.write(sector, sectors).expect("written"),
            6 => world.ask(Op::WriteZeroes, sector, sectors).expect("zeroed"),
            7 => world.flush().expect("flushed"),
            _ => world.ask(Op::Read, sector, sectors).expect("read"),
        }
        if round % 500 == 499 {
            world.kill_and_reopen();
        }
    }
    let stats = world.engine.stats().expect("served");
    assert!(stats.checkpoint > 20, "{stats:?}");
    world.close();
    world.reopen();
    world.check_all();
}
