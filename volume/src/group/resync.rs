//! Resync: a drive that missed writes gets what it lacks while the group goes on.
//!
//! The drive's entry says S and C: what it has is everything up to Seq S and pages up to checkpoint C. It is asked
//! for what it says itself first (`Probe`): superblocks that lie elsewhere by what they say are another drive's; a drive
//! that is older than C, or of an activation that is not in the group's history, was rolled back or has gone another way;
//! nothing on it counts then, and S and C are 0. Else it has no more than its own newest superblock says, whatever the
//! entry says: everything up to that superblock's D, if that calls it current. A drive that was rolled back to a
//! moment after C, and before the flush that S is of, has that superblock too.
//!
//! Steps:
//! 1. A superblock version that calls it resyncing, on the drive too. From the moment that it is durable, everything that
//!    is written (data, commits, pages, bitmaps, superblocks) goes to the drive too; nobody waits for what it misses. Not
//!    before: the drive with everything may be lost now, and this one be opened by force. As long as its own superblock
//!    calls it current it is what it was when it went stale; commits that were written over its log would cut off what
//!    had been flushed. One that calls it resyncing is a mixture, and refused.
//! 2. Once every commit that was issued before has completed, a checkpoint begins; when it is durable, what the
//!    drive lacks is all below the directory, and the log behind the checkpoint is whole on it.
//! 3. The walk: map, cut subtrees, bitmap tree with bitmaps, the directory's own pages, row and history pages,
//!    headers. Blocks are copied a unit at a time; a unit holds its blocks from the look-up until its last write
//!    has ended, so a block is never handed out under it.
//! 4. A flush of all drives; a checkpoint behind the last copy, flushed on the drive like on all others; then a version
//!    that calls it current; the catalogue; then it is counted on.
//!
//! Crash story: until the last version is durable the entry keeps S and C, so whatever was copied, the next resync
//! copies it again. A failure of the drive before that is nobody's but its own: it is stale since S and C again.
//! While the last version is being written (`Returning`) a recovery may find the drive called current, so from
//! then on it fails like a current drive: what it misses waits until its mark is durable.
//!
//! Row pages lie where growth writes new ones, so the two take turns (`holds_growth`).
use super::scrub::What;
use super::sweep::{Errand, Item, Stage};
use super::{Group, Turn};
use crate::drives::Health;
use crate::header::Header;
use crate::layout::extent as fixed;
use crate::ops::Purpose;
use crate::planted::Planted;
use crate::superblock::{Home, Superblock};
use base::{Action, Check, CkptNo, DriveIx, DriveOp, Memory, NewDrive, Pba, RowNo, Segment, Seq, Uuid};
use fence::Event;

/// What a drive that comes back is asked for: superblock slots, and the header of its extent of the home row.
const PROBED: [u32; 3] = [fixed::SUPERBLOCKS[0], fixed::SUPERBLOCKS[1], fixed::HEADER];

impl Group {
    /// A drive of the group that is not current can be used again. Ignored while another one is resynced, and while a
    /// move leaves this one: the caller sees that in the figures and asks again.
    pub fn drive_returned(&mut self, drive: NewDrive) {
        if self.sweep.errand != Errand::Resync && !self.moves_concern(drive.uuid) {
            self.sweep.asked = Some(drive);
        }
        self.again = true;
    }

    /// A drive that was handed back goes again. Returns whether it did: one that is being brought up to date stays.
    pub fn drive_withdrawn(&mut self, drive: Uuid) -> bool {
        if self.sweep.errand == Errand::Resync {
            return self.superblock.drives[usize::from(self.sweep.drive.get())].drive != drive;
        }
        self.sweep.asked = self.sweep.asked.take().filter(|asked| asked.uuid != drive);
        true
    }

    /// Begins with the drive that was handed back. False if there is none, or it cannot be used.
    ///
    /// Crash story: it came back while its leg was being dropped, and its turn came when no row named it any more. There was
    /// nothing to copy, and the catalogue heard that it is current. Found alone later, it opened with the superblock that
    /// it had, and nobody had a mark against it.
    pub(super) fn begin_resync(&mut self) -> bool {
        let Some(asked) = self.sweep.asked.take().filter(|_| self.opening.is_none()) else { return false };
        let Some(at) = self.superblock.drives.iter().position(|entry| entry.drive == asked.uuid) else {
            return false;
        };
        let drive = DriveIx::new(at as u8);
        let out = matches!(self.drives.get(drive).health, Health::Stale | Health::Missing);
        let named = self.rows.iter().any(|extent| extent.drive == drive);
        if !out
            || !named
            || self.superblock.drives[at].state.is_current()
            || asked.blocks < self.drives.get(drive).info.blocks
        {
            return false;
        }
        self.sweep.drive = drive;
        self.sweep.errand = Errand::Resync;
        self.sweep.asked = Some(asked);
        (self.sweep.copied, self.sweep.lost, self.sweep.walked) = (0, 0, 0);
        self.sweep.pace.rewind();
        self.sweep_to(Stage::Quiet);
        true
    }

    /// Reads what the drive says of itself, once nothing of its former life is in flight.
    pub(super) fn probe<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        let drive = self.sweep.drive;
        let lands_late = self.config.bug(Planted::LateLands) && self.ops.given_up().contains(drive);
        if (self.ops.busy_on(drive) && !lands_late) || !self.room(turn, PROBED.len()) {
            return;
        }
        let asked = self.sweep.asked.take().expect("a drive that returned");
        let place = self.drives.get_mut(drive);
        place.handle = asked.handle;
        (place.info.volatile, place.info.blocks) = (asked.volatile, asked.blocks);
        assert!(place.reads_in_flight == 0, "a drive without operations has no reads in flight");
        self.sweep.unit.clear();
        let home = self.superblock.homes().map(|home| home.extent).find(|extent| extent.drive == drive);
        if let Some(home) = home {
            for (i, block) in PROBED.iter().enumerate() {
                let purpose = Purpose::Copy { first: i as u8, count: 1, leg: u8::MAX };
                let memory = [Segment { buf: self.unit_buffer(i), blocks: 1 }];
                let token = self.ops.start(purpose, drive, false);
                self.drives.get_mut(drive).reads_in_flight += 1;
                turn.out.drive(
                    token,
                    asked.handle,
                    DriveOp::Read,
                    self.geometry.drive_block(home, *block),
                    &memory,
                );
                self.sweep.reading += 1;
                self.sweep.unit.push(Item::new(Pba::ZERO, Check::NONE, What::Unknown));
            }
        }
        self.sweep_to(Stage::Probe);
    }

    /// Up to where what the drive has is the group's, by its own word; `None` if nothing is. A drive without superblocks
    /// cannot say.
    fn probe_says<M: Memory>(&self, turn: &Turn<'_, M>, ckpt: CkptNo) -> Option<(Seq, CkptNo)> {
        let drive = self.superblock.drives[usize::from(self.sweep.drive.get())].drive;
        let slots = 0..self.sweep.unit.len().min(fixed::SUPERBLOCKS.len());
        let read = slots.filter(|i| self.sweep.unit[*i].ready);
        let found = read.filter_map(|i| Superblock::decode(turn.memory.block(self.unit_buffer(i))).ok());
        let own = |(superblock, home): (Superblock, Home)| {
            let entry = superblock.drives.get(usize::from(home.extent.drive.get()))?;
            let here = self
                .superblock
                .home
                .iter()
                .any(|extent| extent.drive == self.sweep.drive && extent.extent == home.extent.extent);
            let any = self.config.bug(Planted::ResyncNotItsOwn);
            (any || (entry.drive == drive && here)).then_some((entry.state, superblock))
        };
        let (state, newest) = found.filter_map(own).max_by_key(|(_, superblock)| superblock.newness())?;
        let ours = |line: rlog::Line| {
            let now = self.superblock.line;
            now.iter()
                .chain(&self.history)
                .any(|known| (known.generation, known.id) == (line.generation, line.id))
        };
        let same = newest.group == self.superblock.group && newest.ckpt >= ckpt;
        let said = state.since().unwrap_or((newest.durable, newest.ckpt));
        (same && newest.line.is_some_and(ours)).then_some(said)
    }

    /// Whether the header of its extent of the home row is not the one that it should be, but for the names.
    fn probe_lacks_header<M: Memory>(&self, turn: &Turn<'_, M>) -> bool {
        let Some(item) = self.sweep.unit.get(PROBED.len() - 1) else { return false };
        let mut homes = self.superblock.homes();
        let Some(home) = homes.find(|home| home.extent.drive == self.sweep.drive) else { return false };
        let wanted = self.header_at(home.extent, RowNo::ZERO, home.leg, home.column);
        let block = turn.memory.block(self.unit_buffer(PROBED.len() - 1));
        !item.ready || Header::decode(block) != Ok(wanted)
    }

    pub(super) fn judge_probe<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        let drive = self.sweep.drive;
        let at = usize::from(drive.get());
        let entry = self.superblock.drives[at];
        let (_, ckpt) = entry.state.since().expect("a drive that is not current");
        let known = match self.probe_says(turn, ckpt) {
            _ if self.config.bug(Planted::ResyncUnprobed) => Ok(entry.state),
            // Believed alone, a mark that says too much does no harm: what the drive says itself bounds it.
            Some(_)
                if self.config.bug(Planted::ResyncUnbounded) || self.config.bug(Planted::StaleSinceAcked) =>
            {
                Ok(entry.state)
            }
            Some((seq, ckpt)) => Ok(entry.state.at_most(seq, ckpt)),
            None => entry.state.after(Event::Diverge),
        };
        self.sweep.header_lost = self.probe_lacks_header(turn) && !self.config.bug(Planted::ResyncUnprobed);
        self.sweep.unit.clear();
        let state = known.and_then(|state| state.after(Event::BeginResync)).expect("a stale copy");
        let (seq, ckpt) = state.since().expect("a copy that is resynced");
        let version = self.writer.want();
        let entry = &mut self.superblock.drives[at];
        (entry.state, entry.version) = (state, version);
        self.drives.get_mut(drive).health = Health::Resyncing;
        (self.sweep.seq, self.sweep.ckpt) = (seq, ckpt);
        self.sweep_to(Stage::Announce(version));
    }

    /// The drive failed: what it has is what it had.
    pub fn resync_failed(&mut self) {
        let drive = self.sweep.drive;
        assert!(self.drives.is(drive, Health::Resyncing));
        self.drives.get_mut(drive).health = Health::Stale;
        let version = self.writer.want();
        let entry = &mut self.superblock.drives[usize::from(drive.get())];
        let fail = Event::Fail { seq: Seq::ZERO, ckpt: CkptNo::ZERO };
        (entry.state, entry.version) = (entry.state.after(fail).expect("a copy may fail"), version);
        if self.config.bug(Planted::ResyncFailureCounts) {
            entry.state = fence::CopyState::Stale { seq: self.durable, ckpt: self.superblock.ckpt };
        }
        self.sweep_to(Stage::Leaving);
    }

    pub(super) fn give_up_resync(&mut self) {
        match self.sweep.stage {
            Stage::Leaving => {}
            Stage::Quiet | Stage::Probe => {
                self.sweep.asked = None;
                self.sweep_to(Stage::Leaving);
            }
            // It is complete, and the version that says so may be durable: this goes to its end, or to the next open.
            Stage::Name(_) | Stage::Tell(_) => {}
            _ => self.resync_failed(),
        }
    }

    /// Everything was copied and flushed.
    pub(super) fn name_it(&mut self) {
        let drive = self.sweep.drive;
        let version = self.writer.want();
        let entry = &mut self.superblock.drives[usize::from(drive.get())];
        let state = entry.state.after(Event::FinishResync).expect("a copy that was resynced");
        (entry.state, entry.version) = (state, version);
        let (durable, ckpt) = (self.durable, self.superblock.ckpt);
        let place = self.drives.get_mut(drive);
        place.health = Health::Returning;
        (place.flushed, place.flushed_ckpt) = (durable, ckpt);
        self.writer.forget_stored(drive);
        self.sweep_to(Stage::Name(version));
    }

    pub(super) fn tell_it<M: Memory>(&mut self, turn: &mut Turn<'_, M>, version: u64) {
        if !self.drives.is(self.sweep.drive, Health::Returning) {
            // It failed meanwhile, as a current drive does.
            return self.sweep_to(Stage::Leaving);
        }
        if turn.fits(1) {
            turn.out.push(Action::StoreCurrent { drive: self.sweep.drive, version });
            self.sweep_to(Stage::Tell(version));
        }
    }

    /// The catalogue calls the drive current.
    pub fn current_stored(&mut self, version: u64) {
        match self.sweep.stage {
            Stage::Tell(told) if told == version => {}
            Stage::TellMoved(told, drive) if told == version => return self.told_moved(version, drive),
            _ => return,
        }
        let place = self.drives.get_mut(self.sweep.drive);
        if place.health == Health::Returning {
            place.health = Health::Current;
        }
        self.sweep_to(Stage::Leaving);
    }
}
