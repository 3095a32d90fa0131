//! AES-256-GCM with the processor's own instructions: AWS-LC's EVP_AEAD (`openssl/aead.h`), with the engine's tags of
//! 96 bits.
//!
//! What it seals the engine's own cipher opens, and the other way round: `tests.rs` compares the two.
//!
//! `unsafe` is here because the library is C. What its calls want of their caller is kept in one place, `Cipher`: a
//! context is never used before it has a key, never copied, and wiped before its memory is used for anything else. The
//! library's own clean-up of AES-GCM does nothing, so the wiping is ours.
//!
//! What this does not do: the library leaves some of what it derives from a key on the stack, as every cipher does.
use aws_lc_sys as sys;
use base::{Aead, Ciphers, KEY_BYTES, NONCE_BYTES, Nonce, TAG_BYTES, Tag};
use std::ptr;

/// Whether this processor has instructions for AES and for GCM's multiplication.
///
/// Without them encryption is as safe, for the library computes in constant time also then, but many times slower: whoever
/// serves an encrypted volume says so. False also on processors of which it is not known.
pub fn aes_is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// Makes ciphers of AWS-LC.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLc;

impl Ciphers for AwsLc {
    fn cipher(&self) -> Box<dyn Aead> {
        sys::init();
        forget_errors();
        Box::new(Cipher { context: sys::EVP_AEAD_CTX::default() })
    }
}

/// Empties the library's list of errors of this thread.
///
/// The library keeps the list in memory that it allocates once per thread, at the first error or here: ciphers are made
/// on the thread that uses them, so a text that does not open finds the list already there.
fn forget_errors() {
    // SAFETY: takes nothing, and touches nothing but the thread's own list.
    unsafe { sys::ERR_clear_error() };
}

/// A context of the library: all zero until it has a key, and again when it has none.
///
/// It is only ever handed out in a box, so it stays where it is from its first key on: no move leaves a copy behind.
struct Cipher {
    context: sys::EVP_AEAD_CTX,
}

// SAFETY: the key schedule lies in the context itself, which belongs to this value alone; the one pointer in it leads to
// the library's table of functions, which is there as long as the process and never changes. Nothing is tied to a thread.
unsafe impl Send for Cipher {}

impl Cipher {
    /// The context, which has a key: the library follows its pointer without looking.
    fn keyed(&self) -> *const sys::EVP_AEAD_CTX {
        assert!(!self.context.aead.is_null(), "a cipher has its key before it is used");
        &raw const self.context
    }

    /// Lets go of the key. Nothing of it stays.
    fn wipe(&mut self) {
        let context = &raw mut self.context;
        // SAFETY: the context is ours alone, and either all zero or what a successful `EVP_AEAD_CTX_init` made, which is
        // what the clean-up wants. Then its bytes are set to zero, no more of them than it has: that is the state of one
        // that has no key (`EVP_AEAD_CTX_zero`), and a value of the type, whose fields are numbers and a pointer.
        unsafe {
            sys::EVP_AEAD_CTX_cleanup(context);
            sys::OPENSSL_cleanse(context.cast(), size_of::<sys::EVP_AEAD_CTX>());
        }
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Aead for Cipher {
    fn set_key(&mut self, key: &[u8; KEY_BYTES]) {
        self.wipe();
        // SAFETY: the context is ours alone and all zero, and the key is memory of the length that is said, which the
        // library copies from. There is no engine. The table of AES-256-GCM is static.
        let done = unsafe {
            let aead = sys::EVP_aead_aes_256_gcm();
            let context = &raw mut self.context;
            sys::EVP_AEAD_CTX_init(context, aead, key.as_ptr(), KEY_BYTES, TAG_BYTES, ptr::null_mut())
        };
        assert_eq!(done, 1, "AES-256-GCM takes 32 bytes of key and tags of 12 bytes");
    }

    fn seal(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8]) -> Tag {
        let context = self.keyed();
        let mut tag = Tag([0; TAG_BYTES]);
        let mut tag_bytes = 0;
        let at = text.as_mut_ptr();
        // SAFETY: the context has a key. Text is read and written from its first to its last byte through the one pointer,
        // which the library allows where both begin at the same place; nonce and `about` are only read, and the tag has
        // the room that is said. All have the lengths that go with them, live until the call returns, and overlap
        // nothing, for the tag and the text are borrowed exclusively. Nothing comes after the text (`extra_in`).
        let done = unsafe {
            sys::EVP_AEAD_CTX_seal_scatter(
                context,
                at,
                tag.0.as_mut_ptr(),
                &raw mut tag_bytes,
                TAG_BYTES,
                nonce.bytes().as_ptr(),
                NONCE_BYTES,
                at.cast_const(),
                text.len(),
                ptr::null(),
                0,
                about.as_ptr(),
                about.len(),
            )
        };
        assert_eq!((done, tag_bytes), (1, TAG_BYTES), "shorter than 64 GiB");
        tag
    }

    fn open(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8], tag: &Tag) -> bool {
        let context = self.keyed();
        let at = text.as_mut_ptr();
        // SAFETY: as for `seal`; the tag is only read, and has the length that is said, which is that of the context's
        // tags. The library compares it in constant time.
        let done = unsafe {
            sys::EVP_AEAD_CTX_open_gather(
                context,
                at,
                nonce.bytes().as_ptr(),
                NONCE_BYTES,
                at.cast_const(),
                text.len(),
                tag.0.as_ptr(),
                TAG_BYTES,
                about.as_ptr(),
                about.len(),
            )
        };
        if done != 1 {
            // So that nobody who asks the library on this thread later takes the refusal for his own error.
            forget_errors();
        }
        done == 1
    }
}

#[cfg(test)]
mod tests;
