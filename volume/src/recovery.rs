//! Recovery: from the drives of a group, in whatever state a crash left them, to a group that can be served.
//!
//! Steps, each a batch of I/O (`script`) that must end before the next begins; a crash at any of them is
//! repeated from the start and finds the same:
//!
//! 1. Superblocks of every home extent at hand. The newest, by (Gen, version), says what the group is; what
//!    newer versions say of copies, on drives or in the catalogue, outweighs what older ones say.
//! 2. Row pages and history pages, from whichever leg has them right.
//! 3. The whole ring of every current leg. D is the highest that any valid commit names; the chain is followed.
//! 4. The commits of the chain again, with their records; above D also their data, on every leg. The decision
//!    table (`rlog::replay`) accepts, completes, cuts or refuses. Both are read a window at a time (`WINDOW_BLOCKS`), so
//!    that memory holds the records of the log, which the ring bounds, and of the data only what some leg lacks. Data
//!    above D that is right is written again where it was read, for no flush is known to cover it (`renew`).
//! 5. What the accepted tail lacks on a leg is written there, row and history pages included, and each of its commits above
//!    D and the superblock that was found once more; all that is flushed; then that superblock is written to
//!    copies that have an older one. Home pages that only older versions lead to are written over in the next
//!    step, and the drive that had the newest version may be lost before a newer one counts.
//! 6. A new Gen and history line: history page, flush; the catalogue is told which copies are stale (those that
//!    are absent are, from here on); superblock in one slot of every current copy, flush; in the other, flush.
//!    The catalogue comes first: had a superblock said it first and the catalogue been lost, two drives could
//!    each have served alone under the same Gen.
//! 7. The catalogue is told which copies are current that it has a mark against: those that are taken by the operator's
//!    word or at the superblocks'. It hears of them last. Crash story: of a mirror the stale copy was opened by force,
//!    and the catalogue heard that it is current, but not yet that the other is given up. The next recovery found
//!    nobody with a mark and called the other stale since the moment at which the first one had been left. So the
//!    other came back and kept what it had written after that under numbers that mean other writes now.
//!
//! Where no activation can follow (the history has no place left, or no number of a checkpoint is) nothing is written: the
//! group is opened as it is, and takes no writes.
//!
//! Only then is a group made of it, whose delta holds exactly the accepted log. Nothing was served before: a
//! read must not be answered from a commit that a second crash could lose.
use crate::buffers::Buffers;
use crate::config::{Activation, Candidate, Config, Refusal};
use crate::geometry::Geometry;
use crate::group::Turn;
use crate::keys::{Keyed, Keys};
use crate::ops::{Ops, Purpose};
use crate::planted::Planted;
use crate::superblock::Superblock;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use base::{Action, CommitNo, DriveBlock, DriveIx, Duration, Extent, Instant, LegId, Pba, Reply, Seq, Uuid};
use fence::{CopyEntry, CopyTable, DriveSet};
use rlog::replay::RowCounts;
use rlog::{Chain, ChainStart, History, LegSet, Scan, SuperblockId};
use script::Script;

mod activate;
mod layers;
mod log;
mod overdue;
mod pages;
mod renew;
pub(crate) mod script;
mod start;
mod supers;

/// What is needed to open a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenRequest {
    /// The group.
    pub group: Uuid,
    /// Blocks of an extent in its pool.
    pub extent_blocks: u32,
    /// The drives at hand; the index into this list is the number by which the driver knows a drive.
    pub drives: Vec<Candidate>,
    /// What the catalogue knows of the copies; `None` if it cannot be asked (an import).
    pub catalogue: Option<Vec<CopyEntry>>,
    /// The operator's recorded word that what stale copies lack is given up.
    pub forced: bool,
    /// Gen of the activation that served last, as somebody remembers it who is not on the drives; `None` if nobody does.
    pub served: Option<base::Gen>,
    /// Who serves from now on.
    pub activation: Activation,
    /// The volume to make, for a group that has no checkpoint yet.
    pub create: Option<NewVolume>,
}

/// A volume to be made when a new group is opened for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewVolume {
    /// Its identity.
    pub uuid: Uuid,
    /// Its size in sectors.
    pub sectors: base::Sectors,
}

/// A commit of the chain, as it was read again.
pub(crate) struct Replayed {
    pub candidate: usize,
    pub bytes: Vec<u8>,
    pub records: Vec<Record>,
}

/// A record that takes a Seq.
pub(crate) struct Record {
    pub volume: base::VolumeId,
    pub lba: base::Lba,
    pub blocks: u64,
    pub seq: Seq,
    /// Block by block; empty for a hole.
    pub data: Vec<(Pba, base::Check)>,
}

/// A page that a leg lacks: where, and what.
pub(crate) struct Fill {
    pub leg: LegId,
    pub pba: Pba,
    pub bytes: Vec<u8>,
}

/// Pages of the history that a new activation writes.
#[derive(Clone, Copy)]
struct HistoryChange {
    /// So many of those that were found, from the newest on, mean nothing any more.
    replaced: usize,
    /// So many are new.
    made: usize,
    /// Lines of the newest.
    lines: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Supers,
    RowPages { level: u8 },
    History,
    Ring { leg: u8, column: u8 },
    Commits,
    Verify,
    Renew,
    Complete,
    CompleteFlush,
    CatchUp,
    CatchUpFlush,
    HistoryPage,
    HistoryFlush,
    BareSlot,
    BareFlush,
    FirstSlot,
    FirstFlush,
    SecondSlot,
    SecondFlush,
    Catalogue,
    TellCurrent,
    Done,
}

/// A recovery under way.
pub(crate) struct Recovery {
    pub config: Config,
    pub request: OpenRequest,
    buffers: Buffers,
    ops: Ops,
    script: Script,
    stage: Stage,
    pub refusal: Option<Refusal>,
    /// The newest superblock; then the one that the new activation writes.
    superblock: Option<Superblock>,
    table: CopyTable,
    /// By index of the drive table: the driver's number, if the drive is at hand.
    handles: Vec<Option<DriveIx>>,
    current: DriveSet,
    /// Those among them that are stale and taken by the operator's word.
    promoted: DriveSet,
    /// Copies that the superblocks call current and the catalogue, by an older mark, does not: what the superblocks say.
    doubted: Vec<(DriveIx, CopyEntry)>,
    /// Those of them that are taken at the superblocks' word.
    trusted: DriveSet,
    /// By index of the home row: the slot with the newest valid version.
    newest_slots: Vec<u8>,
    /// The superblocks that were found; and the version before the newest, if it had other rows, until it was tried.
    found: Vec<supers::Found>,
    before: Option<Superblock>,
    /// Slots in which a superblock was begun and is not: the driver's number of the drive, the extent, and the slot.
    spoiled_slots: Vec<(DriveIx, base::ExtentNo, u8)>,
    /// By index of the home row: the copy is older than the newest superblock of all.
    lagging: Vec<bool>,
    /// Places, by drive, of superblocks that lie where the newest one names none.
    former: Vec<(Uuid, base::ExtentNo)>,
    /// Current home drives on which no superblock of their own was found.
    bare: DriveSet,
    highest_gen: base::Gen,
    highest_version: u64,
    rows: Vec<Extent>,
    row_levels: Vec<Vec<cow::Ref>>,
    history: History,
    /// Home pages of the history, newest first, and the lines of the newest one.
    history_pages: Vec<(cow::Ref, Vec<rlog::Line>)>,
    history_next: cow::Ref,
    /// What the new version changes of it, if it does.
    history_change: Option<HistoryChange>,
    /// Why no activation can follow, if none can: the group is opened without one.
    ended: Option<crate::group::Halt>,
    home_pages: Option<crate::rows::HomePages>,
    scan: Option<Scan>,
    chain: Option<Chain>,
    limit: CommitNo,
    replayed: Vec<Replayed>,
    verified: log::Verified,
    /// Content of blocks that some leg lacks, by Pba: of those above D at most.
    contents: BTreeMap<u64, Vec<u8>>,
    /// Where it lacks them.
    fills: Vec<(LegId, Pba)>,
    /// Row and history pages that some leg has wrong.
    page_fills: Vec<Fill>,
    commit_fills: Vec<(LegId, usize)>,
    pub counts: RowCounts,
    asked_catalogue: Option<u64>,
    /// Copies of which the catalogue has not said yet that it knows them current.
    asked_current: usize,
    forsaken: overdue::Forsaken,
    /// Of an encrypted group.
    pub keys: Option<Box<Keys>>,
}

impl Stage {
    /// Whether the superblock of the new activation is made: from here on a drive that fails is not in it yet.
    fn is_composed(self) -> bool {
        matches!(
            self,
            Self::HistoryPage
                | Self::HistoryFlush
                | Self::Catalogue
                | Self::BareSlot
                | Self::BareFlush
                | Self::FirstSlot
                | Self::FirstFlush
                | Self::SecondSlot
                | Self::SecondFlush
        )
    }
}

impl Recovery {
    pub fn new(config: Config, request: OpenRequest, slow_bound: Duration) -> Self {
        Self::without(config, request, Ops::new(), overdue::Forsaken::none(slow_bound))
    }

    /// A recovery that does without some of the drives at hand.
    fn without(config: Config, request: OpenRequest, ops: Ops, forsaken: overdue::Forsaken) -> Self {
        let buffers = Buffers::new(&config);
        let mut recovery = Self {
            config,
            request,
            buffers,
            ops,
            script: Script::default(),
            stage: Stage::Supers,
            refusal: None,
            superblock: None,
            table: CopyTable::new(),
            handles: Vec::new(),
            current: DriveSet::EMPTY,
            promoted: DriveSet::EMPTY,
            doubted: Vec::new(),
            trusted: DriveSet::EMPTY,
            newest_slots: Vec::new(),
            found: Vec::new(),
            before: None,
            spoiled_slots: Vec::new(),
            lagging: Vec::new(),
            former: Vec::new(),
            bare: DriveSet::EMPTY,
            highest_gen: base::Gen::ZERO,
            highest_version: 0,
            rows: Vec::new(),
            row_levels: Vec::new(),
            history: History::new(),
            history_pages: Vec::new(),
            history_next: cow::Ref::ABSENT,
            history_change: None,
            ended: None,
            home_pages: None,
            scan: None,
            chain: None,
            limit: CommitNo::new(u64::MAX),
            replayed: Vec::new(),
            verified: log::Verified::default(),
            contents: BTreeMap::new(),
            fills: Vec::new(),
            page_fills: Vec::new(),
            commit_fills: Vec::new(),
            counts: RowCounts::default(),
            asked_catalogue: None,
            asked_current: 0,
            forsaken,
            keys: None,
        };
        recovery.read_superblocks();
        recovery
    }

    pub fn drive_done(&mut self, token: base::IoToken, result: Result<(), base::Fault>) {
        self.ops.end(token, result);
    }

    pub fn reply(&mut self, reply: &Reply) {
        if let Reply::StaleStored { version } = reply
            && self.asked_catalogue == Some(*version)
        {
            self.asked_catalogue = None;
        }
        if let Reply::CurrentStored { version } = reply
            && self.superblock.as_ref().is_some_and(|superblock| superblock.version == *version)
        {
            self.asked_current = self.asked_current.saturating_sub(1);
        }
        if let Reply::Quiet { drive } = reply {
            self.ops.quiet(*drive);
        }
    }

    /// The group's drive table, as far as it is known.
    pub fn drive_table(&self) -> &[CopyEntry] {
        self.table.entries()
    }

    /// Whether the group can be made.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether nothing is in flight.
    pub fn idle(&self) -> bool {
        self.ops.idle()
    }

    /// Goes on: takes in what ended, and begins the next step when a batch is over.
    pub fn poll<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        self.ops.now = self.forsaken.watch.tick(turn.now);
        while let Some(done) = self.ops.next_done() {
            let Purpose::Recovery { chunk } = done.purpose else { panic!("not recovery's I/O") };
            self.script.ended(turn.memory, &self.buffers, chunk, done.result);
        }
        if self.begins_again(turn) {
            return;
        }
        while self.script.done()
            && self.refusal.is_none()
            && self.stage != Stage::Done
            && !self.forsaken.again
        {
            if self.asked_catalogue.is_some() || self.asked_current > 0 {
                break;
            }
            let Some(dropped) = self.drop_failed() else { break };
            let step =
                if dropped && self.stage.is_composed() { self.compose_again() } else { self.next_step(turn) };
            if let Err(refusal) = step {
                if self.waits_after_all() || self.forsakes_unreadable(&refusal) {
                    self.begins_again(turn);
                } else {
                    self.refusal = Some(refusal);
                }
            }
        }
        self.script.issue(turn, &mut self.ops, &self.buffers);
    }

    /// When to be called again at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.forsaken.watch.deadline(self.ops.in_flight())
    }

    /// Drives whose writes failed go out, if they can be done without: whether there was one. `None` if one
    /// cannot.
    fn drop_failed(&mut self) -> Option<bool> {
        let mut dropped = false;
        let failed = core::mem::take(&mut self.script.failed);
        for handle in failed {
            let index = self.handles.iter().position(|h| *h == Some(handle)).map(|i| DriveIx::new(i as u8));
            let Some(index) = index.filter(|i| self.current.contains(*i)) else { continue };
            self.current.remove(index);
            dropped = true;
            if !self.every_place_current() {
                self.refusal = Some(Refusal::Unwritable);
                return None;
            }
        }
        Some(dropped)
    }

    fn next_step<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) -> Result<(), Refusal> {
        match self.stage {
            Stage::Supers => self.judge_superblocks()?,
            Stage::RowPages { level } => self.judge_row_pages(level)?,
            Stage::History => self.judge_history_page()?,
            Stage::Ring { leg, column } => self.judge_ring(leg, column)?,
            Stage::Commits => self.judge_commits()?,
            Stage::Verify => self.judge_data(),
            Stage::Renew => self.judge_more()?,
            Stage::Complete => self.complete_more(),
            Stage::CompleteFlush => self.catch_up()?,
            Stage::CatchUp => self.flush_all(Stage::CatchUpFlush),
            Stage::CatchUpFlush => self.caught_up()?,
            Stage::HistoryPage => self.flush_all(Stage::HistoryFlush),
            Stage::HistoryFlush => self.tell_catalogue(turn),
            Stage::Catalogue if !self.bare.is_empty() => self.write_bare_slots(),
            Stage::BareSlot => self.flush_all(Stage::BareFlush),
            Stage::Catalogue | Stage::BareFlush => self.write_first_slots()?,
            Stage::FirstSlot => self.flush_all(Stage::FirstFlush),
            Stage::FirstFlush => self.write_second_slots(),
            Stage::SecondSlot => self.flush_all(Stage::SecondFlush),
            Stage::SecondFlush => self.tell_current(turn),
            Stage::TellCurrent => self.stage = Stage::Done,
            Stage::Done => {}
        }
        Ok(())
    }

    /// Flushes every current drive, then goes on at `next`.
    fn flush_all(&mut self, next: Stage) {
        self.script.clear();
        for drive in self.current.iter() {
            if let Some(handle) = self.handles[usize::from(drive.get())]
                && !self.config.bug(Planted::ServeBeforeFlush)
            {
                self.script.flush(handle);
            }
        }
        self.stage = next;
    }

    fn superblock(&self) -> &Superblock {
        self.superblock.as_ref().expect("a superblock was found")
    }

    fn geometry(&self) -> Geometry {
        self.superblock().geometry
    }

    fn legs(&self) -> impl Iterator<Item = LegId> + use<> {
        (0..self.geometry().legs).map(LegId::new)
    }

    /// The driver's number and the block of a place on a leg, if its copy is current and at hand.
    fn locate(&self, pba: Pba, leg: LegId) -> Option<(DriveIx, DriveBlock)> {
        let geometry = self.geometry();
        let place = geometry.place(pba);
        let index = (place.row.get() as usize * usize::from(geometry.legs) + usize::from(leg.get()))
            * usize::from(geometry.columns)
            + usize::from(place.column.get());
        let extent = *self.rows.get(index)?;
        if !self.current.contains(extent.drive) {
            return None;
        }
        Some((self.handles[usize::from(extent.drive.get())]?, geometry.drive_block(extent, place.block)))
    }

    /// The legs whose drive for this block is current.
    fn current_legs(&self, pba: Pba) -> LegSet {
        let mut legs = LegSet::EMPTY;
        for leg in self.legs().filter(|leg| self.locate(pba, *leg).is_some()) {
            legs.insert(leg);
        }
        legs
    }

    /// Whether every place of every row known so far has a current copy.
    fn every_place_current(&self) -> bool {
        self.places().all(|place| !place.and(self.current).is_empty())
    }

    /// The places (row, column), each as the set of drives that hold its legs.
    fn places(&self) -> impl Iterator<Item = DriveSet> + '_ {
        let geometry = self.geometry();
        let (legs, columns) = (usize::from(geometry.legs), usize::from(geometry.columns));
        self.rows.chunks_exact(legs * columns).flat_map(move |row| {
            (0..columns).map(move |column| {
                let mut set = DriveSet::EMPTY;
                for leg in 0..legs {
                    set.insert(row[leg * columns + column].drive);
                }
                set
            })
        })
    }

    fn chain_start(&self) -> ChainStart {
        let superblock = self.superblock();
        ChainStart {
            next: superblock.next_commit,
            previous: superblock.previous,
            next_seq: superblock.ckpt_seq.next(),
            durable: superblock.durable.max(self.forsaken.said),
            superblock: SuperblockId { generation: superblock.generation, version: superblock.version },
            tails: superblock.ring_start,
        }
    }

    fn tell_catalogue<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let stale = self.table.drives(|state| !state.is_current());
        let version = self.superblock().version;
        self.stage = Stage::Catalogue;
        if !stale.is_empty() {
            self.asked_catalogue = Some(version);
            turn.out.push(Action::StoreStale { drives: stale.bits(), version });
        }
    }

    /// Step 7.
    fn tell_current<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        let version = self.superblock().version;
        self.stage = Stage::TellCurrent;
        for drive in self.promoted.union(self.trusted).and(self.current).iter() {
            turn.out.push(Action::StoreCurrent { drive, version });
            self.asked_current += 1;
        }
    }
}
