//! Offsets of a `Ref` and of a map page (format version 1), and nowhere else.
//!
//! A `Ref` is 32 bytes, little-endian: bytes 0..5 hold the Pba, bytes 5..12 a 56-bit word of flags (low 4
//! bits) and *when* (52 bits), bytes 12..16 the tag, bytes 16..32 the check. A page is 128 Refs and nothing
//! else: its own check, checkpoint and place are in its parent's Ref. Changing any of this needs a new format
//! version; `refs.rs` pins golden bytes.
use base::{BLOCK_BYTES, Pba, Seq};

/// Bytes of a `Ref`.
pub const REF_BYTES: usize = 32;
/// Refs in a page: the fan-out of the tree.
pub const PAGE_REFS: usize = 128;
/// The same as a shift: `PAGE_REFS == 1 << PAGE_SHIFT`.
pub const PAGE_SHIFT: u32 = 7;

/// Bits of the Pba, from byte 0 (5 bytes).
pub const REF_PBA_BITS: u32 = 40;
/// First byte of the 56-bit word of flags and *when*.
pub const REF_WORD: usize = 5;
/// Bits of the flags, the low ones of the word.
pub const REF_FLAG_BITS: u32 = 4;
/// Bits of *when*, the others of the word.
pub const REF_WHEN_BITS: u32 = 52;
/// First byte of the tag (u32).
pub const REF_TAG: usize = 12;
/// First byte of the check (16 bytes).
pub const REF_CHECK: usize = 16;

const _: () = assert!(PAGE_REFS * REF_BYTES == BLOCK_BYTES);
const _: () = assert!(PAGE_REFS == 1 << PAGE_SHIFT);
const _: () = assert!(Pba::LIMIT == 1 << REF_PBA_BITS && REF_PBA_BITS as usize == REF_WORD * 8);
const _: () = assert!(Seq::LIMIT == 1 << REF_WHEN_BITS);
const _: () = assert!((REF_TAG - REF_WORD) * 8 == (REF_FLAG_BITS + REF_WHEN_BITS) as usize);
const _: () = assert!(REF_CHECK == REF_TAG + 4 && REF_CHECK + 16 == REF_BYTES);
