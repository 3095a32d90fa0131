//! The targets: one for each reader of foreign bytes.
//!
//! Each says which promises it holds the reader to. All of them: never panic, whatever the bytes; and what was
//! accepted can be written again and read back the same.
use crate::signature::Signature;

mod drives;
mod http;
mod image;
mod kernel;
mod keys;
mod log;
mod nbd;
mod pages;
mod smart;
mod text;
mod transit;

/// A reader under test.
pub struct Target {
    /// Its name on the command line, and of its corpus.
    pub name: &'static str,
    /// What it reads.
    pub about: &'static str,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Byte strings that mean something to it.
    pub words: &'static [&'static [u8]],
    /// Tries an input; panics when a promise is broken.
    pub run: fn(&[u8]) -> Signature,
    /// How many times slower than others it is: the replay tries so many times fewer inputs.
    pub cost: u64,
}

/// All targets.
pub const ALL: &[&Target] = &[
    &drives::LABEL,
    &drives::HEADER,
    &drives::SUPERBLOCK,
    &drives::ROWS,
    &pages::MAP,
    &pages::DIRECTORY,
    &pages::BITMAP,
    &log::HISTORY,
    &log::COMMIT,
    &log::RING,
    &text::LINES,
    &text::CONTROL,
    &text::RECORDS,
    &nbd::NBD,
    &http::HTTP,
    &smart::SMART,
    &kernel::KERNEL,
    &keys::KEYS,
    &transit::TRANSIT,
    &image::IMAGE,
];

/// An input as a block: cut, or filled up with zeroes.
fn block_of(input: &[u8]) -> base::Block {
    let mut block = [0; base::BLOCK_BYTES];
    let count = input.len().min(block.len());
    block[..count].copy_from_slice(&input[..count]);
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::panics::caught;

    #[test]
    fn every_target_accepts_its_seeds_and_empty_input() {
        for target in ALL {
            for input in (target.seeds)().iter().chain([&Vec::new(), &vec![0xff; 5000]]) {
                caught(|| (target.run)(input)).unwrap_or_else(|place| panic!("{}: {place}", target.name));
            }
        }
    }
}
