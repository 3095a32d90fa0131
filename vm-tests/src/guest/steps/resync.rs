//! `resync`: a drive goes and comes back under load, and then it alone has everything.

use super::faults::{read_direct, verified_load, written_sectors};
use crate::error::{Context, Result};
use crate::guest::Guest;
use crate::guest::drives::NvmeDrive;
use crate::guest::product::{POOL, VOLUME, send_signal};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

const VOLUME_MIB: u64 = 256;
/// How long the load goes on at most: longer than the story takes on a translated processor.
const LOAD_SECONDS: u64 = 300;
/// The longest that a drive may take to be noticed, or to get what it missed.
const PATIENCE: Duration = Duration::from_secs(240);

/// Under a load that verifies what it wrote: a drive is pulled out and put in again, comes back by itself, and gets
/// what it missed; the target is killed in the middle of that. Then the other drive is taken out by hand: the load goes
/// on, and everything is there, also after a new attach. At the end both drives are alike.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    // Slow enough that it is seen under way.
    guest.plinth_ok(&["pool", "set", POOL, "resync_rate=1MiB"])?;
    let mut load = verified_load(&device, LOAD_SECONDS).with("--iodepth=32").start()?;
    write_more(guest, &device)?;
    drives[1].pull()?;
    guest.wait_volume("the volume is degraded", PATIENCE, |json| json["health"] == "degraded")?;
    guest.wait_until("the drive is missed", PATIENCE, || state_of(guest, &drives[1]) == "missing")?;
    write_more(guest, &device)?;
    fs::write("/sys/bus/pci/rescan", "1\n").doing(|| "look for drives anew".into())?;
    let drives = guest.drives()?;
    guest.note(format!("the drive is there again, as {}", drives[1].name()));
    let begun =
        guest.wait_volume("the drive gets what it missed", PATIENCE, |json| copy(json, 1) == "resyncing")?;
    guest.note(format!("it came back after {} ms", begun.as_millis()));
    let killed = guest.target_pid()?;
    send_signal(killed, Signal::SIGKILL)?;
    guest.check("reads-after-kill", read_direct(&device).map_err(|e| e.to_string()));
    guest.wait_volume("it begins anew", PATIENCE, |json| {
        copy(json, 1) == "resyncing"
            && json["target"]["pid"].as_i64().is_some_and(|pid| pid != i64::from(killed))
    })?;
    let early = load.has_ended();
    guest.plinth_ok(&["pool", "set", POOL, "resync_rate=0"])?;
    let healed =
        guest.wait_volume("the drive has everything", PATIENCE, |json| json["health"] == "online")?;
    guest.note(format!("it had everything {} ms later", healed.as_millis()));
    guest.check_that("healed-under-load", !early && !load.has_ended(), || "the load ended before".into());
    write_more(guest, &device)?;
    let last = drives[1].name();
    guest.plinth_ok(&["drive", "offline", POOL, &drives[0].name()])?;
    let refused = guest.plinth(&["drive", "offline", POOL, &last]);
    guest.check_that("the-last-copy-stays", refused.code == 6, || refused.text());
    write_more(guest, &device)?;
    guest.check("load", load.end().map_err(|e| e.to_string()));
    guest.attach_again("same-from-that-drive-alone", &device)?;
    guest.plinth_ok(&["drive", "online", POOL, &drives[0].name()])?;
    guest.plinth_ok(&["volume", "show", VOLUME, "--watch"])?;
    guest.wait_volume("both are alike", PATIENCE, |json| json["health"] == "online")?;
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// Waits until the load has written a few MiB more.
pub(super) fn write_more(guest: &Guest, device: &Path) -> Result<()> {
    let before = written_sectors(device)?;
    guest
        .wait_until("the load writes", Duration::from_secs(60), || {
            written_sectors(device).is_ok_and(|now| now > before + 8192)
        })
        .map(|_| ())
}

/// State of the copy on the drive of a leg.
pub(super) fn copy(json: &Value, leg: usize) -> String {
    json["legs"][leg]["drives"][0]["state"].as_str().unwrap_or("none").to_owned()
}

/// State of a drive in its pool, by the path that it had.
fn state_of(guest: &Guest, drive: &NvmeDrive) -> String {
    let listed = guest.plinth_ok(&["-o", "json", "drive", "list", POOL]);
    let drives =
        listed.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()).unwrap_or(Value::Null);
    let found = drives.as_array().into_iter().flatten().find(|listed| listed["path"] == drive.name());
    found.and_then(|found| found["state"].as_str()).unwrap_or("none").to_owned()
}
