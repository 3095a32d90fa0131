//! Wrapping with a key that is handed over: by a file, the kernel, or whoever knew the passphrase.
use super::seal::{open, seal};
use super::{PURPOSE, Provider, Secret};
use crate::error::{Error, Kind, Result};
use base::Uuid;

/// Where a key lies.
pub(crate) trait Source {
    /// Sees to it that a version is there.
    fn make(&self, version: u32) -> Result<()>;
    /// Fetches a version.
    fn load(&self, version: u32) -> Result<Secret>;
    /// Forgets a version.
    fn forget(&self, version: u32) -> Result<()>;
}

/// A provider that wraps here.
pub(crate) struct Local<'a, S> {
    name: &'a str,
    source: S,
}

impl<'a, S: Source> Local<'a, S> {
    pub fn new(name: &'a str, source: S) -> Self {
        Self { name, source }
    }
}

impl<S: Source> Provider for Local<'_, S> {
    fn make(&self, version: u32) -> Result<()> {
        self.source.make(version)
    }

    fn wrap(&self, version: u32, group: &Uuid, secret: &Secret) -> Result<Vec<u8>> {
        seal(&self.source.load(version)?, PURPOSE, &group.0, secret)
    }

    fn unwrap(&self, version: u32, group: &Uuid, wrapped: &[u8]) -> Result<Secret> {
        let key = self.source.load(version)?;
        open(&key, PURPOSE, &group.0, wrapped).ok_or_else(|| does_not_open(self.name, version, group))
    }

    fn forget(&self, version: u32) -> Result<()> {
        self.source.forget(version)
    }

    fn obstacle(&self, version: u32) -> Option<Error> {
        self.source.load(version).err()
    }
}

/// The sentence for what a key does not open.
pub(crate) fn does_not_open(name: &str, version: u32, group: &Uuid) -> Error {
    let message = format!(
        "key {name} (version {version}) does not open the secret of group {group}: it is another key, or the secret is \
         another group's or damaged"
    );
    Error::new(Kind::Permission, name, message).hint("put the right key back")
}
