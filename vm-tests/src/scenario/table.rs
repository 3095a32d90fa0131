//! The table of scenarios. To add one: a row here, and a function in `guest::steps`.

use super::{Scenario, simple};
use crate::kernel::Which;
use std::time::Duration;

const BOTH: &[Which] = &Which::ALL;

/// Every scenario, in the order of a full run.
pub const ALL: &[Scenario] = &[Scenario {
    name: "boot",
    about: "the machine has ublk, io_uring and drives with a volatile cache",
    drives: 3,
    drive_mib: 256,
    memory_mib: 1024,
    modules: &["ublk_drv"],
    programs: &[],
    product: false,
    rounds: 1,
    limit: Duration::from_secs(120),
    smoke: BOTH,
    host: simple,
}];

/// The scenario called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|s| s.name == name)
}
