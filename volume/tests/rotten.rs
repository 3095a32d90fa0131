//! A leg of which everything of the guest's is rotten, and guests who read it while others write.
use crate::world::{Shape, Verdict, World};
use base::{BLOCK_BYTES, DriveOp, Op, SlotId};

const BLOCKS: u64 = 1792;
/// A checkpoint lets the repairs end that are under way: how many times as long as beside a leg that is right a write may take.
const TIMES: u64 = 4;

/// A mirror, full of the guest's blocks; its second leg has none of them right any more, if it is rotten.
fn mirror(rotten: bool) -> World {
    let mut world = World::new(Shape::MIRROR);
    for block in (0..BLOCKS).step_by(64) {
        world.write(block * 8, 512).expect("written");
    }
    world.close();
    world.reopen();
    world.settle();
    let all: Vec<u64> = world.drives[1].written().collect();
    for at in all {
        let mut block = [0; BLOCK_BYTES];
        world.drives[1].read(at, &mut block);
        // One stamp all over.
        if rotten && block[..8] != [0; 8] && block.chunks_exact(8).all(|word| *word == block[..8]) {
            world.drives[1].damage(at);
        }
    }
    world
}

/// Reads block after block, so many at once, and writes one after the other. Answers how many were read during the longest write.
fn longest_write(world: &mut World, readers: usize) -> u64 {
    let (mut next, mut written, mut wrote_at, mut longest) = (0, 0, 0, 0);
    let mut reading: Vec<SlotId> = Vec::new();
    let mut writing = None;
    while next < BLOCKS - 16 {
        while reading.len() < readers && next < BLOCKS - 16 {
            reading.push(world.begin(Op::Read, next * 8, 8, false));
            next += 1;
        }
        let slot =
            *writing.get_or_insert_with(|| world.begin(Op::Write, (BLOCKS - 1 - written % 8) * 8, 8, false));
        world.step();
        let (done, left) = reading.drain(..).partition(|slot| world.answered(*slot));
        let done: Vec<SlotId> = done;
        reading = left;
        done.into_iter().for_each(|slot| world.wait(slot).expect("read from the other leg"));
        if world.answered(slot) {
            world.wait(slot).expect("written");
            (writing, written, wrote_at) = (None, written + 1, next);
        }
        longest = longest.max(next - wrote_at);
    }
    longest
}

/// With each read a repair began, and a checkpoint begins only while none is under way: none ever did. When the log was full
/// all writes waited, while readers were served.
#[test]
fn a_write_waits_for_no_end_of_repairs() {
    for (readers, flush_every) in [(4, 24), (4, 1), (1, 24)] {
        let [right, rotten] = [false, true].map(|rotten| {
            let (mut world, mut count) = (mirror(rotten), 0_u64);
            world.verdict = Box::new(move |io| {
                count += 1;
                let waits = io.op == DriveOp::Flush && !count.is_multiple_of(flush_every);
                if waits { Verdict::Later } else { Verdict::Do }
            });
            longest_write(&mut world, readers)
        });
        assert!(
            rotten < TIMES * right,
            "{readers} readers: a write took as long as {rotten} reads, not {right}"
        );
    }
}
