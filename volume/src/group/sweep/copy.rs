//! A resync's unit: its blocks are read from current legs, checked, and written to the drive.
//!
//! What an unproven drive may have is read there first; what passes its check is not written. The unit holds its blocks,
//! so that each stays what it is until its read has ended; from then on it changes by a write only, which
//! goes to the drive too.
use super::{ASKS_AGAIN, Errand, Item, OWN, Stage};
use crate::group::moving::MoveRefusal;
use crate::group::scrub::What;
use crate::group::{Group, Halt, Turn};
use crate::keys::Keyed;
use crate::ops::{JobKind, Purpose};
use crate::planted::Planted;
use base::{Fault, LegId, Segment};

impl Group {
    /// Takes a unit further: what is not there yet is read, then all of it is written.
    pub(super) fn copy_unit<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        self.read_unit(turn);
        if self.sweep.reading == 0 && self.sweep.stage != Stage::Leaving {
            self.write_unit(turn);
        }
    }

    /// No leg has this block of the unit. One of the guest's is as lost where it goes as where it is; of a page the group may
    /// know more than its drives say just now.
    fn block_lost(&mut self, item: &Item) {
        self.sweep.lost += 1;
        if self.sweep.errand == Errand::Move && !matches!(item.what, What::Data(_)) {
            self.move_failed(MoveRefusal::LastCopy);
        }
    }

    /// Something of a move could not be written on a drive that the group cannot do without: it stays, and lacks it.
    ///
    /// Crash story: none was needed. One write of a copy failed on a drive that had other rows and no other leg to spare it. The
    /// move went on, the drive that was left went back to the pool, and what it alone had had was gone; with a row page so was the
    /// whole group at the next open.
    pub(super) fn copy_lost(&mut self) {
        match (self.sweep.errand, self.sweep.stage) {
            (_, Stage::Leaving) => {}
            // A slot that may be believed some day, as if it were a version that could not be written.
            (Errand::Move, Stage::Wiped) => self.halt(Halt::SuperblockFailed),
            (Errand::Move, _) => self.move_failed(MoveRefusal::DriveFailed),
            _ => {}
        }
    }

    /// How many blocks from `first` on lie side by side and are alike in what is to be done.
    pub(super) fn run_from(&self, first: usize, alike: impl Fn(&Item) -> bool) -> usize {
        let unit = &self.sweep.unit;
        let most = self.geometry.contiguous(unit[first].pba).get() as usize;
        let start = unit[first].pba;
        let goes_on = |n: &usize| {
            let item = unit.get(first + n);
            item.is_some_and(|item| item.pba.get() == start.get() + *n as u64 && alike(item))
        };
        (1..most).take_while(goes_on).count() + 1
    }

    fn read_unit<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let mut at = 0;
        while at < self.sweep.unit.len() {
            let item = self.sweep.unit[at];
            if !item.is_open() {
                at += 1;
                continue;
            }
            // After a failure each block is read alone.
            let fresh = |other: &Item| {
                other.is_open() && !other.alone && other.tried == 0 && other.shown == item.shown
            };
            let count = if fresh(&item) { self.run_from(at, fresh) } else { 1 };
            if item.shown {
                let extent = self.copied_to(item.pba).expect("a block that the drive has a place for");
                let block = self.geometry.place(item.pba).block;
                self.read_own(turn, (at, count as u32), extent, block);
                at += count;
                continue;
            }
            match self.pick_leg(item.pba, item.tried) {
                Some(leg) => {
                    let purpose = Purpose::Copy { first: at as u8, count: count as u8, leg: leg.get() };
                    let memory = Segment { buf: self.unit_buffer(at), blocks: count as u32 };
                    self.sweep.reading += 1;
                    self.read_leg(turn, purpose, leg, item.pba, memory);
                }
                None if item.asked < ASKS_AGAIN => {
                    let item = &mut self.sweep.unit[at];
                    (item.asked, item.tried, item.alone) = (item.asked + 1, 0, true);
                    continue;
                }
                None => {
                    self.sweep.unit[at].lost = true;
                    self.block_lost(&item);
                    at += 1;
                    continue;
                }
            }
            at += count;
        }
    }

    /// The drive's own blocks were read: those that are right stay.
    fn own_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        (first, count): (u8, u8),
        result: Result<(), Fault>,
    ) {
        for i in usize::from(first)..usize::from(first) + usize::from(count) {
            let right = result.is_ok() && self.unit_is_right(turn, i);
            let item = &mut self.sweep.unit[i];
            item.alone = result.is_err() && count > 1;
            if item.alone {
                continue;
            }
            item.shown = false;
            item.kept = right || (result.is_ok() && self.config.bug(Planted::ResyncUncompared));
            self.sweep.kept += u64::from(item.kept);
        }
    }

    /// Whether a block of the unit, as it was read, is what it must be: verified with its key, for what is copied on the
    /// strength of a CRC may be forged, and every copy then.
    pub(super) fn unit_is_right<M: Keyed>(&self, turn: &mut Turn<'_, M>, i: usize) -> bool {
        let item = &self.sweep.unit[i];
        turn.memory.is_stored(self.unit_buffer(i), item.pba, item.form(self.volume.id), item.check)
    }

    /// A read for a unit ended: each block is checked, and read from the next leg if it is not right.
    pub(super) fn copy_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        (first, count, leg): (u8, u8, u8),
        result: Result<(), Fault>,
    ) {
        if leg == OWN {
            return self.own_read_ended(turn, (first, count), result);
        }
        for i in usize::from(first)..usize::from(first) + usize::from(count) {
            // One bad sector fails the whole read: which one it is, reads of single blocks tell.
            if result.is_err() && count > 1 {
                self.sweep.unit[i].alone = true;
                continue;
            }
            let right = result.is_ok() && self.unit_is_right(turn, i);
            let drive = self.drive_of(self.sweep.unit[i].pba, LegId::new(leg));
            self.drives.get_mut(drive).stats.check_errors += u64::from(result.is_ok() && !right);
            let item = &mut self.sweep.unit[i];
            item.ready = right;
            item.tried |= 1 << leg;
        }
    }

    fn write_unit<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if self.sweep.stage == Stage::HistoryPage {
            self.note_previous_page(turn);
        }
        let job = self.ops.open_job(JobKind::Copy);
        let mut at = 0;
        while at < self.sweep.unit.len() {
            let item = self.sweep.unit[at];
            let Some(extent) = self.copied_to(item.pba).filter(|_| item.ready) else {
                at += 1;
                continue;
            };
            let count = self.run_from(at, |other| other.ready);
            let place = self.geometry.place(item.pba);
            let memory = [Segment { buf: self.unit_buffer(at), blocks: count as u32 }];
            self.write_just_extent(turn, job, extent, place.block, &memory);
            self.sweep.copied += count as u64;
            at += count;
        }
        self.sweep.writing = true;
        self.ops.seal_job(job);
        self.again = true;
    }
}
