//! Keys that a passphrase seals.
//!
//! The key itself is 32 random bytes; what is made of the passphrase (Argon2id) only seals it in its record. So another
//! passphrase is another seal, and a rotation makes both anew. The agent holds what was unlocked in locked memory until
//! it ends or `plinth key lock`. The memory that Argon2id works in is ordinary, and overwritten when it is done.
//!
//! Crash story of a rotation: the new version comes with the version before, sealed by the new key, in one transaction.
//! Whoever knows the new passphrase can finish what was cut short; the old one opens nothing any more.
use super::Secret;
use super::local::Source;
use super::seal::{self, KEY_BYTES, random_secret};
use crate::catalogue::{KeyRecord, KeyVersion, SealedKey};
use crate::error::{Error, Kind, Result};
use crate::text;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a passphrase at most.
pub const MAX_PASSPHRASE_BYTES: usize = 1024;
/// KiB of memory that making a key of a passphrase takes, unless the machine is small.
const MEMORY_KIB: u32 = 256 << 10;
/// KiB at least, on the smallest machine.
const MIN_MEMORY_KIB: u32 = 32 << 10;
/// KiB at most in a record that is believed.
const MAX_MEMORY_KIB: u32 = 4 << 20;
/// Passes over it at least; as many more as less memory is taken.
const PASSES: u32 = 3;
/// Passes at most in a record that is believed.
const MAX_PASSES: u32 = 1000;
const SALT_BYTES: usize = 16;

/// Purpose of a seal made of a passphrase.
const BY_PASSPHRASE: &str = "plinth key by passphrase";
/// Purpose of the seal of the version before.
const BY_NEXT: &str = "plinth key by its next version";

/// How a key is made of a passphrase: Argon2id, version 0x13.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kdf {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Kdf {
    /// What suits a machine with this memory: 256 MiB, three passes, one lane; an eighth of the memory where that is less
    /// (at least 32 MiB), and so many more passes that the work stays the same.
    pub fn for_memory(total_kib: u64) -> Self {
        let memory_kib = u32::try_from(total_kib / 8).unwrap_or(u32::MAX).clamp(MIN_MEMORY_KIB, MEMORY_KIB);
        Self { memory_kib, passes: (MEMORY_KIB * PASSES).div_ceil(memory_kib), lanes: 1 }
    }

    /// What suits this machine; unit tests do not wait for it.
    pub fn here() -> Self {
        if cfg!(test) {
            return Self { memory_kib: 8, passes: 1, lanes: 1 };
        }
        let facts = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = facts.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
        Self::for_memory(kib.unwrap_or(u64::MAX))
    }

    /// Makes a key. Takes a second or so.
    fn derive(self, passphrase: &Secret, salt: &[u8]) -> Result<Secret> {
        let bad =
            |why: String| Error::general(Kind::Damage, format!("a passphrase cannot be checked: {why}"));
        if self.memory_kib > MAX_MEMORY_KIB || self.passes > MAX_PASSES {
            return Err(bad(format!("{} KiB and {} passes are beyond reason", self.memory_kib, self.passes)));
        }
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES));
        let params = params.map_err(|error| bad(error.to_string()))?;
        let mut memory = vec![Block::default(); params.block_count()];
        let mut key = Secret::zeroed(KEY_BYTES);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let made = argon2.hash_password_into_with_memory(
            passphrase.expose(),
            salt,
            key.expose_mut(),
            &mut memory[..],
        );
        memory.fill(Block::default());
        std::hint::black_box(&memory);
        made.map_err(|error| bad(error.to_string()))?;
        Ok(key)
    }
}

/// What a seal is bound to.
fn object(name: &str, version: u32) -> Vec<u8> {
    format!("{name}:{version}").into_bytes()
}

impl SealedKey {
    /// A new random key, sealed by a passphrase; and the version before by it, if there is one to go over from.
    pub(crate) fn make(
        kdf: Kdf,
        name: &str,
        version: u32,
        passphrase: &Secret,
        before: Option<(u32, &Secret)>,
    ) -> Result<(Self, Secret)> {
        let key = random_secret(KEY_BYTES)?;
        let mut salt = [0; SALT_BYTES];
        seal::random(&mut salt)?;
        let by = kdf.derive(passphrase, &salt)?;
        let sealed = seal::seal(&by, BY_PASSPHRASE, &object(name, version), &key)?;
        let before = before
            .map(|(number, before)| seal::seal(&key, BY_NEXT, &object(name, number), before))
            .transpose()?;
        let hex = |bytes: Vec<u8>| text::to_hex(&bytes);
        let made = Self { kdf, salt: hex(salt.to_vec()), sealed: hex(sealed), before: before.map(hex) };
        Ok((made, key))
    }

    /// The key, if this is the passphrase. Takes as long if it is not.
    fn open(&self, name: &str, version: u32, passphrase: &Secret) -> Result<Option<Secret>> {
        let (Some(salt), Some(sealed)) = (text::from_hex(&self.salt), text::from_hex(&self.sealed)) else {
            return Err(Error::new(
                Kind::Damage,
                name,
                format!("the catalogue's entry of key {name} is damaged"),
            ));
        };
        let by = self.kdf.derive(passphrase, &salt)?;
        Ok(seal::open(&by, BY_PASSPHRASE, &object(name, version), &sealed))
    }

    /// The same, when nothing needs the version before any more.
    pub(crate) fn without_before(self) -> Self {
        Self { before: None, ..self }
    }

    fn open_before(&self, name: &str, number: u32, key: &Secret) -> Option<Secret> {
        let sealed = text::from_hex(self.before.as_deref()?)?;
        seal::open(key, BY_NEXT, &object(name, number), &sealed)
    }
}

/// The keys that are unlocked, by name and version.
#[derive(Default)]
pub(crate) struct Unlocked {
    keys: Mutex<BTreeMap<(String, u32), Secret>>,
}

impl Unlocked {
    fn keys(&self) -> MutexGuard<'_, BTreeMap<(String, u32), Secret>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlocks every version of a key; `false`: this is not the passphrase, and nothing has changed.
    ///
    /// # Errors
    /// The record is damaged.
    pub fn unlock(&self, key: &KeyRecord, passphrase: &Secret) -> Result<bool> {
        let name = &key.name;
        let sealed = |version: &KeyVersion| version.sealed.clone();
        let Some((newest, sealed)) = key.newest().and_then(|newest| Some((newest, sealed(newest)?))) else {
            return Err(Error::new(Kind::Busy, name.clone(), super::not_made(name)));
        };
        let Some(opened) = sealed.open(name, newest.version, passphrase)? else { return Ok(false) };
        for version in key.versions.iter().filter(|version| version.version != newest.version) {
            if let Some(before) = sealed.open_before(name, version.version, &opened) {
                self.hold(name, version.version, before);
            }
        }
        self.hold(name, newest.version, opened);
        Ok(true)
    }

    /// Holds a version.
    pub fn hold(&self, name: &str, version: u32, key: Secret) {
        self.keys().insert((name.to_owned(), version), key);
        super::warn_if_unlocked();
    }

    /// A version, if it is unlocked.
    pub fn get(&self, name: &str, version: u32) -> Option<Secret> {
        self.keys().get(&(name.to_owned(), version)).map(Secret::duplicate)
    }

    /// Forgets every version of a key.
    pub fn lock(&self, name: &str) {
        self.keys().retain(|(held, _), _| held != name);
    }
}

/// The unlocked versions of one key.
pub(crate) struct Held<'a> {
    unlocked: &'a Unlocked,
    key: &'a KeyRecord,
}

impl<'a> Held<'a> {
    pub fn new(unlocked: &'a Unlocked, key: &'a KeyRecord) -> Self {
        Self { unlocked, key }
    }
}

impl Source for Held<'_> {
    /// A version is in its record, or there is none: it was made together with it.
    fn make(&self, version: u32) -> Result<()> {
        let name = &self.key.name;
        let there = self.key.version(version).is_some_and(|version| version.sealed.is_some());
        if there { Ok(()) } else { Err(Error::new(Kind::Damage, name.clone(), super::not_made(name))) }
    }

    fn load(&self, version: u32) -> Result<Secret> {
        let name = &self.key.name;
        self.unlocked.get(name, version).ok_or_else(|| locked(name))
    }

    fn forget(&self, version: u32) -> Result<()> {
        self.unlocked.keys().remove(&(self.key.name.clone(), version));
        Ok(())
    }
}

/// The sentence for a key that is locked.
pub(crate) fn locked(name: &str) -> Error {
    Error::new(Kind::Permission, name, format!("key {name} is locked"))
        .hint(format!("plinth key unlock {name} takes its passphrase"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::KeyLife;
    use crate::keys::ProviderKind;

    /// As little work as Argon2id does.
    const QUICK: Kdf = Kdf { memory_kib: 8, passes: 1, lanes: 1 };

    fn record(versions: Vec<(u32, SealedKey)>) -> KeyRecord {
        let version =
            |(version, sealed)| KeyVersion { version, created_at: String::new(), sealed: Some(sealed) };
        KeyRecord {
            name: "k".into(),
            provider: ProviderKind::Passphrase,
            created_at: String::new(),
            life: KeyLife::Ready,
            last_version: 2,
            versions: versions.into_iter().map(version).collect(),
            transit: None,
        }
    }

    #[test]
    fn the_passphrase_unlocks_and_no_other() {
        let word = Secret::copy_of(b"correct horse");
        let (sealed, key) = SealedKey::make(QUICK, "k", 1, &word, None).expect("makes");
        let record = record(vec![(1, sealed)]);
        let unlocked = Unlocked::default();
        for wrong in [&b"correct horsf"[..], b"", b"correct horse "] {
            assert!(!unlocked.unlock(&record, &Secret::copy_of(wrong)).expect("checks"));
            assert!(unlocked.get("k", 1).is_none());
        }
        assert_eq!(Held::new(&unlocked, &record).load(1).expect_err("locked").kind, Kind::Permission);
        assert!(unlocked.unlock(&record, &word).expect("checks"));
        assert!(Held::new(&unlocked, &record).load(1).expect("unlocked").same(key.expose()));
        let mut other = record.clone();
        other.name = "l".into();
        assert!(!unlocked.unlock(&other, &word).expect("checks"), "a seal is bound to its key's name");
        unlocked.lock("k");
        assert!(unlocked.get("k", 1).is_none());
    }

    #[test]
    fn the_new_passphrase_unlocks_the_version_before_too() {
        let (old, new) = (Secret::copy_of(b"old"), Secret::copy_of(b"new"));
        let (first, one) = SealedKey::make(QUICK, "k", 1, &old, None).expect("makes");
        let (second, two) = SealedKey::make(QUICK, "k", 2, &new, Some((1, &one))).expect("makes");
        let record = record(vec![(1, first), (2, second)]);
        let unlocked = Unlocked::default();
        assert!(!unlocked.unlock(&record, &old).expect("checks"));
        assert!(unlocked.unlock(&record, &new).expect("checks"));
        assert!(unlocked.get("k", 1).expect("before").same(one.expose()));
        assert!(unlocked.get("k", 2).expect("newest").same(two.expose()));
    }

    #[test]
    fn a_small_machine_takes_less_memory_and_more_passes() {
        let of = |mib: u64| Kdf::for_memory(mib << 10);
        assert_eq!((of(16 << 10).memory_kib, of(16 << 10).passes), (256 << 10, 3));
        assert_eq!((of(1 << 10).memory_kib, of(1 << 10).passes), (128 << 10, 6));
        assert_eq!((of(64).memory_kib, of(64).passes), (32 << 10, 24));
    }

    #[test]
    fn a_record_beyond_reason_is_refused() {
        let word = Secret::copy_of(b"w");
        for kdf in [
            Kdf { memory_kib: u32::MAX, ..QUICK },
            Kdf { passes: 0, ..QUICK },
            Kdf { passes: u32::MAX, ..QUICK },
            Kdf { lanes: 0, ..QUICK },
        ] {
            assert_eq!(kdf.derive(&word, &[0; 16]).expect_err("refused").kind, Kind::Damage, "{kdf:?}");
        }
    }
}
