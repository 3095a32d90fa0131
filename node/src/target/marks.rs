//! The durable file of marks of a group: drives that went stale, and drives that are current again.
//!
//! Crash story: a drive that misses a write is marked here, and the mark is flushed, before the engine may
//! acknowledge that write; and a drive that got everything it lacked is marked before the engine counts on it. The
//! file is beside the catalogue and does not need the agent: a drive can go stale while the agent is down. The
//! agent folds the marks into the catalogue when it hears of them and reads this file before it starts a target;
//! the highest version of a drive counts.
use crate::error::Result;
use crate::files;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One line of the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The drives, by id.
    pub drives: Vec<String>,
    /// Version of the superblock that says so.
    pub version: u64,
    /// Since when they are stale, in the order of `drives`: Seq and checkpoint; empty where it was not written down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub since: Vec<(u64, u32)>,
    /// Those among them that went stale because of what they did, not because they were away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// They are current again; otherwise they are stale.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub current: bool,
}

impl Mark {
    /// A drive that has everything by this version of the superblock.
    pub fn current(drive: String, version: u64) -> Self {
        Self { drives: vec![drive], version, since: Vec::new(), failed: Vec::new(), current: true }
    }
}

/// Appends a mark; durable when it returns.
///
/// # Errors
/// The file system's.
pub fn append(path: &Path, mark: &Mark) -> Result<()> {
    files::append_line(path, &serde_json::to_string(mark).expect("a mark encodes as JSON"))
}

/// All marks. A line that a cut left incomplete was never answered and does not count.
///
/// # Errors
/// The file system's.
pub fn read(path: &Path) -> Result<Vec<Mark>> {
    let lines = files::whole_lines(path)?;
    Ok(lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_and_half_a_mark_does_not_hide_the_next() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("g.stale");
        let mark = |version| {
            let failed = if version == 1 { vec!["d".into()] } else { Vec::new() };
            let since = if version == 1 { vec![(7, 3)] } else { Vec::new() };
            Mark { drives: vec!["d".into()], version, since, failed, current: version == 2 }
        };
        append(&path, &mark(1)).expect("appends");
        let half = std::fs::read_to_string(&path).expect("reads") + "{\"drives\":[\"x\"";
        std::fs::write(&path, half).expect("writes");
        append(&path, &mark(2)).expect("appends");
        assert_eq!(read(&path).expect("reads"), [mark(1), mark(2)]);
    }
}
