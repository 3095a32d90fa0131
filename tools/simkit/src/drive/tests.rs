//! Tests of the drive: cache, flush, crash and each fault.
use super::*;
use crate::crash::CrashMode;
use base::{BufId, VecMemory};

const SIZE: u64 = 64;

struct Bench {
    drive: SimDrive,
    memory: VecMemory,
    rng: Rng,
    issued: u64,
}

impl Bench {
    fn new(volatile: bool) -> Self {
        Self {
            drive: SimDrive::new(Uuid([1; 16]), Blocks::new(SIZE), volatile),
            memory: VecMemory::new(8),
            rng: Rng::new(3),
            issued: 0,
        }
    }

    fn issue(&mut self, op: DriveOp, at: u64, buf: u32) -> (u32, Instant) {
        self.issued += 1;
        let segment = [Segment { buf: BufId::new(buf), blocks: 1 }];
        let (segments, blocks) = if op == DriveOp::Flush { (&segment[..0], 0) } else { (&segment[..], 1) };
        self.drive.issue(
            &mut self.rng,
            Instant::ZERO,
            IoToken(self.issued),
            op,
            DriveBlock::new(at),
            Blocks::new(blocks),
            segments,
            &mut self.memory,
        )
    }

    fn end(&mut self, id: u32) -> Result<(), Fault> {
        self.drive.complete(&mut self.rng, id, &mut self.memory).1
    }

    fn run(&mut self, op: DriveOp, at: u64, buf: u32) -> Result<(), Fault> {
        let (id, _) = self.issue(op, at, buf);
        self.end(id)
    }

    fn write(&mut self, at: u64, byte: u8) -> Result<(), Fault> {
        self.memory.block_mut(BufId::new(0)).fill(byte);
        self.run(DriveOp::Write, at, 0)
    }

    fn read(&mut self, at: u64) -> Result<u8, Fault> {
        self.run(DriveOp::Read, at, 1).map(|()| self.memory.block(BufId::new(1))[7])
    }
}

#[test]
fn an_unflushed_write_is_seen_and_then_lost() {
    let mut bench = Bench::new(true);
    bench.write(5, 9).expect("no fault");
    assert_eq!(bench.read(5), Ok(9));
    bench.drive.crash(&mut bench.rng, CrashMode::DropAll);
    assert_eq!(bench.read(5), Ok(0));
    assert_eq!(bench.drive.counts.of(FaultKind::CrashDropped), 1);
}

#[test]
fn a_flush_covers_what_completed_before_it_was_issued_and_no_more() {
    let mut bench = Bench::new(true);
    bench.write(5, 1).expect("no fault");
    let (flush, _) = bench.issue(DriveOp::Flush, 0, 0);
    bench.write(5, 2).expect("no fault");
    bench.write(6, 3).expect("no fault");
    bench.end(flush).expect("no fault");
    assert_eq!((bench.read(5), bench.read(6)), (Ok(2), Ok(3)));
    bench.drive.crash(&mut bench.rng, CrashMode::DropAll);
    assert_eq!((bench.read(5), bench.read(6)), (Ok(1), Ok(0)));
}

#[test]
fn without_a_cache_a_completed_write_stays() {
    let mut bench = Bench::new(false);
    bench.write(5, 1).expect("no fault");
    bench.drive.crash(&mut bench.rng, CrashMode::DropAll);
    assert_eq!(bench.read(5), Ok(1));
}

#[test]
fn without_a_cache_a_flush_ends_after_the_writes_before_it() {
    let mut bench = Bench::new(false);
    for _ in 0..50 {
        let (write, write_ends) = bench.issue(DriveOp::Write, 5, 0);
        let (flush, flush_ends) = bench.issue(DriveOp::Flush, 0, 0);
        assert!(flush_ends > write_ends);
        bench.end(write).expect("no fault");
        bench.end(flush).expect("no fault");
    }
}

#[test]
fn a_torn_block_has_whole_sectors_of_either_content() {
    let mut bench = Bench::new(true);
    let mut mixed = 0;
    for round in 0..20 {
        bench.write(5, 2 * round).expect("no fault");
        bench.run(DriveOp::Flush, 0, 0).expect("no fault");
        bench.write(5, 2 * round + 1).expect("no fault");
        bench.drive.crash(&mut bench.rng, CrashMode::TearAll);
        let block = bench.drive.peek(DriveBlock::new(5));
        let sectors: Vec<u8> = block.chunks(512).map(|sector| sector[0]).collect();
        assert!(block.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        assert!(sectors.iter().all(|byte| *byte / 2 == round));
        mixed += u32::from(sectors.iter().any(|byte| *byte != sectors[0]));
    }
    assert!(mixed > 10);
}

#[test]
fn each_armed_fault_acts_once_and_is_counted() {
    let mut bench = Bench::new(true);
    bench.write(5, 1).expect("no fault");
    bench.run(DriveOp::Flush, 0, 0).expect("no fault");
    bench.drive.arm(Armed::once(FaultKind::ReadError));
    assert_eq!(bench.read(5), Err(Fault::Medium));
    assert_eq!(bench.read(5), Ok(1));
    bench.drive.arm(Armed::once(FaultKind::LostWrite));
    bench.write(5, 2).expect("it lies");
    assert_eq!(bench.read(5), Ok(1));
    bench.drive.arm(Armed::once(FaultKind::StaleRead));
    bench.write(5, 3).expect("no fault");
    assert_eq!(bench.read(5), Ok(1));
    assert_eq!(bench.read(5), Ok(3));
    bench.drive.arm(Armed::once(FaultKind::LyingFlush));
    bench.run(DriveOp::Flush, 0, 0).expect("it lies");
    bench.drive.crash(&mut bench.rng, CrashMode::DropAll);
    assert_eq!(bench.read(5), Ok(1));
    bench.drive.rot(&mut bench.rng);
    let bits: u32 = bench.drive.peek(DriveBlock::new(5)).iter().map(|byte| (byte ^ 1).count_ones()).sum();
    assert_eq!(bits, 1);
    for kind in [FaultKind::ReadError, FaultKind::LostWrite, FaultKind::StaleRead, FaultKind::LyingFlush] {
        assert_eq!(bench.drive.counts.of(kind), 1, "{}", kind.name());
    }
}

#[test]
fn a_misdirected_write_spares_its_place() {
    let mut bench = Bench::new(true);
    bench.write(5, 1).expect("no fault");
    bench.drive.arm(Armed::once(FaultKind::Misdirected));
    bench.write(5, 2).expect("it lies");
    let holders = (0..SIZE).filter(|at| bench.drive.peek(DriveBlock::new(*at))[0] == 2).count();
    assert_eq!(holders, 1);
}

/// The drive that lied is in doubt at the blocks that it spoiled, until they are written again, and nowhere else.
#[test]
fn blocks_are_in_doubt_from_the_fault_to_the_repair() {
    let mut bench = Bench::new(true);
    let doubt = |bench: &Bench| -> Vec<u64> {
        (0..SIZE).filter(|at| bench.drive.in_doubt(DriveBlock::new(*at))).collect()
    };
    bench.write(5, 1).expect("no fault");
    bench.write(6, 1).expect("no fault");
    bench.run(DriveOp::Flush, 0, 0).expect("no fault");
    assert_eq!(doubt(&bench), [0; 0]);
    bench.drive.arm(Armed::once(FaultKind::LostWrite));
    bench.write(5, 2).expect("it lies");
    assert_eq!(doubt(&bench), [5]);
    bench.write(5, 2).expect("repaired");
    assert_eq!(doubt(&bench), [0; 0]);
    bench.drive.crash(&mut bench.rng, CrashMode::DropAll);
    assert_eq!(doubt(&bench), [5], "the repair was not flushed");
    assert_eq!(bench.drive.all_in_doubt(), Some(1));
    bench.write(5, 3).expect("something new");
    bench.drive.crash(&mut bench.rng, CrashMode::DropAll);
    assert_eq!(doubt(&bench), [0; 0], "what is there was overwritten before, and nobody expects it");
    bench.write(6, 4).expect("no fault");
    bench.drive.arm(Armed::once(FaultKind::LyingFlush));
    bench.run(DriveOp::Flush, 0, 0).expect("it lies");
    assert_eq!(doubt(&bench), [0; 0]);
    bench.drive.crash(&mut bench.rng, CrashMode::DropAll);
    assert_eq!(doubt(&bench), [6]);
}

/// A block rotted below content that was in the cache still. What had rotted was taken for what the block should hold,
/// so the repair of a later fault passed for something new, and a crash that undid it went unnoticed.
#[test]
fn what_lies_in_the_cache_is_what_a_block_should_hold() {
    let mut bench = Bench::new(true);
    bench.write(5, 1).expect("no fault");
    bench.run(DriveOp::Flush, 0, 0).expect("no fault");
    bench.write(5, 2).expect("no fault");
    bench.drive.rot(&mut bench.rng);
    bench.run(DriveOp::Flush, 0, 0).expect("no fault");
    assert!(!bench.drive.in_doubt(DriveBlock::new(5)));
    bench.drive.rot(&mut bench.rng);
    bench.write(5, 2).expect("repaired");
    bench.drive.crash(&mut bench.rng, CrashMode::DropAll);
    assert!(bench.drive.in_doubt(DriveBlock::new(5)));
}

/// A recovery writes again what may be there for good, and power fails meanwhile.
#[test]
fn a_block_that_is_written_with_what_it_holds_holds_it() {
    let mut bench = Bench::new(true);
    bench.write(5, 1).expect("no fault");
    bench.run(DriveOp::Flush, 0, 0).expect("no fault");
    for round in 0..200 {
        bench.write(5, 1).expect("no fault");
        bench.write(6, 1 + round % 2).expect("no fault");
        bench.drive.crash(&mut bench.rng, CrashMode::Mixed);
        assert_eq!(bench.drive.peek(DriveBlock::new(5)), [1; BLOCK_BYTES]);
    }
    assert!(bench.drive.counts.of(FaultKind::CrashGarbage) > 20 && !bench.drive.has_doubts());
}

#[test]
fn a_dead_drive_stays_dead_until_revived() {
    let mut bench = Bench::new(false);
    bench.write(5, 1).expect("no fault");
    let (pending, _) = bench.issue(DriveOp::Read, 5, 1);
    bench.drive.kill();
    assert_eq!(bench.end(pending), Err(Fault::Gone));
    assert_eq!(bench.write(5, 2), Err(Fault::Gone));
    bench.drive.crash(&mut bench.rng, CrashMode::KeepAll);
    assert_eq!(bench.read(5), Err(Fault::Gone));
    bench.drive.revive();
    assert!(bench.read(5).is_ok());
}

#[test]
fn a_failed_flush_loses_some_of_what_it_covered() {
    let mut bench = Bench::new(true);
    for at in 0..30 {
        bench.write(at, 1).expect("no fault");
    }
    bench.drive.arm(Armed::once(FaultKind::FlushError));
    assert_eq!(bench.run(DriveOp::Flush, 0, 0), Err(Fault::Medium));
    bench.run(DriveOp::Flush, 0, 0).expect("the second flush lies by being asked");
    bench.drive.crash(&mut bench.rng, CrashMode::KeepAll);
    let kept = (0..30).filter(|at| bench.drive.peek(DriveBlock::new(*at))[0] == 1).count();
    assert!(kept > 5 && kept < 30, "{kept} of 30 kept");
}

/// A flush that failed gave everything up: reads return it, a later flush succeeds, and a power loss takes it. What was
/// written again meanwhile stays.
#[test]
fn what_a_failed_flush_gave_up_is_durable_once_it_is_written_again() {
    let mut given_up = 0;
    for _ in 0..20 {
        let mut bench = Bench::new(true);
        bench.rng = Rng::new(given_up * 100 + 7);
        for at in 0..30 {
            bench.write(at, 1).expect("no fault");
        }
        bench.drive.arm(Armed::once(FaultKind::FlushError));
        assert_eq!(bench.run(DriveOp::Flush, 0, 0), Err(Fault::Medium));
        given_up += bench.drive.counts.of(FaultKind::GivenUp);
        let shown: Vec<u64> = (0..30).filter(|at| bench.read(*at) == Ok(1)).collect();
        bench.write(shown[0], 1).expect("no fault");
        bench.run(DriveOp::Flush, 0, 0).expect("it succeeds");
        bench.drive.crash(&mut bench.rng, CrashMode::DropAll);
        let stays = |at: &&u64| bench.drive.peek(DriveBlock::new(**at))[0] == 1;
        let kept = shown.iter().filter(stays).count();
        assert!(stays(&&shown[0]) && kept < shown.len(), "{kept} of {} kept", shown.len());
    }
    assert!(given_up > 10, "{given_up} of 20");
}

#[test]
#[should_panic(expected = "in flight was changed")]
fn changing_the_memory_of_a_write_in_flight_is_caught() {
    let mut bench = Bench::new(true);
    let (id, _) = bench.issue(DriveOp::Write, 5, 0);
    bench.memory.block_mut(BufId::new(0))[100] ^= 1;
    let _ = bench.end(id);
}

#[test]
fn reads_are_counted_by_area() {
    let mut bench = Bench::new(true);
    bench.drive.count_reads();
    for at in [1, 1, 2, 9] {
        bench.read(at).expect("no fault");
    }
    assert_eq!(bench.drive.reads_within(DriveBlock::new(0), Blocks::new(3)), 3);
    assert_eq!(bench.drive.reads().count(), 3);
}
