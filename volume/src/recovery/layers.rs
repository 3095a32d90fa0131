//! From the accepted log to the two layers of the delta that it came from.
//!
//! Whoever wrote the log had two layers of fixed size: one that a checkpoint was merging, then one that took writes. So two
//! layers of the same size take it again. The first takes as many commits as fit, which is at least all that the merged
//! one had; what is left is the end of the other, and fits into the second. The group begins with a checkpoint of the
//! first, as of the commit at which the second begins.
//!
//! Crash story: the whole log went into one layer that was made as large as it took, by a generous count, and writes
//! filled that layer too. Each crash before a checkpoint ended so left a longer log for a larger layer, free space's
//! lists were sized by it, and with more than 262,144 records the engine died at each start. Now an open takes the same
//! memory whatever the log has, however often it crashes.
//!
//! Only a log of other sizes (an earlier build's, a larger configuration's) may need larger layers. They are of that size
//! until the group is closed, but take no more writes than configured.
use super::{Record, Recovery};
use crate::group::DELTA_RANGES;
use crate::group::write::{HOLE_CHANGES, Mark, hole_changes};
use alloc::vec::Vec;
use base::{Blocks, Lba, Seq};
use cow::delta::{MAX_DELTA_ENTRIES, POINT_HOLE_BLOCKS};
use cow::{Delta, Ref};

/// Changes by long holes that the log of one layer has at most: a layer is given as many, and what was in flight when it
/// was frozen went to the next one.
pub(super) const LAYER_HOLE_CHANGES: u64 = 2 * HOLE_CHANGES;

/// A commit of the accepted log.
pub(super) struct Accepted {
    pub records: Vec<Record>,
    /// Where the log stood before it, and the last Seq there.
    pub before: (Mark, Seq),
}

impl Accepted {
    /// Points, long holes and changes by those that it brings to a layer.
    fn needs(&self) -> (usize, usize, u64) {
        let mut needs = (0, 0, 0);
        for record in &self.records {
            match record.data.len() {
                0 if record.blocks <= POINT_HOLE_BLOCKS => needs.0 += record.blocks as usize,
                0 => (needs.1, needs.2) = (needs.1 + 1, needs.2 + hole_changes(record.blocks)),
                blocks => needs.0 += blocks,
            }
        }
        needs
    }

    fn enter(&self, layer: &mut Delta) {
        for record in &self.records {
            for (i, (pba, check)) in record.data.iter().enumerate() {
                let lba: Lba = record.lba + Blocks::new(i as u64);
                layer.put(lba, Ref::data(*pba, record.seq, *check));
            }
            if record.data.is_empty() {
                layer.put_holes(record.lba, Blocks::new(record.blocks), record.seq);
            }
        }
    }
}

/// The layers of a group that is about to be served.
pub(super) struct Layers {
    pub frozen: Delta,
    pub active: Delta,
    /// Where the second begins, if the log is in two.
    pub frozen_to: Option<(Mark, Seq)>,
    /// Changes by long holes in the second.
    pub hole_changes: u64,
    /// And in the layer that has more.
    pub most_hole_changes: u64,
    /// Points that each has room for.
    pub entries: usize,
}

impl Layers {
    /// The layers of `entries` points each that take these commits, or the smallest larger ones. `None` if there are none:
    /// we never wrote such a log.
    pub fn of(commits: &[Accepted], entries: usize) -> Option<Self> {
        let (mut size, mut ranges) = (entries, DELTA_RANGES);
        loop {
            if let Some(mut layers) = Self::filled(commits, size, ranges) {
                layers.active.limit(entries);
                layers.frozen.limit(entries);
                return Some(layers);
            }
            if size == MAX_DELTA_ENTRIES {
                return None;
            }
            (size, ranges) = ((2 * size).min(MAX_DELTA_ENTRIES), 2 * ranges);
        }
    }

    fn filled(commits: &[Accepted], entries: usize, ranges: usize) -> Option<Self> {
        let layer = || Delta::new(entries, ranges);
        let (frozen, active) = (layer(), layer());
        let mut layers =
            Self { frozen, active, frozen_to: None, hole_changes: 0, most_hole_changes: 0, entries };
        for commit in commits {
            let (points, long, changes) = commit.needs();
            let fits = points <= layers.active.room() && long <= layers.active.room_for_ranges();
            let crowded = layers.frozen_to.is_none() && layers.hole_changes + changes > LAYER_HOLE_CHANGES;
            if !fits || (crowded && layers.hole_changes > 0) {
                if layers.frozen_to.is_some() || layers.active.is_empty() {
                    return None;
                }
                layers.frozen_to = Some(commit.before);
                core::mem::swap(&mut layers.active, &mut layers.frozen);
                layers.hole_changes = 0;
                if points > layers.active.room() || long > layers.active.room_for_ranges() {
                    return None;
                }
            }
            commit.enter(&mut layers.active);
            layers.hole_changes += changes;
            layers.most_hole_changes = layers.most_hole_changes.max(layers.hole_changes);
        }
        Some(layers)
    }
}

impl Recovery {
    /// The commits of the accepted log, in order.
    pub(super) fn accepted(&mut self) -> Vec<Accepted> {
        let candidates = self.scan.as_ref().expect("a scan").candidates();
        let chain = self.chain.as_ref().expect("a chain");
        let mut positions = chain.heads;
        let mut commits = Vec::with_capacity(self.replayed.len());
        for (at, commit) in core::mem::take(&mut self.replayed).into_iter().enumerate().rev() {
            let candidate = &candidates[commit.candidate];
            positions.0[usize::from(candidate.column.get())] = candidate.fields.offset;
            let (next, previous) = (candidate.fields.no, candidate.fields.previous);
            let seq = match at.checked_sub(1) {
                Some(before) => Seq::new(candidates[chain.accepted[before]].next_seq().get() - 1),
                None => self.superblock().ckpt_seq,
            };
            commits.push(Accepted {
                records: commit.records,
                before: (Mark { next, previous, positions }, seq),
            });
        }
        commits.reverse();
        commits
    }
}
