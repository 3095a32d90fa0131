//! `cargo xtask bench`: figures, and how they stand to those of others.
//!
//! Two sources. The benches of the engine run on this host, on drives of memory: nanoseconds per round, nothing
//! to compare with. The scenario `bench` runs the product and md in turns over the same drives of a machine:
//! there only ratios mean anything, and of them the median over the rounds (a single one is off by 10 to 20 %).
//!
//! A row without a bar (`-`) counts as met. No row has one yet: bars are set once there are figures to hold.

use crate::build;
use crate::context::{Ended, Workspace};
use crate::setup;
use crate::vm::{self, Wish};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::SystemTime;
use vm_tests::children::{Outputs, Running};
use vm_tests::error::{Context, Error, Result};
use vm_tests::kernel::Which;

/// One figure.
#[derive(Debug, PartialEq)]
struct Row {
    /// One word.
    name: String,
    unit: &'static str,
    /// The median over the rounds.
    ours: f64,
    /// The median over the rounds, where there is something to compare with.
    theirs: Option<f64>,
    /// Ours by theirs of each round, sorted.
    ratios: Vec<f64>,
}

/// What a ratio must reach, by the beginning of the row's name. Empty until bars are set.
const BARS: &[(&str, f64)] = &[];

impl Row {
    fn ratio(&self) -> Option<f64> {
        (!self.ratios.is_empty()).then(|| median(&self.ratios))
    }

    fn bar(&self) -> Option<f64> {
        BARS.iter().find(|(name, _)| self.name.starts_with(name)).map(|(_, bar)| *bar)
    }

    fn meets_its_bar(&self) -> bool {
        self.bar().is_none_or(|bar| self.ratio().is_some_and(|ratio| ratio >= bar))
    }

    /// `ROW OURS THEIRS RATIO BAR ok|below bar`
    fn line(&self) -> String {
        let or_none = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let verdict = if self.meets_its_bar() { "ok" } else { "below bar" };
        let (theirs, ratio, bar) =
            (or_none(self.theirs, 0), or_none(self.ratio(), 2), or_none(self.bar(), 2));
        format!("{} {:.0} {theirs} {ratio} {bar} {verdict}", self.name, self.ours)
    }

    fn json(&self) -> Value {
        json!({"row": self.name, "unit": self.unit, "ours": self.ours, "theirs": self.theirs,
            "ratio": self.ratio(), "ratio_lowest": self.ratios.first(), "ratio_highest": self.ratios.last(),
            "bar": self.bar(), "ok": self.meets_its_bar()})
    }
}

/// Runs the command.
///
/// # Errors
/// Unknown words, or something fails: a bench that measured nothing is no result.
pub fn command(workspace: &Workspace, words: &[String]) -> Result<Ended> {
    let (what, rest) = match words.split_first() {
        Some((word, rest)) if !word.starts_with('-') => (word.as_str(), rest),
        _ => ("", words),
    };
    let (native, machine) = match what {
        "" => (true, false),
        "vm" => (false, true),
        "compare" => (true, true),
        other => {
            return Err(Error::invalid(format!("bench knows no {other}: it takes nothing, vm or compare")));
        }
    };
    let wish = parse(rest)?;
    let _lock = workspace.lock("bench")?;
    let mut rows = Vec::new();
    if native {
        rows.extend(engine(workspace)?);
    }
    if machine {
        setup::ensure(workspace)?;
        rows.extend(in_a_machine(workspace, &wish)?);
    }
    for row in &rows {
        println!("{}", row.line());
    }
    let met = rows.iter().filter(|row| row.meets_its_bar()).count();
    let kernel = machine.then(|| wish.kernel.unwrap_or(Which::Newest).name());
    let facts = json!({"rows": rows.iter().map(Row::json).collect::<Vec<_>>(), "met": met, "kernel": kernel});
    let closing = match what {
        "compare" => format!("compare: {met} of {} rows meet their bar", rows.len()),
        _ => format!("bench: {} rows", rows.len()),
    };
    Ok(Ended::said(u8::from(met < rows.len() || rows.is_empty()), closing, facts))
}

fn parse(words: &[String]) -> Result<Wish> {
    let mut wish = Wish { names: vec!["bench".into()], ..Wish::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--kernel" => {
                let which = words.next().and_then(|word| Which::parse(word));
                wish.kernel = Some(which.ok_or_else(|| Error::invalid("--kernel can be 6.12 or newest"))?);
            }
            "--rounds" => wish.rounds = Some(vm::number("--rounds", words.next())?),
            "--product" => wish.product = words.next().cloned(),
            other => {
                let message = format!("bench knows no {other}: it takes --kernel 6.12|newest and --rounds N");
                return Err(Error::invalid(message));
            }
        }
    }
    Ok(wish)
}

/// The benches of the engine, on this host.
fn engine(workspace: &Workspace) -> Result<Vec<Row>> {
    let start = SystemTime::now();
    let mut command = build::cargo(workspace);
    command.args(["bench", "--locked", "-p", "plinth-benches"]);
    if !Running::start(&command, Outputs::Inherited)?.wait()?.success() {
        return Err(Error::failed("the benches of the engine do not run"));
    }
    let mut rows = Vec::new();
    estimates(&workspace.target.join("criterion"), start, &mut rows)?;
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    if rows.is_empty() { Err(Error::failed("the benches of the engine left no figures")) } else { Ok(rows) }
}

/// Collects what the bench library left below `folder` since `start`: beside each other a file with the row's
/// name and one with its figures, in folders called `new`.
fn estimates(folder: &Path, start: SystemTime, rows: &mut Vec<Row>) -> Result<()> {
    for entry in fs::read_dir(folder).doing(|| format!("read {}", folder.display()))?.flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        let figures = path.join("estimates.json");
        let fresh = fs::metadata(&figures).and_then(|data| data.modified()).is_ok_and(|at| at >= start);
        if entry.file_name() != "new" {
            estimates(&path, start, rows)?;
        } else if fresh {
            let read = |path: &Path| -> Result<Value> {
                let text = fs::read_to_string(path).doing(|| format!("read {}", path.display()))?;
                serde_json::from_str(&text).doing(|| format!("read {}", path.display()))
            };
            let (figures, about) = (read(&figures)?, read(&path.join("benchmark.json"))?);
            let ours = figures["median"]["point_estimate"].as_f64();
            let name = about["full_id"].as_str();
            let (ours, name) =
                ours.zip(name).ok_or_else(|| Error::failed(format!("{} has no median", path.display())))?;
            let name = name.replace(", ", "-").replace(' ', "-");
            rows.push(Row { name, unit: "ns", ours, theirs: None, ratios: Vec::new() });
        }
    }
    Ok(())
}

/// The product and md in a machine.
fn in_a_machine(workspace: &Workspace, wish: &Wish) -> Result<Vec<Row>> {
    vm_tests::machine::require_qemu()?;
    let runs = vm::runs(wish)?;
    let bench = vm::bench(workspace, &runs, wish)?;
    let (scenario, which) = runs[0];
    let report = bench.run(scenario, which)?;
    if let Some(why) = &report.failure {
        return Err(Error::failed(format!("{why}, log {}", report.log.display())));
    }
    let path = report.log.with_file_name("rows");
    let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
    text.lines().map(parse_row).collect()
}

/// A line of the machine: `ROW|OURS ...|THEIRS ...`, one figure for each round.
fn parse_row(line: &str) -> Result<Row> {
    let bad = || Error::failed(format!("the machine measured `{line}`"));
    let parts: Vec<&str> = line.split('|').collect();
    let [name, ours, theirs] = parts[..] else { return Err(bad()) };
    let figures = |text: &str| -> Option<Vec<f64>> {
        text.split(' ').map(|word| word.parse().ok().filter(|figure| *figure > 0.0)).collect()
    };
    let (ours, theirs) = figures(ours).zip(figures(theirs)).ok_or_else(bad)?;
    if ours.len() != theirs.len() {
        return Err(bad());
    }
    let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    ratios.sort_by(f64::total_cmp);
    Ok(Row {
        name: name.to_owned(),
        unit: "IOPS",
        ours: median(&ours),
        theirs: Some(median(&theirs)),
        ratios,
    })
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_its_rounds_ratios() {
        let row = parse_row("randread-4k-d32/md-raid1|200 90 300|100 100 100").expect("a row");
        assert_eq!((row.ours, row.theirs, row.ratio()), (200.0, Some(100.0), Some(2.0)));
        assert_eq!((row.ratios[0], row.ratios[2]), (0.9, 3.0));
        assert_eq!(row.line(), "randread-4k-d32/md-raid1 200 100 2.00 - ok");
        for line in ["", "a|1", "a|1 2|1", "a|0|1", "a|x|1"] {
            assert!(parse_row(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_row_without_a_counterpart_has_no_ratio() {
        let row =
            Row { name: "engine/read".into(), unit: "ns", ours: 99.6, theirs: None, ratios: Vec::new() };
        assert_eq!(row.line(), "engine/read 100 - - - ok");
    }
}
