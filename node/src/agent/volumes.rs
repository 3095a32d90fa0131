//! Verbs of volumes that concern catalogue and drives: create, set, resize, rename, delete.
//!
//! Crash story of `create`: group, volume, home row and its extents are announced in one transaction; then the
//! headers are durable, then the superblocks; then the volume is ready. Until then it cannot be attached, and a
//! repetition writes everything again. `delete` is announced and wipes; then one transaction frees and
//! forgets: an extent that is free is in no list of a group that goes. What becomes of a group that was
//! there before its volume is told in `groups`.
use super::Agent;
use super::groups::{check_joins, planned_encryption, volume_key};
use super::locks::Verb;
use super::pools::unknown_property;
use crate::catalogue::{
    ABSENT, CopyRecord, CopyState, EmptyGroupRecord, FrontendKind, GroupRecord, Life, PoolRecord, Severity,
    Versioned, VolumeRecord, records,
};
use crate::error::{Error, Kind, Result};
use crate::params::{CreateVolume, ResizeVolume};
use crate::{files, model, text};
use base::limits::{MAX_COLUMNS, MAX_LEGS};
use base::{BLOCK_BYTES, SECTOR_BYTES, Sectors};
use volume::Geometry;

/// Copies in all unless said otherwise.
pub const DEFAULT_LEGS: u8 = 2;
/// Stripe columns unless said otherwise.
pub const DEFAULT_COLUMNS: u8 = 1;
/// Stripe unit unless said otherwise.
pub const DEFAULT_STRIPE_BYTES: u64 = 64 << 10;
/// Memory for map pages unless said otherwise: maps 8 GiB without reading a page twice.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;
/// The least and most of it.
const CACHE_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(64 << 30);
/// Size of a volume at most: what a map of five levels reaches (format).
pub const MAX_VOLUME_BYTES: u64 = 128 << 40;

/// A request to create, with the defaults filled in and checked.
struct Shape {
    legs: u8,
    columns: u8,
    stripe_blocks: u32,
    group: String,
}

/// Where a new volume goes.
struct Home {
    pool: Versioned<PoolRecord>,
    geometry: Geometry,
    /// The group that was there before it; otherwise one is made with it.
    joins: Option<Versioned<EmptyGroupRecord>>,
}

impl Agent {
    /// `volume create`.
    ///
    /// # Errors
    /// `Invalid`, `NotFound` (pool), `Exists`, `NoSpace`; nothing is changed then.
    pub fn create_volume(&self, params: &CreateVolume, dry: bool) -> Result<model::Volume> {
        text::check_name("volume", &params.name)?;
        check_bytes(&params.name, params.size_bytes)?;
        let shape = shape(params)?;
        self.prepare_key(params, &shape, dry)?;
        let mut space = self.lock();
        let key = volume_key(params, self.asked_group(params)?.as_ref())?;
        if let Some(volume) = self.store.get::<VolumeRecord>(&records::volume_key(&params.name))? {
            self.same_volume(&volume, params, &shape, key.as_deref())?;
            if volume.life == Life::Creating && !dry {
                self.finish_volume(&mut space, &volume)?;
            }
            return self.view_volume(&params.name);
        }
        let home = self.home_for(params, &shape)?;
        let (group, volume) = self.announce_volume(&mut space, &home, params, &shape, key.as_deref(), dry)?;
        if dry {
            return Ok(super::view::planned_volume(&home.pool, &group, &volume));
        }
        self.finish_volume(&mut space, &self.volume(&params.name)?)?;
        self.view_volume(&params.name)
    }

    /// Pool and group of a new volume, which can have it.
    fn home_for(&self, params: &CreateVolume, shape: &Shape) -> Result<Home> {
        let pool = self.ready_pool(&params.pool)?;
        let encrypted = volume_key(params, self.asked_group(params)?.as_ref())?.is_some();
        let geometry = geometry_for(params, &pool, shape, encrypted)?;
        if self.store.get::<GroupRecord>(&records::group_key(&shape.group))?.is_some() {
            let message = format!(
                "group {} has a volume already; groups of several volumes are not supported yet",
                shape.group
            );
            let hint = if params.group.is_some() { "leave --group away" } else { "choose another name" };
            return Err(Error::new(Kind::NotSupported, shape.group.clone(), message).hint(hint));
        }
        let joins = self.empty_group(&shape.group)?;
        joins.iter().try_for_each(|empty| check_joins(params, empty))?;
        Ok(Home { pool, geometry, joins })
    }

    /// Sees to it that the key is there that is to wrap a new volume's secret. The default key is made here: without the
    /// verbs' lock, and not for a request that is refused anyway.
    fn prepare_key(&self, params: &CreateVolume, shape: &Shape, dry: bool) -> Result<()> {
        let group = self.asked_group(params)?;
        let Some(key) = volume_key(params, group.as_ref())? else { return Ok(()) };
        if self.store.get::<VolumeRecord>(&records::volume_key(&params.name))?.is_some() {
            return Ok(());
        }
        match group {
            Some(group) => self.check_group_key(&group),
            None if params.kek.is_some() => crate::keys::usable(&self.keys.key(&key)?.record),
            None if dry => Ok(()),
            None => {
                self.home_for(params, shape)?;
                self.default_key().map(drop)
            }
        }
    }

    /// Places the home row and writes the announcement (unless it is a dry run).
    fn announce_volume(
        &self,
        space: &mut Verb<'_>,
        home: &Home,
        params: &CreateVolume,
        shape: &Shape,
        key: Option<&str>,
        dry: bool,
    ) -> Result<(GroupRecord, VolumeRecord)> {
        let id = files::random_id()?;
        let (pool, joins, now) = (&home.pool, home.joins.as_ref(), text::now());
        let mut group = GroupRecord {
            id: id.to_string(),
            name: shape.group.clone(),
            pool: pool.name.clone(),
            created_at: joins.map_or_else(|| now.clone(), |empty| empty.created_at.clone()),
            life: Life::Creating,
            legs: shape.legs,
            columns: shape.columns,
            stripe_blocks: shape.stripe_blocks,
            home_blocks: Some(home.geometry.home.blocks),
            gen_number: 0,
            rows_used: 1,
            copies: Vec::new(),
            grants: 0,
            moves: 0,
            legs_wanted: None,
            unwiped: Vec::new(),
            imported: false,
            uncertain: false,
            encryption: None,
            served_gen: None,
            stays: joins.is_some(),
        };
        // A new group's drives are written by the agent at once, so they are looked at more closely.
        let drives = self.pool_drives(pool)?;
        let opens = space.aside(|| self.openable(&drives));
        let away: Vec<String> =
            drives.iter().map(|drive| drive.id.clone()).filter(|id| !opens.contains(id)).collect();
        let mut row = self.choose_row(space, pool, &group, 0, &[], &away)?;
        // Other drives join with the first row that lies on them.
        group.copies = row.extents.iter().map(|(drive, _)| current_copy(drive)).collect();
        let volume = VolumeRecord {
            id: files::random_id()?.to_string(),
            name: params.name.clone(),
            pool: pool.name.clone(),
            group: shape.group.clone(),
            created_at: now,
            life: Life::Creating,
            size_bytes: params.size_bytes,
            cache_bytes: DEFAULT_CACHE_BYTES,
            renamed_from: None,
            attachment: None,
        };
        if dry {
            group.encryption = key.map(planned_encryption);
            return Ok((group, volume));
        }
        if let Some(key) = key {
            // Under the lock of verbs until the group's record is there: no rotation ends in between.
            group.encryption = Some(space.aside(|| self.new_group_keys(&id, key))?);
            // A group that is served may have been given these extents meanwhile.
            row = self.choose_row(space, pool, &group, 0, &[], &away)?;
            group.copies = row.extents.iter().map(|(drive, _)| current_copy(drive)).collect();
        }
        let txn = self.store.txn().expect(records::pool_key(&pool.name), pool.version);
        let empty_key = records::empty_group_key(&group.name);
        let txn = match joins {
            Some(empty) => txn.remove(empty_key, empty),
            None => txn.expect(empty_key, ABSENT),
        };
        let txn = txn.create(records::group_key(&group.name), &group);
        let txn = txn.create(records::volume_key(&volume.name), &volume);
        Self::take_row(txn, &group, &row).commit()?;
        for (drive, extent) in &row.extents {
            space.take(drive, *extent);
        }
        Ok((group, volume))
    }

    /// Whether a repetition of `volume create` asks for what there is.
    fn same_volume(
        &self,
        volume: &VolumeRecord,
        params: &CreateVolume,
        shape: &Shape,
        key: Option<&str>,
    ) -> Result<()> {
        if volume.life == Life::Deleting {
            self.ready_volume(&volume.name)?;
        }
        let group = self.group(&volume.group)?;
        let same = volume.pool == params.pool
            && volume.size_bytes == params.size_bytes
            && (params.group.is_none() || volume.group == shape.group)
            && (group.legs, group.columns, group.stripe_blocks)
                == (shape.legs, shape.columns, shape.stripe_blocks);
        let its_key = group.encryption.as_ref().map(|by| by.key.as_str());
        if same && its_key != key {
            let how = |key: Option<&str>| {
                key.map_or("not encrypted".into(), |key| format!("encrypted by key {key}"))
            };
            let message = format!("volume {} exists and is {}", volume.name, how(its_key));
            return Err(Error::new(Kind::Exists, volume.name.clone(), message)
                .hint("whether a volume is encrypted is decided when it is made; choose another name"));
        }
        if same {
            return Ok(());
        }
        let message = format!(
            "volume {} exists with other parameters: pool {}, {}, {} legs, {} columns",
            volume.name,
            volume.pool,
            text::show_size(volume.size_bytes),
            group.legs,
            group.columns
        );
        Err(Error::new(Kind::Exists, volume.name.clone(), message).hint("choose another name"))
    }

    /// Writes what was announced and marks group and volume ready.
    pub(super) fn finish_volume(&self, verb: &mut Verb<'_>, volume: &Versioned<VolumeRecord>) -> Result<()> {
        let mut volume = volume.clone();
        let mut group = self.group(&volume.group)?;
        let pool = self.pool(&volume.pool)?;
        let rows = self.rows_of(&group.id)?;
        let home = rows.first().ok_or_else(|| {
            Error::new(
                Kind::Damage,
                group.name.clone(),
                format!("the catalogue has no home row of group {}", group.name),
            )
        })?;
        verb.aside(|| self.write_group(&pool, &group, &volume, home))?;
        group.life = Life::Ready;
        volume.life = Life::Ready;
        let txn = self.store.txn().update(records::group_key(&group.name), &group);
        txn.update(records::volume_key(&volume.name), &volume).commit()?;
        let message = format!("volume {} of {} was created", volume.name, text::show_size(volume.size_bytes));
        self.events.history(&pool.id, &format!("volume create {}", volume.name), &message);
        self.events.record(Severity::Info, "volume_create", &volume.name, &message);
        if group.encryption.is_some() && !ublk_target::aes_is_fast() {
            let message = format!(
                "volume {} is encrypted, and this machine's processor has no instructions for AES: it is as safe and many \
                 times slower",
                volume.name
            );
            self.events.record(Severity::Warning, "encryption_slow", &volume.name, &message);
        }
        Ok(())
    }

    /// `volume set`.
    ///
    /// # Errors
    /// `Invalid` for an unknown property or value.
    pub fn set_volume(&self, name: &str, key: &str, value: &str, dry: bool) -> Result<model::Volume> {
        let mut space = self.lock();
        let mut volume = self.ready_volume(name)?;
        match key {
            "cache" => {
                let bytes = text::parse_size(value)?;
                if !CACHE_BYTES.contains(&bytes) {
                    let message = format!("a cache of {} is not possible", text::show_size(bytes));
                    return Err(Error::invalid(name, message).hint("1MiB to 64GiB are"));
                }
                volume.cache_bytes = bytes;
            }
            "legs" => return self.set_legs(&mut space, &volume, value, dry),
            _ => return Err(unknown_property("volume", name, key, "cache=SIZE and legs=N")),
        }
        if !dry {
            self.store.txn().update(records::volume_key(name), &volume).commit()?;
            let pool = self.pool(&volume.pool)?;
            self.events.history(&pool.id, &format!("volume set {name} {key}={value}"), "property changed");
        }
        self.view_volume(name)
    }

    /// The catalogue's half of `volume resize`: the new size. Its target hears of it afterwards, or when it
    /// starts.
    ///
    /// # Errors
    /// `Invalid` for a shrink or an impossible size, `NotSupported` for a device that this kernel cannot resize.
    pub fn resize_record(&self, name: &str, params: &ResizeVolume, dry: bool) -> Result<VolumeRecord> {
        let mut verb = self.lock();
        let mut volume = self.ready_volume(name)?;
        let added = if params.relative { volume.size_bytes } else { 0 };
        let wanted = params.size_bytes.checked_add(added);
        let wanted = wanted.ok_or_else(|| Error::invalid(name, "the size is beyond the format"))?;
        check_bytes(name, wanted)?;
        if wanted < volume.size_bytes {
            let (from, to) = (text::show_size(volume.size_bytes), text::show_size(wanted));
            let message = format!("volume {name} cannot shrink from {from} to {to}");
            return Err(Error::invalid(name, message).hint("volumes only grow"));
        }
        let device =
            volume.attachment.as_ref().filter(|attachment| attachment.frontend == FrontendKind::Ublk);
        if wanted > volume.size_bytes && device.is_some() {
            // A size that no device can follow would be known to the next target alone.
            crate::device::check_resizes(name)?;
        }
        let group = self.group(&volume.group)?;
        let pool = self.pool(&volume.pool)?;
        if wanted > volume.size_bytes {
            let geometry = super::format::geometry(&pool, &group);
            let sectors = Sectors::new(wanted / SECTOR_BYTES as u64);
            check_holds(name, &geometry, sectors, group.encryption.is_some())?;
        }
        if wanted > volume.size_bytes && !dry {
            volume.size_bytes = wanted;
            verb.aside(|| self.write_names(&pool, &group, &volume))?;
            // What serves it may have changed its record meanwhile.
            volume = self.ready_volume(name)?;
            volume.size_bytes = wanted;
            self.store.txn().update(records::volume_key(name), &volume).commit()?;
            let message = format!("volume {name} has {} now", text::show_size(wanted));
            self.events.history(&pool.id, &format!("volume resize {name}"), &message);
            self.events.record(Severity::Info, "volume_resize", name, &message);
        }
        Ok(volume.record)
    }

    /// `volume rename`, of a detached volume.
    ///
    /// # Errors
    /// `Exists` when the name is taken, `Refused` while attached.
    pub fn rename_volume(&self, name: &str, new: &str, dry: bool) -> Result<model::Volume> {
        text::check_name("volume", new)?;
        let mut verb = self.lock();
        let taken = self.store.get::<VolumeRecord>(&records::volume_key(new))?;
        let Some(volume) = self.store.get::<VolumeRecord>(&records::volume_key(name))? else {
            return match taken {
                Some(done) if done.renamed_from.as_deref() == Some(name) => self.view_volume(new),
                _ => Err(self.volume(name).expect_err("it is not there")),
            };
        };
        if name == new {
            return self.view_volume(name);
        }
        // Its own group keeps the name that the volume had: the volume may have it again.
        let is_group =
            self.store.get::<GroupRecord>(&records::group_key(new))?.is_some() && volume.group != new;
        if taken.is_some() || is_group || self.empty_group(new)?.is_some() {
            return Err(
                Error::new(Kind::Exists, new, format!("the name {new} is taken")).hint("choose another name")
            );
        }
        if volume.attachment.is_some() {
            return Err(Error::new(Kind::Refused, name, format!("volume {name} is attached"))
                .hint(format!("plinth volume detach {name} first")));
        }
        self.ready_volume(name)?;
        let group = self.group(&volume.group)?;
        let mut renamed = volume.record.clone();
        renamed.name = new.to_owned();
        renamed.renamed_from = Some(name.to_owned());
        let mut txn = self.store.txn().remove(records::volume_key(name), &volume);
        let mut moved = group.record.clone();
        if group.name == name && !group.stays {
            renamed.group = new.to_owned();
            moved.name = new.to_owned();
            txn = txn.remove(records::group_key(name), &group).create(records::group_key(new), &moved);
        }
        if dry {
            return self.view_volume(name);
        }
        let pool = self.pool(&renamed.pool)?;
        verb.aside(|| self.write_names(&pool, &moved, &renamed))?;
        txn.create(records::volume_key(new), &renamed).commit()?;
        self.events.history(&pool.id, &format!("volume rename {name} {new}"), "renamed");
        self.events.record(
            Severity::Info,
            "volume_rename",
            new,
            &format!("volume {name} is called {new} now"),
        );
        self.view_volume(new)
    }

    /// `volume delete`, of a detached volume.
    ///
    /// # Errors
    /// `NotFound`, `Refused` while attached.
    pub fn delete_volume(&self, name: &str, dry: bool) -> Result<()> {
        let mut space = self.lock();
        let mut volume = self.volume(name)?;
        if volume.attachment.is_some() {
            return Err(Error::new(Kind::Refused, name, format!("volume {name} is attached"))
                .hint(format!("plinth volume detach {name} first")));
        }
        if dry {
            return Ok(());
        }
        if volume.life != Life::Deleting {
            volume.life = Life::Deleting;
            volume.version = self.store.txn().update(records::volume_key(name), &volume).commit()?;
        }
        self.finish_delete(&mut space, &volume)
    }

    /// Wipes and frees the rows of a volume that goes, then forgets it.
    pub(super) fn finish_delete(&self, space: &mut Verb<'_>, volume: &Versioned<VolumeRecord>) -> Result<()> {
        let group = self.group(&volume.group)?;
        let pool = self.pool(&volume.pool)?;
        // Files of the group go before its entry does: afterwards nobody would look for them.
        for path in [
            self.options.stale_marks(&group.id),
            self.options.target_spec(&group.id),
            self.options.target_log(&group.id),
        ] {
            let _ = std::fs::remove_file(path);
        }
        let txn = self.store.txn().remove(records::volume_key(&volume.name), volume);
        let mut txn = txn.remove(records::group_key(&group.name), &group);
        if let Some(empty) = group.emptied() {
            txn = txn.create(records::empty_group_key(&empty.name), &empty);
        }
        self.take_back(space, &pool, &group, txn)?;
        let message = format!("volume {} was deleted", volume.name);
        self.events.history(&pool.id, &format!("volume delete {}", volume.name), &message);
        self.events.record(Severity::Info, "volume_delete", &volume.name, &message);
        Ok(())
    }
}

/// The record of a copy that has everything.
pub(super) fn current_copy(drive: &str) -> CopyRecord {
    CopyRecord {
        drive: drive.to_owned(),
        state: CopyState::Current,
        version: 0,
        stale_since_seq: None,
        stale_since_ckpt: None,
        failed: false,
    }
}

/// Checks a size.
fn check_bytes(name: &str, bytes: u64) -> Result<()> {
    if bytes == 0 {
        return Err(Error::invalid(name, format!("volume {name} cannot have a size of 0")));
    }
    if !bytes.is_multiple_of(BLOCK_BYTES as u64) {
        let message = format!("a size of {bytes} bytes is not a multiple of 4096");
        let next = bytes.checked_next_multiple_of(BLOCK_BYTES as u64);
        let error = Error::invalid(name, message);
        return Err(match next {
            Some(next) => error.hint(format!("the next larger one is {next}")),
            None => error,
        });
    }
    if bytes > MAX_VOLUME_BYTES {
        let message = format!("a size of {} is beyond the format", text::show_size(bytes));
        return Err(Error::invalid(name, message).hint("a volume has at most 128TiB"));
    }
    Ok(())
}

/// Fills in the defaults.
fn shape(params: &CreateVolume) -> Result<Shape> {
    let legs = params.legs.unwrap_or(DEFAULT_LEGS);
    let columns = params.columns.unwrap_or(DEFAULT_COLUMNS);
    if !(1..=MAX_LEGS).contains(&usize::from(legs)) {
        return Err(Error::invalid(&params.name, format!("{legs} legs are not possible")).hint("1 to 4 are"));
    }
    if !(1..=MAX_COLUMNS).contains(&usize::from(columns)) {
        return Err(
            Error::invalid(&params.name, format!("{columns} columns are not possible")).hint("1 to 8 are")
        );
    }
    let stripe = params.stripe_unit_bytes.unwrap_or(DEFAULT_STRIPE_BYTES);
    let stripe_blocks = u32::try_from(stripe / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
    if !stripe.is_multiple_of(BLOCK_BYTES as u64) || stripe_blocks == 0 {
        let message = format!("a stripe unit of {stripe} bytes is not a multiple of 4096");
        return Err(Error::invalid(&params.name, message));
    }
    let group = params.group.clone().unwrap_or_else(|| params.name.clone());
    text::check_name("group", &group)?;
    Ok(Shape { legs, columns, stripe_blocks, group })
}

/// The shape of a new volume's group, if the format can have it in this pool, and it can hold the volume.
fn geometry_for(
    params: &CreateVolume,
    pool: &PoolRecord,
    shape: &Shape,
    encrypted: bool,
) -> Result<Geometry> {
    let name = &params.name;
    let sectors = Sectors::new(params.size_bytes / SECTOR_BYTES as u64);
    // The default ring asks for room behind the fixed blocks of the home extents.
    if pool.extent_blocks / u32::from(shape.columns) > 32 {
        let copies = (shape.legs, shape.columns);
        let geometry =
            Geometry::for_volume(copies, shape.stripe_blocks, pool.extent_blocks, sectors, encrypted);
        if geometry.check() {
            check_holds(name, &geometry, sectors, encrypted)?;
            return Ok(geometry);
        }
    }
    let message = format!(
        "{} columns with a stripe unit of {} do not fit the pool's extents of {}",
        shape.columns,
        text::show_size(u64::from(shape.stripe_blocks) * BLOCK_BYTES as u64),
        text::show_size(u64::from(pool.extent_blocks) * BLOCK_BYTES as u64)
    );
    Err(Error::invalid(name, message).hint("a stripe unit is 32KiB to 16MiB and divides the extent"))
}

/// Refuses a volume that could never be filled: the first row of its group cannot name so many rows, whatever the pool has.
fn check_holds(name: &str, geometry: &Geometry, size: Sectors, encrypted: bool) -> Result<()> {
    if geometry.holds(size, encrypted) {
        return Ok(());
    }
    let bytes = |sectors: Sectors| sectors.get().saturating_mul(SECTOR_BYTES as u64);
    let most = bytes(geometry.largest_volume(encrypted)) >> 20 << 20;
    let extent = u64::from(geometry.extent_blocks) * BLOCK_BYTES as u64;
    let message = format!(
        "a volume of {} can never be filled in this group: with {} legs, {} columns and extents of {} it holds {}",
        text::show_size(bytes(size)),
        geometry.legs,
        geometry.columns,
        text::show_size(extent),
        text::show_size(most)
    );
    let hint = "a new volume in a pool with larger extents (plinth pool create --extent-size) holds more";
    Err(Error::invalid(name, message).hint(hint))
}
