//! What the agent does when it starts: finds drives, finishes verbs that were cut short, restores attachments.
//!
//! A verb that cannot be finished now (a drive is away) stays as it is and is reported; its repetition or the
//! next start tries again.
use super::Agent;
use super::pools::Finisher;
use crate::catalogue::{Life, PoolRecord, Severity, Versioned, VolumeRecord};
use crate::error::Result;
use std::sync::Arc;

impl Agent {
    /// Goes on where the last agent stopped.
    ///
    /// # Errors
    /// The catalogue's.
    pub async fn resume(self: &Arc<Self>) -> Result<()> {
        let this = self.clone();
        let mut later = super::blocking(move || this.look_for_drives()).await?;
        self.resume_attachments().await?;
        let this = self.clone();
        super::blocking(move || {
            this.repair_labels(&mut this.lock(), &mut later);
            if !later.is_empty() {
                // An import that goes on may take very long.
                this.chores.rescan();
            }
            this.finish_verbs()
        })
        .await?;
        // Beside everything else: a server that keeps a key may take its time.
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.finish_keys());
        Ok(())
    }

    /// Supervises what is attached: first of all, for guests may wait for it.
    async fn resume_attachments(self: &Arc<Self>) -> Result<()> {
        let this = self.clone();
        let attached: Vec<VolumeRecord> = super::blocking(move || {
            let volumes = this.store.list::<VolumeRecord>("volumes/")?;
            Ok(volumes.into_iter().map(|v| v.record).filter(|v| v.attachment.is_some()).collect())
        })
        .await?;
        for volume in attached {
            self.supervisor.start(self, &volume.name, &volume.pool);
            if volume.attachment.is_some_and(|attachment| attachment.detaching) {
                let (this, name) = (self.clone(), volume.name.clone());
                super::spawn(async move {
                    if let Err(error) = this.detach_volume(&name, false).await {
                        let message = format!("the detach of volume {name} could not be finished: {error}");
                        this.events.record(Severity::Error, "detach_failed", &name, &message);
                    }
                });
            }
        }
        Ok(())
    }

    /// Finishes creations and deletions that were announced.
    fn finish_verbs(&self) -> Result<()> {
        let report = |what: &str, name: &str, outcome: Result<()>| {
            if let Err(error) = outcome {
                let message = format!("the {what} of {name} could not be finished: {error}");
                self.events.record(Severity::Warning, "verb_unfinished", name, &message);
            }
        };
        for pool in self.store.list::<PoolRecord>("pools/")? {
            let name = pool.name.clone();
            match pool.life {
                Life::Deleting => report("deletion", &name, self.delete_pool(&name, false)),
                Life::Creating | Life::Ready => {
                    let mut space = self.lock();
                    report("preparation", &name, self.finish_pool(&mut space, pool, Finisher::Start));
                }
            }
        }
        let volumes: Vec<Versioned<VolumeRecord>> = self.store.list("volumes/")?;
        for volume in volumes {
            match volume.life {
                Life::Creating => {
                    let mut verb = self.lock();
                    report("creation", &volume.name, self.finish_volume(&mut verb, &volume));
                }
                Life::Deleting => {
                    let mut space = self.lock();
                    report("deletion", &volume.name, self.finish_delete(&mut space, &volume));
                }
                Life::Ready => {}
            }
        }
        Ok(())
    }
}
