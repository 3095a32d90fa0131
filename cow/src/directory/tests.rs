//! Golden bytes of the directory's pages, and refusal of whatever this version does not know.
use super::*;
use base::{Check, Pba};

const SPACE: Blocks = Blocks::new(1 << 20);

fn page_ref(pba: u64) -> Ref {
    Ref::page(Pba::new(pba), Seq::new(9), CkptNo::new(3), Check([0xcc; 16]))
}

fn root() -> Root {
    Root {
        ckpt: CkptNo::new(0x0403_0201),
        seq: Seq::new(0x0807_0605_0403),
        used: Blocks::new(0x1234),
        regions: 5,
        region_blocks: 32768,
        tree_height: 1,
        tree: page_ref(0x21),
        volumes: page_ref(0x22),
        cuts: Ref::ABSENT,
    }
}

fn volume(id: u32) -> VolumeEntry {
    VolumeEntry {
        id: VolumeId::new(id),
        height: Height::from_raw(2).expect("a height"),
        state: VolumeState::Live,
        sectors: Sectors::new(0x1_0001),
        created: Seq::new(0x77),
        data: Some(Blocks::new(0x55)),
        root: Ref::hole(Seq::new(0x77)),
        uuid: Uuid([0xab; 16]),
    }
}

fn hex(bytes: &[u8]) -> alloc::string::String {
    bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
}

/// Format version 1. If one of these fails the format has changed: that needs a new version.
#[test]
fn golden_bytes_of_the_root() {
    let mut page = [0xee; base::BLOCK_BYTES];
    root().encode(&mut page);
    assert_eq!(
        hex(&page[..40]),
        "706c6e74686469720100010001020304030405060708000034120000000000000500000000800000"
    );
    let entry = |pba: &str| alloc::format!("{pba}000000009000000000000003000000{}", "cc".repeat(16));
    assert_eq!(hex(&page[64..96]), entry("22"));
    assert_eq!(hex(&page[96..128]), entry("21"));
    assert!(page[40..64].iter().chain(&page[128..]).all(|byte| *byte == 0));
    assert_eq!(Root::decode(&page, SPACE), Ok(root()));
}

#[test]
fn golden_bytes_of_a_volumes_page() {
    let mut volumes = Volumes::default();
    volumes.push(volume(0x0102));
    let mut page = [0xee; base::BLOCK_BYTES];
    encode_volumes(&volumes, &mut page);
    assert_eq!(hex(&page[..16]), "706c6e7468766f6c0100000000000000");
    assert_eq!(hex(&page[128..160]), "0201000002010000010001000000000077000000000000005600000000000000");
    assert_eq!(hex(&page[160..172]), "000000000071070000000000");
    assert_eq!(hex(&page[192..208]), "ab".repeat(16));
    assert!(page[16..128].iter().chain(&page[208..]).all(|byte| *byte == 0));
    let read = decode_volumes(&page, SPACE).expect("valid");
    assert_eq!(read.iter().collect::<alloc::vec::Vec<_>>(), [&volume(0x0102)]);
}

/// Builds before the count wrote nothing there: their volumes are read, and written back, as they are.
#[test]
fn a_volume_that_was_never_counted_stays_so() {
    let mut volumes = Volumes::default();
    volumes.push(VolumeEntry { data: None, ..volume(0x0102) });
    let mut page = [0xee; base::BLOCK_BYTES];
    encode_volumes(&volumes, &mut page);
    assert_eq!(hex(&page[128..160]), "0201000002010000010001000000000077000000000000000000000000000000");
    assert_eq!(
        decode_volumes(&page, SPACE).expect("valid").iter().next().map(|volume| volume.data),
        Some(None)
    );
}

#[test]
fn golden_bytes_of_a_cut_list() {
    let mut cuts = CutList::default();
    cuts.push(CutEntry { volume: VolumeId::new(0x0203), subtree: page_ref(0x31), level: 2, cursor: 0x0706 });
    let mut page = [0xee; base::BLOCK_BYTES];
    encode_cuts(&cuts, &mut page);
    assert_eq!(hex(&page[..16]), "706c6e74686375740100000000000000");
    assert_eq!(page[64], 0x31);
    assert_eq!(hex(&page[96..112]), "06070000000000000200000003020000");
    assert!(page[16..64].iter().chain(&page[112..]).all(|byte| *byte == 0));
    let read = decode_cuts(&page, SPACE).expect("valid");
    assert_eq!(read.iter().count(), 1);
    assert_eq!(
        read.iter().next(),
        Some(&CutEntry { volume: VolumeId::new(0x0203), subtree: page_ref(0x31), level: 2, cursor: 0x0706 })
    );
}

#[test]
fn full_pages_come_back() {
    let mut volumes = Volumes::default();
    (0..VOLUMES_MAX as u32).for_each(|id| volumes.push(volume(id)));
    let mut cuts = CutList::default();
    (0..CUTS_MAX as u64).for_each(|i| {
        cuts.push(CutEntry {
            volume: VolumeId::new(1),
            subtree: page_ref(i + 1),
            level: 1,
            cursor: u64::MAX - i,
        })
    });
    assert_eq!((volumes.room(), cuts.room()), (0, 0));
    let mut page = [0; base::BLOCK_BYTES];
    encode_volumes(&volumes, &mut page);
    assert!(decode_volumes(&page, SPACE).expect("valid").iter().eq(volumes.iter()));
    encode_cuts(&cuts, &mut page);
    assert!(decode_cuts(&page, SPACE).expect("valid").iter().eq(cuts.iter()));
    let second = cuts.remove(1);
    assert_eq!((second.subtree.pba, cuts.len()), (Pba::new(2), CUTS_MAX - 1));
    assert_eq!(cuts.iter().nth(1).expect("moved up").subtree.pba, Pba::new(3));
}

/// Every byte that is flipped either makes the page refused or is a field that is read: nothing is skipped, so
/// an old program never overlooks what a new one wrote.
#[test]
fn no_byte_is_overlooked() {
    let mut page = [0; base::BLOCK_BYTES];
    root().encode(&mut page);
    for at in 0..base::BLOCK_BYTES {
        let mut other = page;
        other[at] ^= 0x40;
        assert_ne!(Root::decode(&other, SPACE), Ok(root()), "byte {at} of the root");
    }
    let mut volumes = Volumes::default();
    volumes.push(volume(1));
    encode_volumes(&volumes, &mut page);
    for at in 0..base::BLOCK_BYTES {
        let mut other = page;
        other[at] ^= 0x40;
        let same = decode_volumes(&other, SPACE).is_ok_and(|read| read.iter().eq(volumes.iter()));
        assert!(!same, "byte {at} of the volumes page");
    }
    let mut cuts = CutList::default();
    cuts.push(CutEntry { volume: VolumeId::new(0x0203), subtree: page_ref(0x31), level: 2, cursor: 0 });
    encode_cuts(&cuts, &mut page);
    for at in 0..base::BLOCK_BYTES {
        let mut other = page;
        other[at] ^= 0x40;
        let same = decode_cuts(&other, SPACE).is_ok_and(|read| read.iter().eq(cuts.iter()));
        assert!(!same, "byte {at} of the cut list");
    }
}

#[test]
fn what_a_later_version_uses_is_refused() {
    let mut page = [0; base::BLOCK_BYTES];
    for (at, bad) in [
        (0, BadDirectory::NotThePage(Page::Root)),
        (ROOT_VERSION_AT, BadDirectory::Version(3)),
        (ROOT_SNAPSHOTS, BadDirectory::Unknown(Page::Root)),
        (ROOT_PINS, BadDirectory::Unknown(Page::Root)),
        (ROOT_END, BadDirectory::Unknown(Page::Root)),
    ] {
        root().encode(&mut page);
        page[at] ^= 2;
        assert_eq!(Root::decode(&page, SPACE), Err(bad));
    }
    let impossible = |root: Root| {
        let mut page = [0; base::BLOCK_BYTES];
        root.encode(&mut page);
        assert_eq!(Root::decode(&page, SPACE), Err(BadDirectory::OutOfRange(Page::Root)));
    };
    impossible(Root { regions: 33, ..root() });
    impossible(Root { tree: Ref::ABSENT, ..root() });
    impossible(Root { tree_height: 0, ..root() });
    impossible(Root { volumes: page_ref(SPACE.get()), ..root() });
    impossible(Root { used: Blocks::new(5 * 32768 + 1), ..root() });
    let small = VolumeEntry { sectors: Sectors::new(128 * 128 * 8 + 1), ..volume(1) };
    let mut volumes = Volumes::default();
    volumes.push(small);
    encode_volumes(&volumes, &mut page);
    assert_eq!(
        decode_volumes(&page, SPACE).map(|_| ()),
        Err(BadDirectory::OutOfRange(Page::Volumes)),
        "a volume larger than its map"
    );
}
