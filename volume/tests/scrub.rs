//! Scrubs: whatever was wrong on one leg is found, named and right again, while the group goes on.
use crate::world;
use crate::world::story::some_writes;
use crate::world::{Shape, Verdict, World};
use base::{BLOCK_BYTES, Block, DriveOp, Engine, Fault, Op, Phase};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use volume::layout::{FIRST_EXTENT_BLOCK, extent};
use volume::names::Found;
use volume::{CopyHealth, Finding, Names, Outcome, ScrubStats, StoredEnvelope, What};

fn scrub_stats(world: &World) -> ScrubStats {
    world.engine.stats().expect("served").scrub
}

/// Scrubs everything; what was found.
fn scrub(world: &mut World) -> Vec<Finding> {
    let mut findings = Vec::new();
    assert!(world.engine.start_scrub(0), "the group is served");
    while !scrub_stats(world).finished {
        world.step();
        world.engine.take_findings(&mut findings);
    }
    world.engine.take_findings(&mut findings);
    findings
}

/// Every block that a drive has in use at some time, with its content.
fn content(world: &World, drive: usize) -> Vec<(u64, Block)> {
    let mut block = [0; BLOCK_BYTES];
    let last = 1 + u64::from(world.shape.extent) * u64::from(world.shape.rows + 1);
    let blocks = (1..=last).map(|at| {
        world.drives[drive].read(at, &mut block);
        (at, block)
    });
    blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0)).collect()
}

/// Spoils a block behind the drive's back: flushed, so that it stays.
fn spoil(world: &mut World, drive: usize, at: u64) {
    let mut block = [0; BLOCK_BYTES];
    world.drives[drive].read(at, &mut block);
    let bit = world.random();
    block[(bit / 8 % BLOCK_BYTES as u64) as usize] ^= 1 << (bit % 8);
    world.drives[drive].write(at, &block, false);
}

fn shapes() -> [Shape; 3] {
    [Shape::MIRROR, Shape { legs: 3, ..Shape::MIRROR }, Shape { columns: 2, ..Shape::MIRROR }]
}

#[test]
fn a_whole_group_has_nothing_to_find() {
    for shape in shapes() {
        let mut world = World::new(shape);
        some_writes(&mut world, 300);
        assert_eq!(scrub(&mut world), []);
        let stats = scrub_stats(&world);
        assert!(stats.checked_copies > 500 && stats.lost_copies == 0, "{stats:?}");
    }
}

/// One leg rots all over: what is in use is found, once each, and nothing is left for a second scrub, nor for a
/// group that has only that leg.
#[test]
fn everything_that_is_wrong_on_one_leg_is_found_named_and_right_again() {
    for (i, shape) in shapes().into_iter().enumerate() {
        let mut world = World::new(shape);
        world.random = 77 + i as u64;
        some_writes(&mut world, 300);
        // With nothing new since this one, the next one makes no checkpoint first, which would renew what rots now.
        assert_eq!(scrub(&mut world), []);
        // The first leg's drives: 0..columns.
        let mut spoiled = 0;
        for drive in 0..usize::from(shape.columns) {
            for (at, _) in content(&world, drive) {
                spoil(&mut world, drive, at);
                spoiled += 1;
            }
        }
        let findings = scrub(&mut world);
        let places: BTreeSet<_> = findings.iter().map(|f| (f.drive, f.at)).collect();
        assert_eq!(places.len(), findings.len(), "a copy is found once");
        assert!(findings.iter().all(|f| f.outcome == Outcome::Repaired && f.drive.get() < shape.columns));
        assert!(findings.len() * 3 > spoiled, "{} of {spoiled}", findings.len());
        let kinds: BTreeSet<_> = findings
            .iter()
            .map(|f| format!("{:?}", f.what).split(['(', ' ']).next().unwrap_or_default().to_owned())
            .collect();
        for kind in ["Data", "Page", "Bitmap", "BitmapPage", "Directory", "RowPage", "Header", "Superblock"] {
            assert!(kinds.contains(kind), "{kind} in {kinds:?}");
        }
        assert_eq!(scrub(&mut world), [], "nothing is left");
        let drives = u32::from(shape.legs) * u32::from(shape.columns);
        world.close();
        world.kill();
        world.absent = ((1 << drives) - 1) & !((1u32 << shape.columns) - 1);
        world.reopen();
        world.check_all();
    }
}

/// The headers of the home row hold names, which the engine does not know: a scrub that took them for damage would
/// leave a pool that cannot be imported. One that is wrong gets them back from another leg.
#[test]
fn names_in_headers_are_no_damage_and_are_repaired_too() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 100);
    let mut block = [0; BLOCK_BYTES];
    let names = Names {
        written: 3,
        group: "g".into(),
        volume: "v".into(),
        volume_id: world::uuid(9),
        size_bytes: 1 << 20,
    };
    let envelope = StoredEnvelope::new(2, &[7; 100]);
    for drive in 0..2 {
        world.drives[drive].read(FIRST_EXTENT_BLOCK, &mut block);
        names.put(&mut block, None);
        envelope.put(&mut block);
        world.drives[drive].write(FIRST_EXTENT_BLOCK, &block, false);
    }
    assert_eq!(scrub(&mut world), []);
    for drive in 0..2 {
        spoil(&mut world, drive, FIRST_EXTENT_BLOCK);
        let findings = scrub(&mut world);
        assert!(matches!(findings[..], [Finding { what: What::Header { .. }, .. }]), "{findings:?}");
        world.drives[drive].read(FIRST_EXTENT_BLOCK, &mut block);
        assert_eq!(Names::read(&block), Ok(Found::Plain(names.clone())));
        assert_eq!(StoredEnvelope::read(&block), Ok(Some(envelope.clone())));
        assert_eq!(scrub(&mut world), []);
    }
}

/// A rename reached one drive and an exchange of keys another one, then both were cut short.
#[test]
fn a_header_gets_the_newest_names_and_the_newest_envelope() {
    let mut world = World::new(Shape { legs: 3, ..Shape::MIRROR });
    some_writes(&mut world, 50);
    let mut block = [0; BLOCK_BYTES];
    let names = |written, volume: &str| Names {
        written,
        group: "g".into(),
        volume: volume.into(),
        volume_id: world::uuid(9),
        size_bytes: 1 << 20,
    };
    for (drive, name, envelope) in [(0, names(2, "new"), 1), (1, names(1, "old"), 2), (2, names(1, "old"), 1)]
    {
        world.drives[drive].read(FIRST_EXTENT_BLOCK, &mut block);
        name.put(&mut block, None);
        StoredEnvelope::new(envelope, &[envelope as u8; 100]).put(&mut block);
        world.drives[drive].write(FIRST_EXTENT_BLOCK, &block, false);
    }
    spoil(&mut world, 2, FIRST_EXTENT_BLOCK);
    assert_eq!(scrub(&mut world).len(), 1);
    world.drives[2].read(FIRST_EXTENT_BLOCK, &mut block);
    assert_eq!(Names::read(&block), Ok(Found::Plain(names(2, "new"))));
    assert_eq!(StoredEnvelope::read(&block), Ok(Some(StoredEnvelope::new(2, &[2; 100]))));
}

/// One bad superblock slot on each leg: the version that repairs the first overwrites all, and each is named nevertheless.
#[test]
fn bad_slots_of_several_legs_are_all_named() {
    for legs in [2, 3] {
        let mut world = World::new(Shape { legs, ..Shape::MIRROR });
        some_writes(&mut world, 50);
        assert_eq!(scrub(&mut world), []);
        for leg in 0..usize::from(legs) {
            let slot = extent::SUPERBLOCKS[leg % 2];
            spoil(&mut world, leg, FIRST_EXTENT_BLOCK + u64::from(slot));
        }
        let findings = scrub(&mut world);
        assert!(findings.iter().all(|f| f.what == What::Superblock && f.outcome == Outcome::Repaired));
        let drives: BTreeSet<_> = findings.iter().map(|f| f.drive).collect();
        assert_eq!((drives.len(), findings.len()), (legs.into(), legs.into()), "{findings:?}");
        assert_eq!(scrub(&mut world), []);
    }
}

/// Damage in the log is named, of every commit on the leg that has it; a checkpoint makes it superfluous, and each leg alone has
/// everything.
#[test]
fn a_damaged_log_is_found_on_the_legs_that_have_it() {
    const WRITES: u64 = 24;
    for legs in [2, 3] {
        let mut world = World::new(Shape { legs, ..Shape::MIRROR });
        some_writes(&mut world, 100);
        assert_eq!(scrub(&mut world), []);
        // The scrub's own checkpoint comes first, so the log rots once that is behind it.
        world.engine.set_scrub_rate(200);
        assert!(world.engine.start_scrub(0));
        while scrub_stats(&world).walked_blocks == 0 {
            world.step();
        }
        // One commit each, of one block.
        for n in 0..WRITES {
            world.write(n * 64, 8).expect("written");
        }
        assert!(!scrub_stats(&world).finished, "it is still under way");
        // Of each block of the ring one copy, on the legs in turns.
        let first = FIRST_EXTENT_BLOCK + u64::from(extent::RING_FIRST);
        for at in first..first + u64::from(world.shape.ring) {
            spoil(&mut world, (at % u64::from(legs)) as usize, at);
        }
        let mut findings = Vec::new();
        while !scrub_stats(&world).finished {
            world.step();
            world.engine.take_findings(&mut findings);
        }
        world.engine.take_findings(&mut findings);
        let commits: Vec<_> = findings.iter().filter(|f| matches!(f.what, What::Commit(_))).collect();
        assert!(commits.len() as u64 >= WRITES, "{} of {WRITES}", commits.len());
        let places: BTreeSet<_> = commits.iter().map(|f| f.at).collect();
        assert_eq!(places.len(), commits.len(), "each is named once");
        let right = |f: &&&Finding| {
            f.outcome == Outcome::Repaired && f.at.get() % u64::from(legs) == f.drive.get().into()
        };
        assert_eq!(commits.iter().filter(right).count(), commits.len(), "{commits:?}");
        world.cut_power();
        for leg in 0..legs {
            let (drives, catalogue) = (world.drives.clone(), world.catalogue.clone());
            world.absent = !(1 << leg);
            world.reopen();
            world.check_all();
            world.kill();
            (world.drives, world.catalogue, world.absent) = (drives, catalogue, 0);
        }
    }
}

/// What no leg has is named by its block of the volume, on each leg, and read as an error; everything else is right.
#[test]
fn double_damage_is_named() {
    let mut world = World::new(Shape::MIRROR);
    world.write(0, 512).expect("written");
    world.flush().expect("flushed");
    world.close();
    world.reopen();
    let mut wanted = [0; BLOCK_BYTES];
    let lost = 17u64;
    // Which block of the drives is it? The one whose content is that of the volume's.
    let stamped = content(&world, 0);
    let id = world.begin(Op::Read, lost * 8, 8, false);
    let buf = world.engine.slot_buffer(id);
    world.wait(id).expect("read");
    wanted.copy_from_slice(world.block(buf));
    let places: Vec<u64> = stamped.iter().filter(|(_, block)| *block == wanted).map(|(at, _)| *at).collect();
    for at in &places {
        spoil(&mut world, 0, *at);
        spoil(&mut world, 1, *at);
    }
    let findings = scrub(&mut world);
    let of_block: Vec<_> = findings.iter().filter(|f| f.what == What::Data(base::Lba::new(lost))).collect();
    assert_eq!(of_block.len(), 2, "{findings:?}");
    assert!(of_block.iter().all(|f| f.outcome == Outcome::Lost));
    assert_eq!(world.ask(Op::Read, lost * 8, 8), Err(Fault::Io));
    assert_eq!(scrub_stats(&world).lost_copies as usize, findings.len());
}

/// Writes, checkpoints, power cuts, drives that fail and come back, rot on one leg: a scrub under way takes none of it amiss.
#[test]
fn any_story_around_a_scrub_ends_well() {
    for seed in 0..60u64 {
        let shape = shapes()[(seed % 3) as usize];
        let mut world = World::new(shape);
        world.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        world.shuffle = seed % 2 == 0;
        some_writes(&mut world, 60);
        for _ in 0..10 {
            match world.random() % 6 {
                0 => drop(world.engine.start_scrub(world.random % world.shape.sectors / 8)),
                1 => {
                    let uuid = world::uuid(1);
                    let _ = world.engine.take_out(uuid);
                    some_writes(&mut world, 10);
                }
                2 => {
                    world.settle();
                    world.back(1);
                }
                3 => {
                    world.cut_power();
                    world.reopen();
                }
                4 => world.engine.stop_scrub(),
                _ => {
                    // Only while the other legs have everything.
                    let health = world.engine.stats().expect("served").drives[1].health;
                    if health == CopyHealth::Current {
                        let blocks = content(&world, 1);
                        let at = blocks[(world.random() % blocks.len() as u64) as usize].0;
                        spoil(&mut world, 1, at);
                    }
                }
            }
            some_writes(&mut world, 20);
            world.engine.take_findings(&mut Vec::new());
            world.check_all();
        }
        while world.engine.stats().expect("served").drives[1].health != CopyHealth::Current {
            world.settle();
            if world.engine.stats().expect("served").resync.is_none() {
                world.back(1);
            }
            world.settle();
        }
        world.engine.stop_scrub();
        world.settle();
        assert!(scrub(&mut world).iter().all(|f| f.outcome == Outcome::Repaired), "seed {seed}");
        assert_eq!(scrub(&mut world), [], "seed {seed}");
        assert_eq!(world.engine.phase(), Phase::Serving);
        world.check_all();
    }
}

/// A drive that fails its repairs goes out, and is said to.
#[test]
fn a_drive_that_takes_no_repair_goes_out() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 100);
    world.flush().expect("flushed");
    for (at, _) in content(&world, 1) {
        spoil(&mut world, 1, at);
    }
    world.engine.start_scrub(0);
    while scrub_stats(&world).walked_blocks == 0 && !scrub_stats(&world).finished {
        world.step();
    }
    world.verdict =
        Box::new(
            |io| {
                if io.drive == 1 && io.op == base::DriveOp::Write { Verdict::Fail } else { Verdict::Do }
            },
        );
    let mut findings = Vec::new();
    while !scrub_stats(&world).finished {
        world.step();
        world.engine.take_findings(&mut findings);
    }
    assert!(matches!(world.engine.stats().expect("served").drives[1].health, CopyHealth::Stale(_)));
    world.check_all();
}

/// A group closes while a scrub waits for a drive that takes its time: it waits as well, and does not ask again and again
/// whether it has come to its end.
#[test]
fn a_group_that_closes_waits_quietly_for_a_scrub() {
    let mut world = World::new(Shape::MIRROR);
    (0..40).for_each(|i| world.write(i * 64, 8).expect("written"));
    world.flush().expect("flushed");
    let slow = Rc::new(Cell::new(true));
    let seen = slow.clone();
    world.verdict = Box::new(move |io| {
        let waits = io.drive == 1 && io.op == DriveOp::Read && seen.get();
        if waits { Verdict::Later } else { Verdict::Do }
    });
    assert!(world.engine.start_scrub(0));
    world.settle();
    world.engine.close();
    assert!(world.is_quiet(), "a scrub that ends keeps the thread busy");
    slow.set(false);
    world.run_until("the group is closed", |w| w.engine.phase() == Phase::Closed);
}

/// Nobody takes what a scrub finds, because whoever had asked for it is gone: a scrub that is full waits for that, and the
/// thread that serves the group was kept busy with asking it again and again.
#[test]
fn a_scrub_that_is_full_waits_quietly() {
    let mut world = World::new(Shape::MIRROR);
    for sector in (0..Shape::MIRROR.sectors).step_by(512) {
        world.write(sector, 512).expect("written");
    }
    assert_eq!(scrub(&mut world), []);
    for (at, _) in content(&world, 0) {
        spoil(&mut world, 0, at);
    }
    assert!(world.engine.start_scrub(0));
    assert!(world.is_quiet(), "a scrub that is full keeps the thread busy");
    let stats = scrub_stats(&world);
    assert!(stats.running && stats.repaired_copies > 1000, "it is not full: {stats:?}");
    world.now += 60_000_000_000;
    assert!(world.is_quiet(), "nor does it, however long nobody comes");
    let mut findings = Vec::new();
    while !scrub_stats(&world).finished {
        world.engine.take_findings(&mut findings);
        world.settle();
    }
    world.engine.take_findings(&mut findings);
    assert_eq!(findings.len() as u64, scrub_stats(&world).repaired_copies, "each is handed over once");
    assert_eq!(scrub(&mut world), []);
}

/// All that a leg has is wrong, and its drive is put out while the other leg is read: what would be written again goes to
/// nobody, which ends at once, and the scrub goes on by itself. Here nobody polls who was not asked to.
#[test]
fn repairs_that_go_to_nobody_hold_nothing_up() {
    let mut world = World::new(Shape::MIRROR);
    some_writes(&mut world, 300);
    assert_eq!(scrub(&mut world), []);
    for (at, _) in content(&world, 0) {
        spoil(&mut world, 0, at);
    }
    let slow = Rc::new(Cell::new(true));
    let seen = slow.clone();
    world.verdict = Box::new(move |io| {
        let waits = io.drive == 1 && io.op == DriveOp::Read && seen.get();
        if waits { Verdict::Later } else { Verdict::Do }
    });
    assert!(world.engine.start_scrub(0));
    world.settle();
    world.engine.take_out(world::uuid(0)).expect("the other leg has everything");
    world.settle();
    assert!(matches!(world.engine.stats().expect("served").drives[0].health, CopyHealth::Stale(_)));
    slow.set(false);
    world.settle();
    assert!(scrub_stats(&world).finished, "{}", world.engine.unfinished());
    let mut findings = Vec::new();
    world.engine.take_findings(&mut findings);
    assert!(findings.len() > 8 && findings.iter().all(|f| f.outcome == Outcome::DriveOut), "{findings:?}");
    world.check_all();
}
