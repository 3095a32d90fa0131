//! Writing superblock versions: one slot, flush, the other slot, flush, then it counts.
//!
//! Whoever changes what the superblock says changes `Group::superblock` and asks for a version (`want`); the
//! next one that begins says all that was changed until then. A drive that fails while a version is written is
//! out, but the version still calls it current: the version does not count, and the next one, which calls it
//! stale, begins at once. So a version that counts was written and flushed on every drive that it calls current.
//!
//! Going stale: the mark is stored in the catalogue, then durable on the remaining drives, and only then is the
//! drive `Stale` and what it missed acknowledged. The catalogue comes first: a superblock that said it first
//! could be the only one to know when the catalogue is asked about the other drive alone.
//!
//! Coming back: what a drive shows is asked first, and then says what it lacks (`resync/probe.rs`). A version that was under way
//! by then says of it what was known before, so it does not go there: the drive's first one is the one that says what was
//! found. Crash story: a drive with nothing on it got the second slot of such a version, and no flush later power failed. Then
//! it showed a superblock of its own, as new as the others', by which it had everything that it ever had flushed. It
//! got what was written since, and counted.
use super::{Group, Halt, Turn};
use crate::drives::Health;
use crate::keys::Keyed;
use crate::layout::extent as fixed;
use crate::ops::{Job, JobKind};
use crate::planted::Planted;
use crate::superblock::Home;
use alloc::vec::Vec;
use base::limits::MAX_DRIVES;
use base::{Action, DriveIx, Segment};
use fence::CopyState;
use fence::DriveSet;

/// The four steps of a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Idle,
    FirstSlot,
    FirstFlush,
    SecondSlot,
    SecondFlush,
}

/// The writer of superblock versions.
pub(crate) struct Writer {
    step: Step,
    /// The version being written, or the last one written.
    version: u64,
    /// Highest version that counts.
    durable: u64,
    wanted: u64,
    /// Per copy in the order of the home row: the slot that holds its newest valid version.
    newest: Vec<u8>,
    /// A drive failed while this version was written.
    failed: bool,
    /// Failing drives whose mark the catalogue has stored.
    stored: DriveSet,
    /// Those whose mark it was asked to store, and the version.
    storing: Option<(DriveSet, u64)>,
    /// Failing drives that the version being written calls stale.
    marked: DriveSet,
    /// Drives that came back since the version being written began: it says of them what may not be so, and does not go there.
    late: DriveSet,
    homes: Vec<Home>,
    /// Where the versions from the next one on are written.
    next_homes: Option<Vec<Home>>,
}

impl Writer {
    pub fn new(version: u64, newest: Vec<u8>, homes: Vec<Home>) -> Self {
        Self {
            step: Step::Idle,
            version,
            durable: version,
            wanted: version,
            newest,
            failed: false,
            stored: DriveSet::EMPTY,
            storing: None,
            marked: DriveSet::EMPTY,
            late: DriveSet::EMPTY,
            homes,
            next_homes: None,
        }
    }

    /// Asks for a version that says what the superblock says now; returns the number that will.
    pub fn want(&mut self) -> u64 {
        self.wanted = self.version + 1;
        self.wanted
    }

    /// A drive came back, and the superblock says from now on what it has: it gets the next version first. Returns its number.
    pub fn want_first_of(&mut self, drive: DriveIx) -> u64 {
        self.late.insert(drive);
        self.want()
    }

    /// The next version goes to these places. Every version since the first of this activation is in both slots of its
    /// places or was given up with them, so either slot may be written first.
    pub fn set_homes(&mut self, homes: Vec<Home>) {
        self.next_homes = Some(homes);
    }

    /// The version that was asked for last.
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Whether this version, or a later one, counts.
    pub fn is_durable(&self, version: u64) -> bool {
        self.durable >= version
    }

    /// The newest version that counts.
    pub fn durable_version(&self) -> u64 {
        self.durable
    }

    /// A drive is about to be current again: its next failure is news to the catalogue.
    pub fn forget_stored(&mut self, drive: DriveIx) {
        self.stored = self.stored.without(DriveSet::only(drive));
    }

    /// Whether the newest version counts and none is being written or wanted.
    pub fn settled(&self) -> bool {
        self.idle() && self.wanted == self.version && self.durable == self.version
    }

    fn idle(&self) -> bool {
        self.step == Step::Idle
    }
}

impl Group {
    /// Notes in the superblock that a drive that just failed is stale, and asks for a version that says so.
    pub fn mark_stale(&mut self, drive: DriveIx) {
        let (seq, ckpt) = {
            let drive = self.drives.get(drive);
            (drive.flushed, drive.flushed_ckpt)
        };
        let since_acked = self.config.bug(Planted::StaleSinceAcked);
        let seq = if since_acked { self.completed } else { seq };
        if self.config.bug(Planted::StaleNotDurable) {
            self.drives.get_mut(drive).health = Health::Stale;
            self.ops.recheck();
            return;
        }
        let version = self.writer.want();
        let entry = &mut self.superblock.drives[usize::from(drive.get())];
        entry.state = CopyState::stale(seq, ckpt);
        entry.version = version;
        self.again = true;
    }

    /// Begins a version if one is wanted, and tells the catalogue about stale drives.
    pub fn advance_writer<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        self.tell_catalogue(turn);
        let wanted = self.writer.wanted > self.writer.version;
        let failing = self.drives.set_of(Health::Failing);
        let told = failing.without(self.writer.stored).is_empty() || self.config.bug(Planted::StaleNotStored);
        if !self.writer.idle() || !wanted || !told || self.halt == Some(Halt::SuperblockFailed) {
            return;
        }
        if !self.room(turn, 2 * MAX_DRIVES) {
            return;
        }
        if let Some(homes) = self.writer.next_homes.take() {
            self.writer.newest.resize(homes.len(), 0);
            self.writer.homes = homes;
        }
        self.writer.version += 1;
        self.superblock.version = self.writer.version;
        self.superblock.durable = self.durable;
        self.writer.failed = false;
        self.writer.marked = self.drives.set_of(Health::Failing);
        self.writer.late = DriveSet::EMPTY;
        for i in 0..self.writer.homes.len() {
            let block = self.superblock.encode_with(self.writer.homes[i], turn.memory.keys().as_deref());
            *turn.memory.block_mut(self.buffers.superblocks.plus(i as u32)) = block;
        }
        self.writer.step = Step::FirstSlot;
        self.write_slots(turn, false);
    }

    /// Writes every copy into the slot that does not hold its newest valid version, or into the one that does.
    fn write_slots<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, newest: bool) {
        let job = self.ops.open_job(JobKind::Superblock);
        for i in 0..self.writer.homes.len() {
            let newest = newest != self.config.bug(Planted::SlotsNewestFirst);
            let slot = if newest { self.writer.newest[i] } else { 1 - self.writer.newest[i] };
            let memory = [Segment { buf: self.buffers.superblocks.plus(i as u32), blocks: 1 }];
            let home = self.writer.homes[i].extent;
            if self.writer.late.contains(home.drive) {
                continue;
            }
            self.write_just_extent(turn, job, home, fixed::SUPERBLOCKS[usize::from(slot)], &memory);
            if self.config.bug(Planted::SlotsTogether) {
                self.write_just_extent(turn, job, home, fixed::SUPERBLOCKS[1 - usize::from(slot)], &memory);
            }
        }
        self.ops.seal_job(job);
    }

    /// The drives that hold superblocks.
    pub fn home_drives(&self) -> DriveSet {
        let mut set = DriveSet::EMPTY;
        for home in &self.writer.homes {
            set.insert(home.extent.drive);
        }
        set
    }

    /// All parts of a step have ended.
    pub fn superblock_step_settled<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, job: Job) {
        // Drives that this version calls stale need not have it.
        // One that failed something else meanwhile may have given up what this step's flush should have covered.
        let out = job.missed.union(self.drives.set_of(Health::Failing));
        self.writer.failed |= !out.without(self.writer.marked).is_empty();
        if job.lost {
            return self.halt(Halt::SuperblockFailed);
        }
        self.writer.step = match self.writer.step {
            Step::FirstSlot => Step::FirstFlush,
            Step::FirstFlush => Step::SecondSlot,
            Step::SecondSlot => Step::SecondFlush,
            Step::SecondFlush => Step::Idle,
            Step::Idle => panic!("a superblock step ended that never began"),
        };
        match self.writer.step {
            Step::FirstFlush | Step::SecondFlush => {
                let drives = self.home_drives();
                self.flush_drives(turn, JobKind::Superblock, drives);
            }
            Step::SecondSlot => self.write_slots(turn, true),
            Step::Idle => self.version_written(),
            Step::FirstSlot => unreachable!("no step leads to the first"),
        }
    }

    fn version_written(&mut self) {
        self.again = true;
        if self.writer.failed {
            self.writer.want();
            return;
        }
        self.writer.durable = self.writer.version;
        for drive in self.writer.marked.iter() {
            self.drives.get_mut(drive).health = Health::Stale;
        }
        self.writer.marked = DriveSet::EMPTY;
        self.ops.recheck();
    }

    /// Asks the catalogue to store the marks of drives that just failed.
    fn tell_catalogue<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let failing = self.drives.set_of(Health::Failing).without(self.writer.stored);
        if failing.is_empty() || self.writer.storing.is_some() || !turn.fits(1) {
            return;
        }
        if self.config.bug(Planted::StaleNotStored) {
            return;
        }
        let version = self.writer.wanted;
        self.writer.storing = Some((failing, version));
        turn.out.push(Action::StoreStale { drives: failing.bits(), version });
    }

    /// The catalogue has stored the marks.
    pub fn stale_stored(&mut self, version: u64) {
        let Some((drives, asked)) = self.writer.storing.take() else { return };
        assert!(asked == version, "the catalogue answered version {version}, asked was {asked}");
        self.writer.stored = self.writer.stored.union(drives);
        self.again = true;
    }
}
