//! A scrub's unit: each block is read from every current leg; a copy that is wrong is written again from a right one.
//!
//! One leg after the other, through the same buffers; the last right content stays in them. Then what is wrong
//! somewhere and not in its buffer is read once more from where it was right, and handed to `repair`, which writes and
//! flushes it. The unit ends when its last repair has ended: so a finding that says repaired is.
use super::{Item, Stage, UNIT_BLOCKS};
use crate::envelope::StoredEnvelope;
use crate::group::repair::Content;
use crate::group::scrub::{Finding, Outcome, What};
use crate::group::{Group, Turn};
use crate::header::Header;
use crate::keys::Keyed;
use crate::names::Names;
use crate::ops::Purpose;
use crate::planted::Planted;
use base::{Fault, LegId, RowNo, Segment};

/// Where a unit of a scrub stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verify {
    /// Copies are being read.
    Read,
    /// Blocks up to this one were handed to repair, if they needed it.
    Mend(usize),
    /// The repairs are under way.
    Settle,
}

impl Group {
    /// Takes a unit further.
    pub(super) fn verify_unit<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        match self.sweep.verify {
            Verify::Read => {
                if !self.read_next_leg(turn) {
                    self.sweep.verify = Verify::Mend(0);
                    self.again = true;
                }
            }
            Verify::Mend(from) => self.mend_unit(turn, from),
            Verify::Settle => {
                let unit = &self.sweep.unit;
                if !unit.iter().any(|item| item.wrong != 0 && self.repairs.holds(item.pba)) {
                    self.end_verified_unit(turn);
                }
            }
        }
    }

    /// Whether this copy of an item is to be read.
    fn is_unread(&self, item: &Item, leg: LegId) -> bool {
        let own = match item.what {
            What::Header { leg, .. } => Some(leg),
            _ => None,
        };
        if self.config.bug(Planted::ScrubOneCopy) && item.tried != 0 {
            return false;
        }
        item.tried >> leg.get() & 1 == 0
            && own.is_none_or(|own| own == leg)
            && self.drives.current(self.drive_of(item.pba, leg))
    }

    /// Reads all copies of one leg that were not read yet. False if there are none on any leg.
    fn read_next_leg<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) -> bool {
        for leg in self.legs() {
            let mut at = 0;
            while at < self.sweep.unit.len() {
                let item = self.sweep.unit[at];
                if !self.is_unread(&item, leg) {
                    at += 1;
                    continue;
                }
                let alike = |other: &Item| !other.alone && self.is_unread(other, leg);
                let count = if item.alone { 1 } else { self.run_from(at, alike) };
                self.read_copies(turn, leg, at, count);
                at += count;
            }
            if self.sweep.reading > 0 {
                return true;
            }
        }
        false
    }

    fn read_copies<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, leg: LegId, first: usize, count: usize) {
        let purpose = Purpose::Copy { first: first as u8, count: count as u8, leg: leg.get() };
        let memory = Segment { buf: self.unit_buffer(first), blocks: count as u32 };
        self.sweep.reading += 1;
        let pba = self.sweep.unit[first].pba;
        self.read_leg(turn, purpose, leg, pba, memory);
    }

    /// Copies were read: each is checked.
    pub(super) fn verify_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        (first, count, leg): (u8, u8, u8),
        result: Result<(), Fault>,
    ) {
        for i in usize::from(first)..usize::from(first) + usize::from(count) {
            // One bad sector fails the whole read: which one it is, reads of single blocks tell.
            if result.is_err() && count > 1 {
                self.sweep.unit[i].alone = true;
                continue;
            }
            let right = result.is_ok()
                && (self.config.bug(Planted::ScrubUnchecked) && leg == 0 || self.is_right(turn, i));
            let drive = self.drive_of(self.sweep.unit[i].pba, LegId::new(leg));
            self.drives.get_mut(drive).stats.check_errors += u64::from(result.is_ok() && !right);
            self.sweep.scrub.stats.checked_copies += u64::from(self.sweep.verify == Verify::Read);
            let item = &mut self.sweep.unit[i];
            item.tried |= 1 << leg;
            item.wrong |= u8::from(!right) << leg;
            item.ready = right;
        }
    }

    /// Whether this is what a block must hold. A header is judged by what it says: those of the home row hold names
    /// too, which only the agent knows.
    fn is_right<M: Keyed>(&self, turn: &mut Turn<'_, M>, i: usize) -> bool {
        let item = &self.sweep.unit[i];
        let What::Header { row, leg } = item.what else { return self.unit_is_right(turn, i) };
        let block = turn.memory.block(self.unit_buffer(i));
        let column = self.geometry.place(item.pba).column;
        let wanted = self.header_at(self.extent(row, leg, column), row, leg, column);
        Header::decode(block) == Ok(wanted)
    }

    /// Writes the right header into its buffer, with the newest names and the newest envelope that any other header of
    /// the home row has: all of them are in one unit and were read by now. If none is right, both are gone, and the
    /// catalogue has them.
    fn make_header<M: Keyed>(&self, turn: &mut Turn<'_, M>, at: usize, row: RowNo, leg: LegId) {
        let column = self.geometry.place(self.sweep.unit[at].pba).column;
        let mut block = self.header_of(self.extent(row, leg, column), row, leg, column);
        let home = |item: &Item| matches!(item.what, What::Header { row: RowNo::ZERO, .. });
        let others = (0..self.sweep.unit.len()).filter(|other| {
            let item = &self.sweep.unit[*other];
            row == RowNo::ZERO && *other != at && item.ready && item.wrong == 0 && home(item)
        });
        let (mut named, mut wrapped) = (None, None);
        for other in others {
            let other = turn.memory.block(self.unit_buffer(other));
            named = named.into_iter().chain([other]).max_by_key(|block| Names::written(block));
            wrapped = wrapped.into_iter().chain([other]).max_by_key(|block| StoredEnvelope::written(block));
        }
        if let (Some(named), Some(wrapped)) = (named, wrapped) {
            Names::copy(named, &mut block);
            StoredEnvelope::copy(wrapped, &mut block);
        }
        *turn.memory.block_mut(self.unit_buffer(at)) = block;
    }

    /// Hands what is wrong to repair, from block `from` of the unit on.
    fn mend_unit<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, from: usize) {
        for at in from..self.sweep.unit.len() {
            self.sweep.verify = Verify::Mend(at);
            let item = self.sweep.unit[at];
            if item.wrong == 0 || item.lost {
                continue;
            }
            if !item.ready && !self.make_ready(turn, at) {
                return;
            }
            let batch = self.sweep.batch.expect("a unit holds its blocks");
            let buf = self.unit_buffer(at);
            if self.sweep.unit[at].ready
                && !self.repair(turn, Content::Stored(item.pba), buf, item.wrong, batch)
            {
                // Too many at once: the end of one calls again.
                return;
            }
        }
        self.sweep.verify = Verify::Settle;
        self.again = true;
    }

    /// Brings the right content of a block into its buffer. False while it is being read.
    fn make_ready<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, at: usize) -> bool {
        let item = self.sweep.unit[at];
        if let What::Header { row, leg } = item.what {
            self.make_header(turn, at, row, leg);
            self.sweep.unit[at].ready = true;
            return true;
        }
        let right = item.tried & !item.wrong;
        match self
            .legs()
            .find(|leg| right >> leg.get() & 1 == 1 && self.drives.current(self.drive_of(item.pba, *leg)))
        {
            Some(leg) => {
                self.read_copies(turn, leg, at, 1);
                false
            }
            None => {
                self.sweep.unit[at].lost = true;
                true
            }
        }
    }

    /// All is as right as it will be.
    fn end_verified_unit<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        for at in 0..self.sweep.unit.len() {
            let item = self.sweep.unit[at];
            for leg in self.legs().filter(|leg| item.wrong >> leg.get() & 1 == 1) {
                let outcome = match self.drives.current(self.drive_of(item.pba, leg)) {
                    _ if item.lost => Outcome::Lost,
                    true => Outcome::Repaired,
                    false => Outcome::DriveOut,
                };
                let finding: Finding = self.finding_at(item.pba, leg, item.what, outcome);
                self.note(finding);
            }
            self.sweep.lost += u64::from(item.lost);
        }
        if self.sweep.stage == Stage::HistoryPage {
            self.note_previous_page(turn);
        }
        self.sweep.verify = Verify::Read;
        let copies = self.sweep.unit.len().min(UNIT_BLOCKS as usize) * usize::from(self.geometry.legs);
        self.unit_done(copies);
    }
}
