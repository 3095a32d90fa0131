//! Drives that were away, or were taken out, come back and get what they missed, while their volume is served.
mod support;

use serde_json::Value;
use std::time::{Duration, Instant};
use support::nbd::Nbd;
use support::{Agent, signal};

const CHUNK: u64 = 64 << 10;
/// The longest that anything here may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a chunk holds after its `turn`-th write: every block something else.
fn content(chunk: u64, turn: u64) -> Vec<u8> {
    let word =
        |block: u64| ((chunk << 32 | block) ^ (turn << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..CHUNK / 4096).flat_map(|block| word(block).repeat(512)).collect()
}

/// The volume's device and what must be on it: by chunk, the turn that wrote it last.
struct Contents(Vec<u64>);

impl Contents {
    fn new(chunks: usize) -> Self {
        Self(vec![0; chunks])
    }

    /// Writes chunks, each `step`-th from `first` on, with something new.
    fn write(&mut self, nbd: &mut Nbd, first: usize, step: usize) {
        for chunk in (first..self.0.len()).step_by(step) {
            self.0[chunk] += 1;
            nbd.write(chunk as u64 * CHUNK, &content(chunk as u64, self.0[chunk]));
        }
        nbd.flush();
    }

    fn check(&self, nbd: &mut Nbd) {
        for (chunk, turn) in self.0.iter().enumerate() {
            let read = nbd.read(chunk as u64 * CHUNK, CHUNK as usize);
            let expected = if *turn == 0 { vec![0; CHUNK as usize] } else { content(chunk as u64, *turn) };
            assert!(read == expected, "chunk {chunk} of turn {turn}");
        }
    }
}

fn show(agent: &Agent) -> Value {
    agent.plinth("volume show v -o json").json()
}

/// Looks until `is` is true of the volume.
#[track_caller]
fn wait_until(agent: &Agent, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let shown = show(agent);
        if is(&shown) {
            return shown;
        }
        let events = || agent.plinth("events").out;
        assert!(start.elapsed() < DEADLINE, "not {what}: {shown}\n{}\n{}", events(), agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn wait_healthy(agent: &Agent) -> Value {
    wait_until(agent, "healthy", |shown| shown["health"] == "online" && shown["resync"].is_null())
}

/// The state of the copy on the drive of a leg.
fn copy(shown: &Value, leg: usize) -> String {
    shown["legs"][leg]["drives"][0]["state"].as_str().expect("a state").to_owned()
}

fn away(agent: &Agent, name: &str) {
    std::fs::rename(agent.path(name), agent.path(&format!("state/{name}"))).expect("moves away");
}

fn back(agent: &Agent, name: &str) {
    std::fs::rename(agent.path(&format!("state/{name}")), agent.path(name)).expect("moves back");
}

fn attach(agent: &Agent) -> Nbd {
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n"))
}

fn events(agent: &Agent, kind: &str) -> Vec<String> {
    let events = agent.plinth("events -o json").json();
    let of_kind = events.as_array().expect("a list").iter().filter(|event| event["kind"] == kind);
    of_kind.map(|event| event["message"].as_str().expect("a message").to_owned()).collect()
}

/// Only the drive `name` is there: everything must be on it.
fn check_alone(agent: &Agent, contents: &Contents, gone: &str) {
    agent.plinth("volume detach v").ok();
    away(agent, gone);
    let mut nbd = attach(agent);
    assert_eq!(show(agent)["health"], "degraded");
    contents.check(&mut nbd);
    drop(nbd);
}

/// The contract's story: a drive is away, the mirror goes on, the drive is back and gets what it missed, and then it
/// alone has everything; and all of that the other way round.
#[test]
fn a_drive_that_was_away_is_brought_up_to_date_while_the_volume_is_served() {
    let agent = Agent::start();
    agent.volume();
    let mut contents = Contents::new(512);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 2);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    away(&agent, "d2");
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 3);
    let shown = show(&agent);
    assert_eq!((&shown["health"], copy(&shown, 1).as_str()), (&"degraded".into(), "stale"), "{shown}");
    back(&agent, "d2");
    // A look at everything finds the drive; the rest happens by itself, while the volume is in use.
    agent.plinth("status").ok();
    contents.write(&mut nbd, 1, 5);
    let shown = wait_healthy(&agent);
    assert_eq!((copy(&shown, 0).as_str(), copy(&shown, 1).as_str()), ("current", "current"));
    contents.check(&mut nbd);
    drop(nbd);
    check_alone(&agent, &contents, "d1");
    let mut nbd = Nbd::connect(&agent.path("n"));
    contents.write(&mut nbd, 2, 7);
    back(&agent, "d1");
    agent.plinth("status").ok();
    wait_healthy(&agent);
    drop(nbd);
    check_alone(&agent, &contents, "d2");
    assert_eq!(events(&agent, "drive_current").len(), 2);
    agent.plinth("volume detach v").ok();
    back(&agent, "d2");
    attach(&agent);
    wait_healthy(&agent);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2").ok();
}

/// The target dies in the middle of a resync, again and again, and the agent with it: the resync begins anew.
#[test]
fn a_resync_that_is_cut_short_is_begun_anew() {
    let mut agent = Agent::start();
    agent.volume();
    let mut contents = Contents::new(768);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 2);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    away(&agent, "d1");
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    back(&agent, "d1");
    agent.plinth("status").ok();
    for turn in 0..3 {
        wait_until(&agent, "resyncing", |shown| copy(shown, 0) != "stale");
        let pid = show(&agent)["target"]["pid"].as_u64().expect("a target");
        if turn == 1 {
            agent.kill();
        }
        assert!(signal("KILL", &pid.to_string()), "the target lives");
        if turn == 1 {
            agent.run();
        }
        wait_until(&agent, "served again", |shown| {
            shown["state"] == "attached" && shown["target"]["pid"].as_u64().is_some_and(|now| now != pid)
        });
        let mut nbd = Nbd::connect(&agent.path("n"));
        contents.write(&mut nbd, turn, 9);
    }
    wait_healthy(&agent);
    contents.check(&mut Nbd::connect(&agent.path("n")));
    check_alone(&agent, &contents, "d2");
    agent.plinth("volume detach v").ok();
}

/// A copied drive has the identity of the original, and nobody knows which one the group had; a drive of somebody
/// else has another one. Neither is taken.
#[test]
fn a_copied_or_foreign_drive_is_refused() {
    let agent = Agent::start();
    agent.volume();
    let mut contents = Contents::new(64);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    away(&agent, "d2");
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    // A drive of another pool in its place.
    agent.drive("d3", 256);
    agent.plinth("pool create q @d3").ok();
    std::fs::copy(agent.path("d3"), agent.path("d2")).expect("copies");
    agent.plinth("status").ok();
    std::fs::remove_file(agent.path("d2")).expect("removes");
    // The drive itself, and a copy of it.
    std::fs::copy(agent.path("state/d2"), agent.path("copy")).expect("copies");
    back(&agent, "d2");
    agent.plinth("status").ok();
    let start = Instant::now();
    let names = |message: &String, name: &str| message.contains(&agent.path(name).display().to_string());
    let both = |message: &String| names(message, "d2") && names(message, "copy");
    while !events(&agent, "drive_doubled").iter().any(both) {
        assert!(start.elapsed() < DEADLINE, "{}", agent.plinth("events").out);
    }
    assert_eq!(show(&agent)["health"], "degraded");
    std::fs::remove_file(agent.path("copy")).expect("removes");
    wait_healthy(&agent);
    contents.check(&mut nbd);
    drop(nbd);
    check_alone(&agent, &contents, "d1");
    agent.plinth("volume detach v").ok();
}
