//! `cargo xtask demo`: real files on a volume, and three blows.
//!
//! The scenario `demo` in a machine with the newest kernel, its checks printed as they are made. With
//! `--planted BUG` the product is built with that bug, and the demo must fail: a demo that cannot fail shows
//! nothing.

use crate::build;
use crate::context::Workspace;
use crate::setup;
use crate::vm::{self, Wish};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vm_tests::error::{Error, Result};
use vm_tests::kernel::Which;

/// Runs the command.
///
/// # Errors
/// Unknown words, or something that the machine needs is missing.
pub fn command(workspace: &Workspace, words: &[String]) -> Result<u8> {
    let mut wish =
        Wish { names: vec!["demo".into()], kernel: Some(Which::Newest), tells: true, ..Wish::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--planted" => wish.planted = words.next().cloned(),
            "--product" => wish.product = words.next().cloned(),
            "--kernel" => wish.kernel = words.next().and_then(|w| Which::parse(w)),
            "--seed" => wish.seed = Some(vm::number("--seed", words.next())?),
            other => {
                return Err(Error::invalid(format!(
                    "demo knows no {other}: it takes --planted BUG, --kernel 6.12|newest and --seed S"
                )));
            }
        }
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
    let passed = report.checks.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    let first = report.checks.iter().find(|(_, outcome)| outcome.is_err()).map(|(name, _)| name.clone());
    workspace.report(
        "demo",
        &json!({"passed": passed, "ok": report.failure.is_none(), "failure": report.failure,
            "planted": wish.planted, "seed": bench.seed, "seconds": report.took.as_secs(),
            "log": report.log.to_string_lossy()}),
    )?;
    match &report.failure {
        None => {
            println!("demo: {passed} checks passed");
            Ok(0)
        }
        Some(why) => {
            eprintln!("  {why}");
            let at = first.unwrap_or_else(|| "the run itself".to_owned());
            println!("demo: FAILED at {at}, log {}", report.log.display());
            Ok(1)
        }
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
