//! `matrix`, outside: each pair of legs, columns, sector size of the drives and kernel occurs in some machine.
//!
//! Six machines cover all pairs of three counts of legs, two of columns, two sector sizes and two kernels; three of
//! them run on each kernel. In each the volume is made, an ext4 on it is written and verified while the serving process
//! is killed, and the power is cut; what is left is opened and judged as in `power-cut`, and booted on.

use super::Session;
use super::power_cut::{Chain, Shape, come_up, one_cut};
use crate::error::Result;
use crate::kernel::Which;
use crate::random::Random;

const FLOOR: [Shape; 3] = [
    Shape { legs: 2, columns: 2, files: true, sector_bytes: 4096, encrypted: false },
    Shape { legs: 1, columns: 1, files: true, sector_bytes: 512, encrypted: true },
    Shape { legs: 3, columns: 1, files: true, sector_bytes: 4096, encrypted: false },
];
const NEWEST: [Shape; 3] = [
    Shape { legs: 3, columns: 2, files: true, sector_bytes: 512, encrypted: true },
    Shape { legs: 1, columns: 2, files: true, sector_bytes: 4096, encrypted: false },
    Shape { legs: 2, columns: 1, files: true, sector_bytes: 512, encrypted: true },
];

/// The host's half.
pub fn run(session: &mut Session<'_>) -> Result<()> {
    let shapes = if session.kernel.which == Which::Floor { FLOOR } else { NEWEST };
    let mut random = Random::new(session.bench.seed);
    for (cut, shape) in (0..session.rounds()).zip(shapes.iter().cycle()) {
        let chain = Chain::new(session, *shape)?;
        // The machine that follows recovers the drives by itself.
        let mut chain = one_cut(session, chain, cut * 2, &mut random)?;
        come_up(session, &mut chain)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Each pair of values of two different properties occurs.
    #[test]
    fn every_pair_occurs() {
        let rows: Vec<[u32; 4]> = [(0, FLOOR), (1, NEWEST)]
            .into_iter()
            .flat_map(|(kernel, shapes)| shapes.map(|s| [s.legs, s.columns, s.sector_bytes, kernel]))
            .collect();
        for (one, other) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            let values = |at: usize| rows.iter().map(|row| row[at]).collect::<BTreeSet<u32>>().len();
            let pairs: BTreeSet<(u32, u32)> = rows.iter().map(|row| (row[one], row[other])).collect();
            assert_eq!(pairs.len(), values(one) * values(other), "properties {one} and {other}");
        }
    }
}
