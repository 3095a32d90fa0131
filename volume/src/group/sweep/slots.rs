//! A scrub's look at superblock slots: both of every home extent must hold the newest version.
//!
//! A version may be written at any time, so a slot counts as wrong only if none was from before the read until after
//! it. One that is wrong is overwritten by the next version, which is asked for when all were looked at: it is
//! written to every slot, and what was wrong with those behind would never be named.
use super::Stage;
use crate::group::scrub::{Finding, Outcome, What};
use crate::group::{Group, Turn};
use crate::keys::Keyed;
use crate::layout::extent as fixed;
use crate::ops::Purpose;
use crate::superblock::Superblock;
use base::{Fault, Segment};

/// Where the look stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SlotsRead {
    /// The home extent.
    home: usize,
    /// The version that its slots must hold; they are being read, or were.
    version: Option<u64>,
    right: [bool; 2],
    /// A slot was wrong so far.
    damaged: bool,
    /// The version that overwrites what was wrong.
    mends: Option<u64>,
}

impl Group {
    /// Looks at the next home extent.
    pub(super) fn visit_slots<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let Some(home) = self.superblock.homes().nth(self.sweep.slots.home) else {
            if self.sweep.slots.damaged && self.sweep.slots.mends.is_none() {
                self.sweep.slots.mends = Some(self.writer.want());
                self.again = true;
            }
            let mended = self.sweep.slots.mends.is_none_or(|version| self.writer.is_durable(version));
            if mended {
                self.begin_log();
            }
            return;
        };
        if !self.drives.current(home.extent.drive) {
            return self.next_home();
        }
        if let Some(version) = self.sweep.slots.version.take() {
            return self.judge_slots(home, version);
        }
        if !self.writer.settled() || !self.room(turn, 2) {
            return;
        }
        for (i, slot) in fixed::SUPERBLOCKS.iter().enumerate() {
            let purpose = Purpose::Copy { first: i as u8, count: 1, leg: home.leg.get() };
            let place = crate::geometry::Place { row: base::RowNo::ZERO, column: home.column, block: *slot };
            let memory = Segment { buf: self.unit_buffer(i), blocks: 1 };
            self.sweep.reading += 1;
            self.read_leg(turn, purpose, home.leg, self.geometry.pba(place), memory);
        }
        self.sweep.slots.version = Some(self.writer.durable_version());
    }

    fn next_home(&mut self) {
        self.sweep.slots.home += 1;
        self.again = true;
    }

    pub(super) fn slot_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        index: usize,
        result: Result<(), Fault>,
    ) {
        let block = *turn.memory.block(self.unit_buffer(index));
        let found = Superblock::decode(&block);
        let keys = turn.memory.keys();
        let ours = |found: &Superblock| {
            let same =
                found.group == self.superblock.group && Some(found.version) == self.sweep.slots.version;
            same && found.is_genuine(&block, keys.as_deref())
        };
        self.sweep.slots.right[index] = result.is_ok() && found.as_ref().is_ok_and(|(found, _)| ours(found));
        self.sweep.scrub.stats.checked_copies += 1;
    }

    fn judge_slots(&mut self, home: crate::superblock::Home, version: u64) {
        if !self.writer.settled() || self.writer.durable_version() != version {
            // It was written meanwhile: once more.
            self.again = true;
            return;
        }
        let right = self.sweep.slots.right;
        for i in (0..2).filter(|i| !right[*i]) {
            self.drives.get_mut(home.extent.drive).stats.check_errors += 1;
            let at = self.geometry.drive_block(home.extent, fixed::SUPERBLOCKS[i]);
            let drive = home.extent.drive;
            self.note(Finding { what: What::Superblock, drive, at, outcome: Outcome::Repaired });
            self.sweep.slots.damaged = true;
        }
        self.next_home();
    }

    /// A scrub ends where it is: what it called right is right only behind the next version.
    pub(super) fn leave_slots(&mut self) {
        let slots = core::mem::take(&mut self.sweep.slots);
        if slots.damaged && slots.mends.is_none() {
            self.writer.want();
        }
    }

    /// The slots begin from the first.
    pub(super) fn begin_slots(&mut self) {
        self.sweep.slots = SlotsRead::default();
        self.sweep_to(Stage::Slots);
    }
}
