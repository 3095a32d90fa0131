//! What a checkpoint does to free space.
//!
//! While a checkpoint runs, `set` and `clear` only append to a list; nothing that the durable checkpoint says is
//! changed in memory until the new one is durable. So a checkpoint that fails leaves no trace but the pages that
//! it placed, and writes go on taking blocks all the time. The bitmaps are written to the slots that the durable
//! directory does not name: until the superblock names the new directory they mean nothing.
use super::load::{entry, summary_of};
use super::{Contradiction, Fixed, Space, State};
use crate::bitmap::{Bitmap, Summary};
use crate::block_lists::Change;
use crate::refs::Ref;
use crate::space_layout::bitmap_slot;
use base::{Blocks, BufId, CkptNo, Memory, Pba, RegionNo};

/// `release_limbo` stops behind the region that takes it over so many changes: about a millisecond.
const RELEASED_AT_ONCE: usize = 1 << 14;

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
        let (region, bit) = self.locate(pba);
        self.changes.push(region, Change { bit, clear: false });
    }

    /// The running checkpoint does not refer to this block, which is mapped, or was taken and overwritten within
    /// the delta. At most once for a block and checkpoint; a block that is also `set` ends up not mapped.
    pub fn clear(&mut self, pba: Pba) {
        let (region, bit) = self.locate(pba);
        self.changes.push(region, Change { bit, clear: true });
    }

    /// How many more calls of `set` and `clear` fit into this checkpoint; what its directory needs is kept back.
    pub fn change_room(&self) -> usize {
        self.changes.room().saturating_sub(self.config.directory_changes())
    }

    /// The superblock that names the sealed directory is durable on every current leg. The blocks that were
    /// cleared are in limbo now. Short whatever the number of changes: they are taken over region by region, by
    /// `release_limbo` or when a region comes into memory or leaves it.
    pub fn checkpoint_durable(&mut self) {
        self.assert_released();
        self.settle_marks();
        assert_eq!(self.sealed.len(), self.changes.regions().len(), "a bitmap was not sealed");
        for i in 0..self.sealed.len() {
            let (region, bitmap) = self.sealed[i];
            assert!(self.changes.of(region).next().is_some(), "a bitmap was sealed that does not change");
            let summary = summary_of(&bitmap);
            let row = &mut self.rows[region.get() as usize];
            self.durable_free = self.durable_free + u64::from(summary.free) - u64::from(row.free);
            row.bitmap = bitmap;
            (row.free, row.longest) = (summary.free as u16, summary.longest as u16);
            row.turned = false;
        }
        core::mem::swap(&mut self.limbo, &mut self.changes);
        self.end_checkpoint();
    }

    /// The running checkpoint is given up: no superblock that names its directory was written, nor will be, and
    /// none of its writes is in flight. What it placed goes to limbo; everything else is as before it began.
    pub fn checkpoint_failed(&mut self) {
        self.assert_released();
        self.settle_marks();
        self.changes.reset();
        for i in 0..self.placed.len() {
            let (region, bit) = self.locate(self.placed[i]);
            self.limbo.push(region, Change { bit, clear: true });
            self.rows[region.get() as usize].turned = false;
        }
        self.end_checkpoint();
    }

    /// Limbo belongs to one checkpoint: it is released before the next one ends (and before it is sealed).
    pub(crate) fn assert_released(&self) {
        assert!(self.limbo.regions().is_empty(), "limbo must be released between two checkpoints");
    }

    fn end_checkpoint(&mut self) {
        self.sealed.clear();
        self.placed.clear();
        self.needs.retry();
    }

    /// Takes over what the durable checkpoint changed in a region, unless that was done: into the bitmaps if it
    /// is in memory, else by ending the marks of the blocks.
    pub(super) fn turn(&mut self, region: RegionNo) {
        let row = &mut self.rows[region.get() as usize];
        if core::mem::replace(&mut row.turned, true) {
            return;
        }
        let State::Loaded(frame) = row.state else {
            let (first, _) = self.bounds(region);
            let cleared = self.limbo.cleared(region);
            for change in self.limbo.of(region) {
                if change.clear || !cleared.get(change.bit) {
                    let marked = self.marks.kill(first + Blocks::new(u64::from(change.bit)));
                    assert!(marked || change.clear, "a block was mapped that was not taken");
                }
            }
            return;
        };
        let cleared = self.limbo.cleared(region);
        let held = &mut self.frames[frame as usize];
        for change in self.limbo.of(region) {
            if change.clear {
                held.unmap(change.bit);
            } else if !cleared.get(change.bit) {
                held.map(change.bit);
            }
        }
    }

    /// Nothing that began before the last `checkpoint_durable` (or `checkpoint_failed`) holds a block any more:
    /// limbo becomes free. Does a bounded part of the work (the regions of some ten thousand blocks); call it
    /// until it returns true, before the next checkpoint begins.
    #[must_use = "call again until it returns true"]
    pub fn release_limbo(&mut self) -> bool {
        let mut done = 0;
        while done < RELEASED_AT_ONCE {
            let Some(region) = self.limbo.regions().last().copied() else { break };
            self.turn(region);
            self.release_region(region);
            done += self.limbo.pop();
        }
        self.needs.retry();
        self.limbo.regions().is_empty()
    }

    fn release_region(&mut self, region: RegionNo) {
        let state = self.rows[region.get() as usize].state;
        if state == State::Lost {
            return;
        }
        let (mut low, mut high, mut count) = (u32::MAX, 0, 0);
        for change in self.limbo.of(region).filter(|change| change.clear) {
            (low, high, count) = (low.min(change.bit), high.max(change.bit), count + 1);
            if let State::Loaded(frame) = state {
                self.frames[frame as usize].free_bit(change.bit);
            }
        }
        if count == 0 {
            return;
        }
        if let State::Loaded(frame) = state {
            self.frames[frame as usize].freed(low, high);
            self.loaded_free += count;
        }
        self.free += count;
        self.forget_offer(region);
        self.shelve(region);
    }

    /// The lowest checkpoint that any region's durable bitmap is of; `None` if there is none.
    pub fn oldest_bitmap(&self) -> Option<CkptNo> {
        self.rows.iter().filter(|row| !row.bitmap.is_absent()).map(|row| row.bitmap.ckpt()).min()
    }

    /// The regions that the running checkpoint changes; it may grow.
    pub(crate) fn dirty(&self) -> &[RegionNo] {
        self.changes.regions()
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

    /// Makes a region's next bitmap from its durable bits: fills `out` and seals it, remembers the entry, and returns it. Its
    /// Pba says where to write: the slot that the durable directory does not name.
    ///
    /// # Errors
    /// The bits are not those that the directory describes, or the changes contradict them.
    pub(crate) fn seal_bitmap(
        &mut self,
        region: RegionNo,
        mut bits: Bitmap,
        ckpt: CkptNo,
        memory: &mut impl Memory,
        out: BufId,
    ) -> Result<Ref, Contradiction> {
        let (first, _) = self.bounds(region);
        let row = &self.rows[region.get() as usize];
        let described = Summary { free: u32::from(row.free), longest: u32::from(row.longest) };
        let fits = if bits.summary(self.config.region_blocks) == described {
            self.changes_fit(region, &bits)
        } else {
            Err(Contradiction::Bitmap(region))
        };
        if let Err(what) = fits {
            self.contradict(what);
            return Err(what);
        }
        let cleared = self.changes.cleared(region);
        for change in self.changes.of(region) {
            if change.clear {
                bits.clear(change.bit);
            } else if !cleared.get(change.bit) {
                assert!(bits.set(change.bit), "bit {} of region {region} is mapped twice", change.bit);
            }
        }
        bits.encode(memory.block_mut(out));
        let durable = self.rows[region.get() as usize].bitmap.pba;
        let slot = if durable == bitmap_slot(first, 0) { 1 } else { 0 };
        let summary = bits.summary(self.config.region_blocks);
        let place = bitmap_slot(first, slot);
        let bitmap = entry(place, summary, ckpt, memory.seal_page(out, place, ckpt));
        assert!(self.sealed.len() < self.sealed.capacity());
        self.sealed.push((region, bitmap));
        Ok(bitmap)
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
