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

    /// The extents of a row, each with its drive; `None` while one that is to be open is not.
    pub fn places(&self, row: &Row) -> Option<Vec<Place>> {
        let place = |extent: &crate::target_spec::RowExtent| {
            let open = self.get(&extent.drive);
            let uuid = parse_id(&extent.drive).ok().filter(|_| open.is_some() || extent.away)?;
            Some(Place { uuid, open, extent: ExtentNo::new(extent.extent) })
        };
        row.extents.iter().map(place).collect()
    }
}

/// An extent of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The drive.
    pub uuid: Uuid,
    /// The same, if the loop has it. A drive of the group's table may be away.
    pub open: Option<OpenDrive>,
    /// The extent on it.
    pub extent: ExtentNo,
}

/// What the engine is told of a row: drives that its table does not list join with it.
pub fn grant(row: u32, places: &[Place], engine: &Volume) -> RowGrant {
    let mut grant = RowGrant { row: RowNo::new(row), extents: Vec::new(), joining: Vec::new() };
    for place in places {
        let listed = engine.index_of(place.uuid);
        let Some(drive) = listed.or_else(|| joins(place, &mut grant.joining, engine)) else {
            // A grant that lacks extents is not used, and goes back.
            (grant.extents, grant.joining) = (Vec::new(), Vec::new());
            return grant;
        };
        grant.extents.push(Extent { drive, extent: place.extent });
    }
    grant
}

/// Has the drive of a place join. A mark in the catalogue stays until a resync, so a drive that is marked cannot join as one
/// that misses nothing: the mark may be from a version that listed it and that no drive has any more.
fn joins(place: &Place, joining: &mut Vec<NewDrive>, engine: &Volume) -> Option<DriveIx> {
    let OpenDrive { uuid, number, blocks, volatile, .. } = place.open.filter(|drive| !drive.stale)?;
    let at = joining.iter().position(|joining| joining.uuid == uuid).unwrap_or_else(|| {
        joining.push(NewDrive { uuid, handle: number, blocks, volatile });
        joining.len() - 1
    });
    Some(DriveIx::new((engine.drives().count() + at) as u8))
}
