//! Tests of `ring`.
use super::*;
use alloc::vec;
use proptest::prelude::*;

fn piece(blocks: u64) -> Piece {
    Piece { blocks: Blocks::new(blocks) }
}

#[test]
fn commits_take_turns_on_the_columns_and_never_cross_a_piece() {
    let mut ring = Ring::new(&[piece(20), piece(30)], 2);
    let at = |ring: &mut Ring, no: u64, blocks: u32| {
        ring.place(CommitNo::new(no), blocks).map(|p| (p.column.get(), p.offset))
    };
    assert_eq!(at(&mut ring, 0, 16), Some((0, 0)));
    assert_eq!(at(&mut ring, 1, 3), Some((1, 0)));
    assert_eq!(at(&mut ring, 2, 5), Some((0, 20)), "four blocks left of the first piece: skipped");
    assert_eq!(ring.used(Column::new(0)), Blocks::new(25));
    assert_eq!(at(&mut ring, 4, 16), Some((0, 25)));
    assert_eq!(at(&mut ring, 6, 1), None, "41 used and 8 kept of 50");
    assert_eq!(at(&mut ring, 3, 1), Some((1, 3)), "the other column has room");
    assert_eq!(ring.used_permille(), 820);
}

#[test]
fn voids_may_use_the_room_that_is_kept_for_them() {
    let mut ring = Ring::new(&[piece(48)], 1);
    let mut no = CommitNo::ZERO;
    while ring.place(no, 1).is_some() {
        no = no.next();
    }
    for _ in 0..VOID_ROOM_BLOCKS {
        assert!(ring.place_void(no).is_some());
        no = no.next();
    }
    assert_eq!(ring.place_void(no), None, "the last block stays free");
    assert_eq!(ring.used(Column::new(0)), Blocks::new(47));
    ring.trim(Positions([40, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(ring.place(no, 16).map(|p| p.offset), Some(0), "one block left at the end: skipped");
}

#[test]
#[should_panic(expected = "beyond the head")]
fn what_was_not_written_cannot_be_trimmed() {
    let mut ring = Ring::new(&[piece(48)], 1);
    ring.place(CommitNo::ZERO, 4).expect("room");
    ring.trim(Positions([5, 0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn offsets_are_found_in_their_pieces() {
    let shape = RingShape::new(&[piece(20), piece(30)], 1);
    assert_eq!(shape.locate(19), (0, Blocks::new(19)));
    assert_eq!(shape.locate(20), (1, Blocks::new(0)));
    assert_eq!((shape.left_in_piece(20), shape.left_in_piece(49)), (30, 1));
    assert_eq!((shape.advance(49, 2), shape.distance(49, 1)), (1, 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000.max(ProptestConfig::default().cases), ..Default::default() })]

    /// Against a map of what each block holds: nothing that is kept is handed out, everything given lies in a
    /// piece, and an empty ring takes the largest commit.
    #[test]
    fn nothing_that_counts_is_overwritten(
        pieces in prop::collection::vec(16u64..60, 0..3),
        columns in 1usize..=3,
        start in any::<u32>(),
        steps in prop::collection::vec((0u8..10, 1u32..=16), 1..120),
    ) {
        // The last piece makes the ring long enough.
        let pieces: Vec<_> = pieces.into_iter().chain([41]).map(piece).collect();
        let shape = RingShape::new(&pieces, columns);
        let len = shape.len();
        let start = Positions([start % len; MAX_COLUMNS]);
        let mut ring = Ring::restore(shape.clone(), start, start);
        let mut kept = vec![vec![false; len as usize]; columns];
        let mut snapshot = ring.positions();
        let mut no = CommitNo::ZERO;
        for (what, blocks) in steps {
            match what {
                0 => snapshot = ring.positions(),
                1 => {
                    for (column, kept) in kept.iter_mut().enumerate() {
                        let mut at = ring.tails().0[column];
                        while at != snapshot.0[column] {
                            kept[at as usize] = false;
                            at = shape.advance(at, 1);
                        }
                    }
                    ring.trim(snapshot);
                }
                _ => {
                    let blocks = if what == 2 { 1 } else { blocks };
                    let before = ring.used(shape.column_of(no));
                    let got = if what == 2 { ring.place_void(no) } else { ring.place(no, blocks) };
                    let Some(pos) = got else {
                        prop_assert!(before.get() + 2 * u64::from(blocks + VOID_ROOM_BLOCKS) >= u64::from(len) / 2);
                        continue;
                    };
                    prop_assert_eq!(pos.column.get(), (no.get() % columns as u64) as u8);
                    prop_assert!(shape.left_in_piece(pos.offset) >= blocks);
                    for at in pos.offset..pos.offset + blocks {
                        prop_assert!(!kept[usize::from(pos.column.get())][at as usize], "block {} twice", at);
                        kept[usize::from(pos.column.get())][at as usize] = true;
                    }
                    no = no.next();
                }
            }
        }
        for column in shape.each_column() {
            let set = kept[usize::from(column.get())].iter().filter(|k| **k).count() as u64;
            prop_assert!(ring.used(column).get() >= set && ring.used(column).get() < u64::from(len));
        }
    }
}
