//! `plinth scrub`: starts, shows and ends scrubs of a volume or of a pool's volumes.
use crate::args::{Global, Output, Scrub, Scrubbed};
use crate::ask::{ProgressBar, Waiting, while_waiting};
use crate::output::{self, changed};
use crate::print;
use node::client::{Client, part};
use node::{Kind, Result};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Runs a verb. Damage that no leg can repair is exit 4, of `status` and of `start --wait`.
pub fn run(global: &Global, verb: Scrub) -> Result<ExitCode> {
    let client = Client::new(global.socket.clone(), global.timeout)?;
    let query = if global.dry_run { "?dry_run=true" } else { "" };
    match verb {
        Scrub::Start { of, wait } => {
            let path = path(&of);
            let asked = format!("{path}{query}");
            let begun = while_waiting(global, "starting", || client.post(&asked, &json!({})))?;
            if !wait || global.dry_run {
                changed(global.output, &begun, name(&of))?;
                return Ok(ExitCode::SUCCESS);
            }
            let ended = wait_for_end(global, &client, &of)?;
            changed(global.output, &ended, name(&of))?;
            Ok(exit_code(&ended))
        }
        Scrub::Stop { of } => {
            let ended = client.delete(&format!("{}{query}", path(&of)))?;
            changed(global.output, &ended, name(&of))?;
            Ok(ExitCode::SUCCESS)
        }
        Scrub::Status { of } => {
            let shown = client.get(&path(&of))?;
            show(global.output, &shown)?;
            Ok(exit_code(&shown))
        }
    }
}

fn name(of: &Scrubbed) -> &str {
    of.volume.as_deref().or(of.pool.as_deref()).unwrap_or_default()
}

fn path(of: &Scrubbed) -> String {
    let kind = if of.pool.is_some() { "pools" } else { "volumes" };
    format!("/v1/{kind}/{}/scrub", part(name(of)))
}

fn exit_code(scrub: &Value) -> ExitCode {
    let lost = |scrub: &Value| scrub["lost"].as_array().is_some_and(|lost| !lost.is_empty());
    let any = lost(scrub) || scrub["volumes"].as_array().is_some_and(|volumes| volumes.iter().any(lost));
    if any { ExitCode::from(Kind::Damage.exit_code()) } else { ExitCode::SUCCESS }
}

/// Waits until nothing is under way any more. What waits for something else than time ends the waiting.
fn wait_for_end(global: &Global, client: &Client, of: &Scrubbed) -> Result<Value> {
    let late = format!("the scrub of {} is not at its end", name(of));
    let waiting = Waiting::new(global, client, path(of), (name(of), late, "it goes on"));
    let mut bar = ProgressBar::new(global, "scrub");
    loop {
        let shown = waiting.look()?;
        if !matches!(shown["state"].as_str(), Some("running" | "paused")) {
            return Ok(shown);
        }
        bar.show(&shown, "bytes_done");
        waiting.pause()?;
    }
}

fn show(output: Output, shown: &Value) -> Result<()> {
    let object = if shown["pool"].is_null() { "volume" } else { "pool" };
    match output {
        Output::Json => return output::json(shown),
        Output::Name => return print(&format!("{}\n", output::text(shown, object))),
        Output::Table => print(&output::fields(shown))?,
    }
    let rows = |field: &str| shown[field].as_array().cloned().unwrap_or_default();
    let (lost, found, volumes) = (rows("lost"), rows("last_findings"), rows("volumes"));
    if !lost.is_empty() {
        print(&format!("\nlost on every leg\n{}", output::table(&lost, output::LOST)))?;
    }
    if !found.is_empty() {
        print(&format!("\nfound last\n{}", output::table(&found, output::FOUND)))?;
    }
    if !volumes.is_empty() {
        print(&format!("\n{}", output::table(&volumes, output::SCRUBS)))?;
    }
    Ok(())
}
