//! What a target counts, as it tells the agent: requests, operations of drives, how long both took.
//!
//! Counters begin at 0 with each process of a target, as counters of metrics may.
use crate::model::DriveLatency;
use serde::{Deserialize, Serialize};
use ublk_target::latency::BOUNDS_NANOS;
use utoipa::ToSchema;

/// How long operations of one kind took.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// What kind: read, write, flush or discard.
    pub op: String,
    /// How many took longer than the bound before and not longer than their own; the last one has no bound.
    pub counts: Vec<u64>,
    /// All of them together, in nanoseconds.
    pub sum_nanos: u64,
}

impl Latency {
    /// Reads the figures of a kind.
    pub fn of(op: &str, latency: &ublk_target::Latency) -> Self {
        let counts = latency.counts().to_vec();
        Self { op: op.to_owned(), counts, sum_nanos: latency.sum_nanos() }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper bounds of all counts but the last, in seconds.
    pub fn bounds_seconds() -> impl Iterator<Item = f64> {
        BOUNDS_NANOS.iter().map(|nanos| *nanos as f64 / 1e9)
    }

    /// Adds what another process counted. Targets of other builds may have other bounds: those are left out.
    pub fn add(&mut self, other: &Self) {
        if self.counts.len() == other.counts.len() {
            self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
            self.sum_nanos += other.sum_nanos;
        }
    }
}

/// Adds what one target counted of a drive to what others did.
pub fn add(sum: &mut Option<DriveLatency>, more: &[Latency]) {
    let bounds_nanos = BOUNDS_NANOS.to_vec();
    let sum = sum.get_or_insert_with(|| DriveLatency { bounds_nanos, operations: Vec::new() });
    for latency in more.iter().filter(|latency| latency.counts.len() == sum.bounds_nanos.len() + 1) {
        match sum.operations.iter_mut().find(|has| has.op == latency.op) {
            Some(has) => has.add(latency),
            None => sum.operations.push(latency.clone()),
        }
    }
}

/// What a target counted of its guests, and how its group stands.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetFigures {
    /// Bytes read by the guest.
    pub bytes_read: u64,
    /// Bytes written by the guest.
    pub bytes_written: u64,
    /// Requests answered with an error.
    pub failed_requests: u64,
    /// Requests in the engine now.
    pub requests_in_flight: u64,
    /// Requests that were under way for longer than a minute when they were looked at.
    pub stuck_requests: u64,
    /// How long the guest waited.
    pub latency: Vec<Latency>,
    /// Space of the group, what is free of it, and what was freed and cannot be handed out yet.
    pub space_bytes: u64,
    /// See `space_bytes`.
    pub free_bytes: u64,
    /// See `space_bytes`.
    pub pinned_bytes: u64,
    /// Number of the last checkpoint.
    pub checkpoint: u64,
    /// Thousandths of the log's ring that are in use.
    pub ring_used_permille: u32,
    /// Space is short, and the group can have no further row, whatever the pool has.
    pub rows_ended: bool,
    /// How often an encrypted group can still be opened; `None` of a plain one.
    pub openings_left: Option<u64>,
    /// How many checkpoints can still be taken; earlier builds do not say.
    pub checkpoints_left: Option<u64>,
}

/// What a target did on one drive.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DriveFigures {
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// How long operations took.
    pub latency: Vec<Latency>,
}

/// What a running loop has counted.
pub fn of_target(figures: &ublk_target::Figures, stats: Option<&volume::Stats>) -> TargetFigures {
    let kinds = ["read", "write", "flush", "discard"].into_iter().zip(&figures.latency);
    let bytes = |blocks: fn(&volume::Stats) -> u64| {
        stats.map_or(0, |stats| blocks(stats).saturating_mul(base::BLOCK_BYTES as u64))
    };
    TargetFigures {
        bytes_read: figures.sectors_read.get() * base::SECTOR_BYTES as u64,
        bytes_written: figures.sectors_written.get() * base::SECTOR_BYTES as u64,
        failed_requests: figures.failed_requests.get(),
        requests_in_flight: figures.requests_in_flight.get(),
        stuck_requests: figures.stuck_requests.get(),
        latency: kinds.map(|(op, latency)| Latency::of(op, latency)).collect(),
        space_bytes: bytes(|stats| stats.space_blocks),
        free_bytes: bytes(|stats| stats.free_blocks),
        pinned_bytes: bytes(|stats| stats.limbo_blocks),
        checkpoint: stats.map_or(0, |stats| u64::from(stats.checkpoint)),
        ring_used_permille: stats.map_or(0, |stats| stats.ring_used_permille),
        rows_ended: stats.is_some_and(|stats| stats.rows_ended),
        openings_left: stats.and_then(|stats| stats.activations_left),
        checkpoints_left: stats.map(|stats| u64::from(stats.checkpoints_left)),
    }
}

/// What a running loop has counted of one drive.
pub fn of_drive(figures: &ublk_target::handle::DriveFigures) -> DriveFigures {
    let kinds = ["read", "write", "flush"].into_iter().zip(&figures.latency);
    DriveFigures {
        bytes_read: figures.bytes_read.get(),
        bytes_written: figures.bytes_written.get(),
        latency: kinds.map(|(op, latency)| Latency::of(op, latency)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Gen, Seq};

    /// Each figure of the group is the one of its name: no two are alike here.
    #[test]
    fn space_checkpoint_and_ring_are_told_as_they_are() {
        let stats = volume::Stats {
            seq: Seq::new(1),
            durable: Seq::new(2),
            generation: Gen::new(3),
            version: 4,
            checkpoint: 5,
            ring_used_permille: 6,
            rows: 7,
            legs: 2,
            space_blocks: 8,
            mapped_blocks: Some(9),
            free_blocks: 10,
            limbo_blocks: 11,
            drives: Vec::new(),
            resync: None,
            last_resync: None,
            scrub: volume::ScrubStats::default(),
            rekey: volume::RekeyStats::default(),
            data_key: 1,
            moving: None,
            home: Vec::new(),
            activations_left: Some(12),
            checkpoints_left: 13,
            rows_ended: true,
        };
        let figures = of_target(&ublk_target::Figures::default(), Some(&stats));
        let bytes = |blocks: u64| blocks * 4096;
        assert_eq!(
            (figures.space_bytes, figures.free_bytes, figures.pinned_bytes),
            (bytes(8), bytes(10), bytes(11))
        );
        assert_eq!((figures.checkpoint, figures.ring_used_permille), (5, 6));
        assert_eq!((figures.openings_left, figures.checkpoints_left), (Some(12), Some(13)));
        assert!(figures.rows_ended);
        let kinds: Vec<&str> = figures.latency.iter().map(|latency| latency.op.as_str()).collect();
        assert_eq!(kinds, ["read", "write", "flush", "discard"]);
        assert_eq!(of_target(&ublk_target::Figures::default(), None).space_bytes, 0);
    }
}
