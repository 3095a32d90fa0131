//! The agent inside a machine of the bench: init, and the runner of a scenario.

use std::process::ExitCode;
use vm_tests::guest;

fn main() -> ExitCode {
    let outcome = if guest::is_init() { guest::run_as_init() } else { guest::run_scenario() };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plinth-guest: {error}");
            ExitCode::from(error.kind.exit_code())
        }
    }
}
