//! Flush requests and the flushes that serve them; see `flusher` for the rule.
use super::{AUTO_FLUSH_AFTER, Group, Halt, Turn};
use crate::drives::Health;
use crate::keys::Keyed;
use crate::ops::{Job, JobKind};
use crate::planted::Planted;
use crate::slots::State;
use fence::DriveSet;

impl Group {
    /// Flush requests and FUA writes: first every commit before them, then a flush that begins after that.
    pub fn advance_flushes<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        for i in 0..self.slots.order.len() {
            let id = self.slots.order[i];
            let slot = *self.slots.get(id);
            if slot.finished {
                continue;
            }
            match slot.state {
                State::AfterCommit(commit) if self.log.complete_before(commit) => {
                    if self.config.bug(Planted::FlushSkipped) {
                        self.finish(turn, id, Ok(()));
                    } else if self.halt.is_some() {
                        self.finish(turn, id, Err(base::Fault::Io));
                    } else if self.config.read_only {
                        self.finish(turn, id, Ok(()));
                    } else {
                        let ticket = self.flusher.ticket();
                        self.slots.get_mut(id).state = State::Flushing(ticket);
                    }
                }
                State::Flushing(ticket) if self.flusher.is_done(ticket) => self.finish(turn, id, Ok(())),
                State::Flushing(_) if self.halt.is_some() => self.finish(turn, id, Err(base::Fault::Io)),
                _ => {}
            }
        }
    }

    /// Begins the flush that somebody waits for, or one that is due by itself.
    pub fn start_flush<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        if self.unflushed_since.is_some_and(|since| turn.now - since >= AUTO_FLUSH_AFTER) {
            self.flusher.ticket();
        }
        if !self.flusher.due() || self.halt.is_some() || !self.room(turn, self.drives.list.len()) {
            return;
        }
        self.flusher.begin(self.completed, self.checkpoint.pages_complete());
        self.flushing = core::mem::take(&mut self.unflushed);
        self.unflushed_since = None;
        self.planted_flushing = self.active.replaced().len();
        if self.config.bug(Planted::DurableTooEarly) {
            self.durable = self.completed;
        }
        let mut drives = self.all_drives();
        if self.config.bug(Planted::FlushOneLeg) {
            drives = DriveSet::EMPTY;
            drives.insert(self.rows[0].drive);
        }
        if self.config.bug(Planted::JoinedNotFlushed) {
            drives = drives.and(self.home_drives());
        }
        self.flush_drives(turn, JobKind::Flush, drives);
    }

    /// The flush has ended on every current drive.
    pub fn flush_settled(&mut self, job: Job) {
        if job.lost {
            // Never asked again: the answer to those who wait is an error.
            return self.halt(Halt::FlushFailed);
        }
        let (covers, ckpt) = self.flusher.finish();
        self.flushing = 0;
        self.durable = self.durable.max(covers);
        for drive in self.drives.list.iter_mut().filter(|d| d.health == Health::Current) {
            drive.flushed = drive.flushed.max(covers);
            drive.flushed_ckpt = drive.flushed_ckpt.max(ckpt);
        }
        if self.config.bug(Planted::FreeAtFlush) {
            self.free_replaced_now(self.active.replaced().len());
        }
        self.again = true;
    }

    /// Bug only: so many of those that the delta lists as replaced become free without a checkpoint.
    pub fn free_replaced_now(&mut self, count: usize) {
        for i in self.planted_freed..count {
            let pba = self.active.replaced()[i];
            self.space.give_back(pba, base::Blocks::new(1));
        }
        self.planted_freed = self.planted_freed.max(count);
    }
}
