//! The superblock: what a group is, and where everything else is found.
//!
//! Every column of every leg has two slots, in its extent of the home row. Crash story: a version is written
//! to one slot on all current drives (never a drive's newest valid one) and flushed, then to the other and
//! flushed, before anything depends on it. A crash in between leaves, on every drive, one valid slot of this
//! version or of the one before; both describe a complete state, because a version only ever names pages that
//! were flushed before it. The newest is the one with the highest (Gen, version) on any drive.
use crate::geometry::{Geometry, Piece};
use crate::keys::Keys;
use crate::layout::superblock as at;
use crate::sealed::{self, Bad};
use alloc::vec::Vec;
use base::limits::{MAX_COLUMNS, MAX_DRIVES};
use base::{
    Block, Check, CheckKind, CkptNo, Column, CommitNo, DriveIx, Extent, ExtentNo, Gen, LegId, RowNo, Seq,
    Uuid, codec,
};
use cow::Ref;
use fence::{Activation, CopyEntry, ENTRY_BYTES};
use rlog::{Line, Positions};

const _: () = assert!(ENTRY_BYTES <= at::DRIVE_BYTES);
const _: () = assert!(at::LINE_AT + rlog::layout::LINE_BYTES <= at::POOL_AT);

// Ends of the numbers that only grow. None is reached by counting; a superblock that says more was forged, or its
// content is damaged and its check is right, and it counts as one that is no superblock. Behind each end there is room
// for what is counted on from a number below it, so that no sum runs over. An activation takes place only that far
// below the ends: what it writes must be decoded by the next one.

/// End of the versions of superblocks: those that the last number of an activation would begin with.
pub(crate) const VERSIONS_END: u64 = u64::MAX << Activation::VERSION_BITS;
/// Versions that must be left for an activation.
pub(crate) const VERSIONS_KEPT: u64 = 1 << Activation::VERSION_BITS;
/// End of the numbers of commits.
pub(crate) const COMMITS_END: u64 = 1 << 63;
/// Numbers of commits that must be left for an activation.
pub(crate) const COMMITS_KEPT: u64 = 1 << 48;
/// End of the Seqs that a superblock may say.
pub(crate) const SEQS_END: u64 = Seq::LIMIT - (1 << 40);
/// Seqs that must be left for an activation: at a million writes a second more than four years.
pub(crate) const SEQS_KEPT: u64 = 1 << 47;

/// Where one copy of a superblock lies: the drive, and the home extent on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Home {
    /// The extent.
    pub extent: Extent,
    /// The leg that this extent is part of.
    pub leg: LegId,
    /// Its column.
    pub column: Column,
}

/// What a superblock says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The pool that the group's extents are from.
    pub pool: Uuid,
    /// The group.
    pub group: Uuid,
    /// The activation that wrote this version.
    pub generation: Gen,
    /// Number of this version; grows over all activations.
    pub version: u64,
    /// How the group's checks are made.
    pub checks: CheckKind,
    /// The shape.
    pub geometry: Geometry,
    /// The group was closed: nothing follows the checkpoint.
    pub clean: bool,
    /// Number of the checkpoint.
    pub ckpt: CkptNo,
    /// The Seq that it covers.
    pub ckpt_seq: Seq,
    /// D: up to here everything is durable on all current drives.
    pub durable: Seq,
    /// First commit that the checkpoint does not cover.
    pub next_commit: CommitNo,
    /// Check of the commit before that one.
    pub previous: Check,
    /// Per column, where the ring is kept from.
    pub ring_start: Positions,
    /// Rows of the group.
    pub rows: u32,
    /// Levels of inner pages above the row pages.
    pub row_height: u8,
    /// Root of the row pages; absent while the group has no row but the home row.
    pub row_pages: Ref,
    /// The newest history page; absent while the newest line is the only one.
    pub history: Ref,
    /// The newest history line; the last of the history, not on the pages.
    pub line: Option<Line>,
    /// Of an encrypted group the lowest number of a data key that something may lie under; else 0.
    pub oldest_key: u16,
    /// Of an encrypted group: no page or bitmap that can be reached is of a checkpoint with a lower number. 0 if nobody knows.
    pub oldest_ckpt: CkptNo,
    /// The directory; absent before the first checkpoint of a group.
    pub directory: Ref,
    /// The home row, ordered by leg, then column.
    pub home: Vec<Extent>,
    /// The drives and the states of their copies.
    pub drives: Vec<CopyEntry>,
}

impl Superblock {
    /// The block of the copy that lies at `home`, with the code of an encrypted group.
    pub(crate) fn encode_with(&self, home: Home, keys: Option<&Keys>) -> Block {
        let mut block = self.encode(home);
        if let Some(keys) = keys {
            let code = keys.superblock_code(self.line.as_ref(), &block[..at::CODE_AT]);
            block[at::CODE_AT..at::CODE_AT + 16].copy_from_slice(&code);
            sealed::seal(&mut block, at::MAGIC);
        }
        block
    }

    /// Whether a block that was decoded to this superblock has the code that it should have: with the key, that it was made
    /// by this group; without, that it says that it was made without one.
    pub(crate) fn is_genuine(&self, block: &Block, keys: Option<&Keys>) -> bool {
        let code = block[at::CODE_AT..at::CODE_AT + 16].try_into().expect("sixteen bytes");
        match keys {
            Some(keys) => {
                let fits = keys.superblock_fits(self.line.as_ref(), &block[..at::CODE_AT], &code);
                self.checks == CheckKind::AesGcm && fits
            }
            None => self.checks == CheckKind::Xxh3 && code == [0; 16],
        }
    }

    /// The block of the copy that lies at `home`. In an encrypted group it lacks its code.
    pub fn encode(&self, home: Home) -> Block {
        let mut block = [0; 4096];
        let b = &mut block;
        assert!(self.drives.len() <= MAX_DRIVES && self.home.len() == self.geometry.row_extents());
        b[at::CHECK_KIND_AT] = self.checks as u8;
        b[at::FLAGS_AT] = u8::from(self.clean);
        b[at::ROW_HEIGHT_AT] = self.row_height;
        b[at::DRIVES_AT] = self.drives.len() as u8;
        codec::put_uuid(b, at::GROUP_AT, self.group);
        codec::put_uuid(b, at::POOL_AT, self.pool);
        codec::put_u64(b, at::GEN_AT, self.generation.get());
        codec::put_u64(b, at::NUMBER_AT, self.version);
        codec::put_u32(b, at::CKPT_AT, self.ckpt.get());
        codec::put_u32(b, at::ROWS_AT, self.rows);
        codec::put_u64(b, at::CKPT_SEQ_AT, self.ckpt_seq.get());
        codec::put_u64(b, at::DURABLE_AT, self.durable.get());
        codec::put_u64(b, at::NEXT_COMMIT_AT, self.next_commit.get());
        codec::put_check(b, at::PREV_CHECK_AT, self.previous);
        put_geometry(b, &self.geometry);
        for (i, start) in self.ring_start.0.iter().enumerate() {
            codec::put_u32(b, at::RING_START_AT + i * 4, *start);
        }
        self.directory.encode(&mut b[at::DIRECTORY_AT..at::DIRECTORY_AT + 32]);
        self.row_pages.encode(&mut b[at::ROW_PAGES_AT..at::ROW_PAGES_AT + 32]);
        self.history.encode(&mut b[at::HISTORY_AT..at::HISTORY_AT + 32]);
        if let Some(line) = &self.line {
            line.encode(&mut b[at::LINE_AT..at::LINE_AT + rlog::layout::LINE_BYTES]);
        }
        codec::put_u16(b, at::OLDEST_KEY_AT, self.oldest_key);
        codec::put_u32(b, at::OLDEST_CKPT_AT, self.oldest_ckpt.get());
        b[at::SELF_AT] = home.extent.drive.get();
        b[at::SELF_AT + 1] = home.leg.get();
        b[at::SELF_AT + 2] = home.column.get();
        codec::put_u32(b, at::SELF_AT + 4, home.extent.extent.get());
        for (i, extent) in self.home.iter().enumerate() {
            put_extent(b, at::HOME_AT + i * at::HOME_BYTES, *extent);
        }
        for (i, drive) in self.drives.iter().enumerate() {
            let start = at::DRIVE_TABLE_AT + i * at::DRIVE_BYTES;
            drive.encode(&mut b[start..start + ENTRY_BYTES]);
        }
        sealed::seal(&mut block, at::MAGIC);
        block
    }

    /// Reads a superblock and where it says that it lies.
    ///
    /// # Errors
    /// `Bad`, as for every block with a check of its own; `Content` also for a geometry that cannot be and for
    /// a home row or drive table that does not fit it.
    pub fn decode(block: &Block) -> Result<(Self, Home), Bad> {
        sealed::open(block, at::MAGIC)?;
        let b = block;
        let checks = CheckKind::from_raw(b[at::CHECK_KIND_AT]).ok_or(Bad::Content)?;
        let geometry = geometry_at(b);
        let count = usize::from(b[at::DRIVES_AT]);
        if !geometry.check() || count > MAX_DRIVES {
            return Err(Bad::Content);
        }
        let drive = |i| CopyEntry::decode(&b[at::DRIVE_TABLE_AT + i * at::DRIVE_BYTES..][..ENTRY_BYTES]);
        let drives: Option<Vec<_>> = (0..count).map(drive).collect();
        let line = &b[at::LINE_AT..at::LINE_AT + rlog::layout::LINE_BYTES];
        let mut ring_start = Positions::default();
        for i in 0..MAX_COLUMNS {
            ring_start.0[i] = codec::u32_at(b, at::RING_START_AT + i * 4);
        }
        let own = Extent {
            drive: DriveIx::new(b[at::SELF_AT]),
            extent: ExtentNo::new(codec::u32_at(b, at::SELF_AT + 4)),
        };
        let home = Home {
            extent: own,
            leg: LegId::new(b[at::SELF_AT + 1]),
            column: Column::new(b[at::SELF_AT + 2]),
        };
        let superblock = Self {
            pool: codec::uuid_at(b, at::POOL_AT),
            group: codec::uuid_at(b, at::GROUP_AT),
            generation: Gen::new(codec::u64_at(b, at::GEN_AT)),
            version: codec::u64_at(b, at::NUMBER_AT),
            checks,
            geometry,
            clean: b[at::FLAGS_AT] & 1 == 1,
            ckpt: CkptNo::new(codec::u32_at(b, at::CKPT_AT)),
            ckpt_seq: Seq::new(codec::u64_at(b, at::CKPT_SEQ_AT)),
            durable: Seq::new(codec::u64_at(b, at::DURABLE_AT)),
            next_commit: CommitNo::new(codec::u64_at(b, at::NEXT_COMMIT_AT)),
            previous: codec::check_at(b, at::PREV_CHECK_AT),
            ring_start,
            rows: codec::u32_at(b, at::ROWS_AT),
            row_height: b[at::ROW_HEIGHT_AT],
            row_pages: Ref::decode(&b[at::ROW_PAGES_AT..at::ROW_PAGES_AT + 32]),
            history: Ref::decode(&b[at::HISTORY_AT..at::HISTORY_AT + 32]),
            line: Line::decode(line),
            oldest_key: codec::u16_at(b, at::OLDEST_KEY_AT),
            oldest_ckpt: CkptNo::new(codec::u32_at(b, at::OLDEST_CKPT_AT)),
            directory: Ref::decode(&b[at::DIRECTORY_AT..at::DIRECTORY_AT + 32]),
            home: (0..geometry.row_extents())
                .map(|i| extent_at(b, at::HOME_AT + i * at::HOME_BYTES))
                .collect(),
            drives: drives.ok_or(Bad::Content)?,
        };
        if superblock.sane(line, home) { Ok((superblock, home)) } else { Err(Bad::Content) }
    }

    fn sane(&self, line: &[u8], home: Home) -> bool {
        let no_line = line.iter().all(|byte| *byte == 0);
        let drives = self.drives.len();
        let ring = self.geometry.ring_blocks();
        self.rows >= 1
            && self.row_height <= 3
            && (self.line.is_some() || no_line)
            && (self.oldest_key == 0) == (self.checks == CheckKind::Xxh3)
            && (self.oldest_ckpt == CkptNo::ZERO || self.checks == CheckKind::AesGcm)
            && self.oldest_ckpt <= self.ckpt
            && self.home.iter().all(|extent| usize::from(extent.drive.get()) < drives)
            && self.ring_start.0.iter().all(|start| *start < ring)
            && self.version < VERSIONS_END
            && self.generation.get() < VERSIONS_END >> Activation::VERSION_BITS
            && self.next_commit.get() < COMMITS_END
            && self.ckpt_seq.get() < SEQS_END
            && self.durable.get() < SEQS_END
            && self.home.get(self.home_index(home)) == Some(&home.extent)
    }

    /// Index of a copy in the home row.
    pub fn home_index(&self, home: Home) -> usize {
        usize::from(home.leg.get()) * usize::from(self.geometry.columns) + usize::from(home.column.get())
    }

    /// The copies, in the order of the home row.
    pub fn homes(&self) -> impl Iterator<Item = Home> + '_ {
        let columns = self.geometry.columns;
        self.home.iter().enumerate().map(move |(i, extent)| Home {
            extent: *extent,
            leg: LegId::new((i / usize::from(columns)) as u8),
            column: Column::new((i % usize::from(columns)) as u8),
        })
    }

    /// The order of superblocks: the higher is newer.
    pub fn newness(&self) -> (Gen, u64) {
        (self.generation, self.version)
    }
}

fn put_extent(block: &mut Block, start: usize, extent: Extent) {
    block[start] = extent.drive.get();
    codec::put_u32(block, start + 4, extent.extent.get());
}

fn extent_at(block: &Block, start: usize) -> Extent {
    Extent { drive: DriveIx::new(block[start]), extent: ExtentNo::new(codec::u32_at(block, start + 4)) }
}

fn put_geometry(block: &mut Block, geometry: &Geometry) {
    block[at::LEGS_AT] = geometry.legs;
    block[at::COLUMNS_AT] = geometry.columns;
    codec::put_u32(block, at::EXTENT_BLOCKS_AT, geometry.extent_blocks);
    codec::put_u32(block, at::STRIPE_BLOCKS_AT, geometry.stripe_blocks);
    codec::put_u32(block, at::HOME_PAGES_AT, geometry.home.first);
    codec::put_u32(block, at::HOME_PAGES_AT + 4, geometry.home.blocks);
    for (i, piece) in geometry.pieces.iter().enumerate() {
        let start = at::PIECES_AT + i * at::PIECE_BYTES;
        codec::put_u32(block, start, piece.row.get());
        codec::put_u32(block, start + 4, piece.first);
        codec::put_u32(block, start + 8, piece.blocks);
    }
}

fn geometry_at(block: &Block) -> Geometry {
    let piece = |i: usize| {
        let start = at::PIECES_AT + i * at::PIECE_BYTES;
        let row = RowNo::new(codec::u32_at(block, start));
        Piece { row, first: codec::u32_at(block, start + 4), blocks: codec::u32_at(block, start + 8) }
    };
    let home = Piece {
        row: RowNo::ZERO,
        first: codec::u32_at(block, at::HOME_PAGES_AT),
        blocks: codec::u32_at(block, at::HOME_PAGES_AT + 4),
    };
    Geometry {
        legs: block[at::LEGS_AT],
        columns: block[at::COLUMNS_AT],
        stripe_blocks: codec::u32_at(block, at::STRIPE_BLOCKS_AT),
        extent_blocks: codec::u32_at(block, at::EXTENT_BLOCKS_AT),
        pieces: core::array::from_fn(piece),
        home,
    }
}
