//! Live upgrade: another binary goes on serving an attached volume, on the same device.
//!
//! The target that serves finishes what it has, closes the group and ends, without taking the device away; the
//! kernel keeps the requests that come meanwhile and hands them to the next target (user recovery). To the guest
//! it is a pause.
//!
//! | step | in the catalogue | killed behind it |
//! |---|---|---|
//! | the binary is checked, what runs is kept | `binary` may name the kept copy | nothing has changed |
//! | it is announced | `next` | the old target serves; should it end, the next start tries `next` |
//! | the old target ends | | the next start, also by another agent, tries `next` |
//! | the new target serves | `binary`, no `next` | done |
//! | or it does not come up in its time | no `next` | `binary` is started: what served before |
//!
//! So whoever goes on comes to one of two ends: the new binary serves and is remembered, or the one before does. A
//! repetition finds the first done and tries the second again. What served before is started from its file if that
//! is still the one that ran, and otherwise (a package was upgraded in place) from a copy made before.
use super::Agent;
use crate::catalogue::{Attachment, FrontendKind, Severity, records};
use crate::error::{Error, Kind, Result};
use crate::params::UpgradeVolume;
use crate::{device, model, program};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a target is to be started from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chosen {
    /// The binary.
    pub path: PathBuf,
    /// It is on trial: if it does not serve in time, the one before is started again.
    pub trial: bool,
}

impl Agent {
    /// `volume upgrade`: returns when the new binary serves.
    ///
    /// # Errors
    /// As `program::check`; `Refused` when not attached, `NotSupported` over NBD with clients, `Failed` when the
    /// binary before serves again because the new one did not come up.
    pub async fn upgrade_volume(
        self: &Arc<Self>,
        name: &str,
        params: UpgradeVolume,
        dry: bool,
    ) -> Result<model::Volume> {
        let given = params.binary;
        let wanted = given.clone().unwrap_or_else(|| self.options.program.clone());
        let _hold = self.hold(vec![name.to_owned()]).await?;
        let (this, volume) = (self.clone(), name.to_owned());
        super::blocking(move || this.upgradable(&volume).map(drop)).await?;
        program::check(&wanted).await?;
        if !dry {
            let (this, volume) = (self.clone(), name.to_owned());
            let announced = super::blocking(move || this.announce_upgrade(&volume, given)).await?;
            if announced {
                self.supervisor.upgrade(self, name).await?;
                let (this, volume) = (self.clone(), name.to_owned());
                let attachment = super::blocking(move || this.upgradable(&volume)).await?;
                self.check_serves(name, &attachment, &wanted)?;
                if let Some(number) = attachment.device_number {
                    device::wait_until_open(number).await?;
                }
            }
            self.supervisor.refresh(Some(name)).await;
        }
        let (this, volume) = (self.clone(), name.to_owned());
        super::blocking(move || this.show_volume(&volume)).await
    }

    /// A volume that can be handed to another target.
    fn upgradable(&self, name: &str) -> Result<Attachment> {
        let volume = self.ready_volume(name)?;
        match &volume.attachment {
            Some(attachment) if attachment.detaching => {
                Err(Error::new(Kind::Busy, name, format!("volume {name} is being detached")))
            }
            Some(attachment) if attachment.served => Ok(attachment.clone()),
            Some(_) => Err(Error::new(Kind::Busy, name, format!("volume {name} is being attached"))),
            None => Err(Error::new(Kind::Refused, name, format!("volume {name} is not attached"))
                .hint("the next plinth volume attach uses the agent's own binary")),
        }
    }

    /// Notes what is to serve next, and keeps what serves now. Returns whether anything has to be exchanged:
    /// not when exactly this file is running.
    fn announce_upgrade(&self, name: &str, given: Option<PathBuf>) -> Result<bool> {
        let _space = self.lock();
        self.upgradable(name)?;
        let mut volume = self.ready_volume(name)?;
        let group = self.group(&volume.group)?;
        let live = self.supervisor.live(name);
        let pid = live.and_then(|live| live.pid);
        let wanted = given.clone().unwrap_or_else(|| self.options.program.clone());
        let attachment = volume.record.attachment.as_mut().expect("upgradable");
        if pid.is_some_and(|pid| program::runs(pid, &wanted)) {
            if (&attachment.binary, &attachment.next) != (&given, &None) {
                (attachment.binary, attachment.next) = (given, None);
                self.store.txn().update(records::volume_key(name), &volume).commit()?;
            }
            return Ok(false);
        }
        let before = attachment.binary.clone().unwrap_or_else(|| self.options.program.clone());
        self.keep_program(&group.id, attachment, pid, &before)?;
        attachment.next = Some(wanted);
        self.store.txn().update(records::volume_key(name), &volume).commit()?;
        Ok(true)
    }

    /// Has another target of the same binary serve a volume: what it is told is new. As an upgrade, but for the binary.
    ///
    /// # Errors
    /// As `upgrade_volume`.
    pub(super) async fn exchange_target(self: &Arc<Self>, name: &str) -> Result<()> {
        let (this, volume) = (self.clone(), name.to_owned());
        super::blocking(move || this.announce_exchange(&volume)).await?;
        self.supervisor.upgrade(self, name).await
    }

    fn announce_exchange(&self, name: &str) -> Result<()> {
        let _space = self.lock();
        self.upgradable(name)?;
        let mut volume = self.ready_volume(name)?;
        let group = self.group(&volume.group)?;
        let attachment = volume.record.attachment.as_mut().expect("upgradable");
        if attachment.next.is_some() {
            return Ok(());
        }
        let serves = attachment.binary.clone().unwrap_or_else(|| self.options.program.clone());
        let pid = self.supervisor.live(name).and_then(|live| live.pid);
        self.keep_program(&group.id, attachment, pid, &serves)?;
        attachment.next = Some(attachment.binary.clone().unwrap_or(serves));
        self.store.txn().update(records::volume_key(name), &volume).commit().map(drop)
    }

    /// Keeps what serves now, if its file is not the one that it was started from any more.
    fn keep_program(
        &self,
        group: &str,
        attachment: &mut Attachment,
        pid: Option<u32>,
        before: &Path,
    ) -> Result<()> {
        if let Some(pid) = pid.filter(|pid| !program::runs(*pid, before)) {
            let kept = self.options.kept_program(group);
            program::keep(pid, &kept)?;
            attachment.binary = Some(kept);
        }
        Ok(())
    }

    /// The exchange went well; but another one may have been asked for in between.
    fn check_serves(&self, name: &str, attachment: &Attachment, wanted: &Path) -> Result<()> {
        if attachment.binary.as_deref().unwrap_or(&self.options.program) == wanted {
            return Ok(());
        }
        Err(Error::new(Kind::Busy, name, format!("volume {name} was handed to another binary meanwhile")))
    }

    /// From what the next target of a volume is to be started.
    pub(crate) fn program_of(&self, name: &str) -> Result<Chosen> {
        let attachment = self.volume(name)?.record.attachment;
        let own = Chosen { path: self.options.program.clone(), trial: false };
        let Some(attachment) = attachment else { return Ok(own) };
        if let Some(next) = attachment.next {
            return Ok(Chosen { path: next, trial: true });
        }
        let Some(binary) = attachment.binary else { return Ok(own) };
        let usable = std::fs::metadata(&binary).is_ok_and(|about| about.permissions().mode() & 0o111 != 0);
        if usable {
            return Ok(Chosen { path: binary, trial: false });
        }
        let message = format!(
            "{}, from which volume {name} was served, is gone; the agent's own binary is used",
            binary.display()
        );
        self.events.record(Severity::Warning, "binary_missing", name, &message);
        Ok(own)
    }

    /// Whether an exchange is announced, and then whether the target that serves may be killed for it: over ublk its
    /// clients wait for the next one, over NBD they would see their connection end.
    pub(crate) fn upgrade_announced(&self, name: &str) -> Option<bool> {
        let attachment = self.volume(name).ok()?.record.attachment?;
        attachment.next.map(|_| attachment.frontend == FrontendKind::Ublk)
    }

    /// A process serves: if it is what was to serve next, it is remembered. Returns whether nothing is announced
    /// any more.
    pub(crate) fn note_program(&self, name: &str, pid: u32) -> Result<bool> {
        let records = self.records();
        let mut volume = self.volume(name)?;
        let group = volume.group.clone();
        let Some(attachment) = &mut volume.record.attachment else { return Ok(true) };
        let Some(next) = attachment.next.clone() else { return Ok(true) };
        if !program::runs(pid, &next) {
            return Ok(false);
        }
        let own = next == self.options.program;
        let before = std::mem::replace(&mut attachment.binary, (!own).then(|| next.clone()));
        attachment.next = None;
        self.store.txn().update(records::volume_key(name), &volume).commit()?;
        let kept = self.options.kept_program(&self.group(&group)?.id);
        if before.as_ref() == Some(&kept) && next != kept {
            let _ = std::fs::remove_file(kept);
        }
        drop(records);
        let message = format!("volume {name} is served by {} (process {pid})", next.display());
        self.events.record(Severity::Info, "target_upgraded", name, &message);
        Ok(true)
    }

    /// What was to serve next does not: what served before is to serve again, or goes on.
    pub(crate) fn give_up_upgrade(&self, name: &str, why: &Error) -> Result<()> {
        let records = self.records();
        let mut volume = self.volume(name)?;
        let Some(attachment) = &mut volume.record.attachment else { return Ok(()) };
        let Some(next) = attachment.next.take() else { return Ok(()) };
        self.store.txn().update(records::volume_key(name), &volume).commit()?;
        drop(records);
        let message = format!("volume {name} is not handed to {}: {why}", next.display());
        self.events.record(Severity::Error, "upgrade_failed", name, &message);
        Ok(())
    }
}

/// Why an exchange is not possible over NBD: the connection would end.
pub(crate) fn over_nbd(name: &str, why: &str) -> Error {
    Error::new(
        Kind::NotSupported,
        name,
        format!("volume {name} cannot be handed to another binary over NBD while it is used: {why}"),
    )
    .hint("disconnect the clients first; over ublk it goes on under load")
}
