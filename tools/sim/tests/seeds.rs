//! A few seeds of the whole simulator, so that it cannot rot between its long runs.
use sim::campaign::run;
use sim::volume_subject::VolumeGroup;
use sim::{everywhere, planted, sweep};

#[test]
fn seeds_are_green_and_add_up_alike() {
    let seeds: Vec<u64> = (100_000..100_040).collect();
    let one = run::<VolumeGroup>(&seeds, 1, |_| {});
    assert_eq!(one.failed, Vec::new());
    assert!(one.crashes > 0 && one.compared > 0);
    assert_eq!(
        run::<VolumeGroup>(&seeds[..10], 2, |_| {}).hash,
        run::<VolumeGroup>(&seeds[..10], 1, |_| {}).hash
    );
}

#[test]
fn crashes_everywhere_and_failing_operations_are_survived() {
    let crashes = everywhere::run::<VolumeGroup>(120, 7, 1);
    assert_eq!((crashes.passed, crashes.failed), (120, Vec::new()));
    assert!(crashes.depths.iter().sum::<u64>() == 120 && crashes.depths.iter().all(|states| *states > 0));
    let sweep = sweep::run::<VolumeGroup>(1, 6, 2);
    assert_eq!(sweep.failed, Vec::new());
    assert!(sweep.passed > 50);
}

#[test]
fn the_canary_fails() {
    assert!(planted::canary::<VolumeGroup>(0).is_some());
}
