//! `exec`: runs one program of the host in a machine, for trying things.

use crate::error::Result;
use crate::guest::Guest;
use std::process::Command;

/// Runs /run-me with the host's words; its outputs go to the console, its exit code is the check.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    guest.drives()?;
    let words = std::fs::read_to_string("/run-me.args").unwrap_or_default();
    let output = Command::new("/run-me").args(words.lines()).env("RUST_BACKTRACE", "1").output();
    let outcome = match output {
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                guest.note(line);
            }
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                guest.note(line);
            }
            if output.status.success() { Ok(()) } else { Err(output.status.to_string()) }
        }
        Err(source) => Err(source.to_string()),
    };
    guest.check("program", outcome);
    Ok(())
}
