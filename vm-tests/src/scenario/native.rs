//! The product on this host, over drives that came out of a machine: served over NBD, which needs no root
//! and no driver.

use crate::children::{Outputs, Running, run_checked, run_lines};
use crate::error::{Context, Error, Result};
use crate::key;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// An agent of its own, with its state and socket in one folder. Ended when dropped.
pub struct Native {
    plinth: PathBuf,
    folder: PathBuf,
    agent: Running,
}

impl Native {
    /// Starts an agent in `folder`, which is made anew.
    ///
    /// # Errors
    /// It does not answer within 30 s.
    pub fn start(plinth: &Path, folder: &Path) -> Result<Native> {
        if folder.exists() {
            fs::remove_dir_all(folder).doing(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder).doing(|| format!("make {}", folder.display()))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).doing(|| "set modes".into())?;
        Native::start_again(plinth, folder)
    }

    /// Starts an agent over what an earlier one left in `folder`.
    ///
    /// # Errors
    /// It does not answer within 30 s.
    pub fn start_again(plinth: &Path, folder: &Path) -> Result<Native> {
        let log = folder.join("agent.log");
        let file = File::create(&log).doing(|| format!("make {}", log.display()))?;
        let mut command = Command::new(plinth);
        command.arg("node").arg("--state").arg(folder.join("state"));
        command.arg("--socket").arg(folder.join("sock"));
        let agent = Running::start(&command, Outputs::To(file))?;
        let mut native = Native { plinth: plinth.to_path_buf(), folder: folder.to_path_buf(), agent };
        let start = Instant::now();
        while native.run(&["status"]).is_err() {
            if native.agent.has_ended() || start.elapsed() > Duration::from_secs(30) {
                return Err(Error::failed(format!("the agent does not answer, log {}", log.display())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(native)
    }

    /// Runs the command line against this agent; returns its standard output.
    ///
    /// # Errors
    /// Any exit but 0.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.plinth);
        command.arg("--socket").arg(self.folder.join("sock")).args(words);
        run_checked(&command)
    }

    /// Has the agent know the bench's key.
    ///
    /// # Errors
    /// Any exit but 0.
    pub fn know_key(&self) -> Result<()> {
        key::put(&self.folder.join("state"))?;
        self.run(&["key", "create", key::NAME]).map(drop)
    }

    /// Imports the pool of `drives`, serves `volume`, and copies what it holds to `to`.
    ///
    /// # Errors
    /// Import, attach or the copy fails.
    pub fn copy_volume(&self, drives: &[PathBuf], volume: &str, to: &Path) -> Result<()> {
        let names: Vec<String> = drives.iter().map(|d| d.to_string_lossy().into_owned()).collect();
        let words: Vec<&str> =
            ["pool", "import"].into_iter().chain(names.iter().map(String::as_str)).collect();
        self.run(&words)?;
        // Clients use the path as it is, and this folder may be too deep for a socket's address.
        let socket = std::env::temp_dir().join(format!("plinth-nbd-{}", crate::children::unique()));
        self.run(&["volume", "attach", volume, "--nbd", &socket.to_string_lossy()])?;
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        run_checked(Command::new("nbdcopy").arg(uri).arg(to))?;
        self.run(&["volume", "detach", volume]).map(|_| ())
    }

    /// Ends the agent and every target it supervises.
    ///
    /// # Errors
    /// It does not end in words.
    pub fn stop(mut self) -> Result<()> {
        self.run(&["node", "stop", "--all", "--yes"])?;
        self.agent.wait().map(|_| ())
    }
}

/// Checks drives offline; with the keys of an agent in `folder`.
///
/// # Errors
/// fsck finds something, or cannot run.
pub fn fsck(plinth: &Path, drives: &[PathBuf], folder: &Path) -> Result<()> {
    let mut command = Command::new(plinth);
    command.arg("fsck").arg("--keys").arg(key::folder(&folder.join("state"))).args(drives);
    let output = run_lines(&command, Duration::from_secs(300), |_| {})?;
    match output.success {
        true => Ok(()),
        false => {
            // A drive that lost much has thousands of findings; the first tell what kind of damage it is.
            let lines: Vec<&str> = output.text.trim().lines().collect();
            let shown = lines[..lines.len().min(4)].join(" | ");
            Err(Error::failed(format!("fsck (exit {:?}, {} lines): {shown}", output.code, lines.len())))
        }
    }
}
