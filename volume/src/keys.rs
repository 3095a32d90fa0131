//! Keys of an encrypted group, and what is derived from them.
//!
//! ```text
//! data key N (32 random bytes; a rotation adds one)       metadata key (32 random bytes)
//!   └ activation with key N, by its salt                    ├ activation, by its salt
//!       └ data                                              │   ├ pages   ├ commits   └ superblock (a MAC)
//!                                                           ├ group: home pages (a MAC)
//!                                                           └ writing of names, by its salt: names
//! ```
//!
//! Every step is HKDF-SHA256 (RFC 5869) with the activation's salt; the info names the class, the group and the
//! activation, so what was sealed for one never opens as another's. Nonces count within an activation (`base::Nonce`).
//!
//! Crash story: an activation's line, with its salt, is durable on every current leg before its first ciphertext. An
//! activation that is cut short before that sealed nothing but its superblock, which is a MAC and has no nonce. Two that
//! are cut short one after the other have different salts, so that numbers which both counted from are under different keys.
//! A recovery writes what it replays under its own activation: a replayed commit stays bit for bit what it was.
mod memory;
pub mod portable;
pub mod reader;
mod sessions;

use crate::layout::keys as at;
use crate::layout::names::SALT_BYTES;
use alloc::boxed::Box;
use alloc::vec::Vec;
use base::{Ciphers, KEY_BYTES, Uuid};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
pub(crate) use memory::{Form, Keyed, Keys, Sealing, is_stored};
use rlog::Line;
pub use sessions::Sessions;
use sha2::Sha256;
use zeroize::Zeroizing;

/// A key; wiped when it is dropped.
pub type Key = Zeroizing<[u8; KEY_BYTES]>;

/// What a key is used for. The words are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Blocks of a volume.
    Data,
    /// Pages of map, directory and free space.
    Pages,
    /// Bodies of commits.
    Commits,
    /// Superblocks.
    Superblock,
    /// Row and history pages.
    HomePages,
    /// Names in headers.
    Names,
}

impl Class {
    const fn word(self) -> &'static [u8] {
        match self {
            Self::Data => b"data",
            Self::Pages => b"pages",
            Self::Commits => b"commits",
            Self::Superblock => b"superblock",
            Self::HomePages => b"home pages",
            Self::Names => b"names",
        }
    }
}

/// What opens an encrypted group: given by whoever holds the envelope's key, and never stored.
pub struct GroupKeys {
    /// Data keys by their numbers, in the order of the envelope. A group has one for each rotation that its blocks still
    /// need.
    pub data: Vec<(u16, Key)>,
    /// The site's metadata key.
    pub metadata: Key,
    /// What encrypts.
    pub ciphers: Box<dyn Ciphers>,
}

impl GroupKeys {
    /// The data key of this number.
    pub fn data_key(&self, number: u16) -> Option<&Key> {
        self.data.iter().find(|(known, _)| *known == number).map(|(_, key)| key)
    }

    /// The number of the key that new activations use: the last one.
    pub fn newest(&self) -> Option<u16> {
        self.data.last().map(|(number, _)| *number)
    }

    /// The key of a class for an activation; `None` if the data key that it names is not at hand.
    pub fn derive(&self, class: Class, group: Uuid, line: &Line) -> Option<Key> {
        let from = match class {
            Class::Data => self.data_key(line.key)?,
            Class::Pages | Class::Commits | Class::Superblock | Class::HomePages | Class::Names => {
                &self.metadata
            }
        };
        Some(derive(from, &line.salt, class, group, line.id))
    }

    /// The key of the home pages, which are written before the line of the activation that they name.
    pub fn home_pages(&self, group: Uuid) -> Key {
        derive(&self.metadata, &[], Class::HomePages, group, Uuid::NIL)
    }

    /// The key of one writing of names, which no activation owns.
    pub(crate) fn names(&self, group: Uuid, salt: &[u8; SALT_BYTES]) -> Key {
        derive(&self.metadata, salt, Class::Names, group, Uuid::NIL)
    }
}

impl core::fmt::Debug for GroupKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GroupKeys({} data keys)", self.data.len())
    }
}

fn derive(from: &Key, salt: &[u8], class: Class, group: Uuid, activation: Uuid) -> Key {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let info: [&[u8]; 5] = [at::PROTOCOL, class.word(), &[0], &group.0, &activation.0];
    Hkdf::<Sha256>::new(Some(salt), &from[..]).expand_multi_info(&info, &mut key[..]).expect("32 bytes");
    key
}

/// A message authentication code of 16 bytes: HMAC-SHA-256, cut.
pub fn mac(key: &Key, pieces: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key[..]).expect("any length");
    pieces.iter().for_each(|piece| mac.update(piece));
    mac.finalize().into_bytes()[..16].try_into().expect("sixteen bytes")
}

/// Whether a code is that of the message, in constant time.
pub fn mac_fits(key: &Key, pieces: &[&[u8]], code: &[u8; 16]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key[..]).expect("any length");
    pieces.iter().for_each(|piece| mac.update(piece));
    mac.verify_truncated_left(code).is_ok()
}

#[cfg(test)]
mod tests;
