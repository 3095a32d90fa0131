//! The way of a sweep: what is visited, and what of it is added to a unit.
use super::{ASKS_AGAIN, Errand, Item, Stage, UNIT_BLOCKS};
use crate::group::moving::MoveRefusal;
use crate::group::scrub::What;
use crate::group::{Group, Turn};
use crate::header::Header;
use crate::keys::Keyed;
use crate::layout::extent as fixed;
use crate::planted::Planted;
use base::{BufId, Check, Column, Extent, Lba, LegId, Pba, RowNo};
use cow::{PAGE_REFS, Ref, Walk, WalkStep};

/// Steps of a walk in one poll.
const STEPS_PER_POLL: usize = 32;

impl Group {
    pub(in crate::group) fn unit_buffer(&self, index: usize) -> BufId {
        self.buffers.sweep.plus(index as u32)
    }

    /// Where a block is to be copied to, if it is: the leg that the drive of a resync has of it, or the successor of
    /// an extent that moves.
    pub(super) fn copied_to(&self, pba: Pba) -> Option<Extent> {
        let place = self.geometry.place(pba);
        let mut extents = self.legs().map(|leg| self.extent(place.row, leg, place.column));
        if self.sweep.errand == Errand::Move {
            return extents.find_map(|extent| self.moving.shadow(extent));
        }
        extents.find(|extent| extent.drive == self.sweep.drive)
    }

    /// Adds a block to the unit, and holds it from now on; a resync leaves out what its drive has no leg of. Returns
    /// its buffer.
    fn add(&mut self, to: &Ref, what: What) -> Option<BufId> {
        if self.sweep.errand != Errand::Scrub {
            self.copied_to(to.pba)?;
        }
        Some(self.add_anyway(to, what))
    }

    /// The same for what a Ref leads to: an unproven drive may have it already, if it is not newer than its S and C.
    fn add_ref(&mut self, to: &Ref, what: What) -> Option<BufId> {
        let buf = self.add(to, what)?;
        if let Some((seq, ckpt)) = self.sweep.shows.filter(|_| self.sweep.errand == Errand::Resync) {
            let data = matches!(what, What::Data(_));
            let shown = if data { to.when <= seq } else { to.ckpt() <= ckpt };
            self.sweep.unit.last_mut().expect("just added").shown = shown;
        }
        Some(buf)
    }

    /// The same whether or not the drive has a leg of it.
    fn add_anyway(&mut self, to: &Ref, what: What) -> BufId {
        assert!(self.sweep.unit.len() < UNIT_BLOCKS as usize, "a unit is bounded");
        if self.sweep.batch.is_none() {
            let batch = self.holds.take();
            self.sweep.batch = Some(batch);
            if self.config.bug(Planted::ResyncNotHeld) {
                self.holds.release(batch);
                self.sweep.batch = None;
            }
        }
        let ignored = self.config.bug(Planted::ScrubDataOnly) && !matches!(what, What::Data(_));
        let mut item = Item::new(to, what);
        if ignored && self.sweep.errand == Errand::Scrub {
            item.tried = u8::MAX;
        }
        self.sweep.unit.push(item);
        self.unit_buffer(self.sweep.unit.len() - 1)
    }

    /// Whether a page or bitmap is to be visited: all of them, or those that the drive lacks.
    fn wants(&self, page: &Ref) -> bool {
        if self.sweep.errand == Errand::Scrub {
            return true;
        }
        if self.config.bug(Planted::ResyncPrunedBySeq) {
            return page.when > self.sweep.seq && page.ckpt() < self.sweep.fresh;
        }
        page.ckpt() > self.sweep.ckpt && page.ckpt() < self.sweep.fresh
    }

    /// Goes on with the walk of this stage until a unit is full or a page must be read.
    pub(super) fn walk_on<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let room_for_path = UNIT_BLOCKS as usize - PAGE_REFS;
        for _ in 0..STEPS_PER_POLL {
            let Some((root, top)) = self.walk_root() else { return self.next_walk() };
            let space = self.space_blocks();
            match self.sweep.walk.step((&root, top), space, &mut self.cache, turn.memory) {
                WalkStep::Need(page) => {
                    if self.waits_for(turn, page) && self.sweep.unit.is_empty() {
                        // Its end wakes everybody: a slow drive would have the walk asking here without a pause.
                        return;
                    }
                    break;
                }
                WalkStep::Page { page, level, first, buf } => {
                    self.sweep.asked_in_vain = 0;
                    self.visit_page(turn, &page, (level, first), buf);
                    if level == 0 {
                        self.add_leaf(turn, &page, first, buf);
                    }
                }
                WalkStep::Damaged(page) => {
                    self.note_lost(page.pba, self.what_page(0, Lba::new(self.sweep.walk.cursor())))
                }
                WalkStep::Done => self.sweep.cut = None,
            }
            if self.sweep.stage == Stage::Leaving {
                break;
            }
            if self.sweep.stage == Stage::Map {
                self.sweep.walked = self.sweep.walk.cursor();
            }
            let walked = self.sweep.cut.is_none() && self.sweep.stage == Stage::Cuts;
            if self.sweep.unit.len() >= room_for_path || walked {
                break;
            }
            if self.walk_done(top) {
                return self.next_walk();
            }
        }
        self.again = true;
    }

    /// A page of the walk that is not in the cache: whether it is on its way. A scrub looks at all its copies before one
    /// of them is taken: a copy that is found wrong on the way into the cache would be mended without being named.
    fn waits_for<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, page: Ref) -> bool {
        let at = self.what_page(self.sweep.walk.needed(), Lba::new(self.sweep.walk.cursor()));
        if self.sweep.errand == Errand::Scrub && self.sweep.scrub.seen != Some(page) {
            self.sweep.scrub.seen = Some(page);
            self.add(&page, at);
            return false;
        }
        if self.fetch_page(turn, &page) {
            return true;
        }
        if self.sweep.errand != Errand::Scrub {
            if self.sweep.asked_in_vain < ASKS_AGAIN {
                self.sweep.asked_in_vain += 1;
                return false;
            }
            self.note_lost(page.pba, at);
        }
        self.sweep.asked_in_vain = 0;
        self.sweep.walk.skip();
        false
    }

    /// A page of the walk, in the cache.
    fn visit_page<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, page: &Ref, at: (u8, Lba), buf: BufId) {
        if self.sweep.errand == Errand::Scrub && self.sweep.scrub.seen == Some(*page) {
            return;
        }
        let what = self.what_page(at.0, at.1);
        if self.wants(page)
            && let Some(to) = self.add_ref(page, what)
            && self.sweep.errand != Errand::Scrub
        {
            let item = self.sweep.unit.last_mut().expect("just added");
            if !item.shown {
                item.ready = true;
                turn.memory.copy_block(buf, to);
                let made = turn.memory.seal_page(to, page.pba, page.ckpt());
                assert!(made == page.check, "a page that was opened is sealed as another one");
            }
        }
    }

    /// What a page of the tree being walked is.
    fn what_page(&self, level: u8, first: Lba) -> What {
        match self.sweep.stage {
            Stage::Map => What::Page { level, first },
            Stage::Cuts => What::CutPage,
            _ => What::BitmapPage,
        }
    }

    /// The checkpoint is durable: the walk begins, a scrub's where it is to.
    pub(super) fn begin_walk(&mut self) {
        let (since, from) = match self.sweep.errand {
            Errand::Scrub => (base::CkptNo::ZERO, self.sweep.scrub.from),
            _ => (self.sweep.ckpt, 0),
        };
        self.sweep.ckpt = since;
        self.walk_from(from);
    }

    /// The walk of the map begins here.
    pub(in crate::group) fn walk_from(&mut self, from: u64) {
        (self.sweep.cut, self.sweep.scrub.seen) = (None, None);
        self.sweep.cuts_done.clear();
        self.sweep.walk = Walk::new(self.sweep.ckpt, from);
        self.sweep_to(Stage::Map);
    }

    /// No leg has this page right, and whatever lies below it is passed by. What a move leaves goes to others: it is given up.
    pub(super) fn note_lost(&mut self, pba: Pba, what: What) {
        self.sweep.lost += 1;
        match self.sweep.errand {
            Errand::Scrub => self.note_everywhere(pba, what),
            Errand::Move => self.move_failed(MoveRefusal::LastCopy),
            _ => {}
        }
    }

    /// The tree that this stage walks. `None`: there is none, or none is left.
    fn walk_root(&mut self) -> Option<(Ref, u8)> {
        match self.sweep.stage {
            Stage::Map => Some((self.volume.root, self.volume.height.root_level())),
            Stage::Cuts => self.next_cut(),
            Stage::Bitmaps => {
                let root = &self.directory.root;
                (root.tree_height > 0).then(|| (root.tree, root.tree_height - 1))
            }
            other => panic!("nothing is walked in stage {other:?}"),
        }
    }

    /// The cut subtree being walked, or the next one. Those that are freed meanwhile are nobody's any more, and so
    /// is what lies before an entry's cursor.
    fn next_cut(&mut self) -> Option<(Ref, u8)> {
        let resync = &mut self.sweep;
        let listed = |subtree: &Ref| self.directory.cuts.iter().any(|cut| cut.subtree == *subtree);
        resync.cuts_done.retain(listed);
        if resync.cut.is_some_and(|cut| !listed(&cut)) {
            resync.cut = None;
        }
        let done = |subtree: &Ref| resync.cuts_done.contains(subtree);
        let next = self.directory.cuts.iter().find(|cut| match resync.cut {
            Some(current) => cut.subtree == current,
            None => !done(&cut.subtree),
        })?;
        let leaf = cow::tree::page_covers(0).get();
        let from = next.cursor / leaf * leaf;
        if resync.cut.is_none() || resync.walk.cursor() < from {
            if resync.cut.is_none() {
                resync.cuts_done.push(next.subtree);
            }
            resync.cut = Some(next.subtree);
            resync.walk = Walk::new(resync.ckpt, from);
        }
        Some((next.subtree, next.level))
    }

    fn walk_done(&self, top: u8) -> bool {
        self.sweep.stage != Stage::Cuts && self.sweep.walk.cursor() >= cow::tree::page_covers(top).get()
    }

    fn next_walk(&mut self) {
        let next = match self.sweep.stage {
            Stage::Map if self.config.bug(Planted::ResyncMapOnly) => Stage::Rows(0),
            Stage::Map => Stage::Cuts,
            Stage::Cuts => Stage::Bitmaps,
            _ => Stage::Directory,
        };
        self.sweep.cut = None;
        self.sweep.cuts_done.clear();
        self.sweep.walk = Walk::new(self.sweep.ckpt, 0);
        self.sweep_to(next);
    }

    /// What a leaf leads to: data of the map, or bitmaps. Data of a cut subtree is garbage.
    fn add_leaf<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, leaf: &Ref, first: Lba, buf: BufId) {
        let space = self.space_blocks();
        let map = self.sweep.stage == Stage::Map;
        if self.sweep.stage == Stage::Cuts {
            return;
        }
        if map && !cow::page::valid(turn.memory.block(buf), leaf.when, 0, space) {
            return self.note_lost(leaf.pba, self.what_page(0, first));
        }
        let (seq, began) = (self.sweep.seq, self.sweep.began);
        for i in 0..PAGE_REFS {
            let to = cow::page::get(turn.memory.block(buf), i);
            if to.is_absent() || to.is_hole() || !to.valid(space) {
                continue;
            }
            let at = first.get() + i as u64;
            let what = if map { What::Data(Lba::new(at)) } else { What::Bitmap(at) };
            let scrubs = self.sweep.errand == Errand::Scrub;
            if scrubs || (map && to.when > seq && to.when <= began) || (!map && self.wants(&to)) {
                self.add_ref(&to, what);
            }
        }
    }

    /// The pages at the top; a resync leaves out those that a checkpoint since has made anew.
    pub(super) fn visit_directory(&mut self) {
        let (root, at) = (&self.directory.root, self.directory.at);
        for page in [at, root.volumes, root.cuts] {
            if !page.is_absent() && self.wants(&page) {
                self.add_ref(&page, What::Directory);
            }
        }
        self.sweep_to(Stage::Rows(0));
    }

    /// Row pages, while none is being made.
    pub(super) fn visit_rows(&mut self, from: usize) {
        if self.growth.changing() {
            return;
        }
        let count = self.row_pages.refs().count();
        let end = count.min(from + UNIT_BLOCKS as usize);
        for i in from..end {
            let page = *self.row_pages.refs().nth(i).expect("counted");
            self.add(&page, What::RowPage);
        }
        let next = if end == count { Stage::History(self.superblock.history) } else { Stage::Rows(end) };
        self.sweep_to(next);
    }

    /// A history page; which one is before it, its content says.
    pub(super) fn visit_history(&mut self, page: Ref) {
        if page.is_absent() {
            self.sweep_to(Stage::Headers(0));
        } else {
            self.add_anyway(&page, What::HistoryPage);
            self.sweep_to(Stage::HistoryPage);
        }
    }

    /// The page before the history page that the unit holds.
    pub(super) fn note_previous_page<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let mut lines = alloc::vec::Vec::new();
        let block = turn.memory.block(self.unit_buffer(0));
        let previous = match rlog::history::decode_page(block, &mut lines) {
            Ok(previous) if self.sweep.unit[0].ready => Ref::decode(&previous[..cow::layout::REF_BYTES]),
            _ => Ref::ABSENT,
        };
        let inside = previous.is_absent() || self.geometry.home_index(previous.pba).is_some();
        self.sweep.stage = Stage::History(if inside { previous } else { Ref::ABSENT });
    }

    /// Headers of extents: all, or those that the drive got while it was away. That of the home row it has had from the
    /// start, with names that are not the engine's; it is written only if it is not there any more.
    pub(super) fn visit_headers<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, mut row: u32) {
        let scrubs = self.sweep.errand == Errand::Scrub;
        let columns = usize::from(self.geometry.columns);
        let extents = self.geometry.row_extents();
        let has_first = self.sweep.errand == Errand::Resync && !self.sweep.header_lost;
        // Of the move's own walk only. While one stands aside a drive that is back gets its headers: were they those of the
        // leg that is being added, an import would take the drive for a copy that it is not.
        let own = self.sweep.errand == Errand::Move || self.config.bug(Planted::HeaderOfNewLeg);
        let adds_leg = own && self.moving.adds_leg();
        row = row.max(u32::from(has_first));
        while row < self.superblock.rows && self.sweep.unit.len() + extents <= UNIT_BLOCKS as usize {
            for i in 0..extents {
                let extent = self.rows[row as usize * extents + i];
                let named = match self.sweep.errand {
                    Errand::Move => self.moving.shadow(extent),
                    Errand::Resync if extent.drive != self.sweep.drive => None,
                    _ => Some(extent),
                };
                let leg = if adds_leg { usize::from(self.geometry.legs) } else { i / columns };
                if let Some(extent) = named {
                    self.add_header(turn, extent, RowNo::new(row), (leg, i % columns));
                }
            }
            row += 1;
        }
        self.sweep_to(Stage::Headers(row));
        if row >= self.superblock.rows && self.sweep.unit.is_empty() {
            if scrubs {
                self.begin_slots();
            } else {
                let ticket = self.flusher.ticket();
                self.sweep_to(Stage::Flush(ticket));
            }
        }
    }

    fn add_header<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        extent: Extent,
        row: RowNo,
        (leg, column): (usize, usize),
    ) {
        let leg = LegId::new(leg as u8);
        let block = self.header_of(extent, row, leg, Column::new(column as u8));
        let place = crate::geometry::Place { row, column: Column::new(column as u8), block: fixed::HEADER };
        let what = What::Header { row, leg };
        let to = Ref { pba: self.geometry.pba(place), check: Check::of(&block), ..Ref::ABSENT };
        if let Some(buf) = self.add(&to, what) {
            *turn.memory.block_mut(buf) = block;
            self.sweep.unit.last_mut().expect("just added").ready = true;
        }
    }

    /// What the first block of an extent must hold, but for the names in those of the home row.
    pub(super) fn header_of(&self, extent: Extent, row: RowNo, leg: LegId, column: Column) -> base::Block {
        self.header_at(extent, row, leg, column).encode()
    }

    /// What the header of an extent must say.
    pub(in crate::group) fn header_at(
        &self,
        extent: Extent,
        row: RowNo,
        leg: LegId,
        column: Column,
    ) -> Header {
        Header {
            pool: self.superblock.pool,
            drive: self.drives.get(extent.drive).info.uuid,
            group: self.superblock.group,
            extent: extent.extent,
            row,
            leg,
            column,
        }
    }
}
