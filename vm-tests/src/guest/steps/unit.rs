//! `restart-unit`, inside: what systemd does to the agent's unit does not reach the processes that serve.

use super::faults::read_direct;
use crate::error::{Context, Error, Result};
use crate::guest::{Guest, fsx};
use std::time::Duration;

const VOLUME_MIB: u64 = 512;

/// Restarts, stops and starts the unit, and kills its main process, all under load.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    // The first drive is the root.
    let drives = guest.drives()?.split_off(1);
    systemctl(guest, "start")?;
    guest.wait_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let pid = guest.target_pid()?;
    let seed = guest.number("seed")?;
    let path = device.clone();
    let load = std::thread::spawn(move || fsx::exercise(&path, 32 << 20, 6_000, seed));
    for verb in ["restart", "stop", "start"] {
        systemctl(guest, verb)?;
        guest.check(&format!("reads-after-{verb}"), read_direct(&device).map_err(|e| e.to_string()));
        if verb == "stop" {
            continue;
        }
        guest.wait_agent()?;
        guest.wait_volume("the agent knows the volume", Duration::from_secs(30), |v| {
            v["state"] == "attached"
        })?;
        let now = guest.target_pid()?;
        guest.check_that(&format!("same-target-after-{verb}"), now == pid, || format!("{pid}, then {now}"));
    }
    guest.run("systemctl", &["kill", "--kill-who=main", "--signal=KILL", "plinth.service"])?;
    guest.check("reads-after-kill", read_direct(&device).map_err(|e| e.to_string()));
    guest.wait_agent()?;
    let now = guest.target_pid()?;
    guest.check_that("comes-back-after-kill", now == pid, || format!("target {pid}, then {now}"));
    let outcome = load.join().map_err(|_| Error::failed("the load panicked"))?;
    guest.check("load", outcome.map(|_| ()).map_err(|e| e.to_string()));
    guest.detach()
}

fn systemctl(guest: &Guest, verb: &str) -> Result<()> {
    let done = guest.run("systemctl", &[verb, "plinth.service"]);
    if let Err(error) = done {
        let log = guest.run("journalctl", &["-u", "plinth.service", "-n", "20", "--no-pager", "-o", "cat"]);
        let log = log.unwrap_or_default().trim().replace('\n', " | ");
        return Err(Error::failed(format!("{error}: {log}")));
    }
    done.map(|_| ()).doing(|| format!("{verb} the unit"))
}
