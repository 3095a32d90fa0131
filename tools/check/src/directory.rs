//! The directory of the newest checkpoint, and everything that it leads to.
use crate::group::GroupView;
use crate::map::{Visit, Walk};
use crate::overlay::Overlay;
use crate::report::{Object, Report, Severity};
use base::{SECTORS_PER_BLOCK, Uuid};
use cow::directory::{decode_cuts, decode_volumes};
use cow::{CutList, PAGE_REFS, Ref, Root, Volumes, page};
use std::collections::{BTreeMap, BTreeSet};

/// What the directory says.
pub(crate) struct Found {
    pub root: Root,
    pub volumes: Volumes,
    pub cuts: CutList,
    /// Entries of bitmaps, by region.
    pub bitmaps: BTreeMap<u32, Ref>,
    /// Every page of the bitmap tree was read: the bitmaps are known.
    pub bitmaps_known: bool,
    /// Every page was read: what was not reached is a leak.
    pub whole: bool,
}

/// Walks everything below the superblock's directory, telling `visit` of every block. With `data` the data is
/// verified too. `None` if there is no directory, or its root cannot be used.
pub(crate) fn walk<'a>(
    view: &'a GroupView<'_>,
    overlay: &'a Overlay,
    data: bool,
    report: &'a mut Report,
    visit: &'a mut Visit<'a>,
) -> Option<Found> {
    let at = view.superblock.directory;
    if at.is_absent() {
        return None;
    }
    let (ckpt, seq) = (view.superblock.ckpt, view.superblock.ckpt_seq);
    let mut walk =
        Walk { view, overlay, data, ckpt, seq, report, lost: 0, data_blocks: BTreeMap::new(), visit };
    check_list(&mut walk, "the root", &at);
    let page = walk.page(&at, &Object::DirectoryRoot, Severity::Damage)?;
    let root = match Root::decode(&page, view.space()) {
        Ok(root) => root,
        Err(bad) => {
            walk.report.add(Severity::Damage, Object::DirectoryRoot, bad.to_string(), view.places(at.pba));
            return None;
        }
    };
    check_root(&mut walk, &root);
    let mut found = Found {
        root,
        volumes: Volumes::default(),
        cuts: CutList::default(),
        bitmaps: BTreeMap::new(),
        bitmaps_known: true,
        whole: false,
    };
    read_lists(&mut walk, &mut found);
    if root.tree_height > 0 {
        tree(&mut walk, &root.tree, root.tree_height - 1, 0, &mut found);
    }
    for entry in found.volumes.iter() {
        walk.volume(entry);
    }
    for (index, entry) in found.cuts.iter().enumerate() {
        walk.cut(index as u32, entry);
    }
    check_volumes(&mut walk, &found);
    found.whole = walk.lost == 0;
    Some(found)
}

fn check_root(walk: &mut Walk<'_, '_>, root: &Root) {
    let (view, superblock) = (walk.view, &walk.view.superblock);
    let geometry = view.geometry();
    let regions = u64::from(superblock.rows) * u64::from(geometry.columns);
    let mut wrong = Vec::new();
    if root.ckpt != superblock.ckpt {
        wrong.push(format!("is of checkpoint {}, the superblock says {}", root.ckpt, superblock.ckpt));
    }
    if root.seq != superblock.ckpt_seq {
        wrong.push(format!("covers Seq {}, the superblock says {}", root.seq, superblock.ckpt_seq));
    }
    if root.region_blocks != geometry.extent_blocks || u64::from(root.regions) > regions {
        wrong.push(format!(
            "has {} regions of {} blocks, the group has {regions}",
            root.regions, root.region_blocks
        ));
    }
    for what in wrong {
        walk.report.add(Severity::Damage, Object::DirectoryRoot, what, view.places(superblock.directory.pba));
    }
    check_list(walk, "the volumes page", &root.volumes);
    check_list(walk, "the list of cut subtrees", &root.cuts);
}

/// Every checkpoint writes root, volumes page and list of cut subtrees anew.
fn check_list(walk: &mut Walk<'_, '_>, page: &str, to: &Ref) {
    let superblock = &walk.view.superblock;
    if !to.is_absent() && (to.ckpt() != superblock.ckpt || to.when != superblock.ckpt_seq) {
        let what = format!(
            "the Ref to {page} says checkpoint {} and Seq {}, the superblock says {} and {}",
            to.ckpt(),
            to.when,
            superblock.ckpt,
            superblock.ckpt_seq
        );
        walk.report.add(
            Severity::Damage,
            Object::DirectoryRoot,
            what,
            walk.view.places(superblock.directory.pba),
        );
    }
}

fn read_lists(walk: &mut Walk<'_, '_>, found: &mut Found) {
    let (space, root) = (walk.view.space(), found.root);
    match walk
        .page(&root.volumes, &Object::Volumes, Severity::Damage)
        .map(|page| decode_volumes(&page, space))
    {
        Some(Ok(volumes)) => found.volumes = volumes,
        Some(Err(bad)) => lost(walk, Object::Volumes, bad.to_string()),
        None => {}
    }
    if root.cuts.is_absent() {
        return;
    }
    match walk.page(&root.cuts, &Object::CutList, Severity::Damage).map(|page| decode_cuts(&page, space)) {
        Some(Ok(cuts)) => found.cuts = cuts,
        Some(Err(bad)) => lost(walk, Object::CutList, bad.to_string()),
        None => {}
    }
}

fn lost(walk: &mut Walk<'_, '_>, object: Object, what: String) {
    walk.lost += 1;
    walk.report.add(Severity::Damage, object, what, Vec::new());
}

/// A page of the bitmap tree, and what it leads to.
fn tree(walk: &mut Walk<'_, '_>, to: &Ref, level: u8, index: u32, found: &mut Found) {
    let object = Object::BitmapPage(level, index);
    let Some(block) = walk.page(to, &object, Severity::Damage) else {
        found.bitmaps_known = false;
        return;
    };
    for i in 0..PAGE_REFS as u32 {
        let child = page::get(&block, i as usize);
        let below = u64::from(index) * PAGE_REFS as u64 + u64::from(i);
        if child.is_absent() {
            continue;
        }
        let Ok(below) = u32::try_from(below) else {
            lost(walk, object.clone(), "leads beyond the regions that there can be".into());
            continue;
        };
        if level > 0 {
            tree(walk, &child, level - 1, below, found);
        } else if below >= found.root.regions {
            let what = format!("has an entry for region {below}, the group has {}", found.root.regions);
            lost(walk, object.clone(), what);
        } else {
            found.bitmaps.insert(below, child);
        }
    }
}

fn check_volumes(walk: &mut Walk<'_, '_>, found: &Found) {
    let mut ids = BTreeMap::new();
    let mut identities = BTreeSet::new();
    for entry in found.volumes.iter() {
        if ids.insert(entry.id, ()).is_some() {
            let what = format!("volume {} is listed twice", entry.id);
            walk.report.add(Severity::Damage, Object::Volumes, what, Vec::new());
        }
        if entry.uuid == Uuid::NIL || !identities.insert(entry.uuid) {
            let what = format!("volume {} has the identity of none, or of another volume", entry.id);
            walk.report.add(Severity::Damage, Object::Volumes, what, Vec::new());
        }
        if entry.created > found.root.seq {
            let what = format!(
                "volume {} was created by Seq {}, the checkpoint covers {}",
                entry.id, entry.created, found.root.seq
            );
            walk.report.add(Severity::Damage, Object::Volumes, what, Vec::new());
        }
    }
    // Below a page that is lost nothing can be counted.
    for entry in found.volumes.iter().filter(|_| walk.lost == 0) {
        let counted = walk.data_blocks.get(&entry.id.get()).copied().unwrap_or(0);
        if let Some(said) = entry.data.filter(|said| said.get() != counted) {
            let what = format!("volume {} says {said} blocks of data, there are {counted}", entry.id);
            walk.report.add(Severity::Damage, Object::Volumes, what, Vec::new());
        }
    }
    for cut in found.cuts.iter().filter(|cut| cut.volume != base::VolumeId::ZERO) {
        if !found.volumes.iter().any(|entry| entry.id == cut.volume) {
            let what = format!("names a subtree of volume {}, which there is not", cut.volume);
            walk.report.add(Severity::Damage, Object::CutList, what, Vec::new());
        }
    }
    for (volume, end, commit) in walk.overlay.ends() {
        let object = Object::Commit(commit.get());
        let Some(entry) = found.volumes.iter().find(|entry| entry.id == volume) else {
            let what = format!("names volume {volume}, which the volumes page does not");
            walk.report.add(Severity::Damage, object, what, Vec::new());
            continue;
        };
        let blocks = entry.sectors.get().div_ceil(SECTORS_PER_BLOCK);
        if end.get() > blocks {
            let what = format!("names blocks of volume {volume} up to Lba {end}, it has {blocks}");
            walk.report.add(Severity::Damage, object, what, Vec::new());
        }
    }
}
