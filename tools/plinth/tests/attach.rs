//! Volumes that are served, over NBD: targets outlive agents, die and are replaced; attachments are restored.
mod support;

use support::nbd::Nbd;
use support::{Agent, signal};

fn attach(agent: &Agent) -> Nbd {
    let socket = agent.path("n");
    assert_eq!(agent.plinth("volume attach v --nbd @n").ok(), format!("{}\n", socket.display()));
    Nbd::connect(&socket)
}

fn target_pid(agent: &Agent) -> u64 {
    agent.plinth("volume show v -o json").json()["target"]["pid"].as_u64().expect("a target")
}

#[test]
fn what_was_flushed_is_there_after_detach_and_attach() {
    let agent = Agent::start();
    agent.volume();
    let mut nbd = attach(&agent);
    assert_eq!(nbd.size, 64 << 20);
    nbd.write(4096, &[7; 8192]);
    nbd.flush();
    assert_eq!(nbd.read(0, 16384)[4096..12288], [7; 8192]);
    agent.plinth("volume detach v").fails(6, &["volume v is in use", "1 connected over NBD", "disconnect"]);
    nbd.write(0, &[6; 4096]);
    nbd.flush();
    drop(nbd);
    let shown = agent.plinth("volume show v -o json").json();
    assert_eq!((&shown["state"], &shown["frontend"]), (&"attached".into(), &"nbd".into()));
    assert!(shown["durable_seq"].as_u64() >= Some(2), "{shown}");
    assert_eq!(shown["mapped_bytes"], 3 * 4096, "{shown}");
    agent.plinth("volume detach v").ok();
    assert!(!agent.path("n").exists(), "the socket goes with the attachment");
    assert_eq!(agent.plinth("volume show v -o json").json()["state"], "detached");
    let mut nbd = attach(&agent);
    assert_eq!(nbd.read(4096, 8192), [7; 8192]);
}

/// The kernel's address of a socket is short; a state folder may be anywhere.
#[test]
fn a_deep_state_folder_is_no_obstacle() {
    let mut agent = Agent::stopped();
    agent.state = "a-state-folder/far-down-in-a-tree-of-folders/of-this-machine";
    std::fs::create_dir_all(agent.path(agent.state).parent().expect("a folder above")).expect("made");
    agent.run();
    agent.volume();
    let mut nbd = attach(&agent);
    nbd.write(0, &[1; 4096]);
    agent.kill();
    agent.run();
    agent.wait_state("v", "attached");
    assert_eq!(nbd.read(0, 4096), [1; 4096]);
    drop(nbd);
    agent.plinth("volume detach v").ok();
}

/// The agent is no part of the data path: it may end in any way while requests are served.
#[test]
fn a_target_outlives_its_agent() {
    let mut agent = Agent::start();
    agent.volume();
    let mut nbd = attach(&agent);
    let pid = target_pid(&agent);
    nbd.write(0, &[1; 4096]);
    agent.kill();
    nbd.write(4096, &[2; 4096]);
    nbd.flush();
    agent.run();
    let shown = agent.wait_state("v", "attached");
    assert_eq!((&shown["target"]["pid"], &shown["target"]["restarts"]), (&pid.into(), &0.into()));
    agent.terminate();
    nbd.write(8192, &[3; 4096]);
    agent.run();
    agent.wait_state("v", "attached");
    assert_eq!(target_pid(&agent), pid);
    let data = nbd.read(0, 12288);
    assert_eq!((data[0], data[4096], data[8192]), (1, 2, 3));
    drop(nbd);
    agent.plinth("volume detach v").ok();
}

#[test]
fn a_killed_target_is_replaced_and_nothing_flushed_is_lost() {
    let agent = Agent::start();
    agent.volume();
    let mut restarts = 0;
    for round in 1..=5u8 {
        let mut nbd = attach(&agent);
        if round > 1 {
            assert_eq!(nbd.read(0, 4096), [round - 1; 4096], "round {round}");
        }
        nbd.write(0, &[round; 4096]);
        nbd.flush();
        let pid = target_pid(&agent);
        assert!(signal("KILL", &pid.to_string()), "the target lives");
        // Its process is replaced; until then the volume is shown as recovering.
        loop {
            let shown = agent.wait_state("v", "attached");
            restarts = shown["target"]["restarts"].as_u64().unwrap_or(0);
            if shown["target"]["pid"].as_u64().is_some_and(|now| now != pid) {
                break;
            }
        }
    }
    assert_eq!(restarts, 5);
    let shown = agent.plinth("volume show v -o json").json();
    assert!(shown["gen"].as_u64() >= Some(6), "{shown}");
    assert!(agent.plinth("events").ok().contains("target_restarted"));
}

/// After a crash of the whole node neither agent nor target is there; the attachment is restored.
#[test]
fn attachments_are_restored() {
    let mut agent = Agent::start();
    agent.volume();
    let mut nbd = attach(&agent);
    nbd.write(0, &[9; 4096]);
    nbd.flush();
    let pid = target_pid(&agent);
    agent.kill();
    assert!(signal("KILL", &pid.to_string()), "the target lives");
    agent.run();
    agent.wait_state("v", "attached");
    assert_eq!(Nbd::connect(&agent.path("n")).read(0, 4096), [9; 4096]);
}

/// A drive that goes while the volume is served: the leg is stale, durably, and the volume goes on.
#[test]
fn a_volume_is_attached_without_a_drive() {
    let mut agent = Agent::start();
    agent.volume();
    let mut nbd = attach(&agent);
    nbd.write(0, &[5; 4096]);
    nbd.flush();
    drop(nbd);
    agent.plinth("volume detach v").ok();
    std::fs::rename(agent.path("d2"), agent.path("state/away")).expect("moves");
    let mut nbd = attach(&agent);
    assert_eq!(nbd.read(0, 4096), [5; 4096]);
    nbd.write(0, &[6; 4096]);
    nbd.flush();
    drop(nbd);
    let shown = agent.plinth("volume show v -o json").json();
    assert_eq!(shown["health"], "degraded", "{shown}");
    let states: Vec<_> = (0..2).map(|leg| shown["legs"][leg]["drives"][0]["state"].clone()).collect();
    assert!(states.contains(&"current".into()) && states.iter().any(|state| state != "current"), "{shown}");
    agent.plinth("status --check").ok_but(14);
    agent.plinth("volume detach v").ok();
    // The drive is back with old content: it is stale, whatever it says itself, and alone it does not open.
    std::fs::rename(agent.path("state/away"), agent.path("d2")).expect("moves");
    std::fs::rename(agent.path("d1"), agent.path("state/away")).expect("moves");
    let refused = agent.plinth("volume attach v --nbd @n");
    assert_eq!(refused.code, 6, "{}", refused.err);
    assert_eq!(agent.plinth("volume show v -o json").json()["state"], "detached");
    std::fs::rename(agent.path("state/away"), agent.path("d1")).expect("moves");
    let mut nbd = attach(&agent);
    assert_eq!(nbd.read(0, 4096), [6; 4096]);
    drop(nbd);
    agent.terminate();
    agent.run();
    agent.wait_state("v", "attached");
}

trait OkBut {
    fn ok_but(self, code: i32);
}

impl OkBut for support::Ran {
    #[track_caller]
    fn ok_but(self, code: i32) {
        assert_eq!(self.code, code, "out: {} err: {}", self.out, self.err);
    }
}

#[test]
fn a_volume_grows_while_it_is_served_and_while_it_is_not() {
    let agent = Agent::start();
    agent.volume();
    let nbd = attach(&agent);
    agent.plinth("volume resize v +64MiB").ok();
    drop(nbd);
    let mut nbd = Nbd::connect(&agent.path("n"));
    assert_eq!(nbd.size, 128 << 20);
    nbd.write((128 << 20) - 4096, &[4; 4096]);
    nbd.flush();
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("volume resize v 192MiB").ok();
    let mut nbd = attach(&agent);
    assert_eq!(nbd.size, 192 << 20);
    assert_eq!(nbd.read((128 << 20) - 4096, 8192)[4090..4100], [4, 4, 4, 4, 4, 4, 0, 0, 0, 0]);
}

#[test]
fn a_read_only_attachment_refuses_writes() {
    let agent = Agent::start();
    agent.volume();
    let mut nbd = attach(&agent);
    nbd.write(0, &[8; 4096]);
    nbd.flush();
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("volume attach v --nbd @n --read-only").ok();
    assert_eq!(agent.plinth("volume show v -o json").json()["state"], "read_only");
    let mut nbd = Nbd::connect(&agent.path("n"));
    assert_eq!(nbd.read(0, 4096), [8; 4096]);
    assert_ne!(nbd.try_write(0, &[1; 4096]), 0);
    drop(nbd);
    agent.plinth("volume detach v").ok();
}

/// Several volumes of one pool are served from the same drives, each by a target of its own.
#[test]
fn two_volumes_share_drives() {
    let agent = Agent::start();
    agent.volume();
    agent.plinth("volume create w --pool p --size 64MiB").ok();
    let mut first = attach(&agent);
    agent.plinth("volume attach w --nbd @m").ok();
    let mut second = Nbd::connect(&agent.path("m"));
    first.write(0, &[1; 4096]);
    second.write(0, &[2; 4096]);
    first.flush();
    second.flush();
    assert_eq!((first.read(0, 4096), second.read(0, 4096)), (vec![1; 4096], vec![2; 4096]));
    drop((first, second));
    agent.plinth("node stop --all --yes").ok();
}

/// Space on demand: more is written than the first row holds, then more than the pool has.
#[test]
fn space_is_added_on_demand_until_the_pool_is_full() {
    let agent = Agent::start();
    agent.drive("d1", 512);
    agent.plinth("pool create p @d1").ok();
    agent.plinth("volume create v --pool p --size 1GiB --legs 1").ok();
    let mut nbd = attach(&agent);
    let chunk = vec![3u8; 4 << 20];
    let mut written = 0u64;
    let error = loop {
        match nbd.try_write(written, &chunk) {
            0 => written += chunk.len() as u64,
            error => break error,
        }
        assert!(written < 1 << 30, "a drive of 512 MiB cannot hold 1 GiB");
    };
    assert_eq!(error, 28, "ENOSPC");
    assert!(written > 300 << 20, "{written} bytes were written");
    nbd.flush();
    assert_eq!(nbd.read(written - 4096, 4096), [3; 4096]);
    let pool = agent.plinth("pool status p -o json").json();
    assert_eq!(pool["free_bytes"], 0, "{pool}");
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(agent.plinth("pool status p -o json").json()["allocated_bytes"], 0);
}
