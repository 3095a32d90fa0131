//! The groups of a pool as its drives describe them, made into records for an import.
//!
//! Rows come from the superblocks, never from headers alone; names from the headers of the home rows, of which
//! the newest writing counts.
use super::volumes::DEFAULT_CACHE_BYTES;
use crate::catalogue::{
    CopyRecord, CopyState, DriveRecord, DriveState, GroupRecord, Life, PoolRecord, RowRecord, VolumeRecord,
};
use crate::drives::Media;
use crate::error::{Error, Kind, Result};
use crate::text;
use base::{Blocks, DriveBlock, ExtentNo};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use volume::Names;
use volume::label::extent_start;

/// A group with its volume and rows.
pub struct FoundGroup {
    /// The group.
    pub group: GroupRecord,
    /// Its volume.
    pub volume: VolumeRecord,
    /// Its rows, in order.
    pub rows: Vec<RowRecord>,
}

/// An open drive as the offline readers want it.
struct Reader(Media);

impl plinth_check::Media for Reader {
    fn blocks(&self) -> Blocks {
        self.0.blocks()
    }

    fn read_into(&self, at: DriveBlock, into: &mut [u8]) -> io::Result<()> {
        for (index, block) in into.chunks_exact_mut(base::BLOCK_BYTES).enumerate() {
            let read = self.0.read(at + Blocks::new(index as u64)).map_err(io::Error::other)?;
            block.copy_from_slice(&read[..]);
        }
        Ok(())
    }
}

/// Reads the groups on the drives of a pool.
///
/// # Errors
/// A drive that cannot be opened.
pub fn groups_on(pool: &PoolRecord, drives: &[DriveRecord]) -> Result<Vec<FoundGroup>> {
    let mut readers = Vec::with_capacity(drives.len());
    for drive in drives {
        readers.push((drive.path.display().to_string(), Reader(Media::open_read(&drive.path)?)));
    }
    let given: Vec<(&str, &dyn plinth_check::Media)> =
        readers.iter().map(|(name, reader)| (name.as_str(), reader as &dyn plinth_check::Media)).collect();
    let (found, _) = plinth_check::groups(&given);
    let ours = found.into_iter().filter(|group| group.pool.to_string() == pool.id);
    ours.map(|group| record(pool, drives, &readers, &group)).collect()
}

/// Drives that the groups name and that were not found: what is there of the pool is not all of it.
pub fn lacking(pool: &PoolRecord, groups: &[FoundGroup]) -> Vec<DriveRecord> {
    let named: BTreeSet<&String> =
        groups.iter().flat_map(|found| &found.group.copies).map(|copy| &copy.drive).collect();
    let absent = named.into_iter().filter(|id| !pool.drives.contains(id));
    absent
        .map(|id| DriveRecord {
            id: id.clone(),
            pool: pool.id.clone(),
            path: PathBuf::from("(missing)"),
            life: Life::Ready,
            state: DriveState::Online,
            node: String::new(),
            rack: String::new(),
            zone: String::new(),
            class: String::new(),
            blocks: 0,
            extents: 0,
            written: 0,
            leaving: None,
            lost_since: None,
        })
        .collect()
}

fn record(
    pool: &PoolRecord,
    drives: &[DriveRecord],
    readers: &[(String, Reader)],
    found: &plinth_check::Group,
) -> Result<FoundGroup> {
    let id = found.group.to_string();
    let copies: Vec<CopyRecord> = found
        .drives
        .iter()
        .map(|entry| CopyRecord {
            drive: entry.drive.to_string(),
            state: match entry.state {
                fence::CopyState::Current => CopyState::Current,
                fence::CopyState::Stale { .. } => CopyState::Stale,
                fence::CopyState::Resyncing { .. } => CopyState::Resyncing,
            },
            version: if entry.state.is_current() { 0 } else { entry.version },
            stale_since_seq: entry.state.since().map(|(seq, _)| seq.get()),
            stale_since_ckpt: entry.state.since().map(|(_, ckpt)| ckpt.get()),
            failed: false,
        })
        .collect();
    let drive_of = |index: base::DriveIx| {
        let copy = copies.get(usize::from(index.get())).map(|copy| copy.drive.clone());
        copy.ok_or_else(|| {
            Error::new(Kind::Damage, id.clone(), format!("group {id} names a drive without an entry"))
        })
    };
    let mut rows = Vec::with_capacity(found.rows.len());
    for (row, extents) in found.rows.iter().enumerate() {
        let extents: Result<Vec<_>> =
            extents.iter().map(|extent| Ok((drive_of(extent.drive)?, extent.extent.get()))).collect();
        rows.push(RowRecord { row: row as u32, extents: extents?, grant: 0 });
    }
    let names = rows.first().and_then(|home| newest_names(pool, drives, readers, home));
    // Without names the group is called by its identity.
    let short = id.get(..8).unwrap_or(&id);
    let names = names.ok_or_else(|| {
        Error::new(Kind::Damage, id.clone(), format!("no header of group {id} tells its names"))
            .hint(format!("plinth fsck tells more; the group would be called {short}"))
    })?;
    let now = text::now();
    let group = GroupRecord {
        id: id.clone(),
        name: names.group.clone(),
        pool: pool.name.clone(),
        created_at: now.clone(),
        life: Life::Ready,
        legs: found.geometry.legs,
        columns: found.geometry.columns,
        stripe_blocks: found.geometry.stripe_blocks,
        gen_number: found.generation.get(),
        rows_used: rows.len() as u32,
        copies,
        grants: 0,
        moves: 0,
        legs_wanted: None,
        unwiped: Vec::new(),
        imported: true,
    };
    let volume = VolumeRecord {
        id: names.volume_id.to_string(),
        name: names.volume,
        pool: pool.name.clone(),
        group: names.group,
        created_at: now,
        life: Life::Ready,
        size_bytes: names.size_bytes,
        cache_bytes: DEFAULT_CACHE_BYTES,
        renamed_from: None,
        attachment: None,
    };
    Ok(FoundGroup { group, volume, rows })
}

/// The newest names in the headers of a home row.
fn newest_names(
    pool: &PoolRecord,
    drives: &[DriveRecord],
    readers: &[(String, Reader)],
    home: &RowRecord,
) -> Option<Names> {
    let read = |(id, extent): &(String, u32)| {
        let reader = &readers[drives.iter().position(|drive| drive.id == *id)?].1;
        let block = reader.0.read(extent_start(ExtentNo::new(*extent), pool.extent_blocks)).ok()?;
        Names::read(&block).ok()?
    };
    home.extents.iter().filter_map(read).max_by_key(|names| names.written)
}
