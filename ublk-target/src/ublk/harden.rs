//! What a process must do before it serves a block device to the machine that it runs on.
//!
//! The danger is always the same circle: something we wait for waits for the device, and the device waits for us.
//! - *Memory*: an allocation may make the kernel write back dirty pages, of file systems on our own device. So
//!   every thread is marked (PR_SET_IO_FLUSHER, inherited), all memory is locked, and the out-of-memory killer
//!   is told to look elsewhere.
//! - *Mounts*: if this process is the last of a mount namespace in which a file system of our device is mounted,
//!   its exit unmounts that file system, which writes to the device that it serves no more. So it gets a mount
//!   namespace of its own. That begins as a copy, with such mounts in it when a device is taken over, so these are
//!   detached there; and mounts made elsewhere later must not come in, so the copy is made private.
//!
//! To be called first thing in `main`, while there is one thread.
use super::sys;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A precaution that was not possible.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}; {risk}")]
pub struct Unhardened {
    what: &'static str,
    risk: &'static str,
    source: io::Error,
}

/// Takes all precautions; returns those that failed. A target for ublk should refuse to start then; one for NBD
/// can go on (its clients may be on this machine too, but nothing of the kernel's waits for it).
pub fn harden_process() -> Vec<Unhardened> {
    let mut failed = Vec::new();
    let mut check = |what, risk, outcome: io::Result<()>| {
        failed.extend(outcome.err().map(|source| Unhardened { what, risk, source }));
    };
    check(
        "mark itself as serving I/O (PR_SET_IO_FLUSHER)",
        "under memory pressure the volume may hang; run with CAP_SYS_RESOURCE",
        sys::set_io_flusher(),
    );
    check(
        "lock its memory",
        "under memory pressure the volume may hang; raise the limit on locked memory (ulimit -l)",
        lock_memory(),
    );
    check(
        "ask the out-of-memory killer to spare it",
        "it may be killed first; the device then waits until it is started again",
        std::fs::write("/proc/self/oom_score_adj", "-1000"),
    );
    check(
        "enter a mount namespace of its own",
        "its end may hang on a file system of its own device; run with CAP_SYS_ADMIN",
        own_mounts(),
    );
    failed
}

/// Keeps all memory of this process, also what it gets later, out of the swap as soon as it is used. Without
/// CAP_IPC_LOCK what it gets beyond the limit on locked memory fails from then on.
///
/// # Errors
/// The operating system's.
pub fn lock_memory() -> io::Result<()> {
    use nix::sys::mman::{MlockAllFlags, mlockall};
    let all = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(all).map_err(io::Error::from)
}

/// Whether the calling thread has been marked.
pub fn is_io_flusher() -> bool {
    sys::is_io_flusher()
}

/// Ends the optional fields of a line of mountinfo.
const BEHIND_OPTIONS: &[u8] = b" - ";

fn own_mounts() -> io::Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let table = std::fs::read("/proc/self/mountinfo")?;
    // The last mounted first: an upper mount hides a lower one's path.
    let lines = table.rsplit(|byte| *byte == b'\n');
    for mount in lines.filter_map(Mount::parse).filter(Mount::lies_on_ublk) {
        umount2(&mount.point, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// A line of mountinfo, as far as it matters here. Paths in it are what somebody named a folder: any bytes.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Mount {
    pub(crate) device: String,
    pub(crate) point: PathBuf,
    pub(crate) source: PathBuf,
}

impl Mount {
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let middle = line.windows(BEHIND_OPTIONS.len()).position(|part| part == BEHIND_OPTIONS)?;
        let (left, right) = (&line[..middle], &line[middle + BEHIND_OPTIONS.len()..]);
        let mut fields = left.split(|byte| *byte == b' ');
        let (device, point) = (fields.nth(2)?, fields.nth(1)?);
        let source = right.split(|byte| *byte == b' ').nth(1)?;
        let device = std::str::from_utf8(device).ok()?.to_owned();
        Some(Self { device, point: unescape(point), source: unescape(source) })
    }

    /// Whether it lies on a ublk device, directly or through dm, md and the like. File systems with several
    /// devices (btrfs) show a number of their own, so the source is looked at too.
    fn lies_on_ublk(&self) -> bool {
        let of_source = std::fs::metadata(&self.source).ok().map(|meta| {
            let device = meta.rdev();
            format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device))
        });
        [Some(self.device.clone()), of_source].into_iter().flatten().any(|device| {
            let folder = PathBuf::from(format!("/sys/dev/block/{device}"));
            std::fs::canonicalize(folder).is_ok_and(|disk| stands_on_ublk(&disk, 8))
        })
    }
}

fn stands_on_ublk(disk: &Path, depth: u32) -> bool {
    let ublk = |part: std::path::Component<'_>| part.as_os_str().to_string_lossy().starts_with("ublkb");
    if disk.components().any(ublk) {
        return true;
    }
    let lower = std::fs::read_dir(disk.join("slaves")).into_iter().flatten().flatten();
    depth > 0
        && lower
            .filter_map(|entry| std::fs::canonicalize(entry.path()).ok())
            .any(|disk| stands_on_ublk(&disk, depth - 1))
}

/// Mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *byte == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                out.push(code);
                rest = &after[3..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_off_its_line() {
        let line = br"36 35 98:0 /mnt1 /my\040data rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.device.as_str(), mount.point.as_path()), ("98:0", Path::new("/my data")));
        assert_eq!(mount.source, Path::new("/dev/root"));
        assert!(!mount.lies_on_ublk());
        assert_eq!(Mount::parse(b"nonsense"), None);
        assert_eq!(Mount::parse(b""), None);
    }

    /// Somebody had mounted something on a folder whose name is no UTF-8, and no ublk target started on that machine.
    #[test]
    fn the_name_of_a_folder_is_any_bytes() {
        let mount = Mount::parse(b"36 35 98:0 / /caf\xe9\\134 rw - fuse odd\xff rw").unwrap();
        assert_eq!(mount.point.as_os_str().as_encoded_bytes(), b"/caf\xe9\\");
        assert_eq!(mount.source.as_os_str().as_encoded_bytes(), b"odd\xff");
    }
}
