//! C3: never another block's value, a torn block, or noise reported as success.
//!
//! A block is judged as a whole: the sectors of one read must have stood side by side at some time. Does not
//! judge age (C1, C2 and C4 do), nor the order between blocks (`prefix` does).
use super::{Sight, Violation};
use crate::model::Found;

/// Judges one block of a read.
pub fn read(sight: &Sight<'_>) -> Result<(), Violation> {
    match sight.found {
        Found::Torn => Err(Violation::new("C3", format!("a torn block: {}", sight.describe()))),
        Found::Foreign => {
            Err(Violation::new("C3", format!("noise or another place's data: {}", sight.describe())))
        }
        Found::Allowed(_) | Found::Older(_) | Found::Voided(_) => Ok(()),
    }
}
