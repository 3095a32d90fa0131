//! The superblock, field by field, in all of its copies and behind right checks.
use crate::images::Image::{Closed, Log, Striped};
use crate::table::{Row, damage};
use crate::tools::{super_bytes, supers};
use base::{Check, CkptNo, CommitNo, Gen, Pba, Seq, Uuid, codec};
use cow::Ref;
use fence::CopyState;
use volume::layout::superblock as at;

const NONE: &str = "no superblock that can be used";
const IMPOSSIBLE: &str = "passes its check and says something impossible";

pub const ROWS: &[Row] = &[
    damage("superblock, magic", Closed, NONE, |d| super_bytes(d, |b| b[at::MAGIC_AT] = 0)),
    damage("superblock, a newer version", Closed, "format version 2", |d| {
        super_bytes(d, |b| b[at::VERSION_AT] = 2)
    }),
    damage("superblock, version 0", Closed, IMPOSSIBLE, |d| super_bytes(d, |b| b[at::VERSION_AT] = 0)),
    damage("superblock, kind of check", Closed, IMPOSSIBLE, |d| super_bytes(d, |b| b[at::CHECK_KIND_AT] = 9)),
    damage("superblock, legs none", Closed, IMPOSSIBLE, |d| super_bytes(d, |b| b[at::LEGS_AT] = 0)),
    damage("superblock, legs too few", Closed, "it says row 0 instead of 1, leg 1 instead of 0", |d| {
        super_bytes(d, |b| b[at::LEGS_AT] = 1);
        "header of extent 0".into()
    }),
    damage("superblock, legs too many", Closed, "both lie on d0", |d| {
        super_bytes(d, |b| b[at::LEGS_AT] = 3);
        "row 0".into()
    }),
    damage("superblock, columns none", Closed, IMPOSSIBLE, |d| super_bytes(d, |b| b[at::COLUMNS_AT] = 0)),
    damage("superblock, columns too many", Closed, "column 0 instead of 1", |d| {
        super_bytes(d, |b| b[at::COLUMNS_AT] = 2);
        "header of extent 0".into()
    }),
    damage("superblock, columns too few", Striped, "beyond its 1 columns", |d| {
        super_bytes(d, |b| b[at::COLUMNS_AT] = 1);
        "group".into()
    }),
    damage("superblock, flags unknown", Closed, "bytes set that this program does not know", |d| {
        super_bytes(d, |b| b[at::FLAGS_AT] |= 2);
        "superblock slot 0 of leg 0 column 0".into()
    }),
    damage("superblock, closed with a log", Log, "was closed, and 7 commits follow", |d| {
        supers(d, |s| s.clean = true)
    }),
    damage("superblock, height of the row pages", Closed, "outside the home pages", |d| {
        supers(d, |s| s.row_height = 1);
        "row page 0 of level 0".into()
    }),
    damage("superblock, height that cannot be", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| b[at::ROW_HEIGHT_AT] = 4)
    }),
    damage("superblock, drives too few", Closed, IMPOSSIBLE, |d| super_bytes(d, |b| b[at::DRIVES_AT] = 1)),
    damage("superblock, drives too many", Closed, IMPOSSIBLE, |d| super_bytes(d, |b| b[at::DRIVES_AT] = 3)),
    damage("superblock, drives beyond the table", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| b[at::DRIVES_AT] = 33)
    }),
    damage("superblock, group", Closed, "holds a superblock of another group", |d| {
        super_bytes(d, |b| b[at::GROUP_AT] = 99)
    }),
    damage("superblock, Gen above its line's", Closed, "its newest history line of Gen 3", |d| {
        supers(d, |s| s.generation = Gen::new(9))
    }),
    damage("superblock, Gen below its line's", Closed, "its newest history line of Gen 3", |d| {
        supers(d, |s| s.generation = Gen::new(2))
    }),
    damage("superblock, version below its drives' marks", Closed, "from version", |d| {
        supers(d, |s| s.version = 1);
        "superblock slot 0 of leg 0 column 0".into()
    }),
    damage("superblock, version below what the log names", Log, "newer than any at hand", |d| {
        supers(d, |s| {
            s.version -= 1;
            s.drives.iter_mut().for_each(|drive| drive.version = 1);
        })
    }),
    damage("superblock, version that nobody reaches", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u64(b, at::NUMBER_AT, u64::MAX))
    }),
    damage("superblock, Gen that nobody reaches", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u64(b, at::GEN_AT, u64::from(u32::MAX)))
    }),
    damage("superblock, next commit that nobody reaches", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u64(b, at::NEXT_COMMIT_AT, u64::MAX))
    }),
    damage("superblock, Seq of the checkpoint that nobody reaches", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u64(b, at::CKPT_SEQ_AT, Seq::LIMIT - 1))
    }),
    damage("superblock, number of the checkpoint", Closed, "the superblock says 9999", |d| {
        supers(d, |s| s.ckpt = CkptNo::new(9999));
        "directory root".into()
    }),
    damage("superblock, no checkpoint and a directory", Closed, "checkpoint 0 has a directory", |d| {
        supers(d, |s| s.ckpt = CkptNo::ZERO)
    }),
    damage("superblock, a checkpoint and no directory", Closed, "has no directory", |d| {
        supers(d, |s| s.directory = Ref::ABSENT)
    }),
    damage("superblock, rows too few", Closed, "holds entries behind the last of", |d| {
        supers(d, |s| s.rows -= 1);
        "row page 0 of level 0".into()
    }),
    damage("superblock, rows too many", Closed, "holds something else than extents", |d| {
        supers(d, |s| s.rows += 1);
        "row page 0 of level 0".into()
    }),
    damage("superblock, rows none", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::ROWS_AT, 0))
    }),
    damage("superblock, Seq of the checkpoint too low", Closed, "the superblock says", |d| {
        supers(d, |s| s.ckpt_seq = Seq::new(s.ckpt_seq.get() - 1));
        "directory root: covers Seq".into()
    }),
    damage("superblock, Seq of the checkpoint above D", Closed, "is durable", |d| {
        supers(d, |s| s.ckpt_seq = s.durable.next())
    }),
    damage("superblock, Seq of the checkpoint beyond the format", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u64(b, at::CKPT_SEQ_AT, 1 << 60))
    }),
    damage("superblock, D below the checkpoint", Closed, "is durable", |d| {
        supers(d, |s| s.durable = Seq::new(3))
    }),
    damage("superblock, D above the log's end", Closed, "no copy has it, and everything up to Seq", |d| {
        let mut next = 0;
        supers(d, |s| {
            s.durable = Seq::new(s.durable.get() + 50);
            next = s.next_commit.get();
        });
        format!("commit {next}")
    }),
    damage("superblock, D beyond the format", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u64(b, at::DURABLE_AT, 1 << 60))
    }),
    damage(
        "superblock, next commit too high",
        Closed,
        "its check of the commit before is that of commit",
        |d| supers(d, |s| s.next_commit = s.next_commit.next()),
    ),
    damage(
        "superblock, next commit too low",
        Closed,
        "whose check is another than the superblock says",
        |d| supers(d, |s| s.next_commit = CommitNo::new(s.next_commit.get() - 1)),
    ),
    damage(
        "superblock, next commit before the newest line's first",
        Closed,
        "the newest history line begins with",
        |d| supers(d, |s| s.next_commit = CommitNo::new(1)),
    ),
    damage(
        "superblock, check of the commit before",
        Closed,
        "whose check is another than the superblock says",
        |d| supers(d, |s| s.previous.0[3] ^= 1),
    ),
    damage(
        "superblock, check of the commit before a log",
        Log,
        "no copy has it, and everything up to Seq",
        |d| {
            let mut next = 0;
            supers(d, |s| {
                s.previous = Check([7; 16]);
                next = s.next_commit.get();
            });
            format!("commit {next}")
        },
    ),
    damage("superblock, size of extents", Closed, NONE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::EXTENT_BLOCKS_AT, 512))
    }),
    damage("superblock, size of extents that is none", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::EXTENT_BLOCKS_AT, 100))
    }),
    damage("superblock, stripe unit", Striped, "outside the home pages", |d| {
        super_bytes(d, |b| codec::put_u32(b, at::STRIPE_BLOCKS_AT, 16));
        "row page 0 of level 0".into()
    }),
    damage("superblock, stripe unit that is none", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::STRIPE_BLOCKS_AT, 4))
    }),
    damage("superblock, row of the ring's first piece", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::PIECES_AT, 1))
    }),
    damage("superblock, first block of the ring", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::PIECES_AT + 4, 9))
    }),
    damage("superblock, length of the ring", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::PIECES_AT + 8, 65))
    }),
    damage("superblock, another piece of the ring", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::PIECES_AT + at::PIECE_BYTES + 8, 4))
    }),
    damage("superblock, first of the home pages", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::HOME_PAGES_AT, 73))
    }),
    damage("superblock, number of home pages", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::HOME_PAGES_AT + 4, 185))
    }),
    damage(
        "superblock, start of the ring",
        Closed,
        "the superblock keeps the ring of column 0 from block",
        |d| supers(d, |s| s.ring_start.0[0] = (s.ring_start.0[0] + 1) % 64),
    ),
    damage(
        "superblock, start of the ring of column 1",
        Striped,
        "the superblock keeps the ring of column 1",
        |d| supers(d, |s| s.ring_start.0[1] = (s.ring_start.0[1] + 1) % 48),
    ),
    damage(
        "superblock, start of the ring before a log",
        Log,
        "the log's places contradict each other",
        |d| {
            supers(d, |s| s.ring_start.0[0] = (s.ring_start.0[0] + 2) % 64);
            "commit".into()
        },
    ),
    damage("superblock, start of the ring beyond it", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::RING_START_AT, 64))
    }),
    damage("superblock, start of a ring that there is not", Closed, "beyond its 1 columns", |d| {
        supers(d, |s| s.ring_start.0[5] = 3)
    }),
    damage("superblock, Pba of the directory", Closed, "no copy is right", |d| {
        supers(d, |s| s.directory.pba = Pba::new(s.directory.pba.get() + 1));
        "directory root".into()
    }),
    damage(
        "superblock, Pba of the directory beyond the space",
        Closed,
        "the Ref to it makes no sense",
        |d| {
            supers(d, |s| s.directory.pba = Pba::new(1 << 35));
            "directory root".into()
        },
    ),
    damage("superblock, check of the directory", Closed, "fails its check", |d| {
        supers(d, |s| s.directory.check.0[0] ^= 1);
        "directory root".into()
    }),
    damage("superblock, flags of the directory", Closed, "the Ref to it makes no sense", |d| {
        super_bytes(d, |b| b[at::DIRECTORY_AT + 5] |= 4);
        "directory root".into()
    }),
    damage("superblock, a hole as directory", Closed, "the Ref to it makes no sense", |d| {
        supers(d, |s| s.directory = Ref::hole(Seq::new(3)));
        "directory root".into()
    }),
    damage("superblock, Seq of the directory", Closed, "the Ref to the root says checkpoint", |d| {
        supers(d, |s| s.directory.when = Seq::new(s.directory.when.get() - 1));
        "directory root".into()
    }),
    damage("superblock, checkpoint of the directory", Closed, "the Ref to the root says checkpoint", |d| {
        supers(d, |s| s.directory.tag -= 1);
        "directory root".into()
    }),
    damage(
        "superblock, Pba of the row pages outside the home pages",
        Closed,
        "lies outside the home pages",
        |d| {
            supers(d, |s| s.row_pages.pba = Pba::new(200));
            "row page 0 of level 0".into()
        },
    ),
    damage(
        "superblock, Pba of another home page as row page",
        Closed,
        "lies where another home page lies",
        |d| {
            supers(d, |s| s.history = s.row_pages);
            "history page 0 from the newest".into()
        },
    ),
    damage("superblock, check of the row pages", Closed, "fails its check", |d| {
        supers(d, |s| s.row_pages.check.0[0] ^= 1);
        "row page 0 of level 0".into()
    }),
    damage("superblock, a Seq for the row pages", Closed, "which a home page does not", |d| {
        supers(d, |s| s.row_pages.when = Seq::new(4));
        "row page 0 of level 0".into()
    }),
    damage("superblock, a checkpoint for the row pages", Closed, "which a home page does not", |d| {
        supers(d, |s| s.row_pages.tag = 4);
        "row page 0 of level 0".into()
    }),
    damage("superblock, no row pages", Closed, "rows and no row pages", |d| {
        supers(d, |s| s.row_pages = Ref::ABSENT);
        "row page".into()
    }),
    damage(
        "superblock, Pba of the history outside the home pages",
        Closed,
        "lies outside the home pages",
        |d| {
            supers(d, |s| s.history.pba = Pba::new(200));
            "history page 0".into()
        },
    ),
    damage("superblock, check of the history", Closed, "fails its check", |d| {
        supers(d, |s| s.history.check.0[0] ^= 1);
        "history page 0".into()
    }),
    damage("superblock, a checkpoint for the history", Closed, "which a home page does not", |d| {
        supers(d, |s| s.history.tag = 1);
        "history page 0".into()
    }),
    damage("superblock, no newest line", Closed, "no newest line", |d| supers(d, |s| s.line = None)),
    damage("superblock, first Seq of the line", Closed, "the newest history line begins with Seq", |d| {
        supers(d, |s| s.line.as_mut().expect("a line").first_seq = s.durable.next().next())
    }),
    damage("superblock, first Seq of the line 0", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u64(b, at::LINE_AT, 0))
    }),
    damage(
        "superblock, first Seq of the line before the line before",
        Closed,
        "lower Seq than the one before",
        |d| {
            supers(d, |s| s.line.as_mut().expect("a line").first_seq = Seq::new(1));
            "line of Gen 3".into()
        },
    ),
    damage("superblock, first commit of the line", Closed, "was closed before commit", |d| {
        supers(d, |s| s.line.as_mut().expect("a line").first_commit = s.next_commit.next())
    }),
    damage(
        "superblock, first commit of the line before the line before",
        Closed,
        "lower commit than the one before",
        |d| {
            supers(d, |s| s.line.as_mut().expect("a line").first_commit = CommitNo::ZERO);
            "line of Gen 3".into()
        },
    ),
    damage("superblock, Gen of the line", Closed, "its newest history line of Gen 4", |d| {
        supers(d, |s| s.line.as_mut().expect("a line").generation = Gen::new(4))
    }),
    damage("superblock, id of the line", Closed, "which the history gives to", |d| {
        supers(d, |s| s.line.as_mut().expect("a line").id = Uuid([99; 16]));
        "commit".into()
    }),
    damage("superblock, id of the line none", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| b[at::LINE_AT + 24..at::LINE_AT + 40].fill(0))
    }),
    damage("superblock, bytes behind the line", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| b[at::LINE_AT + 62] = 1)
    }),
    damage("superblock, pool", Closed, "belongs to another pool", |d| supers(d, |s| s.pool = Uuid([77; 16]))),
    damage("superblock, where the copy lies", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::SELF_AT + 4, 3))
    }),
    damage("superblock, drive of a home extent", Closed, NONE, |d| super_bytes(d, |b| b[at::HOME_AT] = 40)),
    damage("superblock, both legs of the home row on one drive", Closed, "both lie on d0", |d| {
        let mut changed = crate::tools::superblock(d);
        changed.home[1] = base::Extent { drive: changed.home[0].drive, extent: base::ExtentNo::new(9) };
        let home = changed.homes().next().expect("a home");
        for slot in [3, 4] {
            d.put(0, crate::tools::FIRST + slot, &crate::tools::coded(&changed, home));
            d.put(1, crate::tools::FIRST + slot, &[0; 4096]);
        }
        "row 0".into()
    }),
    damage("superblock, bytes behind the fields", Closed, "bytes set that this program does not know", |d| {
        super_bytes(d, |b| b[3500] = 1);
        "superblock slot 0 of leg 0 column 0".into()
    }),
    damage("drive table, a drive twice", Closed, "lists a drive twice", |d| {
        supers(d, |s| s.drives[1].drive = s.drives[0].drive)
    }),
    damage("drive table, a state that is none", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| b[at::DRIVE_TABLE_AT + 16] = 9)
    }),
    damage("drive table, a drive that is none", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| b[at::DRIVE_TABLE_AT..at::DRIVE_TABLE_AT + 16].fill(0))
    }),
    damage("drive table, S of a current copy", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u64(b, at::DRIVE_TABLE_AT + 24, 4))
    }),
    damage("drive table, C of a current copy", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| codec::put_u32(b, at::DRIVE_TABLE_AT + 20, 4))
    }),
    damage("drive table, unused bytes", Closed, IMPOSSIBLE, |d| {
        super_bytes(d, |b| b[at::DRIVE_TABLE_AT + 17] = 1)
    }),
    damage("drive table, bytes behind an entry", Closed, "bytes set that this program does not know", |d| {
        super_bytes(d, |b| b[at::DRIVE_TABLE_AT + 50] = 1);
        "superblock slot 1 of leg 1 column 0".into()
    }),
    damage("drive table, no copy is current", Closed, "no current copy of", |d| {
        let stale = CopyState::stale(Seq::new(5), CkptNo::new(1));
        supers(d, |s| s.drives.iter_mut().for_each(|drive| drive.state = stale))
    }),
    damage("drive table, another drive's identity", Closed, "is another's: the drive is a copy", |d| {
        supers(d, |s| s.drives[1].drive = Uuid([66; 16]));
        "superblock slot 0 of leg 1 column 0".into()
    }),
    damage("drive table, a mark from a version that is not there", Closed, "and has a state of drive", |d| {
        supers(d, |s| s.drives[1].version = s.version + 1);
        "superblock slot 0 of leg 0 column 0".into()
    }),
];
