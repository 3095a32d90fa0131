//! What an import needs to know of the groups on drives: superblocks, rows and names, no maps, no log.
//!
//! Crash story: a drive that holds only later rows of a group has no superblock of it. If the group's home drives are
//! away, all that says that those extents are in use is their headers; taken for free, the next row of somebody else
//! goes over them. So whatever is not known to be nobody's is told as held.
use crate::drive::Drive;
use crate::fsck::{Options, identify};
use crate::group::GroupView;
use crate::home::{self, HomePages};
use crate::keys::{Keyring, Seals};
use crate::media::Media;
use crate::report::Report;
use crate::scan::{Doubt, GroupHomes, Scan, find_groups};
use crate::supers::{self, SlotState, Unusable};
use base::{CheckKind, Extent, ExtentNo, Gen, RowNo, Uuid};
use fence::CopyEntry;
use std::collections::BTreeSet;
use volume::keys::GroupKeys;
use volume::names::Found;
use volume::{Bad, Geometry, Header, Names, StoredEnvelope};

/// A group as its newest superblock and its row pages describe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The group.
    pub group: Uuid,
    /// The pool.
    pub pool: Uuid,
    /// Highest Gen found.
    pub generation: Gen,
    /// Its shape.
    pub geometry: Geometry,
    /// Its drive table.
    pub drives: Vec<CopyEntry>,
    /// Its rows: per row the extents, ordered by leg, then column.
    pub rows: Vec<Vec<Extent>>,
    /// The newest names in the headers of its home row; `None` too if they could not be opened.
    pub names: Option<Names>,
    /// Of an encrypted group: the envelopes in those headers, the newest first.
    pub envelopes: Option<Vec<StoredEnvelope>>,
    /// No drive can know better: every home extent on a drive that counts was read, with its keys if it is encrypted.
    pub certain: bool,
}

/// Gives the keys of an encrypted group, by its identity and the envelopes in its headers, the newest first.
pub type KeysOf<'a> = dyn Fn(Uuid, &[StoredEnvelope]) -> Option<GroupKeys> + 'a;

/// A group that cannot be described.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// The group.
    pub group: Uuid,
    /// Why not, in a sentence that follows its name.
    pub why: String,
}

/// An extent that has or may have something of a group that is not described, or of which more may be known elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The drive.
    pub drive: Uuid,
    /// The extent.
    pub extent: ExtentNo,
    /// What its header says, if it can be read.
    pub header: Option<Header>,
    /// Its header is of a newer format: whose it is nobody knows.
    pub newer: bool,
}

/// What is on drives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// The drives that were read: those with a label, each once.
    pub drives: Vec<Uuid>,
    /// The groups that were found and can be described.
    pub groups: Vec<Group>,
    /// Those that were found and cannot.
    pub left_out: Vec<LeftOut>,
    /// Extents that are in use all the same, or may be.
    pub held: Vec<Held>,
}

/// What became of the groups, by identity.
#[derive(Default)]
struct Known {
    certain: BTreeSet<Uuid>,
    /// Its creation was not finished, or its deletion was: the extents that are its home are nobody's.
    never: BTreeSet<Uuid>,
    /// Index of the drive, extent: in the rows of a group.
    backed: BTreeSet<(usize, u32)>,
}

/// What is on these drives. Of an encrypted group without its keys that is what its drives say alike, and no names.
pub fn groups(drives: &[(&str, &dyn Media)], keys: &KeysOf<'_>) -> Summary {
    let mut report = Report::default();
    let drives = identify(drives, &mut report);
    let scan = find_groups(&drives, &mut report);
    let mut summary =
        Summary { drives: drives.iter().map(|drive| drive.uuid).collect(), ..Summary::default() };
    let mut known = Known::default();
    for homes in &scan.groups {
        let homes = own_homes(&drives, &scan, homes);
        if homes.homes.is_empty() {
            continue;
        }
        match describe(&drives, &scan, &homes, keys, &mut known, &mut report) {
            Ok(group) => {
                if group.certain {
                    known.certain.insert(group.group);
                }
                summary.groups.push(group);
            }
            Err(Unusable::Never) => drop(known.never.insert(homes.group)),
            Err(Unusable::Faults(why)) => summary.left_out.push(LeftOut { group: homes.group, why }),
        }
    }
    summary.held = held(&drives, &scan, &known);
    let mut told: BTreeSet<Uuid> = summary.groups.iter().map(|group| group.group).collect();
    told.extend(summary.left_out.iter().map(|left| left.group));
    for header in summary.held.iter().filter_map(|held| held.header) {
        if told.insert(header.group) {
            let why = "has extents here, and its superblock is on no drive that is at hand".to_owned();
            summary.left_out.push(LeftOut { group: header.group, why });
        }
    }
    summary
}

/// A header that was written to this drive in this life of it: the extents of a drive are not wiped when it joins
/// another pool.
fn is_own(drive: &Drive<'_>, header: &Header) -> bool {
    drive.pool == Some(header.pool) && drive.uuid == header.drive
}

/// Home extents without those that a group had when the drive was another one.
fn own_homes(drives: &[Drive<'_>], scan: &Scan, homes: &GroupHomes) -> GroupHomes {
    let own = |(drive, extent): &&(usize, ExtentNo)| {
        scan.headers.get(&(*drive, extent.get())).is_none_or(|header| is_own(&drives[*drive], header))
    };
    GroupHomes { group: homes.group, homes: homes.homes.iter().filter(own).copied().collect() }
}

fn describe<'a>(
    drives: &'a [Drive<'a>],
    scan: &Scan,
    homes: &GroupHomes,
    keys: &KeysOf<'_>,
    known: &mut Known,
    report: &mut Report,
) -> Result<Group, Unusable> {
    let by_envelopes = ByEnvelopes { scan, homes, keys };
    let Some(mut view) = supers::read(drives, homes, &Options::default(), &by_envelopes, report) else {
        return Err(supers::why_none(drives, homes).0);
    };
    let newer = view.slots.iter().find_map(|slot| match slot.state {
        SlotState::Bad(Bad::Newer(version), _) => Some(version),
        _ => None,
    });
    if let Some(version) = newer {
        return Err(Unusable::Faults(format!("has format version {version}: use a newer program")));
    }
    // Without keys only what all copies say alike is believed: extents are handed out by it.
    view.only_alike = true;
    home::read_rows(&mut view, &mut HomePages::default(), report);
    let per_row = view.geometry().row_extents();
    if view.rows.len() != view.superblock.rows as usize * per_row {
        return Err(Unusable::Faults("has rows that cannot be read".to_owned()));
    }
    let envelopes =
        (view.superblock.checks == CheckKind::AesGcm).then(|| envelopes(home_places(&view), scan));
    let opened = match &view.seals {
        Seals::Open(opener) => Some(opener.borrow()),
        Seals::None | Seals::Shut => None,
    };
    let names = names(&view, scan, opened.as_ref().map(|opener| opener.reader.keys()));
    for extent in &view.rows {
        if let Some(drive) = view.handles[usize::from(extent.drive.get())] {
            known.backed.insert((drive, extent.extent.get()));
        }
    }
    Ok(Group {
        group: view.group,
        pool: view.superblock.pool,
        generation: view.superblock.generation,
        geometry: view.geometry(),
        drives: view.table.entries().to_vec(),
        rows: view.rows.chunks_exact(per_row).map(<[Extent]>::to_vec).collect(),
        names,
        certain: is_certain(&view) && (envelopes.is_none() || opened.is_some()),
        envelopes,
    })
}

/// Where the headers of the home row are, on the drives at hand.
fn home_places(view: &GroupView<'_>) -> impl Iterator<Item = (usize, u32)> {
    let place = |extent: &Extent| Some((view.handles[usize::from(extent.drive.get())]?, extent.extent.get()));
    view.superblock.home.iter().filter_map(place)
}

/// The newest names. What a header of an encrypted group has in plain nobody of that group wrote.
fn names(view: &GroupView<'_>, scan: &Scan, keys: Option<&GroupKeys>) -> Option<Names> {
    let found = home_places(view).filter_map(|place| scan.names.get(&place)?.as_ref());
    if view.superblock.checks != CheckKind::AesGcm {
        let plain = |found: &Found| match found {
            Found::Plain(names) => Some(names.clone()),
            Found::Sealed(_) | Found::None => None,
        };
        return found.filter_map(plain).max_by_key(|names| names.written);
    }
    let keys = keys?;
    let open = |found: &Found| match found {
        Found::Sealed(sealed) => sealed.open(keys).ok().flatten(),
        Found::Plain(_) | Found::None => None,
    };
    found.filter_map(open).max_by_key(|names| names.written)
}

/// Keys by the envelopes in the headers of the extents that say that they are of the home row.
struct ByEnvelopes<'a> {
    scan: &'a Scan,
    homes: &'a GroupHomes,
    keys: &'a KeysOf<'a>,
}

impl Keyring for ByEnvelopes<'_> {
    fn keys_of(&self, group: Uuid) -> Option<GroupKeys> {
        let places = self.homes.homes.iter().map(|(drive, extent)| (*drive, extent.get()));
        (self.keys)(group, &envelopes(places, self.scan))
    }
}

/// The envelopes in these headers, the newest first.
fn envelopes(places: impl Iterator<Item = (usize, u32)>, scan: &Scan) -> Vec<StoredEnvelope> {
    let mut all: Vec<_> = places.filter_map(|place| scan.envelopes.get(&place).cloned()).collect();
    all.sort_by_key(|envelope| std::cmp::Reverse(envelope.written));
    all.dedup();
    all
}

/// Whether each copy that counts was asked what it knows. A version is in a slot of every one of them before anything
/// depends on it, and the other slot has the version before.
fn is_certain(view: &GroupView<'_>) -> bool {
    let current = view.table.current();
    let counts = |home: &volume::superblock::Home| current.contains(home.extent.drive);
    let asked = |home: volume::superblock::Home| {
        let drive = view.handles[usize::from(home.extent.drive.get())];
        let here = |slot: &&supers::Slot| Some(slot.drive) == drive && slot.extent == home.extent.extent;
        view.slots.iter().filter(here).any(|slot| slot.newness().is_some())
    };
    view.superblock.homes().any(|home| counts(&home)) && view.superblock.homes().filter(counts).all(asked)
}

/// Extents that are not in the rows of a group that was described, and not known to be nobody's.
fn held(drives: &[Drive<'_>], scan: &Scan, known: &Known) -> Vec<Held> {
    let mut held = Vec::new();
    for ((drive, extent), header) in &scan.headers {
        // A header that no superblock names is of a row on its way in or out, if the newest superblock is known.
        let nobodys = known.certain.contains(&header.group)
            || (known.never.contains(&header.group) && header.row == RowNo::ZERO);
        if is_own(&drives[*drive], header) && !nobodys && !known.backed.contains(&(*drive, *extent)) {
            held.push((*drive, *extent, Some(*header), false));
        }
    }
    for ((drive, extent), doubt) in &scan.doubtful {
        if !known.backed.contains(&(*drive, *extent)) {
            held.push((*drive, *extent, None, *doubt == Doubt::Newer));
        }
    }
    let told = |(drive, extent, header, newer): (usize, u32, _, _)| Held {
        drive: drives[drive].uuid,
        extent: ExtentNo::new(extent),
        header,
        newer,
    };
    held.into_iter().map(told).collect()
}
