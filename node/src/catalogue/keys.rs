//! The records of keys: what is known of a key that wraps the secrets of groups, and what a group has of it.
//!
//! No record holds a secret. What a passphrase protects lies here sealed by it: whoever has the catalogue can try
//! passphrases, which is why records of keys stay out of support bundles (`agent/support.rs`).
use crate::keys::{Envelope, Kdf, ProviderKind};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Key of a key.
pub fn key_key(name: &str) -> String {
    format!("keys/{name}")
}

/// How far a verb of a key came. What is neither `Ready` nor `Destroyed` is finished when the verb is repeated or the
/// agent starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyLife {
    /// Announced; its provider may or may not have it yet.
    Creating,
    /// Complete.
    Ready,
    /// The newest version may or may not be there yet, and groups go over to it.
    Rotating,
    /// Nothing is wrapped or unwrapped any more; its provider may or may not have it still.
    Destroying,
    /// Gone for ever. The record stays, so that no version number is used twice.
    Destroyed,
}

/// Where a transit engine is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TransitPlace {
    /// `https://HOST[:PORT]`, without a slash at the end.
    pub url: String,
    /// Path at which the engine is mounted.
    pub mount: String,
    /// Name of the key there.
    pub key: String,
    /// File with the token, mode 0600, read anew for each request.
    pub token_file: PathBuf,
    /// File with the certificates of those who may vouch for the server; the system's, if none is named.
    pub ca_file: Option<PathBuf>,
}

/// A random key that a passphrase seals.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealedKey {
    /// How a key is made of the passphrase.
    pub kdf: Kdf,
    /// Random bytes that go into it, in hexadecimal.
    pub salt: String,
    /// The random key, sealed by that, in hexadecimal.
    pub sealed: String,
    /// While a rotation is under way: the version before, sealed by this version's key, so that the new passphrase
    /// finishes what the old one is needed for.
    #[serde(default)]
    pub before: Option<String>,
}

/// A version of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyVersion {
    /// Its number, from 1; never used twice for one name.
    pub version: u32,
    /// RFC 3339.
    pub created_at: String,
    /// Of a passphrase.
    #[serde(default)]
    pub sealed: Option<SealedKey>,
}

/// A key that wraps the secrets of groups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its name.
    pub name: String,
    /// Who keeps it.
    pub provider: ProviderKind,
    /// RFC 3339.
    pub created_at: String,
    /// How far it is.
    pub life: KeyLife,
    /// The versions that are there, oldest first: one, two during a rotation, none when it is destroyed.
    pub versions: Vec<KeyVersion>,
    /// The highest number that a version ever had.
    pub last_version: u32,
    /// Of a transit engine.
    #[serde(default)]
    pub transit: Option<TransitPlace>,
}

impl KeyRecord {
    /// The version that wraps.
    pub fn newest(&self) -> Option<&KeyVersion> {
        self.versions.last()
    }

    /// A version that is there.
    pub fn version(&self, number: u32) -> Option<&KeyVersion> {
        self.versions.iter().find(|version| version.version == number)
    }
}

/// What a group has of its encryption.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupEncryption {
    /// Name of the key that wraps its secret.
    pub key: String,
    /// The wrapped secret; `None` when its key was destroyed: nobody reads the group any more.
    pub envelope: Option<Envelope>,
    /// How often an envelope was written: of several on drives, the one with the highest number counts.
    pub envelope_written: u32,
    /// The walk to a new data key, if one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rekey: Option<RekeyRecord>,
    /// When the last such walk ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rekeyed_at: Option<String>,
}

impl GroupEncryption {
    /// Of a group that this envelope opens.
    pub const fn new(key: String, envelope: Option<Envelope>, envelope_written: u32) -> Self {
        Self { key, envelope, envelope_written, rekey: None, rekeyed_at: None }
    }
}

/// A walk to a new data key that is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RekeyRecord {
    /// Number of the data key.
    pub to: u16,
    /// Every drive of the home row that counts has the envelope with it. Before that no target is told the key: what it
    /// wrote under it could be lost with the catalogue.
    pub sealed: bool,
    /// When it was asked for.
    pub started_at: String,
}
