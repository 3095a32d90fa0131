//! A toy engine that keeps the contract on crashing mirrors, and toys with one mistake each: they show that every
//! checker catches something and that none objects to a right engine.
//!
//! Layout of each leg: block 0 and 1 superblock slots, then the journal, then the volume in place. A write is a
//! journal entry (header with check, then the blocks) on every leg; when the journal is full everything is
//! written in place, flushed, and a superblock of the next version starts the journal anew. The whole volume
//! is kept in memory; one request is served at a time.
use crate::checks::Violation;
use crate::checks::c5::AtRest;
use crate::shape::{Shape, Strangers, Weather};
use crate::subject::Subject;
use base::codec::{check_at, put_check, put_u64, u64_at};
use base::limits::SLOT_DATA_BLOCKS;
use base::{
    Action, Actions, BLOCK_BYTES, Block, Blocks, BufId, Check, DriveBlock, DriveIx, DriveOp, Engine, Fault,
    Instant, IoToken, Memory, Op, Phase, Reply, Request, SECTOR_BYTES, SECTORS_PER_BLOCK, Segment, SlotId,
    Uuid,
};
use simkit::{Control, Open, Opening, Rng, SimDrive};
use std::collections::{BTreeSet, VecDeque};

const JOURNAL: u64 = 160;
const HOME: u64 = 2 + JOURNAL;

/// The mistakes, each named after itself.
pub const MISTAKES: [&str; 9] = [
    "ack-early",
    "skip-flush",
    "no-entry-check",
    "serve-unrepaired",
    "one-leg-home",
    "wrong-block",
    "fail-discard",
    "forget-flush",
    "harmless",
];

#[derive(Clone)]
pub struct Toy {
    blocks: u64,
    mistake: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Scan,
    JournalFlushed(Then),
    Homes(Then),
    HomesFlushed(Then),
    Super(Then),
    SuperFlushed(Then),
    Idle,
    Entry,
    EntryFlushed,
}

/// What a checkpoint was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Serve,
    Retry,
    Close,
}

pub struct ToyEngine {
    handles: Vec<Option<usize>>,
    legs: Vec<bool>,
    blocks: u64,
    mistake: Option<&'static str>,
    volume: Vec<Block>,
    dirty: BTreeSet<u64>,
    queue: VecDeque<Request>,
    stage: Stage,
    waiting: u32,
    token: u64,
    version: u64,
    life: u64,
    seq: u64,
    head: u64,
    closing: bool,
    phase: Phase,
}

impl Open for Toy {
    type Engine = ToyEngine;
    fn open(&mut self, opening: &Opening<'_>) -> ToyEngine {
        ToyEngine {
            handles: (0..opening.drives.len())
                .map(|i| opening.at_hand.iter().position(|d| *d == i))
                .collect(),
            legs: opening.drives.iter().map(|drive| !drive.is_dead()).collect(),
            blocks: self.blocks,
            mistake: self.mistake,
            volume: vec![[0; BLOCK_BYTES]; self.blocks as usize],
            dirty: BTreeSet::new(),
            queue: VecDeque::new(),
            stage: Stage::Scan,
            waiting: 0,
            token: 0,
            version: 0,
            life: opening.activation.get(),
            seq: 0,
            head: 0,
            closing: false,
            phase: Phase::Recovering,
        }
    }
}

impl Subject for Toy {
    fn bend(shape: &mut Shape) {
        (shape.columns, shape.spares, shape.twins) = (1, 0, false);
        shape.spread = crate::shape::ISLAND_BLOCKS;
        shape.volume_blocks = shape.volume_blocks.min(96);
        shape.requests = shape.requests.min(150);
        (shape.ends, shape.ghosts, shape.pauses) = (false, false, 0);
        (shape.most_legs, shape.first_blocks, shape.closes) = (0, 0, 0);
        (shape.disasters, shape.scrubs) = (false, false);
        (shape.lies, shape.strangers, shape.unplugs) = (false, Strangers::None, 0);
        (shape.forgets, shape.silences) = (false, false);
        (shape.doors, shape.stand_ins, shape.mixed) = (false, 0, false);
        shape.fault_every = 0;
        shape.recovery_faults = 0;
        shape.weather = Weather::Crashes;
    }
    fn create(shape: &Shape, planted: Option<&str>, rng: &mut Rng) -> (Self, Vec<SimDrive>, Control) {
        let mistake = planted.map(|name| *MISTAKES.iter().find(|m| **m == name).expect("a known mistake"));
        let size = Blocks::new(HOME + shape.volume_blocks);
        let mut sealed = [0; BLOCK_BYTES];
        ToyEngine::seal_super(&mut sealed, 1, 0);
        let drives = (0..shape.legs).map(|_| {
            let mut drive = SimDrive::new(Uuid(rng.bytes16()), size, shape.volatile);
            drive.poke(DriveBlock::new(1), &sealed);
            drive
        });
        (Self { blocks: shape.volume_blocks, mistake }, drives.collect(), Control::default())
    }
    fn plantable() -> Vec<&'static str> {
        MISTAKES.to_vec()
    }
    fn recovery_rows(_: &ToyEngine) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
    fn at_rest(&self, drives: &[SimDrive], _: &[bool], _: bool) -> Result<AtRest, Violation> {
        let legs = 0..drives.len() as u8;
        let place =
            |at: u64| legs.clone().map(|leg| (DriveIx::new(leg), DriveBlock::new(HOME + at))).collect();
        Ok(AtRest { mapped: (0..self.blocks).map(place).collect(), ..AtRest::default() })
    }
    fn refusal(_: &ToyEngine) -> String {
        "toys do not refuse".into()
    }
}

impl ToyEngine {
    fn seal_super(block: &mut Block, version: u64, life: u64) {
        put_u64(block, 0, version);
        put_u64(block, 8, life);
        let check = Check::of(&block[..16]);
        put_check(block, 16, check);
    }

    fn buffer(&self, leg: usize) -> BufId {
        BufId::new(leg as u32 * (HOME + self.blocks) as u32)
    }

    fn is(&self, mistake: &str) -> bool {
        self.mistake == Some(mistake)
    }

    /// The same operation on every leg that is there, from (or to) each leg's own buffers.
    fn all_legs(&mut self, out: &mut Actions, op: DriveOp, at: u64, blocks: u64) {
        for leg in 0..self.legs.len() {
            if !self.legs[leg] || (leg == 1 && at >= HOME && self.is("one-leg-home")) {
                continue;
            }
            let memory = [Segment { buf: self.buffer(leg).plus(at as u32), blocks: blocks as u32 }];
            let memory = if op == DriveOp::Flush { &memory[..0] } else { &memory[..] };
            self.token += 1;
            self.waiting += 1;
            let handle = DriveIx::new(self.handles[leg].expect("it is there") as u8);
            out.drive(IoToken(self.token), handle, op, DriveBlock::new(at), memory);
        }
    }

    fn put_everywhere(&self, memory: &mut impl Memory, at: u64, block: &Block) {
        for leg in 0..self.legs.len() {
            *memory.block_mut(self.buffer(leg).plus(at as u32)) = *block;
        }
    }

    /// The journal must be durable before its blocks are written in place.
    fn start_checkpoint(&mut self, out: &mut Actions, then: Then) {
        self.stage = Stage::JournalFlushed(then);
        self.all_legs(out, DriveOp::Flush, 0, 0);
    }

    fn write_homes(&mut self, memory: &mut impl Memory, out: &mut Actions, then: Then) {
        self.stage = Stage::Homes(then);
        // Only what the journal holds: a crash may leave noise, and nothing else could repair it.
        let homes: Vec<u64> = self.dirty.iter().copied().take(48).collect();
        for at in &homes {
            self.dirty.remove(at);
            self.put_everywhere(memory, HOME + at, &self.volume[*at as usize]);
            self.all_legs(out, DriveOp::Write, HOME + at, 1);
        }
    }

    /// Everything that the stage waited for has ended.
    fn next_stage(&mut self, memory: &mut impl Memory, out: &mut Actions) {
        match self.stage {
            Stage::Scan if self.token == 0 => self.all_legs(out, DriveOp::Read, 0, HOME + self.blocks),
            Stage::Scan => {
                self.replay(memory);
                if self.is("serve-unrepaired") {
                    self.stage = Stage::Idle;
                    self.phase = Phase::Serving;
                } else {
                    self.start_checkpoint(out, Then::Serve);
                }
            }
            Stage::JournalFlushed(then) => self.write_homes(memory, out, then),
            Stage::Homes(then) if !self.dirty.is_empty() => {
                self.write_homes(memory, out, then);
            }
            Stage::Homes(then) => {
                self.stage = Stage::HomesFlushed(then);
                self.all_legs(out, DriveOp::Flush, 0, 0);
            }
            Stage::HomesFlushed(then) => {
                self.stage = Stage::Super(then);
                self.version += 1;
                // Entries of the journal's last lap must not be taken for new ones.
                self.life = (self.version << 32) | (self.life & 0xffff_ffff);
                let mut block = [0; BLOCK_BYTES];
                Self::seal_super(&mut block, self.version, self.life);
                let slot = self.version % 2;
                self.put_everywhere(memory, slot, &block);
                self.all_legs(out, DriveOp::Write, slot, 1);
            }
            Stage::Super(then) => {
                self.stage = Stage::SuperFlushed(then);
                self.all_legs(out, DriveOp::Flush, 0, 0);
            }
            Stage::SuperFlushed(then) => {
                self.seq = 0;
                self.head = 0;
                self.dirty.clear();
                self.stage = Stage::Idle;
                self.phase = if then == Then::Close { Phase::Closed } else { Phase::Serving };
            }
            Stage::Idle => {}
            Stage::Entry | Stage::EntryFlushed => {
                let request = *self.queue.front().expect("served one at a time");
                if self.stage == Stage::Entry && request.fua && !self.is("skip-flush") {
                    self.stage = Stage::EntryFlushed;
                    return self.all_legs(out, DriveOp::Flush, 0, 0);
                }
                self.stage = Stage::Idle;
                self.queue.pop_front();
                if !(self.is("ack-early") && request.op == Op::Write) {
                    self.end(out, request.slot, Ok(()));
                }
            }
        }
    }

    fn end(&self, out: &mut Actions, slot: SlotId, result: Result<(), Fault>) {
        out.push(Action::Complete { slot, result });
    }

    fn replay(&mut self, memory: &mut impl Memory) {
        let legs: Vec<BufId> = (0..self.legs.len()).map(|leg| self.buffer(leg)).collect();
        let at = |leg: usize, block: u64| legs[leg].plus(block as u32);
        let there: Vec<usize> = (0..self.legs.len()).filter(|leg| self.legs[*leg]).collect();
        let newest = |leg: &usize| {
            let slots = [0, 1].map(|slot| memory.block(at(*leg, slot)));
            let valid = slots.into_iter().filter(|s| Check::of(&s[..16]) == check_at(*s, 16));
            valid.map(|s| (u64_at(s, 0), u64_at(s, 8))).max().expect("one slot is always valid")
        };
        let (version, life) = there.iter().map(newest).max().expect("a leg is there");
        let best = *there.iter().find(|leg| newest(leg) == (version, life)).expect("just seen");
        self.version = version;
        for i in 0..self.blocks {
            self.volume[i as usize] = *memory.block(at(best, HOME + i));
        }
        let (mut head, mut seq) = (2, 1);
        'entries: while head < HOME {
            for leg in &there {
                let header = memory.block(at(*leg, head));
                let blocks = u64_at(header, 24);
                if (u64_at(header, 0), u64_at(header, 8)) != (life, seq) || head + 1 + blocks > HOME {
                    continue;
                }
                let data = memory.blocks(at(*leg, head + 1), blocks as u32);
                if Check::of(data) != check_at(header, 32) && !self.is("no-entry-check") {
                    continue;
                }
                for (i, block) in data.chunks_exact(BLOCK_BYTES).enumerate() {
                    let to = u64_at(header, 16) as usize + i;
                    self.volume[to] = block.try_into().expect("one block");
                    self.dirty.insert(to as u64);
                }
                head += 1 + blocks;
                seq += 1;
                continue 'entries;
            }
            break;
        }
        if self.is("serve-unrepaired") {
            (self.life, self.seq, self.head) = (life, seq - 1, head - 2);
        }
    }

    fn serve(&mut self, memory: &mut impl Memory, out: &mut Actions) {
        let Some(request) = self.queue.front().copied() else {
            if self.closing && self.phase == Phase::Serving {
                self.phase = Phase::Closing;
                self.start_checkpoint(out, Then::Close);
            }
            return;
        };
        let first = request.sector.lba().get();
        let last = (request.sector.get() + request.sectors.get()).div_ceil(SECTORS_PER_BLOCK);
        let buffer = self.slot_buffer(request.slot);
        match request.op {
            Op::Read => {
                for at in first..last {
                    let from = if self.is("wrong-block") && at == 3 { 5 } else { at };
                    *memory.block_mut(buffer.plus((at - first) as u32)) = self.volume[from as usize];
                }
                self.queue.pop_front();
                self.end(out, request.slot, Ok(()));
            }
            Op::Flush if self.is("forget-flush") => {
                self.queue.pop_front();
            }
            Op::Discard if self.is("fail-discard") => {
                self.queue.pop_front();
                self.end(out, request.slot, Err(Fault::Io));
            }
            Op::Flush => {
                self.stage = Stage::EntryFlushed;
                if !self.is("skip-flush") {
                    self.all_legs(out, DriveOp::Flush, 0, 0);
                }
            }
            _ => self.write(&request, first, last, memory, out),
        }
    }

    fn write(
        &mut self,
        request: &Request,
        first: u64,
        last: u64,
        memory: &mut impl Memory,
        out: &mut Actions,
    ) {
        let last = last.min(first + SLOT_DATA_BLOCKS as u64 + 64);
        if self.head + 1 + (last - first) > JOURNAL {
            return self.start_checkpoint(out, Then::Retry);
        }
        let buffer = self.slot_buffer(request.slot);
        let (start, end) = (request.sector.get(), request.sector.get() + request.sectors.get());
        for sector in start..end.min(last * SECTORS_PER_BLOCK) {
            let at = (sector / SECTORS_PER_BLOCK) as usize;
            let offset = (sector % SECTORS_PER_BLOCK) as usize * SECTOR_BYTES;
            let to = &mut self.volume[at][offset..offset + SECTOR_BYTES];
            if request.op == Op::Write {
                let from = memory.block(buffer.plus((at as u64 - first) as u32));
                to.copy_from_slice(&from[offset..offset + SECTOR_BYTES]);
            } else {
                to.fill(0);
            }
        }
        self.seq += 1;
        let data: Vec<u8> = self.volume[first as usize..last as usize].concat();
        let mut header = [0; BLOCK_BYTES];
        for (i, field) in [self.life, self.seq, first, last - first].into_iter().enumerate() {
            put_u64(&mut header, i * 8, field);
        }
        put_check(&mut header, 32, Check::of(&data));
        self.put_everywhere(memory, 2 + self.head, &header);
        for (i, block) in data.chunks_exact(BLOCK_BYTES).enumerate() {
            self.put_everywhere(memory, 3 + self.head + i as u64, block.try_into().expect("one block"));
        }
        self.all_legs(out, DriveOp::Write, 2 + self.head, 1 + last - first);
        self.head += 1 + last - first;
        self.dirty.extend(first..last);
        self.stage = Stage::Entry;
        if self.is("ack-early") && request.op == Op::Write {
            self.end(out, request.slot, Ok(()));
        }
    }
}

impl Engine for ToyEngine {
    fn memory_blocks(&self) -> u32 {
        self.buffer(self.legs.len()).get() + 64 * SLOT_DATA_BLOCKS
    }
    fn slot_buffer(&self, slot: SlotId) -> BufId {
        self.buffer(self.legs.len()).plus(u32::from(slot.0) * SLOT_DATA_BLOCKS)
    }
    fn submit(&mut self, request: Request) {
        self.queue.push_back(request);
    }
    fn drive_done(&mut self, _: IoToken, result: Result<(), Fault>) {
        result.expect("toys live in fair weather");
        self.waiting -= 1;
    }
    fn reply(&mut self, _: Reply) {}
    fn poll<M: Memory>(&mut self, now: Instant, memory: &mut M, out: &mut Actions) -> Option<Instant> {
        if self.waiting > 0 {
            return None;
        }
        let before = (self.stage, self.queue.len(), self.phase);
        self.next_stage(memory, out);
        if self.waiting == 0 && self.stage == Stage::Idle && self.phase == Phase::Serving {
            self.serve(memory, out);
        }
        let after = (self.stage, self.queue.len(), self.phase);
        (self.waiting == 0 && before != after).then_some(now)
    }
    fn phase(&self) -> Phase {
        self.phase
    }
    fn close(&mut self) {
        self.closing = true;
    }
}

mod tests;
