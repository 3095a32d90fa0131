//! C5: at rest, current legs are byte-identical in all mapped blocks.
//!
//! Looks at the drives of a closed group with the format's own code (the subject lists the places). Does not look
//! at drives on which a fault acted that can leave damage: what was lost there silently, or torn in the middle of
//! a repair, is found and repaired by the next read.
use super::Violation;
use base::{DriveBlock, DriveIx};
use simkit::SimDrive;

/// The places that one mapped block has, one for each current leg.
pub type Places = Vec<(DriveIx, DriveBlock)>;

/// Compares every mapped block over its legs; says how many there are.
pub fn at_rest(drives: &[SimDrive], mapped: &[Places]) -> Result<usize, Violation> {
    for places in mapped {
        let Some(((first_drive, first_at), others)) = places.split_first() else { continue };
        let first = drives[first_drive.get() as usize].peek(*first_at);
        for (drive, at) in others {
            if drives[drive.get() as usize].peek(*at) != first {
                return Err(Violation::new(
                    "C5",
                    format!("drive {first_drive} block {first_at} and drive {drive} block {at} differ"),
                ));
            }
        }
    }
    Ok(mapped.len())
}
