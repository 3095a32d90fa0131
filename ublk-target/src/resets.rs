//! Resets of controllers, connections and targets below the drives, as the kernel tells of them.
//!
//! Crash story: a drive completed a thousand writes into its volatile cache. Then its controller is reset, or the
//! host that exports it restarts, and the cache is gone. The kernel sends again what was in flight, so no request
//! of ours fails, and the next flush succeeds: there is nothing left to flush. Were it believed, those writes
//! would be promised and are on no medium of that drive.
//!
//! So a flush of a drive with a volatile cache counts only if nothing below the drive was reset since a write that
//! it covers was issued (`ops`); otherwise it failed, and a failed flush puts the drive out as of its last good one.
//! A reset while everything is flushed does no harm and is not even noticed. What was written by a process before
//! this one counts as not flushed, until the first good flush.
//!
//! The kernel tells in its events (netlink(7), `NETLINK_KOBJECT_UEVENT`):
//! - an NVMe controller that begins to serve, again or for the first time: `NVME_EVENT=connected` (`nvme_start_ctrl` in
//!   `drivers/nvme/host/core.c`), locally attached or over fabrics, also after the restart of a target;
//! - a SCSI device that says with its next answer that it was powered on or reset (unit attention 29h; so does an
//!   iSCSI target after its restart): `SDEV_UA=POWER_ON_RESET_OCCURRED` (`drivers/scsi/scsi_lib.c`).
//!
//! The kernel sends the NVMe event last. What was in flight during a reset is sent again before it, and the kernel even waits
//! for the end of that (`nvme_wait_freeze` in `drivers/nvme/host`), so a flush that spans a reset has ended when nothing has
//! been told yet. But the controller is not `live` until then: its state is read (`Controllers`) before the events, and
//! a flush that ends while it is another one is as if a reset had been told. Between `live` and the event lies one command to the
//! controller: a flush that is looked at in that moment is believed. A disk with several controllers may be served by one while
//! another one connects for hours, so of those only events count. SATA links and virtio tell nothing.
//!
//! Events are looked at where they matter: when a flush has succeeded and before that is handed on, and before the first
//! write behind one, so that what happened while there was nothing to lose is forgotten. A queue
//! that overflowed (`ENOBUFS`) may have held anything, so it counts as a reset of every drive.
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The group to which the kernel itself sends; udev sends to another one.
const KERNEL_EVENTS: u32 = 1;
/// Room for events that nobody has looked at. They are looked at once a second at the latest while anything is not
/// flushed, and one takes up to 2 KiB of it.
const QUEUE_BYTES: usize = 8 << 20;
/// The longest event: 2 KiB of variables behind a path (`UEVENT_BUFFER_SIZE`).
const EVENT_BYTES: usize = 8 << 10;
const SYS: &str = "/sys";
/// The longest name of a controller's state is `deleting (no IO)`.
const STATE_BYTES: usize = 32;
const LIVE: &[u8] = b"live";
/// How deep devices may lie on each other (a partition of a mapping of a partition of a disk).
const MAX_DEPTH: usize = 8;

/// Listens to the kernel.
pub(crate) struct Resets {
    socket: OwnedFd,
    event: Box<[u8; EVENT_BYTES]>,
}

/// What was reset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reset {
    /// The device at this path below `/sys`.
    Device(PathBuf),
    /// Events were lost: it may have been any.
    Any,
}

impl Resets {
    /// Listens from now on: before anything is read that a later flush is to keep.
    ///
    /// # Errors
    /// The system refuses the socket (a container's filter may).
    pub(crate) fn listen() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Beyond the system's limit if we may; what we get otherwise does for all but floods of events.
        if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &QUEUE_BYTES)?;
        }
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_EVENTS))?;
        Ok(Self { socket, event: Box::new([0; EVENT_BYTES]) })
    }

    /// The next reset that was told; `None` if nothing else was.
    pub(crate) fn next(&mut self) -> Option<Reset> {
        loop {
            match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut self.event[..]) {
                // Only the kernel's number is 0: another process may send what it likes.
                Ok((length, from)) if from.is_some_and(|from| from.pid() == 0) => {
                    if let Some(reset) = reset_of(&self.event[..length]) {
                        return Some(reset);
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return None,
                Err(_) => return Some(Reset::Any),
            }
        }
    }
}

/// The reset that this event tells of. An event is `ACTION@PATH`, then `NAME=VALUE`, each with a zero behind it. One that
/// tells of a reset and not of what may be of any drive: a reset that is not believed loses what was promised.
pub(crate) fn reset_of(event: &[u8]) -> Option<Reset> {
    let mut texts = event.split(|byte| *byte == 0);
    let head = texts.next().unwrap_or_default();
    let tells = |text: &[u8]| matches!(text, b"NVME_EVENT=connected" | b"SDEV_UA=POWER_ON_RESET_OCCURRED");
    if !texts.any(tells) {
        return None;
    }
    let Some(at) = head.iter().position(|byte| *byte == b'@') else { return Some(Reset::Any) };
    let path = &head[at + 1..];
    let slashes = path.iter().take_while(|byte| **byte == b'/').count();
    Some(Reset::Device(PathBuf::from(OsStr::from_bytes(&path[slashes..]))))
}

/// Whether a drive lies on this device.
pub(crate) fn lies_on(drive: &File, reset: &Reset) -> bool {
    let Reset::Device(path) = reset else { return true };
    let Ok((is_block, block)) = block_of(drive) else { return true };
    let mut carriers = Vec::new();
    match collect(Path::new(SYS), &block, MAX_DEPTH, &mut carriers) {
        Ok(()) => carriers.contains(path),
        // A device of which nothing is known any more was taken away, and what was not flushed may be gone with it. Of
        // a file it only says that its file system does not tell what it lies on.
        Err(_) => is_block,
    }
}

/// The NVMe controllers below a drive, of disks that have one each: the kernel's files with their states.
#[derive(Debug)]
pub(crate) struct Controllers(Vec<File>);

impl Controllers {
    /// Those of this drive. None, where it is not known what the drive lies on.
    pub(crate) fn below(drive: &File) -> Self {
        let found = block_of(drive).and_then(|(_, block)| states(&block));
        Self(found.unwrap_or_default())
    }

    /// Whether all of them serve: none is being reset, connects or is gone.
    pub(crate) fn serve(&self) -> bool {
        let mut text = [0; STATE_BYTES];
        self.0.iter().all(
            |state| matches!(state.read_at(&mut text, 0), Ok(count) if text[..count].trim_ascii() == LIVE),
        )
    }
}

/// Whether a drive is a block device, and the folder below `/sys` of that, or of the one that its file system lies on.
fn block_of(drive: &File) -> io::Result<(bool, PathBuf)> {
    let meta = drive.metadata()?;
    let is_block = meta.file_type().is_block_device();
    let device = if is_block { meta.rdev() } else { meta.dev() };
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    Ok((is_block, Path::new(SYS).join(format!("dev/block/{major}:{minor}"))))
}

/// Calls `each` with the device of every disk on which a block device lies.
fn disks(block: &Path, depth: usize, each: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let block = block.canonicalize()?;
    if depth == 0 {
        return Err(io::Error::other("devices lie on each other without end"));
    }
    if block.join("partition").exists() {
        let disk = block.parent().ok_or(io::ErrorKind::NotFound)?;
        return disks(disk, depth - 1, each);
    }
    for lower in entries(&block.join("slaves")) {
        disks(&lower, depth - 1, each)?;
    }
    block.join("device").canonicalize().map_or(Ok(()), |device| each(&device))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What of NVMe is linked below a device. A namespace with several paths belongs to a subsystem, whose controllers are
/// linked there.
fn linked(device: &Path) -> impl Iterator<Item = PathBuf> {
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"nvme"));
    entries(device).into_iter().filter(named)
}

/// The devices on which a block device lies, as paths below `sys`.
fn collect(sys: &Path, block: &Path, depth: usize, carriers: &mut Vec<PathBuf>) -> io::Result<()> {
    let root = sys.canonicalize()?;
    let mut note = |path: &Path| {
        if let Ok(path) = path.strip_prefix(&root) {
            carriers.push(path.to_owned());
        }
    };
    disks(block, depth, &mut |device| {
        note(device);
        linked(device).try_for_each(|path| path.canonicalize().map(|path| note(&path)))
    })
}

/// The states of the controllers on which a block device lies, of disks that have one each.
fn states(block: &Path) -> io::Result<Vec<File>> {
    let mut found = Vec::new();
    disks(block, MAX_DEPTH, &mut |device| {
        let all = std::iter::once(device.to_owned()).chain(linked(device)).map(|path| path.join("state"));
        // The disk of a SCSI device has a state of another kind.
        let nvme = |path: &PathBuf| {
            path.parent().and_then(Path::file_name).is_some_and(|name| name.as_bytes().starts_with(b"nvme"))
        };
        let all: Vec<PathBuf> = all.filter(|path| nvme(path) && path.is_file()).collect();
        if let [one] = &all[..] {
            found.push(File::open(one)?);
        }
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
#[path = "resets/tests.rs"]
mod tests;
