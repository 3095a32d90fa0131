//! The library against published vectors, and against the engine's own cipher.
mod vectors;

use super::*;
use base::CommitNo;
use vectors::{REFUSED, SEALED};
use volume::keys::portable::Portable;

/// Both ways to do the same.
const BOTH: [(&str, &dyn Ciphers); 2] = [("AWS-LC", &AwsLc), ("portable", &Portable)];

fn hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn fixed<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().expect("the length that it should have")
}

fn keyed(ciphers: &dyn Ciphers, key: &[u8; KEY_BYTES]) -> Box<dyn Aead> {
    let mut cipher = ciphers.cipher();
    cipher.set_key(key);
    cipher
}

/// SplitMix64: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn up_to(&mut self, most: usize) -> usize {
        (self.next() % (most as u64 + 1)) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(count).collect()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().expect("as many as were asked for")
    }
}

#[test]
fn published_vectors() {
    for (name, ciphers) in BOTH {
        for vector in SEALED {
            let mut cipher = keyed(ciphers, &fixed(vector.key));
            let (nonce, about) = (Nonce::of_vector(fixed(vector.nonce)), hex(vector.about));
            let mut text = hex(vector.plain);
            let tag = cipher.seal(&nonce, &about, &mut text);
            assert_eq!(
                (&text, tag),
                (&hex(vector.sealed), Tag(fixed(vector.tag))),
                "{name}: {}",
                vector.from
            );
            assert!(cipher.open(&nonce, &about, &mut text, &tag), "{name}: {}", vector.from);
            assert_eq!(text, hex(vector.plain), "{name}: {}", vector.from);
        }
    }
}

#[test]
fn published_vectors_that_do_not_open() {
    for (name, ciphers) in BOTH {
        for vector in REFUSED {
            let mut cipher = keyed(ciphers, &fixed(vector.key));
            let nonce = Nonce::of_vector(fixed(vector.nonce));
            let (about, tag) = (hex(vector.about), Tag(fixed(vector.tag)));
            let opens = cipher.open(&nonce, &about, &mut hex(vector.sealed), &tag);
            assert!(!opens, "{name}: {}", vector.from);
        }
    }
}

/// Each opens what the other has sealed, and refuses it when a bit is changed; text and tag are the same. The ciphers
/// are made once: each case has a key of its own.
#[test]
fn both_ciphers_agree() {
    let mut numbers = Numbers(1);
    let (mut one, mut other) = (AwsLc.cipher(), Portable.cipher());
    for case in 0..4000 {
        // One in four is short, where the ways through the library part; one in four is a block.
        let bytes = match case % 4 {
            0 => numbers.up_to(80),
            1 => 4096,
            _ => numbers.up_to(8192),
        };
        let (key, nonce) = (numbers.array(), Nonce::of_vector(numbers.array()));
        let count = numbers.up_to(64);
        let (about, plain) = (numbers.bytes(count), numbers.bytes(bytes));
        one.set_key(&key);
        other.set_key(&key);
        let (mut text, mut same) = (plain.clone(), plain.clone());
        let tag = one.seal(&nonce, &about, &mut text);
        assert_eq!(other.seal(&nonce, &about, &mut same), tag, "case {case}: {bytes} bytes");
        assert_eq!(text, same, "case {case}: {bytes} bytes");
        assert!(one.open(&nonce, &about, &mut same, &tag), "case {case}: {bytes} bytes");
        assert_eq!(same, plain, "case {case}: {bytes} bytes");

        let mut changed = tag;
        let bit = numbers.up_to(8 * TAG_BYTES - 1);
        changed.0[bit / 8] ^= 1 << (bit % 8);
        assert!(!one.open(&nonce, &about, &mut text.clone(), &changed), "case {case}: bit {bit}");
        assert!(!other.open(&nonce, &about, &mut text.clone(), &changed), "case {case}: bit {bit}");

        assert!(other.open(&nonce, &about, &mut text, &tag), "case {case}: {bytes} bytes");
        assert_eq!(text, plain, "case {case}: {bytes} bytes");
    }
}

#[test]
fn every_changed_bit_is_found() {
    let mut numbers = Numbers(2);
    let mut cipher = keyed(&AwsLc, &numbers.array());
    let nonce: [u8; NONCE_BYTES] = numbers.array();
    let about = numbers.bytes(21);
    let mut sealed = numbers.bytes(300);
    let tag = cipher.seal(&Nonce::of_vector(nonce), &about, &mut sealed);
    // Nonce, about, text and tag in a row: a bit of each of them is changed in turn.
    let whole = [&nonce[..], &about, &sealed, &tag.0].concat();
    let mut opens = |whole: &[u8]| {
        let (nonce, rest) = whole.split_at(NONCE_BYTES);
        let (about, rest) = rest.split_at(about.len());
        let (text, tag) = rest.split_at(sealed.len());
        let (nonce, tag) = (nonce.try_into().expect("twelve"), tag.try_into().expect("twelve"));
        cipher.open(&Nonce::of_vector(nonce), about, &mut text.to_vec(), &Tag(tag))
    };
    assert!(opens(&whole));
    for bit in 0..whole.len() * 8 {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!opens(&changed), "bit {bit} of {}", whole.len() * 8);
    }
}

#[test]
fn what_is_cut_or_moved_between_text_and_about_is_found() {
    let mut cipher = keyed(&AwsLc, &[3; KEY_BYTES]);
    let nonce = Nonce::commit(CommitNo::new(1));
    let mut sealed = *b"what was written";
    let tag = cipher.seal(&nonce, b"about", &mut sealed);
    let mut opens = |about: &[u8], text: &[u8]| cipher.open(&nonce, about, &mut text.to_vec(), &tag);
    assert!(opens(b"about", &sealed));
    assert!(!opens(b"about", &sealed[..15]));
    assert!(!opens(b"about", &[&sealed[..], &[0]].concat()));
    assert!(!opens(b"abou", &sealed));
    assert!(!opens(b"", &[b"about", &sealed[..]].concat()));
    assert!(!opens(b"about", b""));
}

#[test]
fn a_key_set_anew_is_as_in_a_fresh_cipher() {
    let mut numbers = Numbers(3);
    let mut used = AwsLc.cipher();
    let mut former: Option<(Vec<u8>, Tag)> = None;
    for _ in 0..20 {
        let key = numbers.array();
        used.set_key(&key);
        let nonce = Nonce::commit(CommitNo::new(7));
        if let Some((mut text, tag)) = former {
            assert!(!used.open(&nonce, b"", &mut text, &tag), "the former key's text");
        }
        let (mut text, mut same) = (vec![5; 100], vec![5; 100]);
        let tag = used.seal(&nonce, b"", &mut text);
        assert_eq!(keyed(&AwsLc, &key).seal(&nonce, b"", &mut same), tag);
        assert_eq!(text, same);
        former = Some((text, tag));
    }
}

/// The library's clean-up leaves the key schedule where it is.
#[test]
fn nothing_of_a_key_stays_in_its_place() {
    let mut cipher = Cipher { context: sys::EVP_AEAD_CTX::default() };
    let used = |cipher: &Cipher| {
        // SAFETY: any bytes are a value of this field, and all of them have been written.
        let bytes = unsafe { cipher.context.state.opaque };
        bytes.iter().filter(|byte| **byte != 0).count()
    };
    assert_eq!(used(&cipher), 0);
    cipher.set_key(&[0xa5; KEY_BYTES]);
    assert!(used(&cipher) > KEY_BYTES);
    cipher.wipe();
    assert_eq!(used(&cipher), 0);
    assert!(cipher.context.aead.is_null());
}

#[test]
fn a_refusal_leaves_no_error_behind() {
    let mut cipher = keyed(&AwsLc, &[1; KEY_BYTES]);
    assert!(!cipher.open(&Nonce::commit(CommitNo::new(1)), b"", &mut [0; 16], &Tag([0; TAG_BYTES])));
    // SAFETY: takes nothing, and reads the thread's own list.
    assert_eq!(unsafe { sys::ERR_peek_error() }, 0);
}

#[test]
#[should_panic(expected = "a cipher has its key before it is used")]
fn a_cipher_without_a_key_is_not_used() {
    AwsLc.cipher().seal(&Nonce::commit(CommitNo::new(1)), b"", &mut []);
}

/// The kernel and the processor are asked in different ways.
#[test]
fn the_kernel_says_the_same_of_the_processor() {
    let text = std::fs::read_to_string("/proc/cpuinfo").expect("Linux has it");
    let words = text.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let has = |word: &str| words.is_some_and(|words| words.split_whitespace().any(|known| known == word));
    assert_eq!(aes_is_fast(), has("aes") && (has("pclmulqdq") || has("pmull")));
}
