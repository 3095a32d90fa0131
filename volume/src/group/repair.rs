//! Repairs: a block that one leg had wrong is written again from the one that had it right.
//!
//! Crash story: the block keeps its place (its Ref did not change), so it is held until the write has ended on
//! the drive: otherwise a checkpoint could free it, a new write could take it, and the repair would land on
//! that write's data. A repair counts when a flush after it has succeeded; until then a crash can bring the
//! damage back, and the next read finds it again. A checkpoint begins only when no repair is under way: it
//! rewrites bitmap slots in place.
use super::{Group, Turn};
use crate::config::MAX_REPAIRS;
use crate::keys::Keyed;
use crate::ops::{Job, JobKind};
use crate::planted::Planted;
use base::{BufId, Lba, Pba, Segment};
use cow::Ref;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Free,
    Writing,
    Flushing(u64),
}

#[derive(Clone, Copy)]
struct Repair {
    stage: Stage,
    pba: Pba,
    legs: u8,
    batch: u64,
}

/// What is right, in plain text where it was opened, and how it is sealed again as it was.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// As it is stored.
    Stored(Pba),
    /// A page, or a bitmap.
    Page(Ref),
    /// A block of data, and its place in the volume.
    Data(Ref, Lba),
}

impl Content {
    const fn pba(&self) -> Pba {
        match self {
            Self::Stored(pba) => *pba,
            Self::Page(block) | Self::Data(block, _) => block.pba,
        }
    }
}

/// Repairs under way.
pub(crate) struct Repairs([Repair; MAX_REPAIRS]);

impl Repairs {
    pub fn new() -> Self {
        Self([Repair { stage: Stage::Free, pba: Pba::ZERO, legs: 0, batch: 0 }; MAX_REPAIRS])
    }

    /// Whether one of this block is under way.
    pub fn holds(&self, pba: Pba) -> bool {
        self.0.iter().any(|repair| repair.stage != Stage::Free && repair.pba == pba)
    }

    /// Whether none is under way.
    pub fn idle(&self) -> bool {
        self.0.iter().all(|repair| repair.stage == Stage::Free)
    }
}

impl Group {
    /// Writes the right content of a block (in `from`, read while batch `batch` was held) over the copies on
    /// the legs in the bit set `wrong`. False, and nothing happens, if too many repairs are under way, or one of this
    /// block: the next read, or a scrub, finds the damage again. So it is where a checkpoint is due, but for a scrub: with
    /// every read of a rotten leg a repair began, no checkpoint found a moment without one, and writes waited for it for ever.
    pub fn repair<M: Keyed>(
        &mut self,
        turn: &mut Turn<'_, M>,
        content: Content,
        from: BufId,
        wrong: u8,
        batch: u64,
    ) -> bool {
        let pba = content.pba();
        let known = self.repairs.0.iter().any(|r| r.stage != Stage::Free && r.pba == pba);
        let free = self.repairs.0.iter().position(|r| r.stage == Stage::Free);
        let fits = turn.fits(8) && self.ops.room() >= 8 && self.ops.job_room() >= 4;
        let scrubs = matches!(content, Content::Stored(_));
        let waits = known || !fits || (!scrubs && self.checkpoint_waits());
        let Some(index) = free.filter(|_| !waits && !self.config.read_only) else {
            return false;
        };
        let buf = self.buffers.repairs.plus(index as u32);
        turn.memory.copy_block(from, buf);
        self.seal_again(turn, content, buf);
        let place = self.geometry.place(pba);
        let job = self.ops.open_job(JobKind::Repair(index as u8));
        for leg in self.legs().filter(|leg| wrong >> leg.get() & 1 == 1) {
            let extent = self.extent(place.row, leg, place.column);
            self.write_extent(turn, job, extent, place.block, &[Segment { buf, blocks: 1 }]);
        }
        self.ops.seal_job(job);
        let batch = self.holds.take_again(batch);
        self.repairs.0[index] = Repair { stage: Stage::Writing, pba, legs: wrong, batch };
        true
    }

    /// A block is sealed again as it was: the same key, nonce and text, so the same bytes.
    fn seal_again<M: Keyed>(&self, turn: &mut Turn<'_, M>, content: Content, buf: BufId) {
        let (made, block) = match content {
            Content::Stored(_) => return,
            Content::Page(page) => (turn.memory.seal_page(buf, page.pba, page.ckpt()), page),
            Content::Data(data, lba) => (turn.memory.seal_data(buf, self.volume.id, lba, data.when), data),
        };
        assert!(made == block.check, "a block that was opened is sealed as another one");
    }

    /// The writes of a repair have ended.
    pub fn repair_written(&mut self, index: u8, job: Job) {
        let repair = &mut self.repairs.0[usize::from(index)];
        assert!(repair.stage == Stage::Writing);
        let batch = repair.batch;
        if job.lost {
            repair.stage = Stage::Free;
        } else {
            let ticket = self.flusher.ticket();
            let counted = self.config.bug(Planted::RepairNotFlushed);
            repair.stage = Stage::Flushing(if counted { 0 } else { ticket });
        }
        self.holds.release(batch);
        self.again = true;
    }

    /// Counts repairs that have been flushed.
    pub fn advance_repairs<M: Keyed>(&mut self, _turn: &mut Turn<'_, M>) {
        for index in 0..MAX_REPAIRS {
            let repair = self.repairs.0[index];
            let Stage::Flushing(ticket) = repair.stage else { continue };
            if !self.flusher.is_done(ticket) {
                continue;
            }
            self.repairs.0[index].stage = Stage::Free;
            self.again = true;
            for leg in self.legs().filter(|leg| repair.legs >> leg.get() & 1 == 1) {
                let drive = self.drive_of(repair.pba, leg);
                self.drives.get_mut(drive).stats.repaired_blocks += 1;
            }
        }
    }
}
