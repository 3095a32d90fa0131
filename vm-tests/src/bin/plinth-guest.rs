//! The agent inside a machine of the bench: init, and the runner of a scenario.

use std::process::ExitCode;
use vm_tests::guest;

fn main() -> ExitCode {
    let eats = std::env::args().nth(1).is_some_and(|word| word == guest::EATER);
    let outcome = match guest::is_init() {
        true => guest::run_as_init(),
        false if eats => guest::eat(),
        false => guest::run_scenario(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plinth-guest: {error}");
            ExitCode::from(error.kind.exit_code())
        }
    }
}
