//! ublk devices as seen from outside: whether the kernel has them, who holds one, its stable name.
use crate::error::{Error, Kind, Result};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use ublk_target::ublk::UblkError;

/// The control device of the ublk driver.
const CONTROL: &str = "/dev/ublk-control";
/// The longest that a new device may take to open (udev makes its node).
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

/// Path of a device.
pub fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{number}"))
}

/// Checks that this kernel has the ublk driver and that we may use it.
///
/// # Errors
/// `NotSupported` with how to load it, `Permission`.
pub fn check_ublk() -> Result<()> {
    let hint = "load it with: modprobe ublk_drv; or serve the volume without it: plinth volume attach VOL --nbd PATH";
    match OpenOptions::new().read(true).write(true).open(CONTROL) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Error::new(Kind::Permission, CONTROL, format!("no permission to open {CONTROL}"))
                .hint("run the agent as root"))
        }
        Err(error) => {
            let message = format!("this kernel has no ublk driver loaded ({CONTROL}: {error})");
            Err(Error::new(Kind::NotSupported, CONTROL, message).hint(hint))
        }
    }
}

/// Waits until a device opens.
///
/// # Errors
/// `Timeout`.
pub async fn wait_until_open(number: u32) -> Result<()> {
    let (device, deadline) = (path(number), Instant::now() + OPEN_DEADLINE);
    loop {
        match std::fs::File::open(&device) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                let name = device.display().to_string();
                return Err(Error::new(
                    Kind::Timeout,
                    name.clone(),
                    format!("the device {name} does not open: {error}"),
                ));
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// The number that identifies a volume among the ublk devices of this machine.
///
/// # Errors
/// `Damage` for what is no identity.
pub fn owner(volume_id: &str) -> Result<u64> {
    let id = crate::agent::parse_id(volume_id)?;
    let number = u64::from_le_bytes(id.0[..8].try_into().expect("eight bytes"));
    Ok(number.max(1))
}

/// An error of the driver, for people.
pub fn ublk_error(error: UblkError) -> Error {
    let kind = match &error {
        UblkError::NoDriver | UblkError::TooOld { .. } | UblkError::NotSupported { .. } => Kind::NotSupported,
        UblkError::Permission => Kind::Permission,
        UblkError::InUse { .. } => Kind::Refused,
        UblkError::Timeout { .. } => Kind::Timeout,
        _ => Kind::Failed,
    };
    Error::general(kind, error.to_string())
}

/// Checks that this kernel can give the device of an attached volume another size.
///
/// # Errors
/// `NotSupported` before Linux 6.16.
pub fn check_resizes(volume: &str) -> Result<()> {
    ublk_target::ublk::check_resizes().map_err(|error| {
        let error = ublk_error(error);
        let message = format!("volume {volume} is attached and stays as large as it is: {}", error.message);
        Error::new(error.kind, volume, message).hint(format!("plinth volume detach {volume} first"))
    })
}

/// Removes the device of a volume that nobody serves, if nobody uses it. It may be gone already.
///
/// # Errors
/// `Refused` while it is used or served.
pub fn remove_unserved(volume_id: &str) -> Result<()> {
    let owner = owner(volume_id)?;
    for device in ublk_target::ublk::list().map_err(ublk_error)?.iter().filter(|device| device.owner == owner)
    {
        ublk_target::ublk::remove_stale(device.id).map_err(ublk_error)?;
    }
    Ok(())
}

/// Refuses when something holds the device: a mount, swap, another device on top, a process.
///
/// # Errors
/// `Refused`, with who holds it.
pub fn check_unused(volume: &str, number: u32) -> Result<()> {
    crate::waits::here("a device");
    let refuse = |who: String| {
        let message = format!("volume {volume} is in use: /dev/ublkb{number} {who}");
        Err(Error::new(Kind::Refused, volume, message).hint("stop that first"))
    };
    let holders = std::fs::read_dir(format!("/sys/block/ublkb{number}/holders"));
    if let Some(Ok(holder)) = holders.ok().and_then(|mut entries| entries.next()) {
        return refuse(format!("is held by {}", holder.file_name().to_string_lossy()));
    }
    let device = path(number);
    let Ok(about) = std::fs::metadata(&device) else { return Ok(()) };
    let numbers: Vec<u64> = std::iter::once(about.rdev()).chain(partitions(number)).collect();
    if let Some(place) = mounted(&numbers) {
        return refuse(format!("is mounted at {place}"));
    }
    let exclusive = OpenOptions::new().read(true).custom_flags(nix::libc::O_EXCL).open(&device);
    if exclusive.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EBUSY)) {
        return refuse("is mounted, swapped to or otherwise claimed".to_owned());
    }
    match opener(&numbers) {
        Some(pid) => {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            refuse(format!("is open in process {pid} ({})", name.trim()))
        }
        None => Ok(()),
    }
}

/// Device numbers of the partitions of a device.
fn partitions(number: u32) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/sys/block/ublkb{number}")) else { return Vec::new() };
    let names = entries.flatten().filter(|entry| entry.path().join("partition").exists());
    names
        .filter_map(|entry| Some(std::fs::metadata(Path::new("/dev").join(entry.file_name())).ok()?.rdev()))
        .collect()
}

/// Where one of these devices is mounted in our mount namespace.
fn mounted(numbers: &[u64]) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let names: Vec<String> = numbers
        .iter()
        .map(|number| format!("{}:{}", nix::sys::stat::major(*number), nix::sys::stat::minor(*number)))
        .collect();
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?;
        let place = fields.nth(1)?;
        names.iter().any(|name| name == device).then(|| place.to_owned())
    })
}

/// A process that has one of these devices open.
fn opener(numbers: &[u64]) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| {
            let about = std::fs::metadata(file.path());
            about.is_ok_and(|about| about.file_type().is_block_device() && numbers.contains(&about.rdev()))
        })
    })
}

/// The stable name of a volume's device.
pub fn link_path(links: &Path, volume: &str) -> PathBuf {
    links.join(volume)
}

/// Makes the stable name. A folder that cannot be written costs the name only; the device has its own.
pub fn link(links: &Path, volume: &str, number: u32) {
    let make = || -> std::io::Result<()> {
        std::fs::create_dir_all(links)?;
        let temporary = links.join(format!(".{volume}.new"));
        let _ = std::fs::remove_file(&temporary);
        std::os::unix::fs::symlink(path(number), &temporary)?;
        std::fs::rename(&temporary, link_path(links, volume))
    };
    if let Err(error) = make() {
        tracing::warn!("cannot make the name {}: {error}", link_path(links, volume).display());
    }
}

/// Removes the stable name, if it leads to this device.
pub fn unlink(links: &Path, volume: &str, number: Option<u32>) {
    let name = link_path(links, volume);
    if let (Ok(leads_to), Some(number)) = (std::fs::read_link(&name), number)
        && leads_to == path(number)
    {
        let _ = std::fs::remove_file(name);
    }
}

/// Removes an NBD socket that its target left.
pub fn remove_socket(socket: &Path) {
    if std::fs::symlink_metadata(socket).is_ok_and(|about| about.file_type().is_socket()) {
        let _ = std::fs::remove_file(socket);
    }
}
