//! The text files of the source tree, as the rules see them.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use vm_tests::error::{Error, Result};

/// One file.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Its path from the root of the workspace, with forward slashes.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// All files.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Sorted by path.
    pub files: Vec<SourceFile>,
}

/// Something that a rule does not like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and what to do.
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.why),
            line => write!(f, "{}:{line}: {}", self.path, self.why),
        }
    }
}

/// Extensions of files that are read; images and archives are not.
const TEXT: [&str; 9] = ["rs", "toml", "md", "txt", "service", "json", "sh", "html", "lock"];

impl Tree {
    /// Reads what git tracks or would track.
    ///
    /// # Errors
    /// git is missing, or this is no repository.
    pub fn read(root: &Path) -> Result<Tree> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output();
        let output = output.ok().filter(|o| o.status.success());
        let output =
            output.ok_or_else(|| Error::missing("tidy lists its files with git; this is no repository"))?;
        let mut tree = Tree::default();
        for path in String::from_utf8_lossy(&output.stdout).split('\0').filter(|p| !p.is_empty()) {
            let named =
                Path::new(path).extension().and_then(|e| e.to_str()).is_some_and(|e| TEXT.contains(&e));
            if !named && !path.starts_with(".ci/") && !path.starts_with(".cargo/") {
                continue;
            }
            // A file that is listed and gone is being moved by someone; what is no text is not ours to judge.
            if let Ok(text) = fs::read_to_string(root.join(path)) {
                tree.files.push(SourceFile { path: path.to_owned(), text });
            }
        }
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        tree.files.dedup_by(|a, b| a.path == b.path);
        Ok(tree)
    }

    /// The Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|f| f.path.ends_with(".rs"))
    }

    /// The file of that path.
    pub fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|f| f.path == path)
    }

    /// A tree for a test.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| SourceFile { path: (*path).into(), text: (*text).into() };
        Tree { files: files.iter().map(file).collect() }
    }
}

impl SourceFile {
    /// A finding in this file.
    pub fn finding(&self, line: usize, why: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, why: why.into() }
    }

    /// Whether the whole file is test code.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/") || self.path.starts_with("tests/")
    }

    /// The lines of production code, without inline test modules: number from 1, and text.
    pub fn production(&self) -> Vec<(usize, &str)> {
        let mut lines = Vec::new();
        let mut in_tests = false;
        let mut pending = false;
        for (at, line) in self.text.lines().enumerate() {
            if in_tests {
                in_tests = line != "}";
                continue;
            }
            if line == "#[cfg(test)]" {
                pending = true;
                continue;
            }
            if pending {
                pending = line.starts_with("#[");
                in_tests = line.starts_with("mod ") && line.ends_with('{');
                if in_tests || line.starts_with("mod ") {
                    continue;
                }
            }
            lines.push((at + 1, line));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_tests_are_no_production_code() {
        let text =
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod tests;\n";
        let tree = Tree::of(&[("x/src/lib.rs", text)]);
        let lines: Vec<&str> = tree.files[0].production().into_iter().map(|(_, l)| l).collect();
        assert_eq!(lines, ["fn a() {}", "fn c() {}"]);
    }
}
