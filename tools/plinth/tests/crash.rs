//! Every verb can be cut short by a kill of the agent at any step, and its repetition ends where an undisturbed
//! one would.
mod support;

use std::time::Duration;
use support::Agent;

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
        support::nbd::Nbd::connect(&agent.path("n")).write(0, &[1; 4096]);
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
    support::nbd::Nbd::connect(&agent.path("n")).write(0, &[1; 4096]);
    for (round, delay) in DELAYS.into_iter().enumerate() {
        let binary = format!("plinth-{}", round % 2);
        std::fs::copy(env!("CARGO_BIN_EXE_plinth"), agent.path(&binary)).expect("copies");
        killed_and_repeated(&mut agent, &format!("volume upgrade v --binary @{binary}"), delay);
        let shown = agent.wait_state("v", "attached");
        let pid = shown["target"]["pid"].as_u64().expect("a target");
        let runs = std::fs::read_link(format!("/proc/{pid}/exe")).expect("a program");
        assert_eq!((runs, &shown["health"]), (agent.path(&binary), &"online".into()));
    }
    assert!(support::nbd::Nbd::connect(&agent.path("n")).read(0, 4096) == [1; 4096]);
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
