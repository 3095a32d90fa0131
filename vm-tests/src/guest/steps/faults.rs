//! `drive-loss`, `kill-target`, `kill-agent`: the device goes on when a part of what serves it is lost.

use crate::error::{Context, Error, Result};
use crate::guest::load::Fio;
use crate::guest::product::{block_name, send_signal};
use crate::guest::{Guest, Memory};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const VOLUME_MIB: u64 = 256;
/// The longest pause that a guest may see when the target is killed (statement D11), also where every
/// instruction is translated.
const PAUSE: Duration = Duration::from_secs(5);

/// A load that writes all the time and checks every block that it wrote.
pub(super) fn verified_load(device: &Path, seconds: u64) -> Fio {
    Fio::on(device, "load")
        .with("--rw=randwrite")
        .with("--bsrange=4k-64k")
        .with("--size=96m")
        .with("--verify_backlog=64")
        .with("--time_based")
        .with(format!("--runtime={seconds}"))
        .verified()
}

/// One of two drives disappears under load: no error is seen, the volume says that it is degraded, and what
/// was written is there, also from the drive that is left after a new attach.
pub(super) fn drive_loss(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let load = verified_load(&device, 12).start()?;
    let started = written_sectors(&device)?;
    guest.wait_until("the load writes", Duration::from_secs(30), || {
        written_sectors(&device).is_ok_and(|now| now > started + 4096)
    })?;
    drives[0].pull()?;
    guest.note(format!("{} is gone", drives[0].name()));
    let degraded = guest
        .wait_volume("the volume is degraded", Duration::from_secs(60), |json| json["health"] == "degraded");
    guest.check("degraded", degraded.map(|_| ()).map_err(|e| e.to_string()));
    guest.check("load", load.finish().map_err(|e| e.to_string()));
    let json = guest.volume_json()?;
    let states: Vec<String> = json["legs"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|leg| leg["drives"].as_array().cloned().unwrap_or_default())
        .map(|drive| drive["state"].as_str().unwrap_or("none").to_owned())
        .collect();
    let current = states.iter().filter(|s| *s == "current").count();
    guest.check_that("one-copy-left", current == 1 && states.len() == 2, || format!("copies are {states:?}"));
    let says = json["status"].is_string() && json["action"].is_string();
    guest.check_that("says-what-to-do", says, || json.to_string());
    let health = guest.plinth(&["status", "--check"]);
    guest.check_that("status-check", health.code == 14, || health.text());
    let device = guest.attach_again("same-from-one-drive", &device)?;
    let more = Fio::on(&device, "more").with("--rw=randwrite").with("--bs=16k").with("--size=16m").verified();
    guest.check("goes-on", more.run().map_err(|e| e.to_string()));
    Ok(())
}

/// The process that serves the device is killed again and again under load: no error is seen, the device
/// never goes away, each time another process serves it, and no pause is longer than promised.
pub(super) fn kill_target(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let node = block_name(&device)?;
    let present = || Path::new("/sys/block").join(&node).exists();
    let kills = guest.number("rounds")?;
    let mut load = verified_load(&device, 10 + kills * 3).start()?;
    let mut pauses = Vec::new();
    let mut stayed = true;
    for kill in 0..kills {
        let before = written_sectors(&device)?;
        guest.wait_until("the load writes", Duration::from_secs(60), || {
            load.has_ended() || written_sectors(&device).is_ok_and(|now| now > before + 512)
        })?;
        if load.has_ended() {
            break;
        }
        let old = guest.target_pid()?;
        send_signal(old, Signal::SIGKILL)?;
        let killed = Instant::now();
        stayed &= present();
        // A read past the cache is served by the new process or not at all.
        let read = read_direct(&device);
        pauses.push(killed.elapsed());
        stayed &= present();
        if let Err(error) = read {
            return Err(Error::failed(format!("kill {kill}: a read failed: {error}")));
        }
        let new = guest.target_pid()?;
        if new == old {
            return Err(Error::failed(format!("kill {kill}: process {old} was killed and still serves")));
        }
        if kill == 0 {
            guest.note(format!(
                "killed {old}, {new} serves, the read took {} ms",
                killed.elapsed().as_millis()
            ));
        }
    }
    pauses.sort_unstable();
    let longest = pauses.last().copied().unwrap_or_default();
    let usual = pauses.get(pauses.len() / 2).copied().unwrap_or_default();
    guest.note(format!(
        "{kills} kills, half of the pauses below {} ms, the longest {} ms",
        usual.as_millis(),
        longest.as_millis()
    ));
    guest.check_that("device-stays", stayed, || format!("/sys/block/{node} was gone for a while"));
    guest.check_that("pause", longest <= PAUSE, || format!("{} ms", longest.as_millis()));
    guest.check("load", load.finish().map_err(|e| e.to_string()));
    let restarts = guest.volume_json()?["target"]["restarts"].as_u64().unwrap_or(0);
    guest.check_that("restarts-counted", restarts >= kills, || format!("{restarts} of {kills}"));
    guest.attach_again("same-after-attach", &device)?;
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// The agent is killed, and then asked to end, under load: the same process goes on serving, and a new
/// agent knows it.
pub(super) fn kill_agent(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    let mut agent = guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let load = verified_load(&device, 20).start()?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let pid = guest.target_pid()?;
        agent.end(signal)?;
        guest.check(&format!("reads-after-{signal}"), read_direct(&device).map_err(|e| e.to_string()));
        agent = guest.start_agent()?;
        guest.wait_volume("the agent knows the volume", Duration::from_secs(30), |json| {
            json["state"] == "attached"
        })?;
        let again = guest.target_pid()?;
        guest.check_that(&format!("same-target-after-{signal}"), pid == again, || {
            format!("{pid}, then {again}")
        });
    }
    guest.check("load", load.finish().map_err(|e| e.to_string()));
    // An agent that came back still supervises.
    let old = guest.target_pid()?;
    send_signal(old, Signal::SIGKILL)?;
    guest.check("reads-after-kill", read_direct(&device).map_err(|e| e.to_string()));
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// Sectors written to a device since it came, as the kernel counts them.
pub(super) fn written_sectors(device: &Path) -> Result<u64> {
    counted(device, 6)
}

/// Sectors read from a device since it came, as the kernel counts them.
pub(super) fn read_sectors(device: &Path) -> Result<u64> {
    counted(device, 2)
}

/// A field of a device's statistics (Linux, Documentation/block/stat.rst).
fn counted(device: &Path, field: usize) -> Result<u64> {
    let name = block_name(device)?;
    let text = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap_or_default();
    let count = text.split_whitespace().nth(field).and_then(|n| n.parse().ok());
    count.ok_or_else(|| Error::failed(format!("/sys/block/{name}/stat says `{}`", text.trim())))
}

/// One block from the device, past the page cache.
pub(super) fn read_direct(device: &Path) -> Result<()> {
    let mut options = fs::File::options();
    options.read(true).custom_flags(OFlag::O_DIRECT.bits());
    let file = options.open(device).doing(|| format!("open {}", device.display()))?;
    let mut memory = Memory::new();
    file.read_exact_at(memory.take(4096), 0).doing(|| format!("read {}", device.display()))
}
