//! Handing out blocks.
//!
//! Each class goes on where it last was (next fit), so that what is written together lies together: the writes
//! of a round become few vectored writes per leg, a checkpoint's pages become one stripe in one region, and few
//! bitmaps get dirty. When a class must move, small writes take a region that is already broken, large ones and
//! pages a clean one, and each keeps off the regions where the others are.
use super::{Space, State};
use crate::shelves::{SHELVES, Set, shelf_of};
use base::{Blocks, Pba, RegionNo};

/// What blocks are wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// A write of a few blocks.
    Small = 0,
    /// A write of many blocks.
    Large = 1,
    /// A page of a map or of the directory.
    Page = 2,
    /// Something that must lie in the home row.
    Home = 3,
}

/// Number of classes.
pub(super) const CLASSES: usize = 4;
/// Regions of one shelf that a choice looks at: bounds the work where a shelf holds regions that just do not fit.
const PROBES: usize = 4;

/// Where a class takes its next block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cursor {
    region: RegionNo,
    at: u32,
}

impl Space {
    /// Hands out a run of at most `want` blocks (at least 1), as long as can be had up to that, within one
    /// region. `None`: nothing is free in the regions that are in memory; serve `wanted` and try again. If
    /// `wanted` has nothing, nothing is free at all: a checkpoint may free something. Nor is anything handed out
    /// after a contradiction (`Space::contradiction`). Bounded work.
    pub fn take(&mut self, class: Class, want: Blocks) -> Option<(Pba, Blocks)> {
        assert!(want > Blocks::ZERO, "nothing is wanted");
        if self.contradiction.is_some() {
            return None;
        }
        let count = want.get().min(u64::from(self.config.region_blocks)) as u32;
        if let Some((frame, first)) = self.at_cursor(class, count) {
            return Some(self.hand_out(class, frame, first, count));
        }
        if let Some(region) = self.choose(class, count) {
            let from = self.entry_point(class, region);
            self.cursors[class as usize] = Some(Cursor { region, at: from });
            let (frame, first) = self.at_cursor(class, count).expect("the chosen region has such a run");
            return Some(self.hand_out(class, frame, first, count));
        }
        self.needs.short(class);
        let region = self.longest_loaded(class)?;
        let frame = self.frame_of(region).expect("chosen among the loaded");
        let longest = self.frames[frame as usize].longest();
        assert!((1..count).contains(&longest), "a run that would do was overlooked");
        self.cursors[class as usize] = Some(Cursor { region, at: 0 });
        let first = self.frames[frame as usize].find(longest, 0).expect("the longest run");
        Some(self.hand_out(class, frame, first, longest))
    }

    /// Takes back a run, or a part of one, that was taken and will not be recorded: no write to it is in flight.
    pub fn give_back(&mut self, pba: Pba, blocks: Blocks) {
        let (region, bit) = self.locate(pba);
        let count = blocks.get() as u32;
        match self.frame_of(region) {
            Some(frame) => {
                self.frames[frame as usize].give_back(bit, count);
                self.loaded_free += u64::from(count);
            }
            None => (0..u64::from(count)).for_each(|i| {
                assert!(self.marks.kill(pba + Blocks::new(i)), "a free block is given back");
            }),
        }
        self.forget_offer(region);
        self.free += u64::from(count);
        self.placed.retain(|page| !(pba..pba + blocks).contains(page));
        self.needs.retry();
        self.shelve(region);
    }

    /// The first fitting run from the class's cursor on, or else from the start of its region.
    fn at_cursor(&self, class: Class, count: u32) -> Option<(u32, u32)> {
        let cursor = self.cursors[class as usize]?;
        let frame = self.frame_of(cursor.region).expect("a cursor's region stays in memory");
        let region = &self.frames[frame as usize];
        let first = region.find(count, cursor.at).or_else(|| region.find(count, 0))?;
        Some((frame, first))
    }

    fn hand_out(&mut self, class: Class, frame: u32, first: u32, count: u32) -> (Pba, Blocks) {
        let cursor = self.cursors[class as usize].as_mut().expect("set by `take`");
        cursor.at = first + count;
        let region = cursor.region;
        self.frames[frame as usize].take(first, count);
        self.free -= u64::from(count);
        self.loaded_free -= u64::from(count);
        self.shelve(region);
        let pba = self.bounds(region).0 + Blocks::new(u64::from(first));
        if class == Class::Page {
            for i in 0..u64::from(count) {
                assert!(self.placed.len() < self.placed.capacity(), "more pages than a checkpoint can place");
                self.placed.push(pba + Blocks::new(i));
            }
        }
        (pba, Blocks::new(u64::from(count)))
    }

    /// A region in memory with a run of `count` blocks.
    fn choose(&self, class: Class, count: u32) -> Option<RegionNo> {
        if class == Class::Home {
            return self.home().filter(|(_, longest)| *longest >= count).map(|(region, _)| region).next();
        }
        let clean = shelf_of(self.config.region_blocks) - 1;
        let least = shelf_of(count);
        let mut shared = None;
        let mut look = |shelf: usize| self.probe(class, shelf, count, &mut shared);
        let own = match class {
            // Of the broken ones the least broken: longer runs, fewer dirty bitmaps. Clean ones only after that.
            Class::Small => (least..clean).rev().chain(least.max(clean)..SHELVES).find_map(&mut look),
            _ => (least..SHELVES).rev().find_map(&mut look),
        };
        own.or(shared)
    }

    /// Looks at a few regions of a shelf; one that another class is using is only remembered.
    fn probe(
        &self,
        class: Class,
        shelf: usize,
        count: u32,
        shared: &mut Option<RegionNo>,
    ) -> Option<RegionNo> {
        for region in self.shelves.shelf(Set::Loaded, shelf).take(PROBES) {
            let region = RegionNo::new(region);
            let frame = self.frame_of(region).expect("on a shelf of the loaded");
            if self.frames[frame as usize].longest() < count {
                continue;
            }
            if !self.others_use(class, region) {
                return Some(region);
            }
            shared.get_or_insert(region);
        }
        None
    }

    fn others_use(&self, class: Class, region: RegionNo) -> bool {
        let own = class as usize;
        self.cursors.iter().enumerate().any(|(i, c)| i != own && c.is_some_and(|c| c.region == region))
    }

    /// Where a class begins in a region: apart from the others if it has to share (groups of few regions).
    fn entry_point(&self, class: Class, region: RegionNo) -> u32 {
        if !self.others_use(class, region) {
            return 0;
        }
        match class {
            Class::Small | Class::Home => 0,
            Class::Large => self.config.region_blocks / 4,
            Class::Page => self.config.region_blocks / 2,
        }
    }

    /// A region in memory whose longest run is about the longest of all.
    fn longest_loaded(&self, class: Class) -> Option<RegionNo> {
        if class == Class::Home {
            return self.home().filter(|(_, longest)| *longest > 0).max_by_key(|h| h.1).map(|h| h.0);
        }
        let shelf = self.shelves.highest(Set::Loaded).filter(|shelf| *shelf > 0)?;
        self.shelves.shelf(Set::Loaded, shelf).next().map(RegionNo::new)
    }

    /// The home regions that are in memory, each with its longest run.
    fn home(&self) -> impl Iterator<Item = (RegionNo, u32)> {
        let count = self.config.home_regions.min(self.regions()) as usize;
        self.rows[..count].iter().enumerate().filter_map(|(i, row)| match row.state {
            State::Loaded(frame) => Some((RegionNo::new(i as u32), self.frames[frame as usize].longest())),
            _ => None,
        })
    }

    /// Whether a class takes from this region.
    pub(super) fn has_cursor(&self, region: RegionNo) -> bool {
        self.cursors.iter().flatten().any(|cursor| cursor.region == region)
    }

    /// Makes every class that takes from this region choose anew.
    pub(super) fn drop_cursors(&mut self, region: RegionNo) {
        for cursor in &mut self.cursors {
            if cursor.is_some_and(|cursor| cursor.region == region) {
                *cursor = None;
            }
        }
    }
}
