//! What an import hears of drives: groups with their rows, those that cannot be described, and every extent that may be
//! in use all the same.
mod world;

use base::{BLOCK_BYTES, Block, Blocks, Check, DriveBlock, Uuid, codec};
use plinth_check::{Media, MemoryMedia, Summary, groups};
use std::io;
use volume::Header;
use volume::layout::OWN_CHECK;
use world::{Drives, EXTENT, EXTENTS, GROUP, POOL, Rng, World, uuid};

/// First block of extent 0.
const FIRST: u64 = 256;
const ZERO: Block = [0; BLOCK_BYTES];

/// A mirror of several rows, closed.
fn mirror() -> Drives {
    let mut world = World::serve(Drives::new(2, 1));
    world.work(&mut Rng(7), 400);
    let drives = world.close();
    assert!(drives.extents > 2, "rows were added");
    drives
}

fn summary(drives: &Drives, which: &[usize]) -> Summary {
    let given: Vec<(String, &MemoryMedia)> =
        which.iter().map(|drive| (format!("d{drive}"), &drives.media[*drive])).collect();
    let given: Vec<(&str, &dyn Media)> =
        given.iter().map(|(name, media)| (name.as_str(), *media as &dyn Media)).collect();
    groups(&given, &|_, _| None)
}

fn header_at(extent: u32) -> u64 {
    FIRST + u64::from(extent * EXTENT)
}

/// The extents that stay taken, on one drive.
fn held(summary: &Summary, drive: usize) -> Vec<u32> {
    let of_drive = summary.held.iter().filter(|held| held.drive == uuid(drive));
    let mut held: Vec<u32> = of_drive.map(|held| held.extent.get()).collect();
    held.sort_unstable();
    held
}

/// Changes a block that holds its own check.
fn sealed(drives: &mut Drives, drive: usize, at: u64, change: impl FnOnce(&mut Block)) {
    let mut block = drives.get(drive, at);
    change(&mut block);
    let check = Check::of(&block[..OWN_CHECK]);
    codec::put_check(&mut block[..], OWN_CHECK, check);
    drives.put(drive, at, &block);
}

#[test]
fn a_group_that_is_all_there_holds_its_rows_and_nothing_else() {
    let drives = mirror();
    let summary = summary(&drives, &[0, 1]);
    assert_eq!((summary.groups.len(), summary.left_out.len(), summary.held.len()), (1, 0, 0), "{summary:?}");
    let group = &summary.groups[0];
    assert!(group.certain);
    assert_eq!((group.group, group.pool, group.rows.len()), (GROUP, POOL, drives.extents as usize));
}

/// A row goes to a drive that has nothing of the home row. With the home drives away its headers are all that says that
/// it is in use; its extents were handed out again.
#[test]
fn rows_of_a_group_whose_home_is_away_stay_taken() {
    let mut drives = mirror();
    for block in [0, 3, 4] {
        drives.put(1, FIRST + block, &ZERO);
    }
    let summary = summary(&drives, &[1]);
    assert!(summary.groups.is_empty());
    assert_eq!(held(&summary, 1), (1..drives.extents).collect::<Vec<_>>());
    assert_eq!(summary.left_out.len(), 1, "{:?}", summary.left_out);
    assert!(summary.left_out[0].why.contains("on no drive that is at hand"), "{:?}", summary.left_out);
}

/// A leg was away while rows were added, and is found alone: what its superblock does not name may be in use.
#[test]
fn what_an_older_superblock_does_not_name_stays_taken_while_a_copy_is_away() {
    let first = mirror();
    let mut drives = first.clone();
    // The slots of before, under the rows of now.
    let before = World::serve(Drives::new(2, 1)).close();
    for block in [3, 4] {
        drives.put(1, FIRST + block, &before.get(1, FIRST + block));
    }
    let alone = summary(&drives, &[1]);
    assert_eq!(alone.groups.len(), 1);
    assert!(!alone.groups[0].certain);
    let known = alone.groups[0].rows.len() as u32;
    assert!(known < drives.extents, "the superblock is an older one");
    assert_eq!(held(&alone, 1), (known..drives.extents).collect::<Vec<_>>());
    let both = summary(&drives, &[0, 1]);
    assert!(both.groups[0].certain && both.held.is_empty(), "the other copy knows them");
}

/// With the newest superblock known, a header that it does not name is of a row on its way in or out.
#[test]
fn a_header_that_no_superblock_names_is_nobodys() {
    let mut drives = mirror();
    let header = Header::decode(&drives.get(0, header_at(1))).expect("a header");
    let stray = Header { extent: base::ExtentNo::new(EXTENTS - 1), row: base::RowNo::new(900), ..header };
    drives.put(0, header_at(EXTENTS - 1), &stray.encode());
    assert!(summary(&drives, &[0, 1]).held.is_empty());
    // Unless a copy that counts cannot be asked.
    for block in [3, 4] {
        drives.put(1, FIRST + block, &[7; BLOCK_BYTES]);
    }
    let unsure = summary(&drives, &[0, 1]);
    assert!(!unsure.groups[0].certain);
    assert_eq!(held(&unsure, 0), [EXTENTS - 1]);
}

#[test]
fn a_group_of_a_newer_format_is_left_out_and_keeps_everything() {
    let mut drives = mirror();
    for drive in 0..2 {
        for block in [3, 4] {
            sealed(&mut drives, drive, FIRST + block, |block| block[8] = 9);
        }
    }
    let summary = summary(&drives, &[0, 1]);
    assert!(summary.groups.is_empty());
    assert!(summary.left_out[0].why.contains("format version 9"), "{:?}", summary.left_out);
    for drive in 0..2 {
        assert_eq!(held(&summary, drive), (0..drives.extents).collect::<Vec<_>>());
    }
}

/// One slot is enough: whatever the newer one says counts more.
#[test]
fn a_superblock_of_a_newer_format_beside_older_ones_counts() {
    let mut drives = mirror();
    sealed(&mut drives, 1, FIRST + 3, |block| block[8] = 9);
    let summary = summary(&drives, &[0, 1]);
    assert!(summary.groups.is_empty() && summary.left_out[0].why.contains("format version 9"));
}

#[test]
fn a_header_of_a_newer_format_keeps_its_extent() {
    let mut drives = mirror();
    let mut header = drives.get(0, header_at(1));
    header[8] = 9;
    drives.put(0, header_at(EXTENTS - 1), &header);
    sealed(&mut drives, 0, header_at(EXTENTS - 1), |_| {});
    let summary = summary(&drives, &[0, 1]);
    assert_eq!(held(&summary, 0), [EXTENTS - 1]);
    assert!(summary.held[0].newer && summary.held[0].header.is_none());
    assert_eq!(summary.groups.len(), 1);
}

/// An extent is not wiped when its drive joins another pool.
#[test]
fn what_a_drive_held_in_an_earlier_pool_means_nothing() {
    let mut drives = mirror();
    let header = Header::decode(&drives.get(0, header_at(1))).expect("a header");
    let last = base::ExtentNo::new(EXTENTS - 1);
    for (pool, drive) in [(Uuid([77; 16]), header.drive), (header.pool, Uuid([77; 16]))] {
        let group = Uuid([78; 16]);
        for row in [base::RowNo::ZERO, base::RowNo::new(3)] {
            let old = Header { pool, drive, group, extent: last, row, ..header };
            drives.put(0, header_at(EXTENTS - 1), &old.encode());
            let summary = summary(&drives, &[0, 1]);
            assert!(summary.held.is_empty() && summary.left_out.is_empty(), "{summary:?}");
        }
    }
}

/// Reads everything but one block.
struct Broken<'a>(&'a MemoryMedia, u64);

impl Media for Broken<'_> {
    fn blocks(&self) -> Blocks {
        self.0.blocks()
    }

    fn read_into(&self, at: DriveBlock, into: &mut [u8]) -> io::Result<()> {
        let end = at.get() + (into.len() / BLOCK_BYTES) as u64;
        if (at.get()..end).contains(&self.1) {
            return Err(io::Error::other("a bad sector"));
        }
        self.0.read_into(at, into)
    }
}

#[test]
fn a_header_that_cannot_be_read_keeps_its_extent() {
    let mut drives = mirror();
    let read = |drives: &Drives, broken: u64| {
        let first = Broken(&drives.media[0], broken);
        groups(&[("d0", &first as &dyn Media), ("d1", &drives.media[1])], &|_, _| None)
    };
    let of_nobody = read(&drives, header_at(EXTENTS - 1));
    assert_eq!(held(&of_nobody, 0), [EXTENTS - 1]);
    let of_a_row = read(&drives, header_at(1));
    assert!(of_a_row.held.is_empty() && of_a_row.groups[0].certain, "its group says whose it is");
    // One that rotted begins like a header.
    let mut rotten = drives.get(0, header_at(1));
    rotten[40] ^= 1;
    drives.put(0, header_at(EXTENTS - 1), &rotten);
    assert_eq!(held(&summary(&drives, &[0, 1]), 0), [EXTENTS - 1]);
}

/// A creation that was cut short before its first superblock, and a deletion behind the last one.
#[test]
fn a_group_that_never_came_to_be_holds_nothing() {
    let mut drives = Drives::new(2, 1);
    for drive in 0..2 {
        for block in [3, 4] {
            drives.put(drive, FIRST + block, &ZERO);
        }
    }
    let summary = summary(&drives, &[0, 1]);
    assert!(summary.groups.is_empty() && summary.left_out.is_empty() && summary.held.is_empty());
}
