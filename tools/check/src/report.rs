//! What a check found: findings with a severity, the object concerned and the places, and what was looked at.
//!
//! The line between severities is what a person must do: nothing for a note; open the group for what another
//! copy can put right; act for damage.
use cow::Ref;
use serde::{Serialize, Serializer};
use std::fmt;

/// Findings that are kept; more are only counted. A drive that lost a million blocks is one story.
const MAX_FINDINGS: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A state that a crash or an operator brings about and the next opening puts right.
    Note,
    /// Space that nothing refers to and that is not free.
    Leak,
    /// A copy is wrong and another one is right.
    Repairable,
    /// Nothing that is at hand has it right, or the structures contradict each other.
    Damage,
}

impl Severity {
    /// What a person does about it, in one sentence.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Note => "nothing: the next opening puts it right",
            Self::Leak => "nothing need be done: space is lost, no data",
            Self::Repairable => {
                "another copy is right: attach the volume; opening and reading write it again (a label: fsck --repair)"
            }
            Self::Damage => {
                "no copy given is right, or two things contradict each other: check all drives of the pool together; \
                 if it stays, do not write to the volume, copy off what still reads and restore the rest"
            }
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Leak => "leak",
            Self::Repairable => "repairable",
            Self::Damage => "damage",
        })
    }
}

/// What a finding is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Object {
    /// A drive as a whole.
    Drive,
    /// A copy of a drive's label.
    Label(u8),
    /// The header of an extent.
    Header(u32),
    /// A group as a whole.
    Group,
    /// One slot of one copy of the superblock.
    Superblock {
        /// Leg.
        leg: u8,
        /// Column.
        column: u8,
        /// Slot.
        slot: u8,
    },
    /// A row page: level (0 has the extents), index.
    RowPage(u8, u32),
    /// A history page, counted from the newest.
    HistoryPage(u32),
    /// The table of rows.
    Row(u32),
    /// The ring of a leg and column.
    Ring(u8, u8),
    /// A commit of the log.
    Commit(u64),
    /// The root page of the directory.
    DirectoryRoot,
    /// The volumes page.
    Volumes,
    /// The list of cut subtrees.
    CutList,
    /// A page of the bitmap tree: level, index.
    BitmapPage(u8, u32),
    /// The bitmap of a region.
    Bitmap(u32),
    /// A page of a volume's map.
    MapPage {
        /// The volume.
        volume: u32,
        /// Level; a leaf is 0.
        level: u8,
        /// First Lba below.
        lba: u64,
    },
    /// A block of a volume, as the map has it.
    Data {
        /// The volume.
        volume: u32,
        /// Its Lba.
        lba: u64,
    },
    /// A block of a volume, as the log has it.
    LogData {
        /// The volume.
        volume: u32,
        /// Its Lba.
        lba: u64,
    },
    /// A page of a cut subtree (its place in the list), and its level.
    CutPage(u32, u8),
    /// Blocks of a group's space: first and number.
    Space(u64, u64),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drive => f.write_str("drive"),
            Self::Label(copy) => write!(f, "label copy {copy}"),
            Self::Header(extent) => write!(f, "header of extent {extent}"),
            Self::Group => f.write_str("group"),
            Self::Superblock { leg, column, slot } => {
                write!(f, "superblock slot {slot} of leg {leg} column {column}")
            }
            Self::RowPage(level, index) => write!(f, "row page {index} of level {level}"),
            Self::HistoryPage(index) => write!(f, "history page {index} from the newest"),
            Self::Row(row) => write!(f, "row {row}"),
            Self::Ring(leg, column) => write!(f, "ring of leg {leg} column {column}"),
            Self::Commit(no) => write!(f, "commit {no}"),
            Self::DirectoryRoot => f.write_str("directory root"),
            Self::Volumes => f.write_str("volumes page"),
            Self::CutList => f.write_str("list of cut subtrees"),
            Self::BitmapPage(level, index) => write!(f, "page {index} of level {level} of the bitmap tree"),
            Self::Bitmap(region) => write!(f, "bitmap of region {region}"),
            Self::MapPage { volume, level, lba } => {
                write!(f, "map page of level {level} of volume {volume} from Lba {lba}")
            }
            Self::Data { volume, lba } => write!(f, "data of volume {volume} Lba {lba}"),
            Self::LogData { volume, lba } => write!(f, "data in the log of volume {volume} Lba {lba}"),
            Self::CutPage(entry, level) => write!(f, "page of level {level} of cut subtree {entry}"),
            Self::Space(first, 1) => write!(f, "Pba {first}"),
            Self::Space(first, count) => write!(f, "Pbas {first} to {}", first + count - 1),
        }
    }
}

/// A Ref in words, for findings.
pub(crate) fn ref_text(to: &Ref) -> String {
    if to.is_absent() {
        return "absent".into();
    }
    let flags = match to.flags.get() {
        0 => String::new(),
        1 => "a hole, ".into(),
        other => format!("flags {other:#x}, "),
    };
    format!("{flags}Pba {}, Seq {}, tag {}", to.pba, to.when, to.tag)
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A place on a drive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Where {
    /// The drive, by the name that the caller gave it.
    pub drive: String,
    /// Its block, in units of 4096 bytes from its start.
    pub block: u64,
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The group, if it is about one.
    pub group: Option<String>,
    /// What it is about.
    pub object: Object,
    /// What is wrong, in one clause.
    pub what: String,
    /// Where.
    pub at: Vec<Where>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.object, self.what)?;
        for (i, place) in self.at.iter().enumerate() {
            let join = if i == 0 { " (" } else { ", " };
            write!(f, "{join}{} block {}", place.drive, place.block)?;
        }
        f.write_str(if self.at.is_empty() { "" } else { ")" })?;
        match &self.group {
            Some(group) => write!(f, " in group {group}"),
            None => Ok(()),
        }
    }
}

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Drives with a label (or given without one).
    pub drives: u64,
    /// Groups.
    pub groups: u64,
    /// Extents that groups hold on the drives at hand.
    pub extents: u64,
    /// Commits of the log that the next opening would replay.
    pub commits: u64,
    /// Pages of any kind that were reached.
    pub pages: u64,
    /// Bitmaps that were compared.
    pub bitmaps: u64,
    /// Blocks of data that were reached.
    pub data: u64,
    /// Copies of pages, bitmaps and data whose check was made.
    pub copies: u64,
    /// Blocks of space that are used.
    pub used: u64,
    /// Findings that were not kept because there are too many.
    pub not_kept: u64,
}

/// An encrypted group, and how far it was checked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Encrypted {
    /// The group.
    pub group: String,
    /// Its keys were at hand.
    pub keys: bool,
}

impl fmt::Display for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.keys {
            "was checked with its keys"
        } else {
            "was checked without its keys: its maps, free space and data were not looked at, nor whether its superblocks \
             and commits were made by it"
        };
        write!(f, "group {} is encrypted and {how}", self.group)
    }
}

/// The outcome of a check.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// What was found, in the order of the search.
    pub findings: Vec<Finding>,
    /// What was looked at.
    pub counts: Counts,
    /// The encrypted groups among those that were looked at.
    pub encrypted: Vec<Encrypted>,
    #[serde(skip)]
    group: Option<String>,
    worst: Option<Severity>,
}

impl Report {
    /// Whether there is nothing but notes.
    pub fn is_clean(&self) -> bool {
        self.worst.is_none_or(|worst| worst == Severity::Note)
    }

    /// The highest severity among all findings, also those that were not kept.
    pub fn worst(&self) -> Option<Severity> {
        self.worst
    }

    /// Findings that are more than notes.
    pub fn problems(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity > Severity::Note)
    }

    pub(crate) fn enter_group(&mut self, group: Option<String>) {
        self.group = group;
    }

    /// The group that was entered is encrypted, and is looked at with or without its keys.
    pub(crate) fn note_encrypted(&mut self, keys: bool) {
        let group = self.group.clone().unwrap_or_default();
        self.encrypted.push(Encrypted { group, keys });
    }

    pub(crate) fn add(
        &mut self,
        severity: Severity,
        object: Object,
        what: impl Into<String>,
        at: Vec<Where>,
    ) {
        self.worst = self.worst.max(Some(severity));
        if self.findings.len() == MAX_FINDINGS {
            self.counts.not_kept += 1;
            return;
        }
        let group = self.group.clone();
        self.findings.push(Finding { severity, group, object, what: what.into(), at });
    }
}
