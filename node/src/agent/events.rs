//! What happened: a bounded list in the catalogue, and one line each in the agent's own log.
//!
//! Numbers grow by one and are never used twice in one catalogue: they are the cursor of a reader, and it holds
//! across restarts of the agent. A number is taken and its event stored under one lock, so that no event appears
//! below a number that a reader has seen already.
//!
//! Readers cost little and cannot crowd out verbs: one answer can be limited, waiting is bounded in time and in
//! number, and whoever does not read an answer loses the connection (`http`).
use crate::catalogue::{EventRecord, HistoryRecord, Severity, Store, Txn};
use crate::error::{Error, Kind, Result};
use crate::params::EventsQuery;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// Events that are kept.
pub const MAX_EVENTS: u64 = 10_000;
/// The longest that a caller may wait for an event.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Callers that wait for an event at once: a part of all connections, so that verbs find a place.
const MAX_WAITING: usize = 64;

const _: () = assert!(MAX_WAITING < crate::http::MAX_CONNECTIONS / 2, "verbs find a place beside readers");

const PREFIX: &str = "events/";

fn event_key(id: u64) -> String {
    format!("{PREFIX}{id:016x}")
}

/// The list of events.
pub struct EventLog {
    store: Store,
    /// Number of the next event; held while it is stored.
    next: Mutex<u64>,
    waiting: Semaphore,
    /// Something happened: the watch looks (`watch`).
    news: Arc<Notify>,
}

impl EventLog {
    /// Finds the end of the list. `news` hears of every event.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn open(store: Store, news: Arc<Notify>) -> Result<Self> {
        let last = last_event(&store)?;
        Ok(Self { store, next: Mutex::new(last + 1), waiting: Semaphore::new(MAX_WAITING), news })
    }

    /// Records an event. A catalogue that fails here is logged; the event's cause goes on.
    pub fn record(&self, severity: Severity, kind: &str, object: &str, message: &str) {
        if let Err(error) = self.record_with(self.store.txn(), severity, kind, object, message) {
            tracing::error!("an event could not be recorded: {error}");
        }
    }

    /// Commits a transaction and the event that tells of it: a kill loses both or neither.
    ///
    /// # Errors
    /// The catalogue's, or that the transaction was refused. Only the agent's own log has the event then.
    pub fn record_with(
        &self,
        txn: Txn<'_>,
        severity: Severity,
        kind: &str,
        object: &str,
        message: &str,
    ) -> Result<u64> {
        match severity {
            Severity::Info => tracing::info!(kind, object, "{message}"),
            Severity::Warning => tracing::warn!(kind, object, "{message}"),
            Severity::Error => tracing::error!(kind, object, "{message}"),
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *next;
        let event = EventRecord {
            id,
            at: crate::text::now(),
            severity,
            kind: kind.to_owned(),
            object: object.to_owned(),
            message: message.to_owned(),
        };
        let mut txn = txn.put(event_key(id), &event);
        if id > MAX_EVENTS {
            txn = txn.delete(event_key(id - MAX_EVENTS));
        }
        let committed = txn.commit();
        // What failed may have happened, and a reader has seen its number by now.
        *next = match committed {
            Ok(_) => id + 1,
            Err(_) => last_event(&self.store).map_or(id, |last| id.max(last + 1)),
        };
        drop(next);
        self.news.notify_one();
        committed
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
        self.news.notify_one();
    }

    /// Waits until something happened since the last call returned.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// The events that a query asks for, oldest first. A cursor beyond the newest event is from a list that is
    /// gone (the catalogue was made anew): the list is told from its beginning then.
    ///
    /// # Errors
    /// `Invalid` for a `since` that is no point in time, or the catalogue's.
    pub fn list(&self, query: &EventsQuery) -> Result<Vec<EventRecord>> {
        let since = query.since.as_deref().map(crate::text::parse_since).transpose()?;
        let after = query.after.unwrap_or(0);
        let after = if after > last_event(&self.store)? { 0 } else { after };
        let from = event_key(after.saturating_add(1));
        let limit = query.limit.unwrap_or(usize::MAX);
        // Events of before `since` must not use up the limit.
        let read = if since.is_some() { usize::MAX } else { limit };
        let found = self.store.list_from::<EventRecord>(PREFIX, &from, read)?;
        let events = found.into_iter().map(|event| event.record);
        let wanted = events.filter(|event| since.as_ref().is_none_or(|since| event.at >= *since));
        Ok(wanted.take(limit).collect())
    }

    /// As `list`, but waits for the first event as long as the query says.
    ///
    /// # Errors
    /// As `list`; `Busy` when too many wait already.
    pub async fn wait(self: &Arc<Self>, query: EventsQuery) -> Result<Vec<EventRecord>> {
        let wait = Duration::from_millis(query.wait_ms.unwrap_or(0)).min(MAX_WAIT);
        if wait.is_zero() {
            return self.list_aside(query).await;
        }
        let _place = self.waiting.try_acquire().map_err(|_| {
            Error::general(Kind::Busy, format!("{MAX_WAITING} readers wait for events already"))
                .hint("end one of them, or ask without waiting")
        })?;
        let mut watch = self.store.watch(PREFIX);
        let found = self.list_aside(query.clone()).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        // Whether an event came, the watch lagged or the time is up: what is there now is the answer.
        let _ = tokio::time::timeout(wait, watch.next()).await;
        self.list_aside(query).await
    }

    /// `list` on a thread that may block: ten thousand events take a while.
    async fn list_aside(self: &Arc<Self>, query: EventsQuery) -> Result<Vec<EventRecord>> {
        let this = self.clone();
        super::blocking(move || this.list(&query)).await
    }
}

/// Number of the newest event, 0 without one.
fn last_event(store: &Store) -> Result<u64> {
    let last = store.last_key(PREFIX)?;
    Ok(last.and_then(|key| u64::from_str_radix(key.trim_start_matches(PREFIX), 16).ok()).unwrap_or(0))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Embedded;

    fn opened(folder: &std::path::Path) -> Arc<EventLog> {
        let store = Store::new(Arc::new(Embedded::open(&folder.join("c")).expect("opens")));
        Arc::new(EventLog::open(store, Arc::default()).expect("opens"))
    }

    fn ids(log: &EventLog, query: EventsQuery) -> Vec<u64> {
        log.list(&query).expect("lists").iter().map(|event| event.id).collect()
    }

    #[test]
    fn a_cursor_holds_across_a_restart_and_a_list_made_anew_is_told_whole() {
        let folder = tempfile::tempdir().expect("folder");
        let log = opened(folder.path());
        (0..3).for_each(|n| log.record(Severity::Info, "k", "o", &format!("event {n}")));
        drop(log);
        let log = opened(folder.path());
        log.record(Severity::Info, "k", "o", "event 3");
        let after = |after| EventsQuery { after: Some(after), ..EventsQuery::default() };
        assert_eq!(ids(&log, after(2)), [3, 4]);
        assert_eq!(ids(&log, after(4)), [0; 0]);
        assert_eq!(ids(&log, EventsQuery { limit: Some(2), ..after(1) }), [2, 3]);
        assert_eq!(ids(&log, after(1000)), [1, 2, 3, 4]);
    }

    #[test]
    fn the_list_is_bounded() {
        let folder = tempfile::tempdir().expect("folder");
        let log = opened(folder.path());
        *log.next.lock().expect("lock") = MAX_EVENTS;
        (0..3).for_each(|_| log.record(Severity::Info, "k", "o", "m"));
        log.store.txn().put(event_key(3), &1).commit().expect("commits");
        log.record(Severity::Info, "k", "o", "m");
        // What lies `MAX_EVENTS` below the new one has gone.
        assert_eq!(ids(&log, EventsQuery::default()), (MAX_EVENTS..MAX_EVENTS + 4).collect::<Vec<_>>());
    }

    #[test]
    fn since_takes_instants_and_spans_and_refuses_the_rest() {
        let folder = tempfile::tempdir().expect("folder");
        let log = opened(folder.path());
        log.record(Severity::Info, "k", "o", "m");
        let since = |text: &str| EventsQuery { since: Some(text.into()), ..EventsQuery::default() };
        assert_eq!(ids(&log, since("1h")), [1]);
        assert_eq!(ids(&log, since("2999-01-01T00:00:00Z")), [0; 0]);
        assert_eq!(log.list(&since("soon")).expect_err("refused").kind, Kind::Invalid);
    }

    #[tokio::test]
    async fn waiting_readers_are_limited() {
        let folder = tempfile::tempdir().expect("folder");
        let log = opened(folder.path());
        let waiting = EventsQuery { wait_ms: Some(50_000), ..EventsQuery::default() };
        let places = log.waiting.try_acquire_many(MAX_WAITING as u32).expect("free");
        assert_eq!(log.wait(waiting.clone()).await.expect_err("full").kind, Kind::Busy);
        assert_eq!(log.wait(EventsQuery::default()).await.expect("answers").len(), 0);
        drop(places);
        let (reader, query) = (log.clone(), waiting.clone());
        let waits = tokio::spawn(async move { reader.wait(query).await });
        while log.waiting.available_permits() == MAX_WAITING {
            tokio::task::yield_now().await;
        }
        log.record(Severity::Info, "k", "o", "m");
        assert_eq!(waits.await.expect("no panic").expect("answers").len(), 1);
    }
}
