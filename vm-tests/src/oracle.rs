//! What a volume may hold after a power cut, known outside the machine that was cut.
//!
//! The load inside says each thing twice: before it asks the device (`issue`, `flush`) and after the device
//! has answered (`acked`, `flushed`). Its words reach the host in their order, but some time after they were said. So at
//! a cut the drives are looked at first, and what is heard behind it is believed in part: a request that was about to be
//! made may have reached the device (`take_late`), an answer is not known to have been given. The oracle then knows every
//! request that can have reached the device, and only answers that were given before the cut.
//!
//! The rule (contract C2 and C3): a block holds its last durable version or one that was issued later.
//! Durable is what was acknowledged before a flush was asked for that was then acknowledged, and what was
//! written with FUA and acknowledged. Each block belongs to one writer, which waits for each answer, so the
//! versions of a block are in order.
//!
//! A load of files says which ones it has synced, with their folder, and which it is about to remove. What it had
//! synced and not begun to remove is there, with its content ([`file_content`]); other files may be there or not.
//!
//! What it does not check: blocks that the load never writes, the order between blocks of different writers, and
//! files that were not synced.

use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Blocks are what the load writes whole.
pub const BLOCK_BYTES: usize = 4096;
/// The version of a block that was never written.
pub const BLANK: u64 = 0;

/// A line of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A writer is about to write `count` blocks at `block` with the version.
    Issue {
        /// Who.
        writer: u32,
        /// The first block.
        block: u64,
        /// How many.
        count: u64,
        /// The version of all of them; they become zeros when `zeros`.
        version: u64,
        /// Whether the blocks are discarded or zeroed.
        zeros: bool,
        /// Whether the write is durable when it is answered.
        durable: bool,
    },
    /// The writer's last request was answered.
    Acked {
        /// Who.
        writer: u32,
    },
    /// A writer is about to flush.
    Flush {
        /// Who.
        writer: u32,
    },
    /// The writer's flush was answered.
    Flushed {
        /// Who.
        writer: u32,
    },
    /// A file and its folder were synced.
    Kept(
        /// Which.
        FileName,
    ),
    /// A file is about to be removed.
    Removing(
        /// Which.
        FileName,
    ),
}

/// A file of a load: its writer, its version, and its length in bytes.
pub type FileName = (u32, u64, u64);

/// Where a file is, from the root of its file system.
#[must_use]
pub fn file_path((writer, version, bytes): FileName) -> String {
    format!("w{writer}/{version}-{bytes}")
}

/// What a file holds.
#[must_use]
pub fn file_content((writer, version, bytes): FileName) -> Vec<u8> {
    let mut random = Random::new(version ^ u64::from(writer) << 56);
    let mut content = Vec::with_capacity(usize::try_from(bytes).expect("files are small") + 8);
    while (content.len() as u64) < bytes {
        content.extend_from_slice(&random.draw().to_le_bytes());
    }
    content.truncate(usize::try_from(bytes).expect("files are small"));
    content
}

impl Fact {
    /// Parses a line. A line that a cut has shortened lacks its last word and is not a fact: the machine had
    /// not gone on behind it.
    #[must_use]
    pub fn parse(line: &str) -> Option<Fact> {
        let line = line.strip_suffix(" .")?;
        let mut words = line.split(' ');
        let kind = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let writer = u32::try_from(number()?).ok()?;
        match kind {
            "issue" => Some(Fact::Issue {
                writer,
                block: number()?,
                count: number()?,
                version: number()?,
                zeros: number()? == 1,
                durable: number()? == 1,
            }),
            "acked" => Some(Fact::Acked { writer }),
            "flush" => Some(Fact::Flush { writer }),
            "flushed" => Some(Fact::Flushed { writer }),
            "kept" => Some(Fact::Kept((writer, number()?, number()?))),
            "removing" => Some(Fact::Removing((writer, number()?, number()?))),
            _ => None,
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Issue { writer, block, count, version, zeros, durable } => {
                let (zeros, durable) = (u8::from(*zeros), u8::from(*durable));
                write!(f, "issue {writer} {block} {count} {version} {zeros} {durable} .")
            }
            Fact::Acked { writer } => write!(f, "acked {writer} ."),
            Fact::Flush { writer } => write!(f, "flush {writer} ."),
            Fact::Flushed { writer } => write!(f, "flushed {writer} ."),
            Fact::Kept((writer, version, bytes)) => write!(f, "kept {writer} {version} {bytes} ."),
            Fact::Removing((writer, version, bytes)) => write!(f, "removing {writer} {version} {bytes} ."),
        }
    }
}

/// The content of a block at a version.
#[must_use]
pub fn content(block: u64, version: u64, zeros: bool) -> Vec<u8> {
    if version == BLANK || zeros {
        return vec![0; BLOCK_BYTES];
    }
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    bytes.extend_from_slice(&block.to_le_bytes());
    bytes.extend_from_slice(&version.to_le_bytes());
    let mut word = block.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version;
    while bytes.len() < BLOCK_BYTES {
        word = word.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[derive(Clone, Copy, Debug)]
struct Version {
    number: u64,
    zeros: bool,
}

/// What is known of one block: the versions it may hold, oldest first. The first is the durable one.
#[derive(Clone, Debug)]
struct Block {
    allowed: Vec<Version>,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    block: u64,
    count: u64,
    version: u64,
    durable: bool,
}

#[derive(Clone, Debug, Default)]
struct Writer {
    /// The request without an answer.
    open: Option<Write>,
    /// How many answers had been given when its flush was asked for.
    flush: Option<usize>,
}

/// The state of the whole load.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    blocks: BTreeMap<u64, Block>,
    writers: BTreeMap<u32, Writer>,
    /// Answered writes that are not known to be durable, in the order of their answers, and how many came
    /// before the first of them.
    acked: Vec<Write>,
    acked_before: usize,
    /// Files that are there.
    files: BTreeSet<FileName>,
    /// Facts taken.
    pub facts: u64,
    /// Flushes that were answered.
    pub flushes: u64,
}

impl Oracle {
    /// Nothing was written yet.
    #[must_use]
    pub fn new() -> Oracle {
        Oracle::default()
    }

    /// Takes a fact.
    pub fn take(&mut self, fact: Fact) {
        self.facts += 1;
        match fact {
            Fact::Kept(file) => {
                self.files.insert(file);
                self.flushes += 1;
            }
            Fact::Removing(file) => {
                self.files.remove(&file);
            }
            Fact::Issue { writer, block, count, version, zeros, durable } => {
                for at in block..block + count {
                    let blank = || Block { allowed: vec![Version { number: BLANK, zeros: true }] };
                    self.blocks
                        .entry(at)
                        .or_insert_with(blank)
                        .allowed
                        .push(Version { number: version, zeros });
                }
                self.writers.entry(writer).or_default().open = Some(Write { block, count, version, durable });
            }
            Fact::Acked { writer } => {
                let Some(write) = self.writers.entry(writer).or_default().open.take() else { return };
                if write.durable {
                    self.make_durable(write);
                }
                self.acked.push(write);
            }
            Fact::Flush { writer } => {
                let answered = self.acked_before + self.acked.len();
                self.writers.entry(writer).or_default().flush = Some(answered);
            }
            Fact::Flushed { writer } => {
                let Some(answered) = self.writers.entry(writer).or_default().flush.take() else { return };
                self.flushes += 1;
                let covered = answered.saturating_sub(self.acked_before);
                let safe: Vec<Write> = self.acked.drain(..covered).collect();
                self.acked_before += covered;
                for write in safe {
                    self.make_durable(write);
                }
            }
        }
    }

    /// Takes a fact that was heard behind the cut, and may have been said before it.
    pub fn take_late(&mut self, fact: Fact) {
        match fact {
            Fact::Issue { .. } | Fact::Removing(_) => self.take(fact),
            Fact::Acked { .. } | Fact::Flush { .. } | Fact::Flushed { .. } | Fact::Kept(_) => {}
        }
    }

    /// The files that are there.
    #[must_use]
    pub fn files(&self) -> &BTreeSet<FileName> {
        &self.files
    }

    /// The blocks that were written, in order.
    pub fn blocks(&self) -> impl Iterator<Item = u64> {
        self.blocks.keys().copied()
    }

    /// What is known, as text, for a program that judges elsewhere: a line for each block, with the versions that
    /// it may hold, and one for each file. What is still open is not in it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (at, block) in &self.blocks {
            text.push_str(&format!("block {at}"));
            for version in &block.allowed {
                text.push_str(&format!(" {}{}", version.number, if version.zeros { "z" } else { "" }));
            }
            text.push('\n');
        }
        for (writer, version, bytes) in &self.files {
            text.push_str(&format!("file {writer} {version} {bytes}\n"));
        }
        text
    }

    /// Reads [`Oracle::to_text`]; `None` for anything else.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Oracle> {
        let mut oracle = Oracle::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            let kind = words.next()?;
            if kind == "file" {
                let mut number = || words.next()?.parse::<u64>().ok();
                oracle.files.insert((u32::try_from(number()?).ok()?, number()?, number()?));
                continue;
            }
            let at = (kind == "block").then(|| words.next()?.parse::<u64>().ok()).flatten()?;
            let allowed: Option<Vec<Version>> = words
                .map(|word| {
                    let digits = word.trim_end_matches('z');
                    Some(Version { number: digits.parse().ok()?, zeros: digits.len() < word.len() })
                })
                .collect();
            oracle.blocks.insert(at, Block { allowed: allowed.filter(|all| !all.is_empty())? });
        }
        Some(oracle)
    }

    fn make_durable(&mut self, write: Write) {
        for at in write.block..write.block + write.count {
            if let Some(block) = self.blocks.get_mut(&at)
                && let Some(first) = block.allowed.iter().position(|v| v.number == write.version)
            {
                block.allowed.drain(..first);
            }
        }
    }

    /// Compares what the volume holds with what it may hold, and settles on what was read: from now on each
    /// block holds that (contract C4). `read` returns a block's bytes.
    ///
    /// # Errors
    /// Every block that holds something else, at most ten of them in words.
    pub fn settle(&mut self, mut read: impl FnMut(u64) -> Vec<u8>) -> Result<Settled, Vec<String>> {
        let mut wrong = Vec::new();
        let mut settled = Settled::default();
        for (at, block) in &mut self.blocks {
            let bytes = read(*at);
            let found = block.allowed.iter().rposition(|v| content(*at, v.number, v.zeros) == bytes);
            settled.blocks += 1;
            match found {
                Some(index) => {
                    settled.older += u64::from(index + 1 < block.allowed.len());
                    block.allowed = vec![block.allowed[index]];
                }
                None if wrong.len() < 10 => wrong.push(describe(*at, block, &bytes)),
                None => {}
            }
        }
        self.writers.clear();
        self.acked.clear();
        self.acked_before = 0;
        if wrong.is_empty() { Ok(settled) } else { Err(wrong) }
    }
}

/// What a comparison saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settled {
    /// Blocks compared.
    pub blocks: u64,
    /// Blocks that lost a write that was not durable.
    pub older: u64,
}

fn describe(at: u64, block: &Block, bytes: &[u8]) -> String {
    let word = |index: usize| {
        bytes
            .get(index * 8..index * 8 + 8)
            .map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
    };
    let zeros = bytes.iter().all(|b| *b == 0);
    let (who, version) = (word(0), word(1));
    let what = if zeros {
        "zeros".to_owned()
    } else if content(who, version, false) == bytes {
        format!("version {version} of block {who}")
    } else {
        format!("garbage that begins like version {version} of block {who}")
    };
    let name = |v: &Version| if v.zeros { format!("{} (zeros)", v.number) } else { v.number.to_string() };
    let durable = block.allowed.first().map(name).unwrap_or_default();
    let newest = block.allowed.last().map(name).unwrap_or_default();
    format!("block {at} holds {what}; its durable version is {durable}, the newest issued {newest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(writer: u32, block: u64, version: u64) -> Fact {
        Fact::Issue { writer, block, count: 1, version, zeros: false, durable: false }
    }

    fn holds(oracle: &Oracle, version: u64) -> bool {
        oracle.clone().settle(|at| content(at, version, false)).is_ok()
    }

    #[test]
    fn what_is_heard_behind_a_cut_allows_and_promises_nothing() {
        let mut oracle = Oracle::new();
        let issue =
            |version| Fact::Issue { writer: 0, block: 7, count: 1, version, zeros: false, durable: true };
        oracle.take(issue(1));
        oracle.take(Fact::Acked { writer: 0 });
        oracle.take_late(issue(2));
        oracle.take_late(Fact::Acked { writer: 0 });
        for version in [1, 2] {
            assert!(oracle.clone().settle(|block| content(block, version, false)).is_ok(), "{version}");
        }
        assert!(oracle.settle(|block| content(block, BLANK, true)).is_err(), "the first was durable");
    }

    #[test]
    fn facts_survive_their_line_and_a_shortened_line_is_none() {
        let facts = [
            Fact::Issue { writer: 1, block: 2, count: 3, version: 4, zeros: true, durable: false },
            Fact::Acked { writer: 1 },
            Fact::Flush { writer: 2 },
            Fact::Flushed { writer: 2 },
            Fact::Kept((1, 2, 3)),
            Fact::Removing((1, 2, 3)),
        ];
        for fact in facts {
            let line = fact.to_string();
            assert_eq!(Fact::parse(&line), Some(fact));
            for end in 0..line.len() {
                assert_eq!(Fact::parse(&line[..end]), None, "{}", &line[..end]);
            }
        }
    }

    #[test]
    fn what_was_not_flushed_may_be_there_or_not() {
        let mut oracle = Oracle::new();
        oracle.take(issue(0, 5, 1));
        oracle.take(Fact::Acked { writer: 0 });
        assert!(holds(&oracle, BLANK) && holds(&oracle, 1) && !holds(&oracle, 2));
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it_was_asked_for() {
        let mut oracle = Oracle::new();
        oracle.take(issue(0, 5, 1));
        oracle.take(Fact::Acked { writer: 0 });
        oracle.take(Fact::Flush { writer: 1 });
        oracle.take(issue(0, 5, 2));
        oracle.take(Fact::Acked { writer: 0 });
        assert!(holds(&oracle, BLANK));
        oracle.take(Fact::Flushed { writer: 1 });
        assert!(!holds(&oracle, BLANK) && holds(&oracle, 1) && holds(&oracle, 2));
        oracle.take(Fact::Flush { writer: 0 });
        oracle.take(Fact::Flushed { writer: 0 });
        assert!(!holds(&oracle, 1) && holds(&oracle, 2));
    }

    #[test]
    fn an_unanswered_flush_or_write_promises_nothing_but_may_have_happened() {
        let mut oracle = Oracle::new();
        oracle.take(issue(0, 5, 1));
        oracle.take(Fact::Flush { writer: 1 });
        oracle.take(Fact::Flushed { writer: 1 });
        assert!(holds(&oracle, BLANK) && holds(&oracle, 1));
    }

    #[test]
    fn fua_is_durable_when_answered() {
        let mut oracle = Oracle::new();
        oracle.take(Fact::Issue { writer: 0, block: 9, count: 2, version: 3, zeros: false, durable: true });
        assert!(holds(&oracle, BLANK));
        oracle.take(Fact::Acked { writer: 0 });
        assert!(!holds(&oracle, BLANK) && holds(&oracle, 3));
    }

    #[test]
    fn another_blocks_content_garbage_and_a_torn_block_are_wrong() {
        let mut oracle = Oracle::new();
        oracle.take(issue(0, 5, 1));
        oracle.take(Fact::Acked { writer: 0 });
        assert!(oracle.clone().settle(|_| content(6, 1, false)).is_err());
        assert!(oracle.clone().settle(|_| vec![7; BLOCK_BYTES]).is_err());
        let mut torn = content(5, 1, false);
        torn[2048..].fill(0);
        assert!(oracle.clone().settle(|_| torn.clone()).is_err());
    }

    #[test]
    fn once_read_a_block_stays() {
        let mut oracle = Oracle::new();
        oracle.take(issue(0, 5, 1));
        let settled = oracle.settle(|at| content(at, BLANK, false)).expect("blank is allowed");
        assert_eq!((settled.blocks, settled.older), (1, 1));
        assert!(!holds(&oracle, 1), "the lost write must not come back");
    }

    #[test]
    fn what_is_known_survives_its_text() {
        let mut oracle = Oracle::new();
        oracle.take(issue(0, 5, 1));
        oracle.take(Fact::Issue { writer: 0, block: 5, count: 2, version: 2, zeros: true, durable: false });
        oracle.take(Fact::Kept((1, 2, 3)));
        oracle.take(Fact::Kept((1, 3, 3)));
        oracle.take(Fact::Removing((1, 2, 3)));
        let text = oracle.to_text();
        let again = Oracle::from_text(&text).expect("its own text");
        assert_eq!(again.to_text(), text);
        assert_eq!(again.files().iter().copied().collect::<Vec<_>>(), [(1, 3, 3)]);
        for version in [BLANK, 1, 2, 3] {
            assert_eq!(holds(&oracle, version), holds(&again, version), "version {version}");
        }
        for text in ["block", "block 1", "block x 1", "file 1 2", "other 1 2"] {
            assert!(Oracle::from_text(text).is_none(), "{text}");
        }
    }

    #[test]
    fn zeros_are_a_version() {
        let mut oracle = Oracle::new();
        oracle.take(issue(0, 5, 1));
        oracle.take(Fact::Acked { writer: 0 });
        oracle.take(Fact::Issue { writer: 0, block: 5, count: 1, version: 2, zeros: true, durable: false });
        oracle.take(Fact::Acked { writer: 0 });
        oracle.take(Fact::Flush { writer: 0 });
        oracle.take(Fact::Flushed { writer: 0 });
        assert!(oracle.clone().settle(|_| vec![0; BLOCK_BYTES]).is_ok());
        assert!(!holds(&oracle, 1), "a discarded block came back");
    }
}
