//! The buffers of a group: blocks of memory that the driver owns and the engine addresses by number.
//!
//! The driver registers one area with the kernel; the engine, which may not hold pointers, names blocks of it
//! (`BufId`) in its actions and asks for their bytes through `Memory`. Contract: between an action that names
//! a block and the completion of that action, the engine does not touch the block's bytes when the action is a
//! read, and only reads them when it is a write. An operation that was given up is completed like any other: whatever
//! the drive still does then, it does to memory that no number leads to any more.
use crate::{BLOCK_BYTES, Check, CkptNo, Pba};
use alloc::vec;
use alloc::vec::Vec;

/// One block's bytes.
pub type Block = [u8; BLOCK_BYTES];

/// A block of the driver's memory, counted from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BufId(u32);

impl BufId {
    /// The block at this index.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }
    /// The index.
    pub const fn get(self) -> u32 {
        self.0
    }
    /// The block that lies `count` further on.
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0 + count)
    }
}

/// Access to the bytes of buffers. Panics when a block lies outside: the engine's numbering is wrong then.
pub trait Memory {
    /// `count` blocks from `first`, as one slice of `count * 4096` bytes.
    fn blocks(&self, first: BufId, count: u32) -> &[u8];
    /// The same, to change.
    fn blocks_mut(&mut self, first: BufId, count: u32) -> &mut [u8];
    /// Copies one block over another.
    fn copy_block(&mut self, from: BufId, to: BufId);

    /// One block.
    fn block(&self, buf: BufId) -> &Block {
        self.blocks(buf, 1).try_into().expect("one block")
    }
    /// One block, to change.
    fn block_mut(&mut self, buf: BufId) -> &mut Block {
        self.blocks_mut(buf, 1).try_into().expect("one block")
    }

    /// Makes a page ready to be written to `at` by checkpoint `ckpt`: its check. In an encrypted group its bytes are
    /// ciphertext from then on, and each (checkpoint, place) is sealed with one content only.
    fn seal_page(&mut self, buf: BufId, _at: Pba, _ckpt: CkptNo) -> Check {
        Check::of(self.block(buf))
    }
    /// Whether a page that was read is the one that has this check. In an encrypted group its bytes are plain text from
    /// then on; if it is another one, its bytes are lost.
    fn open_page(&mut self, buf: BufId, _at: Pba, _ckpt: CkptNo, check: Check) -> bool {
        Check::of(self.block(buf)) == check
    }
}

/// Memory in a plain vector, for the simulator and for tests.
pub struct VecMemory(Vec<u8>);

impl VecMemory {
    /// `count` zeroed blocks.
    pub fn new(count: u32) -> Self {
        Self(vec![0; count as usize * BLOCK_BYTES])
    }
}

impl Memory for VecMemory {
    fn blocks(&self, first: BufId, count: u32) -> &[u8] {
        let start = first.0 as usize * BLOCK_BYTES;
        &self.0[start..start + count as usize * BLOCK_BYTES]
    }
    fn blocks_mut(&mut self, first: BufId, count: u32) -> &mut [u8] {
        let start = first.0 as usize * BLOCK_BYTES;
        &mut self.0[start..start + count as usize * BLOCK_BYTES]
    }
    fn copy_block(&mut self, from: BufId, to: BufId) {
        let start = from.0 as usize * BLOCK_BYTES;
        self.0.copy_within(start..start + BLOCK_BYTES, to.0 as usize * BLOCK_BYTES);
    }
}
