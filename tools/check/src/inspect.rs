//! Shows what drives hold, from the same readers as the check.
//!
//! Nothing is judged here beyond what reading needs; `fsck` judges.
use crate::directory;
use crate::drive::Drive;
use crate::fsck::{Options, identify};
use crate::group::GroupView;
use crate::home::{self, HomePages};
use crate::keys::{Keyring, NoKeys, Seals};
use crate::log::{self, Log};
use crate::media::Media;
use crate::report::{Object, Report};
use crate::scan::{Scan, find_groups};
use crate::space::Blockset;
use crate::supers::{self, SlotState};
use base::{BLOCK_BYTES, CheckKind, Pba};
use cow::Ref;
use fence::CopyState;
use rlog::{History, Line};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Describes drives as JSON: labels, extents, superblocks, history, the commits on the ring, the directory, and how
/// much the maps hold. With `problems` come the findings that reading alone led to. Of encrypted groups only what is not
/// encrypted.
pub fn inspect(drives: &[(&str, &dyn Media)]) -> Value {
    inspect_with_keys(drives, &NoKeys)
}

/// The same; of the groups that `keys` has keys of everything.
pub fn inspect_with_keys(drives: &[(&str, &dyn Media)], keys: &dyn Keyring) -> Value {
    let mut report = Report::default();
    let known = identify(drives, &mut report);
    let scan = find_groups(&known, &mut report);
    let mut groups = Vec::new();
    for homes in &scan.groups {
        report.enter_group(Some(homes.group.to_string()));
        match supers::read(&known, homes, &Options::default(), keys, &mut report) {
            Some(view) => groups.push(group(view, &mut report)),
            None => groups.push(json!({ "group": homes.group.to_string(), "superblock": null })),
        }
        report.enter_group(None);
    }
    let problems: Vec<String> = report.problems().map(ToString::to_string).collect();
    let drives: Vec<Value> = known.iter().enumerate().map(|(i, drive)| describe(drive, i, &scan)).collect();
    json!({ "drives": drives, "groups": groups, "problems": problems })
}

fn describe(drive: &Drive<'_>, index: usize, scan: &Scan) -> Value {
    let held = scan.headers.range((index, 0)..(index + 1, 0));
    let held: Vec<Value> = held
        .map(|((_, extent), header)| {
            json!({
                "extent": extent,
                "group": header.group.to_string(),
                "row": header.row.get(),
                "leg": header.leg.get(),
                "column": header.column.get(),
            })
        })
        .collect();
    let label = drive.label.as_ref().map(|label| {
        json!({
            "pool": label.pool.to_string(),
            "pool_name": label.pool_name,
            "drive": label.drive.to_string(),
            "size_bytes": label.blocks.get() * BLOCK_BYTES as u64,
            "extent_bytes": u64::from(label.extent_blocks) * BLOCK_BYTES as u64,
            "written": label.written,
            "node": label.node,
            "rack": label.rack,
            "zone": label.zone,
            "class": label.class,
        })
    });
    json!({ "path": drive.name, "label": label, "extents": drive.extents, "held": held })
}

fn group(mut view: GroupView<'_>, report: &mut Report) -> Value {
    let mut pages = HomePages::default();
    home::read_rows(&mut view, &mut pages, report);
    let history = home::read_history(&view, &mut pages, report);
    let log = log::read(&view, &history, report);
    json!({
        "group": view.group.to_string(),
        "encrypted": view.is_encrypted(),
        "keys": matches!(view.seals, Seals::Open(_)),
        "superblock": superblock(&view),
        "slots": slots(&view),
        "drives": copies(&view),
        "rows": rows(&view),
        "home_pages": { "used": pages.used(), "of": view.geometry().home_pages() },
        "history": history.lines().iter().map(line).collect::<Vec<_>>(),
        "log": chain(&view, &log, &history),
        "directory": directory_of(&view, &log, report),
    })
}

fn superblock(view: &GroupView<'_>) -> Value {
    let (superblock, geometry) = (&view.superblock, view.geometry());
    json!({
        "pool": superblock.pool.to_string(),
        "gen": superblock.generation.get(),
        "version": superblock.version,
        "checks": match superblock.checks {
            CheckKind::Xxh3 => "xxh3-128",
            CheckKind::AesGcm => "aes-256-gcm",
        },
        "clean": superblock.clean,
        "checkpoint": superblock.ckpt.get(),
        "checkpoint_seq": superblock.ckpt_seq.get(),
        "durable_seq": superblock.durable.get(),
        "next_commit": superblock.next_commit.get(),
        "ring_start": superblock.ring_start.0[..usize::from(geometry.columns)],
        "rows": superblock.rows,
        "row_pages": reference(&superblock.row_pages),
        "history_page": reference(&superblock.history),
        "directory": reference(&superblock.directory),
        "geometry": {
            "legs": geometry.legs,
            "columns": geometry.columns,
            "stripe_blocks": geometry.stripe_blocks,
            "extent_blocks": geometry.extent_blocks,
            "ring_blocks": geometry.ring_blocks(),
        },
    })
}

fn reference(to: &Ref) -> Value {
    match (to.is_absent(), to.is_hole()) {
        (true, _) => Value::Null,
        (_, true) => json!({ "hole_since": to.when.get() }),
        _ => {
            json!({ "pba": to.pba.get(), "when": to.when.get(), "tag": to.tag, "check": format!("{:?}", to.check) })
        }
    }
}

fn slots(view: &GroupView<'_>) -> Vec<Value> {
    let one = |slot: &supers::Slot| {
        let holds = match &slot.state {
            SlotState::Valid(superblock, home) | SlotState::More(superblock, home) => json!({
                "gen": superblock.generation.get(),
                "version": superblock.version,
                "leg": home.leg.get(),
                "column": home.column.get(),
            }),
            _ => json!(slot.fault()),
        };
        let name = &view.drives[slot.drive].name;
        json!({ "path": name, "extent": slot.extent.get(), "slot": slot.slot, "block": slot.at.get(), "holds": holds })
    };
    view.slots.iter().map(one).collect()
}

fn copies(view: &GroupView<'_>) -> Vec<Value> {
    let one = |(index, entry): (usize, &fence::CopyEntry)| {
        let (state, since) = match entry.state {
            CopyState::Current => ("current", None),
            CopyState::Stale { .. } => ("stale", entry.state.since()),
            CopyState::Resyncing { .. } => ("resyncing", entry.state.since()),
        };
        json!({
            "drive": entry.drive.to_string(),
            "path": view.handles[index].map(|drive| view.drives[drive].name.clone()),
            "state": state,
            "version": entry.version,
            "since_seq": since.map(|(seq, _)| seq.get()),
            "since_checkpoint": since.map(|(_, ckpt)| ckpt.get()),
            "unproven": entry.state.is_unproven(),
        })
    };
    view.table.entries().iter().enumerate().map(one).collect()
}

/// Per row its extents as `drive:extent`, ordered by leg, then column.
fn rows(view: &GroupView<'_>) -> Vec<Vec<String>> {
    let text = |extent: &base::Extent| format!("{}:{}", extent.drive, extent.extent);
    view.rows.chunks(view.geometry().row_extents()).map(|row| row.iter().map(text).collect()).collect()
}

fn line(line: &Line) -> Value {
    json!({
        "gen": line.generation.get(),
        "id": line.id.to_string(),
        "first_seq": line.first_seq.get(),
        "first_commit": line.first_commit.get(),
        "first_checkpoint": line.first_ckpt.get(),
        "data_key": line.key,
    })
}

fn chain(view: &GroupView<'_>, log: &Log, history: &History) -> Value {
    let replayed: BTreeSet<usize> = log.chain.accepted.iter().copied().collect();
    let mut order: Vec<usize> = (0..log.scan.candidates().len()).collect();
    order.sort_by_key(|i| (log.scan.candidates()[*i].fields.no, log.scan.candidates()[*i].fields.generation));
    let one = |i: &usize| {
        let commit = &log.scan.candidates()[*i];
        let fields = &commit.fields;
        let places = log::ring_place(view, commit.column, fields.offset);
        json!({
            "commit": fields.no.get(),
            "gen": fields.generation.get(),
            "first_seq": fields.first_seq.get(),
            "seqs": commit.seqs,
            "durable_seq": fields.durable.get(),
            "column": commit.column.get(),
            "offset": fields.offset,
            "blocks": commit.blocks,
            "legs": commit.legs.iter().map(base::LegId::get).collect::<Vec<_>>(),
            "at": places.iter().map(|(copy, at)| json!([copy.leg.get(), at.block])).collect::<Vec<_>>(),
            "void_count": commit.void_count,
            "voids": commit.voids.iter().map(|void| void.commit.get()).collect::<Vec<_>>(),
            "of_history": history.owns(fields.generation, fields.history, fields.no),
            "replayed": replayed.contains(i),
        })
    };
    json!({
        "replayed": log.chain.accepted.len(),
        "voided": log.chain.voided.len(),
        "durable_seq": log.chain.durable.get(),
        "last_seq": log.chain.next_seq.get() - 1,
        "ring": order.iter().map(one).collect::<Vec<_>>(),
    })
}

fn directory_of(view: &GroupView<'_>, log: &Log, report: &mut Report) -> Value {
    let mut pages: BTreeMap<(u32, u8), u64> = BTreeMap::new();
    let mut data: BTreeMap<u32, u64> = BTreeMap::new();
    let mut seen = Blockset::default();
    let mut visit = |pba: Pba, object: &Object| {
        match object {
            Object::MapPage { volume, level, .. } => *pages.entry((*volume, *level)).or_default() += 1,
            Object::Data { volume, .. } => *data.entry(*volume).or_default() += 1,
            _ => {}
        }
        seen.add(pba, view.geometry().extent_blocks)
    };
    let Some(found) = directory::walk(view, &log.overlay, false, report, &mut visit) else {
        return Value::Null;
    };
    let volume = |entry: &cow::VolumeEntry| {
        let id = entry.id.get();
        let levels = (0..entry.height.get()).map(|level| pages.get(&(id, level)).copied().unwrap_or(0));
        json!({
            "id": id,
            "uuid": entry.uuid.to_string(),
            "size_bytes": entry.sectors.get() * base::SECTOR_BYTES as u64,
            "created_seq": entry.created.get(),
            "height": entry.height.get(),
            "root": reference(&entry.root),
            "pages_by_level": levels.collect::<Vec<_>>(),
            "data_blocks": data.get(&id).copied().unwrap_or(0),
        })
    };
    let cut = |entry: &cow::CutEntry| json!({ "subtree": reference(&entry.subtree), "volume": entry.volume.get(), "level": entry.level, "cursor": entry.cursor });
    json!({
        "checkpoint": found.root.ckpt.get(),
        "seq": found.root.seq.get(),
        "space_blocks": view.space().get(),
        "used_blocks": found.root.used.get(),
        "regions": found.root.regions,
        "bitmaps": found.bitmaps.len(),
        "volumes": found.volumes.iter().map(volume).collect::<Vec<_>>(),
        "cut_subtrees": found.cuts.iter().map(cut).collect::<Vec<_>>(),
    })
}

/// The same as indented text, one fact per line.
pub fn to_text(value: &Value) -> String {
    let mut text = String::new();
    put(&mut text, value, 0);
    text
}

fn put(text: &mut String, value: &Value, depth: usize) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let name = name.replace('_', " ");
        match value {
            Value::Object(_) => {
                put_line(text, depth, &name, "");
                put(text, value, depth + 1);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (i, item) in items.iter().enumerate() {
                    put_line(text, depth, &format!("{name} {i}"), "");
                    put(text, item, depth + 1);
                }
            }
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(plain).collect();
                put_line(text, depth, &name, &items.join(" "));
            }
            other => put_line(text, depth, &name, &plain(other)),
        }
    }
}

fn put_line(text: &mut String, depth: usize, name: &str, value: &str) {
    let gap = if value.is_empty() { "" } else { " " };
    writeln!(text, "{:width$}{name}:{gap}{value}", "", width = 2 * depth).expect("text grows");
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
