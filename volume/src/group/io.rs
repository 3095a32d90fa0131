//! From blocks of space to operations of drives, and back from their ends to whoever waits.
use super::{Group, Halt, Turn};
use crate::config::{MAX_COMMIT_DATA_BLOCKS, MAX_IO_BLOCKS, StaysIn};
use crate::drives::Health;
use crate::keys::Keyed;
use crate::ops::{Done, Job, JobId, JobKind, Purpose, Run};
use crate::planted::Planted;
use alloc::vec::Vec;
use base::limits::MAX_COLUMNS;
use base::{Blocks, Column, DriveIx, DriveOp, Extent, LegId, Pba, Phase, RowNo, Segment};
use fence::DriveSet;

/// I/O being gathered for each column: blocks that lie side by side on its drive become one vectored write.
pub(crate) struct ColumnIo {
    open: Vec<OpenIo>,
}

struct OpenIo {
    row: RowNo,
    block: u32,
    blocks: u32,
    memory: Vec<Segment>,
}

impl ColumnIo {
    pub fn new() -> Self {
        let open = |_| OpenIo {
            row: RowNo::ZERO,
            block: 0,
            blocks: 0,
            memory: Vec::with_capacity(MAX_COMMIT_DATA_BLOCKS),
        };
        Self { open: (0..MAX_COLUMNS).map(open).collect() }
    }
}

/// Numbers of the bits that are set.
fn bits(set: u64) -> impl Iterator<Item = u32> {
    (0..u64::BITS).filter(move |n| set & (1 << n) != 0)
}

impl Group {
    /// The extent of a place.
    pub fn extent(&self, row: RowNo, leg: LegId, column: Column) -> Extent {
        let (legs, columns) = (usize::from(self.geometry.legs), usize::from(self.geometry.columns));
        self.rows[(row.get() as usize * legs + usize::from(leg.get())) * columns + usize::from(column.get())]
    }

    /// The legs.
    pub fn legs(&self) -> impl Iterator<Item = LegId> + use<> {
        (0..self.geometry.legs).map(LegId::new)
    }

    /// Writes `self.runs` to every current leg as parts of a job, in as few operations as they allow.
    pub fn write_runs<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, job: JobId) {
        let runs = core::mem::take(&mut self.runs);
        for run in &runs {
            self.gather(turn, job, *run);
        }
        for column in 0..self.geometry.columns {
            self.emit_column(turn, job, Column::new(column));
        }
        self.runs = runs;
        self.runs.clear();
    }

    /// Adds a run to what is gathered; emits what it does not continue.
    fn gather<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, job: JobId, run: Run) {
        let mut done = 0;
        while done < run.blocks {
            let pba = run.pba + Blocks::new(u64::from(done));
            let place = self.geometry.place(pba);
            let count = self.geometry.contiguous(pba).get().min(u64::from(run.blocks - done)) as u32;
            let column = usize::from(place.column.get());
            let open = &self.columns.open[column];
            let continues = open.row == place.row
                && open.block + open.blocks == place.block
                && open.blocks + count <= MAX_IO_BLOCKS;
            if !continues {
                self.emit_column(turn, job, place.column);
            }
            let open = &mut self.columns.open[column];
            if open.blocks == 0 {
                (open.row, open.block) = (place.row, place.block);
            }
            open.blocks += count;
            let segment = Segment { buf: run.buf.plus(done), blocks: count };
            match open.memory.last_mut() {
                Some(last) if last.buf.plus(last.blocks) == segment.buf => last.blocks += count,
                _ => open.memory.push(segment),
            }
            done += count;
        }
    }

    fn emit_column<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, job: JobId, column: Column) {
        let open = &mut self.columns.open[usize::from(column.get())];
        if open.blocks == 0 {
            return;
        }
        let memory = core::mem::take(&mut open.memory);
        let (row, block) = (open.row, open.block);
        open.blocks = 0;
        self.write_legs(turn, job, row, column, block, &memory);
        let open = &mut self.columns.open[usize::from(column.get())];
        open.memory = memory;
        open.memory.clear();
    }

    /// Writes blocks that lie side by side in a column to every current leg.
    pub fn write_legs<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        job: JobId,
        row: RowNo,
        column: Column,
        block: u32,
        memory: &[Segment],
    ) {
        let mut reached = false;
        let first_counts = self.config.bug(Planted::AckBeforeSecondLeg)
            && matches!(self.ops.job_mut(job).kind, JobKind::Commit(_));
        for leg in self.legs() {
            let extent = self.extent(row, leg, column);
            if first_counts && reached {
                let unwatched = self.ops.open_job(JobKind::Unwatched);
                self.write_extent(turn, unwatched, extent, block, memory);
                self.ops.seal_job(unwatched);
                continue;
            }
            reached |= self.drives.current(extent.drive);
            self.write_extent(turn, job, extent, block, memory);
        }
        assert!(reached, "row {row}, column {column} has no current copy to write to");
    }

    /// Writes blocks of one extent, and of its successor if it moves.
    pub fn write_extent<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        job: JobId,
        extent: Extent,
        block: u32,
        memory: &[Segment],
    ) {
        self.write_just_extent(turn, job, extent, block, memory);
        let forgotten = self.config.bug(Planted::MoveNotShadowed);
        let not_yet = self.sweep.prepares_move();
        if let Some(other) = self.moving.shadow(extent).filter(|_| !forgotten && !not_yet) {
            self.write_just_extent(turn, job, other, block, memory);
        }
    }

    /// Writes blocks of one extent, if its drive is current; notes that it missed them if it is failing.
    pub fn write_just_extent<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        job: JobId,
        extent: Extent,
        block: u32,
        memory: &[Segment],
    ) {
        let kind = self.ops.job_mut(job).kind;
        match self.drives.get(extent.drive).health {
            // A drive that is back gets nothing before it says itself that it is no copy of any moment (`resync.rs`).
            Health::Resyncing
                if self.sweep.is_announced(extent.drive)
                    && !matches!(kind, JobKind::Superblock | JobKind::Copy) => {}
            Health::Resyncing
                if self.config.bug(Planted::ResyncListOnce) && matches!(kind, JobKind::Commit(_)) => {}
            Health::Current | Health::Joining | Health::Resyncing | Health::Returning => {
                let token = self.ops.start(Purpose::Job(job), extent.drive, true);
                let at = self.geometry.drive_block(extent, block);
                turn.out.drive(token, self.drives.get(extent.drive).handle, DriveOp::Write, at, memory);
            }
            Health::Failing => self.ops.job_mut(job).missed.insert(extent.drive),
            Health::Stale | Health::Missing => {}
        }
    }

    /// Flushes a drive as part of a job; one without a volatile cache has nothing to flush, because a flush
    /// only covers writes that have completed.
    pub fn flush_drive<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, job: JobId, drive: DriveIx) {
        match self.drives.get(drive).health {
            Health::Current | Health::Joining | Health::Resyncing | Health::Returning
                if self.drives.get(drive).info.volatile =>
            {
                let token = self.ops.start(Purpose::Job(job), drive, true);
                turn.out.drive(
                    token,
                    self.drives.get(drive).handle,
                    DriveOp::Flush,
                    base::DriveBlock::ZERO,
                    &[],
                );
            }
            Health::Failing => self.ops.job_mut(job).missed.insert(drive),
            _ => {}
        }
    }

    /// The current leg to read a block from that was not tried yet: the least busy.
    pub fn pick_leg(&self, pba: Pba, tried: u8) -> Option<LegId> {
        let place = self.geometry.place(pba);
        let spread = (pba.get() >> 4) as u8 % self.geometry.legs;
        let candidates = self.legs().filter(|leg| {
            let drive = self.extent(place.row, *leg, place.column).drive;
            tried >> leg.get() & 1 == 0 && self.drives.current(drive) && !self.is_dropped(*leg)
        });
        candidates.min_by_key(|leg| {
            let drive = self.drives.get(self.extent(place.row, *leg, place.column).drive);
            (drive.reads_in_flight, leg.get().abs_diff(spread))
        })
    }

    /// Reads blocks that lie side by side from one leg.
    pub fn read_leg<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        purpose: Purpose,
        leg: LegId,
        pba: Pba,
        memory: Segment,
    ) {
        let place = self.geometry.place(pba);
        let extent = self.extent(place.row, leg, place.column);
        self.read_extent(turn, purpose, extent, place.block, memory);
    }

    /// Reads blocks of one extent.
    pub fn read_extent<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        purpose: Purpose,
        extent: Extent,
        block: u32,
        memory: Segment,
    ) {
        let token = self.ops.start(purpose, extent.drive, false);
        self.drives.get_mut(extent.drive).reads_in_flight += 1;
        let at = self.geometry.drive_block(extent, block);
        turn.out.drive(token, self.drives.get(extent.drive).handle, DriveOp::Read, at, &[memory]);
    }

    /// The drive that a leg has for a block.
    pub fn drive_of(&self, pba: Pba, leg: LegId) -> DriveIx {
        let place = self.geometry.place(pba);
        self.extent(place.row, leg, place.column).drive
    }

    /// Sorts out operations that ended.
    pub fn look_at_ended<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        while let Some(done) = self.ops.next_done() {
            self.again = true;
            if !done.write {
                let drive = self.drives.get_mut(done.drive);
                drive.reads_in_flight -= 1;
                drive.stats.read_errors += u64::from(done.result.is_err());
            }
            match done.purpose {
                Purpose::Job(job) => self.part_ended(job, done),
                Purpose::Guest { slot, first, count, leg } => {
                    self.guest_read_ended(turn, slot, first, count, leg, done.result);
                }
                Purpose::Edge { slot, edge, leg } => self.edge_read_ended(turn, slot, edge, leg, done.result),
                Purpose::Page { frame, leg } => self.page_read_ended(turn, frame, leg, done.result),
                Purpose::Bitmap { buf, leg } => self.bitmap_read_ended(turn, buf, leg, done.result),
                Purpose::Copy { first, count, leg } => {
                    self.sweep_read_ended(turn, (first, count, leg), done.result);
                }
                Purpose::Recovery { .. } => panic!("recovery's I/O ended in a group that is served"),
            }
        }
    }

    fn part_ended(&mut self, job: JobId, done: Done) {
        if self.ops.job_mut(job).kind == JobKind::Row {
            self.row_part_ended(done.drive);
        }
        if done.result.is_err() && self.is_joining(done.drive) {
            self.joining_failed(job, done.drive);
        } else if done.result.is_err() && self.drives.is(done.drive, Health::Resyncing) {
            self.drives.get_mut(done.drive).stats.write_errors += 1;
            self.copy_failed(done.drive);
        } else if done.result.is_ok() && self.config.bug(Planted::FreeAtFirstFlush) {
            if self.ops.job_mut(job).kind == JobKind::Flush {
                self.free_replaced_now(self.planted_flushing);
            }
        } else if done.result.is_err() && !self.forgives(job) {
            let out = self.drive_failed(done.drive);
            let job = self.ops.job_mut(job);
            job.missed.insert(done.drive);
            job.lost |= !out;
            // At once: another flush that ended well may be judged before this one is.
            match job.kind {
                JobKind::Flush if !out => self.halt(Halt::FlushFailed),
                JobKind::Superblock if !out => self.halt(Halt::SuperblockFailed),
                _ => {}
            }
        }
        self.ops.part_done(job);
    }

    /// Bug only: errors of a flush mean nothing.
    fn forgives(&mut self, job: JobId) -> bool {
        self.config.bug(Planted::FailedFlushCounts) && self.ops.job_mut(job).kind == JobKind::Flush
    }

    /// A write or flush failed: the drive goes out, durably before anything that it missed is acknowledged.
    /// False if it cannot be done without.
    fn drive_failed(&mut self, drive: DriveIx) -> bool {
        self.drives.get_mut(drive).stats.write_errors += 1;
        self.put_out(drive)
    }

    /// A drive that gets a copy failed, before anybody counted on it.
    fn copy_failed(&mut self, drive: DriveIx) {
        if self.moving.takes_over(drive) {
            self.successor_failed(drive);
        } else {
            self.resync_failed();
        }
    }

    pub fn put_out(&mut self, drive: DriveIx) -> bool {
        let out = self.put_one_out(drive);
        if out && self.moving.depends_on(drive) {
            self.unname_moved();
        }
        out
    }

    fn put_one_out(&mut self, drive: DriveIx) -> bool {
        if self.drives.is(drive, Health::Returning) {
            self.drives.get_mut(drive).health = Health::Failing;
            self.mark_stale(drive);
            return true;
        }
        let was_current = self.drives.current(drive);
        let rows = [&self.rows[..], self.growth.pending()];
        let out = self.drives.fail(drive, rows, self.geometry.legs, self.geometry.columns);
        if out && was_current {
            self.mark_stale(drive);
        }
        out
    }

    /// Puts a drive out as if it had failed: for a drive that is to be taken away, or that is too slow.
    ///
    /// # Errors
    /// Why it stays in; nothing has changed then.
    pub fn take_out(&mut self, drive: DriveIx) -> Result<(), StaysIn> {
        if self.halt.is_some() || self.config.read_only || self.phase != Phase::Serving {
            return Err(StaysIn::NotServing);
        }
        self.again = true;
        let health = self.drives.get(drive).health;
        match health {
            Health::Failing | Health::Stale | Health::Missing => Ok(()),
            Health::Joining => Err(StaysIn::Joining),
            _ if self.take_out_now(drive) => Ok(()),
            _ => Err(StaysIn::LastCopy),
        }
    }

    /// Puts a drive out that gets what is written. False if it is the last current copy of something.
    pub fn take_out_now(&mut self, drive: DriveIx) -> bool {
        if !self.drives.is(drive, Health::Resyncing) {
            return self.put_out(drive);
        }
        self.copy_failed(drive);
        true
    }

    /// Hands settled jobs to their owners.
    ///
    /// A flush that ended well on every drive is not over while one of them is out and not durably stale, nor on a last copy whose
    /// flush failed. Crash story: of a mirror one drive had two flushes under way, one behind a superblock version and one that
    /// the guest had asked for. The first failed, and gave up what both should have covered; the second succeeded, for nothing
    /// was left to be flushed. The guest's was acknowledged, and D moved, before anybody durably knew that the drive is stale.
    /// Power failed, the drive was opened as current with holes below D, and the other one was lost. On the only copy what had
    /// been acknowledged was gone at once; and a superblock version went to its second slot though the first was not flushed, so
    /// that a power loss could tear both. For versions on several drives see `superblock_step_settled`.
    pub fn settle_jobs<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        // A halted group writes no more superblocks: what waits for a stale mark to become durable is lost.
        let halted = self.halt.is_some();
        if halted {
            self.ops.recheck();
        }
        loop {
            let failing = self.drives.set_of(Health::Failing);
            let waits_for = if halted { DriveSet::EMPTY } else { failing };
            let Some((kind, mut job)) = self.ops.next_settled(waits_for) else { return };
            let flush_failed = matches!(self.halt, Some(Halt::FlushFailed | Halt::SuperblockFailed));
            job.lost |= halted && !job.rests_on(failing).is_empty();
            job.lost |= flush_failed && matches!(kind, JobKind::Flush | JobKind::Superblock);
            self.again = true;
            self.job_settled(turn, kind, job);
        }
    }

    fn job_settled<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, kind: JobKind, job: Job) {
        match kind {
            JobKind::Commit(index) => self.commit_settled(index, job.lost),
            JobKind::MergePages(buffers) => {
                let first = self.buffers.merge;
                bits(buffers).for_each(|n| self.merge.written(first.plus(n)));
                self.checkpoint_write_ended(job);
            }
            JobKind::SealBlocks(buffers) => {
                let first = self.buffers.seal;
                bits(buffers).for_each(|n| self.seal.written(first.plus(n)));
                self.checkpoint_write_ended(job);
            }
            JobKind::Superblock => self.superblock_step_settled(turn, job),
            JobKind::Flush => self.flush_settled(job),
            JobKind::Row => self.row_written(job.lost),
            JobKind::Repair(index) => self.repair_written(index, job),
            JobKind::Copy => self.copy_written(job),
            JobKind::Unwatched => {}
        }
    }

    fn checkpoint_write_ended(&mut self, job: Job) {
        if job.lost {
            self.halt(Halt::MapFailed);
        }
    }

    /// Opens a job that flushes these drives.
    pub fn flush_drives<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, kind: JobKind, drives: DriveSet) {
        let job = self.ops.open_job(kind);
        for drive in self.drives.all().filter(|d| drives.contains(*d)) {
            self.flush_drive(turn, job, drive);
        }
        self.ops.seal_job(job);
        // Where no drive has a volatile cache the job is over already, and nothing else would wake anybody.
        self.again = true;
    }

    /// Every drive of the group.
    pub fn all_drives(&self) -> DriveSet {
        let mut set = DriveSet::EMPTY;
        for drive in self.drives.all() {
            set.insert(drive);
        }
        set
    }
}
