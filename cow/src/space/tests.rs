//! Free space against a model that knows the fate of every block, with a world that holds what is durable.
use super::*;
use crate::space::load::summary_of;
use alloc::collections::{BTreeMap, BTreeSet};
use base::{Block, BufId, Check, Memory, VecMemory};
use proptest::prelude::*;

/// Header in the first block of each region, two superblock slots in the first region.
struct Geometry;
impl Fixed for Geometry {
    fn runs(&self, region: RegionNo, each: &mut dyn FnMut(Pba, Blocks)) {
        let first = Pba::new(u64::from(region.get()) * u64::from(E));
        each(first, Blocks::new(1));
        if region == RegionNo::ZERO {
            each(first + Blocks::new(3), Blocks::new(2));
        }
    }
}

const E: u32 = 128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Fixed,
    Free,
    /// Taken; whether a record names it.
    Taken(bool),
    /// Taken by a write that has no record yet.
    Held,
    Mapped,
    Limbo,
}

struct World {
    space: Space,
    config: SpaceConfig,
    fate: Vec<Fate>,
    /// Bitmap slots on the drive.
    drive: BTreeMap<Pba, Block>,
    /// Runs of writes that have no record yet.
    held: Vec<(Pba, Blocks)>,
    /// The durable directory, and its number of regions.
    durable: Vec<Ref>,
    ckpt: u32,
}

impl World {
    fn new(regions: u32, max_loaded: u32) -> Self {
        Self::with_changes(regions, max_loaded, 6000)
    }

    fn with_changes(regions: u32, max_loaded: u32, max_changes: u32) -> Self {
        let config =
            SpaceConfig { region_blocks: E, home_regions: 1, max_loaded, max_regions: regions, max_changes };
        let mut world = Self {
            space: Space::new(config),
            config,
            fate: Vec::new(),
            drive: BTreeMap::new(),
            held: Vec::new(),
            durable: Vec::new(),
            ckpt: 0,
        };
        world.grow(regions);
        world
    }

    fn grow(&mut self, regions: u32) {
        self.config.max_regions = self.config.max_regions.max(self.space.regions() + regions);
        self.space.make_room(self.config.max_regions);
        self.space.grow(regions, &Geometry);
        for region in self.fate.len() as u32 / E..self.space.regions() {
            let at = self.fate.len();
            self.fate.resize(at + E as usize, Fate::Free);
            self.fate[at..at + 3].fill(Fate::Fixed);
            Geometry.runs(RegionNo::new(region), &mut |pba, blocks| {
                self.fate[pba.get() as usize..(pba + blocks).get() as usize].fill(Fate::Fixed);
            });
        }
    }

    /// Brings in all that is wanted.
    fn serve(&mut self) {
        while let Some(want) = self.space.wanted() {
            match want.bitmap {
                None => assert!(self.space.fresh(want.region, &Geometry)),
                Some(bitmap) => {
                    assert_eq!(bitmap, self.durable[want.region.get() as usize]);
                    assert!(self.space.loaded(want.region, &bitmap, &self.drive[&bitmap.pba], &Geometry));
                }
            }
        }
    }

    fn take(&mut self, class: Class, want: u64) -> Option<(Pba, Blocks)> {
        self.serve();
        let (pba, blocks) = self.space.take(class, Blocks::new(want))?;
        assert!(blocks > Blocks::ZERO && blocks.get() <= want);
        assert_eq!(pba.get() / u64::from(E), (pba.get() + blocks.get() - 1) / u64::from(E));
        for at in pba.get()..(pba + blocks).get() {
            assert_eq!(self.fate[at as usize], Fate::Free, "block {at} was handed out");
            self.fate[at as usize] = Fate::Taken(class != Class::Page);
        }
        if class == Class::Home {
            assert!(pba.get() < u64::from(E));
        }
        Some((pba, blocks))
    }

    fn all(&self, fate: Fate) -> Vec<Pba> {
        let it = self.fate.iter().enumerate().filter(|(_, f)| **f == fate);
        it.map(|(i, _)| Pba::new(i as u64)).collect()
    }

    /// Merges all records and frees the mapped blocks that `choose` picks; of the new ones it picks those that
    /// were overwritten within the delta. Returns the fates if it becomes durable.
    fn prepare(&mut self, mut choose: impl FnMut(Pba) -> bool) -> Vec<Fate> {
        let mut next = self.fate.clone();
        let page = self.take(Class::Page, 1).map(|(pba, _)| pba);
        for (at, fate) in next.iter_mut().enumerate() {
            let pba = Pba::new(at as u64);
            match *fate {
                Fate::Taken(true) if choose(pba) => {
                    // Some have been mapped by an older layer of the same checkpoint.
                    if at % 2 == 0 {
                        self.space.set(pba);
                    }
                    self.space.clear(pba);
                    *fate = Fate::Limbo;
                }
                Fate::Taken(true) => {
                    self.space.set(pba);
                    *fate = Fate::Mapped;
                }
                Fate::Mapped if choose(pba) => {
                    self.space.clear(pba);
                    *fate = Fate::Limbo;
                }
                _ => {}
            }
        }
        if let Some(page) = page {
            self.space.set(page);
            next[page.get() as usize] = Fate::Mapped;
        }
        next
    }

    /// Writes the bitmaps, as `Seal` does; returns the new entries.
    fn seal(&mut self) -> Vec<Ref> {
        self.ckpt += 1;
        let dirty: BTreeSet<RegionNo> = self.space.dirty().iter().copied().collect();
        let mut entries = self.durable.clone();
        entries.resize(self.space.regions() as usize, Ref::ABSENT);
        for region in dirty.into_iter().rev() {
            let bits = match self.space.stored(region, &Geometry) {
                Stored::Memory(bits) => bits,
                Stored::Drive(bitmap) => Bitmap::decode(&self.drive[&bitmap.pba]),
                Stored::Unknown => panic!("the world describes all at the open"),
            };
            let (mut memory, buf) = (VecMemory::new(1), BufId::new(0));
            let entry = self
                .space
                .seal_bitmap(region, bits, CkptNo::new(self.ckpt), &mut memory, buf)
                .expect("no contradiction");
            assert_ne!(entry.pba, entries[region.get() as usize].pba, "the durable slot is overwritten");
            self.drive.insert(entry.pba, *memory.block(buf));
            entries[region.get() as usize] = entry;
        }
        self.space.sort_sealed();
        entries
    }

    fn checkpoint(&mut self, choose: impl FnMut(Pba) -> bool) {
        let next = self.prepare(choose);
        self.durable = self.seal();
        let used = next.iter().filter(|f| matches!(f, Fate::Fixed | Fate::Mapped)).count();
        assert_eq!(self.space.sealed_used(), Blocks::new(used as u64));
        self.space.checkpoint_durable();
        self.fate = next;
    }

    /// Gives a checkpoint up, before or after its bitmaps were written.
    fn failed_checkpoint(&mut self, choose: impl FnMut(Pba) -> bool, sealed: bool) {
        self.prepare(choose);
        if sealed {
            self.seal();
        }
        self.space.checkpoint_failed();
        self.fate.iter_mut().filter(|f| **f == Fate::Taken(false)).for_each(|f| *f = Fate::Limbo);
    }

    fn release(&mut self) {
        while !self.space.release_limbo() {}
        self.fate.iter_mut().filter(|f| **f == Fate::Limbo).for_each(|f| *f = Fate::Free);
    }

    /// A write takes space and has no record yet.
    fn hold(&mut self, want: u64) {
        if let Some((pba, blocks)) = self.take(Class::Small, want) {
            self.fate[pba.get() as usize..(pba + blocks).get() as usize].fill(Fate::Held);
            self.held.push((pba, blocks));
        }
    }

    /// One of those fails and gives its space back, in two parts.
    fn give_back(&mut self, which: usize) {
        if self.held.is_empty() {
            return;
        }
        let (pba, blocks) = self.held.swap_remove(which % self.held.len());
        let front = Blocks::new(blocks.get() / 2);
        for (pba, blocks) in [(pba + front, blocks - front), (pba, front)] {
            if blocks > Blocks::ZERO {
                self.space.give_back(pba, blocks);
            }
        }
        self.fate[pba.get() as usize..(pba + blocks).get() as usize].fill(Fate::Free);
    }

    /// Everything in memory is lost; the durable directory and the records are read again.
    fn crash(&mut self) {
        for fate in &mut self.fate {
            if matches!(*fate, Fate::Taken(false) | Fate::Held | Fate::Limbo) {
                *fate = Fate::Free;
            }
        }
        self.held.clear();
        let free: u32 = self.durable.iter().enumerate().map(|(i, entry)| self.durable_free(i, entry)).sum();
        self.space = Space::new(self.config);
        self.space.resume(self.durable.len() as u32, Blocks::new(u64::from(free)));
        let mut leaf = [0; base::BLOCK_BYTES];
        for (i, entry) in self.durable.iter().enumerate() {
            crate::page::set(&mut leaf, i, entry);
        }
        let marks = self.all(Fate::Taken(true));
        let half = marks.len() / 2;
        let regions = self.fate.len() as u32 / E;
        self.space.grow(regions - self.space.regions(), &Geometry);
        marks[..half].iter().for_each(|pba| self.space.mark(*pba, Blocks::new(1)));
        assert!(self.space.summaries(RegionNo::ZERO, Some(&leaf), &Geometry));
        // Some regions may be loaded while records are still found; some records are found twice.
        if marks.len() % 3 == 1 {
            self.serve();
        }
        marks.iter().rev().for_each(|pba| self.space.mark(*pba, Blocks::new(1)));
    }

    fn durable_free(&self, region: usize, entry: &Ref) -> u32 {
        if entry.is_absent() {
            let bits = self.space.fixed_bits(RegionNo::new(region as u32), &Geometry);
            return bits.summary(E).free;
        }
        summary_of(entry).free
    }

    fn verify(&mut self) {
        self.space.settle_marks();
        assert_eq!(self.space.free_now().get(), self.all(Fate::Free).len() as u64);
        assert_eq!(self.space.limbo().get(), self.all(Fate::Limbo).len() as u64);
        assert_eq!(self.space.total().get(), self.fate.len() as u64);
        assert!(self.space.loaded_regions() <= self.config.max_loaded);
        let mut loaded_free = 0;
        for (at, fate) in self.fate.iter().enumerate() {
            if let Some(free) = self.space.is_free(Pba::new(at as u64)) {
                assert_eq!(free, *fate == Fate::Free, "block {at}: {fate:?}");
                loaded_free += u64::from(free);
            }
        }
        assert_eq!(self.space.loaded_free, loaded_free);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take(Class, u64),
    Hold(u64),
    GiveBack(usize),
    Checkpoint(u64),
    Failed(u64, bool),
    Release,
    Crash,
    Grow,
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![3 => Just(Class::Small), 2 => Just(Class::Large), 1 => Just(Class::Home)];
    prop_oneof![
        20 => (class, 1u64..100).prop_map(|(class, want)| Step::Take(class, want)),
        5 => (1u64..60).prop_map(Step::Hold),
        4 => any::<usize>().prop_map(Step::GiveBack),
        4 => any::<u64>().prop_map(Step::Checkpoint),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(seed, sealed)| Step::Failed(seed, sealed)),
        4 => Just(Step::Release),
        1 => Just(Step::Crash),
        1 => Just(Step::Grow),
    ]
}

/// Picks about a third, differently for each seed.
fn pick(seed: u64) -> impl FnMut(Pba) -> bool {
    move |pba| (pba.get() ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 < u64::from(u32::MAX) / 3
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300.max(ProptestConfig::default().cases), ..Default::default() })]
    #[test]
    fn every_block_has_the_fate_of_the_model(
        regions in 1u32..12,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(regions, 4);
        for step in steps {
            match step {
                Step::Take(class, want) => {
                    world.take(class, want);
                }
                Step::Hold(want) => world.hold(want),
                Step::GiveBack(which) => world.give_back(which),
                Step::Checkpoint(seed) => {
                    world.release();
                    world.checkpoint(pick(seed));
                }
                Step::Failed(seed, sealed) => {
                    world.release();
                    world.failed_checkpoint(pick(seed), sealed);
                }
                Step::Release => world.release(),
                Step::Crash => world.crash(),
                Step::Grow if world.space.regions() < 40 => world.grow(1),
                Step::Grow => {}
            }
            world.verify();
        }
        // Fill it to the last block; then free everything.
        (0..world.held.len()).for_each(|_| world.give_back(0));
        world.release();
        while world.take(Class::Small, 50).is_some() {}
        world.verify();
        prop_assert_eq!(world.space.free_now(), Blocks::ZERO);
        world.checkpoint(|_| false);
        world.release();
        world.checkpoint(|_| true);
        world.release();
        world.verify();
        let fixed = world.all(Fate::Fixed).len() as u64;
        prop_assert_eq!(world.space.free_now().get(), world.space.total().get() - fixed);
    }
}

#[test]
fn a_round_of_small_writes_comes_out_as_adjacent_blocks() {
    let mut world = World::new(8, 8);
    let (mut next, _) = world.take(Class::Small, 1).expect("space");
    for i in 0..32 {
        if i % 5 == 0 {
            world.take(Class::Large, 20).expect("space");
            world.take(Class::Page, 1).expect("space");
        }
        let (pba, blocks) = world.take(Class::Small, 1).expect("space");
        assert_eq!((pba, blocks), (next.next(), Blocks::new(1)));
        next = pba;
    }
}

#[test]
fn classes_keep_apart_and_small_writes_go_to_broken_regions() {
    let mut world = World::new(8, 8);
    let region = |(pba, _): (Pba, Blocks)| pba.get() / u64::from(E);
    let small = region(world.take(Class::Small, 70).expect("space"));
    let large = region(world.take(Class::Large, 50).expect("space"));
    let page = region(world.take(Class::Page, 1).expect("space"));
    assert!(small != large && large != page && small != page);
    // What is left of the broken region goes first, and large writes go on where they were.
    assert_eq!(region(world.take(Class::Small, 40).expect("space")), small);
    assert_eq!(region(world.take(Class::Large, 50).expect("space")), large);
    // Neither has room for this: a clean one, that no other class uses.
    let next = region(world.take(Class::Large, 64).expect("space"));
    assert!(![small, large, page].contains(&next));
    // The large writes' old region is broken now.
    world.take(Class::Small, 15).expect("space");
    assert_eq!(region(world.take(Class::Small, 10).expect("space")), large);
}

/// A load was under way while a checkpoint replaced the bitmap: the old one must not come in, or blocks that the
/// checkpoint mapped would be handed out.
#[test]
fn a_bitmap_that_was_replaced_while_it_was_read_is_asked_for_again() {
    let mut world = World::new(6, 6);
    for _ in 0..6 {
        world.take(Class::Large, 100).expect("space");
    }
    world.checkpoint(|_| false);
    world.crash();
    let want = world.space.wanted().expect("nothing is loaded");
    let old = want.bitmap.expect("stored");
    let block = world.drive[&old.pba];
    let mut least = true;
    let first = Pba::new(u64::from(want.region.get()) * u64::from(E));
    world.checkpoint(|pba| core::mem::take(&mut least) || pba == first + Blocks::new(20));
    assert!(!world.space.loaded(want.region, &old, &block, &Geometry));
    world.serve();
    world.release();
    world.verify();
}

#[test]
fn a_region_that_cannot_be_read_is_left_alone() {
    let mut world = World::new(2, 4);
    world.take(Class::Home, 3).expect("space");
    world.take(Class::Large, 60).expect("space");
    world.checkpoint(|_| false);
    world.crash();
    let before = world.space.free_now();
    let want = world.space.wanted().expect("nothing is loaded");
    let lost = summary_of(&want.bitmap.expect("stored")).free;
    world.space.load_failed(want.region);
    assert_eq!(world.space.free_now(), before - Blocks::new(u64::from(lost)));
    let second = world.space.wanted().expect("the other one");
    assert_ne!(second.region, want.region);
    assert!(!world.space.lacks_lost_regions(), "the other one is on its way");
    // This one is readable, but it is not what the directory describes.
    let entry = second.bitmap.expect("stored");
    let mut block = world.drive[&entry.pba];
    block[0] &= !2;
    let forged = Ref { check: Check::of(&block), ..entry };
    world.space.rows[second.region.get() as usize].bitmap = forged;
    assert!(!world.space.loaded(second.region, &forged, &block, &Geometry), "a bitmap slot is free in it");
    assert_eq!(world.space.free_now(), Blocks::ZERO);
    assert_eq!(world.space.wanted(), None);
    assert_eq!(world.space.take(Class::Small, Blocks::new(1)), None);
    assert!(world.space.lacks_lost_regions());
}

#[test]
fn home_blocks_are_found_in_a_home_region_that_is_not_in_memory() {
    let mut world = World::new(30, 4);
    for _ in 0..4 {
        world.take(Class::Large, 100).expect("space");
    }
    world.checkpoint(|_| false);
    world.crash();
    world.take(Class::Small, 1).expect("space");
    if world.take(Class::Home, 2).is_none() {
        world.take(Class::Home, 2).expect("asked for after it was missed");
    }
    world.verify();
}

/// A space that is written to its last block while few of its regions are in memory. In each of them a write is always
/// under way, so that none leaves memory without a mark and some mark is always alive: those that were done with used to
/// fill the list, and then no region could be dropped any more.
#[test]
fn every_free_block_is_found_however_many_marks_came_and_went() {
    let mut world = World::with_changes(40, 4, 320);
    let blocks = world.space.free_now().get();
    let mut taken = 0;
    while world.space.free_now() > Blocks::ZERO {
        if taken % 40 == 0 {
            world.hold(1);
        } else {
            world.take(Class::Small, 1).expect("a free block is found");
        }
        taken += 1;
        if taken % 300 == 0 {
            world.checkpoint(|_| false);
            world.release();
            world.verify();
        }
    }
    assert!(taken > blocks * 9 / 10, "{taken} of {blocks}");
    assert!(world.held.len() > 40 * 2, "{} writes are under way", world.held.len());
}

/// Only forgery makes map and free space contradict each other (or an error of ours). It used to end the process, and
/// with it every device of the group.
#[test]
fn what_contradicts_the_bitmaps_is_told_before_it_counts() {
    type Wrong = fn(&mut Space, Pba) -> Contradiction;
    let wrongs: [Wrong; 5] = [
        |space, pba| {
            space.set(pba);
            space.set(pba);
            Contradiction::MappedUntaken(pba)
        },
        |space, pba| {
            space.clear(pba);
            space.clear(pba);
            Contradiction::FreedUntaken(pba)
        },
        |space, pba| {
            space.set(pba + Blocks::new(1));
            Contradiction::MappedUntaken(pba + Blocks::new(1))
        },
        |space, pba| {
            space.clear(pba + Blocks::new(1));
            Contradiction::FreedUntaken(pba + Blocks::new(1))
        },
        |space, pba| {
            let (region, _) = space.locate(pba);
            space.rows[region.get() as usize].free -= 1;
            space.set(pba);
            Contradiction::Bitmap(region)
        },
    ];
    for wrong in wrongs {
        let mut world = World::new(1, 4);
        let (pba, _) = world.take(Class::Small, 1).expect("space");
        let region = world.space.locate(pba).0;
        let told = wrong(&mut world.space, pba);
        let Stored::Memory(bits) = world.space.stored(region, &Geometry) else { panic!("it is in memory") };
        let (mut memory, buf) = (VecMemory::new(1), BufId::new(0));
        let sealed = world.space.seal_bitmap(region, bits, CkptNo::new(1), &mut memory, buf);
        assert_eq!(sealed, Err(told));
        assert_eq!(world.space.contradiction(), Some(told));
        assert_eq!(world.space.take(Class::Small, Blocks::new(1)), None, "nothing is handed out");
    }
}

/// Records name blocks that the bitmap says are used.
#[test]
fn a_log_that_contradicts_the_bitmap_is_told() {
    let mut world = World::new(1, 4);
    let (pba, _) = world.take(Class::Small, 1).expect("space");
    world.checkpoint(|_| false);
    world.crash();
    let mapped = (0..u64::from(E)).map(Pba::new).find(|at| world.fate[at.get() as usize] == Fate::Mapped);
    world.space.mark(mapped.unwrap_or(pba), Blocks::new(1));
    world.serve();
    assert_eq!(world.space.contradiction(), Some(Contradiction::TakenAndMapped(RegionNo::ZERO)));
    assert_eq!(world.space.take(Class::Small, Blocks::new(1)), None);
}
