//! Offsets of everything that the directory consists of (format version 1), and nowhere else.
//!
//! A region begins with the header of its extent (block 0) and two slots for its bitmap. A bitmap's entry in the
//! directory is a page Ref: Pba = the slot, *when* = free blocks `<<` 26 | blocks of the longest free run,
//! checkpoint = the one that wrote it. The bitmap tree's pages are 128 Refs, like map pages; an absent Ref says
//! that no region below was ever touched. The other pages carry no check: the Ref that leads to them does.
use crate::layout::REF_BYTES;
use base::{BLOCK_BYTES, Blocks, Pba, Seq};

/// Blocks of a region, counted from its first, where its bitmap can lie.
pub const BITMAP_SLOTS: [u32; 2] = [1, 2];
/// Bits of the longest run, the low ones of a bitmap entry's *when*; the free count lies above.
pub const LONGEST_BITS: u32 = 26;
/// Levels of the bitmap tree at most: 128^5 regions are more than a Pba can address.
pub const TREE_LEVELS_MAX: u8 = 5;
/// Pages of a directory that do not grow with the number of regions, generously.
pub(crate) const TREE_PAGES_MARGIN: usize = 32;

/// First bytes of a root page.
pub const ROOT_MAGIC: [u8; 8] = *b"plnthdir";
/// Version of the directory's pages.
pub const ROOT_VERSION: u16 = 1;
/// `u16`: the version.
pub const ROOT_VERSION_AT: usize = 8;
/// `u8`: levels of the bitmap tree; 0 = there is none.
pub const ROOT_TREE_HEIGHT: usize = 10;
/// `u32`: number of the checkpoint.
pub const ROOT_CKPT: usize = 12;
/// `u64`: the Seq up to which the maps are complete.
pub const ROOT_SEQ: usize = 16;
/// `u64`: used blocks, fixed ones included.
pub const ROOT_USED: usize = 24;
/// `u32`: regions of the group.
pub const ROOT_REGIONS: usize = 32;
/// `u32`: blocks of a region.
pub const ROOT_REGION_BLOCKS: usize = 36;
/// Ref of the volumes page.
pub const ROOT_VOLUMES: usize = 64;
/// Ref of the bitmap tree's root; absent if the height is 0.
pub const ROOT_TREE: usize = 96;
/// Ref of the cut list; absent if there is nothing to free.
pub const ROOT_CUTS: usize = 128;
/// Ref of the snapshots; absent in version 1.
pub const ROOT_SNAPSHOTS: usize = 160;
/// Ref of the pins; absent in version 1.
pub const ROOT_PINS: usize = 192;
/// Bytes from here on are zero.
pub const ROOT_END: usize = 224;

/// First bytes of a volumes page.
pub const VOLUMES_MAGIC: [u8; 8] = *b"plnthvol";
/// `u32`: number of volumes on this page.
pub const VOLUMES_COUNT: usize = 8;
/// Ref of the next volumes page; absent in version 1.
pub const VOLUMES_NEXT: usize = 32;
/// First entry.
pub const VOLUMES_FIRST: usize = 128;
/// Bytes of an entry.
pub const VOLUME_BYTES: usize = 128;
/// Entries of a page.
pub const VOLUMES_MAX: usize = 31;
/// `u32` in an entry: the volume's id.
pub const VOLUME_ID: usize = 0;
/// `u8` in an entry: levels of its map.
pub const VOLUME_HEIGHT: usize = 4;
/// `u8` in an entry: its state.
pub const VOLUME_STATE: usize = 5;
/// `u64` in an entry: size in sectors.
pub const VOLUME_SECTORS: usize = 8;
/// `u64` in an entry: the Seq that created it.
pub const VOLUME_CREATED: usize = 16;
/// `u64` in an entry: one more than the blocks of data that its map refers to, with what is left of the subtrees that
/// were cut off it; 0: not counted.
pub const VOLUME_DATA: usize = 24;
/// Ref in an entry: the root of its map.
pub const VOLUME_ROOT: usize = 32;
/// 16 bytes in an entry: its identity.
pub const VOLUME_UUID: usize = 64;
/// Bytes of an entry from here on are zero.
pub const VOLUME_END: usize = 80;

/// First bytes of a cut list.
pub const CUTS_MAGIC: [u8; 8] = *b"plnthcut";
/// `u32`: number of entries.
pub const CUTS_COUNT: usize = 8;
/// First entry.
pub const CUTS_FIRST: usize = 64;
/// Bytes of an entry.
pub const CUT_BYTES: usize = 48;
/// Entries of a cut list at most.
pub const CUTS_MAX: usize = 80;
/// Ref in an entry: the subtree that was cut off.
pub const CUT_REF: usize = 0;
/// `u64` in an entry: how far it has been freed.
pub const CUT_CURSOR: usize = 32;
/// `u8` in an entry: level of the page that the Ref leads to.
pub const CUT_LEVEL: usize = 40;
/// `u32` in an entry: the volume that it was cut off; 0: not said.
pub const CUT_VOLUME: usize = 44;
/// Bytes of an entry from here on are zero.
pub const CUT_END: usize = 48;

const _: () = assert!(ROOT_PINS + REF_BYTES == ROOT_END && ROOT_END <= BLOCK_BYTES);
const _: () = assert!(VOLUMES_NEXT + REF_BYTES <= VOLUMES_FIRST);
const _: () = assert!(VOLUMES_FIRST + VOLUMES_MAX * VOLUME_BYTES == BLOCK_BYTES);
const _: () = assert!(VOLUME_UUID + 16 == VOLUME_END && VOLUME_END <= VOLUME_BYTES);
const _: () = assert!(CUTS_FIRST + CUTS_MAX * CUT_BYTES <= BLOCK_BYTES && CUT_END <= CUT_BYTES);
const _: () = assert!(1 << (2 * LONGEST_BITS) == Seq::LIMIT);

/// The block of a slot, in a region that begins at `first`.
pub fn bitmap_slot(first: Pba, slot: usize) -> Pba {
    first + Blocks::new(u64::from(BITMAP_SLOTS[slot]))
}
