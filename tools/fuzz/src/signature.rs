//! Signatures: which way an input took, told from what came out of it.
//!
//! Numbers and texts say little about the way and would make every input look new, so a signature is taken over the
//! debug text without its digits and without what stands in quotes; what a number decides, a target adds by hand
//! (`Signature::note`).
use std::fmt::{Debug, Write};

/// Gathers what an input came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature(u64);

impl Default for Signature {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Signature {
    /// Adds a number that tells ways apart; mind that it has few values.
    pub fn note(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.byte(byte);
        }
    }

    /// Adds a value, its numbers and texts left out.
    pub fn shape(&mut self, value: &impl Debug) {
        let mut words = Words { signature: self, quoted: false, escaped: false };
        write!(words, "{value:?}").expect("hashing does not fail");
        self.byte(b'\n');
    }

    /// The signature.
    pub const fn get(self) -> u64 {
        self.0
    }

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

/// Passes on what counts of a debug text.
struct Words<'a> {
    signature: &'a mut Signature,
    quoted: bool,
    escaped: bool,
}

impl Write for Words<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                _ if self.quoted || byte.is_ascii_digit() => {}
                _ => self.signature.byte(byte),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &impl Debug) -> u64 {
        let mut signature = Signature::default();
        signature.shape(value);
        signature.get()
    }

    #[test]
    fn numbers_do_not_count_and_words_do() {
        assert_eq!(of(&Some(17)), of(&Some(4)));
        assert_ne!(of(&Some(17)), of(&None::<u8>));
        assert_eq!(of(&("a\"b", true)), of(&("c", true)));
        assert_ne!(of(&("a", true)), of(&("a", false)));
    }
}
