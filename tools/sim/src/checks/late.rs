//! What goes back to the pool is written by nobody any more (of C5: other groups will lie there).
//!
//! Looks at drives that have nothing of the group when it is said how a move came out. Does not see what may still land on a
//! drive that keeps other extents of the group.
use super::Violation;

/// Judges a drive whose extents go back.
pub fn given_back(drive: usize, late: bool) -> Result<(), Violation> {
    if !late {
        return Ok(());
    }
    let what = format!("extents of drive {drive} go back, and something that was given up may land there");
    Err(Violation::new("C5", what))
}
