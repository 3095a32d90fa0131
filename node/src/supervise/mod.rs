//! Supervision: one target process per active group.
//!
//! A target is detached from the agent (its own session, its own control socket): it serves on when the agent
//! ends, and the agent that starts next takes it over. What tells that a target is gone is the end of its
//! control connection, which the kernel closes with the process, whether it is our child or not.
//!
//! A target that has served once is started anew when it dies, after a pause (see `pauses`), for as long as its
//! volume is to be attached; one that never served reports why, and the attachment is undone. A detach of a volume
//! whose targets do not come to serve any more (its last complete copy is gone) needs none: its group is closed by
//! nobody, and recovered when it is attached again.
mod ahead;
mod exchange;
mod link;
mod pauses;
mod run;

pub use run::spawn_detached;

use crate::error::{Error, Kind, Result};
use crate::protocol::{Answer, Request, TargetStatus};
use ahead::Ahead;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// The longest that a look at a target may take.
const STATUS_DEADLINE: Duration = Duration::from_secs(2);
/// The longest that a caller waits for an exchange: one on trial, then the one before, which may have to recover.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(90);
/// Commands that wait for a target at most.
const MAX_COMMANDS: usize = 64;

/// Where the supervision of a group stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Its first target is starting or recovering.
    Starting,
    /// Its target serves.
    Serving,
    /// Its target died; the next one is starting or recovering.
    Recovering,
    /// It is being detached.
    Detaching,
    /// It is not supervised any more; `error` says why, if it failed.
    Ended,
}

/// What is known of a supervised group.
#[derive(Clone, Debug)]
pub struct Live {
    /// Where it stands.
    pub phase: Phase,
    /// The target's process, if there is one.
    pub pid: Option<u32>,
    /// Version of the target's program.
    pub version: Option<String>,
    /// How often a target was started in place of a dead one.
    pub restarts: u64,
    /// The last look at it.
    pub status: Option<TargetStatus>,
    /// Number of the ublk device.
    pub device_number: Option<u32>,
    /// The last failure.
    pub error: Option<Error>,
}

impl Live {
    const START: Self = Self {
        phase: Phase::Starting,
        pid: None,
        version: None,
        restarts: 0,
        status: None,
        device_number: None,
        error: None,
    };
}

/// What the rest of the agent wants of a target.
enum Command {
    /// Close the group and end.
    Detach(oneshot::Sender<Result<()>>),
    /// Make room for the target that is announced in the catalogue, which may wait already.
    Exchange(Option<Box<Ahead>>, oneshot::Sender<Result<()>>),
    /// Anything else.
    Ask(Request, oneshot::Sender<Result<Answer>>),
}

/// A supervised group.
pub struct Slot {
    pool: String,
    live: watch::Sender<Live>,
    commands: mpsc::Sender<Command>,
    /// Ends the pause before the next target.
    hurry: Notify,
}

/// All supervised groups, by name of the volume.
#[derive(Default)]
pub struct Supervisor {
    /// Told when a target was seen to have counted something that is an event.
    pub news: Arc<Notify>,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

impl Supervisor {
    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a volume's target; `None` when it is not supervised.
    pub fn live(&self, volume: &str) -> Option<Live> {
        self.slots().get(volume).map(|slot| slot.live.borrow().clone())
    }

    /// Whether a target has a drive open, or had when it was last seen: it held it, so no name of the kernel can have
    /// gone to another one.
    pub fn has_open(&self, drive: &str) -> bool {
        self.slots().values().any(|slot| {
            let live = slot.live.borrow();
            live.status.iter().flat_map(|status| &status.drives).any(|seen| seen.id == drive && seen.open)
        })
    }

    /// Supervises a volume from now on, unless it is supervised already.
    pub fn start(&self, agent: &Arc<crate::agent::Agent>, volume: &str, pool: &str) {
        let mut slots = self.slots();
        if slots.contains_key(volume) {
            return;
        }
        let (commands, inbox) = mpsc::channel(MAX_COMMANDS);
        let live = watch::Sender::new(Live::START);
        let slot = Arc::new(Slot { pool: pool.to_owned(), live, commands, hurry: Notify::new() });
        slots.insert(volume.to_owned(), slot.clone());
        crate::steps::spawn(run::supervise(agent.clone(), volume.to_owned(), slot, inbox));
    }

    /// Forgets a volume whose supervision is ending. Under the verbs' lock, together with its attachment.
    pub(crate) fn forget(&self, volume: &str) {
        self.slots().remove(volume);
    }

    fn slot(&self, volume: &str) -> Result<Arc<Slot>> {
        let slot = self.slots().get(volume).cloned();
        slot.ok_or_else(|| Error::new(Kind::Refused, volume, format!("volume {volume} is not attached")))
    }

    /// A volume's target serves. Under the lock of records, together with what the catalogue says of that.
    pub(crate) fn serves(&self, volume: &str, device_number: Option<u32>) {
        if let Ok(slot) = self.slot(volume) {
            slot.live.send_modify(|live| {
                (live.phase, live.device_number, live.error) = (Phase::Serving, device_number, None);
            });
        }
    }

    /// Waits until a volume serves, or until it is known that it will not.
    ///
    /// # Errors
    /// Why it does not serve.
    pub async fn wait_serving(&self, volume: &str) -> Result<Live> {
        let mut live = self.slot(volume)?.live.subscribe();
        let settled = live.wait_for(|live| matches!(live.phase, Phase::Serving | Phase::Ended)).await;
        let ended = || Error::new(Kind::Failed, volume, format!("the target of volume {volume} ended"));
        let live = settled.map_err(|_| ended())?.clone();
        match live.phase {
            Phase::Serving => Ok(live),
            _ => Err(live.error.unwrap_or_else(ended)),
        }
    }

    /// Has a volume's target close its group and end; returns when the process is gone.
    ///
    /// # Errors
    /// The target's.
    pub async fn detach(&self, volume: &str) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let slot = self.slot(volume)?;
        let gone = || Error::new(Kind::Failed, volume, format!("the supervision of volume {volume} ended"));
        slot.commands.send(Command::Detach(reply)).await.map_err(|_| gone())?;
        slot.hurry.notify_one();
        answer.await.map_err(|_| gone())?
    }

    /// Something changed that lets a target serve that could not: it is tried at once.
    pub fn hurry(&self, volume: &str) {
        if let Ok(slot) = self.slot(volume) {
            slot.hurry.notify_one();
        }
    }

    /// Has a volume's target replaced by the one that is announced in the catalogue; returns when a target serves
    /// again.
    ///
    /// # Errors
    /// Why the announced one does not serve; the one before does then. `Timeout`: none serves yet.
    pub async fn upgrade(&self, agent: &Arc<crate::agent::Agent>, volume: &str) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let slot = self.slot(volume)?;
        let ahead = Ahead::start(agent, volume).await.map(Box::new);
        let gone = || Error::new(Kind::Failed, volume, format!("the supervision of volume {volume} ended"));
        slot.commands.send(Command::Exchange(ahead, reply)).await.map_err(|_| gone())?;
        let answered = tokio::time::timeout(EXCHANGE_DEADLINE, answer).await.map_err(|_| {
            let seconds = EXCHANGE_DEADLINE.as_secs();
            let message = format!("volume {volume} is not served yet after {seconds} s; it is tried on");
            Error::new(Kind::Timeout, volume, message).hint("see plinth events; repeat the command")
        })?;
        answered.map_err(|_| gone())?
    }

    /// Asks a target that serves.
    ///
    /// # Errors
    /// `Refused` when there is none, or what it answered.
    pub async fn ask(&self, volume: &str, request: Request) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        let slot = self.slot(volume)?;
        let gone =
            || Error::new(Kind::Busy, volume, format!("the target of volume {volume} is starting anew"));
        slot.commands.send(Command::Ask(request, reply)).await.map_err(|_| gone())?;
        match answer.await.map_err(|_| gone())?? {
            Answer::Failed(error) => Err(error),
            answer => Ok(answer),
        }
    }

    /// Looks at a target, or at all of them; a target that does not answer in time keeps its last look.
    pub async fn refresh(&self, volume: Option<&str>) {
        let serving: Vec<String> = self
            .slots()
            .iter()
            .filter(|(name, slot)| {
                volume.is_none_or(|volume| volume == *name) && slot.live.borrow().phase == Phase::Serving
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in serving {
            let look = tokio::time::timeout(STATUS_DEADLINE, self.ask(&name, Request::Status)).await;
            if let Ok(Ok(Answer::Status(status))) = look
                && let Ok(slot) = self.slot(&name)
            {
                slot.live.send_modify(|live| {
                    let checks = |status: &TargetStatus| -> u64 {
                        status.drives.iter().map(|drive| drive.check_errors + drive.repaired_blocks).sum()
                    };
                    if live.status.as_ref().map_or(0, checks) != checks(&status) {
                        self.news.notify_one();
                    }
                    live.status = Some(*status);
                });
            }
        }
    }

    /// Tells the targets of a pool what changed; one that does not hear it finds it in its next spec, or asks.
    pub fn tell(&self, pool: &str, request: &Request) {
        for slot in self.slots().values().filter(|slot| slot.pool == pool) {
            let (reply, _) = oneshot::channel();
            // A full inbox means that the target is not reading.
            let _ = slot.commands.try_send(Command::Ask(request.clone(), reply));
        }
    }
}
