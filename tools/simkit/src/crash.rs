//! What a crash leaves on a drive.
//!
//! Power loss: every write that is in flight or that no completed flush covers is, block by block and
//! independently, kept, dropped, torn at a sector (each sector from any of the contents that the block could
//! have), or leaves noise in some sectors that it would have changed. What a flush covered is untouched. A sector that is
//! written with what it holds holds that: it is written whole or not at all (`docs/format.md`), and a recovery counts on
//! it (`volume::recovery::renew`). For what changes noise is more than a drive may do.
//! Death of the process alone: the drive keeps its cache; what was in flight is, block by block, done or not
//! done, and nothing lands later (the kernel ends it before it releases the drive's lock).
use crate::doubt::or_zeroes;
use crate::drive::{Dirty, SimDrive};
use crate::fault::FaultKind;
use crate::rng::Rng;
use base::{BLOCK_BYTES, Block, SECTOR_BYTES};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What happens to unflushed writes at a power loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashMode {
    /// Each drive draws one of the other ways.
    Random,
    /// Everything that was issued is there.
    KeepAll,
    /// Nothing unflushed is there.
    DropAll,
    /// Every unflushed block is torn between what it held and what was written.
    TearAll,
    /// Each block has a fate of its own.
    Mixed,
}

impl SimDrive {
    /// Loses power; nothing is in flight afterwards and nothing is volatile.
    pub fn crash(&mut self, rng: &mut Rng, mode: CrashMode) {
        self.begin_anew();
        self.speak();
        let mode = match mode {
            CrashMode::Random => [
                CrashMode::KeepAll,
                CrashMode::DropAll,
                CrashMode::TearAll,
                CrashMode::Mixed,
                CrashMode::Mixed,
            ][rng.below(5) as usize],
            other => other,
        };
        let mut unflushed: BTreeMap<u64, Vec<Rc<Block>>> = BTreeMap::new();
        let mut promises: BTreeMap<u64, usize> = BTreeMap::new();
        let mut astray: BTreeMap<u64, Vec<Rc<Block>>> = BTreeMap::new();
        for (block, entries) in std::mem::take(&mut self.dirty) {
            if let Some(promised) = entries.iter().rposition(|dirty| dirty.promised) {
                promises.insert(block, promised);
            }
            let stray = entries.iter().filter(|dirty| dirty.astray).map(|dirty| dirty.content.clone());
            astray.insert(block, stray.collect());
            unflushed.insert(block, entries.into_iter().map(|d: Dirty| d.content).collect());
        }
        for flight in std::mem::take(&mut self.in_flight).iter().flatten() {
            for (block, content) in flight.writes() {
                unflushed.entry(block).or_default().push(content.clone());
            }
        }
        for (block, contents) in unflushed {
            let before = or_zeroes(self.image.get(block));
            self.settle(rng, mode, block, &contents);
            let promised = promises.get(&block).copied();
            let stray = astray.get(&block).map_or(&[][..], Vec::as_slice);
            self.doubt_after(block, &before, (&contents, stray), promised);
        }
    }

    /// Notes what a block ought to hold after the power loss, if it does not.
    fn doubt_after(
        &mut self,
        block: u64,
        before: &Rc<Block>,
        (contents, stray): (&[Rc<Block>], &[Rc<Block>]),
        promised: Option<usize>,
    ) {
        let now = or_zeroes(self.image.get(block));
        if let Some(promised) = promised {
            // A flush lied: this content or a later one is due.
            if !contents[promised..].contains(&now) {
                self.doubts.owed(block, contents[promised].clone());
            }
        } else if contents.iter().any(|content| content != before)
            && contents.contains(&now)
            && !stray.contains(&now)
        {
            // What nobody meant to be here ends no doubt, and neither does what it held before.
            self.doubts.written(block, &now);
        }
    }

    /// Decides what one block holds after the power loss.
    fn settle(&mut self, rng: &mut Rng, mode: CrashMode, block: u64, contents: &[Rc<Block>]) {
        let fate = match mode {
            CrashMode::KeepAll => FaultKind::CrashKept,
            CrashMode::DropAll => FaultKind::CrashDropped,
            CrashMode::TearAll => FaultKind::CrashTorn,
            CrashMode::Mixed | CrashMode::Random => [
                FaultKind::CrashKept,
                FaultKind::CrashKept,
                FaultKind::CrashDropped,
                FaultKind::CrashDropped,
                FaultKind::CrashTorn,
                FaultKind::CrashGarbage,
            ][rng.below(6) as usize],
        };
        self.counts.add(fate);
        match fate {
            FaultKind::CrashKept => {
                let index = if mode == CrashMode::KeepAll {
                    contents.len() - 1
                } else {
                    rng.below(contents.len() as u64) as usize
                };
                self.image.set(block, contents[index].clone());
            }
            FaultKind::CrashDropped => {}
            _ => {
                let before: Block = self.image.get(block).map_or([0; BLOCK_BYTES], |content| **content);
                let mut torn = before;
                for sector in torn.chunks_exact_mut(SECTOR_BYTES).enumerate() {
                    let choice = rng.below(contents.len() as u64 + 1) as usize;
                    if let Some(content) = contents.get(choice) {
                        let from = sector.0 * SECTOR_BYTES;
                        sector.1.copy_from_slice(&content[from..from + SECTOR_BYTES]);
                    }
                    let from = sector.0 * SECTOR_BYTES..(sector.0 + 1) * SECTOR_BYTES;
                    let changes =
                        contents.iter().any(|content| content[from.clone()] != before[from.clone()]);
                    if fate == FaultKind::CrashGarbage && changes && rng.chance(1, 4) {
                        rng.fill(sector.1);
                    }
                }
                self.image.set(block, Rc::new(torn));
            }
        }
    }

    /// The process that used the drive is killed: the cache stays, what was in flight is partly done.
    pub fn abandon(&mut self, rng: &mut Rng) {
        self.begin_anew();
        self.speak();
        let style = rng.below(3);
        for flight in std::mem::take(&mut self.in_flight).iter().flatten() {
            for (block, content) in flight.writes() {
                if !self.is_dead() && (style == 0 || (style == 1 && rng.chance(1, 2))) {
                    self.store(block, content.clone());
                }
            }
        }
    }
}
