//! The copies of a group: one entry for each drive, in the order of the group's drive table.
//!
//! Invariants: a drive is listed once; an entry changes only with a higher version; the last current copy of any
//! place of a row is never marked stale. A *place* is one (row, column): the set of drives that hold its legs.
//!
//! The order in which a table becomes durable is the caller's, and is the same for a drive that fails, a resync
//! that ends and an activation's first superblock: the catalogue learns which copies are **not** current; then
//! the superblocks of the drives that get superblocks; then the catalogue learns which copies are current; then
//! the table is acted upon (a write that a stale copy misses is acknowledged, a copy is counted on). Were a
//! superblock the first to say that drive A is stale, this could happen: only drive B has it when the node
//! crashes; the group is opened with A alone, since the catalogue knows nothing against it, and goes on; then A
//! and the catalogue are lost, and B, which was left behind, says of itself that it is the only current copy.
//! Were the catalogue the first to say that A is current again, A could be opened alone while B still says that
//! it is not, and the same follows.
use crate::copy::{CopyEntry, CopyState, Event, Illegal};
use alloc::vec::Vec;
use base::DriveSet;
use base::limits::MAX_DRIVES;
use base::{CkptNo, DriveIx, Seq, Uuid};
use core::cmp::Ordering;

/// The drives of a group and what their copies are worth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyTable {
    entries: Vec<CopyEntry>,
}

/// Why the table was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The group has as many drives as it can have.
    Full,
    /// The drive is listed already.
    Listed,
    /// The transition does not exist.
    Illegal(Illegal),
    /// It is the last current copy of a place.
    LastCopy,
}

impl Default for CopyTable {
    fn default() -> Self {
        Self::new()
    }
}

impl CopyTable {
    /// No drive. Room for all is taken now.
    pub fn new() -> Self {
        Self { entries: Vec::with_capacity(MAX_DRIVES) }
    }

    /// The table that a superblock lists; `None` if a drive is in it twice or it is too long.
    pub fn from_entries(listed: &[CopyEntry]) -> Option<Self> {
        let mut table = Self::new();
        for entry in listed {
            table.add(*entry).ok()?;
        }
        Some(table)
    }

    /// The entries, by drive index.
    pub fn entries(&self) -> &[CopyEntry] {
        &self.entries
    }
    /// One entry. Panics if there is no such drive.
    pub fn get(&self, drive: DriveIx) -> &CopyEntry {
        &self.entries[usize::from(drive.get())]
    }
    /// The index of a drive.
    pub fn find(&self, drive: Uuid) -> Option<DriveIx> {
        self.entries.iter().position(|entry| entry.drive == drive).map(|at| DriveIx::new(at as u8))
    }
    /// The drives in a state that satisfies `is`.
    pub fn drives(&self, is: impl Fn(CopyState) -> bool) -> DriveSet {
        let all = self.entries.iter().enumerate();
        all.filter(|(_, entry)| is(entry.state)).map(|(at, _)| DriveIx::new(at as u8)).collect()
    }
    /// The drives whose copies are current.
    pub fn current(&self) -> DriveSet {
        self.drives(CopyState::is_current)
    }
    /// The highest version of any entry.
    pub fn newest_version(&self) -> u64 {
        self.entries.iter().map(|entry| entry.version).max().unwrap_or(0)
    }

    /// Adds a drive behind the others: `Current` when a group is made or when it joins with a row of its own (it
    /// misses nothing then), `CopyState::EMPTY` when it is to hold what is there already.
    pub fn add(&mut self, entry: CopyEntry) -> Result<DriveIx, Refused> {
        if self.entries.len() == MAX_DRIVES {
            return Err(Refused::Full);
        }
        if self.find(entry.drive).is_some() {
            return Err(Refused::Listed);
        }
        self.entries.push(entry);
        Ok(DriveIx::new((self.entries.len() - 1) as u8))
    }

    /// Whether this drive may go stale: every place that it holds a leg of has another current copy.
    pub fn may_fail(&self, drive: DriveIx, places: impl IntoIterator<Item = DriveSet>) -> bool {
        let others = self.current().without(DriveSet::only(drive));
        places.into_iter().filter(|place| place.contains(drive)).all(|place| !place.and(others).is_empty())
    }

    /// The drive's last good flush covered `seq` and `ckpt`; from now on it misses things. Refused for the last
    /// current copy of a place: its failure is the group's.
    pub fn fail(
        &mut self,
        drive: DriveIx,
        (seq, ckpt): (Seq, CkptNo),
        version: u64,
        places: impl IntoIterator<Item = DriveSet>,
    ) -> Result<(), Refused> {
        if self.get(drive).state.is_current() && !self.may_fail(drive, places) {
            return Err(Refused::LastCopy);
        }
        self.change(drive, Event::Fail { seq, ckpt }, version)
    }

    /// The drive's history is not a prefix of the group's. Refused for the last current copy of a place.
    pub fn diverge(
        &mut self,
        drive: DriveIx,
        version: u64,
        places: impl IntoIterator<Item = DriveSet>,
    ) -> Result<(), Refused> {
        if self.get(drive).state.is_current() && !self.may_fail(drive, places) {
            return Err(Refused::LastCopy);
        }
        self.change(drive, Event::Diverge, version)
    }

    /// A resync of the drive begins: everything ever issued to it has ended.
    pub fn begin_resync(&mut self, drive: DriveIx, version: u64) -> Result<(), Refused> {
        self.change(drive, Event::BeginResync, version)
    }

    /// The drive has everything: a checkpoint taken after the last copy was flushed on it.
    pub fn finish_resync(&mut self, drive: DriveIx, version: u64) -> Result<(), Refused> {
        self.change(drive, Event::FinishResync, version)
    }

    fn change(&mut self, drive: DriveIx, event: Event, version: u64) -> Result<(), Refused> {
        let entry = &mut self.entries[usize::from(drive.get())];
        let state = entry.state.after(event).map_err(Refused::Illegal)?;
        if state != entry.state {
            assert!(version > entry.version, "a state changes with a higher version");
            *entry = CopyEntry { state, version, ..*entry };
        }
        Ok(())
    }

    /// Takes what another drive's superblock knows better: for each drive the entry with the higher version. Drives that only the other view lists are left out: which drives
    /// a group has is for its newest superblock to say.
    pub fn merge(&mut self, view: &[CopyEntry]) {
        for entry in &mut self.entries {
            let drive = entry.drive;
            for other in view.iter().filter(|other| other.drive == drive) {
                if other.version > entry.version {
                    *entry = *other;
                } else if other.version == entry.version {
                    entry.state = entry.state.worse(other.state);
                }
            }
        }
    }

    /// Takes what the catalogue knows: what is newer, and of an older view that a copy is not current. A copy
    /// becomes current in the superblocks first, and is not counted on before the catalogue agrees, so nothing
    /// is lost by believing the catalogue, but a resync that must be done again. Were it not believed, this
    /// could happen: the superblock that calls drive A current is on A only when the node crashes; the group is
    /// opened with A alone and goes on; then A and the catalogue are lost, and B, which was left behind, still
    /// says that A is being resynced and that itself is current.
    ///
    /// A drive that the catalogue does not list has no mark against it. A mark does not say that a copy is unproven, so
    /// one that is by the superblocks stays so.
    ///
    /// Crash story: drive A served alone, B was opened by force, and A was unproven from then on. A later activation had
    /// its mark of A stored, and power failed before its superblock. The mark was the newer word and made A a copy that only
    /// lacked what came after the fork: it kept what it had written over older blocks in its own history.
    pub fn merge_catalogue(&mut self, view: &[CopyEntry]) {
        for entry in &mut self.entries {
            let mine = *entry;
            let Some(theirs) = view.iter().find(|other| other.drive == mine.drive) else { continue };
            *entry = match theirs.version.cmp(&mine.version) {
                Ordering::Greater if mine.state.is_unproven() && !theirs.state.is_current() => {
                    let state = theirs.state.after(Event::Diverge).expect("any copy may diverge");
                    CopyEntry { state, ..*theirs }
                }
                Ordering::Greater => *theirs,
                _ if theirs.state.is_current() => mine,
                Ordering::Equal => CopyEntry { state: mine.state.worse(theirs.state), ..mine },
                Ordering::Less if mine.state.is_current() => CopyEntry { state: theirs.state, ..mine },
                Ordering::Less => mine,
            };
        }
    }

    /// Takes back what `merge_catalogue` did to a copy: the superblocks' entry counts.
    pub fn take_back(&mut self, drive: DriveIx, superblocks: &CopyEntry) {
        let entry = &mut self.entries[usize::from(drive.get())];
        assert!(entry.drive == superblocks.drive && entry.version == superblocks.version);
        *entry = *superblocks;
    }

    /// The group that is opened has no more than this: neither has any copy that is not current.
    pub fn bound(&mut self, seq: Seq, ckpt: CkptNo) {
        for entry in &mut self.entries {
            entry.state = entry.state.at_most(seq, ckpt);
        }
    }

    /// What is stale by the table was being brought up to date: the drive says so itself. It is a mixture of two times.
    pub fn is_unfinished(&mut self, drive: DriveIx) {
        let entry = &mut self.entries[usize::from(drive.get())];
        if let CopyState::Stale { seq, ckpt, unproven } = entry.state {
            entry.state = CopyState::Resyncing { seq, ckpt, unproven };
        }
    }

    /// Gives every entry the version of a new activation's first superblock (`Activation::first_version`). What
    /// the activation decided about each copy then outweighs whatever an older one may have written down on a
    /// drive that is absent now. The superblock that says so is durable, and the catalogue has it, before the
    /// group is served.
    pub fn restamp(&mut self, version: u64) {
        for entry in &mut self.entries {
            assert!(version > entry.version, "an activation's versions are higher than any found");
            entry.version = version;
        }
    }
}

#[cfg(test)]
mod tests;
