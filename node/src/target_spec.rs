//! What a target is told when it starts: one JSON file, written by the agent, read by `plinth target`.
//!
//! The file is complete: a target needs nothing else from the agent to recover its group and serve it, so
//! that it can be started while the agent is busy or gone. It holds no secret: that of an encrypted group comes through a
//! pipe, and is nowhere when the process is gone (`target::secret`).
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One activation of one group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetSpec {
    /// Identity of the pool.
    pub pool: String,
    /// Identity of the group.
    pub group: String,
    /// Name of the group.
    pub group_name: String,
    /// The Gen of this activation, unique and increasing; the engine takes a higher one if the drives know one.
    pub gen_number: u64,
    /// 128 random bits that name the activation.
    pub activation: String,
    /// 128 random bits in hexadecimal: the salt of the activation's history line.
    pub salt: String,
    /// Mirror copies.
    pub legs: u8,
    /// Stripe columns.
    pub columns: u8,
    /// Blocks of a stripe unit.
    pub stripe_blocks: u32,
    /// Blocks of an extent.
    pub extent_blocks: u32,
    /// The drives that may hold a part of the group.
    pub drives: Vec<TargetDrive>,
    /// Rows that are handed out to the group, its home row (0) included; the superblock says which are in use.
    pub rows: Vec<Row>,
    /// What the catalogue says of the copies counts; false after an import, until the group has served once.
    #[serde(default = "yes")]
    pub catalogue_counts: bool,
    /// The operator's recorded word that what stale copies lack is given up, where no current one is there.
    #[serde(default)]
    pub forced: bool,
    /// The Gen that served last, of an encrypted group: drives that know only older ones were set back.
    #[serde(default)]
    pub served_gen: Option<u64>,
    /// The group is encrypted: its secret comes through standard input.
    #[serde(default)]
    pub encrypted: bool,
    /// The volume.
    pub volume: TargetVolume,
    /// How it is served.
    pub front_end: FrontEndSpec,
    /// Writes are refused.
    pub read_only: bool,
    /// Memory for map pages, in bytes.
    pub cache_bytes: u64,
    /// Bound of the rate at which drives are brought up to date; 0 is no bound.
    #[serde(default = "resync_rate")]
    pub resync_bytes_per_second: u64,
    /// Bound of the rate at which a scrub reads copies; 0 is no bound.
    #[serde(default = "scrub_rate")]
    pub scrub_bytes_per_second: u64,
    /// Where the target listens for the agent.
    pub control_socket: PathBuf,
    /// Where the target appends stale marks, durably, before it answers the engine.
    pub stale_marks: PathBuf,
}

/// A drive of the group, or of its pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetDrive {
    /// Identity, also on its label.
    pub id: String,
    /// Where it is; `None` when it is missing, or left.
    pub path: Option<PathBuf>,
    /// The group has nothing on it any more: only its mark is of use.
    #[serde(default)]
    pub left: bool,
    /// Size in blocks.
    pub blocks: u64,
    /// Extents of the group's home row on it.
    pub homes: Vec<u32>,
    /// The catalogue knows it to be stale, as of this superblock version.
    pub stale_version: Option<u64>,
    /// Since when, if it is known: Seq and checkpoint of the last good flush on it.
    #[serde(default)]
    pub stale_since: Option<(u64, u32)>,
}

/// The extents of one row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The row.
    pub row: u32,
    /// `legs * columns` extents, ordered by leg, then column.
    pub extents: Vec<RowExtent>,
    /// The number of this handing out, by which it is refused; 0 from an older agent.
    #[serde(default)]
    pub grant: u64,
}

/// One extent of a row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RowExtent {
    /// The drive.
    pub drive: String,
    /// Where it is, should the target not have it open yet.
    pub path: PathBuf,
    /// Size of the drive in blocks.
    pub blocks: u64,
    /// The extent on it.
    pub extent: u32,
    /// The group has this drive, but what is written misses it: it need not be open.
    #[serde(default)]
    pub away: bool,
}

/// The volume of the group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetVolume {
    /// Identity.
    pub id: String,
    /// Name.
    pub name: String,
    /// Size in bytes: what it is to have. The engine grows to it when the drives still say less.
    pub size_bytes: u64,
}

/// How a volume is served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FrontEndSpec {
    /// A ublk device.
    Ublk {
        /// The device of the target before this one, to take over; `None` makes a new one.
        device_number: Option<u32>,
    },
    /// NBD on a Unix socket.
    Nbd {
        /// The socket.
        socket: PathBuf,
    },
}

const fn resync_rate() -> u64 {
    crate::catalogue::records::DEFAULT_RESYNC_RATE
}

const fn scrub_rate() -> u64 {
    crate::catalogue::records::DEFAULT_SCRUB_RATE
}

const fn yes() -> bool {
    true
}

impl TargetSpec {
    /// Reads a spec.
    ///
    /// # Errors
    /// The file's, or `Invalid` when it does not parse.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::io("read", path, &source))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let name = path.display().to_string();
            Error::new(Kind::Invalid, name.clone(), format!("{name} is no target spec: {error}"))
        })
    }

    /// Writes a spec, readable by its owner alone. A cut leaves the old file or the new one.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).expect("a spec encodes as JSON");
        crate::files::replace(path, &bytes)
    }
}
