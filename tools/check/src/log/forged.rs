//! Commits of an encrypted group that are whole and that its keys do not open: changed, or made by somebody without them.
//!
//! Only the owner's of a number are asked about: the tail of an older activation, whose numbers were taken again, is opened
//! by nobody any more.
use crate::group::GroupView;
use crate::log::ring_place;
use crate::report::{Object, Report, Severity};
use rlog::{History, Scan};

/// Tells of the commits that are `whole` and not among those that open.
pub(super) fn report(
    view: &GroupView<'_>,
    history: &History,
    opened: &Scan,
    whole: &Scan,
    report: &mut Report,
) {
    for commit in whole.candidates() {
        let fields = &commit.fields;
        let same = |other: &&rlog::Candidate| {
            (other.column, other.fields.offset, other.check) == (commit.column, fields.offset, commit.check)
        };
        let owned = history.owns(fields.generation, fields.history, fields.no);
        if !owned || opened.candidates().iter().any(|other| same(&other)) {
            continue;
        }
        let right = opened
            .candidates()
            .iter()
            .any(|other| other.fields.no == fields.no && other.fields.generation == fields.generation);
        let severity = if right { Severity::Repairable } else { Severity::Damage };
        let at = ring_place(view, commit.column, fields.offset);
        let at = at.into_iter().filter(|(copy, _)| commit.legs.contains(copy.leg)).map(|(_, at)| at);
        let what =
            "is whole and not what was sealed here (changed, or made by somebody without the group's keys)";
        report.add(severity, Object::Commit(fields.no.get()), what, at.collect());
    }
}
