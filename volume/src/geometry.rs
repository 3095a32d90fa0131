//! Geometry: where a block of a group's space lies on the drives, and which blocks have a fixed meaning.
//!
//! A row is `columns * extent_blocks` blocks of space; on every leg it is one extent per column. Within a row,
//! blocks go round-robin over the columns in stripe units. Region `k` is the `k`-th `extent_blocks` of space
//! (not the `k`-th extent); it begins with its two bitmap slots.
//!
//! Fixed blocks never overlap: headers and superblock slots are the first blocks of extents, bitmap slots the
//! second and third block of regions; with `stripe_blocks >= 8` and ring and home pages ending before
//! `extent_blocks / columns`, no region but the first begins below their end. `check` refuses
//! any geometry for which that is not so.
use crate::label;
use crate::layout::extent as fixed;
use crate::layout::superblock::MAX_PIECES;
use base::limits::{MAX_COLUMNS, MAX_LEGS};
use base::{Blocks, Column, DriveBlock, Extent, Pba, RegionNo, RowNo};

/// A ring has more blocks than this: room for voids, for one commit and for what it may skip.
const RING_MIN_BLOCKS: u32 = rlog::ring::VOID_ROOM_BLOCKS + 2 * rlog::MAX_COMMIT_BLOCKS;

/// A run of ring blocks: the same blocks of the extents of one row, in every column and on every leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Piece {
    /// The row.
    pub row: RowNo,
    /// First block within the extents.
    pub first: u32,
    /// How many; 0 means absent.
    pub blocks: u32,
}

/// The shape of a group; fixed when it is created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Mirror copies.
    pub legs: u8,
    /// Stripe columns.
    pub columns: u8,
    /// Blocks of a stripe unit.
    pub stripe_blocks: u32,
    /// Blocks of an extent.
    pub extent_blocks: u32,
    /// The ring, in order.
    pub pieces: [Piece; MAX_PIECES],
    /// The home pages: blocks of every extent of the home row, after the ring, for row and history pages.
    pub home: Piece,
}

/// Where a block lies within a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The row.
    pub row: RowNo,
    /// The column.
    pub column: Column,
    /// The block within that column's extent.
    pub block: u32,
}

impl Geometry {
    /// A group whose ring has `ring_blocks` blocks per column, all in the home row, and with the fewest home pages.
    pub fn new(legs: u8, columns: u8, stripe_blocks: u32, extent_blocks: u32, ring_blocks: u32) -> Self {
        let mut pieces = [Piece::default(); MAX_PIECES];
        pieces[0] = Piece { row: RowNo::ZERO, first: fixed::RING_FIRST, blocks: ring_blocks };
        let home =
            Piece { row: RowNo::ZERO, first: fixed::RING_FIRST + ring_blocks, blocks: extent_blocks / 16 };
        Self { legs, columns, stripe_blocks, extent_blocks, pieces, home }
    }

    /// The ring that a group of this shape gets by default, in blocks per column: a quarter of an extent.
    pub fn default_ring(columns: u8, extent_blocks: u32) -> u32 {
        let share = extent_blocks / u32::from(columns.max(1));
        (extent_blocks / 4).min(share.saturating_sub(extent_blocks / 16 + 8))
    }

    /// Whether this shape can exist.
    pub fn check(&self) -> bool {
        let (columns, extent) = (u32::from(self.columns), self.extent_blocks);
        let legs_ok = (1..=MAX_LEGS).contains(&usize::from(self.legs));
        let columns_ok = (1..=MAX_COLUMNS).contains(&usize::from(self.columns));
        if !legs_ok || !columns_ok || self.stripe_blocks < 8 || self.stripe_blocks > 4096 {
            return false;
        }
        let extent_ok = (64..=32_768).contains(&extent)
            && extent.is_multiple_of(64)
            && extent.is_multiple_of(self.stripe_blocks)
            && extent >= 2 * columns * self.stripe_blocks;
        if !extent_ok {
            return false;
        }
        // From here on nothing is large enough for a sum to overflow.
        let home = self.pieces[0];
        let home_ok = home.row == RowNo::ZERO
            && home.first == fixed::RING_FIRST
            && home.blocks > RING_MIN_BLOCKS
            && home.blocks <= extent
            && self.home.row == RowNo::ZERO
            && self.home.first == home.first + home.blocks
            && (extent / 16..=extent / columns).contains(&self.home.blocks)
            && self.home.first + self.home.blocks <= extent / columns;
        home_ok && self.pieces[1..].iter().all(|piece| piece.blocks == 0)
    }

    /// Blocks of space in one row.
    pub fn row_blocks(&self) -> u64 {
        u64::from(self.columns) * u64::from(self.extent_blocks)
    }

    /// Extents of one row: one per leg and column.
    pub fn row_extents(&self) -> usize {
        usize::from(self.legs) * usize::from(self.columns)
    }

    /// Blocks of the ring in one column.
    pub fn ring_blocks(&self) -> u32 {
        self.pieces.iter().map(|piece| piece.blocks).sum()
    }

    /// Where a block lies.
    pub fn place(&self, pba: Pba) -> Place {
        let stripe = u64::from(self.stripe_blocks);
        let row = pba.get() / self.row_blocks();
        let within = pba.get() % self.row_blocks();
        let unit = within / stripe;
        Place {
            row: RowNo::new(u32::try_from(row).expect("row beyond the format")),
            column: Column::new((unit % u64::from(self.columns)) as u8),
            block: (unit / u64::from(self.columns) * stripe + within % stripe) as u32,
        }
    }

    /// The block of space at a place; the inverse of `place`.
    pub fn pba(&self, place: Place) -> Pba {
        let stripe = u64::from(self.stripe_blocks);
        let block = u64::from(place.block);
        let unit = block / stripe * u64::from(self.columns) + u64::from(place.column.get());
        Pba::new(u64::from(place.row.get()) * self.row_blocks() + unit * stripe + block % stripe)
    }

    /// How many blocks from `pba` on lie side by side on one drive.
    pub fn contiguous(&self, pba: Pba) -> Blocks {
        if self.columns == 1 {
            return Blocks::new(self.row_blocks() - pba.get() % self.row_blocks());
        }
        let stripe = u64::from(self.stripe_blocks);
        Blocks::new(stripe - pba.get() % stripe)
    }

    /// The drive's block of a place in an extent.
    pub fn drive_block(&self, extent: Extent, block: u32) -> DriveBlock {
        assert!(block < self.extent_blocks, "a block beyond its extent");
        label::extent_start(extent.extent, self.extent_blocks) + Blocks::new(u64::from(block))
    }

    /// The row and extent block of a ring offset, and how many ring blocks follow in the same piece.
    pub fn ring_place(&self, offset: u32) -> (RowNo, u32, u32) {
        let mut rest = offset;
        for piece in &self.pieces {
            if rest < piece.blocks {
                return (piece.row, piece.first + rest, piece.blocks - rest);
            }
            rest -= piece.blocks;
        }
        panic!("ring offset {offset} beyond the ring");
    }

    /// How many home pages there are.
    pub fn home_pages(&self) -> u32 {
        self.home.blocks * u32::from(self.columns)
    }

    /// The block of a home page.
    pub fn home_page(&self, index: u32) -> Pba {
        let column = Column::new((index / self.home.blocks) as u8);
        assert!(column.get() < self.columns, "home page {index} beyond the home pages");
        self.pba(Place { row: RowNo::ZERO, column, block: self.home.first + index % self.home.blocks })
    }

    /// Which home page a block is, if it is one.
    pub fn home_index(&self, pba: Pba) -> Option<u32> {
        // Asked of any Ref that a superblock names: its row may be one that cannot be.
        if pba.get() >= self.row_blocks() {
            return None;
        }
        let place = self.place(pba);
        let offset = place.block.checked_sub(self.home.first)?;
        (offset < self.home.blocks).then(|| u32::from(place.column.get()) * self.home.blocks + offset)
    }

    /// The region of a block.
    pub fn region(&self, pba: Pba) -> RegionNo {
        RegionNo::new((pba.get() / u64::from(self.extent_blocks)) as u32)
    }

    /// Calls `each` with every run of fixed blocks of a region, in no order; runs may touch, not overlap.
    pub fn fixed_runs(&self, region: RegionNo, each: &mut dyn FnMut(Pba, Blocks)) {
        let extent = u64::from(self.extent_blocks);
        let start = Pba::new(u64::from(region.get()) * extent);
        each(start + Blocks::new(fixed::BITMAPS[0]), Blocks::new(2));
        let row = RowNo::new(region.get() / u32::from(self.columns));
        let mut within = |first: u32, count: u32| self.fixed_in_row(row, first, count, start, each);
        within(fixed::HEADER, 1);
        if row == RowNo::ZERO {
            within(fixed::SUPERBLOCKS[0], 2);
        }
        let pieces = self.pieces.iter().chain(core::iter::once(&self.home));
        for piece in pieces.filter(|piece| piece.blocks > 0 && piece.row == row) {
            within(piece.first, piece.blocks);
        }
    }

    /// The parts of blocks `first..first+count` of a row's extents that fall into the region at `start`.
    fn fixed_in_row(
        &self,
        row: RowNo,
        first: u32,
        count: u32,
        start: Pba,
        each: &mut dyn FnMut(Pba, Blocks),
    ) {
        let end = start.get() + u64::from(self.extent_blocks);
        for column in 0..self.columns {
            let mut block = first;
            while block < first + count {
                let run = (self.stripe_blocks - block % self.stripe_blocks).min(first + count - block);
                let pba = self.pba(Place { row, column: Column::new(column), block });
                if (start.get()..end).contains(&pba.get()) {
                    let kept = u64::from(run).min(end - pba.get());
                    each(pba, Blocks::new(kept));
                }
                block += run;
            }
        }
    }
}

impl cow::Fixed for Geometry {
    fn runs(&self, region: RegionNo, each: &mut dyn FnMut(Pba, Blocks)) {
        self.fixed_runs(region, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    fn shapes() -> impl Iterator<Item = Geometry> {
        [(1, 8, 256), (2, 8, 256), (3, 16, 768), (4, 16, 1024), (1, 16, 16_384), (8, 16, 16_384)]
            .into_iter()
            .map(|(columns, stripe, extent)| {
                Geometry::new(2, columns, stripe, extent, Geometry::default_ring(columns, extent))
            })
    }

    #[test]
    fn places_and_blocks_are_inverse() {
        for geometry in shapes() {
            assert!(geometry.check(), "{geometry:?}");
            for pba in (0..geometry.row_blocks() * 2).step_by(7) {
                let pba = Pba::new(pba);
                assert_eq!(geometry.pba(geometry.place(pba)), pba);
            }
        }
    }

    /// A superblock with a right check named a page at the end of what a Ref can name: with small extents the row's
    /// number does not fit, and opening the group panicked.
    #[test]
    fn a_home_page_that_cannot_be_is_none() {
        let geometry = Geometry::new(1, 1, 16, 128, 41);
        assert!(geometry.check());
        assert_eq!(geometry.home_index(Pba::new(Pba::LIMIT - 1)), None);
        assert_eq!(geometry.home_index(Pba::new(geometry.row_blocks())), None);
        assert_eq!(geometry.home_index(geometry.home_page(3)), Some(3));
    }

    /// A superblock with a right check named extents of 2^32 - 1 blocks, and the sums about its ring overflowed.
    #[test]
    fn no_number_of_a_shape_that_cannot_be_overflows() {
        let numbers = [0, 16, 64, 72, 32_768, u32::MAX - 16, u32::MAX];
        for extent in numbers {
            for (ring, home) in numbers.into_iter().flat_map(|ring| numbers.map(|home| (ring, home))) {
                let mut geometry = Geometry { extent_blocks: extent, ..Geometry::new(1, 1, 16, 128, 41) };
                geometry.pieces[0].blocks = ring;
                geometry.home = Piece { row: RowNo::ZERO, first: ring.wrapping_add(16), blocks: home };
                assert!(!geometry.check() || extent == 32_768, "{geometry:?}");
            }
        }
    }

    #[test]
    fn fixed_blocks_never_overlap_and_lie_in_their_region() {
        for geometry in shapes() {
            for region in 0..u32::from(geometry.columns) * 2 {
                let mut seen = BTreeSet::new();
                geometry.fixed_runs(RegionNo::new(region), &mut |pba, blocks| {
                    for i in 0..blocks.get() {
                        let block = pba + Blocks::new(i);
                        assert_eq!(geometry.region(block).get(), region);
                        assert!(seen.insert(block), "{geometry:?} {block:?} twice");
                    }
                });
            }
        }
    }

    #[test]
    fn every_ring_block_is_fixed() {
        for geometry in shapes() {
            let mut all = BTreeSet::new();
            for region in 0..u32::from(geometry.columns) {
                geometry.fixed_runs(RegionNo::new(region), &mut |pba, blocks| {
                    all.extend((0..blocks.get()).map(|i| pba + Blocks::new(i)));
                });
            }
            for offset in 0..geometry.ring_blocks() {
                let (row, block, _) = geometry.ring_place(offset);
                for column in 0..geometry.columns {
                    let place = Place { row, column: Column::new(column), block };
                    assert!(all.contains(&geometry.pba(place)));
                }
            }
        }
    }
}
