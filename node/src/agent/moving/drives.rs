//! Drives that are to be empty: what could not be wiped is wiped when it can be, and a drive that is to leave its pool
//! leaves it once nobody has anything there.
//!
//! Crash story: the label is wiped first, then one transaction takes the drive out of the catalogue. Cut short in between
//! the drive is one of its pool that is not found, and its record says that it goes: the next look goes on.
use super::{has_rows, locked};
use crate::agent::Agent;
use crate::agent::locks::Verb;
use crate::agent::rows::wipe_extents;
use crate::agent::space::Space;
use crate::catalogue::records::{LeftRecord, left_key};
use crate::catalogue::{
    CopyState, DeletedRecord, DriveRecord, GroupRecord, Leaving, MoveRecord, PoolRecord, Severity, Txn,
    Versioned, VolumeRecord, deleted, records,
};
use crate::error::Result;
use crate::protocol::Request;
use crate::supervise::Phase;
use std::collections::BTreeMap;

impl Agent {
    /// Takes all drives that are to be empty as far as they can be taken without their volumes.
    pub(in crate::agent) fn settle_drives(&self) -> Result<()> {
        let mut space = self.lock();
        let groups = self.store.list::<GroupRecord>("groups/")?;
        for group in groups.into_iter().filter(|group| !group.unwiped.is_empty()) {
            self.wipe_left(&mut space, group)?;
        }
        for deleted in self.store.list::<DeletedRecord>(deleted::PREFIX)? {
            self.wipe_deleted(&mut space, deleted)?;
        }
        for pool in self.store.list::<PoolRecord>("pools/")? {
            for drive in self.leaving_drives(&pool.name)? {
                let removes = drive.leaving.as_ref().is_some_and(|leaving| leaving.errand.removes());
                if removes && self.is_empty(&space, &pool, &drive)? {
                    self.take_out_of_pool(&mut space, &pool.name, &drive)?;
                }
            }
        }
        Ok(())
    }

    /// Whether something waits to be wiped until its drive is there.
    pub(super) fn waits_for_drives(&self, groups: &[Versioned<GroupRecord>]) -> Result<bool> {
        let unwiped = groups.iter().any(|group| !group.unwiped.is_empty());
        Ok(unwiped || !self.store.keys(deleted::PREFIX)?.is_empty())
    }

    /// What a deleted group left is wiped now, where its drive is there: its target has ended.
    fn wipe_deleted(&self, space: &mut Verb<'_>, mut record: Versioned<DeletedRecord>) -> Result<()> {
        let extent_blocks = self.pool(&record.pool)?.extent_blocks;
        let listed = std::mem::take(&mut record.extents);
        let mut per_drive: BTreeMap<String, Vec<(u32, bool)>> = BTreeMap::new();
        for left in &listed {
            // What is somebody else's by now is only forgotten.
            if self.has_extent(&record.group, left)? {
                per_drive.entry(left.0.clone()).or_default().push((left.1, true));
                record.extents.push(left.clone());
            }
        }
        let mut txn = self.store.txn();
        let mut freed = Vec::new();
        for (id, extents) in per_drive {
            let wipe = || {
                let media = self.open_drive(&self.drive(&id)?.record)?;
                wipe_extents(&media, extent_blocks, &extents)
            };
            if space.aside(wipe).is_ok() {
                record.extents.retain(|(on, _)| *on != id);
                for (extent, _) in extents {
                    txn = txn.delete(records::extent_key(&id, extent));
                    freed.push((id.clone(), extent));
                }
            }
        }
        if record.extents.len() < listed.len() {
            Self::put_deleted(txn, &record).commit()?;
            freed.iter().for_each(|(id, extent)| space.give_back(id, *extent));
        }
        Ok(())
    }

    /// Adds to a transaction what is still left of a deleted group.
    fn put_deleted<'a>(txn: Txn<'a>, record: &Versioned<DeletedRecord>) -> Txn<'a> {
        let key = deleted::key(&record.group);
        if record.extents.is_empty() { txn.remove(key, record) } else { txn.update(key, record) }
    }

    /// Adds to a transaction that nothing of deleted groups is left on these drives, for they leave the catalogue.
    pub(in crate::agent) fn forget_deleted<'a>(&self, mut txn: Txn<'a>, drives: &[&str]) -> Result<Txn<'a>> {
        for mut record in self.store.list::<DeletedRecord>(deleted::PREFIX)? {
            let before = record.extents.len();
            record.extents.retain(|(on, _)| !drives.contains(&on.as_str()));
            if record.extents.len() < before {
                txn = Self::put_deleted(txn, &record);
            }
        }
        Ok(txn)
    }

    /// Extents of a group that could not be wiped when they came back are wiped now, where their drive is there.
    fn wipe_left(&self, space: &mut Verb<'_>, group: Versioned<GroupRecord>) -> Result<()> {
        let extent_blocks = self.pool(&group.pool)?.extent_blocks;
        let refused = locked(&self.refused).clone();
        let (mut freed, mut gone) = (Vec::new(), Vec::new());
        for left in &group.unwiped {
            let (id, extent) = left;
            if !self.has_extent(&group.id, left)? {
                // Somebody else's by now, or nobody's.
                gone.push(left.clone());
                continue;
            }
            let wipe = || {
                let drive = self.drive(id)?;
                wipe_extents(&self.open_drive(&drive)?, extent_blocks, &[(*extent, true)])
            };
            // A target may still have the drive open, with something on its way to it; not to what it refused.
            let open = !refused.contains(&(group.id.clone(), left.clone())) && self.is_open(&group, id)?;
            if !open && space.aside(wipe).is_ok() {
                freed.push(left.clone());
            }
        }
        if freed.is_empty() && gone.is_empty() {
            return Ok(());
        }
        // What serves it may have changed its record meanwhile.
        let mut group = self.group(&group.name)?;
        freed.retain(|left| group.unwiped.contains(left));
        group.unwiped.retain(|left| !freed.contains(left) && !gone.contains(left));
        let txn = self.store.txn().update(records::group_key(&group.name), &group);
        let txn = freed.iter().fold(txn, |txn, (id, extent)| txn.delete(records::extent_key(id, *extent)));
        txn.commit()?;
        freed.iter().for_each(|(id, extent)| space.give_back(id, *extent));
        locked(&self.refused).retain(|(of, left)| *of != group.id || !freed.contains(left));
        self.supervisor.tell(&group.pool, &Request::SpaceAdded);
        Ok(())
    }

    /// Whether the target of a group has, or may have, a drive open.
    fn is_open(&self, group: &GroupRecord, drive: &str) -> Result<bool> {
        let volumes = self.store.list::<VolumeRecord>("volumes/")?;
        let mut attached = volumes.iter().filter(|v| v.group == group.name && v.attachment.is_some());
        Ok(attached.any(|volume| {
            let live = self.supervisor.live(&volume.name).filter(|live| live.phase == Phase::Serving);
            let Some(status) = live.and_then(|live| live.status) else { return true };
            status
                .drives
                .iter()
                .any(|seen| seen.id == drive && (seen.open || seen.state == CopyState::Current))
        }))
    }

    /// Whether nobody has anything on a drive. What could not be wiped does not count: it goes with the drive.
    fn is_empty(&self, space: &Space, pool: &PoolRecord, drive: &DriveRecord) -> Result<bool> {
        let mut unwiped = 0;
        for group in self.store.list::<GroupRecord>("groups/")? {
            if group.pool != pool.name {
                continue;
            }
            let moving = self.store.get::<MoveRecord>(&crate::catalogue::moves::key(&group.id))?;
            let moves = moving.is_some_and(|moving| {
                let mut on = moving.places.iter().flat_map(|place| [&place.old.0, &place.new.0]);
                on.any(|id| *id == drive.id) || moving.change.from() == Some(&drive.id)
            });
            let lists = group.copies.iter().any(|copy| copy.drive == drive.id);
            if moves
                || has_rows(&self.rows_of(&group.id)?, &drive.id)
                || (lists && self.is_open(&group, &drive.id)?)
            {
                return Ok(false);
            }
            unwiped += group.unwiped.iter().filter(|(id, _)| *id == drive.id).count();
        }
        for deleted in self.store.list::<DeletedRecord>(deleted::PREFIX)? {
            unwiped += deleted.extents.iter().filter(|(id, _)| *id == drive.id).count();
        }
        // What an import could not rebuild is lost with a drive that is not there.
        if !self.is_there(drive) {
            unwiped += self.unbacked_on(&drive.id)?.len();
        }
        Ok(space.taken(&drive.id) as usize <= unwiped)
    }

    /// Takes an empty drive out of its pool.
    fn take_out_of_pool(
        &self,
        space: &mut Verb<'_>,
        pool: &str,
        drive: &Versioned<DriveRecord>,
    ) -> Result<()> {
        let mut pool = self.pool(pool)?;
        space.aside(|| self.forget_label(&pool, drive));
        let (id, path) = (&drive.id, drive.path.display());
        pool.drives.retain(|other| other != id);
        let to = drive.leaving.as_ref().and_then(|leaving| leaving.to.clone());
        let left = LeftRecord { id: id.clone(), path: drive.path.clone(), to };
        let txn = self.store.txn().update(records::pool_key(&pool.name), &pool);
        let txn = txn.remove(records::drive_key(id), drive).put(left_key(&pool.id, id), &left);
        let mut txn = self.forget_deleted(txn, &[id])?;
        for key in self.store.keys(&format!("extents/{id}/"))? {
            txn = txn.delete(key);
        }
        for mut group in self.store.list::<GroupRecord>("groups/")? {
            let before = group.record.clone();
            group.copies.retain(|copy| copy.drive != *id);
            group.unwiped.retain(|(on, _)| on != id);
            if group.record != before {
                txn = txn.update(records::group_key(&group.name), &group);
            }
        }
        txn.commit()?;
        space.remove_drive(id);
        let message = format!("drive {path} left pool {}", pool.name);
        self.events.history(&pool.id, &format!("drive remove {} {path}", pool.name), &message);
        self.events.record(Severity::Info, "drive_removed", id, &message);
        Ok(())
    }

    /// A drive is to be empty from now on, or may be used again.
    pub(super) fn set_leaving(
        &self,
        drive: &mut Versioned<DriveRecord>,
        leaving: Option<Leaving>,
    ) -> Result<bool> {
        if drive.leaving == leaving {
            return Ok(false);
        }
        drive.leaving = leaving;
        drive.version = self.store.txn().update(records::drive_key(&drive.id), drive).commit()?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
