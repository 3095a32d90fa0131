//! What must, and what must not, be written.
//!
//! Words that must not appear are put together from parts here, so that this file passes its own rules.

use super::tree::{Finding, SourceFile, Tree};

/// Test programs that need `unsafe` and why. Production code has it in ublk-target only.
const UNSAFE_TESTS: &[(&str, &str)] =
    &[("volume/tests/allocations.rs", "a counting allocator implements an unsafe trait")];

/// `unsafe` is written in ublk-target only.
pub fn unsafe_outside(tree: &Tree) -> Vec<Finding> {
    let keyword = concat!("un", "safe");
    let mut found = Vec::new();
    for file in tree.rust().filter(|f| !f.path.starts_with("ublk-target/")) {
        if UNSAFE_TESTS.iter().any(|(path, _)| *path == file.path) {
            continue;
        }
        for (at, line) in file.text.lines().enumerate() {
            let code = code_of(line);
            let uses = ["{", "fn", "impl", "extern", "trait"].map(|next| format!("{keyword} {next}"));
            if uses.iter().any(|u| code.contains(u.as_str())) && !code.contains('"') {
                found.push(file.finding(at + 1, format!("{keyword} code lives in ublk-target only")));
            }
        }
    }
    found
}

/// Every file begins by saying what it is about.
pub fn about_lines(tree: &Tree) -> Vec<Finding> {
    let lacks = |file: &&SourceFile| !file.text.starts_with("//! ");
    tree.rust().filter(lacks).map(|f| f.finding(1, "the file does not begin with a //! line")).collect()
}

/// Nothing is left for later, and no test is switched off.
pub fn unfinished(tree: &Tree) -> Vec<Finding> {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("#[ig", "nore"),
    ];
    contain(tree, |f| !f.path.ends_with(".lock"), &marks, "is for unfinished work")
}

/// Words that mean another system's idea, and traces of a workplace.
pub fn words(tree: &Tree) -> Vec<Finding> {
    let places = [
        concat!("/work", "/main"),
        concat!("/work", "/shared"),
        concat!("..", "/shared"),
        concat!("/tmp", "/target-"),
        concat!("/tmp", "/brief"),
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("deb.debian", ".org"),
        concat!("proxy.golang", ".org"),
        concat!("arti", "factory"),
    ];
    let mut found = contain(tree, |_| true, &places, "names a place that is not part of the project");
    let foreign = [concat!("ep", "och"), concat!("ls", "n")];
    let core = ["base/", "cow/", "rlog/", "fence/", "volume/", "ublk-target/", "node/", "docs/", "tools/"];
    for file in tree.files.iter().filter(|f| core.iter().any(|c| f.path.starts_with(c))) {
        for (at, line) in file.text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
            if let Some(word) = words.find(|w| foreign.contains(w)) {
                found.push(file.finding(at + 1, format!("`{word}` is not our word; see docs/glossary.md")));
            }
        }
    }
    found
}

fn contain(tree: &Tree, of: impl Fn(&SourceFile) -> bool, marks: &[&str], why: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|f| of(f)) {
        for (at, line) in file.text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|m| line.contains(**m)) {
                found.push(file.finding(at + 1, format!("`{mark}` {why}")));
            }
        }
    }
    found
}

/// The line without its comment.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_sample() {
        let sample = format!(
            "fn a() {{\n    {} {{ b() }}\n    // {}: later\n    {}()\n}}\n",
            concat!("un", "safe"),
            concat!("TO", "DO"),
            concat!("unimple", "mented!"),
        );
        let tree = Tree::of(&[("volume/src/x.rs", &sample)]);
        assert_eq!(unsafe_outside(&tree).len(), 1);
        assert_eq!(unfinished(&tree).iter().map(|f| f.line).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(about_lines(&tree).len(), 1);
    }

    #[test]
    fn a_forbidding_attribute_and_a_comment_are_no_use() {
        let sample = format!("#![forbid({0}_code)]\n// {0} {{ }}\n", concat!("un", "safe"));
        assert!(unsafe_outside(&Tree::of(&[("base/src/lib.rs", &sample)])).is_empty());
    }

    #[test]
    fn foreign_words_are_found_as_whole_words() {
        let sample =
            format!("let {} = 1;\nlet re{}s = 2;\nUNIX_EPOCH\n", concat!("ep", "och"), concat!("ep", "och"));
        let tree = Tree::of(&[("cow/src/x.rs", &sample)]);
        assert_eq!(words(&tree).iter().map(|f| f.line).collect::<Vec<_>>(), [1]);
        let place = format!("see {}/x\n", concat!("/work", "/main"));
        assert_eq!(words(&Tree::of(&[("README.md", &place)])).len(), 1);
    }
}
