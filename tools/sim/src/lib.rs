//! Deterministic simulation of the engine with its checkers.
//!
//! A run is decided by its seed: the shape of group and drives (`shape`), the workload and the weather
//! (`workload`; what an operator asks for: `verbs`, `forced`; drives that lie, are not the group's, come and go: `lies`,
//! `strangers`, `plugs`), every delay and every crash (`simkit`). `run` plays it and asks the checkers (`checks`), which
//! judge what the guest sees against a reference model (`model`). `campaign` runs many seeds, `everywhere`
//! crashes after every step of one run, `sweep` fails every drive operation once, `planted` proves that the
//! checkers catch the bugs they are for.
//!
//! Architecture invariant: checkers and model know nothing of the engine; what is special to an engine is in
//! `subject` and its one implementation.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod checks;
pub mod cli;
mod doors;
pub mod everywhere;
mod finish;
pub mod focus;
mod forced;
mod lies;
pub mod model;
pub mod offline;
pub mod planted;
mod plugs;
pub mod run;
mod secret;
pub mod shape;
pub mod stamp;
mod strangers;
pub mod subject;
pub mod sweep;
mod verbs;
pub mod volume_subject;
mod workload;

/// A group takes all its memory when it is opened, 13 MiB of it, and a run opens it again after each crash. The C library's
/// allocator gives that back to the kernel in between, and clearing its pages anew took as long as everything else.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(test)]
mod toy;
