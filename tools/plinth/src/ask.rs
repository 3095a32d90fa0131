//! Questions before something is destroyed, and waiting, with signs of life, for what takes long.
use crate::args::Global;
use indicatif::ProgressStyle;
use node::client::Client;
use node::{Error, Kind, Result};
use serde_json::Value;
use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Asks before data is destroyed: `what` names it. On a terminal the answer decides; elsewhere `--yes` must
/// have been given.
///
/// # Errors
/// `Refused`.
pub fn confirm(global: &Global, object: &str, what: &str) -> Result<()> {
    if global.yes || global.dry_run {
        return Ok(());
    }
    let refused = |message: String| Err(Error::new(Kind::Refused, object, message));
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return match refused(format!("this would {what}")) {
            Err(error) => Err(error.hint("--yes does it")),
            Ok(()) => Ok(()),
        };
    }
    let _ = write!(std::io::stderr(), "This will {what}. Go on? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { refused("not done".to_owned()) }
}

/// A spinner on a terminal while `work` runs; nothing elsewhere.
pub fn while_waiting<T>(global: &Global, message: &str, work: impl FnOnce() -> T) -> T {
    if global.quiet || !std::io::stderr().is_terminal() {
        return work();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is fixed");
    let spinner = indicatif::ProgressBar::new_spinner().with_style(style).with_message(message.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    let outcome = work();
    spinner.finish_and_clear();
    outcome
}

/// Pause between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// Waiting for something that goes on by itself: looks with pauses between them, `--timeout` in all.
pub struct Waiting<'a> {
    client: &'a Client,
    path: String,
    end: Option<Instant>,
    late: Error,
}

impl<'a> Waiting<'a> {
    /// Waiting from now on for what the agent shows at `path`. `late` says what it is that was not reached in time, and
    /// why that is no harm.
    pub fn new(global: &Global, client: &'a Client, path: String, late: (&str, String, &str)) -> Self {
        let (object, message, hint) = late;
        let late = Error::new(Kind::Timeout, object, message).hint(hint);
        Self { client, path, end: global.timeout.map(|timeout| Instant::now() + timeout), late }
    }

    /// How it stands. That an answer does not come in time is no other end than that the time is up.
    ///
    /// # Errors
    /// The agent's, or `Timeout`.
    pub fn look(&self) -> Result<Value> {
        self.client.get_by(&self.path, self.end).map_err(|error| match error.kind {
            Kind::Timeout => self.late.clone(),
            _ => error,
        })
    }

    /// A pause before the next look.
    ///
    /// # Errors
    /// `Timeout` if the time is up.
    pub fn pause(&self) -> Result<()> {
        let left = self.end.map_or(PAUSE, |end| end.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(self.late.clone());
        }
        std::thread::sleep(left.min(PAUSE));
        Ok(())
    }
}

/// How far a resync or scrub is: a bar on a terminal, nothing elsewhere.
pub struct ProgressBar {
    what: String,
    bar: Option<indicatif::ProgressBar>,
}

impl ProgressBar {
    /// Nothing is shown yet. `what` it is.
    pub fn new(global: &Global, what: &str) -> Self {
        let shown = !global.quiet && std::io::stderr().is_terminal();
        Self { what: what.to_owned(), bar: shown.then(|| indicatif::ProgressBar::new(0)) }
    }

    /// Shows the `resync` or `scrub` of a volume; `done` is the field that says how far it is. As long as nobody knows how
    /// much it will be, that is said without a bar: a full one would be a lie.
    pub fn show(&mut self, progress: &Value, done: &str) {
        let Some(bar) = &self.bar else { return };
        let field = |name: &str| progress[name].as_u64();
        let (done, total) = (field(done).unwrap_or(0), field("bytes_total"));
        let how_far = if total.is_some() { "[{bar:40}] {bytes} of {total_bytes}" } else { "{bytes}" };
        let style = ProgressStyle::with_template(&format!("{} {how_far} {{msg}}", self.what));
        bar.set_style(style.expect("the template is fixed").progress_chars("=> "));
        bar.set_length(total.unwrap_or(0).max(done));
        bar.set_position(done);
        let speed = field("bytes_per_second").map(|bytes| format!("{}/s", node::text::show_size(bytes)));
        let left = field("eta_seconds").map(|seconds| format!("{seconds} s left"));
        bar.set_message([speed, left].into_iter().flatten().collect::<Vec<_>>().join(", "));
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A note on standard error.
pub fn note(global: &Global, text: &str) {
    if !global.quiet {
        let _ = writeln!(std::io::stderr(), "plinth: {text}");
    }
}
