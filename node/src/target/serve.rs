//! Serving a group: the engine over its drives, behind a ublk device or an NBD socket.
//!
//! Order of a start: the group's lock, the control socket, the drives with their locks, the front end, recovery on
//! the loop's thread; and only when the engine serves does a ublk device open to the world. Order of an end: the
//! device goes (refused while in use), the loop closes the group, the process ends. Killed in between, the next
//! target finds device and drives and goes on.
use super::control::{Control, Ending, Note, Notes, Serving};
use super::drives::{OpenDrive, OpenDrives, grant};
use super::locked::Wanted;
use super::open::{Opened, open_group};
use crate::catalogue::CopyState;
use crate::device::{owner, ublk_error};
use crate::error::{Error, Kind, Result};
use crate::figures;
use crate::moves::{Holds, MoveOrder, TargetMove};
use crate::protocol::{TargetDriveStatus, TargetPhase, TargetRekey, TargetStatus};
use crate::scrub::{Order, Seen, TargetScrub};
use crate::target_spec::{FrontEndSpec, Row, TargetDrive, TargetSpec};
use base::{DriveIx, Engine as _, Phase, Reply, RowNo, SECTOR_BYTES, Sectors};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use ublk_target::ublk::{UblkDevice, UblkQueue, harden_process, lock_memory};
use ublk_target::{Drive, Handle, NbdServer, Notice, Target, TargetError, Workspace};
use volume::{CopyHealth, DriveView, Halt, Stats};

mod device;
mod look;
mod moves;
mod rekey;
mod returns;
mod scrub;

use device::Device;
use look::LOOK_DEADLINE;
use returns::Progress;
use scrub::Keeper;

/// The engine as the loop runs it.
pub(super) type Engine = super::open::Served;
/// How often the engine is asked for the volume's size before it is open to anybody.
const OPEN_LOOKS: u32 = 15;
/// How long a drive that joins the group is tried while another process has it.
const JOIN_PATIENCE: Duration = Duration::from_secs(2);
/// How long a detach waits for clients of NBD to go: one that has just closed its connection is not in the way.
const CLIENTS_DEADLINE: Duration = Duration::from_secs(1);
/// Pause between two looks at the number of clients.
const CLIENTS_PAUSE: Duration = Duration::from_millis(5);

/// No core of this process, and nobody looks into it. An agent without CAP_SYS_PTRACE could not look which file this
/// process runs any more, which it asks before an upgrade; ours has what we have, so without it we stay open to our user.
fn close_to_others() -> std::io::Result<()> {
    const CAP_SYS_PTRACE: u32 = 19;
    if may(CAP_SYS_PTRACE)? {
        ublk_target::secrets::harden_process()
    } else {
        ublk_target::secrets::forbid_cores()
    }
}

/// The engine's copy of the keys, and what its cipher makes of them, lie in ordinary memory: all of it is locked. Where
/// there is a limit on that, later memory would not be had; then nothing is.
fn lock_keys() -> std::io::Result<()> {
    const CAP_IPC_LOCK: u32 = 14;
    match may(CAP_IPC_LOCK)? {
        true => lock_memory(),
        false => Err(std::io::Error::other("run it with CAP_IPC_LOCK, or without swap")),
    }
}

/// Whether this process has a capability.
fn may(capability: u32) -> std::io::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    Ok(mask >> capability & 1 == 1)
}

/// Serves a group until it is closed or cannot go on.
///
/// # Errors
/// Why it does not open, or cannot go on.
pub fn run(spec: TargetSpec) -> Result<()> {
    let process = Process::prepare(&spec);
    serve(spec, process, None)
}

/// What a process is before it touches its group.
pub(super) struct Process {
    /// What it could not be protected against.
    unhardened: Vec<String>,
}

impl Process {
    /// Makes this process one that may serve a group. Before the first thread: what it sets is inherited.
    pub(super) fn prepare(spec: &TargetSpec) -> Self {
        end_on_panic();
        let mut unhardened: Vec<String> = match spec.front_end {
            FrontEndSpec::Ublk { .. } => harden_process().iter().map(ToString::to_string).collect(),
            FrontEndSpec::Nbd { .. } if spec.encrypted => lock_keys()
                .err()
                .map(|error| format!("cannot keep the volume's keys out of swap: {error}"))
                .into_iter()
                .collect(),
            FrontEndSpec::Nbd { .. } => Vec::new(),
        };
        if let Err(error) = close_to_others() {
            unhardened.push(format!("cannot close this process to debuggers and cores: {error}"));
        }
        // A session of its own, so that nothing that ends the agent's terminal ends it. A leader has one already.
        let _ = nix::unistd::setsid();
        Self { unhardened }
    }
}

/// Serves a group in this process, in this memory if it fits.
pub(super) fn serve(spec: TargetSpec, process: Process, workspace: Option<Workspace>) -> Result<()> {
    // As early as that: whatever is wrong with it is said before anything is touched.
    let secret = match spec.encrypted {
        true => Some(super::secret::from_stdin(&spec.group_name)?),
        false => None,
    };
    let control = Control::listen(spec.clone())?;
    let notes = control.notes();
    for message in process.unhardened {
        let _ = notes.send(warning("not_hardened", message));
    }
    let Opened { target, volume, absent, open } = open_group(&spec, secret)?;
    for message in absent {
        let _ = notes.send(warning("drive_missing", message));
    }
    let target = target.with_workspace(workspace);
    let handle = target.handle();
    let front = Front::prepare(&spec, &volume)?;
    let (device, stays) = (front.device.clone(), front.stays.clone());
    let glue = Arc::new(Glue {
        spec,
        handle,
        device,
        stays,
        notes: notes.clone(),
        open: open.clone(),
        progress: Mutex::default(),
        scrub: Mutex::default(),
    });
    let looped = std::thread::Builder::new().name("loop".into());
    let looped = looped.spawn({
        let notes = notes.clone();
        move || front.serve(target, Watcher { notes, open, reset: Vec::new(), opened: false })
    });
    looped.map_err(|source| Error::general(Kind::Failed, format!("cannot start a thread: {source}")))?;
    drop(notes);
    match control.run(glue) {
        Ending::Closed => Ok(()),
        Ending::Failed(error) => Err(error),
    }
}

/// A failed assertion on any thread ends the process: the next target recovers, a half-dead one would not.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}

fn warning(kind: &str, message: String) -> Note {
    Note::Event { severity: crate::catalogue::Severity::Warning, kind: kind.to_owned(), message }
}

/// A group that takes no writes any more is closed all the same, also if it was the close that failed.
fn unflushed(halt: &Halt) -> Note {
    let message = format!(
        "the volume was closed, but what was written since its last flush may be lost: {halt}; check it when it is \
         attached again"
    );
    Note::Event { severity: crate::catalogue::Severity::Error, kind: "closed_unflushed".to_owned(), message }
}

/// The front end, before its loop runs.
struct Front {
    queue: Option<UblkQueue>,
    nbd: Option<NbdServer>,
    device: Option<Arc<dyn Device>>,
    /// The device is for the next target.
    stays: Arc<AtomicBool>,
}

impl Front {
    fn prepare(spec: &TargetSpec, volume: &ublk_target::VolumeInfo) -> Result<Self> {
        match &spec.front_end {
            FrontEndSpec::Nbd { socket } => {
                let server =
                    NbdServer::bind(socket).map_err(|source| Error::io("listen on", socket, &source))?;
                Ok(Self { queue: None, nbd: Some(server), device: None, stays: Arc::default() })
            }
            FrontEndSpec::Ublk { .. } => {
                let (device, queue) =
                    UblkDevice::prepare(owner(&spec.volume.id)?, volume).map_err(ublk_error)?;
                let device: Option<Arc<dyn Device>> = Some(Arc::new(device));
                Ok(Self { queue: Some(queue), nbd: None, device, stays: Arc::default() })
            }
        }
    }

    /// The loop's thread: serves, then says how it ended.
    fn serve(self, target: Target<Engine>, mut watcher: Watcher) {
        let Self { queue, nbd, device, stays } = self;
        let outcome = match (queue, nbd) {
            (Some(mut queue), _) => target.run(&mut queue, &mut watcher),
            (None, Some(mut nbd)) => target.run(&mut nbd, &mut watcher),
            (None, None) => unreachable!("one of the two was prepared"),
        };
        let ending = match &outcome {
            Ok(ended) => judge_end(&ended.engine),
            Err(error) => Ending::Failed(Error::general(target_error(error), error.to_string())),
        };
        if let Ok(ended) = &outcome
            && let Some(halt) = ended.engine.volume().halted()
            && !matches!(halt, volume::Halt::HistoryFull | volume::Halt::NumbersEnded)
        {
            let _ = watcher.notes.send(unflushed(&halt));
        }
        // The queue is dropped by now; the device was stopped before the loop was told to end.
        if ending == Ending::Closed
            && !stays.load(Ordering::Acquire)
            && let Some(device) = device
            && let Err(error) = device.delete()
        {
            let _ = watcher
                .notes
                .send(warning("device_left", format!("the device could not be removed: {error}")));
        }
        let _ = watcher.notes.send(Note::Ended(ending));
    }
}

fn target_error(error: &TargetError) -> Kind {
    match error {
        TargetError::Setup(_) | TargetError::Events(_) => Kind::NotSupported,
        TargetError::Memory { .. } | TargetError::Ring(_) => Kind::Failed,
    }
}

/// A closed group is fine; a refused one says why.
fn judge_end(engine: &Engine) -> Ending {
    match engine.volume().refusal() {
        None => Ending::Closed,
        Some(refusal) => Ending::Failed(super::open::refused(refusal)),
    }
}

/// Hears the loop, on its thread: everything is handed on without waiting.
struct Watcher {
    notes: Notes,
    open: OpenDrives,
    /// Drives that were reset and are not marked for it yet.
    reset: Vec<String>,
    /// It was said that the group is open.
    opened: bool,
}

impl ublk_target::Control<Engine> for Watcher {
    fn phase(&mut self, phase: Phase, engine: &Engine) {
        if !matches!(phase, Phase::Serving | Phase::ReadOnly) {
            return;
        }
        // One that can have no further activation is read-only from the start.
        if !std::mem::replace(&mut self.opened, true) {
            let _ = self.notes.send(Note::Serving);
        }
        if let Some(halt) = engine.volume().halted() {
            let why = format!("the group takes no writes any more: {halt}");
            let _ = self.notes.send(warning("read_only", why));
        }
    }

    fn want_row(&mut self, row: RowNo) {
        let _ = self.notes.send(Note::WantRow(row.get()));
    }

    fn store_stale(&mut self, drives: u32, version: u64, engine: &Engine) {
        // While it recovers it says again what was known; a drive that is away failed nothing.
        let serving = engine.phase() != Phase::Recovering;
        let marked = (0..32u8).filter(|bit| drives >> bit & 1 == 1);
        let since = |bit| engine.volume().stale_since(DriveIx::new(bit)).unwrap_or_default();
        let since = marked.clone().map(since).map(|(seq, ckpt)| (seq.get(), ckpt.get())).collect();
        let id =
            |bit| engine.volume().drive(DriveIx::new(bit)).expect("the engine marks drives of its table");
        let drives: Vec<String> = marked.map(|bit| id(bit).to_string()).collect();
        // One without rows did nothing: it is left. Neither did one that was reset: nothing is wrong with it.
        let did = |id: &String| {
            let open = self.open.get(id).filter(|_| !self.reset.contains(id));
            serving && open.is_some_and(|drive| !engine.volume().extents_on(drive.uuid).is_empty())
        };
        let failed = drives.iter().filter(|id| did(id)).cloned().collect();
        self.reset.retain(|id| !drives.contains(id));
        let _ = self.notes.send(Note::StoreStale { drives, failed, since, version });
    }

    fn store_current(&mut self, drive: DriveIx, version: u64, engine: &Engine) {
        let drive = engine.volume().drive(drive).expect("the engine names drives of its table").to_string();
        let resync = engine.volume().stats().and_then(|stats| stats.resync);
        let copied_blocks = resync.map_or(0, |resync| resync.copied_blocks);
        let _ = self.notes.send(Note::StoreCurrent { drive, version, copied_blocks });
    }

    fn notice(&mut self, notice: Notice) {
        let (kind, message) = match notice {
            Notice::Drive { drive, op, age, expired } => {
                let end = if expired { ", its deadline has passed" } else { "" };
                let drive = self.open.id_of(drive);
                let age = age.nanos() / 1_000_000;
                ("slow", format!("drive {drive}: {op:?} has been under way for {age} ms{end}"))
            }
            Notice::Request { age, .. } => {
                ("slow", format!("a request has been under way for {} ms", age.nanos() / 1_000_000))
            }
            Notice::Reset { drive } => {
                let drive = self.open.id_of(drive);
                self.reset.push(drive.clone());
                let what = "its controller or connection was reset while writes were in its cache";
                ("drive_reset", format!("drive {drive}: {what}; what it has counts up to its last flush"))
            }
        };
        let _ = self.notes.send(warning(kind, message));
    }
}

/// The loop and the device, as the control socket wants them.
struct Glue {
    spec: TargetSpec,
    handle: Handle<Engine>,
    device: Option<Arc<dyn Device>>,
    stays: Arc<AtomicBool>,
    notes: Notes,
    open: OpenDrives,
    progress: Mutex<Progress>,
    scrub: Mutex<Keeper>,
}

impl Glue {
    /// The drives of the group, in the order of its table; as long as that is not known, those of the spec.
    fn drive_status(&self, stats: Option<&Stats>) -> Vec<TargetDriveStatus> {
        match stats {
            Some(stats) => stats.drives.iter().map(|view| self.seen_drive(view)).collect(),
            None => self.spec.drives.iter().filter(|drive| !drive.left).map(unseen_drive).collect(),
        }
    }

    fn seen_drive(&self, view: &DriveView) -> TargetDriveStatus {
        let id = view.uuid.to_string();
        let (state, since) = match view.health {
            CopyHealth::Current => (CopyState::Current, None),
            CopyHealth::Failing => (CopyState::Stale, None),
            CopyHealth::Stale(seq) => (CopyState::Stale, Some(seq.get())),
            CopyHealth::Resyncing(seq) => (CopyState::Resyncing, Some(seq.get())),
            CopyHealth::Missing => (CopyState::Missing, None),
        };
        let number = self.open.get(&id).map(|drive| usize::from(drive.number.get()));
        let figures = number.map(|number| &self.handle.figures().drives[number]);
        TargetDriveStatus {
            state,
            stale_since_seq: since,
            read_errors: view.stats.read_errors,
            write_errors: view.stats.write_errors,
            check_errors: view.stats.check_errors,
            repaired_blocks: view.stats.repaired_blocks,
            slow_events: figures.map_or(0, |figures| figures.slow_events.get()),
            figures: figures.map(figures::of_drive),
            open: self.open.get(&id).is_some(),
            id,
        }
    }

    /// Gives the loop a drive; returns once it has it.
    fn hand_drive(&self, id: &str, drive: Drive) -> Result<()> {
        let (reply, answer) = channel();
        let mut known = OpenDrive::of(id, &drive, DriveIx::ZERO, false)?;
        let marked = |listed: &&TargetDrive| listed.id == id && listed.stale_version.is_some();
        known.stale = self.spec.drives.iter().find(marked).is_some();
        let (open, name) = (self.open.clone(), id.to_owned());
        self.handle.add_drive(drive, move |taken| {
            let taken = taken.map(|number| open.add(&name, OpenDrive { number, ..known }));
            let _ = reply.send(taken);
        });
        let fails = |why: String| {
            Error::new(Kind::Failed, id, format!("drive {id} cannot be added to the group: {why}"))
        };
        match answer.recv_timeout(LOOK_DEADLINE) {
            Ok(taken) => taken.map_err(|source| fails(source.to_string())),
            // It may take it later still; then the next row on this drive finds it.
            Err(_) => Err(fails("the loop does not answer in time".to_owned())),
        }
    }
}

/// A drive of the spec, while the engine cannot be asked.
fn unseen_drive(drive: &TargetDrive) -> TargetDriveStatus {
    let state = match (&drive.path, drive.stale_version) {
        (None, _) => CopyState::Missing,
        (_, Some(_)) => CopyState::Stale,
        (_, None) => CopyState::Current,
    };
    TargetDriveStatus {
        id: drive.id.clone(),
        state,
        stale_since_seq: None,
        read_errors: 0,
        write_errors: 0,
        check_errors: 0,
        repaired_blocks: 0,
        slow_events: 0,
        figures: None,
        open: false,
    }
}

impl Glue {
    /// Refuses to end for another target while a drive that was given up has operations in the kernel still: the kernel may
    /// keep this process, and the device with it, until they end, and all that time guests would wait.
    fn check_nothing_hangs(&self) -> Result<()> {
        let hanging = self.handle.figures().hanging_drives.get();
        if hanging == 0 {
            return Ok(());
        }
        let name = self.spec.volume.name.clone();
        let message = format!(
            "volume {name} cannot be handed to another target now: {hanging} of its drives was given up and does not answer \
             the kernel"
        );
        Err(Error::new(Kind::Busy, name, message)
            .hint("repeat it when the drive answers again, or was taken out of the machine"))
    }

    /// Refuses to take the socket away from connected clients, as the kernel does with an open device.
    fn wait_without_clients(&self) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            let clients = self.handle.figures().clients.get();
            if clients == 0 {
                return Ok(());
            }
            if start.elapsed() >= CLIENTS_DEADLINE {
                let name = self.spec.volume.name.clone();
                let message = format!("volume {name} is in use: {clients} connected over NBD");
                return Err(Error::new(Kind::Refused, name, message).hint("disconnect the clients first"));
            }
            std::thread::sleep(CLIENTS_PAUSE);
        }
    }
}

impl Serving for Glue {
    fn status(&self) -> TargetStatus {
        let seen = self.look(|engine| (engine.volume().stats(), engine.volume().sectors()));
        let (stats, sectors) = seen.unwrap_or((None, None));
        let used = |stats: &Stats| stats.space_blocks.saturating_sub(stats.free_blocks + stats.limbo_blocks);
        TargetStatus {
            phase: match self.handle.figures().phase() {
                Phase::Recovering => TargetPhase::Recovering,
                Phase::Serving => TargetPhase::Serving,
                Phase::ReadOnly => TargetPhase::ReadOnly,
                Phase::Closing => TargetPhase::Closing,
                Phase::Closed | Phase::Refused => TargetPhase::Ended,
            },
            seq: stats.as_ref().map_or(0, |stats| stats.seq.get()),
            durable_seq: stats.as_ref().map_or(0, |stats| stats.durable.get()),
            gen_number: stats.as_ref().map_or(self.spec.gen_number, |stats| stats.generation.get()),
            rows: stats.as_ref().map_or(1, |stats| stats.rows),
            mapped_bytes: stats
                .as_ref()
                .and_then(|stats| Some(stats.mapped_blocks? * base::BLOCK_BYTES as u64)),
            used_bytes: stats.as_ref().map_or(0, used) * base::BLOCK_BYTES as u64,
            size_bytes: sectors.map_or(self.spec.volume.size_bytes, |s| s.get() * SECTOR_BYTES as u64),
            device_number: self.device.as_ref().map(|device| device.id()),
            nbd_socket: match &self.spec.front_end {
                FrontEndSpec::Nbd { socket } => Some(socket.clone()),
                FrontEndSpec::Ublk { .. } => None,
            },
            memory_bytes: resident_bytes(),
            figures: Some(figures::of_target(self.handle.figures(), stats.as_ref())),
            drives: self.drive_status(stats.as_ref()),
            resync: stats.as_ref().and_then(|stats| self.resync_status(stats)),
            last_resync: stats.as_ref().and_then(|stats| returns::show_resync(stats, stats.last_resync?)),
            returned: None,
        }
    }

    fn open(&self) -> Result<()> {
        let wanted = Sectors::new(self.spec.volume.size_bytes / SECTOR_BYTES as u64);
        // The size was raised while no target ran, or the last one died before it could say so.
        let grows = move |engine: &mut Engine| engine.volume().halted().is_some() || engine.grow(wanted);
        // It is not open to anybody yet, so little is lost by waiting for a loop that is caught.
        let grown = self.spec.read_only
            || (0..OPEN_LOOKS)
                .find_map(|_| self.look(grows))
                .ok_or_else(|| Error::general(Kind::Busy, "the group does not answer").hint("try again"))?;
        let taken_over = self.taken_over();
        if !grown && taken_over.is_none() {
            return Err(Error::general(Kind::Failed, "the group does not take the volume's size"));
        }
        self.set_resync_rate(self.spec.resync_bytes_per_second);
        self.set_scrub_rate(self.spec.scrub_bytes_per_second);
        if let Some(device) = &self.device {
            device.start().map_err(ublk_error)?;
        }
        if let Some(device) = taken_over {
            self.follow_size(device, grown);
        }
        Ok(())
    }

    fn detach(&self) -> Result<()> {
        match &self.device {
            Some(device) => device.stop().map_err(ublk_error)?,
            None => self.wait_without_clients()?,
        }
        self.handle.stop();
        Ok(())
    }

    fn hand_over(&self) -> Result<()> {
        self.check_nothing_hangs()?;
        if self.device.is_none() {
            let name = &self.spec.volume.name;
            self.wait_without_clients().map_err(|error| crate::agent::over_nbd(name, &error.message))?;
        }
        self.stays.store(true, Ordering::Release);
        if let Some(device) = &self.device {
            match device.quiesce() {
                Ok(()) => {
                    eprintln!("another target takes over; the kernel keeps new requests back meanwhile")
                }
                Err(error) => eprintln!("another target takes over; requests may be issued twice: {error}"),
            }
        }
        self.handle.stop();
        Ok(())
    }

    fn abandon(&self) {
        self.leave_unopened();
    }

    fn resize(&self, size_bytes: u64) -> Result<()> {
        let sectors = Sectors::new(size_bytes / SECTOR_BYTES as u64);
        // First: the engine cannot take it back.
        if let Some(device) = &self.device {
            device.check_resizes(sectors).map_err(ublk_error)?;
        }
        match self.look(move |engine| engine.grow(sectors)) {
            Some(true) => {}
            Some(false) => return Err(Error::general(Kind::Failed, "the group does not take this size")),
            None => return Err(Error::general(Kind::Busy, "the group does not answer").hint("try again")),
        }
        self.handle.resize(sectors);
        match &self.device {
            Some(device) => device.resize(sectors).map_err(ublk_error),
            None => Ok(()),
        }
    }

    fn ready(&self, row: &Row) -> bool {
        self.open.places(row).is_some()
    }

    fn prepare(&self, row: &Row) -> Result<()> {
        for extent in &row.extents {
            if !extent.away && self.open.get(&extent.drive).is_none() {
                let drive = Wanted::of(&extent.path, &extent.drive, &self.spec)?.open(JOIN_PATIENCE)?;
                self.hand_drive(&extent.drive, drive)?;
            }
        }
        Ok(())
    }

    fn row(&self, row: &Row) -> Result<()> {
        let places = self.open.places(row).ok_or_else(|| {
            let message = format!("a drive of row {} is not open", row.row);
            Error::new(Kind::Failed, self.spec.group_name.clone(), message)
        })?;
        let number = row.row;
        // Only on the loop's thread the engine's table cannot change in between.
        self.handle.with_engine(move |engine| {
            let grant = grant(number, &places, engine.volume());
            engine.reply(Reply::Row(grant));
        });
        Ok(())
    }

    fn no_row(&self) {
        self.handle.reply(Reply::NoRow);
    }

    fn space_added(&self) {
        self.handle.reply(Reply::SpaceAdded);
    }

    fn hand_back(&self, drive: &str, path: &Path) -> Result<()> {
        self.hand_drive_back(drive, path)
    }

    fn release(&self, drive: &str) -> Result<()> {
        self.let_go(drive)
    }

    fn take_out(&self, drive: &str) -> Result<()> {
        self.put_out(drive)
    }

    fn resync_rate(&self, bytes: u64) {
        self.set_resync_rate(bytes);
    }

    fn scrub(&self, order: Option<Order>, seen: Option<Seen>) -> Result<TargetScrub> {
        self.look_at_scrub(order, seen)
    }

    fn scrub_rate(&self, bytes: u64) {
        self.set_scrub_rate(bytes);
    }

    fn rekey(&self, to: u16, start: bool) -> Result<TargetRekey> {
        self.look_at_rekey(to, start)
    }

    fn holds(&self, drive: &str) -> Result<Holds> {
        self.group_holds(drive)
    }

    fn begin_move(&self, order: &MoveOrder) -> Result<bool> {
        self.hand_move(order)
    }

    fn moving(&self, id: u64) -> Result<TargetMove> {
        self.moving_status(id)
    }

    fn stale_stored(&self, version: u64) {
        self.handle.reply(Reply::StaleStored { version });
    }

    fn current_stored(&self, version: u64) {
        self.handle.reply(Reply::CurrentStored { version });
    }

    fn notes(&self) -> Notes {
        self.notes.clone()
    }
}

/// Resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests;
