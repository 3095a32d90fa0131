//! Verbs of groups over a catalogue and a drive in a file: what each changes, and in how many transactions.
use super::*;
use crate::agent::DEFAULT_KEY;
use crate::agent::testing::agent;
use crate::catalogue::Watch;
use crate::params::{CreateKey, CreatePool, CreateVolume, DestroyKey, Labels};
use std::collections::BTreeMap;
use std::path::Path;

/// A pool of one drive.
fn pool(agent: &Agent, folder: &Path, name: &str) {
    let drive = folder.join(name);
    std::fs::File::create(&drive).expect("creates").set_len(256 << 20).expect("sizes");
    let params = CreatePool {
        name: name.into(),
        drives: vec![drive],
        labels: Labels::default(),
        force: false,
        extent_bytes: None,
    };
    agent.create_pool(&params, false).expect("creates");
}

fn group(name: &str, pool: &str, kek: Option<&str>) -> CreateGroup {
    CreateGroup { name: name.into(), pool: pool.into(), encrypt: kek.is_some(), kek: kek.map(str::to_owned) }
}

fn volume(name: &str, pool: &str, group: Option<&str>) -> CreateVolume {
    CreateVolume {
        name: name.into(),
        pool: pool.into(),
        size_bytes: 1 << 20,
        legs: Some(1),
        columns: None,
        stripe_unit_bytes: None,
        group: group.map(str::to_owned),
        encrypt: false,
        kek: None,
    }
}

fn empty(name: &str, key: Option<&str>) -> EmptyGroupRecord {
    let key = key.map(str::to_owned);
    EmptyGroupRecord { name: name.into(), pool: "p".into(), created_at: "t".into(), key }
}

fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> Kind {
    outcome.expect_err("refused").kind
}

/// The first versions under which keys changed, until `last` did.
async fn changes(watch: &mut Watch, last: &str) -> BTreeMap<String, u64> {
    let mut first = BTreeMap::new();
    while !first.contains_key(last) {
        let changed = watch.next().await.expect("nothing was missed");
        first.entry(changed.key).or_insert(changed.version);
    }
    first
}

#[test]
fn a_volume_gets_what_its_group_has_and_may_ask_for_nothing_else() {
    let ask = |encrypt: bool, kek: Option<&str>| CreateVolume {
        encrypt,
        kek: kek.map(str::to_owned),
        ..volume("v", "p", Some("g"))
    };
    let (plain, sealed) = (empty("g", None), empty("g", Some("k")));
    for (group, encrypt, kek, key) in [
        (None, false, None, Some(None)),
        (None, false, Some("k"), None),
        (None, true, None, Some(Some(DEFAULT_KEY))),
        (None, true, Some("l"), Some(Some("l"))),
        (Some(&plain), false, None, Some(None)),
        (Some(&plain), false, Some("k"), None),
        (Some(&plain), true, None, None),
        (Some(&plain), true, Some("k"), None),
        (Some(&sealed), false, None, Some(Some("k"))),
        (Some(&sealed), false, Some("k"), Some(Some("k"))),
        (Some(&sealed), false, Some("l"), None),
        (Some(&sealed), true, None, Some(Some("k"))),
        (Some(&sealed), true, Some("k"), Some(Some("k"))),
        (Some(&sealed), true, Some("l"), None),
    ] {
        let got = volume_key(&ask(encrypt, kek), group);
        match key {
            Some(key) => assert_eq!(got.expect("allowed").as_deref(), key),
            None => assert_eq!(kind(got), Kind::Invalid, "{group:?} {encrypt} {kek:?}"),
        }
    }
}

#[test]
fn a_volume_joins_only_the_group_that_it_names() {
    let here = empty("g", None);
    check_joins(&volume("v", "p", Some("g")), &here).expect("joins");
    assert_eq!(kind(check_joins(&volume("g", "p", None), &here)), Kind::Exists);
    assert_eq!(kind(check_joins(&volume("v", "q", Some("g")), &here)), Kind::Invalid);
}

/// What an agent without groups of this sort wrote.
#[test]
fn an_older_record_is_a_group_that_goes_with_its_volume() {
    let older = r#"{"id":"i","name":"g","pool":"p","created_at":"t","life":"ready","legs":1,"columns":1,"stripe_blocks":16,
        "gen_number":0,"rows_used":1,"copies":[]}"#;
    let mut group: GroupRecord = serde_json::from_str(older).expect("reads");
    assert_eq!((group.stays, group.emptied()), (false, None));
    group.stays = true;
    assert_eq!(group.emptied(), Some(empty("g", None)));
    group.encryption = Some(planned_encryption("k"));
    assert_eq!(group.emptied(), Some(empty("g", Some("k"))));
}

#[test]
fn a_repetition_changes_nothing_and_something_else_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let agent = agent(folder.path());
    ["p", "q"].iter().for_each(|name| pool(&agent, folder.path(), name));
    agent.create_key(&CreateKey::file("k"), false).expect("creates");
    let planned = agent.create_group(&group("g", "p", Some("k")), true).expect("could");
    assert!(planned.id.is_none() && agent.list_groups().expect("lists").is_empty());
    let made = agent.create_group(&group("g", "p", Some("k")), false).expect("creates");
    assert_eq!(made.encryption.as_ref().map(|by| (by.kek.as_str(), by.key_version)), Some(("k", None)));
    let version = agent.empty_group("g").expect("reads").expect("is there").version;
    assert_eq!(agent.create_group(&group("g", "p", Some("k")), false), Ok(made.clone()));
    assert_eq!(agent.empty_group("g").expect("reads").expect("is there").version, version);
    assert_eq!(kind(agent.create_group(&group("g", "q", Some("k")), false)), Kind::Exists);
    assert_eq!(kind(agent.create_group(&group("g", "p", None), false)), Kind::Exists);
    assert_eq!(kind(agent.create_group(&group("h", "r", None), false)), Kind::NotFound);
    assert_eq!(kind(agent.create_group(&group("h", "p", Some("l")), false)), Kind::NotFound);
    assert_eq!(kind(agent.create_group(&group("a/b", "p", None), false)), Kind::Invalid);
    let by_default = CreateGroup { encrypt: true, ..group("h", "r", None) };
    assert_eq!(kind(agent.create_group(&by_default, false)), Kind::NotFound);
    let by_default = CreateGroup { encrypt: true, ..group("g", "p", None) };
    assert_eq!(kind(agent.create_group(&by_default, false)), Kind::Exists);
    agent.create_group(&CreateGroup { name: "h".into(), ..by_default }, true).expect("could");
    assert_eq!(agent.keys.key(DEFAULT_KEY).expect_err("not made for these").kind, Kind::NotFound);
    // The group that a volume has of its own, and goes with it.
    agent.create_volume(&volume("v", "p", None), false).expect("creates");
    assert_eq!(kind(agent.create_group(&group("v", "p", None), false)), Kind::Exists);
    assert_eq!(kind(agent.delete_group("v", false)), Kind::Refused);
    let names: Vec<String> =
        agent.list_groups().expect("lists").into_iter().map(|group| group.name).collect();
    assert_eq!(names, ["g", "v"]);
    agent.delete_volume("v", false).expect("deletes");
    assert_eq!(kind(agent.show_group("v")), Kind::NotFound);
    agent.delete_group("g", true).expect("could");
    assert_eq!(agent.show_group("g"), Ok(made));
    agent.delete_group("g", false).expect("deletes");
    assert_eq!(kind(agent.delete_group("g", false)), Kind::NotFound);
}

/// An agent that is killed anywhere leaves the group empty or with its volume, because there is no moment in between.
#[tokio::test]
async fn a_group_gets_and_loses_its_volume_in_one_transaction() {
    let folder = tempfile::tempdir().expect("folder");
    let agent = agent(folder.path());
    pool(&agent, folder.path(), "p");
    agent.create_key(&CreateKey::file("k"), false).expect("creates");
    let made = agent.create_group(&group("g", "p", Some("k")), false).expect("creates");
    let mut secrets = Vec::new();
    for _ in 0..2 {
        let mut watch = agent.store.watch("");
        let params = volume("v", "p", Some("g"));
        let created = agent.create_volume(&params, false).expect("creates");
        assert_eq!(agent.create_volume(&params, false), Ok(created));
        let full = agent.show_group("g").expect("is there");
        assert_eq!((&full.created_at, full.volumes.as_slice()), (&made.created_at, &["v".to_owned()][..]));
        let row = format!("rows/{}/00000000", full.id.expect("has an identity"));
        let first = changes(&mut watch, &row).await;
        for key in ["empty-groups/g", "groups/g", "volumes/v"] {
            assert_eq!(first.get(key), first.get(&row), "{key}: {first:?}");
        }
        assert_eq!(agent.create_group(&group("g", "p", Some("k")), false), agent.show_group("g"));
        assert_eq!(kind(agent.create_volume(&volume("w", "p", Some("g")), false)), Kind::NotSupported);
        let group = agent.group("g").expect("is there");
        secrets.push(agent.group_secret(&group).expect("opens").expect("is encrypted"));
        let mut watch = agent.store.watch("");
        agent.delete_volume("v", false).expect("deletes");
        let first = changes(&mut watch, "empty-groups/g").await;
        assert_eq!(first.get("empty-groups/g"), first.get("groups/g"), "{first:?}");
        assert!(agent.store.keys("volumes/").expect("lists").is_empty());
        assert_eq!(agent.show_group("g"), Ok(made.clone()));
    }
    assert!(!secrets[0].secret().same(secrets[1].secret().expose()), "each volume has a secret of its own");
}

#[test]
fn a_destroyed_key_makes_no_volume_and_can_be_made_anew() {
    let folder = tempfile::tempdir().expect("folder");
    let agent = agent(folder.path());
    pool(&agent, folder.path(), "p");
    agent.create_key(&CreateKey::file("k"), false).expect("creates");
    agent.create_group(&group("g", "p", Some("k")), false).expect("creates");
    let rotated = agent.rotate_key("k", &crate::params::RotateKey::default(), false).expect("rotates");
    assert_eq!((rotated.version, rotated.empty_groups), (Some(2), vec!["g".to_owned()]));
    let destroyed = agent.destroy_key("k", DestroyKey::default()).expect("destroys");
    assert_eq!((destroyed.groups, destroyed.empty_groups), (Vec::new(), vec!["g".to_owned()]));
    for dry in [true, false] {
        let refused = agent.create_volume(&volume("v", "p", Some("g")), dry).expect_err("refused");
        assert_eq!(refused.kind, Kind::Permission);
        assert_eq!(refused.message, "no volume can be made in group g: key k was destroyed");
    }
    assert!(agent.store.keys("volumes/").expect("lists").is_empty());
    assert!(agent.empty_group("g").expect("reads").is_some());
    agent.create_key(&CreateKey::file("k"), false).expect("nothing is left that it made unreadable");
    let made = agent.create_volume(&volume("v", "p", Some("g")), false).expect("creates");
    assert_eq!(made.encryption.and_then(|by| by.key_version), Some(3));
}
