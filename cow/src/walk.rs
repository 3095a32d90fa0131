//! A walk over the pages of a tree that are newer than a checkpoint, while the tree changes.
//!
//! The tree may be another one at every step: pages are never changed, but each checkpoint makes a new root. The
//! walk keeps only how far it has come, the *cursor*, in what the leaves cover. Invariant, for a tree whose newer
//! pages all reach the destination by themselves: when the cursor has passed a page's whole range, then that page
//! was met at its first position, or was made after the walk began, or is not newer than `since`. (A page that is
//! older than the walk was in every tree since, so it lay on the path when the cursor stood at its first position.)
//! The same holds for what the leaves refer to.
//!
//! A page made by checkpoint `since` or before is skipped with everything below it: whatever changes below a page
//! makes a new page, with a newer number. The newest Seq below would not do: a page can be made again without a
//! newer Seq below it.
use crate::cache::PageCache;
use crate::page;
use crate::refs::Ref;
use crate::tree::{self, page_covers};
use base::{Blocks, BufId, CkptNo, Lba, Memory};

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkStep {
    /// Have this page read into the cache, then call again.
    Need(Ref),
    /// A page that is met for the first time, and its content; a leaf is level 0. The next step goes on behind it.
    Page {
        /// Its Ref.
        page: Ref,
        /// Its level.
        level: u8,
        /// What its first position covers.
        first: Lba,
        /// Its content, in the cache: valid until the cache is used again.
        buf: BufId,
    },
    /// A page that has its right check holds this Ref, which makes no sense; the walk goes on behind it.
    Damaged(Ref),
    /// There is nothing more.
    Done,
}

/// A walk under way.
#[derive(Clone, Debug)]
pub struct Walk {
    since: CkptNo,
    start: u64,
    cursor: u64,
    /// The level of the page that is needed.
    needed: u8,
    /// The lowest level whose page was met at this position.
    met: u8,
}

/// No page was met yet.
const NONE: u8 = u8::MAX;

impl Walk {
    /// Begins at position `from`, a multiple of what a leaf covers; the pages that lead there are met first.
    pub fn new(since: CkptNo, from: u64) -> Self {
        assert!(from.is_multiple_of(page_covers(0).get()), "a walk begins at a leaf");
        Self { since, start: from, cursor: from, needed: 0, met: NONE }
    }

    /// The level of the page that was needed last.
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// How far it has come.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next page below `root`, a Ref to a page of level `top` or a hole, in a group of `space` blocks.
    pub fn step(
        &mut self,
        (root, top): (&Ref, u8),
        space: Blocks,
        cache: &mut PageCache,
        memory: &impl Memory,
    ) -> WalkStep {
        let end = page_covers(top).get();
        'path: while self.cursor < end {
            let (mut at, mut level) = (*root, top);
            loop {
                if at.is_absent() || at.is_hole() || at.ckpt() <= self.since {
                    self.pass(level);
                    continue 'path;
                }
                if !at.valid(space) {
                    self.pass(level);
                    return WalkStep::Damaged(at);
                }
                let Some(buf) = cache.get(&at) else {
                    self.needed = level;
                    return WalkStep::Need(at);
                };
                let begins =
                    self.cursor == self.start || self.cursor.is_multiple_of(page_covers(level).get());
                if begins && level < self.met {
                    self.met = level;
                    return WalkStep::Page { page: at, level, first: Lba::new(self.cursor), buf };
                }
                if level == 0 {
                    self.pass(0);
                    continue 'path;
                }
                at = page::get(memory.block(buf), tree::index(Lba::new(self.cursor), level));
                level -= 1;
            }
        }
        WalkStep::Done
    }

    /// The page that was needed last cannot be had: leaves out what lies below it.
    pub fn skip(&mut self) {
        self.pass(self.needed);
    }

    fn pass(&mut self, level: u8) {
        let covers = page_covers(level).get();
        self.cursor = (self.cursor / covers + 1) * covers;
        self.met = NONE;
    }
}
