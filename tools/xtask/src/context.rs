//! Where things are, the lock that makes a second run wait, and the report of a command.

use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use vm_tests::children;
use vm_tests::error::{Context, Error, Result};

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
        Ok(Workspace { root, target, out, cache })
    }

    /// Takes the lock of the commands that start machines or long runs; waits if another run has it. What a
    /// killed run left behind is ended first. The lock ends with the process, however that ends.
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
        let held = file.try_clone().doing(|| "keep the lock".into())?;
        Ok(Lock { _held: held })
    }

    /// Appends a long run to `docs/ledger.md`: when, at which commit, the command and its closing line.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn append_ledger(&self, command: &str, closing: &str) -> Result<()> {
        let (day, commit) = (self.first_word("date", &["-u", "+%Y-%m-%d"]), self.commit());
        let path = self.root.join("docs/ledger.md");
        let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        let row = format!("| {day} | {commit} | `{command}` | {closing} |");
        fs::write(&path, insert_run(&text, &row)).doing(|| format!("write {}", path.display()))
    }

    /// The commit of the workspace, shortened.
    pub fn commit(&self) -> String {
        self.first_word("git", &["rev-parse", "--short", "HEAD"])
    }

    fn first_word(&self, program: &str, args: &[&str]) -> String {
        let output = std::process::Command::new(program).args(args).current_dir(&self.root).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.split_whitespace().next().unwrap_or("unknown").to_owned()
    }

    /// Writes `target/xtask/COMMAND.json`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn report(&self, command: &str, report: &Value) -> Result<()> {
        let path = self.out.join(format!("{command}.json"));
        let text = format!("{report:#}\n");
        fs::write(&path, text).doing(|| format!("write {}", path.display()))
    }
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
}
