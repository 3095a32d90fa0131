//! Labels: both copies, field by field.
use crate::images::Image::Closed;
use crate::table::{Row, damage, repairable};
use crate::tools::{flip, label, label_at, sealed};
use crate::world::Drives;
use base::{Blocks, Uuid};
use volume::layout::label as at;

fn copy(copy: u8) -> String {
    format!("label copy {copy}")
}

/// Changes bytes of copy 1 on drive 1 behind a right check.
fn second(drives: &mut Drives, change: impl FnOnce(&mut base::Block)) -> String {
    let place = label_at(drives, 1, 1);
    sealed(drives, 1, place, change);
    copy(1)
}

pub const ROWS: &[Row] = &[
    repairable("label, copy 0 rots", Closed, "fails its check; the other copy is good", |d| {
        flip(d, 1, 0, 300);
        copy(0)
    }),
    repairable("label, copy 1 rots", Closed, "fails its check; the other copy is good", |d| {
        flip(d, 1, label_at(d, 1, 1), 300);
        copy(1)
    }),
    repairable("label, copy 0 is zero", Closed, "is not there; the other copy is good", |d| {
        d.put(1, 0, &[0; 4096]);
        copy(0)
    }),
    repairable("label, copy 1 is something else", Closed, "is not there; the other copy is good", |d| {
        d.put(1, label_at(d, 1, 1), &[0x5a; 4096]);
        copy(1)
    }),
    damage("label, both copies rot", Closed, "every copy of the label is damaged", |d| {
        flip(d, 1, 0, 300);
        flip(d, 1, label_at(d, 1, 1), 301);
        "label copy 0".into()
    }),
    damage("label, both copies are zero", Closed, "has no label", |d| {
        d.put(1, 0, &[0; 4096]);
        d.put(1, label_at(d, 1, 1), &[0; 4096]);
        "drive".into()
    }),
    damage("label, a newer version", Closed, "format version 2", |d| {
        second(d, |block| block[at::VERSION_AT] = 2);
        copy(0)
    }),
    repairable("label, version 0", Closed, "passes its check and says something impossible", |d| {
        second(d, |block| block[at::VERSION_AT] = 0)
    }),
    repairable(
        "label, the number of the copy",
        Closed,
        "says that it is copy 0, and is in the place of copy 1",
        |d| second(d, |block| block[at::COPY_AT] = 0),
    ),
    repairable("label, both copies in each other's place", Closed, "says that it is copy 1", |d| {
        let (first, last) = (d.get(0, 0), d.get(0, label_at(d, 0, 1)));
        d.put(0, 0, &last);
        d.put(0, label_at(d, 0, 1), &first);
        copy(0)
    }),
    repairable("label, an older writing", Closed, "is number 0, the other is number 1", |d| {
        label(d, 1, 1, |l| l.written = 0);
        copy(1)
    }),
    repairable("label, a newer writing", Closed, "is number 1, the other is number 2", |d| {
        label(d, 1, 1, |l| l.written = 2);
        copy(0)
    }),
    repairable("label, pool", Closed, "says another pool", |d| {
        label(d, 1, 1, |l| l.pool = Uuid([77; 16]));
        copy(1)
    }),
    repairable("label, name of the pool", Closed, "says another name of the pool", |d| {
        label(d, 1, 1, |l| l.pool_name = "other".into());
        copy(1)
    }),
    repairable("label, drive", Closed, "says another drive", |d| {
        label(d, 1, 1, |l| l.drive = Uuid([77; 16]));
        copy(1)
    }),
    repairable("label, size", Closed, "says another size", |d| {
        label(d, 1, 1, |l| l.blocks -= Blocks::new(256));
        copy(1)
    }),
    repairable("label, size that is none", Closed, "says something impossible", |d| {
        label(d, 1, 1, |l| l.blocks = Blocks::new(1));
        copy(1)
    }),
    repairable("label, size of extents", Closed, "says another size of extents", |d| {
        label(d, 1, 1, |l| l.extent_blocks = 512);
        copy(1)
    }),
    repairable("label, size of extents that is none", Closed, "says something impossible", |d| {
        label(d, 1, 1, |l| l.extent_blocks = 1);
        copy(1)
    }),
    repairable("label, node", Closed, "says another node", |d| {
        label(d, 1, 1, |l| l.node = "n2".into());
        copy(1)
    }),
    repairable("label, rack", Closed, "says another rack", |d| {
        label(d, 1, 1, |l| l.rack = "r".into());
        copy(1)
    }),
    repairable("label, zone", Closed, "says another zone", |d| {
        label(d, 1, 1, |l| l.zone = "z".into());
        copy(1)
    }),
    repairable("label, class", Closed, "says another class", |d| {
        label(d, 1, 1, |l| l.class = "c".into());
        copy(1)
    }),
    repairable("label, length of a text", Closed, "says something impossible", |d| {
        second(d, |block| block[at::TEXTS_AT] = 129)
    }),
    repairable("label, a text that is none", Closed, "says something impossible", |d| {
        second(d, |block| block[at::TEXTS_AT + 8] = 0xff)
    }),
    damage("label, bytes behind the fields", Closed, "bytes set that this program does not know", |d| {
        second(d, |block| block[2000] = 1)
    }),
    damage("labels, pool of a drive", Closed, "belongs to another pool by its label", |d| {
        (0..2).for_each(|copy| label(d, 1, copy, |l| l.pool = Uuid([77; 16])));
        "group".into()
    }),
    damage("labels, identity of a drive", Closed, "is another's: the drive is a copy", |d| {
        (0..2).for_each(|copy| label(d, 1, copy, |l| l.drive = Uuid([77; 16])));
        "superblock slot 0 of leg 1 column 0".into()
    }),
    damage("labels, one identity for two drives", Closed, "has the label of", |d| {
        (0..2).for_each(|copy| label(d, 1, copy, |l| l.drive = Uuid([1; 16])));
        "drive".into()
    }),
    damage("labels, size of extents", Closed, "has extents of 128 blocks by its label", |d| {
        (0..2).for_each(|copy| label(d, 1, copy, |l| l.extent_blocks = 128));
        "group".into()
    }),
    damage(
        "labels, extents larger than there can be",
        Closed,
        "extents have 65536 blocks, which none can have",
        |d| {
            (0..2).for_each(|copy| label(d, 1, copy, |l| l.extent_blocks = 65_536));
            "label copy 0".into()
        },
    ),
    damage("the drive became smaller", Closed, "blocks when it was added and has", |d| {
        (0..2).for_each(|copy| label(d, 1, copy, |l| l.blocks += Blocks::new(256)));
        "drive".into()
    }),
];
