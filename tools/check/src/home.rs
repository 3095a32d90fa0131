//! Row pages and history pages, which lie on the home pages.
//!
//! They carry no number: a Ref to one says Seq 0 and checkpoint 0, and a page that the newest superblock does not
//! lead to means nothing. What a reader does not look at (the rest of a row page, of a Ref to the page before) is
//! zero, or it was written by somebody else.
use crate::copies::{self, Item};
use crate::group::GroupView;
use crate::keys::{Form, Seals};
use crate::report::{Object, Report, Severity, ref_text};
use base::{Block, CkptNo, Extent, Gen, Pba, Seq, Uuid};
use cow::Ref;
use rlog::history::{BadPage, OutOfOrder};
use rlog::{History, Line, history};
use std::collections::{BTreeMap, BTreeSet};
use volume::layout::rows as at;
use volume::rows;

/// Home pages that the superblock leads to.
#[derive(Default)]
pub(crate) struct HomePages(BTreeSet<Pba>);

impl HomePages {
    /// Reads a home page that is reached for the first time.
    fn read(
        &mut self,
        view: &GroupView<'_>,
        to: &Ref,
        object: Object,
        looks_like_one: &dyn Fn(&Block) -> bool,
        report: &mut Report,
    ) -> Option<Box<Block>> {
        if !to.valid(view.space()) || to.is_hole() || view.geometry().home_index(to.pba).is_none() {
            let what = format!("lies outside the home pages: its Ref is {}", ref_text(to));
            report.add(Severity::Damage, object, what, Vec::new());
            return None;
        }
        if to.when != Seq::ZERO || to.ckpt() != CkptNo::ZERO {
            let what =
                format!("its Ref has a Seq or a checkpoint, which a home page does not: {}", ref_text(to));
            report.add(Severity::Damage, object.clone(), what, view.places(to.pba));
        }
        if !self.0.insert(to.pba) {
            report.add(Severity::Damage, object, "lies where another home page lies", view.places(to.pba));
            return None;
        }
        report.counts.pages += 1;
        copies::home_page(view, &Item::new(object, Form::Home, to.pba, to.check), looks_like_one, report)
    }

    /// How many are in use.
    pub fn used(&self) -> usize {
        self.0.len()
    }
}

/// Reads the row pages: the table of extents, or what can be read of it.
pub(crate) fn read_rows(view: &mut GroupView<'_>, pages: &mut HomePages, report: &mut Report) {
    let (root, height) = (view.superblock.row_pages, view.superblock.row_height);
    if root.is_absent() {
        if view.superblock.rows != 1 {
            let what = format!("the superblock has {} rows and no row pages", view.superblock.rows);
            report.add(Severity::Damage, Object::RowPage(height, 0), what, Vec::new());
        }
        return;
    }
    let extents = view.superblock.rows as usize * view.geometry().row_extents();
    let leaves = extents.div_ceil(at::PER_PAGE);
    let mut refs = vec![root];
    for level in (1..=height).rev() {
        let below = leaves.div_ceil(128usize.pow(u32::from(level) - 1));
        let mut children = Vec::new();
        for (index, to) in refs.iter().enumerate() {
            let valid = |page: &Block| {
                let mut refs = (0..128).map(|i| cow::page::get(page, i));
                refs.all(|to| to.is_absent() || to.valid(view.space()))
            };
            let object = Object::RowPage(level, index as u32);
            let Some(page) = pages.read(view, to, object, &valid, report) else { return };
            children.extend((0..128).map(|i| cow::page::get(&page, i)));
        }
        if children.iter().skip(below).any(|child| !child.is_absent()) {
            let what = format!("has Refs behind the last of {below} pages below it");
            report.add(Severity::Damage, Object::RowPage(level, refs.len() as u32 - 1), what, Vec::new());
        }
        children.truncate(below);
        if children.len() < below || children.iter().any(Ref::is_absent) {
            let what = "the row pages do not hold all rows";
            return report.add(Severity::Damage, Object::RowPage(level, 0), what, Vec::new());
        }
        refs = children;
    }
    let mut table = Vec::new();
    for (index, to) in refs.iter().enumerate() {
        let object = Object::RowPage(0, index as u32);
        let count = (extents - table.len()).min(at::PER_PAGE);
        let holds = |page: &Block| holds_rows(view, page, table.len(), count);
        let Some(page) = pages.read(view, to, object.clone(), &holds, report) else { return };
        if page[count * 8..].iter().any(|byte| *byte != 0) {
            let what = format!("holds entries behind the last of {} rows", view.superblock.rows);
            report.add(Severity::Damage, object.clone(), what, view.places(to.pba));
        }
        match rows::decode(&page, count) {
            Some(entries) => table.extend(entries),
            None => {
                let what = "has its right check and holds something else than extents";
                return report.add(Severity::Damage, object, what, view.places(to.pba));
            }
        }
    }
    take_rows(view, table, extents, report);
}

/// Whether a page may be the one that holds these extents, for whoever cannot make its check.
fn holds_rows(view: &GroupView<'_>, page: &Block, first: usize, count: usize) -> bool {
    let drives = view.table.entries().len();
    let home = |index: usize| view.superblock.home.get(first + index);
    rows::decode(page, count).is_some_and(|extents| {
        let mut each = extents.iter().enumerate();
        each.all(|(i, extent)| {
            usize::from(extent.drive.get()) < drives && home(i).is_none_or(|home| home == extent)
        })
    })
}

fn take_rows(view: &mut GroupView<'_>, table: Vec<Extent>, extents: usize, report: &mut Report) {
    let (drives, per_row) = (view.table.entries().len(), view.geometry().row_extents());
    let mut wrong = |index: usize, what: String| {
        let object = Object::Row((index / per_row) as u32);
        report.add(Severity::Damage, object, what, Vec::new());
    };
    let mut sane = table.len() == extents;
    for (index, extent) in table.iter().enumerate() {
        let home = view.superblock.home.get(index);
        if usize::from(extent.drive.get()) >= drives {
            let what = format!("its page names drive {} of {drives} in the drive table", extent.drive);
            wrong(index, what);
            sane = false;
        } else if home.is_some_and(|home| home != extent) {
            wrong(index, "its page names other extents than the superblock does for the home row".into());
            sane = false;
        }
    }
    if sane {
        view.rows = table;
    }
}

/// Reads the history pages; the lines in order, the superblock's own last.
pub(crate) fn read_history(view: &GroupView<'_>, pages: &mut HomePages, report: &mut Report) -> History {
    let mut found: Vec<Vec<Line>> = Vec::new();
    let mut next = view.superblock.history;
    while !next.is_absent() {
        let object = Object::HistoryPage(found.len() as u32);
        let holds = |page: &Block| history::decode_page(page, &mut Vec::new()).is_ok();
        let Some(page) = pages.read(view, &next, object.clone(), &holds, report) else { break };
        let mut lines = Vec::new();
        match history::decode_page(&page, &mut lines) {
            Ok(previous) => {
                if previous[32..].iter().any(|byte| *byte != 0) {
                    let what = "has bytes behind the Ref to the page before it";
                    report.add(Severity::Damage, object, what, view.places(next.pba));
                }
                next = Ref::decode(&previous[..32]);
            }
            Err(bad) => {
                let what = format!("has its right check and is no history page: {}", bad_page(bad));
                report.add(Severity::Damage, object, what, view.places(next.pba));
                break;
            }
        }
        found.push(lines);
    }
    let mut history = History::new();
    let mut ids: BTreeMap<Uuid, Gen> = BTreeMap::new();
    let pages = found.len() as u32;
    let own = view.superblock.line.map(|line| (0, line));
    let lines = found.into_iter().enumerate().rev().flat_map(|(page, lines)| {
        let page = page as u32;
        lines.into_iter().map(move |line| (page, line)).collect::<Vec<_>>()
    });
    for (page, line) in lines.chain(own) {
        let object = if pages == 0 { Object::Group } else { Object::HistoryPage(page) };
        if let Err(order) = history.append(line) {
            let what =
                format!("the line of Gen {} is out of order: {}", line.generation, out_of_order(order));
            report.add(Severity::Damage, object.clone(), what, Vec::new());
        }
        if let Some(other) = ids.insert(line.id, line.generation) {
            let what = format!("the activations of Gen {other} and Gen {} have one id", line.generation);
            report.add(Severity::Damage, object.clone(), what, Vec::new());
        }
        if (line.key == 0) == view.is_encrypted() {
            let (has, is) = if line.key == 0 { ("no", "is") } else { ("a", "is not") };
            let what = format!(
                "the activation of Gen {} has {has} data key, and the group {is} encrypted",
                line.generation
            );
            report.add(Severity::Damage, object, what, Vec::new());
        }
    }
    if let Seals::Open(opener) = &view.seals {
        opener.borrow_mut().reader.follow(history.lines());
    }
    history
}

fn out_of_order(order: OutOfOrder) -> &'static str {
    match order {
        OutOfOrder::Generation => "its Gen is not higher than the one before",
        OutOfOrder::Commit => "it starts at a lower commit than the one before",
        OutOfOrder::Checkpoint => "it starts at a lower checkpoint than the one before",
        OutOfOrder::Seq => "it starts at a lower Seq than the one before",
    }
}

fn bad_page(bad: BadPage) -> String {
    match bad {
        BadPage::NotAPage => "it does not begin like one".into(),
        BadPage::Version(version) => format!("it has format version {version}: use a newer program"),
        BadPage::Length => "it says that it has more lines than fit".into(),
        BadPage::Reserved => "it has bytes set that this program does not know: use a newer one".into(),
        BadPage::Line(line) => format!("line {line} is impossible, or its Gen is not above the line before"),
    }
}
