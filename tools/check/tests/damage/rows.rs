//! Row pages: the table of extents.
use crate::images::Image::{Closed, Striped};
use crate::table::{Row, damage, repairable};
use crate::tools::{flip_all, flip_leg, header_at, home_check, put_superblock, read, superblock, write};
use crate::world::Drives;
use base::{Block, Check, CkptNo, Pba, Seq, codec};
use cow::{Ref, page};
use volume::Header;
use volume::layout::rows::PRESENT;

const PAGE: &str = "row page 0 of level 0";

/// Changes the row page behind a right check.
fn rows(drives: &mut Drives, change: impl FnOnce(&mut Block)) -> String {
    let mut superblock = superblock(drives);
    let mut page = read(drives, superblock.row_pages.pba);
    change(&mut page);
    write(drives, superblock.row_pages.pba, &page);
    superblock.row_pages.check = home_check(drives, &page);
    put_superblock(drives, &superblock);
    PAGE.into()
}

fn swap(page: &mut Block, a: usize, b: usize) {
    let (x, y) = (codec::u64_at(page, a * 8), codec::u64_at(page, b * 8));
    codec::put_u64(page, a * 8, y);
    codec::put_u64(page, b * 8, x);
}

fn set(page: &mut Block, index: usize, drive: u64, extent: u64) {
    codec::put_u64(page, index * 8, PRESENT | drive << 32 | extent);
}

/// A home page that nothing lies on.
fn free_home(drives: &Drives) -> Pba {
    superblock(drives).geometry.home_page(15)
}

/// Puts a page of Refs above the row page, which leads to it `count` times.
fn inner(drives: &mut Drives, refs: &[Ref]) -> String {
    let pba = free_home(drives);
    let mut block = [0; 4096];
    refs.iter().enumerate().for_each(|(i, to)| page::set(&mut block, i, to));
    write(drives, pba, &block);
    let mut superblock = superblock(drives);
    superblock.row_height = 1;
    superblock.row_pages = Ref::page(pba, Seq::ZERO, CkptNo::ZERO, home_check(drives, &block));
    put_superblock(drives, &superblock);
    "row page 0 of level 1".into()
}

pub const ROWS: &[Row] = &[
    repairable("row page, rots on one leg", Closed, "another copy is right", |d| {
        flip_leg(d, superblock(d).row_pages.pba, 1);
        PAGE.into()
    }),
    damage("row page, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, superblock(d).row_pages.pba);
        PAGE.into()
    }),
    damage("row page, an entry that is not present", Closed, "something else than extents", |d| {
        rows(d, |page| page[2 * 8 + 7] = 0)
    }),
    damage("row page, reserved bits of an entry", Closed, "something else than extents", |d| {
        rows(d, |page| page[2 * 8 + 6] = 1)
    }),
    damage("row page, an entry behind the last", Closed, "entries behind the last of", |d| {
        rows(d, |page| set(page, 500, 0, 9))
    }),
    damage("row page, a drive beyond the table", Closed, "its page names drive 7 of 2", |d| {
        rows(d, |page| set(page, 4, 7, 2));
        "row 2".into()
    }),
    damage(
        "row page, the home row is another",
        Closed,
        "other extents than the superblock does for the home row",
        |d| {
            rows(d, |page| set(page, 1, 1, 9));
            "row 0".into()
        },
    ),
    damage("row page, an extent beyond the drive", Closed, "lies beyond the drive", |d| {
        rows(d, |page| set(page, 4, 0, 900));
        "row 2".into()
    }),
    damage("row page, an extent in two rows", Closed, "extent 1 is row 1", |d| {
        rows(d, |page| set(page, 4, 0, 1));
        "row 2".into()
    }),
    damage("row page, an extent in two legs", Closed, "extent 2 is row 2", |d| {
        rows(d, |page| set(page, 5, 0, 2));
        "row 2".into()
    }),
    damage("row page, both legs on one drive", Closed, "legs 0 and 1 of column 0 both lie on d0", |d| {
        rows(d, |page| set(page, 5, 0, 9));
        let header = Header::decode(&d.get(1, header_at(2))).expect("a header");
        let moved = Header { drive: crate::world::uuid(0), extent: base::ExtentNo::new(9), ..header };
        d.put(0, header_at(9), &moved.encode());
        "row 2".into()
    }),
    damage("row page, legs swapped", Closed, "it says leg 0 instead of 1", |d| {
        rows(d, |page| swap(page, 4, 5));
        "header of extent 2".into()
    }),
    damage("row page, columns swapped", Striped, "column 0 instead of 1", |d| {
        rows(d, |page| swap(page, 4, 5));
        "header of extent 1".into()
    }),
    damage("row page, rows swapped", Closed, "row 1 instead of 2", |d| {
        rows(d, |page| {
            swap(page, 2, 4);
            swap(page, 3, 5);
        });
        "header of extent 1".into()
    }),
    repairable("row page, an extent that was never given out", Closed, "is damaged or wiped", |d| {
        rows(d, |page| set(page, 4, 0, 14));
        "header of extent 14".into()
    }),
    damage("row page, no page but a superblock is there", Closed, "outside the home pages", |d| {
        let mut superblock = superblock(d);
        superblock.row_pages.pba = Pba::new(3);
        put_superblock(d, &superblock);
        PAGE.into()
    }),
    damage("row page above, an absent Ref", Closed, "do not hold all rows", |d| inner(d, &[])),
    damage("row page above, a Ref to itself", Closed, "lies where another home page lies", |d| {
        let to = Ref::page(free_home(d), Seq::ZERO, CkptNo::ZERO, Check::NONE);
        inner(d, &[to]);
        PAGE.into()
    }),
    damage("row page above, a Ref outside the home pages", Closed, "outside the home pages", |d| {
        let to = Ref { pba: Pba::new(200), ..superblock(d).row_pages };
        inner(d, &[to]);
        PAGE.into()
    }),
    damage("row page above, a Ref behind the last", Closed, "has Refs behind the last", |d| {
        let to = superblock(d).row_pages;
        inner(d, &[to, to])
    }),
    damage("row page above, a check below", Closed, "fails its check", |d| {
        let to = superblock(d).row_pages;
        inner(d, &[Ref { check: Check([1; 16]), ..to }]);
        PAGE.into()
    }),
];
