//! The catalogue of one node, in one redb file.
//!
//! redb commits with two roots and a checksum each, so that a crash leaves the transaction before or after.
//! The table holds `key -> version (8 bytes, little-endian) | value`; the last version lives in a table of
//! its own and moves in the same transaction.
use super::{ABSENT, Catalogue, Change, Changed, Compare, Entry, Outcome, Watch};
use crate::error::{Error, Kind, Result};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::sync::broadcast;

const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const VERSION: &str = "version";
/// Changes that a slow watcher may lag behind before it has to read everything again.
const WATCH_CAPACITY: usize = 1024;

/// The embedded catalogue. One process at a time: redb locks the file.
pub struct Embedded {
    database: Database,
    changes: broadcast::Sender<Changed>,
}

impl Embedded {
    /// Opens or creates the catalogue, readable by its owner alone.
    ///
    /// # Errors
    /// `Busy` when another process has it open, `Damage` when the file is not a catalogue.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let database = Database::create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Error::new(
                Kind::Busy,
                name.clone(),
                format!("the catalogue {name} is open in another process"),
            ),
            redb::DatabaseError::Storage(redb::StorageError::Io(source)) => Error::io("open", path, &source),
            other => {
                Error::new(Kind::Damage, name.clone(), format!("cannot open the catalogue {name}: {other}"))
                    .hint("move it away and rebuild it with plinth pool import")
            }
        })?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|source| Error::io("restrict", path, &source))?;
        let this = Self { database, changes: broadcast::Sender::new(WATCH_CAPACITY) };
        let start = this.database.begin_write().map_err(failed)?;
        start.open_table(ENTRIES).map_err(failed)?;
        start.open_table(COUNTERS).map_err(failed)?;
        start.commit().map_err(failed)?;
        Ok(this)
    }
}

/// A failure of the store itself.
fn failed(error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    Error::general(Kind::Failed, format!("the catalogue failed: {error}"))
        .hint("check that the state folder has space and is writable")
}

fn split(bytes: &[u8]) -> Entry {
    let (version, value) = bytes.split_at(8);
    Entry { version: u64::from_le_bytes(version.try_into().expect("eight bytes")), value: value.to_vec() }
}

impl Catalogue for Embedded {
    fn get(&self, key: &str) -> Result<Option<Entry>> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(ENTRIES).map_err(failed)?;
        Ok(table.get(key).map_err(failed)?.map(|guard| split(guard.value())))
    }

    fn range(&self, prefix: &str) -> Result<Vec<(String, Entry)>> {
        self.range_from(prefix, prefix, usize::MAX)
    }

    fn range_from(&self, prefix: &str, from: &str, limit: usize) -> Result<Vec<(String, Entry)>> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(ENTRIES).map_err(failed)?;
        let mut found = Vec::new();
        for item in table.range(prefix.max(from)..).map_err(failed)?.take(limit) {
            let (key, value) = item.map_err(failed)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            found.push((key.value().to_owned(), split(value.value())));
        }
        Ok(found)
    }

    fn last_key(&self, prefix: &str) -> Result<Option<String>> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(ENTRIES).map_err(failed)?;
        // Keys are ASCII: nothing that begins with the prefix sorts behind this.
        let end = format!("{prefix}\u{7f}");
        let Some(item) = table.range(prefix..end.as_str()).map_err(failed)?.next_back() else {
            return Ok(None);
        };
        Ok(Some(item.map_err(failed)?.0.value().to_owned()))
    }

    fn commit(&self, compares: &[Compare], changes: &[Change]) -> Result<Outcome> {
        let write = self.database.begin_write().map_err(failed)?;
        let version = {
            let mut entries = write.open_table(ENTRIES).map_err(failed)?;
            for compare in compares {
                let have = entries.get(compare.key.as_str()).map_err(failed)?;
                let have = have.map_or(ABSENT, |guard| split(guard.value()).version);
                if have != compare.version {
                    return Ok(Outcome::Conflict);
                }
            }
            let mut counters = write.open_table(COUNTERS).map_err(failed)?;
            let last = counters.get(VERSION).map_err(failed)?.map_or(0, |guard| guard.value());
            let version = last + 1;
            counters.insert(VERSION, version).map_err(failed)?;
            for change in changes {
                match change {
                    Change::Put(key, value) => {
                        let bytes = [&version.to_le_bytes()[..], value].concat();
                        entries.insert(key.as_str(), bytes.as_slice()).map_err(failed)?;
                    }
                    Change::Delete(key) => {
                        entries.remove(key.as_str()).map_err(failed)?;
                    }
                }
            }
            version
        };
        write.commit().map_err(failed)?;
        for change in changes {
            // No watcher is no error.
            let _ = self.changes.send(Changed { key: change.key().to_owned(), version });
        }
        Ok(Outcome::Committed(version))
    }

    fn watch(&self, prefix: &str) -> Watch {
        Watch::new(prefix, self.changes.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Change {
        Change::Put(key.into(), value.into())
    }

    fn at(key: &str, version: u64) -> Compare {
        Compare { key: key.into(), version }
    }

    #[test]
    fn a_transaction_happens_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("folder");
        let catalogue = Embedded::open(&folder.path().join("c")).expect("opens");
        let first = catalogue.commit(&[at("a", ABSENT)], &[put("a", "1"), put("b", "1")]).expect("commits");
        assert_eq!(first, Outcome::Committed(1));
        let stale = catalogue.commit(&[at("a", 1), at("b", ABSENT)], &[put("a", "2")]).expect("answers");
        assert_eq!(stale, Outcome::Conflict);
        assert_eq!(catalogue.get("a").expect("reads"), Some(Entry { version: 1, value: b"1".to_vec() }));
        catalogue.commit(&[at("a", 1)], &[Change::Delete("a".into())]).expect("commits");
        assert_eq!(catalogue.get("a").expect("reads"), None);
        assert_eq!(
            catalogue.commit(&[at("a", ABSENT)], &[put("a", "3")]).expect("commits"),
            Outcome::Committed(3)
        );
    }

    #[test]
    fn it_is_there_after_reopening_and_a_range_is_a_prefix() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("c");
        {
            let catalogue = Embedded::open(&path).expect("opens");
            catalogue
                .commit(&[], &[put("pools/a", "1"), put("pools/b", "2"), put("q", "3")])
                .expect("commits");
            assert!(Embedded::open(&path).is_err(), "a second process must not open it");
        }
        let catalogue = Embedded::open(&path).expect("opens again");
        let keys: Vec<_> =
            catalogue.range("pools/").expect("reads").into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["pools/a", "pools/b"]);
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_watcher_hears_its_prefix_only() {
        let folder = tempfile::tempdir().expect("folder");
        let catalogue = Embedded::open(&folder.path().join("c")).expect("opens");
        let mut watch = catalogue.watch("events/");
        catalogue.commit(&[], &[put("pools/a", "1"), put("events/1", "x")]).expect("commits");
        assert_eq!(watch.next().await, Some(Changed { key: "events/1".into(), version: 1 }));
    }
}
