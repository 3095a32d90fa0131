//! The demonstration without a machine: the same files and blows on drives that are files of this host, on a
//! kernel that has ublk. The power cut is left out: this host's power is not cut for a demonstration.
//!
//! What it may touch: one folder (drives, state and socket of an agent of its own, a mount point), one ublk
//! device, and one link below /dev/plinth of a name that nobody else takes. At its end, good or bad, all of
//! that is taken back; what a killed run left is taken back by the next.

use crate::children::run_checked;
use crate::error::{Context, Error, Kind, Result};
use crate::guest::files::{self, Sum};
use crate::scenario::native::{Native, fsck};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const POOL: &str = "plinth-demo-here";
const VOLUME: &str = "plinth-demo-here";
const DRIVE_BYTES: u64 = 2 << 30;
const CONTROL: &str = "/dev/ublk-control";

/// What a demonstration is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The product.
    pub plinth: PathBuf,
    /// Its folder, made anew. Room for the files, twice.
    pub folder: PathBuf,
    /// How many MiB of files.
    pub files_mib: u64,
    /// What random choices start from.
    pub seed: u64,
}

/// Who hears what happens.
pub trait Witness {
    /// A check was made.
    fn check(&mut self, name: &str, outcome: std::result::Result<(), String>);
    /// Progress for a person.
    fn note(&mut self, text: String);
}

/// Whether this host can show anything. Changes nothing.
///
/// # Errors
/// No driver ([`Kind::NotSupported`]), or no root ([`Kind::Permission`]).
pub fn ensure_possible() -> Result<()> {
    if !Path::new(CONTROL).exists() {
        let message = format!(
            "this kernel has no ublk driver ({CONTROL} is missing), so nothing was done: load it with \
             `modprobe ublk_drv`, or leave out --here, and a virtual machine that has it is booted"
        );
        return Err(Error { kind: Kind::NotSupported, message });
    }
    if !nix::unistd::geteuid().is_root() {
        let message =
            "ublk devices and mounts need root, so nothing was done: run it as root, or leave out --here";
        return Err(Error { kind: Kind::Permission, message: message.into() });
    }
    Ok(())
}

/// Runs the demonstration. A failed check ends it.
///
/// # Errors
/// Something could not be done, or a check failed: the witness has heard of that.
pub fn run(plan: &Plan, witness: &mut dyn Witness) -> Result<()> {
    ensure_possible()?;
    take_back_leftovers(plan)?;
    let mut here = Here::make(plan)?;
    witness.note(
        "starting an agent of its own; two files become a pool, a volume with two copies goes onto it".into(),
    );
    let device = here.set_up()?;
    witness.note(format!("writing {} MiB of files onto ext4 on {device}", plan.files_mib));
    run_checked(Command::new("mkfs.ext4").args(["-q", "-F", &device]))?;
    here.mount(&device)?;
    files::fill(&here.place, plan.files_mib, plan.seed)?;
    let sums = files::sum_all(&here.place)?;
    expect(witness, "files-written", Ok(()))?;
    here.kill_the_target(plan, witness, &sums)?;
    witness.note(
        "blow 2, a power cut, is left out here: `cargo xtask demo` cuts a virtual machine's power".into(),
    );
    here.lose_a_drive(plan, witness, &sums)?;
    here.take_back()?;
    let clean = fsck(&plan.plinth, &here.drives[1..], &here.state).map_err(|e| e.to_string());
    expect(witness, "drive-checker", clean)?;
    fs::remove_dir_all(&plan.folder).doing(|| format!("remove {}", plan.folder.display()))
}

/// Reports a check, and ends the run if it failed.
fn expect(witness: &mut dyn Witness, name: &str, outcome: std::result::Result<(), String>) -> Result<()> {
    let failed = outcome.as_ref().err().map(|why| Error::failed(format!("{name}: {why}")));
    witness.check(name, outcome);
    failed.map_or(Ok(()), Err)
}

/// What was set up, and has to be taken back.
struct Here {
    drives: Vec<PathBuf>,
    state: PathBuf,
    place: PathBuf,
    plinth: PathBuf,
    agent: Option<Native>,
}

impl Here {
    fn make(plan: &Plan) -> Result<Here> {
        let place = plan.folder.join("mnt");
        fs::create_dir_all(&place).doing(|| format!("make {}", place.display()))?;
        let drives = [0, 1].map(|number| plan.folder.join(format!("drive-{number}.img"))).to_vec();
        for drive in &drives {
            let file = File::create(drive).doing(|| format!("make {}", drive.display()))?;
            file.set_len(DRIVE_BYTES).doing(|| format!("size {}", drive.display()))?;
        }
        let state = plan.folder.join("agent");
        let agent = Some(Native::start(&plan.plinth, &state)?);
        Ok(Here { drives, state, place, plinth: plan.plinth.clone(), agent })
    }

    fn plinth(&self, words: &[&str]) -> Result<String> {
        self.agent.as_ref().ok_or_else(|| Error::failed("the agent was ended"))?.run(words)
    }

    /// Makes pool and volume; returns the device.
    fn set_up(&self) -> Result<String> {
        let names: Vec<String> = self.drives.iter().map(|d| d.to_string_lossy().into_owned()).collect();
        self.plinth(&["pool", "create", POOL, &names[0], &names[1]])?;
        self.plinth(&["volume", "create", VOLUME, "--pool", POOL, "--size", "1GiB"])?;
        self.attach()
    }

    fn attach(&self) -> Result<String> {
        Ok(self.plinth(&["volume", "attach", VOLUME])?.trim().to_owned())
    }

    fn mount(&self, device: &str) -> Result<()> {
        run_checked(Command::new("mount").args(["-t", "ext4", device]).arg(&self.place)).map(|_| ())
    }

    fn unmount(&self) -> Result<()> {
        run_checked(Command::new("umount").arg(&self.place)).map(|_| ())
    }

    fn volume(&self) -> Result<Value> {
        let text = self.plinth(&["-o", "json", "volume", "show", VOLUME])?;
        serde_json::from_str(&text).doing(|| format!("read the JSON of the volume: {text}"))
    }

    fn target_pid(&self) -> Result<i32> {
        let json = self.volume()?;
        let pid = json["target"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.ok_or_else(|| Error::failed(format!("the volume names no target: {json}")))
    }

    fn kill_the_target(&self, plan: &Plan, witness: &mut dyn Witness, sums: &[Sum]) -> Result<()> {
        let old = self.target_pid()?;
        witness.note(format!(
            "blow 1: SIGKILL to process {old}, which serves the device, while files are written"
        ));
        let more = self.place.join("during");
        fs::create_dir_all(&more).doing(|| format!("make {}", more.display()))?;
        let seed = plan.seed + 1;
        let writer = std::thread::spawn(move || files::fill(&more, 48, seed));
        std::thread::sleep(Duration::from_millis(300));
        kill(Pid::from_raw(old), Signal::SIGKILL).doing(|| format!("kill process {old}"))?;
        let written = writer.join().map_err(|_| Error::failed("the writer panicked"))?;
        expect(witness, "no-error-while-killed", written.map(|_| ()).map_err(|e| e.to_string()))?;
        // Everything reaches the device here, and is read from it below.
        self.unmount()?;
        let new = self.target_pid()?;
        witness.note(format!("process {old} served before, process {new} serves now"));
        let other = if new == old { Err(format!("process {old} still serves")) } else { Ok(()) };
        expect(witness, "another-process-serves", other)?;
        self.mount(&self.attach()?)?;
        self.same_files(witness, "files-after-kill", sums)
    }

    /// The volume is closed, the file of drive 0 is removed, and everything starts again without it.
    fn lose_a_drive(&mut self, plan: &Plan, witness: &mut dyn Witness, sums: &[Sum]) -> Result<()> {
        self.take_back()?;
        witness.note("blow 3: drive 0 is gone; the agent and the volume start without it".into());
        // Not moved: the agent would find it by its label.
        fs::remove_file(&self.drives[0]).doing(|| format!("remove {}", self.drives[0].display()))?;
        self.agent = Some(Native::start_again(&self.plinth, &self.state)?);
        let device = self.attach()?;
        self.mount(&device)?;
        let json = self.volume()?;
        witness.note(format!("status: {}", json["status"].as_str().unwrap_or("none")));
        let degraded = if json["health"] == "degraded" { Ok(()) } else { Err(json.to_string()) };
        expect(witness, "volume-says-degraded", degraded)?;
        self.same_files(witness, "files-after-drive-loss", sums)?;
        let more = self.place.join("after");
        fs::create_dir_all(&more).doing(|| format!("make {}", more.display()))?;
        let written = files::fill(&more, 16, plan.seed + 2);
        expect(witness, "more-files-on-one-drive", written.map(|_| ()).map_err(|e| e.to_string()))?;
        self.unmount()?;
        let checked = run_checked(Command::new("e2fsck").args(["-f", "-n", &device]));
        expect(witness, "file-system-checker", checked.map(|_| ()).map_err(|e| e.to_string()))
    }

    fn same_files(&self, witness: &mut dyn Witness, name: &str, sums: &[Sum]) -> Result<()> {
        let now = files::sum_all(&self.place)?;
        witness.note(format!("{} files read from the device", now.len()));
        let wrong = sums.iter().zip(&now).find(|(then, now)| then != now);
        let outcome = match wrong {
            Some((then, now)) => Err(format!("{then:?} is now {now:?}")),
            None if sums.len() != now.len() => Err(format!("{} files became {}", sums.len(), now.len())),
            None => Ok(()),
        };
        expect(witness, name, outcome)
    }

    /// Unmounts, detaches and ends the agent, as far as these are there.
    fn take_back(&mut self) -> Result<()> {
        let Some(agent) = self.agent.take() else { return Ok(()) };
        if is_mounted(&self.place) {
            self.unmount()?;
        }
        agent.run(&["volume", "detach", VOLUME])?;
        agent.stop()
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            eprintln!("what the demonstration set up could not be taken back: {error}");
        }
    }
}

fn is_mounted(place: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == place.to_str())
}

/// Sets everything up and leaves it as a run that is killed does: the agent dead, the volume served and mounted.
///
/// # Errors
/// Something could not be done.
pub fn leave_behind(plan: &Plan) -> Result<()> {
    let mut here = Here::make(plan)?;
    let device = here.set_up()?;
    run_checked(Command::new("mkfs.ext4").args(["-q", "-F", &device]))?;
    here.mount(&device)?;
    files::fill(&here.place, 8, plan.seed)?;
    // Dropping the agent kills it, and without it nothing is taken back.
    drop(here.agent.take());
    Ok(())
}

/// Takes back what a run left that was killed: its volume may be attached and mounted.
///
/// # Errors
/// Something could not be taken back.
pub fn take_back_leftovers(plan: &Plan) -> Result<()> {
    let state = plan.folder.join("agent");
    if state.exists() {
        let place = plan.folder.join("mnt");
        if is_mounted(&place) {
            run_checked(Command::new("umount").arg(&place))?;
        }
        let agent = Native::start_again(&plan.plinth, &state)?;
        // It may have been killed before there was a volume.
        let _ = agent.run(&["volume", "detach", VOLUME]);
        agent.stop()?;
    }
    if plan.folder.exists() {
        fs::remove_dir_all(&plan.folder).doing(|| format!("remove {}", plan.folder.display()))?;
    }
    Ok(())
}
