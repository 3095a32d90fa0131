//! Documents that are pinned to source files.
//!
//! A document that describes code says so in a line `<!-- pinned: PATH HASH -->`. When the file changes, the
//! hash no longer fits and the rule asks whoever changed it to read the document again; `cargo xtask tidy
//! --pin` then writes the new hashes. `docs/format.md` must pin every `layout.rs`.

use super::tree::{Finding, Tree};
use std::fs;
use std::path::Path;
use vm_tests::error::{Context, Result};
use xxhash_rust::xxh3::xxh3_128;

const OPEN: &str = "<!-- pinned: ";
const CLOSE: &str = " -->";
const FORMAT: &str = "docs/format.md";

/// A pin in a line: the path and the hash.
fn parse(line: &str) -> Option<(&str, &str)> {
    let inside = line.trim().strip_prefix(OPEN)?.strip_suffix(CLOSE)?;
    Some(inside.split_once(' ').unwrap_or((inside, "")))
}

fn hash(text: &str) -> String {
    format!("xxh3-128:{:032x}", xxh3_128(text.as_bytes()))
}

/// Every pin fits, and the format's document pins every layout.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for document in tree.files.iter().filter(|f| f.path.ends_with(".md")) {
        for (at, line) in document.text.lines().enumerate() {
            let Some((path, pinned)) = parse(line) else { continue };
            match tree.file(path) {
                None => found.push(document.finding(at + 1, format!("pinned to {path}, which is not there"))),
                Some(file) if hash(&file.text) != pinned => found.push(document.finding(
                    at + 1,
                    format!("{path} has changed: read this document again, then `cargo xtask tidy --pin`"),
                )),
                Some(_) => {}
            }
        }
    }
    if let Some(format) = tree.file(FORMAT) {
        for layout in tree.rust().filter(|f| f.path.ends_with("/src/layout.rs")) {
            if !format.text.lines().filter_map(parse).any(|(path, _)| path == layout.path) {
                found.push(format.finding(
                    0,
                    format!("{} is not pinned: add `{OPEN}{} -{CLOSE}`", layout.path, layout.path),
                ));
            }
        }
    }
    found
}

/// Writes the present hashes into every document; returns how many changed.
///
/// # Errors
/// A document cannot be written.
pub fn write(tree: &Tree, root: &Path) -> Result<u32> {
    let mut written = 0;
    for document in tree.files.iter().filter(|f| f.path.ends_with(".md")) {
        let mut text = String::new();
        let before = written;
        for line in document.text.lines() {
            let fresh = parse(line).and_then(|(path, old)| {
                let new = hash(&tree.file(path)?.text);
                (new != old).then(|| format!("{OPEN}{path} {new}{CLOSE}"))
            });
            written += u32::from(fresh.is_some());
            text.push_str(fresh.as_deref().unwrap_or(line));
            text.push('\n');
        }
        if written > before {
            let path = root.join(&document.path);
            fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_and_an_unpinned_layout_are_found() {
        let pin = |text: &str| format!("# Format\n{OPEN}cow/src/layout.rs {}{CLOSE}\n", hash(text));
        let good = pin("//! a\n");
        let tree = |document: &str| Tree::of(&[("cow/src/layout.rs", "//! a\n"), (FORMAT, document)]);
        assert!(check(&tree(&good)).is_empty());
        assert_eq!(check(&tree(&pin("//! b\n"))).len(), 1);
        assert_eq!(check(&tree("# Format\n")).len(), 1);
        let gone = good.replace("cow/src/layout.rs", "cow/src/gone.rs");
        assert_eq!(check(&tree(&gone)).len(), 2);
    }
}
