//! Keys of groups that are encrypted, and the checker of their nonces: no pair of key and nonce ever seals two texts,
//! through crashes, recoveries, commits that fail and checkpoints that are given up. It sees every text that the engine
//! seals, and does not check that what is stored was sealed; the walker of closed groups does.
use base::{Aead, Ciphers, KEY_BYTES, Nonce, Tag, Uuid};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use volume::keys::GroupKeys;
use volume::keys::portable::Portable;

type Sealed = HashMap<([u8; KEY_BYTES], Nonce), u64>;

/// Everything that was sealed in one world. A copy of a world has a copy: the two go on as if there were no other.
#[derive(Default)]
pub struct Watch(Arc<Mutex<Sealed>>);

impl Clone for Watch {
    fn clone(&self) -> Self {
        let sealed = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self(Arc::new(Mutex::new(sealed)))
    }
}

impl Watch {
    /// The keys of a group, with data keys of these numbers.
    pub fn keys(&self, group: Uuid, data: RangeInclusive<u16>) -> GroupKeys {
        let key = |what: u16| {
            let mut key = [what as u8; KEY_BYTES];
            key[..16].copy_from_slice(&group.0);
            key.into()
        };
        let ciphers = Box::new(Watched(self.0.clone()));
        let data = data.map(|number| (number, key(number))).collect();
        GroupKeys { data, metadata: key(0), ciphers }
    }
}

struct Watched(Arc<Mutex<Sealed>>);

impl Ciphers for Watched {
    fn cipher(&self) -> Box<dyn Aead> {
        Box::new(Watching { key: [0; KEY_BYTES], cipher: Portable.cipher(), sealed: self.0.clone() })
    }
}

struct Watching {
    key: [u8; KEY_BYTES],
    cipher: Box<dyn Aead>,
    sealed: Arc<Mutex<Sealed>>,
}

impl Aead for Watching {
    fn set_key(&mut self, key: &[u8; KEY_BYTES]) {
        self.key = *key;
        self.cipher.set_key(key);
    }

    fn seal(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8]) -> Tag {
        let mut hasher = DefaultHasher::new();
        (about, &*text).hash(&mut hasher);
        let sum = hasher.finish();
        let mut sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *sealed.entry((self.key, *nonce)).or_insert(sum);
        drop(sealed);
        assert!(before == sum, "D34: one nonce seals two texts: {nonce:?}");
        self.cipher.seal(nonce, about, text)
    }

    fn open(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8], tag: &Tag) -> bool {
        self.cipher.open(nonce, about, text, tag)
    }
}
