//! What is going on in the background of a pool: one task for each volume that is moved off a drive.
use super::{has_rows, locked};
use crate::agent::Agent;
use crate::agent::view::{estimate, extent_bytes};
use crate::catalogue::moves::{self, Stage};
use crate::catalogue::{Attachment, Errand, MoveRecord, PoolRecord, VolumeRecord};
use crate::error::Result;
use crate::model::{Task, TaskKind, TaskState};
use crate::protocol::TargetPhase;

impl Agent {
    /// The tasks of a pool.
    pub(in crate::agent) fn view_tasks(&self, pool: &PoolRecord) -> Result<Vec<Task>> {
        let leaving = self.leaving_drives(&pool.name)?;
        let mut tasks = Vec::new();
        for (volume, group) in self.groups_of(&pool.name)? {
            let moving = self.store.get::<MoveRecord>(&moves::key(&group.id))?.map(|moving| moving.record);
            let rows = self.rows_of(&group.id)?;
            let known = locked(&self.moving.known);
            let known = known.get(&volume.id);
            for drive in &leaving {
                let its = moving.as_ref().filter(|moving| moving.change.from() == Some(&drive.id));
                let extents = match its {
                    Some(moving) => moving.places.len(),
                    None if has_rows(&rows, &drive.id) => self.places_on(&group, &drive.id)?.len(),
                    None => continue,
                };
                let status = self.status_of(&volume.name);
                let look = known.and_then(|known| known.look.as_ref()).filter(|_| its.is_some());
                let (mut total, mut copied) = (extents as u64 * extent_bytes(pool), 0);
                if let (Some(look), Some(status)) = (look, &status) {
                    let left = estimate(look.copied_bytes, look.walked_bytes, status);
                    copied = look.copied_bytes;
                    total = left.map_or(total.max(copied), |left| copied + left);
                }
                let error = known.and_then(|known| known.last_error.as_ref()).map(ToString::to_string);
                let waits = known.and_then(|known| known.waits_for.clone()).filter(|_| status.is_none());
                let state = match its {
                    Some(moving) if moving.stage == Stage::Switched || status.is_some() => TaskState::Running,
                    _ if waits.is_some() && self.needs_somebody(&volume) => TaskState::Blocked,
                    _ if error.is_some() => TaskState::Waiting,
                    Some(_) => TaskState::Waiting,
                    None if waits.is_some() => TaskState::Waiting,
                    None => TaskState::Queued,
                };
                let errand = drive.leaving.as_ref().map_or(Errand::Evacuate, |leaving| leaving.errand);
                tasks.push(Task {
                    kind: TaskKind::from(errand),
                    drive: Some(drive.id.clone()),
                    volume: volume.name.clone(),
                    group: group.name.clone(),
                    state,
                    waits_for: waits,
                    bytes_total: Some(total),
                    bytes_copied: copied,
                    started_at: its.map(|moving| moving.started_at.clone()),
                    last_error: error,
                });
            }
        }
        Ok(tasks)
    }

    /// Whether a volume is moved only when somebody has done something; others are on their way.
    fn needs_somebody(&self, volume: &VolumeRecord) -> bool {
        let goes = |a: &Attachment| a.read_only || a.detaching;
        let status = self.supervisor.live(&volume.name).and_then(|live| live.status);
        volume.attachment.as_ref().is_none_or(goes)
            || status.is_some_and(|status| status.phase == TargetPhase::ReadOnly)
    }
}
