//! The first step: which superblock is the newest, and which copies are current.
use super::{Recovery, Stage};
use crate::config::Refusal;
use crate::label;
use crate::layout::{FIRST_EXTENT_BLOCK, extent as fixed};
use crate::planted::Planted;
use crate::sealed::Bad;
use crate::superblock::{Home, Superblock};
use alloc::vec::Vec;
use base::{DriveIx, ExtentNo, Gen};
use fence::{CopyTable, DriveSet, OpenDecision, OpenInputs, decide_open};

/// A valid superblock, and where it was found.
#[derive(Debug)]
pub(super) struct Found {
    superblock: Superblock,
    home: Home,
    extent: ExtentNo,
    slot: u8,
}

/// The drive on which a superblock was found.
fn drive_of(found: &Found) -> base::Uuid {
    found.superblock.drives[usize::from(found.home.extent.drive.get())].drive
}

/// The activation that wrote a superblock; `None` for one of a group that was never opened.
fn line_of(found: &Found) -> Option<(base::Gen, base::Uuid)> {
    found.superblock.line.map(|line| (line.generation, line.id))
}

/// The version before this one, if it was found, is of the same activation and has other rows.
fn before(newest: &Superblock, found: &[Found]) -> Option<Superblock> {
    let precedes = |one: &&Found| {
        let other = &one.superblock;
        let rows = |superblock: &Superblock| (superblock.home.clone(), superblock.row_pages, superblock.rows);
        other.version.checked_add(1) == Some(newest.version)
            && (other.generation, other.line) == (newest.generation, newest.line)
            && rows(other) != rows(newest)
    };
    found.iter().find(precedes).map(|one| one.superblock.clone())
}

impl Recovery {
    /// Reads both slots of every home extent at hand.
    pub(super) fn read_superblocks(&mut self) {
        for handle in 0..self.request.drives.len() {
            if self.forsaken.drives.contains(DriveIx::new(handle as u8)) {
                continue;
            }
            for extent in self.request.drives[handle].homes.clone() {
                let start = label::extent_start(extent, self.request.extent_blocks);
                let at = start + base::Blocks::new(u64::from(fixed::SUPERBLOCKS[0]));
                self.script.read(DriveIx::new(handle as u8), at, 2);
            }
        }
    }

    /// Finds the newest, merges what is known of the copies, and begins to read the row pages.
    pub(super) fn judge_superblocks(&mut self) -> Result<(), Refusal> {
        let mut found = self.valid_superblocks()?;
        for one in &found {
            self.highest_gen = self.highest_gen.max(one.superblock.generation);
            self.highest_version = self.highest_version.max(one.superblock.version);
        }
        self.leave_out_other_histories(&mut found);
        let newest = if self.config.bug(Planted::OldSuperblock) {
            found.first()
        } else {
            found.iter().max_by_key(|one| one.superblock.newness())
        };
        let newest = newest.ok_or(Refusal::NoSuperblock)?.superblock.clone();
        self.spoiled_slots = self.find_spoiled_slots();
        let decided = self.recover_from(newest.clone(), &found);
        let decided = match self.counted_on(&found).map(|counted| self.recover_from(counted, &found)) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) if decided.is_ok() => self.recover_from(newest.clone(), &found),
            _ => decided,
        };
        let chosen = if decided.is_ok() { self.superblock().clone() } else { newest };
        self.before = before(&chosen, &found);
        self.found = found;
        if decided.is_ok() && self.promoted.is_empty() {
            return self.go_on();
        }
        match self.open_as_before(&chosen) {
            Some(opened) => opened,
            None => decided.and_then(|()| self.go_on()),
        }
    }

    /// It is decided which version it is: its rows are next.
    fn go_on(&mut self) -> Result<(), Refusal> {
        let found = core::mem::take(&mut self.found);
        let outcome = self.refuse_hearsay(&found);
        let bare = |drive: &DriveIx| found.iter().all(|one| drive_of(one) != self.table.get(*drive).drive);
        self.bare = self.superblock().homes().map(|home| home.extent.drive).filter(bare).collect();
        self.found = found;
        outcome?;
        self.refuse_older()?;
        self.script.clear();
        self.row_levels.clear();
        self.page_fills.clear();
        self.read_row_root()
    }

    /// Takes the version before the newest, which had other rows, if the group opens with it and without anybody's word. `None`,
    /// and everything is as with the newest, if it does not.
    ///
    /// Crash story: of a mirror a leg was being dropped. The version that names the other leg alone was on one of its drives when
    /// power failed, and another drive of that leg did not come back; or one failed, and power did before the version that names
    /// both legs again. The leg that was to go had everything, for it gets every write until it is marked or wiped, and no
    /// drive of it has that version: it was refused for ever, by force as well.
    ///
    /// Nothing is given up that anybody relies on. Who counts here has no mark, and so has everything that was acknowledged; and
    /// once a version is known to be durable commits name it: those refuse the one before.
    pub(super) fn open_as_before(&mut self, newest: &Superblock) -> Option<Result<(), Refusal>> {
        let before = self.before.take()?;
        let found = core::mem::take(&mut self.found);
        let opens = self.recover_from(before, &found).is_ok() && self.promoted.is_empty();
        if !opens {
            // What is decided of it is known already.
            let _ = self.recover_from(newest.clone(), &found);
        }
        self.found = found;
        opens.then(|| self.go_on())
    }

    /// A group is never what only those of its drives say that do not count.
    ///
    /// Crash story: of a mirror one drive was left, and the other one served alone. Then that one was found with the content
    /// of another drive, or blank: its label was right, but not one of its superblocks was its own. The table of the drive
    /// that was left called it current, the catalogue had no mark against it, and so the group was opened on it as of the
    /// moment when the other one had been left. What had been a hole then was read as zeroes, and of what had been flushed
    /// since nobody knew.
    ///
    /// So it is for each place of the home row. Of a single leg of two columns one drive was another one for a while: had the
    /// other one begun a new activation meanwhile, whose pages lie on both, the right drive would have come back in vain.
    ///
    /// Crash story of the exception: the version that has a drive take over a home place is the first that the drive gets.
    /// Power failed when another drive had it and that one did not. It has everything else: that was flushed before. The
    /// recovery gives it its first superblock before it writes any other (`write_bare_slots`).
    fn refuse_hearsay(&self, found: &[Found]) -> Result<(), Refusal> {
        let newest = self.superblock();
        let precedes = |one: &&Found| one.superblock.version.checked_add(1) == Some(newest.version);
        let before = found.iter().find(precedes);
        let took_over = |drive: base::Uuid| {
            before.is_some_and(|before| {
                let superblock = &before.superblock;
                let home = superblock
                    .home
                    .iter()
                    .map(|extent| superblock.drives[usize::from(extent.drive.get())].drive);
                home.into_iter().all(|other| other != drive)
            })
        };
        let shows = |drive: &DriveIx| {
            let drive = self.table.get(*drive).drive;
            found.iter().any(|one| drive_of(one) == drive) || took_over(drive)
        };
        let place = |place: DriveSet| place.and(self.current);
        match self.places().map(place).find(|place| !place.iter().any(|drive| shows(&drive))) {
            None => Ok(()),
            Some(place) => {
                let drives = place.iter().map(|drive| self.table.get(drive).drive).collect();
                Err(Refusal::NotTheirOwn { drives })
            }
        }
    }

    /// Drives that were set back all together say nothing false, and no key tells an old state from the newest one: only
    /// somebody else can remember that there was more.
    ///
    /// Crash story: the line of an activation is durable on every copy that counts before it serves, and what is remembered
    /// is an activation that served. One that was cut short before left nothing that anybody remembers, also when its Gen
    /// was handed out: Gens have gaps, and an older one is then the newest that there is. A copy that was left behind does
    /// not count, and when it is the only one at hand the copies' own marks refuse it, or the operator's word lets it in,
    /// which counts here as well.
    fn refuse_older(&self) -> Result<(), Refusal> {
        let found = self.superblock().line.map_or(Gen::ZERO, |line| line.generation);
        match self.request.served.filter(|_| !self.request.forced) {
            Some(served) if found < served => Err(Refusal::Older { found, served }),
            _ => Ok(()),
        }
    }

    /// What a drive with a mark says does not count if it was said by an activation of which no drive without a mark
    /// knows: neither as the group's newest version nor of the copies.
    ///
    /// Crash story: a mirror's second drive failed, and the first served alone through many activations. Then it was lost,
    /// and the catalogue with it; the second was opened by force, with a Gen that the first had had long before, and
    /// went on. The first was found again. Its versions are the newest by far, and call the second stale; were they
    /// believed, everything since the import would be gone.
    ///
    /// Nothing that counts is left out. Before an activation writes its first superblock the catalogue has a mark against
    /// every copy that does not get it, so what a copy without a mark does not know was never served. (A drive that
    /// the group left long ago may have no mark either, and knows little: it must know of the other's.)
    fn leave_out_other_histories(&self, found: &mut Vec<Found>) {
        let catalogue = self.request.catalogue.as_deref().unwrap_or_default();
        let against = |entries: &[fence::CopyEntry], one: &Found| {
            entries.iter().any(|entry| entry.drive == drive_of(one) && !entry.state.is_current())
        };
        if self.config.bug(Planted::CatalogueIgnored) {
            return;
        }
        let unmarked = found.iter().filter(|one| !against(catalogue, one));
        let Some(known) = unmarked.max_by_key(|one| one.superblock.newness()) else { return };
        let (known, line) = (known.superblock.clone(), line_of(known));
        found.retain(|one| {
            let foreign = one.superblock.generation >= known.generation && line_of(one) != line;
            !(foreign && against(catalogue, one) && against(&known.drives, one))
        });
    }

    /// The version to recover from instead of the newest, if that was found on no drive that is current: the
    /// newest that was.
    ///
    /// Crash story: a version that named a new row was in one slot of one drive when power failed, and that drive was
    /// away when the group was opened next. The other drive had never seen that version, so its recovery wrote a
    /// history page where the new row's page was. The catalogue heard that the absent drive is stale, and power failed
    /// again before a superblock said anything of all this. Then both are there. The version on the stale drive is the
    /// newest, and its page is gone from the only drive that counts. Nothing depends on it: a version is in both slots
    /// of every current drive before anything does, and the one that is current lacks it.
    ///
    /// That version may name nobody who counts: it dropped a leg, and the drives of that leg alone were found next. They
    /// had everything, and the catalogue had heard that the others are stale when power failed again. Then all are there,
    /// and the group was refused for ever.
    fn counted_on(&self, found: &[Found]) -> Option<Superblock> {
        let known = self.superblock.as_ref()?;
        // Nothing was decided if no row of the newest has a copy that counts.
        let counts = |drive: DriveIx| {
            let here = self.handles[usize::from(drive.get())].is_some();
            self.current.contains(drive) || (here && self.table.get(drive).state.is_current())
        };
        let current = |one: &&Found| self.table.find(drive_of(one)).is_some_and(counts);
        let newest = found.iter().filter(current).max_by_key(|one| one.superblock.newness())?;
        (newest.superblock.newness() < known.newness()).then(|| newest.superblock.clone())
    }

    /// Takes this version for what the group is, and what all that were found know of the copies.
    fn recover_from(&mut self, newest: Superblock, found: &[Found]) -> Result<(), Refusal> {
        if newest.geometry.extent_blocks != self.request.extent_blocks {
            return Err(Refusal::Damaged("its extents have another size than the pool's"));
        }
        self.newest_slots = self.slots_to_keep(&newest, found);
        self.lagging = newest
            .homes()
            .zip(&self.newest_slots)
            .map(|(home, slot)| {
                let mut here = found.iter().filter(|one| one.home == home && one.slot == *slot);
                !here.any(|one| one.superblock.newness() == newest.newness())
            })
            .collect();
        let place = |superblock: &Superblock, at: &base::Extent| {
            (superblock.drives[usize::from(at.drive.get())].drive, at.extent)
        };
        let named: Vec<_> = newest.home.iter().map(|extent| place(&newest, extent)).collect();
        let found_at = found.iter().map(|one| place(&one.superblock, &one.home.extent));
        self.former = found_at.filter(|at| !named.contains(at)).collect();
        self.doubted.clear();
        self.trusted = DriveSet::EMPTY;
        self.merge_views(&newest, found)?;
        self.find_unfinished(found);
        self.rows = newest.home.clone();
        self.home_pages = Some(crate::rows::HomePages::new(newest.geometry));
        self.superblock = Some(newest);
        self.decide()
    }

    /// A drive whose own newest superblock says that it is being brought up to date is no copy of any moment, whatever is
    /// known of it since.
    ///
    /// Crash story: power failed in the middle of a resync, and the next activation noted that the drive is stale since the
    /// same S as before. Then the drive with everything was lost, and the other one was opened by force: its newest
    /// superblock names pages that it never got. No page of the directory could be read, and all that had been found out
    /// was written down already: when the lost drive turned up it counted for nothing.
    fn find_unfinished(&mut self, found: &[Found]) {
        if self.config.bug(Planted::MixtureForced) {
            return;
        }
        for at in 0..self.table.entries().len() {
            let drive = DriveIx::new(at as u8);
            let uuid = self.table.get(drive).drive;
            let entry = |one: &Found| one.superblock.drives[usize::from(one.home.extent.drive.get())];
            let own = found.iter().filter(|one| drive_of(one) == uuid);
            let newest = own.max_by_key(|one| one.superblock.newness());
            if newest.is_some_and(|one| !entry(one).state.is_current()) {
                self.table.is_unfinished(drive);
            }
        }
    }

    fn valid_superblocks(&self) -> Result<Vec<Found>, Refusal> {
        let mut found = Vec::new();
        let (mut newer, mut other) = (None, None);
        let mut id = 0;
        for (handle, candidate) in self.request.drives.iter().enumerate() {
            if self.forsaken.drives.contains(DriveIx::new(handle as u8)) {
                continue;
            }
            for extent in &candidate.homes {
                for slot in 0..2u8 {
                    let Some(block) = self.script.results[id].block(u32::from(slot)) else { continue };
                    match Superblock::decode(block) {
                        Ok((superblock, home))
                            if self.belongs(&superblock, home, candidate.info.uuid, *extent) =>
                        {
                            if !superblock.is_genuine(block, self.keys.as_deref()) {
                                other = Some(self.other_keys(&superblock));
                                continue;
                            }
                            found.push(Found { superblock, home, extent: *extent, slot });
                        }
                        Err(Bad::Newer(version)) => newer = Some(version),
                        _ => {}
                    }
                }
                id += 1;
            }
        }
        match (newer, other) {
            (Some(version), _) => Err(Refusal::NewerFormat(version)),
            (None, Some(refusal)) if found.is_empty() => Err(refusal),
            _ => Ok(found),
        }
    }

    /// Slots in which a superblock was begun and is not: what is there only looks like one, or cannot be read.
    fn find_spoiled_slots(&self) -> Vec<(DriveIx, ExtentNo, u8)> {
        let candidates = self.request.drives.iter().enumerate();
        let drives = candidates.map(|(handle, candidate)| (DriveIx::new(handle as u8), candidate));
        let heard = drives.filter(|(handle, _)| !self.forsaken.drives.contains(*handle));
        let homes = heard.flat_map(|(handle, one)| one.homes.iter().map(move |extent| (handle, *extent)));
        let slots = homes
            .enumerate()
            .flat_map(|(id, (handle, extent))| [0, 1].map(move |slot| (id, (handle, extent, slot))));
        let spoiled = |(id, (_, _, slot)): &(usize, (DriveIx, ExtentNo, u8))| {
            let data = &self.script.results[*id];
            match data.block(u32::from(*slot)) {
                Some(block) => matches!(Superblock::decode(block), Err(Bad::Check | Bad::Content)),
                None => !data.silent,
            }
        };
        slots.filter(spoiled).map(|(_, slot)| slot).collect()
    }

    /// Why a superblock that is whole is not one of the group as it is opened here.
    fn other_keys(&self, superblock: &Superblock) -> Refusal {
        match (superblock.checks, &self.keys) {
            (base::CheckKind::AesGcm, None) => Refusal::Encrypted,
            (base::CheckKind::Xxh3, Some(_)) => Refusal::NotEncrypted,
            _ => Refusal::WrongKey,
        }
    }

    /// Whether a superblock is this group's and lies where it says: a copied drive gives itself away.
    fn belongs(&self, superblock: &Superblock, home: Home, drive: base::Uuid, extent: ExtentNo) -> bool {
        let listed = superblock.drives.get(usize::from(home.extent.drive.get()));
        superblock.group == self.request.group
            && home.extent.extent == extent
            && listed.is_some_and(|entry| entry.drive == drive)
    }

    /// Per copy, the slot with the newest valid version: the first one to be written is the other.
    fn slots_to_keep(&self, newest: &Superblock, found: &[Found]) -> Vec<u8> {
        let of_home = |home: Home| {
            let here = found.iter().filter(|one| one.home == home && one.extent == home.extent.extent);
            here.max_by_key(|one| one.superblock.newness()).map_or(0, |one| one.slot)
        };
        newest.homes().map(of_home).collect()
    }

    /// The newest superblock's table, and what other superblocks and the catalogue know better.
    fn merge_views(&mut self, newest: &Superblock, found: &[Found]) -> Result<(), Refusal> {
        let bad = Refusal::Damaged("its drive table lists a drive twice");
        self.table = CopyTable::from_entries(&newest.drives).ok_or(bad)?;
        for one in found.iter().filter(|one| one.superblock.newness() != newest.newness()) {
            self.table.merge(&one.superblock.drives);
        }
        let asked = self.request.catalogue.as_ref().filter(|_| !self.config.bug(Planted::CatalogueIgnored));
        if let Some(view) = asked {
            let before = self.table.clone();
            self.table.merge_catalogue(view);
            let behind = before.current().without(self.table.current()).iter();
            let behind = behind.map(|drive| (drive, *before.get(drive)));
            self.doubted = behind.filter(|(drive, e)| e.version == self.table.get(*drive).version).collect();
            self.highest_version = view.iter().map(|e| e.version).fold(self.highest_version, u64::max);
        }
        // What we wrote says of no copy more than its own version knew; the new activation must be newer than all.
        if self.table.entries().iter().any(|entry| entry.version > self.highest_version) {
            return Err(Refusal::Damaged("its drive table is of a version that no superblock has"));
        }
        let candidates = &self.request.drives;
        let number =
            |uuid| candidates.iter().position(|c| c.info.uuid == uuid).map(|i| DriveIx::new(i as u8));
        let handle = |uuid| number(uuid).filter(|handle| !self.forsaken.drives.contains(*handle));
        self.handles = self.table.entries().iter().map(|entry| handle(entry.drive)).collect();
        Ok(())
    }

    /// A drive that is too small for an extent that it should hold was cut off, or is not the one that it says: it
    /// counts as absent. Reads beyond its end would fail, but a write would make a file longer.
    fn leave_out_short_drives(&mut self) {
        for extent in &self.rows {
            let handle = &mut self.handles[usize::from(extent.drive.get())];
            let Some(at_hand) = *handle else { continue };
            let size = self.request.drives[usize::from(at_hand.get())].info.blocks;
            let end = u64::from(extent.extent.get()) + 1;
            let end = FIRST_EXTENT_BLOCK + end * u64::from(self.request.extent_blocks);
            if end > size.get() {
                *handle = None;
            }
        }
    }

    /// Of stale copies that are taken by the operator's word, for each place the one that has the most: two that
    /// went stale at different moments are not alike.
    fn newest_of(&self, promoted: DriveSet) -> DriveSet {
        let mut newest = DriveSet::EMPTY;
        for place in self.places() {
            let taken = place.and(promoted);
            let has = |drive: &DriveIx| self.table.get(*drive).state.since();
            if let Some(most) = taken.iter().max_by_key(has) {
                newest.insert(most);
            }
        }
        newest
    }

    /// The catalogue is believed when it has an older mark against a copy that the superblocks call current
    /// (`CopyTable::merge_catalogue`), for the copies beside it have everything. Where there is none beside it, the mark
    /// means nothing.
    ///
    /// Crash story: the only copy of a place moves to a drive that the group had left before, which had its mark in the
    /// catalogue. The version that names it is durable, and power goes away before the catalogue hears of it. The drive
    /// that is being left is in no row any more. Nobody but the marked drive can be meant, and it has everything: it was
    /// flushed before that version was asked for.
    fn trust_the_only_copies(&mut self) {
        let current = self.table.current();
        let alone: Vec<DriveSet> = self.places().filter(|place| place.and(current).is_empty()).collect();
        for (drive, entry) in &self.doubted {
            if alone.iter().any(|place| place.contains(*drive)) {
                self.table.take_back(*drive, entry);
                self.trusted.insert(*drive);
            }
        }
    }

    /// Whether the group opens with the drives at hand, judged by the rows known so far.
    pub(super) fn decide(&mut self) -> Result<(), Refusal> {
        self.leave_out_short_drives();
        self.trust_the_only_copies();
        let mut present = DriveSet::EMPTY;
        for (i, handle) in self.handles.iter().enumerate() {
            if handle.is_some() {
                present.insert(DriveIx::new(i as u8));
            }
        }
        let inputs = OpenInputs {
            table: &self.table,
            present,
            catalogue: self.request.catalogue.is_some(),
            forced: self.request.forced,
        };
        let places: Vec<DriveSet> = self.places().collect();
        match decide_open(&inputs, places) {
            OpenDecision::Open { current, promoted } => {
                self.promoted = self.newest_of(promoted);
                self.current = current.without(promoted).union(self.promoted);
                Ok(())
            }
            OpenDecision::RefuseStaleAlone { missing, .. } | OpenDecision::RefuseMissing(missing) => {
                let missing = missing.iter().map(|d| self.table.get(d).drive).collect();
                Err(Refusal::NoCurrentCopy { missing })
            }
        }
    }

    /// Notes which step comes next.
    pub(super) fn at(&mut self, stage: Stage) {
        self.stage = stage;
    }
}
