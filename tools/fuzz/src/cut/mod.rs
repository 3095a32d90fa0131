//! The drives that a power cut can leave, many for each cut, opened in memory.
//!
//! Crash story: what a cut leaves depends on which unflushed writes each drive had already put on its medium, and there
//! are far more choices than machines can be booted on. So the log of each drive's writes is read once; what was
//! durable is laid on the drive as it was before ([`Ground`]); and for each choice only the few writes at risk are put
//! on top of it ([`Layered`]). The engine's own recovery then opens the drives in this process, and every block and
//! file is compared with what the load, outside the machine, knows of it ([`Cut::judge`]).
//!
//! Some images see the power fail again: inside recovery, before anything was read; or behind it, when what was read
//! once must stay (contract C4).
//!
//! What this does not check: the driver, io_uring and the agent. The scenario `power-cut` opens one set of drives of
//! each cut with the program itself, and boots on it.

mod files;
mod ground;
mod judge;
mod open;

pub use ground::{Ground, Layered};
pub use judge::{Cut, Figures};

#[cfg(test)]
mod tests;
