//! Finding the drives of the catalogue again: by label, wherever they are now.
use super::Agent;
use super::space::Space;
use crate::catalogue::{DriveRecord, ExtentRecord, Life, Severity, Versioned, records};
use crate::drives;
use crate::error::Result;
use std::collections::BTreeSet;
use std::sync::PoisonError;

impl Agent {
    /// Looks for drives under other paths and notes where they are; repairs labels of which a copy is bad.
    ///
    /// # Errors
    /// The catalogue's.
    pub(crate) fn rescan(&self, space: &mut Space) -> Result<()> {
        let records_now = self.store.list::<DriveRecord>("drives/")?;
        let known: Vec<_> = records_now.iter().map(|drive| drive.path.clone()).collect();
        let scan = drives::scan(&known, self.options.scan_devices, true);
        let before = self.healing.note_doubled(scan.doubled.keys().cloned().collect());
        for (id, paths) in &scan.doubled {
            // Said once, as long as it lasts.
            if records_now.iter().any(|drive| drive.id == *id) && !before.contains(id) {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                let message = format!("drive {id} is there more than once: {}", paths.join(" "));
                self.events.record(Severity::Warning, "drive_doubled", id, &message);
            }
        }
        let mut unseen = BTreeSet::new();
        for drive in records_now {
            let Some(seen) = scan.seen.get(&drive.id) else {
                if drive.life == Life::Ready {
                    self.note_missing(&drive);
                    unseen.insert(drive.record.id);
                }
                continue;
            };
            if drive.blocks == 0 {
                self.complete(space, &drive, seen)?;
                continue;
            }
            if let Some(copy) = seen.bad_copy {
                self.repair_label(seen, copy);
            }
            if seen.path != drive.path {
                let (from, to) = (drive.path.display().to_string(), seen.path.display().to_string());
                let mut moved = drive;
                moved.path.clone_from(&seen.path);
                self.store.txn().update(records::drive_key(&moved.id), &moved).commit()?;
                let message = format!("drive {} moved from {from} to {to}", moved.id);
                self.events.record(Severity::Info, "drive_moved", &moved.id, &message);
                self.forgive_failure(&moved.id)?;
            }
        }
        self.note_unseen(unseen, &scan)
    }

    /// Says which drives are back, and keeps those that are not, also for the next agent.
    fn note_unseen(&self, unseen: BTreeSet<String>, scan: &drives::scan::Scan) -> Result<()> {
        let before = self.unseen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if before == unseen {
            return Ok(());
        }
        for id in before.difference(&unseen) {
            // A drive that left its pool while it was away is not back.
            if let Some(seen) = scan.seen.get(id)
                && self.store.get::<DriveRecord>(&records::drive_key(id))?.is_some()
            {
                let message = format!("drive {id} is back, at {}", seen.path.display());
                self.events.record(Severity::Info, "drive_back", id, &message);
                self.forgive_failure(id)?;
                self.healing.look_now();
            }
        }
        super::watch::store_missing(&self.store, &unseen)?;
        *self.unseen.lock().unwrap_or_else(PoisonError::into_inner) = unseen;
        Ok(())
    }

    /// Says once that a drive is missing, and why its last path does not do.
    fn note_missing(&self, drive: &DriveRecord) {
        if self.unseen.lock().unwrap_or_else(PoisonError::into_inner).contains(&drive.id) {
            return;
        }
        let why = match self.open_drive(drive) {
            Ok(_) => "it was not found by the scan".to_owned(),
            Err(error) => error.to_string(),
        };
        let message = format!("drive {} is missing: {why}", drive.path.display());
        self.events.record(Severity::Warning, "drive_missing", &drive.id, &message);
    }

    fn repair_label(&self, seen: &drives::Seen, copy: u8) {
        let repaired = drives::Media::open(&seen.path)
            .and_then(|media| drives::label::repair_label(&media, &seen.label, copy));
        let (path, place) = (seen.path.display().to_string(), if copy == 0 { "first" } else { "second" });
        match repaired {
            Ok(()) => {
                let message =
                    format!("the {place} label of {path} was damaged; it was repaired from the other");
                self.events.record(Severity::Warning, "label_repaired", &path, &message);
            }
            Err(error) => {
                let message =
                    format!("the {place} label of {path} is damaged and could not be repaired: {error}");
                self.events.record(Severity::Error, "label_damaged", &path, &message);
            }
        }
    }

    /// A drive that an import only knew by name is there: its label says the rest.
    fn complete(&self, space: &mut Space, drive: &Versioned<DriveRecord>, seen: &drives::Seen) -> Result<()> {
        let mut found = super::import::drive_of(&drive.pool, seen);
        found.state = drive.state;
        found.leaving.clone_from(&drive.leaving);
        let complete = Versioned { version: drive.version, record: found };
        self.store.txn().update(records::drive_key(&drive.id), &complete).commit()?;
        space.add_drive(&complete.id, complete.extents);
        for taken in self.store.list::<ExtentRecord>(&format!("extents/{}/", drive.id))? {
            space.take(&drive.id, taken.extent);
        }
        let message = format!("drive {} is there, at {}", drive.id, complete.path.display());
        self.events.record(Severity::Info, "drive_found", &drive.id, &message);
        Ok(())
    }
}
