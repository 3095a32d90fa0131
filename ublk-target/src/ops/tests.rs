//! Short transfers, the order of flushes, faults and ages, without a kernel.
use super::*;
use base::BufId;

const READ: DriveOp = DriveOp::Read;
const WRITE: DriveOp = DriveOp::Write;
const FLUSH: DriveOp = DriveOp::Flush;

fn seg(buf: u32, blocks: u32) -> Segment {
    Segment { buf: BufId::new(buf), blocks }
}

fn start(ops: &mut DriveOps, token: u64, op: DriveOp, memory: &[Segment]) -> Next {
    ops.start(Instant::ZERO, IoToken(token), DriveIx::ZERO, op, DriveBlock::new(10), memory)
}

/// For drives of which the entries say whether they have a volatile cache.
fn table<const N: usize>(volatile: [bool; N]) -> DriveOps {
    let mut ops = DriveOps::new();
    volatile.into_iter().for_each(|volatile_cache| ops.add_drive(volatile_cache));
    ops
}

fn index(next: Next) -> OpIx {
    match next {
        Next::Submit(op) => op,
        Next::Nothing => panic!("nothing to submit"),
    }
}

fn finished(ops: &mut DriveOps) -> Vec<(u64, Result<(), Fault>)> {
    std::iter::from_fn(|| ops.next_finished()).map(|f| (f.token.0, f.result)).collect()
}

#[test]
fn a_short_transfer_is_continued_where_it_stopped() {
    let mut ops = table([true]);
    let op = index(start(&mut ops, 1, READ, &[seg(0, 1), seg(4, 2)]));
    assert_eq!(ops.answered(op, 512), Next::Submit(op));
    let rest = ops.remainder(op);
    assert_eq!((rest.at_bytes, rest.segments.len(), rest.skip), (10 * 4096 + 512, 2, 512));
    assert_eq!(ops.answered(op, 3584 + 4096), Next::Submit(op));
    let rest = ops.remainder(op);
    assert_eq!((rest.segments, rest.skip), (&[seg(4, 2)][..], 4096));
    assert_eq!(ops.answered(op, 4096), Next::Nothing);
    assert_eq!(finished(&mut ops), [(1, Ok(()))]);
}

#[test]
fn a_drive_that_ends_early_is_a_fault() {
    let mut ops = table([true]);
    let op = index(start(&mut ops, 1, READ, &[seg(0, 2)]));
    assert_eq!(ops.answered(op, 4096), Next::Submit(op));
    assert_eq!(ops.answered(op, 0), Next::Nothing);
    assert_eq!(finished(&mut ops), [(1, Err(Fault::Medium))]);
}

#[test]
fn adjacent_memory_is_one_piece() {
    let mut ops = table([true]);
    let op = index(start(&mut ops, 1, WRITE, &[seg(0, 1), seg(1, 3), seg(8, 1)]));
    assert_eq!(ops.remainder(op).segments, [seg(0, 4), seg(8, 1)]);
}

/// A drive that is added while others are at work has an order of its own.
#[test]
fn a_drive_that_is_added_flushes_for_itself() {
    let mut ops = table([false]);
    let busy = index(start(&mut ops, 1, WRITE, &[seg(0, 1)]));
    ops.add_drive(false);
    ops.add_drive(true);
    let on = |ops: &mut DriveOps, drive, token, op, memory: &[Segment]| {
        ops.start(Instant::ZERO, IoToken(token), DriveIx::new(drive), op, DriveBlock::new(10), memory)
    };
    assert_eq!(on(&mut ops, 1, 2, FLUSH, &[]), Next::Nothing);
    assert_eq!(finished(&mut ops), [(2, Ok(()))], "nothing was written there");
    let sent = index(on(&mut ops, 2, 3, FLUSH, &[]));
    assert_eq!(ops.remainder(sent).drive, DriveIx::new(2));
    assert_eq!(ops.answered(sent, 0), Next::Nothing);
    assert_eq!(ops.answered(busy, 4096), Next::Nothing);
    assert_eq!(finished(&mut ops), [(3, Ok(())), (1, Ok(()))]);
}

#[test]
fn without_a_volatile_cache_a_flush_waits_for_the_writes_before_it() {
    let mut ops = table([false]);
    assert_eq!(start(&mut ops, 1, FLUSH, &[]), Next::Nothing);
    assert_eq!(finished(&mut ops), [(1, Ok(()))], "nothing was written before it");
    let one = index(start(&mut ops, 2, WRITE, &[seg(0, 1)]));
    let two = index(start(&mut ops, 3, WRITE, &[seg(1, 1)]));
    assert_eq!(start(&mut ops, 4, FLUSH, &[]), Next::Nothing);
    let three = index(start(&mut ops, 5, WRITE, &[seg(2, 1)]));
    assert_eq!(start(&mut ops, 6, FLUSH, &[]), Next::Nothing);
    ops.answered(three, 4096);
    ops.answered(one, 4096);
    assert_eq!(finished(&mut ops), [(5, Ok(())), (2, Ok(()))]);
    ops.answered(two, -libc::EIO);
    assert_eq!(finished(&mut ops), [(3, Err(Fault::Medium)), (4, Ok(())), (6, Ok(()))]);
    assert_eq!(ops.in_flight(), 0);
}

#[test]
fn with_a_volatile_cache_a_flush_goes_to_the_drive() {
    let mut ops = table([true]);
    let flush = index(start(&mut ops, 1, FLUSH, &[]));
    ops.answered(flush, -libc::EIO);
    assert_eq!(finished(&mut ops), [(1, Err(Fault::Medium))]);
}

#[test]
fn interruptions_are_retried_and_errors_named() {
    let mut ops = table([true]);
    let op = index(start(&mut ops, 1, READ, &[seg(0, 1)]));
    for _ in 0..MAX_RETRIES {
        assert_eq!(ops.answered(op, -libc::EAGAIN), Next::Submit(op));
    }
    assert_eq!(ops.answered(op, -libc::EAGAIN), Next::Nothing);
    let op = index(start(&mut ops, 2, READ, &[seg(0, 1)]));
    ops.answered(op, -libc::ENODEV);
    assert_eq!(finished(&mut ops), [(1, Err(Fault::Medium)), (2, Err(Fault::Gone))]);
}

#[test]
fn an_old_operation_is_reported_once_and_answered_once() {
    let mut ops = table([true]);
    let op = index(start(&mut ops, 1, WRITE, &[seg(0, 1)]));
    let (slow, deadline) = (Duration::from_millis(10), Duration::from_millis(100));
    let mut seen = Vec::new();
    for millis in [5, 11, 12, 101, 102] {
        let now = Instant::ZERO + Duration::from_millis(millis);
        ops.watch(now, slow, deadline, |s| seen.push((millis, s.expired)));
    }
    assert_eq!(seen, [(11, false), (101, true)]);
    assert!(ops.next_finished().is_none(), "the kernel still has the memory");
    ops.answered(op, -libc::ECANCELED);
    assert_eq!(finished(&mut ops), [(1, Err(Fault::Timeout))]);
}

#[test]
fn an_old_operation_that_still_succeeds_succeeded() {
    let mut ops = table([true]);
    let op = index(start(&mut ops, 1, WRITE, &[seg(0, 1)]));
    let second = Duration::from_millis(1000);
    ops.watch(Instant::ZERO + second, second, second, |_| ());
    ops.answered(op, 4096);
    assert_eq!(finished(&mut ops), [(1, Ok(()))]);
}

/// A number that was released is nobody's until another drive gets it; its former drive has nothing in flight.
#[test]
fn a_released_number_goes_to_the_next_drive() {
    let mut ops = table([true]);
    let op = index(start(&mut ops, 1, WRITE, &[seg(0, 1)]));
    assert!(ops.is_busy(DriveIx::ZERO));
    assert_eq!(ops.answered(op, 4096), Next::Nothing);
    assert!(ops.is_busy(DriveIx::ZERO), "its end was not handed over yet");
    finished(&mut ops);
    assert!(!ops.is_busy(DriveIx::ZERO));
    ops.release_drive(DriveIx::ZERO);
    ops.reuse_drive(DriveIx::ZERO, false);
    // The new drive has no volatile cache: its flush is done at once.
    assert_eq!(start(&mut ops, 2, FLUSH, &[]), Next::Nothing);
    assert_eq!(finished(&mut ops), [(2, Ok(()))]);
}

#[test]
#[should_panic(expected = "a drive that is not there")]
fn a_released_number_takes_no_operations() {
    let mut ops = table([true]);
    ops.release_drive(DriveIx::ZERO);
    start(&mut ops, 1, READ, &[seg(0, 1)]);
}

fn write(ops: &mut DriveOps, token: u64) {
    let op = index(start(ops, token, WRITE, &[seg(0, 1)]));
    assert_eq!(ops.answered(op, 4096), Next::Nothing);
    assert_eq!(finished(ops), [(token, Ok(()))]);
}

fn flush(ops: &mut DriveOps, token: u64) -> Result<(), Fault> {
    let op = index(start(ops, token, FLUSH, &[]));
    assert_eq!(ops.answered(op, 0), Next::Nothing);
    finished(ops)[0].1
}

/// The drive lost what was in its cache, no request failed, and the flush succeeds.
#[test]
fn a_flush_behind_a_reset_has_failed() {
    let mut ops = table([true]);
    assert_eq!(flush(&mut ops, 1), Ok(()));
    write(&mut ops, 2);
    assert!(ops.was_reset(DriveIx::ZERO));
    assert_eq!(flush(&mut ops, 3), Err(Fault::Gone));
    write(&mut ops, 4);
    assert_eq!(
        flush(&mut ops, 5),
        Err(Fault::Gone),
        "what was lost is not there because it was asked for again"
    );
    ops.release_drive(DriveIx::ZERO);
    ops.reuse_drive(DriveIx::ZERO, true);
    assert_eq!(flush(&mut ops, 6), Ok(()), "its next life");
}

#[test]
fn a_reset_with_nothing_in_the_cache_is_harmless() {
    let mut ops = table([true, false]);
    write(&mut ops, 1);
    assert_eq!(flush(&mut ops, 2), Ok(()));
    assert!(!ops.was_reset(DriveIx::ZERO));
    assert!(!ops.was_reset(DriveIx::new(1)), "without a volatile cache nothing is lost");
    write(&mut ops, 3);
    assert_eq!(flush(&mut ops, 4), Ok(()));
}

/// What an earlier process wrote may be in the cache still when this one reads it.
#[test]
fn a_reset_before_the_first_flush_counts() {
    let mut ops = table([true]);
    assert!(ops.was_reset(DriveIx::ZERO));
    assert_eq!(flush(&mut ops, 1), Err(Fault::Gone));
}

/// A flush covers what had ended when it began, and nothing else.
#[test]
fn a_write_that_a_flush_does_not_cover_can_be_lost() {
    let mut ops = table([true]);
    write(&mut ops, 1);
    let late = index(start(&mut ops, 2, WRITE, &[seg(0, 1)]));
    let covering = index(start(&mut ops, 3, FLUSH, &[]));
    write(&mut ops, 4);
    ops.answered(covering, 0);
    ops.answered(late, 4096);
    assert_eq!(finished(&mut ops), [(3, Ok(())), (2, Ok(()))]);
    assert!(ops.was_reset(DriveIx::ZERO));
    assert_eq!(flush(&mut ops, 5), Err(Fault::Gone));
}

/// A drive hangs: the kernel holds a read, two writes and a flush of it. The engine gives it up, and everything goes on
/// but the read, whose memory the kernel may still fill.
#[test]
fn what_is_given_up_is_answered_once_and_keeps_its_drive_busy() {
    let mut ops = table([true]);
    let read = index(start(&mut ops, 1, READ, &[seg(0, 1)]));
    let write = index(start(&mut ops, 2, WRITE, &[seg(1, 1)]));
    let late = index(start(&mut ops, 3, WRITE, &[seg(2, 1)]));
    let flush = index(start(&mut ops, 4, FLUSH, &[]));
    assert_eq!(ops.give_up(DriveIx::ZERO), [read, write, late, flush]);
    let lost = Err(Fault::Timeout);
    assert_eq!(finished(&mut ops), [(2, lost), (3, lost), (4, lost)]);
    assert_eq!(ops.give_up(DriveIx::ZERO), [read], "nothing is answered twice");
    ops.watch(Instant::from_nanos(u64::MAX / 2), Duration::from_nanos(0), Duration::from_nanos(0), |slow| {
        assert_eq!(slow.op, read)
    });
    for (op, result) in [(write, 4096), (read, -libc::ECANCELED), (late, 512), (flush, -libc::EAGAIN)] {
        assert!(ops.is_busy(DriveIx::ZERO));
        assert_eq!(ops.answered(op, result), Next::Nothing);
    }
    assert_eq!(finished(&mut ops), [(1, lost)]);
    assert!(!ops.is_busy(DriveIx::ZERO) && ops.in_flight() == 0);
}

#[test]
fn a_read_whose_memory_was_exchanged_is_answered_and_keeps_its_drive_busy() {
    let mut ops = table([true]);
    let read = index(start(&mut ops, 1, READ, &[seg(0, 1)]));
    assert_eq!(ops.give_up(DriveIx::ZERO), [read]);
    assert!(ops.is_held_read(read) && finished(&mut ops).is_empty());
    ops.let_go(read);
    assert_eq!(finished(&mut ops), [(1, Err(Fault::Timeout))]);
    assert!(ops.is_busy(DriveIx::ZERO) && !ops.is_held_read(read));
    assert_eq!(ops.give_up(DriveIx::ZERO), []);
    assert_eq!(ops.answered(read, 4096), Next::Nothing);
    assert!(finished(&mut ops).is_empty() && !ops.is_busy(DriveIx::ZERO));
}

/// Without a volatile cache a flush waits for writes that hang. It has not succeeded because they were given up.
#[test]
fn a_flush_behind_what_is_given_up_has_failed() {
    let mut ops = table([false, false]);
    let write = index(start(&mut ops, 1, WRITE, &[seg(0, 1)]));
    assert_eq!(start(&mut ops, 2, FLUSH, &[]), Next::Nothing);
    assert_eq!(ops.give_up(DriveIx::ZERO), [write]);
    assert_eq!(finished(&mut ops), [(1, Err(Fault::Timeout)), (2, Err(Fault::Timeout))]);
    assert_eq!(ops.answered(write, 4096), Next::Nothing);
    ops.release_drive(DriveIx::ZERO);
    ops.reuse_drive(DriveIx::ZERO, false);
    assert_eq!(start(&mut ops, 3, FLUSH, &[]), Next::Nothing);
    assert_eq!(finished(&mut ops), [(3, Ok(()))]);
}
