//! SMART of a SATA drive (ATA/ATAPI Command Set: SMART READ DATA, SMART RETURN STATUS), sent with ATA PASS-THROUGH (16)
//! (SCSI / ATA Translation) through the kernel's generic SCSI requests.
//!
//! Of the vendors' attributes those are shown whose meaning vendors agree on. Where they do not, nothing is better than a
//! number of an unknown unit.
use super::{RELIABILITY, Smart};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

pub(super) const SECTOR: usize = 512;
const SG_IO: libc::c_ulong = 0x2285;
/// As long as the kernel gives a disk's ordinary commands, and more: at its end the kernel resets the link of a drive
/// that may be merely slow.
const PATIENCE_MS: u32 = 60_000;
pub(super) const SENSE: usize = 64;

const PASS_THROUGH_16: u8 = 0x85;
const SMART: u8 = 0xb0;
const READ_DATA: u8 = 0xd0;
const RETURN_STATUS: u8 = 0xda;
/// What SMART commands want in these registers, and RETURN STATUS leaves there when all is well.
const MID_HIGH: (u8, u8) = (0x4f, 0xc2);
/// What it leaves there when a threshold is exceeded.
const EXCEEDED: (u8, u8) = (0xf4, 0x2c);

/// `struct sg_io_hdr` of scsi/sg.h.
#[repr(C)]
struct Header {
    interface: libc::c_int,
    direction: libc::c_int,
    command_bytes: u8,
    sense_bytes: u8,
    vectors: u16,
    data_bytes: u32,
    data: *mut u8,
    command: *mut u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    id: libc::c_int,
    private: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_written: u8,
    host_status: u16,
    driver_status: u16,
    residue: libc::c_int,
    duration_ms: u32,
    info: u32,
}

const _: () = assert!(size_of::<Header>() == 88);

const TO_US: libc::c_int = -3;
const NO_DATA: libc::c_int = -1;

/// Asks a SATA drive.
///
/// # Errors
/// The drive does not answer the commands, or has SMART switched off.
pub(super) fn read(device: &File) -> io::Result<Smart> {
    let mut data = [0u8; SECTOR];
    // Protocol 4 (data in by PIO); one sector, counted in the sector count, from the device.
    send(device, [4 << 1, 0x0e, READ_DATA], Some(&mut data))?;
    // Protocol 3 (no data); the registers are wanted back.
    let sense = send(device, [3 << 1, 0x20, RETURN_STATUS], None)?;
    super::of_ata(&data, &sense).ok_or_else(|| io::Error::other("the drive's SMART data does not add up"))
}

/// Sends a SMART command; returns what the drive's adapter says about its end.
fn send(
    device: &File,
    [protocol, flags, feature]: [u8; 3],
    data: Option<&mut [u8; SECTOR]>,
) -> io::Result<[u8; SENSE]> {
    let mut command = [0u8; 16];
    (command[0], command[1], command[2], command[4]) = (PASS_THROUGH_16, protocol, flags, feature);
    (command[6], command[10], command[12], command[14]) = (1, MID_HIGH.0, MID_HIGH.1, SMART);
    let mut sense = [0u8; SENSE];
    let (direction, data_bytes, data) = match data {
        Some(data) => (TO_US, SECTOR as u32, data.as_mut_ptr()),
        None => (NO_DATA, 0, std::ptr::null_mut()),
    };
    let mut header = Header {
        interface: b'S'.into(),
        direction,
        command_bytes: command.len() as u8,
        sense_bytes: SENSE as u8,
        vectors: 0,
        data_bytes,
        data,
        command: command.as_mut_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: PATIENCE_MS,
        flags: 0,
        id: 0,
        private: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_written: 0,
        host_status: 0,
        driver_status: 0,
        residue: 0,
        duration_ms: 0,
        info: 0,
    };
    // SAFETY: the header is the kernel's structure; command, sense and data are memory of the lengths that it says, ours
    // alone, and live until the call returns, which is when the kernel has let go of them.
    let status = unsafe { libc::ioctl(device.as_raw_fd(), SG_IO as _, &raw mut header) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    // A command whose registers are wanted ends with a sense of its own: recovered, with what was asked for.
    let recovered = matches!(sense[0] & 0x7f, 0x72) && sense[1] & 0xf == 1
        || matches!(sense[0] & 0x7f, 0x70) && sense[2] & 0xf == 1;
    if header.host_status != 0 || (header.status != 0 && !recovered) {
        let (status, host) = (header.status, header.host_status);
        return Err(io::Error::other(format!(
            "the drive answered with status {status:#x}, its adapter {host:#x}"
        )));
    }
    Ok(sense)
}

/// The middle and high byte of the block address that a command left, from its sense: with descriptors, or of fixed
/// format.
pub(super) fn registers(sense: &[u8; SENSE]) -> Option<(u8, u8)> {
    const ATA_STATUS: u8 = 0x09;
    match sense[0] & 0x7f {
        0x72 => {
            let end = (8 + usize::from(sense[7])).min(SENSE);
            let mut at = 8;
            while at + 14 <= end {
                if sense[at] == ATA_STATUS {
                    return Some((sense[at + 9], sense[at + 11]));
                }
                at += 2 + usize::from(sense[at + 1]);
            }
            None
        }
        0x70 => Some((sense[10], sense[11])),
        _ => None,
    }
}

/// `None`: the data's sum is wrong.
pub(super) fn decode(data: &[u8; SECTOR], registers: Option<(u8, u8)>) -> Option<Smart> {
    if data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) != 0 {
        return None;
    }
    let attribute = |wanted: u8| {
        let mut entries = (0..30).map(|i| &data[2 + i * 12..][..12]);
        entries.find(|entry| entry[0] == wanted)
    };
    let raw = |wanted: u8, bytes: usize| {
        let entry = attribute(wanted)?;
        Some(entry[5..5 + bytes].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    let degrees = attribute(194).or_else(|| attribute(190)).map(|entry| i32::from(entry[5] as i8));
    let failing = registers == Some(EXCEEDED);
    Some(Smart {
        critical_warning: if failing { RELIABILITY } else { 0 },
        temperature_celsius: degrees,
        spare_percent: None,
        spare_threshold_percent: None,
        used_percent: None,
        read_bytes: None,
        written_bytes: None,
        // Some vendors keep minutes of the hour in the upper bytes.
        power_on_hours: raw(9, 4),
        power_cycles: raw(12, 4),
        unsafe_shutdowns: raw(174, 4),
        // Reported uncorrectable errors, or where there is no such count, sectors that are uncorrectable at present.
        media_errors: raw(187, 4).or_else(|| raw(198, 4)),
        error_log_entries: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(attributes: &[(u8, [u8; 6])]) -> [u8; SECTOR] {
        let mut data = [0; SECTOR];
        for (i, (number, raw)) in attributes.iter().enumerate() {
            data[2 + i * 12] = *number;
            data[2 + i * 12 + 5..][..6].copy_from_slice(raw);
        }
        let sum = data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        data[SECTOR - 1] = 0u8.wrapping_sub(sum);
        data
    }

    #[test]
    fn attributes_are_taken_apart() {
        let said = [
            (9, [0x39, 0x30, 0, 0, 7, 7]),
            (12, [5, 0, 0, 0, 0, 0]),
            (194, [41, 0, 20, 0, 60, 0]),
            (198, [3, 0, 0, 0, 0, 0]),
        ];
        let smart = decode(&data(&said), Some(MID_HIGH)).expect("the sum is right");
        assert_eq!((smart.critical_warning, smart.temperature_celsius), (0, Some(41)));
        assert_eq!((smart.power_on_hours, smart.power_cycles), (Some(12_345), Some(5)));
        assert_eq!((smart.media_errors, smart.unsafe_shutdowns, smart.used_percent), (Some(3), None, None));
        let failing = decode(&data(&[(187, [9, 0, 0, 0, 0, 0])]), Some(EXCEEDED)).expect("the sum is right");
        assert_eq!((failing.critical_warning, failing.media_errors), (RELIABILITY, Some(9)));
        let mut wrong = data(&said);
        wrong[7] ^= 1;
        assert_eq!(decode(&wrong, None), None);
    }

    #[test]
    fn registers_are_found_in_either_format() {
        let mut sense = [0; SENSE];
        sense[..8].copy_from_slice(&[0x72, 1, 0, 0x1d, 0, 0, 0, 14]);
        sense[8..22].copy_from_slice(&[9, 12, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0, 0x2c, 0, 0x50]);
        assert_eq!(registers(&sense), Some(EXCEEDED));
        let mut fixed = [0; SENSE];
        (fixed[0], fixed[10], fixed[11]) = (0x70, 0x4f, 0xc2);
        assert_eq!(registers(&fixed), Some(MID_HIGH));
        assert_eq!(registers(&[0; SENSE]), None);
        let mut cut = [0; SENSE];
        (cut[0], cut[7], cut[8], cut[9]) = (0x72, 255, 1, 0xff);
        assert_eq!(registers(&cut), None);
    }
}
