//! The right toy passes, each wrong one is caught by the checker that is for it.
use super::*;
use crate::run::{Outcome, Run};

fn run(seed: u64, mistake: Option<&str>) -> Outcome {
    Run::<Toy>::new(Shape::of(seed), mistake, false).run()
}

#[test]
fn the_right_toy_keeps_the_contract() {
    let mut compared = 0;
    for seed in 0..150 {
        let outcome = run(seed, None);
        assert_eq!(outcome.violation, None, "seed {seed}");
        compared += outcome.compared;
    }
    assert!(compared > 0);
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(run(5, None).hash, run(5, None).hash);
    assert_ne!(run(5, None).hash, run(6, None).hash);
}

#[track_caller]
fn caught_by(mistake: &'static str, checkers: &[&str]) {
    for seed in 0..400 {
        if let Some(violation) = run(seed, Some(mistake)).violation {
            assert!(checkers.contains(&violation.checker), "{mistake}: {violation:?}");
            assert_eq!(run(seed, None).violation, None, "the seed is green without it");
            return;
        }
    }
    panic!("{mistake} was not caught");
}

#[test]
fn c2_sees_a_flush_that_is_skipped() {
    caught_by("skip-flush", &["C2"]);
}

#[test]
fn c2_or_prefix_sees_an_early_acknowledgement() {
    caught_by("ack-early", &["C2", "prefix"]);
}

#[test]
fn c3_sees_torn_blocks() {
    caught_by("no-entry-check", &["C3", "prefix"]);
}

#[test]
fn c4_sees_answers_that_change() {
    caught_by("serve-unrepaired", &["C4", "C2"]);
}

#[test]
fn c5_or_c4_sees_legs_that_differ() {
    caught_by("one-leg-home", &["C5", "C4", "C2", "C3"]);
}

#[test]
fn c3_sees_another_blocks_data() {
    caught_by("wrong-block", &["C3", "C1"]);
}

#[test]
fn c9_sees_errors_without_a_fault() {
    caught_by("fail-discard", &["C9"]);
}

#[test]
fn c10_sees_a_request_that_never_ends() {
    caught_by("forget-flush", &["C10"]);
}

#[test]
fn the_canary_fails() {
    crate::campaign::keep_panics();
    assert!(crate::planted::canary::<Toy>(1).is_some());
}

#[test]
fn crash_everywhere_passes_the_right_toy() {
    let tally = crate::everywhere::run::<Toy>(600, 0, 1);
    assert_eq!((tally.passed, tally.failed), (600, Vec::new()));
}

#[test]
fn a_hunt_finds_what_is_planted_and_nothing_else() {
    use crate::planted::{Verdict, hunt};
    assert!(matches!(hunt::<Toy>("skip-flush", 0, 400, 2), Verdict::Caught { .. }));
    assert!(matches!(hunt::<Toy>("harmless", 0, 20, 2), Verdict::Missed));
}

#[test]
fn a_campaign_adds_up_alike_on_any_number_of_threads() {
    let seeds: Vec<u64> = (0..40).collect();
    let one = crate::campaign::run::<Toy>(&seeds, 1, |_| {});
    let two = crate::campaign::run::<Toy>(&seeds, 2, |_| {});
    assert_eq!((one.hash, one.crashes, one.faults), (two.hash, two.crashes, two.faults));
    assert!(one.failed.is_empty() && one.crashes > 0);
}
