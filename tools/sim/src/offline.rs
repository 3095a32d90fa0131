//! A closed group as its drives show it, read with the format's own code and none of the engine's.
//!
//! Walks everything that the newest superblock leads to, on every current leg: row, history and directory pages,
//! every map, the bitmaps. Each block must have its Ref's check on each leg where it is not in doubt, no block may be reached twice, and
//! the bitmaps must say exactly what was reached: that finds lost space and space given out twice. Does not look
//! at the ring: the group is closed.
//!
//! Not the walker of `tools/check`, which is for people with drives: it reports a copy that is wrong beside one that is
//! right as repairable and goes on, and knows neither copies in doubt nor the places that must not differ. Two
//! readers of one format that were written apart also find each other's mistakes.
use crate::checks::Violation;
use crate::checks::c5::{AtRest, Places};
use base::{Blocks, Check, DriveBlock, DriveIx, Extent, ExtentNo, Pba, RegionNo, Seq, Uuid};
use cow::bitmap::Bitmap;
use cow::directory::{decode_cuts, decode_volumes};
use cow::tree::page_covers;
use cow::{PAGE_REFS, Ref, Root, page};
use rlog::Commit;
use simkit::SimDrive;
use std::collections::BTreeMap;
use volume::keys::GroupKeys;
use volume::keys::reader::{Reader, history_lines};
use volume::label::extent_start;
use volume::superblock::Superblock;
use volume::{Geometry, rows};

/// What a walk found.
pub struct Offline<'a> {
    drives: &'a [SimDrive],
    counts: &'a [bool],
    /// Everything was scrubbed: no copy is excused.
    scrubbed: bool,
    superblock: Superblock,
    table: Vec<Extent>,
    reached: BTreeMap<Pba, &'static str>,
    cut: BTreeMap<Pba, &'static str>,
    found: AtRest,
    /// Of an encrypted group.
    reader: Option<Reader>,
}

fn wrong(what: impl Into<String>) -> Violation {
    Violation::new("C5", what)
}

impl<'a> Offline<'a> {
    /// Walks a closed group whose home row has these extents of this size, on the drives that count.
    pub fn walk(
        drives: &'a [SimDrive],
        group: Uuid,
        (home, extent_blocks): (&[Extent], u32),
        (counts, scrubbed): (&'a [bool], bool),
        keys: Option<GroupKeys>,
    ) -> Result<Self, Violation> {
        let superblock = newest(drives, group, home, extent_blocks)?;
        let home = in_world(drives, &superblock, &superblock.home)?;
        if !superblock.clean {
            return Err(wrong("the newest superblock does not say that the group was closed"));
        }
        let mut offline = Self {
            drives,
            counts,
            scrubbed,
            table: home,
            superblock,
            reached: BTreeMap::new(),
            cut: BTreeMap::new(),
            found: AtRest::default(),
            reader: None,
        };
        offline.reader = keys.map(|keys| Reader::new(keys, offline.superblock.group));
        offline.note_superblocks(extent_blocks);
        offline.read_rows()?;
        offline.note_rows();
        offline.read_directory()?;
        Ok(offline)
    }

    /// Where each block lies, on each current leg where it is not in doubt.
    pub fn into_places(self) -> AtRest {
        self.found
    }

    fn note_superblocks(&mut self, extent_blocks: u32) {
        for extent in &self.table {
            let start = extent_start(extent.extent, extent_blocks);
            let slots = volume::layout::extent::SUPERBLOCKS.iter();
            self.found.own.extend(slots.map(|slot| (extent.drive, start + Blocks::new(u64::from(*slot)))));
        }
    }

    fn note_rows(&mut self) {
        let geometry = self.geometry();
        for row in self.table.chunks_exact(geometry.row_extents()) {
            let counts = |extent: &&base::Extent| self.counts[usize::from(extent.drive.get())];
            let at =
                |extent: &base::Extent| (extent.drive, extent_start(extent.extent, geometry.extent_blocks));
            let columns = usize::from(geometry.columns);
            let places =
                |column: usize| row.iter().skip(column).step_by(columns).filter(counts).map(at).collect();
            self.found.rows.extend((0..columns).map(places));
        }
    }

    fn geometry(&self) -> Geometry {
        self.superblock.geometry
    }

    fn space(&self) -> Blocks {
        Blocks::new(u64::from(self.superblock.rows) * self.geometry().row_blocks())
    }

    /// The copies of a block that count.
    fn places_of(&self, pba: Pba) -> Places {
        let geometry = self.geometry();
        let place = geometry.place(pba);
        let copy = |leg: u8| {
            let column = usize::from(leg) * usize::from(geometry.columns) + usize::from(place.column.get());
            let extent = self.table[place.row.get() as usize * geometry.row_extents() + column];
            (extent.drive, geometry.drive_block(extent, place.block))
        };
        let counts = |(drive, at): &(DriveIx, DriveBlock)| {
            let drive = usize::from(drive.get());
            self.counts[drive] && (self.scrubbed || !self.drives[drive].in_doubt(*at))
        };
        (0..geometry.legs).map(copy).filter(counts).collect()
    }

    fn peek(&self, drive: DriveIx, at: DriveBlock) -> base::Block {
        self.drives[usize::from(drive.get())].peek(at)
    }

    /// A block that a Ref leads to: alike and right on every current leg, and reached for the first time.
    fn reach(&mut self, to: &Ref, what: &'static str) -> Result<base::Block, Violation> {
        if to.pba.get() >= self.space().get() {
            return Err(wrong(format!("a {what} lies beyond the space: {to:?}")));
        }
        if let Some(other) = self.reached.insert(to.pba, what) {
            return Err(wrong(format!("block {} is a {other} and a {what}", to.pba)));
        }
        let places = self.places_of(to.pba);
        let mut content = None;
        for (drive, at) in &places {
            let block = self.peek(*drive, *at);
            let Some(plain) = self.open(&block, to, what) else {
                return Err(wrong(format!("the {what} at {} fails its check on drive {drive}", to.pba)));
            };
            content = Some(plain);
        }
        self.found.mapped.push(places);
        content.ok_or_else(|| wrong(format!("no current leg holds the {what} at {}", to.pba)))
    }

    /// A block in plain text, if it has its check. Of data only the CRC is looked at: who reads it has the key.
    fn open(&mut self, block: &base::Block, to: &Ref, what: &str) -> Option<base::Block> {
        let Some(reader) = &mut self.reader else { return (Check::of(block) == to.check).then_some(*block) };
        match what {
            "history page" | "row page" => reader.is_home_page(block, to.check).then_some(*block),
            "data block" | "cut block" => to.check.crc_fits(block).then_some(*block),
            _ => reader.page(block, to.pba, to.ckpt(), to.check),
        }
    }

    /// The history, page by page from the newest on.
    fn read_history(&mut self) -> Result<(), Violation> {
        let (mut next, mut pages) = (self.superblock.history, Vec::new());
        while !next.is_absent() {
            let page = self.reach(&next, "history page")?;
            // Who looks for lost space needs only the newest: older ones are the same for ever.
            if self.reader.is_none() {
                return Ok(());
            }
            let (lines, previous) =
                history_lines(&page).ok_or_else(|| wrong("a history page has no lines"))?;
            pages.push(lines);
            next = previous;
        }
        let lines: Vec<_> = pages.into_iter().rev().flatten().chain(self.superblock.line).collect();
        let in_order = self.reader.as_mut().is_none_or(|reader| reader.follow(&lines));
        if in_order { Ok(()) } else { Err(wrong("the history is out of order")) }
    }

    fn read_rows(&mut self) -> Result<(), Violation> {
        let superblock = self.superblock.clone();
        self.read_history()?;
        if superblock.row_pages.is_absent() {
            return if superblock.rows == 1 {
                Ok(())
            } else {
                Err(wrong("there are rows, but no row pages"))
            };
        }
        assert_eq!(superblock.row_height, 0, "groups of the simulator have few rows");
        let page = self.reach(&superblock.row_pages, "row page")?;
        let count = superblock.rows as usize * superblock.geometry.row_extents();
        let table = rows::decode(&page, count).ok_or_else(|| wrong("the row page holds no extents"))?;
        self.table = in_world(self.drives, &self.superblock, &table)?;
        Ok(())
    }

    fn read_directory(&mut self) -> Result<(), Violation> {
        let at = self.superblock.directory;
        if at.is_absent() {
            return Ok(());
        }
        let page = self.reach(&at, "directory root")?;
        let bad = |what: &str, e: cow::BadDirectory| wrong(format!("{what}: {e}"));
        let root = Root::decode(&page, self.space()).map_err(|e| bad("root", e))?;
        let page = self.reach(&root.volumes, "volumes page")?;
        let volumes = decode_volumes(&page, self.space()).map_err(|e| bad("volumes", e))?;
        for volume in volumes.iter() {
            self.walk_map(&volume.root, volume.height.root_level(), "map page", "data block")?;
        }
        if !root.cuts.is_absent() {
            let page = self.reach(&root.cuts, "cut list")?;
            let cuts = decode_cuts(&page, self.space()).map_err(|e| bad("cuts", e))?;
            let kept = std::mem::take(&mut self.reached);
            let mapped = std::mem::take(&mut self.found.mapped);
            for cut in cuts.iter() {
                let whole = self.walk_cut(&cut.subtree, cut.level, 0, cut.cursor);
                self.found.leaving_is_short |= whole.is_err();
            }
            self.found.leaving = std::mem::replace(&mut self.found.mapped, mapped);
            self.cut = std::mem::replace(&mut self.reached, kept);
        }
        let mut bitmaps = BTreeMap::new();
        if root.tree_height > 0 {
            self.walk_bitmaps(&root.tree, root.tree_height - 1, 0, &mut bitmaps)?;
        }
        self.compare_space(&root, &bitmaps)
    }

    fn walk_map(
        &mut self,
        to: &Ref,
        level: u8,
        inner: &'static str,
        data: &'static str,
    ) -> Result<(), Violation> {
        if to.is_hole() {
            return Ok(());
        }
        let block = self.reach(to, inner)?;
        if !page::valid(&block, to.when, level, self.space()) {
            return Err(wrong(format!("the {inner} at {} is not of the newest Seq below it", to.pba)));
        }
        for i in 0..PAGE_REFS {
            let child = page::get(&block, i);
            // The volume itself is a hole since the Seq that made it.
            if child.when == Seq::ZERO {
                return Err(wrong(format!("part {i} of the {inner} at {} is of no Seq", to.pba)));
            }
            if level > 0 {
                if !child.is_absent() {
                    self.walk_map(&child, level - 1, inner, data)?;
                }
            } else if !child.is_hole() {
                self.reach(&child, data)?;
            }
        }
        Ok(())
    }

    /// What is left of a cut subtree: all that ends behind the cursor. What lies before it was freed and may be
    /// anything by now.
    fn walk_cut(&mut self, to: &Ref, level: u8, first: u64, cursor: u64) -> Result<(), Violation> {
        if to.is_hole() || first + page_covers(level).get() <= cursor {
            return Ok(());
        }
        let block = self.reach(to, "cut page")?;
        for i in 0..PAGE_REFS {
            let child = page::get(&block, i);
            if level > 0 {
                let part = page_covers(level - 1).get();
                self.walk_cut(&child, level - 1, first + part * i as u64, cursor)?;
            } else if !child.is_hole() {
                self.reach(&child, "cut block")?;
            }
        }
        Ok(())
    }

    fn walk_bitmaps(
        &mut self,
        to: &Ref,
        level: u8,
        first: u32,
        found: &mut BTreeMap<u32, Bitmap>,
    ) -> Result<(), Violation> {
        let block = self.reach(to, "page of the bitmap tree")?;
        for i in 0..PAGE_REFS as u32 {
            let child = page::get(&block, i as usize);
            let index = first * PAGE_REFS as u32 + i;
            if child.is_absent() {
                continue;
            }
            if level > 0 {
                self.walk_bitmaps(&child, level - 1, index, found)?;
            } else {
                let bits = self.reach(&child, "bitmap")?;
                found.insert(index, Bitmap::decode(&bits));
            }
        }
        Ok(())
    }

    /// Every bitmap says what was reached, and the root's count is their sum.
    fn compare_space(&self, root: &Root, bitmaps: &BTreeMap<u32, Bitmap>) -> Result<(), Violation> {
        let geometry = self.geometry();
        let mut used = 0;
        for region in 0..root.regions {
            let first = Pba::new(u64::from(region) * u64::from(geometry.extent_blocks));
            let mut fixed = Bitmap::EMPTY;
            geometry.fixed_runs(RegionNo::new(region), &mut |pba, blocks| {
                fixed.set_run((pba - first).get() as u32, blocks.get() as u32);
            });
            let bits = bitmaps.get(&region).unwrap_or(&fixed);
            for bit in 0..geometry.extent_blocks {
                let pba = first + Blocks::new(u64::from(bit));
                let reached = self.reached.get(&pba).filter(|_| !fixed.get(bit));
                let must = fixed.get(bit) || reached.is_some();
                let may = must || self.cut.contains_key(&pba);
                used += u64::from(bits.get(bit));
                if bits.get(bit) && !may {
                    return Err(wrong(format!("block {pba} is marked used and nothing leads to it")));
                }
                if !bits.get(bit) && must {
                    return Err(wrong(format!(
                        "block {pba} is marked free and is a {}",
                        reached.unwrap_or(&"fixed block")
                    )));
                }
            }
        }
        if used != root.used.get() {
            return Err(wrong(format!("the directory counts {} used blocks, the bitmaps {used}", root.used)));
        }
        Ok(())
    }
}

/// Extents by the drives of the world; a superblock names them by its drive table.
fn in_world(
    drives: &[SimDrive],
    superblock: &Superblock,
    extents: &[Extent],
) -> Result<Vec<Extent>, Violation> {
    let place = |extent: &Extent| {
        let uuid = superblock.drives.get(usize::from(extent.drive.get()))?.drive;
        let drive = drives.iter().position(|drive| drive.uuid == uuid)?;
        Some(Extent { drive: DriveIx::new(drive as u8), ..*extent })
    };
    let found: Option<Vec<Extent>> = extents.iter().map(place).collect();
    found.ok_or_else(|| wrong("a row names a drive that the drive table does not list"))
}

/// The highest D that an intact superblock or commit on any drive says. What was flushed after it was written is
/// known to nobody but a process that lives: to a recovery it looks like what was never completed.
/// Nor do commits, if `only_whole`, while a copy lacks the newest version: its pages may be gone, and then nobody
/// reads the log that goes with it.
/// Neither does a drive count that nobody hears: what cannot be read above D looks the same.
pub fn promised(
    drives: &[SimDrive],
    heard: &[bool],
    only_whole: bool,
    group: Uuid,
    (home, extent_blocks): (&[Extent], u32),
) -> (u64, Seq) {
    let Ok(newest) = newest(drives, group, home, extent_blocks) else { return (0, Seq::ZERO) };
    let geometry = newest.geometry;
    let mut promised = Seq::ZERO;
    for (place, extent) in home.iter().enumerate() {
        let column = place as u64 % u64::from(geometry.columns);
        let drive = usize::from(extent.drive.get());
        let (drive, heard) = (&drives[drive], heard[drive]);
        // What a copy says that is not current nobody hears.
        let current = newest.drives.iter().any(|entry| entry.drive == drive.uuid && entry.state.is_current());
        if drive.is_dead() || !heard || !current {
            continue;
        }
        let start = extent_start(extent.extent, extent_blocks);
        let block = |block: u32| drive.peek(start + Blocks::new(u64::from(block)));
        for slot in volume::layout::extent::SUPERBLOCKS {
            let own = own(&block(slot), drive, group, extent.extent);
            promised = promised.max(own.map_or(Seq::ZERO, |found| found.durable));
        }
        let lacks = |home: &Extent| {
            let copy = &drives[usize::from(home.drive.get())];
            let its = newest_on(copy, group, [home.extent].into_iter(), extent_blocks);
            let counts =
                newest.drives.iter().any(|entry| entry.drive == copy.uuid && entry.state.is_current());
            counts && !copy.is_dead() && its.is_none_or(|its| its.newness() != newest.newness())
        };
        if only_whole && home.iter().any(lacks) {
            continue;
        }
        let ring = (0..geometry.ring_blocks()).flat_map(|offset| block(geometry.ring_place(offset).1));
        let ring: Vec<u8> = ring.collect();
        for at in (0..ring.len()).step_by(base::BLOCK_BYTES) {
            // Seqs of a tail that was cut are taken again; what counts of older activations the superblock says.
            let of_newest = |commit: &rlog::CommitView<'_>| {
                let fields = commit.fields();
                // What went astray lies where nobody takes it for a commit.
                let there = fields.offset as usize == at / base::BLOCK_BYTES
                    && fields.no.get() % u64::from(geometry.columns) == column;
                there
                    && newest
                        .line
                        .is_some_and(|line| (line.generation, line.id) == (fields.generation, fields.history))
            };
            if let Some(commit) = Commit::parse(&ring[at..]).ok().filter(of_newest) {
                promised = promised.max(commit.fields().durable);
            }
        }
    }
    (newest.generation.get(), promised)
}

/// The newest valid superblock on any drive.
fn newest(
    drives: &[SimDrive],
    group: Uuid,
    home: &[Extent],
    extent_blocks: u32,
) -> Result<Superblock, Violation> {
    let found = home.iter().filter_map(|extent| {
        let drive = &drives[usize::from(extent.drive.get())];
        newest_on(drive, group, [extent.extent].into_iter(), extent_blocks).filter(|_| !drive.is_dead())
    });
    found.reduce(newer).ok_or_else(|| wrong("no superblock can be read"))
}

fn newer(one: Superblock, other: Superblock) -> Superblock {
    if other.newness() > one.newness() { other } else { one }
}

/// The newest valid superblock that the drive has of its own at these places.
pub fn newest_on(
    drive: &SimDrive,
    group: Uuid,
    extents: impl Iterator<Item = ExtentNo>,
    extent_blocks: u32,
) -> Option<Superblock> {
    let slots = |extent| {
        let start = extent_start(extent, extent_blocks);
        let blocks = volume::layout::extent::SUPERBLOCKS;
        blocks.map(|slot| (extent, drive.peek(start + Blocks::new(u64::from(slot)))))
    };
    let found = extents.flat_map(slots).filter_map(|(extent, block)| own(&block, drive, group, extent));
    found.reduce(newer)
}

/// The superblock in a block, if it is one of this group, drive and extent.
fn own(block: &base::Block, drive: &SimDrive, group: Uuid, extent: ExtentNo) -> Option<Superblock> {
    let (superblock, home) = Superblock::decode(block).ok()?;
    let named = superblock.drives.get(usize::from(home.extent.drive.get()));
    let its = named.is_some_and(|entry| entry.drive == drive.uuid) && home.extent.extent == extent;
    (its && superblock.group == group).then_some(superblock)
}
