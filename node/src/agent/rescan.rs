//! Finding the drives of the catalogue again: by label, wherever they are now.
use super::Agent;
use super::drive_states::doubled;
use super::space::Space;
use crate::catalogue::{DriveRecord, Life, Severity, Versioned, records};
use crate::drives;
use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
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
        let were_doubled = self.note_doubled(&records_now, &scan);
        let mut unseen = BTreeSet::new();
        let mut found: BTreeMap<String, Vec<&drives::Seen>> = BTreeMap::new();
        for drive in records_now {
            let Some(seen) = scan.seen.get(&drive.id) else {
                // A drive that is in use is what it was, whatever else has its label.
                let used = scan.doubled.contains_key(&drive.id) && self.supervisor.has_open(&drive.id);
                if drive.life == Life::Ready && !used {
                    self.note_missing(&drive);
                    unseen.insert(drive.record.id);
                }
                continue;
            };
            if drive.blocks == 0 {
                found.entry(drive.record.pool).or_default().push(seen);
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
        for (pool, seen) in found {
            self.complete(space, &pool, &seen)?;
        }
        self.note_unseen(unseen, &scan, &were_doubled)
    }

    /// Keeps which drives are there more than once, and says so, once as long as it lasts.
    /// Returns which were before.
    fn note_doubled(
        &self,
        known: &[Versioned<DriveRecord>],
        scan: &drives::scan::Scan,
    ) -> BTreeMap<String, Vec<PathBuf>> {
        let paths = |copies: &Vec<drives::Seen>| copies.iter().map(|seen| seen.path.clone()).collect();
        let now: BTreeMap<String, Vec<PathBuf>> =
            scan.doubled.iter().map(|(id, copies)| (id.clone(), paths(copies))).collect();
        let before = self.healing.note_doubled(now.clone());
        for (id, paths) in now {
            if known.iter().any(|drive| drive.id == id) && !before.contains_key(&id) {
                let message = doubled(&id, paths.iter().map(PathBuf::as_path)).message;
                self.events.record(Severity::Warning, "drive_doubled", &id, &message);
            }
        }
        before
    }

    /// Says which drives are back, and keeps those that are not, also for the next agent.
    fn note_unseen(
        &self,
        unseen: BTreeSet<String>,
        scan: &drives::scan::Scan,
        were_doubled: &BTreeMap<String, Vec<PathBuf>>,
    ) -> Result<()> {
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
                if !were_doubled.contains_key(id) {
                    self.forgive_failure(id)?;
                }
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

    /// Drives that an import only knew by name are there: they may know more of the groups, and have others.
    fn complete(&self, space: &mut Space, pool: &str, seen: &[&drives::Seen]) -> Result<()> {
        let pool = self.pool(&self.pool_name(pool)?)?;
        let name = pool.name.clone();
        match self.rebuild(space, pool, seen, None, false) {
            Ok(rebuilt) => self.note_import(&rebuilt, false),
            // They stay what they were; the next look tries again.
            Err(error) => tracing::warn!("the import of pool {name} does not go on: {error}"),
        }
        Ok(())
    }
}
