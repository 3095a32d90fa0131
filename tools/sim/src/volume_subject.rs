//! The engine of `volume` as a subject: the one file of the simulator that knows it.
//!
//! Groups are as small as the format allows, so that everything happens often: rings of a few dozen blocks, caches
//! of a few pages, deltas that are full after a few hundred blocks, rows added one by one.
use crate::checks::Violation;
use crate::checks::c5::AtRest;
use crate::offline::{self, Offline};
use crate::secret::Watch;
use crate::shape::Shape;
use crate::subject::{Scrubbed, Subject};
use base::{Blocks, CkptNo, DriveIx, Extent, ExtentNo, RowNo, Sectors, Seq, Uuid};
use fence::{CopyEntry, CopyState};
use rlog::replay;
use simkit::{Catalogue, Control, Open, Opening, Pool, Rng, SimDrive};
use std::ops::RangeInclusive;
use volume::create::NewGroup;
use volume::layout::FIRST_EXTENT_BLOCK;
use volume::{
    Activation, Candidate, Config, CopyHealth, DriveInfo, Geometry, NewVolume, OpenRequest, Volume,
};

/// Data keys that a group has at the same time, at most.
const MOST_KEYS: u16 = 3;

/// A group of one volume.
#[derive(Clone)]
pub struct VolumeGroup {
    config: Config,
    group: Uuid,
    /// Where its home row may lie: also on the drives that can take the place of the first.
    home: Vec<Extent>,
    extent_blocks: u32,
    volume: NewVolume,
    forced: bool,
    /// Of an encrypted group.
    watch: Option<Watch>,
    /// Its data keys: the first and the last that whoever opens it has.
    data_keys: (u16, u16),
    /// More are made now and then.
    rekeys: bool,
}

impl Open for VolumeGroup {
    type Engine = Volume;

    fn open(&mut self, opening: &Opening<'_>) -> Volume {
        let candidate = |i: &usize| {
            let drive = &opening.drives[*i];
            let homes = self.home.iter().filter(|extent| usize::from(extent.drive.get()) == *i);
            Candidate {
                info: DriveInfo { uuid: drive.uuid, blocks: drive.blocks(), volatile: drive.volatile },
                homes: homes.map(|extent| extent.extent).collect(),
            }
        };
        let request = OpenRequest {
            group: self.group,
            extent_blocks: self.extent_blocks,
            drives: opening.at_hand.iter().map(candidate).collect(),
            catalogue: Some(view(opening.drives, opening.catalogue)),
            forced: self.forced,
            served: None,
            activation: Activation { generation: opening.activation, id: opening.id, salt: opening.salt },
            create: Some(self.volume),
        };
        // Whoever opens it may have a new key.
        let keys = self.data_keys.1 - self.data_keys.0 + 1;
        if self.rekeys && keys < MOST_KEYS && opening.id.0[0].is_multiple_of(4) {
            self.data_keys.1 += 1;
        }
        match &self.watch {
            Some(watch) => Volume::open_encrypted(self.config, request, watch.keys(self.group, self.keys())),
            None => Volume::open(self.config, request),
        }
    }

    fn legs_of_rows(engine: &Volume) -> Option<u8> {
        engine.stats().map(|stats| stats.legs)
    }

    fn has_rows(engine: &Volume, drive: Uuid) -> bool {
        !engine.extents_on(drive).is_empty()
    }

    fn drive_of(engine: &Volume, index: DriveIx) -> Option<Uuid> {
        engine.drive(index)
    }

    fn stale_since(engine: &Volume, index: DriveIx) -> Option<(Seq, CkptNo)> {
        engine.stale_since(index)
    }
}

/// What the catalogue says of the copies.
fn view(drives: &[SimDrive], catalogue: &Catalogue) -> Vec<CopyEntry> {
    let entry = |(i, drive): (usize, &SimDrive)| {
        let (seq, ckpt) = catalogue.since[i];
        let stale = CopyState::stale(seq, ckpt);
        let (state, version) = match catalogue.is_stale(i) {
            true => (stale, catalogue.stale[i]),
            false => (CopyState::Current, catalogue.current[i].max(1)),
        };
        CopyEntry { drive: drive.uuid, state, version }
    };
    drives.iter().enumerate().map(entry).collect()
}

impl VolumeGroup {
    fn keys(&self) -> RangeInclusive<u16> {
        self.data_keys.0..=self.data_keys.1
    }

    fn config(shape: &Shape, planted: Option<&str>, rng: &mut Rng) -> Config {
        #[cfg(not(feature = "planted"))]
        assert!(planted.is_none(), "bugs can be planted only with the feature `planted`");
        Config {
            slots: shape.depth,
            cache_pages: *rng.pick(&[128, 160, 512]),
            delta_entries: *rng.pick(&[256, 400, 1024]),
            loaded_regions: *rng.pick(&[4, 8, 64]),
            max_rows: 64,
            read_only: false,
            #[cfg(feature = "planted")]
            planted: planted.map(|name| {
                let all = volume::Planted::ALL.iter();
                *all.clone().find(|bug| bug.name() == name).expect("a bug that can be planted")
            }),
        }
    }

    fn geometry(shape: &Shape, rng: &mut Rng) -> Geometry {
        let extent = shape.extent_blocks as u32;
        let ring = Geometry::default_ring(shape.columns, extent);
        let stripe = *rng.pick(&[8, 16]);
        Geometry::new(shape.legs, shape.columns, stripe, extent, ring)
    }
}

impl Subject for VolumeGroup {
    fn create(shape: &Shape, planted: Option<&str>, rng: &mut Rng) -> (Self, Vec<SimDrive>, Control) {
        let (count, all) = (shape.drives(), shape.world_drives());
        let extent_blocks = shape.extent_blocks as u32;
        // A drive that can take the place of another one is as large; so are all where legs come and go.
        let like = |drive| match shape.twin_drives() {
            _ if drive < shape.all_drives() => drive,
            twins if twins.contains(&drive) => drive % shape.all_drives(),
            _ => shape.place_of(drive) % count,
        };
        let size =
            |drive| FIRST_EXTENT_BLOCK + u64::from(shape.extents_of(like(drive))) * shape.extent_blocks;
        let mut drives: Vec<SimDrive> = (0..all)
            .map(|i| SimDrive::new(Uuid(rng.bytes16()), Blocks::new(size(i)), shape.volatile))
            .collect();
        drives.iter_mut().for_each(|drive| drive.slow_flushes(shape.flush_factor));
        let extents = |drive| (0..shape.extents_of(drive)).rev().map(ExtentNo::new).collect();
        let mut free: Vec<Vec<ExtentNo>> = (0..count).map(extents).collect();
        free.resize(all, Vec::new());
        let mut pool = Pool::new(free, (0..count).map(|place| vec![place]).collect());
        pool.turned = if shape.mixed { usize::from(shape.columns) } else { 0 };
        let home = pool.grant(RowNo::ZERO, 0).expect("every drive has an extent").extents;
        let new = NewGroup {
            pool: Uuid([7; 16]),
            group: Uuid(rng.bytes16()),
            geometry: Self::geometry(shape, rng),
            drives: drives[..count].iter().map(|drive| drive.uuid).collect(),
            home: home.clone(),
        };
        let watch = shape.encrypted.then(Watch::default);
        let phases = match &watch {
            Some(watch) => volume::create::plan_encrypted(&new, watch.keys(new.group, 1..=1)),
            None => volume::create::plan(&new),
        };
        let phases = phases.expect("shapes of the simulator can be");
        for (drive, at, block) in phases.into_iter().flatten() {
            drives[usize::from(drive.get())].poke(at, &block[..]);
        }
        let mut home = home;
        if shape.twins {
            let twins = shape.twin_drives();
            let first = home.clone();
            for set in twins.clone().step_by(shape.all_drives()) {
                let twin = |e: &Extent| Extent { drive: DriveIx::new(e.drive.get() + set as u8), ..*e };
                home.extend(first.iter().map(twin));
            }
            pool.others = twins.collect();
        }
        if shape.most_legs > 0 {
            // A drive that was left says for ever what it said.
            pool.others = (0..all).collect();
            // Each of them begins with the first extent that its drive has.
            let new = (shape.legs..shape.most_legs).flat_map(|leg| shape.drives_of_leg(leg));
            home.extend(new.map(|drive| Extent { drive: DriveIx::new(drive as u8), extent: ExtentNo::ZERO }));
        }
        let sectors = Sectors::new(shape.sectors_for(shape.blocks_at_first()));
        let volume = NewVolume { uuid: Uuid(rng.bytes16()), sectors };
        let config = Self::config(shape, planted, rng);
        let group = Self {
            config,
            group: new.group,
            home,
            extent_blocks,
            volume,
            forced: false,
            // What is saved of a copy that lacks something may lie under any key that there was.
            rekeys: watch.is_some() && !shape.disasters,
            watch,
            data_keys: (1, 1),
        };
        (group, drives, Control { pool, catalogue: Catalogue::default() })
    }

    fn plantable() -> Vec<&'static str> {
        if cfg!(feature = "planted") {
            volume::Planted::ALL.iter().map(|bug| bug.name()).collect()
        } else {
            Vec::new()
        }
    }

    fn recovery_rows(engine: &Volume) -> Vec<(&'static str, u64)> {
        let counts = engine.recovery_rows();
        replay::Row::ALL.iter().map(|row| (row_name(*row), counts.of(*row))).collect()
    }

    fn repaired(engine: &Volume) -> Vec<u64> {
        let stats = engine.stats();
        stats.map_or_else(Vec::new, |s| s.drives.iter().map(|drive| drive.stats.repaired_blocks).collect())
    }

    fn check_errors(engine: &Volume) -> Vec<(Uuid, u64)> {
        let stats = engine.stats();
        stats.map_or_else(Vec::new, |s| s.drives.iter().map(|d| (d.uuid, d.stats.check_errors)).collect())
    }

    fn is_out(engine: &Volume, drive: Uuid) -> bool {
        let Some(stats) = engine.stats() else { return false };
        let out = |health| matches!(health, CopyHealth::Stale(_) | CopyHealth::Missing);
        // One that is asked what it has is stale still.
        let asked = stats.resync.map(|resync| stats.drives[usize::from(resync.drive.get())].uuid);
        asked != Some(drive) && stats.drives.iter().any(|view| view.uuid == drive && out(view.health))
    }

    fn is_current(engine: &Volume, drive: Uuid) -> bool {
        let Some(stats) = engine.stats() else { return false };
        stats.drives.iter().any(|view| view.uuid == drive && view.health == CopyHealth::Current)
    }

    fn has_halted(engine: &Volume) -> bool {
        engine.halted().is_some()
    }

    fn take_out(engine: &mut Volume, drive: Uuid) {
        // Refused for the last copy; then it stays, and the run goes on.
        let _ = engine.take_out(drive);
    }

    fn moving(engine: &Volume) -> bool {
        let moving = engine.stats().and_then(|stats| stats.moving);
        moving.is_some_and(|moving| moving.outcome == volume::MoveOutcome::Copying)
    }

    fn lingers(engine: &Volume) -> bool {
        engine.stats().and_then(|stats| stats.moving).is_some_and(|moving| moving.settled.is_some())
    }

    fn extents_on(engine: &Volume, drive: Uuid) -> Vec<ExtentNo> {
        engine.extents_on(drive)
    }

    fn legs(engine: &Volume) -> Option<u8> {
        engine.stats().map(|stats| stats.legs)
    }

    fn sectors(engine: &Volume) -> Option<u64> {
        engine.sectors().map(Sectors::get)
    }

    fn grow(engine: &mut Volume, sectors: u64) -> bool {
        engine.grow(Sectors::new(sectors))
    }

    fn says_current(&self, drive: &SimDrive) -> bool {
        // Without spares and moves each drive begins with the extent of its home row.
        let found = offline::newest_on(drive, self.group, [ExtentNo::ZERO].into_iter(), self.extent_blocks);
        found.is_some_and(|superblock| {
            superblock.drives.iter().any(|entry| entry.drive == drive.uuid && entry.state.is_current())
        })
    }

    fn force(&mut self, forced: bool) {
        self.forced = forced;
    }

    fn counts_on(engine: &Volume, drive: Uuid) -> bool {
        Self::is_current(engine, drive) && engine.extents_on(drive).is_empty()
    }

    fn home_extents(&self, drive: usize) -> Vec<ExtentNo> {
        let here = self.home.iter().filter(|extent| usize::from(extent.drive.get()) == drive);
        here.map(|extent| extent.extent).collect()
    }

    fn wipe(&self, drive: &mut SimDrive) {
        let extents = (drive.blocks().get() - FIRST_EXTENT_BLOCK) / u64::from(self.extent_blocks);
        for extent in 0..extents as u32 {
            let start = volume::label::extent_start(ExtentNo::new(extent), self.extent_blocks);
            for block in [volume::layout::extent::HEADER].iter().chain(&volume::layout::extent::SUPERBLOCKS) {
                drive.poke(start + Blocks::new(u64::from(*block)), &[0; base::BLOCK_BYTES]);
            }
        }
    }

    fn start_scrub(engine: &mut Volume) -> bool {
        engine.start_scrub(0)
    }

    fn stop_scrub(engine: &mut Volume) {
        engine.stop_scrub();
    }

    fn scrub(engine: &mut Volume) -> Scrubbed {
        let mut found = Vec::new();
        engine.take_findings(&mut found);
        let lost = found.iter().filter(|finding| finding.outcome == volume::Outcome::Lost).count() as u64;
        let finished = engine.stats().is_some_and(|stats| stats.scrub.finished);
        let place = |finding: &volume::Finding| (engine.drive(finding.drive).expect("listed"), finding.at);
        Scrubbed { finished, wrong: found.iter().map(place).collect(), lost }
    }

    fn start_rekey(&self, engine: &mut Volume) {
        if self.rekeys {
            engine.start_rekey();
        }
    }

    fn rekeyed(&mut self, engine: &Volume) {
        // Only an open brings a new key, so the newest one is that of who serves.
        if self.rekeys && engine.stats().is_some_and(|stats| stats.rekey.finished) {
            self.data_keys.0 = self.data_keys.1;
        }
    }

    fn lacking(engine: &Volume) -> Vec<Uuid> {
        let Some(stats) = engine.stats() else { return Vec::new() };
        let lacks = |health| !matches!(health, CopyHealth::Current | CopyHealth::Failing);
        let lacking = stats.drives.iter().filter(|drive| lacks(drive.health)).map(|drive| drive.uuid);
        lacking.filter(|drive| !engine.extents_on(*drive).is_empty()).collect()
    }

    fn durable(engine: &Volume) -> Seq {
        engine.stats().map_or(Seq::ZERO, |stats| stats.durable)
    }

    fn promised(&self, drives: &[SimDrive], heard: &[bool], only_whole: bool) -> (u64, Seq) {
        offline::promised(drives, heard, only_whole, self.group, (&self.home, self.extent_blocks))
    }

    fn at_rest(&self, drives: &[SimDrive], counts: &[bool], scrubbed: bool) -> Result<AtRest, Violation> {
        let keys = self.watch.as_ref().map(|watch| watch.keys(self.group, self.keys()));
        Ok(Offline::walk(drives, self.group, (&self.home, self.extent_blocks), (counts, scrubbed), keys)?
            .into_places())
    }

    fn refusal(engine: &Volume) -> String {
        format!("{:?}, {}", engine.refusal(), engine.unfinished())
    }
}

/// Names of the rows of the recovery table, as reports print them.
fn row_name(row: replay::Row) -> &'static str {
    use replay::Row as R;
    match row {
        R::AfterCut => "after-cut",
        R::Voided => "voided",
        R::PromisedMissing => "promised-missing",
        R::NeverCompleted => "never-completed",
        R::Promised => "promised",
        R::PromisedPartly => "promised-partly",
        R::DataCutShort => "data-cut-short",
        R::CompletedPartly => "completed-partly",
        R::Completed => "completed",
    }
}
