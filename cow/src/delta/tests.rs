//! The delta against a map that remembers everything, and its edges one by one.
use super::order::SORT_CHUNK;
use super::*;
use alloc::collections::BTreeMap;
use proptest::prelude::*;

fn data(pba: u64, seq: u64) -> Ref {
    Ref::data(Pba::new(pba), Seq::new(seq), Check([pba as u8; 16]))
}

fn lba(n: u64) -> Lba {
    Lba::new(n)
}

#[test]
fn the_newer_of_point_and_range_answers() {
    let mut delta = Delta::new(4, 4);
    assert!(delta.is_empty());
    delta.put(lba(5), data(50, 1));
    delta.put_holes(lba(0), Blocks::new(100), Seq::new(2));
    assert_eq!(delta.get(lba(5)), Some(Ref::hole(Seq::new(2))));
    delta.put(lba(5), data(51, 3));
    assert_eq!(delta.get(lba(5)), Some(data(51, 3)));
    assert_eq!(delta.get(lba(99)), Some(Ref::hole(Seq::new(2))));
    assert_eq!(delta.get(lba(100)), None);
    assert_eq!(delta.newest(), Seq::new(3));
    assert_eq!(delta.replaced(), [Pba::new(50)]);
}

/// A block that one layer wrote and overwrote was never in a map: only this list leads to it.
#[test]
fn what_is_replaced_within_the_layer_is_listed_and_takes_room() {
    let mut delta = Delta::new(3, 0);
    delta.put(lba(1), data(10, 1));
    assert_eq!(delta.room(), 2);
    delta.put(lba(1), data(11, 2));
    delta.put(lba(1), Ref::hole(Seq::new(3)));
    delta.put(lba(1), data(12, 4));
    assert_eq!(delta.replaced(), [Pba::new(10), Pba::new(11)], "a hole has no block to list");
    assert_eq!(delta.room(), 1);
    delta.put(lba(1), data(13, 5));
    assert_eq!(delta.room(), 0, "there are entries left, but no room to list what they replace");
    delta.clear();
    assert_eq!((delta.room(), delta.get(lba(1)), delta.newest()), (3, None, Seq::ZERO));
}

#[test]
#[should_panic(expected = "Seq 3 at Lba 7 after Seq 3")]
fn an_older_write_never_replaces_a_newer_one() {
    let mut delta = Delta::new(4, 0);
    delta.put(lba(7), data(1, 3));
    delta.put(lba(7), data(2, 3));
}

#[test]
#[should_panic(expected = "full")]
fn a_full_layer_is_not_overrun() {
    let mut delta = Delta::new(1, 0);
    delta.put(lba(7), data(1, 3));
    delta.put(lba(8), data(2, 4));
}

#[test]
fn a_layer_that_is_too_large_takes_what_a_smaller_one_would() {
    let mut delta = Delta::new(8, 0);
    (1..=4).for_each(|i| delta.put(lba(i), data(i, i)));
    delta.limit(6);
    assert_eq!(delta.room(), 2);
    delta.limit(3);
    assert_eq!((delta.room(), delta.len()), (0, 4));
    delta.clear();
    assert_eq!(delta.room(), 3);
}

#[test]
fn short_holes_are_points_and_long_ones_ranges() {
    let mut delta = Delta::new(8, 2);
    assert!(delta.holes_fit(Blocks::new(POINT_HOLE_BLOCKS)));
    delta.put_holes(lba(0), Blocks::new(POINT_HOLE_BLOCKS), Seq::new(1));
    assert_eq!(delta.room(), 0);
    assert!(!delta.holes_fit(Blocks::new(1)));
    assert!(delta.holes_fit(Blocks::new(POINT_HOLE_BLOCKS + 1)));
    delta.put_holes(lba(0), Blocks::new(1000), Seq::new(2));
    assert!(!delta.holes_fit(Blocks::new(1000)), "the next one might split this one");
}

#[test]
fn a_range_trims_splits_and_hides_older_ones() {
    let mut delta = Delta::new(0, 9);
    delta.put_holes(lba(0), Blocks::new(100), Seq::new(1));
    delta.put_holes(lba(40), Blocks::new(20), Seq::new(2));
    delta.put_holes(lba(200), Blocks::new(10), Seq::new(3));
    delta.put_holes(lba(90), Blocks::new(115), Seq::new(4));
    let range = |first, end, seq| HoleRange { first: lba(first), end: lba(end), seq: Seq::new(seq) };
    let all = [range(0, 40, 1), range(40, 60, 2), range(60, 90, 1), range(90, 205, 4), range(205, 210, 3)];
    assert_eq!(delta.ranges, all);
    delta.put_holes(lba(0), Blocks::new(1000), Seq::new(5));
    assert_eq!(delta.ranges, [range(0, 1000, 5)]);
}

#[test]
fn memory_is_as_documented() {
    let per_point = Delta::memory_bytes(98_304, 0) as f64 / 98_304.0;
    assert!((67.0..=75.0).contains(&per_point), "{per_point} bytes");
    assert_eq!(size_of::<HoleRange>(), 24);
}

/// Enough points for several passes, the last run short, with an odd run in every pass.
#[test]
fn sorting_in_steps_sorts() {
    for points in [0, 1, SORT_CHUNK, SORT_CHUNK + 1, 5 * SORT_CHUNK - 3, 7 * SORT_CHUNK + 10] {
        let mut delta = Delta::new(points, 0);
        let scatter = |i: u64| mix(i) >> 24;
        (0..points as u64).for_each(|i| delta.put(lba(scatter(i)), data(i + 1, i + 1)));
        let mut steps = 1;
        while !delta.sort_step() {
            steps += 1;
            assert!(!delta.is_sorted());
        }
        assert!(steps <= 1 + 4 * (1 + points / SORT_CHUNK), "{steps} steps for {points} points");
        let mut expected: Vec<_> = (0..points as u64).map(|i| (scatter(i), i + 1)).collect();
        expected.sort_unstable();
        let found: Vec<_> =
            (0..).map_while(|i| delta.point(i)).map(|(lba, to)| (lba.get(), to.pba.get())).collect();
        assert_eq!(found, expected);
    }
}

proptest! {
    // 256 cases, or as many as PROPTEST_CASES says.
    #![proptest_config(ProptestConfig::default())]

    /// Any sequence of puts: every look-up, the order of iteration, and nothing allocated on the way.
    #[test]
    fn like_a_map_that_remembers_everything(
        ops in prop::collection::vec((0u64..300, 1u64..60, any::<bool>()), 1..200),
    ) {
        let mut delta = Delta::new(2000, 500);
        let capacity = (delta.entries.capacity(), delta.ranges.capacity());
        let mut model = BTreeMap::new();
        let mut replaced = Vec::new();
        let mut points: BTreeMap<u64, Ref> = BTreeMap::new();
        for (i, (at, blocks, hole)) in ops.into_iter().enumerate() {
            let seq = Seq::new(i as u64 + 1);
            let blocks = if hole { blocks } else { 1 };
            let to = if hole { Ref::hole(seq) } else { data(1000 + i as u64, i as u64 + 1) };
            if hole {
                delta.put_holes(lba(at), Blocks::new(blocks), seq);
            } else {
                delta.put(lba(at), to);
            }
            for block in at..at + blocks {
                model.insert(block, to);
                if blocks <= POINT_HOLE_BLOCKS
                    && let Some(old) = points.insert(block, to)
                    && !old.is_hole()
                {
                    replaced.push(old.pba);
                }
            }
        }
        for block in 0..400 {
            prop_assert_eq!(delta.get(lba(block)), model.get(&block).copied(), "Lba {}", block);
        }
        delta.sort();
        let listed: Vec<_> = (0..).map_while(|i| delta.point(i)).map(|(l, r)| (l.get(), r)).collect();
        prop_assert_eq!(listed, points.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(delta.replaced(), replaced);
        prop_assert!(delta.ranges.is_sorted_by(|a, b| a.end <= b.first));
        prop_assert_eq!(capacity, (delta.entries.capacity(), delta.ranges.capacity()));
    }
}
