//! A simulated drive: sparse blocks under a volatile cache, with every fault that drives are known for.
//!
//! What holds, and what an engine may rely on:
//! - a read sees every write that completed before it was issued, flushed or not;
//! - a completed flush makes durable every write that had completed before the flush was *issued*, no more;
//! - a drive without a volatile cache makes a write durable before it completes; there a flush completes once
//!   all writes issued before it have;
//! - operations in flight complete in any order; a read that races a write of the same block may return either;
//! - a sector is written as a whole or not at all, a block is not; see `crash` for what power loss does.
//!
//! Faults are armed on a drive (`arm`) and act on the next operations that they fit. The caller keeps the clock:
//! `issue` says when the operation will end, `complete` ends it.
use crate::crash::CrashMode;
use crate::doubt::{Doubts, or_zeroes};
use crate::fault::{Armed, FaultCounts, FaultKind};
use crate::image::Image;
use crate::rng::Rng;
use base::{
    BLOCK_BYTES, Block, Blocks, DriveBlock, DriveOp, Duration, Fault, Instant, IoToken, Memory, Segment, Uuid,
};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How long an operation takes at least and at most when nothing is wrong.
const NORMAL: (u64, u64) = (20_000, 400_000);
/// A flush of a volatile cache.
const FLUSH: (u64, u64) = (100_000, 2_000_000);
/// Of what can become of a block whose flush failed: reads return it, and nothing but another write makes it durable.
const GIVEN_UP: u64 = 3;
/// How much slower a slow drive is.
const SLOW_FACTOR: u64 = 1_000;
/// When a hanging operation ends.
const HANG: (u64, u64) = (5_000_000_000, 300_000_000_000);
/// When what a silent drive was asked for ends, if nothing happens to it before: in a year.
const NEVER: u64 = 365 * 86_400 * 1_000_000_000;

/// An operation that was issued and has not ended.
#[derive(Clone)]
pub(crate) struct InFlight {
    token: IoToken,
    op: DriveOp,
    at: u64,
    blocks: u64,
    memory: Vec<Segment>,
    /// What a write carries, one entry per block.
    pub(crate) content: Vec<Rc<Block>>,
    /// What goes wrong with it.
    fault: Option<FaultKind>,
    /// For a flush: writes completed before it was issued.
    watermark: u64,
    ends: Instant,
    /// Nobody waits for it: it has its effects on the drive, and touches no memory.
    given_up: bool,
}

impl InFlight {
    /// The blocks that a write would change.
    pub(crate) fn writes(&self) -> impl Iterator<Item = (u64, &Rc<Block>)> {
        self.content.iter().enumerate().map(|(i, content)| (self.at + i as u64, content))
    }
}

/// A completed write of one block that no flush has covered.
#[derive(Clone)]
pub(crate) struct Dirty {
    order: u64,
    pub(crate) content: Rc<Block>,
    /// A flush that lied said that it is durable.
    pub(crate) promised: bool,
    /// Nobody meant it to be here: it went astray, or is what an error left.
    pub(crate) astray: bool,
    /// A flush of it failed, and no later one will make it durable: only what is written over it can be.
    given_up: bool,
}

/// One simulated drive.
#[derive(Clone)]
pub struct SimDrive {
    /// Its identity, as its label says.
    pub uuid: Uuid,
    /// Whether it has a volatile cache.
    pub volatile: bool,
    /// How often each fault acted here.
    pub counts: FaultCounts,
    pub(crate) image: Image,
    pub(crate) dirty: BTreeMap<u64, Vec<Dirty>>,
    pub(crate) in_flight: Vec<Option<InFlight>>,
    /// What blocks held before their last write, for stale reads; kept only when asked for.
    pub(crate) older: Option<BTreeMap<u64, Rc<Block>>>,
    armed: Vec<Armed>,
    dead: bool,
    /// It answers nothing.
    silent: bool,
    order: u64,
    reads: Option<BTreeMap<u64, u64>>,
    pub(crate) doubts: Doubts,
    /// How many times as long as another's its flushes take.
    flush_factor: u64,
    /// It was reset with something in its cache, and whoever uses it was not told by a flush yet, or has not begun anew.
    pub(crate) reset: bool,
    /// What it may be set back to.
    pub(crate) memory: Option<Box<crate::past::Memory>>,
}

impl SimDrive {
    /// A drive of zeroes.
    pub fn new(uuid: Uuid, blocks: Blocks, volatile: bool) -> Self {
        Self {
            uuid,
            volatile,
            counts: FaultCounts::default(),
            image: Image::new(blocks.get()),
            dirty: BTreeMap::new(),
            in_flight: Vec::new(),
            older: None,
            armed: Vec::new(),
            dead: false,
            silent: false,
            order: 0,
            reads: None,
            doubts: Doubts::default(),
            flush_factor: 1,
            reset: false,
            memory: None,
        }
    }

    /// Its size.
    pub fn blocks(&self) -> Blocks {
        Blocks::new(self.image.blocks())
    }

    /// Whether it is there.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight.iter().all(Option::is_none)
    }

    /// Whether nothing is in flight but what was given up.
    pub fn is_given_up(&self) -> bool {
        self.in_flight.iter().flatten().all(|flight| flight.given_up)
    }

    /// Whether something that was given up is in flight.
    pub fn has_given_up(&self) -> bool {
        self.in_flight.iter().flatten().any(|flight| flight.given_up)
    }

    /// Whether a write that was given up is in flight.
    pub fn may_be_written_late(&self) -> bool {
        self.in_flight.iter().flatten().any(|flight| flight.given_up && flight.op == DriveOp::Write)
    }

    /// Whether this operation was given up.
    pub fn was_given_up(&self, id: u32) -> bool {
        self.in_flight[id as usize].as_ref().is_some_and(|flight| flight.given_up)
    }

    /// What is in flight takes its time and has its effects on the drive, but touches no memory any more: which
    /// operations these are.
    pub fn give_up(&mut self) -> Vec<IoToken> {
        let flights = self.in_flight.iter_mut().flatten().filter(|flight| !flight.given_up);
        let give_up = |flight: &mut InFlight| {
            flight.given_up = true;
            flight.memory.clear();
            flight.token
        };
        flights.map(give_up).collect()
    }

    /// Makes a fault wait for the operations that it fits. `Death` acts at once, and so does `BitRot`, on the
    /// block that is given by chance.
    pub fn arm(&mut self, fault: Armed) {
        assert!(fault.times > 0);
        if matches!(fault.kind, FaultKind::StaleRead) && self.older.is_none() {
            self.older = Some(BTreeMap::new());
        }
        self.armed.push(fault);
    }

    /// Ends all armed faults. A dead drive stays dead.
    pub fn heal(&mut self) {
        self.armed.clear();
    }

    /// Whether a fault waits here.
    pub fn is_armed(&self) -> bool {
        !self.armed.is_empty()
    }

    /// Whether a fault waits here for a read.
    pub fn may_misread(&self) -> bool {
        self.armed.iter().any(|armed| fits(armed.kind, DriveOp::Read))
    }

    /// The drive is gone from now on; what is in flight will end with `Gone`.
    pub fn kill(&mut self) {
        if !self.dead {
            self.dead = true;
            self.counts.add(FaultKind::Death);
        }
    }

    /// From now on it answers nothing, until power or the process that uses it goes away; what is in flight ends as usual.
    pub fn fall_silent(&mut self) {
        if !self.silent && !self.dead {
            self.silent = true;
            self.counts.add(FaultKind::Silence);
        }
    }

    /// Whether it answers nothing.
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    pub(crate) fn speak(&mut self) {
        self.silent = false;
    }

    /// Its controller, its connection or its host is reset: what was in its cache is lost, made durable or still there,
    /// block by block. What is in flight is sent again by whoever is below the driver.
    pub fn reset(&mut self, rng: &mut Rng) {
        if !self.dirty.is_empty() && !self.dead {
            self.lose_some(rng, u64::MAX);
            self.reset = true;
            self.counts.add(FaultKind::Reset);
        }
    }

    /// Whoever uses it opens it anew.
    pub fn begin_anew(&mut self) {
        self.reset = false;
    }

    /// A dead drive is back with what it held; only between a crash and the next opening.
    pub fn revive(&mut self) {
        assert!(self.is_idle(), "a drive returns only while nobody uses it");
        if self.dead {
            self.dead = false;
            self.counts.add(FaultKind::Return);
        }
    }

    /// A dead drive is plugged in again while the group goes on without it: with its cache, where it had power all the
    /// time and only its connection was cut, or with what a power loss left of that.
    pub fn replug(&mut self, rng: &mut Rng, powered: bool) {
        assert!(
            self.is_idle() && self.dead,
            "a drive returns only when nothing that it was asked for is under way"
        );
        self.dead = false;
        if !powered {
            self.crash(rng, CrashMode::Random);
        }
        self.counts.add(FaultKind::Replug);
    }

    /// Turns one bit of a block at rest, if any of some places tried holds data.
    pub fn rot(&mut self, rng: &mut Rng) {
        for _ in 0..64 {
            let block = rng.below(self.image.blocks());
            let Some(mut content) = self.image.get(block).cloned() else { continue };
            // What lies in the cache above it is the block's content; that below may be of no use to anybody.
            let right = or_zeroes(self.visible(block));
            let bit = rng.below(BLOCK_BYTES as u64 * 8) as usize;
            Rc::make_mut(&mut content)[bit / 8] ^= 1 << (bit % 8);
            self.doubts.damaged(block, right);
            self.image.set(block, content);
            self.counts.add(FaultKind::BitRot);
            return;
        }
    }

    /// From now on each flush of its volatile cache takes so many times as long.
    pub fn slow_flushes(&mut self, factor: u64) {
        assert!(factor > 0);
        self.flush_factor = factor;
    }

    /// What a read would return now.
    pub fn peek(&self, at: DriveBlock) -> Block {
        self.visible(at.get()).map_or([0; BLOCK_BYTES], |content| **content)
    }

    /// Stores durably, past cache, clock and faults: for creation and for tests.
    pub fn poke(&mut self, at: DriveBlock, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(BLOCK_BYTES) && !bytes.is_empty(), "whole blocks only");
        for (i, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            let at = at.get() + i as u64;
            self.dirty.remove(&at);
            self.image.set(at, Rc::new(block.try_into().expect("one block")));
        }
    }

    /// Counts reads by block from now on, from zero.
    pub fn count_reads(&mut self) {
        self.reads = Some(BTreeMap::new());
    }

    /// Blocks read in this range since `count_reads`, each as often as it was read.
    pub fn reads_within(&self, first: DriveBlock, blocks: Blocks) -> u64 {
        let range = first.get()..first.get() + blocks.get();
        self.reads.as_ref().map_or(0, |reads| reads.range(range).map(|(_, n)| *n).sum())
    }

    /// Blocks read since `count_reads`, with how often.
    pub fn reads(&self) -> impl Iterator<Item = (DriveBlock, u64)> {
        self.reads.iter().flatten().map(|(block, n)| (DriveBlock::new(*block), *n))
    }

    pub(crate) fn visible(&self, block: u64) -> Option<&Rc<Block>> {
        match self.dirty.get(&block) {
            Some(entries) => entries.last().map(|d| &d.content),
            None => self.image.get(block),
        }
    }

    /// Takes an operation; says under which number and when it will end.
    #[expect(clippy::too_many_arguments, reason = "the fields of `Action::Drive`")]
    pub fn issue(
        &mut self,
        rng: &mut Rng,
        now: Instant,
        token: IoToken,
        op: DriveOp,
        at: DriveBlock,
        blocks: Blocks,
        segments: &[Segment],
        memory: &mut impl Memory,
    ) -> (u32, Instant) {
        let at = at.get();
        assert!(
            at + blocks.get() <= self.image.blocks(),
            "{op:?} of {blocks} blocks at {at} leaves the drive"
        );
        let mut content = Vec::new();
        for segment in segments {
            match op {
                DriveOp::Write => {
                    content.extend((0..segment.blocks).map(|i| Rc::new(*memory.block(segment.buf.plus(i)))))
                }
                // Whoever looks at the memory before the read has ended finds nothing of use.
                DriveOp::Read => memory.blocks_mut(segment.buf, segment.blocks).fill(0xdb),
                DriveOp::Flush => {}
            }
        }
        let fault = self.draw_fault(op);
        let ends = self.end_of(rng, now, op, fault);
        let flight = InFlight {
            token,
            op,
            at,
            blocks: blocks.get(),
            memory: segments.to_vec(),
            content,
            fault,
            watermark: self.order,
            ends,
            given_up: false,
        };
        let id = match self.in_flight.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.in_flight.push(None);
                self.in_flight.len() - 1
            }
        };
        self.in_flight[id] = Some(flight);
        (id as u32, ends)
    }

    /// The armed fault that acts on this operation, if any; one that makes it late may go with no other.
    fn draw_fault(&mut self, op: DriveOp) -> Option<FaultKind> {
        if self.dead {
            return None;
        }
        let index = self.armed.iter().position(|armed| fits(armed.kind, op))?;
        let armed = &mut self.armed[index];
        let kind = armed.kind;
        if armed.times != u32::MAX {
            armed.times -= 1;
            if armed.times == 0 {
                self.armed.remove(index);
            }
        }
        if kind == FaultKind::Death {
            self.kill();
            return None;
        }
        self.counts.add(kind);
        Some(kind)
    }

    /// The clock leaps while operations are in flight: they take as long as they would have.
    pub(crate) fn leap(&mut self, by: Duration) {
        for flight in self.in_flight.iter_mut().flatten() {
            flight.ends = flight.ends + by;
        }
    }

    fn end_of(&self, rng: &mut Rng, now: Instant, op: DriveOp, fault: Option<FaultKind>) -> Instant {
        let (least, most) = if op == DriveOp::Flush && self.volatile { FLUSH } else { NORMAL };
        let mut nanos = rng.between(least, most);
        if op == DriveOp::Flush && self.volatile {
            nanos *= self.flush_factor;
        }
        match fault {
            _ if self.silent => nanos += NEVER,
            Some(FaultKind::Slow | FaultKind::SlowRead) => nanos *= SLOW_FACTOR,
            Some(FaultKind::Hang) => nanos += rng.between(HANG.0, HANG.1),
            _ => {}
        }
        let end = now + Duration::from_nanos(nanos);
        if op != DriveOp::Flush || self.volatile {
            return end;
        }
        let writes = self.in_flight.iter().flatten().filter(|flight| flight.op == DriveOp::Write);
        writes.map(|flight| flight.ends + Duration::from_nanos(1)).fold(end, Instant::max)
    }

    /// Ends an operation: moves the data, and says how it went.
    ///
    /// Panics when the memory of a write changed while it was in flight: that breaks the contract of `Memory`.
    pub fn complete(
        &mut self,
        rng: &mut Rng,
        id: u32,
        memory: &mut impl Memory,
    ) -> (IoToken, Result<(), Fault>) {
        let flight = self.in_flight[id as usize].take().expect("an operation ends once");
        let result = match flight.op {
            DriveOp::Read => self.complete_read(rng, &flight, memory),
            DriveOp::Write => self.complete_write(rng, &flight, memory),
            DriveOp::Flush => self.complete_flush(rng, &flight),
        };
        if flight.given_up && flight.op == DriveOp::Write && result.is_ok() {
            self.counts.add(FaultKind::LateLanding);
        }
        (flight.token, result)
    }

    fn complete_read(
        &mut self,
        rng: &mut Rng,
        flight: &InFlight,
        memory: &mut impl Memory,
    ) -> Result<(), Fault> {
        let mut blocks = flight.at..flight.at + flight.blocks;
        if let Some(reads) = &mut self.reads {
            blocks.clone().for_each(|block| *reads.entry(block).or_default() += 1);
        }
        if self.dead {
            return Err(Fault::Gone);
        }
        if flight.fault == Some(FaultKind::ReadError)
            || (flight.fault == Some(FaultKind::Hang) && rng.chance(1, 2))
        {
            return Err(if flight.fault == Some(FaultKind::Hang) { Fault::Timeout } else { Fault::Medium });
        }
        for segment in &flight.memory {
            for i in 0..segment.blocks {
                let block = blocks.next().expect("memory and length agree");
                let to = memory.block_mut(segment.buf.plus(i));
                match flight.fault {
                    Some(FaultKind::GarbageRead) => rng.fill(to),
                    Some(FaultKind::StaleRead) => {
                        let stale = self.older.as_ref().and_then(|older| older.get(&block)).cloned();
                        copy_or_zero(to, stale.as_ref().or_else(|| self.visible(block)));
                        // It may be what the block should hold, and lost: whoever read it takes the drive at its word.
                        if let Some(stale) = stale.filter(|stale| *stale != or_zeroes(self.visible(block))) {
                            self.doubts.told(block, stale);
                        }
                    }
                    _ => copy_or_zero(to, self.racing(rng, block).or_else(|| self.visible(block))),
                }
            }
        }
        Ok(())
    }

    /// A write in flight to this block whose content a read may already see.
    fn racing(&self, rng: &mut Rng, block: u64) -> Option<&Rc<Block>> {
        let found = self.in_flight.iter().flatten().find(|other| {
            other.op == DriveOp::Write && (other.at..other.at + other.blocks).contains(&block)
        })?;
        rng.chance(1, 2).then(|| &found.content[(block - found.at) as usize])
    }

    fn complete_write(
        &mut self,
        rng: &mut Rng,
        flight: &InFlight,
        memory: &mut impl Memory,
    ) -> Result<(), Fault> {
        let mut written = flight.writes();
        for segment in &flight.memory {
            for i in 0..segment.blocks {
                let (block, content) = written.next().expect("memory and length agree");
                assert!(
                    **content == *memory.block(segment.buf.plus(i)),
                    "memory {} of a write to block {block} in flight was changed",
                    segment.buf.plus(i).get()
                );
            }
        }
        let late_failure = flight.fault == Some(FaultKind::Hang) && rng.chance(1, 2);
        if self.dead || late_failure || flight.fault == Some(FaultKind::WriteError) {
            for (block, content) in flight.writes() {
                match rng.below(4) {
                    0 | 1 => {}
                    2 => self.store(block, content.clone()),
                    _ => {
                        let mut noise = content.clone();
                        rng.fill(&mut Rc::make_mut(&mut noise)[512..1024]);
                        if or_zeroes(self.visible(block)) == *content {
                            self.doubts.damaged(block, content.clone());
                        }
                        self.put(block, noise, true);
                    }
                }
            }
            return Err(match (self.dead, late_failure) {
                (true, _) => Fault::Gone,
                (false, true) => Fault::Timeout,
                (false, false) => Fault::Medium,
            });
        }
        let shift = match flight.fault {
            Some(FaultKind::LostWrite) => flight.at,
            Some(FaultKind::Misdirected) => rng.below(self.image.blocks() - flight.blocks + 1),
            _ => {
                flight.writes().for_each(|(block, content)| self.store(block, content.clone()));
                return Ok(());
            }
        };
        let lands: Vec<u64> = flight.writes().map(|(block, _)| block - flight.at + shift).collect();
        for (block, content) in flight.writes() {
            self.doubts.owed(block, content.clone());
        }
        if flight.fault == Some(FaultKind::Misdirected) {
            for (at, (_, content)) in lands.into_iter().zip(flight.writes()) {
                let before = or_zeroes(self.visible(at));
                self.doubts.damaged(at, before);
                self.put(at, content.clone(), true);
            }
        }
        Ok(())
    }

    fn complete_flush(&mut self, rng: &mut Rng, flight: &InFlight) -> Result<(), Fault> {
        if self.dead || self.reset {
            return Err(Fault::Gone);
        }
        match flight.fault {
            Some(FaultKind::LyingFlush) => {
                let covered = self.dirty.values_mut().flatten().filter(|d| d.order <= flight.watermark);
                // A flush that told the truth would not have made durable what was given up.
                covered.filter(|dirty| !dirty.given_up).for_each(|dirty| dirty.promised = true);
                return Ok(());
            }
            Some(FaultKind::FlushError) => {
                self.lose_some(rng, flight.watermark);
                return Err(Fault::Medium);
            }
            Some(FaultKind::Hang) if rng.chance(1, 2) => return Err(Fault::Timeout),
            _ => {}
        }
        let image = &mut self.image;
        self.dirty.retain(|block, entries| {
            let covered = entries.partition_point(|entry| entry.order <= flight.watermark);
            if let Some(last) = entries[..covered].iter().rposition(|entry| !entry.given_up) {
                image.set(*block, entries[last].content.clone());
                entries.drain(..=last);
            }
            !entries.is_empty()
        });
        Ok(())
    }

    /// A failed flush: what it should have made durable is lost, made durable, still volatile, or given up though reads go on
    /// to return it; block by block, and no later flush will say which. Now and then all of it is given up.
    fn lose_some(&mut self, rng: &mut Rng, watermark: u64) {
        let (image, doubts) = (&mut self.image, &mut self.doubts);
        let all = rng.chance(1, 3);
        let mut given_up = false;
        self.dirty.retain(|block, entries| {
            let fate = if all { GIVEN_UP } else { rng.below(4) };
            let covered = entries.partition_point(|entry| entry.order <= watermark);
            if covered > 0 && fate == 1 {
                image.set(*block, entries[covered - 1].content.clone());
            }
            if fate == GIVEN_UP {
                entries[..covered].iter_mut().for_each(|entry| entry.given_up = true);
                given_up |= covered > 0;
            }
            // A flush before lied: what it covered was due already.
            let due = entries[..covered].iter().rev().find(|entry| entry.promised);
            if let Some(due) = due.filter(|_| fate == 0) {
                doubts.owed(*block, due.content.clone());
            }
            if fate < 2 {
                entries.drain(..covered);
            }
            !entries.is_empty()
        });
        if given_up {
            self.counts.add(FaultKind::GivenUp);
        }
    }

    /// A block is written as whoever asked for it meant it.
    pub(crate) fn store(&mut self, block: u64, content: Rc<Block>) {
        self.doubts.written(block, &content);
        self.put(block, content, false);
    }

    fn put(&mut self, block: u64, content: Rc<Block>, astray: bool) {
        if let Some(older) = &self.older
            && (older.len() < 4096 || older.contains_key(&block))
        {
            let before = self.visible(block).cloned().unwrap_or_else(|| Rc::new([0; BLOCK_BYTES]));
            self.older.as_mut().expect("just seen").insert(block, before);
        }
        if self.volatile {
            self.order += 1;
            let dirty = Dirty { order: self.order, content, promised: false, astray, given_up: false };
            self.dirty.entry(block).or_default().push(dirty);
        } else {
            self.image.set(block, content);
        }
    }
}

/// Whether a fault acts on an operation of this kind.
fn fits(kind: FaultKind, op: DriveOp) -> bool {
    use FaultKind as F;
    match kind {
        F::Slow | F::Hang | F::Death => true,
        F::ReadError | F::StaleRead | F::GarbageRead | F::SlowRead => op == DriveOp::Read,
        F::WriteError | F::Misdirected | F::LostWrite => op == DriveOp::Write,
        F::FlushError | F::LyingFlush => op == DriveOp::Flush,
        _ => false,
    }
}

fn copy_or_zero(to: &mut Block, from: Option<&Rc<Block>>) {
    match from {
        Some(content) => *to = **content,
        None => to.fill(0),
    }
}

#[cfg(test)]
mod tests;
