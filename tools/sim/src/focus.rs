//! Seeds with a focus: where the general shapes meet a rare danger too seldom, a share of the seeds seeks it.
//!
//! Each focus was added because a planted bug of its kind was caught only after more than a few hundred seeds. A
//! focus bends the shape that the seed had anyway, so all other seeds mean what they always meant.
use crate::shape::{ISLAND_BLOCKS, Shape, Strangers, Weather};
use simkit::{FaultKind, Rng};

/// One seed in so many has a certain focus.
const SHARE: u64 = 16;
/// And of the others one in so many seeks drives that come and go.
const HEALING_SHARE: u64 = 6;
/// Of the rest one in so many seeks drives that are not what they were.
const GHOSTS_SHARE: u64 = 8;
/// Of the rest one in so many seeks the ends of moves.
const ENDS_SHARE: u64 = 20;
/// Of the rest, once other focuses have had their share, one in so many seeks drives that are reset.
const RESETS_SHARE: u64 = 20;

/// Of the rest one in so many has legs that come and go.
const LEGS_SHARE: u64 = 6;
/// Of the rest one in so many loses all copies that have everything.
const DISASTER_SHARE: u64 = 10;
/// Of the rest one in so many seeks writes that fail on the last copy.
const FAILING_SHARE: u64 = 12;

/// Of the seeds that seek anything by then one in so many seeks each of these instead.
const LATER_SHARE: u64 = 24;

/// Where these draw from. Of the numbers that could stand here they leave what it was every seed that had been recorded.
const LEGS: u64 = 0x4c45_4753_0015;
const FORCED: u64 = 0x464f_5243_0003;
const FAILING: u64 = 0x4641_494c_12df;
const LIES: u64 = 0x4c49_4553_0023;
const STRANGERS: u64 = 0x5354_5247_0115;
const UNPLUGGED: u64 = 0x504c_5547_009c;
const FLUSHES: u64 = 0x464c_5553_000d;
const DOORS: u64 = 0x444f_4f52_0014;

/// What a seed seeks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Focus {
    /// Nothing special.
    General,
    /// Checkpoints that take long, while the log goes once around its ring, and crashes inside them.
    LongCheckpoints,
    /// Blocks that rot on one leg, and power losses while they are repaired.
    Repairs,
    /// Reads that last longer than the life of what they read.
    LongReads,
    /// A control plane that answers late, and legs that come and go alone.
    LateCatalogue,
    /// A leg that tells recovery something else each time it is asked.
    Hearsay,
    /// A log that rots on the only leg: the group must refuse.
    LostLog,
    /// Drives that are put out and come back, over a map of several levels, while everything goes on.
    Healing,
    /// Likewise, but some come back with old content or another drive's; and the process pauses.
    Ghosts,
    /// Moves, and power losses at their ends, after which only some drives come back.
    Ends,
    /// Legs that are added and dropped, a volume that grows, a group that is closed and opened again.
    Legs,
    /// The loss of all copies that have everything, and the operator's word that goes on without them.
    Forced,
    /// Drives that are reset with something in their caches.
    Resets,
    /// Writes that fail on the last copy while others are under way, and power losses right behind them.
    Failing,
    /// What drives do not report, on every leg: lost and misdirected writes, reads of something else, resets, old content.
    Lies,
    /// Drives that are not the group's, or not in their places, when it is opened.
    Strangers,
    /// Drives that are unplugged, and plugged in again while the group is served.
    Unplugged,
    /// Flushes that fail on one leg, targets that are killed before anybody knows, and power losses soon after.
    Flushes,
    /// Drives that join, are left and come back, some of them silent, so that places of the drive table are used again.
    Doors,
}

impl Focus {
    /// The focus of this seed.
    pub fn of(seed: u64) -> Self {
        match Self::of_first(seed) {
            Self::General => Self::General,
            _ if Rng::new(seed ^ LIES).below(LATER_SHARE) == 0 => Self::Lies,
            _ if Rng::new(seed ^ STRANGERS).below(LATER_SHARE) == 0 => Self::Strangers,
            _ if Rng::new(seed ^ UNPLUGGED).below(LATER_SHARE) == 0 => Self::Unplugged,
            _ if Rng::new(seed ^ FLUSHES).below(LATER_SHARE) == 0 => Self::Flushes,
            _ if Rng::new(seed ^ DOORS).below(LATER_SHARE) == 0 => Self::Doors,
            focus => focus,
        }
    }

    fn of_first(seed: u64) -> Self {
        match Rng::new(seed ^ 0x464f_4355_5308).below(SHARE) {
            0 => Self::LongCheckpoints,
            1 => Self::Repairs,
            2 => Self::LongReads,
            3 => Self::LateCatalogue,
            4 => Self::Hearsay,
            5 => Self::LostLog,
            _ if Rng::new(seed ^ 0x4845_414c_0001).below(HEALING_SHARE) == 0 => Self::Healing,
            _ if Rng::new(seed ^ 0x4748_4f53_5455).below(GHOSTS_SHARE) == 0 => Self::Ghosts,
            _ if Rng::new(seed ^ 0x454e_4453_0001).below(ENDS_SHARE) == 0 => Self::Ends,
            _ if Rng::new(seed ^ LEGS).below(LEGS_SHARE) == 0 => Self::Legs,
            _ if Rng::new(seed ^ FORCED).below(DISASTER_SHARE) == 0 => Self::Forced,
            _ if Rng::new(seed ^ 0x5245_5345_5453).below(RESETS_SHARE) == 0 => Self::Resets,
            _ if Rng::new(seed ^ FAILING).below(FAILING_SHARE) == 0 => Self::Failing,
            _ => Self::General,
        }
    }

    /// Bends a shape so that it seeks this.
    pub(crate) fn bend(self, shape: &mut Shape, rng: &mut Rng) {
        match self {
            Self::General => {}
            Self::LongCheckpoints => {
                // The ring must be so long that what is kept free in it for voids does not cover what a checkpoint holds.
                (shape.extent_blocks, shape.columns, shape.tight) = (512, 1, false);
                (shape.weather, shape.volatile, shape.flush_factor) = (Weather::Crashes, true, 20);
                (shape.depth, shape.longest, shape.eager) = (*rng.pick(&[2, 4, 6]), 1, true);
                (shape.mix, shape.fua, shape.unaligned) = ([5, 75, 0, 10, 10], 0, 0);
                (shape.crash_every, shape.fault_every) = (*rng.pick(&[400, 800]), 0);
                (shape.requests, shape.recovery_crashes) = (rng.between(400, 800), 0);
            }
            Self::Repairs => {
                shape.legs = shape.legs.max(2);
                (shape.weather, shape.volatile) = (Weather::Rot, true);
                (shape.fault_every, shape.crash_every) = (60, 2500);
                shape.volume_blocks = shape.volume_blocks.min(256);
            }
            Self::LongReads => {
                (shape.extent_blocks, shape.spread, shape.tight) = (256, ISLAND_BLOCKS, true);
                shape.volume_blocks = shape.volume_blocks.min(128);
                (shape.legs, shape.weather) = (shape.legs.clamp(2, 3), Weather::OneLeg);
                (shape.only, shape.fault_every) = (&[FaultKind::SlowRead], 15);
                (shape.mix, shape.depth) = ([40, 50, 2, 4, 4], *rng.pick(&[8, 16]));
                (shape.crash_every, shape.requests) = (2500, shape.requests.max(400));
            }
            Self::LateCatalogue => {
                (shape.legs, shape.weather, shape.seesaw) = (2, Weather::Beyond, true);
                (shape.slow_control, shape.fault_every) = (500, 100);
                (shape.crash_every, shape.eager) = (*rng.pick(&[150, 400]), true);
                shape.mix = [20, 50, 20, 5, 5];
            }
            Self::Hearsay => {
                (shape.legs, shape.weather) = (shape.legs.max(2), Weather::OneLeg);
                (shape.only, shape.fault_every) =
                    (&[FaultKind::GarbageRead, FaultKind::StaleRead, FaultKind::ReadError], 0);
                shape.recovery_faults = 6;
                (shape.volume_blocks, shape.verify_first) = (128, true);
                (shape.crash_every, shape.recovery_crashes, shape.process) = (100, 25, 0);
                (shape.eager, shape.mix, shape.spread) = (true, [10, 85, 3, 1, 1], ISLAND_BLOCKS);
            }
            Self::LostLog => {
                (shape.legs, shape.weather, shape.seesaw) = (1, Weather::Beyond, false);
                (shape.only, shape.fault_every) = (&[FaultKind::BitRot], 60);
                (shape.extent_blocks, shape.spread) = (256, ISLAND_BLOCKS);
                (shape.crash_every, shape.volume_blocks) = (150, 128);
                (shape.mix, shape.fua) = ([20, 50, 20, 5, 5], 30);
            }
            Self::Ghosts => {
                Self::Healing.bend(shape, rng);
                (shape.ghosts, shape.pauses) = (true, *rng.pick(&[0, 100]));
                shape.crash_every = *rng.pick(&[0, 400, 800]);
                shape.shifts = rng.chance(1, 2);
            }
            Self::Ends => {
                (shape.legs, shape.weather, shape.seesaw) = (*rng.pick(&[1, 1, 2]), Weather::Crashes, false);
                (shape.fault_every, shape.silent, shape.crash_every) = (0, false, *rng.pick(&[0, 800]));
                (shape.twins, shape.ends, shape.verify_first) = (true, true, true);
                (shape.extent_blocks, shape.volume_blocks) = (256, shape.volume_blocks.min(128));
                (shape.spread, shape.tight) = (*rng.pick(&[ISLAND_BLOCKS, 128]), rng.chance(1, 3));
                (shape.mix, shape.requests) = ([15, 60, 15, 5, 5], shape.requests.max(300));
                (shape.fua, shape.process) = (30, *rng.pick(&[0, 30]));
                // The longer the catalogue takes, the more is acknowledged before it has answered.
                shape.slow_control = *rng.pick(&[50, 500]);
                shape.shifts = rng.chance(1, 2);
            }
            Self::Legs => return bend_to_legs(shape, rng),
            Self::Failing => bend_to_failures(shape, rng),
            Self::Forced => bend_to_disasters(shape, rng),
            Self::Lies => bend_to_lies(shape, rng),
            Self::Strangers => bend_to_strangers(shape, rng),
            Self::Flushes => bend_to_flushes(shape, rng),
            Self::Doors => bend_to_doors(shape, rng),
            Self::Unplugged => {
                Self::Healing.bend(shape, rng);
                (shape.unplugs, shape.crash_every) = (*rng.pick(&[40, 120]), *rng.pick(&[0, 400, 1000]));
                shape.shifts = rng.chance(1, 2);
            }
            Self::Resets => {
                Self::Healing.bend(shape, rng);
                (shape.only, shape.fault_every) = (&[FaultKind::Reset], *rng.pick(&[30, 100]));
                (shape.volatile, shape.silent) = (true, false);
            }
            Self::Healing => {
                shape.legs = shape.legs.max(2);
                (shape.weather, shape.outs, shape.seesaw) =
                    (Weather::OneLeg, *rng.pick(&[30, 100, 300]), false);
                (shape.fault_every, shape.silent) = (*rng.pick(&[0, 300]), rng.chance(1, 4));
                shape.crash_every = *rng.pick(&[0, 400, 2500]);
                (shape.spread, shape.tight) =
                    (*rng.pick(&[ISLAND_BLOCKS, 128, 2048, 16_384]), rng.chance(1, 3));
                (shape.extent_blocks, shape.volume_blocks) = (256, shape.volume_blocks.min(256));
                shape.mix = *rng.pick(&[[15, 60, 5, 15, 5], [20, 70, 1, 7, 2], [10, 40, 30, 15, 5]]);
                shape.requests = shape.requests.max(300);
                shape.twins = rng.chance(1, 2);
            }
        }
        shape.bad_leg %= shape.legs.max(shape.most_legs);
    }
}

fn bend_to_legs(shape: &mut Shape, rng: &mut Rng) {
    shape.legs = rng.between(1, 3) as u8;
    shape.most_legs = *rng.pick(&[2, 3, 4]).max(&shape.legs);
    // Leg 0 always stays: faults on it only where another one does.
    let first = u64::from(shape.legs < 3);
    shape.bad_leg = rng.between(first, u64::from(shape.most_legs) - 1) as u8;
    shape.weather = *rng.pick(&[Weather::Crashes, Weather::Crashes, Weather::OneLeg]);
    (shape.seesaw, shape.silent) = (false, rng.chance(1, 3));
    shape.ends = shape.weather == Weather::Crashes && rng.chance(1, 2);
    shape.fault_every = if shape.weather == Weather::OneLeg { *rng.pick(&[40, 150]) } else { 0 };
    shape.crash_every = *rng.pick(&[0, 400, 800, 2500]);
    (shape.spread, shape.tight) = (*rng.pick(&[ISLAND_BLOCKS, 128, 2048]), rng.chance(1, 4));
    (shape.extent_blocks, shape.volume_blocks) = (256, shape.volume_blocks.min(256));
    (shape.scrubs, shape.closes) = (rng.chance(1, 2), *rng.pick(&[0, 200, 800]));
    shape.first_blocks = if rng.chance(1, 2) { 64 } else { 0 };
    (shape.requests, shape.fua) = (shape.requests.max(300), *rng.pick(&[0, 30]));
    shape.verify_first |= shape.ends;
    shape.slow_control = *rng.pick(&[50, 500]);
}

fn bend_to_disasters(shape: &mut Shape, rng: &mut Rng) {
    (shape.legs, shape.weather, shape.seesaw) = (*rng.pick(&[2, 2, 3]), Weather::Crashes, false);
    (shape.disasters, shape.verify_first, shape.fault_every) = (true, true, 0);
    shape.crash_every = *rng.pick(&[150, 400]);
    (shape.spread, shape.tight) = (*rng.pick(&[ISLAND_BLOCKS, 128]), rng.chance(1, 4));
    (shape.extent_blocks, shape.volume_blocks) = (256, shape.volume_blocks.min(256));
    (shape.scrubs, shape.closes) = (rng.chance(1, 2), *rng.pick(&[0, 0, 400]));
    shape.requests = shape.requests.max(300);
}

fn bend_to_failures(shape: &mut Shape, rng: &mut Rng) {
    (shape.legs, shape.weather, shape.seesaw) = (*rng.pick(&[1, 1, 1, 2]), Weather::Hiccups, false);
    shape.fails = true;
    (shape.fault_every, shape.crash_every) = (*rng.pick(&[15, 40]), *rng.pick(&[100, 300]));
    // Many commits in flight at once, each soon promised.
    (shape.depth, shape.eager, shape.longest) = (*rng.pick(&[8, 16, 32]), true, *rng.pick(&[1, 1, 4]));
    (shape.mix, shape.fua) = (*rng.pick(&[[5, 75, 20, 0, 0], [5, 60, 15, 10, 10]]), *rng.pick(&[0, 30]));
    (shape.process, shape.verify_first) = (*rng.pick(&[0, 0, 30]), true);
    (shape.extent_blocks, shape.volume_blocks) = (256, shape.volume_blocks.min(128));
    shape.requests = shape.requests.max(400);
}

fn bend_to_flushes(shape: &mut Shape, rng: &mut Rng) {
    (shape.legs, shape.weather, shape.seesaw) = (*rng.pick(&[2, 2, 3]), Weather::OneLeg, false);
    (shape.only, shape.fault_every) = (&[FaultKind::FlushError], *rng.pick(&[20, 60]));
    (shape.volatile, shape.silent, shape.forgets) = (true, false, true);
    // The longer the catalogue takes, the longer nobody knows.
    (shape.slow_control, shape.crash_every) = (*rng.pick(&[50, 500]), *rng.pick(&[200, 600]));
    (shape.process, shape.recovery_crashes) = (*rng.pick(&[50, 80]), *rng.pick(&[0, 0, 25]));
    (shape.depth, shape.eager, shape.verify_first) = (*rng.pick(&[4, 8, 16]), true, true);
    (shape.mix, shape.fua) = (*rng.pick(&[[5, 75, 20, 0, 0], [10, 65, 15, 5, 5]]), *rng.pick(&[0, 30]));
    (shape.extent_blocks, shape.volume_blocks) = (256, shape.volume_blocks.min(256));
    shape.requests = shape.requests.max(400);
}

fn bend_to_doors(shape: &mut Shape, rng: &mut Rng) {
    (shape.doors, shape.twins, shape.weather, shape.seesaw) = (true, true, Weather::OneLeg, false);
    // Either rows bring drives, or legs do: who has spares adds no leg.
    if rng.chance(3, 5) {
        (shape.legs, shape.columns) = *rng.pick(&[(2, 1), (2, 1), (2, 2), (3, 1)]);
        (shape.spares, shape.stand_ins) = (if shape.drives() == 2 { 6 } else { 2 }, 1);
        shape.bad_leg %= shape.legs;
    } else {
        (shape.legs, shape.columns) = *rng.pick(&[(2, 1), (2, 1), (2, 2), (3, 1)]);
        (shape.most_legs, shape.stand_ins) = (shape.legs + 1, 2);
        shape.bad_leg = rng.between(1, u64::from(shape.legs)) as u8;
        shape.slow_control = *rng.pick(&[50, 500]);
    }
    // A move takes some hundred turns: what happens more often lets none come to its end.
    (shape.silent, shape.fault_every) = (false, *rng.pick(&[0, 0, 300, 1000]));
    (shape.outs, shape.unplugs) = (*rng.pick(&[0, 300, 1000]), *rng.pick(&[0, 300, 1000]));
    (shape.crash_every, shape.process) = (*rng.pick(&[1500, 4000]), *rng.pick(&[0, 30, 60]));
    // Where time leaps what hung has ended, and its drive is used again.
    (shape.recovery_crashes, shape.pauses) = (*rng.pick(&[0, 0, 25]), *rng.pick(&[0, 200, 600]));
    shape.closes = *rng.pick(&[0, 0, 1000]);
    (shape.spread, shape.tight) = (*rng.pick(&[ISLAND_BLOCKS, 128, 2048]), false);
    // It fills slowly, so that rows are wanted all the time.
    (shape.extent_blocks, shape.volume_blocks) = (256, *rng.pick(&[512, 1024]));
    (shape.longest, shape.hot_blocks) = (*rng.pick(&[4, 16]), *rng.pick(&[16, 64]));
    shape.mix = *rng.pick(&[[15, 60, 5, 15, 5], [20, 70, 1, 7, 2]]);
    (shape.depth, shape.eager) = (*rng.pick(&[4, 8, 16]), rng.chance(1, 4));
    (shape.requests, shape.fua) = (shape.requests.max(300) * 3, *rng.pick(&[0, 30]));
}

fn bend_to_lies(shape: &mut Shape, rng: &mut Rng) {
    (shape.legs, shape.weather, shape.seesaw) = (*rng.pick(&[1, 2, 2, 2, 3]), Weather::Beyond, false);
    shape.lies = true;
    shape.only = &[
        FaultKind::LostWrite,
        FaultKind::LostWrite,
        FaultKind::Misdirected,
        FaultKind::Misdirected,
        FaultKind::StaleRead,
        FaultKind::GarbageRead,
        FaultKind::Reset,
        FaultKind::BitRot,
    ];
    (shape.fault_every, shape.crash_every) = (*rng.pick(&[40, 120, 300]), *rng.pick(&[150, 400, 1000]));
    shape.recovery_faults = *rng.pick(&[0, 20]);
    shape.spread = *rng.pick(&[ISLAND_BLOCKS, ISLAND_BLOCKS, 128]);
    (shape.extent_blocks, shape.volume_blocks) = (256, shape.volume_blocks.min(256));
    shape.mix = *rng.pick(&[[25, 55, 10, 5, 5], [10, 80, 5, 2, 3], [30, 40, 20, 5, 5]]);
    (shape.requests, shape.process) = (shape.requests.max(300), *rng.pick(&[0, 30]));
}

fn bend_to_strangers(shape: &mut Shape, rng: &mut Rng) {
    (shape.strangers, shape.legs) = match rng.below(2) {
        0 => (Strangers::OneLeg, shape.legs.max(2)),
        _ => (Strangers::AnyLeg, *rng.pick(&[1, 2, 2, 3])),
    };
    let one_leg = shape.strangers == Strangers::OneLeg;
    (shape.seesaw, shape.silent) = (false, false);
    shape.weather = if one_leg { Weather::OneLeg } else { Weather::Crashes };
    // Where any leg is struck so everything else is well, so that it is known what must be there.
    shape.fault_every = if one_leg { *rng.pick(&[0, 300]) } else { 0 };
    shape.outs = if shape.legs > 1 { *rng.pick(&[0, 100]) } else { 0 };
    shape.crash_every = *rng.pick(&[150, 300]);
    (shape.recovery_crashes, shape.verify_first) = (*rng.pick(&[0, 25]), rng.chance(3, 4));
    (shape.spread, shape.tight) = (*rng.pick(&[ISLAND_BLOCKS, 128, 2048]), rng.chance(1, 4));
    (shape.extent_blocks, shape.volume_blocks) = (256, shape.volume_blocks.min(128));
    (shape.mix, shape.fua) = (*rng.pick(&[[15, 60, 15, 5, 5], [20, 70, 1, 7, 2]]), *rng.pick(&[0, 30]));
    shape.requests = shape.requests.max(300);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that once failed is run for ever: with another shape it would say nothing.
    #[test]
    fn recorded_seeds_keep_their_shapes() {
        for (seed, focus) in crate::cli::recorded() {
            assert_eq!(format!("{:?}", Focus::of(seed)), focus, "seed {seed}");
        }
    }

    #[test]
    fn most_seeds_have_no_focus() {
        let general = (0..1000).filter(|seed| Focus::of(*seed) == Focus::General).count();
        assert!((280..400).contains(&general), "{general}");
    }
}
