//! The envelope: a group's secret, wrapped by a key that never lies on its drives.
//!
//! One fixed form, because it is stored in the catalogue and on drives alike. All numbers are little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `PLNTHENV` |
//! | 8 | 2 | version of this form: 1 |
//! | 10 | 1 | provider: 1 file, 2 keyring, 3 passphrase, 4 transit |
//! | 11 | 1 | length of the key's name, 1 to 128 |
//! | 12 | 4 | version of the key, from 1 |
//! | 16 | 2 | length of the wrapped secret, 1 to 832 |
//! | 18 | 14 | zero |
//! | 32 | 128 | the key's name, filled up with zeroes |
//! | 160 | n | the wrapped secret |
//! | 160 + n | 16 | XXH3-128 of all before |
//!
//! What follows, up to 1024 bytes, is zero. A reader refuses everything that it does not know. The check finds damage, not
//! forgery: that is what the wrapping is for, and a forged name or version leads to a key that does not open it.
use super::ProviderKind;
use crate::text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use xxhash_rust::xxh3::xxh3_128;

/// Where things are.
mod layout {
    use std::ops::Range;
    pub const MAGIC: [u8; 8] = *b"PLNTHENV";
    pub const VERSION: u16 = 1;
    pub const MAGIC_AT: Range<usize> = 0..8;
    pub const VERSION_AT: Range<usize> = 8..10;
    pub const PROVIDER_AT: usize = 10;
    pub const NAME_LEN_AT: usize = 11;
    pub const KEY_VERSION_AT: Range<usize> = 12..16;
    pub const WRAPPED_LEN_AT: Range<usize> = 16..18;
    pub const ZERO_AT: Range<usize> = 18..32;
    pub const NAME_AT: Range<usize> = 32..160;
    pub const WRAPPED_START: usize = 160;
    pub const CHECK_BYTES: usize = 16;
}

/// Bytes of an envelope at most.
pub const MAX_ENVELOPE_BYTES: usize = 1024;
/// Bytes of a wrapped secret at most.
pub const MAX_WRAPPED_BYTES: usize = 832;

const _: () = assert!(layout::WRAPPED_START + MAX_WRAPPED_BYTES + layout::CHECK_BYTES <= MAX_ENVELOPE_BYTES);
const _: () = assert!(layout::NAME_AT.end - layout::NAME_AT.start == text::MAX_NAME);

/// Why bytes are no envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadEnvelope {
    /// Shorter than it says, or longer than any.
    #[error("it has the wrong length")]
    Length,
    /// Something else.
    #[error("it does not begin like one")]
    Magic,
    /// Of a later version.
    #[error("it has version {0}, which this build does not know")]
    Version(u16),
    /// Damaged.
    #[error("its check fails")]
    Check,
    /// Intact, and yet a field has a value that this build does not know.
    #[error("its {0} is not one that this build knows")]
    Field(&'static str),
}

/// The wrapped secret of a group.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Who has the key.
    pub provider: ProviderKind,
    /// Its name.
    pub key: String,
    /// Its version.
    pub version: u32,
    /// The secret, wrapped.
    pub wrapped: Vec<u8>,
}

impl Envelope {
    /// Its binary form; panics if a field is beyond its bounds, which `Keys::wrap` keeps.
    pub fn encode(&self) -> Vec<u8> {
        assert!((1..=text::MAX_NAME).contains(&self.key.len()), "names are checked when a key is made");
        assert!((1..=MAX_WRAPPED_BYTES).contains(&self.wrapped.len()), "checked when it was wrapped");
        let mut bytes = vec![0; layout::WRAPPED_START];
        bytes[layout::MAGIC_AT].copy_from_slice(&layout::MAGIC);
        bytes[layout::VERSION_AT].copy_from_slice(&layout::VERSION.to_le_bytes());
        bytes[layout::PROVIDER_AT] = self.provider.code();
        bytes[layout::NAME_LEN_AT] = self.key.len() as u8;
        bytes[layout::KEY_VERSION_AT].copy_from_slice(&self.version.to_le_bytes());
        bytes[layout::WRAPPED_LEN_AT].copy_from_slice(&(self.wrapped.len() as u16).to_le_bytes());
        bytes[layout::NAME_AT][..self.key.len()].copy_from_slice(self.key.as_bytes());
        bytes.extend_from_slice(&self.wrapped);
        let check = xxh3_128(&bytes).to_le_bytes();
        bytes.extend_from_slice(&check);
        bytes
    }

    /// Reads an envelope; what follows it must be zero.
    ///
    /// # Errors
    /// Whatever is not exactly what `encode` writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadEnvelope> {
        let head = bytes.get(..layout::WRAPPED_START).ok_or(BadEnvelope::Length)?;
        if bytes.len() > MAX_ENVELOPE_BYTES {
            return Err(BadEnvelope::Length);
        }
        if head[layout::MAGIC_AT] != layout::MAGIC {
            return Err(BadEnvelope::Magic);
        }
        let version =
            u16::from_le_bytes([head[layout::VERSION_AT.start], head[layout::VERSION_AT.start + 1]]);
        if version != layout::VERSION {
            return Err(BadEnvelope::Version(version));
        }
        let at = layout::WRAPPED_LEN_AT.start;
        let wrapped_len = usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let end = layout::WRAPPED_START + wrapped_len;
        let wrapped = bytes.get(layout::WRAPPED_START..end).ok_or(BadEnvelope::Length)?;
        let check = bytes.get(end..end + layout::CHECK_BYTES).ok_or(BadEnvelope::Length)?;
        if check != xxh3_128(&bytes[..end]).to_le_bytes() {
            return Err(BadEnvelope::Check);
        }
        if bytes[end + layout::CHECK_BYTES..].iter().any(|byte| *byte != 0) {
            return Err(BadEnvelope::Field("end"));
        }
        Self::fields(head, wrapped)
    }

    /// The fields of an envelope whose check is right.
    fn fields(head: &[u8], wrapped: &[u8]) -> Result<Self, BadEnvelope> {
        let provider =
            ProviderKind::from_code(head[layout::PROVIDER_AT]).ok_or(BadEnvelope::Field("provider"))?;
        let at = layout::KEY_VERSION_AT.start;
        let version = u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if version == 0 {
            return Err(BadEnvelope::Field("version of the key"));
        }
        if wrapped.is_empty() || wrapped.len() > MAX_WRAPPED_BYTES {
            return Err(BadEnvelope::Field("wrapped secret"));
        }
        if head[layout::ZERO_AT].iter().any(|byte| *byte != 0) {
            return Err(BadEnvelope::Field("reserved part"));
        }
        let name_len = usize::from(head[layout::NAME_LEN_AT]);
        let (name, rest) =
            head[layout::NAME_AT].split_at_checked(name_len).ok_or(BadEnvelope::Field("name of the key"))?;
        let name = std::str::from_utf8(name).ok().filter(|name| text::check_name("key", name).is_ok());
        let name = name.filter(|_| rest.iter().all(|byte| *byte == 0));
        let key = name.ok_or(BadEnvelope::Field("name of the key"))?.to_owned();
        Ok(Self { provider, key, version, wrapped: wrapped.to_vec() })
    }
}

/// Tells which key opens it, and nothing of what is in it.
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Envelope({:?} {} version {}, {} bytes)",
            self.provider,
            self.key,
            self.version,
            self.wrapped.len()
        )
    }
}

/// In the catalogue: its binary form, in hexadecimal.
impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text::to_hex(&self.encode()))
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(from)?;
        let bytes =
            text::from_hex(&digits).ok_or_else(|| serde::de::Error::custom("no hexadecimal digits"))?;
        Self::decode(&bytes).map_err(|bad| serde::de::Error::custom(format!("no envelope: {bad}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Envelope {
        Envelope {
            provider: ProviderKind::Keyring,
            key: "k.1".into(),
            version: 0x0102_0304,
            wrapped: vec![0xab; 5],
        }
    }

    /// The form of version 1, byte for byte: drives have it.
    #[test]
    fn the_bytes_of_version_1_stay_what_they_are() {
        let mut golden = String::from("504c4e5448454e56 0100 02 03 04030201 0500");
        golden += &"00".repeat(14);
        golden += &format!("{}{}", "6b2e31", "00".repeat(125));
        golden += "ababababab";
        golden += "03dbc5a1670ee8deb116776bea36fe04";
        let golden: String = golden.chars().filter(|c| *c != ' ').collect();
        assert_eq!(text::to_hex(&sample().encode()), golden);
        assert_eq!(Envelope::decode(&text::from_hex(&golden).expect("digits")), Ok(sample()));
    }

    #[test]
    fn no_byte_can_be_changed_and_none_left_away() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut other = bytes.clone();
                other[at] ^= flip;
                assert!(Envelope::decode(&other).is_err(), "byte {at}");
            }
            assert!(Envelope::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let mut padded = bytes.clone();
        padded.resize(MAX_ENVELOPE_BYTES, 0);
        assert_eq!(Envelope::decode(&padded), Ok(sample()));
        padded[MAX_ENVELOPE_BYTES - 1] = 1;
        assert_eq!(Envelope::decode(&padded), Err(BadEnvelope::Field("end")));
        padded.push(0);
        assert_eq!(Envelope::decode(&padded), Err(BadEnvelope::Length));
    }

    /// With a right check each unknown value is refused by itself.
    #[test]
    fn what_is_not_known_is_refused() {
        let with = |at: usize, value: u8| {
            let mut bytes = sample().encode();
            bytes[at] = value;
            let end = bytes.len() - layout::CHECK_BYTES;
            let check = xxh3_128(&bytes[..end]).to_le_bytes();
            bytes[end..].copy_from_slice(&check);
            Envelope::decode(&bytes)
        };
        for (at, value) in
            [(10, 0), (10, 5), (11, 0), (11, 2), (11, 4), (11, 129), (20, 1), (32, b'/'), (40, 1)]
        {
            assert!(
                matches!(with(at, value), Err(BadEnvelope::Field(_))),
                "{at} {value}: {:?}",
                with(at, value)
            );
        }
        assert_eq!(with(8, 2), Err(BadEnvelope::Version(2)));
        assert_eq!(with(0, b'Q'), Err(BadEnvelope::Magic));
        assert!(with(17, 0xff).is_err() && with(16, 4).is_err());
    }

    #[test]
    fn the_catalogue_gives_back_what_it_got() {
        let json = serde_json::to_string(&sample()).expect("encodes");
        assert_eq!(serde_json::from_str::<Envelope>(&json).expect("decodes"), sample());
        assert!(serde_json::from_str::<Envelope>("\"00\"").is_err());
        assert!(!format!("{:?}", sample()).contains("171"), "not shown");
    }
}
