//! Records of commits, field by field, behind right checks.
use crate::images::Image::Log;
use crate::table::{Row, damage};
use crate::tools::{at, commit_name, commits, data_name, lie, some_data, superblock};
use crate::world::{Drives, EXTENT};
use base::codec::{put_u16, put_u32, put_u64, u64_at};
use rlog::layout::*;

/// Where the fields of the only record of a commit are.
const RECORD: usize = HEADER_BYTES;
/// Its first run.
const RUN: usize = RECORD + RECORD_BYTES;
/// The check of its first block.
const CHECK: usize = RUN + RUN_BYTES;
/// A commit that D covers, which writes one block.
const WRITE: usize = 3;
/// A commit that D covers, which is a hole.
const HOLE: usize = 2;

const MISSING: &str = "no copy has it, and everything up to Seq";

fn write(drives: &mut Drives, change: impl FnOnce(&mut [u8])) -> String {
    lie(drives, WRITE, change)
}

fn hole(drives: &mut Drives, change: impl FnOnce(&mut [u8])) -> String {
    lie(drives, HOLE, change)
}

fn put_pba(bytes: &mut [u8], pba: u64) {
    let kept = u64_at(bytes, RUN) >> 40 << 40;
    put_u64(bytes, RUN, kept | pba);
}

/// Points the record's run at a block.
fn onto(drives: &mut Drives, pba: u64) -> String {
    write(drives, |b| put_pba(b, pba))
}

/// The record names the block too.
fn named(commit: &str) -> String {
    format!("claimed by {commit} for volume 1 Lba 30")
}

const FIXED: &str = "the log names it and it is a fixed block";
const HELD: &str = "the log names it and the checkpoint holds it";

pub const ROWS: &[Row] = &[
    damage("record, kind that is none", Log, MISSING, |d| write(d, |b| b[RECORD + R_KIND] = 9)),
    damage("record, kind 0", Log, MISSING, |d| write(d, |b| b[RECORD + R_KIND] = 0)),
    damage("record, a hole with runs", Log, MISSING, |d| write(d, |b| b[RECORD + R_KIND] = 2)),
    damage("record, a write without runs", Log, MISSING, |d| hole(d, |b| b[RECORD + R_KIND] = 1)),
    damage("record, flags", Log, MISSING, |d| write(d, |b| b[RECORD + R_FLAGS] = 1)),
    damage("record, runs too many", Log, MISSING, |d| write(d, |b| put_u16(b, RECORD + R_RUNS, 2))),
    damage("record, runs none", Log, MISSING, |d| write(d, |b| put_u16(b, RECORD + R_RUNS, 0))),
    damage("record, another volume", Log, "names volume 4, which the volumes page does not", |d| {
        write(d, |b| put_u32(b, RECORD + R_VOLUME, 4))
    }),
    damage("record, no volume", Log, "names volume 0, which the volumes page does not", |d| {
        write(d, |b| put_u32(b, RECORD + R_VOLUME, 0))
    }),
    damage("record, a hole of another volume", Log, "names volume 4, which the volumes page does not", |d| {
        hole(d, |b| put_u32(b, RECORD + R_VOLUME, 4))
    }),
    damage(
        "record, Lba behind the end of the volume",
        Log,
        "names blocks of volume 1 up to Lba 2049, it has 2048",
        |d| write(d, |b| put_u64(b, RECORD + R_LBA, 2048)),
    ),
    damage("record, Lba beyond the map", Log, "it has 2048", |d| {
        write(d, |b| put_u64(b, RECORD + R_LBA, 1 << 36))
    }),
    damage("record, Lba beyond the format", Log, MISSING, |d| {
        write(d, |b| put_u64(b, RECORD + R_LBA, 1 << 40))
    }),
    damage("record, a hole behind the end of the volume", Log, "it has 2048", |d| {
        hole(d, |b| put_u64(b, RECORD + R_LBA, 2045))
    }),
    damage("record, a hole longer than the volume", Log, "it has 2048", |d| {
        hole(d, |b| put_u64(b, RECORD + R_BLOCKS, 5000))
    }),
    damage("record, blocks too many", Log, MISSING, |d| write(d, |b| put_u64(b, RECORD + R_BLOCKS, 2))),
    damage("record, blocks none", Log, MISSING, |d| write(d, |b| put_u64(b, RECORD + R_BLOCKS, 0))),
    damage("record, a hole of no blocks", Log, MISSING, |d| hole(d, |b| put_u64(b, RECORD + R_BLOCKS, 0))),
    damage("run, Pba 0", Log, "names Pba 0, outside the space", |d| onto(d, 0)),
    damage("run, Pba beyond the space", Log, "outside the space", |d| onto(d, 1 << 32)),
    damage("run, Pba just beyond the space", Log, "outside the space", |d| {
        let superblock = superblock(d);
        onto(d, u64::from(superblock.rows) * superblock.geometry.row_blocks())
    }),
    damage("run, Pba beyond the format", Log, MISSING, |d| {
        write(d, |b| {
            put_pba(b, (1 << 40) - 1);
            put_u16(b, RUN + RUN_COUNT, 2);
        })
    }),
    damage("run, a byte between its fields", Log, MISSING, |d| write(d, |b| b[RUN + RUN_PBA_BYTES] = 1)),
    damage("run, count 0", Log, MISSING, |d| write(d, |b| put_u16(b, RUN + RUN_COUNT, 0))),
    damage("run, count too high", Log, MISSING, |d| write(d, |b| put_u16(b, RUN + RUN_COUNT, 2))),
    damage("run, another block", Log, "no copy is right", |d| {
        write(d, |b| put_pba(b, (u64_at(b, RUN) & ((1 << 40) - 1)) ^ 1));
        "data in the log of volume 1 Lba 30".into()
    }),
    damage("run, a header", Log, FIXED, |d| named(&onto(d, u64::from(EXTENT)))),
    damage("run, a bitmap", Log, FIXED, |d| named(&onto(d, 2))),
    damage("run, a superblock", Log, FIXED, |d| named(&onto(d, 3))),
    damage("run, the ring", Log, FIXED, |d| named(&onto(d, 15))),
    damage("run, a home page", Log, FIXED, |d| named(&onto(d, 80))),
    damage("run, the directory", Log, HELD, |d| {
        let root = at(d, &[]).pba.get();
        onto(d, root);
        "directory root".into()
    }),
    damage("run, data of the checkpoint", Log, HELD, |d| {
        let (lba, data) = some_data(d, 600);
        onto(d, data.pba.get());
        data_name(lba)
    }),
    damage("run, a block of another record", Log, "two records name it", |d| {
        let all = commits(d);
        let other = u64_at(&crate::tools::opened(d, &all[4]), RUN) & ((1 << 40) - 1);
        onto(d, other);
        format!("{} for volume 1 Lba 30 and commit {}", commit_name(all[WRITE].no), all[4].no)
    }),
    damage("record, check of a block", Log, "no copy is right", |d| {
        write(d, |b| b[CHECK] ^= 1);
        "data in the log of volume 1 Lba 30".into()
    }),
];
