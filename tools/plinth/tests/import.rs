//! Pools taken over from drives of which some are missing, damaged, copied or turn up later.
mod support;

use serde_json::Value;
use std::time::{Duration, Instant};
use support::contents::{CHUNK, Contents};
use support::nbd::Nbd;
use support::{Agent, DEADLINE};

/// Chunks that fill more than one row.
const CHUNKS: usize = 1400;

/// A pool `p` of one drive, full, whose volume `v` has its second row on `d2`; detached.
fn two_drives_in_turn(agent: &Agent) -> Contents {
    agent.drive("d1", 256);
    agent.drive("d2", 512);
    agent.plinth("pool create p @d1").ok();
    agent.plinth("volume create v --pool p --size 512MiB --legs 1").ok();
    for name in ["w", "x"] {
        agent.plinth(&format!("volume create {name} --pool p --size 16MiB --legs 1")).ok();
    }
    agent.plinth("pool add p @d2").ok();
    let mut contents = Contents::new(CHUNKS);
    let mut nbd = attach(agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    let drives = agent.plinth("drive list p -o json").json();
    assert!(drives[1]["allocated_bytes"].as_u64() > Some(0), "{drives}");
    contents
}

fn attach(agent: &Agent) -> Nbd {
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n"))
}

/// The catalogue is lost.
fn forget(agent: &mut Agent) {
    agent.terminate();
    std::fs::remove_file(agent.path("state/catalogue.redb")).expect("removes");
}

fn away(agent: &Agent, name: &str) {
    std::fs::rename(agent.path(name), agent.path(&format!("state/{name}"))).expect("moves away");
}

fn back(agent: &Agent, name: &str) {
    std::fs::rename(agent.path(&format!("state/{name}")), agent.path(name)).expect("moves back");
}

fn pool(agent: &Agent) -> Value {
    agent.plinth("pool status p -o json").json()
}

fn volumes(agent: &Agent) -> Vec<String> {
    let names = agent.plinth("volume list -o name").ok();
    names.lines().map(str::to_owned).collect()
}

fn events(agent: &Agent, kind: &str) -> Vec<String> {
    let events = agent.plinth("events -o json").json();
    let of_kind = events.as_array().expect("a list").iter().filter(|event| event["kind"] == kind);
    of_kind.map(|event| event["message"].as_str().expect("a message").to_owned()).collect()
}

/// The home drive of a group is away; its second row, on the drive that is there, was handed out to the next volume.
#[test]
fn rows_of_a_group_that_is_not_there_are_not_handed_out() {
    let mut agent = Agent::start();
    let contents = two_drives_in_turn(&agent);
    forget(&mut agent);
    away(&agent, "d1");
    agent.run();
    agent.plinth("pool import @d2").ok();
    let shown = pool(&agent);
    assert!(shown["allocated_bytes"].as_u64() > Some(0), "{shown}");
    assert_eq!(shown["health"], "degraded");
    assert!(
        shown["status"].as_str().is_some_and(|status| status.contains("could not be rebuilt")),
        "{shown}"
    );
    agent.plinth("volume create y --pool p --size 1MiB --legs 1").fails(7, &["imported", "not all there"]);
    agent.plinth("pool delete p --yes").fails(6, &["could not be imported", "export"]);
    // Its other drive is not known yet.
    agent.plinth("drive remove p @d2 --yes").fails(6, &["last one of pool p"]);
    // A repetition changes nothing; the drive completes it, and has groups of its own.
    let before = agent.state();
    agent.plinth("pool import p").ok();
    agent.plinth("pool import @d2").ok();
    assert_eq!(agent.state(), before);
    back(&agent, "d1");
    agent.plinth("pool import @d1 --dry-run").ok();
    assert_eq!(agent.state(), before);
    assert_eq!(agent.plinth("pool import @d1").ok(), "p\n");
    assert_eq!(volumes(&agent), ["v", "w", "x"]);
    assert_eq!(pool(&agent)["health"], "online", "{}", pool(&agent));
    agent.plinth("volume create y --pool p --size 1MiB --legs 1").ok();
    let mut nbd = attach(&agent);
    contents.check(&mut nbd);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2").ok();
    let told = events(&agent, "pool_import");
    assert!(told[0].contains("defaults again") && told[0].contains("nothing new is handed out"), "{told:?}");
    assert!(told[1].starts_with("more of pool p was imported: 1 drive found, 3 volumes rebuilt"), "{told:?}");
}

/// A copy that missed rows is found first, and the one that knows them later: what it knows is the catalogue's then.
#[test]
fn rows_that_only_a_missing_drive_knows_are_learnt_when_it_is_found() {
    let mut agent = Agent::start();
    for drive in ["d1", "d2", "d3"] {
        agent.drive(drive, 256);
    }
    agent.plinth("pool create p @d1 @d2 --extent-size 8MiB").ok();
    agent.plinth("volume create v --pool p --size 512MiB").ok();
    let mut contents = Contents::new(CHUNKS / 2);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 7);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    away(&agent, "d2");
    agent.plinth("pool add p @d3").ok();
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    forget(&mut agent);
    back(&agent, "d2");
    away(&agent, "d1");
    agent.run();
    agent.plinth("pool import @d2 @d3").ok();
    agent.plinth("volume attach v --nbd @n").fails(6, &["no complete copy"]);
    agent.plinth("volume create w --pool p --size 1MiB --legs 1").fails(7, &["missing is drive"]);
    back(&agent, "d1");
    let mut nbd = attach(&agent);
    contents.check(&mut nbd);
    agent.plinth("volume create w --pool p --size 1MiB --legs 1").ok();
    // What missed rows is handed back within a look of the agent.
    let start = Instant::now();
    while agent.plinth("-o json volume show v").json()["health"] != "online" {
        assert!(start.elapsed().as_secs() < 60, "{}", agent.plinth("events").ok());
    }
    // It knows where everything of the volume is. Another one that is not attached does not move.
    agent.plinth("volume delete w --yes").ok();
    agent.plinth("drive evacuate p @d3 --wait").ok();
    contents.check(&mut nbd);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2 @d3").ok();
}

/// What never comes back is given up by the operator's word, on the record.
#[test]
fn groups_of_which_only_parts_are_there_are_given_up() {
    let mut agent = Agent::start();
    two_drives_in_turn(&agent);
    forget(&mut agent);
    away(&agent, "d1");
    agent.run();
    agent.plinth("pool import @d2").ok();
    agent.plinth("pool import p --force").fails(6, &["give up", "--yes"]);
    assert!(pool(&agent)["allocated_bytes"].as_u64() > Some(0));
    agent.plinth("pool import p --force --yes").ok();
    assert_eq!((&pool(&agent)["allocated_bytes"], &pool(&agent)["health"]), (&0.into(), &"online".into()));
    agent.plinth("volume create y --pool p --size 1MiB --legs 1").ok();
    assert_eq!(events(&agent, "groups_given_up").len(), 1);
    assert!(agent.plinth("pool history p").ok().contains("pool import p --force"));
    // Turning up later, the group finds its place taken: it is named, and what it has at home stays.
    back(&agent, "d1");
    agent.plinth("pool import @d1").ok();
    assert_eq!(volumes(&agent), ["w", "x", "y"]);
    assert!(pool(&agent)["status"].as_str().is_some_and(|status| status.contains("another group has")));
}

/// Once all of an imported pool was there, a drive that dies is a drive that dies.
#[test]
fn a_pool_that_was_imported_whole_is_like_any_other() {
    let mut agent = Agent::start();
    for drive in ["d1", "d2", "d3"] {
        agent.drive(drive, 512);
    }
    agent.plinth("pool create p @d1 @d2").ok();
    agent.plinth("volume create v --pool p --size 16MiB").ok();
    agent.plinth("pool export p").ok();
    agent.plinth("pool import p").ok();
    drop(attach(&agent));
    std::fs::remove_file(agent.path("d2")).expect("removes");
    agent.plinth("volume create w --pool p --size 16MiB --legs 1").ok();
    agent.plinth("drive replace p @d2 @d3 --wait").ok();
    agent.plinth("volume detach v").ok();
    // The drive that left is still in the group's drive table, and missing to nobody.
    agent.plinth("pool export p").ok();
    agent.terminate();
    agent.run();
    agent.plinth("pool import p").ok();
    assert_eq!(pool(&agent)["health"], "online", "{}", pool(&agent));
    agent.plinth("volume create x --pool p --size 16MiB --legs 1").ok();
    drop(attach(&agent));
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d3").ok();
}

/// Waits until the pool is all there: what is found by a look at it is put in its place behind that.
#[track_caller]
fn wait_whole(agent: &Agent) {
    let start = Instant::now();
    while pool(agent)["health"] != "online" {
        assert!(start.elapsed() < DEADLINE, "{}: {}", pool(agent), agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A volume that is whole is served while its pool is not all there: it gets no row, no copy more, and nothing of it moves;
/// its guest hears of no space. With the rest of the pool it gets all of that.
#[test]
fn a_served_volume_of_a_pool_that_is_not_all_there_gets_nothing_new() {
    let mut agent = Agent::start();
    ["d1", "d2", "d3"].iter().for_each(|name| drop(agent.drive(name, 256)));
    agent.plinth("pool create p @d1 --extent-size 8MiB").ok();
    agent.plinth("volume create v --pool p --size 128MiB --legs 1").ok();
    agent.plinth("pool add p @d2 @d3").ok();
    agent.plinth("volume create w --pool p --size 16MiB --legs 2").ok();
    forget(&mut agent);
    // `w` names it, and nobody has seen it.
    away(&agent, "d3");
    agent.run();
    agent.plinth("pool import @d1 @d2").ok();
    let mut nbd = attach(&agent);
    let taken = pool(&agent)["allocated_bytes"].clone();
    let mut contents = Contents::new(2048);
    let mut written = 0;
    let refused = loop {
        match nbd.try_write(written * CHUNK, &contents.chunk(written)) {
            0 => written += 1,
            error => break error,
        }
        assert!(written < 2048, "more than its first row was written");
    };
    assert_eq!(refused, 28, "no space");
    assert!(written > 0, "there was space in its row");
    assert_eq!(pool(&agent)["allocated_bytes"], taken, "no row was handed out");
    for line in [
        "volume set v legs=2",
        "drive evacuate p @d1",
        "drive remove p @d1",
        "volume create x --pool p --size 1MiB",
    ] {
        agent.plinth(line).fails(7, &["imported", "not all there"]);
    }
    assert_eq!(
        (&pool(&agent)["tasks"], &pool(&agent)["allocated_bytes"]),
        (&Value::Array(Vec::new()), &taken)
    );
    back(&agent, "d3");
    wait_whole(&agent);
    agent.plinth("volume set v legs=2").ok();
    contents.write(&mut nbd, 0, 1);
    contents.check(&mut nbd);
}

/// The drive that is missing never comes back: the operator gives it up with the words that there are.
#[test]
fn a_drive_that_was_not_there_at_the_import_is_given_up() {
    let mut agent = Agent::start();
    agent.drive("d1", 512);
    agent.drive("d2", 512);
    agent.plinth("pool create p @d1 @d2").ok();
    agent.plinth("volume create v --pool p --size 16MiB").ok();
    let mut contents = Contents::new(64);
    let mut nbd = attach(&agent);
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    forget(&mut agent);
    away(&agent, "d2");
    agent.run();
    agent.plinth("pool import @d1").ok();
    let lost = pool(&agent)["drives"][1]["id"].as_str().expect("an id").to_owned();
    let fail = format!("drive fail p {lost}");
    agent.plinth(&fail).fails(6, &["attach it once first"]);
    agent.plinth("volume attach v --nbd @n --force-stale --yes").ok();
    agent
        .plinth("volume create w --pool p --size 1MiB --legs 1")
        .fails(7, &["missing is drive", "drive fail p"]);
    agent.plinth(&fail).ok();
    agent.plinth("volume create w --pool p --size 1MiB --legs 1").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    contents.check(&mut nbd);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    // Turning up all the same, it is one of the pool again.
    back(&agent, "d2");
    agent.plinth("status").ok();
    assert_eq!(pool(&agent)["drives"][1]["state"], "failed");
    agent.plinth("drive online p @d2").ok();
    let mut nbd = attach(&agent);
    contents.check(&mut nbd);
}

/// A header on the only leg rotted: that group has no name, and all others were not imported either.
#[test]
fn a_group_without_names_keeps_nobody_else_out() {
    use std::os::unix::fs::FileExt;
    let mut agent = Agent::start();
    agent.drive("d1", 512);
    agent.plinth("pool create p @d1").ok();
    agent.plinth("volume create v --pool p --size 16MiB --legs 1").ok();
    agent.plinth("volume create w --pool p --size 16MiB --legs 1").ok();
    forget(&mut agent);
    let drive = std::fs::File::options().read(true).write(true).open(agent.path("d1")).expect("opens");
    let mut header = [0; 4096];
    drive.read_exact_at(&mut header, 256 * 4096).expect("reads");
    drive.write_all_at(&[7; 4096], 256 * 4096).expect("writes");
    agent.run();
    agent.plinth("pool import @d1").ok();
    assert_eq!(volumes(&agent), ["w"]);
    let shown = pool(&agent);
    assert!(shown["status"].as_str().is_some_and(|status| status.contains("its names")), "{shown}");
    // All of it is known and stays taken, so that others may grow.
    assert_eq!(shown["allocated_bytes"], 2 * (64 << 20), "{shown}");
    agent.plinth("volume create x --pool p --size 16MiB --legs 1").ok();
    drive.write_all_at(&header, 256 * 4096).expect("writes");
    agent.plinth("pool import p").ok();
    assert_eq!(volumes(&agent), ["v", "w", "x"]);
    assert_eq!((&pool(&agent)["health"], &pool(&agent)["status"]), (&"online".into(), &Value::Null));
    drop(attach(&agent));
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1").ok();
}

#[test]
fn a_name_that_is_taken_keeps_nobody_else_out() {
    let agent = Agent::start();
    agent.drive("d1", 512);
    agent.drive("e1", 256);
    agent.plinth("pool create p @d1").ok();
    agent.plinth("volume create v --pool p --size 16MiB --legs 1").ok();
    agent.plinth("volume create w --pool p --size 16MiB --legs 1").ok();
    agent.plinth("pool export p").ok();
    agent.plinth("pool create q @e1").ok();
    agent.plinth("volume create v --pool q --size 16MiB --legs 1").ok();
    agent.plinth("pool import p").ok();
    assert_eq!(volumes(&agent), ["v", "w"]);
    assert!(
        pool(&agent)["status"].as_str().is_some_and(|status| status.contains("one of that name already"))
    );
    agent.plinth("volume rename v u").ok();
    agent.plinth("pool import p").ok();
    assert_eq!(volumes(&agent), ["u", "v", "w"]);
    drop(attach(&agent));
    agent.plinth("volume detach v").ok();
}

/// A copy has the identity of the original, and names of devices move: not even the path where the drive was last tells
/// which one it is.
#[test]
fn of_a_copied_drive_neither_is_used() {
    let agent = Agent::start();
    agent.volume();
    drop(attach(&agent));
    agent.plinth("volume detach v").ok();
    std::fs::copy(agent.path("d1"), agent.path("copy")).expect("copies");
    let both = [agent.path("d1").display().to_string(), agent.path("copy").display().to_string()];
    let both: Vec<&str> = both.iter().map(String::as_str).collect();
    agent.plinth("volume attach v --nbd @n").fails(6, &both);
    let start = agent.plinth("volume show v -o json").json();
    assert_eq!(start["state"], "detached", "{start}");
    agent.plinth("pool export p").ok();
    agent.plinth("pool import @d1 @copy @d2").fails(6, &both);
    agent.plinth("pool import p").ok();
    std::fs::remove_file(agent.path("copy")).expect("removes");
    drop(attach(&agent));
    // While a target has the right one, a copy beside it changes nothing.
    std::fs::copy(agent.path("d1"), agent.path("copy")).expect("copies");
    let shown = agent.plinth("volume show v -o json").json();
    assert_eq!((&shown["state"], &shown["health"]), (&"attached".into(), &"online".into()), "{shown}");
    assert_eq!(pool(&agent)["health"], "online");
    agent.plinth("volume detach v").ok();
}

/// The catalogue is lost while a target serves: what it was granted and has not used yet is in no superblock.
#[test]
fn a_drive_that_is_served_is_not_imported() {
    let mut agent = Agent::start();
    agent.volume();
    let nbd = attach(&agent);
    let pid = agent.plinth("volume show v -o json").json()["target"]["pid"].to_string();
    agent.kill();
    std::fs::remove_file(agent.path("state/catalogue.redb")).expect("removes");
    agent.run();
    agent.plinth("pool import @d1 @d2").fails(6, &["served by another process"]);
    drop(nbd);
    assert!(support::signal("KILL", &pid), "the target lives");
    while agent.plinth("pool import @d1 @d2").code != 0 {
        std::thread::yield_now();
    }
    drop(attach(&agent));
    agent.plinth("volume detach v").ok();
}
