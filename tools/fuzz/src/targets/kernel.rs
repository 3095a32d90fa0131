//! What the kernel says: events of devices, mounts, locks of open files, and the answers of the ublk driver.
//!
//! The first byte of an input says which reader takes the rest. Nothing of it is ours, so it is written again here, as the
//! kernel writes it. Promises beside those of all targets: an event that tells of a reset is a reset, whatever else it says;
//! a request of the driver that is taken stays within its slot, a device that is taken over has a queue to be mapped.
use super::Target;
use crate::signature::Signature;
use base::limits::{MAX_REQUEST_BLOCKS, SLOT_DATA_BLOCKS};
use base::{Op, SECTORS_PER_BLOCK};
use node::trial::tells_lock;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use ublk_target::trial::{self, Event};
use ublk_target::ublk::State;

/// The kernel.
pub const KERNEL: Target = Target {
    name: "kernel",
    about: "events, mounts and locks as the kernel tells them, and answers of the ublk driver",
    seeds,
    words: &[
        b"\0NVME_EVENT=connected\0",
        b"\0SDEV_UA=POWER_ON_RESET_OCCURRED\0",
        b"change@/devices/",
        b" - ",
        b"\\040",
        b"\\777",
        b"lock:\t1: OFDLCK ADVISORY  WRITE -1 ",
        b" 4711 4711\n",
        b"\xe9",
    ],
    run,
    cost: 1,
};

/// The readers, by the first byte.
const READERS: [fn(&[u8], &mut Signature); 5] = [event, mount, lock, device, request];

/// What tells of a reset.
const RESETS: [&[u8]; 2] = [b"NVME_EVENT=connected", b"SDEV_UA=POWER_ON_RESET_OCCURRED"];
/// The byte that is looked for among locks.
const BYTE: &str = "4711";
const DESCRIPTOR_BYTES: usize = 24;
/// Where the driver puts a device's state.
const STATE_AT: usize = 4;

fn seeds() -> Vec<Vec<u8>> {
    let of = |reader: u8, rest: &[u8]| [&[reader], rest].concat();
    let mut device = [0; 64];
    device[..6].copy_from_slice(&[1, 0, 128, 0, 2, 0]);
    device[8..12].copy_from_slice(&(1u32 << 18).to_ne_bytes());
    device[24..32].copy_from_slice(&(u64::from(u32::MAX)).to_ne_bytes());
    let mut params = device;
    params[4] = 3;
    // A queue of no requests.
    let mut empty = device;
    empty[2] = 0;
    let descriptor = |op: u32, sectors: u32, start: u64| {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        bytes[..4].copy_from_slice(&(op | 1 << 13).to_ne_bytes());
        bytes[4..8].copy_from_slice(&sectors.to_ne_bytes());
        bytes[8..16].copy_from_slice(&start.to_ne_bytes());
        bytes
    };
    vec![
        of(0, b"change@/devices/pci0000:00/0000:00:04.0/nvme/nvme0\0ACTION=change\0SUBSYSTEM=nvme\0NVME_EVENT=connected\0SEQNUM=1700\0"),
        of(0, b"change@/devices/host0/target0:0:0/0:0:0:0\0SDEV_UA=POWER_ON_RESET_OCCURRED\0DEVTYPE=scsi_device\0"),
        of(0, b"change@/devices/virtual/block/loop0\0ACTION=change\0SUBSYSTEM=block\0SEQNUM=5\0"),
        of(0, b"change@/devices/\xe9\0NVME_EVENT=connected\0"),
        of(0, b"nobody\0SDEV_UA=POWER_ON_RESET_OCCURRED\0"),
        of(1, br"36 35 98:0 /mnt1 /my\040data rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue"),
        of(1, b"36 35 98:0 / /caf\xe9\\134\\012 rw - fuse.odd o\\011dd rw"),
        of(2, b"pos:\t0\nflags:\t02100002\nlock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:4711 4711 4711\n"),
        of(2, b"lock:\t1: FLOCK  ADVISORY  READ 16207 fe:00:4711 0 EOF\nUserFiles:\t1\n    0: /caf\xe9\n"),
        of(3, &device),
        of(3, &params),
        of(3, &empty),
        of(4, &descriptor(1, 512, 9)),
        of(4, &descriptor(0, 513, u64::MAX)),
        of(4, &descriptor(2, 8, 8)),
        of(4, &descriptor(3, 1 << 20, 4096)),
        of(4, &descriptor(5, u32::MAX, u64::MAX)),
    ]
}

fn run(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let (reader, rest) = input.split_first().unwrap_or((&0, &[]));
    let reader = usize::from(*reader) % READERS.len();
    signature.note(reader as u64);
    READERS[reader](rest, &mut signature);
    signature
}

fn event(input: &[u8], signature: &mut Signature) {
    let told = trial::event(input);
    let tells = input.split(|byte| *byte == 0).skip(1).any(|text| RESETS.contains(&text));
    assert_eq!(told != Event::Other, tells, "a reset is lost, or made up");
    if let Event::Device(path) = &told {
        assert!(!path.is_absolute(), "a path that leaves /sys");
        let again = [b"change@/", path.as_os_str().as_bytes(), b"\0", RESETS[0], b"\0"].concat();
        assert!(trial::event(&again) == told, "told again it is another device");
    }
    signature.note(match told {
        Event::Other => 0,
        Event::Device(path) => 1 + path.components().count().min(2) as u64,
        Event::Any => 4,
    });
}

/// As the kernel writes a path into mountinfo.
fn escaped(path: &Path) -> Vec<u8> {
    let digits = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        _ => vec![*byte],
    };
    path.as_os_str().as_bytes().iter().flat_map(digits).collect()
}

fn mount(input: &[u8], signature: &mut Signature) {
    let read = trial::mount(input);
    if let Some((device, point, source)) = &read {
        let again =
            [b"1 2 ", device.as_bytes(), b" / ", &escaped(point), b" rw - ext4 ", &escaped(source), b" rw"]
                .concat();
        assert!(trial::mount(&again) == read, "told again it is another mount");
        signature.note(u64::from(std::str::from_utf8(point.as_os_str().as_bytes()).is_ok()));
        signature.note(u64::from(input.contains(&b'\\')));
    }
    signature.note(u64::from(read.is_some()));
}

fn lock(input: &[u8], signature: &mut Signature) {
    let told = tells_lock(input, BYTE);
    let line = format!("lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:9 {BYTE} {BYTE}\n");
    assert!(tells_lock(&[input, b"\n", line.as_bytes()].concat(), BYTE), "what stands before hides a lock");
    assert!(!told || input.windows(BYTE.len()).filter(|part| *part == BYTE.as_bytes()).count() >= 2);
    signature.note(u64::from(told));
}

fn device(input: &[u8], signature: &mut Signature) {
    let read = trial::device(input);
    if let Some(device) = &read {
        let mut again = device.written.clone();
        again[STATE_AT] = match device.state {
            State::Dead => 0,
            State::Live => 1,
            State::Quiesced => 2,
            State::FailIo => 3,
        };
        assert!(trial::device(&again) == read, "written again it is another device");
        assert!(device.table_bytes != Some(0), "a queue of nothing would be mapped");
        signature.shape(&(device.state, device.table_bytes.is_some()));
    }
    signature.note(u64::from(read.is_some()));
    signature.note(u64::from(trial::sectors(input).is_some()));
}

fn request(input: &[u8], signature: &mut Signature) {
    let mut descriptor = [0; DESCRIPTOR_BYTES];
    let count = input.len().min(descriptor.len());
    descriptor[..count].copy_from_slice(&input[..count]);
    let request = trial::request(&descriptor);
    if let Some(request) = &request {
        let sectors = request.sectors.get();
        match request.op {
            Op::Read | Op::Write => {
                assert!(
                    sectors <= u64::from(MAX_REQUEST_BLOCKS) * SECTORS_PER_BLOCK,
                    "more than was offered"
                );
                let end = request.sector.get() % SECTORS_PER_BLOCK + sectors;
                assert!(end <= u64::from(SLOT_DATA_BLOCKS) * SECTORS_PER_BLOCK, "it leaves its slot");
            }
            Op::Flush => assert_eq!((request.sector.get(), sectors), (0, 0), "a flush has no place"),
            Op::Discard | Op::WriteZeroes => {}
        }
        assert!(!request.fua || !matches!(request.op, Op::Read | Op::Flush), "nothing is written");
        signature.shape(&(request.op, request.fua));
    }
    signature.note(u64::from(request.is_some()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that no reader takes tries nothing but the refusal.
    #[test]
    fn every_reader_takes_some_of_its_seeds_and_not_all() {
        let taken: [fn(&[u8]) -> bool; 5] = [
            |rest| trial::event(rest) != Event::Other,
            |rest| trial::mount(rest).is_some(),
            |rest| tells_lock(rest, BYTE),
            |rest| trial::device(rest).is_some_and(|device| device.table_bytes.is_some()),
            |rest| rest.first_chunk().is_some_and(|descriptor| trial::request(descriptor).is_some()),
        ];
        for (reader, taken) in taken.into_iter().enumerate() {
            let seeds = seeds();
            let its = seeds.iter().filter(|seed| usize::from(seed[0]) == reader);
            let (takes, all) = (its.clone().filter(|seed| taken(&seed[1..])).count(), its.count());
            // Mounts are what somebody has named them: all of them are some.
            assert!(takes > 0 && (takes < all || reader == 1), "reader {reader}: {takes} of {all}");
        }
    }
}
