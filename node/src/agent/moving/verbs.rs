//! `drive evacuate`, `drive remove`, `drive replace`.
//!
//! Each checks first whether everything on the drive has a place elsewhere, in all groups; if not, nothing is changed.
//! Then the drive's record says what is wanted, and the rest happens by itself (`super`).
use super::records::Purpose;
use crate::agent::placement::Choice;
use crate::agent::view::{extent_bytes, view_drive};
use crate::agent::{Agent, blocking};
use crate::catalogue::records::LeftRecord;
use crate::catalogue::{
    DriveRecord, DriveState, Errand, GroupRecord, Leaving, Life, PoolRecord, RowRecord, Severity, Versioned,
    VolumeRecord,
};
use crate::error::{Error, Kind, Result};
use crate::model;
use crate::params::{AddDrives, ReplaceDrive};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a verb waits for the first step of what it began.
const BEGIN_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

impl Agent {
    /// `drive evacuate` and `drive remove`: returns when it has begun.
    ///
    /// # Errors
    /// `NoSpace` when what is on the drive has no place elsewhere, `Refused` when nobody else has it; nothing is changed
    /// then.
    pub async fn empty_drive(
        self: &Arc<Self>,
        pool: &str,
        drive: &str,
        errand: Errand,
        dry: bool,
    ) -> Result<model::Drive> {
        let (this, of, named) = (self.clone(), pool.to_owned(), drive.to_owned());
        let begun = blocking(move || this.announce_leaving(&of, &named, errand, dry)).await?;
        self.begun(pool, begun, dry).await
    }

    /// The drive of a verb, when its work has begun.
    async fn begun(self: &Arc<Self>, pool: &str, begun: Begun, dry: bool) -> Result<model::Drive> {
        if dry {
            return Ok(begun.shown);
        }
        if let Some(id) = begun.id {
            self.moving.look_now();
            self.wait_begun(&id).await?;
        }
        self.shown_or(pool, begun.shown.id.clone(), begun.shown).await
    }

    /// `drive replace`: another drive takes all of it. Returns when it has begun.
    ///
    /// # Errors
    /// As `empty_drive`, and those of `pool add`.
    pub async fn replace_drive(
        self: &Arc<Self>,
        pool: &str,
        old: &str,
        params: ReplaceDrive,
        dry: bool,
    ) -> Result<model::Drive> {
        let (this, of, named) = (self.clone(), pool.to_owned(), old.to_owned());
        let begun = blocking(move || this.announce_replacement(&of, &named, &params, dry)).await?;
        self.begun(pool, begun, dry).await
    }

    /// A drive as it is now; as it was when it has left meanwhile.
    async fn shown_or(self: &Arc<Self>, pool: &str, id: String, was: model::Drive) -> Result<model::Drive> {
        let (this, pool) = (self.clone(), pool.to_owned());
        self.supervisor.refresh(None).await;
        blocking(move || match this.show_drive(&pool, &id) {
            Err(error) if error.kind == Kind::NotFound => Ok(was),
            shown => shown,
        })
        .await
    }

    /// Waits until the drive has left, or every volume on it was looked at.
    async fn wait_begun(self: &Arc<Self>, id: &str) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < BEGIN_DEADLINE {
            let (this, drive) = (self.clone(), id.to_owned());
            let begun = blocking(move || {
                let _records = this.records();
                let Ok(drive) = this.drive(&drive) else { return Ok(true) };
                let pool = this.pool(&this.pool_name(&drive.pool)?)?;
                let tasks = this.view_tasks(&pool)?;
                let mut its = tasks.iter().filter(|task| task.drive.as_deref() == Some(&drive.id));
                let removes = drive.leaving.as_ref().is_some_and(|leaving| leaving.errand.removes());
                let any = its.clone().next().is_some();
                Ok((any || !removes) && its.all(|task| task.state != model::TaskState::Queued))
            });
            if begun.await? {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Checks that a drive can be emptied, and notes that it is to be.
    fn announce_leaving(&self, pool: &str, named: &str, errand: Errand, dry: bool) -> Result<Begun> {
        let mut space = self.lock();
        let mut pool = self.ready_pool(pool)?;
        let mut drive = match self.any_drive_of(&pool, named) {
            Ok(drive) if drive.life == Life::Creating && errand == Errand::Remove => {
                let shown = self.shown_as(&space, &pool, &drive);
                if !dry {
                    self.forget_announced(&mut space, &mut pool, &drive)?;
                }
                return Ok(Begun { id: None, shown });
            }
            Ok(_) => self.drive_of(&pool, named)?,
            Err(error) if error.kind == Kind::NotFound && errand.removes() => {
                let left = self.left_drive(&pool, named)?.ok_or(error)?;
                return Ok(Begun { id: None, shown: gone(&left) });
            }
            Err(error) => return Err(error),
        };
        self.rescan(&mut space)?;
        let stays = |other: &Versioned<DriveRecord>| other.life == Life::Ready && other.id != drive.id;
        if errand.removes() && !self.pool_drives(&pool)?.iter().any(stays) {
            let message = format!("drive {} is the last one of pool {}", drive.path.display(), pool.name);
            return Err(Error::new(Kind::Refused, drive.path.display().to_string(), message)
                .hint(format!("plinth pool delete {} deletes the pool", pool.name)));
        }
        let had = drive.leaving.clone();
        // What was asked for before and goes further stays.
        let goes_on = had.as_ref().is_some_and(|had| had.errand == errand || (had.errand.removes()));
        if !goes_on {
            let to = None;
            drive.leaving = Some(Leaving { errand, to });
            self.check_room(&mut space, &pool, &drive, None)?;
        }
        let wanted = drive.leaving.clone();
        if !dry && !goes_on {
            drive.leaving = had;
            self.set_leaving(&mut drive, wanted)?;
            self.moving.forgive();
            self.tending.forgive();
            let (verb, what) = match errand {
                Errand::Remove => ("remove", "is to leave the pool"),
                _ => ("evacuate", "is to be empty"),
            };
            let path = drive.path.display();
            let message = format!("drive {path} of pool {} {what}", pool.name);
            self.events.history(&pool.id, &format!("drive {verb} {} {path}", pool.name), &message);
            self.events.record(Severity::Info, "drive_evacuating", &drive.id, &message);
        }
        let shown = self.shown_as(&space, &pool, &drive);
        Ok(Begun { id: Some(drive.record.id), shown })
    }

    fn shown_as(
        &self,
        space: &crate::agent::space::Space,
        pool: &PoolRecord,
        drive: &DriveRecord,
    ) -> model::Drive {
        let taken = u64::from(space.taken(&drive.id));
        view_drive(drive, extent_bytes(pool), taken, self.is_there(drive), false)
    }

    /// A drive that left a pool, by id or by the path where it was.
    fn left_drive(&self, pool: &PoolRecord, named: &str) -> Result<Option<LeftRecord>> {
        let left = self.store.list::<LeftRecord>(&format!("left/{}/", pool.id))?;
        let is = |left: &Versioned<LeftRecord>| left.id == named || left.path == Path::new(named);
        Ok(left.into_iter().rev().find(is).map(|left| left.record))
    }

    /// Refuses unless everything on a drive has a place elsewhere. `new` is a drive that is not in the pool yet.
    pub(super) fn check_room(
        &self,
        space: &mut crate::agent::locks::Verb<'_>,
        pool: &PoolRecord,
        drive: &DriveRecord,
        new: Option<Choice>,
    ) -> Result<()> {
        self.refuse_left_out(pool, drive)?;
        let mut choices = self.choices(space, pool)?;
        choices.extend(new);
        for (volume, group) in self.groups_of(&pool.name)? {
            let places = self.places_on(&group, &drive.id)?;
            if places.is_empty() {
                continue;
            }
            if let Some(row) = self.has_nobody_else(&group, drive, &places)? {
                // A spare takes the place of what others have too.
                if super::spares::is_spared(drive) {
                    continue;
                }
                let path = drive.path.display().to_string();
                let message = format!(
                    "drive {path} cannot be emptied: it cannot be read, and nobody else has row {row} of volume {}",
                    volume.name
                );
                return Err(Error::new(Kind::Refused, path, message)
                    .hint("bring the drive back first; plinth pool status tells what is wrong with it"));
            }
            self.choose_successors(&mut choices, (&volume, &group), &Purpose::Leave(drive), &places)?;
        }
        Ok(())
    }

    /// Refuses a drive that has something of a group that was not imported: nobody can move that.
    fn refuse_left_out(&self, pool: &PoolRecord, drive: &DriveRecord) -> Result<()> {
        let Some(extent) = self.unbacked_on(&drive.id)?.into_iter().next() else { return Ok(()) };
        if !self.is_there(drive) {
            return Ok(());
        }
        let path = drive.path.display().to_string();
        let message = format!(
            "drive {path} cannot be emptied: group {} was not imported and has extents there",
            extent.group
        );
        Err(Error::new(Kind::Refused, path, message)
            .hint(format!("plinth pool status {} tells why it was not", pool.name)))
    }

    /// The volumes of a pool with their groups.
    pub(in crate::agent) fn groups_of(
        &self,
        pool: &str,
    ) -> Result<Vec<(VolumeRecord, Versioned<GroupRecord>)>> {
        let volumes = self.store.list::<VolumeRecord>("volumes/")?;
        let of_pool = volumes.into_iter().filter(|volume| volume.pool == pool);
        of_pool.map(|volume| Ok((volume.record.clone(), self.group(&volume.group)?))).collect()
    }

    /// The places that a group has on a drive, in the catalogue.
    pub(super) fn places_on(&self, group: &GroupRecord, drive: &str) -> Result<Vec<(RowRecord, usize)>> {
        let mut places = Vec::new();
        for row in self.rows_of(&group.id)? {
            for (at, (id, _)) in row.extents.iter().enumerate() {
                if id == drive {
                    places.push((row.record.clone(), at));
                }
            }
        }
        Ok(places)
    }

    /// A row that only this drive could have, and it cannot be read.
    fn has_nobody_else(
        &self,
        group: &GroupRecord,
        drive: &DriveRecord,
        places: &[(RowRecord, usize)],
    ) -> Result<Option<u32>> {
        use crate::catalogue::CopyState::Current;
        let mut group = Versioned { version: 0, record: group.clone() };
        self.fold_marks(&mut group)?;
        let has = |id: &str| -> Result<bool> {
            let current = group.copies.iter().any(|copy| copy.drive == id && copy.state == Current);
            let record = self.drive(id)?;
            Ok(current && record.state == DriveState::Online && self.is_there(&record))
        };
        if has(&drive.id)? {
            return Ok(None);
        }
        let columns = usize::from(group.columns);
        for (row, at) in places {
            let copies = row.extents.iter().take(group.row_extents());
            let mut others = copies.skip(at % columns).step_by(columns);
            if others.try_fold(false, |any, (id, _)| Ok::<_, Error>(any || has(id)?))? {
                continue;
            }
            return Ok(Some(row.row));
        }
        Ok(None)
    }

    /// Checks that a drive can take another one's place, adds it to the pool if it is not there, and notes what is
    /// wanted.
    fn announce_replacement(
        &self,
        pool_name: &str,
        old: &str,
        params: &ReplaceDrive,
        dry: bool,
    ) -> Result<Begun> {
        let mut space = self.lock();
        let pool = self.ready_pool(pool_name)?;
        let new = params.new.display().to_string();
        let member = self.drive_of(&pool, &new).ok();
        let mut old = match self.drive_of(&pool, old) {
            Ok(old) => old,
            Err(error) if error.kind == Kind::NotFound => {
                let left = self.left_drive(&pool, old)?.ok_or(error)?;
                let same = member.filter(|member| left.to.as_ref() == Some(&member.id));
                let same = same.ok_or_else(|| {
                    Error::new(Kind::NotFound, old, format!("drive {old} left pool {pool_name} before"))
                })?;
                return Ok(Begun { id: None, shown: self.shown_as(&space, &pool, &same) });
            }
            Err(error) => return Err(error),
        };
        self.rescan(&mut space)?;
        let path = old.path.display().to_string();
        if let Some(member) = &member {
            self.check_member(&old, member)?;
        }
        let goes_on = member.as_ref().is_some_and(|member| {
            let leaving = old.leaving.as_ref().filter(|leaving| leaving.errand == Errand::Replace);
            leaving.is_some_and(|leaving| leaving.to.as_ref() == Some(&member.id))
        });
        if let (Some(member), true) = (&member, goes_on) {
            return Ok(Begun { id: Some(old.record.id), shown: self.shown_as(&space, &pool, member) });
        }
        let had = old.leaving.clone();
        let taker = match &member {
            Some(member) => {
                old.leaving = Some(Leaving { errand: Errand::Replace, to: Some(member.id.clone()) });
                self.check_room(&mut space, &pool, &old, None)?;
                member.clone()
            }
            None => {
                let (choice, planned) = space.aside(|| self.new_choice(&pool, &old, params))?;
                old.leaving = Some(Leaving { errand: Errand::Replace, to: Some(choice.id.clone()) });
                self.check_room(&mut space, &pool, &old, Some(choice))?;
                if dry {
                    return Ok(Begun { id: None, shown: planned });
                }
                let id = self.add_one(&mut space, pool_name, &old, params)?;
                // It was written again together with the new one.
                old = self.drive(&old.id)?;
                self.drive(&id)?
            }
        };
        let shown = self.shown_as(&space, &pool, &taker);
        old.leaving = had;
        if !dry {
            let leaving = Leaving { errand: Errand::Replace, to: Some(taker.record.id) };
            self.set_leaving(&mut old, Some(leaving))?;
            self.moving.forgive();
            self.tending.forgive();
            let message = format!("drive {new} takes the place of drive {path} of pool {pool_name}");
            self.events.history(&pool.id, &format!("drive replace {pool_name} {path} {new}"), &message);
            self.events.record(Severity::Info, "drive_replacing", &old.id, &message);
        }
        Ok(Begun { id: Some(old.record.id), shown })
    }

    fn check_member(&self, old: &DriveRecord, member: &DriveRecord) -> Result<()> {
        let name = member.path.display().to_string();
        if member.id == old.id {
            return Err(Error::invalid(name.clone(), format!("{name} cannot take its own place")));
        }
        if member.leaving.is_some() || member.state != DriveState::Online || !self.is_there(member) {
            let message = format!("drive {name} cannot take over: it is not in use itself");
            return Err(Error::new(Kind::Refused, name, message).hint("plinth drive list shows its state"));
        }
        Ok(())
    }

    /// A drive that is not in the pool, as placement would see it: with the labels of the one whose place it takes.
    fn new_choice(
        &self,
        pool: &Versioned<PoolRecord>,
        old: &DriveRecord,
        params: &ReplaceDrive,
    ) -> Result<(Choice, model::Drive)> {
        let drive = self.candidate(pool, &params.new, &labels_of(old), params.force)?;
        let choice = Choice {
            id: drive.id.clone(),
            node: drive.node.clone(),
            rack: drive.rack.clone(),
            usable: true,
            away: false,
            free: drive.extents,
        };
        Ok((choice, view_drive(&drive, extent_bytes(pool), 0, true, false)))
    }

    fn add_one(
        &self,
        space: &mut crate::agent::locks::Verb<'_>,
        pool: &str,
        old: &DriveRecord,
        params: &ReplaceDrive,
    ) -> Result<String> {
        let added =
            AddDrives { drives: vec![params.new.clone()], labels: labels_of(old), force: params.force };
        self.add_drives_locked(space, pool, &added, false)?;
        let name = params.new.display().to_string();
        Ok(self.drive_of(&self.pool(pool)?.record, &name)?.record.id)
    }
}

/// What a verb began.
struct Begun {
    /// The drive that is to be empty; `None` when there is nothing left to do.
    id: Option<String>,
    /// What is shown.
    shown: model::Drive,
}

fn labels_of(drive: &DriveRecord) -> crate::params::Labels {
    let said = |label: &String| (!label.is_empty()).then(|| label.clone());
    crate::params::Labels {
        node: said(&drive.node),
        rack: said(&drive.rack),
        zone: said(&drive.zone),
        class: said(&drive.class),
    }
}

/// A drive that left, as far as anything of it is known.
fn gone(left: &LeftRecord) -> model::Drive {
    let none = String::new;
    let drive = DriveRecord {
        id: left.id.clone(),
        pool: none(),
        path: left.path.clone(),
        life: Life::Ready,
        state: DriveState::Online,
        node: none(),
        rack: none(),
        zone: none(),
        class: none(),
        blocks: 0,
        extents: 0,
        written: 0,
        leaving: None,
        lost: None,
    };
    view_drive(&drive, 0, 0, false, false)
}
