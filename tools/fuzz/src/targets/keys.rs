//! Keys of groups where they lie: secrets, key files and what they wrap, envelopes whose check was made right, secrets in
//! JSON, and keys that a passphrase seals.
//!
//! The first byte of an input says which reader takes the rest. Promises beside those of all targets: nothing opens but what
//! was sealed, whatever is damaged or made up; no key comes out of a file but the one in it.
use super::Target;
use crate::signature::Signature;
use base::{Check, Uuid};
use node::keys::{Envelope, GroupSecret, MAX_DATA_KEYS, ProviderKind, Secret, SecretText, open_offline};
use node::{text, trial};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Keys.
pub const KEYS: Target = Target {
    name: "keys",
    about: "secrets of groups, key files, envelopes, keys that a passphrase seals",
    seeds,
    words: &[b"PLNTHENV", b"\"kdf\":", b"\"before\":", b"\"versions\":[", b"\\ud83d\\ude00", b"\x01\x01"],
    run,
    cost: 2,
};

/// The readers, by the first byte.
const READERS: [fn(&[u8], &mut Signature); 5] = [group_secret, secret_text, key_file, envelope, passphrase];

const GROUP: Uuid = Uuid([3; 16]);
/// What is in the key file that opens `WRAPPED`.
const KEY: [u8; 32] = [7; 32];
/// The secret `form` of `GROUP`, wrapped by `KEY`. Wrapping draws random numbers: made once.
const WRAPPED: &str = concat!(
    "6b5962c3a881b787041ce5efbd80a91f59600967b1d0414aeec5de894b4d95b65ac442e1c451dcbdad7f49329fd0fb188cdb8c47c2129aaf",
    "494fe57b1b5add14b82c4ba03b6e35f2999827eebad06280f4d39fae5c79f2d772e25e282386dab9"
);
/// Version 2 of key `k`, sealed by `PASSPHRASE`, with the version before. Made once too.
const SEALED: &str = "b8f39a4d81e90af88396fd9fadc230db0b68f193f9309124c78721357a2abffe15d6e20f94dc5a6fdd7521e8088ff93bb18396fc05980c933fb4174c";
const SALT: &str = "8d569ac62df52ede9b61d190e35f913b";
const BEFORE: &str = "cc6eefb50d5a27907c01f82a234f3f7dc9f21c71789e8fa605c995aaa8308684a6d9dca4396339a86abc39e705d0d245855cc4d5a7744e6713a45349";
const PASSPHRASE: &[u8] = b"new";
/// Work that a record may ask for to be tried here.
const MAX_KIB: u32 = 64;
const MAX_PASSES: u32 = 4;

/// Binary form of the secret of a group with as many data keys.
fn form(count: u8) -> Vec<u8> {
    let mut bytes = vec![1, count];
    bytes.extend([0xaa; 32]);
    for number in 1..=count {
        bytes.extend([number, 0]);
        bytes.extend([0xbb; 32]);
    }
    bytes
}

fn wrapped() -> Vec<u8> {
    text::from_hex(WRAPPED).expect("digits")
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |reader: u8, rest: &[u8]| [&[reader], rest].concat();
    let file = |key: &[u8], wrapped: &[u8]| of(2, &[&[key.len() as u8], key, wrapped].concat());
    let envelope = Envelope { provider: ProviderKind::File, key: "k".into(), version: 1, wrapped: wrapped() };
    let sealed = |kdf: &str, last: u32, before: &str| {
        format!(
            r#"{{"name":"k","provider":"passphrase","created_at":"t","life":"ready","last_version":2,"versions":[{{"version":1,
            "created_at":"t"}},{{"version":{last},"created_at":"t","sealed":{{"kdf":{kdf},"salt":"{SALT}",
            "sealed":"{SEALED}","before":{before}}}}}]}}"#
        )
    };
    let quick = r#"{"memory_kib":8,"passes":1,"lanes":1}"#;
    let before = format!("\"{BEFORE}\"");
    vec![
        of(0, &form(1)),
        of(0, &form(MAX_DATA_KEYS as u8)),
        of(1, br#""correct \u0068orse \"\ud83d\ude00 \n""#),
        file(&KEY, &wrapped()),
        file(&[0; 32], &wrapped()),
        file(&[7; 33], &wrapped()),
        of(3, &envelope.encode()),
        of(4, sealed(quick, 2, &before).as_bytes()),
        of(4, sealed(r#"{"memory_kib":4294967295,"passes":1,"lanes":0}"#, 2, "null").as_bytes()),
        of(4, sealed(r#"{"memory_kib":64,"passes":3,"lanes":4}"#, 3, "\"0\"").as_bytes()),
    ]
}

fn run(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let (reader, rest) = input.split_first().unwrap_or((&0, &[]));
    let reader = usize::from(*reader) % READERS.len();
    signature.note(reader as u64);
    READERS[reader](rest, &mut signature);
    signature
}

/// A secret as bytes; the mutations make longer ones than there can be.
fn secret(bytes: &[u8]) -> Secret {
    Secret::copy_of(&bytes[..bytes.len().min(ublk_target::secrets::MAX_SECRET_BYTES)])
}

fn group_secret(input: &[u8], signature: &mut Signature) {
    let taken = match GroupSecret::decode(secret(input)) {
        Ok(taken) => taken,
        Err(bad) => return signature.shape(&bad),
    };
    assert!(taken.secret().same(input), "a secret is not what its bytes are");
    let keys = taken.keys();
    let mut again = vec![1, keys.data.len() as u8];
    again.extend_from_slice(&keys.metadata[..]);
    for (number, key) in &keys.data {
        again.extend(number.to_le_bytes());
        again.extend_from_slice(&key[..]);
    }
    assert_eq!(again, input, "the keys are others than the bytes say");
    assert!((1..=MAX_DATA_KEYS).contains(&taken.count()) && keys.newest() == Some(taken.newest()));
    let newest = taken.only(|number| number == taken.newest());
    assert_eq!((newest.count(), newest.newest()), (1, taken.newest()));
    let more = taken.with_new_key();
    if let Ok(more) = &more {
        let back = GroupSecret::decode(more.secret().duplicate()).expect("written right");
        assert_eq!((back.count(), back.newest()), (taken.count() + 1, taken.newest() + 1));
    }
    signature.note(taken.count() as u64);
    signature.note(u64::from(more.is_ok()));
}

fn secret_text(input: &[u8], signature: &mut Signature) {
    match serde_json::from_slice::<SecretText>(input) {
        Ok(text) => {
            assert_eq!(format!("{text:?}"), "SecretText(Secret(..))", "a secret is shown");
            let again = serde_json::to_vec(&text).expect("what was read can be written");
            let back: SecretText = serde_json::from_slice(&again).expect("what was written can be read");
            assert!(back.0.same(text.0.expose()), "written again it is another");
            assert!(std::str::from_utf8(text.0.expose()).is_ok(), "a text is none");
            signature.note(text.0.len().min(2) as u64);
        }
        Err(error) => signature.shape(&error.classify()),
    }
}

/// A length, so many bytes of a key file, and what it is to open.
fn key_file(input: &[u8], signature: &mut Signature) {
    let (len, rest) = input.split_first().unwrap_or((&0, &[]));
    let (key, wrapped) = rest.split_at(usize::from(*len).min(rest.len()));
    let envelope =
        Envelope { provider: ProviderKind::File, key: "k".into(), version: 1, wrapped: wrapped.to_vec() };
    look(key, &envelope, signature);
}

/// An envelope that is right but for its check, and the file of its key.
fn envelope(input: &[u8], signature: &mut Signature) {
    let mut bytes = input.to_vec();
    if let Some(len) = input.get(16..18) {
        let end = 160 + usize::from(u16::from_le_bytes([len[0], len[1]]));
        if let Some(place) = bytes.get(..end).map(Check::of).zip(bytes.get_mut(end..end + 16)) {
            place.1.copy_from_slice(&place.0.0);
        }
    }
    let envelope = match Envelope::decode(&bytes) {
        Ok(envelope) => envelope,
        Err(bad) => return signature.shape(&bad),
    };
    let again = envelope.encode();
    assert_eq!(Envelope::decode(&again).as_ref(), Ok(&envelope), "written again it is another");
    assert!(bytes.starts_with(&again) && bytes[again.len()..].iter().all(|byte| *byte == 0));
    signature.shape(&envelope.provider);
    // The kernel's keyring belongs to whoever runs this.
    if envelope.provider != ProviderKind::Keyring {
        look(&KEY, &envelope, signature);
    }
}

/// Opens an envelope by a file with this key: only the one that was sealed opens.
fn look(key: &[u8], envelope: &Envelope, signature: &mut Signature) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("plinth-fuzz-keys-{}-{number}", std::process::id()));
    put(&folder, key).expect("a key file");
    let opened = open_offline(&folder, envelope, &GROUP);
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    let right = key == KEY && envelope.wrapped == wrapped();
    let named =
        envelope.provider == ProviderKind::File && (envelope.key.as_str(), envelope.version) == ("k", 1);
    match opened {
        Ok(secret) => {
            assert!(right && named, "it opens, and nobody sealed it");
            assert!(secret.secret().same(&form(1)), "it opens to something else");
            signature.note(1);
        }
        Err(error) => {
            assert!(!right || !named, "it does not open: {error}");
            signature.shape(&error.kind);
        }
    }
}

fn put(folder: &Path, key: &[u8]) -> std::io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join("k.1"))?.write_all(key)
}

/// The record of a key that a passphrase seals.
fn passphrase(input: &[u8], signature: &mut Signature) {
    let Ok(record) = serde_json::from_slice::<node::catalogue::KeyRecord>(input) else { return };
    let sealed = record.newest().and_then(|newest| newest.sealed.clone());
    let beyond_reason = |work: u32, tried: u32| (tried + 1..1 << 22).contains(&work);
    if let Some(sealed) = &sealed
        && (beyond_reason(sealed.kdf.memory_kib, MAX_KIB) || beyond_reason(sealed.kdf.passes, MAX_PASSES))
    {
        // Believed, as it should be; it would take long.
        return signature.note(1);
    }
    assert!(!matches!(trial::unlocks(&record, &secret(b"old")), Ok(true)), "a wrong passphrase unlocks");
    let outcome = trial::unlocks(&record, &secret(PASSPHRASE));
    if matches!(outcome, Ok(true)) {
        let sealed = sealed.expect("it opens").sealed;
        assert_eq!(text::from_hex(&sealed), text::from_hex(SEALED), "it unlocks, and nobody sealed it");
    }
    signature.shape(&outcome.map_err(|error| error.kind));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that nothing opens tries nothing but the refusal.
    #[test]
    fn what_was_made_once_still_opens() {
        let mut signature = Signature::default();
        look(&KEY, &Envelope::decode(&seeds()[6][1..]).expect("one"), &mut signature);
        let record = serde_json::from_slice(&seeds()[7][1..]).expect("a record");
        assert!(trial::unlocks(&record, &secret(PASSPHRASE)).expect("it is whole"));
    }
}
