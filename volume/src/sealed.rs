//! Blocks that carry their own check: labels, headers, superblocks.
use crate::layout::{FORMAT_VERSION, OWN_CHECK};
use base::{Block, Check, codec};

/// Why a block is not what was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bad {
    /// It does not begin with the magic: something else, or nothing, is there.
    Magic,
    /// Its own check does not fit: it is damaged.
    Check,
    /// It was written by a newer version of the format (the number is given).
    Newer(u16),
    /// It passes its check but says something impossible.
    Content,
}

/// Writes magic and version at the front and the check at the end.
pub(crate) fn seal(block: &mut Block, magic: &[u8; 8]) {
    block[..8].copy_from_slice(magic);
    codec::put_u16(block, 8, FORMAT_VERSION);
    let check = Check::of(&block[..OWN_CHECK]);
    codec::put_check(block, OWN_CHECK, check);
}

/// Checks magic, own check and version, in this order.
pub(crate) fn open(block: &Block, magic: &[u8; 8]) -> Result<(), Bad> {
    if block[..8] != *magic {
        return Err(Bad::Magic);
    }
    if Check::of(&block[..OWN_CHECK]) != codec::check_at(block, OWN_CHECK) {
        return Err(Bad::Check);
    }
    match codec::u16_at(block, 8) {
        FORMAT_VERSION => Ok(()),
        0 => Err(Bad::Content),
        newer => Err(Bad::Newer(newer)),
    }
}
