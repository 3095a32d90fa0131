//! What an operator does to the drives of a world: more of them, one that is back or left, a leg more or less.
use super::drive::Drive;
use super::{World, inside, uuid};
use base::{Blocks, DriveIx, Engine, ExtentNo, NewDrive, Reply};

impl World {
    /// One drive more that the group may use.
    pub fn add_drive(&mut self) -> NewDrive {
        let drive = self.shape.drives() + self.added;
        self.added += 1;
        self.drives.push(Drive::default());
        self.handles.push(drive);
        let handle = DriveIx::new(self.handles.len() as u8 - 1);
        NewDrive { uuid: uuid(drive), handle, blocks: Blocks::new(1 << 30), volatile: self.shape.volatile }
    }

    /// A drive that was added, as the driver knows it now.
    pub fn drive(&mut self, drive: u8) -> NewDrive {
        let handle = self.handles.iter().position(|known| *known == drive).expect("at hand");
        let (handle, volatile) = (DriveIx::new(handle as u8), self.shape.volatile);
        NewDrive { uuid: uuid(drive), handle, blocks: Blocks::new(1 << 30), volatile }
    }

    /// A drive of the group is there again, under a new number. Nothing of its former life may be in flight.
    pub fn back(&mut self, drive: u8) {
        assert!(self.pending.iter().all(|pending| pending.io.drive != drive), "its queue is not gone");
        let known = self.handles.iter().position(|known| *known == drive);
        let handle = known.unwrap_or_else(|| {
            self.handles.push(drive);
            self.handles.len() - 1
        });
        let (handle, blocks) = (DriveIx::new(handle as u8), Blocks::new(1 << 40));
        let new = NewDrive { uuid: uuid(drive), handle, blocks, volatile: self.shape.volatile };
        inside(|| self.engine.reply(Reply::Returned(new)));
    }

    /// Extents whose header says that they are of the home row.
    pub(super) fn homes_on(&self, drive: u8) -> Vec<ExtentNo> {
        let of_home = |extent: &ExtentNo| {
            let mut block = [0; base::BLOCK_BYTES];
            let start = volume::label::extent_start(*extent, self.shape.extent);
            self.drives[usize::from(drive)].read(start.get(), &mut block);
            volume::Header::decode(&block).is_ok_and(|header| header.row == base::RowNo::ZERO)
        };
        (0..self.shape.rows + 1).map(ExtentNo::new).filter(of_home).collect()
    }

    /// Everything that the group has on one drive is to go to others, to the extents of the same numbers.
    pub fn leave(&mut self, drive: u8, to: &[NewDrive]) {
        let from = uuid(drive);
        let here = self.engine.extents_on(from);
        let extents = here.iter().enumerate().map(|(i, extent)| (*extent, i % to.len(), *extent)).collect();
        inside(|| {
            self.engine.reply(Reply::Move(base::MoveGrant {
                change: base::Change::Leave(from),
                to: to.to_vec(),
                extents,
            }))
        });
    }

    /// Some extents of a drive are to go to another one, to the extents of the same numbers.
    pub fn shift(&mut self, from: u8, to: NewDrive, extents: &[ExtentNo]) {
        let extents = extents.iter().map(|extent| (*extent, 0, *extent)).collect();
        let change = base::Change::Shift(uuid(from));
        inside(|| self.engine.reply(Reply::Move(base::MoveGrant { change, to: vec![to], extents })));
    }

    /// Every row gets a leg more, on these drives, one for each column.
    pub fn add_leg(&mut self, drives: &[u8]) {
        let to: Vec<NewDrive> = drives.iter().map(|drive| self.drive(*drive)).collect();
        let columns = usize::from(self.shape.columns);
        let leg_0: Vec<_> = (0..columns).map(|c| self.engine.extents_on(uuid(self.places[c]))).collect();
        let rows = leg_0[0].len();
        let place =
            |i: usize| (leg_0[i % columns][i / columns], i % columns, leg_0[i % columns][i / columns]);
        let extents = (0..rows * columns).map(place).collect();
        self.adding = drives.to_vec();
        let change = base::Change::AddLeg;
        inside(|| self.engine.reply(Reply::Move(base::MoveGrant { change, to, extents })));
    }

    /// The leg is there: rows have it from now on.
    pub fn leg_added(&mut self) {
        self.shape.legs += 1;
        self.added -= self.shape.columns;
        self.places.append(&mut self.adding);
    }

    /// The last leg is to go.
    pub fn drop_leg(&mut self) {
        let change = base::Change::DropLeg(base::LegId::new(self.shape.legs - 1));
        let grant = base::MoveGrant { change, to: Vec::new(), extents: Vec::new() };
        inside(|| self.engine.reply(Reply::Move(grant)));
    }

    /// The last leg is gone; its drives are wiped.
    pub fn leg_dropped(&mut self) {
        self.shape.legs -= 1;
        self.added += self.shape.columns;
        for drive in self.places.split_off(usize::from(self.shape.drives())) {
            self.drives[usize::from(drive)] = Drive::default();
        }
    }
}
