//! The extents of all rows: their headers, the names in those of the home row, and who holds them.
//!
//! A header is durable before a superblock names its row and wiped before the extent goes back, so a row without its
//! header, or with another one, is what no crash brings about. Names are written one header after the other, with one
//! number: a crash leaves two numbers, never two texts under one number.
use crate::group::GroupView;
use crate::report::{Object, Report, Severity, Where};
use crate::scan::Scan;
use base::{Column, Extent, LegId, RowNo};
use std::collections::BTreeMap;
use volume::Header;
use volume::layout::extent::HEADER;
use volume::names::Found;

/// Who holds an extent: by (index of the drive, extent).
pub(crate) type Holders = BTreeMap<(usize, u32), String>;

/// An extent of the rows, and what it is there.
struct Holding {
    /// Index of the drive at hand.
    drive: usize,
    extent: Extent,
    row: RowNo,
    leg: LegId,
    column: Column,
}

/// Every extent of the rows has the right header on drives that count, and nobody else holds it.
pub(crate) fn check_extents(view: &GroupView<'_>, scan: &Scan, holders: &mut Holders, report: &mut Report) {
    check_legs(view, report);
    let columns = usize::from(view.geometry().columns);
    for (i, extent) in view.rows.iter().enumerate() {
        let within = i % view.geometry().row_extents();
        let Some(drive) = view.handles[usize::from(extent.drive.get())] else { continue };
        let holding = Holding {
            drive,
            extent: *extent,
            row: RowNo::new((i / view.geometry().row_extents()) as u32),
            leg: LegId::new((within / columns) as u8),
            column: Column::new((within % columns) as u8),
        };
        report.counts.extents += 1;
        check_extent(view, scan, &holding, holders, report);
    }
    check_names(view, scan, report);
}

/// Two legs of a place on one drive are one copy.
fn check_legs(view: &GroupView<'_>, report: &mut Report) {
    let (legs, columns) = (usize::from(view.geometry().legs), usize::from(view.geometry().columns));
    for (row, extents) in view.rows.chunks_exact(legs * columns).enumerate() {
        for (i, extent) in extents.iter().enumerate() {
            let (leg, column) = (i / columns, i % columns);
            let Some(first) = (0..leg).find(|leg| extents[leg * columns + column].drive == extent.drive)
            else {
                continue;
            };
            let name = view.drive_name(usize::from(extent.drive.get()));
            let what = format!(
                "legs {first} and {leg} of column {column} both lie on {name}, which protects nothing"
            );
            report.add(Severity::Damage, Object::Row(row as u32), what, Vec::new());
        }
    }
}

fn check_extent(
    view: &GroupView<'_>,
    scan: &Scan,
    holding: &Holding,
    holders: &mut Holders,
    report: &mut Report,
) {
    let Holding { drive, extent, row, leg, column } = *holding;
    let at = vec![view.drives[drive].at(view.drives[drive].block_of(extent.extent, HEADER))];
    let key = (drive, extent.extent.get());
    let me = format!("row {row} leg {leg} column {column} of group {}", view.group);
    if let Some(other) = holders.insert(key, me) {
        let what = format!("extent {} is {other} as well", extent.extent);
        report.add(Severity::Damage, Object::Row(row.get()), what, at.clone());
    }
    if extent.extent.get() >= view.drives[drive].extents {
        let what = format!("extent {} lies beyond the drive", extent.extent);
        return report.add(Severity::Damage, Object::Row(row.get()), what, at);
    }
    if !view.current.contains(extent.drive) {
        return;
    }
    let expected = Header {
        pool: view.superblock.pool,
        drive: view.drives[drive].uuid,
        group: view.group,
        extent: extent.extent,
        row,
        leg,
        column,
    };
    let object = Object::Header(extent.extent.get());
    match scan.headers.get(&key) {
        Some(found) if *found == expected => {}
        Some(found) => {
            let what = format!("is another one's: it says {}", differences(found, &expected).join(", "));
            report.add(Severity::Damage, object.clone(), what, at.clone());
        }
        None => {
            let what = format!(
                "is damaged or wiped; the superblock says row {row} leg {leg} column {column}, and the group is \
                 served without it"
            );
            report.add(Severity::Repairable, object.clone(), what, at.clone());
        }
    }
    if scan.unknown.contains(&key) {
        let what = "has bytes set that this program does not know: use a newer one";
        report.add(Severity::Damage, object, what, at);
    }
}

/// What a header says and should not, field by field.
fn differences(found: &Header, expected: &Header) -> Vec<String> {
    let mut all = Vec::new();
    let mut compare = |field: &str, is: String, should: String| {
        if is != should {
            all.push(format!("{field} {is} instead of {should}"));
        }
    };
    compare("pool", found.pool.to_string(), expected.pool.to_string());
    compare("drive", found.drive.to_string(), expected.drive.to_string());
    compare("group", found.group.to_string(), expected.group.to_string());
    compare("extent", found.extent.to_string(), expected.extent.to_string());
    compare("row", found.row.to_string(), expected.row.to_string());
    compare("leg", found.leg.to_string(), expected.leg.to_string());
    compare("column", found.column.to_string(), expected.column.to_string());
    all
}

/// The names in the headers of the home row: possible, and the same under the same number.
fn check_names(view: &GroupView<'_>, scan: &Scan, report: &mut Report) {
    let mut known: Vec<(&Found, Where)> = Vec::new();
    for (key, extent, at) in home_headers(view) {
        let object = Object::Header(extent.extent.get());
        match scan.names.get(&key) {
            None => {}
            Some(None) => {
                let what = "the names in it are impossible although its check is right";
                report.add(Severity::Damage, object, what, vec![at]);
            }
            Some(Some(names)) => {
                let same =
                    |(other, _): &&(&Found, Where)| other.written() == names.written() && *other != names;
                if let Some((_, other)) = known.iter().find(same) {
                    let what = format!(
                        "has other names than the header on {} block {} under the same number {}",
                        other.drive,
                        other.block,
                        names.written()
                    );
                    report.add(Severity::Damage, object, what, vec![at.clone()]);
                }
                known.push((names, at));
            }
        }
    }
    let newest = known.iter().map(|(names, _)| names.written()).max();
    for (names, at) in known.iter().filter(|(names, _)| Some(names.written()) < newest) {
        let which = match names {
            Found::Plain(names) => format!("{} {}", names.group, names.volume),
            Found::Sealed(_) | Found::None => "encrypted".to_owned(),
        };
        let what =
            format!("the names in the header on {} are older ({which}): a rename was cut short", at.drive);
        report.add(Severity::Note, Object::Group, what, vec![at.clone()]);
    }
}

/// The newest names of the group, if its headers have any.
pub(crate) fn newest_names<'s>(view: &GroupView<'_>, scan: &'s Scan) -> Option<&'s Found> {
    home_headers(view)
        .filter_map(|(key, ..)| scan.names.get(&key)?.as_ref())
        .max_by_key(|names| names.written())
}

/// Where the headers of the home row are that count.
fn home_headers(view: &GroupView<'_>) -> impl Iterator<Item = ((usize, u32), Extent, Where)> {
    let current = view.superblock.home.iter().filter(|extent| view.current.contains(extent.drive));
    current.filter_map(|extent| {
        let drive = view.handles[usize::from(extent.drive.get())]?;
        let at = view.drives[drive].at(view.drives[drive].block_of(extent.extent, HEADER));
        Some(((drive, extent.extent.get()), *extent, at))
    })
}

/// Headers that no superblock backs: extents on their way in or out.
pub(crate) fn check_strays(drives: &[crate::Drive<'_>], scan: &Scan, holders: &Holders, report: &mut Report) {
    for ((drive, extent), header) in &scan.headers {
        let backed = holders.contains_key(&(*drive, *extent));
        let known = scan.groups.iter().any(|group| group.group == header.group);
        if !backed && (known || header.row != RowNo::ZERO) {
            let drive = &drives[*drive];
            let at = vec![drive.at(drive.block_of(base::ExtentNo::new(*extent), HEADER))];
            let what = format!(
                "names row {} of group {}, whose superblock does not: it goes back",
                header.row, header.group
            );
            report.add(Severity::Note, Object::Header(*extent), what, at);
        }
    }
}
