//! Drives that the operator takes out of use and brings back: `drive offline`, `drive fail`, `drive online`.
//!
//! Crash story: what the operator wants is in the catalogue before any target hears of it, and what follows from it
//! (`heal`) is found anew at each look; a verb that is cut short is finished by its repetition, or by the agent that
//! starts next. A drive goes out only if every place of every group on it has another current copy: that is asked
//! before anything is written, of all groups, and once more by each engine, which knows best; if one refuses then
//! (another drive failed in between), the drive is online again everywhere.
use super::Agent;
use super::pools::way_out;
use crate::catalogue::{
    CopyState, DriveRecord, DriveState, GroupRecord, Life, PoolRecord, RowRecord, Severity, Versioned,
    VolumeRecord, records,
};
use crate::error::{Error, Kind, Result};
use crate::protocol::{TargetPhase, TargetStatus};
use crate::supervise::Phase;
use crate::{drives, model};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a verb waits for a target that is starting, before anything is changed.
const SERVE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a verb waits for the targets to do what is in the catalogue.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

impl Agent {
    /// One drive of a pool, by id or path.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub fn show_drive(&self, pool: &str, drive: &str) -> Result<model::Drive> {
        let id = self.drive_of(&self.pool(pool)?.record, drive)?.record.id;
        let shown = self.show_pool(pool)?.drives.into_iter().find(|shown| shown.id == id);
        shown.ok_or_else(|| no_drive(pool, drive))
    }

    /// `drive offline` and `drive fail`: no group counts on the drive any more, and nothing holds it.
    ///
    /// # Errors
    /// `Refused`, with nothing changed, when a group has its last current copy of something there.
    pub async fn put_drive_out(
        self: &Arc<Self>,
        pool: &str,
        drive: &str,
        wanted: DriveState,
        dry: bool,
    ) -> Result<model::Drive> {
        let (this, in_pool, named) = (self.clone(), pool.to_owned(), drive.to_owned());
        let id = super::blocking(move || Ok(this.drive_of(&this.pool(&in_pool)?.record, &named)?.record.id))
            .await?;
        self.wait_served(&id).await?;
        let (this, in_pool, named) = (self.clone(), pool.to_owned(), id.clone());
        super::blocking(move || this.announce_out(&in_pool, &named, wanted, dry)).await?;
        if !dry {
            self.healing.look_now();
            self.wait_out(&id, wanted).await?;
        }
        self.shown(pool, &id).await
    }

    /// `drive online`: the drive may be used, and whatever groups miss on it comes back.
    ///
    /// # Errors
    /// `NotFound` when it is not there, `Refused` when it is there twice; nothing is changed then. Why a group does
    /// not take it back; it is tried again then.
    pub async fn bring_drive_back(
        self: &Arc<Self>,
        pool: &str,
        drive: &str,
        dry: bool,
    ) -> Result<model::Drive> {
        let (this, in_pool, named) = (self.clone(), pool.to_owned(), drive.to_owned());
        let id = super::blocking(move || this.announce_back(&in_pool, &named, dry)).await?;
        if !dry {
            self.healing.look_now();
            self.wait_back(&id).await?;
        }
        self.shown(pool, &id).await
    }

    async fn shown(self: &Arc<Self>, pool: &str, id: &str) -> Result<model::Drive> {
        let (this, pool, id) = (self.clone(), pool.to_owned(), id.to_owned());
        self.supervisor.refresh(None).await;
        super::blocking(move || this.show_drive(&pool, &id)).await
    }

    /// A drive of a pool, by id or by the path where it is.
    pub(super) fn drive_of(&self, pool: &PoolRecord, named: &str) -> Result<Versioned<DriveRecord>> {
        let found = self.any_drive_of(pool, named)?;
        if found.life == Life::Ready {
            return Ok(found);
        }
        Err(Error::new(Kind::Busy, named, format!("drive {named} is not complete"))
            .hint(way_out(&pool.name, &found)))
    }

    /// A drive of a pool, complete or not.
    pub(super) fn any_drive_of(&self, pool: &PoolRecord, named: &str) -> Result<Versioned<DriveRecord>> {
        let resolved = Path::new(named).canonicalize();
        let is = |drive: &Versioned<DriveRecord>| {
            drive.id == named
                || drive.path == Path::new(named)
                || resolved.as_ref().is_ok_and(|path| drive.path == *path)
        };
        let found = self.pool_drives(pool)?.into_iter().find(is);
        found.ok_or_else(|| no_drive(&pool.name, named))
    }

    /// As `volumes_on`, for a caller without a lock.
    fn look_on(&self, drive: &str) -> Result<Vec<(VolumeRecord, GroupRecord)>> {
        let _records = self.records();
        self.volumes_on(drive)
    }

    /// The volumes with a copy on a drive, each with its group.
    fn volumes_on(&self, drive: &str) -> Result<Vec<(VolumeRecord, GroupRecord)>> {
        let mut on = Vec::new();
        for volume in self.store.list::<VolumeRecord>("volumes/")? {
            let group = self.group(&volume.group)?.record;
            if group.copies.iter().any(|copy| copy.drive == drive) {
                on.push((volume.record, group));
            }
        }
        Ok(on)
    }

    /// Waits a while for targets that are starting: only they know which copies are current.
    async fn wait_served(self: &Arc<Self>, drive: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let (this, id) = (self.clone(), drive.to_owned());
            let on = super::blocking(move || this.look_on(&id)).await?;
            let mut waits = false;
            for (volume, _) in on.iter().filter(|(volume, _)| volume.attachment.is_some()) {
                self.supervisor.refresh(Some(&volume.name)).await;
                waits |= self.serving_status(&volume.name).is_none();
            }
            if !waits || start.elapsed() >= SERVE_DEADLINE {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn serving_status(&self, volume: &str) -> Option<TargetStatus> {
        let live = self.supervisor.live(volume)?;
        live.status.filter(|_| live.phase == Phase::Serving)
    }

    /// Checks that a drive can go, and notes that it does.
    fn announce_out(&self, pool: &str, id: &str, wanted: DriveState, dry: bool) -> Result<()> {
        let _space = self.lock();
        let pool = self.ready_pool(pool)?;
        let mut drive = self.drive(id)?;
        let before = drive.state;
        if before == wanted {
            return Ok(());
        }
        if before == DriveState::Online {
            self.check_spared(&drive)?;
        }
        if dry {
            return Ok(());
        }
        drive.state = wanted;
        self.store.txn().update(records::drive_key(id), &drive).commit()?;
        let (verb, kind, word) = match wanted {
            DriveState::Failed => ("fail", "drive_failed", "failed"),
            _ => ("offline", "drive_offline", "offline"),
        };
        let path = drive.path.display();
        let message = format!("drive {path} of pool {} was declared {word} by the operator", pool.name);
        self.events.history(&pool.id, &format!("drive {verb} {} {path}", pool.name), &message);
        self.events.record(Severity::Info, kind, id, &message);
        Ok(())
    }

    /// Refuses a drive on which some group has the last current copy of any place.
    fn check_spared(&self, drive: &DriveRecord) -> Result<()> {
        let path = drive.path.display().to_string();
        let mut lone = Vec::new();
        for (volume, mut group) in self.volumes_on(&drive.id)? {
            let name = &volume.name;
            let refuse = |kind, why: &str| {
                Err(Error::new(kind, name.clone(), format!("drive {path} stays in use: volume {name} {why}")))
            };
            let status = match &volume.attachment {
                Some(attachment) => match self.serving_status(name) {
                    Some(status) if attachment.read_only => {
                        if is_current(&status, &drive.id) {
                            return refuse(Kind::Refused, "is attached for reading only; detach it first");
                        }
                        Some(status)
                    }
                    Some(status) if status.phase == TargetPhase::Serving => Some(status),
                    Some(_) => return refuse(Kind::Refused, "takes no writes any more; see plinth status"),
                    None => return refuse(Kind::Busy, "is starting or closing; repeat the command"),
                },
                None if group.imported => {
                    let why = "was imported and not attached since; attach it once first";
                    return refuse(Kind::Refused, why);
                }
                None => None,
            };
            self.fold_marks(&mut group)?;
            if self.is_lone(&group, drive, status.as_ref())? {
                lone.push(volume.name);
            }
        }
        if lone.is_empty() {
            return Ok(());
        }
        let (what, have) = if lone.len() == 1 { ("volume", "has its") } else { ("volumes", "have their") };
        let message =
            format!("drive {path} stays in use: {what} {} {have} last current copy there", lone.join(" "));
        Err(Error::new(Kind::Refused, path, message)
            .hint("plinth volume show tells which copies are current; bring the other drives back first"))
    }

    /// Whether a drive has the only current copy of some place of a group.
    fn is_lone(&self, group: &GroupRecord, drive: &DriveRecord, live: Option<&TargetStatus>) -> Result<bool> {
        let counts = |id: &String| -> Result<bool> {
            if let Some(seen) = live.and_then(|live| live.drives.iter().find(|seen| seen.id == *id)) {
                return Ok(seen.state == CopyState::Current);
            }
            let current =
                |copy: &crate::catalogue::CopyRecord| copy.drive == *id && copy.state == CopyState::Current;
            let record = self.drive(id)?;
            let usable = record.state == DriveState::Online && self.is_there(&record);
            Ok(group.copies.iter().any(current) && (live.is_some() || usable))
        };
        if !counts(&drive.id)? {
            return Ok(false);
        }
        let columns = usize::from(group.columns);
        for row in self.rows_of(&group.id)? {
            let row: &RowRecord = &row;
            for column in 0..columns {
                let copies = row.extents.iter().take(group.row_extents());
                let place: Vec<&String> = copies.skip(column).step_by(columns).map(|(id, _)| id).collect();
                if !place.contains(&&drive.id) {
                    continue;
                }
                let mut spared = false;
                for other in place.into_iter().filter(|id| **id != drive.id) {
                    spared |= counts(other)?;
                }
                if !spared {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Waits until no target uses a drive that goes.
    async fn wait_out(self: &Arc<Self>, id: &str, wanted: DriveState) -> Result<()> {
        let start = Instant::now();
        loop {
            let (this, drive) = (self.clone(), id.to_owned());
            let (record, on) =
                super::blocking(move || Ok((this.drive(&drive)?, this.look_on(&drive)?))).await?;
            let path = record.path.display().to_string();
            if record.state != wanted {
                let message =
                    format!("drive {path} stays in use: its group has no other current copy by now");
                return Err(Error::new(Kind::Refused, path, message).hint(
                    "plinth events tells which group; plinth volume show tells which copies are current",
                ));
            }
            let mut held = None;
            for (volume, _) in on.iter().filter(|(volume, _)| volume.attachment.is_some()) {
                self.supervisor.refresh(Some(&volume.name)).await;
                let Some(live) = self.supervisor.live(&volume.name) else { continue };
                let seen = live.status.iter().flat_map(|status| &status.drives);
                let mut seen = seen.filter(|seen| seen.id == id);
                let uses = seen.any(|seen| seen.open || seen.state == CopyState::Current);
                if uses || (live.phase != Phase::Serving && live.pid.is_some()) {
                    held = Some(volume.name.clone());
                }
            }
            let Some(volume) = held else { return Ok(()) };
            if start.elapsed() >= SETTLE_DEADLINE {
                let message =
                    format!("drive {path} is noted as out of use, and volume {volume} still holds it");
                return Err(Error::new(Kind::Timeout, path, message).hint("it goes on; repeat the command"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Checks that a drive is there, once, and notes that it may be used.
    fn announce_back(&self, pool: &str, named: &str, dry: bool) -> Result<String> {
        let mut space = self.lock();
        let pool = self.ready_pool(pool)?;
        // First: it may be one whose path an import did not know.
        self.rescan(&mut space)?;
        let id = self.drive_of(&pool, named)?.record.id;
        let mut drive = self.drive(&id)?;
        space.aside(|| self.open_drive(&drive).and_then(|_| self.refuse_doubled(&drive)))?;
        if dry {
            return Ok(id);
        }
        let forgiven = self.forgive_failure(&id)?;
        let changed = drive.state != DriveState::Online || drive.leaving.is_some();
        if changed {
            (drive.state, drive.leaving, drive.lost) = (DriveState::Online, None, None);
            self.store.txn().update(records::drive_key(&id), &drive).commit()?;
        }
        if changed || forgiven {
            let path = drive.path.display();
            let message = format!("drive {path} of pool {} was declared online by the operator", pool.name);
            self.events.history(&pool.id, &format!("drive online {} {path}", pool.name), &message);
            self.events.record(Severity::Info, "drive_online", &id, &message);
        }
        self.healing.forgive(&id);
        Ok(id)
    }

    /// Waits until every group that misses the drive is getting it back, or is busy with another one.
    async fn wait_back(self: &Arc<Self>, id: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let (this, drive) = (self.clone(), id.to_owned());
            let on = super::blocking(move || this.look_on(&drive)).await?;
            let mut waits = false;
            for (volume, _) in &on {
                let Some(attachment) = &volume.attachment else { continue };
                // One that only reads, closes or starts takes it back when it serves again.
                if attachment.read_only || attachment.detaching {
                    continue;
                }
                self.supervisor.refresh(Some(&volume.name)).await;
                let Some(status) = self.serving_status(&volume.name) else { continue };
                if status.phase != TargetPhase::Serving || status.resync.is_some() {
                    continue;
                }
                if let Some(error) = self.healing.failure(&volume.name, id) {
                    return Err(error);
                }
                let lacks = |state| matches!(state, CopyState::Stale | CopyState::Missing);
                waits |= status.drives.iter().any(|seen| seen.id == id && lacks(seen.state));
            }
            if !waits {
                return Ok(());
            }
            if start.elapsed() >= SETTLE_DEADLINE {
                let message = "the drive is noted as online, and is not in use yet";
                return Err(Error::new(Kind::Timeout, id, message).hint("it goes on; see plinth volume show"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// An engine did not let a drive go that the operator wants out: it is online again.
    pub(super) fn take_back_out(&self, id: &str, why: &Error) -> Result<()> {
        let _records = self.records();
        let mut drive = self.drive(id)?;
        if drive.state == DriveState::Online {
            return Ok(());
        }
        drive.state = DriveState::Online;
        self.store.txn().update(records::drive_key(id), &drive).commit()?;
        let message = format!("drive {} is online again: {why}", drive.path.display());
        self.events.record(Severity::Warning, "drive_online", id, &message);
        Ok(())
    }

    /// Whether the last scan found a drive more than once, and no target is known to have the right one.
    pub(super) fn is_doubled(&self, drive: &DriveRecord) -> Option<Error> {
        let paths = self.healing.doubled(&drive.id).filter(|_| !self.supervisor.has_open(&drive.id))?;
        Some(doubled(&drive.id, paths.iter().map(std::path::PathBuf::as_path)))
    }

    /// Refuses a drive whose identity is there more than once, by a scan of its own.
    ///
    /// # Errors
    /// `Refused`, naming the paths.
    pub(super) fn refuse_doubled(&self, drive: &DriveRecord) -> Result<()> {
        let records = self.store.list::<DriveRecord>("drives/")?;
        let known: Vec<_> = records.iter().map(|drive| drive.path.clone()).collect();
        let scan = drives::scan(&known, self.options.scan_devices, true);
        let Some(found) = scan.doubled.get(&drive.id) else { return Ok(()) };
        Err(doubled(&drive.id, found.iter().map(|seen| seen.path.as_path())))
    }
}

/// Why none of several drives with one identity is used.
pub(super) fn doubled<'a>(id: &str, paths: impl Iterator<Item = &'a Path>) -> Error {
    let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    let message = format!("drive {id} is there more than once: {}", paths.join(" "));
    Error::new(Kind::Refused, id, message)
        .hint("a copied drive has the identity of the original; take all but one of them away")
}

fn is_current(status: &TargetStatus, drive: &str) -> bool {
    status.drives.iter().any(|seen| seen.id == drive && seen.state == CopyState::Current)
}

fn no_drive(pool: &str, named: &str) -> Error {
    Error::new(Kind::NotFound, named, format!("pool {pool} has no drive {named}"))
        .hint(format!("plinth drive list {pool} shows its drives; name one by id or path"))
}
