//! What is going on in the background of a pool: one task for each volume that is moved off a drive.
use super::{has_rows, locked};
use crate::agent::Agent;
use crate::agent::view::{estimate, extent_bytes};
use crate::catalogue::moves::{self, Stage};
use crate::catalogue::{Attachment, Errand, GroupRecord, MoveRecord, PoolRecord, VolumeRecord};
use crate::error::Result;
use crate::model::{Task, TaskKind, TaskState};
use crate::moves::MoveChange;
use crate::protocol::TargetPhase;

/// What a move waits for that is over but for its word.
const LINGERS: &str =
    "a drive does not answer, and what it was told before it was given up may still land there";

impl Agent {
    /// The tasks of a pool.
    pub(in crate::agent) fn view_tasks(&self, pool: &PoolRecord) -> Result<Vec<Task>> {
        let leaving = self.leaving_drives(&pool.name)?;
        let mut tasks = Vec::new();
        for (volume, group) in self.groups_of(&pool.name)? {
            let moving = self.store.get::<MoveRecord>(&moves::key(&group.id))?.map(|moving| moving.record);
            let rows = self.rows_of(&group.id)?;
            let of = (&volume, &*group);
            let mut left: Vec<(TaskKind, Option<String>, usize)> = Vec::new();
            for drive in &leaving {
                let errand = drive.leaving.as_ref().map_or(Errand::Evacuate, |leaving| leaving.errand);
                let its = moving.as_ref().filter(|moving| leaves(moving, &drive.id));
                if its.is_some() || has_rows(&rows, &drive.id) {
                    let extents = match its {
                        Some(moving) => moving.places.len(),
                        None => self.places_on(&group, &drive.id)?.len(),
                    };
                    left.push((TaskKind::from(errand), Some(drive.id.clone()), extents));
                }
            }
            if let Some(moving) = &moving
                && let MoveChange::Shift { drive } | MoveChange::Leave { drive } = &moving.change
                && !(leaves(moving, drive) && leaving.iter().any(|left| left.id == *drive))
            {
                left.push((TaskKind::Rebalance, Some(drive.clone()), moving.places.len()));
            }
            if group.legs_to_change() {
                let kind =
                    if group.legs_wanted > Some(group.legs) { TaskKind::AddLeg } else { TaskKind::DropLeg };
                let extents = moving.as_ref().map_or(0, |moving| moving.places.len());
                left.push((kind, None, extents));
            }
            for (kind, drive, extents) in left {
                let its = moving.as_ref().filter(|moving| match &drive {
                    Some(drive) if kind != TaskKind::Rebalance => leaves(moving, drive),
                    _ => true,
                });
                tasks.push(self.view_task(of, its, (kind, drive), extents as u64 * extent_bytes(pool)));
            }
        }
        Ok(tasks)
    }

    fn view_task(
        &self,
        (volume, group): (&VolumeRecord, &GroupRecord),
        moving: Option<&MoveRecord>,
        (kind, drive): (TaskKind, Option<String>),
        extents_bytes: u64,
    ) -> Task {
        let known = locked(&self.moving.known);
        let known = known.get(&volume.id);
        let status = self.status_of(&volume.name);
        let look = known.and_then(|known| known.look.as_ref()).filter(|_| moving.is_some());
        let (mut total, mut copied) = (extents_bytes, 0);
        if let (Some(look), Some(status)) = (look, &status) {
            let left = estimate(look.copied_bytes, look.walked_bytes, status);
            copied = look.copied_bytes;
            total = left.map_or(total.max(copied), |left| copied + left);
        }
        let error = known.and_then(|known| known.last_error.as_ref()).map(ToString::to_string);
        let lingers = look.is_some_and(|look| look.settled.is_some()) && status.is_some();
        let waits = known.and_then(|known| known.waits_for.clone()).filter(|_| status.is_none());
        let waits = waits.map(|waits| self.obstacle_of(volume).unwrap_or(waits));
        let waits = if lingers { Some(LINGERS.to_owned()) } else { waits };
        let state = match moving {
            Some(moving) if moving.stage != Stage::Switched && lingers => TaskState::Blocked,
            Some(moving) if moving.stage == Stage::Switched || status.is_some() => TaskState::Running,
            _ if waits.is_some() && self.needs_somebody(volume) => TaskState::Blocked,
            None if waits.is_none() && error.is_none() => TaskState::Queued,
            _ => TaskState::Waiting,
        };
        Task {
            kind,
            drive,
            volume: volume.name.clone(),
            group: group.name.clone(),
            state,
            waits_for: waits,
            bytes_total: Some(total),
            bytes_copied: copied,
            started_at: moving.map(|moving| moving.started_at.clone()),
            last_error: error,
        }
    }

    /// Whether a volume is moved only when somebody has done something; others are on their way.
    fn needs_somebody(&self, volume: &VolumeRecord) -> bool {
        let goes = |a: &Attachment| a.read_only || a.detaching && !a.tended;
        let status = self.supervisor.live(&volume.name).and_then(|live| live.status);
        let detached = volume.attachment.is_none() && !self.will_be_tended(volume);
        detached
            || volume.attachment.as_ref().is_some_and(goes)
            || status.is_some_and(|status| status.phase == TargetPhase::ReadOnly)
    }
}

/// Whether a group's move is that off this drive.
fn leaves(moving: &MoveRecord, drive: &str) -> bool {
    matches!(&moving.change, MoveChange::Leave { drive: left } if left == drive)
}
