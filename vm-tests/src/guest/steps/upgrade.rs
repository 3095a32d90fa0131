//! `live-upgrade`: another binary takes over under load, again and again; and one that cannot.
//!
//! Held to: at each upgrade the longest completion of a load of depth 32, as fio measures it, is at most a second
//! (`guest::latency` says how that is judged on a machine that is translated and shares its host). An upgrade starts a
//! process, so the control is the longer of two: how long the same load waits in the second before, and how long the
//! binary takes to say its version under that load.

use super::faults::{verified_load, written_sectors};
use super::kernel;
use super::resync::write_more;
use crate::error::{Context, Error, Result};
use crate::guest::Guest;
use crate::guest::latency::{ATTEMPTS, LATE, Latencies, Measured, now};
use crate::guest::product::{VOLUME, block_name};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PRODUCT: &str = "/usr/bin/plinth";
const VOLUME_MIB: u64 = 256;
/// How long the load is watched before an upgrade.
const CONTROL: Duration = Duration::from_secs(1);

/// The volume is handed to and fro between two copies of the product while it is written, read and verified: no
/// error is seen, the device never goes away, no pause is longer than promised, and what serves is what was asked
/// for. A binary that does not come up makes room for the one before.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let binaries = [copy("/tmp/plinth-a")?, copy("/tmp/plinth-b")?];
    let mut upgrades = guest.number("rounds")?;
    let mut measured = upgrade_under_load(guest, &device, &binaries, upgrades)?;
    for _ in 1..ATTEMPTS {
        let broken = measured.iter().filter(|one| !one.is_kept()).count() as u64;
        if broken == 0 {
            break;
        }
        upgrades += broken;
        measured = upgrade_under_load(guest, &device, &binaries, broken)?;
    }
    guest.check_pauses(&measured);
    check_requests_kept(guest, upgrades)?;
    let restarts = guest.volume_json()?["target"]["restarts"].as_u64();
    guest.check_that("no-restart-counted", restarts == Some(0), || format!("{restarts:?}"));
    guest.attach_again("same-after-attach", &device)?;
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// Some upgrades under one load, and then one to a binary that does not come up; how long each upgrade made it wait.
fn upgrade_under_load(
    guest: &mut Guest,
    device: &Path,
    binaries: &[PathBuf; 2],
    rounds: u64,
) -> Result<Vec<Measured>> {
    let load = verified_load(device, 120 + rounds * 15).with("--iodepth=32").logged("upgrade");
    let mut load = load.start()?;
    let present = Path::new("/sys/block").join(block_name(device)?);
    let (mut moments, mut wrong) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let before = written_sectors(device)?;
        guest.wait_until("the load writes", Duration::from_secs(60), || {
            load.has_ended() || written_sectors(device).is_ok_and(|now| now > before + 512)
        })?;
        if load.has_ended() {
            break;
        }
        let serves = fs::read_link(format!("/proc/{}/exe", guest.target_pid()?)).unwrap_or_default();
        let binary = if serves == binaries[0] { &binaries[1] } else { &binaries[0] };
        let name = binary.to_string_lossy();
        let watched = now();
        std::thread::sleep(CONTROL);
        let asked = Instant::now();
        guest.run(&name, &["version", "-o", "json"])?;
        let (start, begun) = (asked.elapsed(), now());
        guest.plinth_ok(&["volume", "upgrade", VOLUME, "--binary", &name])?;
        let after = written_sectors(device)?;
        guest.wait_until("the load goes on", Duration::from_secs(60), || {
            load.has_ended() || written_sectors(device).is_ok_and(|now| now > after + 512)
        })?;
        moments.push((watched, begun, now(), start));
        let runs = fs::read_link(format!("/proc/{}/exe", guest.target_pid()?)).unwrap_or_default();
        if runs != *binary || !present.exists() {
            wrong.push(format!("round {round}: {} serves", runs.display()));
        }
    }
    let all = moments.len() as u64 == rounds;
    guest.check_that("all-rounds", all, || format!("{} of {rounds}: the load ended", moments.len()));
    guest.check_that("what-was-asked-for-serves", wrong.is_empty(), || wrong.join(", "));
    let serving = goes_back(guest)?;
    guest.check("goes-back", serving);
    write_more(guest, device)?;
    guest.check("load", load.end().map_err(|e| e.to_string()));
    let log = Latencies::read("upgrade")?;
    let within = |from, to: Duration| {
        log.longest(from, to + LATE).ok_or_else(|| Error::failed("the load completed nothing"))
    };
    let mut measured = Vec::new();
    for (watched, begun, ended, start) in moments {
        let control = within(watched, begun - LATE)?.max(start);
        measured.push(Measured { longest: within(begun, ended)?, control });
    }
    measured.sort_by_key(|one| one.longest);
    let told: Vec<String> = measured.iter().map(Measured::text).collect();
    guest.note(format!("{rounds} upgrades at depth 32; the longest completions took {}", told.join(", ")));
    Ok(measured)
}

/// Where the driver can, it has kept new requests to itself at every hand-over.
fn check_requests_kept(guest: &mut Guest, rounds: u64) -> Result<()> {
    let log = guest.run("/bin/sh", &["-c", "cat /var/lib/plinth/targets/*.log"])?;
    let kept = log.matches("keeps new requests back").count() as u64;
    let (major, minor) = kernel()?;
    let quiesces = (major, minor) >= (6, 16);
    let right = if quiesces { kept >= rounds } else { kept == 0 };
    guest
        .check_that("requests-kept", right, || format!("{kept} of {rounds} times on {major}.{minor}: {log}"));
    Ok(())
}

/// Asks for a binary that ends at once; the outcome is what is wrong with that.
fn goes_back(guest: &Guest) -> Result<std::result::Result<(), String>> {
    let path = "/tmp/plinth-broken";
    let text = format!("#!/bin/sh\nif [ \"$1\" = version ]; then exec {PRODUCT} \"$@\"; fi\nexit 9\n");
    fs::write(path, text).doing(|| format!("write {path}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .doing(|| format!("make {path} a program"))?;
    let pid = guest.target_pid()?;
    let before = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let answer = guest.plinth(&["volume", "upgrade", VOLUME, "--binary", path]);
    let after = fs::read_link(format!("/proc/{}/exe", guest.target_pid()?)).unwrap_or_default();
    Ok(if answer.code == 1 && before == after {
        Ok(())
    } else {
        Err(format!("{} served, now {}; {}", before.display(), after.display(), answer.text()))
    })
}

fn copy(to: &str) -> Result<PathBuf> {
    fs::copy(PRODUCT, to).doing(|| format!("copy {PRODUCT} to {to}"))?;
    Ok(PathBuf::from(to))
}
