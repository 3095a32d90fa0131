//! Pages that a Ref leads to: map, directory, bitmaps. Their check is their parent's, so every input counts as right.
use super::{Target, block_of};
use crate::signature::Signature;
use base::{
    BLOCK_BYTES, Block, Blocks, BufId, Check, CkptNo, Lba, Memory, Pba, Sectors, Seq, Uuid, VecMemory,
    VolumeId,
};
use cow::directory::{self, CutEntry, CutList, Root, VolumeEntry, VolumeState, Volumes};
use cow::{Height, Leaf, PageCache, Ref, Reserve, bitmap::Bitmap, page, tree};

/// Pages of the map, and the walk through them.
pub const MAP: Target = Target {
    name: "map",
    about: "Refs and pages of the map, and the walk through them",
    seeds: map_seeds,
    words: &[],
    run: run_map,
    cost: 1,
};

/// Directory pages.
pub const DIRECTORY: Target = Target {
    name: "directory",
    about: "root, volumes and cut pages of the directory",
    seeds: directory_seeds,
    words: &[b"plnthdir", b"plnthvol", b"plnthcut"],
    run: run_directory,
    cost: 1,
};

/// Bitmaps.
pub const BITMAP: Target = Target {
    name: "bitmap",
    about: "bitmaps of regions",
    seeds: bitmap_seeds,
    words: &[],
    run: run_bitmap,
    cost: 1,
};

/// Blocks of the space that pages are read in.
const SPACE: Blocks = Blocks::new(100_000);
const CHECK: Check = Check([0x5a; 16]);

fn data(pba: u64) -> Ref {
    Ref::data(Pba::new(pba), Seq::new(9), CHECK)
}

fn map_seeds() -> Vec<Vec<u8>> {
    let mut leaf: Block = [0; BLOCK_BYTES];
    page::fill(&mut leaf, &Ref::hole(Seq::new(5)));
    let mut mixed = leaf;
    (0..64).for_each(|i| page::set(&mut mixed, i, &data(100 + i as u64)));
    let mut inner = leaf;
    page::set(&mut inner, 1, &Ref::page(Pba::new(7), Seq::new(9), CkptNo::new(2), CHECK));
    vec![leaf.to_vec(), mixed.to_vec(), inner.to_vec()]
}

/// The input is the top page of a map of two levels, and every page that is reached from it.
fn run_map(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let block = block_of(input);
    let mut kinds = [false; 2];
    for i in 0..cow::PAGE_REFS {
        let found = page::get(&block, i);
        let mut bytes = [0; 32];
        found.encode(&mut bytes);
        assert_eq!(bytes, block[i * 32..(i + 1) * 32], "a Ref is not what its bytes are");
        if found.valid(SPACE) {
            kinds[usize::from(found.is_hole())] = true;
            assert!(found.is_hole() || found.pba.get() < SPACE.get(), "a valid Ref leaves the space");
        }
    }
    signature.shape(&kinds);
    let (newest, all_holes) = page::summary(&block);
    signature.note(u64::from(all_holes));
    let valid = [0, 1].map(|level| page::valid(&block, newest, level, SPACE));
    assert!(valid[1] || !valid[0], "what may stand in a leaf may stand above");
    signature.shape(&valid);
    signature.shape(&walk(&block, newest));
    signature
}

/// Looks a few blocks up, reading the input wherever a page is needed.
fn walk(block: &Block, newest: Seq) -> Vec<&'static str> {
    let mut cache = PageCache::new(BufId::new(0), 8);
    let mut memory = VecMemory::new(8);
    let root = Ref::page(Pba::new(3), newest, CkptNo::new(1), Check::of(block));
    let height = Height::for_blocks(Blocks::new(128 * 128));
    let mut ways = Vec::new();
    for lba in [0, 127, 128, 129, 16_383] {
        let mut loads = 0;
        ways.push(loop {
            match tree::leaf(&root, height, Lba::new(lba), &mut cache, &memory) {
                Leaf::Page(_) => break "page",
                Leaf::Hole(_) => break "hole",
                Leaf::Damaged(_) => break "damaged",
                Leaf::Need(page) => {
                    loads += 1;
                    assert!(loads <= 4, "a walk of two levels needs more than two pages");
                    let Reserve::Frame(buf) = cache.reserve(&page) else { break "wait" };
                    memory.block_mut(buf).copy_from_slice(block);
                    if !cache.loaded(buf, &mut memory) {
                        break "bad check";
                    }
                }
            }
        });
    }
    ways
}

fn directory_seeds() -> Vec<Vec<u8>> {
    let leads = |pba| Ref::page(Pba::new(pba), Seq::new(9), CkptNo::new(2), CHECK);
    let mut block = [0; BLOCK_BYTES];
    let root = Root {
        ckpt: CkptNo::new(2),
        seq: Seq::new(9),
        used: Blocks::new(700),
        regions: 4,
        region_blocks: 256,
        tree_height: 1,
        tree: leads(40),
        volumes: leads(41),
        cuts: leads(42),
    };
    root.encode(&mut block);
    let mut seeds = vec![block.to_vec()];
    let mut volumes = Volumes::default();
    for id in 1..=3 {
        let sectors = Sectors::new(100_000);
        volumes.push(VolumeEntry {
            id: VolumeId::new(id),
            height: Height::for_blocks(Blocks::new(sectors.get() / 8)),
            state: VolumeState::Live,
            sectors,
            created: Seq::new(1),
            data: Some(Blocks::new(3)),
            root: if id == 1 { Ref::hole(Seq::new(1)) } else { leads(43) },
            uuid: Uuid([id as u8; 16]),
        });
    }
    directory::encode_volumes(&volumes, &mut block);
    seeds.push(block.to_vec());
    let mut cuts = CutList::default();
    cuts.push(CutEntry { volume: VolumeId::new(1), subtree: leads(44), level: 0, cursor: 7 });
    cuts.push(CutEntry { volume: VolumeId::new(1), subtree: leads(45), level: 2, cursor: 0 });
    directory::encode_cuts(&cuts, &mut block);
    seeds.push(block.to_vec());
    seeds
}

fn run_directory(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let block = block_of(input);
    let mut again = [0; BLOCK_BYTES];
    let root = Root::decode(&block, SPACE);
    if let Ok(root) = &root {
        root.encode(&mut again);
        assert!(again == block, "a root page is not what its bytes are");
    }
    let volumes = directory::decode_volumes(&block, SPACE);
    if let Ok(volumes) = &volumes {
        directory::encode_volumes(volumes, &mut again);
        assert!(again == block, "a volumes page is not what its bytes are");
    }
    let cuts = directory::decode_cuts(&block, SPACE);
    if let Ok(cuts) = &cuts {
        directory::encode_cuts(cuts, &mut again);
        assert!(again == block, "a page of cut subtrees is not what its bytes are");
    }
    for bad in [root.as_ref().err(), volumes.as_ref().err(), cuts.as_ref().err()] {
        signature.shape(&bad);
        assert!(bad.is_none_or(|bad| !bad.to_string().is_empty()));
    }
    signature
}

fn bitmap_seeds() -> Vec<Vec<u8>> {
    let mut bits = Bitmap::EMPTY;
    bits.set_run(0, 40);
    bits.set_run(300, 1000);
    let mut block = [0; BLOCK_BYTES];
    bits.encode(&mut block);
    vec![block.to_vec(), vec![0; BLOCK_BYTES], vec![0xff; BLOCK_BYTES]]
}

fn run_bitmap(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let block = block_of(input);
    let bits = Bitmap::decode(&block);
    let mut again = [0; BLOCK_BYTES];
    bits.encode(&mut again);
    assert!(again == block, "a bitmap is not what its bytes are");
    for blocks in [64, 256, 16_384, 32_768] {
        let summary = bits.summary(blocks);
        assert_eq!(summary.free, blocks - bits.used_in(0, blocks), "free blocks are counted wrong");
        assert!(summary.longest <= summary.free, "the longest run is longer than all free blocks");
        signature.note(u64::from(summary.free.min(1)));
        signature.note(u64::from(summary.longest.checked_ilog2().unwrap_or(99)));
    }
    signature
}
