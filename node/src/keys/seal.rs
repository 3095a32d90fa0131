//! AES-256-GCM under a random nonce, for secrets.
//!
//! A sealed secret is nonce (12 bytes), ciphertext, tag (16 bytes). The additional data says what it is for (*purpose*) and
//! whose it is (*object*), so that one cannot stand for another. Nonces are random: a key seals a secret for each group
//! and rotation, which is far below the 2^32 at which two nonces might meet.
use crate::error::{Error, Kind, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ublk_target::Secret;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = NONCE_LEN + 16;

/// Random bytes as a secret.
///
/// # Errors
/// The random source fails.
pub fn random_secret(len: usize) -> Result<Secret> {
    let mut secret = Secret::zeroed(len);
    random(secret.expose_mut())?;
    Ok(secret)
}

/// Random bytes that are no secret.
///
/// # Errors
/// The random source fails.
pub fn random(into: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(into).map_err(|_| Error::general(Kind::Failed, "the system gives no random bytes"))
}

fn aad(purpose: &str, object: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([purpose.as_bytes(), &[0], object].concat())
}

/// A key for the library; `None` if it has another length.
fn cipher(key: &Secret) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key.expose()).ok().map(LessSafeKey::new)
}

/// Seals a secret.
///
/// # Errors
/// The random source fails; the key has another length than `KEY_BYTES`.
pub fn seal(key: &Secret, purpose: &str, object: &[u8], secret: &Secret) -> Result<Vec<u8>> {
    let failed = || Error::general(Kind::Failed, "a secret could not be sealed");
    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce)?;
    // Encrypted where it lies locked; what is copied out is sealed.
    let mut text = secret.duplicate();
    let cipher = cipher(key).ok_or_else(failed)?;
    let sealing = cipher.seal_in_place_separate_tag(
        Nonce::assume_unique_for_key(nonce),
        aad(purpose, object),
        text.expose_mut(),
    );
    let tag = sealing.map_err(|_| failed())?;
    Ok([&nonce[..], text.expose(), tag.as_ref()].concat())
}

/// Opens what `seal` made. `None`: another key, purpose or object, or not one byte as it was.
pub fn open(key: &Secret, purpose: &str, object: &[u8], sealed: &[u8]) -> Option<Secret> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
    if sealed.len() < OVERHEAD || rest.len() > ublk_target::secrets::MAX_SECRET_BYTES {
        return None;
    }
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = Secret::copy_of(rest);
    let len = cipher(key)?.open_in_place(nonce, aad(purpose, object), text.expose_mut()).ok()?.len();
    text.truncate(len);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_purpose_and_object_open_it() {
        let key = random_secret(KEY_BYTES).expect("random");
        let other = random_secret(KEY_BYTES).expect("random");
        let secret = Secret::copy_of(b"canary");
        let sealed = seal(&key, "p", b"o", &secret).expect("seals");
        assert_eq!(sealed.len(), 6 + OVERHEAD);
        assert!(open(&key, "p", b"o", &sealed).expect("opens").same(b"canary"));
        assert!(open(&other, "p", b"o", &sealed).is_none());
        assert!(open(&key, "q", b"o", &sealed).is_none());
        assert!(open(&key, "p", b"p", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&key, "p", b"o", &changed).is_none(), "byte {at}");
            assert!(open(&key, "p", b"o", &sealed[..at]).is_none(), "cut at {at}");
        }
        assert_ne!(seal(&key, "p", b"o", &secret).expect("seals"), sealed, "a nonce is used once");
        assert!(seal(&Secret::zeroed(5), "p", b"o", &secret).is_err());
    }
}
