//! The shape of an engine, so that a driver and a simulator can be written and tested against any.
//!
//! A driver's loop: hand in what arrived (`submit`, `drive_done`, `reply`), call `poll` once, carry out the
//! actions, wait for the next arrival or for the deadline that `poll` returned, repeat. Nothing happens inside
//! `submit`, `drive_done` and `reply` but taking note; all work is done in `poll`, which is bounded: when it
//! stopped early (the action list was full or the work long) it returns `now` as its deadline.
use crate::{Actions, BufId, Fault, Instant, IoToken, Memory, Reply, Request, SlotId};

/// A sans-I/O engine of one group with one volume.
pub trait Engine {
    /// Blocks of memory that the engine numbers; constant.
    fn memory_blocks(&self) -> u32;
    /// First of the `SLOT_DATA_BLOCKS` blocks that belong to a slot.
    fn slot_buffer(&self, slot: SlotId) -> BufId;
    /// Takes a request. The slot must be free. Before `Phase::Serving` requests wait.
    fn submit(&mut self, request: Request);
    /// Takes the end of a drive's action. A read's memory is valid only with `Ok`.
    fn drive_done(&mut self, token: IoToken, result: Result<(), Fault>);
    /// Takes an answer of the control plane.
    fn reply(&mut self, reply: Reply);
    /// Does the work that became possible and appends actions. Returns when to call again at the latest.
    fn poll<M: Memory>(&mut self, now: Instant, memory: &mut M, out: &mut Actions) -> Option<Instant>;
    /// Where the engine stands.
    fn phase(&self) -> Phase;
    /// Finishes requests, checkpoints and seals the group; ends in `Phase::Closed`.
    fn close(&mut self);
}

/// The life of an engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Reading superblocks and log; requests wait.
    Recovering,
    /// Requests are served.
    Serving,
    /// Reads are served, writes get `Fault::ReadOnly`.
    ReadOnly,
    /// Closing; then `Closed`.
    Closing,
    /// Sealed: nothing is in flight, no action will follow.
    Closed,
    /// The group does not open; the engine says why.
    Refused,
}
