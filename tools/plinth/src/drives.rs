//! `plinth drive evacuate`, `remove` and `replace`, and `pool rebalance`: begun by the agent, and waited for here.
use crate::args::{Global, PoolDrive};
use crate::ask::{ProgressBar, Waiting, while_waiting};
use crate::output::{self, changed};
use node::client::{Client, part};
use node::params::ReplaceDrive;
use node::{Error, Kind, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What is said to who waited for a pool in vain.
const HOW_FAR: &str = "it goes on; plinth pool status tells how far it is";

/// A drive as the agent knows it: a path is the caller's, an id is no path.
pub fn named(drive: &str) -> Result<String> {
    if drive.contains('/') || Path::new(drive).exists() {
        let path =
            std::path::absolute(drive).map_err(|source| Error::io("name", Path::new(drive), &source))?;
        return Ok(path.display().to_string());
    }
    Ok(drive.to_owned())
}

fn path_of(of: &PoolDrive, drive: &str) -> String {
    format!("/v1/pools/{}/drives/{}", part(&of.pool), part(drive))
}

/// `drive evacuate` and `drive remove`; prints the drive's id.
///
/// # Errors
/// The agent's; `Timeout`, or `Refused` when it waits for somebody.
pub fn empty(global: &Global, of: &PoolDrive, verb: &str, wait: bool) -> Result<()> {
    let client = Client::new(global.socket.clone(), global.timeout)?;
    let query = if global.dry_run { "?dry_run=true" } else { "" };
    let asked = format!("{}/{verb}{query}", path_of(of, &named(&of.drive)?));
    let mut shown = while_waiting(global, "planning", || client.post(&asked, &json!({})))?;
    let id = output::text(&shown, "id");
    if wait && !global.dry_run {
        shown = wait_empty(global, &client, of, &id, verb == "remove")?.unwrap_or(shown);
    }
    changed(global.output, &shown, &id)
}

/// `drive replace`; prints the id of the drive that takes over.
///
/// # Errors
/// As `empty`.
pub fn replace(global: &Global, of: &PoolDrive, new: &Path, force: bool, wait: bool) -> Result<()> {
    let client = Client::new(global.socket.clone(), global.timeout)?;
    let query = if global.dry_run { "?dry_run=true" } else { "" };
    let old = named(&of.drive)?;
    // What is waited for is the old one, which may be found by its path only as long as it is there.
    let before = client.get(&path_of(of, &old)).map(|shown| output::text(&shown, "id"));
    let body = ReplaceDrive { new: PathBuf::from(named(&new.display().to_string())?), force };
    let asked = format!("{}/replace{query}", path_of(of, &old));
    let shown = while_waiting(global, "planning", || client.post(&asked, &body))?;
    if let (Ok(before), true) = (before, wait && !global.dry_run) {
        wait_empty(global, &client, of, &before, true)?;
    }
    changed(global.output, &shown, &output::text(&shown, "id"))
}

/// `pool rebalance`; prints the pool's name.
///
/// # Errors
/// The agent's, or `Timeout`.
pub fn rebalance(global: &Global, pool: &str, stop: bool, wait: bool) -> Result<()> {
    let client = Client::new(global.socket.clone(), global.timeout)?;
    let query = if global.dry_run { "?dry_run=true" } else { "" };
    let path = format!("/v1/pools/{}", part(pool));
    let asked = format!("{path}/rebalance{query}");
    let mut shown = if stop { client.delete(&asked)? } else { client.post(&asked, &json!({}))? };
    let late = format!("the volumes of pool {pool} are not spread evenly yet");
    let waiting = Waiting::new(global, &client, path, (pool, late, HOW_FAR));
    while wait && !global.dry_run && shown["rebalancing"] == true {
        waiting.pause()?;
        shown = waiting.look()?;
    }
    changed(global.output, &shown, pool)
}

/// Waits until a drive is empty, or has left its pool. `None`: it has.
fn wait_empty(
    global: &Global,
    client: &Client,
    of: &PoolDrive,
    id: &str,
    leaves: bool,
) -> Result<Option<Value>> {
    let path = format!("/v1/pools/{}", part(&of.pool));
    let waiting = Waiting::new(global, client, path, (id, format!("drive {id} is not empty yet"), HOW_FAR));
    let mut bar = ProgressBar::new(global, "move");
    loop {
        let pool = waiting.look()?;
        let list = |field: &str| pool[field].as_array().cloned().unwrap_or_default();
        let Some(drive) = list("drives").into_iter().find(|drive| drive["id"] == id) else {
            return Ok(None);
        };
        let tasks: Vec<Value> = list("tasks").into_iter().filter(|task| task["drive"] == id).collect();
        // Nothing can be wiped on a drive that is not there.
        let empty =
            drive["allocated_bytes"] == 0 || matches!(drive["state"].as_str(), Some("missing" | "failed"));
        if tasks.is_empty() && empty && !leaves {
            return Ok(Some(drive));
        }
        if drive["state"] == "online" {
            let message = format!("drive {id} is in use again: it was brought online meanwhile");
            return Err(Error::new(Kind::Refused, id, message));
        }
        let sum = |field: &str| tasks.iter().filter_map(|task| task[field].as_u64()).sum::<u64>();
        bar.show(&json!({ "bytes_total": sum("bytes_total"), "done": sum("bytes_copied") }), "done");
        if !tasks.is_empty() && tasks.iter().all(|task| task["state"] == "blocked") {
            let why: Vec<String> = tasks.iter().map(|task| output::text(task, "waits_for")).collect();
            let message = format!("drive {id} is not empty: {}", why.join("; "));
            return Err(Error::new(Kind::Refused, id, message)
                .hint("it goes on by itself when the volume is attached (plinth volume attach)"));
        }
        waiting.pause()?;
    }
}
