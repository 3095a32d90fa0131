//! Doors to the readers of what the kernel says, for those who try them with what it would hardly say (`tools/fuzz`).
//! They read and do nothing; nobody else has a use for them.
use crate::resets::{self, Reset};
use crate::ublk::State;
use crate::ublk::abi::{Descriptor, DeviceInfo, Params, table_bytes};
use crate::ublk::device::unfit;
use crate::ublk::harden::Mount;
use crate::ublk::queue;
use base::Request;
use std::path::PathBuf;

/// What an event of the kernel (netlink(7), `NETLINK_KOBJECT_UEVENT`) tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Nothing of a reset.
    Other,
    /// A reset of the device at this path below `/sys`.
    Device(PathBuf),
    /// A reset, of what is not known.
    Any,
}

/// Reads an event.
pub fn event(bytes: &[u8]) -> Event {
    match resets::reset_of(bytes) {
        None => Event::Other,
        Some(Reset::Device(path)) => Event::Device(path),
        Some(Reset::Any) => Event::Any,
    }
}

/// Reads a line of mountinfo: number of the device, mount point, source.
pub fn mount(line: &[u8]) -> Option<(String, PathBuf, PathBuf)> {
    Mount::parse(line).map(|mount| (mount.device, mount.point, mount.source))
}

/// What the ublk driver says of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// It written as it would be asked for; its state, which nobody asks for, is left out.
    pub written: Vec<u8>,
    /// Its state.
    pub state: State,
    /// Bytes of the table of its queue, if it would be taken over.
    pub table_bytes: Option<usize>,
}

/// Reads an answer to GET_DEV_INFO or ADD_DEV; `None` if it is shorter, or has an unknown state.
pub fn device(answer: &[u8]) -> Option<Device> {
    let info = DeviceInfo::decode(answer)?;
    let table_bytes = unfit(&info).is_none().then(|| table_bytes(info.depth));
    Some(Device { written: info.encode(), state: info.state, table_bytes })
}

/// Reads the size, in sectors, in an answer to GET_PARAMS.
pub fn sectors(answer: &[u8]) -> Option<u64> {
    Params::decode_sectors(answer)
}

/// Reads a descriptor of a queue, as the request of tag 0; `None` if it breaks the limits that the device was given.
pub fn request(descriptor: &[u8; 24]) -> Option<Request> {
    queue::request(0, &Descriptor::decode(descriptor))
}
