//! The walk over maps and cut subtrees, page by page from the root.
//!
//! Recursion is as deep as a tree is high. Each page is verified on every copy before what it says is believed;
//! below a page that no copy has right nothing is known, and then nothing can be called a leak.
use crate::copies::{self, Item};
use crate::group::GroupView;
use crate::keys::Form;
use crate::overlay::Overlay;
use crate::report::{Object, Report, Severity, ref_text};
use base::{Block, CkptNo, Lba, Pba, SECTORS_PER_BLOCK, Seq, VolumeId};
use cow::tree::page_covers;
use cow::{CutEntry, PAGE_REFS, Ref, VolumeEntry, page};
use std::collections::BTreeMap;

/// What a walk tells of each block that it reaches; whether it was reached for the first time.
pub(crate) type Visit<'a> = dyn FnMut(Pba, &Object) -> bool + 'a;

/// A walk under one root of the directory.
pub(crate) struct Walk<'a, 'v> {
    pub view: &'a GroupView<'v>,
    pub overlay: &'a Overlay,
    /// Read the data too, not only the pages.
    pub data: bool,
    /// The checkpoint, and the Seq that it covers: nothing below is newer.
    pub ckpt: CkptNo,
    pub seq: Seq,
    pub report: &'a mut Report,
    /// Pages that no copy has right: what lies below is not known.
    pub lost: u64,
    /// Blocks of data by volume, those of subtrees that were cut off it too.
    pub data_blocks: BTreeMap<u32, u64>,
    pub visit: &'a mut Visit<'a>,
}

/// A volume while its map is walked.
#[derive(Clone, Copy)]
struct Volume {
    id: VolumeId,
    blocks: u64,
    /// Nothing of it is older.
    created: Seq,
}

fn too_old(to: &Ref, volume: Volume) -> String {
    format!("is of Seq {}, before its volume, which Seq {} created", to.when, volume.created)
}

impl Walk<'_, '_> {
    fn wrong(&mut self, object: &Object, what: String, pba: Pba) {
        let at = if pba == Pba::ZERO { Vec::new() } else { self.view.places(pba) };
        self.report.add(Severity::Damage, object.clone(), what, at);
    }

    /// Reads a page that a Ref leads to. `None` if it is no page, or was reached before: then all below was.
    pub fn page(&mut self, to: &Ref, object: &Object, most: Severity) -> Option<Box<Block>> {
        if to.is_hole() || !to.valid(self.view.space()) {
            self.wrong(object, format!("the Ref to it makes no sense: {}", ref_text(to)), Pba::ZERO);
            self.lost += 1;
            return None;
        }
        if to.ckpt() == CkptNo::ZERO || to.ckpt() > self.ckpt || to.when > self.seq {
            let what = format!(
                "is of checkpoint {} with Seq {}, under checkpoint {} with Seq {}",
                to.ckpt(),
                to.when,
                self.ckpt,
                self.seq
            );
            self.wrong(object, what, to.pba);
        }
        let first = (self.visit)(to.pba, object);
        self.report.counts.pages += 1;
        let item = Item { most, ..Item::new(object.clone(), Form::Page(to.ckpt()), to.pba, to.check) };
        let page = copies::page(self.view, &item, self.report);
        self.lost += u64::from(page.is_none());
        let page = page?;
        first.then_some(page)
    }

    /// Walks a volume's map.
    pub fn volume(&mut self, entry: &VolumeEntry) {
        let blocks = entry.sectors.get().div_ceil(SECTORS_PER_BLOCK);
        // A creation after the checkpoint is told of the volume; every block would only say it again.
        let created = if entry.created > self.seq { Seq::ZERO } else { entry.created };
        let volume = Volume { id: entry.id, blocks, created };
        self.tree(volume, &entry.root, entry.height.root_level(), Lba::ZERO, self.ckpt);
    }

    fn tree(&mut self, volume: Volume, to: &Ref, level: u8, lba: Lba, above: CkptNo) {
        let object = Object::MapPage { volume: volume.id.get(), level, lba: lba.get() };
        if to.is_hole() {
            if !to.valid(self.view.space()) || to.when == Seq::ZERO || to.when > self.seq {
                self.wrong(&object, format!("is a hole that makes no sense: {}", ref_text(to)), Pba::ZERO);
            } else if to.when < volume.created {
                self.wrong(&object, too_old(to, volume), Pba::ZERO);
            }
            return;
        }
        if to.ckpt() > above {
            self.wrong(
                &object,
                format!("is of checkpoint {}, newer than the page above it ({above})", to.ckpt()),
                to.pba,
            );
        }
        let Some(block) = self.page(to, &object, Severity::Damage) else { return };
        self.check_page(&object, &block, to, level);
        if page::summary(&block).1 {
            self.report.add(Severity::Note, object, "holds nothing but holes", self.view.places(to.pba));
        }
        if level == 0 {
            return self.leaf(volume, &block, lba, to.when);
        }
        for i in 0..PAGE_REFS {
            let child = page::get(&block, i);
            let first = lba + base::Blocks::new(page_covers(level - 1).get() * i as u64);
            self.tree(volume, &child, level - 1, first, to.ckpt());
        }
    }

    /// A page is what its parent says: sane Refs, and exactly this newest Seq below.
    fn check_page(&mut self, object: &Object, block: &Block, to: &Ref, level: u8) {
        if page::valid(block, to.when, level, self.view.space()) {
            return;
        }
        let refs = || (0..PAGE_REFS).map(|i| (i, page::get(block, i)));
        let newest = page::summary(block).0;
        let what = if let Some((i, bad)) = refs().find(|(_, child)| !child.valid(self.view.space())) {
            format!("a Ref that makes no sense: entry {i} is {}", ref_text(&bad))
        } else if let Some((i, bad)) = refs().find(|(_, child)| level == 0 && child.tag != 0) {
            format!("a Ref to a page where data belongs: entry {i} is {}", ref_text(&bad))
        } else {
            format!("newest Seq {newest} where the page above says {}", to.when)
        };
        self.wrong(object, format!("has its right check, but {what}"), to.pba);
    }

    fn leaf(&mut self, volume: Volume, block: &Block, first: Lba, newest: Seq) {
        let mut items = Vec::new();
        // Told once for each leaf.
        let mut told = false;
        for i in 0..PAGE_REFS as u64 {
            let (to, lba) = (page::get(block, i as usize), first + base::Blocks::new(i));
            let object = Object::Data { volume: volume.id.get(), lba: lba.get() };
            let sane = to.valid(self.view.space()) && to.when != Seq::ZERO && to.when <= newest;
            if !sane {
                self.wrong(&object, format!("the Ref to it makes no sense: {}", ref_text(&to)), Pba::ZERO);
                continue;
            }
            if to.when < volume.created && !std::mem::replace(&mut told, true) {
                self.wrong(&object, too_old(&to, volume), Pba::ZERO);
            }
            if !to.is_hole() {
                if lba.get() >= volume.blocks {
                    self.wrong(
                        &object,
                        format!("lies behind the end of the volume ({} blocks)", volume.blocks),
                        to.pba,
                    );
                }
                self.report.counts.data += 1;
                *self.data_blocks.entry(volume.id.get()).or_default() += 1;
                (self.visit)(to.pba, &object);
                // What a record replaced is never read again.
                let replaced = self.overlay.replaces(volume.id, lba);
                let most = if replaced { Severity::Note } else { Severity::Damage };
                let form = Form::Data(volume.id, lba, to.when);
                items.push(Item { most, ..Item::new(object, form, to.pba, to.check) });
            }
        }
        if self.data {
            copies::verify(self.view, &items, self.report);
        }
    }

    /// Walks what is left of a cut subtree: everything that ends behind the cursor. Its data is garbage and only
    /// counted as used; its pages are needed to free it.
    pub fn cut(&mut self, index: u32, entry: &CutEntry) {
        let whole = page_covers(entry.level).get();
        if entry.cursor >= whole {
            let what = format!("subtree {index} is freed up to {} of {whole} and still listed", entry.cursor);
            self.report.add(Severity::Damage, Object::CutList, what, Vec::new());
        }
        self.cut_tree((index, entry.volume), &entry.subtree, entry.level, 0, entry.cursor);
    }

    fn cut_tree(&mut self, cut: (u32, VolumeId), to: &Ref, level: u8, first: u64, cursor: u64) {
        if to.is_hole() || first + page_covers(level).get() <= cursor {
            return;
        }
        let object = Object::CutPage(cut.0, level);
        let Some(block) = self.page(to, &object, Severity::Leak) else { return };
        self.check_page(&object, &block, to, level);
        for i in 0..PAGE_REFS {
            let child = page::get(&block, i);
            if !child.valid(self.view.space()) {
                continue;
            }
            if level > 0 {
                let each = page_covers(level - 1).get();
                self.cut_tree(cut, &child, level - 1, first + each * i as u64, cursor);
            } else if !child.is_hole() {
                *self.data_blocks.entry(cut.1.get()).or_default() += 1;
                (self.visit)(child.pba, &object);
            }
        }
    }
}
