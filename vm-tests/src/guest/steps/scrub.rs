//! `scrub`: thousands of blocks of one drive are spoiled behind the volume's back, under load; a scrub finds, names and
//! repairs them.

use super::faults::verified_load;
use crate::error::{Context, Error, Result};
use crate::guest::drives::NvmeDrive;
use crate::guest::load::drop_caches;
use crate::guest::product::{POOL, VOLUME};
use crate::guest::{Guest, Memory};
use crate::oracle::{BLOCK_BYTES, content};
use crate::random::Random;
use nix::fcntl::OFlag;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const VOLUME_MIB: u64 = 256;
/// Where the blocks that are spoiled lie in the volume: behind the windows of the load.
const FIRST: u64 = 32 << 10;
/// How long the load goes on: longer than the scrub on a translated processor.
const LOAD_SECONDS: u64 = 20;
/// What is written and read at once.
const PIECE_BLOCKS: u64 = 64;
/// At each end of a drive: labels, which are the pool's and not the volume's.
const LABELS_BLOCKS: u64 = 256;
/// Of the blocks that are no data of ours, one in so many is spoiled: pages, bitmaps, and what is used no more.
const OTHERS: u64 = 8;

/// Data and records of one leg are spoiled while the volume is written; the scrub repairs all that counts, names it,
/// and leaves nothing for the next one. Then that leg alone has everything.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    guest.plinth_ok(&["pool", "set", POOL, "scrub_rate=0"])?;
    let blocks = guest.number("rounds")?;
    write(&device, blocks)?;
    // What is new goes below a checkpoint, and is where it stays.
    let first = scrub(guest)?;
    guest.check_that("first-finds-nothing", repaired(&first) == 0, || first.to_string());
    let load = verified_load(&device, LOAD_SECONDS).start()?;
    let (data, others) = spoil(guest, &drives[1], blocks)?;
    guest.note(format!("{data} blocks of data and {others} others are spoiled on {}", drives[1].name()));
    let second = scrub(guest)?;
    guest.note(format!("{} copies repaired", repaired(&second)));
    guest.check_that("all-data-repaired", repaired(&second) >= data, || format!("of {data}: {second}"));
    guest.check_that("nothing-lost", second["copies_lost"] == 0, || second.to_string());
    guest.check("named", named(guest, data));
    guest.check("load", load.finish().map_err(|e| e.to_string()));
    let third = scrub(guest)?;
    guest.check_that("second-scrub-is-clean", repaired(&third) == 0, || third.to_string());
    let json = guest.volume_json()?;
    guest.check_that("healthy", json["health"] == "online", || json.to_string());
    guest.check("data", read_back(&device, blocks));
    guest.plinth_ok(&["drive", "offline", POOL, &drives[0].name()])?;
    guest.check("data-of-that-leg-alone", read_back(&device, blocks));
    guest.plinth_ok(&["drive", "online", POOL, &drives[0].name()])?;
    guest.plinth_ok(&["volume", "show", VOLUME, "--watch"])?;
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// Runs a scrub to its end.
fn scrub(guest: &Guest) -> Result<Value> {
    let text = guest.plinth_ok(&["-o", "json", "scrub", "start", VOLUME, "--wait"])?;
    serde_json::from_str(&text).doing(|| format!("read the JSON of the scrub: {text}"))
}

fn repaired(scrub: &Value) -> u64 {
    scrub["copies_repaired"].as_u64().unwrap_or(u64::MAX)
}

fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlag::O_DIRECT.bits());
    options.open(path).doing(|| format!("open {}", path.display()))
}

fn write(device: &Path, blocks: u64) -> Result<()> {
    let (file, mut memory) = (open(device)?, Memory::new());
    for first in (FIRST..FIRST + blocks).step_by(PIECE_BLOCKS as usize) {
        let bytes = memory.take(PIECE_BLOCKS * BLOCK_BYTES as u64);
        for (block, piece) in (first..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            piece.copy_from_slice(&content(block, 1, false));
        }
        file.write_all_at(bytes, first * BLOCK_BYTES as u64)
            .doing(|| format!("write {}", device.display()))?;
    }
    file.sync_all().doing(|| format!("flush {}", device.display()))
}

fn read_back(device: &Path, blocks: u64) -> std::result::Result<(), String> {
    drop_caches();
    let (file, mut memory) = (open(device).map_err(|e| e.to_string())?, Memory::new());
    for first in (FIRST..FIRST + blocks).step_by(PIECE_BLOCKS as usize) {
        let bytes = memory.take(PIECE_BLOCKS * BLOCK_BYTES as u64);
        file.read_exact_at(bytes, first * BLOCK_BYTES as u64).map_err(|e| format!("block {first}: {e}"))?;
        for (block, piece) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
            if piece != content(block, 1, false) {
                return Err(format!("block {block} is not what was written"));
            }
        }
    }
    Ok(())
}

/// Spoils every block of our data on a drive, found by its content, and a part of everything else that is there.
/// Returns how many of each.
fn spoil(guest: &Guest, drive: &NvmeDrive, blocks: u64) -> Result<(u64, u64)> {
    let (file, mut memory) = (open(&drive.path)?, Memory::new());
    let mut random = Random::new(guest.number("seed")?);
    let (mut data, mut others) = (BTreeSet::new(), 0);
    let end = drive.size_bytes / BLOCK_BYTES as u64 - LABELS_BLOCKS;
    for first in (LABELS_BLOCKS..end).step_by(PIECE_BLOCKS as usize) {
        let count = PIECE_BLOCKS.min(end - first);
        let at = first * BLOCK_BYTES as u64;
        let bytes = memory.take(count * BLOCK_BYTES as u64);
        file.read_exact_at(bytes, at).doing(|| format!("read {}", drive.name()))?;
        for (number, piece) in (0u64..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            let other = piece.iter().any(|byte| *byte != 0) && random.below(OTHERS) == 0;
            match ours(piece, blocks) {
                Some(block) => drop(data.insert(block)),
                None if other => others += 1,
                None => continue,
            }
            let byte = usize::try_from(random.below(BLOCK_BYTES as u64)).expect("small");
            piece[byte] ^= 1 << random.below(8);
            // This block alone: its neighbours may have been written since they were read.
            file.write_all_at(piece, at + number * BLOCK_BYTES as u64)
                .doing(|| format!("spoil {}", drive.name()))?;
        }
    }
    let missing = blocks - data.len() as u64;
    if missing > 0 {
        return Err(Error::failed(format!("{missing} of {blocks} blocks are not on {}", drive.name())));
    }
    file.sync_all().doing(|| format!("flush {}", drive.name()))?;
    Ok((blocks, others))
}

/// The block of the volume whose content this is.
fn ours(piece: &[u8], blocks: u64) -> Option<u64> {
    let block = u64::from_le_bytes(piece[..8].try_into().expect("eight bytes"));
    let known = (FIRST..FIRST + blocks).contains(&block) && piece == content(block, 1, false);
    known.then_some(block)
}

/// Every drive copy that the events name is on one drive, and there are enough of them.
fn named(guest: &Guest, at_least: u64) -> std::result::Result<(), String> {
    let text = guest.plinth_ok(&["-o", "json", "events"]).map_err(|e| e.to_string())?;
    let events: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let (mut places, mut drives) = (0, BTreeSet::new());
    for event in events.as_array().into_iter().flatten().filter(|event| event["kind"] == "scrub_repaired") {
        let message = event["message"].as_str().unwrap_or_default();
        drives.extend(message.split(" on drive ").nth(1).and_then(|rest| rest.split(' ').next()));
        places += message.rsplit(": ").next().unwrap_or_default().split("; ").count() as u64;
    }
    match drives.len() == 1 && places >= at_least {
        true => Ok(()),
        false => Err(format!("{places} places on {drives:?}")),
    }
}
