//! The agent: catalogue, control socket, supervision; and the client of its socket.
//!
//! Entry points: `service::run` is `plinth node`, `client::Client` is what the other verbs of the command line
//! use, `target::Control` is the agent's side of `plinth target`, `offline` is what works without an agent.
//!
//! Architecture invariants: the agent is never on the I/O path, and everything it does can be cut short at any
//! step and repeated. A target needs nothing from a running agent to recover and serve its group. Labels,
//! headers and first superblocks are the only things that the agent writes to drives.
#![forbid(unsafe_code)]

pub mod agent;
pub mod catalogue;
pub mod client;
pub mod device;
pub mod drives;
pub mod error;
pub mod figures;
pub mod files;
pub mod http;
pub mod keys;
pub mod model;
pub mod moves;
pub mod offline;
pub mod params;
pub mod program;
pub mod protocol;
pub mod scrub;
pub mod service;
pub mod sockets;
mod steps;
pub mod supervise;
pub mod support;
pub mod target;
pub mod target_spec;
pub mod text;
pub mod trial;
mod waits;

pub use agent::VERSION;
pub use error::{Error, Kind, Result};
pub use target_spec::TargetSpec;
