//! Which bitmaps are in memory.
//!
//! Bitmaps are read on demand: an open serves its first write after one of them. The rule that keeps a load
//! right: what comes in must have the check that the durable directory has for the region *now*. A read that was
//! under way while two checkpoints went by may return an older bitmap, or half of a newer one; it is asked for
//! again.
use super::{Class, Contradiction, Fixed, Space, State};
use crate::bitmap::{Bitmap, Summary};
use crate::layout::PAGE_REFS;
use crate::page;
use crate::refs::{Ref, RefFlags};
use crate::shelves::{SHELVES, Set, shelf_of};
use crate::space_layout::{BITMAP_SLOTS, LONGEST_BITS, bitmap_slot};
use base::{Block, Blocks, Check, CkptNo, Pba, RegionNo};

/// Regions that are asked for at once.
const LOADS_AT_ONCE: u32 = 4;
/// Loaded regions below which another is wanted whatever they hold, so that the classes keep apart.
const LOADED_LEAST: u32 = 4;
/// A run of this many blocks serves any request; above it longer runs are not worth a load.
const LONG_RUN: u32 = 1024;

/// A region whose bitmap should be brought in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// The region.
    pub region: RegionNo,
    /// Its bitmap, to be read and handed to `loaded`; `None` for a fresh region: call `fresh`.
    pub bitmap: Option<Ref>,
}

/// What is short, and whether anything can be done about it.
#[derive(Default)]
pub(super) struct Needs {
    run: bool,
    home: bool,
    /// Nothing can be gained by looking again before something changes.
    settled: bool,
}

impl Needs {
    /// A take of this class got less than it asked for.
    pub fn short(&mut self, class: Class) {
        match class {
            Class::Home => self.home = true,
            _ => self.run = true,
        }
        self.settled = false;
    }

    /// Something changed that makes it worth looking again.
    pub fn retry(&mut self) {
        self.settled = false;
    }
}

/// The entry of a bitmap in the directory.
pub(super) fn entry(slot: Pba, summary: Summary, ckpt: CkptNo, check: Check) -> Ref {
    let when = u64::from(summary.free) << LONGEST_BITS | u64::from(summary.longest);
    Ref::page(slot, base::Seq::new(when), ckpt, check)
}

/// What an entry says of its bitmap.
pub(super) fn summary_of(entry: &Ref) -> Summary {
    let when = entry.when.get();
    Summary { free: (when >> LONGEST_BITS) as u32, longest: (when & ((1 << LONGEST_BITS) - 1)) as u32 }
}

impl Space {
    /// The region to load next, if what is in memory runs short and a load can help. Each is named once; it must
    /// be answered by `loaded`, `fresh` or `load_failed`. Ask until there is none; O(1) while nothing is short.
    pub fn wanted(&mut self) -> Option<Want> {
        if self.loading >= LOADS_AT_ONCE || self.needs.settled || self.contradiction.is_some() {
            return None;
        }
        let home = if self.needs.home { self.unloaded_home() } else { None };
        let region = match home {
            Some(region) => region,
            None if self.enough() => return None,
            None => match self.shelves.highest(Set::Unloaded).filter(|shelf| *shelf > 0) {
                Some(shelf) => RegionNo::new(self.shelves.shelf(Set::Unloaded, shelf).next()?),
                None => {
                    self.needs.settled = true;
                    return None;
                }
            },
        };
        if !self.spare_frame(region, home.is_some()) {
            self.needs.settled = true;
            return None;
        }
        self.loading += 1;
        if home.is_some() {
            self.needs.home = false
        } else {
            self.needs.run = false
        }
        let row = &mut self.rows[region.get() as usize];
        row.state = State::Loading(row.bitmap.ckpt());
        let bitmap = (!row.bitmap.is_absent()).then_some(row.bitmap);
        self.shelve(region);
        Some(Want { region, bitmap })
    }

    /// Whether what is in memory serves a while of writes.
    fn enough(&self) -> bool {
        let offered = self.shelves.highest(Set::Unloaded).unwrap_or(0);
        let have = self.shelves.highest(Set::Loaded).unwrap_or(0);
        !self.needs.run
            && self.loaded_regions() + self.loading >= LOADED_LEAST
            && self.loaded_free >= u64::from(self.config.region_blocks / 2)
            && have >= offered.min(shelf_of(LONG_RUN))
    }

    fn unloaded_home(&self) -> Option<RegionNo> {
        let count = self.config.home_regions.min(self.regions()) as usize;
        let at = self.rows[..count].iter().position(|row| row.state == State::Unloaded && row.offers > 0)?;
        Some(RegionNo::new(at as u32))
    }

    /// Sees to a spare frame for a region: one that no load under way counts on, or that of a region that is
    /// worth less (or, if `need` is set, of any). Whether there is one.
    fn spare_frame(&mut self, region: RegionNo, need: bool) -> bool {
        if self.spare.len() as u32 > self.loading {
            return true;
        }
        self.settle_marks();
        let worth = shelf_of(u32::from(self.rows[region.get() as usize].offers));
        let limit = if need { SHELVES } else { worth };
        let victim = (0..limit).find_map(|shelf| {
            self.shelves.shelf(Set::Loaded, shelf).map(RegionNo::new).find(|victim| {
                let frame = self.frame_of(*victim).expect("on a shelf of the loaded");
                let held = &self.frames[frame as usize];
                self.marks.has_room(held.pending() as usize)
                    && (held.free() == 0 || !self.has_cursor(*victim))
            })
        });
        if let Some(victim) = victim {
            self.unload(victim);
        }
        victim.is_some()
    }

    /// Drops a region from memory. Blocks that it has taken become marks; those in limbo stand on that list.
    fn unload(&mut self, region: RegionNo) {
        self.settle_marks();
        self.turn(region);
        let (first, end) = self.bounds(region);
        let frame = self.frame_of(region).expect("loaded");
        let held = &self.frames[frame as usize];
        let limbo = self.limbo.cleared(region);
        let pending = held.pending_bits().filter(|bit| !limbo.get(*bit));
        let taken = pending.map(|bit| first + Blocks::new(u64::from(bit)));
        self.marks.replace(first, end, (held.pending() - limbo.used()) as usize, taken);
        let free = u64::from(held.free());
        let row = &mut self.rows[region.get() as usize];
        row.state = State::Unloaded;
        row.offers = held.longest() as u16;
        assert_eq!(self.unloaded_free(region), free, "region {region} loses track of blocks");
        self.loaded_free -= free;
        self.spare.push(frame);
        self.drop_cursors(region);
        self.shelve(region);
    }

    /// Takes in the bitmap of a region that `wanted` named, in plain text: read from any leg where it had the check of
    /// `read`. False if it cannot be used: a checkpoint has replaced it meanwhile (the region will be wanted again), or
    /// it contradicts the directory or the geometry (the region is lost to allocation, like `load_failed`).
    pub fn loaded(&mut self, region: RegionNo, read: &Ref, bitmap: &Block, fixed: &impl Fixed) -> bool {
        let row = self.rows[region.get() as usize];
        assert!(matches!(row.state, State::Loading(_)), "region {region} was not asked for");
        if *read != row.bitmap {
            self.ask_again(region);
            return false;
        }
        let bits = Bitmap::decode(bitmap);
        if !self.plausible(region, &bits, fixed) {
            self.lose(region);
            return false;
        }
        self.enter(region, &bits);
        true
    }

    /// Takes in a region that `wanted` named without a bitmap. False if it got one meanwhile: it will be wanted
    /// again.
    pub fn fresh(&mut self, region: RegionNo, fixed: &impl Fixed) -> bool {
        let row = self.rows[region.get() as usize];
        assert!(matches!(row.state, State::Loading(_)), "region {region} was not asked for");
        if !row.bitmap.is_absent() {
            self.ask_again(region);
            return false;
        }
        let bits = self.fixed_bits(region, fixed);
        self.enter(region, &bits);
        true
    }

    /// No leg has the bitmap that `wanted` asked for. Nothing is handed out from the region any more, unless a
    /// checkpoint has replaced the bitmap meanwhile.
    pub fn load_failed(&mut self, region: RegionNo) {
        let row = self.rows[region.get() as usize];
        let State::Loading(asked) = row.state else { panic!("region {region} was not asked for") };
        if asked == row.bitmap.ckpt() { self.lose(region) } else { self.ask_again(region) }
    }

    fn ask_again(&mut self, region: RegionNo) {
        self.rows[region.get() as usize].state = State::Unloaded;
        self.loading -= 1;
        self.needs.run = true;
        self.needs.retry();
        self.shelve(region);
    }

    fn lose(&mut self, region: RegionNo) {
        let free = self.unloaded_free(region);
        self.free = self.free.saturating_sub(free);
        self.rows[region.get() as usize].state = State::Lost;
        self.lost += 1;
        self.loading -= 1;
        self.needs.retry();
    }

    /// Whether `take` finds nothing for good until something is freed or a row comes: regions are lost to allocation, and no
    /// other one can be loaded. What was kept in reserve may have been in those.
    pub fn lacks_lost_regions(&self) -> bool {
        let offered = self.shelves.highest(Set::Unloaded).is_some_and(|shelf| shelf > 0);
        self.lost > 0 && self.loading == 0 && !offered
    }

    /// What a region that is not in memory adds to `free`.
    pub(super) fn unloaded_free(&mut self, region: RegionNo) -> u64 {
        self.settle_marks();
        self.turn(region);
        let (first, end) = self.bounds(region);
        let limbo = self.limbo.of(region).filter(|change| change.clear).count();
        let taken = self.marks.range(first, end).count() + limbo;
        let free = u64::from(self.rows[region.get() as usize].free);
        if taken as u64 > free {
            self.contradict(Contradiction::TakenAndMapped(region));
        }
        free.saturating_sub(taken as u64)
    }

    /// Whether a bitmap has the numbers that its entry says, the fixed blocks, and nothing past its end.
    fn plausible(&self, region: RegionNo, bits: &Bitmap, fixed: &impl Fixed) -> bool {
        let row = &self.rows[region.get() as usize];
        let blocks = self.config.region_blocks;
        let expected = Summary { free: u32::from(row.free), longest: u32::from(row.longest) };
        let must = self.fixed_bits(region, fixed);
        bits.summary(blocks) == expected
            && bits.used() == blocks - expected.free
            && (0..crate::bitmap::WORDS).all(|i| must.word(i) & !bits.word(i) == 0)
    }

    fn enter(&mut self, region: RegionNo, bits: &Bitmap) {
        let free = self.unloaded_free(region);
        let (first, end) = self.bounds(region);
        let frame = self.spare.pop().expect("a frame was kept for every load");
        self.loading -= 1;
        let marks = self.marks.range(first, end).map(|pba| (pba - first).get() as u32);
        let limbo = self.limbo.of(region).filter(|change| change.clear).map(|change| change.bit);
        let held = &mut self.frames[frame as usize];
        let fits = held.load(bits, marks.chain(limbo));
        assert!(!fits || u64::from(held.free()) == free, "region {region} loses track of blocks");
        let free = u64::from(held.free());
        if !fits {
            self.contradict(Contradiction::TakenAndMapped(region));
        }
        self.marks.kill_range(first, end);
        self.loaded_free += free;
        self.rows[region.get() as usize].state = State::Loaded(frame);
        self.needs.retry();
        self.shelve(region);
    }

    /// Recovery: a record above the checkpoint names these blocks, so they are used. The same block may be named
    /// again. After `grow`, before the first take.
    pub fn mark(&mut self, pba: Pba, blocks: Blocks) {
        for i in 0..blocks.get() {
            let block = pba + Blocks::new(i);
            let (region, bit) = self.locate(block);
            let Some(frame) = self.frame_of(region) else {
                self.marks.push(block);
                continue;
            };
            let held = &mut self.frames[frame as usize];
            if !held.alloc().get(bit) {
                held.take(bit, 1);
                self.free -= 1;
                self.loaded_free -= 1;
                self.shelve(region);
            }
        }
    }

    /// Brings the marks into order and counts them.
    pub(super) fn settle_marks(&mut self) {
        let marked = self.marks.settle() as u64;
        if marked > self.free {
            self.contradict(Contradiction::TooManyTaken);
        }
        self.free = self.free.saturating_sub(marked);
    }

    /// Learns what a leaf of the bitmap tree says of its regions, `first` and the 127 after it; `None` stands
    /// for a leaf that is absent. Regions that are known already are left alone. False if it makes no sense.
    pub(crate) fn summaries(&mut self, first: RegionNo, leaf: Option<&Block>, fixed: &impl Fixed) -> bool {
        let end = self.regions().min(first.get() + PAGE_REFS as u32);
        for at in first.get()..end {
            let region = RegionNo::new(at);
            if self.rows[at as usize].state != State::Unknown {
                continue;
            }
            let bitmap = leaf.map_or(Ref::ABSENT, |leaf| page::get(leaf, (at - first.get()) as usize));
            if bitmap.is_absent() {
                let summary = self.fixed_bits(region, fixed).summary(self.config.region_blocks);
                self.describe(region, bitmap, summary);
            } else if self.valid_entry(region, &bitmap) {
                self.describe(region, bitmap, summary_of(&bitmap));
            } else {
                return false;
            }
        }
        self.needs.retry();
        true
    }

    /// Whether what the leaves said of all regions adds up to what the root said.
    pub(crate) fn counts_add_up(&self) -> bool {
        self.rows.iter().all(|row| row.state != State::Unknown)
            && self.rows.iter().map(|row| u64::from(row.free)).sum::<u64>() == self.durable_free
    }

    fn valid_entry(&self, region: RegionNo, entry: &Ref) -> bool {
        let (first, _) = self.bounds(region);
        let Summary { free, longest } = summary_of(entry);
        let slot = (0..BITMAP_SLOTS.len()).any(|slot| entry.pba == bitmap_slot(first, slot));
        slot && entry.flags == RefFlags::NONE && longest <= free && free < self.config.region_blocks
    }
}
