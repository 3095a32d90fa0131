//! AES-256-GCM on every processor, in constant time: what the engine uses where the driver gives nothing faster.
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{AesGcm, aes::Aes256};
use alloc::boxed::Box;
use base::{Aead, Ciphers, KEY_BYTES, Nonce, Tag};

type Gcm = AesGcm<Aes256, U12, U12>;

/// Makes the engine's own ciphers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

impl Ciphers for Portable {
    fn cipher(&self) -> Box<dyn Aead> {
        Box::new(Cipher(None))
    }
}

/// The key schedule is wiped when it is dropped.
struct Cipher(Option<Gcm>);

impl Cipher {
    fn keyed(&self) -> &Gcm {
        self.0.as_ref().expect("a cipher has its key before it is used")
    }
}

impl Aead for Cipher {
    fn set_key(&mut self, key: &[u8; KEY_BYTES]) {
        self.0 = Some(Gcm::new(key.into()));
    }

    fn seal(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8]) -> Tag {
        let sealed = self.keyed().encrypt_inout_detached(nonce.bytes().into(), about, InOutBuf::from(text));
        Tag(sealed.expect("shorter than 64 GiB").into())
    }

    fn open(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8], tag: &Tag) -> bool {
        let text = InOutBuf::from(text);
        self.keyed().decrypt_inout_detached(nonce.bytes().into(), about, text, (&tag.0).into()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        core::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hexadecimal"))
    }

    /// Test case 16 of "The Galois/Counter Mode of Operation" (McGrew, Viega), with the tag cut to 96 bits.
    #[test]
    fn a_published_vector() {
        let mut cipher = Portable.cipher();
        cipher.set_key(&bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"));
        let about: [u8; 20] = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain: [u8; 60] = bytes(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ));
        let sealed: [u8; 60] = bytes(concat!(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa",
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        ));
        let nonce = Nonce::of_vector(bytes("cafebabefacedbaddecaf888"));
        let mut text = plain;
        let tag = cipher.seal(&nonce, &about, &mut text);
        assert_eq!((text, tag), (sealed, Tag(bytes("76fc6ece0f4e1768cddf8853"))));
        assert!(cipher.open(&nonce, &about, &mut text, &tag));
        assert_eq!(text, plain);
    }

    #[test]
    fn whatever_is_changed_is_found() {
        let mut cipher = Portable.cipher();
        cipher.set_key(&[3; KEY_BYTES]);
        let (nonce, other) = (Nonce::commit(base::CommitNo::new(1)), Nonce::commit(base::CommitNo::new(2)));
        let mut sealed = *b"what was written";
        let tag = cipher.seal(&nonce, b"about", &mut sealed);
        let mut opens = |nonce: &Nonce, about: &[u8], text: [u8; 16], tag: Tag| {
            let mut text = text;
            cipher.open(nonce, about, &mut text, &tag)
        };
        assert!(opens(&nonce, b"about", sealed, tag));
        assert!(!opens(&other, b"about", sealed, tag));
        assert!(!opens(&nonce, b"abouT", sealed, tag));
        for bit in 0..16 * 8 {
            let mut text = sealed;
            text[bit / 8] ^= 1 << (bit % 8);
            assert!(!opens(&nonce, b"about", text, tag), "bit {bit} of the text");
        }
        for bit in 0..12 * 8 {
            let mut tag = tag;
            tag.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!opens(&nonce, b"about", sealed, tag), "bit {bit} of the tag");
        }
    }
}
