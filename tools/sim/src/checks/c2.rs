//! C2: what a FLUSH or FUA acknowledged survives every crash.
//!
//! Sees reads after a crash of blocks whose state is older than the last durable one. Does not see a durable
//! write that was overwritten before anybody read it.
use super::{Sight, Violation};
use crate::model::Found;

/// Judges one block of a read.
pub fn read(sight: &Sight<'_>) -> Result<(), Violation> {
    match sight.found {
        Found::Older(index)
            if index < sight.history.durable && sight.history.durable < sight.history.before_crash =>
        {
            Err(Violation::new("C2", format!("a durable write was lost: {}", sight.describe())))
        }
        _ => Ok(()),
    }
}
