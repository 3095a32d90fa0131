//! Reading blocks that a Ref or a record names, on every copy that counts.
use crate::group::{CopyAt, GroupView, HomeChecks};
use crate::report::{Object, Report, Severity, Where};
use crate::scan::is_zero;
use base::{BLOCK_BYTES, Block, Blocks, Check, Pba};
use rlog::LegSet;
use volume::keys::mac_fits;

/// Blocks that are read at once.
const MAX_RUN: usize = 128;

/// A block whose content is known by its check.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub object: Object,
    pub pba: Pba,
    pub check: Check,
    /// The worst that a bad copy means.
    pub most: Severity,
    /// Legs that may lack it: the next opening gives it to them.
    pub may_lack: LegSet,
}

impl Item {
    pub fn new(object: Object, pba: Pba, check: Check) -> Self {
        Self { object, pba, check, most: Severity::Damage, may_lack: LegSet::EMPTY }
    }
}

/// Reads a page on every copy and returns a right one.
pub(crate) fn page(view: &GroupView<'_>, item: &Item, report: &mut Report) -> Option<Box<Block>> {
    page_that(view, item, report, |block| Check::of(&block[..]) == item.check)
}

/// The same of a row or history page.
pub(crate) fn home_page(view: &GroupView<'_>, item: &Item, report: &mut Report) -> Option<Box<Block>> {
    match &view.home_checks {
        HomeChecks::Plain => page(view, item, report),
        HomeChecks::Keyed(key) => {
            page_that(view, item, report, |block| mac_fits(key, &[block], &item.check.0))
        }
        HomeChecks::Unknown => {
            let blocks: Vec<_> = view
                .copies(item.pba)
                .filter_map(|copy| view.drive(&copy).media().read(copy.block).ok())
                .collect();
            let alike = blocks.windows(2).all(|pair| pair[0] == pair[1]);
            page_that(view, item, report, |block| alike && !is_zero(block))
        }
    }
}

fn page_that(
    view: &GroupView<'_>,
    item: &Item,
    report: &mut Report,
    is_right: impl Fn(&Block) -> bool,
) -> Option<Box<Block>> {
    let mut right = None;
    let mut wrong = Vec::new();
    for copy in view.copies(item.pba) {
        report.counts.copies += 1;
        match view.drive(&copy).media().read(copy.block) {
            Ok(block) if is_right(&block) => right = right.or(Some(block)),
            Ok(block) => wrong.push((copy, fault(&block))),
            Err(error) => wrong.push((copy, format!("cannot be read: {error}"))),
        }
    }
    judge(view, item, right.is_some(), &wrong, report);
    right
}

/// Verifies blocks on every copy; those that lie side by side are read together.
pub(crate) fn verify(view: &GroupView<'_>, items: &[Item], report: &mut Report) {
    let mut at = 0;
    while at < items.len() {
        let first = items[at].pba;
        let most = (view.geometry().contiguous(first).get() as usize).min(items.len() - at).min(MAX_RUN);
        let follows = |i: &usize| items[at + i].pba == first + Blocks::new(*i as u64);
        let run = (1..most).take_while(follows).count() + 1;
        verify_run(view, &items[at..at + run], report);
        at += run;
    }
}

fn verify_run(view: &GroupView<'_>, items: &[Item], report: &mut Report) {
    let mut right = vec![false; items.len()];
    let mut wrong: Vec<Vec<(CopyAt, String)>> = vec![Vec::new(); items.len()];
    let mut bytes = vec![0; items.len() * BLOCK_BYTES];
    for copy in view.copies(items[0].pba) {
        let media = view.drive(&copy).media();
        let whole = media.read_into(copy.block, &mut bytes).is_ok();
        for (i, block) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let block: &mut Block = block.try_into().expect("a block");
            let copy = CopyAt { block: copy.block + Blocks::new(i as u64), ..copy };
            report.counts.copies += 1;
            // One bad sector must not hide its neighbours.
            let read = if whole { Ok(()) } else { media.read_into(copy.block, block) };
            match read {
                Ok(()) if Check::of(block) == items[i].check => right[i] = true,
                Ok(()) => wrong[i].push((copy, fault(block))),
                Err(error) => wrong[i].push((copy, format!("cannot be read: {error}"))),
            }
        }
    }
    for (i, item) in items.iter().enumerate() {
        judge(view, item, right[i], &wrong[i], report);
    }
}

fn fault(block: &Block) -> String {
    if is_zero(block) { "is all zeroes".into() } else { "fails its check".into() }
}

fn judge(view: &GroupView<'_>, item: &Item, right: bool, wrong: &[(CopyAt, String)], report: &mut Report) {
    if right {
        for (copy, fault) in wrong {
            let lacking = item.may_lack.contains(copy.leg);
            let severity = if lacking { Severity::Note } else { Severity::Repairable };
            let tail = if lacking { "; the next opening completes it" } else { "; another copy is right" };
            let what = format!("{fault} on leg {}{tail}", copy.leg);
            report.add(severity.min(item.most), item.object.clone(), what, vec![view.place(copy)]);
        }
        return;
    }
    // Without any copy at hand the group's own finding says so.
    if !wrong.is_empty() {
        let faults: Vec<String> =
            wrong.iter().map(|(copy, fault)| format!("{fault} on leg {}", copy.leg)).collect();
        let at: Vec<Where> = wrong.iter().map(|(copy, _)| view.place(copy)).collect();
        report.add(item.most, item.object.clone(), format!("{}: no copy is right", faults.join(", ")), at);
    }
}
