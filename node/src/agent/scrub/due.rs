//! Scrubs that are due: the pool says how often, and each volume's last one counts.
use super::Watched;
use crate::agent::Agent;
use crate::catalogue::{Life, PoolRecord, ScrubRecord, Severity, VolumeRecord, Want};
use crate::error::Result;
use std::time::{Duration, SystemTime};

/// A scrub comes later by up to this part of the time between two: volumes that were made together are not scrubbed
/// together for ever.
const SPREAD: u64 = 10;

/// How much later than others a volume's turn comes.
fn spread(volume: &str, every: u64) -> u64 {
    // FNV-1a: stable over builds.
    let hash = volume.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash % (every / SPREAD + 1)
}

/// Whether a volume's scrub is due: `since` is when its last one ended, or when the volume was made.
fn is_due(volume: &str, since: &str, every: u64, now: SystemTime) -> bool {
    let wait = Duration::from_secs(every.saturating_add(spread(volume, every)));
    // Instants compare as their texts do.
    now.checked_sub(wait).is_some_and(|latest| since <= crate::text::show_instant(latest).as_str())
}

impl Agent {
    /// Begins the scrubs of a pool's volumes that are due.
    pub(super) fn begin_due(&self, pool: &PoolRecord, volumes: &[VolumeRecord]) -> Result<()> {
        let every = pool.scrub_every_seconds;
        if every == 0 {
            return Ok(());
        }
        let now = SystemTime::now();
        for volume in volumes.iter().filter(|volume| volume.pool == pool.name && volume.life == Life::Ready) {
            if super::obstacle(volume, self.supervisor.live(&volume.name).as_ref()).is_some() {
                continue;
            }
            let mut watched = self.scrubbing.watched();
            let last = watched.get(&volume.id).map(|known| &known.record);
            if last.is_some_and(|last| last.want == Want::Run) {
                continue;
            }
            let since = last.and_then(|last| last.ended_at.as_deref()).unwrap_or(&volume.created_at);
            if is_due(&volume.id, since, every, now) {
                let mut begun = Watched::new(ScrubRecord::begin(&volume.id, true, last));
                begun.store(&self.store)?;
                watched.insert(volume.id.clone(), begun);
                drop(watched);
                let message = format!("a scrub of volume {} is due and begins", volume.name);
                self.events.record(Severity::Info, "scrub_started", &volume.name, &message);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::show_instant;

    #[test]
    fn a_scrub_is_due_after_its_time_and_not_much_later() {
        let now = SystemTime::now();
        let ago = |seconds| show_instant(now - Duration::from_secs(seconds));
        let day = 24 * 3600;
        for volume in ["a", "b", "c", "d"] {
            assert!(!is_due(volume, &ago(10 * day - 1), 10 * day, now));
            assert!(is_due(volume, &ago(11 * day + 1), 10 * day, now));
        }
        assert!(spread("a", 10 * day) != spread("b", 10 * day), "they come apart");
        // Longer than there is time: never, and no overflow.
        assert!(!is_due("a", &ago(day), u64::MAX, now));
    }
}
