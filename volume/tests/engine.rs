//! The tests of the engine in its small world: one program, for each one would compile the engine anew.
mod world;

mod activations;
mod beyond;
mod doors_faults;
mod doors_joining;
mod doors_log;
mod doors_shapes;
mod doors_space;
mod encrypted;
mod every_bit;
mod failed_flush;
mod history;
mod legs;
mod legs_beside;
mod limits;
mod moving;
mod overdue;
mod rekey;
mod resync;
mod resync_amount;
mod resync_pace;
mod scrub;
mod scrub_pace;
mod silent;
mod smoke;
mod two_layers;
