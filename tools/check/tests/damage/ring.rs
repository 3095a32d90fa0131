//! Commits on the ring: every field of a header, the chain, gaps, D, and what two legs say.
use crate::images::Image::{Closed, Log, StripedLog};
use crate::table::{Row, damage, repairable};
use crate::tools::{
    another, commit_at, commit_name, commits, lie, lie_on, put_commit, rot, rot_all, seal_commit, superblock,
};
use crate::world::Drives;
use base::codec::{put_check, put_u16, put_u32, put_u64, u32_at, u64_at};
use rlog::layout::*;

/// What is promised and cannot be read.
const MISSING: &str = "no copy has it, and everything up to Seq";
/// A commit in the middle of what D covers.
const MIDDLE: usize = 3;

fn next_of(drives: &Drives, index: usize) -> String {
    commit_name(commits(drives)[index].no + 1)
}

/// Adds to a number of a commit's header, behind right checks.
fn add(drives: &mut Drives, field: usize, by: i64) -> String {
    lie(drives, MIDDLE, |b| put_u64(b, field, u64_at(b, field).wrapping_add_signed(by)))
}

pub const ROWS: &[Row] = &[
    repairable("commit, header rots on one leg", Log, "leg 1 does not have it", |d| {
        rot(d, MIDDLE, 1, |b| b[H_SEQS] ^= 1)
    }),
    repairable("commit, body rots on one leg", Log, "leg 0 does not have it", |d| {
        rot(d, MIDDLE, 0, |b| b[HEADER_BYTES + 40] ^= 1)
    }),
    repairable("commit, wiped on one leg", Log, "leg 1 does not have it", |d| rot(d, 0, 1, |b| b.fill(0))),
    repairable("commit, bytes behind its body on one leg", Log, "leg 1 does not have it", |d| {
        rot(d, MIDDLE, 1, |b| b[4090] = 1)
    }),
    repairable("commit, rots on one leg of column 1", StripedLog, "leg 1 does not have it", |d| {
        let index = commits(d).iter().position(|commit| commit.column == 1).expect("a commit in column 1");
        rot(d, index, 1, |b| b[H_SEQS] ^= 1)
    }),
    repairable("commit, an older one on one leg", Log, "leg 1 does not have it", |d| {
        let other = commits(d)[0].clone();
        let (drive, at) = commit_at(d, &other, 1);
        let older = d.get(drive, at);
        rot(d, MIDDLE, 1, |b| b.copy_from_slice(&older[..]))
    }),
    damage("commit, the first is wiped", Log, MISSING, |d| rot_all(d, 0, |b| b.fill(0))),
    damage("commit, one in the middle is wiped", Log, MISSING, |d| rot_all(d, MIDDLE, |b| b.fill(0))),
    damage("commit, the last that D covers is wiped", Log, MISSING, |d| rot_all(d, 4, |b| b.fill(0))),
    damage("commit, wiped in column 1", StripedLog, MISSING, |d| {
        let index = commits(d).iter().position(|commit| commit.column == 1).expect("a commit in column 1");
        rot_all(d, index, |b| b.fill(0))
    }),
    damage("commit, all of the log is wiped and D is in a superblock", Log, MISSING, |d| {
        let all = commits(d);
        (0..all.len()).rev().for_each(|i| drop(rot_all(d, i, |b| b.fill(0))));
        crate::tools::supers(d, |s| s.durable = base::Seq::new(all[4].first_seq));
        commit_name(all[0].no)
    }),
    damage("commit, header rots on both legs", Log, MISSING, |d| rot_all(d, MIDDLE, |b| b[H_SEQS] ^= 1)),
    damage("commit, body rots on both legs", Log, MISSING, |d| {
        rot_all(d, MIDDLE, |b| b[HEADER_BYTES + 40] ^= 1)
    }),
    damage("commit, check", Log, MISSING, |d| rot_all(d, MIDDLE, |b| b[H_CHECK] ^= 1)),
    damage("commit, bytes behind its body on both legs", Log, MISSING, |d| {
        rot_all(d, MIDDLE, |b| b[4090] = 1)
    }),
    damage("commit, magic", Log, MISSING, |d| lie(d, MIDDLE, |b| b[H_MAGIC] = 0)),
    damage("commit, a newer version", Log, MISSING, |d| lie(d, MIDDLE, |b| put_u16(b, H_VERSION, 2))),
    damage("commit, length of the header", Log, MISSING, |d| lie(d, MIDDLE, |b| put_u16(b, H_LENGTH, 184))),
    damage("commit, lane", Log, MISSING, |d| lie(d, MIDDLE, |b| put_u16(b, H_LANE, 1))),
    damage("commit, more records than there are", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u16(b, H_RECORDS, 2))
    }),
    damage("commit, fewer records than there are", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u16(b, H_RECORDS, 0))
    }),
    damage("commit, flags", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u32(b, H_FLAGS, u32_at(b, H_FLAGS) ^ 2))
    }),
    damage("commit, bytes of the body too few", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u32(b, H_BODY_BYTES, 24))
    }),
    damage("commit, bytes of the body too many", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u32(b, H_BODY_BYTES, u32_at(b, H_BODY_BYTES) + 8))
    }),
    damage("commit, bytes of the body beyond the format", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u32(b, H_BODY_BYTES, 1 << 20))
    }),
    damage("commit, group", Log, MISSING, |d| lie(d, MIDDLE, |b| b[H_GROUP] = 99)),
    damage("commit, id of the activation", Log, "which the history gives to", |d| {
        lie(d, MIDDLE, |b| b[H_HISTORY] = 99)
    }),
    damage("commit, Gen that nobody has", Log, MISSING, |d| add(d, H_GEN, 7)),
    damage("commit, Gen of another activation", Log, "which the history gives to", |d| add(d, H_GEN, -1)),
    damage("commit, Gen and id of an older activation", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| {
            put_u64(b, H_GEN, 2);
            b[H_HISTORY..H_HISTORY + 16].fill(2);
        })
    }),
    damage("commit, number too low", Log, MISSING, |d| add(d, H_COMMIT, -1)),
    damage("commit, number too high", Log, MISSING, |d| add(d, H_COMMIT, 1)),
    damage("commit, number that is the last there can be", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u64(b, H_COMMIT, u64::MAX))
    }),
    damage(
        "commit, number of a commit that D does not cover",
        Log,
        "is there twice with different contents",
        |d| {
            let all = commits(d);
            lie(d, MIDDLE, |b| put_u64(b, H_COMMIT, all[5].no));
            commit_name(all[5].no)
        },
    ),
    damage("commit, first Seq too low", Log, MISSING, |d| add(d, H_FIRST_SEQ, -1)),
    damage("commit, first Seq 0", Log, MISSING, |d| lie(d, MIDDLE, |b| put_u64(b, H_FIRST_SEQ, 0))),
    damage("commit, first Seq too high", Log, "begins with Seq", |d| add(d, H_FIRST_SEQ, 1)),
    damage("commit, first Seq beyond the format", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u64(b, H_FIRST_SEQ, 1 << 52))
    }),
    damage("commit, first Seq from before its activation", Log, "is from before its activation", |d| {
        lie(d, 0, |b| put_u64(b, H_FIRST_SEQ, 2))
    }),
    damage("commit, Seqs too many", Log, MISSING, |d| lie(d, MIDDLE, |b| put_u32(b, H_SEQS, 2))),
    damage("commit, Seqs none", Log, MISSING, |d| lie(d, MIDDLE, |b| put_u32(b, H_SEQS, 0))),
    damage("commit, its own place", Log, MISSING, |d| lie(d, MIDDLE, |b| put_u32(b, H_OFFSET, 1))),
    damage("commit, its own place beyond the ring", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u32(b, H_OFFSET, 4000))
    }),
    damage("commit, check of the commit before", Log, MISSING, |d| lie(d, MIDDLE, |b| b[H_PREVIOUS] ^= 1)),
    damage("commit, check of the commit before the first", Log, MISSING, |d| {
        lie(d, 0, |b| b[H_PREVIOUS] ^= 1)
    }),
    damage("commit, check of the commit before one behind it", Log, MISSING, |d| {
        lie(d, 4, |b| b[H_PREVIOUS + 15] ^= 1)
    }),
    damage("commit, Gen of the superblock it names", Log, "names a superblock of Gen", |d| {
        add(d, H_SUPERBLOCK_GEN, -1)
    }),
    damage("commit, a superblock that nobody has", Log, "newer than any at hand", |d| {
        add(d, H_SUPERBLOCK_VERSION, 9);
        "group".into()
    }),
    damage("commit, an older superblock than the commit before", Log, "before it names", |d| {
        add(d, H_SUPERBLOCK_VERSION, -1)
    }),
    damage("commit, D above itself", Log, "is durable", |d| {
        lie(d, MIDDLE, |b| put_u64(b, H_DURABLE, u64_at(b, H_FIRST_SEQ)))
    }),
    damage("commit, D below the commit before", Log, "before it says", |d| {
        lie(d, MIDDLE, |b| put_u64(b, H_DURABLE, 1))
    }),
    damage("commit, D above the log's end", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| put_u64(b, H_DURABLE, 1 << 40));
        next_of(d, 6)
    }),
    damage("commit, reserved bytes of the header", Log, MISSING, |d| {
        lie(d, MIDDLE, |b| b[H_RESERVED + 3] = 1)
    }),
    damage("commit, twice with one number", Log, "is there twice with different contents", |d| {
        another(d, MIDDLE, |b| b[H_SUPERBLOCK_VERSION] ^= 1)
    }),
    damage("commit, another on each leg", Log, "is there twice with different contents", |d| {
        let commit = commits(d)[MIDDLE].clone();
        lie_on(d, MIDDLE, 1, |b| put_u64(b, H_DURABLE, commit.durable - 1))
    }),
    damage("commit, the last another on each leg", Log, "is there twice with different contents", |d| {
        lie_on(d, 6, 1, |b| b[HEADER_BYTES + RECORD_BYTES + RUN_BYTES] ^= 1)
    }),
    damage("commit, at another place of the ring", Log, "the log's places contradict each other", |d| {
        let all = commits(d);
        let moved = another(d, 6, |_| {});
        put_commit(d, &all[6], &vec![0; 4096 * all[6].blocks as usize]);
        assert_eq!(moved, commit_name(all[6].no));
        moved
    }),
    damage("commit, two in each other's place", Log, MISSING, |d| {
        let all = commits(d);
        for leg in 0..2 {
            let ((drive, a), (_, b)) = (commit_at(d, &all[MIDDLE], leg), commit_at(d, &all[MIDDLE + 1], leg));
            let (x, y) = (d.get(drive, a), d.get(drive, b));
            d.put(drive, a, &y);
            d.put(drive, b, &x);
        }
        commit_name(all[MIDDLE].no)
    }),
    damage("commit, in another column", StripedLog, MISSING, |d| {
        let commit = commits(d)[MIDDLE].clone();
        let (drive, at) = commit_at(d, &commit, 0);
        let block = d.get(drive, at);
        rot_all(d, MIDDLE, |b| b.fill(0));
        let mut moved = commit.clone();
        moved.column = 1 - moved.column;
        moved.offset = 40;
        let mut bytes = block.to_vec();
        put_u32(&mut bytes, H_OFFSET, 40);
        seal_commit(&mut bytes);
        put_commit(d, &moved, &bytes);
        commit_name(commit.no)
    }),
    damage("commit, from before an activation's first", Closed, "is from before its activation", |d| {
        // An old commit's number given to the newest activation.
        let newest = superblock(d).line.expect("a line");
        let at = crate::tools::FIRST + 8;
        let mut found = None;
        for offset in 0..64 {
            let block = d.get(0, at + offset);
            if rlog::Commit::parse(&block[..])
                .is_ok_and(|commit| commit.fields().generation == newest.generation)
            {
                found = Some((offset, block));
                break;
            }
        }
        let (offset, mut block) = found.expect("a commit of one block");
        let no = newest.first_commit.get() - 1;
        put_u64(&mut block[..], H_COMMIT, no);
        seal_commit(&mut block[..]);
        (0..2).for_each(|drive| d.put(drive, at + offset, &block));
        commit_name(no)
    }),
    damage("void, of a commit that is there", Log, MISSING, |d| {
        // The commit becomes a void of the one before it, under another check than that one has.
        let all = commits(d);
        lie(d, MIDDLE, |b| {
            put_u16(b, H_RECORDS, 1);
            put_u32(b, H_SEQS, 0);
            put_u32(b, H_BODY_BYTES, VOID_BYTES as u32);
            b[HEADER_BYTES..].fill(0);
            b[HEADER_BYTES + R_KIND] = 3;
            put_u64(b, HEADER_BYTES + R_LBA, all[MIDDLE - 1].no);
            put_check(b, HEADER_BYTES + RECORD_BYTES, base::Check([9; 16]));
        });
        commit_name(all[MIDDLE].no)
    }),
    damage("void, of itself", Log, MISSING, |d| {
        let no = commits(d)[MIDDLE].no;
        lie(d, MIDDLE, |b| {
            put_u16(b, H_RECORDS, 1);
            put_u32(b, H_SEQS, 0);
            put_u32(b, H_BODY_BYTES, VOID_BYTES as u32);
            b[HEADER_BYTES..].fill(0);
            b[HEADER_BYTES + R_KIND] = 3;
            put_u64(b, HEADER_BYTES + R_LBA, no);
        })
    }),
];
