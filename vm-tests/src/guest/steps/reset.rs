//! `reset`: controllers are reset. The kernel hides that from whoever reads and writes, and a drive may have lost what
//! was in its cache.

use super::faults::verified_load;
use super::resync::{copy, write_more};
use crate::error::Result;
use crate::guest::Guest;
use crate::guest::load::Fio;
use crate::guest::product::{POOL, VOLUME};
use std::time::Duration;

const VOLUME_MIB: u64 = 256;
/// How long a load goes on at most: longer than what happens under it takes on a translated processor.
const LOAD_SECONDS: u64 = 180;
const PATIENCE: Duration = Duration::from_secs(120);

/// A reset while everything is flushed changes nothing. One under a load puts the drive out as of its last flush, the
/// load sees no error, and the drive comes back by itself and then has everything. One of the last copy under a
/// load fails the flush: the group takes no writes until it was opened anew, and is whole then.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let fill = || Fio::on(&device, "fill").with("--rw=write").with("--bs=128k").with("--size=32m");
    fill().run()?;
    guest.wait_volume("everything is flushed", PATIENCE, |json| json["durable_seq"] == json["seq"])?;
    drives[1].reset()?;
    fill().with("--fsync=16").run()?;
    let json = guest.volume_json()?;
    guest.check_that("idle-reset-is-harmless", json["health"] == "online", || json.to_string());

    let load = verified_load(&device, LOAD_SECONDS).with("--iodepth=32").start()?;
    write_more(guest, &device)?;
    drives[1].reset()?;
    guest.wait_volume("the drive is out", PATIENCE, |json| copy(json, 1) != "current")?;
    let events = guest.plinth_ok(&["-o", "json", "events"])?;
    guest.check_that("told", events.contains("\"drive_reset\""), || events);
    let healed =
        guest.wait_volume("the drive has everything", PATIENCE, |json| json["health"] == "online")?;
    guest.note(format!("the drive had everything {} ms after it was put out", healed.as_millis()));
    write_more(guest, &device)?;
    guest.check("load", load.end().map_err(|e| e.to_string()));

    guest.plinth_ok(&["drive", "offline", POOL, &drives[0].name()])?;
    let device = guest.attach_again("same-from-that-drive-alone", &device)?;

    let load = verified_load(&device, LOAD_SECONDS).with("--iodepth=32").start()?;
    write_more(guest, &device)?;
    drives[1].reset()?;
    guest.wait_volume("no write is taken", PATIENCE, |json| json["state"] == "read_only")?;
    guest.check_that("load-hears-of-it", load.finish().is_err(), || "no request failed".into());
    guest.detach()?;
    let device = guest.attach()?;
    guest.check(
        "writes-again",
        Fio::on(&device, "again")
            .with("--rw=write")
            .with("--bs=64k")
            .with("--size=16m")
            .verified()
            .run()
            .map_err(|e| e.to_string()),
    );
    guest.plinth_ok(&["drive", "online", POOL, &drives[0].name()])?;
    guest.plinth_ok(&["volume", "show", VOLUME, "--watch"])?;
    guest.wait_volume("both are alike", PATIENCE, |json| json["health"] == "online")?;
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}
