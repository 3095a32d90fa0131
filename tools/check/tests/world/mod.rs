//! A group on drives in memory, served by the real engine: what the check is tried on.
//!
//! Every operation ends at once. A crash takes back, sector by sector and at random, what a drive was given since
//! its last flush.
#![allow(dead_code, reason = "each test takes what it needs")]
use base::{
    Action, Actions, BLOCK_BYTES, Block, Blocks, Check, DriveBlock, DriveIx, DriveOp, Engine, Extent,
    ExtentNo, Fault, Gen, Instant, Memory, Op, Phase, Reply, Request, RowGrant, SECTOR_BYTES, Sector,
    Sectors, SlotId, Uuid, VecMemory,
};
use plinth_check::{Keyring, Media, MemoryMedia, NoKeys, Options, Report, fsck_with_keys, inspect_with_keys};
use volume::label::places;
use volume::{
    Activation, Candidate, Config, DriveInfo, Geometry, Label, NewVolume, OpenRequest, Volume, create,
};

pub mod image;
pub mod keys;

/// Blocks of an extent.
pub const EXTENT: u32 = 256;
/// Extents of every drive.
pub const EXTENTS: u32 = 16;
/// Sectors of the volume.
pub const SECTORS: u64 = 16_384;
pub const GROUP: Uuid = Uuid([9; 16]);
pub const POOL: Uuid = Uuid([8; 16]);

/// A small generator of numbers.
pub struct Rng(pub u64);

impl Rng {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// The drives of a group: `legs * columns`, each with a label.
#[derive(Clone, PartialEq, Eq)]
pub struct Drives {
    pub legs: u8,
    pub columns: u8,
    pub media: Vec<MemoryMedia>,
    /// Extents that are handed out, the same on each drive.
    pub extents: u32,
    pub generation: u64,
    /// The groups on them are encrypted.
    pub encrypted: bool,
}

pub struct World {
    pub drives: Drives,
    pub engine: Volume,
    memory: VecMemory,
    out: Actions,
    now: u64,
    done: Vec<(SlotId, Result<(), Fault>)>,
    /// Per drive, what was there before each write since the last flush.
    unflushed: Vec<Vec<(u64, Box<Block>)>>,
}

pub fn uuid(drive: usize) -> Uuid {
    Uuid([drive as u8 + 1; 16])
}

fn config() -> Config {
    Config {
        slots: 8,
        cache_pages: 256,
        delta_entries: 512,
        loaded_regions: 16,
        max_rows: 64,
        ..Config::SERVED
    }
}

impl Drives {
    /// Drives with labels and a new group.
    pub fn new(legs: u8, columns: u8) -> Self {
        Self::labelled(legs, columns, false)
    }

    /// Drives with labels and a new group that is encrypted.
    pub fn encrypted(legs: u8, columns: u8) -> Self {
        Self::labelled(legs, columns, true)
    }

    fn labelled(legs: u8, columns: u8, encrypted: bool) -> Self {
        let count = legs * columns;
        let blocks = 512 + u64::from(EXTENTS * EXTENT);
        let mut drives = Self {
            legs,
            columns,
            media: vec![MemoryMedia { blocks, ..MemoryMedia::default() }; usize::from(count)],
            extents: 1,
            generation: 0,
            encrypted,
        };
        for index in 0..usize::from(count) {
            let label = Label {
                pool: POOL,
                pool_name: "tank".into(),
                drive: uuid(index),
                blocks: Blocks::new(blocks),
                extent_blocks: EXTENT,
                written: 1,
                node: "n1".into(),
                rack: String::new(),
                zone: String::new(),
                class: String::new(),
            };
            for (copy, at) in places(Blocks::new(blocks)).iter().enumerate() {
                drives.put(index, at.get(), &label.encode(copy as u8));
            }
        }
        let ring = if columns == 1 { 64 } else { 48 };
        let new = create::NewGroup {
            pool: POOL,
            group: GROUP,
            geometry: Geometry::new(legs, columns, 8, EXTENT, ring),
            drives: (0..usize::from(count)).map(uuid).collect(),
            home: row(count, 0),
        };
        drives.make(&new);
        drives
    }

    /// Writes a new group.
    pub fn make(&mut self, new: &create::NewGroup) {
        let plan =
            if self.encrypted { create::plan_encrypted(new, keys::right()) } else { create::plan(new) };
        for (drive, at, block) in plan.expect("a possible shape").into_iter().flatten() {
            self.put(usize::from(drive.get()), at.get(), &block);
        }
    }

    pub fn put(&mut self, drive: usize, at: u64, block: &Block) {
        self.media[drive].content.insert(at, Box::new(*block));
    }

    pub fn get(&self, drive: usize, at: u64) -> Box<Block> {
        self.media[drive].read(DriveBlock::new(at)).expect("inside the drive")
    }

    /// Checks the drives as they are, with the keys if the groups have any.
    pub fn fsck(&self) -> Report {
        if self.encrypted { self.fsck_with(&keys::Right) } else { self.fsck_with(&NoKeys) }
    }

    pub fn fsck_with(&self, keys: &dyn Keyring) -> Report {
        self.given(|given| fsck_with_keys(given, &Options::default(), keys))
    }

    /// Shows the drives as they are, with the keys if the groups have any.
    pub fn inspect(&self) -> serde_json::Value {
        let keys: &dyn Keyring = if self.encrypted { &keys::Right } else { &NoKeys };
        self.given(|given| inspect_with_keys(given, keys))
    }

    /// The drives with the names that findings use.
    pub fn given<T>(&self, with: impl FnOnce(&[(&str, &dyn Media)]) -> T) -> T {
        let names: Vec<String> = (0..self.media.len()).map(|i| format!("d{i}")).collect();
        let given: Vec<(&str, &dyn Media)> =
            names.iter().zip(&self.media).map(|(name, media)| (name.as_str(), media as &dyn Media)).collect();
        with(&given)
    }

    /// Asserts that there is nothing but notes.
    pub fn assert_clean(&self, when: &str) -> Report {
        let report = self.fsck();
        let problems: Vec<String> = report.problems().map(ToString::to_string).collect();
        assert!(report.is_clean(), "{when}: {problems:#?}");
        if self.encrypted {
            let without: Vec<_> = self.fsck_with(&NoKeys).findings;
            let worse = |one: &&plinth_check::Finding| one.severity > plinth_check::Severity::Note;
            let worse: Vec<_> = without.iter().filter(worse).collect();
            assert!(worse.is_empty(), "{when}, without keys: {worse:#?}");
        }
        report
    }
}

pub fn row(drives: u8, extent: u32) -> Vec<Extent> {
    (0..drives).map(|d| Extent { drive: DriveIx::new(d), extent: ExtentNo::new(extent) }).collect()
}

impl World {
    /// Serves the group; makes its volume if there is none yet.
    pub fn open(mut drives: Drives) -> Self {
        drives.generation += 1;
        let candidate = |i: usize| Candidate {
            info: DriveInfo { uuid: uuid(i), blocks: Blocks::new(drives.media[i].blocks), volatile: true },
            homes: vec![ExtentNo::ZERO],
        };
        let request = OpenRequest {
            group: GROUP,
            extent_blocks: EXTENT,
            drives: (0..drives.media.len()).map(candidate).collect(),
            catalogue: Some(Vec::new()),
            forced: false,
            served: None,
            activation: Activation {
                generation: Gen::new(drives.generation),
                id: Uuid([drives.generation as u8; 16]),
                salt: if drives.encrypted { [drives.generation as u8 + 0x80; 16] } else { [0; 16] },
            },
            create: Some(NewVolume { uuid: Uuid([7; 16]), sectors: Sectors::new(SECTORS) }),
        };
        let engine = if drives.encrypted {
            Volume::open_encrypted(config(), request, keys::right())
        } else {
            Volume::open(config(), request)
        };
        let memory = VecMemory::new(engine.memory_blocks());
        let out = Actions::with_capacity(base::limits::MAX_POLL_ACTIONS, base::limits::MAX_POLL_SEGMENTS);
        let unflushed = vec![Vec::new(); drives.media.len()];
        Self { drives, engine, memory, out, now: 0, done: Vec::new(), unflushed }
    }

    /// Opens and waits until the group is served.
    pub fn serve(drives: Drives) -> Self {
        let mut world = Self::open(drives);
        world.run_until(|w| w.engine.phase() != Phase::Recovering);
        assert_eq!(world.engine.phase(), Phase::Serving, "{:?}", world.engine.refusal());
        world
    }

    /// Closes the group.
    pub fn close(mut self) -> Drives {
        self.engine.close();
        self.run_until(|w| w.engine.phase() == Phase::Closed);
        self.drives
    }

    /// The power fails: of what was not flushed, some sectors are there and some are not.
    pub fn crash(mut self, rng: &mut Rng) -> Drives {
        for (drive, writes) in self.unflushed.iter().enumerate() {
            let keep = rng.below(3);
            for (at, before) in writes.iter().rev() {
                let block = self.drives.media[drive].content.get_mut(at).expect("written");
                let fate = if keep == 0 { 0 } else { rng.below(4) };
                for sector in 0..BLOCK_BYTES / SECTOR_BYTES {
                    if fate == 1 || (fate == 2 && rng.below(2) == 0) {
                        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                        block[range.clone()].copy_from_slice(&before[range]);
                    }
                }
            }
        }
        self.drives
    }

    /// The process ends; the drives keep everything.
    pub fn kill(self) -> Drives {
        self.drives
    }

    pub fn run_until(&mut self, end: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if end(self) {
                return;
            }
            self.step();
        }
        panic!("nothing more happens");
    }

    pub fn step(&mut self) {
        self.out.clear();
        let deadline = self.engine.poll(Instant::from_nanos(self.now), &mut self.memory, &mut self.out);
        if self.out.actions.is_empty() {
            self.now = self.now.max(deadline.map_or(self.now, Instant::nanos));
        }
        for action in self.out.actions.clone() {
            match action {
                Action::Complete { slot, result } => self.done.push((slot, result)),
                Action::WantRow { row: no } if self.drives.extents < EXTENTS => {
                    let extents = row(self.drives.media.len() as u8, self.drives.extents);
                    self.drives.extents += 1;
                    self.engine.reply(Reply::Row(RowGrant { row: no, extents, joining: Vec::new() }));
                }
                Action::WantRow { .. } => self.engine.reply(Reply::NoRow),
                Action::StoreStale { version, .. } => self.engine.reply(Reply::StaleStored { version }),
                Action::StoreCurrent { version, .. } => self.engine.reply(Reply::CurrentStored { version }),
                Action::GiveUp { drive } => unreachable!("drive {drive} answers at once"),
                Action::Drive { token, drive, op, at, segments, .. } => {
                    self.transfer(usize::from(drive.get()), op, at.get(), self.out.memory(segments).to_vec());
                    self.engine.drive_done(token, Ok(()));
                }
            }
        }
    }

    fn transfer(&mut self, drive: usize, op: DriveOp, mut at: u64, memory: Vec<base::Segment>) {
        if op == DriveOp::Flush {
            return self.unflushed[drive].clear();
        }
        for buf in memory.iter().flat_map(|segment| (0..segment.blocks).map(|i| segment.buf.plus(i))) {
            if op == DriveOp::Write {
                self.unflushed[drive].push((at, self.drives.get(drive, at)));
                self.drives.put(drive, at, self.memory.block(buf));
            } else {
                *self.memory.block_mut(buf) = *self.drives.get(drive, at);
            }
            at += 1;
        }
    }

    /// Hands a request in.
    pub fn submit(&mut self, slot: u16, op: Op, sector: u64, sectors: u64) {
        let (sector, sectors) = (Sector::new(sector), Sectors::new(sectors));
        self.engine.submit(Request { slot: SlotId(slot), op, sector, sectors, fua: false });
    }

    /// Serves one request.
    pub fn ask(&mut self, op: Op, sector: u64, sectors: u64) {
        self.submit(0, op, sector, sectors);
        self.done.clear();
        self.run_until(|w| !w.done.is_empty());
        self.done[0].1.expect("served");
    }

    /// Writes a pattern whose blocks are mostly zero.
    pub fn write(&mut self, sector: u64, sectors: u64, stamp: u64) {
        self.fill(0, sector, sectors, stamp);
        self.ask(Op::Write, sector, sectors);
    }

    /// Puts the pattern of a write into a slot's buffer.
    pub fn fill(&mut self, slot: u16, sector: u64, sectors: u64, stamp: u64) {
        let buf = self.engine.slot_buffer(SlotId(slot));
        let start = Sector::new(sector).offset_in_block();
        let bytes = &mut self.memory.blocks_mut(buf, base::limits::SLOT_DATA_BLOCKS)[start..];
        for (i, bytes) in bytes.chunks_exact_mut(SECTOR_BYTES).take(sectors as usize).enumerate() {
            bytes.fill(0);
            bytes[..8].copy_from_slice(&(sector + i as u64).to_le_bytes());
            bytes[8..16].copy_from_slice(&stamp.to_le_bytes());
        }
    }

    /// The check of the volume's whole content.
    pub fn content(&mut self) -> Check {
        let mut all = Vec::with_capacity(SECTORS as usize * SECTOR_BYTES);
        for sector in (0..SECTORS).step_by(64) {
            self.ask(Op::Read, sector, 64);
            let buf = self.engine.slot_buffer(SlotId(0));
            all.extend_from_slice(&self.memory.blocks(buf, 8)[..64 * SECTOR_BYTES]);
        }
        Check::of(&all)
    }

    /// A workload of so many requests.
    pub fn work(&mut self, rng: &mut Rng, requests: u64) {
        for _ in 0..requests {
            let sectors = 1 + rng.below(60);
            let sector = rng.below(SECTORS - sectors);
            match rng.below(12) {
                0..=7 => {
                    let stamp = rng.below(1 << 40);
                    self.write(sector, sectors, stamp);
                }
                8 => self.ask(Op::WriteZeroes, sector, sectors),
                9 => self.ask(Op::Discard, sector, (SECTORS - sector).min(sectors * 40)),
                10 => self.ask(Op::Flush, 0, 0),
                _ => self.ask(Op::Read, sector, sectors),
            }
        }
    }
}
