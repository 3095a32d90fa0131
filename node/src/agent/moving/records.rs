//! A move in the catalogue and on the drives that it leaves or takes: planned, prepared, switched, tidied up or undone.
//!
//! See `catalogue::moves` for the crash story. Everything here holds the verbs' lock.
use super::plan::{Asked, Place, successors};
use super::{Next, locked};
use crate::agent::rows::{choice, wipe_extents};
use crate::agent::space::Space;
use crate::agent::{Agent, volumes};
use crate::catalogue::moves::{self, Moved, Stage};
use crate::catalogue::{
    CopyRecord, CopyState, DriveRecord, ExtentRecord, GroupRecord, MoveRecord, PoolRecord, RowRecord,
    Severity, Versioned, VolumeRecord, records,
};
use crate::drives::Media;
use crate::error::{Error, Kind, Result};
use crate::moves::{Holds, MoveChange, MoveDrive, MoveEnd, MoveOrder, MovedExtent};
use base::{BLOCK_BYTES, Blocks, ExtentNo};
use std::collections::{BTreeMap, BTreeSet};
use volume::label::extent_start;
use volume::layout::extent::SUPERBLOCKS;

/// A place of a row that moves, and the drive that it goes to.
pub(super) type Step = ((RowRecord, usize), String);

impl Agent {
    /// Chooses successors for what a group has on a drive: the drive of each place.
    pub(super) fn choose_successors(
        &self,
        drives: &mut [crate::agent::placement::Choice],
        (volume, group): (&VolumeRecord, &GroupRecord),
        drive: &DriveRecord,
        places: &[(RowRecord, usize)],
    ) -> Result<Vec<String>> {
        let rows = self.rows_of(&group.id)?;
        let known: BTreeSet<String> =
            rows.iter().flat_map(|row| &row.extents).map(|(id, _)| id.clone()).collect();
        let wanted: Vec<Place> = places
            .iter()
            .map(|(row, at)| Place {
                row: row.row,
                drives: row.extents.iter().map(|(id, _)| id.clone()).collect(),
                at: *at,
            })
            .collect();
        let path = drive.path.display().to_string();
        let asked = Asked { pool: &volume.pool, volume: &volume.name, drive: &path, columns: group.columns };
        let only = drive.leaving.as_ref().and_then(|leaving| leaving.to.as_ref());
        // A drive that holds rows of the group and lacks something cannot take more.
        let lacks = |id: &String| {
            let copy = group.copies.iter().find(|copy| copy.drive == *id);
            copy.is_some_and(|copy| copy.state != CopyState::Current) && known.contains(id)
        };
        let usable: Vec<bool> = drives.iter().map(|choice| choice.usable).collect();
        for choice in drives.iter_mut() {
            let other = only.is_some_and(|only| *only != choice.id);
            choice.usable = choice.usable && !other && choice.id != drive.id && !lacks(&choice.id);
        }
        let found = successors(asked, drives, &known, &wanted);
        for (choice, usable) in drives.iter_mut().zip(usable) {
            choice.usable = usable;
        }
        Ok(found?.into_iter().map(|index| drives[index].id.clone()).collect())
    }

    /// The drives of a pool as placement sees them.
    ///
    /// # Errors
    /// `NoSpace` in a pool that was imported and is not complete.
    pub(super) fn choices(
        &self,
        space: &Space,
        pool: &PoolRecord,
    ) -> Result<Vec<crate::agent::placement::Choice>> {
        let drives = self.pool_drives(pool)?;
        self.refuse_incomplete(pool, &drives)?;
        let there = |drive: &DriveRecord| self.is_there(drive) && self.open_drive(drive).is_ok();
        Ok(drives.iter().map(|drive| choice(space, drive, there(drive))).collect())
    }

    /// Plans that a group leaves a drive, and takes the extents for it. With nothing there, the move only tells the group
    /// to leave it.
    pub(super) fn plan_leave(&self, volume: &VolumeRecord, id: &str, holds: &Holds) -> Result<()> {
        let mut space = self.lock();
        let (drive, group) = (self.drive(id)?, self.group(&volume.group)?);
        let pool = self.pool(&volume.pool)?;
        if drive.leaving.is_none() || self.store.get::<MoveRecord>(&moves::key(&group.id))?.is_some() {
            return Ok(());
        }
        let mut places = Vec::with_capacity(holds.extents.len());
        for extent in &holds.extents {
            places.push(self.place_of(&group, id, *extent)?);
        }
        let mut choices = self.choices(&space, &pool)?;
        let avoid = locked(&self.moving.known).get(&volume.id).map(|known| known.avoid.clone());
        let avoid = avoid.unwrap_or_default();
        let mut without = choices.clone();
        without.iter_mut().for_each(|choice| choice.usable &= !avoid.contains(&choice.id));
        let of = (volume, &group.record);
        let to = match self.choose_successors(&mut without, of, &drive, &places) {
            // What could not be used before is better than nothing.
            Err(_) if !avoid.is_empty() => self.choose_successors(&mut choices, of, &drive, &places)?,
            found => found?,
        };
        let change = MoveChange::Leave { drive: id.to_owned() };
        let steps: Vec<Step> = places.into_iter().zip(to).collect();
        self.begin_move(&mut space, group, change, &steps)?;
        drop(space);
        if !steps.is_empty() {
            let what = crate::text::counted(steps.len(), "extent");
            let message = format!("{what} of volume {} leave drive {}", volume.name, drive.path.display());
            self.events.record(Severity::Info, "move_started", &volume.name, &message);
        }
        Ok(())
    }

    /// Takes the extents for a move, on the drives that were chosen, and writes down what goes where.
    pub(super) fn begin_move(
        &self,
        space: &mut Space,
        mut group: Versioned<GroupRecord>,
        change: MoveChange,
        steps: &[Step],
    ) -> Result<()> {
        group.moves += 1;
        let mut record = MoveRecord {
            group: group.id.clone(),
            id: group.moves,
            change,
            places: Vec::with_capacity(steps.len()),
            stage: Stage::Planned,
            started_at: crate::text::now(),
        };
        let mut txn = self.store.txn();
        for ((row, place), to) in steps {
            let extent = space.first_free(to).expect("a chosen drive has a free extent");
            space.take(to, extent);
            let taken = ExtentRecord {
                drive: to.clone(),
                extent,
                group: group.id.clone(),
                row: row.row,
                leg: (place / usize::from(group.columns)) as u8,
                column: (place % usize::from(group.columns)) as u8,
            };
            txn = txn.create(records::extent_key(to, extent), &taken);
            if group.copies.iter().all(|copy| copy.drive != *to) {
                group.copies.push(empty_copy(to));
            }
            let old = row.extents[*place].clone();
            record.places.push(Moved { row: row.row, place: *place, old, new: (to.clone(), extent) });
        }
        let txn = txn.create(moves::key(&group.id), &record).update(records::group_key(&group.name), &group);
        txn.commit().map(drop).inspect_err(|_| {
            record.places.iter().for_each(|place| space.give_back(&place.new.0, place.new.1));
        })
    }

    /// Where in its rows a group has an extent.
    fn place_of(&self, group: &GroupRecord, drive: &str, extent: u32) -> Result<(RowRecord, usize)> {
        let damage = || {
            let message = format!(
                "group {} uses extent {extent} of drive {drive}, of which the catalogue knows nothing",
                group.name
            );
            Error::new(Kind::Damage, group.name.clone(), message)
        };
        let taken = self.store.get::<ExtentRecord>(&records::extent_key(drive, extent))?;
        let taken = taken.filter(|taken| taken.group == group.id).ok_or_else(damage)?;
        let row = self.store.get::<RowRecord>(&records::row_key(&group.id, taken.row))?.ok_or_else(damage)?;
        let place = usize::from(taken.leg) * usize::from(group.columns) + usize::from(taken.column);
        let here = row.extents.get(place).is_some_and(|(id, at)| id == drive && *at == extent);
        if here { Ok((row.record, place)) } else { Err(damage()) }
    }

    /// What a target is to be asked; before it first hears of it, no superblock may lie where it would look for one.
    pub(super) fn order_of(
        &self,
        space: &mut Space,
        group: &GroupRecord,
        mut record: Versioned<MoveRecord>,
    ) -> Result<Next> {
        if record.stage == Stage::Planned {
            if let Err(error) = self.clear_homes(group, &record) {
                tracing::warn!("a drive that is to take over cannot be written: {error}");
                let message = MoveEnd::NotOpened(error.to_string());
                return self.undo(space, &group.name, &message).map(|()| Next::Nothing);
            }
            record.stage = Stage::Asked;
            self.store.txn().update(moves::key(&group.id), &record).commit()?;
        }
        let mut to: Vec<MoveDrive> = Vec::new();
        let mut extents = Vec::with_capacity(record.places.len());
        for place in &record.places {
            let (id, new) = &place.new;
            let at = match to.iter().position(|drive| drive.id == *id) {
                Some(at) => at,
                None => {
                    to.push(MoveDrive { id: id.clone(), path: self.drive(id)?.path.clone() });
                    to.len() - 1
                }
            };
            extents.push(MovedExtent { old: place.old.1, to: at, new: *new });
        }
        let change = record.change.clone();
        Ok(Next::Ask(MoveOrder { id: record.id, change, legs: group.legs, to, extents }))
    }

    /// Whatever a group had at the places of superblocks of a new home goes.
    fn clear_homes(&self, group: &GroupRecord, record: &MoveRecord) -> Result<()> {
        let extent_blocks = self.pool(&group.pool)?.extent_blocks;
        for place in record.places.iter().filter(|place| place.row == 0) {
            let media = self.open_drive(&self.drive(&place.new.0)?.record)?;
            let start = extent_start(ExtentNo::new(place.new.1), extent_blocks);
            for slot in SUPERBLOCKS {
                media.write(start + Blocks::new(u64::from(slot)), &[0; BLOCK_BYTES])?;
            }
            media.flush()?;
        }
        Ok(())
    }

    /// The target has done it: the rows are the new ones.
    pub(super) fn switch_rows(&self, volume: &VolumeRecord) -> Result<()> {
        let _space = self.lock();
        let group = self.group(&self.volume(&volume.name)?.group)?;
        let Some(mut record) = self.store.get::<MoveRecord>(&moves::key(&group.id))? else { return Ok(()) };
        if record.stage == Stage::Switched {
            return Ok(());
        }
        let mut rows: BTreeMap<u32, Versioned<RowRecord>> = BTreeMap::new();
        for row in self.rows_of(&group.id)? {
            rows.insert(row.row, row);
        }
        let mut changed = BTreeSet::new();
        for place in &record.places {
            let at = rows.get_mut(&place.row).and_then(|row| row.record.extents.get_mut(place.place));
            let at = at.filter(|at| **at == place.old).ok_or_else(|| {
                let message =
                    format!("row {} of group {} is not where its move began", place.row, group.name);
                Error::new(Kind::Damage, group.name.clone(), message)
            })?;
            at.clone_from(&place.new);
            changed.insert(place.row);
        }
        record.stage = Stage::Switched;
        let mut txn = self.store.txn().update(moves::key(&group.id), &record);
        for (number, row) in rows.iter().filter(|(number, _)| changed.contains(number)) {
            txn = txn.update(records::row_key(&group.id, *number), row);
        }
        txn.commit().map(drop)
    }

    /// Writes the names to a new home, wipes what was left and gives it back.
    pub(super) fn tidy_move(&self, name: &str) -> Result<()> {
        let mut space = self.lock();
        let volume = self.volume(name)?;
        let (group, pool) = (self.group(&volume.group)?, self.pool(&volume.pool)?);
        let Some(record) = self.store.get::<MoveRecord>(&moves::key(&group.id))? else { return Ok(()) };
        if record.stage != Stage::Switched {
            return Ok(());
        }
        if record.places.iter().any(|place| place.row == 0) {
            self.write_names(&pool, &group, &volume)?;
        }
        let olds: Vec<(String, u32)> = record.places.iter().map(|place| place.old.clone()).collect();
        self.free_extents(&mut space, &pool, group, &record, &olds)?;
        drop(space);
        self.note_moved(&volume);
        if !record.places.is_empty() {
            let what = crate::text::counted(record.places.len(), "extent");
            let from = record.change.from().map(|id| self.drive(id)).transpose()?;
            let from = from.map_or_else(String::new, |drive| format!(" from drive {}", drive.path.display()));
            let message = format!("{what} of volume {name} moved{from}");
            self.events.record(Severity::Info, "move_done", name, &message);
        }
        Ok(())
    }

    /// The target has given it up, and the successors go back.
    pub(super) fn undo_move(&self, volume: &VolumeRecord, why: &MoveEnd) -> Result<()> {
        let mut space = self.lock();
        self.undo(&mut space, &self.volume(&volume.name)?.group, why)
    }

    /// Forgets a move and gives its successors back. Nothing can be on its way to them any more.
    fn undo(&self, space: &mut Space, group: &str, why: &MoveEnd) -> Result<()> {
        let mut group = self.group(group)?;
        let Some(record) = self.store.get::<MoveRecord>(&moves::key(&group.id))? else { return Ok(()) };
        if record.stage == Stage::Switched {
            return Ok(());
        }
        let volume = self.volume_of_group(&group)?;
        let pool = self.pool(&group.pool)?;
        let news: Vec<(String, u32)> = record.places.iter().map(|place| place.new.clone()).collect();
        // A copy that the group never listed is none.
        let listed = self.status_of(&volume.name).map(|status| status.drives);
        let known = |id: &String| listed.iter().flatten().any(|seen| seen.id == *id);
        group.copies.retain(|copy| *copy != empty_copy(&copy.drive) || known(&copy.drive));
        self.free_extents(space, &pool, group, &record, &news)?;
        self.note_given_up(&volume, &record, why);
        if !record.places.is_empty() {
            let message = format!("a move of volume {} was given up, and is tried again: {why}", volume.name);
            self.events.record(Severity::Warning, "move_given_up", &volume.name, &message);
        }
        Ok(())
    }

    /// Wipes extents of a move that is over, gives them back, and forgets the move. What cannot be wiped stays taken until
    /// its drive is there again or leaves the pool.
    fn free_extents(
        &self,
        space: &mut Space,
        pool: &PoolRecord,
        mut group: Versioned<GroupRecord>,
        record: &Versioned<MoveRecord>,
        extents: &[(String, u32)],
    ) -> Result<()> {
        let homes: BTreeSet<&(String, u32)> = record
            .places
            .iter()
            .filter(|place| place.row == 0)
            .flat_map(|place| [&place.old, &place.new])
            .collect();
        let mut per_drive: BTreeMap<&String, Vec<(u32, bool)>> = BTreeMap::new();
        for extent in extents {
            per_drive.entry(&extent.0).or_default().push((extent.1, homes.contains(extent)));
        }
        let mut txn = self.store.txn().remove(moves::key(&group.id), record);
        let mut freed = Vec::new();
        for (id, extents) in per_drive {
            let wiped = self.drive(id).and_then(|drive| self.open_drive(&drive));
            let wiped = wiped.and_then(|media: Media| wipe_extents(&media, pool.extent_blocks, &extents));
            for (extent, _) in extents {
                if wiped.is_ok() {
                    txn = txn.delete(records::extent_key(id, extent));
                    freed.push((id.clone(), extent));
                } else {
                    group.unwiped.push((id.clone(), extent));
                }
            }
            if let Err(error) = wiped {
                tracing::warn!("extents of drive {id} stay taken: {error}");
            }
        }
        txn.update(records::group_key(&group.name), &group).commit()?;
        for (id, extent) in freed {
            space.give_back(&id, extent);
        }
        Ok(())
    }

    /// The volume of a group.
    fn volume_of_group(&self, group: &GroupRecord) -> Result<VolumeRecord> {
        let volumes = self.store.list::<VolumeRecord>("volumes/")?;
        let found = volumes.into_iter().find(|volume| volume.group == group.name);
        found.map(|volume| volume.record).ok_or_else(|| {
            Error::new(Kind::NotFound, group.name.clone(), format!("group {} has no volume", group.name))
        })
    }
}

/// The record of a copy that has nothing: the group is to list it.
fn empty_copy(drive: &str) -> CopyRecord {
    CopyRecord {
        state: CopyState::Stale,
        stale_since_seq: Some(0),
        stale_since_ckpt: Some(0),
        ..volumes::current_copy(drive)
    }
}
