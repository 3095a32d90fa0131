//! `plinth target`: serves one group until it is told to close.
//!
//! Started by the agent, in the background. What goes wrong before the agent listens is written to standard
//! error as one line of JSON, which the agent reads.
use node::{Error, Result, TargetSpec};
use std::path::Path;
use std::process::ExitCode;

/// Reads the spec and serves.
pub fn run(spec: &Path) -> Result<ExitCode> {
    match TargetSpec::read(spec).and_then(serve) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{}", serde_json::to_string(&error.body()).expect("errors encode as JSON"));
            Ok(ExitCode::from(error.kind.exit_code()))
        }
    }
}

/// Serves a group with the engine.
fn serve(spec: TargetSpec) -> Result<()> {
    Err(Error::not_supported(format!("group {} cannot be served by this build", spec.group_name)))
}
