//! Another data key: every block that lies under an older one is written again, under the activation's.
//!
//! A new data key counts from the next activation on: its history line names it. What was written before stays under the
//! keys that it has, until this walk has come by. It goes through the volume from its first block to its last, skips holes
//! and what has the newest key, reads a run of the rest and writes it again like a request of the guest, with a commit and
//! a Seq of its own. It has a slot of its own for that: it waits behind overlapping writes and they behind it, so that what
//! it writes is what the block holds at that moment. Between two runs it rests (`pace.rs`).
//!
//! When the walk has come to its end and a checkpoint that began behind it is durable, nothing that a recovery can reach
//! lies under an older key, neither by the map nor by the log. The next superblock says which key is the oldest that is needed,
//! and when that is durable the older keys can be given up. A recovery refuses to open without a key that is needed: what
//! it cannot read it would take for lost. A copy that was away meanwhile says that it needs the older one.
//!
//! Crash story: the walk keeps nothing on the drives. After a crash it begins again, and finds most blocks under the new
//! key. What was being written is in the log or not, like any write: the block has the same content under both keys. Until
//! the end was reported nobody gives up a key; what the log replays behind the checkpoint is younger than the walk.
//!
//! A block that no leg has right cannot be written again. It is counted, and the walk does not come to a good end: with
//! the older key the drive that has it right may still come back.
use super::pace::Pace;
use super::{Group, Turn};
use crate::keys::Keyed;
use crate::planted::Planted;
use crate::slots::State;
use base::limits::SLOT_DATA_BLOCKS;
use base::{
    Blocks, CkptNo, Duration, Fault, Instant, Lba, Op, Phase, Request, SECTORS_PER_BLOCK, Sector, Sectors,
    SlotId,
};

/// Blocks that one poll looks at in search of one that is no hole.
const MAX_LOOK: u64 = 512;
/// How long the walk rests where there is no space for what it writes.
const REST_WITHOUT_SPACE: Duration = Duration::from_nanos(1_000_000_000);

/// What a walk to the newest data key has done since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RekeyStats {
    /// It is under way.
    pub running: bool,
    /// It came to its end, and nothing that can be reached lies under an older key.
    pub finished: bool,
    /// The first block of the volume that it has yet to look at.
    pub walked_blocks: u64,
    /// Blocks of the volume.
    pub total_blocks: u64,
    /// Blocks that were written again.
    pub rewritten_blocks: u64,
    /// Blocks that no leg has right: with any of them the walk does not finish well.
    pub lost_blocks: u64,
    /// It waits for space.
    pub no_space: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    Walk,
    /// Everything was looked at: this checkpoint makes it durable.
    Checkpoint(CkptNo),
    /// This version of the superblock says that no older key is needed.
    Announce(u64),
}

/// The walk.
#[derive(Debug)]
pub(crate) struct Rekey {
    pub rate: u64,
    stage: Stage,
    stats: RekeyStats,
    /// Before this block one at a time is read: one of a run could not be.
    single_until: Lba,
    /// Whether the slot has a run.
    busy: bool,
    /// The run is of a walk that was ended: it says nothing about this one.
    former: bool,
    guest_waited: bool,
    pace: Pace,
}

impl Rekey {
    pub fn new() -> Self {
        Self {
            rate: 0,
            stage: Stage::Idle,
            stats: RekeyStats::default(),
            single_until: Lba::ZERO,
            busy: false,
            former: false,
            guest_waited: false,
            pace: Pace::new(),
        }
    }

    /// When it goes on, if it rests.
    pub fn rests_until(&self) -> Option<Instant> {
        self.pace.deadline().filter(|_| self.stage == Stage::Walk && !self.busy)
    }

    /// What it has done.
    pub fn stats(&self) -> RekeyStats {
        self.stats
    }
}

fn sector_of(lba: Lba) -> Sector {
    Sector::new(lba.get() * SECTORS_PER_BLOCK)
}

impl Group {
    /// The slot of the walk, behind those of the guest.
    fn rekey_slot(&self) -> SlotId {
        SlotId(self.config.slots)
    }

    /// Starts the walk, unless one is under way. False if the group takes no writes.
    pub fn start_rekey(&mut self) -> bool {
        if self.halt.is_some() || self.config.read_only || self.phase != Phase::Serving {
            return false;
        }
        if self.rekey.stage == Stage::Idle {
            self.rekey.stage = Stage::Walk;
            self.rekey.stats = RekeyStats { running: true, ..RekeyStats::default() };
            (self.rekey.single_until, self.rekey.former) = (Lba::ZERO, self.rekey.busy);
            self.rekey.pace.rewind();
            self.again = true;
        }
        true
    }

    /// Ends the walk where it is; a run that is under way is still written.
    pub fn stop_rekey(&mut self) {
        self.rekey.stage = Stage::Idle;
        self.rekey.stats.running = false;
    }

    /// Takes the walk further.
    pub fn advance_rekey<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if self.rekey.stage == Stage::Idle {
            return;
        }
        if self.halt.is_some() || self.closing {
            return self.stop_rekey();
        }
        self.rekey.stats.total_blocks = self.volume.sectors.get().div_ceil(SECTORS_PER_BLOCK);
        let slot = self.rekey_slot();
        let is_guests = |id: &SlotId| *id != slot && !self.slots.get(*id).finished;
        self.rekey.guest_waited |= self.slots.order.iter().any(is_guests);
        match self.rekey.stage {
            Stage::Walk if !self.rekey.busy => self.next_run(turn),
            Stage::Checkpoint(number) if self.checkpoint.durable() >= number => self.announce_key(),
            Stage::Announce(version) if self.writer.is_durable(version) => {
                self.stop_rekey();
                self.rekey.stats.finished = true;
            }
            _ => {}
        }
    }

    /// Whether the walk can go on, as far as the group is concerned: its slot is free, and the directory is there. What makes
    /// it so calls for a poll.
    fn may_rewrite(&self) -> bool {
        self.opening.is_none() && self.slots.get(self.rekey_slot()).state == State::Free
    }

    /// When the walk goes on, if time is all that it waits for. Otherwise the loop would turn without a pause until what it
    /// waits for is there.
    pub fn rekey_rests_until(&self) -> Option<Instant> {
        self.rekey.rests_until().filter(|_| self.may_rewrite())
    }

    fn next_run<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if !self.may_rewrite() {
            return;
        }
        if !self.rekey.pace.may_go(turn.now) {
            return;
        }
        let walked = Lba::new(self.rekey.stats.walked_blocks);
        let left = self.rekey.stats.total_blocks.saturating_sub(walked.get());
        let too_early = self.config.bug(Planted::RekeyTooEarly) && left <= self.rekey.stats.total_blocks / 4;
        if left == 0 || too_early {
            return self.walk_ended();
        }
        self.again = true;
        let look = Sectors::new(left.min(MAX_LOOK) * SECTORS_PER_BLOCK);
        if let Some((true, sectors)) = self.extent_at(sector_of(walked), look, turn.memory) {
            self.rekey.stats.walked_blocks += sectors.get().div_ceil(SECTORS_PER_BLOCK);
            return;
        }
        let most = if walked < self.rekey.single_until { 1 } else { u64::from(SLOT_DATA_BLOCKS) };
        let end = self.volume.sectors.get();
        let (slot, sector) = (self.rekey_slot(), sector_of(walked));
        let sectors = (left.min(most) * SECTORS_PER_BLOCK).min(end - sector.get());
        let request = Request { slot, op: Op::Write, sector, sectors: Sectors::new(sectors), fua: false };
        self.slots.enter(request);
        self.slots.get_mut(slot).rewrites = true;
        self.rekey.busy = true;
    }

    /// Everything was looked at. What is not in the map yet becomes so by the next checkpoint that begins.
    fn walk_ended(&mut self) {
        self.rekey.stage = Stage::Checkpoint(self.checkpoint.next_number());
        self.checkpoint.force = true;
        self.checkpoint.needed = true;
        self.again = true;
    }

    /// No older key is needed: superblocks say so, and refuse whoever has not got the newest.
    fn announce_key(&mut self) {
        let key = self.superblock.line.map_or(0, |line| line.key);
        if self.rekey.stats.lost_blocks > 0 {
            return self.stop_rekey();
        }
        self.superblock.oldest_key = key;
        self.superblock.oldest_ckpt = self.oldest_checkpoint(key);
        self.rekey.stage = Stage::Announce(self.writer.want());
        self.again = true;
    }

    /// No page or bitmap that can be reached is of an older checkpoint, once nothing lies under an older data key than this:
    /// the lines of activations before that are not needed any more (`recovery/activate.rs`). Every page of the map has
    /// data somewhere below it (one of nothing but holes becomes a hole), which was written again, so the page was too. Pages
    /// of the bitmap tree are as new as their newest bitmap, the others are new with each checkpoint. What was cut off the
    /// map and is not freed yet has pages of any age: nothing is said then.
    fn oldest_checkpoint(&self, key: u16) -> CkptNo {
        let before = self.superblock.oldest_ckpt;
        if !self.directory.cuts.is_empty() || self.opening.is_some() {
            return before;
        }
        let lines = self.history.iter().chain(&self.superblock.line);
        let under_key = lines.filter(|line| line.key >= key).map(|line| line.first_ckpt).min();
        let bitmaps = self.space.oldest_bitmap();
        let oldest = under_key.unwrap_or(before).min(bitmaps.unwrap_or(self.superblock.ckpt));
        oldest.min(self.superblock.ckpt).max(before)
    }

    /// The Refs of a run are there: of what lies under an older key, the part that comes first is read. The rest of the
    /// range is let go, and looked at again later.
    pub fn resolved_rewrite<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, id: SlotId) {
        let blocks = self.slots.get(id).blocks as usize;
        let newest = self.superblock.line.map(|line| line.key);
        let refs = &self.slots.refs(id)[..blocks];
        let keys = turn.memory.keys();
        let Some(keys) = keys else { return self.finish(turn, id, Ok(())) };
        let mut is_old = |i: &usize| !refs[*i].is_hole() && keys.data_key_of(refs[*i].when) != newest;
        let first = (0..blocks).find(&mut is_old);
        let Some(first) = first else { return self.finish(turn, id, Ok(())) };
        let count = (first..blocks).take_while(is_old).count();
        self.slots.refs(id).copy_within(first..first + count, 0);
        let slot = self.slots.get_mut(id);
        slot.first = slot.first + Blocks::new(first as u64);
        slot.blocks = count as u64;
        slot.request.sector = sector_of(slot.first);
        slot.request.sectors = Sectors::new(count as u64 * SECTORS_PER_BLOCK);
        slot.cursor = count as u32;
        // Whoever waited for a block that is not in the run any more goes on.
        self.again = true;
    }

    /// What was read is in the slot, in plain text: it is a write like any other from now on.
    pub fn rewrite_has_read(&mut self, id: SlotId) {
        self.release(id);
        let slot = self.slots.get_mut(id);
        (slot.state, slot.cursor, slot.writes) = (State::Ready, 0, true);
        self.again = true;
    }

    /// A run has ended: it was written, or nothing in it had to be, or it could not be.
    pub fn rewrite_ended(&mut self, now: Instant, id: SlotId, result: Result<(), Fault>) {
        let slot = *self.slots.get(id);
        let end = slot.first.get() + slot.blocks;
        self.rekey.busy = false;
        if core::mem::take(&mut self.rekey.former) {
            return;
        }
        self.rekey.stats.no_space = result == Err(Fault::NoSpace);
        let waited = core::mem::take(&mut self.rekey.guest_waited);
        let done = if slot.writes { slot.blocks } else { 0 };
        self.rekey.pace.done(now, done, (self.rekey.rate, waited && slot.writes));
        match result {
            Ok(()) => {
                self.rekey.stats.walked_blocks = end;
                self.rekey.stats.rewritten_blocks += done;
            }
            Err(Fault::NoSpace) => self.rekey.pace.rest(now + REST_WITHOUT_SPACE),
            // The group says what it is that writes fail for; the walk stops with it or tries again.
            Err(_) if slot.writes => self.rekey.pace.rest(now + REST_WITHOUT_SPACE),
            Err(_) if slot.blocks > 1 => self.rekey.single_until = Lba::new(end),
            Err(_) => {
                self.rekey.stats.walked_blocks = end;
                self.rekey.stats.lost_blocks += 1;
            }
        }
        self.again = true;
    }
}
