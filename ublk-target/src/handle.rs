//! Reaching a running target from other threads: commands in, figures out.
//!
//! Commands are rare, wait in a queue behind a lock and wake the loop through an eventfd; figures are atomics
//! that the loop bumps without synchronisation. Nothing here is on the I/O path.
use crate::drive::Drive;
use crate::latency::Latency;
use base::limits::MAX_DRIVES;
use base::{DriveIx, DriveOp, Duration, Phase, Reply, RowNo, Sectors};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// What other threads can ask of the loop.
pub(crate) enum Command<E> {
    Reply(Reply),
    Stop,
    Resize(Sectors),
    Engine(Box<dyn FnOnce(&mut E) + Send>),
    Drive(Box<Drive>, Box<dyn FnOnce(io::Result<DriveIx>) + Send>),
    Release(DriveIx, Box<dyn FnOnce(io::Result<Drive>) + Send>),
}

pub(crate) struct Shared<E> {
    commands: Mutex<VecDeque<Command<E>>>,
    wake: EventFd,
    figures: Figures,
}

/// A running target, from outside. Cheap to clone.
pub struct Handle<E>(Arc<Shared<E>>);

impl<E> Clone for Handle<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> Handle<E> {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Shared { commands: Mutex::default(), wake, figures: Figures::default() })))
    }

    /// Answers the engine's `WantRow` or `StoreStale`.
    pub fn reply(&self, reply: Reply) {
        self.send(Command::Reply(reply));
    }

    /// Takes no more requests, finishes those under way, seals the group and ends `run`. Can be repeated.
    pub fn stop(&self) {
        self.send(Command::Stop);
    }

    /// Tells the front end the volume's new size; the engine must have it already.
    pub fn resize(&self, sectors: Sectors) {
        self.send(Command::Resize(sectors));
    }

    /// Runs `work` on the loop's thread with the engine; the guests wait meanwhile, so it must be short.
    pub fn with_engine(&self, work: impl FnOnce(&mut E) + Send + 'static) {
        self.send(Command::Engine(Box::new(work)));
    }

    /// Gives the loop one drive more, open and locked; `done` hears its number, on the loop's thread, and must be
    /// short. The engine uses the drive once it was told of the number. A drive that the loop cannot take is closed.
    pub fn add_drive(&self, drive: Drive, done: impl FnOnce(io::Result<DriveIx>) + Send + 'static) {
        self.send(Command::Drive(Box::new(drive), Box::new(done)));
    }

    /// Takes a drive from the loop that the engine does not use any more; `done` gets it, on the loop's thread, and
    /// must be short: closing it may take long and is not for that thread. Refused while anything is in flight on it.
    /// Its number may go to the next drive that is added.
    pub fn release_drive(&self, number: DriveIx, done: impl FnOnce(io::Result<Drive>) + Send + 'static) {
        self.send(Command::Release(number, Box::new(done)));
    }

    /// Starts a thread that ends the process when the loop is caught in one turn for longer than `bound`: a
    /// process that serves nothing any more is worse than none, which is recovered from. Costs four wake-ups
    /// per bound.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn guard(&self, bound: std::time::Duration) -> io::Result<()>
    where
        E: Send + 'static,
    {
        let shared = Arc::downgrade(&self.0);
        let watch = move || {
            let mut stall = Stall::default();
            loop {
                std::thread::sleep(bound / Stall::SAMPLES);
                let Some(shared) = shared.upgrade() else { return };
                if stall.observe(shared.figures.turns.get(), shared.figures.awake.get() != 0) {
                    eprintln!(
                        "the loop has not moved for {bound:?}: ending the process, so that a new one recovers"
                    );
                    std::process::abort();
                }
            }
        };
        std::thread::Builder::new().name("watchdog".into()).spawn(watch)?;
        Ok(())
    }

    /// The target's figures.
    pub fn figures(&self) -> &Figures {
        &self.0.figures
    }

    pub(crate) fn take(&self) -> Option<Command<E>> {
        self.0.commands.lock().expect("no panic while held").pop_front()
    }

    pub(crate) fn eventfd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }

    fn send(&self, command: Command<E>) {
        self.0.commands.lock().expect("no panic while held").push_back(command);
        // The counter cannot overflow: the loop reads it, and a write that would block means it is awake.
        let _ = self.0.wake.write(1);
    }
}

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters since the start; read with `get`.
        #[derive(Default)]
        pub struct Figures {
            $($(#[$doc])* pub $name: Count,)*
            /// How long the guest waited, by kind of request: reads, writes, flushes, discards and write-zeroes.
            pub latency: [Latency; 4],
            /// By the loop's number of a drive.
            pub drives: [DriveFigures; MAX_DRIVES],
            phase: AtomicU8,
        }
    };
}

figures! {
    /// Reads of the guest.
    reads,
    /// Writes of the guest.
    writes,
    /// Flushes of the guest.
    flushes,
    /// Discards and write-zeroes of the guest.
    discards,
    /// Sectors read by the guest.
    sectors_read,
    /// Sectors written by the guest.
    sectors_written,
    /// Requests answered with a fault.
    failed_requests,
    /// Requests now in the engine.
    requests_in_flight,
    /// Requests that were older than the bound when looked at; each counts once.
    stuck_requests,
    /// Drives that the engine gave up and on which the kernel still has operations.
    hanging_drives,
    /// Clients that are connected to the front end, if it sees them.
    clients,
    /// Turns of the loop.
    turns,
    /// 1 while the loop works, 0 while it sleeps in the kernel.
    awake,
}

/// What happened on one drive.
#[derive(Default)]
pub struct DriveFigures {
    /// Reads that succeeded.
    pub reads: Count,
    /// Writes that succeeded.
    pub writes: Count,
    /// Bytes read.
    pub bytes_read: Count,
    /// Bytes written.
    pub bytes_written: Count,
    /// Flushes that succeeded.
    pub flushes: Count,
    /// Reads that failed.
    pub read_errors: Count,
    /// Writes and flushes that failed.
    pub write_errors: Count,
    /// Operations that took longer than the bound.
    pub slow_events: Count,
    /// How long operations took, also those that failed: reads, writes, flushes.
    pub latency: [Latency; 3],
}

impl DriveFigures {
    /// Another drive has the number from now on.
    pub(crate) fn forget(&self) {
        let Self {
            reads,
            writes,
            bytes_read,
            bytes_written,
            flushes,
            read_errors,
            write_errors,
            slow_events,
            latency,
        } = self;
        let all = [reads, writes, bytes_read, bytes_written, flushes, read_errors, write_errors, slow_events];
        all.into_iter().for_each(|count| count.set(0));
        latency.iter().for_each(Latency::forget);
    }
}

/// A counter that one thread bumps and any reads.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
    pub(crate) fn add(&self, n: u64) {
        // One writer only, so no atomic read-modify-write is needed.
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

impl Figures {
    /// Where the engine stood when it was last looked at.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Recovering,
            1 => Phase::Serving,
            2 => Phase::ReadOnly,
            3 => Phase::Closing,
            4 => Phase::Closed,
            _ => Phase::Refused,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }
}

const _: () = assert!(Phase::Recovering as u8 == 0 && Phase::Serving as u8 == 1);
const _: () = assert!(Phase::ReadOnly as u8 == 2 && Phase::Closing as u8 == 3 && Phase::Closed as u8 == 4);

/// Tells a loop that is caught in a turn from one that sleeps or moves.
#[derive(Default)]
struct Stall {
    turns: u64,
    same: u32,
}

impl Stall {
    /// So many samples in a row make a stall.
    const SAMPLES: u32 = 4;

    /// Takes a sample; true once the loop was awake in the same turn for `SAMPLES` of them.
    fn observe(&mut self, turns: u64, awake: bool) -> bool {
        self.same = if awake && turns == self.turns { self.same + 1 } else { 0 };
        self.turns = turns;
        self.same >= Self::SAMPLES
    }
}

/// What the loop tells its owner, on the loop's thread: rare events only, and the answer must not block. What
/// takes time (the catalogue) happens elsewhere and comes back through `Handle::reply`.
pub trait Control<E> {
    /// The engine's phase changed (also called once at the start).
    fn phase(&mut self, phase: Phase, engine: &E);
    /// The engine wants extents for this row.
    fn want_row(&mut self, row: RowNo);
    /// The catalogue must know that these drives are stale (bit `n` = drive `n` of the engine's table).
    fn store_stale(&mut self, drives: u32, version: u64, engine: &E);
    /// The catalogue must know that this drive of the engine's table is current again.
    fn store_current(&mut self, drive: DriveIx, version: u64, engine: &E);
    /// Something is slow, or a drive was reset.
    fn notice(&mut self, notice: Notice);
}

/// Something that takes longer than it should, or was not asked for. Of what is slow nothing is done but to say so (and,
/// past the deadline, to ask the kernel to cancel): only the kernel can end an operation that it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// An operation of a drive.
    Drive {
        /// The drive, by the loop's number.
        drive: DriveIx,
        /// What it does.
        op: DriveOp,
        /// For how long by now.
        age: Duration,
        /// Whether its deadline passed and a cancellation was sent.
        expired: bool,
    },
    /// A drive was reset with writes in its cache: its next flush fails.
    Reset {
        /// The drive, by the loop's number.
        drive: DriveIx,
    },
    /// A request of the guest in this slot.
    Request {
        /// The slot.
        slot: base::SlotId,
        /// For how long by now.
        age: Duration,
    },
}

/// Ignores everything but counts on an engine that asks for nothing.
pub struct NoControl;

impl<E> Control<E> for NoControl {
    fn phase(&mut self, _phase: Phase, _engine: &E) {}
    fn want_row(&mut self, row: RowNo) {
        panic!("nobody can answer a wish for {row:?}")
    }
    fn store_stale(&mut self, _drives: u32, version: u64, _engine: &E) {
        panic!("nobody can store stale marks of version {version}")
    }
    fn store_current(&mut self, drive: DriveIx, _version: u64, _engine: &E) {
        panic!("nobody can store that {drive:?} is current")
    }
    fn notice(&mut self, _notice: Notice) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loop_caught_in_one_turn_is_stalled() {
        let mut stall = Stall::default();
        assert!((0..100).all(|turn| !stall.observe(turn, true)), "busy, but moving");
        assert!((0..100).all(|_| !stall.observe(100, false)), "asleep");
        let caught: Vec<bool> = (0..6).map(|_| stall.observe(100, true)).collect();
        assert_eq!(caught, [false, false, false, true, true, true]);
        assert!(!stall.observe(101, true), "it moves again");
    }
}
