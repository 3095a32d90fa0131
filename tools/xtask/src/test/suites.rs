//! The table of suites. To add one: a row with a name, what it runs, and a reader of its closing line.

use super::counts::{self, Counts, Reader};
use crate::build::Program;
use crate::context::Workspace;
use crate::{tidy, vm};
use vm_tests::error::Result;

/// One suite.
pub struct Suite {
    /// Its name in closing lines and for `--allow-skip`.
    pub name: &'static str,
    /// What it shows, printed when it starts.
    pub about: &'static str,
    /// What it runs.
    pub work: Work,
}

/// What a suite runs.
pub enum Work {
    /// A function of this program.
    Inside(fn(&Workspace) -> Result<Counts>),
    /// The same, with virtual machines.
    Machines(fn(&Workspace) -> Result<Counts>),
    /// Every test program, and the tests in the documentation.
    Tests,
    /// cargo with these words.
    Cargo {
        /// The words.
        words: &'static [&'static str],
        /// Reads its output.
        reader: Reader,
    },
    /// A program of this workspace, built with optimisation.
    Program {
        /// The package that holds it.
        package: &'static str,
        /// Its name.
        program: &'static str,
        /// Features of the package.
        features: &'static [&'static str],
        /// The words.
        words: &'static [&'static str],
        /// The exit code that it must end with.
        exit: i32,
        /// Reads its output.
        reader: Reader,
    },
}

impl Suite {
    /// The programs that it needs built.
    pub fn programs(&self) -> Vec<Program> {
        match self.work {
            Work::Program { package, program, features, .. } => {
                vec![Program { package, name: program, release: true, features }]
            }
            Work::Machines(_) => vm::PROGRAMS.to_vec(),
            Work::Inside(_) | Work::Tests | Work::Cargo { .. } => Vec::new(),
        }
    }
}

/// Every suite, cheapest first, so that a plain mistake is found early.
pub const SUITES: &[Suite] = &[
    Suite {
        name: "format",
        about: "rustfmt changes nothing",
        work: Work::Cargo { words: &["fmt", "--all", "--", "--check"], reader: counts::exit_code },
    },
    Suite { name: "tidy", about: "the rules of the source tree", work: Work::Inside(tidy_rules) },
    Suite {
        name: "clippy",
        about: "no warning in any target",
        work: Work::Cargo {
            words: &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
            reader: counts::exit_code,
        },
    },
    Suite {
        name: "unit",
        about: "unit, property and documentation tests of every package",
        work: Work::Tests,
    },
    Suite {
        name: "sim",
        about: "the whole engine on simulated drives, 2,000 seeds",
        work: sim(&["--seeds", "2000"], counts::seeds),
    },
    Suite {
        name: "crash-everywhere",
        about: "a crash after each step of recorded runs, and again inside recovery",
        work: sim(&["--crash-everywhere", "--states", "20000"], counts::passed_failed),
    },
    Suite {
        name: "fault-sweep",
        about: "the k-th drive operation fails, once or from then on, for every k",
        work: sim(&["--fault-sweep", "8"], counts::passed_failed),
    },
    Suite {
        name: "canary",
        about: "the simulator can fail",
        work: Work::Program {
            package: "sim",
            program: "plinth-sim",
            features: &[],
            words: &["--canary"],
            exit: 1,
            reader: counts::canary,
        },
    },
    Suite {
        name: "planted",
        about: "every planted bug is caught by a checker, and its seed is green without it",
        work: Work::Program {
            package: "sim",
            program: "plinth-sim",
            features: &["planted"],
            words: &["--planted"],
            exit: 0,
            reader: counts::caught,
        },
    },
    Suite {
        name: "fuzz",
        about: "every corpus again, and fresh mutations of it",
        work: fuzz("plinth-fuzz", &["--replay"]),
    },
    Suite {
        name: "kills",
        about: "the serving process is killed 200 times, and nothing is lost",
        work: fuzz("plinth-kill", &["--kills", "200"]),
    },
    Suite { name: "vm", about: "smoke scenarios in virtual machines", work: Work::Machines(smoke) },
];

const fn sim(words: &'static [&'static str], reader: Reader) -> Work {
    Work::Program { package: "sim", program: "plinth-sim", features: &[], words, exit: 0, reader }
}

const fn fuzz(program: &'static str, words: &'static [&'static str]) -> Work {
    Work::Program {
        package: "plinth-fuzz",
        program,
        features: &[],
        words,
        exit: 0,
        reader: counts::passed_failed,
    }
}

fn tidy_rules(workspace: &Workspace) -> Result<Counts> {
    let verdict = tidy::run(workspace)?;
    workspace.report("tidy", &verdict.facts())?;
    Ok(Counts { passed: u64::from(verdict.passed), failed: u64::from(verdict.failed), skipped: 0 })
}

fn smoke(workspace: &Workspace) -> Result<Counts> {
    let tally = vm::smoke(workspace)?;
    workspace.report("vm", &tally.facts)?;
    Ok(Counts { passed: u64::from(tally.passed), failed: u64::from(tally.failed), skipped: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_words() {
        for (at, suite) in SUITES.iter().enumerate() {
            assert!(SUITES[..at].iter().all(|s| s.name != suite.name));
            assert!(suite.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        }
    }
}
