//! The numbering of the driver's memory: which blocks belong to whom.
use crate::config::{Config, MAX_COMMITS, MAX_REPAIRS, MIN_CACHE_PAGES, RECOVERY_CHUNK};
use crate::group::sweep::UNIT_BLOCKS;
use crate::slots::SLOT_BLOCKS;
use base::limits::MAX_DRIVES;
use base::{BufId, SlotId};

/// Pages that the merge of a checkpoint holds: one open page for each level, the rest being written.
pub(crate) const MERGE_BUFFERS: u32 = 64;
/// Pages and bitmaps that the seal of a checkpoint holds.
pub(crate) const SEAL_BUFFERS: u32 = 64;
/// Home pages that one new row can change: two row pages and two inner pages above them for each level.
pub(crate) const ROW_PAGE_BUFFERS: u32 = 8;
/// Chunks that recovery reads or writes at once.
pub(crate) const RECOVERY_CHUNKS: u32 = 8;

/// First block of each use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers {
    pub commits: BufId,
    pub merge: BufId,
    pub seal: BufId,
    pub bitmap: BufId,
    pub repairs: BufId,
    pub superblocks: BufId,
    pub headers: BufId,
    pub row_pages: BufId,
    pub sweep: BufId,
    pub recovery: BufId,
    pub cache: BufId,
    pub total: u32,
}

impl Buffers {
    pub fn new(config: &Config) -> Self {
        assert!(
            config.cache_pages >= MIN_CACHE_PAGES,
            "a cache of {} pages is too small",
            config.cache_pages
        );
        // Those of the guest, and the one of `group/rekey.rs`.
        let mut next = (u32::from(config.slots) + 1) * SLOT_BLOCKS;
        let mut take = |blocks: u32| {
            let first = BufId::new(next);
            next += blocks;
            first
        };
        Self {
            commits: take(MAX_COMMITS as u32 * rlog::MAX_COMMIT_BLOCKS),
            merge: take(MERGE_BUFFERS),
            seal: take(SEAL_BUFFERS),
            bitmap: take(1),
            repairs: take(MAX_REPAIRS as u32),
            superblocks: take(MAX_DRIVES as u32),
            headers: take(MAX_DRIVES as u32),
            row_pages: take(ROW_PAGE_BUFFERS),
            sweep: take(UNIT_BLOCKS),
            recovery: take(RECOVERY_CHUNKS * RECOVERY_CHUNK),
            cache: take(config.cache_pages),
            total: next,
        }
    }

    /// First block of a slot.
    pub fn slot(slot: SlotId) -> BufId {
        BufId::new(u32::from(slot.0) * SLOT_BLOCKS)
    }

    /// The old content of an edge of a slot's request.
    pub fn edge(slot: SlotId, edge: u8) -> BufId {
        Self::slot(slot).plus(SLOT_BLOCKS - 2 + u32::from(edge))
    }

    /// The blocks of the commit in this place of the pipeline.
    pub fn commit(&self, index: usize) -> BufId {
        self.commits.plus(index as u32 * rlog::MAX_COMMIT_BLOCKS)
    }
}
