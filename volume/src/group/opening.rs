//! The end of an open: the directory is read, the blocks of the accepted log count as used, requests are served.
use super::{Group, Halt, Turn};
use crate::keys::Keyed;
use crate::planted::Planted;
use crate::recovery::Record;
use base::{Blocks, Phase};
use cow::OpenStep;

/// Steps in one poll.
const STEPS_PER_POLL: usize = 64;

impl Group {
    /// Reads the directory; its top first, after which the group serves.
    pub fn advance_opening<M: Keyed>(&mut self, turn: &mut Turn<'_, M>) {
        for _ in 0..STEPS_PER_POLL {
            // A directory that failed once is not asked again: whoever waits has been told.
            let Some(open) = self.opening.as_mut().filter(|_| !self.open_failed) else { return };
            match open.step(&mut self.space, &mut self.cache, turn.memory, &self.geometry) {
                OpenStep::NeedPage(page) => {
                    if !self.fetch_page(turn, &page) {
                        self.open_fails();
                    }
                    return;
                }
                OpenStep::Top => {
                    self.directory = open.directory().clone();
                    let volumes = &self.directory.volumes;
                    // What a merge relies on: nothing in the map is newer than the checkpoint that names it.
                    let one =
                        volumes.len() == 1 && volumes.iter().all(|v| v.root.when <= self.superblock.ckpt_seq);
                    self.open_failed |= !one;
                    self.top_read = one;
                    self.again = true;
                    return;
                }
                OpenStep::More => {}
                OpenStep::Done => {
                    self.opening = None;
                    self.again = true;
                }
                OpenStep::Bad(_) => return self.open_fails(),
            }
        }
        self.again = true;
    }

    /// A page of the directory is lost: the group does not open; if it is served already, it takes no more
    /// writes, because no checkpoint can be taken without the page.
    fn open_fails(&mut self) {
        self.open_failed = true;
        if self.phase != Phase::Recovering {
            self.halt(Halt::MapFailed);
        }
    }

    /// Whether the log can enter the delta.
    pub fn ready_to_replay(&self) -> bool {
        self.phase == Phase::Recovering && (self.top_read || self.opening.is_none())
    }

    /// Whether the map has the blocks that the accepted log names. What we wrote, it has; this is about records that
    /// have a right check and were not written by us.
    pub fn reaches(&self, records: &[Record]) -> bool {
        let volume = self.directory.volumes.iter().next().unwrap_or(&self.volume);
        let end = volume.height.covers().get();
        records.iter().all(|record| record.lba.get() + record.blocks <= end)
    }

    /// The blocks of the accepted log, which is in the delta, count as used; then requests are served.
    pub fn replay(&mut self, records: &[Record]) {
        if let Some(volume) = self.directory.volumes.iter().next() {
            self.volume = *volume;
            self.grown = volume.sectors;
        }
        self.make_room();
        let regions = self.superblock.rows * u32::from(self.geometry.columns);
        let known = self.space.regions();
        self.space.grow(regions - known, &self.geometry);
        // Of the checkpoint of the first layer, if the log is in two.
        self.cuts = self.directory.cuts.clone();
        self.new_volume = self.volume;
        for (pba, _) in records.iter().flat_map(|record| &record.data) {
            if !self.config.bug(Planted::ReplayNotMarked) {
                self.space.mark(*pba, Blocks::new(1));
            }
        }
        self.checkpoint.force |= self.directory.at.is_absent() || self.delta_pressure();
        self.phase = if self.halt.is_some() { Phase::ReadOnly } else { Phase::Serving };
        self.again = true;
    }
}
