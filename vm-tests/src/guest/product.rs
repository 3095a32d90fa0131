//! The product inside a machine, used as a person would: its agent and its command line.

use super::Guest;
use super::drives::NvmeDrive;
use crate::error::{Context, Error, Result};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

const PLINTH: &str = "/usr/bin/plinth";
/// How long the agent may take to answer after its start. Translated processors share the host with the
/// rest of a test run.
const START: Duration = Duration::from_secs(60);
/// What the agent prints.
pub(super) const AGENT_LOG: &str = "/tmp/agent.log";
/// The pool and volume of a scenario.
pub const POOL: &str = "pool";
/// The volume of a scenario.
pub const VOLUME: &str = "vol";

/// A running agent. Dropping the value leaves it running: what a scenario kills, it kills in words.
#[derive(Debug)]
pub struct Agent {
    child: Child,
}

impl Agent {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("Linux process ids fit an i32")
    }

    /// Sends a signal and waits for its end.
    ///
    /// # Errors
    /// It had ended before.
    pub fn end(mut self, signal: nix::sys::signal::Signal) -> Result<()> {
        send_signal(self.pid(), signal)?;
        self.child.wait().doing(|| "wait for the agent".into())?;
        Ok(())
    }
}

/// Sends a signal to a process.
///
/// # Errors
/// There is no such process.
pub fn send_signal(pid: i32, signal: nix::sys::signal::Signal) -> Result<()> {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)
        .doing(|| format!("send {signal} to process {pid}"))
}

/// What the command line said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The exit code; 255 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Both outputs on one line.
    #[must_use]
    pub fn text(&self) -> String {
        format!("exit {}: {} {}", self.code, self.err.trim(), self.out.trim()).replace('\n', " | ")
    }
}

impl Guest {
    /// Starts the agent and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer in time; what it printed is in the message.
    pub fn start_agent(&self) -> Result<Agent> {
        let log = File::options().create(true).append(true).open(AGENT_LOG);
        let log = log.doing(|| format!("open {AGENT_LOG}"))?;
        let twin = log.try_clone().doing(|| "share the agent's log".into())?;
        let mut command = Command::new(PLINTH);
        command.arg("node").stdout(log).stderr(twin);
        // A bug that was built in for a run that must fail.
        if let Ok(bug) = self.parameter("planted") {
            command.env("PLINTH_PLANTED", bug);
        }
        let mut child = command.spawn().doing(|| "start the agent".into())?;
        let mut ended = None;
        let waited = self.wait_until("the agent answers", START, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || self.plinth(&["status"]).code == 0
        });
        let tail = || fs::read_to_string(AGENT_LOG).unwrap_or_default().trim().replace('\n', " | ");
        if let Some(status) = ended {
            return Err(Error::failed(format!("the agent ended at once ({status}): {}", tail())));
        }
        waited.map_err(|e| Error::failed(format!("{e}: {}", tail())))?;
        Ok(Agent { child })
    }

    /// Waits until an agent that something else has started answers.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_agent(&self) -> Result<()> {
        self.wait_until("the agent answers", START, || self.plinth(&["status"]).code == 0).map(|_| ())
    }

    /// Runs the command line and returns what it said, good or bad.
    #[must_use]
    pub fn plinth(&self, words: &[&str]) -> Answer {
        match Command::new(PLINTH).args(words).output() {
            Ok(output) => Answer {
                code: output.status.code().unwrap_or(255),
                out: String::from_utf8_lossy(&output.stdout).into_owned(),
                err: String::from_utf8_lossy(&output.stderr).into_owned(),
            },
            Err(source) => {
                Answer { code: 255, out: String::new(), err: format!("cannot run {PLINTH}: {source}") }
            }
        }
    }

    /// Runs the command line and insists on exit 0; returns its standard output.
    ///
    /// # Errors
    /// Any other exit.
    pub fn plinth_ok(&self, words: &[&str]) -> Result<String> {
        let answer = self.plinth(words);
        if answer.code == 0 {
            return Ok(answer.out);
        }
        Err(Error::failed(format!("`plinth {}`: {}", words.join(" "), answer.text())))
    }

    /// The JSON of the scenario's volume.
    ///
    /// # Errors
    /// The command fails or prints no JSON.
    pub fn volume_json(&self) -> Result<Value> {
        let text = self.plinth_ok(&["-o", "json", "volume", "show", VOLUME])?;
        serde_json::from_str(&text).doing(|| format!("read the JSON of the volume: {text}"))
    }

    /// The process that serves the scenario's volume.
    ///
    /// # Errors
    /// The volume says nothing of a target.
    pub fn target_pid(&self) -> Result<i32> {
        let json = self.volume_json()?;
        let pid = json["target"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.ok_or_else(|| Error::failed(format!("the volume names no target: {json}")))
    }

    /// Makes a pool of `drives`, a volume of `size_mib` on it, and attaches it; returns the device.
    ///
    /// # Errors
    /// Any of the commands fails, or the path that attach prints does not open.
    pub fn new_device(&self, drives: &[NvmeDrive], size_mib: u64, more: &[&str]) -> Result<PathBuf> {
        self.new_volume(drives, size_mib, more)?;
        self.attach()
    }

    /// Makes a pool of `drives` and a volume of `size_mib` on it.
    ///
    /// # Errors
    /// Any of the commands fails.
    pub fn new_volume(&self, drives: &[NvmeDrive], size_mib: u64, more: &[&str]) -> Result<()> {
        let names: Vec<String> = drives.iter().map(NvmeDrive::name).collect();
        let mut words = vec!["pool", "create", POOL];
        words.extend(names.iter().map(String::as_str));
        self.plinth_ok(&words)?;
        let size = format!("{size_mib}MiB");
        let mut words = vec!["volume", "create", VOLUME, "--pool", POOL, "--size", &size];
        words.extend(more);
        self.plinth_ok(&words)?;
        Ok(())
    }

    /// Attaches the scenario's volume; returns the device.
    ///
    /// # Errors
    /// The command fails, or the path that it prints is no block device.
    pub fn attach(&self) -> Result<PathBuf> {
        let out = self.plinth_ok(&["volume", "attach", VOLUME])?;
        let path = PathBuf::from(out.trim());
        use std::os::unix::fs::FileTypeExt;
        match fs::metadata(&path) {
            Ok(data) if data.file_type().is_block_device() => Ok(path),
            other => {
                Err(Error::failed(format!("attach printed `{}`, no block device: {other:?}", out.trim())))
            }
        }
    }

    /// Detaches the scenario's volume.
    ///
    /// # Errors
    /// The command fails.
    pub fn detach(&self) -> Result<()> {
        self.plinth_ok(&["volume", "detach", VOLUME]).map(|_| ())
    }

    /// Detaches the volume and attaches it again; a check of this name says whether it holds what it held.
    ///
    /// # Errors
    /// A command fails, or the device cannot be read.
    pub fn attach_again(&mut self, name: &str, device: &Path) -> Result<PathBuf> {
        let before = self.checksum(device)?;
        self.detach()?;
        let device = self.attach()?;
        let after = self.checksum(&device)?;
        self.check_that(name, before == after, || format!("{before} before, {after} after"));
        Ok(device)
    }

    /// Waits until a volume's JSON satisfies `is_so`.
    ///
    /// # Errors
    /// It does not in time; the last JSON is in the message.
    pub fn wait_volume(
        &self,
        what: &str,
        limit: Duration,
        mut is_so: impl FnMut(&Value) -> bool,
    ) -> Result<Duration> {
        let mut last = Value::Null;
        self.wait_until(what, limit, || {
            last = self.volume_json().unwrap_or(Value::Null);
            is_so(&last)
        })
        .map_err(|e| Error::failed(format!("{e}; the volume: {last}")))
    }

    /// Stops the agent and every target, and checks the drives offline.
    ///
    /// # Errors
    /// A command fails; fsck's answer is in the message.
    pub fn stop_and_fsck(&mut self, drives: &[NvmeDrive]) -> Result<()> {
        self.plinth_ok(&["node", "stop", "--all", "--yes"])?;
        let names: Vec<String> = drives.iter().map(NvmeDrive::name).collect();
        let mut words = vec!["fsck"];
        words.extend(names.iter().map(String::as_str));
        let answer = self.plinth(&words);
        self.check_that("fsck", answer.code == 0, || answer.text());
        Ok(())
    }
}

/// The number of a ublk device's node: 0 for /dev/ublkb0, resolving a stable name.
///
/// # Errors
/// The path leads to no ublk device.
pub fn block_name(device: &Path) -> Result<String> {
    let real = fs::canonicalize(device).doing(|| format!("resolve {}", device.display()))?;
    let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.starts_with("ublkb") {
        return Ok(name);
    }
    Err(Error::failed(format!("{} leads to {name}, which is no ublk device", device.display())))
}
