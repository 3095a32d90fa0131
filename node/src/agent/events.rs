//! What happened: a bounded list in the catalogue, and one line each in the agent's own log.
use crate::catalogue::{EventRecord, HistoryRecord, Severity, Store};
use crate::error::Result;
use crate::params::EventsQuery;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Events that are kept.
pub const MAX_EVENTS: u64 = 10_000;
/// The longest that a caller may wait for an event.
const MAX_WAIT: Duration = Duration::from_secs(60);

fn event_key(id: u64) -> String {
    format!("events/{id:016x}")
}

/// The list of events.
pub struct EventLog {
    store: Store,
    next: AtomicU64,
}

impl EventLog {
    /// Finds the end of the list.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn open(store: Store) -> Result<Self> {
        let keys = store.keys("events/")?;
        let last =
            keys.last().and_then(|key| u64::from_str_radix(key.trim_start_matches("events/"), 16).ok());
        Ok(Self { store, next: AtomicU64::new(last.map_or(1, |last| last + 1)) })
    }

    /// Records an event. A catalogue that fails here is logged; the event's cause goes on.
    pub fn record(&self, severity: Severity, kind: &str, object: &str, message: &str) {
        match severity {
            Severity::Info => tracing::info!(kind, object, "{message}"),
            Severity::Warning => tracing::warn!(kind, object, "{message}"),
            Severity::Error => tracing::error!(kind, object, "{message}"),
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let event = EventRecord {
            id,
            at: crate::text::now(),
            severity,
            kind: kind.to_owned(),
            object: object.to_owned(),
            message: message.to_owned(),
        };
        let mut txn = self.store.txn().put(event_key(id), &event);
        if id > MAX_EVENTS {
            txn = txn.delete(event_key(id - MAX_EVENTS));
        }
        if let Err(error) = txn.commit() {
            tracing::error!("an event could not be recorded: {error}");
        }
    }

    /// Records a verb that changed a pool.
    pub fn history(&self, pool: &str, command: &str, message: &str) {
        let record = HistoryRecord {
            at: crate::text::now(),
            command: command.to_owned(),
            message: message.to_owned(),
        };
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let key = format!("history/{pool}/{:032x}", since.as_nanos());
        if let Err(error) = self.store.txn().put(key, &record).commit() {
            tracing::error!("a line of history could not be recorded: {error}");
        }
    }

    /// The events that a query asks for, oldest first.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn list(&self, query: &EventsQuery) -> Result<Vec<EventRecord>> {
        let all = self.store.list::<EventRecord>("events/")?;
        let wanted = all.into_iter().map(|event| event.record).filter(|event| {
            query.since.as_ref().is_none_or(|since| event.at.as_str() >= since.as_str())
                && query.after.is_none_or(|after| event.id > after)
        });
        Ok(wanted.collect())
    }

    /// As `list`, but waits for the first event as long as the query says.
    ///
    /// # Errors
    /// The catalogue's.
    pub async fn wait(&self, query: &EventsQuery) -> Result<Vec<EventRecord>> {
        let mut watch = self.store.watch("events/");
        let found = self.list(query)?;
        let wait = Duration::from_millis(query.wait_ms.unwrap_or(0)).min(MAX_WAIT);
        if !found.is_empty() || wait.is_zero() {
            return Ok(found);
        }
        // Whether an event came, the watch lagged or the time is up: what is there now is the answer.
        let _ = tokio::time::timeout(wait, watch.next()).await;
        self.list(query)
    }
}

impl super::Agent {
    /// What was done to a pool, oldest first.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub fn history(&self, pool: &str) -> Result<Vec<HistoryRecord>> {
        let pool = self.pool(pool)?;
        let lines = self.store.list::<HistoryRecord>(&format!("history/{}/", pool.id))?;
        Ok(lines.into_iter().map(|line| line.record).collect())
    }
}
