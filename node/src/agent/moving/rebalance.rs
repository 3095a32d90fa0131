//! Rebalancing: extents go from the fullest drives of a pool to its emptiest, a few of a volume at a time, until that
//! helps no more.
//!
//! How full a drive is counts as a part of its size, as it will be behind the moves that are under way. A move helps as
//! long as two drives differ by more than an extent and by more than [`CLOSE_PERCENT`]. Everything of volumes that are
//! not attached stays where it is.
//!
//! Rows behind the home row go one by one, and the drive stays one of the volume's. A home row goes only with everything
//! that the volume has on the drive, as it does when the drive is emptied: a drive that keeps other rows would keep
//! superblocks that name the old home. So it goes last, when it is alone there or what is with it may go too; a volume
//! that has more than that on a drive has other rows to make it more even.
//!
//! In a pool with spares nothing goes where it would take what they need (`kept`).
use super::kept::Kept;
use super::plan::{Asked, Place, successors};
use super::records::Step;
use crate::agent::Agent;
use crate::agent::locks::Verb;
use crate::agent::placement::Choice;
use crate::agent::space::Space;
use crate::catalogue::{
    CopyState, GroupRecord, MoveRecord, PoolRecord, RowRecord, Severity, Versioned, VolumeRecord, records,
};
use crate::error::Result;
use crate::model;
use crate::moves::MoveChange;
use base::limits::MAX_DRIVES;
use std::collections::{BTreeMap, BTreeSet};

/// Extents of a volume that move at a time: the rows of a volume change often and little rather than once and for long.
const BATCH: usize = 16;
/// Drives that differ by less are even.
const CLOSE_PERCENT: u64 = 5;

/// How full a drive is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fill {
    id: String,
    taken: u64,
    extents: u64,
}

/// How many extents should go from one drive to another; none when they are even.
fn surplus(from: &Fill, to: &Fill) -> u64 {
    // taken/extents of the one less that of the other, times both sizes.
    let more = (from.taken * to.extents).saturating_sub(to.taken * from.extents);
    let both = from.extents + to.extents;
    let even = more * 2 <= both || more * 100 <= CLOSE_PERCENT * from.extents * to.extents;
    if even { 0 } else { (more / both).max(1) }
}

/// Pairs of drives between which extents should go, the most unequal first, and how many.
fn pairs(mut drives: Vec<Fill>) -> Vec<(String, String, u64)> {
    let part = |fill: &Fill| (u128::from(fill.taken) << 64) / u128::from(fill.extents.max(1));
    drives.sort_by_key(|fill| std::cmp::Reverse(part(fill)));
    let mut found = Vec::new();
    for (at, from) in drives.iter().enumerate() {
        for to in drives[at + 1..].iter().rev() {
            let many = surplus(from, to);
            if many > 0 {
                found.push((from.id.clone(), to.id.clone(), many));
            }
        }
    }
    found
}

impl Agent {
    /// `pool rebalance`, and `--stop`.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub fn rebalance_pool(&self, name: &str, on: bool, dry: bool) -> Result<model::Pool> {
        let space = self.lock();
        let mut pool = self.ready_pool(name)?;
        if pool.rebalancing != on && !dry {
            pool.rebalancing = on;
            self.store.txn().update(records::pool_key(name), &pool).commit()?;
            let (word, message) = if on {
                ("", format!("the volumes of pool {name} are spread evenly over its drives"))
            } else {
                (" --stop", format!("the volumes of pool {name} stay where they are"))
            };
            self.events.history(&pool.id, &format!("pool rebalance {name}{word}"), &message);
            self.events.record(Severity::Info, "rebalance", name, &message);
            self.moving.forgive();
            self.tending.forgive();
            self.moving.look_now();
        }
        self.view_pool(&space, name)
    }

    /// The pools that are rebalanced; those where nothing helps any more are not from now on.
    pub(super) fn rebalanced_pools(&self) -> Result<BTreeSet<String>> {
        let mut rebalanced = BTreeSet::new();
        for mut pool in self.store.list::<PoolRecord>("pools/")?.into_iter().filter(|pool| pool.rebalancing) {
            let mut waits = false;
            let mut left = 0;
            let mut space = self.lock();
            // A pool that is not complete waits until it is.
            let Ok(choices) = self.choices(&mut space, &pool) else { continue };
            let pairs = pairs(self.fills(&space, &pool, &choices)?);
            let kept = self.kept(&space, &pool)?;
            let even = Even { choices: &choices, pairs: &pairs, kept: kept.as_ref() };
            for (volume, group) in self.groups_of(&pool.name)? {
                let moving = self.store.get::<MoveRecord>(&crate::catalogue::moves::key(&group.id))?;
                let Some(status) = self.status_of(&volume.name) else {
                    // One that is on its way to be served may help soon, or be tended for it.
                    waits |= volume.attachment.as_ref().is_some_and(|attachment| !attachment.read_only)
                        || self.will_be_tended(&volume)
                            && self.shift_of((&volume, &group), group.rows_used, &even)?.is_some();
                    left += 1;
                    continue;
                };
                waits |= moving.is_some() || self.shift_of((&volume, &group), status.rows, &even)?.is_some();
                // A drive that is being brought up to date takes nothing, and will soon.
                for copy in &group.copies {
                    let fails = self.healing.failure(&volume.name, &copy.drive).is_some();
                    waits |= !fails && self.may_come_back(&group, copy)?;
                }
            }
            if waits {
                rebalanced.insert(pool.record.name);
                continue;
            }
            pool.rebalancing = false;
            self.store.txn().update(records::pool_key(&pool.name), &pool).commit()?;
            let mut message = format!("no move makes the drives of pool {} more even", pool.name);
            if left > 0 {
                let what = crate::text::counted(left, "volume");
                message += &format!("; {what} stayed in place, not being attached");
            }
            self.events.record(Severity::Info, "rebalanced", &pool.name, &message);
        }
        Ok(rebalanced)
    }

    /// Whether extents of a volume that is not served are to go to an emptier drive.
    pub(in crate::agent) fn shift_is_wanted(
        &self,
        pool: &PoolRecord,
        volume: &VolumeRecord,
        group: &GroupRecord,
    ) -> Result<bool> {
        let mut space = self.lock();
        let choices = self.choices(&mut space, pool)?;
        let pairs = pairs(self.fills(&space, pool, &choices)?);
        let kept = self.kept(&space, pool)?;
        let even = Even { choices: &choices, pairs: &pairs, kept: kept.as_ref() };
        Ok(self.shift_of((volume, group), group.rows_used, &even)?.is_some())
    }

    /// Plans the next few extents of a volume that go to an emptier drive. Returns whether there are any.
    pub(super) fn plan_shift(
        &self,
        space: &mut Verb<'_>,
        volume: &VolumeRecord,
        group: Versioned<GroupRecord>,
        rows: u32,
    ) -> Result<bool> {
        let pool = self.pool(&volume.pool)?;
        if !pool.rebalancing {
            return Ok(false);
        }
        let choices = self.choices(space, &pool)?;
        let pairs = pairs(self.fills(space, &pool, &choices)?);
        let kept = self.kept(space, &pool)?;
        let even = Even { choices: &choices, pairs: &pairs, kept: kept.as_ref() };
        let Some((change, steps)) = self.shift_of((volume, &group), rows, &even)? else { return Ok(false) };
        let (what, to) = (crate::text::counted(steps.len(), "extent"), self.drive(&steps[0].1)?);
        let from = self.drive(change.from().expect("extents go off a drive"))?;
        self.begin_move(space, group, change, &steps)?;
        let (from, to) = (from.path.display(), to.path.display());
        let message = format!("{what} of volume {} go from drive {from} to drive {to}", volume.name);
        self.events.record(Severity::Info, "move_started", &volume.name, &message);
        Ok(true)
    }

    /// The extents of a volume that should go to another drive, and how.
    fn shift_of(
        &self,
        (volume, group): (&VolumeRecord, &GroupRecord),
        used: u32,
        even: &Even<'_>,
    ) -> Result<Option<(MoveChange, Vec<Step>)>> {
        let mut rows: Vec<RowRecord> = self.rows_of(&group.id)?.into_iter().map(|row| row.record).collect();
        rows.retain(|row| row.row < used);
        let behind_home = &rows[rows.partition_point(|row| row.row == 0)..];
        let counts =
            |id: &str| group.copies.iter().any(|copy| copy.drive == id && copy.state == CopyState::Current);
        let room = self.concerned_of(group)?.len() < MAX_DRIVES;
        for (from, to, many) in even.pairs {
            let new = room && group.copies.iter().all(|copy| copy.drive != *to);
            if !counts(from) || !(new || counts(to)) {
                continue;
            }
            let many = (*many).min(BATCH as u64) as usize;
            let steps =
                |rows: &[RowRecord]| steps_between((volume, group), rows, even.choices, (from, to), many);
            let some = steps(behind_home);
            if !some.is_empty() && !even.takes_from_spares(group, &some) {
                return Ok(Some((MoveChange::Shift { drive: from.clone() }, some)));
            }
            let here = rows.iter().filter(|row| row.drives().any(|id| id == from)).count();
            let all = steps(&rows);
            if !all.is_empty() && all.len() == here && !even.takes_from_spares(group, &all) {
                return Ok(Some((MoveChange::Leave { drive: from.clone() }, all)));
            }
        }
        Ok(None)
    }

    /// How full the drives in use will be behind the moves that are under way.
    fn fills(&self, space: &Space, pool: &PoolRecord, choices: &[Choice]) -> Result<Vec<Fill>> {
        let mut leave: BTreeMap<String, u64> = BTreeMap::new();
        let moving = self.store.list::<MoveRecord>("moves/")?;
        for moving in moving.into_iter().filter(|moving| moving.change.from().is_some()) {
            for place in moving.record.places {
                *leave.entry(place.old.0).or_default() += 1;
            }
        }
        let drives = self.pool_drives(pool)?;
        let usable = drives.iter().zip(choices).filter(|(_, choice)| choice.usable);
        let fill = usable.map(|(drive, _)| Fill {
            id: drive.id.clone(),
            taken: u64::from(space.taken(&drive.id))
                .saturating_sub(leave.get(&drive.id).copied().unwrap_or(0)),
            extents: u64::from(drive.extents),
        });
        Ok(fill.collect())
    }
}

/// What a pool is to become.
pub(super) struct Even<'a> {
    pub choices: &'a [Choice],
    pub pairs: &'a [(String, String, u64)],
    pub kept: Option<&'a Kept>,
}

impl Even<'_> {
    /// Whether these steps take what the pool's spares need.
    pub fn takes_from_spares(&self, group: &GroupRecord, steps: &[Step]) -> bool {
        let Some(kept) = self.kept else { return false };
        let mut then = kept.clone();
        for ((row, at), to) in steps {
            let after = row.drives().enumerate().map(|(place, id)| if place == *at { to } else { id });
            then.change(row.drives(), after, group.columns);
        }
        kept.loss_by(&then).is_some()
    }
}

/// Places of these rows that may go from one drive to another, so many at most.
fn steps_between(
    (volume, group): (&VolumeRecord, &GroupRecord),
    rows: &[RowRecord],
    choices: &[Choice],
    (from, to): (&str, &str),
    many: usize,
) -> Vec<Step> {
    let mut only = choices.to_vec();
    only.iter_mut().for_each(|choice| choice.usable &= choice.id == to);
    let asked = Asked { pool: &volume.pool, volume: &volume.name, what: from, columns: group.columns };
    let mut steps = Vec::new();
    for row in rows {
        if steps.len() >= many {
            break;
        }
        let Some(at) = row.drives().position(|id| id == from) else { continue };
        let place = Place { row: row.row, drives: row.drives().cloned().collect(), at };
        if successors(asked, &mut only, &BTreeSet::new(), &[place]).is_ok() {
            steps.push(((row.clone(), at), to.to_owned()));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(id: &str, taken: u64, extents: u64) -> Fill {
        Fill { id: id.into(), taken, extents }
    }

    #[test]
    fn extents_go_from_the_fullest_to_the_emptiest_until_they_are_even() {
        assert_eq!(surplus(&fill("a", 10, 20), &fill("b", 0, 20)), 5);
        assert_eq!(surplus(&fill("a", 10, 20), &fill("b", 9, 20)), 0, "an extent is no difference");
        assert_eq!(surplus(&fill("a", 10, 20), &fill("b", 8, 20)), 1);
        assert_eq!(surplus(&fill("a", 500, 1000), &fill("b", 460, 1000)), 0, "nor are five percent");
        assert_eq!(surplus(&fill("a", 500, 1000), &fill("b", 400, 1000)), 50);
        // As a part of its size, the larger drive is the emptier one.
        assert_eq!(surplus(&fill("a", 10, 20), &fill("b", 12, 40)), 2);
        assert_eq!(surplus(&fill("b", 12, 40), &fill("a", 10, 20)), 0);
        let order = pairs(vec![fill("a", 5, 20), fill("b", 15, 20), fill("c", 0, 20)]);
        let order: Vec<(&str, &str, u64)> =
            order.iter().map(|(f, t, n)| (f.as_str(), t.as_str(), *n)).collect();
        assert_eq!(order, [("b", "c", 7), ("b", "a", 5), ("a", "c", 2)]);
    }

    /// Whatever the sizes, it comes to an end.
    #[test]
    fn rebalancing_ends() {
        for (sizes, taken) in
            [([20u64, 20, 40], [20u64, 0, 0]), ([7, 100, 13], [7, 3, 13]), ([1, 1, 1], [1, 0, 0])]
        {
            let mut drives: Vec<Fill> =
                (0..3).map(|at| fill(["a", "b", "c"][at], taken[at], sizes[at])).collect();
            let mut rounds = 0;
            while let Some((from, to, many)) = pairs(drives.clone()).first().cloned() {
                for drive in &mut drives {
                    drive.taken += if drive.id == to { many } else { 0 };
                    drive.taken -= if drive.id == from { many } else { 0 };
                    assert!(drive.taken <= drive.extents);
                }
                rounds += 1;
                assert!(rounds < 20, "{drives:?}");
            }
        }
    }
}
