//! Watching: what is different from the last look becomes an event, once.
//!
//! Most events are recorded where their cause is. Some have no such place: a volume that is degraded or well again
//! (its drives went, its legs were marked, a resync ended), a pool that fills up, checks that failed inside a
//! target. They are found by looking: soon after anything was recorded or a target was seen to count, and now and then
//! without a cause.
//!
//! Crash story: what was seen last is in the catalogue, and it is stored after the events that came of it. An agent
//! that is killed in between tells them twice, never not at all; one that starts again tells what changed while
//! it was away. Counters are those of one process of a target; what a target counted after the last look and
//! before its death is not told.
use super::Agent;
use crate::catalogue::{Severity, Store};
use crate::error::Result;
use crate::model::{Health, Limit, LimitKind, Pool, Status, Volume};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The longest between two looks. A look wakes every target and reads the catalogue: without a cause it is rare, for
/// volumes that nobody uses take no processor time.
const EVERY: Duration = Duration::from_secs(60);
/// Pause before a look that was asked for: what comes in a bunch is seen in one.
const GATHER: Duration = Duration::from_millis(300);

const SEEN: &str = "watch/seen";
const MISSING: &str = "watch/missing";

/// What the last look saw. Identities, not names: a renamed volume is the same.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Health of the volumes that are complete.
    #[serde(default)]
    volumes: BTreeMap<String, Health>,
    /// How full pools are: 0, or the number of the mark that was passed.
    #[serde(default)]
    pools: BTreeMap<String, usize>,
    /// What targets had counted, by volume.
    #[serde(default)]
    counted: BTreeMap<String, Counted>,
    /// Limits that were told, by volume, and whether they were reached.
    #[serde(default)]
    limits: BTreeMap<String, BTreeSet<(LimitKind, bool)>>,
}

/// What one process of a target had counted, by drive.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Counted {
    pid: u32,
    drives: BTreeMap<String, Checks>,
}

/// Blocks that did not pass their check, and blocks written again, on one drive.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Checks {
    errors: u64,
    repaired: u64,
}

/// An event that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Due {
    severity: Severity,
    kind: &'static str,
    object: String,
    message: String,
}

/// A mark on the way to a full pool.
struct Mark {
    /// Passed at this many percent in use.
    percent: u64,
    /// Given up below this many: a pool that hovers around a mark is told once.
    below: u64,
    severity: Severity,
    kind: &'static str,
}

/// The marks, in order. The last is passed when no extent is left above the reserve.
const MARKS: [Mark; 3] = [
    Mark { percent: 80, below: 75, severity: Severity::Warning, kind: "pool_space" },
    Mark { percent: 90, below: 85, severity: Severity::Error, kind: "pool_space_low" },
    Mark { percent: 100, below: 95, severity: Severity::Error, kind: "pool_full" },
];

/// Drives that were missing when that was last stored.
pub(super) fn missing(store: &Store) -> Result<BTreeSet<String>> {
    Ok(store.get(MISSING)?.map(|missing| missing.record).unwrap_or_default())
}

/// Stores which drives are missing, for the next agent.
pub(super) fn store_missing(store: &Store, missing: &BTreeSet<String>) -> Result<()> {
    store.txn().put(MISSING, missing).commit().map(drop)
}

impl Agent {
    /// Looks until the agent ends.
    pub(crate) async fn watch(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            self.supervisor.refresh(None).await;
            let this = self.clone();
            if let Err(error) = super::blocking(move || this.look()).await {
                tracing::error!("cannot see what changed: {error}");
            }
            let news = async {
                self.events.news().await;
                tokio::time::sleep(GATHER).await;
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = news => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// One look.
    fn look(&self) -> Result<()> {
        let status = self.view_status()?;
        let mut extents = BTreeMap::new();
        for pool in &status.pools {
            // A pool that went meanwhile is not looked at.
            if let Ok(record) = self.pool(&pool.name) {
                let bytes = u64::from(record.extent_blocks) * base::BLOCK_BYTES as u64;
                extents.insert(pool.id.clone(), bytes);
            }
        }
        let before: Option<Seen> = self.store.get(SEEN)?.map(|seen| seen.record);
        let mut seen = before.clone().unwrap_or_default();
        for due in compare(&mut seen, &status, &extents) {
            self.events.record(due.severity, due.kind, &due.object, &due.message);
        }
        if before.as_ref() != Some(&seen) {
            self.store.txn().put(SEEN, &seen).commit()?;
        }
        Ok(())
    }
}

/// What is to be told of the difference; `seen` is what is there from now on.
fn compare(seen: &mut Seen, status: &Status, extents: &BTreeMap<String, u64>) -> Vec<Due> {
    let mut due = Vec::new();
    let before = std::mem::take(seen);
    for volume in &status.volumes {
        due.extend(health(before.volumes.get(&volume.id).copied(), volume));
        if let Some(kept) = kept_health(before.volumes.get(&volume.id).copied(), volume) {
            seen.volumes.insert(volume.id.clone(), kept);
        }
        let told = before.limits.get(&volume.id);
        let (near, news) = limits(told, volume);
        due.extend(news);
        if !near.is_empty() {
            seen.limits.insert(volume.id.clone(), near);
        }
        if let Some((counted, news)) = checks(before.counted.get(&volume.id), volume) {
            seen.counted.insert(volume.id.clone(), counted);
            due.extend(news);
        }
    }
    for pool in &status.pools {
        let old = before.pools.get(&pool.id).copied().unwrap_or(0).min(MARKS.len());
        let new = level(old, pool, extents.get(&pool.id).copied().unwrap_or(0));
        due.extend(space(old, new, pool));
        seen.pools.insert(pool.id.clone(), new);
    }
    due
}

/// A volume on its way (being made or deleted) keeps what was seen of it.
fn kept_health(before: Option<Health>, now: &Volume) -> Option<Health> {
    if now.unfinished { before } else { Some(now.health) }
}

fn health(before: Option<Health>, volume: &Volume) -> Option<Due> {
    let name = &volume.name;
    let before = before.unwrap_or(Health::Online);
    if volume.health == before || volume.unfinished {
        return None;
    }
    let why = volume.status.clone();
    let (severity, kind, message) = match volume.health {
        Health::Online | Health::Suspended => {
            (Severity::Info, "volume_healed", format!("volume {name} is well again"))
        }
        Health::Degraded => {
            let message = why.unwrap_or_else(|| format!("volume {name} is degraded"));
            (Severity::Warning, "volume_degraded", message)
        }
        Health::Faulted => {
            let message = why.unwrap_or_else(|| format!("volume {name} does not work"));
            (Severity::Error, "volume_faulted", message)
        }
    };
    Some(Due { severity, kind, object: name.clone(), message })
}

/// The limits that a volume is at or near, and what of that is new. Of one that nobody could look at what was told is kept.
fn limits(
    told: Option<&BTreeSet<(LimitKind, bool)>>,
    volume: &Volume,
) -> (BTreeSet<(LimitKind, bool)>, Vec<Due>) {
    if volume.seq.is_none() {
        return (told.cloned().unwrap_or_default(), Vec::new());
    }
    let key = |limit: &Limit| (limit.kind, limit.left == 0);
    let is_new = |limit: &&Limit| told.is_none_or(|told| !told.contains(&key(limit)));
    let due = volume.limits.iter().filter(is_new).map(|limit| {
        let (severity, kind) = match limit.left {
            0 => (Severity::Error, "volume_limit"),
            _ => (Severity::Warning, "volume_limit_near"),
        };
        let message = format!("{}: {}", limit.status, limit.action);
        Due { severity, kind, object: volume.name.clone(), message }
    });
    let due = due.collect();
    (volume.limits.iter().map(key).collect(), due)
}

/// What the volume's target has counted by now, and what of it is new. `None` without a target that was seen.
fn checks(before: Option<&Counted>, volume: &Volume) -> Option<(Counted, Vec<Due>)> {
    let pid = volume.target.as_ref()?.pid;
    let old = before.filter(|counted| counted.pid == pid);
    let (mut counted, mut due) = (Counted { pid, drives: BTreeMap::new() }, Vec::new());
    for drive in volume.legs.iter().flat_map(|leg| &leg.drives) {
        let (Some(errors), Some(repaired)) = (drive.check_errors, drive.repaired_blocks) else {
            // It could not be looked at: what was counted stays.
            if let Some(kept) = old.and_then(|old| old.drives.get(&drive.id)) {
                counted.drives.insert(drive.id.clone(), *kept);
            }
            continue;
        };
        let had = old.and_then(|old| old.drives.get(&drive.id)).copied().unwrap_or_default();
        // A drive may hold parts of several legs: it is told once.
        if counted.drives.insert(drive.id.clone(), Checks { errors, repaired }).is_some() {
            continue;
        }
        let (name, id) = (&volume.name, &drive.id);
        let mut tell = |severity, kind, what: String| {
            due.push(Due { severity, kind, object: name.clone(), message: what });
        };
        let new = errors.saturating_sub(had.errors);
        if new > 0 {
            let blocks = crate::text::counted(new as usize, "block");
            let what = format!("volume {name}: {blocks} on drive {id} did not pass the check");
            tell(Severity::Warning, "check_errors", what);
        }
        let new = repaired.saturating_sub(had.repaired);
        if new > 0 {
            let blocks = crate::text::counted(new as usize, "block");
            let what = format!("volume {name}: {blocks} on drive {id} repaired from another leg");
            tell(Severity::Info, "blocks_repaired", what);
        }
    }
    Some((counted, due))
}

/// Percent of a pool's space (the reserve not counted) that is handed out; 100 when not even an extent is left.
fn used_percent(pool: &Pool, extent_bytes: u64) -> u64 {
    let usable = pool.size_bytes.saturating_sub(pool.reserved_bytes);
    if usable == 0 || pool.free_bytes < extent_bytes {
        // A pool none of whose drives is known yet has nothing to run out of.
        return if pool.size_bytes == 0 { 0 } else { 100 };
    }
    (u128::from(pool.allocated_bytes) * 100 / u128::from(usable)).min(99) as u64
}

/// The mark at which a pool is, coming from `old`.
fn level(old: usize, pool: &Pool, extent_bytes: u64) -> usize {
    let used = used_percent(pool, extent_bytes);
    let passed = MARKS.iter().filter(|mark| used >= mark.percent).count();
    let kept = MARKS.iter().take(old).filter(|mark| used >= mark.below).count();
    passed.max(kept)
}

fn space(old: usize, new: usize, pool: &Pool) -> Option<Due> {
    let name = &pool.name;
    let free = crate::text::show_size(pool.free_bytes);
    if new > old {
        let Mark { percent, severity, kind, .. } = MARKS[new - 1];
        let message = if percent == 100 {
            format!("pool {name} is full: volumes in it cannot take more space; add drives to it")
        } else {
            format!("pool {name} is used to {percent} % and more, {free} are left; add drives to it")
        };
        return Some(Due { severity, kind, object: name.clone(), message });
    }
    (new < old).then(|| Due {
        severity: Severity::Info,
        kind: "pool_space_ok",
        object: name.clone(),
        message: match new {
            0 => format!("pool {name} has space again: {free} are free"),
            _ => format!("pool {name} is used to less than {} % again", MARKS[new].percent),
        },
    })
}

#[cfg(test)]
mod tests;
