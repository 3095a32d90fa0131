//! `demo-here`, inside: the demonstration that needs no machine, in a machine, for few hosts have ublk.

use crate::error::{Context, Result};
use crate::guest::Guest;
use crate::here::{self, Plan, Witness};
use std::fs;
use std::path::Path;

/// The files that are drives live on a file system of the only drive.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    here::ensure_possible()?;
    let drives = guest.drives()?;
    let host = "/mnt/host";
    guest.run("mkfs.ext4", &["-q", "-F", &drives[0].name()])?;
    fs::create_dir_all(host).doing(|| format!("make {host}"))?;
    guest.run("mount", &["-t", "ext4", &drives[0].name(), host])?;
    let plan = Plan {
        plinth: Path::new("/usr/bin/plinth").into(),
        folder: Path::new(host).join("demo-here"),
        files_mib: guest.number("rounds")?,
        seed: guest.number("seed")?,
    };
    here::leave_behind(&plan)?;
    here::take_back_leftovers(&plan)?;
    nothing_left(guest, "nothing-left-of-a-killed-run");
    here::leave_behind(&plan)?;
    here::run(&plan, guest)?;
    nothing_left(guest, "nothing-left");
    Ok(())
}

fn nothing_left(guest: &mut Guest, check: &str) {
    let left = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let left: Vec<String> = left.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let clean = !left.iter().any(|name| name.starts_with("ublkb"));
    guest.check_that(check, clean, || left.join(" "));
}

impl Witness for Guest {
    fn check(&mut self, name: &str, outcome: std::result::Result<(), String>) {
        Guest::check(self, name, outcome);
    }

    fn note(&mut self, text: String) {
        Guest::note(self, text);
    }
}
