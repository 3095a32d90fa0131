//! What spares promise: whichever drives are lost, as many as the pool has spares and one after the other, everything on
//! them that can be read, there or on another leg, finds a place on the drives that are left, by the rules of placement. A
//! drive that only fails operations is emptied of what has one leg, too.
//!
//! The rule is a sufficient one, and does not ask how places are chosen. Take a set of drives that may be lost, and an
//! extent on one of them. Each extent that was on these drives takes at most one other place at a time, so of the free
//! places that this extent may have outside the set at most so many are taken when it is its turn. If there are as many
//! of those as there are extents on the set, it always finds one:
//!
//! - it may have a place on a drive that is in use and not in the set, that has nothing of its row, and in whose failure
//!   domain no other leg of its row is; if the set is known, only extents count that may have one of these places;
//! - where other places of its row are in the set too, they may be anywhere by then: for each the domain with the most
//!   free places does not count.
//!
//! The worst set for an extent needs no search: a drive more in it takes its own extents and its own free places out of
//! the sum, whatever the other drives are, so the worst set has the drives for which that is most.
//!
//! Drives that are out of use already are in every set, and count as those that may be lost as long as there are spares
//! for them. If more are out than that, nothing can be promised for them.
use super::spares::is_spared;
use crate::agent::Agent;
use crate::agent::placement::{Choice, Domain, domain};
use crate::agent::rows::choice;
use crate::agent::space::Space;
use crate::catalogue::moves::{self, Stage};
use crate::catalogue::{DriveRecord, DriveState, Life, MoveRecord, PoolRecord, Versioned};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// How a drive stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// It may be lost.
    Stays,
    /// It is out of use, and cannot be read: what others have too is to find a place.
    Out,
    /// It is emptied: all of it is to find a place.
    Leaves,
}

/// Rows that lie on the same drives: indexes of these, ordered by leg, then column.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Shape {
    drives: Vec<usize>,
    columns: usize,
}

impl Shape {
    fn is_mirrored(&self) -> bool {
        self.drives.len() > self.columns
    }
}

/// A pool as its spares see it.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Kept {
    drives: Vec<Choice>,
    /// In what the legs of a row differ.
    level: Domain,
    standing: Vec<Standing>,
    /// So many drives more may be lost.
    spares: usize,
    /// How many rows there are of each shape.
    rows: BTreeMap<Shape, u64>,
}

impl Kept {
    /// A pool without rows.
    fn new(drives: Vec<(Choice, Standing)>, spares: usize) -> Self {
        let (drives, standing): (Vec<Choice>, _) = drives.into_iter().unzip();
        Self { level: domain(&drives), drives, standing, spares, rows: BTreeMap::new() }
    }

    /// A row that is there.
    fn row<'a>(&mut self, on: impl IntoIterator<Item = &'a String>, columns: u8) {
        if let Some(shape) = self.shape(on, columns) {
            *self.rows.entry(shape).or_default() += 1;
        }
    }

    /// A row goes from some drives to others; none of either is a row that is new, or goes.
    pub fn change<'a>(
        &mut self,
        before: impl IntoIterator<Item = &'a String>,
        after: impl IntoIterator<Item = &'a String>,
        columns: u8,
    ) {
        for (shape, comes) in [(self.shape(before, columns), false), (self.shape(after, columns), true)] {
            let Some(shape) = shape.filter(|shape| !shape.drives.is_empty()) else { continue };
            for drive in &shape.drives {
                let free = &mut self.drives[*drive].free;
                *free = if comes { free.saturating_sub(1) } else { *free + 1 };
            }
            let rows = self.rows.entry(shape).or_default();
            *rows = if comes { *rows + 1 } else { rows.saturating_sub(1) };
        }
        self.rows.retain(|_, rows| *rows > 0);
    }

    /// A drive that could be lost before a change of some rows and not behind it.
    pub fn loss_by<'a>(&self, then: &'a Self) -> Option<&'a Choice> {
        then.promise().err().filter(|_| self.promise().is_ok())
    }

    fn shape<'a>(&self, on: impl IntoIterator<Item = &'a String>, columns: u8) -> Option<Shape> {
        let index = |id: &String| self.drives.iter().position(|drive| drive.id == *id);
        let drives = on.into_iter().map(index).collect::<Option<Vec<usize>>>()?;
        Some(Shape { drives, columns: usize::from(columns) })
    }

    /// Whether the promise holds.
    ///
    /// # Errors
    /// A drive whose loss would leave something without a place.
    pub fn promise(&self) -> std::result::Result<(), &Choice> {
        let mut load = vec![0; self.drives.len()];
        for (shape, rows) in &self.rows {
            let needed = shape.drives.iter().filter(|drive| self.needs(shape, **drive));
            needed.for_each(|drive| load[*drive] += rows);
        }
        let stay = (0..self.drives.len()).filter(|at| self.standing[*at] == Standing::Stays);
        let sets = if self.spares == 0 { vec![None] } else { stay.map(Some).collect() };
        sets.into_iter().try_for_each(|lost| self.survives(lost, &load))
    }

    /// Whether what is on a drive is to find a place elsewhere when it goes.
    fn needs(&self, shape: &Shape, drive: usize) -> bool {
        shape.is_mirrored() || self.standing[drive] != Standing::Out
    }

    /// Whether everything on drives that are out, and on this one, finds a place, whichever others are lost with them.
    fn survives(&self, lost: Option<usize>, load: &[u64]) -> std::result::Result<(), &Choice> {
        let gone = |at: usize| self.standing[at] != Standing::Stays || Some(at) == lost;
        let places: Vec<Homeless<'_>> = self
            .rows
            .iter()
            .flat_map(|(shape, rows)| (0..shape.drives.len()).map(move |place| (shape, place, *rows)))
            .filter(|(shape, place, _)| gone(shape.drives[*place]) && self.needs(shape, shape.drives[*place]))
            .map(|(shape, place, rows)| Homeless {
                shape,
                place,
                rows,
                rooms: self.rooms(shape, place, &gone),
            })
            .collect();
        let further = self.spares - usize::from(lost.is_some());
        let stays = |homeless: &&Homeless<'_>| !self.finds_place(homeless, &places, load, further, &gone);
        match places.iter().find(stays) {
            Some(homeless) => Err(&self.drives[homeless.shape.drives[homeless.place]]),
            None => Ok(()),
        }
    }

    /// The drives, outside those that are gone, that a place of a row may go to as long as the others of its row that are
    /// not gone are where they are.
    fn rooms(&self, shape: &Shape, place: usize, gone: &dyn Fn(usize) -> bool) -> Vec<bool> {
        let stay = |at: usize| self.drives[at].usable && !gone(at) && self.drives[at].free > 0;
        (0..self.drives.len()).map(|at| stay(at) && self.is_apart(shape, place, at, gone)).collect()
    }

    /// Whether a place of a row could be on a drive beside those others of its row that are not `moving`.
    fn is_apart(&self, shape: &Shape, place: usize, at: usize, moving: &dyn Fn(usize) -> bool) -> bool {
        let leg = |place: usize| place / shape.columns;
        let mut others =
            shape.drives.iter().enumerate().filter(|(other, on)| *other != place && !moving(**on));
        others.all(|(other, on)| {
            let near = self.drives[*on].domain(self.level) == self.drives[at].domain(self.level);
            *on != at && (leg(other) == leg(place) || !near)
        })
    }

    /// Whether a place of a row always has a successor when `further` drives are lost with those that are gone.
    fn finds_place(
        &self,
        homeless: &Homeless<'_>,
        all: &[Homeless<'_>],
        load: &[u64],
        further: usize,
        gone: &dyn Fn(usize) -> bool,
    ) -> bool {
        let Homeless { shape, place, rooms, .. } = homeless;
        // Others of its row may come back to where they were.
        let fits = (0..rooms.len()).map(|at| rooms[at] && self.is_apart(shape, *place, at, &|_| false));
        let fits: Vec<bool> = fits.collect();
        let room = |at: usize| if fits[at] { u64::from(self.drives[at].free) } else { 0 };
        let meets =
            |other: &&Homeless<'_>| further > 0 || fits.iter().zip(&other.rooms).any(|(a, b)| *a && *b);
        let owed: u64 = all.iter().filter(meets).map(|other| other.rows).sum();
        let mut domains: BTreeMap<&str, u64> = BTreeMap::new();
        for (at, drive) in self.drives.iter().enumerate() {
            *domains.entry(drive.domain(self.level)).or_default() += room(at);
        }
        let of_row = shape.drives.iter().enumerate().filter(|(other, _)| other != place).map(|(_, at)| *at);
        let (moving, staying): (Vec<usize>, Vec<usize>) = of_row.partition(|at| gone(*at));
        let others = (0..load.len()).filter(|at| !shape.drives.contains(at) && !gone(*at));
        let (domains, near) = (most(domains.into_values()), most(staying.iter().map(|at| load[*at])));
        let others = most(others.map(|at| load[at] + room(at)));
        // So many of the drives that are lost further have places of the same row.
        let worst = (0..=further.min(staying.len()))
            .map(|many| near(many) + domains(moving.len() + many) + others(further - many))
            .max();
        (0..load.len()).map(room).sum::<u64>() >= owed.max(1) + worst.unwrap_or(0)
    }
}

/// A place of rows of one shape whose drive is gone.
struct Homeless<'a> {
    shape: &'a Shape,
    place: usize,
    rows: u64,
    /// The drives where it may be by the time that another one is to find its place.
    rooms: Vec<bool>,
}

/// The sum of the largest so many.
fn most(of: impl IntoIterator<Item = u64>) -> impl Fn(usize) -> u64 {
    let mut of: Vec<u64> = of.into_iter().collect();
    of.sort_unstable_by(|a, b| b.cmp(a));
    move |many| of.iter().take(many).sum()
}

/// How the drives of a pool stand, each given with whether it can be read, and how many more may be lost.
fn standings(pool: &PoolRecord, drives: &[(&DriveRecord, bool)]) -> (Vec<Standing>, usize) {
    let spares = pool.spares as usize;
    let lost =
        |(drive, read): &(&DriveRecord, bool)| drive.life == Life::Ready && drive.leaving.is_none() && !read;
    let gone = drives.iter().filter(|drive| lost(drive) || is_spared(drive.0)).count();
    let standing = |drive: &(&DriveRecord, bool)| match drive.0.leaving {
        Some(_) if drive.1 => Standing::Leaves,
        Some(_) => Standing::Out,
        None if lost(drive) && gone <= spares => Standing::Out,
        None => Standing::Stays,
    };
    (drives.iter().map(standing).collect(), spares.saturating_sub(gone))
}

impl Agent {
    /// A pool as its spares see it; `None` if it has none.
    pub(in crate::agent) fn kept(&self, space: &Space, pool: &PoolRecord) -> Result<Option<Kept>> {
        if pool.spares == 0 {
            return Ok(None);
        }
        let drives: Vec<Versioned<DriveRecord>> = self.pool_drives(pool)?;
        let read = |drive: &DriveRecord| drive.state == DriveState::Online && self.is_there(drive);
        let seen: Vec<(&DriveRecord, bool)> =
            drives.iter().map(|drive| (&drive.record, read(drive))).collect();
        let (standing, spares) = standings(pool, &seen);
        let choices = seen.iter().map(|(drive, read)| choice(space, drive, *read));
        let drives = choices.zip(standing).collect();
        let mut kept = Kept::new(drives, spares);
        for (_, group) in self.groups_of(&pool.name)? {
            // As it will be behind what is under way: the extents that take over are taken already.
            let moving = self.store.get::<MoveRecord>(&moves::key(&group.id))?;
            let moving =
                moving.filter(|moving| moving.stage != Stage::Switched && moving.change.from().is_some());
            let places = moving.map_or_else(Vec::new, |moving| moving.record.places);
            let places: BTreeMap<(u32, usize), &String> =
                places.iter().map(|moved| ((moved.row, moved.place), &moved.new.0)).collect();
            for row in self.rows_of(&group.id)? {
                let on = row.drives().enumerate();
                let on = on.map(|(place, id)| places.get(&(row.row, place)).copied().unwrap_or(id));
                kept.row(on, group.columns);
            }
        }
        Ok(Some(kept))
    }

    /// Refuses a row that takes what the pool's spares need.
    ///
    /// # Errors
    /// `NoSpace`, naming the drive that could not be lost any more.
    pub(in crate::agent) fn check_kept(
        &self,
        space: &Space,
        pool: &PoolRecord,
        on: &[&String],
        columns: u8,
    ) -> Result<()> {
        let Some(mut kept) = self.kept(space, pool)? else { return Ok(()) };
        kept.change([], on.iter().copied(), columns);
        kept.promise().map_err(|drive| self.needed_by_spares(pool, drive))
    }

    /// Why something is refused that takes what spares need.
    pub(super) fn needed_by_spares(&self, pool: &PoolRecord, drive: &Choice) -> Error {
        let name = &pool.name;
        let path =
            self.drive(&drive.id).map_or_else(|_| drive.id.clone(), |drive| drive.path.display().to_string());
        let message = format!(
            "pool {name} has no space left but its reserve and what is kept for its spares: were drive {path} lost, not \
             everything on it would have a place"
        );
        Error::new(Kind::NoSpace, name.clone(), message)
            .hint(format!("add drives, or have fewer with plinth pool set {name} spares=N"))
    }
}

#[cfg(test)]
mod tests;
