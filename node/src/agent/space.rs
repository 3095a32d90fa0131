//! Free and taken extents of every drive, in memory.
//!
//! The catalogue is what counts: an extent is taken by creating its key there. This is the index of those keys,
//! read once when the agent starts and changed with each transaction, so that a row is placed without reading
//! the keys of a whole pool.
use crate::catalogue::{DriveRecord, ExtentRecord, Store, Versioned};
use crate::error::Result;
use std::collections::BTreeMap;

/// Extents of one drive.
#[derive(Clone, Debug, Default)]
struct DriveSpace {
    /// How many there are.
    extents: u32,
    /// How many are taken.
    taken: u32,
    /// One bit for each: taken.
    bits: Vec<u64>,
    /// No free extent lies before this one.
    first_free: u32,
}

/// Extents of all drives, by drive id.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// How often the catalogue had failed when this was read.
    failures: u64,
    drives: BTreeMap<String, DriveSpace>,
}

impl Space {
    /// Reads drives and extents from the catalogue.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn load(store: &Store) -> Result<Self> {
        let mut space = Self { failures: store.failures(), ..Self::default() };
        for drive in store.list::<DriveRecord>("drives/")? {
            space.add_drive(&drive.id, drive.extents);
        }
        let extents: Vec<Versioned<ExtentRecord>> = store.list("extents/")?;
        for extent in extents {
            space.take(&extent.drive, extent.extent);
        }
        Ok(space)
    }

    /// Reads everything anew if the catalogue failed in between: a transaction that was answered with an error may be
    /// there all the same, and its extents taken. While it cannot be read, it hands nothing out either.
    pub fn renew(&mut self, store: &Store) {
        if self.failures == store.failures() {
            return;
        }
        match Self::load(store) {
            Ok(space) => *self = space,
            Err(error) => tracing::error!("the index of extents may be old: {error}"),
        }
    }

    /// Makes a drive known.
    pub fn add_drive(&mut self, drive: &str, extents: u32) {
        let entry = self.drives.entry(drive.to_owned()).or_default();
        entry.extents = extents;
        entry.bits.resize(extents.div_ceil(64) as usize, 0);
    }

    /// Reads anew what of these drives is taken.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn reload(&mut self, store: &Store, drives: &[Versioned<DriveRecord>]) -> Result<()> {
        for drive in drives {
            self.remove_drive(&drive.id);
            self.add_drive(&drive.id, drive.extents);
            for extent in store.list::<ExtentRecord>(&format!("extents/{}/", drive.id))? {
                self.take(&drive.id, extent.extent);
            }
        }
        Ok(())
    }

    /// Forgets a drive.
    pub fn remove_drive(&mut self, drive: &str) {
        self.drives.remove(drive);
    }

    /// Extents of a drive that are free.
    pub fn free(&self, drive: &str) -> u32 {
        self.drives.get(drive).map_or(0, |space| space.extents - space.taken)
    }

    /// Extents of a drive that are taken.
    pub fn taken(&self, drive: &str) -> u32 {
        self.drives.get(drive).map_or(0, |space| space.taken)
    }

    /// The first free extent of a drive, not taken yet.
    pub fn first_free(&self, drive: &str) -> Option<u32> {
        let space = self.drives.get(drive)?;
        (space.first_free..space.extents).find(|extent| !space.is_taken(*extent))
    }

    /// Marks an extent as taken; one beyond the drive (a catalogue of other geometry) is ignored.
    pub fn take(&mut self, drive: &str, extent: u32) {
        let Some(space) = self.drives.get_mut(drive) else { return };
        if extent >= space.extents || space.is_taken(extent) {
            return;
        }
        space.bits[(extent / 64) as usize] |= 1 << (extent % 64);
        space.taken += 1;
        if extent == space.first_free {
            space.first_free += 1;
        }
    }

    /// Marks an extent as free.
    pub fn give_back(&mut self, drive: &str, extent: u32) {
        let Some(space) = self.drives.get_mut(drive) else { return };
        if extent >= space.extents || !space.is_taken(extent) {
            return;
        }
        space.bits[(extent / 64) as usize] &= !(1 << (extent % 64));
        space.taken -= 1;
        space.first_free = space.first_free.min(extent);
    }
}

impl DriveSpace {
    fn is_taken(&self, extent: u32) -> bool {
        self.bits[(extent / 64) as usize] >> (extent % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_taken_from_the_front_and_come_back() {
        let mut space = Space::default();
        space.add_drive("d", 130);
        for expected in 0..130 {
            assert_eq!(space.first_free("d"), Some(expected));
            space.take("d", expected);
        }
        assert_eq!((space.first_free("d"), space.free("d"), space.taken("d")), (None, 0, 130));
        space.give_back("d", 77);
        space.give_back("d", 77);
        assert_eq!((space.first_free("d"), space.free("d")), (Some(77), 1));
        space.take("d", 500);
        assert_eq!(space.free("d"), 1);
    }
}
