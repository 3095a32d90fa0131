//! Recovery's reading of the ring: which commits are there, and which of them are the log.
//!
//! Every block of the ring is read on every leg, whatever the superblock says about where the log begins and
//! ends, because D must be known before anything is judged: D is the highest that any valid commit names, also
//! one behind the chain's end. What is found is of four kinds: the log after the checkpoint; commits before the
//! checkpoint, not overwritten yet; the cut tail of an older activation, whose numbers the newer ones took again;
//! and torn, rotten or misdirected blocks. Only the first kind counts, and it is told from the others by the
//! chain: owner of the number, number, check of the commit before.
//!
//! Invariants of a chain: each accepted commit is intact on a leg, is of its number's owner, and names the check
//! of the commit before it, be that accepted or voided; every void that was applied comes from an accepted
//! commit of the same chain.
use crate::commit::{Bad, Commit, CommitView, Fields, SuperblockId, Unseal, VoidOf};
use crate::history::History;
use crate::ring::{Positions, RingShape};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use base::LegSet;
use base::{BLOCK_BYTES, Check, Column, CommitNo, LegId, Seq, Uuid};

/// A commit that was found intact on at least one leg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// What it says of itself.
    pub fields: Fields,
    /// Its check.
    pub check: Check,
    /// How many Seqs it takes.
    pub seqs: u32,
    /// Its column; its offset is in `fields`.
    pub column: Column,
    /// Its length.
    pub blocks: u32,
    /// The legs on which it is intact.
    pub legs: LegSet,
    /// The commits that it voids; none if its records are sealed.
    pub voids: Vec<VoidOf>,
    /// How many commits it voids: its header tells, also to whoever sees no records.
    pub void_count: u16,
}

impl Candidate {
    /// The Seq after the last that it takes.
    pub const fn next_seq(&self) -> Seq {
        Seq::new(self.fields.first_seq.get() + self.seqs as u64)
    }
    /// Whether D covers it: everything it records was durable on all legs that were current. One without a Seq
    /// is covered if the Seq that would have come next is.
    pub fn at_or_below(&self, durable: Seq) -> bool {
        let last = if self.seqs == 0 { self.fields.first_seq.get() } else { self.next_seq().get() - 1 };
        last <= durable.get()
    }
}

/// Where a chain begins: what the superblock that recovery found says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainStart {
    /// Number of the first commit that the checkpoint does not cover.
    pub next: CommitNo,
    /// Check of the last commit that it covers.
    pub previous: Check,
    /// The Seq after the checkpoint's.
    pub next_seq: Seq,
    /// D of the superblock.
    pub durable: Seq,
    /// That superblock.
    pub superblock: SuperblockId,
    /// From where each column's commits are kept.
    pub tails: Positions,
}

/// The log after the checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Indices into `Scan::candidates`, in order.
    pub accepted: Vec<usize>,
    /// Commits that were skipped because an accepted one voids them, in order.
    pub voided: Vec<VoidOf>,
    /// The number after the last: that of the first commit that is missing or not yet written.
    pub next: CommitNo,
    /// The check that the commit with that number names.
    pub previous: Check,
    /// The next Seq.
    pub next_seq: Seq,
    /// D: the highest in any valid commit or the superblock.
    pub durable: Seq,
    /// Where the next commit of each column would go.
    pub heads: Positions,
    /// Set if D covers the commit at which the chain ends: what was acknowledged is missing. Refuse to open.
    pub missing_below_d: Option<CommitNo>,
    /// Set if a commit names a superblock newer than the one that was found: that one must be got from
    /// another leg, or refuse to open.
    pub newer_superblock: Option<SuperblockId>,
}

/// A rule of the chain that a planted bug leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ignored {
    /// The check of the commit before.
    Previous,
    /// The owner of the number.
    Owner,
    /// Voids.
    Voids,
}

/// What begins at a block of the ring.
pub(crate) enum Begins<'a> {
    /// A commit that says that it lies here.
    Commit(CommitView<'a>),
    /// A commit, it seems, that goes on behind the bytes that are there.
    GoesOn,
    /// Nothing that looks like a commit.
    Nothing,
    /// So many blocks that look like one and are none, or lie where they do not belong.
    Unreadable(u32),
}

/// Looks at the first block of these bytes, which lie at `offset` of a column's ring.
pub(crate) fn begins<'a>(shape: &RingShape, column: Column, offset: u32, bytes: &'a [u8]) -> Begins<'a> {
    let left = shape.left_in_piece(offset);
    match Commit::parse(bytes) {
        Ok(commit) => {
            let fields = commit.fields();
            let elsewhere =
                fields.offset != offset || shape.column_of(fields.no) != column || commit.blocks() > left;
            if elsewhere { Begins::Unreadable(commit.blocks()) } else { Begins::Commit(commit) }
        }
        // A length that would leave the piece was never written: the header is not one.
        Err(Bad::Short(blocks)) if blocks <= left => Begins::GoesOn,
        Err(Bad::NotACommit) => Begins::Nothing,
        Err(_) => Begins::Unreadable(1),
    }
}

/// Collects what is on the ring.
pub struct Scan {
    #[cfg(feature = "planted")]
    ignored: u8,
    group: Uuid,
    shape: RingShape,
    legs: usize,
    found: Vec<Candidate>,
    index: BTreeMap<(Column, u32, [u8; 16]), usize>,
    unreadable: u64,
    /// The newest superblock that is named by commits which are whole, and which no key at hand opens.
    named: Option<SuperblockId>,
    /// Where a commit is opened, whose bytes are the caller's.
    scratch: Vec<u8>,
}

impl Scan {
    /// Nothing read yet of this group's ring on so many legs.
    pub fn new(group: Uuid, shape: RingShape, legs: usize) -> Self {
        let found = Vec::new();
        Self {
            #[cfg(feature = "planted")]
            ignored: 0,
            group,
            shape,
            legs,
            found,
            index: BTreeMap::new(),
            unreadable: 0,
            named: None,
            scratch: Vec::new(),
        }
    }

    /// Plants a bug.
    #[cfg(feature = "planted")]
    pub fn ignore(&mut self, rule: Ignored) {
        self.ignored |= 1 << rule as u8;
    }

    #[cfg(feature = "planted")]
    fn ignores(&self, rule: Ignored) -> bool {
        self.ignored & (1 << rule as u8) != 0
    }

    #[cfg(not(feature = "planted"))]
    #[inline(always)]
    const fn ignores(&self, _: Ignored) -> bool {
        false
    }

    /// Takes blocks of one leg's column from `offset` on and returns how many were consumed. A commit that
    /// goes on behind the last of them is left: the next call starts with its first block. Reading
    /// `MAX_COMMIT_BLOCKS` or up to the end of the piece always gets on. The blocks must not go beyond the end
    /// of the ring; a block that cannot be read is fed as anything but a commit.
    ///
    /// A commit counts only if `keys` open it: one that somebody made who has no key is as good as damaged.
    pub fn feed(
        &mut self,
        keys: &mut dyn Unseal,
        leg: LegId,
        column: Column,
        offset: u32,
        bytes: &[u8],
    ) -> usize {
        assert!(bytes.len().is_multiple_of(BLOCK_BYTES), "whole blocks");
        assert!(usize::from(leg.get()) < self.legs && usize::from(column.get()) < self.shape.columns());
        let count = bytes.len() / BLOCK_BYTES;
        let mut at = 0;
        while at < count {
            let here = offset + at as u32;
            match begins(&self.shape, column, here, &bytes[at * BLOCK_BYTES..]) {
                Begins::Commit(commit) => {
                    let from = at * BLOCK_BYTES;
                    at += commit.blocks() as usize;
                    // Legs that have the same bytes have the same commit: it is opened once.
                    let known = self.index.get(&(column, here, commit.check().0)).copied();
                    match known {
                        Some(known) => self.found[known].legs.insert(leg),
                        None => self.note(keys, leg, (column, here), &bytes[from..at * BLOCK_BYTES]),
                    }
                }
                Begins::GoesOn => return at,
                Begins::Nothing => at += 1,
                Begins::Unreadable(blocks) => {
                    self.unreadable += 1;
                    at += blocks as usize;
                }
            }
        }
        at
    }

    fn note(&mut self, keys: &mut dyn Unseal, leg: LegId, (column, offset): (Column, u32), bytes: &[u8]) {
        self.scratch.clear();
        self.scratch.extend_from_slice(bytes);
        let Ok(commit) = Commit::open(&mut self.scratch, keys) else {
            self.unreadable += 1;
            // Whole, and of an activation whose keys nobody has: its line may be in the superblock that it names.
            if let Ok(commit) = Commit::parse(bytes)
                && commit.fields().group == self.group
            {
                self.named = self.named.max(Some(commit.fields().superblock));
            }
            return;
        };
        let fields = *commit.fields();
        if fields.group != self.group {
            self.unreadable += 1;
            return;
        }
        let mut legs = LegSet::EMPTY;
        legs.insert(leg);
        self.index.insert((column, offset, commit.check().0), self.found.len());
        self.found.push(Candidate {
            fields,
            check: commit.check(),
            seqs: commit.seqs(),
            column,
            blocks: commit.blocks(),
            legs,
            voids: if commit.is_sealed() { Vec::new() } else { commit.voids().collect() },
            void_count: commit.void_count(),
        });
    }

    /// All that was found, in no order.
    pub fn candidates(&self) -> &[Candidate] {
        &self.found
    }
    /// Blocks that began like a commit but were none, or not one of this group and place.
    pub const fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// The log after the checkpoint, as far as its commits can be read.
    pub fn chain(&self, start: &ChainStart, history: &History) -> Chain {
        self.chain_before(start, history, CommitNo::new(u64::MAX))
    }

    /// The same, but ending before commit `limit` at the latest: for when the data of that commit turned out
    /// to be incomplete above D. A void does not survive the commit that names it, so the chain may end
    /// earlier than `limit`, and a commit that was skipped may be part of it now.
    pub fn chain_before(&self, start: &ChainStart, history: &History, limit: CommitNo) -> Chain {
        let valid = self.valid(history);
        let mut limit = limit;
        loop {
            let chain = self.walk(start, &valid, limit);
            // Voids count only if the commit that names them was reached. A void that was not must not even
            // have cancelled another, so the highest is taken away first and everything is walked again;
            // there are never more of them behind a chain's end than commits in flight, and seldom any.
            match self.highest_namer(&valid, limit) {
                Some(namer) if namer >= chain.next => limit = namer,
                _ => return self.judge(chain, start, &valid),
            }
        }
    }

    /// Indices of the commits of the group's history, lowest number first.
    fn valid(&self, history: &History) -> Vec<usize> {
        let owned = |c: &Candidate| {
            history.owns(c.fields.generation, c.fields.history, c.fields.no) || self.ignores(Ignored::Owner)
        };
        let mut valid: Vec<usize> = (0..self.found.len()).filter(|i| owned(&self.found[*i])).collect();
        valid.sort_by_key(|i| (self.found[*i].fields.no, self.found[*i].check.0));
        valid
    }

    /// The voids in force below `limit`, by the commit they name. Highest namer first, because a void does not
    /// count if its own commit is voided.
    fn voids(&self, valid: &[usize], limit: CommitNo) -> BTreeMap<CommitNo, Check> {
        let mut voids: BTreeMap<CommitNo, Check> = BTreeMap::new();
        if self.ignores(Ignored::Voids) {
            return voids;
        }
        for candidate in valid.iter().rev().map(|i| &self.found[*i]).filter(|c| c.fields.no < limit) {
            if voids.get(&candidate.fields.no) == Some(&candidate.check) {
                continue;
            }
            for void in &candidate.voids {
                voids.entry(void.commit).or_insert(void.check);
            }
        }
        voids
    }

    /// The highest number below `limit` of a commit that names a void.
    fn highest_namer(&self, valid: &[usize], limit: CommitNo) -> Option<CommitNo> {
        let below = valid.iter().rev().map(|i| &self.found[*i]).filter(|c| c.fields.no < limit);
        below.into_iter().find(|c| !c.voids.is_empty()).map(|c| c.fields.no)
    }

    fn walk(&self, start: &ChainStart, valid: &[usize], limit: CommitNo) -> Chain {
        let voids = self.voids(valid, limit);
        let mut chain = Chain {
            accepted: Vec::new(),
            voided: Vec::new(),
            next: start.next,
            previous: start.previous,
            next_seq: start.next_seq,
            durable: start.durable,
            heads: start.tails,
            missing_below_d: None,
            newer_superblock: None,
        };
        while chain.next < limit {
            if let Some(check) = voids.get(&chain.next) {
                chain.voided.push(VoidOf { commit: chain.next, check: *check });
                chain.previous = *check;
            } else if let Some(index) = self.successor(&chain, valid) {
                let candidate = &self.found[index];
                chain.accepted.push(index);
                chain.previous = candidate.check;
                chain.next_seq = candidate.next_seq();
                let end = self.shape.advance(candidate.fields.offset, candidate.blocks);
                chain.heads.0[usize::from(candidate.column.get())] = end;
            } else {
                break;
            }
            chain.next = chain.next.next();
        }
        chain
    }

    /// The valid commit that continues the chain.
    fn successor(&self, chain: &Chain, valid: &[usize]) -> Option<usize> {
        let first = valid.partition_point(|i| self.found[*i].fields.no < chain.next);
        let same = valid[first..].iter().copied().take_while(|i| self.found[*i].fields.no == chain.next);
        same.into_iter().find(|i| {
            let fields = &self.found[*i].fields;
            (fields.previous == chain.previous || self.ignores(Ignored::Previous))
                && fields.first_seq >= chain.next_seq
        })
    }

    fn judge(&self, mut chain: Chain, start: &ChainStart, valid: &[usize]) -> Chain {
        let named = valid.iter().map(|i| self.found[*i].fields.durable).max();
        chain.durable = start.durable.max(named.unwrap_or(Seq::ZERO));
        if chain.next_seq <= chain.durable {
            chain.missing_below_d = Some(chain.next);
        }
        // Also of commits whose owner is not in the history that was found: the line that owns them may be in
        // that very superblock.
        let newest = self.found.iter().map(|c| c.fields.superblock).max().max(self.named);
        chain.newer_superblock = newest.filter(|named| *named > start.superblock);
        chain
    }
}

#[cfg(test)]
mod tests;
