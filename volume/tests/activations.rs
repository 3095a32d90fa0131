//! What one activation said and the next one must not believe: numbers of checkpoints, marks, other histories.
use crate::world;
use crate::world::story::{assert_each_leg_is_whole, broken, end_of_move, some_writes};
use crate::world::{Shape, Verdict, World};
use base::{CkptNo, DriveOp, Engine, Op, Phase};
use fence::CopyState;
use std::cell::Cell;
use std::rc::Rc;
use volume::{CopyHealth, MoveOutcome};

fn is_current(world: &World, drive: u8) -> bool {
    world.engine.stats().expect("served").drives[usize::from(drive)].health == CopyHealth::Current
}

/// What the catalogue says of a drive.
fn mark(world: &World, drive: u8) -> Option<CopyState> {
    world.catalogue.iter().find(|entry| entry.drive == world::uuid(drive)).map(|entry| entry.state)
}

fn steps_until(world: &mut World, until: impl Fn(&World) -> bool) {
    for _ in 0..100_000 {
        if until(world) {
            return;
        }
        world.step();
    }
    panic!("not within 100,000 steps");
}

/// Opens and says whether it serves.
fn opens(world: &mut World) -> bool {
    let config = world.shape.config;
    world.open_with(config);
    world.engine.phase() == Phase::Serving
}

/// The first of a mirror's drives has a checkpoint's version in one slot, and the mark of the second says that it was
/// flushed up to that checkpoint. Power fails, and the first drive loses its slot: the checkpoint never was. The next
/// activation's first one has the same number. The second drive has not a page of that one.
fn a_checkpoint_that_never_was(absent: u32) {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 200);
    world.close();
    world.reopen();
    let before = world.engine.stats().expect("served").checkpoint;
    (0..8).for_each(|i| world.write(i * 512, 8).expect("written"));
    world.flush().expect("flushed");
    world.settle();
    let slots = Rc::new(Cell::new(false));
    let written = slots.clone();
    world.verdict = Box::new(move |io| {
        if io.op == DriveOp::Write && io.blocks == 1 && (259..261).contains(&io.at) {
            written.set(true);
        } else if written.get() && io.op == DriveOp::Flush {
            return if io.drive == 1 { Verdict::Fail } else { Verdict::Later };
        }
        Verdict::Do
    });
    world.engine.close();
    steps_until(&mut world, |world| mark(world, 1).is_some());
    let Some(CopyState::Stale { ckpt, .. }) = mark(&world, 1) else { panic!("it is stale") };
    assert!(slots.get() && ckpt > CkptNo::new(before));
    world.kill();
    world.drives[0].cut(|| 0);
    world.verdict = Box::new(|_| Verdict::Do);
    world.absent = absent;
    world.reopen();
    assert_eq!(world.engine.stats().expect("served").checkpoint, before);
    (0..8).for_each(|i| world.write(i * 512 + 64, 8).expect("written"));
    world.flush().expect("flushed");
    world.close();
    world.absent = 0;
    world.reopen();
    assert_eq!(
        CkptNo::new(world.engine.stats().expect("served").checkpoint),
        ckpt,
        "or nothing is shown here"
    );
    assert!(!is_current(&world, 1));
    world.settle();
    world.back(1);
    world.run_until("the drive has everything", |world| is_current(world, 1));
    assert_each_leg_is_whole(&mut world);
}

#[test]
fn a_stale_copy_has_nothing_of_a_checkpoint_that_never_was() {
    a_checkpoint_that_never_was(0);
    a_checkpoint_that_never_was(2);
}

/// A mirror of which the second drive was left at some moment, and then the first is away. Gives what the second has.
fn left_behind(world: &mut World) -> std::collections::HashMap<u64, u64> {
    let broken = broken(world);
    some_writes(world, 200);
    world.flush().expect("flushed");
    let model = world.model.clone();
    broken.set(2);
    some_writes(world, 400);
    world.flush().expect("flushed");
    assert!(!is_current(world, 1));
    broken.set(0);
    model
}

/// The stale copy is opened by force. Between what the catalogue hears of the one that is opened and of the one that is
/// given up, power fails.
#[test]
fn a_forced_open_that_is_cut_short_gives_up_the_other_copy_all_the_same() {
    for cut in [false, true] {
        let mut world = World::new(Shape::MIRROR);
        let model = left_behind(&mut world);
        world.kill();
        (world.absent, world.forced) = (1, true);
        if cut {
            world.forget_stale = true;
            let config = world.shape.config;
            world.begin_open(config);
            for _ in 0..10_000 {
                world.step();
            }
            assert!(mark(&world, 1) != Some(CopyState::Current), "nothing of the other is known yet");
            world.kill();
            world.forget_stale = false;
        }
        world.forget_to(model);
        world.reopen();
        world.forced = false;
        assert!(mark(&world, 0).is_some_and(|state| !state.is_current()));
        assert_eq!(mark(&world, 1), Some(CopyState::Current));
        world.check_all();
        (0..8).for_each(|i| world.write(i * 512 + 64, 8).expect("written"));
        world.flush().expect("flushed");
        world.close();
        world.absent = 0;
        world.reopen();
        world.settle();
        world.back(0);
        world.run_until("the drive has everything", |world| is_current(world, 0));
        assert_each_leg_is_whole(&mut world);
    }
}

/// As `left_behind`, and the first drive goes on alone through so many activations more. Then it is lost, and the
/// catalogue with it; the second is imported, opened by force, and goes on.
fn imported(activations: u64) -> World {
    let mut world = World::new(Shape::MIRROR);
    let model = left_behind(&mut world);
    world.absent = 2;
    for _ in 0..activations {
        world.kill();
        world.reopen();
        some_writes(&mut world, 50);
        world.flush().expect("flushed");
    }
    world.kill();
    world.catalogue.clear();
    (world.no_catalogue, world.forced, world.absent) = (true, true, 1);
    (world.ids, world.generation) = (0x80, 1);
    world.forget_to(model);
    world.reopen();
    (world.no_catalogue, world.forced) = (false, false);
    world.check_all();
    some_writes(&mut world, 50);
    world.flush().expect("flushed");
    world
}

#[test]
fn a_drive_of_another_history_is_not_believed_when_it_comes_back() {
    for activations in 0..4 {
        let mut world = imported(activations);
        world.kill();
        world.absent = 0;
        assert!(opens(&mut world), "{activations}: {:?}", world.engine.refusal());
        assert!(!is_current(&world, 0) && is_current(&world, 1));
        world.check_all();
        world.settle();
        world.back(0);
        world.run_until("the drive has everything", |world| is_current(world, 0));
        assert_each_leg_is_whole(&mut world);
    }
}

/// It comes back while the group is served, and gets everything. Its log still had commits of its own history, which name
/// versions that the group does not have: at the next open they would say that versions were lost.
#[test]
fn the_log_of_another_history_is_wiped_before_its_drive_counts() {
    for activations in 1..4 {
        let mut world = imported(activations);
        world.settle();
        world.back(0);
        world.run_until("the drive has everything", |world| is_current(world, 0));
        world.write(0, 8).expect("written");
        world.flush().expect("flushed");
        world.kill();
        world.absent = 0;
        assert!(opens(&mut world), "{activations}: {:?}", world.engine.refusal());
        world.check_all();
        assert_each_leg_is_whole(&mut world);
    }
}

/// Home pages of the extents of `Shape::MIRROR`.
fn in_home_pages(at: u64) -> bool {
    (328..344).contains(&at)
}

/// A version that names a new row is on the second drive of a mirror only. A recovery without that drive takes the place
/// of its row page, and is cut short. Then the drive is there again, and the page cannot be read on it. Nothing can rest
/// on that version, for the first drive never had it: the group opens without it.
#[test]
fn a_version_that_was_never_durable_can_be_done_without() {
    let mut unreadable = 0;
    for round in 0..16 {
        let mut world = World::new(Shape::MIRROR);
        world.random ^= round << 24;
        let paged = Rc::new(Cell::new(false));
        let seen = paged.clone();
        world.verdict = Box::new(move |io| {
            let write = io.op == DriveOp::Write;
            seen.set(seen.get() || (write && in_home_pages(io.at)));
            let slot = write && io.drive == 0 && (259..261).contains(&io.at);
            if slot && seen.get() { Verdict::Later } else { Verdict::Do }
        });
        let mut at = 0;
        while !paged.get() {
            world.begin(Op::Write, at, 64, false);
            at += 64;
            world.settle();
            world.take_answers();
        }
        world.settle();
        world.kill();

        let taken = Rc::new(Cell::new(false));
        let takes = taken.clone();
        world.verdict = Box::new(move |io| {
            takes.set(takes.get() || (io.op == DriveOp::Write && in_home_pages(io.at)));
            if takes.get() && io.op == DriveOp::Flush { Verdict::Later } else { Verdict::Do }
        });
        world.absent = 0b10;
        let config = world.shape.config;
        world.begin_open(config);
        steps_until(&mut world, |w| taken.get() || w.engine.phase() != Phase::Recovering);
        assert!(taken.get(), "{:?} {:?}", world.engine.phase(), world.engine.refusal());
        world.settle();
        world.kill();

        world.absent = 0;
        let asked = Rc::new(Cell::new(false));
        let asks = asked.clone();
        world.verdict = Box::new(move |io| {
            let page = io.op == DriveOp::Read && io.drive == 1 && io.blocks == 1 && in_home_pages(io.at);
            asks.set(asks.get() || page);
            if page { Verdict::Fail } else { Verdict::Do }
        });
        assert!(opens(&mut world), "round {round}: {:?}", world.engine.refusal());
        unreadable += u32::from(asked.get());
        world.check_all();
    }
    assert!(unreadable > 0, "the version was found");
}

/// The drive that was lost turned up, got a new identity, and took over its own place. Its ring had commits of the other history,
/// which named versions that nobody had heard of: every later open was refused.
#[test]
fn the_log_of_another_history_is_wiped_where_a_drive_takes_over() {
    for activations in 1..4 {
        let mut world = imported(activations);
        world.settle();
        let new = world.add_drive();
        world.drives[2] = world.drives[0].clone();
        world.leave(0, &[new]);
        assert_eq!(end_of_move(&mut world), MoveOutcome::Done);
        world.places[0] = 2;
        world.drives[0] = Default::default();
        world.write(0, 8).expect("written");
        world.flush().expect("flushed");
        world.close();
        world.kill();
        world.absent = 1;
        world.open_with(world.shape.config);
        assert_eq!(world.engine.phase(), Phase::Serving, "{activations}: {:?}", world.engine.refusal());
        world.check_all();
    }
}
