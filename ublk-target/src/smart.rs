//! What an NVMe drive says of its own health: log page 2 (NVMe base specification, SMART / Health Information).
//!
//! Read with the kernel's admin pass-through. The command waits as long as the kernel lets admin commands wait, and
//! a shorter bound is never asked for: at its end the kernel would reset the controller of a drive that is merely slow.
//! So a caller has to expect a minute, and must not wait for it with anything in hand.
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of the page.
const PAGE: usize = 512;
/// Get Log Page, an admin command.
const GET_LOG_PAGE: u8 = 0x02;
/// The page, and how many words of four bytes less one, as command word 10 wants them.
const HEALTH_PAGE: u32 = 0x02 | ((PAGE as u32 / 4 - 1) << 16);
/// The whole controller, not one namespace.
const ALL_NAMESPACES: u32 = u32::MAX;
/// `_IOWR('N', 0x41, struct nvme_passthru_cmd)` of linux/nvme_ioctl.h.
const NVME_IOCTL_ADMIN_CMD: libc::c_ulong =
    3 << 30 | (size_of::<Command>() as libc::c_ulong) << 16 | (b'N' as libc::c_ulong) << 8 | 0x41;

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Default)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_and_3: [u32; 2],
    metadata: u64,
    data: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    words_10_to_15: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<Command>() == 72);

/// The page, decoded. Counters of 128 bits that do not fit end at the largest number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Smart {
    /// Bits: 0 spare below threshold, 1 temperature, 2 reliability degraded, 3 read-only, 4 backup of volatile memory
    /// failed, 5 persistent memory region read-only.
    pub critical_warning: u8,
    /// Degrees Celsius; `None` where the drive says 0 K.
    pub temperature_celsius: Option<i32>,
    /// Spare that is left, in percent.
    pub spare_percent: u8,
    /// Below this it is a warning.
    pub spare_threshold_percent: u8,
    /// Part of the rated life that is used, in percent; may exceed 100.
    pub used_percent: u8,
    /// Bytes read by the host, to 512,000.
    pub read_bytes: u64,
    /// Bytes written by the host, to 512,000.
    pub written_bytes: u64,
    /// Hours with power.
    pub power_on_hours: u64,
    /// Times that power came.
    pub power_cycles: u64,
    /// Times that power went without notice.
    pub unsafe_shutdowns: u64,
    /// Times that data could not be recovered.
    pub media_errors: u64,
    /// Entries of the drive's error log over its life.
    pub error_log_entries: u64,
}

/// Asks the drive at this path. `None`: it is no NVMe drive (a file, or another sort of device).
///
/// # Errors
/// The drive cannot be opened, or does not answer the command.
pub fn read(path: &Path) -> io::Result<Option<Smart>> {
    let about = std::fs::metadata(path)?;
    if !about.file_type().is_block_device() || !is_nvme(about.rdev()) {
        return Ok(None);
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(Some(decode(&page(&file)?)))
}

/// Whether a block device belongs to an NVMe controller, directly or (where the kernel joins several paths to a drive)
/// to a subsystem of them. Nothing else may be sent its commands.
fn is_nvme(device: u64) -> bool {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let place = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"));
    let owner =
        |part: std::path::Component<'_>| part.as_os_str() == "nvme" || part.as_os_str() == "nvme-subsystem";
    place.is_ok_and(|place| place.components().any(owner))
}

fn page(device: &File) -> io::Result<[u8; PAGE]> {
    let mut page = [0u8; PAGE];
    let mut command = Command {
        opcode: GET_LOG_PAGE,
        namespace: ALL_NAMESPACES,
        data: page.as_mut_ptr() as u64,
        data_bytes: PAGE as u32,
        words_10_to_15: [HEALTH_PAGE, 0, 0, 0, 0, 0],
        ..Command::default()
    };
    // SAFETY: the command is the kernel's structure, and names memory of the length that it says; both are ours alone
    // and live until the call returns, which is when the kernel has let go of them.
    let status = unsafe { libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ADMIN_CMD as _, &raw mut command) };
    match status {
        0 => Ok(page),
        ..0 => Err(io::Error::last_os_error()),
        status => Err(io::Error::other(format!("the drive answered with status {status:#x}"))),
    }
}

fn decode(page: &[u8; PAGE]) -> Smart {
    let counter = |at: usize| -> u64 {
        let number = u128::from_le_bytes(page[at..at + 16].try_into().expect("sixteen bytes"));
        u64::try_from(number).unwrap_or(u64::MAX)
    };
    let kelvin = i32::from(u16::from_le_bytes([page[1], page[2]]));
    Smart {
        critical_warning: page[0],
        temperature_celsius: (kelvin > 0).then_some(kelvin - 273),
        spare_percent: page[3],
        spare_threshold_percent: page[4],
        used_percent: page[5],
        read_bytes: counter(32).saturating_mul(512_000),
        written_bytes: counter(48).saturating_mul(512_000),
        power_cycles: counter(112),
        power_on_hours: counter(128),
        unsafe_shutdowns: counter(144),
        media_errors: counter(160),
        error_log_entries: counter(176),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_taken_apart() {
        let mut page = [0u8; PAGE];
        page[..6].copy_from_slice(&[0b101, 0x36, 0x01, 90, 10, 3]);
        for (at, value) in [(32, 2u128), (48, 3), (112, 4), (128, 5), (144, 6), (160, 7), (176, u128::MAX)] {
            page[at..at + 16].copy_from_slice(&value.to_le_bytes());
        }
        let smart = decode(&page);
        assert_eq!((smart.critical_warning, smart.temperature_celsius), (5, Some(37)));
        assert_eq!((smart.spare_percent, smart.spare_threshold_percent, smart.used_percent), (90, 10, 3));
        assert_eq!((smart.read_bytes, smart.written_bytes), (1_024_000, 1_536_000));
        assert_eq!((smart.power_cycles, smart.power_on_hours, smart.unsafe_shutdowns), (4, 5, 6));
        assert_eq!((smart.media_errors, smart.error_log_entries), (7, u64::MAX));
        assert_eq!(decode(&[0; PAGE]).temperature_celsius, None);
    }

    #[test]
    fn what_is_no_nvme_drive_is_not_asked() {
        let here = std::env::current_exe().expect("a path");
        assert_eq!(read(&here).expect("a file"), None);
        assert_eq!(read(Path::new("/dev/null")).expect("a character device"), None);
        assert!(read(Path::new("/nowhere")).is_err());
    }
}
