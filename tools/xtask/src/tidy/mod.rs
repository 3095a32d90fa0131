//! `cargo xtask tidy`: the rules of the source tree that no compiler checks.
//!
//! Every rule is a function from the tree to findings, and has a test with a sample that it must find: a
//! rule that sees nothing would pass for ever.

mod crates;
mod pins;
mod sizes;
mod text;
mod tree;

use crate::context::{Ended, Workspace};
use serde_json::{Value, json};
use tree::{Finding, Tree};
use vm_tests::error::{Error, Result};

type Rule = (&'static str, fn(&Tree) -> Vec<Finding>);

const RULES: &[Rule] = &[
    ("directions", crates::directions),
    ("core", crates::core_attributes),
    ("unsafe", text::unsafe_outside),
    ("about", text::about_lines),
    ("unfinished", text::unfinished),
    ("words", text::words),
    ("sizes", sizes::check),
    ("pins", pins::check),
];

/// How the rules went.
pub struct Verdict {
    /// Rules without a finding.
    pub passed: u32,
    /// Rules with one or more.
    pub failed: u32,
    found: Vec<Value>,
}

impl Verdict {
    /// What a report says of it.
    pub fn facts(&self) -> Value {
        json!({"passed": self.passed, "failed": self.failed, "findings": self.found})
    }
}

/// Runs the command. `--pin` writes the present hashes into the documents instead of checking.
///
/// # Errors
/// Unknown words, or the tree cannot be read.
pub fn command(workspace: &Workspace, words: &[String]) -> Result<Ended> {
    match words {
        [] => {}
        [flag] if flag == "--pin" => {
            let written = pins::write(&Tree::read(&workspace.root)?, &workspace.root)?;
            println!("tidy: {written} pins written");
            return Ok(Ended::quiet(0));
        }
        _ => return Err(Error::invalid("tidy takes no words but --pin")),
    }
    let verdict = run(workspace)?;
    let closing = format!("tidy: {} passed, {} failed", verdict.passed, verdict.failed);
    Ok(Ended::said(u8::from(verdict.failed > 0), closing, verdict.facts()))
}

/// Runs every rule and prints its findings.
///
/// # Errors
/// The tree cannot be read.
pub fn run(workspace: &Workspace) -> Result<Verdict> {
    let tree = Tree::read(&workspace.root)?;
    let mut verdict = Verdict { passed: 0, failed: 0, found: Vec::new() };
    for (name, rule) in RULES {
        let findings = rule(&tree);
        if findings.is_empty() {
            verdict.passed += 1;
        } else {
            verdict.failed += 1;
        }
        for finding in findings {
            eprintln!("tidy {name}: {finding}");
            let found = json!({"rule": name, "path": finding.path, "line": finding.line, "why": finding.why});
            verdict.found.push(found);
        }
    }
    Ok(verdict)
}
