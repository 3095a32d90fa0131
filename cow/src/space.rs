//! Free space of a group: which blocks can be handed out, and the freeing rule.
//!
//! A block's life: *free*, *taken* (by a write, or by a checkpoint for a page), *mapped* (the durable checkpoint
//! refers to it), *limbo* (the durable checkpoint does not refer to it any more, but a read that began earlier
//! may hold it), free again. The rule that this file keeps: nothing becomes free before a checkpoint that does
//! not refer to it is durable, even if no checkpoint ever referred to it. So whatever a crash leaves as the
//! newest checkpoint, no block that it (or a record above it) refers to was overwritten.
//!
//! Accounts, held at every call: `free` = free bits of loaded regions + free counts of the others' summaries -
//! marks and limbo blocks that lie in those others. A checkpoint's becoming durable never changes `free`.
//!
//! Memory is bounded: at most `max_loaded` bitmaps are in memory, and any of them can be dropped, so that the last
//! free block is found however many regions have blocks that wait for a checkpoint. Blocks that wait for something
//! in a region that is not in memory stand on lists (`block_lists`), and are applied when it is loaded. Nothing is
//! scanned to find a run: see `shelves` and `runs`.
use crate::bitmap::{Bitmap, MAX_REGION_BLOCKS, Summary, WORD_BITS};
use crate::block_lists::{Changes, Marks};
use crate::refs::Ref;
use crate::region::Region;
use crate::shelves::{Set, Shelves};
use crate::space_layout::{BITMAP_SLOTS, TREE_PAGES_MARGIN};
use alloc::vec;
use alloc::vec::Vec;
use base::{Blocks, CkptNo, Pba, RegionNo};

mod checkpoint;
mod contradiction;
mod load;
mod take;

pub(crate) use checkpoint::Stored;
pub use contradiction::Contradiction;
pub use load::Want;
pub use take::Class;

/// Blocks that are never handed out because the geometry gives them a use: headers of extents, superblock slots,
/// the ring. (The bitmap slots are fixed too; `Space` knows them.)
pub trait Fixed {
    /// Calls `each` with the runs of fixed blocks that lie in this region; they may overlap. A region's fixed
    /// blocks never change.
    fn runs(&self, region: RegionNo, each: &mut dyn FnMut(Pba, Blocks));
}

/// Sizes of a group's free-space management.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceConfig {
    /// Blocks of a region: one extent's worth; a multiple of 64, at most 32768.
    pub region_blocks: u32,
    /// `Class::Home` is served from the regions below this one.
    pub home_regions: u32,
    /// Bitmaps kept in memory at once (14 KiB each). At least 4, so that each class can have a region; and more
    /// than the blocks of the largest request, so that it finds its space though each region has one free block.
    pub max_loaded: u32,
    /// Regions that there is room for, until `Space::make_room` (100 bytes of memory each).
    pub max_regions: u32,
    /// Blocks that one checkpoint can set plus clear, the pages of the directory not counted.
    pub max_changes: u32,
}

impl SpaceConfig {
    /// Changes that the directory of one checkpoint makes at most: every page of the bitmap tree, and the others,
    /// gets a new block and leaves an old one. Generous.
    fn directory_changes(&self) -> usize {
        2 * (self.max_regions as usize / 64 + TREE_PAGES_MARGIN)
    }
}

/// What is known of a region's bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The page of the directory that tells was not read yet.
    Unknown,
    /// On the drives, or fresh (the Ref is absent: no checkpoint has touched the region; fixed blocks only).
    Unloaded,
    /// Asked for by `wanted`, as of this checkpoint (0 for a fresh one).
    Loading(CkptNo),
    /// In memory, in this frame.
    Loaded(u32),
    /// Its bitmap cannot be read: nothing is handed out from it.
    Lost,
}

/// A region.
#[derive(Clone, Copy)]
struct Row {
    state: State,
    /// Where the durable checkpoint has its bitmap; absent if the region is fresh.
    bitmap: Ref,
    /// Free blocks and longest run in the durable checkpoint.
    free: u16,
    longest: u16,
    /// What the longest run can be now, if it is not in memory: what was taken counts, as far as it is known.
    /// Without this a region that is full only of marks would be loaded again and again.
    offers: u16,
    /// What the durable checkpoint changed was taken over (see `turn`).
    turned: bool,
}

impl Row {
    const UNKNOWN: Self =
        Self { state: State::Unknown, bitmap: Ref::ABSENT, free: 0, longest: 0, offers: 0, turned: true };
}

/// Free space of a group.
pub struct Space {
    config: SpaceConfig,
    rows: Vec<Row>,
    shelves: Shelves,
    frames: Vec<Region>,
    /// Frames that hold no region; at least `loading` of them.
    spare: Vec<u32>,
    cursors: [Option<take::Cursor>; take::CLASSES],
    /// Blocks that can be handed out, in all regions.
    free: u64,
    /// Of these, in loaded regions.
    loaded_free: u64,
    /// Free blocks in the durable checkpoint's bitmaps and the fresh regions.
    durable_free: u64,
    changes: Changes,
    /// The bitmaps that the running checkpoint has written.
    sealed: Vec<(RegionNo, Ref)>,
    /// Pages taken since the last durable checkpoint.
    placed: Vec<Pba>,
    marks: Marks,
    /// What the durable checkpoint changed, until it is released. Only what it cleared counts.
    limbo: Changes,
    loading: u32,
    /// Regions whose bitmaps cannot be read.
    lost: u32,
    needs: load::Needs,
    /// Once set, nothing is handed out any more.
    contradiction: Option<Contradiction>,
}

impl Space {
    /// Free space without any region. Allocates all that it needs until `make_room`.
    pub fn new(config: SpaceConfig) -> Self {
        assert!(config.region_blocks.is_multiple_of(WORD_BITS));
        assert!((WORD_BITS..=MAX_REGION_BLOCKS).contains(&config.region_blocks));
        assert!(config.max_loaded >= 4, "each class needs a region in memory");
        assert!(u64::from(config.max_regions) * u64::from(config.region_blocks) <= Pba::LIMIT);
        let changes = config.max_changes as usize + config.directory_changes();
        Self {
            rows: Vec::with_capacity(config.max_regions as usize),
            shelves: Shelves::new(config.max_regions),
            frames: vec![Region::new(config.region_blocks); config.max_loaded as usize],
            spare: (0..config.max_loaded).rev().collect(),
            cursors: [None; take::CLASSES],
            free: 0,
            loaded_free: 0,
            durable_free: 0,
            changes: Changes::new(changes, config.max_regions),
            sealed: Vec::with_capacity(config.max_regions as usize),
            placed: Vec::with_capacity(changes),
            // The layer that is being merged and the one that is being filled.
            marks: Marks::new(2 * changes),
            limbo: Changes::new(changes, config.max_regions),
            loading: 0,
            lost: 0,
            needs: load::Needs::default(),
            contradiction: None,
            config,
        }
    }

    /// Adds `regions` fresh regions after those that there are: new rows, durable in the superblock. At an open
    /// also for rows that the superblock names and the directory does not know yet.
    pub fn grow(&mut self, regions: u32, fixed: &impl Fixed) {
        assert!(self.regions() + regions <= self.config.max_regions, "more regions than there is room for");
        for _ in 0..regions {
            let region = RegionNo::new(self.regions());
            self.rows.push(Row::UNKNOWN);
            let summary = self.fixed_bits(region, fixed).summary(self.config.region_blocks);
            self.describe(region, Ref::ABSENT, summary);
            self.free += u64::from(summary.free);
            self.durable_free += u64::from(summary.free);
        }
        self.needs.retry();
    }

    /// Room for this many regions in all. Allocates: for when a group is opened, or its volume grows.
    pub fn make_room(&mut self, regions: u32) {
        if regions <= self.config.max_regions {
            return;
        }
        assert!(u64::from(regions) * u64::from(self.config.region_blocks) <= Pba::LIMIT);
        self.config.max_regions = regions;
        let changes = self.config.max_changes as usize + self.config.directory_changes();
        self.rows.reserve_exact(regions as usize - self.rows.len());
        self.shelves.make_room(regions);
        self.changes.make_room(changes, regions);
        self.limbo.make_room(changes, regions);
        self.sealed.reserve_exact(regions as usize - self.sealed.len());
        self.placed.reserve_exact(changes.saturating_sub(self.placed.len()));
        self.marks.make_room(2 * changes);
    }

    /// Begins from a durable checkpoint: its regions, not described yet, with `free` free blocks in all.
    pub(crate) fn resume(&mut self, regions: u32, free: Blocks) {
        assert!(self.rows.is_empty() && regions <= self.config.max_regions);
        self.rows.resize(regions as usize, Row::UNKNOWN);
        self.free = free.get();
        self.durable_free = free.get();
    }

    /// What the durable directory says of a region that was unknown.
    fn describe(&mut self, region: RegionNo, bitmap: Ref, summary: Summary) {
        let row = &mut self.rows[region.get() as usize];
        assert!(row.state == State::Unknown);
        *row = Row {
            state: State::Unloaded,
            bitmap,
            free: summary.free as u16,
            longest: summary.longest as u16,
            offers: summary.longest as u16,
            turned: true,
        };
        self.shelve(region);
    }

    /// Something in the region was freed: its longest run is at most what the durable checkpoint says. Whether it
    /// is, a load finds out.
    fn forget_offer(&mut self, region: RegionNo) {
        let row = &mut self.rows[region.get() as usize];
        row.offers = row.longest;
    }

    /// Puts a region on the shelf where it belongs.
    fn shelve(&mut self, region: RegionNo) {
        let row = &self.rows[region.get() as usize];
        // The home regions hold what cannot lie elsewhere: others find them last.
        let last = region.get() < self.config.home_regions;
        match row.state {
            State::Unloaded => {
                self.shelves.put(region.get(), Set::Unloaded, u32::from(row.offers), true);
            }
            State::Loaded(frame) => {
                let longest = self.frames[frame as usize].longest();
                self.shelves.put(region.get(), Set::Loaded, longest, last);
            }
            _ => self.shelves.remove(region.get()),
        }
    }

    /// The bits that are used in a fresh region.
    fn fixed_bits(&self, region: RegionNo, fixed: &impl Fixed) -> Bitmap {
        let (first, end) = self.bounds(region);
        let mut bits = Bitmap::EMPTY;
        bits.set_run(BITMAP_SLOTS[0], 1);
        bits.set_run(BITMAP_SLOTS[1], 1);
        fixed.runs(region, &mut |pba, blocks| {
            assert!(pba >= first && pba + blocks <= end, "a fixed run lies outside its region");
            bits.set_run((pba - first).get() as u32, blocks.get() as u32);
        });
        bits
    }

    /// First block of a region and the one after its last.
    fn bounds(&self, region: RegionNo) -> (Pba, Pba) {
        let blocks = u64::from(self.config.region_blocks);
        let first = Pba::new(u64::from(region.get()) * blocks);
        (first, first + Blocks::new(blocks))
    }

    /// Which region a block is in, and its bit there.
    fn locate(&self, pba: Pba) -> (RegionNo, u32) {
        let blocks = u64::from(self.config.region_blocks);
        let region = pba.get() / blocks;
        assert!(region < u64::from(self.regions()), "block {pba} lies outside the group's space");
        (RegionNo::new(region as u32), (pba.get() % blocks) as u32)
    }

    /// The frame of a region that is in memory.
    fn frame_of(&self, region: RegionNo) -> Option<u32> {
        match self.rows[region.get() as usize].state {
            State::Loaded(frame) => Some(frame),
            _ => None,
        }
    }

    /// Regions that there are.
    pub fn regions(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Regions whose bitmap is in memory.
    pub fn loaded_regions(&self) -> u32 {
        // Frames that wait for a load count as spare.
        self.config.max_loaded - self.spare.len() as u32
    }

    /// The sizes.
    pub fn config(&self) -> &SpaceConfig {
        &self.config
    }

    /// Blocks that can be handed out, in all regions, in memory or not. While recovery marks, blocks that it
    /// marks twice count twice.
    pub fn free_now(&self) -> Blocks {
        Blocks::new(self.free.saturating_sub(self.marks.unsettled() as u64))
    }

    /// Blocks that `release_limbo` would make free.
    pub fn limbo(&self) -> Blocks {
        Blocks::new(self.limbo.clears() as u64)
    }

    /// All blocks of the group's space.
    pub fn total(&self) -> Blocks {
        Blocks::new(u64::from(self.regions()) * u64::from(self.config.region_blocks))
    }

    /// Whether a block could be handed out right now; `None` if its region is not in memory. For checkers.
    pub fn is_free(&self, pba: Pba) -> Option<bool> {
        let (region, bit) = self.locate(pba);
        let frame = self.frame_of(region)?;
        Some(!self.frames[frame as usize].alloc().get(bit))
    }
}

#[cfg(test)]
mod tests;
