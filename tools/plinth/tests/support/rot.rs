//! Rot: contents that tell where they belong, drives that are spoiled behind a volume's back, and what is said of them.
use super::nbd::Nbd;
use super::{Agent, DEADLINE};
use base::DriveBlock;
use plinth_check::{Media, open_media};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

pub const BLOCK: u64 = 4096;
const CHUNK: u64 = 64 << 10;

/// What a block of the volume holds after its `turn`-th write: something that no other block ever holds.
pub fn content(block: u64, turn: u64) -> Vec<u8> {
    let word = (block << 8 | turn | 1 << 60).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    word.repeat(BLOCK as usize / 8)
}

/// Writes so many blocks from the beginning, every third chunk a second time; returns the turn of each block.
pub fn fill(nbd: &mut Nbd, blocks: u64) -> Vec<u64> {
    let mut turns = vec![0; blocks as usize];
    let per_chunk = CHUNK / BLOCK;
    for (turn, step) in [(1, 1), (2, 3)] {
        for chunk in (0..blocks / per_chunk).step_by(step) {
            let first = chunk * per_chunk;
            let data =
                (first..first + per_chunk).map(|block| content(block, turn)).collect::<Vec<_>>().concat();
            nbd.write(first * BLOCK, &data);
            turns[first as usize..(first + per_chunk) as usize].fill(turn);
        }
        nbd.flush();
    }
    turns
}

#[track_caller]
pub fn check(nbd: &mut Nbd, turns: &[u64], but: &[u64]) {
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

/// Where the blocks of the volume lie on a drive: those whose content is the newest.
pub fn data_on(agent: &Agent, drive: &str, turns: &[u64]) -> BTreeMap<u64, u64> {
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

/// Spoils blocks of a drive behind its back: one bit each.
pub fn rot(agent: &Agent, drive: &str, places: impl IntoIterator<Item = u64>) {
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

pub fn drive_id(agent: &Agent, name: &str) -> String {
    let drives = agent.plinth("drive list p -o json").json();
    let path = agent.path(name).display().to_string();
    let found = drives.as_array().expect("a list").iter().find(|drive| drive["path"] == path.as_str());
    found.expect("listed")["id"].as_str().expect("an id").to_owned()
}

/// The newest event.
pub fn last_event(agent: &Agent) -> u64 {
    let events = agent.plinth("events -o json").json();
    let ids = events.as_array().expect("a list").iter().filter_map(|event| event["id"].as_u64());
    ids.max().unwrap_or(0)
}

/// What the events of a kind say that came after an event.
pub fn messages(agent: &Agent, kind: &str, after: u64) -> Vec<String> {
    let events = agent.plinth("events -o json").json();
    let new = |event: &&Value| event["kind"] == kind && event["id"].as_u64() > Some(after);
    let events = events.as_array().expect("a list").iter().filter(new);
    events.map(|event| event["message"].as_str().expect("a message").to_owned()).collect()
}

/// The places that the events of a kind name that came after an event: drive, and block on it.
pub fn named(agent: &Agent, kind: &str, after: u64) -> Vec<(String, u64)> {
    let mut places = Vec::new();
    for message in messages(agent, kind, after) {
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

pub fn show(agent: &Agent) -> Value {
    agent.plinth("volume show v -o json").json()
}

pub fn status(agent: &Agent) -> Value {
    let ran = agent.plinth("scrub status v -o json");
    assert!([0, 4].contains(&ran.code), "{}", ran.err);
    serde_json::from_str(&ran.out).expect("JSON")
}

#[track_caller]
pub fn wait_until(agent: &Agent, what: &str, is: impl Fn(&Value) -> bool) -> Value {
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

pub fn attach(agent: &Agent) -> Nbd {
    agent.plinth("volume attach v --nbd @n").ok();
    Nbd::connect(&agent.path("n"))
}
