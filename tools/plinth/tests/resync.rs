//! Drives that were away, or were taken out, come back and get what they missed, while their volume is served.
mod support;

use serde_json::Value;
use std::time::{Duration, Instant};
use support::contents::Contents;
use support::nbd::Nbd;
use support::{Agent, DEADLINE, signal};

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

/// What a drive had is not copied again, also when the volume was detached in between: the catalogue and the
/// superblocks say since when it lacks something.
#[test]
fn only_what_is_lacking_is_copied() {
    let agent = Agent::start();
    agent.volume();
    let mut contents = Contents::new(512);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    away(&agent, "d2");
    for turn in 0..2 {
        let mut nbd = attach(&agent);
        contents.write(&mut nbd, turn, 256);
        drop(nbd);
        agent.plinth("volume detach v").ok();
    }
    back(&agent, "d2");
    let mut nbd = attach(&agent);
    agent.plinth("--timeout 600s volume show v --watch").ok();
    assert_eq!(show(&agent)["health"], "online");
    contents.check(&mut nbd);
    let last = &show(&agent)["last_resync"];
    let blocks = last["bytes_copied"].as_u64().expect("copied") / 4096;
    // Four chunks of 16 blocks, and what leads to them; the volume has 8192.
    assert!((64..1024).contains(&blocks), "{last}");
    assert_eq!((&last["bytes_kept"], &last["bytes_lost"]), (&0.into(), &0.into()));
    let message = events(&agent, "drive_current").remove(0);
    assert!(message.contains(&format!(": {blocks} blocks")), "{message}");
    drop(nbd);
    check_alone(&agent, &contents, "d1");
    agent.plinth("volume detach v").ok();
}

/// A thin volume of 10 TiB with hundreds of MiB on it. A drive is taken out for a while: it gets what it missed, in one
/// piece and in single blocks far apart, and the pages above that.
#[test]
fn a_drive_of_a_large_volume_gets_what_it_missed() {
    const MIB: u64 = 1 << 20;
    const TIB: u64 = 1 << 40;
    let agent = Agent::start();
    for drive in ["d1", "d2"] {
        agent.drive(drive, 2048);
    }
    agent.plinth("pool create p @d1 @d2").ok();
    agent.plinth("volume create v --pool p --size 10TiB").ok();
    let content = |at: u64, length: u64| -> Vec<u8> {
        let words = (at..at + length).step_by(8).map(|at| (at ^ 0x5bd1_e995).to_le_bytes());
        words.collect::<Vec<_>>().concat()
    };
    let fill = |nbd: &mut Nbd, first: u64, length: u64| {
        for at in (first..first + length).step_by(256 << 10) {
            nbd.write(at, &content(at, 256 << 10));
        }
        nbd.flush();
    };
    let scattered = || (0..2048).map(|i| 5 * TIB + (i * 40_503 % 2048) * 640 * 1024);
    let mut nbd = attach(&agent);
    fill(&mut nbd, 0, 128 * MIB);
    drop(nbd);
    // Since the checkpoint of a close there is more, which a drive that is taken out has.
    agent.plinth("volume detach v").ok();
    let mut nbd = attach(&agent);
    fill(&mut nbd, 0, 96 * MIB);
    nbd.write(128 * MIB, &content(128 * MIB, 4096));
    nbd.flush();
    agent.plinth("drive offline p @d2").ok();
    fill(&mut nbd, TIB, 64 * MIB);
    for at in scattered() {
        nbd.write(at, &content(at, 4096));
    }
    nbd.flush();
    agent.plinth("drive online p @d2").ok();
    let shown = wait_healthy(&agent);
    let copied = shown["last_resync"]["bytes_copied"].as_u64().expect("copied");
    let missed = 64 * MIB + 2048 * 4096;
    // A leaf for each block far apart and for 512 KiB in one piece; a page of the next level for 64 MiB; what is above.
    let pages = 2048 + 2048 * 640 / 512 / 128 + (64 + 96) * 2 + 160;
    assert!((missed..=missed + missed / 10 + pages * 4096).contains(&copied), "{shown}");
    drop(nbd);
    agent.plinth("volume detach v").ok();
    away(&agent, "d1");
    let mut nbd = attach(&agent);
    for at in scattered().chain([0, 128 * MIB]) {
        assert!(nbd.read(at, 4096) == content(at, 4096), "at {at}");
    }
    for at in (TIB..TIB + 64 * MIB).step_by(256 << 10) {
        assert!(nbd.read(at, 256 << 10) == content(at, 256 << 10), "at {at}");
    }
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
    let mut agent = Agent::start();
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
    // The drive itself, and a copy of it. Nobody looks until both are whole.
    agent.kill();
    std::fs::copy(agent.path("state/d2"), agent.path("copy")).expect("copies");
    back(&agent, "d2");
    agent.run();
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

/// Whether nobody has a drive open for serving.
fn is_free(agent: &Agent, name: &str) -> bool {
    let file = std::fs::File::options().read(true).write(true).open(agent.path(name)).expect("opens");
    file.try_lock().is_ok()
}

fn drive_state(agent: &Agent, drive: usize) -> String {
    let drives = agent.plinth("drive list p -o json").json();
    drives[drive]["state"].as_str().expect("a state").to_owned()
}

/// The operator takes a drive out, works on it, and brings it back, while the volume is served and while it is not.
#[test]
fn a_drive_is_taken_out_and_brought_back() {
    let agent = Agent::start();
    agent.volume();
    let mut contents = Contents::new(256);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 2);
    agent.plinth("drive offline p @d2 --dry-run").ok();
    assert_eq!(drive_state(&agent, 1), "online");
    let id = agent.plinth("drive offline p @d2").ok();
    assert_eq!(agent.plinth("drive offline p @d2").ok(), id, "a repetition ends alike");
    assert!(is_free(&agent, "d2"), "nothing holds a drive that was taken out");
    assert_eq!(drive_state(&agent, 1), "offline");
    let shown = show(&agent);
    assert_eq!((&shown["health"], copy(&shown, 1).as_str()), (&"degraded".into(), "stale"), "{shown}");
    let pool = agent.plinth("pool status p -o json").json();
    assert!(pool["action"].as_str().is_some_and(|action| action.contains("drive online p")), "{pool}");
    let before = agent.state();
    agent.plinth("drive offline p @d1").fails(6, &["volume v has its last current copy"]);
    agent.plinth("drive fail p @d1").fails(6, &["volume v has its last current copy"]);
    assert_eq!(agent.state()["pools"], before["pools"]);
    contents.write(&mut nbd, 0, 3);
    assert_eq!(agent.plinth(&format!("drive fail p {id}")).ok(), id, "by id, too");
    assert_eq!(drive_state(&agent, 1), "failed");
    assert_eq!(copy(&show(&agent), 1), "stale", "it does not come back by itself");
    assert_eq!(agent.plinth("drive online p @d2").ok(), id);
    agent.plinth("drive online p @d2").ok();
    contents.write(&mut nbd, 1, 5);
    wait_healthy(&agent);
    contents.check(&mut nbd);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    // Detached: its next attach goes on without the drive.
    agent.plinth("drive offline p @d1").ok();
    agent.plinth("drive offline p @d2").fails(6, &["volume v has its last current copy"]);
    let mut nbd = attach(&agent);
    assert_eq!(show(&agent)["health"], "degraded");
    contents.check(&mut nbd);
    contents.write(&mut nbd, 3, 4);
    agent.plinth("drive online p @d1").ok();
    wait_healthy(&agent);
    drop(nbd);
    check_alone(&agent, &contents, "d2");
    agent.plinth("volume detach v").ok();
    back(&agent, "d2");
    attach(&agent);
    wait_healthy(&agent);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2").ok();
}

/// All groups of a pool are asked before anything is changed.
#[test]
fn a_drive_stays_when_any_volume_needs_it() {
    let agent = Agent::start();
    agent.volume();
    agent.plinth("volume create single --pool p --size 8MiB --legs 1").ok();
    agent.plinth("volume attach v --nbd @n").ok();
    let shown = agent.plinth("volume show single -o json").json();
    let on = &shown["legs"][0]["drives"][0]["id"];
    let before = agent.state();
    agent
        .plinth(&format!("drive offline p {}", on.as_str().expect("an id")))
        .fails(6, &["stays in use", "single", "last current copy"]);
    assert_eq!(agent.state()["pools"], before["pools"]);
    assert_eq!(show(&agent)["health"], "online");
}

/// The agent is killed in the middle of each verb; the repetition, or the agent that starts, finishes it.
#[test]
fn verbs_of_drives_converge() {
    let mut agent = Agent::start();
    agent.volume();
    let mut contents = Contents::new(64);
    let mut nbd = attach(&agent);
    for delay in [0, 1_000, 3_000, 8_000, 15_000, 30_000, 60_000, 120_000] {
        for (line, state) in [("drive offline p @d2", "offline"), ("drive online p @d2", "online")] {
            let (words, socket) = (agent.words(line), agent.socket());
            let running = std::thread::spawn(move || support::plinth_at(&socket, words));
            std::thread::sleep(Duration::from_micros(delay));
            agent.kill();
            let cut = running.join().expect("no panic");
            assert!(matches!(cut.code, 0 | 9), "{line}: {} {}", cut.code, cut.err);
            agent.run();
            let repeated = agent.plinth(line).ok();
            assert!(cut.code != 0 || cut.out == repeated, "{line}");
            assert_eq!(drive_state(&agent, 1), state);
            contents.write(&mut nbd, 0, 2);
        }
        wait_healthy(&agent);
        contents.check(&mut nbd);
    }
    drop(nbd);
    check_alone(&agent, &contents, "d1");
    agent.plinth("volume detach v").ok();
}

/// The bound of the rate is heard by a target that serves; the progress is shown, and waited for.
#[test]
fn a_resync_is_paced_and_shown() {
    let agent = Agent::start();
    agent.volume();
    agent.plinth("pool set p resync_rate=256KiB").ok();
    let mut contents = Contents::new(512);
    let mut nbd = attach(&agent);
    agent.plinth("drive offline p @d2").ok();
    contents.write(&mut nbd, 0, 1);
    agent.plinth("drive online p @d2").ok();
    let known = |shown: &Value| shown["resync"]["bytes_left"].as_u64().is_some_and(|left| left > 0);
    let shown = wait_until(&agent, "under way", known);
    let field = |name: &str| shown["resync"][name].as_u64().expect(name);
    assert_eq!(field("bytes_total"), field("bytes_copied") + field("bytes_left"), "{shown}");
    assert_eq!((copy(&shown, 1).as_str(), &shown["health"]), ("resyncing", &"degraded".into()), "{shown}");
    assert!(shown["legs"][1]["drives"][0]["stale_since_seq"].is_u64(), "{shown}");
    assert!(shown["action"].as_str().is_some_and(|action| action.contains("--watch")), "{shown}");
    agent.plinth("volume show v --watch --timeout 100ms").fails(12, &["not at its end"]);
    agent.plinth("pool set p resync_rate=0").ok();
    let shown = agent.plinth("volume show v --watch -o json").json();
    assert_eq!((&shown["resync"], &shown["health"]), (&Value::Null, &"online".into()), "{shown}");
    contents.check(&mut nbd);
}

/// The drive with the newest writes is lost, and its mate misses them: the volume does not open, unless the operator
/// gives them up. When the drive turns up again, nothing on it counts.
#[test]
fn a_stale_copy_alone_serves_only_by_the_operators_word() {
    let mut agent = Agent::start();
    agent.volume();
    let mut contents = Contents::new(256);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    away(&agent, "d2");
    let mut lost = Contents(contents.0.clone());
    let mut nbd = attach(&agent);
    lost.write(&mut nbd, 0, 2);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    away(&agent, "d1");
    back(&agent, "d2");
    agent.plinth("volume attach v --nbd @n").fails(6, &["no complete copy", "--force-stale"]);
    let before = agent.state();
    agent.plinth("volume attach v --nbd @n --force-stale").fails(6, &["give up", "--yes"]);
    assert_eq!(agent.state(), before);
    agent.plinth("volume attach v --nbd @n --force-stale --yes").ok();
    assert_eq!(events(&agent, "volume_forced").len(), 1);
    let mut nbd = Nbd::connect(&agent.path("n"));
    contents.check(&mut nbd);
    contents.write(&mut nbd, 1, 3);
    drop(nbd);
    // From here on it needs no word: after a kill of its target, and after a detach.
    let pid = show(&agent)["target"]["pid"].as_u64().expect("a target");
    assert!(signal("KILL", &pid.to_string()), "the target lives");
    wait_until(&agent, "served again", |shown| {
        shown["state"] == "attached" && shown["target"]["pid"].as_u64().is_some_and(|now| now != pid)
    });
    agent.plinth("volume detach v").ok();
    agent.terminate();
    agent.run();
    let mut nbd = attach(&agent);
    contents.check(&mut nbd);
    back(&agent, "d1");
    agent.plinth("status").ok();
    contents.write(&mut nbd, 2, 5);
    wait_healthy(&agent);
    drop(nbd);
    check_alone(&agent, &contents, "d2");
    agent.plinth("volume detach v").ok();
    back(&agent, "d2");
    drop(attach(&agent));
    wait_healthy(&agent);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2").ok();
}

/// The last complete copy dies under a served volume: its targets refuse, one after the other.
fn lose_the_last_copy(agent: &Agent) {
    let pid = show(agent)["target"]["pid"].as_u64().expect("a target");
    away(agent, "d1");
    back(agent, "d2");
    assert!(signal("KILL", &pid.to_string()), "the target lives");
    wait_until(agent, "refused", |shown| shown["state"] == "recovering");
    while !events(agent, "target_restarted").iter().any(|message| message.contains("no complete copy")) {
        std::thread::yield_now();
    }
}

/// A volume that counts as attached and is not served any more: the operator's word was taken for a repetition that
/// changes nothing, and a detach waited for a target that never came.
#[test]
fn a_volume_whose_last_complete_copy_died_is_forced_or_detached() {
    let mut agent = Agent::start();
    agent.volume();
    let mut contents = Contents::new(64);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    for round in 0..2 {
        away(&agent, "d2");
        let mut nbd = attach(&agent);
        contents.clone().write(&mut nbd, 0, 3);
        drop(nbd);
        lose_the_last_copy(&agent);
        if round == 1 {
            break;
        }
        agent.kill();
        agent.run();
        agent.plinth("volume detach v --timeout 600s").ok();
        assert_eq!(show(&agent)["state"], "detached");
        agent.plinth("volume detach v").ok();
        agent.plinth("volume attach v --nbd @n").fails(6, &["no complete copy", "--force-stale"]);
        back(&agent, "d1");
    }
    let before = agent.plinth("pool history p").ok();
    agent.plinth("--dry-run volume attach v --nbd @n --force-stale --yes").ok();
    agent.plinth("volume attach v --nbd @n --force-stale --read-only --yes").fails(2, &["without writing"]);
    assert_eq!(agent.plinth("pool history p").ok(), before);
    agent.plinth("volume attach v --nbd @n --force-stale --yes --timeout 600s").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    contents.check(&mut nbd);
    drop(nbd);
    // It is served: said again, the word has nothing to give up and is not kept for later.
    agent.plinth("volume attach v --nbd @n --force-stale --yes").ok();
    assert_eq!(events(&agent, "volume_forced").len(), 1);
    let history = agent.plinth("pool history p").ok();
    assert_eq!(history.matches("--force-stale").count(), 1, "{history}");
    agent.plinth("volume detach v").ok();
}
