//! Scrubs that are due: the pool says how often, and each volume's last one counts.
use super::Watched;
use crate::agent::Agent;
use crate::catalogue::{Life, PoolRecord, ScrubRecord, VolumeRecord, Want, records};
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

/// Whether an instant is still to come: the clock was ahead when it was written down, and was set back.
fn is_to_come(since: &str, now: SystemTime) -> bool {
    since > crate::text::show_instant(now).as_str()
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
            if self.obstacle_of(volume).is_some() && !self.will_be_tended(volume) {
                continue;
            }
            self.undo_leap(volume, now)?;
            let mut watched = self.scrubbing.watched();
            let last = watched.get(&volume.id).map(|known| &known.record);
            if last.is_some_and(|last| last.want == Want::Run) {
                continue;
            }
            let since = last.and_then(|last| last.ended_at.as_deref()).unwrap_or(&volume.created_at);
            if is_due(&volume.id, since, every, now) {
                let mut begun = Watched::new(ScrubRecord::begin(&volume.id, true, last));
                let message = format!("a scrub of volume {} is due and begins", volume.name);
                begun.store_and_tell(self, "scrub_started", &volume.name, &message)?;
                watched.insert(volume.id.clone(), begun);
            }
        }
        Ok(())
    }

    /// When a volume was made, and when its last scrub ended, is now if it is still to come: nothing would be due for as
    /// long as the clock was ahead.
    fn undo_leap(&self, volume: &VolumeRecord, now: SystemTime) -> Result<()> {
        if is_to_come(&volume.created_at, now) {
            let _space = self.lock();
            if let Ok(mut volume) = self.ready_volume(&volume.name) {
                volume.created_at = crate::text::show_instant(now);
                self.store.txn().update(records::volume_key(&volume.name), &volume).commit()?;
            }
        }
        if let Some(known) = self.scrubbing.watched().get_mut(&volume.id)
            && known.record.ended_at.as_deref().is_some_and(|ended| is_to_come(ended, now))
        {
            known.record.ended_at = Some(crate::text::show_instant(now));
            known.store(&self.store)?;
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

    /// The story: the clock was years ahead when a volume was made, or when its scrub ended, and was set back. Its next
    /// scrub was due years later.
    #[test]
    fn an_instant_that_is_still_to_come_counts_as_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let agent = crate::agent::testing::agent(folder.path());
        let now = SystemTime::now();
        let (past, future) = (Duration::from_secs(3600), Duration::from_secs(3600 * 24 * 365));
        let (past, future) = (show_instant(now - past), show_instant(now + future));
        for (at, expected) in [(&past, &past), (&future, &show_instant(now))] {
            let volume: VolumeRecord = serde_json::from_value(serde_json::json!({
                "id": "i", "name": "v", "pool": "p", "group": "v", "created_at": at, "life": "ready",
                "size_bytes": 1, "cache_bytes": 1, "attachment": null,
            }))
            .expect("a volume of an earlier build");
            agent.store.txn().put("volumes/v", &volume).commit().expect("commits");
            let mut record = ScrubRecord::begin("i", false, None);
            (record.want, record.ended_at) = (Want::Finished, Some(at.clone()));
            agent.scrubbing.watched().insert("i".into(), Watched::new(record));
            agent.undo_leap(&volume, now).expect("undoes");
            assert_eq!(agent.volume("v").expect("there").created_at, *expected);
            let kept = agent.scrubbing.watched()["i"].record.ended_at.clone();
            assert_eq!(kept.as_ref(), Some(expected));
            let stored = agent.store.get::<ScrubRecord>(&crate::catalogue::scrubs::key("i")).expect("reads");
            assert_eq!(stored.and_then(|stored| stored.record.ended_at).is_some(), at == &future);
        }
    }
}
