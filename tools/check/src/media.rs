//! Where blocks come from: a file or block device, memory, or whatever else a caller reads from.
//!
//! Nothing here writes. Reads go through the page cache: the drives are not in use while they are checked.
use base::{BLOCK_BYTES, Block, Blocks, DriveBlock};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// One drive's blocks, to be read.
pub trait Media {
    /// Its size in whole blocks.
    fn blocks(&self) -> Blocks;

    /// Fills `into` (whole blocks) from block `at` on.
    ///
    /// # Errors
    /// The drive's; then `into` holds anything.
    fn read_into(&self, at: DriveBlock, into: &mut [u8]) -> io::Result<()>;

    /// Reads one block.
    ///
    /// # Errors
    /// The drive's.
    fn read(&self, at: DriveBlock) -> io::Result<Box<Block>> {
        let mut block = Box::new([0; BLOCK_BYTES]);
        self.read_into(at, &mut block[..])?;
        Ok(block)
    }
}

/// A file or block device.
pub struct FileMedia {
    file: File,
    blocks: Blocks,
}

/// Opens a file or block device for reading.
///
/// # Errors
/// The operating system's.
pub fn open_media(path: &Path) -> io::Result<FileMedia> {
    let mut file = File::open(path)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    Ok(FileMedia { file, blocks: Blocks::new(bytes / BLOCK_BYTES as u64) })
}

impl Media for FileMedia {
    fn blocks(&self) -> Blocks {
        self.blocks
    }

    fn read_into(&self, at: DriveBlock, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, at.get() * BLOCK_BYTES as u64)
    }
}

/// A drive in memory, of which only the blocks that were ever written are kept; others read as zeroes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryMedia {
    /// Size in blocks.
    pub blocks: u64,
    /// The blocks, by number.
    pub content: BTreeMap<u64, Box<Block>>,
}

impl Media for MemoryMedia {
    fn blocks(&self) -> Blocks {
        Blocks::new(self.blocks)
    }

    fn read_into(&self, at: DriveBlock, into: &mut [u8]) -> io::Result<()> {
        let count = (into.len() / BLOCK_BYTES) as u64;
        if at.get() + count > self.blocks {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (i, block) in into.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            match self.content.get(&(at.get() + i as u64)) {
                Some(content) => block.copy_from_slice(&content[..]),
                None => block.fill(0),
            }
        }
        Ok(())
    }
}
