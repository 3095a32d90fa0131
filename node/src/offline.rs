//! What works on drives without an agent: `plinth fsck` and `plinth inspect`.
//!
//! Both link the format code, not the server. They open drives for reading unless told to repair.
use crate::drives::{LabelState, Media, read_label};
use crate::error::{Error, Kind, Result};
use base::BLOCK_BYTES;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// One thing that `fsck` found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The drive or group concerned.
    pub object: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Whether it was put right.
    pub repaired: bool,
}

/// What `fsck` found in all.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Report {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What was looked at, one line each: drives, groups, counts.
    pub checked: Vec<String>,
}

impl Report {
    /// Whether damage is left.
    pub fn damaged(&self) -> bool {
        self.findings.iter().any(|finding| !finding.repaired)
    }
}

/// Checks drives; with `repair`, puts right what a good copy allows.
///
/// # Errors
/// `NotFound`, `Invalid` and the like when a drive cannot be looked at at all.
pub fn fsck(drives: &[PathBuf], repair: bool) -> Result<Report> {
    let mut report = Report::default();
    for path in drives {
        check_label(path, repair, &mut report)?;
    }
    Ok(report)
}

fn check_label(path: &Path, repair: bool, report: &mut Report) -> Result<()> {
    let media = if repair { Media::open(path)? } else { Media::open_read(path)? };
    let object = path.display().to_string();
    match read_label(&media) {
        Ok(LabelState::Ours { label, bad_copy }) => {
            report.checked.push(format!("{object}: drive {} of pool {}", label.drive, label.pool_name));
            if let Some(copy) = bad_copy {
                if repair {
                    crate::drives::label::repair_label(&media, &label, copy)?;
                }
                let message = format!("label copy {copy} is damaged");
                report.findings.push(Finding { object, message, repaired: repair });
            }
        }
        Ok(LabelState::None) => {
            return Err(Error::new(Kind::Invalid, object.clone(), format!("{object} is not a drive of a pool")));
        }
        Err(error) if error.kind == Kind::Damage => {
            report.findings.push(Finding { object, message: error.message, repaired: false });
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Describes drives as JSON: labels, and what the format code can say of their groups.
///
/// # Errors
/// As `fsck`.
pub fn inspect(drives: &[PathBuf]) -> Result<serde_json::Value> {
    let mut all = Vec::new();
    for path in drives {
        let media = Media::open_read(path)?;
        let name = path.display().to_string();
        let label = match read_label(&media)? {
            LabelState::Ours { label, bad_copy } => serde_json::json!({
                "pool": label.pool.to_string(),
                "pool_name": label.pool_name,
                "drive": label.drive.to_string(),
                "size_bytes": label.blocks.get() * BLOCK_BYTES as u64,
                "extent_bytes": u64::from(label.extent_blocks) * BLOCK_BYTES as u64,
                "written": label.written,
                "node": label.node, "rack": label.rack, "zone": label.zone, "class": label.class,
                "bad_copy": bad_copy,
            }),
            LabelState::None => {
                return Err(Error::new(Kind::Invalid, name.clone(), format!("{name} is not a drive of a pool")));
            }
        };
        all.push(serde_json::json!({ "path": name, "label": label }));
    }
    Ok(serde_json::Value::Array(all))
}
