//! What a new group's drives must hold.
use super::Agent;
use super::headers::HeaderContent;
use super::pools::uuid;
use crate::catalogue::{GroupRecord, PoolRecord, RowRecord, VolumeRecord};
use crate::drives::Media;
use crate::error::{Error, Kind, Result};
use base::{DriveIx, Extent, ExtentNo};
use volume::Geometry;
use volume::create::{NewGroup, plan, plan_encrypted};

/// The shape of a group, with the ring and the home pages that it gets when it is made.
pub fn geometry(pool: &PoolRecord, group: &GroupRecord) -> Geometry {
    let ring = Geometry::default_ring(group.columns, pool.extent_blocks);
    let mut shape = Geometry::new(group.legs, group.columns, group.stripe_blocks, pool.extent_blocks, ring);
    shape.home.blocks = group.home_blocks.unwrap_or(shape.home.blocks);
    shape
}

/// The place of a drive in a group's table.
pub fn drive_index(group: &GroupRecord, drive: &str) -> Result<DriveIx> {
    let index =
        group.copies.iter().position(|copy| copy.drive == drive).and_then(|index| u8::try_from(index).ok());
    index.map(DriveIx::new).ok_or_else(|| {
        let message = format!("drive {drive} is not in the table of group {}", group.name);
        Error::new(Kind::Damage, group.name.clone(), message)
    })
}

impl Agent {
    /// Writes a new group in its phases: headers, then one superblock slot everywhere, then the other, each
    /// flushed before the next.
    pub(super) fn write_group(
        &self,
        pool: &PoolRecord,
        group: &GroupRecord,
        volume: &VolumeRecord,
        home: &RowRecord,
    ) -> Result<()> {
        let mut extents = Vec::with_capacity(home.extents.len());
        for (drive, extent) in &home.extents {
            extents.push(Extent { drive: drive_index(group, drive)?, extent: ExtentNo::new(*extent) });
        }
        let drives: Result<Vec<_>> = group.copies.iter().map(|copy| uuid(&copy.drive)).collect();
        let new = NewGroup {
            pool: uuid(&pool.id)?,
            group: uuid(&group.id)?,
            geometry: geometry(pool, group),
            drives: drives?,
            home: extents,
        };
        let secret = self.group_secret(group)?;
        let phases = match &secret {
            Some(secret) => plan_encrypted(&new, secret.keys()),
            None => plan(&new),
        };
        let phases = phases.map_err(|bad| {
            let message = format!("group {} cannot have this shape: {bad:?}", group.name);
            Error::new(Kind::Invalid, group.name.clone(), message)
        })?;
        let content = HeaderContent::new(group, volume, secret.as_ref(), 1)?;
        let opened = self.open_drives(home)?;
        for (phase, writes) in phases.into_iter().enumerate() {
            for (index, at, mut block) in writes {
                if phase == 0 {
                    content.put(&mut block);
                }
                opened[&group.copies[usize::from(index.get())].drive].write(at, &block)?;
            }
            opened.values().try_for_each(Media::flush)?;
        }
        Ok(())
    }
}
