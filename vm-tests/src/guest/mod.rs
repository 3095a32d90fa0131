//! The agent inside a machine: init, and the runner of one scenario.
//!
//! As init it mounts the kernel's file systems, loads the modules that the first root carries, starts itself
//! again as the runner, and reaps: a supervisor under test may die and leave its children to init, and a
//! child that nobody reaps would look alive for ever. When the runner ends, the machine ends.
//!
//! The runner is told by the kernel's command line what to run (`plinth.scenario=NAME`) and reports over the
//! virtio port (module `protocol`).

mod drives;
mod fsx;
mod init;
pub mod latency;
mod load;
mod memory;
mod product;
mod runner;
mod steps;
mod stuck;

pub use init::{is_init, run_as_init};
pub use load::Fnv;
pub use memory::Memory;
pub use product::VOLUME;
pub use runner::{Guest, Step, run_scenario};
pub(crate) use steps::files;
pub use steps::memory::{EATER, eat};
