//! Blocks of data, in the map and in the log, and legs that differ.
use crate::images::Image::{Closed, Log, Striped, StripedLog};
use crate::table::{Row, damage, repairable};
use crate::tools::{
    commits, data_name, flip, flip_all, flip_leg, opened, place, read, some_data, superblock, two_data, write,
};
use crate::world::Drives;
use base::codec::{u16_at, u64_at};
use base::{Block, Blocks, Lba, Pba, SECTOR_BYTES};
use rlog::layout::{HEADER_BYTES, R_KIND, R_LBA, R_RUNS, RECORD_BYTES, RUN_BYTES, RUN_COUNT};

const RIGHT: &str = "another copy is right";
const NONE: &str = "no copy is right";

/// Some data whose first sector is not zero (edges of zeroed ranges leave blocks that are).
fn some_written(drives: &Drives) -> (u64, cow::Ref) {
    let mut from = 300;
    loop {
        let (lba, to) = some_data(drives, from);
        if read(drives, to.pba)[..SECTOR_BYTES].iter().any(|byte| *byte != 0) {
            return (lba, to);
        }
        from = lba + 1;
    }
}

/// Some data, and where it lies.
fn data(drives: &Drives) -> (String, Pba) {
    let (lba, to) = some_written(drives);
    (data_name(lba), to.pba)
}

/// Puts a block in the place of some data, on these legs.
fn instead(drives: &mut Drives, legs: std::ops::Range<u8>, block: &Block) -> String {
    let (name, pba) = data(drives);
    for leg in legs {
        let (drive, at) = place(drives, pba, leg);
        drives.put(drive, at, block);
    }
    name
}

/// Where the log put an Lba on a leg.
fn logged(drives: &Drives, lba: u64, leg: u8) -> (usize, u64) {
    let named = commits(drives).into_iter().flat_map(|commit| named(&opened(drives, &commit)));
    let (_, pba) = named.rev().find(|(named, _)| named.get() == lba).expect("a record of it");
    place(drives, pba, leg)
}

/// The blocks that a commit of one record names.
fn named(commit: &[u8]) -> Vec<(Lba, Pba)> {
    let record = &commit[HEADER_BYTES..];
    if record[R_KIND] != rlog::RecordKind::Write as u8 {
        return Vec::new();
    }
    let first = Lba::new(u64_at(record, R_LBA));
    let runs = record[RECORD_BYTES..].chunks_exact(RUN_BYTES).take(usize::from(u16_at(record, R_RUNS)));
    let blocks = runs.flat_map(|run| {
        let pba = Pba::new(u64_at(run, 0) & ((1 << 40) - 1));
        (0..u64::from(u16_at(run, RUN_COUNT))).map(move |i| pba + Blocks::new(i))
    });
    blocks.enumerate().map(|(i, pba)| (first + Blocks::new(i as u64), pba)).collect()
}

fn log_name(lba: u64) -> String {
    format!("data in the log of volume 1 Lba {lba}")
}

pub const ROWS: &[Row] = &[
    repairable("data, rots on leg 0", Closed, "fails its check on leg 0; another copy is right", |d| {
        let (name, pba) = data(d);
        flip_leg(d, pba, 0);
        name
    }),
    repairable("data, rots on leg 1", Closed, "fails its check on leg 1; another copy is right", |d| {
        let (name, pba) = data(d);
        flip_leg(d, pba, 1);
        name
    }),
    repairable("data, rots in column 1", Striped, RIGHT, |d| {
        let mut from = 0;
        let (lba, to) = loop {
            let (lba, to) = some_data(d, from);
            if superblock(d).geometry.place(to.pba).column.get() == 1 {
                break (lba, to);
            }
            from = lba + 1;
        };
        flip_leg(d, to.pba, 1);
        data_name(lba)
    }),
    repairable("data, one bit of the first byte", Closed, RIGHT, |d| {
        let (name, pba) = data(d);
        let (drive, at) = place(d, pba, 1);
        flip(d, drive, at, 0);
        name
    }),
    repairable("data, one bit of the last byte", Closed, RIGHT, |d| {
        let (name, pba) = data(d);
        let (drive, at) = place(d, pba, 1);
        flip(d, drive, at, 4095);
        name
    }),
    repairable("data, a sector of zeroes on one leg", Closed, RIGHT, |d| {
        let (name, pba) = data(d);
        let mut block = read(d, pba);
        block[..SECTOR_BYTES].fill(0);
        instead(d, 1..2, &block);
        name
    }),
    repairable("data, torn on one leg", Closed, RIGHT, |d| {
        let ((_, first), (_, second)) = two_data(d);
        let (mut block, other) = (read(d, first.pba), read(d, second.pba));
        block[4096 / 2..].copy_from_slice(&other[4096 / 2..]);
        block[0] ^= 1;
        instead(d, 1..2, &block)
    }),
    repairable("data, a lost write on one leg", Closed, "is all zeroes on leg 0", |d| {
        instead(d, 0..1, &[0; 4096])
    }),
    repairable("data, another block's on one leg", Closed, RIGHT, |d| {
        let (_, (_, second)) = two_data(d);
        let other = read(d, second.pba);
        instead(d, 1..2, &other)
    }),
    repairable("data, a page on one leg", Closed, RIGHT, |d| {
        let page = read(d, superblock(d).directory.pba);
        instead(d, 1..2, &page)
    }),
    repairable("data, two blocks in each other's place on one leg", Closed, RIGHT, |d| {
        let ((_, first), (b, second)) = two_data(d);
        let ((drive, x), (_, y)) = (place(d, first.pba, 1), place(d, second.pba, 1));
        let (p, q) = (d.get(drive, x), d.get(drive, y));
        d.put(drive, x, &q);
        d.put(drive, y, &p);
        data_name(b)
    }),
    damage("data, rots on both legs", Closed, NONE, |d| {
        let (name, pba) = data(d);
        flip_all(d, pba);
        name
    }),
    damage("data, rots in different sectors of both legs", Closed, NONE, |d| {
        let (name, pba) = data(d);
        for (leg, byte) in [(0, 5), (1, 3000)] {
            let (drive, at) = place(d, pba, leg);
            flip(d, drive, at, byte);
        }
        name
    }),
    damage("data, a lost write on both legs", Closed, "is all zeroes on leg 0", |d| {
        instead(d, 0..2, &[0; 4096])
    }),
    damage(
        "data, zero on one leg and rotten on the other",
        Closed,
        "is all zeroes on leg 0, fails its check on leg 1",
        |d| {
            let (name, pba) = data(d);
            instead(d, 0..1, &[0; 4096]);
            flip_leg(d, pba, 1);
            name
        },
    ),
    damage("data, two blocks in each other's place on both legs", Closed, NONE, |d| {
        let ((_, first), (b, second)) = two_data(d);
        let (p, q) = (read(d, first.pba), read(d, second.pba));
        write(d, first.pba, &q);
        write(d, second.pba, &p);
        data_name(b)
    }),
    damage("data, a misdirected write over a neighbour", Closed, NONE, |d| {
        let ((a, first), (_, second)) = two_data(d);
        let block = read(d, second.pba);
        write(d, first.pba, &block);
        data_name(a)
    }),
    damage("data, the commits of the ring over it", Closed, NONE, |d| {
        let ring = d.get(0, crate::tools::FIRST + 8);
        instead(d, 0..2, &ring)
    }),
    repairable("data of the log, rots on leg 1", Log, RIGHT, |d| {
        let (drive, at) = logged(d, 10, 1);
        flip(d, drive, at, 9);
        log_name(10)
    }),
    repairable("data of the log, zero on leg 0", Log, "is all zeroes on leg 0", |d| {
        let (drive, at) = logged(d, 20, 0);
        d.put(drive, at, &[0; 4096]);
        log_name(20)
    }),
    repairable("data of the log, rots in a stripe", StripedLog, RIGHT, |d| {
        let (drive, at) = logged(d, 30, 1);
        flip(d, drive, at, 9);
        log_name(30)
    }),
    damage("data of the log, rots on both legs", Log, NONE, |d| {
        for leg in 0..2 {
            let (drive, at) = logged(d, 10, leg);
            flip(d, drive, at, 9);
        }
        log_name(10)
    }),
    damage("data of the log, a lost write on both legs", Log, "is all zeroes on leg 0", |d| {
        for leg in 0..2 {
            let (drive, at) = logged(d, 21, leg);
            d.put(drive, at, &[0; 4096]);
        }
        log_name(21)
    }),
    damage("data of the log, two blocks in each other's place", Log, NONE, |d| {
        for leg in 0..2 {
            let ((drive, x), (_, y)) = (logged(d, 20, leg), logged(d, 21, leg));
            let (p, q) = (d.get(drive, x), d.get(drive, y));
            d.put(drive, x, &q);
            d.put(drive, y, &p);
        }
        log_name(20)
    }),
];
