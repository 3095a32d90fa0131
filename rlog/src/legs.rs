//! A set of legs.
use base::LegId;
use base::limits::MAX_LEGS;
use core::fmt;

/// A set of legs, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LegSet(u8);

const _: () = assert!(MAX_LEGS <= 8);

impl LegSet {
    /// No leg.
    pub const EMPTY: Self = Self(0);

    /// The legs whose bits are set. Panics on a bit beyond `MAX_LEGS`.
    pub const fn from_bits(bits: u8) -> Self {
        assert!((bits as usize) < (1 << MAX_LEGS), "no such leg");
        Self(bits)
    }
    /// One leg.
    pub const fn only(leg: LegId) -> Self {
        assert!((leg.get() as usize) < MAX_LEGS, "no such leg");
        Self(1 << leg.get())
    }
    /// Legs 0 to `count - 1`.
    pub const fn first(count: usize) -> Self {
        assert!(count <= MAX_LEGS, "no such leg");
        Self(((1u16 << count) - 1) as u8)
    }
    /// One bit for each leg.
    pub const fn bits(self) -> u8 {
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
    /// Whether this leg is among them.
    pub const fn contains(self, leg: LegId) -> bool {
        self.0 & Self::only(leg).0 != 0
    }
    /// Adds a leg.
    pub const fn insert(&mut self, leg: LegId) {
        self.0 |= Self::only(leg).0;
    }
    /// Takes a leg out.
    pub const fn remove(&mut self, leg: LegId) {
        self.0 &= !Self::only(leg).0;
    }
    /// Legs in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Legs in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// Legs of this set that the other lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// The legs, lowest first.
    pub fn iter(self) -> impl Iterator<Item = LegId> {
        (0..MAX_LEGS as u8).map(LegId::new).filter(move |leg| self.contains(*leg))
    }
}

impl fmt::Debug for LegSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(LegId::get)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_behave() {
        let mut set = LegSet::first(3);
        set.remove(LegId::new(1));
        assert_eq!(set.bits(), 0b101);
        set.insert(LegId::new(3));
        assert_eq!(set.iter().map(LegId::get).collect::<std::vec::Vec<_>>(), [0, 2, 3]);
        assert_eq!(LegSet::first(4).without(set), LegSet::only(LegId::new(1)));
        assert_eq!(set.and(LegSet::first(2)).union(LegSet::only(LegId::new(1))), LegSet::first(2));
        assert_eq!((set.len(), LegSet::EMPTY.is_empty()), (3, true));
    }
}
