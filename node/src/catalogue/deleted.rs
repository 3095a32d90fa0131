//! What a deleted group left on drives that were not there: extents that nobody could wipe.
//!
//! Crash story: the record is written in the transaction that takes the rows, so that no extent is ever taken without
//! somebody who gives it back. It goes with the last of its extents: each is wiped and freed once its drive is there again,
//! or forgotten with its drive or its pool. As long as the record is there what the drives say of the group is no news.
use serde::{Deserialize, Serialize};

/// Where the records are.
pub const PREFIX: &str = "deleted/";

/// Key of the record of a group.
pub fn key(group: &str) -> String {
    format!("{PREFIX}{group}")
}

/// What is left of a deleted group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeletedRecord {
    /// Identity of the group.
    pub group: String,
    /// Name of its pool.
    pub pool: String,
    /// Drive and extent.
    pub extents: Vec<(String, u32)>,
}
