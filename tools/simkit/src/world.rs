//! One engine with its drives, memory, clock and control plane: the driver's loop, simulated.
//!
//! A step delivers what arrived (at least one thing, sometimes several, as a busy loop would) and polls the
//! engine once, as `base::engine` asks for; between two steps anything may be done to the world: submit
//! requests, arm faults, crash it. A crash throws the engine, its memory and everything in flight away and keeps
//! drives and control plane.
use crate::buffers::Buffers;
use crate::control::{Catalogue, Control};
use crate::crash::CrashMode;
use crate::drive::SimDrive;
use crate::fault::{FaultCounts, FaultKind};
use crate::rng::Rng;
use crate::trace::Trace;
use base::limits::{MAX_DRIVES, MAX_POLL_ACTIONS, MAX_POLL_SEGMENTS};
use base::{
    Action, Actions, Change, CkptNo, DriveIx, DriveOp, Duration, Engine, ExtentNo, Fault, Gen, Instant,
    IoToken, LegId, MoveGrant, NewDrive, Op, Phase, Reply, Request, RowGrant, Seq, SlotId, Uuid,
};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// How far apart arrivals may lie to be handed in before one poll.
const COALESCE: Duration = Duration::from_nanos(30_000);
/// How long a poll takes: time goes on even while an engine asks to be called again at once.
const POLL: Duration = Duration::from_nanos(1_000);
/// How long the control plane takes at least and at most.
const CONTROL: (u64, u64) = (100_000, 5_000_000);

/// What an engine is opened with.
pub struct Opening<'a> {
    /// All drives that the group could use.
    pub drives: &'a [SimDrive],
    /// Those that are at hand, in the order in which the driver found them: the engine names a drive in its
    /// actions by its place in this list.
    pub at_hand: &'a [usize],
    /// What the catalogue knows.
    pub catalogue: &'a Catalogue,
    /// The new activation's number by the catalogue.
    pub activation: Gen,
    /// The new activation's identity.
    pub id: Uuid,
    /// The new activation's salt.
    pub salt: [u8; 16],
    /// The time.
    pub now: Instant,
}

/// Makes engines: at the start and after every crash.
pub trait Open {
    /// What it makes.
    type Engine: Engine;
    /// Makes one that will recover from these drives.
    fn open(&mut self, opening: &Opening<'_>) -> Self::Engine;
    /// The drive at this place of an engine's drive table, which is the order in which its drives joined. `None`
    /// beyond its end, and from engines whose table is the list of drives.
    fn drive_of(_: &Self::Engine, _: DriveIx) -> Option<Uuid> {
        None
    }
    /// S and C that a mark of the drive at this place of the engine's table says. `None` if its copy is current.
    fn stale_since(_: &Self::Engine, _: DriveIx) -> Option<(Seq, CkptNo)> {
        None
    }
    /// Legs of each row. `None` where that is not known, or every leg is always there.
    fn legs_of_rows(_: &Self::Engine) -> Option<u8> {
        None
    }
    /// Whether rows of the group name extents of this drive.
    fn has_rows(_: &Self::Engine, _: Uuid) -> bool {
        false
    }
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stepped {
    /// Something arrived or the engine's deadline came; the engine was polled.
    Polled,
    /// Nothing happened until the horizon; the clock stands there.
    Horizon,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Event {
    at: Instant,
    order: u64,
    what: What,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum What {
    Drive {
        drive: u8,
        id: u32,
    },
    Control {
        index: usize,
    },
    /// An operation that was given up is answered.
    GivenUp {
        token: u64,
    },
    /// And all of a drive, by the engine's number, may have ended.
    Quiet {
        handle: u8,
    },
}

/// A simulated world around one engine.
pub struct World<O: Open> {
    /// The drives, by their index in the group.
    pub drives: Vec<SimDrive>,
    /// Pool and catalogue.
    pub control: Control,
    /// The engine's and the guest's buffers.
    pub memory: Buffers,
    /// Draws everything that is left to chance in the world.
    pub rng: Rng,
    /// Hash of everything that happened.
    pub trace: Trace,
    /// Faults that no drive counts.
    pub counts: FaultCounts,
    /// Requests that ended and were not taken yet, in order.
    pub completed: Vec<(SlotId, Result<(), Fault>)>,
    /// Steps so far.
    pub steps: u64,
    /// Drive operations issued so far.
    pub issued: u64,
    /// Arms this fault on the drive that gets the operation with this number: for sweeps.
    pub fail_at: Option<(u64, crate::Armed)>,
    /// How many in a thousand answers of the control plane take a second.
    pub slow_control: u64,
    /// Marks that the catalogue was asked to store so far.
    pub marks: u64,
    /// A row was asked for by a group that was not served yet.
    pub row_too_early: bool,
    /// Drives that can take the places of those before them, one of each set: the sets follow each other, and each drive of
    /// the pool has the same place in all.
    pub twins: Option<Range<usize>>,
    /// Columns of each leg, where drives have such twins.
    pub columns: usize,
    opener: O,
    engine: O::Engine,
    /// The drive behind each number that the engine uses.
    at_hand: Vec<usize>,
    now: Instant,
    order: u64,
    events: BinaryHeap<Reverse<Event>>,
    wanted: Vec<Option<Action>>,
    wake: Option<Instant>,
    out: Actions,
}

impl<O: Open> World<O> {
    /// Opens an engine on these drives.
    pub fn new(mut opener: O, drives: Vec<SimDrive>, mut control: Control, mut rng: Rng) -> Self {
        let (engine, at_hand) = open_engine(&mut opener, &drives, &mut control, &mut rng, Instant::ZERO);
        let memory = Buffers::new(engine.memory_blocks());
        Self {
            drives,
            control,
            memory,
            rng,
            trace: Trace::new(),
            counts: FaultCounts::default(),
            completed: Vec::new(),
            steps: 0,
            issued: 0,
            fail_at: None,
            slow_control: 0,
            marks: 0,
            row_too_early: false,
            twins: None,
            columns: 1,
            opener,
            engine,
            at_hand,
            now: Instant::ZERO,
            order: 0,
            events: BinaryHeap::new(),
            wanted: Vec::new(),
            wake: Some(Instant::ZERO),
            out: Actions::with_capacity(MAX_POLL_ACTIONS, MAX_POLL_SEGMENTS),
        }
    }

    /// The engine.
    pub fn engine(&self) -> &O::Engine {
        &self.engine
    }

    /// The engine, to call what is its own; the next step polls it.
    pub fn engine_mut(&mut self) -> &mut O::Engine {
        self.wake = Some(self.now);
        &mut self.engine
    }

    /// What opens engines, and the engine; the next step polls it.
    pub fn opener_and_engine(&mut self) -> (&mut O, &mut O::Engine) {
        self.wake = Some(self.now);
        (&mut self.opener, &mut self.engine)
    }

    /// What opens engines.
    pub fn opener(&mut self) -> &mut O {
        &mut self.opener
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Where the engine stands.
    pub fn phase(&self) -> Phase {
        self.engine.phase()
    }

    /// Whether nothing will ever happen unless something is handed in.
    pub fn is_asleep(&self) -> bool {
        self.events.is_empty() && self.wake.is_none()
    }

    /// Whether no drive operation is in flight.
    pub fn is_quiet(&self) -> bool {
        self.drives.iter().all(SimDrive::is_idle)
    }

    /// Hands in a request; its buffer is filled already.
    pub fn submit(&mut self, request: Request) {
        let op = request.op as u64 | u64::from(request.fua) << 8;
        self.trace.event(b"su", [u64::from(request.slot.0), op, request.sector.get(), request.sectors.get()]);
        self.trace.say(|| format!("{:>12} submit {request:?}", self.now.nanos()));
        self.engine.submit(request);
        self.wake = Some(self.now);
    }

    /// Asks the engine to finish and close.
    pub fn close(&mut self) {
        self.trace.event(b"cl", [0; 4]);
        self.engine_mut().close();
    }

    /// Tells the engine that the pool grew.
    pub fn space_added(&mut self) {
        self.engine_mut().reply(Reply::SpaceAdded);
    }

    /// Hands a drive of the group back to the engine. False if it cannot be used, or is still at work for the
    /// engine that lost it; while something that was given up may land there the engine does not take it. `anew`: the engine has let go
    /// of it; one that it works with is not opened anew, and what a reset took from it is still to be told.
    pub fn drive_back(&mut self, drive: usize, anew: bool) -> bool {
        if self.drives[drive].is_dead() || !self.drives[drive].is_given_up() {
            return false;
        }
        self.trace.event(b"db", [drive as u64, self.now.nanos(), 0, 0]);
        self.trace.say(|| format!("{:>12} drive {drive} is back", self.now.nanos()));
        if anew {
            self.drives[drive].begin_anew();
        }
        let new = new_drive(&self.drives[drive], handle_of(&mut self.at_hand, drive));
        self.engine_mut().reply(Reply::Returned(new));
        true
    }

    /// Asks the engine to leave a drive for another one, extent for extent; or, if `all` is not so, to move just these.
    pub fn move_drive(&mut self, from: usize, to: Option<usize>, extents: Vec<ExtentNo>, all: bool) {
        self.trace.event(b"mv", [from as u64, to.map_or(u64::MAX, |to| to as u64), self.now.nanos(), 0]);
        self.trace.say(|| format!("{:>12} drive {from} is left for {to:?}", self.now.nanos()));
        let new = to.map(|to| new_drive(&self.drives[to], handle_of(&mut self.at_hand, to)));
        let extents = extents.into_iter().map(|extent| (extent, 0, extent)).collect();
        let uuid = self.drives[from].uuid;
        let change = if all { Change::Leave(uuid) } else { Change::Shift(uuid) };
        let grant = MoveGrant { change, to: new.into_iter().collect(), extents };
        self.engine_mut().reply(Reply::Move(grant));
    }

    /// Asks the engine to give every row a leg more, on these drives: for each place of leg 0 its extent, and its
    /// successor on the drive of the same column.
    pub fn add_leg(&mut self, drives: &[usize], extents: Vec<(ExtentNo, usize, ExtentNo)>) {
        self.trace.event(b"al", [drives[0] as u64, extents.len() as u64, self.now.nanos(), 0]);
        self.trace.say(|| format!("{:>12} a leg is added on {drives:?}", self.now.nanos()));
        let to = drives.iter().map(|to| new_drive(&self.drives[*to], handle_of(&mut self.at_hand, *to)));
        let grant = MoveGrant { change: Change::AddLeg, to: to.collect(), extents };
        self.engine_mut().reply(Reply::Move(grant));
    }

    /// Asks the engine to drop a leg of every row.
    pub fn drop_leg(&mut self, leg: LegId) {
        self.trace.event(b"dl", [u64::from(leg.get()), self.now.nanos(), 0, 0]);
        self.trace.say(|| format!("{:>12} leg {leg} is dropped", self.now.nanos()));
        let grant = MoveGrant { change: Change::DropLeg(leg), to: Vec::new(), extents: Vec::new() };
        self.engine_mut().reply(Reply::Move(grant));
    }

    /// The drives that can take the place of this one of the pool, nearest first.
    pub fn twins_of(&self, drive: usize) -> impl Iterator<Item = usize> + use<O> {
        let twins = self.twins.clone().filter(|twins| drive < twins.start).unwrap_or(1..1);
        (drive + twins.start..twins.end).step_by(twins.start)
    }

    /// The drive that has the place of this one now: of those that can take it the first that has rows.
    pub fn in_place_of(&self, drive: usize) -> usize {
        let has_rows = |twin: &usize| O::has_rows(&self.engine, self.drives[*twin].uuid);
        self.twins_of(drive).find(has_rows).unwrap_or(drive)
    }

    /// Moves on to the next thing that happens, at `horizon` at the latest.
    pub fn step(&mut self, horizon: Instant) -> Stepped {
        let event = self.events.peek().map(|Reverse(event)| event.at);
        let next = match (event, self.wake) {
            (Some(event), Some(wake)) => event.min(wake),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => horizon,
        };
        if next > horizon || (event.is_none() && self.wake.is_none()) {
            self.now = self.now.max(horizon);
            return Stepped::Horizon;
        }
        self.now = self.now.max(next) + POLL;
        self.steps += 1;
        let mut until = self.now;
        if self.rng.chance(1, 2) {
            until = until + COALESCE;
        }
        while let Some(Reverse(event)) = self.events.peek()
            && event.at <= until
        {
            let Reverse(event) = self.events.pop().expect("just seen");
            self.now = self.now.max(event.at);
            self.deliver(event.what);
        }
        self.poll();
        Stepped::Polled
    }

    fn deliver(&mut self, what: What) {
        match what {
            What::GivenUp { token } => {
                self.trace.event(b"gu", [token, self.now.nanos(), 0, 0]);
                self.engine.drive_done(IoToken(token), Err(Fault::Timeout));
            }
            What::Quiet { handle } => self.drive_quiet(handle),
            What::Drive { drive, id } => {
                let target = &mut self.drives[drive as usize];
                let given_up = target.was_given_up(id);
                let (token, result) = target.complete(&mut self.rng, id, &mut self.memory);
                if given_up {
                    self.trace
                        .event(b"la", [u64::from(drive), token.0, result.is_ok().into(), self.now.nanos()]);
                    let handle = self.at_hand.iter().position(|known| *known == usize::from(drive));
                    return self.drive_quiet(handle.expect("a drive that was given up is at hand") as u8);
                }
                self.trace.event(b"dd", [u64::from(drive), token.0, result.is_ok().into(), self.now.nanos()]);
                if result.is_err() {
                    self.trace.say(|| format!("{:>12} drive {drive} {token:?} {result:?}", self.now.nanos()));
                }
                self.engine.drive_done(token, result);
            }
            What::Control { index } => {
                let action = self.wanted[index].take().expect("answered once");
                let start = self.rng.number();
                let reply = match self.control.answer(action, start) {
                    Reply::Row(grant) => self.in_table(grant),
                    reply => reply,
                };
                if reply == Reply::NoRow {
                    self.counts.add(FaultKind::NoRow);
                }
                self.trace.event(b"cr", [index as u64, (reply == Reply::NoRow).into(), self.now.nanos(), 0]);
                self.trace.say(|| format!("{:>12} control {reply:?}", self.now.nanos()));
                self.engine.reply(reply);
            }
        }
    }

    /// Tells the engine, if nothing that was given up on a drive can have effects any more.
    fn drive_quiet(&mut self, handle: u8) {
        let drive = &self.drives[self.at_hand[usize::from(handle)]];
        if !drive.has_given_up() {
            self.engine.reply(Reply::Quiet { drive: DriveIx::new(handle) });
        }
    }

    /// What was given up ends, though no engine is there to hear of it.
    fn let_go(&mut self) {
        while let Some(Reverse(event)) = self.events.pop() {
            if let What::Drive { drive, id } = event.what {
                let target = &mut self.drives[drive as usize];
                assert!(target.was_given_up(id), "a closed engine has I/O in flight");
                self.now = self.now.max(event.at);
                let _ = target.complete(&mut self.rng, id, &mut self.memory);
            }
        }
    }

    fn poll(&mut self) {
        let mut out = std::mem::replace(&mut self.out, Actions::with_capacity(0, 0));
        out.clear();
        let recovering = self.phase() == Phase::Recovering;
        self.wake = self.engine.poll(self.now, &mut self.memory, &mut out);
        let asks = |action: &Action| matches!(action, Action::WantRow { .. });
        self.row_too_early |= recovering && out.actions.iter().any(asks);
        for action in &out.actions {
            self.carry_out(*action, &out);
        }
        self.out = out;
    }

    fn carry_out(&mut self, action: Action, out: &Actions) {
        match action {
            Action::Drive { token, drive, op, at, blocks, segments } => {
                let drive = self.at_hand[usize::from(drive.get())];
                self.issued += 1;
                if let Some((number, fault)) = self.fail_at
                    && number == self.issued
                {
                    self.fail_at = None;
                    self.drives[drive].arm(fitting(op, fault));
                }
                let target = &mut self.drives[drive];
                let memory = out.memory(segments);
                let (id, ends) =
                    target.issue(&mut self.rng, self.now, token, op, at, blocks, memory, &mut self.memory);
                let key = (drive as u64) << 32 | blocks.get() << 8 | op as u64;
                self.trace.event(b"di", [key, at.get(), token.0, ends.nanos()]);
                self.trace.say(|| format!("{:>12} drive {drive} {op:?} {at}+{blocks}", self.now.nanos()));
                self.push(ends, What::Drive { drive: drive as u8, id });
            }
            Action::Complete { slot, result } => {
                self.trace.event(b"co", [u64::from(slot.0), result.is_ok().into(), self.now.nanos(), 0]);
                self.trace.say(|| format!("{:>12} complete {slot:?} {result:?}", self.now.nanos()));
                self.completed.push((slot, result));
            }
            Action::GiveUp { drive } => {
                let handle = drive.get();
                let drive = self.at_hand[usize::from(handle)];
                self.trace.event(b"gi", [drive as u64, self.now.nanos(), 0, 0]);
                self.trace.say(|| format!("{:>12} drive {drive} is given up", self.now.nanos()));
                for token in self.drives[drive].give_up() {
                    self.push(self.now + POLL, What::GivenUp { token: token.0 });
                }
                self.push(self.now + POLL, What::Quiet { handle });
            }
            Action::WantRow { .. } | Action::StoreStale { .. } | Action::StoreCurrent { .. } => {
                self.trace.event(b"ca", [self.wanted.len() as u64, self.now.nanos(), 0, 0]);
                self.trace.say(|| format!("{:>12} {action:?}", self.now.nanos()));
                let mut nanos = self.rng.between(CONTROL.0, CONTROL.1);
                if self.rng.chance(self.slow_control, 1000) {
                    self.counts.add(FaultKind::SlowControl);
                    nanos += 1_000_000_000;
                }
                self.marks += u64::from(!matches!(action, Action::WantRow { .. }));
                let index = self.wanted.len();
                let action = self.in_world(action);
                self.wanted.push(Some(action));
                self.push(self.now + Duration::from_nanos(nanos), What::Control { index });
            }
        }
    }

    /// The drive at a place of the engine's table, by its index in the world.
    fn drive_at(&self, index: DriveIx) -> Option<usize> {
        let uuid = O::drive_of(&self.engine, index)?;
        self.drives.iter().position(|drive| drive.uuid == uuid)
    }

    /// An action for the control plane, whose drives are those of the world.
    fn in_world(&mut self, action: Action) -> Action {
        if let Action::StoreCurrent { drive, version } = action {
            let drive = self.drive_at(drive).expect("a drive of the table");
            let asked = &mut self.control.catalogue.asked_current[drive];
            *asked = version.max(*asked);
            return Action::StoreCurrent { drive: DriveIx::new(drive as u8), version };
        }
        let Action::StoreStale { drives, version } = action else { return action };
        let mut marked = 0;
        for index in (0..MAX_DRIVES as u8).filter(|i| drives >> i & 1 == 1) {
            let drive = self.drive_at(DriveIx::new(index)).unwrap_or(usize::from(index));
            let since = O::stale_since(&self.engine, DriveIx::new(index)).unwrap_or_default();
            self.control.catalogue.said.insert((drive, version), since);
            marked |= 1 << drive;
        }
        Action::StoreStale { drives: marked, version }
    }

    /// A grant whose drives are those of the engine's table; what the table lacks joins. There is no row when such a
    /// drive cannot be opened, or is marked as stale: the mark says that the group relies on what it misses.
    fn in_table(&mut self, mut grant: RowGrant) -> Reply {
        let table = (0..MAX_DRIVES as u8).map_while(|i| self.drive_at(DriveIx::new(i)));
        let mut table: Vec<usize> = table.collect();
        if table.is_empty() {
            return Reply::Row(grant);
        }
        // Of a leg that the rows do not have nobody misses anything: it is being dropped, or was only asked for.
        let legs = O::legs_of_rows(&self.engine).filter(|_| self.twins.is_some());
        let relied_on = legs.map_or(usize::MAX, |legs| usize::from(legs) * self.columns);
        for (i, extent) in grant.extents.iter_mut().enumerate() {
            let drive = self.in_place_of(usize::from(extent.drive.get()));
            let listed = table.iter().position(|listed| *listed == drive);
            let unfit = self.drives[drive].is_dead() || self.control.catalogue.is_stale(drive);
            if listed.is_none() && unfit && i < relied_on {
                return Reply::NoRow;
            }
            let index = listed.unwrap_or_else(|| {
                table.push(drive);
                grant.joining.push(new_drive(&self.drives[drive], handle_of(&mut self.at_hand, drive)));
                table.len() - 1
            });
            extent.drive = DriveIx::new(index as u8);
        }
        Reply::Row(grant)
    }

    fn push(&mut self, at: Instant, what: What) {
        self.order += 1;
        self.events.push(Reverse(Event { at, order: self.order, what }));
    }

    /// The process does not run for so long; the drives do, and it finds what ended meanwhile all at once.
    pub fn pause(&mut self, time: Duration) {
        self.trace.event(b"pa", [time.nanos(), self.now.nanos(), 0, 0]);
        self.counts.add(FaultKind::Pause);
        self.now = self.now + time;
    }

    /// The clock leaps ahead, and nothing else does: what is in flight takes as long as it would have.
    pub fn leap(&mut self, time: Duration) {
        self.trace.event(b"le", [time.nanos(), self.now.nanos(), 0, 0]);
        self.counts.add(FaultKind::ClockLeap);
        self.now = self.now + time;
        let events = std::mem::take(&mut self.events).into_iter();
        self.events = events.map(|Reverse(e)| Reverse(Event { at: e.at + time, ..e })).collect();
        self.drives.iter_mut().for_each(|drive| drive.leap(time));
    }

    /// Everything loses power at this instant; `restart` comes next.
    pub fn crash_node(&mut self, mode: CrashMode) {
        self.note_crash(FaultKind::NodeCrash);
        for drive in &mut self.drives {
            drive.crash(&mut self.rng, mode);
        }
    }

    /// The process dies at this instant, the drives live on; `restart` comes next.
    pub fn crash_process(&mut self) {
        self.note_crash(FaultKind::ProcessCrash);
        for drive in &mut self.drives {
            drive.abandon(&mut self.rng);
        }
    }

    fn note_crash(&mut self, kind: FaultKind) {
        self.trace.event(b"xx", [kind as u64, self.now.nanos(), self.phase() as u64, 0]);
        self.trace.say(|| format!("{:>12} {} while {:?}", self.now.nanos(), kind.name(), self.phase()));
        self.counts.add(kind);
        if self.phase() == Phase::Recovering {
            self.counts.add(FaultKind::CrashInRecovery);
        }
    }

    /// Nothing is in flight any more, and what the control plane was asked may have been done, though nobody hears the answer:
    /// behind a crash, before anybody asks drives and control plane what they know.
    pub fn cut_off(&mut self) {
        if !self.is_quiet() {
            self.let_go();
        }
        for action in std::mem::take(&mut self.wanted).into_iter().flatten() {
            if self.rng.chance(1, 2) {
                let start = self.rng.number();
                let _ = self.control.answer(action, start);
            }
        }
    }

    /// Opens the engine anew on what the drives hold, after a crash or a clean close.
    pub fn restart(&mut self) {
        self.cut_off();
        assert!(self.is_quiet(), "an engine is opened only while nothing is in flight");
        self.events.clear();
        self.completed.clear();
        let (opener, control) = (&mut self.opener, &mut self.control);
        (self.engine, self.at_hand) = open_engine(opener, &self.drives, control, &mut self.rng, self.now);
        self.memory = Buffers::new(self.engine.memory_blocks());
        self.wake = Some(self.now);
        self.trace.event(b"op", [self.control.catalogue.activation, self.now.nanos(), 0, 0]);
        self.trace.say(|| format!("{:>12} opened", self.now.nanos()));
    }

    /// Faults of drives and world together.
    pub fn all_counts(&self) -> FaultCounts {
        let mut all = self.counts.clone();
        self.drives.iter().for_each(|drive| all.merge(&drive.counts));
        all
    }

    /// Whether a slot's request may carry data of this operation: reads and writes do.
    pub fn moves_data(op: Op) -> bool {
        matches!(op, Op::Read | Op::Write)
    }

    /// Drives by index.
    pub fn drive(&self, drive: DriveIx) -> &SimDrive {
        &self.drives[drive.get() as usize]
    }
}

/// The error that fits the operation, where a sweep asks for "an error".
fn fitting(op: DriveOp, fault: crate::Armed) -> crate::Armed {
    let error = matches!(fault.kind, FaultKind::ReadError | FaultKind::WriteError | FaultKind::FlushError);
    let kind = match op {
        _ if !error => fault.kind,
        DriveOp::Read => FaultKind::ReadError,
        DriveOp::Write => FaultKind::WriteError,
        DriveOp::Flush => FaultKind::FlushError,
    };
    crate::Armed { kind, times: fault.times }
}

/// The number by which the engine's driver knows a drive; a drive that it does not have yet gets the next one.
fn handle_of(at_hand: &mut Vec<usize>, drive: usize) -> DriveIx {
    let handle = at_hand.iter().position(|known| *known == drive).unwrap_or_else(|| {
        at_hand.push(drive);
        at_hand.len() - 1
    });
    DriveIx::new(handle as u8)
}

fn new_drive(drive: &SimDrive, handle: DriveIx) -> NewDrive {
    NewDrive { uuid: drive.uuid, handle, blocks: drive.blocks(), volatile: drive.volatile }
}

fn open_engine<O: Open>(
    opener: &mut O,
    drives: &[SimDrive],
    control: &mut Control,
    rng: &mut Rng,
    now: Instant,
) -> (O::Engine, Vec<usize>) {
    let Control { pool, catalogue } = control;
    catalogue.activation += 1;
    let activation = Gen::new(catalogue.activation);
    let (id, salt) = (Uuid(rng.bytes16()), rng.bytes16());
    let mut at_hand: Vec<usize> =
        (0..drives.len()).filter(|i| !drives[*i].is_dead() && pool.has(*i)).collect();
    for i in (1..at_hand.len()).rev() {
        at_hand.swap(i, rng.below(i as u64 + 1) as usize);
    }
    (opener.open(&Opening { drives, at_hand: &at_hand, catalogue, activation, id, salt, now }), at_hand)
}
