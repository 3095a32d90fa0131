//! Headers of extents, and the names in those of the home row.
use crate::images::Image::{Closed, Striped, Two};
use crate::table::{Row, damage, repairable};
use crate::tools::{flip, header, header_at, sealed};
use crate::world::Drives;
use base::{Column, ExtentNo, LegId, RowNo, Uuid};
use volume::layout::{header as at, names};

fn name(extent: u32) -> String {
    format!("header of extent {extent}")
}

/// Changes bytes of the home header of drive 1 behind a right check.
fn home(drives: &mut Drives, change: impl FnOnce(&mut base::Block)) -> String {
    sealed(drives, 1, header_at(0), change);
    name(0)
}

pub const ROWS: &[Row] = &[
    repairable("header, rots", Closed, "is damaged or wiped", |d| {
        flip(d, 1, header_at(2), 30);
        name(2)
    }),
    repairable("header, wiped", Closed, "is damaged or wiped", |d| {
        d.put(1, header_at(2), &[0; 4096]);
        name(2)
    }),
    repairable("header of the home row, rots", Closed, "is damaged or wiped", |d| {
        flip(d, 1, header_at(0), 30);
        name(0)
    }),
    repairable("header of the home row, wiped", Closed, "is damaged or wiped", |d| {
        d.put(1, header_at(0), &[0; 4096]);
        name(0)
    }),
    repairable("header, something else is there", Closed, "is damaged or wiped", |d| {
        d.put(0, header_at(1), &[0x5a; 4096]);
        name(1)
    }),
    damage("header, a newer version", Closed, "format version 9", |d| {
        sealed(d, 1, header_at(2), |block| block[at::VERSION_AT] = 9);
        name(2)
    }),
    repairable("header, version 0", Closed, "is damaged or wiped", |d| {
        sealed(d, 1, header_at(2), |block| block[at::VERSION_AT] = 0);
        name(2)
    }),
    damage("header, leg", Closed, "it says leg 0 instead of 1", |d| {
        header(d, 1, 2, |h| h.leg = LegId::new(0));
        name(2)
    }),
    damage("header, column", Striped, "it says column 1 instead of 0", |d| {
        header(d, 0, 1, |h| h.column = Column::new(1));
        name(1)
    }),
    damage("header, row", Closed, "it says row 1 instead of 2", |d| {
        header(d, 1, 2, |h| h.row = RowNo::new(1));
        name(2)
    }),
    damage("header, row 0 outside the home row", Closed, "it says row 0 instead of 2", |d| {
        header(d, 1, 2, |h| h.row = RowNo::ZERO);
        name(2)
    }),
    damage("header of the home row, another row", Closed, "it says row 3 instead of 0", |d| {
        header(d, 1, 0, |h| h.row = RowNo::new(3));
        name(0)
    }),
    damage("header, extent", Closed, "it says extent 3 instead of 2", |d| {
        header(d, 1, 2, |h| h.extent = ExtentNo::new(3));
        name(2)
    }),
    damage("header, pool", Closed, "it says pool", |d| {
        header(d, 1, 2, |h| h.pool = Uuid([77; 16]));
        name(2)
    }),
    damage("header, drive", Closed, "it says drive", |d| {
        header(d, 1, 2, |h| h.drive = Uuid([77; 16]));
        name(2)
    }),
    damage("header, group", Closed, "it says group", |d| {
        header(d, 1, 2, |h| h.group = Uuid([77; 16]));
        name(2)
    }),
    damage("header of the home row, group", Closed, "it says group", |d| {
        header(d, 1, 0, |h| h.group = Uuid([77; 16]));
        name(0)
    }),
    damage("headers, swapped between legs", Closed, "leg 1 instead of 0", |d| {
        let (a, b) = (d.get(0, header_at(2)), d.get(1, header_at(2)));
        d.put(0, header_at(2), &b);
        d.put(1, header_at(2), &a);
        name(2)
    }),
    damage("headers, swapped between rows", Closed, "row 2 instead of 1", |d| {
        let (a, b) = (d.get(0, header_at(1)), d.get(0, header_at(2)));
        d.put(0, header_at(1), &b);
        d.put(0, header_at(2), &a);
        name(1)
    }),
    damage("headers, swapped between groups", Two, "it says group", |d| {
        let (a, b) = (d.get(0, header_at(1)), d.get(0, header_at(d.extents - 1)));
        let last = d.extents - 1;
        d.put(0, header_at(1), &b);
        d.put(0, header_at(last), &a);
        name(1)
    }),
    damage("header, bytes behind the fields", Closed, "bytes set that this program does not know", |d| {
        sealed(d, 1, header_at(2), |block| block[3000] = 1);
        name(2)
    }),
    damage("names, length of the volume's", Closed, "the names in it are impossible", |d| {
        home(d, |block| block[names::VOLUME_AT] = 200)
    }),
    damage("names, length of the group's", Closed, "the names in it are impossible", |d| {
        home(d, |block| block[names::GROUP_AT] = 200)
    }),
    damage("names, a text that is none", Closed, "the names in it are impossible", |d| {
        home(d, |block| block[names::VOLUME_AT + 1] = 0xff)
    }),
    damage("names, another volume's on one leg", Closed, "has other names than the header on d0", |d| {
        home(d, |block| block[names::VOLUME_AT + 1] = b'x')
    }),
    damage("names, another group's on one leg", Closed, "has other names than the header on d0", |d| {
        home(d, |block| block[names::GROUP_AT + 1] = b'x')
    }),
    damage("names, another size on one leg", Closed, "has other names than the header on d0", |d| {
        home(d, |block| block[names::SIZE_AT + 4] = 1)
    }),
    damage("names, another identity on one leg", Closed, "has other names than the header on d0", |d| {
        home(d, |block| block[names::VOLUME_ID_AT] = 99)
    }),
    damage("names, the identity of no volume", Closed, "no volume has the identity", |d| {
        for drive in 0..2 {
            sealed(d, drive, header_at(0), |block| block[names::VOLUME_ID_AT] = 99);
        }
        "volumes page".into()
    }),
    damage("names, bytes behind a name", Closed, "bytes set that this program does not know", |d| {
        home(d, |block| block[names::VOLUME_AT + 60] = 1)
    }),
];
