//! Encrypted groups: the same stories, and drives that lie.
use crate::world;
use crate::world::story::{assert_each_leg_is_whole, end_of_move, some_writes};
use crate::world::{Shape, World};
use base::{BLOCK_BYTES, Engine, Fault, Gen, Op, Phase};
use std::collections::HashSet;
use volume::Refusal;

const ENCRYPTED: Shape = Shape { encrypted: true, ..Shape::MIRROR };

#[test]
fn what_is_written_is_read_over_checkpoints_and_crashes() {
    for columns in [1, 2] {
        let mut world = World::new(Shape { columns, ..ENCRYPTED });
        for round in 0..30 {
            some_writes(&mut world, 40);
            match round % 3 {
                0 => world.kill_and_reopen(),
                1 => {
                    world.cut_power();
                    world.reopen();
                }
                _ => {
                    world.close();
                    world.reopen();
                }
            }
            world.check_all();
        }
        assert_each_leg_is_whole(&mut world);
    }
}

#[test]
fn a_drive_that_comes_back_gets_what_it_lacks_as_it_is_stored() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 100);
    world.engine.take_out(world::uuid(1)).expect("the other one is there");
    world.settle();
    some_writes(&mut world, 200);
    world.back(1);
    world.settle();
    some_writes(&mut world, 20);
    world.settle();
    assert_each_leg_is_whole(&mut world);
}

#[test]
fn a_drive_is_left_for_another() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 200);
    let new = world.add_drive();
    world.leave(0, &[new]);
    assert_eq!(end_of_move(&mut world), volume::MoveOutcome::Done);
    world.check_all();
}

/// Operations and blocks of the writes that a workload comes to on the drives, checkpoints and a close included.
fn written(shape: Shape) -> (u64, u64) {
    let mut world = World::new(shape);
    world.settle();
    world.log = Some(Vec::new());
    for _ in 0..20 {
        some_writes(&mut world, 100);
        world.flush().expect("flushes");
    }
    world.settle();
    world.close();
    let writes = |io: &&world::DriveIo| io.op == base::DriveOp::Write;
    let log = world.take_log();
    let blocks = log.iter().filter(writes).map(|io| io.blocks).sum();
    (log.iter().filter(writes).count() as u64, blocks)
}

/// Encryption costs no second write of anything.
#[test]
fn an_encrypted_group_writes_what_a_plain_one_writes() {
    let (plain, encrypted) = (written(Shape::MIRROR), written(ENCRYPTED));
    assert!(plain.0 > 1000, "{plain:?}");
    let alike = |one: u64, other: u64| one.abs_diff(other) <= one / 100;
    assert!(alike(plain.0, encrypted.0) && alike(plain.1, encrypted.1), "{plain:?} and {encrypted:?}");
}

fn refusal(world: &mut World, keys: Option<u32>) -> Option<Refusal> {
    world.kill();
    world.keys = keys;
    world.open_with(world.shape.config);
    (world.engine.phase() == Phase::Refused).then(|| world.engine.refusal().expect("says why").clone())
}

#[test]
fn a_group_opens_with_its_own_keys_only() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 50);
    world.close();
    let own = world.keys;
    assert_eq!(refusal(&mut world, None), Some(Refusal::Encrypted));
    assert_eq!(refusal(&mut world, Some(own.expect("encrypted") + 77)), Some(Refusal::WrongKey));
    assert_eq!(refusal(&mut world, own), None);
    world.check_all();
    let mut plain = World::new(Shape::MIRROR);
    some_writes(&mut plain, 50);
    plain.close();
    assert_eq!(refusal(&mut plain, own), Some(Refusal::NotEncrypted));
}

/// Where the blocks of a write lie on each drive, side by side.
fn data_blocks(world: &mut World, sector: u64, blocks: u64) -> u64 {
    world.flush().expect("flushed");
    world.settle();
    world.log = Some(Vec::new());
    let write = world.begin(Op::Write, sector, 8 * blocks, false);
    world.wait(write).expect("written");
    let data = |io: &world::DriveIo| {
        io.drive == 0 && io.op == base::DriveOp::Write && io.blocks == blocks && !in_ring(io.at)
    };
    let log = world.take_log();
    let mut found = log.iter().filter(|io| data(io));
    let at = found.next().expect("data was written").at;
    assert!(found.next().is_none(), "{log:?}");
    at
}

/// The ring of `Shape::MIRROR`.
fn in_ring(at: u64) -> bool {
    (264..328).contains(&at)
}

/// Both drives give the block that was there before: it is valid, of the same place, and older.
#[test]
fn a_block_that_is_replayed_is_an_error() {
    let mut world = World::new(ENCRYPTED);
    let first = data_blocks(&mut world, 80, 1);
    let mut old = [0; BLOCK_BYTES];
    world.drives[0].read(first, &mut old);
    let second = data_blocks(&mut world, 80, 1);
    assert_ne!(first, second, "copied on write");
    world.flush().expect("flushed");
    for drive in 0..2 {
        world.drives[drive].write(second, &old, false);
    }
    assert_eq!(world.ask(Op::Read, 80, 8), Err(Fault::Io));
}

#[test]
fn blocks_that_are_swapped_are_errors_and_one_leg_is_enough() {
    for legs in [1, 2] {
        let mut world = World::new(ENCRYPTED);
        let here = data_blocks(&mut world, 80, 2);
        let there = here + 1;
        world.flush().expect("flushed");
        for drive in 0..legs {
            let (mut one, mut other) = ([0; BLOCK_BYTES], [0; BLOCK_BYTES]);
            world.drives[drive].read(here, &mut one);
            world.drives[drive].read(there, &mut other);
            world.drives[drive].write(here, &other, false);
            world.drives[drive].write(there, &one, false);
        }
        for sector in [80, 88] {
            let expected = if legs == 2 { Err(Fault::Io) } else { Ok(()) };
            assert_eq!(world.ask(Op::Read, sector, 8), expected, "{legs} legs");
        }
    }
}

/// A drive as a whole shows what it was a while ago, with right checks everywhere.
#[test]
fn a_drive_that_is_set_back_is_found_out() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 100);
    world.flush().expect("flushed");
    world.close();
    let old = world.drives[1].clone();
    world.reopen();
    some_writes(&mut world, 100);
    world.flush().expect("flushed");
    world.close();
    world.drives[1] = old;
    world.reopen();
    world.check_all();
}

/// All of them show what they were a while ago, with right checks and codes: nothing on them is false.
#[test]
fn drives_that_are_set_back_together_are_refused() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 100);
    world.close();
    let (old, own) = (world.drives.clone(), world.keys);
    world.reopen();
    let served = world.engine.stats().expect("it is served").generation;
    some_writes(&mut world, 100);
    world.close();
    let newest = std::mem::replace(&mut world.drives, old.clone());
    world.served = Some(served);
    let found = Gen::new(served.get() - 1);
    assert_eq!(refusal(&mut world, own), Some(Refusal::Older { found, served }));
    world.drives = newest;
    assert_eq!(refusal(&mut world, own), None);
    world.check_all();
    world.close();
    world.drives = old;
    world.forced = true;
    assert_eq!(refusal(&mut world, own), None, "by the operator's word");
    assert!(world.engine.stats().expect("it is served").generation > served);
}

/// A Gen is handed out before its line is on any drive, and only one that served is remembered.
#[test]
fn an_activation_that_was_cut_short_is_not_missed() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 50);
    for steps in 0..60 {
        world.served = world.engine.stats().map(|stats| stats.generation);
        world.kill();
        world.begin_open(world.shape.config);
        for _ in 0..steps {
            world.step();
        }
        world.cut_power();
        world.reopen();
        assert!(world.engine.stats().map(|stats| stats.generation) > world.served, "cut at {steps}");
        world.check_all();
    }
}

/// Equal blocks are stored as different ones, and nothing that was written is found anywhere.
#[test]
fn the_drives_show_nothing() {
    let mut world = World::new(ENCRYPTED);
    for sector in (0..2048).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    world.flush().expect("flushed");
    world.close();
    let mut plain = World::new(Shape::MIRROR);
    for sector in (0..2048).step_by(512) {
        plain.write(sector, 512).expect("written");
    }
    plain.flush().expect("flushed");
    plain.close();
    let blocks = |world: &World| -> Vec<[u8; BLOCK_BYTES]> {
        let read = |at| {
            let mut block = [0; BLOCK_BYTES];
            world.drives[0].read(at, &mut block);
            block
        };
        world.drives[0].written().map(read).filter(|block| block.iter().any(|byte| *byte != 0)).collect()
    };
    let known: HashSet<Vec<u8>> =
        blocks(&plain).iter().flat_map(|block| block.chunks(64).map(<[u8]>::to_vec)).collect();
    let blank = |piece: &[u8]| piece.iter().all(|byte| *byte == 0);
    let stored = blocks(&world);
    let data = stored.len();
    let shown = stored.iter().flat_map(|block| block.chunks(64)).filter(|p| !blank(p) && known.contains(*p));
    // Superblocks, headers and row pages are no secrets, and may be alike.
    assert!(data > 256 && shown.count() < 64, "of {data} blocks");
}

fn superblock_slots(world: &World) -> Vec<(usize, u64, [u8; BLOCK_BYTES])> {
    let places = (0..world.drives.len()).flat_map(|drive| [256 + 3, 256 + 4].map(|at| (drive, at)));
    places
        .map(|(drive, at)| {
            let mut block = [0; BLOCK_BYTES];
            world.drives[drive].read(at, &mut block);
            (drive, at, block)
        })
        .collect()
}

/// The log names a superblock that no drive shows: its commits are of an activation that nobody knows any more.
#[test]
fn superblocks_that_were_set_back_without_the_log_are_refused() {
    for shape in [Shape::MIRROR, ENCRYPTED] {
        let mut world = World::new(shape);
        some_writes(&mut world, 50);
        world.close();
        let old = superblock_slots(&world);
        world.reopen();
        world.write(0, 8).expect("written");
        world.flush().expect("flushed");
        world.write(8, 8).expect("written");
        world.settle();
        world.kill();
        for (drive, at, block) in old {
            world.drives[drive].write(at, &block, false);
        }
        world.open_with(shape.config);
        let refusal = world.engine.refusal();
        assert!(matches!(refusal, Some(Refusal::NewerSuperblock { .. })), "{refusal:?}");
    }
}

/// A spec that is used twice would count on from the same numbers under the same keys.
#[test]
fn an_activation_is_taken_once() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 50);
    world.kill();
    world.generation -= 1;
    world.open_with(ENCRYPTED.config);
    assert_eq!(world.engine.refusal(), Some(&Refusal::ActivationTwice));
    world.reopen();
    world.check_all();
}

/// Whoever is killed whenever it has opened does not use up the room for the history.
#[test]
fn opens_that_do_nothing_leave_no_lines() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 20);
    for round in 0..1500u32 {
        world.kill();
        world.ids = (round / 200) as u8 + 1;
        world.reopen();
    }
    world.check_all();
}

/// A slot that somebody wrote who has no key, with a right check.
#[test]
fn a_scrub_finds_a_superblock_that_was_forged() {
    let mut world = World::new(ENCRYPTED);
    some_writes(&mut world, 50);
    world.flush().expect("flushed");
    world.close();
    world.reopen();
    world.settle();
    let (_, at, mut block) = superblock_slots(&world)[2];
    block[BLOCK_BYTES - 20] ^= 1;
    let check = base::Check::of(&block[..BLOCK_BYTES - 16]);
    block[BLOCK_BYTES - 16..].copy_from_slice(&check.0);
    world.drives[1].write(at, &block, false);
    assert!(world.engine.start_scrub(0));
    world.run_until("scrubbed", |world| world.engine.stats().expect("served").scrub.finished);
    let mut found = Vec::new();
    world.engine.take_findings(&mut found);
    assert_eq!(found.iter().map(|finding| finding.what).collect::<Vec<_>>(), [volume::What::Superblock]);
    world.drives[1].read(at, &mut block);
    world.kill_and_reopen();
    world.check_all();
}
