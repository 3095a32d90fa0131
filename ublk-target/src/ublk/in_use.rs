//! Who uses a block device: for kernels whose driver cannot say (before 7.0), and for the message everywhere.
//!
//! An exclusive open fails while a mount, swap, md, dm or bcache has the device; what has it open without a claim
//! is found among the open files of all processes, loop devices and NVMe targets. A user that none of this shows
//! (a process of another machine's container, hidden from us) is the reason why newer drivers do it themselves.
use super::control::UblkError;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Claims the device for us alone.
///
/// # Errors
/// `InUse` if anybody has it.
pub(super) fn claim(id: u32) -> Result<Option<File>, UblkError> {
    let path = node(id);
    let claim = match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(&path) {
        Ok(file) => file,
        // No block device: it was never started, or is stopped already.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)) => {
            return Ok(None);
        }
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            return Err(UblkError::InUse { id, by: describe(id) });
        }
        Err(source) => return Err(UblkError::Io { doing: format!("open {}", path.display()), source }),
    };
    match users(id).into_iter().next() {
        Some(by) => Err(UblkError::InUse { id, by }),
        None => Ok(Some(claim)),
    }
}

/// Who uses it, in words.
pub(super) fn describe(id: u32) -> String {
    let mut all = holders(id);
    all.extend(mounts(id));
    all.extend(users(id));
    if all.is_empty() { "by a mount or another process".into() } else { all.join(", ") }
}

fn node(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{id}"))
}

fn holders(id: u32) -> Vec<String> {
    names(&PathBuf::from(format!("/sys/block/ublkb{id}/holders"))).map(|n| format!("part of {n}")).collect()
}

fn mounts(id: u32) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/1/mountinfo").unwrap_or_default();
    let source = format!("/dev/ublkb{id}");
    let point = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').nth(1)? == source).then(|| left.split(' ').nth(4).unwrap_or("?").to_owned())
    };
    text.lines().filter_map(point).map(|point| format!("mounted at {point}")).collect()
}

/// Openers without a claim, other than this process.
fn users(id: u32) -> Vec<String> {
    let Ok(device) = std::fs::metadata(node(id)).map(|meta| meta.rdev()) else { return Vec::new() };
    let mut found = Vec::new();
    let own = std::process::id().to_string();
    for process in names(Path::new("/proc")).filter(|n| n.bytes().all(|b| b.is_ascii_digit()) && *n != own) {
        let files = PathBuf::from(format!("/proc/{process}/fd"));
        let has_it = names(&files).any(|fd| {
            // A name first: looking at every file of every process would wake file systems that hang.
            let named = std::fs::read_link(files.join(&fd)).is_ok_and(|to| to.starts_with("/dev/"));
            named && std::fs::metadata(files.join(&fd)).is_ok_and(|meta| meta.rdev() == device)
        });
        if has_it {
            let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            found.push(format!("open in process {process} ({})", name.trim()));
        }
    }
    let path = node(id);
    let says = |file: PathBuf| std::fs::read_to_string(file).is_ok_and(|text| Path::new(text.trim()) == path);
    for disk in names(Path::new("/sys/block")).filter(|n| n.starts_with("loop")) {
        if says(PathBuf::from(format!("/sys/block/{disk}/loop/backing_file"))) {
            found.push(format!("behind /dev/{disk}"));
        }
    }
    let systems = Path::new("/sys/kernel/config/nvmet/subsystems");
    for system in names(systems) {
        let spaces = systems.join(&system).join("namespaces");
        if names(&spaces).any(|space| says(spaces.join(space).join("device_path"))) {
            found.push(format!("exported as {system}"));
        }
    }
    found
}

fn names(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}
