//! Looks at what is changed at the same time.
use crate::agent::Agent;
use crate::agent::testing::{agent, pool, volume};
use crate::catalogue::records;
use crate::error::Kind;
use std::sync::Arc;

/// A verb that looked at its pool before a drive left it was told that the catalogue is damaged.
#[test]
fn a_drive_that_left_meanwhile_is_no_damage() {
    let folder = tempfile::tempdir().expect("folder");
    let agent = agent(folder.path());
    pool(&agent, folder.path(), &["a", "b", "c"]);
    let before = agent.pool("p").expect("is there");
    let gone = agent.pool_drives(&before).expect("lists").remove(1);
    let mut now = before.clone();
    now.drives.retain(|id| *id != gone.id);
    let txn = agent.store.txn().update(records::pool_key("p"), &now);
    txn.remove(records::drive_key(&gone.id), &gone).commit().expect("commits");
    let left: Vec<String> =
        agent.pool_drives(&before).expect("lists").into_iter().map(|drive| drive.record.id).collect();
    assert_eq!(left, now.drives);
    // A list that names it still is damaged.
    let mut damaged = agent.pool("p").expect("is there");
    damaged.drives.push(gone.id.clone());
    agent.store.txn().update(records::pool_key("p"), &damaged).commit().expect("commits");
    let error = agent.pool_drives(&before).expect_err("refused");
    assert!(error.kind == Kind::Damage && error.message.contains(&gone.id), "{error}");
}

fn come_and_go(agent: &Agent) {
    for turn in 0..20 {
        agent.create_volume(&volume("a", 1), false).expect("creates");
        let new = format!("b{turn}");
        agent.rename_volume("a", &new, false).expect("renames");
        agent.delete_volume(&new, false).expect("deletes");
    }
}

/// A list, and the state of everything, failed because one of its volumes was gone when it came to it.
#[test]
fn volumes_come_and_go_while_somebody_looks() {
    let folder = tempfile::tempdir().expect("folder");
    let agent = agent(folder.path());
    pool(&agent, folder.path(), &["d"]);
    agent.create_volume(&volume("v", 1), false).expect("creates");
    let verbs = Arc::clone(&agent);
    let verbs = std::thread::spawn(move || come_and_go(&verbs));
    while !verbs.is_finished() {
        let volumes = agent.list_volumes().expect("lists");
        assert!(volumes.iter().any(|volume| volume.name == "v"));
        let status = agent.view_status().expect("looks");
        let names: Vec<&String> = status.volumes.iter().map(|volume| &volume.name).collect();
        assert!(names.iter().any(|name| *name == "v"), "{names:?}");
        let of_pool: Vec<&String> = status.pools.iter().flat_map(|pool| &pool.volumes).collect();
        assert_eq!(of_pool, names, "pools and volumes are of one moment");
        for name in volumes.iter().map(|volume| &volume.name) {
            match agent.show_volume(name) {
                Ok(shown) => assert_eq!(shown.name, *name),
                Err(error) => assert!(error.kind == Kind::NotFound && error.object.as_ref() == Some(name)),
            }
        }
    }
    verbs.join().expect("no panic");
}
