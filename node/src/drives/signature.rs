//! What else may live on a drive: file systems, partition tables, members of other arrays.
//!
//! A small table of magic bytes, enough to keep a mistyped path from destroying data; not a replacement for
//! blkid. Offsets are bytes; a negative one counts from the end of the drive.
use super::Media;
use crate::error::Result;
use base::{BLOCK_BYTES, DriveBlock};

struct Signature {
    name: &'static str,
    at: i64,
    magic: &'static [u8],
}

const fn sig(name: &'static str, at: i64, magic: &'static [u8]) -> Signature {
    Signature { name, at, magic }
}

/// In the order in which they are tried: what contains a boot sector comes before MBR.
const TABLE: &[Signature] = &[
    sig("a LUKS volume", 0, b"LUKS\xba\xbe"),
    sig("an xfs file system", 0, b"XFSB"),
    sig("a Ceph BlueStore", 0, b"bluestore block device"),
    sig("an LVM2 physical volume", 0, b"LABELONE"),
    sig("an LVM2 physical volume", 512, b"LABELONE"),
    sig("an LVM2 physical volume", 1024, b"LABELONE"),
    sig("an LVM2 physical volume", 1536, b"LABELONE"),
    sig("an ext2/3/4 file system", 1080, b"\x53\xef"),
    sig("an f2fs file system", 1024, b"\x10\x20\xf5\xf2"),
    sig("a btrfs file system", 65_600, b"_BHRfS_M"),
    sig("a bcachefs file system", 4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    sig("a Linux md member", 0, b"\xfc\x4e\x2b\xa9"),
    sig("a Linux md member", 4096, b"\xfc\x4e\x2b\xa9"),
    sig("a Linux md member", -8192, b"\xfc\x4e\x2b\xa9"),
    sig("a swap area", 4086, b"SWAPSPACE2"),
    sig("an ISO 9660 file system", 32_769, b"CD001"),
    sig("an NTFS file system", 3, b"NTFS    "),
    sig("an exFAT file system", 3, b"EXFAT   "),
    sig("a FAT file system", 82, b"FAT32   "),
    sig("a FAT file system", 54, b"FAT16   "),
    sig("a FAT file system", 54, b"FAT12   "),
    sig("a GPT partition table", 512, b"EFI PART"),
    sig("a GPT partition table", 4096, b"EFI PART"),
    sig("a GPT partition table", -512, b"EFI PART"),
    sig("a GPT partition table", -4096, b"EFI PART"),
    sig("an MBR partition table", 510, b"\x55\xaa"),
];

/// First byte of a ZFS label's ring of uberblocks, its length, and the distance of its entries.
const ZFS_RING: (u64, u64, u64) = (131_072, 131_072, 1024);
const ZFS_MAGIC: [u8; 4] = [0x0c, 0xb1, 0xba, 0x00];

/// What is on the drive, in words, or `None` when nothing known is.
///
/// # Errors
/// The drive's, when it cannot be read.
pub fn find_signature(media: &Media) -> Result<Option<&'static str>> {
    let bytes = media.blocks().get() * BLOCK_BYTES as u64;
    let mut cache: Option<(u64, Box<base::Block>)> = None;
    let mut matches = |at: u64, magic: &[u8]| -> Result<bool> {
        let (block, offset) = (at / BLOCK_BYTES as u64, (at % BLOCK_BYTES as u64) as usize);
        assert!(offset + magic.len() <= BLOCK_BYTES, "a magic crosses a block");
        if at + magic.len() as u64 > bytes {
            return Ok(false);
        }
        let content = match cache.take() {
            Some((cached, content)) if cached == block => content,
            _ => media.read(DriveBlock::new(block))?,
        };
        let found = content[offset..offset + magic.len()] == *magic;
        cache = Some((block, content));
        Ok(found)
    };
    for signature in TABLE {
        let at =
            if signature.at < 0 { bytes.checked_add_signed(signature.at) } else { Some(signature.at as u64) };
        if let Some(at) = at
            && matches(at, signature.magic)?
        {
            return Ok(Some(signature.name));
        }
    }
    let (start, length, step) = ZFS_RING;
    for at in (start..start + length).step_by(step as usize) {
        if matches(at, &ZFS_MAGIC)? {
            return Ok(Some("a ZFS member"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn every_entry_of_the_table_is_found_and_an_empty_drive_has_none() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("drive");
        let bytes: u64 = 1 << 20;
        let make = |at: u64, magic: &[u8]| {
            let file = std::fs::File::create(&path).expect("creates");
            file.set_len(bytes).expect("sizes");
            file.write_all_at(magic, at).expect("writes");
            find_signature(&Media::open(&path).expect("opens")).expect("reads")
        };
        assert_eq!(make(0, &[]), None);
        for signature in TABLE {
            let at = bytes.checked_add_signed(signature.at).expect("inside") % bytes;
            assert_eq!(make(at, signature.magic), Some(signature.name), "at {}", signature.at);
        }
        assert_eq!(make(131_072 + 5 * 1024, &ZFS_MAGIC), Some("a ZFS member"));
    }
}
