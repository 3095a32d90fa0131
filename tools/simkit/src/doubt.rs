//! What a drive ought to hold, where it may hold something else: the copies in doubt.
//!
//! A drive that lies, rots or garbles a rewrite holds, at some blocks, what nobody who used it rightly would expect.
//! For each such block the content that it ought to have is kept here, from the fault until something else was
//! written there. A block is in doubt as long as what a read returns differs from that, so a repair ends the doubt and a
//! crash that undoes the repair brings it back. A checker that compares copies leaves out these blocks, and no others.
//!
//! Not here: content that was never promised. A write that failed with an error, or that a crash tore before a flush
//! covered it, is the engine's to deal with. One that rewrote a block with what the block held already tears nothing.
use crate::drive::SimDrive;
use base::{BLOCK_BYTES, Block, DriveBlock};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The blocks of a drive that were ever in doubt.
#[derive(Clone, Default)]
pub(crate) struct Doubts {
    expected: BTreeMap<u64, Rc<Block>>,
    /// What a read said that returned something else than the block holds. It may be what the block should hold, or
    /// nothing that anybody ever meant to be there; so it is kept beside what is expected for better reasons.
    said: BTreeMap<u64, Rc<Block>>,
    /// Entries kept by the last `settle`, and faults since.
    risks: u64,
}

impl Doubts {
    /// Damage to a block that holds `content` and should go on to; if it was in doubt already, it should hold what
    /// it should before.
    pub(crate) fn damaged(&mut self, block: u64, content: Rc<Block>) {
        self.risks += 1;
        self.expected.entry(block).or_insert(content);
    }

    /// This was to be written, the drive said so, and it is not there.
    pub(crate) fn owed(&mut self, block: u64, content: Rc<Block>) {
        self.risks += 1;
        self.expected.insert(block, content);
    }

    /// A read returned this instead of what the block holds: whoever asked takes the drive at its word.
    pub(crate) fn told(&mut self, block: u64, content: Rc<Block>) {
        self.risks += 1;
        self.said.insert(block, content);
    }

    /// Doubts of an earlier state that the drive is set back to.
    pub(crate) fn add(&mut self, earlier: &Self) {
        for (block, content) in &earlier.expected {
            self.risks += 1;
            self.expected.entry(*block).or_insert_with(|| content.clone());
        }
        for (block, content) in &earlier.said {
            self.risks += 1;
            self.said.entry(*block).or_insert_with(|| content.clone());
        }
    }

    /// A block was written: with other content than it should have had, it has begun a new life.
    pub(crate) fn written(&mut self, block: u64, content: &Rc<Block>) {
        for known in [&mut self.expected, &mut self.said] {
            if known.get(&block).is_some_and(|expected| expected != content) {
                known.remove(&block);
            }
        }
    }

    fn blocks(&self) -> BTreeSet<u64> {
        self.expected.keys().chain(self.said.keys()).copied().collect()
    }
}

/// A block that was never written holds zeroes.
pub(crate) fn or_zeroes(content: Option<&Rc<Block>>) -> Rc<Block> {
    content.cloned().unwrap_or_else(|| Rc::new([0; BLOCK_BYTES]))
}

impl SimDrive {
    /// Whether this block holds something else than it ought to, because the drive misbehaved.
    pub fn in_doubt(&self, at: DriveBlock) -> bool {
        let Doubts { expected, said, .. } = &self.doubts;
        let content = || or_zeroes(self.visible(at.get()));
        [expected, said].iter().filter_map(|known| known.get(&at.get())).any(|known| *known != content())
    }

    /// Whether any block may be in doubt.
    pub fn has_doubts(&self) -> bool {
        !self.doubts.expected.is_empty() || !self.doubts.said.is_empty()
    }

    /// What the blocks should hold that do not, because the drive misbehaved.
    pub fn missing(&self) -> impl Iterator<Item = &Block> {
        let differs = |(at, content): &(&u64, &Rc<Block>)| **content != or_zeroes(self.visible(**at));
        self.doubts.expected.iter().filter(differs).map(|(_, content)| &**content)
    }

    /// Forgets the blocks that hold what they should. Of use where nothing is in flight or volatile: else a crash
    /// can bring the damage back.
    pub fn settle_doubts(&mut self) {
        for block in self.doubts.blocks() {
            if !self.in_doubt(DriveBlock::new(block)) {
                self.doubts.expected.remove(&block);
                self.doubts.said.remove(&block);
            }
        }
        self.doubts.risks = self.doubts.blocks().len() as u64;
    }

    /// How many blocks are in doubt, if all are that can have been since the last `settle_doubts`.
    pub fn all_in_doubt(&self) -> Option<u64> {
        let blocks = self.doubts.blocks().into_iter().map(DriveBlock::new);
        let doubtful = blocks.filter(|at| self.in_doubt(*at)).count() as u64;
        (doubtful == self.doubts.risks && doubtful > 0).then_some(doubtful)
    }
}
