//! What the socket shows: records of the catalogue and looks at targets, put together.
//!
//! Nothing here changes anything. Whether a drive is there is asked of the file system at each look.
#[cfg(test)]
mod tests;

use super::Agent;
use super::space::Space;
use crate::catalogue::{
    CopyState, DriveRecord, DriveState, FrontendKind, GroupEncryption, GroupRecord, Life, PoolRecord,
    RowRecord, Versioned, VolumeRecord,
};
use crate::device;
use crate::error::{Error, Result};
use crate::figures;
use crate::model::{
    AgentInfo, Drive, Encryption, Health, LastResync, Leg, LegDrive, LimitKind, Pool, Resync, Status, Target,
    Volume, VolumeState,
};
use crate::protocol::{TargetDriveStatus, TargetPhase, TargetResync, TargetStatus};
use crate::supervise::{Live, Phase};
use base::BLOCK_BYTES;
use std::collections::BTreeSet;

impl Agent {
    /// One pool.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub fn view_pool(&self, space: &Space, name: &str) -> Result<Pool> {
        let pool = self.pool(name)?;
        let records = self.pool_drives(&pool)?;
        let volumes: Vec<VolumeRecord> = self
            .store
            .list::<VolumeRecord>("volumes/")?
            .into_iter()
            .map(|volume| volume.record)
            .filter(|volume| volume.pool == name)
            .collect();
        let extent_bytes = extent_bytes(&pool);
        let mut failed = BTreeSet::new();
        for volume in &volumes {
            let copies = self.group(&volume.group)?.record.copies;
            failed.extend(copies.into_iter().filter(|copy| copy.failed).map(|copy| copy.drive));
        }
        let mut drives: Vec<Drive> = records
            .iter()
            .map(|drive| {
                let (taken, there) = (u64::from(space.taken(&drive.id)), self.is_there(drive));
                view_drive(drive, extent_bytes, taken, there, failed.contains(&drive.id))
            })
            .collect();
        let (mut provisioned, mut reclaimable) = (0u64, 0u64);
        for volume in &volumes {
            let group = self.group(&volume.group)?;
            provisioned = provisioned.saturating_add(volume.size_bytes.saturating_mul(u64::from(group.legs)));
            let rows = self.rows_of(&group.id)?;
            let ahead = rows.iter().skip(group.rows_used as usize).map(|row| row.extents.len() as u64);
            reclaimable += ahead.sum::<u64>() * extent_bytes;
            let live = self.supervisor.live(&volume.name);
            for seen in live.iter().filter_map(|live| live.status.as_ref()).flat_map(|status| &status.drives)
            {
                add_counters(&mut drives, seen);
            }
        }
        let size: u64 = drives.iter().map(|drive| drive.size_bytes).sum();
        let allocated: u64 = drives.iter().map(|drive| drive.allocated_bytes).sum();
        self.add_smart(&mut drives);
        let spare = super::moving::spare_extents(&pool, &records, |id| space.taken(id));
        let reserved = pool.reserve_bytes.saturating_add(spare * extent_bytes);
        let free = (size - allocated).saturating_sub(reserved);
        let lacks = super::rebuild::incomplete(&pool, &records);
        let unfinished = records.iter().find(|drive| drive.life == Life::Creating);
        let unfinished = unfinished.map(|drive| super::pools::unfinished(&pool, drive));
        let (health, status, action) = judge_pool(&pool, &drives, free, lacks, unfinished);
        Ok(Pool {
            name: pool.name.clone(),
            id: pool.id.clone(),
            created_at: Some(pool.created_at.clone()),
            health,
            status,
            action,
            size_bytes: size,
            allocated_bytes: allocated,
            free_bytes: free,
            reserved_bytes: reserved,
            resync_bytes_per_second: pool.resync_bytes_per_second,
            scrub_bytes_per_second: pool.scrub_bytes_per_second,
            scrub_every_seconds: pool.scrub_every_seconds,
            spares: pool.spares,
            spare_delay_seconds: pool.spare_delay_seconds,
            tend_after_seconds: pool.tend_after_seconds,
            rebalancing: pool.rebalancing,
            reclaimable_bytes: reclaimable,
            provisioned_bytes: provisioned,
            drives,
            volumes: volumes.into_iter().map(|volume| volume.name).collect(),
            tasks: self.view_tasks(&pool)?,
        })
    }

    /// One pool, for a caller without a lock.
    ///
    /// # Errors
    /// As `view_pool`.
    pub fn show_pool(&self, name: &str) -> Result<Pool> {
        self.look_for_missing()?;
        self.view_pool(&self.records(), name)
    }

    /// Scans if any drive is missing: it may be back, perhaps under another path. What a verb has to do with it then is
    /// not waited for.
    fn look_for_missing(&self) -> Result<()> {
        let drives = self.store.list::<DriveRecord>("drives/")?;
        let lost = |drive: &DriveRecord| drive.life == Life::Ready && !self.is_there(drive);
        if drives.iter().any(|drive| lost(drive)) && !self.look_for_drives()?.is_empty() {
            self.chores.rescan();
        }
        Ok(())
    }

    /// All pools.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn list_pools(&self) -> Result<Vec<Pool>> {
        self.look_for_missing()?;
        self.view_pools(&self.records())
    }

    fn view_pools(&self, space: &Space) -> Result<Vec<Pool>> {
        let pools = self.store.list::<PoolRecord>("pools/")?;
        pools.iter().map(|pool| self.view_pool(space, &pool.name)).collect()
    }

    /// One volume, for a caller without a lock.
    ///
    /// # Errors
    /// As `view_volume`.
    pub fn show_volume(&self, name: &str) -> Result<Volume> {
        let _records = self.records();
        self.view_volume(name)
    }

    /// One volume.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub fn view_volume(&self, name: &str) -> Result<Volume> {
        let volume = self.volume(name)?;
        let group = self.group(&volume.group)?;
        let pool = self.pool(&volume.pool)?;
        let rows = self.rows_of(&group.id)?;
        let live = self.supervisor.live(name);
        let mut view = planned_volume(&pool, &group, &volume);
        view.allocated_bytes =
            rows.iter().map(|row| row.extents.len() as u64).sum::<u64>() * extent_bytes(&pool);
        view.legs = self.view_legs(&group, &rows, live.as_ref());
        view.tended = super::tend::is_tended(&volume);
        if let Some(attachment) = volume.attachment.as_ref().filter(|_| !view.tended) {
            view.frontend = Some(attachment.frontend);
            view.read_only = Some(attachment.read_only);
            view.nbd_socket = attachment.nbd_socket.as_ref().map(|socket| socket.display().to_string());
            let number = live.as_ref().and_then(|live| live.device_number).or(attachment.device_number);
            if let (FrontendKind::Ublk, Some(number)) = (attachment.frontend, number) {
                view.device = Some(device::path(number).display().to_string());
                let link = device::link_path(&self.options.links, name);
                view.device_link = Some(link.display().to_string());
            }
        }
        view_live(&mut view, &volume, live.as_ref());
        view.returning = self.returning(&volume, &group, live.as_ref());
        let used = live.as_ref().and_then(|live| live.status.as_ref()).map(|status| status.used_bytes);
        view.scrub = Some(self.view_scrub(&volume, &view.legs, used));
        view.rekey = self.view_rekey(&volume, &group);
        if let (Some(target), Some(attachment)) = (&mut view.target, &volume.attachment) {
            let binary = attachment.binary.as_ref().unwrap_or(&self.options.program);
            target.binary = Some(binary.display().to_string());
        }
        let covered = every_place_covered(&group, &rows, &view.legs);
        judge_volume(&mut view, &volume, covered, live.as_ref());
        if view.status.is_none() && super::found::is_nameless(&group, &volume) {
            let key = group.encryption.as_ref().map_or("", |by| by.key.as_str());
            view.status =
                Some(format!("its name and size are not known: key {key} was not there at the import"));
            view.action = Some(format!("make the key known, then plinth pool import {}", volume.pool));
        }
        Ok(view)
    }

    /// The legs, each with the drives that hold a part of it in any row, those of the home row first.
    fn view_legs(&self, group: &GroupRecord, rows: &[Versioned<RowRecord>], live: Option<&Live>) -> Vec<Leg> {
        let columns = usize::from(group.columns);
        let seen =
            |id: &str| live.and_then(|live| live.status.as_ref())?.drives.iter().find(|drive| drive.id == id);
        let there = |id: &str| self.drive(id).is_ok_and(|drive| self.is_there(&drive));
        let mut of_legs =
            vec![Vec::<&String>::new(); if rows.is_empty() { 0 } else { usize::from(group.legs) }];
        let copies = usize::from(group.legs);
        for (leg, extents) in rows.iter().flat_map(|row| row.extents.chunks(columns).take(copies).enumerate())
        {
            for (id, _) in extents {
                if !of_legs[leg].contains(&id) {
                    of_legs[leg].push(id);
                }
            }
        }
        let legs = of_legs.into_iter().enumerate().map(|(leg, drives)| Leg {
            leg: leg as u8,
            drives: drives
                .into_iter()
                .map(|id| {
                    let record = group.copies.iter().find(|copy| copy.drive == *id);
                    let stored = record.map_or(CopyState::Missing, |copy| copy.state);
                    let seen = seen(id);
                    let state = match (stored, seen) {
                        // The catalogue hears of a stale copy before it is acknowledged, so it knows more.
                        (CopyState::Current, Some(seen)) => seen.state,
                        (_, Some(seen)) if seen.state == CopyState::Resyncing => seen.state,
                        (CopyState::Current, None) if !there(id) => CopyState::Missing,
                        (state, _) => state,
                    };
                    LegDrive {
                        id: id.clone(),
                        state,
                        stale_since_seq: seen
                            .and_then(|s| s.stale_since_seq)
                            .or(record.and_then(|c| c.stale_since_seq)),
                        read_errors: seen.map(|seen| seen.read_errors),
                        write_errors: seen.map(|seen| seen.write_errors),
                        check_errors: seen.map(|seen| seen.check_errors),
                        repaired_blocks: seen.map(|seen| seen.repaired_blocks),
                    }
                })
                .collect(),
        });
        legs.collect()
    }

    /// All volumes.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn list_volumes(&self) -> Result<Vec<Volume>> {
        // None is renamed or deleted while it is looked at.
        let _records = self.records();
        self.view_volumes()
    }

    fn view_volumes(&self) -> Result<Vec<Volume>> {
        let volumes = self.store.list::<VolumeRecord>("volumes/")?;
        volumes.iter().map(|volume| self.view_volume(&volume.name)).collect()
    }

    /// Everything.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn view_status(&self) -> Result<Status> {
        let trouble = self.store.check().err();
        self.look_for_missing()?;
        let (pools, volumes) = {
            let space = self.records();
            (self.view_pools(&space)?, self.view_volumes()?)
        };
        let worst_pool = pools.iter().max_by_key(|pool| pool.health);
        let worst_volume = volumes.iter().max_by_key(|volume| volume.health);
        let pool_health = worst_pool.map_or(Health::Online, |pool| pool.health);
        let volume_health = worst_volume.map_or(Health::Online, |volume| volume.health);
        let (health, status, action) = if let Some(error) = trouble {
            (Health::Faulted, Some(error.message), error.hint)
        } else if volume_health >= pool_health {
            (
                volume_health,
                worst_volume.and_then(|v| v.status.clone()),
                worst_volume.and_then(|v| v.action.clone()),
            )
        } else {
            (
                pool_health,
                worst_pool.and_then(|p| p.status.clone()),
                worst_pool.and_then(|p| p.action.clone()),
            )
        };
        let agent = AgentInfo {
            pid: std::process::id(),
            version: super::VERSION.to_owned(),
            state: self.options.state.display().to_string(),
            started_at: self.started_at.clone(),
        };
        Ok(Status { health, status, action, agent, pools, volumes })
    }
}

pub(super) fn extent_bytes(pool: &PoolRecord) -> u64 {
    u64::from(pool.extent_blocks) * BLOCK_BYTES as u64
}

/// Space that one row takes from its pool.
fn row_bytes(pool: &PoolRecord, group: &GroupRecord) -> u64 {
    u64::from(group.legs) * u64::from(group.columns) * extent_bytes(pool)
}

fn said(label: &str) -> Option<String> {
    (!label.is_empty()).then(|| label.to_owned())
}

/// A drive; `failed`: some group has put it out because of what it did.
pub(super) fn view_drive(
    drive: &DriveRecord,
    extent_bytes: u64,
    taken: u64,
    there: bool,
    failed: bool,
) -> Drive {
    let missing = drive.life == Life::Ready && drive.state == DriveState::Online && !there;
    Drive {
        id: drive.id.clone(),
        path: drive.path.display().to_string(),
        node: said(&drive.node),
        rack: said(&drive.rack),
        zone: said(&drive.zone),
        class: said(&drive.class),
        state: match drive.state {
            _ if missing => DriveState::Missing,
            DriveState::Online if failed => DriveState::Failed,
            DriveState::Online if drive.leaving.is_some() => DriveState::Evacuating,
            state => state,
        },
        size_bytes: u64::from(drive.extents) * extent_bytes,
        allocated_bytes: taken * extent_bytes,
        read_errors: 0,
        write_errors: 0,
        check_errors: 0,
        slow_events: 0,
        latency: None,
        smart: None,
    }
}

fn add_counters(drives: &mut [Drive], seen: &TargetDriveStatus) {
    if let Some(drive) = drives.iter_mut().find(|drive| drive.id == seen.id) {
        drive.read_errors += seen.read_errors;
        drive.write_errors += seen.write_errors;
        drive.check_errors += seen.check_errors;
        drive.slow_events += seen.slow_events;
        if let Some(figures) = &seen.figures {
            figures::add(&mut drive.latency, &figures.latency);
        }
    }
}

fn judge_pool(
    pool: &PoolRecord,
    drives: &[Drive],
    free_bytes: u64,
    lacks: Option<String>,
    unfinished: Option<Error>,
) -> (Health, Option<String>, Option<String>) {
    let name = &pool.name;
    match pool.life {
        Life::Creating => {
            let action = format!("repeat plinth pool create, or plinth pool delete {name}");
            return (Health::Suspended, Some(format!("pool {name} is not complete")), Some(action));
        }
        Life::Deleting => {
            let action = format!("repeat plinth pool delete {name}");
            return (Health::Suspended, Some(format!("pool {name} is being deleted")), Some(action));
        }
        Life::Ready => {}
    }
    if let Some(lacks) = lacks {
        let status = format!("pool {name} is not all there, and nothing new is handed out: {lacks}");
        return (Health::Degraded, Some(status), Some(super::rebuild::way_out(name)));
    }
    if let Some(left) = pool.left_out.first() {
        let status = format!("group {} of pool {name} could not be imported: it {}", left.group, left.why);
        return (Health::Degraded, Some(status), Some(format!("plinth pool import {name} tries again")));
    }
    let out = |drive: &&Drive| !matches!(drive.state, DriveState::Online | DriveState::Evacuating);
    let absent: Vec<&Drive> = drives.iter().filter(out).collect();
    if let (true, Some(unfinished)) = (absent.is_empty(), unfinished) {
        return (Health::Degraded, Some(unfinished.message), unfinished.hint);
    }
    if absent.is_empty() {
        return match free_bytes < extent_bytes(pool) && !drives.is_empty() {
            true => (Health::Online, Some(full(name)), Some(format!("plinth pool add {name} DRIVE..."))),
            false => (Health::Online, None, None),
        };
    }
    let health = if absent.len() == drives.len() { Health::Faulted } else { Health::Degraded };
    let paths: Vec<&str> = absent.iter().map(|drive| drive.path.as_str()).collect();
    let status = format!(
        "{} of {} drives of pool {name} cannot be used: {}",
        absent.len(),
        drives.len(),
        paths.join(" ")
    );
    let missing = absent.iter().any(|drive| drive.state == DriveState::Missing);
    let action = match absent.iter().find(|drive| drive.state != DriveState::Missing) {
        Some(drive) if !missing => {
            format!("plinth drive online {name} {} brings it back, once it is well", drive.path)
        }
        _ => "plug the drive in again or check its path; it is recognised by its label".to_owned(),
    };
    (health, Some(status), Some(action))
}

/// What a pool says that has no extent left above its reserve, as its event does.
fn full(name: &str) -> String {
    format!("pool {name} is full: its volumes cannot take more space")
}

/// Fills in what a look at the target told.
fn view_live(view: &mut Volume, record: &VolumeRecord, live: Option<&Live>) {
    let Some(attachment) = &record.attachment else { return };
    let Some(live) = live else {
        view.state = if attachment.tended { VolumeState::Detached } else { VolumeState::Attaching };
        return;
    };
    view.state = match live.phase {
        _ if attachment.tended => VolumeState::Detached,
        Phase::Starting if attachment.served => VolumeState::Recovering,
        Phase::Starting => VolumeState::Attaching,
        Phase::Recovering => VolumeState::Recovering,
        Phase::Serving | Phase::Detaching if attachment.read_only => VolumeState::ReadOnly,
        Phase::Serving | Phase::Detaching => VolumeState::Attached,
        Phase::Ended => VolumeState::Failed,
    };
    view.target = live.pid.map(|pid| Target {
        pid,
        version: live.version.clone(),
        binary: None,
        restarts: live.restarts,
        memory_bytes: live.status.as_ref().map(|status| status.memory_bytes),
    });
    let Some(status) = &live.status else { return };
    if status.phase == TargetPhase::ReadOnly {
        view.state = VolumeState::ReadOnly;
    }
    view.limits =
        status.figures.as_ref().map_or_else(Vec::new, |figures| super::limits::near(&view.name, figures));
    view.mapped_bytes = status.mapped_bytes;
    view.seq = Some(status.seq);
    view.durable_seq = Some(status.durable_seq);
    view.gen_number = status.gen_number;
    view.resync = status.resync.as_ref().map(|resync| view_resync(resync, status));
    view.last_resync = status.last_resync.as_ref().map(|resync| LastResync {
        drive: resync.drive.clone(),
        bytes_copied: resync.copied_bytes,
        bytes_kept: resync.kept_bytes,
        bytes_lost: resync.lost_bytes,
    });
}

/// What is left to copy. How much that will be is not known before it is through: it is taken that what was looked at is
/// like the rest, and that no more can be copied than is mapped.
pub(super) fn estimate(copied: u64, walked: u64, status: &TargetStatus) -> Option<u64> {
    let rest = status.size_bytes.saturating_sub(walked);
    let alike = u128::from(copied) * u128::from(rest) / u128::from(walked.max(1));
    let most = status.mapped_bytes.unwrap_or(u64::MAX).min(rest);
    (walked > 0).then(|| u64::try_from(alike).unwrap_or(u64::MAX).min(most))
}

/// How far a resync is.
fn view_resync(resync: &TargetResync, status: &TargetStatus) -> Resync {
    let left = estimate(resync.copied_bytes, resync.walked_bytes, status);
    let speed = resync.bytes_per_second;
    Resync {
        drive: resync.drive.clone(),
        bytes_total: left.map(|left| resync.copied_bytes + left),
        bytes_copied: Some(resync.copied_bytes),
        bytes_left: left,
        bytes_kept: resync.kept_bytes,
        bytes_lost: resync.lost_bytes,
        bytes_per_second: speed,
        eta_seconds: left.zip(speed).filter(|(_, speed)| *speed > 0).map(|(left, speed)| left / speed),
    }
}

/// Whether every column of every row has a current copy on some leg.
fn every_place_covered(group: &GroupRecord, rows: &[Versioned<RowRecord>], legs: &[Leg]) -> bool {
    let columns = usize::from(group.columns);
    let mut drives = legs.iter().flat_map(|leg| &leg.drives);
    let bad: BTreeSet<&String> =
        drives.by_ref().filter(|drive| drive.state != CopyState::Current).map(|drive| &drive.id).collect();
    let covered = |row: &Versioned<RowRecord>, column: usize| {
        let mut place = row.extents.iter().take(group.row_extents()).skip(column).step_by(columns);
        place.any(|(id, _)| !bad.contains(id))
    };
    bad.is_empty() || rows.iter().all(|row| (0..columns).all(|column| covered(row, column)))
}

/// Says how a volume is.
fn judge_volume(view: &mut Volume, record: &VolumeRecord, covered: bool, live: Option<&Live>) {
    view.unfinished = record.life != Life::Ready;
    let damage = super::scrub::judge_lost(view);
    let limits = view.limits.clone();
    let ended = limits.iter().find(|limit| limit.left == 0 && limit.kind != LimitKind::Rows);
    let name = &view.name;
    let mut say = |health: Health, status: String, action: String| {
        view.health = health;
        view.status = Some(status);
        view.action = Some(action);
    };
    match record.life {
        Life::Creating => {
            let action = format!("repeat plinth volume create, or plinth volume delete {name}");
            return say(Health::Faulted, format!("volume {name} is not complete"), action);
        }
        Life::Deleting => {
            let action = format!("repeat plinth volume delete {name}");
            return say(Health::Faulted, format!("volume {name} is being deleted"), action);
        }
        Life::Ready => {}
    }
    let bad = |leg: &Leg| leg.drives.iter().any(|drive| drive.state != CopyState::Current);
    let lost: Vec<u8> = view.legs.iter().filter(|leg| bad(leg)).map(|leg| leg.leg).collect();
    let failure = live.and_then(|live| live.error.as_ref()).filter(|_| view.state == VolumeState::Recovering);
    if let Some(error) = failure {
        let action = "its target is started again by itself; see plinth events".to_owned();
        say(Health::Faulted, format!("volume {name} is not served: {error}"), action);
    } else if !covered {
        let action = "bring the drives back; plinth pool status names them".to_owned();
        say(Health::Faulted, format!("volume {name} has parts without a complete copy"), action);
    } else if view.state == VolumeState::ReadOnly && !view.read_only.unwrap_or(false) {
        let drives = || {
            let action = format!("check the drives, then detach and attach volume {name}");
            (format!("volume {name} takes no writes any more"), action)
        };
        let (status, action) =
            ended.map_or_else(drives, |limit| (limit.status.clone(), limit.action.clone()));
        say(Health::Faulted, status, action);
    } else if let Some((status, action)) = damage {
        say(Health::Faulted, status, action);
    } else if !lost.is_empty() {
        let legs: Vec<String> = lost.iter().map(ToString::to_string).collect();
        let mut status = format!("volume {name} runs without leg {}", legs.join(" and "));
        let action = match &view.resync {
            Some(resync) => {
                status += &format!("; drive {} is being brought up to date", resync.drive);
                format!("wait until it has everything; plinth volume show {name} --watch tells how far it is")
            }
            None => "bring the drive back or replace it; plinth pool status names it".to_owned(),
        };
        say(Health::Degraded, status, action);
    } else if let Some(limit) = limits.first() {
        say(Health::Online, limit.status.clone(), limit.action.clone());
    }
}

pub(super) fn view_encryption(by: &GroupEncryption) -> Encryption {
    Encryption {
        cipher: "aes-256-gcm".to_owned(),
        kek: by.key.clone(),
        key_version: by.envelope.as_ref().map(|envelope| envelope.version),
        rekeyed_at: by.rekeyed_at.clone(),
    }
}

/// A pool as it would be.
pub(super) fn planned_pool(pool: &PoolRecord, drives: &[DriveRecord]) -> Pool {
    let drives: Vec<Drive> =
        drives.iter().map(|drive| view_drive(drive, extent_bytes(pool), 0, true, false)).collect();
    let size: u64 = drives.iter().map(|drive| drive.size_bytes).sum();
    Pool {
        name: pool.name.clone(),
        id: pool.id.clone(),
        created_at: None,
        health: Health::Online,
        status: None,
        action: None,
        size_bytes: size,
        allocated_bytes: 0,
        free_bytes: size,
        reserved_bytes: pool.reserve_bytes,
        resync_bytes_per_second: pool.resync_bytes_per_second,
        scrub_bytes_per_second: pool.scrub_bytes_per_second,
        scrub_every_seconds: pool.scrub_every_seconds,
        spares: pool.spares,
        spare_delay_seconds: pool.spare_delay_seconds,
        tend_after_seconds: pool.tend_after_seconds,
        rebalancing: pool.rebalancing,
        reclaimable_bytes: 0,
        provisioned_bytes: 0,
        drives,
        volumes: Vec::new(),
        tasks: Vec::new(),
    }
}

/// A volume as it would be: detached and well.
pub(super) fn planned_volume(pool: &PoolRecord, group: &GroupRecord, volume: &VolumeRecord) -> Volume {
    Volume {
        name: volume.name.clone(),
        id: volume.id.clone(),
        pool: pool.name.clone(),
        group: group.name.clone(),
        created_at: volume.created_at.clone(),
        size_bytes: volume.size_bytes,
        leg_count: group.legs,
        column_count: group.columns,
        stripe_unit_bytes: u64::from(group.stripe_blocks) * BLOCK_BYTES as u64,
        state: VolumeState::Detached,
        health: Health::Online,
        unfinished: false,
        tended: false,
        frontend: None,
        device: None,
        device_link: None,
        nbd_socket: None,
        read_only: None,
        mapped_bytes: None,
        allocated_bytes: row_bytes(pool, group),
        cache_bytes: volume.cache_bytes,
        seq: None,
        durable_seq: None,
        gen_number: group.gen_number,
        target: None,
        legs: Vec::new(),
        resync: None,
        last_resync: None,
        returning: Vec::new(),
        scrub: None,
        encryption: group.encryption.as_ref().map(view_encryption),
        rekey: None,
        limits: Vec::new(),
        qos: None,
        clone_of: None,
        status: None,
        action: None,
    }
}
