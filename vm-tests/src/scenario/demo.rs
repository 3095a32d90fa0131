//! `demo`, outside: cuts the power between the two parts, and knows which files were safe by then.

use super::Session;
use super::native::fsck;
use super::power_cut::copy_bases;
use crate::error::{Context, Error, Result};
use crate::machine::{Drive, Machine};
use crate::protocol::Message;
use crate::writelog::{Log, Manner, rebuild};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The second drive is this slow while files are synced, so that it is always behind the first.
const SLOW_IOPS: u32 = 100;
/// How long files are synced before the power is cut.
const SYNCING: Duration = Duration::from_secs(6);

/// The host's half.
pub fn run(session: &mut Session<'_>) -> Result<()> {
    let plinth = session.bench.plinth.clone();
    let plinth = plinth.ok_or_else(|| Error::missing("the plinth binary was not built"))?;
    let mut drives = session.new_drives(true)?;
    drives[1].can_slow = true;
    let bases = copy_bases(&drives)?;
    let files_mib = session.rounds().to_string();
    let parameters = [("part", "1".to_owned()), ("files_mib", files_mib)];
    let mut machine = session.boot(&drives, &parameters)?;
    eprintln!("  a machine runs Linux {}", machine.release());
    let safe = until_the_cut(session, &mut machine)?;
    if session.checks.iter().any(|(_, outcome)| outcome.is_err()) {
        return Ok(());
    }
    eprintln!("  blow 2: the power is cut; each drive loses what it had not flushed");
    lose_caches(session, &drives, &bases)?;
    let images: Vec<PathBuf> = drives.iter().map(|d| d.image.clone()).collect();
    session.check("drives-after-power-cut", fsck(&plinth, &images).map_err(|e| e.to_string()));
    for drive in &mut drives {
        drive.can_slow = false;
        drive.log = None;
    }
    let mut machine = session.boot(&drives, &[("part", "2".to_owned())])?;
    for (name, sum) in &safe {
        machine.send(&format!("safe {name} {sum}"))?;
    }
    machine.send("end")?;
    session.follow(&mut machine, |_| {})
}

/// Follows part 1, lets files be synced for a while, cuts, and returns the files that were safe.
fn until_the_cut(session: &mut Session<'_>, machine: &mut Machine) -> Result<Vec<(String, String)>> {
    let mut safe = Vec::new();
    let mut until = Instant::now() + session.scenario.limit;
    loop {
        match machine.next_before(until)? {
            Some(Message::Tell(text)) if text == "loading" => {
                eprintln!("  small files are written and synced, each named to the host once it is safe");
                machine.slow_down(1, SLOW_IOPS)?;
                until = Instant::now() + SYNCING;
            }
            Some(message) => take(session, message, &mut safe)?,
            None => break,
        }
    }
    machine.cut();
    while let Some(message) = machine.drain() {
        take(session, message, &mut safe)?;
    }
    if safe.is_empty() {
        return Err(Error::failed("no file was safe when the time was over"));
    }
    Ok(safe)
}

fn take(session: &mut Session<'_>, message: Message, safe: &mut Vec<(String, String)>) -> Result<()> {
    match message {
        Message::Check(name, outcome) => session.check(name, outcome),
        Message::Note(text) => eprintln!("  {text}"),
        Message::Result(outcome) => return outcome.map_err(Error::failed),
        Message::Tell(text) => {
            // A line that the cut has shortened lacks its last word.
            if let ["safe", name, sum, "."] = text.split(' ').collect::<Vec<_>>()[..] {
                safe.push((name.to_owned(), sum.to_owned()));
            }
        }
        Message::Hello(_) => return Err(Error::failed("the machine started over")),
    }
    Ok(())
}

fn lose_caches(session: &mut Session<'_>, drives: &[Drive], bases: &[PathBuf]) -> Result<()> {
    for (number, (drive, base)) in drives.iter().zip(bases).enumerate() {
        let log_path = drive.log.as_ref().expect("the drives of a cut are logged");
        let log = Log::read(log_path, session.scenario.drive_mib << 20)?;
        let seed = session.bench.seed.wrapping_add(number as u64);
        let fate = rebuild(log_path, &log, base, Manner::HONEST, seed)?;
        eprintln!(
            "  drive {number}: {} writes were safe; of the others {} are there, {} are gone, {} are torn",
            fate.durable, fate.kept, fate.dropped, fate.torn
        );
        fs::rename(base, &drive.image).doing(|| format!("replace {}", drive.image.display()))?;
        session.images += 1;
    }
    Ok(())
}
