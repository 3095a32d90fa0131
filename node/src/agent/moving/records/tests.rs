//! Groups that have been on many drives.
use super::*;
use crate::agent::testing;
use crate::catalogue::{Attachment, FrontendKind};
use crate::target::marks::Mark;
use crate::target_spec::TargetSpec;

/// A volume of one leg in a pool of so many drives, which are returned.
fn alone(agent: &Agent, folder: &std::path::Path, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("d{n}")).collect();
    testing::pool(agent, folder, &names.iter().map(String::as_str).collect::<Vec<_>>());
    agent.create_volume(&testing::volume("v", 1), false).expect("creates");
    agent.pool("p").expect("there").record.drives
}

/// Begins to move the home row of `v` to a drive; the one that it leaves.
fn begin(agent: &Agent, to: &str) -> Result<String> {
    let group = agent.group("v").expect("there");
    let row = agent.rows_of(&group.id).expect("reads")[0].record.clone();
    let from = row.extents[0].0.clone();
    let change = MoveChange::Leave { drive: from.clone() };
    agent.begin_move(&mut agent.lock(), group, change, &[((row, 0), to.to_owned())])?;
    Ok(from)
}

/// A drive that no copy of `v` was on.
fn another(agent: &Agent, drives: &[String]) -> String {
    let had = agent.group("v").expect("there").record.copies;
    drives.iter().find(|id| had.iter().all(|copy| copy.drive != **id)).expect("one").clone()
}

/// A volume moved from drive to drive. Its 33rd was one more than a target has places for, and it opened all that the volume
/// ever was on: none served any more.
#[test]
fn a_target_opens_the_drives_that_have_something_of_its_group_and_is_told_the_marks_of_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("targets")).expect("makes");
    std::fs::create_dir(folder.path().join("groups")).expect("makes");
    let agent = testing::agent(folder.path());
    let drives = alone(&agent, folder.path(), MAX_DRIVES + 2);
    for n in 1..drives.len() as u64 {
        let to = another(&agent, &drives);
        let from = begin(&agent, &to).expect("begins");
        // What its target says: the one that takes over is current, and the one that is left is stale, durably.
        agent.note_mark("v", &Mark::current(to, 10 * n), None).expect("notes");
        let left = Mark {
            drives: vec![from],
            version: 10 * n + 1,
            since: vec![(n, 1)],
            failed: Vec::new(),
            current: false,
        };
        agent.note_mark("v", &left, None).expect("notes");
        agent.switch_rows(&agent.volume("v").expect("there").record, 1).expect("switches");
        agent.tidy_move("v").expect("tidies up");
    }
    let attachment = Attachment {
        frontend: FrontendKind::Nbd,
        nbd_socket: Some(folder.path().join("nbd")),
        ..testing::ublk_attachment()
    };
    testing::attach(&agent, "v", attachment);
    agent.prepare_activation("v").expect("prepares");
    let path = agent.options.target_spec(&agent.group_of("v").expect("has one"));
    let spec = TargetSpec::read(&path).expect("reads");
    let (opened, told): (Vec<_>, Vec<_>) = spec.drives.iter().partition(|drive| drive.path.is_some());
    let home = opened.iter().filter(|drive| drive.homes.len() == 1 && drive.stale_version.is_none());
    assert_eq!((opened.len(), home.count()), (1, 1), "{opened:?}");
    let marked = told.iter().filter(|drive| drive.left && drive.stale_version.is_some());
    assert_eq!((told.len(), marked.count()), (drives.len() - 1, drives.len() - 1));
}

/// The engine has no place for a 33rd drive, and of 33 nobody could tell the next target which to open.
#[test]
fn a_move_to_more_drives_than_a_group_has_does_not_begin() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = testing::agent(folder.path());
    let drives = alone(&agent, folder.path(), MAX_DRIVES + 1);
    let mut group = agent.group("v").expect("there");
    while group.copies.len() < MAX_DRIVES {
        let one = drives.iter().find(|id| group.copies.iter().all(|copy| copy.drive != **id));
        let copy = volumes::current_copy(one.expect("one"));
        group.copies.push(copy);
    }
    agent.store.txn().update(records::group_key("v"), &group).commit().expect("commits");
    let refused = begin(&agent, &another(&agent, &drives)).expect_err("is one too many");
    assert_eq!(refused.kind, Kind::NoSpace, "{refused}");
    // One that it has already may take over.
    begin(&agent, &group.copies[1].drive).expect("begins");
}
