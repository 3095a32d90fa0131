//! The test programs of every package, several at once.
//!
//! cargo runs one after the other, each with a thread for each processor. Most tests of the whole product wait most of
//! the time, for a recovery or a deadline, and a program has few of them: two thirds of the time no processor had
//! anything to do. So cargo only builds them here, and runs the tests in the documentation.
use crate::build;
use crate::context::Workspace;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use vm_tests::children::{Output, Outputs, Running, run_lines};
use vm_tests::error::{Context, Error, Result};

/// Pause between two looks at what runs.
const LOOK: Duration = Duration::from_millis(50);

/// A test program.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Program {
    /// Of its target, as cargo calls it.
    name: String,
    path: PathBuf,
    /// The folder of its package, in which cargo runs it.
    folder: PathBuf,
}

/// One that runs.
struct Busy {
    program: Program,
    running: Running,
    log: PathBuf,
}

/// Builds and runs all test programs, then the tests in the documentation: what they printed, one behind the other, and
/// whether all ended well. While they run, the programs that later suites need are built: tests wait a good part of
/// their time.
///
/// # Errors
/// Nothing can be started, or a log not be written.
pub fn run(workspace: &Workspace, limit: Duration, later: &[build::Program]) -> Result<Output> {
    let start = Instant::now();
    let mut cargo = build::cargo(workspace);
    cargo.env("CARGO_TERM_COLOR", "never").args(["test", "--workspace", "--locked", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let built = run_lines(&cargo, limit, |_| {})?;
    if !built.success {
        let text = built.text.lines().filter(|line| !line.starts_with('{'));
        return Ok(Output { text: text.collect::<Vec<_>>().join("\n"), ..built });
    }
    let left = limit.saturating_sub(start.elapsed());
    let mut all = std::thread::scope(|threads| {
        threads.spawn(|| build::ahead(workspace, later));
        run_programs(workspace, programs(&built.text), left)
    })?;
    let mut cargo = build::cargo(workspace);
    cargo.env("CARGO_TERM_COLOR", "never").args([
        "test",
        "--workspace",
        "--locked",
        "--doc",
        "--no-fail-fast",
    ]);
    let documented = run_lines(&cargo, limit.saturating_sub(start.elapsed()), |_| {})?;
    all.text.push_str(&documented.text);
    all.success &= documented.success;
    all.timed_out |= documented.timed_out;
    all.code = Some(i32::from(!all.success));
    Ok(all)
}

/// The test programs among what cargo said that it made; those of the whole product first, which take longest.
fn programs(said: &str) -> Vec<Program> {
    let program = |message: Value| {
        let tests = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
        let path = PathBuf::from(message["executable"].as_str().filter(|_| tests)?);
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
        Some(Program { name: message["target"]["name"].as_str()?.to_owned(), path, folder })
    };
    let messages = said.lines().filter(|line| line.starts_with('{'));
    let mut all: Vec<Program> =
        messages.filter_map(|line| serde_json::from_str(line).ok()).filter_map(program).collect();
    all.sort_by_key(|program| !program.folder.ends_with("tools/plinth"));
    all
}

/// Runs them, one more at once than there are processors. Started by this thread alone, see `children`.
fn run_programs(workspace: &Workspace, programs: Vec<Program>, limit: Duration) -> Result<Output> {
    let start = Instant::now();
    let at_once = std::thread::available_parallelism().map_or(1, usize::from) + 1;
    let mut all = Output { success: true, code: None, text: String::new(), timed_out: false };
    let (mut waiting, mut busy) = (programs.into_iter(), Vec::<Busy>::new());
    loop {
        while busy.len() < at_once
            && let Some(program) = waiting.next()
        {
            busy.push(begin(workspace, program)?);
        }
        if busy.is_empty() {
            return Ok(all);
        }
        if start.elapsed() > limit {
            busy.iter_mut().for_each(|one| one.running.kill());
            all.timed_out = true;
        }
        let (ended, still): (Vec<_>, Vec<_>) =
            busy.into_iter().map(|mut one| (one.running.has_ended(), one)).partition(|(ended, _)| *ended);
        busy = still.into_iter().map(|(_, one)| one).collect();
        for (_, mut one) in ended {
            let status = one.running.wait()?;
            let said = fs::read_to_string(&one.log).doing(|| format!("read {}", one.log.display()))?;
            all.text.push_str(&format!("     Running {} ({status})\n{said}\n", one.program.name));
            all.success &= status.success();
            let _ = fs::remove_file(&one.log);
        }
        if all.timed_out {
            all.success = false;
            return Ok(all);
        }
        std::thread::sleep(LOOK);
    }
}

fn begin(workspace: &Workspace, program: Program) -> Result<Busy> {
    let file = program.path.file_name().ok_or_else(|| Error::failed("a program has a name"))?;
    let log = workspace.out.join(format!("unit-{}.log", file.to_string_lossy()));
    let into = File::create(&log).doing(|| format!("make {}", log.display()))?;
    let mut command = Command::new(&program.path);
    // What cargo gives the programs that it runs.
    command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
    Ok(Busy { running: Running::start(&command, Outputs::To(into))?, program, log })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_all_else_that_is_built() {
        let said = r#"   Compiling a
{"reason":"compiler-artifact","manifest_path":"/w/volume/Cargo.toml","target":{"name":"walks"},"profile":{"test":true},"executable":"/t/walks-1"}
{"reason":"compiler-artifact","manifest_path":"/w/volume/Cargo.toml","target":{"name":"volume"},"profile":{"test":true},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/tools/plinth/Cargo.toml","target":{"name":"plinth"},"profile":{"test":false},"executable":"/t/plinth"}
{"reason":"compiler-artifact","manifest_path":"/w/tools/plinth/Cargo.toml","target":{"name":"keys"},"profile":{"test":true},"executable":"/t/keys-1"}
{"reason":"build-finished","success":true}"#;
        let found = programs(said);
        let program = |name: &str, folder: &str| Program {
            name: name.into(),
            path: format!("/t/{name}-1").into(),
            folder: folder.into(),
        };
        assert_eq!(found, [program("keys", "/w/tools/plinth"), program("walks", "/w/volume")]);
    }
}
