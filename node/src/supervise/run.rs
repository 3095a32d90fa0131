//! The life of one supervised group: take over or start a target, serve its connection, start the next.
use super::exchange::{self, Exchange, Leaving, Step, TRIAL_DEADLINE};
use super::link::{Hello, Link, Waiter};
use super::pauses::Pauses;
use super::{Command, Live, MAX_COMMANDS, Phase, Slot};
use crate::agent::{Agent, Chosen, blocking};
use crate::catalogue::Severity;
use crate::error::{Error, Kind, Result};
use crate::keys::GroupSecret;
use crate::protocol::{Answer, FromTarget, Notice, Request};
use crate::target::marks::Mark;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, oneshot};

/// The longest that a new target may take to listen.
const LISTEN_DEADLINE: Duration = Duration::from_secs(20);
/// How often is looked whether a target listens, or whether it is gone.
const LOOK: Duration = Duration::from_millis(10);
/// The longest that the kernel may take to end a target's process: its I/O in flight has to end first.
pub(super) const EXIT_DEADLINE: Duration = Duration::from_secs(120);

/// How a connection ended.
enum End {
    /// The target is gone without being told to; how long it had served, if it had, and who waits for a detach
    /// all the same.
    Died { why: Option<Error>, served_for: Option<Duration>, detaching: Callers },
    /// It was told to detach and did.
    Detached(Callers),
    /// It made room for another one.
    Left,
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
    let (mut pauses, mut exchange) = (Pauses::default(), Exchange::default());
    let outcome = loop {
        let (end, trial) = turn(&agent, &volume, &slot, &mut inbox, &mut exchange).await;
        match end {
            End::Detached(reply) => break Ok(reply),
            End::Left => {}
            End::Died { why, served_for: None, detaching } if trial => {
                let mut detaching = detaching;
                tell_all(&mut detaching, &died_closing(&volume, why.as_ref()));
                let why =
                    why.unwrap_or_else(|| Error::new(Kind::Failed, &volume, "it was killed or crashed"));
                give_up(&agent, &volume, &why).await;
                exchange.failed(exchange::went_back(&volume, &why));
            }
            End::Died { why, served_for, mut detaching } => {
                let served = agent.has_served(&volume);
                report_death(&agent, &volume, &slot, served, why.clone());
                if !served {
                    tell_all(&mut detaching, &died_closing(&volume, why.as_ref()));
                    break Err(why.unwrap_or_else(|| never_served(&volume)));
                }
                let pause = tokio::time::sleep(pauses.next(served_for));
                if served_for.is_some() {
                    pause.await;
                } else if let Some(callers) = rest(&agent, &volume, &slot, &mut inbox, detaching, pause).await
                {
                    break Ok(callers);
                }
            }
        }
    };
    finish(&agent, &volume, &slot, outcome).await;
}

/// Waits for the next attempt behind a target that could not serve. A detach that is asked for needs no other one: no
/// process has the group, and the device goes if nobody uses it. Returns who waits for that.
async fn rest(
    agent: &Arc<Agent>,
    volume: &str,
    slot: &Slot,
    inbox: &mut mpsc::Receiver<Command>,
    mut detaching: Callers,
    pause: tokio::time::Sleep,
) -> Option<Callers> {
    tokio::pin!(pause);
    loop {
        let (this, name) = (agent.clone(), volume.to_owned());
        match blocking(move || this.detach_without_target(&name)).await {
            Ok(false) => {}
            Ok(true) => {
                take_detaches(slot, inbox, &mut detaching);
                return Some(detaching);
            }
            Err(error) => {
                take_detaches(slot, inbox, &mut detaching);
                tell_all(&mut detaching, &error);
            }
        }
        tokio::select! {
            () = &mut pause => return None,
            () = slot.hurry.notified() => {}
        }
    }
}

/// Takes who waits for a detach out of the inbox; whatever else is there stays, in order.
fn take_detaches(slot: &Slot, inbox: &mut mpsc::Receiver<Command>, detaching: &mut Callers) {
    for _ in 0..inbox.len() {
        match inbox.try_recv() {
            Ok(Command::Detach(reply)) => detaching.push(reply),
            // Should somebody else take its place in the queue, its caller hears that nobody answers.
            Ok(other) => drop(slot.commands.try_send(other)),
            Err(_) => return,
        }
    }
}

/// One target, from its start to its end; and whether it was one on trial.
async fn turn(
    agent: &Arc<Agent>,
    volume: &str,
    slot: &Slot,
    inbox: &mut mpsc::Receiver<Command>,
    exchange: &mut Exchange,
) -> (End, bool) {
    let died = |error| End::Died { why: Some(error), served_for: None, detaching: Callers::new() };
    let (this, name) = (agent.clone(), volume.to_owned());
    let chosen = match blocking(move || this.program_of(&name)).await {
        Ok(chosen) => chosen,
        Err(error) => return (died(error), false),
    };
    match begin(agent, volume, &chosen, exchange).await {
        Ok((link, hello, child)) => {
            let pid = hello.pid;
            let trial = chosen.trial && child.is_some();
            let mut served = Served { agent, volume, slot, exchange, trial };
            let end = served.serve(inbox, link, hello).await;
            wait_for_exit(pid, child).await;
            (end, trial)
        }
        Err(error) => (died(error), chosen.trial),
    }
}

/// What was announced to serve next does not.
async fn give_up(agent: &Arc<Agent>, volume: &str, why: &Error) {
    let (this, name, reason) = (agent.clone(), volume.to_owned(), why.clone());
    if let Err(error) = blocking(move || this.give_up_upgrade(&name, &reason)).await {
        tracing::error!("the catalogue did not take that volume {volume} stays with its binary: {error}");
    }
}

/// Undoes the attachment in the catalogue and ends the supervision.
async fn finish(agent: &Arc<Agent>, volume: &str, slot: &Slot, outcome: Result<Callers>) {
    let (this, name) = (agent.clone(), volume.to_owned());
    let cleared = tokio::task::spawn_blocking(move || this.clear_attachment(&name)).await;
    let cleared = cleared.unwrap_or_else(|_| Err(Error::general(Kind::Failed, "the agent is ending")));
    // Nobody finds this supervision any more: a caller may attach the volume anew at once.
    slot.live.send_modify(|live| {
        live.phase = Phase::Ended;
        live.pid = None;
        if let Err(error) = &outcome {
            live.error = Some(error.clone());
        }
    });
    for reply in outcome.into_iter().flatten() {
        let _ = reply.send(cleared.clone());
    }
}

/// Of a target that is gone without a word, the first of its attachment.
fn never_served(volume: &str) -> Error {
    let message = format!("the target of volume {volume} was killed or crashed before it served");
    Error::new(Kind::Failed, volume, message)
}

fn report_death(agent: &Agent, volume: &str, slot: &Slot, served: bool, error: Option<Error>) {
    let why = error.as_ref().map_or_else(|| "it was killed or crashed".to_owned(), ToString::to_string);
    slot.live.send_modify(|live| {
        live.phase = if served { Phase::Recovering } else { live.phase };
        live.restarts += u64::from(served);
        live.pid = None;
        live.error = error;
    });
    let tended = agent.is_tended(volume);
    let (severity, kind, message) = match (served, tended) {
        (true, _) => {
            let message = format!("the target of volume {volume} ended ({why}); a new one is started");
            (Severity::Error, "target_restarted", message)
        }
        (false, false) => {
            (Severity::Error, "attach_failed", format!("volume {volume} could not be attached: {why}"))
        }
        (false, true) => {
            (Severity::Warning, "tend_failed", format!("volume {volume} could not be tended: {why}"))
        }
    };
    agent.events.record(severity, kind, volume, &message);
}

/// Takes over the target that is there, or starts one.
async fn begin(
    agent: &Arc<Agent>,
    volume: &str,
    chosen: &Chosen,
    exchange: &mut Exchange,
) -> Result<(Link, Hello, Option<Child>)> {
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
    let secret = blocking(move || this.prepare_activation(&name)).await?;
    let log = agent.options.target_log(&group);
    let mut child = match exchange.take_ahead(&chosen.path) {
        Some(ahead) => ahead.go(secret)?,
        None => spawn_detached(&chosen.path, &agent.options.target_spec(&group), &log, secret).await?,
    };
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

/// A target's log may be as long as this before it is put aside.
const LOG_BYTES: u64 = 1 << 20;
/// How the part of a log begins that is of one target.
const STARTED: &str = "--- started ";

/// The log of a target that begins, behind what those before it wrote: the last words of one that died are what is
/// wanted most, and its successor is there a moment later.
pub(super) fn open_log(log: &Path) -> std::io::Result<File> {
    if std::fs::metadata(log).is_ok_and(|about| about.len() > LOG_BYTES) {
        std::fs::rename(log, log.with_extension("log.1"))?;
    }
    let mut file = File::options().create(true).append(true).open(log)?;
    writeln!(file, "{STARTED}{}", crate::text::now())?;
    Ok(file)
}

/// Starts a target in the background. It makes itself a session of its own, so that nothing that ends the agent
/// ends it. The secret of an encrypted group goes through a pipe that nobody else has, in one piece that the pipe has room
/// for: nothing waits for the target here.
///
/// Crash story: an agent that is killed in between leaves the pipe empty and closed, and the target says so and ends; the
/// next agent starts another one.
///
/// # Errors
/// The log cannot be written, or the program not be started.
pub async fn spawn_detached(
    program: &Path,
    spec: &Path,
    log: &Path,
    secret: Option<GroupSecret>,
) -> Result<Child> {
    let fail = |source: &std::io::Error| Error::io("write", log, source);
    let log_file = open_log(log).map_err(|source| fail(&source))?;
    let mut command = tokio::process::Command::new(program);
    command
        .arg("target")
        .arg("--spec")
        .arg(spec)
        .stdin(if secret.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(log_file)
        .current_dir("/")
        .kill_on_drop(false);
    let started = crate::program::spawn(&mut command).await;
    let mut child = started.map_err(|source| Error::io("start", program, &source))?;
    if let (Some(secret), Some(input)) = (secret, child.stdin.take())
        && let Err(error) = tell(input, &[], Some(secret))
    {
        // A target that ended already says why; one that goes on hears that its secret is cut short.
        tracing::warn!("a target was not told its secret: {error}");
    }
    Ok(child)
}

/// Writes a word and the secret of an encrypted group to a target's pipe, and closes it.
pub(super) fn tell(input: ChildStdin, word: &[u8], secret: Option<GroupSecret>) -> std::io::Result<()> {
    let mut pipe = File::from(input.into_owned_fd()?);
    pipe.write_all(word)?;
    secret.map_or(Ok(()), |secret| pipe.write_all(secret.secret().expose()))
}

/// The error of a target that ended before it was heard: what it wrote last.
fn last_words(volume: &str, log: &Path, status: &str) -> Error {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut own = text.lines().rev().take_while(|line| !line.starts_with(STARTED));
    let last = own.find(|line| !line.trim().is_empty());
    if let Some(Ok(body)) = last.map(serde_json::from_str::<crate::error::ErrorBody>) {
        return body.error.into();
    }
    let why = last.unwrap_or(status).to_owned();
    Error::new(Kind::Failed, volume, format!("the target of volume {volume} did not start: {why}"))
        .hint(format!("its log is {}", log.display()))
}

/// A target that is connected.
struct Served<'a> {
    agent: &'a Arc<Agent>,
    volume: &'a str,
    slot: &'a Slot,
    exchange: &'a mut Exchange,
    /// It is one on trial: it has to serve in time.
    trial: bool,
}

impl Served<'_> {
    /// Serves the connection until it ends.
    async fn serve(&mut self, inbox: &mut mpsc::Receiver<Command>, mut link: Link, hello: Hello) -> End {
        let (agent, volume, slot, pid) = (self.agent, self.volume, self.slot, hello.pid);
        slot.live.send_modify(|live| {
            live.pid = Some(pid);
            live.version = Some(hello.version);
        });
        let mut detaching = Callers::new();
        // What is asked while it is not known whether the target detaches.
        let mut kept = Vec::new();
        let mut leaving: Option<Leaving> = None;
        let mut closed = false;
        let mut error = None;
        let mut served_since: Option<Instant> = None;
        let mut trial_ends = self.trial.then(|| tokio::time::Instant::now() + TRIAL_DEADLINE);
        loop {
            tokio::select! {
                line = link.next() => match line {
                    Some(FromTarget::Answer(Answer::Detached)) => {
                        closed = true;
                    }
                    Some(FromTarget::Answer(answer)) => if let Some(refusal) = link.answered(answer) {
                        slot.live.send_modify(|live| live.phase = Phase::Serving);
                        tell_all(&mut detaching, &refusal);
                        for (request, reply) in kept.drain(..) {
                            link.send(&request, Waiter::Caller(reply));
                        }
                    },
                    Some(FromTarget::Notice(Notice::Failed(failure))) => error = Some(failure),
                    Some(FromTarget::Notice(notice)) => {
                        let serves = matches!(notice, Notice::Serving { .. });
                        heard(agent, volume, slot, &mut link, notice).await;
                        if serves {
                            served_since.get_or_insert_with(Instant::now);
                            trial_ends = None;
                            self.serves(pid).await;
                        }
                    }
                    Some(FromTarget::Hello { .. }) => {}
                    None if closed => return End::Detached(detaching),
                    None if leaving.is_some() => {
                        tell_all(&mut detaching, &died_closing(volume, None));
                        slot.live.send_modify(|live| (live.phase, live.pid) = (Phase::Recovering, None));
                        return End::Left;
                    }
                    None => {
                        let served_for = served_since.map(|since| since.elapsed());
                        if served_for.is_some() {
                            tell_all(&mut detaching, &died_closing(volume, error.as_ref()));
                        }
                        return End::Died { why: error, served_for, detaching };
                    }
                },
                Some(command) = inbox.recv() => match command {
                    // One detach serves all who asked for it: a repetition joins the one under way.
                    Command::Detach(reply) => {
                        detaching.push(reply);
                        slot.live.send_modify(|live| live.phase = Phase::Detaching);
                        if detaching.len() == 1 {
                            link.send_detach();
                        }
                    }
                    Command::Exchange(ahead, reply) => {
                        self.exchange.join(ahead, reply);
                        if detaching.is_empty()
                            && leaving.is_none()
                            && let Some(killable) = self.is_to_leave().await
                        {
                            leaving = Some(Leaving::ask(&mut link, killable));
                        }
                    }
                    // Its failure could not be told from a refusal of the detach. If the target goes, so do they.
                    Command::Ask(request, reply) if link.is_detaching() => {
                        if kept.len() < MAX_COMMANDS {
                            kept.push((request, reply));
                        }
                    }
                    Command::Ask(request, reply) => {
                        link.send(&request, Waiter::Caller(reply));
                    }
                },
                step = next_step(&mut leaving) => self.step(step, pid, &mut leaving).await,
                () = exchange::trial_over(trial_ends) => {
                    trial_ends = None;
                    error = Some(exchange::not_in_time(volume));
                    exchange::kill(pid);
                }
            }
        }
    }

    /// This target serves: if it is the one that was announced, that is noted and told.
    async fn serves(&mut self, pid: u32) {
        let (this, name) = (self.agent.clone(), self.volume.to_owned());
        match blocking(move || this.note_program(&name, pid)).await {
            Ok(true) => self.exchange.settle(),
            Ok(false) => {}
            Err(error) => tracing::error!("the catalogue did not take what serves {}: {error}", self.volume),
        }
    }

    /// Whether another one is announced, and then whether this one may be killed for it. If none is, whoever waits
    /// for it has waited enough.
    async fn is_to_leave(&mut self) -> Option<bool> {
        let (this, name) = (self.agent.clone(), self.volume.to_owned());
        let announced = blocking(move || Ok(this.upgrade_announced(&name))).await.unwrap_or(None);
        if announced.is_none() {
            self.exchange.settle();
        }
        announced
    }

    /// A target that was asked to leave moves on, or does not.
    async fn step(&mut self, step: Step, pid: u32, leaving: &mut Option<Leaving>) {
        let why = match step {
            Step::Wait => return,
            Step::Kill => return exchange::kill(pid),
            // An older target: it knows no such request.
            Step::Stays(why) if why.kind == Kind::Invalid => {
                crate::agent::over_nbd(self.volume, "its target is too old to be asked to leave")
            }
            Step::Stays(why) => why,
        };
        // It goes on serving.
        *leaving = None;
        give_up(self.agent, self.volume, &why).await;
        self.exchange.failed(why);
        self.exchange.settle();
    }
}

/// The next step of a target that was asked to leave; for ever without one.
async fn next_step(leaving: &mut Option<Leaving>) -> Step {
    match leaving {
        Some(leaving) => leaving.step().await,
        None => std::future::pending().await,
    }
}

/// Tells everybody who waits for a detach that it failed.
fn tell_all(detaching: &mut Callers, failure: &Error) {
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
        Notice::Serving { device_number, gen_number } => {
            let noted = blocking(move || this.note_serving(&name, device_number, gen_number)).await;
            if let Err(error) = noted {
                tracing::error!("the catalogue did not take that {volume} is served: {error}");
            }
            slot.live.send_modify(|live| serving(live, device_number));
            agent.look_at_target();
            // It may have grown while its target was on its way, which has the size that it was told first.
            let (this, name) = (agent.clone(), volume.to_owned());
            let size = blocking(move || Ok(this.volume(&name)?.record.size_bytes)).await;
            if let (Ok(size_bytes), false) = (size, link.is_detaching()) {
                link.send(&Request::Resize { size_bytes }, Waiter::None);
            }
        }
        Notice::WantRow { row, refused } => {
            let request = match blocking(move || this.want_row(&name, row, refused)).await {
                Ok(row) => Request::Row(row),
                Err(error) => {
                    agent.note_no_row(volume, &error);
                    Request::NoRow { row }
                }
            };
            link.send(&request, Waiter::None);
        }
        Notice::Stale { drives, version, since, failed } => {
            let mark = Mark { drives, version, since, failed, current: false };
            if let Err(error) = blocking(move || this.note_mark(&name, &mark, None)).await {
                tracing::error!("the catalogue did not take the stale marks of {volume}: {error}");
            }
        }
        Notice::Current { drive, version, copied_blocks } => {
            let mark = Mark::current(drive, version);
            if let Err(error) = blocking(move || this.note_mark(&name, &mark, copied_blocks)).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_what_a_target_said_before_its_successor() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("g.log");
        std::fs::write(&log, format!("{STARTED}then\nthe first one's last words\n")).expect("writes");
        open_log(&log).expect("opens");
        let text = std::fs::read_to_string(&log).expect("reads");
        assert!(text.contains("the first one's last words"), "{text}");
        assert!(last_words("v", &log, "exit 9").message.ends_with("exit 9"), "they are not its successor's");
        std::fs::write(&log, vec![b'x'; LOG_BYTES as usize + 1]).expect("writes");
        open_log(&log).expect("opens");
        assert!(std::fs::metadata(&log).expect("there").len() < 100);
        assert!(std::fs::metadata(folder.path().join("g.log.1")).expect("there").len() > LOG_BYTES);
    }
}
