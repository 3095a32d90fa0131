//! Tending: while something is to be done on a volume that nobody has attached, the agent has it served, to nobody.
//!
//! Whatever heals, moves, scrubs or re-encrypts a group is done by its target. A volume whose guest is stopped has none, and
//! would keep a copy that is stale, a drive that is to be emptied, and rot, until somebody happens to attach it. So the agent
//! attaches it itself, for as long as there is something to do: an attachment like others, on a socket in its own folder that
//! nobody knows. Everybody who looks for volumes that are served finds it, and for people it is detached.
//!
//! Whoever wants the volume goes first: a verb that needs it detached, or attaches it, holds it ([`Hold`]), which ends the
//! tending and lets none begin. Behind such a verb, and behind the agent's start, the pool's `tend` (a minute) passes first: a
//! volume that goes from one guest to the next is left alone.
//!
//! At most [`AT_ONCE`] volumes are tended at a time. One on which nothing has moved for [`STUCK`] makes way for others, and is
//! tried again ever more rarely.
//!
//! Crash story: the attachment says that it is the agent's own (`tended`). An agent that is killed leaves its target serving
//! nobody; the next one supervises it as any other, and ends it when there is nothing left to do, or somebody wants the volume.
mod due;

use super::{Agent, blocking};
use crate::catalogue::{Attachment, FrontendKind, Life, VolumeRecord, records};
use crate::error::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Volumes that are tended at the same time, at most: each has a target, which has memory.
const AT_ONCE: usize = 2;
/// Pause between two looks while a volume is tended.
const EVERY: Duration = Duration::from_millis(500);
/// Pause between two looks at whether one is to be.
const IDLE: Duration = Duration::from_secs(10);
/// The longest that a volume is tended on which nothing moves.
const STUCK: Duration = Duration::from_secs(60);
/// After that, or when it cannot be served, it is tried again so much later; twice as long after each further time.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest that it is.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What is known of a volume's tending; nothing of it is needed after a restart.
#[derive(Default)]
struct Known {
    /// Verbs that hold it.
    holds: usize,
    /// When the last of them ended.
    held_until: Option<Instant>,
    /// What was to be seen of what is done, and since when that is so.
    seen: Option<(Vec<u64>, Instant)>,
    /// Times that it came to nothing, one after the other.
    failures: u32,
    not_before: Option<Instant>,
    /// Why it came to nothing last.
    failure: Option<Error>,
}

impl Known {
    fn failed(&mut self, failure: Error, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures += 1;
        (self.not_before, self.failure, self.seen) = (Some(now + pause), Some(failure), None);
    }

    fn forgive(&mut self) {
        (self.failures, self.not_before, self.failure) = (0, None, None);
    }

    /// Notes what is to be seen; whether nothing has moved for too long.
    fn is_stuck(&mut self, seen: Vec<u64>, now: Instant) -> bool {
        match &self.seen {
            Some((before, since)) if *before == seen => now - *since >= STUCK,
            _ => {
                self.seen = Some((seen, now));
                false
            }
        }
    }

    /// Whether it may begin, `after` so long behind the last verb.
    fn may_begin(&self, started: Instant, after: Duration, now: Instant) -> bool {
        let rested = now.saturating_duration_since(self.held_until.unwrap_or(started)) >= after;
        self.holds == 0 && rested && self.not_before.is_none_or(|until| until <= now)
    }
}

/// The tendings that the agent sees to.
pub(crate) struct Tending {
    /// By name of the volume.
    known: Mutex<BTreeMap<String, Known>>,
    started: Instant,
    wake: Notify,
}

impl Default for Tending {
    fn default() -> Self {
        Self { known: Mutex::default(), started: Instant::now(), wake: Notify::new() }
    }
}

impl Tending {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the next look happen now.
    pub(super) fn look_now(&self) {
        self.wake.notify_one();
    }

    /// The operator wants something: nothing that failed before counts.
    pub(super) fn forgive(&self) {
        self.known().values_mut().for_each(Known::forgive);
        self.look_now();
    }

    fn failed(&self, volume: &str, failure: Error) {
        let mut known = self.known();
        let known = known.entry(volume.to_owned()).or_default();
        // Whoever took it away is no failure.
        if known.holds == 0 {
            known.failed(failure, Instant::now());
        }
    }
}

/// As long as it lives nobody tends these volumes.
pub(crate) struct Hold {
    agent: Arc<Agent>,
    volumes: Vec<String>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut known = self.agent.tending.known();
        for volume in &self.volumes {
            let known = known.entry(volume.clone()).or_default();
            known.holds -= 1;
            known.held_until = Some(Instant::now());
            known.forgive();
        }
    }
}

/// A volume whose tending is over, and what went wrong, if anything did.
type Over = (String, Option<Error>);

/// Whether an attachment is the agent's own.
pub(super) fn is_tended(volume: &VolumeRecord) -> bool {
    volume.attachment.as_ref().is_some_and(|attachment| attachment.tended)
}

impl Agent {
    /// Takes volumes from whoever tends them, for a verb that needs them for itself.
    ///
    /// # Errors
    /// Those of a detach.
    pub(crate) async fn hold(self: &Arc<Self>, volumes: Vec<String>) -> Result<Hold> {
        for volume in &volumes {
            self.tending.known().entry(volume.clone()).or_default().holds += 1;
        }
        let hold = Hold { agent: self.clone(), volumes };
        for volume in &hold.volumes {
            self.end_tending(volume).await?;
        }
        Ok(hold)
    }

    /// As `hold`, all volumes of a pool, or of all pools.
    ///
    /// # Errors
    /// Those of a detach, or the catalogue's.
    pub(crate) async fn hold_pool(self: &Arc<Self>, pool: Option<String>) -> Result<Hold> {
        let this = self.clone();
        let volumes = blocking(move || this.store.list::<VolumeRecord>("volumes/")).await?;
        let of = |volume: &VolumeRecord| pool.as_ref().is_none_or(|pool| volume.pool == *pool);
        self.hold(volumes.into_iter().map(|v| v.record).filter(of).map(|v| v.name).collect()).await
    }

    /// Ends the tending of a volume, if it is tended.
    async fn end_tending(self: &Arc<Self>, name: &str) -> Result<()> {
        let (this, of) = (self.clone(), name.to_owned());
        let tended = blocking(move || {
            // One that begins just now is seen.
            let _records = this.records();
            Ok(this.volume(&of).is_ok_and(|volume| is_tended(&volume)))
        });
        if tended.await? { self.end_attachment(name).await.map(drop) } else { Ok(()) }
    }

    /// Tends volumes until the agent ends.
    pub(crate) async fn tend(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = match self.tend_once().await {
                Ok(true) => EVERY,
                Ok(false) => IDLE,
                Err(error) => {
                    tracing::error!("cannot see which volumes are to be tended: {error}");
                    IDLE
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.tending.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look: ends what is over, begins what is due. Returns whether any volume is tended.
    async fn tend_once(self: &Arc<Self>) -> Result<bool> {
        let this = self.clone();
        let (over, mut tended) = blocking(move || this.tended_volumes()).await?;
        for (name, failure) in over {
            tended -= 1;
            if let Some(failure) = failure {
                self.tending.failed(&name, failure);
            }
            self.end_tending(&name).await?;
        }
        let this = self.clone();
        for volume in blocking(move || this.volumes_to_tend(AT_ONCE.saturating_sub(tended))).await? {
            tended += 1;
            super::spawn(self.clone().try_tending(volume));
        }
        Ok(tended > 0)
    }

    /// The volumes whose tending is over, each with what went wrong if anything did; and how many are tended in all.
    fn tended_volumes(&self) -> Result<(Vec<Over>, usize)> {
        let (mut over, mut count) = (Vec::new(), 0);
        let volumes = self.store.list::<VolumeRecord>("volumes/")?;
        // Verbs name what they like.
        let exists = |name: &str| volumes.iter().any(|volume| volume.name == name);
        self.tending.known().retain(|name, known| known.holds > 0 || exists(name));
        for volume in volumes.into_iter().filter(|volume| is_tended(volume)) {
            count += 1;
            let group = self.group(&volume.group)?;
            let pool = self.pool(&volume.pool)?;
            if pool.tend_after_seconds.is_none() || !self.is_to_be_tended(&pool, &volume, &group)? {
                let mut known = self.tending.known();
                let known = known.entry(volume.name.clone()).or_default();
                known.forgive();
                known.seen = None;
                over.push((volume.record.name, None));
                continue;
            }
            let seen = self.progress_of(&volume, &group)?;
            let mut known = self.tending.known();
            if known.entry(volume.name.clone()).or_default().is_stuck(seen, Instant::now()) {
                let message = format!("what is to be done on volume {} does not go on", volume.name);
                let failure = Error::new(Kind::Busy, volume.name.clone(), message);
                over.push((volume.record.name, Some(failure)));
            }
        }
        Ok((over, count))
    }

    /// Volumes that are to be tended from now on, at most so many.
    fn volumes_to_tend(&self, room: usize) -> Result<Vec<VolumeRecord>> {
        let mut due = Vec::new();
        if room == 0 {
            return Ok(due);
        }
        let mut in_turn: BTreeSet<String> = BTreeSet::new();
        for volume in self.store.list::<VolumeRecord>("volumes/")? {
            let detached = volume.life == Life::Ready && volume.attachment.is_none();
            let pool = self.pool(&volume.pool)?;
            let Some(after) = pool.tend_after_seconds.filter(|_| detached && pool.life == Life::Ready) else {
                continue;
            };
            let (now, after) = (Instant::now(), Duration::from_secs(after));
            let may = |known: &Known| known.may_begin(self.tending.started, after, now);
            let rests = !self.tending.known().get(&volume.name).map_or_else(|| may(&Known::default()), may);
            let group = self.group(&volume.group)?;
            if rests || !self.is_to_be_tended(&pool, &volume, &group)? {
                continue;
            }
            // Of those that are to be scrubbed in turn only one.
            let turn = !self.needs_more_than_scrub(&pool, &volume, &group)? && self.scrubs_in_turn(&volume);
            if turn && !in_turn.insert(volume.pool.clone()) {
                continue;
            }
            due.push(volume.record);
            if due.len() == room {
                break;
            }
        }
        Ok(due)
    }

    /// Begins to tend a volume; a second time at once if it just failed, as when the target was killed or crashed: that may have
    /// nothing to do with what it serves.
    async fn try_tending(self: Arc<Self>, volume: VolumeRecord) {
        let mut outcome = self.begin_tending(&volume).await;
        if outcome.as_ref().is_err_and(|error| error.kind == Kind::Failed) {
            outcome = self.begin_tending(&volume).await;
        }
        if let Err(error) = outcome {
            self.tending.failed(&volume.name, error);
        }
    }

    /// Attaches a volume for the agent itself.
    async fn begin_tending(self: &Arc<Self>, volume: &VolumeRecord) -> Result<()> {
        let (this, of) = (self.clone(), volume.clone());
        if !blocking(move || this.announce_tending(&of)).await? {
            return Ok(());
        }
        self.supervisor.start(self, &volume.name, &volume.pool);
        self.supervisor.wait_serving(&volume.name).await.map(drop)
    }

    /// Writes the attachment to the catalogue, unless somebody has or wants the volume.
    fn announce_tending(&self, volume: &VolumeRecord) -> Result<bool> {
        let _records = self.records();
        let mut now = self.ready_volume(&volume.name)?;
        let held = self.tending.known().get(&volume.name).is_some_and(|known| known.holds > 0);
        if held || now.attachment.is_some() || now.id != volume.id {
            return Ok(false);
        }
        let group = self.group(&now.group)?.record.id;
        now.attachment = Some(Attachment {
            frontend: FrontendKind::Nbd,
            nbd_socket: Some(self.options.tended_socket(&group)),
            read_only: false,
            device_number: None,
            detaching: false,
            force_stale: false,
            served: false,
            binary: None,
            next: None,
            tended: true,
        });
        self.store.txn().update(records::volume_key(&volume.name), &now).commit()?;
        Ok(true)
    }

    /// Whether a volume that is detached will be tended if something is to be done on it.
    pub(super) fn will_be_tended(&self, volume: &VolumeRecord) -> bool {
        let tends = self.pool(&volume.pool).is_ok_and(|pool| pool.tend_after_seconds.is_some());
        let failed = self.tending.known().get(&volume.name).is_some_and(|known| known.failure.is_some());
        tends && !failed && (volume.attachment.is_none() || is_tended(volume))
    }

    /// Whether a volume's attachment is the agent's own.
    pub(crate) fn is_tended(&self, volume: &str) -> bool {
        self.volume(volume).is_ok_and(|volume| is_tended(&volume))
    }

    /// Why nothing can be done on a volume now, if so.
    pub(super) fn obstacle_of(&self, volume: &VolumeRecord) -> Option<String> {
        let why = super::scrub::obstacle(volume, self.supervisor.live(&volume.name).as_ref())?;
        let known = self.tending.known();
        let failure = known.get(&volume.name).and_then(|known| known.failure.as_ref());
        let failure = failure.filter(|_| volume.attachment.is_none());
        Some(
            failure
                .map_or_else(|| why.clone(), |failure| format!("{why}, and could not be tended: {failure}")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Error {
        Error::new(Kind::Busy, "v", "it does not go on")
    }

    #[test]
    fn a_volume_is_left_alone_behind_a_verb() {
        let (mut known, start, after) = (Known::default(), Instant::now(), Duration::from_secs(60));
        assert!(!known.may_begin(start, after, start), "the agent has just begun");
        assert!(known.may_begin(start, after, start + after));
        known.held_until = Some(start + after);
        assert!(
            !known.may_begin(start, after, start + after) && known.may_begin(start, after, start + 2 * after)
        );
        known.holds = 1;
        assert!(!known.may_begin(start, after, start + 3 * after), "somebody has it");
    }

    #[test]
    fn one_on_which_nothing_moves_makes_way_and_comes_ever_more_rarely() {
        let (mut known, start) = (Known::default(), Instant::now());
        assert!(!known.is_stuck(vec![1], start));
        assert!(!known.is_stuck(vec![2], start + STUCK), "it moves");
        assert!(!known.is_stuck(vec![2], start + STUCK * 2 - Duration::from_millis(1)));
        assert!(known.is_stuck(vec![2], start + STUCK * 2));
        let mut pauses = Vec::new();
        for _ in 0..20 {
            known.failed(failure(), start);
            pauses.push(known.not_before.expect("a pause") - start);
        }
        assert_eq!((pauses[0], pauses[1], pauses[19]), (FIRST_PAUSE, 2 * FIRST_PAUSE, LONGEST_PAUSE));
        assert!(!known.may_begin(start, Duration::ZERO, start + FIRST_PAUSE));
        known.forgive();
        assert!(known.may_begin(start, Duration::ZERO, start) && known.failure.is_none());
        assert!(!known.is_stuck(vec![2], start), "it is looked at anew");
    }
}
