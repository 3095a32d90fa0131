//! The same damage in encrypted groups, with the keys and without.
use crate::images_encrypted::encrypted;
use crate::table::{self, Row};
use crate::world::Drives;
use crate::{missed, planted};
use plinth_check::{Finding, NoKeys, Object};
use std::collections::BTreeSet;

pub const NOT_SEALED: &str = "is whole and not what was sealed here";

/// Damage of which something else is said than in a plain group: a page is sealed for its checkpoint, and a tag is not a
/// check of what is stored.
const SAYS: &[(&str, &str)] =
    &[("superblock, check of the directory", NOT_SEALED), ("cut subtree, check of its page", NOT_SEALED)];

/// Damage that there is not: nobody can open an older page once what led to it is gone.
const NOT_THERE: &[&str] = &["bitmap, an older one behind a right check"];

/// The rows, each planted in an encrypted group, with what the check must name and say.
fn each(mut with: impl FnMut(&Row, &Drives, &str, &str)) {
    let rows = table::ALL.iter().flat_map(|rows| rows.iter());
    for row in rows.filter(|row| !NOT_THERE.contains(&row.name)) {
        let (drives, object) = planted(row, encrypted(row.image));
        assert!(drives != *encrypted(row.image), "{}: nothing was planted", row.name);
        let says = SAYS.iter().find(|(name, _)| *name == row.name).map_or(row.says, |(_, says)| says);
        with(row, &drives, &object, says);
    }
}

#[test]
fn every_kind_of_damage_is_found_and_named_with_the_keys() {
    let mut all = Vec::new();
    each(|row, drives, object, says| all.extend(missed(row, drives, object, says)));
    assert!(all.is_empty(), "{} kinds:\n{}", all.len(), all.join("\n"));
}

/// Damage that is not seen without keys, of what is seen otherwise: codes, counts of records, what a volume is called.
const UNSEEN: &[&str] = &[
    "names, the identity of no volume",
    "superblock, check of the directory",
    "superblock, check of the row pages",
    "superblock, check of the history",
    "row page above, a check below",
    "commit, more records than there are",
    "commit, fewer records than there are",
    "commit, bytes of the body too many",
    "commit, Seqs too many",
    "commit, Seqs none",
    "void, of a commit that is there",
    "void, of itself",
];

/// Without keys all damage is found that anybody can see, and nothing is said of what the keys find in order.
#[test]
fn without_keys_what_can_be_seen_is_found_and_nothing_else_is_said() {
    let sealed: BTreeSet<&str> = [
        crate::directory::ROWS,
        crate::bitmaps::ROWS,
        crate::map::ROWS,
        crate::data::ROWS,
        crate::records::ROWS,
    ]
    .iter()
    .flat_map(|rows| rows.iter().map(|row| row.name))
    .collect();
    let (mut wrong, mut found) = (Vec::new(), 0);
    each(|row, drives, _, _| {
        let (with, without) = (drives.fsck(), drives.fsck_with(&NoKeys));
        let unseen = sealed.contains(row.name) || UNSEEN.contains(&row.name);
        found += u32::from(!without.is_clean());
        if without.is_clean() && !unseen {
            wrong.push(format!("{}: not found", row.name));
        }
        // A row page that cannot be is told of the page there, and with its code of the row.
        let row_page =
            |one: &Finding| matches!(one.object, Object::RowPage(..)) && row.name.starts_with("row page");
        let same = |one: &Finding| with.problems().any(|other| other.object == one.object) || row_page(one);
        for finding in without.problems().filter(|one| !same(one)) {
            wrong.push(format!("{}: only without keys: {finding}", row.name));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 150, "{found} kinds are seen");
}
