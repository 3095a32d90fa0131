//! What an NVMe drive says of its own health: log page 2 (NVMe base specification, SMART / Health Information).
//!
//! Read with the kernel's admin pass-through. The command waits as long as the kernel lets admin commands wait, and
//! a shorter bound is never asked for: at its end the kernel would reset the controller of a drive that is merely slow.
//! So a caller has to expect a minute, and must not wait for it with anything in hand.
use super::Smart;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Bytes of the page.
pub(super) const PAGE: usize = 512;
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

/// Asks an NVMe drive.
///
/// # Errors
/// The drive does not answer the command.
pub(super) fn read(file: &File) -> io::Result<Smart> {
    Ok(super::of_nvme(&page(file)?))
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

pub(super) fn decode(page: &[u8; PAGE]) -> Smart {
    let counter = |at: usize| -> u64 {
        let number = u128::from_le_bytes(page[at..at + 16].try_into().expect("sixteen bytes"));
        u64::try_from(number).unwrap_or(u64::MAX)
    };
    let kelvin = i32::from(u16::from_le_bytes([page[1], page[2]]));
    Smart {
        critical_warning: page[0],
        temperature_celsius: (kelvin > 0).then_some(kelvin - 273),
        spare_percent: Some(page[3]),
        spare_threshold_percent: Some(page[4]),
        used_percent: Some(page[5]),
        read_bytes: Some(counter(32).saturating_mul(512_000)),
        written_bytes: Some(counter(48).saturating_mul(512_000)),
        power_cycles: Some(counter(112)),
        power_on_hours: Some(counter(128)),
        unsafe_shutdowns: Some(counter(144)),
        media_errors: Some(counter(160)),
        error_log_entries: Some(counter(176)),
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
        assert_eq!(
            (smart.spare_percent, smart.spare_threshold_percent, smart.used_percent),
            (Some(90), Some(10), Some(3))
        );
        assert_eq!((smart.read_bytes, smart.written_bytes), (Some(1_024_000), Some(1_536_000)));
        assert_eq!(
            (smart.power_cycles, smart.power_on_hours, smart.unsafe_shutdowns),
            (Some(4), Some(5), Some(6))
        );
        assert_eq!((smart.media_errors, smart.error_log_entries), (Some(7), Some(u64::MAX)));
        assert_eq!(decode(&[0; PAGE]).temperature_celsius, None);
    }
}
