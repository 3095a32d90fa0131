//! `plinth group`: what scripts see, what a volume gets from the group that it is made in, and that a group which was
//! made before its volume is there behind it too.
mod support;

use serde_json::{Value, json};
use std::io::Read;
use support::Agent;
use support::nbd::Nbd;

const BLOCK: usize = 4096;
/// What is written, and must be found on the drives of plain volumes only.
const TEXT: &[u8] = b"what-a-group-keeps-to-itself-9e02";
const CREATE: &str = "volume create v --pool p --size 64MiB --group g";

fn text() -> Vec<u8> {
    TEXT.iter().copied().cycle().take(BLOCK).collect()
}

fn group(agent: &Agent, name: &str) -> Value {
    agent.plinth(&format!("group show {name} -o json")).json()
}

/// Everything that verbs of groups, volumes and keys may change.
fn all(agent: &Agent) -> [Value; 3] {
    let list = |what: &str| agent.plinth(&format!("{what} list -o json")).json();
    [agent.state(), list("group"), list("key")]
}

/// Runs a command that must fail, and checks that nothing changed.
#[track_caller]
fn refused(agent: &Agent, line: &str, code: i32, words: &[&str]) {
    let before = all(agent);
    agent.plinth(line).fails(code, words);
    assert_eq!(all(agent), before, "{line} changed something");
}

/// The events of a kind: how severe, and what they say.
fn events(agent: &Agent, kind: &str) -> Vec<(String, String)> {
    let events = agent.plinth("events -o json").json();
    let of_kind = events.as_array().expect("a list").iter().filter(|event| event["kind"] == kind);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    of_kind.map(|event| (text(&event["severity"]), text(&event["message"]))).collect()
}

/// Writes the text to volume `v` and reads it back. Over NBD, and detached behind it.
fn write_text(agent: &Agent) {
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    assert_eq!(nbd.read(0, BLOCK), [0; BLOCK], "a new volume is empty");
    for block in 0..20 {
        nbd.write(block * BLOCK as u64, &text());
    }
    nbd.flush();
    assert_eq!(nbd.read(0, BLOCK), text());
    drop(nbd);
    agent.plinth("volume detach v").ok();
}

/// Whether a drive shows the text.
fn shows(agent: &Agent, drive: &str) -> bool {
    let mut file = std::fs::File::open(agent.path(drive)).expect("opens");
    let mut block = [0; BLOCK];
    let mut found = false;
    while file.read_exact(&mut block).is_ok() {
        found |= block != [0; BLOCK] && block.windows(TEXT.len()).any(|window| window == TEXT);
    }
    found
}

#[test]
fn groups_as_scripts_see_them() {
    let mut agent = Agent::start();
    agent.pool();
    assert_eq!(agent.plinth("group list -o json").json(), json!([]));
    agent.plinth("group create g --pool p --dry-run").ok();
    agent.plinth("group show g").fails(5, &["no group g", "plinth group list"]);
    for _ in 0..2 {
        assert_eq!(agent.plinth("group create g --pool p").ok(), "g\n");
    }
    let empty = group(&agent, "g");
    let created_at = empty["created_at"].as_str().expect("a time").to_owned();
    let wanted = json!({"name": "g", "id": null, "pool": "p", "created_at": created_at, "leg_count": null,
        "column_count": null, "stripe_unit_bytes": null, "volumes": [], "encryption": null});
    assert_eq!(empty, wanted);
    assert_eq!(agent.plinth("group create g --pool p -o json").json(), empty);
    agent.kill();
    agent.run();
    assert_eq!(agent.plinth("group list -o json").json(), json!([empty]));
    agent.plinth(&format!("{CREATE} --legs 1 --columns 2 --stripe-unit 128KiB --dry-run")).ok();
    assert_eq!(group(&agent, "g"), empty);
    for _ in 0..2 {
        let line = format!("{CREATE} --legs 1 --columns 2 --stripe-unit 128KiB");
        assert_eq!(agent.plinth(&line).ok(), "v\n");
    }
    agent.plinth("volume create own --pool p --size 64MiB").ok();
    let full = group(&agent, "g");
    let volume = agent.plinth("volume show v -o json").json();
    assert_eq!((&volume["group"], &volume["encryption"]), (&"g".into(), &Value::Null));
    assert!(full["id"].is_string() && full["created_at"] == created_at.as_str(), "{full}");
    for field in ["leg_count", "column_count", "stripe_unit_bytes"] {
        assert_eq!(full[field], volume[field], "{field}");
    }
    assert_eq!((&full["volumes"], &full["column_count"]), (&json!(["v"]), &2.into()));
    assert_eq!(agent.plinth("group create g --pool p -o json").json(), full);
    let own = group(&agent, "own");
    assert_eq!((&own["volumes"], &own["leg_count"]), (&json!(["own"]), &2.into()));
    assert_eq!(agent.plinth("group list -o json").json(), json!([full, own]));
    assert_eq!(agent.plinth("group list -o name").ok(), "g\nown\n");
    assert_eq!(agent.plinth("group show g -o name").ok(), "g\n");
    let table = agent.plinth("group list").ok();
    assert!(table.contains("LEGS") && table.lines().any(|line| line.ends_with("  v")), "{table}");
    let shown = agent.plinth("group show g").ok();
    assert!(shown.contains("128KiB") && shown.lines().any(|line| line.ends_with("  v")), "{shown}");
    refused(&agent, "group delete g --yes", 6, &["group g has volume v", "plinth volume delete v first"]);
    refused(&agent, "group delete own --yes", 6, &["volume own", "the group goes with it"]);
    agent.plinth("volume delete own --yes").ok();
    agent.plinth("group show own").fails(5, &["no group own"]);
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(group(&agent, "g"), empty);
    agent.kill();
    agent.run();
    refused(&agent, "group delete g", 6, &["delete group g", "--yes"]);
    agent.plinth("group delete g --dry-run").ok();
    assert_eq!(group(&agent, "g"), empty);
    assert_eq!(agent.plinth("group delete g --yes").ok(), "");
    agent.plinth("group delete g --yes").fails(5, &["no group g"]);
    agent.plinth("group delete g --if-exists").ok();
    let history = agent.plinth("pool history p").ok();
    assert!(history.contains("group create g") && history.contains("group delete g"), "{history}");
}

#[test]
fn groups_over_the_socket() {
    let agent = Agent::start();
    agent.pool();
    let client = node::client::Client::new(agent.socket(), None).expect("a client");
    let made = client.post("/v1/groups", &json!({ "name": "g", "pool": "p" })).expect("creates");
    assert_eq!(client.get("/v1/groups").expect("lists"), json!([made]));
    assert_eq!(client.get("/v1/groups/g").expect("shows"), made);
    let unknown = client.post("/v1/groups", &json!({ "name": "h", "pool": "p", "legs": 2 }));
    assert_eq!(unknown.expect_err("refused").kind, node::Kind::Invalid);
    client.delete("/v1/groups/g?dry_run=true").expect("could");
    client.delete("/v1/groups/g").expect("deletes");
    assert_eq!(client.delete("/v1/groups/g").expect_err("is gone").kind, node::Kind::NotFound);
    let document = client.get("/v1/openapi.json").expect("answers");
    let verbs = |path: &str| document["paths"][path].as_object().map(serde_json::Map::len);
    assert_eq!((verbs("/v1/groups"), verbs("/v1/groups/{name}")), (Some(2), Some(2)));
}

#[test]
fn a_volume_is_encrypted_as_its_group_says() {
    let mut agent = Agent::start();
    agent.pool();
    agent.plinth("key create k").ok();
    agent.plinth("group create g --pool p --encrypt --kek k").ok();
    let by = |version: Value| json!({"cipher": "aes-256-gcm", "kek": "k", "key_version": version, "rekeyed_at": null});
    let empty = group(&agent, "g");
    assert_eq!(empty["encryption"], by(Value::Null));
    let shown = agent.plinth("group show g").ok();
    assert!(shown.contains("aes-256-gcm, key k\n"), "{shown}");
    agent.plinth("rekey g").fails(2, &["group g has no volume"]);
    for (turn, asked) in ["", " --encrypt", " --kek k", " --encrypt --kek k"].into_iter().enumerate() {
        agent.plinth("key rotate k").ok();
        assert_eq!(agent.plinth(&format!("{CREATE}{asked}")).ok(), "v\n");
        for repeated in ["", " --encrypt", " --encrypt --kek k"] {
            assert_eq!(agent.plinth(&format!("{CREATE}{repeated}")).ok(), "v\n");
        }
        let volume = agent.plinth("volume show v -o json").json();
        assert_eq!(volume["encryption"], by((turn + 2).into()));
        assert_eq!(group(&agent, "g")["encryption"], volume["encryption"]);
        agent.plinth(&format!("{CREATE} --kek l")).fails(2, &["group g is encrypted by key k", "l"]);
        write_text(&agent);
        assert!(!shows(&agent, "d1") && !shows(&agent, "d2"));
        agent.plinth("volume delete v --yes").ok();
        agent.kill();
        agent.run();
        assert_eq!(group(&agent, "g"), empty);
    }
    // What is searched for would be found.
    agent.plinth("group create plain --pool p").ok();
    agent.plinth("volume create v --pool p --size 64MiB --group plain").ok();
    write_text(&agent);
    assert!(shows(&agent, "d1") && shows(&agent, "d2"));
}

#[test]
fn the_default_key_is_made_on_first_use() {
    let agent = Agent::start();
    agent.pool();
    agent.plinth("group create g --pool p --encrypt --dry-run").ok();
    refused(&agent, "group create g --pool q --encrypt", 5, &["no pool q"]);
    assert_eq!(agent.plinth("key list -o json").json(), json!([]), "no key was made for these");
    let made = agent.plinth("group create g --pool p --encrypt");
    assert!(made.err.contains("key default was made") && made.err.contains("keep a copy"), "{}", made.err);
    assert_eq!(made.ok(), "g\n");
    let again = agent.plinth("group create g --pool p --encrypt");
    assert_eq!((again.code, again.out.as_str(), again.err.as_str()), (0, "g\n", ""));
    agent.plinth(&format!("{CREATE} --encrypt")).ok();
    assert_eq!(agent.plinth("volume show v -o json").json()["encryption"]["kek"], "default");
    // A volume of a group with another key does not make the default key, whatever it asks for.
    agent.plinth("key destroy default --yes").ok();
    refused(&agent, "group create h --pool p --encrypt", 8, &["key default was destroyed"]);
    agent.plinth("key create k").ok();
    agent.plinth("group create h --pool p --encrypt --kek k").ok();
    agent.plinth("volume create w --pool p --size 64MiB --group h --encrypt").ok();
    assert_eq!(agent.plinth("volume show w -o json").json()["encryption"]["kek"], "k");
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let agent = Agent::start();
    agent.pool();
    ["e1", "e2"].iter().for_each(|drive| drop(agent.drive(drive, 256)));
    agent.plinth("pool create q @e1 @e2").ok();
    ["key create k", "key create l"].iter().for_each(|line| drop(agent.plinth(line).ok()));
    refused(&agent, "group create a/b --pool p", 2, &["no group name"]);
    refused(&agent, "group create g", 2, &["--pool"]);
    refused(&agent, "group create g --pool r", 5, &["no pool r"]);
    refused(&agent, "group create g --pool p --encrypt --kek m", 5, &["no key m", "plinth key list"]);
    refused(
        &agent,
        "group create g --pool p --kek k",
        2,
        &["key k is for an encrypted group", "add --encrypt"],
    );
    agent.plinth("group create g --pool p").ok();
    agent.plinth("group create sealed --pool p --encrypt --kek k").ok();
    let other = "exists with other parameters";
    refused(&agent, "group create g --pool q", 11, &[other, "pool p, not encrypted", "another name"]);
    refused(&agent, "group create g --pool p --encrypt --kek k", 11, &[other]);
    refused(&agent, "group create sealed --pool p", 11, &[other, "encrypted by key k"]);
    refused(&agent, "group create sealed --pool p --encrypt --kek l", 11, &[other]);
    for dry in ["", " --dry-run"] {
        let elsewhere = format!("volume create v --pool q --size 64MiB --group g{dry}");
        refused(&agent, &elsewhere, 2, &["group g is in pool p", "pool q", "--pool p"]);
        refused(&agent, &format!("{CREATE} --encrypt{dry}"), 2, &["group g is not encrypted"]);
        refused(&agent, &format!("{CREATE} --kek k{dry}"), 2, &["group g is not encrypted"]);
        let sealed = "volume create v --pool p --size 64MiB --group sealed";
        refused(&agent, &format!("{sealed} --kek l{dry}"), 2, &["encrypted by key k, and not by l"]);
        refused(
            &agent,
            &format!("{sealed} --encrypt --kek m{dry}"),
            2,
            &["encrypted by key k, and not by m"],
        );
        let own = format!("volume create g --pool p --size 64MiB{dry}");
        refused(&agent, &own, 11, &["there is a group g already", "--group g"]);
        refused(&agent, &format!("{own} --encrypt"), 11, &["--group g"]);
    }
    agent.plinth(CREATE).ok();
    let second = "volume create w --pool p --size 64MiB";
    refused(
        &agent,
        &format!("{second} --group g"),
        10,
        &["group g has a volume already", "leave --group away"],
    );
    refused(&agent, "volume create g --pool p --size 64MiB", 10, &["group g has a volume", "another name"]);
    refused(&agent, "group create g --pool q", 11, &[other]);
    refused(&agent, &format!("{CREATE} --encrypt --kek k"), 2, &["group g is not encrypted"]);
    // A group that was not there is made with its volume, and goes with it.
    agent.plinth(&format!("{second} --group new")).ok();
    refused(&agent, "group create new --pool p", 11, &["there is a group new already", "volume w"]);
    agent.plinth("volume delete w --yes").ok();
    agent.plinth("group show new").fails(5, &["no group new"]);
}

#[test]
fn a_group_that_stays_is_not_renamed_with_its_volume() {
    let mut agent = Agent::start();
    agent.pool();
    agent.plinth("group create v --pool p").ok();
    agent.plinth("group create taken --pool p").ok();
    agent.plinth("volume create v --pool p --size 64MiB --group v").ok();
    refused(&agent, "volume rename v taken", 11, &["the name taken is taken"]);
    for (from, to) in [("v", "w"), ("w", "v"), ("v", "w")] {
        agent.plinth(&format!("volume rename {from} {to}")).ok();
        assert_eq!(agent.plinth(&format!("volume show {to} -o json")).json()["group"], "v");
        assert_eq!(group(&agent, "v")["volumes"], json!([to]));
    }
    agent.plinth("group show w").fails(5, &["no group w"]);
    agent.plinth("volume delete w --yes").ok();
    agent.kill();
    agent.run();
    assert_eq!(group(&agent, "v")["volumes"], json!([]));
    // A group that a volume has of its own is.
    agent.plinth("volume create own --pool p --size 64MiB").ok();
    agent.plinth("volume rename own other").ok();
    assert_eq!(agent.plinth("group list -o name").ok(), "other\ntaken\nv\n");
}

#[test]
fn a_pool_goes_only_without_groups() {
    let mut agent = Agent::start();
    agent.pool();
    agent.plinth("group create g --pool p").ok();
    agent.plinth("group create h --pool p").ok();
    refused(&agent, "pool delete p --yes", 6, &["pool p has 2 empty groups: g h", "delete them first"]);
    agent.plinth(CREATE).ok();
    refused(&agent, "pool delete p --yes", 6, &["1 volume: v, and 1 empty group: h"]);
    agent.plinth("volume delete v --yes").ok();
    agent.plinth("group delete g --yes").ok();
    agent.plinth("group delete h --yes").ok();
    agent.plinth("pool delete p --yes").ok();
    agent.kill();
    agent.run();
    assert_eq!(agent.plinth("group list -o json").json(), json!([]));
}

/// What is on no drive does not come back with the drives, and who exported the pool is told.
#[test]
fn an_export_drops_empty_groups_and_says_which() {
    let agent = Agent::start();
    agent.pool();
    ["g", "h", "i"].iter().for_each(|name| drop(agent.plinth(&format!("group create {name} --pool p")).ok()));
    agent.plinth(CREATE).ok();
    agent.plinth("pool export p --dry-run").ok();
    assert_eq!(agent.plinth("group list -o name").ok(), "g\nh\ni\n");
    agent.plinth("pool export p").ok();
    let told = events(&agent, "pool_export");
    let said = "pool p was exported without its empty groups, which no drive has: h i";
    assert_eq!(told, [("warning".to_owned(), said.to_owned())]);
    assert_eq!(agent.plinth("group list -o json").json(), json!([]));
    agent.plinth("pool export p").ok();
    // Somebody else took the name meanwhile: the group is named, and comes when the name is free.
    ["e1", "e2"].iter().for_each(|drive| drop(agent.drive(drive, 256)));
    agent.plinth("pool create q @e1 @e2").ok();
    agent.plinth("group create g --pool q").ok();
    agent.plinth("pool import p").ok();
    let status = agent.plinth("pool status p -o json").json()["status"].clone();
    assert!(
        status.as_str().is_some_and(|status| status.contains("is called g, and there is one")),
        "{status}"
    );
    agent.plinth("group delete g --yes").ok();
    agent.plinth("pool import p").ok();
    assert_eq!(group(&agent, "g")["volumes"], json!(["v"]));
    assert!(agent.plinth("pool history p").ok().contains("exported without its empty groups"));
    // Drives do not say that it was there before its volume.
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(agent.plinth("group list -o json").json(), json!([]));
    agent.plinth("pool export q").ok();
    assert_eq!(events(&agent, "pool_export").last().expect("told").0, "info");
}

#[test]
fn a_key_that_is_destroyed_leaves_groups_without_use() {
    let agent = Agent::start();
    agent.pool();
    agent.plinth("key create k").ok();
    agent.plinth("group create g --pool p --encrypt --kek k").ok();
    agent.plinth("key rotate k").ok();
    let key = agent.plinth("key show k -o json").json();
    assert_eq!(
        (&key["groups"], &key["volumes"], &key["empty_groups"]),
        (&json!([]), &json!([]), &json!(["g"]))
    );
    assert!(agent.plinth("key show k").ok().contains("empty_groups  g"));
    let asked = "no volume needs it; no volume can be made any more in these groups: g";
    refused(&agent, "key destroy k", 6, &[asked, "--yes"]);
    agent.plinth("volume create w --pool p --size 64MiB --encrypt --kek k").ok();
    refused(&agent, "key destroy k", 6, &["is lost: w; no volume can be made any more in these groups: g"]);
    agent.plinth("key destroy k --yes").ok();
    let (severity, told) = events(&agent, "key_destroy").pop().expect("told");
    assert_eq!(severity, "warning");
    assert!(told.ends_with("nobody can read any more: w; no volume can be made any more in: g"), "{told}");
    agent.plinth("key list").ok();
    for dry in ["", " --dry-run"] {
        let words = [
            "no volume can be made in group g: key k was destroyed",
            "plinth key create k",
            "group delete g",
        ];
        refused(&agent, &format!("{CREATE}{dry}"), 8, &words);
    }
    refused(&agent, "group create h --pool p --encrypt --kek k", 8, &["key k was destroyed"]);
    agent.plinth("group create g --pool p --encrypt --kek k").ok();
    // The name is free when nothing is left that the key made unreadable.
    refused(&agent, "key create k", 11, &["destroyed"]);
    agent.plinth("volume delete w --yes").ok();
    agent.plinth("key create k").ok();
    agent.plinth(CREATE).ok();
    write_text(&agent);
    assert!(!shows(&agent, "d1"));
}
