//! Commands that are programs of their own: they are built and run with the words that follow.

use crate::build;
use crate::context::Workspace;
use std::process::Command;
use vm_tests::children::{Outputs, Running};
use vm_tests::error::{Error, Result};

/// A command that is a program: its name, its package, the program, and words that go before the rest.
struct Program {
    command: &'static str,
    package: &'static str,
    program: &'static str,
    words: &'static [&'static str],
}

const PROGRAMS: &[Program] = &[
    Program { command: "sim", package: "sim", program: "plinth-sim", words: &[] },
    Program { command: "fuzz", package: "plinth-fuzz", program: "plinth-fuzz", words: &[] },
];

/// Builds and runs the program behind `command`; its exit code is the command's.
///
/// # Errors
/// There is no such command, or its program does not build.
pub fn run(workspace: &Workspace, command: &str, words: &[String]) -> Result<u8> {
    let row = PROGRAMS.iter().find(|p| p.command == command);
    let row =
        row.ok_or_else(|| Error::invalid(format!("there is no command {command}; try `cargo xtask help`")))?;
    let _lock = workspace.lock(command)?;
    let path = build::program(workspace, row.package, row.program, true)?;
    let mut program = Command::new(path);
    program.args(row.words).args(words).current_dir(&workspace.root);
    program.env("PLINTH_REPORT", workspace.out.join(format!("{command}.json")));
    let status = Running::start(&program, Outputs::Inherited)?.wait()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
