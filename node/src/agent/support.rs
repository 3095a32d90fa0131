//! What the agent adds to a support bundle: what it knows, what happened, what its targets said.
//!
//! Nothing of the environment, no file that somebody else wrote, and of the catalogue only records that are named
//! here: a sort of record that comes later stays out until somebody has thought about it.
use super::Agent;
use crate::error::Result;
use crate::params::EventsQuery;
use crate::support::Entry;
use serde_json::{Map, Value, json};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The records that are told. Extents are left out: they are many, and rows say the same.
const TOLD: [&str; 10] = [
    "pools/",
    "drives/",
    "left/",
    "groups/",
    "empty-groups/",
    "rows/",
    "moves/",
    "volumes/",
    "history/",
    "watch/",
];
/// Of what a target wrote to its standard error, the end.
const LOG_BYTES: u64 = 64 << 10;

impl Agent {
    /// The parts of a bundle. What cannot be told is told as an error, for a bundle is asked for when things
    /// are not as they should be.
    pub(crate) fn support(&self) -> Vec<Entry> {
        let or_error = |told: Result<Value>| told.unwrap_or_else(|error| json!(error.body()));
        let status = self.view_status().map(|status| json!(status));
        let events = self.events.list(&EventsQuery::default()).map(|events| json!(events));
        let metrics = crate::http::metrics::render_agent(self).unwrap_or_else(|error| error.to_string());
        let about = json!({
            "program": crate::program::own(),
            "pid": std::process::id(),
            "started_at": self.started_at,
            "state": self.options.state.display().to_string(),
            "socket": self.options.socket.display().to_string(),
        });
        let mut entries = vec![
            Entry::json("agent.json", &about),
            Entry::json("status.json", &or_error(status)),
            Entry::json("catalogue.json", &or_error(self.told_catalogue())),
            Entry::json("events.json", &or_error(events)),
            Entry::text("metrics.txt", metrics),
        ];
        entries.extend(self.target_logs());
        entries
    }

    fn told_catalogue(&self) -> Result<Value> {
        let mut told = Map::new();
        for prefix in TOLD {
            let records = self.store.list::<Value>(prefix)?;
            for (key, record) in self.store.keys(prefix)?.into_iter().zip(records) {
                let mut record = record.record;
                // What a wrapped secret says is nobody's business; that there is one may be.
                if let Some(envelope) =
                    record.pointer_mut("/encryption/envelope").filter(|value| value.is_string())
                {
                    *envelope = json!("kept back");
                }
                told.insert(key, record);
            }
        }
        Ok(Value::Object(told))
    }

    fn target_logs(&self) -> Vec<Entry> {
        let folder = self.options.state.join("targets");
        let mut entries: Vec<Entry> = Vec::new();
        for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let name = format!("targets/{}", file.file_name().to_string_lossy());
                entries.push(Entry::text(&name, tail(&path).unwrap_or_else(|error| error.to_string())));
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }
}

/// The end of a file.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
