//! Verbs of pools: create, add, set, export, delete, and wiping a drive.
//!
//! Crash story of `create` and `add`: pool and drives are announced in the catalogue with the identities that
//! their labels will have, then the labels are written and flushed, then the drives are marked ready. A
//! repetition finds the announcement and goes on with the same identities (`announced`). `delete` is announced likewise
//! before the first label goes.
mod announced;

pub(crate) use announced::uuid;
pub(super) use announced::{Finisher, unfinished, way_out};

use super::Agent;
use super::locks::Verb;
use super::space::Space;
use crate::catalogue::{DriveRecord, DriveState, Life, PoolRecord, Severity, Txn, Versioned, records};
use crate::drives::{Identity, LabelState, Media, find_signature, label as labels, read_label};
use crate::error::{Error, Kind, Result};
use crate::params::{AddDrives, CreatePool, Labels};
use crate::protocol::Request;
use crate::{files, model, text};
use base::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use volume::Label;
use volume::label::{MIN_DRIVE_BLOCKS, extents};
use volume::layout::label::NAME_BYTES;

/// Size of an extent unless said otherwise.
pub const DEFAULT_EXTENT_BYTES: u64 = 64 << 20;
/// Extents below this make groups that soon run out of rows, openings and checkpoints (`limits.rs`).
const SMALL_EXTENT_BYTES: u64 = 8 << 20;

/// Spares of a pool at most.
const MAX_SPARES: u32 = 64;

/// A drive that passed every check and could be taken.
struct Candidate {
    media: Media,
    path: PathBuf,
}

impl Agent {
    /// `pool create`.
    ///
    /// # Errors
    /// See the list of bad input in the interface: nothing is changed then.
    pub fn create_pool(&self, params: &CreatePool, dry: bool) -> Result<model::Pool> {
        text::check_name("pool", &params.name)?;
        check_labels(&params.labels)?;
        let extent_blocks = extent_blocks(params.extent_bytes)?;
        let paths = drive_paths(&params.drives)?;
        let mut space = self.lock();
        if let Some(pool) = self.store.get::<PoolRecord>(&records::pool_key(&params.name))? {
            space.aside(|| self.same_pool(&pool, &paths, &params.labels, extent_blocks))?;
            if pool.life == Life::Creating && !dry {
                let drives = pool.drives.clone();
                let finisher = Finisher::Command { drives: &drives, force: params.force };
                self.finish_pool(&mut space, pool, finisher)?;
            }
            return self.view_pool(&space, &params.name);
        }
        let candidates = space.aside(|| self.check_drives(&paths, params.force))?;
        let pool = PoolRecord {
            id: files::random_id()?.to_string(),
            name: params.name.clone(),
            created_at: text::now(),
            life: Life::Creating,
            extent_blocks,
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
        let (pool, drives) = announce(pool, &candidates, &params.labels)?;
        if dry {
            return Ok(super::view::planned_pool(&pool, &drives));
        }
        let mut txn = self.store.txn().create(records::pool_key(&pool.name), &pool);
        for drive in &drives {
            txn = txn.create(records::drive_key(&drive.id), drive);
        }
        let version = txn.commit()?;
        drop(candidates);
        let drives = pool.drives.clone();
        let finisher = Finisher::Command { drives: &drives, force: params.force };
        self.finish_pool(&mut space, Versioned { version, record: pool }, finisher)?;
        self.view_pool(&space, &params.name)
    }

    /// `pool add`. Drives that the pool has already are left as they are.
    ///
    /// # Errors
    /// As `create_pool`.
    pub fn add_drives(&self, name: &str, params: &AddDrives, dry: bool) -> Result<model::Pool> {
        let mut space = self.lock();
        let planned = self.add_drives_locked(&mut space, name, params, dry)?;
        if let Some(planned) = planned {
            return Ok(planned);
        }
        drop(space);
        self.supervisor.tell(name, &Request::SpaceAdded);
        self.moving.look_now();
        let space = self.lock();
        self.view_pool(&space, name)
    }

    /// See `add_drives`; the caller has the lock. What would be, if it is a dry run.
    pub(super) fn add_drives_locked(
        &self,
        space: &mut Verb<'_>,
        name: &str,
        params: &AddDrives,
        dry: bool,
    ) -> Result<Option<model::Pool>> {
        check_labels(&params.labels)?;
        let paths = drive_paths(&params.drives)?;
        let pool = self.ready_pool(name)?;
        let present = self.pool_drives(&pool)?;
        let mut named = Vec::new();
        let candidates = space.aside(|| {
            let mut new = Vec::new();
            for path in &paths {
                match find_drive(&present, path)? {
                    Some(drive) => {
                        same_labels(name, drive, &params.labels)?;
                        named.push(drive.id.clone());
                    }
                    None => new.push(path.clone()),
                }
            }
            self.check_drives(&new, params.force)
        })?;
        let before = pool.drives.len();
        let (record, drives) = announce(pool.record.clone(), &candidates, &params.labels)?;
        if dry {
            return Ok(Some(super::view::planned_pool(&record, &drives)));
        }
        drop(candidates);
        named.extend(drives.iter().map(|drive| drive.id.clone()));
        let mut pool = Versioned { version: pool.version, record };
        if pool.drives.len() > before {
            let mut txn = self.store.txn().update(records::pool_key(name), &pool);
            for drive in &drives {
                txn = txn.create(records::drive_key(&drive.id), drive);
            }
            pool.version = txn.commit()?;
        }
        self.finish_pool(space, pool, Finisher::Command { drives: &named, force: params.force })?;
        Ok(None)
    }

    /// The record that a drive would get that is not in the pool; it is checked as by `add_drives`.
    pub(super) fn candidate(
        &self,
        pool: &PoolRecord,
        path: &Path,
        labels: &Labels,
        force: bool,
    ) -> Result<DriveRecord> {
        let paths = drive_paths(&[path.to_owned()])?;
        let candidates = self.check_drives(&paths, force)?;
        let (_, mut drives) = announce(pool.clone(), &candidates, labels)?;
        Ok(drives.remove(0))
    }

    /// Whether a repetition of `pool create` asks for what there is.
    fn same_pool(
        &self,
        pool: &PoolRecord,
        paths: &[PathBuf],
        labels: &Labels,
        extent_blocks: u32,
    ) -> Result<()> {
        if pool.life == Life::Deleting {
            self.ready_pool(&pool.name)?;
        }
        let taken = || {
            Error::new(
                Kind::Exists,
                pool.name.clone(),
                format!("pool {} exists with other drives or labels", pool.name),
            )
            .hint("see plinth pool status, or choose another name")
        };
        let drives = self.pool_drives(pool)?;
        if drives.len() != paths.len() || pool.extent_blocks != extent_blocks {
            return Err(taken());
        }
        for path in paths {
            let drive = find_drive(&drives, path)?.ok_or_else(taken)?;
            same_labels(&pool.name, drive, labels).map_err(|_| taken())?;
        }
        Ok(())
    }

    /// Checks that every path can become a drive of a pool.
    fn check_drives(&self, paths: &[PathBuf], force: bool) -> Result<Vec<Candidate>> {
        let mut seen: BTreeMap<Identity, &Path> = BTreeMap::new();
        let mut candidates = Vec::with_capacity(paths.len());
        for path in paths {
            let media = Media::open(path)?;
            if let Some(first) = seen.insert(media.identity(), path) {
                let name = path.display().to_string();
                let message = format!("{name} is given twice (also as {})", first.display());
                return Err(Error::invalid(name, message));
            }
            check_size(&media)?;
            self.check_unused(&media, force)?;
            candidates.push(Candidate { media, path: path.clone() });
        }
        Ok(candidates)
    }

    /// Refuses a drive that is in use or has something on it.
    fn check_unused(&self, media: &Media, force: bool) -> Result<()> {
        let name = media.path().display().to_string();
        if media.is_held() {
            return Err(Error::new(
                Kind::Refused,
                name.clone(),
                format!("{name} is mounted or otherwise in use"),
            ));
        }
        match read_label(media) {
            Ok(LabelState::Ours { label, .. }) => self.check_foreign(&name, &label, force)?,
            Ok(LabelState::None) => {}
            Err(error) if force && error.kind == Kind::Damage => {}
            Err(error) => return Err(error),
        }
        match find_signature(media)? {
            Some(found) if !force => {
                let message = format!("{name} has {found} on it");
                Err(Error::new(Kind::Refused, name, message).hint("--force overwrites it"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a drive with a label: always when the pool is known here, without `--force` otherwise.
    fn check_foreign(&self, name: &str, label: &Label, force: bool) -> Result<()> {
        let id = label.drive.to_string();
        if let Some(drive) = self.store.get::<DriveRecord>(&records::drive_key(&id))? {
            let message = format!("{name} is a drive of pool {}", self.pool_name(&drive.pool)?);
            return Err(Error::new(Kind::Refused, name, message).hint("choose another drive"));
        }
        if force {
            return Ok(());
        }
        let message = format!("{name} is a drive of pool {}, which is not imported here", label.pool_name);
        Err(Error::new(Kind::Refused, name, message)
            .hint(format!("plinth pool import {} opens that pool, --force overwrites it", label.pool_name)))
    }

    /// Name of the pool with this identity.
    pub(super) fn pool_name(&self, id: &str) -> Result<String> {
        let pools = self.store.list::<PoolRecord>("pools/")?;
        Ok(pools
            .into_iter()
            .find(|pool| pool.id == id)
            .map_or_else(|| id.to_owned(), |pool| pool.record.name))
    }

    /// `pool set`.
    ///
    /// # Errors
    /// `Invalid` for an unknown property or value.
    pub fn set_pool(&self, name: &str, key: &str, value: &str, dry: bool) -> Result<model::Pool> {
        let space = self.lock();
        let mut pool = self.ready_pool(name)?;
        match key {
            "reserve" => pool.reserve_bytes = text::parse_size(value)?,
            "resync_rate" => pool.resync_bytes_per_second = text::parse_size(value)?,
            "scrub_rate" => pool.scrub_bytes_per_second = text::parse_size(value)?,
            "scrub_every" => pool.scrub_every_seconds = whole_seconds(key, value)?,
            "spares" => pool.spares = spares(value)?,
            "spare_delay" => pool.spare_delay_seconds = whole_seconds(key, value)?,
            "tend" if value == "off" => pool.tend_after_seconds = None,
            "tend" => pool.tend_after_seconds = Some(whole_seconds(key, value)?),
            _ => {
                let known = "reserve=SIZE, resync_rate=SIZE, scrub_rate=SIZE, scrub_every=TIME, spares=N, \
                             spare_delay=TIME and tend=TIME|off";
                return Err(unknown_property("pool", name, key, known));
            }
        }
        if !dry {
            self.store.txn().update(records::pool_key(name), &pool).commit()?;
            self.events.history(&pool.id, &format!("pool set {name} {key}={value}"), "property changed");
            self.supervisor.tell(name, &Request::ResyncRate { bytes: pool.resync_bytes_per_second });
            self.supervisor.tell(name, &Request::ScrubRate { bytes: pool.scrub_bytes_per_second });
            self.scrubbing.look_now();
            self.moving.look_now();
            self.tending.look_now();
        }
        self.view_pool(&space, name)
    }

    /// `pool delete`: wipes the labels of a pool without volumes and groups.
    ///
    /// # Errors
    /// `Refused` while it has any.
    pub fn delete_pool(&self, name: &str, dry: bool) -> Result<()> {
        let mut space = self.lock();
        let mut pool = self.pool(name)?;
        let groups = self.empty_groups_of(name)?.into_iter().map(|empty| empty.record.name).collect();
        let has: Vec<String> = [("volume", self.volumes_of(name)?), ("empty group", groups)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{}: {}", text::counted(names.len(), what), names.join(" ")))
            .collect();
        if !has.is_empty() {
            let message = format!("pool {name} has {}", has.join(", and "));
            return Err(
                Error::new(Kind::Refused, name, message).hint("delete them first, or use plinth pool export")
            );
        }
        if let Some(left) = pool.left_out.first() {
            let message = format!("pool {name} has group {}, which could not be imported", left.group);
            return Err(Error::new(Kind::Refused, name, message).hint(
                "plinth pool status tells why; plinth pool export forgets the pool and keeps what it has",
            ));
        }
        if dry {
            return Ok(());
        }
        if pool.life != Life::Deleting {
            pool.life = Life::Deleting;
            pool.version = self.store.txn().update(records::pool_key(name), &pool).commit()?;
        }
        let drives = self.pool_drives(&pool)?;
        space.aside(|| drives.iter().for_each(|drive| self.forget_label(&pool, drive)));
        self.remove_pool(&mut space, self.store.txn(), &pool, &drives)?;
        let message = format!("pool {name} was deleted");
        self.events.history(&pool.id, &format!("pool delete {name}"), &message);
        self.events.record(Severity::Info, "pool_delete", name, &message);
        Ok(())
    }

    /// Wipes the label of a drive of a pool that goes; a drive that is not there keeps its label, which no
    /// catalogue knows any more.
    pub(super) fn forget_label(&self, pool: &PoolRecord, drive: &DriveRecord) {
        let wipe = || -> Result<()> {
            let media = Media::open(&drive.path)?;
            match read_label(&media)? {
                LabelState::Ours { label, .. } if label.drive.to_string() == drive.id => {
                    labels::clear_ends(&media)
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = wipe() {
            let message =
                format!("drive {} of pool {} kept its label: {error}", drive.path.display(), pool.name);
            self.events.record(Severity::Warning, "label_kept", &drive.id, &message);
        }
    }

    /// Takes a pool and its drives out of the catalogue, together with what else the transaction does.
    pub(super) fn remove_pool(
        &self,
        space: &mut Space,
        txn: Txn<'_>,
        pool: &Versioned<PoolRecord>,
        drives: &[Versioned<DriveRecord>],
    ) -> Result<()> {
        let ids: Vec<&str> = drives.iter().map(|drive| drive.id.as_str()).collect();
        let mut txn = self.forget_deleted(txn.remove(records::pool_key(&pool.name), pool), &ids)?;
        for drive in drives {
            txn = txn.remove(records::drive_key(&drive.id), drive);
            for key in self.store.keys(&format!("extents/{}/", drive.id))? {
                txn = txn.delete(key);
            }
        }
        txn.commit()?;
        for drive in drives {
            space.remove_drive(&drive.id);
        }
        Ok(())
    }

    /// Names of the volumes of a pool.
    pub(super) fn volumes_of(&self, pool: &str) -> Result<Vec<String>> {
        let volumes = self.store.list::<crate::catalogue::VolumeRecord>("volumes/")?;
        Ok(volumes.into_iter().filter(|v| v.pool == pool).map(|v| v.record.name).collect())
    }

    /// `drive wipe`: makes a drive of no known pool empty.
    ///
    /// # Errors
    /// `Refused` for a drive of a pool or one in use.
    pub fn wipe_drive(&self, path: &Path, dry: bool) -> Result<()> {
        let paths = drive_paths(&[path.to_owned()])?;
        let mut verb = self.lock();
        verb.aside(|| self.wipe_unused(&paths[0], dry))
    }

    fn wipe_unused(&self, path: &Path, dry: bool) -> Result<()> {
        let media = Media::open(path)?;
        let name = media.path().display().to_string();
        if media.is_held() {
            return Err(Error::new(
                Kind::Refused,
                name.clone(),
                format!("{name} is mounted or otherwise in use"),
            ));
        }
        if let Ok(LabelState::Ours { label, .. }) = read_label(&media) {
            self.check_foreign(&name, &label, true)?;
        }
        if dry {
            return Ok(());
        }
        labels::clear_ends(&media)?;
        self.events.record(Severity::Info, "drive_wipe", &name, &format!("drive {name} was wiped"));
        Ok(())
    }
}

/// The identity that `path` has among these drives: by what it is, else by the path it was last seen at.
fn find_drive<'a>(drives: &'a [Versioned<DriveRecord>], path: &Path) -> Result<Option<&'a DriveRecord>> {
    let media = Media::open_read(path)?;
    if let LabelState::Ours { label, .. } = read_label(&media).unwrap_or(LabelState::None) {
        let id = label.drive.to_string();
        return Ok(drives.iter().find(|drive| drive.id == id).map(|drive| &drive.record));
    }
    Ok(drives
        .iter()
        .find(|drive| drive.path == path && drive.life == Life::Creating)
        .map(|drive| &drive.record))
}

/// Refuses labels that contradict those that a drive has.
fn same_labels(pool: &str, drive: &DriveRecord, labels: &Labels) -> Result<()> {
    let differs = |asked: &Option<String>, has: &String| asked.as_deref().unwrap_or("") != has;
    if differs(&labels.node, &drive.node)
        || differs(&labels.rack, &drive.rack)
        || differs(&labels.zone, &drive.zone)
        || differs(&labels.class, &drive.class)
    {
        let name = drive.path.display().to_string();
        let message = format!("{name} is in pool {pool} already, with other labels");
        return Err(Error::new(Kind::Exists, name, message));
    }
    Ok(())
}

/// Makes records of the drives, with new identities, and adds them to the pool's list.
fn announce(
    mut pool: PoolRecord,
    candidates: &[Candidate],
    labels: &Labels,
) -> Result<(PoolRecord, Vec<DriveRecord>)> {
    let mut drives = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let blocks = candidate.media.blocks();
        let count = extents(blocks, pool.extent_blocks);
        if count == 0 {
            let name = candidate.path.display().to_string();
            return Err(Error::invalid(
                name.clone(),
                format!("{name} is smaller than one extent of the pool"),
            ));
        }
        let drive = DriveRecord {
            id: files::random_id()?.to_string(),
            pool: pool.id.clone(),
            path: candidate.path.clone(),
            life: Life::Creating,
            state: DriveState::Online,
            node: labels.node.clone().unwrap_or_default(),
            rack: labels.rack.clone().unwrap_or_default(),
            zone: labels.zone.clone().unwrap_or_default(),
            class: labels.class.clone().unwrap_or_default(),
            blocks: blocks.get(),
            extents: count,
            written: 1,
            leaving: None,
            lost: None,
        };
        pool.drives.push(drive.id.clone());
        drives.push(drive);
    }
    Ok((pool, drives))
}

/// A length of time of whole seconds.
fn whole_seconds(key: &str, value: &str) -> Result<u64> {
    let time = text::parse_duration(value)?;
    if time.subsec_nanos() == 0 {
        return Ok(time.as_secs());
    }
    Err(Error::invalid(value, format!("{key} takes whole seconds, not {value}")))
}

/// A number of drives.
fn spares(value: &str) -> Result<u32> {
    let number = value.parse::<u32>().ok().filter(|number| *number <= MAX_SPARES);
    number.ok_or_else(|| {
        Error::invalid(value, format!("{value} is no number of spares"))
            .hint(format!("0 to {MAX_SPARES} are"))
    })
}

pub(super) fn unknown_property(what: &str, name: &str, key: &str, known: &str) -> Error {
    Error::invalid(name, format!("a {what} has no property {key}")).hint(format!("it has {known}"))
}

fn check_size(media: &Media) -> Result<()> {
    if media.blocks().get() >= MIN_DRIVE_BLOCKS {
        return Ok(());
    }
    let name = media.path().display().to_string();
    let bytes = media.blocks().get() * BLOCK_BYTES as u64;
    let message = format!("{name} is too small: {}, a drive has at least 256MiB", text::show_size(bytes));
    Err(Error::invalid(name, message))
}

fn check_labels(labels: &Labels) -> Result<()> {
    let given =
        [("node", &labels.node), ("rack", &labels.rack), ("zone", &labels.zone), ("class", &labels.class)];
    for (key, value) in given {
        if let Some(value) = value
            && (value.is_empty() || value.len() > NAME_BYTES || value.chars().any(char::is_control))
        {
            let message = format!("{value:?} is no value of label {key}: 1 to {NAME_BYTES} bytes of text");
            return Err(Error::invalid(key, message));
        }
    }
    Ok(())
}

fn extent_blocks(bytes: Option<u64>) -> Result<u32> {
    let bytes = bytes.unwrap_or(DEFAULT_EXTENT_BYTES);
    let blocks = bytes / BLOCK_BYTES as u64;
    let fits = bytes.is_multiple_of(BLOCK_BYTES as u64)
        && (64..=32_768).contains(&blocks)
        && blocks.is_multiple_of(64);
    if !fits {
        let message = format!("an extent of {} is not possible", text::show_size(bytes));
        return Err(Error::invalid("extent size", message).hint("multiples of 256KiB up to 128MiB are"));
    }
    Ok(blocks as u32)
}

/// Absolute paths without links, so that one drive has one path. What does not exist stays as it is, for the
/// sentence about it.
fn drive_paths(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if paths.is_empty() {
        return Err(Error::general(Kind::Invalid, "no drive is given").hint("name block devices or files"));
    }
    if let Some(relative) = paths.iter().find(|path| !path.is_absolute()) {
        let name = relative.display().to_string();
        return Err(Error::invalid(name.clone(), format!("{name} is not an absolute path")));
    }
    Ok(paths.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect())
}
/// Tells of extents that make groups small.
fn warn_of_small_extents(agent: &Agent, pool: &PoolRecord, created: bool) {
    let extent = u64::from(pool.extent_blocks) * BLOCK_BYTES as u64;
    if created && extent < SMALL_EXTENT_BYTES {
        let message = format!(
            "pool {} has extents of {}: volumes in it stay small and wear out early; 8MiB and more are better",
            pool.name,
            text::show_size(extent)
        );
        agent.events.record(Severity::Warning, "small_extents", &pool.name, &message);
    }
}
