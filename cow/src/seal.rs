//! The second half of a checkpoint: bitmaps and directory.
//!
//! The maps are merged; `Space` has the list of blocks that became mapped and that are mapped no more. Now the
//! bitmaps of all regions on that list are written, and the tree of Refs to them, up to the root page. The knot:
//! every page of that tree needs a new block and frees its old one, which changes bitmaps, which changes pages of
//! the tree. So the order is
//!
//! 1. *Place.* Every page that will change gets its block, and its old block is cleared, until no further bitmap
//!    becomes dirty. Nothing is written. This ends: each round either makes a region dirty that was not, or
//!    places a page that was not placed; none is ever undone; there are finitely many of both. (In practice it
//!    ends at once: all pages come from one region, and the old pages lie in few.)
//! 2. *Bitmaps.* Now the list of changes is final. Each dirty bitmap is made and written to that of its two slots
//!    which the durable directory does not name. Its entry is known.
//! 3. *Tree*, from the leaves up: each page's content is final when its children's Refs are.
//! 4. *Top*: volumes page, list of cut subtrees, root page.
//!
//! No page's content depends on a bitmap that changes later, so each block is written once.
//!
//! Crash story: until a superblock names the root page, nothing that is written here means anything: pages lie on
//! blocks that the durable checkpoint does not use, bitmaps in slots that its directory does not name. The
//! writes may reach the drives in any order; the caller flushes them all before that superblock. A seal that is
//! given up is followed by `Space::checkpoint_failed`, and may be repeated under a new checkpoint number.
use crate::bitmap::Bitmap;
use crate::cache::PageCache;
use crate::directory::{CutList, Directory, Root, Volumes, encode_cuts, encode_volumes};
use crate::layout::{PAGE_REFS, PAGE_SHIFT};
use crate::open::tree_page;
use crate::page;
use crate::refs::Ref;
use crate::space::{Class, Fixed, Space, SpaceConfig, Stored};
use crate::space_layout::TREE_LEVELS_MAX;
use alloc::vec;
use alloc::vec::Vec;
use base::{Blocks, BufId, CkptNo, Memory, Pba, RegionNo, Seq};

/// Buffers that a seal needs at least; more let more reads and writes overlap.
pub const MIN_SEAL_BUFFERS: u32 = 2;
/// Regions whose pages are placed in one step: about 50 us.
const PATHS: usize = 1 << 8;

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealStep {
    /// Have this page read into the cache, then call again.
    NeedPage(Ref),
    /// Read this bitmap, from any leg where it has its Ref's check, into `buf`; then call `bitmap_read`, and
    /// meanwhile go on calling `step`.
    NeedBitmap {
        /// The region.
        region: RegionNo,
        /// Where its bitmap is.
        bitmap: Ref,
        /// Where to.
        buf: BufId,
    },
    /// Write this block on every leg; then call `written`, and meanwhile go on calling `step`.
    WriteBlock {
        /// Where to.
        pba: Pba,
        /// What.
        buf: BufId,
    },
    /// A bounded amount of work was done and more is to do: call again.
    More,
    /// Nothing can be done before `written` or `bitmap_read` is called.
    Wait,
    /// No block for a page is free in the regions that are in memory. Serve `Space::wanted` and call again; if it
    /// has nothing, give the checkpoint up.
    NoSpace,
    /// Free space and the map contradict each other (`Space::contradiction`): the checkpoint cannot be taken, and
    /// no other either.
    Contradiction,
    /// Everything is written; once that is flushed, a superblock may name this directory.
    Done {
        /// The Ref of its root page.
        directory: Ref,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    PlaceTop,
    PlaceTree,
    Bitmaps,
    Tree,
    Top,
    Finish,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Buffer {
    Free,
    /// A bitmap is being read into it.
    Reading(RegionNo),
    /// The bitmap is there.
    Read(RegionNo),
    Writing,
}

/// The pages that are not part of the bitmap tree, in the order in which they are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Top {
    Volumes = 0,
    Cuts = 1,
    Root = 2,
}

const TOP: [Top; 3] = [Top::Volumes, Top::Cuts, Top::Root];

/// Writes bitmaps and directory of one checkpoint at a time. Allocates at construction and in `make_room` only.
pub struct Seal {
    first: BufId,
    buffers: Vec<Buffer>,
    phase: Phase,
    /// The durable directory, and the one in the making.
    old: Directory,
    new: Directory,
    /// New blocks of the top pages.
    top: [Option<Pba>; TOP.len()],
    /// Dirty regions (whose pages are placed, then whose bitmaps are made), then pages of the tree, then top
    /// pages that are done.
    done: usize,
    /// Tree pages that change: level by level, one Ref for each page there can be. Absent: it does not change.
    /// While placing only the Pba counts.
    pages: Vec<Ref>,
    /// Where in `pages` each level begins.
    levels: [usize; TREE_LEVELS_MAX as usize + 1],
}

/// Why a step ends before its work does.
type Stop<T> = Result<T, SealStep>;

impl Seal {
    /// A seal that owns the buffers `first .. first + buffers`, for a space of these sizes.
    pub fn new(first: BufId, buffers: u32, config: &SpaceConfig) -> Self {
        assert!(buffers >= MIN_SEAL_BUFFERS, "a seal needs {MIN_SEAL_BUFFERS} buffers");
        let levels = levels_of(config);
        Self {
            first,
            buffers: vec![Buffer::Free; buffers as usize],
            phase: Phase::Idle,
            old: Directory::none(),
            new: Directory::none(),
            top: [None; TOP.len()],
            done: 0,
            pages: vec![Ref::ABSENT; levels[TREE_LEVELS_MAX as usize]],
            levels,
        }
    }

    /// Makes room for a space of these sizes. No seal may be under way.
    pub fn make_room(&mut self, config: &SpaceConfig) {
        assert!(self.phase == Phase::Idle, "a seal is under way");
        self.levels = levels_of(config);
        self.pages.resize(self.levels[TREE_LEVELS_MAX as usize], Ref::ABSENT);
    }

    /// Begins: the maps are merged up to `seq`, all their changes are on `Space`'s list, and the limbo of the
    /// checkpoint before is released. `durable` is the
    /// directory that the superblock names (`Directory::none()` for a new group), `volumes` and `cuts` are what
    /// the new one shall say.
    pub fn begin(&mut self, durable: &Directory, ckpt: CkptNo, seq: Seq, volumes: &Volumes, cuts: &CutList) {
        assert!(self.phase == Phase::Idle && self.in_flight() == 0, "a seal is under way");
        assert!(ckpt > durable.root.ckpt || durable.at.is_absent(), "checkpoint numbers only grow");
        assert!(ckpt > CkptNo::ZERO, "checkpoint 0 stands for none");
        self.old = durable.clone();
        self.new.volumes = volumes.clone();
        self.new.cuts = cuts.clone();
        self.new.at = Ref::ABSENT;
        self.new.root = Root { ckpt, seq, ..durable.root };
        self.phase = Phase::PlaceTop;
        self.top = [None; TOP.len()];
        self.pages.fill(Ref::ABSENT);
        self.done = 0;
    }

    /// Whether a seal is under way.
    pub fn is_running(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// Buffers being read or written.
    pub fn in_flight(&self) -> usize {
        self.buffers.iter().filter(|buffer| matches!(buffer, Buffer::Reading(_) | Buffer::Writing)).count()
    }

    /// The directory that was sealed last; whole after `Done`.
    pub fn directory(&self) -> &Directory {
        assert!(self.phase == Phase::Idle && !self.new.at.is_absent(), "nothing is sealed");
        &self.new
    }

    /// The block in this buffer is written on every leg.
    pub fn written(&mut self, buf: BufId) {
        let buffer = self.buffer(buf);
        assert!(*buffer == Buffer::Writing, "{buf:?} is not being written");
        *buffer = Buffer::Free;
    }

    /// The bitmap that was asked for is in this buffer, verified.
    pub fn bitmap_read(&mut self, buf: BufId) {
        let buffer = self.buffer(buf);
        let Buffer::Reading(region) = *buffer else { panic!("{buf:?} is not being read") };
        *buffer = Buffer::Read(region);
    }

    /// Gives up; no read or write of a buffer may be in flight. `Space::checkpoint_failed` is to follow.
    pub fn abort(&mut self) {
        self.buffers.fill(Buffer::Free);
        self.phase = Phase::Idle;
        self.new.at = Ref::ABSENT;
    }

    fn buffer(&mut self, buf: BufId) -> &mut Buffer {
        &mut self.buffers[(buf.get() - self.first.get()) as usize]
    }

    /// Goes on. Bounded work; see `SealStep` for what is to be done then.
    pub fn step<M: Memory>(
        &mut self,
        space: &mut Space,
        cache: &mut PageCache,
        memory: &mut M,
        fixed: &impl Fixed,
    ) -> SealStep {
        let result = match self.phase {
            Phase::Idle => panic!("no seal is under way"),
            Phase::PlaceTop => self.place_top(space),
            Phase::PlaceTree => self.place_tree(space, cache, memory),
            Phase::Bitmaps => self.write_bitmap(space, memory, fixed),
            Phase::Tree => self.write_tree_page(space, cache, memory),
            Phase::Top => self.write_top_page(space, cache, memory),
            Phase::Finish => self.finish(),
        };
        match result {
            Ok(step) | Err(step) => step,
        }
    }

    /// Phase 1, first half: blocks for the pages that change in any case.
    fn place_top(&mut self, space: &mut Space) -> Stop<SealStep> {
        space.assert_released();
        for which in TOP {
            let wanted = which != Top::Cuts || !self.new.cuts.is_empty();
            if wanted && self.top[which as usize].is_none() {
                self.top[which as usize] = Some(take_page(space)?);
            }
        }
        let old = [self.old.at, self.old.root.volumes, self.old.root.cuts];
        old.iter().filter(|page| !page.is_absent()).for_each(|page| space.clear(page.pba));
        self.phase = Phase::PlaceTree;
        Ok(SealStep::More)
    }

    /// Phase 1, second half: a block for every page of the tree that changes, until none is left.
    fn place_tree(
        &mut self,
        space: &mut Space,
        cache: &mut PageCache,
        memory: &impl Memory,
    ) -> Stop<SealStep> {
        for _ in 0..PATHS {
            let Some(region) = space.dirty().get(self.done).copied() else {
                self.done = 0;
                self.phase = Phase::Bitmaps;
                break;
            };
            if self.grow_tree(region.get()) {
                self.done = 0;
                continue;
            }
            self.place_path(region.get(), space, cache, memory)?;
            self.done += 1;
        }
        Ok(SealStep::More)
    }

    /// Makes the tree so high that it tells of this region. Whether it grew: then the paths that are placed end below
    /// its root, and all are placed anew.
    fn grow_tree(&mut self, region: u32) -> bool {
        let height = &mut self.new.root.tree_height;
        let before = *height;
        while u64::from(region) >> (PAGE_SHIFT * u32::from(*height)) != 0 || *height == 0 {
            *height += 1;
        }
        *height > before
    }

    /// Places the pages from the root of the tree to the leaf that tells of this region.
    fn place_path(
        &mut self,
        region: u32,
        space: &mut Space,
        cache: &mut PageCache,
        memory: &impl Memory,
    ) -> Stop<()> {
        for level in (0..self.new.root.tree_height).rev() {
            let index = u64::from(region) >> (PAGE_SHIFT * (u32::from(level) + 1));
            self.place_page(level, index as u32, space, cache, memory)?;
        }
        Ok(())
    }

    fn place_page(
        &mut self,
        level: u8,
        index: u32,
        space: &mut Space,
        cache: &mut PageCache,
        memory: &impl Memory,
    ) -> Stop<()> {
        let at = self.levels[level as usize] + index as usize;
        if !self.pages[at].is_absent() {
            return Ok(());
        }
        let old = tree_page(&self.old.root, level, index, cache, memory).map_err(SealStep::NeedPage)?;
        self.pages[at] = Ref { pba: take_page(space)?, ..Ref::ABSENT };
        if !old.is_absent() {
            space.clear(old.pba);
        }
        Ok(())
    }

    /// Phase 2: one bitmap made, or one asked for.
    fn write_bitmap(
        &mut self,
        space: &mut Space,
        memory: &mut impl Memory,
        fixed: &impl Fixed,
    ) -> Stop<SealStep> {
        for at in 0..self.buffers.len() {
            if let Buffer::Read(region) = self.buffers[at] {
                let buf = self.first.plus(at as u32);
                let bits = Bitmap::decode(memory.block(buf));
                return self.seal_bitmap(region, bits, at, space, memory);
            }
        }
        let Some(region) = space.dirty().get(self.done).copied() else {
            if self.buffers.iter().any(|buffer| matches!(buffer, Buffer::Reading(_))) {
                return Err(SealStep::Wait);
            }
            space.sort_sealed();
            self.done = 0;
            self.phase = Phase::Tree;
            return Ok(SealStep::More);
        };
        let at = self.free_buffer()?;
        self.done += 1;
        match space.stored(region, fixed) {
            Stored::Unknown => panic!("a checkpoint began before the open was done"),
            Stored::Memory(bits) => self.seal_bitmap(region, bits, at, space, memory),
            Stored::Drive(bitmap) => {
                self.buffers[at] = Buffer::Reading(region);
                Ok(SealStep::NeedBitmap { region, bitmap, buf: self.first.plus(at as u32) })
            }
        }
    }

    fn seal_bitmap(
        &mut self,
        region: RegionNo,
        bits: Bitmap,
        at: usize,
        space: &mut Space,
        memory: &mut impl Memory,
    ) -> Stop<SealStep> {
        let buf = self.first.plus(at as u32);
        let entry = space
            .seal_bitmap(region, bits, self.new.root.ckpt, memory, buf)
            .map_err(|_| SealStep::Contradiction)?;
        self.buffers[at] = Buffer::Writing;
        Ok(SealStep::WriteBlock { pba: entry.pba, buf })
    }

    /// Phase 3: one page of the tree, the lower levels first.
    fn write_tree_page(
        &mut self,
        space: &Space,
        cache: &mut PageCache,
        memory: &mut impl Memory,
    ) -> Stop<SealStep> {
        while self.pages.get(self.done).is_some_and(Ref::is_absent) {
            self.done += 1;
        }
        if self.done == self.pages.len() {
            let root_level = usize::from(self.new.root.tree_height.saturating_sub(1));
            self.new.root.tree = self.pages[self.levels[root_level]];
            assert!(!self.new.root.tree.is_absent(), "a checkpoint changes at least its own pages' bitmaps");
            // When the tree grows, its old root becomes a child. It need not be looked for: the old directory's
            // root page is freed, and lies in a region below the old root, which is rewritten therefore.
            let old_root = usize::from(self.old.root.tree_height.saturating_sub(1));
            let placed = |level: usize| !self.pages[self.levels[level]].is_absent();
            assert!(
                self.old.root.tree_height == 0 || placed(old_root),
                "a tree that grows loses what it had"
            );
            // Levels that were added lead on through their first page only, and must do so on each of them.
            let led_to = (0..root_level).all(|level| !placed(level) || placed(level + 1));
            assert!(led_to, "a tree that grows loses a page between its old root and its new one");
            self.done = 0;
            self.phase = Phase::Top;
            return Ok(SealStep::More);
        }
        let level = self.levels.partition_point(|start| *start <= self.done) - 1;
        let index = self.done - self.levels[level];
        let at = self.free_buffer()?;
        let buf = self.first.plus(at as u32);
        self.copy_old_page(level as u8, index as u32, buf, cache, memory)?;
        self.fill_in(level, index, space, memory.block_mut(buf));
        let page = self.seal_page(self.pages[self.done].pba, at, cache, memory);
        self.pages[self.done] = page;
        self.done += 1;
        Ok(SealStep::WriteBlock { pba: page.pba, buf })
    }

    /// Puts what the durable directory has at this place into a buffer.
    fn copy_old_page(
        &self,
        level: u8,
        index: u32,
        buf: BufId,
        cache: &mut PageCache,
        memory: &mut impl Memory,
    ) -> Stop<()> {
        let root = &self.old.root;
        let old = tree_page(root, level, index, cache, memory).map_err(SealStep::NeedPage)?;
        if !old.is_absent() {
            let from = cache.get(&old).ok_or(SealStep::NeedPage(old))?;
            memory.copy_block(from, buf);
            return Ok(());
        }
        memory.block_mut(buf).fill(0);
        Ok(())
    }

    /// Puts the new Refs into a page of the tree.
    fn fill_in(&self, level: usize, index: usize, space: &Space, page: &mut base::Block) {
        let first = index << PAGE_SHIFT;
        if level == 0 {
            let end = RegionNo::new((first + PAGE_REFS) as u32);
            for (region, bitmap) in space.sealed(RegionNo::new(first as u32), end) {
                page::set(page, region.get() as usize - first, bitmap);
            }
            return;
        }
        let below = self.levels[level - 1] + first;
        let end = self.levels[level].min(below + PAGE_REFS);
        for (i, child) in self.pages[below..end].iter().enumerate() {
            if !child.is_absent() {
                page::set(page, i, child);
            }
        }
    }

    /// Phase 4: one of the other pages.
    fn write_top_page(
        &mut self,
        space: &Space,
        cache: &mut PageCache,
        memory: &mut impl Memory,
    ) -> Stop<SealStep> {
        let Some(which) = TOP.get(self.done).copied() else {
            self.phase = Phase::Finish;
            return Ok(SealStep::More);
        };
        let Some(pba) = self.top[which as usize] else {
            self.done += 1;
            self.new.root.cuts = Ref::ABSENT;
            return Ok(SealStep::More);
        };
        let at = self.free_buffer()?;
        let buf = self.first.plus(at as u32);
        let page = memory.block_mut(buf);
        match which {
            Top::Volumes => encode_volumes(&self.new.volumes, page),
            Top::Cuts => encode_cuts(&self.new.cuts, page),
            Top::Root => {
                self.new.root.regions = space.regions();
                self.new.root.region_blocks = space.config().region_blocks;
                self.new.root.used = space.sealed_used();
                self.new.root.encode(page);
            }
        }
        let sealed = self.seal_page(pba, at, cache, memory);
        match which {
            Top::Volumes => self.new.root.volumes = sealed,
            Top::Cuts => self.new.root.cuts = sealed,
            Top::Root => self.new.at = sealed,
        }
        self.done += 1;
        Ok(SealStep::WriteBlock { pba, buf })
    }

    fn finish(&mut self) -> Stop<SealStep> {
        if self.in_flight() > 0 {
            return Err(SealStep::Wait);
        }
        self.phase = Phase::Idle;
        Ok(SealStep::Done { directory: self.new.at })
    }

    /// The Ref of a page that is whole, in a buffer that is being written from now on.
    fn seal_page(&mut self, pba: Pba, at: usize, cache: &mut PageCache, memory: &mut impl Memory) -> Ref {
        let buf = self.first.plus(at as u32);
        let Root { ckpt, seq, .. } = self.new.root;
        let kept = cache.keep(memory, buf);
        let page = Ref::page(pba, seq, ckpt, memory.seal_page(buf, pba, ckpt));
        cache.insert(&page, kept);
        self.buffers[at] = Buffer::Writing;
        page
    }

    fn free_buffer(&self) -> Stop<usize> {
        self.buffers.iter().position(|buffer| *buffer == Buffer::Free).ok_or(SealStep::Wait)
    }
}

/// Where each level of the bitmap tree begins among its pages.
fn levels_of(config: &SpaceConfig) -> [usize; TREE_LEVELS_MAX as usize + 1] {
    let regions = config.max_regions as usize;
    let mut levels = [0; TREE_LEVELS_MAX as usize + 1];
    for level in 0..levels.len() - 1 {
        levels[level + 1] = levels[level] + regions.div_ceil(1 << (PAGE_SHIFT as usize * (level + 1)));
    }
    levels
}

/// A block for a page, already on the list of changes.
fn take_page(space: &mut Space) -> Stop<Pba> {
    let (pba, _) = space.take(Class::Page, Blocks::new(1)).ok_or(SealStep::NoSpace)?;
    space.set(pba);
    Ok(pba)
}

#[cfg(test)]
mod tests;
