//! Blocks that carry their own check (label, header, superblock), and row pages.
//!
//! Each input is tried twice: as it is, and with its check repaired, which is how the reader behind the check is
//! reached. What a repaired superblock says must be fit for every calculation that recovery makes with it.
use super::{Target, block_of};
use crate::signature::Signature;
use base::{
    Block, Blocks, Check, CommitNo, DriveIx, Extent, ExtentNo, Gen, LegId, Pba, RegionNo, RowNo, Seq, Uuid,
};
use fence::{CopyTable, DriveSet, OpenInputs, decide_open};
use volume::label::{self, Found, Label};
use volume::layout::OWN_CHECK;
use volume::{Geometry, Header, Superblock, create, rows};

/// Labels.
pub const LABEL: Target = Target {
    name: "label",
    about: "labels of drives",
    seeds: label_seeds,
    words: &[b"PLNTHDRV"],
    run: run_label,
    cost: 1,
};

/// Headers of extents.
pub const HEADER: Target = Target {
    name: "header",
    about: "headers of extents",
    seeds: header_seeds,
    words: &[b"PLNTHEXT"],
    run: run_header,
    cost: 1,
};

/// Superblocks.
pub const SUPERBLOCK: Target = Target {
    name: "superblock",
    about: "superblocks, and what recovery computes from them first",
    seeds: superblock_seeds,
    words: &[b"PLNTHSUP"],
    run: run_superblock,
    cost: 1,
};

/// Row pages.
pub const ROWS: Target =
    Target { name: "rows", about: "row pages", seeds: row_seeds, words: &[], run: run_rows, cost: 1 };

/// The block as given, and with its own check right.
fn both(input: &[u8]) -> [Block; 2] {
    let block = block_of(input);
    let mut repaired = block;
    let check = Check::of(&repaired[..OWN_CHECK]);
    base::codec::put_check(&mut repaired, OWN_CHECK, check);
    [block, repaired]
}

fn label_seeds() -> Vec<Vec<u8>> {
    let label = Label {
        pool: Uuid([1; 16]),
        pool_name: "fast".into(),
        drive: Uuid([2; 16]),
        blocks: Blocks::new(label::MIN_DRIVE_BLOCKS),
        extent_blocks: 16_384,
        written: 1,
        node: "n1".into(),
        rack: String::new(),
        zone: "z".into(),
        class: "nvme".into(),
    };
    vec![label.encode(0).to_vec(), label.encode(1).to_vec()]
}

fn run_label(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let other: Block = block_of(&label_seeds()[1]);
    for block in both(input) {
        let decoded = Label::decode(&block);
        if let Ok(label) = &decoded {
            assert_eq!(Label::decode(&label.encode(1)).as_ref(), Ok(label), "written again it is another");
            let count = label::extents(label.blocks, label.extent_blocks);
            let [_, second] = label::places(label.blocks);
            if let Some(last) = count.checked_sub(1) {
                let start = label::extent_start(ExtentNo::new(last), label.extent_blocks);
                let end = start + Blocks::new(u64::from(label.extent_blocks));
                assert!(end <= second, "the last extent reaches over the second label");
            }
        }
        signature.shape(&decoded.as_ref().map(|_| ()));
        for found in [label::judge(Some(&block), Some(&other)), label::judge(None, Some(&block))] {
            signature.note(match found {
                Found::Good(_) => 0,
                Found::Repair(_, copy) => 1 + u64::from(copy),
                Found::None => 3,
                Found::Damaged => 4,
                Found::Newer(_) => 5,
            });
        }
    }
    signature
}

fn header_seeds() -> Vec<Vec<u8>> {
    let header = Header {
        pool: Uuid([1; 16]),
        drive: Uuid([2; 16]),
        group: Uuid([3; 16]),
        extent: ExtentNo::new(7),
        row: RowNo::new(9),
        leg: LegId::new(1),
        column: base::Column::new(0),
    };
    vec![header.encode().to_vec()]
}

fn run_header(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    for block in both(input) {
        let decoded = Header::decode(&block);
        if let Ok(header) = &decoded {
            assert_eq!(Header::decode(&header.encode()).as_ref(), Ok(header), "written again it is another");
        }
        signature.shape(&decoded.map(|_| ()));
    }
    signature
}

fn superblock_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (legs, columns, extent) in [(2, 1, 256), (1, 1, 16_384), (3, 2, 1024)] {
        let ring = Geometry::default_ring(columns, extent);
        let drives = legs * columns;
        let place = |drive| Extent { drive: DriveIx::new(drive), extent: ExtentNo::new(0) };
        let new = create::NewGroup {
            pool: Uuid([8; 16]),
            group: Uuid([9; 16]),
            geometry: Geometry::new(legs, columns, 16, extent, ring),
            drives: (0..drives).map(|drive| Uuid([drive + 1; 16])).collect(),
            home: (0..drives).map(place).collect(),
        };
        let phases = create::plan(&new).expect("a possible shape");
        let fresh = phases[1][0].2.to_vec();
        let (decoded, home) = Superblock::decode(&block_of(&fresh)).expect("just made");
        let page = |pba| cow::Ref::page(Pba::new(pba), Seq::new(40), base::CkptNo::new(3), Check([7; 16]));
        let line = rlog::Line {
            first_seq: Seq::new(5),
            first_commit: CommitNo::new(3),
            generation: Gen::new(2),
            id: Uuid([4; 16]),
            salt: [5; 16],
            first_ckpt: base::CkptNo::ZERO,
            key: 0,
        };
        let used = Superblock {
            rows: 2,
            row_height: 1,
            row_pages: page(20),
            history: page(21),
            directory: page(22),
            line: Some(line),
            clean: false,
            ..decoded
        };
        seeds.extend([fresh, used.encode(home).to_vec()]);
    }
    seeds
}

fn run_superblock(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    for block in both(input) {
        let decoded = Superblock::decode(&block);
        if let Ok((superblock, home)) = &decoded {
            let again = Superblock::decode(&superblock.encode(*home));
            assert_eq!(again.as_ref(), Ok(&(superblock.clone(), *home)), "written again it is another");
            check_geometry(&superblock.geometry);
            for page in [superblock.row_pages, superblock.history] {
                signature.note(u64::from(superblock.geometry.home_index(page.pba).is_some()));
            }
            signature.shape(&open(superblock));
            signature.note(u64::from(superblock.line.is_some()));
        }
        signature.shape(&decoded.map(|_| ()));
    }
    signature
}

/// What follows from a shape must hold for every shape that is let in.
fn check_geometry(geometry: &Geometry) {
    assert!(geometry.check(), "a shape that cannot be was let in");
    for pba in [0, geometry.row_blocks() - 1, geometry.row_blocks(), 1 << 20] {
        let pba = Pba::new(pba);
        assert_eq!(geometry.pba(geometry.place(pba)), pba, "a block is somewhere else than it is");
    }
    for index in 0..geometry.home_pages() {
        assert_eq!(geometry.home_index(geometry.home_page(index)), Some(index));
    }
    let mut fixed = 0;
    geometry.fixed_runs(RegionNo::ZERO, &mut |first, count| {
        assert!(
            (first + count).get() <= u64::from(geometry.extent_blocks),
            "a fixed block leaves its region"
        );
        fixed += count.get();
    });
    assert!(fixed <= u64::from(geometry.extent_blocks));
    geometry.ring_place(geometry.ring_blocks() - 1);
}

/// Whether a group with this superblock alone would be opened.
fn open(superblock: &Superblock) -> Option<fence::OpenDecision> {
    let table = CopyTable::from_entries(&superblock.drives)?;
    let mut places = vec![DriveSet::EMPTY; usize::from(superblock.geometry.columns)];
    for home in superblock.homes() {
        places[usize::from(home.column.get())].insert(home.extent.drive);
    }
    let present = table.drives(|_| true);
    let inputs = OpenInputs { table: &table, present, catalogue: false, forced: false };
    Some(decide_open(&inputs, places))
}

fn row_seeds() -> Vec<Vec<u8>> {
    let extent = |i: u8| Extent { drive: DriveIx::new(i % 3), extent: ExtentNo::new(u32::from(i)) };
    let extents: Vec<Extent> = (0..12).map(extent).collect();
    vec![rows::encode(&extents).to_vec(), rows::encode(&[extents[1]; 512]).to_vec()]
}

fn run_rows(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let page = block_of(input);
    for count in [0, 1, 12, 511, 512] {
        let decoded = rows::decode(&page, count);
        if let Some(extents) = &decoded {
            assert_eq!(extents.len(), count);
            assert_eq!(rows::decode(&rows::encode(extents), count).as_ref(), Some(extents));
        }
        signature.note(u64::from(decoded.is_some()));
    }
    signature
}
