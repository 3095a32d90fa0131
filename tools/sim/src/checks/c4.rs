//! C4: after recovery the answer is stable, on every leg and over every later crash.
//!
//! A state that a read after a crash ruled out must never be seen again, and neither must a write that was
//! refused. The end of every run reads everything again after one more restart, and again with each leg taken
//! away whose loss the group must survive. Does not see legs that the catalogue calls stale.
use super::{Sight, Violation};
use crate::model::{Found, Void};

/// Judges one block of a read.
pub fn read(sight: &Sight<'_>) -> Result<(), Violation> {
    let Found::Voided(index) = sight.found else { return Ok(()) };
    match sight.history.states[index as usize].void {
        Some(Void::Refused) => {
            Err(Violation::new("C9", format!("a refused write is seen: {}", sight.describe())))
        }
        _ => Err(Violation::new("C4", format!("the answer changed without a write: {}", sight.describe()))),
    }
}
