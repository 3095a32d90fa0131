//! Finding drives by their labels, whatever their paths.
//!
//! Looked at: the paths where drives were last found, every block device that the kernel lists, and, for
//! drives that are files, the other files of the same folders. One drive seen by two paths counts once, also one that
//! another device of the kernel stands for (multipath). Of two different drives with one label (a copied drive)
//! nobody knows which is the right one: names of the kernel move, so that not even the last known path tells.
use super::{Identity, LabelState, Media, read_label};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use volume::Label;

/// Files of a folder that are looked at, at most.
const MAX_FOLDER_FILES: usize = 4096;
/// Drives that are looked at at a time, at most.
const MAX_LOOKS: usize = 32;
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
    /// Drives of which several copies were found; none of them is in `seen`.
    pub doubled: BTreeMap<String, Vec<Seen>>,
    /// Paths that were asked for by name and could not be used, with the reason.
    pub unreadable: Vec<(PathBuf, crate::error::Error)>,
}

/// Scans these paths, the kernel's block devices when `devices` says so, and the folders of the paths that
/// are files when `folders` does.
pub fn scan(known: &[PathBuf], devices: bool, folders: bool) -> Scan {
    crate::waits::here("a scan for drives");
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
    for (index, (path, looked)) in paths.iter().zip(look_at(&paths)).enumerate() {
        match looked.map(|(drive, seen)| seen.filter(|_| looked_at.insert(drive))) {
            Ok(Some(seen)) => found.entry(seen.label.drive.to_string()).or_default().push(seen),
            Ok(None) => {}
            Err(error) if index < known.len() => scan.unreadable.push((path.clone(), error)),
            Err(_) => {}
        }
    }
    for (id, mut copies) in found {
        leave_out_parts(&mut copies, Path::new("/sys/class/block"));
        if copies.len() > 1 {
            scan.doubled.insert(id, copies);
        } else if let Some(only) = copies.pop() {
            scan.seen.insert(id, only);
        }
    }
    scan
}

/// Leaves out devices of which another one that was found is made: the paths under a multipath device are the drive
/// itself.
fn leave_out_parts(copies: &mut Vec<Seen>, devices: &Path) {
    let name = |seen: &Seen| {
        let path = seen.path.canonicalize().unwrap_or_else(|_| seen.path.clone());
        path.file_name().map(std::ffi::OsStr::to_owned)
    };
    let names: Vec<_> = copies.iter().filter_map(name).collect();
    copies.retain(|seen| {
        let is_part = |part: &std::ffi::OsStr| {
            let made_of = |other| devices.join(other).join("slaves").join(part).exists();
            names.iter().any(made_of)
        };
        !(seen.path.starts_with("/dev") && name(seen).is_some_and(|name| is_part(&name)))
    });
}

/// What a path leads to, and what its label says, if it has one.
type Looked = crate::error::Result<(Identity, Option<Seen>)>;

/// Looks at these paths, many at a time: drives that do not answer are waited for side by side.
fn look_at(paths: &[PathBuf]) -> Vec<Looked> {
    let next = AtomicUsize::new(0);
    let look_on = || {
        let mut looked = Vec::new();
        while let Some((index, path)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            paths.get(index).map(|path| (index, path))
        } {
            looked.push((index, look(path)));
        }
        looked
    };
    let mut looked: Vec<(usize, Looked)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..paths.len().min(MAX_LOOKS)).map(|_| scope.spawn(look_on)).collect();
        let own = look_on();
        let others = threads.into_iter().flat_map(|thread| thread.join().expect("a look panics nowhere"));
        own.into_iter().chain(others).collect()
    });
    looked.sort_by_key(|(index, _)| *index);
    looked.into_iter().map(|(_, looked)| looked).collect()
}

fn look(path: &Path) -> Looked {
    let media = Media::open_read(path)?;
    let seen = match read_label(&media)? {
        LabelState::Ours { label, bad_copy } => {
            Some(Seen { path: path.to_owned(), label, bad_copy, blocks: media.blocks().get() })
        }
        LabelState::None => None,
    };
    Ok((media.identity(), seen))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drives::Hang;
    use std::time::{Duration, Instant};

    /// How long a test waits for what must come, before it says that it does not.
    const HOPELESS: Duration = Duration::from_secs(60);

    /// Each that did not answer was waited for in its turn, and everybody for all of them.
    #[test]
    fn drives_that_do_not_answer_are_waited_for_side_by_side() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths: Vec<PathBuf> = (0..3).map(|n| folder.path().join(n.to_string())).collect();
        for path in &paths {
            std::fs::File::create(path).expect("creates").set_len(1 << 20).expect("sizes");
        }
        let of = |path: &PathBuf| Hang::behind(0, Media::open_read(path).expect("opens").identity());
        let began = Instant::now();
        let (first, last) = (of(&paths[0]), of(&paths[2]));
        let scanned = std::thread::spawn(move || scan(&paths, false, false));
        while !(first.is_met() && last.is_met()) {
            assert!(!scanned.is_finished(), "both hang");
            assert!(began.elapsed() < HOPELESS, "one waits for the other");
            std::thread::yield_now();
        }
        drop((first, last));
        assert_eq!(scanned.join().expect("no panic"), Scan::default());
    }

    /// A drive behind two paths is three devices to the kernel, all with one label.
    #[test]
    fn the_paths_of_a_multipath_device_are_no_copies_of_it() {
        let seen = |path: &str| Seen {
            path: path.into(),
            label: Label {
                pool: base::Uuid([1; 16]),
                pool_name: "p".into(),
                drive: base::Uuid([2; 16]),
                blocks: base::Blocks::new(65_536),
                extent_blocks: 64,
                written: 1,
                node: String::new(),
                rack: String::new(),
                zone: String::new(),
                class: String::new(),
            },
            bad_copy: None,
            blocks: 65_536,
        };
        let devices = tempfile::tempdir().expect("a folder");
        for part in ["sdy-of-a-test", "sdz-of-a-test"] {
            let slaves = devices.path().join("dm-of-a-test/slaves");
            std::fs::create_dir_all(slaves.join(part)).expect("made");
        }
        let mut copies =
            ["/dev/sdy-of-a-test", "/dev/sdz-of-a-test", "/dev/dm-of-a-test", "/dev/copy"].map(seen).to_vec();
        leave_out_parts(&mut copies, devices.path());
        assert_eq!(copies, ["/dev/dm-of-a-test", "/dev/copy"].map(seen));
    }
}
