//! C5: at rest, current legs are byte-identical in all mapped blocks.
//!
//! Looks at the drives of a closed group with the format's own code (the subject lists the places). Does not look
//! at copies in doubt (`SimDrive::in_doubt`): blocks that the drive itself spoiled, until somebody repairs them. There
//! are few; everything else on that drive is compared. Where nothing but flushes fails no read may meet a wrong copy
//! before either.
use super::Violation;
use base::{DriveBlock, DriveIx};
use simkit::SimDrive;

/// The places that one mapped block has, one for each current leg whose copy is not in doubt.
pub type Places = Vec<(DriveIx, DriveBlock)>;

/// What a closed group needs of its drives.
#[derive(Clone, Debug, Default)]
pub struct AtRest {
    /// Every block that the directory leads to.
    pub mapped: Vec<Places>,
    /// Blocks that wait to be freed, as far as they were found.
    pub leaving: Vec<Places>,
    /// Whether some of those were not found.
    pub leaving_is_short: bool,
    /// The extents that each column of each row has on drives that count; nothing need be mapped there.
    pub rows: Vec<Places>,
    /// Blocks that each drive has for itself, and without which it does not count.
    pub own: Places,
}

/// Judges a group of which only flushes fail, while it is served: no copy that is counted on is ever found wrong, though
/// another one could make it good.
pub fn served(check_errors: u64) -> Result<(), Violation> {
    if check_errors == 0 {
        return Ok(());
    }
    Err(Violation::new(
        "C5",
        format!("{check_errors} blocks of copies that count are not what they should be"),
    ))
}

/// Compares every mapped block over its legs; says how many have more than one copy that counts.
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
    Ok(mapped.iter().filter(|places| places.len() > 1).count())
}
