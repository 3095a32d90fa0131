//! Bad input: a clear sentence, the right exit code, and nothing changed. One test for each line of the list.
mod support;

use std::os::unix::fs::{FileExt, PermissionsExt};
use support::Agent;

/// Runs a command that must fail, and checks that nothing changed.
#[track_caller]
fn refused(agent: &Agent, line: &str, code: i32, words: &[&str]) {
    let before = agent.state();
    agent.plinth(line).fails(code, words);
    assert_eq!(agent.state(), before, "{line} changed something");
}

#[test]
fn a_drive_that_is_in_a_pool_already() {
    let agent = Agent::start();
    agent.pool();
    agent.drive("d3", 256);
    refused(&agent, "pool create q @d1 @d3", 6, &["d1", "pool p"]);
    refused(&agent, "pool create q @d1 --force --yes", 6, &["pool p"]);
    refused(&agent, "drive wipe @d1 --yes", 6, &["pool p"]);
}

#[test]
fn a_drive_with_a_file_system_or_a_partition_table_on_it() {
    let agent = Agent::start();
    let drive = agent.drive("d1", 256);
    agent.drive("d2", 256);
    let file = std::fs::File::options().write(true).open(&drive).expect("opens");
    file.write_all_at(b"\x53\xef", 1080).expect("writes");
    refused(&agent, "pool create p @d1 @d2", 6, &["ext2/3/4", "--force"]);
    refused(&agent, "pool create p @d1 @d2 --force", 6, &["--yes"]);
    file.write_all_at(&[0, 0], 1080).expect("writes");
    file.write_all_at(b"EFI PART", 512).expect("writes");
    refused(&agent, "pool create p @d1 @d2", 6, &["GPT"]);
    agent.plinth("pool create p @d1 @d2 --force --yes").ok();
}

#[test]
fn a_drive_that_is_too_small() {
    let agent = Agent::start();
    agent.drive("d1", 255);
    refused(&agent, "pool create p @d1", 2, &["too small", "256MiB"]);
}

#[test]
fn a_drive_that_is_listed_twice() {
    let agent = Agent::start();
    agent.drive("d1", 256);
    std::os::unix::fs::symlink(agent.path("d1"), agent.path("same")).expect("links");
    std::fs::hard_link(agent.path("d1"), agent.path("hard")).expect("links");
    refused(&agent, "pool create p @d1 @d1", 2, &["twice"]);
    refused(&agent, "pool create p @d1 @same", 2, &["twice"]);
    refused(&agent, "pool create p @d1 @hard", 2, &["twice"]);
}

#[test]
fn a_drive_of_another_pool() {
    let agent = Agent::start();
    agent.pool();
    agent.plinth("pool export p --yes").ok();
    agent.drive("d3", 256);
    refused(&agent, "pool create q @d1 @d3", 6, &["pool p", "import"]);
    agent.plinth("pool create q @d3").ok();
    refused(&agent, "pool add q @d1", 6, &["pool p"]);
    agent.plinth("pool add q @d1 --force --yes").ok();
}

#[test]
fn a_drive_that_is_read_only() {
    let agent = Agent::start();
    agent.drive("d1", 256);
    std::fs::set_permissions(agent.path("d1"), std::fs::Permissions::from_mode(0o444)).expect("restricts");
    refused(&agent, "pool create p @d1", 8, &["read-only"]);
}

#[test]
fn a_drive_that_is_gone_or_none() {
    let agent = Agent::start();
    refused(&agent, "pool create p @none", 5, &["no drive"]);
    refused(&agent, "pool create p @state", 2, &["neither a block device nor a file"]);
    refused(&agent, "pool create p /dev/null", 2, &["neither a block device nor a file"]);
    agent.volume();
    std::fs::remove_file(agent.path("d1")).expect("removes");
    let pool = agent.plinth("pool status p -o json").json();
    assert_eq!((&pool["health"], &pool["drives"][0]["state"]), (&"degraded".into(), &"missing".into()));
    refused(&agent, "volume create w --pool p --size 1MiB", 7, &["label drive is short"]);
    refused(&agent, "status --check --quiet -o name --timeout 1ns", 2, &["length of time"]);
    assert_eq!(agent.plinth("status --check").code, 14);
}

#[test]
fn sizes_that_cannot_be() {
    let agent = Agent::start();
    agent.pool();
    let create = |size: &str| format!("volume create v --pool p --size {size}");
    refused(&agent, &create("0"), 2, &["size of 0"]);
    refused(&agent, &create("4097"), 2, &["multiple of 4096", "8192"]);
    refused(&agent, &create("129TiB"), 2, &["beyond the format", "128TiB"]);
    refused(&agent, &create("100TiB"), 2, &["can never be filled", "it holds 70.4TiB", "--extent-size"]);
    refused(&agent, &create("100TiB --legs 3"), 2, &["with 3 legs, 1 columns and extents of 64MiB"]);
    refused(&agent, &create("99999999999999999999"), 2, &["too large"]);
    refused(&agent, &create("ten"), 2, &["no size"]);
    refused(&agent, &create("1.5GiB"), 2, &["unit is unknown"]);
    refused(&agent, "volume create v --pool p --size 1GiB --stripe-unit 1000", 2, &["stripe unit"]);
    refused(&agent, "volume create v --pool p --size 1GiB --stripe-unit 96KiB", 2, &["do not fit"]);
    refused(&agent, "volume create v --pool p --size 1GiB --legs 0", 2, &["1 to 4"]);
    refused(&agent, "volume create v --pool p --size 1GiB --legs 5", 2, &["1 to 4"]);
    refused(&agent, "volume create v --pool p --size 1GiB --columns 9", 2, &["1 to 8"]);
}

#[test]
fn a_shrink() {
    let agent = Agent::start();
    agent.volume();
    refused(&agent, "volume resize v 32MiB", 2, &["cannot shrink", "only grow"]);
    refused(&agent, "volume resize v 129TiB", 2, &["beyond the format"]);
    refused(&agent, "volume resize v 8TiB", 2, &["can never be filled", "it holds 7TiB"]);
    refused(&agent, "volume resize v +4095", 2, &["multiple"]);
    refused(&agent, "volume resize w 1GiB", 5, &["no volume w"]);
}

#[test]
fn bad_names() {
    let agent = Agent::start();
    agent.pool();
    agent.drive("d3", 256);
    let long = "x".repeat(129);
    for name in ["a/b", "a@b", "ä", "..", long.as_str()] {
        refused(&agent, &format!("pool create {name} @d3"), 2, &["no pool name"]);
        refused(&agent, &format!("volume create {name} --pool p --size 1MiB"), 2, &["no volume name"]);
    }
    agent.plinth("volume create v --pool p --size 1MiB").ok();
    refused(&agent, "volume rename v a/b", 2, &["no volume name"]);
    refused(&agent, "volume show a/b", 5, &["no volume a/b"]);
    refused(&agent, "volume create w --pool p --size 1MiB --group a/b", 2, &["no group name"]);
}

#[test]
fn a_name_that_is_taken_with_other_parameters() {
    let agent = Agent::start();
    agent.volume();
    agent.drive("d3", 256);
    refused(&agent, "pool create p @d1", 11, &["pool p exists"]);
    refused(&agent, "pool create p @d1 @d3", 11, &["pool p exists"]);
    refused(&agent, "pool create p @d1 @d2 --label node=a", 11, &["pool p exists"]);
    refused(&agent, "pool add p @d1 --label rack=a", 11, &["other labels"]);
    refused(&agent, "volume create v --pool p --size 128MiB", 11, &["volume v exists"]);
    refused(&agent, "volume create v --pool p --size 64MiB --legs 1", 11, &["volume v exists"]);
    refused(&agent, "volume create w --pool q --size 64MiB", 5, &["no pool q"]);
    agent.plinth("volume create w --pool p --size 1MiB --legs 1").ok();
    refused(&agent, "volume rename v w", 11, &["taken"]);
}

#[test]
fn attach_through_a_second_front_end_and_delete_while_attached() {
    let agent = Agent::start();
    agent.volume();
    agent.plinth("volume attach v --nbd @n").ok();
    refused(&agent, "volume attach v --nbd @other", 6, &["attached already", "detach"]);
    refused(&agent, "volume attach v --nbd @n --read-only", 6, &["attached already"]);
    refused(&agent, "volume attach v", 6, &["attached already", "NBD"]);
    refused(&agent, "volume delete v --yes", 6, &["attached", "detach"]);
    refused(&agent, "volume rename v w", 6, &["attached"]);
    refused(&agent, "pool delete p --yes", 6, &["1 volume"]);
    refused(&agent, "pool export p", 6, &["attached"]);
}

#[test]
fn a_socket_that_cannot_be() {
    let agent = Agent::start();
    agent.volume();
    refused(&agent, "volume attach v --nbd @no/such", 5, &["no folder"]);
    refused(&agent, "volume attach v --nbd @d1", 6, &["no socket"]);
    let long = format!("volume attach v --nbd @{}", "x".repeat(120));
    refused(&agent, &long, 2, &["too long"]);
}

#[test]
fn a_pool_short_of_drives_for_the_legs() {
    let agent = Agent::start();
    agent.drive("d1", 256);
    agent.plinth("pool create p @d1").ok();
    refused(&agent, "volume create v --pool p --size 1MiB", 7, &["label drive is short", "--legs 1"]);
    agent.drive("d2", 256);
    agent.drive("d3", 256);
    agent.plinth("pool add p @d2 --label node=n2").ok();
    agent.plinth("pool add p @d3 --label node=n2").ok();
    agent.plinth("volume create v --pool p --size 1MiB").ok();
    refused(&agent, "volume create w --pool p --size 1MiB --legs 3", 7, &["label node is short"]);
    refused(&agent, "volume create w --pool p --size 1MiB --columns 2", 7, &["label node is short"]);
}

/// Every byte of a label: one copy damaged is repaired and reported, all copies damaged are refused.
#[test]
fn a_damaged_label() {
    let mut agent = Agent::start();
    agent.pool();
    agent.terminate();
    let drive = agent.path("d1");
    let flip = |offset: u64| {
        let file = std::fs::File::options().read(true).write(true).open(&drive).expect("opens");
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("reads");
        file.write_all_at(&[byte[0] ^ 0x10], offset).expect("writes");
    };
    let second = 255 << 20;
    for offset in [0, 9, 24, 60, 4095] {
        flip(offset);
        agent.plinth("fsck @d1").code_is(4);
        agent.run();
        let events = agent.plinth("events").ok();
        assert!(events.contains("label_repaired"), "{events}");
        agent.terminate();
        agent.plinth("fsck @d1").ok();
    }
    flip(100);
    flip(second + 100);
    agent.plinth("inspect @d1").fails(4, &["every copy of the label", "damaged"]);
    agent.run();
    agent.plinth("pool add p @d1").fails(4, &["damaged"]);
    assert_eq!(agent.plinth("pool status p -o json").json()["drives"][0]["state"], "missing");
    refused(&agent, "volume create v --pool p --size 1MiB", 7, &["label drive is short"]);
}

trait CodeIs {
    fn code_is(self, code: i32);
}

impl CodeIs for support::Ran {
    #[track_caller]
    fn code_is(self, code: i32) {
        assert_eq!(self.code, code, "out: {} err: {}", self.out, self.err);
    }
}

#[test]
fn a_newer_format_version() {
    let agent = Agent::start();
    agent.drive("d1", 256);
    let label = newer_label();
    let file = std::fs::File::options().write(true).open(agent.path("d1")).expect("opens");
    file.write_all_at(&label, 0).expect("writes");
    file.write_all_at(&label, 255 << 20).expect("writes");
    refused(&agent, "pool create p @d1", 10, &["format version 2", "newer plinth"]);
    agent.plinth("inspect @d1").fails(10, &["format version 2"]);
}

/// A label as a version 2 might write it: magic, version, own check.
fn newer_label() -> Vec<u8> {
    let mut block = vec![0u8; 4096];
    block[..8].copy_from_slice(b"PLNTHDRV");
    block[8] = 2;
    let check = base::Check::of(&block[..4080]);
    block[4080..].copy_from_slice(&check.0);
    block
}

#[test]
fn no_ublk_in_the_kernel() {
    let agent = Agent::start();
    agent.volume();
    if !std::path::Path::new("/dev/ublk-control").exists() {
        refused(&agent, "volume attach v", 10, &["modprobe ublk_drv", "--nbd"]);
    }
}

#[test]
fn loose_modes() {
    let mut agent = Agent::stopped();
    let loose = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changes");
    };
    let folder = agent.path("");
    loose(&folder, 0o750);
    agent.spawn();
    assert_eq!(agent.wait_end(), 8);
    assert!(agent.log().contains("open to others") && agent.log().contains("chmod 0700"), "{}", agent.log());
    loose(&folder, 0o700);
    std::fs::create_dir_all(agent.path("state")).expect("makes");
    loose(&agent.path("state"), 0o711);
    agent.spawn();
    assert_eq!(agent.wait_end(), 8);
    loose(&agent.path("state"), 0o700);
    agent.run();
    assert_eq!(std::fs::metadata(agent.socket()).expect("there").permissions().mode() & 0o777, 0o600);
    agent.kill();
    loose(&agent.socket(), 0o666);
    agent.spawn();
    assert_eq!(agent.wait_end(), 8);
}

#[test]
fn two_agents_and_none() {
    let mut agent = Agent::stopped();
    agent.plinth("pool list").fails(9, &["no agent answers", "plinth node"]);
    let error = agent.plinth("-o json pool list");
    let body: serde_json::Value = serde_json::from_str(&error.err).expect("JSON");
    assert_eq!((error.code, &body["error"]["exit_code"]), (9, &9.into()));
    assert_eq!(body["error"]["kind"], "unreachable");
    agent.run();
    let second = agent.plinth("node --state @state --no-scan");
    assert_eq!(second.code, 6);
    assert!(second.err.contains("another agent"), "{}", second.err);
    agent.plinth("status").ok();
}

#[test]
fn what_is_not_there() {
    let agent = Agent::start();
    agent.plinth("pool status q").fails(5, &["no pool q"]);
    agent.plinth("volume show w").fails(5, &["no volume w"]);
    agent.plinth("volume delete w --yes").fails(5, &["no volume w"]);
    agent.plinth("volume delete w --if-exists").ok();
    agent.plinth("pool delete q --yes").fails(5, &["no pool q"]);
    agent.plinth("pool delete q --if-exists").ok();
    agent.plinth("volume attach w --nbd @n").fails(5, &["no volume w"]);
    agent.plinth("volume detach w").fails(5, &["no volume w"]);
    agent.plinth("pool import @none").fails(5, &["no drive"]);
}

#[test]
fn verbs_and_words_of_later_versions_and_other_systems() {
    let agent = Agent::start();
    agent.volume();
    for line in [
        "snapshot create v@a",
        "clone create v@a w",
        "replica list",
        "site list",
        "volume qos v",
        "node --listen 127.0.0.1:1",
    ] {
        refused(&agent, line, 10, &["support"]);
    }
    for flag in ["--replicas", "--mirrors", "--repl=2"] {
        let line = format!("volume create w --pool p --size 1MiB {flag} 2");
        refused(&agent, &line, 2, &["copies in a pool are legs", "another site"]);
    }
    refused(&agent, "volume frobnicate", 2, &["frobnicate"]);
    refused(&agent, "volume create w --pool p", 2, &["--size"]);
    refused(&agent, "pool set p colour=red", 2, &["no property colour"]);
    refused(&agent, "pool set p reserve", 2, &["key=value"]);
    refused(&agent, "pool set p resync_rate=fast", 2, &["no size"]);
    refused(&agent, "drive replace p @d3 @d1", 5, &["pool p has no drive"]);
    refused(&agent, "drive replace p @d1", 2, &["NEW"]);
    for verb in ["offline", "online", "fail", "evacuate", "remove"] {
        refused(&agent, &format!("drive {verb} p @d3"), 5, &["pool p has no drive", "drive list"]);
        refused(&agent, &format!("drive {verb} q @d1"), 5, &["no pool q"]);
    }
    refused(&agent, "pool create q @d1 --label colour=red", 2, &["no label colour"]);
}
