//! One file as the catalogue, and what becomes of it when its file system fails.
use super::faulty::{Medium, on};
use super::*;

fn put(key: &str, value: &str) -> Change {
    Change::Put(key.into(), value.into())
}

fn at(key: &str, version: u64) -> Compare {
    Compare { key: key.into(), version }
}

#[test]
fn a_transaction_happens_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("folder");
    let catalogue = Embedded::open(&folder.path().join("c")).expect("opens");
    let first = catalogue.commit(&[at("a", ABSENT)], &[put("a", "1"), put("b", "1")]).expect("commits");
    assert_eq!(first, Outcome::Committed(1));
    let stale = catalogue.commit(&[at("a", 1), at("b", ABSENT)], &[put("a", "2")]).expect("answers");
    assert_eq!(stale, Outcome::Conflict);
    assert_eq!(catalogue.get("a").expect("reads"), Some(Entry { version: 1, value: b"1".to_vec() }));
    catalogue.commit(&[at("a", 1)], &[Change::Delete("a".into())]).expect("commits");
    assert_eq!(catalogue.get("a").expect("reads"), None);
    assert_eq!(
        catalogue.commit(&[at("a", ABSENT)], &[put("a", "3")]).expect("commits"),
        Outcome::Committed(3)
    );
}

#[test]
fn it_is_there_after_reopening_and_a_range_is_a_prefix() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("c");
    {
        let catalogue = Embedded::open(&path).expect("opens");
        catalogue.commit(&[], &[put("pools/a", "1"), put("pools/b", "2"), put("q", "3")]).expect("commits");
        assert!(Embedded::open(&path).is_err(), "a second process must not open it");
    }
    let catalogue = Embedded::open(&path).expect("opens again");
    let keys: Vec<_> = catalogue.range("pools/").expect("reads").into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["pools/a", "pools/b"]);
    let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// An entry of seven bytes was a panic of whoever needed it. Now it hears which one it is, and all others serve.
#[test]
fn an_entry_shorter_than_its_version_is_told_by_name() {
    let folder = tempfile::tempdir().expect("folder");
    let catalogue = Embedded::open(&folder.path().join("c")).expect("opens");
    catalogue.commit(&[], &[put("pools/a", "1"), put("pools/b", "2"), put("q", "3")]).expect("commits");
    for stored in [&[][..], &[1; 7]] {
        let cut = |open: &Open| -> Answer<()> {
            let write = open.database.begin_write()?;
            write.open_table(ENTRIES)?.insert("pools/b", stored)?;
            Ok(write.commit()?)
        };
        catalogue.with(cut).expect("writes");
        let refused = |error: Error| assert!(error.kind == Kind::Damage && error.message.contains("pools/b"));
        refused(catalogue.get("pools/b").expect_err("damaged"));
        refused(catalogue.range("pools/").expect_err("damaged"));
        refused(catalogue.commit(&[at("pools/b", 1)], &[put("q", "4")]).expect_err("damaged"));
        refused(catalogue.commit(&[at("pools/b", ABSENT)], &[put("q", "4")]).expect_err("damaged"));
        assert_eq!(catalogue.get("q").expect("reads"), Some(Entry { version: 1, value: b"3".to_vec() }));
        assert_eq!(catalogue.range("q").expect("reads").len(), 1);
        assert_eq!(catalogue.failures(), 0, "the file itself has not failed");
    }
    catalogue.commit(&[], &[Change::Delete("pools/b".into())]).expect("it can be taken out");
    assert_eq!(catalogue.range("pools/").expect("reads").len(), 1);
}

#[tokio::test]
async fn a_watcher_hears_its_prefix_only() {
    let folder = tempfile::tempdir().expect("folder");
    let catalogue = Embedded::open(&folder.path().join("c")).expect("opens");
    let mut watch = catalogue.watch("events/");
    catalogue.commit(&[], &[put("pools/a", "1"), put("events/1", "x")]).expect("commits");
    assert_eq!(watch.next().await, Some(Changed { key: "events/1".into(), version: 1 }));
}

/// /var was full for a minute, and the agent could not start a target, hand out a row or note a mark until it was
/// restarted. Each operation of a transaction fails once, done or not.
#[tokio::test]
async fn one_failure_is_over_when_its_cause_is() {
    let (mut there, mut not_there) = (0, 0);
    for done in [false, true] {
        for changes in 0.. {
            let medium = Medium::default();
            let catalogue = on(&medium);
            catalogue.commit(&[], &[put("a", "1")]).expect("commits");
            let mut watch = catalogue.watch("a");
            medium.fail_behind(changes, done);
            let failed = catalogue.commit(&[at("a", 1)], &[put("a", "2"), put("b", "2")]);
            if !medium.has_failed() {
                assert!(changes > 2, "a transaction has several operations");
                break;
            }
            let known = match failed {
                Ok(outcome) => Some(outcome),
                Err(_) => {
                    assert!(catalogue.check().is_err(), "change {changes}: it does not work, and says so");
                    None
                }
            };
            medium.heal();
            catalogue.check().unwrap_or_else(|error| panic!("change {changes}: healed, and {error}"));
            let now = catalogue.get("a").expect("reads").expect("is there");
            let other = catalogue.get("b").expect("reads");
            match &now.value[..] {
                b"1" => {
                    not_there += 1;
                    assert_eq!((now.version, other, known), (1, None, None), "whole or not at all");
                }
                b"2" => {
                    there += 1;
                    assert_eq!(other.as_ref(), Some(&now), "whole or not at all");
                    if known.is_none() {
                        assert_eq!(watch.next().await, None, "what was missed is not told as nothing");
                    }
                }
                other => panic!("change {changes}: {other:?}"),
            }
            assert_eq!(catalogue.failures() > 0, known.is_none(), "who keeps something is told");
            // Who decided on what was before finds out; who looks again goes on.
            let stale = catalogue.commit(&[at("a", 1)], &[put("a", "3")]).expect("answers");
            assert_eq!(stale == Outcome::Conflict, now.version != 1, "change {changes}");
            let now = catalogue.get("a").expect("reads").expect("is there");
            let goes_on = catalogue.commit(&[at("a", now.version)], &[put("a", "4")]).expect("answers");
            assert!(matches!(goes_on, Outcome::Committed(version) if version > now.version));
            drop(catalogue);
            let value = on(&medium).get("a").expect("reads").expect("is there").value;
            assert_eq!(value, b"4", "change {changes}: and it stays");
        }
    }
    assert!(there > 0 && not_there > 0, "both were met: {there} and {not_there}");
}
