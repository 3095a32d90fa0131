//! Opening a group for serving: its drives, each checked and locked, and the engine over those at hand.
use super::drives::{OpenDrive, OpenDrives};
use super::locked::{Taken, Wanted};
use crate::agent::parse_id;
use crate::error::{Error, Kind, Result};
use crate::keys::GroupSecret;
use crate::target_spec::{TargetDrive, TargetSpec};
use base::limits::{MAX_DRIVES, MAX_POLL_ACTIONS, MAX_POLL_SEGMENTS, MAX_SLOTS};
use base::{
    Actions, BLOCK_BYTES, BufId, CkptNo, Duration, Engine, ExtentNo, Fault, Gen, Instant, IoToken, Memory,
    Phase, Reply, Request, SECTOR_BYTES, Sector, Sectors, Seq, SlotId, Uuid,
};
use fence::{CopyEntry, CopyState};
use ublk_target::{Allocation, Extent, Options, Target, VolumeInfo};
use volume::{Activation, Candidate, Config, DriveInfo, NewVolume, OpenRequest, Refusal, StaysIn, Volume};

/// The longest discard that the engine takes as one request: its record has one range.
const MAX_DISCARD_SECTORS: u64 = 1 << 21;

/// The engine as the loop runs it.
pub struct Served(Volume);

impl Served {
    /// The engine.
    pub fn volume(&self) -> &Volume {
        &self.0
    }

    /// Raises the size, if it is less.
    pub fn grow(&mut self, sectors: Sectors) -> bool {
        self.0.sectors().is_some_and(|has| has >= sectors) || self.0.grow(sectors)
    }
}

impl Served {
    /// Puts a drive out; see `Volume::take_out`.
    ///
    /// # Errors
    /// Why it stays in.
    pub fn take_out(&mut self, drive: Uuid) -> std::result::Result<(), StaysIn> {
        self.0.take_out(drive)
    }

    /// Starts a scrub; see `Volume::start_scrub`.
    pub fn start_scrub(&mut self, from: u64) -> bool {
        self.0.start_scrub(from)
    }

    /// Ends a scrub where it is.
    pub fn stop_scrub(&mut self) {
        self.0.stop_scrub();
    }

    /// Starts the walk to the newest data key; see `Volume::start_rekey`.
    pub fn start_rekey(&mut self) -> bool {
        self.0.start_rekey()
    }

    /// Bounds the rate of that walk, in blocks a second; 0 is no bound.
    pub fn set_rekey_rate(&mut self, blocks: u64) {
        self.0.set_rekey_rate(blocks);
    }

    /// Bounds the rate of scrubs, in copies a second; 0 is no bound.
    pub fn set_scrub_rate(&mut self, copies: u64) {
        self.0.set_scrub_rate(copies);
    }

    /// Takes what a scrub found since the last time.
    pub fn take_findings(&mut self, into: &mut Vec<volume::Finding>) {
        self.0.take_findings(into);
    }

    /// Takes a drive back that was handed to the engine; see `Volume::withdraw`.
    pub fn withdraw(&mut self, drive: Uuid) -> bool {
        self.0.withdraw(drive)
    }

    /// Bounds the rate of resyncs, in blocks a second; 0 is no bound.
    pub fn set_resync_rate(&mut self, blocks: u64) {
        self.0.set_resync_rate(blocks);
    }
}

impl Allocation for Served {
    fn allocation(&self, memory: &dyn Memory, from: Sector, limit: Sectors) -> (Extent, Sectors) {
        match self.0.is_hole(from, limit, memory) {
            Some((true, sectors)) if sectors > Sectors::ZERO => (Extent::Hole, sectors),
            Some((false, sectors)) if sectors > Sectors::ZERO => (Extent::Data, sectors),
            _ => (Extent::Data, limit),
        }
    }
}

impl Engine for Served {
    fn memory_blocks(&self) -> u32 {
        self.0.memory_blocks()
    }
    fn slot_buffer(&self, slot: SlotId) -> BufId {
        self.0.slot_buffer(slot)
    }
    fn submit(&mut self, request: Request) {
        self.0.submit(request);
    }
    fn drive_done(&mut self, token: IoToken, result: std::result::Result<(), Fault>) {
        self.0.drive_done(token, result);
    }
    fn reply(&mut self, reply: Reply) {
        self.0.reply(reply);
    }
    fn poll<M: Memory>(&mut self, now: Instant, memory: &mut M, out: &mut Actions) -> Option<Instant> {
        self.0.poll(now, memory, out)
    }
    fn phase(&self) -> Phase {
        self.0.phase()
    }
    fn close(&mut self) {
        self.0.close();
    }
}

/// A group that can be run.
pub struct Opened {
    /// The loop's parts.
    pub target: Target<Served>,
    /// The volume as its users see it.
    pub volume: VolumeInfo,
    /// What could not be opened, in sentences.
    pub absent: Vec<String>,
    /// The drives that the loop has.
    pub open: OpenDrives,
}

/// Opens the drives and prepares the engine.
///
/// # Errors
/// A drive is held by somebody else, or the spec is not one.
pub fn open_group(spec: &TargetSpec, secret: Option<GroupSecret>) -> Result<Opened> {
    let group = parse_id(&spec.group)?;
    check_count(spec)?;
    let (mut drives, mut candidates, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    let open = OpenDrives::default();
    for drive in &spec.drives {
        let Some(path) = &drive.path else {
            if !drive.left {
                absent.push(format!("drive {} is missing", drive.id));
            }
            continue;
        };
        let opened = match Wanted::of(path, &drive.id, spec)?.take()? {
            Taken::Drive(opened) => opened,
            Taken::Absent(error) => {
                let path = path.display();
                absent.push(format!("drive {} at {path} cannot be used: {}", drive.id, error.message));
                continue;
            }
        };
        let number = base::DriveIx::new(drives.len() as u8);
        let known = OpenDrive::of(&drive.id, &opened, number, drive.stale_version.is_some())?;
        candidates.push(Candidate {
            info: DriveInfo { uuid: known.uuid, blocks: known.blocks, volatile: known.volatile },
            homes: drive.homes.iter().map(|extent| ExtentNo::new(*extent)).collect(),
        });
        open.add(&drive.id, known);
        drives.push(opened);
    }
    let sectors = Sectors::new(spec.volume.size_bytes / SECTOR_BYTES as u64);
    let catalogue = Some(spec.drives.iter().map(catalogue_entry).collect::<Result<_>>()?);
    let request = OpenRequest {
        group,
        extent_blocks: spec.extent_blocks,
        drives: candidates,
        catalogue: catalogue.filter(|_| spec.catalogue_counts),
        forced: spec.forced,
        served: spec.served_gen.map(Gen::new),
        activation: Activation {
            generation: Gen::new(spec.gen_number),
            id: parse_id(&spec.activation)?,
            salt: parse_salt(&spec.salt)?,
        },
        create: Some(NewVolume { uuid: parse_id(&spec.volume.id)?, sectors }),
    };
    let config = config(spec)?;
    let volume = VolumeInfo {
        sectors,
        stripe_bytes: u32::from(spec.columns) * spec.stripe_blocks * BLOCK_BYTES as u32,
        max_discard: Sectors::new(MAX_DISCARD_SECTORS),
        read_only: spec.read_only,
    };
    if secret.is_some() && !ublk_target::aes_is_fast() {
        tracing::warn!(
            "this processor has no instructions for AES: encryption is as safe and many times slower"
        );
    }
    let engine = Served(match secret {
        Some(secret) => Volume::open_encrypted(config, request, secret.keys()),
        None => Volume::open(config, request),
    });
    let target = Target::new(engine, drives, volume.clone(), options())
        .map_err(|source| Error::general(Kind::Failed, format!("cannot prepare the loop: {source}")))?;
    Ok(Opened { target, volume, absent, open })
}

/// Refuses more drives than a group has places for, before one of them is opened.
fn check_count(spec: &TargetSpec) -> Result<()> {
    let count = spec.drives.iter().filter(|drive| drive.path.is_some()).count();
    if count <= MAX_DRIVES {
        return Ok(());
    }
    let name = &spec.group_name;
    let message =
        format!("group {name} is said to be on {count} drives, and no group has more than {MAX_DRIVES}");
    Err(Error::new(Kind::Refused, name.clone(), message)
        .hint("plinth drive remove takes a drive out of the pool on which the group has nothing any more"))
}

/// The engine's bounds.
///
/// # Errors
/// A bug was to be planted that there is not.
pub(super) fn config(spec: &TargetSpec) -> Result<Config> {
    let pages = (spec.cache_bytes / BLOCK_BYTES as u64).clamp(256, 1 << 24) as u32;
    let config =
        Config { slots: MAX_SLOTS as u16, cache_pages: pages, read_only: spec.read_only, ..Config::SERVED };
    #[cfg(feature = "planted")]
    let config = Config { planted: planted_bug()?, ..config };
    Ok(config)
}

/// The loop's bounds.
pub(super) fn options() -> Options {
    Options {
        slots: MAX_SLOTS,
        actions: MAX_POLL_ACTIONS,
        segments: MAX_POLL_SEGMENTS,
        slow_after: Duration::from_millis(2_000),
        ..Options::default()
    }
}

/// What the catalogue knows of a copy.
fn catalogue_entry(drive: &TargetDrive) -> Result<CopyEntry> {
    let (state, version) = match drive.stale_version {
        Some(version) => {
            // Of a mark without it nothing may be said: the drive gets everything anew.
            let (seq, ckpt) = drive.stale_since.unwrap_or_default();
            (CopyState::stale(Seq::new(seq), CkptNo::new(ckpt)), version)
        }
        None => (CopyState::Current, 1),
    };
    Ok(CopyEntry { drive: parse_id(&drive.id)?, state, version })
}

fn parse_salt(text: &str) -> Result<[u8; 16]> {
    let bytes: Option<Vec<u8>> =
        (0..16).map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Error::invalid("salt", "the spec's salt is not 32 hexadecimal digits"))
}

/// Why a group does not open, for people.
pub fn refused(refusal: &Refusal) -> Error {
    let bring =
        "bring the missing drives back, then attach again; --force-stale gives up what only they have";
    match refusal {
        Refusal::NewerFormat(version) => {
            let message = format!("the group has format version {version}, which this plinth cannot read");
            Error::general(Kind::NotSupported, message).hint("use a newer plinth")
        }
        Refusal::NoCurrentCopy { missing } => {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let which = if missing.is_empty() {
                String::new()
            } else {
                format!(": missing are {}", missing.join(" "))
            };
            Error::general(Kind::Refused, format!("no complete copy of the group is there{which}"))
                .hint(bring)
        }
        Refusal::NotTheirOwn { drives } => {
            let drives: Vec<String> = drives.iter().map(ToString::to_string).collect();
            let message = format!(
                "what is on {} is not theirs: they have no superblock of the group, and the other copies are stale",
                drives.join(" ")
            );
            Error::general(Kind::Refused, message).hint(
                "put the drives back that belong there, then attach again; once these are taken away, --force-stale \
                 gives up what only they had",
            )
        }
        Refusal::NewerSuperblock { version } => {
            let message = format!("a drive with a newer superblock (version {version}) is missing");
            Error::general(Kind::Refused, message).hint(bring)
        }
        Refusal::NoSuperblock => Error::general(Kind::Damage, "no superblock of the group passes its check")
            .hint("see plinth fsck"),
        Refusal::Damaged(what) => {
            Error::general(Kind::Damage, format!("the group's superblock is damaged: {what}"))
                .hint("see plinth fsck")
        }
        Refusal::LogDamaged { commit } => {
            let message = format!("commit {commit} of the group's log cannot be read on any leg");
            Error::general(Kind::Damage, message).hint("see plinth fsck")
        }
        Refusal::Unreadable(what) => {
            Error::general(Kind::Damage, format!("cannot read on any leg: {what}")).hint("see plinth fsck")
        }
        Refusal::Encrypted => {
            let message = "the drives hold an encrypted group, and the catalogue has no key of it";
            Error::general(Kind::Permission, message)
                .hint("plinth pool export, then plinth pool import takes its envelope from the drives")
        }
        Refusal::NotEncrypted => {
            let message =
                "the group is encrypted, and what its drives hold is not: it is another's, or was put there";
            Error::general(Kind::Damage, message).hint("see plinth fsck; nothing was read from them")
        }
        Refusal::WrongKey => {
            let message =
                "no superblock of the group was made with its key: it is another group's, or was changed";
            Error::general(Kind::Permission, message).hint("see plinth key list and plinth fsck")
        }
        Refusal::KeyMissing { number } => {
            let message = format!("data key {number} of the group is not in the envelope that was opened");
            Error::general(Kind::Permission, message).hint(
                "the envelope is older than what its drives hold; bring the drives that have the newest one",
            )
        }
        Refusal::ActivationTwice => {
            let message = "this activation was used already: a target is started once with its spec";
            Error::general(Kind::Refused, message).hint("let the agent start it")
        }
        Refusal::Older { found, served } => {
            let message = format!(
                "the drives hold an earlier state of the group (Gen {found}) than was served last (Gen {served})"
            );
            Error::general(Kind::Refused, message)
                .hint("bring the drives that have it; --force-stale goes on from the earlier state")
        }
        Refusal::Unwritable => {
            Error::general(Kind::Failed, "the drives could not be written while recovering")
                .hint("check the drives and the kernel's log")
        }
    }
}

/// The bug that `PLINTH_PLANTED` names, in a build that can have one.
#[cfg(feature = "planted")]
fn planted_bug() -> Result<Option<volume::planted::Planted>> {
    let Ok(name) = std::env::var("PLINTH_PLANTED") else { return Ok(None) };
    let found = volume::planted::Planted::ALL.iter().find(|bug| bug.name() == name).copied();
    let unknown = || Error::general(Kind::Invalid, format!("PLINTH_PLANTED names no bug: {name}"));
    found.map(Some).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing;
    use crate::catalogue::{Attachment, DriveRecord, FrontendKind};
    use crate::params::{AddDrives, Labels};

    /// The loop ended the process for it, without a word, and so each time that one was started.
    #[test]
    fn more_drives_than_a_group_has_are_refused_in_a_sentence() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("targets")).expect("makes");
        std::fs::create_dir(folder.path().join("groups")).expect("makes");
        let agent = testing::agent(folder.path());
        testing::new_volume(&agent, folder.path(), "v");
        let nbd_socket = Some(folder.path().join("nbd"));
        let over_nbd = Attachment { frontend: FrontendKind::Nbd, nbd_socket, ..testing::ublk_attachment() };
        testing::attach(&agent, "v", over_nbd);
        agent.prepare_activation("v").expect("prepares");
        let path = agent.options.target_spec(&agent.group_of("v").expect("has one"));
        let mut spec = TargetSpec::read(&path).expect("reads");
        let make = |n: usize| {
            let path = folder.path().join(format!("more-{n}"));
            std::fs::File::create(&path).expect("creates").set_len(256 << 20).expect("sizes");
            path
        };
        let added = AddDrives {
            drives: (0..MAX_DRIVES).map(make).collect(),
            labels: Labels::default(),
            force: false,
        };
        agent.add_drives("pool-of-v", &added, false).expect("adds");
        for DriveRecord { id, path, .. } in
            agent.store.list("drives/").expect("reads").into_iter().map(|d| d.record)
        {
            if spec.drives.iter().all(|has| has.id != id) {
                let like = spec.drives[0].clone();
                spec.drives.push(TargetDrive { id, path: Some(path), homes: Vec::new(), ..like });
            }
        }
        drop(agent);
        let refused = open_group(&spec, None).map(drop).expect_err("is one too many");
        assert!(refused.kind == Kind::Refused && refused.message.contains("33 drives"), "{refused}");
        spec.drives.pop();
        open_group(&spec, None).map(drop).expect("so many are opened");
    }

    /// What is wrong with keys, age or drives is told in a sentence of its own, with a way on.
    #[test]
    fn refusals_that_an_operator_can_do_something_about_are_told() {
        let older = Refusal::Older { found: Gen::new(5), served: Gen::new(7) };
        for (refusal, kind, words) in [
            (Refusal::Encrypted, Kind::Permission, "encrypted"),
            (Refusal::NotEncrypted, Kind::Damage, "is not"),
            (Refusal::WrongKey, Kind::Permission, "was made with its key"),
            (Refusal::NotTheirOwn { drives: Vec::new() }, Kind::Refused, "is not theirs"),
            (older, Kind::Refused, "earlier state of the group (Gen 5) than was served last (Gen 7)"),
        ] {
            let error = refused(&refusal);
            assert_eq!(error.kind, kind, "{refusal:?}");
            assert!(error.message.contains(words) && error.hint.is_some(), "{error:?}");
        }
    }
}
