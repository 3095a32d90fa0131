//! Doors to readers of what others say, for those who try them with what nobody should say (`tools/fuzz`).
//! Nothing of the running system goes through here.
use crate::catalogue::{KeyRecord, TransitPlace};
use crate::error::{Error, Kind, Result};
use crate::keys::transit::{Transit, check_place, http};
use crate::keys::{Provider, Secret, Unlocked};
use crate::target::locked;
use base::Uuid;
use std::net::{Ipv4Addr, SocketAddr};
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, NextTimeout};

/// Whether what the kernel says of an open file (fdinfo) tells of a lock of this byte.
pub fn tells_lock(text: &[u8], byte: &str) -> bool {
    locked::tells_lock(text, byte)
}

/// Whether this is a URL of a transit engine.
///
/// # Errors
/// `Invalid`.
pub fn transit_url(url: &str) -> Result<()> {
    http::check_url("k", url)
}

/// Whether this can be a transit engine, its token and certificates read.
///
/// # Errors
/// `Invalid`, `Permission`, `NotFound`.
pub fn transit_place(place: &TransitPlace) -> Result<()> {
    check_place("k", place)
}

/// The token of a transit engine, out of its file.
///
/// # Errors
/// `Permission`, `NotFound`.
pub fn transit_token(place: &TransitPlace) -> Result<Secret> {
    http::token(place)
}

/// Whether this passphrase unlocks a key; nothing stays unlocked.
///
/// # Errors
/// The record is damaged, or has no version.
pub fn unlocks(key: &KeyRecord, passphrase: &Secret) -> Result<bool> {
    Unlocked::default().unlock(key, passphrase)
}

/// A key on a transit engine to which a connector makes the connections.
pub struct Engine<'a>(Transit<'a>);

impl<'a> Engine<'a> {
    /// The key of a record, over these connections. Its server's name is not looked up.
    ///
    /// # Errors
    /// The record has no place; those of the file of certificates.
    pub fn over(key: &'a KeyRecord, connector: impl Connector) -> Result<Self> {
        let place = key.transit.as_ref();
        let place = place.ok_or_else(|| Error::general(Kind::Damage, "the key is on no server"))?;
        let way = ureq::Agent::with_parts(http::config(place)?, connector, Nowhere);
        Ok(Self(Transit::over(key, way)))
    }

    /// Makes a version.
    ///
    /// # Errors
    /// Whatever a server can do wrong.
    pub fn make(&self, version: u32) -> Result<()> {
        self.0.make(version)
    }

    /// Wraps a secret for a group.
    ///
    /// # Errors
    /// As `make`.
    pub fn wrap(&self, group: &Uuid, secret: &Secret) -> Result<Vec<u8>> {
        self.0.wrap(1, group, secret)
    }

    /// Opens a group's secret.
    ///
    /// # Errors
    /// As `make`; `Permission` when it is another group's.
    pub fn unwrap(&self, group: &Uuid, wrapped: &[u8]) -> Result<Secret> {
        self.0.unwrap(1, group, wrapped)
    }
}

/// One address for every name.
#[derive(Debug)]
struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(
        &self,
        _: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        Ok(addresses)
    }
}
