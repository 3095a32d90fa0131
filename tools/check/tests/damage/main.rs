//! Damage of every kind of structure, planted on images that the engine made: the check finds it, names the object,
//! and says what kind of thing is wrong.
//!
//! `table.rs` lists the kinds, one row each; `stories.rs` has what needs more than a row.
#[path = "../world/mod.rs"]
mod world;

mod bitmaps;
mod data;
mod directory;
mod headers;
mod history;
mod images;
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

/// Kinds of damage that the table has at least.
const KINDS: usize = 200;

#[test]
fn every_kind_of_planted_damage_is_found_and_named() {
    let mut missed = Vec::new();
    let mut kinds = BTreeSet::new();
    for row in table::ALL.iter().flat_map(|rows| rows.iter()) {
        assert!(kinds.insert(row.name), "{} is in the table twice", row.name);
        let mut drives = row.image.good().clone();
        let object = (row.plant)(&mut drives);
        if drives == *row.image.good() {
            missed.push(format!("{}: nothing was planted", row.name));
            continue;
        }
        let report = drives.fsck();
        let found = report.findings.iter().any(|finding| {
            let told = finding.to_string();
            finding.severity == row.severity && told.contains(&object) && told.contains(row.says)
        });
        if report.is_clean() || !found {
            let told: Vec<String> = report.findings.iter().take(6).map(ToString::to_string).collect();
            missed.push(format!(
                "{}: expected {} of {object:?} with {:?}, found {told:#?}",
                row.name, row.severity, row.says
            ));
        }
    }
    assert!(missed.is_empty(), "{} of {} kinds:\n{}", missed.len(), kinds.len(), missed.join("\n"));
    assert!(kinds.len() >= KINDS, "{} kinds", kinds.len());
}
