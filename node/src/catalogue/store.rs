//! Typed access to the catalogue: records as JSON, and a builder for transactions.
use super::{ABSENT, Catalogue, Change, Compare, Entry, Outcome, Watch};
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A record together with the version on which decisions about it rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned<T> {
    /// Version of the key.
    pub version: u64,
    /// The record.
    pub record: T,
}

impl<T> Deref for Versioned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.record
    }
}

impl<T> DerefMut for Versioned<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.record
    }
}

/// The catalogue with typed records.
#[derive(Clone)]
pub struct Store {
    catalogue: Arc<dyn Catalogue>,
}

impl Store {
    /// Wraps a catalogue.
    pub fn new(catalogue: Arc<dyn Catalogue>) -> Self {
        Self { catalogue }
    }

    /// One record.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Versioned<T>>> {
        self.catalogue.get(key)?.map(|entry| decode(key, &entry)).transpose()
    }

    /// The records whose keys begin with `prefix`, in the order of their keys.
    pub fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<Versioned<T>>> {
        self.catalogue.range(prefix)?.iter().map(|(key, entry)| decode(key, entry)).collect()
    }

    /// The keys that begin with `prefix`.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.catalogue.range(prefix)?.into_iter().map(|(key, _)| key).collect())
    }

    /// The records whose keys begin with `prefix` and are not below `from`, at most `limit` of them.
    pub fn list_from<T: DeserializeOwned>(
        &self,
        prefix: &str,
        from: &str,
        limit: usize,
    ) -> Result<Vec<Versioned<T>>> {
        let found = self.catalogue.range_from(prefix, from, limit)?;
        found.iter().map(|(key, entry)| decode(key, entry)).collect()
    }

    /// The last key that begins with `prefix`.
    pub fn last_key(&self, prefix: &str) -> Result<Option<String>> {
        self.catalogue.last_key(prefix)
    }

    /// Hears of changes under `prefix`.
    pub fn watch(&self, prefix: &str) -> Watch {
        self.catalogue.watch(prefix)
    }

    /// How often the catalogue failed (`Catalogue::failures`).
    pub fn failures(&self) -> u64 {
        self.catalogue.failures()
    }

    /// Whether the catalogue takes changes (`Catalogue::check`).
    pub fn check(&self) -> Result<()> {
        self.catalogue.check()
    }

    /// Begins a transaction.
    pub fn txn(&self) -> Txn<'_> {
        Txn { store: self, compares: Vec::new(), changes: Vec::new() }
    }
}

fn decode<T: DeserializeOwned>(key: &str, entry: &Entry) -> Result<Versioned<T>> {
    let record = serde_json::from_slice(&entry.value).map_err(|error| {
        Error::new(Kind::Damage, key, format!("the catalogue's entry {key} cannot be read: {error}"))
            .hint("a newer plinth may have written it")
    })?;
    Ok(Versioned { version: entry.version, record })
}

/// A transaction being put together.
pub struct Txn<'a> {
    store: &'a Store,
    compares: Vec<Compare>,
    changes: Vec<Change>,
}

impl Txn<'_> {
    /// Creates a record; the transaction fails if the key exists.
    #[must_use]
    pub fn create<T: Serialize>(self, key: impl Into<String>, record: &T) -> Self {
        let key = key.into();
        self.expect(key.clone(), ABSENT).put(key, record)
    }

    /// Changes a record; the transaction fails if somebody else changed it meanwhile.
    #[must_use]
    pub fn update<T: Serialize>(self, key: impl Into<String>, record: &Versioned<T>) -> Self {
        let key = key.into();
        self.expect(key.clone(), record.version).put(key, &record.record)
    }

    /// Removes a record; the transaction fails if somebody else changed it meanwhile.
    #[must_use]
    pub fn remove<T>(mut self, key: impl Into<String>, record: &Versioned<T>) -> Self {
        let key = key.into();
        self.changes.push(Change::Delete(key.clone()));
        self.expect(key, record.version)
    }

    /// Writes a record whatever was there.
    #[must_use]
    pub fn put<T: Serialize>(mut self, key: impl Into<String>, record: &T) -> Self {
        let value = serde_json::to_vec(record).expect("records encode as JSON");
        self.changes.push(Change::Put(key.into(), value));
        self
    }

    /// Removes a key whatever was there.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.changes.push(Change::Delete(key.into()));
        self
    }

    /// Adds a condition.
    #[must_use]
    pub fn expect(mut self, key: impl Into<String>, version: u64) -> Self {
        self.compares.push(Compare { key: key.into(), version });
        self
    }

    /// Makes it durable. Returns its version.
    ///
    /// # Errors
    /// `Busy` when a record that it depends on was changed by somebody else; nothing happened then.
    pub fn commit(self) -> Result<u64> {
        match self.store.catalogue.commit(&self.compares, &self.changes)? {
            Outcome::Committed(version) => Ok(version),
            Outcome::Conflict => {
                let object = self.compares.first().map_or(String::new(), |compare| compare.key.clone());
                Err(Error::new(
                    Kind::Busy,
                    object.clone(),
                    format!("{object} was changed by another request"),
                )
                .hint("try again"))
            }
        }
    }
}
