//! The command line of `plinth-sim`: arguments, reports and the closing lines that other programs parse.
use crate::focus::Focus;
use crate::subject::Subject;
use crate::{campaign, everywhere, planted, sweep};
use simkit::FaultKind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Seeds that ever failed: they are part of every campaign that starts at seed 0.
const REGRESSIONS: &str = include_str!("regressions.txt");
/// How many failures are told in full.
const TOLD: usize = 10;

const USAGE: &str =
    "usage: plinth-sim [--seeds N] [--from S] [--threads T]   many seeds (default 2000 from 0)
       plinth-sim --focus NAME [--seeds N] [--from S]     only those of them that seek this (Legs, Forced, ...)
       plinth-sim --seed S [--planted NAME]               one seed, told event by event
       plinth-sim --planted [NAME] [--search] [--seeds N] every planted bug must be caught: at its recorded seed
                                                          (--search: whatever is recorded), else within N seeds
       plinth-sim --canary                                must fail: exit 1
       plinth-sim --crash-everywhere [--states N] [--from S]  power loss after every step, and inside the recoveries
       plinth-sim --seed S --operation K [--once]         one run of the fault sweep, told event by event
       plinth-sim --fault-sweep [N]                       every drive operation of N workloads fails";

#[derive(Default)]
struct Arguments {
    seeds: Option<u64>,
    from: u64,
    seed: Option<u64>,
    operation: Option<u64>,
    once: bool,
    threads: Option<usize>,
    states: u64,
    planted: Option<Option<String>>,
    search: bool,
    canary: bool,
    everywhere: bool,
    sweep: Option<u64>,
    focus: Option<String>,
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { states: 20_000, ..Arguments::default() };
    let mut pending: Option<String> = given.next();
    while let Some(flag) = pending.take() {
        let value = given.next();
        let number = |what: &str| {
            let text = value.clone().ok_or(format!("{what} needs a number"))?;
            text.parse::<u64>().map_err(|_| format!("{what} needs a number, not {text:?}"))
        };
        let is_value = value.as_ref().is_some_and(|v| !v.starts_with("--"));
        let mut used = true;
        match flag.as_str() {
            "--seeds" => arguments.seeds = Some(number("--seeds")?),
            "--from" => arguments.from = number("--from")?,
            "--seed" => arguments.seed = Some(number("--seed")?),
            "--operation" => arguments.operation = Some(number("--operation")?),
            "--threads" => arguments.threads = Some(number("--threads")? as usize),
            "--states" => arguments.states = number("--states")?,
            "--focus" => arguments.focus = Some(value.clone().ok_or("--focus needs a name")?),
            "--planted" => {
                arguments.planted = Some(value.clone().filter(|_| is_value));
                used = is_value;
            }
            "--fault-sweep" => {
                arguments.sweep = Some(if is_value { number("--fault-sweep")? } else { 8 });
                used = is_value;
            }
            "--canary" => (arguments.canary, used) = (true, false),
            "--search" => (arguments.search, used) = (true, false),
            "--once" => (arguments.once, used) = (true, false),
            "--crash-everywhere" => (arguments.everywhere, used) = (true, false),
            other => return Err(format!("{other:?} is not known")),
        }
        pending = if used { given.next() } else { value };
    }
    Ok(arguments)
}

/// Runs what the arguments ask for.
pub fn main<S: Subject>(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments = match parse(arguments) {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("plinth-sim: {what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    campaign::keep_panics();
    let threads =
        arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let good = if arguments.canary {
        return canary::<S>();
    } else if let (Some(seed), Some(operation)) = (arguments.seed, arguments.operation) {
        let violation = sweep::replay::<S>(seed, operation, arguments.once);
        println!("seed {seed}, operation {operation}: {violation:?}");
        violation.is_none()
    } else if let Some(seed) = arguments.seed {
        replay::<S>(seed, arguments.planted.flatten().as_deref())
    } else if let Some(name) = &arguments.planted {
        hunt_all::<S>(name.as_deref(), &arguments, threads)
    } else if arguments.everywhere {
        let tally = everywhere::run::<S>(arguments.states, arguments.from, threads);
        for (deeper, count) in tally.depths.iter().enumerate() {
            println!("power lost {} deep: {count} states", deeper + 1);
        }
        let deep = tally.depths.iter().all(|count| *count > 0) || arguments.states < 100;
        tell("crash-everywhere", &tally) && deep
    } else if let Some(workloads) = arguments.sweep {
        let tally = sweep::run::<S>(workloads, arguments.from, threads);
        tell("fault-sweep", &tally)
    } else {
        many::<S>(&arguments, threads)
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn canary<S: Subject>() -> ExitCode {
    match planted::canary::<S>(0) {
        Some(violation) => {
            eprintln!("{}: {}", violation.checker, violation.what);
            println!("canary: failed as it must");
            ExitCode::FAILURE
        }
        None => {
            println!("canary: PASSED, so the checkers are blind");
            ExitCode::SUCCESS
        }
    }
}

fn replay<S: Subject>(seed: u64, planted: Option<&str>) -> bool {
    let start = Instant::now();
    let outcome = campaign::run_seed::<S>(seed, planted, true);
    let rate = start.elapsed().as_secs_f64().recip();
    if let Some(violation) = &outcome.violation {
        println!("seed {seed} failed: {}: {}", violation.checker, violation.what);
    }
    let failed = u64::from(outcome.violation.is_some());
    let faults = outcome.faults.total();
    println!(
        "sim: 1 seeds, {failed} failed, {} crashes, {faults} faults, {rate:.0} seeds/s, trace {:016x}",
        outcome.crashes, outcome.hash
    );
    failed == 0
}

fn hunt_all<S: Subject>(only: Option<&str>, arguments: &Arguments, threads: usize) -> bool {
    let names: Vec<_> =
        S::plantable().into_iter().filter(|name| only.is_none_or(|only| only == *name)).collect();
    if names.is_empty() {
        eprintln!("plinth-sim: no bug of that name can be planted; known: {}", S::plantable().join(", "));
        return false;
    }
    let found = if arguments.search { vec![None; names.len()] } else { try_hints::<S>(&names, threads) };
    let mut caught = 0;
    for (name, found) in names.iter().zip(found) {
        let seeds = arguments.seeds.unwrap_or(planted::SEEDS);
        match found.unwrap_or_else(|| planted::hunt::<S>(name, arguments.from, seeds, threads)) {
            planted::Verdict::Caught { seed, violation } => {
                caught += 1;
                println!("planted {name}: caught by {} at seed {seed}", violation.checker);
            }
            planted::Verdict::Missed => println!("planted {name}: MISSED"),
            planted::Verdict::RedWithoutIt { seed, violation } => {
                println!("planted {name}: MISSED (seed {seed} fails without it: {})", violation.checker);
            }
        }
    }
    println!("planted: {caught} of {} caught", names.len());
    caught == names.len()
}

/// The bugs that are caught at their recorded seeds; the others must be searched for.
fn try_hints<S: Subject>(names: &[&str], threads: usize) -> Vec<Option<planted::Verdict>> {
    let mut found = vec![None; names.len()];
    let work = |index: u64| {
        let name = names[index as usize];
        planted::hint(name).map(|seed| (seed, planted::try_seed::<S>(name, seed)))
    };
    campaign::on_threads(names.len() as u64, threads, work, |index, verdict| match verdict {
        Some((_, verdict @ planted::Verdict::Caught { .. })) => found[index as usize] = Some(verdict),
        Some((seed, _)) => {
            eprintln!(
                "planted {}: hint stale: seed {seed} does not catch it any more",
                names[index as usize]
            );
        }
        None => {}
    });
    found
}

fn tell(name: &str, tally: &everywhere::Tally) -> bool {
    for (seed, violation) in tally.failed.iter().take(TOLD) {
        println!("seed {seed} failed: {}: {}", violation.checker, violation.what);
    }
    println!("{name}: {} passed, {} failed", tally.passed, tally.failed.len());
    tally.failed.is_empty() && tally.passed > 0
}

/// The seeds of the regression file: the first word of each line that is not a comment.
pub(crate) fn regressions() -> Vec<u64> {
    recorded().map(|(seed, _)| seed).collect()
}

/// Whether a seed was recorded when its group was a plain one: its line has the word `sealed:` if it was not.
pub(crate) fn recorded_plain(seed: u64) -> bool {
    recorded_without(seed, "sealed:")
}

/// Whether a seed was recorded when every drive answered at last: its line has the word `silent:` if it was not.
pub(crate) fn recorded_answering(seed: u64) -> bool {
    recorded_without(seed, "silent:")
}

/// Whether a seed was recorded when each drive had one leg of all rows: its line has the word `mixed:` if it was not.
pub(crate) fn recorded_unmixed(seed: u64) -> bool {
    recorded_without(seed, "mixed:")
}

fn recorded_without(seed: u64, word: &str) -> bool {
    let text = |line: &'static str| line.split_once(' ').map(|(_, text)| text);
    let of = |line: &&str| line.split(' ').next().and_then(|word| word.parse().ok()) == Some(seed);
    REGRESSIONS.lines().find(of).and_then(text).is_some_and(|text| !text.contains(word))
}

/// Recorded seeds, each with the name of the focus that it had when it failed.
pub(crate) fn recorded() -> impl Iterator<Item = (u64, &'static str)> {
    let lines = REGRESSIONS.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| {
        let (seed, text) = line.split_once(' ').expect("a seed and what was wrong");
        let focus = text.strip_prefix('[').and_then(|text| text.split_once(']')).map(|(focus, _)| focus);
        (seed.parse().expect("a seed per line"), focus.unwrap_or("General"))
    })
}

fn many<S: Subject>(arguments: &Arguments, threads: usize) -> bool {
    let count = arguments.seeds.unwrap_or(campaign::COVERAGE_SEEDS);
    let mut seeds: Vec<u64> = (arguments.from..arguments.from + count).collect();
    if arguments.from == 0 {
        seeds.extend(regressions().into_iter().filter(|seed| *seed >= count));
    }
    if let Some(focus) = &arguments.focus {
        seeds.retain(|seed| format!("{:?}", Focus::of(*seed)) == *focus);
    }
    let start = Instant::now();
    let mut told = start;
    let mut failed = 0;
    let summary = campaign::run::<S>(&seeds, threads, |summary| {
        if summary.failed.len() > failed {
            let new = summary.failed.iter().map(|(seed, _)| seed.to_string()).collect::<Vec<_>>();
            eprintln!("failed so far: {}", new.join(" "));
            failed = summary.failed.len();
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("{} of {} seeds, {} failed", summary.seeds, seeds.len(), summary.failed.len());
        }
    });
    for kind in FaultKind::ALL {
        println!("fault {}: {}", kind.name(), summary.faults.of(kind));
    }
    for (row, count) in &summary.rows {
        println!("recovery row {row}: {count}");
    }
    println!("requests: {}; blocks compared at rest: {}", summary.ended, summary.compared);
    println!("runs in which the end of a log was garbled on the only copy: {}", summary.at_the_limit);
    println!("places used again: {}; runs in which some were: {}", summary.reused, summary.reusing);
    for (seed, violation) in summary.failed.iter().take(TOLD) {
        println!(
            "seed {seed} failed: {}: {} (replay: plinth-sim --seed {seed})",
            violation.checker, violation.what
        );
    }
    let whole = count >= campaign::COVERAGE_SEEDS && arguments.focus.is_none();
    let idle = if whole { summary.silent_parts() } else { Vec::new() };
    if !idle.is_empty() {
        println!("never acted: {}", idle.join(", "));
    }
    let rate = summary.seeds as f64 / start.elapsed().as_secs_f64();
    println!(
        "sim: {} seeds, {} failed, {} crashes, {} faults, {rate:.0} seeds/s, trace {:016x}",
        summary.seeds,
        summary.failed.len(),
        summary.crashes,
        summary.faults.total(),
        summary.hash
    );
    summary.failed.is_empty() && idle.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Arguments, String> {
        parse(text.split_whitespace().map(str::to_string))
    }

    #[test]
    fn optional_values_are_told_from_flags() {
        let arguments = parsed("--planted --seeds 5").expect("both known");
        assert_eq!((arguments.planted, arguments.seeds), (Some(None), Some(5)));
        let arguments = parsed("--planted --search").expect("both known");
        assert!(arguments.planted == Some(None) && arguments.search);
        let arguments = parsed("--planted free-at-ack --threads 1").expect("all known");
        assert_eq!(arguments.planted, Some(Some("free-at-ack".into())));
        let arguments = parsed("--fault-sweep --canary").expect("both known");
        assert!(arguments.sweep == Some(8) && arguments.canary);
        assert!(parsed("--focus Legs --seeds 7").expect("known").focus == Some("Legs".into()));
        assert!(parsed("--crash-everywhere --states 7").expect("known").states == 7);
    }

    #[test]
    fn what_is_not_understood_is_said() {
        assert!(parsed("--sedes 5").is_err_and(|e| e.contains("--sedes")));
        assert!(parsed("--seeds many").is_err_and(|e| e.contains("many")));
        assert!(parsed("--seeds").is_err());
    }

    #[test]
    fn the_regression_file_can_be_read() {
        let _ = regressions();
    }
}
