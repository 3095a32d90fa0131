//! What happens becomes events, once each, and a reader that follows misses none of them.
mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;
use support::{Agent, DEADLINE};

/// Events of this kind, oldest first.
fn events(agent: &Agent, kind: &str) -> Vec<Value> {
    let all = agent.plinth("events -o json").json();
    all.as_array().expect("a list").iter().filter(|event| event["kind"] == kind).cloned().collect()
}

/// Waits until there are so many events of a kind; returns the last. Targets are asked meanwhile, as somebody who
/// waits would: what they count is told when it was seen.
fn wait_event(agent: &Agent, kind: &str, count: usize) -> Value {
    let start = Instant::now();
    loop {
        agent.plinth("status").ok();
        let found = events(agent, kind);
        if found.len() >= count {
            assert_eq!(found.len(), count, "{kind}: {found:?}");
            return found.last().cloned().expect("at least one");
        }
        assert!(start.elapsed() < DEADLINE, "no {kind} in: {}", agent.plinth("events").out);
        std::thread::yield_now();
    }
}

/// A running `plinth events --follow -o json`.
struct Follower {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn start(agent: &Agent, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plinth"));
        command.args(["events", "--follow", "-o", "json", "--quiet"]).args(more);
        command.env("PLINTH_SOCKET", agent.socket()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("starts");
        let lines = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, lines }
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("reads");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next();
            if event["kind"] == kind {
                return event;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_follower_goes_on_across_restarts_of_the_agent() {
    let mut agent = Agent::start();
    agent.pool();
    let mut follower = Follower::start(&agent, &[]);
    let mut ids = vec![follower.next_of("pool_create")["id"].as_u64().expect("a number")];
    agent.kill();
    agent.run();
    agent.plinth("volume create v --pool p --size 64MiB").ok();
    ids.push(follower.next_of("volume_create")["id"].as_u64().expect("a number"));
    agent.terminate();
    agent.run();
    agent.plinth("volume delete v --yes").ok();
    ids.push(follower.next_of("volume_delete")["id"].as_u64().expect("a number"));
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    // Whoever has gone away is not written for: the follower ends when its reader has.
    drop(std::mem::replace(&mut follower.lines, BufReader::new(pipe())));
    agent.plinth("volume create w --pool p --size 64MiB").ok();
    assert!(follower.process.wait().expect("ends").success());
}

/// A pipe that gives nothing.
fn pipe() -> ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().expect("starts");
    let out = child.stdout.take().expect("a pipe");
    child.wait().expect("ends");
    out
}

#[test]
fn follow_ends_in_time_and_since_leaves_out_what_was_before() {
    let agent = Agent::start();
    agent.pool();
    let all = agent.plinth("events --follow --timeout 1s -o name").ok();
    assert_eq!(all, agent.plinth("events -o name").ok());
    assert_eq!(agent.plinth("events --since 2999-01-01T00:00:00Z -o name").ok(), "");
    assert_eq!(agent.plinth("events --follow --since 2999-01-01 --timeout 1s -o name").ok(), "");
    assert_eq!(agent.plinth("events --since 1h -o name").ok(), all);
    assert_eq!(agent.plinth("events --since 1970-01-01T00:00:00+00:00 -o name").ok(), all);
    agent.plinth("events --since soon").fails(2, &["soon", "10m"]);
    agent.plinth("events --since 2026-02-30").fails(2, &["2026-02-30"]);
    let nobody = Agent::stopped();
    nobody.plinth("events --follow").fails(9, &["plinth node"]);
}

#[test]
fn a_pool_that_fills_up_says_so_once() {
    let agent = Agent::start();
    agent.pool();
    for volume in ["a", "b", "c"] {
        agent.plinth(&format!("volume create {volume} --pool p --size 64MiB")).ok();
    }
    let full = wait_event(&agent, "pool_full", 1);
    assert_eq!((&full["object"], &full["severity"]), (&"p".into(), &"error".into()));
    agent.plinth("volume delete a --yes").ok();
    wait_event(&agent, "pool_space_ok", 1);
    agent.plinth("volume create a --pool p --size 64MiB").ok();
    wait_event(&agent, "pool_full", 2);
}

#[test]
fn a_drive_that_goes_and_comes_back_is_told_also_across_a_restart() {
    let mut agent = Agent::start();
    agent.volume();
    // Not beside the others: there it would be found.
    std::fs::create_dir(agent.path("far")).expect("makes");
    std::fs::rename(agent.path("d2"), agent.path("far/d2")).expect("renames");
    agent.plinth("status").ok();
    wait_event(&agent, "drive_missing", 1);
    assert_eq!(wait_event(&agent, "volume_degraded", 1)["object"], "v");
    agent.kill();
    agent.run();
    agent.plinth("status").ok();
    agent.terminate();
    std::fs::rename(agent.path("far/d2"), agent.path("d2")).expect("renames");
    agent.run();
    wait_event(&agent, "drive_back", 1);
    assert_eq!(wait_event(&agent, "volume_healed", 1)["severity"], "info");
    assert_eq!(events(&agent, "drive_missing").len(), 1, "what was known before the restart is not news");
}

#[test]
fn failed_checks_and_repairs_are_told() {
    let agent = Agent::start();
    agent.volume();
    let block: Vec<u8> = (0..4096u32).map(|n| (n * 7 + n / 256) as u8).collect();
    agent.plinth("volume attach v --nbd @n").ok();
    support::nbd::Nbd::connect(&agent.path("n")).write(0, &block);
    agent.plinth("volume detach v").ok();
    for drive in ["d1", "d2"] {
        let path = agent.path(drive);
        let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
        let mut have = vec![0; 4096];
        let places = (0..(256u64 << 20) / 4096).map(|n| n * 4096);
        let mut ours = places.filter(|at| file.read_exact_at(&mut have, *at).is_ok() && have == block);
        let at = ours.next().expect("the block is on the drive");
        if drive == "d1" {
            file.write_all_at(&[0xff; 512], at + 512).expect("writes");
        }
    }
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = support::nbd::Nbd::connect(&agent.path("n"));
    // Legs take turns: the damaged one is read sooner or later.
    for _ in 0..64 {
        assert!(nbd.read(0, 4096) == block, "the other leg has it");
    }
    wait_event(&agent, "check_errors", 1);
    wait_event(&agent, "blocks_repaired", 1);
    let row = events(&agent, "row_added");
    assert!(row.iter().all(|event| event["object"] == "v"), "{row:?}");
}
