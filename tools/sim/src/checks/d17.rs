//! D17: a stale copy serves no block, and neither does one that was left; one that is a mixture of two times not even by
//! the operator's word.
//!
//! Looks at whether a group opens, on drives that do not count. Does not look at what a group reads from a stale drive
//! beside current ones: that would be wrong or late, which C1 to C4 see.
use super::Violation;
use base::Phase;

/// Judges a group that was opened on drives alone that were left or are stale.
pub fn alone(phase: Phase) -> Result<(), Violation> {
    if phase == Phase::Refused {
        return Ok(());
    }
    Err(Violation::new("D17", format!("the group is {phase:?} on drives alone that were left or are stale")))
}

/// Judges a group that is served by the operator's word.
pub fn by_force(mixture: bool) -> Result<(), Violation> {
    if mixture { Err(Violation::new("D17", "a mixture of two times is opened by force")) } else { Ok(()) }
}
