//! The catalogue of one node, in one redb file.
//!
//! redb commits with two roots and a checksum each, so that a crash leaves the transaction before or after.
//! The table holds `key -> version (8 bytes, little-endian) | value`; the last version lives in a table of
//! its own and moves in the same transaction.
//!
//! **When the file fails** (the file system is full, a write or flush is an error) redb refuses everything from then on,
//! and nobody can say whether the transaction that was under way is there. So the file is closed, and opened again before
//! its next use, for as long as that takes; space that comes back is all that is needed. What is found then leads:
//!
//! - The transaction was answered with an error, so nobody counts on it. If it is there all the same, its keys have
//!   versions that nobody holds: whoever decided on the ones before gets a conflict and looks again, and a verb that is
//!   repeated finds its own announcement, as after a crash. If it is not there, its version is given out anew; nobody
//!   has seen it.
//! - What was put together from the catalogue and is kept in memory may lack it. `failures` tells that: who keeps such a
//!   thing compares it and reads again (`agent/locks.rs`).
//! - Watchers are not told of it by name. They hear that they missed something, and read everything again.
//! - A flush that failed is not asked again as if nothing had been lost: the kernel's copy of what it could not write is
//!   dropped before the file is read, so that the roots and their checksums are judged by what the drive has.
use super::{ABSENT, Catalogue, Change, Changed, Compare, Entry, Outcome, Watch};
use crate::error::{Error, Kind, Result};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::broadcast;

const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
/// There while it is tried whether there is room.
const PROBES: TableDefinition<&str, &[u8]> = TableDefinition::new("probes");
const VERSION: &str = "version";
/// What an ordinary transaction needs at most: a row of many extents, with an event.
const PROBE_BYTES: usize = 256 << 10;
/// Changes that a slow watcher may lag behind before it has to read everything again.
const WATCH_CAPACITY: usize = 1024;

/// What to do about a catalogue that fails.
const HINT: &str = "see that the state folder has space and is writable; the agent goes on by itself then";

type Answer<T> = std::result::Result<T, redb::Error>;
type Opener = Box<dyn Fn() -> std::result::Result<Database, DatabaseError> + Send + Sync>;

/// The embedded catalogue. One process at a time: redb locks the file.
pub struct Embedded {
    name: String,
    opener: Opener,
    /// `None` behind a failure, until it is opened again.
    database: RwLock<Option<Open>>,
    /// How often it failed.
    failures: AtomicU64,
    /// Why it failed, until it is known to have room again.
    trouble: Mutex<Option<Error>>,
}

/// The database, and who hears of its changes.
struct Open {
    database: Database,
    changes: broadcast::Sender<Changed>,
}

impl Embedded {
    /// Opens or creates the catalogue, readable by its owner alone.
    ///
    /// # Errors
    /// `Busy` when another process has it open, `Damage` when the file is not a catalogue.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.to_owned();
        let this = Self::open_with(
            path.display().to_string(),
            Box::new(move || {
                forget_cached(&file);
                Database::create(&file)
            }),
        )?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|source| Error::io("restrict", path, &source))?;
        Ok(this)
    }

    fn open_with(name: String, opener: Opener) -> Result<Self> {
        let open = Self::opened(&name, &opener)?;
        let begin = || -> Answer<()> {
            let start = open.database.begin_write()?;
            start.open_table(ENTRIES)?;
            start.open_table(COUNTERS)?;
            Ok(start.commit()?)
        };
        begin().map_err(|error| failed(&error))?;
        Ok(Self {
            name,
            opener,
            database: RwLock::new(Some(open)),
            failures: AtomicU64::new(0),
            trouble: Mutex::default(),
        })
    }

    fn opened(name: &str, opener: &Opener) -> Result<Open> {
        let database = opener().map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                Error::new(Kind::Busy, name, format!("the catalogue {name} is open in another process"))
            }
            DatabaseError::Storage(redb::StorageError::Io(source)) => {
                Error::io("open", Path::new(name), &source).hint(HINT)
            }
            other => Error::new(Kind::Damage, name, format!("cannot open the catalogue {name}: {other}"))
                .hint("move it away and rebuild it with plinth pool import"),
        })?;
        Ok(Open { database, changes: broadcast::Sender::new(WATCH_CAPACITY) })
    }

    /// Does something with the database, which is opened again first if it failed before.
    fn with<T>(&self, work: impl FnOnce(&Open) -> Answer<T>) -> Result<T> {
        let (outcome, failures) = {
            let held = self.held()?;
            let open = held.as_ref().expect("held is open");
            (work(open), self.failures.load(Ordering::Acquire))
        };
        outcome.map_err(|error| {
            let told = failed(&error);
            if breaks(&error) {
                self.close(failures, &told);
            }
            told
        })
    }

    /// The database, open.
    fn held(&self) -> Result<RwLockReadGuard<'_, Option<Open>>> {
        loop {
            let held = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if held.is_some() {
                return Ok(held);
            }
            drop(held);
            let mut closed = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if closed.is_none() {
                let open = Self::opened(&self.name, &self.opener);
                *closed = Some(open.inspect_err(|error| *self.trouble() = Some(error.clone()))?);
                tracing::warn!("the catalogue {} was opened again behind a failure", self.name);
            }
        }
    }

    /// Closes what failed, unless somebody else did meanwhile.
    fn close(&self, failures: u64, why: &Error) {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *self.trouble() = Some(why.clone());
        if self.failures.load(Ordering::Acquire) == failures {
            tracing::error!("{why}");
            *database = None;
            self.failures.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Error>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kernel remembers of the file goes, but for what is still to be written.
fn forget_cached(path: &Path) {
    if let Ok(file) = File::open(path) {
        // A file system that keeps its files in memory has nothing else: then this changes nothing.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

/// Whether redb answers nothing any more behind this error.
fn breaks(error: &redb::Error) -> bool {
    use redb::Error::{DatabaseClosed, Io, LockPoisoned, PreviousIo};
    matches!(error, Io(_) | PreviousIo | DatabaseClosed | LockPoisoned(_))
}

/// A failure of the store itself.
fn failed(error: &redb::Error) -> Error {
    Error::general(Kind::Failed, format!("the catalogue failed: {error}")).hint(HINT)
}

/// The sentence for an entry that is not what `commit` stores.
fn damaged(key: &str) -> Error {
    let message = format!("the catalogue's entry {key} cannot be read: it is shorter than its version");
    Error::new(Kind::Damage, key, message)
        .hint("move the catalogue away and rebuild it with plinth pool import")
}

/// An entry, of what is stored of it.
fn entry(key: &str, stored: &[u8]) -> Result<Entry> {
    Entry::from_stored(stored).ok_or_else(|| damaged(key))
}

impl Catalogue for Embedded {
    fn get(&self, key: &str) -> Result<Option<Entry>> {
        let found = self.with(|open| {
            let table = open.database.begin_read()?.open_table(ENTRIES)?;
            Ok(table.get(key)?.map(|guard| entry(key, guard.value())))
        })?;
        found.transpose()
    }

    fn range(&self, prefix: &str) -> Result<Vec<(String, Entry)>> {
        self.range_from(prefix, prefix, usize::MAX)
    }

    fn range_from(&self, prefix: &str, from: &str, limit: usize) -> Result<Vec<(String, Entry)>> {
        let found = self.with(|open| {
            let table = open.database.begin_read()?.open_table(ENTRIES)?;
            let mut found = Vec::new();
            for item in table.range(prefix.max(from)..)?.take(limit) {
                let (key, value) = item?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push(entry(key.value(), value.value()).map(|entry| (key.value().to_owned(), entry)));
            }
            Ok(found)
        })?;
        found.into_iter().collect()
    }

    fn last_key(&self, prefix: &str) -> Result<Option<String>> {
        // Keys are ASCII: nothing that begins with the prefix sorts behind this.
        let end = format!("{prefix}\u{7f}");
        self.with(|open| {
            let table = open.database.begin_read()?.open_table(ENTRIES)?;
            let last = table.range(prefix..end.as_str())?.next_back().transpose()?;
            Ok(last.map(|(key, _)| key.value().to_owned()))
        })
    }

    fn commit(&self, compares: &[Compare], changes: &[Change]) -> Result<Outcome> {
        self.with(|open| {
            let outcome = commit(&open.database, compares, changes)?;
            if let Ok(Outcome::Committed(version)) = outcome {
                for change in changes {
                    // No watcher is no error.
                    let _ = open.changes.send(Changed { key: change.key().to_owned(), version });
                }
            }
            Ok(outcome)
        })?
    }

    fn watch(&self, prefix: &str) -> Watch {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let changes = database.as_ref().map(|open| open.changes.subscribe());
        // One that is closed says that something was missed.
        Watch::new(prefix, changes.unwrap_or_else(|| broadcast::Sender::new(1).subscribe()))
    }

    fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<()> {
        if self.trouble().is_none() {
            return Ok(());
        }
        self.with(|open| probe(&open.database))?;
        *self.trouble() = None;
        Ok(())
    }
}

/// Writes as much as any ordinary transaction needs, and takes it away again: a small one may find room in the file where
/// the next one does not.
fn probe(database: &Database) -> Answer<()> {
    let write = database.begin_write()?;
    write.open_table(PROBES)?.insert(VERSION, &[0; PROBE_BYTES][..])?;
    write.commit()?;
    let write = database.begin_write()?;
    write.delete_table(PROBES)?;
    Ok(write.commit()?)
}

/// One transaction; an error inside is that an entry it depends on is damaged, and nothing has changed.
fn commit(database: &Database, compares: &[Compare], changes: &[Change]) -> Answer<Result<Outcome>> {
    let write = database.begin_write()?;
    let version = {
        let mut entries = write.open_table(ENTRIES)?;
        for compare in compares {
            let have = entries.get(compare.key.as_str())?.map(|guard| entry(&compare.key, guard.value()));
            match have.transpose() {
                Err(damaged) => return Ok(Err(damaged)),
                Ok(have) if have.as_ref().map_or(ABSENT, |have| have.version) != compare.version => {
                    return Ok(Ok(Outcome::Conflict));
                }
                Ok(_) => {}
            }
        }
        let mut counters = write.open_table(COUNTERS)?;
        let version = counters.get(VERSION)?.map_or(0, |guard| guard.value()) + 1;
        counters.insert(VERSION, version)?;
        for change in changes {
            match change {
                Change::Put(key, value) => {
                    let bytes = Entry::to_stored(version, value);
                    entries.insert(key.as_str(), bytes.as_slice())?;
                }
                Change::Delete(key) => drop(entries.remove(key.as_str())?),
            }
        }
        version
    };
    write.commit()?;
    Ok(Ok(Outcome::Committed(version)))
}

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
mod tests;
