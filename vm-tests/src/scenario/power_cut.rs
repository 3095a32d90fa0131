//! `power-cut`, outside: the machine is killed at a random instant, its drives are made anew as a power cut
//! leaves them, and what the volume then holds is compared with what it may hold.
//!
//! One round: boot on the drives of the last round; let the load run for a while; kill; rebuild each drive
//! from its own write log, each leg with its own unflushed tail kept, dropped or torn; check the drives
//! offline; open them on this host and compare every block with the oracle; boot on. The machine says a
//! checksum of the whole volume after it attached, which must be that of what was read here: two opens of
//! one recovered volume see the same (contract C4).

use super::Session;
use super::native::{Native, fsck};
use crate::children::run_checked;
use crate::error::{Context, Error, Result};
use crate::guest::Fnv;
use crate::machine::{Drive, Machine};
use crate::oracle::{BLOCK_BYTES, Fact, Oracle};
use crate::protocol::Message;
use crate::random::Random;
use crate::writelog::{Log, Manner, rebuild};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The volume: four writers' windows and room around them.
const VOLUME_MIB: u64 = 256;
/// A new pool is made after so many cuts, so that young and old ones are cut.
const CUTS_PER_POOL: u64 = 5;
/// The load runs between these two before the cut.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_millis(4_000);

/// The host's half.
pub fn run(session: &mut Session<'_>) -> Result<()> {
    let plinth = session.bench.plinth.clone();
    let plinth = plinth.ok_or_else(|| Error::missing("the plinth binary was not built"))?;
    let mut random = Random::new(session.bench.seed);
    let mut chain: Option<Chain> = None;
    for cut in 0..session.rounds() {
        if cut.is_multiple_of(CUTS_PER_POOL) {
            chain = None;
        }
        let current = match chain.take() {
            Some(chain) => chain,
            None => Chain::new(session)?,
        };
        let next = one_cut(session, current, &plinth, cut, &mut random);
        match next {
            Ok(next) => chain = Some(next),
            Err(error) => {
                session.check(format!("cut-{cut}"), Err(error.to_string()));
                keep(session, cut)?;
            }
        }
    }
    Ok(())
}

/// The drives of one pool over several cuts, and what they may hold.
pub(super) struct Chain {
    pub(super) drives: Vec<Drive>,
    pub(super) oracle: Oracle,
    pub(super) cuts: u64,
    /// The checksum of the volume as it was read on this host after the last cut.
    sum: Option<String>,
}

impl Chain {
    pub(super) fn new(session: &Session<'_>) -> Result<Chain> {
        Ok(Chain { drives: session.new_drives(true)?, oracle: Oracle::new(), cuts: 0, sum: None })
    }
}

fn one_cut(
    session: &mut Session<'_>,
    mut chain: Chain,
    plinth: &Path,
    cut: u64,
    random: &mut Random,
) -> Result<Chain> {
    let bases = copy_bases(&chain.drives)?;
    let span = u64::try_from((LONGEST - SHORTEST).as_millis()).expect("a few seconds");
    let load_for = SHORTEST + Duration::from_millis(random.below(span));
    // From a database's rate of flushes to almost none.
    let flush_one_in = [6, 40, 400][usize::try_from(random.below(3)).expect("small")];
    let sum = load_and_cut(session, &mut chain, load_for, flush_one_in)?;
    if let (Some(here), Some(there)) = (&chain.sum, &sum) {
        let outcome = if here == there { Ok(()) } else { Err(format!("{here} outside, {there} inside")) };
        session.check(format!("cut-{cut}-same-inside"), outcome);
    }
    let mut tails = Vec::new();
    for (drive, base) in chain.drives.iter().zip(&bases) {
        let log_path = drive.log.as_ref().expect("the drives of a cut are logged");
        let log = Log::read(log_path, session.scenario.drive_mib << 20)?;
        let fate = rebuild(log_path, &log, base, Manner::HONEST, random.draw())?;
        tails.push(format!("{} kept {} dropped {} torn", fate.kept, fate.dropped, fate.torn));
        fs::rename(base, &drive.image).doing(|| format!("replace {}", drive.image.display()))?;
        session.images += 1;
    }
    let images: Vec<PathBuf> = chain.drives.iter().map(|d| d.image.clone()).collect();
    let content = session.folder.join("volume");
    // A pool that was cut before its first volume was durable is not looked at: it has nothing to lose.
    fsck(plinth, &images)?;
    let native = Native::start(plinth, &session.folder.join("native"))?;
    native.copy_volume(&images, crate::guest::VOLUME, &content)?;
    native.stop()?;
    fsck(plinth, &images)?;
    let (facts, flushes) = (chain.oracle.facts, chain.oracle.flushes);
    let file = fs::File::open(&content).doing(|| format!("open {}", content.display()))?;
    let settled = chain.oracle.settle(|block| read_block(&file, block));
    if let Ok(settled) = &settled {
        eprintln!(
            "  cut {cut}: after {} ms, {facts} facts, {flushes} flushes; tails {}; {} blocks right, {} lost a late write",
            load_for.as_millis(),
            tails.join(" and "),
            settled.blocks,
            settled.older
        );
    }
    let outcome = settled.map(|_| ()).map_err(|wrong| wrong.join("; "));
    let right = outcome.is_ok();
    session.check(format!("cut-{cut}"), outcome);
    if !right {
        return Err(Error::failed("the volume holds what it must not"));
    }
    chain.sum = Some(checksum(&content)?);
    chain.cuts += 1;
    Ok(chain)
}

/// Boots, waits for the load, lets it run, cuts, and takes everything that was still on its way. Returns the
/// checksum that the machine said.
pub(super) fn load_and_cut(
    session: &mut Session<'_>,
    chain: &mut Chain,
    load_for: Duration,
    flush_one_in: u64,
) -> Result<Option<String>> {
    let parameters = [
        ("bare", u64::from(!session.scenario.product).to_string()),
        ("resumes", u64::from(chain.cuts > 0).to_string()),
        ("flush_one_in", flush_one_in.to_string()),
        ("volume_mib", VOLUME_MIB.to_string()),
        // Versions never repeat within a chain: an older content must be told from a newer.
        ("first_version", ((chain.cuts + 1) << 32).to_string()),
    ];
    for drive in &chain.drives {
        if let Some(log) = &drive.log {
            fs::write(log, []).doing(|| format!("empty {}", log.display()))?;
        }
    }
    let mut machine = session.boot(&chain.drives, &parameters)?;
    let mut sum = None;
    let mut until = Instant::now() + session.scenario.limit;
    loop {
        match machine.next_before(until)? {
            Some(Message::Tell(text)) if text == "loading" => until = Instant::now() + load_for,
            Some(message) => take(message, &mut chain.oracle, &mut sum)?,
            None => break,
        }
    }
    machine.cut();
    drain(&mut machine, &mut chain.oracle, &mut sum)?;
    if chain.oracle.facts == 0 {
        return Err(Error::failed("the load had not begun when its time was over"));
    }
    Ok(sum)
}

fn drain(machine: &mut Machine, oracle: &mut Oracle, sum: &mut Option<String>) -> Result<()> {
    while let Some(message) = machine.drain() {
        take(message, oracle, sum)?;
    }
    Ok(())
}

fn take(message: Message, oracle: &mut Oracle, sum: &mut Option<String>) -> Result<()> {
    match message {
        Message::Tell(text) => match text.strip_prefix("sum ") {
            Some(said) => *sum = Some(said.to_owned()),
            None => {
                if let Some(fact) = Fact::parse(&text) {
                    oracle.take(fact);
                }
            }
        },
        Message::Result(outcome) => return outcome.map_err(Error::failed),
        Message::Check(name, Err(why)) => return Err(Error::failed(format!("{name}: {why}"))),
        _ => {}
    }
    Ok(())
}

/// The drives as they are before the machine writes to them: the ground on which its log is laid.
pub(super) fn copy_bases(drives: &[Drive]) -> Result<Vec<PathBuf>> {
    let mut bases = Vec::new();
    for drive in drives {
        let base = drive.image.with_extension("base");
        copy_sparse(&drive.image, &base)?;
        bases.push(base);
    }
    Ok(bases)
}

/// Copies a drive without filling its holes.
pub(super) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    copy.args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to);
    run_checked(&copy).map(|_| ())
}

/// A block of a file; nothing where the file has no such block.
pub(super) fn read_block(file: &fs::File, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    match file.read_exact_at(&mut bytes, block * BLOCK_BYTES as u64) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

fn checksum(path: &Path) -> Result<String> {
    let bytes = fs::read(path).doing(|| format!("read {}", path.display()))?;
    let mut sum = Fnv::new();
    for chunk in bytes.chunks(1 << 20) {
        sum.add(chunk);
    }
    Ok(sum.text())
}

/// Keeps the drives of a failed cut, with their logs, for whoever looks into it.
fn keep(session: &Session<'_>, cut: u64) -> Result<()> {
    let folder = session.folder.join(format!("failed-cut-{cut}"));
    fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
    for entry in fs::read_dir(&session.folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("drive-") {
            let _ = fs::rename(entry.path(), folder.join(entry.file_name()));
        }
    }
    Ok(())
}
