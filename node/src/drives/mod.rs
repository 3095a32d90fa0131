//! Drives as the agent sees them: opened for a moment, read or written block by block, flushed, closed.
//!
//! The data path never comes through here; it belongs to the target. What the agent writes are labels, headers
//! of extents and the first superblocks, each flushed before anything depends on it. Nothing waits here for a drive
//! that does not answer (module `worker`).
pub mod label;
pub mod media;
pub mod scan;
pub mod signature;
mod worker;

pub use label::{LabelState, read_label, write_label};
pub use media::{Identity, Media};
pub use scan::{Seen, scan};
pub use signature::find_signature;
#[cfg(test)]
pub(crate) use worker::hang::Hang;
