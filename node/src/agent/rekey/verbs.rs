//! `plinth rekey`.
use super::wanted_of;
use crate::agent::{Agent, blocking};
use crate::catalogue::{GroupRecord, RekeyRecord, Severity, Versioned, VolumeRecord};
use crate::error::{Error, Kind, Result};
use crate::{model, text};
use std::sync::Arc;

impl Agent {
    /// `rekey`: a new data key for the group of a volume, or for a group; one that is under way is gone on with. Returns its
    /// volume; what follows happens in the background, as soon as the volume is attached.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` of a plain group; those of the key that wraps its secret, with nothing changed.
    pub async fn rekey_group(self: &Arc<Self>, name: &str, dry: bool) -> Result<model::Volume> {
        let (this, of) = (self.clone(), name.to_owned());
        let volume = blocking(move || this.begin_rekey(&of, dry)).await?;
        if !dry {
            self.rekeying.forgive(&volume.id);
            self.tending.forgive();
        }
        let this = self.clone();
        blocking(move || this.show_volume(&volume.name)).await
    }

    fn begin_rekey(&self, name: &str, dry: bool) -> Result<VolumeRecord> {
        let _verbs = self.key_verbs();
        let (volume, group) = self.volume_to_rekey(name)?;
        let Some(by) = &group.encryption else {
            let message = format!("volume {} is not encrypted, so it has no key", volume.name);
            return Err(Error::invalid(name, message)
                .hint("an encrypted one is made with plinth volume create --encrypt"));
        };
        if wanted_of(&group).is_some() || dry && by.envelope.is_some() {
            return Ok(volume);
        }
        let secret = self.group_secret(&group)?.expect("the group is encrypted");
        let started_at = text::now();
        let (to, mut changed) = if secret.count() > 1 {
            (secret.newest(), by.clone())
        } else {
            let more = secret.with_new_key()?;
            (more.newest(), self.wrapped_anew(&group, &more)?)
        };
        changed.rekey = Some(RekeyRecord { to, sealed: false, started_at });
        let _space = self.lock();
        self.replace_encryption(&group, changed)?;
        let message = format!("volume {} goes over to data key {to}", volume.name);
        self.events.record(Severity::Info, "rekey_started", &volume.name, &message);
        Ok(volume)
    }

    /// The volume of this name, or that of the group of this name.
    fn volume_to_rekey(&self, name: &str) -> Result<(VolumeRecord, Versioned<GroupRecord>)> {
        let volume = match self.ready_volume(name) {
            Err(error) if error.kind == Kind::NotFound => {
                let volumes = self.store.list::<VolumeRecord>("volumes/")?;
                let of_group = volumes.into_iter().find(|volume| volume.group == name);
                if self.empty_group(name)?.is_some() {
                    let message = format!("group {name} has no volume, so it has no key");
                    return Err(Error::invalid(name, message).hint("its next volume gets a new one"));
                }
                self.ready_volume(&of_group.ok_or(error)?.record.name)?
            }
            found => found?,
        };
        let group = self.group(&volume.group)?;
        Ok((volume.record, group))
    }
}
