//! `demo`, inside: real files on the device, and one of the three blows. The other two, power cuts, come from
//! outside between the parts; a drive does not come back from the second.

use super::files::{self, Sum};
use crate::error::{Context, Error, Result};
use crate::guest::Guest;
use crate::guest::drives::NvmeDrive;
use crate::guest::load::drop_caches;
use crate::guest::product::send_signal;
use crate::random::Random;
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const VOLUME_MIB: u64 = 1024;
const MOUNT: &str = "/mnt/vol";

/// Which part runs is the host's word. The last drive is the system's own: it keeps what the agent knows.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let mut drives = guest.drives()?;
    let system = drives.pop().ok_or_else(|| Error::failed("the machine has no drive for the system"))?;
    let state = "/var/lib/plinth";
    fs::create_dir_all(state).doing(|| format!("make {state}"))?;
    let part = guest.number("part")?;
    if part == 1 {
        guest.run("mkfs.ext4", &["-q", "-F", &system.name()])?;
    }
    guest.run("mount", &["-t", "ext4", &system.name(), state])?;
    // The agent insists on a folder that only it can read; a new file system's is wider.
    guest.run("chmod", &["0700", state])?;
    match part {
        1 => before_the_cut(guest, &drives),
        2 => after_the_first_cut(guest),
        _ => after_the_second_cut(guest),
    }
}

/// Makes the volume and the files, kills the serving process under load, and then writes and syncs small
/// files, naming each to the host once it is safe, until the power is cut.
fn before_the_cut(guest: &mut Guest, drives: &[NvmeDrive]) -> Result<()> {
    guest.note("starting the agent; two drives become a pool, a volume with two copies goes onto it");
    guest.start_agent()?;
    let device = guest.new_device(drives, VOLUME_MIB, &[])?;
    let path = device.to_string_lossy().into_owned();
    let listed = guest.run("lsblk", &["-o", "NAME,SIZE,TYPE,LOG-SEC,PHY-SEC,MOUNTPOINTS", &path])?;
    for line in listed.lines() {
        guest.note(format!("lsblk: {line}"));
    }
    guest.run("mkfs.ext4", &["-q", "-F", &path])?;
    mount(guest, &path)?;
    let mib = guest.number("files_mib")?;
    guest.note(format!("writing {mib} MiB of files onto ext4 on {path}"));
    files::fill(Path::new(MOUNT), mib, guest.number("seed")?)?;
    nix::unistd::sync();
    let sums = files::sum_all(Path::new(MOUNT))?;
    guest.note(format!("{} files, checksum of all {}", sums.len(), total(&sums)));
    guest.check("files-written", Ok(()));
    kill_the_target(guest, &sums)?;
    for (name, sum) in &sums {
        guest.tell(format!("safe {name} {sum} ."));
    }
    guest.tell("loading");
    sync_files_for_ever(guest, "first")
}

fn kill_the_target(guest: &mut Guest, sums: &[Sum]) -> Result<()> {
    let old = guest.target_pid()?;
    guest.note(format!("blow 1: SIGKILL to process {old}, which serves the device, while files are written"));
    let more = Path::new(MOUNT).join("during");
    fs::create_dir_all(&more).doing(|| format!("make {}", more.display()))?;
    let seed = guest.number("seed")? + 1;
    let writer = std::thread::spawn(move || files::fill(&more, 48, seed));
    std::thread::sleep(Duration::from_millis(500));
    send_signal(old, Signal::SIGKILL)?;
    let written = writer.join().map_err(|_| Error::failed("the writer panicked"))?;
    guest.check("no-error-while-killed", written.map(|_| ()).map_err(|e| e.to_string()));
    nix::unistd::sync();
    let new = guest.target_pid()?;
    guest.note(format!("process {old} served before, process {new} serves now"));
    guest.check_that("another-process-serves", new != old, || format!("process {old} still serves"));
    same_files(guest, "files-after-kill", sums)
}

/// Never ends: the host cuts the power.
fn sync_files_for_ever(guest: &mut Guest, folder_name: &str) -> Result<()> {
    let root = Path::new(MOUNT).join(folder_name);
    fs::create_dir_all(&root).doing(|| format!("make {}", root.display()))?;
    let folder = File::open(&root).doing(|| format!("open {}", root.display()))?;
    let mut random = Random::new(guest.number("seed")? + 2);
    for number in 0u64.. {
        let name = format!("{number}");
        let doing = || format!("write {name}");
        let mut content = Vec::new();
        for _ in 0..512 + random.below(8192) {
            content.extend_from_slice(&random.draw().to_le_bytes());
        }
        let mut file = File::create(root.join(&name)).doing(doing)?;
        file.write_all(&content).doing(doing)?;
        file.sync_all().doing(doing)?;
        folder.sync_all().doing(doing)?;
        let mut sum = crate::guest::Fnv::new();
        sum.add(&content);
        guest.tell(format!("safe {folder_name}/{name} {} .", sum.text()));
    }
    Err(Error::failed("there are only so many numbers"))
}

/// The agent serves what it served before the cut; every file that was safe is there. Then more files are
/// synced, until the power is cut again.
fn after_the_first_cut(guest: &mut Guest) -> Result<()> {
    let expected = come_back(guest)?;
    same_files(guest, "files-after-power-cut", &expected)?;
    guest.tell("loading");
    sync_files_for_ever(guest, "second")
}

/// One drive did not come back: the volume is served from the other, says so, and has every safe file.
fn after_the_second_cut(guest: &mut Guest) -> Result<()> {
    let expected = come_back(guest)?;
    let json = guest.volume_json()?;
    guest.note(format!("status: {}", json["status"].as_str().unwrap_or("none")));
    guest.check_that("volume-says-degraded", json["health"] == "degraded", || json.to_string());
    same_files(guest, "files-after-drive-loss", &expected)?;
    let more = Path::new(MOUNT).join("after");
    fs::create_dir_all(&more).doing(|| format!("make {}", more.display()))?;
    let written = files::fill(&more, 16, guest.number("seed")? + 3);
    guest.check("more-files-on-one-drive", written.map(|_| ()).map_err(|e| e.to_string()));
    guest.run("umount", &[MOUNT])?;
    let path = guest.attach()?.to_string_lossy().into_owned();
    let checked = guest.run("e2fsck", &["-f", "-n", &path]);
    guest.check("file-system-checker", checked.map(|_| ()).map_err(|e| e.to_string()));
    guest.detach()
}

/// Starts the agent, mounts the volume, and hears from the host which files were safe.
fn come_back(guest: &mut Guest) -> Result<Vec<Sum>> {
    guest.start_agent()?;
    let path = guest.attach()?.to_string_lossy().into_owned();
    mount(guest, &path)?;
    guest.tell("ready");
    let mut expected = Vec::new();
    loop {
        let line = guest.listen()?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["safe", name, sum] => expected.push((name.to_owned(), sum.to_owned())),
            ["end"] => break,
            _ => return Err(Error::failed(format!("the host said `{line}`"))),
        }
    }
    guest.note(format!("{} files were safe before the cut", expected.len()));
    Ok(expected)
}

/// Compares files with what they must hold, read from the device.
fn same_files(guest: &mut Guest, name: &str, expected: &[Sum]) -> Result<()> {
    drop_caches();
    let mut seen = Vec::new();
    for (file, _) in expected {
        let sum = files::sum_of(&Path::new(MOUNT).join(file)).unwrap_or_else(|e| format!("unreadable: {e}"));
        seen.push((file.clone(), sum));
    }
    guest.note(format!("{} files, checksum of all {}", seen.len(), total(&seen)));
    let wrong: Vec<&Sum> = seen.iter().zip(expected).filter(|(s, e)| s != e).map(|(s, _)| s).collect();
    guest.check_that(name, wrong.is_empty(), || {
        format!(
            "{} of {} files are not what they were, the first: {:?}",
            wrong.len(),
            seen.len(),
            wrong.first()
        )
    });
    Ok(())
}

fn total(sums: &[Sum]) -> String {
    let mut all = crate::guest::Fnv::new();
    for (name, sum) in sums {
        all.add(format!("{name:_>40}{sum:_>40}").as_bytes());
    }
    all.text().split('-').next().unwrap_or_default().to_owned()
}

fn mount(guest: &Guest, device: &str) -> Result<()> {
    fs::create_dir_all(MOUNT).doing(|| format!("make {MOUNT}"))?;
    guest.run("mount", &["-t", "ext4", device, MOUNT]).map(|_| ())
}
