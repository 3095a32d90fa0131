//! Whole images: small groups made by the engine, taken apart, damaged, put together again with their checks repaired,
//! and opened.
//!
//! `make` lets the engine write a group; `parts` finds every structure in it and which one holds its check; `edit`
//! damages structures; `machine` runs the engine over drives in memory, within a bound of steps.

pub mod edit;
pub mod machine;
pub mod make;
pub mod parts;
pub mod secret;

pub use edit::{Edit, Mode};
pub use machine::{Drive, Machine, Stuck};
pub use make::{Image, images};
pub use parts::{Part, PartKind, parts};
