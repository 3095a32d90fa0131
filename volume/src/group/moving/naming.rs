//! The version that names the new rows: row pages, superblock, catalogue; and the way back from it.
use super::MoveRefusal;
use crate::drives::Health;
use crate::group::sweep::{Errand, Stage};
use crate::group::{Group, Turn};
use crate::keys::Keyed;
use crate::ops::{JobKind, Run};
use crate::superblock::Home;
use alloc::vec::Vec;
use base::{Action, Block, Change, Extent};
use fence::{CopyState, Event};

impl Group {
    /// How many legs the rows have once they have switched.
    fn legs_after(&self) -> u8 {
        match self.moving.change {
            Some(Change::AddLeg) => self.geometry.legs + 1,
            Some(Change::DropLeg(_)) => self.geometry.legs - 1,
            _ => self.geometry.legs,
        }
    }

    /// The rows as they will be, and the index of the first extent that changes.
    fn rows_after(&self) -> (Vec<Extent>, usize) {
        let (columns, extents) = (usize::from(self.geometry.columns), self.geometry.row_extents());
        match self.moving.change {
            Some(Change::AddLeg) => {
                let after = usize::from(self.legs_after()) * columns;
                let count = self.rows.len() / extents;
                let mut rows = alloc::vec![Extent::default(); count * after];
                for (new, old) in rows.chunks_exact_mut(after).zip(self.rows.chunks_exact(extents)) {
                    new[..extents].copy_from_slice(old);
                }
                assert!(self.moving.places.len() == count * columns, "a successor for each place");
                for place in &self.moving.places {
                    let (row, column) = (place.index / extents, place.index % extents);
                    rows[row * after + extents + column] = place.new;
                }
                (rows, 0)
            }
            Some(Change::DropLeg(_)) => {
                let kept = |row: &[Extent]| row[..extents - columns].to_vec();
                (self.rows.chunks_exact(extents).flat_map(kept).collect(), 0)
            }
            _ => {
                let mut rows = self.rows.clone();
                let mut first = rows.len();
                for place in &self.moving.places {
                    rows[place.index] = place.new;
                    first = first.min(place.index);
                }
                (rows, first)
            }
        }
    }

    /// Everything was copied and a checkpoint is behind it: new row pages.
    pub(in crate::group) fn name_successors<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if !self.successors_well() {
            return self.move_failed(MoveRefusal::DriveFailed);
        }
        if self.growth.changing() {
            return;
        }
        let (rows, first) = self.rows_after();
        let paged = !self.superblock.row_pages.is_absent();
        self.moving.rows = rows;
        let rows = &self.moving.rows;
        let mut check = |page: &Block| turn.memory.home_check(page);
        let home = &mut self.home_pages;
        let extended = if paged { self.row_pages.extended(rows, first, home, &mut check) } else { None };
        match extended {
            None if paged => return self.move_failed(MoveRefusal::TableFull),
            None => self.moving.pages = Some(self.row_pages.clone()),
            Some(extended) => {
                (self.moving.pages, self.moving.unwritten) = (Some(extended.tree), extended.written);
            }
        }
        self.write_successor_pages(turn);
    }

    /// Row pages, a few at a time; then a flush.
    pub(in crate::group) fn write_successor_pages<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if self.moving.unwritten.is_empty() {
            let ticket = self.flusher.ticket();
            return self.sweep_to(Stage::MoveFlush(ticket));
        }
        self.sweep_to(Stage::MovePages);
        if !self.room(turn, 64) {
            return;
        }
        let count = self.moving.unwritten.len().min(crate::buffers::ROW_PAGE_BUFFERS as usize);
        let job = self.ops.open_job(JobKind::Copy);
        self.runs.clear();
        for (i, (pba, page)) in self.moving.unwritten.drain(..count).enumerate() {
            let buf = self.buffers.row_pages.plus(i as u32);
            *turn.memory.block_mut(buf) = *page;
            self.runs.push(Run { pba, buf, blocks: 1 });
        }
        self.write_runs(turn, job);
        self.sweep.writing = true;
        self.ops.seal_job(job);
    }

    /// Whether a version that names other rows may be durable here or there, and a drive that has only the one before it
    /// could still open the group. No checkpoint counts until then.
    pub(in crate::group) fn names_rows(&self) -> bool {
        use Stage::{DropReads, NameMoved, TellMoved, Unname, Wipe, WipeFlush, Wiped};
        let stage = self.sweep.stage;
        matches!(stage, NameMoved(_) | TellMoved(..) | DropReads(_) | Unname(_) | Wipe | Wiped | WipeFlush(_))
    }

    /// The version that names the successors is asked for, once it says of nothing else that is new.
    pub(in crate::group) fn name_moved(&mut self) {
        if self.checkpoint.names_directory() {
            return;
        }
        if !self.successors_well() {
            return self.move_failed(MoveRefusal::DriveFailed);
        }
        if matches!(self.moving.change, Some(Change::DropLeg(_))) && !self.covered_without_last() {
            return self.move_failed(MoveRefusal::LastCopy);
        }
        let version = self.writer.want();
        for drive in self.moving.to.iter() {
            if !self.drives.is(drive, Health::Resyncing) {
                continue;
            }
            let entry = &mut self.superblock.drives[usize::from(drive.get())];
            let state = entry.state.after(Event::FinishResync).expect("a copy that was resynced");
            (entry.state, entry.version) = (state, version);
            let (durable, ckpt) = (self.durable, self.superblock.ckpt);
            let place = self.drives.get_mut(drive);
            place.health = Health::Returning;
            (place.flushed, place.flushed_ckpt) = (durable, ckpt);
        }
        let tree = self.moving.pages.as_ref().expect("row pages being named");
        if !self.superblock.row_pages.is_absent() {
            (self.superblock.row_pages, self.superblock.row_height) = tree.root();
        }
        self.name_homes(true);
        self.sweep_to(Stage::NameMoved(version));
    }

    /// The shape, the home row and the places of superblocks: the new ones, or the old ones again.
    fn name_homes(&mut self, new: bool) {
        self.superblock.geometry.legs = if new { self.legs_after() } else { self.geometry.legs };
        let rows = if new { &self.moving.rows } else { &self.rows };
        self.superblock.home.clear();
        self.superblock.home.extend_from_slice(&rows[..self.superblock.geometry.row_extents()]);
        let homes: Vec<Home> = self.superblock.homes().collect();
        self.writer.set_homes(homes);
    }

    /// A drive that takes over failed while the version that names it may be durable here or there, and before the rows
    /// switched: the next one names the old rows again. Its own mark, which what it missed waits for, is in that
    /// version too.
    pub(in crate::group) fn unname_moved(&mut self) {
        if self.sweep.errand != Errand::Move
            || !matches!(self.sweep.stage, Stage::NameMoved(_) | Stage::TellMoved(..) | Stage::DropReads(_))
        {
            return;
        }
        self.name_homes(false);
        let (page, height) = self.row_pages.root();
        if !self.superblock.row_pages.is_absent() {
            (self.superblock.row_pages, self.superblock.row_height) = (page, height);
        }
        // The others that were to take over have nothing to take over. That the catalogue was told of one changes nothing,
        // unless it has places of its own: without any it gets no write, and must not be taken for current.
        let version = self.writer.want();
        for drive in self.moving.to.iter() {
            let told = self.drives.current(drive) && !self.has_places(drive);
            if !told && !self.drives.is(drive, Health::Returning) {
                continue;
            }
            self.writer.forget_stored(drive);
            self.drives.get_mut(drive).health = Health::Failing;
            let entry = &mut self.superblock.drives[usize::from(drive.get())];
            (entry.state, entry.version) = (CopyState::EMPTY, version);
        }
        self.sweep_to(Stage::Unname(version));
    }

    /// Whether a drive has a place in a row that is in use, or in one that is being added.
    pub(super) fn has_places(&self, drive: base::DriveIx) -> bool {
        self.rows.iter().chain(self.growth.pending()).any(|extent| extent.drive == drive)
    }

    /// The version is durable: the catalogue hears of each drive that is current now.
    pub(in crate::group) fn tell_moved<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, version: u64) {
        match self.moving.to.iter().find(|drive| self.drives.is(*drive, Health::Returning)) {
            _ if !self.successors_well() => {}
            Some(drive) if turn.fits(1) => {
                turn.out.push(Action::StoreCurrent { drive, version });
                self.sweep_to(Stage::TellMoved(version, drive));
            }
            Some(_) => {}
            None if matches!(self.moving.change, Some(Change::DropLeg(_))) => {
                self.sweep_to(Stage::DropReads(self.ops.started()));
            }
            None => self.switch_rows(),
        }
    }

    /// The catalogue calls this drive current: it counts.
    pub(in crate::group) fn told_moved(&mut self, version: u64, drive: base::DriveIx) {
        let place = self.drives.get_mut(drive);
        if place.health == Health::Returning {
            place.health = Health::Current;
        }
        self.sweep_to(Stage::NameMoved(version));
    }
}
