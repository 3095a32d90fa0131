//! `evacuate`: a drive is emptied while its volume is read and written at depth 32; what that costs the guest is a
//! number of milliseconds, and no byte.
//!
//! Held to: the longest completion of the load during the evacuation, as fio measures it, is at most a second
//! (`guest::latency` says how that is judged on a machine that is translated and shares its host). The control is the
//! same load in the seconds before.

use super::faults::{verified_load, written_sectors};
use crate::error::{Context, Error, Result};
use crate::guest::Guest;
use crate::guest::latency::{ATTEMPTS, LATE, Latencies, Measured, now};
use crate::guest::product::{POOL, VOLUME};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const VOLUME_MIB: u64 = 256;
const PATIENCE: Duration = Duration::from_secs(300);
/// How long one load takes; the evacuation takes as many as it needs.
const LOAD_SECONDS: u64 = 20;
/// How long the load is watched before.
const CONTROL: Duration = Duration::from_secs(3);

/// One of three drives is evacuated under a verified load: no error, no long pause; then it holds nothing and leaves its
/// pool, and everything is there. If the pause was too long, the next drive is emptied onto the one that is empty now.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let target = guest.target_pid()?;
    let mut left = drive_in_use(guest)?;
    let mut measured = empty_under_load(guest, &device, &left)?;
    for _ in 1..ATTEMPTS {
        if measured.is_kept() {
            break;
        }
        guest.plinth_ok(&["drive", "online", POOL, &left])?;
        left = drive_in_use(guest)?;
        measured = empty_under_load(guest, &device, &left)?;
    }
    guest.check_pauses(&[measured]);
    let same = guest.target_pid()?;
    guest.check_that("same-target", same == target, || format!("process {target}, then {same}"));
    let on_it = used(guest, &left)?;
    guest.check_that("nothing-is-left-on-it", on_it == 0, || format!("{on_it} bytes"));
    guest.plinth_ok(&["drive", "remove", POOL, &left, "--wait", "--yes"])?;
    guest.wait_volume("both legs are current", PATIENCE, |json| json["health"] == "online")?;
    guest.attach_again("same-after-attach", &device)?;
    guest.detach()?;
    let others: Vec<_> = drives.into_iter().filter(|drive| drive.name() != left).collect();
    guest.stop_and_fsck(&others)
}

/// Empties a drive under load, which must see no error and go on to its end.
fn empty_under_load(guest: &mut Guest, device: &Path, left: &str) -> Result<Measured> {
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (device, stop) = (device.to_owned(), stop.clone());
        std::thread::spawn(move || load_until(&device, &stop))
    };
    let before = written_sectors(device)?;
    guest.wait_until("the load writes", Duration::from_secs(60), || {
        written_sectors(device).is_ok_and(|now| now > before + 8192)
    })?;
    let watched = now();
    std::thread::sleep(CONTROL);
    let (begun, started) = (now(), Instant::now());
    guest.plinth_ok(&["drive", "evacuate", POOL, left, "--wait"])?;
    let (ended, took) = (now(), started.elapsed());
    let under_load = !load.is_finished();
    stop.store(true, Ordering::Relaxed);
    guest.check_that("emptied-under-load", under_load, || "the load ended before".into());
    let loaded = load.join().unwrap_or_else(|_| Err(Error::failed("the load panicked")));
    guest.check("load", loaded.as_ref().map(|_| ()).map_err(ToString::to_string));
    let log = loaded?;
    let within = |from, to: Duration| {
        log.longest(from, to + LATE).ok_or_else(|| Error::failed("the load completed nothing"))
    };
    let measured = Measured { longest: within(begun, ended)?, control: within(watched, begun - LATE)? };
    guest.note(format!(
        "{left} was emptied in {} ms at depth 32; the longest completion took {}",
        took.as_millis(),
        measured.text()
    ));
    Ok(measured)
}

/// One verified load after the other, until it is told to stop.
fn load_until(device: &Path, stop: &AtomicBool) -> Result<Latencies> {
    let mut log = Latencies::default();
    while !stop.load(Ordering::Relaxed) {
        verified_load(device, LOAD_SECONDS).with("--iodepth=32").logged("evacuate").run()?;
        log.add(Latencies::read("evacuate")?);
    }
    Ok(log)
}

/// The path of a drive that the volume uses.
fn drive_in_use(guest: &Guest) -> Result<String> {
    let json = guest.volume_json()?;
    let id = json["legs"][0]["drives"][0]["id"].clone();
    let drives = list(guest)?;
    let found = drives.as_array().into_iter().flatten().find(|drive| drive["id"] == id);
    let path = found.and_then(|drive| drive["path"].as_str());
    path.map(str::to_owned).ok_or_else(|| Error::failed(format!("{VOLUME} uses no known drive: {json}")))
}

/// Bytes of a drive that are handed out.
fn used(guest: &Guest, path: &str) -> Result<u64> {
    let drives = list(guest)?;
    let found = drives.as_array().into_iter().flatten().find(|drive| drive["path"] == path);
    let bytes = found.and_then(|drive| drive["allocated_bytes"].as_u64());
    bytes.ok_or_else(|| Error::failed(format!("{path} is not listed: {drives}")))
}

fn list(guest: &Guest) -> Result<Value> {
    let text = guest.plinth_ok(&["-o", "json", "drive", "list", POOL])?;
    serde_json::from_str(&text).doing(|| format!("read the JSON of the drives: {text}"))
}
