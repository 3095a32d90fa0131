//! Drives that are not what they were: set back to an earlier state of themselves, or with another drive's content.
//!
//! A drive whose image was restored from a copy, a controller that lost its mapping, a clone that was put in for the
//! original, a cable in the wrong socket. The label, by which the driver knows the drive, is right in all of them.
//!
//! To a group that does not count on the drive, what it holds now is what it holds: nobody owes anything. Where the group
//! counts on it, every block that changed is one that the drive lost (`in_doubt`).
use crate::doubt::Doubts;
use crate::drive::SimDrive;
use crate::fault::FaultKind;
use crate::image::Image;
use crate::rng::Rng;
use base::BLOCK_BYTES;
use std::rc::Rc;

/// What a drive held at some moment.
#[derive(Clone)]
pub struct Memory {
    image: Image,
    doubts: Doubts,
}

impl SimDrive {
    /// Keeps what the drive holds now, to be set back to it later: what is durable, or all of it.
    pub fn remember(&mut self, rng: &mut Rng) {
        let mut image = self.image.clone();
        if rng.chance(1, 2) {
            for (block, entries) in &self.dirty {
                image.set(*block, entries.last().expect("an entry").content.clone());
            }
        }
        self.memory = Some(Box::new(Memory { image, doubts: self.doubts.clone() }));
    }

    /// Sets the drive back to what it held when it was asked to remember that. False if it never was. `counted_on`
    /// says whether the group takes it for what it was a moment ago.
    pub fn set_back(&mut self, counted_on: bool) -> bool {
        let Some(memory) = self.memory.clone() else { return false };
        self.hold(&memory, counted_on);
        self.counts.add(FaultKind::OldContent);
        true
    }

    /// The drive holds what another one does, as far as it reaches.
    pub fn swap_content(&mut self, other: &Self) {
        self.become_like(other, false, FaultKind::ForeignContent);
    }

    /// Likewise; what the drive is then is counted as this fault.
    pub fn become_like(&mut self, other: &Self, counted_on: bool, kind: FaultKind) {
        let mut image = Image::new(self.image.blocks());
        for block in 0..self.image.blocks().min(other.image.blocks()) {
            if let Some(content) = other.visible(block) {
                image.set(block, content.clone());
            }
        }
        self.hold(&Memory { image, doubts: Doubts::default() }, counted_on);
        self.counts.add(kind);
    }

    /// The drive holds zeroes, or where it held anything noise.
    pub fn become_blank(&mut self, noise: Option<&mut Rng>, counted_on: bool) {
        let mut image = Image::new(self.image.blocks());
        if let Some(rng) = noise {
            let mut block = [0; BLOCK_BYTES];
            rng.fill(&mut block);
            let block = Rc::new(block);
            let held = (0..self.image.blocks()).filter(|at| self.visible(*at).is_some());
            held.for_each(|at| image.set(at, block.clone()));
        }
        self.hold(&Memory { image, doubts: Doubts::default() }, counted_on);
        self.counts.add(FaultKind::Blank);
    }

    /// Two drives hold each other's content. `counted_on` says for each whether the group takes it for what it was: for
    /// neither where they get their own back.
    pub fn exchange(one: &mut Self, other: &mut Self, counted_on: [bool; 2]) {
        let first = one.clone();
        one.become_like(other, counted_on[0], FaultKind::Swapped);
        other.become_like(&first, counted_on[1], FaultKind::Swapped);
    }

    /// What the drive holds now, its cache included.
    pub fn content(&self) -> Memory {
        let mut image = self.image.clone();
        for (block, entries) in &self.dirty {
            image.set(*block, entries.last().expect("an entry").content.clone());
        }
        Memory { image, doubts: self.doubts.clone() }
    }

    /// The drive holds this. If the group counts on it, every block that changes is one that it lost; what it gets back
    /// is no loss.
    pub fn hold(&mut self, memory: &Memory, counted_on: bool) {
        assert!(self.is_idle(), "content changes only while nobody uses the drive");
        if counted_on {
            for block in 0..self.image.blocks() {
                let now = self.visible(block);
                if now != memory.image.get(block) {
                    let now = crate::doubt::or_zeroes(now);
                    self.doubts.owed(block, now);
                }
            }
        }
        self.doubts.add(&memory.doubts);
        self.image = memory.image.clone();
        self.forget_life();
    }

    /// What was in its cache, and what it held before, is nowhere in it any more: not even a stale read returns that.
    fn forget_life(&mut self) {
        self.dirty.clear();
        if let Some(older) = &mut self.older {
            older.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Blocks, DriveBlock, Uuid};

    fn drive(fill: u8) -> SimDrive {
        let mut drive = SimDrive::new(Uuid([fill; 16]), Blocks::new(16), true);
        drive.poke(DriveBlock::new(3), &[fill; BLOCK_BYTES]);
        drive
    }

    #[test]
    fn a_drive_set_back_holds_what_it_held_and_owes_what_it_lost() {
        let mut one = drive(1);
        assert!(!one.set_back(true), "nothing to go back to");
        one.remember(&mut Rng::new(1));
        one.poke(DriveBlock::new(3), &[2; BLOCK_BYTES]);
        one.poke(DriveBlock::new(4), &[2; BLOCK_BYTES]);
        let mut out = one.clone();
        assert!(one.set_back(true) && out.set_back(false));
        for drive in [&one, &out] {
            assert_eq!(drive.peek(DriveBlock::new(3))[0], 1);
            assert_eq!(drive.peek(DriveBlock::new(4))[0], 0);
            assert_eq!(drive.counts.of(FaultKind::OldContent), 1);
        }
        assert!(one.in_doubt(DriveBlock::new(3)) && one.in_doubt(DriveBlock::new(4)));
        assert!(!one.in_doubt(DriveBlock::new(5)) && !out.has_doubts());
    }

    #[test]
    fn swapped_content_is_the_others() {
        let (mut one, other) = (drive(1), drive(2));
        one.swap_content(&other);
        assert_eq!((one.peek(DriveBlock::new(3))[0], one.uuid), (2, Uuid([1; 16])));
        assert_eq!(one.counts.of(FaultKind::ForeignContent), 1);
    }

    #[test]
    fn two_that_are_exchanged_and_exchanged_again_are_what_they_were() {
        let (mut one, mut other) = (drive(1), drive(2));
        SimDrive::exchange(&mut one, &mut other, [true, false]);
        assert_eq!((one.peek(DriveBlock::new(3))[0], other.peek(DriveBlock::new(3))[0]), (2, 1));
        assert!(one.in_doubt(DriveBlock::new(3)) && !other.has_doubts());
        SimDrive::exchange(&mut one, &mut other, [false; 2]);
        assert!(one.peek(DriveBlock::new(3))[0] == 1 && !one.in_doubt(DriveBlock::new(3)));
        assert_eq!(one.counts.of(FaultKind::Swapped), 2);
    }

    #[test]
    fn a_blank_drive_holds_nothing_of_what_it_held() {
        let (mut one, mut other) = (drive(1), drive(2));
        let before = one.content();
        one.become_blank(None, true);
        other.become_blank(Some(&mut Rng::new(1)), false);
        assert!(
            one.peek(DriveBlock::new(3)).iter().all(|byte| *byte == 0) && one.in_doubt(DriveBlock::new(3))
        );
        assert!(other.peek(DriveBlock::new(3)).iter().any(|byte| *byte != 2));
        assert!(other.peek(DriveBlock::new(4)).iter().all(|byte| *byte == 0));
        one.hold(&before, false);
        assert!(one.peek(DriveBlock::new(3))[0] == 1 && !one.in_doubt(DriveBlock::new(3)));
    }
}
