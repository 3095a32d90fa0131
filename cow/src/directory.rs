//! The directory: the pages through which a checkpoint is found.
//!
//! The superblock has the Ref of the root page; it leads to the volumes (and through them to the maps), to the
//! tree of bitmaps, and to the list of subtrees that are still to be freed. All pages are immutable, written
//! anew by the checkpoint that changes them, on blocks that the checkpoint before does not refer to. So until
//! the superblock names the new root, the old directory is whole, and it never holds a mixture.
//!
//! Pages carry no check of their own: the Ref that leads to a page has it. What is verified here is what a check
//! cannot tell: that this version understands every field, and that numbers make sense before they become units.
use crate::layout::REF_BYTES;
use crate::refs::{Ref, RefFlags};
use crate::space_layout::*;
use crate::tree::Height;
use base::{Block, Blocks, CkptNo, Sectors, Seq, Uuid, VolumeId, codec};
use core::fmt;

/// Why a page of the directory cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadDirectory {
    /// The page does not begin as it should: it is something else.
    NotThePage(Page),
    /// A later version of the format wrote it.
    Version(u16),
    /// Something is used that this version does not know.
    Unknown(Page),
    /// A number is impossible in this group.
    OutOfRange(Page),
    /// The bitmaps' entries do not add up to what the root says.
    FreeCount,
}

/// Kinds of pages of the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// The root.
    Root,
    /// The list of volumes.
    Volumes,
    /// The list of subtrees to free.
    Cuts,
    /// A page of the bitmap tree.
    Bitmaps,
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root page",
            Self::Volumes => "volumes page",
            Self::Cuts => "page of cut subtrees",
            Self::Bitmaps => "bitmap tree",
        })
    }
}

impl fmt::Display for BadDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThePage(page) => {
                write!(
                    f,
                    "the directory's {page} is something else although its check is right: this is a bug"
                )
            }
            Self::Version(version) => write!(
                f,
                "the directory has format version {version}, this program knows {ROOT_VERSION}: use a newer one"
            ),
            Self::Unknown(page) => {
                write!(f, "the directory's {page} uses something this program does not know: use a newer one")
            }
            Self::OutOfRange(page) => {
                write!(
                    f,
                    "the directory's {page} has a number that is impossible in this group: do not write to it"
                )
            }
            Self::FreeCount => f.write_str(
                "the directory's free counts do not add up: run a check before writing to the group",
            ),
        }
    }
}

impl core::error::Error for BadDirectory {}

/// The root page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// The checkpoint that wrote it.
    pub ckpt: CkptNo,
    /// The maps hold every write up to here.
    pub seq: Seq,
    /// Used blocks, fixed ones included.
    pub used: Blocks,
    /// Regions of the group then.
    pub regions: u32,
    /// Blocks of a region.
    pub region_blocks: u32,
    /// Levels of the bitmap tree; 0 = no region was ever touched.
    pub tree_height: u8,
    /// Root of the bitmap tree; absent if it has no levels.
    pub tree: Ref,
    /// The volumes page.
    pub volumes: Ref,
    /// The cut list; absent if it is empty.
    pub cuts: Ref,
}

impl Root {
    /// The root of a group that has no checkpoint yet.
    pub const NONE: Self = Self {
        ckpt: CkptNo::ZERO,
        seq: Seq::ZERO,
        used: Blocks::ZERO,
        regions: 0,
        region_blocks: 0,
        tree_height: 0,
        tree: Ref::ABSENT,
        volumes: Ref::ABSENT,
        cuts: Ref::ABSENT,
    };

    /// Writes the page.
    pub fn encode(&self, page: &mut Block) {
        page.fill(0);
        page[..ROOT_MAGIC.len()].copy_from_slice(&ROOT_MAGIC);
        codec::put_u16(page, ROOT_VERSION_AT, ROOT_VERSION);
        page[ROOT_TREE_HEIGHT] = self.tree_height;
        codec::put_u32(page, ROOT_CKPT, self.ckpt.get());
        codec::put_u64(page, ROOT_SEQ, self.seq.get());
        codec::put_u64(page, ROOT_USED, self.used.get());
        codec::put_u32(page, ROOT_REGIONS, self.regions);
        codec::put_u32(page, ROOT_REGION_BLOCKS, self.region_blocks);
        self.volumes.encode(&mut page[ROOT_VOLUMES..]);
        self.tree.encode(&mut page[ROOT_TREE..]);
        self.cuts.encode(&mut page[ROOT_CUTS..]);
    }

    /// Reads a page that has its Ref's check, in a group of `space` blocks.
    pub fn decode(page: &Block, space: Blocks) -> Result<Self, BadDirectory> {
        if page[..ROOT_MAGIC.len()] != ROOT_MAGIC {
            return Err(BadDirectory::NotThePage(Page::Root));
        }
        let version = codec::u16_at(page, ROOT_VERSION_AT);
        if version != ROOT_VERSION {
            return Err(BadDirectory::Version(version));
        }
        let root = Self {
            ckpt: CkptNo::new(codec::u32_at(page, ROOT_CKPT)),
            seq: Seq::new(codec::u64_at(page, ROOT_SEQ)),
            used: Blocks::new(codec::u64_at(page, ROOT_USED)),
            regions: codec::u32_at(page, ROOT_REGIONS),
            region_blocks: codec::u32_at(page, ROOT_REGION_BLOCKS),
            tree_height: page[ROOT_TREE_HEIGHT],
            tree: ref_at(page, ROOT_TREE),
            volumes: ref_at(page, ROOT_VOLUMES),
            cuts: ref_at(page, ROOT_CUTS),
        };
        let mut known = [0; base::BLOCK_BYTES];
        if root.seq.get() >= Seq::LIMIT || !root.sensible(space) {
            return Err(BadDirectory::OutOfRange(Page::Root));
        }
        // Whatever is not zero and was not read is meant for a later version: snapshots, pins, and the rest.
        root.encode(&mut known);
        if known != *page { Err(BadDirectory::Unknown(Page::Root)) } else { Ok(root) }
    }

    fn sensible(&self, space: Blocks) -> bool {
        let blocks = u64::from(self.regions) * u64::from(self.region_blocks);
        let tree = if self.tree_height == 0 { self.tree.is_absent() } else { leads(&self.tree, space) };
        tree && self.tree_height <= TREE_LEVELS_MAX
            && leads(&self.volumes, space)
            && (self.cuts.is_absent() || leads(&self.cuts, space))
            && blocks <= space.get()
            && self.used.get() <= blocks
    }
}

/// Whether this can be the Ref of a page in a group of `space` blocks.
pub(crate) fn leads(page: &Ref, space: Blocks) -> bool {
    page.flags == RefFlags::NONE && page.valid(space)
}

fn ref_at(page: &Block, at: usize) -> Ref {
    Ref::decode(&page[at..at + REF_BYTES])
}

/// State of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum VolumeState {
    /// It is there. (Others, like being deleted, come with later versions.)
    Live = 1,
}

/// A volume, as the directory knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeEntry {
    /// Its id; never reused within the group.
    pub id: VolumeId,
    /// Levels of its map.
    pub height: Height,
    /// Its state.
    pub state: VolumeState,
    /// Its size.
    pub sectors: Sectors,
    /// The Seq that created it.
    pub created: Seq,
    /// Blocks of data that its map refers to as of the checkpoint, and those that subtrees cut off it still hold.
    /// A figure for people: nothing is decided by it. `None`: an earlier build made the volume and did not count.
    pub data: Option<Blocks>,
    /// The root of its map as of the checkpoint: a page or a hole.
    pub root: Ref,
    /// Its identity.
    pub uuid: Uuid,
}

impl VolumeEntry {
    fn encode(&self, to: &mut [u8]) {
        codec::put_u32(to, VOLUME_ID, self.id.get());
        to[VOLUME_HEIGHT] = self.height.get();
        to[VOLUME_STATE] = self.state as u8;
        codec::put_u64(to, VOLUME_SECTORS, self.sectors.get());
        codec::put_u64(to, VOLUME_CREATED, self.created.get());
        codec::put_u64(to, VOLUME_DATA, self.data.map_or(0, |data| data.get().saturating_add(1)));
        self.root.encode(&mut to[VOLUME_ROOT..]);
        codec::put_uuid(to, VOLUME_UUID, self.uuid);
    }

    fn decode(from: &[u8], space: Blocks) -> Result<Self, BadDirectory> {
        if from[VOLUME_STATE] != VolumeState::Live as u8 {
            return Err(BadDirectory::Unknown(Page::Volumes));
        }
        let bad = BadDirectory::OutOfRange(Page::Volumes);
        let height = Height::from_raw(from[VOLUME_HEIGHT]).ok_or(bad)?;
        let entry = Self {
            id: VolumeId::new(codec::u32_at(from, VOLUME_ID)),
            height,
            state: VolumeState::Live,
            sectors: Sectors::new(codec::u64_at(from, VOLUME_SECTORS)),
            created: Seq::new(codec::u64_at(from, VOLUME_CREATED)),
            data: codec::u64_at(from, VOLUME_DATA).checked_sub(1).map(Blocks::new),
            root: Ref::decode(&from[VOLUME_ROOT..VOLUME_ROOT + REF_BYTES]),
            uuid: codec::uuid_at(from, VOLUME_UUID),
        };
        let fits = entry.sectors.get().div_ceil(base::SECTORS_PER_BLOCK) <= height.covers().get();
        let sensible = fits && entry.created.get() < Seq::LIMIT && entry.root.valid(space);
        if sensible { Ok(entry) } else { Err(bad) }
    }
}

/// A list of at most `MAX` entries without memory of its own.
#[derive(Clone, Debug)]
pub struct List<T, const MAX: usize> {
    entries: [Option<T>; MAX],
    count: usize,
}

impl<T: Copy, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self { entries: [None; MAX], count: 0 }
    }
}

impl<T: Copy, const MAX: usize> List<T, MAX> {
    /// The entries.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries[..self.count].iter().flatten()
    }
    /// The entries, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries[..self.count].iter_mut().flatten()
    }
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// How many more fit.
    pub fn room(&self) -> usize {
        MAX - self.count
    }
    /// Appends an entry; panics when full (ask `room`).
    pub fn push(&mut self, entry: T) {
        assert!(self.room() > 0, "the directory's list is full");
        self.entries[self.count] = Some(entry);
        self.count += 1;
    }
    /// Takes entry `at` out; those after it move up.
    pub fn remove(&mut self, at: usize) -> T {
        let entry = self.entries[at].expect("an entry");
        self.entries[at..self.count].rotate_left(1);
        self.count -= 1;
        self.entries[self.count] = None;
        entry
    }
}

/// The volumes of a group.
pub type Volumes = List<VolumeEntry, VOLUMES_MAX>;

/// A subtree that no map refers to any more; its blocks are freed in the background.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CutEntry {
    /// The volume that it was cut off; 0: an earlier build did not say.
    pub volume: VolumeId,
    /// The subtree's top page.
    pub subtree: Ref,
    /// That page's level; a leaf is 0.
    pub level: u8,
    /// How far it has been freed (see `reap`).
    pub cursor: u64,
}

/// The subtrees that are to be freed.
pub type CutList = List<CutEntry, CUTS_MAX>;

/// Writes the volumes page.
pub fn encode_volumes(volumes: &Volumes, page: &mut Block) {
    page.fill(0);
    page[..VOLUMES_MAGIC.len()].copy_from_slice(&VOLUMES_MAGIC);
    codec::put_u32(page, VOLUMES_COUNT, volumes.len() as u32);
    for (entry, to) in volumes.iter().zip(page[VOLUMES_FIRST..].chunks_exact_mut(VOLUME_BYTES)) {
        entry.encode(to);
    }
}

/// Reads a volumes page that has its Ref's check, in a group of `space` blocks.
pub fn decode_volumes(page: &Block, space: Blocks) -> Result<Volumes, BadDirectory> {
    if page[..VOLUMES_MAGIC.len()] != VOLUMES_MAGIC {
        return Err(BadDirectory::NotThePage(Page::Volumes));
    }
    let count = codec::u32_at(page, VOLUMES_COUNT) as usize;
    if count > VOLUMES_MAX {
        return Err(BadDirectory::OutOfRange(Page::Volumes));
    }
    let mut volumes = Volumes::default();
    for from in page[VOLUMES_FIRST..].chunks_exact(VOLUME_BYTES).take(count) {
        volumes.push(VolumeEntry::decode(from, space)?);
    }
    let mut known = [0; base::BLOCK_BYTES];
    encode_volumes(&volumes, &mut known);
    if known != *page { Err(BadDirectory::Unknown(Page::Volumes)) } else { Ok(volumes) }
}

/// Writes the page of cut subtrees.
pub fn encode_cuts(cuts: &CutList, page: &mut Block) {
    page.fill(0);
    page[..CUTS_MAGIC.len()].copy_from_slice(&CUTS_MAGIC);
    codec::put_u32(page, CUTS_COUNT, cuts.len() as u32);
    for (cut, to) in cuts.iter().zip(page[CUTS_FIRST..].chunks_exact_mut(CUT_BYTES)) {
        cut.subtree.encode(&mut to[CUT_REF..]);
        codec::put_u64(to, CUT_CURSOR, cut.cursor);
        to[CUT_LEVEL] = cut.level;
        codec::put_u32(to, CUT_VOLUME, cut.volume.get());
    }
}

/// Reads a page of cut subtrees that has its Ref's check, in a group of `space` blocks.
pub fn decode_cuts(page: &Block, space: Blocks) -> Result<CutList, BadDirectory> {
    if page[..CUTS_MAGIC.len()] != CUTS_MAGIC {
        return Err(BadDirectory::NotThePage(Page::Cuts));
    }
    let count = codec::u32_at(page, CUTS_COUNT) as usize;
    if count > CUTS_MAX {
        return Err(BadDirectory::OutOfRange(Page::Cuts));
    }
    let mut cuts = CutList::default();
    for from in page[CUTS_FIRST..].chunks_exact(CUT_BYTES).take(count) {
        let subtree = Ref::decode(&from[CUT_REF..CUT_REF + REF_BYTES]);
        let level = from[CUT_LEVEL];
        // One level above the tallest map: pages that gather cut subtrees (`cut`).
        if !leads(&subtree, space) || level > Height::MAX.get() {
            return Err(BadDirectory::OutOfRange(Page::Cuts));
        }
        let volume = VolumeId::new(codec::u32_at(from, CUT_VOLUME));
        cuts.push(CutEntry { volume, subtree, level, cursor: codec::u64_at(from, CUT_CURSOR) });
    }
    let mut known = [0; base::BLOCK_BYTES];
    encode_cuts(&cuts, &mut known);
    if known != *page { Err(BadDirectory::Unknown(Page::Cuts)) } else { Ok(cuts) }
}

/// A checkpoint's directory, in memory.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The Ref of the root page; absent before the first checkpoint.
    pub at: Ref,
    /// The root page.
    pub root: Root,
    /// The volumes page.
    pub volumes: Volumes,
    /// The cut list.
    pub cuts: CutList,
}

impl Directory {
    /// The directory of a group that has no checkpoint yet.
    pub fn none() -> Self {
        Self { at: Ref::ABSENT, root: Root::NONE, volumes: Volumes::default(), cuts: CutList::default() }
    }
}

#[cfg(test)]
mod tests;
