//! The driver of a group: io_uring loop, drives, ublk and NBD front ends.
//!
//! `Target` runs any `base::Engine` over `Drive`s and serves it through a `FrontEnd`. This is the only crate that
//! may use `unsafe`: `memory` (the mapped area), `ring` (io_uring), `smart` (one command to NVMe drives), `ciphers`
//! (AWS-LC), `ublk::sys` (the driver's memory and process-wide switches), `secrets` (locked pages) and `keyring` (keys that
//! the kernel keeps). The kernel's constants and error numbers end here; the engine sees `Fault`s.
//!
//! Architecture invariants: no decision about data is made here; no thread but the loop's touches the engine;
//! nothing is allocated per request.

pub mod ciphers;
pub mod drive;
pub mod front;
pub mod handle;
pub mod keyring;
pub mod latency;
pub mod linear;
pub mod memory;
pub mod nbd;
mod ops;
mod resets;
pub mod ring;
pub mod secrets;
pub mod smart;
pub mod target;
#[cfg(test)]
mod testing;
pub mod trial;
pub mod ublk;
pub mod workspace;

pub use ciphers::{AwsLc, aes_is_fast};
pub use drive::{Access, Drive, DriveError, Properties};
pub use front::{Allocation, Extent, FrontEnd, FrontIo, NoFrontEnd, VolumeInfo};
pub use handle::{Control, Figures, Handle, NoControl, Notice};
pub use latency::Latency;
pub use memory::{Area, Locked, Region};
pub use nbd::NbdServer;
pub use ops::MAX_DRIVE_OPS;
pub use secrets::Secret;
pub use target::{Ended, Options, Target, TargetError};
pub use workspace::Workspace;
