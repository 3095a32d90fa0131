//! One image: made, checked offline, opened, compared, closed and checked again.
use super::files;
use super::ground::{Ground, Layered};
use super::open::{CONFIG, at_hand, opening};
use crate::image::{Machine, Stuck};
use crate::random::Random;
use base::limits::SLOT_DATA_BLOCKS;
use base::{BLOCK_BYTES, Lba, Phase, SECTORS_PER_BLOCK};
use plinth_check::{Media, Options, fsck_with_keys};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use vm_tests::oracle::Oracle;
use vm_tests::writelog::Manner;

/// Blocks that are read at once.
const AT_ONCE: u64 = (SLOT_DATA_BLOCKS - 1) as u64;
/// Steps of a recovery, of which one is chosen to be the last.
const RECOVERY_STEPS: usize = 200;

/// A power cut: the drives' grounds and what is known of the volume.
pub struct Cut {
    /// The drives.
    pub grounds: Vec<Ground>,
    /// What the volume may hold.
    pub oracle: Oracle,
    /// What the drives do to unflushed writes.
    pub manner: Manner,
    /// Whether the volume holds an ext4.
    pub has_files: bool,
    /// Where volumes are put to be checked.
    pub scratch: PathBuf,
    /// The folder of the keys of encrypted volumes.
    pub keys: PathBuf,
}

/// What some images saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Images that were opened and judged.
    pub images: u64,
    /// Writes at risk that were kept.
    pub kept: u64,
    /// That were dropped.
    pub dropped: u64,
    /// That were torn.
    pub torn: u64,
    /// Power failures inside recovery.
    pub again: u64,
    /// Power failures behind it.
    pub later: u64,
    /// Blocks compared.
    pub blocks: u64,
    /// Files compared.
    pub files: u64,
}

impl Figures {
    /// Adds another's.
    pub fn add(&mut self, other: Figures) {
        self.images += other.images;
        self.kept += other.kept;
        self.dropped += other.dropped;
        self.torn += other.torn;
        self.again += other.again;
        self.later += other.later;
        self.blocks += other.blocks;
        self.files += other.files;
    }
}

impl Cut {
    /// Makes and judges the image of a seed.
    ///
    /// # Errors
    /// In words: what is wrong.
    pub fn judge(&self, seed: u64) -> Result<Figures, String> {
        let judged = catch_unwind(AssertUnwindSafe(|| self.judge_once(seed)));
        judged.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
            Err(format!("a panic: {text}"))
        })
    }

    fn judge_once(&self, seed: u64) -> Result<Figures, String> {
        let keys = self.keys.as_path();
        let mut random = Random::new(seed);
        let mut figures = Figures { images: 1, ..Figures::default() };
        let mut drives = Vec::new();
        for ground in &self.grounds {
            let (drive, [kept, dropped, torn]) =
                ground.after_cut(self.manner, random.next()).map_err(|error| error.to_string())?;
            figures.add(Figures { kept, dropped, torn, ..Figures::default() });
            drives.push(drive);
        }
        sound(&drives, keys, "as the cut left them")?;
        let way = random.below(4);
        let mut number = 1;
        if way == 0 {
            for _ in 0..=random.below(3) {
                drives = fail_inside(drives, number, keys, &mut random)?;
                number += 1;
                figures.again += 1;
            }
            sound(&drives, keys, "after a recovery that did not end")?;
        }
        let mut oracle = self.oracle.clone();
        let mut machine = open(drives, number, keys)?;
        figures.blocks += settle(&mut machine, &mut oracle)?;
        if way == 1 {
            // What was read is there for good, though nobody has flushed since.
            machine = open(lose_power(machine.drives, &mut random), number + 1, keys)?;
            settle(&mut machine, &mut oracle).map_err(|why| format!("after it had been read: {why}"))?;
            figures.later += 1;
        }
        if self.has_files {
            self.check_files(&mut machine, seed)?;
            figures.files += self.oracle.files().len() as u64;
        }
        match machine.close().map_err(|Stuck(why)| why)? {
            true => sound(&machine.drives, keys, "after it was closed")?,
            false => return Err(format!("it does not close: {:?}", machine.engine().halted())),
        }
        Ok(figures)
    }

    fn check_files(&self, machine: &mut Machine<Layered<'_>>, seed: u64) -> Result<(), String> {
        let path = self.scratch.join(format!("volume-{seed}"));
        let outcome = copy(machine, &path)
            .and_then(|()| files::check(&path, &self.scratch.join(format!("files-{seed}")), &self.oracle));
        let _ = std::fs::remove_file(&path);
        outcome
    }
}

/// The offline check finds nothing.
fn sound(drives: &[Layered<'_>], keys: &Path, when: &str) -> Result<(), String> {
    let names: Vec<String> = (0..drives.len()).map(|drive| format!("drive {drive}")).collect();
    let named: Vec<(&str, &dyn Media)> =
        names.iter().map(String::as_str).zip(drives.iter().map(|drive| drive as &dyn Media)).collect();
    let report = fsck_with_keys(&named, &Options::default(), &at_hand(drives, keys));
    let problems: Vec<String> = report.problems().take(4).map(ToString::to_string).collect();
    match report.is_clean() {
        true => Ok(()),
        false => Err(format!("the drives {when}: {}", problems.join(" | "))),
    }
}

fn open<'a>(drives: Vec<Layered<'a>>, number: u8, keys: &Path) -> Result<Machine<Layered<'a>>, String> {
    let (request, rows, keys) = opening(&drives, number, keys)?;
    let mut machine = Machine::with_keys(drives, CONFIG, request, rows, keys);
    match machine.wait_open() {
        Ok(Phase::Serving) => Ok(machine),
        Ok(phase) => Err(format!("it does not open: {phase:?}, {:?}", machine.engine().refusal())),
        Err(Stuck(why)) => Err(why),
    }
}

/// Recovery begins, and the power fails in the middle of it.
fn fail_inside<'a>(
    drives: Vec<Layered<'a>>,
    number: u8,
    keys: &Path,
    random: &mut Random,
) -> Result<Vec<Layered<'a>>, String> {
    let (request, rows, keys) = opening(&drives, number, keys)?;
    let mut machine = Machine::with_keys(drives, CONFIG, request, rows, keys);
    machine.open_a_little(random.below(RECOVERY_STEPS) as u64);
    Ok(lose_power(machine.drives, random))
}

fn lose_power<'a>(mut drives: Vec<Layered<'a>>, random: &mut Random) -> Vec<Layered<'a>> {
    drives.iter_mut().for_each(|drive| drive.lose_power(random));
    drives
}

/// Every block that the load wrote is one that it may be; how many were compared.
fn settle(machine: &mut Machine<Layered<'_>>, oracle: &mut Oracle) -> Result<u64, String> {
    let volume_blocks = blocks_of(machine);
    let (mut start, mut bytes, mut failed) = (u64::MAX, Vec::new(), None);
    let settled = oracle.settle(|block| {
        let chunk = block / AT_ONCE * AT_ONCE;
        if chunk != start {
            start = chunk;
            bytes = match machine.read(Lba::new(chunk), AT_ONCE.min(volume_blocks - chunk) as u32) {
                Ok(Ok(bytes)) => bytes,
                other => {
                    failed.get_or_insert(format!("blocks from {chunk} on cannot be read: {other:?}"));
                    Vec::new()
                }
            };
        }
        let at = (block - chunk) as usize * BLOCK_BYTES;
        bytes.get(at..at + BLOCK_BYTES).map(<[u8]>::to_vec).unwrap_or_default()
    });
    match (failed, settled) {
        (Some(why), _) => Err(why),
        (None, Err(wrong)) => Err(format!("the volume holds what it must not: {}", wrong.join("; "))),
        (None, Ok(settled)) => Ok(settled.blocks),
    }
}

fn blocks_of(machine: &Machine<Layered<'_>>) -> u64 {
    machine.engine().sectors().map_or(0, |sectors| sectors.get() / SECTORS_PER_BLOCK)
}

/// Puts the whole volume into a file, with holes where it is zero.
fn copy(machine: &mut Machine<Layered<'_>>, to: &Path) -> Result<(), String> {
    let blocks = blocks_of(machine);
    let wrong = |error: io::Error| format!("cannot write {}: {error}", to.display());
    let file = File::create(to).map_err(wrong)?;
    file.set_len(blocks * BLOCK_BYTES as u64).map_err(wrong)?;
    for at in (0..blocks).step_by(AT_ONCE as usize) {
        match machine.read(Lba::new(at), AT_ONCE.min(blocks - at) as u32) {
            Ok(Ok(bytes)) if bytes.iter().all(|byte| *byte == 0) => {}
            Ok(Ok(bytes)) => file.write_all_at(&bytes, at * BLOCK_BYTES as u64).map_err(wrong)?,
            other => return Err(format!("blocks from {at} on cannot be read: {other:?}")),
        }
    }
    Ok(())
}
