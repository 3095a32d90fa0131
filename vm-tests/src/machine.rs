//! A virtual machine: its drives, its start, what it says, and its end.
//!
//! Crash story: `cut` is SIGKILL at an arbitrary instant. What the guest had issued to a plain drive is in
//! the host's file by then, which is *not* a power cut; drives that shall lose their caches are logged
//! (`Drive::logged`) and rebuilt from the log (module `writelog`).
//!
//! Invariant: a machine is killed when its value is dropped, whatever path leads there.

use crate::children::{Outputs, Running, find_program, forward_lines};
use crate::error::{Context, Error, Result};
use crate::kernel::Kernel;
use crate::protocol::Message;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How the processor is provided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// Translation by QEMU: slow, works everywhere.
    Tcg,
}

impl Accel {
    fn args(self) -> [&'static str; 4] {
        match self {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // With erms and fsrm QEMU translates `rep movsb` byte by byte: large copies become 6 times slower.
            Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,erms=off,fsrm=off"],
        }
    }

    /// How long a machine may take to say hello. KVM either boots at once or not at all (a stock kernel may
    /// hang on a nested host without a word), so it gets 20 s; translation shares the host with other work.
    #[must_use]
    pub fn patience(self) -> Duration {
        match self {
            Accel::Kvm => Duration::from_secs(20),
            Accel::Tcg => Duration::from_secs(180),
        }
    }
}

/// A drive of a machine, seen by the guest as an NVMe namespace.
#[derive(Clone, Debug)]
pub struct Drive {
    /// The file that backs it.
    pub image: PathBuf,
    /// Where its writes and flushes are logged, if they are.
    pub log: Option<PathBuf>,
    /// Whether it can be slowed down while the machine runs ([`Machine::slow_down`]).
    pub can_slow: bool,
    /// Bytes of its sectors: 512 or 4096.
    pub sector_bytes: u32,
}

impl Drive {
    /// A new, sparse drive of `size_bytes` named `name` in `folder`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn plain(folder: &Path, name: &str, size_bytes: u64) -> Result<Drive> {
        let image = folder.join(format!("{name}.img"));
        make_file(&image, size_bytes)?;
        Ok(Drive { image, log: None, can_slow: false, sector_bytes: 512 })
    }

    /// Like [`Drive::plain`], with every write and flush logged.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn logged(folder: &Path, name: &str, size_bytes: u64) -> Result<Drive> {
        let mut drive = Drive::plain(folder, name, size_bytes)?;
        let log = folder.join(format!("{name}.log"));
        make_file(&log, 0)?;
        drive.log = Some(log);
        Ok(drive)
    }

    fn qemu_args(&self, number: usize) -> Vec<String> {
        let file = |path: &Path| path.to_string_lossy().replace(',', ",,");
        let mut args = vec![
            "-blockdev".to_owned(),
            format!("driver=file,node-name=file{number},filename={}", file(&self.image)),
        ];
        let base = format!("driver=raw,node-name=raw{number},file=file{number}");
        args.extend(["-blockdev".to_owned(), base]);
        let mut top = format!("raw{number}");
        if let Some(log) = &self.log {
            args.extend([
                "-blockdev".to_owned(),
                format!("driver=file,node-name=log{number},filename={}", file(log)),
            ]);
            let node = format!(
                "driver=blklogwrites,node-name=logged{number},file=raw{number},log=log{number},log-sector-size=512"
            );
            args.extend(["-blockdev".to_owned(), node]);
            top = format!("logged{number}");
        }
        if self.can_slow {
            args.extend(["-object".to_owned(), format!("throttle-group,id=slow{number}")]);
            let node =
                format!("driver=throttle,node-name=slowed{number},throttle-group=slow{number},file={top}");
            args.extend(["-blockdev".to_owned(), node]);
            top = format!("slowed{number}");
        }
        args.extend([
            "-device".to_owned(),
            format!(
                "nvme,drive={top},serial=plinth{number},id=nvme{number},logical_block_size={0},physical_block_size={0}",
                self.sector_bytes
            ),
        ]);
        args
    }
}

fn make_file(path: &Path, size_bytes: u64) -> Result<()> {
    let file = File::create(path).doing(|| format!("make {}", path.display()))?;
    file.set_len(size_bytes).doing(|| format!("size {}", path.display()))
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The kernel to boot.
    pub kernel: &'a Kernel,
    /// The first root, see [`crate::initramfs`].
    pub initramfs: &'a Path,
    /// The drives, in the order in which the guest sees them.
    pub drives: &'a [Drive],
    /// Words for the kernel's command line, read by the guest agent.
    pub parameters: &'a [(String, String)],
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Where the console and the conversation are kept.
    pub log: &'a Path,
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    qemu: Running,
    port: ChildStdin,
    lines: Receiver<String>,
    talk: File,
    log: PathBuf,
    release: String,
    started: Instant,
    /// QEMU's control socket, where a drive can be slowed down.
    control: Option<PathBuf>,
}

impl Machine {
    /// Starts a machine and waits for its hello.
    ///
    /// # Errors
    /// QEMU is missing or refuses to start, or the guest says nothing within [`Accel::patience`].
    pub fn boot(plan: &Plan<'_>, accel: Accel) -> Result<Machine> {
        let console = plan.log.with_extension("console");
        let talk = File::create(plan.log).doing(|| format!("make {}", plan.log.display()))?;
        let errors = talk.try_clone().doing(|| "share the log".into())?;
        // Socket paths are limited to 107 bytes, which a target folder easily exceeds.
        let wanted = plan.drives.iter().any(|drive| drive.can_slow);
        let control =
            wanted.then(|| std::env::temp_dir().join(format!("plinth-qemu-{}", crate::children::unique())));
        if let Some(path) = &control {
            let _ = fs::remove_file(path);
            crate::children::scratch(path);
        }
        let line = command_line(plan, accel, &console, control.as_deref());
        let mut qemu = Running::start(&line, Outputs::Talk(errors))?;
        let port = qemu.take_stdin().expect("QEMU was started with a pipe");
        let (sender, lines) = mpsc::channel();
        forward_lines(qemu.take_stdout().expect("QEMU was started with a pipe"), sender);
        let log = plan.log.to_path_buf();
        let started = Instant::now();
        let mut machine = Machine { qemu, port, lines, talk, log, release: String::new(), started, control };
        match machine.next(Instant::now() + accel.patience())? {
            Message::Hello(release) => machine.release = release,
            other => return Err(Error::failed(format!("the guest began with `{other}` instead of a hello"))),
        }
        Ok(machine)
    }

    /// The kernel release that the guest reported.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The next message, waiting for it until `deadline`.
    ///
    /// # Errors
    /// The machine ended, or said nothing in time.
    pub fn next(&mut self, deadline: Instant) -> Result<Message> {
        let message = self.next_before(deadline)?;
        if message.is_none() {
            let console = fs::read(self.log.with_extension("console")).unwrap_or_default();
            for line in stuck_at(&String::from_utf8_lossy(&console)) {
                eprintln!("    {line}");
            }
        }
        message.ok_or_else(|| Error::failed("the guest said nothing more before its time was over"))
    }

    /// Like [`Machine::next`], but the passing of `until` is no error.
    ///
    /// # Errors
    /// The machine ended.
    pub fn next_before(&mut self, until: Instant) -> Result<Option<Message>> {
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.note(&line);
                    if let Some(message) = Message::parse(&line) {
                        return Ok(Some(message));
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::failed(format!(
                        "the machine ended before its scenario did; see {}",
                        self.log.with_extension("console").display()
                    )));
                }
            }
        }
    }

    /// Stops the machine where it is: nothing reaches its drives any more until [`Machine::thaw`].
    ///
    /// # Errors
    /// The machine has ended, or does not stop.
    pub fn freeze(&mut self) -> Result<()> {
        self.qemu.freeze()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn thaw(&mut self) -> Result<()> {
        self.qemu.thaw()
    }

    /// A message that has already arrived or is on its way from a machine that was cut; `None` at the end.
    pub fn drain(&mut self) -> Option<Message> {
        while let Ok(line) = self.lines.recv() {
            self.note(&line);
            if let Some(message) = Message::parse(&line) {
                return Some(message);
            }
        }
        None
    }

    /// Sends a line to the guest.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.note(&format!("> {line}"));
        writeln!(self.port, "{line}").and_then(|()| self.port.flush()).doing(|| "talk to the guest".into())
    }

    /// Keeps a line of the conversation, with the seconds since the start.
    fn note(&mut self, line: &str) {
        let _ = writeln!(self.talk, "{:9.3} {line}", self.started.elapsed().as_secs_f64());
    }

    /// From now on a drive serves at most so many requests each second; flushes do not wait for them. One
    /// slow leg widens the window in which only the other has a write.
    ///
    /// # Errors
    /// The drive cannot be slowed down, or QEMU does not answer.
    pub fn slow_down(&mut self, drive: usize, iops: u32) -> Result<()> {
        let path = self
            .control
            .as_ref()
            .ok_or_else(|| Error::invalid("no drive of this machine can be slowed down"))?;
        let control = UnixStream::connect(path).doing(|| "reach QEMU's control socket".into())?;
        let mut answers = BufReader::new(control.try_clone().doing(|| "share the control socket".into())?);
        let mut ask = |line: &str| -> Result<()> {
            (&control).write_all(format!("{line}\n").as_bytes()).doing(|| "talk to QEMU".into())?;
            loop {
                let mut answer = String::new();
                let got = answers.read_line(&mut answer).doing(|| "hear QEMU".into())?;
                if got == 0 || answer.contains("\"error\"") {
                    return Err(Error::failed(format!("QEMU refuses {line}: {}", answer.trim())));
                }
                if answer.contains("\"return\"") {
                    return Ok(());
                }
            }
        };
        ask(r#"{"execute":"qmp_capabilities"}"#)?;
        ask(&format!(
            r#"{{"execute":"qom-set","arguments":{{"path":"/objects/slow{drive}","property":"limits","value":{{"iops-total":{iops}}}}}}}"#
        ))
    }

    /// Ends the machine at this instant.
    pub fn cut(&mut self) {
        self.qemu.kill();
    }
}

/// Whether a machine failed because of its emulator. Nothing that runs in the machine can cause either of these:
///
/// - The kernel rewrites code that another processor is running by way of a breakpoint instruction, and translated
///   processors can take that breakpoint after it was removed again. The kernel then stops at an int3 that is not there.
/// - On a host that is far too busy the machine's clock has been seen to leap ahead by a minute, and every deadline in
///   it has passed at once. More time has then gone by inside than outside.
#[must_use]
pub fn emulator_raced(log: &Path) -> bool {
    let console = fs::read(log.with_extension("console")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let talk = fs::read_to_string(log).unwrap_or_default();
    console.contains("Oops: int3") || clock_leapt(&console, &talk)
}

/// What the runner prints before it tells what every thread waits for.
pub const STUCK_MARK: &str = "the scenario is not over; what every thread waits for:";
/// A line of the agent's log behind that.
pub const AGENT_MARK: &str = "agent: ";

/// The part of a console that says why a machine does not go on: threads that the kernel keeps, each with what it is in,
/// and the end of the agent's log.
fn stuck_at(console: &str) -> Vec<&str> {
    let told = console.lines().skip_while(|line| *line != STUCK_MARK);
    let mut kept = false;
    told.filter(|line| {
        if line.starts_with("/proc/") {
            kept = line.contains(" D (");
        }
        kept || line.starts_with(AGENT_MARK) || *line == STUCK_MARK
    })
    .collect()
}

/// What the runner writes into the kernel's log when it begins and when it is over, so that the machine's clock can be
/// compared with that outside.
pub const CLOCK_MARK: &str = "plinth: the scenario";

/// Whether more time has gone by inside than outside, from the machine's hello to its result.
fn clock_leapt(console: &str, talk: &str) -> bool {
    let seconds = |text: Option<&str>| text?.trim().parse::<f64>().ok();
    let marks = console.lines().filter(|line| line.contains(CLOCK_MARK));
    let inside = marks.filter_map(|line| seconds(line.split_once('[')?.1.split(']').next()));
    let ends = talk.lines().filter(|line| line.contains(" HELLO ") || line.contains(" RESULT "));
    let outside = ends.filter_map(|line| seconds(line.trim_start().split(' ').next()));
    let between = |times: Vec<f64>| (times.len() > 1).then(|| times[times.len() - 1] - times[0]);
    let (inside, outside) = (between(inside.collect()), between(outside.collect()));
    inside.zip(outside).is_some_and(|(inside, outside)| inside > outside + LEAP_SECONDS)
}

/// Clocks that differ by less may: writing and hearing a line takes time on a busy host.
const LEAP_SECONDS: f64 = 5.0;

/// Says what a program of this host would need; used to fail early and in words.
///
/// # Errors
/// QEMU is not installed.
pub fn require_qemu() -> Result<()> {
    match find_program(QEMU) {
        Some(_) => Ok(()),
        None => Err(Error::missing(format!("{QEMU} is not installed; run `cargo xtask setup`"))),
    }
}

const QEMU: &str = "qemu-system-x86_64";

fn command_line(plan: &Plan<'_>, accel: Accel, console: &Path, control: Option<&Path>) -> Command {
    let mut command = Command::new(QEMU);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]);
    command.args(accel.args()).args(["-smp", "2", "-m"]).arg(plan.memory_mib.to_string());
    command.arg("-kernel").arg(&plan.kernel.image).arg("-initrd").arg(plan.initramfs);
    // tsc=reliable: a kernel that finds its clock unstable rewrites running code, see `emulator_raced`.
    let mut words = "console=ttyS0 loglevel=5 panic=-1 tsc=reliable rdinit=/init".to_owned();
    // Read only where systemd is init: it starts the runner, and waits for no login.
    words.push_str(" systemd.wants=plinth-scenario.service systemd.getty_auto=no");
    for (key, value) in plan.parameters {
        words.push_str(&format!(" plinth.{key}={value}"));
    }
    command.arg("-append").arg(words);
    command.arg("-serial").arg(format!("file:{}", console.to_string_lossy().replace(',', ",,")));
    command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    command.args([
        "-chardev",
        "stdio,id=port,signal=off",
        "-device",
        "virtserialport,chardev=port,name=plinth",
    ]);
    if let Some(path) = control {
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", path.display()));
    }
    for (number, drive) in plan.drives.iter().enumerate() {
        command.args(drive.qemu_args(number));
    }
    command
}

/// Picks the accelerator: `PLINTH_ACCEL` = auto, kvm or tcg. `auto` tries KVM once per boot of the host with
/// `probe` (which boots a machine) and remembers the answer in `cache`.
///
/// # Errors
/// `PLINTH_ACCEL` says something else.
pub fn choose_accel(cache: &Path, probe: impl FnOnce() -> Result<()>) -> Result<Accel> {
    match std::env::var("PLINTH_ACCEL").unwrap_or_else(|_| "auto".into()).as_str() {
        "kvm" => return Ok(Accel::Kvm),
        "tcg" => return Ok(Accel::Tcg),
        "auto" => {}
        other => {
            return Err(Error::invalid(format!("PLINTH_ACCEL is `{other}`: it can be auto, kvm or tcg")));
        }
    }
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let memory = cache.join("accel");
    let known = fs::read_to_string(&memory).unwrap_or_default();
    if let Some(answer) = known.strip_prefix(host.trim()) {
        return Ok(if answer.trim() == "kvm" { Accel::Kvm } else { Accel::Tcg });
    }
    eprintln!("trying KVM for {} s", Accel::Kvm.patience().as_secs());
    let accel = if probe().is_ok() { Accel::Kvm } else { Accel::Tcg };
    let name = if accel == Accel::Kvm { "kvm" } else { "tcg" };
    eprintln!("machines run with {name}");
    let _ = fs::write(&memory, format!("{} {name}\n", host.trim()));
    Ok(accel)
}

#[cfg(test)]
mod tests {
    use super::{AGENT_MARK, STUCK_MARK, clock_leapt, stuck_at};

    #[test]
    fn what_a_machine_is_stuck_at_is_picked_out_of_its_console() {
        let thread = |state| format!("/proc/1/task/2 name {state} syscall 17\n    [<0>] frame of {state}\n");
        let console = format!(
            "[    1.0] before\n{STUCK_MARK}\n{}{}{AGENT_MARK}its last words\n",
            thread("S (sleeping)"),
            thread("D (disk sleep)")
        );
        let told = stuck_at(&console).join("\n");
        assert!(told.contains("frame of D") && told.contains("its last words"), "{told}");
        assert!(!told.contains("frame of S") && !told.contains("before"), "{told}");
    }

    #[test]
    fn a_clock_that_goes_faster_than_the_world_has_leapt() {
        let talk = "   22.568 HELLO 6.12\n   23.0 CHECK a ok\n   31.739 RESULT FAILED not in time\n";
        let console = |end: &str| {
            format!("[    4.8] plinth: the scenario begins\nnoise\n[   {end}] plinth: the scenario is over\n")
        };
        assert!(clock_leapt(&console("77.299106"), talk));
        assert!(!clock_leapt(&console("14.01"), talk));
        assert!(!clock_leapt("", talk) && !clock_leapt(&console("77.2"), "   22.568 HELLO 6.12\n"));
        assert!(!clock_leapt("[    4.8] plinth: the scenario begins\n[   90.1] usb: noise\n", talk));
    }
}
