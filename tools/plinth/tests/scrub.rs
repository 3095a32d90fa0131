//! Scrubs as users see them: what rots on drives behind a volume's back is found, named and right again.
mod support;

use std::collections::BTreeSet;
use support::nbd::Nbd;
use support::rot::{BLOCK, attach, check, content, data_on, fill, named, rot, show, status, wait_until};
use support::{Agent, signal};

/// Blocks that rot on every leg are named by volume and block; reading them is an error, all else is right, and writing
/// them anew makes them well.
#[test]
fn double_damage_is_named_and_overwriting_heals_it() {
    let agent = Agent::start();
    agent.volume();
    agent.plinth("pool set p scrub_rate=0").ok();
    let mut nbd = attach(&agent);
    let mut turns = fill(&mut nbd, 1024);
    agent.plinth("scrub start v --wait").ok();
    let (one, two) = (data_on(&agent, "d1", &turns), data_on(&agent, "d2", &turns));
    let lost = [17, 800];
    rot(&agent, "d1", lost.iter().map(|block| one[block]));
    rot(&agent, "d2", lost.iter().map(|block| two[block]).chain([two[&300]]));
    let ran = agent.plinth("scrub start v --wait -o json");
    assert_eq!(ran.code, 4, "damage is left: {} {}", ran.out, ran.err);
    let shown = status(&agent);
    assert_eq!((&shown["copies_lost"], &shown["copies_repaired"]), (&4.into(), &1.into()), "{shown}");
    let named_lbas = |field: &str| -> BTreeSet<u64> {
        shown[field].as_array().expect("a list").iter().filter_map(|entry| entry["lba"].as_u64()).collect()
    };
    assert_eq!(named_lbas("lost"), BTreeSet::from(lost));
    assert_eq!(shown["lost_bytes"], 2 * BLOCK);
    assert!(shown["last_findings"].as_array().expect("a list").iter().all(|found| found["volume"] == "v"));
    let events = agent.plinth("events -o json").json();
    let of_kind =
        |kind: &str| events.as_array().expect("a list").iter().find(|event| event["kind"] == kind).cloned();
    let event = of_kind("scrub_lost").expect("an event");
    assert_eq!((&event["severity"], &event["object"]), (&"error".into(), &"v".into()));
    let places: BTreeSet<u64> = named(&agent, "scrub_lost", 0).into_iter().map(|(_, at)| at).collect();
    assert_eq!(places, lost.iter().flat_map(|block| [one[block], two[block]]).collect());
    let metrics = agent.get("/metrics");
    for (family, value) in [
        ("plinth_volume_lost_bytes{volume=\"v\",pool=\"p\"}", 2 * BLOCK),
        ("plinth_volume_lost_records{volume=\"v\",pool=\"p\"}", 0),
        ("plinth_volume_scrub_lost_copies{volume=\"v\",pool=\"p\"}", 4),
        ("plinth_volume_scrub_repaired_copies{volume=\"v\",pool=\"p\"}", 1),
        ("plinth_volume_scrub_found_copies_total{volume=\"v\",pool=\"p\",outcome=\"lost\"}", 4),
        ("plinth_volume_scrub_found_copies_total{volume=\"v\",pool=\"p\",outcome=\"repaired\"}", 1),
        ("plinth_volume_copies{volume=\"v\",pool=\"p\",state=\"current\"}", 2),
        ("plinth_volume_resync_left_bytes{volume=\"v\",pool=\"p\"}", 0),
    ] {
        assert!(metrics.contains(&format!("\n{family} {value}\n")), "{family} {value}: {metrics}");
    }
    let volume = show(&agent);
    assert_eq!(volume["health"], "faulted");
    let sentence = volume["status"].as_str().expect("a sentence");
    for block in lost {
        assert!(sentence.contains(&(block * BLOCK).to_string()), "{sentence}");
    }
    assert!(volume["action"].as_str().expect("what to do").contains("overwrite or discard"), "{volume}");
    assert_eq!(agent.plinth("scrub status v").code, 4);
    assert_eq!(agent.plinth("scrub status --pool p").code, 4);
    check(&mut nbd, &turns, &lost);
    for block in lost {
        turns[block as usize] = 3;
        nbd.write(block * BLOCK, &content(block, 3));
    }
    nbd.flush();
    agent.plinth("scrub start v --wait").ok();
    assert_eq!((&show(&agent)["health"], &status(&agent)["lost_bytes"]), (&"online".into(), &0.into()));
    check(&mut nbd, &turns, &[]);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("fsck @d1 @d2").ok();
}

/// A scrub goes on where it was when its target or the agent dies, and when its volume is attached again.
#[test]
fn a_scrub_outlives_target_agent_and_attachment() {
    let mut agent = Agent::start();
    agent.volume();
    agent.plinth("pool set p tend=off").ok();
    agent.plinth("scrub status v").ok();
    assert_eq!(status(&agent)["state"], "none");
    agent.plinth("scrub start v").fails(6, &["not attached", "attach"]);
    agent.plinth("scrub start --pool p").fails(6, &["attach"]);
    agent.plinth("scrub stop v").ok();
    let mut nbd = attach(&agent);
    let turns = fill(&mut nbd, 4096);
    drop(nbd);
    // Slow enough to be caught in the middle: at least eight seconds.
    agent.plinth("pool set p scrub_rate=4MiB").ok();
    agent.plinth("scrub start v --dry-run").ok();
    assert_eq!(status(&agent)["state"], "none");
    let begun = agent.plinth("scrub start v -o json").json();
    let again = agent.plinth("scrub start v -o json").json();
    assert_eq!(begun["started_at"], again["started_at"], "a repetition is the same scrub");
    wait_until(&agent, "under way", |shown| shown["bytes_done"].as_u64() > Some(1 << 20));
    let pid = show(&agent)["target"]["pid"].as_u64().expect("a target");
    assert!(signal("KILL", &pid.to_string()), "the target lives");
    wait_until(&agent, "under way again", |shown| {
        shown["state"] == "running" && show(&agent)["target"]["pid"] != pid
    });
    agent.kill();
    agent.run();
    let shown = wait_until(&agent, "under way after all", |shown| shown["state"] == "running");
    assert_eq!(shown["started_at"], begun["started_at"]);
    agent.plinth("volume detach v").ok();
    let before = wait_until(&agent, "paused", |shown| shown["state"] == "paused");
    assert!(before["waits_for"].as_str().expect("why").contains("not attached"), "{before}");
    let mut nbd = attach(&agent);
    agent.plinth("pool set p scrub_rate=0").ok();
    let ended = wait_until(&agent, "finished", |shown| shown["state"] == "finished");
    assert_eq!((&ended["started_at"], &ended["copies_repaired"]), (&begun["started_at"], &0.into()));
    // What was counted before is still counted; what was not stored when somebody died is counted when it is seen again.
    assert!(ended["copies_checked"].as_u64() >= before["copies_checked"].as_u64(), "{ended} after {before}");
    assert!(ended["copies_checked"].as_u64() >= Some(2 * 4096), "{ended}");
    check(&mut nbd, &turns, &[]);
    // One that is ended stays ended, and the next one begins anew.
    agent.plinth("pool set p scrub_rate=4MiB").ok();
    agent.plinth("scrub start v").ok();
    let stopped = agent.plinth("scrub stop v -o json").json();
    assert_eq!(stopped["state"], "stopped");
    assert_eq!(agent.plinth("scrub stop v -o json").json()["state"], "stopped");
    agent.plinth("pool set p scrub_rate=0").ok();
    assert_ne!(agent.plinth("scrub start v --wait -o json").json()["started_at"], begun["started_at"]);
}

/// A pool's volumes are scrubbed one after the other; and a scrub that is due begins by itself.
#[test]
fn a_pool_is_scrubbed_in_turns_and_when_it_is_due() {
    let agent = Agent::start();
    agent.volume();
    agent.plinth("volume create w --pool p --size 16MiB").ok();
    agent.plinth("volume create x --pool p --size 16MiB").ok();
    let mut nbd = attach(&agent);
    fill(&mut nbd, 1024);
    agent.plinth("volume attach w --nbd @m").ok();
    let mut other = Nbd::connect(&agent.path("m"));
    fill(&mut other, 1024);
    // `x` is detached, and left alone.
    agent.plinth("pool set p tend=off").ok();
    agent.plinth("pool set p scrub_rate=4MiB").ok();
    let begun = agent.plinth("scrub start --pool p -o json").json();
    assert_eq!(begun["volumes"].as_array().map(Vec::len), Some(3), "{begun}");
    let shown = wait_until(&agent, "under way", |shown| shown["state"] == "running");
    assert_eq!(shown["volume"], "v");
    let waits = agent.plinth("scrub status w -o json").json();
    assert_eq!(waits["state"], "paused", "{waits}");
    assert!(waits["waits_for"].as_str().expect("why").contains("volume v"), "{waits}");
    agent.plinth("pool set p scrub_rate=0").ok();
    let ended = agent.plinth("scrub start --pool p --wait -o json").json();
    assert_eq!(ended["state"], "finished", "{ended}");
    let states: Vec<&str> = ended["volumes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|scrub| scrub["state"].as_str())
        .collect();
    assert_eq!(states, ["finished", "finished", "none"]);
    agent.plinth("scrub start").fails(2, &["required"]);
    agent.plinth("pool set p scrub_every=soon").fails(2, &["length of time"]);
    agent.plinth("pool set p scrub_every=1s").ok();
    let before = status(&agent)["finished_at"].clone();
    wait_until(&agent, "scrubbed again", |shown| {
        shown["state"] == "finished" && shown["finished_at"] != before
    });
    agent.plinth("pool set p scrub_every=0").ok();
    assert_eq!(agent.plinth("pool status p -o json").json()["scrub_every_seconds"], 0);
}
