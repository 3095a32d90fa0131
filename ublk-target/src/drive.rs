//! Drives: block devices and files, opened past the page cache, held exclusively.
//!
//! Invariants: the lock lives in the same open file that carries the I/O, so a lock cannot outlive or miss the
//! writes that it guards: when a target dies, its drives become free only once the kernel has let go of the
//! open file, which it does after the last operation in flight. Only a block device that reports
//! "write through" counts as having no volatile cache; every file has one (the host's and the device's below).
//!
//! The synchronous helpers (`read_blocks` and the like) are for creation and offline tools; a serving target
//! goes through its ring.
use crate::resets::Controllers;
use base::{BLOCK_BYTES, Blocks, DriveBlock};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a drive that is in use is tried again: udev probes a device under a shared lock for some milliseconds
/// after each close.
const USUAL_PATIENCE: Duration = Duration::from_millis(1_000);
const PAUSE: Duration = Duration::from_millis(2);
/// Blocks that a synchronous transfer moves at once.
const BOUNCE_BLOCKS: usize = 64;

/// What a drive is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To look at; takes a shared lock, so that several tools may, and a target keeps them out.
    ReadOnly,
    /// To change as a whole; takes the exclusive lock.
    ReadWrite,
    /// To serve one group of a pool, whose other groups are served by other targets from the same drive: excludes
    /// every other target of this group (named by this number), and everybody who wants the drive as a whole.
    Group(u64),
    /// To look at while another process may hold it; takes no lock. What is read may be in motion.
    Unlocked,
}

/// Why a drive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// Nothing is there.
    #[error("{0}: no such drive; check the path, or that the disk is plugged in")]
    NotFound(PathBuf),
    /// Neither a block device nor a regular file.
    #[error("{0}: is neither a block device nor a file and cannot serve as a drive")]
    NotADrive(PathBuf),
    /// The caller may not.
    #[error("{0}: no permission to open it; run as root or change the owner of the drive")]
    Permission(PathBuf),
    /// It takes no writes.
    #[error("{0}: is read-only; clear its write protection or choose another drive")]
    ReadOnly(PathBuf),
    /// Somebody else holds it.
    #[error("{0}: is in use by another process, mount or device; stop that first")]
    InUse(PathBuf),
    /// The lock of this group is taken: by another target of the group, or by what the kernel has not ended of a former one.
    #[error(
        "{0}: is held by another target of this group, or by what the kernel still does for one that ended"
    )]
    Served(PathBuf),
    /// The kernel has given it to something above it. No target has it.
    #[error(
        "{0}: is claimed by something above it (a mount, a multipath map, an array); use that instead, or take it off"
    )]
    Claimed(PathBuf),
    /// Its sectors are larger than our blocks.
    #[error("{path}: has {bytes}-byte sectors; drives with sectors of up to 4096 bytes can be used")]
    SectorSize {
        /// The drive.
        path: PathBuf,
        /// Its logical block size.
        bytes: u32,
    },
    /// A system call failed otherwise.
    #[error("{path}: cannot {doing}: {source}")]
    Io {
        /// The drive.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// What the system says about a drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Properties {
    /// Whether it is a block device (otherwise a file).
    pub block_device: bool,
    /// Whole blocks on it.
    pub size: Blocks,
    /// Smallest unit that it can write, in bytes.
    pub logical_block_bytes: u32,
    /// Unit that it writes without reading first, in bytes.
    pub physical_block_bytes: u32,
    /// Whether a write may be lost by a power cut until a flush.
    pub volatile_cache: bool,
    /// Whether it has spinning discs (false when unknown).
    pub rotational: bool,
    /// Whether I/O passes the page cache by. False on file systems without O_DIRECT: still crash safe (each
    /// flush is an fdatasync), but slower, and memory reclaim may then wait for the volume itself.
    pub direct: bool,
}

/// An open drive.
pub struct Drive {
    path: PathBuf,
    file: File,
    properties: Properties,
    bounce: Mutex<Box<Bounce>>,
    controllers: Controllers,
}

/// Memory aligned for direct I/O.
#[repr(align(4096))]
struct Bounce([u8; BOUNCE_BLOCKS * BLOCK_BYTES]);

impl Drive {
    /// Opens and locks a drive.
    ///
    /// # Errors
    /// See `DriveError`; nothing on the drive is changed.
    pub fn open(path: &Path, access: Access) -> Result<Self, DriveError> {
        Self::open_within(path, access, USUAL_PATIENCE)
    }

    /// The same, with a patience for drives in use: a target that was killed holds its drives until the kernel
    /// has ended its last operation on them and torn its ring down, which has been seen to take over a second.
    ///
    /// # Errors
    /// See `DriveError`; nothing on the drive is changed.
    pub fn open_within(path: &Path, access: Access, patience: Duration) -> Result<Self, DriveError> {
        let start = Instant::now();
        loop {
            let error = match Self::try_open(path, access) {
                Ok(drive) => return Ok(drive),
                Err(error) => error,
            };
            let patience = match &error {
                DriveError::InUse(_) | DriveError::Served(_) => patience,
                // Whoever looks whether it is claimed claims it for that instant; what stays claimed is not waited for.
                DriveError::Claimed(_) => patience.min(USUAL_PATIENCE),
                _ => return Err(error),
            };
            if start.elapsed() >= patience {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn try_open(path: &Path, access: Access) -> Result<Self, DriveError> {
        let named = |source: io::Error| classify(path, "open it", source);
        let kind = std::fs::metadata(path).map_err(named)?.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            return Err(DriveError::NotADrive(path.to_owned()));
        }
        // Without O_CREAT, O_EXCL on a block device claims it: mounts, md and other claimants are refused.
        let exclusive = if kind.is_block_device() && access == Access::ReadWrite { libc::O_EXCL } else { 0 };
        let open = |flags: i32| {
            OpenOptions::new()
                .read(true)
                .write(matches!(access, Access::ReadWrite | Access::Group(_)))
                .custom_flags(flags | exclusive | libc::O_CLOEXEC)
                .open(path)
        };
        let (file, direct) = match open(libc::O_DIRECT) {
            Ok(file) => (file, true),
            // The answer of file systems without direct I/O (tmpfs before 6.6, some FUSE ones).
            Err(error) if kind.is_file() && error.raw_os_error() == Some(libc::EINVAL) => {
                (open(0).map_err(named)?, false)
            }
            Err(error) => return Err(named(error)),
        };
        lock(path, &file, access)?;
        if kind.is_block_device() && matches!(access, Access::Group(_)) {
            check_unclaimed(path)?;
        }
        let properties = properties(path, &file, direct)?;
        if properties.logical_block_bytes as usize > BLOCK_BYTES {
            return Err(DriveError::SectorSize {
                path: path.to_owned(),
                bytes: properties.logical_block_bytes,
            });
        }
        let bounce = Mutex::new(Box::new(Bounce([0; BOUNCE_BLOCKS * BLOCK_BYTES])));
        let controllers = Controllers::below(&file);
        Ok(Self { path: path.to_owned(), file, properties, bounce, controllers })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the system says about it.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Whether the controllers below it serve, as far as they say it.
    pub(crate) fn serves(&self) -> bool {
        self.controllers.serve()
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whole blocks on it.
    pub fn size(&self) -> Blocks {
        self.properties.size
    }

    /// Reads whole blocks; `into` is a multiple of 4096 bytes.
    ///
    /// # Errors
    /// The drive fails the read, or the range lies outside it.
    pub fn read_blocks(&self, at: DriveBlock, into: &mut [u8]) -> Result<(), DriveError> {
        assert!(into.len().is_multiple_of(BLOCK_BYTES), "whole blocks");
        let mut bounce = self.bounce.lock().expect("no panic while held");
        let mut offset = at.get() * BLOCK_BYTES as u64;
        for chunk in into.chunks_mut(BOUNCE_BLOCKS * BLOCK_BYTES) {
            let part = &mut bounce.0[..chunk.len()];
            self.file.read_exact_at(part, offset).map_err(|e| classify(&self.path, "read", e))?;
            chunk.copy_from_slice(part);
            offset += chunk.len() as u64;
        }
        Ok(())
    }

    /// Writes whole blocks; durable only after `flush`.
    ///
    /// # Errors
    /// The drive fails the write, or the range lies outside it.
    pub fn write_blocks(&self, at: DriveBlock, from: &[u8]) -> Result<(), DriveError> {
        assert!(from.len().is_multiple_of(BLOCK_BYTES), "whole blocks");
        let end = at + Blocks::new((from.len() / BLOCK_BYTES) as u64);
        assert!(end.get() <= self.size().get(), "a write beyond the end of a drive would grow a file");
        let mut bounce = self.bounce.lock().expect("no panic while held");
        let mut offset = at.get() * BLOCK_BYTES as u64;
        for chunk in from.chunks(BOUNCE_BLOCKS * BLOCK_BYTES) {
            let part = &mut bounce.0[..chunk.len()];
            part.copy_from_slice(chunk);
            self.file.write_all_at(part, offset).map_err(|e| classify(&self.path, "write", e))?;
            offset += chunk.len() as u64;
        }
        Ok(())
    }

    /// Reads one block.
    ///
    /// # Errors
    /// As `read_blocks`.
    pub fn read_block(&self, at: DriveBlock, into: &mut base::Block) -> Result<(), DriveError> {
        self.read_blocks(at, into)
    }

    /// Writes one block; durable only after `flush`.
    ///
    /// # Errors
    /// As `write_blocks`.
    pub fn write_block(&self, at: DriveBlock, from: &base::Block) -> Result<(), DriveError> {
        self.write_blocks(at, from)
    }

    /// Makes all completed writes durable. A failed flush is not to be tried again: the kernel reports a lost
    /// write once.
    ///
    /// # Errors
    /// The drive or the file system failed.
    pub fn flush(&self) -> Result<(), DriveError> {
        self.file.sync_data().map_err(|e| classify(&self.path, "flush", e))
    }
}

impl AsFd for Drive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Refuses a block device that something above it has. The targets of a pool share its drives, so none keeps the claim. Behind
/// the locks: who has it as a whole for a while, a tool that wipes it, claims it too, and is no reason to use another path.
fn check_unclaimed(path: &Path) -> Result<(), DriveError> {
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(DriveError::Claimed(path.to_owned())),
        Err(error) => Err(classify(path, "open it", error)),
    }
}

/// The byte that a group locks on each of its drives.
pub fn group_lock(group: u64) -> i64 {
    group as i64 & i64::MAX
}

/// Takes the advisory locks of `access` on the open file itself. Two kinds, which do not see each other: the lock
/// of the whole file is exclusive for `ReadWrite` and shared for the rest; a group locks a byte of its own,
/// exclusively, and `ReadOnly` all bytes, shared, so that a group keeps readers and a second target out, but not
/// the other groups.
fn lock(path: &Path, file: &File, access: Access) -> Result<(), DriveError> {
    let outcome = match access {
        Access::ReadWrite => file.try_lock(),
        Access::ReadOnly | Access::Group(_) => file.try_lock_shared(),
        Access::Unlocked => return Ok(()),
    };
    match outcome {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(DriveError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(classify(path, "lock it", error)),
    }
    match access {
        Access::Group(group) => lock_bytes(path, file, libc::F_WRLCK, group_lock(group), 1),
        Access::ReadOnly => lock_bytes(path, file, libc::F_RDLCK, 0, 0),
        Access::ReadWrite | Access::Unlocked => Ok(()),
    }
}

/// Locks bytes of an open file (length 0: to infinity); they need not exist.
fn lock_bytes(path: &Path, file: &File, kind: i32, start: i64, length: i64) -> Result<(), DriveError> {
    let lock = |kind: i32| libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    match nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock(kind))) {
        Ok(_) => Ok(()),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {
            // Who reads the drive as a whole has all bytes.
            let mut other = lock(kind);
            let asked = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut other));
            let same = asked.is_ok() && (other.l_start, other.l_len) == (start, length);
            let path = path.to_owned();
            Err(if same && length == 1 { DriveError::Served(path) } else { DriveError::InUse(path) })
        }
        Err(error) => Err(classify(path, "lock it", error.into())),
    }
}

fn properties(path: &Path, file: &File, direct: bool) -> Result<Properties, DriveError> {
    let meta = file.metadata().map_err(|e| classify(path, "look at it", e))?;
    let block_device = meta.file_type().is_block_device();
    if !block_device {
        return Ok(Properties {
            block_device,
            size: Blocks::new(meta.len() / BLOCK_BYTES as u64),
            logical_block_bytes: 512,
            physical_block_bytes: BLOCK_BYTES as u32,
            volatile_cache: true,
            rotational: false,
            direct,
        });
    }
    let mut at_end = file;
    let bytes =
        io::Seek::seek(&mut at_end, io::SeekFrom::End(0)).map_err(|e| classify(path, "size it", e))?;
    let queue = queue_folder(meta.rdev());
    let number = |name: &str| queue_entry(&queue, name).and_then(|text| text.parse().ok());
    Ok(Properties {
        block_device,
        size: Blocks::new(bytes / BLOCK_BYTES as u64),
        logical_block_bytes: number("logical_block_size").unwrap_or(512),
        physical_block_bytes: number("physical_block_size").unwrap_or(BLOCK_BYTES as u32),
        volatile_cache: queue_entry(&queue, "write_cache").as_deref() != Some("write through"),
        rotational: number("rotational") == Some(1),
        direct,
    })
}

/// The `queue` folder of a device, or of the disk that a partition lies on.
fn queue_folder(device: u64) -> PathBuf {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let own = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if own.join("partition").exists() { own.join("../queue") } else { own.join("queue") }
}

fn queue_entry(queue: &Path, name: &str) -> Option<String> {
    Some(std::fs::read_to_string(queue.join(name)).ok()?.trim().to_owned())
}

fn classify(path: &Path, doing: &'static str, source: io::Error) -> DriveError {
    let path = path.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => DriveError::NotFound(path),
        Some(libc::EACCES | libc::EPERM) => DriveError::Permission(path),
        Some(libc::EROFS) => DriveError::ReadOnly(path),
        Some(libc::EBUSY) => DriveError::InUse(path),
        _ => DriveError::Io { path, doing, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFile;

    #[test]
    fn blocks_come_back_and_the_lock_excludes() {
        let file = TempFile::new(1 << 20);
        let drive = Drive::open(file.path(), Access::ReadWrite).unwrap();
        assert_eq!(drive.size(), Blocks::new(256));
        assert!(drive.properties().volatile_cache && !drive.properties().block_device);
        let data: Vec<u8> = (0..BLOCK_BYTES * 130).map(|i| (i / 7) as u8).collect();
        drive.write_blocks(DriveBlock::new(100), &data).unwrap();
        drive.flush().unwrap();
        let mut back = vec![0; data.len()];
        drive.read_blocks(DriveBlock::new(100), &mut back).unwrap();
        assert!(back == data);
        let second = Drive::open(file.path(), Access::ReadWrite).err().expect("locked");
        assert!(matches!(second, DriveError::InUse(_)), "{second}");
        assert!(Drive::open(file.path(), Access::Unlocked).is_ok());
        drop(drive);
        assert!(Drive::open(file.path(), Access::ReadWrite).is_ok());
    }

    #[test]
    fn two_readers_share_and_keep_a_writer_out() {
        let file = TempFile::new(1 << 16);
        let _one = Drive::open(file.path(), Access::ReadOnly).unwrap();
        let _two = Drive::open(file.path(), Access::ReadOnly).unwrap();
        assert!(matches!(Drive::open(file.path(), Access::ReadWrite), Err(DriveError::InUse(_))));
    }

    #[test]
    fn groups_share_a_drive_but_each_is_served_once() {
        let file = TempFile::new(1 << 16);
        let open = |access| Drive::open_within(file.path(), access, Duration::ZERO);
        let one = open(Access::Group(1)).unwrap();
        let _two = open(Access::Group(u64::MAX)).unwrap();
        for refused in [Access::ReadOnly, Access::ReadWrite] {
            assert!(matches!(open(refused), Err(DriveError::InUse(_))), "{refused:?}");
        }
        assert!(matches!(open(Access::Group(1)), Err(DriveError::Served(_))));
        drop(one);
        assert!(open(Access::Group(1)).is_ok());
    }

    /// Somebody who reads all of a drive is not mistaken for another target of the group.
    #[test]
    fn a_reader_is_no_target() {
        let file = TempFile::new(1 << 16);
        let _reader = Drive::open(file.path(), Access::ReadOnly).unwrap();
        let refused = Drive::open_within(file.path(), Access::Group(1), Duration::ZERO);
        assert!(matches!(refused, Err(DriveError::InUse(_))));
    }

    #[test]
    fn what_cannot_serve_is_named() {
        let missing = Drive::open(Path::new("/nonexistent/drive"), Access::ReadWrite).err().expect("refused");
        assert!(matches!(missing, DriveError::NotFound(_)));
        let folder = Drive::open(Path::new("/tmp"), Access::ReadWrite).err().expect("refused");
        assert!(folder.to_string().contains("neither a block device nor a file"));
        let device = Drive::open(Path::new("/dev/null"), Access::ReadWrite).err().expect("refused");
        assert!(matches!(device, DriveError::NotADrive(_)));
    }

    #[test]
    #[should_panic(expected = "beyond the end")]
    fn a_write_beyond_the_end_does_not_grow_the_file() {
        let file = TempFile::new(8192);
        let drive = Drive::open(file.path(), Access::ReadWrite).unwrap();
        let _ = drive.write_block(DriveBlock::new(2), &[0; BLOCK_BYTES]);
    }
}
