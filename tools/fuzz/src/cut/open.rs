//! What is needed to open the one group that a set of drives holds: found on the drives, as an import finds it.
use base::{DriveIx, Extent, ExtentNo, Gen, SECTOR_BYTES, Sectors, Uuid};
use plinth_check::{Drive, Media, Report, find_groups, groups};
use std::collections::{BTreeSet, VecDeque};
use volume::names::Found;
use volume::{Activation, Candidate, Config, DriveInfo, NewVolume, OpenRequest};

/// The engine as a target has it, with fewer requests at once.
pub const CONFIG: Config = Config { slots: 4, ..Config::SERVED };

/// A request to open the group, and the rows that its pool has left.
pub type Opening = (OpenRequest, VecDeque<Vec<Extent>>);

/// Reads labels, headers and superblocks. `number` tells activations of one image apart.
///
/// # Errors
/// In words: a drive is of no pool, or the drives do not hold exactly one group.
pub fn opening<M: Media>(drives: &[M], number: u8) -> Result<Opening, String> {
    let names: Vec<String> = (0..drives.len()).map(|drive| format!("drive {drive}")).collect();
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
    let plain = |found: &Found| match found {
        Found::Plain(names) => Some(names.clone()),
        Found::Sealed(_) | Found::None => None,
    };
    let names_of = scan.names.values().flatten().filter_map(plain).max_by_key(|names| names.written);
    let generation = groups_of(&names, drives)?.generation.get() + 1;
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
    Ok((request, rows_left(&groups_of(&names, drives)?, &known, &scan)))
}

fn groups_of<M: Media>(names: &[String], drives: &[M]) -> Result<plinth_check::Group, String> {
    let named: Vec<(&str, &dyn Media)> =
        names.iter().map(String::as_str).zip(drives.iter().map(|drive| drive as &dyn Media)).collect();
    let mut found = groups(&named, &|_, _| None);
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
