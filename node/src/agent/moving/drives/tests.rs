//! Who may wipe and free what, over a catalogue and drives in files.
use super::*;
use crate::agent::rows::tests::{fill, is_filled};
use crate::agent::testing::{agent, pool, volume};
use crate::catalogue::ExtentRecord;
use crate::target_spec::RowExtent;
use std::sync::Arc;

/// An agent with volumes `v` and `w` on one drive, and the extent that `v` has still to wipe.
fn with_unwiped(folder: &std::path::Path) -> (Arc<Agent>, (String, u32)) {
    let agent = agent(folder);
    pool(&agent, folder, &["d1"]);
    agent.create_volume(&volume("v", 1), false).expect("creates");
    agent.create_volume(&volume("w", 1), false).expect("creates");
    let refused = agent.grant_row("v", 1, None).expect("a row");
    agent.grant_row("v", 1, Some(refused.grant)).expect("another one");
    let unwiped = agent.group("v").expect("there").unwiped.clone();
    assert_eq!(unwiped.len(), 1);
    (agent, unwiped[0].clone())
}

/// Lists it as left by a deleted group with the identity of `v`, as a deletion did that was cut short.
fn list_as_deleted(agent: &Agent, left: &(String, u32)) {
    let group = agent.group("v").expect("there").id.clone();
    let record = DeletedRecord { group: group.clone(), pool: "p".into(), extents: vec![left.clone()] };
    agent.store.txn().put(deleted::key(&group), &record).commit().expect("stores");
}

/// Asserts that an extent is still what `w` has, with all its content.
fn assert_is_of_w(agent: &Agent, extent: &RowExtent) {
    assert!(is_filled(agent, extent), "{extent:?} was wiped");
    let key = records::extent_key(&extent.drive, extent.extent);
    let taken = agent.store.get::<ExtentRecord>(&key).expect("reads").expect("was freed").record;
    assert_eq!(taken.group, agent.group("w").expect("there").id);
    let before = agent.records().taken(&extent.drive);
    agent.records().give_back(&extent.drive, extent.extent);
    assert_eq!(agent.records().taken(&extent.drive), before - 1, "the index has it free");
    agent.records().take(&extent.drive, extent.extent);
}

/// The story: two lists named one extent. One look at all of them wiped and freed it for the first, it was handed out while
/// the next drive was waited for, and then it was wiped and freed for the second.
#[test]
fn what_was_wiped_and_handed_out_within_a_look_is_not_wiped_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agent, left) = with_unwiped(folder.path());
    list_as_deleted(&agent, &left);
    let mut verb = agent.lock();
    let group = agent.group("v").expect("there");
    let deleted = agent.store.list::<DeletedRecord>(deleted::PREFIX).expect("reads");
    agent.wipe_left(&mut verb, group.clone()).expect("wipes");
    let extent = verb.aside(|| {
        let row = agent.grant_row("w", 1, None).expect("a row");
        fill(&agent, &row.extents[0]);
        row.extents[0].clone()
    });
    assert_eq!((&extent.drive, extent.extent), (&left.0, left.1), "it was free");
    agent.wipe_deleted(&mut verb, deleted[0].clone()).expect("has nothing to do");
    agent.wipe_left(&mut verb, group).expect("has nothing to do");
    drop(verb);
    assert_is_of_w(&agent, &extent);
    assert_eq!(agent.store.keys(deleted::PREFIX).expect("reads"), Vec::<String>::new());
}

/// A catalogue whose lists name what somebody else has, as an agent left them that freed first and forgot later: they
/// are forgotten, and nothing else comes of them.
#[test]
fn a_list_that_is_wrong_about_whose_an_extent_is_takes_it_from_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agent, left) = with_unwiped(folder.path());
    agent.settle_drives().expect("wipes");
    let extent = agent.grant_row("w", 1, None).expect("a row").extents[0].clone();
    assert_eq!((&extent.drive, extent.extent), (&left.0, left.1), "it was free");
    fill(&agent, &extent);
    let list_as_unwiped = || {
        let mut group = agent.group("v").expect("there");
        group.unwiped.push(left.clone());
        agent.store.txn().update(records::group_key("v"), &group).commit().expect("stores");
    };
    list_as_unwiped();
    list_as_deleted(&agent, &left);
    agent.settle_drives().expect("settles");
    assert_is_of_w(&agent, &extent);
    assert_eq!(agent.group("v").expect("there").unwiped, []);
    assert_eq!(agent.store.keys(deleted::PREFIX).expect("reads"), Vec::<String>::new());
    list_as_unwiped();
    agent.delete_volume("v", false).expect("deletes");
    assert_is_of_w(&agent, &extent);
}
