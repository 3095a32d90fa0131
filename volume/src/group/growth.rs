//! Rows on demand: the space grows when it runs short, as long as the pool has extents.
//!
//! Crash story: extents that the catalogue handed out get their headers, then the row pages that name them are
//! written to free home pages, then all is flushed, then a superblock version names the new root of the row
//! pages, and only then is the row used. A crash before that leaves extents that no superblock names: they go
//! back. The home pages that the old version names are not touched until the new one counts.
//!
//! A row that cannot be used (a drive of it failed, a place would have no current copy) is given up before any
//! version names it, rather than that the group suffers from it: the pool is asked for the same row again, which
//! says that the grant goes back. From the version on that names it, its places are protected like all others.
//! Drives that join with a row: see `joining`.
//!
//! The extents of a row that was given up stay the group's, and no other row is asked for, while a header may still land
//! in one: of drives whose write for the row was given up, not of others that hang. Crash story: none, but a long one. A
//! drive hung and was away. The next row lay on it too, so that it would get what it missed when it is back; nothing was
//! written to it. One write failed on the other drive, the row was given up, and its extents were to wait until the drive
//! that hung was quiet: never. No other row was asked for, and the guest heard of no space in a pool that had some.
//! A drive that was to join with the row and never answers is forgotten but for the number by which the driver knows it: a
//! move, which may list a drive at its place, and a scrub behind that do not wait for it.
//! Power may fail at any moment of that: no superblock names the row, and no header of it is anywhere but where one was sent.
mod aside;

use super::{Group, Turn};
use crate::drives::Health;
use crate::header::Header;
use crate::keys::Keyed;
use crate::ops::{JobId, JobKind, Run};
use crate::planted::Planted;
use crate::rows::RowPages;
use alloc::vec::Vec;
use base::limits::MAX_DRIVES;
use base::{Action, Column, DriveIx, Duration, Extent, Instant, LegId, Phase, RowGrant, RowNo, Segment};
use fence::DriveSet;

/// After a refusal the pool is asked again after so long.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10_000);
/// And after so long, if the row was refused because a drive of it is being left.
const ASK_AGAIN_WHILE_MOVING: Duration = Duration::from_millis(1_000);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    Asked,
    Granted(RowGrant),
    Writing(RowGrant),
    Flush(RowGrant, u64),
    Naming(RowGrant, u64),
    /// Given up; a header that these drives were sent, or anything of new ones, may still land: its extents must not go
    /// back yet.
    Leaving(DriveSet),
}

/// The growth of a group.
pub(crate) struct Growth {
    stage: Stage,
    wanted: bool,
    /// The pool had nothing; ask again then.
    refused: bool,
    /// It had something that cannot be used at present: whoever waits for space goes on waiting.
    deferred: bool,
    retry_at: Option<Instant>,
    /// There is no room for a further row, by the home pages or in memory.
    ended: bool,
    written: Option<bool>,
    /// Drives of which a write for the row was given up: it may still land.
    late: DriveSet,
    /// Drives that were to join with a row that was given up, by the driver's numbers: something may still land there.
    gone: Vec<DriveIx>,
    /// The row's extents of a leg that is being added (`moving.rs`).
    added: Vec<Extent>,
    /// The row's drives that no superblock lists yet (`joining.rs`).
    pub joining: Vec<super::joining::Place>,
    /// The row's extents of a leg that is still to be added.
    aside: Vec<aside::Aside>,
}

impl Growth {
    pub fn new() -> Self {
        Self {
            stage: Stage::Idle,
            wanted: false,
            refused: false,
            deferred: false,
            retry_at: None,
            ended: false,
            written: None,
            late: DriveSet::EMPTY,
            gone: Vec::new(),
            added: Vec::new(),
            joining: Vec::new(),
            aside: Vec::new(),
        }
    }

    /// Space is short.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether the group may still grow: nobody has said no. It may not while a row that was given up cannot go back,
    /// because something that was given up may still land on a drive of it: that can take for ever.
    pub fn possible(&self) -> bool {
        let leaving = matches!(self.stage, Stage::Leaving(_));
        let under_way = self.stage != Stage::Idle && !leaving;
        !self.ended && (under_way || self.deferred || (!self.refused && !leaving))
    }

    /// Whether a row is on its way into the superblock.
    pub fn changing(&self) -> bool {
        matches!(self.stage, Stage::Writing(..) | Stage::Flush(..) | Stage::Naming(..))
    }

    /// Whether a grant is at hand, which counts on the drive table as it is.
    pub fn has_grant(&self) -> bool {
        !matches!(self.stage, Stage::Idle | Stage::Asked | Stage::Leaving(_))
    }

    /// Whether something may still land on a drive, by the driver's number, that was to join with a row.
    pub fn is_gone(&self, handle: DriveIx) -> bool {
        self.gone.contains(&handle)
    }

    /// Nothing can any more.
    pub fn quiet(&mut self, handle: DriveIx) {
        self.gone.retain(|gone| *gone != handle);
    }

    /// The row that a superblock version may name already: its places must not lose their last current copy.
    pub fn pending(&self) -> &[Extent] {
        match &self.stage {
            Stage::Naming(grant, _) => &grant.extents,
            _ => &[],
        }
    }

    /// When to ask again.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.wanted)
    }

    /// The catalogue has handed out extents.
    pub fn granted(&mut self, grant: RowGrant) {
        if self.stage == Stage::Asked {
            self.aside.clear();
            self.stage = Stage::Granted(grant);
        }
    }

    /// The pool has none.
    pub fn refused(&mut self) {
        if self.stage == Stage::Asked {
            self.stage = Stage::Idle;
            self.refused = true;
        }
    }

    /// The pool grew.
    pub fn ask_again(&mut self) {
        (self.refused, self.deferred) = (false, false);
        self.retry_at = None;
    }
}

impl Group {
    /// Asks for a row when one is wanted, and takes a granted one into use step by step.
    pub fn advance_growth<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        // While the directory is being read nobody knows how much is free, nor which rows the map may use; and where there
        // is none yet, not before the regions are there that the superblock names.
        let recovering = self.phase == Phase::Recovering && !self.config.bug(Planted::RowWhileRecovering);
        if self.halt.is_some() || self.config.read_only || self.opening.is_some() || recovering {
            return;
        }
        // A group that closes grows only for the requests that it still serves, and ends what it has begun.
        if self.closing && self.served() && !self.growth.changing() {
            return;
        }
        let low = self.space.free_now().get() < self.geometry.row_blocks() / 8 + self.reserve(256);
        self.growth.wanted |= low && !self.closing;
        if self.growth.refused && self.growth.retry_at.is_none() {
            let after = if self.growth.deferred { ASK_AGAIN_WHILE_MOVING } else { ASK_AGAIN_AFTER };
            self.growth.retry_at = Some(turn.now + after);
        }
        if self.growth.retry_at.is_some_and(|at| turn.now >= at) {
            self.growth.ask_again();
        }
        match core::mem::replace(&mut self.growth.stage, Stage::Idle) {
            Stage::Idle => self.ask_for_row(turn),
            Stage::Asked => self.growth.stage = Stage::Asked,
            Stage::Granted(grant) => self.write_row(turn, grant),
            Stage::Writing(grant) => self.row_written_step(grant),
            Stage::Flush(grant, ticket) => self.row_flushed_step(grant, ticket),
            Stage::Naming(grant, version) => self.row_named_step(grant, version),
            Stage::Leaving(drives) => self.leave(drives),
        }
    }

    /// Whether every request has its answer.
    pub fn served(&self) -> bool {
        self.slots.order.iter().all(|id| self.slots.get(*id).finished)
    }

    /// The row will not be used. Asked again after a while, like after a refusal: the next grant may be better.
    ///
    /// Crash story: a grant did not fit while a move was being named. It had taken no page, but those of the move went back
    /// with it. The superblock named one of them a moment later, and the next row page was written over it: after a crash
    /// in between nobody knew the rows.
    fn give_up_row(&mut self, grant: &RowGrant) {
        self.growth.refused = true;
        let begun = self.new_row_pages.take().is_some();
        if begun {
            self.home_pages.forget_new();
        }
        self.give_up_joining();
        self.growth.aside.clear();
        // A grant that was refused may name drives that are not.
        let known = |drive: &DriveIx| usize::from(drive.get()) < self.drives.list.len();
        let added = core::mem::take(&mut self.growth.added);
        let extents = grant.extents.iter().chain(&added);
        // Nothing is on its way to a row that was refused.
        let drives = extents.map(|extent| extent.drive).filter(|drive| begun && known(drive));
        let drives: DriveSet = drives.collect();
        self.leave(drives.and(self.growth.late));
    }

    /// The extents go back as soon as no header can land in them any more: the pool may give them to another group.
    fn leave(&mut self, drives: DriveSet) {
        let joining: DriveSet = self.growth.joining.iter().map(|(at, _)| *at).collect();
        for drive in joining.and(self.ops.given_up()).iter() {
            // Its place in the table may be another's next.
            if !self.ops.waits_on(drive) {
                self.ops.quiet(drive);
                self.growth.gone.push(self.drives.get(drive).handle);
            }
        }
        assert!(self.growth.gone.len() <= MAX_DRIVES, "no row is asked for while one is being left");
        let late = drives.and(self.ops.given_up());
        let left = self.forget_joining() && late.is_empty() && self.growth.gone.is_empty();
        self.growth.stage = if left { Stage::Idle } else { Stage::Leaving(late) };
        self.again |= left;
    }

    /// A write for the row ended: whether it was given up, and is on its way still.
    pub fn row_part_ended(&mut self, drive: DriveIx) {
        if self.ops.given_up().contains(drive) {
            self.growth.late.insert(drive);
        }
    }

    fn ask_for_row<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let wanted = self.growth.wanted && !self.growth.refused;
        if !wanted || !self.room(turn, 1) {
            return;
        }
        let ended = !self.row_can_be_named();
        self.again |= ended != self.growth.ended;
        self.growth.ended = ended;
        if ended {
            return;
        }
        self.growth.wanted = false;
        self.growth.stage = Stage::Asked;
        turn.out.push(Action::WantRow { row: RowNo::new(self.superblock.rows) });
    }

    /// Whether there can be a row more: in the table, and memory for its regions.
    fn row_can_be_named(&self) -> bool {
        let columns = u32::from(self.geometry.columns);
        self.superblock.rows < self.config.max_rows
            && self.space.regions() + columns <= self.space.config().max_regions
            && self.table_has_room()
    }

    /// Whether space is short, and the home pages are the reason: no row can be had, whatever the pool has.
    pub fn rows_ended(&self) -> bool {
        self.growth.ended && !self.table_has_room()
    }

    /// Whether the table can have a row more, and what is left of the home pages is enough for the history.
    ///
    /// Crash story: rows took home pages until none was left. The history of the group, which is encrypted, needed another
    /// one sixty activations later, and from then on the group was refused.
    fn table_has_room(&self) -> bool {
        let rows = self.superblock.rows as usize;
        let extents = self.geometry.row_extents();
        let pages = |rows: usize| if rows == 1 { 0 } else { crate::rows::pages_from(rows * extents, 0) };
        let more = self.with_history(pages(rows + 1) - pages(rows));
        let beside = crate::rows::pages_from((rows + 1) * extents, self.rows.len());
        beside.max(more) <= self.home_pages.free()
    }

    /// Home pages that must be free for the table to have so many more than now: the history needs some.
    pub fn with_history(&self, more: usize) -> usize {
        let encrypted = self.superblock.checks == base::CheckKind::AesGcm;
        if more == 0 { 0 } else { more + self.geometry.kept_for_history(encrypted, self.history_pages) }
    }

    /// Headers to the extents, row pages to free home pages.
    fn write_row<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, mut grant: RowGrant) {
        let extents = self.geometry.row_extents();
        let added = if self.moving.adds_leg() { usize::from(self.geometry.columns) } else { 0 };
        self.set_aside(&mut grant);
        let shaped = grant.extents.len() == extents + added;
        let fitting = grant.row.get() == self.superblock.rows
            && shaped
            && self.may_join(&grant)
            && self.every_place_usable(&grant.extents[..extents]);
        // The next grant fits: the pool knows of the move, or the move is over. So it is when a drive of a leg that is
        // being added is not well, or is being told of: were that a refusal, the guest would hear of no space.
        let next = !shaped
            || !self.may_be_added(&grant.extents, extents)
            || grant.extents.iter().any(|extent| self.moving.leaves(extent.drive));
        if !fitting || next {
            self.growth.deferred = next;
            self.growth.wanted |= next;
            return self.give_up_row(&grant);
        }
        if !self.room(turn, 64) || self.sweep.holds_growth() || self.moving.holds_growth() {
            self.growth.stage = Stage::Granted(grant);
            return;
        }
        let places = self.place_joining(&mut grant);
        let mut rows = self.rows.clone();
        rows.extend_from_slice(&grant.extents[..extents]);
        let job = self.ops.open_job(JobKind::Row);
        let buffer = self.buffers.row_pages;
        let mut check = |page: &base::Block| turn.memory.home_check(page);
        let home = &mut self.home_pages;
        let Some(pages) = self.row_pages.extended(&rows, self.rows.len(), home, &mut check) else {
            self.growth.refused = true;
            self.ops.seal_job(job);
            self.growth.stage = Stage::Idle;
            self.again = true;
            return;
        };
        self.begin_joining(&grant.joining, places);
        self.write_headers(turn, job, &grant);
        self.runs.clear();
        for (i, (pba, page)) in pages.written.iter().enumerate() {
            let buf = buffer.plus(i as u32);
            *turn.memory.block_mut(buf) = **page;
            self.runs.push(Run { pba: *pba, buf, blocks: 1 });
        }
        self.new_row_pages = Some(pages.tree);
        self.write_runs(turn, job);
        (self.growth.written, self.growth.late) = (None, DriveSet::EMPTY);
        self.growth.added = grant.extents.split_off(extents);
        self.growth.stage = Stage::Writing(grant);
        self.ops.seal_job(job);
    }

    /// Whether the extents of a leg that is being added can be copies: on drives that are well and have no other leg of
    /// the row.
    fn may_be_added(&self, all: &[Extent], extents: usize) -> bool {
        let (row, added) = all.split_at(extents);
        let well = |extent: &Extent| {
            let drive = self.drives.list.get(usize::from(extent.drive.get()));
            drive.is_none_or(|drive| {
                matches!(drive.health, Health::Current | Health::Joining | Health::Resyncing)
            })
        };
        added.iter().all(|extent| well(extent) && row.iter().all(|other| other.drive != extent.drive))
    }

    /// Whether every column of a row has a leg on a drive that is current or joins: what is written to a place
    /// without one is nowhere.
    fn every_place_usable(&self, row: &[Extent]) -> bool {
        let columns = usize::from(self.geometry.columns);
        let place = |column: usize| row.iter().skip(column).step_by(columns);
        let usable = |extent: &Extent| {
            let drive = self.drives.list.get(usize::from(extent.drive.get()));
            drive.is_none_or(|drive| matches!(drive.health, Health::Current | Health::Joining))
        };
        (0..columns).all(|column| place(column).any(usable))
    }

    fn write_headers<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, job: JobId, grant: &RowGrant) {
        let columns = usize::from(self.geometry.columns);
        for (i, extent) in grant.extents.iter().enumerate() {
            let header = Header {
                pool: self.superblock.pool,
                drive: self.drives.get(extent.drive).info.uuid,
                group: self.superblock.group,
                extent: extent.extent,
                row: grant.row,
                leg: LegId::new((i / columns) as u8),
                column: Column::new((i % columns) as u8),
            };
            let buf = self.buffers.headers.plus(i as u32);
            *turn.memory.block_mut(buf) = header.encode();
            self.write_extent(
                turn,
                job,
                *extent,
                crate::layout::extent::HEADER,
                &[Segment { buf, blocks: 1 }],
            );
        }
    }

    /// The writes of a new row have ended.
    pub fn row_written(&mut self, lost: bool) {
        self.growth.written = Some(!lost);
    }

    fn row_written_step(&mut self, grant: RowGrant) {
        match self.growth.written {
            None => self.growth.stage = Stage::Writing(grant),
            Some(true) => {
                let ticket = self.flusher.ticket();
                self.growth.stage = Stage::Flush(grant, ticket);
                self.again = true;
            }
            Some(false) => self.give_up_row(&grant),
        }
    }

    fn row_flushed_step(&mut self, grant: RowGrant, ticket: u64) {
        if !self.flusher.is_done(ticket) {
            self.growth.stage = Stage::Flush(grant, ticket);
            return;
        }
        if !self.joining_well() || !self.every_place_usable(&grant.extents) {
            return self.give_up_row(&grant);
        }
        let tree: &RowPages = self.new_row_pages.as_ref().expect("row pages being named");
        self.superblock.rows += 1;
        (self.superblock.row_pages, self.superblock.row_height) = tree.root();
        let version = self.writer.want();
        self.end_joining(version);
        let used_early = self.config.bug(Planted::RowTooEarly);
        self.growth.stage = Stage::Naming(grant, if used_early { 0 } else { version });
        self.again = true;
    }

    fn row_named_step(&mut self, grant: RowGrant, version: u64) {
        if !self.writer.is_durable(version) {
            self.growth.stage = Stage::Naming(grant, version);
            return;
        }
        let added = core::mem::take(&mut self.growth.added);
        if self.moving.adds_leg() {
            let columns = usize::from(self.geometry.columns);
            self.moving.row_added(self.rows.len(), &grant.extents[..columns], &added);
        }
        self.settle_aside();
        self.rows.extend_from_slice(&grant.extents);
        self.row_pages = self.new_row_pages.take().expect("row pages being named");
        self.home_pages.settle();
        let columns = u32::from(self.geometry.columns);
        self.space.grow(columns, &self.geometry);
        self.again = true;
    }
}
