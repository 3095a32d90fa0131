//! Keys of worlds that are encrypted, and who watches over their nonces.
use base::{Aead, Ciphers, KEY_BYTES, Nonce, Tag};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use volume::keys::GroupKeys;
use volume::keys::portable::Portable;

/// Whether groups are encrypted: all stories hold for both.
pub fn encrypts() -> bool {
    std::env::var_os("PLINTH_ENCRYPTED").is_some()
}

/// The keys of the group.
pub fn keys() -> GroupKeys {
    let data = vec![(1, [0xda; KEY_BYTES].into())];
    GroupKeys { data, metadata: [0x3e; KEY_BYTES].into(), ciphers: Box::new(Watched) }
}

thread_local! {
    /// What was sealed under each key and nonce.
    static SEALED: RefCell<HashMap<([u8; KEY_BYTES], Nonce), u64>> = RefCell::default();
}

/// A world begins: its activations are counted from 1 again.
pub fn begin() {
    SEALED.with_borrow_mut(HashMap::clear);
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
