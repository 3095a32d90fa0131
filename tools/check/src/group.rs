//! A group as its newest superblock describes it: which drives count, and where each block of its space lies.
use crate::drive::Drive;
use crate::keys::Seals;
use crate::report::Where;
use crate::supers::Slot;
use base::{Blocks, CheckKind, DriveBlock, Extent, LegId, Pba, Uuid};
use fence::{CopyTable, DriveSet};
use rlog::LegSet;
use volume::{Geometry, Superblock};

/// A group and the drives that it is read from.
pub(crate) struct GroupView<'a> {
    pub drives: &'a [Drive<'a>],
    pub group: Uuid,
    /// The newest.
    pub superblock: Superblock,
    /// Every slot that was read.
    pub slots: Vec<Slot>,
    /// What all superblocks and the catalogue together say of the copies.
    pub table: CopyTable,
    /// By index of the drive table: the drive at hand.
    pub handles: Vec<Option<usize>>,
    /// Drives whose copies are current and at hand.
    pub current: DriveSet,
    /// Extents of all rows known so far; the home row until the row pages are read.
    pub rows: Vec<Extent>,
    /// What is needed to look behind the group's checks.
    pub seals: Seals,
    /// Row and history pages that cannot be told right from wrong are believed only if all copies are alike.
    pub only_alike: bool,
}

/// One copy of a block.
#[derive(Clone, Copy)]
pub(crate) struct CopyAt {
    pub leg: LegId,
    /// Index of the drive.
    pub drive: usize,
    pub block: DriveBlock,
}

impl<'a> GroupView<'a> {
    pub fn geometry(&self) -> Geometry {
        self.superblock.geometry
    }

    /// Whether its blocks are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.superblock.checks == CheckKind::AesGcm
    }

    /// Blocks of the group's space.
    pub fn space(&self) -> Blocks {
        Blocks::new(u64::from(self.superblock.rows) * self.geometry().row_blocks())
    }

    /// Regions of the rows that are known.
    pub fn regions(&self) -> u32 {
        let rows = self.rows.len() / self.geometry().row_extents();
        u32::try_from(rows * usize::from(self.geometry().columns)).unwrap_or(u32::MAX)
    }

    /// The extent that holds a block on a leg; `None` beyond the rows known so far.
    fn extent_of(&self, pba: Pba, leg: LegId) -> Option<(Extent, u32)> {
        let geometry = self.geometry();
        if pba.get() / geometry.row_blocks() > u64::from(u32::MAX) {
            return None;
        }
        let place = geometry.place(pba);
        let column = usize::from(leg.get()) * usize::from(geometry.columns) + usize::from(place.column.get());
        let extent = *self.rows.get(place.row.get() as usize * geometry.row_extents() + column)?;
        Some((extent, place.block))
    }

    /// The copies of a block that count: current and at hand.
    pub fn copies(&self, pba: Pba) -> impl Iterator<Item = CopyAt> + '_ {
        (0..self.geometry().legs).map(LegId::new).filter_map(move |leg| {
            let (extent, block) = self.extent_of(pba, leg)?;
            if !self.current.contains(extent.drive) {
                return None;
            }
            let drive = self.handles[usize::from(extent.drive.get())]?;
            Some(CopyAt { leg, drive, block: self.drives[drive].block_of(extent.extent, block) })
        })
    }

    /// The legs whose copy of this block counts.
    pub fn legs(&self, pba: Pba) -> LegSet {
        let mut legs = LegSet::EMPTY;
        self.copies(pba).for_each(|copy| legs.insert(copy.leg));
        legs
    }

    pub fn drive(&self, copy: &CopyAt) -> &'a Drive<'a> {
        &self.drives[copy.drive]
    }

    /// A copy's place, for a finding.
    pub fn place(&self, copy: &CopyAt) -> Where {
        self.drives[copy.drive].at(copy.block)
    }

    /// All copies' places.
    pub fn places(&self, pba: Pba) -> Vec<Where> {
        self.copies(pba).map(|copy| self.place(&copy)).collect()
    }

    /// How an entry of the drive table is called: by the drive's name if it is at hand.
    pub fn drive_name(&self, index: usize) -> String {
        match self.handles[index] {
            Some(drive) => self.drives[drive].name.clone(),
            None => format!("drive {}", self.table.entries()[index].drive),
        }
    }
}
