//! The log: records, commits, the ring that holds them, the history of activations, and what recovery makes of
//! what it finds.
//!
//! Architecture invariants: nothing here does I/O or decides when to; the caller places a commit, seals it into
//! memory of its own and writes it; recovery is fed the ring's bytes and answers with a list. Every decoder is
//! total: there is no input on which it panics. The log knows volumes by number only and never sees data, only
//! the checks of it.
//!
//! The path of a commit: [`CommitBuilder`] collects the records of one round, [`Ring::place`] gives them room,
//! [`CommitBuilder::seal`] makes the bytes. The way back: [`Scan`] is fed every block of the ring of every current
//! leg, [`Scan::chain`] finds the commits that follow the checkpoint, [`replay::decide`] says of each what becomes
//! of it. [`Witness`] is fed the ring of a drive that was away, and says what had been flushed there.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod builder;
pub mod commit;
pub mod history;
pub mod layout;
pub mod replay;
pub mod ring;
pub mod scan;
pub mod witness;

pub use base::LegSet;

pub use builder::{CommitBuilder, Sealed};
pub use commit::{
    Bad, Commit, CommitView, Fields, Outside, Plain, RecordKind, RecordView, SuperblockId, Unseal, VoidOf,
};
pub use history::{History, Line};
pub use layout::MAX_COMMIT_BLOCKS;
pub use ring::{Piece, Positions, Ring, RingPos, RingShape};
pub use scan::{Candidate, Chain, ChainStart, Ignored, Scan};
pub use witness::Witness;
