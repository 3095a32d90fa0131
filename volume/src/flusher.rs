//! Flushes: whoever needs durability takes a ticket, and one flush of all drives serves all tickets taken
//! before it began.
//!
//! Crash story: a flush covers what completed before it was issued. D moves to the last Seq whose commit was
//! complete, in order, when the flush began, and only when every current drive has flushed; a drive that
//! failed its flush is never asked again, it goes stale, and on the last current leg the group stops taking
//! writes until a recovery has written the tail again (`recovery/renew.rs`). Another flush that was under way on
//! that drive is not believed either (`Group::settle_jobs`).
use base::{CkptNo, Seq};

/// Tickets of flushes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flusher {
    wanted: u64,
    started: u64,
    done: u64,
    /// What the running flush makes durable.
    covers: Seq,
    covers_ckpt: CkptNo,
}

impl Flusher {
    /// A ticket for the next flush that begins.
    pub fn ticket(&mut self) -> u64 {
        self.wanted = self.started + 1;
        self.wanted
    }

    /// Whether the flush of this ticket is done.
    pub fn is_done(&self, ticket: u64) -> bool {
        self.done >= ticket
    }

    /// Whether a flush is under way.
    pub fn running(&self) -> bool {
        self.started > self.done
    }

    /// Whether one should begin.
    pub fn due(&self) -> bool {
        !self.running() && self.wanted > self.started
    }

    /// Begins one.
    pub fn begin(&mut self, covers: Seq, covers_ckpt: CkptNo) {
        assert!(self.due());
        self.started += 1;
        (self.covers, self.covers_ckpt) = (covers, covers_ckpt);
    }

    /// It succeeded on every current drive. Returns what is durable now: the Seq and the checkpoint's pages.
    pub fn finish(&mut self) -> (Seq, CkptNo) {
        assert!(self.running());
        self.done = self.started;
        (self.covers, self.covers_ckpt)
    }
}
