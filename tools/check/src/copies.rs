//! Reading blocks that a Ref or a record names, on every copy that counts.
use crate::group::{CopyAt, GroupView};
use crate::keys::{Fault, Form, Right, Seals};
use crate::report::{Finding, Object, Report, Severity, Where};
use base::{BLOCK_BYTES, Block, Blocks, Check, Pba};
use rlog::LegSet;

/// Blocks that are read at once.
const MAX_RUN: usize = 128;

/// A block whose content is known by its check.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub object: Object,
    pub pba: Pba,
    pub check: Check,
    /// How it got its check.
    pub form: Form,
    /// The worst that a bad copy means.
    pub most: Severity,
    /// Legs that may lack it: the next opening gives it to them.
    pub may_lack: LegSet,
}

impl Item {
    pub fn new(object: Object, form: Form, pba: Pba, check: Check) -> Self {
        Self { object, pba, check, form, most: Severity::Damage, may_lack: LegSet::EMPTY }
    }
}

/// What the copies of a block are.
#[derive(Clone, Default)]
struct Copies {
    right: Option<Right>,
    wrong: Vec<(CopyAt, Fault)>,
}

impl Copies {
    fn note(&mut self, copy: CopyAt, is: Result<Right, Fault>) {
        match is {
            Ok(right) => self.right = Some(right),
            Err(fault) => self.wrong.push((copy, fault)),
        }
    }
}

fn read(view: &GroupView<'_>, copy: &CopyAt) -> Result<Box<Block>, Fault> {
    view.drive(copy).media().read(copy.block).map_err(|error| Fault::Unreadable(error.to_string()))
}

/// Reads a page on every copy and returns a right one, in plain text; `None` also if it is whole and cannot be opened.
pub(crate) fn page(view: &GroupView<'_>, item: &Item, report: &mut Report) -> Option<Box<Block>> {
    let mut found = None;
    let mut copies = Copies::default();
    for copy in view.copies(item.pba) {
        report.counts.copies += 1;
        let is = read(view, &copy).and_then(|mut block| {
            let right = view.seals.judge(&mut block, item.pba, item.form, item.check)?;
            if right == Right::Open {
                found.get_or_insert(block);
            }
            Ok(right)
        });
        copies.note(copy, is);
    }
    judge(view, item, &copies, report);
    found
}

/// Reads a row or history page and returns a right copy. Without the keys of an encrypted group none can be told from
/// another: the first that looks like one is taken, and copies that differ are told.
pub(crate) fn home_page(
    view: &GroupView<'_>,
    item: &Item,
    looks_like_one: &dyn Fn(&Block) -> bool,
    report: &mut Report,
) -> Option<Box<Block>> {
    if !matches!(view.seals, Seals::Shut) {
        return page(view, item, report);
    }
    let mut copies = Copies::default();
    let mut read_copies = Vec::new();
    for copy in view.copies(item.pba) {
        report.counts.copies += 1;
        match read(view, &copy) {
            Ok(block) => read_copies.push((copy, block)),
            Err(fault) => copies.note(copy, Err(fault)),
        }
    }
    let Some(taken) = read_copies.iter().position(|(_, block)| looks_like_one(block)) else {
        copies.wrong.extend(read_copies.into_iter().map(|(copy, _)| (copy, Fault::SomethingElse)));
        judge(view, item, &copies, report);
        return None;
    };
    copies.right = Some(Right::Whole);
    judge(view, item, &copies, report);
    let (first, block) = read_copies[taken].clone();
    let other = read_copies.iter().filter(|(_, other)| *other != block);
    let places: Vec<Where> = other.map(|(copy, _)| view.place(copy)).collect();
    if !places.is_empty() {
        let what = format!(
            "differs from the copy on leg {}: one of them is wrong, and which one only the group's keys tell",
            first.leg
        );
        report.add(Severity::Repairable.min(item.most), item.object.clone(), what, places);
        if view.only_alike {
            return None;
        }
    }
    Some(block)
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
    let mut copies = vec![Copies::default(); items.len()];
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
            let read = read.map_err(|error| Fault::Unreadable(error.to_string()));
            let item = &items[i];
            copies[i]
                .note(copy, read.and_then(|()| view.seals.judge(block, item.pba, item.form, item.check)));
        }
    }
    for (item, copies) in items.iter().zip(&copies) {
        judge(view, item, copies, report);
    }
}

fn judge(view: &GroupView<'_>, item: &Item, copies: &Copies, report: &mut Report) {
    let mut add = |severity, faults: &[&Fault], what, at| {
        let finding = Finding { severity, group: None, object: item.object.clone(), what, at };
        view.seals.add(item.form, faults, finding, report);
    };
    if let Some(right) = copies.right {
        for (copy, fault) in &copies.wrong {
            let lacking = item.may_lack.contains(copy.leg);
            let severity = if lacking { Severity::Note } else { Severity::Repairable };
            let tail = match right {
                _ if lacking => "; the next opening completes it",
                Right::Open => "; another copy is right",
                Right::Whole => "; another copy is whole",
            };
            let what = format!("{fault} on leg {}{tail}", copy.leg);
            add(severity.min(item.most), &[fault], what, vec![view.place(copy)]);
        }
        return;
    }
    // Without any copy at hand the group's own finding says so.
    if !copies.wrong.is_empty() {
        let faults: Vec<&Fault> = copies.wrong.iter().map(|(_, fault)| fault).collect();
        let told: Vec<String> =
            copies.wrong.iter().map(|(copy, fault)| format!("{fault} on leg {}", copy.leg)).collect();
        let at: Vec<Where> = copies.wrong.iter().map(|(copy, _)| view.place(copy)).collect();
        add(item.most, &faults, format!("{}: no copy is right", told.join(", ")), at);
    }
}
