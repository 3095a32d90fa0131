//! What shapes can hold, and that none is made that cannot hold what it was made for.
use super::*;

const TIB: u64 = 1 << 31;

fn sectors(tib: u64) -> Sectors {
    Sectors::new(tib * TIB)
}

/// Of all legs and columns, for extents of 1 MiB to 128 MiB.
fn shapes() -> impl Iterator<Item = (u8, u8, u32)> {
    [256, 2048, 16_384, 32_768].into_iter().flat_map(|extent| {
        let whole = move |columns: &u8| Geometry::default_ring(*columns, extent) > 40;
        (1..=8).filter(whole).flat_map(move |columns| (1..=4).map(move |legs| (legs, columns, extent)))
    })
}

#[test]
fn every_shape_that_is_made_can_be_and_keeps_room_beside_its_fixed_blocks() {
    for (legs, columns, extent) in shapes() {
        for (size, encrypted) in [(0, false), (1, false), (128, false), (0, true), (128, true)] {
            let shape = Geometry::for_volume((legs, columns), 16, extent, sectors(size), encrypted);
            assert!(shape.check(), "{shape:?}");
            let share = extent / u32::from(columns);
            let fewest = extent / 16;
            assert!(shape.home.blocks >= fewest);
            let fixed = shape.home.first + shape.home.blocks;
            assert!(fixed <= share - share / 8 || shape.home.blocks == fewest, "{shape:?}");
        }
    }
}

#[test]
fn a_table_of_the_most_rows_fits_twice_beside_the_history_and_a_larger_one_does_not() {
    for (legs, columns, extent) in shapes() {
        for encrypted in [false, true] {
            let shape = Geometry::for_volume((legs, columns), 16, extent, sectors(0), encrypted);
            let kept = shape.kept_for_history(encrypted, 0);
            let needs = |rows: u32| 2 * pages_from(rows as usize * shape.row_extents(), 0) + kept;
            let (most, pages) = (shape.most_rows(encrypted), shape.home_pages() as usize);
            assert!(most == 1 || needs(most) <= pages, "{shape:?}: {most}");
            assert!(needs(most + 1) > pages, "{shape:?}: {most}");
        }
    }
}

#[test]
fn the_largest_volume_is_the_last_that_is_held() {
    for (legs, columns, extent) in shapes() {
        let shape = Geometry::for_volume((legs, columns), 16, extent, sectors(128), false);
        let most = shape.largest_volume(false);
        assert!(most == Sectors::ZERO || shape.holds(most, false));
        assert!(!shape.holds(Sectors::new(most.get() + 1), false));
    }
}

/// What `docs/decisions/0060-room-of-a-group.md` says of mirrors.
#[test]
fn a_mirror_of_extents_of_64_mib_holds_this() {
    let shape = |columns, extent, tib, encrypted| {
        Geometry::for_volume((2, columns), 16, extent, sectors(tib), encrypted)
    };
    let holds = |shape: Geometry, encrypted| shape.largest_volume(encrypted).get() * 10 / TIB;
    let small = shape(1, 16_384, 0, false);
    assert_eq!(small.home_pages(), 1024, "no more than groups ever had");
    assert_eq!(holds(small, false), 70);
    assert!(shape(1, 16_384, 10, false).holds(sectors(20), false), "it may grow to the double");
    assert_eq!(holds(shape(1, 16_384, 128, false), false), 704);
    assert!(shape(1, 32_768, 128, false).holds(sectors(128), false));
    let sealed = shape(1, 16_384, 0, true);
    assert_eq!((sealed.home_pages(), sealed.kept_for_history(true, 0)), (4096, 1024));
    assert_eq!(holds(sealed, true), 211);
}

#[test]
fn the_last_free_page_notes_one_activation() {
    let left = Geometry::activations_left;
    assert_eq!([left(0, 0), left(0, 7), left(1, 0), left(1, 60)], [0, 0, 1, 1]);
    assert_eq!([left(1, 59), left(1, 1), left(3, 0), left(3, 10)], [2, 60, 121, 171]);
}

#[test]
fn rows_leave_the_history_as_much_as_it_has_and_a_quarter_at_first() {
    let shape = Geometry::for_volume((2, 1), 16, 16_384, sectors(0), true);
    let kept = |has| shape.kept_for_history(true, has);
    assert_eq!([kept(0), kept(24), kept(512), kept(700), kept(2000)], [1024, 1000, 512, 700, 2000]);
    assert_eq!([0, 1, 900].map(|has| shape.kept_for_history(false, has)), [2, 1, 1]);
}
