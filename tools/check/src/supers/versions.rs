//! What the superblocks say, beside each other and each in itself.
//!
//! The versions of a group grow, over all activations; a version is the same wherever it lies; it names nothing that
//! is newer than itself: no mark of a drive, no line of the history but its own Gen's, no checkpoint above D.
use super::{Slot, SlotState};
use crate::group::GroupView;
use crate::report::{Object, Report, Severity, Where};
use volume::Superblock;

/// Checks the versions that are at hand.
pub(super) fn check(view: &GroupView<'_>, report: &mut Report) {
    check_numbers(view, report);
    check_line(view, report);
    check_same(view, report);
    check_order(view, report);
    check_kinds(view, report);
    for slot in &view.slots {
        check_marks(view, slot, report);
        if let SlotState::More(..) = slot.state {
            let what = "has bytes set that this program does not know: use a newer one";
            report.add(Severity::Damage, object(slot), what, at(view, slot));
        }
    }
}

fn object(slot: &Slot) -> Object {
    let home = match &slot.state {
        SlotState::Valid(_, home) | SlotState::More(_, home) => *home,
        _ => return Object::Group,
    };
    Object::Superblock { leg: home.leg.get(), column: home.column.get(), slot: slot.slot }
}

fn at(view: &GroupView<'_>, slot: &Slot) -> Vec<Where> {
    vec![view.drives[slot.drive].at(slot.at)]
}

fn check_numbers(view: &GroupView<'_>, report: &mut Report) {
    let superblock = &view.superblock;
    let mut wrong = |what: String| report.add(Severity::Damage, Object::Group, what, Vec::new());
    if superblock.ckpt_seq > superblock.durable {
        wrong(format!(
            "the checkpoint covers Seq {}, and only {} is durable",
            superblock.ckpt_seq, superblock.durable
        ));
    }
    if superblock.directory.is_absent() != (superblock.ckpt.get() == 0) {
        let has = if superblock.directory.is_absent() { "no directory" } else { "a directory" };
        wrong(format!("checkpoint {} has {has}", superblock.ckpt));
    }
    if superblock.row_pages.is_absent() && superblock.row_height != 0 {
        wrong(format!("there are no row pages, and {} levels of them", superblock.row_height));
    }
    if superblock.line.is_none() && !superblock.history.is_absent() {
        wrong("there are history pages and no newest line".into());
    }
    let columns = usize::from(superblock.geometry.columns);
    if superblock.ring_start.0[columns..].iter().any(|start| *start != 0) {
        wrong(format!("the superblock says where the ring of a column beyond its {columns} columns starts"));
    }
}

/// The newest line is of the activation that wrote the superblock, and begins where everything before was durable.
fn check_line(view: &GroupView<'_>, report: &mut Report) {
    let superblock = &view.superblock;
    let mut wrong = |what: String| report.add(Severity::Damage, Object::Group, what, Vec::new());
    let Some(line) = superblock.line else {
        if superblock.generation.get() != 0 {
            wrong(format!("the superblock is of Gen {} and has no history line", superblock.generation));
        }
        return;
    };
    if line.generation != superblock.generation {
        wrong(format!(
            "the superblock is of Gen {}, its newest history line of Gen {}",
            superblock.generation, line.generation
        ));
    }
    if line.first_seq > superblock.durable.next() {
        wrong(format!(
            "the newest history line begins with Seq {}, and only {} is durable",
            line.first_seq, superblock.durable
        ));
    }
    if superblock.clean && line.first_commit > superblock.next_commit {
        wrong(format!(
            "was closed before commit {}, and the newest history line begins with commit {}",
            superblock.next_commit, line.first_commit
        ));
    }
}

/// The very same version with other content would be two histories under one name.
fn check_same(view: &GroupView<'_>, report: &mut Report) {
    let newest = &view.superblock;
    let mut differing: Vec<(&Slot, &Superblock)> = Vec::new();
    for slot in &view.slots {
        let same = slot.superblock().filter(|other| other.newness() == newest.newness());
        differing.extend(same.filter(|other| *other != newest).map(|other| (slot, other)));
    }
    for (slot, other) in differing {
        let what = format!(
            "there are two different superblocks of Gen {} version {}: {} has another {}",
            newest.generation,
            newest.version,
            object(slot),
            differences(newest, other).join(" and ")
        );
        report.add(Severity::Damage, Object::Group, what, at(view, slot));
    }
}

/// What differs between two superblocks, in words.
fn differences(a: &Superblock, b: &Superblock) -> Vec<&'static str> {
    let fields = [
        ("pool", a.pool != b.pool),
        ("kind of check", a.checks != b.checks),
        ("geometry", a.geometry != b.geometry),
        ("mark of a clean close", a.clean != b.clean),
        ("checkpoint", (a.ckpt, a.ckpt_seq) != (b.ckpt, b.ckpt_seq)),
        ("D", a.durable != b.durable),
        ("start of the log", (a.next_commit, a.previous) != (b.next_commit, b.previous)),
        ("start of the ring", a.ring_start != b.ring_start),
        ("table of rows", (a.rows, a.row_height, a.row_pages) != (b.rows, b.row_height, b.row_pages)),
        ("history", (a.history, a.line) != (b.history, b.line)),
        ("directory", a.directory != b.directory),
        ("home row", a.home != b.home),
        ("table of drives", a.drives != b.drives),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// A group is encrypted, or not, in every version of its superblock.
fn check_kinds(view: &GroupView<'_>, report: &mut Report) {
    for slot in &view.slots {
        let Some(superblock) = slot.superblock().filter(|one| one.checks != view.superblock.checks) else {
            continue;
        };
        let (is, newest) =
            if view.is_encrypted() { ("not encrypted", "is") } else { ("encrypted", "is not") };
        let what =
            format!("is version {} of a group that is {is}, and the newest {newest}", superblock.version);
        report.add(Severity::Damage, object(slot), what, at(view, slot));
    }
}

/// Versions grow with Gens. Told once: the newest beside the one with the highest number.
fn check_order(view: &GroupView<'_>, report: &mut Report) {
    let numbers = view.slots.iter().filter_map(|slot| Some((slot.superblock()?.version, slot)));
    let Some((highest, slot)) = numbers.max_by_key(|(version, _)| *version) else { return };
    if highest > view.superblock.version {
        let what = format!(
            "is version {highest} of an older Gen, and the newest superblock is version {}",
            view.superblock.version
        );
        report.add(Severity::Damage, object(slot), what, at(view, slot));
    }
}

/// A version marks no drive with a higher one.
fn check_marks(view: &GroupView<'_>, slot: &Slot, report: &mut Report) {
    let Some(superblock) = slot.superblock() else { return };
    for entry in superblock.drives.iter().filter(|entry| entry.version > superblock.version) {
        let what = format!(
            "is version {} and has a state of drive {} from version {}",
            superblock.version, entry.drive, entry.version
        );
        report.add(Severity::Damage, object(slot), what, at(view, slot));
    }
}
