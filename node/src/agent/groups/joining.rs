//! What a new volume may ask of the group that it is to be in, and what it gets from it.
//!
//! Whether a group is encrypted, and by which key, was decided when it was made: its volume asks for the same or for
//! nothing. A repetition of `volume create` asks the same of a group that has the volume by now, which is why both
//! sorts of record say what was decided (`made_group`).
use crate::agent::{Agent, DEFAULT_KEY};
use crate::catalogue::{EmptyGroupRecord, GroupEncryption, GroupRecord, records};
use crate::error::{Error, Kind, Result};
use crate::keys::usable;
use crate::params::CreateVolume;

impl Agent {
    /// What was decided about a group that `group create` made, whether it has a volume or not.
    pub(in crate::agent) fn made_group(&self, name: &str) -> Result<Option<EmptyGroupRecord>> {
        if let Some(empty) = self.empty_group(name)? {
            return Ok(Some(empty.record));
        }
        let group = self.store.get::<GroupRecord>(&records::group_key(name))?;
        Ok(group.and_then(|group| group.emptied()))
    }

    /// The same of the group that a volume is to be in, if one is named.
    pub(in crate::agent) fn asked_group(&self, params: &CreateVolume) -> Result<Option<EmptyGroupRecord>> {
        params.group.as_deref().map_or(Ok(None), |name| self.made_group(name))
    }

    /// Refuses a group whose key cannot wrap.
    ///
    /// # Errors
    /// `NotFound`, `Permission`, `Busy`: the key's, with what that means for the group.
    pub(in crate::agent) fn check_group_key(&self, group: &EmptyGroupRecord) -> Result<()> {
        let Some(key) = &group.key else { return Ok(()) };
        self.keys.key(key).and_then(|record| usable(&record)).map_err(|error| {
            let message = format!("no volume can be made in group {}: {}", group.name, error.message);
            let anew = format!(
                "plinth key create {key} makes it anew, plinth group delete {} lets it go",
                group.name
            );
            Error::new(error.kind, group.name.clone(), message).hint(error.hint.unwrap_or(anew))
        })
    }
}

/// The key that a request to create asks for; `None` for something that is not encrypted.
///
/// # Errors
/// `Invalid`: a key for what is not to be encrypted.
pub(in crate::agent) fn asked_key<'a>(
    what: &str,
    name: &str,
    encrypt: bool,
    kek: Option<&'a str>,
) -> Result<Option<&'a str>> {
    match (encrypt, kek) {
        (true, kek) => Ok(Some(kek.unwrap_or(DEFAULT_KEY))),
        (false, None) => Ok(None),
        (false, Some(key)) => {
            let message = format!("key {key} is for an encrypted {what}, and {name} is not to be one");
            Err(Error::invalid(name, message).hint("add --encrypt, or leave --kek away"))
        }
    }
}

/// The key by which a new volume is encrypted: its group's, if that was made before it.
///
/// # Errors
/// `Invalid` if it asks for something else than the group has.
pub(in crate::agent) fn volume_key(
    params: &CreateVolume,
    group: Option<&EmptyGroupRecord>,
) -> Result<Option<String>> {
    let kek = params.kek.as_deref();
    let Some(group) = group else {
        return Ok(asked_key("volume", &params.name, params.encrypt, kek)?.map(str::to_owned));
    };
    let refuse = |message: String, hint: &str| Err(Error::invalid(&params.name, message).hint(hint));
    match (group.key.as_deref(), kek) {
        (None, _) if params.encrypt || kek.is_some() => refuse(
            format!("group {} is not encrypted, so volume {} cannot be", group.name, params.name),
            "that is decided when a group is made; leave --encrypt and --kek away, or choose another group",
        ),
        (Some(key), Some(other)) if key != other => refuse(
            format!("group {} is encrypted by key {key}, and not by {other}", group.name),
            "leave --kek away, or choose another group",
        ),
        (key, _) => Ok(key.map(str::to_owned)),
    }
}

/// Refuses a volume that is not meant for a group without a volume, or lies elsewhere.
///
/// # Errors
/// `Exists`: the group is not asked for. `Invalid`: it is of another pool.
pub(in crate::agent) fn check_joins(params: &CreateVolume, group: &EmptyGroupRecord) -> Result<()> {
    let (volume, name) = (&params.name, &group.name);
    if params.group.is_none() {
        let message =
            format!("there is a group {name} already, so volume {volume} cannot have one of its own");
        return Err(Error::new(Kind::Exists, name.clone(), message)
            .hint(format!("--group {name} makes the volume in it; or choose another name")));
    }
    if group.pool != params.pool {
        let message = format!(
            "group {name} is in pool {}, and volume {volume} is to be in pool {}",
            group.pool, params.pool
        );
        return Err(Error::invalid(volume, message)
            .hint(format!("say --pool {}, or choose another group", group.pool)));
    }
    Ok(())
}

/// Of a group whose secret is not wrapped yet.
pub(in crate::agent) fn planned_encryption(key: &str) -> GroupEncryption {
    GroupEncryption::new(key.to_owned(), None, 0)
}
