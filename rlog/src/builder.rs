//! Making a commit: records are collected in a buffer of the builder's own and sealed into the caller's memory.
//!
//! The builder knows how large the commit has become before it is sealed, because the ring must give it a place
//! first and the place is part of what is sealed. Sealing happens once: the bytes go to every leg, are retried
//! bit for bit or are voided, and are never formed again under the same number. Every assertion here has its
//! counterpart in `Commit::parse`.
use crate::commit::{Fields, RecordKind, VoidOf, commit_blocks, header_and_body_check};
use crate::layout::*;
use alloc::vec;
use alloc::vec::Vec;
use base::codec::{put_check, put_u16, put_u32, put_u64, put_uuid};
use base::{
    Aead, BLOCK_BYTES, Blocks, BufId, Check, CommitNo, Lba, Memory, Nonce, Pba, Seq, TAG_BYTES, VolumeId,
};

/// Collects the records of one commit. All memory is taken at construction.
pub struct CommitBuilder {
    bytes: Vec<u8>,
    end: usize,
    limit: usize,
    records: u16,
    seqs: u32,
}

/// A commit that is ready to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// Its number.
    pub no: CommitNo,
    /// Its check: the next commit's `previous`.
    pub check: Check,
    /// Its length.
    pub blocks: u32,
    /// Its first Seq.
    pub first_seq: Seq,
    /// How many Seqs it takes.
    pub seqs: u32,
}

impl Sealed {
    /// The Seq after the last that it takes.
    pub const fn next_seq(&self) -> Seq {
        Seq::new(self.first_seq.get() + self.seqs as u64)
    }
    /// What names it in a void.
    pub const fn void_of(&self) -> VoidOf {
        VoidOf { commit: self.no, check: self.check }
    }
}

impl CommitBuilder {
    /// A builder of commits of at most so many blocks (1 to `MAX_COMMIT_BLOCKS`).
    pub fn new(max_blocks: u32) -> Self {
        assert!((1..=MAX_COMMIT_BLOCKS).contains(&max_blocks), "a commit of {max_blocks} blocks");
        let limit = max_blocks as usize * BLOCK_BYTES;
        Self { bytes: vec![0; limit], end: HEADER_BYTES, limit, records: 0, seqs: 0 }
    }

    /// Begins a new commit; what was collected is forgotten.
    pub fn start(&mut self) {
        self.end = HEADER_BYTES;
        self.records = 0;
        self.seqs = 0;
    }

    /// Whether no record was added.
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }
    /// Length of the commit so far.
    pub const fn blocks(&self) -> u32 {
        commit_blocks(self.end - HEADER_BYTES)
    }
    /// Seqs taken so far.
    pub const fn seqs(&self) -> u32 {
        self.seqs
    }
    /// Whether a write of so many blocks in so many runs still fits. (0, 0) asks for a hole.
    pub const fn fits(&self, blocks: u64, runs: usize) -> bool {
        self.end + write_bytes(blocks, runs) <= self.limit
    }
    /// Whether a void still fits.
    pub const fn fits_void(&self) -> bool {
        self.end + VOID_BYTES <= self.limit
    }

    /// Adds a write that takes the next Seq: its data lies in `runs`, one after the other, and `checks` has the
    /// check of each block. Returns the offset of its Seq from the commit's first.
    pub fn write(&mut self, volume: VolumeId, lba: Lba, runs: &[(Pba, Blocks)], checks: &[Check]) -> u32 {
        let blocks = checks.len() as u64;
        assert!(self.fits(blocks, runs.len()), "the commit is full");
        let total: u64 = runs.iter().map(|(_, count)| count.get()).sum();
        assert!(total == blocks, "{total} blocks in runs, {blocks} checks");
        self.head(RecordKind::Write, runs.len() as u16, volume, lba, blocks);
        for (pba, count) in runs {
            let count = u16::try_from(count.get()).expect("a run of at most 65535 blocks");
            assert!(count > 0 && pba.get() + u64::from(count) <= Pba::LIMIT, "run out of the space");
            let run = self.take(RUN_BYTES);
            run[..RUN_PBA_BYTES].copy_from_slice(&pba.get().to_le_bytes()[..RUN_PBA_BYTES]);
            run[RUN_PBA_BYTES] = 0;
            put_u16(run, RUN_COUNT, count);
        }
        for check in checks {
            put_check(self.take(CHECK_BYTES), 0, *check);
        }
        self.take_seq()
    }

    /// Adds a range of zeroes that takes the next Seq. Returns the offset of its Seq from the commit's first.
    pub fn hole(&mut self, volume: VolumeId, lba: Lba, blocks: Blocks) -> u32 {
        assert!(self.fits(0, 0), "the commit is full");
        self.head(RecordKind::Hole, 0, volume, lba, blocks.get());
        self.take_seq()
    }

    /// Adds a void: the commit of that number and check could not complete and does not count. Takes no Seq. If
    /// the commit that holds this fails in turn, the next one names it and repeats what it named: the voids of a
    /// voided commit do not count.
    pub fn void(&mut self, commit: CommitNo, check: Check) {
        assert!(self.fits_void(), "the commit is full");
        let head = self.take(RECORD_BYTES);
        head.fill(0);
        head[R_KIND] = RecordKind::Void as u8;
        put_u64(head, R_LBA, commit.get());
        put_check(self.take(CHECK_BYTES), 0, check);
        self.records += 1;
    }

    /// Makes the commit, with its body encrypted if there is a cipher: `put` comes next, and nothing else.
    pub fn seal(&mut self, fields: &Fields, cipher: Option<&mut dyn Aead>) -> Sealed {
        let (end, blocks) = (self.end, self.blocks());
        let next = fields.first_seq.get() + u64::from(self.seqs);
        assert!(fields.first_seq > Seq::ZERO && next <= Seq::LIMIT, "Seqs run out of their range");
        assert!(fields.durable < fields.first_seq, "D lies before what is not yet written");
        self.put_header(fields);
        if let Some(cipher) = cipher {
            self.encrypt(fields.no, cipher);
        }
        let check = header_and_body_check(&self.bytes[..end]);
        put_check(&mut self.bytes, H_CHECK, check);
        Sealed { no: fields.no, check, blocks, first_seq: fields.first_seq, seqs: self.seqs }
    }

    /// Writes a commit that was sealed into its blocks of memory from `area` on. The builder is empty afterwards.
    pub fn put<M: Memory>(&mut self, memory: &mut M, area: BufId) {
        let end = self.end;
        let out = memory.blocks_mut(area, self.blocks());
        out[..end].copy_from_slice(&self.bytes[..end]);
        out[end..].fill(0);
        self.start();
    }

    /// The header up to the check is what the tag covers beside the body, so it is complete before.
    fn encrypt(&mut self, no: CommitNo, cipher: &mut dyn Aead) {
        put_u32(&mut self.bytes, H_FLAGS, FLAG_SEALED);
        let (header, rest) = self.bytes.split_at_mut(HEADER_BYTES);
        let body = &mut rest[..self.end - HEADER_BYTES];
        let tag = cipher.seal(&Nonce::commit(no), &header[..H_CHECK], body);
        header[H_TAG..H_TAG + TAG_BYTES].copy_from_slice(&tag.0);
    }

    fn put_header(&mut self, fields: &Fields) {
        let body = (self.end - HEADER_BYTES) as u32;
        let head = &mut self.bytes[..HEADER_BYTES];
        head.fill(0);
        head[H_MAGIC..H_MAGIC + 8].copy_from_slice(&MAGIC);
        put_u16(head, H_VERSION, VERSION);
        put_u16(head, H_LENGTH, HEADER_BYTES as u16);
        put_u16(head, H_RECORDS, self.records);
        put_u32(head, H_BODY_BYTES, body);
        put_uuid(head, H_GROUP, fields.group);
        put_uuid(head, H_HISTORY, fields.history);
        put_u64(head, H_GEN, fields.generation.get());
        put_u64(head, H_COMMIT, fields.no.get());
        put_u64(head, H_FIRST_SEQ, fields.first_seq.get());
        put_u32(head, H_SEQS, self.seqs);
        put_u32(head, H_OFFSET, fields.offset);
        put_check(head, H_PREVIOUS, fields.previous);
        put_u64(head, H_SUPERBLOCK_GEN, fields.superblock.generation.get());
        put_u64(head, H_SUPERBLOCK_VERSION, fields.superblock.version);
        put_u64(head, H_DURABLE, fields.durable.get());
    }

    fn head(&mut self, kind: RecordKind, runs: u16, volume: VolumeId, lba: Lba, blocks: u64) {
        assert!(blocks > 0 && lba.get() + blocks <= LBA_LIMIT, "range out of the volume's address space");
        let head = self.take(RECORD_BYTES);
        head[R_KIND] = kind as u8;
        head[R_FLAGS] = 0;
        put_u16(head, R_RUNS, runs);
        put_u32(head, R_VOLUME, volume.get());
        put_u64(head, R_LBA, lba.get());
        put_u64(head, R_BLOCKS, blocks);
        self.records += 1;
    }

    fn take(&mut self, bytes: usize) -> &mut [u8] {
        let at = self.end;
        self.end += bytes;
        &mut self.bytes[at..self.end]
    }

    fn take_seq(&mut self) -> u32 {
        self.seqs += 1;
        self.seqs - 1
    }
}
