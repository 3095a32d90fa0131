//! What the workload writes: every sector names the write, the sector and the run that it belongs to.
//!
//! The whole sector follows from the stamp, so that a checker recognises from any sector exactly which write it
//! is, and takes anything else for what it is: noise.
use base::SECTOR_BYTES;

/// Bytes of a sector behind the words that name the write.
const TAIL_BYTES: usize = SECTOR_BYTES - 24;
/// The first word of every stamp, before the run's seed is mixed in.
const MAGIC: u64 = 0x504c_494e_5448_5349;

/// Number of a write of a run; 0 is the absence of data (zeroes).
pub type WriteId = u32;

/// What a sector turns out to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Zeroes.
    Zero,
    /// A sector that this run wrote.
    Stamp {
        /// Which write.
        write: WriteId,
        /// For which sector.
        sector: u64,
    },
    /// Anything else.
    Noise,
}

/// Fills a sector with its stamp.
pub fn put(bytes: &mut [u8], seed: u64, sector: u64, write: WriteId) {
    assert!(bytes.len() == SECTOR_BYTES && write != 0);
    let step = step_of(seed, sector, write);
    let (head, tail) = bytes.split_at_mut(24);
    head[..8].copy_from_slice(&(MAGIC ^ seed).to_le_bytes());
    head[8..16].copy_from_slice(&sector.to_le_bytes());
    head[16..].copy_from_slice(&u64::from(write).to_le_bytes());
    tail.copy_from_slice(&tail_of(step));
}

/// What follows the three words that name the write: multiples of one number.
fn tail_of(step: u64) -> [u8; TAIL_BYTES] {
    let mut tail = [0; TAIL_BYTES];
    let mut word = step;
    for chunk in tail.as_chunks_mut::<8>().0 {
        *chunk = word.to_le_bytes();
        word = word.wrapping_add(step);
    }
    tail
}

/// Recognises a sector.
pub fn see(bytes: &[u8], seed: u64) -> Seen {
    assert!(bytes.len() == SECTOR_BYTES);
    let word = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
    if word(0) == 0 {
        return if base::codec::is_zero(bytes) { Seen::Zero } else { Seen::Noise };
    }
    let (sector, write) = (word(1), word(2));
    let known = word(0) == MAGIC ^ seed && write != 0 && write <= u64::from(WriteId::MAX);
    // Most sectors that a campaign looks at are right, so all of one is compared at once.
    let right = known && bytes[24..] == tail_of(step_of(seed, sector, write as WriteId));
    if right { Seen::Stamp { write: write as WriteId, sector } } else { Seen::Noise }
}

fn step_of(seed: u64, sector: u64, write: WriteId) -> u64 {
    let mut state = seed ^ sector.rotate_left(32) ^ u64::from(write);
    simkit::rng::splitmix(&mut state) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_recognised_and_any_flipped_bit_is_noise() {
        let mut bytes = [0; SECTOR_BYTES];
        assert_eq!(see(&bytes, 5), Seen::Zero);
        put(&mut bytes, 5, 77, 3);
        assert_eq!(see(&bytes, 5), Seen::Stamp { write: 3, sector: 77 });
        assert_eq!(see(&bytes, 6), Seen::Noise);
        for bit in 0..SECTOR_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(see(&bytes, 5), Seen::Noise, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
