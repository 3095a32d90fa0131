//! Growth: a size of the volume that was durable stays (part of C2), and a volume grows when it is asked to (of C9).
//!
//! Looks at the size that the engine says. Does not look at what the new blocks hold: the guest reads them like others.
use super::Violation;

/// Judges the size of a volume that once had `before` sectors.
pub fn size(before: u64, durable: u64) -> Result<(), Violation> {
    if durable >= before {
        return Ok(());
    }
    Err(Violation::new("C2", format!("the volume had {before} sectors and has {durable}")))
}

/// Judges whether a volume took on a size.
pub fn grows(grew: bool, sectors: u64) -> Result<(), Violation> {
    if grew {
        return Ok(());
    }
    Err(Violation::new("C9", format!("the volume does not grow to {sectors} sectors")))
}

/// Judges when rows were asked for: a group that is not served yet does not know what it has.
pub fn asked(too_early: bool) -> Result<(), Violation> {
    if !too_early {
        return Ok(());
    }
    Err(Violation::new("C9", "a row was asked for before the group was served".to_owned()))
}
