//! What every sector may hold: the last acknowledged write, or one that was in flight when the process was killed.
//!
//! Versions are numbers in the order of sending. Requests that overlap are served in that order, so of what was in
//! flight anything that is newer than the last acknowledged version may be there, nothing older. A block is never
//! torn: where a write covered several sectors of a block, it is in all of them or in none, unless something newer
//! is. The first read after a kill settles what is there; from then on it must stay.
use std::collections::HashMap;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
const SECTORS_PER_BLOCK: u64 = 8;

/// A request that changes sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Its version.
    pub version: u64,
    /// First sector.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
    /// They read as zeroes.
    pub zeroes: bool,
}

impl Change {
    fn covers(&self, sector: u64) -> bool {
        (self.sector..self.sector + self.sectors).contains(&sector)
    }
}

/// What one sector holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Held {
    version: u64,
    zeroes: bool,
}

/// The oracle of one volume.
pub struct Oracle {
    held: Vec<Held>,
    /// Sent and not acknowledged, by version.
    in_flight: HashMap<u64, Change>,
    last: u64,
}

impl Oracle {
    /// A new volume: zeroes.
    pub fn new(sectors: u64) -> Self {
        let held = vec![Held { version: 0, zeroes: true }; sectors as usize];
        Self { held, in_flight: HashMap::new(), last: 0 }
    }

    /// Sectors of the volume.
    pub fn sectors(&self) -> u64 {
        self.held.len() as u64
    }

    /// A change is about to be sent.
    pub fn begin(&mut self, sector: u64, sectors: u64, zeroes: bool) -> Change {
        self.last += 1;
        let change = Change { version: self.last, sector, sectors, zeroes };
        self.in_flight.insert(self.last, change);
        change
    }

    /// A change was acknowledged.
    pub fn acknowledged(&mut self, version: u64) {
        let change = self.in_flight.remove(&version).expect("it was sent");
        for held in &mut self.held[change.sector as usize..(change.sector + change.sectors) as usize] {
            if held.version < version {
                *held = Held { version, zeroes: change.zeroes };
            }
        }
    }

    /// Content of a change.
    pub fn content(change: &Change) -> Vec<u8> {
        let mut bytes = vec![0; change.sectors as usize * SECTOR];
        for (i, sector) in bytes.chunks_exact_mut(SECTOR).enumerate() {
            for unit in sector.chunks_exact_mut(16) {
                unit[..8].copy_from_slice(&(change.sector + i as u64).to_le_bytes());
                unit[8..].copy_from_slice(&change.version.to_le_bytes());
            }
        }
        bytes
    }

    /// What was read from `sector` on after the process had been killed: settles it, or says what is wrong.
    ///
    /// # Errors
    /// A sentence that names the sector, what it holds and what it may hold.
    pub fn settle(&mut self, sector: u64, bytes: &[u8]) -> Result<(), String> {
        let mut found = Vec::new();
        for (i, content) in bytes.chunks_exact(SECTOR).enumerate() {
            found.push(self.identify(sector + i as u64, content)?);
        }
        for (i, held) in found.iter().enumerate() {
            self.whole(sector, i, *held, &found)?;
        }
        self.held[sector as usize..sector as usize + found.len()].copy_from_slice(&found);
        Ok(())
    }

    /// Everything was read: what was in flight is decided.
    pub fn settled(&mut self) {
        self.in_flight.clear();
    }

    fn identify(&self, sector: u64, content: &[u8]) -> Result<Held, String> {
        let now = self.held[sector as usize];
        let newer = self.in_flight.values().filter(|c| c.covers(sector) && c.version > now.version);
        let mut allowed: Vec<Held> = newer.map(|c| Held { version: c.version, zeroes: c.zeroes }).collect();
        allowed.push(now);
        if content.iter().all(|byte| *byte == 0) {
            let zero = allowed.iter().filter(|held| held.zeroes).max_by_key(|held| held.version);
            return zero.copied().ok_or_else(|| format!("sector {sector} is zero, it may hold {allowed:?}"));
        }
        let unit = &content[..16];
        let number = |at: usize| u64::from_le_bytes(unit[at..at + 8].try_into().expect("eight bytes"));
        if content.chunks_exact(16).any(|other| other != unit) {
            return Err(format!("sector {sector} is torn or garbage"));
        }
        let held = Held { version: number(8), zeroes: false };
        if number(0) != sector || !allowed.contains(&held) {
            let (of, version) = (number(0), number(8));
            return Err(format!(
                "sector {sector} holds version {version} of sector {of}, it may hold {allowed:?}"
            ));
        }
        Ok(held)
    }

    /// Whether a change that is in one sector of a block is in all that it covered there.
    fn whole(&self, first: u64, i: usize, held: Held, found: &[Held]) -> Result<(), String> {
        // Zeroes have no version on them: which request left them is a guess that must not accuse anybody.
        let Some(change) = self.in_flight.get(&held.version).filter(|change| !change.zeroes) else {
            return Ok(());
        };
        let sector = first + i as u64;
        let block = sector / SECTORS_PER_BLOCK * SECTORS_PER_BLOCK;
        for other in (block..block + SECTORS_PER_BLOCK).filter(|other| change.covers(*other)) {
            let Some(there) = other.checked_sub(first).and_then(|at| found.get(at as usize)) else {
                continue;
            };
            if there.version < held.version {
                return Err(format!(
                    "the block of sector {sector} is torn: version {} is there, at {other} {there:?}",
                    held.version
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_writes_must_stay_and_those_in_flight_may() {
        let mut oracle = Oracle::new(64);
        let first = oracle.begin(8, 8, false);
        oracle.acknowledged(first.version);
        let second = oracle.begin(8, 8, false);
        assert!(oracle.settle(8, &vec![0; 4096]).is_err(), "lost");
        let mut torn = Oracle::content(&first);
        torn[..SECTOR].copy_from_slice(&Oracle::content(&second)[..SECTOR]);
        assert!(oracle.settle(8, &torn).is_err(), "torn");
        assert!(oracle.settle(16, &Oracle::content(&first)).is_err(), "misplaced");
        assert_eq!(oracle.settle(8, &Oracle::content(&second)), Ok(()));
        oracle.settled();
        assert!(oracle.settle(8, &Oracle::content(&first)).is_err(), "it was read: it must stay");
    }
}
