//! Spares: free space that is kept back for the content of drives that are lost, and taken when one is.
//!
//! A spare is no drive of its own: space for the content of the fullest drives is left free on all of them, so that
//! many drives take part in bringing redundancy back. A drive is lost when it is missing, was declared failed, or was
//! put out by a group because of what it did, for as long as the pool's `spare_delay`; since when is in its record, so
//! that an agent that starts anew does not begin to wait anew. It is emptied like by `drive evacuate` then, and
//! counts as the one for whom space was kept until it is brought back or leaves the pool.
use crate::agent::Agent;
use crate::catalogue::{
    DriveRecord, DriveState, Errand, GroupRecord, Leaving, Life, PoolRecord, Severity, Versioned, records,
};
use crate::error::Result;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// Extents that a pool keeps back for its spares: as many as its fullest drives have taken. A spare that was used keeps
/// nothing back any more.
pub fn spare_extents(
    pool: &PoolRecord,
    drives: &[Versioned<DriveRecord>],
    taken: impl Fn(&str) -> u32,
) -> u64 {
    let used = drives.iter().filter(|drive| is_spared(drive)).count();
    let stays = drives.iter().filter(|drive| drive.leaving.is_none());
    let mut fullest: Vec<u32> = stays.map(|drive| taken(&drive.id)).collect();
    fullest.sort_unstable_by(|a, b| b.cmp(a));
    fullest.into_iter().take((pool.spares as usize).saturating_sub(used)).map(u64::from).sum()
}

/// Whether spare space took a drive's place.
fn is_spared(drive: &DriveRecord) -> bool {
    drive.leaving.as_ref().is_some_and(|leaving| leaving.errand == Errand::Spare)
}

impl Agent {
    /// Empties drives that were lost for long enough, as far as there are spares.
    pub(super) fn take_spares(&self) -> Result<()> {
        let pools = self.store.list::<PoolRecord>("pools/")?;
        for pool in pools.iter().filter(|pool| pool.life == Life::Ready && pool.spares > 0) {
            let mut space = self.lock();
            let drives = self.pool_drives(pool)?;
            if drives.iter().any(|drive| drive.life == Life::Ready && !self.is_there(drive)) {
                // It may be back, perhaps under another path.
                self.rescan(&mut space)?;
            }
            let failed: BTreeSet<String> =
                self.groups_of(&pool.name)?.into_iter().flat_map(failed_on).collect();
            let mut left =
                (pool.spares as usize).saturating_sub(drives.iter().filter(|d| is_spared(d)).count());
            for drive in self.pool_drives(pool)? {
                let lost = match drive.state {
                    DriveState::Failed => true,
                    DriveState::Online => !self.is_there(&drive) || failed.contains(&drive.id),
                    _ => false,
                };
                let drive = self.note_lost(drive, lost)?;
                let delay = Duration::from_secs(pool.spare_delay_seconds);
                if left > 0 && drive.leaving.is_none() && is_over(&drive, delay) {
                    left -= usize::from(self.take_spare(&mut space, pool, drive)?);
                }
            }
        }
        Ok(())
    }

    /// Writes down since when a drive is lost, or that it is not.
    fn note_lost(&self, mut drive: Versioned<DriveRecord>, lost: bool) -> Result<Versioned<DriveRecord>> {
        if lost != drive.lost_since.is_some() {
            drive.lost_since = lost.then(crate::text::now);
            drive.version = self.store.txn().update(records::drive_key(&drive.id), &drive).commit()?;
        }
        Ok(drive)
    }

    /// Has spare space take a drive's place. Returns whether it does: there may be too little of it.
    fn take_spare(
        &self,
        space: &mut crate::agent::locks::Verb<'_>,
        pool: &PoolRecord,
        mut drive: Versioned<DriveRecord>,
    ) -> Result<bool> {
        let (id, path) = (drive.id.clone(), drive.path.display().to_string());
        let leaving = Some(Leaving { errand: Errand::Spare, to: None });
        let wanted = DriveRecord { leaving: leaving.clone(), ..drive.record.clone() };
        if let Err(error) = self.check_room(space, pool, &wanted, None) {
            if self.moving.refuse_spare(&id) {
                let message = format!("spare space cannot take the place of drive {path}: {error}");
                self.events.record(Severity::Error, "spare_short", &id, &message);
            }
            return Ok(false);
        }
        self.set_leaving(&mut drive, leaving)?;
        self.moving.allow_spare(&id);
        let message = format!("spare space of pool {} takes the place of drive {path}", pool.name);
        self.events.history(&pool.id, &format!("(spare of {path})"), &message);
        self.events.record(Severity::Warning, "spare_taken", &id, &message);
        Ok(true)
    }
}

/// The drives that a group put out because of what they did.
fn failed_on((_, group): (crate::catalogue::VolumeRecord, Versioned<GroupRecord>)) -> Vec<String> {
    let failed = group.record.copies.into_iter().filter(|copy| copy.failed);
    failed.map(|copy| copy.drive).collect()
}

/// Whether a drive was lost for so long.
fn is_over(drive: &DriveRecord, delay: Duration) -> bool {
    // Instants compare as their texts do.
    let since = SystemTime::now().checked_sub(delay).map(crate::text::show_instant);
    drive.lost_since.as_ref().zip(since).is_some_and(|(lost, latest)| *lost <= latest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{self, agent, told};
    use crate::catalogue::CopyState;
    use crate::params::{AddDrives, Labels};

    fn pool() -> PoolRecord {
        serde_json::from_value(serde_json::json!({
            "id": "p", "name": "p", "created_at": "", "life": "ready", "extent_blocks": 64, "drives": [],
        }))
        .expect("a pool of an earlier build")
    }

    fn drive(id: &str) -> Versioned<DriveRecord> {
        let record = serde_json::from_value(serde_json::json!({
            "id": id, "pool": "p", "path": "/d", "life": "ready", "state": "online", "node": "", "rack": "",
            "zone": "", "class": "", "blocks": 1000, "extents": 10, "written": 1,
        }));
        Versioned { version: 1, record: record.expect("a drive of an earlier build") }
    }

    #[test]
    fn the_fullest_drives_are_kept_room_for_and_a_spare_that_was_used_no_more() {
        let mut pool = pool();
        let mut drives = vec![drive("a"), drive("b"), drive("c")];
        let taken = |id: &str| match id {
            "a" => 3,
            "b" => 7,
            _ => 5,
        };
        for (spares, extents) in [(0, 0), (1, 7), (2, 12), (9, 15)] {
            pool.spares = spares;
            assert_eq!(spare_extents(&pool, &drives, taken), extents);
        }
        pool.spares = 2;
        drives[1].leaving = Some(Leaving { errand: Errand::Spare, to: None });
        assert_eq!(spare_extents(&pool, &drives, taken), 5);
        drives[1].leaving = Some(Leaving { errand: Errand::Evacuate, to: None });
        assert_eq!(spare_extents(&pool, &drives, taken), 8);
    }

    #[test]
    fn a_drive_is_lost_for_good_when_its_time_is_over() {
        let mut lost = drive("a");
        assert!(!is_over(&lost, Duration::ZERO));
        lost.lost_since = Some(crate::text::now());
        assert!(is_over(&lost, Duration::ZERO));
        assert!(!is_over(&lost, Duration::from_secs(600)));
    }

    /// The group of volume `v` has put this drive out because of what it did, so many seconds ago.
    fn put_out(agent: &Agent, drive: &str, seconds: u64) {
        let mut group = agent.group("v").expect("a group");
        let copy = group.copies.iter_mut().find(|copy| copy.drive == drive).expect("a copy");
        (copy.state, copy.failed) = (CopyState::Stale, true);
        agent.store.txn().update(records::group_key("v"), &group).commit().expect("stored");
        agent.take_spares().expect("looks");
        let mut record = agent.drive(drive).expect("a drive");
        assert!(record.lost_since.is_some(), "since when is written down");
        let since = SystemTime::now() - Duration::from_secs(seconds);
        record.lost_since = Some(crate::text::show_instant(since));
        agent.store.txn().update(records::drive_key(drive), &record).commit().expect("stored");
    }

    fn leaving(agent: &Agent, drive: &str) -> Option<Errand> {
        agent.drive(drive).expect("a drive").leaving.as_ref().map(|leaving| leaving.errand)
    }

    /// An agent with a mirror `v` on drives of a pool with a spare, and the first drive of it.
    fn mirror(folder: &std::path::Path, drives: &[&str]) -> (std::sync::Arc<Agent>, String) {
        let agent = agent(folder);
        testing::pool(&agent, folder, drives);
        agent.create_volume(&testing::volume("v", 2), false).expect("creates");
        agent.set_pool("p", "spares", "1", false).expect("sets");
        let drive = agent.group("v").expect("a group").copies[0].drive.clone();
        (agent, drive)
    }

    /// A drive that is there, and that a volume has put out: a spare takes its place when its time is over, and not before;
    /// one that is well again in time keeps it.
    #[test]
    fn a_drive_that_a_volume_put_out_is_spared_after_the_delay() {
        let folder = tempfile::tempdir().expect("folder");
        let (agent, drive) = mirror(folder.path(), &["d1", "d2", "d3"]);
        agent.take_spares().expect("looks");
        assert!(agent.drive(&drive).expect("a drive").lost_since.is_none(), "nothing is wrong yet");
        put_out(&agent, &drive, 590);
        agent.take_spares().expect("looks");
        assert_eq!(
            (leaving(&agent, &drive), told(&agent, "spare_taken").len()),
            (None, 0),
            "not before its time"
        );
        let mut group = agent.group("v").expect("a group");
        let copy = group.copies.iter_mut().find(|copy| copy.drive == drive).expect("a copy");
        copy.failed = false;
        agent.store.txn().update(records::group_key("v"), &group).commit().expect("stored");
        agent.take_spares().expect("looks");
        assert!(agent.drive(&drive).expect("a drive").lost_since.is_none(), "its time begins anew");
        put_out(&agent, &drive, 601);
        agent.take_spares().expect("looks");
        assert_eq!(leaving(&agent, &drive), Some(Errand::Spare));
        agent.take_spares().expect("looks");
        let told = told(&agent, "spare_taken");
        assert!(told.len() == 1 && told[0].contains("takes the place of drive"), "{told:?}");
    }

    /// Where what is on the drive has no other place it stays, and that is said once, as an error.
    #[test]
    fn a_spare_without_a_place_is_called_short_once() {
        let folder = tempfile::tempdir().expect("folder");
        let (agent, drive) = mirror(folder.path(), &["d1", "d2"]);
        put_out(&agent, &drive, 601);
        agent.take_spares().expect("looks");
        agent.take_spares().expect("looks");
        assert_eq!((leaving(&agent, &drive), told(&agent, "spare_taken").len()), (None, 0));
        let short = told(&agent, "spare_short");
        assert!(short.len() == 1 && short[0].contains("cannot take the place of drive"), "{short:?}");
        // With room it is taken all the same.
        let more = folder.path().join("d3");
        std::fs::File::create(&more).expect("creates").set_len(256 << 20).expect("sizes");
        let added = AddDrives { drives: vec![more], labels: Labels::default(), force: false };
        agent.add_drives("p", &added, false).expect("adds");
        agent.take_spares().expect("looks");
        assert_eq!(leaving(&agent, &drive), Some(Errand::Spare));
    }
}
