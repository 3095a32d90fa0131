//! C9: bytes returned are right, or the read is an error; and within the fault budget there is no error.
//!
//! "No space" is an answer only where the run's pool is tight. A group must open within the budget. Whether bytes
//! are right is for C1 to C4.
use super::Violation;
use base::{Fault, Request};

/// Judges a request that failed.
pub fn failed(request: &Request, fault: Fault, errors_allowed: bool, tight: bool) -> Result<(), Violation> {
    match fault {
        _ if errors_allowed => Ok(()),
        Fault::NoSpace if tight && request.op != base::Op::Read => Ok(()),
        _ => Err(Violation::new("C9", format!("{request:?} failed with {fault:?} within the fault budget"))),
    }
}

/// Judges a group that does not open or turned read-only.
pub fn refused(phase: base::Phase, errors_allowed: bool) -> Result<(), Violation> {
    if errors_allowed {
        return Ok(());
    }
    Err(Violation::new("C9", format!("the group is {phase:?} within the fault budget")))
}
