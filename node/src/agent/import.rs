//! `pool import` and `pool export`: taking pools over from their drives, and letting them go.
//!
//! Crash story: an export only forgets; the labels stay, and the drives are the pool. What is on no drive goes for good:
//! settings, and groups without a volume. What an import writes and when it may be repeated is told in `rebuild`. A pool
//! of which not all is there is imported as far as it goes, and hands out nothing new until the rest is found or given up.
use super::Agent;
use super::drive_states::doubled;
use super::locks::Verb;
use super::rebuild::Rebuilt;
use super::rows::wipe_extents;
use crate::catalogue::records::{LeftRecord, left_key};
use crate::catalogue::{
    ABSENT, DriveRecord, DriveState, Life, MoveRecord, PoolRecord, Severity, Versioned, VolumeRecord, moves,
    records,
};
use crate::drives::{Seen, scan};
use crate::error::{Error, Kind, Result};
use crate::model::{Importable, Pool};
use crate::params::ImportPool;
use crate::target::drive_error;
use crate::text;
use std::collections::BTreeMap;
use std::path::PathBuf;
use ublk_target::{Access, Drive, DriveError};
use volume::Label;
use volume::label::extents;

/// Key of where the drives of an exported pool were.
pub(super) fn trace_key(pool: &str) -> String {
    format!("exported/{pool}")
}

impl Agent {
    /// `pool export`: forgets a pool without attached volumes; its drives keep everything but groups without a volume,
    /// which they never had: those go, and a warning tells which.
    ///
    /// # Errors
    /// `Refused` while a volume is attached.
    pub fn export_pool(&self, name: &str, dry: bool) -> Result<()> {
        let mut space = self.lock();
        let Some(pool) = self.store.get::<PoolRecord>(&records::pool_key(name))? else {
            return match self.store.get::<Vec<PathBuf>>(&trace_key(name))? {
                Some(_) => Ok(()),
                None => Err(self.pool(name).expect_err("it is not there")),
            };
        };
        let pool = if pool.life == Life::Ready { pool } else { self.ready_pool(name)? };
        let volumes: Vec<_> =
            self.store.list::<VolumeRecord>("volumes/")?.into_iter().filter(|v| v.pool == name).collect();
        if let Some(busy) = volumes.iter().find(|v| v.attachment.is_some() || v.life != Life::Ready) {
            let message = format!("volume {} of pool {name} is attached or not complete", busy.name);
            return Err(
                Error::new(Kind::Refused, name, message).hint("detach every volume of the pool first")
            );
        }
        for volume in &volumes {
            let group = self.group(&volume.group)?;
            if self.store.get::<MoveRecord>(&moves::key(&group.id))?.is_some() {
                let message = format!("extents of volume {} of pool {name} are being moved", volume.name);
                return Err(Error::new(Kind::Refused, name, message).hint(
                    "attach the volume and wait for the end of the move: plinth pool status tells it",
                ));
            }
        }
        if dry {
            return Ok(());
        }
        let drives = self.pool_drives(&pool)?;
        let paths: Vec<PathBuf> = drives.iter().map(|drive| drive.path.clone()).collect();
        let empty = self.empty_groups_of(name)?;
        let dropped: Vec<&str> = empty.iter().map(|empty| empty.name.as_str()).collect();
        let without = match dropped.as_slice() {
            [] => String::new(),
            dropped => format!(" without its empty groups, which no drive has: {}", dropped.join(" ")),
        };
        // History first: once the pool's entry is gone nothing leads to its identity.
        self.events.history(&pool.id, &format!("pool export {name}"), &format!("exported{without}"));
        let mut txn = self.store.txn().put(trace_key(name), &paths);
        for empty in &empty {
            txn = txn.remove(records::empty_group_key(&empty.name), empty);
        }
        for volume in &volumes {
            let group = self.group(&volume.group)?;
            for row in self.rows_of(&group.id)? {
                txn = txn.remove(records::row_key(&group.id, row.row), &row);
            }
            txn = txn.remove(records::group_key(&group.name), &group);
            txn = txn.remove(records::volume_key(&volume.name), volume);
        }
        // All at once: a pool without its volumes could be deleted, and they with it.
        self.remove_pool(&mut space, txn, &pool, &drives)?;
        let severity = if empty.is_empty() { Severity::Info } else { Severity::Warning };
        self.events.record(severity, "pool_export", name, &format!("pool {name} was exported{without}"));
        Ok(())
    }

    /// Pools on drives that the catalogue does not have.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn importable(&self, params: &ImportPool) -> Result<Vec<Importable>> {
        let found = self.find_pools(params)?;
        let list = found.into_iter().map(|(id, seen)| Importable {
            name: newest(&seen).label.pool_name.clone(),
            id,
            drives: seen.iter().map(|seen| seen.path.display().to_string()).collect(),
        });
        Ok(list.collect())
    }

    /// Drives that the catalogue does not have, by pool.
    fn find_pools(&self, params: &ImportPool) -> Result<BTreeMap<String, Vec<Seen>>> {
        let mut known = params.drives.clone();
        for trace in self.store.list::<Vec<PathBuf>>("exported/")? {
            known.extend(trace.record);
        }
        let scan = scan(&known, self.options.scan_devices, false);
        if let Some((path, error)) = scan.unreadable.iter().find(|(path, _)| params.drives.contains(path)) {
            let mut error = error.clone();
            error.object = Some(path.display().to_string());
            return Err(error);
        }
        for (id, copies) in &scan.doubled {
            let label = &copies[0].label;
            let pool =
                params.pool.as_ref().is_none_or(|pool| is_called(pool, &label.pool.to_string(), label));
            let named = copies.iter().any(|seen| params.drives.contains(&seen.path));
            if (params.pool.is_some() && pool) || named {
                return Err(doubled(id, copies.iter().map(|seen| seen.path.as_path())));
            }
        }
        let mut pools: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for (id, seen) in scan.seen {
            let pool = seen.label.pool.to_string();
            let left = self.store.get::<LeftRecord>(&left_key(&pool, &id))?.is_some();
            let known = self.store.get::<DriveRecord>(&records::drive_key(&id))?.is_some();
            if left && !known && params.drives.contains(&seen.path) {
                return Err(left_before(&seen));
            }
            if !left && !known {
                pools.entry(pool).or_default().push(seen);
            }
        }
        Ok(pools)
    }

    /// `pool import`: takes a pool over, or what is found of one that is here.
    ///
    /// # Errors
    /// `NotFound` when no drive of it is found, `Exists` when its name is taken, `Refused` when a drive is there more
    /// than once or served by somebody.
    pub fn import_pool(&self, params: &ImportPool, dry: bool) -> Result<Vec<Pool>> {
        let mut space = self.lock();
        if !dry {
            self.rescan(&mut space)?;
        }
        let found = space.aside(|| self.find_pools(params))?;
        let wanted: Vec<(String, Vec<Seen>)> = found
            .into_iter()
            .filter(|(id, seen)| {
                params.pool.as_ref().is_none_or(|pool| is_called(pool, id, &newest(seen).label))
            })
            .collect();
        if wanted.is_empty() {
            return self.already_imported(&mut space, params, dry);
        }
        if let Some(name) = &params.pool
            && wanted.len() > 1
        {
            let ids: Vec<&str> = wanted.iter().map(|(id, _)| id.as_str()).collect();
            let message = format!("there are {} pools called {name}: {}", wanted.len(), ids.join(" "));
            return Err(Error::new(Kind::Invalid, name.clone(), message).hint("name the one by its identity"));
        }
        let mut imported = Vec::new();
        for (id, seen) in wanted {
            let rebuilt = self.take_over(&mut space, &id, &seen, dry)?;
            imported.push(match dry {
                true => super::view::planned_pool(&rebuilt.pool, &rebuilt.drives),
                false => self.finish_import(&mut space, &rebuilt.pool.name, params.force, dry)?,
            });
        }
        Ok(imported)
    }

    /// Drives of pools that are here already: a repetition, which looks for what was not found before; drives without
    /// any pool: nothing to import.
    fn already_imported(&self, space: &mut Verb<'_>, params: &ImportPool, dry: bool) -> Result<Vec<Pool>> {
        let mut names = Vec::new();
        if let Some(name) = &params.pool {
            let pools = self.store.list::<PoolRecord>("pools/")?;
            let here = pools.into_iter().find(|pool| pool.name == *name || pool.id == *name);
            names.extend(here.map(|pool| pool.record.name));
            if names.is_empty() {
                let message = format!("no drive of a pool {name} is found");
                return Err(Error::new(Kind::NotFound, name.clone(), message)
                    .hint("name its drives: plinth pool import DRIVE..."));
            }
        }
        for id in space.aside(|| scan(&params.drives, false, false)).seen.keys() {
            if let Some(drive) = self.store.get::<DriveRecord>(&records::drive_key(id))? {
                names.push(self.pool_name(&drive.pool)?);
            }
        }
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Err(Error::general(Kind::NotFound, "no pool is found on these drives")
                .hint("name the drives: plinth pool import DRIVE..."));
        }
        for name in &names {
            let pool = self.pool(name)?;
            let uncertain = self.groups_of(name)?.iter().any(|(_, group)| group.uncertain);
            if pool.life == Life::Ready && (uncertain || !pool.left_out.is_empty()) {
                let rebuilt = self.rebuild(space, pool, &[], None, dry)?;
                if rebuilt.news && !dry {
                    self.note_import(&rebuilt, false);
                }
            }
        }
        names.iter().map(|name| self.finish_import(space, name, params.force, dry)).collect()
    }

    /// Takes over what was found of a pool.
    fn take_over(&self, space: &mut Verb<'_>, id: &str, seen: &[Seen], dry: bool) -> Result<Rebuilt> {
        space.aside(|| seen.iter().try_for_each(refuse_served))?;
        let here = self.store.list::<PoolRecord>("pools/")?.into_iter().find(|pool| pool.id == id);
        let first = here.is_none();
        let pool = match here {
            Some(pool) => self.ready_pool(&pool.name)?,
            None => self.new_pool(id, seen)?,
        };
        let seen: Vec<&Seen> = seen.iter().collect();
        let rebuilt = self.rebuild(space, pool, &seen, None, dry)?;
        if !dry {
            self.note_import(&rebuilt, first);
        }
        Ok(rebuilt)
    }

    /// The record of a pool that is not here yet.
    fn new_pool(&self, id: &str, seen: &[Seen]) -> Result<Versioned<PoolRecord>> {
        let label = &newest(seen).label;
        let name = &label.pool_name;
        text::check_name("pool", name)?;
        if self.store.get::<PoolRecord>(&records::pool_key(name))?.is_some() {
            let message = format!("there is a pool {name} already, another one");
            return Err(Error::new(Kind::Exists, name.clone(), message).hint("export that one first"));
        }
        let record = PoolRecord {
            id: id.to_owned(),
            name: name.clone(),
            created_at: text::now(),
            life: Life::Ready,
            extent_blocks: label.extent_blocks,
            drives: Vec::new(),
            reserve_bytes: 0,
            resync_bytes_per_second: records::DEFAULT_RESYNC_RATE,
            scrub_bytes_per_second: records::DEFAULT_SCRUB_RATE,
            scrub_every_seconds: records::DEFAULT_SCRUB_EVERY,
            spares: 0,
            spare_delay_seconds: records::DEFAULT_SPARE_DELAY,
            tend_after_seconds: Some(records::DEFAULT_TEND_AFTER),
            rebalancing: false,
            left_out: Vec::new(),
        };
        Ok(Versioned { version: ABSENT, record })
    }

    /// Tells what an import came to. Settings are in no label.
    pub(super) fn note_import(&self, rebuilt: &Rebuilt, first: bool) {
        let (id, name) = (&rebuilt.pool.id, &rebuilt.pool.name);
        let mut message = if first {
            format!("pool {name} was imported: {}", rebuilt.message)
        } else {
            format!("more of pool {name} was imported: {}", rebuilt.message)
        };
        if first {
            message += "; its reserve, spares, rates and the caches of its volumes are the defaults again, and all its drives \
                        are in use: see plinth pool set and plinth drive list";
        }
        self.events.history(id, &format!("pool import {name}"), &message);
        let severity = if rebuilt.lacks || !rebuilt.pool.left_out.is_empty() {
            Severity::Warning
        } else {
            Severity::Info
        };
        self.events.record(severity, "pool_import", name, &message);
    }

    /// Gives up what could not be rebuilt, if the operator says so, and shows the pool.
    fn finish_import(&self, space: &mut Verb<'_>, name: &str, force: bool, dry: bool) -> Result<Pool> {
        let mut pool = self.pool(name)?;
        let given_up: Vec<String> =
            pool.left_out.iter().filter(|left| left.blocks).map(|left| left.group.clone()).collect();
        if !force || dry || given_up.is_empty() {
            return self.view_pool(space, name);
        }
        let drives = self.pool_drives(&pool)?;
        if let Some(lacking) = drives.iter().find(|drive| drive.is_lacking()) {
            let message =
                format!("drive {} is missing, and may know of groups that are to be given up", lacking.id);
            return Err(Error::new(Kind::Refused, name, message).hint(super::rebuild::way_out(name)));
        }
        let mut txn = self.store.txn();
        for drive in &drives {
            let known = |group: &String| given_up.contains(group) || group.is_empty();
            let extents = self.unbacked_on(&drive.id)?.into_iter().filter(|extent| known(&extent.group));
            let doomed: Vec<(u32, bool)> = extents.map(|extent| (extent.extent, true)).collect();
            if doomed.is_empty() {
                continue;
            }
            space.aside(|| wipe_extents(&self.open_drive(drive)?, pool.extent_blocks, &doomed))?;
            txn = doomed
                .iter()
                .fold(txn, |txn, (extent, _)| txn.delete(records::extent_key(&drive.id, *extent)));
        }
        pool.left_out.retain(|left| !left.blocks);
        txn.update(records::pool_key(name), &pool).commit()?;
        space.reload(&self.store, &drives)?;
        let message =
            format!("groups of pool {name} that could not be rebuilt were given up: {}", given_up.join(" "));
        self.events.history(&pool.id, &format!("pool import {name} --force"), &message);
        self.events.record(Severity::Warning, "groups_given_up", name, &message);
        self.view_pool(space, name)
    }
}

/// Whether a pool is meant by a name or an identity.
fn is_called(named: &str, id: &str, label: &Label) -> bool {
    named == id || named == label.pool_name
}

/// Refuses a drive that a target serves from: what it was granted and has not used yet no superblock says.
fn refuse_served(seen: &Seen) -> Result<()> {
    crate::waits::here("a drive");
    match Drive::open(&seen.path, Access::ReadOnly) {
        Err(DriveError::InUse(_)) => {
            let name = seen.path.display().to_string();
            let message = format!("drive {name} is served by another process");
            Err(Error::new(Kind::Refused, name, message)
                .hint("it serves what another catalogue says, or one that was lost; end it first"))
        }
        opened => opened.map(drop).map_err(drive_error),
    }
}

/// Why a drive that was removed from its pool is not taken back as it is.
fn left_before(seen: &Seen) -> Error {
    let name = seen.path.display().to_string();
    let message = format!("drive {name} left pool {} before", seen.label.pool_name);
    Error::new(Kind::Refused, name.clone(), message)
        .hint(format!("plinth drive wipe {name} makes it empty, then plinth pool add takes it"))
}

/// The drive with the newest label: its pool name counts.
fn newest(seen: &[Seen]) -> &Seen {
    seen.iter().max_by_key(|seen| seen.label.written).expect("a pool was found on at least one drive")
}

pub(super) fn drive_of(pool: &str, seen: &Seen) -> DriveRecord {
    let label = &seen.label;
    DriveRecord {
        id: label.drive.to_string(),
        pool: pool.to_owned(),
        path: seen.path.canonicalize().unwrap_or_else(|_| seen.path.clone()),
        life: Life::Ready,
        state: DriveState::Online,
        node: label.node.clone(),
        rack: label.rack.clone(),
        zone: label.zone.clone(),
        class: label.class.clone(),
        blocks: label.blocks.get(),
        extents: extents(label.blocks, label.extent_blocks),
        written: label.written,
        leaving: None,
        lost: None,
    }
}
