//! Scrubs: which are wanted, how far they are, and what they find, told as events.
//!
//! The agent looks at the targets that have a scrub to do and says with each look what it wants (`crate::scrub`);
//! whatever a kill of agent or target cut short is put right by the next look. What is wanted is in the catalogue;
//! where a scrub is, is stored now and then, and whenever something was found (`catalogue::scrubs`). Here it is kept in
//! memory too: nobody else writes those records.
//!
//! A scrub that an operator asked for begins at once. Those of a whole pool, and those that are due, take turns: one of
//! each pool at a time.
mod due;
mod tell;
mod verbs;
mod view;

pub(super) use view::judge_lost;

use super::{Agent, locked};
use crate::catalogue::{PoolRecord, ScrubRecord, Severity, Store, VolumeRecord, Want, scrubs};
use crate::error::{Error, Kind, Result};
use crate::protocol::{Answer, Request, TargetPhase};
use crate::scrub::{Seen, TargetScrub};
use crate::supervise::{Live, Phase};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Pause between two looks at targets that scrub.
const EVERY: Duration = Duration::from_secs(1);
/// Pause between two looks at whether a scrub that is wanted can go on.
const LOOK_FOR_TARGET: Duration = Duration::from_secs(5);
/// The longest between two looks at whether a scrub is due.
const LOOK_FOR_DUE: Duration = Duration::from_secs(60);
/// Pause between two looks at a target that finds much: its scrub rests when it has no room for findings.
const SOON: Duration = Duration::from_millis(20);
/// A position is stored so often.
const STORE_EVERY: Duration = Duration::from_secs(10);
/// The longest that a look may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// The speed is that of so much time.
const WINDOW: Duration = Duration::from_secs(10);

/// A volume's last scrub.
struct Watched {
    record: ScrubRecord,
    stored_at: Instant,
    stored: bool,
    /// The target was told since this agent began.
    told: bool,
    /// What it waits for.
    waits_for: Option<String>,
    /// Copies that had been checked.
    samples: VecDeque<(Instant, u64)>,
}

impl Watched {
    fn new(record: ScrubRecord) -> Self {
        Self {
            record,
            stored_at: Instant::now(),
            stored: true,
            told: false,
            waits_for: None,
            samples: VecDeque::new(),
        }
    }

    /// Notes how far it is, for its speed.
    fn sample(&mut self, now: Instant) {
        self.samples.push_back((now, self.record.copies.checked));
        while self.samples.len() > 2 && now - self.samples[0].0 > WINDOW {
            self.samples.pop_front();
        }
    }

    /// Copies in a second, lately.
    fn speed(&self) -> Option<u64> {
        let ((since, base), (until, checked)) = (*self.samples.front()?, *self.samples.back()?);
        let millis = u64::try_from((until - since).as_millis()).ok().filter(|millis| *millis >= 500)?;
        Some(checked.saturating_sub(base).saturating_mul(1000) / millis)
    }

    fn store(&mut self, store: &Store) -> Result<()> {
        store.txn().put(scrubs::key(&self.record.volume), &self.record).commit()?;
        self.was_stored();
        Ok(())
    }

    /// As `store`, with an event that tells what became of the scrub of this volume.
    fn store_and_tell(&mut self, agent: &Agent, kind: &str, volume: &str, message: &str) -> Result<()> {
        let txn = agent.store.txn().put(scrubs::key(&self.record.volume), &self.record);
        agent.events.record_with(txn, Severity::Info, kind, volume, message)?;
        self.was_stored();
        Ok(())
    }

    fn was_stored(&mut self) {
        (self.stored, self.stored_at) = (true, Instant::now());
    }
}

/// The scrubs that the agent knows of.
pub(crate) struct Scrubbing {
    /// By identity of the volume.
    watched: Mutex<BTreeMap<String, Watched>>,
    /// Held by whoever looks at a volume's target: one look after the other, each with what is wanted then.
    looking: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Volumes that are being attended to.
    busy: Mutex<BTreeSet<String>>,
    wake: Notify,
}

impl Scrubbing {
    /// Reads the records.
    pub(super) fn load(store: &Store) -> Result<Self> {
        let records = store.list::<ScrubRecord>("scrubs/")?;
        let watched = records.into_iter().map(|r| (r.record.volume.clone(), Watched::new(r.record)));
        Ok(Self {
            watched: Mutex::new(watched.collect()),
            looking: Mutex::default(),
            busy: Mutex::default(),
            wake: Notify::new(),
        })
    }

    fn watched(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        locked(&self.watched)
    }

    /// Has the next look happen now.
    pub(super) fn look_now(&self) {
        self.wake.notify_one();
    }

    fn any_wanted(&self) -> bool {
        self.watched().values().any(|known| known.record.want == Want::Run)
    }

    /// Something that changes as a volume's scrub goes on.
    pub(super) fn progress_of(&self, volume: &str) -> u64 {
        self.watched().get(volume).map_or(0, |known| 1 + known.record.copies.checked)
    }

    fn gate(&self, volume: &str) -> Arc<tokio::sync::Mutex<()>> {
        locked(&self.looking).entry(volume.to_owned()).or_default().clone()
    }
}

/// Why a volume cannot be scrubbed now, if so.
pub(super) fn obstacle(volume: &VolumeRecord, live: Option<&Live>) -> Option<String> {
    let name = &volume.name;
    let Some(attachment) = volume.attachment.as_ref().filter(|attachment| !attachment.detaching) else {
        return Some(format!("volume {name} is not attached"));
    };
    if attachment.read_only {
        return Some(format!("volume {name} is attached for reading only"));
    }
    let serving = live.is_some_and(|live| live.phase == Phase::Serving);
    if !serving {
        return Some(format!("volume {name} is not served yet"));
    }
    let phase = live.and_then(|live| live.status.as_ref()).map(|status| status.phase);
    (phase == Some(TargetPhase::ReadOnly)).then(|| format!("volume {name} takes no writes any more"))
}

impl Agent {
    /// Sees to the scrubs until the agent ends.
    pub(crate) async fn scrub(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let this = self.clone();
            let pause = match super::blocking(move || this.plan_scrubs()).await {
                Ok((volumes, due)) if volumes.is_empty() && !self.scrubbing.any_wanted() => due,
                Ok((volumes, _)) if volumes.is_empty() => LOOK_FOR_TARGET,
                Ok((volumes, _)) => {
                    volumes.into_iter().for_each(|volume| self.attend_scrub(volume));
                    EVERY
                }
                Err(error) => {
                    tracing::error!("cannot see which volumes are to be scrubbed: {error}");
                    LOOK_FOR_TARGET
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.scrubbing.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Begins what is due; says which targets are to be looked at now, and when is to be looked for what is due.
    fn plan_scrubs(&self) -> Result<(Vec<VolumeRecord>, Duration)> {
        let volumes = self.store.list::<VolumeRecord>("volumes/")?;
        let volumes: Vec<VolumeRecord> = volumes.into_iter().map(|volume| volume.record).collect();
        self.forget_scrubs(&volumes)?;
        let pools = self.store.list::<PoolRecord>("pools/")?;
        for pool in &pools {
            self.begin_due(pool, &volumes)?;
        }
        let often = pools.iter().map(|pool| pool.scrub_every_seconds).filter(|every| *every > 0).min();
        let due = often.map_or(LOOK_FOR_DUE, Duration::from_secs).min(LOOK_FOR_DUE);
        let mut ready = Vec::new();
        let mut turns: BTreeMap<&String, Vec<&VolumeRecord>> = BTreeMap::new();
        let mut watched = self.scrubbing.watched();
        for volume in &volumes {
            let Some(known) = watched.get_mut(&volume.id) else { continue };
            let obstacle = self.obstacle_of(volume);
            let wanted = known.record.want == Want::Run;
            match obstacle {
                Some(why) => {
                    // Whoever serves it next has heard nothing.
                    (known.told, known.waits_for) = (false, wanted.then_some(why));
                    known.samples.clear();
                    if !known.stored {
                        known.store(&self.store)?;
                    }
                }
                None if wanted && known.record.in_turn => {
                    turns.entry(&volume.pool).or_default().push(volume);
                }
                None if wanted || !known.told => ready.push(volume.clone()),
                None => {}
            }
        }
        for waiting in turns.into_values() {
            // One that has begun goes on; then in the order of their names.
            let first = waiting
                .iter()
                .min_by_key(|volume| (watched[&volume.id].record.begun.is_none(), volume.name.clone()));
            let Some(first) = first.copied() else { continue };
            ready.push(first.clone());
            for volume in waiting.iter().filter(|volume| volume.id != first.id) {
                let known = watched.get_mut(&volume.id).expect("it was looked at");
                known.waits_for = Some(format!("the scrub of volume {} of the same pool", first.name));
            }
        }
        Ok((ready, due))
    }

    /// Whether a volume's scrub is wanted when its turn comes.
    pub(super) fn scrubs_in_turn(&self, volume: &VolumeRecord) -> bool {
        let watched = self.scrubbing.watched();
        watched.get(&volume.id).is_some_and(|known| known.record.want == Want::Run && known.record.in_turn)
    }

    /// Whether a volume is to be scrubbed, and its turn has come: no other one's that has a target has.
    pub(super) fn may_scrub_now(&self, volume: &VolumeRecord) -> Result<bool> {
        let wanted = |known: &Watched| known.record.want == Want::Run;
        if !self.scrubbing.watched().get(&volume.id).is_some_and(wanted) {
            return Ok(false);
        }
        let others = self.store.list::<VolumeRecord>("volumes/")?;
        let served = |other: &VolumeRecord| {
            let has_target = other.pool == volume.pool && other.id != volume.id && other.attachment.is_some();
            has_target && self.scrubs_in_turn(other)
        };
        Ok(!self.scrubs_in_turn(volume) || !others.iter().any(|other| served(other)))
    }

    /// Forgets the scrubs of volumes that are gone.
    fn forget_scrubs(&self, volumes: &[VolumeRecord]) -> Result<()> {
        let mut watched = self.scrubbing.watched();
        let gone = |id: &&String| !volumes.iter().any(|volume| volume.id == **id);
        let gone: Vec<String> = watched.keys().filter(gone).cloned().collect();
        for id in gone {
            self.store.txn().delete(scrubs::key(&id)).commit()?;
            watched.remove(&id);
            locked(&self.scrubbing.looking).remove(&id);
        }
        Ok(())
    }

    /// Looks at one volume in the background, unless that goes on already.
    fn attend_scrub(self: &Arc<Self>, volume: VolumeRecord) {
        if !locked(&self.scrubbing.busy).insert(volume.id.clone()) {
            return;
        }
        let this = self.clone();
        super::spawn(async move {
            loop {
                match this.look_at_scrub(&volume).await {
                    Ok(true) => tokio::time::sleep(SOON).await,
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!("the scrub of volume {} cannot be seen: {error}", volume.name);
                        if let Some(known) = this.scrubbing.watched().get_mut(&volume.id) {
                            known.waits_for = Some(error.message);
                        }
                        break;
                    }
                }
            }
            locked(&this.scrubbing.busy).remove(&volume.id);
        });
    }

    /// One look: tells a volume's target what is wanted and takes what it found. Returns whether it found anything.
    pub(super) async fn look_at_scrub(self: &Arc<Self>, volume: &VolumeRecord) -> Result<bool> {
        let gate = self.scrubbing.gate(&volume.id);
        let _looking = gate.lock().await;
        let (order, seen): (_, Option<Seen>) = {
            let watched = self.scrubbing.watched();
            let record = watched.get(&volume.id).map(|known| &known.record);
            (record.and_then(ScrubRecord::order), record.and_then(|record| record.seen))
        };
        let name = &volume.name;
        let asked = self.supervisor.ask(name, Request::Scrub { order, seen });
        let answered = tokio::time::timeout(ANSWER_DEADLINE, asked).await;
        let answered = answered.unwrap_or_else(|_| {
            Err(Error::new(Kind::Busy, name.clone(), format!("the target of volume {name} does not answer")))
        });
        let look = match answered {
            Ok(Answer::Scrub(look)) => look,
            Ok(_) => {
                return Err(Error::new(Kind::Failed, name.clone(), "its target answered something else"));
            }
            // An older build knows no such request.
            Err(error) if error.kind == Kind::Invalid => {
                let message =
                    format!("the target of volume {name} is of an earlier build, which cannot scrub");
                return Err(Error::new(Kind::NotSupported, name.clone(), message)
                    .hint(format!("plinth volume upgrade {name} exchanges it")));
            }
            Err(error) => return Err(error),
        };
        let (this, volume) = (self.clone(), volume.clone());
        super::blocking(move || this.take_look(&volume, &look)).await
    }

    /// Takes a look in: events first, then the record that says that they were told.
    fn take_look(&self, volume: &VolumeRecord, look: &TargetScrub) -> Result<bool> {
        // The gate is held: nobody else takes a look at this volume meanwhile.
        let told = match self.scrubbing.watched().get(&volume.id) {
            Some(known) => known.record.news(look).to_vec(),
            None => return Ok(false),
        };
        self.tell_findings(&volume.name, &told);
        let mut watched = self.scrubbing.watched();
        let Some(known) = watched.get_mut(&volume.id) else { return Ok(false) };
        let before = known.record.want;
        let worth = known.record.take(look);
        known.told = true;
        known.stored = false;
        known.waits_for =
            look.stands_aside.then(|| format!("a drive of volume {} to be brought up to date", volume.name));
        known.sample(Instant::now());
        if worth || known.stored_at.elapsed() >= STORE_EVERY {
            known.store(&self.store)?;
        }
        if before == Want::Run && known.record.want == Want::Finished {
            self.tell_end(&volume.name, &known.record);
            self.scrubbing.look_now();
        }
        Ok(!told.is_empty())
    }
}
