//! A page of the map: 128 Refs, immutable once its checkpoint sealed it.
//!
//! The only invariant of its own: what the parent says of it (`summary`) is what its Refs say. A walk that
//! prunes by the newest Seq below would miss a discard if a hole counted as older than it is.
use crate::layout::{PAGE_REFS, REF_BYTES};
use crate::refs::Ref;
use base::{Block, Blocks, Seq};

/// The Ref at index `i` (below `PAGE_REFS`).
pub fn get(page: &Block, i: usize) -> Ref {
    Ref::decode(&page[i * REF_BYTES..(i + 1) * REF_BYTES])
}

/// Stores a Ref at index `i` (below `PAGE_REFS`).
pub fn set(page: &mut Block, i: usize, to: &Ref) {
    to.encode(&mut page[i * REF_BYTES..(i + 1) * REF_BYTES]);
}

/// Splits a hole: all 128 parts are the same hole, with its Seq.
pub fn fill(page: &mut Block, hole: &Ref) {
    assert!(hole.is_hole(), "only a hole has parts that are like it");
    set(page, 0, hole);
    let (first, rest) = page.split_at_mut(REF_BYTES);
    for part in rest.chunks_exact_mut(REF_BYTES) {
        part.copy_from_slice(first);
    }
}

/// The newest Seq below, holes included, and whether there is nothing but holes.
pub fn summary(page: &Block) -> (Seq, bool) {
    let mut newest = Seq::ZERO;
    let mut all_holes = true;
    for i in 0..PAGE_REFS {
        let r = get(page, i);
        newest = newest.max(r.when);
        all_holes &= r.is_hole();
    }
    (newest, all_holes)
}

/// Whether a page is what its parent says: every Ref is valid in a map of a group with `space_blocks` blocks, and
/// the newest Seq below is `newest`. `level` is the page's own: a leaf (0) refers to data, which version 1 finds
/// in the group's own space only.
pub fn valid(page: &Block, newest: Seq, level: u8, space_blocks: Blocks) -> bool {
    let mut seen = Seq::ZERO;
    for i in 0..PAGE_REFS {
        let r = get(page, i);
        if !r.valid(space_blocks) || (level == 0 && r.tag != 0) {
            return false;
        }
        seen = seen.max(r.when);
    }
    seen == newest
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{BLOCK_BYTES, Check, CkptNo, Pba};

    #[test]
    fn a_split_hole_keeps_its_seq_in_all_parts() {
        let mut page = [9; BLOCK_BYTES];
        fill(&mut page, &Ref::hole(Seq::new(77)));
        assert!((0..PAGE_REFS).all(|i| get(&page, i) == Ref::hole(Seq::new(77))));
        assert_eq!(summary(&page), (Seq::new(77), true));
    }

    #[test]
    fn summary_sees_data_and_newer_holes() {
        let mut page = [0; BLOCK_BYTES];
        fill(&mut page, &Ref::hole(Seq::new(5)));
        set(&mut page, 127, &Ref::data(Pba::new(4), Seq::new(9), Check::NONE));
        assert_eq!(summary(&page), (Seq::new(9), false));
        set(&mut page, 0, &Ref::hole(Seq::new(12)));
        assert_eq!(summary(&page), (Seq::new(12), false));
    }

    #[test]
    fn a_leaf_refers_to_own_data_only() {
        let mut page = [0; BLOCK_BYTES];
        fill(&mut page, &Ref::hole(Seq::new(5)));
        set(&mut page, 3, &Ref::page(Pba::new(4), Seq::new(9), CkptNo::new(2), Check::NONE));
        let newest = Seq::new(9);
        assert!(valid(&page, newest, 1, Blocks::new(5)));
        assert!(!valid(&page, newest, 0, Blocks::new(5)), "a tagged Ref in a leaf");
        assert!(!valid(&page, newest, 1, Blocks::new(4)), "outside the space");
        assert!(!valid(&page, Seq::new(10), 1, Blocks::new(5)), "not what the parent says");
    }
}
