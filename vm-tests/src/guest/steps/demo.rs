//! `demo`, inside: real files on the device, and two of the three blows. The third, the power cut, comes from
//! outside between the two parts.

use super::files::{self, Sum};
use crate::error::{Context, Error, Result};
use crate::guest::Guest;
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

/// Which part runs is the host's word.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    match guest.number("part")? {
        1 => before_the_cut(guest),
        _ => after_the_cut(guest),
    }
}

/// Makes the volume and the files, kills the serving process under load, and then writes and syncs small
/// files, naming each to the host once it is safe, until the power is cut.
fn before_the_cut(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.note("starting the agent; two drives become a pool, a volume with two copies goes onto it");
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
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
    sync_files_for_ever(guest)
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
fn sync_files_for_ever(guest: &mut Guest) -> Result<()> {
    let root = Path::new(MOUNT).join("synced");
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
        guest.tell(format!("safe synced/{name} {} .", sum.text()));
    }
    Err(Error::failed("there are only so many numbers"))
}

/// Takes the pool over from drives that lost their caches, compares every file that was safe, then loses a
/// drive for good and compares again.
fn after_the_cut(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let names: Vec<String> = drives.iter().map(|d| d.name()).collect();
    let words: Vec<&str> = ["pool", "import"].into_iter().chain(names.iter().map(String::as_str)).collect();
    guest.plinth_ok(&words)?;
    let path = guest.attach()?.to_string_lossy().into_owned();
    mount(guest, &path)?;
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
    same_files(guest, "files-after-power-cut", &expected)?;
    guest.note(format!("blow 3: {} is taken out of its slot while files are written", drives[0].name()));
    let more = Path::new(MOUNT).join("after");
    fs::create_dir_all(&more).doing(|| format!("make {}", more.display()))?;
    let seed = guest.number("seed")? + 3;
    let writer = std::thread::spawn(move || files::fill(&more, 48, seed));
    std::thread::sleep(Duration::from_millis(500));
    drives[0].pull()?;
    let written = writer.join().map_err(|_| Error::failed("the writer panicked"))?;
    guest.check("no-error-while-a-drive-goes", written.map(|_| ()).map_err(|e| e.to_string()));
    nix::unistd::sync();
    let degraded =
        guest.wait_volume("the volume says so", Duration::from_secs(30), |v| v["health"] == "degraded");
    guest.check("volume-says-degraded", degraded.map(|_| ()).map_err(|e| e.to_string()));
    let json = guest.volume_json()?;
    guest.note(format!("status: {}", json["status"].as_str().unwrap_or("none")));
    same_files(guest, "files-after-drive-loss", &expected)?;
    guest.run("umount", &[MOUNT])?;
    let checked = guest.run("e2fsck", &["-f", "-n", &path]);
    guest.check("file-system-checker", checked.map(|_| ()).map_err(|e| e.to_string()));
    guest.detach()
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
