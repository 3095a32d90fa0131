//! The target's control socket: requests of the agent, notices to it, and the answers that the engine awaits.
//!
//! Works without an agent: stale marks go to their file and are answered from it, and one row is kept in hand,
//! so that a group degrades and grows while the agent is away. What an agent missed it hears when it connects.
use super::marks::{self, Mark};
use crate::error::{Error, Kind, Result};
use crate::moves::{Holds, MoveOrder, TargetMove};
use crate::protocol::{
    Answer, FromTarget, MAX_LINE, Notice, PROTOCOL_VERSION, Request, ReturnedDrive, TargetRekey, TargetStatus,
};
use crate::scrub::{Order, Seen, TargetScrub};
use crate::target_spec::{Row, TargetSpec};
use rows::Rows;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

mod moves;
mod returns;
mod rows;

/// The longest that the engine waits for a row when no agent answers; then it hears that there is none, and
/// asks again later.
const ROW_PATIENCE: Duration = Duration::from_secs(30);
/// Pause after which a stale mark that could not be stored is tried again.
const MARK_RETRY: Duration = Duration::from_secs(1);
/// The longest that a write to an agent may block before the agent counts as gone.
const SEND_PATIENCE: Duration = Duration::from_secs(5);
/// Events that are kept for the first agent at most: one for each drive, and some for the process and the volume.
const MAX_UNHEARD: usize = 2 * base::limits::MAX_DRIVES;

/// What the control socket needs of the loop. Called from the control threads; none may wait for an agent.
pub trait Serving: Send + Sync {
    /// How it stands.
    fn status(&self) -> TargetStatus;
    /// Opens the volume to its users: the engine serves. May take long; called once, on a thread of its own.
    ///
    /// # Errors
    /// The device does not start; the target then abandons it, closes and ends.
    fn open(&self) -> Result<()>;
    /// Begins to close: no new requests, the group is sealed, the device goes. The loop ends afterwards.
    ///
    /// # Errors
    /// `Refused` while something holds the device.
    fn detach(&self) -> Result<()>;
    /// Begins to close for another target of this group: as `detach`, but the device stays.
    ///
    /// # Errors
    /// `NotSupported` while somebody would notice; `Busy` while a drive that was given up does not answer the kernel.
    fn hand_over(&self) -> Result<()>;
    /// Ends the loop when the volume could not be opened. A device that was taken over stays: it has users.
    fn abandon(&self);
    /// The volume has this size from now on.
    ///
    /// # Errors
    /// The engine or the device refuses.
    fn resize(&self, size_bytes: u64) -> Result<()>;
    /// Whether the loop has all drives of a row.
    fn ready(&self, row: &Row) -> bool;
    /// Opens and locks the drives of a row that the loop does not have yet. May take long; called on a thread of
    /// its own, one row at a time.
    ///
    /// # Errors
    /// A drive of the row cannot be used.
    fn prepare(&self, row: &Row) -> Result<()>;
    /// Hands the engine a row that is ready. Drives that its table does not list join the group with it.
    ///
    /// # Errors
    /// A drive of the row is not open; the engine has not heard of it then.
    fn row(&self, row: &Row) -> Result<()>;
    /// There is no space for a row.
    fn no_row(&self);
    /// The pool grew.
    fn space_added(&self);
    /// Opens a drive of the group that is not current and has the engine bring it up to date; returns once the
    /// engine has begun. May take long; called on a thread of its own, one drive at a time.
    ///
    /// # Errors
    /// The drive cannot be used, or another one is being brought up to date.
    fn hand_back(&self, drive: &str, path: &std::path::Path) -> Result<()>;
    /// Has the engine go on without a drive.
    ///
    /// # Errors
    /// `Refused`: it has the last current copy of something; `Busy`: not at this moment.
    fn take_out(&self, drive: &str) -> Result<()>;
    /// Bounds the rate at which drives are brought up to date, in bytes a second; 0 is no bound.
    fn resync_rate(&self, bytes: u64);
    /// Sees to it that this scrub and no other is under way; how far it is, and what it found since `seen`.
    ///
    /// # Errors
    /// `Refused`: the group takes no writes; `Busy`: it does not answer.
    fn scrub(&self, order: Option<Order>, seen: Option<Seen>) -> Result<TargetScrub>;
    /// Bounds the rate at which a scrub reads copies, in bytes a second; 0 is no bound.
    fn scrub_rate(&self, bytes: u64);
    /// How far the walk to this data key is; begun if that is asked for, none is under way, and the activation writes
    /// under that key.
    ///
    /// # Errors
    /// `Refused`: the group takes no writes; `Busy`: it does not answer.
    fn rekey(&self, to: u16, start: bool) -> Result<TargetRekey>;
    /// What the group has on a drive.
    ///
    /// # Errors
    /// `Busy`: it does not answer, or takes no writes.
    fn holds(&self, drive: &str) -> Result<Holds>;
    /// Opens the drives that take over in a move and hands it to the engine; returns once the engine has taken it, or
    /// finds that there is nothing to do (false). May take very long; called on a thread of its own, one at a time.
    ///
    /// # Errors
    /// A drive cannot be used; `Busy`: the group takes no writes. The engine has not heard of it then.
    fn begin_move(&self, order: &MoveOrder) -> Result<bool>;
    /// How the move that the engine has taken stands.
    ///
    /// # Errors
    /// `Busy`: the group does not answer.
    fn moving(&self, id: u64) -> Result<TargetMove>;
    /// Closes a drive whose copy is not current.
    ///
    /// # Errors
    /// The group counts on it, or something is in flight on it.
    fn release(&self, drive: &str) -> Result<()>;
    /// The stale marks of this superblock version are durable.
    fn stale_stored(&self, version: u64);
    /// That a drive is current by this superblock version is durable.
    fn current_stored(&self, version: u64);
    /// Where the control threads hand notes of their own.
    fn notes(&self) -> Notes;
}

/// How a target ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The group is closed, the device is gone.
    Closed,
    /// The group does not open or cannot go on.
    Failed(Error),
}

/// What the loop says. Handing a note over never blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// The engine serves from now on.
    Serving,
    /// The volume is open to its users from now on.
    Opened,
    /// The volume could not be opened to its users.
    NotOpened(Error),
    /// The engine wants this row.
    WantRow(u32),
    /// The engine waits until it is durable that these drives are stale.
    StoreStale {
        /// The drives, by id.
        drives: Vec<String>,
        /// Those among them that went stale because of what they did.
        failed: Vec<String>,
        /// Since when: Seq and checkpoint, by drive.
        since: Vec<(u64, u32)>,
        /// Version of the superblock that says so.
        version: u64,
    },
    /// The engine waits until it is durable that this drive is current.
    StoreCurrent {
        /// The drive, by id.
        drive: String,
        /// Version of the superblock that says so.
        version: u64,
        /// Blocks that were copied to it.
        copied_blocks: u64,
    },
    /// For the agent to record.
    Event {
        /// How much it matters.
        severity: crate::catalogue::Severity,
        /// What sort, in snake case.
        kind: String,
        /// One sentence.
        message: String,
    },
    /// The loop has ended.
    Ended(Ending),
}

/// Where the loop hands its notes.
pub type Notes = Sender<Note>;

/// What the threads share.
struct State {
    /// The agent that is heard.
    agent: Option<UnixStream>,
    /// What happened before the first agent was greeted, for that one; `None` from then on.
    unheard: Option<Vec<Notice>>,
    serving: bool,
    rows: Rows,
    /// The drive that was last handed back.
    returned: Option<ReturnedDrive>,
    /// The move that was asked for last.
    moving: Option<moves::Asked>,
    /// An agent waits for the end.
    detaching: bool,
    /// Why the target ends, if not because it was told to.
    failure: Option<Error>,
}

struct Shared {
    spec: TargetSpec,
    state: Mutex<State>,
}

/// The control socket, bound but not answering yet.
pub struct Control {
    listener: UnixListener,
    shared: Arc<Shared>,
    inbox: Receiver<Note>,
    notes: Notes,
    _lock: File,
}

impl Control {
    /// Takes the group's lock and binds its control socket.
    ///
    /// # Errors
    /// `Busy` when another target of this group runs on this state folder.
    pub fn listen(spec: TargetSpec) -> Result<Self> {
        let socket = spec.control_socket.clone();
        let lock = lock_group(&spec)?;
        let listener =
            crate::sockets::listen(&socket).map_err(|source| Error::io("listen on", &socket, &source))?;
        let (notes, inbox) = channel();
        let kept = spec.rows.first().cloned();
        let state = State {
            agent: None,
            unheard: Some(Vec::new()),
            serving: false,
            rows: Rows::with(kept),
            returned: None,
            moving: None,
            detaching: false,
            failure: None,
        };
        let shared = Arc::new(Shared { spec, state: Mutex::new(state) });
        Ok(Self { listener, shared, inbox, notes, _lock: lock })
    }

    /// Where the loop hands its notes.
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// Answers agents and the engine until the loop has ended; returns how.
    pub fn run(self, serving: Arc<dyn Serving>) -> Ending {
        let Self { listener, shared, inbox, notes, _lock: lock } = self;
        drop(notes);
        let (for_agents, theirs) = (shared.clone(), serving.clone());
        // Ends with the process: an agent may connect until then.
        std::thread::spawn(move || accept(&listener, &for_agents, &theirs));
        let ending = shared.hear(&inbox, &serving);
        let ending = shared.lock().failure.take().map_or(ending, Ending::Failed);
        shared.say_goodbye(&ending);
        drop(lock);
        ending
    }
}

/// One target per group: held by the process until it ends.
fn lock_group(spec: &TargetSpec) -> Result<File> {
    let path = spec.control_socket.with_extension("lock");
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(|source| Error::io("open", &path, &source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => {
            let message = format!("another target serves group {}", spec.group_name);
            Err(Error::new(Kind::Busy, spec.group_name.clone(), message))
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>, serving: &Arc<dyn Serving>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // An agent that does not read must not hold up the thread that answers the engine.
        let _ = stream.set_write_timeout(Some(SEND_PATIENCE));
        let Ok(reader) = stream.try_clone() else { continue };
        shared.greet(stream, &**serving);
        let (shared, serving) = (shared.clone(), serving.clone());
        std::thread::spawn(move || shared.listen(reader, &serving));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serving_notice(&self, status: &TargetStatus) -> Notice {
        // Who only reads begins no activation.
        let gen_number = (!self.spec.read_only).then_some(status.gen_number);
        Notice::Serving { device_number: status.device_number, gen_number }
    }

    /// A new agent: the one before is not heard any more.
    fn greet(&self, stream: UnixStream, serving: &dyn Serving) {
        let status = serving.status();
        let mut state = self.lock();
        if let Some(before) = state.agent.replace(stream) {
            let _ = before.shutdown(std::net::Shutdown::Both);
        }
        state.send(&FromTarget::Hello {
            protocol: PROTOCOL_VERSION,
            pid: std::process::id(),
            version: crate::agent::VERSION.to_owned(),
            group: self.spec.group.clone(),
            gen_number: self.spec.gen_number,
            max_line: MAX_LINE,
        });
        if state.serving {
            state.notify(self.serving_notice(&status));
        }
        for mark in marks::read(&self.spec.stale_marks).unwrap_or_default() {
            state.notify_mark(mark, None);
        }
        for event in state.unheard.take().unwrap_or_default() {
            state.notify(event);
        }
        state.ask_anew();
    }

    /// Reads the requests of one agent until it goes, or says what cannot be read. Then it hears nothing any more either:
    /// it would wait for answers.
    fn listen(self: &Arc<Self>, stream: UnixStream, serving: &Arc<dyn Serving>) {
        self.read_requests(&stream, serving);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }

    fn read_requests(self: &Arc<Self>, stream: &UnixStream, serving: &Arc<dyn Serving>) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader).take(MAX_LINE as u64).read_until(b'\n', &mut line);
            if read.is_err() || line.last() != Some(&b'\n') {
                if line.len() == MAX_LINE {
                    eprintln!(
                        "an agent is not heard any more: it said more than {MAX_LINE} bytes in one line"
                    );
                }
                return;
            }
            let answer = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => self.act(request, serving),
                Err(error) => {
                    Some(Answer::Failed(Error::general(Kind::Invalid, format!("not a request: {error}"))))
                }
            };
            if let Some(answer) = answer {
                self.lock().send(&FromTarget::Answer(answer));
            }
        }
    }

    /// Carries out a request. `None`: it is answered later.
    fn act(self: &Arc<Self>, request: Request, serving: &Arc<dyn Serving>) -> Option<Answer> {
        match request {
            Request::Status => {
                let mut status = serving.status();
                status.returned = self.lock().returned.clone();
                return Some(Answer::Status(Box::new(status)));
            }
            Request::Detach => {
                self.lock().detaching = true;
                return match serving.detach() {
                    Ok(()) => None,
                    Err(error) => {
                        self.lock().detaching = false;
                        Some(Answer::Failed(error))
                    }
                };
            }
            Request::HandOver => {
                if let Err(error) = serving.hand_over() {
                    return Some(Answer::Failed(error));
                }
            }
            Request::Resize { size_bytes } => {
                if let Err(error) = serving.resize(size_bytes) {
                    return Some(Answer::Failed(error));
                }
            }
            Request::Row(row) => self.got_row(row, serving),
            Request::NoRow { row } => self.no_row(row, &**serving),
            Request::SpaceAdded => {
                serving.space_added();
                self.ask_again();
            }
            Request::ReturnDrive { drive, path } => {
                if let Err(error) = self.return_drive(drive, path, serving) {
                    return Some(Answer::Failed(error));
                }
            }
            Request::TakeOut { drive } => {
                if let Err(error) = serving.take_out(&drive) {
                    return Some(Answer::Failed(error));
                }
            }
            Request::ResyncRate { bytes } => serving.resync_rate(bytes),
            Request::Scrub { order, seen } => {
                let look = if self.lock().serving { serving.scrub(order, seen) } else { Err(self.not_yet()) };
                return Some(match look {
                    Ok(scrub) => Answer::Scrub(Box::new(scrub)),
                    Err(error) => Answer::Failed(error),
                });
            }
            Request::ScrubRate { bytes } => serving.scrub_rate(bytes),
            Request::Rekey { to, start } => {
                let look = if self.lock().serving { serving.rekey(to, start) } else { Err(self.not_yet()) };
                return Some(look.map_or_else(Answer::Failed, Answer::Rekey));
            }
            Request::Holds { drive, avoid } => {
                return Some(match self.holds(&drive, avoid, serving) {
                    Ok(holds) => Answer::Holds(holds),
                    Err(error) => Answer::Failed(error),
                });
            }
            Request::Move { order, avoid } => {
                return Some(match self.look_at_move(order, avoid, serving) {
                    Ok(look) => Answer::Move(look),
                    Err(error) => Answer::Failed(error),
                });
            }
            Request::ReleaseDrive { drive } => {
                if let Err(error) = self.release_drive(&drive, &**serving) {
                    return Some(Answer::Failed(error));
                }
            }
        }
        Some(Answer::Done)
    }

    fn not_yet(&self) -> Error {
        let name = self.spec.group_name.clone();
        Error::new(Kind::Busy, name.clone(), format!("group {name} is not served yet"))
    }

    /// Hears the loop until it has ended.
    fn hear(self: &Arc<Self>, inbox: &Receiver<Note>, serving: &Arc<dyn Serving>) -> Ending {
        loop {
            let patience =
                self.lock().rows.wanted.map(|(_, since)| ROW_PATIENCE.saturating_sub(since.elapsed()));
            let note = match patience {
                Some(patience) => inbox.recv_timeout(patience),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match note {
                Ok(Note::Ended(ending)) => return ending,
                Ok(note) => self.note(note, serving),
                Err(RecvTimeoutError::Timeout) => {
                    if self.lock().rows.wanted.take().is_some() {
                        serving.no_row();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Ending::Failed(Error::general(
                        Kind::Failed,
                        "the serving thread ended without a word",
                    ));
                }
            }
        }
    }

    fn note(self: &Arc<Self>, note: Note, serving: &Arc<dyn Serving>) {
        match note {
            Note::Serving => {
                // Starting a device reads from it, and the engine may need this thread to answer.
                let serving = serving.clone();
                std::thread::spawn(move || {
                    let note = serving.open().map_or_else(Note::NotOpened, |()| Note::Opened);
                    let _ = serving.notes().send(note);
                });
            }
            Note::NotOpened(error) => {
                self.lock().failure = Some(error);
                serving.abandon();
            }
            Note::Opened => {
                let status = serving.status();
                let mut state = self.lock();
                state.serving = true;
                state.notify(self.serving_notice(&status));
                // A row that the superblock names by now is in use, not in hand.
                state.offered(&self.spec.rows, status.rows);
            }
            Note::WantRow(row) => self.want_row(row, serving),
            Note::StoreStale { drives, failed, since, version } => {
                let mark = Mark { drives, version, since, failed, current: false };
                self.store_mark(&mark);
                serving.stale_stored(version);
                self.lock().notify_mark(mark, None);
            }
            Note::StoreCurrent { drive, version, copied_blocks } => {
                let mark = Mark::current(drive, version);
                self.store_mark(&mark);
                serving.current_stored(version);
                self.lock().notify_mark(mark, Some(copied_blocks));
            }
            Note::Event { severity, kind, message } => {
                self.lock().notify_event(Notice::Event { severity, kind, message });
            }
            Note::Ended(_) => {}
        }
    }

    /// Makes a mark durable. Until it is, nothing that a stale drive misses is acknowledged: better a volume that
    /// waits than one that forgets.
    fn store_mark(&self, mark: &Mark) {
        while let Err(error) = marks::append(&self.spec.stale_marks, mark) {
            eprintln!("a mark could not be stored, trying again: {error}");
            std::thread::sleep(MARK_RETRY);
        }
    }

    /// The last line to the agent.
    fn say_goodbye(&self, ending: &Ending) {
        let mut state = self.lock();
        match ending {
            Ending::Closed if state.detaching => state.send(&FromTarget::Answer(Answer::Detached)),
            Ending::Closed => {}
            Ending::Failed(error) => state.notify(Notice::Failed(error.clone())),
        }
    }
}

impl State {
    /// Sends a line to the agent, if there is one; one that does not take it counts as gone.
    fn send(&mut self, line: &FromTarget) {
        let Some(agent) = &mut self.agent else { return };
        let mut bytes = serde_json::to_vec(line).expect("lines encode as JSON");
        bytes.push(b'\n');
        if agent.write_all(&bytes).is_err() {
            let _ = agent.shutdown(std::net::Shutdown::Both);
            self.agent = None;
        }
    }

    fn notify(&mut self, notice: Notice) {
        self.send(&FromTarget::Notice(notice));
    }

    /// Tells the agent of something that happened, at the start the first agent that comes. Later nobody is told what
    /// happens while no agent is there.
    fn notify_event(&mut self, event: Notice) {
        match &mut self.unheard {
            Some(kept) if kept.len() < MAX_UNHEARD => kept.push(event),
            Some(_) => {}
            None => self.notify(event),
        }
    }

    /// Tells the agent what is durable in the file of marks.
    fn notify_mark(&mut self, mark: Mark, copied_blocks: Option<u64>) {
        let Mark { drives, version, since, failed, current } = mark;
        if current {
            for drive in drives {
                self.notify(Notice::Current { drive, version, copied_blocks });
            }
        } else {
            self.notify(Notice::Stale { drives, version, since, failed });
        }
    }
}
