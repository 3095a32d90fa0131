//! A move in the catalogue and on the drives that it leaves or takes: planned, prepared, switched, tidied up or undone.
//!
//! See `catalogue::moves` for the crash story. Everything here holds the lock of verbs.
use super::plan::{Asked, Place, successors};
use super::{Next, locked};
use crate::agent::attach::drives_concerned;
use crate::agent::locks::Verb;
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
use base::limits::MAX_DRIVES;
use base::{BLOCK_BYTES, Blocks, ExtentNo};
use std::collections::{BTreeMap, BTreeSet};
use volume::label::extent_start;
use volume::layout::extent::SUPERBLOCKS;

/// What successors are for.
pub(super) enum Purpose<'a> {
    /// A drive is left.
    Leave(&'a DriveRecord),
    /// There are to be so many legs.
    Leg(u8),
}

/// A place of a row that moves, and the drive that it goes to.
pub(super) type Step = ((RowRecord, usize), String);

impl Agent {
    /// Chooses successors for what a group has on a drive: the drive of each place.
    pub(super) fn choose_successors(
        &self,
        drives: &mut [crate::agent::placement::Choice],
        (volume, group): (&VolumeRecord, &GroupRecord),
        purpose: &Purpose<'_>,
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
        let (what, left) = match purpose {
            Purpose::Leave(drive) => {
                (format!("drive {} cannot be emptied", drive.path.display()), Some(drive))
            }
            Purpose::Leg(legs) => (format!("volume {} cannot have {legs} legs", volume.name), None),
        };
        let asked = Asked { pool: &volume.pool, volume: &volume.name, what: &what, columns: group.columns };
        let only = left.and_then(|drive| drive.leaving.as_ref()).and_then(|leaving| leaving.to.as_ref());
        // A drive that holds rows of the group and lacks something cannot take more.
        let lacks = |id: &String| {
            let copy = group.copies.iter().find(|copy| copy.drive == *id);
            copy.is_some_and(|copy| copy.state != CopyState::Current) && known.contains(id)
        };
        let usable: Vec<bool> = drives.iter().map(|choice| choice.usable).collect();
        for choice in drives.iter_mut() {
            let other = only.is_some_and(|only| *only != choice.id);
            let is_left = left.is_some_and(|drive| drive.id == choice.id);
            choice.usable = choice.usable && !other && !is_left && !lacks(&choice.id);
        }
        let found = successors(asked, drives, &known, &wanted);
        for (choice, usable) in drives.iter_mut().zip(usable) {
            choice.usable = usable;
        }
        Ok(found?.into_iter().map(|index| drives[index].id.clone()).collect())
    }

    /// The drives of a pool as placement sees them; each is opened.
    ///
    /// # Errors
    /// `NoSpace` in a pool that was imported and is not complete.
    pub(super) fn choices(
        &self,
        verb: &mut Verb<'_>,
        pool: &PoolRecord,
    ) -> Result<Vec<crate::agent::placement::Choice>> {
        let drives = self.pool_drives(pool)?;
        self.refuse_incomplete(pool, &drives)?;
        let opens = verb.aside(|| self.openable(&drives));
        Ok(drives.iter().map(|drive| choice(verb, drive, opens.contains(&drive.id))).collect())
    }

    /// As `choices`, for who may not wait for a drive: none is opened.
    pub(super) fn choices_unopened(
        &self,
        space: &Space,
        pool: &PoolRecord,
    ) -> Result<Vec<crate::agent::placement::Choice>> {
        let drives = self.pool_drives(pool)?;
        self.refuse_incomplete(pool, &drives)?;
        Ok(drives.iter().map(|drive| choice(space, drive, self.is_there(drive))).collect())
    }

    /// Plans that a group leaves a drive, and takes the extents for it. With nothing there, the move only tells the group
    /// to leave it.
    pub(super) fn plan_leave(&self, volume: &VolumeRecord, id: &str, holds: &Holds) -> Result<()> {
        let mut space = self.lock();
        let pool = self.pool(&volume.pool)?;
        let mut choices = self.choices(&mut space, &pool)?;
        let (drive, group) = (self.drive(id)?, self.group(&volume.group)?);
        if drive.leaving.is_none() || self.store.get::<MoveRecord>(&moves::key(&group.id))?.is_some() {
            return Ok(());
        }
        let mut places = Vec::with_capacity(holds.extents.len());
        for extent in &holds.extents {
            places.push(self.place_of(&group, id, *extent)?);
        }
        let avoid = locked(&self.moving.known).get(&volume.id).map(|known| known.avoid.clone());
        let avoid = avoid.unwrap_or_default();
        let mut without = choices.clone();
        without.iter_mut().for_each(|choice| choice.usable &= !avoid.contains(&choice.id));
        let (of, purpose) = ((volume, &group.record), Purpose::Leave(&drive));
        let to = match self.choose_successors(&mut without, of, &purpose, &places) {
            // What could not be used before is better than nothing.
            Err(_) if !avoid.is_empty() => self.choose_successors(&mut choices, of, &purpose, &places)?,
            found => found?,
        };
        let change = MoveChange::Leave { drive: id.to_owned() };
        let steps: Vec<Step> = places.into_iter().zip(to).collect();
        self.begin_move(&mut space, group, change, &steps)?;
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
        self.check_places(&group, steps)?;
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
                unbacked: false,
            };
            txn = txn.create(records::extent_key(to, extent), &taken);
            if group.copies.iter().all(|copy| copy.drive != *to) {
                group.copies.push(empty_copy(to));
            }
            // A leg that is added is copied from leg 0.
            let old =
                row.extents.get(*place).unwrap_or(&row.extents[place % usize::from(group.columns)]).clone();
            record.places.push(Moved { row: row.row, place: *place, old, new: (to.clone(), extent) });
        }
        let txn = txn.create(moves::key(&group.id), &record).update(records::group_key(&group.name), &group);
        txn.commit().map(drop).inspect_err(|_| {
            record.places.iter().for_each(|place| space.give_back(&place.new.0, place.new.1));
        })
    }

    /// Refuses a move to more drives than a group can have: its target would find no place for them, and the next one would
    /// not know which of all those drives to open.
    fn check_places(&self, group: &GroupRecord, steps: &[Step]) -> Result<()> {
        let mut drives = drives_concerned(group, &self.rows_of(&group.id)?, None);
        drives.extend(steps.iter().map(|(_, to)| to.clone()));
        if drives.len() <= MAX_DRIVES {
            return Ok(());
        }
        let message = format!("group {} would be on more than {MAX_DRIVES} drives", group.name);
        Err(Error::new(Kind::NoSpace, group.name.clone(), message)
            .hint("a drive that the group has already may take over, if it has room"))
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
        space: &mut Verb<'_>,
        group: &GroupRecord,
        mut record: Versioned<MoveRecord>,
    ) -> Result<Next> {
        if record.stage == Stage::Planned {
            if let Err(error) = space.aside(|| self.clear_homes(group, &record)) {
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
        let dropped = match &change {
            MoveChange::DropLeg { .. } => self.last_leg(group)?.into_iter().collect(),
            _ => Vec::new(),
        };
        Ok(Next::Ask(MoveOrder { id: record.id, change, legs: group.legs, to, extents, dropped }))
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

    /// The target has done it: the rows are the new ones. `used`: so many the group has.
    pub(super) fn switch_rows(&self, volume: &VolumeRecord, used: u32) -> Result<()> {
        let _space = self.lock();
        let mut group = self.group(&self.volume(&volume.name)?.group)?;
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
            let extents = rows.get_mut(&place.row).map(|row| &mut row.record.extents);
            let switched = match (&record.change, extents) {
                (MoveChange::AddLeg, Some(extents)) if extents.len() == place.place => {
                    extents.push(place.new.clone());
                    true
                }
                (MoveChange::Leave { .. } | MoveChange::Shift { .. }, Some(extents)) => {
                    let at = extents.get_mut(place.place).filter(|at| **at == place.old);
                    at.map(|at| at.clone_from(&place.new)).is_some()
                }
                _ => false,
            };
            if !switched {
                let message =
                    format!("row {} of group {} is not where its move began", place.row, group.name);
                return Err(Error::new(Kind::Damage, group.name.clone(), message));
            }
            changed.insert(place.row);
        }
        match record.change {
            MoveChange::AddLeg => group.legs += 1,
            MoveChange::DropLeg { .. } => group.legs -= 1,
            _ => {}
        }
        // A row that the target has in hand, too: it cannot be used as it is any more, and goes back when it is wanted.
        let used = if matches!(record.change, MoveChange::DropLeg { .. }) { u32::MAX } else { used };
        let cut = cut_rows(&mut rows, group.row_extents(), used);
        changed.extend(cut.iter().map(|place| place.row));
        record.places.extend(cut);
        record.stage = Stage::Switched;
        let txn = self.store.txn().update(moves::key(&group.id), &record);
        let mut txn = txn.update(records::group_key(&group.name), &group);
        for (number, row) in rows.iter().filter(|(number, _)| changed.contains(number)) {
            txn = txn.update(records::row_key(&group.id, *number), row);
        }
        txn.commit().map(drop)
    }

    /// Extents of a leg that was not added after all, in rows that were granted meanwhile, go back. Returns whether there
    /// are any.
    pub(super) fn cut_strays(&self, group: &Versioned<GroupRecord>, used: u32) -> Result<bool> {
        let rows = self.rows_of(&group.id)?;
        let mut rows: BTreeMap<u32, Versioned<RowRecord>> =
            rows.into_iter().map(|row| (row.row, row)).collect();
        let places = cut_rows(&mut rows, group.row_extents(), used);
        if places.is_empty() {
            return Ok(false);
        }
        let mut group = group.clone();
        group.moves += 1;
        let mut txn = self.store.txn();
        for place in &places {
            // The last place of a row that is cut stands for all of them.
            if places.iter().all(|other| other.row != place.row || other.place <= place.place) {
                txn = txn.update(records::row_key(&group.id, place.row), &rows[&place.row]);
            }
        }
        let record = MoveRecord {
            group: group.id.clone(),
            id: group.moves,
            change: MoveChange::DropLeg { leg: group.legs },
            places,
            stage: Stage::Switched,
            started_at: crate::text::now(),
        };
        let txn = txn.update(records::group_key(&group.name), &group);
        txn.create(moves::key(&group.id), &record).commit().map(|_| true)
    }

    /// The drives of a group's last leg.
    pub(super) fn last_leg(&self, group: &GroupRecord) -> Result<BTreeSet<String>> {
        let (end, columns) = (group.row_extents(), usize::from(group.columns));
        let rows = self.rows_of(&group.id)?;
        let last = rows.iter().flat_map(|row| row.extents.iter().take(end).skip(end - columns));
        Ok(last.map(|(id, _)| id.clone()).collect())
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
        let home: Vec<_> =
            record.places.iter().filter(|place| place.row == 0).map(|place| place.old.clone()).collect();
        if !home.is_empty() {
            space.aside(|| self.carry_headers(&pool, &group, &volume, &home))?;
        }
        // What a leg that was added was copied from stays.
        let stays = |place: &Moved| record.change == MoveChange::AddLeg && place.new != place.old;
        let olds: Vec<(String, u32)> =
            record.places.iter().filter(|place| !stays(place)).map(|place| place.old.clone()).collect();
        let legs = group.legs;
        self.free_extents(&mut space, &pool, &group, &record, &olds, |_| ())?;
        self.note_moved(&volume);
        let what = crate::text::counted(record.places.len(), "extent");
        let message = match &record.change {
            _ if record.places.is_empty() => return Ok(()),
            MoveChange::Leave { drive } | MoveChange::Shift { drive } => {
                let from = self.drive(drive)?;
                format!("{what} of volume {name} moved from drive {}", from.path.display())
            }
            MoveChange::AddLeg | MoveChange::DropLeg { .. } => {
                format!("volume {name} has {} now", crate::text::counted(usize::from(legs), "leg"))
            }
        };
        self.events.record(Severity::Info, "move_done", name, &message);
        Ok(())
    }

    /// The target has given it up, and the successors go back.
    pub(super) fn undo_move(&self, volume: &VolumeRecord, why: &MoveEnd) -> Result<()> {
        let mut space = self.lock();
        self.undo(&mut space, &self.volume(&volume.name)?.group, why)
    }

    /// Forgets a move and gives its successors back. Nothing can be on its way to them any more.
    fn undo(&self, space: &mut Verb<'_>, group: &str, why: &MoveEnd) -> Result<()> {
        let group = self.group(group)?;
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
        self.free_extents(space, &pool, &group, &record, &news, |group| {
            group.copies.retain(|copy| *copy != empty_copy(&copy.drive) || known(&copy.drive));
        })?;
        self.note_given_up(&volume, &record, why);
        if !record.places.is_empty() {
            let message = format!("a move of volume {} was given up, and is tried again: {why}", volume.name);
            self.events.record(Severity::Warning, "move_given_up", &volume.name, &message);
        }
        Ok(())
    }

    /// Wipes extents of a move that is over, gives them back, and forgets the move. What cannot be wiped stays taken until
    /// its drive is there again or leaves the pool. `change`: what else becomes of the group's record.
    fn free_extents(
        &self,
        space: &mut Verb<'_>,
        pool: &PoolRecord,
        group: &GroupRecord,
        record: &Versioned<MoveRecord>,
        extents: &[(String, u32)],
        change: impl FnOnce(&mut GroupRecord),
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
        let wipe = |(id, extents): (&String, &Vec<(u32, bool)>)| {
            let media = self.drive(id).and_then(|drive| self.open_drive(&drive));
            media.and_then(|media: Media| wipe_extents(&media, pool.extent_blocks, extents))
        };
        let wiped: Vec<Result<()>> =
            space.aside(|| per_drive.iter().map(|(id, of)| wipe((id, of))).collect());
        // What serves it may have changed its record meanwhile.
        let mut group = self.group(&group.name)?;
        change(&mut group);
        let mut txn = self.store.txn().remove(moves::key(&group.id), record);
        let mut freed = Vec::new();
        for ((id, extents), wiped) in per_drive.into_iter().zip(wiped) {
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
    pub(super) fn volume_of_group(&self, group: &GroupRecord) -> Result<VolumeRecord> {
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

/// Cuts rows that a group has to so many extents; returns what was cut off.
fn cut_rows(rows: &mut BTreeMap<u32, Versioned<RowRecord>>, extents: usize, used: u32) -> Vec<Moved> {
    let mut cut = Vec::new();
    for row in rows.values_mut().filter(|row| row.row < used) {
        for place in extents..row.extents.len() {
            let old = row.extents[place].clone();
            cut.push(Moved { row: row.row, place, new: old.clone(), old });
        }
        row.extents.truncate(extents);
    }
    cut
}

#[cfg(test)]
mod tests;
