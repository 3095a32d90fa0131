//! Mutations: an input becomes another, which is seldom far from it.
//!
//! Structures on drives are little-endian, messages big-endian, Refs 32 bytes; the mutations know that much and no
//! more. What needs to know a structure (repairing its check) is the target's.
use crate::random::Random;

/// Bytes of an input at most.
pub const MAX_BYTES: usize = 1 << 16;

const EDGES: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    (1 << 40) - 1,
    (1 << 52) - 1,
    1 << 63,
    u64::MAX,
];

/// Changes `input` in one to a few places. `others` are inputs to take parts from, `words` byte strings that mean
/// something to the reader.
pub fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]], random: &mut Random) {
    loop {
        once(input, others, words, random);
        if random.once_in(2) {
            break;
        }
    }
    input.truncate(MAX_BYTES);
}

fn once(input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]], random: &mut Random) {
    if input.is_empty() {
        input.extend_from_slice(&random.next().to_le_bytes());
        return;
    }
    match random.below(12) {
        0 | 1 => {
            let at = random.below(input.len());
            input[at] ^= 1 << random.below(8);
        }
        2 => {
            let at = random.below(input.len());
            input[at] = random.next() as u8;
        }
        3 | 4 => number(input, random, |_, random| *random.pick(&EDGES)),
        5 => number(input, random, |old, random| old.wrapping_add(random.below(33) as u64).wrapping_sub(16)),
        6 => splice(input, others, random),
        7 => {
            let keep = random.below(input.len());
            input.truncate(keep);
        }
        8 => grow(input, random),
        9 => copy_within(input, random),
        10 => swap_refs(input, random),
        _ if words.is_empty() => number(input, random, |_, random| random.next()),
        _ => insert_word(input, words, random),
    }
}

/// Changes a number of 1, 2, 4 or 8 bytes, of either order.
fn number(input: &mut [u8], random: &mut Random, change: impl Fn(u64, &mut Random) -> u64) {
    let width = (1usize << random.below(4)).min(input.len());
    let mut at = random.below(input.len() - width + 1);
    if !random.once_in(4) {
        at = at / width * width;
    }
    let big = random.once_in(3);
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(&input[at..at + width]);
    if big {
        bytes[..width].reverse();
    }
    bytes = change(u64::from_le_bytes(bytes), random).to_le_bytes();
    if big {
        bytes[..width].reverse();
    }
    input[at..at + width].copy_from_slice(&bytes[..width]);
}

/// Puts a part of another input over this one, mostly at the same place.
fn splice(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let others: Vec<&Vec<u8>> = others.iter().filter(|other| !other.is_empty()).collect();
    if others.is_empty() {
        return;
    }
    let other = *random.pick(&others);
    let from = random.below(other.len());
    let count = 1 + random.below(other.len() - from);
    let at = if random.once_in(3) { random.below(input.len()) } else { from.min(input.len()) };
    let over = count.min(input.len() - at);
    input[at..at + over].copy_from_slice(&other[from..from + over]);
    if random.once_in(4) {
        input.extend_from_slice(&other[from + over..from + count]);
    }
}

fn grow(input: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(input.len() + 1);
    let count = 1 + random.below(64);
    let filler = if random.once_in(2) { 0 } else { random.next() as u8 };
    input.splice(at..at, std::iter::repeat_n(filler, count));
}

fn copy_within(input: &mut [u8], random: &mut Random) {
    let count = 1 + random.below(input.len().min(64));
    let from = random.below(input.len() - count + 1);
    let to = random.below(input.len() - count + 1);
    input.copy_within(from..from + count, to);
}

/// Two units of 32 bytes change places.
fn swap_refs(input: &mut [u8], random: &mut Random) {
    let units = input.len() / 32;
    if units < 2 {
        return;
    }
    let (a, b) = (random.below(units), random.below(units));
    for i in 0..32 {
        input.swap(a * 32 + i, b * 32 + i);
    }
}

fn insert_word(input: &mut Vec<u8>, words: &[&[u8]], random: &mut Random) {
    let word = *random.pick(words);
    let at = random.below(input.len() + 1);
    let over = if random.once_in(2) { word.len().min(input.len() - at) } else { 0 };
    input.splice(at..at + over, word.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_repeat_and_stay_within_bounds() {
        let run = |seed| {
            let mut random = Random::new(seed);
            let mut input = b"something to begin with, longer than two units of thirty-two bytes".to_vec();
            let others = vec![vec![7; 100], Vec::new()];
            for _ in 0..2000 {
                mutate(&mut input, &others, &[b"word"], &mut random);
                assert!(input.len() <= MAX_BYTES);
            }
            input
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
