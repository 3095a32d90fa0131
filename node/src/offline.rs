//! What works on drives without an agent: `plinth fsck` and `plinth inspect`.
//!
//! Both link the format code, not the server. Drives are opened for reading, under a lock that keeps targets out
//! and that a target keeps them from; only labels are ever written, when told to repair. Everything else is put
//! right by the next opening of its group, from a copy that is right.
use crate::drives::label::repair_label;
use crate::drives::{LabelState, Media, read_label};
use crate::error::{Error, Kind, Result};
use crate::keys::{GroupSecret, newest_envelope, open_offline};
use crate::target::drive_error;
use base::{Blocks, DriveBlock, Uuid};
use plinth_check::{Encrypted, Keyring, Object, Options, Severity};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use ublk_target::{Access, Drive};
use volume::StoredEnvelope;
use volume::keys::GroupKeys;

/// One thing that `fsck` found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is; a note is nothing to act on.
    pub severity: Severity,
    /// What is concerned, and whose it is.
    pub object: String,
    /// What is wrong, in one sentence, and where.
    pub message: String,
    /// Whether it was put right.
    pub repaired: bool,
}

/// What `fsck` found in all.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Report {
    /// Whether nothing is left but notes.
    pub clean: bool,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What was looked at, one line each: drives, groups, counts.
    pub checked: Vec<String>,
    /// The encrypted groups, and whether their keys were at hand.
    pub encrypted: Vec<Encrypted>,
    /// What to do, one sentence for each severity above a note, the worst first.
    pub actions: Vec<String>,
}

impl Report {
    /// Whether damage is left.
    pub fn damaged(&self) -> bool {
        !self.clean
    }
}

/// A drive as the check reads it: past the page cache, locked.
struct Locked(Drive);

impl plinth_check::Media for Locked {
    fn blocks(&self) -> Blocks {
        self.0.size()
    }

    fn read_into(&self, at: DriveBlock, into: &mut [u8]) -> io::Result<()> {
        self.0.read_blocks(at, into).map_err(io::Error::other)
    }
}

/// The secrets of encrypted groups that can be opened without an agent.
pub struct AtHand {
    secrets: BTreeMap<Uuid, GroupSecret>,
    /// Why others stay shut, one sentence each.
    pub shut: Vec<String>,
}

impl AtHand {
    /// Opens the newest envelopes that these drives have, with keys in files of this folder and in the kernel's keyring.
    pub fn open(drives: &[(&str, &dyn plinth_check::Media)], folder: &Path) -> Self {
        let tried = RefCell::new(BTreeMap::new());
        let open = |group: Uuid, envelopes: &[StoredEnvelope]| {
            let (envelope, _) = newest_envelope(envelopes)?;
            let opened = open_offline(folder, &envelope, &group);
            let keys = opened.as_ref().ok().map(GroupSecret::keys);
            tried.borrow_mut().insert(group, opened);
            keys
        };
        plinth_check::groups(drives, &open);
        let mut at_hand = Self { secrets: BTreeMap::new(), shut: Vec::new() };
        for (group, opened) in tried.into_inner() {
            match opened {
                Ok(secret) => drop(at_hand.secrets.insert(group, secret)),
                Err(error) => at_hand.shut.push(format!("group {group} stays shut: {}", error.message)),
            }
        }
        at_hand
    }
}

impl Keyring for AtHand {
    fn keys_of(&self, group: Uuid) -> Option<GroupKeys> {
        self.secrets.get(&group).map(GroupSecret::keys)
    }
}

/// Checks drives; with `repair`, puts labels right.
///
/// # Errors
/// `NotFound`, `Refused` (in use) and the like when a drive cannot be looked at at all; `Invalid` (no drive of a pool)
/// or `NotSupported` (of a newer format) when that is so of every drive: beside another drive it is a finding.
///
/// `keys` is a folder of keys in files. Of an encrypted group whose key is neither there nor in the kernel's keyring that is
/// checked which needs no key.
pub fn fsck(drives: &[PathBuf], keys: &Path, repair: bool) -> Result<Report> {
    let locked = open(drives)?;
    let mut report = Report::default();
    let mut refused = Vec::new();
    for path in drives {
        refused.extend(check_label(path, repair, &mut report)?);
    }
    if refused.len() == drives.len() {
        return Err(refused.remove(0));
    }
    let names: Vec<String> = drives.iter().map(|path| path.display().to_string()).collect();
    let given = given(&names, &locked);
    let at_hand = AtHand::open(&given, keys);
    report.checked.extend(at_hand.shut.iter().cloned());
    let found = plinth_check::fsck_with_keys(&given, &Options::default(), &at_hand);
    report.clean = found.is_clean();
    report.findings.extend(found.findings.iter().map(describe));
    for severity in [Severity::Damage, Severity::Repairable, Severity::Leak] {
        if found.findings.iter().any(|finding| finding.severity == severity) {
            report.actions.push(format!("{severity}: {}", severity.action()));
        }
    }
    report.checked.extend(found.encrypted.iter().map(ToString::to_string));
    report.encrypted = found.encrypted;
    let counts = found.counts;
    if counts.not_kept > 0 {
        report.checked.push(format!("{} more findings are not listed", counts.not_kept));
    }
    report.checked.push(format!(
        "{}: {} extents, {} pages, {} bitmaps, {} blocks of data ({} copies read), {} commits to replay",
        crate::text::counted(counts.groups as usize, "group"),
        counts.extents,
        counts.pages,
        counts.bitmaps,
        counts.data,
        counts.copies,
        counts.commits
    ));
    Ok(report)
}

/// Describes drives as JSON: labels, superblocks, log, directory, maps.
///
/// # Errors
/// As `fsck`, and `Damage` for a drive whose label is lost.
pub fn inspect(drives: &[PathBuf]) -> Result<serde_json::Value> {
    let locked = open(drives)?;
    for path in drives {
        label_of(path, &Media::open_read(path)?)?;
    }
    let names: Vec<String> = drives.iter().map(|path| path.display().to_string()).collect();
    Ok(plinth_check::inspect(&given(&names, &locked)))
}

/// What `inspect` tells as indented text.
pub fn to_text(told: &serde_json::Value) -> String {
    plinth_check::to_text(told)
}

fn open(drives: &[PathBuf]) -> Result<Vec<Locked>> {
    let in_use = |error: Error| match error.kind {
        Kind::Refused => error.hint("detach the volumes on it first"),
        _ => error,
    };
    let open = |path: &PathBuf| Drive::open(path, Access::ReadOnly).map(Locked);
    drives.iter().map(|path| open(path).map_err(|error| in_use(drive_error(error)))).collect()
}

fn given<'a>(names: &'a [String], drives: &'a [Locked]) -> Vec<(&'a str, &'a dyn plinth_check::Media)> {
    let pairs = names.iter().zip(drives);
    pairs.map(|(name, drive)| (name.as_str(), drive as &dyn plinth_check::Media)).collect()
}

fn describe(finding: &plinth_check::Finding) -> Finding {
    let object = match (&finding.group, &finding.object) {
        (Some(group), Object::Group) => format!("group {group}"),
        (Some(group), object) => format!("group {group}, {object}"),
        (None, object) => object.to_string(),
    };
    let places: Vec<String> =
        finding.at.iter().map(|at| format!("{} block {}", at.drive, at.block)).collect();
    let places = if places.is_empty() { String::new() } else { format!(" ({})", places.join(", ")) };
    let message = format!("{}{places}", finding.what);
    Finding { severity: finding.severity, object, message, repaired: false }
}

fn label_of(path: &std::path::Path, media: &Media) -> Result<LabelState> {
    match read_label(media)? {
        LabelState::None => {
            let name = path.display().to_string();
            Err(Error::invalid(name.clone(), format!("{name} is not a drive of a pool")))
        }
        ours => Ok(ours),
    }
}

/// What only a command can do about a label: write a bad copy again. What is no label of this format is returned.
fn check_label(path: &std::path::Path, repair: bool, report: &mut Report) -> Result<Option<Error>> {
    let media = if repair { Media::open(path)? } else { Media::open_read(path)? };
    let object = path.display().to_string();
    match label_of(path, &media) {
        Ok(LabelState::Ours { label, bad_copy }) => {
            report.checked.push(format!("{object}: drive {} of pool {}", label.drive, label.pool_name));
            if let Some(copy) = bad_copy.filter(|_| repair) {
                repair_label(&media, &label, copy)?;
                let message = format!("label copy {copy} was damaged");
                report.findings.push(Finding {
                    severity: Severity::Repairable,
                    object,
                    message,
                    repaired: true,
                });
            }
            Ok(None)
        }
        // The check tells it, with everything else.
        Err(error) if error.kind == Kind::Damage => Ok(None),
        Err(error) if matches!(error.kind, Kind::Invalid | Kind::NotSupported) => Ok(Some(error)),
        Ok(LabelState::None) => unreachable!("refused by label_of"),
        Err(error) => Err(error),
    }
}
