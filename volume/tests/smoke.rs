//! A group from its creation through writes, checkpoints and a crash, on drives that do what they are told.
use base::{
    Action, Actions, BLOCK_BYTES, Blocks, Column, DriveIx, DriveOp, Engine, Extent, ExtentNo, Fault, Gen,
    Instant, LegId, Memory, Op, Phase, Reply, Request, RowGrant, Sector, Sectors, SlotId, Uuid, VecMemory,
};
use std::collections::HashMap;
use volume::{Activation, Candidate, Config, DriveInfo, Geometry, NewVolume, OpenRequest, Volume, create};

const EXTENT: u32 = 256;

struct World {
    drives: Vec<HashMap<u64, [u8; BLOCK_BYTES]>>,
    engine: Volume,
    memory: VecMemory,
    out: Actions,
    now: u64,
    done: Vec<(SlotId, Result<(), Fault>)>,
    next_extent: u32,
    extents: u32,
    writes: u64,
    generation: u64,
}

fn config() -> Config {
    Config {
        slots: 32,
        cache_pages: 128,
        delta_entries: 512,
        loaded_regions: 16,
        max_rows: 64,
        ..Config::SERVED
    }
}

fn request(generation: u64, create: bool, legs: u8) -> OpenRequest {
    let candidate = |i: u8| Candidate {
        info: DriveInfo { uuid: Uuid([i + 1; 16]), blocks: Blocks::new(1 << 20), volatile: true },
        homes: vec![ExtentNo::new(0)],
    };
    OpenRequest {
        group: Uuid([9; 16]),
        extent_blocks: EXTENT,
        drives: (0..legs).map(candidate).collect(),
        catalogue: Some(Vec::new()),
        forced: false,
        activation: Activation {
            generation: Gen::new(generation),
            id: Uuid([generation as u8; 16]),
            salt: [0; 16],
        },
        create: create.then_some(NewVolume { uuid: Uuid([7; 16]), sectors: Sectors::new(16384) }),
    }
}

impl World {
    fn new(legs: u8) -> Self {
        let home: Vec<Extent> =
            (0..legs).map(|d| Extent { drive: DriveIx::new(d), extent: ExtentNo::new(0) }).collect();
        let new = create::NewGroup {
            pool: Uuid([8; 16]),
            group: Uuid([9; 16]),
            geometry: Geometry::new(legs, 1, 8, EXTENT, 64),
            drives: (0..legs).map(|i| Uuid([i + 1; 16])).collect(),
            home,
        };
        let mut drives = vec![HashMap::new(); usize::from(legs)];
        for phase in create::plan(&new).expect("a possible shape") {
            for (drive, at, block) in phase {
                drives[usize::from(drive.get())].insert(at.get(), *block);
            }
        }
        let engine = Volume::open(config(), request(1, true, legs));
        let memory = VecMemory::new(engine.memory_blocks());
        let out = Actions::with_capacity(base::limits::MAX_POLL_ACTIONS, base::limits::MAX_POLL_SEGMENTS);
        let extents = 30;
        let mut world = Self {
            drives,
            engine,
            memory,
            out,
            now: 0,
            done: Vec::new(),
            next_extent: 1,
            extents,
            writes: 0,
            generation: 1,
        };
        world.run_until(|w| w.engine.phase() == Phase::Serving);
        world
    }

    fn reopen(&mut self) {
        self.generation += 1;
        self.engine = Volume::open(config(), request(self.generation, false, self.drives.len() as u8));
        self.run_until(|w| w.engine.phase() != Phase::Recovering);
        assert_eq!(self.engine.phase(), Phase::Serving, "{:?}", self.engine.refusal());
    }

    fn run_until(&mut self, end: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if end(self) {
                return;
            }
            self.step();
        }
        panic!("nothing more happens");
    }

    fn step(&mut self) {
        self.out.clear();
        let deadline = self.engine.poll(Instant::from_nanos(self.now), &mut self.memory, &mut self.out);
        if self.out.actions.is_empty() {
            self.now = self.now.max(deadline.map_or(self.now, Instant::nanos));
        }
        let actions = self.out.actions.clone();
        for action in actions {
            match action {
                Action::Complete { slot, result } => self.done.push((slot, result)),
                Action::WantRow { row } if self.next_extent < self.extents => {
                    let legs = self.drives.len() as u8;
                    let extent = ExtentNo::new(self.next_extent);
                    self.next_extent += 1;
                    let extents = (0..legs).map(|d| Extent { drive: DriveIx::new(d), extent }).collect();
                    self.engine.reply(Reply::Row(RowGrant { row, extents }));
                }
                Action::WantRow { .. } => self.engine.reply(Reply::NoRow),
                Action::StoreStale { version, .. } => self.engine.reply(Reply::StaleStored { version }),
                Action::Drive { token, drive, op, at, segments, .. } => {
                    let memory = self.out.memory(segments).to_vec();
                    let media = &mut self.drives[usize::from(drive.get())];
                    let mut at = at.get();
                    for segment in memory {
                        for i in 0..segment.blocks {
                            let buf = segment.buf.plus(i);
                            if op == DriveOp::Write {
                                self.writes += 1;
                                media.insert(at, *self.memory.block(buf));
                            } else {
                                *self.memory.block_mut(buf) =
                                    media.get(&at).copied().unwrap_or([0; BLOCK_BYTES]);
                            }
                            at += 1;
                        }
                    }
                    self.engine.drive_done(token, Ok(()));
                }
            }
        }
    }

    fn ask(&mut self, op: Op, sector: u64, sectors: u64) -> Result<(), Fault> {
        let request = Request {
            slot: SlotId(0),
            op,
            sector: Sector::new(sector),
            sectors: Sectors::new(sectors),
            fua: false,
        };
        self.engine.submit(request);
        self.done.clear();
        self.run_until(|w| !w.done.is_empty());
        self.done[0].1
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> Result<(), Fault> {
        let buf = self.engine.slot_buffer(SlotId(0));
        let start = Sector::new(sector).offset_in_block();
        self.memory.blocks_mut(buf, 65)[start..start + data.len()].copy_from_slice(data);
        self.ask(Op::Write, sector, data.len() as u64 / 512)
    }

    fn read(&mut self, sector: u64, sectors: u64) -> Result<Vec<u8>, Fault> {
        self.ask(Op::Read, sector, sectors)?;
        let buf = self.engine.slot_buffer(SlotId(0));
        let start = Sector::new(sector).offset_in_block();
        Ok(self.memory.blocks(buf, 65)[start..start + sectors as usize * 512].to_vec())
    }
}

#[test]
fn a_mirror_keeps_what_is_written_over_checkpoints_and_crashes() {
    let mut world = World::new(2);
    let mut model = vec![0u8; 16384 * 512];
    let mut rng = 12345u64;
    let mut next = || {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        rng
    };
    for round in 0..3000u64 {
        let sector = next() % 16300;
        let sectors = 1 + next() % 60;
        let range = sector as usize * 512..(sector + sectors) as usize * 512;
        match next() % 10 {
            0..=5 => {
                let data: Vec<u8> = (0..sectors * 512).map(|i| (round + i / 512) as u8).collect();
                world.write(sector, &data).expect("written");
                model[range].copy_from_slice(&data);
            }
            6 => {
                world.ask(Op::WriteZeroes, sector, sectors).expect("zeroed");
                model[range].fill(0);
            }
            7 => world.ask(Op::Flush, 0, 0).expect("flushed"),
            _ => assert_eq!(world.read(sector, sectors).expect("read"), model[range], "round {round}"),
        }
        if round % 500 == 499 {
            world.reopen();
        }
    }
    let stats = world.engine.stats().expect("served");
    assert!(stats.checkpoint > 20, "{stats:?}");
    world.engine.close();
    world.run_until(|w| w.engine.phase() == Phase::Closed);
    world.reopen();
    for sector in (0..16384).step_by(64) {
        let range = sector as usize * 512..(sector as usize + 64) * 512;
        assert_eq!(world.read(sector, 64).expect("read"), model[range], "sector {sector}");
    }
    let _ = (Column::ZERO, LegId::ZERO);
}
