//! An image of an encrypted group, small enough that every bit of it can be turned: whatever it is, each read is right or an
//! error, and each open right or refused.
//!
//! The tests turn one bit in some hundred. `PLINTH_EVERY_BIT=K/N` has them turn each N-th one, from the K-th on, so that N
//! runs turn all.
use crate::world::drive::Drive;
use crate::world::{SMALL, Shape, World};
use base::{BLOCK_BYTES, DriveOp, Engine, Fault, Op, Phase};
use std::collections::BTreeSet;

/// One row of one extent of 1 MiB.
const IMAGE: Shape = Shape {
    legs: 1,
    rows: 1,
    sectors: 512,
    config: volume::Config { slots: 2, ..SMALL },
    encrypted: true,
    ..Shape::MIRROR
};
const FIRST: u64 = 256;
const BLOCKS: u64 = 256;

/// What the guest has written, in requests.
const WRITTEN: [(u64, u64); 5] = [(0, 8), (24, 3), (96, 64), (400, 16), (17, 5)];

/// An image that was closed: nothing that it says can be missing.
fn closed() -> World {
    let mut world = World::new(IMAGE);
    for (sector, sectors) in WRITTEN {
        world.write(sector, sectors).expect("written");
    }
    world.close();
    world
}

/// One whose power was cut with a log behind the checkpoint. Nothing says yet that its last writes are durable, so a commit of
/// theirs with a bit turned is one that was never completed: the blocks may hold what they held before.
fn cut_off() -> World {
    let mut world = closed();
    world.reopen();
    for (sector, sectors) in &WRITTEN[..2] {
        world.write(*sector, *sectors).expect("written");
    }
    world.settle();
    // The drive has them all the same.
    let now = world.drives[0].now();
    world.drives[0].flush(now);
    world.cut_power();
    world
}

/// Opens the image and reads everything. How many reads were right; `None` if it was refused.
fn opens(world: &mut World) -> Option<usize> {
    world.open_with(IMAGE.config);
    if world.engine.phase() == Phase::Refused {
        return None;
    }
    // What is read is compared with what was written, and with zeroes between.
    let read = |at: &u64| match world.ask(Op::Read, at * 8, 8) {
        Ok(()) => true,
        Err(fault) => {
            assert_eq!(fault, Fault::Io);
            false
        }
    };
    let right = (0..IMAGE.sectors / 8).filter(read).count();
    world.kill();
    Some(right)
}

/// The part of all bits that is to be turned: the first one, and from each to the next.
fn part() -> (usize, usize) {
    let Ok(part) = std::env::var("PLINTH_EVERY_BIT") else { return (0, 769) };
    let (first, step) = part.split_once('/').expect("K/N");
    let number = |text: &str| text.parse().expect("a number");
    (number(first), number(step))
}

fn turn(drive: &mut Drive, block: u64, bit: usize) {
    let mut bytes = [0; BLOCK_BYTES];
    drive.read(block, &mut bytes);
    bytes[bit / 8] ^= 1 << (bit % 8);
    drive.write(block, &bytes, false);
}

#[test]
fn of_a_closed_image_whichever_bit_is_turned_no_read_is_wrong() {
    turn_bits(closed());
}

#[test]
fn nor_of_one_whose_power_was_cut() {
    turn_bits(cut_off());
}

fn turn_bits(mut world: World) {
    let (drives, catalogue) = (world.drives.clone(), world.catalogue.clone());
    let (model, maybe) = (world.model.clone(), world.maybe.clone());
    world.log = Some(Vec::new());
    let all = opens(&mut world).expect("as it was written");
    assert_eq!(all as u64, IMAGE.sectors / 8);
    let log = world.take_log();
    world.log = None;
    let reads = log.iter().filter(|io| io.op == DriveOp::Read);
    let looked_at: BTreeSet<u64> = reads.flat_map(|io| io.at..io.at + io.blocks).collect();
    assert!(looked_at.len() > 40, "{looked_at:?}");
    let (first, step) = part();
    let bits = |block: &u64| if looked_at.contains(block) { 8 * BLOCK_BYTES } else { 1 };
    let every = (FIRST..FIRST + BLOCKS).flat_map(|block| (0..bits(&block)).map(move |bit| (block, bit)));
    let (mut tried, mut refused, mut in_part) = (0u64, 0u64, 0u64);
    for (block, bit) in every.skip(first).step_by(step) {
        world.drives = drives.clone();
        world.catalogue = catalogue.clone();
        (world.model, world.maybe) = (model.clone(), maybe.clone());
        turn(&mut world.drives[0], block, bit);
        tried += 1;
        match opens(&mut world) {
            None => refused += 1,
            Some(right) => in_part += u64::from(right < all),
        }
    }
    eprintln!("{tried} bits turned, {refused} refused, {in_part} with reads that were errors, none wrong");
    assert!(refused > 0 && in_part > 0 && refused + in_part < tried, "each can be: {refused} {in_part}");
}
