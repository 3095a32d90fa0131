//! Reading a commit: a view over bytes that cannot panic, whatever the bytes.
//!
//! `Commit::parse` accepts exactly what `CommitBuilder` can write: the check holds over header and body, every
//! reserved byte and every byte after the body is zero, every count agrees with every other, and every address
//! lies below its limit. The body of an encrypted group's commit is sealed: everybody can tell that such a commit is
//! whole, and only `open`, which has the key, what its records are. So what parses on two legs with the same check is the same to the last bit, and nobody
//! behind this point needs to check a record again.
use crate::layout::*;
use base::codec::{check_at, is_zero, u16_at, u32_at, u64_at, uuid_at};
use base::{
    Aead, BLOCK_BYTES, Blocks, Check, CommitNo, Gen, Lba, Nonce, Pba, Seq, TAG_BYTES, Tag, Uuid, VolumeId,
};

/// Names a superblock of a group; the newest is the highest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SuperblockId {
    /// The activation that wrote it.
    pub generation: Gen,
    /// Its version; grows with every superblock of the group.
    pub version: u64,
}

/// What a commit says of itself, apart from its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fields {
    /// The group whose log this is.
    pub group: Uuid,
    /// The activation: its random id.
    pub history: Uuid,
    /// The activation: its number.
    pub generation: Gen,
    /// The commit's number.
    pub no: CommitNo,
    /// Ring block of the column at which it lies.
    pub offset: u32,
    /// Seq of the first record that takes one; the next Seq to be taken if none does. Never 0: Seq 0 is the
    /// state before the first write.
    pub first_seq: Seq,
    /// Check of the commit before; `Check::NONE` before the first of a group.
    pub previous: Check,
    /// The newest superblock that is durable on every current leg.
    pub superblock: SuperblockId,
    /// D: every Seq up to and including this one is durable on all current legs.
    pub durable: Seq,
}

/// What a record does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// Data went to the runs.
    Write = 1,
    /// The range reads as zero (discard, write-zeroes).
    Hole = 2,
    /// A commit could not complete and does not count.
    Void = 3,
}

/// The commit that a void takes out of the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoidOf {
    /// Its number.
    pub commit: CommitNo,
    /// Its check: what its successor names as the commit before.
    pub check: Check,
}

/// Why bytes are not a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bad {
    /// They do not begin like one.
    NotACommit,
    /// This version does not read that format.
    Version(u16),
    /// Length of header or body out of bounds.
    Length,
    /// The commit has more blocks than there are bytes: so many.
    Short(u32),
    /// The check does not hold: torn, rotten or a mixture of two.
    Check,
    /// A reserved byte is not zero.
    Reserved,
    /// A number of the header is out of its range.
    Header,
    /// A record is malformed; which one.
    Record(u16),
    /// The body does not open with the key: it was made by somebody without it, or for another place.
    Forged,
}

/// Keys of a log, by whom a commit says that it is of.
pub trait Unseal {
    /// The cipher for the bodies of an activation's commits; `None` if it has none: in a plain group, or for an
    /// activation that the group does not know.
    fn cipher(&mut self, fields: &Fields) -> Option<&mut dyn Aead>;
    /// Whether bodies are sealed. A commit that is not what the group's are counts for nothing.
    fn seals(&self) -> bool;
    /// Whether sealed bodies are opened. Whoever has no keys takes a commit that is whole for what it says, and sees none
    /// of its records.
    fn opens(&self) -> bool {
        true
    }
}

/// The log of a plain group.
pub struct Plain;

impl Unseal for Plain {
    fn cipher(&mut self, _: &Fields) -> Option<&mut dyn Aead> {
        None
    }
    fn seals(&self) -> bool {
        false
    }
}

/// The log of an encrypted group, for whoever has no keys.
pub struct Outside;

impl Unseal for Outside {
    fn cipher(&mut self, _: &Fields) -> Option<&mut dyn Aead> {
        None
    }
    fn seals(&self) -> bool {
        true
    }
    fn opens(&self) -> bool {
        false
    }
}

/// The way in: `Commit::parse`.
pub struct Commit;

/// An intact commit.
#[derive(Clone, Copy, Debug)]
pub struct CommitView<'a> {
    fields: Fields,
    check: Check,
    seqs: u32,
    records: u16,
    sealed: bool,
    body: &'a [u8],
}

/// One record of an intact commit.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// What it does.
    pub kind: RecordKind,
    /// The volume; 0 for a void.
    pub volume: VolumeId,
    /// First block; 0 for a void.
    pub lba: Lba,
    /// Length; 0 for a void.
    pub blocks: Blocks,
    /// Its place in the order; a void has none.
    pub seq: Option<Seq>,
    void: Option<VoidOf>,
    runs: &'a [u8],
    checks: &'a [u8],
}

/// The blocks of a commit whose body has so many bytes.
pub(crate) const fn commit_blocks(body_bytes: usize) -> u32 {
    (HEADER_BYTES + body_bytes).div_ceil(BLOCK_BYTES) as u32
}

impl Commit {
    /// How many blocks a commit that begins here would have, judged by its header alone: `Err` if this is not
    /// the beginning of one. Nothing is verified; a reader uses it to fetch enough bytes for `parse`.
    pub fn blocks(bytes: &[u8]) -> Result<u32, Bad> {
        if bytes.len() < HEADER_BYTES || bytes[H_MAGIC..H_MAGIC + 8] != MAGIC {
            return Err(Bad::NotACommit);
        }
        let version = u16_at(bytes, H_VERSION);
        if version != VERSION {
            return Err(Bad::Version(version));
        }
        let body = u32_at(bytes, H_BODY_BYTES) as usize;
        if usize::from(u16_at(bytes, H_LENGTH)) != HEADER_BYTES || body > MAX_BODY_BYTES {
            return Err(Bad::Length);
        }
        Ok(commit_blocks(body))
    }

    /// The commit that begins at the first byte, with its records: the body is decrypted in place, if it is sealed and
    /// `keys` open it.
    ///
    /// # Errors
    /// As `parse`; `Forged` if the body does not open, or no key is there for it; `Reserved` if it is sealed and the
    /// group's are not, or the other way round.
    pub fn open<'a>(bytes: &'a mut [u8], keys: &mut dyn Unseal) -> Result<CommitView<'a>, Bad> {
        let view = Self::parse(bytes)?;
        if view.sealed != keys.seals() {
            return Err(Bad::Reserved);
        }
        if !view.sealed || !keys.opens() {
            return Self::parse(bytes);
        }
        let CommitView { fields, check, seqs, records, body, .. } = view;
        let end = HEADER_BYTES + body.len();
        let tag = Tag(bytes[H_TAG..H_TAG + TAG_BYTES].try_into().expect("as many"));
        let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
        let text = &mut rest[..end - HEADER_BYTES];
        let cipher = keys.cipher(&fields).ok_or(Bad::Forged)?;
        if !cipher.open(&Nonce::commit(fields.no), &header[..H_CHECK], text, &tag) {
            return Err(Bad::Forged);
        }
        let view = CommitView { fields, check, seqs, records, sealed: false, body: text };
        view.validate()?;
        Ok(view)
    }

    /// The commit that begins at the first byte; what lies behind its last block is not looked at. The records of a
    /// sealed one are not verified.
    pub fn parse(bytes: &[u8]) -> Result<CommitView<'_>, Bad> {
        let blocks = Self::blocks(bytes)?;
        let bytes = bytes.get(..blocks as usize * BLOCK_BYTES).ok_or(Bad::Short(blocks))?;
        let end = HEADER_BYTES + u32_at(bytes, H_BODY_BYTES) as usize;
        let check = check_at(bytes, H_CHECK);
        if check != header_and_body_check(&bytes[..end]) {
            return Err(Bad::Check);
        }
        let sealed = u32_at(bytes, H_FLAGS) == FLAG_SEALED;
        let unused = [&bytes[if sealed { H_RESERVED } else { H_TAG }..HEADER_BYTES], &bytes[end..]];
        if u16_at(bytes, H_LANE) != 0
            || (u32_at(bytes, H_FLAGS) != 0 && !sealed)
            || !unused.iter().all(|part| is_zero(part))
        {
            return Err(Bad::Reserved);
        }
        let view = CommitView {
            fields: fields_at(bytes),
            check,
            seqs: u32_at(bytes, H_SEQS),
            records: u16_at(bytes, H_RECORDS),
            sealed,
            body: &bytes[HEADER_BYTES..end],
        };
        view.validate()?;
        Ok(view)
    }
}

/// The check of a commit: over header with the check's own field zero, and body.
pub(crate) fn header_and_body_check(bytes: &[u8]) -> Check {
    Check::of_pieces(&[&bytes[..H_CHECK], &[0; CHECK_BYTES], &bytes[H_CHECK + CHECK_BYTES..]])
}

fn fields_at(bytes: &[u8]) -> Fields {
    Fields {
        group: uuid_at(bytes, H_GROUP),
        history: uuid_at(bytes, H_HISTORY),
        generation: Gen::new(u64_at(bytes, H_GEN)),
        no: CommitNo::new(u64_at(bytes, H_COMMIT)),
        offset: u32_at(bytes, H_OFFSET),
        first_seq: Seq::new(u64_at(bytes, H_FIRST_SEQ)),
        previous: check_at(bytes, H_PREVIOUS),
        superblock: SuperblockId {
            generation: Gen::new(u64_at(bytes, H_SUPERBLOCK_GEN)),
            version: u64_at(bytes, H_SUPERBLOCK_VERSION),
        },
        durable: Seq::new(u64_at(bytes, H_DURABLE)),
    }
}

impl<'a> CommitView<'a> {
    /// What it says of itself.
    pub const fn fields(&self) -> &Fields {
        &self.fields
    }
    /// Its own check, which its successor names.
    pub const fn check(&self) -> Check {
        self.check
    }
    /// Its length on the ring.
    pub const fn blocks(&self) -> u32 {
        commit_blocks(self.body.len())
    }
    /// How many of its records take a Seq.
    pub const fn seqs(&self) -> u32 {
        self.seqs
    }
    /// The Seq after the last that it takes.
    pub const fn next_seq(&self) -> Seq {
        Seq::new(self.fields.first_seq.get() + self.seqs as u64)
    }
    /// Number of its records.
    pub const fn record_count(&self) -> u16 {
        self.records
    }
    /// How many of its records take no Seq: they are voids.
    pub const fn void_count(&self) -> u16 {
        self.records.saturating_sub(if self.seqs > u16::MAX as u32 { u16::MAX } else { self.seqs as u16 })
    }
    /// Whether its body is encrypted: its records are nobody's to see.
    pub const fn is_sealed(&self) -> bool {
        self.sealed
    }
    /// Its records, in order. Panics if they are sealed.
    pub const fn records(&self) -> Records<'a> {
        assert!(!self.sealed, "a sealed commit is opened first");
        Records { rest: self.body, next: self.fields.first_seq, left: self.records }
    }
    /// The commits that it takes out of the chain.
    pub fn voids(&self) -> impl Iterator<Item = VoidOf> + 'a {
        self.records().filter_map(|record| record.void)
    }

    fn validate(&self) -> Result<(), Bad> {
        let first = self.fields.first_seq.get();
        let end = first.checked_add(u64::from(self.seqs)).ok_or(Bad::Header)?;
        // The number after the last must exist, so that a successor can be named.
        if first == 0 || end > Seq::LIMIT || self.fields.no.get() == u64::MAX {
            return Err(Bad::Header);
        }
        if self.sealed {
            return Ok(());
        }
        let mut rest = self.body;
        let mut seq = first;
        for index in 0..self.records {
            let (record, behind) = record_at(rest, Seq::new(seq)).ok_or(Bad::Record(index))?;
            if record.void.is_some_and(|void| void.commit >= self.fields.no) {
                return Err(Bad::Record(index));
            }
            seq += u64::from(record.seq.is_some());
            rest = behind;
        }
        if !rest.is_empty() || seq != end {
            return Err(Bad::Header);
        }
        Ok(())
    }
}

/// Iterates over the records of a commit.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    next: Seq,
    left: u16,
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordView<'a>;
    fn next(&mut self) -> Option<RecordView<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (record, rest) = record_at(self.rest, self.next)?;
        self.rest = rest;
        if record.seq.is_some() {
            self.next = self.next.next();
        }
        Some(record)
    }
}

/// The record at the beginning of these bytes and what lies behind it; `None` if it is malformed.
fn record_at(bytes: &[u8], seq: Seq) -> Option<(RecordView<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(RECORD_BYTES)?;
    let (runs, volume) = (usize::from(u16_at(head, R_RUNS)), VolumeId::new(u32_at(head, R_VOLUME)));
    let (lba, blocks) = (u64_at(head, R_LBA), u64_at(head, R_BLOCKS));
    if head[R_FLAGS] != 0 {
        return None;
    }
    if head[R_KIND] == RecordKind::Void as u8 {
        let (check, rest) = rest.split_at_checked(CHECK_BYTES)?;
        let void = VoidOf { commit: CommitNo::new(lba), check: check_at(check, 0) };
        return (runs == 0 && blocks == 0 && volume == VolumeId::ZERO).then_some((void_view(void), rest));
    }
    let kind = match head[R_KIND] {
        k if k == RecordKind::Write as u8 => RecordKind::Write,
        k if k == RecordKind::Hole as u8 => RecordKind::Hole,
        _ => return None,
    };
    if blocks == 0 || lba.checked_add(blocks)? > LBA_LIMIT || (kind == RecordKind::Hole && runs != 0) {
        return None;
    }
    let (run_bytes, rest) = rest.split_at_checked(runs * RUN_BYTES)?;
    let checks = if kind == RecordKind::Write { usize::try_from(blocks).ok()? } else { 0 };
    let (check_bytes, rest) = rest.split_at_checked(checks.checked_mul(CHECK_BYTES)?)?;
    if kind == RecordKind::Write && runs_total(run_bytes)? != blocks {
        return None;
    }
    let (lba, blocks) = (Lba::new(lba), Blocks::new(blocks));
    let view = RecordView {
        kind,
        volume,
        lba,
        blocks,
        seq: Some(seq),
        void: None,
        runs: run_bytes,
        checks: check_bytes,
    };
    Some((view, rest))
}

fn void_view(void: VoidOf) -> RecordView<'static> {
    RecordView {
        kind: RecordKind::Void,
        volume: VolumeId::ZERO,
        lba: Lba::ZERO,
        blocks: Blocks::ZERO,
        seq: None,
        void: Some(void),
        runs: &[],
        checks: &[],
    }
}

/// The blocks of all runs together; `None` if a run is empty, leaves the space or has a stray byte.
fn runs_total(bytes: &[u8]) -> Option<u64> {
    bytes.chunks_exact(RUN_BYTES).try_fold(0u64, |total, run| {
        let (pba, count) = run_at(run);
        let sound = count > 0 && pba + count <= Pba::LIMIT && run[RUN_PBA_BYTES] == 0;
        sound.then_some(total + count)
    })
}

fn run_at(run: &[u8]) -> (u64, u64) {
    let mut pba = [0; 8];
    pba[..RUN_PBA_BYTES].copy_from_slice(&run[..RUN_PBA_BYTES]);
    (u64::from_le_bytes(pba), u64::from(u16_at(run, RUN_COUNT)))
}

impl<'a> RecordView<'a> {
    /// Where the data went, in the order of the Lbas; empty but for a write.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (Pba, Blocks)> + 'a {
        self.runs.chunks_exact(RUN_BYTES).map(|run| {
            let (pba, count) = run_at(run);
            (Pba::new(pba), Blocks::new(count))
        })
    }
    /// The check of each block, in the order of the Lbas; empty but for a write.
    pub fn checks(&self) -> impl ExactSizeIterator<Item = Check> + 'a {
        self.checks.chunks_exact(CHECK_BYTES).map(|check| check_at(check, 0))
    }
    /// Each block of a write: where its data belongs, where it went, its check.
    pub fn each_block(&self) -> impl Iterator<Item = (Lba, Pba, Check)> + 'a {
        let first = self.lba;
        let places = self.runs().flat_map(|(pba, count)| (0..count.get()).map(move |i| pba + Blocks::new(i)));
        places
            .zip(self.checks())
            .enumerate()
            .map(move |(i, (pba, check))| (first + Blocks::new(i as u64), pba, check))
    }
    /// Of a void: the commit that it takes out.
    pub const fn void_of(&self) -> Option<VoidOf> {
        self.void
    }
}

#[cfg(test)]
mod tests;
