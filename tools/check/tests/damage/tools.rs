//! Changes of drives behind right checks: what a structure says is changed, and every check above is made again.
use crate::world::{Drives, EXTENT, GROUP, keys};
use base::{Block, Check, CheckKind, DriveIx, Extent, ExtentNo, Pba, Seq, codec};
use cow::bitmap::Bitmap;
use cow::space_layout::{ROOT_CUTS, ROOT_TREE, ROOT_USED, ROOT_VOLUMES, VOLUME_ROOT, VOLUMES_FIRST};
use cow::{PAGE_REFS, Ref, page};
use rlog::layout::{CHECK_BYTES, H_CHECK, H_OFFSET, H_PREVIOUS, HEADER_BYTES};
use volume::label::places;
use volume::layout::OWN_CHECK;
use volume::layout::extent::{RING_FIRST, SUPERBLOCKS};
use volume::layout::superblock::{CHECK_KIND_AT, MAGIC};
use volume::superblock::Home;
use volume::{Geometry, Header, Label, Superblock};

/// First block of extent 0.
pub const FIRST: u64 = 256;

// ---- blocks

pub fn flip(drives: &mut Drives, drive: usize, at: u64, byte: usize) {
    let mut block = drives.get(drive, at);
    block[byte] ^= 0x10;
    drives.put(drive, at, &block);
}

/// Adds to a number of four bytes.
pub fn bump(bytes: &mut [u8], at: usize, by: i32) {
    codec::put_u32(bytes, at, codec::u32_at(bytes, at).wrapping_add_signed(by));
}

/// Gives a block that holds its own check the right one.
pub fn reseal(block: &mut Block) {
    let check = Check::of(&block[..OWN_CHECK]);
    codec::put_check(block, OWN_CHECK, check);
}

/// Changes a block that holds its own check.
pub fn sealed(drives: &mut Drives, drive: usize, at: u64, change: impl FnOnce(&mut Block)) {
    let mut block = drives.get(drive, at);
    let is_superblock = block[..8] == MAGIC[..];
    change(&mut block);
    if is_superblock && drives.encrypted {
        keys::seal_superblock(&mut block)
    } else {
        reseal(&mut block)
    }
    drives.put(drive, at, &block);
}

/// Where a block of the space lies on a leg: row `k` is extent `k` of every drive.
pub fn place(drives: &Drives, pba: Pba, leg: u8) -> (usize, u64) {
    let geometry: Geometry = superblock(drives).geometry;
    let place = geometry.place(pba);
    let drive = usize::from(leg * drives.columns + place.column.get());
    let extent = Extent { drive: DriveIx::new(drive as u8), extent: ExtentNo::new(place.row.get()) };
    (drive, geometry.drive_block(extent, place.block).get())
}

pub fn read(drives: &Drives, pba: Pba) -> Box<Block> {
    let (drive, at) = place(drives, pba, 0);
    drives.get(drive, at)
}

/// Writes a block on every leg.
pub fn write(drives: &mut Drives, pba: Pba, block: &Block) {
    for leg in 0..drives.legs {
        let (drive, at) = place(drives, pba, leg);
        drives.put(drive, at, block);
    }
}

/// Damages a block of the space on one leg.
pub fn flip_leg(drives: &mut Drives, pba: Pba, leg: u8) {
    let (drive, at) = place(drives, pba, leg);
    flip(drives, drive, at, 1000);
}

/// Damages a block of the space on all legs.
pub fn flip_all(drives: &mut Drives, pba: Pba) {
    for leg in 0..drives.legs {
        flip_leg(drives, pba, leg);
    }
}

// ---- labels and headers

/// The drive's two label blocks.
pub fn label_at(drives: &Drives, drive: usize, copy: u8) -> u64 {
    places(base::Blocks::new(drives.media[drive].blocks))[usize::from(copy)].get()
}

/// Changes what a copy of a label says.
pub fn label(drives: &mut Drives, drive: usize, copy: u8, change: impl FnOnce(&mut Label)) {
    let at = label_at(drives, drive, copy);
    let mut label = Label::decode(&drives.get(drive, at)).expect("a label");
    change(&mut label);
    drives.put(drive, at, &label.encode(copy));
}

/// Where the header of an extent is.
pub fn header_at(extent: u32) -> u64 {
    FIRST + u64::from(extent * EXTENT)
}

/// Changes what a header says; the names in it stay.
pub fn header(drives: &mut Drives, drive: usize, extent: u32, change: impl FnOnce(&mut Header)) {
    sealed(drives, drive, header_at(extent), |block| {
        let mut header = Header::decode(block).expect("a header");
        change(&mut header);
        block[..128].copy_from_slice(&header.encode()[..128]);
    });
}

// ---- superblocks

pub fn superblock(drives: &Drives) -> Superblock {
    let slots = SUPERBLOCKS.map(|slot| drives.get(0, FIRST + u64::from(slot)));
    let found = slots.iter().filter_map(|block| Superblock::decode(block).ok()).map(|(found, _)| found);
    found.max_by_key(Superblock::newness).expect("a superblock")
}

/// The block of a copy of a superblock, with all its codes.
pub fn coded(superblock: &Superblock, home: Home) -> Block {
    let mut block = superblock.encode(home);
    reseal_superblock(&mut block);
    block
}

/// Makes the codes of a superblock right.
pub fn reseal_superblock(block: &mut Block) {
    if block[CHECK_KIND_AT] == CheckKind::Xxh3 as u8 { reseal(block) } else { keys::seal_superblock(block) }
}

/// Writes a superblock into every slot.
pub fn put_superblock(drives: &mut Drives, superblock: &Superblock) {
    for home in superblock.homes() {
        for slot in SUPERBLOCKS {
            let drive = usize::from(home.extent.drive.get());
            drives.put(drive, FIRST + u64::from(slot), &coded(superblock, home));
        }
    }
}

/// Changes what all copies of the superblock say.
pub fn supers(drives: &mut Drives, change: impl FnOnce(&mut Superblock)) -> String {
    let mut superblock = superblock(drives);
    change(&mut superblock);
    put_superblock(drives, &superblock);
    "group".into()
}

/// Changes the bytes of all copies of the superblock.
pub fn super_bytes(drives: &mut Drives, change: impl Fn(&mut Block)) -> String {
    for drive in 0..drives.media.len() {
        for slot in SUPERBLOCKS {
            sealed(drives, drive, FIRST + u64::from(slot), &change);
        }
    }
    "group".into()
}

/// Changes a slot of one copy, and makes its codes right; what it is called.
pub fn slot(drives: &mut Drives, leg: usize, slot: usize, change: impl FnOnce(&mut Block)) -> String {
    sealed(drives, leg * usize::from(drives.columns), FIRST + u64::from(SUPERBLOCKS[slot]), change);
    format!("superblock slot {slot} of leg {leg} column 0")
}

// ---- what is encrypted, if the group is

/// The lines of the history, oldest first.
fn lines(drives: &Drives) -> Vec<rlog::Line> {
    let superblock = superblock(drives);
    let (mut next, mut pages) = (superblock.history, Vec::new());
    while !next.is_absent() {
        let page = read(drives, next.pba);
        // A page that is damaged tells nothing.
        let Some((lines, before)) = volume::keys::reader::history_lines(&page) else { break };
        pages.push(lines);
        next = before;
    }
    pages.into_iter().rev().flatten().chain(superblock.line).collect()
}

/// The check of a row or history page.
pub fn home_check(drives: &Drives, page: &Block) -> Check {
    if drives.encrypted { keys::home_check(GROUP, page) } else { Check::of(page) }
}

/// A page that a Ref leads to, in plain text.
pub fn page_at(drives: &Drives, to: &Ref) -> Box<Block> {
    let mut page = read(drives, to.pba);
    if drives.encrypted {
        keys::open_page(GROUP, &lines(drives), &mut page, to.pba, to.ckpt(), to.check);
    }
    page
}

/// Writes a page where a Ref leads to; its check.
pub fn put_page(drives: &mut Drives, to: &Ref, page: &Block) -> Check {
    let mut stored = *page;
    let check = if drives.encrypted {
        keys::seal_page(GROUP, &lines(drives), &mut stored, to.pba, to.ckpt())
    } else {
        Check::of(page)
    };
    write(drives, to.pba, &stored);
    check
}

// ---- the directory and what it leads to

/// The way to the root page of the map.
pub const MAP: [usize; 2] = [ROOT_VOLUMES, VOLUMES_FIRST + VOLUME_ROOT];

/// The Refs along a path of byte offsets, from the directory's root page on.
pub fn path(drives: &Drives, offsets: &[usize]) -> Vec<Ref> {
    let mut refs = vec![superblock(drives).directory];
    for offset in offsets {
        let block = page_at(drives, refs.last().expect("a Ref"));
        refs.push(Ref::decode(&block[*offset..*offset + 32]));
    }
    refs
}

/// The Ref at the end of a path.
pub fn at(drives: &Drives, offsets: &[usize]) -> Ref {
    *path(drives, offsets).last().expect("a Ref")
}

/// Changes the block at the end of a path, and its Ref, and makes all checks above right again.
pub fn edit(drives: &mut Drives, offsets: &[usize], change: impl FnOnce(&mut Block, &mut Ref)) {
    let mut refs = path(drives, offsets);
    let mut to = refs.pop().expect("a Ref");
    let mut block = page_at(drives, &to);
    change(&mut block, &mut to);
    to.check = put_page(drives, &to, &block);
    above(drives, offsets, refs, to);
}

/// Changes the Ref at the end of a path and nothing of what it leads to.
pub fn edit_ref(drives: &mut Drives, offsets: &[usize], change: impl FnOnce(&mut Ref)) {
    let mut refs = path(drives, offsets);
    let mut to = refs.pop().expect("a Ref");
    change(&mut to);
    above(drives, offsets, refs, to);
}

fn above(drives: &mut Drives, offsets: &[usize], refs: Vec<Ref>, mut to: Ref) {
    for (offset, above) in offsets.iter().zip(&refs).rev() {
        let mut block = page_at(drives, above);
        to.encode(&mut block[*offset..*offset + 32]);
        to = Ref { check: put_page(drives, above, &block), ..*above };
    }
    let superblock = Superblock { directory: to, ..superblock(drives) };
    put_superblock(drives, &superblock);
}

/// The path to the page of a level over an Lba (the map has five levels; the root is level 4).
pub fn page_path(lba: u64, level: u32) -> Vec<usize> {
    let index = |level: u32| (lba >> (7 * level)) as usize % PAGE_REFS * 32;
    MAP.into_iter().chain((level + 1..5).rev().map(index)).collect()
}

/// The path to the leaf of an Lba.
pub fn leaf_path(lba: u64) -> Vec<usize> {
    page_path(lba, 0)
}

/// What a page of the map is called.
pub fn page_name(lba: u64, level: u32) -> String {
    format!(
        "map page of level {level} of volume 1 from Lba {}",
        lba >> (7 * (level + 1)) << (7 * (level + 1))
    )
}

/// What a block of data is called.
pub fn data_name(lba: u64) -> String {
    format!("data of volume 1 Lba {lba}")
}

/// An Lba that holds data, from `from` on, and its Ref.
pub fn some_data(drives: &Drives, from: u64) -> (u64, Ref) {
    (from..)
        .find_map(|lba| {
            let to = at(drives, &leaf_path(lba));
            if to.is_hole() {
                return None;
            }
            let found = page::get(&page_at(drives, &to), lba as usize % PAGE_REFS);
            (!found.is_hole()).then_some((lba, found))
        })
        .expect("data")
}

/// An Lba with data and another with other data in the same leaf.
pub fn two_data(drives: &Drives) -> ((u64, Ref), (u64, Ref)) {
    let first = some_data(drives, 300);
    let mut second = some_data(drives, first.0 + 1);
    while second.1.check == first.1.check {
        second = some_data(drives, second.0 + 1);
    }
    assert_eq!(first.0 / 128, second.0 / 128, "one leaf");
    (first, second)
}

/// Changes the Ref to an Lba's data in its leaf, and what the pages above say of the newest.
pub fn data_ref(drives: &mut Drives, lba: u64, change: impl FnOnce(&mut Ref)) -> String {
    edit(drives, &leaf_path(lba), |block, to| {
        let mut child = page::get(block, lba as usize % PAGE_REFS);
        change(&mut child);
        page::set(block, lba as usize % PAGE_REFS, &child);
        to.when = page::summary(block).0;
    });
    renew(drives, lba, 1);
    data_name(lba)
}

/// Makes what the pages from a level on up say of the newest Seq below them right again.
pub fn renew(drives: &mut Drives, lba: u64, from: u32) {
    for level in from..5 {
        edit(drives, &page_path(lba, level), |block, to| to.when = page::summary(block).0);
    }
}

// ---- bitmaps

/// A block of region 0 that is free.
pub fn free_block(drives: &Drives) -> u32 {
    let bitmap = page_at(drives, &at(drives, &[ROOT_TREE, 0]));
    let bits = Bitmap::decode(&bitmap);
    (100..EXTENT).find(|bit| !bits.get(*bit)).expect("a free block")
}

/// Changes the bitmap of a region, with everything above that counts it.
pub fn bitmap(drives: &mut Drives, region: usize, change: impl FnOnce(&mut Bitmap)) {
    let (mut before, mut after) = (0, 0);
    edit(drives, &[ROOT_TREE, region * 32], |block, entry| {
        let mut bits = Bitmap::decode(block);
        before = u64::from(bits.used());
        change(&mut bits);
        after = u64::from(bits.used());
        bits.encode(block);
        let summary = bits.summary(EXTENT);
        entry.when = Seq::new(u64::from(summary.free) << 26 | u64::from(summary.longest));
    });
    edit(drives, &[], |block, _| {
        let used = codec::u64_at(block, ROOT_USED);
        codec::put_u64(block, ROOT_USED, used + after - before);
    });
}

/// Marks a block as free in its bitmap.
pub fn set_free(drives: &mut Drives, pba: Pba) {
    let (region, bit) = (pba.get() / u64::from(EXTENT), pba.get() % u64::from(EXTENT));
    bitmap(drives, region as usize, |bits| assert!(bits.clear(bit as u32), "used"));
}

// ---- cut subtrees

/// Takes the map's page of level 1 out of the map and puts it on the list of cut subtrees, freed up to `cursor`.
pub fn cut_off(drives: &mut Drives, cursor: u64) {
    let mut above = leaf_path(0);
    above.truncate(above.len() - 1);
    let subtree = at(drives, &above);
    let entry = above.pop().expect("its place");
    edit(drives, &above, |block, _| Ref::hole(subtree.when).encode(&mut block[entry..entry + 32]));
    let free = free_block(drives);
    bitmap(drives, 0, |bits| assert!(bits.set(free), "free"));
    let mut cuts = cow::CutList::default();
    cuts.push(cow::CutEntry { volume: base::VolumeId::new(1), subtree, level: 1, cursor });
    let mut list = [0; 4096];
    cow::directory::encode_cuts(&cuts, &mut list);
    let root = at(drives, &[]);
    let mut page = Ref { pba: Pba::new(u64::from(free)), ..root };
    page.check = put_page(drives, &page, &list);
    edit(drives, &[], |block, _| {
        page.encode(&mut block[ROOT_CUTS..ROOT_CUTS + 32]);
    });
}

// ---- the log

/// A commit of the log that the next opening would replay.
#[derive(Clone)]
pub struct Commit {
    pub no: u64,
    pub column: u8,
    pub offset: u32,
    pub blocks: u32,
    pub durable: u64,
    pub first_seq: u64,
}

/// All of them, in order.
pub fn commits(drives: &Drives) -> Vec<Commit> {
    let shown = drives.inspect();
    let ring = shown["groups"][0]["log"]["ring"].as_array().expect("a list");
    let number = |commit: &serde_json::Value, field: &str| commit[field].as_u64().expect("a number");
    let one = |commit: &serde_json::Value| Commit {
        no: number(commit, "commit"),
        column: number(commit, "column") as u8,
        offset: number(commit, "offset") as u32,
        blocks: number(commit, "blocks") as u32,
        durable: number(commit, "durable_seq"),
        first_seq: number(commit, "first_seq"),
    };
    ring.iter().filter(|commit| commit["replayed"] == true).map(one).collect()
}

/// What a commit is called.
pub fn commit_name(no: u64) -> String {
    format!("commit {no}")
}

/// The drive and block of a commit on a leg.
pub fn commit_at(drives: &Drives, commit: &Commit, leg: u8) -> (usize, u64) {
    let drive = usize::from(leg * drives.columns + commit.column);
    (drive, FIRST + u64::from(RING_FIRST + commit.offset))
}

fn commit_bytes(drives: &Drives, commit: &Commit) -> Vec<u8> {
    let (drive, at) = commit_at(drives, commit, 0);
    (0..u64::from(commit.blocks)).flat_map(|i| drives.get(drive, at + i).to_vec()).collect()
}

/// A commit's bytes, its records in plain text.
pub fn opened(drives: &Drives, commit: &Commit) -> Vec<u8> {
    let mut bytes = commit_bytes(drives, commit);
    if drives.encrypted {
        keys::open_commit(&lines(drives), &mut bytes);
    }
    bytes
}

fn put_bytes(drives: &mut Drives, drive: usize, at: u64, bytes: &[u8]) {
    for (i, block) in bytes.chunks_exact(4096).enumerate() {
        drives.put(drive, at + i as u64, block.try_into().expect("a block"));
    }
}

/// Puts a commit's bytes where it lies, on all legs.
pub fn put_commit(drives: &mut Drives, commit: &Commit, bytes: &[u8]) {
    for leg in 0..drives.legs {
        let (drive, at) = commit_at(drives, commit, leg);
        put_bytes(drives, drive, at, bytes);
    }
}

/// Seals a commit that was opened, and gives it its right check.
fn close(drives: &Drives, bytes: &mut [u8]) -> Check {
    if drives.encrypted {
        keys::seal_commit(&lines(drives), bytes);
    }
    seal_commit(bytes)
}

/// Gives a commit its right check.
pub fn seal_commit(bytes: &mut [u8]) -> Check {
    let end = HEADER_BYTES + codec::u32_at(bytes, rlog::layout::H_BODY_BYTES) as usize;
    let end = end.min(bytes.len());
    let check = Check::of_pieces(&[&bytes[..H_CHECK], &[0; CHECK_BYTES], &bytes[H_CHECK + CHECK_BYTES..end]]);
    codec::put_check(bytes, H_CHECK, check);
    check
}

/// Changes the `index`-th commit on all legs, makes its check right, and links all behind it to it again; its name.
pub fn lie(drives: &mut Drives, index: usize, change: impl FnOnce(&mut [u8])) -> String {
    let all = commits(drives);
    let mut bytes = opened(drives, &all[index]);
    let behind: Vec<Vec<u8>> = all[index + 1..].iter().map(|commit| opened(drives, commit)).collect();
    change(&mut bytes);
    let mut previous = close(drives, &mut bytes);
    put_commit(drives, &all[index], &bytes);
    for (commit, mut bytes) in all[index + 1..].iter().zip(behind) {
        codec::put_check(&mut bytes, H_PREVIOUS, previous);
        previous = close(drives, &mut bytes);
        put_commit(drives, commit, &bytes);
    }
    commit_name(all[index].no)
}

/// Changes the `index`-th commit on one leg and makes its codes right; its name.
pub fn lie_on(drives: &mut Drives, index: usize, leg: u8, change: impl FnOnce(&mut [u8])) -> String {
    let commit = commits(drives)[index].clone();
    let mut bytes = opened(drives, &commit);
    change(&mut bytes);
    close(drives, &mut bytes);
    let (drive, at) = commit_at(drives, &commit, leg);
    put_bytes(drives, drive, at, &bytes);
    commit_name(commit.no)
}

/// Changes the bytes of the `index`-th commit on one leg; its name.
pub fn rot(drives: &mut Drives, index: usize, leg: u8, change: impl FnOnce(&mut [u8])) -> String {
    let commit = commits(drives)[index].clone();
    let mut bytes = commit_bytes(drives, &commit);
    change(&mut bytes);
    let (drive, at) = commit_at(drives, &commit, leg);
    put_bytes(drives, drive, at, &bytes);
    commit_name(commit.no)
}

/// The same on all legs.
pub fn rot_all(drives: &mut Drives, index: usize, change: impl Fn(&mut [u8])) -> String {
    let mut name = String::new();
    let commit = commits(drives)[index].clone();
    let mut bytes = commit_bytes(drives, &commit);
    change(&mut bytes);
    put_commit(drives, &commit, &bytes);
    name.push_str(&commit_name(commit.no));
    name
}

/// Writes a second commit, like the `index`-th but changed, at a place of the ring that is not in use; its name.
pub fn another(drives: &mut Drives, index: usize, change: impl FnOnce(&mut [u8])) -> String {
    let all = commits(drives);
    let last = all.last().expect("commits");
    let offset = last.offset + last.blocks + 4;
    let mut bytes = opened(drives, &all[index]);
    codec::put_u32(&mut bytes, H_OFFSET, offset);
    change(&mut bytes);
    close(drives, &mut bytes);
    let commit = Commit { offset, ..all[index].clone() };
    put_commit(drives, &commit, &bytes);
    commit_name(commit.no)
}
