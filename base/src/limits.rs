//! Named maxima that several crates share, and the relations between them.
//!
//! A limit that only one crate knows lives in that crate. A limit that is part of the format is so marked:
//! changing it needs a new format version.

/// Bytes of a sector, the unit in which the guest addresses.
pub const SECTOR_BYTES: usize = 512;
/// Bytes of a block, the unit that is mapped, checked and allocated (format).
pub const BLOCK_BYTES: usize = 4096;
/// Sectors in a block.
pub const SECTORS_PER_BLOCK: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;
/// Mirror copies of a group at most (format: the drive table and the rows are sized by it).
pub const MAX_LEGS: usize = 4;
/// Stripe columns of a group at most (format: the superblock lists the home row inline).
pub const MAX_COLUMNS: usize = 8;
/// Drives that one group can use at most (format: the drive table of the superblock).
pub const MAX_DRIVES: usize = 32;
/// Blocks that one request of a front end may touch when it is aligned; front ends split what is larger.
pub const MAX_REQUEST_BLOCKS: u32 = 64;
/// Blocks of buffer that a request slot owns: one more than a request's, because an unaligned start spills over.
pub const SLOT_DATA_BLOCKS: u32 = MAX_REQUEST_BLOCKS + 1;
/// Requests in flight at once.
pub const MAX_SLOTS: usize = 128;
/// Actions that one `poll` may append; a driver's list has at least this capacity.
pub const MAX_POLL_ACTIONS: usize = 4096;
/// Runs of memory that the actions of one `poll` may name; a driver's list has at least this capacity.
pub const MAX_POLL_SEGMENTS: usize = 8192;
/// Drive operations in flight at once; a driver has room for as many.
pub const MAX_DRIVE_OPS: usize = 4096;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(SLOT_DATA_BLOCKS > MAX_REQUEST_BLOCKS);
const _: () = assert!(MAX_LEGS * MAX_COLUMNS <= MAX_DRIVES);
