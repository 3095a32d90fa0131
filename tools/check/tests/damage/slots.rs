//! Copies of the superblock that differ, drives' states, the order of activations.
use crate::images::Image::{Closed, Log, Striped, Two};
use crate::images::OTHER;
use crate::table::{Row, damage, repairable};
use crate::tools::{FIRST, coded, flip, header_at, put_superblock, slot, superblock, supers};
use crate::world::Drives;
use base::{CkptNo, Gen, Seq, codec};
use fence::CopyState;
use volume::Superblock;
use volume::layout::extent::SUPERBLOCKS;
use volume::layout::superblock as at;

fn block(slot: usize) -> u64 {
    FIRST + u64::from(SUPERBLOCKS[slot])
}

/// Writes what a changed superblock says into one slot.
fn one(drives: &mut Drives, leg: usize, number: usize, change: impl FnOnce(&mut Superblock)) -> String {
    let mut changed = superblock(drives);
    change(&mut changed);
    let home = changed.homes().nth(leg * usize::from(drives.columns)).expect("a home");
    slot(drives, leg, number, |block| *block = coded(&changed, home))
}

const TWO: &str = "there are two different superblocks";

pub const ROWS: &[Row] = &[
    repairable("slot, rots", Closed, "fails its check", |d| {
        flip(d, 1, block(0), 200);
        "superblock slot 0 of leg 1 column 0".into()
    }),
    repairable("slot, rots in column 1", Striped, "fails its check", |d| {
        flip(d, 3, block(1), 200);
        "superblock slot 1 of leg 1 column 1".into()
    }),
    repairable("slot, empty", Closed, "is empty", |d| {
        d.put(0, block(1), &[0; 4096]);
        "superblock slot 1 of leg 0 column 0".into()
    }),
    repairable("slot, something else", Closed, "holds something else", |d| {
        d.put(0, block(1), &[0x5a; 4096]);
        "superblock slot 1 of leg 0 column 0".into()
    }),
    repairable("slot, a newer version", Closed, "format version 7", |d| {
        slot(d, 0, 1, |b| b[at::VERSION_AT] = 7)
    }),
    repairable("slot, impossible behind its check", Closed, "says something impossible", |d| {
        slot(d, 1, 1, |b| b[at::LEGS_AT] = 99)
    }),
    repairable("slot, torn in a log's group", Log, "fails its check", |d| {
        flip(d, 1, block(0), 200);
        flip(d, 1, block(1), 200);
        "superblock slot 1 of leg 1 column 0".into()
    }),
    repairable("slots of a leg, both zero", Closed, "is empty", |d| {
        (0..2).for_each(|slot| d.put(1, block(slot), &[0; 4096]));
        "superblock slot 1 of leg 1 column 0".into()
    }),
    repairable("slots of a leg, the other leg's", Closed, "belongs elsewhere", |d| {
        (0..2).for_each(|slot| {
            let other = d.get(0, block(slot));
            d.put(1, block(slot), &other);
        });
        "superblock slot 0 of leg 1 column 0".into()
    }),
    repairable("slots of a column, the other column's", Striped, "belongs elsewhere", |d| {
        (0..2).for_each(|slot| {
            let other = d.get(0, block(slot));
            d.put(1, block(slot), &other);
        });
        "superblock slot 0 of leg 0 column 1".into()
    }),
    repairable("slot, another group's", Two, "holds a superblock of another group", |d| {
        let other = d.get(1, header_at(d.extents - 1) + 3);
        d.put(1, block(0), &other);
        "superblock slot 0 of leg 1 column 0".into()
    }),
    repairable("slots of a leg, an older version", Closed, "holds an older version", |d| {
        (0..2).for_each(|slot| {
            one(d, 1, slot, |s| {
                s.version -= 1;
                s.drives.iter_mut().for_each(|drive| drive.version = 1);
            });
        });
        "superblock slot 0 of leg 1 column 0".into()
    }),
    repairable("slots of a leg, an older Gen", Closed, "holds an older version", |d| {
        (0..2).for_each(|slot| {
            one(d, 1, slot, |s| {
                s.generation = Gen::new(2);
                s.version -= 9;
                s.drives.iter_mut().for_each(|drive| drive.version = 1);
            });
        });
        "superblock slot 1 of leg 1 column 0".into()
    }),
    damage("slots, all rotten", Closed, "no superblock that can be used: fails its check", |d| {
        (0..2).for_each(|drive| (0..2).for_each(|slot| flip(d, drive, block(slot), 77)));
        "group".into()
    }),
    damage("slot, the same version with another checkpoint", Closed, TWO, |d| {
        one(d, 1, 1, |s| s.ckpt = s.ckpt.next());
        "superblock slot 1 of leg 1 column 0 has another checkpoint".into()
    }),
    damage("slot, the same version with another D", Closed, TWO, |d| {
        one(d, 1, 1, |s| s.durable = s.durable.next());
        "has another D".into()
    }),
    damage("slot, the same version with another start of the log", Closed, TWO, |d| {
        one(d, 1, 1, |s| s.next_commit = s.next_commit.next());
        "has another start of the log".into()
    }),
    damage("slot, the same version with another start of the ring", Closed, TWO, |d| {
        one(d, 1, 1, |s| s.ring_start.0[0] ^= 1);
        "has another start of the ring".into()
    }),
    damage("slot, the same version with another table of rows", Closed, TWO, |d| {
        one(d, 1, 1, |s| s.rows += 1);
        "has another table of rows".into()
    }),
    damage("slot, the same version with another history", Closed, TWO, |d| {
        one(d, 1, 1, |s| s.line.as_mut().expect("a line").salt = [1; 16]);
        "has another history".into()
    }),
    damage("slot, the same version with another directory", Closed, TWO, |d| {
        one(d, 1, 1, |s| s.directory.check.0[0] ^= 1);
        "has another directory".into()
    }),
    damage("slot, the same version with other states of drives", Closed, TWO, |d| {
        one(d, 1, 1, |s| {
            s.drives[0].state = CopyState::stale(Seq::new(5), CkptNo::new(1));
            s.drives[0].version -= 1;
        });
        "has another table of drives".into()
    }),
    damage("slot, the same version in another pool", Closed, TWO, |d| {
        one(d, 1, 1, |s| s.pool = base::Uuid([77; 16]));
        "has another pool".into()
    }),
    damage("slot, the same version not closed", Closed, TWO, |d| {
        one(d, 1, 1, |s| s.clean = false);
        "has another mark of a clean close".into()
    }),
    damage("slot, bytes that nobody knows", Closed, "bytes set that this program does not know", |d| {
        slot(d, 1, 0, |b| b[450] = 1)
    }),
    damage("slot, a mark newer than itself", Closed, "and has a state of drive", |d| {
        slot(d, 1, 0, |b| codec::put_u64(b, at::DRIVE_TABLE_AT + 32, 1 << 40))
    }),
    damage(
        "slot, an older Gen with a higher version",
        Closed,
        "of an older Gen, and the newest superblock is version",
        |d| {
            one(d, 1, 0, |s| {
                s.generation = Gen::new(2);
                s.version += 5;
            })
        },
    ),
    damage("a drive with the only copies is not current", Striped, "no current copy of", |d| {
        let stale = CopyState::stale(Seq::new(5), CkptNo::new(1));
        supers(d, |s| [1, 3].iter().for_each(|i| s.drives[*i].state = stale))
    }),
    damage("a drive with the only copies is being resynced", Striped, "no current copy of", |d| {
        let state = CopyState::Resyncing { seq: Seq::new(5), ckpt: CkptNo::new(1), unproven: false };
        supers(d, |s| [0, 2].iter().for_each(|i| s.drives[*i].state = state))
    }),
    damage("a home extent of another group", Two, "as well", |d| {
        // The second group says that its home extents are those of the first one's second row.
        let last = d.extents - 1;
        let place = header_at(last) + 3;
        let (mut other, _) = Superblock::decode(&d.get(0, place)).expect("a superblock");
        assert_eq!(other.group, OTHER);
        other.home.iter_mut().for_each(|home| home.extent = base::ExtentNo::new(1));
        for home in other.homes().collect::<Vec<_>>() {
            let drive = usize::from(home.extent.drive.get());
            for slot in 3..5 {
                d.put(drive, header_at(1) + slot, &coded(&other, home));
            }
            let header = d.get(drive, header_at(last));
            let mut found = volume::Header::decode(&header).expect("a header");
            found.extent = base::ExtentNo::new(1);
            d.put(drive, header_at(1), &found.encode());
            d.media[drive].content.retain(|at, _| *at < header_at(last) || *at >= header_at(last) + 8);
        }
        "extent 1 is row".into()
    }),
    damage("a row's extent is the home extent of another group", Two, "as well", |d| {
        let last = u64::from(d.extents - 1);
        let root = superblock(d).row_pages;
        let mut rows = crate::tools::read(d, root.pba);
        let entry = codec::u64_at(&rows[..], 4 * 8);
        codec::put_u64(&mut rows[..], 4 * 8, entry >> 32 << 32 | last);
        crate::tools::write(d, root.pba, &rows);
        let mut changed = superblock(d);
        changed.row_pages.check = crate::tools::home_check(d, &rows);
        put_superblock(d, &changed);
        format!("extent {last} is row")
    }),
];
