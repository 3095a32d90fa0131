//! A group's move, as the catalogue keeps it from the plan to the last extent that came back.
//!
//! Crash story: the record is created in one transaction with the keys of the extents that take over. From there on both
//! sets of extents are the group's, and a target that opens it looks for superblocks in both; the newest one says
//! which rows hold. Once the target has said that the move is done, the rows are switched in one transaction
//! (`Stage::Switched`); then the names are written to the new home, the old extents are wiped and flushed, and the last
//! transaction frees them and forgets the record. One that was given up is undone the same way, with the other extents.
//! Every step can be done again.
use crate::moves::MoveChange;
use serde::{Deserialize, Serialize};

/// Key of the move of a group.
pub fn key(group: &str) -> String {
    format!("moves/{group}")
}

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The extents that take over are the group's; no target has heard of them.
    Planned,
    /// A target may have heard of it.
    Asked,
    /// The rows are those behind the move; what is left of it is to be tidied up.
    Switched,
}

/// A place of a row that moves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// The row.
    pub row: u32,
    /// Its place in the row, `leg * columns + column`.
    pub place: usize,
    /// Drive and extent before it.
    pub old: (String, u32),
    /// Drive and extent behind it.
    pub new: (String, u32),
}

/// A move of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveRecord {
    /// Identity of the group.
    pub group: String,
    /// Its number among the group's moves.
    pub id: u64,
    /// What changes.
    pub change: MoveChange,
    /// What goes where.
    pub places: Vec<Moved>,
    /// How far it is.
    pub stage: Stage,
    /// When it was planned.
    pub started_at: String,
}
