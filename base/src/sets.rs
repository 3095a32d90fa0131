//! Small sets of things that are counted from 0: the drives of a group, its legs. One bit each.
use crate::limits::{MAX_DRIVES, MAX_LEGS};
use crate::{DriveIx, LegId};
use core::fmt;
use core::marker::PhantomData;

/// What a set can hold.
pub trait Member: Copy {
    /// Its index is below this.
    const LIMIT: usize;
    /// The member with this index.
    fn at(index: u8) -> Self;
    /// Its index.
    fn index(self) -> u8;
}

impl Member for DriveIx {
    const LIMIT: usize = MAX_DRIVES;
    fn at(index: u8) -> Self {
        Self::new(index)
    }
    fn index(self) -> u8 {
        self.get()
    }
}

impl Member for LegId {
    const LIMIT: usize = MAX_LEGS;
    fn at(index: u8) -> Self {
        Self::new(index)
    }
    fn index(self) -> u8 {
        self.get()
    }
}

// A set has 32 bits.
const _: () = assert!(MAX_DRIVES <= 32 && MAX_LEGS <= 32);

/// Drives by their index in the group's drive table.
pub type DriveSet = Set<DriveIx>;
/// Legs.
pub type LegSet = Set<LegId>;

/// A set of drives or of legs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set<T> {
    bits: u32,
    of: PhantomData<T>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self { bits: 0, of: PhantomData }
    }
}

impl<T: Member> Set<T> {
    /// None.
    pub const EMPTY: Self = Self::from_bits(0);

    /// Those whose bits are set. Panics on a bit that none of them has.
    pub const fn from_bits(bits: u32) -> Self {
        assert!((bits as u64) < 1 << T::LIMIT, "no such member");
        Self { bits, of: PhantomData }
    }
    /// One.
    pub fn only(member: T) -> Self {
        assert!(usize::from(member.index()) < T::LIMIT, "no such member");
        Self::from_bits(1 << member.index())
    }
    /// Those with the indexes 0 to `count - 1`.
    pub const fn first(count: usize) -> Self {
        assert!(count <= T::LIMIT, "no such member");
        Self::from_bits(((1u64 << count) - 1) as u32)
    }
    /// One bit for each.
    pub const fn bits(self) -> u32 {
        self.bits
    }
    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.bits == 0
    }
    /// How many.
    pub const fn len(self) -> usize {
        self.bits.count_ones() as usize
    }
    /// Whether this one is among them.
    pub fn contains(self, member: T) -> bool {
        self.bits & Self::only(member).bits != 0
    }
    /// Adds one.
    pub fn insert(&mut self, member: T) {
        self.bits |= Self::only(member).bits;
    }
    /// Takes one out.
    pub fn remove(&mut self, member: T) {
        self.bits &= !Self::only(member).bits;
    }
    /// Those in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self::from_bits(self.bits | other.bits)
    }
    /// Those in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self::from_bits(self.bits & other.bits)
    }
    /// Those of this set that the other lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self::from_bits(self.bits & !other.bits)
    }
    /// All, lowest index first.
    pub fn iter(self) -> impl Iterator<Item = T> {
        (0..T::LIMIT as u8).map(T::at).filter(move |member| self.contains(*member))
    }
}

impl<T: Member> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        let mut set = Self::EMPTY;
        members.into_iter().for_each(|member| set.insert(member));
        set
    }
}

impl<T: Member> fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(T::index)).finish()
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
        assert_eq!(DriveSet::first(32).len(), 32);
        let mut legs = LegSet::first(3);
        legs.remove(LegId::new(1));
        legs.insert(LegId::new(3));
        assert!(legs.iter().map(LegId::get).eq([0, 2, 3]));
        assert_eq!(LegSet::first(4).without(legs), LegSet::only(LegId::new(1)));
        assert!(LegSet::EMPTY.is_empty() && LegSet::default() == LegSet::EMPTY);
    }

    #[test]
    #[should_panic(expected = "no such member")]
    fn a_leg_beyond_the_last_is_refused() {
        let _ = LegSet::only(LegId::new(MAX_LEGS as u8));
    }
}
