//! The write: from a request that is ready to a Ref in the delta.
//!
//! Crash story. Space is taken, then Seq; the check of each block is made once, over our own copy, and the same
//! bytes go to every leg. Data and record are written in parallel, so a crash can leave either without the
//! other: recovery accepts a commit above D only if its data is whole as well. Commits complete in order, so
//! what is acknowledged always has all its predecessors on every current leg.
//!
//! A commit that cannot complete on any leg (its block or its data cannot be written on the last current copy)
//! is followed by a *void*, a record in a later commit that names it, so that the chain goes on across it;
//! nothing behind it is acknowledged before the void is complete. Its writes are answered with an error. Its
//! blocks stay taken until the next checkpoint, for its record may still be found by a recovery. The pipeline keeps
//! places that only voids may take: were it full of commits that failed, nothing could ever take them out of it.
use super::{AUTO_FLUSH_BYTES, Group, Halt, MAX_UNFLUSHED_BYTES, Turn};
use crate::buffers::Buffers;
use crate::config::{MAX_COMMIT_DATA_BLOCKS, MAX_COMMITS, MAX_UNIT_OPS, VOID_COMMITS};
use crate::keys::Keyed;
use crate::ops::{JobKind, Run};
use crate::planted::Planted;
use crate::slots::{Parts, State};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use base::limits::SLOT_DATA_BLOCKS;
use base::{Blocks, BufId, Check, CommitNo, Fault, Lba, Op, Pba, Segment, Seq, SlotId};
use cow::{Class, Ref};
use rlog::{CommitBuilder, Fields, MAX_COMMIT_BLOCKS, Positions, Ring, RingPos, Sealed, SuperblockId};

/// Writes of at least so many blocks take clean regions; smaller ones fill broken ones.
const LARGE_BLOCKS: u32 = 16;
/// Blocks that only discards and checkpoints may use.
const BASE_RESERVE: u64 = 32;
/// Blocks under a long hole that the merge frees one by one at most: the leaves at its ends, below the first
/// subtree that can be cut as a whole.
const MAX_HOLE_CHANGES: u64 = 2 * 128 * 128 + 2 * 128;
/// Blocks under long holes that one checkpoint frees one by one at most.
pub(crate) const HOLE_CHANGES: u64 = 1 << 18;
/// Blocks under this long hole that the merge frees one by one at most.
pub(crate) fn hole_changes(blocks: u64) -> u64 {
    blocks.min(MAX_HOLE_CHANGES)
}
/// Pages of the directory that a checkpoint takes, but for those of the tree over the bitmaps.
const DIRECTORY_PAGES: u64 = 8;
/// A long hole costs on each level as many pages as so many blocks: those at its two ends, and those in which the subtrees
/// below it are gathered.
const RANGE_WEIGHT: usize = 4;
/// Bytes of data in one commit at most.
const MAX_COMMIT_DATA_BYTES: u64 = (MAX_COMMIT_DATA_BLOCKS * base::BLOCK_BYTES) as u64;
/// Whoever is held for a flush waits for one that is under way or due: what is in flight alone holds nobody.
const _: () =
    assert!(AUTO_FLUSH_BYTES + (MAX_COMMITS as u64 + 1) * MAX_COMMIT_DATA_BYTES <= MAX_UNFLUSHED_BYTES);
/// Voids that may fail one after the other before the log is given up.
const MAX_VOID_FAILURES: u32 = VOID_COMMITS as u32;

/// Where a commit in flight stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Working,
    Complete,
    Lost { voided_by: Option<CommitNo> },
}

/// A commit in flight.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    sealed: Sealed,
    stage: Stage,
    index: u8,
    first_slot: Option<SlotId>,
    /// Delta entries and ranges that its records will need.
    puts: usize,
    ranges: usize,
    bytes: u64,
    positions: Positions,
    voids: bool,
}

/// What the log looks like behind the last commit that completed in order: where a checkpoint begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub next: CommitNo,
    pub previous: Check,
    pub positions: Positions,
}

/// The log of a group that is being served.
pub(crate) struct Log {
    pub ring: Ring,
    builder: CommitBuilder,
    in_flight: VecDeque<InFlight>,
    free: Vec<u8>,
    next: CommitNo,
    previous: Check,
    pub next_seq: Seq,
    pub mark: Mark,
    void_failures: u32,
    /// Puts and ranges that commits in flight will need in the delta.
    puts: usize,
    ranges: usize,
    /// A commit failed that nothing can void: all behind it fail too.
    poisoned: bool,
    /// Blocks of voided commits: given up at the next checkpoint.
    pub abandoned: Vec<Pba>,
    runs: Vec<(Pba, Blocks)>,
    checks: Vec<Check>,
}

impl Log {
    pub fn new(ring: Ring, mark: Mark, next_seq: Seq) -> Self {
        Self {
            ring,
            builder: CommitBuilder::new(MAX_COMMIT_BLOCKS),
            in_flight: VecDeque::with_capacity(MAX_COMMITS),
            free: (0..MAX_COMMITS as u8).rev().collect(),
            next: mark.next,
            previous: mark.previous,
            next_seq,
            mark,
            void_failures: 0,
            puts: 0,
            ranges: 0,
            poisoned: false,
            abandoned: Vec::with_capacity(MAX_COMMITS * MAX_COMMIT_DATA_BLOCKS * 2),
            runs: Vec::with_capacity(SLOT_DATA_BLOCKS as usize),
            checks: Vec::with_capacity(SLOT_DATA_BLOCKS as usize),
        }
    }

    /// The number of the next commit to be sealed.
    pub fn next_commit(&self) -> CommitNo {
        self.next
    }

    /// Whether every commit before this one has completed, in order.
    pub fn complete_before(&self, commit: CommitNo) -> bool {
        self.in_flight.front().is_none_or(|oldest| oldest.sealed.no >= commit)
    }

    /// Whether no commit is in flight.
    pub fn idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether the oldest commit failed and nothing voids it. Others wait until they are the oldest: then each void that
    /// completes empties a place, and the places kept for voids are enough for those that fail before the log is given up.
    fn needs_void(&self) -> bool {
        !self.poisoned && self.in_flight.front().is_some_and(|c| c.stage == Stage::Lost { voided_by: None })
    }

    /// Whether every commit in flight has ended, well or not.
    fn settled(&self) -> bool {
        self.in_flight.iter().all(|c| c.stage != Stage::Working)
    }

    fn stage_of(&self, no: CommitNo) -> Option<Stage> {
        self.in_flight.iter().find(|c| c.sealed.no == no).map(|c| c.stage)
    }
}

/// Why a request could not be taken into a commit.
enum Wait {
    /// The commit is full: the next one takes it.
    Commit,
    /// The delta or the space is short; a checkpoint helps.
    Checkpoint,
    /// A bitmap must be loaded first.
    Bitmap,
    /// A new row may help.
    Row,
    /// Nothing helps.
    NoSpace,
}

impl Group {
    /// Seals what is ready into commits, as many as may be in flight.
    pub fn seal_commits<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if self.halt.is_some() {
            return self.refuse_ready(turn);
        }
        while self.seal_one(turn) {}
    }

    fn refuse_ready<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        for i in 0..self.slots.order.len() {
            let id = self.slots.order[i];
            let slot = self.slots.get(id);
            if slot.state == State::Ready && !slot.finished {
                self.refuse(turn, id, Fault::ReadOnly);
            }
        }
    }

    fn ring_has_room(&self) -> bool {
        let ring = &self.log.ring;
        let column = ring.shape().column_of(self.log.next);
        let taken = ring.used(column).get() + u64::from(2 * MAX_COMMIT_BLOCKS + rlog::ring::VOID_ROOM_BLOCKS);
        taken < u64::from(ring.shape().len())
    }

    /// Seals one commit. False when there is nothing to seal or something must come first.
    fn seal_one<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let voids = self.log.needs_void();
        // Nothing may lie between a commit that failed and the one that voids it but what is whole.
        //
        // Crash story: commit 4 failed, 7 named it and was complete, 6 was still under way. Commit 5 was acknowledged and
        // flushed, for 4 counted as voided. Power failed, and 6 was lost: nobody reaches 7 then, 4 is not voided, and what 5
        // had promised lies behind a commit that is not there.
        if voids && !self.log.settled() && !self.config.bug(Planted::VoidUnsettled) {
            return false;
        }
        let kept = if voids { 0 } else { VOID_COMMITS };
        if self.log.free.len() <= kept || !self.room(turn, MAX_UNIT_OPS) {
            return false;
        }
        let ring_is_full = !self.ring_has_room();
        let only_voids = ring_is_full || self.waits_for_flush();
        if only_voids && !voids {
            self.checkpoint.force |= ring_is_full && self.any_ready();
            return false;
        }
        self.log.builder.start();
        self.runs.clear();
        if voids {
            let lost = self.log.in_flight.iter_mut().filter(|c| c.stage == Stage::Lost { voided_by: None });
            for commit in lost {
                commit.stage = Stage::Lost { voided_by: Some(self.log.next) };
                self.log.builder.void(commit.sealed.no, commit.sealed.check);
            }
        }
        let mut batch = Batch::default();
        if !only_voids {
            self.collect(turn, &mut batch);
        }
        if self.log.builder.is_empty() {
            return false;
        }
        let position = if only_voids {
            self.log.ring.place_void(self.log.next)
        } else {
            self.log.ring.place(self.log.next, self.log.builder.blocks())
        };
        let Some(position) = position else {
            // Only a void can meet the end of the ring here: its room is used up.
            self.log.poisoned = true;
            self.halt(Halt::LogFailed);
            return false;
        };
        self.issue(turn, position, batch, voids);
        true
    }

    /// Whether one commit more could be more than may be written without a flush; the end of the one that is under way
    /// wakes us.
    ///
    /// Crash story: a drive took five seconds for each flush, and the guest went on writing at full speed meanwhile. Then
    /// power failed, and the recovery had gigabytes above D to read and compare on every leg before it served anything.
    fn waits_for_flush(&self) -> bool {
        let in_flight: u64 = self.log.in_flight.iter().map(|commit| commit.bytes).sum();
        self.flushing + self.unflushed + in_flight + MAX_COMMIT_DATA_BYTES > MAX_UNFLUSHED_BYTES
    }

    fn any_ready(&self) -> bool {
        self.slots.order.iter().any(|id| self.slots.get(*id).state == State::Ready)
    }

    /// Takes ready requests into the builder, in order of arrival, as long as they fit.
    fn collect<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, batch: &mut Batch) {
        for i in 0..self.slots.order.len() {
            let id = self.slots.order[i];
            let slot = *self.slots.get(id);
            if slot.state != State::Ready || slot.finished {
                continue;
            }
            match self.take_in(turn, id, batch) {
                Ok(()) => batch.last_slot = Some(id),
                Err(Wait::Commit) => {
                    self.again = true;
                    return;
                }
                // What is only written again does not keep the guest waiting.
                Err(wait @ (Wait::Checkpoint | Wait::Bitmap | Wait::Row)) if slot.rewrites => match wait {
                    Wait::Bitmap => {}
                    // What it replaces comes back with a checkpoint: a row would be taken for good.
                    Wait::Row if !self.frees_soon() => self.growth.want(),
                    _ => self.checkpoint.force = true,
                },
                Err(Wait::Checkpoint) => {
                    self.checkpoint.force = true;
                    return;
                }
                Err(Wait::Bitmap) => return,
                Err(Wait::Row) => {
                    self.growth.want();
                    return;
                }
                Err(Wait::NoSpace) => self.refuse(turn, id, Fault::NoSpace),
            }
        }
    }

    /// Takes one request in: space, checks, records.
    fn take_in<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        id: SlotId,
        batch: &mut Batch,
    ) -> Result<(), Wait> {
        let slot = *self.slots.get(id);
        let parts = slot.parts();
        let data = parts.data();
        self.fits_commit(&parts, batch)?;
        let point_holes =
            if parts.hole.1 <= cow::delta::POINT_HOLE_BLOCKS { parts.hole.1 as usize } else { 0 };
        let puts = data as usize + point_holes;
        let ranges = usize::from(parts.hole.1 > cow::delta::POINT_HOLE_BLOCKS);
        self.fits_delta(puts + batch.puts, ranges + batch.ranges)?;
        let hole_changes = if ranges == 0 { 0 } else { hole_changes(parts.hole.1) };
        let cut_room = self.cuts.room().min(self.directory.cuts.room());
        let crowded = self.hole_changes > 0 && self.hole_changes + hole_changes > HOLE_CHANGES;
        if ranges > 0 && (crowded || cut_room < 3 * cow::MAX_CUTS) {
            return Err(Wait::Checkpoint);
        }
        let changes = weight(batch.puts + puts, batch.ranges + ranges);
        self.take_space(id, data, slot.request.op == Op::Write || data > 0, changes)?;
        self.seal_blocks(turn, id, &parts);
        self.add_records(id, &parts);
        self.hole_changes += hole_changes;
        batch.puts += puts;
        batch.ranges += ranges;
        batch.data += data as usize;
        if batch.first_slot.is_none() {
            batch.first_slot = Some(id);
        }
        if let Some(last) = batch.last_slot {
            self.slots.get_mut(last).next = Some(id);
        }
        let slot = self.slots.get_mut(id);
        slot.next = None;
        slot.state = State::Sealed;
        Ok(())
    }

    fn fits_commit(&self, parts: &Parts, batch: &Batch) -> Result<(), Wait> {
        let data = u64::from(parts.data());
        let records = parts.records() as usize;
        // Two further records cost at most as much as 4 more blocks with runs of their own.
        let fits = self.log.builder.fits(data + 4 * (records as u64 - 1), data as usize + 4 * (records - 1))
            && batch.data + data as usize <= MAX_COMMIT_DATA_BLOCKS;
        if fits { Ok(()) } else { Err(Wait::Commit) }
    }

    fn fits_delta(&self, puts: usize, ranges: usize) -> Result<(), Wait> {
        let fits = self.log.puts + puts <= self.active.room()
            && (self.log.ranges + ranges) <= self.active.room_for_ranges();
        if fits { Ok(()) } else { Err(Wait::Checkpoint) }
    }

    /// Blocks that a checkpoint of so many changes can take before it frees any: its pages on every level, and
    /// the directory's.
    fn pages_for(&self, changes: u64) -> u64 {
        if changes == 0 {
            return 0;
        }
        let mut pages = DIRECTORY_PAGES;
        let mut bitmaps = u64::from(self.space.regions());
        while bitmaps > 1 {
            bitmaps = bitmaps.div_ceil(128);
            pages += bitmaps;
        }
        let mut below = self.volume.sectors.get() / base::SECTORS_PER_BLOCK;
        for _ in 0..self.volume.height.get() {
            below = below.div_ceil(128).max(1);
            pages += below.min(changes);
        }
        pages
    }

    /// Blocks that must stay free so that every change up to now, and these, can be checkpointed.
    pub fn reserve(&self, more: u64) -> u64 {
        let changes = |layer: &cow::Delta| weight(layer.len() - layer.ranges(), layer.ranges());
        let in_flight = weight(self.log.puts, self.log.ranges);
        self.pages_for(changes(&self.frozen)) + self.pages_for(changes(&self.active) + in_flight + more)
    }

    /// Takes space for a request's data, in one go or in several; notes the blocks in its Refs and the runs to write.
    /// `changes` are those of the commit that is being collected, with this request's: no layer and no log counts them yet.
    fn take_space(&mut self, id: SlotId, data: u32, guest: bool, changes: u64) -> Result<(), Wait> {
        let mut taken = self.slots.get(id).taken;
        let left = u64::from(data - taken);
        let wanted = left + if guest { BASE_RESERVE } else { 0 };
        let free = self.space.free_now().get();
        let given = self.config.bug(Planted::ReserveGiven);
        if !given && free < wanted + self.reserve(changes) {
            return Err(self.short());
        }
        let class = if data >= LARGE_BLOCKS { Class::Large } else { Class::Small };
        while taken < data {
            let Some((pba, blocks)) = self.space.take(class, Blocks::new(u64::from(data - taken))) else {
                // What was found stays ours: the regions in memory may together have less than the request needs.
                self.slots.get_mut(id).taken = taken;
                return Err(Wait::Bitmap);
            };
            for i in 0..blocks.get() {
                self.slots.refs(id)[taken as usize] = Ref { pba: pba + Blocks::new(i), ..Ref::ABSENT };
                taken += 1;
            }
        }
        self.slots.get_mut(id).taken = 0;
        self.add_runs(id, data);
        Ok(())
    }

    /// Notes the blocks of a request as runs to be written.
    fn add_runs(&mut self, id: SlotId, data: u32) {
        let mut at = 0;
        while at < data {
            let refs = self.slots.refs(id);
            let pba = refs[at as usize].pba;
            let follows = |i: &u32| refs[(at + i) as usize].pba == pba + Blocks::new(u64::from(*i));
            let blocks = (1..data - at).take_while(follows).count() as u32 + 1;
            self.runs.push(Run { pba, buf: Buffers::slot(id).plus(at), blocks });
            at += blocks;
        }
    }

    /// Refuses a request that may have found a part of its space already.
    fn refuse<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId, fault: Fault) {
        for i in 0..core::mem::take(&mut self.slots.get_mut(id).taken) {
            let pba = self.slots.refs(id)[i as usize].pba;
            self.space.give_back(pba, Blocks::new(1));
        }
        self.finish(turn, id, Err(fault));
    }

    /// What to do when space is short.
    fn short(&self) -> Wait {
        if self.growth.possible() {
            return Wait::Row;
        }
        if self.frees_soon() { Wait::Checkpoint } else { Wait::NoSpace }
    }

    /// Whether blocks were replaced that come back with a checkpoint; what is being collected replaces some as well.
    fn frees_soon(&self) -> bool {
        !self.active.is_empty()
            || !self.log.idle()
            || !self.log.builder.is_empty()
            || !self.checkpoint.idle()
            || !self.directory.cuts.is_empty()
            || self.space.limbo() > Blocks::ZERO
    }

    /// Makes a request's blocks ready to be written. Each is sealed under the Seq that its record will take: the request is
    /// in the commit that is being made, whose Seqs follow from what is in it already.
    fn seal_blocks<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId, parts: &Parts) {
        let first = self.log.next_seq.get() + u64::from(self.log.builder.seqs());
        for i in 0..parts.data() {
            let record = if i < parts.head { 0 } else { parts.records() - 1 };
            let seq = Seq::new(first + u64::from(record));
            let (buf, lba) = (Buffers::slot(id).plus(i), self.slots.get(id).data_lba(i));
            self.slots.refs(id)[i as usize].check = turn.memory.seal_data(buf, self.volume.id, lba, seq);
        }
    }

    /// One record for the data before the hole, one for the hole, one for the data behind it.
    fn add_records(&mut self, id: SlotId, parts: &Parts) {
        self.add_write(id, 0, parts.head);
        if parts.hole.1 > 0 {
            self.log.builder.hole(self.volume.id, parts.hole.0, Blocks::new(parts.hole.1));
        }
        self.add_write(id, parts.head, parts.tail);
    }

    fn add_write(&mut self, id: SlotId, first: u32, count: u32) {
        if count == 0 {
            return;
        }
        let lba = self.slots.get(id).data_lba(first);
        let (runs, checks) = (&mut self.log.runs, &mut self.log.checks);
        runs.clear();
        checks.clear();
        for block in &self.slots.refs(id)[first as usize..(first + count) as usize] {
            checks.push(block.check);
            match runs.last_mut() {
                Some((pba, blocks)) if *pba + *blocks == block.pba => *blocks += Blocks::new(1),
                _ => runs.push((block.pba, Blocks::new(1))),
            }
        }
        self.log.builder.write(self.volume.id, lba, runs, checks);
    }

    /// Seals the builder's commit and sends it and its data to every current leg.
    fn issue<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, at: RingPos, batch: Batch, voids: bool) {
        let index = self.log.free.pop().expect("a free place in the pipeline");
        let area = self.buffers.commit(usize::from(index));
        let line = self.superblock.line.expect("a group that is served has a history line");
        let fields = Fields {
            group: self.superblock.group,
            history: line.id,
            generation: line.generation,
            no: self.log.next,
            offset: at.offset,
            first_seq: self.log.next_seq,
            previous: self.log.previous,
            superblock: SuperblockId { generation: line.generation, version: self.writer.durable_version() },
            durable: self.durable,
        };
        let sealed = self.seal_commit(turn, &fields, &line, area);
        self.assign_seqs(batch.first_slot, sealed.first_seq);
        let job = self.ops.open_job(JobKind::Commit(index));
        self.write_runs(turn, job);
        self.write_commit(turn, job, at, area, sealed.blocks);
        self.ops.seal_job(job);
        self.log.next = sealed.no.next();
        self.log.next_seq = sealed.next_seq();
        self.log.previous = sealed.check;
        self.log.puts += batch.puts;
        self.log.ranges += batch.ranges;
        self.log.in_flight.push_back(InFlight {
            sealed,
            stage: Stage::Working,
            index,
            first_slot: batch.first_slot,
            puts: batch.puts,
            ranges: batch.ranges,
            bytes: batch.data as u64 * base::BLOCK_BYTES as u64,
            positions: self.log.ring.positions(),
            voids,
        });
        self.superblock.clean = false;
    }

    fn seal_commit<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        fields: &Fields,
        line: &rlog::Line,
        area: BufId,
    ) -> rlog::Sealed {
        let mut cipher = turn.memory.keys().map(|keys| keys.of_commits(line).expect("its own key"));
        if self.config.bug(Planted::CommitReformed)
            && let Some(cipher) = &mut cipher
        {
            cipher.seal(&base::Nonce::commit(fields.no), b"as it was before", &mut [0; 64]);
        }
        let sealed = self.log.builder.seal(fields, cipher);
        self.log.builder.put(turn.memory, area);
        sealed
    }

    /// Gives the Seqs of the records to the Refs of the requests that made them.
    fn assign_seqs(&mut self, first: Option<SlotId>, first_seq: Seq) {
        let (mut at, mut seq) = (first, first_seq);
        while let Some(id) = at {
            let slot = *self.slots.get(id);
            let parts = slot.parts();
            let refs = self.slots.refs(id);
            for block in &mut refs[..parts.head as usize] {
                block.when = seq;
            }
            for block in &mut refs[parts.head as usize..parts.data() as usize] {
                block.when = Seq::new(seq.get() + u64::from(parts.records()) - 1);
            }
            // A request without data keeps its hole's Seq in its first Ref.
            if parts.data() == 0 {
                refs[0] = Ref::hole(seq);
            }
            seq = Seq::new(seq.get() + u64::from(parts.records()));
            at = slot.next;
        }
    }

    fn write_commit<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        job: crate::ops::JobId,
        at: RingPos,
        area: BufId,
        blocks: u32,
    ) {
        let (row, block, left) = self.geometry.ring_place(at.offset);
        assert!(left >= blocks, "a commit across the end of a piece");
        self.write_legs(turn, job, row, at.column, block, &[Segment { buf: area, blocks }]);
    }

    /// A commit's operations have ended.
    pub fn commit_settled(&mut self, index: u8, lost: bool) {
        let commit = self.log.in_flight.iter_mut().find(|c| c.index == index).expect("a commit in flight");
        assert!(commit.stage == Stage::Working);
        commit.stage = if lost { Stage::Lost { voided_by: None } } else { Stage::Complete };
        if lost && commit.voids {
            let no = commit.sealed.no;
            self.log.void_failures += 1;
            for other in &mut self.log.in_flight {
                if other.stage == (Stage::Lost { voided_by: Some(no) }) {
                    other.stage = Stage::Lost { voided_by: None };
                }
            }
            if self.log.void_failures >= MAX_VOID_FAILURES {
                self.halt(Halt::LogFailed);
            }
        }
    }

    /// Takes commits off the front of the pipeline, in order.
    pub fn complete_commits<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if self.config.bug(Planted::AckOutOfOrder) {
            self.acknowledge_out_of_order(turn);
        }
        while let Some(commit) = self.log.in_flight.front().copied() {
            let voided = match commit.stage {
                Stage::Working => return,
                Stage::Complete => self.log.poisoned,
                Stage::Lost { voided_by } => {
                    let void = voided_by.and_then(|no| self.log.stage_of(no));
                    if void != Some(Stage::Complete) && self.halt.is_none() {
                        return;
                    }
                    self.log.poisoned |= void != Some(Stage::Complete);
                    true
                }
            };
            self.log.in_flight.pop_front();
            self.log.free.push(commit.index);
            self.log.puts -= commit.puts;
            self.log.ranges -= commit.ranges;
            self.again = true;
            if voided {
                self.fail_commit(turn, &commit)
            } else {
                self.apply_commit(turn, &commit)
            }
            if commit.voids && !voided {
                self.log.void_failures = 0;
            }
            self.log.mark = Mark {
                next: commit.sealed.no.next(),
                previous: commit.sealed.check,
                positions: commit.positions,
            };
        }
    }

    /// Bug only: complete commits are applied and acknowledged before those in front of them are complete.
    fn acknowledge_out_of_order<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        for i in 1..self.log.in_flight.len() {
            let commit = self.log.in_flight[i];
            if commit.stage == Stage::Complete && commit.first_slot.is_some() {
                let completed = self.completed;
                self.apply_commit(turn, &commit);
                self.completed = completed;
                self.log.in_flight[i].first_slot = None;
            }
        }
    }

    /// The writes of a commit that is void: an error for each, and their blocks wait for a checkpoint.
    fn fail_commit<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, commit: &InFlight) {
        let mut at = commit.first_slot;
        while let Some(id) = at {
            at = self.slots.get(id).next;
            let data = self.slots.get(id).parts().data() as usize;
            for i in 0..data {
                let pba = self.slots.refs(id)[i].pba;
                self.log.abandoned.push(pba);
            }
            self.finish(turn, id, Err(Fault::Io));
        }
        if self.log.abandoned.len() * 2 > self.log.abandoned.capacity() {
            self.checkpoint.force = true;
        }
    }

    /// The writes of a complete commit enter the delta and are acknowledged.
    fn apply_commit<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, commit: &InFlight) {
        let mut at = commit.first_slot;
        while let Some(id) = at {
            let slot = *self.slots.get(id);
            at = slot.next;
            self.apply_request(id, &slot.parts());
            if slot.request.fua && self.config.bug(Planted::AckOutOfOrder) {
                self.slots.get_mut(id).state = State::Flushing(self.flusher.ticket());
            } else if slot.request.fua
                && !self.config.bug(Planted::FlushSkipped)
                && !self.config.bug(Planted::FuaNotFlushed)
            {
                self.slots.get_mut(id).state = State::AfterCommit(commit.sealed.no.next());
            } else {
                self.finish(turn, id, Ok(()));
            }
        }
        if self.config.bug(Planted::FreeAtAck) {
            self.free_replaced_now(self.active.replaced().len());
        }
        if commit.sealed.seqs > 0 {
            self.completed = Seq::new(commit.sealed.next_seq().get() - 1);
            self.unflushed += commit.bytes;
            self.unflushed_since.get_or_insert(turn.now);
            if self.unflushed >= AUTO_FLUSH_BYTES {
                self.flusher.ticket();
            }
        }
    }

    fn apply_request(&mut self, id: SlotId, parts: &Parts) {
        let slot = *self.slots.get(id);
        let blocks = parts.data();
        let hole_seq = if blocks == 0 {
            self.slots.refs(id)[0].when
        } else {
            let first = self.slots.refs(id)[0].when.get();
            Seq::new(first + u64::from(parts.head > 0) - u64::from(parts.head == 0))
        };
        for i in 0..blocks {
            let Ref { pba, when, check, .. } = self.slots.refs(id)[i as usize];
            self.put(slot.data_lba(i), Ref::data(pba, when, check));
        }
        if parts.hole.1 > 0 {
            self.put_hole(parts.hole.0, Blocks::new(parts.hole.1), hole_seq);
        }
    }

    fn put(&mut self, lba: Lba, to: Ref) {
        self.active.put(lba, to);
    }

    fn put_hole(&mut self, first: Lba, blocks: Blocks, seq: Seq) {
        if self.config.bug(Planted::HoleForgotten) && blocks.get() > 16 {
            return;
        }
        self.active.put_holes(first, blocks, seq);
    }

    /// How many delta entries wait in commits.
    pub fn delta_pressure(&self) -> bool {
        let capacity = self.config.delta_entries as usize;
        self.active.room() < capacity / 2 || self.active.room_for_ranges() < super::DELTA_RANGES / 4
    }
}

/// Changes of so many points and long holes, by the pages that a checkpoint may need for them on each level.
const fn weight(points: usize, ranges: usize) -> u64 {
    (points + RANGE_WEIGHT * ranges) as u64
}

/// What a commit has taken in so far.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    first_slot: Option<SlotId>,
    last_slot: Option<SlotId>,
    puts: usize,
    ranges: usize,
    data: usize,
}
