//! The loop that runs a group: one thread, one ring, one engine, one front end.
//!
//! A turn: take commands, hand arrivals to the engine, poll it, carry out its actions, repeat while that brings
//! new arrivals, then hand everything gathered to the kernel and sleep until a completion or a deadline. What it
//! buys: no locks, no hand-over between threads, one system call per turn however many requests it served. What
//! it costs: a slow call anywhere in it delays everyone, so nothing in it blocks, and what other threads ask
//! for (`Handle`) must be short.
//!
//! Invariants: a token is answered exactly once; a completion is never made up, not even by a deadline; a slot is
//! in the engine at most once. After start a turn allocates nothing. Idle, the thread sleeps in the kernel
//! without a timeout, unless the engine asked for one.
use crate::drive::Drive;
use crate::front::{Allocation, FrontEnd, FrontIo, VolumeInfo};
use crate::handle::{Command, Control, Handle, Notice};
use crate::memory::{Locked, Region};
use crate::ops::{DriveOps, Finished, MAX_DRIVE_OPS, Next, OpIx, Remainder};
use crate::resets::{self, Resets};
use crate::ring::{Event, Ring, Source};
use crate::workspace::Workspace;
use base::limits::{MAX_DRIVES, MAX_SLOTS};
use base::{
    Action, Actions, BufId, DriveIx, DriveOp, DriveSet, Duration, Engine, Instant, Op, Phase, Reply, Request,
    SlotId,
};
use std::io;
use std::os::fd::AsFd;

/// Turns of poll and deliver within one turn of the loop, before the kernel is asked for news.
const ROUNDS_PER_TURN: usize = 8;
/// How often ages are looked at while anything is in flight.
const WATCH_EVERY: Duration = Duration::from_millis(1_000);
/// How long a front end may take to send its last replies.
const LAST_REPLIES: Duration = Duration::from_millis(2_000);

/// Bounds of a target; all have sensible defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Request slots, at most `MAX_SLOTS`; the engine must number at least as many.
    pub slots: usize,
    /// Actions that one poll can append.
    pub actions: usize,
    /// Pieces of memory that the actions of one poll can name.
    pub segments: usize,
    /// A drive's operation older than this is reported.
    pub slow_after: Duration,
    /// A drive's operation older than this is cancelled, as far as the kernel can.
    pub drive_deadline: Duration,
    /// A guest's request older than this is reported.
    pub stuck_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            slots: MAX_SLOTS,
            actions: base::limits::MAX_POLL_ACTIONS,
            segments: base::limits::MAX_POLL_SEGMENTS,
            slow_after: Duration::from_millis(2_000),
            drive_deadline: Duration::from_millis(30_000),
            stuck_after: Duration::from_millis(60_000),
        }
    }
}

/// Why a target cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No memory.
    #[error("cannot map {bytes} bytes of memory for buffers: {source}")]
    Memory {
        /// How much.
        bytes: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// io_uring cannot be set up.
    #[error(
        "cannot set up io_uring: {0}; it needs Linux 6.1 or newer, sysctl kernel.io_uring_disabled=0 and, in a container, a filter that allows it"
    )]
    Setup(io::Error),
    /// The kernel's events cannot be listened to.
    #[error(
        "cannot listen to the kernel's events (a NETLINK_KOBJECT_UEVENT socket), without which a drive that was reset would go unnoticed: {0}"
    )]
    Events(io::Error),
    /// The ring failed while serving.
    #[error("io_uring failed while serving: {0}")]
    Ring(io::Error),
}

/// How a target ended. Its drives are closed; one on which the kernel still has operations stays locked until it has not.
pub struct Ended<E> {
    /// The engine, in `Phase::Closed` or `Phase::Refused`.
    pub engine: E,
}

/// A group that can be run.
pub struct Target<E> {
    engine: E,
    drives: Vec<Drive>,
    volume: VolumeInfo,
    options: Options,
    handle: Handle<E>,
    workspace: Option<Workspace>,
}

impl<E: Engine + Allocation> Target<E> {
    /// A target for this engine over these drives, in the order of the engine's drive table.
    ///
    /// # Errors
    /// The system is out of file descriptors.
    pub fn new(engine: E, drives: Vec<Drive>, volume: VolumeInfo, options: Options) -> io::Result<Self> {
        assert!(drives.len() <= MAX_DRIVES, "more drives than a group has");
        assert!((1..=MAX_SLOTS).contains(&options.slots), "slots are limited");
        assert!(options.actions <= MAX_DRIVE_OPS, "a poll's actions must fit the table of operations");
        Ok(Self { engine, drives, volume, options, handle: Handle::new()?, workspace: None })
    }

    /// The same with what its loop needs made already; made anew if it does not fit.
    #[must_use]
    pub fn with_workspace(self, workspace: Option<Workspace>) -> Self {
        Self { workspace, ..self }
    }

    /// For other threads.
    pub fn handle(&self) -> Handle<E> {
        self.handle.clone()
    }

    /// Serves until stopped (or refused by the engine), on the calling thread.
    ///
    /// # Errors
    /// See `TargetError`. The drives are left as after a crash then: the next activation recovers.
    pub fn run(
        self,
        front: &mut impl FrontEnd,
        control: &mut impl Control<E>,
    ) -> Result<Ended<E>, TargetError> {
        let mut turning = Loop::start(self, front)?;
        let outcome = turning.turn_until_ended(front, control);
        turning.handle.figures().set_phase(turning.engine.phase());
        outcome.map_err(TargetError::Ring)?;
        Ok(Ended { engine: turning.end() })
    }
}

/// A target at work.
struct Loop<E> {
    engine: E,
    /// Before the drives: what it has gathered names their files, and is submitted when it is dropped.
    ring: Ring,
    /// By the loop's number; `None`: released, and free for the next drive.
    drives: Vec<Option<Drive>>,
    volume: VolumeInfo,
    options: Options,
    handle: Handle<E>,
    ops: DriveOps,
    resets: Resets,
    out: Actions,
    requests: Vec<Request>,
    slots: Vec<BufId>,
    /// The requests in the engine, by slot.
    slot_since: Vec<Option<Busy>>,
    busy_slots: usize,
    wake_memory: Region,
    clock: std::time::Instant,
    watched_at: Instant,
    front_deadline: Option<Instant>,
    phase: Option<Phase>,
    stopping: bool,
    closed_at: Option<Instant>,
    /// Drives that were given up and on which something is still in flight.
    given_up: DriveSet,
}

/// A request in the engine.
#[derive(Clone, Copy)]
struct Busy {
    since: Instant,
    /// Which of `Figures::latency` counts it.
    kind: usize,
    /// Whether it was reported as stuck.
    reported: bool,
}

/// Lends the parts of a loop that a front end may use.
macro_rules! front_io {
    ($self:ident, $now:expr) => {
        &mut FrontIo {
            ring: &mut $self.ring,
            now: $now,
            volume: &$self.volume,
            requests: &mut $self.requests,
            slots: &$self.slots,
            allocation: &$self.engine,
        }
    };
}

impl<E: Engine + Allocation> Loop<E> {
    fn start(target: Target<E>, front: &mut impl FrontEnd) -> Result<Self, TargetError> {
        let Target { engine, drives, volume, options, handle, workspace } = target;
        // Before the engine reads anything.
        let resets = Resets::listen().map_err(TargetError::Events)?;
        let front_bytes = front.memory_bytes();
        let made = workspace
            .filter(|made| made.fits(engine.memory_blocks(), front_bytes, &options))
            .map_or_else(|| Workspace::new(engine.memory_blocks(), front_bytes, &options), Ok);
        let Workspace { ring, mut ops, out, .. } = made?;
        ring.enable().map_err(TargetError::Setup)?;
        let (own, front_memory) = ring.area().front().split(base::BLOCK_BYTES);
        drives.iter().for_each(|drive| ops.add_drive(drive.properties().volatile_cache));
        let mut places = Vec::with_capacity(MAX_DRIVES);
        places.extend(drives.into_iter().map(Some));
        let slots: Vec<_> = (0..options.slots).map(|n| engine.slot_buffer(SlotId(n as u16))).collect();
        let mut this = Self {
            ops,
            resets,
            out,
            requests: Vec::with_capacity(options.slots),
            slot_since: vec![None; slots.len()],
            slots,
            busy_slots: 0,
            wake_memory: own.part(0, 8),
            clock: std::time::Instant::now(),
            watched_at: Instant::ZERO,
            front_deadline: None,
            phase: None,
            stopping: false,
            closed_at: None,
            given_up: DriveSet::EMPTY,
            engine,
            ring,
            drives: places,
            volume,
            options,
            handle,
        };
        this.ring.wake(this.handle.eventfd(), this.wake_memory).map_err(TargetError::Setup)?;
        front.start(front_io!(this, Instant::ZERO), front_memory).map_err(TargetError::Setup)?;
        Ok(this)
    }

    /// Lets go of everything but the engine. All is submitted by now, so what is still in flight holds its own drive; the
    /// others are free for the next target before the ring waits for a drive that hangs.
    fn end(self) -> E {
        let Self { engine, drives, ring, .. } = self;
        drop(drives);
        drop(ring);
        engine
    }

    fn turn_until_ended(
        &mut self,
        front: &mut impl FrontEnd,
        control: &mut impl Control<E>,
    ) -> io::Result<()> {
        loop {
            self.commands(front)?;
            let now = self.now();
            if self.front_deadline.is_none_or(|at| at <= now) {
                self.front_deadline = front.tick(front_io!(self, now))?;
            }
            let deadline = self.work(front, control)?;
            self.watch(control)?;
            if self.ended(front) {
                return self.ring.submit();
            }
            self.handle.figures().clients.set(front.clients() as u64);
            self.handle.figures().awake.set(0);
            self.ring.wait(self.timeout(deadline))?;
            self.handle.figures().turns.add(1);
            self.handle.figures().awake.set(1);
            while let Some(event) = self.ring.next() {
                self.event(front, control, event)?;
            }
        }
    }

    /// Polls the engine and carries out what it wants, as long as that brings something new.
    fn work(
        &mut self,
        front: &mut impl FrontEnd,
        control: &mut impl Control<E>,
    ) -> io::Result<Option<Instant>> {
        for _ in 0..ROUNDS_PER_TURN {
            let now = self.now();
            self.deliver(now);
            if self.ops.room() < self.options.actions {
                // Completions are due, and they bring the loop back here.
                return Ok(None);
            }
            self.out.clear();
            let deadline = self.engine.poll(now, &mut self.ring, &mut self.out);
            for index in 0..self.out.actions.len() {
                self.carry_out(front, control, now, self.out.actions[index])?;
            }
            let phase = self.engine.phase();
            if self.phase != Some(phase) {
                self.phase = Some(phase);
                self.handle.figures().set_phase(phase);
                control.phase(phase, &self.engine);
            }
            if self.requests.is_empty() && !self.ops.has_finished() {
                return Ok(deadline);
            }
        }
        // More to do: look for completions without sleeping, then go on.
        Ok(Some(Instant::ZERO))
    }

    /// Hands requests and ends of operations to the engine.
    fn deliver(&mut self, now: Instant) {
        let figures = self.handle.figures();
        for request in self.requests.drain(..) {
            let since = &mut self.slot_since[request.slot.0 as usize];
            assert!(since.is_none(), "a slot holds one request");
            let (count, kind) = match request.op {
                Op::Read => (&figures.reads, 0),
                Op::Write => (&figures.writes, 1),
                Op::Flush => (&figures.flushes, 2),
                Op::Discard | Op::WriteZeroes => (&figures.discards, 3),
            };
            *since = Some(Busy { since: now, kind, reported: false });
            self.busy_slots += 1;
            count.add(1);
            match request.op {
                Op::Read => figures.sectors_read.add(request.sectors.get()),
                Op::Write => figures.sectors_written.add(request.sectors.get()),
                _ => (),
            }
            self.engine.submit(request);
        }
        while let Some(finished) = self.ops.next_finished() {
            count_drive(&self.handle, &finished, now);
            self.engine.drive_done(finished.token, finished.result);
        }
        for drive in self.given_up.iter() {
            if !self.ops.is_busy(drive) {
                self.given_up.remove(drive);
                figures.hanging_drives.set(self.given_up.len() as u64);
                self.engine.reply(Reply::Quiet { drive });
            }
        }
        figures.requests_in_flight.set(self.busy_slots as u64);
    }

    fn carry_out(
        &mut self,
        front: &mut impl FrontEnd,
        control: &mut impl Control<E>,
        now: Instant,
        action: Action,
    ) -> io::Result<()> {
        match action {
            Action::Drive { token, drive, op, at, segments, .. } => {
                if op == DriveOp::Write && self.ops.is_clean(drive) {
                    // What was told by now happened when there was nothing to lose.
                    self.look_for_resets(control);
                }
                let next = self.ops.start(now, token, drive, op, at, self.out.memory(segments));
                self.follow(next)
            }
            Action::Complete { slot, result } => {
                let busy = self.slot_since[slot.0 as usize].take();
                let busy = busy.expect("a request is completed once");
                self.busy_slots -= 1;
                self.handle.figures().latency[busy.kind].record(now - busy.since);
                if result.is_err() {
                    self.handle.figures().failed_requests.add(1);
                }
                front.complete(front_io!(self, now), slot, result)
            }
            Action::GiveUp { drive } => self.give_up(drive),
            Action::WantRow { row } => {
                control.want_row(row);
                Ok(())
            }
            Action::StoreStale { drives, version } => {
                control.store_stale(drives, version, &self.engine);
                Ok(())
            }
            Action::StoreCurrent { drive, version } => {
                control.store_current(drive, version, &self.engine);
                Ok(())
            }
        }
    }

    /// Answers what is in flight on a drive, but reads whose memory cannot be spared, and asks the kernel to end it.
    fn give_up(&mut self, drive: DriveIx) -> io::Result<()> {
        self.given_up.insert(drive);
        self.handle.figures().hanging_drives.set(self.given_up.len() as u64);
        let held = self.ops.give_up(drive);
        let reads: Vec<OpIx> = held.iter().copied().filter(|op| self.ops.is_held_read(*op)).collect();
        let rests: Vec<Remainder<'_>> = reads.iter().map(|op| self.ops.remainder(*op)).collect();
        let exchanged = self.ring.exchange(&rests)?;
        drop(rests);
        let free = reads.iter().zip(&exchanged).filter(|(_, exchanged)| **exchanged);
        free.for_each(|(op, _)| self.ops.let_go(*op));
        held.into_iter().try_for_each(|op| self.ring.cancel(Source::Drive, u64::from(op.0)))
    }

    fn follow(&mut self, next: Next) -> io::Result<()> {
        match next {
            Next::Submit(op) => {
                let rest = self.ops.remainder(op);
                let drive = self.drives[usize::from(rest.drive.get())].as_ref();
                let drive = drive.expect("a drive is released when nothing is in flight on it");
                self.ring.drive(u64::from(op.0), drive.as_fd(), &rest)
            }
            Next::Nothing => Ok(()),
        }
    }

    fn event(
        &mut self,
        front: &mut impl FrontEnd,
        control: &mut impl Control<E>,
        event: Event,
    ) -> io::Result<()> {
        match event.source {
            Source::Drive => {
                if event.result >= 0
                    && let Some(drive) = self.ops.flushed(OpIx(event.id as u32))
                {
                    self.look_at_controllers(control, drive);
                    self.look_for_resets(control);
                }
                let next = self.ops.answered(OpIx(event.id as u32), event.result);
                self.follow(next)
            }
            Source::Wake => self.ring.wake(self.handle.eventfd(), self.wake_memory),
            Source::Front | Source::Queue => {
                let now = self.now();
                front.event(front_io!(self, now), event.id, event.result)
            }
            Source::Cancel => Ok(()),
        }
    }

    /// Before the events: a flush that ends while its controller does not serve spans a reset of which nothing was told yet.
    fn look_at_controllers(&mut self, control: &mut impl Control<E>, number: DriveIx) {
        let drive = self.drives[usize::from(number.get())].as_ref();
        let drive = drive.expect("a drive is released when nothing is in flight on it");
        if drive.properties().volatile_cache && !drive.serves() && self.ops.was_reset(number) {
            control.notice(Notice::Reset { drive: number });
        }
    }

    /// Before a flush counts: what was reset by now?
    fn look_for_resets(&mut self, control: &mut impl Control<E>) {
        while let Some(reset) = self.resets.next() {
            for (number, drive) in self.drives.iter().enumerate() {
                let number = DriveIx::new(number as u8);
                let hit = drive.as_ref().is_some_and(|drive| resets::lies_on(drive.file(), &reset));
                if hit && self.ops.was_reset(number) {
                    control.notice(Notice::Reset { drive: number });
                }
            }
        }
    }

    fn commands(&mut self, front: &mut impl FrontEnd) -> io::Result<()> {
        while let Some(command) = self.handle.take() {
            let now = self.now();
            match command {
                Command::Reply(reply) => self.engine.reply(reply),
                Command::Engine(work) => work(&mut self.engine),
                Command::Drive(drive, done) => done(self.add_drive(*drive)),
                Command::Release(number, done) => done(self.release_drive(number)),
                Command::Resize(sectors) => {
                    self.volume.sectors = sectors;
                    front.resized(front_io!(self, now))?;
                }
                Command::Stop if self.stopping => (),
                Command::Stop => {
                    self.stopping = true;
                    front.stop(front_io!(self, now))?;
                    // Those that the front end has just handed in go first: the engine still finishes them.
                    self.deliver(now);
                    self.engine.close();
                }
            }
        }
        Ok(())
    }

    /// Takes one drive more. No action can name it before the engine has heard its number.
    fn add_drive(&mut self, drive: Drive) -> io::Result<DriveIx> {
        let free = self.drives.iter().position(Option::is_none);
        let number = free.unwrap_or(self.drives.len());
        if number == MAX_DRIVES {
            return Err(io::Error::other(format!("{MAX_DRIVES} drives are open already")));
        }
        let volatile = drive.properties().volatile_cache;
        if free.is_some() {
            self.ops.reuse_drive(DriveIx::new(number as u8), volatile);
            self.handle.figures().drives[number].forget();
            self.drives[number] = Some(drive);
        } else {
            self.ops.add_drive(volatile);
            self.drives.push(Some(drive));
        }
        Ok(DriveIx::new(number as u8))
    }

    /// Gives a drive back to its owner. With nothing in flight on it nothing of its former life can reach it later,
    /// and once its owner closes it nothing holds it.
    fn release_drive(&mut self, number: DriveIx) -> io::Result<Drive> {
        let place = usize::from(number.get());
        if self.ops.is_busy(number) {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        let drive = self.drives.get_mut(place).and_then(Option::take);
        let drive = drive.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.ops.release_drive(number);
        Ok(drive)
    }

    /// Looks at ages, at most once per `WATCH_EVERY`.
    fn watch(&mut self, control: &mut impl Control<E>) -> io::Result<()> {
        let now = self.now();
        if now - self.watched_at < WATCH_EVERY || !self.anything_in_flight() {
            return Ok(());
        }
        self.watched_at = now;
        let (options, figures) = (&self.options, self.handle.figures());
        let mut outcome = Ok(());
        self.ops.watch(now, options.slow_after, options.drive_deadline, |slow| {
            let (drive, op, age, expired) = (slow.drive, slow.kind, slow.age, slow.expired);
            figures.drives[drive.get() as usize].slow_events.add(1);
            control.notice(Notice::Drive { drive, op, age, expired });
            if expired && let Err(error) = self.ring.cancel(Source::Drive, u64::from(slow.op.0)) {
                outcome = Err(error);
            }
        });
        for (slot, since) in self.slot_since.iter_mut().enumerate() {
            if let Some(busy) = since
                && !busy.reported
                && now - busy.since >= options.stuck_after
            {
                busy.reported = true;
                figures.stuck_requests.add(1);
                control.notice(Notice::Request { slot: SlotId(slot as u16), age: now - busy.since });
            }
        }
        outcome
    }

    fn anything_in_flight(&self) -> bool {
        self.ops.in_flight() > 0 || self.busy_slots > 0
    }

    /// Whether the engine has ended and the front end's last replies have left (or had their time).
    fn ended(&mut self, front: &impl FrontEnd) -> bool {
        match self.engine.phase() {
            Phase::Refused => true,
            Phase::Closed => {
                let now = self.now();
                let since = *self.closed_at.get_or_insert(now);
                front.finished() || now - since >= LAST_REPLIES
            }
            _ => false,
        }
    }

    fn timeout(&self, engine: Option<Instant>) -> Option<Duration> {
        let watch = self.anything_in_flight().then(|| self.watched_at + WATCH_EVERY);
        let last = self.closed_at.map(|at| at + LAST_REPLIES);
        let first = [engine, self.front_deadline, watch, last].into_iter().flatten().min()?;
        Some(first - self.now())
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.clock.elapsed().as_nanos() as u64)
    }
}

fn count_drive<E>(handle: &Handle<E>, finished: &Finished, now: Instant) {
    let figures = &handle.figures().drives[finished.drive.get() as usize];
    let kind = match finished.op {
        DriveOp::Read => 0,
        DriveOp::Write => 1,
        DriveOp::Flush => 2,
    };
    figures.latency[kind].record(now - finished.issued);
    match (finished.op, finished.result.is_ok()) {
        (DriveOp::Read, true) => {
            figures.reads.add(1);
            figures.bytes_read.add(finished.bytes);
        }
        (DriveOp::Write, true) => {
            figures.writes.add(1);
            figures.bytes_written.add(finished.bytes);
        }
        (DriveOp::Flush, true) => figures.flushes.add(1),
        (DriveOp::Read, false) => figures.read_errors.add(1),
        (DriveOp::Write | DriveOp::Flush, false) => figures.write_errors.add(1),
    }
}

/// Says in one sentence what a lock that was refused means; for logs.
pub fn lock_warning(locked: Locked) -> Option<String> {
    match locked {
        Locked::Yes => None,
        Locked::No { wanted_bytes, errno } => Some(format!(
            "buffers of {wanted_bytes} bytes could not be locked in memory ({}); raise the limit on locked memory (ulimit -l)",
            io::Error::from_raw_os_error(errno)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::Access;
    use crate::front::NoFrontEnd;
    use crate::linear::LinearEngine;
    use crate::testing::TempFile;
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;

    /// A loop over one drive, with nothing in front of it.
    fn turning(drive: Drive) -> Loop<LinearEngine> {
        let engine = LinearEngine::new(drive.size());
        let volume = VolumeInfo {
            sectors: engine.sectors(),
            stripe_bytes: 1 << 16,
            max_discard: base::Sectors::new(1 << 12),
            read_only: false,
        };
        let target = Target::new(engine, vec![drive], volume, Options::default()).expect("a target");
        Loop::start(target, &mut NoFrontEnd).expect("starts")
    }

    /// Whoever wants to end this process for another one asks first whether the kernel would keep it.
    #[test]
    fn a_drive_that_was_given_up_counts_until_nothing_of_it_is_in_flight() {
        let file = TempFile::new(1 << 20);
        let mut turning = turning(Drive::open(file.path(), Access::ReadWrite).expect("opens"));
        let hanging = |turning: &Loop<_>| turning.handle.figures().hanging_drives.get();
        let memory = [base::Segment { buf: BufId::new(0), blocks: 1 }];
        let (token, at) = (base::IoToken(0), base::DriveBlock::ZERO);
        let next = turning.ops.start(Instant::ZERO, token, DriveIx::ZERO, DriveOp::Read, at, &memory);
        turning.follow(next).expect("gathers");
        assert_eq!(hanging(&turning), 0);
        turning.give_up(DriveIx::ZERO).expect("gathers");
        turning.deliver(Instant::ZERO);
        assert_eq!(hanging(&turning), 1);
        while turning.ops.in_flight() > 0 {
            turning.ring.wait(None).expect("waits");
            while let Some(event) = turning.ring.next() {
                turning.event(&mut NoFrontEnd, &mut crate::NoControl, event).expect("works");
            }
        }
        // This engine asked for none of it.
        while turning.ops.next_finished().is_some() {}
        turning.deliver(Instant::ZERO);
        assert_eq!(hanging(&turning), 0);
    }

    /// A drive that was given up and hangs kept the drives that are well locked for as long as the ring waited for it, and
    /// with them the next target.
    #[test]
    fn drives_are_free_before_the_ring_waits_for_one_that_hangs() {
        let file = TempFile::new(1 << 20);
        let drive = Drive::open(file.path(), Access::ReadWrite).expect("opens");
        let (mut ours, theirs) = UnixStream::pair().expect("sockets");
        ours.set_nonblocking(true).expect("sets");
        let ended = std::thread::spawn(move || {
            let mut turning = turning(drive);
            // Closed when the ring has done waiting.
            turning.ring.set_front_file(theirs.as_fd()).expect("sets");
            drop(theirs);
            turning.ring.hang();
            turning.end();
        });
        let next = Drive::open_within(file.path(), Access::ReadWrite, std::time::Duration::from_secs(60));
        let waiting = ours.read(&mut [0]).expect_err("the ring is there still");
        assert_eq!(waiting.kind(), ErrorKind::WouldBlock);
        assert!(next.is_ok(), "{:?}", next.err());
        ended.join().expect("ends");
    }
}
