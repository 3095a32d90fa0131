//! Activations: who serves a group from now on, and how what they write is ordered.
//!
//! Crash story: two nodes that open the same group one after the other must never write under the same number,
//! though the first may have written where the second cannot look. So the number of a new activation is higher
//! than any found, the catalogue's compare-and-swap decides between two that found the same, and a random id
//! tells apart those that got the same number because no catalogue could be asked.
use base::{Gen, Uuid};

/// An activation of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Activation {
    /// Its number.
    pub generation: Gen,
    /// Its random id.
    pub id: Uuid,
    /// Salt of its keys; zero in plain groups.
    pub salt: [u8; 16],
}

impl Activation {
    /// Superblock versions of one activation at most, as a power of two: four billion.
    pub const VERSION_BITS: u32 = 32;

    /// The version of this activation's first superblock, when `newest` is the highest version found anywhere.
    /// Every version of an activation is higher than every version of an older one, also than those that this
    /// one could not see, so a plain comparison of versions orders the states of copies over activations: a
    /// state that an older activation wrote down on a drive that is absent now, and that nobody relied on
    /// because the catalogue never heard of it, does not outlive the next activation.
    pub fn first_version(&self, newest: u64) -> u64 {
        let start = self.generation.get().checked_shl(Self::VERSION_BITS).filter(|v| *v != 0);
        let start = start.filter(|v| v >> Self::VERSION_BITS == self.generation.get());
        start.expect("an activation has a number below 2^32 and above 0").max(newest.saturating_add(1))
    }
}

/// No number is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted;

/// The highest activation number found anywhere: in superblocks on any drive of the group (stale ones too), in
/// commits, in the catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Generations {
    highest: Gen,
}

impl Generations {
    /// Nothing found yet; the first activation of a group is number 1.
    pub const fn new() -> Self {
        Self { highest: Gen::ZERO }
    }
    /// Takes note of a number that was found.
    pub fn found(&mut self, generation: Gen) {
        self.highest = self.highest.max(generation);
    }
    /// The highest.
    pub const fn highest(&self) -> Gen {
        self.highest
    }
    /// The number of the next activation. To be claimed in the catalogue, then durable in a superblock on every
    /// current drive, before the first write.
    pub fn next(&self) -> Result<Gen, Exhausted> {
        let next = self.highest.get().checked_add(1).ok_or(Exhausted)?;
        if next >> (64 - Activation::VERSION_BITS) == 0 { Ok(Gen::new(next)) } else { Err(Exhausted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_is_higher_than_any_found() {
        let mut found = Generations::new();
        assert_eq!(found.next(), Ok(Gen::new(1)));
        for generation in [3, 9, 2] {
            found.found(Gen::new(generation));
        }
        assert_eq!((found.highest(), found.next()), (Gen::new(9), Ok(Gen::new(10))));
        found.found(Gen::new(u64::from(u32::MAX)));
        assert_eq!(found.next(), Err(Exhausted));
        found.found(Gen::new(u64::MAX));
        assert_eq!(found.next(), Err(Exhausted));
    }

    #[test]
    fn versions_of_a_later_activation_are_higher() {
        let activation = |n| Activation { generation: Gen::new(n), id: Uuid::NIL, salt: [0; 16] };
        assert_eq!(activation(1).first_version(0), 1 << 32);
        let unseen = activation(4).first_version(0) + 1_000_000;
        assert!(activation(5).first_version(77) > unseen);
        assert_eq!(activation(1).first_version(9 << 32), (9 << 32) + 1);
    }
}
