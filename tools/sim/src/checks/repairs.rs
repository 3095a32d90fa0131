//! Repairs: a block counts as repaired only once the repair survives a power loss (part of C9).
//!
//! If the engine counts a repair on a drive, then after a power loss one of the blocks is right that were wrong there
//! since it opened. Does not see a repair that is counted too early while another one on that drive is there to stay.
use super::Violation;
use simkit::SimDrive;

/// Judges the drives after a power loss; `repaired` is what the engine had counted on each before it.
pub fn after_power_loss(drives: &[SimDrive], repaired: &[u64]) -> Result<(), Violation> {
    for (i, drive) in drives.iter().enumerate() {
        let counted = repaired.get(i).copied().unwrap_or(0);
        if let Some(blocks) = drive.all_in_doubt().filter(|_| counted > 0) {
            let what = format!(
                "drive {i} counts repairs ({counted}), and all that was wrong is wrong still ({blocks})"
            );
            return Err(Violation::new("C9", what));
        }
    }
    Ok(())
}
