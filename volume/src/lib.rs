//! The engine of a group: geometry, superblock, write path, checkpoint, recovery.
//!
//! Entry points: `Volume` (the engine), `create::plan` (a new group), and the format of labels, extent headers
//! and superblocks for tools that look at drives offline. The hot path is in `group.rs`.
//!
//! Architecture invariants: no I/O, clock or randomness in here; every drive operation is an action, every
//! completion an event; nothing is allocated per request once a group is served.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod buffers;
pub mod config;
pub mod create;
mod drives;
pub mod envelope;
mod flusher;
pub mod geometry;
mod group;
pub mod header;
mod holds;
pub mod keys;
pub mod label;
pub mod layout;
pub mod names;
mod ops;
pub mod planted;
mod recovery;
mod room;
pub mod rows;
mod sealed;
mod slots;
pub mod superblock;
mod volume;

pub use config::{
    Activation, Candidate, Config, CopyHealth, DriveInfo, DriveStats, DriveView, Refusal, Stats, StaysIn,
};
pub use envelope::StoredEnvelope;
pub use geometry::{Geometry, Piece, Place};
pub use group::Halt;
pub use group::moving::{MoveOutcome, MoveRefusal, MoveStats};
pub use group::overdue::SLOW_BOUND;
pub use group::rekey::RekeyStats;
pub use group::scrub::{Finding, Outcome, ScrubStats, What};
pub use group::sweep::ResyncStats;
pub use header::Header;
pub use label::Label;
pub use names::Names;
pub use planted::Planted;
pub use recovery::{NewVolume, OpenRequest};
pub use sealed::Bad;
pub use superblock::Superblock;
pub use volume::Volume;
