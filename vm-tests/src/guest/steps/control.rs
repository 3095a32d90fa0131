//! Verbs on a live device: what is refused, what works, and what costs nothing.

use super::faults::read_direct;
use super::kernel;
use crate::error::{Context, Error, Result};
use crate::guest::Guest;
use crate::guest::load::Fio;
use crate::guest::product::{VOLUME, block_name, send_signal};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

const VOLUME_MIB: u64 = 512;
/// Small, for all of it is copied.
const NBD_MIB: u64 = 128;

/// A mounted device is not detached, and is no worse for the attempt.
pub(super) fn detach_in_use(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let path = device.to_string_lossy().into_owned();
    guest.run("mkfs.ext4", &["-q", "-F", &path])?;
    let place = "/mnt/vol";
    fs::create_dir_all(place).doing(|| format!("make {place}"))?;
    guest.run("mount", &["-t", "ext4", &path, place])?;
    let answer = guest.plinth(&["volume", "detach", VOLUME]);
    guest.check_that("refused", answer.code == 6, || answer.text());
    guest.check_that("says-why", answer.err.contains("use"), || answer.text());
    let kept = fs::write("/mnt/vol/a", "still here").map_err(|e| e.to_string());
    guest.check("still-writable", kept);
    let answer = guest.plinth(&["volume", "delete", VOLUME, "--yes"]);
    guest.check_that("delete-refused", answer.code == 6, || answer.text());
    guest.run("umount", &[place])?;
    guest.detach()?;
    let name = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let left: Vec<String> = name.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let gone = !left.iter().any(|n| n.starts_with("ublkb"));
    guest.check_that("gone-after", gone, || left.join(" "));
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// A volume grows while it is written to, where the driver can resize a device that is in use. Where it cannot, the resize is
/// refused and changes nothing: not the volume, and not what a target finds that takes the device over.
pub(super) fn resize_live(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let load = Fio::on(&device, "load")
        .with("--rw=randwrite")
        .with("--bs=16k")
        .with("--size=128m")
        .with("--time_based")
        .with("--runtime=8")
        .with("--verify_backlog=64")
        .verified()
        .start()?;
    let shrink = guest.plinth(&["volume", "resize", VOLUME, "256MiB"]);
    guest.check_that("shrink-refused", shrink.code == 2 || shrink.code == 6, || shrink.text());
    let (live, name) = (kernel()? >= (6, 16), block_name(&device)?);
    if live {
        grows(guest, &name)?;
        check_new_space(guest, &device);
        guest.check("load", load.finish().map_err(|e| e.to_string()));
    } else {
        stays(guest, &device, &name)?;
        guest.check("load", load.finish().map_err(|e| e.to_string()));
        guest.detach()?;
        guest.plinth_ok(&["volume", "resize", VOLUME, "+256MiB"])?;
        check_new_space(guest, &guest.attach()?);
    }
    let again = guest.plinth(&["volume", "resize", VOLUME, "768MiB"]);
    guest.check_that("same-again", again.code == 0, || again.text());
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

fn check_new_space(guest: &mut Guest, device: &Path) {
    let tail =
        Fio::on(device, "tail").with("--rw=write").with("--bs=64k").with("--offset=512m").with("--size=32m");
    guest.check("new-space", tail.verified().run().map_err(|e| e.to_string()));
}

/// Sectors of a device.
fn sectors(name: &str) -> String {
    fs::read_to_string(format!("/sys/block/{name}/size")).unwrap_or_default().trim().to_owned()
}

fn grows(guest: &mut Guest, name: &str) -> Result<()> {
    guest.plinth_ok(&["volume", "resize", VOLUME, "+256MiB"])?;
    let want = ((VOLUME_MIB + 256) << 11).to_string();
    let grown = guest.wait_until("the device has grown", Duration::from_secs(10), || sectors(name) == want);
    guest.check("device-grows", grown.map(|_| ()).map_err(|e| format!("{e}: {} sectors", sectors(name))));
    Ok(())
}

fn stays(guest: &mut Guest, device: &Path, name: &str) -> Result<()> {
    let refused = guest.plinth(&["volume", "resize", VOLUME, "+256MiB"]);
    guest.check_that("resize-refused", refused.code == 10, || refused.text());
    guest.check_that("says-what-to-do", refused.err.contains("volume detach"), || refused.text());
    let size = guest.volume_json()?["size_bytes"].clone();
    guest.check_that("volume-unchanged", size == VOLUME_MIB << 20, || size.to_string());
    let old = guest.target_pid()?;
    send_signal(old, Signal::SIGKILL)?;
    // Served by the next target or not at all.
    guest.check("reads-after-kill", read_direct(device).map_err(|e| e.to_string()));
    let (new, has) = (guest.target_pid()?, sectors(name));
    let stayed = new != old && has == (VOLUME_MIB << 11).to_string();
    guest.check_that("device-stays", stayed, || format!("process {old}, then {new}; {has} sectors"));
    Ok(())
}

/// How often a process that has nothing to do may wake up in 10 s: the target, and the agent, which looks after things every
/// few seconds in several tasks. What that takes of the processor's time depends on the machine; how often it is does not.
const WAKEUPS: [u64; 2] = [40, 200];
/// What both may take of 10 s at most, in clock ticks: a tenth, on an emulated processor. One that turns takes all of it.
const BUSY: u64 = 100;

/// An attached volume that nobody uses takes no processor time.
pub(super) fn idle_cpu(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    let agent = guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    Fio::on(&device, "warm").with("--rw=randwrite").with("--bs=4k").with("--size=8m").run()?;
    let processes = [("target", guest.target_pid()?), ("agent", agent.pid())];
    // The engine flushes and checkpoints for a while after the last write.
    std::thread::sleep(Duration::from_secs(5));
    let look = || processes.map(|(_, pid)| Ok((ticks(pid)?, wakeups(pid)?)));
    let before = look();
    std::thread::sleep(Duration::from_secs(10));
    for (((name, _), most), (before, after)) in
        processes.iter().zip(WAKEUPS).zip(before.into_iter().zip(look()))
    {
        let (before, after): ((u64, Wakeups), (u64, Wakeups)) = (before?, after?);
        let busy = after.0 - before.0;
        // A thread that is new had none before.
        let of = |(thread, woken): (&String, &u64)| woken - before.1.get(thread).copied().unwrap_or(0);
        let woken: u64 = after.1.iter().map(of).sum();
        let told = || format!("{name}: {busy} ticks of 10 ms and {woken} wakeups in 10 s");
        guest.note(told());
        guest.check_that(&format!("{name}-idle"), woken <= most && busy <= BUSY, told);
    }
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// By thread, how often it gave up a processor or lost it.
type Wakeups = BTreeMap<String, u64>;

/// Those of the threads that a process has.
fn wakeups(pid: i32) -> Result<Wakeups> {
    let threads = format!("/proc/{pid}/task");
    let mut all = Wakeups::new();
    for thread in fs::read_dir(&threads).doing(|| format!("read {threads}"))? {
        let thread = thread.doing(|| format!("read {threads}"))?;
        // It may have ended in between.
        let Ok(text) = fs::read_to_string(thread.path().join("status")) else { continue };
        let switches = text.lines().filter(|line| line.contains("voluntary_ctxt_switches"));
        let sum = switches.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum();
        all.insert(thread.file_name().to_string_lossy().into_owned(), sum);
    }
    Ok(all)
}

/// Processor time of a process in clock ticks.
fn ticks(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
    // Fields 14 and 15 of the line, counted behind the name.
    field(11)
        .zip(field(12))
        .map(|(user, system)| user + system)
        .ok_or_else(|| Error::failed(format!("{path} says `{}`", text.trim())))
}

/// The tools of others work over NBD, and what they wrote is what they read.
pub(super) fn nbd_tools(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    guest.new_volume(&drives, NBD_MIB, &[])?;
    let socket = "/run/vol.sock";
    let printed = guest.plinth_ok(&["volume", "attach", VOLUME, "--nbd", socket])?;
    guest.check_that("prints-path", printed.trim().ends_with("vol.sock"), || printed.clone());
    let uri = format!("nbd+unix:///?socket={socket}");
    let second = guest.plinth(&["volume", "attach", VOLUME]);
    guest.check_that("second-front-end-refused", second.code == 6 || second.code == 11, || second.text());
    let info = guest.run("nbdinfo", &["--json", &uri])?;
    let sized = info.contains(&format!("\"export-size\": {}", NBD_MIB << 20));
    guest.check_that("nbdinfo", sized, || info.clone());
    let script = ["write -P 0x5a 1M 3M", "flush", "read -P 0x5a 1M 3M", "discard 2M 1M", "read -P 0 2M 1M"];
    let mut words = vec!["-f", "raw", &uri];
    for line in &script {
        words.extend(["-c", line]);
    }
    let qemu = guest.run("qemu-io", &words);
    let same = qemu
        .map_err(|e| e.to_string())
        .and_then(|out| if out.contains("failed") { Err(out.replace('\n', " | ")) } else { Ok(()) });
    guest.check("qemu-io", same);
    let map = guest.run("nbdinfo", &["--map", &uri]);
    guest.check("nbdinfo-map", map.map(|_| ()).map_err(|e| e.to_string()));
    copy(guest, &uri)?;
    let fio = Fio::bare("nbd")
        .with("--ioengine=nbd")
        .with(format!("--uri={uri}"))
        .with("--rw=randwrite")
        .with("--bs=16k")
        .with("--size=16m")
        .verified();
    guest.check("fio-nbd", fio.run().map_err(|e| e.to_string()));
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// A file goes in and comes back by nbdcopy.
fn copy(guest: &mut Guest, uri: &str) -> Result<()> {
    let length = 16usize << 20;
    let mut content = Vec::with_capacity(length);
    let mut random = crate::random::Random::new(7);
    while content.len() < length {
        content.extend_from_slice(&random.draw().to_le_bytes());
    }
    fs::write("/tmp/in", &content).doing(|| "write /tmp/in".into())?;
    guest.run("nbdcopy", &["/tmp/in", uri])?;
    guest.run("nbdcopy", &["--sparse=0", uri, "/tmp/out"])?;
    let back = fs::read("/tmp/out").doing(|| "read /tmp/out".into())?;
    guest.check_that("nbdcopy", back.get(..length) == Some(&content[..]), || {
        "it reads back something else".into()
    });
    fs::remove_file("/tmp/out").doing(|| "remove /tmp/out".into())
}

/// Without the driver attach says how to load it and offers NBD; NBD works.
pub(super) fn no_ublk(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    guest.new_volume(&drives, VOLUME_MIB, &[])?;
    let answer = guest.plinth(&["volume", "attach", VOLUME]);
    guest.check_that("not-supported", answer.code == 10, || answer.text());
    guest.check_that("says-how-to-load", answer.err.contains("modprobe ublk_drv"), || answer.text());
    guest.check_that("offers-nbd", answer.err.contains("--nbd"), || answer.text());
    let state = guest.volume_json()?["state"].clone();
    guest.check_that("nothing-changed", state == "detached", || state.to_string());
    let nbd = guest.plinth(&["volume", "attach", VOLUME, "--nbd", "/run/vol.sock"]);
    guest.check_that("nbd-works", nbd.code == 0, || nbd.text());
    guest.detach()
}
