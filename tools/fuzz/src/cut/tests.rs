//! A small log by hand: what a cut may leave of it, and what a second failure leaves of what was written since.
use super::*;
use crate::image::Drive;
use crate::random::Random;
use base::{BLOCK_BYTES, DriveBlock};
use plinth_check::Media;
use std::path::PathBuf;
use vm_tests::writelog::Manner;

const FLUSH: u64 = 1;

/// A drive of eight blocks of 9s, and its log: block 1 becomes 1s and is flushed, then block 2 becomes 2s.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("plinth-cut-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("drive"), vec![9; 8 * BLOCK_BYTES]).unwrap();
        let mut log = vec![0u8; 512];
        log[..8].copy_from_slice(&0x006a_7366_7773_6872u64.to_le_bytes());
        log[8] = 1;
        log[24..28].copy_from_slice(&512u32.to_le_bytes());
        for (sector, count, flags, fill) in [(8, 8, 0, 1), (0, 0, FLUSH, 0), (16, 8, 0, 2)] {
            let mut head = [0u8; 512];
            for (at, value) in [sector, count, flags].into_iter().enumerate() {
                head[at * 8..at * 8 + 8].copy_from_slice(&u64::to_le_bytes(value));
            }
            log.extend_from_slice(&head);
            log.resize(log.len() + count as usize * 512, fill);
        }
        std::fs::write(folder.join("log"), log).unwrap();
        Self(folder)
    }

    fn ground(&self, manner: Manner) -> Ground {
        Ground::load(&self.0.join("drive"), &self.0.join("log"), manner).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sectors of a block with this content.
fn sectors(drive: &Layered<'_>, block: u64, content: u8) -> usize {
    let block = drive.read(DriveBlock::new(block)).unwrap();
    block.chunks_exact(512).filter(|sector| sector.iter().all(|byte| *byte == content)).count()
}

#[test]
fn what_was_flushed_is_there_and_the_rest_is_kept_dropped_or_torn() {
    let place = Place::new("cut");
    let ground = place.ground(Manner::HONEST);
    assert_eq!(ground.at_risk(), 1);
    let mut seen = [0u64; 3];
    for seed in 0..64 {
        let (drive, fates) = ground.after_cut(Manner::HONEST, seed).unwrap();
        assert_eq!((sectors(&drive, 0, 9), sectors(&drive, 1, 1)), (8, 8));
        let (new, old) = (sectors(&drive, 2, 2), sectors(&drive, 2, 9));
        assert_eq!(new + old, 8, "sectors are whole");
        assert_eq!(fates, [u64::from(new == 8), u64::from(new == 0), u64::from(new > 0 && new < 8)]);
        seen = [seen[0] + fates[0], seen[1] + fates[1], seen[2] + fates[2]];
    }
    assert!(seen.iter().all(|count| *count > 5), "{seen:?}");
}

#[test]
fn a_drive_that_lies_loses_what_was_flushed() {
    let place = Place::new("lies");
    let manner = Manner { lies: true, ..Manner::HONEST };
    let ground = place.ground(manner);
    let lost = |seed| sectors(&ground.after_cut(manner, seed).unwrap().0, 1, 9) == 8;
    assert!((0..64).filter(|seed| lost(*seed)).count() > 5);
}

#[test]
fn a_second_failure_takes_only_what_was_not_flushed_since() {
    let place = Place::new("again");
    let ground = place.ground(Manner::HONEST);
    let (mut kept, mut dropped) = (0, 0);
    for seed in 0..64 {
        let (mut drive, _) = ground.after_cut(Manner::HONEST, 1).unwrap();
        drive.write(DriveBlock::new(5), &[5; BLOCK_BYTES]);
        drive.flush();
        drive.write(DriveBlock::new(5), &[6; BLOCK_BYTES]);
        drive.write(DriveBlock::new(5), &[7; BLOCK_BYTES]);
        assert_eq!(sectors(&drive, 5, 7), 8, "a drive reads what was written to it");
        drive.lose_power(&mut Random::new(seed));
        let now: Vec<usize> = [5, 6, 7].into_iter().map(|content| sectors(&drive, 5, content)).collect();
        assert_eq!(now.iter().sum::<usize>(), 8, "{now:?}");
        kept += usize::from(now[2] == 8);
        dropped += usize::from(now[0] == 8);
    }
    assert!(kept > 5 && dropped > 5, "{kept} {dropped}");
}

#[test]
fn beyond_the_end_nothing_is_read() {
    let place = Place::new("end");
    let ground = place.ground(Manner::HONEST);
    let (drive, _) = ground.after_cut(Manner::HONEST, 1).unwrap();
    assert_eq!(drive.blocks().get(), 8);
    assert!(drive.read(DriveBlock::new(8)).is_err());
}
