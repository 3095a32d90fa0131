//! C1: a read returns the last acknowledged write that was not concurrent with it.
//!
//! Sees every read of the workload, block by block, and is a little stricter than the contract: writes that
//! overlap are held to the order in which they were issued, and a value once read is not followed by an older
//! one. Does not see what a guest never reads; every run ends with a read of everything.
use super::{Sight, Violation};
use crate::model::Found;

/// Judges one block of a read.
pub fn read(sight: &Sight<'_>) -> Result<(), Violation> {
    match sight.found {
        Found::Older(_) => Err(Violation::new("C1", format!("an old value was read: {}", sight.describe()))),
        _ => Ok(()),
    }
}
