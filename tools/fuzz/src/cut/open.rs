//! What is needed to open the one group that a set of drives holds: found on the drives, as an import finds it.
use base::{DriveIx, Extent, ExtentNo, Gen, SECTOR_BYTES, Sectors, Uuid};
use node::offline::AtHand;
use plinth_check::{Drive, Keyring, KeysOf, Media, Report, find_groups, groups};
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use volume::keys::GroupKeys;
use volume::names::Found;
use volume::{Activation, Candidate, Config, DriveInfo, NewVolume, OpenRequest};

/// The engine as a target has it, with fewer requests at once.
pub const CONFIG: Config = Config { slots: 4, ..Config::SERVED };

/// A request to open the group, the rows that its pool has left, and its keys if it is encrypted.
pub type Opening = (OpenRequest, VecDeque<Vec<Extent>>, Option<GroupKeys>);

/// The keys that a folder has for these drives.
pub fn at_hand<M: Media>(drives: &[M], folder: &Path) -> AtHand {
    let names = names(drives);
    AtHand::open(&named(&names, drives), folder)
}

fn names<M>(drives: &[M]) -> Vec<String> {
    (0..drives.len()).map(|drive| format!("drive {drive}")).collect()
}

fn named<'a, M: Media>(names: &'a [String], drives: &'a [M]) -> Vec<(&'a str, &'a dyn Media)> {
    names.iter().map(String::as_str).zip(drives.iter().map(|drive| drive as &dyn Media)).collect()
}

/// Reads labels, headers and superblocks. `number` tells activations of one image apart; `folder` has the keys.
///
/// # Errors
/// In words: a drive is of no pool, or the drives do not hold exactly one group.
pub fn opening<M: Media>(drives: &[M], number: u8, folder: &Path) -> Result<Opening, String> {
    let names = names(drives);
    let mut report = Report::default();
    let mut known = Vec::new();
    for (name, media) in names.iter().zip(drives) {
        let drive = Drive::identify(name, media, &mut report);
        known.push(drive.ok_or_else(|| format!("{name} has no label: {:?}", report.findings))?);
    }
    let scan = find_groups(&known, &mut report);
    let [homes] = scan.groups.as_slice() else {
        return Err(format!("there are {} groups", scan.groups.len()));
    };
    let candidate = |(index, drive): (usize, &Drive<'_>)| Candidate {
        info: DriveInfo { uuid: drive.uuid, blocks: drives[index].blocks(), volatile: true },
        homes: homes.homes.iter().filter(|(home, _)| *home == index).map(|(_, extent)| *extent).collect(),
    };
    let keys = at_hand(drives, folder).keys_of(homes.group);
    let read = |found: &Found| match found {
        Found::Plain(names) => Some(names.clone()),
        Found::Sealed(sealed) => keys.as_ref().and_then(|keys| sealed.open(keys).ok().flatten()),
        Found::None => None,
    };
    let names_of = scan.names.values().flatten().filter_map(read).max_by_key(|names| names.written);
    let group = groups_of(&named(&names, drives), &|of, _| at_hand(drives, folder).keys_of(of))?;
    let generation = group.generation.get() + 1;
    let request = OpenRequest {
        group: homes.group,
        extent_blocks: known[0].extent_blocks,
        drives: known.iter().enumerate().map(candidate).collect(),
        catalogue: None,
        forced: false,
        served: None,
        activation: Activation {
            generation: Gen::new(generation),
            id: Uuid([0x40 + number; 16]),
            salt: [number; 16],
        },
        create: names_of.map(|names| NewVolume {
            uuid: names.volume_id,
            sectors: Sectors::new(names.size_bytes / SECTOR_BYTES as u64),
        }),
    };
    Ok((request, rows_left(&group, &known, &scan), keys))
}

fn groups_of(drives: &[(&str, &dyn Media)], keys: &KeysOf<'_>) -> Result<plinth_check::Group, String> {
    let mut found = groups(drives, keys);
    let why = |found: &plinth_check::Summary| {
        found.left_out.iter().map(|left| left.why.as_str()).collect::<Vec<_>>().join("; ")
    };
    found.groups.pop().ok_or_else(|| format!("no group can be read: {}", why(&found)))
}

/// Rows of extents that nothing uses, shaped like the first row.
fn rows_left(
    group: &plinth_check::Group,
    known: &[Drive<'_>],
    scan: &plinth_check::Scan,
) -> VecDeque<Vec<Extent>> {
    let used = |drive: usize, extent: u32| {
        let uuid = known[drive].uuid;
        let listed =
            |e: &Extent| group.drives[usize::from(e.drive.get())].drive == uuid && e.extent.get() == extent;
        scan.headers.contains_key(&(drive, extent)) || group.rows.iter().flatten().any(listed)
    };
    let place = |index: DriveIx| {
        let uuid = group.drives[usize::from(index.get())].drive;
        known.iter().position(|drive| drive.uuid == uuid)
    };
    let mut taken: BTreeSet<(usize, u32)> = BTreeSet::new();
    let mut rows = VecDeque::new();
    loop {
        let mut row = Vec::new();
        for like in &group.rows[0] {
            let Some(drive) = place(like.drive) else { return rows };
            let free = (0..known[drive].extents).find(|e| !used(drive, *e) && !taken.contains(&(drive, *e)));
            let Some(extent) = free else { return rows };
            taken.insert((drive, extent));
            row.push(Extent { drive: like.drive, extent: ExtentNo::new(extent) });
        }
        rows.push_back(row);
    }
}
