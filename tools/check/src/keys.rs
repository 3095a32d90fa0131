//! Keys of encrypted groups, and what a block is with and without them.
//!
//! Without keys a block is whole or damaged: its check holds a CRC-32C of what is stored. With them a whole block is also
//! what was sealed for its place, or it is not: changed, moved there, or an older one. Row and history pages have a code
//! alone, which says nothing to whoever has no keys.
//!
//! What cannot be opened for a reason that has nothing to do with the block (a data key that was not given, a history that
//! was lost) is told once and not block by block; so is a data key that opens nothing.
use crate::group::GroupView;
use crate::report::{Finding, Object, Report, Severity};
use crate::scan::is_zero;
use base::{Block, Check, CkptNo, Lba, Pba, Seq, Uuid, VolumeId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use volume::keys::GroupKeys;
use volume::keys::reader::Reader;

/// Whoever has the keys of groups.
pub trait Keyring {
    /// The keys of a group, all of its data keys and its metadata key; `None` if they are not at hand. Asked once for each
    /// encrypted group.
    fn keys_of(&self, group: Uuid) -> Option<GroupKeys>;
}

/// No keys: encrypted groups are checked as far as anybody can.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKeys;

impl Keyring for NoKeys {
    fn keys_of(&self, _: Uuid) -> Option<GroupKeys> {
        None
    }
}

/// What is needed to look behind a group's checks.
pub(crate) enum Seals {
    /// Nothing: the group is not encrypted.
    None,
    /// Keys that are not at hand.
    Shut,
    /// The group's keys.
    Open(Box<RefCell<Opener>>),
}

/// How a block got its check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// A row or history page.
    Home,
    /// A page of map, directory or free space.
    Page(CkptNo),
    /// A block of a volume.
    Data(VolumeId, Lba, Seq),
}

/// What a block is that is not wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Right {
    /// What was written there; a page is in plain text now.
    Open,
    /// Not damaged. What it holds is not to be seen.
    Whole,
}

/// What is wrong with a copy of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Zero,
    Damaged,
    /// Its check is right, and its tag is not.
    NotSealedHere,
    /// A page without a check that anybody could make, and not one.
    SomethingElse,
    Unreadable(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("is all zeroes"),
            Self::Damaged => f.write_str("fails its check"),
            Self::NotSealedHere => {
                f.write_str("is whole and not what was sealed here (changed, moved or old)")
            }
            Self::SomethingElse => f.write_str("holds something else"),
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

/// A group's keys at work, and what they did not open.
pub(crate) struct Opener {
    pub reader: Reader,
    /// Data keys that opened something.
    proven: BTreeSet<u16>,
    /// Findings about data under keys that have opened nothing yet.
    held: BTreeMap<u16, Vec<Finding>>,
    /// Blocks under data keys that were not given.
    lacking: BTreeMap<u16, u64>,
    /// Blocks of activations that the history does not tell.
    unknown: u64,
}

impl Seals {
    pub fn open(reader: Reader) -> Self {
        let opener = Opener {
            reader,
            proven: BTreeSet::new(),
            held: BTreeMap::new(),
            lacking: BTreeMap::new(),
            unknown: 0,
        };
        Self::Open(Box::new(RefCell::new(opener)))
    }

    /// Judges a block that was read from `at`; a page is in plain text then, if it opens.
    pub fn judge(&self, block: &mut Block, at: Pba, form: Form, check: Check) -> Result<Right, Fault> {
        let damaged = |block: &Block| if is_zero(block) { Fault::Zero } else { Fault::Damaged };
        let opener = match (self, form) {
            (Self::None, _) if Check::of(block) == check => return Ok(Right::Open),
            (Self::None, _) => return Err(damaged(block)),
            (Self::Shut, Form::Home) => return Ok(Right::Whole),
            (Self::Open(opener), Form::Home) => {
                let fits = opener.borrow().reader.is_home_page(block, check);
                return if fits { Ok(Right::Open) } else { Err(damaged(block)) };
            }
            _ if !check.crc_fits(block) => return Err(damaged(block)),
            (Self::Shut, _) => return Ok(Right::Whole),
            (Self::Open(opener), _) => opener,
        };
        opener.borrow_mut().open(block, at, form, check)
    }

    /// Adds a finding about a block, or keeps it until it is known whether the key is the right one.
    pub fn add(&self, form: Form, faults: &[&Fault], finding: Finding, report: &mut Report) {
        if let (Self::Open(opener), Form::Data(_, _, seq)) = (self, form)
            && faults.contains(&&Fault::NotSealedHere)
        {
            let mut opener = opener.borrow_mut();
            if let Some((number, _)) =
                opener.reader.data_key(seq).filter(|key| !opener.proven.contains(&key.0))
            {
                return opener.held.entry(number).or_default().push(finding);
            }
        }
        report.add(finding.severity, finding.object, finding.what, finding.at);
    }
}

impl Opener {
    fn open(&mut self, block: &mut Block, at: Pba, form: Form, check: Check) -> Result<Right, Fault> {
        match form {
            Form::Home => unreachable!("has a code, and nothing to open"),
            Form::Page(ckpt) if !self.reader.knows_checkpoint(ckpt) => self.unknown += 1,
            Form::Page(ckpt) => {
                *block = self.reader.page(block, at, ckpt, check).ok_or(Fault::NotSealedHere)?;
                return Ok(Right::Open);
            }
            Form::Data(volume, lba, seq) => match self.reader.data_key(seq) {
                None => self.unknown += 1,
                Some((number, false)) => *self.lacking.entry(number).or_default() += 1,
                Some((number, true)) => {
                    if !self.reader.is_data(block, (volume, lba, seq), check) {
                        return Err(Fault::NotSealedHere);
                    }
                    self.proven.insert(number);
                    return Ok(Right::Open);
                }
            },
        }
        Ok(Right::Whole)
    }
}

/// Tells what the keys did not open, when all was looked at.
pub(crate) fn report(view: &GroupView<'_>, report: &mut Report) {
    let Seals::Open(opener) = &view.seals else { return };
    let mut opener = opener.borrow_mut();
    for (number, findings) in std::mem::take(&mut opener.held) {
        if findings.len() == 1 || opener.proven.contains(&number) {
            for finding in findings {
                report.add(finding.severity, finding.object, finding.what, finding.at);
            }
            continue;
        }
        let what = format!(
            "data key {number} opens nothing of what is under it ({} blocks): it is another group's key, or all of them \
             were changed",
            findings.len()
        );
        report.add(Severity::Damage, Object::Group, what, Vec::new());
    }
    for (number, blocks) in &opener.lacking {
        let what = format!(
            "data key {number} was not given: {blocks} copies of blocks under it were only looked at for damage"
        );
        report.add(Severity::Damage, Object::Group, what, Vec::new());
    }
    if opener.unknown > 0 {
        let what = format!(
            "{} copies of blocks are of activations that the history does not tell: they were only looked at for damage",
            opener.unknown
        );
        report.add(Severity::Damage, Object::Group, what, Vec::new());
    }
}
