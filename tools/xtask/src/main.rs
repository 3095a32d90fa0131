//! Development commands: `cargo xtask COMMAND`.
//!
//! Needs nothing but Rust and a linker, because it is what installs the rest. Each command ends with a
//! closing line that other programs read, writes `target/xtask/COMMAND.json`, also when it ends with an error, and
//! exits 1 on any failure, 2 on words it does not know, 3 when a tool or package is missing, 130 when it was interrupted.

mod bench;
mod build;
mod commands;
mod context;
mod demo;
mod setup;
mod test;
mod tidy;
mod vm;

use context::Workspace;
use std::process::ExitCode;
use vm_tests::children;
use vm_tests::error::{Error, Result};

const USAGE: &str = "cargo xtask COMMAND
  setup [--list]                              install the packages that building and testing need
  test [--allow-skip SUITE] [--only SUITE]    every suite that a change must pass
  tidy                                        the rules of the source tree
  demo [--planted BUG]                        watch a volume survive three blows
  demo --here                                 two of them on this host, if its kernel has ublk
  sim [...]                                   the simulator
  fuzz [TARGET | --replay]                    the fuzzers; without a word, what they are
  kills [--kills N]                           kills of the serving process
  vm [--list] [SCENARIO...] [--kernel 6.12|newest] [--full]   scenarios in virtual machines
  power-cut --cuts N                          power cuts of a virtual machine
  bench                                       the benches of the engine
  bench vm [--kernel 6.12|newest] [--rounds N]   the product and md over the same drives, in a machine
  bench compare [...]                         both, each row against its bar (no bar is set yet: `-`)";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            children::clean_up();
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn run(words: &[String]) -> Result<ExitCode> {
    let (command, rest) = words.split_first().ok_or_else(|| Error::invalid(USAGE))?;
    let workspace = Workspace::find()?;
    children::handle_interrupts()?;
    let outcome = match command.as_str() {
        "setup" => setup::command(&workspace, rest),
        "tidy" => tidy::command(&workspace, rest),
        "test" => test::command(&workspace, rest),
        "vm" => vm::command(&workspace, rest),
        "demo" => demo::command(&workspace, rest),
        "bench" => bench::command(&workspace, rest),
        "power-cut" => vm::power_cut(&workspace, rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        other => commands::run(&workspace, commands::find(other)?, rest),
    };
    workspace.write_down(words, &outcome)?;
    outcome.map(|ended| ExitCode::from(ended.code))
}
