//! A drive of the tests: sparse, with a volatile cache whose content a power cut can take.
//!
//! Blocks are kept as runs of equal 32-byte units, so that pages with a few Refs and blocks with a stamp cost a
//! few bytes and a test can fill gigabytes.
use base::{BLOCK_BYTES, Block};
use std::collections::HashMap;

const UNIT: usize = 32;

/// A block's content.
#[derive(Clone, PartialEq, Eq)]
enum Stored {
    Runs(Box<[(u8, [u8; UNIT])]>),
    Raw(Box<Block>),
}

impl Stored {
    fn of(block: &[u8]) -> Self {
        let mut runs: Vec<(u8, [u8; UNIT])> = Vec::new();
        for unit in block.chunks_exact(UNIT) {
            match runs.last_mut() {
                Some((count, same)) if same[..] == *unit => *count += 1,
                _ => runs.push((1, unit.try_into().expect("a unit"))),
            }
        }
        if runs.len() > 64 {
            return Self::Raw(Box::new(block.try_into().expect("a block")));
        }
        Self::Runs(runs.into_boxed_slice())
    }

    fn write_to(&self, block: &mut [u8]) {
        match self {
            Self::Raw(bytes) => block.copy_from_slice(&bytes[..]),
            Self::Runs(runs) => {
                let mut at = 0;
                for (count, unit) in runs {
                    for _ in 0..*count {
                        block[at..at + UNIT].copy_from_slice(unit);
                        at += UNIT;
                    }
                }
            }
        }
    }
}

/// The content that a block had before it was written at an instant.
#[derive(Clone)]
struct Undo {
    at: u64,
    before: Option<Stored>,
}

/// The instant of a write that no flush covers any more.
const GIVEN_UP: u64 = u64::MAX;

/// One drive.
#[derive(Clone, Default)]
pub struct Drive {
    blocks: HashMap<u64, Stored>,
    /// What is not flushed: what each block held before each write since.
    cached: HashMap<u64, Vec<Undo>>,
    clock: u64,
}

impl Drive {
    /// An instant, for `flush`.
    pub fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Reads a block; never written ones are zero.
    pub fn read(&self, at: u64, into: &mut [u8]) {
        match self.blocks.get(&at) {
            Some(stored) => stored.write_to(into),
            None => into.fill(0),
        }
    }

    /// Writes a block.
    pub fn write(&mut self, at: u64, from: &[u8], volatile: bool) {
        assert_eq!(from.len(), BLOCK_BYTES);
        let before = self.blocks.insert(at, Stored::of(from));
        if volatile {
            let now = self.now();
            self.cached.entry(at).or_default().push(Undo { at: now, before });
        }
    }

    /// A flush that was issued at `issued` has completed: what was written before is safe.
    pub fn flush(&mut self, issued: u64) {
        self.cached.retain(|_, undo| {
            // What was given up is done with once something that was written over it is safe.
            if let Some(last) = undo.iter().rposition(|u| u.at <= issued) {
                undo.drain(..=last);
            }
            !undo.is_empty()
        });
    }

    /// A flush that was issued at `issued` has failed, and what it should have covered is given up: reads return it, and no
    /// flush makes it safe until it is written again.
    pub fn give_up(&mut self, issued: u64) {
        self.cached
            .values_mut()
            .flatten()
            .filter(|undo| undo.at <= issued)
            .for_each(|undo| undo.at = GIVEN_UP);
    }

    /// The power is cut: of what is not flushed, each block keeps one of its contents since.
    pub fn cut(&mut self, mut random: impl FnMut() -> u64) {
        let mut places: Vec<u64> = self.cached.keys().copied().collect();
        places.sort_unstable();
        for place in places {
            let mut undo = self.cached.remove(&place).expect("listed");
            let choice = random() as usize % (undo.len() + 1);
            if choice == undo.len() {
                continue;
            }
            match undo.swap_remove(choice).before {
                Some(before) => self.blocks.insert(place, before),
                None => self.blocks.remove(&place),
            };
        }
    }

    /// Damages a block.
    pub fn damage(&mut self, at: u64) {
        let mut block = [0; BLOCK_BYTES];
        self.read(at, &mut block);
        for byte in &mut block[1000..1100] {
            *byte ^= 0x5a;
        }
        self.blocks.insert(at, Stored::of(&block));
    }

    /// All blocks that were ever written.
    pub fn written(&self) -> impl Iterator<Item = u64> {
        self.blocks.keys().copied()
    }
}
