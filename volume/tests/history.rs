//! Groups that were opened very often.
use crate::world::{Shape, World};

/// A target was killed some fifteen hundred times, with a few writes in between. When the home pages ran out, the history
/// lost all its lines but the newest; the commits above the checkpoint, which were written by the activations
/// before, were then nobody's, and the group was refused although its log was whole.
#[test]
fn the_history_is_cut_without_losing_the_log() {
    let mut world = World::new(Shape::MIRROR);
    for round in 0..1500 {
        // Few blocks, so that checkpoints are rare and the log above them is many activations'.
        let sector = world.random() % 400;
        world.write(sector, 8).expect("written");
        if round % 7 == 0 {
            world.write(sector, 3).expect("written");
        }
        world.flush().expect("flushed");
        // The world's activations have their number as identity, and none has the identity of zeroes.
        world.generation += u64::from(world.generation % 256 == 255);
        world.kill_and_reopen();
    }
    world.check_all();
}
