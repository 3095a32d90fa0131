//! `memory`: a machine with so little memory that pages must be written through the device before any are free.
//!
//! Crash story: the kernel wants memory, so it writes dirty pages to the file system on our device; the target that
//! serves the device wants memory to do so; and nobody ever gets any. A target takes its memory when it starts, locks
//! it, and is marked as serving I/O, so this must not happen (statement D13). Here files are written through the page
//! cache while another process eats memory, and the kernel is told to write nothing back before it has to.

use super::files::{make_ext4, mount_ext4};
use crate::error::{Context, Error, Result};
use crate::guest::Guest;
use crate::guest::load::{Fnv, drop_caches};
use crate::random::Random;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The word that makes the guest agent eat memory.
pub const EATER: &str = "eat-memory";
const VOLUME_MIB: u64 = 512;
const MOUNT: &str = "/mnt/vol";
/// Each file is about a third of what the machine can have for its page cache.
const FILE_MIB: u64 = 24;
const MIB: usize = 1 << 20;
/// The eater stops for a while when no more than this is to be had, and gives half of its food back.
const LEFT_KIB: u64 = 16 << 10;
/// The longest that the load may take: far more than it needs, and less than the scenario's limit.
const PATIENCE: Duration = Duration::from_secs(300);

/// Files are written while memory is eaten; the load ends, the target lives, and everything is there.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    make_ext4(guest, &device)?;
    mount_ext4(guest, &device, MOUNT)?;
    is_hardened(guest)?;
    let target = guest.target_pid()?;
    // Dirty pages are written when memory is short, and hardly before. If that is not enough, the eater is killed.
    for (path, value) in [
        ("/proc/sys/vm/dirty_ratio", "70"),
        ("/proc/sys/vm/dirty_background_ratio", "60"),
        ("/proc/sys/vm/dirty_writeback_centisecs", "0"),
        ("/proc/self/oom_score_adj", "-1000"),
    ] {
        fs::write(path, value).doing(|| format!("write {path}"))?;
    }
    let before = Figures::now()?;
    let mut eater = Eater::start()?;
    let (files, seed) = (guest.number("rounds")?, guest.number("seed")?);
    let writer = std::thread::spawn(move || write_files(files, seed));
    let started = Instant::now();
    let (mut meals, mut least) = (1, u64::MAX);
    while !writer.is_finished() && started.elapsed() < PATIENCE {
        least = least.min(field("/proc/meminfo", "MemAvailable:")?);
        // The killer may take it: it is there to be taken first.
        if eater.has_ended() {
            std::thread::sleep(Duration::from_millis(500));
            (eater, meals) = (Eater::start()?, meals + 1);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = writer.is_finished();
    drop(eater);
    guest.check_that("load-ends", ended, || format!("not within {} s", PATIENCE.as_secs()));
    if !ended {
        return Err(Error::failed("the load hangs"));
    }
    let sums = writer.join().map_err(|_| Error::failed("the writer panicked"))??;
    let after = Figures::now()?;
    guest.note(format!(
        "{} files of {FILE_MIB} MiB in {} ms; {} times a process had to free memory itself, {} pages were freed, \
         {} MiB were left at least, {meals} meals",
        sums.len(),
        started.elapsed().as_millis(),
        after.stalls - before.stalls,
        after.freed - before.freed,
        least >> 10,
    ));
    let pressed = after.stalls > before.stalls && after.freed > before.freed;
    guest.check_that("memory-was-short", pressed, || format!("{before:?}, then {after:?}"));
    let now = guest.target_pid()?;
    let restarts = guest.volume_json()?["target"]["restarts"].as_u64();
    guest.check_that("target-lives", now == target && restarts == Some(0), || {
        format!("process {target}, then {now}, {restarts:?} restarts")
    });
    drop_caches();
    guest.check("files", compare(&sums));
    guest.run("umount", &[MOUNT])?;
    let checked = guest.run("e2fsck", &["-f", "-n", &device.to_string_lossy()]);
    guest.check("e2fsck", checked.map(|_| ()).map_err(|e| e.to_string()));
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// What a target does so that it can go on when there is no memory.
fn is_hardened(guest: &mut Guest) -> Result<()> {
    let pid = guest.target_pid()?;
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default();
    guest.check_that("spared-by-the-killer", score.trim() == "-1000", || format!("score {}", score.trim()));
    let status = format!("/proc/{pid}/status");
    let (locked, resident) = (field(&status, "VmLck:")?, field(&status, "VmRSS:")?);
    guest.note(format!("the target has {} MiB locked of {} MiB present", locked >> 10, resident >> 10));
    guest.check_that("memory-is-locked", locked >= resident, || {
        format!("{locked} KiB of {resident} are locked")
    });
    Ok(())
}

/// How often memory was short, since the machine started.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// A process had to free memory itself before it got any.
    stalls: u64,
    /// Pages that processes freed that way or the kernel's thread did.
    freed: u64,
}

impl Figures {
    fn now() -> Result<Figures> {
        let text = fs::read_to_string("/proc/vmstat").doing(|| "read /proc/vmstat".into())?;
        let sum = |prefix: &str| {
            let lines = text.lines().filter(|line| line.starts_with(prefix));
            lines.filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).sum()
        };
        let freed: u64 = sum("pgsteal_direct ");
        Ok(Figures { stalls: sum("allocstall_"), freed: freed + sum("pgsteal_kswapd ") })
    }
}

/// A number of a file of lines like `MemAvailable:   123 kB`.
fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).doing(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Error::failed(format!("{path} has no {name}")))
}

/// The process that eats; ended when dropped.
struct Eater(Child);

impl Eater {
    fn start() -> Result<Eater> {
        let own = std::env::current_exe().doing(|| "find this program".into())?;
        Command::new(own).arg(EATER).spawn().map(Eater).doing(|| "start the eater".into())
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Eater {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Eats memory until hardly any is left, gives half of it back, and begins anew; until it is killed.
///
/// # Errors
/// What there is to eat cannot be read.
pub fn eat() -> Result<()> {
    fs::write("/proc/self/oom_score_adj", "1000").doing(|| "offer itself to the killer".into())?;
    let mut food: Vec<Vec<u8>> = Vec::new();
    loop {
        if field("/proc/meminfo", "MemAvailable:")? > LEFT_KIB {
            food.push(vec![1; MIB]);
        } else {
            std::thread::sleep(Duration::from_millis(5));
            food.truncate(food.len() / 2);
        }
    }
}

/// Writes files through the page cache, the last of them synced; returns their sums.
fn write_files(files: u64, seed: u64) -> Result<Vec<(PathBuf, String)>> {
    let mut sums = Vec::new();
    for number in 0..files {
        // Some are written over: pages of a file that is there are dirtied anew.
        let path = Path::new(MOUNT).join(format!("file-{}", number % (VOLUME_MIB / FILE_MIB / 2)));
        let mut random = Random::new(seed ^ number << 32);
        let mut file = File::options().write(true).create(true).truncate(false).open(&path);
        let file =
            file.as_mut().map_err(|e| Error::failed(format!("cannot open {}: {e}", path.display())))?;
        let (mut sum, mut piece) = (Fnv::new(), vec![0u8; 64 << 10]);
        for _ in 0..(FILE_MIB << 20) / piece.len() as u64 {
            piece.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.draw().to_le_bytes()));
            sum.add(&piece);
            file.write_all(&piece).doing(|| format!("write {}", path.display()))?;
        }
        if number + 1 == files {
            file.sync_all().doing(|| format!("sync {}", path.display()))?;
        }
        sums.retain(|(other, _)| *other != path);
        sums.push((path, sum.text()));
    }
    nix::unistd::sync();
    Ok(sums)
}

fn compare(sums: &[(PathBuf, String)]) -> std::result::Result<(), String> {
    let mut piece = vec![0u8; 64 << 10];
    for (path, wanted) in sums {
        let mut file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut sum = Fnv::new();
        loop {
            match file.read(&mut piece).map_err(|e| format!("{}: {e}", path.display()))? {
                0 => break,
                got => sum.add(&piece[..got]),
            }
        }
        if sum.text() != *wanted {
            return Err(format!("{} is {}, {wanted} was written", path.display(), sum.text()));
        }
    }
    Ok(())
}
