//! Drives that lie about an encrypted volume, on real files: they give old blocks, swap blocks, give those of another volume.
//! What is read is right or an error; what another leg has right is put right.
mod support;

use base::{ExtentNo, Uuid};
use std::path::PathBuf;
use support::Agent;
use support::contents::{CHUNK, Contents};
use support::nbd::Nbd;
use volume::Header;
use volume::label::extent_start;

const BLOCK: usize = 4096;
/// Blocks of an extent of 8 MiB.
const EXTENT: u32 = 2048;
/// Extents that fit on a drive of 256 MiB.
const EXTENTS: u32 = 31;
/// In the extents of a row: header and bitmaps are no places that anything is written to.
const FIRST: u64 = 3;

/// What a lie is made of: a drive as it is, as it was, and where data and maps lie on it, of the volume and of another.
struct Told<'a> {
    now: &'a mut Vec<u8>,
    old: &'a [u8],
    places: &'a [usize],
    others: &'a [usize],
}

impl Told<'_> {
    fn block(&self, place: usize) -> [u8; BLOCK] {
        self.now[place * BLOCK..][..BLOCK].try_into().expect("a block")
    }

    fn put(&mut self, place: usize, block: &[u8]) {
        self.now[place * BLOCK..][..BLOCK].copy_from_slice(block);
    }
}

type Lie = fn(&mut Told<'_>);

/// Whatever was written anew is as it was before.
fn replay(told: &mut Told<'_>) {
    for &place in told.places {
        let old = &told.old[place * BLOCK..][..BLOCK];
        if old.iter().any(|byte| *byte != 0) {
            told.put(place, old);
        }
    }
}

/// Neighbours have each other's content.
fn swap(told: &mut Told<'_>) {
    for pair in told.places.chunks_exact(2) {
        let (one, other) = (told.block(pair[0]), told.block(pair[1]));
        told.put(pair[0], &other);
        told.put(pair[1], &one);
    }
}

/// Everything is another volume's.
fn exchange(told: &mut Told<'_>) {
    for (place, other) in told.places.iter().zip(told.others) {
        let block = told.block(*other);
        told.put(*place, &block);
    }
}

fn header(image: &[u8], extent: u32) -> Option<Header> {
    let start = extent_start(ExtentNo::new(extent), EXTENT).get() as usize;
    Header::decode(image[start * BLOCK..][..BLOCK].try_into().expect("a block")).ok()
}

/// The groups of `v` and `w`: the first extent is of the volume that was made first.
fn groups(image: &[u8]) -> [Uuid; 2] {
    let w = header(image, 0).expect("the first extent is used").group;
    let found = (0..EXTENTS).filter_map(|extent| Some(header(image, extent)?.group));
    let mut others = found.filter(|group| *group != w);
    [others.next().expect("another group"), w]
}

/// Where a drive has data and maps of a group: behind the home row, which has superblocks and log too.
fn places(image: &[u8], group: Uuid) -> Vec<usize> {
    let mut places = Vec::new();
    for extent in 0..EXTENTS {
        let start = extent_start(ExtentNo::new(extent), EXTENT).get();
        if header(image, extent).is_some_and(|header| header.group == group && header.row.get() > 0) {
            places.extend((start + FIRST..start + u64::from(EXTENT)).map(|place| place as usize));
        }
    }
    places
}

struct World {
    agent: Agent,
    contents: Contents,
    groups: [Uuid; 2],
    old: [Vec<u8>; 2],
}

impl World {
    fn path(&self, drive: usize) -> PathBuf {
        self.agent.path(["d1", "d2"][drive])
    }

    fn images(agent: &Agent) -> [Vec<u8>; 2] {
        ["d1", "d2"].map(|drive| std::fs::read(agent.path(drive)).expect("reads"))
    }

    /// Two volumes, of which `v` was written over since `old`.
    fn new() -> Self {
        let agent = Agent::start();
        agent.drive("d1", 256);
        agent.drive("d2", 256);
        agent.plinth("pool create p @d1 @d2 --extent-size 8MiB").ok();
        agent.plinth("key create k").ok();
        let (mut contents, mut others) = (Contents::new(512), Contents::new(512));
        for (volume, contents) in [("w", &mut others), ("v", &mut contents)] {
            agent.plinth(&format!("volume create {volume} --pool p --size 64MiB --encrypt --kek k")).ok();
            write(&agent, volume, contents);
        }
        let old = Self::images(&agent);
        // What is given back by the first is used by the second.
        write(&agent, "v", &mut contents);
        write(&agent, "v", &mut contents);
        let groups = groups(&old[0]);
        Self { agent, contents, groups, old }
    }

    fn tell(&self, drives: &[usize], lie: Lie) {
        for &drive in drives {
            let mut now = std::fs::read(self.path(drive)).expect("reads");
            let [places, others] = [0, 1].map(|of| places(&now, self.groups[of]));
            assert!(places.len().min(others.len()) > 2 * EXTENT as usize);
            let (before, old) = (now.clone(), &self.old[drive]);
            lie(&mut Told { now: &mut now, old, places: &places, others: &others });
            assert!(now != before, "a lie changes something");
            std::fs::write(self.path(drive), now).expect("writes");
        }
    }

    fn attach(&self) -> Nbd {
        self.agent.plinth("volume attach v --nbd @n").ok();
        Nbd::connect(&self.agent.path("n"))
    }
}

fn write(agent: &Agent, volume: &str, contents: &mut Contents) {
    agent.plinth(&format!("volume attach {volume} --nbd @n")).ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    contents.write(&mut nbd, 0, 1);
    drop(nbd);
    agent.plinth(&format!("volume detach {volume}")).ok();
}

/// One drive lies, then both.
fn told(lie: Lie) {
    let world = World::new();
    world.tell(&[0], lie);
    let mut nbd = world.attach();
    world.contents.check(&mut nbd);
    let shown = world.agent.plinth("volume show v -o json").json();
    let wrong = &shown["legs"][0]["drives"][0]["check_errors"];
    assert!(wrong.as_u64().is_some_and(|count| count > 100), "{shown}");
    world.agent.plinth("scrub start v --wait --timeout 600s").ok();
    drop(nbd);
    world.agent.plinth("volume detach v").ok();
    world.agent.plinth("fsck --keys @state/keys @d1 @d2").ok();
    world.tell(&[0, 1], lie);
    // A map that nobody has right is not opened, or what is below it is not read.
    let attached = world.agent.plinth("volume attach v --nbd @n");
    if attached.code != 0 {
        return;
    }
    let mut nbd = Nbd::connect(&world.agent.path("n"));
    let mut errors = 0;
    for chunk in 0..world.contents.0.len() as u64 {
        match nbd.try_read(chunk * CHUNK, CHUNK as usize) {
            Ok(read) => assert!(world.contents.is(chunk, &read), "chunk {chunk} is something else"),
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 50, "{errors} errors only");
}

#[test]
fn drives_that_replay_old_blocks() {
    told(replay);
}

#[test]
fn drives_that_swap_blocks() {
    told(swap);
}

#[test]
fn drives_that_return_the_blocks_of_another_volume() {
    told(exchange);
}
