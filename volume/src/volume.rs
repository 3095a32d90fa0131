//! The engine: recovery first, then the group that it leads to.
//!
//! The hot path is `group::Group::poll`; read that file first. Here the two stages of an engine's life are put
//! together, and requests that arrive early are kept.
use crate::buffers::Buffers;
use crate::config::{Config, Refusal, Stats, StaysIn};
use crate::group::overdue::SLOW_BOUND;
use crate::group::{Group, Halt, Turn};
use crate::keys::{GroupKeys, Keys, Sealing};
use crate::recovery::{OpenRequest, Record, Recovery};
use alloc::boxed::Box;
use alloc::vec::Vec;
use base::limits::{MAX_DRIVES, MAX_POLL_ACTIONS, MAX_POLL_SEGMENTS};
use base::{
    Actions, BufId, CkptNo, DriveIx, Duration, Engine, Fault, Instant, IoToken, Memory, Phase, Reply,
    Request, Sector, Sectors, Seq, SlotId, Uuid,
};
use rlog::replay::RowCounts;

enum Stage {
    Recovering(Box<Recovery>),
    Opening(Box<Group>, Vec<Record>),
    Serving(Box<Group>),
    Refused,
}

/// The engine of a group with one volume.
pub struct Volume {
    stage: Stage,
    buffers: Buffers,
    early: Vec<Request>,
    refusal: Option<Refusal>,
    counts: RowCounts,
    closing: bool,
    /// Of an encrypted group, once it is recovered.
    keys: Option<Box<Keys>>,
}

impl Volume {
    /// Begins to open a group; `phase` tells how it goes.
    pub fn open(config: Config, request: OpenRequest) -> Self {
        let buffers = Buffers::new(&config);
        let early = Vec::with_capacity(usize::from(config.slots));
        let recovery = Recovery::new(config, request, SLOW_BOUND);
        Self {
            stage: Stage::Recovering(Box::new(recovery)),
            buffers,
            early,
            refusal: None,
            counts: RowCounts::default(),
            closing: false,
            keys: None,
        }
    }

    /// Begins to open an encrypted group. One that is plain is refused, and so is one that the keys do not open.
    pub fn open_encrypted(config: Config, request: OpenRequest, keys: GroupKeys) -> Self {
        let keys = Box::new(Keys::new(keys, request.group));
        let mut volume = Self::open(config, request);
        if let Stage::Recovering(recovery) = &mut volume.stage {
            recovery.keys = Some(keys);
        }
        volume
    }

    /// Bounds the age of a drive's operations: a drive that does not answer for so long is put out, unless it is the
    /// last current copy of something. Zero is no bound.
    pub fn set_slow_bound(&mut self, bound: Duration) {
        match &mut self.stage {
            Stage::Recovering(recovery) => recovery.set_slow_bound(bound),
            Stage::Opening(group, _) | Stage::Serving(group) => group.overdue.set_bound(bound),
            Stage::Refused => {}
        }
    }

    /// Why the group does not open.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// How often each row of recovery's decision table applied.
    pub fn recovery_rows(&self) -> RowCounts {
        self.counts
    }

    /// A look at the group, once it is served.
    pub fn stats(&self) -> Option<Stats> {
        self.group().map(Group::stats)
    }

    /// Why writes are not taken any more.
    pub fn halted(&self) -> Option<Halt> {
        self.group().and_then(|group| group.halt)
    }

    /// What is not finished, in words: for whoever waits.
    pub fn unfinished(&self) -> alloc::string::String {
        self.group().map_or_else(alloc::string::String::new, Group::unfinished)
    }

    /// Size of the volume, once it is served.
    pub fn sectors(&self) -> Option<Sectors> {
        self.group().map(|group| group.volume.sectors)
    }

    /// Grows the volume; what is new reads as zero. The new size is durable as soon as `sectors` says so; until
    /// then requests beyond the old one wait. False if that is not growth, or beyond the map.
    pub fn grow(&mut self, sectors: Sectors) -> bool {
        match &mut self.stage {
            Stage::Serving(group) => group.grow_volume(sectors),
            _ => false,
        }
    }

    /// Puts a drive of the group out as if it had failed: its copy is stale from the last flush on, durably before
    /// anything that it misses is acknowledged. Done already is done; a drive that is not the group's is not in it.
    ///
    /// # Errors
    /// Why it stays in; nothing has changed then.
    pub fn take_out(&mut self, drive: Uuid) -> Result<(), StaysIn> {
        let Some(index) = self.index_of(drive) else { return Ok(()) };
        match &mut self.stage {
            Stage::Serving(group) => group.take_out(index),
            _ => Err(StaysIn::NotServing),
        }
    }

    /// Takes back `Reply::Returned`, if nothing has begun yet; returns whether the drive is not in use then.
    pub fn withdraw(&mut self, drive: Uuid) -> bool {
        match &mut self.stage {
            Stage::Serving(group) => group.drive_withdrawn(drive),
            _ => true,
        }
    }

    /// Bounds the rate at which drives are brought up to date: blocks in a second, 0 for no bound.
    pub fn set_resync_rate(&mut self, blocks: u64) {
        if let Stage::Serving(group) = &mut self.stage {
            group.sweep.resync_rate = blocks;
        }
    }

    /// The group's extents on a drive, as its rows have them now.
    pub fn extents_on(&self, drive: Uuid) -> alloc::vec::Vec<base::ExtentNo> {
        let (Some(index), Some(group)) = (self.index_of(drive), self.group()) else {
            return alloc::vec::Vec::new();
        };
        group.rows.iter().filter(|extent| extent.drive == index).map(|extent| extent.extent).collect()
    }

    /// Starts a scrub at this block of the volume (0: of everything), unless one is under way. False if the group
    /// takes no writes at present.
    pub fn start_scrub(&mut self, from: u64) -> bool {
        match &mut self.stage {
            Stage::Serving(group) => group.start_scrub(from),
            _ => false,
        }
    }

    /// Ends a scrub where it is.
    pub fn stop_scrub(&mut self) {
        if let Stage::Serving(group) = &mut self.stage {
            group.stop_scrub();
        }
    }

    /// Bounds the rate of scrubs: copies in a second, 0 for no bound.
    pub fn set_scrub_rate(&mut self, copies: u64) {
        if let Stage::Serving(group) = &mut self.stage {
            group.sweep.scrub_rate = copies;
        }
    }

    /// Starts to write again what lies under an older data key than this activation's, unless that is under way. False if
    /// the group takes no writes at present. How it stands is in `stats`; when it has finished, the older keys can go.
    pub fn start_rekey(&mut self) -> bool {
        match &mut self.stage {
            Stage::Serving(group) => group.start_rekey(),
            _ => false,
        }
    }

    /// Ends that where it is.
    pub fn stop_rekey(&mut self) {
        if let Stage::Serving(group) = &mut self.stage {
            group.stop_rekey();
        }
    }

    /// Bounds its rate: blocks in a second, 0 for no bound.
    pub fn set_rekey_rate(&mut self, blocks: u64) {
        if let Stage::Serving(group) = &mut self.stage {
            group.rekey.rate = blocks;
        }
    }

    /// Hands over what a scrub found since it was asked last: a scrub rests when too much waits here.
    pub fn take_findings(&mut self, into: &mut alloc::vec::Vec<crate::Finding>) {
        if let Stage::Serving(group) = &mut self.stage {
            group.take_findings(into);
        }
    }

    /// Whether the sectors from here on are a hole or data, and how far that goes (at most `most`), as far as it
    /// can be told without reading.
    pub fn is_hole(&self, sector: Sector, most: Sectors, memory: &dyn Memory) -> Option<(bool, Sectors)> {
        match &self.stage {
            Stage::Serving(group) => group.extent_at(sector, most, memory),
            _ => None,
        }
    }

    /// The drive at this place of the group's drive table, once a superblock was found.
    pub fn drive(&self, index: DriveIx) -> Option<Uuid> {
        let table = match &self.stage {
            Stage::Recovering(recovery) => recovery.drive_table(),
            Stage::Opening(group, _) | Stage::Serving(group) => &group.superblock.drives,
            Stage::Refused => return None,
        };
        table.get(usize::from(index.get())).map(|entry| entry.drive)
    }

    /// S and C of a drive whose copy is not current, as the newest superblock has them, or the next one will.
    pub fn stale_since(&self, index: DriveIx) -> Option<(Seq, CkptNo)> {
        let table = match &self.stage {
            Stage::Recovering(recovery) => recovery.drive_table(),
            Stage::Opening(group, _) | Stage::Serving(group) => &group.superblock.drives,
            Stage::Refused => return None,
        };
        table.get(usize::from(index.get())).and_then(|entry| entry.state.since())
    }

    /// The place of a drive in the group's drive table.
    pub fn index_of(&self, drive: Uuid) -> Option<DriveIx> {
        self.drives().position(|listed| listed == drive).map(|index| DriveIx::new(index as u8))
    }

    /// The group's drives, in the order of its drive table. A grant of a row calls the drives
    /// that join by the numbers behind these; where they get their places is the engine's affair.
    pub fn drives(&self) -> impl Iterator<Item = Uuid> + '_ {
        (0..MAX_DRIVES as u8).map_while(|index| self.drive(DriveIx::new(index)))
    }

    fn group(&self) -> Option<&Group> {
        match &self.stage {
            Stage::Serving(group) => Some(group),
            _ => None,
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
        self.stage = Stage::Refused;
    }

    /// Moves on to the next stage when one is over.
    fn advance(&mut self) -> bool {
        match core::mem::replace(&mut self.stage, Stage::Refused) {
            Stage::Recovering(recovery) if recovery.refusal.is_some() && recovery.idle() => {
                self.counts = recovery.counts;
                self.refuse(recovery.refusal.clone().expect("checked"));
            }
            Stage::Recovering(mut recovery) if recovery.is_done() && recovery.idle() => {
                self.counts = recovery.counts;
                self.keys = recovery.keys.take();
                match recovery.into_group() {
                    Ok(started) => self.stage = Stage::Opening(Box::new(started.group), started.records),
                    Err(refusal) => self.refuse(refusal),
                }
            }
            Stage::Opening(group, _) if group.open_failed && group.ops.idle() => {
                self.refuse(Refusal::Unreadable("the directory of the newest checkpoint"));
            }
            Stage::Opening(group, records) if group.ready_to_replay() && !group.reaches(&records) => {
                // The directory's other pages may still be on their way.
                if !group.ops.idle() {
                    self.stage = Stage::Opening(group, records);
                    return false;
                }
                self.refuse(Refusal::Damaged("its log names blocks that its map does not have"));
            }
            Stage::Opening(mut group, records) if group.ready_to_replay() => {
                group.replay(&records);
                for request in self.early.drain(..) {
                    group.submit(request);
                }
                if self.closing {
                    group.close();
                }
                self.stage = Stage::Serving(group);
            }
            same => {
                self.stage = same;
                return false;
            }
        }
        true
    }
}

impl Engine for Volume {
    fn memory_blocks(&self) -> u32 {
        self.buffers.total
    }

    fn slot_buffer(&self, slot: SlotId) -> BufId {
        Buffers::slot(slot)
    }

    fn submit(&mut self, request: Request) {
        match &mut self.stage {
            Stage::Serving(group) => group.submit(request),
            _ => self.early.push(request),
        }
    }

    fn drive_done(&mut self, token: IoToken, result: Result<(), Fault>) {
        match &mut self.stage {
            Stage::Recovering(recovery) => recovery.drive_done(token, result),
            Stage::Opening(group, _) | Stage::Serving(group) => group.ops.end(token, result),
            Stage::Refused => panic!("completion of {token:?} after the group was refused"),
        }
    }

    fn reply(&mut self, reply: Reply) {
        match &mut self.stage {
            Stage::Recovering(recovery) => recovery.reply(&reply),
            Stage::Opening(group, _) | Stage::Serving(group) => group.reply(reply),
            Stage::Refused => {}
        }
    }

    fn poll<M: Memory>(&mut self, now: Instant, memory: &mut M, out: &mut Actions) -> Option<Instant> {
        let roomy =
            out.actions.capacity() >= MAX_POLL_ACTIONS && out.segments.capacity() >= MAX_POLL_SEGMENTS;
        assert!(roomy, "the list of actions is smaller than one poll may need");
        let mut memory = Sealing { memory, keys: self.keys.as_deref_mut() };
        let mut turn = Turn { now, memory: &mut memory, out };
        let deadline = match &mut self.stage {
            Stage::Recovering(recovery) => {
                recovery.poll(&mut turn);
                recovery.deadline()
            }
            Stage::Opening(group, _) | Stage::Serving(group) => group.poll(&mut turn),
            Stage::Refused => None,
        };
        if self.advance() { Some(now) } else { deadline }
    }

    fn phase(&self) -> Phase {
        match &self.stage {
            Stage::Recovering(_) | Stage::Opening(..) => Phase::Recovering,
            Stage::Serving(group) => group.phase,
            Stage::Refused => Phase::Refused,
        }
    }

    fn close(&mut self) {
        self.closing = true;
        if let Stage::Serving(group) = &mut self.stage {
            group.close();
        }
    }
}
