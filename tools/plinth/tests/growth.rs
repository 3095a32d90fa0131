//! A full volume goes on when drives are added to its pool, while it is served: the drives join its group.
mod support;

use std::time::{Duration, Instant};
use support::nbd::Nbd;
use support::{Agent, DEADLINE, signal};

const CHUNK: u64 = 1 << 20;
const ENOSPC: u32 = 28;
/// What a chunk holds: every block something else.
fn content(chunk: u64) -> Vec<u8> {
    let word = |block: u64| (chunk << 32 | block).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..CHUNK / 4096).map(|block| word(block).repeat(512)).collect::<Vec<_>>().concat()
}

/// Writes chunk after chunk until there is no space; returns the chunk that was refused.
fn fill(nbd: &mut Nbd, first: u64) -> u64 {
    let mut chunk = first;
    loop {
        match nbd.try_write(chunk * CHUNK, &content(chunk)) {
            0 => chunk += 1,
            ENOSPC => return chunk,
            error => panic!("chunk {chunk}: error {error}"),
        }
    }
}

/// Writes a chunk as soon as there is space.
fn write_at_last(agent: &Agent, nbd: &mut Nbd, chunk: u64) {
    let start = Instant::now();
    loop {
        match nbd.try_write(chunk * CHUNK, &content(chunk)) {
            0 => return,
            ENOSPC => assert!(start.elapsed() < DEADLINE, "still full: {}", agent.plinth("events").out),
            error => panic!("chunk {chunk}: error {error}"),
        }
    }
}

/// Reads all that was written.
fn check(nbd: &mut Nbd, chunks: u64) {
    check_some(nbd, chunks, 1);
}

/// Reads every so many chunks of it, and the last ones.
fn check_some(nbd: &mut Nbd, chunks: u64, step: u64) {
    for chunk in (0..chunks).filter(|chunk| chunk % step == 0 || chunk + 4 >= chunks) {
        assert!(nbd.read(chunk * CHUNK, CHUNK as usize) == content(chunk), "chunk {chunk}");
    }
}

fn show(agent: &Agent) -> serde_json::Value {
    agent.plinth("volume show v -o json").json()
}

fn kill_target(agent: &Agent) {
    let pid = show(agent)["target"]["pid"].as_u64().expect("a target");
    assert!(signal("KILL", &pid.to_string()), "the target lives");
    let start = Instant::now();
    while agent.wait_state("v", "attached")["target"]["pid"].as_u64().is_none_or(|now| now == pid) {
        assert!(start.elapsed() < DEADLINE, "no new target: {}", agent.log());
    }
}

/// A pool of these drives with small extents, a volume that is larger than all of them, attached.
fn attached(agent: &Agent, drives: &[&str], legs: u8) -> Nbd {
    let mut line = String::from("pool create p --extent-size 8MiB");
    for name in drives {
        agent.drive(name, 256);
        line += &format!(" @{name}");
    }
    agent.plinth(&line).ok();
    agent.plinth(&format!("volume create v --pool p --size 1GiB --legs {legs}")).ok();
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n"))
}

/// The contract's story: fill to ENOSPC, add a drive, write on without a detach, lose the target, lose nothing.
fn grows(legs: u8, first: &[&str], more: &[&[&str]]) {
    let mut agent = Agent::start();
    let mut nbd = attached(&agent, first, legs);
    let mut drives: Vec<&str> = first.to_vec();
    let mut full = fill(&mut nbd, 0);
    nbd.flush();
    for added in more {
        let mut line = String::from("pool add p");
        for name in *added {
            agent.drive(name, 256);
            drives.push(name);
            line += &format!(" @{name}");
        }
        agent.plinth(&line).ok();
        write_at_last(&agent, &mut nbd, full);
        let before = full;
        full = fill(&mut nbd, full + 1);
        assert!(full > before + 192, "a drive of 256 MiB took {} MiB", full - before);
        nbd.flush();
        drop(nbd);
        kill_target(&agent);
        nbd = Nbd::connect(&agent.path("n"));
        check(&mut nbd, full);
    }
    let shown = show(&agent);
    assert_eq!(shown["health"], "online", "{shown}");
    let of_leg = |leg: usize| shown["legs"][leg]["drives"].as_array().map_or(0, Vec::len);
    let listed: usize = (0..usize::from(legs)).map(of_leg).sum();
    assert!(listed >= drives.len(), "{shown}");
    drop(nbd);
    agent.plinth("volume detach v").ok();
    let all: Vec<String> = drives.iter().map(|name| format!("@{name}")).collect();
    agent.plinth(&format!("fsck {}", all.join(" "))).ok();
    // The agent starts anew, and then forgets the pool and takes it over from its drives.
    agent.terminate();
    agent.run();
    agent.plinth("volume attach v --nbd @n").ok();
    check_some(&mut Nbd::connect(&agent.path("n")), full, 16);
    agent.plinth("volume detach v").ok();
    agent.plinth("pool export p").ok();
    agent.plinth(&format!("pool import {}", all.join(" "))).ok();
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    check_some(&mut nbd, full, 16);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth(&format!("fsck {}", all.join(" "))).ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(agent.plinth("pool status p -o json").json()["allocated_bytes"], 0);
}

#[test]
fn a_plain_volume_goes_on_with_one_drive_more() {
    grows(1, &["d1"], &[&["d2"]]);
}

#[test]
fn a_mirror_goes_on_with_two_drives_more() {
    grows(2, &["d1", "d2"], &[&["d3", "d4"]]);
}

/// A drive that was handed out and is gone when it is to join: the row goes back, and the group uses another one.
#[test]
fn a_drive_that_cannot_join_is_passed_over() {
    let agent = Agent::start();
    let mut nbd = attached(&agent, &["d1"], 1);
    let full = fill(&mut nbd, 0);
    // Its label says that it is there; for the target it is somebody else's.
    agent.drive("d2", 256);
    agent.drive("d3", 256);
    let held = std::fs::File::open(agent.path("d2")).expect("opens");
    held.lock().expect("locks");
    agent.plinth("pool add p @d2 @d3").ok();
    write_at_last(&agent, &mut nbd, full);
    let more = fill(&mut nbd, full + 1);
    assert!(more > full + 192, "{more} after {full}");
    let shown = show(&agent);
    assert_eq!(shown["health"], "online", "{shown}");
    held.unlock().expect("unlocks");
    write_at_last(&agent, &mut nbd, more);
    kill_target(&agent);
    let mut nbd = Nbd::connect(&agent.path("n"));
    check_some(&mut nbd, more, 16);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2 @d3").ok();
    agent.plinth("volume delete v --yes").ok();
    assert_eq!(agent.plinth("pool status p -o json").json()["allocated_bytes"], 0);
}

/// A drive that joined is lost: the mirror goes on without it, and the catalogue knows it.
#[test]
fn a_drive_that_joined_may_be_lost() {
    let agent = Agent::start();
    let mut nbd = attached(&agent, &["d1", "d2"], 2);
    let full = fill(&mut nbd, 0);
    agent.drive("d3", 256);
    agent.drive("d4", 256);
    agent.plinth("pool add p @d3 @d4").ok();
    write_at_last(&agent, &mut nbd, full);
    nbd.flush();
    drop(nbd);
    agent.plinth("volume detach v").ok();
    std::fs::rename(agent.path("d4"), agent.path("state/away")).expect("moves");
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    check(&mut nbd, full + 1);
    nbd.write(full * CHUNK, &content(full));
    nbd.flush();
    let shown = show(&agent);
    assert_eq!(shown["health"], "degraded", "{shown}");
    drop(nbd);
    agent.plinth("volume detach v").ok();
    std::fs::rename(agent.path("state/away"), agent.path("d4")).expect("moves");
    std::fs::rename(agent.path("d3"), agent.path("state/away")).expect("moves");
    let refused = agent.plinth("volume attach v --nbd @n");
    assert_eq!(refused.code, 6, "a stale copy alone: {}", refused.err);
    std::fs::rename(agent.path("state/away"), agent.path("d3")).expect("moves");
    agent.plinth("volume attach v --nbd @n").ok();
    check(&mut Nbd::connect(&agent.path("n")), full + 1);
}

/// A drive of the first row is away: the mirror grows onto the drives that are there, also onto one that it has not
fn move_file(agent: &Agent, from: &str, to: &str) {
    std::fs::rename(agent.path(from), agent.path(to)).expect("moves");
}

fn wait_health(agent: &Agent, health: &str) {
    let start = Instant::now();
    while show(agent)["health"] != health {
        assert!(start.elapsed() < DEADLINE, "not {health}: {} {}", show(agent), agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The story: a pool of two drives, one of them away. No row could lie on two drives that were there, and a volume that
/// grew heard of no space while most of the pool was free. Now it fills the pool to the same chunk as with both, whether the
/// drive is away when the volume is attached or is taken out under it; the drive gets everything when it is back, and has it
/// alone then.
#[test]
fn a_mirror_of_two_drives_grows_while_one_is_away() {
    let agent = Agent::start();
    let nbd = attached(&agent, &["d1", "d2"], 2);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    move_file(&agent, "d2", "state/d2");
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    let few = 40;
    (0..few).for_each(|chunk| nbd.write(chunk * CHUNK, &content(chunk)));
    let events = agent.plinth("events").out;
    assert!(events.contains("will have it when it is back"), "{events}");
    // The row in hand lies there too, and is offered to the next target.
    kill_target(&agent);
    let mut nbd = Nbd::connect(&agent.path("n"));
    (few..2 * few).for_each(|chunk| nbd.write(chunk * CHUNK, &content(chunk)));
    // It comes back while rows are granted.
    move_file(&agent, "state/d2", "d2");
    agent.plinth("status").ok();
    (2 * few..3 * few).for_each(|chunk| nbd.write(chunk * CHUNK, &content(chunk)));
    wait_health(&agent, "online");
    check(&mut nbd, 3 * few);
    agent.plinth("drive offline p @d1").ok();
    let full = fill(&mut nbd, 3 * few);
    check(&mut nbd, full);
    let pool = agent.plinth("pool status p -o json").json();
    assert_eq!(pool["allocated_bytes"].as_u64(), Some(2 * 31 * (8 << 20)), "{pool}");
    agent.plinth("drive online p @d1").ok();
    wait_health(&agent, "online");
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2").ok();
    for away in ["d2", "d1"] {
        let aside = format!("state/{away}");
        move_file(&agent, away, &aside);
        agent.plinth("volume attach v --nbd @n").ok();
        check(&mut Nbd::connect(&agent.path("n")), full);
        agent.plinth("volume detach v").ok();
        move_file(&agent, &aside, away);
        agent.plinth("status").ok();
        agent.plinth("volume attach v --nbd @n").ok();
        wait_health(&agent, "online");
        agent.plinth("volume detach v").ok();
    }
}

/// Rows lie on a drive that never had their headers. The catalogue is lost; what the drives say is enough, also for what of it
/// is taken, and so is what fsck finds.
#[test]
fn what_grew_without_a_drive_is_imported() {
    let mut agent = Agent::start();
    drop(attached(&agent, &["d1", "d2"], 2));
    agent.plinth("volume detach v").ok();
    move_file(&agent, "d2", "state/d2");
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    (0..60).for_each(|chunk| nbd.write(chunk * CHUNK, &content(chunk)));
    drop(nbd);
    agent.plinth("volume detach v").ok();
    let allocated = |agent: &Agent| agent.plinth("pool status p -o json").json()["allocated_bytes"].as_u64();
    let taken = allocated(&agent).expect("bytes");
    agent.plinth("fsck @d1").ok();
    agent.terminate();
    std::fs::remove_file(agent.path("state/catalogue.redb")).expect("removes");
    move_file(&agent, "state/d2", "d2");
    let found = agent.plinth("fsck @d1 @d2").ok();
    // All but the row that was in hand.
    let rows = taken - 2 * (8 << 20);
    let extents = format!("{} extents", rows / (8 << 20));
    assert!(found.contains(&extents) && found.contains("d2 is stale"), "{found}");
    agent.run();
    agent.plinth("pool import @d1 @d2").ok();
    assert_eq!(allocated(&agent), Some(rows));
    agent.plinth("volume attach v --nbd @n").ok();
    wait_health(&agent, "online");
    let mut nbd = Nbd::connect(&agent.path("n"));
    check(&mut nbd, 60);
    (60..100).for_each(|chunk| nbd.write(chunk * CHUNK, &content(chunk)));
    check(&mut nbd, 100);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2").ok();
    move_file(&agent, "d1", "state/d1");
    agent.plinth("volume attach v --nbd @n").ok();
    check(&mut Nbd::connect(&agent.path("n")), 100);
}

/// A drive that is given up has its place in new rows until another one takes it, and that one gets those too.
#[test]
fn what_grew_without_a_drive_moves_to_the_one_that_replaces_it() {
    let agent = Agent::start();
    let mut nbd = attached(&agent, &["d1", "d2"], 2);
    agent.plinth("drive fail p @d2").ok();
    (0..60).for_each(|chunk| nbd.write(chunk * CHUNK, &content(chunk)));
    agent.drive("d3", 256);
    agent.plinth("drive replace p @d2 @d3 --wait --timeout 600s").ok();
    wait_health(&agent, "online");
    (60..80).for_each(|chunk| nbd.write(chunk * CHUNK, &content(chunk)));
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d3").ok();
    move_file(&agent, "d1", "state/d1");
    agent.plinth("volume attach v --nbd @n").ok();
    check(&mut Nbd::connect(&agent.path("n")), 80);
}

/// used yet.
#[test]
fn a_mirror_without_one_drive_grows_onto_the_others() {
    let agent = Agent::start();
    let nbd = attached(&agent, &["d1", "d2", "d3"], 2);
    drop(nbd);
    let events = agent.plinth("events").out;
    assert!(!events.contains("drive_stale"), "nothing is on the third drive: {events}");
    let shown = show(&agent);
    let first = shown["legs"][0]["drives"][0]["id"].as_str().expect("an id").to_owned();
    agent.plinth("volume detach v").ok();
    let pool = agent.plinth("pool status p -o json").json();
    let drives = pool["drives"].as_array().expect("drives");
    let path = drives.iter().find(|drive| drive["id"] == first.as_str()).expect("the drive")["path"].clone();
    std::fs::rename(path.as_str().expect("a path"), agent.path("state/away")).expect("moves");
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    let full = fill(&mut nbd, 0);
    assert!(full > 192, "two drives of 256 MiB took {full} MiB: {}", agent.plinth("events").out);
    check_some(&mut nbd, full, 16);
}

/// An import reads the header of every extent of its drives, for half an hour if they are large. Guests of other pools were
/// told that there is no space, and one whose target died hung.
#[test]
fn a_long_import_of_another_pool_keeps_no_guest_waiting() {
    let mut agent = Agent::start();
    // Millions of extents. Nothing is in them.
    agent.drive("large", 4 << 20);
    agent.plinth("pool create q @large --extent-size 256KiB").ok();
    agent.plinth("pool export q").ok();
    let mut nbd = attached(&agent, &["d1"], 1);
    let (socket, line) = (agent.socket(), agent.words("pool import @large --timeout 1h"));
    let import = std::thread::spawn(move || support::plinth_at(&socket, line));
    while !agent.has_open("large") {
        assert!(!import.is_finished(), "{}", import.join().expect("no panic").err);
        std::thread::yield_now();
    }
    let full = fill(&mut nbd, 0);
    assert!(full > 192, "a drive of 256 MiB took {full} MiB");
    nbd.flush();
    drop(nbd);
    kill_target(&agent);
    let mut nbd = Nbd::connect(&agent.path("n"));
    check_some(&mut nbd, full, 16);
    drop(nbd);
    assert_eq!(agent.plinth("status -o json").json()["volumes"][0]["state"], "attached");
    agent.plinth("volume detach v").ok();
    agent.plinth("volume attach v --nbd @n").ok();
    assert!(!import.is_finished() && agent.has_open("large"), "it reads on");
    agent.kill();
    import.join().expect("no panic").fails(9, &[]);
    agent.run();
    let mut nbd = Nbd::connect(&agent.path("n"));
    check_some(&mut nbd, full, 16);
}
