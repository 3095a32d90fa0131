//! What a volume is tended for, and how far that is.
use crate::agent::Agent;
use crate::catalogue::moves;
use crate::catalogue::{
    CopyRecord, CopyState, DriveState, GroupRecord, MoveRecord, PoolRecord, VolumeRecord,
};
use crate::error::Result;

impl Agent {
    /// Whether something is to be done on a volume that its target alone can do.
    pub(super) fn is_to_be_tended(
        &self,
        pool: &PoolRecord,
        volume: &VolumeRecord,
        group: &GroupRecord,
    ) -> Result<bool> {
        Ok(self.needs_more_than_scrub(pool, volume, group)? || self.may_scrub_now(volume)?)
    }

    pub(super) fn needs_more_than_scrub(
        &self,
        pool: &PoolRecord,
        volume: &VolumeRecord,
        group: &GroupRecord,
    ) -> Result<bool> {
        let rekeyed = group.encryption.as_ref().is_some_and(|by| by.rekey.is_some());
        if rekeyed
            || group.legs_to_change()
            || self.store.get::<MoveRecord>(&moves::key(&group.id))?.is_some()
        {
            return Ok(true);
        }
        let leaving = self.leaving_drives(&volume.pool)?;
        if !leaving.is_empty() {
            let rows = self.rows_of(&group.id)?;
            if leaving.iter().any(|drive| crate::agent::moving::has_rows(&rows, &drive.id)) {
                return Ok(true);
            }
        }
        for copy in &group.copies {
            if self.may_come_back(group, copy)? {
                return Ok(true);
            }
        }
        Ok(pool.rebalancing && self.shift_is_wanted(pool, volume, group)?)
    }

    /// Whether a copy misses something, and its drive is there to get it.
    pub(in crate::agent) fn may_come_back(&self, group: &GroupRecord, copy: &CopyRecord) -> Result<bool> {
        if copy.state == CopyState::Current || copy.failed {
            return Ok(false);
        }
        let drive = self.drive(&copy.drive)?;
        let usable = drive.state == DriveState::Online && self.is_there(&drive);
        Ok(usable && self.healing.doubled(&drive.id).is_none() && !self.is_left(group, &drive)?)
    }

    /// How far what is done on a volume is: anything that changes as it goes on.
    pub(super) fn progress_of(&self, volume: &VolumeRecord, group: &GroupRecord) -> Result<Vec<u64>> {
        let live = self.supervisor.live(&volume.name);
        let status = live.as_ref().and_then(|live| live.status.as_ref());
        let resync = status.and_then(|status| status.resync.as_ref());
        let moving = self.store.get::<MoveRecord>(&moves::key(&group.id))?;
        let current = group.copies.iter().filter(|copy| copy.state == CopyState::Current).count();
        let mut seen = vec![
            u64::from(live.is_some()),
            resync.map_or(0, |resync| 1 + resync.copied_bytes + resync.kept_bytes),
            moving.map_or(0, |moving| moving.version),
            current as u64,
        ];
        seen.extend(self.moving.progress_of(&volume.id));
        seen.extend([self.scrubbing.progress_of(&volume.id), self.rekeying.progress_of(&volume.id)]);
        Ok(seen)
    }
}
