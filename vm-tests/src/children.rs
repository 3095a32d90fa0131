//! Child processes that never outlive the command that started them.
//!
//! Crash story: a virtual machine left behind by a killed run holds two processors and gigabytes, and its
//! drives' files are written under the feet of the next run. Three nets catch it, each independent:
//!
//! 1. every child leads a process group of its own, and a signal (Ctrl-C, TERM, HUP) kills all of them and
//!    runs the clean-ups before the command exits with 130;
//! 2. every child asks the kernel for SIGKILL when its parent dies (`setpriv --pdeathsig`), so SIGKILL of
//!    the command itself leaves nothing either;
//! 3. every child is recorded with its start time in the state folder; the next run, which holds the lock,
//!    kills what is still there. The start time tells a recycled process id from ours.
//!
//! Invariant: a child is spawned by the main thread or by one that waits for the child, because the death signal is sent when
//! the spawning *thread* ends.

use crate::error::{Context, Error, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Exit code of a command that was ended by a signal from a person.
pub const INTERRUPTED: i32 = 130;

/// How long the threads of a child may take to stop: what they have handed to the kernel ends first.
const FREEZE_PATIENCE: Duration = Duration::from_secs(60);

static LIVE: Mutex<BTreeMap<i32, PathBuf>> = Mutex::new(BTreeMap::new());
static SCRATCH: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static RECORDS: Mutex<Option<PathBuf>> = Mutex::new(None);
/// What is taken back once every child is gone.
static AT_INTERRUPT: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// Makes Ctrl-C, TERM and HUP end every child and remove every scratch folder before exit 130.
///
/// # Errors
/// The handlers cannot be installed.
pub fn handle_interrupts() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .doing(|| "install the signal handlers".into())?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("\ninterrupted: ending every process that was started");
            clean_up();
            let undo = AT_INTERRUPT.lock().unwrap_or_else(|e| e.into_inner()).take();
            if let Some(undo) = undo {
                undo();
                clean_up();
            }
            std::process::exit(INTERRUPTED);
        }
    });
    Ok(())
}

/// Has this run after an interrupt has ended every child: for what outlives them, like a device or a mount.
pub fn at_interrupt(undo: impl FnOnce() + Send + 'static) {
    *AT_INTERRUPT.lock().unwrap_or_else(|e| e.into_inner()) = Some(Box::new(undo));
}

/// Kills every live child with its group and removes every scratch folder.
pub fn clean_up() {
    // A poisoned lock means that a thread panicked while it held it; the lists are still the best we know.
    let live = std::mem::take(&mut *LIVE.lock().unwrap_or_else(|e| e.into_inner()));
    for (pid, record) in live {
        kill_group(pid);
        let _ = fs::remove_file(record);
    }
    for folder in SCRATCH.lock().unwrap_or_else(|e| e.into_inner()).drain(..) {
        let _ = fs::remove_dir_all(&folder).or_else(|_| fs::remove_file(&folder));
    }
}

/// A word that nobody else has in a name: machines run beside each other, in this process and in others.
#[must_use]
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Names a folder that [`clean_up`] removes. Call [`keep_scratch`] to spare it.
pub fn scratch(folder: &Path) {
    SCRATCH.lock().unwrap_or_else(|e| e.into_inner()).push(folder.to_path_buf());
}

/// Takes a folder off the list of [`scratch`] folders.
pub fn keep_scratch(folder: &Path) {
    SCRATCH.lock().unwrap_or_else(|e| e.into_inner()).retain(|p| p != folder);
}

/// Sets the folder for the records of live children and kills what an earlier run left there.
/// The caller holds the lock of the command, so whatever is recorded belongs to a run that is dead.
///
/// # Errors
/// The folder cannot be made or read.
pub fn adopt_records(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).doing(|| format!("make {}", folder.display()))?;
    for entry in fs::read_dir(folder).doing(|| format!("read {}", folder.display()))?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let mut words = text.split_whitespace();
        let pid = words.next().and_then(|w| w.parse::<i32>().ok());
        let started = words.next().map(str::to_owned);
        if let (Some(pid), Some(started)) = (pid, started)
            && start_time(pid).is_some_and(|now| now == started)
        {
            eprintln!("ending process {pid}, left behind by an earlier run");
            kill_group(pid);
        }
        let _ = fs::remove_file(entry.path());
    }
    *RECORDS.lock().unwrap_or_else(|e| e.into_inner()) = Some(folder.to_path_buf());
    Ok(())
}

/// Where a child's two outputs go.
#[derive(Debug)]
pub enum Outputs {
    /// To the outputs of this command.
    Inherited,
    /// To pipes that the caller takes.
    Piped,
    /// Standard output is a pipe that the caller takes; errors go to those of this command.
    Captured,
    /// Both to one file.
    To(fs::File),
    /// Standard input and output are pipes that the caller takes; errors go to the file.
    Talk(fs::File),
}

/// A running child and its group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
}

impl Running {
    /// Starts `command` in a group of its own, with its standard input closed. Its outputs go where
    /// `outputs` says; what the command itself said about its streams does not count.
    ///
    /// # Errors
    /// The program is not there ([`crate::error::Kind::Missing`]) or cannot be started.
    pub fn start(command: &Command, outputs: Outputs) -> Result<Running> {
        let program = command.get_program().to_string_lossy().into_owned();
        if find_program(&program).is_none() {
            return Err(Error::missing(format!("{program} is not installed; run `cargo xtask setup`")));
        }
        let mut wrapped = wrap(command);
        wrapped.stdin(Stdio::null());
        match outputs {
            Outputs::Inherited => {}
            Outputs::Piped => {
                wrapped.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
            Outputs::Captured => {
                wrapped.stdout(Stdio::piped());
            }
            Outputs::To(file) => {
                let twin = file.try_clone().doing(|| format!("share the log of {program}"))?;
                wrapped.stdout(twin).stderr(file);
            }
            Outputs::Talk(errors) => {
                wrapped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
            }
        }
        let child = wrapped.process_group(0).spawn().doing(|| format!("start {program}"))?;
        let pid = pid_of(&child);
        let record = write_record(pid);
        LIVE.lock().unwrap_or_else(|e| e.into_inner()).insert(pid, record);
        Ok(Running { child, name: program })
    }

    /// The process id, which is also the id of the group.
    #[must_use]
    pub fn pid(&self) -> i32 {
        pid_of(&self.child)
    }

    /// The standard input, if it is a pipe and was not taken before.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// The standard output, if it was piped and not taken before.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The standard error, if it was piped and not taken before.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits for the end of the child.
    ///
    /// # Errors
    /// The child cannot be waited for.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().doing(|| format!("wait for {}", self.name))?;
        forget(self.pid());
        Ok(status)
    }

    /// Whether the child has ended; never blocks.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// Stops every thread of the child where it is, and returns once all of them stand still. What they had handed to the
    /// kernel is done by then.
    ///
    /// # Errors
    /// It has ended, or a thread does not stop.
    pub fn freeze(&self) -> Result<()> {
        let pid = Pid::from_raw(self.pid());
        kill(pid, Signal::SIGSTOP).doing(|| format!("stop {}", self.name))?;
        let start = Instant::now();
        while !stands_still(self.pid()) {
            if start.elapsed() > FREEZE_PATIENCE {
                return Err(Error::failed(format!("{} does not stop", self.name)));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Goes on.
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&self) -> Result<()> {
        kill(Pid::from_raw(self.pid()), Signal::SIGCONT).doing(|| format!("let {} go on", self.name))
    }

    /// SIGKILL to the whole group, then collects the child. The instant of the call is the instant of a cut.
    pub fn kill(&mut self) {
        kill_group(self.pid());
        let _ = self.child.wait();
        forget(self.pid());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
        forget(self.pid());
    }
}

/// What a child printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// The exit code; `None` after a signal or when the time was over.
    pub code: Option<i32>,
    /// Standard output and standard error, in the order of their lines' arrival.
    pub text: String,
    /// Whether it was ended because its time was over.
    pub timed_out: bool,
}

/// Runs `command` to its end, hands each line of both outputs to `each`, and keeps all of them.
/// After `limit` the whole group is killed.
///
/// # Errors
/// The program cannot be started or waited for; a failing program is not an error here.
pub fn run_lines(command: &Command, limit: Duration, mut each: impl FnMut(&str)) -> Result<Output> {
    let mut running = Running::start(command, Outputs::Piped)?;
    let (lines, arrivals) = mpsc::channel();
    let out = running.take_stdout().map(|o| forward_lines(o, lines.clone()));
    let err = running.take_stderr().map(|e| forward_lines(e, lines.clone()));
    drop(lines);
    let deadline = Instant::now() + limit;
    let mut text = String::new();
    let mut timed_out = false;
    loop {
        match arrivals.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                each(&line);
                text.push_str(&line);
                text.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                timed_out = true;
                running.kill();
                break;
            }
        }
    }
    let status = running.wait()?;
    if !timed_out {
        for reader in [out, err].into_iter().flatten() {
            let _ = reader.join();
        }
    }
    Ok(Output { success: status.success() && !timed_out, code: status.code(), text, timed_out })
}

/// Runs `command` quietly and returns what it printed; a failure carries the last lines of it.
///
/// # Errors
/// The program is missing, cannot be started, ends with anything but 0, or takes longer than ten minutes.
pub fn run_checked(command: &Command) -> Result<String> {
    let shown = show(command);
    let output = run_lines(command, Duration::from_secs(600), |_| {})?;
    if output.success {
        return Ok(output.text);
    }
    let lines: Vec<&str> = output.text.lines().collect();
    let tail = lines[lines.len().saturating_sub(12)..].join("\n  ");
    Err(Error::failed(format!("`{shown}` failed (exit {:?}):\n  {tail}", output.code)))
}

/// The command as a person would type it.
#[must_use]
pub fn show(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// Where a program is, searching `PATH` and the system folders that a user's `PATH` often lacks.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).exists().then(|| PathBuf::from(name));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').map(PathBuf::from);
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    folders.chain(system).map(|f| f.join(name)).find(|p| p.is_file())
}

/// Sends each line of `source` to `lines` until it ends; undecodable bytes become replacement characters.
pub fn forward_lines(
    source: impl Read + Send + 'static,
    lines: mpsc::Sender<String>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while source.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line);
            if lines.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    })
}

/// Rebuilds `command` behind `setpriv --pdeathsig`, keeping its arguments, folder and environment.
fn wrap(command: &Command) -> Command {
    let program = command.get_program().to_owned();
    let resolved = find_program(&program.to_string_lossy()).map_or(program, PathBuf::into_os_string);
    // Without setpriv the other two nets remain.
    let mut wrapped = match find_program("setpriv") {
        Some(setpriv) => {
            let mut wrapped = Command::new(setpriv);
            wrapped.args(["--pdeathsig", "KILL", "--"]).arg(resolved);
            wrapped
        }
        None => Command::new(resolved),
    };
    wrapped.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("Linux process ids fit an i32")
}

fn kill_group(pid: i32) {
    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

fn forget(pid: i32) {
    if let Some(record) = LIVE.lock().unwrap_or_else(|e| e.into_inner()).remove(&pid) {
        let _ = fs::remove_file(record);
    }
}

fn write_record(pid: i32) -> PathBuf {
    let Some(folder) = RECORDS.lock().unwrap_or_else(|e| e.into_inner()).clone() else {
        return PathBuf::new();
    };
    let path = folder.join(format!("{pid}.pid"));
    let started = start_time(pid).unwrap_or_default();
    if let Ok(mut file) = fs::File::create(&path) {
        let _ = writeln!(file, "{pid} {started}");
    }
    path
}

/// Whether every thread is stopped.
fn stands_still(pid: i32) -> bool {
    let stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // A thread that has ended meanwhile stands still too.
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).all(stopped)
}

/// Field 22 of /proc/PID/stat: clock ticks since boot at which the process started.
fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}
