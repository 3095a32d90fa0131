//! `bench-check`, outside: the machinery of power cuts is itself under test.
//!
//! The same load runs on a bare drive, without the product. A drive that keeps what was flushed and does not
//! tear satisfies the oracle; one that lies about flushes must not, or the oracle sees nothing.

use super::Session;
use super::power_cut::{Chain, Shape, copy_bases, copy_sparse, load_and_cut, read_block};
use crate::error::{Context, Result};
use crate::random::Random;
use crate::writelog::{Fate, Log, Manner, rebuild};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Drives that are made from one cut, each with another fate of the unflushed writes.
const IMAGES: u64 = 10;

/// The host's half.
pub fn run(session: &mut Session<'_>) -> Result<()> {
    let mut random = Random::new(session.bench.seed);
    let mut chain = Chain::new(
        session,
        Shape { legs: 1, columns: 1, files: false, sector_bytes: 512, encrypted: false },
    )?;
    let base = copy_bases(&chain.drives)?.remove(0);
    load_and_cut(session, &mut chain, Duration::from_millis(1500), 300)?;
    let log_path = chain.drives[0].log.clone().expect("the drives of a cut are logged");
    let log = Log::read(&log_path, session.scenario.drive_mib << 20)?;
    eprintln!(
        "  {} facts, {} flushes answered; the log has {} entries, {} behind the last flush, {} gaps",
        chain.oracle.facts,
        chain.oracle.flushes,
        log.entries.len(),
        log.entries.len() - log.durable(),
        log.gaps
    );
    // Some drives of a dozen lose or keep everything; together they do both.
    let (mut right, mut lost, mut seen) = (Ok(()), 0, Fate::default());
    for _ in 0..IMAGES {
        let seed = random.draw();
        let honest = Manner { tears_at: 0, lies: false };
        let fate = judge(&base, &log_path, &log, honest, seed, &chain)?;
        seen.kept += fate.0.kept;
        seen.dropped += fate.0.dropped;
        if let Err(wrong) = fate.1 {
            right = Err(wrong);
        }
        let lies = Manner { tears_at: 0, lies: true };
        lost += u64::from(judge(&base, &log_path, &log, lies, seed, &chain)?.1.is_err());
        session.images += 2;
    }
    session.check("bare-drive", right);
    let fates = if seen.kept > 0 && seen.dropped > 0 { Ok(()) } else { Err(format!("{seen:?}")) };
    session.check("tails-differ", fates);
    let caught = if lost > 0 { Ok(()) } else { Err("no lost flush was noticed".to_owned()) };
    session.check("lies-are-caught", caught);
    Ok(())
}

/// One drive from the log, compared with a copy of the oracle.
fn judge(
    base: &Path,
    log_path: &Path,
    log: &Log,
    manner: Manner,
    seed: u64,
    chain: &Chain,
) -> Result<(Fate, std::result::Result<(), String>)> {
    let image = base.with_extension("try");
    copy_sparse(base, &image)?;
    let fate = rebuild(log_path, log, &image, manner, seed)?;
    let file = fs::File::open(&image).doing(|| format!("open {}", image.display()))?;
    let settled = chain.oracle.clone().settle(|block| read_block(&file, block));
    Ok((fate, settled.map(|_| ()).map_err(|wrong| wrong.join("; "))))
}
