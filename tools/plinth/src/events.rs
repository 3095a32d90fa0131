//! `plinth events`: what happened, once or for as long as somebody reads.
//!
//! Without `--follow` the result is the body of the GET, as everywhere. Following prints a line for each event
//! as it comes, with `-o json` one object per line. It goes by the numbers of events, so an agent that is stopped
//! or killed and started again is only a pause: nothing is told twice and nothing is left out.
use crate::args::{Global, Output};
use crate::ask::note;
use crate::output;
use node::client::{Client, part};
use node::{Error, Kind, Result, text};
use serde_json::Value;
use std::io::Write;
use std::time::{Duration, Instant};

/// How long one request waits for an event.
const WAIT: Duration = Duration::from_secs(20);
/// Events in one answer.
const LIMIT: usize = 1000;
/// Pause before an agent that does not answer is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs the verb.
///
/// # Errors
/// The agent's; while following only those of the first answer, for later ones it is asked again.
pub fn run(global: &Global, follow: bool, since: Option<&str>) -> Result<()> {
    // Checked here too: what makes no sense needs no agent.
    let since = since.map(text::parse_since).transpose()?;
    let since = since.map_or_else(String::new, |since| format!("since={}&", part(&since)));
    if !follow {
        let client = Client::new(global.socket.clone(), global.timeout)?;
        let events = client.get(&format!("/v1/events?{}", since.trim_end_matches('&')))?;
        return output::list(global.output, &events, "id", output::EVENTS);
    }
    let end = global.timeout.map(|timeout| Instant::now() + timeout);
    // Each wait is bounded by the request itself; `--timeout` bounds the whole.
    Follower { client: Client::new(global.socket.clone(), None)?, global, since, last: None, end }.follow()
}

struct Follower<'a> {
    client: Client,
    global: &'a Global,
    /// The part of the query that stays.
    since: String,
    /// Number of the last event that was printed.
    last: Option<u64>,
    end: Option<Instant>,
}

impl Follower<'_> {
    fn follow(&mut self) -> Result<()> {
        let mut events = self.ask(Duration::ZERO)?;
        loop {
            for event in events.as_array().into_iter().flatten() {
                if !self.print(event)? {
                    return Ok(());
                }
            }
            let left = self.left(WAIT);
            if left.is_zero() {
                return Ok(());
            }
            events = match self.ask(left) {
                Err(error) if error.kind == Kind::Unreachable => {
                    note(self.global, &format!("{}; waiting for it", error.message));
                    match self.ask_until_reached()? {
                        Some(events) => events,
                        None => return Ok(()),
                    }
                }
                answer => answer?,
            };
        }
    }

    fn ask(&self, wait: Duration) -> Result<Value> {
        let (since, after, wait) = (&self.since, self.last.unwrap_or(0), wait.as_millis());
        self.client.get(&format!("/v1/events?{since}after={after}&limit={LIMIT}&wait_ms={wait}"))
    }

    /// Asks until the agent is there again; `None`: the time is up.
    fn ask_until_reached(&self) -> Result<Option<Value>> {
        loop {
            std::thread::sleep(self.left(AGAIN));
            match self.ask(Duration::ZERO) {
                Err(error) if error.kind == Kind::Unreachable => {
                    if self.left(AGAIN).is_zero() {
                        return Ok(None);
                    }
                }
                answer => return answer.map(Some),
            }
        }
    }

    /// What is left of the whole time, `most` at most.
    fn left(&self, most: Duration) -> Duration {
        self.end.map_or(most, |end| end.saturating_duration_since(Instant::now()).min(most))
    }

    /// Prints an event; `false`: nobody reads any more, which is how most followers end.
    fn print(&mut self, event: &Value) -> Result<bool> {
        let id = event["id"].as_u64().unwrap_or(0);
        if let Some(last) = self.last {
            if id > last + 1 {
                note(self.global, &format!("{} events are not kept any more", id - last - 1));
            } else if id <= last {
                note(self.global, "the list of events was begun anew");
            }
        }
        self.last = Some(id);
        let mut out = std::io::stdout().lock();
        match out.write_all(line(self.global.output, event).as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Error::general(Kind::Failed, format!("cannot write the result: {error}"))),
        }
    }
}

fn line(form: Output, event: &Value) -> String {
    match form {
        Output::Json => format!("{event}\n"),
        Output::Name => format!("{}\n", output::text(event, "id")),
        Output::Table => {
            let cells = output::EVENTS.iter().map(|(_, cell)| cell(event));
            format!("{}\n", cells.collect::<Vec<_>>().join("  "))
        }
    }
}
