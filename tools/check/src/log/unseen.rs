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
