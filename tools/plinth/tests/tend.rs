//! What is to be done on a volume is done although nobody has it attached, and whoever wants it goes first.
mod support;

use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::contents::Contents;
use support::nbd::Nbd;
use support::{Agent, DEADLINE, rot, signal};

#[track_caller]
fn wait_until(agent: &Agent, what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < DEADLINE, "not {what}: {}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn show(agent: &Agent) -> Value {
    agent.plinth("volume show v -o json").json()
}

fn pool(agent: &Agent) -> Value {
    agent.plinth("pool status p -o json").json()
}

fn attach(agent: &Agent) -> Nbd {
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n"))
}

/// A pool `p` of so many drives that leaves no volume alone, and a volume `v` with something on it; detached.
fn made(drives: usize) -> (Agent, Contents) {
    let agent = Agent::start();
    let names: Vec<String> = (1..=drives).map(|drive| format!("d{drive}")).collect();
    names.iter().for_each(|name| drop(agent.drive(name, 256)));
    let paths: Vec<String> = names.iter().map(|name| format!("@{name}")).collect();
    agent.plinth(&format!("pool create p {} --extent-size 8MiB", paths.join(" "))).ok();
    agent.plinth("pool set p tend=0").ok();
    agent.plinth("volume create v --pool p --size 64MiB").ok();
    let mut contents = Contents::new(256);
    contents.write(&mut attach(&agent), 0, 1);
    agent.plinth("volume detach v").ok();
    (agent, contents)
}

/// Nobody has the volume, not the agent either, and all is well.
#[track_caller]
fn wait_left_alone(agent: &Agent) {
    let alone = || {
        let shown = show(agent);
        shown["tended"] == false && shown["health"] == "online"
    };
    wait_until(agent, "left alone and well", alone);
    let shown = show(agent);
    assert_eq!(
        (&shown["state"], &shown["frontend"], &shown["nbd_socket"], &shown["target"]),
        (&"detached".into(), &Value::Null, &Value::Null, &Value::Null)
    );
}

#[track_caller]
fn check(agent: &Agent, contents: &Contents) {
    contents.check(&mut attach(agent));
    agent.plinth("volume detach v").ok();
}

/// Emptied, removed and replaced: nobody has to attach anything for it.
#[test]
fn drives_are_emptied() {
    let (agent, contents) = made(3);
    agent.plinth("drive evacuate p @d1 --wait --timeout 600s").ok();
    wait_left_alone(&agent);
    agent.plinth("drive remove p @d1 --wait --timeout 600s").ok();
    agent.drive("d4", 256);
    agent.plinth("drive replace p @d2 @d4 --wait --timeout 600s").ok();
    wait_left_alone(&agent);
    agent.plinth("fsck @d3 @d4").ok();
    check(&agent, &contents);
    let events = agent.plinth("events -o json").ok();
    assert!(events.contains("volume_tended") && events.contains("volume_left_alone"), "{events}");
}

/// A copy that missed writes gets them while nobody has the volume; then each leg alone has everything.
#[test]
fn copies_are_brought_up_to_date() {
    let (agent, mut contents) = made(2);
    let mut nbd = attach(&agent);
    agent.plinth("drive offline p @d2").ok();
    contents.write(&mut nbd, 0, 3);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    assert_eq!((&show(&agent)["health"], &show(&agent)["tended"]), (&"degraded".into(), &false.into()));
    agent.plinth("drive online p @d2").ok();
    wait_left_alone(&agent);
    std::fs::rename(agent.path("d1"), agent.path("state/d1")).expect("moves away");
    contents.check(&mut attach(&agent));
}

/// Legs are added and dropped, and extents spread evenly.
#[test]
fn legs_and_extents_are_moved() {
    let (agent, contents) = made(3);
    agent.plinth("volume set v legs=3").ok();
    wait_until(&agent, "of three legs", || show(&agent)["leg_count"] == 3);
    wait_left_alone(&agent);
    agent.plinth("volume set v legs=1").ok();
    wait_until(&agent, "of one leg", || show(&agent)["leg_count"] == 1);
    wait_left_alone(&agent);
    agent.plinth("pool rebalance p --wait --timeout 600s").ok();
    wait_left_alone(&agent);
    let drives = pool(&agent)["drives"].as_array().expect("drives").clone();
    let taken = drives.iter().map(|drive| drive["allocated_bytes"].as_u64().expect("a number") >> 23);
    let (least, most) = taken.fold((u64::MAX, 0), |(least, most), taken| (least.min(taken), most.max(taken)));
    assert!(most - least <= 2, "{drives:?}");
    check(&agent, &contents);
}

/// Scrubbed by name, with its pool, and when it is due.
#[test]
fn what_rots_is_found() {
    let (agent, _) = made(2);
    agent.plinth("volume create w --pool p --size 8MiB").ok();
    let turns = rot::fill(&mut attach(&agent), 1024);
    agent.plinth("volume detach v").ok();
    let places = rot::data_on(&agent, "d1", &turns);
    rot::rot(&agent, "d1", [7, 500, 1023].map(|block| places[&block]));
    let scrubbed = agent.plinth("scrub start v --wait --timeout 600s -o json").json();
    assert_eq!(
        (&scrubbed["state"], &scrubbed["copies_repaired"]),
        (&"finished".into(), &3.into()),
        "{scrubbed}"
    );
    wait_left_alone(&agent);
    let scrubbed = agent.plinth("scrub start --pool p --wait --timeout 600s -o json").json();
    let states: Vec<&Value> =
        scrubbed["volumes"].as_array().expect("two").iter().map(|s| &s["state"]).collect();
    assert_eq!(states, ["finished", "finished"], "{scrubbed}");
    wait_left_alone(&agent);
    let before = agent.plinth("scrub status v -o json").json()["finished_at"].clone();
    agent.plinth("pool set p scrub_every=1s").ok();
    wait_until(&agent, "scrubbed again", || {
        let shown = agent.plinth("scrub status v -o json").json();
        shown["state"] == "finished" && shown["finished_at"] != before
    });
    agent.plinth("pool set p scrub_every=0").ok();
    rot::check(&mut attach(&agent), &turns, &[]);
}

/// Whoever wants a volume that is tended has it, at once, and what was being done goes on.
#[test]
fn verbs_go_first() {
    let (agent, mut contents) = made(3);
    agent.plinth("pool set p resync_rate=1MiB").ok();
    agent.plinth("drive evacuate p @d1").ok();
    let tended = || show(&agent)["tended"] == true && pool(&agent)["tasks"][0]["state"] == "running";
    wait_until(&agent, "tended", tended);
    let shown = show(&agent);
    assert_eq!((&shown["state"], &shown["nbd_socket"]), (&"detached".into(), &Value::Null));
    assert!(shown["target"]["pid"].is_u64(), "{shown}");
    let mut nbd = attach(&agent);
    assert_eq!((&show(&agent)["state"], &show(&agent)["tended"]), (&"attached".into(), &false.into()));
    contents.write(&mut nbd, 0, 5);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    wait_until(&agent, "tended", tended);
    agent.plinth("volume upgrade v").fails(6, &["volume v is not attached"]);
    agent.plinth("volume detach v").ok();
    agent.plinth("volume rename v w").ok();
    agent.plinth("volume rename w v").ok();
    agent.plinth("volume resize v 96MiB").ok();
    wait_until(&agent, "tended", tended);
    agent.plinth("volume resize v 128MiB").ok();
    agent.plinth("pool set p tend=off").ok();
    wait_until(&agent, "left alone", || show(&agent)["tended"] == false);
    agent.plinth("pool set p tend=0").ok();
    agent.plinth("pool set p resync_rate=0").ok();
    agent.plinth("drive evacuate p @d1 --wait --timeout 600s").ok();
    check(&agent, &contents);
    agent.plinth("drive online p @d1").ok();
    agent.plinth("drive evacuate p @d2").ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(pool(&agent)["allocated_bytes"], 0);
}

/// Killed at any moment, agent or target, it ends all the same; an agent that ends in order leaves no target.
#[test]
fn it_goes_on_behind_deaths() {
    let (mut agent, contents) = made(3);
    for (turn, delay) in [0, 30, 80, 150, 250, 400, 700].into_iter().enumerate() {
        let (from, to) = [("d1", "d2"), ("d2", "d1")][turn % 2];
        agent.plinth(&format!("drive online p @{to}")).ok();
        agent.plinth(&format!("drive evacuate p @{from}")).ok();
        std::thread::sleep(Duration::from_millis(delay));
        match (turn % 3, show(&agent)["target"]["pid"].as_u64()) {
            (0, Some(pid)) => assert!(signal("KILL", &pid.to_string()), "the target lives"),
            (1, _) | (0, None) => {
                agent.kill();
                agent.run();
            }
            _ => {
                agent.terminate();
                // Nobody holds the drives.
                agent.plinth("fsck @d1 @d2 @d3").ok();
                agent.run();
            }
        }
        agent.plinth(&format!("drive evacuate p @{from} --wait --timeout 600s")).ok();
        wait_left_alone(&agent);
    }
    check(&agent, &contents);
    agent.plinth("fsck @d1 @d2 @d3").ok();
}

/// A target that is killed before it serves for the first time is started once more, and what waits for it waits on.
#[test]
fn it_goes_on_behind_a_death_at_the_start() {
    let (agent, contents) = made(3);
    for (from, to) in [("d1", "d2"), ("d2", "d1"), ("d1", "d2")] {
        agent.plinth(&format!("drive online p @{to}")).ok();
        agent.plinth(&format!("drive evacuate p @{from}")).ok();
        // Its number is known as soon as it listens.
        let started = Instant::now();
        let pid = loop {
            if let Some(pid) = show(&agent)["target"]["pid"].as_u64() {
                break pid;
            }
            assert!(started.elapsed() < DEADLINE, "no target: {}", agent.log());
        };
        let _ = signal("KILL", &pid.to_string());
        agent.plinth(&format!("drive evacuate p @{from} --wait --timeout 600s")).ok();
        wait_left_alone(&agent);
    }
    check(&agent, &contents);
}

fn with_input(agent: &Agent, line: &str, input: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plinth"));
    command.env("PLINTH_SOCKET", agent.socket()).args(agent.words(line)).stdin(Stdio::piped());
    let mut running = command.stdout(Stdio::null()).spawn().expect("plinth runs");
    running.stdin.take().expect("piped").write_all(input.as_bytes()).expect("taken");
    assert!(running.wait().expect("ends").success(), "{line}");
}

/// What cannot be served is not tended: that is told, and what was wanted says what it waits for.
#[test]
fn one_that_cannot_be_served_says_so() {
    let mut agent = Agent::start();
    ["d1", "d2", "d3"].iter().for_each(|name| drop(agent.drive(name, 256)));
    agent.plinth("pool create p @d1 @d2 @d3 --extent-size 8MiB").ok();
    agent.plinth("pool set p tend=0").ok();
    with_input(&agent, "key create k --provider passphrase", "one\n");
    agent.plinth("volume create v --pool p --size 64MiB --encrypt --kek k").ok();
    let mut contents = Contents::new(64);
    contents.write(&mut attach(&agent), 0, 1);
    agent.plinth("volume detach v").ok();
    agent.kill();
    agent.run();
    agent.plinth("drive evacuate p @d1 --wait").fails(6, &["could not be tended", "locked"]);
    assert_eq!(pool(&agent)["tasks"][0]["state"], "blocked");
    with_input(&agent, "key unlock k", "one\n");
    agent.plinth("drive evacuate p @d1 --wait --timeout 600s").ok();
    wait_left_alone(&agent);
    agent.plinth("rekey v --wait --timeout 600s").ok();
    wait_left_alone(&agent);
    check(&agent, &contents);
}
