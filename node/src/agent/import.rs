//! `pool import` and `pool export`: taking pools over from their drives, and letting them go.
//!
//! Crash story: an export only forgets; the labels stay, and the drives are the pool. An import writes pool,
//! drives, groups, rows and extents in one transaction, so that it happened or did not. Rows come from the
//! superblocks, never from headers alone: a header that no superblock names belongs to a row on its way in or
//! out, and its extent is free.
use super::Agent;
use super::found::{groups_on, lacking};
use super::space::Space;
use crate::catalogue::{
    DriveRecord, DriveState, Life, MoveRecord, PoolRecord, Severity, VolumeRecord, moves, records,
};
use crate::drives::{Seen, scan};
use crate::error::{Error, Kind, Result};
use crate::model::{Importable, Pool};
use crate::params::ImportPool;
use crate::text;
use std::collections::BTreeMap;
use std::path::PathBuf;
use volume::label::extents;

/// Key of where the drives of an exported pool were.
fn trace_key(pool: &str) -> String {
    format!("exported/{pool}")
}

impl Agent {
    /// `pool export`: forgets a pool without attached volumes; its drives keep everything.
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
        // History first: once the pool's entry is gone nothing leads to its identity.
        self.events.history(&pool.id, &format!("pool export {name}"), "exported");
        let mut txn = self.store.txn().put(trace_key(name), &paths);
        for volume in &volumes {
            let group = self.group(&volume.group)?;
            for row in self.rows_of(&group.id)? {
                txn = txn.remove(records::row_key(&group.id, row.row), &row);
            }
            txn = txn.remove(records::group_key(&group.name), &group);
            txn = txn.remove(records::volume_key(&volume.name), volume);
        }
        txn.commit()?;
        self.remove_pool(&mut space, &pool, &drives)?;
        self.events.record(Severity::Info, "pool_export", name, &format!("pool {name} was exported"));
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

    /// The drives of unknown pools, by pool.
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
        let mut pools: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for (id, seen) in scan.seen {
            if self.store.get::<DriveRecord>(&records::drive_key(&id))?.is_none() {
                pools.entry(seen.label.pool.to_string()).or_default().push(seen);
            }
        }
        Ok(pools)
    }

    /// `pool import`: takes a pool over.
    ///
    /// # Errors
    /// `NotFound` when no drive of it is found, `Exists` when its name is taken, `Refused` when drives lack.
    pub fn import_pool(&self, params: &ImportPool, dry: bool) -> Result<Vec<Pool>> {
        let mut space = self.lock();
        let found = self.find_pools(params)?;
        let wanted: Vec<(String, Vec<Seen>)> = found
            .into_iter()
            .filter(|(id, seen)| {
                params.pool.as_ref().is_none_or(|pool| pool == id || *pool == newest(seen).label.pool_name)
            })
            .collect();
        if let ([], Some(name)) = (wanted.as_slice(), &params.pool) {
            // A repeated import finds the pool in the catalogue.
            return match self.store.get::<PoolRecord>(&records::pool_key(name))? {
                Some(_) => Ok(vec![self.view_pool(&space, name)?]),
                None => Err(Error::new(
                    Kind::NotFound,
                    name.clone(),
                    format!("no drive of a pool {name} is found"),
                )
                .hint("name its drives: plinth pool import DRIVE...")),
            };
        }
        if wanted.is_empty() {
            return self.already_imported(&space, params);
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
            imported.push(self.take_over(&mut space, &id, &seen, dry)?);
        }
        Ok(imported)
    }

    /// Drives of pools that are here already: a repetition; drives without any pool: nothing to import.
    fn already_imported(&self, space: &Space, params: &ImportPool) -> Result<Vec<Pool>> {
        let scan = scan(&params.drives, false, false);
        let mut names = Vec::new();
        for id in scan.seen.keys() {
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
        names.iter().map(|name| self.view_pool(space, name)).collect()
    }

    fn take_over(&self, space: &mut Space, id: &str, seen: &[Seen], dry: bool) -> Result<Pool> {
        let label = &newest(seen).label;
        let name = &label.pool_name;
        text::check_name("pool", name)?;
        if self.store.get::<PoolRecord>(&records::pool_key(name))?.is_some() {
            let message = format!("there is a pool {name} already, another one");
            return Err(Error::new(Kind::Exists, name.clone(), message).hint("export that one first"));
        }
        let mut drives: Vec<DriveRecord> = seen.iter().map(|seen| drive_of(id, seen)).collect();
        let mut pool = PoolRecord {
            id: id.to_owned(),
            name: name.clone(),
            created_at: text::now(),
            life: Life::Ready,
            extent_blocks: label.extent_blocks,
            drives: drives.iter().map(|drive| drive.id.clone()).collect(),
            reserve_bytes: 0,
            resync_bytes_per_second: records::DEFAULT_RESYNC_RATE,
            scrub_bytes_per_second: records::DEFAULT_SCRUB_RATE,
            scrub_every_seconds: records::DEFAULT_SCRUB_EVERY,
            spares: 0,
            spare_delay_seconds: records::DEFAULT_SPARE_DELAY,
            rebalancing: false,
            imported: true,
        };
        let groups = groups_on(&pool, &drives)?;
        drives.extend(lacking(&pool, &groups));
        pool.drives = drives.iter().map(|drive| drive.id.clone()).collect();
        for found in &groups {
            self.check_import_names(&found.group.name, &found.volume.name)?;
        }
        if dry {
            return Ok(super::view::planned_pool(&pool, &drives));
        }
        let mut txn = self.store.txn().create(records::pool_key(name), &pool).delete(trace_key(name));
        for drive in &drives {
            txn = txn.create(records::drive_key(&drive.id), drive);
        }
        for found in &groups {
            txn = txn.create(records::group_key(&found.group.name), &found.group);
            txn = txn.create(records::volume_key(&found.volume.name), &found.volume);
            for row in &found.rows {
                txn = Self::take_row(txn, &found.group, row);
            }
        }
        txn.commit()?;
        for drive in &drives {
            space.add_drive(&drive.id, drive.extents);
        }
        for (drive, extent) in groups.iter().flat_map(|found| &found.rows).flat_map(|row| &row.extents) {
            space.take(drive, *extent);
        }
        let message = format!(
            "pool {name} was imported: {}, {}",
            crate::text::counted(drives.len(), "drive"),
            crate::text::counted(groups.len(), "volume")
        );
        self.events.history(id, &format!("pool import {name}"), &message);
        self.events.record(Severity::Info, "pool_import", name, &message);
        self.view_pool(space, name)
    }

    fn check_import_names(&self, group: &str, volume: &str) -> Result<()> {
        let taken = self.store.get::<VolumeRecord>(&records::volume_key(volume))?.is_some()
            || self.store.get::<crate::catalogue::GroupRecord>(&records::group_key(group))?.is_some();
        if taken {
            let message = format!("the pool has a volume {volume}, and there is one of that name already");
            return Err(Error::new(Kind::Exists, volume, message).hint("rename the one that is here first"));
        }
        Ok(())
    }
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
        lost_since: None,
    }
}
