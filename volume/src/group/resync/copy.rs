//! What a resync copies, and how: a unit of blocks is read from current legs, checked, and written to the drive.
use super::*;

impl Group {
    pub(super) fn unit_buffer(&self, index: usize) -> BufId {
        self.buffers.resync.plus(index as u32)
    }

    /// The leg that the drive has of a block, if any.
    fn leg_on(&self, pba: Pba) -> Option<LegId> {
        let place = self.geometry.place(pba);
        self.legs().find(|leg| self.extent(place.row, *leg, place.column).drive == self.resync.drive)
    }

    /// Adds a block to the unit if the drive has a leg of it, and holds it from now on. Returns its buffer.
    fn add(&mut self, pba: Pba, check: Check, ready: bool) -> Option<BufId> {
        self.leg_on(pba)?;
        Some(self.add_anyway(pba, check, ready))
    }

    /// The same for a block that is to be read, whether or not the drive has a leg of it.
    fn add_anyway(&mut self, pba: Pba, check: Check, ready: bool) -> BufId {
        assert!(self.resync.unit.len() < UNIT_BLOCKS as usize, "a unit is bounded");
        if self.resync.batch.is_none() {
            let batch = self.holds.take();
            self.resync.batch = Some(batch);
            if self.config.bug(Planted::ResyncNotHeld) {
                self.holds.release(batch);
                self.resync.batch = None;
            }
        }
        self.resync.unit.push(Item { pba, check, tried: 0, ready, lost: false });
        self.unit_buffer(self.resync.unit.len() - 1)
    }

    /// Whether a page or bitmap is one that the drive lacks.
    fn lacks(&self, page: &Ref) -> bool {
        if self.config.bug(Planted::ResyncPrunedBySeq) {
            return page.when > self.resync.seq && page.ckpt() < self.resync.fresh;
        }
        page.ckpt() > self.resync.ckpt && page.ckpt() < self.resync.fresh
    }

    /// Goes on with the walk of this stage until a unit is full or a page must be read.
    pub(super) fn walk_on<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        let room_for_path = UNIT_BLOCKS as usize - PAGE_REFS;
        for _ in 0..STEPS_PER_POLL {
            let Some((root, top)) = self.walk_root() else { return self.next_walk() };
            let space = self.space_blocks();
            match self.resync.walk.step((&root, top), space, &mut self.cache, turn.memory) {
                WalkStep::Need(page) => {
                    if !self.fetch_page(turn, &page) {
                        self.resync.lost += 1;
                        self.resync.walk.skip();
                    }
                    break;
                }
                WalkStep::Page { page, level, buf, .. } => {
                    if self.lacks(&page)
                        && let Some(to) = self.add(page.pba, page.check, true)
                    {
                        turn.memory.copy_block(buf, to);
                    }
                    if level == 0 {
                        self.add_leaf(turn, &page, buf);
                    }
                }
                WalkStep::Damaged(_) => self.resync.lost += 1,
                WalkStep::Done => self.resync.cut = None,
            }
            if self.resync.stage == Stage::Map {
                self.resync.walked = self.resync.walk.cursor();
            }
            let walked = self.resync.cut.is_none() && self.resync.stage == Stage::Cuts;
            if self.resync.unit.len() >= room_for_path || walked {
                break;
            }
            if self.walk_done(top) {
                return self.next_walk();
            }
        }
        self.again = true;
    }

    /// The tree that this stage walks. `None`: there is none, or none is left.
    fn walk_root(&mut self) -> Option<(Ref, u8)> {
        match self.resync.stage {
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
        let resync = &mut self.resync;
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
        self.resync.stage != Stage::Cuts && self.resync.walk.cursor() >= cow::tree::page_covers(top).get()
    }

    fn next_walk(&mut self) {
        let next = match self.resync.stage {
            Stage::Map if self.config.bug(Planted::ResyncMapOnly) => Stage::Bitmaps,
            Stage::Map => Stage::Cuts,
            Stage::Cuts => Stage::Bitmaps,
            _ => Stage::Directory,
        };
        self.resync.cut = None;
        self.resync.cuts_done.clear();
        self.resync.walk = Walk::new(self.resync.ckpt, 0);
        self.resync_at(next);
    }

    /// What a leaf leads to: data of the map, or bitmaps. Data of a cut subtree is garbage.
    fn add_leaf<M: Memory>(&mut self, turn: &mut Turn<'_, M>, leaf: &Ref, buf: BufId) {
        let space = self.space_blocks();
        let map = self.resync.stage == Stage::Map;
        if self.resync.stage == Stage::Cuts {
            return;
        }
        if map && !cow::page::valid(turn.memory.block(buf), leaf.when, 0, space) {
            self.resync.lost += 1;
            return;
        }
        let (seq, began) = (self.resync.seq, self.resync.began);
        for i in 0..PAGE_REFS {
            let to = cow::page::get(turn.memory.block(buf), i);
            if to.is_absent() || to.is_hole() || !to.valid(space) {
                continue;
            }
            let lacking = if map { to.when > seq && to.when <= began } else { self.lacks(&to) };
            if lacking {
                self.add(to.pba, to.check, false);
            }
        }
    }

    /// The pages at the top, as far as no checkpoint since has made them anew.
    pub(super) fn copy_directory<M: Memory>(&mut self, _turn: &mut Turn<'_, M>) {
        let (root, at) = (&self.directory.root, self.directory.at);
        for page in [at, root.volumes, root.cuts] {
            if !page.is_absent() && self.lacks(&page) {
                self.add(page.pba, page.check, false);
            }
        }
        self.resync_at(Stage::Rows(0));
    }

    /// Row pages, while none is being made.
    pub(super) fn copy_rows<M: Memory>(&mut self, _turn: &mut Turn<'_, M>, from: usize) {
        if self.growth.changing() {
            return;
        }
        let count = self.row_pages.refs().count();
        let end = count.min(from + UNIT_BLOCKS as usize);
        for i in from..end {
            let page = *self.row_pages.refs().nth(i).expect("counted");
            self.add(page.pba, page.check, false);
        }
        let next = if end == count { Stage::History(self.superblock.history) } else { Stage::Rows(end) };
        self.resync_at(next);
    }

    /// A history page; which one is before it, its content says (`write_unit`).
    pub(super) fn copy_history<M: Memory>(&mut self, _turn: &mut Turn<'_, M>, page: Ref) {
        if page.is_absent() {
            self.resync_at(Stage::Headers(0));
        } else {
            self.add_anyway(page.pba, page.check, false);
            self.resync_at(Stage::HistoryPage);
        }
    }

    /// Headers of the extents that it got while it was away. Those of the home row it has had from the start.
    pub(super) fn copy_headers<M: Memory>(&mut self, turn: &mut Turn<'_, M>, mut row: u32) {
        let columns = usize::from(self.geometry.columns);
        let extents = self.geometry.row_extents();
        row = row.max(1);
        while row < self.superblock.rows && self.resync.unit.len() + extents <= UNIT_BLOCKS as usize {
            for i in 0..extents {
                let extent = self.rows[row as usize * extents + i];
                if extent.drive == self.resync.drive {
                    self.add_header(turn, extent, RowNo::new(row), (i / columns, i % columns));
                }
            }
            row += 1;
        }
        if row >= self.superblock.rows {
            self.resync_at(Stage::Headers(row));
            if self.resync.unit.is_empty() {
                let ticket = self.flusher.ticket();
                self.resync_at(Stage::Flush(ticket));
            }
        } else {
            self.resync_at(Stage::Headers(row));
        }
    }

    fn add_header<M: Memory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        extent: Extent,
        row: RowNo,
        (leg, column): (usize, usize),
    ) {
        let column = Column::new(column as u8);
        let header = Header {
            pool: self.superblock.pool,
            drive: self.drives.get(extent.drive).info.uuid,
            group: self.superblock.group,
            extent: extent.extent,
            row,
            leg: LegId::new(leg as u8),
            column,
        };
        let block = header.encode();
        let pba = self.geometry.pba(crate::geometry::Place { row, column, block: fixed::HEADER });
        if let Some(buf) = self.add(pba, Check::of(&block), true) {
            *turn.memory.block_mut(buf) = block;
        }
    }

    /// Takes a unit further: what is not there yet is read, then all of it is written.
    pub(super) fn unit_on<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        if !self.room_beside_writes(turn, UNIT_BLOCKS as usize) {
            return;
        }
        self.read_unit(turn);
        if self.resync.reading == 0 {
            self.write_unit(turn);
        }
    }

    /// How many blocks from `first` on lie side by side and are alike in what is to be done.
    fn run_from(&self, first: usize, alike: impl Fn(&Item) -> bool) -> usize {
        let unit = &self.resync.unit;
        let most = self.geometry.contiguous(unit[first].pba).get() as usize;
        let start = unit[first].pba;
        let goes_on = |n: &usize| {
            let item = unit.get(first + n);
            item.is_some_and(|item| item.pba.get() == start.get() + *n as u64 && alike(item))
        };
        (1..most).take_while(goes_on).count() + 1
    }

    fn read_unit<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        let mut at = 0;
        while at < self.resync.unit.len() {
            let item = self.resync.unit[at];
            if item.ready || item.lost {
                at += 1;
                continue;
            }
            // After a failure each block is read alone.
            let untried = |other: &Item| !other.ready && !other.lost && other.tried == 0;
            let count = if item.tried == 0 { self.run_from(at, untried) } else { 1 };
            match self.pick_leg(item.pba, item.tried) {
                Some(leg) => {
                    let purpose = Purpose::Copy { first: at as u8, count: count as u8, leg: leg.get() };
                    let memory = Segment { buf: self.unit_buffer(at), blocks: count as u32 };
                    self.resync.reading += 1;
                    self.read_leg(turn, purpose, leg, item.pba, memory);
                }
                None => {
                    self.resync.unit[at].lost = true;
                    self.resync.lost += 1;
                    at += 1;
                    continue;
                }
            }
            at += count;
        }
    }

    /// A read for a unit ended: each block is checked, and read from the next leg if it is not right.
    pub fn copy_read_ended<M: Memory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        (first, count, leg): (u8, u8, u8),
        result: Result<(), Fault>,
    ) {
        self.resync.reading -= 1;
        for i in usize::from(first)..usize::from(first) + usize::from(count) {
            if leg == u8::MAX {
                // Of the probe: the content is its own check.
                self.resync.unit[i].ready = result.is_ok();
                continue;
            }
            let right = result.is_ok()
                && Check::of(turn.memory.block(self.unit_buffer(i))) == self.resync.unit[i].check;
            let drive = self.drive_of(self.resync.unit[i].pba, LegId::new(leg));
            self.drives.get_mut(drive).stats.check_errors += u64::from(result.is_ok() && !right);
            let item = &mut self.resync.unit[i];
            item.ready = right;
            item.tried |= 1 << leg;
        }
        self.again = true;
    }

    fn write_unit<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        if self.resync.stage == Stage::HistoryPage {
            self.note_previous_page(turn);
        }
        let job = self.ops.open_job(JobKind::Copy);
        let mut at = 0;
        while at < self.resync.unit.len() {
            let item = self.resync.unit[at];
            let Some(leg) = self.leg_on(item.pba).filter(|_| item.ready) else {
                at += 1;
                continue;
            };
            let count = self.run_from(at, |other| other.ready);
            let place = self.geometry.place(item.pba);
            let extent = self.extent(place.row, leg, place.column);
            let memory = [Segment { buf: self.unit_buffer(at), blocks: count as u32 }];
            self.write_extent(turn, job, extent, place.block, &memory);
            self.resync.copied += count as u64;
            at += count;
        }
        self.resync.writing = true;
        self.ops.seal_job(job);
        self.again = true;
    }

    fn note_previous_page<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        let mut lines = Vec::new();
        let block = turn.memory.block(self.unit_buffer(0));
        let previous = match rlog::history::decode_page(block, &mut lines) {
            Ok(previous) if self.resync.unit[0].ready => Ref::decode(&previous[..cow::layout::REF_BYTES]),
            _ => Ref::ABSENT,
        };
        let inside = previous.is_absent() || self.geometry.home_index(previous.pba).is_some();
        self.resync.stage = Stage::History(if inside { previous } else { Ref::ABSENT });
    }

    /// The writes of a unit have ended.
    pub fn copy_written(&mut self, _job: Job) {
        self.resync.writing = false;
        self.resync.ended = Some(self.resync.unit.len() as u64);
        self.end_unit();
        self.again = true;
    }

    pub(super) fn end_unit(&mut self) {
        self.resync.unit.clear();
        if let Some(batch) = self.resync.batch.take() {
            self.holds.release(batch);
        }
    }
}
