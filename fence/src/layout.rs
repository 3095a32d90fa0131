//! Byte offsets of a drive's entry in the superblock, and nothing but offsets. Little-endian; unused bytes are zero.

/// Entry: the drive, 16 bytes.
pub const E_DRIVE: usize = 0;
/// Entry: state, u8: one of the `STATE_` values.
pub const E_STATE: usize = 16;
/// Entry: flags, u8: `FLAG_UNPROVEN` or 0; 0 when current.
pub const E_FLAGS: usize = 17;
/// Entry: first of two unused bytes.
pub const E_UNUSED: usize = 18;
/// Entry: C, u32; 0 when current.
pub const E_CKPT: usize = 20;
/// Entry: S, u64; 0 when current.
pub const E_SEQ: usize = 24;
/// Entry: version of the superblock that gave the drive this state, u64.
pub const E_VERSION: usize = 32;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 40;

/// The copy is current.
pub const STATE_CURRENT: u8 = 1;
/// The copy is stale.
pub const STATE_STALE: u8 = 2;
/// The copy is being resynced.
pub const STATE_RESYNCING: u8 = 3;

/// What the copy has of what is not newer than S and C is not known.
pub const FLAG_UNPROVEN: u8 = 1;

const _: () = assert!(E_FLAGS + 1 == E_UNUSED && E_UNUSED + 2 == E_CKPT && E_CKPT + 4 == E_SEQ);
const _: () = assert!(E_SEQ + 8 == E_VERSION && E_VERSION + 8 == ENTRY_BYTES);
