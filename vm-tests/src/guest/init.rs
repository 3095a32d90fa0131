//! Process 1 of a machine.
//!
//! Invariant: whatever fails, the machine ends: an init that returned or panicked makes the kernel panic,
//! which QEMU (`-no-reboot`, `panic=-1`) turns into its end, and the host sees that no result came.

use crate::error::{Context, Error, Result};
use crate::initramfs::MODULE_LIST;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, wait};
use std::fs::{self, File};
use std::process::Command;

/// Whether this process is init.
#[must_use]
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// Brings the machine up, runs the scenario in a child, reaps until it ends, and ends the machine.
///
/// # Errors
/// The root is not what it should be. Returning from init panics the kernel, which ends the machine too.
pub fn run_as_init() -> Result<()> {
    mount_all()?;
    busybox(&["--install", "-s", "/bin"])?;
    busybox(&["ip", "link", "set", "lo", "up"])?;
    load_modules()?;
    if command_line_says("plinth.root=systemd") {
        return hand_over();
    }
    // The kernel gives init no search path.
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let runner =
        Command::new("/init").arg("run").env("PATH", path).spawn().doing(|| "start the runner".into())?;
    let runner = i32::try_from(runner.id()).expect("Linux process ids fit an i32");
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) if pid.as_raw() == runner => {
                break;
            }
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => {}
            Err(source) => return Err(Error::failed(format!("cannot wait for the runner: {source}"))),
        }
    }
    nix::unistd::sync();
    let refusal = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
    Err(Error::failed(format!("cannot end the machine: {refusal:?}")))
}

fn command_line_says(word: &str) -> bool {
    fs::read_to_string("/proc/cmdline").unwrap_or_default().split_whitespace().any(|w| w == word)
}

/// Makes the first drive the root and systemd the init; its unit starts the runner. Never returns.
fn hand_over() -> Result<()> {
    use std::os::unix::process::CommandExt;
    let root = "/newroot";
    fs::create_dir_all(root).doing(|| format!("make {root}"))?;
    let drive =
        super::drives::first().ok_or_else(|| Error::failed("the drive with the root did not appear"))?;
    busybox(&["mount", "-t", "ext4", &drive.name(), root])?;
    for place in ["/dev", "/proc", "/sys", "/run"] {
        busybox(&["mount", "--move", place, &format!("{root}{place}")])?;
    }
    let init = ["switch_root", root, "/usr/lib/systemd/systemd"];
    let refusal = Command::new("/bin/busybox").args(init).exec();
    Err(Error::failed(format!("cannot hand over to systemd: {refusal}")))
}

fn mount_all() -> Result<()> {
    let none: Option<&str> = None;
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/mnt"),
        ("tmpfs", "/var/lib"),
    ] {
        fs::create_dir_all(place).doing(|| format!("make {place}"))?;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), none).doing(|| format!("mount {place}"))?;
    }
    Ok(())
}

fn busybox(args: &[&str]) -> Result<()> {
    let status = Command::new("/bin/busybox").args(args).status().doing(|| "run busybox".into())?;
    if status.success() { Ok(()) } else { Err(Error::failed(format!("busybox {args:?} failed"))) }
}

fn load_modules() -> Result<()> {
    let order = fs::read_to_string(MODULE_LIST).doing(|| format!("read {MODULE_LIST}"))?;
    for path in order.lines() {
        let file = File::open(path).doing(|| format!("open {path}"))?;
        nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty())
            .doing(|| format!("load {path}"))?;
    }
    Ok(())
}
