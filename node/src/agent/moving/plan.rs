//! Which drives take over when extents move.
//!
//! The rules of placement hold for a successor as for the extent whose place it takes: no other extent of its row is on
//! its drive, and no other leg of its row in its failure domain. Drives that take over already are preferred, then
//! drives that the group has, then the emptiest: a group uses few drives. If that leaves a place without a successor,
//! others make room where they can, so that a plan is found whenever there is one.
use crate::agent::placement::{Choice, domain};
use crate::error::{Error, Kind};
use std::collections::BTreeSet;

/// A place that moves: the drives of its row, ordered by leg, then column, and which of them it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The row's number, for people.
    pub row: u32,
    /// Drives, by id.
    pub drives: Vec<String>,
    /// Index into them.
    pub at: usize,
}

/// What is asked for, for the sentence about what is short.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The pool.
    pub pool: &'a str,
    /// The volume.
    pub volume: &'a str,
    /// What cannot be if there is no plan, for people.
    pub what: &'a str,
    /// Stripe columns of the group.
    pub columns: u8,
}

/// Chooses a drive for each place: indexes into `drives`, whose free extents are counted down.
///
/// # Errors
/// `NoSpace`, with the label that is short; nothing is counted down then.
pub fn successors(
    asked: Asked<'_>,
    drives: &mut [Choice],
    known: &BTreeSet<String>,
    places: &[Place],
) -> Result<Vec<usize>, Error> {
    let level = domain(drives);
    let columns = usize::from(asked.columns);
    let fits = |place: &Place, drive: &Choice| {
        let leg = place.at / columns;
        let other_legs = place.drives.iter().enumerate().filter(|(at, _)| at / columns != leg);
        let mut near = other_legs.filter_map(|(_, id)| drives.iter().find(|other| other.id == *id));
        drive.usable
            && drive.free > 0
            && !place.drives.contains(&drive.id)
            && near.all(|other| other.domain(level) != drive.domain(level))
    };
    let allowed: Vec<Vec<usize>> = places
        .iter()
        .map(|place| (0..drives.len()).filter(|drive| fits(place, &drives[*drive])).collect())
        .collect();
    let mut filling = Filling {
        rows: places.iter().map(|place| place.row).collect(),
        taken: vec![Vec::new(); drives.len()],
        row_on: vec![BTreeSet::new(); drives.len()],
        chosen: vec![None; places.len()],
    };
    for (place, row) in places.iter().enumerate() {
        let free = |drive: usize, filling: &Filling| drives[drive].free as usize - filling.taken[drive].len();
        let may = |drive: &usize| free(*drive, &filling) > 0 && !filling.row_on[*drive].contains(&row.row);
        let best = allowed[place].iter().copied().filter(may).max_by_key(|drive| {
            let chosen = !filling.taken[*drive].is_empty();
            (chosen, known.contains(&drives[*drive].id), free(*drive, &filling))
        });
        let found = match best {
            Some(drive) => filling.take(place, drive),
            None => filling.make_room(place, &allowed, drives, &mut vec![false; drives.len()]),
        };
        if !found {
            return Err(shortage(asked, level, row, !allowed[place].is_empty()));
        }
    }
    for (drive, taken) in drives.iter_mut().zip(&filling.taken) {
        drive.free -= taken.len() as u32;
    }
    Ok(filling.chosen.into_iter().map(|drive| drive.expect("every place has one")).collect())
}

/// A plan being made.
struct Filling {
    /// The row, by place.
    rows: Vec<u32>,
    /// Rows, by drive: no two places of a row are on one.
    row_on: Vec<BTreeSet<u32>>,
    /// Places, by drive.
    taken: Vec<Vec<usize>>,
    /// The drive, by place.
    chosen: Vec<Option<usize>>,
}

impl Filling {
    fn take(&mut self, place: usize, drive: usize) -> bool {
        if let Some(before) = self.chosen[place].replace(drive) {
            self.taken[before].retain(|other| *other != place);
            self.row_on[before].remove(&self.rows[place]);
        }
        self.taken[drive].push(place);
        self.row_on[drive].insert(self.rows[place]);
        true
    }

    /// Finds a drive for a place by having others make room. A drive that was tried is not tried again.
    fn make_room(
        &mut self,
        place: usize,
        allowed: &[Vec<usize>],
        drives: &[Choice],
        tried: &mut [bool],
    ) -> bool {
        for drive in allowed[place].iter().copied() {
            if std::mem::replace(&mut tried[drive], true) {
                continue;
            }
            if self.row_on[drive].contains(&self.rows[place]) {
                continue;
            }
            if self.taken[drive].len() < drives[drive].free as usize {
                return self.take(place, drive);
            }
            for other in self.taken[drive].clone() {
                if self.make_room(other, allowed, drives, tried) {
                    return self.take(place, drive);
                }
            }
        }
        false
    }
}

fn shortage(asked: Asked<'_>, level: crate::agent::placement::Domain, place: &Place, some: bool) -> Error {
    let (word, plural) = level.words();
    let Asked { pool, volume, what, .. } = asked;
    let row = place.row;
    let message = if some {
        format!(
            "{what}: the {plural} of pool {pool} that may take row {row} of volume \
             {volume} have too little free space: label {word} is short of space"
        )
    } else {
        format!(
            "{what}: row {row} of volume {volume} needs another {word} with free space, \
             and pool {pool} has none: label {word} is short"
        )
    };
    let add = match word {
        "drive" => format!("add drives with plinth pool add {pool} DRIVE"),
        _ => format!("add drives with plinth pool add {pool} DRIVE --label {word}=NAME"),
    };
    Error::new(Kind::NoSpace, pool, message).hint(add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(id: &str, node: &str, free: u32) -> Choice {
        Choice { id: id.into(), node: node.into(), rack: String::new(), usable: true, away: false, free }
    }

    fn place(drives: &[&str], at: usize) -> Place {
        Place { row: 0, drives: drives.iter().map(ToString::to_string).collect(), at }
    }

    /// Places of rows of their own.
    fn rows(places: &[Place]) -> Vec<Place> {
        let number = |(row, place): (usize, &Place)| Place { row: row as u32, ..place.clone() };
        places.iter().enumerate().map(number).collect()
    }

    const ASKED: Asked<'static> = Asked { pool: "p", volume: "v", what: "drive /d stays", columns: 1 };

    fn chosen(drives: &[Choice], places: &[Place]) -> Vec<String> {
        let mut free = drives.to_vec();
        let found = successors(ASKED, &mut free, &BTreeSet::new(), &rows(places)).expect("there is a plan");
        for (at, left) in free.iter().enumerate() {
            let taken = found.iter().filter(|index| **index == at).count();
            assert_eq!(left.free as usize + taken, drives[at].free as usize);
        }
        found.into_iter().map(|index| drives[index].id.clone()).collect()
    }

    #[test]
    fn a_successor_is_on_no_drive_and_in_no_domain_of_its_row() {
        let drives = [drive("a", "", 9), drive("b", "", 9), drive("c", "", 1), drive("d", "", 1)];
        assert_eq!(chosen(&drives, &[place(&["a", "b"], 0), place(&["a", "b"], 0)]).len(), 2);
        let on_nodes = [drive("a", "x", 9), drive("b", "y", 9), drive("c", "y", 5), drive("d", "z", 1)];
        assert_eq!(chosen(&on_nodes, &[place(&["a", "b"], 0)]), ["d"]);
        assert_eq!(chosen(&on_nodes, &[place(&["a", "b"], 1)]), ["c"]);
    }

    #[test]
    fn few_drives_take_over() {
        let drives = [drive("a", "", 0), drive("b", "", 0), drive("c", "", 3), drive("d", "", 4)];
        let four = rows(&vec![place(&["a", "b"], 0); 4]);
        assert_eq!(chosen(&drives, &four), ["d", "d", "d", "d"]);
        let known = BTreeSet::from(["c".to_owned()]);
        let found = successors(ASKED, &mut drives.to_vec(), &known, &four[..2]).expect("a plan");
        assert_eq!(found, [2, 2], "one that the group has is preferred");
    }

    /// The first place takes what only the second could have; it makes room.
    #[test]
    fn a_plan_is_found_whenever_there_is_one() {
        let drives =
            [drive("a", "", 0), drive("b", "", 0), drive("c", "", 1), drive("d", "", 1), drive("e", "", 1)];
        let places = [place(&["a", "b"], 0), place(&["a", "e"], 0), place(&["a", "d"], 0)];
        let mut found = chosen(&drives, &places);
        assert_ne!((found[1].as_str(), found[2].as_str()), ("e", "d"));
        found.sort();
        assert_eq!(found, ["c", "d", "e"]);
        let short =
            successors(ASKED, &mut drives.to_vec(), &BTreeSet::new(), &rows(&vec![place(&["a", "b"], 0); 4]));
        let error = short.expect_err("too little");
        assert_eq!(error.kind, Kind::NoSpace);
        assert!(error.message.contains("label drive is short of space"), "{error}");
    }

    /// Two columns of a leg that is added.
    #[test]
    fn no_two_places_of_a_row_go_to_one_drive() {
        let drives = [drive("a", "", 0), drive("b", "", 0), drive("c", "", 5), drive("d", "", 4)];
        let columns = Asked { columns: 2, ..ASKED };
        let places = [place(&["a", "b"], 2), place(&["a", "b"], 3)];
        let found = successors(columns, &mut drives.to_vec(), &BTreeSet::new(), &places).expect("a plan");
        assert_eq!(found, [2, 3]);
        let short = successors(columns, &mut drives[..3].to_vec(), &BTreeSet::new(), &places);
        assert_eq!(short.expect_err("one drive").kind, Kind::NoSpace);
    }

    #[test]
    fn what_is_short_is_named() {
        let mut drives = [drive("a", "x", 9), drive("b", "y", 9), drive("c", "y", 5)];
        let error =
            successors(ASKED, &mut drives, &BTreeSet::new(), &[place(&["a", "b"], 0)]).expect_err("none");
        assert!(error.message.contains("label node is short"), "{error}");
        assert!(error.to_string().contains("--label node=NAME"), "{error}");
        assert_eq!(drives[2].free, 5);
    }
}
