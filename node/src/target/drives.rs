//! The drives that a target has open, and how a row of the catalogue becomes a grant for its engine.
//!
//! A drive has three names: its id, the number under which the loop knows it, and its place in the group's drive
//! table, which only the engine knows. Here everything goes by id, and places are asked of the engine at the moment
//! they are needed, on the loop's thread: the order of the catalogue's list, or of the spec, means nothing.
use crate::agent::parse_id;
use crate::error::Result;
use crate::target_spec::Row;
use base::{Blocks, DriveIx, Extent, ExtentNo, NewDrive, RowGrant, RowNo, Uuid};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use ublk_target::Drive;
use volume::Volume;

/// A drive that the loop has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenDrive {
    /// Its identity.
    pub uuid: Uuid,
    /// The loop's number of it.
    pub number: DriveIx,
    /// Its size.
    pub blocks: Blocks,
    /// Whether it has a volatile cache.
    pub volatile: bool,
    /// The catalogue called its copy stale when the target started.
    pub stale: bool,
}

impl OpenDrive {
    /// What is to be known of an open drive.
    ///
    /// # Errors
    /// The id is none.
    pub fn of(id: &str, drive: &Drive, number: DriveIx, stale: bool) -> Result<Self> {
        let volatile = drive.properties().volatile_cache;
        Ok(Self { uuid: parse_id(id)?, number, blocks: drive.size(), volatile, stale })
    }
}

/// The drives that the loop has, by id. Cheap to clone.
#[derive(Clone, Default)]
pub struct OpenDrives(Arc<Mutex<BTreeMap<String, OpenDrive>>>);

impl OpenDrives {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, OpenDrive>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop has this drive.
    pub fn add(&self, id: &str, drive: OpenDrive) {
        self.lock().insert(id.to_owned(), drive);
    }

    /// The loop does not have this drive any more.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// A drive, if the loop has it.
    pub fn get(&self, id: &str) -> Option<OpenDrive> {
        self.lock().get(id).copied()
    }

    /// The id of a drive by the loop's number.
    pub fn id_of(&self, number: DriveIx) -> String {
        let open = self.lock();
        let found = open.iter().find(|(_, drive)| drive.number == number).map(|(id, _)| id.clone());
        found.unwrap_or_else(|| number.to_string())
    }

    /// The extents of a row, each with its drive; `None` while a drive of it is not open.
    pub fn places(&self, row: &Row) -> Option<Vec<(OpenDrive, ExtentNo)>> {
        let place = |extent: &crate::target_spec::RowExtent| {
            self.get(&extent.drive).map(|drive| (drive, ExtentNo::new(extent.extent)))
        };
        row.extents.iter().map(place).collect()
    }
}

/// What the engine is told of a row: drives that its table does not list join with it.
pub fn grant(row: u32, places: &[(OpenDrive, ExtentNo)], engine: &Volume) -> RowGrant {
    let known = engine.drives().count();
    let mut grant = RowGrant { row: RowNo::new(row), extents: Vec::new(), joining: Vec::new() };
    for (drive, extent) in places {
        let index = engine.index_of(drive.uuid).unwrap_or_else(|| {
            let joins = grant.joining.iter().position(|joining| joining.uuid == drive.uuid);
            let at = joins.unwrap_or_else(|| {
                let OpenDrive { uuid, number, blocks, volatile, .. } = *drive;
                grant.joining.push(NewDrive { uuid, handle: number, blocks, volatile });
                grant.joining.len() - 1
            });
            DriveIx::new((known + at) as u8)
        });
        grant.extents.push(Extent { drive: index, extent: *extent });
    }
    // A mark in the catalogue stays until a resync, so a drive that is marked cannot join as one that misses
    // nothing: the mark may be from a version that listed it and that no drive has any more. A grant that lacks
    // extents is not used, and goes back.
    let marked = |drive: &OpenDrive| drive.stale && engine.index_of(drive.uuid).is_none();
    if places.iter().any(|(drive, _)| marked(drive)) {
        (grant.extents, grant.joining) = (Vec::new(), Vec::new());
    }
    grant
}
