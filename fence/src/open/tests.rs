//! Tests of `open`.
use super::*;
use crate::copy::CopyEntry;
use alloc::vec::Vec;
use base::{CkptNo, DriveIx, Seq, Uuid};

const STATES: [CopyState; 3] = [
    CopyState::Current,
    CopyState::stale(Seq::new(4), CkptNo::new(2)),
    CopyState::Resyncing { seq: Seq::new(4), ckpt: CkptNo::new(2), unproven: false },
];

fn table(states: &[CopyState]) -> CopyTable {
    let entry = |(i, state): (usize, &CopyState)| CopyEntry {
        drive: Uuid([i as u8 + 1; 16]),
        state: *state,
        version: 1,
    };
    let entries: Vec<_> = states.iter().enumerate().map(entry).collect();
    CopyTable::from_entries(&entries).expect("distinct drives")
}

fn set(bits: u32) -> DriveSet {
    DriveSet::from_bits(bits)
}

/// The rules, restated drive by drive, for the given places.
fn by_the_rules(
    states: &[CopyState],
    present: DriveSet,
    catalogue: bool,
    forced: bool,
    places: &[DriveSet],
) -> OpenDecision {
    let mut current = DriveSet::EMPTY;
    let mut absent_current = DriveSet::EMPTY;
    for (i, state) in states.iter().enumerate() {
        let drive = DriveIx::new(i as u8);
        match (state.is_current(), present.contains(drive)) {
            (true, true) => current.insert(drive),
            (true, false) => absent_current.insert(drive),
            _ => (),
        }
    }
    let is_stale = |drive: DriveIx| matches!(states[usize::from(drive.get())], CopyState::Stale { .. });
    let bare: Vec<DriveSet> =
        places.iter().copied().filter(|place| !place.iter().any(|d| current.contains(d))).collect();
    if bare.is_empty() {
        if !catalogue && !forced && !absent_current.is_empty() {
            return OpenDecision::RefuseMissing(absent_current);
        }
        return OpenDecision::Open { current, promoted: DriveSet::EMPTY };
    }
    let takers = |place: &DriveSet| place.iter().filter(|d| present.contains(*d) && is_stale(*d)).count();
    if forced && bare.iter().all(|place| takers(place) > 0) {
        let promoted: DriveSet = bare
            .iter()
            .flat_map(|place| place.iter())
            .filter(|d| present.contains(*d) && is_stale(*d))
            .collect();
        return OpenDecision::Open { current: current.union(promoted), promoted };
    }
    let members: DriveSet = bare.iter().flat_map(|place| place.iter()).collect();
    let there = members.and(present);
    if !there.is_empty() {
        return OpenDecision::RefuseStaleAlone { stale: there, missing: members.and(absent_current) };
    }
    let others = if catalogue { DriveSet::EMPTY } else { absent_current };
    OpenDecision::RefuseMissing(members.without(present).union(others))
}

/// Mirrors, stripes of mirrors and rows that share drives, with every state and every absence.
#[test]
fn every_input_gets_the_decision_that_the_rules_demand() {
    let shapes: [(usize, &[u32]); 6] = [
        (1, &[0b1]),
        (2, &[0b11]),
        (3, &[0b111]),
        (4, &[0b0011, 0b1100]),
        (4, &[0b0101, 0b1010, 0b0110]),
        (3, &[0b011, 0b110]),
    ];
    let mut kinds = [0; 4];
    for (drives, places) in shapes {
        let places: Vec<DriveSet> = places.iter().map(|bits| set(*bits)).collect();
        for combination in 0..3usize.pow(drives as u32) {
            let states: Vec<_> =
                (0..drives).map(|i| STATES[combination / 3usize.pow(i as u32) % 3]).collect();
            let table = table(&states);
            for present in (0..1 << drives).map(set) {
                for (catalogue, forced) in [(false, false), (false, true), (true, false), (true, true)] {
                    let inputs = OpenInputs { table: &table, present, catalogue, forced };
                    let decision = decide_open(&inputs, places.iter().copied());
                    let expected = by_the_rules(&states, present, catalogue, forced, &places);
                    assert_eq!(decision, expected, "{inputs:?}");
                    check_safety(&inputs, &decision, &places);
                    kinds[match decision {
                        OpenDecision::Open { promoted, .. } if promoted.is_empty() => 0,
                        OpenDecision::Open { .. } => 1,
                        OpenDecision::RefuseStaleAlone { .. } => 2,
                        OpenDecision::RefuseMissing(_) => 3,
                    }] += 1;
                }
            }
        }
    }
    assert!(kinds.iter().all(|n| *n > 0), "a decision is never taken: {kinds:?}");
}

/// What must hold of any decision, however it was made.
fn check_safety(inputs: &OpenInputs<'_>, decision: &OpenDecision, places: &[DriveSet]) {
    match *decision {
        OpenDecision::Open { current, promoted } => {
            assert!(current.without(inputs.present).is_empty());
            assert_eq!(current.without(inputs.table.current()), promoted);
            assert!(promoted.is_empty() || inputs.forced);
            assert!(places.iter().all(|place| !place.and(current).is_empty()));
            let resyncing = inputs.table.drives(|state| matches!(state, CopyState::Resyncing { .. }));
            assert!(current.and(resyncing).is_empty());
        }
        OpenDecision::RefuseStaleAlone { stale, missing } => {
            assert!(!stale.is_empty() && stale.without(inputs.present).is_empty());
            assert!(missing.and(inputs.present).is_empty());
        }
        OpenDecision::RefuseMissing(drives) => {
            assert!(!drives.is_empty() && drives.and(inputs.present).is_empty());
        }
    }
}

/// D17: the drive that was left behind comes back alone.
#[test]
fn a_stale_survivor_does_not_start_unless_forced() {
    let table = table(&[STATES[0], STATES[1]]);
    let place = [set(0b11)];
    let inputs = OpenInputs { table: &table, present: set(0b10), catalogue: true, forced: false };
    let refused = OpenDecision::RefuseStaleAlone { stale: set(0b10), missing: set(0b01) };
    assert_eq!(decide_open(&inputs, place), refused);
    let forced = OpenInputs { forced: true, ..inputs };
    assert_eq!(decide_open(&forced, place), OpenDecision::Open { current: set(0b10), promoted: set(0b10) });
}

/// An import sees one drive of a mirror that calls both current: the other may have gone on alone.
#[test]
fn without_the_catalogue_an_absent_current_copy_is_waited_for() {
    let table = table(&[STATES[0], STATES[0]]);
    let place = [set(0b11)];
    let inputs = OpenInputs { table: &table, present: set(0b01), catalogue: false, forced: false };
    assert_eq!(decide_open(&inputs, place), OpenDecision::RefuseMissing(set(0b10)));
    let open = OpenDecision::Open { current: set(0b01), promoted: DriveSet::EMPTY };
    assert_eq!(decide_open(&OpenInputs { catalogue: true, ..inputs }, place), open);
    assert_eq!(decide_open(&OpenInputs { forced: true, ..inputs }, place), open);
}
