//! The log above the checkpoint in two layers: crashes while the first waits to be merged, again and again.
use crate::world::story::hold_superblocks;
use crate::world::{SMALL, Shape, Verdict, World};
use base::{Engine, Op, Phase};
use volume::Config;

/// Requests of all kinds, as many as fit, and some of their work.
fn some_of_everything(world: &mut World) {
    let sectors = world.shape.sectors;
    for _ in 0..world.random() % 24 {
        let length = 8 + world.random() % 504;
        let at = world.random() % (sectors - length);
        let op = match world.random() % 8 {
            0 => Op::Discard,
            1 => Op::WriteZeroes,
            _ => Op::Write,
        };
        let fua = world.one_in(8);
        world.begin(op, at, length, fua);
    }
    for _ in 0..world.random() % 200 {
        world.step();
    }
}

/// Whether a checkpoint of what recovery found is about to begin.
fn has_two_layers(world: &World) -> bool {
    assert_eq!(world.engine.phase(), Phase::Serving, "{:?}", world.engine.refusal());
    world.engine.unfinished().contains("stage: Sort")
}

/// Crashes before, while and after the first layer is merged; sometimes the next engine has larger layers, or smaller ones
/// that cannot take the log as they are.
#[test]
fn no_crash_while_two_layers_wait_loses_anything() {
    let (mut in_two, mut again) = (0, 0);
    for seed in 0..60u64 {
        let config = Config { delta_entries: 160, ..SMALL };
        let columns = 1 + (seed % 2) as u8;
        let encrypted = seed % 3 == 0;
        let mut world = World::new(Shape { columns, ring: 100, config, encrypted, ..Shape::MIRROR });
        world.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        world.shuffle = seed % 4 < 2;
        let mut before = false;
        for _ in 0..16 {
            if world.one_in(2) {
                hold_superblocks(&mut world);
            }
            some_of_everything(&mut world);
            if world.one_in(2) {
                world.kill();
            } else {
                world.cut_power();
            }
            world.verdict = Box::new(|_| Verdict::Do);
            world.shape.config.delta_entries = [160, 160, 160, 100, 300][(world.random() % 5) as usize];
            world.reopen();
            let now = has_two_layers(&world);
            in_two += u64::from(now);
            again += u64::from(now && before);
            before = now;
            if world.one_in(3) {
                world.check_all();
            }
        }
        world.check_all();
        world.close();
        world.reopen();
        world.check_all();
    }
    assert!(
        in_two > 30 && again > 5,
        "the log was in two layers {in_two} times, {again} times twice in a row"
    );
}
