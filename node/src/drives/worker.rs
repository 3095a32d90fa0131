//! Operations on a drive that may never answer.
//!
//! The kernel waits for a drive without a bound, and nothing ends such a wait: not the drive's removal from its group,
//! and no signal. That begins with its opening. So each drive has a thread that opens it and waits in its caller's place,
//! and the caller gives up after `PATIENCE`. What a caller gave up may still happen, much later. Until it has, every operation on that drive fails
//! at once, whoever asks: so nothing late can land behind anything that the drive was told after it was given up.
use super::Identity;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest that a caller waits: the bound within which a volume puts out a drive that does not answer. A test that has
/// a drive hang says itself when that is over.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 3600 } else { 10 });
/// A thread only passes blocks on.
const STACK_BYTES: usize = 128 << 10;

type Job = Box<dyn FnOnce(&mut Option<File>) + Send>;
type Ticket = (Identity, u64);

/// Operations that no one waits for any more, and that have not ended.
static ABANDONED: LazyLock<Mutex<BTreeMap<Ticket, Instant>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(0);

fn abandoned() -> MutexGuard<'static, BTreeMap<Ticket, Instant>> {
    ABANDONED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long ago the oldest operation began that a drive has not answered.
fn hung_for(drive: Identity) -> Option<Duration> {
    let abandoned = abandoned();
    let of_it = abandoned.range((drive, 0)..=(drive, u64::MAX));
    of_it.map(|(_, began)| began.elapsed()).max()
}

/// How an operation stands, between the one who waits and the one who does it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    UnderWay,
    GivenUp,
    Ended,
}

/// The thread that has a drive's file.
pub(super) struct Worker {
    drive: Identity,
    /// Its end of the queue and the thread itself, until it is dropped.
    thread: Option<(Sender<Job>, JoinHandle<()>)>,
    gave_up: AtomicBool,
}

/// The file is closed when this returns: who unmounts or removes the drive next finds nobody on it. A thread that waits
/// for a drive that does not answer closes it later.
impl Drop for Worker {
    fn drop(&mut self) {
        if let Some((jobs, thread)) = self.thread.take() {
            drop(jobs);
            if !*self.gave_up.get_mut() {
                // It panics nowhere; if it did, its operation has said so.
                let _ = thread.join();
            }
        }
    }
}

impl Worker {
    /// Starts it with a drive that it opens. It ends with the value, or when the drive answers.
    ///
    /// # Errors
    /// Those of the opening; `TimedOut` if the drive does not answer, or has not answered something else; the kernel
    /// starts no thread.
    pub(super) fn start(
        drive: Identity,
        open: impl FnOnce() -> io::Result<File> + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_within(PATIENCE, drive, open)
    }

    fn start_within(
        patience: Duration,
        drive: Identity,
        open: impl FnOnce() -> io::Result<File> + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let builder = std::thread::Builder::new().name("drive".to_owned()).stack_size(STACK_BYTES);
        let thread = builder.spawn(move || {
            let mut file = None;
            queue.into_iter().for_each(|job| job(&mut file));
        })?;
        let this = Self { drive, thread: Some((jobs, thread)), gave_up: AtomicBool::new(false) };
        this.work_within(patience, move |file| {
            *file = Some(open()?);
            Ok(())
        })?;
        Ok(this)
    }

    /// Has something done with the file, and waits for it.
    ///
    /// # Errors
    /// The operation's; `TimedOut` if the drive does not answer, or has not answered another one.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.run_within(PATIENCE, work)
    }

    fn run_within<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.work_within(patience, move |file| work(file.as_ref().ok_or_else(gone)?))
    }

    fn work_within<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce(&mut Option<File>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        crate::waits::here("a drive");
        if let Some(age) = hung_for(self.drive) {
            return Err(no_answer(age));
        }
        let (ticket, began) = ((self.drive, NEXT.fetch_add(1, Ordering::Relaxed)), Instant::now());
        let stage = std::sync::Arc::new(Mutex::new(Stage::UnderWay));
        let (done, answer) = mpsc::sync_channel(1);
        let theirs = stage.clone();
        #[cfg(test)]
        let drive = self.drive;
        let job = move |file: &mut Option<File>| {
            #[cfg(test)]
            hang::wait(drive);
            let outcome = work(file);
            let mut stage = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            if *stage == Stage::GivenUp {
                abandoned().remove(&ticket);
            }
            *stage = Stage::Ended;
            // Nobody listens any more if it was given up.
            let _ = done.send(outcome);
        };
        let (jobs, _) = self.thread.as_ref().expect("it is there until it is dropped");
        jobs.send(Box::new(job)).map_err(|_| gone())?;
        match answer.recv_timeout(patience) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
                if *stage == Stage::Ended {
                    return answer.try_recv().map_err(|_| gone())?;
                }
                *stage = Stage::GivenUp;
                self.gave_up.store(true, Ordering::Relaxed);
                abandoned().insert(ticket, began);
                Err(no_answer(began.elapsed()))
            }
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that has its file has ended")
}

fn no_answer(age: Duration) -> io::Error {
    let message = format!("it does not answer, for {} s now", age.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, message)
}

/// Drives that answer nothing while a test wants it so.
#[cfg(test)]
pub(crate) mod hang {
    use super::Identity;
    use std::collections::BTreeMap;
    use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

    /// How many operations a drive still does; below none, how many wait.
    static HUNG: Mutex<BTreeMap<Identity, i64>> = Mutex::new(BTreeMap::new());
    static CHANGED: Condvar = Condvar::new();

    fn hung() -> MutexGuard<'static, BTreeMap<Identity, i64>> {
        HUNG.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A drive hangs until this goes.
    pub(crate) struct Hang(Identity);

    impl Hang {
        /// From behind so many operations on.
        pub(crate) fn behind(operations: i64, drive: Identity) -> Self {
            hung().insert(drive, operations);
            Self(drive)
        }

        /// Whether somebody waits for the drive.
        pub(crate) fn is_met(&self) -> bool {
            hung()[&self.0] < 0
        }
    }

    impl Drop for Hang {
        fn drop(&mut self) {
            hung().remove(&self.0);
            CHANGED.notify_all();
        }
    }

    pub(super) fn wait(drive: Identity) {
        let mut hung = hung();
        let Some(left) = hung.get_mut(&drive) else { return };
        *left -= 1;
        let hangs = |hung: &mut BTreeMap<Identity, i64>| hung.get(&drive).is_some_and(|left| *left < 0);
        drop(CHANGED.wait_while(hung, hangs).unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker over a file of its own.
    fn worker(number: u64) -> Worker {
        let file = tempfile::tempfile().expect("a file");
        Worker::start(Identity::File(u64::MAX, number), || Ok(file)).expect("starts")
    }

    /// A path that was dying hung whoever opened it, for as long as the kernel tried to reach it.
    #[test]
    fn a_drive_that_hangs_when_it_is_opened_is_given_up_like_any_other() {
        let (release, held) = mpsc::channel::<()>();
        let drive = Identity::File(u64::MAX, 5);
        let open = move || held.recv().map_err(io::Error::other).and_then(|()| tempfile::tempfile());
        let hung = Worker::start_within(Duration::ZERO, drive, open);
        assert_eq!(hung.err().expect("given up").kind(), io::ErrorKind::TimedOut);
        let again = Worker::start(drive, || unreachable!("it has not answered"));
        assert_eq!(again.err().expect("refused").kind(), io::ErrorKind::TimedOut);
        release.send(()).expect("it is still being opened");
        while hung_for(drive).is_some() {
            std::thread::yield_now();
        }
        let worker = Worker::start(drive, tempfile::tempfile).expect("it has answered");
        assert_eq!(worker.run(|_| Ok(7)).expect("it has answered"), 7);
    }

    #[test]
    fn a_drive_that_hangs_fails_what_is_asked_until_it_has_answered() {
        let (first, second, other) = (worker(1), worker(1), worker(2));
        let (release, held) = mpsc::channel::<()>();
        let hung = first.run_within(Duration::ZERO, move |_| held.recv().map_err(io::Error::other));
        assert_eq!(hung.expect_err("given up").kind(), io::ErrorKind::TimedOut);
        let asked = second.run(|_| Ok(()));
        assert_eq!(asked.expect_err("the same drive").kind(), io::ErrorKind::TimedOut);
        other.run(|_| Ok(())).expect("another drive answers");
        release.send(()).expect("it still waits");
        while hung_for(first.drive).is_some() {
            std::thread::yield_now();
        }
        assert_eq!(second.run(|_| Ok(7)).expect("it has answered"), 7);
    }

    #[test]
    fn the_file_is_closed_with_its_worker() {
        let (here, there) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let file = File::from(std::os::fd::OwnedFd::from(there));
        let worker = Worker::start(Identity::File(u64::MAX, 4), || Ok(file)).expect("starts");
        worker.run(|_| Ok(())).expect("it answers");
        drop(worker);
        here.set_nonblocking(true).expect("sets");
        let end = io::Read::read(&mut &here, &mut [0; 1]).expect("the other end is closed");
        assert_eq!(end, 0);
    }

    #[test]
    fn what_was_given_up_ends_without_its_worker() {
        let (release, held) = mpsc::channel::<()>();
        let given_up = worker(3);
        let drive = given_up.drive;
        let hung = given_up.run_within(Duration::ZERO, move |_| held.recv().map_err(io::Error::other));
        assert!(hung.is_err() && hung_for(drive).is_some());
        drop(given_up);
        drop(release);
        while hung_for(drive).is_some() {
            std::thread::yield_now();
        }
    }
}
