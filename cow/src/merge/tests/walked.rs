//! A copy that missed a part of the story is brought up to date by a walk while the story goes on.
use super::*;
use crate::walk::{Walk, WalkStep};

/// What a copy holds: pages with their checks, data with its Seq.
#[derive(Default)]
pub(super) struct Copy {
    pages: BTreeMap<u64, Check>,
    data: BTreeMap<u64, Seq>,
    /// It gets everything that is written.
    pub current: bool,
}

impl Copy {
    pub fn wrote_data(&mut self, pba: u64, seq: u64) {
        if self.current {
            self.data.insert(pba, Seq::new(seq));
            self.pages.remove(&pba);
        }
    }

    pub fn wrote_page(&mut self, pba: u64, check: Check) {
        if self.current {
            self.pages.insert(pba, check);
            self.data.remove(&pba);
        }
    }
}

/// A resync under way: the map, then the cut subtrees.
struct Resync {
    since: CkptNo,
    seq: Seq,
    /// Written since it began: the copy has it.
    began: Seq,
    walk: Walk,
    cuts: Option<Vec<(Ref, Walk, u8)>>,
    copied: u64,
}

impl Resync {
    fn new(since: CkptNo, seq: Seq, began: Seq) -> Self {
        Self { since, seq, began, walk: Walk::new(since, 0), cuts: None, copied: 0 }
    }

    /// One step. False at the end.
    fn step(&mut self, world: &mut World) -> bool {
        let space = Blocks::new(SPACE);
        let Some(cuts) = &mut self.cuts else {
            let top = world.height.root_level();
            match self.walk.step((&world.root, top), space, &mut world.cache, &world.memory) {
                WalkStep::Need(page) => world.load(&page),
                WalkStep::Page { page, level, buf, .. } => {
                    self.copied += 1;
                    world.copy.wrote_page(page.pba.get(), page.check);
                    if level == 0 {
                        self.leaf(world, buf);
                    }
                }
                WalkStep::Damaged(page) => panic!("damaged {page:?}"),
                WalkStep::Done => {
                    let begin = |reap: &Reap| {
                        let (subtree, level) = reap.top();
                        (subtree, Walk::new(self.since, reap.cursor() / 128 * 128), level)
                    };
                    self.cuts = Some(world.cut.iter().map(begin).collect());
                }
            }
            return true;
        };
        let Some((subtree, walk, level)) = cuts.last_mut() else { return false };
        // What was freed meanwhile is nobody's any more.
        let listed = world.cut.iter().any(|reap| reap.top().0 == *subtree);
        if !listed {
            cuts.pop();
            return true;
        }
        match walk.step((subtree, *level), space, &mut world.cache, &world.memory) {
            WalkStep::Need(page) if world.pages.contains_key(&page.pba.get()) => world.load(&page),
            WalkStep::Need(page) => {
                let freed = world.cut.iter().find(|reap| reap.top().0 == *subtree).map(Reap::cursor);
                assert!(freed > Some(walk.cursor()), "{page:?} is gone and not freed");
                *walk = Walk::new(self.since, freed.unwrap_or(0) / 128 * 128);
            }
            WalkStep::Page { page, .. } => world.copy.wrote_page(page.pba.get(), page.check),
            WalkStep::Damaged(page) => panic!("damaged {page:?}"),
            WalkStep::Done => {
                cuts.pop();
            }
        }
        true
    }

    fn leaf(&mut self, world: &mut World, buf: BufId) {
        for i in 0..PAGE_REFS {
            let data = page::get(world.memory.block(buf), i);
            if !data.is_hole() && data.when > self.seq && data.when <= self.began {
                self.copied += 1;
                world.copy.wrote_data(data.pba.get(), data.when.get());
            }
        }
    }
}

impl World {
    /// Everything that the map and the cut subtrees refer to is on the copy. Data of cut subtrees is garbage.
    fn assert_copied(&self) {
        let (mut pages, mut data) = (BTreeMap::new(), BTreeMap::new());
        self.collect(&self.root, self.height.root_level(), 0, 0, &mut pages, Some(&mut data));
        for reap in &self.cut {
            let (subtree, level) = reap.top();
            self.collect(&subtree, level, 0, reap.cursor(), &mut pages, None);
        }
        for (pba, check) in pages {
            assert_eq!(self.copy.pages.get(&pba), Some(&check), "page at Pba {pba}");
        }
        for (pba, seq) in data {
            assert_eq!(self.copy.data.get(&pba), Some(&seq), "data at Pba {pba}");
        }
    }

    fn collect(
        &self,
        at: &Ref,
        level: u8,
        first: u64,
        cursor: u64,
        pages: &mut BTreeMap<u64, Check>,
        mut data: Option<&mut BTreeMap<u64, Seq>>,
    ) {
        let size = 1u64 << (PAGE_SHIFT * (u32::from(level) + 1));
        if at.is_hole() || first + size <= cursor {
            return;
        }
        pages.insert(at.pba.get(), at.check);
        for i in 0..PAGE_REFS {
            let child = page::get(self.page(at), i);
            if level > 0 {
                let part = size / PAGE_REFS as u64;
                self.collect(&child, level - 1, first + i as u64 * part, cursor, pages, data.as_deref_mut());
            } else if let Some(data) = data.as_deref_mut().filter(|_| !child.is_hole()) {
                data.insert(child.pba.get(), child.when);
            }
        }
    }
}

fn tell(world: &mut World, deed: &Deed) {
    match *deed {
        Deed::Write(lba) => world.write(lba),
        Deed::Fill(lba) => (0..128).for_each(|i| world.write(lba / 128 * 128 + i)),
        Deed::Stride(first, step) => (0..40).for_each(|i| world.write(first + i * step)),
        Deed::Discard(first, blocks) => world.discard(first, blocks),
        Deed::Checkpoint => world.checkpoint(),
    }
}

/// Before the failure, while it is away, while it is resynced. Returns how many blocks were copied.
fn resync(world: &mut World, parts: [&[Deed]; 3], pace: u64) -> u64 {
    world.copy.current = true;
    parts[0].iter().for_each(|deed| tell(world, deed));
    let (seq, since) = (Seq::new(world.seq), CkptNo::new(world.ckpt));
    world.copy.current = false;
    parts[1].iter().for_each(|deed| tell(world, deed));
    world.copy.current = true;
    let mut resync = Resync::new(since, seq, Seq::new(world.seq));
    world.checkpoint();
    let mut later = parts[2].iter();
    loop {
        let ended = (0..pace).any(|_| !resync.step(world));
        match later.next() {
            Some(deed) => tell(world, deed),
            None if ended => break,
            None => {}
        }
    }
    world.checkpoint();
    world.assert_copied();
    resync.copied
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn a_walk_brings_what_a_copy_missed(
        levels in 1u8..=4,
        cut_limit in prop_oneof![Just(0usize), Just(7), Just(80)],
        random in any::<u64>(),
        pace in 1u64..400,
        before in deeds(),
        away in deeds(),
        meanwhile in deeds(),
    ) {
        resync(&mut World::new(levels, cut_limit, random), [&before, &away, &meanwhile], pace);
    }
}

/// The walk costs what was missed, not what there is.
#[test]
fn a_walk_reads_only_what_is_newer() {
    let mut world = World::with_frames(64, 4, 80, 5);
    let before: Vec<Deed> = (0..100).map(|i| Deed::Fill(i * 5_000)).chain([Deed::Checkpoint]).collect();
    let away = [Deed::Write(10 * 5_000), Deed::Write(90 * 5_000), Deed::Checkpoint];
    let copied = resync(&mut world, [&before, &away, &[]], 1);
    // Two leaves, the two pages above each but for the root, the root, two blocks of data.
    assert!(copied <= 2 + 4 + 1 + 2, "{copied} blocks copied");
}
