//! What becomes of each commit that recovery found: a decision table.
//!
//! The rule behind it: above D nothing was promised, so the tail ends before the first commit that no leg can
//! complete; at or below D everything was promised, so nothing is ever cut, and what is missing there is either
//! a reason not to open or, where it is data, a block that reads as an error once somebody asks for it. The table is walked in the order of the chain; once it
//! says `CutHere` the chain is made anew with `Scan::chain_before` that commit, because a void goes with the
//! commit that names it, and the table is asked again for what the shorter chain has.
//!
//! An accepted commit is made complete on every current leg, and flushed, before the first request is served:
//! a read must not be answered from a commit that a second crash could lose. The superblock that begins the new
//! activation says D = the last Seq of the chain (`Chain::next_seq` less one), so that no later recovery can
//! cut what this one accepted: its history line starts there, and a chain that ends earlier could not be
//! continued.
use base::LegSet;

/// What was found of one commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The legs that are current: what must have everything.
    pub current: LegSet,
    /// D covers the commit.
    pub at_or_below_d: bool,
    /// Every commit before it since the checkpoint was accepted or skipped.
    pub predecessor: bool,
    /// A void of the chain names it.
    pub voided: bool,
    /// The legs on which the commit itself is intact.
    pub commit_on: LegSet,
    /// The data that it records.
    pub data: Data,
}

/// What was found of the data that a commit records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data {
    /// It was not looked at: at or below D it need not be.
    NotRead,
    /// It was read on every current leg.
    Read {
        /// The legs on which every block is intact.
        complete_on: LegSet,
        /// Every block is intact on some leg, not all of them necessarily on the same.
        each_somewhere: bool,
    },
}

impl Data {
    /// The data of a commit that records none, or all of whose data is intact everywhere.
    pub const fn intact(current: LegSet) -> Self {
        Self::Read { complete_on: current, each_somewhere: true }
    }
}

/// Current legs that lack something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lacking {
    /// The commit.
    pub commit: LegSet,
    /// A block of its data (as far as it was read).
    pub data: LegSet,
}

/// What to do about a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It counts, and every current leg has it.
    Accept,
    /// It counts; these legs get what they lack, bit for bit, before anything is served.
    AcceptAndComplete(Lacking),
    /// The log ends before it.
    CutHere,
    /// It was promised and no leg has it: the group does not open.
    RefuseMissing,
    /// It does not count, and the chain goes on behind it.
    SkipVoided,
}

/// The rows of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Row {
    /// The chain already ended and D does not cover the commit: it was never acknowledged, or something
    /// acknowledged before it would be missing too. It goes with the tail, voided or not.
    AfterCut,
    /// A void of the chain names it. Its writes were answered with an error or recorded again under later
    /// Seqs, whether or not its own block reached a drive: on neither side of D does it count.
    Voided,
    /// D covers it and no current leg can read it. Its writes were acknowledged as durable, and all after it
    /// depend on it: refuse. The same if the chain ended before a commit that D covers: what D covers has only
    /// predecessors that it covers, so something promised is missing.
    PromisedMissing,
    /// D does not cover it and no current leg can read it: it did not complete before the crash, so neither it
    /// nor anything after it was acknowledged as durable. The log ends here.
    NeverCompleted,
    /// D covers it and every current leg has it. Its data is not looked at: it was flushed, so what is wrong with it came
    /// later, is found by whoever reads it, and takes nothing back.
    Promised,
    /// D covers it, but a current leg lost the commit: damage on that leg, repaired from another.
    PromisedPartly,
    /// D does not cover it and a block of its data is intact on no leg: the write was cut short. The log ends
    /// here, even if later commits are whole.
    DataCutShort,
    /// D does not cover it, but the legs together have the commit and all its data. It may have been
    /// acknowledged (and a read may have returned it), so it stays; the legs that lack something get it.
    CompletedPartly,
    /// D does not cover it and every current leg has all of it.
    Completed,
}

impl Row {
    /// All rows.
    pub const ALL: [Self; 9] = [
        Self::AfterCut,
        Self::Voided,
        Self::PromisedMissing,
        Self::NeverCompleted,
        Self::Promised,
        Self::PromisedPartly,
        Self::DataCutShort,
        Self::CompletedPartly,
        Self::Completed,
    ];
    /// How many rows there are.
    pub const COUNT: usize = Self::ALL.len();
    /// Its place in `ALL`, for counting.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// How often each row was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowCounts(pub [u64; Row::COUNT]);

impl RowCounts {
    /// Counts one use.
    pub fn count(&mut self, row: Row) {
        self.0[row.index()] += 1;
    }
    /// Uses of a row.
    pub const fn of(&self, row: Row) -> u64 {
        self.0[row.index()]
    }
}

/// The row that applies.
pub fn row(found: &Found) -> Row {
    let commit_on = found.commit_on.and(found.current);
    let lacking = lacking(found);
    let whole = lacking == Lacking::default();
    let lost = matches!(found.data, Data::Read { each_somewhere: false, .. });
    match (found.at_or_below_d, found.predecessor) {
        (false, false) => Row::AfterCut,
        (true, false) => Row::PromisedMissing,
        _ if found.voided => Row::Voided,
        (true, true) if commit_on.is_empty() => Row::PromisedMissing,
        (false, true) if commit_on.is_empty() => Row::NeverCompleted,
        (true, true) if whole => Row::Promised,
        (true, true) => Row::PromisedPartly,
        (false, true) if lost => Row::DataCutShort,
        (false, true) if whole => Row::Completed,
        (false, true) => Row::CompletedPartly,
    }
}

/// The decision, and the row it came from. Panics if the data of a commit that may be cut was not read, or if that of one
/// that may not be was.
pub fn decide(found: &Found) -> (Row, Decision) {
    assert!(!found.at_or_below_d || found.data == Data::NotRead, "at or below D data decides nothing");
    let row = row(found);
    let decision = match row {
        Row::AfterCut | Row::NeverCompleted | Row::DataCutShort => Decision::CutHere,
        Row::PromisedMissing => Decision::RefuseMissing,
        Row::Voided => Decision::SkipVoided,
        Row::PromisedPartly | Row::CompletedPartly => Decision::AcceptAndComplete(lacking(found)),
        Row::Promised | Row::Completed => Decision::Accept,
    };
    let judged_by_data = matches!(row, Row::CompletedPartly | Row::Completed);
    assert!(!judged_by_data || found.data != Data::NotRead, "above D data must be read before it counts");
    (row, decision)
}

fn lacking(found: &Found) -> Lacking {
    let data = match found.data {
        Data::NotRead => LegSet::EMPTY,
        Data::Read { complete_on, .. } => found.current.without(complete_on),
    };
    Lacking { commit: found.current.without(found.commit_on), data }
}

#[cfg(test)]
mod tests;
