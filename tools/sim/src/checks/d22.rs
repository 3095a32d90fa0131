//! D22: a scrub finds and repairs every copy that is wrong; a second one finds nothing.
//!
//! Looks at what scrubs say: the first two may find what a drive spoiled (`SimDrive::in_doubt`) or what was on a drive
//! that died, or fell silent, unnoticed, a third one nothing; and within the fault budget nothing that no leg has right. Does not see
//! what a scrub passes over: C5 does, which excuses no copy after a scrub.
use super::Violation;
use base::{DriveBlock, Uuid};
use simkit::SimDrive;

/// From this one on a scrub finds nothing.
pub const LAST_ROUND: u32 = 2;

/// Judges what a scrub found wrong; `before` is what the drives were before the first one.
pub fn found(round: u32, wrong: &[(Uuid, DriveBlock)], before: &[SimDrive]) -> Result<(), Violation> {
    let spoiled = |(drive, at): &(Uuid, DriveBlock)| {
        let its = before.iter().find(|before| before.uuid == *drive);
        its.is_some_and(|its| its.in_doubt(*at) || its.is_dead() || its.is_silent())
    };
    let Some((drive, at)) = wrong.iter().find(|place| round == LAST_ROUND || !spoiled(place)) else {
        return Ok(());
    };
    let what = format!("scrub {round} finds block {at} of drive {drive:?} wrong, which no drive spoiled");
    Err(Violation::new("D22", what))
}

/// Judges how many blocks a scrub found that no leg has right, within the fault budget.
pub fn lost(blocks: u64) -> Result<(), Violation> {
    if blocks == 0 {
        return Ok(());
    }
    Err(Violation::new("D22", "a scrub finds what no leg has right, within the fault budget"))
}
