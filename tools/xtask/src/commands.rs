//! Commands that are programs of their own: they are built and run with the words that follow.

use crate::build;
use crate::context::Workspace;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::{Duration, Instant};
use vm_tests::children::{Outputs, Running};
use vm_tests::error::{Error, Result};

/// A command that is a program: its name, its package and the program.
struct Program {
    command: &'static str,
    package: &'static str,
    program: &'static str,
}

/// A run of this length is worth a line in the ledger.
pub const LONG_RUN: Duration = Duration::from_secs(10 * 60);

const PROGRAMS: &[Program] = &[
    Program { command: "sim", package: "sim", program: "plinth-sim" },
    Program { command: "fuzz", package: "plinth-fuzz", program: "plinth-fuzz" },
    Program { command: "kills", package: "plinth-fuzz", program: "plinth-kill" },
];

/// Builds and runs the program behind `command`; its exit code is the command's. The last line that it
/// prints is its closing line, which goes into the report.
///
/// # Errors
/// There is no such command, or its program does not build.
pub fn run(workspace: &Workspace, command: &str, words: &[String]) -> Result<u8> {
    let row = PROGRAMS.iter().find(|p| p.command == command);
    let row =
        row.ok_or_else(|| Error::invalid(format!("there is no command {command}; try `cargo xtask help`")))?;
    let _lock = workspace.lock(command)?;
    // The simulator has its planted bugs built in only for the hunt for them.
    let hunts = command == "sim" && words.iter().any(|w| w == "--planted");
    let features: &[&str] = if hunts { &["planted"] } else { &[] };
    let path = build::program_with(workspace, row.package, row.program, true, features)?;
    let mut program = Command::new(path);
    program.args(words).current_dir(&workspace.root);
    let start = Instant::now();
    let mut running = Running::start(&program, Outputs::Captured)?;
    let mut closing = String::new();
    if let Some(out) = running.take_stdout() {
        for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
            println!("{line}");
            if !line.trim().is_empty() {
                closing = line;
            }
        }
    }
    let code = running.wait()?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let typed = format!("cargo xtask {command} {}", words.join(" ")).trim().to_owned();
    let report = json!({"command": typed, "exit_code": code, "closing": closing,
        "seconds": start.elapsed().as_secs()});
    workspace.report(command, &report)?;
    if start.elapsed() >= LONG_RUN {
        workspace.append_ledger(&typed, &closing)?;
    }
    Ok(code)
}
