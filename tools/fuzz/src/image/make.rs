//! The images: groups of different shapes, written by the engine itself, closed or left as a crash leaves them.
use super::machine::Machine;
use super::secret;
use base::{
    BLOCK_BYTES, Block, Blocks, DriveIx, Extent, ExtentNo, Gen, Lba, Op, Phase, RowNo, SECTORS_PER_BLOCK,
    Sectors, Uuid,
};
use plinth_check::MemoryMedia;
use std::collections::VecDeque;
use std::sync::OnceLock;
use volume::label::{Label, extent_start, places};
use volume::layout::{FIRST_EXTENT_BLOCK, TAIL_BLOCKS};
use volume::{Activation, Candidate, Config, DriveInfo, Geometry, Header, NewVolume, OpenRequest, create};

/// Blocks of every volume.
pub const VOLUME_BLOCKS: u64 = 600;
/// Blocks of an extent.
pub const EXTENT_BLOCKS: u32 = 256;
/// Extents of a drive.
const EXTENTS: u32 = 8;
/// The pool of all images.
pub const POOL: Uuid = Uuid([8; 16]);
/// The group of all images.
pub const GROUP: Uuid = Uuid([9; 16]);

/// As little of everything as an engine takes.
pub const CONFIG: Config = Config {
    slots: 4,
    cache_pages: 128,
    delta_entries: 256,
    loaded_regions: 8,
    max_rows: 64,
    ..Config::SERVED
};

/// A group on its drives.
pub struct Image {
    /// What it is.
    pub name: &'static str,
    /// Mirror copies.
    pub legs: u8,
    /// Stripe columns.
    pub columns: u8,
    /// Whether it was closed: then nothing is in the log alone.
    pub closed: bool,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The drives.
    pub drives: Vec<MemoryMedia>,
    /// By block of the volume: the versions that it ever had, the present one last; 0 is a hole.
    pub versions: Vec<Vec<u32>>,
    /// Rows that the pool has left.
    pub grants: VecDeque<Vec<Extent>>,
}

/// All images, made once.
pub fn images() -> &'static [Image] {
    static IMAGES: OnceLock<Vec<Image>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        vec![
            make("mirror, closed", (2, 1), true, false),
            make("mirror, crashed", (2, 1), false, false),
            make("striped mirror, crashed", (2, 2), false, false),
            make("single leg, closed", (1, 1), true, false),
            make("encrypted mirror, closed", (2, 1), true, true),
            make("encrypted mirror, crashed", (2, 1), false, true),
        ]
    })
}

/// The content of a version of a block.
pub fn content(lba: u64, version: u32) -> Block {
    let mut block = [0; BLOCK_BYTES];
    if version > 0 {
        for (i, unit) in block.chunks_exact_mut(16).enumerate() {
            unit[..8].copy_from_slice(&lba.to_le_bytes());
            unit[8..12].copy_from_slice(&version.to_le_bytes());
            unit[12..].copy_from_slice(&(i as u32).to_le_bytes());
        }
    }
    block
}

/// Identity of a drive.
pub fn drive_uuid(drive: u8) -> Uuid {
    Uuid([drive + 1; 16])
}

/// The request to open an image.
pub fn request(drives: u8, generation: u64, create: bool) -> OpenRequest {
    let candidate = |drive| Candidate {
        info: DriveInfo { uuid: drive_uuid(drive), blocks: drive_blocks(), volatile: true },
        homes: vec![ExtentNo::ZERO],
    };
    OpenRequest {
        group: GROUP,
        extent_blocks: EXTENT_BLOCKS,
        drives: (0..drives).map(candidate).collect(),
        catalogue: Some(Vec::new()),
        forced: false,
        served: None,
        activation: Activation {
            generation: Gen::new(generation),
            id: Uuid([generation as u8 + 0x40; 16]),
            salt: [generation as u8 + 0x20; 16],
        },
        create: create.then_some(NewVolume {
            uuid: Uuid([7; 16]),
            sectors: Sectors::new(VOLUME_BLOCKS * SECTORS_PER_BLOCK),
        }),
    }
}

fn drive_blocks() -> Blocks {
    Blocks::new(FIRST_EXTENT_BLOCK + u64::from(EXTENTS * EXTENT_BLOCKS) + TAIL_BLOCKS)
}

fn row(drives: u8, extent: u32) -> Vec<Extent> {
    let extent = ExtentNo::new(extent);
    (0..drives).map(|drive| Extent { drive: DriveIx::new(drive), extent }).collect()
}

fn make(name: &'static str, (legs, columns): (u8, u8), closed: bool, encrypted: bool) -> Image {
    let count = legs * columns;
    let ring = Geometry::default_ring(columns, EXTENT_BLOCKS);
    let new = create::NewGroup {
        pool: POOL,
        group: GROUP,
        geometry: Geometry::new(legs, columns, 8, EXTENT_BLOCKS, ring),
        drives: (0..count).map(drive_uuid).collect(),
        home: row(count, 0),
    };
    let mut drives: Vec<MemoryMedia> = (0..count).map(labelled).collect();
    let plan = if encrypted { create::plan_encrypted(&new, secret::keys()) } else { create::plan(&new) };
    for (drive, at, block) in plan.expect("a possible shape").into_iter().flatten() {
        drives[usize::from(drive.get())].content.insert(at.get(), block);
    }
    let grants = (1..EXTENTS).map(|extent| row(count, extent)).collect();
    let mut image = Image {
        name,
        legs,
        columns,
        closed,
        encrypted,
        drives,
        versions: vec![vec![0]; VOLUME_BLOCKS as usize],
        grants,
    };
    fill(&mut image);
    image
}

fn labelled(drive: u8) -> MemoryMedia {
    let blocks = drive_blocks();
    let mut media = MemoryMedia { blocks: blocks.get(), content: Default::default() };
    let label = Label {
        pool: POOL,
        pool_name: "fuzz".into(),
        drive: drive_uuid(drive),
        blocks,
        extent_blocks: EXTENT_BLOCKS,
        written: 1,
        node: String::new(),
        rack: String::new(),
        zone: String::new(),
        class: String::new(),
    };
    for (copy, place) in places(blocks).into_iter().enumerate() {
        media.content.insert(place.get(), Box::new(label.encode(copy as u8)));
    }
    media
}

/// Writes, discards and flushes; more than fits into a delta, so that there are checkpoints and rows.
fn fill(image: &mut Image) {
    let count = image.legs * image.columns;
    let drives = std::mem::take(&mut image.drives);
    let grants = std::mem::take(&mut image.grants);
    let keys = image.encrypted.then(secret::keys);
    let mut machine = Machine::with_keys(drives, CONFIG, request(count, 1, true), grants, keys);
    assert_eq!(machine.wait_open(), Ok(Phase::Serving));
    for round in 0..90u64 {
        let lba = round * 37 % (VOLUME_BLOCKS - 24);
        let blocks = 1 + round as u32 * 5 % 20;
        let discards = round % 9 == 4;
        let version = round as u32 + 1;
        for at in lba..lba + u64::from(blocks) {
            let now = if discards { 0 } else { version };
            if !discards {
                let written = machine.write(Lba::new(at), &content(at, now), 1);
                assert_eq!(written, Ok(Ok(())), "the image is written");
            }
            image.versions[at as usize].push(now);
        }
        if discards {
            assert_eq!(machine.ask(Op::Discard, Lba::new(lba), blocks), Ok(Ok(())));
        }
        if round % 11 == 0 {
            assert_eq!(machine.ask(Op::Flush, Lba::ZERO, 0), Ok(Ok(())));
        }
    }
    if image.closed {
        assert_eq!(machine.close(), Ok(true));
    }
    image.grants = machine.grants().clone();
    image.drives = machine.drives;
    write_headers(image);
}

/// Headers of rows are written by the engine; those of extents that no row names are wiped. Nothing to do but to see
/// that it is so.
fn write_headers(image: &Image) {
    for drive in &image.drives {
        let start = extent_start(ExtentNo::ZERO, EXTENT_BLOCKS);
        let header = drive.content.get(&start.get()).expect("the home extent has a header");
        let header = Header::decode(header).expect("a right header");
        assert_eq!((header.group, header.row), (GROUP, RowNo::ZERO));
    }
}
