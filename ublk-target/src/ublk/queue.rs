//! The data side of a ublk device: one queue, served by the loop's ring.
//!
//! Each tag of the queue is a slot. A fetch command waits in the driver for a request; the driver copies a write's
//! data into the slot before it answers, and takes a read's data from there when the result is committed. That
//! one private copy is what every leg, check and record is made from: pages of the guest may change while they
//! are written, the copy does not.
//!
//! The driver copies to the start of the slot's buffer, the engine wants block boundaries of the volume on
//! block boundaries of the buffer; the rare request that starts inside a block is moved by its offset.
//!
//! A result is committed once per request, and never made up: what was not committed when this process ends is
//! issued again by the driver to the next one.
use super::abi::{self, Descriptor};
use super::sys::Table;
use crate::front::{FrontEnd, FrontIo, sector_bytes};
use crate::memory::Region;
use base::limits::MAX_REQUEST_BLOCKS;
use base::{Fault, Instant, Op, Request, SECTORS_PER_BLOCK, Sector, Sectors, SlotId};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// Longest read or write.
pub(crate) const MAX_SECTORS: u32 = MAX_REQUEST_BLOCKS * SECTORS_PER_BLOCK as u32;

/// What the driver has of a tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tag {
    /// A fetch waits there.
    Waiting,
    /// The engine has the request.
    Engine(Request),
    /// Nothing: the driver gave the tag back for good, or a request came after `stop`.
    Ended,
}

/// The queue of a device; a `FrontEnd`.
pub struct UblkQueue {
    // The table before the file: the driver counts mappings as users of the device.
    table: Table,
    file: File,
    tags: Vec<Tag>,
    stopping: bool,
}

impl UblkQueue {
    /// Bytes of memory of its own: what guests write and read lies in the slots.
    pub const MEMORY_BYTES: usize = 0;

    /// Maps the queue of an opened device.
    pub(crate) fn new(file: File, depth: u16) -> io::Result<Self> {
        let table = Table::map(&file, depth)?;
        Ok(Self { table, file, tags: vec![Tag::Ended; usize::from(depth)], stopping: false })
    }

    fn fetched(&mut self, io: &mut FrontIo<'_>, tag: u16) -> io::Result<()> {
        if self.stopping {
            // The device's next server gets it: the driver issues again what was not committed.
            self.tags[usize::from(tag)] = Tag::Ended;
            return Ok(());
        }
        let descriptor = self.table.descriptor(tag);
        let Some(request) = request(tag, &descriptor) else {
            let answer =
                -if descriptor.op > Descriptor::WRITE_ZEROES { libc::EOPNOTSUPP } else { libc::EINVAL };
            return self.commit(io, tag, answer);
        };
        if request.op == Op::Write && request.sector.offset_in_block() > 0 {
            let bytes = sector_bytes(request.sectors);
            io.slot_bytes(request.slot).copy_within(..bytes, request.sector.offset_in_block());
        }
        self.tags[usize::from(tag)] = Tag::Engine(request);
        io.submit(request);
        Ok(())
    }

    fn commit(&mut self, io: &mut FrontIo<'_>, tag: u16, result: i32) -> io::Result<()> {
        self.tags[usize::from(tag)] = Tag::Waiting;
        let data = io.slot_buffer(SlotId(tag));
        io.ring.queue_command(u64::from(tag), abi::COMMIT_AND_FETCH, abi::queue_command(tag, result), data)
    }
}

/// A descriptor as a request; `None` if it breaks the limits that the device was given.
pub(crate) fn request(tag: u16, descriptor: &Descriptor) -> Option<Request> {
    let op = match descriptor.op {
        Descriptor::READ => Op::Read,
        Descriptor::WRITE => Op::Write,
        Descriptor::FLUSH => Op::Flush,
        Descriptor::DISCARD => Op::Discard,
        Descriptor::WRITE_ZEROES => Op::WriteZeroes,
        _ => return None,
    };
    if matches!(op, Op::Read | Op::Write) && descriptor.sectors > MAX_SECTORS {
        return None;
    }
    let (start, sectors) = if op == Op::Flush { (0, 0) } else { (descriptor.start, descriptor.sectors) };
    Some(Request {
        slot: SlotId(tag),
        op,
        sector: Sector::new(start),
        sectors: Sectors::new(u64::from(sectors)),
        fua: descriptor.fua && op != Op::Read && op != Op::Flush,
    })
}

/// A fault as the block layer knows it.
fn errno_of(fault: Fault) -> i32 {
    match fault {
        Fault::NoSpace => libc::ENOSPC,
        Fault::ReadOnly => libc::EROFS,
        Fault::Invalid => libc::EINVAL,
        Fault::Medium | Fault::Gone | Fault::Timeout | Fault::Io => libc::EIO,
    }
}

impl FrontEnd for UblkQueue {
    fn memory_bytes(&self) -> usize {
        Self::MEMORY_BYTES
    }

    fn start(&mut self, io: &mut FrontIo<'_>, _memory: Region) -> io::Result<()> {
        // The queue belongs to the thread that fetches; memory it may allocate must not wait for the device.
        let _ = super::sys::set_io_flusher();
        assert!(self.tags.len() <= io.slot_count(), "each tag has a slot");
        io.ring.set_front_file(self.file.as_fd())?;
        for tag in 0..self.tags.len() as u16 {
            self.tags[usize::from(tag)] = Tag::Waiting;
            let data = io.slot_buffer(SlotId(tag));
            io.ring.queue_command(u64::from(tag), abi::FETCH, abi::queue_command(tag, -1), data)?;
        }
        Ok(())
    }

    fn event(&mut self, io: &mut FrontIo<'_>, id: u64, result: i32) -> io::Result<()> {
        let tag = u16::try_from(id).expect("an id is a tag");
        assert_eq!(self.tags[usize::from(tag)], Tag::Waiting, "the driver has the tag");
        match result {
            0 => self.fetched(io, tag),
            // The device was stopped, or its server is to leave: no more from this tag.
            _ if result == -libc::ENODEV => {
                self.tags[usize::from(tag)] = Tag::Ended;
                Ok(())
            }
            _ => Err(io::Error::from_raw_os_error(-result)),
        }
    }

    fn complete(&mut self, io: &mut FrontIo<'_>, slot: SlotId, result: Result<(), Fault>) -> io::Result<()> {
        let Tag::Engine(request) = self.tags[usize::from(slot.0)] else {
            panic!("the engine completed {slot:?}, which it did not have")
        };
        let bytes = sector_bytes(request.sectors);
        let answer = match (result, request.op) {
            (Err(fault), _) => -errno_of(fault),
            (Ok(()), Op::Read | Op::Write) => bytes as i32,
            (Ok(()), _) => 0,
        };
        let offset = request.sector.offset_in_block();
        if request.op == Op::Read && result.is_ok() && offset > 0 {
            io.slot_bytes(slot).copy_within(offset..offset + bytes, 0);
        }
        self.commit(io, slot.0, answer)
    }

    fn tick(&mut self, _io: &mut FrontIo<'_>) -> io::Result<Option<Instant>> {
        Ok(None)
    }

    fn stop(&mut self, _io: &mut FrontIo<'_>) -> io::Result<()> {
        self.stopping = true;
        Ok(())
    }

    fn finished(&self) -> bool {
        !self.tags.iter().any(|tag| matches!(tag, Tag::Engine(_)))
    }

    /// The control side tells the driver.
    fn resized(&mut self, _io: &mut FrontIo<'_>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(op: u8, sectors: u32) -> Descriptor {
        Descriptor { op, fua: true, sectors, start: 9 }
    }

    #[test]
    fn descriptors_become_requests() {
        let write = request(3, &descriptor(Descriptor::WRITE, 512)).unwrap();
        assert_eq!((write.slot, write.op, write.fua), (SlotId(3), Op::Write, true));
        assert_eq!((write.sector, write.sectors), (Sector::new(9), Sectors::new(512)));
        let flush = request(0, &descriptor(Descriptor::FLUSH, 5)).unwrap();
        assert_eq!((flush.sector, flush.sectors, flush.fua), (Sector::ZERO, Sectors::ZERO, false));
        assert_eq!(request(0, &descriptor(Descriptor::READ, 513)), None, "more than a slot holds");
        assert!(request(0, &descriptor(Descriptor::DISCARD, 1 << 20)).is_some());
        assert_eq!(request(0, &descriptor(4, 1)), None, "write-same was never offered");
    }
}
