//! One drive, opened for labels and headers: a block device or a regular file.
//!
//! I/O is direct where the file system allows it, so that what is read is what the drive holds and not what a
//! page cache remembers of it. Every write is followed by `flush` before the caller goes on. A drive that does not
//! answer makes an operation fail; see module `worker` for what may still happen then.
use super::worker::Worker;
use crate::error::{Error, Kind, Result};
use base::{BLOCK_BYTES, Block, Blocks, DriveBlock};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What makes two paths the same drive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Identity {
    /// A block device, by its number.
    Device(u64),
    /// A file, by file system and inode.
    File(u64, u64),
}

/// An open drive.
pub struct Media {
    worker: Worker,
    path: PathBuf,
    identity: Identity,
    blocks: Blocks,
}

/// Memory that direct I/O accepts.
#[repr(align(4096))]
struct Aligned(Block);

impl Media {
    /// Opens for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, `Permission` (also for a read-only drive), `Invalid` when it is neither block device nor file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, true)
    }

    /// Opens for reading.
    ///
    /// # Errors
    /// As `open`, except that a read-only drive is fine.
    pub fn open_read(path: &Path) -> Result<Self> {
        Self::open_as(path, false)
    }

    fn open_as(path: &Path, write: bool) -> Result<Self> {
        let fail = |source: &std::io::Error| cannot_open(path, source);
        let about = std::fs::metadata(path).map_err(|source| fail(&source))?;
        let identity = if about.file_type().is_block_device() {
            Identity::Device(about.rdev())
        } else if about.is_file() {
            Identity::File(about.dev(), about.ino())
        } else {
            let name = path.display().to_string();
            return Err(Error::invalid(name.clone(), format!("{name} is neither a block device nor a file")));
        };
        let named = path.to_owned();
        let worker = Worker::start(identity, move || open(&named, write)).map_err(|source| fail(&source))?;
        let bytes = worker.run(|file| (&*file).seek(SeekFrom::End(0))).map_err(|source| fail(&source))?;
        let blocks = Blocks::new(bytes / BLOCK_BYTES as u64);
        if write {
            let named = path.to_owned();
            let checked = worker.run(move |file| Ok(check_writable(file, &named, identity)));
            checked.map_err(|source| fail(&source))??;
        }
        Ok(Self { worker, path: path.to_owned(), identity, blocks })
    }

    /// The path by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is, whatever its path.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its size in whole blocks.
    pub fn blocks(&self) -> Blocks {
        self.blocks
    }

    /// Whether it is a block device that something else holds: mounted, part of an array, swapped to.
    pub fn is_held(&self) -> bool {
        if !matches!(self.identity, Identity::Device(_)) {
            return false;
        }
        let path = self.path.clone();
        let exclusive = move |_: &File| {
            OpenOptions::new().read(true).custom_flags(nix::libc::O_EXCL).open(path).map(drop)
        };
        self.worker.run(exclusive).is_err_and(|error| error.raw_os_error() == Some(nix::libc::EBUSY))
    }

    /// Reads one block.
    ///
    /// # Errors
    /// The drive's error, with its path.
    pub fn read(&self, at: DriveBlock) -> Result<Box<Block>> {
        let offset = at.get() * BLOCK_BYTES as u64;
        let read = self.worker.run(move |file| {
            let mut memory = Box::new(Aligned([0; BLOCK_BYTES]));
            file.read_exact_at(&mut memory.0, offset).map(|()| memory)
        });
        let memory = read.map_err(|source| Error::io(&format!("read block {at} of"), &self.path, &source))?;
        Ok(Box::new(memory.0))
    }

    /// Writes one block; durable after `flush`.
    ///
    /// # Errors
    /// The drive's error, with its path.
    pub fn write(&self, at: DriveBlock, block: &Block) -> Result<()> {
        let memory = Box::new(Aligned(*block));
        let offset = at.get() * BLOCK_BYTES as u64;
        let written = self.worker.run(move |file| file.write_all_at(&memory.0, offset));
        written.map_err(|source| Error::io(&format!("write block {at} of"), &self.path, &source))
    }

    /// Makes everything written durable. A failed flush is never retried as if nothing had been lost: the
    /// caller's verb fails, and its repetition writes everything again.
    ///
    /// # Errors
    /// The drive's error, with its path.
    pub fn flush(&self) -> Result<()> {
        self.worker.run(File::sync_data).map_err(|source| Error::io("flush", &self.path, &source))
    }
}

fn open(path: &Path, write: bool) -> std::io::Result<File> {
    let open = |flags: i32| OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
    match open(nix::libc::O_DIRECT) {
        // Some file systems (tmpfs of older kernels) refuse O_DIRECT.
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => open(0),
        other => other,
    }
}

/// A drive that says that it is read-only is refused, although root could open the file.
fn check_writable(file: &File, path: &Path, identity: Identity) -> Result<()> {
    let about = file.metadata().map_err(|source| Error::io("examine", path, &source))?;
    let read_only = match identity {
        Identity::File(..) => about.mode() & 0o222 == 0,
        Identity::Device(number) => {
            let number = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
            let flag = std::fs::read_to_string(format!("/sys/dev/block/{}:{}/ro", number.0, number.1));
            flag.is_ok_and(|text| text.trim() == "1")
        }
    };
    if read_only { Err(read_only_drive(path)) } else { Ok(()) }
}

fn read_only_drive(path: &Path) -> Error {
    let name = path.display().to_string();
    Error::new(Kind::Permission, name.clone(), format!("{name} is read-only"))
        .hint("give a drive that can be written")
}

fn cannot_open(path: &Path, source: &std::io::Error) -> Error {
    let name = path.display().to_string();
    match source.raw_os_error() {
        Some(nix::libc::ENOENT) => {
            Error::new(Kind::NotFound, name.clone(), format!("there is no drive {name}"))
        }
        Some(nix::libc::ENXIO | nix::libc::ENODEV | nix::libc::ENOMEDIUM) => {
            Error::new(Kind::NotFound, name.clone(), format!("the drive {name} is gone: {source}"))
        }
        Some(nix::libc::EROFS) => read_only_drive(path),
        _ => Error::io("open", path, source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_written_and_read_back() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("drive");
        File::create(&path).expect("creates").set_len(1 << 20).expect("sizes");
        let media = Media::open(&path).expect("opens");
        assert_eq!(media.blocks(), Blocks::new(256));
        media.write(DriveBlock::new(3), &[7; BLOCK_BYTES]).expect("writes");
        media.flush().expect("flushes");
        assert_eq!(media.read(DriveBlock::new(3)).expect("reads")[..], [7; BLOCK_BYTES]);
        assert!(media.read(DriveBlock::new(256)).is_err(), "beyond the end");
    }

    #[test]
    fn what_is_no_drive_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let kind = |path: &Path| Media::open(path).err().expect("refused").kind;
        assert_eq!(kind(folder.path()), Kind::Invalid);
        assert_eq!(kind(&folder.path().join("none")), Kind::NotFound);
        let path = folder.path().join("read-only");
        let file = File::create(&path).expect("creates");
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o444)).expect("restricts");
        assert_eq!(kind(&path), Kind::Permission);
    }
}
