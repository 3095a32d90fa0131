//! `live-upgrade`: another binary takes over under load, again and again; and one that cannot.

use super::faults::{read_direct, verified_load, written_sectors};
use crate::error::{Context, Error, Result};
use crate::guest::Guest;
use crate::guest::product::{POOL, VOLUME, block_name};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PRODUCT: &str = "/usr/bin/plinth";
const VOLUME_MIB: u64 = 256;
/// The longest pause. On a processor that is not translated it is well below a second; here a start of a process and
/// a recovery take seconds when the host is busy.
const PAUSE: Duration = Duration::from_secs(10);

/// Reads one block after the other past the page cache and remembers how long the longest took.
struct Reader {
    stop: Arc<AtomicBool>,
    longest_ms: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Reader {
    fn start(device: &Path) -> Reader {
        let (stop, longest_ms) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (device, stopped, longest) = (device.to_owned(), stop.clone(), longest_ms.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                read_direct(&device)?;
                let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                longest.fetch_max(took, Ordering::Relaxed);
            }
            Ok(())
        });
        Reader { stop, longest_ms, thread }
    }

    /// The longest read since the last call.
    fn longest(&self) -> Duration {
        Duration::from_millis(self.longest_ms.swap(0, Ordering::Relaxed))
    }

    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err(Error::failed("the reader panicked")))
    }
}

/// The volume is handed to and fro between two copies of the product while it is written, read and verified: no
/// error is seen, the device never goes away, no pause is longer than promised, and what serves is what was asked
/// for. A binary that does not come up makes room for the one before.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let present = Path::new("/sys/block").join(block_name(&device)?);
    let binaries = [copy("/tmp/plinth-a")?, copy("/tmp/plinth-b")?];
    let rounds = guest.number("rounds")?;
    let mut load = verified_load(&device, 20 + rounds * 4).with("--iodepth=32").start()?;
    let reader = Reader::start(&device);
    let (mut pauses, mut wrong) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let before = written_sectors(&device)?;
        guest.wait_until("the load writes", Duration::from_secs(60), || {
            load.has_ended() || written_sectors(&device).is_ok_and(|now| now > before + 512)
        })?;
        if load.has_ended() {
            break;
        }
        let binary = &binaries[usize::try_from(round % 2).expect("0 or 1")];
        let usual = reader.longest();
        guest.plinth_ok(&["volume", "upgrade", VOLUME, "--binary", &binary.to_string_lossy()])?;
        let after = written_sectors(&device)?;
        guest.wait_until("the load goes on", Duration::from_secs(60), || {
            load.has_ended() || written_sectors(&device).is_ok_and(|now| now > after + 512)
        })?;
        pauses.push(reader.longest());
        if round == 0 {
            guest.note(format!("the longest read before was {} ms", usual.as_millis()));
        }
        let runs = fs::read_link(format!("/proc/{}/exe", guest.target_pid()?)).unwrap_or_default();
        if runs != *binary || !present.exists() {
            wrong.push(format!("round {round}: {} serves", runs.display()));
        }
    }
    pauses.sort_unstable();
    let longest = pauses.last().copied().unwrap_or_default();
    let usual = pauses.get(pauses.len() / 2).copied().unwrap_or_default();
    guest.note(format!(
        "{} upgrades at depth 32, half of the pauses below {} ms, the longest {} ms",
        pauses.len(),
        usual.as_millis(),
        longest.as_millis()
    ));
    let all = pauses.len() as u64 == rounds;
    check_requests_kept(guest, rounds)?;
    guest.check_that("all-rounds", all, || format!("{} of {rounds}: the load ended", pauses.len()));
    guest.check_that("what-was-asked-for-serves", wrong.is_empty(), || wrong.join(", "));
    guest.check_that("pause", longest <= PAUSE, || format!("{} ms", longest.as_millis()));
    let serving = goes_back(guest)?;
    guest.check("goes-back", serving);
    guest.check("drives-say-how-they-are", drives_speak(guest).map_err(|e| e.to_string()));
    guest.check("load", load.finish().map_err(|e| e.to_string()));
    guest.check("reads", reader.finish().map_err(|e| e.to_string()));
    let restarts = guest.volume_json()?["target"]["restarts"].as_u64();
    guest.check_that("no-restart-counted", restarts == Some(0), || format!("{restarts:?}"));
    let before = guest.checksum(&device)?;
    guest.detach()?;
    let device = guest.attach()?;
    let after = guest.checksum(&device)?;
    guest.check_that("same-after-attach", before == after, || format!("{before} before, {after} after"));
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// Where the driver can, it has kept new requests to itself at every hand-over.
fn check_requests_kept(guest: &mut Guest, rounds: u64) -> Result<()> {
    let log = guest.run("/bin/sh", &["-c", "cat /var/lib/plinth/targets/*.log"])?;
    let kept = log.matches("keeps new requests back").count() as u64;
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").doing(|| "read the kernel's release".into())?;
    let mut numbers = release.split(['.', '-', '+']).map(|part| part.trim().parse::<u32>().unwrap_or(0));
    let quiesces = (numbers.next(), numbers.next()) >= (Some(6), Some(16));
    let right = if quiesces { kept >= rounds } else { kept == 0 };
    guest.check_that("requests-kept", right, || format!("{kept} of {rounds} times on {release}: {log}"));
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

/// NVMe drives tell their health, and what they measure makes sense.
fn drives_speak(guest: &Guest) -> Result<()> {
    let mut last = Value::Null;
    let waited = guest.wait_until("the drives say how they are", Duration::from_secs(90), || {
        let out = guest.plinth(&["-o", "json", "drive", "list", POOL]).out;
        last = serde_json::from_str(&out).unwrap_or(Value::Null);
        last.as_array().is_some_and(|drives| drives.iter().all(|drive| drive["smart"].is_object()))
    });
    waited.map_err(|e| Error::failed(format!("{e}: {last}")))?;
    for drive in last.as_array().into_iter().flatten() {
        let smart = &drive["smart"];
        let warm = smart["temperature_celsius"].as_i64().is_some_and(|degrees| (0..150).contains(&degrees));
        if !warm || smart["spare_percent"].as_u64().is_none_or(|percent| percent > 100) {
            return Err(Error::failed(format!("a drive says {smart}")));
        }
    }
    guest.note(format!("the first drive says {}", last[0]["smart"]));
    Ok(())
}

fn copy(to: &str) -> Result<PathBuf> {
    fs::copy(PRODUCT, to).doing(|| format!("copy {PRODUCT} to {to}"))?;
    Ok(PathBuf::from(to))
}
