//! What a front end (NBD, ublk) is to the loop, and the loop to it.
//!
//! A front end owns the request slots: it fills a slot's buffer, hands in the request, and has the slot back when
//! `complete` is called. Everything happens on the loop's thread. Errors returned from here are those of the ring
//! itself and end the target (a new one recovers); a client's misbehaviour never does.
use crate::memory::Region;
use crate::ring::Ring;
use base::limits::SLOT_DATA_BLOCKS;
use base::{BufId, Fault, Instant, Memory, Op, Request, Sector, Sectors, SlotId};
use std::io;

/// Whether a range holds anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Written, or not known to be empty.
    Data,
    /// Reads as zero and takes no space.
    Hole,
}

/// Tells where a volume holds data, for NBD's block status.
pub trait Allocation {
    /// What lies at `from`, and for how many sectors (at least 1, at most `limit`) that is so. Saying `Data` is
    /// always right; `Hole` must read as zero.
    fn allocation(&self, memory: &dyn Memory, from: Sector, limit: Sectors) -> (Extent, Sectors) {
        let _ = (memory, from);
        (Extent::Data, limit)
    }
}

/// The volume as its users see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeInfo {
    /// Its size.
    pub sectors: Sectors,
    /// Bytes of a full stripe (columns times stripe unit): the best size of a transfer.
    pub stripe_bytes: u32,
    /// The longest discard or write-zeroes that the engine takes as one request.
    pub max_discard: Sectors,
    /// Whether it takes no writes.
    pub read_only: bool,
}

/// What the loop lends to a front end for the length of a call.
pub struct FrontIo<'a> {
    /// The ring, with the memory.
    pub ring: &'a mut Ring,
    /// The time.
    pub now: Instant,
    /// The volume.
    pub volume: &'a VolumeInfo,
    pub(crate) requests: &'a mut Vec<Request>,
    pub(crate) slots: &'a [BufId],
    pub(crate) allocation: &'a dyn Allocation,
}

impl FrontIo<'_> {
    /// Hands in a request; its slot is the engine's until `complete`.
    pub fn submit(&mut self, request: Request) {
        assert!(self.requests.len() < self.requests.capacity(), "a slot holds one request");
        if matches!(request.op, Op::Read | Op::Write) {
            let bytes = request.sector.offset_in_block() + sector_bytes(request.sectors);
            assert!(
                bytes <= SLOT_DATA_BLOCKS as usize * base::BLOCK_BYTES,
                "front ends split what is larger"
            );
        }
        self.requests.push(request);
    }

    /// How many slots there are.
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The first block of a slot's buffer.
    pub fn slot_buffer(&self, slot: SlotId) -> BufId {
        self.slots[slot.0 as usize]
    }

    /// A slot's whole buffer.
    pub fn slot_bytes(&mut self, slot: SlotId) -> &mut [u8] {
        self.ring.blocks_mut(self.slots[slot.0 as usize], SLOT_DATA_BLOCKS)
    }

    /// Copies `front` into a slot's buffer at byte `at`.
    pub fn copy_in(&mut self, slot: SlotId, at: usize, front: Region) {
        let (engine, bytes) = self.ring.area_mut().split_mut(self.slots[slot.0 as usize], front);
        engine[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Copies a slot's buffer from byte `at` into `front`.
    pub fn copy_out(&mut self, slot: SlotId, at: usize, front: Region) {
        let (engine, bytes) = self.ring.area_mut().split_mut(self.slots[slot.0 as usize], front);
        bytes.copy_from_slice(&engine[at..at + bytes.len()]);
    }

    /// What the volume holds at a place; see `Allocation`.
    pub fn allocation(&self, from: Sector, limit: Sectors) -> (Extent, Sectors) {
        let (extent, sectors) = self.allocation.allocation(&*self.ring, from, limit);
        assert!(sectors > Sectors::ZERO && sectors <= limit, "an extent lies inside what was asked");
        (extent, sectors)
    }
}

/// A way for guests to reach the volume.
pub trait FrontEnd {
    /// Bytes of memory that it needs for itself (beside the slots).
    fn memory_bytes(&self) -> usize;
    /// Begins: gets its memory, submits its first operations.
    ///
    /// # Errors
    /// The ring failed.
    fn start(&mut self, io: &mut FrontIo<'_>, memory: Region) -> io::Result<()>;
    /// One of its operations on the ring ended: `id` as it was given, a count or a negative error number.
    ///
    /// # Errors
    /// The ring failed.
    fn event(&mut self, io: &mut FrontIo<'_>, id: u64, result: i32) -> io::Result<()>;
    /// A request is finished; the slot is free again. For reads its buffer holds the data until this returns.
    ///
    /// # Errors
    /// The ring failed.
    fn complete(&mut self, io: &mut FrontIo<'_>, slot: SlotId, result: Result<(), Fault>) -> io::Result<()>;
    /// Called when the time it returned last has come; returns the next.
    ///
    /// # Errors
    /// The ring failed.
    fn tick(&mut self, io: &mut FrontIo<'_>) -> io::Result<Option<Instant>>;
    /// No further requests are to be handed in; those under way are still completed.
    ///
    /// # Errors
    /// The ring failed.
    fn stop(&mut self, io: &mut FrontIo<'_>) -> io::Result<()>;
    /// Clients that are connected; 0 where users are not seen (a device's are the kernel's to count).
    fn clients(&self) -> usize {
        0
    }
    /// After `stop` and the engine's end: whether all replies have left.
    fn finished(&self) -> bool;
    /// The volume's size changed (already in `io.volume`).
    ///
    /// # Errors
    /// The ring failed.
    fn resized(&mut self, io: &mut FrontIo<'_>) -> io::Result<()>;
}

/// No way at all: a group that is active without a guest (it still checkpoints and recovers).
pub struct NoFrontEnd;

impl FrontEnd for NoFrontEnd {
    fn memory_bytes(&self) -> usize {
        0
    }
    fn start(&mut self, _io: &mut FrontIo<'_>, _memory: Region) -> io::Result<()> {
        Ok(())
    }
    fn event(&mut self, _io: &mut FrontIo<'_>, id: u64, _result: i32) -> io::Result<()> {
        panic!("no operation {id} was ever submitted")
    }
    fn complete(
        &mut self,
        _io: &mut FrontIo<'_>,
        slot: SlotId,
        _result: Result<(), Fault>,
    ) -> io::Result<()> {
        panic!("no request was ever made in {slot:?}")
    }
    fn tick(&mut self, _io: &mut FrontIo<'_>) -> io::Result<Option<Instant>> {
        Ok(None)
    }
    fn stop(&mut self, _io: &mut FrontIo<'_>) -> io::Result<()> {
        Ok(())
    }
    fn finished(&self) -> bool {
        true
    }
    fn resized(&mut self, _io: &mut FrontIo<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of a sector count that fits memory.
pub(crate) fn sector_bytes(sectors: Sectors) -> usize {
    usize::try_from(sectors.get()).expect("fits memory") * base::SECTOR_BYTES
}
