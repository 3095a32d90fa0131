//! A set of drives of a group.
use base::DriveIx;
use base::limits::MAX_DRIVES;
use core::fmt;

/// A set of drives by their index in the group's drive table, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DriveSet(u32);

const _: () = assert!(MAX_DRIVES <= 32);

impl DriveSet {
    /// No drive.
    pub const EMPTY: Self = Self(0);

    /// The drives whose bits are set.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
    /// One drive.
    pub const fn only(drive: DriveIx) -> Self {
        assert!((drive.get() as usize) < MAX_DRIVES, "no such drive");
        Self(1 << drive.get())
    }
    /// One bit for each drive.
    pub const fn bits(self) -> u32 {
        self.0
    }
    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// How many.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }
    /// Whether this drive is among them.
    pub const fn contains(self, drive: DriveIx) -> bool {
        self.0 & Self::only(drive).0 != 0
    }
    /// Adds a drive.
    pub const fn insert(&mut self, drive: DriveIx) {
        self.0 |= Self::only(drive).0;
    }
    /// Takes a drive out.
    pub const fn remove(&mut self, drive: DriveIx) {
        self.0 &= !Self::only(drive).0;
    }
    /// Drives in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Drives in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// Drives of this set that the other lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// The drives, lowest index first.
    pub fn iter(self) -> impl Iterator<Item = DriveIx> {
        (0..MAX_DRIVES as u8).map(DriveIx::new).filter(move |drive| self.contains(*drive))
    }
}

impl FromIterator<DriveIx> for DriveSet {
    fn from_iter<I: IntoIterator<Item = DriveIx>>(drives: I) -> Self {
        let mut set = Self::EMPTY;
        drives.into_iter().for_each(|drive| set.insert(drive));
        set
    }
}

impl fmt::Debug for DriveSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(DriveIx::get)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_behave() {
        let mut set: DriveSet = [0, 31, 4].map(DriveIx::new).into_iter().collect();
        assert_eq!((set.len(), set.bits()), (3, 1 | 1 << 4 | 1 << 31));
        set.remove(DriveIx::new(4));
        assert!(set.contains(DriveIx::new(31)) && !set.contains(DriveIx::new(4)));
        assert_eq!(set.without(DriveSet::only(DriveIx::new(0))), DriveSet::only(DriveIx::new(31)));
        assert_eq!(set.and(DriveSet::from_bits(1)).union(DriveSet::from_bits(2)).bits(), 3);
        assert!(DriveSet::EMPTY.is_empty());
    }
}
