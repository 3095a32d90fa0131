//! Drives that were announced to a pool and are not complete: their labels are written, or they are given up.
//!
//! Crash story: between the announcement and the label nothing on a drive says whose it is, and its path may lead to
//! another drive by then, perhaps one in use: names of the kernel move. So a drive without its label is written only for
//! the command that names it, which looks at it as at any drive that it is given. An agent that starts finishes what has
//! its label, and tells of the rest; nobody else's command touches it.
use super::check_size;
use crate::agent::Agent;
use crate::agent::locks::Verb;
use crate::catalogue::records::{LeftRecord, left_key};
use crate::catalogue::{DriveRecord, Life, PoolRecord, Severity, Versioned, records};
use crate::drives::{LabelState, Media, label as labels, read_label, write_label};
use crate::error::{Error, Kind, Result};
use crate::{files, text};
use base::{Blocks, Uuid};
use volume::Label;

/// Who finishes drives that were announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::agent) enum Finisher<'a> {
    /// An agent that starts: nobody looked at the drives.
    Start,
    /// A command, for the drives that it names.
    Command {
        /// Their identities.
        drives: &'a [String],
        /// Whatever is on them may go.
        force: bool,
    },
}

impl Agent {
    /// Writes labels that were announced and marks pool and drives ready, as far as this finisher may. Once all drives of
    /// a pool that is being created are ready, so is the pool.
    ///
    /// # Errors
    /// The first of its drives that cannot be finished; the others are, if they can be.
    pub(in crate::agent) fn finish_pool(
        &self,
        space: &mut Verb<'_>,
        mut pool: Versioned<PoolRecord>,
        finisher: Finisher<'_>,
    ) -> Result<()> {
        let mut drives = self.pool_drives(&pool)?;
        let mut added = Vec::new();
        let mut failed = None;
        for drive in drives.iter_mut().filter(|drive| drive.life == Life::Creating) {
            let prepared = match finisher {
                Finisher::Start => space.aside(|| self.prepare_drive(&pool, drive, None)),
                Finisher::Command { drives, force } if drives.contains(&drive.id) => {
                    space.aside(|| self.prepare_drive(&pool, drive, Some(force)))
                }
                Finisher::Command { .. } => continue,
            };
            match prepared {
                Ok(()) => {
                    drive.life = Life::Ready;
                    added.push(drive.path.display().to_string());
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let complete = drives.iter().all(|drive| drive.life == Life::Ready);
        let created = pool.life == Life::Creating && complete;
        if created || !added.is_empty() {
            if created {
                pool.life = Life::Ready;
            }
            let mut txn = self.store.txn().update(records::pool_key(&pool.name), &pool);
            for drive in &drives {
                txn = txn.update(records::drive_key(&drive.id), drive);
            }
            txn.commit()?;
            for drive in drives.iter().filter(|drive| drive.life == Life::Ready) {
                space.add_drive(&drive.id, drive.extents);
            }
        }
        if pool.life == Life::Ready && (created || !added.is_empty()) {
            let (verb, what) = if created { ("create", "created with") } else { ("add", "got") };
            if created {
                added = drives.iter().map(|drive| drive.path.display().to_string()).collect();
            }
            let count = text::counted(added.len(), "drive");
            let message = format!("pool {} {what} {count}: {}", pool.name, added.join(" "));
            self.events.history(&pool.id, &format!("pool {verb} {}", pool.name), &message);
            self.events.record(Severity::Info, &format!("pool_{verb}"), &pool.name, &message);
            super::warn_of_small_extents(self, &pool, created);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes the label that was announced for a drive. `force`: that of the command that names it; without one nothing is
    /// written to a drive that does not have the label. What is on the drive is checked again: something may have come
    /// between the announcement and now, and something else may be at its path.
    fn prepare_drive(&self, pool: &PoolRecord, drive: &DriveRecord, force: Option<bool>) -> Result<()> {
        let media = Media::open(&drive.path)?;
        let wanted = label_of(pool, drive)?;
        let name = drive.path.display().to_string();
        match read_label(&media) {
            Ok(LabelState::Ours { label, bad_copy: None }) if label == wanted => return Ok(()),
            Ok(LabelState::Ours { label, .. }) if label == wanted => {}
            _ => {
                let force = force.ok_or_else(|| unfinished(pool, drive))?;
                self.check_unused(&media, force)?;
                check_size(&media)?;
                if media.blocks().get() < drive.blocks {
                    let message = format!("{name} is smaller than when it was announced");
                    return Err(Error::new(Kind::Refused, name, message).hint(way_out(&pool.name, drive)));
                }
                labels::clear_ends(&media)?;
            }
        }
        write_label(&media, &wanted)
    }

    /// Gives up a drive that was announced: `drive remove`. Its label goes, if it has it already; nothing else on whatever
    /// is at its path by now is touched.
    pub(in crate::agent) fn forget_announced(
        &self,
        space: &mut Verb<'_>,
        pool: &mut Versioned<PoolRecord>,
        drive: &Versioned<DriveRecord>,
    ) -> Result<()> {
        space.aside(|| self.forget_label(pool, drive));
        let (id, path) = (&drive.id, drive.path.display());
        pool.drives.retain(|other| other != id);
        let left = LeftRecord { id: id.clone(), path: drive.path.clone(), to: None };
        let txn = self.store.txn().update(records::pool_key(&pool.name), pool);
        let txn = txn.remove(records::drive_key(id), drive).put(left_key(&pool.id, id), &left);
        txn.commit()?;
        space.remove_drive(id);
        let message = format!("drive {path} did not become a drive of pool {}", pool.name);
        self.events.history(&pool.id, &format!("drive remove {} {path}", pool.name), &message);
        self.events.record(Severity::Info, "drive_removed", id, &message);
        Ok(())
    }
}

/// What is said of a drive that was announced and is not complete.
pub(in crate::agent) fn unfinished(pool: &PoolRecord, drive: &DriveRecord) -> Error {
    let name = drive.path.display().to_string();
    let message = format!("{name} was to become a drive of pool {} and has no label of it", pool.name);
    Error::new(Kind::Refused, name, message).hint(way_out(&pool.name, drive))
}

/// What to do about a drive that was announced and is not complete.
pub(in crate::agent) fn way_out(pool: &str, drive: &DriveRecord) -> String {
    let path = drive.path.display();
    format!("plinth pool add {pool} {path} goes on, plinth drive remove {pool} {path} gives it up")
}

/// The label that a record stands for.
fn label_of(pool: &PoolRecord, drive: &DriveRecord) -> Result<Label> {
    Ok(Label {
        pool: uuid(&pool.id)?,
        pool_name: pool.name.clone(),
        drive: uuid(&drive.id)?,
        blocks: Blocks::new(drive.blocks),
        extent_blocks: pool.extent_blocks,
        written: drive.written,
        node: drive.node.clone(),
        rack: drive.rack.clone(),
        zone: drive.zone.clone(),
        class: drive.class.clone(),
    })
}

/// Parses an identity of the catalogue.
pub(crate) fn uuid(text: &str) -> Result<Uuid> {
    files::parse_uuid(text).ok_or_else(|| {
        Error::new(Kind::Damage, text, format!("the catalogue holds {text:?} where an identity should be"))
    })
}

#[cfg(test)]
mod tests;
