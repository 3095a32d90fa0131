//! Handing a drive back to the engine, and how far it is.
//!
//! The engine takes a drive back only when nothing of its former life can reach it any more. Here that means: the
//! old open file is taken from the loop with nothing in flight on it and closed (its locks go with it, so that no
//! two files of one group lead to a drive), then the drive is opened and locked anew, its label is read, and the
//! engine gets it as a new drive of the loop.
use super::{Engine, Glue, LOOK_DEADLINE};
use crate::agent::parse_id;
use crate::error::{Error, Kind, Result};
use crate::protocol::TargetResync;
use crate::target::drives::OpenDrive;
use crate::target::locked::Wanted;
use base::{BLOCK_BYTES, NewDrive, Reply};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use ublk_target::Drive;
use volume::{CopyHealth, Stats, StaysIn};

/// How long a drive that comes back is tried while somebody has it: udev looks at it as it appears.
const RETURN_PATIENCE: Duration = Duration::from_secs(5);
/// The longest that the engine may take to begin.
const BEGIN_DEADLINE: Duration = Duration::from_secs(5);
/// How often it is told of the drive until it has begun.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Pause between two looks at the engine.
const PAUSE: Duration = Duration::from_millis(5);
/// The speed is that of so much time.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two samples of it lies at least so much.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// What was copied, lately.
#[derive(Default)]
pub(super) struct Progress {
    drive: String,
    samples: std::collections::VecDeque<(Instant, u64)>,
}

impl Progress {
    /// Takes a sample; the speed since the oldest one in the window, in bytes per second.
    fn sample(&mut self, drive: &str, now: Instant, copied: u64) -> Option<u64> {
        let before = self.samples.back().map(|(_, copied)| *copied);
        if self.drive != drive || before.is_some_and(|before| before > copied) {
            drive.clone_into(&mut self.drive);
            self.samples.clear();
        }
        if self.samples.back().is_none_or(|(at, _)| now - *at >= SAMPLE_EVERY) {
            self.samples.push_back((now, copied));
        }
        while self.samples.len() > 2 && now - self.samples[0].0 > WINDOW {
            self.samples.pop_front();
        }
        let (since, base) = *self.samples.front()?;
        let millis = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
        (millis >= SAMPLE_EVERY.as_millis() as u64).then(|| (copied - base).saturating_mul(1000) / millis)
    }
}

/// Where a drive's copy stands.
struct Look {
    health: Option<CopyHealth>,
    /// The drive that is being brought up to date.
    resync: Option<String>,
}

fn look(engine: &Engine, drive: &str) -> Option<Look> {
    let stats = engine.volume().stats()?;
    let view = stats.drives.iter().find(|view| view.uuid.to_string() == drive);
    let resync = stats.resync.and_then(|resync| engine.volume().drive(resync.drive));
    Some(Look { health: view.map(|view| view.health), resync: resync.map(|uuid| uuid.to_string()) })
}

impl Glue {
    fn look_at(&self, drive: &str) -> Result<Look> {
        let id = drive.to_owned();
        let seen = self.look(move |engine| look(engine, &id)).flatten();
        seen.ok_or_else(|| Error::new(Kind::Busy, drive, "the group does not answer"))
    }

    /// See `Serving::hand_back`.
    pub(super) fn hand_drive_back(&self, id: &str, path: &Path) -> Result<()> {
        let seen = self.look_at(id)?;
        match seen.health {
            None => {
                let message = format!("the group has nothing on drive {id}");
                return Err(Error::new(Kind::NotFound, id, message));
            }
            Some(CopyHealth::Current | CopyHealth::Resyncing(_)) => return Ok(()),
            Some(CopyHealth::Failing) => {
                return Err(Error::new(Kind::Busy, id, format!("drive {id} is being put out of use")));
            }
            Some(CopyHealth::Stale(_) | CopyHealth::Missing) => {}
        }
        if let Some(other) = seen.resync {
            return Err(Error::new(Kind::Busy, id, format!("drive {other} is being brought up to date")));
        }
        if self.open.get(id).is_some() {
            self.close(id)?;
        }
        let drive = Wanted::of(path, id, &self.spec)?.open(RETURN_PATIENCE)?;
        self.hand_drive(id, drive)?;
        let known =
            self.open.get(id).ok_or_else(|| Error::new(Kind::Failed, id, "the loop lost the drive"))?;
        let OpenDrive { uuid, number, blocks, volatile, .. } = known;
        let begun = self.wait_begun(id, NewDrive { uuid, handle: number, blocks, volatile });
        // Of no use here, the next attempt or another group's owner may want it; unless the engine began just now.
        if begun.is_err() && self.look(move |engine| engine.withdraw(uuid)) == Some(true) {
            let _ = self.close(id);
        }
        begun
    }

    /// Gives the engine a drive, and waits until it has taken it. One that is still reading its directory, or is busy
    /// with a scrub, does not hear: it is told again.
    fn wait_begun(&self, id: &str, drive: NewDrive) -> Result<()> {
        let start = Instant::now();
        let mut told: Option<Instant> = None;
        let mut had_rows: Option<bool> = None;
        loop {
            if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                told = Some(Instant::now());
                // A drive whose last row went meanwhile still says what the group was: it is not handed back again.
                let had = had_rows;
                let tell = move |engine: &mut Engine| {
                    let has = !engine.volume().extents_on(drive.uuid).is_empty();
                    if had.is_none_or(|had| had == has) {
                        base::Engine::reply(engine, Reply::Returned(drive));
                    }
                    had.unwrap_or(has)
                };
                had_rows = self.look(tell).or(had_rows);
            }
            let seen = self.look_at(id)?;
            let begun = matches!(seen.health, Some(CopyHealth::Current | CopyHealth::Resyncing(_)));
            if begun || seen.resync.as_deref() == Some(id) {
                return Ok(());
            }
            if start.elapsed() >= BEGIN_DEADLINE {
                let message = format!("the group does not take drive {id} back; it may have become smaller");
                return Err(Error::new(Kind::Refused, id, message));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// See `Serving::take_out`.
    pub(super) fn put_out(&self, id: &str) -> Result<()> {
        let uuid = parse_id(id)?;
        let outcome = self.look(move |engine| engine.take_out(uuid));
        let outcome = outcome.ok_or_else(|| Error::new(Kind::Busy, id, "the group does not answer"))?;
        let stays = |kind, why: &str| Err(Error::new(kind, id, format!("drive {id} stays in use: {why}")));
        match outcome {
            Ok(()) => Ok(()),
            Err(StaysIn::LastCopy) => {
                stays(Kind::Refused, "it has the last current copy of a part of the group")
            }
            Err(StaysIn::Joining) => stays(Kind::Busy, "it is joining the group with a new row"),
            Err(StaysIn::NotServing) => stays(Kind::Busy, "the group takes no writes now"),
        }
    }

    /// See `Serving::resync_rate`.
    pub(super) fn set_resync_rate(&self, bytes: u64) {
        let blocks = bytes.div_ceil(BLOCK_BYTES as u64);
        // A walk to a new data key writes no less.
        self.handle.with_engine(move |engine| {
            engine.set_resync_rate(blocks);
            engine.set_rekey_rate(blocks);
        });
    }

    /// See `Serving::release`.
    pub(super) fn let_go(&self, id: &str) -> Result<()> {
        if self.open.get(id).is_none() {
            return Ok(());
        }
        let seen = self.look_at(id)?;
        if !matches!(seen.health, Some(CopyHealth::Stale(_) | CopyHealth::Missing)) {
            return Err(Error::new(Kind::Refused, id, format!("the group counts on drive {id}")));
        }
        if seen.resync.as_deref() == Some(id) {
            return Err(Error::new(Kind::Busy, id, format!("drive {id} is being brought up to date")));
        }
        self.close(id)
    }

    /// Takes a drive from the loop and closes it.
    pub(super) fn close(&self, id: &str) -> Result<()> {
        let Some(known) = self.open.get(id) else { return Ok(()) };
        let (reply, answer) = channel::<std::io::Result<Drive>>();
        let (open, name) = (self.open.clone(), id.to_owned());
        self.handle.release_drive(known.number, move |released| {
            if released.is_ok() {
                open.remove(&name);
            }
            let _ = reply.send(released);
        });
        let released = answer.recv_timeout(LOOK_DEADLINE);
        let released =
            released.map_err(|_| Error::new(Kind::Busy, id, "the loop does not answer in time"))?;
        match released {
            Ok(drive) => {
                drop(drive);
                Ok(())
            }
            Err(source) => {
                let message = format!("drive {id} cannot be closed: {source}");
                Err(Error::new(Kind::Busy, id, message))
            }
        }
    }

    /// The resync that is under way.
    pub(super) fn resync_status(&self, stats: &Stats) -> Option<TargetResync> {
        let shown = show_resync(stats, stats.resync?)?;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes_per_second = progress.sample(&shown.drive, Instant::now(), shown.copied_bytes);
        Some(TargetResync { bytes_per_second, ..shown })
    }
}

/// What a resync has done, but for its speed.
pub(super) fn show_resync(stats: &Stats, resync: volume::ResyncStats) -> Option<TargetResync> {
    let bytes = |blocks: u64| blocks.saturating_mul(BLOCK_BYTES as u64);
    Some(TargetResync {
        drive: stats.drives.get(usize::from(resync.drive.get()))?.uuid.to_string(),
        copied_bytes: bytes(resync.copied_blocks),
        kept_bytes: bytes(resync.kept_blocks),
        lost_bytes: bytes(resync.lost_blocks),
        walked_bytes: bytes(resync.walked_blocks),
        bytes_per_second: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_of_the_last_seconds() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        let mut at = |seconds, copied| progress.sample("d", start + Duration::from_secs(seconds), copied);
        assert_eq!(at(0, 0), None);
        assert_eq!(at(1, 1000), Some(1000));
        assert_eq!(at(10, 10_000), Some(1000));
        for second in 11..=30 {
            at(second, 10_000 + (second - 10) * 5000);
        }
        assert_eq!(at(30, 110_000), Some(5000));
        // The next one begins anew.
        assert_eq!(progress.sample("e", start + Duration::from_secs(40), 50), None);
    }
}
