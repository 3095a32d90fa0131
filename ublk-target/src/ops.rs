//! The drive operations in flight: what is left of each, the order that a flush needs, and their ages.
//!
//! This is bookkeeping only; `ring` talks to the kernel. Rules that are settled here and nowhere else:
//! - a short transfer is no result: the remainder is submitted again until nothing is left, or a transfer of
//!   zero bytes says that the drive ends there;
//! - the kernel's error numbers end here: the engine sees `Fault`s;
//! - a drive without a volatile cache is never sent a flush; there a flush completes once every write issued to
//!   that drive before it has completed. Writes and flushes of a drive form a list in order of issue, and a
//!   flush is complete when it is the list's head;
//! - a flush during which, or before which, the drive was reset with writes in its cache has failed, whatever the
//!   drive says (`resets`);
//! - a token is answered exactly once. A read is answered only when the kernel has let go of the memory: a deadline never
//!   completes it, it only makes it known, and asks the kernel to give it up. Writes and flushes of a drive that the
//!   engine gives up are answered at once, whatever the kernel still holds: nobody counts on that drive any more, and
//!   what lands there later, be it what the memory holds by then, lies where its next life copies anew. Its reads are
//!   answered as soon as their memory is exchanged (`let_go`). That life begins when the kernel has let go of everything
//!   (`is_busy`).
use base::limits::MAX_DRIVES;
use base::{BLOCK_BYTES, Blocks, DriveBlock, DriveIx, DriveOp, Duration, Fault, Instant, IoToken, Segment};
use std::collections::VecDeque;

/// Operations in flight at most: as many as an engine may have, a full list of actions more, because the engine is not
/// polled while less than that is free, and as many again as were given up and are still the kernel's.
pub const MAX_DRIVE_OPS: usize = 2 * base::limits::MAX_DRIVE_OPS + base::limits::MAX_POLL_ACTIONS;
/// Pieces of memory for which an operation has room from the start; one that needs more keeps what it got.
const SEGMENTS_KEPT: usize = 32;
/// How often EAGAIN and EINTR are answered by submitting again.
const MAX_RETRIES: u8 = 16;
const NONE: u32 = u32::MAX;

/// Index of an operation, valid until it is finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OpIx(pub(crate) u32);

/// What to do after an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Submit what is left of this operation.
    Submit(OpIx),
    /// Nothing: it waits for others, or its end is in the list of the finished.
    Nothing,
}

/// The end of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Finished {
    pub(crate) token: IoToken,
    pub(crate) drive: DriveIx,
    pub(crate) op: DriveOp,
    pub(crate) bytes: u64,
    pub(crate) issued: Instant,
    pub(crate) result: Result<(), Fault>,
    /// The error number behind a fault, 0 without one.
    pub(crate) errno: i32,
}

/// An operation whose age passed a bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slow {
    pub(crate) op: OpIx,
    pub(crate) drive: DriveIx,
    pub(crate) kind: DriveOp,
    pub(crate) age: Duration,
    /// Whether it is to be cancelled, not only reported.
    pub(crate) expired: bool,
}

struct DriveIo {
    token: IoToken,
    drive: DriveIx,
    op: DriveOp,
    at_bytes: u64,
    total_bytes: u64,
    done_bytes: u64,
    issued: Instant,
    retries: u8,
    reported: bool,
    expired: bool,
    active: bool,
    /// It was answered because its drive was given up; the kernel still has it.
    given_up: bool,
    segments: Vec<Segment>,
    before: u32,
    after: u32,
    /// Of a write: the how manieth of its drive it is. Of a flush: up to which one all had ended when it began.
    mark: u64,
}

/// The writes and flushes of one drive in order of issue.
#[derive(Clone, Copy)]
struct Order {
    head: u32,
    tail: u32,
    volatile_cache: bool,
    /// The drive was released: no action may name it.
    released: bool,
    /// Writes that were issued. What was written before the drive was opened counts as one.
    issued: u64,
    /// Up to which of them all had ended when a flush began that succeeded.
    safe: u64,
    /// The drive was reset when not all of them were. Nothing makes up for that but another life of the drive.
    reset: bool,
}

impl Order {
    fn new(volatile_cache: bool) -> Self {
        Self { head: NONE, tail: NONE, volatile_cache, released: false, issued: 1, safe: 0, reset: false }
    }
}

/// The table.
pub(crate) struct DriveOps {
    ops: Vec<DriveIo>,
    free: Vec<u32>,
    orders: Vec<Order>,
    finished: VecDeque<Finished>,
}

impl DriveOps {
    /// Without drives.
    pub(crate) fn new() -> Self {
        let blank = |_| DriveIo {
            token: IoToken(0),
            drive: DriveIx::ZERO,
            op: DriveOp::Flush,
            at_bytes: 0,
            total_bytes: 0,
            done_bytes: 0,
            issued: Instant::ZERO,
            retries: 0,
            reported: false,
            expired: false,
            active: false,
            given_up: false,
            segments: Vec::with_capacity(SEGMENTS_KEPT),
            before: NONE,
            after: NONE,
            mark: 0,
        };
        Self {
            ops: (0..MAX_DRIVE_OPS).map(blank).collect(),
            free: (0..MAX_DRIVE_OPS as u32).rev().collect(),
            orders: Vec::with_capacity(MAX_DRIVES),
            finished: VecDeque::with_capacity(MAX_DRIVE_OPS),
        }
    }

    /// One drive more, with the next number.
    pub(crate) fn add_drive(&mut self, volatile_cache: bool) {
        assert!(self.orders.len() < MAX_DRIVES, "more drives than a group has");
        self.orders.push(Order::new(volatile_cache));
    }

    /// Whether anything is in flight on a drive, or its end was not handed to the engine yet.
    pub(crate) fn is_busy(&self, drive: DriveIx) -> bool {
        self.ops.iter().any(|io| io.active && io.drive == drive)
            || self.finished.iter().any(|finished| finished.drive == drive)
    }

    /// The engine gives a drive up: its writes and flushes are answered now. Returns what the kernel has of it, which is
    /// to be cancelled.
    pub(crate) fn give_up(&mut self, drive: DriveIx) -> Vec<OpIx> {
        let mut held = Vec::new();
        for ix in 0..self.ops.len() as u32 {
            let DriveIo { active, given_up, op, drive: of, .. } = self.ops[ix as usize];
            if !active || given_up || of != drive {
                continue;
            }
            let in_order = op == DriveOp::Write
                || (op == DriveOp::Flush && !self.orders[drive.get() as usize].volatile_cache);
            if in_order {
                self.unlink(ix);
            }
            if op == DriveOp::Flush && in_order {
                // It only waited for others, and the kernel knows nothing of it.
                self.retire(ix, Err(Fault::Timeout), 0);
                continue;
            }
            if op != DriveOp::Read {
                self.answer(ix, Err(Fault::Timeout), 0);
                self.ops[ix as usize].given_up = true;
            }
            held.push(OpIx(ix));
        }
        held
    }

    /// Whether this is a read, or what is left of one, that nobody has heard of yet.
    pub(crate) fn is_held_read(&self, op: OpIx) -> bool {
        let io = &self.ops[op.0 as usize];
        io.active && !io.given_up && io.op == DriveOp::Read
    }

    /// The kernel reaches no memory of ours by this read any more: it is answered, whatever comes of it.
    pub(crate) fn let_go(&mut self, op: OpIx) {
        assert!(self.is_held_read(op), "only reads are waited for");
        self.answer(op.0, Err(Fault::Timeout), 0);
        self.ops[op.0 as usize].given_up = true;
    }

    /// A drive's number is nobody's from now on.
    pub(crate) fn release_drive(&mut self, drive: DriveIx) {
        assert!(!self.is_busy(drive), "a drive is released when nothing is in flight on it");
        self.orders[drive.get() as usize].released = true;
    }

    /// Another drive, or the same opened anew, takes a number that was released.
    pub(crate) fn reuse_drive(&mut self, drive: DriveIx, volatile_cache: bool) {
        let order = &mut self.orders[drive.get() as usize];
        assert!(order.released, "a number belongs to one drive at a time");
        *order = Order::new(volatile_cache);
    }

    /// The drive, or something below it, was reset. Whether something may be lost by it that was not known to be.
    pub(crate) fn was_reset(&mut self, drive: DriveIx) -> bool {
        let order = &mut self.orders[drive.get() as usize];
        let harmless = !order.volatile_cache || order.released || order.reset || order.safe == order.issued;
        order.reset |= !harmless;
        !harmless
    }

    /// Whether everything that was written to a drive with a volatile cache is flushed.
    pub(crate) fn is_clean(&self, drive: DriveIx) -> bool {
        let order = &self.orders[drive.get() as usize];
        order.volatile_cache && order.safe == order.issued
    }

    /// The drive that was asked for this flush, if it is one.
    pub(crate) fn flushed(&self, op: OpIx) -> Option<DriveIx> {
        let io = &self.ops[op.0 as usize];
        (io.op == DriveOp::Flush).then_some(io.drive)
    }

    /// How many more may start.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// How many are under way.
    pub(crate) fn in_flight(&self) -> usize {
        MAX_DRIVE_OPS - self.free.len()
    }

    /// Begins an operation.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        token: IoToken,
        drive: DriveIx,
        op: DriveOp,
        at: DriveBlock,
        memory: &[Segment],
    ) -> Next {
        let there = self.orders.get(drive.get() as usize).is_some_and(|order| !order.released);
        assert!(there, "an action names a drive that is not there");
        let ix = self.free.pop().expect("polled only with room");
        let blocks: u64 = memory.iter().map(|s| u64::from(s.blocks)).sum();
        assert!((op == DriveOp::Flush) == (blocks == 0), "only a flush moves nothing");
        let io = &mut self.ops[ix as usize];
        io.segments.clear();
        // Adjacent memory becomes one piece: fewer, and often the single one that a registered buffer takes.
        for segment in memory {
            match io.segments.last_mut() {
                Some(last) if last.buf.plus(last.blocks) == segment.buf => last.blocks += segment.blocks,
                _ => io.segments.push(*segment),
            }
        }
        (io.token, io.drive, io.op, io.issued) = (token, drive, op, now);
        (io.at_bytes, io.total_bytes) = (bytes(at - DriveBlock::ZERO), bytes(Blocks::new(blocks)));
        (io.done_bytes, io.retries, io.reported, io.expired) = (0, 0, false, false);
        (io.active, io.given_up) = (true, false);
        let order = &mut self.orders[drive.get() as usize];
        order.issued += u64::from(op == DriveOp::Write);
        let (oldest, issued) = (order.head, order.issued);
        self.ops[ix as usize].mark = match op {
            DriveOp::Flush if oldest != NONE => self.ops[oldest as usize].mark - 1,
            _ => issued,
        };
        match op {
            DriveOp::Read => Next::Submit(OpIx(ix)),
            DriveOp::Write => {
                self.append(ix);
                Next::Submit(OpIx(ix))
            }
            DriveOp::Flush if self.orders[drive.get() as usize].volatile_cache => Next::Submit(OpIx(ix)),
            DriveOp::Flush => {
                self.append(ix);
                self.finish_flushes(drive);
                Next::Nothing
            }
        }
    }

    /// Takes the kernel's answer: bytes moved, or a negative error number.
    pub(crate) fn answered(&mut self, op: OpIx, result: i32) -> Next {
        let io = &mut self.ops[op.0 as usize];
        assert!(io.active, "the kernel answered an operation twice");
        if io.given_up {
            (io.active, io.given_up) = (false, false);
            self.free.push(op.0);
            return Next::Nothing;
        }
        if result < 0 {
            if matches!(-result, libc::EAGAIN | libc::EINTR) && io.retries < MAX_RETRIES && !io.expired {
                io.retries += 1;
                return Next::Submit(op);
            }
            let fault = if io.expired { Fault::Timeout } else { fault_of(-result) };
            self.finish(op, Err(fault), -result);
            return Next::Nothing;
        }
        if io.op == DriveOp::Flush {
            let order = &mut self.orders[io.drive.get() as usize];
            let result = if order.reset { Err(Fault::Gone) } else { Ok(()) };
            if result.is_ok() {
                order.safe = order.safe.max(io.mark);
            }
            self.finish(op, result, 0);
            return Next::Nothing;
        }
        if result == 0 {
            // The drive ends before its size said so: a truncated file, or a device that shrank.
            self.finish(op, Err(Fault::Medium), 0);
            return Next::Nothing;
        }
        io.done_bytes += result as u64;
        assert!(io.done_bytes <= io.total_bytes, "the kernel moved more than was asked");
        if io.done_bytes < io.total_bytes {
            return Next::Submit(op);
        }
        self.finish(op, Ok(()), 0);
        Next::Nothing
    }

    /// The next end to hand to the engine.
    pub(crate) fn next_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Whether an end waits to be handed over.
    pub(crate) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Drive, kind, byte address and memory of what is left: each piece as (segment, bytes to skip in it).
    pub(crate) fn remainder(&self, op: OpIx) -> Remainder<'_> {
        let io = &self.ops[op.0 as usize];
        let mut skip = io.done_bytes;
        let mut first = 0;
        while first < io.segments.len() && skip >= bytes(Blocks::new(u64::from(io.segments[first].blocks))) {
            skip -= bytes(Blocks::new(u64::from(io.segments[first].blocks)));
            first += 1;
        }
        Remainder {
            drive: io.drive,
            op: io.op,
            at_bytes: io.at_bytes + io.done_bytes,
            segments: &io.segments[first..],
            skip: skip as usize,
        }
    }

    /// Marks operations that are older than `slow` (reported once each), and those older than `deadline`, which
    /// are to be cancelled; passes each to `report`.
    pub(crate) fn watch(
        &mut self,
        now: Instant,
        slow: Duration,
        deadline: Duration,
        mut report: impl FnMut(Slow),
    ) {
        for (ix, io) in self.ops.iter_mut().enumerate().filter(|(_, io)| io.active && !io.given_up) {
            let age = now - io.issued;
            let newly_slow = age >= slow && !io.reported;
            let newly_expired = age >= deadline && !io.expired;
            if newly_slow || newly_expired {
                io.reported = true;
                io.expired |= newly_expired;
                let op = OpIx(ix as u32);
                report(Slow { op, drive: io.drive, kind: io.op, age, expired: newly_expired });
            }
        }
    }

    fn append(&mut self, ix: u32) {
        let order = &mut self.orders[self.ops[ix as usize].drive.get() as usize];
        let tail = std::mem::replace(&mut order.tail, ix);
        if tail == NONE {
            order.head = ix;
        } else {
            self.ops[tail as usize].after = ix;
        }
        (self.ops[ix as usize].before, self.ops[ix as usize].after) = (tail, NONE);
    }

    fn unlink(&mut self, ix: u32) {
        let DriveIo { before, after, drive, .. } = self.ops[ix as usize];
        let order = &mut self.orders[drive.get() as usize];
        if before == NONE {
            assert_eq!(order.head, ix, "the first of a drive's list is its head");
            order.head = after;
        } else {
            self.ops[before as usize].after = after;
        }
        if after == NONE {
            order.tail = before;
        } else {
            self.ops[after as usize].before = before;
        }
    }

    fn finish(&mut self, op: OpIx, result: Result<(), Fault>, errno: i32) {
        let io = &self.ops[op.0 as usize];
        let (drive, kind) = (io.drive, io.op);
        if kind == DriveOp::Write {
            self.unlink(op.0);
        }
        self.retire(op.0, result, errno);
        if kind == DriveOp::Write {
            self.finish_flushes(drive);
        }
    }

    /// Ends the flushes that no older write precedes. A failed write among them is no failed flush: it was
    /// answered as failed itself, and nobody counts on it.
    fn finish_flushes(&mut self, drive: DriveIx) {
        loop {
            let head = self.orders[drive.get() as usize].head;
            if head == NONE || self.ops[head as usize].op != DriveOp::Flush {
                return;
            }
            self.unlink(head);
            self.retire(head, Ok(()), 0);
        }
    }

    fn retire(&mut self, ix: u32, result: Result<(), Fault>, errno: i32) {
        self.answer(ix, result, errno);
        self.ops[ix as usize].active = false;
        self.free.push(ix);
    }

    fn answer(&mut self, ix: u32, result: Result<(), Fault>, errno: i32) {
        let io = &self.ops[ix as usize];
        let (token, drive, op, bytes, issued) = (io.token, io.drive, io.op, io.total_bytes, io.issued);
        self.finished.push_back(Finished { token, drive, op, bytes, issued, result, errno });
    }
}

/// See `DriveOps::remainder`.
pub(crate) struct Remainder<'a> {
    pub(crate) drive: DriveIx,
    pub(crate) op: DriveOp,
    pub(crate) at_bytes: u64,
    pub(crate) segments: &'a [Segment],
    /// Bytes of the first segment that are done.
    pub(crate) skip: usize,
}

fn bytes(blocks: Blocks) -> u64 {
    blocks.get() * BLOCK_BYTES as u64
}

/// The kernel's error numbers in the engine's words. EBADE is a reservation conflict and EREMOTEIO a target that
/// is gone: neither will come back by itself.
fn fault_of(errno: i32) -> Fault {
    match errno {
        libc::ENODEV | libc::ENXIO | libc::ENOLINK | libc::EBADE | libc::EREMOTEIO | libc::ESHUTDOWN => {
            Fault::Gone
        }
        libc::ETIMEDOUT | libc::ETIME => Fault::Timeout,
        _ => Fault::Medium,
    }
}

#[cfg(test)]
#[path = "ops/tests.rs"]
mod tests;
