//! What the commits on the ring say of each other, of the history and of the superblock, beyond the chain.
//!
//! The chain asks only what it needs to go on. But a commit is sealed once, is made by an activation that has a line
//! for its numbers, says D from before itself, follows its predecessor without a gap in the Seqs, and lies where
//! the writer's rule puts it; and the superblock's start of the log is the end of what its checkpoint covers. A
//! commit that was voided breaks the line of Seqs and places, so nothing is asked right behind one. Of older
//! activations' tails, whose numbers were taken again, nothing is asked at all. Without the keys of an encrypted group it is
//! not seen which commits are voided: if any is, nothing is asked that one would break.
use crate::group::GroupView;
use crate::log::{ring_place, shape};
use crate::report::{Object, Report, Severity, Where};
use base::{Column, CommitNo};
use rlog::{Candidate, Chain, History, RingShape, Scan};
use std::collections::{BTreeMap, BTreeSet};

/// Compares what was found on the ring; `whole` is what anybody takes for a commit.
pub(crate) fn check(
    view: &GroupView<'_>,
    history: &History,
    (scan, whole): (&Scan, &Scan),
    chain: &Chain,
    report: &mut Report,
) {
    let owned = owned(history, scan);
    for candidate in whole.candidates() {
        check_owner(view, history, candidate, report);
    }
    for same in owned.values() {
        check_one(view, same, report);
    }
    let accepted: Vec<&Candidate> = chain.accepted.iter().map(|index| &scan.candidates()[*index]).collect();
    let unseen = has_unseen_voids(scan);
    check_seqs(view, &accepted, unseen, report);
    if !unseen {
        check_places(view, chain, &accepted, report);
    }
    check_start(view, scan, &owned, report);
}

/// Whether commits are voided of which it is not seen which they are.
fn has_unseen_voids(scan: &Scan) -> bool {
    scan.candidates().iter().any(|commit| usize::from(commit.void_count) > commit.voids.len())
}

/// The commits of the group's history, by number.
fn owned<'s>(history: &History, scan: &'s Scan) -> BTreeMap<CommitNo, Vec<&'s Candidate>> {
    let mut owned: BTreeMap<CommitNo, Vec<&Candidate>> = BTreeMap::new();
    for candidate in scan.candidates() {
        let fields = &candidate.fields;
        if history.owns(fields.generation, fields.history, fields.no) {
            owned.entry(fields.no).or_default().push(candidate);
        }
    }
    owned
}

fn wrong(view: &GroupView<'_>, commit: &Candidate, what: String, report: &mut Report) {
    report.add(Severity::Damage, Object::Commit(commit.fields.no.get()), what, places(view, commit));
}

/// Where a commit lies, on the legs that have it.
fn places(view: &GroupView<'_>, commit: &Candidate) -> Vec<Where> {
    ring_place(view, commit.column, commit.fields.offset)
        .into_iter()
        .filter(|(copy, _)| commit.legs.contains(copy.leg))
        .map(|(_, at)| at)
        .collect()
}

/// An activation has one id, and makes no commit and no Seq from before its line.
fn check_owner(view: &GroupView<'_>, history: &History, commit: &Candidate, report: &mut Report) {
    let fields = &commit.fields;
    let Some(line) = history.lines().iter().find(|line| line.generation == fields.generation) else { return };
    if line.id != fields.history {
        let what = format!(
            "is of the activation {} under Gen {}, which the history gives to {}: two served at once",
            fields.history, fields.generation, line.id
        );
        return wrong(view, commit, what, report);
    }
    if fields.no < line.first_commit || fields.first_seq < line.first_seq {
        let what = format!(
            "with Seq {} is from before its activation, Gen {}, which began with commit {} and Seq {}",
            fields.first_seq, fields.generation, line.first_commit, line.first_seq
        );
        wrong(view, commit, what, report);
    }
}

/// What commits of one number say by themselves: there is one of them, and what it names is older than it.
fn check_one(view: &GroupView<'_>, same: &[&Candidate], report: &mut Report) {
    if let [first, second, ..] = same {
        let what = "is there twice with different contents: a commit is sealed once".to_owned();
        let mut at = places(view, first);
        at.extend(places(view, second));
        report.add(Severity::Damage, Object::Commit(first.fields.no.get()), what, at);
    }
    for commit in same {
        let fields = &commit.fields;
        if fields.durable >= fields.first_seq {
            let what =
                format!("begins with Seq {} and says that {} is durable", fields.first_seq, fields.durable);
            wrong(view, commit, what, report);
        }
        if fields.superblock.generation != fields.generation {
            let what = format!(
                "is of Gen {} and names a superblock of Gen {}",
                fields.generation, fields.superblock.generation
            );
            wrong(view, commit, what, report);
        }
    }
}

/// Seqs of an activation have no gap but where a commit was voided; what a commit knows to be durable never
/// becomes less, nor the superblock that it knows.
fn check_seqs(view: &GroupView<'_>, accepted: &[&Candidate], unseen_voids: bool, report: &mut Report) {
    for pair in accepted.windows(2) {
        let (before, after) = (&pair[0].fields, &pair[1].fields);
        if !unseen_voids
            && before.no.next() == after.no
            && before.generation == after.generation
            && pair[0].next_seq() != after.first_seq
        {
            let what = format!(
                "begins with Seq {}, commit {} ends before {}",
                after.first_seq,
                before.no,
                pair[0].next_seq()
            );
            wrong(view, pair[1], what, report);
        }
        if after.durable < before.durable {
            let what = format!(
                "says that Seq {} is durable, commit {} before it says {}",
                after.durable, before.no, before.durable
            );
            wrong(view, pair[1], what, report);
        }
        if after.superblock < before.superblock {
            let what = format!(
                "names superblock version {}, commit {} before it names {}",
                after.superblock.version, before.no, before.superblock.version
            );
            wrong(view, pair[1], what, report);
        }
    }
}

/// Each commit lies right behind the one before in its column, or at the start of the next piece if it would not
/// have fitted.
fn check_places(view: &GroupView<'_>, chain: &Chain, accepted: &[&Candidate], report: &mut Report) {
    let (shape, start) = (shape(view), view.superblock.ring_start);
    let mut heads: BTreeMap<Column, u32> =
        shape.each_column().map(|column| (column, start.of(column))).collect();
    let mut voided = chain.voided.iter().map(|void| void.commit).peekable();
    for commit in accepted {
        while let Some(no) = voided.next_if(|no| *no < commit.fields.no) {
            heads.remove(&shape.column_of(no));
        }
        let (offset, end) = (commit.fields.offset, shape.advance(commit.fields.offset, commit.blocks));
        if let Some(head) = heads.insert(commit.column, end)
            && follows(&shape, head, commit.blocks) != offset
        {
            let what = format!(
                "lies at block {offset} of its column's ring, the commit before it ends at {head}: \
                 the log's places contradict each other"
            );
            wrong(view, commit, what, report);
        }
    }
}

/// Where a commit goes in a column whose next free block is `head`.
fn follows(shape: &RingShape, head: u32, blocks: u32) -> u32 {
    let left = shape.left_in_piece(head);
    shape.advance(head, if left < blocks { left } else { 0 })
}

/// The superblock's start of the log is the end of what lies before it, as far as that is still on the ring.
fn check_start(
    view: &GroupView<'_>,
    scan: &Scan,
    owned: &BTreeMap<CommitNo, Vec<&Candidate>>,
    report: &mut Report,
) {
    let (superblock, shape) = (&view.superblock, shape(view));
    let voided: BTreeSet<CommitNo> =
        scan.candidates().iter().flat_map(|commit| commit.voids.iter().map(|void| void.commit)).collect();
    let next = superblock.next_commit.get();
    for no in (next.saturating_sub(shape.columns() as u64)..next).map(CommitNo::new) {
        let Some(commit) = owned.get(&no).and_then(|same| same.first()) else { continue };
        let last = no.next() == superblock.next_commit;
        if last && commit.check != superblock.previous {
            let what = format!(
                "the checkpoint covers the log up to commit {no}, whose check is another than the superblock says"
            );
            report.add(Severity::Damage, Object::Group, what, places(view, commit));
        }
        let end = shape.advance(commit.fields.offset, commit.blocks);
        let start = superblock.ring_start.of(commit.column);
        // A block that would not take the next commit whole is skipped by it, not by the start.
        if !voided.contains(&no) && !has_unseen_voids(scan) && end != start {
            let what = format!(
                "the superblock keeps the ring of column {} from block {start} on, the last commit that its \
                 checkpoint covers ({no}) ends at {end}",
                commit.column
            );
            report.add(Severity::Damage, Object::Group, what, places(view, commit));
        }
    }
    let previous = owned.values().flatten().find(|commit| commit.check == superblock.previous);
    if let Some(commit) = previous.filter(|commit| commit.fields.no.next() != superblock.next_commit) {
        let what = format!(
            "the superblock's next commit is {next}, and its check of the commit before is that of commit {}",
            commit.fields.no
        );
        report.add(Severity::Damage, Object::Group, what, places(view, commit));
    }
}
