//! Healing: drives that are there again are handed back to the groups that miss them, and drives that the operator
//! took out are let go.
//!
//! The agent decides which drive goes back when; the target opens it and its engine brings it up to date, one drive
//! of a group at a time. What is to be done follows from catalogue and status alone, at each look anew: whatever a
//! kill of agent or target cut short is found again by the next look.
//!
//! Which drive goes back by itself: one that was away, when the group was opened or while it was served, and was
//! found again. One that failed operations while it was there (`CopyRecord::failed`) waits for `plinth drive
//! online`, or until it was gone and came back; one that the operator took out waits for him. Nothing goes back
//! whose label is another drive's, or of which two copies are there.
//!
//! A drive that comes and goes must not keep its groups busy for ever: behind the first return each one waits, twice
//! as long as the one before, until the drive was well for a while.
use super::Agent;
use crate::catalogue::{
    CopyRecord, CopyState, DriveRecord, DriveState, GroupRecord, Severity, VolumeRecord, records,
};
use crate::error::{Error, Kind, Result};
use crate::protocol::{Request, TargetPhase, TargetStatus};
use crate::supervise::{Live, Phase};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How often is looked for something to do. A look reads the catalogue, and asks only targets that lack something.
const EVERY: Duration = Duration::from_secs(2);
/// How long the second return of a drive waits; each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest that a return waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A drive that was well so long begins anew.
const WELL_AFTER: Duration = Duration::from_secs(600);
/// How long a target may take to open a drive that comes back.
const RETURN_DEADLINE: Duration = Duration::from_secs(15);
/// Pause between two looks at a target that is doing what it was asked.
const LOOK: Duration = Duration::from_millis(50);

/// The returns of one drive to one group.
#[derive(Clone, Debug, Default)]
struct Returns {
    count: u32,
    not_before: Option<Instant>,
    well_since: Option<Instant>,
    /// Why the last one came to nothing.
    failure: Option<Error>,
}

impl Returns {
    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Counts a return that begins now.
    fn begin(&mut self, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.count.min(16)).min(LONGEST_PAUSE);
        *self =
            Self { count: self.count + 1, not_before: Some(now + pause), well_since: None, failure: None };
    }

    /// Takes a look at the drive; true once it was well for so long that nothing needs to be remembered.
    fn observe(&mut self, well: bool, now: Instant) -> bool {
        self.well_since = if well { self.well_since.or(Some(now)) } else { None };
        self.well_since.is_some_and(|since| now - since >= WELL_AFTER)
    }
}

/// What the agent remembers of drives that come back; nothing of it is needed after a restart.
#[derive(Default)]
pub(crate) struct Healing {
    /// By volume and drive.
    returns: Mutex<BTreeMap<(String, String), Returns>>,
    /// Volumes that are being attended to.
    busy: Mutex<BTreeSet<String>>,
    /// Identities of which the last scan found several drives, and where.
    doubled: Mutex<BTreeMap<String, Vec<PathBuf>>>,
    /// Drives that were there at the last look, and did not answer, or were others.
    unusable: Mutex<BTreeSet<String>>,
    wake: Notify,
}

impl Healing {
    fn returns(&self) -> MutexGuard<'_, BTreeMap<(String, String), Returns>> {
        self.returns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which identities a scan found more than once; returns those of the scan before.
    pub(super) fn note_doubled(
        &self,
        found: BTreeMap<String, Vec<PathBuf>>,
    ) -> BTreeMap<String, Vec<PathBuf>> {
        std::mem::replace(&mut *self.doubled.lock().unwrap_or_else(PoisonError::into_inner), found)
    }

    /// Where the last scan found a drive, if that was at several places.
    pub(super) fn doubled(&self, drive: &str) -> Option<Vec<PathBuf>> {
        self.doubled.lock().unwrap_or_else(PoisonError::into_inner).get(drive).cloned()
    }

    fn unusable(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unusable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a look at a drive that is there has shown.
    fn note_usable(&self, drive: &str, usable: bool) {
        let mut unusable = self.unusable();
        if usable {
            unusable.remove(drive);
        } else if !unusable.contains(drive) {
            unusable.insert(drive.to_owned());
        }
    }

    /// The operator wants this drive back: nothing that it did counts.
    pub(super) fn forgive(&self, drive: &str) {
        self.returns().retain(|(_, id), _| id != drive);
    }

    /// Why the last return of a drive to a volume came to nothing.
    pub(super) fn failure(&self, volume: &str, drive: &str) -> Option<Error> {
        let key = (volume.to_owned(), drive.to_owned());
        self.returns().get(&key).and_then(|returns| returns.failure.clone())
    }

    fn failed(&self, volume: &str, drive: &str, error: Error) {
        let key = (volume.to_owned(), drive.to_owned());
        if let Some(returns) = self.returns().get_mut(&key) {
            returns.failure = Some(error);
        }
    }

    /// Has the next look happen now.
    pub(super) fn look_now(&self) {
        self.wake.notify_one();
    }
}

/// What a target is to be asked next.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    TakeOut(String),
    Release(String),
    Return(String, PathBuf),
}

/// Whether a volume's target serves, and takes changes.
fn serving(live: &Live) -> Option<&TargetStatus> {
    let status = live.status.as_ref()?;
    (live.phase == Phase::Serving && status.phase == TargetPhase::Serving).then_some(status)
}

impl Agent {
    /// Heals until the agent ends.
    pub(crate) async fn heal(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let this = self.clone();
            match super::blocking(move || this.unhealed()).await {
                Ok(volumes) => volumes.into_iter().for_each(|volume| self.attend(volume)),
                Err(error) => tracing::error!("cannot see which drives are lacking: {error}"),
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.healing.wake.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Attends to one volume in the background, unless that goes on already.
    fn attend(self: &Arc<Self>, volume: String) {
        if !self.healing.busy().insert(volume.clone()) {
            return;
        }
        let this = self.clone();
        super::spawn(async move {
            if let Err(error) = this.heal_volume(&volume).await {
                tracing::warn!("volume {volume} is not attended to for now: {error}");
            }
            this.healing.busy().remove(&volume);
        });
    }

    /// Volumes that are served and lack a copy, or have one on a drive that was taken out.
    fn unhealed(&self) -> Result<Vec<String>> {
        let mut lacking = Vec::new();
        for volume in self.store.list::<VolumeRecord>("volumes/")? {
            let served = volume.attachment.as_ref().is_some_and(|a| a.served && !a.detaching && !a.read_only);
            if !served {
                continue;
            }
            let remembered = self.healing.returns().keys().any(|(name, _)| *name == volume.name);
            let group = self.group(&volume.group)?;
            let lacks = |copy: &CopyRecord| {
                let Ok(drive) = self.drive(&copy.drive) else { return false };
                let out = drive.state != DriveState::Online;
                (copy.state != CopyState::Current && !self.is_left(&group, &drive).unwrap_or(true)) || out
            };
            if remembered || group.copies.iter().any(lacks) {
                lacking.push(volume.record.name);
            }
        }
        Ok(lacking)
    }

    /// Does what a volume needs, until there is nothing more to do now.
    async fn heal_volume(self: &Arc<Self>, volume: &str) -> Result<()> {
        loop {
            self.supervisor.refresh(Some(volume)).await;
            let Some(live) = self.supervisor.live(volume) else { return Ok(()) };
            let Some(status) = serving(&live).cloned() else { return Ok(()) };
            let (this, name) = (self.clone(), volume.to_owned());
            let Some(step) = super::blocking(move || this.next_step(&name, &status)).await? else {
                return Ok(());
            };
            if !self.take_step(volume, step).await? {
                return Ok(());
            }
        }
    }

    /// Returns whether there may be more to do now.
    async fn take_step(self: &Arc<Self>, volume: &str, step: Step) -> Result<bool> {
        match step {
            Step::TakeOut(drive) => {
                let asked = self.supervisor.ask(volume, Request::TakeOut { drive: drive.clone() }).await;
                match asked {
                    // The mark becomes durable first; the look after that lets the drive go.
                    Ok(_) => tokio::time::sleep(LOOK).await,
                    Err(error) if error.kind == Kind::Refused => {
                        let this = self.clone();
                        super::blocking(move || this.take_back_out(&drive, &error)).await?;
                    }
                    Err(error) => return Err(error),
                }
                Ok(true)
            }
            Step::Release(drive) => {
                self.supervisor.ask(volume, Request::ReleaseDrive { drive }).await.map(|_| true)
            }
            Step::Return(drive, path) => {
                let asked = Request::ReturnDrive { drive: drive.clone(), path: path.clone() };
                let outcome = match self.supervisor.ask(volume, asked).await {
                    Ok(_) => self.wait_returned(volume, &drive).await,
                    Err(error) => Err(error),
                };
                let path = path.display();
                match outcome {
                    Ok(()) => {
                        let message = format!("drive {path} is being brought up to date in volume {volume}");
                        self.events.record(Severity::Info, "resync_started", volume, &message);
                    }
                    Err(error) => {
                        let message = format!("drive {path} cannot come back to volume {volume}: {error}");
                        self.events.record(Severity::Warning, "drive_not_returned", volume, &message);
                        self.healing.failed(volume, &drive, error);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Waits until a drive that was handed back was taken, or refused.
    async fn wait_returned(&self, volume: &str, drive: &str) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < RETURN_DEADLINE {
            tokio::time::sleep(LOOK).await;
            self.supervisor.refresh(Some(volume)).await;
            let live = self.supervisor.live(volume);
            let returned = live.and_then(|live| live.status).and_then(|status| status.returned);
            // Another target than the one that was asked knows of nothing.
            let Some(returned) = returned.filter(|returned| returned.drive == drive) else { break };
            match (returned.settled, returned.error) {
                (true, None) => return Ok(()),
                (true, Some(error)) => return Err(error),
                (false, _) => {}
            }
        }
        Err(Error::new(Kind::Busy, drive, "its target did not take it in time"))
    }

    /// What a volume's target is to be asked now.
    fn next_step(&self, volume: &str, status: &TargetStatus) -> Result<Option<Step>> {
        let record = self.volume(volume)?;
        let group = self.group(&record.group)?;
        let mut candidates = Vec::new();
        for copy in &group.copies {
            let Some(seen) = status.drives.iter().find(|seen| seen.id == copy.drive) else { continue };
            let drive = self.drive(&copy.drive)?;
            let out = matches!(seen.state, CopyState::Stale | CopyState::Missing);
            let well = seen.state == CopyState::Current;
            self.remember(volume, &copy.drive, well);
            if well {
                self.healing.note_usable(&copy.drive, true);
            }
            if drive.state != DriveState::Online {
                // A copy that is being put out is not stale yet: it is asked again, which changes nothing.
                match (out, seen.open) {
                    (false, _) => return Ok(Some(Step::TakeOut(drive.record.id))),
                    (true, true) => return Ok(Some(Step::Release(drive.record.id))),
                    (true, false) => {}
                }
            } else if out && copy.state != CopyState::Current && !self.is_left(&group, &drive)? {
                candidates.push((drive.record, copy.failed));
            }
        }
        let returning = status.returned.as_ref().is_some_and(|returned| !returned.settled);
        if status.resync.is_some() || returning {
            return Ok(None);
        }
        for (drive, failed) in candidates {
            if self.may_return(volume, &drive, failed)? {
                let key = (volume.to_owned(), drive.id.clone());
                self.healing.returns().entry(key).or_default().begin(Instant::now());
                if let Some(path) = self.only_copy(volume, &drive) {
                    return Ok(Some(Step::Return(drive.id, path)));
                }
            }
        }
        Ok(None)
    }

    /// Notes how a drive is, and forgets it once it was well for long.
    fn remember(&self, volume: &str, drive: &str, well: bool) {
        let mut returns = self.healing.returns();
        let key = (volume.to_owned(), drive.to_owned());
        if returns.get_mut(&key).is_some_and(|returns| returns.observe(well, Instant::now())) {
            returns.remove(&key);
        }
    }

    /// The drives that a volume lacks and that are there: each is handed back in its turn, if not now.
    pub(super) fn returning(
        &self,
        volume: &VolumeRecord,
        group: &GroupRecord,
        live: Option<&Live>,
    ) -> Vec<String> {
        let attached = volume.attachment.as_ref().is_some_and(|a| a.served && !a.detaching && !a.read_only);
        let Some(status) = live.and_then(serving).filter(|_| attached) else { return Vec::new() };
        let awaited = |copy: &&CopyRecord| {
            let seen = status.drives.iter().find(|seen| seen.id == copy.drive);
            let out = seen.is_some_and(|seen| matches!(seen.state, CopyState::Stale | CopyState::Missing));
            let Ok(drive) = self.drive(&copy.drive) else { return false };
            // Nothing is read here: one that hangs is no reason to wait. What the last look found counts.
            let there = self.is_there(&drive) && !self.healing.unusable().contains(&drive.id);
            let usable = drive.state == DriveState::Online && there;
            out && usable && !copy.failed && !self.is_left(group, &drive).unwrap_or(true)
        };
        group.copies.iter().filter(awaited).map(|copy| copy.drive.clone()).collect()
    }

    /// Whether a drive that a group misses is to be handed back now.
    fn may_return(&self, volume: &str, drive: &DriveRecord, failed: bool) -> Result<bool> {
        let seen = self.is_there(drive);
        let there = seen && self.open_drive(drive).is_ok();
        self.healing.note_usable(&drive.id, there || !seen);
        if failed {
            // A copy beside it does not mean that it was gone.
            if !there && self.healing.doubled(&drive.id).is_none() {
                let _records = self.records();
                self.forgive_failure(&drive.id)?;
            }
            return Ok(false);
        }
        let key = (volume.to_owned(), drive.id.clone());
        let due = self.healing.returns().get(&key).is_none_or(|returns| returns.is_due(Instant::now()));
        Ok(there && due)
    }

    /// A drive that failed was gone: when it is there again, that is another life of it. The caller has the lock of
    /// records.
    pub(super) fn forgive_failure(&self, drive: &str) -> Result<bool> {
        let mut txn = self.store.txn();
        let mut forgiven = false;
        for mut group in self.store.list::<GroupRecord>("groups/")? {
            let mut failed = group.copies.iter_mut().filter(|copy| copy.drive == drive && copy.failed);
            if let Some(copy) = failed.next() {
                copy.failed = false;
                forgiven = true;
                txn = txn.update(records::group_key(&group.name), &group);
            }
        }
        if forgiven {
            txn.commit()?;
        }
        Ok(forgiven)
    }

    /// Where a drive is, if there is one of it. Of two with the same identity nobody knows which is the one that
    /// the group had.
    fn only_copy(&self, volume: &str, drive: &DriveRecord) -> Option<PathBuf> {
        match self.refuse_doubled(drive) {
            Ok(()) => Some(drive.path.clone()),
            Err(error) => {
                let message = error.to_string();
                self.events.record(Severity::Warning, "drive_doubled", &drive.id, &message);
                self.healing.failed(volume, &drive.id, error);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_that_comes_and_goes_comes_back_ever_more_rarely() {
        let (mut returns, start) = (Returns::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert!(returns.is_due(start) || returns.not_before.is_some());
            returns.begin(start);
            pauses.push(returns.not_before.expect("a pause") - start);
        }
        assert_eq!((pauses[0], pauses[1], pauses[9]), (FIRST_PAUSE, 2 * FIRST_PAUSE, LONGEST_PAUSE));
        assert!(pauses.is_sorted());
        assert!(!returns.is_due(start) && returns.is_due(start + LONGEST_PAUSE));
    }

    #[test]
    fn a_drive_that_was_well_for_long_begins_anew() {
        let (mut returns, start) = (Returns::default(), Instant::now());
        returns.begin(start);
        assert!(!returns.observe(true, start));
        assert!(!returns.observe(false, start + WELL_AFTER));
        assert!(!returns.observe(true, start + WELL_AFTER * 2));
        assert!(returns.observe(true, start + WELL_AFTER * 3));
    }
}
