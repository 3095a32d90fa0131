//! Finding drives by their labels, whatever their paths.
//!
//! Looked at: the paths where drives were last found, every block device that the kernel lists, and, for
//! drives that are files, the other files of the same folders. One drive seen by two paths counts once; two
//! different drives with one label (a copied drive) are both refused unless one is at its last known path.
use super::{Identity, LabelState, Media, read_label};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use volume::Label;

/// Files of a folder that are looked at, at most.
const MAX_FOLDER_FILES: usize = 4096;
/// Kernel names of block devices that hold no pool drive: our own devices and what has no medium.
const SKIPPED: [&str; 7] = ["ublkb", "ram", "zram", "sr", "fd", "nbd", "mtdblock"];

/// A drive with a label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Where it is now.
    pub path: PathBuf,
    /// What it says.
    pub label: Label,
    /// A copy of the label that wants to be written again.
    pub bad_copy: Option<u8>,
    /// Its size now, in blocks.
    pub blocks: u64,
}

/// The outcome of a scan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Drives by id.
    pub seen: BTreeMap<String, Seen>,
    /// Drives of which several copies were found, with the paths.
    pub doubled: BTreeMap<String, Vec<PathBuf>>,
    /// Paths that were asked for by name and could not be used, with the reason.
    pub unreadable: Vec<(PathBuf, crate::error::Error)>,
}

/// Scans these paths, the kernel's block devices when `devices` says so, and the folders of the paths that
/// are files when `folders` does.
pub fn scan(known: &[PathBuf], devices: bool, folders: bool) -> Scan {
    let mut paths: Vec<PathBuf> = known.to_vec();
    if folders {
        paths.extend(neighbours(known));
    }
    if devices {
        paths.extend(block_devices());
    }
    let mut looked_at: BTreeSet<Identity> = BTreeSet::new();
    let mut found: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    let mut scan = Scan::default();
    for (index, path) in paths.iter().enumerate() {
        match look(path, &mut looked_at) {
            Ok(Some(seen)) => found.entry(seen.label.drive.to_string()).or_default().push(seen),
            Ok(None) => {}
            Err(error) if index < known.len() => scan.unreadable.push((path.clone(), error)),
            Err(_) => {}
        }
    }
    for (id, mut copies) in found {
        if copies.len() > 1 {
            scan.doubled.insert(id.clone(), copies.iter().map(|seen| seen.path.clone()).collect());
            copies.retain(|seen| known.contains(&seen.path));
        }
        if copies.len() == 1 {
            scan.seen.insert(id, copies.remove(0));
        }
    }
    scan
}

fn look(path: &Path, looked_at: &mut BTreeSet<Identity>) -> crate::error::Result<Option<Seen>> {
    let media = Media::open_read(path)?;
    if !looked_at.insert(media.identity()) {
        return Ok(None);
    }
    Ok(match read_label(&media)? {
        LabelState::Ours { label, bad_copy } => {
            Some(Seen { path: path.to_owned(), label, bad_copy, blocks: media.blocks().get() })
        }
        LabelState::None => None,
    })
}

/// The block devices that the kernel lists, partitions included.
fn block_devices() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| !SKIPPED.iter().any(|skipped| name.starts_with(skipped)));
    names.sort();
    names.into_iter().map(|name| Path::new("/dev").join(name.replace('!', "/"))).collect()
}

/// The other files in the folders of those known paths that are not device nodes.
fn neighbours(known: &[PathBuf]) -> Vec<PathBuf> {
    let folders: BTreeSet<&Path> =
        known.iter().filter_map(|path| path.parent()).filter(|folder| !folder.starts_with("/dev")).collect();
    let mut files = Vec::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let regular = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        files.extend(regular.map(|entry| entry.path()).take(MAX_FOLDER_FILES));
    }
    files.sort();
    files
}
