//! Scrub: every copy that counts is read and checked; one that is wrong is written again from one that is right.
//!
//! It visits what a sweep visits (`sweep.rs`), and after that both superblock slots of every drive and the log behind
//! the checkpoint. What it finds it names: what the block is, on which drive, and what became of it. A finding waits
//! here until somebody takes it; a scrub that has no room for more rests until then, so that none is lost.
//!
//! Crash story: a scrub keeps nothing on the drives. A repair is written and flushed before its finding says so
//! (`repair.rs`); after a crash the scrub begins again where its owner says.
//!
//! What is damaged in the log is not written again: a checkpoint makes it superfluous, for all that it says is in
//! memory. A damaged superblock slot is overwritten by a new version.
use super::Group;
use super::sweep::{Errand, Stage, UNIT_BLOCKS};
use alloc::vec::Vec;
use base::limits::MAX_LEGS;
use base::{Blocks, CommitNo, DriveBlock, DriveIx, Lba, LegId, Pba, Phase, RowNo};
use cow::{Ref, tree};

/// Findings that wait to be taken, at most.
const MAX_FINDINGS: usize = 4 * UNIT_BLOCKS as usize * MAX_LEGS;

/// What a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Not known.
    Unknown,
    /// A block of the volume.
    Data(Lba),
    /// A page of the volume's map: its level (0 is a leaf) and the first block of the volume below it.
    Page {
        /// Its level.
        level: u8,
        /// The first block of the volume that it leads to.
        first: Lba,
    },
    /// A page of a part of the map that was cut off and waits to be freed.
    CutPage,
    /// The bitmap of a region of the group's space.
    Bitmap(u64),
    /// A page of the tree that leads to the bitmaps.
    BitmapPage,
    /// A page of the directory.
    Directory,
    /// A page of the table of rows.
    RowPage,
    /// A page of the history.
    HistoryPage,
    /// The header of an extent.
    Header {
        /// Its row.
        row: RowNo,
        /// Its leg.
        leg: LegId,
    },
    /// A superblock slot.
    Superblock,
    /// A commit of the log.
    Commit(CommitNo),
}

impl What {
    /// The first block of the volume that it is or leads to, and how many from there on; `None` for what is no part of
    /// the volume.
    pub fn place(self) -> Option<(Lba, Blocks)> {
        match self {
            Self::Data(lba) => Some((lba, Blocks::new(1))),
            Self::Page { level, first } => Some((first, tree::page_covers(level))),
            _ => None,
        }
    }
}

/// What became of a copy that was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is right again, and flushed.
    Repaired,
    /// No leg has it right: reads of it are errors until it is written again.
    Lost,
    /// The drive failed when it was to be written again, and is out.
    DriveOut,
}

/// A copy that was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What it is.
    pub what: What,
    /// The drive, by the group's drive table.
    pub drive: DriveIx,
    /// Where on the drive.
    pub at: DriveBlock,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a scrub has done since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubStats {
    /// It is under way (or stands aside for a resync).
    pub running: bool,
    /// It came to its end.
    pub finished: bool,
    /// The first block of the volume that it has yet to look at: where it would go on.
    pub walked_blocks: u64,
    /// Copies that were read.
    pub checked_copies: u64,
    /// Copies that were wrong and are right again.
    pub repaired_copies: u64,
    /// Copies that no leg had right.
    pub lost_copies: u64,
}

/// The scrub of a group.
#[derive(Debug)]
pub(crate) struct Scrub {
    /// Where it is to begin: block of the volume.
    pub from: u64,
    pub stats: ScrubStats,
    findings: Vec<Finding>,
    /// The page whose copies were looked at last.
    pub seen: Option<Ref>,
}

impl Scrub {
    pub fn new() -> Self {
        let findings = Vec::with_capacity(MAX_FINDINGS);
        Self { from: 0, stats: ScrubStats::default(), findings, seen: None }
    }

    /// Whether anything that was found, and that nobody has taken yet, is on a drive.
    pub(super) fn names(&self, drive: DriveIx) -> bool {
        self.findings.iter().any(|finding| finding.drive == drive)
    }

    /// Whether the next unit could find more than there is room for.
    pub(super) fn is_full(&self) -> bool {
        self.findings.len() + UNIT_BLOCKS as usize * MAX_LEGS > MAX_FINDINGS
    }
}

impl Group {
    /// Starts a scrub at this block of the volume, unless one is under way. False if the group takes no writes.
    pub fn start_scrub(&mut self, from: u64) -> bool {
        if self.halt.is_some() || self.config.read_only || self.phase != Phase::Serving {
            return false;
        }
        if !self.sweep.scrub.stats.running {
            let leaf = tree::page_covers(0).get();
            self.sweep.scrub.from = (from / leaf).saturating_mul(leaf);
            self.sweep.scrub.stats =
                ScrubStats { running: true, walked_blocks: from, ..ScrubStats::default() };
            self.again = true;
        }
        true
    }

    /// Ends a scrub where it is.
    pub fn stop_scrub(&mut self) {
        self.sweep.scrub.stats.running = false;
        if self.sweep.errand == Errand::Scrub {
            self.sweep_to(Stage::Leaving);
        }
    }

    /// What it has done.
    pub fn scrub_stats(&self) -> ScrubStats {
        let sweep = &self.sweep;
        let at_work = sweep.errand == Errand::Scrub && sweep.stage != Stage::Leaving;
        let walked = if at_work && sweep.walking() { sweep.walked } else { sweep.scrub.from };
        let walked = walked.max(sweep.scrub.stats.walked_blocks);
        ScrubStats { walked_blocks: walked, ..sweep.scrub.stats }
    }

    /// Hands over what was found since it was asked last.
    pub fn take_findings(&mut self, into: &mut Vec<Finding>) {
        into.append(&mut self.sweep.scrub.findings);
        self.again = true;
    }

    pub(super) fn begin_scrub(&mut self) -> bool {
        if !self.sweep.scrub.stats.running || self.opening.is_some() {
            return false;
        }
        self.sweep.errand = Errand::Scrub;
        (self.sweep.lost, self.sweep.walked) = (0, self.sweep.scrub.from);
        self.sweep.pace.rewind();
        self.sweep_to(Stage::Commits(self.log.next_commit()));
        true
    }

    /// Whether a sweep makes room: for a drive that is back, or, if it is a scrub, until its findings are taken.
    pub(super) fn stands_aside(&mut self) -> bool {
        if !self.sweep.walking() || self.sweep.reading > 0 {
            return false;
        }
        match self.sweep.errand {
            Errand::None | Errand::Resync => return false,
            Errand::Move if self.sweep.asked.is_none() => return false,
            Errand::Move => {
                self.pause_move();
                return true;
            }
            Errand::Scrub => {}
        }
        if self.sweep.asked.is_none() && !self.move_waits() {
            return self.sweep.scrub.is_full();
        }
        self.sweep.scrub.from = self.walk_position();
        self.sweep_to(Stage::Leaving);
        true
    }

    /// Where the walk of the map would go on; behind the map, its end.
    pub(super) fn walk_position(&self) -> u64 {
        let leaf = tree::page_covers(0).get();
        let whole = tree::page_covers(self.volume.height.root_level()).get();
        match self.sweep.stage {
            Stage::Map => self.sweep.walk.cursor() / leaf * leaf,
            _ => whole,
        }
    }

    pub(super) fn scrub_ended(&mut self) {
        let stats = &mut self.sweep.scrub.stats;
        (stats.running, stats.finished) = (false, true);
        self.sweep_to(Stage::Leaving);
    }

    /// A finding.
    pub(super) fn note(&mut self, finding: Finding) {
        let scrub = &mut self.sweep.scrub;
        match finding.outcome {
            Outcome::Repaired => scrub.stats.repaired_copies += 1,
            Outcome::Lost => scrub.stats.lost_copies += 1,
            Outcome::DriveOut => {}
        }
        assert!(scrub.findings.len() < MAX_FINDINGS, "a unit is not begun without room for its findings");
        scrub.findings.push(finding);
    }

    /// Every copy of a block is wrong.
    pub(super) fn note_everywhere(&mut self, pba: Pba, what: What) {
        // A Ref that makes no sense has no place.
        if pba.get() >= self.space_blocks().get() {
            return;
        }
        for leg in self.legs() {
            let finding = self.finding_at(pba, leg, what, Outcome::Lost);
            if self.drives.current(finding.drive) {
                self.note(finding);
            }
        }
    }

    /// A finding about a copy of a block.
    pub(super) fn finding_at(&self, pba: Pba, leg: LegId, what: What, outcome: Outcome) -> Finding {
        let place = self.geometry.place(pba);
        let extent = self.extent(place.row, leg, place.column);
        Finding { what, drive: extent.drive, at: self.geometry.drive_block(extent, place.block), outcome }
    }
}
