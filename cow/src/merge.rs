//! The checkpoint's merge: a layer of the delta becomes part of the tree, as new pages on free blocks.
//!
//! Crash story: until a superblock names the new root, nothing points at the pages written here, and they lie
//! on blocks that are free in the old checkpoint; a crash at any step leaves the old tree whole, and the log
//! still holds the delta. What the new root no longer needs is only reported (`Sink::replaced`): it is freed
//! when the checkpoint is durable, not before. A failed attempt is dropped (`abort`) and begun again under a
//! new checkpoint number, so that no (Pba, checkpoint) ever names two contents.
//!
//! The merge goes through the Lbas in order with one open page per level. A page is copied into a buffer when
//! the first change below it comes, and sealed when the next change lies beyond it; what no change touches is
//! kept by its Ref. Invariants:
//! - a hole that is split gives its Seq to all parts; a page of nothing but holes becomes one hole with the
//!   newest Seq: no discard is ever forgotten by a walk over "newer than X";
//! - each block is reported exactly once: `mapped` when the new root comes to refer to it, `replaced` when the
//!   old root or the layer did and the new root does not;
//! - a long hole over a whole subtree is not descended: a hole takes the subtree's place, and the subtree goes
//!   to the directory's list of what is freed in the background (`cut.rs`).
//!
//! Work per `step` is bounded: at most `WORK_PER_STEP` leaves or subtrees, each bounded by a page. What a merge
//! reports is bounded too, as long as subtrees can be cut: for each point a block mapped and one replaced, and
//! for the leaf it lies in a new and an old page on each level; for each long hole the data of the two leaves at
//! its ends (at most 254 blocks) and the pages above them; what the layer's points replaced among themselves;
//! and one page for 128 subtrees cut.
use crate::cache::PageCache;
use crate::cut::{Cuts, MAX_CUTS};
use crate::delta::Delta;
use crate::layout::PAGE_REFS;
use crate::page;
use crate::page_buffers::PageBuffers;
use crate::refs::Ref;
use crate::tree::{self, Height, Leaf};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use base::{Block, Blocks, BufId, CkptNo, Lba, Memory, Pba, Seq};
use core::ops::ControlFlow::{self, Break, Continue};

/// Buffers that a merge needs at least: a page and a page of cut subtrees open on each level, and one more.
/// With fewer it could wait for ever; more let writes overlap.
pub const MIN_MERGE_BUFFERS: u32 = 2 * Height::MAX.get() as u32 + 1;

/// Leaves that `prefetch` runs ahead at most.
pub const MAX_PREFETCH: usize = 64;

/// Units of work of one `step`: a leaf merged, a page opened or closed, a subtree cut, a chunk of a list. The
/// longest unit is about 3 us, so a step keeps the engine for at most about 0.1 ms.
const WORK_PER_STEP: usize = 32;

/// Entries of the layer's own lists reported as one unit of work.
const REPORT_CHUNK: usize = 128;

/// Where a merge takes space from and what it reports to.
pub trait Sink {
    /// A free block for a page. None if there is no space now.
    fn place(&mut self) -> Option<Pba>;
    /// The new root refers to this block (data or page), which the old one did not.
    fn mapped(&mut self, pba: Pba);
    /// The new root does not refer to this block; the old root did, or only the layer.
    fn replaced(&mut self, pba: Pba);
    /// The map refers to so many blocks of data more (or less) than before. Those of a subtree that was cut off
    /// count until they are freed.
    fn data(&mut self, change: i64);
    /// Entries free in the directory's list of subtrees to be freed. A merge adds at most `MAX_CUTS`; if there
    /// is no room for so many it adds none and reads every leaf under a long hole.
    fn cut_room(&self) -> usize;
    /// This subtree, a page of `level`, is to be freed in the background (`Reap`). All its blocks stay used.
    fn cut(&mut self, subtree: Ref, level: u8);
    /// Blocks of the group's space. A Ref beyond is damage.
    fn space_blocks(&self) -> Blocks {
        Blocks::new(Pba::LIMIT)
    }
    /// What the parts of a hole that is split are: the same hole. Another answer is a bug that was planted.
    fn part_of(&self, hole: &Ref) -> Ref {
        *hole
    }
    /// What a page of nothing but holes becomes: one hole. Another answer is a bug that was planted.
    fn emptied(&self, newest: Seq) -> Ref {
        Ref::hole(newest)
    }
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// This page is not cached. Have it read into the cache, then call again.
    Need(Ref),
    /// Write this buffer to block `page.pba` on all legs, then call `written(buf)`. The merge may go on
    /// meanwhile; the buffer is not touched.
    Write {
        /// The sealed page.
        page: Ref,
        /// Its bytes.
        buf: BufId,
    },
    /// No buffer is free until `written` is called.
    Wait,
    /// The bound of work per step was reached: call again when other work had its turn.
    More,
    /// `Sink::place` had no block. Call again when it has, or abort.
    NoSpace,
    /// A page that has its right check holds Refs which no map holds, or this Ref to it is such a one. The
    /// checkpoint cannot be taken; abort.
    Damaged(Ref),
    /// The merge is complete. The root counts when every `Write` was answered by `written`.
    Done {
        /// The new root.
        root: Ref,
    },
}

/// A page being changed.
struct Open {
    level: u8,
    first: Lba,
    buf: BufId,
    /// What it was made of: a page, which is replaced, or a hole that was split.
    old: Ref,
}

impl Open {
    fn end(&self) -> Lba {
        self.first + tree::page_covers(self.level)
    }

    fn holds(&self, lba: Lba) -> bool {
        self.first <= lba && lba < self.end()
    }
}

/// The state of a merge that was begun.
struct Run {
    old_root: Ref,
    root: Ref,
    height: Height,
    ckpt: CkptNo,
    /// Open pages, the root's first, each below the one before it.
    stack: Vec<Open>,
    /// Whether subtrees are cut, once that was asked.
    may_cut: Option<bool>,
    /// Next of `Delta::replaced` to report.
    replaced_at: usize,
    /// Next point.
    point_at: usize,
    /// The range that is next or under way, and from where on it is still to be applied.
    range_at: usize,
    range_from: Lba,
    /// Next point that `prefetch` looks at.
    ahead_at: usize,
}

/// A merge, one at a time; owns its buffers. No call but `new` allocates.
pub struct Merge {
    buffers: PageBuffers,
    cuts: Cuts,
    run: Option<Run>,
    /// The stack's memory between runs.
    spare: Vec<Open>,
    /// Ends of the leaves that `prefetch` has passed and the merge has not, in order.
    ahead: VecDeque<Lba>,
}

impl Merge {
    /// A merge over the buffers `first .. first + buffers`, at least `MIN_MERGE_BUFFERS`.
    pub fn new(first: BufId, buffers: u32) -> Self {
        assert!(buffers >= MIN_MERGE_BUFFERS, "{buffers} buffers are too few for a merge");
        Self {
            buffers: PageBuffers::new(first, buffers),
            cuts: Cuts::new(),
            run: None,
            spare: Vec::with_capacity(Height::MAX.get() as usize),
            ahead: VecDeque::with_capacity(MAX_PREFETCH),
        }
    }

    /// Starts to merge a sorted layer into the tree of `root`, for checkpoint `ckpt`. The same layer, unchanged,
    /// goes to every `step`. Panics if a merge is under way or if the tree is not older than the layer.
    pub fn begin(&mut self, root: Ref, height: Height, ckpt: CkptNo, delta: &Delta) {
        assert!(self.run.is_none(), "a merge is under way");
        assert!(delta.is_sorted(), "the layer is not sorted");
        assert!(root.when < delta.oldest(), "the root holds Seq {}, newer than the layer's", root.when);
        let stack = core::mem::take(&mut self.spare);
        self.ahead.clear();
        self.run = Some(Run {
            old_root: root,
            root,
            height,
            ckpt,
            stack,
            may_cut: None,
            replaced_at: 0,
            point_at: 0,
            range_at: 0,
            range_from: Lba::ZERO,
            ahead_at: 0,
        });
    }

    /// Whether a merge was begun and is not done.
    pub fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Writes not yet answered by `written`.
    pub fn writing(&self) -> u32 {
        self.buffers.writing()
    }

    /// The write of this buffer has ended on all legs, well or not.
    pub fn written(&mut self, buf: BufId) {
        self.buffers.written(buf);
    }

    /// Drops the merge under way, if any. What was reported to the sink is void; the blocks that were placed
    /// hold nothing. Buffers being written come back with `written`.
    pub fn abort(&mut self) {
        let Some(run) = self.run.take() else { return };
        self.cuts.abandon(&mut self.buffers);
        for open in &run.stack {
            self.buffers.release(open.buf);
        }
        self.keep_stack(run);
    }

    /// Goes on. See `Step` for what the caller does next.
    pub fn step<M: Memory>(
        &mut self,
        delta: &Delta,
        cache: &mut PageCache,
        memory: &mut M,
        sink: &mut impl Sink,
    ) -> Step {
        assert!(delta.is_sorted(), "the layer changed under the merge");
        for _ in 0..WORK_PER_STEP {
            if let Break(step) = self.work(delta, cache, memory, sink) {
                return step;
            }
        }
        Step::More
    }

    /// The next page worth reading ahead of the merge, if any: call until None, have each read into the cache.
    /// Looks at most `window` leaves ahead (at most `MAX_PREFETCH`; keep it well below the cache's frames).
    /// Each leaf is proposed once; a page above leaves until it is there.
    pub fn prefetch(
        &mut self,
        window: usize,
        delta: &Delta,
        cache: &mut PageCache,
        memory: &impl Memory,
    ) -> Option<Ref> {
        let run = self.run.as_mut()?;
        run.ahead_at = run.ahead_at.max(run.point_at);
        let reached = delta.point_lba(run.point_at)?;
        while self.ahead.front().is_some_and(|end| *end <= reached) {
            self.ahead.pop_front();
        }
        // Each round takes one leaf; holes take no place in the window, so the rounds are counted as well.
        for _ in 0..MAX_PREFETCH {
            if self.ahead.len() >= window.min(MAX_PREFETCH) {
                return None;
            }
            let lba = delta.point_lba(run.ahead_at)?;
            let (found, level) = tree::find(&run.old_root, run.height.root_level(), lba, cache, memory);
            let missing = match found {
                Leaf::Need(page) => (!cache.is_loading(&page)).then_some(page),
                _ => None,
            };
            if matches!(found, Leaf::Need(_)) && level > 0 {
                return missing;
            }
            let end = Lba::new((lba.get() / PAGE_REFS as u64 + 1) * PAGE_REFS as u64);
            run.ahead_at = delta.first_point_from(run.ahead_at, end);
            if matches!(found, Leaf::Need(_) | Leaf::Page(_)) {
                self.ahead.push_back(end);
            }
            if missing.is_some() {
                return missing;
            }
        }
        None
    }

    /// One unit of work.
    fn work<M: Memory>(
        &mut self,
        delta: &Delta,
        cache: &mut PageCache,
        memory: &mut M,
        sink: &mut impl Sink,
    ) -> ControlFlow<Step> {
        let run = self.run.as_mut().expect("a merge was begun");
        if run.report_what_the_layer_dropped(delta, sink) {
            return Continue(());
        }
        if let Some(level) = self.cuts.full() {
            return self.cuts.seal(level, run.ckpt, &mut self.buffers, memory, sink);
        }
        let next = run.next_change(delta);
        match (run.stack.last(), next) {
            (Some(open), Some(lba)) if open.holds(lba) && open.level == 0 => {
                run.merge_leaf(delta, memory, sink);
                Continue(())
            }
            (Some(open), Some(lba)) if open.holds(lba) => self.descend(lba, delta, cache, memory, sink),
            (Some(_), _) => self.close(cache, memory, sink),
            (None, Some(lba)) => self.descend(lba, delta, cache, memory, sink),
            (None, None) => self.finish(memory, sink),
        }
    }

    /// Goes one level down towards `lba`: opens the page there, or cuts it off if one range covers it.
    fn descend<M: Memory>(
        &mut self,
        lba: Lba,
        delta: &Delta,
        cache: &mut PageCache,
        memory: &mut M,
        sink: &mut impl Sink,
    ) -> ControlFlow<Step> {
        let run = self.run.as_mut().expect("a merge was begun");
        let (child, level) = run.child(lba, memory);
        let covers = tree::page_covers(level);
        assert!(lba.get() < run.height.covers().get(), "Lba {lba} lies outside the map");
        let first = Lba::new(lba.get() / covers.get() * covers.get());
        if !child.valid(sink.space_blocks()) {
            return Break(Step::Damaged(child));
        }
        if let Some(hole) = run.covering(delta, first, first + covers) {
            let cut = child.is_hole() || *run.may_cut.get_or_insert(sink.cut_room() >= MAX_CUTS);
            if cut {
                if !child.is_hole() && !self.cuts.add(child, level, &mut self.buffers, memory) {
                    return Break(Step::Wait);
                }
                run.put_child(first, &hole, memory);
                run.range_from = first + covers;
                return Continue(());
            }
        }
        let from = if child.is_hole() { None } else { cache.get(&child) };
        if !child.is_hole() && from.is_none() {
            return Break(Step::Need(child));
        }
        if let Some(from) = from
            && !page::valid(memory.block(from), child.when, level, sink.space_blocks())
        {
            return Break(Step::Damaged(child));
        }
        let Some(buf) = self.buffers.take() else { return Break(Step::Wait) };
        match from {
            Some(from) => memory.copy_block(from, buf),
            None => page::fill(memory.block_mut(buf), &sink.part_of(&child)),
        }
        run.stack.push(Open { level, first, buf, old: child });
        Continue(())
    }

    /// Seals the lowest open page, or makes it a hole, and enters it above.
    fn close<M: Memory>(
        &mut self,
        cache: &mut PageCache,
        memory: &mut M,
        sink: &mut impl Sink,
    ) -> ControlFlow<Step> {
        let run = self.run.as_mut().expect("a merge was begun");
        let buf = run.stack.last().expect("an open page").buf;
        let (newest, all_holes) = page::summary(memory.block(buf));
        let new = if all_holes {
            self.buffers.release(buf);
            sink.emptied(newest)
        } else {
            let kept = cache.keep(memory, buf);
            let Some(page) = self.buffers.seal(buf, newest, run.ckpt, memory, sink) else {
                return Break(Step::NoSpace);
            };
            cache.insert(&page, kept);
            page
        };
        let open = run.stack.pop().expect("an open page");
        assert!(open.old.when < newest, "a page was opened for nothing");
        if !open.old.is_hole() {
            sink.replaced(open.old.pba);
        }
        run.put_child(open.first, &new, memory);
        if all_holes { Continue(()) } else { Break(Step::Write { page: new, buf }) }
    }

    /// Everything is merged: hands the cut subtrees over, then ends.
    fn finish<M: Memory>(&mut self, memory: &mut M, sink: &mut impl Sink) -> ControlFlow<Step> {
        let run = self.run.as_mut().expect("a merge was begun");
        self.cuts.hand_over(run.ckpt, &mut self.buffers, memory, sink)?;
        let root = run.root;
        let run = self.run.take().expect("a merge was begun");
        self.keep_stack(run);
        Break(Step::Done { root })
    }

    fn keep_stack(&mut self, mut run: Run) {
        run.stack.clear();
        self.spare = run.stack;
    }
}

impl Run {
    /// Reports a chunk of what was put into the layer and never gets into a map: what points replaced, and the
    /// next point if a newer range hides it. Whether there was any.
    fn report_what_the_layer_dropped(&mut self, delta: &Delta, sink: &mut impl Sink) -> bool {
        let rest = &delta.replaced()[self.replaced_at..];
        for pba in rest.iter().take(REPORT_CHUNK) {
            sink.replaced(*pba);
        }
        self.replaced_at += rest.len().min(REPORT_CHUNK);
        let points = self.point_at;
        while self.point_at - points < REPORT_CHUNK
            && let Some((lba, to)) = delta.point(self.point_at)
            && delta.range_over(lba).is_some_and(|range| range.seq > to.when)
        {
            if !to.is_hole() {
                sink.replaced(to.pba);
            }
            self.point_at += 1;
        }
        !rest.is_empty() || self.point_at > points
    }

    /// Where the next change is. Leaves behind the ranges that are applied to their ends.
    fn next_change(&mut self, delta: &Delta) -> Option<Lba> {
        while delta.range(self.range_at).is_some_and(|range| range.end <= self.range_from) {
            self.range_at += 1;
        }
        let range = delta.range(self.range_at).map(|range| range.first.max(self.range_from));
        match (delta.point_lba(self.point_at), range) {
            (Some(point), Some(range)) => Some(point.min(range)),
            (point, range) => point.or(range),
        }
    }

    /// The Ref on the way to `lba` below the lowest open page (or the root), and the level of its page.
    fn child(&self, lba: Lba, memory: &impl Memory) -> (Ref, u8) {
        match self.stack.last() {
            None => (self.root, self.height.root_level()),
            Some(open) => {
                let child = page::get(memory.block(open.buf), tree::index(lba, open.level));
                (child, open.level - 1)
            }
        }
    }

    /// Replaces that Ref.
    fn put_child(&mut self, first: Lba, to: &Ref, memory: &mut impl Memory) {
        match self.stack.last() {
            None => self.root = *to,
            Some(open) => page::set(memory.block_mut(open.buf), tree::index(first, open.level), to),
        }
    }

    /// The hole that covers all of `first .. end` and is still to be applied to all of it.
    fn covering(&self, delta: &Delta, first: Lba, end: Lba) -> Option<Ref> {
        let range = delta.range(self.range_at)?;
        (range.first.max(self.range_from) <= first && end <= range.end).then(|| Ref::hole(range.seq))
    }

    /// Applies to the open leaf everything that lies in it: first the ranges, then the points, which are all
    /// newer than a range over them (the others were reported and passed).
    fn merge_leaf(&mut self, delta: &Delta, memory: &mut impl Memory, sink: &mut impl Sink) {
        let open = self.stack.last().expect("an open leaf");
        let (first, end) = (open.first, open.end());
        let leaf = memory.block_mut(open.buf);
        while let Some(range) = delta.range(self.range_at)
            && range.first.max(self.range_from) < end
        {
            let stop = range.end.min(end);
            for lba in range.first.max(self.range_from).max(first).get()..stop.get() {
                replace(leaf, Lba::new(lba), &Ref::hole(range.seq), sink);
            }
            self.range_from = stop;
            if stop < range.end {
                break;
            }
            self.range_at += 1;
        }
        while let Some((lba, to)) = delta.point(self.point_at)
            && lba < end
        {
            self.point_at += 1;
            let hidden = delta.range_over(lba).is_some_and(|range| range.seq > to.when);
            if !hidden {
                replace(leaf, lba, &to, sink);
            }
            match (hidden, to.is_hole()) {
                (_, true) => {}
                (true, false) => sink.replaced(to.pba),
                (false, false) => {
                    sink.mapped(to.pba);
                    sink.data(1);
                }
            }
        }
    }
}

/// Replaces a Ref of a leaf and reports the data that it led to.
fn replace(leaf: &mut Block, lba: Lba, to: &Ref, sink: &mut impl Sink) {
    let i = tree::index(lba, 0);
    let old = page::get(leaf, i);
    assert!(old.when < to.when, "Lba {lba} has Seq {}, newer than {}", old.when, to.when);
    if !old.is_hole() {
        sink.replaced(old.pba);
        sink.data(-1);
    }
    page::set(leaf, i, to);
}

#[cfg(test)]
mod tests;
