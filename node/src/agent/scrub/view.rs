//! Scrubs as the socket shows them.
use super::Watched;
use crate::agent::Agent;
use crate::catalogue::{CopyState, Damage, VolumeRecord, Want};
use crate::error::Result;
use crate::model::{Leg, LostRange, PoolScrub, Scrub, ScrubFinding, ScrubState, Volume};
use crate::scrub::{FoundKind, FoundTotals};
use base::BLOCK_BYTES;

/// Offsets of lost blocks that the sentence about a volume names.
const NAMED: usize = 8;
const BLOCK: u64 = BLOCK_BYTES as u64;

impl Agent {
    /// The last scrub of a volume.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub fn show_scrub(&self, name: &str) -> Result<Scrub> {
        let shown = self.show_volume(name)?;
        Ok(shown.scrub.unwrap_or_else(|| none(name)))
    }

    /// The last scrubs of a pool's volumes.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub fn show_pool_scrub(&self, name: &str) -> Result<PoolScrub> {
        self.pool(name)?;
        let of_pool = self.list_volumes()?.into_iter().filter(|volume| volume.pool == name);
        Ok(together(name, of_pool.filter_map(|volume| volume.scrub).collect()))
    }

    /// The last scrub of a volume, whose legs are these and hold so much each.
    pub(crate) fn view_scrub(&self, volume: &VolumeRecord, legs: &[Leg], used_bytes: Option<u64>) -> Scrub {
        let watched = self.scrubbing.watched();
        let Some(known) = watched.get(&volume.id) else { return none(&volume.name) };
        let current = |leg: &&Leg| leg.drives.iter().all(|drive| drive.state == CopyState::Current);
        let copies = legs.iter().filter(current).count() as u64;
        view(&volume.name, known, used_bytes.map(|bytes| bytes.saturating_mul(copies)))
    }
}

/// There was none.
fn none(volume: &str) -> Scrub {
    Scrub {
        volume: volume.to_owned(),
        state: ScrubState::None,
        waits_for: None,
        started_at: None,
        finished_at: None,
        bytes_total: None,
        bytes_done: 0,
        bytes_per_second: None,
        eta_seconds: None,
        copies_checked: 0,
        copies_repaired: 0,
        copies_lost: 0,
        last_findings: Vec::new(),
        lost: Vec::new(),
        lost_bytes: 0,
        totals: FoundTotals::default(),
    }
}

fn view(name: &str, known: &Watched, to_read: Option<u64>) -> Scrub {
    let record = &known.record;
    let state = match record.want {
        Want::Run if known.waits_for.is_some() || !known.told => ScrubState::Paused,
        Want::Run => ScrubState::Running,
        Want::Finished => ScrubState::Finished,
        Want::Stopped => ScrubState::Stopped,
    };
    let done = record.copies.checked.saturating_mul(BLOCK);
    let total = match state {
        ScrubState::Finished => Some(done),
        // What is read is not what was used when it began; it is at least what was read.
        _ => to_read.map(|bytes| bytes.max(done)),
    };
    let speed = (state == ScrubState::Running).then(|| known.speed()).flatten();
    let speed = speed.map(|copies| copies.saturating_mul(BLOCK));
    let left = total.map(|total| total - done);
    let finding = |found: &crate::scrub::FoundCopy| ScrubFinding {
        kind: found.kind,
        lba: found.lba,
        offset_bytes: found.offset_bytes(),
        volume: name.to_owned(),
        drive: found.drive.clone(),
        drive_offset_bytes: found.drive_offset_bytes(),
        outcome: found.outcome,
    };
    let lost: Vec<LostRange> = record.damage().iter().map(range).collect();
    Scrub {
        volume: name.to_owned(),
        state,
        waits_for: known.waits_for.clone().filter(|_| state == ScrubState::Paused),
        started_at: Some(record.started_at.clone()),
        finished_at: record.ended_at.clone().filter(|_| record.want == Want::Finished),
        bytes_total: total,
        bytes_done: done,
        bytes_per_second: speed,
        eta_seconds: left.zip(speed).filter(|(_, speed)| *speed > 0).map(|(left, speed)| left / speed),
        copies_checked: record.copies.checked,
        copies_repaired: record.copies.repaired,
        copies_lost: record.copies.lost,
        last_findings: record.last_findings.iter().map(finding).collect(),
        lost_bytes: lost.iter().filter_map(|range| range.length_bytes).fold(0, u64::saturating_add),
        lost,
        totals: record.totals,
    }
}

fn range(damage: &Damage) -> LostRange {
    let bytes = |blocks: Option<u64>| blocks.map(|blocks| blocks.saturating_mul(BLOCK));
    LostRange {
        kind: damage.kind,
        lba: damage.lba,
        offset_bytes: bytes(damage.lba),
        length_bytes: bytes(damage.blocks),
    }
}

/// The scrubs of a pool as one.
fn together(pool: &str, volumes: Vec<Scrub>) -> PoolScrub {
    let any = |state| volumes.iter().any(|scrub| scrub.state == state);
    let state = if any(ScrubState::Running) {
        ScrubState::Running
    } else if any(ScrubState::Paused) {
        ScrubState::Paused
    } else if any(ScrubState::Stopped) {
        ScrubState::Stopped
    } else if any(ScrubState::Finished) {
        ScrubState::Finished
    } else {
        ScrubState::None
    };
    let begun: Vec<&Scrub> = volumes.iter().filter(|scrub| scrub.state != ScrubState::None).collect();
    let sum = |field: fn(&Scrub) -> u64| begun.iter().map(|scrub| field(scrub)).fold(0, u64::saturating_add);
    let total: Option<u64> = begun
        .iter()
        .map(|scrub| scrub.bytes_total)
        .try_fold(0u64, |sum, bytes| Some(sum.saturating_add(bytes?)));
    let done = sum(|scrub| scrub.bytes_done);
    let speed = sum(|scrub| scrub.bytes_per_second.unwrap_or(0));
    let left = total.map(|total| total.saturating_sub(done));
    PoolScrub {
        pool: pool.to_owned(),
        state,
        started_at: begun.iter().filter_map(|scrub| scrub.started_at.clone()).min(),
        finished_at: begun
            .iter()
            .filter_map(|scrub| scrub.finished_at.clone())
            .max()
            .filter(|_| state == ScrubState::Finished),
        bytes_total: total.filter(|_| !begun.is_empty()),
        bytes_done: done,
        bytes_per_second: (speed > 0).then_some(speed),
        eta_seconds: left.filter(|_| speed > 0 && !begun.is_empty()).map(|left| left / speed),
        copies_checked: sum(|scrub| scrub.copies_checked),
        copies_repaired: sum(|scrub| scrub.copies_repaired),
        copies_lost: sum(|scrub| scrub.copies_lost),
        lost_bytes: sum(|scrub| scrub.lost_bytes),
        volumes,
    }
}

/// What is wrong with a volume that has lost something, and what to do; `None` when nothing is lost.
pub(crate) fn judge_lost(volume: &Volume) -> Option<(String, String)> {
    let (name, lost) = (&volume.name, &volume.scrub.as_ref()?.lost);
    let data: Vec<u64> = lost
        .iter()
        .filter(|range| range.kind == FoundKind::Data)
        .filter_map(|range| range.offset_bytes)
        .collect();
    let pages: Vec<String> = lost
        .iter()
        .filter(|range| range.kind == FoundKind::MapPage)
        .filter_map(|range| Some(format!("{} from offset {}", range.length_bytes?, range.offset_bytes?)))
        .collect();
    let others = lost.len() - data.len() - pages.len();
    let mut parts = Vec::new();
    if !data.is_empty() {
        let named: Vec<String> = data.iter().take(NAMED).map(ToString::to_string).collect();
        let more = data.len().saturating_sub(NAMED);
        let more =
            if more > 0 { format!(" and {more} more (plinth scrub status {name})") } else { String::new() };
        let (blocks, at) =
            (crate::text::counted(data.len(), "block"), if data.len() == 1 { "offset" } else { "offsets" });
        parts.push(format!("{blocks} of 4096 bytes at {at} {}{more}", named.join(", ")));
    }
    if !pages.is_empty() {
        parts.push(format!("the map of the bytes {}", pages.join(", ")));
    }
    if others > 0 {
        parts.push(format!("{} of its own records", crate::text::counted(others, "block")));
    }
    if parts.is_empty() {
        return None;
    }
    let status = format!("volume {name} cannot read, on any leg: {}", parts.join("; "));
    let action = format!(
        "restore these blocks from a backup, or overwrite or discard them; then plinth scrub start {name} checks again"
    );
    Some((status, action))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::ScrubRecord;

    fn lost(kind: FoundKind, lba: u64, blocks: u64) -> Damage {
        Damage { kind, lba: Some(lba), blocks: Some(blocks), place: None }
    }

    #[test]
    fn a_scrub_is_shown_as_far_as_it_is_known() {
        let mut known = Watched::new(ScrubRecord::begin("id", false, None));
        assert_eq!(view("v", &known, None).state, ScrubState::Paused, "its target has not heard of it");
        known.told = true;
        known.record.copies.checked = 100;
        let shown = view("v", &known, Some(300 * BLOCK));
        assert_eq!(
            (shown.state, shown.bytes_total, shown.bytes_done),
            (ScrubState::Running, Some(300 * BLOCK), 100 * BLOCK)
        );
        assert_eq!(view("v", &known, Some(5)).bytes_total, Some(100 * BLOCK));
        known.waits_for = Some("a drive".into());
        assert_eq!(view("v", &known, None).state, ScrubState::Paused);
        (known.record.want, known.waits_for) = (Want::Finished, None);
        assert_eq!(view("v", &known, None).bytes_total, Some(100 * BLOCK));
        known.record.lost = vec![lost(FoundKind::Data, 17, 1), lost(FoundKind::MapPage, 128, 128)];
        let shown = view("v", &known, None);
        assert_eq!((shown.lost_bytes, shown.lost[0].offset_bytes), (129 * BLOCK, Some(17 * BLOCK)));
    }

    #[test]
    fn a_pool_is_as_far_as_its_volumes_together() {
        let mut done = none("a");
        (done.state, done.bytes_total, done.bytes_done) = (ScrubState::Finished, Some(10), 10);
        let mut half = none("b");
        (half.state, half.bytes_total, half.bytes_done) = (ScrubState::Running, Some(30), 5);
        half.bytes_per_second = Some(5);
        let shown = together("p", vec![done.clone(), half, none("c")]);
        assert_eq!(
            (shown.state, shown.bytes_total, shown.eta_seconds),
            (ScrubState::Running, Some(40), Some(5))
        );
        assert_eq!(together("p", vec![done, none("c")]).state, ScrubState::Finished);
        assert_eq!(together("p", vec![none("c")]).bytes_total, None);
    }
}
