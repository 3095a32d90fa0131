//! Checks: 16 bytes that tell a block's right content from any other.
//!
//! Plain groups use XXH3-128, which finds damage but not forgery. Those of an encrypted group have the tag of its
//! encryption and, for whoever has no key, a CRC-32C of what is stored. The check of a block is kept by its parent
//! (a `Ref`, a record, the superblock), never beside the block, so that a misplaced, lost or older write is
//! found as well as a flipped bit.
use crate::{TAG_BYTES, Tag};
use core::fmt;

/// The 16 bytes of a check. All zero is no check (holes, absent pages).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Check(pub [u8; 16]);

/// How a group's checks are made; a field of the superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CheckKind {
    /// XXH3 with 128 bits, seed 0, stored little-endian.
    Xxh3 = 1,
    /// AES-256-GCM: its tag (12 bytes), then the CRC-32C of the ciphertext, little-endian.
    AesGcm = 2,
}

impl CheckKind {
    /// The kind that a stored byte means, if this version knows it.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Xxh3),
            2 => Some(Self::AesGcm),
            _ => None,
        }
    }
}

impl Check {
    /// No check.
    pub const NONE: Self = Self([0; 16]);

    /// The XXH3-128 check of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(bytes).to_le_bytes())
    }

    /// The check of a block that is encrypted.
    pub fn sealed(tag: Tag, ciphertext: &[u8]) -> Self {
        let mut check = [0; 16];
        check[..TAG_BYTES].copy_from_slice(&tag.0);
        check[TAG_BYTES..].copy_from_slice(&crc32c(ciphertext).to_le_bytes());
        Self(check)
    }

    /// The tag in the check of an encrypted block.
    pub fn tag(&self) -> Tag {
        Tag(self.0[..TAG_BYTES].try_into().expect("twelve bytes"))
    }

    /// Whether an encrypted block is undamaged, for whoever has no key. Finds damage, and no forgery.
    pub fn crc_fits(&self, ciphertext: &[u8]) -> bool {
        crc32c(ciphertext).to_le_bytes() == self.0[TAG_BYTES..]
    }

    /// The XXH3-128 check of these pieces laid end to end, for a structure that holds its own check: the
    /// caller puts zeroes where the check lies.
    pub fn of_pieces(pieces: &[&[u8]]) -> Self {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for piece in pieces {
            hash.update(piece);
        }
        Self(hash.digest128().to_le_bytes())
    }
}

/// CRC-32C (Castagnoli, as in RFC 3720).
fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published test vector for empty input, so that the format cannot drift with the library.
    #[test]
    fn empty_input_has_the_published_value() {
        let expected: u128 = 0x99aa_06d3_0147_98d8_6001_c324_468d_497f;
        assert_eq!(Check::of(&[]).0, expected.to_le_bytes());
    }

    /// The test vector of RFC 3720, B.4: 32 bytes of zeroes.
    #[test]
    fn the_crc_is_the_one_of_the_standard() {
        let check = Check::sealed(Tag([7; TAG_BYTES]), &[0; 32]);
        assert_eq!(check.0[..12], [7; 12]);
        assert_eq!(check.0[12..], [0xaa, 0x36, 0x91, 0x8a]);
        assert!(check.crc_fits(&[0; 32]) && !check.crc_fits(&[1; 32]));
        assert_eq!(check.tag(), Tag([7; TAG_BYTES]));
    }

    #[test]
    fn pieces_are_as_good_as_the_whole() {
        let bytes: [u8; 700] = core::array::from_fn(|i| i as u8);
        assert_eq!(
            Check::of(&bytes),
            Check::of_pieces(&[&bytes[..3], &bytes[3..3], &bytes[3..600], &bytes[600..]])
        );
    }

    #[test]
    fn one_bit_changes_the_check() {
        let mut block = [7u8; 4096];
        let before = Check::of(&block);
        block[4095] ^= 1;
        assert_ne!(before, Check::of(&block));
    }
}
