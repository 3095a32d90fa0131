//! Tests of the reference model itself: what it allows and what it forbids.
use super::*;

fn look(sectors: [WriteId; PER_BLOCK]) -> Look {
    let seen = |write| if write == 0 { Seen::Zero } else { Seen::Stamp { write, sector: 0 } };
    Look { mask: 0xff, sectors: sectors.map(seen) }
}

fn find(model: &Model, sectors: [WriteId; PER_BLOCK]) -> Found {
    model.blocks[0].find(&look(sectors), model.blocks[0].acked)
}

#[test]
fn an_acknowledged_write_hides_what_was_before() {
    let mut model = Model::new(1, 1);
    let write = model.issue(0, 8, false, 0);
    assert_eq!(find(&model, [0; 8]), Found::Allowed(0));
    assert_eq!(find(&model, [write; 8]), Found::Allowed(1));
    model.acked(write, 1);
    assert_eq!(find(&model, [0; 8]), Found::Older(0));
}

#[test]
fn partial_writes_build_on_each_other() {
    let mut model = Model::new(1, 1);
    let first = model.issue(0, 4, false, 0);
    let second = model.issue(2, 4, false, 0);
    let (a, b) = (first, second);
    assert_eq!(find(&model, [a, a, a, a, 0, 0, 0, 0]), Found::Allowed(1));
    assert_eq!(find(&model, [a, a, b, b, b, b, 0, 0]), Found::Allowed(2));
    assert_eq!(find(&model, [0, 0, b, b, b, b, 0, 0]), Found::Torn);
}

#[test]
fn a_refused_write_leaves_the_later_ones_without_it() {
    let mut model = Model::new(1, 1);
    let first = model.issue(0, 4, false, 0);
    let second = model.issue(2, 4, false, 0);
    model.refused(first);
    let b = second;
    assert_eq!(find(&model, [0, 0, b, b, b, b, 0, 0]), Found::Allowed(2));
    assert_eq!(find(&model, [first, first, first, first, 0, 0, 0, 0]), Found::Voided(1));
}

#[test]
fn a_crash_goes_back_to_the_flush_at_most() {
    let mut model = Model::new(1, 1);
    let writes: Vec<WriteId> = (0..3).map(|_| model.issue(0, 8, false, 0)).collect();
    model.acked(writes[0], 1);
    let acks = model.acks.len();
    model.acked(writes[1], 1);
    model.flushed(acks);
    model.crash();
    assert_eq!(find(&model, [0; 8]), Found::Older(0));
    for (i, write) in writes.iter().enumerate() {
        assert_eq!(find(&model, [*write; 8]), Found::Allowed(i as u32 + 1));
    }
    assert!(model.needs_a_read(0, 1) && !model.needs_a_read(0, 8));
}

#[test]
fn what_a_read_ruled_out_must_not_come_back() {
    let mut model = Model::new(1, 1);
    let first = model.issue(0, 8, false, 0);
    model.acked(first, 1);
    model.durable(first);
    let second = model.issue(0, 8, false, 0);
    model.crash();
    let Found::Allowed(index) = find(&model, [first; 8]) else { panic!("durable") };
    model.learn(0, &look([first; 8]), index, index);
    assert!(!model.needs_a_read(0, 1));
    model.crash();
    assert_eq!(find(&model, [second; 8]), Found::Voided(2));
    assert_eq!(find(&model, [first; 8]), Found::Allowed(1));
}

#[test]
fn a_partial_look_narrows_without_deciding() {
    let mut model = Model::new(1, 1);
    let first = model.issue(0, 4, false, 0);
    let second = model.issue(4, 4, false, 0);
    model.crash();
    let mut low = look([first; 8]);
    low.mask = 0x0f;
    assert_eq!(model.blocks[0].find(&low, 0), Found::Allowed(1));
    model.learn(0, &low, 1, 1);
    assert!(model.needs_a_read(0, 1), "the upper half is still open");
    assert_eq!(find(&model, [0; 8]), Found::Voided(0));
    let (a, b) = (first, second);
    assert_eq!(find(&model, [a, a, a, a, b, b, b, b]), Found::Allowed(2));
}

#[test]
fn sectors_of_other_places_are_foreign() {
    let mut model = Model::new(1, 2);
    let write = model.issue(0, 16, false, 0);
    let mut bytes = vec![0; BLOCK_BYTES];
    for (i, sector) in bytes.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        crate::stamp::put(sector, 1, i as u64, write);
    }
    let right = Look::at(0, &bytes, 0xff, 1);
    let wrong = Look::at(1, &bytes, 0xff, 1);
    assert_eq!(model.blocks[0].find(&right, 0), Found::Allowed(1));
    assert_eq!(model.blocks[1].find(&wrong, 0), Found::Foreign);
}

#[test]
fn a_failed_write_may_show_or_not_until_it_is_overwritten() {
    let mut model = Model::new(1, 1);
    let failed = model.issue(0, 8, false, 0);
    model.failed(failed);
    model.learn(0, &look([0; 8]), 0, 0);
    assert_eq!(find(&model, [failed; 8]), Found::Allowed(1));
    let after = model.issue(0, 8, false, 0);
    model.acked(after, 1);
    assert_eq!(find(&model, [failed; 8]), Found::Older(1));
}
