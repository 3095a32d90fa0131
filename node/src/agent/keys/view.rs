//! What is shown of keys.
use crate::agent::Agent;
use crate::catalogue::{KeyLife, KeyRecord, TransitPlace};
use crate::error::{Error, Kind, Result};
use crate::model::{Key, KeyPlace, KeyState};

impl Agent {
    /// `key list`: destroyed ones too, for groups may still name them.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn list_keys(&self) -> Result<Vec<Key>> {
        let keys = self.store.list::<KeyRecord>("keys/")?;
        keys.iter().map(|key| self.view_key(key)).collect()
    }

    /// `key show`.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub fn show_key(&self, name: &str) -> Result<Key> {
        self.view_key(&self.keys.key(name)?.record)
    }

    /// A key as it stands; asks no server.
    pub(super) fn view_key(&self, key: &KeyRecord) -> Result<Key> {
        let groups = self.groups_of_key(&key.name)?;
        let volumes = self.volumes_of_groups(&groups)?;
        let newest = key.newest().map(|version| version.version);
        let obstacle = self.obstacle(key, newest);
        let state = match (key.life, &obstacle) {
            (KeyLife::Destroying | KeyLife::Destroyed, _) => KeyState::Destroyed,
            (KeyLife::Rotating, _) => KeyState::Rotating,
            (KeyLife::Ready, None) => KeyState::Ready,
            (KeyLife::Ready, Some(_)) | (KeyLife::Creating, _) => KeyState::Locked,
        };
        let (status, action) = obstacle.map_or((None, None), |error| (Some(error.message), error.hint));
        Ok(Key {
            name: key.name.clone(),
            provider: key.provider,
            state,
            version: newest,
            created_at: key.created_at.clone(),
            groups: groups.into_iter().map(|group| group.record.name).collect(),
            volumes: volumes.into_iter().map(|volume| volume.name).collect(),
            empty_groups: self.empty_groups_of_key(&key.name)?,
            transit: key.transit.as_ref().map(place),
            status,
            action,
        })
    }

    /// Why a key is not usable, or not as it should be.
    fn obstacle(&self, key: &KeyRecord, newest: Option<u32>) -> Option<Error> {
        let name = &key.name;
        match key.life {
            KeyLife::Ready => newest.and_then(|newest| self.keys.provider(key).obstacle(newest)),
            KeyLife::Creating | KeyLife::Destroyed => crate::keys::usable(key).err(),
            KeyLife::Rotating => {
                let message = format!("the rotation of key {name} is not finished");
                let hint = if self.is_locked(key) {
                    format!("plinth key unlock {name} with its new passphrase finishes it")
                } else {
                    format!("plinth key rotate {name} finishes it")
                };
                Some(Error::new(Kind::Busy, name.clone(), message).hint(hint))
            }
            KeyLife::Destroying => {
                let message = format!("the destruction of key {name} is not finished");
                Some(Error::new(Kind::Busy, name.clone(), message).hint("repeat plinth key destroy"))
            }
        }
    }
}

fn place(place: &TransitPlace) -> KeyPlace {
    KeyPlace {
        url: place.url.clone(),
        mount: place.mount.clone(),
        key: place.key.clone(),
        token_file: place.token_file.display().to_string(),
        ca_file: place.ca_file.as_ref().map(|path| path.display().to_string()),
    }
}
