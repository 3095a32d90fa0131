//! Results as tables, JSON or names.
use crate::args::Output;
use crate::print;
use node::Result;
use node::text::show_size;
use serde_json::Value;

/// How a column is made of an object.
pub type Column = (&'static str, fn(&Value) -> String);

/// Prints objects: a list stays a list in JSON.
pub fn list(output: Output, value: &Value, name: &str, columns: &[Column]) -> Result<()> {
    let rows = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    match output {
        Output::Json => json(value),
        Output::Name => print(&rows.iter().map(|row| format!("{}\n", text(row, name))).collect::<String>()),
        Output::Table => print(&table(rows, columns)),
    }
}

/// Prints JSON, indented.
pub fn json(value: &Value) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value).expect("JSON encodes")))
}

/// Prints what a changing verb returns: the object in JSON, otherwise its name.
pub fn changed(output: Output, value: &Value, name: &str) -> Result<()> {
    if output == Output::Json { json(value) } else { print(&format!("{name}\n")) }
}

/// Objects, one in a line.
pub fn table(rows: &[Value], columns: &[Column]) -> String {
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|(title, _)| (*title).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()));
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for line in lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A field as text; what is unknown is a dash.
pub fn text(row: &Value, field: &str) -> String {
    match &row[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A list of names as text.
pub fn names(row: &Value, field: &str) -> String {
    let names = row[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    names.collect::<Vec<_>>().join(" ")
}

/// A field of bytes for people.
pub fn size(row: &Value, field: &str) -> String {
    row[field].as_u64().map_or_else(|| "-".to_owned(), show_size)
}

/// The columns of pools.
pub const POOLS: &[Column] = &[
    ("NAME", |row| text(row, "name")),
    ("HEALTH", |row| text(row, "health")),
    ("SIZE", |row| size(row, "size_bytes")),
    ("ALLOCATED", |row| size(row, "allocated_bytes")),
    ("FREE", |row| size(row, "free_bytes")),
    ("DRIVES", |row| row["drives"].as_array().map_or(0, Vec::len).to_string()),
    ("VOLUMES", |row| row["volumes"].as_array().map_or(0, Vec::len).to_string()),
];

/// The columns of drives.
pub const DRIVES: &[Column] = &[
    ("ID", |row| text(row, "id")),
    ("STATE", |row| text(row, "state")),
    ("SIZE", |row| size(row, "size_bytes")),
    ("ALLOCATED", |row| size(row, "allocated_bytes")),
    ("NODE", |row| text(row, "node")),
    ("RACK", |row| text(row, "rack")),
    ("READ-ERR", |row| text(row, "read_errors")),
    ("WRITE-ERR", |row| text(row, "write_errors")),
    ("CHECK-ERR", |row| text(row, "check_errors")),
    ("PATH", |row| text(row, "path")),
];

/// The columns of what goes on in the background of a pool.
pub const TASKS: &[Column] = &[
    ("TASK", |row| text(row, "kind")),
    ("VOLUME", |row| text(row, "volume")),
    ("STATE", |row| text(row, "state")),
    ("TOTAL", |row| size(row, "bytes_total")),
    ("COPIED", |row| size(row, "bytes_copied")),
    ("DRIVE", |row| text(row, "drive")),
    ("WHY", |row| if row["waits_for"].is_null() { text(row, "last_error") } else { text(row, "waits_for") }),
];

/// The columns of volumes.
pub const VOLUMES: &[Column] = &[
    ("NAME", |row| text(row, "name")),
    ("POOL", |row| text(row, "pool")),
    ("SIZE", |row| size(row, "size_bytes")),
    ("MAPPED", |row| size(row, "mapped_bytes")),
    ("LEGS", |row| text(row, "leg_count")),
    ("COLUMNS", |row| text(row, "column_count")),
    ("STATE", |row| text(row, "state")),
    ("HEALTH", |row| text(row, "health")),
    ("KEY", |row| text(&row["encryption"], "kek")),
    ("DEVICE", |row| {
        let device = text(row, "device");
        if device == "-" { text(row, "nbd_socket") } else { device }
    }),
];

/// The columns of groups.
pub const GROUPS: &[Column] = &[
    ("NAME", |row| text(row, "name")),
    ("POOL", |row| text(row, "pool")),
    ("LEGS", |row| text(row, "leg_count")),
    ("COLUMNS", |row| text(row, "column_count")),
    ("KEY", |row| text(&row["encryption"], "kek")),
    ("CREATED", |row| text(row, "created_at")),
    ("VOLUME", |row| if names(row, "volumes").is_empty() { "-".to_owned() } else { names(row, "volumes") }),
];

/// The columns of keys.
pub const KEYS: &[Column] = &[
    ("NAME", |row| text(row, "name")),
    ("PROVIDER", |row| text(row, "provider")),
    ("STATE", |row| text(row, "state")),
    ("VERSION", |row| text(row, "version")),
    ("CREATED", |row| text(row, "created_at")),
    ("GROUPS", |row| row["groups"].as_array().map_or(0, Vec::len).to_string()),
];

/// The columns of scrubs.
pub const SCRUBS: &[Column] = &[
    ("VOLUME", |row| text(row, "volume")),
    ("STATE", |row| text(row, "state")),
    ("TOTAL", |row| size(row, "bytes_total")),
    ("DONE", |row| size(row, "bytes_done")),
    ("SPEED", |row| size(row, "bytes_per_second")),
    ("REPAIRED", |row| text(row, "copies_repaired")),
    ("LOST", |row| text(row, "copies_lost")),
    ("FINISHED", |row| text(row, "finished_at")),
];

/// The columns of what is lost.
pub const LOST: &[Column] = &[
    ("KIND", |row| text(row, "kind")),
    ("LBA", |row| text(row, "lba")),
    ("OFFSET", |row| text(row, "offset_bytes")),
    ("LENGTH", |row| size(row, "length_bytes")),
];

/// The columns of copies that were wrong.
pub const FOUND: &[Column] = &[
    ("KIND", |row| text(row, "kind")),
    ("LBA", |row| text(row, "lba")),
    ("DRIVE", |row| text(row, "drive")),
    ("DRIVE-OFFSET", |row| text(row, "drive_offset_bytes")),
    ("OUTCOME", |row| text(row, "outcome")),
];

/// The columns of events.
pub const EVENTS: &[Column] = &[
    ("AT", |row| text(row, "at")),
    ("SEVERITY", |row| text(row, "severity")),
    ("KIND", |row| text(row, "kind")),
    ("OBJECT", |row| text(row, "object")),
    ("MESSAGE", |row| text(row, "message")),
];

/// The columns of a pool's history.
pub const HISTORY: &[Column] = &[
    ("AT", |row| text(row, "at")),
    ("COMMAND", |row| text(row, "command")),
    ("MESSAGE", |row| text(row, "message")),
];

/// The columns of pools that can be imported.
pub const IMPORTABLE: &[Column] = &[
    ("NAME", |row| text(row, "name")),
    ("ID", |row| text(row, "id")),
    ("DRIVES", |row| names(row, "drives")),
];

/// One object, a field per line; lists and objects of its own are left to the caller.
pub fn fields(row: &Value) -> String {
    let Some(object) = row.as_object() else { return String::new() };
    let shown: Vec<(&String, String)> = object
        .iter()
        .filter(|(_, value)| !value.is_array() && !value.is_object() && !value.is_null())
        .map(|(key, _)| match key.strip_suffix("_bytes") {
            Some(_) => (key, size(row, key)),
            None => (key, text(row, key)),
        })
        .collect();
    let width = shown.iter().map(|(key, _)| key.trim_end_matches("_bytes").len()).max().unwrap_or(0);
    let lines = shown
        .into_iter()
        .map(|(key, value)| format!("{:<width$}  {value}\n", key.trim_end_matches("_bytes")));
    lines.collect()
}

/// A pool with its drives.
pub fn pool(output: Output, value: &Value) -> Result<()> {
    if output != Output::Table {
        return list(output, value, "name", POOLS);
    }
    print(&fields(value))?;
    let none = Vec::new();
    let drives = value["drives"].as_array().unwrap_or(&none);
    print(&format!("\n{}", table(drives, DRIVES)))?;
    match value["tasks"].as_array() {
        Some(tasks) if !tasks.is_empty() => print(&format!("\n{}", table(tasks, TASKS))),
        _ => Ok(()),
    }
}

/// How something is encrypted. `sealed`: it has a secret, so that a key without a version is one that was destroyed.
fn encryption(by: &Value, sealed: bool) -> String {
    let version = match &by["key_version"] {
        Value::Null if sealed => ", destroyed".to_owned(),
        Value::Null => String::new(),
        version => format!(", version {version}"),
    };
    format!("{}, key {}{version}", text(by, "cipher"), text(by, "kek"))
}

/// A group with its volume.
pub fn group(value: &Value) -> Result<()> {
    let mut shown = value.clone();
    let volumes = names(value, "volumes");
    if value["encryption"].is_object() {
        shown["encryption"] = encryption(&value["encryption"], !volumes.is_empty()).into();
    }
    if !volumes.is_empty() {
        shown["volumes"] = volumes.into();
    }
    print(&fields(&shown))
}

/// A volume with its legs.
pub fn volume(output: Output, value: &Value) -> Result<()> {
    if output != Output::Table {
        return list(output, value, "name", VOLUMES);
    }
    let mut shown = value.clone();
    if value["encryption"].is_object() {
        shown["encryption"] = encryption(&value["encryption"], true).into();
    }
    let rekey = &value["rekey"];
    if rekey.is_object() {
        let waits = rekey["waits_for"].as_str().map(|why| format!(": waits for {why}")).unwrap_or_default();
        let (state, key) = (text(rekey, "state"), text(rekey, "data_key"));
        shown["rekey"] = format!("to data key {key}, {state}{waits}").into();
    }
    print(&fields(&shown))?;
    let mut rows = Vec::new();
    for leg in value["legs"].as_array().into_iter().flatten() {
        for drive in leg["drives"].as_array().into_iter().flatten() {
            let mut row = drive.clone();
            row["leg"] = leg["leg"].clone();
            rows.push(row);
        }
    }
    let columns: &[Column] = &[
        ("LEG", |row| text(row, "leg")),
        ("STATE", |row| text(row, "state")),
        ("STALE-SINCE", |row| text(row, "stale_since_seq")),
        ("READ-ERR", |row| text(row, "read_errors")),
        ("WRITE-ERR", |row| text(row, "write_errors")),
        ("CHECK-ERR", |row| text(row, "check_errors")),
        ("REPAIRED", |row| text(row, "repaired_blocks")),
        ("DRIVE", |row| text(row, "id")),
    ];
    print(&format!("\n{}", table(&rows, columns)))
}

/// Everything at a glance.
pub fn status(output: Output, value: &Value) -> Result<()> {
    match output {
        Output::Json => return json(value),
        Output::Name => return print(&format!("{}\n", text(value, "health"))),
        Output::Table => {}
    }
    print(&format!("health  {}\n", text(value, "health")))?;
    for field in ["status", "action"] {
        if !value[field].is_null() {
            print(&format!("{field}  {}\n", text(value, field)))?;
        }
    }
    let none = Vec::new();
    print(&format!("\n{}", table(value["pools"].as_array().unwrap_or(&none), POOLS)))?;
    print(&format!("\n{}", table(value["volumes"].as_array().unwrap_or(&none), VOLUMES)))
}
