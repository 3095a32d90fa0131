//! Keys that wrap the secrets of groups, and who keeps them.
//!
//! A group's secret (its data keys and its metadata key, see `group_secret`) is random and never changes. It lies only *wrapped*, in an
//! [`Envelope`], in the catalogue and on the group's drives. What wraps it is a key with a name that never lies on those
//! drives; rotating or destroying it costs a few hundred bytes, however large the group is.
//!
//! | provider | the key is | after a restart of the agent | after a boot |
//! |---|---|---|---|
//! | `file` | a file in the state folder | there | there |
//! | `keyring` | in the kernel's keyring of the user | there | gone, unless something puts it back |
//! | `passphrase` | in the catalogue, sealed by a passphrase | locked until `key unlock` | locked |
//! | `transit` | on a server, which wraps and unwraps | there, if the server is | there, if the server is |
//!
//! The first three hand the key over, and the wrapping is done here (`seal`), bound to the group by its id. The fourth
//! never shows its key. Providers are behind one trait, [`Provider`]; which one a key has, and how far it is, says its
//! record. The verbs that change records are `agent/keys`; this module wraps and unwraps.
//!
//! Crash story: a version is made before the record lists it, and forgotten before the record drops it, so that what a
//! record lists is there. Making one that is there and forgetting one that is not are no errors.
mod envelope;
mod file;
mod group_secret;
mod keyring;
mod local;
mod passphrase;
pub mod seal;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod transit;

use crate::catalogue::keys::key_key;
use crate::catalogue::{KeyLife, KeyRecord, Store, Versioned};
use crate::error::{Error, Kind, Result};
use base::Uuid;
pub use envelope::{BadEnvelope, Envelope, MAX_ENVELOPE_BYTES, MAX_WRAPPED_BYTES};
pub use group_secret::{BadSecret, GroupSecret, MAX_DATA_KEYS, ciphers};
pub use passphrase::Kdf;
pub(crate) use passphrase::{MAX_PASSPHRASE_BYTES, Unlocked, locked};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
pub use text::SecretText;
pub(crate) use transit::check_place;
pub use ublk_target::Secret;
use utoipa::ToSchema;
use volume::StoredEnvelope;

/// Bytes of a group's secret at most: what every provider's envelope has room for.
pub const MAX_GROUP_SECRET_BYTES: usize = 256;
/// What a wrapped secret is for: bound to it, so that nothing else that a key sealed stands for one.
const PURPOSE: &str = "plinth group secret";

/// Who keeps a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// A file in the state folder.
    File,
    /// The kernel's keyring.
    Keyring,
    /// Whoever knows the passphrase.
    Passphrase,
    /// A server with a transit engine.
    Transit,
}

impl ProviderKind {
    /// Its number in an envelope.
    pub const fn code(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Keyring => 2,
            Self::Passphrase => 3,
            Self::Transit => 4,
        }
    }

    /// The provider of a number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::File),
            2 => Some(Self::Keyring),
            3 => Some(Self::Passphrase),
            4 => Some(Self::Transit),
            _ => None,
        }
    }

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Keyring => "keyring",
            Self::Passphrase => "passphrase",
            Self::Transit => "transit",
        }
    }
}

/// What every provider does for one key. Calls may take as long as a server may (`transit::CALL_DEADLINE`).
pub(crate) trait Provider {
    /// Sees to it that a version is there; one that is there already stays what it is.
    fn make(&self, version: u32) -> Result<()>;
    /// Wraps a group's secret under a version.
    fn wrap(&self, version: u32, group: &Uuid, secret: &Secret) -> Result<Vec<u8>>;
    /// Opens what `wrap` made. `Permission`: another key, another group, or not one byte as it was.
    fn unwrap(&self, version: u32, group: &Uuid, wrapped: &[u8]) -> Result<Secret>;
    /// Forgets a version for ever, as far as that is in its hands.
    fn forget(&self, version: u32) -> Result<()>;
    /// Why a version cannot be used at the moment, as far as that can be told without asking far away.
    fn obstacle(&self, version: u32) -> Option<Error>;
}

/// Wraps and unwraps by the keys of the catalogue.
pub struct Keys {
    store: Store,
    folder: PathBuf,
    unlocked: Unlocked,
}

impl Keys {
    /// The keys of a catalogue; `folder` is where those of provider `file` lie.
    pub fn new(store: Store, folder: PathBuf) -> Self {
        Self { store, folder, unlocked: Unlocked::default() }
    }

    /// Wraps a group's secret under the newest version of a key.
    ///
    /// # Errors
    /// `NotFound`; `Permission` when the key is locked, gone, destroyed or refused; `Unreachable`.
    pub fn wrap(&self, key_name: &str, group: &Uuid, secret: &Secret) -> Result<Envelope> {
        let key = self.key(key_name)?;
        usable(&key)?;
        let version =
            key.newest().ok_or_else(|| Error::new(Kind::Busy, key_name, not_made(key_name)))?.version;
        if secret.is_empty() || secret.len() > MAX_GROUP_SECRET_BYTES {
            let message = format!("a secret of {} bytes cannot be wrapped", secret.len());
            return Err(Error::new(Kind::Invalid, key_name, message));
        }
        let wrapped = self.provider(&key).wrap(version, group, secret)?;
        warn_if_unlocked();
        if wrapped.is_empty() || wrapped.len() > MAX_WRAPPED_BYTES {
            let message = format!("key {key_name} wraps to {} bytes, which no envelope holds", wrapped.len());
            return Err(Error::new(Kind::Failed, key_name, message));
        }
        Ok(Envelope { provider: key.provider, key: key.record.name, version, wrapped })
    }

    /// Opens a group's envelope.
    ///
    /// # Errors
    /// As `wrap`; `Permission` too when it was wrapped by another key or for another group.
    pub fn unwrap(&self, envelope: &Envelope, group: &Uuid) -> Result<Secret> {
        let name = &envelope.key;
        let key = self.key(name)?;
        usable(&key)?;
        if key.provider != envelope.provider || key.version(envelope.version).is_none() {
            let message = format!(
                "the secret of group {group} is wrapped by version {} of key {name} ({}), which is not there",
                envelope.version,
                envelope.provider.word()
            );
            return Err(Error::new(Kind::Permission, name.clone(), message).hint("see plinth key show"));
        }
        let secret = self.provider(&key).unwrap(envelope.version, group, &envelope.wrapped);
        warn_if_unlocked();
        secret
    }

    /// Opens a group's envelope, and takes what is in it for the keys of a group.
    ///
    /// # Errors
    /// As `unwrap`; `Damage` for something else.
    pub fn open_group(&self, envelope: &Envelope, group: &Uuid) -> Result<GroupSecret> {
        decoded(self.unwrap(envelope, group)?, envelope, group)
    }

    /// The record of a key.
    pub(crate) fn key(&self, name: &str) -> Result<Versioned<KeyRecord>> {
        self.store.get(&key_key(name))?.ok_or_else(|| {
            Error::new(Kind::NotFound, name, format!("there is no key {name}")).hint("see plinth key list")
        })
    }

    /// Who keeps a key.
    pub(crate) fn provider<'a>(&'a self, key: &'a KeyRecord) -> Box<dyn Provider + 'a> {
        crate::waits::here("who keeps a key");
        let name = &key.name;
        match key.provider {
            ProviderKind::File => Box::new(local::Local::new(name, file::Files::new(&self.folder, name))),
            ProviderKind::Keyring => Box::new(local::Local::new(name, keyring::Keyring::new(name))),
            ProviderKind::Passphrase => {
                Box::new(local::Local::new(name, passphrase::Held::new(&self.unlocked, key)))
            }
            ProviderKind::Transit => Box::new(transit::Transit::new(key)),
        }
    }

    /// The keys that passphrases have unlocked.
    pub(crate) fn unlocked(&self) -> &Unlocked {
        &self.unlocked
    }

    /// The highest version of a key of this name that a file or keyring has, though the catalogue does not know it.
    pub(crate) fn left_over(&self, provider: ProviderKind, name: &str) -> Result<Option<u32>> {
        match provider {
            ProviderKind::File => file::Files::new(&self.folder, name).highest(),
            ProviderKind::Keyring | ProviderKind::Passphrase | ProviderKind::Transit => Ok(None),
        }
    }
}

fn decoded(secret: Secret, envelope: &Envelope, group: &Uuid) -> Result<GroupSecret> {
    GroupSecret::decode(secret).map_err(|bad| {
        let message = format!("what key {} wraps for group {group} is no secret of one: {bad}", envelope.key);
        Error::new(Kind::Damage, envelope.key.clone(), message)
    })
}

/// The newest envelope that can be read, and its number; `None` if there is none, or the newest was destroyed.
pub fn newest_envelope(envelopes: &[StoredEnvelope]) -> Option<(Envelope, u32)> {
    let newest = envelopes.iter().take_while(|envelope| !envelope.is_destroyed());
    newest.filter_map(|stored| Some((Envelope::decode(&stored.bytes[..]).ok()?, stored.written))).next()
}

/// Opens a group's envelope without a catalogue: with a file in this folder, or the kernel's keyring.
///
/// # Errors
/// `NotSupported` of other providers, which need what the catalogue has; else as `Keys::unwrap` and `open_group`.
pub fn open_offline(folder: &Path, envelope: &Envelope, group: &Uuid) -> Result<GroupSecret> {
    let (name, version) = (envelope.key.as_str(), envelope.version);
    let secret = match envelope.provider {
        ProviderKind::File => {
            local::Local::new(name, file::Files::new(folder, name)).unwrap(version, group, &envelope.wrapped)
        }
        ProviderKind::Keyring => {
            local::Local::new(name, keyring::Keyring::new(name)).unwrap(version, group, &envelope.wrapped)
        }
        ProviderKind::Passphrase | ProviderKind::Transit => {
            let provider = envelope.provider.word();
            let message = format!("key {name} of provider {provider} opens nothing without its agent");
            Err(Error::new(Kind::NotSupported, name, message))
        }
    }?;
    decoded(secret, envelope, group)
}

fn not_made(name: &str) -> String {
    format!("key {name} is not complete")
}

/// Refuses a key that is not there yet or no more.
pub(crate) fn usable(key: &KeyRecord) -> Result<()> {
    let name = key.name.clone();
    match key.life {
        KeyLife::Ready | KeyLife::Rotating => Ok(()),
        KeyLife::Creating => Err(Error::new(Kind::Busy, name.clone(), not_made(&name))
            .hint("repeat plinth key create, or remove it with plinth key destroy")),
        KeyLife::Destroying | KeyLife::Destroyed => {
            Err(Error::new(Kind::Permission, name.clone(), format!("key {name} was destroyed")))
        }
    }
}

/// Says in the log, once, that secrets may be swapped out.
pub(crate) fn warn_if_unlocked() {
    if let Some(unlocked) = ublk_target::secrets::take_unlocked() {
        tracing::warn!("{unlocked}; raise the limit on locked memory (ulimit -l)");
    }
}
