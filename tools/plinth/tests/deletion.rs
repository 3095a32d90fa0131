//! Volumes are deleted while drives of theirs are away.
mod support;

use std::time::{Duration, Instant};
use support::nbd::Nbd;
use support::{Agent, DEADLINE};

/// A pool `p` of three drives and a volume `v` on two of them, one of which is away. Returns the name of that.
fn without_a_drive(agent: &Agent) -> &'static str {
    for name in ["d1", "d2", "d3"] {
        agent.drive(name, 256);
    }
    agent.plinth("pool create p @d1 @d2 @d3 --extent-size 8MiB").ok();
    agent.plinth("volume create v --pool p --size 64MiB").ok();
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n")).write(0, &[1; 4096]);
    agent.plinth("volume detach v").ok();
    let away = ["d1", "d2", "d3"].into_iter().find(|name| taken(agent, name) > 0).expect("it lies somewhere");
    std::fs::rename(agent.path(away), agent.path(&format!("state/{away}"))).expect("moves away");
    away
}

/// Bytes of a drive that are taken.
fn taken(agent: &Agent, name: &str) -> u64 {
    let path = agent.path(name).display().to_string();
    let pool = agent.plinth("pool status p -o json").json();
    let mut drives = pool["drives"].as_array().expect("a list").iter();
    let drive = drives.find(|drive| drive["path"] == path.as_str()).expect("it is in the pool");
    drive["allocated_bytes"].as_u64().expect("a number")
}

fn names(away: &str) -> String {
    ["d1", "d2", "d3"].into_iter().filter(|name| *name != away).map(|name| format!("@{name} ")).collect()
}

/// The story: one drive of a mirror was dead. The deletion failed, and with `--if-exists` it said that all was well; the
/// volume could be neither attached nor deleted from then on, and no drive nor pool got rid of it.
#[test]
fn a_volume_is_deleted_without_a_drive_of_its() {
    let agent = Agent::start();
    let away = without_a_drive(&agent);
    agent.plinth("volume delete v --yes --if-exists").ok();
    agent.plinth("volume show v").fails(5, &["no volume v"]);
    agent.plinth("volume delete v --yes").fails(5, &["no volume v"]);
    agent.plinth("volume delete v --yes --if-exists").ok();
    assert!(taken(&agent, away) > 0, "nobody could wipe it");
    // Its name and the others' space are free.
    agent.plinth("volume create v --pool p --size 64MiB").ok();
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n")).write(0, &[2; 4096]);
    agent.plinth("volume detach v").ok();
    agent.plinth("volume delete v --yes").ok();
    agent.plinth(&format!("fsck {}", names(away))).ok();
    // It is back: what it had is wiped and free, without a word from anybody.
    std::fs::rename(agent.path(&format!("state/{away}")), agent.path(away)).expect("moves back");
    let start = Instant::now();
    while taken(&agent, away) > 0 {
        assert!(start.elapsed() < DEADLINE, "{}\n{}", agent.plinth("events").out, agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let pool = agent.plinth("pool status p -o json").json();
    assert_eq!((&pool["allocated_bytes"], &pool["health"]), (&0.into(), &"online".into()));
    agent.plinth("pool export p").ok();
    agent.plinth("pool import @d1 @d2 @d3").ok();
    assert_eq!(agent.plinth("volume list -o name").ok(), "", "it does not come back from what it left");
    agent.plinth("pool delete p --yes").ok();
}

/// The dead drive leaves the pool, and nothing is left of the volume; or the pool goes.
#[test]
fn what_a_deleted_volume_left_goes_with_its_drive() {
    let agent = Agent::start();
    let away = without_a_drive(&agent);
    agent.plinth("volume delete v --yes").ok();
    agent.plinth(&format!("drive remove p @{away} --wait --timeout 600s")).ok();
    let pool = agent.plinth("pool status p -o json").json();
    assert_eq!((&pool["allocated_bytes"], &pool["health"]), (&0.into(), &"online".into()));
    assert_eq!(pool["drives"].as_array().map(Vec::len), Some(2));
    agent.plinth("pool delete p --yes").ok();
    let mut agent = Agent::start();
    without_a_drive(&agent);
    agent.plinth("volume delete v --yes").ok();
    agent.plinth("pool delete p --yes").ok();
    assert_eq!(agent.plinth("pool list -o name").ok(), "");
    // The next agent finds nothing that it would stumble over.
    agent.kill();
    agent.run();
    agent.plinth("status --check").ok();
}
