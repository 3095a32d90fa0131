//! Regions sorted by the length of their longest free run, in powers of two, so that a fitting one is found
//! without scanning.
//!
//! Two sets of shelves, one for regions in memory and one for the others; each shelf is a doubly linked list
//! through one array. Shelf 0 holds full regions, shelf `b` those whose longest run is in `2^(b-1) .. 2^b`.
use alloc::vec;
use alloc::vec::Vec;

/// Shelves of a set: runs of 0, 1, 2..3, ..., 32768 blocks.
pub(crate) const SHELVES: usize = 17;
const NONE: u32 = u32::MAX;

/// Which set a region belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Set {
    /// Its bitmap is in memory.
    Loaded = 0,
    /// It could be loaded.
    Unloaded = 1,
}

/// The shelf for regions whose longest run has this many blocks.
pub(crate) fn shelf_of(longest: u32) -> usize {
    if longest == 0 { 0 } else { longest.ilog2() as usize + 1 }
}

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
    /// Which list it is on; `u8::MAX` for none.
    list: u8,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

/// Both sets.
pub(crate) struct Shelves {
    links: Vec<Link>,
    lists: [List; 2 * SHELVES],
    /// Per set, one bit for each shelf that holds a region.
    occupied: [u32; 2],
}

impl Shelves {
    /// Empty shelves for this many regions.
    pub fn new(regions: u32) -> Self {
        Self {
            links: vec![Link { prev: NONE, next: NONE, list: u8::MAX }; regions as usize],
            lists: [List { head: NONE, tail: NONE }; 2 * SHELVES],
            occupied: [0; 2],
        }
    }

    /// Shelves for this many regions in all.
    pub fn make_room(&mut self, regions: u32) {
        let none = Link { prev: NONE, next: NONE, list: u8::MAX };
        self.links.resize(self.links.len().max(regions as usize), none);
    }

    /// Puts a region where it belongs, taking it from where it was. Among equals `last` ones are found last.
    pub fn put(&mut self, region: u32, set: Set, longest: u32, last: bool) {
        let list = (set as usize * SHELVES + shelf_of(longest)) as u8;
        if self.links[region as usize].list == list {
            return;
        }
        self.remove(region);
        let ends = &mut self.lists[list as usize];
        let link = if last {
            let link = Link { prev: ends.tail, next: NONE, list };
            ends.tail = region;
            link
        } else {
            let link = Link { prev: NONE, next: ends.head, list };
            ends.head = region;
            link
        };
        self.links[region as usize] = link;
        self.join(link.prev, region, list);
        self.join(region, link.next, list);
        self.occupied[set as usize] |= 1 << (list as usize % SHELVES);
    }

    /// Takes a region away, if it is on a shelf.
    pub fn remove(&mut self, region: u32) {
        let link = self.links[region as usize];
        if link.list == u8::MAX {
            return;
        }
        self.join(link.prev, link.next, link.list);
        self.links[region as usize] = Link { prev: NONE, next: NONE, list: u8::MAX };
        let list = link.list as usize;
        if self.lists[list].head == NONE {
            self.occupied[list / SHELVES] &= !(1 << (list % SHELVES));
        }
    }

    /// Makes two members (or ends) of a list neighbours.
    fn join(&mut self, left: u32, right: u32, list: u8) {
        match left {
            NONE => self.lists[list as usize].head = right,
            _ => self.links[left as usize].next = right,
        }
        match right {
            NONE => self.lists[list as usize].tail = left,
            _ => self.links[right as usize].prev = left,
        }
    }

    /// The highest shelf that holds a region.
    pub fn highest(&self, set: Set) -> Option<usize> {
        self.occupied[set as usize].checked_ilog2().map(|shelf| shelf as usize)
    }

    /// The regions of one shelf.
    pub fn shelf(&self, set: Set, shelf: usize) -> impl Iterator<Item = u32> {
        let first = self.lists[set as usize * SHELVES + shelf].head;
        core::iter::successors((first != NONE).then_some(first), |at| {
            let next = self.links[*at as usize].next;
            (next != NONE).then_some(next)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_region_is_on_its_shelf_once(
            moves in prop::collection::vec((0u32..12, any::<bool>(), 0u32..40, any::<bool>(), any::<bool>()), 0..80)
        ) {
            let mut shelves = Shelves::new(12);
            let mut model = [None; 12];
            for (region, loaded, longest, last, put) in moves {
                let set = if loaded { Set::Loaded } else { Set::Unloaded };
                if put { shelves.put(region, set, longest, last) } else { shelves.remove(region) };
                model[region as usize] = put.then_some((set, shelf_of(longest)));
            }
            for set in [Set::Loaded, Set::Unloaded] {
                for shelf in 0..SHELVES {
                    let mut held: Vec<u32> = shelves.shelf(set, shelf).collect();
                    held.sort_unstable();
                    let expected: Vec<u32> =
                        (0..12).filter(|r| model[*r as usize] == Some((set, shelf))).collect();
                    prop_assert_eq!(held, expected);
                }
                let highest = model.iter().flatten().filter(|m| m.0 == set).map(|m| m.1).max();
                prop_assert_eq!(shelves.highest(set), highest);
            }
        }
    }
}
