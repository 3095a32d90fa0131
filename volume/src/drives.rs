//! The drives of the group as they are now: which can be written, which can be read.
//!
//! Crash story: a drive that failed a write misses something. It is `Failing` from that instant: nothing is
//! sent to it or read from it any more, and whatever it missed stays unacknowledged until a superblock on
//! every remaining drive, and the catalogue, durably say that it is stale. Only then is it `Stale` and what
//! it missed counts. The last current copy of any place of a row never fails this way: its loss is the
//! caller's error instead.
use crate::config::{CopyHealth, DriveInfo, DriveStats, DriveView};
use alloc::vec::Vec;
use base::limits::MAX_DRIVES;
use base::{CkptNo, DriveIx, Extent, Seq};
use fence::DriveSet;

/// State of a drive in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    Current,
    /// Its first row is being prepared: written, and nobody counts on it (`group/joining.rs`).
    Joining,
    Failing,
    Stale,
    /// It gets everything that is written, and nobody counts on it (`group/resync.rs`).
    Resyncing,
    /// It has everything; the superblock and the catalogue are hearing of it.
    Returning,
    Missing,
}

/// One drive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drive {
    pub info: DriveInfo,
    /// The number by which the driver knows it.
    pub handle: DriveIx,
    pub health: Health,
    /// Everything up to here was flushed on this drive.
    pub flushed: Seq,
    /// And pages up to this checkpoint.
    pub flushed_ckpt: CkptNo,
    pub reads_in_flight: u32,
    pub stats: DriveStats,
}

/// The drive table in memory.
pub(crate) struct Drives {
    pub list: Vec<Drive>,
}

impl Drives {
    pub fn new() -> Self {
        Self { list: Vec::with_capacity(MAX_DRIVES) }
    }

    pub fn get(&self, drive: DriveIx) -> &Drive {
        &self.list[usize::from(drive.get())]
    }

    pub fn get_mut(&mut self, drive: DriveIx) -> &mut Drive {
        &mut self.list[usize::from(drive.get())]
    }

    pub fn is(&self, drive: DriveIx, health: Health) -> bool {
        self.get(drive).health == health
    }

    pub fn current(&self, drive: DriveIx) -> bool {
        self.is(drive, Health::Current)
    }

    pub fn all(&self) -> impl Iterator<Item = DriveIx> + use<> {
        (0..self.list.len() as u8).map(DriveIx::new)
    }

    pub fn set_of(&self, health: Health) -> DriveSet {
        let mut set = DriveSet::EMPTY;
        for drive in self.all().filter(|d| self.is(*d, health)) {
            set.insert(drive);
        }
        set
    }

    /// Takes a failed drive out, unless some place of a row (or of a row that is being added) would be left
    /// without a current copy. Returns whether it is out (now or already).
    pub fn fail(&mut self, drive: DriveIx, rows: [&[Extent]; 2], legs: u8, columns: u8) -> bool {
        if !self.current(drive) {
            return true;
        }
        let spared = self.can_spare(drive, rows, (legs, columns), DriveSet::EMPTY);
        if spared {
            self.get_mut(drive).health = Health::Failing;
        }
        spared
    }

    /// Whether every place that a drive has is on another current drive too, those of `but` not counted.
    pub fn can_spare(
        &self,
        drive: DriveIx,
        rows: [&[Extent]; 2],
        (legs, columns): (u8, u8),
        but: DriveSet,
    ) -> bool {
        let (legs, columns) = (usize::from(legs), usize::from(columns));
        let mut rows = rows.into_iter().flat_map(|rows| rows.chunks_exact(legs * columns));
        rows.all(|row| {
            (0..columns).all(|column| {
                let mut place = (0..legs).map(|leg| row[leg * columns + column].drive);
                let other = |d: DriveIx| d != drive && self.current(d) && !but.contains(d);
                !place.clone().any(|d| d == drive) || place.any(other)
            })
        })
    }

    /// The first `count` drives, as others may see them: those that the superblock lists. Where one joins in the place
    /// of a former one it still lists that one.
    pub fn views(&self, count: usize, joining: &[(DriveIx, Option<Drive>)]) -> Vec<DriveView> {
        let former =
            |index| joining.iter().find(|(at, _)| *at == index).and_then(|(_, former)| former.as_ref());
        let view = |index: DriveIx| {
            let drive = former(index).unwrap_or_else(|| self.get(index));
            let health = match drive.health {
                Health::Current => CopyHealth::Current,
                Health::Failing => CopyHealth::Failing,
                Health::Joining => unreachable!("a drive that joins is not listed yet"),
                Health::Stale => CopyHealth::Stale(drive.flushed),
                Health::Resyncing | Health::Returning => CopyHealth::Resyncing(drive.flushed),
                Health::Missing => CopyHealth::Missing,
            };
            DriveView { index, uuid: drive.info.uuid, health, stats: drive.stats }
        };
        self.all().take(count).map(view).collect()
    }
}
