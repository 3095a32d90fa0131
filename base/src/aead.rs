//! Authenticated encryption as the engine sees it: a cipher with a key, a nonce for each text, a tag.
//!
//! The engine has one implementation of its own, which runs everywhere; the driver gives a faster one. Both are
//! AES-256-GCM with a tag of 96 bits (NIST SP 800-38D, section 5.2.1.2), so what one has sealed the other opens.
//!
//! The one invariant that everything rests on: under one key no nonce ever seals two different texts. Nonces are
//! therefore never drawn but counted, and a type for each class of text says what is counted; the classes have keys
//! of their own.
use crate::{CkptNo, CommitNo, Lba, Pba, Seq};
use alloc::boxed::Box;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 12;

/// What a text is sealed under, once per key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nonce([u8; NONCE_BYTES]);

impl Nonce {
    /// A block of data: Seq in 52 bits, Lba in 40, four bits 0.
    ///
    /// A Seq is given to one request, and a request has each Lba once. One that could not complete is voided with its
    /// Seqs.
    pub fn data(seq: Seq, lba: Lba) -> Self {
        assert!(seq.get() < Seq::LIMIT && lba.get() < 1 << 40, "out of the nonce's range");
        Self::of(u128::from(seq.get()) << 44 | u128::from(lba.get()) << 4)
    }

    /// A page: checkpoint in 32 bits, Pba in 40, 24 bits 0.
    ///
    /// Each block is written at most once by a checkpoint, and no number of one is taken twice within an activation,
    /// also if it failed.
    pub fn page(ckpt: CkptNo, pba: Pba) -> Self {
        assert!(pba.get() < Pba::LIMIT, "out of the nonce's range");
        Self::of(u128::from(ckpt.get()) << 64 | u128::from(pba.get()) << 24)
    }

    /// A commit: its number in 64 bits, 32 bits 0. A commit is formed once, and retried bit for bit.
    pub fn commit(no: CommitNo) -> Self {
        Self::of(u128::from(no.get()) << 32)
    }

    /// Any bytes, to compare a cipher with published vectors; nothing is sealed for keeps under such a one.
    pub const fn of_vector(bytes: [u8; NONCE_BYTES]) -> Self {
        Self(bytes)
    }

    fn of(low_96_bits: u128) -> Self {
        let bytes = low_96_bits.to_be_bytes();
        Self(bytes[16 - NONCE_BYTES..].try_into().expect("twelve bytes"))
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; NONCE_BYTES] {
        &self.0
    }
}

/// What shows that a text is what was sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag(pub [u8; TAG_BYTES]);

/// A cipher that holds one key at a time. Neither call allocates.
pub trait Aead: Send {
    /// Takes another key; nothing of the former one stays in memory.
    fn set_key(&mut self, key: &[u8; KEY_BYTES]);
    /// Encrypts in place. The tag also covers `about`, which is not encrypted.
    fn seal(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8]) -> Tag;
    /// Decrypts in place, and says whether text and `about` are what was sealed; compared in constant time. If not, the
    /// text is lost.
    fn open(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8], tag: &Tag) -> bool;
}

/// Makes ciphers.
pub trait Ciphers: Send {
    /// One that has no key yet; `set_key` comes first.
    fn cipher(&self) -> Box<dyn Aead>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_laid_out_as_the_format_says() {
        let data = Nonce::data(Seq::new(0x000a_bcde_f012_3456), Lba::new(0x98_7654_3210));
        assert_eq!(data.bytes(), &[0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x69, 0x87, 0x65, 0x43, 0x21, 0x00]);
        let page = Nonce::page(CkptNo::new(0x1234_5678), Pba::new(0xab_cdef_0123));
        assert_eq!(page.bytes(), &[0x12, 0x34, 0x56, 0x78, 0xab, 0xcd, 0xef, 0x01, 0x23, 0, 0, 0]);
        let commit = Nonce::commit(CommitNo::new(0x0123_4567_89ab_cdef));
        assert_eq!(commit.bytes(), &[0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 0, 0, 0]);
    }

    #[test]
    fn neighbours_have_other_nonces() {
        let (seq, lba) = (Seq::new(7), Lba::new(9));
        let nonce = Nonce::data(seq, lba);
        assert_ne!(nonce, Nonce::data(seq.next(), lba));
        assert_ne!(nonce, Nonce::data(seq, Lba::new(10)));
        assert_ne!(Nonce::page(CkptNo::new(1), Pba::new(2)), Nonce::page(CkptNo::new(2), Pba::new(1)));
    }
}
