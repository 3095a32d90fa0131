//! Control commands of the ublk driver, on a thread of their own and with a deadline.
//!
//! Why: the driver runs them to their end, and some wait for others (START for the queue's thread, STOP for all
//! requests); some kernels never finish one (an oops in ADD_DEV on 6.18.4 and its like). On the loop's thread
//! such a command would stop the very queue that it waits for. So a thread owns the control ring and the
//! buffers; the caller waits for the answer for a while, and then goes on without it. A thread that is stuck
//! stays stuck; every later command reports the same.
use super::abi::{self, Command};
use super::sys::{ControlRing, set_io_flusher};
use std::fs::OpenOptions;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

const CONTROL: &str = "/dev/ublk-control";
/// What an ordinary command may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why ublk does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum UblkError {
    /// The driver is not there.
    #[error(
        "this kernel has no ublk driver ({CONTROL} is missing); load it with `modprobe ublk_drv`, or attach over NBD with --nbd PATH"
    )]
    NoDriver,
    /// The caller may not.
    #[error("no permission for {CONTROL}; ublk devices need root, NBD (--nbd PATH) does not")]
    Permission,
    /// The driver is too old.
    #[error(
        "the ublk driver of this kernel lacks {missing} (it offers {features:#x}); Linux 6.12 or newer is needed, or attach over NBD with --nbd PATH"
    )]
    TooOld {
        /// What is missing.
        missing: &'static str,
        /// The feature bits it offers.
        features: u64,
    },
    /// This kernel cannot do that.
    #[error("{what} needs a newer kernel ({since})")]
    NotSupported {
        /// What was asked.
        what: &'static str,
        /// Since when it can be done.
        since: &'static str,
    },
    /// Somebody uses the device.
    #[error("/dev/ublkb{id} is in use ({by}); unmount or close it first")]
    InUse {
        /// The device's number.
        id: u32,
        /// Who, as far as it is known.
        by: String,
    },
    /// The kernel does not answer.
    #[error(
        "the kernel did not answer {command} for ublk device {id} within {seconds} s; look for an oops or hung task in its log"
    )]
    Timeout {
        /// The command.
        command: &'static str,
        /// The device's number.
        id: u32,
        /// How long was waited.
        seconds: u64,
    },
    /// The driver refuses a command.
    #[error("the ublk driver refused {command} for device {id}: {source}")]
    Refused {
        /// The command.
        command: &'static str,
        /// The device's number.
        id: u32,
        /// Its answer.
        source: io::Error,
    },
    /// The device of a former run does not fit.
    #[error("/dev/ublkb{id} of a former run cannot be taken over: {why}")]
    Mismatch {
        /// The device's number.
        id: u32,
        /// What does not fit.
        why: String,
    },
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
}

struct Call {
    command: Command,
    device: u32,
    buffer: Vec<u8>,
    data: u64,
    answer: Sender<io::Result<(i32, Vec<u8>)>>,
}

/// The way to the control thread; cheap to clone.
#[derive(Clone)]
pub(crate) struct Control {
    calls: Sender<Call>,
    features: u64,
}

impl Control {
    /// Opens the driver's control device and asks what it can do.
    pub(crate) fn open() -> Result<Self, UblkError> {
        let file = OpenOptions::new().read(true).write(true).open(CONTROL).map_err(|source| match source
            .raw_os_error()
        {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => UblkError::NoDriver,
            Some(libc::EACCES | libc::EPERM) => UblkError::Permission,
            _ => UblkError::Io { doing: format!("open {CONTROL}"), source },
        })?;
        let failed = |source| UblkError::Io { doing: "set up io_uring for control commands".into(), source };
        let ring = ControlRing::new(file).map_err(failed)?;
        let (calls, incoming) = mpsc::channel();
        let thread = std::thread::Builder::new().name("ublk-control".into());
        thread.spawn(move || serve(ring, &incoming)).map_err(failed)?;
        let mut control = Self { calls, features: 0 };
        let (_, answer) = control.call(Command::GetFeatures, u32::MAX, vec![0; 8], 0)?;
        control.features = abi::u64_at(&answer, 0).expect("eight bytes were sent");
        Ok(control)
    }

    /// The driver's feature bits.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    /// A command with the usual deadline.
    pub(crate) fn call(
        &self,
        command: Command,
        device: u32,
        buffer: Vec<u8>,
        data: u64,
    ) -> Result<(i32, Vec<u8>), UblkError> {
        self.call_within(DEADLINE, command, device, buffer, data)
    }

    /// A command with a deadline; the driver's refusal is an error.
    pub(crate) fn call_within(
        &self,
        deadline: Duration,
        command: Command,
        device: u32,
        buffer: Vec<u8>,
        data: u64,
    ) -> Result<(i32, Vec<u8>), UblkError> {
        let name = name(command);
        let (answer, result) = mpsc::channel();
        let lost = || UblkError::Timeout { command: name, id: device, seconds: deadline.as_secs() };
        self.calls.send(Call { command, device, buffer, data, answer }).map_err(|_| lost())?;
        match result.recv_timeout(deadline) {
            Ok(Ok((code, buffer))) if code >= 0 => Ok((code, buffer)),
            Ok(Ok((code, _))) => {
                let source = io::Error::from_raw_os_error(-code);
                Err(UblkError::Refused { command: name, id: device, source })
            }
            Ok(Err(source)) => Err(UblkError::Refused { command: name, id: device, source }),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(lost()),
        }
    }
}

impl UblkError {
    /// The driver's error number, if it refused a command.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// The control thread: one command after the other, until nobody can ask any more.
fn serve(mut ring: ControlRing, incoming: &Receiver<Call>) {
    // Inherited from a hardened process already; without the privilege there is nothing to be done here.
    let _ = set_io_flusher();
    while let Ok(mut call) = incoming.recv() {
        let outcome = ring.call(call.command as u32, call.device, &mut call.buffer, call.data);
        // Nobody waits any more if the deadline has passed.
        let _ = call.answer.send(outcome.map(|code| (code, call.buffer)));
    }
}

fn name(command: Command) -> &'static str {
    match command {
        Command::GetInfo => "GET_DEV_INFO",
        Command::Add => "ADD_DEV",
        Command::Delete => "DEL_DEV",
        Command::Start => "START_DEV",
        Command::Stop => "STOP_DEV",
        Command::SetParams => "SET_PARAMS",
        Command::GetParams => "GET_PARAMS",
        Command::StartRecovery => "START_USER_RECOVERY",
        Command::EndRecovery => "END_USER_RECOVERY",
        Command::GetFeatures => "GET_FEATURES",
        Command::UpdateSize => "UPDATE_SIZE",
        Command::Quiesce => "QUIESCE_DEV",
        Command::TryStop => "TRY_STOP_DEV",
    }
}
