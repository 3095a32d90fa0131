//! What suites say about themselves, read from what they print.
//!
//! A reader is given the whole output and whether the program exited with 0. A reader that finds nothing
//! returns zeros, and an empty suite fails: a closing line that changed its form is noticed at once.

use serde_json::{Value, json};
use std::fmt;

/// How many passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Went well.
    pub passed: u64,
    /// Did not.
    pub failed: u64,
    /// Did not run.
    pub skipped: u64,
}

/// Reads a suite's output.
pub type Reader = fn(&str, bool) -> Counts;

impl Counts {
    /// Adds another suite's.
    pub fn add(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// A program that only has an exit code.
pub fn exit_code(_: &str, success: bool) -> Counts {
    Counts { passed: u64::from(success), failed: u64::from(!success), skipped: 0 }
}

/// The lines of Rust's test programs: `test result: ok. 5 passed; 0 failed; 1 ignored; ...`.
pub fn test_results(text: &str, _: bool) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines().filter_map(|l| l.trim().strip_prefix("test result:")) {
        counts.add(Counts {
            passed: number_before(line, "passed"),
            failed: number_before(line, "failed"),
            skipped: number_before(line, "ignored"),
        });
    }
    counts
}

/// `NAME: N seeds, N failed, ...`: a seed passes or fails.
pub fn seeds(text: &str, _: bool) -> Counts {
    let Some(line) = closing_line(text, "seeds") else { return Counts::default() };
    let failed = number_before(line, "failed");
    Counts { passed: number_before(line, "seeds").saturating_sub(failed), failed, skipped: 0 }
}

/// `NAME: N of N caught`: a planted bug that nobody saw is a failure.
pub fn caught(text: &str, _: bool) -> Counts {
    let Some(line) = closing_line(text, "caught") else { return Counts::default() };
    let all = find_number_before(line, "caught").unwrap_or(0);
    let passed = find_number_before(line, "of").unwrap_or(0).min(all);
    Counts { passed, failed: all - passed, skipped: 0 }
}

/// `canary: failed as it must`: the one run that is right when it fails.
pub fn canary(text: &str, _: bool) -> Counts {
    let passed = text.lines().any(|l| l.trim() == "canary: failed as it must");
    Counts { passed: u64::from(passed), failed: u64::from(!passed), skipped: 0 }
}

/// `NAME: N passed, N failed` with or without skips.
pub fn passed_failed(text: &str, _: bool) -> Counts {
    let Some(line) = closing_line(text, "passed") else { return Counts::default() };
    Counts {
        passed: number_before(line, "passed"),
        failed: number_before(line, "failed"),
        skipped: number_before(line, "skipped"),
    }
}

/// `fuzz TARGET: N inputs, N crashes`, one line for each target.
#[cfg_attr(not(test), allow(dead_code, reason = "a reader for rows to come"))]
pub fn inputs(text: &str, _: bool) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines().filter(|l| l.contains(" inputs, ") && l.contains(" crashes")) {
        let failed = number_before(line, "crashes");
        counts.add(Counts {
            passed: number_before(line, "inputs").saturating_sub(failed),
            failed,
            skipped: 0,
        });
    }
    counts
}

/// What a line `NAME: N this, N that` or `NAME: N` counts, under its name; `N of M this` counts M as `all`.
pub fn said(line: &str) -> Option<(String, Value)> {
    let (name, rest) = line.trim().split_once(": ")?;
    if let Some(number) = number(rest) {
        return Some((name.to_owned(), json!(number)));
    }
    let mut counts = serde_json::Map::new();
    for part in rest.split(", ") {
        let words: Vec<&str> = part.split_whitespace().collect();
        let (Some(count), [_, what @ ..]) = (words.first().and_then(|word| number(word)), &words[..]) else {
            continue;
        };
        let what = match what {
            ["of", all, what @ ..] => {
                counts.insert("all".to_owned(), json!(number(all)?));
                what
            }
            what => what,
        };
        counts.insert(what.join("_").replace('/', "_per_"), json!(count));
    }
    (!counts.is_empty()).then(|| (name.to_owned(), Value::Object(counts)))
}

/// The last line that has a number before `word`.
fn closing_line<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.lines().rev().find(|line| find_number_before(line, word).is_some())
}

fn number_before(line: &str, word: &str) -> u64 {
    find_number_before(line, word).unwrap_or(0)
}

fn find_number_before(line: &str, word: &str) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().map(|w| w.trim_matches([',', ';', '.', ':'])).collect();
    words.windows(2).filter(|pair| pair[1] == word).find_map(|pair| number(pair[0]))
}

fn number(word: &str) -> Option<u64> {
    word.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts { passed, failed, skipped }
    }

    #[test]
    fn rust_test_programs_add_up() {
        let text = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; \
                    finished in 0.00s\nnoise\ntest result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured\n";
        assert_eq!(test_results(text, false), of(5, 1, 2));
    }

    #[test]
    fn closing_lines_of_every_kind() {
        let sim = "sim: 2000 seeds, 3 failed, 9000 crashes, 12000 faults, 40 seeds/s, trace 1f\n";
        assert_eq!(seeds(sim, false), of(1997, 3, 0));
        let planted = "planted a: caught by C2 at seed 3\nplanted b: MISSED\nplanted: 28 of 29 caught\n";
        assert_eq!(caught(planted, false), of(28, 1, 0));
        assert_eq!(passed_failed("vm: 9 passed, 1 failed\n", false), of(9, 1, 0));
        assert_eq!(passed_failed("x: 9 passed, 0 failed, 2 skipped\n", true), of(9, 0, 2));
        assert_eq!(
            inputs("fuzz a: 10 inputs, 0 crashes\nfuzz b: 5 inputs, 1 crashes\n", false),
            of(14, 1, 0)
        );
    }

    #[test]
    fn what_lines_say_is_kept_by_name() {
        let is =
            |line: &str, name: &str, counts: Value| assert_eq!(said(line), Some((name.to_owned(), counts)));
        let sim = "sim: 20 seeds, 3 failed, 9 crashes, 12 faults, 40 seeds/s, trace 1f";
        let counts = json!({"seeds": 20, "failed": 3, "crashes": 9, "faults": 12, "seeds_per_s": 40});
        is(sim, "sim", counts);
        is("fault lost write: 17", "fault lost write", json!(17));
        is("planted: 28 of 29 caught", "planted", json!({"caught": 28, "all": 29}));
        let kills = "kills of 2 leg: 5 passed, 0 failed, 70 writes acknowledged, slowest start 9 ms";
        is(kills, "kills of 2 leg", json!({"passed": 5, "failed": 0, "writes_acknowledged": 70}));
        assert_eq!(said("seed 5 failed: C1: block 3 is wrong"), None);
        assert_eq!(said("all good"), None);
    }

    #[test]
    fn a_line_that_changed_its_form_counts_nothing() {
        for reader in [seeds, caught, passed_failed, inputs, test_results] {
            assert_eq!(reader("all good\n", true), Counts::default());
        }
    }
}
