//! Rebuilding what the catalogue knows of a pool from the drives that are at hand: at its import, and again whenever
//! more of it is found.
//!
//! Crash story: everything is written in one transaction, so that it happened or did not; a repetition comes to the
//! same. A group that has served since its import is the catalogue's own, and nothing about it is changed. Any other
//! is what its newest superblock says, and that may be on a drive that was not there before. What has a header on a
//! drive and no row in the catalogue stays taken: of a group whose home drives are away its later rows say no more.
use super::Agent;
use super::found::{Found, FoundGroup, found_on, lacking, nameless};
use super::locks::Verb;
use super::rows::extents_of;
use crate::catalogue::records::{LeftOut, LeftRecord};
use crate::catalogue::{
    ABSENT, CopyState, DriveRecord, ExtentRecord, GroupRecord, Life, PoolRecord, Txn, Versioned,
    VolumeRecord, deleted, records,
};
use crate::drives::{LabelState, Media, Seen, read_label};
use crate::error::{Error, Kind, Result};
use crate::keys::newest_envelope;
use crate::protocol::Request;
use crate::text;
use base::Uuid;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use volume::StoredEnvelope;
use volume::keys::GroupKeys;

/// A place of a pool: drive and extent.
type Place = (String, u32);

/// A group as it was before, with its volume.
type Had = (Versioned<GroupRecord>, Versioned<VolumeRecord>);

/// What is to be written.
struct Plan {
    pool: Versioned<PoolRecord>,
    /// Drives that are found for the first time.
    joined: Vec<Versioned<DriveRecord>>,
    /// Drives that groups name and that nobody has seen.
    lacking: Vec<DriveRecord>,
    /// Drives that were read.
    at_hand: BTreeSet<String>,
    /// Groups to write, in place of what was known of them before.
    groups: Vec<(FoundGroup, Option<Had>)>,
    /// Their extents.
    claimed: BTreeSet<Place>,
    /// Extents that stay taken without a row.
    held: BTreeMap<Place, ExtentRecord>,
    /// What others have.
    taken: BTreeMap<Place, ExtentRecord>,
    /// Encrypted groups that could not be opened, and why.
    locked: BTreeMap<String, Error>,
}

/// What a rebuild came to.
pub(super) struct Rebuilt {
    /// The pool.
    pub pool: PoolRecord,
    /// Its drives, as far as they were found.
    pub drives: Vec<DriveRecord>,
    /// Whether anything was found that was not known.
    pub news: bool,
    /// In a sentence, what came of it.
    pub message: String,
    /// Whether it is not all.
    pub lacks: bool,
}

impl Agent {
    /// Joins drives to a pool, which may be a new one, and rebuilds what its drives at hand describe. `activating`: the
    /// group that is about to be activated; another one that is attached may have a target already. `dry`: only says
    /// what would be.
    ///
    /// # Errors
    /// A drive's, with nothing changed: what it holds would be taken for free.
    pub(super) fn rebuild(
        &self,
        space: &mut Verb<'_>,
        pool: Versioned<PoolRecord>,
        seen: &[&Seen],
        activating: Option<&str>,
        dry: bool,
    ) -> Result<Rebuilt> {
        let before = pool.record.clone();
        // Every extent of every drive is read, and every encrypted group opened, while others go on: what they change is
        // of groups that are served, and of those nothing is rebuilt.
        let (mut plan, found) = space.aside(|| self.begin_plan(pool, seen))?;
        plan.taken = self.taken_on(&plan.at_hand)?;
        plan.pool.left_out.clear();
        self.plan_groups(&mut plan, found, activating)?;
        plan.keep_left_out(&before.left_out);
        let mut drives: Vec<DriveRecord> = plan.joined.iter().map(|drive| drive.record.clone()).collect();
        drives.extend(plan.lacking.iter().cloned());
        let fresh = |(found, had): &(FoundGroup, Option<Had>)| {
            had.as_ref().is_none_or(|(had, _)| had.uncertain && !found.group.uncertain)
        };
        let news = plan.pool.record != before || !plan.joined.is_empty() || plan.groups.iter().any(fresh);
        if dry {
            return Ok(Rebuilt {
                news,
                lacks: false,
                pool: plan.pool.record,
                drives,
                message: String::new(),
            });
        }
        self.commit_plan(&plan)?;
        let now = self.pool_drives(&plan.pool)?;
        space.reload(&self.store, &now)?;
        // Volumes that wanted space may get it now.
        self.supervisor.tell(&plan.pool.name, &Request::SpaceAdded);
        self.moving.look_now();
        let mut message = format!(
            "{} found, {} rebuilt",
            text::counted(plan.joined.len(), "drive"),
            text::counted(plan.groups.len(), "volume")
        );
        plan.pool.left_out.iter().for_each(|left| message += &format!("; group {} {}", left.group, left.why));
        for (group, why) in plan.locked_groups() {
            message += &format!("; the names of encrypted group {group} were not read: {}", why.message);
        }
        let lacks = incomplete(&plan.pool, &now);
        if let Some(lacks) = &lacks {
            message += &format!("; nothing new is handed out: {lacks}");
        }
        let lacks = lacks.is_some() || plan.locked_groups().next().is_some();
        Ok(Rebuilt { lacks, pool: plan.pool.record, drives, news, message })
    }

    /// Reads the drives at hand: those that are new and those that the pool has.
    fn begin_plan(&self, mut pool: Versioned<PoolRecord>, seen: &[&Seen]) -> Result<(Plan, Found)> {
        let mut joined = Vec::with_capacity(seen.len());
        let mut at_hand: Vec<(DriveRecord, Media)> = Vec::new();
        for seen in seen {
            let mut record = super::import::drive_of(&pool.id, seen);
            let had = self.store.get::<DriveRecord>(&records::drive_key(&record.id))?;
            let version = had.as_ref().map_or(ABSENT, |had| had.version);
            if let Some(had) = had {
                (record.state, record.leaving) = (had.state, had.record.leaving);
            }
            if !pool.drives.contains(&record.id) {
                pool.drives.push(record.id.clone());
            }
            at_hand.push((record.clone(), open_checked(&record)?));
            joined.push(Versioned { version, record });
        }
        for id in pool.drives.clone() {
            let Some(drive) = self.store.get::<DriveRecord>(&records::drive_key(&id))? else { continue };
            let known = drive.blocks > 0 && drive.life == Life::Ready;
            if known && let Ok(media) = open_checked(&drive) {
                at_hand.push((drive.record, media));
            }
        }
        let locked = RefCell::new(BTreeMap::new());
        let found = found_on(&pool, &at_hand, &|group, envelopes| self.keys_of(group, envelopes, &locked))?;
        let locked = locked.into_inner();
        let at_hand = at_hand.into_iter().map(|(drive, _)| drive.id).collect();
        let plan = Plan {
            pool,
            joined,
            lacking: Vec::new(),
            at_hand,
            groups: Vec::new(),
            claimed: BTreeSet::new(),
            held: BTreeMap::new(),
            taken: BTreeMap::new(),
            locked,
        };
        Ok((plan, found))
    }

    /// What others have on drives.
    fn taken_on(&self, drives: &BTreeSet<String>) -> Result<BTreeMap<Place, ExtentRecord>> {
        let mut taken = BTreeMap::new();
        for drive in drives {
            for extent in self.store.list::<ExtentRecord>(&format!("extents/{drive}/"))? {
                taken.insert((extent.drive.clone(), extent.extent), extent.record);
            }
        }
        Ok(taken)
    }

    /// The keys of a group, by the envelope that the catalogue has, or else the newest in its headers. Notes why there are
    /// none.
    fn keys_of(
        &self,
        group: Uuid,
        envelopes: &[StoredEnvelope],
        locked: &RefCell<BTreeMap<String, Error>>,
    ) -> Option<GroupKeys> {
        let id = group.to_string();
        let groups = self.store.list::<GroupRecord>("groups/").unwrap_or_default();
        let known = groups.into_iter().find(|known| known.id == id).and_then(|known| known.record.encryption);
        let envelope = match known {
            Some(encryption) => encryption.envelope,
            None => newest_envelope(envelopes).map(|(envelope, _)| envelope),
        };
        match self.keys.open_group(&envelope?, &group) {
            Ok(secret) => Some(secret.keys()),
            Err(error) => {
                locked.borrow_mut().insert(id, error);
                None
            }
        }
    }

    /// Which groups are rebuilt, which are left out, and what stays taken.
    fn plan_groups(&self, plan: &mut Plan, found: Found, activating: Option<&str>) -> Result<()> {
        let mut known: BTreeMap<String, Had> = BTreeMap::new();
        let mut names = BTreeSet::new();
        let groups = self.store.list::<GroupRecord>("groups/")?;
        for volume in self.store.list::<VolumeRecord>("volumes/")? {
            names.extend([format!("volumes/{}", volume.name), format!("groups/{}", volume.group)]);
            if let Some(group) = groups.iter().find(|group| group.name == volume.group) {
                known.insert(group.id.clone(), (group.clone(), volume));
            }
        }
        names.extend(self.empty_groups()?.iter().map(|empty| format!("groups/{}", empty.name)));
        let deleted = self.store.keys(deleted::PREFIX)?;
        // One that is being deleted stays so.
        let own = |id: &String| {
            let busy = |volume: &VolumeRecord| {
                volume.life != Life::Ready || (volume.attachment.is_some() && activating != Some(id))
            };
            known.get(id).is_some_and(|(group, volume)| !group.imported || busy(volume))
        };
        for mut group in found.groups {
            let had = known.get(&group.group.id);
            // Nor does one come back that was deleted while this drive was away.
            if own(&group.group.id) || deleted.contains(&deleted::key(&group.group.id)) {
                continue;
            }
            match take_names(&mut group, had, &mut names).or_else(|| plan.collision(&group)) {
                None => {
                    plan.claimed.extend(places(&group).cloned());
                    plan.groups.push((group, had.cloned()));
                }
                Some(why) => plan.leave_out(&group, why),
            }
        }
        let unknown = found
            .left_out
            .into_iter()
            .filter(|left| !known.contains_key(&left.group) && !deleted.contains(&deleted::key(&left.group)));
        plan.pool.left_out.extend(unknown);
        for held in found.held {
            // Of a group that has served a header without a row is on its way in or out, unless its drive was never
            // seen here.
            let served = known.get(&held.group).is_some_and(|(group, _)| !group.imported);
            let joined = plan.joined.iter().any(|drive| drive.id == held.drive);
            if joined || !served {
                plan.hold(held);
            }
        }
        plan.settle_held();
        let left = self.store.list::<LeftRecord>(&format!("left/{}/", plan.pool.id))?;
        plan.find_lacking(&left.into_iter().map(|left| left.record.id).collect());
        plan.pool.left_out.sort();
        Ok(())
    }

    fn commit_plan(&self, plan: &Plan) -> Result<()> {
        let mut txn = self.store.txn().update(records::pool_key(&plan.pool.name), &plan.pool);
        txn = txn.delete(super::import::trace_key(&plan.pool.name));
        for drive in &plan.joined {
            txn = txn.update(records::drive_key(&drive.id), drive);
        }
        for drive in &plan.lacking {
            txn = txn.create(records::drive_key(&drive.id), drive);
        }
        for ((drive, extent), _) in plan.taken.iter().filter(|(_, taken)| taken.unbacked) {
            txn = txn.delete(records::extent_key(drive, *extent));
        }
        for (_, had) in &plan.groups {
            let Some((group, volume)) = had else { continue };
            txn = txn.remove(records::group_key(&group.name), group);
            txn = txn.remove(records::volume_key(&volume.name), volume);
            for row in self.rows_of(&group.id)? {
                txn = txn.remove(records::row_key(&group.id, row.row), &row);
                for (drive, extent) in &row.extents {
                    txn = txn.delete(records::extent_key(drive, *extent));
                }
            }
        }
        for (found, _) in &plan.groups {
            txn = put_group(txn, found);
        }
        for ((drive, extent), held) in &plan.held {
            txn = txn.put(records::extent_key(drive, *extent), held);
        }
        txn.commit().map(drop)
    }
}

impl Plan {
    /// Groups that are rebuilt and were not opened, and why.
    fn locked_groups(&self) -> impl Iterator<Item = (&String, &Error)> {
        let rebuilt = |id: &String| self.groups.iter().any(|(found, _)| found.group.id == *id);
        self.locked.iter().filter(move |(id, _)| rebuilt(id))
    }

    /// Whether somebody else has an extent of a group, and what is said of that.
    fn collision(&self, found: &FoundGroup) -> Option<String> {
        let others = |place: &&Place| {
            let taken = self.taken.get(*place);
            let catalogue = taken.is_some_and(|taken| !taken.unbacked && taken.group != found.group.id);
            catalogue || self.claimed.contains(*place)
        };
        let (drive, extent) = places(found).find(others)?;
        Some(format!("has extent {extent} of drive {drive}, which another group has"))
    }

    /// A group stays as it is on the drives; what it has there stays taken.
    fn leave_out(&mut self, found: &FoundGroup, why: String) {
        let group = &found.group;
        self.pool.left_out.push(LeftOut { group: group.id.clone(), why, blocks: group.uncertain });
        for extent in found.rows.iter().flat_map(|row| extents_of(group, row)) {
            if self.at_hand.contains(&extent.drive) {
                self.hold(ExtentRecord { unbacked: true, ..extent });
            }
        }
    }

    /// What was left out before stays so while a drive that may have it is away.
    fn keep_left_out(&mut self, before: &[LeftOut]) {
        if self.pool.drives.iter().all(|id| self.at_hand.contains(id)) {
            return;
        }
        for left in before {
            let known = self.pool.left_out.iter().any(|now| now.group == left.group);
            let rebuilt = self.groups.iter().any(|(found, _)| found.group.id == left.group);
            if !known && !rebuilt {
                self.pool.left_out.push(left.clone());
            }
        }
        self.pool.left_out.sort();
    }

    fn hold(&mut self, extent: ExtentRecord) {
        self.held.insert((extent.drive.clone(), extent.extent), extent);
    }

    /// What has a row needs not be held.
    fn settle_held(&mut self) {
        let replaced: BTreeSet<&String> = self.groups.iter().map(|(found, _)| &found.group.id).collect();
        let (taken, claimed) = (&self.taken, &self.claimed);
        self.held.retain(|place, _| {
            let had = taken.get(place).filter(|had| !had.unbacked && !replaced.contains(&had.group));
            had.is_none() && !claimed.contains(place)
        });
    }

    /// Drives that the groups name and that the pool does not have yet. One that left the pool is missing to nobody: a
    /// group that was not activated since still lists it, with nothing on it.
    fn find_lacking(&mut self, left: &BTreeSet<String>) {
        let mut named = BTreeSet::new();
        for (found, _) in &self.groups {
            let current = found.group.copies.iter().filter(|copy| copy.state == CopyState::Current);
            named.extend(current.map(|copy| copy.drive.clone()).filter(|id| !left.contains(id)));
            named.extend(places(found).map(|(drive, _)| drive.clone()));
        }
        named.retain(|id| !self.pool.drives.contains(id));
        self.lacking = named.iter().map(|id| lacking(&self.pool, id)).collect();
        self.pool.drives.extend(named);
        for (found, _) in &mut self.groups {
            found.group.copies.retain(|copy| self.pool.drives.contains(&copy.drive));
        }
    }
}

/// Everywhere that a group has something.
fn places(found: &FoundGroup) -> impl Iterator<Item = &Place> {
    found.rows.iter().flat_map(|row| &row.extents)
}

/// Gives a group and its volume the names that they get, and what was known of them. Says why they get none.
fn take_names(found: &mut FoundGroup, had: Option<&Had>, names: &mut BTreeSet<String>) -> Option<String> {
    if let Some((group, _)) = had {
        // The catalogue remembers more than the drives.
        let now = &mut found.group;
        now.created_at.clone_from(&group.created_at);
        now.gen_number = now.gen_number.max(group.gen_number);
        (now.grants, now.moves, now.served_gen) = (group.grants, group.moves, group.served_gen);
        now.stays = group.stays;
        now.encryption = group.encryption.clone().or(now.encryption.take());
    }
    if found.volume.is_none() && found.group.encryption.is_some() && had.is_none() {
        let volume = nameless(&found.group);
        found.group.name.clone_from(&volume.group);
        found.volume = Some(volume);
    }
    let Some(volume) = &mut found.volume else {
        let Some((group, volume)) = had else {
            return Some("has its names in no header that is at hand".to_owned());
        };
        found.group.name.clone_from(&group.name);
        found.volume = Some(volume.record.clone());
        return None;
    };
    let wanted =
        |volume: &VolumeRecord| [format!("volumes/{}", volume.name), format!("groups/{}", volume.group)];
    if let Some((_, had)) = had {
        let its = wanted(had);
        let free = wanted(volume).iter().all(|name| its.contains(name) || !names.contains(name));
        if had.attachment.is_some() || !free {
            (volume.name, volume.group) = (had.name.clone(), had.group.clone());
        }
        volume.created_at.clone_from(&had.created_at);
        volume.renamed_from.clone_from(&had.renamed_from);
        volume.attachment.clone_from(&had.attachment);
        (volume.cache_bytes, volume.size_bytes) = (had.cache_bytes, volume.size_bytes.max(had.size_bytes));
        found.group.name.clone_from(&volume.group);
        names.retain(|name| !its.contains(name));
    } else if let Some(taken) = wanted(volume).iter().find(|name| names.contains(*name)) {
        let name = taken.split_once('/').map_or(taken.as_str(), |(_, name)| name);
        return Some(format!("is called {name}, and there is one of that name already"));
    }
    names.extend(wanted(volume));
    None
}

/// Adds to a transaction what is known of a group, whatever was there.
fn put_group<'a>(txn: Txn<'a>, found: &FoundGroup) -> Txn<'a> {
    let volume = found.volume.as_ref().expect("a group that is rebuilt has its names");
    let txn = txn.put(records::group_key(&found.group.name), &found.group);
    let mut txn = txn.put(records::volume_key(&volume.name), volume);
    for row in &found.rows {
        txn = txn.put(records::row_key(&found.group.id, row.row), row);
        for extent in extents_of(&found.group, row) {
            txn = txn.put(records::extent_key(&extent.drive, extent.extent), &extent);
        }
    }
    txn
}

/// Opens a drive to be read, if it is the one that it should be.
fn open_checked(drive: &DriveRecord) -> Result<Media> {
    let media = Media::open_read(&drive.path)?;
    match read_label(&media)? {
        LabelState::Ours { label, .. } if label.drive.to_string() == drive.id => Ok(media),
        _ => {
            let name = drive.path.display().to_string();
            let message = format!("{name} is not the drive {} any more", drive.id);
            Err(Error::new(Kind::NotFound, name, message))
        }
    }
}

/// Why a pool that was imported is not all there; `None` when it is, or was made here.
pub(super) fn incomplete(pool: &PoolRecord, drives: &[Versioned<DriveRecord>]) -> Option<String> {
    let lacking: Vec<&str> =
        drives.iter().filter(|drive| drive.is_lacking()).map(|drive| drive.id.as_str()).collect();
    let blocks: Vec<&str> =
        pool.left_out.iter().filter(|left| left.blocks).map(|left| left.group.as_str()).collect();
    let drives = format!("missing is drive {}", lacking.join(" "));
    let groups = format!("group {} could not be rebuilt", blocks.join(" "));
    match (lacking.is_empty(), blocks.is_empty()) {
        (true, true) => None,
        (false, true) => Some(drives),
        (true, false) => Some(groups),
        (false, false) => Some(format!("{drives}, {groups}")),
    }
}

/// What to do about a pool that is not all there.
pub(super) fn way_out(pool: &str) -> String {
    format!(
        "bring what is missing, then repeat plinth pool import {pool}; plinth drive fail {pool} DRIVE gives a drive up"
    )
}
