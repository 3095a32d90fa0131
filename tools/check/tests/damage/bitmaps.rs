//! Bitmaps: the tree that leads to them, their entries, their bits, and what they count.
use crate::images::Image::{Closed, Log, Striped};
use crate::table::{Row, damage, leak, repairable};
use crate::tools::{
    at, bitmap, bump, commits, cut_off, edit, edit_ref, flip_all, flip_leg, free_block, leaf_path, page_at,
    page_name, page_path, put_page, read, set_free, some_data, superblock,
};
use crate::world::{Drives, EXTENT};
use base::{Block, Check, Pba, Seq, codec};
use cow::space_layout::{ROOT_CUTS, ROOT_TREE, ROOT_USED, ROOT_VOLUMES};
use cow::{Ref, page};

const TREE: &str = "page 0 of level 0 of the bitmap tree";
const FIRST: [usize; 2] = [ROOT_TREE, 0];

fn name(region: u32) -> String {
    format!("bitmap of region {region}")
}

/// Changes the entry of region 0.
fn entry(drives: &mut Drives, change: impl FnOnce(&mut Ref)) -> String {
    edit_ref(drives, &FIRST, change);
    name(0)
}

/// Changes the page of the tree behind a right check.
fn tree(drives: &mut Drives, change: impl FnOnce(&mut Block)) -> String {
    edit(drives, &[ROOT_TREE], |block, _| change(block));
    TREE.into()
}

/// Marks a fixed block as free; the bitmap is named.
fn fixed(drives: &mut Drives, pba: u64) -> String {
    set_free(drives, Pba::new(pba));
    name((pba / u64::from(EXTENT)) as u32)
}

/// Marks the page at the end of a path as free.
fn free_page(drives: &mut Drives, path: &[usize]) {
    let pba = at(drives, path).pba;
    set_free(drives, pba);
}

/// Marks a free block as used.
fn leaked(drives: &mut Drives, pba: u32) -> String {
    bitmap(drives, 0, |bits| assert!(bits.set(pba), "free"));
    format!("Pba {pba}")
}

/// The first block from `from` on in region `region` that is free.
fn free_in(drives: &Drives, region: u32, from: u32) -> u32 {
    let bits = page_at(drives, &at(drives, &[ROOT_TREE, region as usize * 32]));
    let bits = cow::bitmap::Bitmap::decode(&bits);
    (from..EXTENT).find(|bit| !bits.get(*bit)).expect("a free block")
}

const FREE: &str = "a fixed block";
const MAPPED: &str = "the bitmap says free";

pub const ROWS: &[Row] = &[
    repairable("bitmap tree, rots on one leg", Closed, "another copy is right", |d| {
        flip_leg(d, at(d, &[ROOT_TREE]).pba, 0);
        TREE.into()
    }),
    damage("bitmap tree, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, at(d, &[ROOT_TREE]).pba);
        TREE.into()
    }),
    damage("bitmap tree, an entry beyond the regions", Closed, "has an entry for region 100", |d| {
        tree(d, |b| b.copy_within(0..32, 100 * 32))
    }),
    damage("bitmap tree, an entry missing", Closed, MAPPED, |d| {
        tree(d, |b| b[..32].fill(0));
        "data of volume 1 Lba".into()
    }),
    damage("bitmap tree, two entries swapped", Closed, "its entry makes no sense", |d| {
        tree(d, |b| {
            let (x, y) = (page::get(b, 0), page::get(b, 1));
            page::set(b, 0, &y);
            page::set(b, 1, &x);
        });
        name(1)
    }),
    damage("bitmap entry, not one of its slots", Closed, "its entry makes no sense", |d| {
        entry(d, |e| e.pba = Pba::new(5))
    }),
    damage("bitmap entry, the other slot", Closed, "no copy is right", |d| {
        entry(d, |e| e.pba = Pba::new(3 - e.pba.get()))
    }),
    damage("bitmap entry, beyond the space", Closed, "its entry makes no sense", |d| {
        entry(d, |e| e.pba = Pba::new(1 << 30))
    }),
    damage("bitmap entry, check", Closed, "no copy is right", |d| entry(d, |e| e.check.0[5] ^= 1)),
    damage("bitmap entry, a hole", Closed, "its entry makes no sense", |d| {
        entry(d, |e| *e = Ref::hole(e.when))
    }),
    damage("bitmap entry, flags", Closed, "its entry makes no sense", |d| {
        tree(d, |b| b[5] |= 8).replace(TREE, &name(0))
    }),
    damage("bitmap entry, a newer checkpoint", Closed, "its entry makes no sense", |d| {
        entry(d, |e| e.tag += 1000)
    }),
    damage("bitmap entry, no checkpoint", Closed, "its entry makes no sense", |d| entry(d, |e| e.tag = 0)),
    damage("bitmap entry, free blocks too few", Closed, "free blocks, the longest run", |d| {
        entry(d, |e| e.when = Seq::new(e.when.get() - (1 << 26)))
    }),
    damage("bitmap entry, free blocks too many", Closed, "free blocks, the longest run", |d| {
        entry(d, |e| e.when = Seq::new(e.when.get() + (1 << 26)))
    }),
    damage("bitmap entry, longest run too short", Closed, "free blocks, the longest run", |d| {
        entry(d, |e| e.when = Seq::new(e.when.get() - 1))
    }),
    damage("bitmap entry, longest run too long", Closed, "free blocks, the longest run", |d| {
        entry(d, |e| e.when = e.when.next())
    }),
    repairable("bitmap, rots on one leg", Closed, "another copy is right", |d| {
        flip_leg(d, at(d, &FIRST).pba, 1);
        name(0)
    }),
    damage("bitmap, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, at(d, &FIRST).pba);
        name(0)
    }),
    repairable("bitmap, zero on one leg", Closed, "is all zeroes on leg 1", |d| {
        let (drive, at) = crate::tools::place(d, at(d, &FIRST).pba, 1);
        d.put(drive, at, &[0; 4096]);
        name(0)
    }),
    repairable("bitmap, an older one on a leg", Closed, "fails its check on leg 1", |d| {
        let pba = at(d, &FIRST).pba;
        let older = read(d, Pba::new(3 - pba.get()));
        let (drive, at) = crate::tools::place(d, pba, 1);
        d.put(drive, at, &older);
        name(0)
    }),
    repairable("bitmap, another region's on a leg", Closed, "fails its check on leg 1", |d| {
        let other = read(d, at(d, &[ROOT_TREE, 32]).pba);
        let (drive, at) = crate::tools::place(d, at(d, &FIRST).pba, 1);
        d.put(drive, at, &other);
        name(0)
    }),
    damage("bitmap, bits behind the region's end", Closed, "has bits behind its end", |d| {
        edit(d, &FIRST, |block, _| block[4000] = 1);
        name(0)
    }),
    damage("bitmap, the header is free", Closed, FREE, |d| fixed(d, 0)),
    damage("bitmap, its first slot is free", Closed, FREE, |d| fixed(d, 1)),
    damage("bitmap, its second slot is free", Closed, FREE, |d| fixed(d, 2)),
    damage("bitmap, a superblock slot is free", Closed, FREE, |d| fixed(d, 3)),
    damage("bitmap, the other superblock slot is free", Closed, FREE, |d| fixed(d, 4)),
    damage("bitmap, the ring's first block is free", Closed, FREE, |d| fixed(d, 8)),
    damage("bitmap, the ring's last block is free", Closed, FREE, |d| fixed(d, 71)),
    damage("bitmap, the first home page is free", Closed, FREE, |d| fixed(d, 72)),
    damage("bitmap, the last home page is free", Closed, FREE, |d| fixed(d, 87)),
    damage("bitmap, the header of row 1 is free", Closed, FREE, |d| fixed(d, u64::from(EXTENT))),
    damage("bitmap, the header of column 1 is free", Striped, FREE, |d| fixed(d, 8)),
    damage("bitmap, the root page is free", Closed, MAPPED, |d| {
        let pba = at(d, &[]).pba;
        set_free(d, pba);
        "directory root".into()
    }),
    damage("bitmap, the volumes page is free", Closed, MAPPED, |d| {
        free_page(d, &[ROOT_VOLUMES]);
        "volumes page".into()
    }),
    damage("bitmap, its tree's page is free", Closed, MAPPED, |d| {
        free_page(d, &[ROOT_TREE]);
        TREE.into()
    }),
    damage("bitmap, the cut list is free", Closed, MAPPED, |d| {
        cut_off(d, 0);
        free_page(d, &[ROOT_CUTS]);
        "list of cut subtrees".into()
    }),
    damage("bitmap, a cut subtree is free", Closed, MAPPED, |d| {
        let pba = at(d, &page_path(0, 1)).pba;
        cut_off(d, 0);
        set_free(d, pba);
        "page of level 1 of cut subtree 0".into()
    }),
    damage("bitmap, the map's root is free", Closed, MAPPED, |d| {
        free_page(d, &page_path(0, 4));
        page_name(0, 4)
    }),
    damage("bitmap, a page of level 1 is free", Closed, MAPPED, |d| {
        free_page(d, &page_path(0, 1));
        page_name(0, 1)
    }),
    damage("bitmap, a leaf is free", Closed, MAPPED, |d| {
        free_page(d, &leaf_path(300));
        page_name(300, 0)
    }),
    damage("bitmap, a block of data is free", Closed, MAPPED, |d| {
        let (lba, data) = some_data(d, 300);
        set_free(d, data.pba);
        crate::tools::data_name(lba)
    }),
    damage("bitmap, what the log names is used", Log, "the log names it and the bitmap says used", |d| {
        let commit = commits(d)[0].clone();
        let shown = named(d, &commit);
        let (region, bit) = (shown / u64::from(EXTENT), shown % u64::from(EXTENT));
        bitmap(d, region as usize, |bits| assert!(bits.set(bit as u32), "free"));
        format!("claimed by commit {}", commit.no)
    }),
    leak("bitmap, a block that nothing leads to", Closed, "marked used and nothing leads there", |d| {
        leaked(d, free_block(d))
    }),
    leak("bitmap, the last block of a region", Closed, "marked used and nothing leads there", |d| {
        let bit = free_in(d, 1, 200);
        bitmap(d, 1, |bits| assert!(bits.set(bit), "free"));
        format!("Pba {}", EXTENT + bit)
    }),
    leak(
        "bitmap, of a cut subtree that is listed nowhere",
        Closed,
        "marked used and nothing leads there",
        |d| {
            cut_off(d, 0);
            edit(d, &[], |block, _| block[ROOT_CUTS..ROOT_CUTS + 32].fill(0));
            "Pba".into()
        },
    ),
    leak("bitmap, of a leaf that became a hole", Closed, "marked used and nothing leads there", |d| {
        let to = at(d, &leaf_path(300));
        edit_ref(d, &leaf_path(300), |leaf| *leaf = Ref::hole(leaf.when));
        format!("Pba {}", to.pba)
    }),
    leak("bitmap, all used", Closed, "marked used and nothing leads there", |d| {
        bitmap(d, 1, |bits| {
            bits.set_run(0, EXTENT);
        });
        "Pba".into()
    }),
    damage("bitmap, all free", Closed, FREE, |d| {
        bitmap(d, 1, |bits| *bits = cow::bitmap::Bitmap::EMPTY);
        name(1)
    }),
    leak("bitmap, an older one behind a right check", Closed, "nothing leads there", |d| {
        let older = read(d, Pba::new(3 - at(d, &FIRST).pba.get()));
        let bits = cow::bitmap::Bitmap::decode(&older);
        bitmap(d, 0, |now| *now = bits);
        "Pba".into()
    }),
    damage("bitmaps, two regions' exchanged behind right checks", Closed, FREE, |d| {
        let other = cow::bitmap::Bitmap::decode(&page_at(d, &at(d, &[ROOT_TREE, 32])));
        bitmap(d, 0, |now| *now = other);
        name(0)
    }),
    damage("root, used blocks and one bitmap", Closed, "the bitmaps say", |d| {
        leaked(d, free_block(d));
        edit(d, &[], |block, _| bump(&mut block[..], ROOT_USED, -1));
        "directory root".into()
    }),
    damage("bitmap tree, one page twice", Closed, "two Refs lead to it", |d| {
        // A page of level 1 that leads to the leaf a second time, for regions that there are not.
        let tree = at(d, &[ROOT_TREE]);
        let free = u64::from(free_block(d));
        bitmap(d, 0, |bits| assert!(bits.set(free as u32), "free"));
        let tree = Ref { check: at(d, &[ROOT_TREE]).check, ..tree };
        let mut block = [0; 4096];
        page::set(&mut block, 0, &tree);
        page::set(&mut block, 127, &tree);
        let mut to = Ref::page(Pba::new(free), tree.when, tree.ckpt(), Check::NONE);
        to.check = put_page(d, &to, &block);
        edit(d, &[], |root, _| {
            root[cow::space_layout::ROOT_TREE_HEIGHT] = 2;
            to.encode(&mut root[ROOT_TREE..ROOT_TREE + 32]);
        });
        "page 0 of level 0 of the bitmap tree and page 127 of level 0 of the bitmap tree".into()
    }),
];

/// The first block that a commit names.
fn named(drives: &Drives, commit: &crate::tools::Commit) -> u64 {
    let opened = crate::tools::opened(drives, commit);
    let bytes = &opened[rlog::layout::HEADER_BYTES + rlog::layout::RECORD_BYTES..];
    assert!(superblock(drives).geometry.legs > 0);
    codec::u64_at(bytes, 0) & ((1 << 40) - 1)
}
