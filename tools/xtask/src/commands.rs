//! Commands that are programs of their own: they are built and run with the words that follow.

use crate::build;
use crate::context::{Ended, Workspace};
use crate::test::counts;
use serde_json::{Map, json};
use std::io::{BufRead, BufReader};
use std::process::Command;
use vm_tests::children::{Outputs, Running};
use vm_tests::error::{Error, Result};

/// A command that is a program: its name, its package and the program.
pub struct Program {
    command: &'static str,
    package: &'static str,
    program: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program { command: "sim", package: "sim", program: "plinth-sim" },
    Program { command: "fuzz", package: "plinth-fuzz", program: "plinth-fuzz" },
    Program { command: "kills", package: "plinth-fuzz", program: "plinth-kill" },
];

/// The program behind a command.
///
/// # Errors
/// There is no such command.
pub fn find(command: &str) -> Result<&'static Program> {
    let row = PROGRAMS.iter().find(|p| p.command == command);
    row.ok_or_else(|| Error::invalid(format!("there is no command {command}; try `cargo xtask help`")))
}

/// Builds and runs a program; its exit code is the command's. The last line that it prints is its closing line, which
/// goes into the report, with what this line and the ones before it count.
///
/// # Errors
/// The program does not build.
pub fn run(workspace: &Workspace, row: &Program, words: &[String]) -> Result<Ended> {
    let _lock = workspace.lock(row.command)?;
    // The simulator has its planted bugs built in only for the hunt for them.
    let hunts = row.command == "sim" && words.iter().any(|w| w == "--planted");
    let features: &[&str] = if hunts { &["planted"] } else { &[] };
    let path = build::program_with(workspace, row.package, row.program, true, features)?;
    let mut program = Command::new(path);
    program.args(words).current_dir(&workspace.root);
    let mut running = Running::start(&program, Outputs::Captured)?;
    let mut closing = String::new();
    let mut said = Map::new();
    if let Some(out) = running.take_stdout() {
        for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
            println!("{line}");
            said.extend(counts::said(&line));
            if !line.trim().is_empty() {
                closing = line;
            }
        }
    }
    let code = running.wait()?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(Ended { code, closing, facts: Some(json!({"counts": said})), seed: None })
}
