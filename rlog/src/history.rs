//! The history: which activation owns which part of the order.
//!
//! An activation is a line: from this Seq and this commit number on, the group belongs to (Gen, id). The line is
//! durable on every current leg before the activation's first commit, so a commit whose (Gen, id) is not that of
//! its number's owner belongs to a tail that some recovery cut off: it has the numbers of commits that came
//! later, an intact check and perhaps even the right predecessor, and must not count. Lines are only ever
//! appended; a later line may start at the same number as an earlier one, which then owns nothing.
use crate::layout::*;
use alloc::vec::Vec;
use base::codec::{put_u16, put_u32, put_u64, put_uuid, u16_at, u32_at, u64_at, uuid_at};
use base::{Block, CkptNo, CommitNo, Gen, Seq, Uuid};

/// One activation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// First Seq that it may take.
    pub first_seq: Seq,
    /// First commit number that it may take.
    pub first_commit: CommitNo,
    /// Its number.
    pub generation: Gen,
    /// Its random id.
    pub id: Uuid,
    /// Salt of its keys; zero in plain groups.
    pub salt: [u8; 16],
    /// First number that a checkpoint of it may have; zero in plain groups. It tells whose keys a page was sealed
    /// with: *when* does not, for what an activation replays has Seqs of the ones before.
    pub first_ckpt: CkptNo,
    /// Number of its data key; zero in plain groups.
    pub key: u16,
}

impl Line {
    /// No activation: what a group has before its first one.
    pub const NONE: Self = Self {
        first_seq: Seq::ZERO,
        first_commit: CommitNo::ZERO,
        generation: Gen::ZERO,
        id: Uuid::NIL,
        salt: [0; 16],
        first_ckpt: CkptNo::ZERO,
        key: 0,
    };

    /// Stores the line in `LINE_BYTES` bytes.
    pub fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..LINE_BYTES];
        out.fill(0);
        put_u64(out, L_FIRST_SEQ, self.first_seq.get());
        put_u64(out, L_FIRST_COMMIT, self.first_commit.get());
        put_u64(out, L_GEN, self.generation.get());
        put_uuid(out, L_ID, self.id);
        out[L_SALT..L_SALT + 16].copy_from_slice(&self.salt);
        put_u32(out, L_FIRST_CKPT, self.first_ckpt.get());
        put_u16(out, L_KEY, self.key);
    }

    /// Reads the line from `LINE_BYTES` bytes; `None` if it cannot be one.
    pub fn decode(from: &[u8]) -> Option<Self> {
        let from = from.get(..LINE_BYTES)?;
        let line = Self {
            first_seq: Seq::new(u64_at(from, L_FIRST_SEQ)),
            first_commit: CommitNo::new(u64_at(from, L_FIRST_COMMIT)),
            generation: Gen::new(u64_at(from, L_GEN)),
            id: uuid_at(from, L_ID),
            salt: from[L_SALT..L_SALT + 16].try_into().ok()?,
            first_ckpt: CkptNo::new(u32_at(from, L_FIRST_CKPT)),
            key: u16_at(from, L_KEY),
        };
        let reserved_is_zero = from[L_KEY + 2..].iter().all(|b| *b == 0);
        let seq_in_range = (1..Seq::LIMIT).contains(&line.first_seq.get());
        let plain_or_whole = (line.key == 0) == (line.first_ckpt == CkptNo::ZERO);
        (reserved_is_zero && plain_or_whole && seq_in_range && line.id != Uuid::NIL).then_some(line)
    }
}

/// Why a line cannot follow the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutOfOrder {
    /// Its Gen is not higher.
    Generation,
    /// It starts at a lower commit number.
    Commit,
    /// It starts at a lower Seq.
    Seq,
    /// It starts at a lower checkpoint.
    Checkpoint,
}

/// The lines of a group, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    lines: Vec<Line>,
}

impl History {
    /// No line.
    pub const fn new() -> Self {
        Self { lines: Vec::new() }
    }

    /// Adds the newest line.
    pub fn append(&mut self, line: Line) -> Result<(), OutOfOrder> {
        if let Some(last) = self.lines.last() {
            if line.generation <= last.generation {
                return Err(OutOfOrder::Generation);
            }
            if line.first_commit < last.first_commit {
                return Err(OutOfOrder::Commit);
            }
            if line.first_seq < last.first_seq {
                return Err(OutOfOrder::Seq);
            }
            if line.first_ckpt < last.first_ckpt {
                return Err(OutOfOrder::Checkpoint);
            }
        }
        self.lines.push(line);
        Ok(())
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
    /// The newest line.
    pub fn newest(&self) -> Option<&Line> {
        self.lines.last()
    }

    /// The activation that a commit with this number must be of; `None` before the first line.
    pub fn owner_of_commit(&self, no: CommitNo) -> Option<&Line> {
        self.lines[..self.lines.partition_point(|line| line.first_commit <= no)].last()
    }
    /// The activation that a write with this Seq must be of; `None` before the first line.
    pub fn owner_of_seq(&self, seq: Seq) -> Option<&Line> {
        self.lines[..self.lines.partition_point(|line| line.first_seq <= seq)].last()
    }
    /// The activation that wrote the pages of this checkpoint, in an encrypted group; `None` before the first line.
    pub fn owner_of_ckpt(&self, ckpt: CkptNo) -> Option<&Line> {
        self.lines[..self.lines.partition_point(|line| line.first_ckpt <= ckpt)].last()
    }
    /// Whether a commit of this activation counts.
    pub fn owns(&self, generation: Gen, id: Uuid, no: CommitNo) -> bool {
        self.owner_of_commit(no).is_some_and(|line| line.generation == generation && line.id == id)
    }
}

/// Why a block is not a history page. Its check is its parent's to verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadPage {
    /// It does not begin like one.
    NotAPage,
    /// This version does not read that format.
    Version(u16),
    /// More lines than a page has.
    Length,
    /// A reserved byte is not zero.
    Reserved,
    /// A line is malformed or out of order; which one.
    Line(u16),
}

/// Writes a page of at most `LINES_PER_PAGE` lines. `previous` is the caller's reference to the page before,
/// zero if there is none.
pub fn encode_page(lines: &[Line], previous: &[u8; PREVIOUS_BYTES], page: &mut Block) {
    assert!(lines.len() <= LINES_PER_PAGE, "{} lines on a page", lines.len());
    page.fill(0);
    page[P_MAGIC..P_MAGIC + 8].copy_from_slice(&PAGE_MAGIC);
    put_u16(page, P_VERSION, VERSION);
    put_u16(page, P_LINES, lines.len() as u16);
    page[P_PREVIOUS..P_PREVIOUS + PREVIOUS_BYTES].copy_from_slice(previous);
    for (line, out) in lines.iter().zip(page[P_FIRST_LINE..].chunks_exact_mut(LINE_BYTES)) {
        line.encode(out);
    }
}

/// Reads a page: appends its lines to `into` and returns the caller's reference to the page before.
pub fn decode_page(page: &Block, into: &mut Vec<Line>) -> Result<[u8; PREVIOUS_BYTES], BadPage> {
    if page[P_MAGIC..P_MAGIC + 8] != PAGE_MAGIC {
        return Err(BadPage::NotAPage);
    }
    let version = u16_at(page, P_VERSION);
    if version != VERSION {
        return Err(BadPage::Version(version));
    }
    let count = usize::from(u16_at(page, P_LINES));
    if count > LINES_PER_PAGE {
        return Err(BadPage::Length);
    }
    let end = P_FIRST_LINE + count * LINE_BYTES;
    if [&page[P_LINES + 2..P_PREVIOUS], &page[end..]].iter().any(|part| part.iter().any(|b| *b != 0)) {
        return Err(BadPage::Reserved);
    }
    let first = into.len();
    for (index, bytes) in page[P_FIRST_LINE..end].chunks_exact(LINE_BYTES).enumerate() {
        let line = Line::decode(bytes).ok_or(BadPage::Line(index as u16))?;
        if into[first..].last().is_some_and(|before| line.generation <= before.generation) {
            return Err(BadPage::Line(index as u16));
        }
        into.push(line);
    }
    Ok(page[P_PREVIOUS..P_PREVIOUS + PREVIOUS_BYTES].try_into().expect("field width"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(first_seq: u64, first_commit: u64, generation: u64) -> Line {
        Line {
            first_seq: Seq::new(first_seq),
            first_commit: CommitNo::new(first_commit),
            generation: Gen::new(generation),
            id: Uuid([generation as u8; 16]),
            salt: [9; 16],
            first_ckpt: base::CkptNo::ZERO,
            key: 0,
        }
    }

    #[test]
    fn a_number_belongs_to_the_last_line_that_starts_at_or_before_it() {
        let mut history = History::new();
        for l in [line(1, 1, 1), line(10, 5, 2), line(10, 5, 4), line(12, 6, 5)] {
            history.append(l).expect("in order");
        }
        let owner = |n| history.owner_of_commit(CommitNo::new(n)).map(|l| l.generation.get());
        assert_eq!([0, 1, 4, 5, 6, 99].map(owner), [None, Some(1), Some(1), Some(4), Some(5), Some(5)]);
        let owner = |n| history.owner_of_seq(Seq::new(n)).map(|l| l.generation.get());
        assert_eq!([0, 1, 9, 10, 12].map(owner), [None, Some(1), Some(1), Some(4), Some(5)]);
        assert!(history.owns(Gen::new(4), Uuid([4; 16]), CommitNo::new(5)));
        assert!(!history.owns(Gen::new(2), Uuid([2; 16]), CommitNo::new(5)));
        assert!(!history.owns(Gen::new(4), Uuid([2; 16]), CommitNo::new(5)));
    }

    #[test]
    fn lines_only_move_forward() {
        let mut history = History::new();
        history.append(line(10, 5, 2)).expect("first");
        assert_eq!(history.append(line(11, 6, 2)), Err(OutOfOrder::Generation));
        assert_eq!(history.append(line(11, 4, 3)), Err(OutOfOrder::Commit));
        assert_eq!(history.append(line(9, 6, 3)), Err(OutOfOrder::Seq));
        assert_eq!(history.lines().len(), 1);
    }

    #[test]
    fn a_page_comes_back() {
        let lines: Vec<Line> = (1..=LINES_PER_PAGE as u64).map(|i| line(i, i, i)).collect();
        let mut previous = [0; PREVIOUS_BYTES];
        previous[191] = 7;
        let mut page = [0xff; 4096];
        encode_page(&lines, &previous, &mut page);
        let mut back = Vec::new();
        assert_eq!(decode_page(&page, &mut back), Ok(previous));
        assert_eq!(back, lines);
        // Golden: the first line, byte for byte.
        let mut golden = [0u8; 64];
        (golden[0], golden[8], golden[16]) = (1, 1, 1);
        golden[24..40].fill(1);
        golden[40..56].fill(9);
        assert_eq!(page[P_FIRST_LINE..P_FIRST_LINE + 64], golden);
        assert_eq!(page[..12], *b"PLNTHHIS\x01\0\x3c\0");
    }

    #[test]
    fn a_damaged_page_is_refused() {
        let mut page = [0; 4096];
        encode_page(&[line(1, 1, 1), line(2, 2, 2)], &[0; PREVIOUS_BYTES], &mut page);
        let read = |at: usize, value: u8| {
            let mut bad = page;
            bad[at] = value;
            decode_page(&bad, &mut Vec::new()).expect_err("damaged")
        };
        assert_eq!(read(0, 0), BadPage::NotAPage);
        assert_eq!(read(P_VERSION, 2), BadPage::Version(2));
        assert_eq!(read(P_LINES, 61), BadPage::Length);
        assert_eq!(read(P_LINES, 1), BadPage::Reserved);
        assert_eq!(read(P_FIRST_LINE + L_FIRST_SEQ, 0), BadPage::Line(0));
        assert_eq!(read(P_FIRST_LINE + L_GEN, 2), BadPage::Line(1));
        assert_eq!(read(20, 1), BadPage::Reserved);
    }
}
