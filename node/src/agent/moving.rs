//! Moves: drives that are to be empty are emptied, group by group, while their volumes are served.
//!
//! What is wanted is in the drive's record (`Leaving`); what is under way in the group's (`catalogue::moves`). The agent
//! looks at both, at each look anew, and does the next step: plans the successors of everything that a group has on
//! the drive and takes their extents, has the target carry the move out, switches the rows in the catalogue, wipes what
//! was left, and gives it back to the pool. Whatever a kill of agent or target cut short is found by the next look.
//!
//! Before an extent is wiped, old or new, its drive is closed in the target that used it, unless the group counts on
//! the drive: an operation that was given up as too slow may still be on its way to it.
//!
//! A group is moved by its target. One whose volume nobody has attached waits until it is tended (`tend`), and says so. At most
//! [`AT_ONCE`] groups of a pool move at a time.
//!
//! A move may be over but for its word: what was given up on a drive that hangs may still land in what it left, perhaps for
//! ever. Its extents stay taken as long. Everything else goes on: such a move counts for none of those at a time, or four
//! of them on one drive would keep the others that are on it from ever being rebuilt; and once its rows have switched the
//! drives that took over are brought up to date like any other.
mod carry;
mod drives;
mod kept;
mod legs;
mod plan;
mod rebalance;
mod records;
mod spares;
mod verbs;
mod view;

pub(super) use spares::spare_extents;

use super::{Agent, locked};
use crate::catalogue::moves::{self, Stage};
use crate::catalogue::{
    CopyState, DriveRecord, GroupRecord, Life, MoveRecord, RowRecord, Versioned, VolumeRecord,
};
use crate::error::{Error, Result};
use crate::moves::{MoveChange, MoveOrder, MoveState, TargetMove};
use crate::protocol::{TargetPhase, TargetStatus};
use crate::supervise::Phase;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Groups of a pool that move at the same time, at most.
const AT_ONCE: usize = 4;
/// Pause between two looks while something is to be moved.
const EVERY: Duration = Duration::from_secs(1);
/// Pause between two looks at whether anything is.
const IDLE: Duration = Duration::from_secs(5);
/// After a move was given up, the next is planned so much later; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest that it is.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What the agent remembers of a volume's moves; nothing of it is needed after a restart.
#[derive(Default)]
struct Known {
    /// The last look at the move that is under way.
    look: Option<TargetMove>,
    /// What has to happen before it can go on.
    waits_for: Option<String>,
    /// Why the last one came to nothing.
    last_error: Option<Error>,
    /// Moves that came to nothing, one after the other.
    failures: u32,
    not_before: Option<Instant>,
    /// Drives that were to take over and could not: others are tried first.
    avoid: BTreeSet<String>,
}

impl Known {
    /// A move came to nothing: the next one waits.
    fn failed(&mut self, error: Error, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures += 1;
        (self.not_before, self.last_error, self.look) = (Some(now + pause), Some(error), None);
    }
}

/// The moves that the agent sees to.
#[derive(Default)]
pub(crate) struct Moving {
    /// By identity of the volume.
    known: Mutex<BTreeMap<String, Known>>,
    /// Volumes that are being attended to, by name.
    busy: Mutex<BTreeSet<String>>,
    /// Lost drives for which there is no room; told once.
    refused: Mutex<BTreeSet<String>>,
    /// Moves that are over but for their word, by name of the group: number, and what the word will be.
    settled: Mutex<BTreeMap<String, (u64, MoveState)>>,
    wake: Notify,
}

impl Moving {
    /// Has the next look happen now.
    pub(super) fn look_now(&self) {
        self.wake.notify_one();
    }

    fn note(&self, volume: &str, note: impl FnOnce(&mut Known)) {
        note(locked(&self.known).entry(volume.to_owned()).or_default());
    }

    /// Something that changes as a volume's move goes on.
    pub(super) fn progress_of(&self, volume: &str) -> [u64; 2] {
        let known = locked(&self.known);
        let look = known.get(volume).and_then(|known| known.look.as_ref());
        look.map_or([0; 2], |look| [look.copied_bytes, look.walked_bytes])
    }

    /// There is no room for what a lost drive had. Returns whether that is news.
    fn refuse_spare(&self, drive: &str) -> bool {
        locked(&self.refused).insert(drive.to_owned())
    }

    /// A look at the move of a group.
    fn note_look(&self, group: &str, look: &TargetMove) {
        let mut settled = locked(&self.settled);
        match &look.settled {
            Some(outcome) => drop(settled.insert(group.to_owned(), (look.id, outcome.clone()))),
            None => drop(settled.remove(group)),
        }
    }

    /// How a group's move comes out, if it is over but for that word.
    fn settled(&self, group: &str, record: &MoveRecord) -> Option<MoveState> {
        let settled = locked(&self.settled);
        settled.get(group).filter(|(id, _)| *id == record.id).map(|(_, outcome)| outcome.clone())
    }

    fn allow_spare(&self, drive: &str) {
        locked(&self.refused).remove(drive);
    }

    /// The operator wants something: nothing that failed before counts.
    fn forgive(&self) {
        locked(&self.known).clear();
    }
}

/// What a volume's moves need next.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Next {
    /// Nothing that can be done now.
    Nothing,
    /// Something was planned.
    Again,
    /// Its target is to carry this out.
    Ask(MoveOrder),
    /// The rows have switched: the old extents are to be wiped and given back.
    Tidy(MoveRecord),
    /// What the group has on this drive is to be moved.
    Leave(String),
    /// The group has left this drive, and its target still holds it.
    Release(String),
}

impl Agent {
    /// Moves until the agent ends.
    pub(crate) async fn move_drives(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let this = self.clone();
            let pause = match super::blocking(move || this.volumes_to_move()).await {
                Ok(None) => IDLE,
                Ok(Some(volumes)) => {
                    volumes.into_iter().for_each(|volume| self.attend_moves(volume));
                    EVERY
                }
                Err(error) => {
                    tracing::error!("cannot see what is to be moved: {error}");
                    IDLE
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.moving.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The volumes to look at; `None` if no drive is to be empty and nothing is under way.
    fn volumes_to_move(&self) -> Result<Option<Vec<VolumeRecord>>> {
        self.take_spares()?;
        let drives = self.store.list::<DriveRecord>("drives/")?;
        let leaving: Vec<&Versioned<DriveRecord>> = drives.iter().filter(|d| d.leaving.is_some()).collect();
        let under_way = self.store.list::<MoveRecord>("moves/")?.into_iter();
        let under_way: BTreeMap<String, MoveRecord> =
            under_way.map(|m| (m.record.group.clone(), m.record)).collect();
        let rebalanced = self.rebalanced_pools()?;
        let groups = self.store.list::<GroupRecord>("groups/")?;
        let waits = self.waits_for_drives(&groups)?;
        let relegged: BTreeSet<String> =
            groups.into_iter().filter(|g| g.legs_to_change()).map(|g| g.record.id).collect();
        let idle = leaving.is_empty() && under_way.is_empty() && rebalanced.is_empty() && relegged.is_empty();
        if !idle || waits {
            self.settle_drives()?;
        }
        if idle {
            return Ok(None);
        }
        let mut moved = Vec::new();
        let mut at_once: BTreeMap<String, usize> = BTreeMap::new();
        for volume in self.store.list::<VolumeRecord>("volumes/")? {
            if volume.life != Life::Ready {
                continue;
            }
            let group = self.group(&volume.group)?;
            let listed =
                |drive: &&Versioned<DriveRecord>| group.copies.iter().any(|copy| copy.drive == drive.id);
            let goes_on = under_way.contains_key(&group.id)
                || rebalanced.contains(&volume.pool)
                || relegged.contains(&group.id);
            let concerned = goes_on || leaving.iter().any(listed);
            let count = at_once.entry(volume.pool.clone()).or_default();
            let its = under_way.get(&group.id);
            *count += usize::from(self.moves_now(&group, its));
            if concerned {
                moved.push((its.is_some(), volume.record));
            }
        }
        // Those under way go on; of the others only so many begin.
        moved.retain(|(goes_on, volume)| {
            let count = at_once.entry(volume.pool.clone()).or_default();
            *goes_on || self.rests(volume) || std::mem::replace(count, *count + 1) < AT_ONCE
        });
        Ok(Some(moved.into_iter().map(|(_, volume)| volume).collect()))
    }

    /// Whether a group's move counts for one of those at a time.
    fn moves_now(&self, group: &GroupRecord, its: Option<&MoveRecord>) -> bool {
        its.is_some_and(|its| self.moving.settled(&group.name, its).is_none())
    }

    /// Whether a volume cannot be moved now anyway.
    fn rests(&self, volume: &VolumeRecord) -> bool {
        self.obstacle_of(volume).is_some()
    }

    /// Attends to one volume in the background, unless that goes on already.
    fn attend_moves(self: &Arc<Self>, volume: VolumeRecord) {
        if !locked(&self.moving.busy).insert(volume.name.clone()) {
            return;
        }
        let this = self.clone();
        super::spawn(async move {
            if let Err(error) = this.move_volume(&volume).await {
                tracing::warn!("the moves of volume {} rest: {error}", volume.name);
                this.moving.note(&volume.id, |known| known.last_error = Some(error));
            }
            locked(&this.moving.busy).remove(&volume.name);
        });
    }

    /// The status of a target that serves, and takes changes.
    fn status_of(&self, volume: &str) -> Option<TargetStatus> {
        let live = self.supervisor.live(volume)?;
        let serves = live.phase == Phase::Serving;
        live.status.filter(|status| serves && status.phase == TargetPhase::Serving)
    }

    /// What a volume's moves need next.
    fn next_move(&self, name: &str) -> Result<Next> {
        let mut space = self.lock();
        let volume = self.ready_volume(name)?;
        let group = self.group(&volume.group)?;
        let obstacle = self.obstacle_of(&volume);
        let status = self.status_of(name).filter(|_| obstacle.is_none());
        if let Some(record) = self.store.get::<MoveRecord>(&moves::key(&group.id))? {
            if record.stage == Stage::Switched {
                return Ok(Next::Tidy(record.record));
            }
            if status.is_none() {
                return Ok(self.waits(&volume, obstacle));
            }
            return self.order_of(&mut space, &group, record);
        }
        let rows = self.rows_of(&group.id)?;
        for drive in self.leaving_drives(&volume.pool)? {
            let seen =
                status.as_ref().and_then(|status| status.drives.iter().find(|seen| seen.id == drive.id));
            let counts = |seen: &crate::protocol::TargetDriveStatus| {
                matches!(seen.state, CopyState::Current | CopyState::Resyncing)
            };
            if has_rows(&rows, &drive.id) || seen.is_some_and(counts) {
                if status.is_none() {
                    return Ok(self.waits(&volume, obstacle));
                }
                if self.may_plan(&volume) {
                    return Ok(Next::Leave(drive.record.id));
                }
            } else if seen.is_some_and(|seen| seen.open) {
                return Ok(Next::Release(drive.record.id));
            }
        }
        let Some(status) = status else {
            return Ok(if group.legs_to_change() { self.waits(&volume, obstacle) } else { Next::Nothing });
        };
        if self.cut_strays(&group, status.rows)? {
            return Ok(Next::Again);
        }
        if !self.may_plan(&volume) {
            return Ok(Next::Nothing);
        }
        if group.legs_to_change() {
            return Ok(self.plan_legs(&mut space, &volume, group, status.rows));
        }
        if self.plan_shift(&mut space, &volume, group, status.rows)? {
            return Ok(Next::Again);
        }
        Ok(Next::Nothing)
    }

    /// Whether a volume's last moves leave it alone by now.
    fn may_plan(&self, volume: &VolumeRecord) -> bool {
        let known = locked(&self.moving.known);
        let rests = known.get(&volume.id).and_then(|known| known.not_before);
        rests.is_none_or(|until| until <= Instant::now())
    }

    fn waits(&self, volume: &VolumeRecord, obstacle: Option<String>) -> Next {
        let why = obstacle.unwrap_or_else(|| format!("volume {} is not served yet", volume.name));
        self.moving.note(&volume.id, |known| known.waits_for = Some(why));
        Next::Nothing
    }

    /// The drives of a pool that are to be empty.
    pub(super) fn leaving_drives(&self, pool: &str) -> Result<Vec<Versioned<DriveRecord>>> {
        let drives = self.pool_drives(&self.pool(pool)?.record)?;
        Ok(drives.into_iter().filter(|drive| drive.leaving.is_some()).collect())
    }

    /// Whether a group must not get a drive back: it left it, or a move that is under way uses it.
    pub(super) fn is_left(&self, group: &GroupRecord, drive: &DriveRecord) -> Result<bool> {
        let mut rows = self.rows_of(&group.id)?;
        if let Some(record) = self.store.get::<MoveRecord>(&moves::key(&group.id))? {
            let leaves = record.change.from() == Some(&drive.id);
            let drops = matches!(record.change, MoveChange::DropLeg { .. })
                && (self.last_leg(group)?.contains(&drive.id)
                    || record.places.iter().any(|place| place.old.0 == drive.id));
            let takes_over = match self.moving.settled(&group.name, &record) {
                None => true,
                // It has: it is a drive of the group like others.
                Some(MoveState::Done) => false,
                // What it was to take over goes back; what it has stays.
                Some(_) => !has_rows(&rows, &drive.id),
            };
            if leaves || drops || (takes_over && record.places.iter().any(|place| place.new.0 == drive.id)) {
                return Ok(true);
            }
        }
        // A row that is granted only is none yet, and goes back.
        rows.retain(|row| row.row < group.rows_used);
        // What is still to be wiped there says what the group was.
        let unwiped = group.unwiped.iter().any(|(id, _)| *id == drive.id);
        Ok((drive.leaving.is_some() || unwiped) && !has_rows(&rows, &drive.id))
    }
}

/// Whether any row has an extent on a drive.
pub(super) fn has_rows(rows: &[Versioned<RowRecord>], drive: &str) -> bool {
    rows.iter().any(|row| row.extents.iter().any(|(id, _)| id == drive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing;

    /// The story: a drive hung for ever, and four groups had left it but for what might still land there. No other group that
    /// was on it was ever rebuilt; and a drive that had taken over was not brought up to date when it had been away.
    #[test]
    fn a_move_that_is_over_but_for_its_word_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().expect("makes");
        let agent = testing::agent(folder.path());
        testing::pool(&agent, folder.path(), &["a", "b", "c", "d"]);
        agent.create_volume(&testing::volume("v", 2), false).expect("creates");
        let group = agent.group(&agent.volume("v").expect("is there").group).expect("is there");
        let rows = agent.rows_of(&group.id).expect("reads");
        let (left, stays) = (rows[0].extents[0].0.clone(), rows[0].extents[1].0.clone());
        let drives = agent.store.list::<DriveRecord>("drives/").expect("reads");
        let new =
            drives.iter().find(|drive| !has_rows(&rows, &drive.id)).expect("four drives").record.clone();
        let moved = |new: &str| moves::Moved {
            row: 0,
            place: 0,
            old: rows[0].extents[0].clone(),
            new: (new.to_owned(), 9),
        };
        let record = MoveRecord {
            group: group.id.clone(),
            id: 7,
            change: MoveChange::Leave { drive: left.clone() },
            places: vec![moved(&new.id), moved(&stays)],
            stage: Stage::Asked,
            started_at: crate::text::now(),
        };
        agent.store.txn().create(moves::key(&group.id), &record).commit().expect("stores");
        let is_left = |id: &str| {
            let drive = agent.drive(id).expect("is there");
            agent.is_left(&group, &drive).expect("reads")
        };
        let look = |id, settled| TargetMove {
            id,
            state: MoveState::Copying,
            settled,
            copied_bytes: 0,
            walked_bytes: 0,
        };
        // What is over, of which move; whether it counts; whether the drive that takes over, and one that has other rows, is
        // kept from coming back.
        let given_up = MoveState::GivenUp(crate::moves::MoveEnd::DriveFailed);
        for (id, settled, counts, new_is_left, stays_is_left) in [
            (7, None, true, true, true),
            (7, Some(MoveState::Done), false, false, false),
            (7, Some(given_up), false, true, false),
            (6, Some(MoveState::Done), true, true, true),
            (7, None, true, true, true),
        ] {
            agent.moving.note_look(&group.name, &look(id, settled.clone()));
            assert_eq!(agent.moves_now(&group, Some(&record)), counts, "{id} {settled:?}");
            assert_eq!(is_left(&new.id), new_is_left, "{id} {settled:?}");
            assert_eq!(is_left(&stays), stays_is_left, "{id} {settled:?}");
            assert!(is_left(&left), "{id} {settled:?}");
        }
        assert!(!agent.moves_now(&group, None));
    }

    #[test]
    fn after_each_failure_the_next_attempt_waits_longer() {
        let (mut known, start) = (Known::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..20 {
            known.failed(Error::invalid("o", "m"), start);
            pauses.push(known.not_before.expect("a pause") - start);
        }
        assert_eq!((pauses[0], pauses[1], pauses[19]), (FIRST_PAUSE, 2 * FIRST_PAUSE, LONGEST_PAUSE));
        assert!(pauses.is_sorted());
    }
}
