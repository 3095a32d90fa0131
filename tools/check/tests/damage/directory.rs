//! The directory: root page, volumes page, list of cut subtrees, the tree of bitmaps.
use crate::images::Image::{Closed, Log};
use crate::table::{Row, damage, leak, repairable};
use crate::tools::{at, bump, cut_off, edit, edit_ref, flip_all, flip_leg, leaf_path, page_at, write};
use crate::world::Drives;
use base::{Pba, Seq, codec};
use cow::Ref;
use cow::space_layout::*;

const ROOT: &str = "directory root";
const VOLUMES: &str = "volumes page";
const CUTS: &str = "list of cut subtrees";
const UNKNOWN: &str = "uses something this program does not know";
const RANGE: &str = "has a number that is impossible in this group";

fn root(drives: &mut Drives, change: impl FnOnce(&mut base::Block)) -> String {
    edit(drives, &[], |block, _| change(block));
    ROOT.into()
}

fn volumes(drives: &mut Drives, change: impl FnOnce(&mut base::Block)) -> String {
    edit(drives, &[ROOT_VOLUMES], |block, _| change(block));
    VOLUMES.into()
}

/// Changes a field of the volume.
fn volume(drives: &mut Drives, field: usize, change: impl FnOnce(&mut [u8])) -> String {
    volumes(drives, |block| change(&mut block[VOLUMES_FIRST + field..]))
}

/// Cuts a subtree off and changes the list.
fn cuts(drives: &mut Drives, change: impl FnOnce(&mut base::Block)) -> String {
    cut_off(drives, 0);
    drives.assert_clean("a cut subtree");
    edit(drives, &[ROOT_CUTS], |block, _| change(block));
    CUTS.into()
}

fn moved(to: &mut Ref) {
    to.pba = Pba::new(to.pba.get() + 1);
}

pub const ROWS: &[Row] = &[
    repairable("root, rots on one leg", Closed, "another copy is right", |d| {
        flip_leg(d, at(d, &[]).pba, 1);
        ROOT.into()
    }),
    damage("root, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, at(d, &[]).pba);
        ROOT.into()
    }),
    damage("root, all zero on both legs", Closed, "is all zeroes on leg 0", |d| {
        let pba = at(d, &[]).pba;
        write(d, pba, &[0; 4096]);
        ROOT.into()
    }),
    damage("root, magic", Closed, "is something else although its check is right", |d| root(d, |b| b[0] = 0)),
    damage("root, a newer version", Closed, "has format version 2", |d| root(d, |b| b[ROOT_VERSION_AT] = 2)),
    damage("root, height of the bitmap tree", Closed, "under checkpoint", |d| {
        root(d, |b| b[ROOT_TREE_HEIGHT] = 2);
        "page 0 of level 0 of the bitmap tree".into()
    }),
    damage("root, height beyond the format", Closed, RANGE, |d| root(d, |b| b[ROOT_TREE_HEIGHT] = 6)),
    damage("root, no height and a tree", Closed, RANGE, |d| root(d, |b| b[ROOT_TREE_HEIGHT] = 0)),
    damage("root, number of the checkpoint", Closed, "is of checkpoint 1, the superblock says", |d| {
        root(d, |b| codec::put_u32(b, ROOT_CKPT, 1))
    }),
    damage("root, Seq", Closed, "covers Seq 5, the superblock says", |d| {
        root(d, |b| codec::put_u64(b, ROOT_SEQ, 5))
    }),
    damage("root, Seq beyond the format", Closed, RANGE, |d| {
        root(d, |b| codec::put_u64(b, ROOT_SEQ, 1 << 60))
    }),
    damage("root, used blocks too few", Closed, "blocks are used, the bitmaps say", |d| {
        root(d, |b| bump(&mut b[..], ROOT_USED, -1))
    }),
    damage("root, used blocks too many", Closed, "blocks are used, the bitmaps say", |d| {
        root(d, |b| bump(&mut b[..], ROOT_USED, 1))
    }),
    damage("root, used blocks beyond the space", Closed, RANGE, |d| {
        root(d, |b| codec::put_u64(b, ROOT_USED, 1 << 40))
    }),
    damage("root, regions too few", Closed, RANGE, |d| {
        // Fewer than there are used blocks for.
        root(d, |b| bump(&mut b[..], ROOT_REGIONS, -2));
        ROOT.into()
    }),
    damage("root, regions too many", Closed, RANGE, |d| root(d, |b| codec::put_u32(b, ROOT_REGIONS, 5000))),
    damage("root, blocks of a region", Closed, "blocks, the group has", |d| {
        root(d, |b| codec::put_u32(b, ROOT_REGION_BLOCKS, 192))
    }),
    damage("root, no volumes page", Closed, RANGE, |d| {
        root(d, |b| b[ROOT_VOLUMES..ROOT_VOLUMES + 32].fill(0))
    }),
    damage("root, Pba of the volumes page", Closed, "no copy is right", |d| {
        edit_ref(d, &[ROOT_VOLUMES], moved);
        VOLUMES.into()
    }),
    damage("root, Pba of the volumes page beyond the space", Closed, RANGE, |d| {
        edit_ref(d, &[ROOT_VOLUMES], |to| to.pba = Pba::new(1 << 38));
        ROOT.into()
    }),
    damage("root, check of the volumes page", Closed, "no copy is right", |d| {
        edit_ref(d, &[ROOT_VOLUMES], |to| to.check.0[0] ^= 1);
        VOLUMES.into()
    }),
    damage("root, Seq of the volumes page", Closed, "the Ref to the volumes page says checkpoint", |d| {
        edit_ref(d, &[ROOT_VOLUMES], |to| to.when = Seq::new(to.when.get() - 1));
        ROOT.into()
    }),
    damage(
        "root, checkpoint of the volumes page",
        Closed,
        "the Ref to the volumes page says checkpoint",
        |d| {
            edit_ref(d, &[ROOT_VOLUMES], |to| to.tag -= 1);
            ROOT.into()
        },
    ),
    damage("root, a hole as volumes page", Closed, RANGE, |d| {
        edit_ref(d, &[ROOT_VOLUMES], |to| *to = Ref::hole(Seq::new(3)));
        ROOT.into()
    }),
    damage("root, the root as volumes page", Closed, "is something else although", |d| {
        let volumes = at(d, &[ROOT_TREE]);
        edit_ref(d, &[ROOT_VOLUMES], |to| *to = Ref { when: to.when, tag: to.tag, ..volumes });
        VOLUMES.into()
    }),
    damage("root, Pba of the bitmap tree", Closed, "no copy is right", |d| {
        edit_ref(d, &[ROOT_TREE], moved);
        "page 0 of level 0 of the bitmap tree".into()
    }),
    damage("root, check of the bitmap tree", Closed, "no copy is right", |d| {
        edit_ref(d, &[ROOT_TREE], |to| to.check.0[0] ^= 1);
        "page 0 of level 0 of the bitmap tree".into()
    }),
    damage("root, checkpoint of the bitmap tree above its own", Closed, "under checkpoint", |d| {
        edit_ref(d, &[ROOT_TREE], |to| to.tag += 5);
        "page 0 of level 0 of the bitmap tree".into()
    }),
    damage("root, checkpoint of the bitmap tree none", Closed, "is of checkpoint 0", |d| {
        edit_ref(d, &[ROOT_TREE], |to| to.tag = 0);
        "page 0 of level 0 of the bitmap tree".into()
    }),
    damage("root, Seq of the bitmap tree above its own", Closed, "under checkpoint", |d| {
        edit_ref(d, &[ROOT_TREE], |to| to.when = to.when.next());
        "page 0 of level 0 of the bitmap tree".into()
    }),
    damage("root, no bitmap tree", Closed, RANGE, |d| root(d, |b| b[ROOT_TREE..ROOT_TREE + 32].fill(0))),
    damage("root, a list of cut subtrees that there is not", Closed, "is something else although", |d| {
        let page = at(d, &[ROOT_TREE]);
        root(d, |b| page.encode(&mut b[ROOT_CUTS..ROOT_CUTS + 32]));
        CUTS.into()
    }),
    damage("root, snapshots", Closed, UNKNOWN, |d| root(d, |b| b[ROOT_SNAPSHOTS] = 1)),
    damage("root, pins", Closed, UNKNOWN, |d| root(d, |b| b[ROOT_PINS] = 1)),
    damage("root, bytes behind the fields", Closed, UNKNOWN, |d| root(d, |b| b[ROOT_END + 5] = 1)),
    repairable("volumes page, rots on one leg", Closed, "another copy is right", |d| {
        flip_leg(d, at(d, &[ROOT_VOLUMES]).pba, 1);
        VOLUMES.into()
    }),
    damage("volumes page, rots on both legs", Closed, "no copy is right", |d| {
        flip_all(d, at(d, &[ROOT_VOLUMES]).pba);
        VOLUMES.into()
    }),
    damage("volumes page, magic", Closed, "is something else although", |d| volumes(d, |b| b[0] = 0)),
    leak("volumes page, no volume", Closed, "marked used and nothing leads there", |d| {
        volumes(d, |b| {
            codec::put_u32(b, VOLUMES_COUNT, 0);
            b[VOLUMES_FIRST..].fill(0);
        });
        "Pba".into()
    }),
    damage("volumes page, fewer volumes than there are", Closed, UNKNOWN, |d| {
        volumes(d, |b| codec::put_u32(b, VOLUMES_COUNT, 0))
    }),
    damage("volumes page, more volumes than there are", Closed, UNKNOWN, |d| {
        volumes(d, |b| codec::put_u32(b, VOLUMES_COUNT, 2))
    }),
    damage("volumes page, more volumes than fit", Closed, RANGE, |d| {
        volumes(d, |b| codec::put_u32(b, VOLUMES_COUNT, 32))
    }),
    damage("volumes page, a further page", Closed, UNKNOWN, |d| volumes(d, |b| b[VOLUMES_NEXT] = 9)),
    damage("volumes page, a volume twice", Closed, "volume 1 is listed twice", |d| {
        volumes(d, |b| {
            codec::put_u32(b, VOLUMES_COUNT, 2);
            b.copy_within(VOLUMES_FIRST..VOLUMES_FIRST + VOLUME_BYTES, VOLUMES_FIRST + VOLUME_BYTES);
        })
    }),
    damage(
        "volumes page, an identity twice",
        Closed,
        "has the identity of none, or of another volume",
        |d| {
            volumes(d, |b| {
                codec::put_u32(b, VOLUMES_COUNT, 2);
                b.copy_within(VOLUMES_FIRST..VOLUMES_FIRST + VOLUME_BYTES, VOLUMES_FIRST + VOLUME_BYTES);
                codec::put_u32(b, VOLUMES_FIRST + VOLUME_BYTES + VOLUME_ID, 2);
            })
        },
    ),
    damage("volumes page, two volumes of one map", Closed, "two Refs lead to it", |d| {
        volumes(d, |b| {
            codec::put_u32(b, VOLUMES_COUNT, 2);
            b.copy_within(VOLUMES_FIRST..VOLUMES_FIRST + VOLUME_BYTES, VOLUMES_FIRST + VOLUME_BYTES);
            codec::put_u32(b, VOLUMES_FIRST + VOLUME_BYTES + VOLUME_ID, 2);
            b[VOLUMES_FIRST + VOLUME_BYTES + VOLUME_UUID] = 1;
        });
        "map page of level 4 of volume 1 from Lba 0 and map page of level 4 of volume 2".into()
    }),
    damage(
        "volume, id that the log does not name",
        Log,
        "names volume 1, which the volumes page does not",
        |d| {
            volume(d, VOLUME_ID, |b| b[0] = 2);
            "commit".into()
        },
    ),
    damage("volume, levels too few", Closed, "a Ref to a page where data belongs", |d| {
        volume(d, VOLUME_HEIGHT, |b| b[0] = 4);
        "map page of level 0 of volume 1 from Lba 0".into()
    }),
    damage("volume, no levels", Closed, RANGE, |d| volume(d, VOLUME_HEIGHT, |b| b[0] = 0)),
    damage("volume, levels beyond the format", Closed, RANGE, |d| volume(d, VOLUME_HEIGHT, |b| b[0] = 9)),
    damage("volume, state", Closed, UNKNOWN, |d| volume(d, VOLUME_STATE, |b| b[0] = 2)),
    damage("volume, size too small", Closed, "lies behind the end of the volume (100 blocks)", |d| {
        volume(d, VOLUME_SECTORS, |b| codec::put_u64(b, 0, 800));
        "data of volume 1 Lba".into()
    }),
    damage("volume, size below what the log names", Log, "it has 505", |d| {
        volume(d, VOLUME_SECTORS, |b| codec::put_u64(b, 0, 4040));
        "commit".into()
    }),
    damage("volume, size beyond its map", Closed, RANGE, |d| {
        volume(d, VOLUME_SECTORS, |b| codec::put_u64(b, 0, 1 << 50))
    }),
    damage("volume, created after the checkpoint", Closed, "was created by Seq", |d| {
        volume(d, VOLUME_CREATED, |b| codec::put_u64(b, 0, 1 << 40))
    }),
    damage(
        "volume, created after its oldest block",
        Closed,
        "before its volume, which Seq 20 created",
        |d| {
            volume(d, VOLUME_CREATED, |b| codec::put_u64(b, 0, 20));
            "of volume 1".into()
        },
    ),
    damage("volume, created beyond the format", Closed, RANGE, |d| {
        volume(d, VOLUME_CREATED, |b| codec::put_u64(b, 0, 1 << 60))
    }),
    damage("volume, too little data counted", Closed, "blocks of data, there are", |d| {
        volume(d, VOLUME_DATA, |b| bump(&mut b[..], 0, -1))
    }),
    damage("volume, too much data counted", Closed, "blocks of data, there are", |d| {
        volume(d, VOLUME_DATA, |b| bump(&mut b[..], 0, 1))
    }),
    damage("volume, no map", Closed, RANGE, |d| volume(d, VOLUME_ROOT, |b| b[..32].fill(0))),
    leak("volume, a hole as map", Closed, "marked used and nothing leads there", |d| {
        volume(d, VOLUME_ROOT, |b| Ref::hole(Seq::new(9)).encode(&mut b[..32]));
        "Pba".into()
    }),
    damage("volume, identity", Closed, "no volume has the identity", |d| {
        volume(d, VOLUME_UUID, |b| b[3] ^= 1)
    }),
    damage("volume, no identity", Closed, "has the identity of none", |d| {
        volume(d, VOLUME_UUID, |b| b[..16].fill(0))
    }),
    damage("volume, bytes behind the fields", Closed, UNKNOWN, |d| volume(d, VOLUME_END, |b| b[7] = 1)),
    repairable("cut list, rots on one leg", Closed, "another copy is right", |d| {
        cut_off(d, 0);
        flip_leg(d, at(d, &[ROOT_CUTS]).pba, 1);
        CUTS.into()
    }),
    damage("cut list, rots on both legs", Closed, "no copy is right", |d| {
        cut_off(d, 0);
        flip_all(d, at(d, &[ROOT_CUTS]).pba);
        CUTS.into()
    }),
    damage("cut list, magic", Closed, "is something else although", |d| cuts(d, |b| b[0] = 0)),
    damage("cut list, fewer entries than there are", Closed, UNKNOWN, |d| cuts(d, |b| b[CUTS_COUNT] = 0)),
    damage("cut list, more entries than there are", Closed, RANGE, |d| cuts(d, |b| b[CUTS_COUNT] = 2)),
    damage("cut list, more entries than fit", Closed, RANGE, |d| cuts(d, |b| b[CUTS_COUNT] = 81)),
    damage("cut list, reserved bytes", Closed, UNKNOWN, |d| cuts(d, |b| b[20] = 1)),
    damage("cut list, Seq of its Ref", Closed, "the Ref to the list of cut subtrees says", |d| {
        cut_off(d, 0);
        edit_ref(d, &[ROOT_CUTS], |to| to.when = Seq::new(to.when.get() - 1));
        ROOT.into()
    }),
    damage("cut list, checkpoint of its Ref", Closed, "the Ref to the list of cut subtrees says", |d| {
        cut_off(d, 0);
        edit_ref(d, &[ROOT_CUTS], |to| to.tag -= 1);
        ROOT.into()
    }),
    damage("cut subtree, freed to its end", Closed, "and still listed", |d| {
        cuts(d, |b| codec::put_u64(b, CUTS_FIRST + CUT_CURSOR, 128 * 128))
    }),
    leak("cut subtree, freed further than it is", Closed, "marked used and nothing leads there", |d| {
        cuts(d, |b| codec::put_u64(b, CUTS_FIRST + CUT_CURSOR, 3 * 128));
        "Pba".into()
    }),
    damage("cut subtree, its data no longer counted", Closed, "blocks of data, there are", |d| {
        cuts(d, |b| codec::put_u64(b, CUTS_FIRST + CUT_CURSOR, 3 * 128));
        VOLUMES.into()
    }),
    damage("cut subtree, level too high", Closed, "of cut subtree 0", |d| {
        cuts(d, |b| b[CUTS_FIRST + CUT_LEVEL] = 2);
        "page of level".into()
    }),
    damage("cut subtree, level beyond the format", Closed, RANGE, |d| {
        cuts(d, |b| b[CUTS_FIRST + CUT_LEVEL] = 9)
    }),
    damage(
        "cut subtree, a volume that there is not",
        Closed,
        "a subtree of volume 7, which there is not",
        |d| cuts(d, |b| codec::put_u32(b, CUTS_FIRST + CUT_VOLUME, 7)),
    ),
    damage("cut subtree, Pba beyond the space", Closed, RANGE, |d| cuts(d, |b| b[CUTS_FIRST + 4] = 9)),
    leak("cut subtree, check of its page", Closed, "fails its check", |d| {
        cuts(d, |b| b[CUTS_FIRST + 20] ^= 1);
        "page of level 1 of cut subtree 0".into()
    }),
    damage("cut subtree, a hole", Closed, RANGE, |d| {
        cuts(d, |b| Ref::hole(Seq::new(4)).encode(&mut b[CUTS_FIRST..CUTS_FIRST + 32]))
    }),
    damage("cut subtree, still in the map", Closed, "two Refs lead to it", |d| {
        let subtree = at(d, &leaf_path(0)[..5]);
        cuts(d, |_| {});
        let above = leaf_path(0)[..4].to_vec();
        edit(d, &above, |block, _| subtree.encode(&mut block[..32]));
        "map page of level 1 of volume 1 from Lba 0".into()
    }),
    damage("cut subtree, listed twice", Closed, "two Refs lead to it", |d| {
        cuts(d, |b| {
            b[CUTS_COUNT] = 2;
            b.copy_within(CUTS_FIRST..CUTS_FIRST + CUT_BYTES, CUTS_FIRST + CUT_BYTES);
        });
        "page of level 1 of cut subtree 0".into()
    }),
    damage("cut subtree, another newest Seq in its page", Closed, "newest Seq", |d| {
        cuts(d, |b| {
            let mut to = Ref::decode(&b[CUTS_FIRST..CUTS_FIRST + 32]);
            to.when = Seq::new(to.when.get() - 1);
            to.encode(&mut b[CUTS_FIRST..CUTS_FIRST + 32]);
        });
        "page of level 1 of cut subtree 0".into()
    }),
    leak("cut subtree, its page rots on one leg", Closed, "another copy is right", |d| {
        cut_off(d, 0);
        let list = page_at(d, &at(d, &[ROOT_CUTS]));
        let pba = Ref::decode(&list[CUTS_FIRST..CUTS_FIRST + 32]).pba;
        flip_leg(d, pba, 1);
        "page of level 1 of cut subtree 0".into()
    }),
];
