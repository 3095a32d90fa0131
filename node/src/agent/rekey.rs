//! New data keys: a group gets one, another target takes over that writes under it, what lies under older ones is written
//! again, and they are given up.
//!
//! What is wanted is in the group's record (`RekeyRecord`). The agent looks at it, at each look anew, and does the next step.
//!
//! | step | in the catalogue | killed behind it |
//! |---|---|---|
//! | a data key is added, and the secret is wrapped anew | the envelope, `to` | the next look goes on |
//! | the drives get that envelope | | those that lack it get it |
//! | no target was told the key before this | `sealed` | the same |
//! | the target is exchanged; its activation names the key | | a target that does not write under it is exchanged |
//! | it writes again what lies under older keys | | it begins again, and passes over what is done |
//! | its superblocks say that no older key is needed | | the same |
//! | the older keys go, and the secret is wrapped anew | the envelope, no walk | done |
//! | the drives get that envelope | | they get it when the volume is attached, or when they are current again |
//!
//! The new key is on every drive of the home row that counts before anything is written under it: should the catalogue be
//! lost, an import finds it there. The older keys stay as long as a copy that is not current may need them: a drive that
//! was away all the time has blocks and a log under them.
//!
//! Whoever names a volume whose secret has several data keys although no walk is wanted (its catalogue was lost on the
//! way) goes on with the newest of them.
mod verbs;

use super::{Agent, locked, parse_id};
use crate::catalogue::{
    CopyState, DriveState, GroupEncryption, GroupRecord, Life, RekeyRecord, Severity, Versioned,
    VolumeRecord, records,
};
use crate::error::{Error, Kind, Result};
use crate::keys::{Envelope, GroupSecret};
use crate::model::{Rekey, RekeyState};
use crate::protocol::{Answer, Request, TargetRekey};
use crate::text;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Pause between two looks while a walk is wanted.
const EVERY: Duration = Duration::from_secs(1);
/// Pause between two looks at whether any is.
const IDLE: Duration = Duration::from_secs(10);
/// The longest that a look at a target may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// A walk that found blocks that no leg has right is begun again so much later.
const LOST_PAUSE: Duration = Duration::from_secs(60);

/// What the agent remembers of a volume's walk; nothing of it is needed after a restart.
#[derive(Default)]
struct Known {
    look: Option<TargetRekey>,
    waits_for: Option<String>,
    /// The target that was to be exchanged and stayed.
    stays: Option<u32>,
    not_before: Option<Instant>,
}

/// The walks that the agent sees to.
#[derive(Default)]
pub(crate) struct Rekeying {
    /// By identity of the volume.
    known: Mutex<BTreeMap<String, Known>>,
    /// Volumes that are being attended to.
    busy: Mutex<BTreeSet<String>>,
    wake: Notify,
}

impl Rekeying {
    fn note(&self, volume: &str, note: impl FnOnce(&mut Known)) {
        note(locked(&self.known).entry(volume.to_owned()).or_default());
    }

    fn waits(&self, volume: &str, why: String) {
        self.note(volume, |known| known.waits_for = Some(why));
    }

    /// Has the next look happen now.
    pub(super) fn look_now(&self) {
        self.wake.notify_one();
    }

    /// Something that changes as a volume's walk goes on.
    pub(super) fn progress_of(&self, volume: &str) -> u64 {
        let look = locked(&self.known).get(volume).and_then(|known| known.look);
        look.map_or(0, |look| 1 + look.walked_bytes + u64::from(look.finished))
    }

    /// The operator asks: nothing that failed before counts.
    fn forgive(&self, volume: &str) {
        locked(&self.known).remove(volume);
        self.wake.notify_one();
    }
}

/// The secret that a target is told: without a data key that is not on the drives yet.
pub(super) fn as_told(secret: Option<GroupSecret>, group: &GroupRecord) -> Option<GroupSecret> {
    let rekey = group.encryption.as_ref().and_then(|by| by.rekey.as_ref());
    match rekey.filter(|rekey| !rekey.sealed) {
        Some(rekey) => secret.map(|secret| secret.only(|number| number < rekey.to)),
        None => secret,
    }
}

/// What a volume's walk needs next.
enum Next {
    /// Nothing that can be done now, or at all.
    Nothing,
    /// Its target is to be looked at, and begins if `start`.
    Look { to: u16, start: bool },
}

impl Agent {
    /// Sees to walks to new data keys until the agent ends.
    pub(crate) async fn rekey(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let this = self.clone();
            let pause = match super::blocking(move || this.volumes_to_rekey()).await {
                Ok(volumes) if volumes.is_empty() => IDLE,
                Ok(volumes) => {
                    volumes.into_iter().for_each(|volume| self.attend_rekey(volume));
                    EVERY
                }
                Err(error) => {
                    tracing::error!("cannot see which volumes are to get a new key: {error}");
                    IDLE
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.rekeying.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn volumes_to_rekey(&self) -> Result<Vec<VolumeRecord>> {
        let groups = self.store.list::<GroupRecord>("groups/")?;
        let wanted: BTreeSet<String> =
            groups.into_iter().filter(|g| wanted_of(g).is_some()).map(|g| g.record.name).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let volumes = self.store.list::<VolumeRecord>("volumes/")?.into_iter().map(|volume| volume.record);
        Ok(volumes.filter(|v| v.life == Life::Ready && wanted.contains(&v.group)).collect())
    }

    /// Attends to one volume in the background, unless that goes on already.
    fn attend_rekey(self: &Arc<Self>, volume: VolumeRecord) {
        if !locked(&self.rekeying.busy).insert(volume.id.clone()) {
            return;
        }
        let this = self.clone();
        super::spawn(async move {
            if let Err(error) = this.rekey_volume(&volume).await {
                tracing::warn!("the new key of volume {} waits: {error}", volume.name);
                this.rekeying.waits(&volume.id, error.message);
            }
            locked(&this.rekeying.busy).remove(&volume.id);
        });
    }

    /// Does the next step for one volume.
    async fn rekey_volume(self: &Arc<Self>, volume: &VolumeRecord) -> Result<()> {
        let (this, of) = (self.clone(), volume.clone());
        let Next::Look { to, start } = super::blocking(move || this.next_rekey(&of)).await? else {
            return Ok(());
        };
        let look = self.look_at_rekey(&volume.name, to, start).await?;
        self.rekeying.note(&volume.id, |known| {
            known.look = Some(look);
            known.waits_for = look.no_space.then(|| format!("space in pool {}", volume.pool));
        });
        if look.data_key < to {
            return self.exchange_for_rekey(volume).await;
        }
        if look.finished {
            let (this, of) = (self.clone(), volume.clone());
            return super::blocking(move || this.finish_rekey(&of)).await;
        }
        if !look.running && look.lost_bytes > 0 {
            let why = format!(
                "a drive that has right what no other has: {} cannot be read (plinth scrub names them)",
                text::show_size(look.lost_bytes)
            );
            self.rekeying.note(&volume.id, |known| {
                known.waits_for = Some(why);
                known.not_before.get_or_insert(Instant::now() + LOST_PAUSE);
            });
        }
        Ok(())
    }

    /// What a volume's walk needs next.
    fn next_rekey(&self, volume: &VolumeRecord) -> Result<Next> {
        let mut verb = self.lock();
        let volume = self.ready_volume(&volume.name)?;
        let group = self.group(&volume.group)?;
        let Some(rekey) = wanted_of(&group).cloned() else { return Ok(Next::Nothing) };
        if !rekey.sealed {
            let missing = verb.aside(|| self.settle_envelope(&group))?;
            if !missing.is_empty() {
                self.rekeying.waits(&volume.id, format!("what is missing: {}", missing.join(", ")));
                return Ok(Next::Nothing);
            }
            let mut by = group.record.encryption.clone().expect("a walk is wanted");
            by.rekey = Some(RekeyRecord { sealed: true, ..rekey.clone() });
            self.replace_encryption(&group, by)?;
        }
        drop(verb);
        if let Some(why) = self.obstacle_of(&volume) {
            self.rekeying.note(&volume.id, |known| (known.look, known.waits_for) = (None, Some(why)));
            return Ok(Next::Nothing);
        }
        let mut known = locked(&self.rekeying.known);
        let known = known.entry(volume.id.clone()).or_default();
        let start = known.not_before.is_none_or(|until| until <= Instant::now());
        if start {
            known.not_before = None;
        }
        Ok(Next::Look { to: rekey.to, start })
    }

    async fn look_at_rekey(&self, name: &str, to: u16, start: bool) -> Result<TargetRekey> {
        let asked = self.supervisor.ask(name, Request::Rekey { to, start });
        let answered = tokio::time::timeout(ANSWER_DEADLINE, asked).await;
        let answered = answered.unwrap_or_else(|_| {
            Err(Error::new(Kind::Busy, name, format!("the target of volume {name} does not answer")))
        });
        match answered {
            Ok(Answer::Rekey(look)) => Ok(look),
            Ok(_) => Err(Error::new(Kind::Failed, name, "its target answered something else")),
            // An older build knows no such request.
            Err(error) if error.kind == Kind::Invalid => {
                let message = format!(
                    "the target of volume {name} is of an earlier build, which cannot go over to another key"
                );
                Err(Error::new(Kind::NotSupported, name, message)
                    .hint(format!("plinth volume upgrade {name} exchanges it")))
            }
            Err(error) => Err(error),
        }
    }

    /// A target writes under an older key: another one takes over. One that stays is asked once; over NBD that is one with
    /// clients.
    async fn exchange_for_rekey(self: &Arc<Self>, volume: &VolumeRecord) -> Result<()> {
        let pid = self.supervisor.live(&volume.name).and_then(|live| live.pid);
        let stays = |known: &mut Known| known.stays.is_some() && known.stays == pid;
        if stays(locked(&self.rekeying.known).entry(volume.id.clone()).or_default()) {
            self.rekeying.waits(&volume.id, stayed(&volume.name));
            return Ok(());
        }
        self.rekeying.note(&volume.id, |known| known.stays = pid);
        if let Err(error) = self.exchange_target(&volume.name).await {
            tracing::warn!("volume {} was not handed over for its new key: {error}", volume.name);
            let why = format!("{}: {error}", stayed(&volume.name));
            self.rekeying.waits(&volume.id, why);
        }
        self.rekeying.wake.notify_one();
        Ok(())
    }

    /// Nothing that the current copies have needs the older keys. When nobody else does either, they go.
    fn finish_rekey(&self, volume: &VolumeRecord) -> Result<()> {
        let _verbs = self.key_verbs();
        let group = self.group(&self.ready_volume(&volume.name)?.group)?;
        let Some(rekey) = wanted_of(&group).cloned() else { return Ok(()) };
        let Some(secret) = self.group_secret(&group)? else { return Ok(()) };
        let wrapped = self.wrapped_anew(&group, &secret.only(|number| number >= rekey.to))?;
        {
            let mut verb = self.lock();
            if let Some(why) = self.needs_older_key(&volume.name)? {
                self.rekeying.waits(&volume.id, why);
                return Ok(());
            }
            let mut by = wrapped;
            (by.rekey, by.rekeyed_at) = (None, Some(text::now()));
            let group = self.replace_encryption(&group, by)?;
            locked(&self.rekeying.known).remove(&volume.id);
            let message = format!("volume {} is under data key {} alone", volume.name, rekey.to);
            self.events.record(Severity::Info, "rekey_done", &volume.name, &message);
            // Whoever has the envelope before has a key that nothing is under.
            verb.aside(|| self.settle_at_hand(&group));
        }
        Ok(())
    }

    /// Why the older keys must stay, if they must: a copy that was away has blocks under them.
    fn needs_older_key(&self, volume: &str) -> Result<Option<String>> {
        let group = self.group(&self.volume(volume)?.group)?;
        let rows = self.rows_of(&group.id)?;
        for copy in group.copies.iter().filter(|copy| copy.state != CopyState::Current) {
            let drive = self.drive(&copy.drive)?;
            if super::moving::has_rows(&rows, &copy.drive) && drive.state != DriveState::Failed {
                return Ok(Some(format!(
                    "drive {}, whose copy is not current and needs the older key: bring it back, or give it up with \
                     plinth drive fail",
                    drive.path.display()
                )));
            }
        }
        Ok(None)
    }

    /// The encryption of a group with another secret, wrapped by the key that it has.
    fn wrapped_anew(&self, group: &GroupRecord, secret: &GroupSecret) -> Result<GroupEncryption> {
        let mut by = group.encryption.clone().expect("the group is encrypted");
        let envelope: Envelope = self.keys.wrap(&by.key, &parse_id(&group.id)?, secret.secret())?;
        by.envelope = Some(envelope);
        by.envelope_written += 1;
        Ok(by)
    }

    /// Replaces the encryption of a group, unless somebody else did: the lock of verbs of keys and the verbs' lock are held.
    fn replace_encryption(&self, seen: &GroupRecord, by: GroupEncryption) -> Result<Versioned<GroupRecord>> {
        let mut group = self
            .store
            .get::<GroupRecord>(&records::group_key(&seen.name))?
            .filter(|now| now.id == seen.id && now.encryption == seen.encryption)
            .ok_or_else(|| {
                let message = format!("the record of group {} changed meanwhile", seen.name);
                Error::new(Kind::Busy, seen.name.clone(), message).hint("repeat it")
            })?;
        group.record.encryption = Some(by);
        self.store_envelope(&mut group)?;
        Ok(group)
    }

    /// How a volume's walk stands; `None` if none is wanted.
    pub(super) fn view_rekey(&self, volume: &VolumeRecord, group: &GroupRecord) -> Option<Rekey> {
        let rekey = wanted_of(group)?;
        let known = locked(&self.rekeying.known);
        let known = known.get(&volume.id);
        let look = known.and_then(|known| known.look).filter(|look| look.data_key >= rekey.to);
        let waits_for = known.and_then(|known| known.waits_for.clone());
        let state = match (&look, &waits_for) {
            (_, Some(_)) => RekeyState::Waiting,
            (None, _) => RekeyState::Starting,
            (Some(look), _) if look.finished => RekeyState::Ending,
            (Some(_), _) => RekeyState::Running,
        };
        Some(Rekey {
            state,
            data_key: rekey.to,
            started_at: rekey.started_at.clone(),
            bytes_total: look.map(|look| look.total_bytes),
            bytes_done: look.map_or(0, |look| look.walked_bytes),
            bytes_rewritten: look.map_or(0, |look| look.rewritten_bytes),
            waits_for,
        })
    }
}

/// The walk that a group is to do.
fn wanted_of(group: &GroupRecord) -> Option<&RekeyRecord> {
    group.encryption.as_ref().and_then(|by| by.rekey.as_ref())
}

fn stayed(name: &str) -> String {
    format!(
        "another target of volume {name}, which must take over: disconnect its NBD clients, or detach and attach it, and \
         repeat plinth rekey {name}"
    )
}
