//! `bench`, inside: fio on the product and on md over the same drives, in turns.
//!
//! Absolute figures of a translated machine mean nothing; ratios of neighbouring runs do, and even of those the
//! median of several. fio is pinned to one processor and what serves the device to the other, because unpinned
//! runs differ by a factor of three.

use crate::error::{Context, Error, Result};
use crate::guest::Guest;
use crate::guest::drives::NvmeDrive;
use crate::guest::product::{POOL, VOLUME};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What fio does: a name, its words, and the field of its terse output that counts (IOPS of reads or writes).
struct Work {
    name: &'static str,
    words: &'static [&'static str],
    field: usize,
}

const READ_IOPS: usize = 7;
const WRITE_IOPS: usize = 48;
const WORKS: &[Work] = &[
    Work {
        name: "randwrite-4k-d32",
        words: &["--rw=randwrite", "--bs=4k", "--iodepth=32", "--norandommap"],
        field: WRITE_IOPS,
    },
    Work {
        name: "randwrite-4k-d1",
        words: &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--norandommap"],
        field: WRITE_IOPS,
    },
    Work {
        name: "randread-4k-d32",
        words: &["--rw=randread", "--bs=4k", "--iodepth=32", "--norandommap"],
        field: READ_IOPS,
    },
    Work {
        name: "randread-4k-d1",
        words: &["--rw=randread", "--bs=4k", "--iodepth=1", "--norandommap"],
        field: READ_IOPS,
    },
    Work { name: "write-128k-d8", words: &["--rw=write", "--bs=128k", "--iodepth=8"], field: WRITE_IOPS },
    Work { name: "read-128k-d8", words: &["--rw=read", "--bs=128k", "--iodepth=8"], field: READ_IOPS },
];

/// A pair to compare.
struct Pair {
    theirs: &'static str,
    drives: usize,
    level: &'static str,
    ours: &'static [&'static str],
}

const PAIRS: [Pair; 2] = [
    Pair { theirs: "md-raid1", drives: 2, level: "1", ours: &["--legs", "2"] },
    Pair { theirs: "md-raid10", drives: 4, level: "10", ours: &["--legs", "2", "--columns", "2"] },
];

const SPAN_MIB: u64 = 384;

/// The figures of one side, by work, in the order of the rounds.
type Figures = Vec<Vec<u64>>;

/// Tells one line per work and pair: `row WORK/THEIRS|OUR IOPS ...|THEIR IOPS ...`, one figure per round.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    let rounds = guest.number("rounds")?;
    guest.start_agent()?;
    for pair in &PAIRS {
        let used = &drives[..pair.drives];
        let (mut ours, mut theirs): (Figures, Figures) =
            (vec![Vec::new(); WORKS.len()], vec![Vec::new(); WORKS.len()]);
        for round in 0..rounds {
            guest.note(format!("{} and the product, round {} of {rounds}", pair.theirs, round + 1));
            // In turns, so that a machine that becomes slower or faster favours neither.
            if round.is_multiple_of(2) {
                measure_ours(guest, pair, used, &mut ours)?;
                measure_theirs(guest, pair, used, &mut theirs)?;
            } else {
                measure_theirs(guest, pair, used, &mut theirs)?;
                measure_ours(guest, pair, used, &mut ours)?;
            }
        }
        for (work, (ours, theirs)) in WORKS.iter().zip(ours.iter().zip(&theirs)) {
            guest.tell(format!("row {}/{}|{}|{}", work.name, pair.theirs, words(ours), words(theirs)));
        }
    }
    guest.check("measured", Ok(()));
    Ok(())
}

fn words(figures: &[u64]) -> String {
    let words: Vec<String> = figures.iter().map(ToString::to_string).collect();
    words.join(" ")
}

fn measure_ours(guest: &Guest, pair: &Pair, drives: &[NvmeDrive], results: &mut [Vec<u64>]) -> Result<()> {
    let device = guest.new_device(drives, 512, pair.ours)?;
    pin(guest.target_pid()?)?;
    measure(guest, &device, results)?;
    guest.detach()?;
    guest.plinth_ok(&["volume", "delete", VOLUME, "--yes"])?;
    guest.plinth_ok(&["pool", "delete", POOL, "--yes"]).map(|_| ())
}

fn measure_theirs(guest: &Guest, pair: &Pair, drives: &[NvmeDrive], results: &mut [Vec<u64>]) -> Result<()> {
    let level = format!("--level={}", pair.level);
    let count = format!("--raid-devices={}", drives.len());
    let mut words =
        vec!["--create", "/dev/md0", &level, &count, "--bitmap=internal", "--assume-clean", "--run"];
    let names: Vec<String> = drives.iter().map(NvmeDrive::name).collect();
    words.extend(names.iter().map(String::as_str));
    guest.run("mdadm", &words)?;
    let device = PathBuf::from("/dev/md0");
    guest.wait_until("md0 appears", Duration::from_secs(10), || device.exists())?;
    pin(thread_named(&format!("md0_raid{}", pair.level))?)?;
    measure(guest, &device, results)?;
    guest.run("mdadm", &["--stop", "/dev/md0"])?;
    for drive in drives {
        guest.run("mdadm", &["--zero-superblock", &drive.name()])?;
    }
    Ok(())
}

/// A thread of the kernel.
fn thread_named(name: &str) -> Result<i32> {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let said = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if said.trim() == name
            && let Ok(pid) = entry.file_name().to_string_lossy().parse()
        {
            return Ok(pid);
        }
    }
    Err(Error::failed(format!("the kernel has no thread {name}")))
}

/// One pass over all works, after the span was written once in order and once more at random: a fresh device
/// is as fast as no used one ever is.
fn measure(guest: &Guest, device: &Path, results: &mut [Vec<u64>]) -> Result<()> {
    let file = format!("--filename={}", device.display());
    let size = format!("--size={SPAN_MIB}m");
    let common = ["--name=b", &file, &size, "--ioengine=libaio", "--direct=1", "--randrepeat=0"];
    guest.run("fio", &[&common[..], &["--rw=write", "--bs=1m", "--iodepth=4"]].concat())?;
    let churn = ["--rw=randwrite", "--bs=16k", "--iodepth=16", "--norandommap"];
    guest.run("fio", &[&common[..], &churn].concat())?;
    for (work, results) in WORKS.iter().zip(results) {
        let timed =
            ["--time_based", "--runtime=5", "--ramp_time=1", "--cpus_allowed=1", "--output-format=terse"];
        let out = guest.run("fio", &[&common[..], work.words, &timed[..]].concat())?;
        let line = out.lines().find(|l| l.starts_with("3;")).unwrap_or_default();
        let iops = line.split(';').nth(work.field).and_then(|f| f.parse::<f64>().ok());
        let iops = iops.ok_or_else(|| Error::failed(format!("fio printed no figures: {}", out.trim())))?;
        results.push(iops.round() as u64);
    }
    Ok(())
}

/// Puts a process and its threads on the first processor.
fn pin(pid: i32) -> Result<()> {
    let status = Command::new("taskset").args(["-a", "-p", "1", &pid.to_string()]).output();
    let status = status.doing(|| "run taskset".into())?.status;
    if status.success() { Ok(()) } else { Err(Error::failed(format!("taskset cannot pin {pid}"))) }
}
