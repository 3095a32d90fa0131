//! The header of an extent: which place of which group it holds.
//!
//! Crash story: the header is durable before the superblock that names the extent's row, and wiped before the
//! extent returns to the pool. So an extent with a header that no superblock names was on its way in or out
//! and goes back; an extent that a superblock names without its header is not what it should be.
use crate::layout::header as at;
use crate::sealed::{self, Bad};
use base::{Block, Column, ExtentNo, LegId, RowNo, Uuid, codec};

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The pool.
    pub pool: Uuid,
    /// The drive on which this header was written: a copied drive gives itself away.
    pub drive: Uuid,
    /// The group that holds the extent.
    pub group: Uuid,
    /// The extent's number on its drive.
    pub extent: ExtentNo,
    /// The row.
    pub row: RowNo,
    /// The leg.
    pub leg: LegId,
    /// The column.
    pub column: Column,
}

impl Header {
    /// The block.
    pub fn encode(&self) -> Block {
        let mut block = [0; 4096];
        block[at::LEG_AT] = self.leg.get();
        block[at::COLUMN_AT] = self.column.get();
        codec::put_u32(&mut block, at::ROW_AT, self.row.get());
        codec::put_u32(&mut block, at::EXTENT_AT, self.extent.get());
        codec::put_uuid(&mut block, at::POOL_AT, self.pool);
        codec::put_uuid(&mut block, at::DRIVE_AT, self.drive);
        codec::put_uuid(&mut block, at::GROUP_AT, self.group);
        sealed::seal(&mut block, at::MAGIC);
        block
    }

    /// Reads a header.
    ///
    /// # Errors
    /// `Bad`, as for every block with a check of its own.
    pub fn decode(block: &Block) -> Result<Self, Bad> {
        sealed::open(block, at::MAGIC)?;
        Ok(Self {
            pool: codec::uuid_at(block, at::POOL_AT),
            drive: codec::uuid_at(block, at::DRIVE_AT),
            group: codec::uuid_at(block, at::GROUP_AT),
            extent: ExtentNo::new(codec::u32_at(block, at::EXTENT_AT)),
            row: RowNo::new(codec::u32_at(block, at::ROW_AT)),
            leg: LegId::new(block[at::LEG_AT]),
            column: Column::new(block[at::COLUMN_AT]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let header = Header {
            pool: Uuid([1; 16]),
            drive: Uuid([2; 16]),
            group: Uuid([3; 16]),
            extent: ExtentNo::new(7),
            row: RowNo::new(9),
            leg: LegId::new(1),
            column: Column::new(0),
        };
        let block = header.encode();
        assert_eq!(Header::decode(&block), Ok(header));
        assert_eq!(&block[8..20], &[1, 0, 1, 0, 9, 0, 0, 0, 7, 0, 0, 0]);
        let mut bad = block;
        bad[60] ^= 1;
        assert_eq!(Header::decode(&bad), Err(Bad::Check));
    }
}
