//! Offsets of everything that this crate puts on drives: label, extent header, superblock, row pages,
//! history pages. `docs/format.md` is pinned to this file.
//!
//! All numbers are little-endian. Every block here carries its own check in its last 16 bytes (XXH3-128 over
//! the bytes before it), except row and history pages, whose check is in the `Ref` that names them.

/// Version of the whole format that this build writes and reads.
pub const FORMAT_VERSION: u16 = 1;

/// Where the own check of a label, header or superblock lies.
pub const OWN_CHECK: usize = 4080;

/// First block of extent 0 on every drive; the MiB before it holds the first label.
pub const FIRST_EXTENT_BLOCK: u64 = 256;
/// Blocks at the end of every drive that hold no extent: the last whole MiB, whose first block is a label.
pub const TAIL_BLOCKS: u64 = 256;

/// The label: who a drive is.
pub mod label {
    /// Marks a label.
    pub const MAGIC: &[u8; 8] = b"PLNTHDRV";
    /// Bytes of a name or value.
    pub const NAME_BYTES: usize = 128;

    /// 8 bytes.
    pub const MAGIC_AT: usize = 0;
    /// u16.
    pub const VERSION_AT: usize = 8;
    /// u8: 0 at the start of the drive, 1 at its end.
    pub const COPY_AT: usize = 10;
    /// u64: the newer of two labels is the one with the higher number.
    pub const WRITTEN_AT: usize = 16;
    /// 16 bytes.
    pub const POOL_AT: usize = 24;
    /// 16 bytes.
    pub const DRIVE_AT: usize = 40;
    /// u64: blocks of the drive when it was added.
    pub const BLOCKS_AT: usize = 56;
    /// u32: blocks of an extent.
    pub const EXTENT_BLOCKS_AT: usize = 64;
    /// Length byte, then text; five of them: pool name, node, rack, zone, class.
    pub const TEXTS_AT: usize = 128;
    /// From one text to the next.
    pub const TEXT_STRIDE: usize = NAME_BYTES + 8;
    /// How many.
    pub const TEXTS: usize = 5;

    const _: () = assert!(TEXTS_AT + TEXTS * TEXT_STRIDE <= super::OWN_CHECK);
}

/// The header: whose an extent is. First block of every extent.
pub mod header {
    /// Marks a header.
    pub const MAGIC: &[u8; 8] = b"PLNTHEXT";
    /// 8 bytes.
    pub const MAGIC_AT: usize = 0;
    /// u16.
    pub const VERSION_AT: usize = 8;
    /// u8.
    pub const LEG_AT: usize = 10;
    /// u8.
    pub const COLUMN_AT: usize = 11;
    /// u32.
    pub const ROW_AT: usize = 12;
    /// u32.
    pub const EXTENT_AT: usize = 16;
    /// 16 bytes.
    pub const POOL_AT: usize = 24;
    /// 16 bytes.
    pub const DRIVE_AT: usize = 40;
    /// 16 bytes.
    pub const GROUP_AT: usize = 56;
}

/// Names for people, in the headers of the home row.
pub mod names {
    /// Bytes of a name.
    pub const NAME_BYTES: usize = 128;

    /// u32: number of the writing, the newest counts; 0 means that there are no names.
    pub const WRITTEN_AT: usize = 128;
    /// u8: how they are stored.
    pub const KIND_AT: usize = 132;
    /// In plain.
    pub const PLAIN: u8 = 0;
    /// Encrypted: all of an encrypted group.
    pub const SEALED: u8 = 1;
    /// 16 bytes: identity of the volume.
    pub const VOLUME_ID_AT: usize = 136;
    /// u64: size of the volume in bytes.
    pub const SIZE_AT: usize = 152;
    /// Length byte, then text: name of the group.
    pub const GROUP_AT: usize = 256;
    /// Length byte, then text: name of the volume.
    pub const VOLUME_AT: usize = 392;
    /// Where what is encrypted begins: identity, size and names.
    pub const TEXT_AT: usize = VOLUME_ID_AT;
    /// Bytes of it.
    pub const TEXT_BYTES: usize = VOLUME_AT + 1 + NAME_BYTES - TEXT_AT;
    /// 12 bytes: tag of what is encrypted.
    pub const TAG_AT: usize = 528;
    /// 32 bytes: salt of the key of this writing.
    pub const SALT_AT: usize = 544;
    /// Bytes of it.
    pub const SALT_BYTES: usize = 32;

    const _: () = assert!(GROUP_AT + 1 + NAME_BYTES <= VOLUME_AT);
    const _: () = assert!(TEXT_AT + TEXT_BYTES <= TAG_AT);
    const _: () = assert!(TAG_AT + base::TAG_BYTES <= SALT_AT);
    const _: () = assert!(SALT_AT + SALT_BYTES <= super::envelope::WRITTEN_AT);
    const _: () = assert!(super::header::GROUP_AT + 16 <= WRITTEN_AT);
}

/// The wrapped secret of an encrypted group, in the headers of the home row.
pub mod envelope {
    /// Bytes that are kept for it; what does not need them is zero.
    pub const BYTES: usize = 1024;

    /// u32: number of the writing, the newest counts; 0 means that there is none.
    pub const WRITTEN_AT: usize = 576;
    /// The envelope; all zero: it was destroyed.
    pub const AT: usize = 1024;

    const _: () = assert!(WRITTEN_AT + 4 <= AT && AT + BYTES <= super::OWN_CHECK);
}

/// Blocks of an extent with a fixed meaning.
pub mod extent {
    /// The header.
    pub const HEADER: u32 = 0;
    /// The two superblock slots, in extents of the home row only.
    pub const SUPERBLOCKS: [u32; 2] = [3, 4];
    /// Where the ring may begin in extents of the home row.
    pub const RING_FIRST: u32 = 8;
    /// Bitmap slots, as offsets within a region (not an extent).
    pub const BITMAPS: [u64; 2] = [1, 2];
}

/// The superblock.
pub mod superblock {
    /// Marks a superblock.
    pub const MAGIC: &[u8; 8] = b"PLNTHSUP";
    /// Pieces of the ring at most.
    pub const MAX_PIECES: usize = 4;

    /// 8 bytes.
    pub const MAGIC_AT: usize = 0;
    /// u16.
    pub const VERSION_AT: usize = 8;
    /// u8.
    pub const CHECK_KIND_AT: usize = 10;
    /// u8.
    pub const LEGS_AT: usize = 11;
    /// u8.
    pub const COLUMNS_AT: usize = 12;
    /// u8: bit 0 closed cleanly.
    pub const FLAGS_AT: usize = 13;
    /// u8: levels of inner pages above the row pages.
    pub const ROW_HEIGHT_AT: usize = 14;
    /// u8: drives in the table.
    pub const DRIVES_AT: usize = 15;
    /// 16 bytes.
    pub const GROUP_AT: usize = 16;
    /// u64.
    pub const GEN_AT: usize = 32;
    /// u64.
    pub const NUMBER_AT: usize = 40;
    /// u32.
    pub const CKPT_AT: usize = 48;
    /// u32.
    pub const ROWS_AT: usize = 52;
    /// u64: the Seq that the checkpoint covers.
    pub const CKPT_SEQ_AT: usize = 56;
    /// u64.
    pub const DURABLE_AT: usize = 64;
    /// u64: first commit that the checkpoint does not cover.
    pub const NEXT_COMMIT_AT: usize = 72;
    /// 16 bytes: check of the commit before that one.
    pub const PREV_CHECK_AT: usize = 80;
    /// u32.
    pub const EXTENT_BLOCKS_AT: usize = 96;
    /// u32.
    pub const STRIPE_BLOCKS_AT: usize = 100;
    /// Four of (row u32, first block u32, blocks u32); blocks 0 = absent.
    pub const PIECES_AT: usize = 112;
    /// Bytes of a piece.
    pub const PIECE_BYTES: usize = 12;
    /// u32, u32: the home pages, as blocks of every extent of the home row.
    pub const HOME_PAGES_AT: usize = 104;
    /// Eight u32: per column the ring offset of the first commit that the checkpoint does not cover.
    pub const RING_START_AT: usize = 160;
    /// Ref, 32 bytes.
    pub const DIRECTORY_AT: usize = 192;
    /// Ref, 32 bytes: root of the row pages, on home blocks.
    pub const ROW_PAGES_AT: usize = 224;
    /// Ref, 32 bytes: newest history page, on a home block.
    pub const HISTORY_AT: usize = 256;
    /// The newest history line, 96 bytes reserved.
    pub const LINE_AT: usize = 288;
    /// 16 bytes.
    pub const POOL_AT: usize = 384;
    /// u8, u8, u8, pad, u32: the drive, leg, column and extent where this copy lies.
    pub const SELF_AT: usize = 400;
    /// u16: in an encrypted group the lowest number of a data key that something may lie under; else zero.
    pub const OLDEST_KEY_AT: usize = 408;
    /// u32: in an encrypted group nothing lies under a checkpoint with a lower number; else zero, or where nobody said so.
    pub const OLDEST_CKPT_AT: usize = 412;
    /// Up to 32 of (drive u8, 3 pad, extent u32), ordered by leg, then column.
    pub const HOME_AT: usize = 512;
    /// Bytes of an entry of the home row.
    pub const HOME_BYTES: usize = 8;
    /// Up to 32 drive entries.
    pub const DRIVE_TABLE_AT: usize = 1024;
    /// Bytes of a drive entry (40 used).
    pub const DRIVE_BYTES: usize = 64;
    /// 16 bytes: in an encrypted group the code over all before it (HMAC-SHA-256, cut); else zero.
    pub const CODE_AT: usize = super::OWN_CHECK - 16;

    const _: () = assert!(DRIVE_TABLE_AT + base::limits::MAX_DRIVES * DRIVE_BYTES <= CODE_AT);
    const _: () = assert!(HOME_AT + base::limits::MAX_DRIVES * HOME_BYTES <= DRIVE_TABLE_AT);
    const _: () = assert!(PIECES_AT + MAX_PIECES * PIECE_BYTES <= RING_START_AT);
    const _: () = assert!(RING_START_AT + base::limits::MAX_COLUMNS * 4 <= DIRECTORY_AT);
}

/// Row pages: which extents a row has.
pub mod rows {
    /// Entries of a row page: u64 = present bit 63 | drive << 32 | extent.
    pub const PER_PAGE: usize = 512;
    /// Set in every entry that is in use.
    pub const PRESENT: u64 = 1 << 63;
}

/// Words of the key derivation of an encrypted group.
pub mod keys {
    /// Begins the info of every derived key.
    pub const PROTOCOL: &[u8] = b"plinth 1 ";
}
