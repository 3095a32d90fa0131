//! Keys of worlds that are encrypted, and who watches over their nonces.
use base::{Aead, Ciphers, KEY_BYTES, Nonce, Tag};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use volume::keys::GroupKeys;
use volume::keys::portable::Portable;

/// The keys of the group of a world, with data keys of these numbers.
pub fn keys(world: u32, data: RangeInclusive<u16>) -> GroupKeys {
    let key = |what: u8| {
        let mut key = [what; KEY_BYTES];
        key[..4].copy_from_slice(&world.to_le_bytes());
        key.into()
    };
    let data = data.map(|number| (number, key(0xd9 + number as u8))).collect();
    GroupKeys { data, metadata: key(0x3e), ciphers: Box::new(Watched) }
}

thread_local! {
    static WORLDS: Cell<u32> = const { Cell::new(0) };
    /// What was sealed under each key and nonce.
    static SEALED: RefCell<HashMap<([u8; KEY_BYTES], Nonce), u64>> = RefCell::default();
}

/// The number of a world that begins: each counts its activations from 1, under keys of its own.
pub fn begin() -> u32 {
    WORLDS.replace(WORLDS.get() + 1)
}

/// Every pair of key and nonce seals one text, whatever happens.
fn watch(key: &[u8; KEY_BYTES], nonce: &Nonce, about: &[u8], text: &[u8]) {
    let mut hasher = DefaultHasher::new();
    (about, text).hash(&mut hasher);
    let sum = hasher.finish();
    let before = SEALED.with_borrow_mut(|sealed| *sealed.entry((*key, *nonce)).or_insert(sum));
    assert!(before == sum, "one nonce seals two texts: {nonce:?}");
}

struct Watched;

impl Ciphers for Watched {
    fn cipher(&self) -> Box<dyn Aead> {
        Box::new(Watching([0; KEY_BYTES], Portable.cipher()))
    }
}

struct Watching([u8; KEY_BYTES], Box<dyn Aead>);

impl Aead for Watching {
    fn set_key(&mut self, key: &[u8; KEY_BYTES]) {
        self.0 = *key;
        self.1.set_key(key);
    }
    fn seal(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8]) -> Tag {
        watch(&self.0, nonce, about, text);
        self.1.seal(nonce, about, text)
    }
    fn open(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8], tag: &Tag) -> bool {
        self.1.open(nonce, about, text, tag)
    }
}
