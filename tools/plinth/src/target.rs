//! `plinth target`: serves one group until it is told to close.
//!
//! Started by the agent, in the background. What goes wrong before the agent listens is written to standard
//! error as one line of JSON, which the agent reads.
use node::{Result, TargetSpec};
use std::path::Path;
use std::process::ExitCode;

/// Reads the spec and serves; `ahead`: when it is told that it is its turn.
pub fn run(spec: &Path, ahead: bool) -> Result<ExitCode> {
    let ended = match ahead {
        true => node::target::ahead::run(spec),
        false => TargetSpec::read(spec).and_then(node::target::serve::run),
    };
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{}", serde_json::to_string(&error.body()).expect("errors encode as JSON"));
            Ok(ExitCode::from(error.kind.exit_code()))
        }
    }
}
