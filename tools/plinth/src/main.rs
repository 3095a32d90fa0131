//! The one binary: command line, agent and target.
//!
//! Every verb but `node`, `target`, `fsck` and `inspect` is a request to the agent's socket. Standard output
//! carries the result alone; notes, questions and progress go to standard error.
#![forbid(unsafe_code)]

mod args;
mod ask;
mod docs;
mod drives;
mod events;
mod groups;
mod keys;
mod output;
mod rekey;
mod scrub;
mod target;
mod verbs;

use clap::Parser;
use node::{Error, Kind, Result};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let json = wants_json(&args);
    // What an agent starts in the midst of a guest's pause. Making the parser of all verbs takes longer than all the rest of
    // a start.
    if let [_, verb, flag, spec, rest @ ..] = args.as_slice()
        && verb == "target"
        && flag == "--spec"
        && (rest.is_empty() || rest == ["--ahead"])
    {
        return target::run(Path::new(spec), !rest.is_empty()).unwrap_or_else(|error| failed(&error, json));
    }
    if let Some(error) = args::copies_by_another_name(&args) {
        return failed(&error, json);
    }
    let cli = match args::Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, json),
    };
    match verbs::run(cli) {
        Ok(code) => code,
        Err(error) => failed(&error, json),
    }
}

/// Help and version are results; everything else that clap says is a mistake of the caller.
fn usage(error: &clap::Error, json: bool) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that went away is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(Kind::Invalid.exit_code());
    }
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or("invalid arguments").trim_start_matches("error: ");
    let details: Vec<&str> = text
        .lines()
        .skip(1)
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty())
        .collect();
    let message =
        if details.is_empty() { first.to_owned() } else { format!("{first} {}", details.join(", ")) };
    failed(&Error::general(Kind::Invalid, message).hint("see plinth help"), json)
}

/// One line on standard error; with `-o json` the error's body.
fn failed(error: &Error, json: bool) -> ExitCode {
    let line = if json {
        serde_json::to_string(&error.body()).expect("errors encode as JSON")
    } else {
        format!("plinth: {error}")
    };
    let _ = writeln!(std::io::stderr(), "{line}");
    ExitCode::from(error.kind.exit_code())
}

/// Whether JSON is asked for, also when the arguments as a whole are not understood.
fn wants_json(args: &[std::ffi::OsString]) -> bool {
    let texts: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let given = texts.windows(2).any(|pair| matches!(pair[0], "-o" | "--output") && pair[1] == "json")
        || texts.iter().any(|arg| matches!(*arg, "-ojson" | "-o=json" | "--output=json"));
    let other = texts.windows(2).any(|pair| matches!(pair[0], "-o" | "--output") && pair[1] != "json");
    given || (!other && std::env::var("PLINTH_OUTPUT").is_ok_and(|value| value == "json"))
}

/// Prints a result. A reader that went away (`plinth ... | head`) is no failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::general(Kind::Failed, format!("cannot write the result: {error}")))
        }
        _ => Ok(()),
    }
}
