//! What an engine is given when it starts, and what it tells about itself.
use alloc::vec::Vec;
use base::{Blocks, DriveIx, Extent, ExtentNo, Gen, Seq, Uuid, limits};

/// Commits in flight at once, those that void others among them.
pub const MAX_COMMITS: usize = 16 + VOID_COMMITS;
/// Of those, so many are kept for commits that void others: as many as may fail one after the other.
pub const VOID_COMMITS: usize = 4;
/// Blocks of data in one commit at most: bounds the I/O that one unit of work can start.
pub const MAX_COMMIT_DATA_BLOCKS: usize = 512;
/// Blocks of one vectored I/O at most (1 MiB).
pub const MAX_IO_BLOCKS: u32 = 256;
/// Drive operations that one unit of work can start: every block of a commit in a run of its own, on every
/// leg and on one that is being made, and the commit itself in up to two parts.
pub const MAX_UNIT_OPS: usize = (MAX_COMMIT_DATA_BLOCKS + 2) * (limits::MAX_LEGS + 1);
/// Repairs of damaged blocks at once.
pub const MAX_REPAIRS: usize = 8;
/// Blocks that recovery reads at once.
pub const RECOVERY_CHUNK: u32 = 64;

const _: () = assert!(MAX_UNIT_OPS <= limits::MAX_POLL_ACTIONS);
const _: () = assert!(MAX_UNIT_OPS + limits::MAX_SLOTS * 8 <= limits::MAX_DRIVE_OPS);
const _: () = assert!(RECOVERY_CHUNK >= rlog::MAX_COMMIT_BLOCKS);

/// Pages of cache at least: every walk under way needs a page on each level to stay, or walks evict each
/// other's pages for ever.
pub const MIN_CACHE_PAGES: u32 = 128;

/// How much memory and which bounds an engine gets; nothing here is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Request slots, at most `limits::MAX_SLOTS`.
    pub slots: u16,
    /// Pages of the map kept in memory, at least `MIN_CACHE_PAGES`.
    pub cache_pages: u32,
    /// Blocks that one layer of the delta can hold.
    pub delta_entries: u32,
    /// Regions whose bitmaps are kept in memory.
    pub loaded_regions: u32,
    /// Rows that the group can grow to, if its shape can name so many. Memory is taken for as many as the volume's size
    /// needs.
    pub max_rows: u32,
    /// Nothing may be written: no activation, no repair.
    pub read_only: bool,
    /// A bug to plant, for tests of the tests.
    #[cfg(feature = "planted")]
    pub planted: Option<crate::planted::Planted>,
}

impl Config {
    /// What a served volume gets: 64 requests, 64 MiB of map pages, 131,072 blocks of delta.
    pub const SERVED: Self = Self {
        slots: 64,
        cache_pages: 16_384,
        delta_entries: 131_072,
        loaded_regions: 1024,
        max_rows: u32::MAX,
        read_only: false,
        #[cfg(feature = "planted")]
        planted: None,
    };

    /// Blocks of the driver's memory that an engine of this configuration needs: what its `Engine::memory_blocks` says.
    #[must_use]
    pub fn memory_blocks(&self) -> u32 {
        crate::buffers::Buffers::new(self).total
    }
}

/// One drive of the group, by its place in the group's drive table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriveInfo {
    /// Its identity, from its label.
    pub uuid: Uuid,
    /// Its size.
    pub blocks: Blocks,
    /// Whether completed writes can be lost until a flush.
    pub volatile: bool,
}

/// A drive that is at hand when a group is opened, and the extents on it that say that they belong to the
/// group's home row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The drive.
    pub info: DriveInfo,
    /// Home extents of the group on it.
    pub homes: Vec<ExtentNo>,
}

/// A new activation: who serves from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Activation {
    /// The Gen at least; the engine takes a higher one if the drives know one.
    pub generation: Gen,
    /// 128 random bits.
    pub id: Uuid,
    /// 128 random bits.
    pub salt: [u8; 16],
}

/// Why a group does not open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No superblock of the group passes its check.
    NoSuperblock,
    /// A superblock was written by a newer version of the format.
    NewerFormat(u16),
    /// The newest superblock says something impossible.
    Damaged(&'static str),
    /// A commit names a newer superblock than the newest found: a drive with it is missing.
    NewerSuperblock {
        /// Its version.
        version: u64,
    },
    /// Every drive that could serve this place of a row is missing or stale.
    NoCurrentCopy {
        /// Drives that the superblock calls current and that are missing.
        missing: Vec<Uuid>,
    },
    /// The only superblocks that were found are of copies that do not count; those that do are there, and what they hold is
    /// not their own.
    NotTheirOwn {
        /// These drives.
        drives: Vec<Uuid>,
    },
    /// A commit at or below what is durable cannot be read on any leg.
    LogDamaged {
        /// Its number.
        commit: u64,
    },
    /// The group is encrypted, and no key was given.
    Encrypted,
    /// Keys were given, and the group is plain: it is another one, or somebody made it so.
    NotEncrypted,
    /// No superblock was made with these keys: they are another group's, or all superblocks are forged.
    WrongKey,
    /// A data key is not at hand that something in the group may lie under, or that its newest activation had.
    KeyMissing {
        /// Its number.
        number: u16,
    },
    /// The id or the salt of the activation is one that the group has had: what it would seal could be under a nonce that
    /// was taken.
    ActivationTwice,
    /// The newest activation that the drives know is older than the one that served last: all of them were set back.
    Older {
        /// Gen that the drives know.
        found: Gen,
        /// Gen that served last.
        served: Gen,
    },
    /// Reads failed on every leg while recovering.
    Unreadable(&'static str),
    /// The drives could not be written while recovering.
    Unwritable,
}

/// Why a drive is not put out of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StaysIn {
    /// Some place of the group's space has its only current copy there.
    LastCopy,
    /// It is joining the group with a new row at this moment; a later attempt finds it in or gone.
    Joining,
    /// The group takes no writes, so it cannot note that the drive is out.
    NotServing,
}

/// State of a copy on a drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyHealth {
    /// Has everything.
    Current,
    /// Failed; the mark is not durable yet.
    Failing,
    /// Misses what came after this Seq.
    Stale(Seq),
    /// Misses a part of what came after this Seq, and is getting it.
    Resyncing(Seq),
    /// Not at hand.
    Missing,
}

/// Counters of one drive of the group since the engine started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DriveStats {
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes and flushes that failed.
    pub write_errors: u64,
    /// Blocks that did not pass their check.
    pub check_errors: u64,
    /// Blocks that were rewritten from another leg, and flushed.
    pub repaired_blocks: u64,
    /// How often everything in flight on it was given up, because it did not answer.
    pub given_up: u64,
}

/// A drive as `Stats` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriveView {
    /// Its place in the table.
    pub index: DriveIx,
    /// Its identity.
    pub uuid: Uuid,
    /// Its state.
    pub health: CopyHealth,
    /// Its counters.
    pub stats: DriveStats,
}

/// A look at the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Last Seq handed out.
    pub seq: Seq,
    /// Everything up to this Seq is durable on all current legs.
    pub durable: Seq,
    /// The activation's Gen.
    pub generation: Gen,
    /// Version of the newest superblock.
    pub version: u64,
    /// Number of the last checkpoint.
    pub checkpoint: u32,
    /// So many numbers are left for checkpoints.
    pub checkpoints_left: u32,
    /// Thousandths of the ring that are in use, in its fullest column.
    pub ring_used_permille: u32,
    /// Rows of the group.
    pub rows: u32,
    /// Space is short, and the group can have no further row, whatever the pool has: the home pages are full.
    pub rows_ended: bool,
    /// So many activations can still be noted, of an encrypted group: its history has no end. `None` of a plain one.
    pub activations_left: Option<u64>,
    /// Legs of each row: changes with a move that adds or drops one.
    pub legs: u8,
    /// Blocks of space in all.
    pub space_blocks: u64,
    /// Blocks of the volume that hold data: exact after a checkpoint, else not less than that. `None` where
    /// an earlier build made the volume, or a page of what was discarded was lost.
    pub mapped_blocks: Option<u64>,
    /// Blocks that can be allocated now.
    pub free_blocks: u64,
    /// Blocks that will be free after the next checkpoint at the latest.
    pub limbo_blocks: u64,
    /// The drives.
    pub drives: Vec<DriveView>,
    /// The resync that is under way.
    pub resync: Option<crate::group::sweep::ResyncStats>,
    /// The last resync since the group was opened that made its drive current.
    pub last_resync: Option<crate::group::sweep::ResyncStats>,
    /// The scrub that is under way, or the last one since the group was opened.
    pub scrub: crate::group::scrub::ScrubStats,
    /// The walk to the newest data key that is under way, or the last one since the group was opened.
    pub rekey: crate::group::rekey::RekeyStats,
    /// Number of the data key that the activation writes under; 0 of a plain group.
    pub data_key: u16,
    /// The move off a drive that is under way, or the last one since the group was opened.
    pub moving: Option<crate::group::moving::MoveStats>,
    /// The extents of row `row`, ordered by leg, then column.
    pub home: Vec<Extent>,
}
