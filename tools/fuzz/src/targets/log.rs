//! The log: history pages, single commits, and a whole ring with its chain.
use super::{Target, block_of};
use crate::signature::Signature;
use base::codec::{put_check, u32_at};
use base::{
    Aead, BLOCK_BYTES, Blocks, BufId, Check, Ciphers, Column, CommitNo, Gen, Lba, LegId, Memory, Pba, Seq,
    Uuid, VecMemory, VolumeId,
};
use rlog::history::{self, History, Line};
use rlog::layout::{H_BODY_BYTES, H_CHECK, H_TAG, HEADER_BYTES, PREVIOUS_BYTES};
use rlog::ring::{Piece, RingShape};
use rlog::{
    ChainStart, Commit, CommitBuilder, CommitView, Fields, Outside, Plain, Positions, Scan, SuperblockId,
    Unseal,
};
use std::sync::OnceLock;
use volume::keys::portable::Portable;

/// History pages.
pub const HISTORY: Target = Target {
    name: "history",
    about: "history pages",
    seeds: history_seeds,
    words: &[b"PLNTHHIS"],
    run: run_history,
    cost: 1,
};

/// Commits.
pub const COMMIT: Target = Target {
    name: "commit",
    about: "commits of the log, plain and sealed",
    seeds: commit_seeds,
    words: &[b"PLNTHLOG"],
    run: run_commit,
    cost: 1,
};

/// A ring.
pub const RING: Target = Target {
    name: "ring",
    about: "a ring of commits, and the chain through it",
    seeds: ring_seeds,
    words: &[b"PLNTHLOG"],
    run: run_ring,
    cost: 2,
};

const GROUP: Uuid = Uuid([0x47; 16]);
/// Blocks of the ring.
const RING_BLOCKS: u32 = 64;

fn line(first: u64, generation: u64) -> Line {
    Line {
        first_seq: Seq::new(first),
        first_commit: CommitNo::new(first),
        generation: Gen::new(generation),
        id: Uuid([generation as u8; 16]),
        salt: [9; 16],
        first_ckpt: base::CkptNo::ZERO,
        key: 0,
    }
}

fn history_seeds() -> Vec<Vec<u8>> {
    let lines: Vec<Line> = (1..=60).map(|i| line(i, i)).collect();
    [3, 60]
        .map(|count| {
            let mut page = [0; BLOCK_BYTES];
            history::encode_page(&lines[..count], &[0; PREVIOUS_BYTES], &mut page);
            page.to_vec()
        })
        .to_vec()
}

fn run_history(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let page = block_of(input);
    let mut lines = Vec::new();
    let decoded = history::decode_page(&page, &mut lines);
    if let Ok(previous) = &decoded {
        let mut again = [0; BLOCK_BYTES];
        history::encode_page(&lines, previous, &mut again);
        assert!(again == page, "a history page is not what its bytes are");
        let mut history = History::new();
        let ordered = lines.iter().try_for_each(|line| history.append(*line));
        signature.shape(&ordered);
        for number in [0, 1, 30, u64::MAX] {
            let owner = history.owner_of_commit(CommitNo::new(number));
            assert!(owner.is_none_or(|line| line.first_commit.get() <= number));
        }
    }
    signature.shape(&decoded.map(|_| ()));
    signature
}

/// The key of the one activation whose commits are sealed.
struct Keys(Box<dyn Aead>);

impl Keys {
    fn new() -> Self {
        let mut cipher = Portable.cipher();
        cipher.set_key(&[0x5a; base::KEY_BYTES]);
        Self(cipher)
    }
}

impl Unseal for Keys {
    fn cipher(&mut self, fields: &Fields) -> Option<&mut dyn Aead> {
        (fields.history == line(1, 1).id).then_some(&mut *self.0)
    }

    fn seals(&self) -> bool {
        true
    }
}

/// A commit with every kind of record.
fn commit(no: u64, offset: u32, previous: Check, history: &Line) -> (Vec<u8>, Check) {
    sealed_by(None, no, offset, previous, history)
}

/// The same, its body encrypted if there is a cipher.
fn sealed_by(
    cipher: Option<&mut dyn Aead>,
    no: u64,
    offset: u32,
    previous: Check,
    history: &Line,
) -> (Vec<u8>, Check) {
    let mut builder = CommitBuilder::new(4);
    builder.start();
    let runs = [(Pba::new(100 + no * 8), Blocks::new(2)), (Pba::new(900), Blocks::new(1))];
    builder.write(
        VolumeId::new(1),
        Lba::new(no * 3),
        &runs,
        &[Check([1; 16]), Check([2; 16]), Check([3; 16])],
    );
    builder.hole(VolumeId::new(1), Lba::new(50), Blocks::new(1 << 20));
    if no > 2 {
        builder.void(CommitNo::new(1), Check([4; 16]));
    }
    let fields = Fields {
        group: GROUP,
        history: history.id,
        generation: history.generation,
        no: CommitNo::new(no),
        offset,
        first_seq: Seq::new(no * 2 + 1),
        previous,
        superblock: SuperblockId { generation: history.generation, version: 5 },
        durable: Seq::new(no),
    };
    let mut memory = VecMemory::new(4);
    let sealed = builder.seal(&fields, cipher);
    builder.put(&mut memory, BufId::new(0));
    (memory.blocks(BufId::new(0), sealed.blocks).to_vec(), sealed.check)
}

fn commit_seeds() -> Vec<Vec<u8>> {
    let mut builder = CommitBuilder::new(16);
    builder.start();
    let checks: Vec<Check> = (0..64).map(|i| Check([i; 16])).collect();
    for request in 0..12 {
        let runs = [(Pba::new(1000 + request * 64), Blocks::new(64))];
        builder.write(VolumeId::new(1), Lba::new(request * 64), &runs, &checks);
    }
    let history = line(1, 1);
    let fields = Fields {
        group: GROUP,
        history: history.id,
        generation: history.generation,
        no: CommitNo::new(9),
        offset: 0,
        first_seq: Seq::new(30),
        previous: Check::NONE,
        superblock: SuperblockId::default(),
        durable: Seq::ZERO,
    };
    let mut memory = VecMemory::new(16);
    let sealed = builder.seal(&fields, None);
    builder.put(&mut memory, BufId::new(0));
    let large = memory.blocks(BufId::new(0), sealed.blocks).to_vec();
    let mut seeds =
        vec![commit(1, 0, Check::NONE, &history).0, commit(5, 0, Check([8; 16]), &history).0, large];
    seeds.extend_from_slice(all_sealed());
    seeds
}

/// All sealed commits that there are: of two places, and one of an activation whose key nobody has.
fn all_sealed() -> &'static [Vec<u8>] {
    static SEALED: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEALED.get_or_init(|| {
        let made = |no, offset, history: &Line| {
            sealed_by(Some(&mut *Keys::new().0), no, offset, Check([8; 16]), history).0
        };
        vec![made(1, 0, &line(1, 1)), made(5, 9, &line(1, 1)), made(5, 9, &line(1, 2))]
    })
}

/// Makes the check of the commit at the front right, if its length can be told.
fn repair(bytes: &mut [u8]) {
    if Commit::blocks(bytes).is_err() {
        return;
    }
    let end = HEADER_BYTES + u32_at(bytes, H_BODY_BYTES) as usize;
    if bytes.len() >= end {
        put_check(bytes, H_CHECK, Check::NONE);
        let check = Check::of(&bytes[..end]);
        put_check(bytes, H_CHECK, check);
    }
}

fn run_commit(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let mut whole = input.to_vec();
    whole.resize(input.len().next_multiple_of(BLOCK_BYTES), 0);
    let mut repaired = whole.clone();
    repair(&mut repaired);
    open(&mut whole.clone(), &mut signature);
    open(&mut repaired.clone(), &mut signature);
    for bytes in [input, &whole, &repaired] {
        let parsed = Commit::parse(bytes);
        signature.shape(&parsed.as_ref().err());
        if let Ok(commit) = parsed {
            signature.note(u64::from(commit.is_sealed()));
            if commit.is_sealed() {
                continue;
            }
            examine(&commit, bytes);
            signature.note(u64::from(commit.record_count().min(3)));
            commit.records().take(4).for_each(|record| signature.shape(&record.kind));
        }
    }
    signature
}

/// What must be the same of two commits for one to open where the other does: header up to its check, tag, and body.
fn covered(bytes: &[u8]) -> [&[u8]; 2] {
    let end = HEADER_BYTES + u32_at(bytes, H_BODY_BYTES) as usize;
    [&bytes[..H_CHECK], &bytes[H_TAG..end]]
}

/// Opens it as the log of a plain group, of an encrypted one, and of an encrypted one without keys. With the key nothing
/// opens but what was sealed: changed, moved or cut it is refused, whatever its check says.
fn open(bytes: &mut [u8], signature: &mut Signature) {
    let before = bytes.to_vec();
    for (ours, keys) in [&mut Plain as &mut dyn Unseal, &mut Outside].into_iter().enumerate() {
        match Commit::open(bytes, keys) {
            Ok(view) => {
                assert_eq!(
                    view.is_sealed(),
                    ours == 1,
                    "a commit that is not what the group's are was let in"
                );
                signature.note(u64::from(view.void_count().min(2)));
            }
            Err(bad) => signature.shape(&bad),
        }
        assert!(bytes == before, "without a key nothing is changed");
    }
    match Commit::open(bytes, &mut Keys::new()) {
        Ok(view) => {
            let known = all_sealed().iter().find(|made| covered(made) == covered(&before));
            let known = known.expect("a commit opens, and nobody sealed it");
            assert!(!view.is_sealed() && view.fields().history == line(1, 1).id);
            assert_eq!(*view.fields(), *Commit::parse(known).expect("just made").fields());
            examine(&view, &before);
            signature.note(u64::from(view.record_count()));
        }
        Err(bad) => signature.shape(&bad),
    }
}

/// What is said of each record must hold for every commit that is let in.
fn examine(commit: &CommitView<'_>, bytes: &[u8]) {
    assert!(commit.blocks() as usize * BLOCK_BYTES <= bytes.len());
    assert_eq!(commit.records().count(), usize::from(commit.record_count()), "records are lost on the way");
    let mut seq = commit.fields().first_seq;
    for record in commit.records() {
        if let Some(own) = record.seq {
            assert_eq!(own, seq, "Seqs have gaps");
            seq = seq.next();
        }
        let placed: u64 = record.runs().map(|(_, count)| count.get()).sum();
        assert_eq!(placed, record.checks().len() as u64, "a block without a check");
        assert_eq!(record.each_block().count() as u64, placed);
        for (lba, pba, _) in record.each_block() {
            assert!(lba.get() < rlog::layout::LBA_LIMIT && pba.get() < Pba::LIMIT);
        }
    }
    assert_eq!(seq, commit.next_seq());
    assert!(commit.voids().all(|void| void.commit < commit.fields().no), "a void of the future");
}

fn ring_seeds() -> Vec<Vec<u8>> {
    let history = line(1, 1);
    let (mut bytes, mut previous) = (Vec::new(), Check::NONE);
    for no in 1..=6 {
        let offset = (bytes.len() / BLOCK_BYTES) as u32;
        let (next, check) = commit(no, offset, previous, &history);
        bytes.extend_from_slice(&next);
        previous = check;
    }
    let mut gap = bytes.clone();
    gap[3 * BLOCK_BYTES..4 * BLOCK_BYTES].fill(0);
    vec![bytes, gap]
}

fn run_ring(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let mut ring = input[..input.len().min(RING_BLOCKS as usize * BLOCK_BYTES)].to_vec();
    ring.resize(RING_BLOCKS as usize * BLOCK_BYTES, 0);
    let mut repaired = ring.clone();
    for at in (0..repaired.len()).step_by(BLOCK_BYTES) {
        repair(&mut repaired[at..]);
    }
    let mut history = History::new();
    history.append(line(1, 1)).expect("the first line");
    let start = ChainStart {
        next: CommitNo::new(1),
        previous: Check::NONE,
        next_seq: Seq::new(3),
        durable: Seq::ZERO,
        superblock: SuperblockId { generation: Gen::new(1), version: 5 },
        tails: Positions::default(),
    };
    let shape = RingShape::new(&[Piece { blocks: Blocks::new(u64::from(RING_BLOCKS)) }], 1);
    let mut scan = Scan::new(GROUP, shape, 2);
    for (leg, bytes) in [(0, &ring), (1, &repaired)] {
        let mut at = 0;
        while at < RING_BLOCKS {
            let taken = scan.feed(
                &mut rlog::Plain,
                LegId::new(leg),
                Column::ZERO,
                at,
                &bytes[at as usize * BLOCK_BYTES..],
            );
            assert!(taken > 0, "a reader of the ring stands still");
            at += taken as u32;
        }
    }
    for limit in [CommitNo::new(u64::MAX), CommitNo::new(3)] {
        let chain = scan.chain_before(&start, &history, limit);
        let mut previous = (start.previous, start.next_seq);
        for index in &chain.accepted {
            let candidate = &scan.candidates()[*index];
            assert!(candidate.fields.first_seq >= previous.1, "the order goes back");
            assert!(!candidate.legs.is_empty() && candidate.fields.no < limit);
            previous.1 = candidate.next_seq();
        }
        assert_eq!(chain.accepted.len() + chain.voided.len(), (chain.next.get() - start.next.get()) as usize);
        signature.note(chain.accepted.len() as u64);
        signature.note(chain.voided.len() as u64);
        signature.shape(&(chain.missing_below_d.is_some(), chain.newer_superblock.is_some()));
    }
    signature.note(u64::from(scan.unreadable() > 0));
    signature
}
