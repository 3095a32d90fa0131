//! What drives say of their own health: asked every few minutes, kept in memory, shown with the drives.
//!
//! A drive may take a minute to answer, and one that is broken does not answer at all. So nobody who asks the agent
//! waits for it: a thread of its own asks each drive, at most one at a time, and what it said last is shown.
use super::Agent;
use crate::catalogue::{DriveRecord, Life, Severity};
use crate::model::{Drive, Smart};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How often drives are asked.
const EVERY: Duration = Duration::from_secs(300);
/// How often is looked whether there are new drives.
const NEW_DRIVES: Duration = Duration::from_secs(60);

/// The bits of a warning, in words.
const WARNINGS: [&str; 6] = [
    "spare below its threshold",
    "temperature out of range",
    "reliability degraded",
    "media is read-only",
    "backup of volatile memory failed",
    "persistent memory region is read-only",
];

/// What is known of a drive.
#[derive(Clone, Default)]
struct Asked {
    /// A thread waits for its answer.
    under_way: bool,
    /// Counts down to the next question.
    wait: Duration,
    said: Option<Smart>,
}

/// What drives said, by id.
#[derive(Default)]
pub(crate) struct Answers(Mutex<BTreeMap<String, Asked>>);

impl Answers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// Adds to drives what they said.
    pub(super) fn add_smart(&self, drives: &mut [Drive]) {
        let answers = self.smart.lock();
        for drive in drives {
            drive.smart = answers.get(&drive.id).and_then(|asked| asked.said.clone());
        }
    }

    /// Asks drives until the agent ends.
    pub(crate) async fn ask_drives(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let this = self.clone();
            let due = super::blocking(move || Ok(this.due_drives(NEW_DRIVES))).await;
            for (id, path) in due.unwrap_or_default() {
                let this = self.clone();
                // Not one of the runtime's threads for blocking work: a broken drive holds it for a long time.
                let thread = std::thread::Builder::new().name("smart".into());
                if let Err(error) = thread.spawn(move || this.ask_drive(&id, &path)) {
                    tracing::warn!("cannot ask drives for their health: {error}");
                }
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(NEW_DRIVES) => {}
            }
        }
    }

    /// The drives that are to be asked now; each is marked as under way.
    fn due_drives(&self, passed: Duration) -> Vec<(String, PathBuf)> {
        let drives = self.store.list::<DriveRecord>("drives/").unwrap_or_default();
        let mut answers = self.smart.lock();
        answers.retain(|id, asked| asked.under_way || drives.iter().any(|drive| drive.id == *id));
        let mut due = Vec::new();
        for drive in drives.iter().filter(|drive| drive.life == Life::Ready && self.is_there(drive)) {
            let asked = answers.entry(drive.id.clone()).or_default();
            asked.wait = asked.wait.saturating_sub(passed);
            if !asked.under_way && asked.wait.is_zero() {
                (asked.under_way, asked.wait) = (true, EVERY);
                due.push((drive.id.clone(), drive.path.clone()));
            }
        }
        due
    }

    fn ask_drive(&self, id: &str, path: &std::path::Path) {
        let answer = ublk_target::smart::read(path);
        if let Err(error) = &answer {
            tracing::debug!("drive {} does not say how it is: {error}", path.display());
        }
        self.take_answer(id, path, answer.ok().flatten().map(shown));
    }

    /// What a drive said is shown from now on; what it warns of, and did not before, is told.
    fn take_answer(&self, id: &str, path: &std::path::Path, said: Option<Smart>) {
        let before = {
            let mut answers = self.smart.lock();
            let asked = answers.entry(id.to_owned()).or_default();
            asked.under_way = false;
            std::mem::replace(&mut asked.said, said.clone())
        };
        let warned = before.map(|said| said.warnings).unwrap_or_default();
        let warnings = said.map(|said| said.warnings).unwrap_or_default();
        if !warnings.is_empty() && warnings != warned {
            let message = format!("drive {} warns: {}", path.display(), warnings.join(", "));
            self.events.record(Severity::Warning, "drive_warns", id, &message);
        }
    }
}

fn shown(smart: ublk_target::smart::Smart) -> Smart {
    let bits = (0..8).filter(|bit| smart.critical_warning >> bit & 1 == 1);
    let word = |bit: usize| WARNINGS.get(bit).map_or_else(|| format!("bit {bit}"), ToString::to_string);
    Smart {
        read_at: crate::text::now(),
        warnings: bits.map(word).collect(),
        temperature_celsius: smart.temperature_celsius,
        spare_percent: smart.spare_percent,
        spare_threshold_percent: smart.spare_threshold_percent,
        used_percent: smart.used_percent,
        read_bytes: smart.read_bytes,
        written_bytes: smart.written_bytes,
        power_on_hours: smart.power_on_hours,
        power_cycles: smart.power_cycles,
        unsafe_shutdowns: smart.unsafe_shutdowns,
        media_errors: smart.media_errors,
        error_log_entries: smart.error_log_entries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{agent, told};
    use std::path::Path;

    /// A warning is told when it comes, by what it says, and once; another one again.
    #[test]
    fn a_drive_that_warns_is_told_once_for_each_warning() {
        let folder = tempfile::tempdir().expect("folder");
        let agent = agent(folder.path());
        let answer = |critical_warning: u8| {
            let smart = ublk_target::smart::Smart { critical_warning, ..Default::default() };
            agent.take_answer("id", Path::new("/dev/x"), Some(shown(smart)));
            told(&agent, "drive_warns")
        };
        assert_eq!(answer(0), [""; 0]);
        let first = "drive /dev/x warns: spare below its threshold, reliability degraded";
        assert_eq!(answer(0b101), [first]);
        assert_eq!(answer(0b101), [first], "said again, it is no news");
        let second = "drive /dev/x warns: spare below its threshold, bit 6";
        assert_eq!(answer(0b100_0001), [first, second]);
        assert_eq!(answer(0), [first, second]);
        assert_eq!(answer(0b101), [first, second, first], "it had gone meanwhile");
        let mut drives = vec![drive("id")];
        agent.add_smart(&mut drives);
        let shown = drives[0].smart.as_ref().expect("it was asked");
        assert_eq!(shown.warnings, ["spare below its threshold", "reliability degraded"]);
    }

    fn drive(id: &str) -> Drive {
        serde_json::from_value(serde_json::json!({ "id": id, "path": "", "state": "online", "size_bytes": 1,
            "allocated_bytes": 1, "read_errors": 0, "write_errors": 0, "check_errors": 0, "slow_events": 0 }))
        .expect("a drive")
    }
}
