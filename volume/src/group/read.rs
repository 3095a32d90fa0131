//! The read: delta, then map, then one leg, and the check of every block.
//!
//! A request's blocks are looked up one after the other; where a page of the map is missing the request waits
//! for it. All Refs are those of one instant or later ones, which is all that a read concurrent with writes is
//! promised; its hold keeps every block that it looked up from being handed out again. A block that cannot be
//! read or does not pass its check is read from the next leg; what the other leg had is written over the bad
//! copy (`repair`). Only when no leg is left is the answer an error.
use super::{Group, Turn};
use crate::buffers::Buffers;
use crate::group::repair::Content;
use crate::keys::Keyed;
use crate::ops::Purpose;
use crate::planted::Planted;
use crate::slots::State;
use base::{Blocks, Fault, Lba, LegId, Op, Segment, SlotId};
use cow::{Leaf, Ref, tree};

/// In the set of legs that a block was tried on: it is to be read again.
const AGAIN: u8 = 1 << 7;
/// Likewise: it is read alone from now on.
const SINGLE: u8 = 1 << 6;
/// The legs in such a set.
const LEGS: u8 = SINGLE - 1;
const _: () = assert!(base::limits::MAX_LEGS <= 6);

/// What a look-up came to.
pub(crate) enum Lookup {
    /// Data or a hole.
    Found(Ref),
    /// A page must be read first; it is on its way, or will be asked for again.
    Wait,
    /// A page of the map cannot be read on any leg.
    Lost,
}

impl Group {
    /// The newest Ref of a block.
    pub fn lookup<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, lba: Lba) -> Lookup {
        if let Some(found) = self.active.get(lba) {
            return Lookup::Found(found);
        }
        if !self.config.bug(Planted::FrozenForgotten)
            && let Some(found) = self.frozen.get(lba)
        {
            return Lookup::Found(found);
        }
        match tree::leaf(&self.volume.root, self.volume.height, lba, &mut self.cache, turn.memory) {
            Leaf::Hole(seq) => Lookup::Found(Ref::hole(seq)),
            Leaf::Page(buf) => {
                let found = cow::page::get(turn.memory.block(buf), (lba.get() % 128) as usize);
                if found.valid(self.space_blocks()) { Lookup::Found(found) } else { Lookup::Lost }
            }
            Leaf::Need(page) => {
                if self.fetch_page(turn, &page) {
                    Lookup::Wait
                } else {
                    Lookup::Lost
                }
            }
            Leaf::Damaged(_) => Lookup::Lost,
        }
    }

    /// Blocks of the group's space.
    pub fn space_blocks(&self) -> Blocks {
        Blocks::new(u64::from(self.superblock.rows) * self.geometry.row_blocks())
    }

    /// Looks up the blocks of reads that have not found all of theirs.
    pub fn advance_reads<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        for i in 0..self.slots.order.len() {
            let id = self.slots.order[i];
            match self.slots.get(id).state {
                _ if self.slots.get(id).finished => {}
                State::Resolving => self.resolve(turn, id),
                State::Reading if self.slots.get(id).retry => self.read_again(turn, id),
                _ => {}
            }
        }
    }

    fn resolve<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId) {
        let slot = *self.slots.get(id);
        for i in slot.cursor..slot.blocks as u32 {
            match self.lookup(turn, slot.first + Blocks::new(u64::from(i))) {
                Lookup::Found(found) => self.slots.refs(id)[i as usize] = found,
                Lookup::Wait => {
                    self.slots.get_mut(id).cursor = i;
                    return;
                }
                Lookup::Lost => return self.finish(turn, id, Err(Fault::Io)),
            }
        }
        self.slots.get_mut(id).cursor = slot.blocks as u32;
        if slot.rewrites {
            self.resolved_rewrite(turn, id);
        }
        let slot = *self.slots.get(id);
        if slot.finished || !self.room_beside_writes(turn, slot.blocks as usize + 1) {
            return;
        }
        self.slots.get_mut(id).state = State::Reading;
        self.read_blocks(turn, id, slot.blocks as u32);
    }

    /// Reads what was looked up: holes are zeroes, adjacent blocks are one operation.
    fn read_blocks<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId, count: u32) {
        let mut at = 0;
        while at < count {
            let first = self.slots.refs(id)[at as usize];
            if first.is_hole() {
                turn.memory.block_mut(Buffers::slot(id).plus(at)).fill(0);
                at += 1;
                continue;
            }
            let most = self.geometry.contiguous(first.pba).get().min(u64::from(count - at)) as u32;
            let refs = self.slots.refs(id);
            let follows = |i: &u32| {
                let next = refs[(at + i) as usize];
                !next.is_hole() && next.pba == first.pba + Blocks::new(u64::from(*i))
            };
            let run = (1..most).take_while(follows).count() as u32 + 1;
            self.read_run(turn, id, at, run);
            at += run;
        }
        self.maybe_finish_read(turn, id);
    }

    fn read_run<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId, first: u32, count: u32) {
        let pba = self.slots.refs(id)[first as usize].pba;
        let tried = self.slots.tried(id)[first as usize];
        let Some(leg) = self.pick_leg(pba, tried) else {
            self.slots.get_mut(id).fault = Some(Fault::Io);
            return;
        };
        for block in &mut self.slots.tried(id)[first as usize..(first + count) as usize] {
            *block = (*block | 1 << leg.get()) & !AGAIN;
        }
        self.slots.get_mut(id).outstanding += 1;
        let purpose = Purpose::Guest { slot: id, first: first as u8, count: count as u8, leg: leg.get() };
        let memory = Segment { buf: Buffers::slot(id).plus(first), blocks: count };
        self.read_leg(turn, purpose, leg, pba, memory);
    }

    /// Reads blocks again that were not right: from legs where they were not tried, side by side as they lie.
    ///
    /// Not where the read before ended: a leg that is lost under a deep queue fails more blocks at once than
    /// there are operations, so each request waits here until there is room for all of its blocks.
    fn read_again<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId) {
        let count = self.slots.get(id).blocks as usize;
        if !self.room_beside_writes(turn, count + 1) {
            return;
        }
        self.slots.get_mut(id).retry = false;
        let mut at = 0;
        while at < count {
            let (first, tried) = (self.slots.refs(id)[at], self.slots.tried(id)[at]);
            if tried & AGAIN == 0 {
                at += 1;
                continue;
            }
            let alone = tried & SINGLE != 0;
            let most = if alone { 1 } else { self.geometry.contiguous(first.pba).get() as usize };
            let mut run = 1;
            while run < most.min(count - at)
                && self.slots.tried(id)[at + run] == tried
                && self.slots.refs(id)[at + run].pba == first.pba + Blocks::new(run as u64)
            {
                run += 1;
            }
            self.read_run(turn, id, at as u32, run as u32);
            at += run;
        }
        self.maybe_finish_read(turn, id);
    }

    /// A read of some blocks ended: each is checked, and tried on the next leg if it is not right.
    pub fn guest_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        id: SlotId,
        first: u8,
        count: u8,
        leg: u8,
        result: Result<(), Fault>,
    ) {
        self.slots.get_mut(id).outstanding -= 1;
        for i in u32::from(first)..u32::from(first) + u32::from(count) {
            let wanted = self.slots.refs(id)[i as usize];
            let buf = Buffers::slot(id).plus(i);
            let lba = self.slots.get(id).first + Blocks::new(u64::from(i));
            let right = result.is_ok()
                && (self.config.bug(Planted::ReadUnchecked)
                    || turn.memory.open_data(buf, self.volume.id, lba, wanted.when, wanted.check));
            if right {
                self.repair_others(turn, id, i, &wanted, leg);
                continue;
            }
            let drive = self.drive_of(wanted.pba, LegId::new(leg));
            self.drives.get_mut(drive).stats.check_errors += u64::from(result.is_ok());
            let tried = &mut self.slots.tried(id)[i as usize];
            *tried |= AGAIN;
            // One bad sector fails the whole read: which one it is, reads of single blocks tell.
            if result == Err(Fault::Medium) && count > 1 {
                *tried = (*tried | SINGLE) & !(1 << leg);
            }
            self.slots.get_mut(id).retry = true;
        }
        self.maybe_finish_read(turn, id);
    }

    /// A block was right on a leg after others were tried: those get it back.
    fn repair_others<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        id: SlotId,
        index: u32,
        block: &Ref,
        leg: u8,
    ) {
        let wrong = self.slots.tried(id)[index as usize] & LEGS & !(1 << leg);
        if wrong != 0 {
            let batch = self.slots.get(id).hold.expect("a read holds what it reads");
            let lba = self.slots.get(id).first + Blocks::new(u64::from(index));
            self.repair(turn, Content::Data(*block, lba), Buffers::slot(id).plus(index), wrong, batch);
        }
    }

    fn maybe_finish_read<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId) {
        let slot = *self.slots.get(id);
        if slot.outstanding > 0 || slot.retry {
            return;
        }
        if slot.rewrites && slot.fault.is_none() {
            self.rewrite_has_read(id);
        } else {
            self.finish(turn, id, slot.fault.map_or(Ok(()), Err));
        }
    }

    /// Partial writes: the old content around what the guest wrote is merged into the slot's buffer.
    ///
    /// `cursor` counts the edges that are settled. The request is alone on its blocks (`slots`), so what is read
    /// here cannot change until its own commit.
    pub fn advance_edges<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        for i in 0..self.slots.order.len() {
            let id = self.slots.order[i];
            let slot = *self.slots.get(id);
            if slot.state == State::Edges && !slot.finished && slot.outstanding == 0 {
                self.settle_edges(turn, id);
            }
        }
    }

    fn settle_edges<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId) {
        let edges = self.slots.get(id).edges();
        for edge in 0..2u8 {
            let slot = *self.slots.get(id);
            if !edges[usize::from(edge)] || slot.cursor >> edge & 1 == 1 {
                continue;
            }
            match self.lookup(turn, slot.edge_lba(edge)) {
                Lookup::Wait => return,
                Lookup::Lost => return self.finish(turn, id, Err(Fault::Io)),
                Lookup::Found(old) if old.is_hole() => {
                    turn.memory.block_mut(Buffers::edge(id, edge)).fill(0);
                    self.merge_edge(turn, id, edge);
                }
                Lookup::Found(old) => {
                    if !self.room(turn, 1) {
                        return;
                    }
                    self.slots.refs(id)[usize::from(edge)] = old;
                    return self.read_edge(turn, id, edge);
                }
            }
        }
        self.release(id);
        let slot = self.slots.get_mut(id);
        (slot.state, slot.cursor) = (State::Ready, 0);
        self.again = true;
    }

    fn read_edge<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId, edge: u8) {
        let old = self.slots.refs(id)[usize::from(edge)];
        let tried = self.slots.tried(id)[usize::from(edge)];
        let Some(leg) = self.pick_leg(old.pba, tried) else {
            return self.finish(turn, id, Err(Fault::Io));
        };
        self.slots.tried(id)[usize::from(edge)] |= 1 << leg.get();
        self.slots.get_mut(id).outstanding += 1;
        let memory = Segment { buf: Buffers::edge(id, edge), blocks: 1 };
        self.read_leg(turn, Purpose::Edge { slot: id, edge, leg: leg.get() }, leg, old.pba, memory);
    }

    /// The old content of an edge has been read, or not.
    pub fn edge_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        id: SlotId,
        edge: u8,
        leg: u8,
        result: Result<(), Fault>,
    ) {
        self.slots.get_mut(id).outstanding -= 1;
        let old = self.slots.refs(id)[usize::from(edge)];
        let buf = Buffers::edge(id, edge);
        let lba = self.slots.get(id).edge_lba(edge);
        if result.is_ok() && turn.memory.open_data(buf, self.volume.id, lba, old.when, old.check) {
            let wrong = self.slots.tried(id)[usize::from(edge)] & !(1 << leg);
            if wrong != 0 {
                let batch = self.slots.get(id).hold.expect("a merge holds what it reads");
                self.repair(turn, Content::Data(old, lba), buf, wrong, batch);
            }
            return self.merge_edge(turn, id, edge);
        }
        let drive = self.drive_of(old.pba, LegId::new(leg));
        self.drives.get_mut(drive).stats.check_errors += u64::from(result.is_ok());
        self.read_edge(turn, id, edge);
    }

    /// Puts the guest's bytes (or zeroes) over the old block, and the result where it is written from.
    fn merge_edge<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId, edge: u8) {
        let slot = *self.slots.get(id);
        let into = Buffers::slot(id).plus(slot.edge_buffer(edge));
        let bytes = slot.edge_bytes(edge);
        let old = *turn.memory.block(Buffers::edge(id, edge));
        let new = turn.memory.block_mut(into);
        if slot.request.op == Op::Write {
            new[..bytes.start].copy_from_slice(&old[..bytes.start]);
            new[bytes.end..].copy_from_slice(&old[bytes.end..]);
        } else {
            *new = old;
            new[bytes].fill(0);
        }
        self.slots.get_mut(id).cursor |= 1 << edge;
    }
}
