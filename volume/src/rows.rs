//! Row pages: the table of extents, as a small tree on the home pages.
//!
//! A row page holds 512 extents (in the order row, leg, column); above it are pages of Refs like the map's. Home
//! pages have no bitmap: a home page is in use exactly if the newest superblock leads to it. While a new version
//! is being written the pages of the old one stay (`HomePages`).
use crate::geometry::Geometry;
use crate::layout::rows as at;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use base::{Block, Check, CkptNo, DriveIx, Extent, ExtentNo, Pba, Seq, codec};
use cow::Ref;

/// Levels of inner pages at most: 512 * 128 * 128 extents.
pub const MAX_HEIGHT: u8 = 2;
/// Extents of a group at most.
pub const MAX_EXTENTS: usize = at::PER_PAGE << (7 * MAX_HEIGHT);

/// Which home pages are in use.
pub(crate) struct HomePages {
    geometry: Geometry,
    used: Vec<bool>,
    new: Vec<u32>,
    old: Vec<u32>,
}

impl HomePages {
    /// None in use.
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, used: vec![false; geometry.home_pages() as usize], new: Vec::new(), old: Vec::new() }
    }

    /// The superblock leads to this page. False if it is none, or two things lie there.
    pub fn mark(&mut self, pba: Pba) -> bool {
        let Some(index) = self.geometry.home_index(pba) else { return false };
        !core::mem::replace(&mut self.used[index as usize], true)
    }

    /// Pages that are not in use.
    pub fn free(&self) -> usize {
        self.used.iter().filter(|used| !**used).count()
    }

    /// A page for the next superblock version.
    pub fn take(&mut self) -> Option<Pba> {
        let index = self.used.iter().position(|used| !used)? as u32;
        self.used[index as usize] = true;
        self.new.push(index);
        Some(self.geometry.home_page(index))
    }

    /// The next version does not lead to this page any more.
    pub fn drop_later(&mut self, pba: Pba) {
        self.old.push(self.geometry.home_index(pba).expect("a home page"));
    }

    /// The next version counts.
    pub fn settle(&mut self) {
        for index in self.old.drain(..) {
            self.used[index as usize] = false;
        }
        self.new.clear();
    }

    /// The next version will not be written.
    pub fn forget_new(&mut self) {
        for index in self.new.drain(..) {
            self.used[index as usize] = false;
        }
        self.old.clear();
    }
}

/// The Refs of the row pages, level by level; the last level has one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct RowPages {
    levels: Vec<Vec<Ref>>,
}

/// What `extended` made.
pub(crate) struct Extended {
    pub tree: RowPages,
    /// Pages to write, and where.
    pub written: Vec<(Pba, Box<Block>)>,
}

impl RowPages {
    /// The tree whose Refs these are; level 0 first.
    pub fn from_levels(levels: Vec<Vec<Ref>>) -> Self {
        Self { levels }
    }

    /// Every page.
    pub fn refs(&self) -> impl Iterator<Item = &Ref> {
        self.levels.iter().flatten()
    }

    /// The root and how many levels lie below it; absent when there are no pages.
    pub fn root(&self) -> (Ref, u8) {
        match self.levels.last() {
            None => (Ref::ABSENT, 0),
            Some(top) => (top[0], self.levels.len() as u8 - 1),
        }
    }

    /// The tree for a longer table: pages that change get new places, and the checks that `check` makes. `None` if the
    /// home pages are full.
    pub fn extended(
        &self,
        table: &[Extent],
        unchanged: usize,
        home: &mut HomePages,
        check: &mut dyn FnMut(&Block) -> Check,
    ) -> Option<Extended> {
        let mut written = Vec::new();
        let leaves = table.len().div_ceil(at::PER_PAGE);
        let first_changed = unchanged / at::PER_PAGE;
        let encode_leaf =
            |i: usize| encode(&table[i * at::PER_PAGE..table.len().min((i + 1) * at::PER_PAGE)]);
        let mut levels =
            vec![self.renew(0, first_changed..leaves, home, &mut written, check, &encode_leaf)?];
        let mut changed = first_changed;
        while levels.last().is_some_and(|level| level.len() > 1) {
            changed /= 128;
            let below = levels.last().expect("a level below").clone();
            let encode_inner = |i: usize| {
                let mut page = Box::new([0; 4096]);
                for (j, child) in below[i * 128..below.len().min((i + 1) * 128)].iter().enumerate() {
                    cow::page::set(&mut page, j, child);
                }
                page
            };
            let count = below.len().div_ceil(128);
            let level = levels.len();
            levels.push(self.renew(level, changed..count, home, &mut written, check, &encode_inner)?);
        }
        if levels.len() > usize::from(MAX_HEIGHT) + 1 {
            home.forget_new();
            return None;
        }
        // A shorter table may have fewer levels: the upper pages lead to nothing any more.
        //
        // Crash story: a leg was dropped, the table shrank to one page, and the page above was in use until the next open.
        // Nothing was lost but places: a history, or a table that grew again, heard too early that there were none.
        for gone in self.levels.iter().skip(levels.len()).flatten() {
            home.drop_later(gone.pba);
        }
        Some(Extended { tree: Self { levels }, written })
    }

    fn renew(
        &self,
        level: usize,
        new: core::ops::Range<usize>,
        home: &mut HomePages,
        written: &mut Vec<(Pba, Box<Block>)>,
        check: &mut dyn FnMut(&Block) -> Check,
        encode: &dyn Fn(usize) -> Box<Block>,
    ) -> Option<Vec<Ref>> {
        let old = self.levels.get(level).map_or(&[][..], Vec::as_slice);
        let mut refs = old[..new.start.min(old.len())].to_vec();
        for gone in &old[refs.len()..] {
            home.drop_later(gone.pba);
        }
        for i in refs.len()..new.end {
            let Some(pba) = home.take() else {
                home.forget_new();
                return None;
            };
            let page = encode(i);
            refs.push(Ref::page(pba, Seq::ZERO, CkptNo::ZERO, check(&page)));
            written.push((pba, page));
        }
        Some(refs)
    }
}

/// How many pages a table of so many extents has from the one on that holds the extent `first`, inner pages included.
pub fn pages_from(extents: usize, first: usize) -> usize {
    let (mut count, mut unchanged) = (extents.div_ceil(at::PER_PAGE), first / at::PER_PAGE);
    let mut pages = count.saturating_sub(unchanged);
    while count > 1 {
        (count, unchanged) = (count.div_ceil(128), unchanged / 128);
        pages += count.saturating_sub(unchanged);
    }
    pages
}

/// A row page.
pub fn encode(extents: &[Extent]) -> Box<Block> {
    let mut page = Box::new([0; 4096]);
    for (i, extent) in extents.iter().enumerate() {
        let value = at::PRESENT | u64::from(extent.drive.get()) << 32 | u64::from(extent.extent.get());
        codec::put_u64(&mut page[..], i * 8, value);
    }
    page
}

/// The extents of a row page; `None` if an entry is none.
pub fn decode(page: &Block, count: usize) -> Option<Vec<Extent>> {
    let entry = |i: usize| {
        let value = codec::u64_at(page, i * 8);
        let drive = (value >> 32 & 0xff) as u8;
        let extent = Extent { drive: DriveIx::new(drive), extent: ExtentNo::new(value as u32) };
        let known = at::PRESENT | u64::from(drive) << 32 | u64::from(value as u32);
        (value == known).then_some(extent)
    };
    (0..count).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(count: usize) -> Vec<Extent> {
        (0..count as u32).map(|i| Extent { drive: DriveIx::new(0), extent: ExtentNo::new(i) }).collect()
    }

    /// A table that grows by a level and shrinks by one takes and gives back the pages that it has.
    #[test]
    fn a_table_that_shrinks_by_a_level_gives_its_upper_pages_back() {
        let mut home = HomePages::new(Geometry::new(2, 1, 8, 16384, 64));
        let all = home.free();
        let mut tree = RowPages::default();
        for (count, pages) in [(400, 1), (513, 3), (1200, 4), (512, 1), (513, 3), (1, 1)] {
            let mut check = |page: &Block| Check::of(page);
            let extended = tree.extended(&extents(count), 0, &mut home, &mut check).expect("there is room");
            home.settle();
            tree = extended.tree;
            assert_eq!((tree.refs().count(), all - home.free()), (pages, pages), "{count} extents");
        }
    }
}
