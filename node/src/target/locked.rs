//! A drive, opened and locked for a group; or why the group goes on without it, or must not be served.
//!
//! | the drive | the group |
//! |---|---|
//! | opens, and has the label that it should | has it |
//! | is gone, broken, another one, or claimed by something above it | goes without: that is what a mirror is for |
//! | is locked for this group, and a process has the lock | is served by another target: refused |
//! | is locked for this group, and no process has the lock | goes without |
//! | is in use as a whole, or not ours to open | refused |
//!
//! Crash story of the fourth row: a drive hangs, and its target is killed. The process goes; the kernel keeps the open file,
//! and with it the lock, until the drive has answered, which may be never. The lock does its work: what is in flight lands
//! on no later life of this drive. It must not keep the other drives of the mirror from being served.
use crate::agent::parse_id;
use crate::drives::{LabelState, Media, read_label};
use crate::error::{Error, Kind, Result};
use crate::target_spec::TargetSpec;
use nix::libc;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};
use ublk_target::{Access, Drive, DriveError, drive};

/// How long the kernel may take to end what a target that was killed had in flight; as long as a drive may be silent while it
/// is served. Then the group goes without.
const LAST_OPERATIONS: Duration = Duration::from_secs(10);
/// How long another holder may take to go: then the group is refused.
const HOLDER_PATIENCE: Duration = Duration::from_secs(60);
/// The first of all namespaces of processes, by the number that the kernel gives it.
const ALL_PROCESSES: &str = "pid:[4026531836]";

/// A drive of a group.
pub(super) struct Wanted<'a> {
    path: &'a Path,
    id: &'a str,
    pool: &'a str,
    /// What the group locks drives by.
    group: u64,
}

/// What a group that opens has of a drive.
pub(super) enum Taken {
    Drive(Drive),
    /// It goes without.
    Absent(Error),
}

impl<'a> Wanted<'a> {
    /// A drive of the group that the spec names.
    ///
    /// # Errors
    /// The group's identity is none.
    pub(super) fn of(path: &'a Path, id: &'a str, spec: &'a TargetSpec) -> Result<Self> {
        let group = parse_id(&spec.group)?;
        let group = u64::from_le_bytes(group.0[..8].try_into().expect("eight bytes"));
        Ok(Self { path, id, pool: &spec.pool, group })
    }

    /// Opens it for a group that opens.
    ///
    /// # Errors
    /// The group must not be served.
    pub(super) fn take(&self) -> Result<Taken> {
        self.take_within(LAST_OPERATIONS, HOLDER_PATIENCE, Path::new("/proc"))
    }

    fn take_within(&self, operations: Duration, holder: Duration, processes: &Path) -> Result<Taken> {
        let start = Instant::now();
        let error = loop {
            match Drive::open_within(self.path, Access::Group(self.group), operations) {
                Ok(opened) => match self.check_label() {
                    Ok(()) => return Ok(Taken::Drive(opened)),
                    Err(error) => break error,
                },
                Err(DriveError::Served(_)) if !is_locked(processes, self.group) => {
                    return Ok(Taken::Absent(self.unfinished()));
                }
                Err(DriveError::Served(_) | DriveError::InUse(_)) if start.elapsed() < holder => {}
                Err(error @ DriveError::Claimed(_)) => return Ok(Taken::Absent(drive_error(error))),
                Err(error) => break drive_error(error),
            }
        };
        match error.kind {
            Kind::Refused | Kind::Permission => Err(error),
            _ => Ok(Taken::Absent(error)),
        }
    }

    /// Opens it for a group that is served; only then its label is believed.
    ///
    /// # Errors
    /// It cannot be opened, another holds it, or it is another drive by now.
    pub(super) fn open(&self, patience: Duration) -> Result<Drive> {
        let opened =
            Drive::open_within(self.path, Access::Group(self.group), patience).map_err(drive_error)?;
        self.check_label().map(|()| opened)
    }

    fn check_label(&self) -> Result<()> {
        match read_label(&Media::open_read(self.path)?)? {
            LabelState::Ours { label, .. }
                if label.drive.to_string() == self.id && label.pool.to_string() == self.pool =>
            {
                Ok(())
            }
            _ => {
                let name = self.path.display().to_string();
                let message = format!("{name} is not the drive {} any more", self.id);
                Err(Error::new(Kind::NotFound, name, message))
            }
        }
    }

    fn unfinished(&self) -> Error {
        let name = self.path.display().to_string();
        let message = format!(
            "{name} has not ended what a former target of this group asked of it, and does not answer the kernel"
        );
        Error::new(Kind::Busy, name, message)
    }
}

/// Whether another process has a drive locked for this group; also if not every process can be seen.
fn is_locked(processes: &Path, group: u64) -> bool {
    let all = std::fs::read_link(processes.join("self/ns/pid")).is_ok_and(|space| *space == *ALL_PROCESSES);
    let Ok(entries) = std::fs::read_dir(processes) else { return true };
    let own = std::process::id();
    let others = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse::<u32>().ok()?;
        (number != own).then(|| entry.path().join("fdinfo"))
    });
    let lock = drive::group_lock(group).to_string();
    !all || others.into_iter().any(|files| has_lock(&files, &lock).unwrap_or_else(|error| !is_gone(&error)))
}

/// Whether one of a process's open files has the lock of a group.
fn has_lock(files: &Path, lock: &str) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(files)? {
        match std::fs::read(entry?.path()) {
            Ok(text) if tells_lock(&text, lock) => return Ok(true),
            Ok(_) => {}
            // Closed meanwhile.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether what the kernel says of an open file tells of the lock. Beside locks that may be names of files (io_uring's), so
/// any bytes.
pub(crate) fn tells_lock(text: &[u8], lock: &str) -> bool {
    String::from_utf8_lossy(text).lines().any(|line| is_lock(line, lock))
}

/// `lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:4711 12345 12345`: owner, device and inode, first and last byte.
fn is_lock(line: &str, lock: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    matches!(words[..], ["lock:", _, "OFDLCK", _, "WRITE", _, _, first, last] if first == lock && last == lock)
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Why a drive cannot be used, for people.
pub(crate) fn drive_error(error: DriveError) -> Error {
    let kind = match &error {
        DriveError::NotFound(_) => Kind::NotFound,
        DriveError::NotADrive(_) | DriveError::SectorSize { .. } => Kind::Invalid,
        DriveError::Permission(_) | DriveError::ReadOnly(_) => Kind::Permission,
        DriveError::InUse(_) | DriveError::Served(_) | DriveError::Claimed(_) => Kind::Refused,
        DriveError::Io { .. } => Kind::Failed,
    };
    Error::general(kind, error.to_string())
}

#[cfg(test)]
mod tests;
