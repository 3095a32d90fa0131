//! The chain of an encrypted group's log, for whoever has no keys.
//!
//! A commit that could not complete is named by a void in a later one, and its place on the ring may hold anything. Which
//! commits are voided is sealed; how many each commit voids is in its header. So where the chain finds no commit, it goes
//! on behind as many missing ones as later commits void: what is missing beyond that is missing.
use base::{Check, CommitNo};
use rlog::{Candidate, Chain, ChainStart, History, Scan, VoidOf};

/// The chain before `limit`, with what is taken for voided.
pub(super) fn chain_before(scan: &Scan, start: &ChainStart, history: &History, limit: CommitNo) -> Chain {
    let mut chain = scan.chain_before(start, history, limit);
    while let Some(behind) = behind_voided(scan, history, &chain, limit) {
        let on = ChainStart {
            next: behind.fields.no,
            previous: behind.fields.previous,
            next_seq: chain.next_seq,
            tails: chain.heads,
            ..*start
        };
        let rest = scan.chain_before(&on, history, limit);
        let skipped = chain.next.get()..behind.fields.no.get();
        let mut voided = std::mem::take(&mut chain.voided);
        voided.extend(skipped.map(|no| VoidOf { commit: CommitNo::new(no), check: Check::NONE }));
        let accepted = [std::mem::take(&mut chain.accepted), rest.accepted.clone()].concat();
        chain = Chain { accepted, voided, ..rest };
    }
    chain
}

/// The first commit behind those that are missing, if as many as are missing are voided from there on.
fn behind_voided<'s>(
    scan: &'s Scan,
    history: &History,
    chain: &Chain,
    limit: CommitNo,
) -> Option<&'s Candidate> {
    let behind = || {
        scan.candidates().iter().filter(|commit| {
            let fields = &commit.fields;
            fields.no > chain.next
                && fields.no < limit
                && fields.first_seq >= chain.next_seq
                && history.owns(fields.generation, fields.history, fields.no)
        })
    };
    let first = behind().min_by_key(|commit| commit.fields.no)?;
    let void: u64 = behind().map(|commit| u64::from(commit.void_count)).sum();
    let missing = first.fields.no.get() - chain.next.get();
    (missing <= void).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{
        Aead, Blocks, BufId, Ciphers, Column, Gen, Lba, LegId, Memory, Seq, Uuid, VecMemory, VolumeId,
    };
    use rlog::{CommitBuilder, Fields, Line, Outside, Piece, Positions, RingShape, SuperblockId};
    use volume::keys::portable::Portable;

    const GROUP: Uuid = Uuid([9; 16]);
    const ID: Uuid = Uuid([1; 16]);

    /// A ring of one column with five commits; the last voids commit 1 or none, and those of `missing` are not there.
    fn chain(voids: bool, missing: &[u64]) -> Chain {
        let shape = RingShape::new(&[Piece { blocks: Blocks::new(64) }], 1);
        let mut scan = Scan::new(GROUP, shape, 1);
        let mut cipher: Box<dyn Aead> = Portable.cipher();
        cipher.set_key(&[7; 32]);
        let (mut memory, mut builder, mut previous) = (VecMemory::new(1), CommitBuilder::new(1), Check::NONE);
        let mut seq = 1;
        for no in 0..5u64 {
            builder.start();
            builder.hole(VolumeId::new(1), Lba::new(no), Blocks::new(1));
            if voids && no == 4 {
                builder.void(CommitNo::new(1), Check([5; 16]));
            }
            let fields = Fields {
                group: GROUP,
                history: ID,
                generation: Gen::new(1),
                no: CommitNo::new(no),
                offset: no as u32,
                first_seq: Seq::new(seq),
                previous,
                superblock: SuperblockId { generation: Gen::new(1), version: 1 },
                durable: Seq::ZERO,
            };
            let sealed = builder.seal(&fields, Some(&mut *cipher));
            (previous, seq) = (sealed.check, seq + 1);
            builder.put(&mut memory, BufId::new(0));
            if !missing.contains(&no) {
                let bytes = memory.blocks(BufId::new(0), 1);
                scan.feed(&mut Outside, LegId::ZERO, Column::ZERO, no as u32, bytes);
            }
        }
        let mut history = History::new();
        let line = Line { first_seq: Seq::new(1), generation: Gen::new(1), id: ID, ..Line::NONE };
        history.append(line).expect("the first");
        let start = ChainStart {
            next: CommitNo::ZERO,
            previous: Check::NONE,
            next_seq: Seq::new(1),
            durable: Seq::new(5),
            superblock: SuperblockId { generation: Gen::new(1), version: 1 },
            tails: Positions::default(),
        };
        chain_before(&scan, &start, &history, CommitNo::new(u64::MAX))
    }

    #[test]
    fn as_many_commits_may_be_missing_as_later_ones_void() {
        let whole = chain(true, &[]);
        assert_eq!((whole.accepted.len(), whole.voided.len(), whole.missing_below_d), (5, 0, None));
        let voided = chain(true, &[1]);
        assert_eq!((voided.accepted.len(), voided.missing_below_d), (4, None));
        assert_eq!(voided.voided.iter().map(|void| void.commit.get()).collect::<Vec<_>>(), [1]);
        let not_voided = chain(false, &[1]);
        assert_eq!((not_voided.accepted.len(), not_voided.missing_below_d), (1, Some(CommitNo::new(1))));
        let too_many = chain(true, &[1, 2]);
        assert_eq!((too_many.accepted.len(), too_many.missing_below_d), (1, Some(CommitNo::new(1))));
        // A commit that nothing follows is the end of the log, and D says that it may not end there.
        assert_eq!(chain(true, &[4]).missing_below_d, Some(CommitNo::new(4)));
    }
}
