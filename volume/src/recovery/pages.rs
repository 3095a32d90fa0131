//! The second step: row pages and history pages, from whichever leg has them right.
//!
//! Crash story: a version that named a new row was on one drive only when the power failed. The next recovery did not
//! have that drive, took a home page of the new version for free, wrote its history page there and was cut short
//! before anybody was called stale. Then the drive is back, and its version counts: the page is right on that drive
//! alone. So what a leg has wrong is written there again (in `complete_tail`), before anything else is.
use super::{Fill, Recovery, Stage};
use crate::config::Refusal;
use crate::keys::{Form, is_stored};
use crate::layout::rows as at;
use crate::rows;
use alloc::vec;
use alloc::vec::Vec;
use base::{Block, LegId};
use cow::Ref;
use rlog::history;

/// No leg has a page that the newest superblock names.
pub(super) const NO_PAGE: Refusal = Refusal::Unreadable("a row or history page");

impl Recovery {
    /// Reads a page from every current leg; `page_result` then picks.
    fn read_page(&mut self, page: &Ref) -> Result<(), Refusal> {
        let known = self.home_pages.as_mut().expect("home pages").mark(page.pba);
        if !known {
            return Err(Refusal::Damaged("a row or history page lies outside the home pages"));
        }
        let copies: Vec<_> = self.legs().filter_map(|leg| self.locate(page.pba, leg)).collect();
        for (handle, block) in copies {
            self.script.read(handle, block, 1);
        }
        Ok(())
    }

    /// The right one among the copies from result `*id` on; moves `*id` behind them. Notes the legs that have it
    /// wrong.
    fn page_result(&mut self, page: &Ref, id: &mut usize) -> Result<Block, Refusal> {
        let legs: Vec<_> = self.legs().filter(|leg| self.locate(page.pba, *leg).is_some()).collect();
        let results = &self.script.results[*id..*id + legs.len()];
        *id += legs.len();
        let mut keys = self.keys.take();
        let mut right =
            |block: &Block| is_stored(keys.as_deref_mut(), block, page.pba, Form::Home, page.check);
        let blocks: Vec<Option<Block>> =
            results.iter().map(|data| data.block(0).filter(|block| right(block)).copied()).collect();
        self.keys = keys;
        let found = blocks.iter().find_map(|block| *block).ok_or(NO_PAGE)?;
        let wrong = legs.iter().zip(&blocks).filter(|(_, block)| block.is_none());
        let fill =
            |(leg, _): (&LegId, &Option<Block>)| Fill { leg: *leg, pba: page.pba, bytes: found.to_vec() };
        self.page_fills.extend(wrong.map(fill));
        Ok(found)
    }

    pub(super) fn read_row_root(&mut self) -> Result<(), Refusal> {
        let (root, height) = (self.superblock().row_pages, self.superblock().row_height);
        if root.is_absent() {
            if self.superblock().rows != 1 {
                return Err(Refusal::Damaged("it has rows but no row pages"));
            }
            return self.read_history_page(self.superblock().history);
        }
        self.row_levels = vec![vec![root]];
        self.read_page(&root)?;
        self.at(Stage::RowPages { level: height });
        Ok(())
    }

    /// One level of the row pages has been read: the next one, or the table.
    pub(super) fn judge_row_pages(&mut self, level: u8) -> Result<(), Refusal> {
        let refs = self.row_levels.last().expect("a level").clone();
        let mut id = 0;
        let mut pages = Vec::new();
        for page in &refs {
            pages.push(self.page_result(page, &mut id)?);
        }
        self.script.clear();
        let extents = self.superblock().rows as usize * self.geometry().row_extents();
        if level == 0 {
            return self.take_rows(&pages, extents);
        }
        let leaves = extents.div_ceil(at::PER_PAGE);
        let below = leaves.div_ceil(128usize.pow(u32::from(level) - 1));
        let children = pages.iter().flat_map(|page| (0..128).map(|i| cow::page::get(page, i)));
        let children: Vec<Ref> = children.take(below).collect();
        if children.len() < below || children.iter().any(Ref::is_absent) {
            return Err(Refusal::Damaged("its row pages do not hold all rows"));
        }
        for child in &children {
            self.read_page(child)?;
        }
        self.row_levels.push(children);
        self.at(Stage::RowPages { level: level - 1 });
        Ok(())
    }

    fn take_rows(&mut self, pages: &[Block], extents: usize) -> Result<(), Refusal> {
        if extents > pages.len() * at::PER_PAGE {
            return Err(Refusal::Damaged("its row pages do not hold all rows"));
        }
        let mut table = Vec::with_capacity(extents);
        for page in pages {
            let count = (extents - table.len()).min(at::PER_PAGE);
            table.extend(rows::decode(page, count).ok_or(Refusal::Damaged("a row page holds no extents"))?);
        }
        let drives = self.table.entries().len();
        let home = self.superblock().home.len();
        let sane = table.len() == extents
            && table[..home] == self.superblock().home[..]
            && table.iter().all(|extent| usize::from(extent.drive.get()) < drives);
        if !sane {
            return Err(Refusal::Damaged("its row pages contradict it"));
        }
        self.row_levels.reverse();
        self.rows = table;
        let decided = self.decide();
        if decided.is_err() || !self.promoted.is_empty() {
            let (newest, rows, pages) =
                (self.superblock().clone(), self.rows.clone(), self.home_pages.take());
            if let Some(opened) = self.open_as_before(&newest) {
                return opened;
            }
            (self.rows, self.home_pages) = (rows, pages);
            self.decide()?;
        }
        self.read_history_page(self.superblock().history)
    }

    fn read_history_page(&mut self, page: Ref) -> Result<(), Refusal> {
        if page.is_absent() {
            return self.finish_history();
        }
        self.history_next = page;
        self.read_page(&page)?;
        self.at(Stage::History);
        Ok(())
    }

    /// A history page has been read: the one before it, or the end.
    pub(super) fn judge_history_page(&mut self) -> Result<(), Refusal> {
        let page = self.history_next;
        let block = self.page_result(&page, &mut 0)?;
        self.script.clear();
        let mut lines = Vec::new();
        let previous = history::decode_page(&block, &mut lines)
            .map_err(|_| Refusal::Damaged("a history page holds no history"))?;
        self.history_pages.push((page, lines));
        self.read_history_page(Ref::decode(&previous[..32]))
    }

    /// All pages are read: the history in order, with the superblock's own line last.
    fn finish_history(&mut self) -> Result<(), Refusal> {
        let older = self.history_pages.iter().rev().flat_map(|(_, lines)| lines.iter().copied());
        let lines: Vec<_> = older.chain(self.superblock().line).collect();
        for line in lines {
            self.history.append(line).map_err(|_| Refusal::Damaged("its history is out of order"))?;
        }
        if let Some(keys) = self.keys.as_deref_mut() {
            keys.follow(self.history.clone());
        }
        self.refuse_without_keys()?;
        self.begin_ring()
    }

    /// Every data key must be at hand that something may lie under, and the newest activation's.
    ///
    /// Crash story: a node opened the group with an envelope from before the last rotation of its data key. What the
    /// activation before had acknowledged was right on no leg, as far as it could tell: the log was cut there, and moves and
    /// resyncs went on without it. With the right envelope it was gone for good.
    fn refuse_without_keys(&self) -> Result<(), Refusal> {
        let Some(keys) = self.keys.as_deref() else { return Ok(()) };
        let oldest = self.superblock().oldest_key;
        let newest = keys.newest_data_key().ok_or(Refusal::KeyMissing { number: oldest })?;
        for line in self.history.lines() {
            let needed = line.key >= oldest && !keys.has_data_key(line.key);
            if needed || line.key > newest {
                return Err(Refusal::KeyMissing { number: line.key });
            }
        }
        Ok(())
    }
}
