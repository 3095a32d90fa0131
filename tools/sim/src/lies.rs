//! Drives that lie, on every leg: what they do not report goes beyond the fault budget when no leg is spared.
//!
//! What a check covers is right or an error however many legs lie: data and pages by the Ref above them, the directory
//! by the superblock, a commit by the next one. A log has an end that nothing covers. A commit above the D that the
//! drives say, or the data of it, that was lost on every leg looks like one that was never completed; a superblock
//! version that was lost on every leg, with all commits that name it, looks like one that never was; and drives that
//! are set back all together say nothing false. So what must be there after a crash is what the drives themselves say
//! then was flushed: no less, or the group must refuse.
//!
//! Not here: flushes that lie on every leg. Of them the contract promises nothing.
use crate::checks::c2;
use crate::model::Model;
use crate::run::{Run, Turned};
use crate::shape::Strangers;
use crate::subject::Subject;
use base::Seq;
use simkit::{Armed, FaultKind};

/// An activation and D: what another activation says of the same Seqs is another history.
pub(crate) type Word = (u64, Seq);

/// What was durable when, by D.
#[derive(Clone, Default)]
pub(crate) struct Said {
    /// The activation, D, and the state of each block that was durable then; in order.
    at: Vec<(Word, Vec<u32>)>,
    /// D when the group was served last: what reads taught since is of what was found then.
    opened_with: Option<Seq>,
    /// D that the drives say of which a recovery is reading.
    must: Word,
}

impl Said {
    fn note(&mut self, word: Word, model: &Model) {
        self.at.push((word, model.blocks.iter().map(|block| block.durable).collect()));
    }

    /// What was durable by this D, if less was than was noted.
    fn back_to(&mut self, said: Word, blocks: usize) -> Option<Vec<u32>> {
        let known = self.at.partition_point(|(word, _)| word.0 <= said.0 && word.1 <= said.1);
        if known == self.at.len() {
            return None;
        }
        self.at.truncate(known);
        Some(self.at.last().map_or_else(|| vec![0; blocks], |(_, states)| states.clone()))
    }
}

impl<S: Subject> Run<S> {
    /// Whether what the drives say is all that must be there after a crash.
    pub(crate) fn only_what_is_said(&self) -> bool {
        self.shape.lies || self.shape.strangers == Strangers::AnyLeg
    }

    /// What drives do not report strikes one leg, or all of them where they hold the same.
    pub(crate) fn strike_with_lies(&mut self) {
        let kind = *self.rng.pick(self.shape.only);
        let (legs, columns) = (self.shape.legs, usize::from(self.shape.columns));
        let one = self.rng.chance(1, 3).then(|| self.rng.below(u64::from(legs)) as u8);
        let joined = self.rng.below(u64::from(self.shape.spares) + 1) as usize * self.shape.drives();
        let column = self.rng.below(columns as u64) as usize;
        let times = *self.rng.pick(&[1, 1, 2, 4, 40]);
        for leg in (0..legs).filter(|leg| one.is_none_or(|one| one == *leg)) {
            let drive = joined + usize::from(leg) * columns + column;
            self.world.trace.event(b"st", [drive as u64, kind as u64, 0, 0]);
            let now = self.world.now().nanos();
            self.world
                .trace
                .say(|| format!("{now:>12} strike drive {drive} with {} {times} times", kind.name()));
            let target = &mut self.world.drives[drive];
            match kind {
                FaultKind::BitRot => (0..4).for_each(|_| target.rot(&mut self.rng)),
                FaultKind::Reset => target.reset(&mut self.rng),
                _ => target.arm(Armed { kind, times }),
            }
        }
    }

    /// All drives are copied at one moment, now and then.
    pub(crate) fn all_is_remembered(&mut self) {
        if self.shape.lies && self.verbs.chance(1, 150) {
            self.world.drives.iter_mut().for_each(|drive| drive.remember(&mut self.verbs));
        }
    }

    /// While the machine is off some drives, or all of them, are set back to that moment.
    pub(crate) fn lies_after_crash(&mut self) {
        if !self.verbs.chance(1, 6) {
            return;
        }
        let all = self.verbs.chance(1, 2);
        for drive in 0..self.world.drives.len() {
            if (all || self.verbs.chance(1, 2)) && self.world.drives[drive].set_back(false) {
                let now = self.world.now().nanos();
                self.world.trace.say(|| format!("{now:>12} drive {drive} is set back"));
            }
        }
    }

    /// At a crash: what the drives say was flushed counts.
    pub(crate) fn confirm_what_is_said(&mut self) {
        let served = self.world.control.catalogue.activation;
        if let Some(durable) = self.said.opened_with.take() {
            self.said.note((served, durable), &self.model);
        }
        let said = self.said_by_drives();
        for (durable, what) in std::mem::take(&mut self.unconfirmed) {
            // Where nothing of the activation reached the drives, none of it is what they say.
            if served <= said.0 && durable <= said.1 {
                what.enter(&mut self.model);
                self.said.note((served, durable), &self.model);
            }
        }
        self.take_back(said);
    }

    /// Something struck while a recovery reads: the drives may say less than before.
    pub(crate) fn confirm_less(&mut self) {
        let said = self.said_by_drives();
        if said.0 < self.said.must.0 || said.1 < self.said.must.1 {
            self.take_back(said);
        }
    }

    fn take_back(&mut self, said: Word) {
        self.said.must = said;
        if let Some(less) = self.said.back_to(said, self.model.blocks.len()) {
            self.model.take_back(&less);
        }
    }

    /// The group is served: nothing that the drives say was flushed is missing.
    pub(crate) fn served_as_said(&mut self) -> Turned {
        if !self.only_what_is_said() {
            return Ok(());
        }
        let durable = S::durable(self.world.engine());
        c2::opened(durable, self.said.must.1)?;
        self.said.opened_with = Some(durable);
        Ok(())
    }

    /// The drives whose word counts: a recovery hears what they hold.
    pub(crate) fn heard(&self) -> Vec<bool> {
        let catalogue = &self.world.control.catalogue;
        let heard = |(at, drive): (usize, &simkit::SimDrive)| match self.only_what_is_said() {
            true => !drive.may_misread() && !catalogue.is_stale(at),
            false => !drive.is_armed(),
        };
        self.world.drives.iter().enumerate().map(heard).collect()
    }

    /// Of the faults that strike every leg, those that did.
    pub(crate) fn count_every_leg(&mut self) {
        if !self.shape.lies {
            return;
        }
        let drives = &self.world.drives;
        let struck = |leg: u8, kind: FaultKind| {
            (0..drives.len()).any(|i| self.shape.leg_of(i) == leg && drives[i].counts.of(kind) > 0)
        };
        let everywhere = |kind: &FaultKind| (0..self.shape.legs).all(|leg| struck(leg, *kind));
        let kinds = FaultKind::ALL.into_iter().filter(everywhere).filter_map(FaultKind::on_every_leg);
        for kind in kinds.collect::<Vec<_>>() {
            self.world.counts.add(kind);
        }
    }
}
