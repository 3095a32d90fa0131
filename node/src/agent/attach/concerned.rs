//! The drives that a target is to open.
//!
//! A group's record keeps each drive that the group ever had for as long as that drive is of the pool. Of one that was left
//! only its mark is still needed: a superblock may list it, and an activation's versions are higher than any mark; and should
//! it join again, the mark says that it has nothing. A target is told the mark, and leaves the drive alone.
//!
//! Crash story: a volume had moved from drive to drive until it had been on 33, and had something on one. Its target was told
//! to open all of them, which is more than a group has places, and none came to serve any more.
use crate::agent::Agent;
use crate::catalogue::{CopyState, GroupRecord, MoveRecord, RowRecord, Versioned, moves};
use crate::error::Result;
use base::limits::MAX_DRIVES;
use std::collections::BTreeSet;

impl Agent {
    /// As `drives_concerned`, by what the catalogue says now.
    pub(in crate::agent) fn concerned_of(&self, group: &GroupRecord) -> Result<BTreeSet<String>> {
        let moving = self.store.get::<MoveRecord>(&moves::key(&group.id))?;
        Ok(drives_concerned(group, &self.rows_of(&group.id)?, moving.as_deref()))
    }
}

/// The drives that may have something of a group: those of its rows, of the move that is under way, and those that nothing
/// in the catalogue calls stale, for it may not have heard yet that they were left. After an import the catalogue says nothing
/// of copies that counts, and it lists no more than a superblock does. Never more than a group can have.
pub(in crate::agent) fn drives_concerned(
    group: &GroupRecord,
    rows: &[Versioned<RowRecord>],
    moving: Option<&MoveRecord>,
) -> BTreeSet<String> {
    let in_rows = rows.iter().flat_map(|row| &row.extents).map(|(id, _)| id);
    let places = moving.iter().flat_map(|moving| &moving.places);
    let moved = places.flat_map(|place| [&place.old.0, &place.new.0]);
    let from = moving.and_then(|moving| moving.change.from());
    let copies = group.copies.iter();
    let unmarked = copies
        .filter(|copy| group.imported || copy.state == CopyState::Current)
        .map(|copy| copy.drive.as_str());
    let mut concerned = BTreeSet::new();
    for id in in_rows.chain(moved).map(String::as_str).chain(from).chain(unmarked) {
        if concerned.len() < MAX_DRIVES {
            concerned.insert(id.to_owned());
        }
    }
    concerned
}
