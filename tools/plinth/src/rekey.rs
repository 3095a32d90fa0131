//! `plinth rekey`: begun by the agent, and waited for here.
use crate::args::Global;
use crate::ask::{ProgressBar, Waiting, while_waiting};
use crate::output::changed;
use node::client::{Client, part};
use node::{Error, Kind, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What waits for something else than time for so long ends the waiting: a target that is exchanged is not served for a
/// moment, either.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs it; prints the volume.
pub fn run(global: &Global, name: &str, wait: bool) -> Result<()> {
    let client = Client::new(global.socket.clone(), global.timeout)?;
    let query = if global.dry_run { "?dry_run=true" } else { "" };
    let path = format!("/v1/volumes/{}/rekey{query}", part(name));
    let begun = while_waiting(global, "starting", || client.post(&path, &json!({})))?;
    let volume = begun["name"].as_str().unwrap_or(name).to_owned();
    if !wait || global.dry_run {
        return changed(global.output, &begun, &volume);
    }
    let ended = wait_for_end(global, &client, &volume)?;
    changed(global.output, &ended, &volume)
}

fn wait_for_end(global: &Global, client: &Client, volume: &str) -> Result<Value> {
    let late = format!("volume {volume} is not under its new key alone yet");
    let late = (volume, late, "it goes on; plinth volume show tells how far it is");
    let waiting = Waiting::new(global, client, format!("/v1/volumes/{}", part(volume)), late);
    let mut bar = ProgressBar::new(global, "rekey");
    let mut moved = Instant::now();
    loop {
        let shown = waiting.look()?;
        let rekey = &shown["rekey"];
        if rekey.is_null() {
            return Ok(shown);
        }
        bar.show(rekey, "bytes_done");
        match rekey["waits_for"].as_str() {
            Some(why) if moved.elapsed() >= PATIENCE => {
                let message =
                    format!("volume {volume} is not under its new key alone yet: it waits for {why}");
                return Err(Error::new(Kind::Refused, volume, message).hint("it goes on by itself then"));
            }
            Some(_) => {}
            None => moved = Instant::now(),
        }
        waiting.pause()?;
    }
}
