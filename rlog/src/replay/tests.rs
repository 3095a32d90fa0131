//! Tests of `replay`.
use super::*;
use alloc::vec::Vec;
use base::LegId;

/// Every input there is, for up to three current legs of four.
fn all_inputs() -> Vec<Found> {
    let mut all = Vec::new();
    let flags = [false, true];
    for current in (1..8).map(LegSet::from_bits) {
        let mut data: Vec<Data> = std::vec![Data::NotRead];
        for on in (0..16).map(LegSet::from_bits) {
            data.push(Data::Read { complete_on: on, each_somewhere: true });
            // A leg that has everything would make every block intact somewhere.
            if on.and(current).is_empty() {
                data.push(Data::Read { complete_on: on, each_somewhere: false });
            }
        }
        for (at_or_below_d, predecessor, voided) in
            flags.iter().flat_map(|a| flags.iter().flat_map(move |b| flags.map(|c| (*a, *b, c))))
        {
            for commit_on in (0..16).map(LegSet::from_bits) {
                all.extend(data.iter().map(|data| Found {
                    current,
                    at_or_below_d,
                    predecessor,
                    voided,
                    commit_on,
                    data: *data,
                }));
            }
        }
    }
    all
}

/// The decision by the rules as the design states them, one after the other, without rows.
fn by_the_rules(found: &Found) -> Decision {
    let someone_has_the_commit = !found.commit_on.and(found.current).is_empty();
    let data_can_be_completed = !matches!(found.data, Data::Read { each_somewhere: false, .. });
    let mut lacking = Lacking { commit: found.current, data: LegSet::EMPTY };
    for leg in found.current.iter() {
        if found.commit_on.contains(leg) {
            lacking.commit.remove(leg);
        }
        if let Data::Read { complete_on, .. } = found.data
            && !complete_on.contains(leg)
        {
            lacking.data.insert(leg);
        }
    }
    if found.predecessor && found.voided {
        return Decision::SkipVoided;
    }
    if found.at_or_below_d {
        // Nothing is cut here.
        if !found.predecessor || !someone_has_the_commit {
            return Decision::RefuseMissing;
        }
    } else if !found.predecessor || !someone_has_the_commit || !data_can_be_completed {
        return Decision::CutHere;
    }
    if lacking == Lacking::default() { Decision::Accept } else { Decision::AcceptAndComplete(lacking) }
}

#[test]
fn every_input_gets_the_decision_that_the_rules_demand() {
    let mut counts = RowCounts::default();
    for found in all_inputs() {
        let judged_by_data = matches!(row(&found), Row::CompletedPartly | Row::Completed);
        let needless = found.at_or_below_d && found.data != Data::NotRead;
        if needless || (judged_by_data && found.data == Data::NotRead) {
            assert!(std::panic::catch_unwind(|| decide(&found)).is_err(), "{found:?}");
            continue;
        }
        let (row, decision) = decide(&found);
        assert_eq!(decision, by_the_rules(&found), "{found:?} by {row:?}");
        counts.count(row);
    }
    for row in Row::ALL {
        assert!(counts.of(row) > 0, "{row:?} is never used");
        assert_eq!(Row::ALL[row.index()], row);
    }
}

#[test]
fn nothing_is_cut_at_or_below_d_and_nothing_is_refused_above() {
    for found in all_inputs().into_iter().filter(|f| f.at_or_below_d == (f.data == Data::NotRead)) {
        let (_, decision) = decide(&found);
        assert!(!(found.at_or_below_d && decision == Decision::CutHere), "{found:?}");
        assert!(found.at_or_below_d || decision != Decision::RefuseMissing, "{found:?}");
    }
}

/// What a leg that is not current holds makes no difference.
#[test]
fn stale_legs_have_no_say() {
    for found in all_inputs().into_iter().filter(|f| f.data != Data::NotRead && !f.at_or_below_d) {
        let stale = LegSet::first(4).without(found.current);
        let Data::Read { complete_on, each_somewhere } = found.data else { unreachable!("filtered") };
        for leg in stale.iter() {
            let only = LegSet::only(leg);
            let with = Found {
                commit_on: found.commit_on.union(only),
                data: Data::Read { complete_on: complete_on.union(only), each_somewhere },
                ..found
            };
            let without = Found {
                commit_on: found.commit_on.without(only),
                data: Data::Read { complete_on: complete_on.without(only), each_somewhere },
                ..found
            };
            assert_eq!(decide(&with), decide(&without), "{found:?}");
        }
    }
}

#[test]
fn the_legs_that_lack_something_are_named() {
    let found = Found {
        current: LegSet::first(3),
        at_or_below_d: false,
        predecessor: true,
        voided: false,
        commit_on: LegSet::first(2),
        data: Data::Read { complete_on: LegSet::only(LegId::new(2)), each_somewhere: true },
    };
    let lacking = Lacking { commit: LegSet::only(LegId::new(2)), data: LegSet::first(2) };
    assert_eq!(decide(&found), (Row::CompletedPartly, Decision::AcceptAndComplete(lacking)));
}
