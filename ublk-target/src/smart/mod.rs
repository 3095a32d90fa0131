//! What a drive says of its own health.
//!
//! NVMe drives have a log page for it (`nvme.rs`), SATA drives SMART (`ata.rs`). Each is asked with commands of its own
//! kind, and only it: what answers to another kind is not sent any.
mod ata;
mod nvme;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The bit of `critical_warning` of a drive that says that it will fail.
const RELIABILITY: u8 = 1 << 2;

/// What it says; `None` where it does not. Counters that do not fit end at the largest number.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Smart {
    /// Bits: 0 spare below threshold, 1 temperature, 2 reliability degraded, 3 read-only, 4 backup of volatile memory
    /// failed, 5 persistent memory region read-only. A SATA drive only ever sets bit 2.
    pub critical_warning: u8,
    /// Degrees Celsius.
    pub temperature_celsius: Option<i32>,
    /// Spare that is left, in percent.
    pub spare_percent: Option<u8>,
    /// Below this it is a warning.
    pub spare_threshold_percent: Option<u8>,
    /// Part of the rated life that is used, in percent; may exceed 100.
    pub used_percent: Option<u8>,
    /// Bytes read by the host, to 512,000.
    pub read_bytes: Option<u64>,
    /// Bytes written by the host, to 512,000.
    pub written_bytes: Option<u64>,
    /// Hours with power.
    pub power_on_hours: Option<u64>,
    /// Times that power came.
    pub power_cycles: Option<u64>,
    /// Times that power went without notice.
    pub unsafe_shutdowns: Option<u64>,
    /// Times that data could not be recovered.
    pub media_errors: Option<u64>,
    /// Entries of the drive's error log over its life.
    pub error_log_entries: Option<u64>,
}

/// How a drive is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Nvme,
    Ata,
}

/// Asks the drive at this path. `None`: it is of a kind that is not asked (a file, virtio, SAS).
///
/// # Errors
/// The drive cannot be opened, or does not answer the command.
pub fn read(path: &Path) -> io::Result<Option<Smart>> {
    let about = std::fs::metadata(path)?;
    if !about.file_type().is_block_device() {
        return Ok(None);
    }
    let Some(kind) = kind(about.rdev()) else { return Ok(None) };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match kind {
        Kind::Nvme => nvme::read(&file).map(Some),
        Kind::Ata => ata::read(&file).map(Some),
    }
}

/// What the health page of an NVMe drive says.
#[must_use]
pub fn of_nvme(page: &[u8; nvme::PAGE]) -> Smart {
    nvme::decode(page)
}

/// What the SMART data of a SATA drive and the sense that its status came with say; `None`: the data's sum is wrong.
#[must_use]
pub fn of_ata(data: &[u8; ata::SECTOR], sense: &[u8; ata::SENSE]) -> Option<Smart> {
    ata::decode(data, ata::registers(sense))
}

/// What the kernel knows of a device: an NVMe controller's, directly or (where the kernel joins several paths to a drive)
/// a subsystem's of them; a disk whose vendor is ATA, as the kernel names all that speak it.
fn kind(device: u64) -> Option<Kind> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let place = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let is = |name: &str| place.components().any(|part| part.as_os_str() == name);
    if is("nvme") || is("nvme-subsystem") {
        return Some(Kind::Nvme);
    }
    // A partition lies in its disk's folder.
    let vendor = |disk: PathBuf| std::fs::read_to_string(disk.join("device/vendor")).ok();
    let vendor = vendor(place.clone()).or_else(|| vendor(place.parent()?.to_owned()))?;
    (vendor.trim() == "ATA").then_some(Kind::Ata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_drive_is_not_asked() {
        let here = std::env::current_exe().expect("a path");
        assert_eq!(read(&here).expect("a file"), None);
        assert_eq!(read(Path::new("/dev/null")).expect("a character device"), None);
        assert!(read(Path::new("/nowhere")).is_err());
    }
}
