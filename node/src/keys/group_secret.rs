//! A group's secret: what is wrapped in its envelope, and what a target is told through a pipe.
//!
//! One fixed form, because it outlives every program that wrote it. Numbers are little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version of this form: 1 |
//! | 1 | 1 | n, how many data keys: 1 to 6 |
//! | 2 | 32 | metadata key |
//! | 34 | n times 34 | number of a data key, from 1 and ascending, and the key |
//!
//! It ends there. A reader refuses everything else: a secret that was opened is what was sealed, so whatever is wrong with
//! it is another program's, and a key read from the wrong place would encrypt a volume that nobody else can open.
use super::Secret;
use super::seal::{KEY_BYTES, random};
use crate::error::{Error, Kind, Result};
use base::Ciphers;
use ublk_target::AwsLc;
use volume::keys::{GroupKeys, Key};

/// Where things are.
mod layout {
    pub const VERSION: u8 = 1;
    pub const VERSION_AT: usize = 0;
    pub const COUNT_AT: usize = 1;
    pub const METADATA_AT: usize = 2;
    pub const DATA_AT: usize = METADATA_AT + super::KEY_BYTES;
    pub const NUMBER_BYTES: usize = 2;
    pub const DATA_BYTES: usize = NUMBER_BYTES + super::KEY_BYTES;
}

/// Data keys of a group at most: one for each rotation that its blocks still need.
pub const MAX_DATA_KEYS: usize = 6;
/// Number of a group's first data key.
const FIRST: u16 = 1;

const _: () = assert!(layout::DATA_AT + MAX_DATA_KEYS * layout::DATA_BYTES <= super::MAX_GROUP_SECRET_BYTES);
const _: () = assert!(KEY_BYTES == base::KEY_BYTES);

/// Why bytes are no secret of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadSecret {
    /// Shorter or longer than it says.
    #[error("it has the wrong length")]
    Length,
    /// Of a later version.
    #[error("it has version {0}, which this build does not know")]
    Version(u8),
    /// No data key, or more than there can be.
    #[error("it has {0} data keys")]
    Count(u8),
    /// Numbers that do not ascend from 1.
    #[error("its data keys are out of order")]
    Order,
}

/// The keys of a group, in locked memory.
#[derive(Debug)]
pub struct GroupSecret(Secret);

impl GroupSecret {
    /// Random keys for a new group: a metadata key and the first data key.
    ///
    /// # Errors
    /// The random source fails.
    pub fn random() -> Result<Self> {
        let mut secret = Secret::zeroed(layout::DATA_AT + layout::DATA_BYTES);
        let bytes = secret.expose_mut();
        bytes[layout::VERSION_AT] = layout::VERSION;
        bytes[layout::COUNT_AT] = 1;
        random(&mut bytes[layout::METADATA_AT..layout::DATA_AT])?;
        let (number, key) = bytes[layout::DATA_AT..].split_at_mut(layout::NUMBER_BYTES);
        number.copy_from_slice(&FIRST.to_le_bytes());
        random(key)?;
        Ok(Self(secret))
    }

    /// Takes bytes for the secret of a group.
    ///
    /// # Errors
    /// Whatever is not exactly what this form says.
    pub fn decode(secret: Secret) -> std::result::Result<Self, BadSecret> {
        let bytes = secret.expose();
        let head = bytes.get(..layout::DATA_AT).ok_or(BadSecret::Length)?;
        if head[layout::VERSION_AT] != layout::VERSION {
            return Err(BadSecret::Version(head[layout::VERSION_AT]));
        }
        let count = usize::from(head[layout::COUNT_AT]);
        if !(1..=MAX_DATA_KEYS).contains(&count) {
            return Err(BadSecret::Count(head[layout::COUNT_AT]));
        }
        if bytes.len() != layout::DATA_AT + count * layout::DATA_BYTES {
            return Err(BadSecret::Length);
        }
        let secret = Self(secret);
        let mut before = FIRST - 1;
        for (number, _) in secret.data() {
            if number <= before {
                return Err(BadSecret::Order);
            }
            before = number;
        }
        Ok(secret)
    }

    /// This secret with one data key more, a random one under the next number.
    ///
    /// # Errors
    /// `Refused`: it has as many as there can be, or the numbers are used up; the random source fails.
    pub fn with_new_key(&self) -> Result<Self> {
        let number = self.newest().checked_add(1).filter(|_| self.count() < MAX_DATA_KEYS);
        let number = number.ok_or_else(|| {
            let message = format!("it has {} data keys, and can have no more", self.count());
            Error::general(Kind::Refused, message)
        })?;
        let before = self.0.expose();
        let mut secret = Secret::zeroed(before.len() + layout::DATA_BYTES);
        let bytes = secret.expose_mut();
        bytes[..before.len()].copy_from_slice(before);
        bytes[layout::COUNT_AT] += 1;
        let (place, key) = bytes[before.len()..].split_at_mut(layout::NUMBER_BYTES);
        place.copy_from_slice(&number.to_le_bytes());
        random(key)?;
        Ok(Self(secret))
    }

    /// This secret without the data keys before this number, or without those from it on: at least one stays.
    pub fn only(&self, wanted: impl Fn(u16) -> bool) -> Self {
        let kept = self.data().filter(|(number, _)| wanted(*number)).count();
        assert!(kept > 0, "a group without a data key cannot be read");
        let mut secret = Secret::zeroed(layout::DATA_AT + kept * layout::DATA_BYTES);
        let bytes = secret.expose_mut();
        bytes[..layout::DATA_AT].copy_from_slice(&self.0.expose()[..layout::DATA_AT]);
        bytes[layout::COUNT_AT] = kept as u8;
        let places = bytes[layout::DATA_AT..].chunks_exact_mut(layout::DATA_BYTES);
        for (place, (number, key)) in places.zip(self.data().filter(|(number, _)| wanted(*number))) {
            place[..layout::NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
            place[layout::NUMBER_BYTES..].copy_from_slice(key);
        }
        Self(secret)
    }

    /// Number of the newest data key: what an activation with this secret writes under.
    pub fn newest(&self) -> u16 {
        self.data().map(|(number, _)| number).last().expect("a secret has a data key")
    }

    /// How many data keys it has.
    pub fn count(&self) -> usize {
        self.data().count()
    }

    /// Its binary form.
    pub const fn secret(&self) -> &Secret {
        &self.0
    }

    /// The keys as the engine takes them.
    pub fn keys(&self) -> GroupKeys {
        let data = self.data().map(|(number, key)| (number, owned(key))).collect();
        let metadata = owned(&self.0.expose()[layout::METADATA_AT..layout::DATA_AT]);
        GroupKeys { data, metadata, ciphers: ciphers() }
    }

    /// The data keys by number, as they lie there.
    fn data(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.0.expose()[layout::DATA_AT..].chunks_exact(layout::DATA_BYTES).map(|entry| {
            let (number, key) = entry.split_at(layout::NUMBER_BYTES);
            (u16::from_le_bytes([number[0], number[1]]), key)
        })
    }
}

/// Wiped when it is dropped, which is all that the engine, without an operating system, can do for it.
fn owned(key: &[u8]) -> Key {
    let mut owned = Key::default();
    owned.copy_from_slice(key);
    owned
}

/// What encrypts on this machine.
pub fn ciphers() -> Box<dyn Ciphers> {
    Box::new(AwsLc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(count: u8, numbers: &[u16]) -> Vec<u8> {
        let mut bytes = vec![1, count];
        bytes.extend([0xaa; KEY_BYTES]);
        for number in numbers {
            bytes.extend(number.to_le_bytes());
            bytes.extend([*number as u8; KEY_BYTES]);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> std::result::Result<GroupSecret, BadSecret> {
        GroupSecret::decode(Secret::copy_of(bytes))
    }

    /// The form of version 1, byte for byte: envelopes have it.
    #[test]
    fn the_bytes_of_version_1_stay_what_they_are() {
        let golden = form(2, &[1, 0x0203]);
        assert_eq!((golden.len(), &golden[..3], &golden[34..37]), (102, &[1, 2, 0xaa][..], &[1, 0, 1][..]));
        assert_eq!(&golden[68..72], &[3, 2, 3, 3]);
        let keys = decode(&golden).expect("right").keys();
        assert_eq!(keys.metadata[..], [0xaa; KEY_BYTES]);
        assert_eq!(keys.data.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 0x0203]);
        assert_eq!((keys.data[0].1[..] == [1; 32], keys.data[1].1[..] == [3; 32]), (true, true));
        assert!(decode(&form(6, &[1, 2, 3, 4, 5, 6])).is_ok_and(|secret| secret.secret().len() <= 256));
    }

    #[test]
    fn new_ones_are_random_and_have_one_data_key() {
        let (one, other) = (GroupSecret::random().expect("random"), GroupSecret::random().expect("random"));
        let (one, other) = (one.keys(), other.keys());
        assert_eq!((one.data.len(), one.newest()), (1, Some(1)));
        assert!(one.metadata != other.metadata && one.data[0].1 != other.data[0].1);
        assert_ne!(one.metadata, one.data[0].1);
        let again = GroupSecret::random().expect("random");
        assert!(decode(again.0.expose()).expect("right").0.same(again.0.expose()));
    }

    #[test]
    fn data_keys_come_and_go() {
        let numbers =
            |secret: &GroupSecret| -> Vec<u16> { secret.data().map(|(number, _)| number).collect() };
        let first = GroupSecret::random().expect("random");
        let mut secret = decode(first.0.expose()).expect("right");
        for count in 2..=MAX_DATA_KEYS {
            let more = secret.with_new_key().expect("there is room");
            assert_eq!((more.count(), usize::from(more.newest())), (count, count));
            assert!(decode(more.0.expose()).is_ok_and(|again| again.0.same(more.0.expose())));
            assert!(more.only(|number| number < more.newest()).0.same(secret.0.expose()));
            secret = more;
        }
        assert_eq!(secret.with_new_key().expect_err("full").kind, Kind::Refused);
        let last = secret.only(|number| number == 6);
        assert_eq!(numbers(&last), [6]);
        assert_eq!(last.keys().metadata, first.keys().metadata);
        assert_eq!(last.keys().data[0].1, secret.keys().data[5].1);
        assert_eq!(numbers(&last.with_new_key().expect("there is room")), [6, 7], "no number comes again");
        let end = decode(&form(1, &[u16::MAX])).expect("right");
        assert_eq!(end.with_new_key().expect_err("used up").kind, Kind::Refused);
    }

    #[test]
    fn whatever_is_not_this_form_is_refused() {
        let bad = |bytes: &[u8]| decode(bytes).expect_err("bad");
        let right = form(2, &[1, 2]);
        for len in 0..right.len() {
            assert_eq!(bad(&right[..len]), BadSecret::Length, "cut at {len}");
        }
        assert_eq!(bad(&[&right[..], &[0]].concat()), BadSecret::Length);
        for (count, expected) in [(0, BadSecret::Count(0)), (7, BadSecret::Count(7)), (1, BadSecret::Length)]
        {
            assert_eq!(bad(&form(count, &[1, 2])), expected);
        }
        assert_eq!(bad(&form(7, &[1, 2, 3, 4, 5, 6, 7])), BadSecret::Count(7));
        for numbers in [[0, 1], [1, 1], [2, 1]] {
            assert_eq!(bad(&form(2, &numbers)), BadSecret::Order);
        }
        let mut newer = right;
        newer[0] = 2;
        assert_eq!(bad(&newer), BadSecret::Version(2));
    }
}
