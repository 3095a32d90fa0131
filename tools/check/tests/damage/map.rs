//! Pages of the map: every field of a Ref at every level, behind right checks.
use crate::images::Image::{Closed, Striped};
use crate::table::{Row, damage, leak, repairable};
use crate::tools::{
    at, data_name, data_ref, edit, edit_ref, flip_all, flip_leg, leaf_path, page_name, page_path, place,
    read, renew, some_data, superblock, two_data, write,
};
use crate::world::Drives;
use base::{Check, Pba, Seq};
use cow::space_layout::{ROOT_TREE, ROOT_VOLUMES};
use cow::{PAGE_REFS, Ref, page};

/// An Lba with data, and its leaf is not the first.
const LBA: u64 = 300;
/// An Lba whose leaf was last changed long before the checkpoint.
const OLD: u64 = 384;
const SENSE: &str = "makes no sense";
const LIES: &str = "has its right check, but";
const TWICE: &str = "two Refs lead to it";

/// Changes the Ref to the page of a level over `LBA`; the page is named.
fn to_page(drives: &mut Drives, level: u32, change: impl FnOnce(&mut Ref)) -> String {
    edit_ref(drives, &page_path(LBA, level), change);
    page_name(LBA, level)
}

/// Changes the Ref to some data without telling the pages above of another newest Seq.
fn quietly(drives: &mut Drives, change: impl FnOnce(&mut Ref)) -> u64 {
    let (lba, _) = some_data(drives, LBA);
    edit(drives, &leaf_path(lba), |block, _| {
        let mut to = page::get(block, lba as usize % PAGE_REFS);
        change(&mut to);
        page::set(block, lba as usize % PAGE_REFS, &to);
    });
    lba
}

fn quiet_data(drives: &mut Drives, change: impl FnOnce(&mut Ref)) -> String {
    data_name(quietly(drives, change))
}

fn quiet_leaf(drives: &mut Drives, change: impl FnOnce(&mut Ref)) -> String {
    page_name(quietly(drives, change), 0)
}

/// Changes bytes of the Ref to some data; the block is named.
fn data_bytes(drives: &mut Drives, change: impl FnOnce(&mut [u8])) -> String {
    let (lba, _) = some_data(drives, LBA);
    let first = lba as usize % PAGE_REFS * 32;
    edit(drives, &leaf_path(lba), |block, _| change(&mut block[first..first + 32]));
    data_name(lba)
}

/// Points some data at a fixed block.
fn onto(drives: &mut Drives, pba: u64) -> String {
    let (lba, _) = some_data(drives, LBA);
    data_ref(drives, lba, |to| to.pba = Pba::new(pba))
}

fn swap_refs(block: &mut base::Block, a: usize, b: usize) {
    let (x, y) = (page::get(block, a), page::get(block, b));
    page::set(block, a, &y);
    page::set(block, b, &x);
}

const FIXED: &str = "it is a fixed block and more";

pub const ROWS: &[Row] = &[
    repairable("map page of level 4, rots on one leg", Closed, "another copy is right", |d| {
        flip_leg(d, at(d, &page_path(LBA, 4)).pba, 1);
        page_name(LBA, 4)
    }),
    repairable("map page of level 1, rots on one leg", Closed, "another copy is right", |d| {
        flip_leg(d, at(d, &page_path(LBA, 1)).pba, 0);
        page_name(LBA, 1)
    }),
    repairable("leaf, rots on one leg", Closed, "another copy is right", |d| {
        flip_leg(d, at(d, &leaf_path(LBA)).pba, 1);
        page_name(LBA, 0)
    }),
    repairable("leaf, rots on one leg of column 1", Striped, "another copy is right", |d| {
        let lba = (0..2000)
            .step_by(128)
            .find(|lba| {
                let to = at(d, &leaf_path(*lba));
                !to.is_hole() && superblock(d).geometry.place(to.pba).column.get() == 1
            })
            .expect("a leaf in column 1");
        flip_leg(d, at(d, &leaf_path(lba)).pba, 1);
        page_name(lba, 0)
    }),
    repairable("leaf, an older page on one leg", Closed, "fails its check on leg 1", |d| {
        let older = read(d, at(d, &leaf_path(LBA + 128)).pba);
        let (drive, at) = place(d, at(d, &leaf_path(LBA)).pba, 1);
        d.put(drive, at, &older);
        page_name(LBA, 0)
    }),
    damage("map page of level 4, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, at(d, &page_path(LBA, 4)).pba);
        page_name(LBA, 4)
    }),
    damage("map page of level 3, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, at(d, &page_path(LBA, 3)).pba);
        page_name(LBA, 3)
    }),
    damage("map page of level 2, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, at(d, &page_path(LBA, 2)).pba);
        page_name(LBA, 2)
    }),
    damage("map page of level 1, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, at(d, &page_path(LBA, 1)).pba);
        page_name(LBA, 1)
    }),
    damage("leaf, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, at(d, &leaf_path(LBA)).pba);
        page_name(LBA, 0)
    }),
    damage("leaf, zero on both legs", Closed, "is all zeroes on leg 0", |d| {
        let pba = at(d, &leaf_path(LBA)).pba;
        write(d, pba, &[0; 4096]);
        page_name(LBA, 0)
    }),
    damage("two leaves in each other's place", Closed, "no copy is right", |d| {
        let (a, b) = (at(d, &leaf_path(LBA)).pba, at(d, &leaf_path(LBA + 128)).pba);
        let (x, y) = (read(d, a), read(d, b));
        write(d, a, &y);
        write(d, b, &x);
        page_name(LBA + 128, 0)
    }),
    damage("Ref to the root, Pba", Closed, "no copy is right", |d| {
        to_page(d, 4, |to| to.pba = Pba::new(to.pba.get() + 1))
    }),
    damage("Ref to a page, Pba", Closed, "no copy is right", |d| {
        to_page(d, 1, |to| to.pba = Pba::new(to.pba.get() + 1))
    }),
    damage("Ref to a page, Pba 0", Closed, SENSE, |d| to_page(d, 1, |to| to.pba = Pba::ZERO)),
    damage("Ref to a page, Pba beyond the space", Closed, SENSE, |d| {
        to_page(d, 2, |to| to.pba = Pba::new(1 << 33))
    }),
    damage("Ref to a leaf, Pba just beyond the space", Closed, SENSE, |d| {
        let superblock = superblock(d);
        let end = u64::from(superblock.rows) * superblock.geometry.row_blocks();
        to_page(d, 0, |to| to.pba = Pba::new(end))
    }),
    damage("Ref to a page, a flag that is reserved", Closed, SENSE, |d| {
        let mut path = page_path(LBA, 2);
        let last = path.pop().expect("a place");
        edit(d, &path, |block, _| block[last + 5] |= 2);
        page_name(LBA, 2)
    }),
    damage("Ref to a page, a flag that is none", Closed, SENSE, |d| {
        let mut path = page_path(LBA, 1);
        let last = path.pop().expect("a place");
        edit(d, &path, |block, _| block[last + 5] |= 8);
        page_name(LBA, 1)
    }),
    damage("Ref to a page, absent", Closed, SENSE, |d| to_page(d, 1, |to| *to = Ref::ABSENT)),
    damage("Ref to a page, a hole that is somewhere", Closed, "is a hole that makes no sense", |d| {
        let pba = at(d, &page_path(LBA, 1)).pba;
        to_page(d, 1, |to| *to = Ref { pba, ..Ref::hole(to.when) })
    }),
    damage("Ref to a page, a hole with a check", Closed, "is a hole that makes no sense", |d| {
        to_page(d, 1, |to| *to = Ref { check: Check([1; 16]), ..Ref::hole(to.when) })
    }),
    damage("Ref to a page, a hole with a tag", Closed, "is a hole that makes no sense", |d| {
        to_page(d, 1, |to| *to = Ref { tag: 1, ..Ref::hole(to.when) })
    }),
    damage("Ref to a page, a hole of Seq 0", Closed, "is a hole that makes no sense", |d| {
        to_page(d, 0, |to| *to = Ref::hole(Seq::ZERO))
    }),
    damage("Ref to a page, a hole from the future", Closed, "is a hole that makes no sense", |d| {
        to_page(d, 0, |to| *to = Ref::hole(Seq::new(1 << 40)))
    }),
    damage("Ref to the root, Seq too low", Closed, LIES, |d| {
        to_page(d, 4, |to| to.when = Seq::new(to.when.get() - 1))
    }),
    damage("Ref to a page of level 1, Seq too low", Closed, LIES, |d| {
        to_page(d, 1, |to| to.when = Seq::new(to.when.get() - 1))
    }),
    damage("Ref to a leaf, Seq too low", Closed, LIES, |d| {
        to_page(d, 0, |to| to.when = Seq::new(to.when.get() - 1))
    }),
    damage("Ref to a leaf, Seq 0", Closed, LIES, |d| to_page(d, 0, |to| to.when = Seq::ZERO)),
    damage("Ref to a leaf, Seq too high", Closed, LIES, |d| {
        edit_ref(d, &leaf_path(OLD), |to| to.when = to.when.next());
        page_name(OLD, 0)
    }),
    damage("Ref to a page, Seq above the checkpoint's", Closed, "under checkpoint", |d| {
        to_page(d, 1, |to| to.when = Seq::new(1 << 40))
    }),
    damage("Ref to the root, a newer checkpoint", Closed, "newer than the page above it", |d| {
        to_page(d, 4, |to| to.tag += 1000)
    }),
    damage(
        "Ref to a page, a newer checkpoint than the page above",
        Closed,
        "newer than the page above it",
        |d| {
            let mut above = page_path(LBA, 1);
            above.pop();
            let tag = at(d, &above).tag;
            to_page(d, 1, |to| to.tag = tag + 1)
        },
    ),
    damage(
        "Ref to a leaf, a newer checkpoint than the page above",
        Closed,
        "newer than the page above it",
        |d| to_page(d, 0, |to| to.tag += 500),
    ),
    damage("Ref to a page, no checkpoint", Closed, "is of checkpoint 0", |d| to_page(d, 2, |to| to.tag = 0)),
    damage("Ref to the root, check", Closed, "no copy is right", |d| to_page(d, 4, |to| to.check.0[1] ^= 1)),
    damage("Ref to a page of level 3, check", Closed, "no copy is right", |d| {
        to_page(d, 3, |to| to.check.0[1] ^= 1)
    }),
    damage("Ref to a leaf, check", Closed, "no copy is right", |d| to_page(d, 0, |to| to.check.0[15] ^= 1)),
    damage("Ref to a page, to itself", Closed, TWICE, |d| {
        // The page that holds it cannot have its own check in it, but the block is claimed twice.
        let own = at(d, &page_path(LBA, 2));
        to_page(d, 1, |to| to.pba = own.pba);
        page_name(LBA, 2)
    }),
    damage("Ref to a page, to its neighbour", Closed, TWICE, |d| {
        let other = at(d, &leaf_path(LBA + 128));
        to_page(d, 0, |to| *to = other);
        page_name(LBA, 0)
    }),
    damage("Ref to a leaf, to the root page", Closed, TWICE, |d| {
        let other = at(d, &[]);
        to_page(d, 0, |to| to.pba = other.pba);
        "directory root".into()
    }),
    damage("Ref to a leaf, to the volumes page", Closed, TWICE, |d| {
        let other = at(d, &[ROOT_VOLUMES]);
        to_page(d, 0, |to| to.pba = other.pba);
        "volumes page".into()
    }),
    damage("Ref to a leaf, to the bitmap tree", Closed, TWICE, |d| {
        let other = at(d, &[ROOT_TREE]);
        to_page(d, 0, |to| *to = other);
        "page 0 of level 0 of the bitmap tree and map page of level 0".into()
    }),
    damage("Ref to a leaf, to a page of level 1", Closed, TWICE, |d| {
        let other = at(d, &page_path(LBA, 1));
        to_page(d, 0, |to| to.pba = other.pba);
        page_name(LBA, 1)
    }),
    damage("a leaf where a page of level 1 belongs", Closed, LIES, |d| {
        let leaf = at(d, &leaf_path(LBA));
        to_page(d, 1, |to| *to = Ref { when: to.when, ..leaf })
    }),
    damage("Ref to a leaf, to the header", Closed, "no copy is right", |d| {
        to_page(d, 0, |to| to.pba = Pba::new(u64::from(crate::world::EXTENT)))
    }),
    damage("Ref to a leaf, to the ring", Closed, FIXED, |d| to_page(d, 0, |to| to.pba = Pba::new(9))),
    damage("Ref to a leaf, to a home page", Closed, FIXED, |d| to_page(d, 0, |to| to.pba = Pba::new(80))),
    damage("two Refs to leaves swapped", Closed, "newest Seq", |d| {
        // The blocks of both leaves are whole; the Seqs below are not those of their places.
        let (first, second) = (at(d, &leaf_path(LBA)), at(d, &leaf_path(LBA + 128)));
        edit_ref(d, &leaf_path(LBA), |to| *to = Ref { when: first.when, ..second });
        edit_ref(d, &leaf_path(LBA + 128), |to| *to = Ref { when: second.when, ..first });
        page_name(LBA, 0)
    }),
    leak("Ref to a leaf, a hole instead", Closed, "nothing leads there", |d| {
        to_page(d, 0, |to| *to = Ref::hole(to.when));
        "Pba".into()
    }),
    damage("Ref to a leaf, a hole instead, data counted", Closed, "blocks of data, there are", |d| {
        to_page(d, 0, |to| *to = Ref::hole(to.when));
        "volumes page".into()
    }),
    damage("Ref to data, Pba", Closed, "no copy is right", |d| {
        let ((lba, _), (_, other)) = two_data(d);
        data_ref(d, lba, |to| to.pba = other.pba)
    }),
    damage("Ref to data, Pba 0", Closed, SENSE, |d| quiet_data(d, |to| to.pba = Pba::ZERO)),
    damage("Ref to data, Pba beyond the space", Closed, SENSE, |d| {
        quiet_data(d, |to| to.pba = Pba::new(1 << 39))
    }),
    damage("Ref to data, a reserved flag", Closed, SENSE, |d| data_bytes(d, |to| to[5] |= 2)),
    damage("Ref to data, a flag that is none", Closed, SENSE, |d| data_bytes(d, |to| to[5] |= 4)),
    damage("Ref to data, absent", Closed, SENSE, |d| data_bytes(d, |to| to.fill(0))),
    damage("Ref to data, Seq 0", Closed, SENSE, |d| quiet_data(d, |to| to.when = Seq::ZERO)),
    damage("Ref to data, Seq above its page's", Closed, LIES, |d| {
        quiet_leaf(d, |to| to.when = Seq::new(1 << 40))
    }),
    damage("Ref to data, Seq above the checkpoint's", Closed, "under checkpoint", |d| {
        let (lba, _) = some_data(d, LBA);
        data_ref(d, lba, |to| to.when = Seq::new(1 << 40));
        page_name(lba, 0)
    }),
    damage("Ref to data, a tag", Closed, LIES, |d| quiet_leaf(d, |to| to.tag = 1)),
    damage("Ref to data, check", Closed, "no copy is right", |d| quiet_data(d, |to| to.check.0[2] ^= 1)),
    damage("Ref to data, a hole that is somewhere", Closed, SENSE, |d| {
        quiet_data(d, |to| *to = Ref { pba: to.pba, ..Ref::hole(to.when) })
    }),
    leak("Ref to data, a hole instead", Closed, "nothing leads there", |d| {
        let (lba, data) = some_data(d, LBA);
        data_ref(d, lba, |to| *to = Ref::hole(to.when));
        format!("Pba {}", data.pba)
    }),
    damage("Ref to data, before the volume", Closed, "before its volume, which Seq", |d| {
        let (lba, _) = some_data(d, LBA);
        data_ref(d, lba, |to| to.when = Seq::new(1));
        edit(d, &[ROOT_VOLUMES], |block, _| {
            base::codec::put_u64(block, 128 + cow::space_layout::VOLUME_CREATED, 2);
        });
        data_name(lba)
    }),
    damage("Ref to data, where a neighbour lies", Closed, TWICE, |d| {
        let ((a, _), (b, second)) = two_data(d);
        data_ref(d, a, |to| *to = second);
        format!("{} and {}", data_name(a), data_name(b))
    }),
    damage("Ref to data, where data of another leaf lies", Closed, TWICE, |d| {
        let (a, _) = some_data(d, LBA);
        let (b, other) = some_data(d, (a / 128 + 1) * 128);
        data_ref(d, a, |to| *to = Ref { when: to.when, ..other });
        format!("{} and {}", data_name(a), data_name(b))
    }),
    damage("Ref to data, where its own leaf lies", Closed, TWICE, |d| {
        let (a, _) = some_data(d, LBA);
        let leaf = at(d, &leaf_path(a)).pba;
        data_ref(d, a, |to| to.pba = leaf);
        page_name(a, 0)
    }),
    damage("Ref to data, where the directory lies", Closed, TWICE, |d| {
        let root = at(d, &[]).pba;
        onto(d, root.get());
        "directory root".into()
    }),
    damage("Ref to data, a header", Closed, FIXED, |d| onto(d, u64::from(crate::world::EXTENT))),
    damage("Ref to data, a bitmap", Closed, FIXED, |d| onto(d, 1)),
    damage("Ref to data, a superblock", Closed, FIXED, |d| onto(d, 3)),
    damage("Ref to data, the ring", Closed, FIXED, |d| onto(d, 20)),
    damage("Ref to data, a home page", Closed, FIXED, |d| onto(d, 75)),
    damage("Ref to data, a free block", Closed, "the bitmap says free", |d| {
        let free = u64::from(crate::tools::free_block(d));
        onto(d, free)
    }),
    damage(
        "data behind the end of the volume",
        Closed,
        "lies behind the end of the volume (2048 blocks)",
        |d| {
            // A leaf behind the end, with data of its own.
            let (lba, _) = some_data(d, LBA);
            let leaf = at(d, &leaf_path(lba));
            let mut path = leaf_path(2048);
            let last = path.pop().expect("a place");
            edit(d, &path, |block, _| leaf.encode(&mut block[last..last + 32]));
            edit_ref(d, &leaf_path(lba), |to| *to = Ref::hole(to.when));
            renew(d, lba, 1);
            data_name(2048 + lba % 128)
        },
    ),
    damage("a leaf's Refs out of their places", Closed, "claimed by", |d| {
        // Two entries of the page above lead to one leaf, and the other is lost.
        let path = page_path(LBA, 1);
        edit(d, &path, |block, to| {
            swap_refs(block, 2, 3);
            let third = page::get(block, 3);
            page::set(block, 2, &third);
            to.when = page::summary(block).0;
        });
        renew(d, LBA, 2);
        "map page of level 0 of volume 1 from Lba 256 and map page of level 0 of volume 1 from Lba 384".into()
    }),
];
