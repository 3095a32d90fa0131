//! Sizes of files and functions, with a ratchet for the few that are over.
//!
//! `tools/xtask/ratchet.txt` lists what was too long when the rule came or has a reason to be: `file PATH
//! LINES` or `function PATH NAME LINES`. An entry can only shrink: a longer one is a finding, and so is one
//! that is no longer needed.

use super::tree::{Finding, SourceFile, Tree};

/// Lines of production code in one file.
const FILE_LINES: usize = 800;
/// Lines of one function from its signature to its closing brace.
const FUNCTION_LINES: usize = 100;
const RATCHET: &str = "tools/xtask/ratchet.txt";

/// Checks every Rust file.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let ratchet = tree.file(RATCHET);
    let allowed: Vec<(usize, Vec<&str>)> = ratchet
        .iter()
        .flat_map(|f| f.text.lines().enumerate())
        .filter(|(_, line)| !line.trim_start().starts_with('#') && !line.trim().is_empty())
        .map(|(at, line)| (at + 1, line.split_whitespace().collect()))
        .collect();
    let limit_of = |key: &[&str]| {
        allowed
            .iter()
            .find(|(_, words)| words.len() == key.len() + 1 && words[..key.len()] == *key)
            .and_then(|(_, words)| words[key.len()].parse::<usize>().ok())
    };
    let mut found = Vec::new();
    let mut used: Vec<Vec<String>> = Vec::new();
    for file in tree.rust().filter(|f| !f.is_test()) {
        let lines = file.production().len();
        judge(&["file", &file.path], lines, FILE_LINES, &limit_of, &mut used, |limit| {
            found.push(
                file.finding(0, format!("{lines} lines of code, over {limit}: split it by what it holds")),
            );
        });
        for function in functions(file) {
            let key = ["function", &file.path, function.name];
            judge(&key, function.lines, FUNCTION_LINES, &limit_of, &mut used, |limit| {
                let why =
                    format!("{} has {} lines, over {limit}: name its parts", function.name, function.lines);
                found.push(file.finding(function.line, why));
            });
        }
    }
    for (line, words) in &allowed {
        let key = words.get(..words.len().saturating_sub(1)).unwrap_or_default();
        if let Some(ratchet) = ratchet
            && !used.iter().any(|u| u == key)
        {
            found.push(ratchet.finding(*line, "no longer needed: take the line out"));
        }
    }
    found
}

fn judge(
    key: &[&str],
    lines: usize,
    limit: usize,
    limit_of: &impl Fn(&[&str]) -> Option<usize>,
    used: &mut Vec<Vec<String>>,
    mut complain: impl FnMut(usize),
) {
    if lines <= limit {
        return;
    }
    used.push(key.iter().map(|w| (*w).to_owned()).collect());
    let limit = limit_of(key).unwrap_or(limit);
    if lines > limit {
        complain(limit);
    }
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    lines: usize,
}

/// Functions with a body of several lines. The tree is formatted, so a body ends at the first line that
/// closes a brace at the indentation of its `fn`.
fn functions(file: &SourceFile) -> Vec<Function<'_>> {
    let lines = file.production();
    let mut found = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let without_body =
            |l: &str| l.ends_with(';') && l.starts_with(indent) && !l.starts_with(&format!("{indent} "));
        for (length, (_, next)) in lines[index..].iter().enumerate() {
            if *next == end {
                found.push(Function { name, line: *number, lines: length + 1 });
                break;
            }
            let ends_here = length == 0 && (next.ends_with('}') || next.ends_with(';'));
            if ends_here || (length > 0 && without_body(next)) {
                break;
            }
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix("fn ") {
            let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            return Some(&after[..end]);
        }
        let word_end = rest.find(' ')?;
        let word = &rest[..word_end];
        let qualifier = ["pub", "const", "async", concat!("un", "safe"), "extern", "\"C\""].contains(&word)
            || word.starts_with("pub(");
        rest = if qualifier { &rest[word_end + 1..] } else { return None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_function(lines: usize) -> String {
        format!("//! x\n\npub(crate) fn long(\n    a: u8,\n) {{\n{}}}\n", "    a();\n".repeat(lines))
    }

    #[test]
    fn a_long_function_and_a_long_file_are_found() {
        let tree = Tree::of(&[("a/src/x.rs", &long_function(120))]);
        let found = check(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].why.contains("long has 124 lines")), (3, true));
        let tree = Tree::of(&[("a/src/x.rs", &"// x\n".repeat(801))]);
        assert_eq!(check(&tree).len(), 1);
        let tree = Tree::of(&[("a/src/tests.rs", &"// x\n".repeat(2000))]);
        assert!(check(&tree).is_empty());
    }

    #[test]
    fn short_functions_and_declarations_are_not() {
        let text = "trait T {\n    fn a(&self);\n    fn b(&self) -> u8 {\n        1\n    }\n}\nfn c() {}\n";
        let tree = Tree::of(&[("a/src/x.rs", text)]);
        let names: Vec<&str> = functions(&tree.files[0]).iter().map(|f| f.name).collect();
        assert_eq!(names, ["b"]);
    }

    #[test]
    fn the_ratchet_only_shrinks() {
        let text = long_function(120);
        let with = |ratchet: &str| check(&Tree::of(&[("a/src/x.rs", &text), (RATCHET, ratchet)])).len();
        assert_eq!(with("function a/src/x.rs long 124\n"), 0);
        assert_eq!(with("function a/src/x.rs long 123\n"), 1);
        assert_eq!(with("function a/src/x.rs long 124\nfile a/src/gone.rs 900\n"), 1);
    }
}
