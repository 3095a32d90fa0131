//! The content of a drive: sparse, shared between copies until written.
//!
//! Copies are cheap because crash-everywhere takes one at every step of a run.
use base::Block;
use std::rc::Rc;

/// Blocks per chunk: a copy of an image clones one pointer per chunk, the first write into a chunk clones it.
const CHUNK_BLOCKS: usize = 128;

type Chunk = Vec<Option<Rc<Block>>>;

/// Blocks by number; absent ones read as zero.
#[derive(Clone)]
pub(crate) struct Image {
    chunks: Vec<Option<Rc<Chunk>>>,
    blocks: u64,
}

impl Image {
    pub(crate) fn new(blocks: u64) -> Self {
        Self { chunks: vec![None; (blocks as usize).div_ceil(CHUNK_BLOCKS)], blocks }
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn get(&self, block: u64) -> Option<&Rc<Block>> {
        assert!(block < self.blocks, "block {block} lies beyond the drive's {}", self.blocks);
        self.chunks[block as usize / CHUNK_BLOCKS].as_ref()?[block as usize % CHUNK_BLOCKS].as_ref()
    }

    pub(crate) fn set(&mut self, block: u64, content: Rc<Block>) {
        assert!(block < self.blocks, "block {block} lies beyond the drive's {}", self.blocks);
        let chunk = self.chunks[block as usize / CHUNK_BLOCKS]
            .get_or_insert_with(|| Rc::new(vec![None; CHUNK_BLOCKS]));
        Rc::make_mut(chunk)[block as usize % CHUNK_BLOCKS] = Some(content);
    }
}
