//! `scrub start` and `scrub stop`, of a volume or of all volumes of a pool.
use super::{Watched, obstacle};
use crate::agent::{Agent, blocking};
use crate::catalogue::{Attachment, Life, ScrubRecord, VolumeRecord, Want};
use crate::error::{Error, Kind, Result};
use crate::model::{PoolScrub, Scrub};
use crate::supervise::{Live, Phase};
use std::sync::Arc;

/// Why a scrub is refused.
fn refused(name: &str, why: String) -> Error {
    Error::new(Kind::Refused, name, why)
        .hint(format!("plinth volume attach {name} (or --nbd PATH) serves it; then start the scrub again"))
}

/// Whether a volume that was served will be again by itself: its target, or the agent, has just begun. What was asked for a
/// moment before, and is asked for again because nobody answered, is not refused then: the scrub waits for the target.
fn is_served_soon(volume: &VolumeRecord, live: Option<&Live>) -> bool {
    let served =
        |attachment: &&Attachment| attachment.served && !attachment.detaching && !attachment.read_only;
    volume.attachment.as_ref().filter(served).is_some()
        && live.is_none_or(|live| matches!(live.phase, Phase::Starting | Phase::Recovering))
}

impl Agent {
    /// `scrub start VOL`: begins a scrub, unless one is wanted already; one that waits for its turn begins now.
    ///
    /// # Errors
    /// `Refused` when the volume is not attached for writing, `NotSupported` when its target is too old; nothing is changed then.
    pub async fn start_scrub(self: &Arc<Self>, name: &str, dry: bool) -> Result<Scrub> {
        let (this, of) = (self.clone(), name.to_owned());
        let volume = blocking(move || Ok(this.ready_volume(&of)?.record)).await?;
        self.supervisor.refresh(Some(name)).await;
        let live = self.supervisor.live(name);
        let soon = is_served_soon(&volume, live.as_ref()) || self.will_be_tended(&volume);
        if !soon {
            if let Some(why) = obstacle(&volume, live.as_ref()) {
                return Err(refused(name, why));
            }
            // Whether it can: a look that changes nothing.
            self.look_at_scrub(&volume).await?;
        }
        if !dry {
            let (this, of) = (self.clone(), volume.clone());
            blocking(move || this.want_scrub(&of, false)).await?;
            if !soon && let Err(error) = self.look_at_scrub(&volume).await {
                tracing::warn!("the scrub of volume {name} begins later: {error}");
            }
            self.scrubbing.look_now();
            self.tending.forgive();
        }
        self.shown_scrub(name).await
    }

    /// `scrub stop VOL`: ends a scrub where it is.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub async fn stop_scrub(self: &Arc<Self>, name: &str, dry: bool) -> Result<Scrub> {
        let (this, of) = (self.clone(), name.to_owned());
        let volume = blocking(move || Ok(this.volume(&of)?.record)).await?;
        if !dry {
            self.end_scrub(&volume).await?;
        }
        self.shown_scrub(name).await
    }

    /// `scrub start --pool`: begins the scrubs of a pool's volumes that are attached, one after the other.
    ///
    /// # Errors
    /// `Refused` when none is attached.
    pub async fn start_pool_scrub(self: &Arc<Self>, pool: &str, dry: bool) -> Result<PoolScrub> {
        let volumes = self.volumes_to_scrub(pool).await?;
        self.supervisor.refresh(None).await;
        let able = |volume: &&VolumeRecord| {
            let live = self.supervisor.live(&volume.name);
            let soon = is_served_soon(volume, live.as_ref()) || self.will_be_tended(volume);
            soon || obstacle(volume, live.as_ref()).is_none()
        };
        let able: Vec<VolumeRecord> = volumes.iter().filter(able).cloned().collect();
        if able.is_empty() {
            let message = format!("no volume of pool {pool} is attached for writing");
            return Err(Error::new(Kind::Refused, pool, message)
                .hint("a scrub repairs what it finds while a volume is served: attach the volumes first"));
        }
        if !dry {
            let this = self.clone();
            blocking(move || able.iter().try_for_each(|volume| this.want_scrub(volume, true))).await?;
            self.scrubbing.look_now();
            self.tending.forgive();
        }
        self.shown_pool_scrub(pool).await
    }

    /// `scrub stop --pool`: ends all scrubs of a pool's volumes.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub async fn stop_pool_scrub(self: &Arc<Self>, pool: &str, dry: bool) -> Result<PoolScrub> {
        for volume in self.volumes_to_scrub(pool).await? {
            if !dry {
                self.end_scrub(&volume).await?;
            }
        }
        self.shown_pool_scrub(pool).await
    }

    async fn volumes_to_scrub(self: &Arc<Self>, pool: &str) -> Result<Vec<VolumeRecord>> {
        let (this, name) = (self.clone(), pool.to_owned());
        blocking(move || {
            this.ready_pool(&name)?;
            let volumes = this.store.list::<VolumeRecord>("volumes/")?.into_iter().map(|v| v.record);
            Ok(volumes.filter(|volume| volume.pool == name && volume.life == Life::Ready).collect())
        })
        .await
    }

    async fn shown_scrub(self: &Arc<Self>, name: &str) -> Result<Scrub> {
        let (this, name) = (self.clone(), name.to_owned());
        blocking(move || this.show_scrub(&name)).await
    }

    async fn shown_pool_scrub(self: &Arc<Self>, pool: &str) -> Result<PoolScrub> {
        let (this, pool) = (self.clone(), pool.to_owned());
        blocking(move || this.show_pool_scrub(&pool)).await
    }

    /// Notes that a scrub is wanted. One that is wanted already stays; it stops waiting for others if it is wanted now.
    fn want_scrub(&self, volume: &VolumeRecord, in_turn: bool) -> Result<()> {
        let name = &volume.name;
        let mut watched = self.scrubbing.watched();
        if let Some(known) = watched.get_mut(&volume.id)
            && known.record.want == Want::Run
        {
            if known.record.in_turn && !in_turn {
                known.record.in_turn = false;
                known.store(&self.store)?;
            }
            return Ok(());
        }
        let last = watched.get(&volume.id).map(|known| &known.record);
        let mut begun = Watched::new(ScrubRecord::begin(&volume.id, in_turn, last));
        let message = format!("a scrub of volume {name} begins");
        begun.store_and_tell(self, "scrub_started", name, &message)?;
        watched.insert(volume.id.clone(), begun);
        Ok(())
    }

    /// Notes that no scrub is wanted, and tells the target.
    async fn end_scrub(self: &Arc<Self>, volume: &VolumeRecord) -> Result<()> {
        let (this, of) = (self.clone(), volume.clone());
        let ended = blocking(move || this.unwant_scrub(&of)).await?;
        // A target that does not hear it now is told by the next look.
        if ended && let Err(error) = self.look_at_scrub(volume).await {
            tracing::info!(
                "the target of volume {} hears later that it is not to scrub: {error}",
                volume.name
            );
        }
        Ok(())
    }

    fn unwant_scrub(&self, volume: &VolumeRecord) -> Result<bool> {
        let mut watched = self.scrubbing.watched();
        let Some(known) = watched.get_mut(&volume.id) else { return Ok(false) };
        if known.record.want != Want::Run {
            return Ok(false);
        }
        known.record.stop();
        (known.told, known.waits_for) = (false, None);
        let message = format!("the scrub of volume {} was ended before it was through", volume.name);
        known.store_and_tell(self, "scrub_stopped", &volume.name, &message)?;
        Ok(true)
    }
}
