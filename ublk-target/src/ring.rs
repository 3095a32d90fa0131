//! The io_uring of a group: every drive, socket, wake-up and ublk command of the target goes through it.
//!
//! Memory is named by number (`BufId`, `Region`) and belongs to the ring (`Area`), so the functions here are
//! safe to call: an operation cannot name memory that goes away. What makes that true is `Drop`: operations
//! that name memory are counted, cancelled and waited for before the area is unmapped; if the kernel does not
//! let go (a hung drive) the area is leaked rather than freed.
//!
//! No file is registered: an operation holds the file that it names, from its submission to its end, and no other. So a
//! drive that hangs in the kernel keeps itself open and locked, and none of the others. What is registered with a ring stays
//! with it until the last operation of all has ended, the target's process long gone: one drive of a mirror that hung kept
//! the next target from all of them. And before Linux 6.13 a file that was taken away stayed until every operation on
//! anything registered that began earlier had ended.
//!
//! One thread creates, feeds and reaps the ring (SINGLE_ISSUER, DEFER_TASKRUN): completions are only worked on
//! when that thread asks for them, so a busy loop is not interrupted and an idle one sleeps in the kernel.
use crate::memory::{Area, MAX_REGISTERED_BYTES, Region};
use crate::ops::Remainder;
use base::{BLOCK_BYTES, BufId, DriveOp, Duration, Memory};
use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

mod exchange;

/// Submissions gathered before the kernel is entered.
const SUBMISSIONS: u32 = 1024;
/// Completions that can wait; more than all that can be in flight, so that none overflows.
const COMPLETIONS: u32 = 8192;
/// The kernel takes this many pieces of memory in one operation (UIO_MAXIOV).
const MAX_IOVECS: usize = 1024;
/// Pieces of memory gathered before the kernel is entered; it copies them then.
const IOVECS: usize = 16 * MAX_IOVECS;
/// How long `Drop` waits for the kernel to let go of memory.
const DRAIN: Duration = Duration::from_millis(5_000);

/// Whose completion it is. The upper byte of the kernel's user data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    Drive,
    Wake,
    Front,
    /// A ublk command: the kernel may keep it for ever.
    Queue,
    /// Answers to cancellations: nobody waits for them.
    Cancel,
}

/// A completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) source: Source,
    /// What the submitter gave, 56 bits.
    pub(crate) id: u64,
    /// A count, or a negative error number.
    pub(crate) result: i32,
}

const ID_BITS: u32 = 56;

fn user_data(source: Source, id: u64) -> u64 {
    assert!(id < 1 << ID_BITS, "an operation's id has 56 bits");
    ((source as u64) << ID_BITS) | id
}

fn event(user_data: u64, result: i32) -> Event {
    let source = match user_data >> ID_BITS {
        0 => Source::Drive,
        1 => Source::Wake,
        2 => Source::Front,
        3 => Source::Queue,
        4 => Source::Cancel,
        other => panic!("the kernel answered something never asked (source {other})"),
    };
    Event { source, id: user_data & ((1 << ID_BITS) - 1), result }
}

/// The ring.
pub struct Ring {
    uring: IoUring,
    /// `None` only while dropping.
    area: Option<Area>,
    iovecs: Vec<libc::iovec>,
    registered: bool,
    /// The front end's file (the ublk queue).
    front: Option<OwnedFd>,
    /// Operations that name memory of the area, or that end soon by themselves.
    in_flight: usize,
}

// SAFETY: the iovecs hold addresses inside the area, which moves along; nothing else is tied to a thread but the
// ring's submitter, which the kernel checks itself (EEXIST).
unsafe impl Send for Ring {}

impl Ring {
    /// A ring over `area`, not at work yet: see `enable`.
    ///
    /// # Errors
    /// The kernel refuses io_uring (`kernel.io_uring_disabled`, a container's filter) or is older than 6.1.
    pub fn new(area: Area) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            // Bound to a thread when it is enabled.
            .setup_r_disabled()
            .dontfork()
            .build(SUBMISSIONS)?;
        let params = uring.params();
        if !params.is_feature_submit_stable() || !params.is_feature_nodrop() || !params.is_feature_ext_arg() {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        let registered = register_buffers(&uring, &area);
        let iovecs = Vec::with_capacity(IOVECS);
        Ok(Self { uring, area: Some(area), iovecs, registered, front: None, in_flight: 0 })
    }

    /// Puts it to work, for use by the calling thread alone from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enable(&self) -> io::Result<()> {
        self.uring.submitter().register_enable_rings()
    }

    /// Whether the engine's memory is registered: without, each transfer pins its pages anew (slower; the limit
    /// on locked memory was too low).
    pub fn registered(&self) -> bool {
        self.registered
    }

    /// The memory.
    pub fn area(&self) -> &Area {
        self.area.as_ref().expect("there until dropped")
    }

    /// The memory, to change.
    pub fn area_mut(&mut self) -> &mut Area {
        self.area.as_mut().expect("there until dropped")
    }

    /// Sets the front end's file.
    ///
    /// # Errors
    /// No more files can be opened.
    pub(crate) fn set_front_file(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.front = Some(file.try_clone_to_owned()?);
        Ok(())
    }

    /// Submits what is left of an operation of the drive with this open file, which stays open until the next `submit` or
    /// `wait`: then the operation holds it.
    pub(crate) fn drive(&mut self, id: u64, file: BorrowedFd<'_>, rest: &Remainder<'_>) -> io::Result<()> {
        let fd = Fd(file.as_raw_fd());
        if rest.op == DriveOp::Flush {
            let entry = opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build();
            return self.push(entry, Source::Drive, id);
        }
        let write = rest.op == DriveOp::Write;
        if let [only] = rest.segments {
            let bytes = only.blocks as usize * BLOCK_BYTES - rest.skip;
            let first = only.buf.get() as usize * BLOCK_BYTES + rest.skip;
            let buffer = self.registered_buffer(first, bytes);
            let start = self.area().block_address(only.buf, only.blocks);
            // SAFETY: `skip` lies inside the segment, which lies inside the area.
            let start = unsafe { start.add(rest.skip) };
            let len = u32::try_from(bytes).expect("a segment is below 4 GiB");
            let entry = match (write, buffer) {
                (true, Some(ix)) => opcode::WriteFixed::new(fd, start, len, ix).offset(rest.at_bytes).build(),
                (false, Some(ix)) => opcode::ReadFixed::new(fd, start, len, ix).offset(rest.at_bytes).build(),
                (true, None) => opcode::Write::new(fd, start, len).offset(rest.at_bytes).build(),
                (false, None) => opcode::Read::new(fd, start, len).offset(rest.at_bytes).build(),
            };
            return self.push(entry, Source::Drive, id);
        }
        // What exceeds the kernel's limit comes back as a short transfer and is submitted then.
        let count = rest.segments.len().min(MAX_IOVECS);
        // Both kinds of room first: submitting clears the iovecs, which must not happen between the two.
        if self.iovecs.len() + count > IOVECS || self.uring.submission().is_full() {
            self.submit()?;
        }
        let first = self.iovecs.len();
        for (n, segment) in rest.segments[..count].iter().enumerate() {
            let skip = if n == 0 { rest.skip } else { 0 };
            let start = self.area().block_address(segment.buf, segment.blocks);
            // SAFETY: `skip` lies inside the segment, which lies inside the area.
            let start = unsafe { start.add(skip) };
            let iov_len = segment.blocks as usize * BLOCK_BYTES - skip;
            self.iovecs.push(libc::iovec { iov_base: start.cast(), iov_len });
        }
        let vector = self.iovecs[first..].as_ptr();
        let entry = if write {
            opcode::Writev::new(fd, vector, count as u32).offset(rest.at_bytes).build()
        } else {
            opcode::Readv::new(fd, vector, count as u32).offset(rest.at_bytes).build()
        };
        self.push(entry, Source::Drive, id)
    }

    /// Waits for a connection to a listening socket; answered by its file descriptor.
    pub(crate) fn accept(&mut self, id: u64, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
        let socket = Fd(socket.as_raw_fd());
        let entry = opcode::Accept::new(socket, address, len).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry, Source::Front, id)
    }

    /// Receives at least a byte, at most the region.
    pub(crate) fn recv(&mut self, id: u64, socket: BorrowedFd<'_>, into: Region) -> io::Result<()> {
        let (start, len) = (self.area().region_address(into), into.len() as u32);
        self.push(opcode::Recv::new(Fd(socket.as_raw_fd()), start, len).build(), Source::Front, id)
    }

    /// Sends at least a byte, at most the region.
    pub(crate) fn send(&mut self, id: u64, socket: BorrowedFd<'_>, from: Region) -> io::Result<()> {
        let (start, len) = (self.area().region_address(from), from.len() as u32);
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), start, len).flags(libc::MSG_NOSIGNAL).build();
        self.push(entry, Source::Front, id)
    }

    /// Reads the eight bytes of an eventfd once it is signalled.
    pub(crate) fn wake(&mut self, eventfd: BorrowedFd<'_>, into: Region) -> io::Result<()> {
        assert_eq!(into.len(), 8, "an eventfd's counter has eight bytes");
        let start = self.area().region_address(into);
        self.push(opcode::Read::new(Fd(eventfd.as_raw_fd()), start, 8).build(), Source::Wake, 0)
    }

    /// A 16-byte command to the front end's file (ublk), which may name a slot's memory by its address.
    pub(crate) fn queue_command(
        &mut self,
        id: u64,
        op: u32,
        mut command: [u8; 16],
        data: BufId,
    ) -> io::Result<()> {
        let address = self.area().block_address(data, base::limits::SLOT_DATA_BLOCKS) as u64;
        command[8..].copy_from_slice(&address.to_ne_bytes());
        let front = self.front.as_ref().expect("the front end's file was set").as_raw_fd();
        let entry = opcode::UringCmd16::new(Fd(front), op).cmd(command).build();
        self.push(entry, Source::Queue, id)
    }

    /// Asks the kernel to give up an operation; it is answered in any case.
    pub(crate) fn cancel(&mut self, source: Source, id: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(user_data(source, id)).build();
        self.push(entry, Source::Cancel, 0)
    }

    /// Hands everything gathered to the kernel.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        loop {
            match self.uring.submit() {
                Ok(_) if self.uring.submission().is_empty() => {
                    self.iovecs.clear();
                    return Ok(());
                }
                Ok(_) => (),
                Err(error) if again(&error) => (),
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands everything to the kernel and waits for a completion, or until the timeout.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let outcome = match timeout {
            None => self.uring.submitter().submit_and_wait(1),
            Some(span) => {
                let time = Timespec::new()
                    .sec(span.nanos() / 1_000_000_000)
                    .nsec((span.nanos() % 1_000_000_000) as u32);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        if self.uring.submission().is_empty() {
            self.iovecs.clear();
        }
        match outcome {
            Ok(_) => Ok(()),
            Err(error) if again(&error) || error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next completion that has arrived.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let entry = self.uring.completion().next()?;
        let event = event(entry.user_data(), entry.result());
        if counted(event.source) {
            self.in_flight -= 1;
        }
        Some(event)
    }

    fn push(&mut self, entry: squeue::Entry, source: Source, id: u64) -> io::Result<()> {
        let entry = entry.user_data(user_data(source, id));
        if self.uring.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: the memory that the entry names lies in the area, which outlives the operation (see the
        // module's text); iovecs live until they are submitted, which clears them; SUBMIT_STABLE was checked.
        unsafe { self.uring.submission().push(&entry).expect("room was made") };
        if counted(source) {
            self.in_flight += 1;
        }
        Ok(())
    }

    /// Index of the registered buffer that holds this whole byte range of the engine's part.
    fn registered_buffer(&self, first: usize, bytes: usize) -> Option<u16> {
        let index = first / MAX_REGISTERED_BYTES;
        let same = (first + bytes - 1) / MAX_REGISTERED_BYTES == index;
        (self.registered && same).then_some(index as u16)
    }

    /// As if the kernel never answered one of its operations.
    #[cfg(test)]
    pub(crate) fn hang(&mut self) {
        self.in_flight += 1;
    }

    /// Cancels everything and waits for it; says whether the kernel let go of all memory.
    fn drain(&mut self) -> bool {
        let all = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
        let _ = self.push(all, Source::Cancel, 0);
        let start = std::time::Instant::now();
        while self.in_flight > 0 && start.elapsed().as_nanos() < u128::from(DRAIN.nanos()) {
            if self.wait(Some(Duration::from_millis(100))).is_err() {
                return false;
            }
            while self.next().is_some() {}
        }
        self.in_flight == 0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight > 0 && !self.drain() {
            std::mem::forget(self.area.take());
        }
    }
}

impl Memory for Ring {
    fn blocks(&self, first: BufId, count: u32) -> &[u8] {
        self.area().blocks(first, count)
    }
    fn blocks_mut(&mut self, first: BufId, count: u32) -> &mut [u8] {
        self.area_mut().blocks_mut(first, count)
    }
    fn copy_block(&mut self, from: BufId, to: BufId) {
        self.area_mut().copy_block(from, to);
    }
}

fn counted(source: Source) -> bool {
    matches!(source, Source::Drive | Source::Wake | Source::Front)
}

/// EBUSY means that completions wait to be taken first, which the caller does next.
fn again(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// Registers the engine's part in pieces of the kernel's limit; false when the limit on locked memory forbids.
fn register_buffers(uring: &IoUring, area: &Area) -> bool {
    let bytes = area.engine_bytes();
    if bytes == 0 {
        return false;
    }
    let pieces: Vec<_> = (0..bytes.div_ceil(MAX_REGISTERED_BYTES)).map(|index| piece(area, index)).collect();
    // SAFETY: the pieces lie in the area, which outlives the ring's use of them.
    unsafe { uring.submitter().register_buffers(&pieces) }.is_ok()
}

/// What is registered under this index.
fn piece(area: &Area, index: usize) -> libc::iovec {
    let start = index * MAX_REGISTERED_BYTES;
    let iov_len = MAX_REGISTERED_BYTES.min(area.engine_bytes() - start);
    let first = BufId::new((start / BLOCK_BYTES) as u32);
    libc::iovec { iov_base: area.block_address(first, 1).cast(), iov_len }
}

/// A raw descriptor that the kernel has just made for us (`accept`).
pub(crate) fn adopt(fd: RawFd) -> std::os::fd::OwnedFd {
    assert!(fd >= 0, "an answer that is an error is no descriptor");
    // SAFETY: the completion of an accept hands over a new descriptor that nothing else knows of.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::{Access, Drive};
    use crate::testing::TempFile;
    use base::{DriveIx, Segment};
    use std::io::{Write, pipe};
    use std::os::fd::AsFd;

    /// One leg of a mirror hung in the kernel, and its target was killed: the ring lived as long as the operation that hung,
    /// and with it the locks on all legs, so that no next target could have the one that was well.
    ///
    /// A pipe that nobody writes to is the drive that hangs.
    #[test]
    fn a_drive_that_hangs_keeps_no_other_one_locked() {
        let file = TempFile::new(1 << 16);
        let mut ring = Ring::new(Area::new(2, BLOCK_BYTES).expect("memory")).expect("a ring");
        ring.enable().expect("enables");
        let drive = Drive::open(file.path(), Access::ReadWrite).expect("opens");
        let (hanging, mut writer) = pipe().expect("a pipe");
        for (id, file) in [(1, drive.as_fd()), (2, hanging.as_fd())] {
            let segments = &[Segment { buf: BufId::new(id as u32 - 1), blocks: 1 }];
            let rest = Remainder { drive: DriveIx::ZERO, op: DriveOp::Read, at_bytes: 0, segments, skip: 0 };
            ring.drive(id, file, &rest).expect("gathers");
        }
        ring.wait(None).expect("waits");
        let done = Event { source: Source::Drive, id: 1, result: BLOCK_BYTES as i32 };
        assert_eq!(ring.next(), Some(done));
        // What the end of a process does.
        drop((drive, hanging));
        let next = Drive::open_within(file.path(), Access::ReadWrite, std::time::Duration::ZERO);
        assert!(next.is_ok(), "{:?}", next.err());
        // The one that hangs is held by its operation, which is answered at last.
        writer.write_all(b"late").expect("there is still a reader");
        ring.wait(None).expect("waits");
        assert_eq!(ring.next(), Some(Event { source: Source::Drive, id: 2, result: 4 }));
    }
}
