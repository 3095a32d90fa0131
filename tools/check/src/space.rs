//! Free space: every block is fixed, reached exactly once, named by the log exactly once, or free, and the bitmaps
//! say just that.
//!
//! A block that the log names is free in the bitmap: it was taken after the checkpoint. Reached twice, reached and
//! free, named and used: any of these would hand out a block that holds data, so each is damage, with the names of
//! all who claim the block (found by a second walk; the first one keeps a bit per block only). Used and reached by
//! nobody is a leak.
use crate::copies::{self, Item};
use crate::directory::Found;
use crate::group::GroupView;
use crate::keys::Form;
use crate::log::Log;
use crate::report::{Object, Report, Severity, ref_text};
use base::{Blocks, CkptNo, Pba, RegionNo};
use cow::Ref;
use cow::bitmap::{Bitmap, WORD_BITS, WORDS};
use cow::refs::RefFlags;
use cow::space_layout::{BITMAP_SLOTS, LONGEST_BITS, bitmap_slot};
use std::collections::BTreeMap;

/// Blocks whose claims are told one by one.
const MAX_CONFLICTS: usize = 200;

/// One bit for each block of a group's space.
#[derive(Default)]
pub(crate) struct Blockset(BTreeMap<u32, Box<Bitmap>>);

impl Blockset {
    /// Adds a block; whether it is new.
    pub fn add(&mut self, pba: Pba, region_blocks: u32) -> bool {
        let region = (pba.get() / u64::from(region_blocks)) as u32;
        let bit = (pba.get() % u64::from(region_blocks)) as u32;
        self.0.entry(region).or_insert_with(|| Box::new(Bitmap::EMPTY)).set(bit)
    }

    fn word(&self, region: u32, i: usize) -> u64 {
        self.0.get(&region).map_or(0, |bits| bits.word(i))
    }
}

/// Who is where.
#[derive(Default)]
pub(crate) struct Usage {
    /// Blocks that the directory leads to.
    pub reached: Blockset,
    /// Blocks that the log names.
    pub named: Blockset,
    /// Blocks with a wrong number of owners, and what is wrong.
    pub conflicts: BTreeMap<Pba, &'static str>,
    /// Conflicts beyond those that are told.
    pub more: u64,
}

impl Usage {
    /// Notes that a block has a wrong number of owners.
    pub fn conflict(&mut self, pba: Pba, what: &'static str) {
        if self.conflicts.len() < MAX_CONFLICTS {
            self.conflicts.entry(pba).or_insert(what);
        } else {
            self.more += 1;
        }
    }

    /// Takes in the blocks that the log names.
    pub fn take_log(&mut self, view: &GroupView<'_>, log: &Log, report: &mut Report) {
        let region_blocks = view.geometry().extent_blocks;
        for named in &log.named {
            if named.pba.get() >= view.space().get() || named.pba == Pba::ZERO {
                let what = format!("names Pba {}, outside the space", named.pba);
                report.add(Severity::Damage, Object::Commit(named.commit.get()), what, Vec::new());
            } else if !self.named.add(named.pba, region_blocks) {
                self.conflict(named.pba, "two records name it");
            }
        }
    }
}

/// Compares the bitmaps with what was reached.
pub(crate) fn compare(view: &GroupView<'_>, found: &Found, usage: &mut Usage, report: &mut Report) {
    let regions = view.regions();
    let mut used = 0;
    let mut all_read = true;
    for region in 0..regions {
        let fixed = fixed(view, region);
        let bits = match found.bitmaps.get(&region) {
            None => Some(fixed.clone()),
            Some(entry) => read(view, found, region, entry, report),
        };
        let Some(bits) = bits else {
            all_read = false;
            continue;
        };
        used += if region < found.root.regions { u64::from(bits.used()) } else { 0 };
        let leaks = compare_region(view, region, &bits, &fixed, usage, report);
        for (first, count) in leaks.into_iter().filter(|_| found.whole) {
            let what = "marked used and nothing leads there";
            report.add(Severity::Leak, Object::Space(first, count), what, Vec::new());
        }
    }
    report.counts.used += used;
    if !found.whole {
        let what = "leaks are not looked for: some pages cannot be read";
        report.add(Severity::Note, Object::Group, what, Vec::new());
    }
    if all_read && used != found.root.used.get() {
        let what = format!("says that {} blocks are used, the bitmaps say {used}", found.root.used);
        report.add(Severity::Damage, Object::DirectoryRoot, what, Vec::new());
    }
}

/// The fixed blocks of a region.
fn fixed(view: &GroupView<'_>, region: u32) -> Box<Bitmap> {
    let geometry = view.geometry();
    let first = first_of(view, region);
    let mut fixed = Box::new(Bitmap::EMPTY);
    geometry.fixed_runs(RegionNo::new(region), &mut |pba, blocks| {
        fixed.set_run((pba - first).get() as u32, blocks.get() as u32);
    });
    fixed
}

fn first_of(view: &GroupView<'_>, region: u32) -> Pba {
    Pba::new(u64::from(region) * u64::from(view.geometry().extent_blocks))
}

/// Reads a bitmap and checks it against its entry.
fn read(
    view: &GroupView<'_>,
    found: &Found,
    region: u32,
    entry: &Ref,
    report: &mut Report,
) -> Option<Box<Bitmap>> {
    let object = Object::Bitmap(region);
    let first = first_of(view, region);
    let in_slot = (0..BITMAP_SLOTS.len()).any(|slot| entry.pba == bitmap_slot(first, slot));
    if !in_slot
        || entry.flags != RefFlags::NONE
        || entry.ckpt() == CkptNo::ZERO
        || entry.ckpt() > found.root.ckpt
    {
        let what = format!("its entry makes no sense: {}", ref_text(entry));
        report.add(Severity::Damage, object, what, Vec::new());
        return None;
    }
    report.counts.bitmaps += 1;
    let block = copies::page(
        view,
        &Item::new(object.clone(), Form::Page(entry.ckpt()), entry.pba, entry.check),
        report,
    )?;
    let bits = Box::new(Bitmap::decode(&block));
    let blocks = view.geometry().extent_blocks;
    let summary = bits.summary(blocks);
    let (free, longest) = (entry.when.get() >> LONGEST_BITS, entry.when.get() & ((1 << LONGEST_BITS) - 1));
    if (u64::from(summary.free), u64::from(summary.longest)) != (free, longest) {
        let what = format!(
            "has {} free blocks, the longest run {}; its entry says {free} and {longest}",
            summary.free, summary.longest
        );
        report.add(Severity::Damage, object.clone(), what, view.places(entry.pba));
    }
    if bits.used() != blocks - summary.free {
        report.add(Severity::Damage, object, "has bits behind its end", view.places(entry.pba));
    }
    Some(bits)
}

/// Notes conflicts; returns runs of blocks that are used and that nothing leads to.
fn compare_region(
    view: &GroupView<'_>,
    region: u32,
    bits: &Bitmap,
    fixed: &Bitmap,
    usage: &mut Usage,
    report: &mut Report,
) -> Vec<(u64, u64)> {
    let mut leaks: Vec<(u64, u64)> = Vec::new();
    for i in 0..WORDS.min((view.geometry().extent_blocks / WORD_BITS) as usize) {
        let (used, fixed) = (bits.word(i), fixed.word(i));
        let (reached, named) = (usage.reached.word(region, i), usage.named.word(region, i));
        let start = first_of(view, region) + Blocks::new(i as u64 * u64::from(WORD_BITS));
        let at = |bit: u32| start + Blocks::new(u64::from(bit));
        for (word, what) in [
            (reached & fixed, "it is a fixed block and more"),
            (named & fixed, "the log names it and it is a fixed block"),
            (named & reached, "the log names it and the checkpoint holds it"),
            (named & used & !fixed & !reached, "the log names it and the bitmap says used"),
            (reached & !fixed & !used, "the bitmap says free"),
        ] {
            each_bit(word, |bit| usage.conflict(at(bit), what));
        }
        each_bit(fixed & !used, |bit| {
            let what = format!("says that Pba {} is free, a fixed block", at(bit));
            report.add(Severity::Damage, Object::Bitmap(region), what, Vec::new());
        });
        each_bit(used & !fixed & !reached & !named, |bit| match leaks.last_mut() {
            Some((first, count)) if *first + *count == at(bit).get() => *count += 1,
            _ => leaks.push((at(bit).get(), 1)),
        });
    }
    leaks
}

fn each_bit(word: u64, mut each: impl FnMut(u32)) {
    let mut rest = word;
    while rest != 0 {
        each(rest.trailing_zeros());
        rest &= rest - 1;
    }
}

/// Reports the conflicts, with everybody who claims the block.
pub(crate) fn report_conflicts(
    view: &GroupView<'_>,
    usage: &Usage,
    claims: &BTreeMap<Pba, Vec<Object>>,
    log: &Log,
    report: &mut Report,
) {
    for (pba, what) in &usage.conflicts {
        let mut owners: Vec<String> = claims.get(pba).into_iter().flatten().map(Object::to_string).collect();
        for named in log.named.iter().filter(|named| named.pba == *pba) {
            owners.push(format!("commit {} for volume {} Lba {}", named.commit, named.volume, named.lba));
        }
        let object = claims.get(pba).and_then(|owners| owners.first()).cloned();
        let what = format!("Pba {pba}: {what}; claimed by {}", owners.join(" and "));
        report.add(Severity::Damage, object.unwrap_or(Object::Space(pba.get(), 1)), what, view.places(*pba));
    }
    if usage.more > 0 {
        let what = format!("{} more blocks have a wrong number of owners", usage.more);
        report.add(Severity::Damage, Object::Group, what, Vec::new());
    }
}
