//! What only somebody does who writes to the drives on purpose: blocks moved, set back or changed, each behind every check
//! that can be made without keys.
use crate::encrypted::NOT_SEALED;
use crate::images::{Image, OTHER};
use crate::images_encrypted::encrypted;
use crate::tools::{
    FIRST, at, commit_name, data_name, leaf_path, page_at, page_name, read, reseal, rot, rot_all,
    seal_commit, some_data, superblock, two_data, write,
};
use crate::world::keys::{self, Wrong};
use crate::world::{Drives, World};
use base::codec;
use plinth_check::{NoKeys, Report, Severity};
use rlog::layout::HEADER_BYTES;
use volume::layout::extent::SUPERBLOCKS;
use volume::layout::superblock as layout;

fn closed() -> Drives {
    encrypted(Image::Closed).clone()
}

/// Asserts that just these are more than notes, by what they are about, and what is said of each.
fn assert_told(report: &Report, expected: &[(Severity, &str, &str)]) {
    let problems: Vec<_> = report.problems().collect();
    let told = |(severity, object, says): &(Severity, &str, &str)| {
        problems.iter().any(|finding| {
            finding.severity == *severity
                && finding.object.to_string() == *object
                && finding.what.contains(says)
        })
    };
    let right = problems.len() == expected.len() && expected.iter().all(told);
    assert!(right, "expected {expected:#?}, found {problems:#?}");
}

#[test]
fn data_that_was_swapped() {
    let mut drives = closed();
    let ((a, first), (b, second)) = two_data(&drives);
    let (mut x, mut y) = (read(&drives, first.pba), read(&drives, second.pba));
    write(&mut drives, first.pba, &y);
    write(&mut drives, second.pba, &x);
    let (a, b) = (data_name(a), data_name(b));
    let says = "fails its check on leg 0, fails its check on leg 1: no copy is right";
    assert_told(&drives.fsck(), &[(Severity::Damage, &a, says), (Severity::Damage, &b, says)]);
    // The same by somebody who makes the CRCs right.
    keys::forge_crc(&mut y, first.check);
    keys::forge_crc(&mut x, second.check);
    write(&mut drives, first.pba, &y);
    write(&mut drives, second.pba, &x);
    assert_told(&drives.fsck(), &[(Severity::Damage, &a, NOT_SEALED), (Severity::Damage, &b, NOT_SEALED)]);
    assert!(drives.fsck_with(&NoKeys).findings.is_empty(), "nothing without keys leads to data");
}

#[test]
fn data_that_was_set_back() {
    let mut world = World::serve(closed());
    world.write(800, 8, 1);
    let drives = world.close();
    let older = read(&drives, some_data(&drives, 100).1.pba);
    let mut world = World::serve(drives);
    world.write(800, 8, 2);
    let mut drives = world.close();
    let (lba, now) = some_data(&drives, 100);
    let mut older = older;
    write(&mut drives, now.pba, &older);
    let name = data_name(lba);
    assert_told(&drives.fsck(), &[(Severity::Damage, &name, "fails its check on leg 0")]);
    keys::forge_crc(&mut older, now.check);
    write(&mut drives, now.pba, &older);
    assert_told(&drives.fsck(), &[(Severity::Damage, &name, NOT_SEALED)]);
    // Beside a copy that is right.
    let mut drives = closed();
    let (lba, now) = some_data(&drives, 300);
    let (drive, place) = crate::tools::place(&drives, now.pba, 1);
    let mut changed = drives.get(drive, place);
    changed[7] ^= 1;
    keys::forge_crc(&mut changed, now.check);
    drives.put(drive, place, &changed);
    let says = "was sealed here (changed, moved or old) on leg 1; another copy is right";
    assert_told(&drives.fsck(), &[(Severity::Repairable, &data_name(lba), says)]);
}

#[test]
fn a_page_of_another_group() {
    let mut drives = closed();
    let to = at(&drives, &leaf_path(300));
    let mut page = page_at(&drives, &to);
    let line = superblock(&drives).line.expect("a line");
    keys::seal_page(OTHER, &[line], &mut page, to.pba, to.ckpt());
    write(&mut drives, to.pba, &page);
    let name = page_name(300, 0);
    assert_told(&drives.fsck(), &[(Severity::Damage, &name, "fails its check on leg 0")]);
    keys::forge_crc(&mut page, to.check);
    write(&mut drives, to.pba, &page);
    assert_told(&drives.fsck(), &[(Severity::Damage, &name, NOT_SEALED)]);
    assert!(drives.fsck_with(&NoKeys).findings.is_empty(), "nothing without keys leads to maps");
}

/// Changes superblock slots behind a right XXH3.
fn change(drives: &mut Drives, slots: &[(usize, usize)], with: impl Fn(&mut base::Block)) {
    for (drive, slot) in slots {
        let place = FIRST + u64::from(SUPERBLOCKS[*slot]);
        let mut block = drives.get(*drive, place);
        with(&mut block);
        reseal(&mut block);
        drives.put(*drive, place, &block);
    }
}

const ALL: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

#[test]
fn a_superblock_that_was_changed() {
    let newer = |block: &mut base::Block| {
        let version = codec::u64_at(&block[..], layout::NUMBER_AT);
        codec::put_u64(&mut block[..], layout::NUMBER_AT, version + 1);
    };
    let name = "superblock slot 1 of leg 1 column 0";
    let mut drives = closed();
    change(&mut drives, &[(1, 1)], newer);
    assert_told(&drives.fsck(), &[(Severity::Repairable, name, NOT_SEALED)]);
    // That it is encrypted no more is not believed either.
    let mut drives = closed();
    let plain = |block: &mut base::Block| {
        block[layout::CHECK_KIND_AT] = 1;
        block[layout::CODE_AT..layout::CODE_AT + 16].fill(0);
        block[layout::OLDEST_KEY_AT..layout::OLDEST_KEY_AT + 2].fill(0);
        newer(block);
    };
    change(&mut drives, &[(1, 1)], plain);
    assert_told(&drives.fsck(), &[(Severity::Repairable, name, NOT_SEALED)]);
    let without = drives.fsck_with(&NoKeys);
    assert!(without.problems().any(|one| one.what.contains("of a group that is encrypted")), "{without:#?}");
    // All of them: one story, and what needs no keys is looked at all the same.
    let mut drives = closed();
    change(&mut drives, &ALL, |block| block[layout::CODE_AT] ^= 1);
    let says = "no superblock was made with the keys given";
    assert_told(&drives.fsck(), &[(Severity::Damage, "group", says)]);
    assert!(drives.fsck_with(&NoKeys).findings.is_empty(), "a code says nothing without the key");
    let mut drives = closed();
    change(&mut drives, &ALL, plain);
    let report = drives.fsck();
    assert!(report.problems().next().expect("told").what.contains("is not encrypted by its superblocks"));
}

#[test]
fn a_commit_that_was_changed() {
    let forge = |bytes: &mut [u8]| {
        bytes[HEADER_BYTES + 5] ^= 1;
        seal_commit(bytes);
    };
    let mut drives = encrypted(Image::Log).clone();
    let name = rot(&mut drives, 2, 1, forge);
    let expected = [
        (Severity::Repairable, name.as_str(), NOT_SEALED),
        (Severity::Repairable, name.as_str(), "leg 1 does not have it; the next opening writes it there"),
    ];
    assert_told(&drives.fsck(), &expected);
    let without = drives.fsck_with(&NoKeys);
    assert!(without.problems().all(|one| one.object.to_string() == name), "{without:#?}");
    let mut drives = encrypted(Image::Log).clone();
    let name = rot_all(&mut drives, 3, forge);
    let expected = [
        (Severity::Damage, name.as_str(), NOT_SEALED),
        (Severity::Damage, name.as_str(), "no copy has it, and everything up to Seq"),
    ];
    assert_told(&drives.fsck(), &expected);
    // The chain tells that it is another than its successor was made behind.
    let without = drives.fsck_with(&NoKeys);
    let next = commit_name(name["commit ".len()..].parse::<u64>().expect("a number") + 1);
    assert!(without.problems().any(|one| one.object.to_string() == next), "{without:#?}");
}

/// Other keys are told once.
#[test]
fn wrong_keys() {
    let right = Wrong { data: false, metadata: false, number: 1 };
    for image in [Image::Closed, Image::Log, Image::StripedLog] {
        let drives = encrypted(image);
        let told = |keys: &Wrong, says| {
            assert_told(&drives.fsck_with(keys), &[(Severity::Damage, "group", says)]);
        };
        assert!(drives.fsck_with(&right).is_clean());
        told(&Wrong { metadata: true, ..right }, "no superblock was made with the keys given");
        told(&Wrong { data: true, ..right }, "data key 1 opens nothing of what is under it");
        told(&Wrong { number: 2, ..right }, "data key 1 was not given");
        let plain = image.good().fsck_with(&right);
        assert_told(&plain, &[(Severity::Damage, "group", "keys of it were given")]);
    }
}
