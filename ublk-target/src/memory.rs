//! One mapped area of memory for everything that the kernel reads or writes on our behalf.
//!
//! The area has two parts. The first belongs to the engine: blocks, numbered by `BufId`, registered with the
//! ring and locked. The second belongs to the front end (receive and send buffers): byte ranges, `Region`s.
//!
//! Why one area, owned by the ring: an operation in flight names memory by number, never by reference, and the
//! area outlives every operation (`Ring` waits for them before it lets go). So no Rust reference can dangle, and
//! the only rule left is `base::Memory`'s: while an operation is in flight its bytes are the kernel's. If a
//! caller breaks that rule the result is wrong data, found by the checks, not undefined addresses.
use base::{BLOCK_BYTES, BufId, Memory};
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// The kernel pins a registered buffer of at most this many bytes (`io_sqe_buffer_register`).
pub(crate) const MAX_REGISTERED_BYTES: usize = 1 << 30;

/// Whether the engine's part of the area is safe from being paged out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Locked {
    /// Locked and present.
    Yes,
    /// The limit on locked memory forbids it: under memory pressure a page of ours may have to be read back
    /// from swap, which must not depend on the volume that we serve.
    No {
        /// Bytes that would have to be locked.
        wanted_bytes: usize,
        /// The errno of `mlock`.
        errno: i32,
    },
}

/// A byte range of the front end's part, handed out once at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    start: usize,
    len: usize,
}

impl Region {
    /// Length in bytes.
    pub fn len(self) -> usize {
        self.len
    }
    /// Whether it holds nothing.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
    /// `len` bytes of it from byte `from`; panics outside.
    #[must_use]
    pub fn part(self, from: usize, len: usize) -> Self {
        assert!(from <= self.len && len <= self.len - from, "a part of a region lies inside it");
        Self { start: self.start + from, len }
    }
    /// Cuts off the first `len` bytes.
    #[must_use]
    pub fn split(self, len: usize) -> (Self, Self) {
        (self.part(0, len), self.part(len, self.len - len))
    }
}

/// The mapped area.
pub struct Area {
    start: NonNull<u8>,
    len: usize,
    engine_blocks: u32,
    locked: Locked,
}

// SAFETY: the area is plain memory that this value alone owns; nothing in it is tied to a thread.
unsafe impl Send for Area {}

impl Area {
    /// Maps `engine_blocks` blocks, present and locked, and `front_bytes` bytes that become present on use.
    ///
    /// # Errors
    /// The mapping fails (no memory). A refused lock is no error: see `locked`.
    pub fn new(engine_blocks: u32, front_bytes: usize) -> io::Result<Self> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        let engine_bytes = engine_blocks as usize * BLOCK_BYTES;
        let len = engine_bytes + front_bytes.next_multiple_of(BLOCK_BYTES);
        let size = NonZeroUsize::new(len).expect("an area is not empty");
        // SAFETY: a new anonymous mapping at an address of the kernel's choice; it aliases nothing.
        let start = unsafe {
            mmap_anonymous(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )?
        };
        let mut area = Self { start: start.cast(), len, engine_blocks, locked: Locked::Yes };
        // A child that shares the pages by copy-on-write would take them away from under a transfer.
        // SAFETY: the range is exactly the mapping made above.
        unsafe { nix::sys::mman::madvise(start, len, nix::sys::mman::MmapAdvise::MADV_DONTFORK)? };
        // SAFETY: the range is the beginning of the mapping made above.
        let lock = unsafe { nix::sys::mman::mlock(start, engine_bytes) };
        if let Err(errno) = lock {
            area.locked = Locked::No { wanted_bytes: engine_bytes, errno: errno as i32 };
            area.front_and_engine_mut()[..engine_bytes].fill(0);
        }
        Ok(area)
    }

    /// Whether the engine's part is locked.
    pub fn locked(&self) -> Locked {
        self.locked
    }

    /// The front end's whole part.
    pub fn front(&self) -> Region {
        let start = self.engine_bytes();
        Region { start, len: self.len - start }
    }

    /// The bytes of a region.
    pub fn bytes(&self, region: Region) -> &[u8] {
        // SAFETY: the whole mapping is initialised (zeroed by the kernel) and lives as long as `self`.
        let all = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) };
        &all[region.start..region.start + region.len]
    }

    /// The bytes of a region, to change.
    pub fn bytes_mut(&mut self, region: Region) -> &mut [u8] {
        let Region { start, len } = region;
        &mut self.front_and_engine_mut()[start..start + len]
    }

    /// Gives a region's memory back to the system; it reads as zero afterwards. Only whole pages go.
    pub fn release(&mut self, region: Region) {
        let first = region.start.next_multiple_of(BLOCK_BYTES);
        let end = (region.start + region.len) / BLOCK_BYTES * BLOCK_BYTES;
        assert!(first >= self.engine_bytes(), "the engine's memory stays");
        if first < end {
            // SAFETY: page-aligned and inside the mapping; anonymous pages read as zero afterwards.
            let _ = unsafe {
                nix::sys::mman::madvise(
                    self.start.add(first).cast(),
                    end - first,
                    nix::sys::mman::MmapAdvise::MADV_DONTNEED,
                )
            };
        }
    }

    /// Copies bytes between a front region and the engine's part, in either direction; the two parts never
    /// overlap, so both slices can be had at once. Returns (engine bytes from `buf`, front bytes).
    pub fn split_mut(&mut self, buf: BufId, front: Region) -> (&mut [u8], &mut [u8]) {
        let engine_bytes = self.engine_bytes();
        assert!(front.start >= engine_bytes, "a front region lies behind the engine's part");
        let (engine, rest) = self.front_and_engine_mut().split_at_mut(engine_bytes);
        let from = front.start - engine_bytes;
        (&mut engine[buf.get() as usize * BLOCK_BYTES..], &mut rest[from..from + front.len])
    }

    /// Bytes of the engine's part.
    pub(crate) fn engine_bytes(&self) -> usize {
        self.engine_blocks as usize * BLOCK_BYTES
    }

    /// Address of an engine block, for the kernel; `count` blocks from it lie inside the area.
    pub(crate) fn block_address(&self, buf: BufId, count: u32) -> *mut u8 {
        assert!(
            buf.get().checked_add(count).is_some_and(|end| end <= self.engine_blocks),
            "an action names memory outside the area"
        );
        // SAFETY: checked just now to lie inside the mapping.
        unsafe { self.start.as_ptr().add(buf.get() as usize * BLOCK_BYTES) }
    }

    /// Puts new pages, all zero, under the engine's blocks of which these bytes are a part. What has the old ones (a
    /// transfer under way in registered memory) keeps them, and reads and writes nothing of the area any more.
    ///
    /// # Errors
    /// The kernel refuses (it is older than 5.18); then nothing has changed.
    pub(crate) fn renew(&mut self, first: usize, bytes: usize) -> io::Result<()> {
        let start = first / BLOCK_BYTES * BLOCK_BYTES;
        let end = (first + bytes).next_multiple_of(BLOCK_BYTES);
        assert!(end <= self.engine_bytes(), "only the engine's memory is renewed");
        // SAFETY: page-aligned and inside the mapping, of which `self` is borrowed mutably; anonymous pages read as zero
        // afterwards.
        let done = unsafe {
            libc::madvise(self.start.as_ptr().add(start).cast(), end - start, libc::MADV_DONTNEED_LOCKED)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Address of a region, for the kernel.
    pub(crate) fn region_address(&self, region: Region) -> *mut u8 {
        assert!(region.start + region.len <= self.len, "a region lies inside the area");
        // SAFETY: checked just now to lie inside the mapping.
        unsafe { self.start.as_ptr().add(region.start) }
    }

    fn front_and_engine_mut(&mut self) -> &mut [u8] {
        // SAFETY: the whole mapping is initialised, lives as long as `self`, and is borrowed mutably here.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, and no slice of it can outlive `self`.
        let _ = unsafe { nix::sys::mman::munmap(self.start.cast(), self.len) };
    }
}

impl Memory for Area {
    fn blocks(&self, first: BufId, count: u32) -> &[u8] {
        let start = first.get() as usize * BLOCK_BYTES;
        let end = start + count as usize * BLOCK_BYTES;
        assert!(end <= self.engine_bytes(), "block outside the engine's memory");
        self.bytes(Region { start, len: end - start })
    }
    fn blocks_mut(&mut self, first: BufId, count: u32) -> &mut [u8] {
        let start = first.get() as usize * BLOCK_BYTES;
        let end = start + count as usize * BLOCK_BYTES;
        assert!(end <= self.engine_bytes(), "block outside the engine's memory");
        self.bytes_mut(Region { start, len: end - start })
    }
    fn copy_block(&mut self, from: BufId, to: BufId) {
        let (from, to) = (from.get() as usize * BLOCK_BYTES, to.get() as usize * BLOCK_BYTES);
        let end = self.engine_bytes();
        self.front_and_engine_mut()[..end].copy_within(from..from + BLOCK_BYTES, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_start_zeroed() {
        let mut area = Area::new(4, 5000).unwrap();
        let front = area.front();
        assert_eq!(front.len(), 8192);
        area.block_mut(BufId::new(3)).fill(7);
        assert!(area.bytes(front).iter().all(|b| *b == 0));
        let (engine, bytes) = area.split_mut(BufId::new(3), front.part(100, 10));
        bytes.copy_from_slice(&engine[..10]);
        assert_eq!(area.bytes(front.part(99, 12)), [0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
        area.copy_block(BufId::new(3), BufId::new(0));
        assert_eq!(area.block(BufId::new(0)), &[7; BLOCK_BYTES]);
    }

    #[test]
    fn renewed_memory_reads_as_zero() {
        let mut area = Area::new(3, 4096).unwrap();
        area.blocks_mut(BufId::new(0), 3).fill(1);
        area.renew(BLOCK_BYTES + 512, 512).unwrap();
        for (block, byte) in [(0, 1), (1, 0), (2, 1)] {
            assert_eq!(area.block(BufId::new(block)), &[byte; BLOCK_BYTES]);
        }
    }

    #[test]
    fn released_memory_reads_as_zero() {
        let mut area = Area::new(1, 4096 * 4).unwrap();
        let front = area.front();
        area.bytes_mut(front).fill(1);
        area.release(front.part(4096, 8192));
        assert!(area.bytes(front.part(4096, 8192)).iter().all(|b| *b == 0));
        assert_eq!(area.bytes(front)[0], 1);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_block_outside_is_a_bug() {
        let area = Area::new(2, 4096).unwrap();
        let _ = area.blocks(BufId::new(1), 2);
    }
}
