//! `evacuate`: a drive is emptied while its volume is read and written at depth 32; what that costs the guest is a
//! number of milliseconds, and no byte.

use super::faults::{read_direct, verified_load, written_sectors};
use crate::error::{Context, Error, Result};
use crate::guest::Guest;
use crate::guest::product::{POOL, VOLUME};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const VOLUME_MIB: u64 = 256;
/// The longest completion. On a processor that is not translated it is below a second; here the host is busy too.
const PAUSE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(300);
/// How long one load takes; the evacuation takes as many as it needs.
const LOAD_SECONDS: u64 = 10;

/// One of three drives is evacuated under a verified load: no error, no long pause; then it holds nothing and leaves its
/// pool, and everything is there.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let left = drive_in_use(guest)?;
    let target = guest.target_pid()?;
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (device, stop) = (device.clone(), stop.clone());
        std::thread::spawn(move || load_until(&device, &stop))
    };
    let before = written_sectors(&device)?;
    guest.wait_until("the load writes", Duration::from_secs(60), || {
        written_sectors(&device).is_ok_and(|now| now > before + 8192)
    })?;
    let longest = Arc::new(AtomicU64::new(0));
    let watcher = {
        let (device, stop, longest) = (device.clone(), stop.clone(), longest.clone());
        std::thread::spawn(move || watch(&device, &stop, &longest))
    };
    std::thread::sleep(Duration::from_secs(2));
    let usual = longest.swap(0, Ordering::Relaxed);
    let started = Instant::now();
    guest.plinth_ok(&["drive", "evacuate", POOL, &left, "--wait"])?;
    let took = started.elapsed();
    let during = longest.swap(0, Ordering::Relaxed);
    let under_load = !load.is_finished();
    stop.store(true, Ordering::Relaxed);
    guest.note(format!(
        "{} was emptied in {} ms at depth 32; the longest read took {during} ms, {usual} ms before",
        left,
        took.as_millis()
    ));
    guest.check("reads", watcher.join().unwrap_or_else(|_| Err("the reader panicked".to_owned())));
    guest.check_that("emptied-under-load", under_load, || "the load ended before".into());
    guest.check_that("pause", Duration::from_millis(during) <= PAUSE, || format!("{during} ms"));
    let loaded = load.join().unwrap_or_else(|_| Err(Error::failed("the load panicked")));
    guest.check("load", loaded.map_err(|e| e.to_string()));
    let now = guest.target_pid()?;
    guest.check_that("same-target", now == target, || format!("process {target}, then {now}"));
    let on_it = used(guest, &left)?;
    guest.check_that("nothing-is-left-on-it", on_it == 0, || format!("{on_it} bytes"));
    guest.plinth_ok(&["drive", "remove", POOL, &left, "--wait", "--yes"])?;
    guest.wait_volume("both legs are current", PATIENCE, |json| json["health"] == "online")?;
    let before = guest.checksum(&device)?;
    guest.detach()?;
    let device = guest.attach()?;
    let after = guest.checksum(&device)?;
    guest.check_that("same-after-attach", before == after, || format!("{before} before, {after} after"));
    guest.detach()?;
    let others: Vec<_> = drives.into_iter().filter(|drive| drive.name() != left).collect();
    guest.stop_and_fsck(&others)
}

/// One verified load after the other, until it is told to stop.
fn load_until(device: &Path, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        verified_load(device, LOAD_SECONDS).with("--iodepth=32").run()?;
    }
    Ok(())
}

/// Reads one block after the other past the page cache, and keeps how many milliseconds the longest took.
fn watch(device: &Path, stop: &AtomicBool, longest: &AtomicU64) -> std::result::Result<(), String> {
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        read_direct(device).map_err(|e| e.to_string())?;
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        longest.fetch_max(took, Ordering::Relaxed);
    }
    Ok(())
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
