//! The simulated world of an engine: drives, clock, control plane, randomness and trace.
//!
//! Everything here is deterministic: one seed and one build replay a run exactly, and the running hash of the
//! trace says so. An engine that implements `base::Engine` runs here unchanged, with one difference to the real
//! driver: drives lose power, tear writes, lie and die on demand, and time is a number.
//!
//! Architecture invariants: no real clock, no threads, no files; no iteration over maps of random order; every
//! fault is counted by name when it acts, not when it is planned.
#![forbid(unsafe_code)]

pub mod buffers;
pub mod control;
mod crash;
mod doubt;
pub mod drive;
pub mod fault;
mod image;
mod past;
pub mod rng;
pub mod trace;
pub mod world;

pub use buffers::Buffers;
pub use control::{Catalogue, Control, Pool};
pub use crash::CrashMode;
pub use drive::SimDrive;
pub use fault::{Armed, FaultCounts, FaultKind};
pub use past::Memory;
pub use rng::Rng;
pub use trace::Trace;
pub use world::{Open, Opening, Stepped, World};
