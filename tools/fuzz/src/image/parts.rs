//! The parts of an image: every structure, its copies, and who holds its check.
//!
//! Parts are listed parents first, so that checks can be repaired by going through the list backwards.
use super::make::Image;
use super::secret::{Form, Sealer};
use base::codec::{u16_at, u64_at};
use base::{Block, DriveBlock, Extent, ExtentNo, Pba};
use cow::{Ref, directory, page, space_layout};
use plinth_check::{Media, MemoryMedia};
use rlog::Commit;
use rlog::layout::P_PREVIOUS;
use std::collections::BTreeSet;
use volume::label::{extent_start, places};
use volume::layout::{extent as fixed, superblock as at};
use volume::{Geometry, Place, Superblock, rows};

/// What a part is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PartKind {
    /// A copy of a label.
    Label,
    /// A header of an extent.
    Header,
    /// A superblock slot.
    Superblock,
    /// A row page.
    RowPage,
    /// A history page.
    HistoryPage,
    /// A commit.
    Commit,
    /// The directory's root.
    Root,
    /// The volumes page.
    Volumes,
    /// The page of cut subtrees.
    Cuts,
    /// A page of the bitmap tree.
    BitmapTree,
    /// A bitmap.
    Bitmap,
    /// A page of the map.
    MapPage,
    /// A block of the guest.
    Data,
}

/// Where a part's check is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// At the end of the block itself.
    Own,
    /// In the Ref at this byte of every superblock that is current.
    InSuperblocks(usize),
    /// In the Ref at this byte of that part.
    In(usize, usize),
    /// In its own header; that part, the next commit, names it too.
    Commit(Option<usize>),
    /// In a record or a leaf; never repaired.
    Elsewhere,
}

/// One structure.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// Drive and first block of each copy, by leg; one copy for what belongs to a drive.
    pub copies: Vec<(usize, DriveBlock)>,
    /// Its length in blocks.
    pub blocks: u32,
    /// Who holds its check.
    pub check: Check,
    /// How it is sealed, if the image is encrypted.
    pub form: Form,
    /// The check that it has where somebody else holds it.
    pub has: base::Check,
    /// Of a superblock slot: whether it has the newest version.
    pub newest: bool,
}

/// All parts of an image.
pub fn parts(image: &Image) -> Vec<Part> {
    let mut finder = Finder::new(image);
    finder.drives();
    let directory = finder.superblock.directory;
    finder.home_pages();
    finder.log();
    if !directory.is_absent() {
        finder.directory(directory);
    }
    finder.parts
}

struct Finder<'a> {
    image: &'a Image,
    superblock: Superblock,
    rows: Vec<Extent>,
    parts: Vec<Part>,
    data: BTreeSet<Pba>,
    sealer: Option<Sealer>,
}

/// Who seals the parts of an image, if it is encrypted.
pub fn sealer(image: &Image) -> Option<Sealer> {
    Finder::new(image).sealer
}

impl<'a> Finder<'a> {
    fn new(image: &'a Image) -> Self {
        let slots = image.drives.iter().flat_map(|drive| slots(drive).map(|at| block(drive, at)));
        let newest =
            slots.filter_map(|block| Superblock::decode(&block).ok()).map(|(superblock, _)| superblock);
        let superblock = newest.max_by_key(Superblock::newness).expect("an image has superblocks");
        let rows = superblock.home.clone();
        let line = superblock.line.filter(|_| image.encrypted);
        let sealer = line.map(|line| Sealer::new(superblock.group, line));
        Self { image, superblock, rows, parts: Vec::new(), data: BTreeSet::new(), sealer }
    }

    fn geometry(&self) -> Geometry {
        self.superblock.geometry
    }

    fn add(&mut self, kind: PartKind, copies: Vec<(usize, DriveBlock)>, blocks: u32, check: Check) -> usize {
        let form = match kind {
            _ if self.sealer.is_none() => Form::Plain,
            PartKind::Superblock => Form::Superblock,
            PartKind::RowPage | PartKind::HistoryPage => Form::Home,
            PartKind::Commit => Form::Commit,
            _ => Form::Plain,
        };
        let has = base::Check::NONE;
        self.parts.push(Part { kind, copies, blocks, check, form, has, newest: false });
        self.parts.len() - 1
    }

    /// Labels, headers, superblocks.
    fn drives(&mut self) {
        for (index, drive) in self.image.drives.iter().enumerate() {
            for place in places(drive.blocks()) {
                self.add(PartKind::Label, vec![(index, place)], 1, Check::Own);
            }
            let extents = volume::label::extents(drive.blocks(), self.geometry().extent_blocks);
            for extent in 0..extents {
                let start = extent_start(ExtentNo::new(extent), self.geometry().extent_blocks);
                if drive.content.contains_key(&start.get()) {
                    self.add(PartKind::Header, vec![(index, start)], 1, Check::Own);
                }
            }
            for slot in slots(drive) {
                let version =
                    Superblock::decode(&block(drive, slot)).map(|(superblock, _)| superblock.version);
                let part = self.add(PartKind::Superblock, vec![(index, slot)], 1, Check::Own);
                self.parts[part].newest = version == Ok(self.superblock.version);
            }
        }
    }

    fn copies(&self, pba: Pba) -> Vec<(usize, DriveBlock)> {
        let geometry = self.geometry();
        let place = geometry.place(pba);
        let copy = |leg: u8| {
            let column = usize::from(leg) * usize::from(geometry.columns) + usize::from(place.column.get());
            let extent = self.rows[place.row.get() as usize * geometry.row_extents() + column];
            (usize::from(extent.drive.get()), geometry.drive_block(extent, place.block))
        };
        (0..geometry.legs).map(copy).collect()
    }

    fn block(&self, pba: Pba) -> Block {
        let (drive, at) = self.copies(pba)[0];
        block(&self.image.drives[drive], at)
    }

    fn home_pages(&mut self) {
        let root = self.superblock.row_pages;
        if !root.is_absent() {
            assert_eq!(self.superblock.row_height, 0, "a few rows fit onto one page");
            let extents = self.superblock.rows as usize * self.geometry().row_extents();
            self.rows = rows::decode(&self.block(root.pba), extents).expect("a right row page");
            let copies = self.copies(root.pba);
            self.add(PartKind::RowPage, copies, 1, Check::InSuperblocks(at::ROW_PAGES_AT));
        }
        let (mut next, mut check) = (self.superblock.history, Check::InSuperblocks(at::HISTORY_AT));
        while !next.is_absent() {
            let copies = self.copies(next.pba);
            let part = self.add(PartKind::HistoryPage, copies, 1, check);
            let page = self.block(next.pba);
            next = Ref::decode(&page[P_PREVIOUS..P_PREVIOUS + 32]);
            check = Check::In(part, P_PREVIOUS);
        }
    }

    /// Commits in the order of their numbers, and the blocks that they name.
    fn log(&mut self) {
        let geometry = self.geometry();
        let mut commits = Vec::new();
        for column in 0..geometry.columns {
            for offset in 0..geometry.ring_blocks() {
                let (row, within, _) = geometry.ring_place(offset);
                let pba = geometry.pba(Place { row, column: base::Column::new(column), block: within });
                let (drive, start) = self.copies(pba)[0];
                let mut bytes = Vec::new();
                for i in 0..u64::from((geometry.ring_blocks() - offset).min(rlog::MAX_COMMIT_BLOCKS)) {
                    bytes.extend_from_slice(&block(&self.image.drives[drive], start + base::Blocks::new(i)));
                }
                if let (Ok(commit), Some(sealer)) = (Commit::parse(&bytes), self.sealer) {
                    let (no, blocks) = (commit.fields().no, commit.blocks());
                    sealer.open(Form::Commit, &mut bytes, base::Check::NONE);
                    commits.push((no, blocks, self.copies(pba), blocks_named(&bytes)));
                } else if let Ok(commit) = Commit::parse(&bytes)
                    && !commit.is_sealed()
                {
                    let mut named = Vec::new();
                    for record in commit.records() {
                        named.extend(record.each_block().map(|(_, pba, _)| pba));
                    }
                    commits.push((commit.fields().no, commit.blocks(), self.copies(pba), named));
                }
            }
        }
        commits.sort_by_key(|commit| commit.0);
        // Backwards through the list is forwards through the log.
        let mut next = None;
        for (no, blocks, copies, named) in commits.into_iter().rev() {
            next = Some(self.add(PartKind::Commit, copies, blocks, Check::Commit(next)));
            if no >= self.superblock.next_commit {
                named.into_iter().for_each(|pba| self.data(pba));
            }
        }
    }

    fn data(&mut self, pba: Pba) {
        if self.data.insert(pba) {
            let copies = self.copies(pba);
            self.add(PartKind::Data, copies, 1, Check::Elsewhere);
        }
    }

    fn page(&mut self, kind: PartKind, page: &Ref, check: Check) -> (usize, Block) {
        let copies = self.copies(page.pba);
        let (part, mut block) = (self.add(kind, copies, 1, check), self.block(page.pba));
        if let Some(sealer) = self.sealer {
            sealer.open_page(&mut block, page.ckpt(), page.pba, page.check);
            self.parts[part].form = Form::Page(page.ckpt(), page.pba);
            self.parts[part].has = page.check;
        }
        (part, block)
    }

    fn directory(&mut self, root: Ref) {
        let (at_root, page) = self.page(PartKind::Root, &root, Check::InSuperblocks(at::DIRECTORY_AT));
        let space = base::Blocks::new(u64::from(self.superblock.rows) * self.geometry().row_blocks());
        let root = directory::Root::decode(&page, space).expect("a right root");
        let check = Check::In(at_root, space_layout::ROOT_VOLUMES);
        let (at_volumes, page) = self.page(PartKind::Volumes, &root.volumes, check);
        let volumes = directory::decode_volumes(&page, space).expect("right volumes");
        if !root.cuts.is_absent() {
            self.page(PartKind::Cuts, &root.cuts, Check::In(at_root, space_layout::ROOT_CUTS));
        }
        if root.tree_height > 0 {
            let check = Check::In(at_root, space_layout::ROOT_TREE);
            self.bitmap_tree(&root.tree, root.tree_height - 1, check);
        }
        for (i, volume) in volumes.iter().enumerate() {
            let at = space_layout::VOLUMES_FIRST + i * space_layout::VOLUME_BYTES + space_layout::VOLUME_ROOT;
            if !volume.root.is_hole() {
                self.map(&volume.root, volume.height.root_level(), Check::In(at_volumes, at));
            }
        }
    }

    fn bitmap_tree(&mut self, page: &Ref, level: u8, check: Check) {
        let (part, block) = self.page(PartKind::BitmapTree, page, check);
        for i in 0..cow::PAGE_REFS {
            let child = page::get(&block, i);
            let check = Check::In(part, i * 32);
            match level {
                _ if child.is_absent() => {}
                0 => {
                    self.page(PartKind::Bitmap, &child, check);
                }
                _ => self.bitmap_tree(&child, level - 1, check),
            }
        }
    }

    fn map(&mut self, page: &Ref, level: u8, check: Check) {
        let (part, block) = self.page(PartKind::MapPage, page, check);
        for i in 0..cow::PAGE_REFS {
            let child = page::get(&block, i);
            match level {
                _ if child.is_hole() => {}
                0 => self.data(child.pba),
                _ => self.map(&child, level - 1, Check::In(part, i * 32)),
            }
        }
    }
}

/// The blocks that the records of a commit name, whose own check no longer fits its body.
fn blocks_named(bytes: &[u8]) -> Vec<Pba> {
    use rlog::layout::*;
    let mut named = Vec::new();
    let mut at = HEADER_BYTES;
    for _ in 0..u16_at(bytes, H_RECORDS) {
        let (runs, blocks) = (usize::from(u16_at(bytes, at + R_RUNS)), u64_at(bytes, at + R_BLOCKS));
        let kind = bytes[at + R_KIND];
        at += RECORD_BYTES;
        for run in bytes[at..at + runs * RUN_BYTES].chunks_exact(RUN_BYTES) {
            let first = Pba::new(u64_at(run, 0) & (Pba::LIMIT - 1));
            let count = u64::from(u16_at(run, RUN_COUNT));
            named.extend((0..count).map(|i| first + base::Blocks::new(i)));
        }
        let checks = match kind {
            kind if kind == rlog::RecordKind::Write as u8 => blocks as usize,
            kind if kind == rlog::RecordKind::Void as u8 => 1,
            _ => 0,
        };
        at += runs * RUN_BYTES + checks * CHECK_BYTES;
    }
    named
}

fn slots(drive: &MemoryMedia) -> impl Iterator<Item = DriveBlock> + use<> {
    let label =
        volume::Label::decode(&block(drive, DriveBlock::ZERO)).expect("an image's drives have labels");
    let start = extent_start(ExtentNo::ZERO, label.extent_blocks);
    fixed::SUPERBLOCKS.into_iter().map(move |slot| start + base::Blocks::new(u64::from(slot)))
}

fn block(drive: &MemoryMedia, at: DriveBlock) -> Block {
    *drive.read(at).expect("inside the drive")
}
