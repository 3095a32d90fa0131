//! Drive operations in flight, and the jobs that several of them belong to.
//!
//! An operation's token names its entry and how often the entry was used, so that a completion can arrive
//! only once and only for what was issued. Writes fan out to legs as a *job*: it is settled when all its
//! operations have ended and every drive that missed a part is durably stale.
use alloc::vec::Vec;
use base::{BufId, DriveIx, Duration, Fault, Instant, IoToken, Pba, SlotId, limits::MAX_DRIVE_OPS};
use fence::DriveSet;

/// Jobs at once: every commit, every page being written, and the few singular ones.
pub(crate) const MAX_JOBS: usize = 512;

/// Index of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JobId(pub u16);

/// What a job is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum JobKind {
    /// A commit and its data; the index into the commits in flight.
    Commit(u8),
    /// Pages that the merge sealed: a bit for each of its buffers.
    MergePages(u64),
    /// Pages and bitmaps that the seal of the directory wrote: a bit for each of its buffers.
    SealBlocks(u64),
    /// One step of writing a superblock version.
    Superblock,
    /// A flush of every current drive.
    Flush,
    /// Headers and home pages of a new row.
    Row,
    /// A damaged block being rewritten.
    Repair(u8),
    /// A unit of a resync.
    Copy,
    /// Bug only: nobody waits for it.
    Unwatched,
}

/// Several operations with one outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub kind: JobKind,
    pub outstanding: u32,
    /// Drives that did not get their part.
    pub missed: DriveSet,
    /// A part was missed by a drive that cannot be done without.
    pub lost: bool,
    live: bool,
    /// Parts are still being added.
    open: bool,
}

impl Job {
    /// Which of the drives that are `failing` have to be durably stale before it is settled: those that missed a part, and
    /// for a flush all of them, for what ended well there may be worth nothing (`Group::settle_jobs`).
    pub fn rests_on(&self, failing: DriveSet) -> DriveSet {
        if self.kind == JobKind::Flush { failing } else { self.missed.and(failing) }
    }
}

/// What an operation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A part of a job.
    Job(JobId),
    /// Blocks `first..first + count` of a slot's buffer for a read of the guest.
    Guest { slot: SlotId, first: u8, count: u8, leg: u8 },
    /// The old content of a block that is written in part; 0 the first, 1 the last of the request.
    Edge { slot: SlotId, edge: u8, leg: u8 },
    /// A page of map or directory into a frame of the cache.
    Page { frame: BufId, leg: u8 },
    /// A bitmap of a region, for free space or for the seal of a checkpoint.
    Bitmap { buf: BufId, leg: u8 },
    /// Blocks `first..first + count` of a unit of a resync.
    Copy { first: u8, count: u8, leg: u8 },
    /// Recovery's reading: the index of the chunk.
    Recovery { chunk: u8 },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    purpose: Purpose,
    drive: DriveIx,
    used: u32,
    /// Its number among all that were ever started.
    born: u64,
    /// When it was started, by the time at which operations age (`group/overdue.rs`).
    since: Instant,
    live: bool,
    write: bool,
}

/// An operation that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub purpose: Purpose,
    pub drive: DriveIx,
    pub write: bool,
    pub result: Result<(), Fault>,
}

/// The tables of operations and jobs.
pub(crate) struct Ops {
    entries: Vec<Entry>,
    free: Vec<u16>,
    started: u64,
    /// What operations that start now are `since`.
    pub now: Instant,
    /// Drives of which operations were given up that may still have effects there.
    given_up: DriveSet,
    done: Vec<Done>,
    jobs: Vec<Job>,
    free_jobs: Vec<u16>,
    /// Jobs whose last operation ended.
    ready: Vec<u16>,
}

impl Ops {
    pub fn new() -> Self {
        let entry = Entry {
            purpose: Purpose::Recovery { chunk: 0 },
            drive: DriveIx::ZERO,
            used: 0,
            born: 0,
            since: Instant::ZERO,
            live: false,
            write: false,
        };
        let job = Job {
            kind: JobKind::Superblock,
            outstanding: 0,
            missed: DriveSet::EMPTY,
            lost: false,
            live: false,
            open: false,
        };
        Self {
            entries: alloc::vec![entry; MAX_DRIVE_OPS],
            free: (0..MAX_DRIVE_OPS as u16).rev().collect(),
            started: 0,
            now: Instant::ZERO,
            given_up: DriveSet::EMPTY,
            done: Vec::with_capacity(MAX_DRIVE_OPS),
            jobs: alloc::vec![job; MAX_JOBS],
            free_jobs: (0..MAX_JOBS as u16).rev().collect(),
            ready: Vec::with_capacity(MAX_JOBS),
        }
    }

    /// How many more operations can be started.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Whether anything is in flight.
    pub fn in_flight(&self) -> bool {
        self.free.len() < self.entries.len()
    }

    /// Whether nothing is in flight and nothing waits to be looked at.
    pub fn idle(&self) -> bool {
        self.free.len() == self.entries.len() && self.done.is_empty()
    }

    /// Whether anything of this drive is in flight, given up or not, or waits to be looked at. Walks the whole table.
    pub fn busy_on(&self, drive: DriveIx) -> bool {
        self.waits_on(drive) || self.given_up.contains(drive)
    }

    /// Whether anything of this drive is in flight for the engine, or waits to be looked at: what was given up and was
    /// answered is not. Walks the whole table.
    pub fn waits_on(&self, drive: DriveIx) -> bool {
        let live = self.entries.iter().any(|entry| entry.live && entry.drive == drive);
        live || self.done.iter().any(|done| done.drive == drive)
    }

    /// The drives with something in flight that is at least as old as this. Walks the whole table.
    pub fn older_than(&self, bound: Duration) -> DriveSet {
        let old = |entry: &&Entry| entry.live && self.now - entry.since >= bound;
        self.entries.iter().filter(old).map(|entry| entry.drive).collect()
    }

    /// What is in flight on a drive is given up.
    pub fn give_up(&mut self, drive: DriveIx) {
        self.given_up.insert(drive);
    }

    /// Nothing of what was given up on a drive can have effects any more.
    pub fn quiet(&mut self, drive: DriveIx) {
        self.given_up.remove(drive);
    }

    /// The drives that were given up and are not quiet yet.
    pub fn given_up(&self) -> DriveSet {
        self.given_up
    }

    /// How many operations were ever started: an instant, for `busy_since`.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Whether anything of this drive that was started by then is still in flight. Walks the whole table.
    pub fn busy_since(&self, drive: DriveIx, started: u64) -> bool {
        self.given_up.contains(drive)
            || self.entries.iter().any(|entry| entry.live && entry.drive == drive && entry.born <= started)
    }

    /// Whether a read of this drive that was started by then is still in flight. Walks the whole table.
    pub fn reads_since(&self, drive: DriveIx, started: u64) -> bool {
        let reads = |entry: &Entry| entry.live && !entry.write && entry.drive == drive;
        self.entries.iter().any(|entry| reads(entry) && entry.born <= started)
    }

    /// How many more jobs can be started.
    pub fn job_room(&self) -> usize {
        self.free_jobs.len()
    }

    /// A token for a new operation. Panics when the table is full: callers ask `room` first.
    pub fn start(&mut self, purpose: Purpose, drive: DriveIx, write: bool) -> IoToken {
        let index = self.free.pop().expect("no room for a drive operation");
        let entry = &mut self.entries[usize::from(index)];
        assert!(!entry.live);
        self.started += 1;
        let born = self.started;
        let used = entry.used.wrapping_add(1);
        *entry = Entry { purpose, drive, used, born, since: self.now, live: true, write };
        if let Purpose::Job(job) = purpose {
            self.jobs[usize::from(job.0)].outstanding += 1;
        }
        IoToken(u64::from(entry.used) << 16 | u64::from(index))
    }

    /// Notes the end of an operation. Panics on a token that is not in flight: a driver that completes twice
    /// would otherwise free memory that the kernel still uses.
    pub fn end(&mut self, token: IoToken, result: Result<(), Fault>) {
        let index = (token.0 & 0xffff) as usize;
        let entry = &mut self.entries[index];
        assert!(
            entry.live && u64::from(entry.used) == token.0 >> 16,
            "completion of {token:?}, not in flight"
        );
        entry.live = false;
        self.free.push(index as u16);
        self.done.push(Done { purpose: entry.purpose, drive: entry.drive, write: entry.write, result });
    }

    /// The next ended operation to look at.
    pub fn next_done(&mut self) -> Option<Done> {
        self.done.pop()
    }

    /// Opens a job; it cannot be settled before `seal_job`.
    pub fn open_job(&mut self, kind: JobKind) -> JobId {
        let index = self.free_jobs.pop().expect("no room for a job");
        self.jobs[usize::from(index)] =
            Job { kind, outstanding: 0, missed: DriveSet::EMPTY, lost: false, live: true, open: true };
        JobId(index)
    }

    /// Whether a job has ended that nobody has looked at yet.
    pub fn any_settled(&self) -> bool {
        !self.ready.is_empty()
    }

    /// All parts of the job are on their way. One without any has ended, and no event will tell: whoever waits asks
    /// `any_settled`.
    ///
    /// Crash story: none. The drive of a leg was put out while a scrub read the copies there. The repairs of what had been
    /// wrong on it went to nobody, so they were over at once. The scrub waited for room for the ninth, nothing was under way
    /// that could end, and nobody looked again: writes that needed the checkpoint waited for the scrub's blocks for ever.
    pub fn seal_job(&mut self, id: JobId) {
        let job = self.job_mut(id);
        job.open = false;
        if job.outstanding == 0 {
            self.ready.push(id.0);
        }
    }

    /// A job, to change.
    pub fn job_mut(&mut self, id: JobId) -> &mut Job {
        &mut self.jobs[usize::from(id.0)]
    }

    /// One part of a job ended.
    pub fn part_done(&mut self, id: JobId) {
        let job = self.job_mut(id);
        assert!(job.live && job.outstanding > 0);
        job.outstanding -= 1;
        if job.outstanding == 0 && !job.open {
            self.ready.push(id.0);
        }
    }

    /// A drive's state changed: jobs that waited for it may be settled.
    pub fn recheck(&mut self) {
        self.ready.clear();
        let over = |job: &Job| job.live && !job.open && job.outstanding == 0;
        self.ready.extend((0..self.jobs.len() as u16).filter(|i| over(&self.jobs[usize::from(*i)])));
    }

    /// Takes a job that is settled: nothing outstanding, and no drive that it rests on is still `failing`
    /// (its stale mark not yet durable), unless the job is lost anyway. A superblock's steps do not wait: they
    /// are what makes the mark durable.
    pub fn next_settled(&mut self, failing: DriveSet) -> Option<(JobKind, Job)> {
        while let Some(index) = self.ready.pop() {
            let job = self.jobs[usize::from(index)];
            assert!(job.live && !job.open && job.outstanding == 0);
            let waits = !job.rests_on(failing).is_empty() && !job.lost && job.kind != JobKind::Superblock;
            if waits {
                continue;
            }
            self.jobs[usize::from(index)].live = false;
            self.free_jobs.push(index);
            return Some((job.kind, job));
        }
        None
    }
}

/// A run of blocks to write: where, from which memory, how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub pba: Pba,
    pub buf: BufId,
    pub blocks: u32,
}
