//! Making a new group: what must be written to its home extents before it can be opened for the first time.
//!
//! Crash story: headers first and flushed, then superblocks: a crash in between leaves extents with headers
//! that no superblock names, and they go back. The group has no checkpoint; its first opening, which is told
//! what volume to make, takes the first one.
use crate::geometry::Geometry;
use crate::header::Header;
use crate::keys::{GroupKeys, Keys};
use crate::label;
use crate::layout::extent as fixed;
use crate::superblock::Superblock;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use base::{
    Block, Blocks, Check, CheckKind, CkptNo, CommitNo, DriveBlock, DriveIx, Extent, Gen, RowNo, Seq, Uuid,
};
use cow::Ref;
use fence::{CopyEntry, CopyState};
use rlog::Positions;

/// What a new group is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewGroup {
    /// The pool.
    pub pool: Uuid,
    /// The group; random.
    pub group: Uuid,
    /// Its shape.
    pub geometry: Geometry,
    /// Its drives, in the order of its drive table.
    pub drives: Vec<Uuid>,
    /// The home row, ordered by leg, then column.
    pub home: Vec<Extent>,
}

/// Writes that belong together: all of them, then a flush of every drive, before the next phase.
pub type PhaseWrites = Vec<(DriveIx, DriveBlock, Box<Block>)>;

/// Why a group cannot be made so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadShape {
    /// The geometry cannot be (see `Geometry::check`).
    Geometry,
    /// The home row does not have one extent per leg and column, or names a drive that is not listed.
    Home,
}

/// The phases to carry out, in order.
///
/// # Errors
/// `BadShape`; nothing is to be written then.
pub fn plan(new: &NewGroup) -> Result<Vec<PhaseWrites>, BadShape> {
    phases(new, None)
}

/// The same for a group that is encrypted, with these keys, as long as it is.
///
/// # Errors
/// `BadShape`; nothing is to be written then.
pub fn plan_encrypted(new: &NewGroup, keys: GroupKeys) -> Result<Vec<PhaseWrites>, BadShape> {
    phases(new, Some(keys))
}

fn phases(new: &NewGroup, keys: Option<GroupKeys>) -> Result<Vec<PhaseWrites>, BadShape> {
    if !new.geometry.check() {
        return Err(BadShape::Geometry);
    }
    let listed = |extent: &Extent| usize::from(extent.drive.get()) < new.drives.len();
    if new.home.len() != new.geometry.row_extents() || !new.home.iter().all(listed) {
        return Err(BadShape::Home);
    }
    let keys = keys.map(|keys| Keys::new(keys, new.group));
    let checks = if keys.is_some() { CheckKind::AesGcm } else { CheckKind::Xxh3 };
    let oldest_key = u16::from(checks == CheckKind::AesGcm);
    let superblock = Superblock { checks, oldest_key, ..first_superblock(new) };
    let mut headers = PhaseWrites::new();
    let mut slots = [PhaseWrites::new(), PhaseWrites::new()];
    for home in superblock.homes() {
        let start = label::extent_start(home.extent.extent, new.geometry.extent_blocks);
        let header = Header {
            pool: new.pool,
            drive: new.drives[usize::from(home.extent.drive.get())],
            group: new.group,
            extent: home.extent.extent,
            row: RowNo::ZERO,
            leg: home.leg,
            column: home.column,
        };
        headers.push((home.extent.drive, start, Box::new(header.encode())));
        let block = superblock.encode_with(home, keys.as_ref());
        for (slot, writes) in slots.iter_mut().enumerate() {
            let at = start + Blocks::new(u64::from(fixed::SUPERBLOCKS[slot]));
            writes.push((home.extent.drive, at, Box::new(block)));
        }
    }
    let [first, second] = slots;
    Ok(vec![headers, first, second])
}

fn first_superblock(new: &NewGroup) -> Superblock {
    let entry = |drive: &Uuid| CopyEntry { drive: *drive, state: CopyState::Current, version: 1 };
    Superblock {
        pool: new.pool,
        group: new.group,
        generation: Gen::ZERO,
        version: 1,
        checks: CheckKind::Xxh3,
        geometry: new.geometry,
        clean: true,
        ckpt: CkptNo::ZERO,
        // Seq 1 is the volume's creation: all of it is a hole since then.
        ckpt_seq: Seq::new(1),
        durable: Seq::new(1),
        next_commit: CommitNo::ZERO,
        previous: Check::NONE,
        ring_start: Positions::default(),
        rows: 1,
        row_height: 0,
        row_pages: Ref::ABSENT,
        history: Ref::ABSENT,
        line: None,
        oldest_key: 0,
        oldest_ckpt: CkptNo::ZERO,
        directory: Ref::ABSENT,
        home: new.home.clone(),
        drives: new.drives.iter().map(entry).collect(),
    }
}
