//! A group on null drives: what the engine itself costs.
//!
//! Drives keep what recovery and the map need (everything below the data of guests) and forget the rest; every
//! operation completes at once. What is measured is therefore the engine: look-ups, checks, space, commits.
use base::{
    Action, Actions, BLOCK_BYTES, Blocks, Ciphers, DriveIx, DriveOp, Engine, Extent, ExtentNo, Fault, Gen,
    Instant, KEY_BYTES, Memory, Op, Phase, Reply, Request, RowGrant, Sector, Sectors, SlotId, Uuid,
    VecMemory, limits,
};
use std::collections::HashMap;
use volume::keys::GroupKeys;
use volume::{Activation, Candidate, Config, DriveInfo, Geometry, NewVolume, OpenRequest, Volume, create};

/// Blocks of an extent: 64 MiB, as in production.
const EXTENT: u32 = 16_384;

/// A served group whose drives are memory.
pub struct NullGroup {
    engine: Volume,
    memory: VecMemory,
    out: Actions,
    drives: Vec<HashMap<u64, Box<[u8; BLOCK_BYTES]>>>,
    now: u64,
    next_extent: u32,
    completed: u32,
    /// Drive operations carried out, by kind: reads, writes, flushes.
    pub ops: [u64; 3],
    /// Blocks written to drives.
    pub written: u64,
}

impl NullGroup {
    /// A group with so many legs and a volume of so many MiB, mapped in full.
    pub fn new(legs: u8, mebibytes: u64) -> Self {
        Self::open(legs, mebibytes, None)
    }

    /// The same, encrypted with these ciphers.
    pub fn encrypted<C: Ciphers + Clone + 'static>(legs: u8, mebibytes: u64, ciphers: &C) -> Self {
        let keys = || GroupKeys {
            data: vec![(1, [1; KEY_BYTES].into())],
            metadata: [2; KEY_BYTES].into(),
            ciphers: Box::new(ciphers.clone()),
        };
        Self::open(legs, mebibytes, Some((keys(), keys())))
    }

    /// With keys to make it and keys to serve it.
    fn open(legs: u8, mebibytes: u64, keys: Option<(GroupKeys, GroupKeys)>) -> Self {
        let (making, serving) = keys.unzip();
        let uuid = |i: u8| Uuid([i + 1; 16]);
        let home: Vec<Extent> =
            (0..legs).map(|d| Extent { drive: DriveIx::new(d), extent: ExtentNo::ZERO }).collect();
        let geometry = Geometry::new(legs, 1, 16, EXTENT, Geometry::default_ring(1, EXTENT));
        let group = Uuid([9; 16]);
        let new = create::NewGroup {
            pool: Uuid([8; 16]),
            group,
            geometry,
            drives: (0..legs).map(uuid).collect(),
            home,
        };
        let mut drives = vec![HashMap::new(); usize::from(legs)];
        let phases = match making {
            Some(keys) => create::plan_encrypted(&new, keys),
            None => create::plan(&new),
        };
        for phase in phases.expect("a possible shape") {
            for (drive, at, block) in phase {
                drives[usize::from(drive.get())].insert(at.get(), block);
            }
        }
        let blocks = Blocks::new(1 << 30);
        let candidate = |i: u8| Candidate {
            info: DriveInfo { uuid: uuid(i), blocks, volatile: true },
            homes: vec![ExtentNo::ZERO],
        };
        let request = OpenRequest {
            group,
            extent_blocks: EXTENT,
            drives: (0..legs).map(candidate).collect(),
            catalogue: Some(Vec::new()),
            forced: false,
            served: None,
            activation: Activation { generation: Gen::new(1), id: Uuid([1; 16]), salt: [0; 16] },
            create: Some(NewVolume { uuid: Uuid([7; 16]), sectors: Sectors::new(mebibytes * 2048) }),
        };
        let engine = match serving {
            Some(keys) => Volume::open_encrypted(Config::SERVED, request, keys),
            None => Volume::open(Config::SERVED, request),
        };
        let memory = VecMemory::new(engine.memory_blocks());
        let out = Actions::with_capacity(limits::MAX_POLL_ACTIONS, limits::MAX_POLL_SEGMENTS);
        let (ops, written) = ([0; 3], 0);
        let mut this =
            Self { engine, memory, out, drives, now: 0, next_extent: 1, completed: 0, ops, written };
        while this.engine.phase() != Phase::Serving {
            this.turn();
        }
        for at in (0..mebibytes * 2048).step_by(512) {
            this.round(Op::Write, 1, 512, |_| at);
        }
        this
    }

    /// Hands in `count` requests of `sectors` at the places that `place` names, and runs until all are complete.
    pub fn round(&mut self, op: Op, count: u16, sectors: u64, mut place: impl FnMut(u16) -> u64) {
        for slot in 0..count {
            let sector = Sector::new(place(slot));
            let sectors = Sectors::new(sectors);
            self.engine.submit(Request { slot: SlotId(slot), op, sector, sectors, fua: false });
        }
        self.completed = 0;
        while self.completed < u32::from(count) {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.out.clear();
        self.now += 1_000;
        self.engine.poll(Instant::from_nanos(self.now), &mut self.memory, &mut self.out);
        let out = std::mem::replace(&mut self.out, Actions::with_capacity(0, 0));
        for action in &out.actions {
            self.carry_out(action, &out);
        }
        self.out = out;
    }

    fn carry_out(&mut self, action: &Action, out: &Actions) {
        match *action {
            Action::Complete { result, .. } => {
                assert_eq!(result, Ok::<(), Fault>(()));
                self.completed += 1;
            }
            Action::WantRow { row } => {
                let extent = ExtentNo::new(self.next_extent);
                self.next_extent += 1;
                let legs = self.drives.len() as u8;
                let extents = (0..legs).map(|d| Extent { drive: DriveIx::new(d), extent }).collect();
                self.engine.reply(Reply::Row(RowGrant { row, extents, joining: Vec::new() }));
            }
            Action::StoreStale { version, .. } => self.engine.reply(Reply::StaleStored { version }),
            Action::StoreCurrent { version, .. } => self.engine.reply(Reply::CurrentStored { version }),
            Action::GiveUp { drive } => unreachable!("drive {drive} answers at once"),
            Action::Drive { token, drive, op, at, blocks, segments } => {
                self.ops[op as usize] += 1;
                let media = &mut self.drives[usize::from(drive.get())];
                let mut at = at.get();
                for segment in out.memory(segments) {
                    for i in 0..segment.blocks {
                        let buf = segment.buf.plus(i);
                        if op == DriveOp::Write {
                            self.written += 1;
                            let block = media.entry(at).or_insert_with(|| Box::new([0; BLOCK_BYTES]));
                            block.copy_from_slice(self.memory.block(buf));
                        } else if let Some(block) = media.get(&at) {
                            self.memory.block_mut(buf).copy_from_slice(&block[..]);
                        }
                        at += 1;
                    }
                }
                let _ = blocks;
                self.engine.drive_done(token, Ok(()));
            }
        }
    }
}
