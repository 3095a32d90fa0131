//! Encrypted volumes go over to new data keys while they are served, whatever is killed or away meanwhile.
mod support;

use serde_json::Value;
use std::time::{Duration, Instant};
use support::contents::Contents;
use support::nbd::Nbd;
use support::{Agent, DEADLINE, signal};

/// A pool of two drives, a key `k` in a file, and a volume `v` that it encrypts, of 64 MiB.
fn encrypted(agent: &Agent) {
    agent.pool();
    agent.plinth("key create k").ok();
    agent.plinth("volume create v --pool p --size 64MiB --encrypt --kek k").ok();
}

fn attach(agent: &Agent) -> Nbd {
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n"))
}

/// The same, attached, with so many chunks written.
fn written(agent: &Agent, chunks: usize) -> Contents {
    encrypted(agent);
    let mut contents = Contents::new(chunks);
    contents.write(&mut attach(agent), 0, 1);
    contents
}

fn shown(agent: &Agent) -> Value {
    agent.plinth("volume show v -o json").json()
}

fn pid(agent: &Agent) -> u64 {
    agent.wait_state("v", "attached")["target"]["pid"].as_u64().expect("a target")
}

/// Waits until the walk waits for this, or for nothing if that is empty.
#[track_caller]
fn wait_for(agent: &Agent, words: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let rekey = shown(agent)["rekey"].clone();
        if rekey["waits_for"].as_str().is_some_and(|why| why.contains(words)) {
            return;
        }
        assert!(Instant::now() < deadline, "it does not wait for {words}: {rekey}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// With the drives and the wrapping key alone: whatever is still under a key that was given up would be refused or wrong.
#[track_caller]
fn check_from_drives(agent: &mut Agent, contents: &Contents) {
    agent.plinth("volume detach v").ok();
    agent.terminate();
    std::fs::remove_file(agent.path("state/catalogue.redb")).expect("removes");
    agent.run();
    agent.plinth("key create k").ok();
    agent.plinth("pool import @d1 @d2").ok();
    contents.check(&mut attach(agent));
    agent.plinth("scrub start v --wait --timeout 600s").ok();
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2").ok();
}

#[test]
fn a_volume_goes_over_to_a_new_key_while_it_is_served() {
    let mut agent = Agent::start();
    let mut contents = written(&agent, 512);
    let before = pid(&agent);
    agent.plinth("rekey v --dry-run").ok();
    assert_eq!(shown(&agent)["rekey"], Value::Null);
    // Slow enough for the next target, too, to be in the midst of it if the old key went too early.
    agent.plinth("pool set p resync_rate=8MiB").ok();
    let done = agent.plinth("rekey v --wait --timeout 600s -o json").json();
    let target = pid(&agent);
    assert!(signal("KILL", &target.to_string()));
    assert_eq!(
        (&done["rekey"], done["encryption"]["rekeyed_at"].is_string()),
        (&Value::Null, true),
        "{done}"
    );
    assert_ne!(target, before, "another target writes under the new key");
    while pid(&agent) == target {
        std::thread::yield_now();
    }
    let mut nbd = Nbd::connect(&agent.path("n"));
    contents.check(&mut nbd);
    contents.write(&mut nbd, 3, 7);
    drop(nbd);
    // By the name of its group, and once more.
    let group = shown(&agent)["group"].as_str().expect("a group").to_owned();
    agent.plinth(&format!("rekey {group} --wait --timeout 600s")).ok();
    contents.check(&mut Nbd::connect(&agent.path("n")));
    let events = agent.plinth("events -o json").json();
    let said =
        |kind: &str| events.as_array().expect("a list").iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((said("rekey_started"), said("rekey_done")), (2, 2));
    check_from_drives(&mut agent, &contents);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let agent = Agent::start();
    encrypted(&agent);
    agent.plinth("volume create w --pool p --size 64MiB").ok();
    agent.plinth("rekey w").fails(2, &["not encrypted", "--encrypt"]);
    agent.plinth("rekey x").fails(5, &["x"]);
    let key = agent.path("state/keys/k.1");
    let right = std::fs::read(&key).expect("a key");
    std::fs::write(&key, [7; 32]).expect("writes");
    agent.plinth("rekey v").fails(8, &["k"]);
    assert_eq!(shown(&agent)["rekey"], Value::Null);
    std::fs::write(&key, right).expect("writes");
    agent.plinth("key destroy k --yes").ok();
    agent.plinth("rekey v").fails(8, &["destroyed"]);
}

/// Over NBD a target cannot be exchanged under its clients; detached, nothing can be written. It goes on by itself later.
#[test]
fn it_waits_until_it_can_go_on() {
    let mut agent = Agent::start();
    encrypted(&agent);
    let mut contents = Contents::new(128);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    agent.plinth("rekey v").ok();
    wait_for(&agent, "NBD clients");
    contents.check(&mut nbd);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    wait_for(&agent, "not attached");
    // The next target writes under the new key from the start.
    drop(attach(&agent));
    agent.plinth("rekey v --wait --timeout 600s").ok();
    contents.check(&mut Nbd::connect(&agent.path("n")));
    check_from_drives(&mut agent, &contents);
}

/// Target, agent, or both are killed at any step of the way, and the old key goes in the end, each time.
#[test]
fn a_walk_that_is_cut_short_ends_all_the_same() {
    let mut agent = Agent::start();
    let mut contents = written(&agent, 512);
    for (turn, delay) in [0, 10, 40, 100, 200, 400, 700, 1100, 1600].into_iter().enumerate() {
        let target = pid(&agent);
        agent.plinth("rekey v").ok();
        std::thread::sleep(Duration::from_millis(delay));
        if turn % 3 != 0 {
            agent.kill();
        }
        if turn % 3 != 1 {
            // The one that served may have made room for the next.
            signal("KILL", &target.to_string());
        }
        if turn % 3 != 0 {
            agent.run();
        }
        agent.plinth("rekey v --wait --timeout 600s").ok();
        pid(&agent);
        let mut nbd = Nbd::connect(&agent.path("n"));
        contents.check(&mut nbd);
        contents.write(&mut nbd, turn, 9);
        drop(nbd);
    }
    check_from_drives(&mut agent, &contents);
}

/// A drive that was away has blocks under the old key: it stays until the drive is there again, or given up.
#[test]
fn the_old_key_stays_for_a_drive_that_is_away() {
    let mut agent = Agent::start();
    let mut contents = written(&agent, 128);
    agent.plinth("drive offline p @d2").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    contents.write(&mut nbd, 1, 3);
    drop(nbd);
    agent.plinth("rekey v").ok();
    wait_for(&agent, "d2");
    agent.plinth("rekey v --wait --timeout 600s").fails(6, &["d2", "plinth drive fail"]);
    agent.plinth("drive online p @d2").ok();
    agent.plinth("rekey v --wait --timeout 600s").ok();
    assert_eq!(shown(&agent)["health"], "online");
    contents.check(&mut Nbd::connect(&agent.path("n")));
    // Given up, it is not waited for.
    agent.plinth("drive fail p @d2 --yes").ok();
    agent.plinth("rekey v --wait --timeout 600s").ok();
    contents.check(&mut Nbd::connect(&agent.path("n")));
    agent.plinth("volume detach v").ok();
    agent.terminate();
}
