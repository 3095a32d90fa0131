//! `key create`, `rotate`, `lock`, `unlock`, `destroy`.
use super::{check_passphrase, new_version};
use crate::agent::Agent;
use crate::catalogue::keys::key_key;
use crate::catalogue::{KeyLife, KeyRecord, KeyVersion, SealedKey, Severity, TransitPlace, Versioned};
use crate::error::{Error, Kind, Result};
use crate::keys::{Kdf, ProviderKind, Secret, SecretText, check_place, locked};
use crate::params::{CreateKey, DestroyKey, RotateKey, UnlockKey};
use crate::{model, text};

/// Where a transit engine is mounted unless said otherwise.
const DEFAULT_MOUNT: &str = "transit";

impl CreateKey {
    /// A key in a file.
    pub fn file(name: &str) -> Self {
        let (name, provider) = (name.to_owned(), Some(ProviderKind::File));
        Self {
            name,
            provider,
            passphrase: None,
            url: None,
            mount: None,
            key: None,
            token_file: None,
            ca_file: None,
        }
    }

    fn provider(&self) -> ProviderKind {
        self.provider.unwrap_or(ProviderKind::File)
    }
}

impl Agent {
    /// `key create`. A name whose key was destroyed can be taken again when no group is left that it wrapped.
    ///
    /// # Errors
    /// `Invalid`, `Exists`; `Permission` and `Unreachable` of a provider. Nothing is changed then.
    pub fn create_key(&self, params: &CreateKey, dry: bool) -> Result<model::Key> {
        let name = &params.name;
        text::check_name("key", name)?;
        let place = transit_place(params)?;
        let passphrase = passphrase_of(params)?;
        let _verbs = self.key_verbs();
        let before = self.store.get::<KeyRecord>(&key_key(name))?;
        if let Some(mut key) = before.clone().filter(|key| key.life != KeyLife::Destroyed) {
            self.same_key(&key, params.provider(), place.as_ref(), passphrase, dry)?;
            if key.life == KeyLife::Creating && !dry {
                self.finish_create(&mut key)?;
            }
            return self.view_key(&key);
        }
        if before.is_some() && !self.groups_of_key(name)?.is_empty() {
            let message =
                format!("key {name} was destroyed, and volumes that it made unreadable are still there");
            return Err(Error::new(Kind::Exists, name.clone(), message)
                .hint("delete them first, or choose another name"));
        }
        if let Some(place) = &place {
            check_place(name, place)?;
        }
        let known = before.as_ref().map_or(0, |key| key.last_version);
        // What lies there without a record is of a catalogue that was lost: it opens what the drives still have.
        let found = self.keys.left_over(params.provider(), name)?.unwrap_or(0);
        let record = KeyRecord {
            name: name.clone(),
            provider: params.provider(),
            created_at: text::now(),
            life: KeyLife::Creating,
            versions: Vec::new(),
            last_version: found.max(known + 1),
            transit: place,
        };
        if dry {
            return self.view_key(&record);
        }
        self.begin_key(before, record, passphrase)
    }

    /// Announces a new key and finishes it; takes the announcement back when its provider refuses.
    fn begin_key(
        &self,
        before: Option<Versioned<KeyRecord>>,
        mut record: KeyRecord,
        passphrase: Option<&Secret>,
    ) -> Result<model::Key> {
        let (name, version) = (record.name.clone(), record.last_version);
        let mut made = None;
        if let Some(passphrase) = passphrase {
            let (sealed, key) = SealedKey::make(Kdf::here(), &name, version, passphrase, None)?;
            record.versions = vec![KeyVersion { sealed: Some(sealed), ..new_version(version) }];
            record.life = KeyLife::Ready;
            made = Some(key);
        }
        let txn = self.store.txn().expect(key_key(&name), before.as_ref().map_or(0, |key| key.version));
        let catalogued = txn.put(key_key(&name), &record).commit()?;
        let mut key = Versioned { version: catalogued, record };
        if let Some(made) = made {
            self.keys.unlocked().hold(&name, version, made);
            self.tell_created(&key);
            return self.view_key(&key);
        }
        if let Err(refused) = self.finish_create(&mut key) {
            let txn = self.store.txn();
            let undone = match before {
                Some(before) => txn.put(key_key(&name), &before.record).commit(),
                None => txn.delete(key_key(&name)).commit(),
            };
            return Err(undone.err().unwrap_or(refused));
        }
        self.view_key(&key)
    }

    /// Whether a repetition of `key create` asks for what there is.
    fn same_key(
        &self,
        key: &KeyRecord,
        provider: ProviderKind,
        place: Option<&TransitPlace>,
        passphrase: Option<&Secret>,
        dry: bool,
    ) -> Result<()> {
        let name = &key.name;
        let exists = |with: &str| {
            let message = format!("key {name} exists with {with}");
            Err(Error::new(Kind::Exists, name.clone(), message).hint("choose another name"))
        };
        if key.life == KeyLife::Destroying {
            let message = format!("key {name} is being destroyed");
            return Err(Error::new(Kind::Busy, name.clone(), message).hint("repeat plinth key destroy"));
        }
        if key.provider != provider {
            return exists(&format!("provider {}", key.provider.word()));
        }
        if key.transit.as_ref() != place {
            return exists("another place");
        }
        match passphrase {
            Some(passphrase) if !dry && !self.keys.unlocked().unlock(key, passphrase)? => {
                exists("another passphrase")
            }
            _ => Ok(()),
        }
    }

    /// `key rotate`: a new version, by which every group's secret is wrapped anew; then the old one is forgotten. One that
    /// was cut short is finished, and no other begun.
    ///
    /// # Errors
    /// `NotFound`; `Permission` when it is locked, gone or destroyed; `Unreachable`. A key whose provider refuses a new
    /// version stays as it was; one whose groups do not all go over stays `rotating`.
    pub fn rotate_key(&self, name: &str, params: &RotateKey, dry: bool) -> Result<model::Key> {
        let _verbs = self.key_verbs();
        let mut key = self.keys.key(name)?;
        let passphrase = params.passphrase.as_ref().map(|text| &text.0);
        match (key.provider == ProviderKind::Passphrase, passphrase) {
            (true, Some(passphrase)) => check_passphrase(name, passphrase)?,
            (true, None) => return Err(Error::invalid(name, format!("key {name} needs its new passphrase"))),
            (false, Some(_)) => return Err(no_passphrase(&key)),
            (false, None) => {}
        }
        let under_way = match key.life {
            KeyLife::Ready => false,
            KeyLife::Rotating => true,
            KeyLife::Creating | KeyLife::Destroying | KeyLife::Destroyed => {
                return Err(crate::keys::usable(&key).expect_err("neither ready nor rotating"));
            }
        };
        if dry {
            return self.view_key(&key);
        }
        match passphrase {
            Some(passphrase) if self.is_locked(&key) => {
                // A repetition for an agent that started anew: the passphrase tells how far the one before came.
                if !self.keys.unlocked().unlock(&key, passphrase)? {
                    return Err(if under_way { needs_new_passphrase(name) } else { locked(name) });
                }
                if !under_way {
                    return self.view_key(&key);
                }
            }
            Some(passphrase) if !under_way => self.begin_rotate_passphrase(&mut key, passphrase)?,
            Some(_) => {}
            None if !under_way => self.begin_rotate(&mut key)?,
            None => {}
        }
        self.finish_rotate(&mut key)?;
        self.view_key(&key)
    }

    /// Announces a rotation and has the provider make the version; takes it back when that refuses.
    fn begin_rotate(&self, key: &mut Versioned<KeyRecord>) -> Result<()> {
        let newest = key.newest().map_or(0, |version| version.version);
        if let Some(obstacle) = self.keys.provider(key).obstacle(newest) {
            return Err(obstacle);
        }
        key.last_version += 1;
        key.life = KeyLife::Rotating;
        self.update_key(key)?;
        let version = key.last_version;
        let made = self.keys.provider(key).make(version);
        if made.is_err() {
            key.life = KeyLife::Ready;
            self.update_key(key)?;
            return made;
        }
        key.versions.push(new_version(version));
        self.update_key(key)
    }

    pub(super) fn begin_rotate_passphrase(
        &self,
        key: &mut Versioned<KeyRecord>,
        passphrase: &Secret,
    ) -> Result<()> {
        let name = key.name.clone();
        let before = key.newest().map_or(0, |version| version.version);
        let held = self.keys.unlocked().get(&name, before).ok_or_else(|| locked(&name))?;
        let version = key.last_version + 1;
        let (sealed, made) = SealedKey::make(Kdf::here(), &name, version, passphrase, Some((before, &held)))?;
        key.versions.push(KeyVersion { sealed: Some(sealed), ..new_version(version) });
        (key.last_version, key.life) = (version, KeyLife::Rotating);
        self.update_key(key)?;
        self.keys.unlocked().hold(&name, version, made);
        Ok(())
    }

    /// `key lock`: forgets what a passphrase unlocked. Volumes that are served go on; none that needs it can be attached.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a key of another provider.
    pub fn lock_key(&self, name: &str, dry: bool) -> Result<model::Key> {
        let _verbs = self.key_verbs();
        let key = self.keys.key(name)?;
        if key.provider != ProviderKind::Passphrase {
            return Err(no_passphrase(&key));
        }
        if !dry {
            self.keys.unlocked().lock(name);
        }
        self.view_key(&key)
    }

    /// `key unlock`. Finishes a rotation that waits for it.
    ///
    /// # Errors
    /// `NotFound`; `Permission` for a wrong passphrase; `Invalid` for a key of another provider.
    pub fn unlock_key(&self, name: &str, params: &UnlockKey, dry: bool) -> Result<model::Key> {
        let _verbs = self.key_verbs();
        let mut key = self.keys.key(name)?;
        if key.provider != ProviderKind::Passphrase {
            return Err(no_passphrase(&key));
        }
        check_passphrase(name, &params.passphrase.0)?;
        crate::keys::usable(&key)?;
        if dry {
            return self.view_key(&key);
        }
        let rotating = key.life == KeyLife::Rotating;
        if !self.keys.unlocked().unlock(&key, &params.passphrase.0)? {
            let wrong =
                || Error::new(Kind::Permission, name, format!("this is not the passphrase of key {name}"));
            return Err(if rotating { needs_new_passphrase(name) } else { wrong() });
        }
        if rotating && let Err(error) = self.finish_rotate(&mut key) {
            let message = format!("the rotation of key {name} could not be finished: {error}");
            self.events.record(Severity::Warning, "verb_unfinished", name, &message);
        }
        // Targets that could not be started without it.
        for volume in self.volumes_of_groups(&self.groups_of_key(name)?)? {
            self.supervisor.hurry(&volume.name);
        }
        self.tending.forgive();
        self.view_key(&key)
    }

    /// `key destroy`: for ever. Every group whose secret it wraps is unreadable from then on; a volume that is served goes
    /// on until it is detached.
    ///
    /// # Errors
    /// `NotFound`; `Refused` while volumes that need it are attached, without `force`.
    pub fn destroy_key(&self, name: &str, params: DestroyKey) -> Result<model::Key> {
        let _verbs = self.key_verbs();
        let mut key = self.keys.key(name)?;
        if key.life == KeyLife::Destroyed {
            return self.view_key(&key);
        }
        {
            let _space = self.lock();
            let volumes = self.volumes_of_groups(&self.groups_of_key(name)?)?;
            let attached = volumes.iter().filter(|volume| volume.attachment.is_some());
            let attached: Vec<&str> = attached.map(|volume| volume.name.as_str()).collect();
            if !attached.is_empty() && !params.force && key.life != KeyLife::Destroying {
                let message = format!("key {name} is needed by what is attached: {}", attached.join(", "));
                return Err(Error::new(Kind::Refused, name, message).hint(
                    "detach first, or --force: they go on until they are detached, and never open again",
                ));
            }
            if !params.dry_run {
                key.life = KeyLife::Destroying;
                self.update_key(&mut key)?;
            }
        }
        if params.dry_run {
            return self.view_key(&key);
        }
        self.finish_destroy(&mut key)?;
        self.view_key(&key)
    }
}

fn no_passphrase(key: &KeyRecord) -> Error {
    let message = format!("key {} has no passphrase: its provider is {}", key.name, key.provider.word());
    Error::invalid(key.name.clone(), message)
}

fn needs_new_passphrase(name: &str) -> Error {
    let message = format!("this is not the new passphrase of key {name}, which is being rotated");
    Error::new(Kind::Permission, name, message).hint("give the passphrase that the rotation was to set")
}

/// The passphrase of a new key.
fn passphrase_of(params: &CreateKey) -> Result<Option<&Secret>> {
    let name = params.name.as_str();
    let given = params.passphrase.as_ref().map(|SecretText(secret)| secret);
    match (params.provider(), given) {
        (ProviderKind::Passphrase, None) => {
            Err(Error::invalid(name, format!("key {name} of provider passphrase needs one")))
        }
        (ProviderKind::Passphrase, Some(passphrase)) => {
            check_passphrase(name, passphrase)?;
            Ok(given)
        }
        (_, Some(_)) => Err(Error::invalid(name, "only a key of provider passphrase has one")),
        (_, None) => Ok(None),
    }
}

/// Where a new key of a transit engine is.
fn transit_place(params: &CreateKey) -> Result<Option<TransitPlace>> {
    let name = params.name.as_str();
    if params.provider() != ProviderKind::Transit {
        let given = [
            ("url", params.url.is_some()),
            ("mount", params.mount.is_some()),
            ("key", params.key.is_some()),
            ("token-file", params.token_file.is_some()),
            ("ca-file", params.ca_file.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            let message = format!("--{flag} is for keys of provider transit");
            return Err(Error::invalid(name, message).hint("add --provider transit, or leave it away"));
        }
        return Ok(None);
    }
    let missing = |flag: &str| Error::invalid(name, format!("a key of provider transit needs --{flag}"));
    Ok(Some(TransitPlace {
        url: params.url.clone().ok_or_else(|| missing("url"))?,
        mount: params.mount.clone().unwrap_or_else(|| DEFAULT_MOUNT.to_owned()),
        key: params.key.clone().unwrap_or_else(|| params.name.clone()),
        token_file: params.token_file.clone().ok_or_else(|| missing("token-file"))?,
        ca_file: params.ca_file.clone(),
    }))
}
