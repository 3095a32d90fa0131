//! The checkers, one file for each clause of the contract (`docs`: reliability), each saying what it does not see.
pub mod c1;
pub mod c10;
pub mod c2;
pub mod c3;
pub mod c4;
pub mod c5;
pub mod c9;
pub mod d17;
pub mod d22;
pub mod growth;
pub mod late;
pub mod prefix;
pub mod repairs;

use crate::model::{Found, History, Look};

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which checker saw it.
    pub checker: &'static str,
    /// What it saw.
    pub what: String,
}

impl Violation {
    /// A violation of this clause.
    pub fn new(checker: &'static str, what: impl Into<String>) -> Self {
        Self { checker, what: what.into() }
    }
}

/// One block of a finished read, beside what the model knows.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// The block.
    pub block: u64,
    /// Its history.
    pub history: &'a History,
    /// The oldest state that this read may return.
    pub floor: u32,
    /// What was read.
    pub look: &'a Look,
    /// How it fits.
    pub found: Found,
}

impl Sight<'_> {
    /// Says what was found and what was expected.
    pub fn describe(&self) -> String {
        let bounds = (self.floor, self.history.durable, self.history.before_crash);
        let newest = self.history.states.len() - 1;
        let around = (self.floor as usize).saturating_sub(1)..=newest.min(self.floor as usize + 3);
        let states: Vec<_> =
            around.map(|i| (i, self.history.states[i].content, self.history.states[i].void)).collect();
        format!(
            "block {}: {:?}; saw {:?} (sectors {:#04x}), allowed from state {} (durable {}, before the crash {}) to {newest}; states {states:?}",
            self.block, self.found, self.look.sectors, self.look.mask, bounds.0, bounds.1, bounds.2
        )
    }
}

/// Asks every checker of reads.
pub fn read(sight: &Sight<'_>) -> Result<(), Violation> {
    c3::read(sight)?;
    c4::read(sight)?;
    c2::read(sight)?;
    c1::read(sight)
}
