//! Scrubs as users see them: what rots on drives behind a volume's back is found, named and right again.
//!
//! What counts on a drive is not asked of the engine: data is found by its content, and everything else by letting
//! fsck, which shares no code with the engine but the format's, complain about a copy of the drive that is all rotten.
mod support;

use base::{Blocks, DriveBlock};
use plinth_check::{FileMedia, Media, Object, Options, Report, fsck, open_media};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use support::nbd::Nbd;
use support::{Agent, signal};

const BLOCK: u64 = 4096;
const CHUNK: u64 = 64 << 10;
/// The longest that anything here may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a block of the volume holds after its `turn`-th write: something that no other block ever holds.
fn content(block: u64, turn: u64) -> Vec<u8> {
    let word = (block << 8 | turn | 1 << 60).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    word.repeat(BLOCK as usize / 8)
}

/// Writes so many blocks from the beginning, every third chunk a second time; returns the turn of each block.
fn fill(nbd: &mut Nbd, blocks: u64) -> Vec<u64> {
    let mut turns = vec![0; blocks as usize];
    let per_chunk = CHUNK / BLOCK;
    for (turn, step) in [(1, 1), (2, 3)] {
        for chunk in (0..blocks / per_chunk).step_by(step) {
            let first = chunk * per_chunk;
            let data: Vec<u8> = (first..first + per_chunk).flat_map(|block| content(block, turn)).collect();
            nbd.write(first * BLOCK, &data);
            turns[first as usize..(first + per_chunk) as usize].fill(turn);
        }
        nbd.flush();
    }
    turns
}

#[track_caller]
fn check(nbd: &mut Nbd, turns: &[u64], but: &[u64]) {
    for (block, turn) in turns.iter().enumerate() {
        let block = block as u64;
        let read = nbd.try_read(block * BLOCK, BLOCK as usize);
        if but.contains(&block) {
            assert_eq!(read, Err(5), "block {block} is lost: reading it is an error");
        } else {
            assert!(read.expect("a read") == content(block, *turn), "block {block} of turn {turn}");
        }
    }
}

/// A drive's blocks; those that were read are noted, and some read as if they were rotten.
struct Spied {
    media: FileMedia,
    read: RefCell<BTreeSet<u64>>,
    rotten: BTreeSet<u64>,
}

impl Spied {
    fn open(agent: &Agent, drive: &str, rotten: BTreeSet<u64>) -> Self {
        Self { media: open_media(&agent.path(drive)).expect("opens"), read: RefCell::default(), rotten }
    }
}

impl Media for Spied {
    fn blocks(&self) -> Blocks {
        self.media.blocks()
    }

    fn read_into(&self, at: DriveBlock, into: &mut [u8]) -> io::Result<()> {
        self.media.read_into(at, into)?;
        for (block, bytes) in (at.get()..).zip(into.chunks_mut(BLOCK as usize)) {
            self.read.borrow_mut().insert(block);
            if self.rotten.contains(&block) {
                bytes[100] ^= 1;
            }
        }
        Ok(())
    }
}

/// Where the blocks of the volume lie on a drive: those whose content is the newest.
fn data_on(agent: &Agent, drive: &str, turns: &[u64]) -> BTreeMap<u64, u64> {
    let begin = |bytes: &[u8]| <[u8; 8]>::try_from(&bytes[..8]).expect("eight bytes");
    let wanted = turns.iter().enumerate().map(|(block, turn)| (block as u64, content(block as u64, *turn)));
    let wanted: HashMap<[u8; 8], (u64, Vec<u8>)> =
        wanted.map(|(block, content)| (begin(&content), (block, content))).collect();
    let media = open_media(&agent.path(drive)).expect("opens");
    let mut places = BTreeMap::new();
    for at in 0..media.blocks().get() {
        let bytes = media.read(DriveBlock::new(at)).expect("reads");
        if let Some((block, _)) =
            wanted.get(&begin(&bytes[..])).filter(|(_, content)| content[..] == bytes[..])
        {
            assert_eq!(places.insert(*block, at), None, "a block of the volume lies in one place");
        }
    }
    assert_eq!(places.len(), turns.len(), "all of the volume is on {drive}");
    places
}

/// What fsck says of these drives, and which blocks it reads of each; on one of them some read as if they were rotten.
fn look(agent: &Agent, drives: &[&str], rotten: (&str, &BTreeSet<u64>)) -> (Report, Vec<BTreeSet<u64>>) {
    let opened = |name: &&str| {
        Spied::open(agent, name, if *name == rotten.0 { rotten.1.clone() } else { BTreeSet::new() })
    };
    let spied: Vec<Spied> = drives.iter().map(opened).collect();
    let named: Vec<(&str, &dyn Media)> =
        drives.iter().zip(&spied).map(|(name, spied)| (*name, spied as &dyn Media)).collect();
    let report = fsck(&named, &Options::default());
    assert_eq!(report.counts.not_kept, 0, "all findings are there");
    (report, spied.into_iter().map(|spied| spied.read.into_inner()).collect())
}

/// Everything but data that counts on a drive, by what fsck says when all that it reads is rotten: where it is, and what.
fn records_on(
    agent: &Agent,
    drives: &[&str],
    drive: &str,
    (read, data): (&BTreeSet<u64>, &BTreeMap<u64, u64>),
) -> BTreeMap<u64, String> {
    let data: BTreeSet<u64> = data.values().copied().collect();
    // The label is the pool's, not the volume's.
    let rotten: BTreeSet<u64> = read.difference(&data).copied().filter(|at| *at != 0).collect();
    let (report, _) = look(agent, drives, (drive, &rotten));
    let mut records = BTreeMap::new();
    for finding in report.findings.iter().filter(|finding| !matches!(finding.object, Object::Label(_))) {
        // The same thing has the same name on every leg.
        let what = match &finding.object {
            Object::Superblock { slot, .. } => format!("superblock {slot}"),
            object => format!("{object:?}"),
        };
        let here = finding.at.iter().filter(|place| place.drive == drive && rotten.contains(&place.block));
        for place in here {
            let named: &mut String = records.entry(place.block).or_insert_with(|| what.clone());
            if what < *named {
                named.clone_from(&what);
            }
        }
    }
    records
}

/// What is to rot on each drive: of everything that counts one copy, on the drives in turns.
fn one_copy_of_each(agent: &Agent, drives: &[&str], turns: &[u64]) -> Vec<BTreeSet<u64>> {
    let mut planted = vec![BTreeSet::new(); drives.len()];
    let mut copies: BTreeMap<String, Vec<(usize, u64)>> = BTreeMap::new();
    let (clean, read) = look(agent, drives, ("", &BTreeSet::new()));
    assert!(clean.is_clean(), "{:?}", clean.findings);
    for (number, drive) in drives.iter().enumerate() {
        let data = data_on(agent, drive, turns);
        for (at, what) in records_on(agent, drives, drive, (&read[number], &data)) {
            copies.entry(what).or_default().push((number, at));
        }
        let here = data.iter().filter(|(block, _)| **block % drives.len() as u64 == number as u64);
        planted[number].extend(here.map(|(_, at)| *at));
    }
    for (turn, copies) in copies.values().enumerate() {
        let on: BTreeSet<usize> = copies.iter().map(|(number, _)| *number).collect();
        let chosen = on.iter().nth(turn % on.len()).expect("a drive has it");
        planted[*chosen].extend(copies.iter().filter(|(number, _)| number == chosen).map(|(_, at)| *at));
    }
    planted
}

/// Spoils blocks of a drive behind its back: one bit each.
fn rot(agent: &Agent, drive: &str, places: impl IntoIterator<Item = u64>) {
    let path = agent.path(drive);
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
    for (n, at) in places.into_iter().enumerate() {
        let place = at * BLOCK + (n as u64 * 37) % BLOCK;
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).expect("reads");
        file.write_all_at(&[byte[0] ^ 1 << (n % 8)], place).expect("writes");
    }
    file.sync_all().expect("synced");
}

fn show(agent: &Agent) -> Value {
    agent.plinth("volume show v -o json").json()
}

fn status(agent: &Agent) -> Value {
    let ran = agent.plinth("scrub status v -o json");
    assert!([0, 4].contains(&ran.code), "{}", ran.err);
    serde_json::from_str(&ran.out).expect("JSON")
}

#[track_caller]
fn wait_until(agent: &Agent, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let shown = status(agent);
        if is(&shown) {
            return shown;
        }
        assert!(start.elapsed() < DEADLINE, "not {what}: {shown}\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn attach(agent: &Agent) -> Nbd {
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n"))
}

fn drive_id(agent: &Agent, name: &str) -> String {
    let drives = agent.plinth("drive list p -o json").json();
    let path = agent.path(name).display().to_string();
    let found = drives.as_array().expect("a list").iter().find(|drive| drive["path"] == path.as_str());
    found.expect("listed")["id"].as_str().expect("an id").to_owned()
}

/// The places that the events of a kind name: drive, and block on it.
fn named(agent: &Agent, kind: &str) -> Vec<(String, u64)> {
    let events = agent.plinth("events -o json").json();
    let mut places = Vec::new();
    for event in events.as_array().expect("a list").iter().filter(|event| event["kind"] == kind) {
        let message = event["message"].as_str().expect("a message");
        let drive = message.split(" on drive ").nth(1).and_then(|rest| rest.split(' ').next());
        let copies = message.rsplit(": ").next().expect("what was wrong");
        for copy in copies.split("; ") {
            let at: u64 = copy.rsplit(" at ").next().and_then(|at| at.parse().ok()).expect("a place");
            assert_eq!(at % BLOCK, 0, "{copy}");
            places.push((drive.expect("a drive").to_owned(), at / BLOCK));
        }
    }
    places
}

/// D22: ten thousand copies rot, data and what leads to it, on every leg of two mirrors, of each thing one copy. All of
/// them are found, and nothing else; they are named, and right again: fsck finds nothing, and each leg alone has
/// everything. (The log is empty behind the scrub's own checkpoint: `volume/tests/scrub.rs`.)
#[test]
fn ten_thousand_rotten_copies_over_all_legs_are_found_named_and_repaired() {
    let planted = rot_and_scrub(2, 8192) + rot_and_scrub(3, 2048);
    assert!(planted >= 10_000, "{planted}");
}

/// Does it to so many blocks on a mirror of so many legs; how many copies rotted.
fn rot_and_scrub(legs: usize, blocks: u64) -> usize {
    let drives = &["d1", "d2", "d3"][..legs];
    let agent = Agent::start();
    drives.iter().for_each(|drive| drop(agent.drive(drive, 256)));
    let all: Vec<String> = drives.iter().map(|drive| format!("@{drive}")).collect();
    agent.plinth(&format!("pool create p {}", all.join(" "))).ok();
    agent.plinth(&format!("volume create v --pool p --size 64MiB --legs {legs}")).ok();
    agent.plinth("pool set p scrub_rate=0").ok();
    let mut nbd = attach(&agent);
    let turns = fill(&mut nbd, blocks);
    // All that is new goes below a checkpoint, and nothing is new afterwards.
    let first = agent.plinth("scrub start v --wait -o json").json();
    assert_eq!((&first["state"], &first["copies_repaired"]), (&"finished".into(), &0.into()), "{first}");
    assert!(first["copies_checked"].as_u64() >= Some(legs as u64 * blocks), "{first}");
    assert_eq!(first["bytes_done"], first["bytes_total"]);
    let planted = one_copy_of_each(&agent, drives, &turns);
    for (drive, places) in drives.iter().zip(&planted) {
        assert!(places.len() > turns.len() / legs + 5, "{} on {drive}", places.len());
        rot(&agent, drive, places.iter().copied());
    }
    let count: usize = planted.iter().map(BTreeSet::len).sum();
    let second = agent.plinth("scrub start v --wait -o json").json();
    let found = named(&agent, "scrub_repaired");
    for (drive, planted) in drives.iter().zip(&planted) {
        let id = drive_id(&agent, drive);
        let places: BTreeSet<u64> = found.iter().filter(|(on, _)| *on == id).map(|(_, at)| *at).collect();
        let missed: Vec<_> = planted.difference(&places).collect();
        let beyond: Vec<_> = places.difference(planted).collect();
        assert!(missed.is_empty() && beyond.is_empty(), "{drive}: missed {missed:?}, beyond {beyond:?}");
    }
    assert_eq!(found.len(), count, "each is named once");
    assert_eq!((&second["copies_repaired"], &second["copies_lost"]), (&count.into(), &0.into()), "{second}");
    assert_eq!(second["last_findings"].as_array().map(Vec::len), Some(100));
    let text = agent.plinth("events").ok();
    for kind in [
        "data",
        "map page",
        "bitmap",
        "bitmap page",
        "directory page",
        "row page",
        "extent header",
        "superblock",
    ] {
        assert!(text.contains(&format!(" {kind} ")), "{kind}");
    }
    let third = agent.plinth("scrub start v --wait -o json").json();
    assert_eq!((&third["copies_repaired"], &third["last_findings"]), (&0.into(), &Value::Array(Vec::new())));
    assert_eq!(show(&agent)["health"], "online");
    drop(nbd);
    agent.plinth("volume detach v").ok();
    assert!(agent.plinth(&format!("fsck {}", all.join(" "))).ok().ends_with("clean\n"));
    drives.iter().for_each(|drive| whole_alone(&agent, drives, drive, &turns));
    count
}

/// One leg has everything, also when the others are not there.
fn whole_alone(agent: &Agent, drives: &[&str], alone: &str, turns: &[u64]) {
    let others = || drives.iter().filter(|drive| **drive != alone);
    let away = |drive: &str| agent.path(&format!("state/{drive}"));
    drop(attach(agent));
    let start = Instant::now();
    while show(agent)["health"] != "online" {
        assert!(start.elapsed() < DEADLINE, "the others are not current again: {}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.plinth("volume detach v").ok();
    others().for_each(|drive| std::fs::rename(agent.path(drive), away(drive)).expect("moves away"));
    let mut nbd = attach(agent);
    check(&mut nbd, turns, &[]);
    drop(nbd);
    agent.plinth("volume detach v").ok();
    others().for_each(|drive| std::fs::rename(away(drive), agent.path(drive)).expect("moves back"));
}

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
    let places: BTreeSet<u64> = named(&agent, "scrub_lost").into_iter().map(|(_, at)| at).collect();
    assert_eq!(places, lost.iter().flat_map(|block| [one[block], two[block]]).collect());
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
