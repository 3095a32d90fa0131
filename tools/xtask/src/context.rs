//! Where things are, the lock that makes a second run wait, and what is written down of a command.
//!
//! A report is of the command that ended last: the one before is removed when the next begins, so that a run that was
//! killed leaves none rather than another's. A long run is also a line of the ledger.

use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use vm_tests::children;
use vm_tests::error::{Context, Error, Result};

/// A run of this length is worth a line in the ledger.
const LONG_RUN: Duration = Duration::from_secs(10 * 60);

/// How a command ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// Its exit code.
    pub code: u8,
    /// Its closing line.
    pub closing: String,
    /// What its report says beside what all reports say; none is written of a command that ran nothing.
    pub facts: Option<Value>,
    /// The seed that was chosen because the words name none: they repeat the run with it.
    pub seed: Option<u64>,
}

impl Ended {
    /// Prints the closing line of a run.
    pub fn said(code: u8, closing: String, facts: Value) -> Ended {
        println!("{closing}");
        Ended { code, closing, facts: Some(facts), seed: None }
    }

    /// A command that ran nothing, or whose run said everything itself.
    pub fn quiet(code: u8) -> Ended {
        Ended { code, ..Ended::default() }
    }

    /// The same, with the seed that was chosen; `None` if it was given.
    pub fn with_seed(self, seed: Option<u64>) -> Ended {
        Ended { seed, ..self }
    }
}

/// When work began, and on what.
#[derive(Debug)]
pub struct Begun {
    at: Instant,
    /// The commit, shortened, with `-dirty` behind it where the tree is another.
    pub commit: String,
}

/// The folders of the workspace.
#[derive(Debug)]
pub struct Workspace {
    /// The folder of the root manifest.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
    /// `target/xtask`: reports, logs and state.
    pub out: PathBuf,
    /// Kernels and the like (`PLINTH_CACHE`, by default `target/xtask`).
    pub cache: PathBuf,
    begun: OnceLock<Begun>,
}

impl Workspace {
    /// Finds the workspace that this program was built from.
    ///
    /// # Errors
    /// The tree has moved since, or the output folder cannot be made.
    pub fn find() -> Result<Workspace> {
        let manifest =
            std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).ancestors().find(|p| p.join("Cargo.lock").is_file());
        let root =
            root.ok_or_else(|| Error::failed(format!("no Cargo.lock above {manifest}")))?.to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let target = std::path::absolute(&target).doing(|| format!("resolve {}", target.display()))?;
        let out = target.join("xtask");
        fs::create_dir_all(&out).doing(|| format!("make {}", out.display()))?;
        let cache = std::env::var_os("PLINTH_CACHE").map_or_else(|| out.clone(), PathBuf::from);
        let cache = std::path::absolute(&cache).doing(|| format!("resolve {}", cache.display()))?;
        fs::create_dir_all(&cache).doing(|| format!("make {}", cache.display()))?;
        Ok(Workspace { root, target, out, cache, begun: OnceLock::new() })
    }

    /// Takes the lock of the commands that start machines or long runs; waits if another run has it. What a
    /// killed run left behind is ended first. The lock ends with the process, however that ends. Work begins here:
    /// waiting is none, and the tree may have changed meanwhile.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn lock(&self, command: &str) -> Result<Lock> {
        let path = self.out.join("lock");
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file =
            file.as_mut().map_err(|e| Error::failed(format!("cannot open {}: {e}", path.display())))?;
        if file.try_lock().is_err() {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            eprintln!("waiting for another run to end: {}", holder.trim());
            file.lock().doing(|| format!("lock {}", path.display()))?;
        }
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = writeln!(file, "cargo xtask {command}, process {}", std::process::id());
        children::adopt_records(&self.out.join("children"))?;
        let _ = fs::remove_file(self.report_path(command));
        self.begun();
        let held = file.try_clone().doing(|| "keep the lock".into())?;
        Ok(Lock { _held: held })
    }

    /// When work began, and on what; from the first time that it is asked.
    pub fn begun(&self) -> &Begun {
        self.begun.get_or_init(|| Begun { at: Instant::now(), commit: self.commit() })
    }

    /// Writes down how the command with these words ended: in its report, and in the ledger if it was long.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_down(&self, words: &[String], outcome: &Result<Ended>) -> Result<()> {
        let Begun { at, commit } = self.begun();
        let (code, closing, facts, seed) = match outcome {
            Ok(Ended { facts: None, .. }) => return Ok(()),
            Ok(ended) => (ended.code, ended.closing.clone(), ended.facts.clone(), ended.seed),
            Err(error) => (error.kind.exit_code(), format!("ended with an error: {error}"), None, None),
        };
        let chosen = seed.map(|seed| format!(" --seed {seed}")).unwrap_or_default();
        let typed = format!("cargo xtask {}{chosen}", words.join(" "));
        let mut report = json!({"command": typed, "commit": commit, "exit_code": code, "closing": closing,
            "seconds": at.elapsed().as_secs()});
        for (name, value) in facts.iter().filter_map(Value::as_object).flatten() {
            report[name] = value.clone();
        }
        self.report(&words[0], &report)?;
        if at.elapsed() >= LONG_RUN {
            self.append_ledger(&typed, commit, &closing)?;
        }
        Ok(())
    }

    /// Appends a run to `docs/ledger.md`.
    fn append_ledger(&self, typed: &str, commit: &str, closing: &str) -> Result<()> {
        let day = self.output("date", &["-u", "+%Y-%m-%d"]);
        let path = self.root.join("docs/ledger.md");
        let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        let row = ledger_row(&[day.trim(), commit, &format!("`{typed}`"), closing]);
        fs::write(&path, insert_run(&text, &row)).doing(|| format!("write {}", path.display()))
    }

    /// What the tree is. The ledger does not count: runs append to it.
    fn commit(&self) -> String {
        let commit = self.output("git", &["rev-parse", "--short", "HEAD"]);
        let changes = self.output("git", &["status", "--porcelain", "--", ".", ":(exclude)docs/ledger.md"]);
        named_commit(&commit, &changes)
    }

    fn output(&self, program: &str, args: &[&str]) -> String {
        let output = std::process::Command::new(program).args(args).current_dir(&self.root).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
    }

    /// Writes `target/xtask/COMMAND.json`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn report(&self, command: &str, report: &Value) -> Result<()> {
        let path = self.report_path(command);
        let text = format!("{report:#}\n");
        fs::write(&path, text).doing(|| format!("write {}", path.display()))
    }

    fn report_path(&self, command: &str) -> PathBuf {
        self.out.join(format!("{command}.json"))
    }
}

fn named_commit(commit: &str, changes: &str) -> String {
    let dirty = if changes.trim().is_empty() { "" } else { "-dirty" };
    match commit.trim() {
        "" => "unknown".to_owned(),
        commit => format!("{commit}{dirty}"),
    }
}

/// A row of a table; what would end a cell or the line is written in another way.
fn ledger_row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells
        .iter()
        .map(|cell| cell.replace('|', "/").split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    format!("| {} |", cells.join(" | "))
}

/// Puts a row at the end of the ledger's first table, or at the end of a text that has none.
fn insert_run(text: &str, row: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let rule = lines.iter().position(|line| line.starts_with("|---"));
    let at = rule.map_or(lines.len(), |rule| {
        rule + 1 + lines[rule + 1..].iter().take_while(|line| line.starts_with('|')).count()
    });
    lines.insert(at, row);
    lines.join("\n") + "\n"
}

/// The lock of a running command.
#[derive(Debug)]
pub struct Lock {
    _held: File,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_to_the_end_of_the_first_table() {
        let text = "# Ledger\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## More\n\n| c |\n|---|\n";
        let want = "# Ledger\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\n## More\n\n| c |\n|---|\n";
        assert_eq!(insert_run(text, "| 3 | 4 |"), want);
        assert_eq!(insert_run("", "| 3 |"), "| 3 |\n");
    }

    #[test]
    fn the_ledger_has_its_runs_in_one_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ledger.md");
        let text = fs::read_to_string(path).expect("the ledger");
        let runs = text.split("\n## ").find(|part| part.starts_with("Runs")).expect("a section of runs");
        let rows: Vec<usize> =
            runs.lines().enumerate().filter(|(_, line)| line.starts_with('|')).map(|(at, _)| at).collect();
        assert_eq!(rows.last().map(|last| last + 1 - rows[0]), Some(rows.len()), "text stands between rows");
    }

    #[test]
    fn a_row_is_one_line_and_says_when_the_tree_is_no_commit() {
        assert_eq!(ledger_row(&["a", "b|c\n d"]), "| a | b/c d |");
        assert_eq!(named_commit("12ab\n", ""), "12ab");
        assert_eq!(named_commit("12ab\n", " M a.rs\n"), "12ab-dirty");
        assert_eq!(named_commit("", ""), "unknown");
    }

    #[test]
    fn a_run_that_ended_with_an_error_leaves_its_own_report() {
        let out = std::env::temp_dir().join(format!("plinth-xtask-{}", std::process::id()));
        fs::create_dir_all(&out).expect("a folder");
        let (root, target, cache) = (out.clone(), out.clone(), out.clone());
        let workspace = Workspace { root, target, out: out.clone(), cache, begun: OnceLock::new() };
        let words: Vec<String> = ["vm", "boot", "--kernel", "newest"].map(str::to_owned).into();
        let read = || -> Value {
            let text = fs::read_to_string(out.join("vm.json")).expect("a report");
            serde_json::from_str(&text).expect("JSON")
        };
        let good =
            Ended { facts: Some(json!({"passed": 1})), closing: "vm: 1 passed".into(), ..Ended::default() };
        workspace.write_down(&words, &Ok(good.with_seed(Some(7)))).expect("written");
        let report = read();
        assert_eq!(report["command"], "cargo xtask vm boot --kernel newest --seed 7");
        assert_eq!((&report["passed"], &report["exit_code"]), (&1.into(), &0.into()));
        workspace.write_down(&words, &Ok(Ended::quiet(0))).expect("nothing to write");
        assert_eq!(read(), report);
        workspace.write_down(&words, &Err(Error::missing("no QEMU"))).expect("written");
        let report = read();
        assert_eq!((&report["exit_code"], &report["passed"]), (&3.into(), &Value::Null));
        assert!(report["closing"].as_str().is_some_and(|closing| closing.contains("no QEMU")), "{report}");
        fs::remove_dir_all(&out).expect("removed");
    }
}
