//! What a group can run out of for good: rows that its home pages can name, places in its history, numbers of
//! checkpoints. Each ends with an answer, and what was written stays readable.
use crate::world;
use crate::world::{SMALL, Shape, World};
use base::{CkptNo, DriveBlock, DriveOp, Engine, Fault, Op, Phase, Reply, Sectors};
use volume::{Config, Halt, Superblock};

/// Few home pages, and many extents in a row: four pages, of which one names 128 rows.
const FEW_PAGES: Shape = Shape {
    legs: 4,
    extent: 64,
    ring: 41,
    sectors: 1 << 24,
    rows: 2000,
    config: Config { max_rows: u32::MAX, delta_entries: 2048, ..SMALL },
    ..Shape::MIRROR
};

/// One leg, encrypted, twelve home pages, and a pool that has no second row at first.
const SEALED: Shape =
    Shape { legs: 1, extent: 192, ring: 48, encrypted: true, sectors: 1 << 14, rows: 1, ..FEW_PAGES };

fn stats(world: &World) -> volume::Stats {
    world.engine.stats().expect("served")
}

/// The identity of the next activation is one that the group has not had, and not that of zeroes.
fn another(world: &mut World) {
    world.generation += u64::from(world.generation % 256 == 255);
    world.ids = (world.generation >> 8) as u8;
}

/// The next activation.
fn again(world: &mut World) {
    world.kill();
    another(world);
    world.open_with(world.shape.config);
}

/// Opens so often, each time with a write that was acknowledged.
fn open_often(world: &mut World, times: u32) {
    for _ in 0..times {
        let sector = world.random() % 16 * 8;
        world.write(sector, 8).expect("written");
        world.flush().expect("flushed");
        again(world);
        assert_eq!(world.engine.phase(), Phase::Serving, "{:?}", world.engine.refusal());
    }
}

/// Nothing is written any more; everything can be read, now and after each further open.
fn is_read_only(world: &mut World, why: Halt) {
    for _ in 0..3 {
        assert_eq!(world.engine.phase(), Phase::ReadOnly, "{:?}", world.engine.refusal());
        assert_eq!(world.engine.halted(), Some(why));
        world.check_range(0, 512);
        assert_eq!(world.write(0, 8), Err(Fault::ReadOnly));
        assert!(!world.engine.grow(Sectors::new(world.shape.sectors + 8)));
        world.settle();
        world.close();
        world.kill();
        world.log = Some(Vec::new());
        another(world);
        world.open_with(world.shape.config);
        world.settle();
        assert!(world.take_log().iter().all(|io| io.op == DriveOp::Read), "something was written");
        world.log = None;
    }
}

/// The pool has space without end. The group takes rows until its home pages are full, and says so; the history still has
/// its place.
#[test]
fn a_group_takes_as_many_rows_as_its_home_pages_can_name() {
    let mut world = World::new(FEW_PAGES);
    let mut block = 0;
    while world.write(block * 8, 512) != Err(Fault::NoSpace) {
        block += 64;
    }
    world.settle();
    let full = stats(&world);
    assert!(full.rows_ended, "{full:?}");
    assert_eq!(full.rows, 128, "a page of rows, two for the history, and one that is not enough for two");
    assert!(world.next_extent < world.extents, "the pool had more");
    for _ in 0..80 {
        again(&mut world);
        assert_eq!(world.engine.phase(), Phase::Serving, "{:?}", world.engine.refusal());
        assert_eq!(stats(&world).rows, full.rows);
    }
    assert_eq!(world.write(block * 8, 512), Err(Fault::NoSpace));
    world.settle();
    assert!(stats(&world).rows_ended);
    world.check_range(0, 4096);
    world.check_range((block - 512) * 8, block * 8);
    world.ask(Op::Discard, 0, block * 4).expect("a full group can be discarded");
    world.write(block * 8, 512).expect("there is room again");
}

/// A volume of 8 MiB grows to 64 MiB while it is served: there is memory for the rows that it needs then. And to 30 TiB, of
/// which the home pages can name the rows of a few GiB.
#[test]
fn a_volume_that_grows_while_it_is_served_gets_its_rows() {
    let config = Config { max_rows: u32::MAX, ..SMALL };
    let mut world = World::new(Shape { rows: 2000, config, ..Shape::MIRROR });
    world.write(0, 512).expect("written");
    let sectors = 64 << 11;
    assert!(world.engine.grow(Sectors::new(sectors)));
    for sector in (0..sectors).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    assert!(stats(&world).rows > 64, "{:?}", stats(&world));
    let large = 30 << 31;
    assert!(world.engine.grow(Sectors::new(large)));
    world.write(large - 512, 512).expect("written");
    world.kill_and_reopen();
    world.write(large - 1024, 512).expect("written");
    world.close();
    world.reopen();
    world.check_range(0, sectors);
    world.check_range(large - 1024, large);
}

/// Six pages of history in an encrypted group with twelve: there is none for the second row, or a day would come on which
/// the group could not be opened.
#[test]
fn rows_leave_the_history_of_an_encrypted_group_what_it_needs() {
    let mut world = World::new(SEALED);
    assert_eq!(stats(&world).activations_left, Some(11 * 60 + 1));
    open_often(&mut world, 5 * 60 + 2);
    assert_eq!(stats(&world).rows, 1);
    world.extents = 1000;
    world.engine.reply(Reply::SpaceAdded);
    let mut block = 100;
    while world.write(block * 8, 8) != Err(Fault::NoSpace) {
        block += 1;
        assert!(block < 1000, "{:?}", stats(&world));
    }
    world.settle();
    assert!(stats(&world).rows_ended && stats(&world).rows == 1, "{:?}", stats(&world));
    assert_eq!(stats(&world).activations_left, Some(58 + 5 * 60 + 1));
    world.ask(Op::Discard, 0, 1 << 14).expect("discarded");
    open_often(&mut world, 2);
}

/// The history of an encrypted group is full. It is not refused: it opens for reading, with what its last activation has
/// acknowledged.
#[test]
fn a_full_history_refuses_writes_and_no_open() {
    let mut world = World::new(SEALED);
    loop {
        let left = stats(&world).activations_left.expect("it is encrypted");
        world.write(left % 16 * 8, 8).expect("written");
        world.flush().expect("flushed");
        again(&mut world);
        if left == 0 {
            break;
        }
        assert_eq!(stats(&world).activations_left, Some(left - 1));
    }
    is_read_only(&mut world, Halt::HistoryFull);
}

/// Everything was written again under a new key, so nothing lies under what the activations before had: the next one cuts
/// their lines off, whatever crash comes in between.
#[test]
fn a_new_data_key_makes_room_in_the_history() {
    let mut world = World::new(SEALED);
    open_often(&mut world, 130);
    world.data_keys = (1, 2);
    again(&mut world);
    let before = stats(&world).activations_left.expect("it is encrypted");
    assert!(before < 9 * 60, "{before}");
    assert!(world.engine.start_rekey());
    world.run_until("nothing lies under the old key", |w| stats(w).rekey.finished);
    world.data_keys = (2, 2);
    world.kill();
    let (drives, catalogue, model) = (world.drives.clone(), world.catalogue.clone(), world.model.clone());
    for crashes in [0, 1, 1, 1, 3, 8] {
        (world.drives, world.catalogue) = (drives.clone(), catalogue.clone());
        world.forget_to(model.clone());
        // The cut itself is cut short.
        for _ in 0..crashes {
            another(&mut world);
            world.begin_open(world.shape.config);
            for _ in 0..world.random() % 60 {
                world.step();
            }
            world.kill();
        }
        again(&mut world);
        assert_eq!(world.engine.phase(), Phase::Serving, "{:?}", world.engine.refusal());
        world.check_range(0, 512);
        let after = stats(&world).activations_left.expect("it is encrypted");
        assert!(after > 10 * 60, "{after} after {before}");
        world.write(8, 8).expect("written");
        again(&mut world);
        world.check_range(0, 512);
        world.kill();
    }
}

/// Sets the number of the checkpoint in the superblocks of a group that was never opened.
fn begin_at(shape: Shape, number: u32) -> World {
    let mut world = World::closed(shape);
    for drive in 0..shape.legs {
        for slot in [3, 4] {
            let at = DriveBlock::new(256 + slot).get();
            let mut block = [0; 4096];
            world.drives[usize::from(drive)].read(at, &mut block);
            let (mut superblock, home) = Superblock::decode(&block).expect("a superblock");
            superblock.ckpt = CkptNo::new(number);
            world.drives[usize::from(drive)].write(at, &superblock.encode(home), false);
        }
    }
    world.kill();
    world.open_with(shape.config);
    world
}

/// Changes all superblocks of a group, and makes their own checks right.
fn forge(world: &mut World, change: impl Fn(&mut base::Block)) {
    for drive in &mut world.drives {
        for slot in [3, 4] {
            let at = DriveBlock::new(256 + slot).get();
            let mut block = [0; 4096];
            drive.read(at, &mut block);
            change(&mut block);
            let check = base::Check::of(&block[..volume::layout::OWN_CHECK]);
            base::codec::put_check(&mut block, volume::layout::OWN_CHECK, check);
            drive.write(at, &block, false);
        }
    }
}

/// A group with rows and something in its log, killed, and where the last byte of its superblocks is that says anything.
fn with_a_log(shape: Shape) -> (World, usize) {
    let mut world = World::new(shape);
    world::story::some_writes(&mut world, 150);
    world.flush().expect("flushed");
    world.kill();
    let mut block = [0; 4096];
    world.drives[0].read(256 + 3, &mut block);
    let last = block[..volume::layout::OWN_CHECK].iter().rposition(|byte| *byte != 0).expect("a superblock");
    (world, last)
}

/// Opens what was forged, has it written to if it is served, and opens it again: no number may end the process, and what an
/// activation has written the next one can read.
fn open_forged(world: &mut World, what: &str) -> Phase {
    another(world);
    world.begin_open(world.shape.config);
    world.settle();
    let first = world.engine.phase();
    if first == Phase::Serving {
        for i in 0..3 {
            world.begin(Op::Write, i * 8, 8, false);
        }
        world.begin(Op::Flush, 0, 0, false);
        world.settle();
        let halted = world.engine.halted();
        again(world);
        let second = world.engine.phase();
        assert!(second != Phase::Refused || halted.is_some(), "{what}: {:?}", world.engine.refusal());
    }
    world.kill();
    first
}

/// Whatever number stands anywhere in the superblocks, with a right check.
#[test]
fn no_number_of_a_superblock_ends_the_process() {
    let values =
        [u64::MAX, u64::MAX - 1, u64::MAX << 32, 1 << 63, (1 << 52) - 1, 1 << 40, u64::from(u32::MAX)];
    for shape in [Shape::MIRROR, Shape { legs: 1, columns: 2, ..Shape::MIRROR }] {
        let (mut world, last) = with_a_log(shape);
        let good = world.drives.clone();
        for at in 8..=last {
            for value in values {
                let width = [8, 4, 1].into_iter().find(|width| at % width == 0).expect("one of them");
                if width < 8 && value >> (8 * width) != 0 && value != u64::MAX {
                    continue;
                }
                world.drives.clone_from(&good);
                forge(&mut world, |block| {
                    block[at..at + width].copy_from_slice(&value.to_le_bytes()[..width])
                });
                open_forged(&mut world, &format!("{value:#x} in {width} bytes at {at}"));
            }
        }
        world.drives = good;
        assert_eq!(open_forged(&mut world, "as it was"), Phase::Serving);
    }
}

/// Numbers at their very ends: refused, or read, or served and opened again.
#[test]
fn numbers_that_nobody_reaches_are_bounded() {
    use volume::layout::superblock as at;
    let (mut world, _) = with_a_log(Shape::MIRROR);
    let good = world.drives.clone();
    for (field, end) in [
        (at::NUMBER_AT, u64::MAX << 32),
        (at::GEN_AT, u64::from(u32::MAX)),
        (at::NEXT_COMMIT_AT, 1 << 63),
        (at::CKPT_SEQ_AT, (1 << 52) - (1 << 40)),
        (at::DURABLE_AT, (1 << 52) - (1 << 40)),
    ] {
        for value in (end - 3..end + 3).chain([end / 2, u64::MAX, u64::MAX - 1]) {
            world.drives.clone_from(&good);
            forge(&mut world, |block| base::codec::put_u64(block, field, value));
            let phase = open_forged(&mut world, &format!("{value:#x} at {field}"));
            assert!(value < end || phase == Phase::Refused, "{value:#x} at {field}: {phase:?}");
        }
    }
    // A group that was never written to says nothing else that contradicts them.
    for (field, end) in [(at::NUMBER_AT, u64::MAX << 32), (at::NEXT_COMMIT_AT, 1 << 63)] {
        for (value, expected) in
            [(end - 1, Phase::ReadOnly), (end / 2, Phase::Serving), (end, Phase::Refused)]
        {
            let mut world = World::closed(Shape::MIRROR);
            world.kill();
            forge(&mut world, |block| base::codec::put_u64(block, field, value));
            assert_eq!(open_forged(&mut world, "new"), expected, "{value:#x} at {field}");
        }
    }
}

/// Checkpoints until their numbers are used up: what was acknowledged stays, also what is in the log alone.
#[test]
fn numbers_of_checkpoints_end_with_an_answer() {
    let mut world = begin_at(Shape::MIRROR, u32::MAX - 400);
    assert_eq!(world.engine.phase(), Phase::Serving, "{:?}", world.engine.refusal());
    let first = stats(&world).checkpoints_left;
    let mut result = Ok(());
    for round in 0..100_000 {
        if result.is_err() {
            break;
        }
        result = world.write(round % 100 * 8, 8);
        if round % 5000 == 4999 {
            again(&mut world);
        }
    }
    assert_eq!(result, Err(Fault::ReadOnly));
    assert!(first > 300 && stats(&world).checkpoints_left == 0, "{first}");
    assert_eq!(world.engine.halted(), Some(Halt::CheckpointsEnded));
    world.check_range(0, 1024);
    again(&mut world);
    is_read_only(&mut world, Halt::CheckpointsEnded);
}

/// Whatever number a superblock says, opening it does not end in a panic.
#[test]
fn no_number_of_a_checkpoint_is_too_high_to_look_at() {
    for number in (u32::MAX - 100..=u32::MAX).step_by(4).chain([u32::MAX]) {
        let mut world = begin_at(Shape::MIRROR, number);
        world.settle();
        assert!(world.engine.phase() != Phase::Recovering);
        if world.engine.phase() == Phase::Serving {
            for i in 0..200 {
                let _ = world.write(i % 100 * 8, 8);
            }
            world.settle();
        }
    }
}
