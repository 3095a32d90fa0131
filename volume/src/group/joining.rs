//! Drives that join the group: named by the grant of a row, they enter the drive table with it.
//!
//! A drive that joins holds nothing of the group, so it is current from its first row on: there is nothing that it
//! could miss. Until a superblock version lists it nobody counts on it. It is `Joining` then: it gets the headers
//! of its extents and takes part in flushes, and a failure of it is nobody's but the row's, which is given up.
//!
//! Crash story, step by step as in `growth`:
//! - Headers written, power fails: no superblock lists the drive or the row. The row is granted anew, maybe with
//!   other drives.
//! - All flushed, power fails between the copies of the version that names the row: it lists the drive too, for
//!   row, pages and drive table change in one version. Recovery finds that version or the one before; either is
//!   whole. If only the one before is found, because the drive that had the newer one is away, that one is stale
//!   from then on, and what it said of the new drive counts no more.
//! - The drive dies after the grant and before the version was begun: the row is given up, the drive leaves the
//!   table in memory once nothing of it is in flight, and the pool hears of it when it is asked for the row again.
//! - It dies after that: it is a drive of the group that failed, stale by the rules for all drives
//!   (`super_writer`). As long as it is the last current copy of a place of the new row its failure is the
//!   caller's error, though no data is there yet: the version that names the row may be durable already.
//!
//! Superblock slots are in the home row only, so a drive that joins later has none; what is said of it is said on
//! the others.
//!
//! The table has so many places and no more, and a drive that is left keeps its own. So a drive that joins takes an idle
//! place, as one does that takes over in a move (`moving/plan.rs`): of a drive that is durably stale, has no row, and has
//! nothing in flight. Crash story: each drive that joined was appended. A group that had had 32 drives, one after the other,
//! got none more, and heard of no space in a pool that had some. The former drive stays in the table until the version
//! that names the row lists the new one in its place; a crash before finds it there, a crash after finds nothing of the
//! former but its own word, which is that of a drive that was left. A row that is given up gives it its place back.
use super::Group;
use super::sweep::Errand;
use crate::config::DriveStats;
use crate::drives::{Drive, Health};
use crate::label::extent_start;
use crate::ops::{JobId, JobKind};
use crate::planted::Planted;
use alloc::vec::Vec;
use base::limits::MAX_DRIVES;
use base::{DriveIx, Extent, ExtentNo, NewDrive, RowGrant};
use fence::{CopyEntry, CopyState};

/// A place of the table that a drive has which joins, and the drive that had it before, if it is not a new one.
pub(crate) type Place = (DriveIx, Option<Drive>);

impl Group {
    /// Whether a drive has its place in the table for nothing: it was left, and nothing is on its way to it.
    pub(super) fn is_idle_place(&self, at: DriveIx) -> bool {
        let index = usize::from(at.get());
        matches!(self.drives.list[index].health, Health::Stale | Health::Missing)
            && !self.superblock.drives[index].state.is_current()
            && (self.rows.iter().all(|extent| extent.drive != at) || self.config.bug(Planted::PlaceInUse))
            && !self.ops.busy_on(at)
            && !self.is_meant(at)
    }

    /// Whether an errand of the sweep, or a move that stands aside or is not told of, counts on what this place is; or what a
    /// scrub found there was not taken yet, and would be said of another drive.
    ///
    /// Crash story: a drive that had been left was handed back. Between two of the reads by which it says what it is nothing
    /// was under way there, and a drive that joined took its place. The resync went on with that one: it was called a copy
    /// that lacks something in the name of the former, and its row was given up.
    fn is_meant(&self, at: DriveIx) -> bool {
        let returns = self.sweep.errand == Errand::Resync && self.sweep.drive == at;
        returns || self.moving.means(at, self.sweep.errand == Errand::Move) || self.sweep.scrub.names(at)
    }

    /// A place of the table gets another drive: what is still told of the former one would be said of that.
    pub(super) fn forget_former(&mut self, at: DriveIx) {
        self.sweep.last = self.sweep.last.filter(|last| last.drive != at);
    }

    /// The places for the drives of a grant: idle ones that the row does not name, then those behind the others. `None` if
    /// there are not so many.
    fn places_to_join(&self, grant: &RowGrant) -> Option<Vec<DriveIx>> {
        let known = self.superblock.drives.len() as u8;
        let named = |at: &DriveIx| grant.extents.iter().any(|extent| extent.drive == *at);
        let idle = (0..known).map(DriveIx::new).filter(|at| !named(at) && self.is_idle_place(*at));
        let places: Vec<DriveIx> =
            idle.chain((known..MAX_DRIVES as u8).map(DriveIx::new)).take(grant.joining.len()).collect();
        (places.len() == grant.joining.len()).then_some(places)
    }

    /// Whether the drives of a grant can join: each is new, there is room in the table, the row uses each, and
    /// its extents lie on them. A grant names them by numbers behind those of the table.
    pub fn may_join(&self, grant: &RowGrant) -> bool {
        let known = self.superblock.drives.len();
        assert!(self.drives.list.len() == known, "drives of a row that was given up are still listed");
        let extent_blocks = self.geometry.extent_blocks;
        let fits = |i: usize, drive: &NewDrive| {
            let others = &grant.joining[..i];
            let mut here =
                grant.extents.iter().filter(|e| usize::from(e.drive.get()) == known + i).peekable();
            let end = |e: &Extent| extent_start(ExtentNo::new(e.extent.get() + 1), extent_blocks);
            let is_new = self.superblock.drives.iter().all(|entry| entry.drive != drive.uuid)
                && others.iter().all(|o| o.uuid != drive.uuid && o.handle != drive.handle)
                && self.drives.list.iter().all(|d| d.handle != drive.handle);
            is_new && here.peek().is_some() && here.all(|e| end(e).get() <= drive.blocks.get())
        };
        let count = known + grant.joining.len();
        grant.extents.iter().all(|e| usize::from(e.drive.get()) < count)
            && grant.joining.iter().enumerate().all(|(i, drive)| fits(i, drive))
            && self.places_to_join(grant).is_some()
    }

    /// The places of the drives that join: the grant's extents name them by those from now on.
    pub fn place_joining(&self, grant: &mut RowGrant) -> Vec<DriveIx> {
        let known = self.superblock.drives.len();
        let places = self.places_to_join(grant).expect("they may join");
        assert!(places.iter().all(|at| !self.is_meant(*at)), "a drive joins in a place that is meant");
        for extent in &mut grant.extents {
            if let Some(i) = usize::from(extent.drive.get()).checked_sub(known) {
                extent.drive = places[i];
            }
        }
        places
    }

    /// Takes the drives of a grant in, so that they can be written.
    pub fn begin_joining(&mut self, joining: &[NewDrive], places: Vec<DriveIx>) {
        for (drive, at) in joining.iter().zip(places) {
            self.forget_former(at);
            let joins = Drive {
                info: crate::config::DriveInfo {
                    uuid: drive.uuid,
                    blocks: drive.blocks,
                    volatile: drive.volatile,
                },
                handle: drive.handle,
                health: Health::Joining,
                flushed: self.durable,
                flushed_ckpt: self.superblock.ckpt,
                reads_in_flight: 0,
                stats: DriveStats::default(),
            };
            let former = match self.drives.list.get_mut(usize::from(at.get())) {
                Some(place) => Some(core::mem::replace(place, joins)),
                None => {
                    self.drives.list.push(joins);
                    None
                }
            };
            self.growth.joining.push((at, former));
        }
    }

    /// Whether a drive is in memory only: no superblock version that was begun lists it.
    pub fn is_joining(&self, drive: DriveIx) -> bool {
        self.growth.joining.iter().any(|(at, _)| *at == drive)
    }

    /// A write or flush of a drive that joins failed: it does not, and the row is given up.
    pub fn joining_failed(&mut self, job: JobId, drive: DriveIx) {
        self.drives.get_mut(drive).health = Health::Missing;
        let job = self.ops.job_mut(job);
        job.lost |= job.kind == JobKind::Row;
    }

    /// Whether every drive that joins is well so far.
    pub fn joining_well(&self) -> bool {
        self.growth.joining.iter().all(|(at, _)| self.drives.is(*at, Health::Joining))
    }

    /// The superblock version that names the row lists its drives: from now on they are the group's.
    pub fn end_joining(&mut self, version: u64) {
        for (at, former) in core::mem::take(&mut self.growth.joining) {
            let drive = self.drives.get_mut(at);
            assert!(drive.health == Health::Joining, "a drive that failed joins");
            // Nothing of the group was written to it before its row is in use, so nothing is missed on it.
            drive.health = Health::Current;
            (drive.flushed, drive.flushed_ckpt) = (self.durable, self.superblock.ckpt);
            let entry = CopyEntry { drive: drive.info.uuid, state: CopyState::Current, version };
            if former.is_some() {
                self.superblock.drives[usize::from(at.get())] = entry;
                // The catalogue has heard of the former drive's failure: this one's would be another.
                self.writer.forget_stored(at);
            } else {
                self.superblock.drives.push(entry);
            }
        }
    }

    /// The row is given up: nothing more is sent to its new drives.
    pub fn give_up_joining(&mut self) {
        for (at, _) in &self.growth.joining {
            self.drives.get_mut(*at).health = Health::Missing;
        }
    }

    /// Forgets the drives of a row that was given up, once nothing of them is in flight. Whether that is done.
    pub fn forget_joining(&mut self) -> bool {
        if self.growth.joining.iter().any(|(at, _)| self.ops.busy_on(*at)) {
            return false;
        }
        for (at, former) in core::mem::take(&mut self.growth.joining) {
            if let Some(former) = former {
                *self.drives.get_mut(at) = former;
            }
        }
        self.drives.list.truncate(self.superblock.drives.len());
        true
    }
}
