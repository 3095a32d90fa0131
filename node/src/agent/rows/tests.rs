//! What a pool hands out and takes back, over a catalogue and drives in files.
use super::*;
use crate::agent::testing::{agent, options, pool, volume};
use crate::catalogue::embedded::faulty::{Medium, on as catalogue_on};
use crate::catalogue::{CopyRecord, VolumeRecord};
use crate::params::{AddDrives, CreatePool, CreateVolume, Labels};

const EXTENT: u64 = 8 << 20;

/// Sets what the pool keeps back; how much is free above that.
fn reserve(agent: &Agent, bytes: u64) -> u64 {
    agent.set_pool("p", "reserve", &bytes.to_string(), false).expect("sets").free_bytes
}

/// Neither a volume nor a row gets what is kept back, and a refusal changes nothing; lowered, they get it.
#[test]
fn the_reserve_is_kept_from_volumes_and_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let agent = agent(folder.path());
    pool(&agent, folder.path(), &["d1", "d2"]);
    agent.create_volume(&volume("v", 2), false).expect("creates");
    let free = reserve(&agent, 0);
    // One row of a mirror above the reserve.
    assert_eq!(reserve(&agent, free - 2 * EXTENT), 2 * EXTENT);
    agent.grant_row("v", 1, None).expect("a row above the reserve");
    let before = agent.show_pool("p").expect("shows");
    assert_eq!((before.free_bytes, before.reserved_bytes), (0, free - 2 * EXTENT));
    let refused = agent.grant_row("v", 2, None).expect_err("below the reserve");
    assert_eq!(refused.kind, Kind::NoSpace);
    assert!(refused.message.contains("no space left above its reserve"), "{refused}");
    for legs in [1, 2] {
        let refused = agent.create_volume(&volume("w", legs), false).expect_err("below the reserve");
        assert_eq!((refused.kind, refused.kind.exit_code()), (Kind::NoSpace, 7), "{refused}");
        assert!(refused.hint.is_some_and(|hint| hint.contains("plinth pool set p reserve=SIZE")));
    }
    assert_eq!(agent.show_pool("p").expect("shows"), before);
    // Not a byte of it: a reserve that ends within an extent is kept too.
    reserve(&agent, free - 4 * EXTENT + 1);
    assert_eq!(agent.grant_row("v", 2, None).expect_err("a byte short").kind, Kind::NoSpace);
    reserve(&agent, free - 4 * EXTENT);
    agent.grant_row("v", 2, None).expect("a row above the reserve");
    reserve(&agent, 0);
    agent.create_volume(&volume("w", 2), false).expect("creates");
}

/// The drive of a group's copy is away, and what is written misses it.
fn lose(agent: &Agent, folder: &std::path::Path, name: &str) -> String {
    let path = folder.join(name);
    let drives = agent.store.list::<DriveRecord>("drives/").expect("reads");
    let id = drives.iter().find(|drive| drive.path == path).expect("a drive").id.clone();
    std::fs::rename(&path, folder.join(format!("{name}-away"))).expect("moves away");
    let mut group = agent.group("v").expect("there");
    let copy = group.copies.iter_mut().find(|copy| copy.drive == id).expect("a copy");
    copy.state = CopyState::Stale;
    agent.store.txn().update(records::group_key("v"), &group).commit().expect("stores");
    id
}

fn on(row: &Row) -> Vec<(&str, bool)> {
    row.extents.iter().map(|extent| (extent.drive.as_str(), extent.away)).collect()
}

/// Adds a drive of 256 MiB to pool `p`, on this node.
fn add(agent: &Agent, folder: &std::path::Path, name: &str, node: &str) {
    let drive = folder.join(name);
    std::fs::File::create(&drive).expect("creates").set_len(256 << 20).expect("sizes");
    let labels =
        Labels { node: Some(node.into()).filter(|node: &String| !node.is_empty()), ..Labels::default() };
    agent.add_drives("p", &AddDrives { drives: vec![drive], labels, force: false }, false).expect("adds");
}

/// While a drive is away a row lies on drives that are there, if there are enough with space; else on that one too; and on
/// none of it once the group has nothing there.
#[test]
fn a_row_lies_on_a_drive_that_is_away_only_where_no_other_has_space() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = agent(folder.path());
    pool(&agent, folder.path(), &["d1", "d2"]);
    agent.create_volume(&volume("v", 2), false).expect("creates");
    let whole = agent.grant_row("v", 1, None).expect("a row");
    assert!(on(&whole).iter().all(|(_, away)| !away));
    let lost = lose(&agent, folder.path(), "d2");
    let row = agent.grant_row("v", 2, None).expect("a row");
    assert_eq!(on(&row).iter().filter(|(_, away)| *away).map(|(id, _)| *id).collect::<Vec<_>>(), [&lost]);
    // One that was handed out before is told the same way.
    assert_eq!(on(&agent.grant_row("v", 1, None).expect("it again")), on(&row));
    add(&agent, folder.path(), "d3", "");
    let row = agent.grant_row("v", 3, None).expect("a row");
    assert!(on(&row).iter().all(|(id, away)| *id != lost && !away), "{row:?}");
    // No column may lie on drives that are away only.
    ["d1", "d3"].iter().for_each(|name| drop(lose(&agent, folder.path(), name)));
    let refused = agent.grant_row("v", 4, None).expect_err("no drive is there");
    assert!(refused.message.contains("label drive is short"), "{refused}");
}

/// The story: the copies of drives that had been left counted as places of the group's table for ever. Once there had been 32
/// no row lay on a new drive any more, and a volume whose own drives were full heard of no space.
#[test]
fn places_of_drives_that_were_left_do_not_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = agent(folder.path());
    pool(&agent, folder.path(), &["d1", "d2"]);
    agent.create_volume(&volume("v", 1), false).expect("creates");
    let list_more = |state: CopyState| {
        let mut group = agent.group("v").expect("there");
        let own = group.copies[0].clone();
        group.copies.truncate(1);
        let others = (1..base::limits::MAX_DRIVES).map(|i| format!("00000000-0000-0000-0000-{i:012}"));
        group.copies.extend(others.map(|drive| CopyRecord { drive, state, ..own.clone() }));
        agent.store.txn().update(records::group_key("v"), &group).commit().expect("stores");
    };
    let home = agent.group("v").expect("there").copies[0].drive.clone();
    let drives = agent.store.list::<DriveRecord>("drives/").expect("reads");
    let path = &drives.iter().find(|drive| drive.id == home).expect("a drive").path;
    lose(&agent, folder.path(), path.file_name().and_then(|name| name.to_str()).expect("a name"));
    list_more(CopyState::Current);
    agent.grant_row("v", 1, None).expect_err("the table is full");
    list_more(CopyState::Stale);
    let row = agent.grant_row("v", 1, None).expect("a row");
    assert!(row.extents.iter().all(|extent| extent.drive != home), "{row:?}");
}

/// The story: of a pool on two nodes the only drive of one was stale. It did not count where the others were looked at, so
/// both legs of the next row lay on the node that was left, and were lost with it.
#[test]
fn legs_stay_on_two_nodes_while_one_is_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = agent(folder.path());
    let drive = folder.path().join("d1");
    std::fs::File::create(&drive).expect("creates").set_len(256 << 20).expect("sizes");
    let params = CreatePool {
        name: "p".into(),
        drives: vec![drive],
        labels: Labels { node: Some("n1".into()), ..Labels::default() },
        force: false,
        extent_bytes: Some(EXTENT),
    };
    agent.create_pool(&params, false).expect("creates");
    add(&agent, folder.path(), "d2", "n1");
    add(&agent, folder.path(), "d3", "n2");
    agent.create_volume(&volume("v", 2), false).expect("creates");
    let lost = lose(&agent, folder.path(), "d3");
    for row in 1..40 {
        let granted = agent.grant_row("v", row, None);
        let taken = agent.lock().free(&lost) == 0;
        match granted {
            Ok(row) => assert!(row.extents.iter().any(|extent| extent.drive == lost), "{row:?}"),
            Err(refused) => {
                assert!(taken && refused.message.contains("label node is short"), "{refused}");
                return;
            }
        }
    }
    panic!("the drive has 31 extents");
}

/// A volume is deleted while a drive of its is away. What the drive says of it when it is back is no news: not even
/// before it is wiped is the volume there again.
#[test]
fn a_deleted_volume_does_not_come_back_from_a_drive_that_was_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = agent(folder.path());
    let drives: Vec<_> = ["d1", "d2"].map(|name| folder.path().join(name)).to_vec();
    for drive in &drives {
        std::fs::File::create(drive).expect("creates").set_len(256 << 20).expect("sizes");
    }
    let params = CreatePool {
        name: "p".into(),
        drives: drives.clone(),
        labels: Labels::default(),
        force: false,
        extent_bytes: None,
    };
    agent.create_pool(&params, false).expect("creates");
    let params = CreateVolume { size_bytes: 1 << 20, ..volume("v", 2) };
    agent.create_volume(&params, false).expect("creates");
    std::fs::rename(&drives[1], folder.path().join("away")).expect("moves away");
    agent.delete_volume("v", false).expect("deletes");
    let left = agent.store.list::<DeletedRecord>(deleted::PREFIX).expect("reads");
    assert_eq!(left.len(), 1);
    // An agent of an earlier build was killed before the group's record was gone, and the deletion is done again: nothing is
    // forgotten by that.
    let (id, unwiped) = (left[0].group.clone(), left[0].extents.clone());
    let group = GroupRecord { id, unwiped, ..group_named(&agent, &params) };
    let pool = agent.pool("p").expect("there");
    agent.take_back(&mut agent.lock(), &pool, &group, agent.store.txn()).expect("again");
    assert_eq!(agent.store.list::<DeletedRecord>(deleted::PREFIX).expect("reads")[0].record, left[0].record);
    agent.delete_volume("w", false).expect("deletes");
    std::fs::rename(folder.path().join("away"), &drives[1]).expect("moves back");
    let rebuilt = agent.rebuild(&mut agent.lock(), pool, &[], None, false).expect("looks at the drives");
    assert_eq!(rebuilt.pool.left_out, []);
    assert_eq!(agent.store.list::<VolumeRecord>("volumes/").expect("reads"), []);
    assert!(agent.lock().taken(&left[0].extents[0].0) > 0);
    agent.settle_drives().expect("settles");
    assert_eq!(agent.lock().taken(&left[0].extents[0].0), 0);
    assert_eq!(agent.store.keys(deleted::PREFIX).expect("reads"), Vec::<String>::new());
}

/// The record of a group, of a volume that is made for it.
fn group_named(agent: &Agent, like: &CreateVolume) -> GroupRecord {
    let params = CreateVolume { name: "w".into(), legs: Some(1), ..like.clone() };
    agent.create_volume(&params, false).expect("creates");
    agent.group("w").expect("there").record
}

/// The story: a deletion freed the extents first, and forgot what the group had still to wipe in a second transaction. The
/// state folder was full in between, another volume grew, and the repetition wiped its blocks and freed its extents.
#[test]
fn a_deletion_that_was_cut_short_leaves_alone_what_is_somebody_elses_by_now() {
    let mut failures = 0;
    // Each other one is done all the same.
    for done in [false, true] {
        for changes in (u32::from(done)..).step_by(2) {
            let folder = tempfile::tempdir().expect("a folder");
            let medium = Medium::default();
            let agent = Agent::over(options(folder.path()), std::sync::Arc::new(catalogue_on(&medium)))
                .expect("opens");
            pool(&agent, folder.path(), &["d1"]);
            agent.create_volume(&volume("v", 1), false).expect("creates");
            agent.create_volume(&volume("w", 1), false).expect("creates");
            // What its target refused waits to be wiped.
            let refused = agent.grant_row("v", 1, None).expect("a row");
            agent.grant_row("v", 1, Some(refused.grant)).expect("another one");
            assert_eq!(agent.group("v").expect("there").unwiped.len(), 1);
            medium.fail_behind(changes, done);
            let deleted = agent.delete_volume("v", false);
            if !medium.has_failed() {
                deleted.expect("deletes");
                break;
            }
            failures += 1;
            medium.heal();
            agent.store.check().expect("works again");
            let grown = [1, 2, 3].map(|row| agent.grant_row("w", row, None).expect("a row"));
            grown.iter().for_each(|row| fill(&agent, &row.extents[0]));
            if let Err(error) = agent.delete_volume("v", false) {
                assert_eq!(error.kind, Kind::NotFound, "{error}");
            }
            grown.iter().for_each(|row| assert!(is_filled(&agent, &row.extents[0]), "at {changes}: {row:?}"));
            let next = agent.grant_row("w", 4, None).expect("a row");
            assert!(grown.iter().all(|row| row.extents[0].extent != next.extents[0].extent), "at {changes}");
            let taken = agent.store.keys("extents/").expect("lists").len();
            assert_eq!(taken, 5, "nothing is taken by nobody");
        }
    }
    assert!(failures > 10, "{failures} writes failed");
}

/// The header, a superblock slot and the first block of data of an extent.
const BLOCKS: [u64; 3] = [0, 3, 4];

/// Writes to an extent what its group could have there.
pub(in crate::agent) fn fill(agent: &Agent, extent: &RowExtent) {
    let start = extent_start(ExtentNo::new(extent.extent), agent.pool("p").expect("there").extent_blocks);
    let media = Media::open(&extent.path).expect("opens");
    BLOCKS
        .iter()
        .for_each(|block| media.write(start + Blocks::new(*block), &[7; BLOCK_BYTES]).expect("writes"));
}

/// Whether it is there.
pub(in crate::agent) fn is_filled(agent: &Agent, extent: &RowExtent) -> bool {
    let start = extent_start(ExtentNo::new(extent.extent), agent.pool("p").expect("there").extent_blocks);
    let media = Media::open(&extent.path).expect("opens");
    let has = |block: &u64| media.read(start + Blocks::new(*block)).expect("reads")[..] == [7; BLOCK_BYTES];
    BLOCKS.iter().all(has)
}
