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
