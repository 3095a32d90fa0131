//! The exchange of a target for one from another binary, as the supervision of its group sees it.
//!
//! The target that serves is asked to leave. One that does not answer, that is too old to know the request, or
//! that takes too long is killed if its front end allows that: over ublk requests wait for the next target either
//! way. What comes next is the same as after a death (`run`), but nobody counts or pauses.
use super::ahead::Ahead;
use super::link::{Link, Waiter};
use crate::error::{Error, Kind, Result};
use crate::protocol::{Answer, Request};
use std::path::Path;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The longest that a target may take to close its group: guests wait meanwhile.
const LEAVE_DEADLINE: Duration = Duration::from_millis(800);
/// The longest that a target on trial may take from its start to its first request.
pub(super) const TRIAL_DEADLINE: Duration = Duration::from_secs(20);

/// An exchange that was asked for, until a target serves again.
#[derive(Default)]
pub(super) struct Exchange {
    callers: Vec<oneshot::Sender<Result<()>>>,
    failure: Option<Error>,
    /// What was started to serve next.
    ahead: Option<Box<Ahead>>,
}

impl Exchange {
    /// Somebody waits for it.
    pub(super) fn join(&mut self, ahead: Option<Box<Ahead>>, caller: oneshot::Sender<Result<()>>) {
        if self.callers.is_empty() {
            self.failure = None;
        }
        self.callers.push(caller);
        if ahead.is_some() {
            self.ahead = ahead;
        }
    }

    /// The target of this binary that waits for its turn, if one does. Any other is not needed any more.
    pub(super) fn take_ahead(&mut self, program: &Path) -> Option<Box<Ahead>> {
        self.ahead.take().and_then(|mut ahead| ahead.is_of(program).then_some(ahead))
    }

    /// What was to serve next does not.
    pub(super) fn failed(&mut self, why: Error) {
        self.failure = Some(why);
    }

    /// A target serves, and nothing is announced any more.
    pub(super) fn settle(&mut self) {
        self.ahead = None;
        let outcome = self.failure.take().map_or(Ok(()), Err);
        for caller in self.callers.drain(..) {
            let _ = caller.send(outcome.clone());
        }
    }
}

/// A target that was asked to leave.
///
/// Without leave to kill its answer is waited for, however long that takes: a target that was given up and answers
/// later would end although its volume is said to be as before.
pub(super) struct Leaving {
    answer: Option<oneshot::Receiver<Result<Answer>>>,
    killable: bool,
    deadline: Instant,
}

/// What is to be done about a target that was asked to leave.
pub(super) enum Step {
    /// Nothing: it is on its way.
    Wait,
    /// It does not go by itself.
    Kill,
    /// It stays, and says why.
    Stays(Error),
}

impl Leaving {
    /// Asks. `killable`: its clients wait for the next target, whatever becomes of this one.
    pub(super) fn ask(link: &mut Link, killable: bool) -> Self {
        let (reply, answer) = oneshot::channel();
        link.send(&Request::HandOver, Waiter::Caller(reply));
        let patience = if killable { LEAVE_DEADLINE } else { super::run::EXIT_DEADLINE };
        Self { answer: Some(answer), killable, deadline: Instant::now() + patience }
    }

    /// Waits for the next step. May be dropped while waiting.
    pub(super) async fn step(&mut self) -> Step {
        let Some(answer) = &mut self.answer else {
            tokio::time::sleep_until(self.deadline).await;
            return if self.killable { self.give_up() } else { self.wait_on() };
        };
        let Ok(answer) = tokio::time::timeout_at(self.deadline, answer).await else {
            return if self.killable { self.give_up() } else { self.wait_on() };
        };
        self.answer = None;
        match answer {
            Ok(Ok(Answer::Failed(error))) | Ok(Err(error)) => match error.kind {
                // An older target: it knows no such request.
                Kind::Invalid if self.killable => self.give_up(),
                _ => Step::Stays(error),
            },
            Ok(Ok(_)) => {
                // Nobody needs it any more, and it ends soon or is ended.
                self.killable = true;
                self.deadline = self.deadline.min(Instant::now() + LEAVE_DEADLINE);
                Step::Wait
            }
            // The connection has ended.
            Err(_) => Step::Wait,
        }
    }

    /// It is to be killed; from then on only its end is waited for.
    fn give_up(&mut self) -> Step {
        self.answer = None;
        self.deadline = Instant::now() + super::run::EXIT_DEADLINE;
        Step::Kill
    }

    /// It does not answer, and must not be killed.
    fn wait_on(&mut self) -> Step {
        self.deadline = Instant::now() + super::run::EXIT_DEADLINE;
        Step::Wait
    }
}

/// Ends a process that has a connection to us, and so is the one we mean.
pub(super) fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL) {
        tracing::warn!("process {pid} cannot be killed: {error}");
    }
}

/// Waits until the time of a target on trial is up; for ever without one.
pub(super) async fn trial_over(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Why a target on trial was given up.
pub(super) fn not_in_time(volume: &str) -> Error {
    let seconds = TRIAL_DEADLINE.as_secs();
    Error::new(
        Kind::Failed,
        volume,
        format!("the new target of volume {volume} did not serve within {seconds} s"),
    )
}

/// What the caller hears when the binary before serves again.
pub(super) fn went_back(volume: &str, why: &Error) -> Error {
    let message = format!(
        "the new target of volume {volume} did not come up: {}; the one before serves again",
        why.message
    );
    Error::new(Kind::Failed, volume, message).hint("see plinth events and the target's log")
}
