//! The groups of a pool as its drives describe them, made into records for an import.
//!
//! Rows come from the superblocks, never from headers alone; names from the headers of the home rows, of which
//! the newest writing counts. What has a header and no row stays taken, unless it is known to be nobody's.
//!
//! Of an encrypted group the headers have its envelope, which its wrapping key opens. Without that its rows are what all of
//! its drives say alike, and its names are not known: it is called by its identity, and stays uncertain until it is looked
//! at again with the key.
use super::volumes::DEFAULT_CACHE_BYTES;
use crate::catalogue::records::LeftOut;
use crate::catalogue::{
    CopyRecord, CopyState, DriveRecord, DriveState, ExtentRecord, GroupEncryption, GroupRecord, Life,
    PoolRecord, RowRecord, VolumeRecord,
};
use crate::drives::Media;
use crate::error::{Error, Kind, Result};
use crate::keys::newest_envelope;
use crate::text;
use base::{Blocks, DriveBlock};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use volume::{Names, StoredEnvelope};

/// A group with its volume and rows.
pub struct FoundGroup {
    /// The group.
    pub group: GroupRecord,
    /// Its volume, if a header tells its names and they could be read.
    pub volume: Option<VolumeRecord>,
    /// Its rows, in order.
    pub rows: Vec<RowRecord>,
}

/// What the drives of a pool have.
#[derive(Default)]
pub struct Found {
    /// Groups that can be rebuilt.
    pub groups: Vec<FoundGroup>,
    /// Those that cannot.
    pub left_out: Vec<LeftOut>,
    /// Extents that are in use, or may be, beside those of the groups.
    pub held: Vec<ExtentRecord>,
}

/// An open drive as the offline readers want it.
struct Reader<'a>(&'a Media);

impl plinth_check::Media for Reader<'_> {
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

/// Reads what is on the drives of a pool.
///
/// # Errors
/// A drive that cannot be read as one: what it holds would be taken for free.
pub fn found_on(
    pool: &PoolRecord,
    drives: &[(DriveRecord, Media)],
    keys: &plinth_check::KeysOf<'_>,
) -> Result<Found> {
    let names: Vec<String> = drives.iter().map(|(drive, _)| drive.path.display().to_string()).collect();
    let readers: Vec<Reader<'_>> = drives.iter().map(|(_, media)| Reader(media)).collect();
    let pairs = names.iter().zip(&readers);
    let given: Vec<(&str, &dyn plinth_check::Media)> =
        pairs.map(|(name, reader)| (name.as_str(), reader as &dyn plinth_check::Media)).collect();
    let summary = plinth_check::groups(&given, keys);
    let read: BTreeSet<String> = summary.drives.iter().map(ToString::to_string).collect();
    if let Some((drive, _)) = drives.iter().find(|(drive, _)| !read.contains(&drive.id)) {
        let name = drive.path.display().to_string();
        let message = format!("drive {name} cannot be read: nobody knows what it holds");
        return Err(Error::new(Kind::Damage, name.clone(), message).hint(format!("see plinth fsck {name}")));
    }
    let mut found = Found::default();
    for group in summary.groups.iter().filter(|group| group.pool.to_string() == pool.id) {
        match record(pool, group) {
            Ok(group) => found.groups.push(group),
            Err(why) => found.left_out.push(left_out(&group.group.to_string(), why)),
        }
    }
    found.left_out.extend(summary.left_out.iter().map(|left| left_out(&left.group.to_string(), &left.why)));
    for held in &summary.held {
        let (drive, extent) = (held.drive.to_string(), held.extent.get());
        if held.newer {
            let what = format!("of extent {extent} of drive {drive}");
            found.left_out.push(left_out(&what, "is of a newer format: use a newer plinth"));
        }
        let of = held.header;
        found.held.push(ExtentRecord {
            drive,
            extent,
            group: of.map_or_else(String::new, |header| header.group.to_string()),
            row: of.map_or(0, |header| header.row.get()),
            leg: of.map_or(0, |header| header.leg.get()),
            column: of.map_or(0, |header| header.column.get()),
            unbacked: true,
        });
    }
    Ok(found)
}

fn left_out(group: &str, why: &str) -> LeftOut {
    LeftOut { group: group.to_owned(), why: why.to_owned(), blocks: true }
}

/// A drive that groups name and that was not found: what is there of the pool is not all of it.
pub fn lacking(pool: &PoolRecord, id: &str) -> DriveRecord {
    DriveRecord {
        id: id.to_owned(),
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
        lost: None,
    }
}

/// How a group is encrypted, as its headers have it.
fn encryption_of(found: &plinth_check::Group) -> std::result::Result<Option<GroupEncryption>, &'static str> {
    let Some(envelopes) = &found.envelopes else { return Ok(None) };
    let (envelope, written) = newest_envelope(envelopes).ok_or_else(|| {
        if envelopes.first().is_some_and(StoredEnvelope::is_destroyed) {
            "is encrypted, and its key was destroyed: nobody can read it any more"
        } else {
            "is encrypted, and its envelope is in no header that is at hand"
        }
    })?;
    let key = envelope.key.clone();
    Ok(Some(GroupEncryption::new(key, Some(envelope), written)))
}

/// What an encrypted volume is called whose names could not be read, and its group.
pub fn nameless(group: &GroupRecord) -> VolumeRecord {
    let name = format!("group-{}", group.id.get(..8).unwrap_or(&group.id));
    VolumeRecord {
        id: group.id.clone(),
        name: name.clone(),
        pool: group.pool.clone(),
        group: name,
        created_at: group.created_at.clone(),
        life: Life::Ready,
        size_bytes: 0,
        cache_bytes: DEFAULT_CACHE_BYTES,
        renamed_from: None,
        attachment: None,
    }
}

/// Whether it is called so still.
pub fn is_nameless(group: &GroupRecord, volume: &VolumeRecord) -> bool {
    volume.id == group.id
}

/// A group's records; or why there are none.
fn record(pool: &PoolRecord, found: &plinth_check::Group) -> std::result::Result<FoundGroup, &'static str> {
    let id = found.group.to_string();
    let mut copies: Vec<CopyRecord> = found.drives.iter().map(copy).collect();
    let mut rows = Vec::with_capacity(found.rows.len());
    for (row, extents) in found.rows.iter().enumerate() {
        let place = |extent: &base::Extent| {
            Some((copies.get(usize::from(extent.drive.get()))?.drive.clone(), extent.extent.get()))
        };
        let extents: Option<Vec<_>> = extents.iter().map(place).collect();
        let extents = extents.ok_or("names a drive without an entry")?;
        rows.push(RowRecord { row: row as u32, extents, grant: 0 });
    }
    // A drive that was left keeps its entry in the drive table; it may not even exist any more.
    let used: BTreeSet<&String> = rows.iter().flat_map(|row| &row.extents).map(|(drive, _)| drive).collect();
    copies.retain(|copy| copy.state == CopyState::Current || used.contains(&copy.drive));
    let now = text::now();
    let group = GroupRecord {
        id,
        name: found.names.as_ref().map_or_else(String::new, |names| names.group.clone()),
        pool: pool.name.clone(),
        created_at: now.clone(),
        life: Life::Ready,
        legs: found.geometry.legs,
        columns: found.geometry.columns,
        stripe_blocks: found.geometry.stripe_blocks,
        home_blocks: Some(found.geometry.home.blocks),
        gen_number: found.generation.get(),
        rows_used: rows.len() as u32,
        copies,
        grants: 0,
        moves: 0,
        legs_wanted: None,
        unwiped: Vec::new(),
        imported: true,
        uncertain: !found.certain,
        encryption: encryption_of(found)?,
        served_gen: None,
        stays: false,
    };
    let volume = found.names.as_ref().map(|names| volume_of(pool, names, now));
    Ok(FoundGroup { group, volume, rows })
}

/// What the superblocks say of a copy. Its version is kept, so that a mark of an earlier life of the pool on this
/// machine does not count as news.
fn copy(entry: &fence::CopyEntry) -> CopyRecord {
    CopyRecord {
        drive: entry.drive.to_string(),
        state: match entry.state {
            fence::CopyState::Current => CopyState::Current,
            fence::CopyState::Stale { .. } => CopyState::Stale,
            fence::CopyState::Resyncing { .. } => CopyState::Resyncing,
        },
        version: entry.version,
        stale_since_seq: entry.state.since().map(|(seq, _)| seq.get()),
        stale_since_ckpt: entry.state.since().map(|(_, ckpt)| ckpt.get()),
        failed: false,
    }
}

fn volume_of(pool: &PoolRecord, names: &Names, created_at: String) -> VolumeRecord {
    VolumeRecord {
        id: names.volume_id.to_string(),
        name: names.volume.clone(),
        pool: pool.name.clone(),
        group: names.group.clone(),
        created_at,
        life: Life::Ready,
        size_bytes: names.size_bytes,
        cache_bytes: DEFAULT_CACHE_BYTES,
        renamed_from: None,
        attachment: None,
    }
}
