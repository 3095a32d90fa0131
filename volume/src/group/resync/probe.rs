//! What a drive that comes back says of itself.
//!
//! It must show a superblock of its own: one that says that it lies there. One that is older than C, or of an activation
//! that is not in the group's history, is that of a drive that was rolled back or has gone another way; a drive without
//! superblocks, or whose superblocks cannot be read, cannot say anything; and where the home extent begins with the header
//! of another drive or group, what lies behind it may be theirs as well, around superblocks that nobody wrote over. All
//! of these are unproven.
//!
//! Any other has no more than it says itself, whatever its entry says. Crash story: a drive was set back to a moment
//! behind C, and before the flush that S is of: it shows the superblock that it had when it went, and lacks what was
//! flushed in between. D of that superblock is what it surely had then; but superblocks are written with checkpoints, up
//! to hundreds of megabytes of writes apart, and every drive that was away for a second would get all of that again. So
//! its ring is read too: commits name D as well, with every flush, and are there only if what they say was there
//! before them (`rlog::Witness`).
//!
//! What S can still be too low by: what was flushed last, if no commit followed it; and what was written since the
//! last flush. The engine flushes after `AUTO_FLUSH_BYTES`.
use crate::group::scrub::What;
use crate::group::sweep::{Item, OWN, Stage, UNIT_BLOCKS};
use crate::group::{Group, Turn};
use crate::header::Header;
use crate::keys::Keyed;
use crate::layout::extent as fixed;
use crate::ops::Purpose;
use crate::planted::Planted;
use crate::superblock::{Home, Superblock};
use alloc::vec::Vec;
use base::{Block, CkptNo, Extent, Fault, RowNo, Segment};
use fence::{CopyState, Event};
use rlog::Witness;

/// What a drive that comes back is asked for: superblock slots, and the header of its extent of the home row.
const PROBED: [u32; 3] = [fixed::SUPERBLOCKS[0], fixed::SUPERBLOCKS[1], fixed::HEADER];

impl Group {
    /// Where the drive has its superblocks and its ring, if it has any.
    pub(super) fn home_of_drive(&self) -> Option<Home> {
        self.superblock.homes().find(|home| home.extent.drive == self.sweep.drive)
    }

    /// Reads what the drive says of itself, once nothing of its former life is in flight.
    pub(in crate::group) fn probe<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let drive = self.sweep.drive;
        if self.may_land_late(drive) {
            // What it owed from its former life was given up meanwhile: others have their turn.
            self.sweep.asked = None;
            return self.sweep_to(Stage::Leaving);
        }
        let lands_late = self.config.bug(Planted::LateLands) && self.ops.given_up().contains(drive);
        if (self.ops.busy_on(drive) && !lands_late) || !self.room(turn, PROBED.len()) {
            return;
        }
        let asked = self.sweep.asked.take().expect("a drive that returned");
        let place = self.drives.get_mut(drive);
        place.handle = asked.handle;
        (place.info.volatile, place.info.blocks) = (asked.volatile, asked.blocks);
        assert!(place.reads_in_flight == 0, "a drive without operations has no reads in flight");
        self.sweep.unit.clear();
        self.sweep.witness = None;
        if let Some(home) = self.home_of_drive() {
            for (i, block) in PROBED.iter().enumerate() {
                self.sweep.unit.push(Item::new(&cow::Ref::ABSENT, What::Unknown));
                self.read_own(turn, (i, 1), home.extent, *block);
            }
        }
        self.sweep_to(Stage::Probe);
    }

    /// What the drive is by its own word; `None` if that is not what the group thinks. Notes what its ring can add.
    fn probe_says<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, ckpt: CkptNo) -> Option<(CopyState, CkptNo)> {
        let drive = self.superblock.drives[usize::from(self.sweep.drive.get())].drive;
        let slots = 0..self.sweep.unit.len().min(fixed::SUPERBLOCKS.len());
        let read = slots.filter(|i| self.sweep.unit[*i].ready);
        let blocks: Vec<Block> = read.map(|i| *turn.memory.block(self.unit_buffer(i))).collect();
        let keys = turn.memory.keys();
        let genuine = |block: &Block| {
            Superblock::decode(block).ok().filter(|(said, _)| said.is_genuine(block, keys.as_deref()))
        };
        let found = blocks.iter().filter_map(genuine);
        let own = |(superblock, home): (Superblock, Home)| {
            let entry = *superblock.drives.get(usize::from(home.extent.drive.get()))?;
            let here = self
                .superblock
                .home
                .iter()
                .any(|extent| extent.drive == self.sweep.drive && extent.extent == home.extent.extent);
            let any = self.config.bug(Planted::ResyncNotItsOwn);
            (any || (entry.drive == drive && here)).then_some((entry, superblock))
        };
        let (entry, newest) = found.filter_map(own).max_by_key(|(_, superblock)| superblock.newness())?;
        let line = newest.line?;
        let ours = self
            .superblock
            .line
            .iter()
            .chain(&self.history)
            .any(|known| (known.generation, known.id) == (line.generation, line.id));
        if newest.group != self.superblock.group || newest.ckpt < ckpt || !ours {
            return None;
        }
        self.sweep.witness = entry.state.is_current().then_some(Witness {
            group: newest.group,
            activation: (line.generation, line.id),
            versions: (entry.version, newest.version),
            durable: newest.durable,
        });
        Some((entry.state, newest.ckpt))
    }

    /// Whether the header of its extent of the home row is not the one that it should be, but for the names.
    fn probe_lacks_header<M: Keyed>(&self, turn: &Turn<'_, M>) -> bool {
        let Some(item) = self.sweep.unit.get(PROBED.len() - 1) else { return false };
        let Some(home) = self.home_of_drive() else { return false };
        let wanted = self.header_at(home.extent, RowNo::ZERO, home.leg, home.column);
        let block = turn.memory.block(self.unit_buffer(PROBED.len() - 1));
        !item.ready || Header::decode(block) != Ok(wanted)
    }

    /// Whether its extent of the home row says that it is another drive's, or another group's.
    fn probe_shows_another<M: Keyed>(&self, turn: &Turn<'_, M>) -> bool {
        let Some(item) = self.sweep.unit.get(PROBED.len() - 1) else { return false };
        let own = self.superblock.drives[usize::from(self.sweep.drive.get())].drive;
        let found = Header::decode(turn.memory.block(self.unit_buffer(PROBED.len() - 1)));
        let another = |header: Header| header.drive != own || header.group != self.superblock.group;
        item.ready && found.is_ok_and(another) && !self.config.bug(Planted::ResyncNotItsOwn)
    }

    /// The drive did not answer: it is left until it is handed back again. Whether it is so.
    ///
    /// Crash story: none. It was taken for one that cannot say what it has, and brought up; what it was then asked for
    /// was behind what had been given up on it, and nobody gives that up again. A superblock version waited for minutes, and
    /// every write that waited for a checkpoint with it.
    fn probe_unanswered(&mut self) -> bool {
        let silent = self.may_land_late(self.sweep.drive);
        if silent {
            self.sweep.unit.clear();
            self.sweep_to(Stage::Leaving);
        }
        silent
    }

    /// Superblocks and header of the drive were read.
    pub(in crate::group) fn judge_probe<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if self.probe_unanswered() {
            return;
        }
        let entry = self.superblock.drives[usize::from(self.sweep.drive.get())];
        let (seq, ckpt) = entry.state.since().expect("a drive that is not current");
        let said = self.probe_says(turn, ckpt).filter(|_| !self.probe_shows_another(turn));
        self.sweep.header_lost = self.probe_lacks_header(turn) && !self.config.bug(Planted::ResyncUnprobed);
        self.sweep.unit.clear();
        let unproven = entry.state.after(Event::Diverge).expect("any copy may diverge");
        let stale = match said {
            _ if self.config.bug(Planted::ResyncUnprobed) => entry.state,
            // Believed alone, a mark that says too much does no harm: what the drive says itself bounds it.
            Some(_)
                if self.config.bug(Planted::ResyncUnbounded) || self.config.bug(Planted::StaleSinceAcked) =>
            {
                entry.state
            }
            Some((CopyState::Current, ckpt)) => {
                self.sweep.believed = entry.state.at_most(seq, ckpt);
                return self.sweep_to(Stage::ProbeRing(0));
            }
            Some((state, _)) if state.is_unproven() => unproven,
            Some((state, _)) => {
                let (seq, ckpt) = state.since().expect("a copy that is not current");
                entry.state.at_most(seq, ckpt)
            }
            None => unproven,
        };
        self.bring_up(stale);
    }

    /// Reads on in the drive's ring, from this offset, unless it has said enough.
    pub(in crate::group) fn probe_ring<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, offset: u32) {
        let witness = self.sweep.witness.expect("it said that it was current");
        let stale = self.sweep.believed;
        let (seq, ckpt) = stale.since().expect("a copy that is not current");
        let home =
            self.home_of_drive().filter(|_| witness.durable < seq && offset < self.log.ring.shape().len());
        let Some(home) = home else {
            return self.bring_up(stale.at_most(witness.durable, ckpt));
        };
        if !self.room_beside_writes(turn, 1) {
            return;
        }
        let (row, block, left) = self.geometry.ring_place(offset);
        let extent = self.extent(row, home.leg, home.column);
        self.read_own(turn, (0, left.min(UNIT_BLOCKS)), extent, block);
    }

    /// A part of the ring was read. One that cannot be read ends it: what follows would prove more, and need not.
    pub(in crate::group) fn probe_ring_read<M: Keyed>(
        &mut self,
        turn: &Turn<'_, M>,
        (offset, count): (u32, u32),
        result: Result<(), Fault>,
    ) {
        if self.probe_unanswered() {
            return;
        }
        let column = self.home_of_drive().expect("a drive with a ring").column;
        let (Ok(()), Some(witness)) = (result, &mut self.sweep.witness) else {
            return self.sweep_to(Stage::ProbeRing(self.log.ring.shape().len()));
        };
        let bytes = turn.memory.blocks(self.buffers.sweep, count);
        let taken = witness.feed(self.log.ring.shape(), column, offset, bytes);
        assert!(taken > 0, "as much as a commit can have, or all of a piece, was read");
        self.sweep_to(Stage::ProbeRing(offset + taken));
    }

    /// Reads `count` blocks of the drive itself into the buffers of a unit from `first` on.
    pub(in crate::group) fn read_own<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        (first, count): (usize, u32),
        extent: Extent,
        block: u32,
    ) {
        let purpose = Purpose::Copy { first: first as u8, count: count as u8, leg: OWN };
        let memory = Segment { buf: self.unit_buffer(first), blocks: count };
        self.sweep.reading += 1;
        self.read_extent(turn, purpose, extent, block, memory);
    }
}
