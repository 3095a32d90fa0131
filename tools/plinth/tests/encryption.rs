//! Encrypted volumes from end to end, over NBD: what is read back, who is refused, and what the drives show.
mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;
use support::nbd::Nbd;
use support::{Agent, DEADLINE, signal};

const BLOCK: usize = 4096;
/// What must not be found on drives.
const TEXT: &[u8] = b"what-nobody-else-may-read-4b1f";
/// Names that must not be found on drives either.
const VOLUME: &str = "volume-name-77d1";
const GROUP: &str = "group-name-c3a9";
fn attach(agent: &Agent, volume: &str) -> Nbd {
    agent.plinth(&format!("volume attach {volume} --nbd @n")).ok();
    Nbd::connect(&agent.path("n"))
}

fn detach(agent: &Agent, volume: &str, nbd: Nbd) {
    drop(nbd);
    agent.plinth(&format!("volume detach {volume}")).ok();
}

/// A pool of two drives, a key `k` in a file, and a volume `v` that it encrypts.
fn encrypted(agent: &Agent) {
    agent.pool();
    agent.plinth("key create k").ok();
    agent.plinth("volume create v --pool p --size 64MiB --encrypt --kek k").ok();
}

/// A block of text, over and over.
fn text() -> Vec<u8> {
    TEXT.iter().copied().cycle().take(BLOCK).collect()
}

fn target_pid(agent: &Agent) -> String {
    let shown = agent.plinth("volume show v -o json").json();
    shown["target"]["pid"].as_u64().expect("a target").to_string()
}

fn key_files(agent: &Agent) -> Vec<String> {
    let files = std::fs::read_dir(agent.path("state/keys")).expect("lists").flatten();
    let mut names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The catalogue is lost; keys in files are not.
fn forget(agent: &mut Agent) {
    agent.terminate();
    std::fs::remove_file(agent.path("state/catalogue.redb")).expect("removes");
}

fn with_input(agent: &Agent, line: &str, input: &str) -> i32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plinth"));
    command.env("PLINTH_SOCKET", agent.socket()).args(agent.words(line)).stdin(Stdio::piped());
    let mut running = command.stdout(Stdio::null()).spawn().expect("plinth runs");
    running.stdin.take().expect("piped").write_all(input.as_bytes()).expect("taken");
    running.wait().expect("ends").code().expect("an exit code")
}

/// Waits for an event of this kind that says this.
fn heard(agent: &Agent, kind: &str, words: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let events = agent.plinth("events -o json").json();
        let says = |event: &serde_json::Value| {
            event["kind"] == kind && event["message"].as_str().is_some_and(|message| message.contains(words))
        };
        if events.as_array().expect("a list").iter().any(says) {
            return;
        }
        assert!(Instant::now() < deadline, "no event {kind} says {words}: {events}");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_written_is_read_by_targets_and_agents_that_come_later() {
    let mut agent = Agent::start();
    agent.pool();
    let made = agent.plinth("volume create v --pool p --size 64MiB --encrypt");
    assert!(made.err.contains("key default was made") && made.err.contains("keep a copy"), "{}", made.err);
    assert_eq!(made.ok(), "v\n");
    let again = agent.plinth("volume create v --pool p --size 64MiB --encrypt");
    assert_eq!((again.code, again.out.as_str(), again.err.as_str()), (0, "v\n", ""));
    let shown = agent.plinth("volume show v -o json").json();
    let by =
        serde_json::json!({"cipher": "aes-256-gcm", "kek": "default", "key_version": 1, "rekeyed_at": null});
    assert_eq!(shown["encryption"], by);
    assert!(agent.plinth("volume show v").ok().contains("aes-256-gcm, key default, version 1"));
    let mut nbd = attach(&agent, "v");
    nbd.write(BLOCK as u64, &text());
    nbd.flush();
    let pid = target_pid(&agent);
    agent.kill();
    agent.run();
    agent.wait_state("v", "attached");
    assert_eq!(target_pid(&agent), pid, "a target outlives its agent and is not told anything anew");
    assert_eq!(nbd.read(BLOCK as u64, BLOCK), text());
    assert!(signal("KILL", &pid));
    let deadline = Instant::now() + DEADLINE;
    while agent.plinth("volume show v -o json").json()["target"]["restarts"] != 1 {
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::yield_now();
    }
    agent.wait_state("v", "attached");
    nbd = Nbd::connect(&agent.path("n"));
    assert_eq!(nbd.read(BLOCK as u64, BLOCK), text());
    detach(&agent, "v", nbd);
    agent.terminate();
    agent.run();
    let mut nbd = attach(&agent, "v");
    assert_eq!(nbd.read(BLOCK as u64, BLOCK), text());
    agent.plinth("volume resize v 96MiB").ok();
    detach(&agent, "v", nbd);
    agent.plinth("volume rename v w").ok();
    let mut nbd = attach(&agent, "w");
    assert_eq!((nbd.size, nbd.read(BLOCK as u64, BLOCK)), (96 << 20, text()));
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let agent = Agent::start();
    agent.pool();
    let create = "volume create v --pool p --size 64MiB";
    agent
        .plinth(&format!("{create} --kek k"))
        .fails(2, &["key k is for an encrypted volume", "add --encrypt"]);
    agent.plinth(&format!("{create} --encrypt --kek k")).fails(5, &["no key k", "plinth key list"]);
    agent.plinth("volume create v --pool q --size 64MiB --encrypt").fails(5, &["pool q"]);
    agent.plinth(&format!("{create} --encrypt --dry-run")).ok();
    assert_eq!(agent.plinth("key list -o json").json(), serde_json::json!([]), "no key was made for these");
    agent.plinth("key create k").ok();
    agent.plinth("key create l").ok();
    agent.plinth(&format!("{create} --encrypt --kek k")).ok();
    agent.plinth(create).fails(11, &["exists and is encrypted by key k", "another name"]);
    agent.plinth(&format!("{create} --encrypt --kek l")).fails(11, &["encrypted by key k"]);
    agent.plinth("volume create w --pool p --size 64MiB").ok();
    agent.plinth("volume create w --pool p --size 64MiB --encrypt --kek k").fails(11, &["not encrypted"]);
    assert_eq!(agent.plinth("volume show w -o json").json()["encryption"], serde_json::Value::Null);
}

#[test]
fn without_its_key_nobody_opens_it() {
    let agent = Agent::start();
    encrypted(&agent);
    let mut nbd = attach(&agent, "v");
    nbd.write(0, &text());
    detach(&agent, "v", nbd);
    let file = agent.path("state/keys/k.1");
    let right = std::fs::read(&file).expect("a key");
    let mut wrong = right.clone();
    wrong[5] ^= 1;
    std::fs::write(&file, &wrong).expect("writes");
    let refused = agent.plinth("volume attach v --nbd @n");
    assert_eq!(refused.code, 8, "{}", refused.err);
    assert_eq!(agent.plinth("volume show v -o json").json()["state"], "detached");
    std::fs::write(&file, &right).expect("writes");
    let mut nbd = attach(&agent, "v");
    assert_eq!(nbd.read(0, BLOCK), text());
    detach(&agent, "v", nbd);
    agent.plinth("key destroy k --yes").ok();
    agent.plinth("volume attach v --nbd @n").fails(8, &["key k was destroyed"]);
    agent.plinth("volume rename v w").fails(8, &["key k was destroyed"]);
    let shown = agent.plinth("volume show v -o json").json();
    assert_eq!(shown["encryption"]["key_version"], serde_json::Value::Null);
    agent.plinth("volume delete v --yes").ok();
}

/// A target whose key is locked is tried again, and told as soon as it is not.
#[test]
fn a_target_that_dies_while_its_key_is_locked_comes_back_with_the_key() {
    let agent = Agent::start();
    agent.pool();
    assert_eq!(with_input(&agent, "key create k --provider passphrase", "word\n"), 0);
    agent.plinth("volume create v --pool p --size 64MiB --encrypt --kek k").ok();
    let mut nbd = attach(&agent, "v");
    nbd.write(0, &text());
    nbd.flush();
    agent.plinth("key lock k").ok();
    assert_eq!(nbd.read(0, BLOCK), text(), "it is served on");
    assert!(signal("KILL", &target_pid(&agent)));
    heard(&agent, "target_restarted", "locked");
    agent.wait_state("v", "recovering");
    assert_eq!(with_input(&agent, "key unlock k", "word\n"), 0);
    agent.wait_state("v", "attached");
    let mut nbd = Nbd::connect(&agent.path("n"));
    assert_eq!(nbd.read(0, BLOCK), text());
    detach(&agent, "v", nbd);
    agent.plinth("key lock k").ok();
    agent.plinth("volume attach v --nbd @n").fails(8, &["locked", "plinth key unlock k"]);
}

#[test]
fn keys_are_rotated_under_an_attached_volume() {
    let mut agent = Agent::start();
    encrypted(&agent);
    let mut nbd = attach(&agent, "v");
    nbd.write(0, &text());
    agent.plinth("key rotate k").ok();
    assert_eq!(key_files(&agent), ["k.2"]);
    assert_eq!(agent.plinth("volume show v -o json").json()["encryption"]["key_version"], 2);
    nbd.write(BLOCK as u64, &text());
    detach(&agent, "v", nbd);
    let mut nbd = attach(&agent, "v");
    assert_eq!(nbd.read(0, 2 * BLOCK), [text(), text()].concat());
    detach(&agent, "v", nbd);
    // The drives have the envelope of the version that is left.
    forget(&mut agent);
    agent.run();
    agent.plinth("key create k").ok();
    agent.plinth("pool import @d1 @d2").ok();
    let mut nbd = attach(&agent, "v");
    assert_eq!(nbd.read(0, 2 * BLOCK), [text(), text()].concat());
}

/// The drive that was away had the only copy of its old envelope when the others were lost, with the catalogue; the
/// version of the key that opens that envelope must not be gone by then.
#[test]
fn a_rotation_waits_for_a_drive_that_is_away() {
    let agent = Agent::start();
    encrypted(&agent);
    std::fs::rename(agent.path("d2"), agent.path("state/away")).expect("moves");
    agent.plinth("key rotate k").fails(6, &["version 2 now", "d2", "plinth key rotate k"]);
    assert_eq!(key_files(&agent), ["k.1", "k.2"]);
    assert_eq!(agent.plinth("volume show v -o json").json()["encryption"]["key_version"], 2);
    std::fs::rename(agent.path("state/away"), agent.path("d2")).expect("moves back");
    agent.plinth("key rotate k").ok();
    assert_eq!(key_files(&agent), ["k.2"]);
}

#[test]
fn a_pool_is_imported_with_and_without_its_keys() {
    let mut agent = Agent::start();
    encrypted(&agent);
    let mut nbd = attach(&agent, "v");
    nbd.write(0, &text());
    detach(&agent, "v", nbd);
    forget(&mut agent);
    agent.run();
    agent.plinth("pool import @d1 @d2").ok();
    heard(&agent, "pool_import", "there is no key k");
    let name = agent.plinth("volume list -o name").ok();
    assert!(name.starts_with("group-"), "{name}");
    agent.plinth(&format!("volume attach {} --nbd @n", name.trim())).fails(5, &["no key k"]);
    agent.plinth("key create k").ok();
    agent.plinth(&format!("volume rename {} x", name.trim())).fails(6, &["plinth pool import p"]);
    agent.plinth("pool import p").ok();
    assert_eq!(agent.plinth("volume list -o name").ok(), "v\n");
    let mut nbd = attach(&agent, "v");
    assert_eq!((nbd.size, nbd.read(0, BLOCK)), (64 << 20, text()));
    detach(&agent, "v", nbd);
    // With the key at hand from the start, and attached right away.
    agent.plinth("pool export p").ok();
    agent.plinth("pool import @d1 @d2").ok();
    let mut nbd = attach(&agent, "v");
    assert_eq!(nbd.read(0, BLOCK), text());
    detach(&agent, "v", nbd);
    // Its key is destroyed: there is nothing to rebuild.
    agent.plinth("key destroy k --yes").ok();
    agent.plinth("pool export p").ok();
    agent.plinth("pool import @d1 @d2").ok();
    assert_eq!(agent.plinth("volume list -o name").ok(), "");
    let shown = agent.plinth("pool status p -o json").json();
    assert!(
        shown["status"].as_str().is_some_and(|status| status.contains("could not be rebuilt")),
        "{shown}"
    );
}

/// A move comes to its end without the key, and the new home has names and envelope all the same.
#[test]
fn an_encrypted_volume_moves_to_another_drive_and_is_imported_from_there() {
    let mut agent = Agent::start();
    agent.drive("d1", 256);
    agent.drive("d2", 1024);
    agent.plinth("pool create p @d1").ok();
    agent.plinth("key create k").ok();
    agent.plinth("volume create v --pool p --size 64MiB --legs 1 --encrypt --kek k").ok();
    agent.plinth("pool add p @d2").ok();
    let mut nbd = attach(&agent, "v");
    nbd.write(0, &text());
    nbd.flush();
    let key = agent.path("state/keys/k.1");
    let right = std::fs::read(&key).expect("a key");
    std::fs::write(&key, [7; 32]).expect("writes");
    agent.plinth("drive evacuate p @d1 --wait --timeout 600s").ok();
    std::fs::write(&key, right).expect("writes");
    assert_eq!(nbd.read(0, BLOCK), text());
    detach(&agent, "v", nbd);
    agent.plinth("drive remove p @d1").ok();
    forget(&mut agent);
    agent.run();
    agent.plinth("key create k").ok();
    agent.plinth("pool import @d2").ok();
    let mut nbd = attach(&agent, "v");
    assert_eq!((nbd.size, nbd.read(0, BLOCK)), (64 << 20, text()));
}

/// All drives as they were a while ago: every check and every code is right.
#[test]
fn drives_that_are_set_back_are_refused() {
    let agent = Agent::start();
    encrypted(&agent);
    let nbd = attach(&agent, "v");
    detach(&agent, "v", nbd);
    for drive in ["d1", "d2"] {
        std::fs::copy(agent.path(drive), agent.path(&format!("state/{drive}"))).expect("copies");
    }
    let mut nbd = attach(&agent, "v");
    nbd.write(0, &text());
    detach(&agent, "v", nbd);
    for drive in ["d1", "d2"] {
        std::fs::copy(agent.path(&format!("state/{drive}")), agent.path(drive)).expect("copies");
        std::fs::remove_file(agent.path(&format!("state/{drive}"))).expect("removes");
    }
    agent.plinth("volume attach v --nbd @n").fails(6, &["earlier state", "--force-stale"]);
    agent.plinth("volume attach v --nbd @n --force-stale --yes").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    assert_eq!(nbd.read(0, BLOCK), [0; BLOCK]);
    detach(&agent, "v", nbd);
    let nbd = attach(&agent, "v");
    detach(&agent, "v", nbd);
}

/// With its key an encrypted volume is checked like a plain one; without it as far as anybody can.
#[test]
fn drives_are_checked_with_the_key_and_without() {
    let agent = Agent::start();
    encrypted(&agent);
    let mut nbd = attach(&agent, "v");
    for block in 0..50 {
        nbd.write(block * BLOCK as u64, &text());
    }
    detach(&agent, "v", nbd);
    let counted = |told: &str| told.contains(" 50 blocks of data ");
    let told = agent.plinth("fsck @d1 @d2 --keys @state/keys").ok();
    assert!(counted(&told) && !told.contains("shut"), "{told}");
    let told = agent.plinth("fsck @d1 @d2 --keys @state").ok();
    assert!(!counted(&told) && told.contains("stays shut: version 1 of key k is not there"), "{told}");
}

/// The blocks of a drive that are not zero.
fn blocks(agent: &Agent, drive: &str) -> Vec<[u8; BLOCK]> {
    let mut file = std::fs::File::open(agent.path(drive)).expect("opens");
    let (mut blocks, mut block) = (Vec::new(), [0; BLOCK]);
    while file.read_exact(&mut block).is_ok() {
        if block != [0; BLOCK] {
            blocks.push(block);
        }
    }
    blocks
}

fn shows(blocks: &[[u8; BLOCK]], what: &[u8]) -> bool {
    let first = what[0];
    let at = |block: &[u8; BLOCK]| {
        (0..=BLOCK - what.len()).any(|at| block[at] == first && &block[at..at + what.len()] == what)
    };
    blocks.iter().any(at)
}

/// How many blocks are there more than once.
fn doubled(blocks: &[[u8; BLOCK]]) -> usize {
    let mut counts: HashMap<&[u8; BLOCK], usize> = HashMap::new();
    for block in blocks {
        *counts.entry(block).or_default() += 1;
    }
    counts.values().filter(|count| **count > 1).sum()
}

#[test]
fn drives_show_neither_text_nor_names_nor_what_is_alike() {
    for encrypt in ["", " --encrypt"] {
        let agent = Agent::start();
        agent.pool();
        let create = format!("volume create {VOLUME} --pool p --size 64MiB --group {GROUP}{encrypt}");
        agent.plinth(&create).ok();
        let mut nbd = attach(&agent, VOLUME);
        for block in 0..100 {
            nbd.write(block * 2 * BLOCK as u64, &text());
        }
        nbd.flush();
        detach(&agent, VOLUME, nbd);
        let nbd = attach(&agent, VOLUME);
        detach(&agent, VOLUME, nbd);
        for drive in ["d1", "d2"] {
            let blocks = blocks(&agent, drive);
            let plain = encrypt.is_empty();
            for what in [TEXT, VOLUME.as_bytes(), GROUP.as_bytes()] {
                let what_shown = String::from_utf8_lossy(what);
                assert_eq!(shows(&blocks, what), plain, "{drive}{encrypt} and {what_shown}");
            }
            // Superblock slots may be alike.
            assert_eq!(doubled(&blocks) >= 100, plain, "{drive}{encrypt}: {}", doubled(&blocks));
            assert!(plain || doubled(&blocks) <= 8, "{drive}: {}", doubled(&blocks));
        }
    }
}
