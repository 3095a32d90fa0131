//! Fuzz targets over everything that reads bytes it did not write: the structures on drives, the conversations on
//! sockets, and whole images of drives whose checks were repaired after they were damaged.
//!
//! Entry points: [`targets::ALL`] lists the targets, [`Campaign`] feeds one of them, [`replay`] goes through the
//! corpora in `tests/corpus`. A target is a function from bytes to a signature; it panics when a promise is
//! broken, and two inputs with different signatures took different ways through the reader. [`cut`] opens the drives
//! that a power cut can leave, many for each cut, in memory; [`kill`] kills the real process.
//!
//! Architecture invariants: everything follows from a seed, so that a run can be repeated; a crash is kept as a file
//! of the corpus, so that it is tried for ever after.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod corpus;
pub mod cut;
pub mod image;
pub mod kill;
pub mod mutate;
pub mod panics;
pub mod random;
pub mod replay;
pub mod signature;
pub mod targets;

pub use campaign::{Campaign, Figures, Limit};
pub use targets::Target;
