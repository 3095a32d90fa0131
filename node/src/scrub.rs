//! Scrubs, as agent and target speak of them.
//!
//! The agent says with each look which scrub it wants and where that is to begin or go on; the target sees to it. So
//! a look can be repeated, and whatever a death of either cut short is put right by the next one.
//!
//! What was found comes in numbered batches. A batch is told again until a look says that it was seen, and nothing new
//! is taken from the engine meanwhile; an engine that has no room for more rests. So an agent that is away, or dies
//! between two looks, misses nothing. What the target had not told when it dies is repaired, but never named.
use base::BLOCK_BYTES;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The scrub that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Its number: one that the target has begun already is not begun again.
    pub run: u64,
    /// The block of the volume where it begins or goes on.
    pub from_block: u64,
}

/// The last batch of findings that was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The activation whose target told it.
    pub gen_number: u64,
    /// Its number.
    pub batch: u64,
}

/// Copies that were looked at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Copies {
    /// In all.
    pub checked: u64,
    /// Of those, wrong and right again.
    pub repaired: u64,
    /// Of those, wrong on every leg.
    pub lost: u64,
}

impl Copies {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            checked: self.checked + other.checked,
            repaired: self.repaired + other.repaired,
            lost: self.lost + other.lost,
        }
    }
}

/// Copies that all scrubs of a volume found wrong, by what became of them. They only grow: what no leg has right is
/// counted by each scrub that finds it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
pub struct FoundTotals {
    /// Right again.
    pub copies_repaired: u64,
    /// Wrong on every leg.
    pub copies_lost: u64,
    /// On a drive that failed when they were to be written again.
    pub copies_drive_out: u64,
}

impl FoundTotals {
    /// One more.
    pub fn count(&mut self, outcome: FoundOutcome) {
        *match outcome {
            FoundOutcome::Repaired => &mut self.copies_repaired,
            FoundOutcome::Lost => &mut self.copies_lost,
            FoundOutcome::DriveOut => &mut self.copies_drive_out,
        } += 1;
    }
}

/// A look at a target's scrub.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetScrub {
    /// The target's activation.
    pub gen_number: u64,
    /// How often the target began a scrub; what is below counts from the last time on.
    pub begun: u64,
    /// The scrub that it was last told to do.
    pub run: Option<u64>,
    /// It came to its end.
    pub finished: bool,
    /// It makes room for a drive that is being brought up to date.
    pub stands_aside: bool,
    /// The block of the volume where it would go on.
    pub position: u64,
    /// What it looked at.
    pub copies: Copies,
    /// Number of the batch of `found`.
    pub batch: u64,
    /// What it found.
    pub found: Vec<FoundCopy>,
}

/// What a block is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FoundKind {
    /// Not known.
    Unknown,
    /// A block of the volume.
    Data,
    /// A page of the volume's map.
    MapPage,
    /// A page of a part of the map that was cut off.
    CutPage,
    /// A bitmap of space.
    Bitmap,
    /// A page of the tree that leads to the bitmaps.
    BitmapPage,
    /// A page of the directory.
    Directory,
    /// A page of the table of rows.
    RowPage,
    /// A page of the history.
    HistoryPage,
    /// The header of an extent.
    Header,
    /// A superblock slot.
    Superblock,
    /// A commit of the log.
    Commit,
}

impl FoundKind {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Unknown => "block",
            Self::Data => "data",
            Self::MapPage => "map page",
            Self::CutPage => "page of a discarded part",
            Self::Bitmap => "bitmap",
            Self::BitmapPage => "bitmap page",
            Self::Directory => "directory page",
            Self::RowPage => "row page",
            Self::HistoryPage => "history page",
            Self::Header => "extent header",
            Self::Superblock => "superblock",
            Self::Commit => "log commit",
        }
    }
}

/// What became of a copy that was wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FoundOutcome {
    /// It is right again.
    Repaired,
    /// No leg has it right.
    Lost,
    /// Its drive failed when it was to be written again, and is out.
    DriveOut,
}

/// A copy that was wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FoundCopy {
    /// What it is.
    pub kind: FoundKind,
    /// The block of the volume that it is, or the first one that it leads to.
    pub lba: Option<u64>,
    /// How many blocks of the volume it is, or leads to.
    pub blocks: Option<u64>,
    /// The drive, by id.
    pub drive: String,
    /// The block of the drive.
    pub drive_block: u64,
    /// What became of it.
    pub outcome: FoundOutcome,
}

impl FoundCopy {
    /// Where it is in the volume, in bytes.
    pub fn offset_bytes(&self) -> Option<u64> {
        self.lba.map(|lba| lba.saturating_mul(BLOCK_BYTES as u64))
    }

    /// Where it is on its drive, in bytes.
    pub fn drive_offset_bytes(&self) -> u64 {
        self.drive_block.saturating_mul(BLOCK_BYTES as u64)
    }

    /// What and where it is, for people: by its place in the volume if it has one, and on its drive.
    pub fn words(&self) -> String {
        let (what, at) = (self.kind.words(), self.drive_offset_bytes());
        match (self.lba, self.offset_bytes()) {
            (Some(lba), Some(offset)) => format!("{what} block {lba} (offset {offset}) at {at}"),
            _ => format!("{what} at {at}"),
        }
    }
}
