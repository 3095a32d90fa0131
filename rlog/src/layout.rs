//! Byte offsets of everything the log puts on a drive, and nothing but offsets.
//!
//! A commit is a run of adjacent ring blocks: a header of fixed length, a body of records, zeroes to the end of
//! the last block. All numbers are little-endian. Reserved fields are written as zero and must be zero: a later
//! version that gives one a meaning raises `VERSION`. The room that is kept: `LANE` and `FLAGS` (several record
//! lanes), the tail of the header, and a record's kind and flags (a record with its data inline).
use base::limits::SLOT_DATA_BLOCKS;
use base::{BLOCK_BYTES, Pba};

/// First eight bytes of a commit.
pub const MAGIC: [u8; 8] = *b"PLNTHLOG";
/// Version of the commit format that this code writes and reads.
pub const VERSION: u16 = 1;

/// Header: `MAGIC`.
pub const H_MAGIC: usize = 0;
/// Header: format version, u16.
pub const H_VERSION: usize = 8;
/// Header: its own length in bytes, u16.
pub const H_LENGTH: usize = 10;
/// Header: the lane, u16; 0.
pub const H_LANE: usize = 12;
/// Header: number of records, u16.
pub const H_RECORDS: usize = 14;
/// Header: flags, u32.
pub const H_FLAGS: usize = 16;
/// Flag: the body is encrypted.
pub const FLAG_SEALED: u32 = 1;
/// Header: bytes of the body, u32.
pub const H_BODY_BYTES: usize = 20;
/// Header: the group, 16 bytes.
pub const H_GROUP: usize = 24;
/// Header: the activation's id, 16 bytes.
pub const H_HISTORY: usize = 40;
/// Header: the activation's number, u64.
pub const H_GEN: usize = 56;
/// Header: the commit's number, u64.
pub const H_COMMIT: usize = 64;
/// Header: first Seq, u64; with no Seq taken, the next one to be taken.
pub const H_FIRST_SEQ: usize = 72;
/// Header: number of Seqs taken, u32.
pub const H_SEQS: usize = 80;
/// Header: ring block of its column at which the commit lies, u32. A commit that is found elsewhere was
/// misdirected by a drive and must not be taken for the one that belongs there.
pub const H_OFFSET: usize = 84;
/// Header: check of the commit before, 16 bytes.
pub const H_PREVIOUS: usize = 88;
/// Header: Gen of the newest durable superblock, u64.
pub const H_SUPERBLOCK_GEN: usize = 104;
/// Header: version of the newest durable superblock, u64.
pub const H_SUPERBLOCK_VERSION: usize = 112;
/// Header: D, u64.
pub const H_DURABLE: usize = 120;
/// Header: check over header (this field zero) and body, 16 bytes.
pub const H_CHECK: usize = 128;
/// Header: tag of an encrypted body, 12 bytes; zero for others. It covers the header up to `H_CHECK`.
pub const H_TAG: usize = 144;
/// Header: first reserved byte, up to the header's end.
pub const H_RESERVED: usize = 156;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 192;

/// Record: kind, u8.
pub const R_KIND: usize = 0;
/// Record: flags, u8; 0.
pub const R_FLAGS: usize = 1;
/// Record: number of runs, u16.
pub const R_RUNS: usize = 2;
/// Record: the volume, u32.
pub const R_VOLUME: usize = 4;
/// Record: first Lba, u64. Of a void: number of the commit that could not complete.
pub const R_LBA: usize = 8;
/// Record: length in blocks, u64.
pub const R_BLOCKS: usize = 16;
/// Bytes of a record before its runs.
pub const RECORD_BYTES: usize = 24;
/// Bytes of a run: Pba 5, zero 1, count u16.
pub const RUN_BYTES: usize = 8;
/// Bytes of the Pba within a run.
pub const RUN_PBA_BYTES: usize = 5;
/// Run: count of blocks, u16.
pub const RUN_COUNT: usize = 6;
/// Bytes of a check. A write's follow its runs, one for each block; a void has the one of the commit it names.
pub const CHECK_BYTES: usize = 16;

/// Lbas stay below this: 40 bits, as in the nonce of a data block.
pub const LBA_LIMIT: u64 = 1 << 40;
/// Blocks of a commit at most. 64 KiB take the records of some 300 small requests; a round rarely has more.
pub const MAX_COMMIT_BLOCKS: u32 = 16;
/// Bytes of a body at most.
pub const MAX_BODY_BYTES: usize = MAX_COMMIT_BLOCKS as usize * BLOCK_BYTES - HEADER_BYTES;
/// Records of a commit at most: what fits when each is a hole.
pub const MAX_RECORDS: usize = MAX_BODY_BYTES / RECORD_BYTES;
/// Bytes of a void record.
pub const VOID_BYTES: usize = RECORD_BYTES + CHECK_BYTES;
/// Voids that fit into a commit of one block: as many commits may be in flight at most.
pub const MAX_VOIDS_IN_BLOCK: usize = (BLOCK_BYTES - HEADER_BYTES) / VOID_BYTES;

/// Bytes of a write's record.
pub const fn write_bytes(blocks: u64, runs: usize) -> usize {
    RECORD_BYTES + runs * RUN_BYTES + blocks as usize * CHECK_BYTES
}

/// History line: first Seq, u64.
pub const L_FIRST_SEQ: usize = 0;
/// History line: first commit number, u64.
pub const L_FIRST_COMMIT: usize = 8;
/// History line: Gen, u64.
pub const L_GEN: usize = 16;
/// History line: the activation's id, 16 bytes.
pub const L_ID: usize = 24;
/// History line: salt of the activation's keys, 16 bytes.
pub const L_SALT: usize = 40;
/// History line: first checkpoint number, u32. 0 in plain groups.
pub const L_FIRST_CKPT: usize = 56;
/// History line: number of the data key, u16, from 1. 0 in plain groups.
pub const L_KEY: usize = 60;
/// Bytes of a history line; the last two are reserved.
pub const LINE_BYTES: usize = 64;

/// First eight bytes of a history page.
pub const PAGE_MAGIC: [u8; 8] = *b"PLNTHHIS";
/// History page: `PAGE_MAGIC`.
pub const P_MAGIC: usize = 0;
/// History page: format version, u16.
pub const P_VERSION: usize = 8;
/// History page: number of lines, u16.
pub const P_LINES: usize = 10;
/// History page: the caller's reference to the page before; zero if there is none.
pub const P_PREVIOUS: usize = 64;
/// Bytes of the caller's reference.
pub const PREVIOUS_BYTES: usize = 192;
/// History page: the first line.
pub const P_FIRST_LINE: usize = 256;
/// Lines on a page at most.
pub const LINES_PER_PAGE: usize = 60;

const _: () = assert!(H_CHECK + CHECK_BYTES == H_TAG && H_TAG + base::TAG_BYTES == H_RESERVED);
const _: () = assert!(HEADER_BYTES.is_multiple_of(8) && HEADER_BYTES < BLOCK_BYTES);
const _: () = assert!(R_BLOCKS + 8 == RECORD_BYTES && RUN_COUNT + 2 == RUN_BYTES);
const _: () = assert!(Pba::LIMIT == 1 << (8 * RUN_PBA_BYTES));
const _: () = assert!(MAX_RECORDS <= u16::MAX as usize);
/// The worst request, each of its blocks in a run of its own, fits into an empty commit.
const _: () = assert!(write_bytes(SLOT_DATA_BLOCKS as u64, SLOT_DATA_BLOCKS as usize) <= MAX_BODY_BYTES);
const _: () = assert!(L_SALT + 16 == L_FIRST_CKPT && L_KEY + 2 <= LINE_BYTES);
const _: () = assert!(P_PREVIOUS + PREVIOUS_BYTES == P_FIRST_LINE);
const _: () = assert!(P_FIRST_LINE + LINES_PER_PAGE * LINE_BYTES <= BLOCK_BYTES);
