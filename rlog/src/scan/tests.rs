//! A writer that loses what a drive may lose, and an oracle that knows from the writer, not from the bytes, what
//! must be found. What the oracle does not check: data blocks (the log has none) and the sizes of records.
use super::*;
use crate::builder::{CommitBuilder, Sealed};
use crate::commit::Plain;
use crate::history::Line;
use crate::layout::MAX_COMMIT_BLOCKS;
use crate::ring::{Piece, Ring};
use alloc::vec;
use base::{Blocks, BufId, Gen, Lba, Memory, Pba, VecMemory, VolumeId};
use proptest::prelude::*;

const GROUP: Uuid = Uuid([0x47; 16]);
const SUPERBLOCK: SuperblockId = SuperblockId { generation: Gen::new(0), version: 5 };

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A commit as the writer remembers it.
#[derive(Clone)]
struct Written {
    sealed: Sealed,
    column: usize,
    offset: u32,
    bytes: Vec<u8>,
    voids: Vec<VoidOf>,
    durable: Seq,
}

struct World {
    rng: Rng,
    /// `[leg][column]` bytes.
    drives: Vec<Vec<Vec<u8>>>,
    ring: Ring,
    history: History,
    /// The commits of the group's order; `log[i]` has number `i`. A cut takes them away.
    log: Vec<Written>,
    builder: CommitBuilder,
    start: ChainStart,
    next_seq: Seq,
    durable: Seq,
    /// Failed and not voided by a complete commit yet.
    failed: Vec<VoidOf>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed | 1);
        let columns = 1 + rng.below(3) as usize;
        let legs = 1 + rng.below(3) as usize;
        let pieces: Vec<_> =
            (0..1 + rng.below(2)).map(|_| Piece { blocks: Blocks::new(41 + rng.below(12)) }).collect();
        let shape = RingShape::new(&pieces, columns);
        let at = Positions(core::array::from_fn(|i| {
            if i < columns { rng.below(u64::from(shape.len())) as u32 } else { 0 }
        }));
        let drive = vec![0u8; shape.len() as usize * BLOCK_BYTES];
        let start = ChainStart {
            next: CommitNo::ZERO,
            previous: Check::NONE,
            next_seq: Seq::new(1),
            durable: Seq::ZERO,
            superblock: SUPERBLOCK,
            tails: at,
        };
        let mut world = Self {
            rng,
            drives: vec![vec![drive; columns]; legs],
            ring: Ring::restore(shape, at, at),
            history: History::new(),
            log: Vec::new(),
            builder: CommitBuilder::new(MAX_COMMIT_BLOCKS),
            start,
            next_seq: Seq::new(1),
            durable: Seq::ZERO,
            failed: Vec::new(),
        };
        world.activate();
        world
    }

    fn next(&self) -> CommitNo {
        CommitNo::new(self.log.len() as u64)
    }

    fn activate(&mut self) {
        let generation = self.history.newest().map_or(1, |l| l.generation.get() + 1);
        let line = Line {
            first_seq: self.next_seq,
            first_commit: self.next(),
            generation: Gen::new(generation),
            id: Uuid([generation as u8; 16]),
            salt: [0; 16],
            first_ckpt: base::CkptNo::ZERO,
            key: 0,
        };
        self.history.append(line).expect("in order");
    }

    /// Adds random records; sizes from a part of a block to several.
    fn fill(&mut self) {
        let runs = [(Pba::new(self.rng.below(1 << 30)), Blocks::new(40))];
        let checks: Vec<_> = (0..40u64).map(|i| Check::of(&(i + self.rng.below(99)).to_le_bytes())).collect();
        for _ in 0..self.rng.below(3) * self.rng.below(20) {
            if self.builder.fits(40, 1) {
                self.builder.write(VolumeId::new(1), Lba::new(self.rng.below(999)), &runs, &checks);
            }
        }
        for _ in 0..self.rng.below(3) {
            if self.builder.fits(0, 0) {
                self.builder.hole(VolumeId::new(1), Lba::new(3), Blocks::new(9));
            }
        }
    }

    /// Seals the next commit without writing it; `None` when the ring is full.
    fn seal(&mut self) -> Option<Written> {
        self.builder.start();
        let voids = self.failed.clone();
        for void in &voids {
            self.builder.void(void.commit, void.check);
        }
        if voids.is_empty() {
            self.fill();
        }
        let no = self.next();
        let placed = match voids.is_empty() {
            true => self.ring.place(no, self.builder.blocks()),
            false => self.ring.place_void(no),
        };
        let pos = placed?;
        let line = *self.history.newest().expect("active");
        let fields = Fields {
            group: GROUP,
            history: line.id,
            generation: line.generation,
            no,
            offset: pos.offset,
            first_seq: self.next_seq,
            previous: self.log.last().map_or(self.start.previous, |w| w.sealed.check),
            superblock: SUPERBLOCK,
            durable: self.durable,
        };
        let mut memory = VecMemory::new(MAX_COMMIT_BLOCKS);
        let sealed = self.builder.seal(&fields, None);
        self.builder.put(&mut memory, BufId::new(0));
        let bytes = memory.blocks(BufId::new(0), sealed.blocks).to_vec();
        self.next_seq = sealed.next_seq();
        let column = usize::from(pos.column.get());
        let written = Written { sealed, column, offset: pos.offset, bytes, voids, durable: self.durable };
        self.log.push(written.clone());
        Some(written)
    }

    fn place_of(&mut self, leg: usize, written: &Written) -> &mut [u8] {
        let start = written.offset as usize * BLOCK_BYTES;
        &mut self.drives[leg][written.column][start..start + written.bytes.len()]
    }

    fn store(&mut self, leg: usize, written: &Written) {
        self.place_of(leg, written).copy_from_slice(&written.bytes);
    }

    /// What a drive may make of a write that did not complete: all, nothing, or some sectors, or garbage.
    fn store_or_lose(&mut self, leg: usize, written: &Written) {
        match self.rng.below(5) {
            0 | 1 => self.store(leg, written),
            2 => (),
            3 => {
                for sector in 0..written.bytes.len() / 512 {
                    if self.rng.chance(50) {
                        let range = sector * 512..(sector + 1) * 512;
                        self.place_of(leg, written)[range.clone()].copy_from_slice(&written.bytes[range]);
                    }
                }
            }
            _ => {
                let garbage = self.rng.below(256) as u8;
                self.place_of(leg, written).fill(garbage);
            }
        }
    }

    /// One round: a commit that completes everywhere, or fails everywhere and must be voided. A void that
    /// fails is named by the next one, which also repeats what it named.
    fn round(&mut self) -> bool {
        // Several commits may be in flight when one of them fails; the others complete.
        let in_flight: Vec<_> = (0..1 + self.rng.below(3)).map_while(|_| self.seal()).collect();
        if in_flight.is_empty() {
            return false;
        }
        let voided = in_flight[0].voids.len();
        for (index, written) in in_flight.iter().enumerate() {
            if self.rng.chance(12) {
                for leg in 0..self.drives.len() {
                    self.store_or_lose(leg, written);
                }
                self.failed.push(written.sealed.void_of());
                continue;
            }
            for leg in 0..self.drives.len() {
                self.store(leg, written);
            }
            if index == 0 && voided > 0 {
                self.failed.drain(..voided);
            }
        }
        if self.failed.is_empty() && self.rng.chance(40) {
            self.durable = Seq::new(self.next_seq.get() - 1);
        }
        true
    }

    /// A checkpoint covers all that is written.
    fn checkpoint(&mut self) {
        if !self.failed.is_empty() {
            return;
        }
        self.durable = Seq::new(self.next_seq.get() - 1);
        self.ring.trim(self.ring.positions());
        self.start = ChainStart {
            next: self.next(),
            previous: self.log.last().map_or(self.start.previous, |w| w.sealed.check),
            next_seq: self.next_seq,
            durable: self.durable,
            superblock: SUPERBLOCK,
            tails: self.ring.tails(),
        };
    }

    /// The commits that were in flight at a crash: each leg keeps of each what it likes.
    fn crash(&mut self) {
        for _ in 0..self.rng.below(6) {
            // The failure of an earlier one may be known already, so voids are among them.
            let Some(written) = self.seal() else { break };
            for leg in 0..self.drives.len() {
                self.store_or_lose(leg, &written);
            }
            if self.rng.chance(30) {
                self.failed.push(written.sealed.void_of());
            }
        }
        self.failed.clear();
    }

    fn legs_with(&self, written: &Written) -> LegSet {
        let start = written.offset as usize * BLOCK_BYTES;
        let mut legs = LegSet::EMPTY;
        for (leg, drive) in self.drives.iter().enumerate() {
            if drive[written.column][start..start + written.bytes.len()] == written.bytes[..] {
                legs.insert(LegId::new(leg as u8));
            }
        }
        legs
    }

    fn scan(&mut self) -> Scan {
        let shape = self.ring.shape().clone();
        let mut scan = Scan::new(GROUP, shape.clone(), self.drives.len());
        let mut chunk_of = |left: u32| (16 + self.rng.below(20) as u32).min(left);
        for (leg, columns) in self.drives.iter().enumerate() {
            for (column, bytes) in columns.iter().enumerate() {
                let mut at = 0;
                while at < shape.len() {
                    let chunk = chunk_of(shape.left_in_piece(at));
                    let range = at as usize * BLOCK_BYTES..(at + chunk) as usize * BLOCK_BYTES;
                    let (leg, column) = (LegId::new(leg as u8), Column::new(column as u8));
                    let consumed = scan.feed(&mut Plain, leg, column, at, &bytes[range]);
                    assert!(consumed > 0 && consumed <= chunk as usize, "no progress");
                    at += consumed as u32;
                }
            }
        }
        scan
    }

    /// The longest log that is consistent in itself and ends before `limit`: going down from its end, each
    /// commit is voided by one above that counts, or else counts and is readable.
    fn oracle(&self, limit: u64) -> (Vec<u64>, Vec<u64>) {
        let first = self.start.next.get();
        let intact: Vec<bool> = self.log.iter().map(|w| !self.legs_with(w).is_empty()).collect();
        let mut end = limit.min(self.log.len() as u64);
        'shorter: loop {
            let mut accepted: Vec<u64> = Vec::new();
            let mut voided: Vec<u64> = Vec::new();
            for no in (first..end).rev() {
                if accepted.iter().any(|a| self.log[*a as usize].voids.iter().any(|v| v.commit.get() == no)) {
                    voided.push(no);
                } else if intact[no as usize] {
                    accepted.push(no);
                } else {
                    end -= 1;
                    continue 'shorter;
                }
            }
            accepted.reverse();
            voided.reverse();
            return (accepted, voided);
        }
    }

    fn check(&mut self, scan: &Scan, limit: u64) -> Chain {
        let (accepted, voided) = self.oracle(limit);
        let chain = scan.chain_before(&self.start, &self.history, CommitNo::new(limit));
        let found: Vec<u64> = chain.accepted.iter().map(|i| scan.candidates()[*i].fields.no.get()).collect();
        assert_eq!(found, accepted);
        assert_eq!(chain.voided.iter().map(|v| v.commit.get()).collect::<Vec<_>>(), voided);
        assert_eq!(chain.next.get(), self.start.next.get() + (accepted.len() + voided.len()) as u64);
        let mut heads = self.start.tails;
        for (index, no) in accepted.iter().enumerate() {
            let written = &self.log[*no as usize];
            assert_eq!(scan.candidates()[chain.accepted[index]].legs, self.legs_with(written));
            heads.0[written.column] = (written.offset + written.sealed.blocks) % self.ring.shape().len();
        }
        assert_eq!(chain.heads, heads);
        let last = chain.next.get().checked_sub(1).and_then(|no| self.log.get(no as usize));
        assert_eq!(chain.previous, last.map_or(Check::NONE, |w| w.sealed.check));
        chain
    }

    /// What recovery does with a chain: the accepted commits on every leg, the rest forgotten, a new line.
    fn recover(&mut self, chain: &Chain) {
        let accepted: Vec<_> = self.oracle(chain.next.get()).0;
        for no in accepted {
            let written = self.log[no as usize].clone();
            for leg in 0..self.drives.len() {
                self.store(leg, &written);
            }
        }
        self.log.truncate(chain.next.get() as usize);
        self.next_seq = chain.next_seq;
        // The tail is complete and flushed everywhere, and the superblock with the new line says so: from now on
        // nothing of it may be cut.
        self.durable = Seq::new(chain.next_seq.get() - 1);
        self.start.durable = self.durable;
        self.ring = Ring::restore(self.ring.shape().clone(), self.start.tails, chain.heads);
        self.activate();
    }

    /// D as the commits on the drives tell it.
    fn durable_by_the_drives(&self) -> Seq {
        let named = self.log.iter().filter(|w| !self.legs_with(w).is_empty()).map(|w| w.durable).max();
        self.start.durable.max(named.unwrap_or(Seq::ZERO))
    }
}

/// Several lives of a group, each ended by a crash and a recovery.
fn lives(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..1 + world.rng.below(4) {
        for _ in 0..world.rng.below(25) {
            if world.rng.chance(15) || !world.round() {
                world.checkpoint();
            }
        }
        // A failure that no void answered yet when the crash comes.
        world.crash();
        let scan = world.scan();
        let mut chain = world.check(&scan, u64::MAX);
        assert_eq!(chain.missing_below_d, None, "what was durable is there");
        assert_eq!(chain.durable, world.durable_by_the_drives());
        assert_eq!(chain.newer_superblock, None);
        // Data above D may turn out to be lost: the chain is cut before such a commit. (One without a Seq has
        // no data to lose.)
        let cuttable = |c: &&Candidate| c.seqs > 0 && !c.at_or_below(chain.durable);
        let above = chain.accepted.iter().map(|i| &scan.candidates()[*i]).filter(cuttable);
        let above: Vec<u64> = above.map(|c| c.fields.no.get()).collect();
        if !above.is_empty() && world.rng.chance(50) {
            let cut = above[world.rng.below(above.len() as u64) as usize];
            chain = world.check(&scan, cut);
            assert!(chain.next.get() <= cut);
            assert_eq!(chain.missing_below_d, None, "nothing promised is cut");
        }
        world.recover(&chain);
        // A crash right after: the same log is found again.
        let again = world.scan();
        let second = world.check(&again, u64::MAX);
        assert_eq!((second.next, second.previous), (chain.next, chain.previous));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500.max(ProptestConfig::default().cases), ..Default::default() })]

    #[test]
    fn the_log_is_found_after_every_crash(seed in any::<u64>()) {
        lives(seed);
    }

    /// Beyond the fault budget: a commit that D covers is destroyed on every leg. It must be noticed.
    #[test]
    fn a_missing_promise_is_noticed(seed in any::<u64>()) {
        let mut world = World::new(seed);
        for _ in 0..10 {
            world.round();
        }
        let scan = world.scan();
        let chain = scan.chain(&world.start, &world.history);
        let promised: Vec<_> = chain
            .accepted
            .iter()
            .map(|i| &scan.candidates()[*i])
            .filter(|c| c.seqs > 0 && c.next_seq() <= chain.durable)
            .map(|c| c.fields.no)
            .collect();
        if promised.is_empty() {
            return Ok(());
        }
        let gone = promised[world.rng.below(promised.len() as u64) as usize];
        let written = world.log[gone.get() as usize].clone();
        for leg in 0..world.drives.len() {
            world.place_of(leg, &written).fill(0);
        }
        let scan = world.scan();
        let chain = scan.chain(&world.start, &world.history);
        // Earlier than what is gone if a void behind it went with it.
        prop_assert!(chain.missing_below_d.is_some_and(|missing| missing <= gone));
        prop_assert_eq!(chain.missing_below_d, Some(chain.next));
    }

    /// Garbage on the ring neither panics the reader nor stops it.
    #[test]
    fn garbage_is_read_over(seed in any::<u64>(), pokes in prop::collection::vec((any::<u32>(), any::<u8>()), 0..40)) {
        let mut world = World::new(seed);
        for _ in 0..8 {
            world.round();
        }
        for (at, value) in pokes {
            let drive = &mut world.drives[0][0];
            // Aim at headers now and then.
            let at = if value & 1 == 0 { at as usize } else { (at as usize & !0xfff) | (at as usize & 0xff) };
            let at = at % drive.len();
            drive[at] = value;
        }
        let scan = world.scan();
        let chain = scan.chain(&world.start, &world.history);
        prop_assert!(chain.next <= world.next());
    }
}

/// A ring of one column and 48 blocks, commits of one block each, all written by hand.
struct Hand {
    drive: Vec<u8>,
    history: History,
    checks: Vec<Check>,
}

impl Hand {
    fn new() -> Self {
        let mut history = History::new();
        let line = |generation: u64, first: u64| Line {
            first_seq: Seq::new(first + 1),
            first_commit: CommitNo::new(first),
            generation: Gen::new(generation),
            id: Uuid([generation as u8; 16]),
            salt: [0; 16],
            first_ckpt: base::CkptNo::ZERO,
            key: 0,
        };
        history.append(line(1, 0)).expect("first");
        history.append(line(2, 4)).expect("second");
        Self { drive: vec![0; 48 * BLOCK_BYTES], history, checks: Vec::new() }
    }

    fn fields(&self, no: u64, generation: u64) -> Fields {
        Fields {
            group: GROUP,
            history: Uuid([generation as u8; 16]),
            generation: Gen::new(generation),
            no: CommitNo::new(no),
            offset: no as u32,
            first_seq: Seq::new(no + 1),
            previous: no.checked_sub(1).map_or(Check::NONE, |before| self.checks[before as usize]),
            superblock: SUPERBLOCK,
            durable: Seq::ZERO,
        }
    }

    /// Writes a commit with one hole, its fields changed, at block `at`.
    fn put(&mut self, at: u32, fields: &Fields) -> Check {
        let mut builder = CommitBuilder::new(1);
        builder.hole(VolumeId::new(1), Lba::new(fields.no.get()), Blocks::new(1));
        let mut memory = VecMemory::new(1);
        let sealed = builder.seal(fields, None);
        builder.put(&mut memory, BufId::new(0));
        let start = at as usize * BLOCK_BYTES;
        self.drive[start..start + BLOCK_BYTES].copy_from_slice(memory.blocks(BufId::new(0), 1));
        sealed.check
    }

    /// Commits 0 to `count - 1` by their owners, in their places.
    fn good(&mut self, count: u64) {
        for no in 0..count {
            let fields = self.fields(no, if no < 4 { 1 } else { 2 });
            let check = self.put(no as u32, &fields);
            self.checks.push(check);
        }
    }

    /// The next commit in its place, with a hole and these voids; or sealed only and lost.
    fn put_voids(&mut self, no: u64, voids: &[u64], store: bool) {
        let mut builder = CommitBuilder::new(1);
        for void in voids {
            builder.void(CommitNo::new(*void), self.checks[*void as usize]);
        }
        builder.hole(VolumeId::new(1), Lba::ZERO, Blocks::new(1));
        let mut memory = VecMemory::new(1);
        let fields = self.fields(no, if no < 4 { 1 } else { 2 });
        let sealed = builder.seal(&fields, None);
        builder.put(&mut memory, BufId::new(0));
        self.checks.push(sealed.check);
        if store {
            let start = no as usize * BLOCK_BYTES;
            self.drive[start..start + BLOCK_BYTES].copy_from_slice(memory.blocks(BufId::new(0), 1));
        }
    }

    fn scan(&self) -> Scan {
        let mut scan = Scan::new(GROUP, RingShape::new(&[Piece { blocks: Blocks::new(48) }], 1), 1);
        assert_eq!(scan.feed(&mut Plain, LegId::ZERO, Column::ZERO, 0, &self.drive), 48);
        scan
    }

    fn chain(&self) -> Chain {
        let start = ChainStart {
            next: CommitNo::ZERO,
            previous: Check::NONE,
            next_seq: Seq::new(1),
            durable: Seq::ZERO,
            superblock: SUPERBLOCK,
            tails: Positions::default(),
        };
        self.scan().chain(&start, &self.history)
    }
}

#[test]
fn a_chain_goes_over_activations() {
    let mut hand = Hand::new();
    hand.good(7);
    let chain = hand.chain();
    assert_eq!((chain.next.get(), chain.next_seq.get(), chain.heads.0[0]), (7, 8, 7));
}

/// The story: a recovery cut the tail from commit 4 on; the next activation wrote commit 4 anew and crashed.
/// Commit 5 of the cut tail is intact, has the right number and lies in the right place.
#[test]
fn a_cut_tail_does_not_come_back() {
    let mut hand = Hand::new();
    hand.good(5);
    let mut old = hand.fields(5, 1);
    old.previous = hand.checks[4];
    hand.put(5, &old);
    assert_eq!(hand.chain().next.get(), 5, "its number belongs to a newer activation");
}

/// Nor does the D of a cut tail count, for it knows nothing of what the cut took.
#[test]
fn d_counts_from_every_commit_of_the_history_and_from_no_other() {
    let mut hand = Hand::new();
    hand.good(5);
    let mut old = hand.fields(5, 1);
    (old.first_seq, old.durable) = (Seq::new(9), Seq::new(8));
    hand.put(20, &Fields { offset: 20, ..old });
    assert_eq!(hand.chain().durable, Seq::ZERO);
    // The same from the owner of commit 5, off the chain: 5 is there, but its predecessor is not.
    let off_chain = Fields { offset: 21, previous: Check([1; 16]), ..old };
    let off_chain = Fields { generation: Gen::new(2), history: Uuid([2; 16]), ..off_chain };
    hand.put(21, &off_chain);
    let chain = hand.chain();
    assert_eq!((chain.next.get(), chain.durable.get()), (5, 8));
    assert_eq!(chain.missing_below_d, Some(CommitNo::new(5)));
}

#[test]
fn misdirected_and_foreign_commits_are_not_seen() {
    let mut hand = Hand::new();
    hand.good(3);
    let third = hand.fields(3, 1);
    hand.put(30, &third);
    assert_eq!((hand.chain().next.get(), hand.scan().unreadable()), (3, 1), "it belongs to block 3");
    hand.put(3, &Fields { group: Uuid([1; 16]), ..third });
    assert_eq!((hand.chain().next.get(), hand.scan().unreadable()), (3, 2));
    hand.put(3, &Fields { previous: Check([9; 16]), ..third });
    assert_eq!(hand.chain().next.get(), 3, "another predecessor");
    hand.put(3, &third);
    assert_eq!(hand.chain().next.get(), 4);
}

/// The superblock that was found is not the newest: the line that owns the newest commits may be in the one
/// that is missing, so the commits of unknown activations count as witnesses.
#[test]
fn a_newer_superblock_is_noticed() {
    let mut hand = Hand::new();
    hand.good(2);
    let newer = SuperblockId { generation: Gen::new(9), version: 1 };
    let unknown = Fields { superblock: newer, ..hand.fields(2, 9) };
    hand.put(2, &unknown);
    let chain = hand.chain();
    assert_eq!((chain.next.get(), chain.newer_superblock), (2, Some(newer)));
}

/// Commit 3 is lost and voided by commit 5; commit 8 voids commit 5, but commit 7 is missing, so 8 is not reached
/// and counts for nothing: the void in 5 must be in force, or the log would end at 3.
#[test]
fn a_void_behind_the_end_cancels_nothing() {
    let mut hand = Hand::new();
    hand.good(3);
    hand.put_voids(3, &[], false);
    hand.put_voids(4, &[], true);
    hand.put_voids(5, &[3], true);
    hand.put_voids(6, &[], true);
    hand.put_voids(7, &[], false);
    hand.put_voids(8, &[5], true);
    let chain = hand.chain();
    assert_eq!(chain.voided.iter().map(|v| v.commit.get()).collect::<Vec<_>>(), [3]);
    assert_eq!(chain.next.get(), 7);
}

/// Commit 5 voids commit 3 and is voided itself by commit 6, which does not repeat what 5 said: nothing that 5
/// records counts, so 3 does.
#[test]
fn the_voids_of_a_voided_commit_do_not_count() {
    let mut hand = Hand::new();
    hand.good(5);
    hand.put_voids(5, &[3], true);
    hand.put_voids(6, &[5], true);
    let chain = hand.chain();
    assert_eq!(chain.voided.iter().map(|v| v.commit.get()).collect::<Vec<_>>(), [5]);
    assert_eq!(chain.next.get(), 7);
    // The one after repeats it.
    hand.put_voids(7, &[3], true);
    let chain = hand.chain();
    assert_eq!(chain.voided.iter().map(|v| v.commit.get()).collect::<Vec<_>>(), [3, 5]);
}
