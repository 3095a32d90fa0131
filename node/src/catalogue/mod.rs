//! The catalogue: what the agent knows, behind a small key-value interface.
//!
//! Keys are paths (`pools/fast`), values JSON. Every change is one transaction that names the versions it was
//! decided on; it happens whole or, when any of them moved, not at all. A version is the number of the
//! transaction that last wrote the key, so it never repeats, also not when a key is deleted and made again.
//! The same interface fits a shared store for several nodes; `Embedded` keeps it in one file on this node.
//!
//! Crash story: a transaction is durable when `commit` returns. A verb first writes what it is about to do,
//! then does it to the drives, then writes that it is done; each half can be repeated.
pub mod deleted;
pub mod embedded;
pub mod keys;
pub mod moves;
pub mod records;
pub mod scrubs;
pub mod store;

pub use deleted::DeletedRecord;
pub use embedded::Embedded;
pub use keys::{GroupEncryption, KeyLife, KeyRecord, KeyVersion, RekeyRecord, SealedKey, TransitPlace};
pub use moves::MoveRecord;
pub use records::{
    Attachment, CopyRecord, CopyState, DriveRecord, DriveState, EmptyGroupRecord, Errand, EventRecord,
    ExtentRecord, FrontendKind, GroupRecord, HistoryRecord, Leaving, Life, Lost, PoolRecord, RowRecord,
    Severity, VolumeRecord,
};
pub use scrubs::{Damage, ScrubRecord, Want};
pub use store::{Store, Txn, Versioned};

use crate::error::Result;
use tokio::sync::broadcast;

/// Version of a key that does not exist.
pub const ABSENT: u64 = 0;

/// A key's value and version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Number of the transaction that wrote it.
    pub version: u64,
    /// The bytes.
    pub value: Vec<u8>,
}

/// Bytes of the version in front of a stored value.
const VERSION_BYTES: usize = 8;

impl Entry {
    /// Reads `version (8 bytes, little-endian) | value`, as `Embedded` stores it; `None` if it is shorter than a version.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        let (version, value) = bytes.split_first_chunk::<VERSION_BYTES>()?;
        Some(Self { version: u64::from_le_bytes(*version), value: value.to_vec() })
    }

    /// What is stored of a value under a version.
    pub fn to_stored(version: u64, value: &[u8]) -> Vec<u8> {
        [&version.to_le_bytes(), value].concat()
    }
}

/// A condition of a transaction: the key still has this version (`ABSENT`: does not exist).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// The version it must have.
    pub version: u64,
}

/// One change of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Writes the key.
    Put(String, Vec<u8>),
    /// Removes the key; no harm if it does not exist.
    Delete(String),
}

impl Change {
    /// The key that changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Durable, under this version.
    Committed(u64),
    /// A compared key has another version; nothing changed.
    Conflict,
}

/// A key that changed, and the version under which it did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The key.
    pub key: String,
    /// Number of the transaction.
    pub version: u64,
}

/// A key-value store with compare-and-swap over several keys and watching by prefix.
pub trait Catalogue: Send + Sync {
    /// One key.
    fn get(&self, key: &str) -> Result<Option<Entry>>;
    /// All keys that begin with `prefix`, in order.
    fn range(&self, prefix: &str) -> Result<Vec<(String, Entry)>>;
    /// Keys that begin with `prefix` and are not below `from`, in order, at most `limit` of them.
    fn range_from(&self, prefix: &str, from: &str, limit: usize) -> Result<Vec<(String, Entry)>>;
    /// The last key that begins with `prefix`.
    fn last_key(&self, prefix: &str) -> Result<Option<String>>;
    /// One transaction: all compares hold and all changes happen, or nothing does.
    fn commit(&self, compares: &[Compare], changes: &[Change]) -> Result<Outcome>;
    /// Hears of changes from now on to keys that begin with `prefix`.
    fn watch(&self, prefix: &str) -> Watch;
    /// How often it failed in a way that leaves open whether a transaction that was answered with an error is there.
    /// What was put together from the catalogue before such a failure is to be put together anew.
    fn failures(&self) -> u64;
    /// Whether it takes changes. Behind a failure that is tried; otherwise nothing is asked.
    fn check(&self) -> Result<()>;
}

/// Changes to keys with one prefix.
pub struct Watch {
    prefix: String,
    changes: broadcast::Receiver<Changed>,
}

impl Watch {
    /// Watches a stream of all changes for those under `prefix`.
    pub fn new(prefix: &str, changes: broadcast::Receiver<Changed>) -> Self {
        Self { prefix: prefix.to_owned(), changes }
    }

    /// Waits for the next change. `None`: changes were missed (read everything again) or the catalogue is
    /// closed.
    pub async fn next(&mut self) -> Option<Changed> {
        loop {
            let changed = self.changes.recv().await.ok()?;
            if changed.key.starts_with(&self.prefix) {
                return Some(changed);
            }
        }
    }
}
