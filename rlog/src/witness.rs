//! What the ring of one drive proves about that drive: up to where everything had been flushed on it.
//!
//! A commit says D: everything up to there had been flushed on every drive that was current when the commit was
//! sealed. So a drive that was current then, and holds the commit, holds everything up to D: whatever moment the drive
//! was set back to, it lies behind that flush, or the commit would not be there.
//!
//! Crash story: a drive that is resynced gets commits too, while it lacks most of what their D covers; it became current,
//! failed, and was set back to the middle of its resync. So a commit counts only if it was sealed while the drive was
//! current by the drive's own newest superblock: it is of the activation that wrote that superblock, and names a
//! superblock version not older than the one that made the copy current, and not newer than the one that is there. A
//! version is named once it is durable on every current drive: a commit that names a newer one than the drive has was
//! sealed when the drive was not current any more, which is also so before the version that calls it resyncing
//! has reached it.
//!
//! What cannot be read proves nothing, so that it says less at worst.
use crate::ring::RingShape;
use crate::scan::{Begins, begins};
use base::{BLOCK_BYTES, Column, Gen, Seq, Uuid};

/// Reads one column's ring of one drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Witness {
    /// The group.
    pub group: Uuid,
    /// The activation that wrote the drive's newest superblock: its number and its id.
    pub activation: (Gen, Uuid),
    /// Version of the superblock that made the copy current, and of the drive's newest one.
    pub versions: (u64, u64),
    /// Everything up to here had been flushed on the drive; to begin with, D of its newest superblock.
    pub durable: Seq,
}

impl Witness {
    /// Takes blocks of the ring from `offset` on and returns how many were consumed, like `Scan::feed`.
    pub fn feed(&mut self, shape: &RingShape, column: Column, offset: u32, bytes: &[u8]) -> u32 {
        let mut at = 0;
        while at < (bytes.len() / BLOCK_BYTES) as u32 {
            match begins(shape, column, offset + at, &bytes[at as usize * BLOCK_BYTES..]) {
                Begins::Commit(commit) => {
                    at += commit.blocks();
                    let fields = commit.fields();
                    let of_activation = fields.group == self.group
                        && (fields.generation, fields.history) == self.activation
                        && fields.superblock.generation == self.activation.0;
                    let (first, last) = self.versions;
                    if of_activation && (first..=last).contains(&fields.superblock.version) {
                        self.durable = self.durable.max(fields.durable);
                    }
                }
                Begins::GoesOn => break,
                Begins::Nothing => at += 1,
                Begins::Unreadable(blocks) => at += blocks,
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Piece;
    use crate::{CommitBuilder, Fields, SuperblockId};
    use alloc::vec;
    use alloc::vec::Vec;
    use base::{Blocks, BufId, Check, CommitNo, Memory, Pba, VecMemory, VolumeId};

    const GROUP: Uuid = Uuid([1; 16]);
    const ID: Uuid = Uuid([2; 16]);

    fn shape() -> RingShape {
        RingShape::new(&[Piece { blocks: Blocks::new(64) }], 1)
    }

    fn fields(no: u64, version: u64, durable: u64) -> Fields {
        Fields {
            group: GROUP,
            history: ID,
            generation: Gen::new(3),
            no: CommitNo::new(no),
            offset: no as u32,
            first_seq: Seq::new(1000 + no),
            previous: Check::NONE,
            superblock: SuperblockId { generation: Gen::new(3), version },
            durable: Seq::new(durable),
        }
    }

    fn witness() -> Witness {
        let activation = (Gen::new(3), ID);
        Witness { group: GROUP, activation, versions: (5, 8), durable: Seq::new(7) }
    }

    fn ring(commits: &[Fields]) -> Vec<u8> {
        let mut bytes = vec![0; 64 * BLOCK_BYTES];
        for fields in commits {
            let (mut builder, mut memory) = (CommitBuilder::new(1), VecMemory::new(1));
            builder.start();
            builder.write(VolumeId::ZERO, base::Lba::ZERO, &[(Pba::new(9), Blocks::new(1))], &[Check::NONE]);
            builder.seal(fields, None);
            builder.put(&mut memory, BufId::new(0));
            let at = fields.no.get() as usize * BLOCK_BYTES;
            bytes[at..at + BLOCK_BYTES].copy_from_slice(memory.block(BufId::new(0)));
        }
        bytes
    }

    fn said(commits: &[Fields]) -> u64 {
        let mut witness = witness();
        assert_eq!(witness.feed(&shape(), Column::ZERO, 0, &ring(commits)), 64);
        witness.durable.get()
    }

    #[test]
    fn the_highest_that_was_said_while_the_drive_was_current_counts() {
        assert_eq!(said(&[]), 7, "the superblock's own");
        assert_eq!(said(&[fields(1, 5, 20), fields(2, 8, 40), fields(3, 6, 30)]), 40);
        assert_eq!(said(&[fields(1, 4, 20)]), 7, "it was resynced then");
        assert_eq!(said(&[fields(1, 9, 20)]), 7, "it had been left behind by then");
    }

    #[test]
    fn what_belongs_elsewhere_says_nothing() {
        let good = fields(1, 6, 20);
        let other = Uuid([9; 16]);
        let earlier = SuperblockId { generation: Gen::new(2), version: 6 };
        for bad in [
            Fields { group: other, ..good },
            Fields { history: other, ..good },
            Fields { generation: Gen::new(4), ..good },
            Fields { superblock: earlier, ..good },
            Fields { offset: 5, ..good },
        ] {
            assert_eq!(said(&[bad]), 7, "{bad:?}");
        }
        let mut damaged = ring(&[good]);
        damaged[BLOCK_BYTES + 100] ^= 1;
        let mut witness = witness();
        witness.feed(&shape(), Column::ZERO, 0, &damaged);
        assert_eq!(witness.durable.get(), 7);
    }

    #[test]
    fn it_is_fed_in_parts() {
        let bytes = ring(&[fields(1, 6, 20), fields(40, 6, 50)]);
        let mut witness = witness();
        let mut at = 0;
        while at < 64 {
            let end = (at + 3).min(64) as usize;
            at += witness.feed(
                &shape(),
                Column::ZERO,
                at,
                &bytes[at as usize * BLOCK_BYTES..end * BLOCK_BYTES],
            );
        }
        assert_eq!(witness.durable.get(), 50);
    }
}
