//! History pages: the lines of the activations.
use crate::images::Image::{Closed, Log};
use crate::table::{Row, damage, repairable};
use crate::tools::{flip_all, flip_leg, home_check, put_superblock, read, superblock, supers, write};
use crate::world::Drives;
use base::{Block, CkptNo, Seq, codec};
use cow::Ref;
use rlog::layout::{
    L_FIRST_COMMIT, L_FIRST_SEQ, L_GEN, L_ID, L_SALT, LINE_BYTES, P_FIRST_LINE, P_LINES, P_MAGIC, P_PREVIOUS,
    P_VERSION,
};

const PAGE: &str = "history page 0 from the newest";

/// Changes the newest history page behind a right check.
fn history(drives: &mut Drives, change: impl FnOnce(&mut Block)) -> String {
    let mut superblock = superblock(drives);
    let mut page = read(drives, superblock.history.pba);
    change(&mut page);
    write(drives, superblock.history.pba, &page);
    superblock.history.check = home_check(drives, &page);
    put_superblock(drives, &superblock);
    PAGE.into()
}

/// Where a field of a line is.
const fn line(index: usize, field: usize) -> usize {
    P_FIRST_LINE + index * LINE_BYTES + field
}

/// Puts a second page behind the newest, and changes it.
fn older(drives: &mut Drives, change: impl FnOnce(&mut Block)) -> String {
    let pba = superblock(drives).geometry.home_page(15);
    let mut block = [0; 4096];
    rlog::history::encode_page(&[], &[0; 192], &mut block);
    change(&mut block);
    write(drives, pba, &block);
    let to = Ref::page(pba, Seq::ZERO, CkptNo::ZERO, home_check(drives, &block));
    history(drives, |page| to.encode(&mut page[P_PREVIOUS..P_PREVIOUS + 32]));
    "history page 1 from the newest".into()
}

const NONE: &str = "has its right check and is no history page";

pub const ROWS: &[Row] = &[
    repairable("history page, rots on one leg", Closed, "another copy is right", |d| {
        flip_leg(d, superblock(d).history.pba, 0);
        PAGE.into()
    }),
    damage("history page, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, superblock(d).history.pba);
        PAGE.into()
    }),
    damage("history page, magic", Closed, "it does not begin like one", |d| history(d, |p| p[P_MAGIC] = 0)),
    damage("history page, a newer version", Closed, "it has format version 2", |d| {
        history(d, |p| p[P_VERSION] = 2)
    }),
    damage("history page, more lines than fit", Closed, "more lines than fit", |d| {
        history(d, |p| p[P_LINES] = 61)
    }),
    damage("history page, fewer lines than there are", Closed, NONE, |d| history(d, |p| p[P_LINES] = 1)),
    damage("history page, more lines than there are", Closed, "line 2 is impossible", |d| {
        history(d, |p| p[P_LINES] = 3)
    }),
    damage("history page, reserved bytes", Closed, NONE, |d| history(d, |p| p[20] = 1)),
    damage("history page, bytes behind the lines", Closed, NONE, |d| history(d, |p| p[4000] = 1)),
    damage(
        "history page, bytes behind the Ref to the page before",
        Closed,
        "behind the Ref to the page before",
        |d| history(d, |p| p[P_PREVIOUS + 100] = 1),
    ),
    damage("history page, a page before outside the home pages", Closed, "outside the home pages", |d| {
        history(d, |p| p[P_PREVIOUS] = 200);
        "history page 1 from the newest".into()
    }),
    damage("history page, itself as the page before", Closed, "lies where another home page lies", |d| {
        let own = superblock(d).history;
        history(d, |p| own.encode(&mut p[P_PREVIOUS..P_PREVIOUS + 32]));
        "history page 1 from the newest".into()
    }),
    damage(
        "history page, the row page as the page before",
        Closed,
        "lies where another home page lies",
        |d| {
            let rows = superblock(d).row_pages;
            history(d, |p| rows.encode(&mut p[P_PREVIOUS..P_PREVIOUS + 32]));
            "history page 1 from the newest".into()
        },
    ),
    damage("history page, the page before is none", Closed, NONE, |d| older(d, |p| p[P_MAGIC] = 0)),
    damage(
        "history page, a newer line on the page before",
        Closed,
        "its Gen is not higher than the one before",
        |d| {
            older(d, |p| {
                let mut line = superblock_line();
                line.generation = base::Gen::new(2);
                line.id = base::Uuid([33; 16]);
                rlog::history::encode_page(&[line], &[0; 192], p);
            });
            PAGE.into()
        },
    ),
    damage("history line, first Seq 0", Closed, "line 1 is impossible", |d| {
        history(d, |p| codec::put_u64(p, line(1, L_FIRST_SEQ), 0))
    }),
    damage("history line, first Seq beyond the format", Closed, "line 1 is impossible", |d| {
        history(d, |p| codec::put_u64(p, line(1, L_FIRST_SEQ), 1 << 53))
    }),
    damage("history line, first Seq above the next line's", Closed, "lower Seq than the one before", |d| {
        history(d, |p| codec::put_u64(p, line(1, L_FIRST_SEQ), 1 << 40))
    }),
    damage("history line, first Seq below the line before", Closed, "lower Seq than the one before", |d| {
        history(d, |p| codec::put_u64(p, line(0, L_FIRST_SEQ), 1 << 40))
    }),
    damage(
        "history line, first commit above the next line's",
        Closed,
        "lower commit than the one before",
        |d| history(d, |p| codec::put_u64(p, line(1, L_FIRST_COMMIT), 1 << 40)),
    ),
    damage(
        "history line, first commit below the line before",
        Closed,
        "lower commit than the one before",
        |d| history(d, |p| codec::put_u64(p, line(0, L_FIRST_COMMIT), 1 << 40)),
    ),
    damage(
        "history line, Gen not above the line before",
        Closed,
        "its Gen is not above the line before",
        |d| history(d, |p| codec::put_u64(p, line(1, L_GEN), 1)),
    ),
    damage(
        "history line, Gen above the newest line's",
        Closed,
        "its Gen is not higher than the one before",
        |d| history(d, |p| codec::put_u64(p, line(1, L_GEN), 9)),
    ),
    damage("history line, no id", Closed, "line 1 is impossible", |d| {
        history(d, |p| p[line(1, L_ID)..line(1, L_ID) + 16].fill(0))
    }),
    damage("history line, the id of another activation", Closed, "have one id", |d| {
        history(d, |p| p.copy_within(line(0, L_ID)..line(0, L_ID) + 16, line(1, L_ID)))
    }),
    damage("history line, reserved bytes", Closed, "line 0 is impossible", |d| {
        history(d, |p| p[line(0, L_SALT) + 22] = 1)
    }),
    damage("history line, swapped with the next", Closed, NONE, |d| {
        history(d, |p| {
            let first: [u8; 64] = p[line(0, 0)..line(1, 0)].try_into().expect("a line");
            p.copy_within(line(1, 0)..line(2, 0), line(0, 0));
            p[line(1, 0)..line(2, 0)].copy_from_slice(&first);
        })
    }),
    damage("history line, of the activation that has a log", Log, "is from before its activation", |d| {
        // The newest line says that it owns nothing of the log.
        let mut next = 0;
        supers(d, |s| {
            next = s.next_commit.get();
            s.line.as_mut().expect("a line").first_commit = base::CommitNo::new(next + 7);
        });
        format!("commit {next}")
    }),
    damage("history line, a commit from before it", Log, "is from before its activation", |d| {
        let mut next = 0;
        supers(d, |s| {
            next = s.next_commit.get();
            s.line.as_mut().expect("a line").first_commit = base::CommitNo::new(next + 1);
        });
        format!("commit {next}")
    }),
];

/// A line to be changed.
fn superblock_line() -> rlog::Line {
    rlog::Line {
        first_seq: Seq::new(2),
        first_commit: base::CommitNo::ZERO,
        generation: base::Gen::new(1),
        id: base::Uuid([1; 16]),
        salt: [0; 16],
        first_ckpt: base::CkptNo::ZERO,
        key: 0,
    }
}
