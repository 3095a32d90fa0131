//! `cargo xtask test`: every suite that a change must pass.
//!
//! A suite is a row of the table in `suites`. Each ends with `SUITE: N passed, N failed, N skipped, T s`; the
//! last line adds them up, and the one before says how long all of them took, with a warning (no failure, for it depends
//! on the machine) if that was too long. Three things fail a run beside a failed test: a suite in which nothing ran, a
//! skip that `--allow-skip` does not name, and a suite that ended badly though its counts look good.

pub mod counts;
mod programs;
mod suites;

use crate::build;
use crate::context::{Ended, Workspace};
use crate::setup;
use counts::Counts;
use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use suites::{SUITES, Suite, Work};
use vm_tests::children::{Output, run_lines};
use vm_tests::error::{Context, Error, Kind, Result};

/// No suite may take longer.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// What all suites together are to take at most: beyond it nobody waits for them before a change goes in.
const WHOLE: Duration = Duration::from_secs(45 * 60);

/// What the command line asked for.
#[derive(Debug, Default)]
struct Wish {
    allow_skip: Vec<String>,
    only: Vec<String>,
}

fn parse(words: &[String]) -> Result<Wish> {
    let mut wish = Wish::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let list = match word.as_str() {
            "--allow-skip" => &mut wish.allow_skip,
            "--only" => &mut wish.only,
            other => return Err(Error::invalid(format!("test knows no {other}"))),
        };
        let name = words.next().filter(|name| SUITES.iter().any(|s| s.name == name.as_str()));
        let known: Vec<&str> = SUITES.iter().map(|s| s.name).collect();
        let name =
            name.ok_or_else(|| Error::invalid(format!("{word} takes one of: {}", known.join(", "))))?;
        list.push(name.clone());
    }
    Ok(wish)
}

/// Runs the command.
///
/// # Errors
/// Unknown words, or what every suite needs is missing.
pub fn command(workspace: &Workspace, words: &[String]) -> Result<Ended> {
    let wish = parse(words)?;
    let _lock = workspace.lock("test")?;
    setup::ensure(workspace)?;
    let begun = Instant::now();
    let mut total = Counts::default();
    let mut bad = 0;
    let mut rows = Vec::new();
    let mut facts = json!({});
    let wanted = |suite: &&Suite| wish.only.is_empty() || wish.only.iter().any(|name| name == suite.name);
    let later: Vec<build::Program> = SUITES.iter().filter(wanted).flat_map(Suite::programs).collect();
    for suite in SUITES.iter().filter(wanted) {
        eprintln!("{}: {}", suite.name, suite.about);
        let start = Instant::now();
        let outcome = run(workspace, suite, &later);
        let seconds = start.elapsed().as_secs();
        let (counts, complaint) = judge(suite, outcome, &wish.allow_skip);
        if let Some(complaint) = &complaint {
            bad += 1;
            eprintln!("{}: {complaint}", suite.name);
        }
        println!("{}: {counts}, {seconds} s", suite.name);
        total.add(counts);
        rows.push(json!({
            "suite": suite.name, "passed": counts.passed, "failed": counts.failed,
            "skipped": counts.skipped, "seconds": seconds, "complaint": complaint,
        }));
        // After each suite, so that a run that is cut short still says how far it came.
        facts = json!({
            "passed": total.passed, "failed": total.failed, "skipped": total.skipped, "suites": rows,
            "seconds": begun.elapsed().as_secs(),
        });
        workspace.report("test", &facts)?;
    }
    println!("{}", whole_time(begun.elapsed()));
    Ok(Ended::said(u8::from(bad > 0 || total.failed > 0), total.to_string(), facts))
}

/// How long all suites together took, and whether that is too long.
fn whole_time(took: Duration) -> String {
    let (minutes, most) = (took.as_secs() / 60, WHOLE.as_secs() / 60);
    let time = format!("all suites: {} s ({minutes} min)", took.as_secs());
    if took <= WHOLE {
        return time;
    }
    format!("{time}\nWARNING: longer than the {most} min that all suites together are to take at most")
}

/// What a suite's outcome counts, and why it is not good, if it is not.
fn judge(suite: &Suite, outcome: Result<(Counts, bool)>, allow_skip: &[String]) -> (Counts, Option<String>) {
    let (mut counts, ended_well) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            // What cannot run for want of a tool is a skip, which fails unless it was allowed by name.
            let skipped = error.kind == Kind::Missing;
            let counts = Counts { skipped: u64::from(skipped), failed: u64::from(!skipped), passed: 0 };
            let allowed = skipped && allow_skip.iter().any(|n| n == suite.name);
            return (counts, (!allowed).then(|| error.to_string()));
        }
    };
    if !ended_well && counts.failed == 0 {
        counts.failed = 1;
    }
    let complaint = if counts.failed > 0 {
        Some("failed".to_owned())
    } else if counts.skipped > 0 && !allow_skip.iter().any(|n| n == suite.name) {
        Some(format!("{} skipped, and --allow-skip does not name {}", counts.skipped, suite.name))
    } else if counts.passed == 0 && counts.skipped == 0 {
        counts.failed = 1;
        Some("nothing ran".to_owned())
    } else {
        None
    };
    (counts, complaint)
}

/// Runs a suite: its counts, and whether it ended with the exit code that it must have. `later`: what others need.
fn run(workspace: &Workspace, suite: &Suite, later: &[build::Program]) -> Result<(Counts, bool)> {
    match &suite.work {
        Work::Inside(inside) | Work::Machines(inside) => inside(workspace).map(|counts| (counts, true)),
        Work::Tests => {
            let output = programs::run(workspace, LIMIT, later)?;
            tell(workspace, suite, &output, 0, counts::test_results)
        }
        Work::Cargo { words, reader } => {
            let mut command = build::cargo(workspace);
            command.args(*words).env("CARGO_TERM_COLOR", "never");
            follow(workspace, suite, &command, 0, *reader)
        }
        Work::Program { package, program, features, words, exit, reader } => {
            let path = build::program_with(workspace, package, program, true, features)?;
            let mut command = Command::new(path);
            command.args(*words).current_dir(&workspace.root);
            follow(workspace, suite, &command, *exit, *reader)
        }
    }
}

/// What of a failed suite's text says why: the lines around each failure, wherever it stands, and the end.
fn telling(text: &str) -> Vec<&str> {
    const FAILURES: [&str; 4] = ["panicked at", "... FAILED", "error[", "FAILED at"];
    let lines: Vec<&str> = text.lines().collect();
    let mut shown = vec![false; lines.len()];
    let hits = (0..lines.len()).filter(|at| FAILURES.iter().any(|mark| lines[*at].contains(mark)));
    for at in hits.take(40) {
        shown[at..(at + 12).min(lines.len())].fill(true);
    }
    let end = lines.len().saturating_sub(60);
    shown[end..].fill(true);
    lines.iter().zip(shown).filter(|(_, shown)| *shown).map(|(line, _)| *line).collect()
}

fn follow(
    workspace: &Workspace,
    suite: &Suite,
    command: &Command,
    exit: i32,
    reader: counts::Reader,
) -> Result<(Counts, bool)> {
    tell(workspace, suite, &run_lines(command, LIMIT, |_| {})?, exit, reader)
}

/// Keeps what a suite said, shows what of it tells of a failure, and counts.
fn tell(
    workspace: &Workspace,
    suite: &Suite,
    output: &Output,
    exit: i32,
    reader: counts::Reader,
) -> Result<(Counts, bool)> {
    let log = workspace.out.join(format!("test-{}.log", suite.name));
    fs::write(&log, &output.text).doing(|| format!("write {}", log.display()))?;
    let counts = reader(&output.text, output.success);
    let ended_well = output.code == Some(exit) && !output.timed_out;
    if !ended_well || counts.failed > 0 {
        for line in telling(&output.text) {
            eprintln!("  {line}");
        }
        let why = if output.timed_out { " (its time was over)" } else { "" };
        eprintln!("{}: failed{why}, log {}", suite.name, log.display());
    }
    Ok((counts, ended_well))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts { passed, failed, skipped }
    }

    #[test]
    fn a_run_that_takes_too_long_says_so() {
        let short = whole_time(WHOLE);
        assert_eq!(short, "all suites: 2700 s (45 min)");
        let long = whole_time(WHOLE + Duration::from_secs(61));
        let lines: Vec<&str> = long.lines().collect();
        assert_eq!(lines[0], "all suites: 2761 s (46 min)");
        assert!(lines[1].starts_with("WARNING: longer than the 45 min"), "{long}");
    }

    #[test]
    fn a_skip_an_empty_suite_and_a_bad_end_fail() {
        let suite = &SUITES[0];
        let named = [suite.name.to_owned()];
        let complains = |outcome, allow: &[String]| judge(suite, outcome, allow).1.is_some();
        assert!(!complains(Ok((counts(3, 0, 0), true)), &[]));
        assert!(complains(Ok((counts(3, 0, 1), true)), &[]));
        assert!(!complains(Ok((counts(3, 0, 1), true)), &named));
        assert!(complains(Ok((counts(0, 0, 0), true)), &named));
        assert!(complains(Ok((counts(3, 0, 0), false)), &named));
        assert!(complains(Ok((counts(3, 1, 0), true)), &named));
        assert!(complains(Err(Error::missing("no QEMU")), &[]));
        assert!(!complains(Err(Error::missing("no QEMU")), &named));
        assert!(complains(Err(Error::failed("broken")), &named));
    }

    #[test]
    fn a_failure_far_from_the_end_is_shown() {
        let mut lines: Vec<String> = (0..500).map(|n| format!("line {n}")).collect();
        lines[100] = "thread 'a' panicked at b.rs:1:2:".to_owned();
        let text = lines.join("\n");
        let shown = telling(&text);
        assert_eq!((shown[0], shown[1], shown.len()), (lines[100].as_str(), "line 101", 72));
        assert_eq!(shown[71], "line 499");
    }

    #[test]
    fn an_unknown_suite_is_refused() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(parse(&words("--allow-skip nothing")).is_err());
        assert!(parse(&words("--fast")).is_err());
        assert!(parse(&words("--allow-skip vm")).is_ok());
    }
}
