//! Damage of every kind of structure, planted on images that the engine made: the check finds it, names the object,
//! and says what kind of thing is wrong.
//!
//! `table.rs` lists the kinds, one row each; `stories.rs` has what needs more than a row.
#[path = "../world/mod.rs"]
mod world;

mod bitmaps;
mod data;
mod directory;
mod encrypted;
mod forged;
mod headers;
mod history;
mod images;
mod images_encrypted;
mod labels;
mod map;
mod records;
mod ring;
mod rows;
mod slots;
mod stories;
mod superblock;
mod table;
mod tools;

use std::collections::BTreeSet;
use table::Row;
use world::Drives;

/// Kinds of damage that the table has at least.
const KINDS: usize = 200;

/// What a row plants in an image; what the check must name.
fn planted(row: &Row, good: &Drives) -> (Drives, String) {
    let mut drives = good.clone();
    let object = (row.plant)(&mut drives);
    (drives, object)
}

/// Why a row's damage is not found as it should be.
fn missed(row: &Row, drives: &Drives, object: &str, says: &str) -> Option<String> {
    let report = drives.fsck();
    let found = report.findings.iter().any(|finding| {
        let told = finding.to_string();
        finding.severity == row.severity && told.contains(object) && told.contains(says)
    });
    if !report.is_clean() && found {
        return None;
    }
    let told: Vec<String> = report.findings.iter().take(6).map(ToString::to_string).collect();
    Some(format!("{}: expected {} of {object:?} with {says:?}, found {told:#?}", row.name, row.severity))
}

#[test]
fn every_kind_of_planted_damage_is_found_and_named() {
    let mut all = Vec::new();
    let mut kinds = BTreeSet::new();
    for row in table::ALL.iter().flat_map(|rows| rows.iter()) {
        assert!(kinds.insert(row.name), "{} is in the table twice", row.name);
        let (drives, object) = planted(row, row.image.good());
        assert!(drives != *row.image.good(), "{}: nothing was planted", row.name);
        all.extend(missed(row, &drives, &object, row.says));
    }
    assert!(all.is_empty(), "{} of {} kinds:\n{}", all.len(), kinds.len(), all.join("\n"));
    assert!(kinds.len() >= KINDS, "{} kinds", kinds.len());
}
