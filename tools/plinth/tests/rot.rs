//! D22: whatever rots on one leg is found, named and right again.
//!
//! What counts on a drive is not asked of the engine: data is found by its content, commits by what changes in the ring
//! when they are written, and everything else by letting fsck, which shares no code with the engine but the format's,
//! complain about a copy of the drive that is all rotten.
mod support;

use base::{Block, Blocks, DriveBlock};
use plinth_check::{FileMedia, Media, Object, Options, Report, fsck, open_media};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};
use support::nbd::Nbd;
use support::rot::{
    BLOCK, attach, check, content, data_on, drive_id, fill, last_event, messages, named, rot, show, status,
    wait_until,
};
use support::{Agent, DEADLINE};
use volume::Geometry;
use volume::layout::{FIRST_EXTENT_BLOCK, extent};

/// Blocks of an extent.
const EXTENT_BLOCKS: u32 = 16_384;
/// Commits that are written under a scrub.
const COMMITS: usize = 200;
/// What is named on every leg.
const KINDS: [&str; 9] = [
    "data",
    "map page",
    "bitmap",
    "bitmap page",
    "directory page",
    "row page",
    "extent header",
    "superblock",
    "log commit",
];

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

/// What is to rot on each drive: of everything that counts one copy, on the drives in turns. So many rounds as there are
/// drives make all copies of what stays where it is.
fn one_copy_of_each(agent: &Agent, drives: &[&str], turns: &[u64], round: usize) -> Vec<BTreeSet<u64>> {
    let mut planted = vec![BTreeSet::new(); drives.len()];
    let mut copies: BTreeMap<String, Vec<(usize, u64)>> = BTreeMap::new();
    let (clean, read) = look(agent, drives, ("", &BTreeSet::new()));
    assert!(clean.is_clean(), "{:?}", clean.findings);
    for (number, drive) in drives.iter().enumerate() {
        let data = data_on(agent, drive, turns);
        for (at, what) in records_on(agent, drives, drive, (&read[number], &data)) {
            copies.entry(what).or_default().push((number, at));
        }
        let here = data.iter().filter(|(block, _)| (**block as usize + round) % drives.len() == number);
        planted[number].extend(here.map(|(_, at)| *at));
    }
    // Of the few things of a kind, the first is spoiled on another drive in each round, and so are the others.
    let mut turns_of: BTreeMap<&str, usize> = BTreeMap::new();
    for (what, copies) in &copies {
        let kind = what.split([' ', '(', '{']).next().expect("a name");
        let turn = turns_of.entry(kind).or_default();
        let on: BTreeSet<usize> = copies.iter().map(|(number, _)| *number).collect();
        let chosen = on.iter().nth((*turn + round) % on.len()).expect("a drive has it");
        *turn += 1;
        planted[*chosen].extend(copies.iter().filter(|(number, _)| number == chosen).map(|(_, at)| *at));
    }
    planted
}

/// The blocks of the ring on a drive whose home extent is its first.
fn ring_of(agent: &Agent, drive: &str) -> Vec<(u64, Box<Block>)> {
    let first = FIRST_EXTENT_BLOCK + u64::from(extent::RING_FIRST);
    let blocks = u64::from(Geometry::default_ring(1, EXTENT_BLOCKS));
    let media = open_media(&agent.path(drive)).expect("opens");
    let read = |at| (at, media.read(DriveBlock::new(at)).expect("reads"));
    (first..first + blocks).map(read).collect()
}

/// Writes single blocks behind those that are there, each with a commit of its own; where those lie on each drive.
fn commits(agent: &Agent, drives: &[&str], nbd: &mut Nbd, turns: &mut Vec<u64>) -> Vec<BTreeSet<u64>> {
    let before: Vec<_> = drives.iter().map(|drive| ring_of(agent, drive)).collect();
    for _ in 0..COMMITS {
        let block = turns.len() as u64;
        nbd.write(block * BLOCK, &content(block, 1));
        turns.push(1);
    }
    nbd.flush();
    let changed = |(drive, before): (&&str, &Vec<(u64, Box<Block>)>)| {
        let after = ring_of(agent, drive);
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after);
        changed.map(|(_, (at, _))| *at).collect::<BTreeSet<u64>>()
    };
    let places: Vec<_> = drives.iter().zip(&before).map(changed).collect();
    assert!(places.iter().all(|places| places.len() == COMMITS), "{places:?}");
    places
}

/// D22: more than ten thousand copies rot on two mirrors, in rounds: data, all that leads to it, home pages, each superblock
/// slot and commits of the log, on every leg. All of them are found, and nothing else; they are named, and right again byte
/// by byte: fsck finds nothing, and each leg alone has everything.
#[test]
fn ten_thousand_rotten_copies_of_every_kind_on_every_leg_are_found_named_and_repaired() {
    let planted = rot_and_scrub(2, 3072) + rot_and_scrub(3, 1536);
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
    let mut nbd = attach(&agent);
    let mut turns = fill(&mut nbd, blocks);
    let mut all_planted = vec![BTreeSet::new(); legs];
    let mut count = 0;
    for round in 0..legs {
        let planted = one_round(&agent, drives, &mut nbd, (&mut turns, round));
        count += planted.iter().map(BTreeSet::len).sum::<usize>();
        all_planted.iter_mut().zip(planted).for_each(|(all, planted)| all.extend(planted));
    }
    let slots = extent::SUPERBLOCKS.map(|slot| FIRST_EXTENT_BLOCK + u64::from(slot));
    for (drive, planted) in drives.iter().zip(&all_planted) {
        assert!(slots.iter().all(|slot| planted.contains(slot)), "both slots of {drive} were spoiled");
        let id = drive_id(&agent, drive);
        let named: Vec<String> = messages(&agent, "scrub_repaired", 0);
        let named: Vec<&String> = named.iter().filter(|message| message.contains(&id)).collect();
        for kind in KINDS {
            let of_kind = |message: &&&String| message.contains(&format!(" {kind} "));
            assert!(named.iter().any(|message| of_kind(&message)), "{kind} on {drive}");
        }
    }
    let counted = format!(
        "plinth_volume_scrub_found_copies_total{{volume=\"v\",pool=\"p\",outcome=\"repaired\"}} {count}\n"
    );
    assert!(agent.get("/metrics").contains(&counted), "{counted}");
    let last = scrub(&agent);
    assert_eq!((&last["copies_repaired"], &last["last_findings"]), (&0.into(), &Value::Array(Vec::new())));
    assert_eq!(show(&agent)["health"], "online");
    drop(nbd);
    agent.plinth("volume detach v").ok();
    assert!(agent.plinth(&format!("fsck {}", all.join(" "))).ok().ends_with("clean\n"));
    drives.iter().for_each(|drive| whole_alone(&agent, drives, drive, &turns));
    count
}

/// One copy of everything rots, and the commits of one leg; a scrub finds, names and repairs them. What rotted, by drive.
fn one_round(
    agent: &Agent,
    drives: &[&str],
    nbd: &mut Nbd,
    (turns, round): (&mut Vec<u64>, usize),
) -> Vec<BTreeSet<u64>> {
    agent.plinth("pool set p scrub_rate=0").ok();
    // All that is new goes below a checkpoint.
    let first = scrub(agent);
    assert_eq!((&first["state"], &first["copies_repaired"]), (&"finished".into(), &0.into()), "{first}");
    assert!(first["copies_checked"].as_u64() >= Some((drives.len() * turns.len()) as u64), "{first}");
    assert_eq!(first["bytes_done"], first["bytes_total"]);
    let mut planted = one_copy_of_each(agent, drives, turns, round);
    let slots = extent::SUPERBLOCKS.map(|slot| FIRST_EXTENT_BLOCK + u64::from(slot));
    let mut right = Vec::new();
    for (drive, places) in drives.iter().zip(&planted) {
        assert!(places.len() > turns.len() / drives.len() + 4, "{} on {drive}", places.len());
        // Of superblocks the repair is the next version.
        let kept = places.iter().copied().filter(|at| !slots.contains(at));
        right.extend(kept.map(|at| (*drive, at, block_at(agent, drive, at))));
        rot(agent, drive, places.iter().copied());
    }
    let known = last_event(agent);
    // Slow enough to be met under way: its own checkpoint is behind it, and it comes to the log last.
    agent.plinth("pool set p scrub_rate=1MiB").ok();
    agent.plinth("scrub start v").ok();
    wait_until(agent, "under way", |shown| shown["bytes_done"].as_u64() > Some(0));
    let log = commits(agent, drives, nbd, turns);
    rot(agent, drives[round], log[round].iter().copied());
    planted[round].extend(&log[round]);
    assert_eq!(status(agent)["state"], "running", "it has yet to come to the log");
    agent.plinth("pool set p scrub_rate=0").ok();
    let second = scrub(agent);
    let found = named(agent, "scrub_repaired", known);
    for (drive, planted) in drives.iter().zip(&planted) {
        let id = drive_id(agent, drive);
        let places: BTreeSet<u64> = found.iter().filter(|(on, _)| *on == id).map(|(_, at)| *at).collect();
        let missed: Vec<_> = planted.difference(&places).collect();
        let beyond: Vec<_> = places.difference(planted).collect();
        assert!(missed.is_empty() && beyond.is_empty(), "{drive}: missed {missed:?}, beyond {beyond:?}");
    }
    let count: usize = planted.iter().map(BTreeSet::len).sum();
    assert_eq!(found.len(), count, "each is named once");
    assert_eq!((&second["copies_repaired"], &second["copies_lost"]), (&count.into(), &0.into()), "{second}");
    assert_eq!(second["last_findings"].as_array().map(Vec::len), Some(100));
    for (drive, at, content) in right {
        assert!(block_at(agent, drive, at) == content, "block {at} of {drive} is not what it was");
    }
    planted
}

/// A scrub from its beginning, or the one that is under way, to its end.
fn scrub(agent: &Agent) -> Value {
    agent.plinth("scrub start v --wait -o json").json()
}

fn block_at(agent: &Agent, drive: &str, at: u64) -> Box<Block> {
    open_media(&agent.path(drive)).expect("opens").read(DriveBlock::new(at)).expect("reads")
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
