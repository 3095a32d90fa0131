//! The buffers of a merge: each is free, open (being changed) or sealed and being written.
//!
//! A buffer being written is read by the drives: it is not touched until every leg is done with it.
use crate::merge::Sink;
use crate::refs::Ref;
use alloc::vec;
use alloc::vec::Vec;
use base::{BufId, CkptNo, Memory, Seq};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Open,
    Writing,
}

/// A fixed set of one-block buffers.
pub(crate) struct PageBuffers {
    first: BufId,
    states: Vec<State>,
    free: Vec<BufId>,
    writing: u32,
}

impl PageBuffers {
    /// The buffers `first .. first + count`, all free.
    pub fn new(first: BufId, count: u32) -> Self {
        let free = (0..count).rev().map(|i| first.plus(i)).collect();
        Self { first, states: vec![State::Free; count as usize], free, writing: 0 }
    }

    /// Buffers being written.
    pub fn writing(&self) -> u32 {
        self.writing
    }

    /// Whether `take` would give one.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// A free buffer, now open.
    pub fn take(&mut self) -> Option<BufId> {
        let buf = self.free.pop()?;
        self.turn(buf, State::Free, State::Open);
        Some(buf)
    }

    /// Gives an open buffer back unwritten.
    pub fn release(&mut self, buf: BufId) {
        self.turn(buf, State::Open, State::Free);
        self.free.push(buf);
    }

    /// Seals the page in an open buffer, to be written to a block that the sink gives; None if it has none. Its bytes may
    /// not be those of the page any more.
    pub fn seal(
        &mut self,
        buf: BufId,
        newest: Seq,
        ckpt: CkptNo,
        memory: &mut impl Memory,
        sink: &mut impl Sink,
    ) -> Option<Ref> {
        let pba = sink.place()?;
        sink.mapped(pba);
        self.turn(buf, State::Open, State::Writing);
        self.writing += 1;
        Some(Ref::page(pba, newest, ckpt, memory.seal_page(buf, pba, ckpt)))
    }

    /// The write of a sealed page has ended.
    pub fn written(&mut self, buf: BufId) {
        self.turn(buf, State::Writing, State::Free);
        self.writing -= 1;
        self.free.push(buf);
    }

    fn turn(&mut self, buf: BufId, from: State, to: State) {
        let state = &mut self.states[(buf.get() - self.first.get()) as usize];
        assert!(*state == from, "buffer {buf:?} is {state:?}, not {from:?}");
        *state = to;
    }
}
