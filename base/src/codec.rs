//! Little-endian fields at fixed offsets of byte slices.
//!
//! Decoders check the length of their input once and then use these; an offset outside the slice is a bug of
//! the layout, not of the input, and panics.
use crate::{Check, Uuid};

macro_rules! field {
    ($get:ident, $put:ident, $ty:ty, $bytes:expr) => {
        #[doc = concat!("Reads a little-endian `", stringify!($ty), "` at byte `at`.")]
        pub fn $get(from: &[u8], at: usize) -> $ty {
            <$ty>::from_le_bytes(from[at..at + $bytes].try_into().expect("field width"))
        }
        #[doc = concat!("Writes a little-endian `", stringify!($ty), "` at byte `at`.")]
        pub fn $put(to: &mut [u8], at: usize, value: $ty) {
            to[at..at + $bytes].copy_from_slice(&value.to_le_bytes());
        }
    };
}

field!(u16_at, put_u16, u16, 2);
field!(u32_at, put_u32, u32, 4);
field!(u64_at, put_u64, u64, 8);

/// Whether all of these bytes are zero.
///
/// Looks at 64 at once: recovery asks this of the rest of every commit on the ring, and a loop that may stop at any byte
/// took a third of the time of reading one.
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut pieces = bytes.chunks_exact(64);
    let whole = pieces.all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0);
    whole && pieces.remainder().iter().all(|byte| *byte == 0)
}

/// Reads 16 bytes of check at byte `at`.
pub fn check_at(from: &[u8], at: usize) -> Check {
    Check(from[at..at + 16].try_into().expect("field width"))
}

/// Writes 16 bytes of check at byte `at`.
pub fn put_check(to: &mut [u8], at: usize, value: Check) {
    to[at..at + 16].copy_from_slice(&value.0);
}

/// Reads a 16-byte identity at byte `at`.
pub fn uuid_at(from: &[u8], at: usize) -> Uuid {
    Uuid(from[at..at + 16].try_into().expect("field width"))
}

/// Writes a 16-byte identity at byte `at`.
pub fn put_uuid(to: &mut [u8], at: usize, value: Uuid) {
    to[at..at + 16].copy_from_slice(&value.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_that_is_not_zero_is_seen_wherever_it_lies() {
        for length in [0, 1, 63, 64, 65, 200] {
            let mut bytes = [0; 200];
            assert!(is_zero(&bytes[..length]));
            for at in 0..length {
                bytes[at] = 1;
                assert!(!is_zero(&bytes[..length]), "byte {at} of {length}");
                bytes[at] = 0;
            }
            if length < bytes.len() {
                bytes[length] = 1;
                assert!(is_zero(&bytes[..length]), "{length} and one behind");
            }
        }
    }
}
