//! Whether a group opens, and on which copies: a decision table.
//!
//! Crash story: of a mirror one drive died; the other served alone, and the first came back without it. What the
//! first says of itself, "current", is from before; only the other, or the catalogue, knows better. So a group
//! opens on copies that the highest version *anywhere* calls current, and if the catalogue cannot be asked,
//! only when all of them are there: one that is absent might be the one that knows better.
use crate::copy::CopyState;
use crate::table::CopyTable;
use base::DriveSet;

/// What is known when a group is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenInputs<'a> {
    /// The newest superblock's table, with every other view merged in.
    pub table: &'a CopyTable,
    /// The drives that are there and answer.
    pub present: DriveSet,
    /// The catalogue's view is among those that were merged. Without it (an import) a copy that is absent may
    /// have gone on without the others.
    pub catalogue: bool,
    /// The operator's recorded word that what the stale copies lack is given up.
    pub forced: bool,
}

/// Whether the group opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenDecision {
    /// It does.
    Open {
        /// The copies to recover from. Those that the table calls current and that are not among them are
        /// absent: they go stale before the first write.
        current: DriveSet,
        /// Those among them that are stale and are taken because of the operator's word, for places that have
        /// no current copy. Becomes a history of its own.
        promoted: DriveSet,
    },
    /// It does not: these copies are there but lack what was acknowledged without them, and the current copies
    /// of their places are absent.
    RefuseStaleAlone {
        /// The copies that are there.
        stale: DriveSet,
        /// The current ones that are absent.
        missing: DriveSet,
    },
    /// It does not: these drives must be there first.
    RefuseMissing(DriveSet),
}

/// Decides. `places` are the (row, column)s of the group, each as the set of drives that hold its legs. The table:
///
/// - Every place has a current copy that is there, and the catalogue was asked or no current copy is absent:
///   it opens on those.
/// - The operator forces it: it opens on the current copies that are there, and for places without one on the
///   stale ones that are. A copy whose resync was not finished is never taken: it is a mixture of two times.
///   If a place has neither, force does not help.
/// - A place has no current copy there, but one that is stale or unfinished: refused, stale alone.
/// - Otherwise drives are missing: those of the places that nobody there holds, and without the catalogue all
///   current ones that are absent.
pub fn decide_open<P>(inputs: &OpenInputs<'_>, places: P) -> OpenDecision
where
    P: IntoIterator<Item = DriveSet>,
{
    let OpenInputs { table, present, catalogue, forced } = *inputs;
    let all_current = table.current();
    let current = all_current.and(present);
    let missing = all_current.without(present);
    let stale = table.drives(|state| matches!(state, CopyState::Stale { .. })).and(present);
    let behind = present.without(all_current);
    let mut uncovered = DriveSet::EMPTY;
    let mut promoted = DriveSet::EMPTY;
    let (mut all_current_there, mut all_there) = (true, true);
    for place in places.into_iter().filter(|place| place.and(current).is_empty()) {
        all_current_there = false;
        all_there &= !place.and(stale).is_empty();
        uncovered = uncovered.union(place);
        promoted = promoted.union(place.and(stale));
    }
    let unknown = if catalogue { DriveSet::EMPTY } else { missing };
    if all_current_there && (unknown.is_empty() || forced) {
        OpenDecision::Open { current, promoted: DriveSet::EMPTY }
    } else if !all_current_there && all_there && forced {
        OpenDecision::Open { current: current.union(promoted), promoted }
    } else if !uncovered.and(behind).is_empty() {
        OpenDecision::RefuseStaleAlone { stale: uncovered.and(behind), missing: uncovered.and(missing) }
    } else {
        OpenDecision::RefuseMissing(uncovered.without(present).union(unknown))
    }
}

#[cfg(test)]
mod tests;
