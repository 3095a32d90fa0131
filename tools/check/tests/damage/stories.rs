//! Damage of every kind of structure is found, named, and judged by whether another copy is right.

use crate::images::closed;
use crate::tools::{
    at, cut_off, edit, flip, flip_all, leaf_path, page_at, path, place, put_superblock, read, reseal,
    some_data, superblock, write,
};
use crate::world::{Drives, EXTENT, Rng, SECTORS, World};
use base::{Block, CkptNo, Column, ExtentNo, Op, Pba, RowNo, SECTORS_PER_BLOCK, Seq, codec};
use cow::space_layout::{ROOT_CUTS, ROOT_TREE, ROOT_USED};
use cow::{PAGE_REFS, Ref, page};
use fence::CopyState;
use plinth_check::{Object, Options, Report, Severity, fsck};
use volume::Header;
use volume::label::places;
use volume::layout::extent::SUPERBLOCKS;

fn assert_only(report: &Report, severity: Severity, object: &Object, what: &str) {
    let problems: Vec<_> = report.problems().collect();
    let right = problems.len() == 1 && problems[0].severity == severity && problems[0].object == *object;
    assert!(right, "{what}: expected {severity:?} of {object}, found {problems:#?}");
}

fn assert_has(report: &Report, severity: Severity, object: &Object, what: &str) {
    let found = report.findings.iter().any(|f| f.severity == severity && f.object == *object);
    assert!(found, "{what}: expected {severity:?} of {object}, found {:#?}", report.findings);
}

#[test]
fn one_bad_copy_of_anything_is_named_and_two_are_damage() {
    let good = closed(2, 1);
    let superblock = superblock(&good);
    let (lba, data) = some_data(&good, 700);
    let leaf = path(&good, &leaf_path(lba));
    let tree = path(&good, &[ROOT_TREE, 0]);
    let map = |level: u8, lba| Object::MapPage { volume: 1, level, lba };
    let cases = [
        (superblock.row_pages.pba, Object::RowPage(0, 0)),
        (superblock.history.pba, Object::HistoryPage(0)),
        (superblock.directory.pba, Object::DirectoryRoot),
        (leaf[1].pba, Object::Volumes),
        (tree[1].pba, Object::BitmapPage(0, 0)),
        (tree[2].pba, Object::Bitmap(0)),
        (leaf[2].pba, map(4, 0)),
        (leaf[5].pba, map(1, 0)),
        (leaf[6].pba, map(0, lba / 128 * 128)),
        (data.pba, Object::Data { volume: 1, lba }),
    ];
    for (i, (pba, object)) in cases.iter().enumerate() {
        for leg in 0..2 {
            let mut drives = good.clone();
            let (drive, at) = place(&drives, *pba, leg);
            flip(&mut drives, drive, at, (i * 397 + usize::from(leg)) % 4096);
            let report = drives.fsck();
            assert_only(&report, Severity::Repairable, object, "one leg");
            let found = &report.problems().next().expect("one").at;
            assert_eq!((found[0].drive.as_str(), found[0].block), (["d0", "d1"][drive], at));
            let (drive, at) = place(&drives, *pba, 1 - leg);
            flip(&mut drives, drive, at, 9);
            let report = drives.fsck();
            assert_has(&report, Severity::Damage, object, "both legs");
            assert!(report.findings.iter().all(|f| f.severity != Severity::Leak), "{report:#?}");
        }
    }
}

#[test]
fn labels_headers_and_superblock_slots() {
    let good = closed(2, 1);
    let [first, second] = places(base::Blocks::new(good.media[0].blocks)).map(|at| at.get());
    let slot = |leg, slot| Object::Superblock { leg, column: 0, slot };
    let cases = [
        (1, first, Object::Label(0)),
        (1, second, Object::Label(1)),
        (0, 256, Object::Header(0)),
        (1, 256 + u64::from(2 * EXTENT), Object::Header(2)),
        (0, 256 + u64::from(SUPERBLOCKS[0]), slot(0, 0)),
        (1, 256 + u64::from(SUPERBLOCKS[1]), slot(1, 1)),
    ];
    for (drive, at, object) in &cases {
        for byte in [0, 40, 2000, 4090] {
            let mut drives = good.clone();
            flip(&mut drives, *drive, *at, byte);
            assert_only(&drives.fsck(), Severity::Repairable, object, "one copy");
        }
    }
    let mut drives = good.clone();
    flip(&mut drives, 0, first, 30);
    flip(&mut drives, 0, second, 30);
    assert_has(&drives.fsck(), Severity::Damage, &Object::Label(0), "both labels");
    let mut drives = good.clone();
    for slot in SUPERBLOCKS {
        flip(&mut drives, 0, 256 + u64::from(slot), 30);
    }
    let report = drives.fsck();
    assert_has(&report, Severity::Repairable, &slot(0, 0), "both slots of a leg");
    assert_has(&report, Severity::Repairable, &slot(0, 1), "both slots of a leg");
    for slot in SUPERBLOCKS {
        flip(&mut drives, 1, 256 + u64::from(slot), 30);
    }
    assert_only(&drives.fsck(), Severity::Damage, &Object::Group, "no superblock is left");
}

#[test]
fn a_lost_write_of_a_superblock_is_found() {
    let mut drives = Drives::new(2, 1);
    let mut world = World::serve(drives);
    world.work(&mut Rng(3), 50);
    let older = world.drives.get(0, 256 + u64::from(SUPERBLOCKS[0]));
    world.work(&mut Rng(4), 50);
    drives = world.close();
    for slot in SUPERBLOCKS {
        drives.put(0, 256 + u64::from(slot), &older);
    }
    let report = drives.fsck();
    for slot in 0..2 {
        assert_has(&report, Severity::Repairable, &Object::Superblock { leg: 0, column: 0, slot }, "older");
    }
}

/// What D covers may not be missing; what it does not cover is the end of the log.
#[test]
fn commits_of_a_log_that_is_to_be_replayed() {
    let mut world = World::serve(Drives::new(2, 1));
    world.write(0, 8, 1);
    world.ask(Op::Flush, 0, 0);
    world.write(8, 8, 2);
    let drives = world.kill();
    let report = drives.assert_clean("killed");
    assert_eq!(report.counts.commits, 2);
    let shown = plinth_check::inspect(&[("a", &drives.media[0]), ("b", &drives.media[1])]);
    let ring = shown["groups"][0]["log"]["ring"].as_array().expect("a list");
    let at = |i: usize, leg: usize| ring[ring.len() - 2 + i]["at"][leg][1].as_u64().expect("a block");
    let no = |i: usize| Object::Commit(ring[ring.len() - 2 + i]["commit"].as_u64().expect("a number"));

    let mut bad = drives.clone();
    flip(&mut bad, 1, at(0, 1), 150);
    assert_only(&bad.fsck(), Severity::Repairable, &no(0), "at or below D on one leg");
    flip(&mut bad, 0, at(0, 0), 150);
    assert_has(&bad.fsck(), Severity::Damage, &no(0), "at or below D on both");

    let mut bad = drives.clone();
    flip(&mut bad, 1, at(1, 1), 150);
    assert!(bad.fsck().is_clean());
    assert_has(&bad.fsck(), Severity::Note, &no(1), "above D on one leg");
    flip(&mut bad, 0, at(1, 0), 150);
    assert_eq!(bad.assert_clean("above D on both legs the log ends").counts.commits, 1);
}

#[test]
fn data_in_the_log() {
    let mut world = World::serve(Drives::new(2, 1));
    world.write(80, 8, 1);
    world.ask(Op::Flush, 0, 0);
    world.write(160, 8, 2);
    let good = world.kill();
    let find = |lba: u64| {
        let content = (lba * SECTORS_PER_BLOCK).to_le_bytes();
        let holds =
            |block: &Block| block[..8] == content && block[512..514] == (lba as u16 * 8 + 1).to_le_bytes();
        *good.media[1].content.iter().find(|(_, block)| holds(block)).expect("the data").0
    };
    let mut drives = good.clone();
    flip(&mut drives, 1, find(10), 9);
    let durable = Object::LogData { volume: 1, lba: 10 };
    assert_only(&drives.fsck(), Severity::Repairable, &durable, "at or below D");
    flip(&mut drives, 0, find(10), 9);
    assert_only(&drives.fsck(), Severity::Damage, &durable, "at or below D on both legs");
    let mut drives = good.clone();
    flip(&mut drives, 1, find(20), 9);
    assert!(drives.fsck().is_clean(), "the next opening completes it");
    assert_has(&drives.fsck(), Severity::Note, &Object::LogData { volume: 1, lba: 20 }, "above D");
}

#[test]
fn swapped_blocks() {
    let good = closed(2, 1);
    let (a, first) = some_data(&good, 300);
    // Edges of zeroed ranges leave blocks of zeroes, which may be swapped.
    let (mut b, mut second) = some_data(&good, a + 1);
    while second.check == first.check {
        (b, second) = some_data(&good, b + 1);
    }
    let mut drives = good.clone();
    let (drive, at) = place(&drives, first.pba, 1);
    let (_, other) = place(&drives, second.pba, 1);
    let (x, y) = (drives.get(drive, at), drives.get(drive, other));
    drives.put(drive, at, &y);
    drives.put(drive, other, &x);
    let report = drives.fsck();
    for lba in [a, b] {
        assert_has(&report, Severity::Repairable, &Object::Data { volume: 1, lba }, "swapped on one leg");
    }
    let mut drives = good.clone();
    let (x, y) = (read(&drives, first.pba), read(&drives, second.pba));
    write(&mut drives, first.pba, &y);
    write(&mut drives, second.pba, &x);
    assert_has(&drives.fsck(), Severity::Damage, &Object::Data { volume: 1, lba: b }, "swapped on both legs");
}

/// Changes a bit of region 0's bitmap, with everything above that counts it.
fn turn_bit(drives: &mut Drives, bit: u32) -> bool {
    let mut was_used = false;
    edit(drives, &[ROOT_TREE, 0], |block, entry| {
        let mut bits = cow::bitmap::Bitmap::decode(block);
        was_used = bits.get(bit);
        if was_used {
            bits.clear(bit)
        } else {
            bits.set(bit)
        };
        bits.encode(block);
        let summary = bits.summary(EXTENT);
        entry.when = Seq::new(u64::from(summary.free) << 26 | u64::from(summary.longest));
    });
    edit(drives, &[], |block, _| {
        let used = codec::u64_at(block, ROOT_USED);
        codec::put_u64(block, ROOT_USED, if was_used { used - 1 } else { used + 1 });
    });
    was_used
}

#[test]
fn leaked_blocks_and_blocks_that_are_free_and_mapped() {
    let good = closed(2, 1);
    let bitmap = read(&good, path(&good, &[ROOT_TREE, 0])[2].pba);
    let bits = cow::bitmap::Bitmap::decode(&bitmap);
    let free = (100..EXTENT).find(|bit| !bits.get(*bit)).expect("a free block");
    let mut drives = good.clone();
    assert!(!turn_bit(&mut drives, free));
    assert_only(&drives.fsck(), Severity::Leak, &Object::Space(u64::from(free), 1), "a leak");

    let mut lba = 0;
    let (lba, data) = loop {
        let (at, data) = some_data(&good, lba);
        if data.pba.get() < u64::from(EXTENT) {
            break (at, data);
        }
        lba = at + 1;
    };
    let mut drives = good.clone();
    assert!(turn_bit(&mut drives, data.pba.get() as u32));
    let report = drives.fsck();
    assert_only(&report, Severity::Damage, &Object::Data { volume: 1, lba }, "mapped and free");
    assert!(report.findings[0].what.contains("bitmap says free"), "{report:#?}");

    let mut drives = good.clone();
    assert!(turn_bit(&mut drives, 0), "the header");
    assert_only(&drives.fsck(), Severity::Damage, &Object::Bitmap(0), "a fixed block that is free");

    let mut drives = good.clone();
    edit(&mut drives, &[], |block, _| {
        let used = codec::u64_at(block, ROOT_USED);
        codec::put_u64(block, ROOT_USED, used - 1);
    });
    assert_only(&drives.fsck(), Severity::Damage, &Object::DirectoryRoot, "counts do not add up");
}

#[test]
fn a_block_with_two_owners_is_told_with_both() {
    let good = closed(2, 1);
    let (a, first) = some_data(&good, 300);
    let b = (a + 1..).take_while(|lba| lba / 128 == a / 128).find(|lba| some_data(&good, *lba).0 == *lba);
    let b = b.expect("more data in the leaf");
    let gone = some_data(&good, b).1;
    let mut drives = good.clone();
    edit(&mut drives, &leaf_path(a), |block, to| {
        page::set(block, b as usize % PAGE_REFS, &first);
        to.when = page::summary(block).0;
    });
    let report = drives.fsck();
    assert_has(&report, Severity::Leak, &Object::Space(gone.pba.get(), 1), "the block that lost its Ref");
    let object = Object::Data { volume: 1, lba: a };
    let double = report.findings.iter().find(|f| f.severity == Severity::Damage && f.object == object);
    let what = &double.expect("a conflict").what;
    assert!(what.contains(&format!("Lba {a}")) && what.contains(&format!("Lba {b}")), "{what}");
}

#[test]
fn pages_that_have_their_check_and_lie() {
    let good = closed(2, 1);
    let (lba, _) = some_data(&good, 300);
    let leaf = Object::MapPage { volume: 1, level: 0, lba: lba / 128 * 128 };
    let lies = |change: &dyn Fn(&mut Block, &mut Ref)| {
        let mut drives = good.clone();
        edit(&mut drives, &leaf_path(lba), |block, to| change(block, to));
        drives.fsck()
    };
    let newest = lies(&|_, to| to.when = Seq::new(to.when.get() - 1));
    assert_has(&newest, Severity::Damage, &leaf, "newest below");
    let from_the_future = lies(&|_, to| to.tag += 1000);
    assert_has(&from_the_future, Severity::Damage, &leaf, "checkpoint");
    let hole = lies(&|block, _| {
        let bad = Ref { pba: Pba::new(77), ..Ref::hole(Seq::new(2)) };
        page::set(block, lba as usize % PAGE_REFS, &bad);
    });
    assert_has(&hole, Severity::Damage, &Object::Data { volume: 1, lba }, "a hole that is somewhere");
    let outside = lies(&|block, _| {
        let bad = Ref::page(Pba::new(1 << 30), Seq::new(2), CkptNo::ZERO, base::Check::NONE);
        page::set(block, lba as usize % PAGE_REFS, &bad);
    });
    assert_has(&outside, Severity::Damage, &Object::Data { volume: 1, lba }, "outside the space");
}

#[test]
fn extents_that_are_not_what_the_rows_say() {
    let good = closed(2, 1);
    let mut drives = good.clone();
    let at = 256 + u64::from(2 * EXTENT);
    let header = Header::decode(&drives.get(0, at)).expect("a header");
    drives.put(0, at, &Header { row: RowNo::new(1), column: Column::ZERO, ..header }.encode());
    assert_only(&drives.fsck(), Severity::Damage, &Object::Header(2), "another row's header");

    let mut drives = good.clone();
    let mut superblock = superblock(&good);
    let mut rows = read(&good, superblock.row_pages.pba);
    let first = codec::u64_at(&rows[..], 2 * 8);
    codec::put_u64(&mut rows[..], 4 * 8, first);
    write(&mut drives, superblock.row_pages.pba, &rows);
    superblock.row_pages.check = base::Check::of(&rows[..]);
    put_superblock(&mut drives, &superblock);
    assert_has(&drives.fsck(), Severity::Damage, &Object::Row(2), "an extent in two rows");

    let mut drives = good.clone();
    let stray = Header { extent: ExtentNo::new(15), row: RowNo::new(40), ..header };
    drives.put(0, 256 + u64::from(15 * EXTENT), &stray.encode());
    let report = drives.assert_clean("on its way in or out");
    assert_has(&report, Severity::Note, &Object::Header(15), "a stray header");
}

#[test]
fn stale_drives_are_told_and_not_compared() {
    let mut drives = closed(2, 1);
    let mut superblock = superblock(&drives);
    superblock.drives[1].state = CopyState::stale(Seq::new(5), CkptNo::new(1));
    superblock.version += 1;
    superblock.drives[1].version = superblock.version;
    for home in superblock.homes().take(1) {
        for slot in SUPERBLOCKS {
            drives.put(0, 256 + u64::from(slot), &superblock.encode(home));
        }
    }
    let (lba, data) = some_data(&drives, 300);
    let (drive, at) = place(&drives, data.pba, 1);
    flip(&mut drives, drive, at, 3);
    let report = drives.assert_clean("stale");
    assert_has(&report, Severity::Note, &Object::Group, "the stale drive");
    let (drive, at) = place(&drives, data.pba, 0);
    flip(&mut drives, drive, at, 3);
    assert_only(&drives.fsck(), Severity::Damage, &Object::Data { volume: 1, lba }, "the only current copy");
}

#[test]
fn copied_drives_and_things_that_are_no_drives() {
    let drives = closed(2, 1);
    let report = fsck(&[("a", &drives.media[0]), ("b", &drives.media[0])], &Options::default());
    assert_has(&report, Severity::Damage, &Object::Drive, "a copy");
    let blank = plinth_check::MemoryMedia { blocks: 4096, ..Default::default() };
    assert_only(&fsck(&[("blank", &blank)], &Options::default()), Severity::Damage, &Object::Drive, "blank");
}

#[test]
fn cut_subtrees_are_used_behind_their_cursor_only() {
    let good = closed(2, 1);
    let mut drives = good.clone();
    cut_off(&mut drives, 0);
    drives.assert_clean("cut, nothing freed");

    // The first three leaves count as freed: the leaves themselves and their data are marked used for nothing.
    let top = read(&good, path(&good, &leaf_path(0)[..5]).pop().expect("the page of level 1").pba);
    let leaves = (0..3).map(|i| page::get(&top, i));
    let data =
        |leaf: Ref| (0..PAGE_REFS).filter(|i| !page::get(&read(&good, leaf.pba), *i).is_hole()).count();
    let expected: usize = leaves.filter(|leaf| !leaf.is_hole()).map(|leaf| 1 + data(leaf)).sum();
    let mut drives = good.clone();
    cut_off(&mut drives, 3 * 128);
    let leaked = |finding: &plinth_check::Finding| match finding.object {
        Object::Space(_, count) if finding.severity == Severity::Leak => count as usize,
        // It still counts their data.
        Object::Volumes if finding.severity == Severity::Damage => 0,
        _ => panic!("{finding}"),
    };
    let report = drives.fsck();
    assert_has(&report, Severity::Damage, &Object::Volumes, "too much data counted");
    assert_eq!(report.problems().map(leaked).sum::<usize>(), expected);

    let mut drives = good.clone();
    cut_off(&mut drives, 128 * 128);
    assert_has(&drives.fsck(), Severity::Damage, &Object::CutList, "freed and still listed");
    let mut drives = good.clone();
    cut_off(&mut drives, 0);
    let list = path(&drives, &[ROOT_CUTS])[1];
    let (drive, at) = place(&drives, list.pba, 1);
    flip(&mut drives, drive, at, 100);
    assert_only(&drives.fsck(), Severity::Repairable, &Object::CutList, "the list on one leg");
}

/// Whatever a structure says, with every check made right, is survived: a finding, never a panic or an endless walk.
#[test]
fn lies_of_any_kind_are_survived() {
    let good = closed(2, 1);
    let mut rng = Rng(99);
    let (lba, _) = some_data(&good, 300);
    let leaf = leaf_path(lba);
    let paths: Vec<Vec<usize>> = (0..=leaf.len())
        .map(|depth| leaf[..depth].to_vec())
        .chain([vec![ROOT_TREE], vec![ROOT_TREE, 0]])
        .collect();
    let blocks = good.media[0].blocks;
    let sealed = [0, places(base::Blocks::new(blocks))[1].get(), 256, 259, 260, 512];
    for _ in 0..150 {
        let mut drives = good.clone();
        let value = [0, 1, 0x7f, 0xff][rng.below(4) as usize];
        let (byte, length) = (rng.below(400) as usize, 1 + rng.below(8) as usize);
        if rng.below(2) == 0 {
            let path = &paths[rng.below(paths.len() as u64) as usize];
            let byte = if rng.below(2) == 0 { byte } else { rng.below(4000) as usize };
            edit(&mut drives, path, |block, _| block[byte..byte + length].fill(value));
        } else {
            let at = sealed[rng.below(sealed.len() as u64) as usize];
            for drive in 0..2 {
                let mut block = drives.get(drive, at);
                block[byte + 10..byte + 10 + length].fill(value);
                reseal(&mut block);
                drives.put(drive, at, &block);
            }
        }
        drives.fsck();
        plinth_check::inspect(&[("a", &drives.media[0]), ("b", &drives.media[1])]);
    }
}

/// The one promise that matters: if the check finds nothing, the engine reads exactly what was written. Blocks
/// of a drive without a mirror are damaged in turn.
#[test]
fn what_is_called_clean_reads_right() {
    let good = closed(1, 1);
    let expected = World::serve(good.clone()).content();
    let used: Vec<u64> = good.media[0].content.keys().copied().collect();
    let (mut found, mut unused) = (0, 0);
    for (i, at) in used.into_iter().enumerate().step_by(4) {
        let mut drives = good.clone();
        flip(&mut drives, 0, at, (i * 1237) % 4096);
        if !drives.fsck().is_clean() {
            found += 1;
            continue;
        }
        unused += 1;
        let mut world = World::serve(drives);
        assert_eq!(world.content(), expected, "block {at}");
        world.work(&mut Rng(at + 1), 20);
        world.close().assert_clean("after going on");
    }
    assert!(found > 100 && unused > 5, "{found} found, {unused} not in use");
}

/// The engine passes by a page of discarded data that no leg has: space is leaked, and that is all that there is to tell.
#[test]
fn what_lies_below_a_lost_page_of_garbage_is_a_leak() {
    let mut drives = closed(2, 1);
    let (lba, _) = some_data(&drives, 300);
    let leaf = at(&drives, &leaf_path(lba));
    let below = (0..PAGE_REFS).filter(|i| !page::get(&page_at(&drives, &leaf), *i).is_hole()).count();
    flip_all(&mut drives, leaf.pba);
    let mut world = World::serve(drives);
    world.ask(Op::Discard, 0, SECTORS);
    let drives = world.close();
    assert!(superblock(&drives).clean, "it was not read-only");
    let report = drives.fsck();
    let leaked = |finding: &plinth_check::Finding| match finding.object {
        Object::Space(_, count) if finding.severity == Severity::Leak => count as usize,
        _ => panic!("{report:#?}"),
    };
    assert_eq!(report.findings.iter().map(leaked).sum::<usize>(), 1 + below);
}
