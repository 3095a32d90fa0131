//! `plinth-fuzz`: fuzzes one target, or replays all corpora.
//!
//! Exits with 0 when nothing broke, 1 when something did, 2 on words it does not know.
use plinth_fuzz::targets::ALL;
use plinth_fuzz::{Limit, Target, replay};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "plinth-fuzz TARGET [--seconds N | --inputs N] [--seed S] [--keep]
plinth-fuzz --replay [--seed S]
  --seconds N   ends after so many seconds (60 unless said)
  --inputs N    ends after so many inputs
  --seed S      where random numbers begin (1 unless said)
  --keep        keeps inputs that took new ways in tests/corpus/TARGET; crashes are always kept
  --replay      every corpus, and some fresh mutations of it
targets:";

/// What was asked for.
struct Asked {
    target: Option<&'static Target>,
    limit: Limit,
    seed: u64,
    keep: bool,
}

fn main() -> ExitCode {
    let Some(asked) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        ALL.iter().for_each(|target| eprintln!("  {:12} {}", target.name, target.about));
        return ExitCode::from(2);
    };
    match run(&asked) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("plinth-fuzz: the corpus in tests/corpus cannot be used: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(asked: &Asked) -> std::io::Result<bool> {
    let Some(target) = asked.target else {
        let (passed, failed) = replay::replay(asked.seed)?;
        println!("fuzz: {passed} passed, {failed} failed");
        return Ok(failed == 0);
    };
    let campaign = replay::run(target, asked.seed, asked.limit)?;
    campaign.keep(asked.keep)?;
    let figures = campaign.figures();
    println!("fuzz {}: {} inputs, {} crashes", target.name, figures.inputs, figures.crashes);
    Ok(figures.crashes == 0)
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Asked> {
    let mut asked = Asked { target: None, limit: Limit::Time(Duration::from_secs(60)), seed: 1, keep: false };
    let mut replay = false;
    while let Some(word) = words.next() {
        let mut number = || words.next()?.parse::<u64>().ok();
        match word.as_str() {
            "--seconds" => asked.limit = Limit::Time(Duration::from_secs(number()?)),
            "--inputs" => asked.limit = Limit::Inputs(number()?),
            "--seed" => asked.seed = number()?,
            "--keep" => asked.keep = true,
            "--replay" => replay = true,
            name => asked.target = Some(ALL.iter().find(|target| target.name == name)?),
        }
    }
    (replay != asked.target.is_some()).then_some(asked)
}
