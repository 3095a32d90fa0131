//! `volume upgrade`: another binary goes on serving; one that cannot changes nothing for long.
mod support;

use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use support::nbd::Nbd;
use support::{Agent, signal};

const PLINTH: &str = env!("CARGO_BIN_EXE_plinth");

/// Another file with the same program.
fn copy(agent: &Agent, name: &str) -> PathBuf {
    let path = agent.path(name);
    let temporary = agent.path("copying");
    std::fs::copy(PLINTH, &temporary).expect("copies");
    // A file that runs cannot be written; it can be replaced.
    std::fs::rename(&temporary, &path).expect("renames");
    path
}

/// A program that says that it is one of ours, and then does as the script says.
fn script(agent: &Agent, name: &str, serve: &str) -> PathBuf {
    let temporary = agent.path("writing");
    let text = format!("#!/bin/sh\nif [ \"$1\" = version ]; then exec {PLINTH} \"$@\"; fi\n{serve}\n");
    std::fs::write(&temporary, text).expect("writes");
    std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o700)).expect("sets");
    let path = agent.path(name);
    std::fs::rename(&temporary, &path).expect("renames");
    path
}

fn show(agent: &Agent) -> Value {
    agent.plinth("volume show v -o json").json()
}

fn pid(agent: &Agent) -> u64 {
    agent.wait_state("v", "attached")["target"]["pid"].as_u64().expect("a target")
}

/// The file that the volume's target runs.
fn runs(agent: &Agent) -> PathBuf {
    std::fs::read_link(format!("/proc/{}/exe", pid(agent))).expect("a program")
}

fn attached() -> Agent {
    let agent = Agent::start();
    agent.volume();
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n")).write(0, &[7; 8192]);
    agent
}

fn check(agent: &Agent) {
    assert!(Nbd::connect(&agent.path("n")).read(0, 8192) == [7; 8192], "what was written is there");
}

fn has_event(agent: &Agent, kind: &str) -> bool {
    agent.plinth("events").ok().contains(kind)
}

#[test]
fn another_binary_serves_and_is_remembered() {
    let mut agent = attached();
    let new = copy(&agent, "new");
    let before = pid(&agent);
    assert_eq!(agent.plinth("volume upgrade v --binary @new").ok(), "v\n");
    let shown = show(&agent);
    assert_eq!(shown["target"]["binary"], new.display().to_string());
    assert_eq!((&shown["state"], &shown["target"]["restarts"]), (&"attached".into(), &0.into()));
    assert_eq!(shown["target"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(runs(&agent), new);
    let after = pid(&agent);
    assert_ne!(before, after);
    let started = std::fs::read_to_string(format!("/proc/{after}/cmdline")).expect("reads");
    assert!(started.ends_with("--ahead\0"), "it was ready before the other one left: {started:?}");
    check(&agent);
    // Again: nothing is to be done.
    assert_eq!(agent.plinth("volume upgrade v --binary @new").ok(), "v\n");
    assert_eq!(pid(&agent), after);
    assert!(has_event(&agent, "target_upgraded"));
    // It is what is started after a death, and known to the next agent.
    assert!(signal("KILL", &after.to_string()));
    while agent.wait_state("v", "attached")["target"]["pid"].as_u64().is_none_or(|now| now == after) {}
    assert_eq!(runs(&agent), new);
    agent.kill();
    agent.run();
    agent.wait_state("v", "attached");
    assert_eq!(show(&agent)["target"]["binary"], new.display().to_string());
    // The file goes: what comes next is the agent's own.
    std::fs::remove_file(&new).expect("removes");
    let last = pid(&agent);
    assert!(signal("KILL", &last.to_string()));
    while agent.wait_state("v", "attached")["target"]["pid"].as_u64().is_none_or(|now| now == last) {}
    assert_eq!(runs(&agent), Path::new(PLINTH));
    assert!(has_event(&agent, "binary_missing"));
    check(&agent);
    copy(&agent, "new");
    agent.plinth("volume upgrade v --binary @new").ok();
    agent.plinth("volume upgrade v").ok();
    assert_eq!(runs(&agent), Path::new(PLINTH));
    agent.plinth("volume upgrade v --binary @new").ok();
    // An attachment of its own begins with the agent's binary.
    agent.plinth("volume detach v").ok();
    agent.plinth("volume attach v --nbd @n").ok();
    assert_eq!(runs(&agent), Path::new(PLINTH));
    check(&agent);
}

#[test]
fn what_cannot_serve_is_refused_and_changes_nothing() {
    let agent = attached();
    copy(&agent, "new");
    std::fs::write(agent.path("text"), "no program").expect("writes");
    script(&agent, "broken", "exit 9");
    std::fs::write(agent.path("foreign"), "#!/bin/sh\necho hello\n").expect("writes");
    std::fs::set_permissions(agent.path("foreign"), PermissionsExt::from_mode(0o700)).expect("sets");
    let newer = "#!/bin/sh\necho '{\"version\":\"9.0.0\",\"formats\":[2]}'\n";
    std::fs::write(agent.path("newer"), newer).expect("writes");
    std::fs::set_permissions(agent.path("newer"), PermissionsExt::from_mode(0o700)).expect("sets");
    let before = (pid(&agent), agent.state());
    for (binary, code, words) in [
        ("@none", 5, ["none", "No such file"]),
        ("@text", 2, ["text", "not an executable file"]),
        ("@foreign", 2, ["foreign", "no plinth"]),
        ("@newer", 10, ["newer", "format version 1"]),
    ] {
        agent.plinth(&format!("volume upgrade v --binary {binary}")).fails(code, &words);
    }
    let client = Nbd::connect(&agent.path("n"));
    agent.plinth("volume upgrade v --binary @new").fails(10, &["volume v", "NBD", "ublk"]);
    // Had the target been given up before it answered, it would see at this moment that its client has gone.
    drop(client);
    agent.plinth("volume upgrade v --binary @new --dry-run").ok();
    assert_eq!((pid(&agent), agent.state()), before);
    agent.plinth("volume upgrade w").fails(5, &["no volume w"]);
    agent.plinth("volume detach v").ok();
    agent.plinth("volume upgrade v --binary @new").fails(6, &["volume v is not attached"]);
}

#[test]
fn a_binary_that_does_not_come_up_makes_room_for_the_one_before() {
    let agent = attached();
    let before = pid(&agent);
    script(&agent, "broken", "echo out of order >&2; exit 9");
    let words = ["volume v", "out of order", "the one before serves again"];
    agent.plinth("volume upgrade v --binary @broken").fails(1, &words);
    assert_eq!(runs(&agent), Path::new(PLINTH));
    assert_ne!(pid(&agent), before);
    check(&agent);
    assert!(has_event(&agent, "upgrade_failed"));
    assert_eq!(show(&agent)["target"]["binary"], PLINTH);
    let good = copy(&agent, "good");
    agent.plinth("volume upgrade v --binary @good").ok();
    agent.plinth("volume upgrade v --binary @broken").fails(1, &words);
    assert_eq!(runs(&agent), good);
    check(&agent);
}

#[test]
fn a_binary_that_hangs_makes_room_for_the_one_before() {
    let agent = attached();
    script(&agent, "hung", "exec sleep 1000");
    agent.plinth("volume upgrade v --binary @hung").fails(1, &["volume v", "in time"]);
    assert_eq!(runs(&agent), Path::new(PLINTH));
    check(&agent);
}

/// A package was upgraded in place: the file that runs is gone, and has to be there should the new one fail.
#[test]
fn what_was_replaced_in_place_is_kept_until_the_new_one_serves() {
    let mut agent = Agent::stopped();
    agent.program = copy(&agent, "plinth");
    agent.run();
    agent.volume();
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n")).write(0, &[7; 8192]);
    script(&agent, "plinth", "echo out of order >&2; exit 9");
    agent.plinth("volume upgrade v").fails(1, &["out of order"]);
    let kept = runs(&agent);
    assert!(kept.starts_with(agent.path("state")), "{}", kept.display());
    check(&agent);
    let new = copy(&agent, "plinth");
    agent.plinth("volume upgrade v").ok();
    assert_eq!(runs(&agent), new);
    assert!(!kept.exists());
    check(&agent);
}
