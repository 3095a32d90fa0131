//! What a seed decides: the group, the drives, the workload and the faults of one run.
use crate::focus::Focus;
use base::SECTORS_PER_BLOCK;
use simkit::{FaultKind, Rng};
use std::ops::Range;

/// Blocks of the volume that lie side by side however far apart the guest's islands are.
pub const ISLAND_BLOCKS: u64 = 16;

/// Blocks from one island to the next; mostly they touch.
const SPREADS: [u64; 6] = [ISLAND_BLOCKS, ISLAND_BLOCKS, ISLAND_BLOCKS, 128, 2048, 16_384];

/// One run in so many has a clock that leaps.
const CLOCK_SHARE: u64 = 12;
/// Where that is drawn from: a number that leaves every seed that had been recorded as it was.
const CLOCK: u64 = 0x434c_4f43_0243;

/// Where it is drawn from whether drives may fall silent.
const SILENCE: u64 = 0x5349_4c45_4e43;
/// Of the numbers that could stand here it leaves what it was every seed that catches a planted bug.
const MIXED: u64 = 0x4d49_5845_4400_8a38;

/// Which faults a run may meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    /// None at all, not even crashes.
    Calm,
    /// Crashes only.
    Crashes,
    /// Crashes, and everything on one leg.
    OneLeg,
    /// Crashes, and rot on one leg.
    Rot,
    /// Crashes, and writes that fail once, on any leg. Requests may fail; the group opens again all the same.
    Hiccups,
    /// Beyond the fault budget: reported faults and rot on any leg, or (`Shape::lies`) what drives do not report. Requests
    /// may fail and the group may refuse to open, but what it returns must be right.
    Beyond,
}

/// Whose drives are not the group's when it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strangers {
    /// Nobody's.
    None,
    /// Those of the leg that faults strike.
    OneLeg,
    /// Of any leg, or all: the group may refuse to open, until it has its own again.
    AnyLeg,
}

/// The parameters of one run; all follow from its seed.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The seed.
    pub seed: u64,
    /// Copies.
    pub legs: u8,
    /// Stripe columns.
    pub columns: u8,
    /// Whether the drives have volatile caches.
    pub volatile: bool,
    /// Blocks of the volume that the guest uses.
    pub volume_blocks: u64,
    /// They lie in islands of `ISLAND_BLOCKS`, one every so many blocks: the further apart, the more pages of the
    /// map are touched, and the larger the volume.
    pub spread: u64,
    /// Size of an extent.
    pub extent_blocks: u64,
    /// Extents that each drive has for this group.
    pub extents_per_drive: u32,
    /// Drives for each place of a row that join the pool later, one by one, when space is short.
    pub spares: u8,
    /// Whether the pool may run out although the volume is within its size.
    pub tight: bool,
    /// Requests in flight at most.
    pub depth: u16,
    /// Requests in all.
    pub requests: u64,
    /// Relative frequency of read, write, flush, discard, write-zeroes.
    pub mix: [u32; 5],
    /// How many writes in a hundred are FUA.
    pub fua: u64,
    /// How many requests in a hundred start and end anywhere, not at blocks.
    pub unaligned: u64,
    /// Longest data request, in blocks.
    pub longest: u64,
    /// Blocks that get most of the writes.
    pub hot_blocks: u64,
    /// A crash about once in so many turns of the run; 0 is never.
    pub crash_every: u64,
    /// How many crashes in a hundred are of the process alone.
    pub process: u64,
    /// A fault about once in so many turns; 0 is never.
    pub fault_every: u64,
    /// The leg that faults strike.
    pub bad_leg: u8,
    /// Whether faults that drives do not report may strike.
    pub silent: bool,
    /// What may go wrong.
    pub weather: Weather,
    /// Beyond the budget: one leg is put out by errors, and then it is the only one that comes back.
    pub seesaw: bool,
    /// Requests are submitted as fast as slots get free, not one now and then.
    pub eager: bool,
    /// How many recoveries in a hundred are cut by another crash.
    pub recovery_crashes: u64,
    /// Everything is read right after each recovery.
    pub verify_first: bool,
    /// What the seed seeks.
    pub focus: Focus,
    /// If not empty, the only faults that strike.
    pub only: &'static [FaultKind],
    /// A fault about once in so many turns of a recovery, beside the others; 0 is never.
    pub recovery_faults: u64,
    /// How many times as long as usual a flush takes.
    pub flush_factor: u64,
    /// A drive of the leg that faults strike is put out about once in so many turns; 0 is never.
    pub outs: u64,
    /// Each drive has another one that can take its place, and gives it back later.
    pub twins: bool,
    /// How many in a thousand answers of the control plane take a second.
    pub slow_control: u64,
    /// Drives come back with what they held long ago, or with what another one holds.
    pub ghosts: bool,
    /// The process pauses, or its clock leaps, about once in so many turns; 0 is never.
    pub pauses: u64,
    /// Power likes to go away while a move comes to its end, and only some drives come back then.
    pub ends: bool,
    /// Some moves are of a part of a drive only.
    pub shifts: bool,
    /// Legs that the group may have at most, where legs come and go; 0 where they do not.
    pub most_legs: u8,
    /// Scrubs begin while everything else goes on.
    pub scrubs: bool,
    /// The group is closed and opened again about once in so many turns; 0 is never.
    pub closes: u64,
    /// Blocks of the volume at first, which grows to `volume_blocks`; 0 where it has them from the beginning.
    pub first_blocks: u64,
    /// The copies that have everything are lost while another one lacks something, and the group is opened by force.
    pub disasters: bool,
    /// The group is encrypted: every third is, but none of those that were recorded when none was. Not drawn, so that the
    /// shapes of all other seeds stay as they are.
    pub encrypted: bool,
    /// When a write fails one that follows likes to take long, and power to go away meanwhile.
    pub fails: bool,
    /// When a flush fails the process likes to be killed soon.
    pub forgets: bool,
    /// Beyond the budget: what drives do not report strikes any leg, and often all legs at once.
    pub lies: bool,
    /// Drives that are another group's, blank, each other's copies or in each other's places when the group is opened.
    pub strangers: Strangers,
    /// A drive of the leg that faults strike is unplugged about once in so many turns, and plugged in again while the
    /// group is served; 0 is never.
    pub unplugs: u64,
    /// A drive of the leg that faults strike never answers again, now and then.
    pub silences: bool,
    /// Drives join, are left and come back all the time.
    pub doors: bool,
    /// Sets of drives that can take the places of all others of the pool, also of those that join later; 0 where only the
    /// first ones have a twin, or none has.
    pub stand_ins: u8,
    /// Each drive has other legs of other rows.
    pub mixed: bool,
}

impl Shape {
    /// The shape of this seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5348_4150_4521);
        let legs = [1, 2, 2, 2, 2, 3][rng.below(6) as usize];
        let weather = match (legs, rng.below(10)) {
            (_, 0) => Weather::Calm,
            (_, 1) => Weather::Hiccups,
            (_, 2) => Weather::Beyond,
            (1, _) | (_, 3..=5) => Weather::Crashes,
            (_, 6) => Weather::Rot,
            _ => Weather::OneLeg,
        };
        let extent_blocks = *rng.pick(&[256, 512, 512]);
        let volume_blocks = *rng.pick(&[128, 256, 512, 1024]);
        let tight = rng.chance(1, 4);
        let columns = *rng.pick(&[1, 1, 2]);
        let mut shape = Self {
            seed,
            legs,
            columns,
            volatile: rng.chance(3, 4),
            volume_blocks,
            spread: *Rng::new(seed ^ 0x5350_5245_4144).pick(&SPREADS),
            extent_blocks,
            extents_per_drive: 0,
            spares: 0,
            tight,
            depth: *rng.pick(&[1, 2, 4, 8, 16, 32]),
            requests: rng.between(60, 500),
            mix: *rng.pick(&[
                [30, 50, 8, 6, 6],
                [10, 80, 5, 2, 3],
                [50, 30, 10, 5, 5],
                [5, 60, 1, 30, 4],
                [20, 70, 0, 5, 5],
            ]),
            fua: *rng.pick(&[0, 5, 30]),
            unaligned: *rng.pick(&[0, 20, 60]),
            longest: *rng.pick(&[1, 4, 16, 64]),
            hot_blocks: *rng.pick(&[4, 16, 64]),
            crash_every: if weather == Weather::Calm { 0 } else { *rng.pick(&[150, 400, 1000, 2500]) },
            process: *rng.pick(&[0, 30, 100]),
            fault_every: match weather {
                Weather::OneLeg => *rng.pick(&[40, 150, 500]),
                Weather::Beyond => *rng.pick(&[150, 500]),
                Weather::Hiccups | Weather::Rot => *rng.pick(&[100, 300]),
                Weather::Calm | Weather::Crashes => 0,
            },
            bad_leg: rng.below(u64::from(legs)) as u8,
            silent: rng.chance(1, 2),
            weather,
            seesaw: weather == Weather::Beyond && legs > 1 && rng.chance(1, 2),
            eager: rng.chance(1, 2),
            recovery_crashes: *rng.pick(&[0, 25, 60]),
            verify_first: rng.chance(2, 3),
            focus: Focus::of(seed),
            only: &[],
            recovery_faults: 0,
            flush_factor: 1,
            outs: 0,
            twins: false,
            slow_control: 50,
            ghosts: false,
            pauses: 0,
            ends: false,
            shifts: false,
            most_legs: 0,
            scrubs: false,
            closes: 0,
            first_blocks: 0,
            disasters: false,
            encrypted: seed % 3 == 1 && !crate::cli::recorded_plain(seed),
            fails: false,
            forgets: false,
            lies: false,
            strangers: Strangers::None,
            unplugs: 0,
            silences: false,
            doors: false,
            stand_ins: 0,
            mixed: false,
        };
        if tight {
            // A cramped group uses every free block again soon.
            (shape.extent_blocks, shape.spread) = (256, ISLAND_BLOCKS);
            shape.volume_blocks = shape.volume_blocks.min(256);
            shape.requests += 200;
        }
        shape.focus.bend(&mut shape, &mut Rng::new(seed ^ 0x4245_4e44));
        shape.size_pool(&mut rng);
        shape.draw_spares();
        shape.draw_clock();
        shape.draw_silences();
        shape.draw_mixture();
        shape
    }

    /// Where a sector of the guest's lies in the volume.
    pub fn place(&self, sector: u64) -> u64 {
        let island = ISLAND_BLOCKS * SECTORS_PER_BLOCK;
        sector / island * (self.spread * SECTORS_PER_BLOCK) + sector % island
    }

    /// The first sector and the length in the volume of a range of the guest's.
    pub fn place_range(&self, sector: u64, sectors: u64) -> (u64, u64) {
        let first = self.place(sector);
        if sectors == 0 { (first, 0) } else { (first, self.place(sector + sectors - 1) + 1 - first) }
    }

    /// How many of these sectors lie side by side in the volume from `sector` on.
    pub fn side_by_side(&self, sector: u64, sectors: u64) -> u64 {
        let island = ISLAND_BLOCKS * SECTORS_PER_BLOCK;
        if self.spread == ISLAND_BLOCKS { sectors } else { sectors.min(island - sector % island) }
    }

    /// Size of a volume of which the guest uses so many blocks.
    pub fn sectors_for(&self, blocks: u64) -> u64 {
        self.place(blocks * SECTORS_PER_BLOCK - 1) + 1
    }

    /// Blocks of the volume that the guest may use at first.
    pub fn blocks_at_first(&self) -> u64 {
        if self.first_blocks == 0 { self.volume_blocks } else { self.first_blocks }
    }

    /// Extents enough for the volume twice over, or hardly enough.
    fn size_pool(&mut self, rng: &mut Rng) {
        let row = u64::from(self.columns) * self.extent_blocks;
        let rows = if self.tight {
            1 + self.volume_blocks / row + rng.below(2)
        } else {
            // Each island can have leaf and inner pages of its own, old and new.
            let pages = if self.spread > ISLAND_BLOCKS { self.volume_blocks / ISLAND_BLOCKS * 8 } else { 0 };
            3 + (2 * self.volume_blocks + pages).div_ceil(row)
        };
        self.extents_per_drive = rows as u32;
    }

    /// In every third run the pool begins with a part of its drives.
    fn draw_spares(&mut self) {
        if self.doors {
            self.tight |= self.spares > 0;
            return;
        }
        let mut rng = Rng::new(self.seed ^ 0x5350_4152_4553);
        // Where all that happens is rot on single blocks, repairs are counted by drive.
        let may_join = self.weather != Weather::Rot && self.most_legs == 0 && !self.disasters;
        if may_join && rng.chance(1, 3) {
            self.spares = rng.between(1, 2) as u8;
            // Until a drive has joined there may be no space.
            self.tight = true;
        }
    }

    /// In every twelfth run, whatever it seeks, the process pauses now and then, or its clock leaps. Ahead only: the
    /// engine's clock is monotonic.
    fn draw_clock(&mut self) {
        if self.pauses == 0 && Rng::new(self.seed ^ CLOCK).below(CLOCK_SHARE) == 0 {
            self.pauses = 400;
        }
    }

    /// In every fourth run in which one leg is struck a drive of it may never answer again. None of those that were recorded
    /// when all did.
    fn draw_silences(&mut self) {
        let one_leg = self.weather == Weather::OneLeg && self.legs > 1 && self.only.is_empty();
        let known = self.strangers == Strangers::None && !crate::cli::recorded_answering(self.seed);
        let often = if self.doors { 3 } else { 1 };
        self.silences = one_leg && known && Rng::new(self.seed ^ SILENCE).chance(often, 4);
    }

    /// In every fourth run drives have other legs of other rows. There legs go at most, the third one, and none comes. None of
    /// those that were recorded when each had one leg.
    fn draw_mixture(&mut self) {
        // Where drives are left all the time the pool follows them leg by leg, and would have no row.
        let legs = if self.most_legs > 0 { self.legs > 2 && !self.doors } else { self.legs > 1 };
        let can_be = legs && !self.ends && !crate::cli::recorded_unmixed(self.seed);
        self.mixed = can_be && Rng::new(self.seed ^ MIXED).chance(1, 4);
        if self.mixed {
            self.most_legs = self.most_legs.min(self.legs);
            self.bad_leg %= self.legs;
        }
    }

    /// Extents of a drive for this group. Where drives join later they are of several sizes, together enough.
    pub fn extents_of(&self, drive: usize) -> u32 {
        if self.spares == 0 {
            return self.extents_per_drive;
        }
        let uneven = Rng::new(self.seed ^ drive as u64 ^ 0x4558_5445_4e54).below(3) as u32;
        if self.doors {
            return 1 + uneven % 2;
        }
        // The first ones hold little more than the home row, so that the others are needed.
        let share =
            if drive < self.drives() { 1 } else { self.extents_per_drive.div_ceil(u32::from(self.spares)) };
        share + uneven
    }

    /// Drives of the group at first: one for each column of each leg.
    pub fn drives(&self) -> usize {
        usize::from(self.legs) * usize::from(self.columns)
    }

    /// Drives of the group at last.
    pub fn all_drives(&self) -> usize {
        self.drives() * (usize::from(self.spares) + 1)
    }

    /// Drives of the world: those, and the ones that may take the place of the first.
    pub fn world_drives(&self) -> usize {
        self.first_of_new_legs() + usize::from(self.most_legs.saturating_sub(self.legs) * self.columns)
    }

    /// Drives that may take the place of others of the pool, set by set; none where no drive has a twin.
    pub fn twin_drives(&self) -> Range<usize> {
        let all = self.all_drives();
        let twins = match self.stand_ins {
            _ if !self.twins => 0,
            0 => self.drives(),
            sets => usize::from(sets) * all,
        };
        all..all + twins
    }

    /// Drives behind this one are of legs that the group does not have at first.
    fn first_of_new_legs(&self) -> usize {
        self.twin_drives().end
    }

    /// The place of a row (`leg * columns + column`) that a drive serves.
    pub fn place_of(&self, drive: usize) -> usize {
        match drive.checked_sub(self.first_of_new_legs()) {
            Some(behind) => self.drives() + behind,
            None => drive % self.drives(),
        }
    }

    /// The drives that leg `leg` has, or is to have, one for each column; not those that can take their places.
    pub fn drives_of_leg(&self, leg: u8) -> std::ops::Range<usize> {
        let columns = usize::from(self.columns);
        let first = match leg.checked_sub(self.legs) {
            Some(behind) => self.first_of_new_legs() + usize::from(behind) * columns,
            None => usize::from(leg) * columns,
        };
        first..first + columns
    }

    /// The leg that a drive is of.
    pub fn leg_of(&self, drive: usize) -> u8 {
        (self.place_of(drive) / usize::from(self.columns)) as u8
    }

    /// Whether this drive belongs to the leg that faults strike.
    pub fn is_bad(&self, drive: usize) -> bool {
        matches!(self.weather, Weather::Beyond | Weather::Hiccups) || self.leg_of(drive) == self.bad_leg
    }
}
