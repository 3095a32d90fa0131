//! A small world for tests of the engine: drives, a pool that hands out extents, a catalogue, a guest whose model
//! knows what every sector must hold.
//!
//! What the guest writes is a stamp, repeated over each sector. Operations end in the order in which they were
//! issued, or shuffled (`shuffle`); `verdict` decides how each ends.
#![allow(dead_code, reason = "each test program uses a part of the world")]
use base::{
    Action, Actions, Blocks, BufId, DriveIx, DriveOp, Engine, Extent, ExtentNo, Fault, Gen, Instant, Memory,
    Op, Phase, Reply, Request, RowGrant, SECTOR_BYTES, Sector, Sectors, Segment, SlotId, Uuid, VecMemory,
};
use drive::Drive;
use fence::{CopyEntry, CopyState};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use volume::{Activation, Candidate, Config, DriveInfo, Geometry, NewVolume, OpenRequest, Volume, create};

pub mod changes;
pub mod drive;
pub mod keys;
pub mod story;

thread_local! {
    /// Whether the engine is running on this thread: what a counting allocator counts.
    pub static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call of the engine.
fn inside<T>(call: impl FnOnce() -> T) -> T {
    INSIDE.set(true);
    let result = call();
    INSIDE.set(false);
    result
}

/// The engine of a group.
fn open(config: Config, request: OpenRequest, keys: Option<u32>, data: (u16, u16)) -> Volume {
    match keys {
        Some(number) => Volume::open_encrypted(config, request, keys::keys(number, data.0..=data.1)),
        None => Volume::open(config, request),
    }
}

/// The shape of a world.
#[derive(Clone, Copy)]
pub struct Shape {
    pub legs: u8,
    pub columns: u8,
    pub stripe: u32,
    pub extent: u32,
    pub ring: u32,
    /// Size of the volume.
    pub sectors: u64,
    /// Extents of each drive: rows that the pool can give.
    pub rows: u32,
    /// Whether drives have volatile caches.
    pub volatile: bool,
    pub config: Config,
    /// Whether the group is encrypted.
    pub encrypted: bool,
}

/// Small enough that everything happens often.
pub const SMALL: Config = Config {
    slots: 32,
    cache_pages: 128,
    delta_entries: 512,
    loaded_regions: 16,
    max_rows: 64,
    ..Config::SERVED
};

impl Shape {
    /// Two legs, one column, 8 MiB of volume on rows of 1 MiB.
    pub const MIRROR: Self = Self {
        legs: 2,
        columns: 1,
        stripe: 8,
        extent: 256,
        ring: 64,
        sectors: 16384,
        rows: 30,
        volatile: true,
        config: SMALL,
        encrypted: false,
    };

    fn drives(&self) -> u8 {
        self.legs * self.columns
    }
}

/// An operation of a drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriveIo {
    pub drive: u8,
    pub op: DriveOp,
    pub at: u64,
    pub blocks: u64,
}

/// How an operation ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Do,
    Fail,
    /// An error is reported although it was done.
    DoAndFail,
    /// Not yet: asked again at the next step.
    Later,
    /// It does nothing and says nothing within its time.
    Silent,
    /// A flush fails, and what it should have covered is read as it was written and never safe (`Drive::give_up`).
    GiveUp,
}

struct Pending {
    token: base::IoToken,
    io: DriveIo,
    memory: Vec<Segment>,
    issued: u64,
}

/// A write that was given up, with what it carries.
struct Late {
    drive: u8,
    at: u64,
    content: Vec<base::Block>,
}

/// A request in flight.
#[derive(Clone, Copy)]
struct Asked {
    op: Op,
    sector: u64,
    sectors: u64,
    stamp: u64,
    fua: bool,
}

impl Asked {
    fn range(&self) -> core::ops::Range<u64> {
        self.sector..self.sector + self.sectors
    }
    /// What it leaves in its sectors, if it changes them.
    fn leaves(&self) -> Option<u64> {
        match self.op {
            Op::Write => Some(self.stamp),
            Op::Discard | Op::WriteZeroes => Some(0),
            Op::Read | Op::Flush => None,
        }
    }
}

/// The world.
pub struct World {
    /// Whose keys the next open has: each world that encrypts has its own.
    pub keys: Option<u32>,
    /// The first and the last of its data keys that the next open has.
    pub data_keys: (u16, u16),
    pub shape: Shape,
    pub drives: Vec<Drive>,
    pub engine: Volume,
    pub memory: VecMemory,
    memory_blocks: u32,
    out: Actions,
    pub now: u64,
    pending: VecDeque<Pending>,
    /// Writes that were given up and have not landed.
    late: Vec<Late>,
    /// The driver's numbers of drives that were given up and are not quiet.
    given_up: Vec<DriveIx>,
    pub verdict: Box<dyn FnMut(&DriveIo) -> Verdict>,
    /// Operations that ended, if they are logged.
    pub log: Option<Vec<DriveIo>>,
    /// Ends operations in random order, a few at a time.
    pub shuffle: bool,
    pub random: u64,
    asked: Vec<Option<Asked>>,
    results: Vec<Option<Result<(), Fault>>>,
    stamps: u64,
    /// What each sector holds, where it is not zero.
    pub model: HashMap<u64, u64>,
    /// After a crash, what a sector may hold instead; the first read decides.
    pub maybe: HashMap<u64, Vec<u64>>,
    /// What writes that failed would have left, and when they did: a crash can still bring it.
    failed: HashMap<u64, Vec<(u64, u64)>>,
    /// By slot and sector: what reads in flight may find besides, because it was there when they began.
    overtaken: HashMap<(u16, u64), Vec<u64>>,
    /// What sectors held before writes that no flush has covered, and the stamp by which that was.
    unflushed: HashMap<u64, Vec<(u64, u64)>>,
    /// What the pool has handed out.
    pub next_extent: u32,
    pub extents: u32,
    /// Grants to be handed out first, whatever row is wanted.
    pub grants: VecDeque<RowGrant>,
    /// Drives that were added later.
    pub added: u8,
    /// For each place of a row, the drive that has it.
    pub places: Vec<u8>,
    /// For each column, the drive of a leg that is being added: rows that are granted bring its extents.
    pub adding: Vec<u8>,
    /// The pool hands out rows whose legs all lie on the last drive.
    pub bad_row: bool,
    pub catalogue: Vec<CopyEntry>,
    /// The catalogue does not answer.
    pub catalogue_silent: bool,
    /// Marks that the catalogue was asked to store.
    pub marks: Vec<(u32, u64)>,
    pub generation: u64,
    /// Opens carry the operator's word that what stale copies lack is given up.
    pub forced: bool,
    /// Whether opens say what volume to make, if there is none.
    pub create: bool,
    /// Drives that are not at hand.
    pub absent: u32,
    /// By the driver's number of a drive, which one it is.
    handles: Vec<u8>,
    pub polls: u64,
    /// The catalogue never stores a mark of a stale copy.
    pub forget_stale: bool,
    /// The Gen that somebody remembers as the one that served last.
    pub served: Option<Gen>,
    /// Opens without a catalogue: an import.
    pub no_catalogue: bool,
    /// Goes into the ids of activations: those of another catalogue are others.
    pub ids: u8,
}

impl World {
    /// A new group, opened.
    pub fn new(shape: Shape) -> Self {
        let mut world = Self::closed(shape);
        world.run_until("the group is served", |w| w.engine.phase() == Phase::Serving);
        world
    }

    /// A new group, about to be opened.
    pub fn closed(shape: Shape) -> Self {
        let mut drives: Vec<Drive> = (0..shape.drives()).map(|_| Drive::default()).collect();
        let new = create::NewGroup {
            pool: Uuid([8; 16]),
            group: Uuid([9; 16]),
            geometry: Geometry::new(shape.legs, shape.columns, shape.stripe, shape.extent, shape.ring),
            drives: (0..shape.drives()).map(uuid).collect(),
            home: row(&shape, 0),
        };
        let keys = shape.encrypted.then(keys::begin);
        let phases = match keys {
            Some(number) => create::plan_encrypted(&new, keys::keys(number, 1..=1)),
            None => create::plan(&new),
        };
        for phase in phases.expect("a possible shape") {
            for (drive, at, block) in phase {
                drives[usize::from(drive.get())].write(at.get(), &block[..], false);
            }
        }
        let engine = inside(|| open(shape.config, request(&shape, 0, 1, true, 0, &[]), keys, (1, 1)));
        let slots = usize::from(shape.config.slots);
        Self {
            keys,
            data_keys: (1, 1),
            shape,
            drives,
            memory: VecMemory::new(engine.memory_blocks()),
            memory_blocks: engine.memory_blocks(),
            engine,
            out: Actions::with_capacity(base::limits::MAX_POLL_ACTIONS, base::limits::MAX_POLL_SEGMENTS),
            now: 0,
            pending: VecDeque::new(),
            late: Vec::new(),
            given_up: Vec::new(),
            verdict: Box::new(|_| Verdict::Do),
            log: None,
            shuffle: false,
            random: 0x9e37_79b9_7f4a_7c15,
            asked: vec![None; slots],
            results: vec![None; slots],
            stamps: 0,
            model: HashMap::new(),
            maybe: HashMap::new(),
            failed: HashMap::new(),
            overtaken: HashMap::new(),
            unflushed: HashMap::new(),
            handles: (0..shape.drives()).collect(),
            places: (0..shape.drives()).collect(),
            next_extent: 1,
            extents: shape.rows,
            grants: VecDeque::new(),
            added: 0,
            adding: Vec::new(),
            bad_row: false,
            catalogue: Vec::new(),
            catalogue_silent: false,
            marks: Vec::new(),
            generation: 1,
            absent: 0,
            forced: false,
            create: true,
            polls: 0,
            forget_stale: false,
            no_catalogue: false,
            served: None,
            ids: 0,
        }
    }

    /// What was written since this was true is given up.
    pub fn forget_to(&mut self, model: HashMap<u64, u64>) {
        self.model = model;
        self.maybe.clear();
        self.failed.clear();
        self.unflushed.clear();
    }

    /// A random number.
    pub fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.random().is_multiple_of(n)
    }

    /// The process dies: what was in flight ends somehow, or not at all. Then a new one opens the group.
    pub fn kill_and_reopen(&mut self) {
        self.kill();
        self.reopen();
    }

    /// The process dies; nothing is lost that a drive has completed.
    pub fn kill(&mut self) {
        while let Some(pending) = self.pending.pop_front() {
            if pending.io.op == DriveOp::Write {
                let whole = self.one_in(2);
                self.transfer(&pending, !whole);
            }
        }
        self.forget();
    }

    /// The power is cut: drives lose what they like of what was not flushed.
    pub fn cut_power(&mut self) {
        self.lose_power(false);
    }

    /// Likewise; if `all` is so they lose all of it.
    pub fn lose_power(&mut self, all: bool) {
        self.kill();
        if all {
            self.drives.iter_mut().for_each(|drive| drive.cut(|| 0));
        }
        let mut random = self.random;
        for drive in &mut self.drives {
            drive.cut(|| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random
            });
        }
        self.random = random;
        for (sector, before) in core::mem::take(&mut self.unflushed) {
            self.maybe.entry(sector).or_default().extend(before.iter().map(|(_, value)| *value));
        }
    }

    fn forget(&mut self) {
        for (sector, values) in core::mem::take(&mut self.failed) {
            self.maybe.entry(sector).or_default().extend(values.iter().map(|(_, value)| *value));
        }
        for asked in self.asked.clone().iter().flatten() {
            for sector in self.concerned(asked) {
                self.maybe.entry(sector).or_default().extend(asked.leaves());
            }
        }
        self.asked.fill(None);
        self.results.fill(None);
        self.overtaken.clear();
        self.pending.clear();
        self.late.clear();
        self.given_up.clear();
    }

    /// Opens the group again, whatever happened; it must serve.
    pub fn reopen(&mut self) {
        let config = self.shape.config;
        self.open_with(config);
        assert_eq!(self.engine.phase(), Phase::Serving, "{:?}", self.engine.refusal());
    }

    /// Opens the group again and waits for the outcome.
    pub fn open_with(&mut self, config: Config) {
        assert!(self.pending.is_empty(), "a drive is still at work for the engine before");
        self.begin_open(config);
        self.run_until("the group is open or refused", |w| w.engine.phase() != Phase::Recovering);
    }

    /// Begins to open the group again.
    pub fn begin_open(&mut self, config: Config) {
        self.generation += 1;
        let (shape, generation, absent) = (self.shape, self.generation, self.absent);
        self.handles = (0..shape.drives() + self.added).filter(|d| is_there(absent, *d)).collect();
        let mut request = request(&shape, self.added, generation, self.create, absent, &self.catalogue);
        let at_hand: Vec<u8> = self.handles.clone();
        for (drive, candidate) in at_hand.into_iter().zip(&mut request.drives) {
            candidate.homes = self.homes_on(drive);
        }
        request.forced = self.forced;
        request.served = self.served;
        if self.no_catalogue {
            request.catalogue = None;
        }
        request.activation.id.0[0] ^= self.ids;
        let (keys, data) = (self.keys, self.data_keys);
        inside(|| self.engine = open(config, request, keys, data));
        let blocks = self.engine.memory_blocks();
        // What memory holds when an engine begins is anything.
        if self.memory_blocks != blocks {
            (self.memory, self.memory_blocks) = (VecMemory::new(blocks), blocks);
        }
    }

    /// Closes the group.
    pub fn close(&mut self) {
        inside(|| self.engine.close());
        self.run_until("the group is closed", |w| w.engine.phase() == Phase::Closed);
        assert!(self.pending.is_empty(), "a closed group has I/O in flight");
    }

    /// Steps until something is true; panics when the engine has nothing more to do before.
    pub fn run_until(&mut self, what: &str, end: impl Fn(&Self) -> bool) {
        let mut idle = 0;
        while !end(self) {
            idle = if self.step() { 0 } else { idle + 1 };
            assert!(
                idle < 1000,
                "nothing more happens, but not: {what}; {}; refused {:?}, drive operations {}",
                self.engine.unfinished(),
                self.engine.refusal(),
                self.pending.len()
            );
        }
    }

    /// Runs until the engine waits for nothing but time.
    pub fn settle(&mut self) {
        while self.step_to(self.now) {}
    }

    /// Whether the engine, once it has settled, waits for events or a later time only.
    pub fn is_quiet(&mut self) -> bool {
        self.settle();
        self.out.clear();
        let now = Instant::from_nanos(self.now);
        let deadline = inside(|| self.engine.poll(now, &mut self.memory, &mut self.out));
        assert!(self.out.actions.is_empty(), "an action after everything had settled");
        deadline.is_none_or(|at| at > now)
    }

    /// One poll, and some of what it asked for. False if nothing happened.
    pub fn step(&mut self) -> bool {
        self.step_to(u64::MAX)
    }

    /// One poll; if the engine only waits for time, time passes up to `latest`.
    fn step_to(&mut self, latest: u64) -> bool {
        self.out.clear();
        self.polls += 1;
        let now = Instant::from_nanos(self.now);
        let deadline = inside(|| self.engine.poll(now, &mut self.memory, &mut self.out));
        let mut happened = !self.out.actions.is_empty();
        self.take_actions();
        happened |= self.end_operations();
        match deadline.map(Instant::nanos) {
            // Asked to be called again at once: that is progress, but not for ever (`run_until` counts).
            Some(at) if at <= self.now => happened |= !self.polls.is_multiple_of(1024),
            Some(at) if !happened && at <= latest => {
                self.now = at;
                happened = true;
            }
            _ => {}
        }
        happened
    }

    fn take_actions(&mut self) {
        for i in 0..self.out.actions.len() {
            match self.out.actions[i] {
                Action::Complete { slot, result } => self.completed(slot, result),
                Action::WantRow { row } => self.answer_row(row),
                Action::StoreStale { .. } if self.forget_stale => {}
                Action::StoreStale { drives, version } => {
                    self.marks.push((drives, version));
                    if !self.catalogue_silent {
                        self.store_marks();
                    }
                }
                Action::StoreCurrent { .. } if self.catalogue_silent => {}
                Action::StoreCurrent { drive, version } => {
                    let state = CopyState::Current;
                    let drive = self.engine.drive(drive).expect("a drive of the table");
                    self.catalogue.retain(|entry| entry.drive != drive);
                    self.catalogue.push(CopyEntry { drive, state, version });
                    inside(|| self.engine.reply(Reply::CurrentStored { version }));
                }
                Action::GiveUp { drive } => self.give_up(drive),
                Action::Drive { token, drive, op, at, blocks, segments } => {
                    let drive = self.handles[usize::from(drive.get())];
                    let issued = self.drives[usize::from(drive)].now();
                    let io = DriveIo { drive, op, at: at.get(), blocks: blocks.get() };
                    let memory = self.out.memory(segments).to_vec();
                    self.pending.push_back(Pending { token, io, memory, issued });
                }
            }
        }
    }

    /// What is in flight on a drive is answered; writes keep what they carry, and land later (`land`).
    fn give_up(&mut self, number: DriveIx) {
        assert!(!self.given_up.contains(&number), "given up twice");
        self.given_up.push(number);
        let drive = self.handles[usize::from(number.get())];
        let all = core::mem::take(&mut self.pending).into_iter();
        let (gone, stay): (Vec<Pending>, _) = all.partition(|pending| pending.io.drive == drive);
        self.pending = stay.into();
        for pending in gone {
            match pending.io.op {
                DriveOp::Write => {
                    let segments = pending.memory.iter();
                    let blocks = segments.flat_map(|s| (0..s.blocks).map(|i| s.buf.plus(i)));
                    let content = blocks.map(|buf| *self.memory.block(buf)).collect();
                    self.late.push(Late { drive, at: pending.io.at, content });
                }
                // Whoever looks at the memory finds nothing of use.
                DriveOp::Read => {
                    for segment in &pending.memory {
                        self.memory.blocks_mut(segment.buf, segment.blocks).fill(0xdb);
                    }
                }
                DriveOp::Flush => {}
            }
            inside(|| self.engine.drive_done(pending.token, Err(Fault::Timeout)));
        }
    }

    /// The writes that were given up on a drive land, and nothing more of its former life will.
    pub fn land(&mut self, drive: u8) {
        for late in self.late.extract_if(.., |late| late.drive == drive) {
            for (i, block) in late.content.iter().enumerate() {
                self.drives[usize::from(drive)].write(late.at + i as u64, block, self.shape.volatile);
            }
        }
        for number in self.given_up.extract_if(.., |number| self.handles[usize::from(number.get())] == drive)
        {
            inside(|| self.engine.reply(Reply::Quiet { drive: number }));
        }
    }

    /// How many writes were given up on a drive and have not landed.
    pub fn late(&self, drive: u8) -> usize {
        self.late.iter().filter(|late| late.drive == drive).count()
    }

    fn answer_row(&mut self, wanted: base::RowNo) {
        let reply = if let Some(grant) = self.grants.pop_front() {
            Reply::Row(RowGrant { row: wanted, ..grant })
        } else if self.next_extent < self.extents {
            let mut extents = row(&self.shape, self.next_extent);
            for (extent, drive) in extents.iter_mut().zip(&self.places) {
                extent.drive = self.engine.index_of(uuid(*drive)).expect("a drive of the group");
            }
            let number = ExtentNo::new(self.next_extent);
            let (known, mut joining) = (self.engine.stats().expect("served").drives.len(), Vec::new());
            for drive in self.adding.clone() {
                let index = self.engine.index_of(uuid(drive)).unwrap_or_else(|| {
                    joining.push(self.drive(drive));
                    DriveIx::new((known + joining.len() - 1) as u8)
                });
                extents.push(Extent { drive: index, extent: number });
            }
            if self.bad_row {
                let last = *extents.last().expect("a leg");
                extents.fill(last);
            }
            self.next_extent += 1;
            Reply::Row(RowGrant { row: wanted, extents, joining })
        } else {
            Reply::NoRow
        };
        inside(|| self.engine.reply(reply));
    }

    /// The catalogue stores what it was asked to store, and says so.
    pub fn store_marks(&mut self) {
        for (drives, version) in core::mem::take(&mut self.marks) {
            for index in (0..32).filter(|d| drives >> d & 1 == 1).map(DriveIx::new) {
                let drive = self.engine.drive(index).expect("a drive of the table");
                self.catalogue.retain(|entry| entry.drive != drive);
                let (seq, ckpt) = self.engine.stale_since(index).unwrap_or_default();
                let state = CopyState::stale(seq, ckpt);
                self.catalogue.push(CopyEntry { drive, state, version });
            }
            inside(|| self.engine.reply(Reply::StaleStored { version }));
        }
    }

    /// Ends operations: all of them, or when shuffled one or two, any.
    fn end_operations(&mut self) -> bool {
        let count = self.pending.len();
        let most = if self.shuffle { count.min(1 + (self.random() % 3) as usize) } else { count };
        let mut ended = false;
        let mut later = Vec::new();
        for _ in 0..most {
            let pending = if self.shuffle {
                let at = self.random() as usize % self.pending.len();
                self.pending.swap_remove_back(at)
            } else {
                self.pending.pop_front()
            };
            let pending = pending.expect("in flight");
            let verdict = (self.verdict)(&pending.io);
            if verdict == Verdict::Later {
                later.push(pending);
                continue;
            }
            ended = true;
            if matches!(verdict, Verdict::Do | Verdict::DoAndFail) {
                self.transfer(&pending, false);
            }
            if verdict == Verdict::GiveUp {
                assert_eq!(pending.io.op, DriveOp::Flush);
                self.drives[usize::from(pending.io.drive)].give_up(pending.issued);
            }
            if let Some(log) = &mut self.log {
                log.push(pending.io);
            }
            let result = match verdict {
                Verdict::Do => Ok(()),
                Verdict::Silent => Err(Fault::Timeout),
                _ => Err(Fault::Medium),
            };
            inside(|| self.engine.drive_done(pending.token, result));
        }
        self.pending.extend(later);
        ended
    }

    /// Carries an operation out; a part of it if the process died meanwhile.
    fn transfer(&mut self, pending: &Pending, partly: bool) {
        let volatile = self.shape.volatile;
        let mut at = pending.io.at;
        if pending.io.op == DriveOp::Flush {
            return self.drives[usize::from(pending.io.drive)].flush(pending.issued);
        }
        for segment in &pending.memory {
            for i in 0..segment.blocks {
                let buf = segment.buf.plus(i);
                let skip = partly && self.one_in(2);
                let media = &mut self.drives[usize::from(pending.io.drive)];
                match pending.io.op {
                    _ if skip => {}
                    DriveOp::Write => media.write(at, self.memory.block(buf), volatile),
                    _ => media.read(at, self.memory.block_mut(buf)),
                }
                at += 1;
            }
        }
        assert_eq!(at, pending.io.at + pending.io.blocks);
    }

    // The guest.

    fn completed(&mut self, slot: SlotId, result: Result<(), Fault>) {
        let index = usize::from(slot.0);
        let asked = self.asked[index].take().expect("a completion for a request");
        match (asked.op, result) {
            (Op::Read, Ok(())) => self.check_read(slot, &asked),
            (Op::Flush, Ok(())) => self.flushed(asked.stamp),
            (_, Ok(())) => self.changed(&asked),
            (Op::Write | Op::Discard | Op::WriteZeroes, Err(Fault::Io)) => {
                // A write that failed may have been done in part, and a crash may even bring it back.
                self.stamps += 1;
                for sector in self.concerned(&asked) {
                    let leaves = asked.leaves().expect("it changes sectors");
                    self.maybe.entry(sector).or_default().push(leaves);
                    self.failed.entry(sector).or_default().push((self.stamps, leaves));
                }
            }
            _ => {}
        }
        self.results[index] = Some(result);
    }

    /// The sectors that a request may change; of a long one only those that are not zero anyway.
    fn concerned(&self, asked: &Asked) -> Vec<u64> {
        if asked.sectors <= 4096 {
            return asked.range().collect();
        }
        let mut sectors: Vec<u64> = self.model.keys().chain(self.maybe.keys()).copied().collect();
        sectors.retain(|sector| asked.range().contains(sector));
        sectors.sort_unstable();
        sectors.dedup();
        sectors
    }

    /// Reads everything that is not known to be zero since ever.
    pub fn check_written(&mut self) {
        let mut sectors: Vec<u64> = self.model.keys().chain(self.maybe.keys()).copied().collect();
        sectors.sort_unstable();
        let mut done = 0;
        for sector in sectors {
            if sector >= done {
                done = (sector + 512).min(self.shape.sectors);
                self.ask(Op::Read, sector, done - sector).expect("read");
            }
        }
    }

    fn changed(&mut self, asked: &Asked) {
        self.stamps += 1;
        let now = self.stamps;
        for sector in self.concerned(asked) {
            let mut before = self.maybe.remove(&sector).unwrap_or_default();
            before.push(self.model.get(&sector).copied().unwrap_or(0));
            for (slot, other) in self.asked.iter().enumerate() {
                if other.is_some_and(|a| a.op == Op::Read && a.range().contains(&sector)) {
                    self.overtaken.entry((slot as u16, sector)).or_default().extend(&before);
                }
            }
            if self.shape.volatile {
                let before = before.into_iter().map(|value| (now, value));
                self.unflushed.entry(sector).or_default().extend(before);
            }
            self.set(sector, asked.leaves().expect("it changes sectors"));
        }
        if asked.fua {
            self.flushed(asked.stamp);
            for sector in self.concerned(asked) {
                self.unflushed.remove(&sector);
            }
        }
    }

    fn set(&mut self, sector: u64, stamp: u64) {
        if stamp == 0 {
            self.model.remove(&sector);
        } else {
            self.model.insert(sector, stamp);
        }
    }

    /// A flush that was asked for with this stamp has ended: what was acknowledged before is safe.
    fn flushed(&mut self, stamp: u64) {
        for of in [&mut self.unflushed, &mut self.failed] {
            of.retain(|_, values| {
                values.retain(|(at, _)| *at > stamp);
                !values.is_empty()
            });
        }
    }

    /// Every sector of a read holds what the model says; sectors with a write in flight hold either.
    fn check_read(&mut self, slot: SlotId, asked: &Asked) {
        let buf = self.engine.slot_buffer(slot);
        let start = Sector::new(asked.sector).offset_in_block();
        for sector in asked.range() {
            let at = start + (sector - asked.sector) as usize * SECTOR_BYTES;
            let bytes = self.memory.blocks(buf, base::limits::SLOT_DATA_BLOCKS);
            let bytes = &bytes[at..at + SECTOR_BYTES];
            let stamp = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            assert!(bytes.chunks_exact(8).all(|c| c == &bytes[..8]), "sector {sector} is torn");
            let wanted = self.model.get(&sector).copied().unwrap_or(0);
            let overtaken = self.overtaken.remove(&(slot.0, sector)).unwrap_or_default();
            if stamp != wanted && (overtaken.contains(&stamp) || self.in_flight(sector, stamp)) {
                continue;
            }
            let others = self.maybe.remove(&sector).unwrap_or_default();
            assert!(
                stamp == wanted || others.contains(&stamp),
                "sector {sector} holds {stamp}, wanted is {wanted} or one of {others:?}"
            );
            if others.contains(&stamp) {
                self.set(sector, stamp);
            }
        }
    }

    fn in_flight(&self, sector: u64, stamp: u64) -> bool {
        let covers = |a: &&Asked| a.range().contains(&sector);
        self.asked.iter().flatten().filter(covers).any(|asked| asked.leaves() == Some(stamp))
    }

    /// Hands a request in, in a free slot.
    pub fn begin(&mut self, op: Op, sector: u64, sectors: u64, fua: bool) -> SlotId {
        let index = (0..self.asked.len())
            .find(|i| self.asked[*i].is_none() && self.results[*i].is_none())
            .expect("a free slot");
        let slot = SlotId(index as u16);
        self.stamps += 1;
        let stamp = self.stamps;
        if op == Op::Write {
            let buf = self.engine.slot_buffer(slot);
            let start = Sector::new(sector).offset_in_block();
            let bytes = self.memory.blocks_mut(buf, base::limits::SLOT_DATA_BLOCKS);
            for chunk in bytes[start..start + sectors as usize * SECTOR_BYTES].chunks_exact_mut(8) {
                chunk.copy_from_slice(&stamp.to_le_bytes());
            }
        }
        self.asked[index] = Some(Asked { op, sector, sectors, stamp, fua });
        let (sector, sectors) = (Sector::new(sector), Sectors::new(sectors));
        let request = Request { slot, op, sector, sectors, fua };
        inside(|| self.engine.submit(request));
        slot
    }

    /// How many requests are in flight.
    pub fn asked(&self) -> usize {
        self.asked.iter().flatten().count()
    }

    /// Whether a request has been answered.
    pub fn answered(&self, slot: SlotId) -> bool {
        self.results[usize::from(slot.0)].is_some()
    }

    /// Waits for the answer of a request.
    pub fn wait(&mut self, slot: SlotId) -> Result<(), Fault> {
        self.run_until("the request is answered", |w| w.answered(slot));
        self.results[usize::from(slot.0)].take().expect("answered")
    }

    /// Answers that came, in any order.
    pub fn take_answers(&mut self) -> Vec<Result<(), Fault>> {
        self.results.iter_mut().filter_map(Option::take).collect()
    }

    /// Waits for all answers.
    pub fn wait_all(&mut self) -> Vec<Result<(), Fault>> {
        self.run_until("all requests are answered", |w| w.asked() == 0);
        self.take_answers()
    }

    /// One request, answered.
    pub fn ask(&mut self, op: Op, sector: u64, sectors: u64) -> Result<(), Fault> {
        let slot = self.begin(op, sector, sectors, false);
        self.wait(slot)
    }

    /// A write of a fresh stamp.
    pub fn write(&mut self, sector: u64, sectors: u64) -> Result<(), Fault> {
        self.ask(Op::Write, sector, sectors)
    }

    /// A flush.
    pub fn flush(&mut self) -> Result<(), Fault> {
        self.ask(Op::Flush, 0, 0)
    }

    /// Reads everything and compares it with the model.
    pub fn check_all(&mut self) {
        self.check_range(0, self.shape.sectors);
    }

    /// Reads the sectors before `end` from `first` on, many requests at once, and compares them with the model.
    pub fn check_range(&mut self, first: u64, end: u64) {
        let step = 512;
        let slots = usize::from(self.shape.config.slots).min(16);
        for sector in (first..end).step_by(step) {
            self.begin(Op::Read, sector, (end - sector).min(step as u64), false);
            if self.asked() == slots {
                assert!(self.wait_all().iter().all(Result::is_ok), "a read fails near sector {sector}");
            }
        }
        assert!(self.wait_all().iter().all(Result::is_ok), "a read fails at the end");
    }

    /// Free blocks once nothing is in flight and everything is checkpointed and flushed.
    pub fn free_blocks(&self) -> u64 {
        self.engine.stats().expect("served").free_blocks
    }

    /// The logged operations, forgotten.
    pub fn take_log(&mut self) -> Vec<DriveIo> {
        self.log.replace(Vec::new()).expect("operations are logged")
    }

    /// A block of memory, for checks of what was read.
    pub fn block(&self, buf: BufId) -> &base::Block {
        self.memory.block(buf)
    }
}

/// Identity of a drive.
pub fn uuid(drive: u8) -> Uuid {
    Uuid([drive + 1; 16])
}

/// The extents of a row: the same number on every drive, each drive one place.
pub fn row(shape: &Shape, extent: u32) -> Vec<Extent> {
    let extent = ExtentNo::new(extent);
    (0..shape.drives()).map(|d| Extent { drive: DriveIx::new(d), extent }).collect()
}

/// The request to open the group.
/// Whether a drive is not among those that are not at hand.
fn is_there(absent: u32, drive: u8) -> bool {
    absent.checked_shr(u32::from(drive)).is_none_or(|absent| absent & 1 == 0)
}

pub fn request(
    shape: &Shape,
    added: u8,
    generation: u64,
    create: bool,
    absent: u32,
    catalogue: &[CopyEntry],
) -> OpenRequest {
    let candidate = |i: u8| Candidate {
        info: DriveInfo { uuid: uuid(i), blocks: Blocks::new(1 << 40), volatile: shape.volatile },
        homes: if i < shape.drives() { vec![ExtentNo::new(0)] } else { Vec::new() },
    };
    OpenRequest {
        group: Uuid([9; 16]),
        extent_blocks: shape.extent,
        drives: (0..shape.drives() + added).filter(|i| is_there(absent, *i)).map(candidate).collect(),
        catalogue: Some(catalogue.to_vec()),
        forced: false,
        served: None,
        activation: Activation {
            generation: Gen::new(generation),
            id: Uuid([generation as u8; 16]),
            salt: u128::from(generation).to_le_bytes(),
        },
        create: create.then_some(NewVolume { uuid: Uuid([7; 16]), sectors: Sectors::new(shape.sectors) }),
    }
}
