//! Reads of a pipe that nobody has written to yet, as those of a drive that hangs.
use super::*;
use crate::memory::Area;
use crate::ring::Source;
use base::{BufId, DriveIx, DriveOp, Memory, Segment};
use std::io::Write;
use std::os::fd::AsFd;

const HELD: BufId = BufId::new(1);

fn read(segments: &[Segment]) -> Remainder<'_> {
    Remainder { drive: DriveIx::ZERO, op: DriveOp::Read, at_bytes: 0, segments, skip: 0 }
}

fn ring() -> Ring {
    let mut ring = Ring::new(Area::new(4, 0).expect("memory")).expect("a ring");
    ring.enable().expect("a ring at work");
    for block in 0..4 {
        ring.block_mut(BufId::new(block)).fill(1);
    }
    ring
}

fn answer(ring: &mut Ring) -> (u64, i32) {
    loop {
        if let Some(event) = ring.next() {
            assert_eq!(event.source, Source::Drive);
            return (event.id, event.result);
        }
        ring.wait(None).expect("a wait");
    }
}

#[test]
fn what_hangs_fills_other_memory_than_what_comes_after_it() {
    let mut ring = ring();
    let ((hung, mut late), (good, mut soon)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let memory = [Segment { buf: HELD, blocks: 1 }];
    ring.drive(1, hung.as_fd(), &read(&memory)).unwrap();
    assert_eq!(ring.exchange(&[read(&memory)]).unwrap(), [true]);
    assert!(ring.registered());
    assert_eq!(ring.block(HELD), &[0; BLOCK_BYTES]);

    ring.drive(2, good.as_fd(), &read(&memory)).unwrap();
    soon.write_all(&[9; BLOCK_BYTES]).unwrap();
    assert_eq!(answer(&mut ring), (2, BLOCK_BYTES as i32));
    assert_eq!(ring.block(HELD), &[9; BLOCK_BYTES], "a new read comes into the memory that is there now");

    late.write_all(&[7; BLOCK_BYTES]).unwrap();
    assert_eq!(answer(&mut ring), (1, BLOCK_BYTES as i32));
    assert_eq!(ring.block(HELD), &[9; BLOCK_BYTES], "the one that hung does not");
    for beside in [0, 2, 3] {
        assert_eq!(ring.block(BufId::new(beside)), &[1; BLOCK_BYTES]);
    }
}

/// Without a registration the kernel may look an address up at any time.
#[test]
fn memory_that_is_named_by_address_stays() {
    let mut ring = ring();
    let (hung, mut late) = std::io::pipe().unwrap();
    ring.registered = false;
    let memory = [Segment { buf: HELD, blocks: 1 }];
    ring.drive(1, hung.as_fd(), &read(&memory)).unwrap();
    assert_eq!(ring.exchange(&[read(&memory)]).unwrap(), [false]);
    late.write_all(&[7; BLOCK_BYTES]).unwrap();
    assert_eq!(answer(&mut ring), (1, BLOCK_BYTES as i32));
    assert_eq!(ring.block(HELD), &[7; BLOCK_BYTES]);
}
