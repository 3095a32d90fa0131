//! The merge and the reaping walk against a plain model of the map, on a drive in memory.
//!
//! After every checkpoint the tree on the drive is compared with the model page by page, and the blocks that
//! were reported as mapped and not replaced with those that the root and the list of cut subtrees reach. The
//! drive forgets a block as soon as it is free, so a read of anything freed fails. Caches and buffers are tiny,
//! writes end late and out of order, reads come back damaged at first, space runs out for a while, attempts are
//! aborted. Not checked here: durability, which is the caller's (flush, superblock).
mod walked;

use super::*;
use crate::layout::PAGE_SHIFT;
use crate::reap::{Reap, ReapStep};
use crate::{Reserve, page};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use base::{Check, Seq, VecMemory};
use proptest::prelude::*;

/// The map as it should be: a hole is split where something differs below.
#[derive(Clone, PartialEq, Debug)]
enum Node {
    Hole(Seq),
    Data(Ref),
    Split(Vec<Node>),
}

impl Node {
    /// Writes `to` (data or hole) over `first .. end`; this node covers `size` blocks from `base` on.
    fn put(&mut self, base: u64, size: u64, first: u64, end: u64, to: &Ref) {
        if end <= base || base + size <= first {
            return;
        }
        if first <= base && base + size <= end && (size == 1 || to.is_hole()) {
            *self = if to.is_hole() { Node::Hole(to.when) } else { Node::Data(*to) };
            return;
        }
        if let Node::Hole(_) = self {
            *self = Node::Split(alloc::vec![self.clone(); PAGE_REFS]);
        }
        let Node::Split(parts) = self else { panic!("a single block has no parts") };
        let part = size / PAGE_REFS as u64;
        for (i, node) in parts.iter_mut().enumerate() {
            node.put(base + i as u64 * part, part, first, end, to);
        }
    }

    /// What a checkpoint does: parts that are all holes become one, with the newest Seq.
    fn normalise(&mut self) {
        let Node::Split(parts) = self else { return };
        let mut newest = Some(Seq::ZERO);
        for part in parts {
            part.normalise();
            newest = match (newest, &part) {
                (Some(seq), Node::Hole(other)) => Some(seq.max(*other)),
                _ => None,
            };
        }
        if let Some(seq) = newest {
            *self = Node::Hole(seq);
        }
    }

    fn get(&self, size: u64, lba: u64) -> Ref {
        match self {
            Node::Hole(seq) => Ref::hole(*seq),
            Node::Data(data) => *data,
            Node::Split(parts) => {
                let part = size / PAGE_REFS as u64;
                parts[(lba / part) as usize].get(part, lba % part)
            }
        }
    }
}

/// What one attempt at a checkpoint reported.
#[derive(Default)]
struct Report {
    free: Vec<u64>,
    placed: Vec<u64>,
    mapped: Vec<u64>,
    replaced: Vec<u64>,
    data: i64,
    cuts: Vec<(Ref, u8)>,
    cut_room: usize,
    /// `place` fails so many times before it works.
    shortage: u32,
}

impl Sink for Report {
    fn place(&mut self) -> Option<Pba> {
        if self.shortage > 0 {
            self.shortage -= 1;
            return None;
        }
        let pba = self.free.pop().expect("a drive without end");
        self.placed.push(pba);
        Some(Pba::new(pba))
    }
    fn mapped(&mut self, pba: Pba) {
        self.mapped.push(pba.get());
    }
    fn replaced(&mut self, pba: Pba) {
        self.replaced.push(pba.get());
    }
    fn data(&mut self, change: i64) {
        self.data += change;
    }
    fn cut_room(&self) -> usize {
        self.cut_room - self.cuts.len()
    }
    fn cut(&mut self, subtree: Ref, level: u8) {
        assert!(self.cut_room() > 0 && self.cuts.len() < MAX_CUTS);
        self.cuts.push((subtree, level));
    }
    fn space_blocks(&self) -> Blocks {
        Blocks::new(SPACE)
    }
}

const SPACE: u64 = 1 << 20;
/// A cache that holds hardly more than one path.
const FEW_FRAMES: u32 = 8;

struct World {
    memory: VecMemory,
    cache: PageCache,
    merge: Merge,
    delta: Delta,
    pages: BTreeMap<u64, Box<Block>>,
    root: Ref,
    height: Height,
    ckpt: u32,
    seq: u64,
    model: Node,
    free: Vec<u64>,
    /// Referred to by the root or the cut subtrees.
    used: BTreeSet<u64>,
    /// How many of these hold data.
    data: i64,
    /// A copy that may miss something.
    copy: walked::Copy,
    /// Data put into the delta.
    pending: BTreeSet<u64>,
    cut: Vec<Reap>,
    cut_limit: usize,
    /// Leaves that each walk over a cut subtree passes per checkpoint, at most.
    reap_budget: u64,
    random: u64,
    /// Events that the tests want to have seen.
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    waits: u32,
    cuts: u32,
    aborts: u32,
    prefetched: u32,
    needs: u32,
}

impl World {
    fn new(levels: u8, cut_limit: usize, random: u64) -> Self {
        Self::with_frames(FEW_FRAMES, levels, cut_limit, random)
    }

    /// The merge's buffers come first in memory, then the cache's frames.
    fn with_frames(frames: u32, levels: u8, cut_limit: usize, random: u64) -> Self {
        let created = Seq::new(3);
        Self {
            memory: VecMemory::new(MIN_MERGE_BUFFERS + frames),
            cache: PageCache::new(BufId::new(MIN_MERGE_BUFFERS), frames),
            merge: Merge::new(BufId::new(0), MIN_MERGE_BUFFERS),
            delta: Delta::new(20_000, 1_000),
            pages: BTreeMap::new(),
            root: Ref::hole(created),
            height: Height::from_raw(levels).unwrap(),
            ckpt: 0,
            seq: created.get(),
            model: Node::Hole(created),
            free: (1..100_000).rev().collect(),
            used: BTreeSet::new(),
            data: 0,
            copy: walked::Copy::default(),
            pending: BTreeSet::new(),
            cut: Vec::new(),
            cut_limit,
            reap_budget: 8,
            random,
            seen: Seen::default(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % limit
    }

    fn size(&self) -> u64 {
        self.height.covers().get()
    }

    fn write(&mut self, lba: u64) {
        let lba = lba % self.size();
        self.seq += 1;
        let pba = self.free.pop().expect("a drive without end");
        let data = Ref::data(Pba::new(pba), Seq::new(self.seq), Check([self.seq as u8; 16]));
        self.pending.insert(pba);
        self.copy.wrote_data(pba, self.seq);
        self.delta.put(Lba::new(lba), data);
        self.model.put(0, self.size(), lba, lba + 1, &data);
    }

    fn discard(&mut self, first: u64, blocks: u64) {
        let first = first % self.size();
        let blocks = blocks.clamp(1, self.size() - first);
        self.seq += 1;
        self.delta.put_holes(Lba::new(first), Blocks::new(blocks), Seq::new(self.seq));
        self.model.put(0, self.size(), first, first + blocks, &Ref::hole(Seq::new(self.seq)));
    }

    /// Reads a page into the cache, first from a leg where it is damaged.
    fn load(&mut self, page: &Ref) {
        let Reserve::Frame(buf) = self.cache.reserve(page) else { panic!("one read at a time") };
        let bytes = self.pages.get(&page.pba.get()).expect("a read of a block that was freed");
        *self.memory.block_mut(buf) = **bytes;
        self.memory.block_mut(buf)[77] ^= 4;
        assert!(!self.cache.loaded(buf, &mut self.memory));
        *self.memory.block_mut(buf) = **bytes;
        assert!(self.cache.loaded(buf, &mut self.memory), "the page is not what was sealed");
    }

    /// A look-up the way a read does it: delta, then tree.
    fn look_up(&mut self, lba: u64) -> Ref {
        if let Some(found) = self.delta.get(Lba::new(lba)) {
            return found;
        }
        loop {
            match tree::leaf(&self.root, self.height, Lba::new(lba), &mut self.cache, &self.memory) {
                Leaf::Page(buf) => return page::get(self.memory.block(buf), tree::index(Lba::new(lba), 0)),
                Leaf::Hole(seq) => return Ref::hole(seq),
                Leaf::Need(page) => self.load(&page),
                Leaf::Damaged(page) => panic!("damaged {page:?}"),
            }
        }
    }

    fn check_look_ups(&mut self) {
        for _ in 0..20 {
            let lba = self.below(self.size());
            let expected = self.model.get(self.size(), lba);
            assert_eq!(self.look_up(lba), expected, "Lba {lba}");
        }
    }

    /// Attempts until one is not aborted, then what a durable checkpoint does.
    fn checkpoint(&mut self) {
        self.check_look_ups();
        self.delta.sort();
        loop {
            self.ckpt += 1;
            let mut report = Report {
                free: core::mem::take(&mut self.free),
                cut_room: self.cut_limit - self.cut.len(),
                shortage: self.below(3) as u32,
                ..Report::default()
            };
            let patience = if self.below(4) == 0 { self.below(30) } else { u64::MAX };
            let Some(root) = self.merge(&mut report, patience) else {
                self.free = report.free;
                self.free.extend(report.placed);
                self.seen.aborts += 1;
                continue;
            };
            let mut cut = self.cut.clone();
            self.reap(&mut cut, &mut report);
            return self.durable(root, cut, report);
        }
    }

    /// One attempt. None if it was aborted after `patience` steps.
    fn merge(&mut self, report: &mut Report, mut patience: u64) -> Option<Ref> {
        let mut writes: Vec<(BufId, Box<Block>)> = Vec::new();
        self.merge.begin(self.root, self.height, CkptNo::new(self.ckpt), &self.delta);
        let result = loop {
            if patience == 0 {
                self.merge.abort();
                break None;
            }
            patience -= 1;
            if self.below(3) == 0
                && let Some(page) = self.merge.prefetch(2, &self.delta, &mut self.cache, &self.memory)
            {
                self.load(&page);
                self.seen.prefetched += 1;
            }
            match self.merge.step(&self.delta, &mut self.cache, &mut self.memory, report) {
                Step::Need(page) => {
                    self.seen.needs += 1;
                    self.load(&page);
                }
                Step::Write { page, buf } => {
                    let bytes = Box::new(*self.memory.block(buf));
                    assert_eq!(page.ckpt().get(), self.ckpt);
                    assert!(!self.used.contains(&page.pba.get()), "a page over live blocks");
                    self.pages.insert(page.pba.get(), bytes.clone());
                    writes.push((buf, bytes));
                }
                Step::Wait => {
                    assert!(!writes.is_empty(), "nothing to wait for");
                    self.seen.waits += 1;
                    self.end_a_write(&mut writes);
                }
                Step::More | Step::NoSpace => {}
                Step::Damaged(page) => panic!("damaged {page:?}"),
                Step::Done { root } => break Some(root),
            }
            if self.below(6) == 0 {
                self.end_a_write(&mut writes);
            }
        };
        while !writes.is_empty() {
            self.end_a_write(&mut writes);
        }
        assert!(!self.merge.is_running() && self.merge.writing() == 0);
        result
    }

    fn end_a_write(&mut self, writes: &mut Vec<(BufId, Box<Block>)>) {
        if !writes.is_empty() {
            let (buf, bytes) = writes.swap_remove(self.below(writes.len() as u64) as usize);
            assert!(*self.memory.block(buf) == *bytes, "a buffer changed while it was written");
            self.merge.written(buf);
        }
    }

    /// Goes on with the background walks for a while.
    fn reap(&mut self, cut: &mut Vec<Reap>, report: &mut Report) {
        let budget = self.below(self.reap_budget) as u32;
        cut.retain_mut(|reap| {
            loop {
                match reap.step(budget, &mut self.cache, &self.memory, report) {
                    ReapStep::Need(page) => self.load(&page),
                    ReapStep::Paused { cursor } => {
                        assert_eq!(cursor, reap.cursor());
                        return true;
                    }
                    ReapStep::Finished => return false,
                    ReapStep::Damaged(page) => panic!("damaged {page:?}"),
                }
            }
        });
    }

    /// The superblock names the new root: accounts for all that was reported, then frees.
    fn durable(&mut self, root: Ref, cut: Vec<Reap>, mut report: Report) {
        self.seen.cuts += report.cuts.len() as u32;
        let placed: BTreeSet<u64> = report.placed.iter().copied().collect();
        for pba in &report.mapped {
            assert!(self.pending.remove(pba) || placed.contains(pba), "Pba {pba} came from nowhere");
            assert!(self.used.insert(*pba), "Pba {pba} mapped twice");
        }
        assert!(placed.iter().all(|pba| self.used.contains(pba)), "placed and not mapped");
        for pba in &placed {
            self.copy.wrote_page(*pba, Check::of(&self.pages[pba][..]));
        }
        for pba in &report.replaced {
            assert!(self.used.remove(pba) || self.pending.remove(pba), "Pba {pba} replaced twice");
        }
        assert!(self.pending.is_empty(), "never reported: {:?}", self.pending);
        self.cut = cut;
        self.cut.extend(report.cuts.iter().map(|(subtree, level)| Reap::new(*subtree, *level, 0)));
        self.root = root;
        self.delta.clear();
        self.model.normalise();

        let mut reached = BTreeSet::new();
        self.compare(&root, self.height.root_level(), &self.model, &mut reached);
        for reap in &self.cut {
            let (subtree, level) = reap.top();
            self.reach_cut(&subtree, level, 0, reap.cursor(), &mut reached);
        }
        assert_eq!(self.used, reached, "the accounts and the trees differ");
        self.data += report.data;
        let data = reached.iter().filter(|pba| !self.pages.contains_key(*pba)).count();
        assert_eq!(self.data, data as i64, "blocks of data");
        for pba in report.replaced.drain(..) {
            self.pages.remove(&pba);
            report.free.push(pba);
        }
        self.free = report.free;
        self.check_look_ups();
    }

    fn page(&self, page: &Ref) -> &Block {
        let bytes = self.pages.get(&page.pba.get()).expect("a page");
        assert_eq!(Check::of(&bytes[..]), page.check);
        bytes
    }

    fn compare(&self, at: &Ref, level: u8, model: &Node, reached: &mut BTreeSet<u64>) {
        match model {
            Node::Hole(seq) => assert_eq!(*at, Ref::hole(*seq)),
            Node::Data(_) => panic!("data above a leaf"),
            Node::Split(parts) => {
                let bytes = self.page(at);
                assert!(reached.insert(at.pba.get()), "{at:?} is reached twice");
                assert_eq!((at.when, false), page::summary(bytes));
                assert!(page::valid(bytes, at.when, level, Blocks::new(SPACE)));
                for (i, part) in parts.iter().enumerate() {
                    let child = page::get(bytes, i);
                    if level > 0 {
                        self.compare(&child, level - 1, part, reached);
                    } else if let Node::Data(data) = part {
                        assert_eq!(child, *data);
                        assert!(reached.insert(data.pba.get()), "{data:?} is reached twice");
                    } else {
                        assert_eq!(Node::Hole(child.when), *part);
                        assert!(child.is_hole());
                    }
                }
            }
        }
    }

    /// All of a cut subtree that lies at or beyond the cursor.
    fn reach_cut(&self, at: &Ref, level: u8, first: u64, cursor: u64, reached: &mut BTreeSet<u64>) {
        let size = 1 << (PAGE_SHIFT * (u32::from(level) + 1));
        if at.is_hole() || first + size <= cursor {
            return;
        }
        assert!(reached.insert(at.pba.get()), "{at:?} is reached twice");
        for i in 0..PAGE_REFS {
            let child = page::get(self.page(at), i);
            if level > 0 {
                let part = size / PAGE_REFS as u64;
                self.reach_cut(&child, level - 1, first + i as u64 * part, cursor, reached);
            } else if !child.is_hole() {
                assert!(reached.insert(child.pba.get()), "{child:?} is reached twice");
            }
        }
    }
}

/// A step of a test's story.
#[derive(Clone, Debug)]
enum Deed {
    Write(u64),
    /// 128 adjacent blocks.
    Fill(u64),
    /// Blocks so far apart, for this many times.
    Stride(u64, u64),
    Discard(u64, u64),
    Checkpoint,
}

/// Lbas in a few places of the volume, so that they meet.
fn lbas() -> impl Strategy<Value = u64> {
    (0u64..4, prop_oneof![0u64..300, 0u64..20_000]).prop_map(|(place, offset)| place * 700_001 + offset)
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let lengths = prop_oneof![1u64..10, 10u64..300, 100u64..40_000, 1u64..5_000_000];
    let deed = prop_oneof![
        6 => lbas().prop_map(Deed::Write),
        2 => lbas().prop_map(Deed::Fill),
        2 => (lbas(), prop_oneof![1u64..5, Just(128), Just(16384)])
            .prop_map(|(first, step)| Deed::Stride(first, step)),
        3 => (lbas(), lengths.clone()).prop_map(|(first, blocks)| Deed::Discard(first, blocks)),
        1 => (lbas(), lengths).prop_map(|(first, blocks)| {
            let aligned = blocks.next_power_of_two();
            Deed::Discard(first / aligned * aligned, aligned)
        }),
        2 => Just(Deed::Checkpoint),
    ];
    prop::collection::vec(deed, 1..60)
}

fn live(world: &mut World, deeds: Vec<Deed>) {
    for deed in deeds {
        match deed {
            Deed::Write(lba) => world.write(lba),
            Deed::Fill(lba) => (0..128).for_each(|i| world.write(lba / 128 * 128 + i)),
            Deed::Stride(first, step) => (0..40).for_each(|i| world.write(first + i * step)),
            Deed::Discard(first, blocks) => world.discard(first, blocks),
            Deed::Checkpoint => world.checkpoint(),
        }
    }
    world.checkpoint();
    // At the end everything is discarded: nothing may stay behind.
    world.discard(0, u64::MAX);
    world.checkpoint();
    world.reap_budget = 10_000;
    for _ in 0..1_000 {
        if world.cut.is_empty() {
            break;
        }
        world.checkpoint();
    }
    assert!(world.cut.is_empty());
    assert_eq!((world.used.len(), world.pages.len()), (0, 0), "blocks were lost");
}

proptest! {
    // 256 cases, or as many as PROPTEST_CASES says.
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn every_checkpoint_is_the_model_and_accounts_for_every_block(
        levels in 1u8..=4,
        cut_limit in prop_oneof![Just(0usize), Just(7), Just(80)],
        random in any::<u64>(),
        deeds in deeds(),
    ) {
        live(&mut World::new(levels, cut_limit, random), deeds);
    }
}

/// Else a change of the tests' world could make the property above easy without anyone noticing.
#[test]
fn the_tests_see_what_they_are_made_for() {
    let mut world = World::new(4, 80, 1);
    for round in 0..60 {
        (0..300).for_each(|i| world.write(i * 4099 + round));
        world.discard(round * 20_000, 70_000);
        world.checkpoint();
    }
    let Seen { waits, cuts, aborts, prefetched, needs } = world.seen;
    assert!(waits > 10 && cuts > 10 && aborts > 10 && prefetched > 10 && needs > 10);
}

/// Found by modelling: parts of a split hole with Seq 0 are invisible to a walk "newer than X", and so is a page
/// of holes that is dropped instead of kept as one hole.
#[test]
fn holes_keep_their_seq_when_split_and_the_newest_when_joined() {
    let mut world = World::new(2, 80, 1);
    world.write(700);
    world.checkpoint();
    let created = Ref::hole(Seq::new(3));
    assert_eq!((world.look_up(701), world.look_up(0)), (created, created));
    world.discard(700, 1);
    world.discard(0, 1);
    world.checkpoint();
    assert_eq!(world.root, Ref::hole(Seq::new(6)), "one hole with the newest Seq");
    assert!(world.used.is_empty());
}

/// A discard of everything must not read the map, however large.
#[test]
fn a_long_discard_reads_only_the_leaves_at_its_ends() {
    let mut world = World::with_frames(64, 4, 80, 9);
    (0..2_000).for_each(|i| world.write(i * 128));
    world.checkpoint();
    world.discard(100, 1_999 * 128 - 150);
    world.seen = Seen::default();
    world.delta.sort();
    world.ckpt += 1;
    world.cache = PageCache::new(BufId::new(MIN_MERGE_BUFFERS), 64);
    let mut report = Report { free: core::mem::take(&mut world.free), cut_room: 80, ..Report::default() };
    let root = world.merge(&mut report, u64::MAX).expect("not aborted");
    // Both ends lie inside a leaf; above each end a page of levels 1 and 2, and the root.
    assert!(world.seen.needs + world.seen.prefetched <= 2 + 2 + 2 + 1, "{} reads", world.seen.needs);
    // Two leaves, two pages above them, two above those, which are one, and the root; one block of data.
    assert_eq!(report.replaced.len(), 2 + 2 + 1 + 1 + 1, "only what lies on the two paths");
    assert!((1..=MAX_CUTS).contains(&report.cuts.len()));
    world.durable(root, Vec::new(), report);
    live(&mut world, Vec::new());
}

/// Leaf reads overlap only if they are asked for early.
#[test]
fn prefetch_asks_for_every_page_before_the_merge_needs_it() {
    let mut world = World::with_frames(512, 3, 80, 5);
    (0..200).for_each(|i| world.write(i * 4096));
    world.checkpoint();
    (0..200).for_each(|i| world.write(i * 4096 + 7));
    world.delta.sort();
    world.ckpt += 1;
    world.cache = PageCache::new(BufId::new(MIN_MERGE_BUFFERS), 512);
    let mut report = Report { free: core::mem::take(&mut world.free), ..Report::default() };
    world.merge.begin(world.root, world.height, CkptNo::new(world.ckpt), &world.delta);
    let (mut ahead, mut most, mut asked) = (0, 0, 0);
    let root = loop {
        while let Some(page) = world.merge.prefetch(16, &world.delta, &mut world.cache, &world.memory) {
            world.load(&page);
            asked += 1;
            ahead += 1;
        }
        most = most.max(ahead);
        match world.merge.step(&world.delta, &mut world.cache, &mut world.memory, &mut report) {
            Step::Need(page) => panic!("{page:?} was not asked for"),
            Step::Write { page, buf } => {
                world.pages.insert(page.pba.get(), Box::new(*world.memory.block(buf)));
                world.merge.written(buf);
                ahead -= 1;
            }
            Step::Done { root } => break root,
            _ => {}
        }
    };
    assert_eq!(asked, world.pages.len() / 2, "each page once: the old tree is as large as the new one");
    // Four leaves lie under one page; the root, and one page more where the window does not begin with a first.
    assert!((16..=16 + 4 + 2).contains(&most), "a full window and the pages above it, not {most}");
    world.durable(root, Vec::new(), report);
}

/// An image can be forged with the right checks. It must end in a refusal, not in a panic or in blocks freed
/// that lie outside the space.
#[test]
fn a_leaf_that_no_map_holds_is_refused_and_all_buffers_come_back() {
    for forged in [
        Ref::ABSENT,
        Ref::data(Pba::new(SPACE), Seq::new(4), Check::NONE),
        Ref::page(Pba::new(9), Seq::new(4), CkptNo::new(1), Check::NONE),
        Ref::hole(Seq::new(1 << 40)),
    ] {
        let mut world = World::new(2, 80, 1);
        world.write(5);
        world.checkpoint();
        let top = *world.page(&world.root.clone());
        let old = page::get(&top, 0);
        let mut leaf = *world.page(&old);
        page::set(&mut leaf, 6, &forged);
        let bad = Ref { check: Check::of(&leaf), ..old };
        let mut bad_top = top;
        page::set(&mut bad_top, 0, &bad);
        let root = Ref { check: Check::of(&bad_top), ..world.root };
        world.pages.insert(old.pba.get(), Box::new(leaf));
        world.pages.insert(root.pba.get(), Box::new(bad_top));

        world.write(5);
        world.delta.sort();
        let mut report = Report { free: core::mem::take(&mut world.free), ..Report::default() };
        world.merge.begin(root, world.height, CkptNo::new(2), &world.delta);
        let damaged = loop {
            match world.merge.step(&world.delta, &mut world.cache, &mut world.memory, &mut report) {
                Step::Need(page) => world.load(&page),
                Step::Damaged(page) => break page,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(damaged, bad);
        world.merge.abort();
        assert!(report.replaced.is_empty() && report.mapped.is_empty());

        let mut reap = Reap::new(root, 1, 0);
        let step = loop {
            match reap.step(9, &mut world.cache, &world.memory, &mut report) {
                ReapStep::Need(page) => world.load(&page),
                step => break step,
            }
        };
        assert_eq!((step, reap.cursor()), (ReapStep::Damaged(bad), 0));
        assert!(report.replaced.is_empty());
    }
}
