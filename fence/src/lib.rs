//! Who may serve a group, and from which drives: activations and the states of copies.
//!
//! Architecture invariants: nothing here does I/O. A transition is computed here, made durable by the caller, and
//! only then relied upon; the order of the two is the caller's, and each function says which it must be. The
//! kinds of state that exist are the three of [`CopyState`]; that a drive is absent is a fact of the moment, not a
//! state, and is an argument wherever it matters.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod activation;
pub mod copy;
pub mod layout;
pub mod open;
pub mod table;

pub use base::DriveSet;

pub use activation::{Activation, Exhausted, Generations};
pub use copy::{CopyEntry, CopyState, Event, Illegal};
pub use layout::ENTRY_BYTES;
pub use open::{OpenDecision, OpenInputs, decide_open};
pub use table::{CopyTable, Refused};
