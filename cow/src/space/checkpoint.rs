//! What a checkpoint does to free space.
//!
//! While a checkpoint runs, `set` and `clear` only append to a list; nothing that the durable checkpoint says is
//! changed in memory until the new one is durable. So a checkpoint that fails leaves no trace but the pages that
//! it placed, and writes go on taking blocks all the time. The bitmaps are written to the slots that the durable
//! directory does not name: until the superblock names the new directory they mean nothing.
use super::load::{entry, summary_of};
use super::{Fixed, Space, State};
use crate::bitmap::Bitmap;
use crate::refs::Ref;
use crate::space_layout::bitmap_slot;
use base::{Block, Blocks, Check, CkptNo, Pba, RegionNo};

/// Where the durable bits of a region are.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one call; nothing is allocated per request"
)]
pub(crate) enum Stored {
    /// Here.
    Memory(Bitmap),
    /// On the drives.
    Drive(Ref),
    /// The leaf of the bitmap tree that tells was not read yet.
    Unknown,
}

impl Space {
    /// The running checkpoint refers to this block. It was taken (or marked) and is not mapped.
    pub fn set(&mut self, pba: Pba) {
        self.locate(pba);
        self.changes.push(pba, false);
    }

    /// The running checkpoint does not refer to this block, which is mapped, or was taken and overwritten within
    /// the delta. At most once for a block and checkpoint; a block that is also `set` ends up not mapped.
    pub fn clear(&mut self, pba: Pba) {
        self.locate(pba);
        self.changes.push(pba, true);
    }

    /// How many more calls of `set` and `clear` fit into this checkpoint; what its directory needs is kept back.
    pub fn change_room(&self) -> usize {
        self.changes.room().saturating_sub(self.config.directory_changes())
    }

    /// The superblock that names the sealed directory is durable on every current leg. The blocks that were
    /// cleared are in limbo now.
    pub fn checkpoint_durable(&mut self) {
        self.settle_marks();
        self.changes.sort();
        let mut applied = 0;
        for i in 0..self.sealed.len() {
            let (region, bitmap) = self.sealed[i];
            let summary = summary_of(&bitmap);
            let row = &mut self.rows[region.get() as usize];
            self.durable_free = self.durable_free + u64::from(summary.free) - u64::from(row.free);
            row.bitmap = bitmap;
            (row.free, row.longest) = (summary.free as u16, summary.longest as u16);
            applied += self.turn(region);
            self.shelve(region);
        }
        assert_eq!(applied, self.changes.len(), "a checkpoint left changes out of its bitmaps");
        self.limbo.settle();
        self.end_checkpoint();
    }

    /// Takes over a region's changes into what is in memory; returns how many.
    fn turn(&mut self, region: RegionNo) -> usize {
        let (first, end) = self.bounds(region);
        let frame = self.frame_of(region);
        for change in self.changes.range(first, end) {
            let bit = (change.pba - first).get() as u32;
            match (frame, change.clear) {
                (Some(frame), false) => self.frames[frame as usize].map(bit),
                (Some(frame), true) => self.frames[frame as usize].unmap(bit),
                (None, clear) => {
                    let marked = self.marks.kill(change.pba);
                    assert!(marked || clear, "a block was mapped that was not taken");
                }
            }
            if change.clear {
                self.limbo.push(change.pba);
            }
        }
        self.changes.count(first, end)
    }

    /// The running checkpoint is given up: no superblock that names its directory was written, nor will be, and
    /// none of its writes is in flight. What it placed goes to limbo; everything else is as before it began.
    pub fn checkpoint_failed(&mut self) {
        self.settle_marks();
        for i in 0..self.placed.len() {
            let pba = self.placed[i];
            if self.frame_of(self.locate(pba).0).is_none() {
                assert!(self.marks.kill(pba), "a page was placed on a block that was not taken");
            }
            self.limbo.push(pba);
        }
        self.limbo.settle();
        self.end_checkpoint();
    }

    fn end_checkpoint(&mut self) {
        self.changes.reset();
        self.sealed.clear();
        self.placed.clear();
        self.needs.retry();
    }

    /// Nothing that began before the last `checkpoint_durable` (or `checkpoint_failed`) holds a block any more:
    /// limbo becomes free. Must come between two checkpoints; a few ms for a million blocks.
    pub fn release_limbo(&mut self) {
        let mut at = 0;
        while at < self.limbo.len() {
            let (region, _) = self.locate(self.limbo.blocks()[at]);
            let (first, end) = self.bounds(region);
            let blocks = self.limbo.range(first, end);
            at += blocks.len();
            match self.rows[region.get() as usize].state {
                State::Lost => continue,
                State::Loaded(frame) => {
                    let held = &mut self.frames[frame as usize];
                    let bit = |pba: &Pba| (*pba - first).get() as u32;
                    blocks.iter().for_each(|pba| held.free_bit(bit(pba)));
                    held.freed(bit(&blocks[0]), bit(&blocks[blocks.len() - 1]));
                    self.loaded_free += blocks.len() as u64;
                }
                _ => {}
            }
            self.free += blocks.len() as u64;
            self.forget_offer(region);
            self.shelve(region);
        }
        self.limbo.reset();
        self.needs.retry();
    }

    /// Number of changes so far.
    pub(crate) fn changes(&self) -> usize {
        self.changes.len()
    }

    /// The regions of the changes from number `from` on, in the order of calls (before `sort_changes`).
    pub(crate) fn changed_regions(&self, from: usize) -> impl Iterator<Item = RegionNo> {
        self.changes.raw(from).map(|pba| self.locate(pba).0)
    }

    /// Ends the collecting of changes.
    pub(crate) fn sort_changes(&mut self) {
        self.changes.sort();
    }

    /// Where a region's durable bits are.
    pub(crate) fn stored(&self, region: RegionNo, fixed: &impl Fixed) -> Stored {
        let row = &self.rows[region.get() as usize];
        match row.state {
            State::Unknown => Stored::Unknown,
            State::Loaded(frame) => Stored::Memory(self.frames[frame as usize].view().clone()),
            _ if row.bitmap.is_absent() => Stored::Memory(self.fixed_bits(region, fixed)),
            _ => Stored::Drive(row.bitmap),
        }
    }

    /// Makes a region's next bitmap from its durable bits: fills `out`, remembers the entry, and returns it. Its
    /// Pba says where to write: the slot that the durable directory does not name.
    pub(crate) fn seal_bitmap(
        &mut self,
        region: RegionNo,
        mut bits: Bitmap,
        ckpt: CkptNo,
        out: &mut Block,
    ) -> Ref {
        let (first, end) = self.bounds(region);
        for change in self.changes.range(first, end) {
            let bit = (change.pba - first).get() as u32;
            if change.clear {
                bits.clear(bit);
            } else {
                assert!(bits.set(bit), "block {} is mapped twice", change.pba);
            }
        }
        bits.encode(out);
        let durable = self.rows[region.get() as usize].bitmap.pba;
        let slot = if durable == bitmap_slot(first, 0) { 1 } else { 0 };
        let summary = bits.summary(self.config.region_blocks);
        let bitmap = entry(bitmap_slot(first, slot), summary, ckpt, Check::of(out));
        assert!(self.sealed.len() < self.sealed.capacity());
        self.sealed.push((region, bitmap));
        bitmap
    }

    /// Brings the sealed bitmaps into the order of their regions.
    pub(crate) fn sort_sealed(&mut self) {
        self.sealed.sort_unstable_by_key(|(region, _)| *region);
        assert!(self.sealed.windows(2).all(|w| w[0].0 < w[1].0), "a bitmap is sealed twice");
    }

    /// The sealed bitmaps of the regions `first .. end`, in order.
    pub(crate) fn sealed(&self, first: RegionNo, end: RegionNo) -> &[(RegionNo, Ref)] {
        let low = self.sealed.partition_point(|(region, _)| *region < first);
        let high = self.sealed.partition_point(|(region, _)| *region < end);
        &self.sealed[low..high]
    }

    /// Used blocks, fixed ones included, once the running checkpoint is durable.
    pub(crate) fn sealed_used(&self) -> Blocks {
        let free = self.sealed.iter().fold(self.durable_free, |free, (region, bitmap)| {
            free + u64::from(summary_of(bitmap).free) - u64::from(self.rows[region.get() as usize].free)
        });
        self.total() - Blocks::new(free)
    }
}
