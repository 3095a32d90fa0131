//! Resync: a drive that missed writes gets what it lacks while the group goes on.
//!
//! The drive's entry says S and C: what it has is everything up to Seq S and pages up to checkpoint C. It is asked
//! for what it says itself first (`probe.rs`), and has no more than that. Where it cannot say that it is what the group
//! thinks, it is unproven: the walk visits everything then, and of what is not newer than S and C it reads the drive's own
//! block first and writes only what does not pass its check (`sweep/copy.rs`). It need not look again at what was
//! right: nobody but this engine writes to the drive, and what is not newer than S and C was flushed there while its flushes
//! succeeded. That is so once: from its announcement on the entry says that the drive has nothing.
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
//! copies it again. It does so after a compare, too: a flush of what was copied failed, and the drive went on to return it.
//! The next compare found it right and wrote nothing, the flush behind it succeeded, and the drive counted with what the next
//! power loss took. No compare can tell; so whoever was announced as unproven and not finished is copied whole. A failure of the drive before that is nobody's but its own: it is stale since S and C again.
//! While the last version is being written (`Returning`) a recovery may find the drive called current, so from
//! then on it fails like a current drive: what it misses waits until its mark is durable.
//!
//! Row pages lie where growth writes new ones, so the two take turns (`holds_growth`).
mod probe;

use super::sweep::{Errand, Stage, UNIT_BLOCKS};
use super::{Group, Turn};
use crate::drives::Health;
use crate::keys::Keyed;
use crate::ops::JobKind;
use crate::planted::Planted;
use alloc::vec::Vec;
use base::{Action, CkptNo, DriveIx, Extent, NewDrive, Segment, Seq, Uuid};
use fence::{CopyState, Event};

impl Group {
    /// A drive of the group that is not current can be used again. Ignored while another one is resynced, while a move
    /// leaves this one, and while something that was given up may still land there: the caller sees that in the figures and
    /// asks again.
    ///
    /// Crash story: none. A drive was taken back before it was quiet. It was waited for, and as long as it did not answer,
    /// perhaps for ever, no other drive, no scrub and no move had its turn.
    pub fn drive_returned(&mut self, drive: NewDrive) {
        let at = self.superblock.drives.iter().position(|entry| entry.drive == drive.uuid);
        let late = at.is_some_and(|at| self.may_land_late(DriveIx::new(at as u8)));
        if self.sweep.errand != Errand::Resync && !self.moves_concern(drive.uuid) && !late {
            self.sweep.asked_named = self.names(drive.uuid);
            self.sweep.asked = Some(drive);
        }
        self.again = true;
    }

    /// Whether a row has an extent on this drive.
    fn names(&self, drive: Uuid) -> bool {
        let on =
            |extent: &base::Extent| self.superblock.drives[usize::from(extent.drive.get())].drive == drive;
        self.rows.iter().any(on)
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
    /// it had, and nobody had a mark against it. (For a drive that has no row when it is handed back, whoever does that
    /// vouches that nothing of the group is on it.)
    pub(super) fn begin_resync(&mut self) -> bool {
        let Some(asked) = self.sweep.asked.take().filter(|_| self.opening.is_none()) else { return false };
        let Some(at) = self.superblock.drives.iter().position(|entry| entry.drive == asked.uuid) else {
            return false;
        };
        let drive = DriveIx::new(at as u8);
        // Its place may be another one's soon.
        let free = !self.is_joining(drive);
        let out = free && matches!(self.drives.get(drive).health, Health::Stale | Health::Missing);
        let unnamed = self.sweep.asked_named && !self.names(asked.uuid);
        if !out
            || unnamed
            || self.superblock.drives[at].state.is_current()
            || asked.blocks < self.drives.get(drive).info.blocks
        {
            return false;
        }
        self.sweep.drive = drive;
        self.sweep.errand = Errand::Resync;
        self.sweep.asked = Some(asked);
        (self.sweep.copied, self.sweep.kept, self.sweep.lost, self.sweep.walked) = (0, 0, 0, 0);
        self.sweep.pace.rewind();
        self.sweep_to(Stage::Quiet);
        true
    }

    /// Whether something that was given up on a drive may still land there, perhaps for ever.
    pub(super) fn may_land_late(&self, drive: DriveIx) -> bool {
        self.ops.given_up().contains(drive) && !self.config.bug(Planted::LateLands)
    }

    /// The drive is in this state, and a resync begins.
    fn bring_up(&mut self, stale: CopyState) {
        let drive = self.sweep.drive;
        // What was read as right is not, once this resync has written beside it and not come to its end.
        let kept = if stale.is_unproven() { stale.at_most(Seq::ZERO, CkptNo::ZERO) } else { stale };
        let state = kept.after(Event::BeginResync).expect("a stale copy");
        let version = self.writer.want_first_of(drive);
        let entry = &mut self.superblock.drives[usize::from(drive.get())];
        (entry.state, entry.version) = (state, version);
        self.drives.get_mut(drive).health = Health::Resyncing;
        let since = stale.since().expect("a copy that is resynced");
        self.sweep.shows = state.is_unproven().then_some(since);
        (self.sweep.seq, self.sweep.ckpt) =
            if state.is_unproven() { (Seq::ZERO, CkptNo::ZERO) } else { since };
        self.sweep_to(Stage::Announce(version));
    }

    /// The version that calls the drive resyncing, or those that take over, is durable, and their rings are ready: they get what is
    /// written from here on.
    pub(super) fn announced(&mut self) {
        self.sweep.began = Seq::new(self.log.next_seq.get() - 1);
        self.sweep_to(Stage::Commits(self.log.next_commit()));
    }

    /// Whether nothing of what is in the drive's ring may be the group's.
    pub(super) fn wipes_ring(&self) -> bool {
        (self.sweep.seq, self.sweep.ckpt) == (Seq::ZERO, CkptNo::ZERO)
    }

    /// Writes zeroes over the drive's ring, or those of the home row's successors, from this offset on, before the first commit
    /// goes there.
    ///
    /// Crash story: after a forced import the lost drive came back. It was compared and copied, and became current. Its ring
    /// still had the commits of its own history, which named superblock versions that nobody else had ever heard of: at the
    /// next open it had to be believed that versions were lost, and the group was refused for ever. The same came of a drive of another history
    /// that took over a place of the home row, or was the leg that was added, under a new identity.
    pub(super) fn wipe_ring<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, offset: u32) {
        let (row, block, left) = match self.log.ring.shape().len() {
            end if offset < end => self.geometry.ring_place(offset),
            _ => return self.announced(),
        };
        let extents: Vec<Extent> = match self.sweep.errand {
            Errand::Move => self.moving.successors_in(row, self.geometry.row_extents()).collect(),
            _ => {
                self.home_of_drive().map(|home| self.extent(row, home.leg, home.column)).into_iter().collect()
            }
        };
        if extents.is_empty() {
            return self.announced();
        }
        if !self.room_beside_writes(turn, extents.len()) {
            return;
        }
        let count = left.min(UNIT_BLOCKS);
        turn.memory.blocks_mut(self.buffers.sweep, count).fill(0);
        let job = self.ops.open_job(JobKind::Copy);
        let memory = [Segment { buf: self.buffers.sweep, blocks: count }];
        for extent in extents {
            self.write_just_extent(turn, job, extent, block, &memory);
        }
        self.sweep.writing = true;
        self.ops.seal_job(job);
        self.sweep_to(Stage::WipeRing(offset + count));
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
            entry.state = CopyState::stale(self.durable, self.superblock.ckpt);
        }
        self.sweep_to(Stage::Leaving);
    }

    pub(super) fn give_up_resync(&mut self) {
        match self.sweep.stage {
            Stage::Leaving => {}
            Stage::Quiet | Stage::Probe | Stage::ProbeRing(_) => {
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

    pub(super) fn tell_it<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, version: u64) {
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
            self.sweep.last = Some(self.sweep.resync_so_far());
        }
        self.sweep_to(Stage::Leaving);
    }
}
