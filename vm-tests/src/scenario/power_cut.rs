//! `power-cut`, outside: the machine is cut off from its drives at a random instant and killed, its drives are made anew as a power cut
//! leaves them, and what the volume then holds is compared with what it may hold.
//!
//! One cut: boot on the drives of the last cut; let the load run for a while; kill. Then many images are made of the
//! write logs, each with its own choice of what each drive keeps, loses or tears of its unflushed writes. Most are
//! opened in memory by `plinth-cut`, which costs some tens of milliseconds each; some see the power fail again inside
//! recovery or behind it. The last one is made of files: checked offline, opened by the program itself on this host,
//! every block compared with the oracle, checked again. The next machine boots on it, every other time before this
//! host has recovered it. It says a checksum of the whole volume after it attached, which must be that of what was
//! read here: two opens of one volume see the same (contract C4). Behind the last cut of a pool one more machine
//! comes up, without load.
//!
//! Pools have different shapes, every other one holds an ext4, whose files are written instead of blocks, and half of them
//! are encrypted.

use super::Session;
use super::native::{Native, fsck};
use crate::children::{Output, run_checked, run_lines};
use crate::error::{Context, Error, Result};
use crate::guest::Fnv;
use crate::kernel::Which;
use crate::key;
use crate::machine::{Drive, Machine};
use crate::oracle::{BLOCK_BYTES, Fact, Oracle, Settled};
use crate::protocol::{MARK, MARKED, Message};
use crate::random::Random;
use crate::writelog::{Log, Manner, rebuild};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The volume: four writers' windows and room around them.
const VOLUME_MIB: u64 = 128;
/// A new pool is made after so many cuts, so that young and old ones are cut.
const CUTS_PER_POOL: u64 = 5;
/// What the pools are, one after the other; the smoke runs of the two kernels begin four apart.
const SHAPES: [Shape; 8] = [
    Shape { legs: 2, columns: 1, files: false, sector_bytes: 512, encrypted: false },
    Shape { legs: 2, columns: 2, files: true, sector_bytes: 512, encrypted: true },
    Shape { legs: 1, columns: 1, files: false, sector_bytes: 512, encrypted: false },
    Shape { legs: 3, columns: 1, files: true, sector_bytes: 512, encrypted: true },
    Shape { legs: 3, columns: 1, files: false, sector_bytes: 512, encrypted: true },
    Shape { legs: 2, columns: 1, files: true, sector_bytes: 512, encrypted: false },
    Shape { legs: 2, columns: 2, files: false, sector_bytes: 512, encrypted: true },
    Shape { legs: 1, columns: 2, files: true, sector_bytes: 512, encrypted: false },
];
/// How long a busy host may take to pass an answer on.
const MARK_PATIENCE: Duration = Duration::from_secs(120);
/// No word comes from a machine that stands still for so long: the pipe is empty. If it was not, the comparison is less
/// strict by what was left in it, and no more.
const PIPE_IS_EMPTY: Duration = Duration::from_millis(20);
/// The images of one cut take this long at most, also on a busy host.
const IMAGES_LIMIT: Duration = Duration::from_secs(900);
/// The load runs between these two before the cut.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_millis(3_000);

/// The host's half.
pub fn run(session: &mut Session<'_>) -> Result<()> {
    // The two kernels of a smoke run see different cuts.
    let floor = session.kernel.which == Which::Floor;
    let mut random = Random::new(session.bench.seed ^ u64::from(floor) << 63);
    let mut chain: Option<Chain> = None;
    let mut cut = 0;
    while cut < session.rounds() {
        let current = match chain.take() {
            Some(chain) => chain,
            None => {
                let pool = cut.div_ceil(CUTS_PER_POOL) + if floor { 4 } else { 0 };
                Chain::new(session, SHAPES[usize::try_from(pool % 8).expect("below 8")])?
            }
        };
        let last = (cut + 1).is_multiple_of(CUTS_PER_POOL) || cut + 1 == session.rounds();
        let outcome = one_cut(session, current, cut, &mut random).and_then(|mut next| {
            if last {
                come_up(session, &mut next)?;
                return Ok(None);
            }
            Ok(Some(next))
        });
        match outcome {
            Ok(next) => chain = next,
            Err(error) if session.excuse() => {
                eprintln!("  cut {cut}: once more, on a new pool, for the emulator failed: {error}");
                continue;
            }
            Err(error) => {
                session.check(format!("cut-{cut}"), Err(error.to_string()));
                keep(session, cut)?;
            }
        }
        cut += 1;
    }
    Ok(())
}

/// What a volume is, and what is on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) legs: u32,
    pub(super) columns: u32,
    /// Whether it holds an ext4 whose files are written, instead of blocks.
    pub(super) files: bool,
    /// Bytes of its drives' sectors: what they tear at.
    pub(super) sector_bytes: u32,
    /// Whether it is encrypted.
    pub(super) encrypted: bool,
}

/// The drives of one pool over several cuts, and what they may hold.
pub(super) struct Chain {
    shape: Shape,
    pub(super) drives: Vec<Drive>,
    pub(super) oracle: Oracle,
    pub(super) cuts: u64,
    /// The last cut and the checksum of the volume as it was read on this host after it.
    sum: Option<(u64, String)>,
}

impl Chain {
    pub(super) fn new(session: &Session<'_>, shape: Shape) -> Result<Chain> {
        let mut drives = session.some_drives(shape.legs * shape.columns, true)?;
        drives.iter_mut().for_each(|drive| drive.sector_bytes = shape.sector_bytes);
        Ok(Chain { shape, drives, oracle: Oracle::new(), cuts: 0, sum: None })
    }
}

pub(super) fn one_cut(
    session: &mut Session<'_>,
    mut chain: Chain,
    cut: u64,
    random: &mut Random,
) -> Result<Chain> {
    let bases = copy_bases(&chain.drives)?;
    let span = u64::try_from((LONGEST - SHORTEST).as_millis()).expect("a few seconds");
    let load_for = SHORTEST + Duration::from_millis(random.below(span));
    // From a database's rate of flushes to almost none.
    let flush_one_in = [6, 40, 400][usize::try_from(random.below(3)).expect("small")];
    let sum = load_and_cut(session, &mut chain, load_for, flush_one_in)?;
    same_inside(session, &chain, sum);
    let (facts, flushes) = (chain.oracle.facts, chain.oracle.flushes);
    let Shape { legs, columns, files, sector_bytes, encrypted } = chain.shape;
    let how = if encrypted { "encrypted " } else { "" };
    let what = if files { "files" } else { "blocks" };
    eprintln!(
        "  cut {cut}: {legs} legs, {columns} columns, sectors of {sector_bytes}, {how}{what}, after {} ms, {facts} facts, {flushes} flushes",
        load_for.as_millis()
    );
    open_images(session, &chain, &bases, random.draw())?;
    let mut tails = Vec::new();
    for (drive, base) in chain.drives.iter().zip(&bases) {
        let log = Log::read(log_of(drive), session.scenario.drive_mib << 20)?;
        copy_sparse(base, &drive.image)?;
        let fate =
            rebuild(log_of(drive), &log, &drive.image, Manner::with_sectors_of(sector_bytes), random.draw())?;
        tails.push(format!("{} kept {} dropped {} torn", fate.kept, fate.dropped, fate.torn));
    }
    session.images += 1;
    // Every other time, the machine that follows recovers the drives itself.
    let untouched = if cut.is_multiple_of(2) { Some(copy_bases(&chain.drives)?) } else { None };
    let (settled, sum) = open_here(session, &mut chain)?;
    let Settled { blocks, older } = settled;
    eprintln!("    tails {}; {blocks} blocks right, {older} lost a late write", tails.join(" and "));
    chain.sum = Some((cut, sum));
    for (copy, drive) in untouched.iter().flatten().zip(&chain.drives) {
        fs::rename(copy, &drive.image).doing(|| format!("replace {}", drive.image.display()))?;
    }
    session.check(format!("cut-{cut}"), Ok(()));
    chain.cuts += 1;
    Ok(chain)
}

/// Many images of the cut, opened in memory. `bases` are the drives as they were before their logs began.
fn open_images(session: &mut Session<'_>, chain: &Chain, bases: &[PathBuf], seed: u64) -> Result<()> {
    // Kept with the drives when the cut fails.
    let oracle = session.folder.join("drive-oracle");
    fs::write(&oracle, chain.oracle.to_text()).doing(|| format!("write {}", oracle.display()))?;
    let images = session.images_of_a_cut();
    let output = cutter(session, chain, bases, &[("--images", images), ("--seed", seed)], &[])?;
    let lines: Vec<&str> = output.text.trim().lines().collect();
    eprintln!("    {}", lines.last().unwrap_or(&"nothing was said"));
    let right = lines.iter().find_map(|line| line.strip_prefix("images: ")?.split(' ').next()?.parse().ok());
    session.images += right.unwrap_or(0);
    if !output.success || right != Some(images) {
        let wrong: Vec<&str> = lines.iter().filter(|line| line.starts_with("image ")).copied().collect();
        let shown =
            if wrong.is_empty() { &lines[..lines.len().min(4)] } else { &wrong[..wrong.len().min(4)] };
        return Err(Error::failed(format!(
            "images of the cut (exit {:?}): {}",
            output.code,
            shown.join(" | ")
        )));
    }
    // The same drives, if they lied about flushes: who sees nothing wrong then, sees nothing.
    if chain.cuts == 1 {
        let output = cutter(session, chain, bases, &[("--images", 8), ("--seed", seed)], &["--lies"])?;
        let caught = output.text.lines().any(|line| line.starts_with("image ") && !line.contains("a panic"));
        session.check("lies-are-caught", if caught { Ok(()) } else { Err(output.text) });
    }
    Ok(())
}

/// Runs `plinth-cut` on the drives of a cut.
fn cutter(
    session: &Session<'_>,
    chain: &Chain,
    bases: &[PathBuf],
    numbers: &[(&str, u64)],
    words: &[&str],
) -> Result<Output> {
    let program = session.bench.cutter.as_deref();
    let program = program.ok_or_else(|| Error::missing("the program plinth-cut was not built"))?;
    let mut command = Command::new(program);
    command.args(words).arg("--scratch").arg(&session.folder);
    let state = session.folder.join("keys-of-images");
    key::put(&state)?;
    command.arg("--keys").arg(key::folder(&state));
    command.arg("--oracle").arg(session.folder.join("drive-oracle"));
    command.arg("--sector-bytes").arg(chain.shape.sector_bytes.to_string());
    for (flag, number) in numbers {
        command.arg(flag).arg(number.to_string());
    }
    if chain.shape.files {
        command.arg("--files");
    }
    for (drive, base) in chain.drives.iter().zip(bases) {
        command.arg(base).arg(log_of(drive));
    }
    run_lines(&command, IMAGES_LIMIT, |_| {})
}

/// Opens the drives on this host: checked offline before and after, and every block is one that it may be.
/// Returns what the comparison saw and the checksum of the volume.
fn open_here(session: &Session<'_>, chain: &mut Chain) -> Result<(Settled, String)> {
    let plinth = session.bench.plinth.as_deref();
    let plinth = plinth.ok_or_else(|| Error::missing("the plinth binary was not built"))?;
    let images: Vec<PathBuf> = chain.drives.iter().map(|d| d.image.clone()).collect();
    let content = session.folder.join("volume");
    let folder = session.folder.join("native");
    let native = Native::start(plinth, &folder)?;
    native.know_key()?;
    fsck(plinth, &images, &folder)?;
    native.copy_volume(&images, crate::guest::VOLUME, &content)?;
    native.stop()?;
    fsck(plinth, &images, &folder)?;
    let file = fs::File::open(&content).doing(|| format!("open {}", content.display()))?;
    match chain.oracle.settle(|block| read_block(&file, block)) {
        Ok(settled) => Ok((settled, checksum(&content)?)),
        Err(wrong) => Err(Error::failed(format!("the volume holds what it must not: {}", wrong.join("; ")))),
    }
}

/// Whether the machine read what was read here after the cut before.
fn same_inside(session: &mut Session<'_>, chain: &Chain, sum: Option<String>) {
    if let Some((cut, here)) = &chain.sum {
        let there = sum.unwrap_or_else(|| "nothing".to_owned());
        let outcome = if *here == there { Ok(()) } else { Err(format!("{here} outside, {there} inside")) };
        session.check(format!("cut-{cut}-boots-on"), outcome);
    }
}

/// One more machine on the drives of the last cut: the volume is served, closed, and its drives are checked.
pub(super) fn come_up(session: &mut Session<'_>, chain: &mut Chain) -> Result<()> {
    let mut machine = session.boot(&chain.drives, &words(session, chain, false, 1))?;
    let deadline = Instant::now() + session.scenario.limit;
    let mut sum = None;
    loop {
        let message = machine.next(deadline)?;
        let over = matches!(message, Message::Result(_));
        session.inside &= !failed(&message);
        take(message, &mut chain.oracle, &mut sum)?;
        if over {
            break;
        }
    }
    session.inside = false;
    same_inside(session, chain, sum);
    Ok(())
}

fn log_of(drive: &Drive) -> &Path {
    drive.log.as_ref().expect("the drives of a cut are logged")
}

/// What the half inside is told.
fn words(
    session: &Session<'_>,
    chain: &Chain,
    loads: bool,
    flush_one_in: u64,
) -> [(&'static str, String); 10] {
    [
        ("legs", chain.shape.legs.to_string()),
        ("columns", chain.shape.columns.to_string()),
        ("files", u64::from(chain.shape.files).to_string()),
        ("encrypted", u64::from(chain.shape.encrypted).to_string()),
        ("bare", u64::from(!session.scenario.product).to_string()),
        ("resumes", u64::from(chain.cuts > 0).to_string()),
        ("loads", u64::from(loads).to_string()),
        ("flush_one_in", flush_one_in.to_string()),
        ("volume_mib", VOLUME_MIB.to_string()),
        // Versions never repeat within a chain: an older content must be told from a newer.
        ("first_version", ((chain.cuts + 1) << 32).to_string()),
    ]
}

/// Boots, waits for the load, lets it run, cuts, and takes everything that was still on its way. Returns the
/// checksum that the machine said.
pub(super) fn load_and_cut(
    session: &mut Session<'_>,
    chain: &mut Chain,
    load_for: Duration,
    flush_one_in: u64,
) -> Result<Option<String>> {
    for drive in &chain.drives {
        if let Some(log) = &drive.log {
            fs::write(log, []).doing(|| format!("empty {}", log.display()))?;
        }
    }
    let mut machine = session.boot(&chain.drives, &words(session, chain, true, flush_one_in))?;
    let (mut sum, mut begun) = (None, false);
    let mut until = Instant::now() + session.scenario.limit;
    loop {
        match machine.next_before(until)? {
            Some(Message::Tell(text)) if text == "loading" => {
                (until, begun) = (Instant::now() + load_for, true);
            }
            Some(message) => {
                session.inside &= !failed(&message);
                take(message, &mut chain.oracle, &mut sum)?;
            }
            None => break,
        }
    }
    if begun {
        freeze_drives(&mut machine, chain, &mut sum)?;
        hear_the_rest(&mut machine, chain)?;
    }
    machine.cut();
    if begun {
        for drive in &chain.drives {
            let log = log_of(drive);
            fs::rename(at_cut(log), log).doing(|| format!("replace {}", log.display()))?;
        }
    }
    session.inside = false;
    if !begun {
        return Err(Error::failed("the load had not begun when its time was over"));
    }
    Ok(sum)
}

/// The instant of the cut: the machine stands still, what it has told by now is taken, and what its drives got is kept.
///
/// A machine that is simply killed takes words with it that it had said, but that the emulator had not passed on, while the
/// write behind them had reached the drive: the drive then holds what nobody had announced.
fn freeze_drives(machine: &mut Machine, chain: &mut Chain, sum: &mut Option<String>) -> Result<()> {
    machine.freeze()?;
    while let Some(message) = machine.next_before(Instant::now() + PIPE_IS_EMPTY)? {
        take(message, &mut chain.oracle, sum)?;
    }
    for drive in &chain.drives {
        copy_sparse(log_of(drive), &at_cut(log_of(drive)))?;
    }
    machine.thaw()
}

/// Words that were said before the cut: all that the machine says before it answers a question that was asked behind it.
fn hear_the_rest(machine: &mut Machine, chain: &mut Chain) -> Result<()> {
    machine.send(MARK)?;
    let deadline = Instant::now() + MARK_PATIENCE;
    loop {
        match machine.next(deadline)? {
            Message::Tell(text) if text == MARKED => return Ok(()),
            Message::Tell(text) => {
                if let Some(fact) = Fact::parse(&text) {
                    chain.oracle.take_late(fact);
                }
            }
            // Whatever else it says is of a time that does not count.
            _ => {}
        }
    }
}

/// Where the log of a drive is kept as it was at the cut.
fn at_cut(log: &Path) -> PathBuf {
    log.with_extension("cut")
}

/// A check inside failed: no emulator is to blame for what a check looks at.
fn failed(message: &Message) -> bool {
    matches!(message, Message::Check(_, Err(_)))
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

/// Where the drives as they were are kept.
const BASES: &str = "bases";

/// The drives as they are before the machine writes to them: the ground on which its log is laid. In a folder of their own,
/// for an agent that looks beside a drive takes one with the same identity for a copied drive, and neither is used.
pub(super) fn copy_bases(drives: &[Drive]) -> Result<Vec<PathBuf>> {
    let mut bases = Vec::new();
    for drive in drives {
        let folder = drive.image.with_file_name(BASES);
        fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
        let base = folder.join(drive.image.file_name().expect("an image has a name"));
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
        let name = entry.file_name();
        if name == BASES || name.to_string_lossy().starts_with("drive-") {
            let _ = fs::rename(entry.path(), folder.join(entry.file_name()));
        }
    }
    Ok(())
}
