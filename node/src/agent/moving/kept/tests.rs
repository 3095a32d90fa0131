//! The promise against what happens: small pools grow as far as it lets them, and then their drives are lost, in every
//! order, with successors chosen by the planner or by whoever wants the next ones to find nothing.
use super::*;
use crate::agent::moving::plan::{Asked, Place, successors};
use std::collections::BTreeSet;

/// Small numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

fn drive(id: usize, node: &str, free: u32) -> Choice {
    Choice { id: format!("d{id}"), node: node.into(), rack: String::new(), usable: true, away: false, free }
}

/// A pool, its groups (legs and columns) and their rows.
#[derive(Clone)]
struct Pool {
    drives: Vec<Choice>,
    /// Those that are lost, and whether they can be read.
    lost: Vec<Option<bool>>,
    groups: Vec<(usize, usize)>,
    rows: Vec<(usize, Vec<usize>)>,
}

impl Pool {
    fn kept(&self, spares: usize) -> Kept {
        let gone = self.lost.iter().flatten().count();
        let standing = |lost: &Option<bool>| match lost {
            None => Standing::Stays,
            Some(true) => Standing::Leaves,
            Some(false) => Standing::Out,
        };
        let drives = self.drives.iter().cloned().zip(self.lost.iter().map(standing)).collect();
        let mut kept = Kept::new(drives, spares - gone);
        for (group, on) in &self.rows {
            kept.row(on.iter().map(|at| &self.drives[*at].id), self.groups[*group].1 as u8);
        }
        kept
    }

    /// Some place for one row more of a group.
    fn any_place(&self, group: usize, dice: &mut Dice) -> Option<Vec<usize>> {
        let (legs, columns) = self.groups[group];
        let level = domain(&self.drives);
        let mut free: Vec<usize> = (0..self.drives.len())
            .filter(|at| self.drives[*at].usable && self.drives[*at].free > 0)
            .collect();
        for at in (1..free.len()).rev() {
            free.swap(at, dice.roll(at + 1));
        }
        let mut on = Vec::new();
        let mut used = BTreeSet::new();
        for _ in 0..legs {
            let first = free.iter().copied().find(|at| !used.contains(self.drives[*at].domain(level)))?;
            let near = self.drives[first].domain(level);
            let fits = |at: &usize| {
                !on.contains(at)
                    && (level == crate::agent::placement::Domain::Drive
                        || self.drives[*at].domain(level) == near)
            };
            let leg: Vec<usize> = free.iter().copied().filter(fits).take(columns).collect();
            if leg.len() < columns {
                return None;
            }
            used.extend(leg.iter().map(|at| self.drives[*at].domain(level)));
            on.extend(leg);
        }
        Some(on)
    }

    fn add(&mut self, group: usize, on: Vec<usize>) {
        on.iter().for_each(|at| self.drives[*at].free -= 1);
        self.rows.push((group, on));
    }

    /// Grows as far as the promise lets it, or nearly.
    fn grow(&mut self, spares: usize, tries: usize, dice: &mut Dice) {
        for _ in 0..tries {
            let group = dice.roll(self.groups.len());
            let Some(on) = self.any_place(group, dice) else { continue };
            let mut kept = self.kept(spares);
            kept.change([], on.iter().map(|at| &self.drives[*at].id), self.groups[group].1 as u8);
            if kept.promise().is_ok() {
                self.add(group, on);
            }
        }
    }

    fn lose(&mut self, drive: usize, read: bool) {
        (self.drives[drive].usable, self.lost[drive]) = (false, Some(read));
    }

    /// Whether something of a group on a drive that was lost can be moved.
    fn can_move(&self, group: usize, lost: usize) -> bool {
        self.groups[group].0 > 1 || self.lost[lost] == Some(true)
    }

    /// What can be read of what was on a drive that was lost goes elsewhere. Whether it all found a place.
    fn leave(&mut self, lost: usize, dice: &mut Dice) -> bool {
        let level = domain(&self.drives);
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        let (turn, spiteful) = (dice.roll(order.len()), dice.roll(2) == 0);
        order.rotate_left(turn);
        for group in order {
            if !self.can_move(group, lost) {
                continue;
            }
            let columns = self.groups[group].1;
            let places: Vec<(usize, usize)> = (0..self.rows.len())
                .filter(|row| self.rows[*row].0 == group)
                .filter_map(|row| Some((row, self.rows[row].1.iter().position(|at| *at == lost)?)))
                .collect();
            if !spiteful {
                let name = |at: &usize| self.drives[*at].id.clone();
                let asked = Asked { pool: "p", volume: "v", what: "w", columns: columns as u8 };
                let wanted: Vec<Place> = places
                    .iter()
                    .map(|(row, at)| Place {
                        row: *row as u32,
                        drives: self.rows[*row].1.iter().map(name).collect(),
                        at: *at,
                    })
                    .collect();
                let Ok(to) = successors(asked, &mut self.drives, &BTreeSet::new(), &wanted) else {
                    return false;
                };
                for ((row, at), to) in places.iter().zip(to) {
                    self.rows[*row].1[*at] = to;
                }
                continue;
            }
            for (row, at) in places {
                let on = &self.rows[row].1;
                let legal: Vec<usize> = (0..self.drives.len())
                    .filter(|to| self.drives[*to].usable && self.drives[*to].free > 0 && !on.contains(to))
                    .filter(|to| {
                        let mut others =
                            on.iter().enumerate().filter(|(other, _)| other / columns != at / columns);
                        others.all(|(_, other)| {
                            self.drives[*other].domain(level) != self.drives[*to].domain(level)
                        })
                    })
                    .collect();
                if legal.is_empty() {
                    return false;
                }
                let to = legal[dice.roll(legal.len())];
                self.drives[to].free -= 1;
                self.rows[row].1[at] = to;
            }
        }
        true
    }
}

fn some_pool(dice: &mut Dice) -> Pool {
    let count = 3 + dice.roll(4);
    let nodes = [1, 1, 2, 3, 4][dice.roll(5)];
    let drives: Vec<Choice> =
        (0..count).map(|at| drive(at, &format!("n{}", at % nodes), 1 + dice.roll(8) as u32)).collect();
    let groups = (0..1 + dice.roll(3)).map(|_| (1 + dice.roll(3), 1 + dice.roll(4) / 3)).collect();
    Pool { lost: vec![None; count], drives, groups, rows: Vec::new() }
}

/// All orders in which so many of these can be lost.
fn orders(count: usize, losses: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for _ in 0..losses {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                let next = (0..count).filter(|at| !order.contains(at)).collect::<Vec<_>>();
                next.into_iter().map(move |at| [order.clone(), vec![at]].concat())
            })
            .collect();
    }
    orders
}

#[test]
fn whatever_is_lost_finds_a_place() {
    let mut dice = Dice(0x5eed_0001);
    let mut moved = [0usize; 4];
    for case in 0..600 {
        let spares = 1 + dice.roll(3);
        let mut pool = some_pool(&mut dice);
        pool.grow(spares, 40, &mut dice);
        for order in orders(pool.drives.len(), spares) {
            let mut after = pool.clone();
            for (nth, lost) in order.iter().enumerate() {
                after.lose(*lost, dice.roll(2) == 0);
                let rows = after.rows.iter();
                let rows = rows.filter(|(group, on)| after.can_move(*group, *lost) && on.contains(lost));
                moved[nth] += rows.count();
                assert!(
                    after.leave(*lost, &mut dice),
                    "case {case}, {order:?} lost, at {lost}: {:?}",
                    after.rows
                );
            }
        }
    }
    assert!(moved[0] > 2_000 && moved[1] > 1_000 && moved[2] > 500, "{moved:?}: too little was lost");
}

/// The volumes go on growing while a lost drive is not emptied yet.
#[test]
fn who_grows_meanwhile_takes_no_place_that_is_needed() {
    let mut dice = Dice(0x5eed_0002);
    let mut grown = 0;
    for case in 0..600 {
        let spares = 1 + dice.roll(2);
        let mut pool = some_pool(&mut dice);
        pool.grow(spares, 8, &mut dice);
        for order in orders(pool.drives.len(), spares) {
            let mut after = pool.clone();
            after.lose(order[0], dice.roll(2) == 0);
            let before = after.rows.len();
            after.grow(spares, 20, &mut dice);
            grown += after.rows.len() - before;
            for (nth, lost) in order.iter().enumerate() {
                if nth > 0 {
                    after.lose(*lost, dice.roll(2) == 0);
                }
                assert!(
                    after.leave(*lost, &mut dice),
                    "case {case}, {order:?} lost, at {lost}: {:?}",
                    after.rows
                );
            }
        }
    }
    assert!(grown > 1_000, "{grown}");
}

impl Pool {
    /// Whether the planner finds places for all that is on any drive, if all volumes were one.
    fn has_places(&self) -> bool {
        (0..self.drives.len()).all(|lost| {
            let mut then = self.clone();
            then.lose(lost, true);
            let asked = Asked { pool: "p", volume: "v", what: "w", columns: 1 };
            let name = |at: &usize| then.drives[*at].id.clone();
            let rows = then.rows.iter().enumerate();
            let places: Vec<Place> = rows
                .filter_map(|(row, (_, on))| {
                    let at = on.iter().position(|at| *at == lost)?;
                    Some(Place { row: row as u32, drives: on.iter().map(name).collect(), at })
                })
                .collect();
            let mut drives = then.drives.clone();
            successors(asked, &mut drives, &BTreeSet::new(), &places).is_ok()
        })
    }
}

/// For one spare and one column it is nearly exact: a pool gets nearly as full as it could.
#[test]
fn little_is_refused_that_could_be_granted() {
    let mut dice = Dice(0x5eed_0003);
    let (mut could, mut may) = (0, 0);
    for _ in 0..60 {
        let mut pool = some_pool(&mut dice);
        pool.groups.iter_mut().for_each(|group| group.1 = 1);
        pool.drives.iter_mut().for_each(|drive| drive.free += 10);
        let (mut exact, seed) = (pool.clone(), dice.0);
        pool.grow(1, 60, &mut dice);
        dice.0 = seed;
        for _ in 0..60 {
            let group = dice.roll(exact.groups.len());
            let Some(on) = exact.any_place(group, &mut dice) else { continue };
            exact.add(group, on);
            if !exact.has_places() {
                let (_, on) = exact.rows.pop().expect("it was added");
                on.iter().for_each(|at| exact.drives[*at].free += 1);
            }
        }
        assert!(pool.has_places(), "{:?} on {:?}", pool.rows, pool.drives);
        could += exact.rows.len();
        may += pool.rows.len();
    }
    assert!(may * 100 > could * 90, "{may} of {could}");
}

fn with(kept: &mut Kept, many: usize, on: &[usize], columns: u8) {
    let names: Vec<String> = on.iter().map(|at| format!("d{at}")).collect();
    (0..many).for_each(|_| kept.change([], &names, columns));
}

fn pool_of(drives: Vec<Choice>, spares: usize) -> Kept {
    Kept::new(drives.into_iter().map(|drive| (drive, Standing::Stays)).collect(), spares)
}

/// The story: a mirror on two of three drives, and a volume without a copy fills the third. As much was free as on the
/// fullest drive was taken, and when that was lost nothing of it had a place.
#[test]
fn what_is_free_beside_the_other_copy_is_no_place() {
    let mut kept = pool_of((0..3).map(|at| drive(at, "", 30)).collect(), 1);
    with(&mut kept, 14, &[0, 1], 1);
    with(&mut kept, 16, &[2], 1);
    assert_eq!(kept.promise(), Ok(()));
    with(&mut kept, 1, &[2], 1);
    assert_eq!(kept.promise().map_err(|drive| drive.id.as_str()), Err("d0"));
    // Spread evenly, two drives have room for what is on three.
    let mut even = pool_of((0..3).map(|at| drive(at, "", 30)).collect(), 1);
    [[0, 1], [1, 2], [2, 0]].iter().for_each(|on| with(&mut even, 10, on, 1));
    assert_eq!(even.promise(), Ok(()));
    with(&mut even, 1, &[0, 1], 1);
    assert!(even.promise().is_err());
    // Two drives and a mirror: there is never a third.
    let mut two = pool_of((0..2).map(|at| drive(at, "", 30)).collect(), 1);
    assert_eq!(two.promise(), Ok(()));
    with(&mut two, 1, &[0, 1], 1);
    assert!(two.promise().is_err());
}

#[test]
fn the_domain_of_the_other_copy_is_no_place() {
    let mut kept = pool_of((0..4).map(|at| drive(at, ["x", "y"][at / 2], 10)).collect(), 1);
    with(&mut kept, 5, &[0, 2], 1);
    assert_eq!(kept.promise(), Ok(()), "d1 and d3");
    with(&mut kept, 5, &[1], 1);
    assert_eq!(kept.promise(), Ok(()));
    with(&mut kept, 1, &[1], 1);
    assert!(kept.promise().is_err(), "what is free on d3 does not help d0");
}

/// A drive that is gone counts as the one that may be lost; if more are gone, nothing can be promised.
#[test]
fn drives_that_are_gone_come_first() {
    let record = |leaving: Option<crate::catalogue::Errand>| -> DriveRecord {
        let mut record: DriveRecord = serde_json::from_value(serde_json::json!({
            "id": "a", "pool": "p", "path": "/d", "life": "ready", "state": "online", "node": "", "rack": "",
            "zone": "", "class": "", "blocks": 1000, "extents": 10, "written": 1,
        }))
        .expect("a drive of an earlier build");
        record.leaving = leaving.map(|errand| crate::catalogue::Leaving { errand, to: None });
        record
    };
    use crate::catalogue::Errand::{Evacuate, Spare};
    use Standing::{Leaves, Out, Stays};
    let (here, spared, leaves) = (record(None), record(Some(Spare)), record(Some(Evacuate)));
    let of = |spares: u32, drives: &[(&DriveRecord, bool)]| {
        let pool = serde_json::json!({
            "id": "p", "name": "p", "created_at": "", "life": "ready", "extent_blocks": 64, "drives": [],
            "spares": spares,
        });
        standings(&serde_json::from_value(pool).expect("a pool of an earlier build"), drives)
    };
    assert_eq!(of(1, &[(&here, true), (&here, true)]), (vec![Stays, Stays], 1));
    assert_eq!(of(1, &[(&here, true), (&here, false)]), (vec![Stays, Out], 0));
    assert_eq!(of(1, &[(&here, false), (&here, false)]), (vec![Stays, Stays], 0));
    assert_eq!(of(2, &[(&spared, false), (&here, false)]), (vec![Out, Out], 0));
    assert_eq!(of(2, &[(&spared, true), (&here, true)]), (vec![Leaves, Stays], 1));
    assert_eq!(of(2, &[(&leaves, true), (&here, true)]), (vec![Leaves, Stays], 2));
}

/// Of one row.
fn volume(name: &str, legs: u8) -> crate::params::CreateVolume {
    crate::params::CreateVolume { size_bytes: 1 << 20, ..crate::agent::testing::volume(name, legs) }
}

/// An agent with a pool of two drives, and a file for a third.
fn two_drives(folder: &std::path::Path) -> (std::sync::Arc<Agent>, std::path::PathBuf) {
    let agent = crate::agent::testing::agent(folder);
    let drives = ["d1", "d2", "d3"].map(|name| folder.join(name));
    for drive in &drives {
        std::fs::File::create(drive).expect("creates").set_len(256 << 20).expect("sizes");
    }
    let params = crate::params::CreatePool {
        name: "p".into(),
        drives: drives[..2].to_vec(),
        labels: crate::params::Labels::default(),
        force: false,
        extent_bytes: Some(16 << 20),
    };
    agent.create_pool(&params, false).expect("creates");
    let [_, _, third] = drives;
    (agent, third)
}

/// A second leg on the only other drive leaves no third one.
#[test]
fn a_leg_that_leaves_no_place_is_not_added() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agent, _) = two_drives(folder.path());
    agent.set_pool("p", "spares", "1", false).expect("sets");
    agent.create_volume(&volume("v", 1), false).expect("creates");
    let error = agent.set_volume("v", "legs", "2", false).expect_err("refused");
    assert!(error.kind == Kind::NoSpace && error.message.contains("for its spares: were drive"), "{error}");
    agent.set_pool("p", "spares", "0", false).expect("sets");
    agent.set_volume("v", "legs", "2", false).expect("it may have two now");
}

/// The same story by the agent's verbs: mirrors on two drives, then volumes without a copy until there is no space left.
/// Whichever drive is lost then, spare space takes its place.
#[test]
fn a_pool_is_filled_and_any_drive_can_be_lost() {
    use crate::catalogue::{Errand, Leaving};
    use crate::params::{AddDrives, Labels};
    let folder = tempfile::tempdir().expect("a folder");
    let (agent, third) = two_drives(folder.path());
    for mirror in 0..6 {
        agent.create_volume(&volume(&format!("m{mirror}"), 2), false).expect("creates");
    }
    let added = AddDrives { drives: vec![third], labels: Labels::default(), force: false };
    agent.add_drives("p", &added, false).expect("adds");
    agent.set_pool("p", "spares", "1", false).expect("sets");
    let refused = (0..).find_map(|alone| agent.create_volume(&volume(&format!("a{alone}"), 1), false).err());
    let refused = refused.expect("it is full some day");
    assert!(
        refused.kind == Kind::NoSpace && refused.message.contains("for its spares: were drive"),
        "{refused}"
    );
    let pool = agent.pool("p").expect("there");
    let records = agent.pool_drives(&pool).expect("there");
    for lost in &records {
        let leaving = Some(Leaving { errand: Errand::Spare, to: None });
        let wanted = DriveRecord { leaving, ..lost.record.clone() };
        agent.check_room(&mut agent.lock(), &pool, &wanted, None).expect("everything has a place");
        let away = folder.path().join("away");
        std::fs::rename(&lost.path, &away).expect("moves away");
        agent
            .check_room(&mut agent.lock(), &pool, &wanted, None)
            .expect("everything that is left has a place");
        std::fs::rename(&away, &lost.path).expect("moves back");
    }
    // Nor does a move take it.
    let kept = agent.kept(&agent.lock(), &pool).expect("reads").expect("it has spares");
    let even = crate::agent::moving::rebalance::Even { choices: &[], pairs: &[], kept: Some(&kept) };
    let on = |name: &str| {
        let group = agent.group(name).expect("there").record;
        let row = agent.rows_of(&group.id).expect("reads")[0].record.clone();
        (group, row)
    };
    let third = &records[2].id;
    let alone = (0..).map(|at| on(&format!("a{at}"))).find(|(_, row)| row.drives().all(|id| id != third));
    let (group, row) = alone.expect("some lie on the first two");
    let steps = vec![((row, 0), third.clone())];
    assert!(even.takes_from_spares(&group, &steps), "the third drive has just what the mirrors need");
}
