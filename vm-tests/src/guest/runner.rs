//! Runs one scenario inside a machine and reports its checks.

use super::steps;
use crate::error::{Context, Error, Result};
use crate::protocol::Message;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A scenario's part inside the machine.
pub type Step = fn(&mut Guest) -> Result<()>;

/// What a scenario has in its hands: the port to the host, its parameters, and helpers.
pub struct Guest {
    port: Arc<Mutex<File>>,
    answers: BufReader<File>,
    parameters: BTreeMap<String, String>,
    failed: u32,
}

impl Guest {
    /// A parameter that the host gave, as text.
    ///
    /// # Errors
    /// The host gave none of that name.
    pub fn parameter(&self, name: &str) -> Result<&str> {
        let value = self.parameters.get(name).map(String::as_str);
        value.ok_or_else(|| Error::invalid(format!("the host named no parameter {name}")))
    }

    /// A parameter that is a number.
    ///
    /// # Errors
    /// The host gave none of that name, or no number.
    pub fn number(&self, name: &str) -> Result<u64> {
        let text = self.parameter(name)?;
        text.parse().doing(|| format!("read the parameter {name}={text}"))
    }

    /// Reports a check. A failed one does not end the scenario; return an error for that.
    pub fn check(&mut self, name: &str, outcome: std::result::Result<(), String>) {
        if outcome.is_err() {
            self.failed += 1;
        }
        self.say(&Message::Check(name.to_owned(), outcome));
    }

    /// Reports a check that is a condition, with what to say when it does not hold.
    pub fn check_that(&mut self, name: &str, holds: bool, otherwise: impl FnOnce() -> String) {
        self.check(name, if holds { Ok(()) } else { Err(otherwise()) });
    }

    /// Tells a person what is going on.
    pub fn note(&self, text: impl Into<String>) {
        self.say(&Message::Note(text.into()));
    }

    /// Tells the host's part of the scenario a fact.
    pub fn tell(&self, text: impl Into<String>) {
        self.say(&Message::Tell(text.into()));
    }

    /// A handle for threads that report facts.
    #[must_use]
    pub fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.port))
    }

    /// Waits for the host's next line.
    ///
    /// # Errors
    /// The port is gone.
    pub fn listen(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).doing(|| "listen to the host".into())?;
        Ok(line.trim().to_owned())
    }

    /// Answers a question of the host with a word, from a thread of its own, as long as the machine runs. Nothing else may
    /// listen then.
    ///
    /// # Errors
    /// The port cannot be shared.
    pub fn answer(&self, question: &'static str, word: &'static str) -> Result<()> {
        let port = self.answers.get_ref().try_clone().doing(|| "share the port".into())?;
        let teller = self.teller();
        std::thread::spawn(move || {
            for line in BufReader::new(port).lines().map_while(std::result::Result::ok) {
                if line.trim() == question {
                    teller.tell(word);
                }
            }
        });
        Ok(())
    }

    /// Runs a program to its end and returns what it printed; a failure carries it too.
    ///
    /// # Errors
    /// The program is missing or ends with anything but 0.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = Command::new(program).args(args).output().doing(|| format!("run {program}"))?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(out);
        }
        let err = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().map_or("a signal".to_owned(), |c| format!("exit {c}"));
        Err(Error::failed(format!(
            "`{program} {}` ended with {code}: {} {}",
            args.join(" "),
            tail(&err),
            tail(&out)
        )))
    }

    /// Waits until `ready` says so, looking every 20 ms, at most `limit`.
    ///
    /// # Errors
    /// It was not so in time.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        while !ready() {
            if start.elapsed() > limit {
                return Err(Error::failed(format!("{what}: not within {} s", limit.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(start.elapsed())
    }

    fn say(&self, message: &Message) {
        Teller(Arc::clone(&self.port)).say(message);
    }
}

/// The last 600 characters of a text, on one line.
fn tail(text: &str) -> String {
    let flat = text.trim().replace('\n', " | ");
    let skip = flat.chars().count().saturating_sub(600);
    flat.chars().skip(skip).collect()
}

/// A handle to the port that a thread can own.
#[derive(Clone)]
pub struct Teller(Arc<Mutex<File>>);

impl Teller {
    /// Tells the host's part of the scenario a fact. The host hears what is told in its order, but maybe later than this
    /// returns.
    pub fn tell(&self, text: impl Into<String>) {
        self.say(&Message::Tell(text.into()));
    }

    fn say(&self, message: &Message) {
        let mut port = self.0.lock().unwrap_or_else(|e| e.into_inner());
        // One write per line: the host must never see half a line that a cut has made.
        if port.write_all(format!("{message}\n").as_bytes()).is_err() {
            eprintln!("the port is gone: {message}");
        }
    }
}

/// Runs the scenario that the kernel's command line names, and reports its result.
///
/// # Errors
/// The port to the host is not there.
pub fn run_scenario() -> Result<()> {
    let parameters = parameters(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let port = find_port()?;
    let port =
        File::options().read(true).write(true).open(&port).doing(|| format!("open {}", port.display()))?;
    let answers = BufReader::new(port.try_clone().doing(|| "share the port".into())?);
    let mut guest = Guest { port: Arc::new(Mutex::new(port)), answers, parameters, failed: 0 };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    mark_clock("begins");
    guest.say(&Message::Hello(release.trim().to_owned()));
    if let Ok(seconds) = guest.number("limit_s") {
        super::stuck::watch(Duration::from_secs(seconds));
    }
    let outcome = run_named(&mut guest);
    mark_clock("is over");
    guest.say(&Message::Result(outcome.map_err(|e| e.to_string())));
    Ok(())
}

/// Has the kernel print what time it is in here; see `machine::emulator_raced`. Best effort: it only explains failures.
fn mark_clock(what: &str) {
    let _ = fs::write("/dev/kmsg", format!("<3>{} {what}\n", crate::machine::CLOCK_MARK));
}

fn run_named(guest: &mut Guest) -> Result<()> {
    let name = guest.parameter("scenario")?.to_owned();
    let step = steps::find(&name)
        .ok_or_else(|| Error::invalid(format!("the guest knows no scenario called {name}")))?;
    step(guest)?;
    match guest.failed {
        0 => Ok(()),
        n => Err(Error::failed(format!("{n} checks failed"))),
    }
}

fn parameters(command_line: &str) -> BTreeMap<String, String> {
    let words = command_line.split_whitespace().filter_map(|w| w.strip_prefix("plinth."));
    words.filter_map(|w| w.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// The port appears some time after its driver; the host's patience is the limit.
fn find_port() -> Result<PathBuf> {
    for _ in 0..500 {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            let device = Path::new("/dev").join(entry.file_name());
            if name.trim() == "plinth" && device.exists() {
                return Ok(device);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Error::failed("the port to the host did not appear within 10 s"))
}
