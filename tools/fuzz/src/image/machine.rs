//! The engine over drives in memory: what it asks for is done at once and in order, and if it does not come to rest
//! within a bound of steps, that is said instead of waiting for ever.
use base::limits::{MAX_POLL_ACTIONS, MAX_POLL_SEGMENTS, SLOT_DATA_BLOCKS};
use base::{
    Action, Actions, BLOCK_BYTES, Block, DriveBlock, DriveOp, Engine, Fault, Instant, IoToken, Lba, Memory,
    Op, Phase, Reply, Request, RowGrant, SECTORS_PER_BLOCK, Sector, Sectors, Segment, SlotId, VecMemory,
};
use plinth_check::{Media, MemoryMedia};
use std::collections::VecDeque;
use volume::keys::GroupKeys;
use volume::{Config, OpenRequest, Volume};

/// Steps that opening, one request or closing may take.
const MAX_STEPS: u64 = 200_000;

/// The engine does not come to rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck(pub String);

/// A drive in memory that the engine writes to.
pub trait Drive: Media {
    /// Puts a block in its place, which is inside the drive.
    fn write(&mut self, at: DriveBlock, block: &Block);
    /// Everything that was written is safe.
    fn flush(&mut self);
}

impl Drive for MemoryMedia {
    fn write(&mut self, at: DriveBlock, block: &Block) {
        self.content.insert(at.get(), Box::new(*block));
    }
    fn flush(&mut self) {}
}

/// An engine and its drives.
pub struct Machine<D = MemoryMedia> {
    /// The drives, by their place in the open request.
    pub drives: Vec<D>,
    engine: Volume,
    memory: VecMemory,
    out: Actions,
    now: u64,
    ended: VecDeque<(IoToken, Result<(), Fault>)>,
    answered: Vec<Option<Result<(), Fault>>>,
    /// Rows that the pool has left: the same extent of every drive, in the order of the drive table.
    grants: VecDeque<Vec<base::Extent>>,
}

impl<D: Drive> Machine<D> {
    /// Begins to open a group on these drives.
    pub fn new(
        drives: Vec<D>,
        config: Config,
        request: OpenRequest,
        grants: VecDeque<Vec<base::Extent>>,
    ) -> Self {
        Self::with_keys(drives, config, request, grants, None)
    }

    /// The same, of a group that is encrypted if there are keys.
    pub fn with_keys(
        drives: Vec<D>,
        config: Config,
        request: OpenRequest,
        grants: VecDeque<Vec<base::Extent>>,
        keys: Option<GroupKeys>,
    ) -> Self {
        let engine = match keys {
            Some(keys) => Volume::open_encrypted(config, request, keys),
            None => Volume::open(config, request),
        };
        Self {
            drives,
            memory: VecMemory::new(engine.memory_blocks()),
            engine,
            out: Actions::with_capacity(MAX_POLL_ACTIONS, MAX_POLL_SEGMENTS),
            now: 0,
            ended: VecDeque::new(),
            answered: vec![None; usize::from(config.slots)],
            grants,
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Volume {
        &self.engine
    }

    /// Rows that are left.
    pub fn grants(&self) -> &VecDeque<Vec<base::Extent>> {
        &self.grants
    }

    /// Waits until the group is open or refused.
    ///
    /// # Errors
    /// `Stuck`.
    pub fn wait_open(&mut self) -> Result<Phase, Stuck> {
        self.run("open", |machine| machine.engine.phase() != Phase::Recovering)?;
        Ok(self.engine.phase())
    }

    /// Goes on opening for some steps, or until the group is open or refused: a process that ends in the middle of it.
    pub fn open_a_little(&mut self, steps: u64) {
        for _ in 0..steps {
            if self.engine.phase() != Phase::Recovering || !self.step() {
                break;
            }
        }
    }

    /// Closes the group; whether it was closed.
    ///
    /// # Errors
    /// `Stuck`.
    pub fn close(&mut self) -> Result<bool, Stuck> {
        self.engine.close();
        self.run("close", |machine| {
            machine.engine.phase() == Phase::Closed || machine.engine.halted().is_some()
        })?;
        Ok(self.engine.phase() == Phase::Closed)
    }

    /// One request of whole blocks.
    ///
    /// # Errors
    /// `Stuck`.
    pub fn ask(&mut self, op: Op, lba: Lba, blocks: u32) -> Result<Result<(), Fault>, Stuck> {
        let slot = SlotId(0);
        self.answered[0] = None;
        let sector = Sector::new(lba.get() * SECTORS_PER_BLOCK);
        let sectors = Sectors::new(u64::from(blocks) * SECTORS_PER_BLOCK);
        self.engine.submit(Request { slot, op, sector, sectors, fua: false });
        self.run("answer", |machine| machine.answered[0].is_some())?;
        Ok(self.answered[0].take().expect("answered"))
    }

    /// Reads blocks.
    ///
    /// # Errors
    /// `Stuck`.
    pub fn read(&mut self, lba: Lba, blocks: u32) -> Result<Result<Vec<u8>, Fault>, Stuck> {
        let result = self.ask(Op::Read, lba, blocks)?;
        let buf = self.engine.slot_buffer(SlotId(0));
        let bytes = &self.memory.blocks(buf, SLOT_DATA_BLOCKS)[..blocks as usize * BLOCK_BYTES];
        Ok(result.map(|()| bytes.to_vec()))
    }

    /// Writes one block's content over some blocks.
    ///
    /// # Errors
    /// `Stuck`.
    pub fn write(&mut self, lba: Lba, content: &Block, blocks: u32) -> Result<Result<(), Fault>, Stuck> {
        let buf = self.engine.slot_buffer(SlotId(0));
        let bytes = self.memory.blocks_mut(buf, blocks);
        bytes.chunks_exact_mut(BLOCK_BYTES).for_each(|block| block.copy_from_slice(content));
        self.ask(Op::Write, lba, blocks)
    }

    fn run(&mut self, what: &str, end: impl Fn(&Self) -> bool) -> Result<(), Stuck> {
        for _ in 0..MAX_STEPS {
            if end(self) {
                return Ok(());
            }
            if !self.step() {
                let engine = &self.engine;
                let why = (engine.phase(), engine.halted(), engine.unfinished());
                return Err(Stuck(format!("nothing more happens, but no {what}: {why:?}")));
            }
        }
        Err(Stuck(format!("no {what} after {MAX_STEPS} steps: {}", self.engine.unfinished())))
    }

    /// One poll, and all that it asked for. False if nothing is left to happen.
    fn step(&mut self) -> bool {
        while let Some((token, result)) = self.ended.pop_front() {
            self.engine.drive_done(token, result);
        }
        self.out.clear();
        let deadline = self.engine.poll(Instant::from_nanos(self.now), &mut self.memory, &mut self.out);
        let actions = self.out.actions.clone();
        for action in &actions {
            self.carry_out(action);
        }
        match deadline.map(Instant::nanos) {
            Some(at) if actions.is_empty() && self.ended.is_empty() => {
                self.now = self.now.max(at);
                true
            }
            None => !actions.is_empty() || !self.ended.is_empty(),
            Some(_) => true,
        }
    }

    fn carry_out(&mut self, action: &Action) {
        match *action {
            Action::Complete { slot, result } => self.answered[usize::from(slot.0)] = Some(result),
            Action::WantRow { row } => {
                let reply = match self.grants.pop_front() {
                    Some(extents) => Reply::Row(RowGrant { row, extents, joining: Vec::new() }),
                    None => Reply::NoRow,
                };
                self.engine.reply(reply);
            }
            Action::StoreStale { version, .. } => self.engine.reply(Reply::StaleStored { version }),
            Action::StoreCurrent { version, .. } => self.engine.reply(Reply::CurrentStored { version }),
            Action::GiveUp { drive } => unreachable!("drive {drive} answers at once"),
            Action::Drive { token, drive, op, at, segments, .. } => {
                let segments = self.out.memory(segments).to_vec();
                let result = self.transfer(usize::from(drive.get()), op, at, &segments);
                self.ended.push_back((token, result));
            }
        }
    }

    fn transfer(
        &mut self,
        drive: usize,
        op: DriveOp,
        at: DriveBlock,
        segments: &[Segment],
    ) -> Result<(), Fault> {
        let mut at = at.get();
        let blocks: u64 = segments.iter().map(|segment| u64::from(segment.blocks)).sum();
        let media = &mut self.drives[drive];
        let size = media.blocks().get();
        if at.checked_add(blocks).is_none_or(|end| end > size) {
            assert!(op != DriveOp::Write, "a write beyond the end of drive {drive}: block {at} of {size}");
            return Err(Fault::Io);
        }
        if op == DriveOp::Flush {
            media.flush();
            return Ok(());
        }
        for segment in segments {
            for i in 0..segment.blocks {
                let block = self.memory.block_mut(segment.buf.plus(i));
                match op {
                    DriveOp::Read => media.read_into(DriveBlock::new(at), block).map_err(|_| Fault::Io)?,
                    DriveOp::Write => media.write(DriveBlock::new(at), block),
                    DriveOp::Flush => {}
                }
                at += 1;
            }
        }
        Ok(())
    }
}
