//! Rows: handing extents to a group and taking them back.
//!
//! Crash story: the keys of a row and of its extents are created in one transaction, before anything is
//! written to the extents; a row that no superblock names stays handed out and is offered to the target again
//! when it starts, so that nothing is lost by a crash in between. On the way back the superblock slots and the
//! headers are wiped and flushed before the keys go: an extent that is free has nobody's header. The transaction that
//! frees it takes it from every list of who is to wipe it, too: it may be somebody else's at once, and a list that still
//! had it would wipe what that one writes. So whoever goes by such a list asks first whose the extent is.
//!
//! A row may lie on drives that the group has nothing on yet: they enter its list of copies in the same transaction,
//! before its target hears of them, so that a stale mark of theirs finds its entry. The list's order is the
//! catalogue's own; the engine has an order of its own and is told ids. A row goes back when its target says, by
//! the number of the grant, that it refused it: then nobody can write to its extents any more.
mod choose;

use super::Agent;
use super::locks::Verb;
use super::placement::Choice;
use super::space::Space;
use super::volumes::current_copy;
use crate::catalogue::moves::{self, Stage};
use crate::catalogue::{
    CopyState, DeletedRecord, DriveRecord, DriveState, ExtentRecord, GroupRecord, Life, MoveRecord,
    PoolRecord, RowRecord, Severity, Txn, Versioned, deleted, records,
};
use crate::drives::{LabelState, Media, read_label};
use crate::error::{Error, Kind, Result};
use crate::target_spec::{Row, RowExtent};
use base::{BLOCK_BYTES, Blocks, ExtentNo};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use volume::label::extent_start;
use volume::layout::extent::SUPERBLOCKS;

/// Rows that a group has handed out but not in use, at most: the one that lets it grow while the agent is away.
pub const ROWS_AHEAD: u32 = 1;

impl Agent {
    /// Of a pool that was imported and is not all there nobody knows what lies where.
    pub(super) fn refuse_incomplete(
        &self,
        pool: &PoolRecord,
        drives: &[Versioned<DriveRecord>],
    ) -> Result<()> {
        let Some(lacks) = super::rebuild::incomplete(pool, drives) else { return Ok(()) };
        let name = &pool.name;
        let message =
            format!("pool {name} was imported and is not all there, so nothing new is handed out: {lacks}");
        Err(Error::new(Kind::NoSpace, name.clone(), message).hint(super::rebuild::way_out(name)))
    }

    /// Adds to a transaction that a group takes these extents.
    pub(super) fn take_row<'a>(txn: Txn<'a>, group: &GroupRecord, row: &RowRecord) -> Txn<'a> {
        let txn = txn.create(records::row_key(&group.id, row.row), row);
        extents_of(group, row)
            .fold(txn, |txn, extent| txn.create(records::extent_key(&extent.drive, extent.extent), &extent))
    }

    /// Hands a group its next row, or the one that it was handed before and did not hear of. If that one was
    /// refused, it goes back first, and drives that are as yet unproven in this group are passed over once.
    ///
    /// # Errors
    /// `NoSpace`, or the catalogue's.
    pub fn grant_row(&self, group_name: &str, row: u32, refused: Option<u64>) -> Result<Row> {
        let mut space = self.records();
        let mut group = self.group(group_name)?;
        let pool = self.pool(&group.pool)?;
        let mut avoid = Vec::new();
        if let Some(granted) = self.store.get::<RowRecord>(&records::row_key(&group.id, row))? {
            if refused != Some(granted.grant) || row < group.rows_used {
                return self.row_of(&group, &granted);
            }
            avoid = self.give_back(&mut group, &granted)?;
        }
        let last = match row.checked_sub(1) {
            Some(last) => self.store.get::<RowRecord>(&records::row_key(&group.id, last))?,
            None => None,
        };
        let copies = group.row_extents();
        let before: Vec<String> = last
            .map_or_else(Vec::new, |last| last.extents.iter().take(copies).map(|(d, _)| d.clone()).collect());
        group.grants += 1;
        let chosen = self.choose_row(&space, &pool, &group, row, &before, &avoid).or_else(|error| {
            // What was refused once is better than nothing.
            if avoid.is_empty() {
                Err(error)
            } else {
                self.choose_row(&space, &pool, &group, row, &before, &[])
            }
        })?;
        let mut chosen = chosen;
        self.add_new_leg(&space, &pool, &group, &mut chosen)?;
        if chosen.extents.len() > group.row_extents() {
            let on: Vec<&String> = chosen.drives().collect();
            self.check_kept(&space, &pool, &on, group.columns)?;
        }
        for (drive, _) in &chosen.extents {
            if group.copies.iter().all(|copy| copy.drive != *drive) {
                group.copies.push(current_copy(drive));
            }
        }
        let txn = self.store.txn().update(records::group_key(&group.name), &group);
        Self::take_row(txn, &group, &chosen).commit()?;
        for (drive, extent) in &chosen.extents {
            space.take(drive, *extent);
        }
        drop(space);
        let drives: Vec<&str> = chosen.extents.iter().map(|(drive, _)| drive.as_str()).collect();
        let mut message = format!("group {group_name} was given row {row}, on drives {}", drives.join(" "));
        let given = self.row_of(&group, &chosen)?;
        let away: Vec<&str> = given.extents.iter().filter(|e| e.away).map(|e| e.drive.as_str()).collect();
        if !away.is_empty() {
            message = format!("{message}, of which {} will have it when it is back", away.join(" "));
        }
        self.events.record(Severity::Info, "row_added", group_name, &message);
        Ok(given)
    }

    /// A row as its target wants it.
    pub(super) fn row_of(&self, group: &GroupRecord, row: &RowRecord) -> Result<Row> {
        let mut extents = Vec::with_capacity(row.extents.len());
        for (id, extent) in &row.extents {
            let drive = self.drive(id)?;
            let copy = group.copies.iter().find(|copy| copy.drive == *id);
            let complete = copy.is_none_or(|copy| copy.state == CopyState::Current);
            extents.push(RowExtent {
                drive: id.clone(),
                path: drive.path.clone(),
                blocks: drive.blocks,
                extent: *extent,
                away: !complete || drive.state != DriveState::Online || !self.is_there(&drive),
            });
        }
        Ok(Row { row: row.row, extents, grant: row.grant })
    }

    /// A drive of the catalogue.
    pub(super) fn drive(&self, id: &str) -> Result<Versioned<DriveRecord>> {
        self.store
            .get(&records::drive_key(id))?
            .ok_or_else(|| Error::new(Kind::NotFound, id, format!("there is no drive {id} in the catalogue")))
    }

    /// The rows of a group, in order.
    pub(super) fn rows_of(&self, group: &str) -> Result<Vec<Versioned<RowRecord>>> {
        self.store.list(&format!("rows/{group}/"))
    }

    /// Extents of a drive that an import found in use and could not tell the row of.
    pub(super) fn unbacked_on(&self, drive: &str) -> Result<Vec<ExtentRecord>> {
        let extents = self.store.list::<ExtentRecord>(&format!("extents/{drive}/"))?;
        Ok(extents.into_iter().map(|extent| extent.record).filter(|extent| extent.unbacked).collect())
    }

    /// Opens the drives of a row, each checked to be the one it should be.
    pub(super) fn open_drives(&self, row: &RowRecord) -> Result<BTreeMap<String, Media>> {
        let mut opened = BTreeMap::new();
        for (id, _) in &row.extents {
            if !opened.contains_key(id) {
                opened.insert(id.clone(), self.open_drive(&self.drive(id)?.record)?);
            }
        }
        Ok(opened)
    }

    /// Those of these drives that can be opened.
    pub(super) fn openable(&self, drives: &[Versioned<DriveRecord>]) -> BTreeSet<String> {
        let opens = |drive: &&Versioned<DriveRecord>| self.is_there(drive) && self.open_drive(drive).is_ok();
        drives.iter().filter(opens).map(|drive| drive.id.clone()).collect()
    }

    /// Opens a drive of a pool and checks its label, and that there is one of it.
    pub(super) fn open_drive(&self, drive: &DriveRecord) -> Result<Media> {
        if let Some(error) = self.is_doubled(drive) {
            return Err(error);
        }
        let media = Media::open(&drive.path)?;
        match read_label(&media)? {
            LabelState::Ours { label, .. }
                if label.drive.to_string() == drive.id && label.pool.to_string() == drive.pool =>
            {
                Ok(media)
            }
            _ => {
                let name = drive.path.display().to_string();
                let message = format!("{name} is not the drive {} any more", drive.id);
                Err(Error::new(Kind::NotFound, name, message)
                    .hint("plinth status looks for it under other paths"))
            }
        }
    }

    /// Takes back a row that its target refused: forgets drives that the group has nothing else on, and returns them.
    /// Its extents stay taken until a verb has wiped them (`moving/drives.rs`), at once if it can: a target waits here for
    /// its next row, and must not wait for a drive. The entry of a copy that is marked stays: the mark must be found again.
    fn give_back(
        &self,
        group: &mut Versioned<GroupRecord>,
        row: &Versioned<RowRecord>,
    ) -> Result<Vec<String>> {
        let rows = self.rows_of(&group.id)?;
        let elsewhere = |id: &String| {
            let mut others = rows.iter().filter(|other| other.row != row.row);
            others.any(|other| other.extents.iter().any(|(drive, _)| drive == id))
        };
        let unproven: Vec<String> =
            row.extents.iter().map(|(id, _)| id).filter(|id| !elsewhere(id)).cloned().collect();
        group.unwiped.extend(row.extents.iter().cloned());
        group.copies.retain(|copy| copy.state != CopyState::Current || !unproven.contains(&copy.drive));
        let txn = self.store.txn().remove(records::row_key(&group.id, row.row), row);
        group.version = txn.update(records::group_key(&group.name), group).commit()?;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.extend(row.extents.iter().map(|extent| (group.id.clone(), extent.clone())));
        drop(refused);
        self.moving.look_now();
        Ok(unproven)
    }

    /// Whether a group has an extent. One that it was to wipe may be free by now, or somebody else's. Only verbs free
    /// extents, so one that holds their lock still knows behind what it did aside.
    pub(super) fn has_extent(&self, group: &str, (drive, extent): &(String, u32)) -> Result<bool> {
        let taken = self.store.get::<ExtentRecord>(&records::extent_key(drive, *extent))?;
        Ok(taken.is_some_and(|taken| taken.group == group))
    }

    /// Everything that a group has, by drive; with each whether superblocks may be there.
    fn all_extents(
        &self,
        pool: &PoolRecord,
        group: &GroupRecord,
        rows: &[Versioned<RowRecord>],
    ) -> Result<BTreeMap<String, Vec<(u32, bool)>>> {
        let mut per_drive: BTreeMap<String, Vec<(u32, bool)>> = BTreeMap::new();
        let mut add = |extent: &(String, u32), home: bool| -> Result<()> {
            if self.has_extent(&group.id, extent)? {
                per_drive.entry(extent.0.clone()).or_default().push((extent.1, home));
            }
            Ok(())
        };
        for row in rows {
            row.extents.iter().try_for_each(|extent| add(extent, row.row == 0))?;
        }
        group.unwiped.iter().try_for_each(|extent| add(extent, true))?;
        // What an import could not tell the row of.
        for drive in &pool.drives {
            for extent in self.unbacked_on(drive)? {
                add(&(extent.drive, extent.extent), true)?;
            }
        }
        let moving = self.store.get::<MoveRecord>(&moves::key(&group.id))?;
        for place in moving.iter().flat_map(|moving| &moving.places) {
            let switched = moving.iter().any(|moving| moving.stage == Stage::Switched);
            add(if switched { &place.old } else { &place.new }, true)?;
        }
        Ok(per_drive)
    }

    /// Takes back all that a group has: wipes superblocks, then headers, then frees the extents. What lies on a
    /// drive that is not there cannot be wiped; it stays taken until the drive is back or removed. `txn` forgets the
    /// group, and with it who may wipe the extents: cut short before that, all of them are still its own.
    ///
    /// # Errors
    /// The catalogue's.
    pub(super) fn take_back(
        &self,
        space: &mut Verb<'_>,
        pool: &PoolRecord,
        group: &GroupRecord,
        txn: Txn<'_>,
    ) -> Result<()> {
        let rows = self.rows_of(&group.id)?;
        let mut per_drive = self.all_extents(pool, group, &rows)?;
        let mut left = Vec::new();
        space.aside(|| {
            per_drive.retain(|id, extents| {
                let drive = self.drive(id).and_then(|drive| self.open_drive(&drive));
                let wiped = drive.and_then(|media| wipe_extents(&media, pool.extent_blocks, extents));
                if let Err(error) = &wiped {
                    tracing::warn!("extents of drive {id} stay taken: {error}");
                    left.extend(extents.iter().map(|(extent, _)| (id.clone(), *extent)));
                }
                wiped.is_ok()
            });
        });
        let mut txn = txn.delete(moves::key(&group.id));
        for row in &rows {
            txn = txn.remove(records::row_key(&group.id, row.row), row);
        }
        txn = self.keep_left(txn, group, left)?;
        for (id, extents) in &per_drive {
            for (extent, _) in extents {
                txn = txn.delete(records::extent_key(id, *extent));
            }
        }
        txn.commit()?;
        for (id, extents) in &per_drive {
            for (extent, _) in extents {
                space.give_back(id, *extent);
            }
        }
        Ok(())
    }

    /// Adds to a transaction what a group that goes could not take along.
    fn keep_left<'a>(
        &self,
        mut txn: Txn<'a>,
        group: &GroupRecord,
        mut left: Vec<(String, u32)>,
    ) -> Result<Txn<'a>> {
        if left.is_empty() {
            return Ok(txn);
        }
        for (id, extent) in &left {
            // What an import could not tell the row of is nobody's from now on, like the rest.
            let key = records::extent_key(id, *extent);
            if let Some(mut taken) = self.store.get::<ExtentRecord>(&key)?.filter(|taken| taken.unbacked) {
                taken.unbacked = false;
                txn = txn.update(key, &taken);
            }
        }
        // An agent of an earlier build may have been killed behind this, with the group still there.
        let before = self.store.get::<DeletedRecord>(&deleted::key(&group.id))?;
        left.extend(before.into_iter().flat_map(|before| before.record.extents));
        left.sort();
        left.dedup();
        let record = DeletedRecord { group: group.id.clone(), pool: group.pool.clone(), extents: left };
        Ok(txn.put(deleted::key(&group.id), &record))
    }
}

/// The records of a row's extents.
pub(super) fn extents_of(group: &GroupRecord, row: &RowRecord) -> impl Iterator<Item = ExtentRecord> {
    row.extents.iter().enumerate().map(|(index, (drive, extent))| ExtentRecord {
        drive: drive.clone(),
        extent: *extent,
        group: group.id.clone(),
        row: row.row,
        leg: (index / usize::from(group.columns)) as u8,
        column: (index % usize::from(group.columns)) as u8,
        unbacked: false,
    })
}

/// Wipes superblock slots of home extents, flushes, then headers, flushes.
pub(super) fn wipe_extents(media: &Media, extent_blocks: u32, extents: &[(u32, bool)]) -> Result<()> {
    let zeroes = [0; BLOCK_BYTES];
    for (extent, _) in extents.iter().filter(|(_, home)| *home) {
        let start = extent_start(ExtentNo::new(*extent), extent_blocks);
        for slot in SUPERBLOCKS {
            media.write(start + Blocks::new(u64::from(slot)), &zeroes)?;
        }
    }
    media.flush()?;
    for (extent, _) in extents {
        media.write(extent_start(ExtentNo::new(*extent), extent_blocks), &zeroes)?;
    }
    media.flush()
}

/// What is free is kept back.
fn nothing_above_reserve(pool: &PoolRecord, spare: u64) -> Error {
    let name = &pool.name;
    if spare == 0 {
        let message = format!("pool {name} has no space left above its reserve");
        return Error::new(Kind::NoSpace, name.clone(), message)
            .hint(format!("add drives, or lower it with plinth pool set {name} reserve=SIZE"));
    }
    let kept = crate::text::show_size(spare);
    let message = format!("pool {name} has no space left but its reserve and {kept} for its spares");
    Error::new(Kind::NoSpace, name.clone(), message)
        .hint(format!("add drives, or have fewer with plinth pool set {name} spares=N"))
}

/// A drive as placement sees it.
pub(super) fn choice(space: &Space, drive: &DriveRecord, there: bool) -> Choice {
    let may = drive.state == DriveState::Online && drive.leaving.is_none();
    let usable = drive.life == Life::Ready && may && there;
    Choice {
        id: drive.id.clone(),
        node: drive.node.clone(),
        rack: drive.rack.clone(),
        usable,
        away: false,
        free: space.free(&drive.id),
    }
}

#[cfg(test)]
pub(super) mod tests;
