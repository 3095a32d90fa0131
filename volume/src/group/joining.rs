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
use super::Group;
use crate::config::DriveStats;
use crate::drives::{Drive, Health};
use crate::label::extent_start;
use crate::ops::{JobId, JobKind};
use base::limits::MAX_DRIVES;
use base::{DriveIx, Extent, ExtentNo, NewDrive, RowGrant};
use fence::{CopyEntry, CopyState};

impl Group {
    /// Whether the drives of a grant can join: each is new, there is room in the table, the row uses each, and
    /// its extents lie on them.
    pub fn may_join(&self, grant: &RowGrant) -> bool {
        let known = self.superblock.drives.len();
        assert!(self.drives.list.len() == known, "drives of a row that was given up are still listed");
        let extent_blocks = self.geometry.extent_blocks;
        let fits = |i: usize, drive: &NewDrive| {
            let others = &grant.joining[..i];
            let index = DriveIx::new((known + i) as u8);
            let mut here = grant.extents.iter().filter(|e| e.drive == index).peekable();
            let end = |e: &Extent| extent_start(ExtentNo::new(e.extent.get() + 1), extent_blocks);
            let is_new = self.superblock.drives.iter().all(|entry| entry.drive != drive.uuid)
                && others.iter().all(|o| o.uuid != drive.uuid && o.handle != drive.handle)
                && self.drives.list.iter().all(|d| d.handle != drive.handle);
            is_new && here.peek().is_some() && here.all(|e| end(e).get() <= drive.blocks.get())
        };
        let count = known + grant.joining.len();
        count <= MAX_DRIVES
            && grant.extents.iter().all(|e| usize::from(e.drive.get()) < count)
            && grant.joining.iter().enumerate().all(|(i, drive)| fits(i, drive))
    }

    /// Takes the drives of a grant in, so that they can be written.
    pub fn begin_joining(&mut self, joining: &[NewDrive]) {
        for drive in joining {
            self.drives.list.push(Drive {
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
            });
        }
    }

    /// Whether a drive is in memory only: no superblock version that was begun lists it.
    pub fn is_joining(&self, drive: DriveIx) -> bool {
        usize::from(drive.get()) >= self.superblock.drives.len()
    }

    /// A write or flush of a drive that joins failed: it does not, and the row is given up.
    pub fn joining_failed(&mut self, job: JobId, drive: DriveIx) {
        self.drives.get_mut(drive).health = Health::Missing;
        let job = self.ops.job_mut(job);
        job.lost |= job.kind == JobKind::Row;
    }

    /// Whether every drive that joins is well so far.
    pub fn joining_well(&self) -> bool {
        self.drives.list[self.superblock.drives.len()..].iter().all(|d| d.health == Health::Joining)
    }

    /// The superblock version that names the row lists its drives: from now on they are the group's.
    pub fn end_joining(&mut self, version: u64) {
        for i in self.superblock.drives.len()..self.drives.list.len() {
            let drive = &mut self.drives.list[i];
            assert!(drive.health == Health::Joining, "a drive that failed joins");
            // Nothing of the group was written to it before its row is in use, so nothing is missed on it.
            drive.health = Health::Current;
            (drive.flushed, drive.flushed_ckpt) = (self.durable, self.superblock.ckpt);
            let entry = CopyEntry { drive: drive.info.uuid, state: CopyState::Current, version };
            self.superblock.drives.push(entry);
        }
    }

    /// The row is given up: nothing more is sent to its new drives.
    pub fn give_up_joining(&mut self) {
        for drive in &mut self.drives.list[self.superblock.drives.len()..] {
            drive.health = Health::Missing;
        }
    }

    /// Forgets the drives of a row that was given up, once nothing of them is in flight. Whether that is done.
    pub fn forget_joining(&mut self) -> bool {
        let known = self.superblock.drives.len();
        if self.drives.list.len() > known && self.ops.busy_from(DriveIx::new(known as u8)) {
            return false;
        }
        self.drives.list.truncate(known);
        true
    }
}
