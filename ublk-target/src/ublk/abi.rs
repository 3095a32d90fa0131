//! The ublk driver's numbers and structures (include/uapi/linux/ublk_cmd.h), encoded byte by byte.
//!
//! Nothing here is trusted to be what we expect: the kernel's answers are decoded from bytes of stated length.

/// Control commands (`_IOR`/`_IOWR('u', n, struct ublksrv_ctrl_cmd)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Command {
    GetInfo = 0x8020_7502,
    Add = 0xc020_7504,
    Delete = 0xc020_7505,
    Start = 0xc020_7506,
    Stop = 0xc020_7507,
    SetParams = 0xc020_7508,
    GetParams = 0x8020_7509,
    StartRecovery = 0xc020_7510,
    EndRecovery = 0xc020_7511,
    GetFeatures = 0x8020_7513,
    UpdateSize = 0xc020_7515,
    Quiesce = 0xc020_7516,
    TryStop = 0xc020_7517,
}

/// Queue commands (`_IOWR('u', n, struct ublksrv_io_cmd)`).
pub(crate) const FETCH: u32 = 0xc010_7520;
pub(crate) const COMMIT_AND_FETCH: u32 = 0xc010_7521;

/// Feature bits.
pub(crate) mod feature {
    pub const USER_RECOVERY: u64 = 1 << 3;
    pub const RECOVERY_REISSUE: u64 = 1 << 4;
    pub const IOCTL_ENCODE: u64 = 1 << 6;
    pub const UPDATE_SIZE: u64 = 1 << 10;
    pub const QUIESCE: u64 = 1 << 12;
    pub const SAFE_STOP: u64 = 1 << 17;
    pub const NO_PARTITION_SCAN: u64 = 1 << 18;
}

/// A device's states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Made, but not started, or stopped.
    Dead,
    /// Served.
    Live,
    /// Its server is gone; requests wait for a new one.
    Quiesced,
    /// Its server is gone; requests fail.
    FailIo,
}

/// Encodes `struct ublksrv_ctrl_cmd`: device, no queue, a buffer, one number.
pub(crate) fn control_command(device: u32, buffer: u64, len: u16, data: u64) -> [u8; 80] {
    let mut out = [0; 80];
    out[..4].copy_from_slice(&device.to_ne_bytes());
    out[4..6].copy_from_slice(&u16::MAX.to_ne_bytes());
    out[6..8].copy_from_slice(&len.to_ne_bytes());
    out[8..16].copy_from_slice(&buffer.to_ne_bytes());
    out[16..24].copy_from_slice(&data.to_ne_bytes());
    out
}

/// Encodes `struct ublksrv_io_cmd` for queue 0; the ring fills in the buffer's address (bytes 8 to 16).
pub(crate) fn queue_command(tag: u16, result: i32) -> [u8; 16] {
    let mut out = [0; 16];
    out[2..4].copy_from_slice(&tag.to_ne_bytes());
    out[4..8].copy_from_slice(&result.to_ne_bytes());
    out
}

/// `struct ublksrv_ctrl_dev_info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DeviceInfo {
    pub queues: u16,
    pub depth: u16,
    pub state: State,
    pub max_io_bytes: u32,
    pub id: u32,
    pub server_pid: i32,
    pub flags: u64,
    /// For the server's own use; ours holds the volume's identity.
    pub owner: u64,
}

impl DeviceInfo {
    pub const BYTES: usize = 64;

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; Self::BYTES];
        out[..2].copy_from_slice(&self.queues.to_ne_bytes());
        out[2..4].copy_from_slice(&self.depth.to_ne_bytes());
        out[8..12].copy_from_slice(&self.max_io_bytes.to_ne_bytes());
        out[12..16].copy_from_slice(&self.id.to_ne_bytes());
        out[16..20].copy_from_slice(&self.server_pid.to_ne_bytes());
        out[24..32].copy_from_slice(&self.flags.to_ne_bytes());
        out[32..40].copy_from_slice(&self.owner.to_ne_bytes());
        out
    }

    /// The number of the device alone.
    pub fn id_of(bytes: &[u8]) -> Option<u32> {
        u32_at(bytes, 12)
    }

    /// `None`: shorter than the structure, or in a state that this code does not know.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let state = match u16_at(bytes, 4)? {
            0 => State::Dead,
            1 => State::Live,
            2 => State::Quiesced,
            3 => State::FailIo,
            _ => return None,
        };
        Some(Self {
            queues: u16_at(bytes, 0)?,
            depth: u16_at(bytes, 2)?,
            state,
            max_io_bytes: u32_at(bytes, 8)?,
            id: Self::id_of(bytes)?,
            server_pid: u32_at(bytes, 16)? as i32,
            flags: u64_at(bytes, 24)?,
            owner: u64_at(bytes, 32)?,
        })
    }
}

/// What a device tells the block layer (`struct ublk_params`, basic and discard).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Params {
    pub sectors: u64,
    pub read_only: bool,
    /// Bytes, a power of two.
    pub io_opt_bytes: u32,
    /// Longest read or write.
    pub max_sectors: u32,
    /// Longest discard and write-zeroes.
    pub max_discard_sectors: u32,
}

const PARAM_BASIC: u32 = 1;
const PARAM_DISCARD: u32 = 2;
const ATTR_READ_ONLY: u32 = 1;
const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
const ATTR_FUA: u32 = 1 << 3;
const LOGICAL_SHIFT: u8 = base::SECTOR_BYTES.trailing_zeros() as u8;
const PHYSICAL_SHIFT: u8 = base::BLOCK_BYTES.trailing_zeros() as u8;

impl Params {
    /// Length, types, 32 bytes of basics, 20 of discard, padded to the alignment.
    pub const BYTES: usize = 64;

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; Self::BYTES];
        let mut attrs = ATTR_VOLATILE_CACHE | ATTR_FUA;
        if self.read_only {
            attrs |= ATTR_READ_ONLY;
        }
        let optimal = self.io_opt_bytes.max(base::BLOCK_BYTES as u32).ilog2() as u8;
        out[..4].copy_from_slice(&(Self::BYTES as u32).to_ne_bytes());
        out[4..8].copy_from_slice(&(PARAM_BASIC | PARAM_DISCARD).to_ne_bytes());
        out[8..12].copy_from_slice(&attrs.to_ne_bytes());
        out[12..16].copy_from_slice(&[LOGICAL_SHIFT, PHYSICAL_SHIFT, optimal, PHYSICAL_SHIFT]);
        out[16..20].copy_from_slice(&self.max_sectors.to_ne_bytes());
        out[24..32].copy_from_slice(&self.sectors.to_ne_bytes());
        // Behind the boundary mask (32..40): alignment, granularity, longest discard, longest write-zeroes,
        // number of segments.
        out[44..48].copy_from_slice(&(base::BLOCK_BYTES as u32).to_ne_bytes());
        out[48..52].copy_from_slice(&self.max_discard_sectors.to_ne_bytes());
        out[52..56].copy_from_slice(&self.max_discard_sectors.to_ne_bytes());
        out[56..58].copy_from_slice(&1u16.to_ne_bytes());
        out
    }

    /// The size in an answer to GET_PARAMS.
    pub fn decode_sectors(bytes: &[u8]) -> Option<u64> {
        (u32_at(bytes, 4)? & PARAM_BASIC != 0).then_some(())?;
        u64_at(bytes, 24)
    }
}

/// What the guest asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Descriptor {
    pub op: u8,
    pub fua: bool,
    pub sectors: u32,
    pub start: u64,
}

impl Descriptor {
    pub const BYTES: usize = 24;
    pub const READ: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const FLUSH: u8 = 2;
    pub const DISCARD: u8 = 3;
    pub const WRITE_ZEROES: u8 = 5;
    const FUA: u32 = 1 << 13;

    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |at: usize| u32_at(bytes, at).expect("inside");
        let flags = number(0);
        let start = u64_at(bytes, 8).expect("inside");
        Self { op: flags as u8, fua: flags & Self::FUA != 0, sectors: number(4), start }
    }
}

/// Bytes of the driver's table of descriptors for one queue.
pub(crate) fn table_bytes(depth: u16) -> usize {
    (usize::from(depth) * Descriptor::BYTES).next_multiple_of(base::BLOCK_BYTES)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_info_comes_back() {
        let info = DeviceInfo {
            queues: 1,
            depth: 128,
            state: State::Dead,
            max_io_bytes: 1 << 18,
            id: 7,
            server_pid: -1,
            flags: 0x1234_5678_9abc,
            owner: 0xfeed,
        };
        let mut bytes = info.encode();
        assert_eq!(DeviceInfo::decode(&bytes), Some(info));
        bytes[4] = 2;
        assert_eq!(DeviceInfo::decode(&bytes).map(|i| i.state), Some(State::Quiesced));
        bytes[4] = 9;
        assert_eq!(DeviceInfo::decode(&bytes), None);
        assert_eq!(DeviceInfo::decode(&bytes[..40 - 1]), None);
    }

    #[test]
    fn params_tell_the_truth() {
        let params = Params {
            sectors: 1 << 20,
            read_only: false,
            io_opt_bytes: 1 << 17,
            max_sectors: 512,
            max_discard_sectors: 1 << 21,
        };
        let bytes = params.encode();
        assert_eq!(bytes[8..16], [0b1100, 0, 0, 0, 9, 12, 17, 12], "cache and FUA, 512, 4096, stripe, 4096");
        assert_eq!(Params::decode_sectors(&bytes), Some(1 << 20));
        assert_eq!(bytes[44..60], [0, 16, 0, 0, 0, 0, 32, 0, 0, 0, 32, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn descriptors_are_taken_apart() {
        let mut bytes = [0; Descriptor::BYTES];
        bytes[..4].copy_from_slice(&(1u32 | 1 << 13).to_ne_bytes());
        bytes[4..8].copy_from_slice(&8u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&77u64.to_ne_bytes());
        let (op, fua, sectors, start) = (Descriptor::WRITE, true, 8, 77);
        assert_eq!(Descriptor::decode(&bytes), Descriptor { op, fua, sectors, start });
        assert_eq!(table_bytes(128), 4096);
        assert_eq!(table_bytes(171), 8192);
    }
}
