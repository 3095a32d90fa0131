//! Frees a subtree that a checkpoint cut off, a few pages at a time.
//!
//! Crash story: the subtree, its level and the cursor stand in the directory's list. What a walk reports is
//! freed by the checkpoint that stores the cursor reached, not before; after a crash the walk goes on from the
//! cursor of the last durable checkpoint, where nothing beyond it has been freed. So a leaf is reported with all
//! its data when the cursor passes it, and a page above when the cursor passes the last block below it: every
//! page on the way to the cursor is still there to be read.
//!
//! A page that is lost for good (its caller knows) is passed by with all that lies below it: that space stays used for
//! ever, and so does the page's own block, where a drive that cannot read may not be able to write either.
use crate::cache::PageCache;
use crate::layout::PAGE_REFS;
use crate::merge::Sink;
use crate::page;
use crate::refs::Ref;
use crate::tree::{self, Height};
use base::{BufId, Lba, Memory};

/// Levels of a subtree at most: a page of cut subtrees lies one above the root of the tallest tree.
const MAX_LEVELS: usize = Height::MAX.get() as usize + 1;

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReapStep {
    /// This page is not cached. Have it read into the cache, then call again.
    Need(Ref),
    /// The budget is used up; all below the cursor is reported.
    Paused {
        /// What the next checkpoint stores.
        cursor: u64,
    },
    /// Everything is reported, the subtree's top page included: it leaves the list.
    Finished,
    /// A page that has its right check holds Refs which no map holds, or this Ref to it is such a one. What is
    /// left of the subtree stays used.
    Damaged(Ref),
}

/// The walk over one cut subtree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reap {
    subtree: Ref,
    level: u8,
    cursor: u64,
}

impl Reap {
    /// A walk over the subtree whose top page is `subtree`, of `level`, from `cursor` on: 0, or where a walk
    /// stood when the checkpoint was taken.
    pub fn new(subtree: Ref, level: u8, cursor: u64) -> Self {
        assert!((level as usize) < MAX_LEVELS, "level {level} is higher than any subtree");
        Self { subtree, level, cursor }
    }

    /// Blocks of the subtree, in the order of its Refs, that are reported with the pages that lead to nothing
    /// else.
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The subtree's top page and its level.
    pub const fn top(&self) -> (Ref, u8) {
        (self.subtree, self.level)
    }

    /// Goes on by at most `budget` leaves or holes, reporting each block of data and each page once
    /// (`Sink::replaced`, at most 128 + `MAX_LEVELS` reports for each). What was reported before a `Need` stays
    /// so: the cursor has moved.
    pub fn step(
        &mut self,
        budget: u32,
        cache: &mut PageCache,
        memory: &impl Memory,
        sink: &mut impl Sink,
    ) -> ReapStep {
        for _ in 0..budget {
            if self.is_finished() {
                return ReapStep::Finished;
            }
            if let Err(step) = self.pass_one(None, cache, memory, sink) {
                return step;
            }
        }
        self.after()
    }

    /// Goes on behind this page, which `step` needed and nobody has: it, and what only it leads to, is not reported. One
    /// unit of a step's budget.
    pub fn pass_by(
        &mut self,
        lost: &Ref,
        cache: &mut PageCache,
        memory: &impl Memory,
        sink: &mut impl Sink,
    ) -> ReapStep {
        match self.pass_one(Some(lost), cache, memory, sink) {
            Err(step) => step,
            Ok(()) => self.after(),
        }
    }

    fn after(&self) -> ReapStep {
        if self.is_finished() { ReapStep::Finished } else { ReapStep::Paused { cursor: self.cursor } }
    }

    fn is_finished(&self) -> bool {
        self.cursor >= tree::page_covers(self.level).get()
    }

    /// Passes the leaf or hole at the cursor, or the lost page that leads there.
    fn pass_one(
        &mut self,
        lost: Option<&Ref>,
        cache: &mut PageCache,
        memory: &impl Memory,
        sink: &mut impl Sink,
    ) -> Result<(), ReapStep> {
        let mut path = [Ref::ABSENT; MAX_LEVELS];
        let mut at = self.subtree;
        let mut level = self.level;
        loop {
            if !at.valid(sink.space_blocks()) {
                return Err(ReapStep::Damaged(at));
            }
            path[level as usize] = at;
            if at.is_hole() || lost == Some(&at) {
                break;
            }
            let buf = cache.get(&at).ok_or(ReapStep::Need(at))?;
            if level == 0 {
                report_leaf(&at, buf, memory, sink)?;
                break;
            }
            at = page::get(memory.block(buf), tree::index(Lba::new(self.cursor), level));
            level -= 1;
        }
        let passed = tree::page_covers(level).get();
        self.cursor = (self.cursor / passed + 1) * passed;
        for level in level..=self.level {
            let page = &path[level as usize];
            let whole = self.cursor.is_multiple_of(tree::page_covers(level).get());
            if whole && !page.is_hole() && lost != Some(page) {
                sink.replaced(page.pba);
            }
        }
        Ok(())
    }
}

/// Reports the data of a leaf, once all of it is known to be sound.
fn report_leaf(leaf: &Ref, buf: BufId, memory: &impl Memory, sink: &mut impl Sink) -> Result<(), ReapStep> {
    let bytes = memory.block(buf);
    if !page::valid(bytes, leaf.when, 0, sink.space_blocks()) {
        return Err(ReapStep::Damaged(*leaf));
    }
    for data in (0..PAGE_REFS).map(|i| page::get(bytes, i)).filter(|r| !r.is_hole()) {
        sink.replaced(data.pba);
        sink.data(-1);
    }
    Ok(())
}
