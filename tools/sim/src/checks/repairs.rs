//! Repairs: a block counts as repaired only once the repair survives a power loss (part of C9).
//!
//! Looks at drives on which one block ever rotted and nothing else went wrong: if the engine counts a repair
//! there, the rotten content is gone after a power loss. Does not see repairs of anything else.
use super::Violation;
use simkit::SimDrive;

/// Judges the drives after a power loss; `repaired` is what the engine had counted on each before it.
pub fn after_power_loss(drives: &[SimDrive], repaired: &[u64]) -> Result<(), Violation> {
    for (i, drive) in drives.iter().enumerate() {
        let counted = repaired.get(i).copied().unwrap_or(0);
        if counted > 0
            && let [rotten] = drive.rotten()
            && rotten.is_there(drive)
        {
            let at = rotten.at();
            return Err(Violation::new(
                "C9",
                format!("drive {i} block {at} counts as repaired and is rotten still"),
            ));
        }
    }
    Ok(())
}
