//! Spares: free space that is kept back for the content of drives that are lost, and taken when one is.
//!
//! A spare is no drive of its own: space for the content of the fullest drives is left free on all of them, so that
//! many drives take part in bringing redundancy back. A drive is lost when it is missing, was declared failed, or was
//! put out by a group because of what it did, for as long as the pool's `spare_delay`; since when is in its record, so
//! that an agent that starts anew does not begin to wait anew. A machine that starts anew does: its drives may come
//! one after the other. It is emptied like by `drive evacuate` then, and counts as the one for whom space was kept until
//! it is brought back or leaves the pool.
use crate::agent::Agent;
use crate::catalogue::{
    DriveRecord, DriveState, Errand, GroupRecord, Leaving, Life, Lost, PoolRecord, Severity, Versioned,
    records,
};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeSet;
use std::path::Path;

/// Extents that a pool keeps back for its spares: as many as its fullest drives have taken. A spare that was used keeps
/// nothing back any more. Whether those that are free are where they are needed is `kept`'s question.
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
pub(super) fn is_spared(drive: &DriveRecord) -> bool {
    drive.leaving.as_ref().is_some_and(|leaving| leaving.errand == Errand::Spare)
}

impl Agent {
    /// Empties drives that were lost for long enough, as far as there are spares.
    pub(super) fn take_spares(&self) -> Result<()> {
        let pools = self.store.list::<PoolRecord>("pools/")?;
        let has_spares = |pool: &&Versioned<PoolRecord>| pool.life == Life::Ready && pool.spares > 0;
        for pool in pools.iter().filter(has_spares) {
            let now = uptime()?;
            let mut space = self.lock();
            // It may have been changed or deleted before the lock was there.
            let pool = self.store.get::<PoolRecord>(&records::pool_key(&pool.name))?;
            let Some(pool) = pool.as_ref().filter(has_spares) else { continue };
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
                    // The pool has never had it: there is nothing on it that could be lost.
                    _ if drive.life != Life::Ready => false,
                    DriveState::Failed => true,
                    DriveState::Online => !self.is_there(&drive) || failed.contains(&drive.id),
                    _ => false,
                };
                let drive = self.note_lost(drive, lost, &now)?;
                let over = drive.lost.as_ref().and_then(|lost| lost_for(lost, &now));
                let over = over.is_some_and(|seconds| seconds >= pool.spare_delay_seconds);
                if left > 0 && drive.leaving.is_none() && over {
                    left -= usize::from(self.take_spare(&mut space, pool, drive)?);
                }
            }
        }
        Ok(())
    }

    /// Writes down since when a drive is lost, or that it is not.
    fn note_lost(
        &self,
        mut drive: Versioned<DriveRecord>,
        lost: bool,
        now: &Lost,
    ) -> Result<Versioned<DriveRecord>> {
        let noted = drive.lost.as_ref().is_some_and(|lost| lost_for(lost, now).is_some());
        if lost != noted || lost != drive.lost.is_some() {
            drive.lost = lost.then(|| now.clone());
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

/// For how many seconds a drive is lost; `None` if that was noted before the machine was started.
fn lost_for(lost: &Lost, now: &Lost) -> Option<u64> {
    if lost.boot == now.boot { now.at_seconds.checked_sub(lost.at_seconds) } else { None }
}

/// The machine's boot, and how long it has run.
fn uptime() -> Result<Lost> {
    let read = |path: &str| {
        let path = Path::new(path);
        std::fs::read_to_string(path).map_err(|source| Error::io("read", path, &source))
    };
    let (boot, uptime) = (read("/proc/sys/kernel/random/boot_id")?, read("/proc/uptime")?);
    let seconds = uptime.split('.').next().and_then(|seconds| seconds.parse().ok());
    let at_seconds = seconds.ok_or_else(|| {
        Error::general(Kind::Failed, format!("the kernel says {:?} for how long it runs", uptime.trim()))
    })?;
    Ok(Lost { boot: boot.trim().to_owned(), at_seconds })
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

    /// The story: a machine booted in 1970, a drive was slow, the clock was set, and the drive had been lost for fifty
    /// years. On another the clock was ahead when a drive went, and no spare took its place.
    #[test]
    fn the_time_of_day_has_no_say_in_when_a_drive_is_lost_for_good() {
        let at = |boot: &str, at_seconds| Lost { boot: boot.into(), at_seconds };
        assert_eq!(lost_for(&at("a", 100), &at("a", 100)), Some(0));
        assert_eq!(lost_for(&at("a", 100), &at("a", 700)), Some(600));
        assert_eq!(lost_for(&at("a", 100), &at("b", 700)), None, "it is a question again behind a boot");
        assert_eq!(lost_for(&at("a", 100), &at("a", 99)), None);
        let (first, second) = (uptime().expect("a clock"), uptime().expect("a clock"));
        assert!(lost_for(&first, &second).is_some_and(|seconds| seconds < 600), "{first:?} {second:?}");
    }

    /// What is in the catalogue counts for the agent that starts next, and for none behind a boot.
    #[test]
    fn since_when_a_drive_is_lost_is_kept_and_begins_anew_behind_a_boot() {
        let folder = tempfile::tempdir().expect("a folder");
        let agent = crate::agent::testing::agent(folder.path());
        let noted = |lost: &Lost, is: bool| {
            let version = agent
                .store
                .txn()
                .put("drives/a", &DriveRecord { lost: Some(lost.clone()), ..drive("a").record });
            let version = version.commit().expect("commits");
            let drive = agent.store.get::<DriveRecord>("drives/a").expect("reads").expect("there");
            assert_eq!(drive.version, version);
            let now = Lost { boot: "now".into(), at_seconds: 900 };
            agent.note_lost(drive, is, &now).expect("notes").record.lost
        };
        let at = |boot: &str, at_seconds| Lost { boot: boot.into(), at_seconds };
        assert_eq!(noted(&at("now", 100), true), Some(at("now", 100)));
        assert_eq!(noted(&at("before", 100), true), Some(at("now", 900)));
        assert_eq!(noted(&at("now", 100), false), None);
        assert_eq!(noted(&at("before", 100), false), None);
    }

    /// The story: a drive with a leg of a mirror and a volume without a copy was lost. Nobody could move the second, so the
    /// first stayed without its other copy, too.
    #[test]
    fn what_nobody_else_has_does_not_keep_the_rest_from_its_spare() {
        use crate::params::{AddDrives, CreatePool, CreateVolume, Labels};
        let folder = tempfile::tempdir().expect("a folder");
        let agent = crate::agent::testing::agent(folder.path());
        let drives = ["d1", "d2", "d3"].map(|name| folder.path().join(name));
        for drive in &drives {
            std::fs::File::create(drive).expect("creates").set_len(256 << 20).expect("sizes");
        }
        let params = CreatePool {
            name: "p".into(),
            drives: drives[..2].to_vec(),
            labels: Labels::default(),
            force: false,
            extent_bytes: None,
        };
        agent.create_pool(&params, false).expect("creates");
        for (name, legs) in [("mirror", 2), ("alone", 1)] {
            let params = CreateVolume { size_bytes: 1 << 20, ..testing::volume(name, legs) };
            agent.create_volume(&params, false).expect("creates");
        }
        let added = AddDrives { drives: drives[2..].to_vec(), labels: Labels::default(), force: false };
        agent.add_drives("p", &added, false).expect("adds");
        let alone = agent.group("alone").expect("there").record.copies[0].drive.clone();
        let lost = agent.drive(&alone).expect("there").record;
        std::fs::remove_file(&lost.path).expect("is lost");
        let pool = agent.pool("p").expect("there");
        let room = |errand| {
            let wanted = DriveRecord { leaving: Some(Leaving { errand, to: None }), ..lost.clone() };
            agent.check_room(&mut agent.lock(), &pool, &wanted, None)
        };
        assert_eq!(room(Errand::Evacuate).expect_err("refused").kind, Kind::Refused);
        assert_eq!(room(Errand::Spare), Ok(()));
    }

    /// The group of volume `v` has put this drive out because of what it did.
    fn put_out(agent: &Agent, drive: &str) {
        let mut group = agent.group("v").expect("a group");
        let copy = group.copies.iter_mut().find(|copy| copy.drive == drive).expect("a copy");
        (copy.state, copy.failed) = (CopyState::Stale, true);
        agent.store.txn().update(records::group_key("v"), &group).commit().expect("stored");
        agent.take_spares().expect("looks");
        assert!(agent.drive(drive).expect("a drive").lost.is_some(), "since when is written down");
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
        assert!(agent.drive(&drive).expect("a drive").lost.is_none(), "nothing is wrong yet");
        put_out(&agent, &drive);
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
        assert!(agent.drive(&drive).expect("a drive").lost.is_none(), "its time begins anew");
        put_out(&agent, &drive);
        agent.set_pool("p", "spare_delay", "0", false).expect("sets");
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
        agent.set_pool("p", "spare_delay", "0", false).expect("sets");
        put_out(&agent, &drive);
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

    /// The story: a `pool add` was killed behind its announcement, and its drive was not there any more. It was taken for one
    /// that is lost and used up the spare, and the next drive of the pool that was lost got none.
    #[test]
    fn a_drive_that_never_came_into_its_pool_uses_up_no_spare() {
        let folder = tempfile::tempdir().expect("folder");
        let (agent, first) = mirror(folder.path(), &["d1", "d2", "d3"]);
        agent.set_pool("p", "spare_delay", "0", false).expect("sets");
        let mut pool = agent.pool("p").expect("there");
        let announced = DriveRecord {
            id: "00000000-0000-0000-0000-000000000001".into(),
            path: "/dev/gone".into(),
            life: Life::Creating,
            ..agent.drive(&first).expect("there").record
        };
        pool.drives.push(announced.id.clone());
        let txn = agent.store.txn().update(records::pool_key("p"), &pool);
        txn.create(records::drive_key(&announced.id), &announced).commit().expect("stores");
        agent.take_spares().expect("looks");
        assert_eq!((leaving(&agent, &announced.id), told(&agent, "spare_taken").len()), (None, 0));
        put_out(&agent, &first);
        assert_eq!(leaving(&agent, &first), Some(Errand::Spare));
    }
}
