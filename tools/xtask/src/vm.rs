//! `cargo xtask vm`: scenarios in virtual machines.

use crate::build;
use crate::context::{Ended, Workspace};
use crate::setup;
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};
use vm_tests::error::{Context, Error, Result};
use vm_tests::kernel::Which;
use vm_tests::scenario::{self, Bench, Report, Scenario};

/// What the smoke set needs built: the product, what runs inside, and what opens the drives of a cut.
pub const PROGRAMS: [build::Program; 3] = [
    program("plinth", "plinth", true),
    program("vm-tests", "plinth-guest", false),
    program("plinth-fuzz", "plinth-cut", true),
];

const fn program(package: &'static str, name: &'static str, release: bool) -> build::Program {
    build::Program { package, name, release, features: &[] }
}

/// Machines that run at once, at most: each may have gigabytes of memory and drives.
const MOST_AT_ONCE: usize = 4;

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Only say what there is.
    pub list: bool,
    /// The stated counts.
    pub full: bool,
    /// The kernel for all.
    pub kernel: Option<Which>,
    /// Scenarios by name.
    pub names: Vec<String>,
    /// What random choices start from.
    pub seed: Option<u64>,
    /// Rounds of each scenario.
    pub rounds: Option<u64>,
    /// Images of each cut.
    pub images: Option<u64>,
    /// The program of `exec`.
    pub exec: Option<String>,
    /// Its words.
    pub exec_words: Vec<String>,
    /// A binary of the product to take instead of building one.
    pub product: Option<String>,
    /// A bug that the product was built with.
    pub planted: Option<String>,
    /// Whether checks are printed as they are made.
    pub tells: bool,
}

fn parse(words: &[String]) -> Result<Wish> {
    let mut wish = Wish::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--list" => wish.list = true,
            "--full" => wish.full = true,
            "--kernel" => {
                let name = words.next().map_or("", String::as_str);
                let which = Which::parse(name);
                wish.kernel = Some(which.ok_or_else(|| {
                    Error::invalid(format!("--kernel is `{name}`: it can be 6.12 or newest"))
                })?);
            }
            "--seed" => wish.seed = Some(number("--seed", words.next())?),
            "--rounds" => wish.rounds = Some(number("--rounds", words.next())?),
            "--images" => wish.images = Some(number("--images", words.next())?),
            "--product" => wish.product = words.next().cloned(),
            "--exec" => wish.exec = words.next().cloned(),
            "--word" => wish.exec_words.extend(words.next().cloned()),
            flag if flag.starts_with('-') => return Err(Error::invalid(format!("vm knows no flag {flag}"))),
            name => wish.names.push(name.to_owned()),
        }
    }
    Ok(wish)
}

/// The number behind a flag.
pub fn number(flag: &str, word: Option<&String>) -> Result<u64> {
    word.and_then(|w| w.parse().ok()).ok_or_else(|| Error::invalid(format!("{flag} takes a number")))
}

/// One run that was asked for.
pub type Run = (&'static Scenario, Which);

/// Which runs a wish means: named scenarios on the named kernel (or newest); without names the smoke set, or
/// with `--full` everything on both kernels.
///
/// # Errors
/// There is no scenario of a name.
pub fn runs(wish: &Wish) -> Result<Vec<Run>> {
    let mut chosen: Vec<Run> = Vec::new();
    for name in &wish.names {
        let row = scenario::find(name).ok_or_else(|| {
            let known: Vec<&str> = scenario::ALL.iter().map(|s| s.name).collect();
            Error::invalid(format!("there is no scenario {name}; there are: {}", known.join(", ")))
        })?;
        chosen.push((row, wish.kernel.unwrap_or(Which::Newest)));
    }
    if wish.names.is_empty() {
        for row in scenario::ALL {
            // What is not in the smoke set is only for trying things.
            let everything = wish.full && !row.smoke.is_empty();
            let kernels: &[Which] = if everything { &Which::ALL } else { row.smoke };
            let wanted = kernels.iter().filter(|w| wish.kernel.is_none_or(|k| k == **w));
            chosen.extend(wanted.map(|w| (row, *w)));
        }
    }
    Ok(chosen)
}

/// Runs the command.
///
/// # Errors
/// Unknown words, or something that every scenario needs is missing.
pub fn command(workspace: &Workspace, words: &[String]) -> Result<Ended> {
    let wish = parse(words)?;
    if wish.list {
        for row in scenario::ALL {
            let smoke: Vec<&str> = row.smoke.iter().map(|w| w.name()).collect();
            println!("{:<14} {} [smoke: {}]", row.name, row.about, smoke.join(", "));
        }
        return Ok(Ended::quiet(0));
    }
    let _lock = workspace.lock("vm")?;
    setup::ensure(workspace)?;
    let tally = run(workspace, &runs(&wish)?, &wish)?;
    let closing = format!("vm: {} passed, {} failed", tally.passed, tally.failed);
    let code = u8::from(tally.failed > 0 || tally.passed == 0);
    Ok(Ended::said(code, closing, tally.facts).with_seed(wish.seed.is_none().then_some(tally.seed)))
}

/// `cargo xtask power-cut --cuts N`: the scenario of that name with a count of its own.
///
/// # Errors
/// Unknown words, or something that the machine needs is missing.
pub fn power_cut(workspace: &Workspace, words: &[String]) -> Result<Ended> {
    let mut wish = Wish { names: vec!["power-cut".into()], rounds: Some(20), ..Wish::default() };
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--cuts" => wish.rounds = Some(number("--cuts", words.next())?),
            _ => rest.push(word.clone()),
        }
    }
    let more = parse(&rest)?;
    if !more.names.is_empty() || more.exec.is_some() || more.rounds.is_some() {
        return Err(Error::invalid(
            "power-cut takes --cuts N, --images N, --kernel 6.12|newest and --seed S",
        ));
    }
    (wish.kernel, wish.seed) = (more.kernel, more.seed);
    wish.images = Some(more.images.unwrap_or(scenario::FULL_IMAGES));
    let _lock = workspace.lock("power-cut")?;
    setup::ensure(workspace)?;
    let runs = runs(&wish)?;
    let bench = bench(workspace, &runs, &wish)?;
    let (row, which) = runs[0];
    let report = bench.run(row, which)?;
    let wrong: Vec<_> = report.checks.iter().filter(|(_, o)| o.is_err()).collect();
    for (name, outcome) in &wrong {
        eprintln!("  check {name}: FAILED {}", outcome.as_ref().err().map_or("", String::as_str));
    }
    let failed = wrong.len().max(usize::from(report.failure.is_some()));
    let closing = format!("power-cut: {} cuts, {} images, {failed} failed", report.rounds, report.images);
    let facts = json!({"cuts": report.rounds, "images": report.images, "failed": failed, "kernel": which.name(),
        "seed": bench.seed, "failure": report.failure, "log": report.log.to_string_lossy()});
    let chosen = wish.seed.is_none().then_some(bench.seed);
    Ok(Ended::said(u8::from(failed > 0), closing, facts).with_seed(chosen))
}

/// The smoke set, for `test`; the caller holds the lock.
///
/// # Errors
/// Something that every scenario needs is missing.
pub fn smoke(workspace: &Workspace) -> Result<Tally> {
    let wish = Wish::default();
    run(workspace, &runs(&wish)?, &wish)
}

/// How many runs passed and failed.
#[derive(Debug, Default)]
pub struct Tally {
    /// Runs without a failed check.
    pub passed: u32,
    /// All others.
    pub failed: u32,
    /// What a report says of them.
    pub facts: Value,
    /// What their random choices started from.
    pub seed: u64,
}

fn run(workspace: &Workspace, runs: &[Run], wish: &Wish) -> Result<Tally> {
    vm_tests::machine::require_qemu()?;
    let bench = bench(workspace, runs, wish)?;
    scenario::clear_leftovers(&bench.work);
    bench.prepare(runs.iter().map(|(_, which)| *which))?;
    let mut told = Told { seed: bench.seed, rows: vec![Value::Null; runs.len()], passed: 0, failed: 0 };
    let (alone, beside): (Vec<usize>, Vec<usize>) = (0..runs.len()).partition(|at| runs[*at].0.alone);
    for at in alone {
        told.tell(at, runs[at], &bench.run(runs[at].0, runs[at].1)?);
    }
    // A machine waits half of its time. More at once than there are processors would make it wait for those.
    let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_AT_ONCE);
    let next = Mutex::new(beside.into_iter());
    std::thread::scope(|threads| {
        let (reports, ended) = mpsc::channel();
        for _ in 0..at_once {
            let (reports, next, bench) = (reports.clone(), &next, &bench);
            threads.spawn(move || {
                let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some(at) = take() {
                    // Nobody listens any more where one of the others could not be made.
                    if reports.send((at, bench.run(runs[at].0, runs[at].1))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(reports);
        ended.iter().try_for_each(|(at, outcome)| {
            told.tell(at, runs[at], &outcome?);
            Ok(())
        })
    })?;
    let Told { passed, failed, rows, seed } = told;
    let facts = json!({"passed": passed, "failed": failed, "full": wish.full, "seed": seed, "runs": rows});
    Ok(Tally { passed, failed, facts, seed })
}

/// What was told of runs so far.
struct Told {
    passed: u32,
    failed: u32,
    /// What a report says of each.
    rows: Vec<Value>,
    seed: u64,
}

impl Told {
    fn tell(&mut self, at: usize, (row, which): Run, report: &Report) {
        for (name, outcome) in &report.checks {
            if let Err(detail) = outcome {
                eprintln!("  check {name}: FAILED {detail}");
            }
        }
        let seconds = report.took.as_secs();
        match &report.failure {
            None => {
                self.passed += 1;
                println!("vm {} {}: ok {seconds} s", row.name, which.name());
            }
            Some(why) => {
                self.failed += 1;
                eprintln!("  {}: {why} (seed {})", row.name, self.seed);
                println!("vm {} {}: FAILED, log {}", row.name, which.name(), report.log.display());
            }
        }
        self.rows[at] = json!({
            "scenario": row.name, "kernel": which.name(), "ok": report.failure.is_none(),
            "seconds": seconds, "checks": report.checks.len(), "failure": report.failure,
            "log": report.log.to_string_lossy(),
        });
    }
}

/// Builds what the runs need.
///
/// # Errors
/// It does not build.
pub fn bench(workspace: &Workspace, runs: &[Run], wish: &Wish) -> Result<Bench> {
    let agent = build::program(workspace, "vm-tests", "plinth-guest", false)?;
    // A product with a planted bug is built by whoever asked for it.
    let product = runs.iter().any(|(row, _)| row.product) && wish.planted.is_none();
    let plinth = match &wish.product {
        Some(path) => Some(std::path::absolute(path).doing(|| format!("resolve {path}"))?),
        None => product.then(|| build::program(workspace, "plinth", "plinth", true)).transpose()?,
    };
    let cuts = runs.iter().any(|(row, _)| row.cut);
    let cutter = cuts.then(|| build::program(workspace, "plinth-fuzz", "plinth-cut", true)).transpose()?;
    // A new seed each time finds more over the weeks; it is printed with a failure and repeats the run.
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs());
    let exec = match &wish.exec {
        Some(path) => {
            let path = std::path::absolute(path).doing(|| format!("resolve {path}"))?;
            Some((path, wish.exec_words.clone()))
        }
        None => None,
    };
    Ok(Bench {
        cache: workspace.cache.clone(),
        work: workspace.out.join("vm"),
        agent,
        plinth,
        cutter,
        images: wish.images,
        exec,
        unit: workspace.root.join("deploy/plinth.service"),
        planted: wish.planted.clone(),
        tells: wish.tells,
        rounds: wish.rounds,
        full: wish.full,
        seed: wish.seed.unwrap_or(fresh),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn names_run_on_the_newest_kernel_unless_told() {
        let chosen = runs(&parse(&words("boot")).expect("valid")).expect("known");
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].1, Which::Newest);
        let chosen = runs(&parse(&words("boot --kernel 6.12")).expect("valid")).expect("known");
        assert_eq!(chosen[0].1, Which::Floor);
    }

    #[test]
    fn unknown_words_are_refused() {
        for text in ["--kernel 5.4", "--kernel", "--fast", "no-such-scenario"] {
            assert!(parse(&words(text)).and_then(|w| runs(&w)).is_err(), "{text}");
        }
    }

    #[test]
    fn full_means_everything_on_both_kernels() {
        let full = runs(&parse(&words("--full")).expect("valid")).expect("known");
        let tried = scenario::ALL.iter().filter(|s| !s.smoke.is_empty()).count();
        assert_eq!(full.len(), tried * 2);
        let smoke = runs(&Wish::default()).expect("known");
        assert!(!smoke.is_empty() && smoke.len() <= full.len());
    }
}
