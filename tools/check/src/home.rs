//! Row pages and history pages, which lie on the home pages; and the headers of all extents of the rows.
use crate::copies::{self, Item};
use crate::group::GroupView;
use crate::report::{Object, Report, Severity};
use crate::scan::Scan;
use base::{Block, Column, Extent, LegId, Pba, RowNo};
use cow::Ref;
use rlog::{History, Line, history};
use std::collections::{BTreeMap, BTreeSet};
use volume::layout::{extent::HEADER, rows as at};
use volume::{Header, rows};

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
        report: &mut Report,
    ) -> Option<Box<Block>> {
        if !to.valid(view.space()) || to.is_hole() || view.geometry().home_index(to.pba).is_none() {
            report.add(
                Severity::Damage,
                object,
                format!("lies outside the home pages, at Pba {}", to.pba),
                Vec::new(),
            );
            return None;
        }
        if !self.0.insert(to.pba) {
            report.add(Severity::Damage, object, "lies where another home page lies", view.places(to.pba));
            return None;
        }
        report.counts.pages += 1;
        copies::page(view, &Item::new(object, to.pba, to.check), report)
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
            let Some(page) = pages.read(view, to, Object::RowPage(level, index as u32), report) else {
                return;
            };
            children.extend((0..128).map(|i| cow::page::get(&page, i)));
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
        let Some(page) = pages.read(view, to, object.clone(), report) else { return };
        match rows::decode(&page, (extents - table.len()).min(at::PER_PAGE)) {
            Some(entries) => table.extend(entries),
            None => {
                return report.add(
                    Severity::Damage,
                    object,
                    "holds something else than extents",
                    view.places(to.pba),
                );
            }
        }
    }
    take_rows(view, table, extents, report);
}

fn take_rows(view: &mut GroupView<'_>, table: Vec<Extent>, extents: usize, report: &mut Report) {
    let drives = view.table.entries().len();
    let home = view.superblock.home.len();
    let sane = table.len() == extents
        && table[..home] == view.superblock.home[..]
        && table.iter().all(|extent| usize::from(extent.drive.get()) < drives);
    if !sane {
        let what = "the row pages contradict the superblock";
        return report.add(Severity::Damage, Object::RowPage(0, 0), what, Vec::new());
    }
    view.rows = table;
}

/// Reads the history pages; the lines in order, the superblock's own last.
pub(crate) fn read_history(view: &GroupView<'_>, pages: &mut HomePages, report: &mut Report) -> History {
    let mut found: Vec<Vec<Line>> = Vec::new();
    let mut next = view.superblock.history;
    while !next.is_absent() {
        let object = Object::HistoryPage(found.len() as u32);
        let Some(page) = pages.read(view, &next, object.clone(), report) else { break };
        let mut lines = Vec::new();
        match history::decode_page(&page, &mut lines) {
            Ok(previous) => next = Ref::decode(&previous[..32]),
            Err(bad) => {
                let what = format!("has its right check and is no history page: {bad:?}");
                report.add(Severity::Damage, object, what, view.places(next.pba));
                break;
            }
        }
        found.push(lines);
    }
    let mut history = History::new();
    for line in found.into_iter().rev().flatten().chain(view.superblock.line) {
        if let Err(order) = history.append(line) {
            let what = format!("the line of Gen {} is out of order: {order:?}", line.generation);
            report.add(Severity::Damage, Object::HistoryPage(0), what, Vec::new());
        }
    }
    history
}

/// Who holds an extent: by (index of the drive, extent).
pub(crate) type Holders = BTreeMap<(usize, u32), String>;

/// Every extent of the rows has the right header on drives that count, and nobody else holds it.
pub(crate) fn check_extents(view: &GroupView<'_>, scan: &Scan, holders: &mut Holders, report: &mut Report) {
    let columns = usize::from(view.geometry().columns);
    for (i, extent) in view.rows.iter().enumerate() {
        let row = RowNo::new((i / view.geometry().row_extents()) as u32);
        let within = i % view.geometry().row_extents();
        let Some(drive) = view.handles[usize::from(extent.drive.get())] else { continue };
        let at = vec![view.drives[drive].at(view.drives[drive].block_of(extent.extent, HEADER))];
        report.counts.extents += 1;
        let (leg, column) = (LegId::new((within / columns) as u8), Column::new((within % columns) as u8));
        let me = format!("row {row} leg {leg} column {column} of group {}", view.group);
        if let Some(other) = holders.insert((drive, extent.extent.get()), me) {
            let what = format!("extent {} is {other} as well", extent.extent);
            report.add(Severity::Damage, Object::Row(row.get()), what, at.clone());
        }
        if extent.extent.get() >= view.drives[drive].extents {
            let what = format!("extent {} lies beyond the drive", extent.extent);
            report.add(Severity::Damage, Object::Row(row.get()), what, at);
            continue;
        }
        if !view.current.contains(extent.drive) {
            continue;
        }
        let expected = Header {
            pool: view.superblock.pool,
            drive: view.drives[drive].uuid,
            group: view.group,
            extent: extent.extent,
            row,
            leg,
            column,
        };
        let object = Object::Header(extent.extent.get());
        match scan.headers.get(&(drive, extent.extent.get())) {
            Some(found) if *found == expected => {}
            Some(found) => {
                let what = format!(
                    "says row {} leg {} column {} of group {}, the superblock says row {row} leg {leg} column {column}",
                    found.row, found.leg, found.column, found.group
                );
                report.add(Severity::Damage, object, what, at);
            }
            None => {
                let what =
                    format!("is damaged or wiped; the superblock says row {row} leg {leg} column {column}");
                report.add(Severity::Repairable, object, what, at);
            }
        }
    }
}

/// Headers that no superblock backs: extents on their way in or out.
pub(crate) fn check_strays(drives: &[crate::Drive<'_>], scan: &Scan, holders: &Holders, report: &mut Report) {
    for ((drive, extent), header) in &scan.headers {
        let backed = holders.contains_key(&(*drive, *extent));
        let known = scan.groups.iter().any(|group| group.group == header.group);
        if !backed && (known || header.row != RowNo::ZERO) {
            let drive = &drives[*drive];
            let at = vec![drive.at(drive.block_of(base::ExtentNo::new(*extent), HEADER))];
            let what = format!(
                "names row {} of group {}, whose superblock does not: it goes back",
                header.row, header.group
            );
            report.add(Severity::Note, Object::Header(*extent), what, at);
        }
    }
}
