//! The last steps: a new Gen and history line, durable before anything is served.
use super::{HistoryChange, Recovery, Stage};
use crate::config::Refusal;
use crate::group::Halt;
use crate::group::checkpoint::{LAST_NUMBER, MAX_ATTEMPTS};
use crate::keys::Keys;
use crate::layout::extent as fixed;
use crate::planted::Planted;
use crate::superblock::{COMMITS_END, COMMITS_KEPT, Home, SEQS_END, SEQS_KEPT, VERSIONS_END, VERSIONS_KEPT};
use alloc::vec::Vec;
use base::{BLOCK_BYTES, Block, Check, CkptNo, Extent, Seq};
use cow::Ref;
use fence::{Activation, CopyState, DriveSet, Event, Generations};
use rlog::Line;
use rlog::history::encode_page;
use rlog::layout::{LINES_PER_PAGE, PREVIOUS_BYTES};

impl Recovery {
    /// Writes the newest superblock to the current copies that have an older one.
    pub(super) fn catch_up(&mut self) -> Result<(), Refusal> {
        self.script.clear();
        let homes: Vec<Home> = self.superblock().homes().collect();
        for (i, home) in homes.iter().enumerate() {
            let current = self.current_drives().contains(home.extent.drive);
            let handle = self.handles[usize::from(home.extent.drive.get())];
            let Some(handle) = handle.filter(|_| current && self.lagging[i]) else { continue };
            let slot = fixed::SUPERBLOCKS[usize::from(1 - self.newest_slots[i])];
            let at = self.geometry().drive_block(home.extent, slot);
            self.script.write(
                handle,
                at,
                self.superblock().encode_with(*home, self.keys.as_deref()).to_vec(),
            );
        }
        if self.script.done() {
            return self.write_history_page();
        }
        self.at(Stage::CatchUp);
        Ok(())
    }

    /// They have it, flushed.
    pub(super) fn caught_up(&mut self) -> Result<(), Refusal> {
        for (slot, lagging) in self.newest_slots.iter_mut().zip(&mut self.lagging) {
            if core::mem::take(lagging) {
                *slot = 1 - *slot;
            }
        }
        self.write_history_page()
    }

    /// What the accepted tail lacked is flushed: the line of the activation before goes to a history page.
    pub(super) fn write_history_page(&mut self) -> Result<(), Refusal> {
        self.script.clear();
        let pages = match self.superblock().line.filter(|line| self.owns_something(line)) {
            Some(line) => self.next_history_pages(line)?,
            None => Vec::new(),
        };
        self.compose(pages.last().map(|(page, _)| *page))?;
        for (page, block) in pages {
            let legs: Vec<_> = self.current_legs(page.pba).iter().collect();
            for leg in legs {
                if let Some((handle, at)) = self.locate(page.pba, leg) {
                    self.script.write(handle, at, block.to_vec());
                }
            }
        }
        self.at(Stage::HistoryPage);
        Ok(())
    }

    /// Why no activation can follow the ones before. The group is opened without one then: it can be read, and copied
    /// elsewhere.
    pub(super) fn no_activation_left(&self) -> Option<Halt> {
        if self.first_attempt() >= LAST_NUMBER {
            return Some(Halt::CheckpointsEnded);
        }
        if self.numbers_ended() {
            return Some(Halt::NumbersEnded);
        }
        let notes = self.superblock().line.is_some_and(|line| self.owns_something(&line));
        let full = self.home_pages.as_ref().expect("home pages").free() == 0;
        (notes && full).then_some(Halt::HistoryFull)
    }

    /// Whether a number that only grows is so high that what an activation adds might not be decoded by the next one. Nobody
    /// counts so far.
    fn numbers_ended(&self) -> bool {
        let chain = self.chain.as_ref().expect("a chain");
        let generation =
            self.highest_gen.get().saturating_add(1).max(self.request.activation.generation.get());
        let version = generation.saturating_mul(VERSIONS_KEPT).max(self.highest_version.saturating_add(1));
        version > VERSIONS_END - VERSIONS_KEPT
            || chain.next.get() > COMMITS_END - COMMITS_KEPT
            || chain.next_seq.get() > SEQS_END - SEQS_KEPT
    }

    /// Whether anything that can be reached is of this activation. One that made nothing durable is left out of the history of
    /// an encrypted group, which has no end: or a target that is killed whenever it has opened would use up the room for it.
    fn owns_something(&self, line: &Line) -> bool {
        let chain = self.chain.as_ref().expect("a chain");
        let nothing = line.first_commit == chain.next
            && line.first_seq == chain.next_seq
            && line.first_ckpt == self.first_attempt();
        self.keys.is_none() || !nothing
    }

    /// The newest history page with one line more, on a free home page; a new page if it is full. Where the oldest lines
    /// mean nothing any more, pages without them instead, if that makes room. The newest page comes last.
    fn next_history_pages(&mut self, line: Line) -> Result<Vec<(Ref, Block)>, Refusal> {
        let (mut lines, mut previous) = (Vec::new(), Ref::ABSENT);
        if let Some((page, newest)) = self.history_pages.first() {
            if newest.len() < LINES_PER_PAGE {
                lines.clone_from(newest);
                previous = self.history_pages.get(1).map_or(Ref::ABSENT, |(page, _)| *page);
            } else {
                previous = *page;
            }
        }
        lines.push(line);
        let needed = self.lines_that_count();
        let pages = needed.len().div_ceil(LINES_PER_PAGE);
        let home = self.home_pages.as_ref().expect("home pages");
        let has = self.history_pages.len();
        let begun = usize::from(lines.len() > 1);
        // A plain group's lines are kept as long as there is room.
        let gains = if self.keys.is_some() { pages < has + 1 - begun } else { home.free() < 8 };
        let cut = gains && pages <= home.free();
        if cut {
            (lines, previous) = (needed, Ref::ABSENT);
        }
        self.history_change = Some(HistoryChange {
            replaced: if cut { has } else { begun },
            made: lines.len().div_ceil(LINES_PER_PAGE),
            lines: (lines.len() - 1) % LINES_PER_PAGE + 1,
        });
        let mut made = Vec::new();
        for lines in lines.chunks(LINES_PER_PAGE) {
            let home = self.home_pages.as_mut().expect("home pages");
            let pba = home.take().ok_or(Refusal::Damaged("its home pages are full"))?;
            let mut back = [0; PREVIOUS_BYTES];
            previous.encode(&mut back[..32]);
            let mut block = [0; 4096];
            encode_page(lines, &back, &mut block);
            let check =
                self.keys.as_deref().map_or_else(|| Check::of(&block), |keys| keys.home_check(&block));
            previous = Ref::page(pba, Seq::ZERO, CkptNo::ZERO, check);
            made.push((previous, block));
        }
        Ok(made)
    }

    /// The lines that mean something, and the newest. A line of a plain group that owns no commit
    /// above the checkpoint means nothing any more. Lines that own one must stay: without them those commits are nobody's,
    /// and a group whose log was whole would be refused. A line of an encrypted group also has the salt of the keys of all
    /// that was written then: it means something until nothing lies under its data key, and no page under its checkpoints.
    fn lines_that_count(&self) -> Vec<Line> {
        let superblock = self.superblock();
        let lines = self.history.lines();
        let passed = |i: usize| {
            let Some(next) = lines.get(i + 1) else { return false };
            let log = next.first_commit <= superblock.next_commit.max(lines[i].first_commit);
            let sealed = self.keys.is_some()
                && (lines[i].key >= superblock.oldest_key || next.first_ckpt > superblock.oldest_ckpt);
            log && !sealed
        };
        (0..lines.len()).filter(|i| !passed(*i)).map(|i| lines[i]).collect()
    }

    /// The superblock of the new activation.
    fn compose(&mut self, history: Option<Ref>) -> Result<(), Refusal> {
        let mut found = Generations::new();
        found.found(self.highest_gen);
        let wanted = self.request.activation.generation;
        let next = found.next().map_err(|_| Refusal::Damaged("no Gen is left"))?;
        let activation = Activation {
            generation: next.max(wanted),
            id: self.request.activation.id,
            salt: self.request.activation.salt,
        };
        self.refuse_twice(&activation)?;
        let activation = match self.superblock().line {
            Some(line) if self.config.bug(Planted::SaltReused) => {
                Activation { id: line.id, salt: line.salt, ..activation }
            }
            _ => activation,
        };
        let version = activation.first_version(self.highest_version);
        let durable = self.durable_after();
        let first_ckpt = if self.keys.is_some() { self.first_attempt() } else { CkptNo::ZERO };
        let (ckpt, chain_next, next_seq) = {
            let chain = self.chain.as_ref().expect("a chain");
            (self.superblock().ckpt, chain.next, chain.next_seq)
        };
        let failed = self.table.current().without(self.current_drives());
        for drive in failed.iter() {
            let at = (self.chain.as_ref().expect("a chain").durable, ckpt);
            self.stale(drive, at, version);
        }
        // Writes do not go to a copy without rows. A move came to its end, and a crash before the drive that was left was
        // stale: found alone, it would open with the superblock that it has, and what is acknowledged from here on
        // would be lost.
        let placed = self.places().fold(DriveSet::EMPTY, DriveSet::union);
        for drive in self.table.current().without(failed).without(placed).iter() {
            self.stale(drive, (Seq::ZERO, CkptNo::ZERO), version);
            self.current.remove(drive);
        }
        // By the operator's word the group goes on from copies that lack something. Whoever has that is another
        // group from here on: what it has is compared when it comes back.
        let forked = !self.promoted.is_empty() || (self.request.catalogue.is_none() && !failed.is_empty());
        if self.request.forced && forked && !self.config.bug(Planted::ForcedNotForked) {
            self.fork(version);
        }
        // Whoever was being resynced was not finished.
        for drive in self.table.drives(|state| matches!(state, CopyState::Resyncing { .. })).iter() {
            self.stale(drive, (Seq::ZERO, CkptNo::ZERO), version);
        }
        // Nobody has more than the group itself.
        //
        // Crash story: a checkpoint was on both drives of a mirror, and the version that names it in one slot of the
        // first, whose flush then failed: stale since that checkpoint, the catalogue heard. Power failed, and the
        // second drive lost its slot. The next activation began at the checkpoint before, and its own first one had
        // the same number. The first drive came back, was believed to have everything of that number, and got nothing.
        self.table.bound(durable, ckpt);
        self.table.restamp(version);
        let drives = self.table.entries().to_vec();
        let superblock = self.superblock.as_mut().expect("a superblock");
        superblock.generation = activation.generation;
        superblock.version = version;
        superblock.drives = drives;
        superblock.durable = durable;
        superblock.clean = false;
        if let Some(page) = history {
            superblock.history = page;
        }
        let line = Line {
            first_seq: next_seq,
            first_commit: chain_next,
            generation: activation.generation,
            id: activation.id,
            salt: activation.salt,
            first_ckpt,
            key: self.keys.as_deref().and_then(Keys::newest_data_key).unwrap_or(0),
        };
        superblock.line = Some(line);
        // Said now: a line of before that is out of its order would keep the next activation from opening, for ever.
        let mut history = self.history.clone();
        history.append(line).map_err(|_| Refusal::Damaged("its history is out of order"))?;
        if let Some(keys) = self.keys.as_deref_mut() {
            keys.follow(history);
        }
        Ok(())
    }

    /// An activation of an encrypted group is another one than all before it: its keys come from its salt, and its numbers go
    /// on where those before were cut short. Only a recovery that begins again finds what it has written itself.
    fn refuse_twice(&mut self, activation: &Activation) -> Result<(), Refusal> {
        let known = |line: &Line| line.id == activation.id || line.salt == activation.salt;
        if self.keys.is_some() && !self.forsaken.composed && self.history.lines().iter().any(known) {
            return Err(Refusal::ActivationTwice);
        }
        self.forsaken.composed = true;
        Ok(())
    }

    /// A drive failed after the new superblock was made, which calls it current: another version says that it
    /// is stale, and all steps from there on are done again.
    ///
    /// Crash story: were the group served without that, the drive could come back after a crash as a copy that
    /// counts, without what was acknowledged meanwhile. What was written of the version before is flushed first,
    /// or a crash could tear both slots of a drive.
    pub(super) fn compose_again(&mut self) -> Result<(), Refusal> {
        self.highest_version = self.superblock().version;
        self.compose(None)?;
        self.flush_all(Stage::HistoryFlush);
        Ok(())
    }

    /// A copy that is current by the table and not at hand (or failed just now) misses what comes after D.
    fn stale(&mut self, drive: base::DriveIx, at: (Seq, CkptNo), version: u64) {
        let entry = *self.table.get(drive);
        let state =
            entry.state.after(Event::Fail { seq: at.0, ckpt: at.1 }).expect("a current copy can fail");
        assert!(matches!(state, CopyState::Stale { .. }));
        self.table.merge(&[fence::CopyEntry { state, version: version - 1, ..entry }]);
    }

    /// The copies that were opened are current; any other is unproven.
    ///
    /// Crash story: the missing copy served alone up to Seq 200 and its mate was left at 100. Were the missing one stale
    /// since 100, it would come back and keep what it has of 101 to 200, which are other writes in this history now,
    /// also where it lies over what was written before 100 and replaced then.
    fn fork(&mut self, version: u64) {
        let current = self.current_drives();
        let at_most = (self.chain.as_ref().expect("a chain").durable, self.superblock().ckpt);
        for at in 0..self.table.entries().len() {
            let drive = base::DriveIx::new(at as u8);
            let entry = *self.table.get(drive);
            let state = if current.contains(drive) {
                CopyState::Current
            } else {
                let parted = entry.state.after(Event::Diverge).expect("any copy may diverge");
                parted.at_most(at_most.0, at_most.1)
            };
            self.table.merge(&[fence::CopyEntry { state, version: version - 1, ..entry }]);
        }
    }

    /// Everything accepted is flushed on every current copy.
    fn durable_after(&self) -> Seq {
        Seq::new(self.chain.as_ref().expect("a chain").next_seq.get() - 1)
    }

    /// Drives without a superblock get theirs before any other is written.
    ///
    /// Crash story: a drive had taken over a home place and lacked its first superblock. What says so are two versions on
    /// another drive, that with it and that before. Were the older one written over and power to fail again, the drive that
    /// lacks one still could not be told from one with foreign content.
    pub(super) fn write_bare_slots(&mut self) {
        let bare = core::mem::take(&mut self.bare);
        self.write_slots_of(bare.and(self.current_drives()), false);
        self.at(Stage::BareSlot);
    }

    fn write_slots(&mut self, newest: bool) {
        self.write_slots_of(self.current_drives(), newest);
    }

    fn write_slots_of(&mut self, drives: DriveSet, newest: bool) {
        self.script.clear();
        let homes: Vec<Home> = self.superblock().homes().collect();
        for (i, home) in homes.iter().enumerate() {
            if !drives.contains(home.extent.drive) {
                continue;
            }
            let Some(handle) = self.handles[usize::from(home.extent.drive.get())] else { continue };
            let newest = newest != self.config.bug(Planted::SlotsNewestFirst);
            let slot = if newest { self.newest_slots[i] } else { 1 - self.newest_slots[i] };
            let at = self.geometry().drive_block(home.extent, fixed::SUPERBLOCKS[usize::from(slot)]);
            let block = self.superblock().encode_with(*home, self.keys.as_deref());
            self.script.write(handle, at, block.to_vec());
        }
    }

    pub(super) fn write_first_slots(&mut self) -> Result<(), Refusal> {
        self.write_slots(false);
        self.at(Stage::FirstSlot);
        if self.config.bug(Planted::LineNotDurable) {
            self.script = super::script::Script::default();
            self.at(Stage::Done);
        }
        Ok(())
    }

    pub(super) fn write_second_slots(&mut self) {
        self.write_slots(true);
        self.wipe_former_homes();
        self.at(Stage::SecondSlot);
    }

    /// A leg was dropped, and a crash came before the superblocks of its extents were wiped on drives that stay for other
    /// rows (`group/moving.rs`). They are now that the new version is in one slot of every copy, and flushed there.
    ///
    /// Crash story: were they left, then power fails again, and such a drive alone is found: what it says is the group as
    /// it was before the leg was dropped, all of it on that drive, and nobody has a mark against it.
    fn wipe_former_homes(&mut self) {
        for (drive, extent) in self.former.clone() {
            let Some(drive) = self.table.find(drive).filter(|drive| self.current.contains(*drive)) else {
                continue;
            };
            let Some(handle) = self.handles[usize::from(drive.get())] else { continue };
            for slot in fixed::SUPERBLOCKS {
                let at = self.geometry().drive_block(Extent { drive, extent }, slot);
                self.script.write(handle, at, alloc::vec![0; BLOCK_BYTES]);
            }
        }
    }

    /// Behind the highest number that an attempt of the activation before can have had.
    pub(super) fn first_attempt(&self) -> CkptNo {
        CkptNo::new(self.superblock().ckpt.get().saturating_add(MAX_ATTEMPTS))
    }
}
