//! What a move is to do: whether its grant fits the group, and which extent goes where.
//!
//! A grant may name every extent of a group: all look-ups here go by sorted lists.
use super::{MoveRefusal, Moved, key};
use crate::config::{DriveInfo, DriveStats};
use crate::drives::{Drive, Health};
use crate::group::Group;
use crate::label::extent_start;
use alloc::vec::Vec;
use base::limits::{MAX_DRIVES, MAX_LEGS};
use base::{Change, CkptNo, DriveIx, Extent, ExtentNo, LegId, MoveGrant, NewDrive, Seq, Uuid};
use fence::{CopyEntry, CopyState, DriveSet, Event};

/// The extents of a group by drive and number, each with its index into the rows.
struct Places(Vec<((u8, u32), usize)>);

impl Places {
    fn of(rows: &[Extent]) -> Self {
        let mut all: Vec<_> = rows.iter().enumerate().map(|(i, extent)| (key(*extent), i)).collect();
        all.sort_unstable();
        Self(all)
    }

    fn find(&self, drive: u8, extent: ExtentNo) -> Option<usize> {
        let at = self.0.binary_search_by_key(&(drive, extent.get()), |place| place.0).ok()?;
        Some(self.0[at].1)
    }
}

/// A step of a plan: index of the place, of its drive in `to`, and the extent there.
type Step = (usize, usize, ExtentNo);

impl Group {
    /// Which places move where; new drives are listed.
    pub(super) fn plan_move(&mut self, grant: &MoveGrant) -> Result<Vec<Moved>, MoveRefusal> {
        let places = Places::of(&self.rows);
        let steps = match grant.change {
            Change::Leave(from) => self.plan_leave(from, grant, &places),
            Change::Shift(from) => self.plan_shift(from, grant, &places),
            Change::AddLeg => self.plan_leg(grant),
            Change::DropLeg(leg) => return self.plan_drop(leg, grant),
        };
        let steps = steps.ok_or(MoveRefusal::Misfit)?;
        self.check_steps(grant, &places, &steps)?;
        self.check_home_pages(grant.change, steps.iter().map(|step| step.0).min())?;
        let listed = self.list_drives(grant, &steps)?;
        let moved = |&(index, to, extent): &Step| {
            let drive = listed[to].expect("listed");
            Moved { index, old: self.rows[index], new: Extent { drive, extent } }
        };
        let mut places: Vec<Moved> = steps.iter().map(moved).collect();
        places.sort_unstable_by_key(|place| key(place.old));
        Ok(places)
    }

    fn index_of_drive(&self, drive: Uuid) -> Option<usize> {
        self.superblock.drives.iter().position(|entry| entry.drive == drive)
    }

    /// Every extent of the drive, each once.
    fn plan_leave(&self, from: Uuid, grant: &MoveGrant, places: &Places) -> Option<Vec<Step>> {
        let steps = self.steps_from(from, grant, places)?;
        let from = self.index_of_drive(from)?;
        let here = self.rows.iter().filter(|extent| usize::from(extent.drive.get()) == from).count();
        (steps.len() == here).then_some(steps)
    }

    /// Some extents of a drive that counts, none of the home row.
    fn plan_shift(&self, from: Uuid, grant: &MoveGrant, places: &Places) -> Option<Vec<Step>> {
        let steps = self.steps_from(from, grant, places)?;
        let current = self.drives.current(DriveIx::new(self.index_of_drive(from)? as u8));
        let home = self.geometry.row_extents();
        (current && !steps.is_empty() && steps.iter().all(|step| step.0 >= home)).then_some(steps)
    }

    fn steps_from(&self, from: Uuid, grant: &MoveGrant, places: &Places) -> Option<Vec<Step>> {
        let index = self.index_of_drive(from)? as u8;
        let step = |&(old, to, new): &(ExtentNo, usize, ExtentNo)| Some((places.find(index, old)?, to, new));
        let to_others = grant.to.iter().all(|drive| drive.uuid != from);
        grant.extents.iter().map(step).collect::<Option<Vec<_>>>().filter(|_| to_others)
    }

    /// A successor for every place of leg 0, in their order.
    fn plan_leg(&self, grant: &MoveGrant) -> Option<Vec<Step>> {
        let (columns, extents) = (usize::from(self.geometry.columns), self.geometry.row_extents());
        let places = self.rows.len() / extents * columns;
        let fits = grant.extents.len() == places && usize::from(self.geometry.legs) < MAX_LEGS;
        let step = |(i, &(old, to, new)): (usize, &(ExtentNo, usize, ExtentNo))| {
            let index = i / columns * extents + i % columns;
            (self.rows[index].extent == old).then_some((index, to, new))
        };
        grant
            .extents
            .iter()
            .enumerate()
            .filter(|_| fits)
            .map(step)
            .collect::<Option<Vec<_>>>()
            .filter(|_| fits)
    }

    /// The last leg goes: every place has a current copy without it.
    fn plan_drop(&self, leg: LegId, grant: &MoveGrant) -> Result<Vec<Moved>, MoveRefusal> {
        let last = self.geometry.legs - 1;
        if last == 0 || leg.get() != last || !grant.to.is_empty() || !grant.extents.is_empty() {
            return Err(MoveRefusal::Misfit);
        }
        if !self.covered_without_last() {
            return Err(MoveRefusal::LastCopy);
        }
        self.check_home_pages(grant.change, Some(0))?;
        Ok(Vec::new())
    }

    /// Whether every place has a current copy on a leg before the last one.
    pub(super) fn covered_without_last(&self) -> bool {
        let (columns, extents) = (usize::from(self.geometry.columns), self.geometry.row_extents());
        self.rows.chunks_exact(extents).all(|row| {
            let kept = &row[..extents - columns];
            (0..columns).all(|column| {
                kept.iter().skip(column).step_by(columns).any(|extent| self.drives.current(extent.drive))
            })
        })
    }

    /// Whether each successor lies on its drive, is nobody's yet, and no leg of its row is on that drive.
    fn check_steps(&self, grant: &MoveGrant, places: &Places, steps: &[Step]) -> Result<(), MoveRefusal> {
        let mut news: Vec<(usize, ExtentNo)> = steps.iter().map(|(_, to, new)| (*to, *new)).collect();
        let mut olds: Vec<usize> = steps.iter().map(|step| step.0).collect();
        news.sort_unstable();
        olds.sort_unstable();
        let once =
            news.windows(2).all(|pair| pair[0] != pair[1]) && olds.windows(2).all(|pair| pair[0] != pair[1]);
        let mut drives: Vec<Uuid> = grant.to.iter().map(|drive| drive.uuid).collect();
        drives.sort_unstable();
        let distinct = drives.windows(2).all(|pair| pair[0] != pair[1]);
        let known: Vec<Option<usize>> =
            grant.to.iter().map(|drive| self.index_of_drive(drive.uuid)).collect();
        let extents = self.geometry.row_extents();
        let fits = |&(index, to, new): &Step| {
            let Some(drive) = grant.to.get(to) else { return false };
            let end = extent_start(ExtentNo::new(new.get() + 1), self.geometry.extent_blocks);
            let row = &self.rows[index / extents * extents..][..extents];
            let free = known[to].is_none_or(|known| {
                places.find(known as u8, new).is_none()
                    && row.iter().all(|other| usize::from(other.drive.get()) != known)
            });
            free && end.get() <= drive.blocks.get()
        };
        (once && distinct && steps.iter().all(fits)).then_some(()).ok_or(MoveRefusal::Misfit)
    }

    /// Whether the row pages of the new rows have room beside those of the old ones: said before anything is copied.
    fn check_home_pages(&self, change: Change, first: Option<usize>) -> Result<(), MoveRefusal> {
        let legs = match change {
            Change::AddLeg => self.geometry.legs + 1,
            Change::DropLeg(_) => self.geometry.legs - 1,
            Change::Leave(_) | Change::Shift(_) => self.geometry.legs,
        };
        let same = legs == self.geometry.legs;
        let count = self.rows.len() / usize::from(self.geometry.legs) * usize::from(legs);
        let pages = crate::rows::pages_from(count, if same { first.unwrap_or(count) } else { 0 });
        // What the table will have more than now is taken from the history (`growth.rs`).
        let now = crate::rows::pages_from(self.rows.len(), 0);
        let more = self.with_history(crate::rows::pages_from(count, 0).saturating_sub(now));
        let enough = self.superblock.row_pages.is_absent() || pages.max(more) <= self.home_pages.free();
        enough.then_some(()).ok_or(MoveRefusal::TableFull)
    }

    /// The places of the drives that take over in the drive table.
    fn list_drives(
        &mut self,
        grant: &MoveGrant,
        steps: &[Step],
    ) -> Result<Vec<Option<DriveIx>>, MoveRefusal> {
        let mut used = alloc::vec![false; grant.to.len()];
        steps.iter().for_each(|step| used[step.1] = true);
        let mut listed: Vec<Option<DriveIx>> = Vec::with_capacity(grant.to.len());
        for (drive, used) in grant.to.iter().zip(used) {
            match used.then(|| self.list_drive(drive)).transpose() {
                Ok(index) => listed.push(index),
                Err(why) => {
                    let mut drives = DriveSet::EMPTY;
                    listed.iter().flatten().for_each(|index| drives.insert(*index));
                    self.unlist(drives);
                    return Err(why);
                }
            }
        }
        Ok(listed)
    }

    /// The place of a drive that takes over in the drive table. One that has no row of the group yet is listed as a
    /// copy that has nothing, at the place of one that is not current and has no row either, if there is such a one.
    fn list_drive(&mut self, drive: &NewDrive) -> Result<DriveIx, MoveRefusal> {
        if self.growth.is_gone(drive.handle) {
            return Err(MoveRefusal::DriveFailed);
        }
        let has_row = |group: &Self, at: usize| group.rows.iter().any(|e| usize::from(e.drive.get()) == at);
        let known = self.superblock.drives.iter().position(|entry| entry.drive == drive.uuid);
        if let Some(at) = known.filter(|at| has_row(self, *at)) {
            let index = DriveIx::new(at as u8);
            return if self.drives.current(index) { Ok(index) } else { Err(MoveRefusal::DriveFailed) };
        }
        let idle = |group: &Self, at: usize| group.is_idle_place(DriveIx::new(at as u8));
        let count = self.superblock.drives.len();
        let at = match known {
            // One that was left and is not stale yet, or that is still at work.
            Some(at) if !idle(self, at) => return Err(MoveRefusal::DriveFailed),
            Some(at) => at,
            None => (0..count).find(|at| idle(self, *at)).unwrap_or(count),
        };
        if at == MAX_DRIVES {
            return Err(MoveRefusal::TableFull);
        }
        let info = DriveInfo { uuid: drive.uuid, blocks: drive.blocks, volatile: drive.volatile };
        let place = Drive {
            info,
            handle: drive.handle,
            health: Health::Resyncing,
            flushed: Seq::ZERO,
            flushed_ckpt: CkptNo::ZERO,
            reads_in_flight: 0,
            stats: DriveStats::default(),
        };
        let state = CopyState::EMPTY.after(Event::BeginResync).expect("a copy that has nothing");
        let entry = CopyEntry { drive: drive.uuid, state, version: self.writer.wanted() + 1 };
        if at == count {
            self.drives.list.push(place);
            self.superblock.drives.push(entry);
        } else {
            (self.drives.list[at], self.superblock.drives[at]) = (place, entry);
        }
        let index = DriveIx::new(at as u8);
        self.forget_former(index);
        self.writer.forget_stored(index);
        Ok(index)
    }
}
