//! Attaching and detaching volumes, and what their targets tell the agent.
//!
//! Crash story: that a volume is to be attached is in the catalogue before a target is started, and leaves it
//! only when the target's process is gone; an agent that starts goes on where the last one was. Each start of a
//! target has a Gen of its own, taken by compare-and-swap before the process exists.
mod concerned;

pub(super) use concerned::drives_concerned;

use super::Agent;
use super::moving::has_rows;
use super::rescan::Later;
use crate::catalogue::{
    Attachment, CopyState, DriveRecord, DriveState, FrontendKind, GroupRecord, MoveRecord, Severity,
    VolumeRecord, moves, records,
};
use crate::device;
use crate::error::{Error, Kind, Result};
use crate::keys::GroupSecret;
use crate::params::AttachVolume;
use crate::protocol::TargetPhase;
use crate::supervise::Phase;
use crate::target::marks::{self, Mark};
use crate::target_spec::{FrontEndSpec, Row, TargetDrive, TargetSpec, TargetVolume};
use crate::{files, model};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};

/// Bytes of the path of a volume's socket at most: clients use the path itself, so the kernel's limit holds, and
/// the socket is made under its name and one more byte.
const MAX_SOCKET_PATH: usize = crate::sockets::MAX_ADDRESS - 1;

impl Agent {
    /// `volume attach`: returns when the volume is served and its device or socket opens.
    ///
    /// # Errors
    /// `NotFound`, `Refused` (attached in another way), `NotSupported` (no ublk), or the target's.
    pub async fn attach_volume(
        self: &Arc<Self>,
        name: &str,
        params: AttachVolume,
        dry: bool,
    ) -> Result<model::Volume> {
        let _hold = self.hold(vec![name.to_owned()]).await?;
        let (this, volume) = (self.clone(), name.to_owned());
        let forces = params.force_stale;
        if forces {
            self.supervisor.refresh(Some(name)).await;
        }
        let record = super::blocking(move || this.announce_attachment(&volume, &params, dry)).await?;
        if !dry {
            self.supervisor.start(self, name, &record.pool);
            if forces {
                self.supervisor.hurry(name);
            }
            let live = self.supervisor.wait_serving(name).await?;
            if let Some(number) = live.device_number {
                device::wait_until_open(number).await?;
            }
            self.supervisor.refresh(Some(name)).await;
        }
        let (this, volume) = (self.clone(), name.to_owned());
        super::blocking(move || this.show_volume(&volume)).await
    }

    /// Checks an attachment and writes it to the catalogue.
    fn announce_attachment(&self, name: &str, params: &AttachVolume, dry: bool) -> Result<VolumeRecord> {
        let _records = self.records();
        let mut volume = self.ready_volume(name)?;
        let wanted = Attachment {
            frontend: if params.nbd.is_some() { FrontendKind::Nbd } else { FrontendKind::Ublk },
            nbd_socket: params.nbd.clone(),
            read_only: params.read_only,
            device_number: None,
            detaching: false,
            force_stale: params.force_stale,
            served: false,
            binary: None,
            next: None,
            tended: false,
        };
        if params.force_stale && params.read_only {
            let message = format!("volume {name} cannot go on from a stale copy without writing");
            return Err(Error::invalid(name, message).hint("leave --read-only or --force-stale away"));
        }
        if let Some(has) = &mut volume.record.attachment {
            same_attachment(name, has, &wanted)?;
            if params.force_stale && !has.force_stale && self.lacks_a_copy(name)? && !dry {
                has.force_stale = true;
                // On the record first: a kill in between leaves a word that nobody acted on.
                self.record_force(&volume)?;
                self.store.txn().update(records::volume_key(name), &volume).commit()?;
            }
            return Ok(volume.record);
        }
        match &params.nbd {
            Some(socket) => self.check_socket(name, socket)?,
            None => device::check_ublk()?,
        }
        if !dry {
            volume.attachment = Some(wanted);
            if params.force_stale {
                self.record_force(&volume)?;
            }
            self.store.txn().update(records::volume_key(name), &volume).commit()?;
        }
        Ok(volume.record)
    }

    /// Whether a volume that is attached is not served, so that a stale copy may be wanted. One that is served has
    /// nothing to give up, and a word that is kept for later would count when nobody remembers it.
    fn lacks_a_copy(&self, name: &str) -> Result<bool> {
        let Some(live) = self.supervisor.live(name).filter(|live| live.phase == Phase::Serving) else {
            return Ok(true);
        };
        if live.status.is_some_and(|status| status.phase != TargetPhase::Serving) {
            let message =
                format!("volume {name} takes no writes any more, and its target still serves reads");
            return Err(Error::new(Kind::Refused, name, message)
                .hint(format!("plinth volume detach {name} first, then attach it with --force-stale")));
        }
        Ok(false)
    }

    /// Writes down the operator's word that what a stale copy lacks is given up.
    fn record_force(&self, volume: &VolumeRecord) -> Result<()> {
        let (name, pool) = (&volume.name, self.pool(&volume.pool)?);
        let message = format!(
            "volume {name} may go on from stale copies where no current one is there: what they lack is given up"
        );
        self.events.history(&pool.id, &format!("volume attach {name} --force-stale"), &message);
        self.events.record(Severity::Warning, "volume_forced", name, &message);
        Ok(())
    }

    /// Refuses a socket path that cannot work, before anything is started.
    fn check_socket(&self, name: &str, socket: &Path) -> Result<()> {
        let path = socket.display().to_string();
        if !socket.is_absolute() {
            return Err(Error::invalid(path.clone(), format!("{path} is not an absolute path")));
        }
        if path.len() > MAX_SOCKET_PATH {
            return Err(Error::invalid(path.clone(), format!("the socket path {path} is too long"))
                .hint(format!("{MAX_SOCKET_PATH} bytes are possible")));
        }
        let folder = socket.parent().unwrap_or(Path::new("/"));
        if !folder.is_dir() {
            let message = format!("there is no folder {} for the socket", folder.display());
            return Err(Error::new(Kind::NotFound, path, message));
        }
        let used = self.store.list::<VolumeRecord>("volumes/")?.into_iter().find(|other| {
            other.name != name
                && other.attachment.as_ref().is_some_and(|a| a.nbd_socket.as_deref() == Some(socket))
        });
        if let Some(other) = used {
            return Err(Error::new(
                Kind::Refused,
                path.clone(),
                format!("{path} serves volume {}", other.name),
            ));
        }
        use std::os::unix::fs::FileTypeExt;
        match std::fs::symlink_metadata(socket) {
            Ok(about) if !about.file_type().is_socket() => {
                Err(Error::new(Kind::Refused, path.clone(), format!("{path} exists and is no socket")))
            }
            _ => Ok(()),
        }
    }

    /// `volume detach`: returns when the target's process is gone.
    ///
    /// # Errors
    /// `Refused` while something holds the device.
    pub async fn detach_volume(self: &Arc<Self>, name: &str, dry: bool) -> Result<model::Volume> {
        let _hold = self.hold(vec![name.to_owned()]).await?;
        if dry {
            let (this, volume) = (self.clone(), name.to_owned());
            super::blocking(move || this.announce_detach(&volume, true)).await?;
        } else {
            self.end_attachment(name).await?;
        }
        let (this, volume) = (self.clone(), name.to_owned());
        super::blocking(move || this.show_volume(&volume)).await
    }

    /// Ends an attachment, if there is one; returns when the target's process is gone.
    ///
    /// # Errors
    /// `Refused` while something holds the device.
    pub(super) async fn end_attachment(self: &Arc<Self>, name: &str) -> Result<()> {
        let (this, volume) = (self.clone(), name.to_owned());
        let attached = super::blocking(move || this.announce_detach(&volume, false)).await?;
        self.supervisor.refresh(Some(name)).await;
        if let Some(pool) = attached {
            self.supervisor.start(self, name, &pool);
            let detached = self.supervisor.detach(name).await;
            if let Err(error) = detached {
                let (this, volume) = (self.clone(), name.to_owned());
                // Whoever asked a moment before may have had it detached before this request was heard.
                if super::blocking(move || this.take_back_detach(&volume)).await? {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Checks that nothing holds the device and notes that it goes. Returns the pool of an attached volume.
    fn announce_detach(&self, name: &str, dry: bool) -> Result<Option<String>> {
        // Before the lock is taken: a device may take its time to open.
        if let Some(number) = self.volume(name)?.attachment.as_ref().and_then(|has| has.device_number) {
            device::check_unused(name, number)?;
        }
        let _records = self.records();
        let mut volume = self.volume(name)?;
        let Some(mut attachment) = volume.attachment.clone() else { return Ok(None) };
        let pool = volume.pool.clone();
        if !dry && !attachment.detaching {
            attachment.detaching = true;
            volume.attachment = Some(attachment);
            self.store.txn().update(records::volume_key(name), &volume).commit()?;
        }
        Ok(Some(pool))
    }

    /// Whether a volume is to be detached that no target can serve: then its device is removed, if it has one. Killed
    /// behind that, the next agent finds the detach and does the same.
    ///
    /// # Errors
    /// `Refused` while something uses the device.
    pub(crate) fn detach_without_target(&self, name: &str) -> Result<bool> {
        let volume = self.volume(name)?;
        let Some(attachment) = volume.attachment.as_ref().filter(|attachment| attachment.detaching) else {
            return Ok(false);
        };
        if attachment.frontend == FrontendKind::Ublk {
            device::remove_unserved(&volume.id)?;
        }
        Ok(true)
    }

    /// A detach that the target refused leaves the volume attached. Returns whether it is.
    fn take_back_detach(&self, name: &str) -> Result<bool> {
        let _records = self.records();
        let mut volume = self.volume(name)?;
        let Some(attachment) = &mut volume.record.attachment else { return Ok(false) };
        attachment.detaching = false;
        self.store.txn().update(records::volume_key(name), &volume).commit()?;
        Ok(true)
    }

    /// Detaches every volume; the first that refuses ends it.
    ///
    /// # Errors
    /// As `detach_volume`.
    pub async fn detach_all(self: &Arc<Self>) -> Result<()> {
        let this = self.clone();
        let attached = super::blocking(move || {
            let volumes = this.store.list::<VolumeRecord>("volumes/")?;
            let held =
                volumes.iter().filter_map(|v| Some((v.name.as_str(), v.attachment.as_ref()?.device_number?)));
            for (name, number) in held {
                device::check_unused(name, number)?;
            }
            Ok(volumes
                .into_iter()
                .filter(|v| v.attachment.is_some())
                .map(|v| v.record.name)
                .collect::<Vec<_>>())
        });
        for name in attached.await? {
            self.detach_volume(&name, false).await?;
        }
        Ok(())
    }

    /// Identity of a volume's group.
    pub(crate) fn group_of(&self, volume: &str) -> Result<String> {
        let volume = self.volume(volume)?;
        Ok(self.group(&volume.group)?.record.id)
    }

    /// Whether a volume's attachment has served at least once.
    pub(crate) fn has_served(&self, volume: &str) -> bool {
        self.volume(volume).is_ok_and(|v| v.record.attachment.is_some_and(|attachment| attachment.served))
    }

    /// Takes the next Gen and writes the spec of a new target. Returns the secret that the target is to be told, of an
    /// encrypted group: unwrapped anew for each target, so that a key that was locked or destroyed meanwhile counts.
    pub(crate) fn prepare_activation(&self, name: &str) -> Result<Option<GroupSecret>> {
        // Before the lock is taken: whoever keeps the key may take its time.
        let secret = self.secret_to_serve(name)?;
        let attached = || {
            let volume = self.ready_volume(name)?;
            let attachment = volume.attachment.clone().ok_or_else(|| {
                Error::new(Kind::Refused, name, format!("volume {name} is not to be attached any more"))
            })?;
            Ok::<_, Error>((volume, attachment))
        };
        let (volume, attachment) = attached()?;
        let usable = self.find_drives(&volume.group, attachment.served)?;
        let _records = self.records();
        // An import may have found another name and size for it by now.
        let (volume, attachment) = attached()?;
        let mut group = self.group(&volume.group)?;
        self.fold_marks(&mut group)?;
        group.gen_number += 1;
        self.store.txn().update(records::group_key(&group.name), &group).commit()?;
        if group.encryption.is_some() {
            self.chores.envelope(&group.name);
        }
        let spec = self.target_spec_of(&volume, &group, attachment, &usable)?;
        spec.write(&self.options.target_spec(&group.id))?;
        Ok(secret)
    }

    /// The secret of a volume's group. A rotation that ends in between takes the version that wrapped the envelope away,
    /// and there is another envelope then.
    fn secret_to_serve(&self, name: &str) -> Result<Option<GroupSecret>> {
        let group = self.ready_volume(name)?.record.group;
        let mut seen = self.group(&group)?;
        loop {
            let secret = self.group_secret(&seen);
            let now = self.group(&group)?;
            if secret.is_ok() || now.encryption == seen.encryption {
                return Ok(super::rekey::as_told(secret?, &seen));
            }
            seen = now;
        }
    }

    /// The drives of a group that its next target may open: the operator allows it, and they are there, once. Looks for
    /// those that are not where they were last, and before the first activation of an attachment also for copies of them:
    /// names of the kernel move, so that a path may lead to a copy by now. A path that something above it has claimed
    /// (multipath mapped it since) leads to the drive, and is of no use to a target. An operator hears of copies; a volume
    /// that was served goes on without such a drive, if it can. No lock is held meanwhile.
    fn find_drives(&self, group: &str, served: bool) -> Result<BTreeSet<String>> {
        let before = self.group(group)?;
        let (mut usable, all_are_well) = self.usable_of(&before)?;
        let mut found = Later::default();
        if !served || !all_are_well {
            found = self.look_for_drives()?;
            usable = self.usable_of(&before)?.0;
        }
        for id in self.concerned_of(&before)?.into_iter().filter(|_| !served) {
            let drive = self.drive(&id)?;
            let refused = self.is_doubled(&drive).filter(|_| drive.state == DriveState::Online);
            refused.map_or(Ok(()), Err)?;
        }
        if !self.group(group)?.uncertain {
            if !found.is_empty() {
                self.chores.rescan();
            }
            return Ok(usable);
        }
        // A copy that knows more rows may be there by now. Nobody was served by it since its import: whoever attaches it
        // waits for the verbs that are under way.
        let mut verb = self.lock();
        self.finish_look(&mut verb, found)?;
        let rebuilt = self.rebuild(&mut verb, self.pool(&before.pool)?, &[], Some(&before.id), false)?;
        if rebuilt.news {
            self.note_import(&rebuilt, false);
        }
        let group = self.group(group)?;
        verb.aside(|| self.usable_of(&group)).map(|(usable, _)| usable)
    }

    /// The drives that a group may have something on and that the operator allows to be used.
    fn online_of(&self, group: &GroupRecord) -> Result<Vec<DriveRecord>> {
        let concerned = self.concerned_of(group)?;
        let copies = group.copies.iter().filter(|copy| concerned.contains(&copy.drive));
        let drives: Result<Vec<_>> = copies.map(|copy| self.drive(&copy.drive)).collect();
        let online = drives?.into_iter().filter(|drive| drive.state == DriveState::Online);
        Ok(online.map(|drive| drive.record).collect())
    }

    /// Those of them that are where the catalogue has them, and whether all are and nothing has claimed one.
    fn usable_of(&self, group: &GroupRecord) -> Result<(BTreeSet<String>, bool)> {
        let (mut there, mut all_are_well) = (BTreeSet::new(), true);
        for drive in self.online_of(group)? {
            let media = self.open_drive(&drive).ok();
            all_are_well &= media.as_ref().is_some_and(|media| !media.is_held());
            if media.is_some() {
                there.insert(drive.id);
            }
        }
        Ok((there, all_are_well))
    }

    fn target_spec_of(
        &self,
        volume: &VolumeRecord,
        group: &GroupRecord,
        attachment: Attachment,
        usable: &BTreeSet<String>,
    ) -> Result<TargetSpec> {
        let pool = self.pool(&volume.pool)?;
        let rows = self.rows_of(&group.id)?;
        let mut home = rows.first().map(|row| row.extents.clone()).unwrap_or_default();
        // Which rows hold, those before a move or those behind it, is what the newest superblock says.
        let moving = self.store.get::<MoveRecord>(&moves::key(&group.id))?;
        let moved = moving.iter().flat_map(|moving| &moving.places).filter(|place| place.row == 0);
        home.extend(moved.flat_map(|place| [place.old.clone(), place.new.clone()]));
        home.sort();
        home.dedup();
        let concerned = drives_concerned(group, &rows, moving.as_deref());
        let mut drives = Vec::with_capacity(group.copies.len());
        for copy in &group.copies {
            let drive = self.drive(&copy.drive)?;
            let homes = home.iter().filter(|(id, _)| *id == copy.drive).map(|(_, extent)| *extent).collect();
            let left = !concerned.contains(&copy.drive);
            let there = !left && drive.state == DriveState::Online && usable.contains(&drive.id);
            drives.push(TargetDrive {
                id: copy.drive.clone(),
                path: there.then(|| drive.path.clone()),
                left,
                blocks: drive.blocks,
                homes,
                stale_version: (copy.state != CopyState::Current).then_some(copy.version),
                stale_since: copy.stale_since_seq.zip(copy.stale_since_ckpt),
            });
        }
        let granted: Result<Vec<Row>> =
            rows.iter().filter(|row| row.row >= group.rows_used).map(|row| self.row_of(group, row)).collect();
        Ok(TargetSpec {
            pool: pool.id.clone(),
            group: group.id.clone(),
            group_name: group.name.clone(),
            gen_number: group.gen_number,
            activation: files::random_id()?.to_string(),
            salt: files::random_salt()?,
            legs: group.legs,
            columns: group.columns,
            stripe_blocks: group.stripe_blocks,
            extent_blocks: pool.extent_blocks,
            drives,
            rows: granted?,
            catalogue_counts: !group.imported,
            forced: attachment.force_stale,
            served_gen: group.served_gen,
            encrypted: group.encryption.is_some(),
            volume: TargetVolume {
                id: volume.id.clone(),
                name: volume.name.clone(),
                size_bytes: volume.size_bytes,
            },
            front_end: match attachment.nbd_socket {
                Some(socket) => FrontEndSpec::Nbd { socket },
                None => FrontEndSpec::Ublk { device_number: attachment.device_number },
            },
            read_only: attachment.read_only,
            cache_bytes: volume.cache_bytes,
            resync_bytes_per_second: pool.resync_bytes_per_second,
            scrub_bytes_per_second: pool.scrub_bytes_per_second,
            control_socket: self.options.target_socket(&group.id),
            stale_marks: self.options.stale_marks(&group.id),
        })
    }

    /// Takes the marks that a target stored while no agent was there into the group's record. The file is
    /// what counts until the catalogue has them.
    pub(crate) fn fold_marks(&self, group: &mut GroupRecord) -> Result<()> {
        let path = self.options.stale_marks(&group.id);
        for mark in marks::read(&path)? {
            apply_mark(group, &mark);
        }
        Ok(())
    }

    /// A target told of drives that are stale, or current again: it is durable in its file already.
    pub(crate) fn note_mark(&self, volume: &str, mark: &Mark, copied: Option<u64>) -> Result<()> {
        let _records = self.records();
        let volume = self.volume(volume)?;
        let mut group = self.group(&volume.group)?;
        if !apply_mark(&mut group, mark) {
            return Ok(());
        }
        self.store.txn().update(records::group_key(&group.name), &group).commit()?;
        if mark.current && group.encryption.is_some() {
            // It may have been away when the envelope was written anew.
            self.chores.envelope(&group.name);
        }
        let rows = self.rows_of(&group.id)?;
        for id in &mark.drives {
            let drive = self.drive(id);
            let path = drive.as_ref().map_or_else(|_| id.clone(), |drive| drive.path.display().to_string());
            let left = drive.as_ref().is_ok_and(|drive| self.is_left(&group, drive).unwrap_or(false));
            let lacks_nothing = left || !has_rows(&rows, id);
            if lacks_nothing && !mark.failed.contains(id) {
                // It takes over in a move, or was left by one: the move is told. Or nothing of the group is on it.
                continue;
            }
            let asked = drive.is_ok_and(|drive| drive.state != DriveState::Online);
            let (severity, kind, message) = if mark.current {
                let mut message = format!("drive {path} is current in group {} again", group.name);
                if let Some(copied) = copied {
                    message += &format!(": {copied} blocks were copied");
                }
                (Severity::Info, "drive_current", message)
            } else {
                let severity = if asked { Severity::Info } else { Severity::Error };
                let message = format!("drive {path} is stale in group {}: it misses writes", group.name);
                (severity, "drive_stale", message)
            };
            self.events.record(severity, kind, &volume.name, &message);
        }
        Ok(())
    }

    /// A target serves: notes it in the catalogue, and lets whoever waits for that know. Both under one lock: a word to go on
    /// from a stale copy that came in between would be kept, and count for a target that dies when nobody remembers it.
    pub(crate) fn note_serving(
        &self,
        name: &str,
        device_number: Option<u32>,
        gen_number: Option<u64>,
    ) -> Result<()> {
        let _records = self.records();
        let noted = self.put_serving(name, device_number, gen_number);
        self.supervisor.serves(name, device_number);
        noted
    }

    /// Notes a target's device, so that the next one takes it over, and makes the stable name. `gen_number`: its activation,
    /// if it is on the drives. The caller has the lock of records.
    fn put_serving(&self, name: &str, device_number: Option<u32>, gen_number: Option<u64>) -> Result<()> {
        let mut volume = self.volume(name)?;
        let (first, tended) = match &mut volume.record.attachment {
            Some(attachment) => {
                let first = !attachment.served;
                attachment.served = true;
                attachment.force_stale = false;
                attachment.device_number = device_number;
                (first, attachment.tended)
            }
            None => return Ok(()),
        };
        let mut txn = self.store.txn().update(records::volume_key(name), &volume);
        let mut group = self.group(&volume.group)?;
        let news = group.encryption.is_some() && gen_number > group.served_gen;
        if group.imported || news {
            // Its own activation is on every current copy now, and the stale ones are marked here.
            (group.imported, group.uncertain) = (false, false);
            group.served_gen = group.served_gen.max(gen_number.filter(|_| news));
            txn = txn.update(records::group_key(&group.name), &group);
        }
        txn.commit()?;
        // Whoever hears of it finds the name.
        if let Some(number) = device_number {
            device::link(&self.options.links, name, number);
        }
        let (kind, verb) = match (tended, first) {
            (true, _) => ("volume_tended", "is tended while nobody has it attached"),
            (false, true) => ("volume_serving", "is attached"),
            (false, false) => ("volume_serving", "is served again"),
        };
        self.events.record(Severity::Info, kind, name, &format!("volume {name} {verb}"));
        Ok(())
    }

    /// Extents for a target's next row. That it asks for this row says that the ones before are in use. `refused` is
    /// the grant of this row that it does not use.
    pub(crate) fn want_row(&self, name: &str, row: u32, refused: Option<u64>) -> Result<Row> {
        let group_name = {
            let _records = self.records();
            let volume = self.volume(name)?;
            let mut group = self.group(&volume.group)?;
            // The row before may still be granted only: it counts as used when the status says so.
            let used = row.saturating_sub(super::rows::ROWS_AHEAD).max(1);
            if used > group.rows_used {
                group.rows_used = used;
                self.store.txn().update(records::group_key(&group.name), &group).commit()?;
            }
            group.record.name
        };
        let granted = self.grant_row(&group_name, row, refused)?;
        self.starved.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(granted)
    }

    /// A row was wanted and there is none: told once until there is one, for the target asks again and again.
    pub(crate) fn note_no_row(&self, name: &str, error: &Error) {
        if self.starved.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned()) {
            let message = format!("volume {name} cannot grow: {error}");
            self.events.record(Severity::Warning, "no_space", name, &message);
        }
    }

    /// The attachment is over, its target is gone, and nobody supervises the volume any more, whatever comes of it. Both
    /// under one lock: an attach that found the attachment gone and its supervision there would leave the volume to one
    /// that is ending, announced and served by nobody.
    pub(crate) fn clear_attachment(&self, name: &str) -> Result<()> {
        let _records = self.records();
        let cleared = self.take_attachment(name);
        self.supervisor.forget(name);
        if let Some(attachment) = cleared?.filter(|attachment| attachment.served) {
            let (kind, is) = if attachment.tended {
                ("volume_left_alone", "left alone")
            } else {
                ("volume_detach", "detached")
            };
            self.events.record(Severity::Info, kind, name, &format!("volume {name} is {is}"));
        }
        Ok(())
    }

    /// Takes an attachment from the catalogue, and what it left.
    fn take_attachment(&self, name: &str) -> Result<Option<Attachment>> {
        let mut volume = self.volume(name)?;
        let Some(attachment) = volume.record.attachment.take() else { return Ok(None) };
        if let Some(socket) = &attachment.nbd_socket {
            device::remove_socket(socket);
        }
        device::unlink(&self.options.links, name, attachment.device_number);
        self.starved.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let mut group = self.group(&volume.group)?;
        let _ = std::fs::remove_file(self.options.target_socket(&group.id));
        let _ = std::fs::remove_file(self.options.kept_program(&group.id));
        let mut txn = self.store.txn().update(records::volume_key(name), &volume);
        // Which of its rows it uses is told by nobody until it has a target again.
        let rows = self.supervisor.live(name).and_then(|live| live.status).map_or(0, |status| status.rows);
        if rows > group.rows_used {
            group.rows_used = rows;
            txn = txn.update(records::group_key(&group.name), &group);
        }
        txn.commit()?;
        Ok(Some(attachment))
    }
}

/// Takes what a mark says of its copies, unless something newer is known. Returns whether that is news. A superblock
/// version says one thing of a drive; of two marks of one version the stale one counts. That a drive failed is
/// kept until it is current again: what a target says of it when it recovers is no news. That one has failed which was
/// stale already is news: it was being brought up to date.
fn apply_mark(group: &mut GroupRecord, mark: &Mark) -> bool {
    let mut news = false;
    for copy in &mut group.copies {
        let Some(place) = mark.drives.iter().position(|drive| *drive == copy.drive) else { continue };
        let newer = mark.version > copy.version || (mark.version == copy.version && !mark.current);
        if newer {
            let state = if mark.current { CopyState::Current } else { CopyState::Stale };
            let before = (copy.state, copy.failed);
            // A mark that was taken before says nothing new: what was forgiven since stays forgiven.
            let failed =
                mark.failed.contains(&copy.drive) && (mark.version > copy.version || copy.state != state);
            copy.failed = !mark.current && (copy.failed || failed);
            (copy.state, copy.version) = (state, mark.version);
            news |= before != (copy.state, copy.failed);
            let since = mark.since.get(place).filter(|_| !mark.current);
            (copy.stale_since_seq, copy.stale_since_ckpt) =
                (since.map(|since| since.0), since.map(|since| since.1));
        }
    }
    news
}

/// A repeated attach is fine; another one beside it is not.
fn same_attachment(name: &str, has: &Attachment, wanted: &Attachment) -> Result<()> {
    if has.detaching {
        return Err(Error::new(Kind::Busy, name, format!("volume {name} is being detached"))
            .hint(format!("repeat plinth volume detach {name}")));
    }
    if (has.frontend, &has.nbd_socket, has.read_only)
        == (wanted.frontend, &wanted.nbd_socket, wanted.read_only)
    {
        return Ok(());
    }
    let how = match (&has.nbd_socket, has.read_only) {
        (Some(socket), _) => format!("over NBD at {}", socket.display()),
        (None, true) => "as a read-only device".to_owned(),
        (None, false) => "as a device".to_owned(),
    };
    Err(Error::new(Kind::Refused, name, format!("volume {name} is attached already, {how}"))
        .hint(format!("plinth volume detach {name} first")))
}

#[cfg(test)]
mod tests;
