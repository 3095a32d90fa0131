//! How much a resync copies: what was missed and the pages above it, also on a large volume with much before.
//!
//! With the limits of a served volume, so that what lies between two checkpoints and two flushes is what it is there.
use crate::world::story::broken;
use crate::world::{Shape, World};
use base::DriveIx;
use std::collections::BTreeSet;
use volume::{Config, CopyHealth, Geometry, ResyncStats};

const MIB: u64 = 256;
/// Blocks of a volume of 10 TiB.
const VOLUME: u64 = 10 << 28;
/// The last ones of it, where scattered writes leave the rest alone.
const SCATTERED: u64 = VOLUME / 2;

fn served() -> Shape {
    let (extent, ring) = (16_384, Geometry::default_ring(1, 16_384));
    Shape { stripe: 16, extent, ring, sectors: VOLUME * 8, rows: 64, config: Config::SERVED, ..Shape::MIRROR }
}

/// A volume of 10 TiB, and the blocks of it that were written since drive 1 had its last checkpoint.
struct Story {
    world: World,
    since: BTreeSet<u64>,
}

impl Story {
    fn new() -> Self {
        Self { world: World::new(served()), since: BTreeSet::new() }
    }

    fn write(&mut self, block: u64, blocks: u64) {
        self.world.write(block * 8, blocks * 8).expect("written");
        self.since.extend(block..block + blocks);
    }

    /// Blocks from `first` on, 256 KiB at a time.
    fn fill(&mut self, first: u64, blocks: u64) {
        for block in (first..first + blocks).step_by(64) {
            self.write(block, 64);
        }
    }

    /// So many single blocks, each far from all others.
    fn scatter(&mut self, count: u64) {
        for i in 0..count {
            let leaf = i * 40_503 % count;
            self.write(SCATTERED + leaf * 640 + leaf % 128, 1);
        }
    }

    fn checkpoint(&mut self) {
        self.world.close();
        self.world.reopen();
        self.since.clear();
    }

    /// Pages that lead to what was written since the drive's last checkpoint: those of the map, and at most one bitmap
    /// for each row; the few above these, of directory, table of rows and history, and headers of rows that were added.
    fn pages(&self) -> u64 {
        let above = |level: u32| -> u64 {
            let pages: BTreeSet<u64> = self.since.iter().map(|block| block >> (7 * level)).collect();
            pages.len() as u64
        };
        (1..=5).map(above).sum::<u64>() + 2 * u64::from(self.world.engine.stats().expect("served").rows) + 16
    }

    /// Drive 1 is away while `missed` writes so many blocks. What is copied is that and the pages above it.
    fn miss(mut self, blocks: u64, missed: impl FnOnce(&mut Self)) {
        let broken = broken(&mut self.world);
        broken.set(2);
        missed(&mut self);
        self.world.flush().expect("flushed");
        broken.set(0);
        self.world.settle();
        self.world.back(1);
        let current = |world: &World| {
            let drives = world.engine.stats().expect("served").drives;
            drives[1].health == CopyHealth::Current
        };
        self.world.run_until("the drive is current", current);
        let done: ResyncStats = self.world.engine.stats().expect("served").last_resync.expect("it ended");
        let pages = self.pages();
        assert_eq!((done.drive, done.lost_blocks, done.kept_blocks), (DriveIx::new(1), 0, 0));
        assert!(done.copied_blocks >= blocks, "{done:?}");
        assert!(
            done.copied_blocks <= blocks + blocks / 10 + pages,
            "{} copied, {blocks} missed, {pages} pages above them",
            done.copied_blocks
        );
        self.world.kill();
        self.world.absent = 1;
        self.world.reopen();
        self.world.check_written();
    }
}

/// Much was written and flushed since the last checkpoint, which is what the drive's superblock speaks of: a
/// drive that was away for a moment got all of it again.
#[test]
fn what_was_flushed_since_the_last_checkpoint_is_not_copied() {
    let mut story = Story::new();
    story.fill(0, 32 * MIB);
    story.checkpoint();
    story.fill(64 * MIB, 160 * MIB);
    story.world.flush().expect("flushed");
    // The next commit says that it was.
    story.write(0, 1);
    story.world.flush().expect("flushed");
    story.miss(32 * MIB, |story| story.fill(256 * MIB, 32 * MIB));
}

/// Each block has a leaf of its own, so there are as many pages as blocks, and some more above them.
#[test]
fn scattered_writes_cost_the_pages_above_them() {
    let mut story = Story::new();
    story.fill(0, 64 * MIB);
    story.checkpoint();
    story.fill(64 * MIB, 64 * MIB);
    story.world.flush().expect("flushed");
    story.write(0, 1);
    story.world.flush().expect("flushed");
    story.miss(16 * MIB, |story| story.scatter(16 * MIB));
}

/// Checkpoints made while the drive is away, one after the other over the same leaves, cost each page once.
#[test]
fn a_page_that_was_made_again_and_again_is_copied_once() {
    let mut story = Story::new();
    story.fill(0, 64 * MIB);
    story.checkpoint();
    story.miss(32 * MIB, |story| {
        for turn in 0..4 {
            for block in (0..32 * MIB).step_by(64) {
                story.write(block + turn * 16, 16);
            }
            // A checkpoint.
            story.world.close();
            story.world.reopen();
        }
    });
}
