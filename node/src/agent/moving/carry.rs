//! One volume's moves, step by step.
use super::{Next, locked};
use crate::agent::{Agent, blocking};
use crate::catalogue::{MoveRecord, VolumeRecord};
use crate::error::{Error, Kind, Result};
use crate::moves::{Holds, MoveChange, MoveEnd, MoveOrder, MoveState};
use crate::protocol::{Answer, Request};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest that a look may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Pause between two looks at a move: at first, and at most.
const LOOK: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

impl Agent {
    /// Does what a volume's moves need, until there is nothing more to do now.
    pub(super) async fn move_volume(self: &Arc<Self>, volume: &VolumeRecord) -> Result<()> {
        let name = &volume.name;
        let mut pause = LOOK[0];
        loop {
            self.supervisor.refresh(Some(name)).await;
            let (this, of) = (self.clone(), name.clone());
            match blocking(move || this.next_move(&of)).await? {
                Next::Nothing => return Ok(()),
                Next::Again => {}
                Next::Release(drive) => self.release(name, &drive).await?,
                Next::Tidy(record) => {
                    // A drive that is shifted from, or copied from, stays.
                    let left: BTreeSet<&String> = match &record.change {
                        MoveChange::Leave { drive } => BTreeSet::from([drive]),
                        MoveChange::DropLeg { .. } => {
                            record.places.iter().map(|place| &place.old.0).collect()
                        }
                        MoveChange::Shift { .. } | MoveChange::AddLeg => BTreeSet::new(),
                    };
                    for drive in left {
                        self.release_or_wait(name, drive).await?;
                    }
                    let (this, of) = (self.clone(), name.clone());
                    blocking(move || this.tidy_move(&of)).await?;
                    pause = LOOK[0];
                }
                Next::Leave(drive) => {
                    let Some(holds) = self.ask_holds(volume, &drive).await? else { return Ok(()) };
                    let (this, of) = (self.clone(), volume.clone());
                    let planned = blocking(move || this.plan_leave(&of, &drive, &holds)).await;
                    if let Err(error) = planned {
                        self.moving.note(&volume.id, |known| known.failed(error, Instant::now()));
                        return Ok(());
                    }
                }
                Next::Ask(order) => {
                    if self.ask_move(volume, order).await? {
                        pause = LOOK[0];
                    } else {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LOOK[1]);
                    }
                }
            }
        }
    }

    /// Asks a volume's target.
    async fn ask_target(&self, name: &str, request: Request) -> Result<Answer> {
        let asked = tokio::time::timeout(ANSWER_DEADLINE, self.supervisor.ask(name, request)).await;
        let silent = || Error::new(Kind::Busy, name, format!("the target of volume {name} does not answer"));
        match asked.unwrap_or_else(|_| Err(silent())) {
            // An older build knows no such request.
            Err(error) if error.kind == Kind::Invalid => {
                let message =
                    format!("the target of volume {name} is of an earlier build, which cannot move extents");
                Err(Error::new(Kind::NotSupported, name, message)
                    .hint(format!("plinth volume upgrade {name} exchanges it")))
            }
            // It would hear a part of it, and then nothing any more.
            Err(error) if error.kind == Kind::NotSupported => {
                let message = format!(
                    "the target of volume {name} is of an earlier build, which cannot move so many extents at once"
                );
                Err(Error::new(Kind::NotSupported, name, message)
                    .hint(format!("plinth volume upgrade {name} exchanges it")))
            }
            answer => answer,
        }
    }

    /// The drives that are to be empty: no row may lie there.
    async fn avoided(self: &Arc<Self>, pool: &str) -> Result<BTreeSet<String>> {
        let (this, pool) = (self.clone(), pool.to_owned());
        let drives = blocking(move || this.leaving_drives(&pool)).await?;
        Ok(drives.into_iter().map(|drive| drive.record.id).collect())
    }

    /// What a group has on a drive that is to be empty; `None` if that is nothing, but for a row that it was given and
    /// does not use: that goes back by itself.
    async fn ask_holds(self: &Arc<Self>, volume: &VolumeRecord, drive: &str) -> Result<Option<Holds>> {
        let avoid = self.avoided(&volume.pool).await?;
        match self.ask_target(&volume.name, Request::Holds { drive: drive.to_owned(), avoid }).await? {
            Answer::Holds(holds) => {
                use crate::catalogue::CopyState::{Current, Resyncing};
                let counts = matches!(holds.state, Some(Current | Resyncing));
                Ok((counts || !holds.extents.is_empty()).then_some(holds))
            }
            _ => Err(Error::new(Kind::Failed, volume.name.clone(), "its target answered something else")),
        }
    }

    /// One look at a move. Returns whether it has ended.
    async fn ask_move(self: &Arc<Self>, volume: &VolumeRecord, order: MoveOrder) -> Result<bool> {
        let avoid = self.avoided(&volume.pool).await?;
        let to: Vec<String> = order.to.iter().map(|drive| drive.id.clone()).collect();
        let look = match self.ask_target(&volume.name, Request::Move { order, avoid }).await? {
            Answer::Move(look) => look,
            _ => {
                return Err(Error::new(
                    Kind::Failed,
                    volume.name.clone(),
                    "its target answered something else",
                ));
            }
        };
        let state = look.state.clone();
        self.moving.note_look(&volume.group, &look);
        self.moving.note(&volume.id, |known| {
            (known.look, known.waits_for) = (Some(look), None);
        });
        let (this, of) = (self.clone(), volume.clone());
        match state {
            MoveState::Waiting | MoveState::Copying => Ok(false),
            MoveState::Done => {
                // How many rows it has by now.
                self.supervisor.refresh(Some(&volume.name)).await;
                blocking(move || {
                    let status = this.status_of(&of.name).ok_or_else(|| {
                        Error::new(Kind::Busy, of.name.clone(), format!("volume {} is not served", of.name))
                    })?;
                    this.switch_rows(&of, status.rows)
                })
                .await
                .map(|()| true)
            }
            MoveState::GivenUp(why) => {
                for drive in &to {
                    self.release_or_wait(&volume.name, drive).await?;
                }
                blocking(move || this.undo_move(&of, &why)).await.map(|()| true)
            }
        }
    }

    async fn release(&self, name: &str, drive: &str) -> Result<()> {
        self.supervisor.ask(name, Request::ReleaseDrive { drive: drive.to_owned() }).await.map(drop)
    }

    /// Sees to it that a target that serves has not got this drive open, or counts on it. With none there is nothing to
    /// do; one that is on its way may still be the old one.
    ///
    /// # Errors
    /// `Busy`: not yet.
    async fn release_or_wait(self: &Arc<Self>, name: &str, drive: &str) -> Result<()> {
        let (this, of) = (self.clone(), name.to_owned());
        let attached = blocking(move || Ok(this.volume(&of)?.record.attachment.is_some())).await?;
        if !attached {
            return Ok(());
        }
        match self.release(name, drive).await {
            // The group counts on it: it has rows there, and nothing that was given up is on its way.
            Err(error) if error.kind == Kind::Refused && self.supervisor.live(name).is_some() => Ok(()),
            outcome => outcome,
        }
    }

    /// A move came to nothing, and was undone.
    pub(super) fn note_given_up(&self, volume: &VolumeRecord, record: &MoveRecord, why: &MoveEnd) {
        let message = format!("a move of volume {} was given up: {why}", volume.name);
        let mut known = locked(&self.moving.known);
        let known = known.entry(volume.id.clone()).or_default();
        let now = Instant::now();
        known.failed(Error::new(Kind::Failed, volume.name.clone(), message), now);
        match why {
            // The volume grew between plan and begin. It cannot do that for ever, so nothing is gained by waiting longer
            // and longer: planned anew at once, and then soon.
            MoveEnd::Misfit => known.not_before = (known.failures > 1).then(|| now + super::FIRST_PAUSE),
            MoveEnd::DriveFailed | MoveEnd::NotOpened(_) => {
                known.avoid.extend(record.places.iter().map(|place| place.new.0.clone()));
            }
            _ => {}
        }
    }

    /// A move is done: nothing that failed before counts.
    pub(super) fn note_moved(&self, volume: &VolumeRecord) {
        self.moving.note(&volume.id, |known| *known = super::Known::default());
    }
}
