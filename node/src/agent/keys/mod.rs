//! Keys of groups, as the agent keeps them: which groups a key wraps, and how groups go over to another version.
//!
//! | verb | step | in the catalogue | killed behind it |
//! |---|---|---|---|
//! | create | announced | `creating` | the start or the repetition goes on |
//! | | the provider has version 1 | | the same: one that is there stays |
//! | | done | `ready`, version 1 | |
//! | rotate | announced | `rotating`, its number taken | the start or the repetition goes on |
//! | | the provider has the new version | | the same |
//! | | it wraps from now on | both versions | the same |
//! | | each group goes over | its envelope | the rest goes over |
//! | | the drives of each group have it too | | those that lack it get it |
//! | | the provider forgets the old version | | it is forgotten again |
//! | | done | `ready`, the new version | |
//! | destroy | announced: it neither wraps nor unwraps | `destroying` | the start or the repetition goes on |
//! | | the provider forgets it, every group its envelope | | the same |
//! | | done | `destroyed` | |
//!
//! A drive of a group that counts and is missing keeps the envelope before. Should the catalogue and the other drives be
//! lost, that is all that opens the group; so the old version stays, and with it both open, until the drive is there again
//! or given up, and somebody repeats the rotation.
//!
//! A passphrase's key comes with its record, in one transaction; what a start cannot finish without the passphrase is
//! finished by `key unlock` or the repetition of `key rotate`.
//!
//! Why no group is left behind: whoever makes a group wraps its secret and creates its record under the verbs' lock, and
//! a rotation or destruction takes that lock for its last look at the groups.
#[cfg(test)]
mod tests;
mod verbs;
mod view;

use super::Agent;
use crate::catalogue::keys::key_key;
use crate::catalogue::{
    EmptyGroupRecord, GroupEncryption, GroupRecord, KeyLife, KeyRecord, KeyVersion, Severity, Versioned,
    VolumeRecord, records,
};
use crate::error::{Error, Kind, Result};
use crate::keys::{GroupSecret, ProviderKind, Secret};
use crate::params::CreateKey;
use crate::text;
use std::sync::MutexGuard;

/// Name of the key that is made on first use.
pub const DEFAULT_KEY: &str = "default";
/// How often a group is looked at again when somebody else changed its record meanwhile.
const MAX_TRIES: usize = 100;
/// How often all groups are looked at again in a rotation, because new ones may have come.
const MAX_ROUNDS: usize = 100;

impl Agent {
    /// Makes the secret of a new group (a data key and a metadata key, 32 random bytes each) and wraps it. To be called
    /// under the verbs' lock, which the caller keeps until the group's record is committed: otherwise a rotation could
    /// end in between, and with it the version that wrapped.
    ///
    /// # Errors
    /// As `Keys::wrap`; nothing is changed.
    pub fn new_group_keys(&self, group_id: &base::Uuid, key_name: &str) -> Result<GroupEncryption> {
        let secret = GroupSecret::random()?;
        let envelope = self.keys.wrap(key_name, group_id, secret.secret())?;
        Ok(GroupEncryption::new(key_name.to_owned(), Some(envelope), 1))
    }

    /// The key of who names none; made by the file provider on first use. To be called before the verbs' lock is taken.
    ///
    /// # Errors
    /// `Permission` when it was destroyed; those of `create_key`.
    pub fn default_key(&self) -> Result<String> {
        if let Some(key) = self.store.get::<KeyRecord>(&key_key(DEFAULT_KEY))? {
            return match key.life {
                KeyLife::Destroying | KeyLife::Destroyed => {
                    let message = format!("key {DEFAULT_KEY} was destroyed");
                    Err(Error::new(Kind::Permission, DEFAULT_KEY, message)
                        .hint("name another one with --kek, or make it anew with plinth key create default"))
                }
                KeyLife::Creating => {
                    self.create_key(&CreateKey::file(DEFAULT_KEY), false).map(|key| key.name)
                }
                KeyLife::Ready | KeyLife::Rotating => Ok(DEFAULT_KEY.to_owned()),
            };
        }
        self.create_key(&CreateKey::file(DEFAULT_KEY), false)?;
        let message = format!(
            "key {DEFAULT_KEY} was made in {}: it protects drives that leave this machine, not this machine; keep a copy \
             of it elsewhere, for without it its volumes cannot be read",
            self.options.keys().display()
        );
        self.events.record(Severity::Warning, "default_key_made", DEFAULT_KEY, &message);
        Ok(DEFAULT_KEY.to_owned())
    }

    /// Stores a group's changed envelope in the catalogue. Its drives get it under the verbs' lock (`settle_envelope`): of
    /// a rotation before the version goes that wrapped the one before.
    ///
    /// # Errors
    /// `Busy` when somebody else changed the group's record: nothing is changed then, and the caller looks again.
    pub fn store_envelope(&self, group: &mut Versioned<GroupRecord>) -> Result<()> {
        let key = records::group_key(&group.name);
        group.version = self.store.txn().update(key, group).commit()?;
        Ok(())
    }

    /// Takes the lock of verbs of keys.
    pub(super) fn key_verbs(&self) -> MutexGuard<'_, ()> {
        // A verb that panicked left records that its repetition finishes.
        self.key_verbs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The groups that a key wraps, or wrapped.
    fn groups_of_key(&self, name: &str) -> Result<Vec<Versioned<GroupRecord>>> {
        let groups: Vec<Versioned<GroupRecord>> = self.store.list("groups/")?;
        let of = |group: &Versioned<GroupRecord>| group.encryption.as_ref().is_some_and(|by| by.key == name);
        Ok(groups.into_iter().filter(of).collect())
    }

    /// Names of the groups without a volume whose secrets a key is to wrap.
    fn empty_groups_of_key(&self, name: &str) -> Result<Vec<String>> {
        let of = |empty: &Versioned<EmptyGroupRecord>| empty.key.as_deref() == Some(name);
        Ok(self.empty_groups()?.into_iter().filter(of).map(|empty| empty.record.name).collect())
    }

    /// The volumes of groups.
    fn volumes_of_groups(&self, groups: &[Versioned<GroupRecord>]) -> Result<Vec<VolumeRecord>> {
        let volumes: Vec<Versioned<VolumeRecord>> = self.store.list("volumes/")?;
        let of = |volume: &VolumeRecord| groups.iter().any(|group| group.name == volume.group);
        Ok(volumes.into_iter().map(|volume| volume.record).filter(of).collect())
    }

    fn update_key(&self, key: &mut Versioned<KeyRecord>) -> Result<()> {
        key.version = self.store.txn().update(key_key(&key.name), key).commit()?;
        Ok(())
    }

    /// Goes on with a creation that was announced.
    fn finish_create(&self, key: &mut Versioned<KeyRecord>) -> Result<()> {
        let version = key.last_version;
        self.keys.provider(key).make(version)?;
        key.versions = vec![new_version(version)];
        key.life = KeyLife::Ready;
        self.update_key(key)?;
        self.tell_created(key);
        Ok(())
    }

    fn tell_created(&self, key: &KeyRecord) {
        let message = format!("key {} of provider {} was created", key.name, key.provider.word());
        self.events.record(Severity::Info, "key_create", &key.name, &message);
    }

    /// Goes on with a rotation that was announced.
    fn finish_rotate(&self, key: &mut Versioned<KeyRecord>) -> Result<()> {
        let newest = key.last_version;
        if key.record.version(newest).is_none() {
            self.keys.provider(key).make(newest)?;
            key.versions.push(new_version(newest));
            self.update_key(key)?;
        }
        for _ in 0..MAX_ROUNDS {
            for group in self.groups_of_key(&key.name)? {
                self.rewrap(&group.name, &key.name, newest)?;
            }
            // Nobody wraps by an old version from here on: see `new_group_keys`.
            let mut verb = self.lock();
            let behind = |group: &Versioned<GroupRecord>| {
                let envelope = group.encryption.as_ref().and_then(|by| by.envelope.as_ref());
                envelope.is_some_and(|envelope| envelope.version != newest)
            };
            if !self.groups_of_key(&key.name)?.iter().any(behind) {
                return verb.aside(|| self.end_rotate(key));
            }
        }
        let message = format!("groups come faster than they go over to the new version of key {}", key.name);
        Err(Error::new(Kind::Busy, key.name.clone(), message).hint("repeat it"))
    }

    /// The old versions go, when nobody needs them any more. The caller is a verb, and aside.
    fn end_rotate(&self, key: &mut Versioned<KeyRecord>) -> Result<()> {
        let newest = key.last_version;
        let mut missing = Vec::new();
        for group in self.groups_of_key(&key.name)? {
            missing.extend(self.settle_envelope(&group)?);
        }
        if !missing.is_empty() {
            return Err(waits_for(key, missing));
        }
        for old in key.versions.iter().filter(|version| version.version != newest) {
            self.keys.provider(key).forget(old.version)?;
        }
        key.versions.retain(|version| version.version == newest);
        for version in &mut key.record.versions {
            version.sealed = version.sealed.take().map(|sealed| sealed.without_before());
        }
        key.life = KeyLife::Ready;
        self.update_key(key)?;
        let message = format!("key {} has version {newest} now", key.name);
        self.events.record(Severity::Info, "key_rotate", &key.name, &message);
        Ok(())
    }

    /// Wraps a group's secret by the newest version, unless that is done or the group is gone.
    fn rewrap(&self, group: &str, key: &str, newest: u32) -> Result<()> {
        for _ in 0..MAX_TRIES {
            let Some(mut group) = self.store.get::<GroupRecord>(&records::group_key(group))? else {
                return Ok(());
            };
            let id = super::parse_id(&group.id)?;
            let Some(by) = group.record.encryption.as_mut().filter(|by| by.key == key) else { return Ok(()) };
            let Some(envelope) = by.envelope.as_ref().filter(|envelope| envelope.version != newest) else {
                return Ok(());
            };
            let secret = self.keys.unwrap(envelope, &id)?;
            let fresh = self.keys.wrap(key, &id, &secret)?;
            // The old version goes on the strength of this.
            if !self.keys.unwrap(&fresh, &id)?.same(secret.expose()) {
                let message = format!("key {key} does not give back the secret of group {}", group.name);
                return Err(Error::new(Kind::Failed, key, message));
            }
            by.envelope = Some(fresh);
            by.envelope_written += 1;
            match self.store_envelope(&mut group) {
                Err(error) if error.kind == Kind::Busy => {}
                outcome => return outcome,
            }
        }
        let message = format!("the record of group {group} changes all the time");
        Err(Error::new(Kind::Busy, group, message).hint("repeat it"))
    }

    /// Goes on with a destruction that was announced.
    fn finish_destroy(&self, key: &mut Versioned<KeyRecord>) -> Result<()> {
        let numbers: Vec<u32> = key.versions.iter().map(|version| version.version).collect();
        for version in numbers.into_iter().chain([key.last_version]) {
            self.keys.provider(key).forget(version)?;
        }
        self.keys.unlocked().lock(&key.name);
        let mut verb = self.lock();
        let groups = self.groups_of_key(&key.name)?;
        let volumes = self.volumes_of_groups(&groups)?;
        for group in groups {
            // What serves it may have changed its record since.
            let mut group = self.group(&group.name)?;
            let Some(by) = group.record.encryption.as_mut().filter(|by| by.envelope.is_some()) else {
                continue;
            };
            by.envelope = None;
            by.envelope_written += 1;
            self.store_envelope(&mut group)?;
            // What cannot be reached has an envelope that nothing opens any more.
            if let Err(error) = verb.aside(|| self.settle_envelope(&group)) {
                tracing::warn!("drives of group {} keep an envelope without a key: {error}", group.name);
            }
        }
        key.versions.clear();
        key.life = KeyLife::Destroyed;
        self.update_key(key)?;
        let names: Vec<String> = volumes.into_iter().map(|volume| volume.name).collect();
        let mut message = match names.as_slice() {
            [] => format!("key {} was destroyed; no volume needed it", key.name),
            names => {
                format!("key {} was destroyed; nobody can read any more: {}", key.name, names.join(", "))
            }
        };
        let empty = self.empty_groups_of_key(&key.name)?;
        if !empty.is_empty() {
            message += &format!("; no volume can be made any more in: {}", empty.join(", "));
        }
        self.events.record(Severity::Warning, "key_destroy", &key.name, &message);
        Ok(())
    }

    /// Goes on with what the last agent did not finish. What does not work now is told, and tried again by the
    /// repetition or the next start.
    pub(super) fn finish_keys(&self) {
        let _verbs = self.key_verbs();
        let keys = self.store.list::<KeyRecord>("keys/").unwrap_or_default();
        for mut key in keys {
            let (what, outcome) = match key.life {
                KeyLife::Creating => ("creation", self.finish_create(&mut key)),
                KeyLife::Rotating if self.is_locked(&key) => continue,
                KeyLife::Rotating => ("rotation", self.finish_rotate(&mut key)),
                KeyLife::Destroying => ("destruction", self.finish_destroy(&mut key)),
                KeyLife::Ready | KeyLife::Destroyed => continue,
            };
            if let Err(error) = outcome {
                let message = format!("the {what} of key {} could not be finished: {error}", key.name);
                self.events.record(Severity::Warning, "verb_unfinished", &key.name, &message);
            }
        }
    }

    /// Whether nothing can be done before somebody gives the passphrase.
    fn is_locked(&self, key: &KeyRecord) -> bool {
        let held = |version: &KeyVersion| self.keys.unlocked().get(&key.name, version.version).is_some();
        key.provider == ProviderKind::Passphrase && !key.versions.iter().all(held)
    }
}

/// Why the version before stays.
fn waits_for(key: &KeyRecord, mut missing: Vec<String>) -> Error {
    missing.sort();
    missing.dedup();
    let (name, newest) = (&key.name, key.last_version);
    let message = format!(
        "key {name} has version {newest} now, and the versions before it stay: what they wrapped is still on what is \
         missing: {}",
        missing.join(", ")
    );
    Error::new(Kind::Refused, name.clone(), message).hint(format!(
        "bring it back, or give it up with plinth drive fail; then repeat plinth key rotate {name}"
    ))
}

fn new_version(version: u32) -> KeyVersion {
    KeyVersion { version, created_at: text::now(), sealed: None }
}

/// A passphrase as it was given.
pub(super) fn check_passphrase(name: &str, passphrase: &Secret) -> Result<()> {
    let most = crate::keys::MAX_PASSPHRASE_BYTES;
    if passphrase.is_empty() || passphrase.len() > most {
        return Err(Error::invalid(name, format!("a passphrase has 1 to {most} bytes")));
    }
    Ok(())
}
