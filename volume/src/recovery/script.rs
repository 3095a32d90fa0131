//! Recovery's I/O: batches of reads, writes and flushes, each batch run to its end before the next step.
//!
//! Not on the path of any request, so it may allocate. A read of several blocks that fails is read again block
//! by block, so that one bad sector costs one block.
//!
//! A write that fails is tried again: every write here may be repeated. Crash story: the last current copy had what was
//! flushed and acknowledged, though no later commit said so, and recovery wrote it again (`renew`). That write failed, and
//! left neither what was there nor what was to be there. Given up, the group was refused; opened once more, its log ended
//! before that block. Who has the content in memory writes it again, and the drive takes another place for it.
use crate::buffers::{Buffers, RECOVERY_CHUNKS};
use crate::config::RECOVERY_CHUNK;
use crate::group::Turn;
use crate::keys::Keyed;
use crate::ops::{Ops, Purpose};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use base::{Blocks, DriveBlock, DriveIx, DriveOp, DriveSet, Fault, Segment};

/// How often a write is tried, at most.
const WRITE_TRIES: u8 = 4;

/// What a read brought.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Data {
    /// The bytes; zero where a block could not be read.
    pub bytes: Vec<u8>,
    /// Blocks that could not be read.
    pub bad: Vec<u32>,
    /// Of some of those the drive said nothing: it did not answer in time, or was gone.
    pub silent: bool,
}

impl Data {
    /// The bytes of a block, if it could be read.
    pub fn block(&self, index: u32) -> Option<&base::Block> {
        if self.bad.contains(&index) {
            return None;
        }
        let start = index as usize * base::BLOCK_BYTES;
        self.bytes.get(start..start + base::BLOCK_BYTES)?.try_into().ok()
    }
}

#[derive(Clone, Debug)]
enum Task {
    Read { id: usize, first: u32 },
    Write { bytes: Vec<u8>, tries: u8 },
    Flush,
}

#[derive(Clone, Debug)]
struct Piece {
    drive: DriveIx,
    at: DriveBlock,
    blocks: u32,
    task: Task,
}

/// A batch of I/O.
#[derive(Default)]
pub(crate) struct Script {
    waiting: VecDeque<Piece>,
    running: [Option<Piece>; RECOVERY_CHUNKS as usize],
    pub results: Vec<Data>,
    /// Drives on which a write or flush failed.
    pub failed: Vec<DriveIx>,
    /// Drives that said nothing to some read, of this batch or one before.
    pub silent: DriveSet,
}

impl Script {
    /// Adds a read; its result will be `results[id]`.
    pub fn read(&mut self, drive: DriveIx, at: DriveBlock, blocks: u32) -> usize {
        let id = self.results.len();
        let bytes = vec![0; blocks as usize * base::BLOCK_BYTES];
        self.results.push(Data { bytes, bad: Vec::new(), silent: false });
        for first in (0..blocks).step_by(RECOVERY_CHUNK as usize) {
            let count = RECOVERY_CHUNK.min(blocks - first);
            let at = at + Blocks::new(u64::from(first));
            self.waiting.push_back(Piece { drive, at, blocks: count, task: Task::Read { id, first } });
        }
        id
    }

    /// Adds a write of whole blocks, at most a chunk.
    pub fn write(&mut self, drive: DriveIx, at: DriveBlock, bytes: Vec<u8>) {
        let blocks = (bytes.len() / base::BLOCK_BYTES) as u32;
        assert!(blocks <= RECOVERY_CHUNK);
        self.waiting.push_back(Piece { drive, at, blocks, task: Task::Write { bytes, tries: 1 } });
    }

    /// Adds a flush.
    pub fn flush(&mut self, drive: DriveIx) {
        self.waiting.push_back(Piece { drive, at: DriveBlock::ZERO, blocks: 0, task: Task::Flush });
    }

    /// Whether the batch has ended.
    pub fn done(&self) -> bool {
        self.waiting.is_empty() && self.running.iter().all(Option::is_none)
    }

    /// Forgets results and failures: a new batch.
    pub fn clear(&mut self) {
        assert!(self.done());
        self.results.clear();
        self.failed.clear();
    }

    /// Issues what fits.
    pub fn issue<M: Keyed>(&mut self, turn: &mut Turn<'_, M>, ops: &mut Ops, buffers: &Buffers) {
        for chunk in 0..RECOVERY_CHUNKS as usize {
            if self.running[chunk].is_some() || !turn.fits(1) || ops.room() == 0 {
                continue;
            }
            let Some(piece) = self.waiting.pop_front() else { return };
            let buf = buffers.recovery.plus(chunk as u32 * RECOVERY_CHUNK);
            let memory = [Segment { buf, blocks: piece.blocks }];
            let is_write = !matches!(piece.task, Task::Read { .. });
            let token = ops.start(Purpose::Recovery { chunk: chunk as u8 }, piece.drive, is_write);
            match &piece.task {
                Task::Read { .. } => turn.out.drive(token, piece.drive, DriveOp::Read, piece.at, &memory),
                Task::Write { bytes, .. } => {
                    turn.memory.blocks_mut(buf, piece.blocks).copy_from_slice(bytes);
                    turn.out.drive(token, piece.drive, DriveOp::Write, piece.at, &memory);
                }
                Task::Flush => turn.out.drive(token, piece.drive, DriveOp::Flush, piece.at, &[]),
            }
            self.running[chunk] = Some(piece);
        }
    }

    /// An operation has ended.
    pub fn ended<M: Keyed>(&mut self, memory: &M, buffers: &Buffers, chunk: u8, result: Result<(), Fault>) {
        let piece = self.running[usize::from(chunk)].take().expect("a piece that runs");
        match (piece.task, result) {
            (Task::Read { id, first }, Ok(())) => {
                let buf = buffers.recovery.plus(u32::from(chunk) * RECOVERY_CHUNK);
                let start = first as usize * base::BLOCK_BYTES;
                let bytes = memory.blocks(buf, piece.blocks);
                self.results[id].bytes[start..start + bytes.len()].copy_from_slice(bytes);
            }
            (Task::Read { id, first }, Err(fault)) if piece.blocks == 1 => {
                self.results[id].bad.push(first);
                if matches!(fault, Fault::Timeout | Fault::Gone) {
                    self.results[id].silent = true;
                    self.silent.insert(piece.drive);
                }
            }
            (Task::Read { id, first }, Err(_)) => {
                for i in 0..piece.blocks {
                    let at = piece.at + Blocks::new(u64::from(i));
                    let task = Task::Read { id, first: first + i };
                    self.waiting.push_front(Piece { drive: piece.drive, at, blocks: 1, task });
                }
            }
            (Task::Write { bytes, tries }, Err(fault))
                if tries < WRITE_TRIES && !matches!(fault, Fault::Timeout | Fault::Gone) =>
            {
                self.waiting.push_front(Piece { task: Task::Write { bytes, tries: tries + 1 }, ..piece });
            }
            (_, Ok(())) => {}
            (_, Err(_)) => self.failed.push(piece.drive),
        }
    }
}
