//! Reading a checkpoint's directory, when a group is opened.
//!
//! The top pages come first; then requests can be served. The bitmap tree is read after that, leaf by leaf (a
//! leaf tells 16 GiB of space where its bitmaps are and how full), and the bitmaps themselves only when space is
//! wanted. Nothing is written, so a crash during an open means nothing. Every page is reached through a verified
//! Ref; what is refused here has the right check and still makes no sense, and then nothing is opened.
use crate::cache::PageCache;
use crate::directory::{BadDirectory, Directory, Page, Root, decode_cuts, decode_volumes, leads};
use crate::layout::{PAGE_REFS, PAGE_SHIFT};
use crate::page;
use crate::refs::Ref;
use crate::space::{Fixed, Space};
use base::{Block, Blocks, BufId, Memory, RegionNo};

/// What an open came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenStep {
    /// Have this page read into the cache, then call again.
    NeedPage(Ref),
    /// The top pages are read: `directory` has them, and `Space` has the regions that they tell of. Regions of
    /// newer rows can be added and records marked now. Call again for the rest; no checkpoint begins before
    /// `Done`.
    Top,
    /// Something was done and more is to do: call again.
    More,
    /// Everything is read.
    Done,
    /// The directory cannot be used.
    Bad(BadDirectory),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Root,
    Volumes,
    Cuts,
    /// The next leaf of the bitmap tree.
    Leaf(u32),
    Done,
}

/// An open under way.
pub struct Open {
    directory: Directory,
    /// Blocks of the group's space by the superblock.
    space: Blocks,
    phase: Phase,
}

impl Open {
    /// Begins with the Ref that the superblock has, in a group with `space` blocks. The space's state must be
    /// new: no regions.
    pub fn new(directory: Ref, space: Blocks) -> Self {
        Self { directory: Directory { at: directory, ..Directory::none() }, space, phase: Phase::Root }
    }

    /// The directory; whole from `OpenStep::Top` on.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Goes on. Bounded: one page.
    pub fn step(
        &mut self,
        space: &mut Space,
        cache: &mut PageCache,
        memory: &impl Memory,
        fixed: &impl Fixed,
    ) -> OpenStep {
        match self.advance(space, cache, memory, fixed) {
            Ok(step) | Err(step) => step,
        }
    }

    fn advance(
        &mut self,
        space: &mut Space,
        cache: &mut PageCache,
        memory: &impl Memory,
        fixed: &impl Fixed,
    ) -> Result<OpenStep, OpenStep> {
        match self.phase {
            Phase::Root => {
                let root = self.root(need(cache, memory, &self.directory.at)?, space)?;
                self.directory.root = root;
                self.phase = Phase::Volumes;
                Ok(OpenStep::More)
            }
            Phase::Volumes => {
                let page = need(cache, memory, &self.directory.root.volumes)?;
                self.directory.volumes = decode_volumes(page, self.space).map_err(OpenStep::Bad)?;
                self.phase = Phase::Cuts;
                Ok(OpenStep::More)
            }
            Phase::Cuts => {
                let root = self.directory.root;
                if !root.cuts.is_absent() {
                    let page = need(cache, memory, &root.cuts)?;
                    self.directory.cuts = decode_cuts(page, self.space).map_err(OpenStep::Bad)?;
                }
                let blocks = u64::from(root.regions) * u64::from(root.region_blocks);
                space.resume(root.regions, Blocks::new(blocks) - root.used);
                self.phase = Phase::Leaf(0);
                Ok(OpenStep::Top)
            }
            Phase::Leaf(leaf) => self.leaf(leaf, space, cache, memory, fixed),
            Phase::Done => Ok(OpenStep::Done),
        }
    }

    fn root(&self, page: &Block, space: &Space) -> Result<Root, OpenStep> {
        let root = Root::decode(page, self.space).map_err(OpenStep::Bad)?;
        let config = space.config();
        let fits = root.ckpt == self.directory.at.ckpt()
            && root.region_blocks == config.region_blocks
            && root.regions <= config.max_regions;
        if fits { Ok(root) } else { Err(OpenStep::Bad(BadDirectory::OutOfRange(Page::Root))) }
    }

    fn leaf(
        &mut self,
        leaf: u32,
        space: &mut Space,
        cache: &mut PageCache,
        memory: &impl Memory,
        fixed: &impl Fixed,
    ) -> Result<OpenStep, OpenStep> {
        let root = &self.directory.root;
        let first = leaf << PAGE_SHIFT;
        if first >= root.regions {
            self.phase = Phase::Done;
            let adds_up = space.counts_add_up();
            return if adds_up { Ok(OpenStep::Done) } else { Err(OpenStep::Bad(BadDirectory::FreeCount)) };
        }
        let at = tree_page(root, 0, leaf, cache, memory).map_err(OpenStep::NeedPage)?;
        if !at.is_absent() && !leads(&at, self.space) {
            return Err(OpenStep::Bad(BadDirectory::OutOfRange(Page::Bitmaps)));
        }
        let page = if at.is_absent() { None } else { Some(need(cache, memory, &at)?) };
        if !space.summaries(RegionNo::new(first), page, fixed) {
            return Err(OpenStep::Bad(BadDirectory::OutOfRange(Page::Bitmaps)));
        }
        self.phase = Phase::Leaf(leaf + 1);
        Ok(OpenStep::More)
    }
}

/// A page from the cache.
fn need<'a>(cache: &mut PageCache, memory: &'a impl Memory, page: &Ref) -> Result<&'a Block, OpenStep> {
    cache.get(page).map(|buf: BufId| memory.block(buf)).ok_or(OpenStep::NeedPage(*page))
}

/// The Ref of a page of the bitmap tree, absent if there is none. `Err` has the page to read first.
pub(crate) fn tree_page(
    root: &Root,
    level: u8,
    index: u32,
    cache: &mut PageCache,
    memory: &impl Memory,
) -> Result<Ref, Ref> {
    let Some(above) = root.tree_height.checked_sub(level + 1) else { return Ok(Ref::ABSENT) };
    if u64::from(index) >> (PAGE_SHIFT * u32::from(above)) != 0 {
        return Ok(Ref::ABSENT);
    }
    let mut at = root.tree;
    for below in (0..above).rev() {
        if at.is_absent() {
            break;
        }
        let buf = cache.get(&at).ok_or(at)?;
        let child = (index >> (PAGE_SHIFT * u32::from(below))) as usize % PAGE_REFS;
        at = page::get(memory.block(buf), child);
    }
    Ok(at)
}
