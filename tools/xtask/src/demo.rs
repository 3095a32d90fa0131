//! `cargo xtask demo`: real files on a volume, and three blows.
//!
//! The scenario `demo` in a machine with the newest kernel, its checks printed as they are made. With
//! `--planted BUG` the product is built with that bug, and the demo must fail: a demo that cannot fail shows
//! nothing. With `--here` no machine is booted: the product of this tree serves files of this host through its
//! own kernel, which must have ublk (exit 10 before anything is touched); the power cut is left out.

use crate::build;
use crate::context::{Ended, Workspace};
use crate::setup;
use crate::vm::{self, Wish};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vm_tests::children::{self, Outputs, Running};
use vm_tests::error::{Context, Error, Result};
use vm_tests::here::{self, Plan, Witness};
use vm_tests::kernel::Which;
use vm_tests::scenario::{Check, Report};

/// Runs the command.
///
/// # Errors
/// Unknown words, or something that the machine needs is missing.
pub fn command(workspace: &Workspace, words: &[String]) -> Result<Ended> {
    let mut wish =
        Wish { names: vec!["demo".into()], kernel: Some(Which::Newest), tells: true, ..Wish::default() };
    let (mut on_this_host, mut inside) = (false, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--here" => on_this_host = true,
            // How `--here` starts itself, see `demo_here`.
            "--inside" => inside = true,
            "--planted" => wish.planted = words.next().cloned(),
            "--product" => wish.product = words.next().cloned(),
            "--kernel" if on_this_host => return Err(fixed()),
            "--kernel" => wish.kernel = words.next().and_then(|w| Which::parse(w)),
            "--seed" => wish.seed = Some(vm::number("--seed", words.next())?),
            other => {
                return Err(Error::invalid(format!(
                    "demo knows no {other}: it takes --here, --planted BUG, --kernel 6.12|newest and --seed S"
                )));
            }
        }
    }
    if on_this_host && wish.planted.is_some() {
        return Err(fixed());
    }
    if on_this_host {
        return if inside { demo_inside(workspace, &wish) } else { demo_here(workspace, &wish) };
    }
    let _lock = workspace.lock("demo")?;
    setup::ensure(workspace)?;
    eprintln!("building the product, optimised");
    let runs = vm::runs(&wish)?;
    let mut bench = vm::bench(workspace, &runs, &wish)?;
    if wish.planted.is_some() && wish.product.is_none() {
        bench.plinth = Some(build::planted(workspace)?);
    }
    let beat = Heartbeat::start();
    let (row, which) = runs[0];
    let report = bench.run(row, which)?;
    drop(beat);
    Ok(close(&wish, bench.seed, &report))
}

/// What came of it, and the closing line.
fn close(wish: &Wish, seed: u64, report: &Report) -> Ended {
    let passed = report.checks.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    let first = report.checks.iter().find(|(_, outcome)| outcome.is_err()).map(|(name, _)| name.clone());
    let facts = json!({"passed": passed, "ok": report.failure.is_none(), "failure": report.failure,
        "planted": wish.planted, "seed": seed, "log": report.log.to_string_lossy()});
    let chosen = wish.seed.is_none().then_some(seed);
    let ended = match &report.failure {
        None => Ended::said(0, format!("demo: {passed} checks passed"), facts),
        Some(why) => {
            eprintln!("  {why}");
            let at = first.unwrap_or_else(|| "the run itself".to_owned());
            Ended::said(1, format!("demo: FAILED at {at}, log {}", report.log.display()), facts)
        }
    };
    ended.with_seed(chosen)
}

fn fixed() -> Error {
    Error::invalid("--here takes this host's kernel and the product as it is")
}

/// The demonstration without a machine. It runs in a process of its own: when a person interrupts it, that one is
/// killed with all it started, holds nothing open any more, and then mount and device can be taken back.
fn demo_here(workspace: &Workspace, wish: &Wish) -> Result<Ended> {
    here::ensure_possible()?;
    let _lock = workspace.lock("demo")?;
    setup::ensure(workspace)?;
    eprintln!("building the product, optimised");
    let plinth = match &wish.product {
        Some(path) => std::path::absolute(path).doing(|| format!("resolve {path}"))?,
        None => build::program(workspace, "plinth", "plinth", true)?,
    };
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs());
    let seed = wish.seed.unwrap_or(fresh);
    let left = plan(workspace, &plinth, seed);
    children::at_interrupt(move || {
        if let Err(error) = here::take_back_leftovers(&left) {
            eprintln!("not everything could be taken back, the next run will try again: {error}");
        }
    });
    let program = std::env::current_exe().doing(|| "find this program".into())?;
    let mut command = Command::new(program);
    command.args(["demo", "--here", "--inside", "--seed", &seed.to_string(), "--product"]).arg(&plinth);
    let status = Running::start(&command, Outputs::Inherited)?.wait()?;
    // That process has written the report.
    Ok(Ended::quiet(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn plan(workspace: &Workspace, plinth: &Path, seed: u64) -> Plan {
    Plan { plinth: plinth.to_path_buf(), folder: workspace.out.join("demo-here"), files_mib: 160, seed }
}

/// The demonstration itself; whoever started this process holds the lock.
fn demo_inside(workspace: &Workspace, wish: &Wish) -> Result<Ended> {
    let missing = || Error::invalid("--inside is for --here alone");
    let (product, seed) = (wish.product.as_ref().ok_or_else(missing)?, wish.seed.ok_or_else(missing)?);
    let plan = plan(workspace, Path::new(product), seed);
    let start = Instant::now();
    let mut told = Told(Vec::new());
    let outcome = here::run(&plan, &mut told);
    let report = Report {
        checks: told.0,
        rounds: 1,
        images: 0,
        emulator_raced: false,
        failure: outcome.err().map(|e| e.to_string()),
        log: plan.folder.join("agent/agent.log"),
        took: start.elapsed(),
    };
    Ok(close(wish, plan.seed, &report))
}

/// Prints what happens, and keeps the checks.
struct Told(Vec<Check>);

impl Witness for Told {
    fn check(&mut self, name: &str, outcome: std::result::Result<(), String>) {
        match &outcome {
            Ok(()) => println!("check {name}: ok"),
            Err(why) => println!("check {name}: FAILED {why}"),
        }
        self.0.push((name.to_owned(), outcome));
    }

    fn note(&mut self, text: String) {
        eprintln!("  {text}");
    }
}

/// Says every few seconds that the run is alive, so that no one takes a slow machine for a dead one.
struct Heartbeat(Arc<AtomicBool>);

impl Heartbeat {
    fn start() -> Heartbeat {
        let going = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&going);
        let start = Instant::now();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(8));
                if !flag.load(Ordering::Relaxed) {
                    return;
                }
                eprintln!("  ... {} s", start.elapsed().as_secs());
            }
        });
        Heartbeat(going)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
