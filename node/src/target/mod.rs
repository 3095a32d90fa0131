//! The inside of `plinth target`: what stands between the agent's control socket and the loop that serves.
//!
//! Threads, no runtime: one listens to agents, one hears what the loop says (`Notes`) and makes stale marks
//! durable before it answers. The loop itself never waits for any of this.
pub mod ahead;
pub mod control;
mod drives;
pub(crate) mod locked;
pub mod marks;
mod open;
pub mod secret;
pub mod serve;

pub use control::{Control, Ending, Note, Notes, Serving};

pub(crate) use locked::drive_error;
