//! `volume set VOL legs=N`: a volume gets copies more, or copies less, one after the other, while it is served.
//!
//! A leg is added like extents move: each place of the volume's rows gets one more extent, which is copied from leg 0 and
//! counts once the superblock says so. Rows that are granted meanwhile have the new leg's extents behind the others.
//! The leg that is dropped is the last one; nothing is copied for that.
//!
//! Crash story: as for all moves (`catalogue::moves`). If a leg comes to nothing, rows that were granted meanwhile have
//! extents too many: what is behind those that the group has is cut off and given back.
use super::Next;
use super::records::{Purpose, Step};
use crate::agent::Agent;
use crate::agent::locks::Verb;
use crate::agent::space::Space;
use crate::catalogue::moves::{self, Stage};
use crate::catalogue::{
    CopyState, GroupRecord, MoveRecord, PoolRecord, RowRecord, Severity, Versioned, VolumeRecord, records,
};
use crate::error::{Error, Kind, Result};
use crate::model;
use crate::moves::MoveChange;
use base::limits::MAX_LEGS;
use std::time::Instant;

/// The places that one more leg needs: behind all others of each row.
fn new_places(group: &GroupRecord, rows: &[RowRecord]) -> Vec<(RowRecord, usize)> {
    let (first, columns) = (group.row_extents(), usize::from(group.columns));
    rows.iter().flat_map(|row| (first..first + columns).map(move |at| (row.clone(), at))).collect()
}

impl Agent {
    /// `volume set VOL legs=N`: checks it and notes it.
    ///
    /// # Errors
    /// `Invalid`, `NoSpace`, `Refused` when a copy that stays is not complete; nothing is changed then.
    pub(in crate::agent) fn set_legs(
        &self,
        space: &mut Verb<'_>,
        volume: &Versioned<VolumeRecord>,
        value: &str,
        dry: bool,
    ) -> Result<model::Volume> {
        let name = &volume.name;
        let wanted = value.parse::<u8>().ok().filter(|legs| (1..=MAX_LEGS).contains(&usize::from(*legs)));
        let wanted = wanted.ok_or_else(|| {
            Error::invalid(name, format!("{value} legs are not possible")).hint("1 to 4 are")
        })?;
        let mut group = self.group(&volume.group)?;
        if group.legs_wanted.unwrap_or(group.legs) != wanted {
            if wanted > group.legs {
                self.check_leg_room(space, volume, &group, wanted)?;
            } else {
                self.check_legs_left(volume, &group, wanted)?;
            }
            if !dry {
                // What serves it may have changed its record meanwhile.
                group = self.group(&volume.group)?;
                group.legs_wanted = Some(wanted);
                self.store.txn().update(records::group_key(&group.name), &group).commit()?;
                let pool = self.pool(&volume.pool)?;
                let message = format!("volume {name} is to have {wanted} legs");
                self.events.history(&pool.id, &format!("volume set {name} legs={wanted}"), &message);
                self.events.record(Severity::Info, "legs_changing", name, &message);
                self.moving.forgive();
                self.tending.forgive();
                self.moving.look_now();
            }
        }
        self.view_volume(name)
    }

    /// Refuses more legs than drives can take.
    fn check_leg_room(
        &self,
        space: &mut Verb<'_>,
        volume: &VolumeRecord,
        group: &Versioned<GroupRecord>,
        wanted: u8,
    ) -> Result<()> {
        let pool = self.pool(&volume.pool)?;
        let mut choices = self.choices(space, &pool)?;
        let mut group = group.record.clone();
        let mut rows: Vec<RowRecord> = self.rows_of(&group.id)?.into_iter().map(|row| row.record).collect();
        let before = rows.clone();
        rows.iter_mut().for_each(|row| row.extents.truncate(group.row_extents()));
        for legs in group.legs + 1..=wanted {
            let places = new_places(&group, &rows);
            let found =
                self.choose_successors(&mut choices, (volume, &group), &Purpose::Leg(legs), &places)?;
            for (row, to) in places.iter().zip(found) {
                let row = rows.iter_mut().find(|other| other.row == row.0.row).expect("it is one of them");
                row.extents.push((to, 0));
            }
            group.legs = legs;
        }
        if let Some(kept) = self.kept(space, &pool)? {
            let mut then = kept.clone();
            for (before, after) in before.iter().zip(&rows) {
                then.change(before.drives(), after.drives(), group.columns);
            }
            if let Some(drive) = kept.loss_by(&then) {
                return Err(self.needed_by_spares(&pool, drive));
            }
        }
        Ok(())
    }

    /// Refuses to give up a copy of something that no other leg has.
    fn check_legs_left(&self, volume: &VolumeRecord, group: &GroupRecord, wanted: u8) -> Result<()> {
        let view = self.view_volume(&volume.name)?;
        let stays = view.legs.iter().filter(|leg| leg.leg < wanted).flat_map(|leg| &leg.drives);
        let lacks = stays.filter(|drive| drive.state != CopyState::Current).map(|drive| drive.id.clone());
        let lacks: Vec<String> = lacks.collect();
        let name = &volume.name;
        if group.imported {
            let message = format!("volume {name} was imported and not attached since");
            return Err(Error::new(Kind::Refused, name.clone(), message).hint("attach it once first"));
        }
        if lacks.is_empty() {
            return Ok(());
        }
        let message =
            format!("volume {name} keeps its legs: what is on drive {} is not complete", lacks.join(" "));
        Err(Error::new(Kind::Refused, name.clone(), message)
            .hint("the last legs are dropped; bring the drives of the others back first"))
    }

    /// Plans that a volume that is served gets or loses a leg.
    pub(super) fn plan_legs(
        &self,
        space: &mut Verb<'_>,
        volume: &VolumeRecord,
        group: Versioned<GroupRecord>,
        used: u32,
    ) -> Next {
        let wanted = group.legs_wanted.unwrap_or(group.legs);
        let planned = if wanted > group.legs {
            self.plan_leg(space, volume, group, used)
        } else {
            let leg = group.legs - 1;
            self.begin_move(space, group, MoveChange::DropLeg { leg }, &[])
        };
        match planned {
            Ok(()) => Next::Again,
            Err(error) => {
                self.moving.note(&volume.id, |known| known.failed(error, Instant::now()));
                Next::Nothing
            }
        }
    }

    fn plan_leg(
        &self,
        space: &mut Verb<'_>,
        volume: &VolumeRecord,
        group: Versioned<GroupRecord>,
        used: u32,
    ) -> Result<()> {
        let rows = self.rows_of(&group.id)?.into_iter().map(|row| row.record);
        let rows: Vec<RowRecord> = rows.filter(|row| row.row < used).collect();
        let places = new_places(&group, &rows);
        let mut choices = self.choices(space, &self.pool(&volume.pool)?.record)?;
        let purpose = Purpose::Leg(group.legs + 1);
        let found = self.choose_successors(&mut choices, (volume, &group), &purpose, &places)?;
        let steps: Vec<Step> = places.into_iter().zip(found).collect();
        let legs = group.legs + 1;
        self.begin_move(space, group, MoveChange::AddLeg, &steps)?;
        let message = format!("volume {} gets leg {} of {legs}", volume.name, legs - 1);
        self.events.record(Severity::Info, "move_started", &volume.name, &message);
        Ok(())
    }

    /// A row that is granted while a leg is being added gets that leg's extents, too.
    pub(in crate::agent) fn add_new_leg(
        &self,
        space: &Space,
        pool: &PoolRecord,
        group: &GroupRecord,
        row: &mut RowRecord,
    ) -> Result<()> {
        let Some(moving) = self.store.get::<MoveRecord>(&moves::key(&group.id))? else { return Ok(()) };
        if moving.change != MoveChange::AddLeg || moving.stage == Stage::Switched {
            return Ok(());
        }
        let volume = self.volume_of_group(group)?;
        let mut choices = self.choices_unopened(space, pool)?;
        // What takes over in the other rows takes over here, if it can.
        let takes: Vec<&String> = moving.places.iter().map(|place| &place.new.0).collect();
        let mut preferred = choices.clone();
        preferred.iter_mut().for_each(|choice| choice.usable &= takes.contains(&&choice.id));
        let (of, purpose) = ((&volume, group), Purpose::Leg(group.legs + 1));
        let places = new_places(group, std::slice::from_ref(row));
        let found = match self.choose_successors(&mut preferred, of, &purpose, &places) {
            Ok(found) => found,
            Err(_) => self.choose_successors(&mut choices, of, &purpose, &places)?,
        };
        for to in found {
            let extent = space.first_free(&to).expect("a chosen drive has a free extent");
            row.extents.push((to, extent));
        }
        Ok(())
    }
}
