//! Subtrees that a checkpoint cut off, gathered so that the directory's list stays short.
//!
//! One long discard may cut hundreds of subtrees of every level, many small ones thousands, and the directory
//! has room for a few dozen. So the Refs of cut subtrees of one level are gathered in a page, 128 of them; that
//! page is a subtree of the next level, and gathered in turn. What a checkpoint adds to the list is at most one
//! subtree per level, whatever was discarded; it costs one page for 128 subtrees cut. Where a Ref stands in such
//! a page means nothing: it is only ever walked to be freed (`reap.rs`).
//!
//! Crash story: the pages are new pages of their checkpoint, like the map's. The list that names them becomes
//! durable together with the root that no longer refers to the subtrees, so each block is at every instant
//! reached by exactly one of them, and never freed twice.
use crate::layout::PAGE_REFS;
use crate::merge::{Sink, Step};
use crate::page;
use crate::page_buffers::PageBuffers;
use crate::refs::Ref;
use crate::tree::Height;
use base::{BufId, CkptNo, Memory, Seq};
use core::ops::ControlFlow::{self, Break, Continue};

/// Entries that one merge adds to the directory's list at most.
pub const MAX_CUTS: usize = Height::MAX.get() as usize;

/// A page being filled with Refs to subtrees; holes of Seq 0 where there is none yet.
#[derive(Clone, Copy)]
struct Gathering {
    buf: BufId,
    count: usize,
}

/// The subtrees cut in one merge, by level.
pub(crate) struct Cuts([Option<Gathering>; MAX_CUTS]);

impl Cuts {
    /// None yet.
    pub fn new() -> Self {
        Self([None; MAX_CUTS])
    }

    /// Adds a subtree whose top page is of `level`. False, and nothing happened, if there is no buffer.
    pub fn add(
        &mut self,
        subtree: Ref,
        level: u8,
        buffers: &mut PageBuffers,
        memory: &mut impl Memory,
    ) -> bool {
        let slot = &mut self.0[level as usize];
        if slot.is_none() {
            let Some(buf) = buffers.take() else { return false };
            page::fill(memory.block_mut(buf), &Ref::hole(Seq::ZERO));
            *slot = Some(Gathering { buf, count: 0 });
        }
        let gathering = slot.as_mut().expect("a page to gather in");
        page::set(memory.block_mut(gathering.buf), gathering.count, &subtree);
        gathering.count += 1;
        true
    }

    /// A level whose page is full: `seal` it before anything is added.
    pub fn full(&self) -> Option<u8> {
        self.0.iter().position(|slot| slot.is_some_and(|g| g.count == PAGE_REFS)).map(|level| level as u8)
    }

    /// Seals the page of a level, which becomes a subtree of the next level.
    pub fn seal<M: Memory>(
        &mut self,
        level: u8,
        ckpt: CkptNo,
        buffers: &mut PageBuffers,
        memory: &mut M,
        sink: &mut impl Sink,
    ) -> ControlFlow<Step> {
        let above = level as usize + 1;
        if above < MAX_CUTS && self.0[above].is_none() && !buffers.has_free() {
            return Break(Step::Wait);
        }
        let Gathering { buf, .. } = self.0[level as usize].expect("a page to seal");
        let (newest, _) = page::summary(memory.block(buf));
        let Some(page) = buffers.seal(buf, newest, ckpt, memory, sink) else {
            return Break(Step::NoSpace);
        };
        self.0[level as usize] = None;
        if above < MAX_CUTS {
            assert!(self.add(page, above as u8, buffers, memory), "a buffer was free");
        } else {
            sink.cut(page, above as u8);
        }
        Break(Step::Write { page, buf })
    }

    /// At the end of the merge: gives what was gathered to the sink, lowest level first. Continues when all is.
    pub fn hand_over<M: Memory>(
        &mut self,
        ckpt: CkptNo,
        buffers: &mut PageBuffers,
        memory: &mut M,
        sink: &mut impl Sink,
    ) -> ControlFlow<Step> {
        for level in 0..MAX_CUTS {
            match self.0[level] {
                None => {}
                Some(Gathering { buf, count: 1 }) => {
                    sink.cut(page::get(memory.block(buf), 0), level as u8);
                    buffers.release(buf);
                    self.0[level] = None;
                }
                Some(_) => return self.seal(level as u8, ckpt, buffers, memory, sink),
            }
        }
        Continue(())
    }

    /// Forgets what was gathered: its merge is aborted.
    pub fn abandon(&mut self, buffers: &mut PageBuffers) {
        for gathering in self.0.iter_mut().filter_map(Option::take) {
            buffers.release(gathering.buf);
        }
    }
}
