//! C2: what a FLUSH or FUA acknowledged survives every crash.
//!
//! Sees reads after a crash of blocks whose state is older than the last durable one. Does not see a durable
//! write that was overwritten before anybody read it.
use super::{Sight, Violation};
use crate::model::Found;
use base::Seq;

/// Judges D of a group that was opened: the drives that it heard said that everything up to `said` was flushed.
pub fn opened(durable: Seq, said: Seq) -> Result<(), Violation> {
    if durable >= said {
        return Ok(());
    }
    let what = format!("the drives say that everything up to {said} was flushed, and {durable} is there");
    Err(Violation::new("C2", what))
}

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
