//! The unsafe ground under the ublk front end: the driver's descriptor table, the control ring, `prctl`.
use super::abi::{self, Descriptor};
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// The driver's descriptors of one queue, mapped read-only.
pub(crate) struct Table {
    start: NonNull<u8>,
    bytes: usize,
    depth: u16,
}

// SAFETY: a read-only mapping that this value alone owns.
unsafe impl Send for Table {}

impl Table {
    /// Maps the table of queue 0.
    ///
    /// # Errors
    /// The driver refuses, for instance because another process has the device open.
    pub(crate) fn map(device: &File, depth: u16) -> io::Result<Self> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let bytes = abi::table_bytes(depth);
        let size = NonZeroUsize::new(bytes).expect("a queue is not empty");
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a size that the driver checks.
        let start = unsafe { mmap(None, size, ProtFlags::PROT_READ, flags, device.as_fd(), 0)? };
        Ok(Self { start: start.cast(), bytes, depth })
    }

    /// The descriptor of a request that the driver has just handed over (it does not change until committed).
    pub(crate) fn descriptor(&self, tag: u16) -> Descriptor {
        assert!(tag < self.depth, "a tag is below the depth");
        let mut bytes = [0; Descriptor::BYTES];
        for (n, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: inside the mapping; volatile because the driver writes it behind the compiler's back.
            *byte = unsafe { self.start.add(usize::from(tag) * Descriptor::BYTES + n).read_volatile() };
        }
        Descriptor::decode(&bytes)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; descriptors are copied out, so nothing refers to it.
        let _ = unsafe { nix::sys::mman::munmap(self.start.cast(), self.bytes) };
    }
}

/// The ring for control commands, which need the larger submission entries.
pub(crate) struct ControlRing {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    file: File,
}

impl ControlRing {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        Ok(Self { ring: IoUring::builder().build(4)?, file })
    }

    /// Carries out one command, however long it takes; returns what the driver answered.
    ///
    /// # Errors
    /// The ring failed.
    pub(crate) fn call(&mut self, op: u32, device: u32, buffer: &mut [u8], data: u64) -> io::Result<i32> {
        let len = u16::try_from(buffer.len()).expect("buffers of control commands are small");
        let command = abi::control_command(device, buffer.as_mut_ptr() as u64, len, data);
        let entry = opcode::UringCmd80::new(Fd(self.file.as_raw_fd()), op).cmd(command).build();
        // SAFETY: the buffer outlives the command, because this returns only with its completion (or panics
        // with the ring, which nothing survives).
        unsafe { self.ring.submission().push(&entry).expect("one command at a time") };
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                // The kernel may have the buffer already: there is no way back from here.
                Err(error) => panic!("the control ring failed with a command under way: {error}"),
            }
            if let Some(entry) = self.ring.completion().next() {
                return Ok(entry.result());
            }
        }
    }
}

/// prctl options of linux/prctl.h that the libc crate does not name.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
const PR_GET_IO_FLUSHER: libc::c_int = 58;

/// Marks the calling thread, and those that it starts from now on, as one on which writing back memory may
/// depend: its allocations never wait for I/O (PR_SET_IO_FLUSHER; Linux 5.6).
///
/// # Errors
/// Without CAP_SYS_RESOURCE.
pub(crate) fn set_io_flusher() -> io::Result<()> {
    let (on, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: changes a flag of the calling thread and touches no memory.
    let outcome = unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, none, none, none) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the calling thread is so marked.
pub(crate) fn is_io_flusher() -> bool {
    let none: libc::c_ulong = 0;
    // SAFETY: reads a flag of the calling thread and touches no memory.
    unsafe { libc::prctl(PR_GET_IO_FLUSHER, none, none, none, none) == 1 }
}
