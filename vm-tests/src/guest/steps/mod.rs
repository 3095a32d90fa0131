//! The scenarios' parts inside the machine, by name.

mod bench;
mod boot;
mod control;
mod demo;
mod evacuate;
mod exec;
mod faults;
pub(crate) mod files;
mod full_pool;
mod here;
pub(crate) mod memory;
mod power_cut;
mod reset;
mod resync;
mod scrub;
mod slow_drive;
mod unit;
mod upgrade;
mod verify;

use super::Step;
use crate::error::{Context, Result};
use std::fs;

const STEPS: &[(&str, Step)] = &[
    ("boot", boot::run),
    ("restart-unit", unit::run),
    ("bench", bench::run),
    ("exec", exec::run),
    ("demo", demo::run),
    ("demo-here", here::run),
    ("attach-verify", verify::attach_verify),
    ("fsx", verify::fsx),
    ("fs-ext4", files::ext4),
    ("fs-xfs", files::xfs),
    ("drive-loss", faults::drive_loss),
    ("reset", reset::run),
    ("resync", resync::run),
    ("slow-drive", slow_drive::run),
    ("scrub", scrub::run),
    ("full-pool", full_pool::run),
    ("memory", memory::run),
    ("evacuate", evacuate::run),
    ("matrix", power_cut::run),
    ("kill-target", faults::kill_target),
    ("live-upgrade", upgrade::run),
    ("kill-agent", faults::kill_agent),
    ("power-cut", power_cut::run),
    ("bench-check", power_cut::run),
    ("detach-in-use", control::detach_in_use),
    ("resize-live", control::resize_live),
    ("idle-cpu", control::idle_cpu),
    ("nbd-tools", control::nbd_tools),
    ("no-ublk", control::no_ublk),
];

/// The part of the scenario called `name`.
pub(super) fn find(name: &str) -> Option<Step> {
    STEPS.iter().find(|(n, _)| *n == name).map(|(_, step)| *step)
}

/// First two numbers of the kernel's release.
fn kernel() -> Result<(u32, u32)> {
    let path = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(path).doing(|| "read the kernel's release".into())?;
    let mut numbers = release.split(['.', '-', '+']).map(|part| part.trim().parse().unwrap_or(0));
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_table_has_its_part_inside() {
        for scenario in crate::scenario::ALL {
            assert!(find(scenario.name).is_some(), "{} has no part inside", scenario.name);
        }
    }
}
