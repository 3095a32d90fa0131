//! Names in headers: their bytes, and who can read them.
use super::*;
use crate::keys::portable::Portable;
use base::{Column, ExtentNo, KEY_BYTES, LegId, RowNo};
use zeroize::Zeroizing;

fn header() -> Header {
    Header {
        pool: Uuid([1; 16]),
        drive: Uuid([2; 16]),
        group: Uuid([3; 16]),
        extent: ExtentNo::new(7),
        row: RowNo::ZERO,
        leg: LegId::new(1),
        column: Column::new(0),
    }
}

fn names(volume: &str) -> Names {
    let volume_id = Uuid([9; 16]);
    Names { written: 1, group: "g".into(), volume: volume.into(), volume_id, size_bytes: 4096 }
}

/// The bytes of format version 1.
#[test]
fn golden() {
    let mut block = header().encode();
    assert_eq!(Names::read(&block), Ok(Found::None));
    names("vol").put(&mut block, None);
    assert_eq!(Header::decode(&block), Ok(header()), "the header says what it said");
    assert_eq!(
        &block[128..168],
        &[&[1, 0, 0, 0, 0, 0, 0, 0][..], &[9; 16], &[0, 16, 0, 0, 0, 0, 0, 0], &[0; 8]].concat()[..]
    );
    assert_eq!((&block[256..259], &block[392..397]), (&[1, b'g', 0][..], &[3, b'v', b'o', b'l', 0][..]));
    assert_eq!(Names::read(&block), Ok(Found::Plain(names("vol"))));
}

#[test]
fn a_shorter_name_leaves_nothing_of_the_longer_and_damage_is_found() {
    let mut block = header().encode();
    names(&"x".repeat(128)).put(&mut block, None);
    names("v").put(&mut block, None);
    let mut fresh = header().encode();
    names("v").put(&mut fresh, None);
    assert_eq!(block, fresh);
    block[300] ^= 1;
    assert_eq!(Names::read(&block), Err(Bad::Check));
}

fn keys(metadata: u8) -> GroupKeys {
    let data = alloc::vec![(1, Zeroizing::new([1; KEY_BYTES]))];
    GroupKeys { data, metadata: Zeroizing::new([metadata; KEY_BYTES]), ciphers: Box::new(Portable) }
}

const SALT: [u8; at::SALT_BYTES] = [0x5a; at::SALT_BYTES];

fn sealed_header(name: &str) -> Block {
    let mut block = header().encode();
    names(name).put(&mut block, Some(&NameSeal { keys: &keys(3), salt: SALT }));
    block
}

fn found(block: &Block) -> SealedNames {
    match Names::read(block).expect("right") {
        Found::Sealed(sealed) => sealed,
        other => panic!("{other:?}"),
    }
}

/// The bytes of format version 1, computed with Python's hmac, hashlib and cryptography.
#[test]
fn golden_of_an_encrypted_group() {
    let block = sealed_header("vol");
    assert_eq!(Header::decode(&block), Ok(header()), "the header says what it said");
    assert_eq!(&block[128..136], &[1, 0, 0, 0, 1, 0, 0, 0]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&block[136..152]), "0d13205dff87853cd6518f3df102a5b1");
    assert_eq!(hex(&block[505..521]), "5447f65a9770806e43bcbbed488edeaf");
    assert_eq!(hex(&block[521..544]), "0000000000000056f9e2dfea5c8fb6b816aac100000000");
    assert_eq!((&block[544..576], &block[576..580]), (&SALT[..], &[0; 4][..]));
    assert_eq!(found(&block).open(&keys(3)), Ok(Some(names("vol"))));
}

#[test]
fn no_name_of_an_encrypted_group_is_in_plain_and_only_its_keys_open_it() {
    let name = "a-name-that-nobody-else-has";
    let block = sealed_header(name);
    assert!(!block.windows(name.len()).any(|piece| piece == name.as_bytes()));
    assert_eq!(found(&block).open(&keys(4)), Ok(None));
    for (at, what) in
        [(56, "group"), (128, "number"), (136, "text"), (520, "text"), (528, "tag"), (544, "salt")]
    {
        let mut other = block;
        other[at] ^= 2;
        sealed::seal(&mut other, layout::header::MAGIC);
        assert_eq!(found(&other).open(&keys(3)), Ok(None), "another {what}");
    }
    let mut unknown = block;
    unknown[at::KIND_AT] = 2;
    sealed::seal(&mut unknown, layout::header::MAGIC);
    assert_eq!(Names::read(&unknown), Err(Bad::Content));
}

/// A group does not change its kind, but a header that did would show nothing of what it was.
#[test]
fn a_writing_leaves_nothing_of_the_one_before() {
    let mut block = sealed_header("vol");
    names("v").put(&mut block, None);
    let mut fresh = header().encode();
    names("v").put(&mut fresh, None);
    assert_eq!(block, fresh);
    names("vol").put(&mut block, Some(&NameSeal { keys: &keys(3), salt: SALT }));
    assert_eq!(block, sealed_header("vol"));
}

#[test]
fn what_is_known_is_carried_and_nothing_else() {
    let mut plain = header().encode();
    names("vol").put(&mut plain, None);
    for block in [plain, sealed_header("vol"), header().encode()] {
        let carried = |block: &Block| {
            let mut to = header().encode();
            Names::copy_known(block, &mut to);
            to
        };
        assert_eq!(carried(&block), block);
        for at in [133, 524, 581, 2048, 4079] {
            let mut more = block;
            more[at] = 1;
            sealed::seal(&mut more, layout::header::MAGIC);
            assert_ne!(carried(&more), more, "byte {at}");
        }
    }
}
