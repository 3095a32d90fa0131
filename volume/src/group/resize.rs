//! The volume's size, and what it says of a range without reading it.
use super::Group;
use crate::planted::Planted;
use crate::slots::Slot;
use base::{Memory, Sector, Sectors};
use cow::{page, tree};

/// Blocks that one question about holes looks at, at most: a few ms.
const MAX_LOOK: u64 = 16_384;

impl Group {
    /// Begins to grow the volume. Crash story: what was acknowledged in the new part would lie beyond the end
    /// after a crash, so requests there wait until a checkpoint that says the new size is durable; one is forced.
    pub fn grow_volume(&mut self, sectors: Sectors) -> bool {
        let blocks = sectors.get().div_ceil(base::SECTORS_PER_BLOCK);
        let takes_writes = self.halt.is_none() && !self.config.read_only;
        let fits = takes_writes && sectors >= self.grown && blocks <= self.volume.height.covers().get();
        if fits && sectors > self.grown {
            self.grown = sectors;
            if self.config.bug(Planted::SizeTooEarly) {
                self.volume.sectors = sectors;
            }
            self.checkpoint.force = true;
            self.again = true;
        }
        fits
    }

    /// Memory for as many rows as a volume of this size can need. Called where no checkpoint runs: at an open, and before
    /// the first checkpoint after the volume has grown.
    pub fn make_room(&mut self) {
        let wanted = self.geometry.rows_for(self.grown, &self.config).min(self.geometry.rows_named());
        let rows = self.superblock.rows.max(self.config.max_rows.min(wanted as u32));
        let regions = rows * u32::from(self.geometry.columns);
        if regions > self.space.config().max_regions {
            self.space.make_room(regions);
            self.seal.make_room(self.space.config());
        }
    }

    /// Whether a request lies in the part that the volume is growing by: it waits until that is durable.
    pub fn waits_for_growth(&self, slot: &Slot) -> bool {
        let end = slot.request.sector.get().saturating_add(slot.request.sectors.get());
        self.halt.is_none() && end > self.volume.sectors.get() && end <= self.grown.get()
    }

    /// Whether the block at `sector` is a hole, and how many sectors from there on are alike, as far as memory
    /// tells; a part of the map that is not in memory counts as data. Looks at `MAX_LOOK` blocks at most.
    pub fn extent_at(&self, sector: Sector, most: Sectors, memory: &dyn Memory) -> Option<(bool, Sectors)> {
        let most = most.get().min(MAX_LOOK * base::SECTORS_PER_BLOCK);
        let end = sector.get().checked_add(most)?.min(self.volume.sectors.get());
        let (mut at, mut kind) = (sector.get(), None);
        while at < end {
            let hole = self.block_is_hole(Sector::new(at).lba(), memory);
            if *kind.get_or_insert(hole) != hole {
                break;
            }
            at = (at / base::SECTORS_PER_BLOCK + 1) * base::SECTORS_PER_BLOCK;
        }
        kind.map(|hole| (hole, Sectors::new(at.min(end) - sector.get())))
    }

    fn block_is_hole(&self, lba: base::Lba, memory: &dyn Memory) -> bool {
        if let Some(found) = self.active.get(lba).or_else(|| self.frozen.get(lba)) {
            return found.is_hole();
        }
        let mut at = self.volume.root;
        for level in (0..self.volume.height.get()).rev() {
            if at.is_hole() {
                return true;
            }
            let Some(buf) = self.cache.peek(&at) else { return false };
            at = page::get(memory.block(buf), tree::index(lba, level));
        }
        at.is_hole()
    }
}
