//! `plinth target`: serves one group until it is told to close.
//!
//! Started by the agent, in the background. What goes wrong before the agent listens is written to standard
//! error as one line of JSON, which the agent reads.
use node::{Result, TargetSpec};
use std::path::Path;
use std::process::ExitCode;

/// Reads the spec and serves.
pub fn run(spec: &Path) -> Result<ExitCode> {
    match TargetSpec::read(spec).and_then(node::target::serve::run) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{}", serde_json::to_string(&error.body()).expect("errors encode as JSON"));
            Ok(ExitCode::from(error.kind.exit_code()))
        }
    }
}
