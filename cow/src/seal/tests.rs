//! Checkpoints against a world that may end at any write; and what is then read back.
use super::*;
use crate::cache::Reserve;
use crate::directory::{BadDirectory, CutEntry, VolumeEntry, VolumeState};
use crate::open::{Open, OpenStep};
use crate::space_layout::bitmap_slot;
use crate::tree::Height;
use alloc::collections::{BTreeMap, BTreeSet};
use base::{Block, Check, Sectors, Uuid, VecMemory, VolumeId};
use proptest::prelude::*;

/// The first block of each region is its extent's header.
struct Geometry(u32);
impl Fixed for Geometry {
    fn runs(&self, region: RegionNo, each: &mut dyn FnMut(Pba, Blocks)) {
        each(Pba::new(u64::from(region.get()) * u64::from(self.0)), Blocks::new(1));
    }
}

const CACHE: u32 = 4;
const BUFFERS: u32 = 3;
const E: u32 = 64;

/// A small generator, so that a case replays.
struct Dice(u64);
impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct World {
    config: SpaceConfig,
    space: Space,
    cache: PageCache,
    memory: VecMemory,
    seal: Seal,
    drive: BTreeMap<Pba, Block>,
    /// The superblock.
    durable: Directory,
    /// Data that the durable maps refer to.
    mapped: BTreeSet<Pba>,
    /// Data that records above the checkpoint name.
    recorded: BTreeSet<Pba>,
    regions: u32,
    ckpt: u32,
    dice: Dice,
}

/// How a checkpoint ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Durable,
    Crash,
    NoSpace,
}

impl World {
    fn new(regions: u32, max_regions: u32, seed: u64) -> Self {
        let config =
            SpaceConfig { region_blocks: E, home_regions: 1, max_loaded: 6, max_regions, max_changes: 9000 };
        let mut world = Self {
            config,
            space: Space::new(config),
            cache: PageCache::new(BufId::new(0), CACHE),
            memory: VecMemory::new(CACHE + BUFFERS),
            seal: Seal::new(BufId::new(CACHE), BUFFERS, &config),
            drive: BTreeMap::new(),
            durable: Directory::none(),
            mapped: BTreeSet::new(),
            recorded: BTreeSet::new(),
            regions: 0,
            ckpt: 0,
            dice: Dice(seed),
        };
        world.grow(regions);
        world
    }

    fn grow(&mut self, regions: u32) {
        self.regions += regions;
        self.config.max_regions = self.config.max_regions.max(self.regions);
        self.space.make_room(self.config.max_regions);
        self.seal.make_room(&self.config);
        self.space.grow(regions, &Geometry(E));
    }

    fn serve(&mut self) {
        while let Some(want) = self.space.wanted() {
            match want.bitmap {
                None => assert!(self.space.fresh(want.region, &Geometry(E))),
                Some(bitmap) => {
                    assert!(self.space.loaded(want.region, &bitmap, &self.drive[&bitmap.pba], &Geometry(E)));
                }
            }
        }
    }

    fn read_page(&mut self, page: &Ref) {
        let Reserve::Frame(buf) = self.cache.reserve(page) else { panic!("no frame for {page:?}") };
        *self.memory.block_mut(buf) = self.drive[&page.pba];
        assert!(self.cache.loaded(buf, &mut self.memory), "{page:?} leads to something else");
    }

    fn write(&mut self, want: u64) {
        self.serve();
        if let Some((pba, blocks)) = self.space.take(Class::Small, Blocks::new(want)) {
            self.recorded.extend((0..blocks.get()).map(|i| pba + Blocks::new(i)));
        }
    }

    /// What the durable checkpoint refers to, by walking it: data, pages, bitmaps.
    fn referred(&self) -> (BTreeSet<Pba>, BTreeSet<Pba>, BTreeMap<u32, Ref>) {
        let root = &self.durable.root;
        let top = [self.durable.at, root.volumes, root.cuts];
        let mut pages: BTreeSet<Pba> = top.iter().filter(|r| !r.is_absent()).map(|r| r.pba).collect();
        let mut bitmaps = BTreeMap::new();
        if root.tree_height > 0 {
            self.walk(&root.tree, root.tree_height - 1, 0, &mut pages, &mut bitmaps);
        }
        (self.mapped.clone(), pages, bitmaps)
    }

    fn walk(
        &self,
        at: &Ref,
        level: u8,
        index: u32,
        pages: &mut BTreeSet<Pba>,
        bitmaps: &mut BTreeMap<u32, Ref>,
    ) {
        let page = &self.drive[&at.pba];
        assert_eq!(Check::of(page), at.check);
        assert!(pages.insert(at.pba), "a page is referred to twice");
        for i in 0..PAGE_REFS {
            let child = page::get(page, i);
            let index = (index << PAGE_SHIFT) + i as u32;
            match level {
                _ if child.is_absent() => {}
                0 => assert!(bitmaps.insert(index, child).is_none()),
                _ => self.walk(&child, level - 1, index, pages, bitmaps),
            }
        }
    }

    fn expected(&self) -> BTreeSet<Pba> {
        let (mapped, pages, _) = self.referred();
        assert!(mapped.is_disjoint(&pages));
        let fixed = (0..self.regions).flat_map(|k| {
            let first = Pba::new(u64::from(k) * u64::from(E));
            [first, bitmap_slot(first, 0), bitmap_slot(first, 1)]
        });
        fixed.chain(mapped).chain(pages).collect()
    }

    /// A checkpoint that frees some of what is mapped; the machine stops after `writes` writes.
    fn checkpoint(&mut self, free_one_in: u64, writes: usize) -> End {
        while !self.space.release_limbo() {}
        self.ckpt += 1;
        let freed: Vec<Pba> =
            self.mapped.iter().copied().filter(|_| self.dice.roll(free_one_in) == 0).collect();
        self.recorded.iter().for_each(|pba| self.space.set(*pba));
        freed.iter().for_each(|pba| self.space.clear(*pba));
        let (volumes, cuts) = self.content();
        let (ckpt, seq) = (CkptNo::new(self.ckpt), Seq::new(u64::from(self.ckpt) * 10));
        self.seal.begin(&self.durable, ckpt, seq, &volumes, &cuts);
        let end = self.run(writes);
        match end {
            End::Durable => {
                self.durable = self.seal.directory().clone();
                self.space.checkpoint_durable();
                self.mapped.append(&mut self.recorded);
                freed.iter().for_each(|pba| assert!(self.mapped.remove(pba)));
                self.verify_durable();
            }
            End::NoSpace => {
                self.seal.abort();
                self.space.checkpoint_failed();
            }
            End::Crash => self.reopen(),
        }
        end
    }

    fn content(&mut self) -> (Volumes, CutList) {
        let mut volumes = Volumes::default();
        volumes.push(VolumeEntry {
            id: VolumeId::new(1),
            height: Height::MIN,
            state: VolumeState::Live,
            sectors: Sectors::new(8),
            created: Seq::new(1),
            data: Some(Blocks::ZERO),
            root: Ref::hole(Seq::new(u64::from(self.ckpt))),
            uuid: Uuid([7; 16]),
        });
        let mut cuts = CutList::default();
        if self.dice.roll(2) == 0 {
            let subtree = Ref::page(Pba::new(5), Seq::new(1), CkptNo::new(1), Check::NONE);
            cuts.push(CutEntry { volume: VolumeId::new(1), subtree, level: 1, cursor: u64::from(self.ckpt) });
        }
        (volumes, cuts)
    }

    /// Runs the seal, with reads and writes that end in any order.
    fn run(&mut self, mut writes: usize) -> End {
        let (mapped, pages, bitmaps) = self.referred();
        let named: BTreeSet<Pba> = bitmaps.values().map(|bitmap| bitmap.pba).collect();
        let mut written = BTreeSet::new();
        let mut reads: Vec<(Ref, BufId)> = Vec::new();
        let mut flying: Vec<(Pba, BufId)> = Vec::new();
        for _ in 0..1_000_000 {
            let step = self.seal.step(&mut self.space, &mut self.cache, &mut self.memory, &Geometry(E));
            let full = matches!(step, SealStep::Wait);
            match step {
                SealStep::More => continue,
                SealStep::Wait => assert!(!reads.is_empty() || !flying.is_empty(), "waits for nothing"),
                SealStep::NeedPage(page) => self.read_page(&page),
                SealStep::NeedBitmap { bitmap, buf, .. } => reads.push((bitmap, buf)),
                SealStep::WriteBlock { pba, buf } => {
                    assert!(!mapped.contains(&pba) && !pages.contains(&pba) && !named.contains(&pba));
                    assert!(!self.recorded.contains(&pba), "{pba} holds acknowledged data");
                    assert!(written.insert(pba), "{pba} is written twice");
                    flying.push((pba, buf));
                }
                SealStep::NoSpace => {
                    assert!(reads.is_empty() && flying.is_empty());
                    let free = self.space.free_now();
                    self.serve();
                    if free == Blocks::ZERO {
                        return End::NoSpace;
                    }
                    continue;
                }
                SealStep::Contradiction => panic!("{:?}", self.space.contradiction()),
                SealStep::Done { directory } => {
                    assert!(flying.is_empty() && reads.is_empty());
                    assert_eq!(directory, self.seal.directory().at);
                    return End::Durable;
                }
            }
            while !flying.is_empty() && (full && reads.is_empty() || self.dice.roll(3) == 0) {
                let (pba, buf) = flying.remove(self.dice.roll(flying.len() as u64) as usize);
                self.drive.insert(pba, *self.memory.block(buf));
                if writes == 0 {
                    return End::Crash;
                }
                writes -= 1;
                self.seal.written(buf);
                if full {
                    break;
                }
            }
            if !reads.is_empty() && (full || self.dice.roll(2) == 0) {
                let (bitmap, buf) = reads.remove(self.dice.roll(reads.len() as u64) as usize);
                *self.memory.block_mut(buf) = self.drive[&bitmap.pba];
                assert_eq!(Check::of(self.memory.block(buf)), bitmap.check);
                self.seal.bitmap_read(buf);
            }
        }
        panic!("the seal does not end");
    }

    /// The durable bitmaps are exactly what the durable directory refers to.
    fn verify_durable(&self) {
        let (_, _, bitmaps) = self.referred();
        let mut used = BTreeSet::new();
        for region in 0..self.regions {
            let first = Pba::new(u64::from(region) * u64::from(E));
            let Some(bitmap) = bitmaps.get(&region) else {
                used.extend([first, bitmap_slot(first, 0), bitmap_slot(first, 1)]);
                continue;
            };
            let block = &self.drive[&bitmap.pba];
            assert_eq!(Check::of(block), bitmap.check);
            let bits = Bitmap::decode(block);
            used.extend((0..E).filter(|bit| bits.get(*bit)).map(|bit| first + Blocks::new(u64::from(bit))));
        }
        assert_eq!(used, self.expected());
        assert_eq!(self.durable.root.used.get(), {
            let known = u64::from(self.durable.root.regions) * u64::from(E);
            used.iter().filter(|pba| pba.get() < known).count() as u64
        });
    }

    /// Everything in memory is lost.
    fn reopen(&mut self) {
        self.space = Space::new(self.config);
        self.cache = PageCache::new(BufId::new(0), CACHE);
        self.seal = Seal::new(BufId::new(CACHE), BUFFERS, &self.config);
        let rows = self.regions;
        if !self.durable.at.is_absent() {
            let open = self.open().expect("the durable directory is whole");
            assert!(open.volumes.iter().eq(self.durable.volumes.iter()));
            assert!(open.cuts.iter().eq(self.durable.cuts.iter()));
            assert_eq!((open.at, open.root), (self.durable.at, self.durable.root));
        }
        self.space.grow(rows - self.space.regions(), &Geometry(E));
        self.recorded.iter().for_each(|pba| self.space.mark(*pba, Blocks::new(1)));
        self.verify_durable();
        let free = self.space.total().get() - (self.expected().len() + self.recorded.len()) as u64;
        assert_eq!(self.space.free_now().get(), free);
    }

    fn open(&mut self) -> Result<Directory, BadDirectory> {
        let mut open = Open::new(self.durable.at, Blocks::new(u64::from(self.regions) * u64::from(E)));
        loop {
            match open.step(&mut self.space, &mut self.cache, &self.memory, &Geometry(E)) {
                OpenStep::NeedPage(page) => self.read_page(&page),
                OpenStep::Top | OpenStep::More => {}
                OpenStep::Done => return Ok(open.directory().clone()),
                OpenStep::Bad(bad) => return Err(bad),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150.max(ProptestConfig::default().cases), ..Default::default() })]
    #[test]
    fn a_crash_at_any_write_finds_the_last_checkpoint_and_its_free_space(
        regions in 1u32..40,
        seed in any::<u64>(),
        steps in prop::collection::vec((0u8..10, any::<u32>()), 1..40),
    ) {
        let mut world = World::new(regions, regions, seed);
        for (kind, number) in steps {
            match kind {
                0..=3 => (0..number % 20).for_each(|i| world.write(u64::from(number >> i) % 30 + 1)),
                4 => world.grow((number % 9).min(300 - world.regions)),
                5 => world.grow((number % 150).min(300 - world.regions)),
                6 | 7 => {
                    world.checkpoint(u64::from(number % 5) + 1, usize::MAX);
                }
                _ => {
                    world.checkpoint(u64::from(number % 5) + 1, number as usize % 24);
                }
            }
        }
        // Whatever happened: if there is space for it, everything can be freed and is found free.
        if [2, 1, 1].into_iter().all(|one_in| world.checkpoint(one_in, usize::MAX) == End::Durable) {
            world.reopen();
            prop_assert!(world.mapped.is_empty());
        }
    }
}

/// Every single write as the last one.
#[test]
fn each_write_of_a_checkpoint_may_be_the_last() {
    for last in 0.. {
        let mut world = World::new(140, 300, last as u64);
        (0..60).for_each(|i| world.write(i % 40 + 1));
        assert_eq!(world.checkpoint(1, usize::MAX), End::Durable);
        (0..60).for_each(|i| world.write(i % 40 + 1));
        match world.checkpoint(3, last) {
            End::Crash => assert_eq!(world.checkpoint(3, usize::MAX), End::Durable),
            End::Durable => {
                assert!(last > 20, "only {last} writes");
                return;
            }
            End::NoSpace => panic!("there is space"),
        }
        world.verify_durable();
    }
}

/// The tree grows by two levels at once: the old tree must hang below the new root, where only the far end changes and no
/// page of it is rewritten for its own sake, and also where the near end changes first, whose paths were placed while the
/// tree was low. The page between the old root and the new one was missing then; of a first checkpoint too.
#[test]
fn a_tree_that_grows_by_two_levels_keeps_what_it_had() {
    for (before, near) in [(true, false), (true, true), (false, true)] {
        let mut world = World::new(3, 3, 1);
        if before {
            (0..5).for_each(|_| world.write(20));
            assert_eq!(world.checkpoint(1, usize::MAX), End::Durable);
            assert_eq!(world.durable.root.tree_height, 1);
        }
        world.grow(16_990);
        let far = Pba::new(u64::from(16_900 * E) + 9);
        world.recorded.insert(far);
        if near {
            // One in each region there, so that none becomes dirty later, when the tree is high.
            let used = world.expected();
            let free = |region: u32| (u64::from(region * E)..).map(Pba::new).find(|pba| !used.contains(pba));
            world.recorded.extend((0..16).filter_map(free));
        }
        world.reopen();
        assert_eq!(world.checkpoint(1000, usize::MAX), End::Durable);
        assert_eq!(world.durable.root.tree_height, 3);
        world.reopen();
        assert!(world.mapped.contains(&far));
    }
}

/// The last free blocks went to data: the seal says so, is given up, and works after something was freed.
#[test]
fn a_full_space_stops_the_seal_and_harms_nothing() {
    let mut world = World::new(2, 4, 3);
    (0..5).for_each(|_| world.write(20));
    assert_eq!(world.checkpoint(1000, usize::MAX), End::Durable);
    while !world.space.release_limbo() {}
    let mut last = world.recorded.len();
    loop {
        world.write(50);
        if world.recorded.len() == last {
            break;
        }
        last = world.recorded.len();
    }
    assert_eq!(world.checkpoint(1, usize::MAX), End::NoSpace);
    assert_eq!(world.space.free_now(), Blocks::ZERO);
    while !world.space.release_limbo() {}
    let given: Vec<Pba> = world.recorded.iter().copied().take(8).collect();
    for pba in given {
        world.recorded.remove(&pba);
        world.space.give_back(pba, Blocks::new(1));
    }
    assert_eq!(world.checkpoint(1, usize::MAX), End::Durable);
    world.reopen();
}

/// A directory whose counts lie is refused, also though every check is right.
#[test]
fn a_directory_that_does_not_add_up_is_refused() {
    let mut world = World::new(5, 9, 3);
    world.write(20);
    assert_eq!(world.checkpoint(1, usize::MAX), End::Durable);
    let mut page = [0; base::BLOCK_BYTES];
    let root = world.durable.root;
    let mut forge = |root: Root| {
        root.encode(&mut page);
        world.drive.insert(world.durable.at.pba, page);
        world.durable.at.check = Check::of(&page);
        world.space = Space::new(world.config);
        world.open().map(|_| ()).expect_err("refused")
    };
    assert_eq!(forge(Root { used: root.used + Blocks::new(1), ..root }), BadDirectory::FreeCount);
    let bad = BadDirectory::OutOfRange(crate::directory::Page::Root);
    assert_eq!(forge(Root { ckpt: root.ckpt.next(), ..root }), bad);
    assert_eq!(forge(Root { region_blocks: 128, regions: 2, ..root }), bad);
}
