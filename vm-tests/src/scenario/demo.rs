//! `demo`, outside: cuts the power between the parts, and knows which files were safe by then.

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
const SLOW_IOPS: u32 = 20;
/// How long files are synced before the power is cut.
const SYNCING: Duration = Duration::from_secs(8);

/// The system's own drive is the last; the two before it carry the volume.
const SYSTEM: usize = 2;

/// The host's half.
pub fn run(session: &mut Session<'_>) -> Result<()> {
    let plinth = session.bench.plinth.clone();
    let plinth = plinth.ok_or_else(|| Error::missing("the plinth binary was not built"))?;
    let mut drives = session.new_drives(true)?;
    drives[1].can_slow = true;
    let mut safe = Vec::new();
    let files_mib = session.rounds().to_string();
    for part in [1, 2] {
        let bases = copy_bases(&drives)?;
        let parameters = [("part", part.to_string()), ("files_mib", files_mib.clone())];
        for log in drives.iter().filter_map(|drive| drive.log.as_ref()) {
            fs::write(log, []).doing(|| format!("empty {}", log.display()))?;
        }
        let mut machine = session.boot(&drives, &parameters)?;
        if part == 1 {
            eprintln!("  a machine runs Linux {}", machine.release());
        }
        until_the_cut(session, &mut machine, &mut safe)?;
        if session.checks.iter().any(|(_, outcome)| outcome.is_err()) {
            return Ok(());
        }
        let fate = if part == 1 { "" } else { ", and drive 0 never comes back" };
        eprintln!("  blow {}: the power is cut; each drive loses what it had not flushed{fate}", part + 1);
        lose_caches(session, &drives, &bases)?;
        let images: Vec<PathBuf> = drives[..SYSTEM].iter().map(|d| d.image.clone()).collect();
        let name = if part == 1 { "drives-after-power-cut" } else { "drives-after-second-cut" };
        let clean = fsck(&plinth, &images, &session.folder).map_err(|e| e.to_string());
        let lost = clean.is_err();
        session.check(name, clean);
        if lost {
            return Ok(());
        }
    }
    let left: Vec<Drive> =
        drives[1..].iter().map(|d| Drive { can_slow: false, log: None, ..d.clone() }).collect();
    let mut machine = session.boot(&left, &[("part", "3".to_owned())])?;
    loop {
        match machine.next(Instant::now() + session.scenario.limit)? {
            Message::Tell(text) if text == "ready" => break,
            message => take(session, message, &mut safe)?,
        }
    }
    name_the_safe(&mut machine, &safe)?;
    session.follow(&mut machine, |_| {})
}

fn name_the_safe(machine: &mut Machine, safe: &[(String, String)]) -> Result<()> {
    for (name, sum) in safe {
        machine.send(&format!("safe {name} {sum}"))?;
    }
    machine.send("end")
}

/// Follows a part, lets files be synced for a while, cuts, and adds the files that were safe. The cut comes
/// the moment a file was called safe: if that was said too early, what is missing is missing now.
fn until_the_cut(
    session: &mut Session<'_>,
    machine: &mut Machine,
    safe: &mut Vec<(String, String)>,
) -> Result<()> {
    let before = safe.len();
    let mut until = Instant::now() + session.scenario.limit;
    let mut synced_long_enough = false;
    loop {
        match machine.next_before(until)? {
            Some(Message::Tell(text)) if synced_long_enough => {
                machine.cut();
                take(session, Message::Tell(text), safe)?;
                break;
            }
            Some(Message::Tell(text)) if text == "loading" => {
                eprintln!("  small files are written and synced, each named to the host once it is safe");
                machine.slow_down(1, SLOW_IOPS)?;
                until = Instant::now() + SYNCING;
            }
            Some(Message::Tell(text)) if text == "ready" => name_the_safe(machine, safe)?,
            Some(message) => take(session, message, safe)?,
            None if synced_long_enough => return Err(Error::failed("no file became safe for too long")),
            None => {
                synced_long_enough = true;
                until = Instant::now() + session.scenario.limit;
            }
        }
    }
    while let Some(message) = machine.drain() {
        take(session, message, safe)?;
    }
    if safe.len() == before {
        return Err(Error::failed("no file was safe when the time was over"));
    }
    Ok(())
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
