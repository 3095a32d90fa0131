//! The table of damage: every structure, field by field.
use crate::images::Image;
use crate::world::Drives;
use crate::{
    bitmaps, data, directory, headers, history, labels, map, records, ring, rows, slots, superblock,
};
use plinth_check::Severity;

/// One kind of damage.
pub struct Row {
    /// What is wrong.
    pub name: &'static str,
    /// Where it is planted.
    pub image: Image,
    /// How bad the check must find it.
    pub severity: Severity,
    /// What it must say about it.
    pub says: &'static str,
    /// Plants it; what the check must name.
    pub plant: fn(&mut Drives) -> String,
}

/// A row that is damage.
pub const fn damage(
    name: &'static str,
    image: Image,
    says: &'static str,
    plant: fn(&mut Drives) -> String,
) -> Row {
    Row { name, image, severity: Severity::Damage, says, plant }
}

/// A row of which another copy is right.
pub const fn repairable(
    name: &'static str,
    image: Image,
    says: &'static str,
    plant: fn(&mut Drives) -> String,
) -> Row {
    Row { name, image, severity: Severity::Repairable, says, plant }
}

/// A row that only loses space.
pub const fn leak(
    name: &'static str,
    image: Image,
    says: &'static str,
    plant: fn(&mut Drives) -> String,
) -> Row {
    Row { name, image, severity: Severity::Leak, says, plant }
}

/// All rows, by structure.
pub const ALL: &[&[Row]] = &[
    labels::ROWS,
    headers::ROWS,
    superblock::ROWS,
    slots::ROWS,
    rows::ROWS,
    history::ROWS,
    directory::ROWS,
    bitmaps::ROWS,
    map::ROWS,
    data::ROWS,
    ring::ROWS,
    records::ROWS,
];
