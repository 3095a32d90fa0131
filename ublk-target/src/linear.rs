//! The plainest engine: block `n` of the volume is block `n` of drive 0.
//!
//! It promises what a plain disk promises and no more: no mirror, no log, a torn write stays torn. It exists to
//! test the loop and the front ends apart from the real engine, and as the baseline that measures what they cost.
//!
//! A request goes through the stages of `Stage`. Requests that overlap in any block are served one after the
//! other, because a write that starts or ends inside a block reads that block first.
use crate::front::{Allocation, Extent};
use base::limits::{MAX_SLOTS, SLOT_DATA_BLOCKS};
use base::{
    Actions, BLOCK_BYTES, Blocks, BufId, DriveBlock, DriveIx, DriveOp, Engine, Fault, Instant, IoToken, Lba,
    Memory, Op, Phase, Reply, Request, SECTOR_BYTES, SECTORS_PER_BLOCK, Sector, Sectors, Segment, SlotId,
};
use std::collections::VecDeque;

/// Blocks of zeroes that discards write from, and blocks that one step of a discard covers.
const ZERO_BLOCKS: u32 = 64;
/// Blocks of memory of a slot: its data, and one block for each end that must be read first.
const SLOT_BLOCKS: u32 = SLOT_DATA_BLOCKS + 2;
const DRIVE: DriveIx = DriveIx::ZERO;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Reading the blocks that the request covers in part.
    Edges,
    /// Reading or writing the data.
    Data,
    /// Writing zeroes up to this block.
    Zeroes,
    /// Making it durable.
    Flush,
}

#[derive(Clone, Copy)]
struct Job {
    request: Request,
    stage: Stage,
    /// Operations under way.
    pending: u8,
    fault: Option<Fault>,
    /// Next block to write zeroes to.
    next: Lba,
}

/// The engine.
pub struct LinearEngine {
    sectors: Sectors,
    jobs: Vec<Option<Job>>,
    /// Requests in order of arrival that have not started.
    waiting: VecDeque<Request>,
    /// Ends of operations, not yet worked on.
    done: VecDeque<(SlotId, Result<(), Fault>)>,
    ready: VecDeque<SlotId>,
    /// One bit per block: whether it was zeroed by this engine and not written since.
    holes: Vec<u64>,
    phase: Phase,
}

impl LinearEngine {
    /// An engine for a drive of this size.
    pub fn new(size: Blocks) -> Self {
        Self {
            sectors: Sectors::new(size.get() * SECTORS_PER_BLOCK),
            jobs: vec![None; MAX_SLOTS],
            waiting: VecDeque::with_capacity(MAX_SLOTS),
            done: VecDeque::with_capacity(2 * MAX_SLOTS),
            ready: VecDeque::with_capacity(MAX_SLOTS),
            holes: vec![0; (size.get() as usize).div_ceil(64)],
            phase: Phase::Serving,
        }
    }

    /// The size of the volume.
    pub fn sectors(&self) -> Sectors {
        self.sectors
    }

    fn buffer(slot: SlotId) -> BufId {
        BufId::new(ZERO_BLOCKS + u32::from(slot.0) * SLOT_BLOCKS)
    }

    /// Starts waiting requests, in order, that overlap with nothing under way nor with an older waiting one.
    fn start_waiting(&mut self, memory: &mut impl Memory, out: &mut Actions) {
        let mut index = 0;
        while index < self.waiting.len() && out.has_room(2, 2) {
            let request = self.waiting[index];
            let running = self.jobs.iter().flatten().any(|job| overlap(&job.request, &request));
            let older = self.waiting.iter().take(index).any(|other| overlap(other, &request));
            if running || older {
                index += 1;
                continue;
            }
            self.waiting.remove(index);
            self.start(request, memory, out);
        }
    }

    fn start(&mut self, request: Request, memory: &mut impl Memory, out: &mut Actions) {
        let slot = request.slot;
        let next = Lba::new(request.sector.get().div_ceil(SECTORS_PER_BLOCK));
        let outside = request.sector.get() + request.sectors.get() > self.sectors.get();
        let fault = outside.then_some(Fault::Invalid);
        self.jobs[slot.0 as usize] = Some(Job { request, stage: Stage::Data, pending: 0, fault, next });
        if outside {
            return self.ready.push_back(slot);
        }
        match request.op {
            Op::Read => self.transfer(slot, DriveOp::Read, out),
            Op::Flush => self.flush(slot, out),
            Op::Write | Op::Discard | Op::WriteZeroes => self.read_edges(slot, memory, out),
        }
    }

    fn read_edges(&mut self, slot: SlotId, memory: &mut impl Memory, out: &mut Actions) {
        let job = self.jobs[slot.0 as usize].as_mut().expect("a job");
        job.stage = Stage::Edges;
        for (n, edge) in edges(&job.request).into_iter().enumerate() {
            let Some(edge) = edge else { continue };
            let buf = Self::buffer(slot).plus(SLOT_DATA_BLOCKS + n as u32);
            let at = DriveBlock::new(edge.get());
            out.drive(token(slot), DRIVE, DriveOp::Read, at, &[Segment { buf, blocks: 1 }]);
            job.pending += 1;
        }
        if job.pending == 0 {
            self.after_edges(slot, memory, out);
        }
    }

    /// The ends are in memory: complete the data with them, or write zeroes into them.
    fn after_edges(&mut self, slot: SlotId, memory: &mut impl Memory, out: &mut Actions) {
        let Job { request, .. } = self.jobs[slot.0 as usize].expect("a job");
        let (base, [head, tail]) = (Self::buffer(slot), edges(&request));
        let start = request.sector.offset_in_block();
        let end = (request.sector + request.sectors).offset_in_block();
        let spare = |n: u32| base.plus(SLOT_DATA_BLOCKS + n);
        if request.op == Op::Write {
            let (blocks, first) = (span(&request), request.sector.lba());
            if head.is_some() {
                let edge = *memory.block(spare(0));
                memory.block_mut(base)[..start].copy_from_slice(&edge[..start]);
            }
            if let Some(lba) = tail {
                let from = if head == Some(lba) { spare(0) } else { spare(1) };
                let edge = *memory.block(from);
                memory.block_mut(base.plus(blocks - 1))[end..].copy_from_slice(&edge[end..]);
            }
            self.set_holes(first, Blocks::new(u64::from(blocks)), false);
            return self.transfer(slot, DriveOp::Write, out);
        }
        let same = head.is_some() && head == tail;
        for (n, edge) in [head, tail].into_iter().enumerate().filter(|(n, _)| !(same && *n == 1)) {
            let Some(lba) = edge else { continue };
            let block = memory.block_mut(spare(n as u32));
            let range = match (n, same) {
                (0, true) => start..end,
                (0, false) => start..BLOCK_BYTES,
                _ => 0..end,
            };
            block[range].fill(0);
            let segment = Segment { buf: spare(n as u32), blocks: 1 };
            out.drive(token(slot), DRIVE, DriveOp::Write, DriveBlock::new(lba.get()), &[segment]);
            self.jobs[slot.0 as usize].as_mut().expect("a job").pending += 1;
        }
        self.jobs[slot.0 as usize].as_mut().expect("a job").stage = Stage::Zeroes;
        if self.jobs[slot.0 as usize].expect("a job").pending == 0 {
            self.write_zeroes(slot, out);
        }
    }

    /// Writes the next run of whole zero blocks, or goes on.
    fn write_zeroes(&mut self, slot: SlotId, out: &mut Actions) {
        let job = self.jobs[slot.0 as usize].as_mut().expect("a job");
        let end = (job.request.sector + job.request.sectors).get() / SECTORS_PER_BLOCK;
        let left = end.saturating_sub(job.next.get());
        if left == 0 {
            return self.after_data(slot, out);
        }
        let blocks = left.min(u64::from(ZERO_BLOCKS)) as u32;
        let (first, count) = (job.next, Blocks::new(u64::from(blocks)));
        let segment = Segment { buf: BufId::new(0), blocks };
        out.drive(token(slot), DRIVE, DriveOp::Write, DriveBlock::new(first.get()), &[segment]);
        job.next = first + count;
        job.pending = 1;
        self.set_holes(first, count, true);
    }

    fn transfer(&mut self, slot: SlotId, op: DriveOp, out: &mut Actions) {
        let job = self.jobs[slot.0 as usize].as_mut().expect("a job");
        job.stage = Stage::Data;
        job.pending = 1;
        let at = DriveBlock::new(job.request.sector.lba().get());
        let segment = Segment { buf: Self::buffer(slot), blocks: span(&job.request) };
        out.drive(token(slot), DRIVE, op, at, &[segment]);
    }

    fn after_data(&mut self, slot: SlotId, out: &mut Actions) {
        if self.jobs[slot.0 as usize].expect("a job").request.fua {
            self.flush(slot, out);
        } else {
            self.ready.push_back(slot);
        }
    }

    fn flush(&mut self, slot: SlotId, out: &mut Actions) {
        let job = self.jobs[slot.0 as usize].as_mut().expect("a job");
        job.stage = Stage::Flush;
        job.pending = 1;
        out.drive(token(slot), DRIVE, DriveOp::Flush, DriveBlock::ZERO, &[]);
    }

    fn advance(&mut self, slot: SlotId, memory: &mut impl Memory, out: &mut Actions) {
        let job = self.jobs[slot.0 as usize].expect("a job");
        if job.fault.is_some() {
            return self.ready.push_back(slot);
        }
        match job.stage {
            Stage::Edges => self.after_edges(slot, memory, out),
            Stage::Zeroes => self.write_zeroes(slot, out),
            Stage::Data => self.after_data(slot, out),
            Stage::Flush => self.ready.push_back(slot),
        }
    }

    fn set_holes(&mut self, first: Lba, count: Blocks, hole: bool) {
        for lba in first.get()..first.get() + count.get() {
            let (word, bit) = ((lba / 64) as usize, 1 << (lba % 64));
            if hole { self.holes[word] |= bit } else { self.holes[word] &= !bit }
        }
    }

    fn is_hole(&self, lba: u64) -> bool {
        self.holes[(lba / 64) as usize] & (1 << (lba % 64)) != 0
    }
}

impl Engine for LinearEngine {
    fn memory_blocks(&self) -> u32 {
        ZERO_BLOCKS + MAX_SLOTS as u32 * SLOT_BLOCKS
    }
    fn slot_buffer(&self, slot: SlotId) -> BufId {
        Self::buffer(slot)
    }
    fn submit(&mut self, request: Request) {
        assert!(self.jobs[request.slot.0 as usize].is_none(), "the slot is free");
        self.waiting.push_back(request);
    }
    fn drive_done(&mut self, token: IoToken, result: Result<(), Fault>) {
        self.done.push_back((SlotId(token.0 as u16), result));
    }
    fn reply(&mut self, reply: Reply) {
        let news = matches!(reply, Reply::Quiet { .. });
        assert!(news, "nothing was asked, yet {reply:?} was answered");
    }
    fn poll<M: Memory>(&mut self, now: Instant, memory: &mut M, out: &mut Actions) -> Option<Instant> {
        while out.has_room(4, 4)
            && let Some((slot, result)) = self.done.pop_front()
        {
            let job = self.jobs[slot.0 as usize].as_mut().expect("a job");
            job.pending -= 1;
            job.fault = job.fault.or(result.err().map(|_| Fault::Io));
            if job.pending == 0 {
                self.advance(slot, memory, out);
            }
        }
        while out.has_room(1, 0)
            && let Some(slot) = self.ready.pop_front()
        {
            let job = self.jobs[slot.0 as usize].take().expect("a job");
            let result = job.fault.map_or(Ok(()), Err);
            out.push(base::Action::Complete { slot, result });
        }
        self.start_waiting(memory, out);
        if self.phase == Phase::Closing && self.waiting.is_empty() && self.jobs.iter().all(Option::is_none) {
            self.phase = Phase::Closed;
        }
        let more = !self.done.is_empty() || !self.ready.is_empty();
        let started = self.waiting.is_empty() || out.has_room(2, 2);
        (more || !started).then_some(now)
    }
    fn phase(&self) -> Phase {
        self.phase
    }
    fn close(&mut self) {
        self.phase = Phase::Closing;
    }
}

impl Allocation for LinearEngine {
    fn allocation(&self, _memory: &dyn Memory, from: Sector, limit: Sectors) -> (Extent, Sectors) {
        let first = from.lba().get();
        let end = (from + limit).get();
        let hole = self.is_hole(first);
        let last = (first + 1..=(end - 1) / SECTORS_PER_BLOCK).find(|lba| self.is_hole(*lba) != hole);
        let until = last.map_or(end, |lba| lba * SECTORS_PER_BLOCK);
        (if hole { Extent::Hole } else { Extent::Data }, Sectors::new(until - from.get()))
    }
}

fn token(slot: SlotId) -> IoToken {
    IoToken(u64::from(slot.0))
}

/// Blocks that a request touches.
fn span(request: &Request) -> u32 {
    let bytes = request.sector.offset_in_block() + request.sectors.get() as usize * SECTOR_BYTES;
    bytes.div_ceil(BLOCK_BYTES) as u32
}

/// First and last block if they are covered in part (the same block twice if both ends lie in it).
fn edges(request: &Request) -> [Option<Lba>; 2] {
    let end = request.sector + request.sectors;
    let head = (request.sector.offset_in_block() != 0).then(|| request.sector.lba());
    let tail = (end.offset_in_block() != 0).then(|| end.lba());
    [head, tail]
}

/// Whether one has to wait for the other: both touch a block and one changes it.
fn overlap(one: &Request, other: &Request) -> bool {
    if one.op == Op::Flush || other.op == Op::Flush || (one.op == Op::Read && other.op == Op::Read) {
        return false;
    }
    let blocks = |r: &Request| {
        let first = r.sector.lba().get();
        (first, (r.sector + r.sectors).get().div_ceil(SECTORS_PER_BLOCK))
    };
    let ((a, b), (c, d)) = (blocks(one), blocks(other));
    a < d && c < b
}
