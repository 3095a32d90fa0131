//! `full-pool`: a volume that is larger than its pool is written until there is no space, and goes on when drives are
//! added, without a detach.

use crate::error::{Context, Error, Result};
use crate::guest::drives::NvmeDrive;
use crate::guest::product::{POOL, VOLUME};
use crate::guest::{Guest, Memory};
use crate::oracle::{BLOCK_BYTES, content};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

const VOLUME_MIB: u64 = 2048;
/// What is written at once.
const CHUNK_BLOCKS: u64 = 64;
const CHUNK_BYTES: u64 = CHUNK_BLOCKS * BLOCK_BYTES as u64;
/// The longest that space may take to be noticed, once it is there.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pool of two drives becomes full, twice: once space is freed by a discard, once two drives are added. Nothing that
/// was acknowledged is lost, and the device is the same all the time.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let (first, more) = drives.split_at(2);
    verb(guest, &["pool", "create", POOL, "--extent-size", "8MiB"], first)?;
    let size = format!("{VOLUME_MIB}MiB");
    guest.plinth_ok(&["volume", "create", VOLUME, "--pool", POOL, "--size", &size])?;
    let device = guest.attach()?;
    let target = guest.target_pid()?;
    let mut load = Load::open(&device)?;
    let full_at = load.fill(0, 1)?;
    guest.note(format!("no space after {} MiB", (full_at * CHUNK_BYTES) >> 20));
    guest.check("flush-when-full", load.file.sync_all().map_err(|e| e.to_string()));
    guest.check("nothing-lost-when-full", load.verify());
    says_full(guest)?;
    discard_frees(guest, &device, &mut load)?;
    verb(guest, &["pool", "add", POOL], more)?;
    let more_at = load.next;
    guest
        .wait_until("the volume takes more", PATIENCE, || matches!(load.write(more_at, 3), Ok(true)))
        .map_err(|e| Error::failed(format!("{e}: {}", guest.plinth(&["events"]).text())))?;
    let again = load.fill(more_at + 1, 3)?;
    guest.note(format!("full again after {} MiB", (again * CHUNK_BYTES) >> 20));
    guest.check_that("added-space-is-used", again > full_at * 3 / 2, || {
        format!("{full_at} chunks were there before, {again} are now")
    });
    guest.check("nothing-lost", load.verify());
    let now = guest.target_pid()?;
    guest.check_that("same-target", now == target, || format!("process {target}, then {now}"));
    let json = guest.volume_json()?;
    guest.check_that("healthy", json["health"] == "online", || json.to_string());
    drop(load.file);
    guest.attach_again("same-after-attach", &device)?;
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// Runs a verb with drives behind it.
fn verb(guest: &Guest, words: &[&str], drives: &[NvmeDrive]) -> Result<String> {
    let names: Vec<String> = drives.iter().map(NvmeDrive::name).collect();
    let words: Vec<&str> = words.iter().copied().chain(names.iter().map(String::as_str)).collect();
    guest.plinth_ok(&words)
}

/// The pool says that it is full, and what to do; each mark on the way was an event.
fn says_full(guest: &mut Guest) -> Result<()> {
    let events = || guest.plinth(&["-o", "json", "events"]).out;
    let waited = guest.wait_until("the pool is told full", PATIENCE, || {
        let events = events();
        ["pool_space", "pool_space_low", "pool_full"].iter().all(|kind| has_kind(&events, kind))
    });
    let told = waited.map(|_| ()).map_err(|e| format!("{e}: {}", events().replace('\n', " ")));
    guest.check("events-at-80-90-and-full", told);
    let shown = guest.plinth_ok(&["-o", "json", "pool", "status", POOL])?;
    let pool: Value = serde_json::from_str(&shown).doing(|| format!("read the JSON of the pool: {shown}"))?;
    let says = pool["status"].is_string() && pool["action"].as_str().is_some_and(|a| a.contains("add"));
    guest.check_that("status-says-what-to-do", says, || pool.to_string());
    Ok(())
}

fn has_kind(events: &str, kind: &str) -> bool {
    let events: Value = serde_json::from_str(events).unwrap_or(Value::Null);
    events.as_array().into_iter().flatten().any(|event| event["kind"] == kind)
}

/// A range is discarded; what that frees can be written again.
fn discard_frees(guest: &mut Guest, device: &Path, load: &mut Load) -> Result<()> {
    let (path, chunks) = (device.to_string_lossy().into_owned(), load.next / 4);
    let length = (chunks * CHUNK_BYTES).to_string();
    guest.run("blkdiscard", &["-o", "0", "-l", &length, &path])?;
    load.versions.retain(|chunk, _| *chunk >= chunks);
    let zeros = load.reads_zero(0, chunks);
    guest.check("discarded-is-zero", zeros);
    // Freed blocks can be used behind the next checkpoint, which a full volume makes by itself.
    for chunk in 0..chunks / 2 {
        guest.wait_until("freed space is used", PATIENCE, || matches!(load.write(chunk, 2), Ok(true)))?;
    }
    guest.check("nothing-lost-after-discard", load.verify());
    Ok(())
}

/// What was acknowledged, chunk by chunk.
struct Load {
    file: File,
    memory: Memory,
    /// By chunk, the version that was acknowledged last.
    versions: BTreeMap<u64, u64>,
    /// The first chunk that was never written.
    next: u64,
}

impl Load {
    fn open(device: &Path) -> Result<Load> {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(OFlag::O_DIRECT.bits());
        let file = options.open(device).doing(|| format!("open {}", device.display()))?;
        Ok(Load { file, memory: Memory::new(), versions: BTreeMap::new(), next: 0 })
    }

    /// Writes a chunk; false if there is no space for it.
    fn write(&mut self, chunk: u64, version: u64) -> Result<bool> {
        let first = chunk * CHUNK_BLOCKS;
        let bytes = self.memory.take(CHUNK_BYTES);
        for (block, piece) in (first..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            piece.copy_from_slice(&content(block, version, false));
        }
        match self.file.write_all_at(bytes, chunk * CHUNK_BYTES) {
            Ok(()) => {
                self.versions.insert(chunk, version);
                self.next = self.next.max(chunk + 1);
                Ok(true)
            }
            Err(error) if error.raw_os_error() == Some(Errno::ENOSPC as i32) => Ok(false),
            Err(error) => Err(Error::failed(format!("chunk {chunk}: {error}"))),
        }
    }

    /// Writes chunk after chunk until there is no space; returns the first that was refused.
    fn fill(&mut self, from: u64, version: u64) -> Result<u64> {
        let end = (VOLUME_MIB << 20) / CHUNK_BYTES;
        for chunk in from..end {
            if !self.write(chunk, version)? {
                return Ok(chunk);
            }
        }
        Err(Error::failed(format!("a pool that is smaller took all {VOLUME_MIB} MiB of its volume")))
    }

    /// Everything that was acknowledged is there. Of a chunk that was refused a part may be, which nobody promised.
    fn verify(&mut self) -> std::result::Result<(), String> {
        for (chunk, version) in &self.versions {
            let bytes = self.memory.take(CHUNK_BYTES);
            self.file.read_exact_at(bytes, chunk * CHUNK_BYTES).map_err(|e| format!("chunk {chunk}: {e}"))?;
            for (block, piece) in (chunk * CHUNK_BLOCKS..).zip(bytes.chunks(BLOCK_BYTES)) {
                if piece != content(block, *version, false) {
                    return Err(format!("block {block} is not its version {version}"));
                }
            }
        }
        Ok(())
    }

    fn reads_zero(&mut self, from: u64, to: u64) -> std::result::Result<(), String> {
        for chunk in from..to {
            let bytes = self.memory.take(CHUNK_BYTES);
            self.file.read_exact_at(bytes, chunk * CHUNK_BYTES).map_err(|e| format!("chunk {chunk}: {e}"))?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Err(format!("chunk {chunk} has data"));
            }
        }
        Ok(())
    }
}
