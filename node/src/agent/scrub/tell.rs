//! What a scrub has to tell, as events: each copy that was wrong, by what it is and where, many in one event.
use crate::agent::Agent;
use crate::catalogue::{ScrubRecord, Severity};
use crate::scrub::{FoundCopy, FoundOutcome};
use std::collections::BTreeMap;

/// Copies that one event names: ten thousand copies must not push everything else out of the list of events.
const PER_EVENT: usize = 64;

impl Agent {
    /// Tells of copies that were wrong: each is named, by drive.
    pub(super) fn tell_findings(&self, volume: &str, found: &[FoundCopy]) {
        let mut sorted: BTreeMap<(FoundOutcome, &str), Vec<&FoundCopy>> = BTreeMap::new();
        for copy in found {
            sorted.entry((copy.outcome, &copy.drive)).or_default().push(copy);
        }
        for ((outcome, drive), copies) in sorted {
            for some in copies.chunks(PER_EVENT) {
                let number =
                    if some.len() == 1 { "1 copy".to_owned() } else { format!("{} copies", some.len()) };
                let (severity, kind, became) = match outcome {
                    FoundOutcome::Repaired => {
                        (Severity::Warning, "scrub_repaired", "wrong and repaired from another leg")
                    }
                    FoundOutcome::Lost => (
                        Severity::Error,
                        "scrub_lost",
                        "wrong, and no leg has it right: reading it is an error",
                    ),
                    FoundOutcome::DriveOut => (
                        Severity::Warning,
                        "scrub_drive_out",
                        "wrong, and the drive failed as it was to be repaired",
                    ),
                };
                let places: Vec<String> = some.iter().map(|copy| copy.words()).collect();
                let message =
                    format!("volume {volume}: {number} on drive {drive} {became}: {}", places.join("; "));
                self.events.record(severity, kind, volume, &message);
            }
        }
    }

    /// Tells that a scrub is through.
    pub(super) fn tell_end(&self, volume: &str, record: &ScrubRecord) {
        let copies = record.copies;
        let severity = if copies.lost == 0 { Severity::Info } else { Severity::Error };
        let message = format!(
            "the scrub of volume {volume} is through: {} copies checked, {} repaired, {} lost on every leg",
            copies.checked, copies.repaired, copies.lost
        );
        self.events.record(severity, "scrub_finished", volume, &message);
    }
}
