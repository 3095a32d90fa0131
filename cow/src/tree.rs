//! The tree from Lba to `Ref`: its geometry and the look-up of a leaf.
//!
//! A tree of height h covers 128^h blocks. Leaves are level 0; the root Ref points to the page of level h - 1,
//! or is one hole over everything. Pages are immutable and found through a verified chain of Refs, so a
//! look-up needs no lock against the checkpoint that builds the next root: both see complete trees.
use crate::cache::PageCache;
use crate::layout::{PAGE_REFS, PAGE_SHIFT};
use crate::page;
use crate::refs::Ref;
use base::{Blocks, BufId, Lba, Memory, Pba, Seq};

/// Levels of pages of a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Height(u8);

impl Height {
    /// A tree of one leaf: 128 blocks, 512 KiB.
    pub const MIN: Self = Self(1);
    /// The tallest tree: 2^42 blocks, 16 PiB. The delta packs an Lba into as many bits.
    pub const MAX: Self = Self(6);

    /// The lowest tree that covers so many blocks. Panics beyond what `MAX` covers: the size of a volume is
    /// checked where it is given.
    pub fn for_blocks(blocks: Blocks) -> Self {
        assert!(blocks <= Self::MAX.covers(), "a volume of {blocks} blocks is larger than a map can be");
        let mut height = Self::MIN;
        while height.covers() < blocks {
            height.0 += 1;
        }
        height
    }

    /// The height that a stored byte means, if it is one.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        if raw >= Self::MIN.0 && raw <= Self::MAX.0 { Some(Self(raw)) } else { None }
    }

    /// The number of levels.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The level of the page that the root Ref points to.
    pub const fn root_level(self) -> u8 {
        self.0 - 1
    }

    /// Blocks that a tree of this height maps: 128^height.
    pub const fn covers(self) -> Blocks {
        page_covers(self.root_level())
    }
}

/// Blocks that one page of this level maps: 128^(level + 1).
pub const fn page_covers(level: u8) -> Blocks {
    Blocks::new(1 << (PAGE_SHIFT * (level as u32 + 1)))
}

/// The index, in a page of this level, of the Ref that leads to this block.
pub const fn index(lba: Lba, level: u8) -> usize {
    (lba.get() >> (PAGE_SHIFT * level as u32)) as usize % PAGE_REFS
}

/// What a look-up came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaf {
    /// The leaf lies in this frame, valid until the cache is next changed: the block's Ref is
    /// `page::get(memory.block(buf), tree::index(lba, 0))`.
    Page(BufId),
    /// The block lies in a hole of this Seq.
    Hole(Seq),
    /// This page is not cached. Have it read into the cache, then look up again.
    Need(Ref),
    /// A page that has its right check holds this Ref, which no map holds.
    Damaged(Ref),
}

/// Finds the leaf of `lba` below `root`. Work is bounded by the height.
///
/// Whether a Ref lies inside the group's space is for the caller to say, who knows the space (`Ref::valid`);
/// the leaf's own Refs likewise. Panics if the tree does not cover `lba`.
pub fn leaf(root: &Ref, height: Height, lba: Lba, cache: &mut PageCache, memory: &impl Memory) -> Leaf {
    find(root, height.root_level(), lba, cache, memory).0
}

/// The same below the page `root` of level `top`; says as well on which level the answer was found.
pub(crate) fn find(root: &Ref, top: u8, lba: Lba, cache: &mut PageCache, memory: &impl Memory) -> (Leaf, u8) {
    assert!(lba.get() < page_covers(top).get(), "Lba {lba} lies outside a tree of level {top}");
    let mut at = *root;
    let mut level = top;
    loop {
        if !at.valid(Blocks::new(Pba::LIMIT)) {
            return (Leaf::Damaged(at), level);
        }
        if at.is_hole() {
            return (Leaf::Hole(at.when), level);
        }
        let Some(buf) = cache.get(&at) else { return (Leaf::Need(at), level) };
        if level == 0 {
            return (Leaf::Page(buf), 0);
        }
        at = page::get(memory.block(buf), index(lba, level));
        level -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Block, Check, CkptNo, VecMemory};

    #[test]
    fn heights() {
        for (blocks, levels) in
            [(0, 1), (1, 1), (128, 1), (129, 2), (16384, 2), (16385, 3), (1 << 35, 5), ((1 << 35) + 1, 6)]
        {
            assert_eq!(Height::for_blocks(Blocks::new(blocks)).get(), levels, "{blocks} blocks");
        }
        assert_eq!(Height::from_raw(0), None);
        assert_eq!(Height::from_raw(7), None);
        assert_eq!(Height::from_raw(6), Some(Height::MAX));
        assert_eq!(Height::MAX.covers(), Blocks::new(1 << 42));
        assert_eq!(index(Lba::new(128 * 5 + 7), 0), 7);
        assert_eq!(index(Lba::new(128 * 5 + 7), 1), 5);
        assert_eq!(index(Lba::new(128 * 5 + 7), 2), 0);
    }

    /// Puts a page into the cache the way a read of the drive does.
    fn load(cache: &mut PageCache, memory: &mut VecMemory, page: &Block, r: &Ref) {
        let crate::cache::Reserve::Frame(buf) = cache.reserve(r) else { panic!("no frame") };
        *memory.block_mut(buf) = *page;
        assert!(cache.loaded(buf, memory));
    }

    #[test]
    fn a_look_up_asks_for_what_is_missing_and_refuses_what_is_no_ref() {
        let mut memory = VecMemory::new(4);
        let mut cache = PageCache::new(BufId::new(0), 4);
        let two = Height::for_blocks(Blocks::new(1000));
        let hole = Ref::hole(Seq::new(8));
        let lba = Lba::new(130);
        assert_eq!(leaf(&hole, two, lba, &mut cache, &memory), Leaf::Hole(Seq::new(8)));

        let mut low = [0; 4096];
        page::fill(&mut low, &hole);
        let low_ref = Ref::page(Pba::new(7), Seq::new(8), CkptNo::new(1), Check::of(&low));
        let mut top = low;
        page::set(&mut top, 1, &low_ref);
        page::set(&mut top, 2, &Ref::ABSENT);
        let root = Ref::page(Pba::new(9), Seq::new(8), CkptNo::new(1), Check::of(&top));

        assert_eq!(leaf(&root, two, lba, &mut cache, &memory), Leaf::Need(root));
        load(&mut cache, &mut memory, &top, &root);
        assert_eq!(leaf(&root, two, lba, &mut cache, &memory), Leaf::Need(low_ref));
        load(&mut cache, &mut memory, &low, &low_ref);
        let Leaf::Page(buf) = leaf(&root, two, lba, &mut cache, &memory) else { panic!("not found") };
        assert_eq!(page::get(memory.block(buf), index(lba, 0)), hole);
        assert_eq!(leaf(&root, two, Lba::new(0), &mut cache, &memory), Leaf::Hole(Seq::new(8)));
        assert_eq!(leaf(&root, two, Lba::new(256), &mut cache, &memory), Leaf::Damaged(Ref::ABSENT));
    }
}
