//! Pages of map and directory on their way from a leg into the cache, and bitmaps into free space.
use super::{Group, Halt, Turn};
use crate::buffers::SEAL_BUFFERS;
use crate::group::repair::Content;
use crate::keys::Keyed;
use crate::ops::Purpose;
use alloc::vec::Vec;
use base::{BufId, Fault, LegId, RegionNo, Segment};
use cow::{Ref, Reserve};

/// Pages being read at once.
const MAX_PAGE_READS: usize = 64;
/// Pages that no leg has, remembered until the end of the poll that found out: whoever waits for one hears of it
/// there, and the next request tries again.
const MAX_LOST_PAGES: usize = MAX_PAGE_READS;

/// Bitmaps being read at once: one for free space, and one for each buffer of the seal.
const MAX_BITMAP_READS: usize = 1 + SEAL_BUFFERS as usize;

/// A page on its way.
#[derive(Clone, Copy)]
struct PageRead {
    frame: BufId,
    page: Ref,
    tried: u8,
    /// A leg did not say what it has: its drive was gone, or not in time.
    away: bool,
    batch: u64,
}

/// A page that was found on no leg.
#[derive(Clone, Copy)]
struct Lost {
    page: Ref,
    /// A leg that counts may have it nevertheless.
    away: bool,
}

/// A bitmap on its way. It holds a batch although nothing is freed by it: a slot is written again by the second
/// checkpoint from here, which must not begin while a leg's old content could still be taken for the right one
/// and be written over what that checkpoint wrote on another leg.
#[derive(Clone, Copy)]
struct BitmapRead {
    region: RegionNo,
    bitmap: Ref,
    buf: BufId,
    tried: u8,
    batch: u64,
    for_seal: bool,
}

/// What is being read.
pub(crate) struct PageReads {
    pages: Vec<PageRead>,
    lost: Vec<Lost>,
    bitmaps: Vec<BitmapRead>,
}

impl PageReads {
    pub fn new() -> Self {
        Self {
            pages: Vec::with_capacity(MAX_PAGE_READS),
            lost: Vec::with_capacity(MAX_LOST_PAGES),
            bitmaps: Vec::with_capacity(MAX_BITMAP_READS),
        }
    }
}

impl PageReads {
    /// The poll is over: everybody who waited for a lost page has heard of it.
    pub fn forget_lost(&mut self) {
        self.lost.clear();
    }

    /// Whether a page that `fetch_page` says nobody has is lost for good: each leg that counts has answered, with an error of
    /// its medium or with something else.
    pub fn is_lost_for_good(&self, page: &Ref) -> bool {
        self.lost.iter().any(|lost| lost.page == *page && !lost.away)
    }
}

impl Group {
    /// Has a page read into the cache, now or as soon as there is room. False if no leg has it, or none can: what leads to
    /// it may have been forged, and name a place that the group does not have, or a hole for a page.
    pub fn fetch_page<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, page: &Ref) -> bool {
        let is_page = page.valid(self.space_blocks()) && !page.is_hole();
        if !is_page || self.reads.lost.iter().any(|lost| lost.page == *page) {
            return false;
        }
        if self.reads.pages.len() == MAX_PAGE_READS || !self.room(turn, 2) {
            return true;
        }
        if let Reserve::Frame(frame) = self.cache.reserve(page) {
            let batch = self.holds.take();
            self.reads.pages.push(PageRead { frame, page: *page, tried: 0, away: false, batch });
            self.read_page(turn, self.reads.pages.len() - 1);
        }
        true
    }

    fn read_page<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, index: usize) {
        let PageRead { frame, page, tried, away, batch } = self.reads.pages[index];
        if let Some(leg) = self.pick_leg(page.pba, tried) {
            self.reads.pages[index].tried |= 1 << leg.get();
            let memory = Segment { buf: frame, blocks: 1 };
            return self.read_leg(turn, Purpose::Page { frame, leg: leg.get() }, leg, page.pba, memory);
        }
        self.cache.abandon(frame);
        self.reads.pages.swap_remove(index);
        self.holds.release(batch);
        if self.reads.lost.len() < MAX_LOST_PAGES {
            self.reads.lost.push(Lost { page, away });
        }
        self.again = true;
    }

    /// A page has been read, or not.
    pub fn page_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: BufId,
        leg: u8,
        result: Result<(), Fault>,
    ) {
        let index = self.reads.pages.iter().position(|read| read.frame == frame).expect("a page being read");
        if result.is_ok() && self.cache.loaded(frame, turn.memory) {
            let read = self.reads.pages.swap_remove(index);
            let wrong = read.tried & !(1 << leg);
            if wrong != 0 {
                self.repair(turn, Content::Page(read.page), frame, wrong, read.batch);
            }
            self.holds.release(read.batch);
            return;
        }
        self.reads.pages[index].away |= matches!(result, Err(fault) if fault != Fault::Medium);
        let drive = self.drive_of(self.reads.pages[index].page.pba, LegId::new(leg));
        self.drives.get_mut(drive).stats.check_errors += u64::from(result.is_ok());
        self.read_page(turn, index);
    }

    /// Has the bitmaps loaded that free space wants.
    pub fn load_bitmaps<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        while self.reads.bitmaps.iter().all(|read| read.for_seal) && self.room(turn, 2) {
            let Some(want) = self.space.wanted() else { return };
            self.again = true;
            match want.bitmap {
                Some(bitmap) => {
                    let buf = self.buffers.bitmap;
                    self.start_bitmap(turn, want.region, bitmap, buf, false);
                }
                None => {
                    self.space.fresh(want.region, &self.geometry);
                }
            }
        }
    }

    /// Reads a bitmap into a buffer, from whatever leg has it.
    pub fn start_bitmap<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        region: RegionNo,
        bitmap: Ref,
        buf: BufId,
        for_seal: bool,
    ) {
        let batch = self.holds.take();
        self.reads.bitmaps.push(BitmapRead { region, bitmap, buf, tried: 0, batch, for_seal });
        self.read_bitmap(turn, self.reads.bitmaps.len() - 1);
    }

    fn read_bitmap<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, index: usize) {
        let BitmapRead { bitmap, buf, tried, .. } = self.reads.bitmaps[index];
        let Some(leg) = self.pick_leg(bitmap.pba, tried) else { return self.bitmap_lost(index) };
        self.reads.bitmaps[index].tried |= 1 << leg.get();
        let memory = Segment { buf, blocks: 1 };
        self.read_leg(turn, Purpose::Bitmap { buf, leg: leg.get() }, leg, bitmap.pba, memory);
    }

    /// No leg has the bitmap: a checkpoint cannot do without, free space does without the region.
    fn bitmap_lost(&mut self, index: usize) {
        let read = self.reads.bitmaps.swap_remove(index);
        self.holds.release(read.batch);
        if read.for_seal {
            self.halt(Halt::MapFailed);
        } else {
            self.space.load_failed(read.region);
        }
        self.again = true;
    }

    /// A bitmap has been read, or not.
    pub fn bitmap_read_ended<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        buf: BufId,
        leg: u8,
        result: Result<(), Fault>,
    ) {
        let index = self.reads.bitmaps.iter().position(|read| read.buf == buf).expect("a bitmap being read");
        let read = self.reads.bitmaps[index];
        let Ref { pba, check, .. } = read.bitmap;
        if result.is_err() || !turn.memory.open_page(buf, pba, read.bitmap.ckpt(), check) {
            let drive = self.drive_of(read.bitmap.pba, LegId::new(leg));
            self.drives.get_mut(drive).stats.check_errors += u64::from(result.is_ok());
            return self.read_bitmap(turn, index);
        }
        let wrong = read.tried & !(1 << leg);
        if wrong != 0 {
            self.repair(turn, Content::Page(read.bitmap), buf, wrong, read.batch);
        }
        self.holds.release(read.batch);
        self.reads.bitmaps.swap_remove(index);
        self.again = true;
        if read.for_seal {
            self.seal.bitmap_read(buf);
        } else {
            let block = *turn.memory.block(buf);
            self.space.loaded(read.region, &read.bitmap, &block, &self.geometry);
        }
    }
}
