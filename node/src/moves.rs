//! Moves, as agent and target speak of them.
//!
//! The agent says with each look which move it wants; the target sees to it and says how far it is. So a look can be
//! repeated. Which rows hold after a death of the target, those before the move or those behind it, is what the
//! superblocks say, and the target finds that out: asked for a move whose rows have switched already, it does what is
//! left of it (`target/serve/moves.rs`).
use crate::catalogue::CopyState;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a move changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveChange {
    /// Everything that the group has on this drive goes elsewhere, and the drive is left.
    Leave {
        /// The drive, by id.
        drive: String,
    },
    /// Some of what it has on this drive goes elsewhere; the rest stays.
    Shift {
        /// The drive, by id.
        drive: String,
    },
    /// Every row gets one more copy.
    AddLeg,
    /// Every row loses its copy on this leg; the legs behind it move up.
    DropLeg {
        /// The leg.
        leg: u8,
    },
}

impl MoveChange {
    /// The drive that extents move off, if it is one.
    pub fn from(&self) -> Option<&str> {
        match self {
            Self::Leave { drive } | Self::Shift { drive } => Some(drive),
            Self::AddLeg | Self::DropLeg { .. } => None,
        }
    }
}

/// A drive that takes over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveDrive {
    /// Its identity.
    pub id: String,
    /// Where it is.
    pub path: PathBuf,
}

/// An extent and its successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovedExtent {
    /// The extent whose content is copied.
    pub old: u32,
    /// The drive of its successor, as its place in the order's list.
    pub to: usize,
    /// The successor.
    pub new: u32,
}

/// The move that is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveOrder {
    /// Its number among the group's moves: one that the target was given already is not begun again.
    pub id: u64,
    /// What changes.
    pub change: MoveChange,
    /// Legs of the group before it.
    pub legs: u8,
    /// The drives that take over.
    pub to: Vec<MoveDrive>,
    /// What goes where.
    pub extents: Vec<MovedExtent>,
    /// Drives of the leg that is dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
}

/// How a move stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// Its drives are being opened, or the group is busy with another errand.
    Waiting,
    /// It is copied.
    Copying,
    /// The group has nothing any more where it was, and nothing can reach it there.
    Done,
    /// The group is as it was, and nothing can reach the successors any more.
    GivenUp(MoveEnd),
}

/// Why a move did not take place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveEnd {
    /// It does not fit the group as it is by now.
    Misfit,
    /// The group has no place for more drives.
    TableFull,
    /// A drive that was to take over failed.
    DriveFailed,
    /// A place would be left without a current copy.
    LastCopy,
    /// The group closes, or takes no writes any more.
    NotServing,
    /// A drive that was to take over cannot be used: which, and why.
    NotOpened(String),
}

impl std::fmt::Display for MoveEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Misfit => "it does not fit the volume as it is by now",
            Self::TableFull => "the volume has no place for more drives",
            Self::DriveFailed => "a drive that was to take over failed",
            Self::LastCopy => "a part of the volume would be left without a complete copy",
            Self::NotServing => "the volume takes no writes now",
            Self::NotOpened(why) => why,
        })
    }
}

/// A look at a target's move.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetMove {
    /// Its number.
    pub id: u64,
    /// How it stands.
    pub state: MoveState,
    /// Copied still only because something that was given up on a drive may yet land in extents that go back with the
    /// outcome: what that will be. Left out by earlier builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<MoveState>,
    /// Copied so far.
    pub copied_bytes: u64,
    /// How much of the volume was looked at, from its beginning.
    pub walked_bytes: u64,
}

/// What a group has on a drive, as its target knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holds {
    /// The extents of its rows there.
    pub extents: Vec<u32>,
    /// Its copy there; `None` if the group does not know the drive.
    pub state: Option<CopyState>,
    /// The target has its file open.
    pub open: bool,
}
