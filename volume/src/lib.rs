//! The engine of a group: geometry, superblock, write path, checkpoint, recovery.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod geometry;
pub mod header;
pub mod label;
pub mod layout;
mod sealed;

pub use geometry::{Geometry, Piece, Place};
pub use header::Header;
pub use label::Label;
pub use sealed::Bad;
