//! The life of a ublk device, seen from the control side.
//!
//! A device outlives its server: when the target dies, `/dev/ublkbN` stays and requests wait (user recovery with
//! re-issue). So the first question of every start is whether the volume's device is there already; `owner`, a
//! number that the driver keeps for us with the device, tells. The cases:
//!
//! | found | state | what happens |
//! |---|---|---|
//! | nothing | | made new, started |
//! | ours | dead | killed between making and starting, or while being removed: removed, made new |
//! | ours | quiesced | recovery: the kernel hands the queue to us and issues again what was not committed |
//! | ours | live | the former server's ring still ends: recovery is tried until it has |
//!
//! A server that is to be replaced by another one has the driver keep new requests back first (`quiesce`), where the
//! driver can; the device is quiesced as after a death, and the next server recovers it the same way.
//!
//! Order at the end: the device is stopped only if nobody has it open, then the loop ends (all that the driver
//! waits for is served until then), then its queue is closed, then it is deleted: deleting waits for the last
//! user of `/dev/ublkcN`, and would wait for ourselves.
use super::abi::{Command, DeviceInfo, Params, State, feature};
use super::control::{Control, UblkError};
use super::in_use;
use super::queue::{MAX_SECTORS, UblkQueue};
use crate::front::VolumeInfo;
use base::limits::{MAX_REQUEST_BLOCKS, MAX_SLOTS};
use base::{BLOCK_BYTES, Sectors};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Requests of a device at once: every slot.
const DEPTH: u16 = MAX_SLOTS as u16;
/// How long a former server's ring may take to end: its last operation on a drive may have to time out.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
const RECOVERY_PAUSE: Duration = Duration::from_millis(20);
/// How long the node `/dev/ublkcN` may take to appear and to be let go of by udev.
const NODE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a device may take to hand no more requests out; then its server goes without.
const QUIESCE_PATIENCE: Duration = Duration::from_millis(300);
/// Stopping waits for every request under way.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const REQUIRED: u64 = feature::USER_RECOVERY | feature::RECOVERY_REISSUE | feature::IOCTL_ENCODE;

/// The control side of a volume's device.
pub struct UblkDevice {
    control: Control,
    id: u32,
    volume: VolumeInfo,
    recovering: bool,
    /// It can be told to hand no more requests out.
    quiesces: bool,
}

/// A device that exists, whoever made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Existing {
    /// N of `/dev/ublkbN`.
    pub id: u32,
    /// Its state.
    pub state: State,
    /// What its maker noted with it.
    pub owner: u64,
    /// Its server's process, as far as it was started.
    pub server_pid: i32,
}

impl UblkDevice {
    /// Makes a device for the volume, or takes over the one that a former run left. The queue is to be given to
    /// a target, whose loop must run before `start` is called (on another thread).
    ///
    /// `owner` identifies the volume among all devices of this machine.
    ///
    /// # Errors
    /// See `UblkError`.
    pub fn prepare(owner: u64, volume: &VolumeInfo) -> Result<(Self, UblkQueue), UblkError> {
        assert!(owner != 0, "0 is what other servers leave there");
        let control = Control::open()?;
        let features = control.features();
        if features & REQUIRED != REQUIRED {
            return Err(UblkError::TooOld { missing: "user recovery with re-issue", features });
        }
        let found = existing(&control)?.into_iter().find(|info| info.owner == owner);
        let (info, recovering) = match found {
            Some(info) if info.state == State::Dead => {
                delete(&control, info.id)?;
                (add(&control, owner, volume)?, false)
            }
            Some(info) => (take_over(&control, &info)?, true),
            None => (add(&control, owner, volume)?, false),
        };
        let queue = open_queue(&info);
        if queue.is_err() && !recovering {
            let _ = delete(&control, info.id);
        }
        let quiesces = info.flags & control.features() & feature::QUIESCE != 0;
        let device = Self { control, id: info.id, volume: volume.clone(), recovering, quiesces };
        Ok((device, queue?))
    }

    /// The path of the block device.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/ublkb{}", self.id))
    }

    /// N of `/dev/ublkbN`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether a device of a former run was taken over.
    pub fn recovering(&self) -> bool {
        self.recovering
    }

    /// Lets requests in. The loop must be running: the driver waits until it has fetched every tag. A device that was taken
    /// over has the size that it had: see `follow_size`.
    ///
    /// # Errors
    /// See `UblkError`.
    pub fn start(&self) -> Result<(), UblkError> {
        let pid = u64::from(std::process::id());
        let command = if self.recovering { Command::EndRecovery } else { Command::Start };
        self.control.call(command, self.id, Vec::new(), pid).map(drop)
    }

    /// Gives a device that was taken over, and is started, the size of the volume, if it has another one. Whatever comes of
    /// it, it serves.
    ///
    /// # Errors
    /// As `resize`.
    pub fn follow_size(&self) -> Result<(), UblkError> {
        self.resize(self.volume.sectors)
    }

    /// Whether `resize` can be asked for this size: that which the device has it can have anywhere.
    ///
    /// # Errors
    /// `NotSupported` before Linux 6.16.
    pub fn check_resizes(&self, sectors: Sectors) -> Result<(), UblkError> {
        if self.served_sectors()? == sectors.get() { Ok(()) } else { check_update_size(&self.control) }
    }

    /// Tells the driver the volume's new size, if it is another one. The engine must serve it already.
    ///
    /// # Errors
    /// `NotSupported` before Linux 6.16.
    pub fn resize(&self, sectors: Sectors) -> Result<(), UblkError> {
        if self.served_sectors()? == sectors.get() {
            return Ok(());
        }
        check_update_size(&self.control)?;
        self.control.call(Command::UpdateSize, self.id, Vec::new(), sectors.get())?;
        Ok(())
    }

    /// Has the driver keep new requests to itself, before this server ends and another one takes over: then none is
    /// fetched only to be issued again. The loop must be running. The server may end whatever comes of it.
    ///
    /// # Errors
    /// `NotSupported` before Linux 6.16, and for a device that was made by a server that did not ask for it; `Refused`
    /// when every tag is under way and none ends in 0.3 s.
    pub fn quiesce(&self) -> Result<(), UblkError> {
        if !self.quiesces {
            let what = "keeping requests of a ublk device back";
            return Err(UblkError::NotSupported { what, since: "Linux 6.16" });
        }
        let patience = QUIESCE_PATIENCE.as_millis() as u64;
        self.control.call(Command::Quiesce, self.id, Vec::new(), patience).map(drop)
    }

    /// Takes the block device away, if nobody uses it. The loop must be running, and go on until this returns:
    /// the driver waits for requests under way. Then end the loop, drop the queue and call `delete`.
    ///
    /// # Errors
    /// `InUse`, with nothing changed.
    pub fn stop(&self) -> Result<(), UblkError> {
        stop_unused(&self.control, self.id)
    }

    /// Removes the stopped device. The queue must have been dropped.
    ///
    /// # Errors
    /// See `UblkError`.
    pub fn delete(&self) -> Result<(), UblkError> {
        delete(&self.control, self.id)
    }

    fn served_sectors(&self) -> Result<u64, UblkError> {
        let mut buffer = vec![0; Params::BYTES];
        buffer[..4].copy_from_slice(&(Params::BYTES as u32).to_ne_bytes());
        let (_, answer) = self.control.call(Command::GetParams, self.id, buffer, 0)?;
        Params::decode_sectors(&answer).ok_or_else(|| UblkError::Mismatch {
            id: self.id,
            why: "the driver does not tell its size".into(),
        })
    }
}

/// Whether this kernel can give a device that is served another size.
///
/// # Errors
/// `NotSupported` before Linux 6.16; otherwise see `UblkError`.
pub fn check_resizes() -> Result<(), UblkError> {
    check_update_size(&Control::open()?)
}

fn check_update_size(control: &Control) -> Result<(), UblkError> {
    if control.features() & feature::UPDATE_SIZE == 0 {
        let what = "resizing an attached ublk device";
        return Err(UblkError::NotSupported { what, since: "Linux 6.16" });
    }
    Ok(())
}

/// All ublk devices of this machine.
///
/// # Errors
/// See `UblkError`.
pub fn list() -> Result<Vec<Existing>, UblkError> {
    let show = |info: DeviceInfo| {
        let DeviceInfo { id, state, owner, server_pid, .. } = info;
        Existing { id, state, owner, server_pid }
    };
    Ok(existing(&Control::open()?)?.into_iter().map(show).collect())
}

/// Removes a device that nobody serves any more and nobody uses: of a volume that is gone, for instance.
///
/// # Errors
/// `InUse`, with nothing changed, also when a server is alive.
pub fn remove_stale(id: u32) -> Result<(), UblkError> {
    let control = Control::open()?;
    let Some(info) = info(&control, id)? else { return Ok(()) };
    if info.state == State::Live {
        return Err(UblkError::InUse { id, by: format!("served by process {}", info.server_pid) });
    }
    if info.state != State::Dead {
        stop_unused(&control, id)?;
    }
    delete(&control, id)
}

/// Gives a device up whose server will not come back: what waits on it fails, file systems on it break. For an
/// operator's explicit word only.
///
/// # Errors
/// See `UblkError`; `InUse` when it is served.
pub fn give_up(id: u32) -> Result<(), UblkError> {
    let control = Control::open()?;
    let Some(info) = info(&control, id)? else { return Ok(()) };
    if info.state == State::Live {
        return Err(UblkError::InUse { id, by: format!("served by process {}", info.server_pid) });
    }
    control.call_within(STOP_PATIENCE, Command::Stop, id, Vec::new(), 0)?;
    delete(&control, id)
}

fn stop_unused(control: &Control, id: u32) -> Result<(), UblkError> {
    if control.features() & feature::SAFE_STOP != 0 {
        let outcome = control.call_within(STOP_PATIENCE, Command::TryStop, id, Vec::new(), 0);
        return match outcome {
            Err(error) if error.errno() == Some(libc::EBUSY) => {
                Err(UblkError::InUse { id, by: in_use::describe(id) })
            }
            // Stopped already.
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
            other => other.map(|_| ()),
        };
    }
    // The claim is kept while the device is stopped, so that no mount comes in between.
    let _claim = in_use::claim(id)?;
    control.call_within(STOP_PATIENCE, Command::Stop, id, Vec::new(), 0)?;
    Ok(())
}

fn delete(control: &Control, id: u32) -> Result<(), UblkError> {
    match control.call(Command::Delete, id, Vec::new(), 0) {
        // Gone already.
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::EINVAL)) => Ok(()),
        other => other.map(|_| ()),
    }
}

fn add(control: &Control, owner: u64, volume: &VolumeInfo) -> Result<DeviceInfo, UblkError> {
    let wanted = DeviceInfo {
        queues: 1,
        depth: DEPTH,
        state: State::Dead,
        max_io_bytes: MAX_REQUEST_BLOCKS * BLOCK_BYTES as u32,
        id: u32::MAX,
        server_pid: -1,
        flags: REQUIRED | (control.features() & (feature::NO_PARTITION_SCAN | feature::QUIESCE)),
        owner,
    };
    let (_, answer) = control.call(Command::Add, u32::MAX, wanted.encode(), 0)?;
    let Some(made) = DeviceInfo::decode(&answer) else {
        let id = DeviceInfo::id_of(&answer).expect("as long as what was sent");
        let _ = delete(control, id);
        let why = "the driver made it in a state that this version does not know".to_owned();
        return Err(UblkError::Mismatch { id, why });
    };
    let longest = u32::try_from(volume.max_discard.get()).unwrap_or(u32::MAX) & !7;
    let params = Params {
        sectors: volume.sectors.get(),
        read_only: volume.read_only,
        io_opt_bytes: volume.stripe_bytes,
        max_sectors: MAX_SECTORS,
        max_discard_sectors: longest,
    };
    let set = control.call(Command::SetParams, made.id, params.encode(), 0);
    if (made.depth, made.queues) != (DEPTH, 1) || made.flags & REQUIRED != REQUIRED || set.is_err() {
        let _ = delete(control, made.id);
        set?;
        return Err(UblkError::Mismatch { id: made.id, why: format!("the driver made {made:?}") });
    }
    Ok(made)
}

/// Why a device of a former run cannot be taken over; `None` if it can.
pub(crate) fn unfit(found: &DeviceInfo) -> Option<String> {
    if found.state == State::FailIo || found.flags & REQUIRED != REQUIRED {
        return Some("it was not made for recovery with re-issue".into());
    }
    let fits = found.queues == 1
        && (1..=DEPTH).contains(&found.depth)
        && found.max_io_bytes <= MAX_REQUEST_BLOCKS * BLOCK_BYTES as u32;
    (!fits).then(|| format!("it has {} queues of {} requests", found.queues, found.depth))
}

/// Tells the driver that a new server comes, as soon as it lets go of the old one.
fn take_over(control: &Control, found: &DeviceInfo) -> Result<DeviceInfo, UblkError> {
    if let Some(why) = unfit(found) {
        return Err(UblkError::Mismatch { id: found.id, why });
    }
    let start = Instant::now();
    loop {
        match control.call(Command::StartRecovery, found.id, Vec::new(), 0) {
            Ok(_) => return Ok(*found),
            Err(error) if error.errno() == Some(libc::EBUSY) && start.elapsed() < RECOVERY_PATIENCE => {
                std::thread::sleep(RECOVERY_PAUSE);
            }
            Err(error) if error.errno() == Some(libc::EBUSY) => {
                return Err(UblkError::InUse {
                    id: found.id,
                    by: format!("still served by process {}, or its drives do not answer", found.server_pid),
                });
            }
            Err(error) => return Err(error),
        }
    }
}

fn open_queue(info: &DeviceInfo) -> Result<UblkQueue, UblkError> {
    let path = format!("/dev/ublkc{}", info.id);
    let failed = |doing: &str, source| UblkError::Io { doing: format!("{doing} {path}"), source };
    let file = open_patiently(&path).map_err(|e| failed("open", e))?;
    UblkQueue::new(file, info.depth).map_err(|e| failed("map the queue of", e))
}

/// The node appears a moment after the device is made, and udev may hold it for a moment.
fn open_patiently(path: &str) -> io::Result<File> {
    let start = Instant::now();
    loop {
        let outcome = OpenOptions::new().read(true).write(true).open(path);
        let passing =
            |e: &io::Error| matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EBUSY | libc::ENXIO));
        match outcome {
            Err(error) if passing(&error) && start.elapsed() < NODE_PATIENCE => {
                std::thread::sleep(RECOVERY_PAUSE);
            }
            other => return other,
        }
    }
}

fn existing(control: &Control) -> Result<Vec<DeviceInfo>, UblkError> {
    let folder = "/sys/class/ublk-char";
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(UblkError::Io { doing: format!("list {folder}"), source }),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|n| n.strip_prefix("ublkc")).and_then(|n| n.parse().ok())
        else {
            continue;
        };
        found.extend(info(control, id)?);
    }
    Ok(found)
}

/// What the driver says of a device; `None` if there is none of this number.
fn info(control: &Control, id: u32) -> Result<Option<DeviceInfo>, UblkError> {
    match control.call(Command::GetInfo, id, vec![0; DeviceInfo::BYTES], 0) {
        Ok((_, answer)) => Ok(DeviceInfo::decode(&answer)),
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue of no requests would have no table to be mapped.
    #[test]
    fn a_device_of_another_shape_is_not_taken_over() {
        let fit = DeviceInfo {
            queues: 1,
            depth: DEPTH,
            state: State::Quiesced,
            max_io_bytes: MAX_REQUEST_BLOCKS * BLOCK_BYTES as u32,
            id: 3,
            server_pid: -1,
            flags: REQUIRED,
            owner: 9,
        };
        assert_eq!(unfit(&fit), None);
        for depth in [0, DEPTH + 1] {
            assert!(unfit(&DeviceInfo { depth, ..fit }).is_some(), "{depth} requests");
        }
        assert!(unfit(&DeviceInfo { queues: 2, ..fit }).is_some());
        assert!(unfit(&DeviceInfo { state: State::FailIo, ..fit }).is_some());
        assert!(unfit(&DeviceInfo { flags: 0, ..fit }).is_some());
        assert!(unfit(&DeviceInfo { max_io_bytes: u32::MAX, ..fit }).is_some());
    }

    #[test]
    fn without_the_driver_the_way_out_is_named() {
        // Where there is a driver, the scenarios of the virtual machines take it from here.
        if !std::path::Path::new("/dev/ublk-control").exists() {
            let error = list().expect_err("no driver");
            assert!(matches!(error, UblkError::NoDriver));
            assert!(error.to_string().contains("modprobe ublk_drv") && error.to_string().contains("--nbd"));
        }
    }
}
