//! A group that is killed again and again before it takes a checkpoint.
//!
//! The story: each activation adds a line to the history, on home pages of which there are few. When they ran out,
//! starting a new page forgot all older lines, also the one that owned commits after the checkpoint: the next
//! recovery took an acknowledged and flushed write for a cut tail, and refused to open.
use base::{Duration, Engine, Op, Phase, Request, Sector, Sectors, SlotId};
use sim::shape::Shape;
use sim::subject::Subject;
use sim::volume_subject::VolumeGroup;
use simkit::{Rng, World};

/// Lines enough to fill all home pages of the smallest group more than once.
const ACTIVATIONS: u32 = 700;

fn until(world: &mut World<VolumeGroup>, done: impl Fn(&World<VolumeGroup>) -> bool) {
    for _ in 0..100_000 {
        if done(world) {
            return;
        }
        let horizon = world.now() + Duration::from_millis(1_000);
        world.step(horizon);
        assert_ne!(world.phase(), Phase::Refused, "{}", VolumeGroup::refusal(world.engine()));
    }
    panic!("it takes for ever");
}

#[test]
fn a_flushed_write_outlives_any_number_of_activations() {
    let mut shape = Shape::of(0);
    (shape.legs, shape.columns, shape.extent_blocks) = (2, 1, 256);
    let mut rng = Rng::new(1);
    let (subject, drives, control) = VolumeGroup::create(&shape, None, &mut rng);
    let mut world = World::new(subject, drives, control, rng);
    until(&mut world, |world| world.phase() == Phase::Serving);
    let slot = SlotId(0);
    let buffer = world.engine().slot_buffer(slot);
    base::Memory::block_mut(&mut world.memory, buffer).fill(7);
    let request =
        |op| Request { slot, op, sector: Sector::new(0), sectors: Sectors::new(8), fua: op == Op::Write };
    world.submit(request(Op::Write));
    until(&mut world, |world| !world.completed.is_empty());
    for _ in 0..ACTIVATIONS {
        world.crash_process();
        world.restart();
        until(&mut world, |world| world.phase() == Phase::Serving);
    }
    world.submit(request(Op::Read));
    until(&mut world, |world| !world.completed.is_empty());
    assert_eq!(world.completed, [(slot, Ok(()))]);
    assert!(base::Memory::block(&world.memory, buffer).iter().all(|byte| *byte == 7));
}
