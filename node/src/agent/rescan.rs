//! Finding the drives of the catalogue again: by label, wherever they are now.
use super::Agent;
use super::drive_states::doubled;
use super::locks::Verb;
use crate::catalogue::{DriveRecord, Life, Severity, Versioned, records};
use crate::drives::{self, LabelState};
use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// What a look at drives found that is for a verb.
#[derive(Default)]
pub(crate) struct Later {
    /// Labels of which a copy is bad.
    labels: Vec<(drives::Seen, u8)>,
    /// Drives that an import only knew by name, by pool.
    found: BTreeMap<String, Vec<drives::Seen>>,
}

impl Later {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.found.is_empty()
    }
}

impl Agent {
    /// Looks for drives under other paths and notes where they are; repairs labels of which a copy is bad; goes on with
    /// imports that lacked drives.
    ///
    /// # Errors
    /// The catalogue's.
    pub(crate) fn rescan(&self, verb: &mut Verb<'_>) -> Result<()> {
        let later = verb.aside(|| self.look_for_drives())?;
        self.finish_look(verb, later)
    }

    /// Looks for drives under other paths and notes where they are: the part of a scan that no verb is needed for. No lock
    /// is held while drives are looked at. Of two looks at a time the one counts that began later.
    ///
    /// # Errors
    /// The catalogue's.
    pub(crate) fn look_for_drives(&self) -> Result<Later> {
        let number = self.next_scan.fetch_add(1, Ordering::Relaxed);
        let known = self.store.list::<DriveRecord>("drives/")?;
        let paths: Vec<_> = known.iter().map(|drive| drive.path.clone()).collect();
        let scan = drives::scan(&paths, self.options.scan_devices, true);
        let lost = known.iter().filter(|drive| !scan.seen.contains_key(&drive.id));
        let reasons: BTreeMap<&str, String> =
            lost.map(|drive| (drive.id.as_str(), self.why_missing(drive))).collect();

        let _records = self.records();
        if self.noted_scan.fetch_max(number, Ordering::Relaxed) > number {
            return Ok(Later::default());
        }
        let were_doubled = self.note_doubled(&known, &scan);
        let (mut unseen, mut later) = (BTreeSet::new(), Later::default());
        for known in &known {
            let Some(drive) = self.store.get::<DriveRecord>(&records::drive_key(&known.id))? else {
                continue;
            };
            let Some(seen) = scan.seen.get(&drive.id) else {
                // A drive that is in use is what it was, whatever else has its label.
                let used = scan.doubled.contains_key(&drive.id) && self.supervisor.has_open(&drive.id);
                if drive.life == Life::Ready && !used {
                    self.note_missing(&drive, reasons.get(drive.id.as_str()).map_or("", String::as_str));
                    unseen.insert(drive.record.id);
                }
                continue;
            };
            if drive.blocks == 0 {
                later.found.entry(drive.record.pool).or_default().push(seen.clone());
                continue;
            }
            if let Some(copy) = seen.bad_copy {
                later.labels.push((seen.clone(), copy));
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
        self.note_unseen(unseen, &scan, &were_doubled)?;
        Ok(later)
    }

    /// Does what a look has left.
    ///
    /// # Errors
    /// The catalogue's.
    pub(super) fn finish_look(&self, verb: &mut Verb<'_>, mut later: Later) -> Result<()> {
        self.repair_labels(verb, &mut later);
        for (pool, seen) in later.found {
            self.complete(verb, &pool, &seen.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Writes copies of labels again that are bad.
    pub(super) fn repair_labels(&self, verb: &mut Verb<'_>, later: &mut Later) {
        let labels = std::mem::take(&mut later.labels);
        verb.aside(|| labels.iter().for_each(|(seen, copy)| self.repair_label(seen, *copy)));
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

    /// Why the last path of a drive does not do; nothing if that was told.
    fn why_missing(&self, drive: &DriveRecord) -> String {
        if self.unseen.lock().unwrap_or_else(PoisonError::into_inner).contains(&drive.id) {
            return String::new();
        }
        match self.open_drive(drive) {
            Ok(_) => "it was not found by the scan".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Says once that a drive is missing, and why.
    fn note_missing(&self, drive: &DriveRecord, why: &str) {
        if self.unseen.lock().unwrap_or_else(PoisonError::into_inner).contains(&drive.id) {
            return;
        }
        let message = format!("drive {} is missing: {why}", drive.path.display());
        self.events.record(Severity::Warning, "drive_missing", &drive.id, &message);
    }

    fn repair_label(&self, seen: &drives::Seen, copy: u8) {
        let repair = || {
            let media = drives::Media::open(&seen.path)?;
            // A verb may have written it since.
            let bad = LabelState::Ours { label: seen.label.clone(), bad_copy: Some(copy) };
            if drives::read_label(&media)? != bad {
                return Ok(false);
            }
            drives::label::repair_label(&media, &seen.label, copy).map(|()| true)
        };
        let (path, place) = (seen.path.display().to_string(), if copy == 0 { "first" } else { "second" });
        match repair() {
            Ok(false) => {}
            Ok(true) => {
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
    fn complete(&self, verb: &mut Verb<'_>, pool: &str, seen: &[&drives::Seen]) -> Result<()> {
        let pool = self.pool(&self.pool_name(pool)?)?;
        let name = pool.name.clone();
        match self.rebuild(verb, pool, seen, None, false) {
            Ok(rebuilt) => self.note_import(&rebuilt, false),
            // They stay what they were; the next look tries again.
            Err(error) => tracing::warn!("the import of pool {name} does not go on: {error}"),
        }
        Ok(())
    }
}
