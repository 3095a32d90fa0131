//! Randomness from a seed: xoshiro256++ started by splitmix64.
//!
//! Written here, so that a seed means the same run in every version of every library.

/// A source of numbers that follow from its seed alone.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

/// The next output of splitmix64; also a good mixer of one number.
pub fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        Self { state: [splitmix(&mut mix), splitmix(&mut mix), splitmix(&mut mix), splitmix(&mut mix)] }
    }

    /// A stream of its own: what is drawn from it does not shift this one (but by one number).
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.number())
    }

    /// Any 64 bits.
    pub fn number(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `end` (which is at least 1).
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "nothing is below 0");
        ((u128::from(self.number()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        assert!(first <= last, "{first} to {last} is empty");
        first + self.below(last - first + 1)
    }

    /// True `times` times in `of`.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// An index, as often as its weight says.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut at = self.below(total);
        for (i, weight) in weights.iter().enumerate() {
            if at < u64::from(*weight) {
                return i;
            }
            at -= u64::from(*weight);
        }
        unreachable!("the draw is below the sum of the weights")
    }

    /// Fills the slice.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.number().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// Sixteen bytes, for identities and salts.
    pub fn bytes16(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for _ in 0..100 {
            assert_eq!(a.number(), b.number());
        }
        assert_ne!(Rng::new(7).number(), Rng::new(8).number());
    }

    #[test]
    fn draws_stay_in_their_bounds_and_reach_them() {
        let mut rng = Rng::new(1);
        let mut seen = [false; 5];
        for _ in 0..1000 {
            let n = rng.between(3, 7);
            assert!((3..=7).contains(&n));
            seen[(n - 3) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert!((0..1000).all(|_| rng.weighted(&[0, 3, 0]) == 1));
    }
}
