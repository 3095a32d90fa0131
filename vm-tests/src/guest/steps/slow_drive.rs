//! `slow-drive`: a drive does not answer for a while, and answers all at once later.
//!
//! The drive is a linear device of the device mapper over an NVMe drive: suspended, it keeps every operation to itself
//! and loses none, and no cancellation reaches them; resumed, it sends them on. That is the worst a drive can do: what it was told
//! long ago lands when everybody counts on it no more.
//!
//! Everything goes on once it is put out: what hangs there was answered, reads too, for their memory was exchanged
//! (`ublk-target/src/ring/exchange.rs`). So many writes follow that the log could not take them if one read kept what it
//! reads: the group is small, and its ring is gone through several times.

use super::faults::{read_direct, read_sectors, verified_load};
use super::resync::write_more;
use crate::error::{Context, Result};
use crate::guest::Guest;
use crate::guest::drives::NvmeDrive;
use crate::guest::load::Fio;
use crate::guest::product::{POOL, VOLUME};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const VOLUME_MIB: u64 = 256;
/// How long the load goes on at most: longer than the drive hangs.
const LOAD_SECONDS: u64 = 240;
/// Sectors that readers must get while the drive hangs: far more than all that they had asked for before.
const READ_SECTORS: u64 = 16_384;
/// A drive that does not answer for 10 s is put out; as much again for a busy machine to see it and store it.
const PUT_OUT: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(240);
/// Left free at both ends of the drive below, so that no label of the drive above is also one of the drive below.
const MARGIN_SECTORS: u64 = 16 << 11;
const NAME: &str = "slow";

/// One of two drives hangs under load: it is put out within the bound, and what is there is read while it hangs. When it
/// answers again, its late writes land, no request has failed, and it is brought up to date; then it alone has
/// everything, and both drives are alike.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let below = guest.drives()?;
    guest.start_agent()?;
    let drives = [below[0].clone(), layered(guest, &below[1])?];
    let device = small_group(guest, &drives)?;
    fill(&device)?;
    let mut load = verified_load(&device, LOAD_SECONDS).with("--iodepth=32").start()?;
    let reading = readers(&device).with("--rw=randread").with("--bs=4k").with("--time_based");
    let reading = reading.with(format!("--runtime={LOAD_SECONDS}")).start()?;
    write_more(guest, &device)?;
    let pid = guest.target_pid()?;
    dmsetup(guest, &["suspend", "--noflush", "--nolockfs", NAME])?;
    let hung = Instant::now();
    let waited = guest.wait_volume("the drive is put out", PATIENCE, |json| json["health"] == "degraded")?;
    guest.note(format!("the drive hangs, and was put out after {} ms", waited.as_millis()));
    guest.check_that("put-out-in-time", waited <= PUT_OUT, || format!("after {} ms", waited.as_millis()));
    guest.check("new-reads", read_direct(&device).map_err(|e| e.to_string()));
    let had = read_sectors(&device)?;
    let on = guest.wait_until("the readers go on", PATIENCE, || {
        read_sectors(&device).is_ok_and(|now| now > had + READ_SECTORS)
    });
    guest.check("old-readers", on.map(|_| ()).map_err(|e| e.to_string()));
    let new = Instant::now();
    guest.check("new-writes", elsewhere(&device).run().map_err(|e| e.to_string()));
    guest.note(format!("8 MiB of new writes took {} ms while it hangs", new.elapsed().as_millis()));
    let states = copies(guest)?;
    guest.check_that("stale", states == ["current", "stale"], || format!("{states:?}"));
    let refused = guest.plinth(&["drive", "offline", POOL, &drives[0].name()]);
    guest.check_that("the-last-copy-stays", refused.code == 6, || refused.text());
    let early = load.has_ended();
    guest.check_that("hung-under-load", !early, || "the load ended before".into());
    dmsetup(guest, &["resume", NAME])?;
    guest.note(format!("the drive answers again after {} ms", hung.elapsed().as_millis()));
    guest.plinth_ok(&["drive", "online", POOL, &drives[1].name()])?;
    let healed =
        guest.wait_volume("the drive has everything", PATIENCE, |json| json["health"] == "online")?;
    guest.note(format!("it had everything {} ms later", healed.as_millis()));
    write_more(guest, &device)?;
    guest.check("load", load.end().map_err(|e| e.to_string()));
    guest.check("readers", reading.end().map_err(|e| e.to_string()));
    let now = guest.target_pid()?;
    guest.check_that("same-target", now == pid, || format!("process {pid}, then {now}"));
    guest.plinth_ok(&["drive", "offline", POOL, &drives[0].name()])?;
    guest.attach_again("same-from-that-drive-alone", &device)?;
    guest.plinth_ok(&["drive", "online", POOL, &drives[0].name()])?;
    guest.wait_volume("both are alike", PATIENCE, |json| json["health"] == "online")?;
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// A linear device over the middle of a drive.
fn layered(guest: &Guest, below: &NvmeDrive) -> Result<NvmeDrive> {
    let sectors = below.size_bytes / 512 - 2 * MARGIN_SECTORS;
    let table = format!("0 {sectors} linear {} {MARGIN_SECTORS}", below.name());
    dmsetup(guest, &["create", NAME, "--table", &table])?;
    // The one device of the mapper.
    let path = PathBuf::from("/dev/dm-0");
    guest.wait_until("the device appears", Duration::from_secs(30), || path.exists())?;
    Ok(NvmeDrive { path, size_bytes: sectors * 512, ..below.clone() })
}

/// There is no udev to wait for.
fn dmsetup(guest: &Guest, words: &[&str]) -> Result<()> {
    let words: Vec<&str> = words.iter().copied().chain(["--noudevsync", "--noudevrules"]).collect();
    guest.run("dmsetup", &words).doing(|| "drive the device mapper".into()).map(|_| ())
}

/// A volume whose log is small: its ring has as many blocks as a quarter of an extent.
fn small_group(guest: &Guest, drives: &[NvmeDrive]) -> Result<PathBuf> {
    let mut words = vec!["pool", "create", POOL, "--extent-size", "4MiB"];
    let names: Vec<String> = drives.iter().map(NvmeDrive::name).collect();
    words.extend(names.iter().map(String::as_str));
    guest.plinth_ok(&words)?;
    let size = format!("{VOLUME_MIB}MiB");
    guest.plinth_ok(&["volume", "create", VOLUME, "--pool", POOL, "--size", &size])?;
    guest.attach()
}

/// Writes everything, and discards parts that nobody uses later: while a drive of two is away no row can be had, so the
/// group must have all that it needs by then.
fn fill(device: &Path) -> Result<()> {
    let part = |name, mode| Fio::on(device, name).with(format!("--rw={mode}")).with("--bs=256k");
    part("fill", "write").run()?;
    part("spare", "trim").with("--offset=136m").with("--size=24m").run()?;
    part("tail", "trim").with("--offset=224m").with("--size=32m").run()
}

/// Readers of what no load writes to, at a depth at which some of them are on each drive at any time.
fn readers(device: &Path) -> Fio {
    Fio::on(device, "readers").with("--iodepth=32").with("--offset=160m").with("--size=64m")
}

/// A verified load beside the one that hangs, with a commit for each of its writes.
fn elsewhere(device: &Path) -> Fio {
    Fio::on(device, "elsewhere")
        .with("--rw=randwrite")
        .with("--iodepth=1")
        .with("--bs=4k")
        .with("--offset=128m")
        .with("--size=8m")
        .verified()
}

/// States of the copies, by leg.
fn copies(guest: &Guest) -> Result<Vec<String>> {
    let json = guest.volume_json()?;
    let legs = json["legs"].as_array().into_iter().flatten();
    let drives = legs.flat_map(|leg| leg["drives"].as_array().into_iter().flatten());
    Ok(drives.map(|drive| drive["state"].as_str().unwrap_or("none").to_owned()).collect())
}
