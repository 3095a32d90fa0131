//! Tests of `commit`.
use super::*;
use crate::builder::{CommitBuilder, Sealed};
use alloc::vec;
use alloc::vec::Vec;
use base::codec::{put_check, put_u16, put_u32, put_u64};
use base::limits::SLOT_DATA_BLOCKS;
use base::{Aead, BufId, Memory, Nonce, TAG_BYTES, Tag, VecMemory};
use proptest::prelude::*;

fn fields(no: u64, first_seq: u64) -> Fields {
    Fields {
        group: Uuid([0x11; 16]),
        history: Uuid([0x22; 16]),
        generation: Gen::new(3),
        no: CommitNo::new(no),
        offset: 5,
        first_seq: Seq::new(first_seq),
        previous: Check([0x33; 16]),
        superblock: SuperblockId { generation: Gen::new(3), version: 8 },
        durable: Seq::new(first_seq - 1),
    }
}

/// The bytes of a commit, as many blocks as it has.
fn sealed(builder: &mut CommitBuilder, fields: &Fields) -> (Sealed, Vec<u8>) {
    let mut memory = VecMemory::new(MAX_COMMIT_BLOCKS + 1);
    // Left-overs of an earlier use must not shine through.
    memory.blocks_mut(BufId::new(0), MAX_COMMIT_BLOCKS + 1).fill(0xee);
    let sealed = builder.seal(fields, None);
    builder.put(&mut memory, BufId::new(1));
    let bytes = memory.blocks(BufId::new(1), sealed.blocks).to_vec();
    (sealed, bytes)
}

/// One record of each kind.
fn one_of_each() -> (Sealed, Vec<u8>) {
    let mut builder = CommitBuilder::new(MAX_COMMIT_BLOCKS);
    let runs = [(Pba::new(0x12_3456_789a), Blocks::new(1)), (Pba::new(7), Blocks::new(1))];
    assert_eq!(builder.write(VolumeId::new(9), Lba::new(100), &runs, &[Check([1; 16]), Check([2; 16])]), 0);
    builder.void(CommitNo::new(40), Check([4; 16]));
    assert_eq!(builder.hole(VolumeId::new(10), Lba::new(200), Blocks::new(1 << 30)), 1);
    sealed(&mut builder, &fields(41, 1000))
}

#[test]
fn golden_bytes() {
    let (sealed, bytes) = one_of_each();
    assert_eq!((sealed.blocks, sealed.seqs, sealed.next_seq()), (1, 2, Seq::new(1002)));
    let mut expected = vec![0u8; BLOCK_BYTES];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        expected[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    // Header.
    put(b"PLNTHLOG");
    put(&[1, 0, 192, 0, 0, 0, 3, 0, 0, 0, 0, 0]);
    put(&(24u32 + 16 + 32 + 24 + 16 + 24).to_le_bytes());
    put(&[0x11; 16]);
    put(&[0x22; 16]);
    put(&3u64.to_le_bytes());
    put(&41u64.to_le_bytes());
    put(&1000u64.to_le_bytes());
    put(&2u32.to_le_bytes());
    put(&5u32.to_le_bytes());
    put(&[0x33; 16]);
    put(&3u64.to_le_bytes());
    put(&8u64.to_le_bytes());
    put(&999u64.to_le_bytes());
    put(&0x5521_ce3f_228d_1966_96bd_38cc_e931_ab5bu128.to_be_bytes());
    put(&[0; 48]);
    // The write.
    put(&[1, 0, 2, 0, 9, 0, 0, 0]);
    put(&100u64.to_le_bytes());
    put(&2u64.to_le_bytes());
    put(&[0x9a, 0x78, 0x56, 0x34, 0x12, 0, 1, 0]);
    put(&[7, 0, 0, 0, 0, 0, 1, 0]);
    put(&[1; 16]);
    put(&[2; 16]);
    // The void.
    put(&[3, 0, 0, 0, 0, 0, 0, 0]);
    put(&40u64.to_le_bytes());
    put(&[0; 8]);
    put(&[4; 16]);
    // The hole.
    put(&[2, 0, 0, 0, 10, 0, 0, 0]);
    put(&200u64.to_le_bytes());
    put(&(1u64 << 30).to_le_bytes());
    assert_eq!(bytes[..H_CHECK], expected[..H_CHECK]);
    assert_eq!(bytes[H_CHECK + 16..], expected[H_CHECK + 16..]);
    assert!(bytes == expected, "the check: {:?}", sealed.check);
}

#[test]
fn one_of_each_comes_back() {
    let (sealed, bytes) = one_of_each();
    let view = Commit::parse(&bytes).expect("intact");
    assert_eq!(*view.fields(), fields(41, 1000));
    assert_eq!((view.check(), view.blocks(), view.seqs()), (sealed.check, 1, 2));
    let records: Vec<_> = view.records().collect();
    assert_eq!(records.len(), 3);
    assert_eq!(records[0].kind, RecordKind::Write);
    assert_eq!(
        (records[0].seq, records[1].seq, records[2].seq),
        (Some(Seq::new(1000)), None, Some(Seq::new(1001)))
    );
    let blocks: Vec<_> = records[0].each_block().collect();
    let expected = [
        (Lba::new(100), Pba::new(0x12_3456_789a), Check([1; 16])),
        (Lba::new(101), Pba::new(7), Check([2; 16])),
    ];
    assert_eq!(blocks, expected);
    let void = VoidOf { commit: CommitNo::new(40), check: Check([4; 16]) };
    assert_eq!(records[1].void_of(), Some(void));
    assert_eq!(view.voids().collect::<Vec<_>>(), [void]);
    assert_eq!((records[2].kind, records[2].blocks), (RecordKind::Hole, Blocks::new(1 << 30)));
    assert_eq!(records[2].each_block().count(), 0);
}

/// A lone flipped bit anywhere in the commit's blocks, padding included, is found.
#[test]
fn every_flipped_bit_is_found() {
    let (_, mut bytes) = one_of_each();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Commit::parse(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    Commit::parse(&bytes).expect("intact again");
}

#[test]
fn the_worst_request_fits_and_the_limit_is_kept() {
    let blocks = SLOT_DATA_BLOCKS as usize;
    let runs: Vec<_> = (0..blocks as u64).map(|i| (Pba::new(i * 2), Blocks::new(1))).collect();
    let checks = vec![Check([5; 16]); blocks];
    let mut builder = CommitBuilder::new(MAX_COMMIT_BLOCKS);
    let mut count = 0;
    while builder.fits(blocks as u64, blocks) {
        builder.write(VolumeId::new(1), Lba::new(count * 100), &runs, &checks);
        count += 1;
    }
    assert!(count > 1);
    assert!(builder.blocks() <= MAX_COMMIT_BLOCKS);
    while builder.fits(0, 0) {
        builder.hole(VolumeId::new(1), Lba::new(0), Blocks::new(1));
    }
    assert_eq!(builder.blocks(), MAX_COMMIT_BLOCKS);
    let (sealed, bytes) = sealed(&mut builder, &fields(1, 1));
    assert_eq!(sealed.blocks, MAX_COMMIT_BLOCKS);
    let view = Commit::parse(&bytes).expect("intact");
    assert_eq!(view.records().filter(|r| r.kind == RecordKind::Write).count() as u64, count);
    assert!(builder.is_empty() && builder.blocks() == 1);
    assert_eq!(Commit::parse(&bytes[..bytes.len() - BLOCK_BYTES]).err(), Some(Bad::Short(MAX_COMMIT_BLOCKS)));
}

#[test]
fn an_empty_commit_carries_d() {
    let (_, bytes) = sealed(&mut CommitBuilder::new(1), &fields(2, 50));
    let view = Commit::parse(&bytes).expect("intact");
    assert_eq!(
        (view.record_count(), view.next_seq(), view.fields().durable),
        (0, Seq::new(50), Seq::new(49))
    );
}

/// Changes a commit and makes its check right again: a hostile or nonsensical drive.
fn repaired(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let end = (HEADER_BYTES + u32_at(&bytes, H_BODY_BYTES) as usize).min(bytes.len());
    let check = header_and_body_check(&bytes[..end]);
    put_check(&mut bytes, H_CHECK, check);
    bytes
}

#[test]
fn nonsense_with_a_right_check_is_refused() {
    let (_, bytes) = one_of_each();
    let body = HEADER_BYTES;
    let read = |change: fn(&mut [u8])| Commit::parse(&repaired(&bytes, change)).err();
    assert_eq!(read(|_| ()), None);
    assert_eq!(read(|b| put_u16(b, H_VERSION, 2)), Some(Bad::Version(2)));
    assert_eq!(read(|b| put_u16(b, H_LENGTH, 200)), Some(Bad::Length));
    assert_eq!(read(|b| put_u16(b, H_LANE, 1)), Some(Bad::Reserved));
    assert_eq!(read(|b| put_u32(b, H_FLAGS, 2)), Some(Bad::Reserved));
    assert_eq!(read(|b| b[H_TAG] = 1), Some(Bad::Reserved));
    assert_eq!(read(|b| b[BLOCK_BYTES - 1] = 1), Some(Bad::Reserved));
    assert_eq!(read(|b| put_u32(b, H_SEQS, 3)), Some(Bad::Header));
    assert_eq!(read(|b| put_u64(b, H_FIRST_SEQ, 0)), Some(Bad::Header));
    assert_eq!(read(|b| put_u64(b, H_FIRST_SEQ, u64::MAX)), Some(Bad::Header));
    assert_eq!(read(|b| put_u64(b, H_FIRST_SEQ, Seq::LIMIT - 1)), Some(Bad::Header));
    assert_eq!(read(|b| put_u64(b, H_COMMIT, u64::MAX)), Some(Bad::Header));
    assert_eq!(read(|b| put_u16(b, H_RECORDS, 2)), Some(Bad::Header));
    assert_eq!(read(|b| put_u16(b, H_RECORDS, 4)), Some(Bad::Record(3)));
    // The void must name an earlier commit.
    assert_eq!(read(|b| put_u64(b, H_COMMIT, 40)), Some(Bad::Record(1)));
    let record = |at: usize, value: u8| Commit::parse(&repaired(&bytes, |b| b[body + at] = value)).err();
    let bad = Some(Bad::Record(0));
    assert_eq!(record(R_KIND, 0), bad);
    assert_eq!(record(R_KIND, 4), bad);
    assert_eq!(record(R_FLAGS, 1), bad);
    assert_eq!(record(R_LBA + 5, 1), bad, "beyond the address space");
    assert_eq!(record(R_BLOCKS, 0), bad);
    assert_eq!(record(R_BLOCKS + 7, 0xff), bad);
    assert_eq!(record(RECORD_BYTES + RUN_PBA_BYTES, 1), bad, "stray byte in a run");
    assert_eq!(record(RECORD_BYTES + RUN_COUNT, 0), bad, "empty run");
    assert_eq!(record(RECORD_BYTES + RUN_COUNT, 2), bad, "more blocks in runs than in the record");
    let leaves_the_space = repaired(&bytes, |b| {
        b[body + RECORD_BYTES..body + RECORD_BYTES + RUN_PBA_BYTES].fill(0xff);
        put_u16(b, body + RECORD_BYTES + RUN_COUNT, 2);
        put_u64(b, body + R_BLOCKS, 3);
    });
    assert_eq!(Commit::parse(&leaves_the_space).err(), bad);
}

/// Looks at everything a view offers.
fn exhaust(view: &CommitView<'_>) -> (u32, usize) {
    let mut seqs = 0;
    let mut blocks = 0;
    for record in view.records() {
        seqs += u32::from(record.seq.is_some());
        assert_eq!(record.runs().map(|(_, count)| count.get()).sum::<u64>(), record.checks().len() as u64);
        blocks += record.each_block().count();
    }
    (seqs, blocks)
}

#[derive(Clone, Debug)]
enum Made {
    Write { volume: u32, lba: u64, runs: Vec<(u64, u64)> },
    Hole { volume: u32, lba: u64, blocks: u64 },
    Void(u64),
}

fn made() -> impl Strategy<Value = Made> {
    let runs = prop::collection::vec((0..Pba::LIMIT - 20, 1..20u64), 1..6);
    prop_oneof![
        4 => (any::<u32>(), 0..LBA_LIMIT - 200, runs).prop_map(|(volume, lba, runs)| Made::Write { volume, lba, runs }),
        1 => (any::<u32>(), 0..LBA_LIMIT / 2, 1..=LBA_LIMIT / 2)
            .prop_map(|(volume, lba, blocks)| Made::Hole { volume, lba, blocks }),
        1 => (0..77u64).prop_map(Made::Void),
    ]
}

fn check_of(at: u64) -> Check {
    Check::of(&at.to_le_bytes())
}

/// Adds what fits; returns what was added.
fn build(builder: &mut CommitBuilder, all: &[Made]) -> Vec<Made> {
    let mut added = Vec::new();
    for one in all {
        let before = builder.blocks();
        match one {
            Made::Write { volume, lba, runs } => {
                let blocks = runs.iter().map(|r| r.1).sum();
                if !builder.fits(blocks, runs.len()) {
                    continue;
                }
                let runs: Vec<_> = runs.iter().map(|(p, n)| (Pba::new(*p), Blocks::new(*n))).collect();
                let checks: Vec<_> = (0..blocks).map(|i| check_of(lba + i)).collect();
                builder.write(VolumeId::new(*volume), Lba::new(*lba), &runs, &checks);
            }
            Made::Hole { volume, lba, blocks } if builder.fits(0, 0) => {
                builder.hole(VolumeId::new(*volume), Lba::new(*lba), Blocks::new(*blocks));
            }
            Made::Void(no) if builder.fits_void() => builder.void(CommitNo::new(*no), check_of(*no)),
            _ => continue,
        }
        assert!(builder.blocks() >= before);
        added.push(one.clone());
    }
    added
}

fn same(record: &RecordView<'_>, one: &Made) -> bool {
    match one {
        Made::Write { volume, lba, runs } => {
            record.kind == RecordKind::Write
                && (record.volume.get(), record.lba.get()) == (*volume, *lba)
                && record.runs().map(|(p, n)| (p.get(), n.get())).eq(runs.iter().copied())
                && record.checks().enumerate().all(|(i, check)| check == check_of(lba + i as u64))
        }
        Made::Hole { volume, lba, blocks } => {
            record.kind == RecordKind::Hole
                && (record.volume.get(), record.lba.get(), record.blocks.get()) == (*volume, *lba, *blocks)
        }
        Made::Void(no) => {
            record.void_of() == Some(VoidOf { commit: CommitNo::new(*no), check: check_of(*no) })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000.max(ProptestConfig::default().cases), ..Default::default() })]

    #[test]
    fn what_is_built_is_what_is_read(all in prop::collection::vec(made(), 0..200), max in 1..=MAX_COMMIT_BLOCKS) {
        let mut builder = CommitBuilder::new(max);
        let added = build(&mut builder, &all);
        let (sealed, bytes) = sealed(&mut builder, &fields(77, 5));
        prop_assert!(sealed.blocks <= max);
        let view = Commit::parse(&bytes).expect("intact");
        prop_assert_eq!(usize::from(view.record_count()), added.len());
        prop_assert!(view.records().zip(&added).all(|(record, one)| same(&record, one)));
        let seqs: Vec<_> = view.records().filter_map(|r| r.seq).map(Seq::get).collect();
        prop_assert_eq!(seqs, (5..5 + u64::from(sealed.seqs)).collect::<Vec<_>>());
    }

    /// Bits flipped, sectors of another commit mixed in: never taken for a commit.
    #[test]
    fn damage_is_found(
        all in prop::collection::vec(made(), 1..60),
        flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let mut builder = CommitBuilder::new(MAX_COMMIT_BLOCKS);
        build(&mut builder, &all);
        let (_, bytes) = sealed(&mut builder, &fields(77, 5));
        let mut bad = bytes.clone();
        for flip in &flips {
            let bit = flip.index(bytes.len() * 8);
            bad[bit / 8] ^= 1 << (bit % 8);
        }
        // Two flips may undo each other.
        prop_assert!(bad == bytes || Commit::parse(&bad).is_err());
    }

    /// The same commit sealed twice under different numbers, torn at a sector: neither.
    #[test]
    fn a_mixture_of_two_is_neither(all in prop::collection::vec(made(), 1..60), sector in any::<prop::sample::Index>()) {
        let mut builder = CommitBuilder::new(MAX_COMMIT_BLOCKS);
        build(&mut builder, &all);
        let (_, old) = sealed(&mut builder, &fields(77, 5));
        build(&mut builder, &all[1..]);
        let (_, new) = sealed(&mut builder, &fields(78, 105));
        let torn_at = (1 + sector.index(new.len() / 512 - 1)) * 512;
        let mut torn = new[..torn_at].to_vec();
        torn.extend_from_slice(old.get(torn_at..new.len().min(old.len())).unwrap_or(&[]));
        torn.resize(new.len(), 0);
        // The sectors may be alike: then nothing was torn.
        prop_assert!(torn == new || Commit::parse(&torn).is_err());
    }

    #[test]
    fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..9000), magic in any::<bool>()) {
        if magic && bytes.len() >= HEADER_BYTES {
            bytes[..8].copy_from_slice(&MAGIC);
            put_u16(&mut bytes, H_VERSION, VERSION);
            put_u16(&mut bytes, H_LENGTH, HEADER_BYTES as u16);
        }
        prop_assert!(Commit::parse(&bytes).is_err());
    }

    /// Hostile bytes under a right check neither panic nor break the promises of the view.
    #[test]
    fn hostile_bytes_are_survived(
        all in prop::collection::vec(made(), 1..10),
        pokes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        in_body in any::<bool>(),
    ) {
        let mut builder = CommitBuilder::new(MAX_COMMIT_BLOCKS);
        build(&mut builder, &all);
        let (_, bytes) = sealed(&mut builder, &fields(77, 5));
        let end = HEADER_BYTES + u32_at(&bytes, H_BODY_BYTES) as usize;
        let bad = repaired(&bytes, |bytes| {
            for (at, value) in &pokes {
                let range = if in_body { HEADER_BYTES..end } else { 8..HEADER_BYTES };
                bytes[range.start + at.index(range.len())] = *value;
            }
        });
        let mut opened = bad.clone();
        let opened = Commit::open(&mut opened, &mut Plain);
        if let Ok(view) = Commit::parse(&bad) {
            // One that says that it is sealed shows nobody its records, and a plain group takes none.
            if view.is_sealed() {
                prop_assert_eq!(opened.err(), Some(Bad::Reserved));
                return Ok(());
            }
            prop_assert!(opened.is_ok());
            let (seqs, _) = exhaust(&view);
            prop_assert_eq!(seqs, view.seqs());
            prop_assert_eq!(view.records().count(), usize::from(view.record_count()));
        }
    }
}

/// Not a cipher: it only shows what is covered by what.
struct Toy(u8);

impl Toy {
    fn sum(&self, nonce: &Nonce, about: &[u8], text: &[u8]) -> Tag {
        let all = Check::of_pieces(&[&[self.0], nonce.bytes(), about, text]);
        Tag(all.0[..TAG_BYTES].try_into().expect("as many"))
    }
}

impl Aead for Toy {
    fn set_key(&mut self, key: &[u8; base::KEY_BYTES]) {
        self.0 = key[0];
    }
    fn seal(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8]) -> Tag {
        text.iter_mut().for_each(|byte| *byte ^= self.0);
        self.sum(nonce, about, text)
    }
    fn open(&mut self, nonce: &Nonce, about: &[u8], text: &mut [u8], tag: &Tag) -> bool {
        let right = self.sum(nonce, about, text) == *tag;
        text.iter_mut().for_each(|byte| *byte ^= self.0);
        right
    }
}

impl Unseal for Toy {
    fn cipher(&mut self, fields: &Fields) -> Option<&mut dyn Aead> {
        (fields.history == fields_of_tests().history).then_some(self)
    }
    fn seals(&self) -> bool {
        true
    }
}

fn fields_of_tests() -> Fields {
    fields(41, 1000)
}

fn a_sealed_one() -> (Sealed, Vec<u8>) {
    let mut memory = VecMemory::new(2);
    let mut builder = CommitBuilder::new(1);
    builder.start();
    builder.write(VolumeId::new(9), Lba::new(100), &[(Pba::new(7), Blocks::new(1))], &[Check([5; 16])]);
    let sealed = builder.seal(&fields_of_tests(), Some(&mut Toy(0x5a)));
    builder.put(&mut memory, BufId::new(1));
    (sealed, memory.blocks(BufId::new(1), 1).to_vec())
}

#[test]
fn a_sealed_commit_is_whole_to_everybody_and_open_to_its_key() {
    let (sealed, bytes) = a_sealed_one();
    let view = Commit::parse(&bytes).expect("intact");
    assert!(view.is_sealed());
    assert_eq!((view.check(), view.seqs(), *view.fields()), (sealed.check, 1, fields_of_tests()));
    let mut copy = bytes.clone();
    let view = Commit::open(&mut copy, &mut Toy(0x5a)).expect("its key");
    assert_eq!(view.check(), sealed.check, "what it is called does not change");
    let record = view.records().next().expect("one");
    assert_eq!((record.lba, record.checks().next()), (Lba::new(100), Some(Check([5; 16]))));
    assert_eq!(Commit::open(&mut bytes.clone(), &mut Toy(0x5b)).err(), Some(Bad::Forged), "another key");
    assert_eq!(Commit::open(&mut bytes.clone(), &mut Plain).err(), Some(Bad::Reserved), "a plain group");
    let mut copy = bytes.clone();
    let view = Commit::open(&mut copy, &mut Outside).expect("whole");
    assert!(view.is_sealed() && view.void_count() == 0, "whoever has no keys sees the header");
    let (_, mut plain) = one_of_each();
    assert_eq!(Commit::open(&mut plain, &mut Toy(0x5a)).err(), Some(Bad::Reserved), "no downgrade");
    assert_eq!(Commit::open(&mut plain, &mut Outside).err(), Some(Bad::Reserved), "nor for an onlooker");
    assert_eq!(Commit::parse(&plain).expect("intact").void_count(), 1);
}

/// Whoever changes a bit can make the check anew, but not the tag.
#[test]
fn a_forged_bit_is_found_wherever_it_is() {
    let (_, bytes) = a_sealed_one();
    let end = HEADER_BYTES + u32_at(&bytes, H_BODY_BYTES) as usize;
    for bit in 0..8 * BLOCK_BYTES {
        let mut forged = bytes.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        if Commit::blocks(&forged) == Ok(1) {
            let end = HEADER_BYTES + u32_at(&forged, H_BODY_BYTES) as usize;
            let check = header_and_body_check(&forged[..end]);
            base::codec::put_check(&mut forged, H_CHECK, check);
        }
        let in_check = (H_CHECK..H_TAG).contains(&(bit / 8));
        let opened = Commit::open(&mut forged, &mut Toy(0x5a));
        assert_eq!(opened.is_ok(), in_check, "bit {bit} of {end} bytes");
    }
}
