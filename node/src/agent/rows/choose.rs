//! Which extents a group's next row gets.
//!
//! Of drives that are there and hold all that they should, if that can be: else a volume that grows would have fewer copies
//! of the new than of the old. But while a drive of a pool of two is away, no mirror has two such drives, and a guest must
//! not hear of no space where there is some. So a row may lie on drives of the group that are away, or miss something, as
//! long as each of its columns has a leg on one that is not. For the engine it is as if the drive had gone away behind the row:
//! what is written misses it, and the resync brings everything, the header of its extent first of all.
//!
//! Crash story: nothing but the row's pages, on the drives that are there, says that the extent of the drive that is away is
//! taken. Its own superblock does not; alone it opens as the stale copy that it is, which never had the row.
use crate::agent::Agent;
use crate::agent::placement::{Choice, place};
use crate::agent::space::Space;
use crate::catalogue::moves;
use crate::catalogue::{
    CopyRecord, CopyState, DriveRecord, GroupRecord, Life, MoveRecord, PoolRecord, RowRecord, Versioned,
};
use crate::error::{Error, Result};
use crate::moves::MoveChange;
use base::BLOCK_BYTES;
use base::limits::MAX_DRIVES;
use std::collections::BTreeSet;

impl Agent {
    /// Chooses the extents of a group's next row. `avoid`: drives that are not to be used.
    pub(in crate::agent) fn choose_row(
        &self,
        space: &Space,
        pool: &PoolRecord,
        group: &GroupRecord,
        row: u32,
        before: &[String],
        avoid: &[String],
    ) -> Result<RowRecord> {
        let drives = self.pool_drives(pool)?;
        self.refuse_incomplete(pool, &drives)?;
        let [there, all] = self.candidates(space, &drives, (group, row), avoid)?;
        let chosen = self.choose_among(space, pool, (&drives, &there), group, before);
        let on = chosen.or_else(|error| {
            if all == there {
                return Err(error);
            }
            // What is short is told of the drives that are there.
            self.choose_among(space, pool, (&drives, &all), group, before).map_err(|_| error)
        })?;
        let extents = on.into_iter().map(|drive| {
            let extent = space.first_free(drive).expect("a chosen drive has a free extent");
            (drive.clone(), extent)
        });
        Ok(RowRecord { row, extents: extents.collect(), grant: group.grants })
    }

    /// The drives of a pool as a group's row may use them: only those that are there, and with those that are away.
    fn candidates(
        &self,
        space: &Space,
        drives: &[Versioned<DriveRecord>],
        (group, row): (&GroupRecord, u32),
        avoid: &[String],
    ) -> Result<[Vec<Choice>; 2]> {
        let moving = self.store.get::<MoveRecord>(&moves::key(&group.id))?.map(|moving| moving.record.change);
        let left = |id: &str| matches!(&moving, Some(MoveChange::Leave { drive }) if drive == id);
        let free = |drive: &DriveRecord| !left(&drive.id) && !avoid.contains(&drive.id);
        // Those of which it is known that the table has them: a row that is only handed out may come to nothing.
        let used = row.min(group.rows_used.max(1));
        let mut in_use = BTreeSet::new();
        for earlier in self.rows_of(&group.id)?.into_iter().filter(|earlier| earlier.row < used) {
            in_use.extend(earlier.record.extents.into_iter().map(|(drive, _)| drive));
        }
        // Drives of the group's table that hold all that they should, and drives that are new to it, while the
        // table has room for a whole row of them. The place of one that was left is another one's then; while extents move
        // it may be that of one that takes over.
        let keeps = |copy: &&CopyRecord| {
            moving.is_some() || copy.state == CopyState::Current || in_use.contains(&copy.drive)
        };
        let listed = group.copies.iter().filter(keeps).count();
        let room = listed + usize::from(group.legs) * usize::from(group.columns) <= MAX_DRIVES;
        let complete = |id: &str| {
            let copy = group.copies.iter().find(|copy| copy.drive == id);
            row == 0 || copy.map_or(room, |copy| copy.state == CopyState::Current)
        };
        let there: Vec<Choice> = drives
            .iter()
            .map(|drive| {
                super::choice(space, drive, free(drive) && complete(&drive.id) && self.is_there(drive))
            })
            .collect();
        let mut all = there.clone();
        for (choice, drive) in all.iter_mut().zip(drives) {
            let stays = drive.life == Life::Ready && drive.leaving.is_none();
            choice.away = !choice.usable && stays && free(drive) && in_use.contains(&drive.id);
            choice.usable |= choice.away;
        }
        Ok([there, all])
    }

    /// The drives of a row, ordered by leg, then column.
    fn choose_among<'a>(
        &self,
        space: &Space,
        pool: &PoolRecord,
        (drives, choices): (&'a [Versioned<DriveRecord>], &[Choice]),
        group: &GroupRecord,
        before: &[String],
    ) -> Result<Vec<&'a String>> {
        let mut refused = None;
        // Where the row before is; or else wherever there is most space.
        for before in [before, &[]] {
            let places = place(&pool.name, choices, group.legs, group.columns, before)?;
            let on: Vec<&String> = places.iter().map(|index| &drives[*index].record.id).collect();
            match self.may_take(space, pool, (drives, choices), &on, group.columns) {
                Ok(()) => return Ok(on),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.expect("it was refused twice"))
    }

    /// Refuses a row that takes what the pool keeps back.
    fn may_take(
        &self,
        space: &Space,
        pool: &PoolRecord,
        (drives, choices): (&[Versioned<DriveRecord>], &[Choice]),
        on: &[&String],
        columns: u8,
    ) -> std::result::Result<(), Error> {
        let spare = crate::agent::moving::spare_extents(pool, drives, |id| {
            space.taken(id) + on.iter().filter(|on| **on == id).count() as u32
        });
        let free: u64 = choices.iter().filter(|c| c.usable).map(|c| u64::from(c.free)).sum();
        let extent_bytes = u64::from(pool.extent_blocks) * BLOCK_BYTES as u64;
        let spare = spare * extent_bytes;
        if free.saturating_sub(on.len() as u64) * extent_bytes < pool.reserve_bytes.saturating_add(spare) {
            return Err(super::nothing_above_reserve(pool, spare));
        }
        self.check_kept(space, pool, on, columns)
    }
}
