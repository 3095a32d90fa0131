//! What a new group's drives must hold, and the names in the headers of its home row.
use super::Agent;
use super::pools::uuid;
use crate::catalogue::{GroupRecord, PoolRecord, RowRecord, VolumeRecord};
use crate::drives::Media;
use crate::error::{Error, Kind, Result};
use base::{DriveIx, Extent, ExtentNo};
use volume::create::{NewGroup, plan};
use volume::label::extent_start;
use volume::{Geometry, Header, Names};

/// The shape of a group, with the ring that it gets when it is made.
pub fn geometry(pool: &PoolRecord, group: &GroupRecord) -> Geometry {
    let ring = Geometry::default_ring(group.columns, pool.extent_blocks);
    Geometry::new(group.legs, group.columns, group.stripe_blocks, pool.extent_blocks, ring)
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
        let phases = plan(&new).map_err(|bad| {
            Error::new(
                Kind::Invalid,
                group.name.clone(),
                format!("group {} cannot have this shape: {bad:?}", group.name),
            )
        })?;
        let names = names_of(group, volume, 1)?;
        let opened = self.open_drives(home)?;
        for (phase, writes) in phases.into_iter().enumerate() {
            for (index, at, mut block) in writes {
                if phase == 0 {
                    names.put(&mut block, None);
                }
                opened[&group.copies[usize::from(index.get())].drive].write(at, &block)?;
            }
            opened.values().try_for_each(Media::flush)?;
        }
        Ok(())
    }

    /// Writes the names of a group and its volume to the headers of its home row again: one drive after the other,
    /// each flushed, so that a cut tears at most one. Before the catalogue changes; a repetition does it again.
    /// Drives that are missing keep the old names, with an older number.
    pub(super) fn write_names(
        &self,
        pool: &PoolRecord,
        group: &GroupRecord,
        volume: &VolumeRecord,
    ) -> Result<()> {
        let rows = self.rows_of(&group.id)?;
        let home = rows.first().map(|row| row.extents.clone()).unwrap_or_default();
        let mut headers = Vec::new();
        for (id, extent) in &home {
            let Ok(media) = self.open_drive(&self.drive(id)?.record) else { continue };
            let at = extent_start(ExtentNo::new(*extent), pool.extent_blocks);
            let block = media.read(at)?;
            if Header::decode(&block).is_ok_and(|header| header.group.to_string() == group.id) {
                headers.push((media, at, block));
            }
        }
        let last = headers.iter().filter_map(|(_, _, block)| Some(Names::read(block).ok()?.written()));
        let names = names_of(group, volume, last.max().unwrap_or(0) + 1)?;
        for (media, at, mut block) in headers {
            names.put(&mut block, None);
            media.write(at, &block)?;
            media.flush()?;
        }
        Ok(())
    }
}

fn names_of(group: &GroupRecord, volume: &VolumeRecord, written: u32) -> Result<Names> {
    Ok(Names {
        written,
        group: group.name.clone(),
        volume: volume.name.clone(),
        volume_id: uuid(&volume.id)?,
        size_bytes: volume.size_bytes,
    })
}
