//! Drives are emptied, replaced and removed while their volumes are served and written.
mod support;

use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::contents::Contents;
use support::nbd::Nbd;
use support::{Agent, DEADLINE, signal};

/// Somebody who writes all the time.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Contents>,
}

impl Writer {
    fn start(socket: PathBuf, mut contents: Contents) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut nbd = Nbd::connect(&socket);
            let mut turn = 0;
            while !stopped.load(Ordering::Acquire) {
                contents.write(&mut nbd, turn % 7, 7);
                turn += 1;
            }
            contents
        });
        Self { stop, thread }
    }

    fn end(self) -> Contents {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("it wrote without errors")
    }
}

/// A pool `p` of so many drives with small extents and a volume `v` of 64 MiB.
fn made(drives: usize) -> Agent {
    let agent = Agent::start();
    let names: Vec<String> = (1..=drives).map(|drive| format!("d{drive}")).collect();
    let paths: Vec<String> = names.iter().map(|name| format!("@{name}")).collect();
    for name in &names {
        agent.drive(name, 256);
    }
    agent.plinth(&format!("pool create p {} --extent-size 8MiB", paths.join(" "))).ok();
    agent.plinth("volume create v --pool p --size 64MiB").ok();
    agent
}

fn attach(agent: &Agent) -> Nbd {
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n"))
}

fn pool(agent: &Agent) -> Value {
    agent.plinth("pool status p -o json").json()
}

fn drive(agent: &Agent, name: &str) -> Value {
    let path = agent.path(name).display().to_string();
    let drives = pool(agent)["drives"].as_array().expect("a list").clone();
    drives.into_iter().find(|drive| drive["path"] == path.as_str()).unwrap_or(Value::Null)
}

/// The drives of the volume, by leg.
fn legs(agent: &Agent) -> Vec<Vec<String>> {
    let shown = agent.plinth("volume show v -o json").json();
    let names = |leg: &Value| {
        let of = leg["drives"].as_array().expect("a list").iter();
        of.map(|drive| drive["id"].as_str().expect("an id").to_owned()).collect()
    };
    shown["legs"].as_array().expect("a list").iter().map(names).collect()
}

fn events(agent: &Agent, kind: &str) -> Vec<String> {
    let events = agent.plinth("events -o json").json();
    let of_kind = events.as_array().expect("a list").iter().filter(|event| event["kind"] == kind);
    of_kind.map(|event| event["message"].as_str().expect("a message").to_owned()).collect()
}

#[track_caller]
fn wait_until(agent: &Agent, what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        let told = || format!("{}\n{}\n{}", pool(agent), agent.plinth("events").out, agent.log());
        assert!(start.elapsed() < DEADLINE, "not {what}: {}", told());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Nobody lacks anything, and what is on the drives is what the catalogue says.
#[track_caller]
fn check_whole(agent: &Agent, contents: &Contents, drives: &str) {
    let shown = agent.plinth("volume show v -o json").json();
    assert_eq!(shown["health"], "online", "{shown}");
    contents.check(&mut Nbd::connect(&agent.path("n")));
    agent.plinth("volume detach v").ok();
    agent.plinth(&format!("fsck {drives}")).ok();
    let mut nbd = attach(agent);
    contents.check(&mut nbd);
}

/// The whole of it: a drive with the home row and more is emptied under writes, comes back into use, and is emptied
/// of nothing then.
#[test]
fn a_drive_is_emptied_while_its_volume_is_written() {
    let agent = made(3);
    let mut contents = Contents::new(1024);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    let before = legs(&agent);
    let id = drive(&agent, "d1")["id"].as_str().expect("an id").to_owned();
    assert!(before.concat().contains(&id));
    let writer = Writer::start(agent.path("n"), contents);
    let dry = agent.plinth("drive evacuate p @d1 --dry-run").ok();
    assert_eq!((dry.trim(), drive(&agent, "d1")["state"].as_str()), (id.as_str(), Some("online")));
    assert_eq!(agent.plinth("drive evacuate p @d1 --wait --timeout 600s").ok(), dry);
    assert_eq!(
        agent.plinth("drive evacuate p @d1 --wait --timeout 600s").ok(),
        dry,
        "a repetition ends alike"
    );
    let contents = writer.end();
    let emptied = drive(&agent, "d1");
    assert_eq!((&emptied["state"], &emptied["allocated_bytes"]), (&"evacuating".into(), &0.into()));
    assert!(!legs(&agent).concat().contains(&id));
    assert_eq!(pool(&agent)["tasks"], Value::Array(Vec::new()));
    // A volume that grows at that moment is planned anew.
    let told = |kind| events(&agent, kind).len();
    assert_eq!((told("move_started") - told("move_given_up"), told("move_done")), (1, 1));
    check_whole(&agent, &contents, "@d1 @d2 @d3");
    // Nothing new is placed there until it is brought back.
    agent.plinth("volume create w --pool p --size 1MiB --legs 3").fails(7, &["label drive is short"]);
    agent.plinth("drive online p @d1").ok();
    assert_eq!(drive(&agent, "d1")["state"], "online");
    agent.plinth("volume create w --pool p --size 1MiB --legs 3").ok();
    agent.plinth("volume delete w --yes").ok();
    // What leads to the volume is where it is now, its name, too.
    agent.plinth("volume detach v").ok();
    agent.plinth("pool export p").ok();
    agent.plinth("pool import @d1 @d2 @d3").ok();
    contents.check(&mut attach(&agent));
    agent.plinth("volume detach v").ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(pool(&agent)["allocated_bytes"], 0);
}

fn target(agent: &Agent) -> u64 {
    agent.wait_state("v", "attached")["target"]["pid"].as_u64().expect("a target")
}

/// Target, agent, or both are killed at any step of the way, and the drive is empty in the end, each time.
#[test]
fn a_move_that_is_cut_short_ends_all_the_same() {
    let mut agent = made(3);
    let mut contents = Contents::new(512);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    for (turn, delay) in [0, 5, 15, 30, 60, 100, 150, 250, 400, 600, 900, 1300].into_iter().enumerate() {
        let name = ["d1", "d2", "d3"][turn % 3];
        let pid = target(&agent);
        agent.plinth(&format!("drive evacuate p @{name}")).ok();
        std::thread::sleep(Duration::from_millis(delay));
        if turn % 4 != 0 {
            agent.kill();
        }
        if turn % 4 != 1 {
            assert!(signal("KILL", &pid.to_string()), "the target lives");
        }
        if turn % 4 != 0 {
            agent.run();
        }
        agent.plinth(&format!("drive evacuate p @{name} --wait --timeout 600s")).ok();
        assert_eq!(drive(&agent, name)["allocated_bytes"], 0, "turn {turn}");
        target(&agent);
        let mut nbd = Nbd::connect(&agent.path("n"));
        contents.check(&mut nbd);
        contents.write(&mut nbd, turn, 3);
        drop(nbd);
        let of_others: u64 = ["d1", "d2", "d3"]
            .iter()
            .map(|name| drive(&agent, name)["allocated_bytes"].as_u64().expect("a number"))
            .sum();
        let shown = agent.plinth("volume show v -o json").json();
        assert_eq!(shown["allocated_bytes"], of_others, "turn {turn}: every extent is the volume's");
        agent.plinth(&format!("drive online p @{name}")).ok();
    }
    check_whole(&agent, &contents, "@d1 @d2 @d3");
    agent.plinth("volume detach v").ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(pool(&agent)["allocated_bytes"], 0);
}

/// A drive dies, another one takes its place, and its label is the last that is heard of it.
#[test]
fn a_dead_drive_is_replaced() {
    let agent = made(2);
    let mut contents = Contents::new(1024);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    let dead = drive(&agent, "d2")["id"].as_str().expect("an id").to_owned();
    drop(nbd);
    agent.plinth("volume detach v").ok();
    std::fs::rename(agent.path("d2"), agent.path("state/d2")).expect("moves away");
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 3);
    drop(nbd);
    let writer = Writer::start(agent.path("n"), contents);
    let before = agent.state();
    agent.plinth("drive evacuate p @d2").fails(7, &["label drive is short"]);
    agent.drive("small", 256);
    agent.plinth("drive replace p @d2 @d1").fails(7, &["label drive is short"]);
    agent.plinth("drive replace p @d2 @d2").fails(2, &["own place"]);
    agent.plinth("drive replace p @d2 @none").fails(5, &["none"]);
    assert_eq!(agent.state()["pools"], before["pools"]);
    agent.drive("d3", 256);
    let dry = agent.plinth("drive replace p @d2 @d3 --dry-run");
    assert_eq!(dry.code, 0, "{}", dry.err);
    assert_eq!(agent.state()["pools"], before["pools"]);
    let id = agent.plinth("drive replace p @d2 @d3 --wait --timeout 600s").ok();
    assert_eq!(drive(&agent, "d3")["id"], id.trim());
    assert_eq!(agent.plinth("drive replace p @d2 @d3 --wait").ok(), id, "a repetition ends alike");
    assert_eq!(pool(&agent)["drives"].as_array().map(Vec::len), Some(2));
    let contents = writer.end();
    check_whole(&agent, &contents, "@d1 @d3");
    // The dead one turns up again: it is nobody's.
    std::fs::rename(agent.path("state/d2"), agent.path("d2")).expect("moves back");
    agent.plinth("status").ok();
    assert!(!legs(&agent).concat().contains(&dead));
    agent.plinth("volume detach v").ok();
    std::fs::rename(agent.path("d1"), agent.path("state/d1")).expect("moves away");
    contents.check(&mut attach(&agent));
}

/// A drive that is well, and has the home row, gives its place to another one under writes: the new drive has the old one's
/// labels, and it alone has everything.
#[test]
fn a_live_drive_is_replaced() {
    let agent = Agent::start();
    ["d1", "d2", "d3"].iter().for_each(|name| drop(agent.drive(name, 256)));
    agent.plinth("pool create p @d1 --extent-size 8MiB --label node=n1,rack=r1").ok();
    agent.plinth("pool add p @d2 --label node=n2,rack=r2").ok();
    agent.plinth("volume create v --pool p --size 64MiB").ok();
    let mut contents = Contents::new(1024);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    let old = drive(&agent, "d1")["id"].as_str().expect("an id").to_owned();
    let before = (agent.state()["pools"].clone(), legs(&agent));
    assert!(before.1.concat().contains(&old));
    let writer = Writer::start(agent.path("n"), contents);
    let dry = agent.plinth("drive replace p @d1 @d3 --dry-run");
    assert_eq!((dry.code, agent.state()["pools"].clone()), (0, before.0), "{}", dry.err);
    let id = agent.plinth("drive replace p @d1 @d3 --wait --timeout 600s").ok();
    assert_eq!(agent.plinth("drive replace p @d1 @d3 --wait").ok(), id, "a repetition ends alike");
    let contents = writer.end();
    let new = drive(&agent, "d3");
    assert_eq!((&new["id"], &new["state"]), (&id.trim().into(), &"online".into()), "{new}");
    assert_eq!((&new["node"], &new["rack"]), (&"n1".into(), &"r1".into()), "{new}");
    assert!(new["allocated_bytes"].as_u64() >= Some(64 << 20), "{new}");
    assert_eq!(pool(&agent)["drives"].as_array().map(Vec::len), Some(2));
    let after = legs(&agent).concat();
    assert!(!after.contains(&old) && after.contains(&id.trim().to_owned()), "{after:?}");
    for kind in ["volume_faulted", "resync_started", "move_given_up"] {
        assert_eq!(events(&agent, kind), [""; 0], "it was moved off, not lost");
    }
    agent.plinth("inspect @d1").fails(2, &["not a drive of a pool"]);
    check_whole(&agent, &contents, "@d2 @d3");
    agent.plinth("volume detach v").ok();
    std::fs::rename(agent.path("d2"), agent.path("state/d2")).expect("moves away");
    contents.check(&mut attach(&agent));
}

/// A drive leaves its pool, with what volumes had there and where they only might have had something.
#[test]
fn a_drive_is_removed() {
    let agent = made(4);
    agent.plinth("volume create w --pool p --size 8MiB").ok();
    let mut contents = Contents::new(256);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    let id = drive(&agent, "d1")["id"].clone();
    // `w` is not attached: it may lie on d1 or not.
    let on = agent.plinth("volume show w -o json").json()["legs"]
        .to_string()
        .contains(id.as_str().expect("an id"));
    assert!(!on, "the emptiest drives were taken");
    let printed = agent.plinth("drive remove p @d1 --wait --timeout 600s").ok();
    assert_eq!(printed.trim(), id.as_str().expect("an id"));
    assert_eq!(agent.plinth("drive remove p @d1").ok(), printed, "a repetition ends alike");
    agent.plinth("drive remove p @d9").fails(5, &["no drive"]);
    assert_eq!(drive(&agent, "d1"), Value::Null);
    agent.plinth("inspect @d1").fails(2, &["not a drive of a pool"]);
    agent.plinth("pool create q @d1").ok();
    check_whole(&agent, &contents, "@d2 @d3 @d4");
    agent.plinth("volume attach w --nbd @m").ok();
    Nbd::connect(&agent.path("m")).write(0, &[7; 4096]);
    agent.plinth("volume detach w").ok();
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d2 @d3 @d4").ok();
    agent.plinth("volume delete w --yes").ok();
    agent.plinth("volume delete v --yes").ok();
    agent.plinth("drive remove p @d2").ok();
    agent.plinth("drive remove p @d3").ok();
    agent.plinth("drive remove p @d4").fails(6, &["last one", "pool delete"]);
}

/// What has no place elsewhere stays where it is, and nothing is changed.
#[test]
fn a_drive_whose_content_has_no_other_place_is_refused() {
    let agent = made(2);
    drop(attach(&agent));
    let before = agent.state();
    for verb in ["evacuate", "remove"] {
        agent
            .plinth(&format!("drive {verb} p @d1"))
            .fails(7, &["row 0 of volume v", "label drive is short", "pool add"]);
    }
    assert_eq!(agent.state(), before);
    agent.drive("d3", 256);
    agent.plinth("pool add p @d3 --label node=x").ok();
    agent.plinth("drive evacuate p @d1 --wait --timeout 600s").ok();
    agent.plinth("drive evacuate p @d3").fails(7, &["label node is short"]);
}

/// Where volumes that are detached are left alone, one is moved when it is attached: until then the drive is not empty, and
/// says why.
#[test]
fn a_volume_that_is_not_attached_is_waited_for() {
    let agent = made(3);
    agent.plinth("pool set p tend=off").ok();
    let mut contents = Contents::new(64);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("drive evacuate p @d1 --wait").fails(6, &["volume v is not attached", "goes on by itself"]);
    let task = &pool(&agent)["tasks"][0];
    assert_eq!(
        (&task["state"], &task["kind"], &task["volume"]),
        (&"blocked".into(), &"evacuate".into(), &"v".into())
    );
    let mut nbd = attach(&agent);
    agent.plinth("drive evacuate p @d1 --wait --timeout 600s").ok();
    contents.check(&mut nbd);
    drop(nbd);
    check_whole(&agent, &contents, "@d1 @d2 @d3");
}

/// A volume goes in the middle of a move, for good or for a while: no extent is lost.
#[test]
fn a_volume_goes_while_it_is_moved() {
    let agent = made(3);
    agent.plinth("pool set p resync_rate=1MiB").ok();
    let mut contents = Contents::new(512);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("drive evacuate p @d1").ok();
    wait_until(&agent, "moving", || pool(&agent)["tasks"][0]["state"] == "running");
    agent.plinth("pool export p").fails(6, &["attached"]);
    agent.plinth("volume detach v").ok();
    agent.plinth("pool export p").fails(6, &["being moved"]);
    contents.check(&mut attach(&agent));
    wait_until(&agent, "moving", || pool(&agent)["tasks"][0]["state"] == "running");
    agent.plinth("volume detach v").ok();
    agent.plinth("volume delete v --yes").ok();
    let left = pool(&agent);
    assert_eq!((&left["allocated_bytes"], &left["tasks"]), (&0.into(), &Value::Array(Vec::new())));
}

/// Space for the fullest drive is kept back; when a drive is gone for good it is taken, and nobody had to ask.
#[test]
fn a_spare_takes_the_place_of_a_lost_drive() {
    let mut agent = made(3);
    agent.plinth("pool set p spares=x").fails(2, &["no number of spares"]);
    agent.plinth("pool set p spare_delay=soon").fails(2, &["soon"]);
    let mut contents = Contents::new(512);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("pool set p spares=1").ok();
    let before = pool(&agent);
    let list = before["drives"].as_array().expect("a list");
    let fullest = list.iter().filter_map(|drive| drive["allocated_bytes"].as_u64()).max().expect("drives");
    assert!(fullest > 0);
    let number = |name: &str| before[name].as_u64().expect("a number");
    assert_eq!((&before["spares"], number("reserved_bytes")), (&1.into(), fullest));
    assert_eq!(number("free_bytes"), number("size_bytes") - number("allocated_bytes") - fullest);
    assert_eq!(before["spare_delay_seconds"], 600);
    // Volumes do not get it.
    let kept = loop {
        let name = format!("w{}", pool(&agent)["volumes"].as_array().map_or(0, Vec::len));
        let made = agent.plinth(&format!("volume create {name} --pool p --size 1MiB"));
        if made.code != 0 {
            break made;
        }
    };
    kept.fails(7, &["its reserve and", "for its spares", "spares=N"]);
    for volume in pool(&agent)["volumes"].as_array().expect("a list") {
        let name = volume.as_str().expect("a name");
        if name != "v" {
            agent.plinth(&format!("volume delete {name} --yes")).ok();
        }
    }
    let lost = drive(&agent, "d2")["id"].as_str().expect("an id").to_owned();
    drop(attach(&agent));
    let writer = Writer::start(agent.path("n"), contents);
    agent.plinth("drive fail p @d2").ok();
    std::fs::rename(agent.path("d2"), agent.path("state/d2")).expect("moves away");
    agent.plinth("status").ok();
    assert_eq!(events(&agent, "spare_taken").len(), 0, "not before its time");
    let contents = writer.end();
    agent.kill();
    agent.run();
    agent.wait_state("v", "attached");
    let writer = Writer::start(agent.path("n"), contents);
    agent.plinth("pool set p spare_delay=0").ok();
    let healthy = || agent.plinth("volume show v -o json").json()["health"] == "online";
    wait_until(&agent, "whole again", || healthy() && !legs(&agent).concat().contains(&lost));
    let contents = writer.end();
    assert_eq!(events(&agent, "spare_taken").len(), 1);
    wait_until(&agent, "over", || pool(&agent)["tasks"] == Value::Array(Vec::new()));
    let after = pool(&agent);
    assert_eq!(after["reserved_bytes"], 0, "the spare is used: {after}");
    check_whole(&agent, &contents, "@d1 @d3");
    // What could not be wiped is the drive's own until it leaves.
    assert_eq!(drive(&agent, "d2")["state"], "failed");
    agent.plinth(&format!("drive remove p {lost} --wait --timeout 600s")).ok();
    let after = pool(&agent);
    assert_eq!((after["drives"].as_array().map(Vec::len), &after["health"]), (Some(2), &"online".into()));
    agent.plinth("volume detach v").ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(pool(&agent)["allocated_bytes"], 0);
}

/// Drives that are added to a full pool get their part of it, while it is written; and nothing moves for ever.
#[test]
fn a_pool_is_rebalanced() {
    let mut agent = Agent::start();
    for name in ["d1", "d2", "d3"] {
        agent.drive(name, 256);
    }
    agent.plinth("pool create p @d1 @d2 --extent-size 8MiB").ok();
    agent.plinth("volume create v --pool p --size 160MiB").ok();
    let mut contents = Contents::new(2560);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("pool rebalance q").fails(5, &["no pool q"]);
    agent.plinth("pool rebalance p --wait --timeout 600s").ok();
    assert_eq!(events(&agent, "move_started").len(), 0, "a mirror of two drives is even");
    agent.plinth("pool add p @d3").ok();
    agent.plinth("pool rebalance p --dry-run").ok();
    assert_eq!(pool(&agent)["rebalancing"], false);
    agent.plinth("pool set p resync_rate=256KiB").ok();
    agent.plinth("pool rebalance p").ok();
    wait_until(&agent, "moving", || pool(&agent)["tasks"][0]["kind"] == "rebalance");
    agent.plinth("pool rebalance p --stop").ok();
    assert_eq!(pool(&agent)["rebalancing"], false);
    agent.plinth("pool set p resync_rate=0").ok();
    let writer = Writer::start(agent.path("n"), contents);
    agent.plinth("pool rebalance p").ok();
    wait_until(&agent, "on its way", || events(&agent, "move_done").len() > 1);
    // What the target was doing, the next one does.
    let contents = {
        let contents = writer.end();
        let pid = target(&agent);
        assert!(signal("KILL", &pid.to_string()), "the target lives");
        agent.kill();
        agent.run();
        contents
    };
    assert_eq!(agent.plinth("pool rebalance p --wait --timeout 600s").ok().trim(), "p");
    let taken = |name| drive(&agent, name)["allocated_bytes"].as_u64().expect("a number") >> 23;
    let taken = ["d1", "d2", "d3"].map(taken);
    let (least, most) = (taken.iter().min().expect("drives"), taken.iter().max().expect("drives"));
    assert!(most - least <= 2, "{taken:?}: extents differ by one, and by a row that is not used yet");
    let shown = agent.plinth("volume show v -o json").json();
    assert_eq!(shown["allocated_bytes"], taken.iter().sum::<u64>() << 23, "every extent is the volume's");
    // It may have ended before it was asked for again.
    assert!(events(&agent, "rebalanced").len() >= 2);
    target(&agent);
    check_whole(&agent, &contents, "@d1 @d2 @d3");
    agent.plinth("volume detach v").ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(pool(&agent)["allocated_bytes"], 0);
}

/// Volumes that have no more than their home row go to a drive that is added, too: with all that they have on the one that
/// they leave.
#[test]
fn home_rows_are_rebalanced() {
    let mut agent = Agent::start();
    for name in ["d1", "d2", "d3"] {
        agent.drive(name, 256);
    }
    agent.plinth("pool create p @d1 @d2 --extent-size 8MiB").ok();
    let names = ["v", "w", "x"];
    let mut contents: Vec<Contents> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        agent.plinth(&format!("volume create {name} --pool p --size 4MiB")).ok();
        agent.plinth(&format!("volume attach {name} --nbd @{name}.s")).ok();
        let mut content = Contents::new(64);
        content.write(&mut Nbd::connect(&agent.path(&format!("{name}.s"))), index, 2);
        contents.push(content);
    }
    agent.plinth("pool add p @d3").ok();
    // One is cut short, with target and agent.
    agent.plinth("pool set p resync_rate=64KiB").ok();
    agent.plinth("pool rebalance p").ok();
    wait_until(&agent, "moving", || pool(&agent)["tasks"][0]["state"] == "running");
    let task = pool(&agent)["tasks"][0].clone();
    assert_eq!(task["kind"], "rebalance");
    let moved = task["volume"].as_str().expect("a name");
    let pid = agent.wait_state(moved, "attached")["target"]["pid"].as_u64().expect("a target");
    assert!(signal("KILL", &pid.to_string()), "the target lives");
    agent.kill();
    agent.run();
    names.iter().for_each(|name| drop(agent.wait_state(name, "attached")));
    agent.plinth("pool set p resync_rate=0").ok();
    let writer = Writer::start(agent.path("v.s"), contents.remove(0));
    agent.plinth("pool rebalance p --wait --timeout 600s").ok();
    contents.insert(0, writer.end());
    let home = |name: &str| agent.plinth(&format!("volume show {name} -o json")).json()["legs"].to_string();
    let added = drive(&agent, "d3")["id"].as_str().expect("an id").to_owned();
    assert!(names.iter().any(|name| home(name).contains(&added)), "{}", pool(&agent));
    let taken = ["d1", "d2", "d3"]
        .map(|name| drive(&agent, name)["allocated_bytes"].as_u64().expect("a number") >> 23);
    let (least, most) = (taken.iter().min().expect("drives"), taken.iter().max().expect("drives"));
    assert!(most - least <= 2, "{taken:?}");
    // Whoever starts the targets anew finds them where they are now.
    agent.kill();
    agent.run();
    for (name, content) in names.iter().zip(&contents) {
        agent.wait_state(name, "attached");
        content.check(&mut Nbd::connect(&agent.path(&format!("{name}.s"))));
        agent.plinth(&format!("volume detach {name}")).ok();
        agent.plinth(&format!("volume attach {name} --nbd @{name}.s")).ok();
        content.check(&mut Nbd::connect(&agent.path(&format!("{name}.s"))));
        agent.plinth(&format!("volume detach {name}")).ok();
    }
    agent.plinth("fsck @d1 @d2 @d3").ok();
    names.iter().for_each(|name| drop(agent.plinth(&format!("volume delete {name} --yes")).ok()));
    assert_eq!(pool(&agent)["allocated_bytes"], 0);
}

fn leg_count(agent: &Agent) -> u64 {
    agent.plinth("volume show v -o json").json()["leg_count"].as_u64().expect("a number")
}

/// The volume has so many legs, all of them complete, and every extent that is taken is its own.
#[track_caller]
fn wait_legs(agent: &Agent, legs: u64) {
    let settled = || {
        let shown = agent.plinth("volume show v -o json").json();
        let idle = pool(agent)["tasks"] == Value::Array(Vec::new());
        (leg_count(agent), shown["health"].as_str()) == (legs, Some("online"))
            && idle
            && shown["allocated_bytes"] == pool(agent)["allocated_bytes"]
    };
    wait_until(agent, "of so many legs", settled);
}

/// One leg, two, three, and back, under writes that make the volume grow; cut short at any step.
#[test]
fn legs_are_added_and_dropped() {
    let mut agent = Agent::start();
    for name in ["d1", "d2", "d3"] {
        agent.drive(name, 256);
    }
    agent.plinth("pool create p @d1 @d2 @d3 --extent-size 8MiB").ok();
    agent.plinth("volume create v --pool p --size 64MiB --legs 1").ok();
    agent.plinth("volume set v legs=4").fails(7, &["volume v cannot have 4 legs", "label drive is short"]);
    for bad in ["0", "5", "x"] {
        agent.plinth(&format!("volume set v legs={bad}")).fails(2, &["legs are not possible"]);
    }
    agent.plinth("volume set v legs=3 --dry-run").ok();
    assert_eq!(pool(&agent)["tasks"], Value::Array(Vec::new()));
    let mut contents = Contents::new(128);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    let writer = Writer::start(agent.path("n"), Contents([contents.0, vec![0; 640]].concat()));
    agent.plinth("volume set v legs=3").ok();
    agent.plinth("volume set v legs=3").ok();
    wait_legs(&agent, 3);
    let mut contents = writer.end();
    check_whole(&agent, &contents, "@d1 @d2 @d3");
    for (turn, delay) in [0, 30, 80, 150, 300, 600].into_iter().enumerate() {
        let legs = [1, 3, 2][turn % 3];
        let pid = target(&agent);
        agent.plinth(&format!("volume set v legs={legs}")).ok();
        std::thread::sleep(Duration::from_millis(delay));
        if turn % 2 == 0 {
            agent.kill();
        }
        assert!(signal("KILL", &pid.to_string()), "the target lives");
        if turn % 2 == 0 {
            agent.run();
        }
        wait_until(&agent, "served by another target", || target(&agent) != pid);
        wait_legs(&agent, legs);
        let mut nbd = Nbd::connect(&agent.path("n"));
        contents.check(&mut nbd);
        contents.write(&mut nbd, turn, 5);
        drop(nbd);
        if turn % 3 == 2 {
            check_whole(&agent, &contents, "@d1 @d2 @d3");
        }
    }
    // Two copies of everything, on whatever drives: each can go.
    agent.plinth("volume set v legs=2").ok();
    wait_legs(&agent, 2);
    let first = legs(&agent).remove(0);
    for name in ["d1", "d2", "d3"] {
        let id = drive(&agent, name)["id"].as_str().expect("an id").to_owned();
        agent.plinth("volume detach v").ok();
        std::fs::rename(agent.path(name), agent.path(&format!("state/{name}"))).expect("moves away");
        contents.check(&mut attach(&agent));
        if first.contains(&id) {
            // The first leg would stay: it must be complete.
            agent.plinth("volume set v legs=1").fails(6, &["keeps its legs", "not complete"]);
        }
        std::fs::rename(agent.path(&format!("state/{name}")), agent.path(name)).expect("moves back");
        agent.plinth("status").ok();
        wait_legs(&agent, 2);
    }
    check_whole(&agent, &contents, "@d1 @d2 @d3");
    agent.plinth("volume detach v").ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(pool(&agent)["allocated_bytes"], 0);
}

/// The story: the row that a target has in hand lay on the drive that was emptied, went back, and its successor lay on the
/// next one. That one was told no to and never handed back, so the drive never became empty.
#[test]
fn a_row_in_hand_goes_back_however_often() {
    let agent = made(4);
    drop(attach(&agent));
    for turn in 0..8 {
        let name = ["d1", "d2", "d3", "d4"][turn % 4];
        agent.plinth(&format!("drive evacuate p @{name} --wait --timeout 600s")).ok();
        agent.plinth(&format!("drive online p @{name}")).ok();
    }
    check_whole(&agent, &Contents::new(8), "@d1 @d2 @d3 @d4");
}
