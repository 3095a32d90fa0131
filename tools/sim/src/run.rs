//! One run: a world, a workload, crashes and faults as the shape of the seed says, and every checker.
//!
//! A run is a loop of turns. A turn either does something to the world (submits a request, arms a fault, crashes
//! it) or lets it make one step, and judges what ended. After a crash either everything is read first, or the
//! workload goes on at once and reads settle what survived. The end of a run stops all faults and asks for
//! everything: see `finish`.
use crate::checks::{self, Sight, Violation, c9, c10, c10::Progress, growth, late, prefix, repairs};
use crate::doors::{Places, Reused};
use crate::forced::Disaster;
use crate::lies::Said;
use crate::model::{Found, Look, Model, mask_of};
use crate::shape::{Shape, Weather};
use crate::stamp::{self, WriteId};
use crate::strangers::Strange;
use crate::subject::Subject;
use base::limits::MAX_REQUEST_BLOCKS;
use base::{
    BLOCK_BYTES, Duration, Engine, Fault, Instant, Memory, Op, Phase, Request, SECTOR_BYTES,
    SECTORS_PER_BLOCK, Sector, Sectors, Seq, SlotId,
};
use simkit::{Armed, CrashMode, FaultCounts, FaultKind, Rng, SimDrive, Stepped, World};

/// After so many crashes a run goes on in peace: where each recovery is cut short it would never end.
const MOST_CRASHES: u64 = 60;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// Crashes of process or node.
    pub crashes: u64,
    /// Faults by name.
    pub faults: FaultCounts,
    /// Rows of the recovery table, summed over all recoveries.
    pub rows: Vec<(&'static str, u64)>,
    /// The hash of everything that happened.
    pub hash: u64,
    /// Requests that ended.
    pub ended: u64,
    /// Mapped blocks whose legs were compared at rest.
    pub compared: u64,
    /// Places of the drive table that were used again.
    pub reused: Reused,
    /// It ended where the contract says nothing more.
    pub at_the_limit: bool,
}

pub(crate) enum Kind {
    Write(WriteId),
    Flush(usize),
    Read(Vec<u32>),
}

/// What a flush or a FUA write makes durable.
#[derive(Clone, Copy)]
pub(crate) enum Durable {
    /// So many acknowledgements.
    Acks(usize),
    /// One write.
    Write(WriteId),
}

impl Durable {
    pub(crate) fn enter(self, model: &mut Model) {
        match self {
            Self::Acks(acks) => model.flushed(acks),
            Self::Write(id) => model.durable(id),
        }
    }
}

/// What was said to be durable, and D when it was.
pub(crate) type Unconfirmed = (Seq, Durable);

/// What was known at a crash beyond the fault budget.
#[derive(Clone)]
struct AtCrash {
    /// Before anything unconfirmed counted.
    model: Model,
    what: Vec<Unconfirmed>,
    /// D, as far as the drives said it.
    promised: Seq,
}

pub(crate) struct Pending {
    pub(crate) request: Request,
    /// The guest's first sector; the request says where it lies in the volume.
    pub(crate) sector: u64,
    pub(crate) kind: Kind,
    /// When it could be served first: submitted, or the group opened since.
    pub(crate) since: Instant,
}

/// A run under way.
pub struct Run<S: Subject> {
    pub(crate) shape: Shape,
    pub(crate) world: World<S>,
    pub(crate) model: Model,
    pub(crate) rng: Rng,
    /// Decides about drives that come and go: a source of its own, so that runs where none does are what they were.
    pub(crate) verbs: Rng,
    /// Decides about keys, likewise.
    pub(crate) rekeys: Rng,
    pub(crate) slots: Vec<Option<Pending>>,
    pub(crate) progress: Progress,
    /// Beyond the fault budget: requests may fail and the group may refuse, but never lie.
    pub(crate) errors_allowed: bool,
    /// The next block to read while everything is being read.
    pub(crate) verify: Option<u64>,
    /// At the end a write is expected that never was made.
    pub(crate) canary: bool,
    /// No fault strikes any more.
    pub(crate) calm: bool,
    /// Blocks that the engine has counted as repaired.
    repaired: u64,
    /// Nothing was written since the last crash.
    pub(crate) untouched: bool,
    /// The world's step at which the engine was opened last.
    opened: u64,
    /// Beyond the fault budget: what became durable, and D when it did. What of that the drives still say counts at
    /// the next crash, for the log may rot on every leg: a damaged commit above the D that they say cannot be told
    /// from one that was never completed.
    pub(crate) unconfirmed: Vec<Unconfirmed>,
    /// The last crash, while a recovery has not come to its end: rot may still take away what the drives said then.
    at_crash: Option<Box<AtCrash>>,
    /// Turns until a recovery is cut short.
    recovery_left: Option<u64>,
    /// At the end: drives that no row names.
    pub(crate) rowless: Vec<bool>,
    /// Drives that have joined the pool.
    pub(crate) joined: usize,
    /// Turns until a crash that follows such a drive.
    pub(crate) joining_left: Option<u64>,
    /// Marks that the catalogue was asked to store when that was looked at last.
    marks: u64,
    /// Turns until a crash that follows such a mark.
    ends_left: Option<u64>,
    /// Writes, or flushes, that had failed when that was looked at last.
    failed: u64,
    /// By drive, flushes that had failed when the engine was opened last.
    flushes_before: Vec<u64>,
    /// Turns until an operation that follows a write that failed takes long.
    slow_left: Option<u64>,
    /// Turns until a crash that follows a write or a flush that failed.
    failure_left: Option<u64>,
    /// Blocks of the volume that the guest uses.
    pub(crate) size: u64,
    /// Since the last open nobody has asked for that size.
    pub(crate) regrow: bool,
    /// The size of the volume that is known to be durable.
    pub(crate) durable_sectors: u64,
    /// Nothing is asked of the drives by chance.
    pub(crate) scripted: bool,
    /// What a recovery wrote again on the only copy that counts was garbled, and nobody knows it any more: what the contract says
    /// of the end of a log, and the end of the run.
    pub(crate) at_the_limit: bool,
    /// Legs of the group when that was looked at last.
    pub(crate) legs: u8,
    /// What the copies were when some of them began to lack something, where they are lost in earnest (`disasters`).
    pub(crate) disaster: Disaster,
    /// What was durable when, by D, where only that counts at a crash which the drives say.
    pub(crate) said: Said,
    /// The group is opened on drives that are not its own.
    pub(crate) strange: Option<Box<Strange>>,
    /// Drives of another group.
    pub(crate) others: Vec<SimDrive>,
    /// Drives that the last move concerns that was asked for, until it is said how it came out.
    pub(crate) moved: Vec<usize>,
    /// The drive table when that was looked at last.
    pub(crate) places: Places,
    was: Phase,
    pub(crate) left: u64,
    ended: u64,
    crashes: u64,
    pub(crate) compared: u64,
    rows: Vec<(&'static str, u64)>,
}

/// Whether a turn came to the end of what was asked for.
pub(crate) type Turned = Result<(), Violation>;

impl<S: Subject> Run<S> {
    /// A new group of this shape, opened.
    pub fn new(mut shape: Shape, planted: Option<&str>, verbose: bool) -> Self {
        S::bend(&mut shape);
        let mut rng = Rng::new(shape.seed);
        let (subject, drives, control) = S::create(&shape, planted, &mut rng);
        let mut world = World::new(subject, drives, control, rng.fork());
        world.trace.verbose = verbose;
        world.trace.say(|| format!("{shape:?}"));
        world.slow_control = shape.slow_control;
        world.twins = shape.twins.then(|| shape.twin_drives());
        world.columns = usize::from(shape.columns);
        let model = Model::new(shape.seed, shape.volume_blocks);
        Self::around(shape, world, model, rng)
    }

    /// A run that goes on from a given world.
    pub(crate) fn around(shape: Shape, world: World<S>, model: Model, rng: Rng) -> Self {
        let progress = Progress::new(world.steps, world.now());
        let rows = S::recovery_rows(world.engine()).into_iter().map(|(name, _)| (name, 0)).collect();
        let errors_allowed = matches!(shape.weather, Weather::Beyond | Weather::Hiccups);
        Self {
            verbs: Rng::new(shape.seed ^ 0x0056_4552_4253),
            rekeys: Rng::new(shape.seed ^ 0x5245_4b45_5953),
            slots: (0..shape.depth).map(|_| None).collect(),
            left: shape.requests,
            size: shape.blocks_at_first(),
            regrow: false,
            durable_sectors: 0,
            scripted: false,
            at_the_limit: false,
            legs: shape.legs,
            disaster: Disaster::default(),
            shape,
            world,
            model,
            rng,
            progress,
            errors_allowed,
            verify: None,
            canary: false,
            calm: false,
            repaired: 0,
            untouched: false,
            opened: 0,
            unconfirmed: Vec::new(),
            at_crash: None,
            recovery_left: None,
            rowless: Vec::new(),
            joined: 0,
            joining_left: None,
            marks: 0,
            ends_left: None,
            failed: 0,
            slow_left: None,
            failure_left: None,
            said: Said::default(),
            strange: None,
            others: Vec::new(),
            moved: Vec::new(),
            places: Places::default(),
            flushes_before: Vec::new(),
            was: Phase::Recovering,
            ended: 0,
            crashes: 0,
            compared: 0,
            rows,
        }
    }

    /// Runs to the end and judges.
    pub fn run(mut self) -> Outcome {
        let violation =
            self.play().and_then(|()| if self.at_the_limit { Ok(()) } else { self.finish() }).err();
        self.outcome(violation)
    }

    pub(crate) fn outcome(mut self, violation: Option<Violation>) -> Outcome {
        self.collect_rows();
        self.count_every_leg();
        Outcome {
            violation,
            crashes: self.crashes,
            faults: self.world.all_counts(),
            rows: self.rows,
            hash: self.world.trace.hash(),
            ended: self.ended,
            compared: self.compared,
            reused: self.places.reused,
            at_the_limit: self.at_the_limit,
        }
    }

    /// The workload with its crashes and faults.
    pub(crate) fn play(&mut self) -> Turned {
        while (self.left > 0 || self.verify.is_some()) && !self.at_the_limit {
            if self.crashes >= MOST_CRASHES {
                if self.shape.weather == Weather::Hiccups && self.shape.fault_every != 0 {
                    self.world.drives.iter_mut().for_each(simkit::SimDrive::heal);
                }
                (self.shape.crash_every, self.shape.fault_every) = (0, 0);
                (self.shape.recovery_crashes, self.shape.recovery_faults) = (0, 0);
            }
            // Not before the superblocks are being read: a leg without them counts no more.
            let hears = self.world.phase() == Phase::Recovering && self.world.steps > self.opened;
            let often = if hears { self.shape.recovery_faults } else { 0 };
            // Where writes fail and power goes, nothing fails in recovery: the group must open each time.
            let spared = self.shape.fails && self.world.phase() != Phase::Serving;
            if !spared
                && [often, self.shape.fault_every]
                    .iter()
                    .any(|every| *every != 0 && self.rng.chance(1, *every))
            {
                self.strike();
                self.confirm_again();
            }
            let crash = self.shape.crash_every != 0 && self.rng.chance(1, self.shape.crash_every);
            if crash
                || self.recovery_is_cut()
                || self.joining_is_cut()
                || self.repair_is_cut()
                || self.end_is_cut()
                || self.failure_is_cut()
            {
                self.crash()?;
            }
            if self.may_close() {
                self.close_and_reopen()?;
            }
            self.turn(true)?;
            if self.is_over() && !self.opens_once_healed()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Beyond the budget a group may refuse to go on; there is nothing more to ask of it then.
    pub(crate) fn is_over(&self) -> bool {
        self.world.phase() == Phase::Refused
    }

    /// Writes that failed once do no lasting harm: what refused to open for them must open without them. Neither do
    /// drives that were away.
    fn opens_once_healed(&mut self) -> Result<bool, Violation> {
        if self.strange.is_some() {
            self.strangers_leave();
            return Ok(true);
        }
        if self.shape.disasters && self.are_some_away() {
            self.after_refusal()?;
            return Ok(true);
        }
        if self.shape.ends && self.are_some_away() {
            self.all_come_back();
            return Ok(true);
        }
        let hiccups = self.shape.weather == Weather::Hiccups;
        if hiccups {
            self.world.drives.iter_mut().for_each(simkit::SimDrive::heal);
            self.shape.fault_every = 0;
            self.world.crash_process();
            self.reopen();
        }
        Ok(hiccups)
    }

    pub(crate) fn are_some_away(&self) -> bool {
        self.world.drives.iter().any(simkit::SimDrive::is_dead)
    }

    /// A restart of the process with every drive at hand.
    pub(crate) fn all_come_back(&mut self) {
        self.world.crash_process();
        self.world.drives.iter_mut().for_each(simkit::SimDrive::revive);
        self.reopen();
    }

    /// Where rot is all that happens, crashes like to follow what counts as a repair.
    fn repair_is_cut(&mut self) -> bool {
        if self.shape.weather != Weather::Rot || self.calm {
            return false;
        }
        let repaired = S::repaired(self.world.engine()).iter().sum();
        let more = repaired > std::mem::replace(&mut self.repaired, repaired);
        more && self.rng.chance(1, 2)
    }

    /// Where moves end: the catalogue hears of it, and power likes to go away soon after.
    fn end_is_cut(&mut self) -> bool {
        if !self.shape.ends {
            return false;
        }
        let more = self.world.marks > std::mem::replace(&mut self.marks, self.world.marks);
        if more && self.verbs.chance(1, 2) {
            let most = *self.verbs.pick(&[40, 400]);
            self.ends_left = Some(self.verbs.below(most));
        }
        is_due(&mut self.ends_left)
    }

    /// Where writes fail, one that is issued soon after likes to take long, and power to go away meanwhile; where flushes do,
    /// the process is killed.
    fn failure_is_cut(&mut self) -> bool {
        let kind = match (self.shape.fails, self.shape.forgets) {
            (true, _) => FaultKind::WriteError,
            (_, true) => FaultKind::FlushError,
            _ => return false,
        };
        let failed = self.world.drives.iter().map(|drive| drive.counts.of(kind)).sum();
        if failed > std::mem::replace(&mut self.failed, failed) {
            self.slow_left = (self.shape.fails && self.verbs.chance(2, 3)).then(|| self.verbs.below(10));
            let most = if self.shape.fails { *self.verbs.pick(&[40, 150]) } else { 12 };
            self.failure_left = self.verbs.chance(1, 2).then(|| self.verbs.below(most));
        }
        if is_due(&mut self.slow_left) {
            self.slow_left = None;
            self.world.drives.iter_mut().for_each(|drive| drive.arm(Armed::once(FaultKind::Slow)));
        }
        is_due(&mut self.failure_left)
    }

    fn recovery_is_cut(&mut self) -> bool {
        is_due(&mut self.recovery_left)
    }

    fn joining_is_cut(&mut self) -> bool {
        is_due(&mut self.joining_left)
    }

    /// Submits something, or lets the world make a step and judges what ended.
    pub(crate) fn turn(&mut self, work: bool) -> Turned {
        if work && !self.scripted {
            self.join_a_drive();
            self.drives_come_and_go();
            self.legs_come_and_go();
            self.a_leg_falls_behind();
            self.doors_open_and_close();
            self.keys_come_and_go();
        }
        self.volume_grows()?;
        let often = if self.shape.eager { 3 } else { 1 };
        let may_submit = self.free_slot().is_some() && (self.verify.is_some() || (work && self.left > 0));
        let ready =
            self.world.phase() != Phase::Recovering || (self.verify.is_none() && self.rng.chance(1, 16));
        if may_submit && ready && !self.regrow && self.rng.chance(often, 4) {
            if self.verify.is_some() {
                self.submit_verify();
            } else {
                self.left -= 1;
                self.submit_work();
            }
        } else {
            self.step()?;
        }
        if let Some(next) = self.verify
            && next >= self.size
            && self.slots.iter().all(Option::is_none)
        {
            self.verify = None;
            if std::mem::take(&mut self.untouched) {
                prefix::after_crash(&self.model)?;
            }
        }
        Ok(())
    }

    /// One step of the world.
    pub(crate) fn step(&mut self) -> Turned {
        let idle = [50_000, 1_000_000, 30_000_000, 3_000_000_000][self.rng.weighted(&[40, 30, 20, 2])];
        let horizon = self.world.now() + Duration::from_nanos(idle);
        let waits = self.waits();
        let asleep = self.world.is_asleep();
        self.pool_follows();
        if self.world.step(horizon) == Stepped::Horizon && !waits {
            self.progress = Progress::new(self.world.steps, self.world.now());
        }
        for (slot, result) in std::mem::take(&mut self.world.completed) {
            self.progress = Progress::new(self.world.steps, self.world.now());
            self.ended += 1;
            self.judge(slot, result)?;
        }
        growth::asked(self.world.row_too_early)?;
        self.places_are_looked_at();
        self.move_is_told()?;
        let phase = self.world.phase();
        if phase != self.was {
            self.was = phase;
            let now = self.world.now();
            self.slots.iter_mut().flatten().for_each(|pending| pending.since = now);
            self.progress = Progress::new(self.world.steps, self.world.now());
            if phase != Phase::Recovering {
                (self.recovery_left, self.at_crash) = (None, None);
            }
            if phase == Phase::Serving {
                self.served_by_force()?;
                self.served_as_said()?;
                self.served_with_strangers();
            }
        }
        if matches!(phase, Phase::Refused | Phase::ReadOnly) {
            let harmless = self.shape.weather == Weather::Hiccups
                && (self.calm || self.shape.fails || self.shape.fault_every == 0);
            let away = (self.shape.ends || self.shape.disasters) && self.are_some_away();
            let away = away || self.strange.is_some();
            let allowed = (self.errors_allowed || away) && !(harmless && phase == Phase::Refused);
            c9::refused(phase, allowed).map_err(|v| self.explain(v))?;
        }
        if waits && self.waits() && phase != Phase::Refused {
            let waiting = || self.describe_waiting();
            let asleep = asleep && self.world.is_asleep();
            self.progress.check(self.world.steps, self.world.now(), asleep, self.calm, waiting)?;
        }
        Ok(())
    }

    /// It is said how a move came out: what it left goes back to the pool.
    fn move_is_told(&mut self) -> Turned {
        if self.moved.is_empty() || S::legs(self.world.engine()).is_none() || S::moving(self.world.engine()) {
            return Ok(());
        }
        for drive in std::mem::take(&mut self.moved) {
            let at = &self.world.drives[drive];
            let left = S::extents_on(self.world.engine(), at.uuid).is_empty();
            // A drive that is handed back while a move to it is only asked for may be late with what is asked of it then: it
            // is read and flushed, and not written.
            let late = if self.shape.doors { at.may_be_written_late() } else { at.has_given_up() };
            late::given_back(drive, left && late)?;
        }
        Ok(())
    }

    fn explain(&self, mut violation: Violation) -> Violation {
        violation.what = format!("{}: {}", violation.what, S::refusal(self.world.engine()));
        violation
    }

    pub(crate) fn waits(&self) -> bool {
        matches!(self.world.phase(), Phase::Recovering | Phase::Closing)
            || self.slots.iter().any(Option::is_some)
    }

    fn describe_waiting(&self) -> String {
        let requests: Vec<_> = self.slots.iter().flatten().map(|pending| pending.request).take(4).collect();
        let engine = S::refusal(self.world.engine());
        format!("{:?}, {requests:?}, {engine}", self.world.phase())
    }

    pub(crate) fn free_slot(&self) -> Option<SlotId> {
        self.slots.iter().position(Option::is_none).map(|slot| SlotId(slot as u16))
    }

    fn submit_verify(&mut self) {
        let next = self.verify.expect("asked while verifying");
        let most = (self.size - next).min(u64::from(MAX_REQUEST_BLOCKS)) * SECTORS_PER_BLOCK;
        let blocks = self.shape.side_by_side(next * SECTORS_PER_BLOCK, most) / SECTORS_PER_BLOCK;
        self.verify = Some(next + blocks);
        if blocks > 0 {
            self.submit_read(next * SECTORS_PER_BLOCK, blocks * SECTORS_PER_BLOCK);
        }
    }

    pub(crate) fn submit_read(&mut self, sector: u64, sectors: u64) {
        let blocks = sector / SECTORS_PER_BLOCK..(sector + sectors).div_ceil(SECTORS_PER_BLOCK);
        let floors = blocks.map(|block| self.model.blocks[block as usize].acked).collect();
        self.submit(Op::Read, sector, sectors, false, Kind::Read(floors));
    }

    /// Hands a request in; a write's data is in its buffer already.
    pub(crate) fn submit(&mut self, op: Op, sector: u64, sectors: u64, fua: bool, kind: Kind) {
        let slot = self.free_slot().expect("the caller looked");
        if !self.waits() {
            self.progress = Progress::new(self.world.steps, self.world.now());
        }
        let (first, length) = self.shape.place_range(sector, sectors);
        let request = Request { slot, op, sector: Sector::new(first), sectors: Sectors::new(length), fua };
        if op == Op::Write {
            let Kind::Write(id) = kind else { unreachable!("a write has a number") };
            self.fill(&request, sector, id);
        }
        self.slots[slot.0 as usize] = Some(Pending { request, sector, kind, since: self.world.now() });
        self.world.submit(request);
    }

    fn fill(&mut self, request: &Request, first_sector: u64, id: WriteId) {
        let first = self.world.engine().slot_buffer(request.slot);
        let offset = request.sector.offset_in_block();
        let bytes = request.sectors.get() as usize * SECTOR_BYTES;
        let blocks = (offset + bytes).div_ceil(BLOCK_BYTES) as u32;
        let buffer = self.world.memory.blocks_mut(first, blocks);
        for (i, sector) in buffer[offset..offset + bytes].chunks_exact_mut(SECTOR_BYTES).enumerate() {
            stamp::put(sector, self.shape.seed, first_sector + i as u64, id);
        }
    }

    /// Judges a request that ended and tells the model.
    fn judge(&mut self, slot: SlotId, result: Result<(), Fault>) -> Turned {
        let pending = self.slots[slot.0 as usize].take();
        let Some(Pending { request, sector, kind, since }) = pending else {
            return Err(Violation::new("C9", format!("{slot:?} ended without a request")));
        };
        if self.shape.legs > 1 && !self.errors_allowed {
            c10::request(self.world.now() - since, || format!("{request:?}"))?;
        }
        if let Err(fault) = result {
            c9::failed(&request, fault, self.errors_allowed, self.shape.tight)?;
            if let Kind::Write(id) = kind {
                match fault {
                    Fault::NoSpace => self.model.refused(id),
                    _ => self.model.failed(id),
                }
            }
            return Ok(());
        }
        match kind {
            Kind::Write(id) => {
                self.model.acked(id, self.world.steps);
                if request.fua {
                    self.promised(Durable::Write(id));
                }
            }
            Kind::Flush(acks) => self.promised(Durable::Acks(acks)),
            Kind::Read(floors) => return self.judge_read(&request, sector, &floors),
        }
        Ok(())
    }

    /// This was said to be durable.
    fn promised(&mut self, what: Durable) {
        match self.shape.weather {
            _ if self.only_what_is_said() => self.unconfirmed.push((S::durable(self.world.engine()), what)),
            Weather::Beyond => self.unconfirmed.push((S::durable(self.world.engine()), what)),
            _ => self.durable(what),
        }
    }

    fn durable(&mut self, what: Durable) {
        what.enter(&mut self.model);
    }

    /// What the drives still say of flushes counts.
    fn confirm(&mut self) {
        if self.only_what_is_said() {
            return self.confirm_what_is_said();
        }
        let what = std::mem::take(&mut self.unconfirmed);
        if what.is_empty() {
            return;
        }
        let (_, promised) = self.said_by_drives();
        let model = self.model.clone();
        what.iter().filter(|(durable, _)| *durable <= promised).for_each(|(_, what)| self.durable(*what));
        self.at_crash = Some(Box::new(AtCrash { model, what, promised }));
    }

    pub(crate) fn said_by_drives(&mut self) -> (u64, Seq) {
        let (subject, heard) = (self.world.opener().clone(), self.heard());
        subject.promised(&self.world.drives, &heard, self.only_what_is_said())
    }

    /// Something struck. What a recovery has not read yet the drives may not say any more: then nobody can know it.
    pub(crate) fn confirm_again(&mut self) {
        if self.world.phase() == Phase::Recovering && self.only_what_is_said() {
            return self.confirm_less();
        }
        if self.world.phase() != Phase::Recovering || self.at_crash.is_none() {
            return;
        }
        let (_, promised) = self.said_by_drives();
        let Some(at) = self.at_crash.as_mut().filter(|at| promised < at.promised) else { return };
        at.promised = promised;
        let mut less = at.model.clone();
        for (_, what) in at.what.iter().filter(|(durable, _)| *durable <= promised) {
            what.enter(&mut less);
        }
        self.model.doubt_beyond(&less);
    }

    fn judge_read(&mut self, request: &Request, sector: u64, floors: &[u32]) -> Turned {
        let sectors = request.sectors.get();
        let first = sector / SECTORS_PER_BLOCK;
        let buffer = self.world.engine().slot_buffer(request.slot);
        for (i, floor) in floors.iter().enumerate() {
            let block = first + i as u64;
            let mask = mask_of(block, sector, sectors);
            let bytes = self.world.memory.block(buffer.plus(i as u32));
            let look = Look::at(block, bytes, mask, self.shape.seed);
            let history = &self.model.blocks[block as usize];
            let found = history.find(&look, *floor);
            checks::read(&Sight { block, history, floor: *floor, look: &look, found })?;
            let Found::Allowed(index) = found else { unreachable!("some checker objects to {found:?}") };
            self.model.learn(block, &look, index, *floor);
        }
        Ok(())
    }

    /// A crash of process or node, and the start of the next recovery.
    pub(crate) fn crash(&mut self) -> Turned {
        self.copies_are_right()?;
        let repaired = S::repaired(self.world.engine());
        let process = self.shape.weather != Weather::Rot && self.rng.below(100) < self.shape.process;
        if process {
            self.world.crash_process();
        } else {
            self.world.crash_node(CrashMode::Random);
        }
        if self.shape.weather == Weather::Rot {
            repairs::after_power_loss(&self.world.drives, &repaired)?;
            self.world.drives.iter_mut().for_each(simkit::SimDrive::settle_doubts);
        }
        self.weather_after_crash();
        self.reopen();
        if self.rng.below(100) < self.shape.recovery_crashes {
            self.recovery_left = Some(self.rng.below(40));
        }
        Ok(())
    }

    /// Where only flushes fail, what the engine counts on is right. Of a drive whose flush fails it may have been reading
    /// already: of those that failed since the engine started nothing is said.
    pub(crate) fn copies_are_right(&self) -> Turned {
        if !self.shape.forgets {
            return Ok(());
        }
        let failed = |uuid: &base::Uuid| {
            let at = self.world.drives.iter().position(|drive| drive.uuid == *uuid);
            at.is_none_or(|at| self.flushes_failed(at) > self.flushes_before.get(at).copied().unwrap_or(0))
        };
        let errors = S::check_errors(self.world.engine());
        checks::c5::served(errors.iter().filter(|(uuid, _)| !failed(uuid)).map(|(_, count)| count).sum())
    }

    fn flushes_failed(&self, drive: usize) -> u64 {
        self.world.drives[drive].counts.of(FaultKind::FlushError)
    }

    /// Whether a recovery garbled what it wrote again on the only copy that counts, and went down with what it knew of it. Of a
    /// version of the superblock that is not allowed for: one that is known to be flushed is not written again.
    fn has_lost_the_end(&self) -> bool {
        let recovered = matches!(self.was, Phase::Recovering | Phase::Refused);
        if self.shape.weather != Weather::Hiccups || !recovered {
            return false;
        }
        let of_log = |block: &base::Block| {
            block.iter().any(|byte| *byte != 0) && !block.starts_with(volume::layout::superblock::MAGIC)
        };
        let garbled = |drive: usize| self.world.drives[drive].missing().any(of_log);
        let column = |drive: usize| self.shape.place_of(drive) % usize::from(self.shape.columns);
        let counting: Vec<usize> = (0..self.world.drives.len()).filter(|drive| self.counts(*drive)).collect();
        let spared =
            |drive: usize| counting.iter().any(|other| column(*other) == column(drive) && !garbled(*other));
        counting.iter().any(|drive| garbled(*drive) && !spared(*drive))
    }

    /// Forgets what was in flight and opens the engine anew.
    pub(crate) fn reopen(&mut self) {
        self.crashes += 1;
        self.flushes_before = (0..self.world.drives.len()).map(|drive| self.flushes_failed(drive)).collect();
        self.collect_rows();
        self.slots.iter_mut().for_each(|slot| *slot = None);
        self.world.cut_off();
        self.at_the_limit |= self.has_lost_the_end();
        self.confirm();
        self.model.crash();
        self.world.restart();
        self.moved.clear();
        self.places.forget();
        self.repaired = 0;
        self.opened = self.world.steps;
        (self.recovery_left, self.joining_left, self.ends_left) = (None, None, None);
        (self.slow_left, self.failure_left) = (None, None);
        self.was = self.world.phase();
        self.progress = Progress::new(self.world.steps, self.world.now());
        self.regrow = self.shape.first_blocks != 0;
        self.verify = self.shape.verify_first.then_some(0);
        self.untouched = self.shape.verify_first;
    }

    pub(crate) fn collect_rows(&mut self) {
        for (sum, (name, count)) in self.rows.iter_mut().zip(S::recovery_rows(self.world.engine())) {
            assert_eq!(sum.0, name, "rows come in one order");
            sum.1 += count;
        }
    }

    /// For the canary: a write that never was is acknowledged, so that no answer is right.
    pub(crate) fn expect_the_impossible(&mut self) {
        let id = self.model.issue(0, SECTORS_PER_BLOCK, false, 0);
        self.model.acked(id, 0);
        self.model.durable(id);
    }
}

/// Counts down; true at the end.
fn is_due(left: &mut Option<u64>) -> bool {
    match left {
        Some(0) => true,
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}
