//! ublk: the volume as `/dev/ublkbN`.
//!
//! How the parts fit: `harden_process` first, with one thread; `UblkDevice::prepare` makes or takes over the
//! device and yields the queue; a thread runs the target with the queue as its front end; `UblkDevice::start`
//! opens the device to the world. Later `stop` (refused while in use), the loop's end, `delete`. When the process
//! dies at any point, the next `prepare` with the same owner goes on where it was.
//!
//! The commands are spoken directly (`docs/decisions/0031-ublk-without-libublk.md`).

pub(crate) mod abi;
mod control;
pub(crate) mod device;
pub(crate) mod harden;
mod in_use;
pub(crate) mod queue;
mod sys;

pub use abi::State;
pub use control::UblkError;
pub use device::{Existing, UblkDevice, check_resizes, give_up, list, remove_stale};
pub use harden::{Unhardened, harden_process, is_io_flusher, lock_memory};
pub use queue::UblkQueue;
