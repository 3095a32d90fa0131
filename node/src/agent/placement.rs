//! Which drives a row's extents are taken from.
//!
//! Rule: no two legs of a row share a failure domain. The domain is the widest label in which the pool's
//! drives differ: node, else rack, else the drive itself. So a pool whose drives all say `node=a` is spread
//! over racks, and one without labels over drives; but once an operator has said that there are two nodes,
//! a third leg is refused rather than placed beside another.
//! All extents of a row lie on different drives. A row goes where the row before it is, while there is space:
//! a group then uses few drives.
use crate::error::{Error, Kind};

/// A drive that may be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Its id.
    pub id: String,
    /// Its label `node`; empty if not said.
    pub node: String,
    /// Its label `rack`.
    pub rack: String,
    /// Whether it can be used now.
    pub usable: bool,
    /// Whether that is so although it is away, or misses something: each column needs a leg where neither is.
    pub away: bool,
    /// Extents that are free.
    pub free: u32,
}

/// In what the legs of a row must differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// The label `node`.
    Node,
    /// The label `rack`.
    Rack,
    /// The drive.
    Drive,
}

impl Domain {
    /// The word for it, and its plural.
    pub(super) const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Node => ("node", "nodes"),
            Self::Rack => ("rack", "racks"),
            Self::Drive => ("drive", "drives"),
        }
    }
}

impl Choice {
    /// The failure domain that it is in.
    pub(super) fn domain(&self, level: Domain) -> &str {
        match level {
            Domain::Node => &self.node,
            Domain::Rack => &self.rack,
            Domain::Drive => &self.id,
        }
    }
}

/// The domain that the drives of a pool call for.
pub fn domain(drives: &[Choice]) -> Domain {
    let differ =
        |label: fn(&Choice) -> &String| drives.windows(2).any(|pair| label(&pair[0]) != label(&pair[1]));
    if differ(|drive| &drive.node) {
        Domain::Node
    } else if differ(|drive| &drive.rack) {
        Domain::Rack
    } else {
        Domain::Drive
    }
}

/// Places one row: the indexes into `drives`, ordered by leg, then column. `before` is where the row before
/// it lies, if there is one.
///
/// # Errors
/// `NoSpace`, with the label that is short.
pub fn place(
    pool: &str,
    drives: &[Choice],
    legs: u8,
    columns: u8,
    before: &[String],
) -> Result<Vec<usize>, Error> {
    let (legs, columns) = (usize::from(legs), usize::from(columns));
    let has_space = |drive: &Choice| drive.usable && drive.free > 0;
    let same: Vec<usize> = before
        .iter()
        .filter_map(|id| drives.iter().position(|drive| drive.id == *id && has_space(drive)))
        .collect();
    if same.len() == legs * columns && !same.is_empty() && every_column_is_there(drives, &same, columns) {
        return Ok(same);
    }
    let level = domain(drives);
    let mut emptiest: Vec<usize> = (0..drives.len()).filter(|index| has_space(&drives[*index])).collect();
    emptiest.sort_by_key(|index| (drives[*index].away, std::cmp::Reverse(drives[*index].free)));
    let mut chosen: Vec<Vec<usize>> = match level {
        Domain::Drive => emptiest.chunks_exact(columns).map(<[usize]>::to_vec).collect(),
        Domain::Node => by_label(drives, &emptiest, |drive| &drive.node),
        Domain::Rack => by_label(drives, &emptiest, |drive| &drive.rack),
    };
    chosen.retain(|places| places.len() >= columns);
    for places in &mut chosen {
        places.truncate(columns);
    }
    chosen.sort_by_key(|places| {
        let free = places.iter().map(|index| u64::from(drives[*index].free)).sum::<u64>();
        (places.iter().any(|index| drives[*index].away), std::cmp::Reverse(free))
    });
    let places: Vec<usize> = chosen.iter().take(legs).flatten().copied().collect();
    if chosen.len() < legs || !every_column_is_there(drives, &places, columns) {
        return Err(shortage(pool, drives, level, legs, columns));
    }
    Ok(places)
}

/// Whether each column of a row has a leg on a drive that is there and misses nothing.
fn every_column_is_there(drives: &[Choice], row: &[usize], columns: usize) -> bool {
    let there = |column: usize| row.iter().skip(column).step_by(columns).any(|index| !drives[*index].away);
    (0..columns).all(there)
}

/// The drives by label, each group from the emptiest down.
fn by_label(drives: &[Choice], order: &[usize], label: fn(&Choice) -> &String) -> Vec<Vec<usize>> {
    let mut groups: std::collections::BTreeMap<&String, Vec<usize>> = std::collections::BTreeMap::new();
    for index in order {
        groups.entry(label(&drives[*index])).or_default().push(*index);
    }
    groups.into_values().collect()
}

/// Says which label is short: too few of them at all, or too few with free space.
fn shortage(pool: &str, drives: &[Choice], level: Domain, legs: usize, columns: usize) -> Error {
    let (word, plural) = level.words();
    let wide = if columns > 1 { format!(" of {columns} columns") } else { String::new() };
    let count = |wanted: &dyn Fn(&Choice) -> bool| {
        let usable: Vec<usize> = (0..drives.len()).filter(|index| wanted(&drives[*index])).collect();
        match level {
            Domain::Drive => usable.len(),
            Domain::Node => {
                by_label(drives, &usable, |d| &d.node).iter().filter(|g| g.len() >= columns).count()
            }
            Domain::Rack => {
                by_label(drives, &usable, |d| &d.rack).iter().filter(|g| g.len() >= columns).count()
            }
        }
    };
    let needed = if level == Domain::Drive { legs * columns } else { legs };
    let present = count(&|drive| drive.usable);
    let with_space = count(&|drive| drive.usable && drive.free > 0);
    let each = if level != Domain::Drive && columns > 1 {
        format!(" with {columns} drives each")
    } else {
        String::new()
    };
    let needs_verb = if legs == 1 { "needs" } else { "need" };
    let needs = format!(
        "{legs} leg{}{wide} {needs_verb} {needed} {}{each}",
        plural_s(legs),
        if needed == 1 { word } else { plural }
    );
    let message = if present < needed {
        format!("{needs}, pool {pool} has {present}: label {word} is short")
    } else {
        format!("{needs} with free space, pool {pool} has {with_space}: label {word} is short of space")
    };
    let add = match level {
        Domain::Drive => format!("add drives with plinth pool add {pool} DRIVE"),
        _ => format!("add drives with plinth pool add {pool} DRIVE --label {word}=NAME"),
    };
    let hint = if legs > 1 { format!("{add}, or use --legs 1 to go without a mirror") } else { add };
    Error::new(Kind::NoSpace, pool, message).hint(hint)
}

const fn plural_s(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(id: &str, node: &str, rack: &str, free: u32) -> Choice {
        Choice { id: id.into(), node: node.into(), rack: rack.into(), usable: true, away: false, free }
    }

    fn ids(drives: &[Choice], places: &[usize]) -> Vec<String> {
        places.iter().map(|index| drives[*index].id.clone()).collect()
    }

    #[test]
    fn legs_lie_on_different_nodes_then_racks_then_drives() {
        let nodes = [drive("a", "n1", "r1", 9), drive("b", "n1", "r2", 8), drive("c", "n2", "r1", 1)];
        assert_eq!(ids(&nodes, &place("p", &nodes, 2, 1, &[]).expect("places")), ["a", "c"]);
        let racks = [drive("a", "n1", "r1", 9), drive("b", "n1", "r1", 8), drive("c", "n1", "r2", 1)];
        assert_eq!(ids(&racks, &place("p", &racks, 2, 1, &[]).expect("places")), ["a", "c"]);
        let plain = [drive("a", "", "", 1), drive("b", "", "", 8), drive("c", "", "", 9)];
        assert_eq!(ids(&plain, &place("p", &plain, 2, 1, &[]).expect("places")), ["c", "b"]);
    }

    #[test]
    fn the_label_that_is_short_is_named() {
        let two = [drive("a", "n1", "", 9), drive("b", "n1", "", 8), drive("c", "n2", "", 1)];
        let error = place("p", &two, 3, 1, &[]).expect_err("three nodes");
        assert_eq!(error.kind, Kind::NoSpace);
        assert_eq!(error.message, "3 legs need 3 nodes, pool p has 2: label node is short");
        let full = [drive("a", "", "r1", 9), drive("b", "", "r2", 0)];
        let error = place("p", &full, 2, 1, &[]).expect_err("one rack is full");
        assert!(error.message.contains("label rack is short of space"), "{error}");
        let one = [drive("a", "", "", 9)];
        let error = place("p", &one, 2, 1, &[]).expect_err("one drive");
        assert!(
            error.to_string().contains("label drive is short") && error.to_string().contains("--legs 1"),
            "{error}"
        );
    }

    #[test]
    fn a_column_has_a_drive_of_its_own_and_a_row_stays_where_the_last_one_was() {
        let drives: Vec<Choice> = (0..5).map(|i| drive(&format!("d{i}"), "", "", 5 + i)).collect();
        let first = ids(&drives, &place("p", &drives, 2, 2, &[]).expect("places"));
        let mut distinct = first.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 4);
        let reversed: Vec<String> = first.iter().rev().cloned().collect();
        assert_eq!(ids(&drives, &place("p", &drives, 2, 2, &reversed).expect("places")), reversed);
        assert!(place("p", &drives, 3, 2, &[]).is_err(), "six drives are needed");
    }

    #[test]
    fn an_absent_drive_is_not_used() {
        let mut drives = [drive("a", "", "", 5), drive("b", "", "", 5)];
        drives[0].usable = false;
        assert!(place("p", &drives, 2, 1, &[]).is_err());
        assert_eq!(ids(&drives, &place("p", &drives, 1, 1, &[]).expect("places")), ["b"]);
    }
}
