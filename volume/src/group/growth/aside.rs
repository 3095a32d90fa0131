//! Extents of a granted row that the rows do not have: of a leg that is to be added, or that is none any more.
//!
//! The pool counts a leg from the moment at which it asks for it, the group from the moment at which it begins to copy. A
//! drive that is back goes first, and its resync can lie in between: minutes, or hours. A guest that is short of space does not wait for that. The row goes in without the extents
//! of the leg, and they are added to what was asked for, as if it had been asked for now.
//!
//! Crash story: before the move begins no superblock says anything of it, so the next activation finds the row and no leg,
//! and the leg is asked for again, with what the pool has of it by then. A row that is given up takes them with it: nothing was
//! written to them. If the move is refused, they go back with the others of the leg.
use crate::group::Group;
use alloc::vec::Vec;
use base::{DriveIx, ExtentNo, NewDrive, RowGrant};

/// A successor of an extent of leg 0: the drive, which one it succeeds, and its number there.
pub(super) type Aside = (ExtentNo, NewDrive, ExtentNo);

impl Group {
    /// Takes the extents of a leg out of a grant that the rows cannot have yet, or not any more. Drives that would join
    /// for those alone do not.
    pub(super) fn set_aside(&mut self, grant: &mut RowGrant) {
        let (extents, columns) = (self.geometry.row_extents(), usize::from(self.geometry.columns));
        let keeps = self.moving.will_add_leg();
        let extra = grant.extents.len() == extents + columns;
        if !extra || !(keeps || self.moving.brings_more()) {
            return;
        }
        let successors = if keeps { self.successors(grant) } else { Some(Vec::new()) };
        // One that names a drive that is not does not fit, and goes back as a whole.
        let Some(successors) = successors else { return };
        self.growth.aside = successors;
        grant.extents.truncate(extents);
        self.leave_out_unused(grant);
    }

    fn successors(&self, grant: &RowGrant) -> Option<Vec<Aside>> {
        let known = self.drives.list.len();
        let drive = |index: DriveIx| match self.drives.list.get(usize::from(index.get())) {
            Some(drive) => Some(NewDrive {
                uuid: drive.info.uuid,
                handle: drive.handle,
                blocks: drive.info.blocks,
                volatile: drive.info.volatile,
            }),
            None => grant.joining.get(usize::from(index.get()) - known).copied(),
        };
        let more = &grant.extents[self.geometry.row_extents()..];
        let pairs = grant.extents.iter().zip(more);
        pairs.map(|(old, new)| Some((old.extent, drive(new.drive)?, new.extent))).collect()
    }

    /// Leaves out drives that join without an extent; those behind one move up in the table.
    fn leave_out_unused(&self, grant: &mut RowGrant) {
        let known = self.drives.list.len();
        for i in (0..grant.joining.len()).rev() {
            let index = known + i;
            if grant.extents.iter().any(|extent| usize::from(extent.drive.get()) == index) {
                continue;
            }
            grant.joining.remove(i);
            for extent in &mut grant.extents {
                if usize::from(extent.drive.get()) > index {
                    extent.drive = DriveIx::new(extent.drive.get() - 1);
                }
            }
        }
    }

    /// The row is in use: the leg that is to be added gets the extents that came with it.
    pub(super) fn settle_aside(&mut self) {
        let aside = core::mem::take(&mut self.growth.aside);
        self.moving.add_to_asked(&aside);
    }
}
