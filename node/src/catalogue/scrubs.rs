//! The last scrub of a volume, as the catalogue keeps it: whether one is wanted, how far it came, what it found.
//!
//! Crash story: the position, the counts up to it and the findings up to it are stored together, so that a scrub that
//! goes on from a record counts nothing twice and forgets nothing that was told. Findings are told as events before
//! the record says that they were seen: an agent that is killed in between tells them twice, never not at all.
use crate::scrub::{Copies, FoundCopy, FoundKind, FoundOutcome, FoundTotals, Order, Seen, TargetScrub};
use serde::{Deserialize, Serialize};

/// Findings that are kept with a volume.
pub const MAX_FINDINGS: usize = 100;
/// Pieces of damage that are kept with a volume.
pub const MAX_DAMAGE: usize = 1000;

/// Key of the record of a volume.
pub fn key(volume: &str) -> String {
    format!("scrubs/{volume}")
}

/// Whether a scrub is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// It is to go on to its end.
    Run,
    /// It came to its end.
    Finished,
    /// It was ended.
    Stopped,
}

/// Something that no leg has right.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Damage {
    /// What.
    pub kind: FoundKind,
    /// The first block of the volume that it makes unreadable.
    pub lba: Option<u64>,
    /// How many from there on.
    pub blocks: Option<u64>,
    /// Where it is, if it is no part of the volume: drive and block.
    pub place: Option<(String, u64)>,
}

impl Damage {
    fn of(found: &FoundCopy) -> Self {
        let place = found.lba.is_none().then(|| (found.drive.clone(), found.drive_block));
        Self { kind: found.kind, lba: found.lba, blocks: found.blocks, place }
    }
}

/// The last scrub of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScrubRecord {
    /// Identity of the volume.
    pub volume: String,
    /// Its number among the volume's scrubs.
    pub run: u64,
    /// Whether it is wanted.
    pub want: Want,
    /// It waits for others of its pool that began so: one at a time.
    pub in_turn: bool,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339; when it finished or was ended.
    pub ended_at: Option<String>,
    /// The block of the volume where it goes on.
    pub position: u64,
    /// Where it was begun last: the activation, and which beginning of its target.
    pub begun: Option<(u64, u64)>,
    /// What was looked at before that.
    pub before: Copies,
    /// What was looked at in all.
    pub copies: Copies,
    /// The last findings that were told.
    pub seen: Option<Seen>,
    /// The last copies that were wrong, the newest last.
    pub last_findings: Vec<FoundCopy>,
    /// What it found that no leg has right, in order, without repetition.
    pub lost: Vec<Damage>,
    /// The same of the scrub before, until this one is through.
    pub lost_before: Vec<Damage>,
    /// What this one and those before it found.
    #[serde(default)]
    pub totals: FoundTotals,
}

impl ScrubRecord {
    /// A scrub that begins now; `last` is the one before.
    pub fn begin(volume: &str, in_turn: bool, last: Option<&Self>) -> Self {
        Self {
            volume: volume.to_owned(),
            run: last.map_or(1, |last| last.run + 1),
            want: Want::Run,
            in_turn,
            started_at: crate::text::now(),
            ended_at: None,
            position: 0,
            begun: None,
            before: Copies::default(),
            copies: Copies::default(),
            seen: last.and_then(|last| last.seen),
            last_findings: Vec::new(),
            lost: Vec::new(),
            lost_before: last.map(Self::damage).unwrap_or_default(),
            totals: last.map(|last| last.totals).unwrap_or_default(),
        }
    }

    /// It is not wanted any more.
    pub fn stop(&mut self) {
        if self.want == Want::Run {
            (self.want, self.ended_at) = (Want::Stopped, Some(crate::text::now()));
        }
    }

    /// What a target is to be told.
    pub fn order(&self) -> Option<Order> {
        (self.want == Want::Run).then_some(Order { run: self.run, from_block: self.position })
    }

    /// All damage that is known, in order.
    pub fn damage(&self) -> Vec<Damage> {
        let mut all: Vec<Damage> = self.lost.iter().chain(&self.lost_before).cloned().collect();
        all.sort_unstable();
        all.dedup();
        all.truncate(MAX_DAMAGE);
        all
    }

    /// Findings of a look that were not seen before.
    pub fn news<'a>(&self, look: &'a TargetScrub) -> &'a [FoundCopy] {
        let seen = Seen { gen_number: look.gen_number, batch: look.batch };
        if self.seen == Some(seen) { &[] } else { &look.found }
    }

    /// Takes a look at the target. Returns whether it is worth storing at once.
    pub fn take(&mut self, look: &TargetScrub) -> bool {
        let mut worth = !self.news(look).is_empty();
        for found in self.news(look) {
            self.totals.count(found.outcome);
            if found.outcome == FoundOutcome::Lost {
                let damage = Damage::of(found);
                if let Err(place) = self.lost.binary_search(&damage)
                    && self.lost.len() < MAX_DAMAGE
                {
                    self.lost.insert(place, damage);
                }
            }
            self.last_findings.push(found.clone());
        }
        let beyond = self.last_findings.len().saturating_sub(MAX_FINDINGS);
        self.last_findings.drain(..beyond);
        self.seen = Some(Seen { gen_number: look.gen_number, batch: look.batch });
        if look.run != Some(self.run) || self.want != Want::Run {
            return worth;
        }
        let begun = Some((look.gen_number, look.begun));
        if self.begun != begun {
            (self.before, self.begun, worth) = (self.copies, begun, true);
        }
        self.copies = self.before.plus(look.copies);
        self.position = self.position.max(look.position);
        if look.finished {
            (self.want, self.ended_at) = (Want::Finished, Some(crate::text::now()));
            self.lost_before.clear();
            worth = true;
        }
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lba: u64, drive_block: u64, outcome: FoundOutcome) -> FoundCopy {
        let (lba, blocks) = (Some(lba), Some(1));
        FoundCopy { kind: FoundKind::Data, lba, blocks, drive: "d".into(), drive_block, outcome }
    }

    fn look(run: u64, begun: (u64, u64), position: u64, checked: u64) -> TargetScrub {
        TargetScrub {
            gen_number: begun.0,
            begun: begun.1,
            run: Some(run),
            finished: false,
            stands_aside: false,
            position,
            copies: Copies { checked, ..Copies::default() },
            batch: 0,
            found: Vec::new(),
        }
    }

    /// A target dies at copy 100 and the next one goes on; then it is told to begin once more: nothing counts twice.
    #[test]
    fn counts_add_up_over_targets_and_beginnings() {
        let mut record = ScrubRecord::begin("v", false, None);
        assert!(record.take(&look(1, (5, 1), 0, 0)), "where it was begun is stored");
        assert!(!record.take(&look(1, (5, 1), 128, 100)));
        assert_eq!(record.order(), Some(Order { run: 1, from_block: 128 }));
        assert!(record.take(&look(1, (6, 1), 128, 0)));
        record.take(&look(1, (6, 1), 256, 50));
        record.take(&look(1, (6, 2), 256, 7));
        assert_eq!((record.copies.checked, record.position), (157, 256));
        // Another scrub's figures do not count.
        record.take(&look(2, (6, 2), 999, 999));
        assert_eq!((record.copies.checked, record.position), (157, 256));
        let end = TargetScrub { finished: true, ..look(1, (6, 2), 300, 10) };
        assert!(record.take(&end));
        assert_eq!((record.want, record.copies.checked), (Want::Finished, 160));
        assert_eq!(record.order(), None);
    }

    /// A batch that comes again, because the answer or the agent was lost, is not taken again.
    #[test]
    fn a_batch_counts_once() {
        let mut record = ScrubRecord::begin("v", false, None);
        let batch = TargetScrub {
            batch: 1,
            found: vec![found(7, 70, FoundOutcome::Repaired)],
            ..look(1, (5, 1), 0, 0)
        };
        assert_eq!(record.news(&batch).len(), 1);
        assert!(record.take(&batch));
        assert_eq!(record.news(&batch).len(), 0);
        assert!(!record.take(&batch));
        assert_eq!(record.last_findings.len(), 1);
        // The next target's first batch has the same number.
        let other = TargetScrub { gen_number: 6, ..batch };
        assert_eq!(record.news(&other).len(), 1);
    }

    /// Each copy counts once, and the next scrub goes on counting.
    #[test]
    fn findings_are_counted_over_all_scrubs() {
        let totals = |repaired, lost, drive_out| FoundTotals {
            copies_repaired: repaired,
            copies_lost: lost,
            copies_drive_out: drive_out,
        };
        let mut record = ScrubRecord::begin("v", false, None);
        let outcomes = [FoundOutcome::Repaired, FoundOutcome::Repaired, FoundOutcome::Repaired];
        let outcomes = outcomes.into_iter().chain([FoundOutcome::Lost, FoundOutcome::Lost]);
        let found: Vec<FoundCopy> = (0..)
            .zip(outcomes.chain([FoundOutcome::DriveOut]))
            .map(|(lba, outcome)| found(lba, lba, outcome))
            .collect();
        let batch = TargetScrub { batch: 1, found, ..look(1, (5, 1), 0, 0) };
        record.take(&batch);
        record.take(&batch);
        assert_eq!(record.totals, totals(3, 2, 1));
        record.stop();
        let mut next = ScrubRecord::begin("v", false, Some(&record));
        assert_eq!(next.totals, totals(3, 2, 1));
        next.take(&TargetScrub { batch: 2, ..batch });
        assert_eq!(next.totals, totals(6, 4, 2));
        // A record of an earlier build has none.
        let mut old = serde_json::to_value(&next).expect("encodes");
        old.as_object_mut().expect("an object").remove("totals");
        let old: ScrubRecord = serde_json::from_value(old).expect("a record");
        assert_eq!(old.totals, totals(0, 0, 0));
    }

    /// What is lost is lost on each leg, and stays known until a whole scrub did not find it any more.
    #[test]
    fn damage_is_known_until_a_whole_scrub_does_not_find_it() {
        let mut record = ScrubRecord::begin("v", false, None);
        let lost = vec![found(7, 70, FoundOutcome::Lost), found(7, 90, FoundOutcome::Lost)];
        record.take(&TargetScrub { batch: 1, found: lost, ..look(1, (5, 1), 0, 0) });
        assert_eq!(record.damage().len(), 1);
        record.stop();
        let mut next = ScrubRecord::begin("v", false, Some(&record));
        assert_eq!((next.run, next.damage().len()), (2, 1));
        next.take(&TargetScrub { batch: 1, finished: true, ..look(2, (5, 2), 9, 9) });
        assert_eq!(next.damage(), []);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut record = ScrubRecord::begin("v", false, None);
        let many = (0..5000).map(|lba| found(lba, lba, FoundOutcome::Lost)).collect();
        record.take(&TargetScrub { batch: 1, found: many, ..look(1, (5, 1), 0, 0) });
        assert_eq!((record.last_findings.len(), record.damage().len()), (MAX_FINDINGS, MAX_DAMAGE));
        assert_eq!(record.last_findings.last().and_then(|last| last.lba), Some(4999));
    }
}
