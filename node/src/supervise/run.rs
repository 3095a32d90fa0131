//! The life of one supervised group: take over or start a target, serve its connection, start the next.
use super::link::{Hello, Link, Waiter};
use super::pauses::Pauses;
use super::{Command, Live, Phase, Slot};
use crate::agent::{Agent, blocking};
use crate::catalogue::Severity;
use crate::error::{Error, Kind, Result};
use crate::protocol::{Answer, FromTarget, Notice, Request};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};

/// The longest that a new target may take to listen.
const LISTEN_DEADLINE: Duration = Duration::from_secs(20);
/// How often is looked whether a target listens, or whether it is gone.
const LOOK: Duration = Duration::from_millis(10);
/// The longest that the kernel may take to end a target's process: its I/O in flight has to end first.
const EXIT_DEADLINE: Duration = Duration::from_secs(120);

/// How a connection ended.
enum End {
    /// The target is gone without being told to; how long it had served, if it had.
    Died { why: Option<Error>, served_for: Option<Duration> },
    /// It was told to detach and did.
    Detached(Callers),
}

/// Who waits for a detach.
type Callers = Vec<oneshot::Sender<Result<()>>>;

/// One group, until it is detached or fails for good.
pub async fn supervise(
    agent: Arc<Agent>,
    volume: String,
    slot: Arc<Slot>,
    mut inbox: mpsc::Receiver<Command>,
) {
    let mut pauses = Pauses::default();
    let outcome = loop {
        let end = match begin(&agent, &volume).await {
            Ok((link, hello, child)) => {
                let pid = hello.pid;
                let end = serve(&agent, &volume, &slot, &mut inbox, link, hello).await;
                wait_for_exit(pid, child).await;
                end
            }
            Err(error) => End::Died { why: Some(error), served_for: None },
        };
        match end {
            End::Detached(reply) => break Ok(reply),
            End::Died { why, served_for } => {
                let served = agent.has_served(&volume);
                report_death(&agent, &volume, &slot, served, why.clone());
                if !served {
                    break Err(why);
                }
                tokio::time::sleep(pauses.next(served_for)).await;
            }
        }
    };
    finish(&agent, &volume, &slot, outcome).await;
}

/// Undoes the attachment in the catalogue and ends the supervision.
async fn finish(
    agent: &Arc<Agent>,
    volume: &str,
    slot: &Slot,
    outcome: std::result::Result<Callers, Option<Error>>,
) {
    let (this, name) = (agent.clone(), volume.to_owned());
    let cleared = tokio::task::spawn_blocking(move || this.clear_attachment(&name)).await;
    let cleared = cleared.unwrap_or_else(|_| Err(Error::general(Kind::Failed, "the agent is ending")));
    // Before anybody hears of the end: a caller may attach the volume anew at once.
    agent.supervisor.forget(volume);
    slot.live.send_modify(|live| {
        live.phase = Phase::Ended;
        live.pid = None;
        if let Err(error) = &outcome {
            live.error.clone_from(error);
        }
    });
    for reply in outcome.into_iter().flatten() {
        let _ = reply.send(cleared.clone());
    }
}

fn report_death(agent: &Agent, volume: &str, slot: &Slot, served: bool, error: Option<Error>) {
    let why = error.as_ref().map_or_else(|| "it was killed or crashed".to_owned(), ToString::to_string);
    slot.live.send_modify(|live| {
        live.phase = if served { Phase::Recovering } else { live.phase };
        live.restarts += u64::from(served);
        live.pid = None;
        live.error = error;
    });
    let message = if served {
        format!("the target of volume {volume} ended ({why}); a new one is started")
    } else {
        format!("volume {volume} could not be attached: {why}")
    };
    let kind = if served { "target_restarted" } else { "attach_failed" };
    agent.events.record(Severity::Error, kind, volume, &message);
}

/// Takes over the target that is there, or starts one.
async fn begin(agent: &Arc<Agent>, volume: &str) -> Result<(Link, Hello, Option<Child>)> {
    let (this, name) = (agent.clone(), volume.to_owned());
    let group = blocking(move || this.group_of(&name)).await?;
    let socket = agent.options.target_socket(&group);
    if let Ok((link, hello)) = Link::connect(&socket, &group).await {
        agent.events.record(
            Severity::Info,
            "target_adopted",
            volume,
            &format!("the target of volume {volume} (process {}) goes on", hello.pid),
        );
        return Ok((link, hello, None));
    }
    let (this, name) = (agent.clone(), volume.to_owned());
    blocking(move || this.prepare_activation(&name)).await?;
    let log = agent.options.target_log(&group);
    let mut child = spawn_detached(&agent.options.program, &agent.options.target_spec(&group), &log)?;
    let deadline = Instant::now() + LISTEN_DEADLINE;
    loop {
        if let Ok((link, hello)) = Link::connect(&socket, &group).await {
            return Ok((link, hello, Some(child)));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(last_words(volume, &log, &status.to_string()));
        }
        if Instant::now() > deadline {
            // It was started by this agent and listens to nobody: it cannot be served or supervised.
            let _ = child.start_kill();
            return Err(last_words(volume, &log, "it did not listen in time"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Starts a target in the background. It makes itself a session of its own, so that nothing that ends the agent
/// ends it.
pub fn spawn_detached(program: &Path, spec: &Path, log: &Path) -> Result<Child> {
    let fail = |source: &std::io::Error| Error::io("write", log, source);
    let log_file = std::fs::File::create(log).map_err(|source| fail(&source))?;
    tokio::process::Command::new(program)
        .arg("target")
        .arg("--spec")
        .arg(spec)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file)
        .current_dir("/")
        .kill_on_drop(false)
        .spawn()
        .map_err(|source| Error::io("start", program, &source))
}

/// The error of a target that ended before it was heard: what it wrote last.
fn last_words(volume: &str, log: &Path, status: &str) -> Error {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    if let Some(Ok(body)) = last.map(serde_json::from_str::<crate::error::ErrorBody>) {
        return body.error.into();
    }
    let why = last.unwrap_or(status).to_owned();
    Error::new(Kind::Failed, volume, format!("the target of volume {volume} did not start: {why}"))
        .hint(format!("its log is {}", log.display()))
}

/// Serves a connection until it ends.
async fn serve(
    agent: &Arc<Agent>,
    volume: &str,
    slot: &Slot,
    inbox: &mut mpsc::Receiver<Command>,
    mut link: Link,
    hello: Hello,
) -> End {
    slot.live.send_modify(|live| {
        live.pid = Some(hello.pid);
        live.version = Some(hello.version);
    });
    let mut detaching = Callers::new();
    let mut closed = false;
    let mut error = None;
    let mut served_since: Option<Instant> = None;
    loop {
        tokio::select! {
            line = link.next() => match line {
                Some(FromTarget::Answer(Answer::Detached)) => {
                    closed = true;
                }
                Some(FromTarget::Answer(Answer::Failed(failure))) if !detaching.is_empty() => {
                    slot.live.send_modify(|live| live.phase = Phase::Serving);
                    tell(&mut detaching, &failure);
                }
                Some(FromTarget::Answer(answer)) => link.answered(answer),
                Some(FromTarget::Notice(Notice::Failed(failure))) => error = Some(failure),
                Some(FromTarget::Notice(notice)) => {
                    if matches!(notice, Notice::Serving { .. }) {
                        served_since.get_or_insert_with(Instant::now);
                    }
                    heard(agent, volume, slot, &mut link, notice).await;
                }
                Some(FromTarget::Hello { .. }) => {}
                None if closed => return End::Detached(detaching),
                None => {
                    tell(&mut detaching, &died_closing(volume, error.as_ref()));
                    return End::Died { why: error, served_for: served_since.map(|since| since.elapsed()) };
                }
            },
            Some(command) = inbox.recv() => match command {
                // One detach serves all who asked for it: a repetition joins the one under way.
                Command::Detach(reply) => {
                    detaching.push(reply);
                    slot.live.send_modify(|live| live.phase = Phase::Detaching);
                    // A target that died at this instant is started anew and told again by the caller.
                    if detaching.len() == 1
                        && let Err(failure) = link.send_detach().await
                    {
                        tell(&mut detaching, &failure);
                    }
                }
                Command::Ask(request, reply) => {
                    let _ = link.send(&request, Waiter::Caller(reply)).await;
                }
            },
        }
    }
}

/// Tells everybody who waits for a detach that it failed.
fn tell(detaching: &mut Callers, failure: &Error) {
    for reply in detaching.drain(..) {
        let _ = reply.send(Err(failure.clone()));
    }
}

fn died_closing(volume: &str, why: Option<&Error>) -> Error {
    let why = why.map_or_else(|| "it was killed or crashed".to_owned(), ToString::to_string);
    Error::new(
        Kind::Failed,
        volume,
        format!("the target of volume {volume} ended before it was closed: {why}"),
    )
    .hint("its group is recovered; repeat the detach")
}

/// Acts on a notice.
async fn heard(agent: &Arc<Agent>, volume: &str, slot: &Slot, link: &mut Link, notice: Notice) {
    let (this, name) = (agent.clone(), volume.to_owned());
    match notice {
        Notice::Serving { device_number } => {
            let noted = blocking(move || this.note_serving(&name, device_number)).await;
            if let Err(error) = noted {
                tracing::error!("the catalogue did not take that {volume} is served: {error}");
            }
            slot.live.send_modify(|live| serving(live, device_number));
        }
        Notice::WantRow { row, refused } => {
            let request = match blocking(move || this.want_row(&name, row, refused)).await {
                Ok(row) => Request::Row(row),
                Err(error) => {
                    agent.note_no_row(volume, &error);
                    Request::NoRow { row }
                }
            };
            // If the target is gone, the loop hears of it next.
            let _ = link.send(&request, Waiter::None).await;
        }
        Notice::Stale { drives, version } => {
            if let Err(error) = blocking(move || this.note_stale(&name, &drives, version)).await {
                tracing::error!("the catalogue did not take the stale marks of {volume}: {error}");
            }
        }
        Notice::Current { drive, version } => {
            if let Err(error) = blocking(move || this.note_current(&name, &drive, version)).await {
                tracing::error!("the catalogue did not take that a drive of {volume} is current: {error}");
            }
        }
        Notice::Event { severity, kind, message } => agent.events.record(severity, &kind, volume, &message),
        Notice::Failed(_) => {}
    }
}

fn serving(live: &mut Live, device_number: Option<u32>) {
    live.phase = Phase::Serving;
    live.device_number = device_number;
    live.error = None;
}

/// Waits until a process is gone and with it its locks on the drives.
async fn wait_for_exit(pid: u32, child: Option<Child>) {
    let gone = async {
        match child {
            Some(mut child) => drop(child.wait().await),
            None => {
                while std::fs::exists(format!("/proc/{pid}")).unwrap_or(false) && !is_zombie(pid) {
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    };
    let _ = tokio::time::timeout(EXIT_DEADLINE, gone).await;
}

/// A process that ended but was not waited for by its parent holds nothing any more.
fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}
