//! Kills of the real process: a target serves a group on files or loop devices through io_uring and NBD, is killed with SIGKILL at
//! random instants, started again, and asked for everything.
//!
//! `group` makes the drives (`loops` those that are block devices) and starts targets, `client` speaks NBD, `oracle` knows what every sector may hold,
//! `campaign` puts them together. What a kill of the process leaves behind is stricter than what a power cut does: the
//! drives keep what they got, so every acknowledged write must be there (C2), every sector holds its last
//! acknowledged write or one that was in flight (C3), and what was read once stays (C4). Not checked here:
//! volatile caches (the simulator and the power cuts do that).

pub mod campaign;
pub mod client;
pub mod group;
pub mod loops;
pub mod oracle;
