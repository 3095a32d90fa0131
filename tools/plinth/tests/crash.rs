//! Every verb can be cut short by a kill of the agent at any step, and its repetition ends where an undisturbed
//! one would.
mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::contents::Contents;
use support::nbd::Nbd;
use support::{Agent, DEADLINE};

/// Delays between the command and the kill, in microseconds: from before its first step to after its last.
const DELAYS: [u64; 10] = [0, 500, 2_000, 4_000, 8_000, 15_000, 25_000, 40_000, 80_000, 160_000];

/// Runs a command while the agent is killed after `delay`, starts the agent again, repeats the command.
#[track_caller]
fn killed_and_repeated(agent: &mut Agent, line: &str, delay: u64) -> String {
    let (words, socket) = (agent.words(line), agent.socket());
    let running = std::thread::spawn(move || support::plinth_at(&socket, words));
    std::thread::sleep(Duration::from_micros(delay));
    agent.kill();
    let cut = running.join().expect("no panic");
    assert!(matches!(cut.code, 0 | 9), "{line}: {} {}", cut.code, cut.err);
    agent.run();
    let repeated = agent.plinth(line).ok();
    if cut.code == 0 {
        assert_eq!(cut.out, repeated, "{line}");
    }
    repeated
}

#[test]
fn verbs_of_pools_and_volumes_converge() {
    let mut agent = Agent::start();
    for drive in ["d1", "d2", "d3"] {
        agent.drive(drive, 256);
    }
    for delay in DELAYS {
        for line in [
            "pool create p @d1 @d2",
            "pool add p @d3",
            "volume create v --pool p --size 64MiB",
            "volume resize v 96MiB",
            "volume rename v w",
        ] {
            killed_and_repeated(&mut agent, line, delay);
        }
        let status = agent.plinth("status -o json").json();
        assert_eq!(status["health"], "online", "{status}");
        let volume = &status["volumes"][0];
        assert_eq!((&volume["name"], &volume["size_bytes"]), (&"w".into(), &(96u64 << 20).into()));
        assert_eq!(status["pools"][0]["allocated_bytes"], 2 * (64 << 20), "{status}");
        for line in ["volume delete w --yes --if-exists", "pool delete p --yes --if-exists"] {
            killed_and_repeated(&mut agent, line, delay);
        }
        let status = agent.plinth("status -o json").json();
        assert_eq!(
            (status["pools"].as_array().map(Vec::len), status["volumes"].as_array().map(Vec::len)),
            (Some(0), Some(0))
        );
    }
}

/// Whatever happens, the group is there, and knows whether it has a volume.
#[test]
fn groups_converge() {
    let mut agent = Agent::start();
    agent.pool();
    agent.plinth("key create k").ok();
    for delay in DELAYS {
        killed_and_repeated(&mut agent, "group create g --pool p --encrypt --kek k", delay);
        let made = agent.plinth("group show g -o json").json();
        killed_and_repeated(&mut agent, "volume create v --pool p --size 64MiB --group g", delay);
        let full = agent.plinth("group show g -o json").json();
        assert_eq!((&full["volumes"][0], &full["created_at"]), (&"v".into(), &made["created_at"]));
        killed_and_repeated(&mut agent, "volume delete v --yes --if-exists", delay);
        assert_eq!(agent.plinth("group show g -o json").json(), made);
        killed_and_repeated(&mut agent, "group delete g --yes --if-exists", delay);
    }
    assert_eq!(agent.plinth("group list -o name").ok(), "");
}

#[test]
fn attach_and_detach_converge() {
    let mut agent = Agent::start();
    agent.volume();
    for delay in DELAYS {
        killed_and_repeated(&mut agent, "volume attach v --nbd @n", delay);
        Nbd::connect(&agent.path("n")).write(0, &[1; 4096]);
        killed_and_repeated(&mut agent, "volume detach v", delay);
        assert_eq!(agent.plinth("volume show v -o json").json()["state"], "detached");
    }
    agent.plinth("fsck @d1 @d2").ok();
}

#[test]
fn an_upgrade_converges() {
    let mut agent = Agent::start();
    agent.volume();
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n")).write(0, &[1; 4096]);
    for (round, delay) in DELAYS.into_iter().enumerate() {
        let binary = format!("plinth-{}", round % 2);
        std::fs::copy(env!("CARGO_BIN_EXE_plinth"), agent.path(&binary)).expect("copies");
        killed_and_repeated(&mut agent, &format!("volume upgrade v --binary @{binary}"), delay);
        let shown = agent.wait_state("v", "attached");
        let pid = shown["target"]["pid"].as_u64().expect("a target");
        let runs = std::fs::read_link(format!("/proc/{pid}/exe")).expect("a program");
        assert_eq!((runs, &shown["health"]), (agent.path(&binary), &"online".into()));
    }
    assert!(Nbd::connect(&agent.path("n")).read(0, 4096) == [1; 4096]);
}

#[test]
fn export_and_import_converge() {
    let mut agent = Agent::start();
    agent.volume();
    for delay in DELAYS {
        killed_and_repeated(&mut agent, "pool export p", delay);
        killed_and_repeated(&mut agent, "pool import p", delay);
        assert_eq!(agent.plinth("volume show v -o json").json()["health"], "online");
    }
}

/// Looks until it is so.
#[track_caller]
fn wait_until(agent: &Agent, what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        let shown = || agent.plinth("status -o json").out;
        assert!(start.elapsed() < DEADLINE, "not {what}: {} {}", shown(), agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn show(agent: &Agent) -> Value {
    agent.plinth("volume show v -o json").json()
}

/// The drives of the pool: file and state.
fn drives(agent: &Agent) -> BTreeMap<String, String> {
    let list = agent.plinth("drive list p -o json").json();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let name = |drive: &Value| text(&drive["path"]).rsplit('/').next().expect("a name").to_owned();
    list.as_array().expect("a list").iter().map(|drive| (name(drive), text(&drive["state"]))).collect()
}

/// A drive is given up, another one takes its place, and a third leaves and comes again, round and round under a served volume.
#[test]
fn drives_that_fail_are_replaced_and_removed_converge() {
    let mut agent = Agent::start();
    ["a", "b", "c"].iter().for_each(|name| drop(agent.drive(name, 256)));
    agent.plinth("pool create p @a @b @c --extent-size 8MiB").ok();
    agent.plinth("volume create v --pool p --size 64MiB").ok();
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    let mut contents = Contents::new(64);
    contents.write(&mut nbd, 0, 1);
    let mut names = ["a", "b", "c"].map(str::to_owned);
    for (round, delay) in DELAYS.into_iter().enumerate().step_by(2) {
        let [kept, failed, removed] = &names;
        let new = format!("new{round}");
        killed_and_repeated(&mut agent, &format!("drive fail p @{failed}"), delay);
        assert_eq!(drives(&agent)[failed], "failed");
        contents.write(&mut nbd, round, 3);
        agent.drive(&new, 256);
        let replace = format!("drive replace p @{failed} @{new} --wait --timeout 600s");
        killed_and_repeated(&mut agent, &replace, delay);
        let well = |agent: &Agent| show(agent)["health"] == "online";
        wait_until(&agent, "whole with the new drive", || well(&agent));
        let now = drives(&agent);
        assert!(!now.contains_key(failed) && now[&new] == "online", "{now:?}");
        contents.write(&mut nbd, round, 5);
        let remove = format!("drive remove p @{removed} --wait --timeout 600s");
        killed_and_repeated(&mut agent, &remove, delay);
        assert_eq!(drives(&agent).into_keys().collect::<Vec<_>>(), sorted([kept, &new]));
        killed_and_repeated(&mut agent, &format!("pool add p @{removed}"), delay);
        assert_eq!(drives(&agent).into_keys().collect::<Vec<_>>(), sorted([kept, &new, removed]));
        assert!(well(&agent), "{}", show(&agent));
        contents.check(&mut nbd);
        names = [new, removed.clone(), kept.clone()];
    }
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth(&format!("fsck @{} @{} @{}", names[0], names[1], names[2])).ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(agent.plinth("pool status p -o json").json()["allocated_bytes"], 0);
}

fn sorted<const N: usize>(names: [&String; N]) -> Vec<String> {
    let mut names = names.map(Clone::clone).to_vec();
    names.sort_unstable();
    names
}

/// One that begins is begun once, and one that is ended stays ended.
#[test]
fn scrubs_converge() {
    let mut agent = Agent::start();
    agent.volume();
    agent.plinth("volume attach v --nbd @n").ok();
    Contents::new(256).write(&mut Nbd::connect(&agent.path("n")), 0, 1);
    // Slow enough to be under way all the time.
    agent.plinth("pool set p scrub_rate=256KiB").ok();
    let status = |agent: &Agent| agent.plinth("scrub status v -o json").json();
    let began = |agent: &Agent| {
        let events = agent.plinth("events -o json").json();
        events.as_array().expect("a list").iter().filter(|event| event["kind"] == "scrub_started").count()
    };
    for (round, delay) in DELAYS.into_iter().enumerate() {
        killed_and_repeated(&mut agent, "scrub start v -o name", delay);
        wait_until(&agent, "under way", || status(&agent)["state"] == "running");
        assert_eq!(began(&agent), round + 1);
        killed_and_repeated(&mut agent, "scrub stop v -o name", delay);
        assert_eq!(status(&agent)["state"], "stopped");
    }
    agent.plinth("pool set p scrub_rate=0").ok();
    let last = agent.plinth("scrub start v --wait -o json").json();
    assert_eq!((&last["state"], &last["copies_repaired"]), (&"finished".into(), &0.into()));
}

/// What lacks in a stale copy is given up by one word, also if it has to be said again.
#[test]
fn a_forced_attach_converges() {
    let mut agent = Agent::start();
    agent.volume();
    let attach = |agent: &Agent| {
        agent.plinth("volume attach v --nbd @n").ok();
        Nbd::connect(&agent.path("n"))
    };
    let away = |agent: &Agent, name: &str| {
        std::fs::rename(agent.path(name), agent.path(&format!("state/{name}"))).expect("moves away");
    };
    let back = |agent: &Agent, name: &str| {
        std::fs::rename(agent.path(&format!("state/{name}")), agent.path(name)).expect("moves back");
    };
    let mut contents = Contents::new(64);
    contents.write(&mut attach(&agent), 0, 1);
    for (round, delay) in DELAYS.into_iter().enumerate().step_by(2) {
        agent.plinth("volume detach v").ok();
        let (stale, other) = if round % 4 == 0 { ("d2", "d1") } else { ("d1", "d2") };
        away(&agent, stale);
        contents.clone().write(&mut attach(&agent), 0, 2);
        agent.plinth("volume detach v").ok();
        away(&agent, other);
        back(&agent, stale);
        agent.plinth("volume attach v --nbd @n").fails(6, &["no complete copy"]);
        let forced = "volume attach v --nbd @n --force-stale --yes --timeout 600s";
        killed_and_repeated(&mut agent, forced, delay);
        let mut nbd = Nbd::connect(&agent.path("n"));
        contents.check(&mut nbd);
        contents.write(&mut nbd, round, 5);
        back(&agent, other);
        agent.plinth("status").ok();
        wait_until(&agent, "whole again", || show(&agent)["health"] == "online");
        contents.check(&mut nbd);
    }
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2").ok();
}

/// Copies come and go.
#[test]
fn changes_of_the_number_of_legs_converge() {
    let mut agent = Agent::start();
    ["d1", "d2", "d3"].iter().for_each(|name| drop(agent.drive(name, 256)));
    agent.plinth("pool create p @d1 @d2 @d3 --extent-size 8MiB").ok();
    agent.plinth("volume create v --pool p --size 64MiB").ok();
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    let mut contents = Contents::new(64);
    for (round, delay) in DELAYS.into_iter().enumerate() {
        contents.write(&mut nbd, round, 3);
        let legs = [3, 1, 2][round % 3];
        killed_and_repeated(&mut agent, &format!("volume set v legs={legs}"), delay);
        wait_until(&agent, "of so many legs", || {
            let tasks = agent.plinth("pool status p -o json").json()["tasks"].clone();
            let shown = show(&agent);
            shown["leg_count"] == legs && shown["health"] == "online" && tasks == Value::Array(Vec::new())
        });
        contents.check(&mut nbd);
    }
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2 @d3").ok();
}
