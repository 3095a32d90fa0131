//! The control plane of a simulated world: the pool that hands out extents and the catalogue that remembers
//! which drives are stale. Both survive crashes; their answers take their time, or get lost in a crash.
use base::boundary::RowGrant;
use base::limits::MAX_DRIVES;
use base::{Action, CkptNo, Extent, ExtentNo, Reply, RowNo, Seq};
use std::collections::BTreeMap;

/// Extents that a pool can still hand out, by drive.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Free extents of each drive; the last one is handed out first.
    pub free: Vec<Vec<ExtentNo>>,
    /// For each place of a row (`leg * columns + column`), the drives that may take it.
    pub places: Vec<Vec<usize>>,
    /// The places are dealt out anew with each row, so many further on: drives have other legs of other rows. 0 where each leg
    /// is on drives of its own.
    pub turned: usize,
    /// Drives that may take the place of others, extent for extent.
    pub others: Vec<usize>,
    /// Rows handed out. The engine may have lost one in a crash before any superblock named it: it asks again.
    granted: BTreeMap<RowNo, Vec<Extent>>,
}

impl Pool {
    /// A pool with these free extents by drive, whose rows have these places.
    pub fn new(free: Vec<Vec<ExtentNo>>, places: Vec<Vec<usize>>) -> Self {
        Self { free, places, turned: 0, others: Vec::new(), granted: BTreeMap::new() }
    }

    /// A drive that joins the pool, for one place of a row.
    pub fn add_drive(&mut self, drive: usize, place: usize, free: Vec<ExtentNo>) {
        self.places[place].push(drive);
        self.free[drive] = free;
    }

    /// Every row is to have a leg more, on these drives, which have all these extents free: the ones for the rows that
    /// are there, row by row. Rows that are handed out from now on bring theirs.
    pub fn add_leg(&mut self, drives: &[usize], free: &[ExtentNo], rows: usize) -> Vec<ExtentNo> {
        for drive in drives {
            self.places.push(vec![*drive]);
            self.free[*drive] = free.to_vec();
        }
        let mut added = Vec::new();
        for (_, extents) in self.granted.iter_mut().take(rows) {
            for drive in drives {
                let extent = self.free[*drive].pop().expect("as many as every other drive has");
                extents.push(Extent { drive: base::DriveIx::new(*drive as u8), extent });
                added.push(extent);
            }
        }
        added
    }

    /// Rows have this many places, and no others: a leg was dropped, or was not added after all.
    pub fn keep_places(&mut self, places: usize) {
        if places >= self.places.len() {
            return;
        }
        self.places.truncate(places);
        self.granted.values_mut().for_each(|extents| extents.truncate(places));
    }

    /// Whether a drive is of the pool; where no places are said all are.
    pub fn has(&self, drive: usize) -> bool {
        self.places.is_empty()
            || self.others.contains(&drive)
            || self.places.iter().any(|drives| drives.contains(&drive))
    }

    /// Whether there is no row left to hand out.
    pub fn is_full(&self) -> bool {
        self.places.iter().any(|drives| drives.iter().all(|drive| self.free[*drive].is_empty()))
    }

    /// A row that exists from creation on.
    pub fn note(&mut self, row: RowNo, extents: Vec<Extent>) {
        self.granted.insert(row, extents);
    }

    /// Hands out the extents of a row. What was granted for it before goes back first: the engine asks for a row
    /// only when no durable superblock names it.
    pub fn grant(&mut self, row: RowNo, start: u64) -> Option<RowGrant> {
        while let Some((last, _)) = self.granted.last_key_value()
            && *last >= row
        {
            let (_, extents) = self.granted.pop_last().expect("just seen");
            for extent in extents.iter().rev() {
                self.free[extent.drive.get() as usize].insert(0, extent.extent);
            }
        }
        let mut chosen: Vec<Extent> = Vec::new();
        let first = row.get() as usize * self.turned % self.places.len().max(1);
        let (before, behind) = self.places.split_at(first);
        for drives in behind.iter().chain(before) {
            let begin = start as usize % drives.len();
            let found = (0..drives.len())
                .map(|i| drives[(begin + i) % drives.len()])
                .find(|drive| !self.free[*drive].is_empty());
            let Some(drive) = found else {
                for extent in chosen {
                    self.free[extent.drive.get() as usize].push(extent.extent);
                }
                return None;
            };
            let extent = self.free[drive].pop().expect("not empty");
            chosen.push(Extent { drive: base::DriveIx::new(drive as u8), extent });
        }
        self.granted.insert(row, chosen.clone());
        Some(RowGrant { row, extents: chosen, joining: Vec::new() })
    }

    /// Rows handed out so far.
    pub fn rows(&self) -> usize {
        self.granted.len()
    }
}

/// What the catalogue knows about a group.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// The highest superblock version that called each drive stale; 0 is never.
    pub stale: [u64; MAX_DRIVES],
    /// The highest superblock version that called each drive current again; 0 is never.
    pub current: [u64; MAX_DRIVES],
    /// The highest superblock version that was to be stored as one that calls a drive current again; 0 is never.
    pub asked_current: [u64; MAX_DRIVES],
    /// S and C of the newest stale mark of each drive.
    pub since: [(Seq, CkptNo); MAX_DRIVES],
    /// S and C of marks on their way, by drive and version.
    pub said: BTreeMap<(usize, u64), (Seq, CkptNo)>,
    /// The last activation that was given out.
    pub activation: u64,
}

impl Catalogue {
    /// Stores stale marks.
    pub fn store(&mut self, drives: u32, version: u64) {
        for (drive, stored) in self.stale.iter_mut().enumerate() {
            if drives & (1 << drive) != 0 && version >= *stored {
                *stored = version;
                self.since[drive] = self.said.get(&(drive, version)).copied().unwrap_or_default();
            }
        }
    }

    /// Stores that a drive is current again.
    pub fn store_current(&mut self, drive: usize, version: u64) {
        self.current[drive] = version.max(self.current[drive]);
    }

    /// Whether a group that is opened may count on this drive: it was not called stale last, or a version that calls it current
    /// is on the drives, and was on its way to here.
    pub fn may_count(&self, drive: usize) -> bool {
        !self.is_stale(drive) || self.asked_current[drive] > self.stale[drive]
    }

    /// Whether this drive was called stale last.
    pub fn is_stale(&self, drive: usize) -> bool {
        self.stale[drive] > self.current[drive]
    }
}

/// Pool and catalogue together.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// The pool.
    pub pool: Pool,
    /// The catalogue.
    pub catalogue: Catalogue,
}

impl Control {
    /// Carries out an action of the control plane and gives its answer.
    pub fn answer(&mut self, action: Action, start: u64) -> Reply {
        match action {
            Action::WantRow { row } => self.pool.grant(row, start).map_or(Reply::NoRow, Reply::Row),
            Action::StoreStale { drives, version } => {
                self.catalogue.store(drives, version);
                Reply::StaleStored { version }
            }
            Action::StoreCurrent { drive, version } => {
                self.catalogue.store_current(usize::from(drive.get()), version);
                Reply::CurrentStored { version }
            }
            other => unreachable!("{other:?} is not for the control plane"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_was_lost_is_granted_again() {
        let free = vec![vec![ExtentNo::new(2), ExtentNo::new(1)], vec![ExtentNo::new(1)]];
        let mut pool = Pool::new(free, vec![vec![0], vec![1]]);
        let first = pool.grant(RowNo::new(1), 0).expect("both drives have one");
        assert_eq!(first.extents.len(), 2);
        let again = pool.grant(RowNo::new(1), 0).expect("it went back");
        assert_eq!(again.row, RowNo::new(1));
        assert_eq!(pool.grant(RowNo::new(2), 0), None, "drive 1 is empty");
        assert_eq!(pool.free[0].len(), 1, "a failed grant takes nothing");
    }

    /// Two legs of two columns: the drives of a leg of one row have the other leg of the next one, column by column.
    #[test]
    fn drives_have_other_legs_of_other_rows() {
        let free = vec![(0..4).rev().map(ExtentNo::new).collect(); 4];
        let mut pool = Pool::new(free, (0..4).map(|drive| vec![drive]).collect());
        pool.turned = 2;
        for (row, drives) in [(0, [0, 1, 2, 3]), (1, [2, 3, 0, 1]), (2, [0, 1, 2, 3]), (1, [2, 3, 0, 1])] {
            let granted = pool.grant(RowNo::new(row), 0).expect("there is room");
            assert_eq!(granted.extents.iter().map(|extent| extent.drive.get()).collect::<Vec<_>>(), drives);
        }
    }
}
