//! The table alone, and a small world in which drives fail, return and are resynced, superblocks and catalogue are
//! written with crashes in between, and groups are opened with any drives missing. The world checks that no copy
//! is opened that lacks what was acknowledged. It does not check resync itself, nor forced opens.
use super::*;
use crate::activation::{Activation, Generations};
use crate::open::{OpenDecision, OpenInputs, decide_open};
use alloc::vec;
use base::Gen;
use proptest::prelude::*;

const AT: (Seq, CkptNo) = (Seq::new(9), CkptNo::new(2));

fn drive(n: u8) -> Uuid {
    Uuid([n + 1; 16])
}

fn mirror(drives: u8) -> CopyTable {
    let entry = |n| CopyEntry { drive: drive(n), state: CopyState::Current, version: 1 };
    CopyTable::from_entries(&(0..drives).map(entry).collect::<Vec<_>>()).expect("distinct")
}

fn set(bits: u32) -> DriveSet {
    DriveSet::from_bits(bits)
}

#[test]
fn the_last_current_copy_of_a_place_stays() {
    let mut table = mirror(4);
    let places = [set(0b0011), set(0b1100), set(0b0110)];
    let at = |n| DriveIx::new(n);
    assert_eq!(table.fail(at(0), AT, 2, places), Ok(()));
    assert!(!table.may_fail(at(1), places), "alone in the first place");
    assert_eq!(table.fail(at(1), AT, 3, places), Err(Refused::LastCopy));
    assert_eq!(table.diverge(at(1), 3, places), Err(Refused::LastCopy));
    assert_eq!(table.fail(at(2), AT, 3, places), Ok(()), "1 and 3 hold its places");
    assert_eq!(table.fail(at(3), AT, 4, places), Err(Refused::LastCopy));
    assert_eq!(table.fail(at(0), AT, 4, places), Ok(()), "a stale one may fail again");
    assert_eq!(table.current(), set(0b1010));
    assert_eq!((table.get(at(0)).version, table.newest_version()), (2, 3), "nothing changed for it");
}

#[test]
fn a_drive_leaves_and_returns() {
    let mut table = mirror(2);
    let place = [set(0b11)];
    let one = DriveIx::new(1);
    table.fail(one, AT, 2, place).expect("another is current");
    assert!(matches!(table.finish_resync(one, 3), Err(Refused::Illegal(_))));
    table.begin_resync(one, 3).expect("stale");
    let later = (Seq::new(99), CkptNo::new(9));
    table.fail(one, later, 4, place).expect("not current");
    assert_eq!(table.get(one).state, CopyState::stale(AT.0, AT.1));
    table.begin_resync(one, 5).expect("stale");
    table.finish_resync(one, 6).expect("resyncing");
    assert_eq!(table.current(), set(0b11));
    table.fail(DriveIx::new(0), later, 7, place).expect("the other is back");
}

#[test]
fn a_table_lists_each_drive_once_and_not_too_many() {
    let mut table = mirror(MAX_DRIVES as u8);
    let more = CopyEntry { drive: drive(200), state: CopyState::EMPTY, version: 2 };
    assert_eq!(table.add(more), Err(Refused::Full));
    let mut table = mirror(2);
    assert_eq!(table.add(CopyEntry { drive: drive(1), ..more }), Err(Refused::Listed));
    assert_eq!(table.add(more), Ok(DriveIx::new(2)));
    assert_eq!(table.find(drive(200)), Some(DriveIx::new(2)));
    assert_eq!(CopyTable::from_entries(&[more, more]), None);
}

#[test]
fn the_newer_view_is_believed() {
    let mut mine = mirror(2);
    let mut theirs = mirror(2);
    theirs.fail(DriveIx::new(0), AT, 5, [set(0b11)]).expect("another is current");
    let mut reversed = theirs.entries().to_vec();
    reversed.reverse();
    reversed.push(CopyEntry { drive: drive(77), state: CopyState::EMPTY, version: 9 });
    mine.merge(&reversed);
    assert_eq!(mine.entries(), theirs.entries(), "matched by drive; unknown drives left out");
    theirs.merge(mirror(2).entries());
    assert_eq!(mine.entries(), theirs.entries(), "the older one changes nothing");
    mine.merge(&[CopyEntry { drive: drive(1), state: CopyState::EMPTY, version: 1 }]);
    assert_eq!(mine.get(DriveIx::new(1)).state, CopyState::EMPTY, "equally new: the worse");
    mine.restamp(10);
    assert_eq!(mine.newest_version(), 10);
    assert!(mine.entries().iter().all(|entry| entry.version == 10));
}

#[test]
fn a_copy_is_not_current_before_the_catalogue_agrees() {
    let stale = CopyEntry { drive: drive(0), state: CopyState::stale(AT.0, AT.1), version: 3 };
    let state = CopyState::Resyncing { seq: AT.0, ckpt: AT.1, unproven: false };
    let resyncing = CopyEntry { state, version: 4, ..stale };
    let current = CopyEntry { state: CopyState::Current, version: 5, ..stale };
    let merged = |mine, theirs| {
        let mut table = CopyTable::from_entries(&[mine]).expect("one");
        table.merge_catalogue(&[theirs]);
        *table.get(DriveIx::new(0))
    };
    assert_eq!(merged(current, stale), CopyEntry { state: stale.state, ..current });
    assert_eq!(merged(current, CopyEntry { version: 5, ..stale }).state, stale.state);
    assert_eq!(merged(resyncing, stale), resyncing);
    assert_eq!(merged(stale, current), current, "the catalogue is newer");
    assert_eq!(merged(stale, CopyEntry { version: 1, ..current }), stale);
    assert_eq!(merged(stale, CopyEntry { drive: drive(9), ..current }), stale);
    // A mark says nothing of histories.
    let unproven = CopyEntry { state: stale.state.after(Event::Diverge).expect("may diverge"), ..stale };
    let newer = CopyEntry { version: 7, ..stale };
    assert_eq!(merged(unproven, newer), CopyEntry { version: 7, ..unproven });
    assert_eq!(merged(unproven, CopyEntry { state: resyncing.state, ..newer }).state, unproven.state);
    assert_eq!(
        merged(unproven, CopyEntry { version: 7, ..current }).state,
        CopyState::Current,
        "it was compared"
    );
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What is on a drive: its superblock's table and version, and which acknowledged writes it has.
#[derive(Clone)]
struct Disk {
    table: CopyTable,
    generation: u64,
    version: u64,
    has: Vec<bool>,
}

struct World {
    rng: Rng,
    disks: Vec<Disk>,
    catalogue: CopyTable,
    /// The table of the running engine, if one runs.
    live: Option<CopyTable>,
    generation: u64,
    version: u64,
    writes: usize,
    opened: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed | 1);
        let drives = 2 + rng.below(2) as u8;
        let table = mirror(drives);
        let disk = Disk { table: table.clone(), generation: 0, version: 1, has: vec![] };
        let disks = vec![disk; usize::from(drives)];
        Self { rng, disks, catalogue: table, live: None, generation: 0, version: 1, writes: 0, opened: 0 }
    }

    fn place(&self) -> DriveSet {
        set((1 << self.disks.len()) - 1)
    }

    /// Makes the live table durable: what is not current in the catalogue, everything in a superblock on the
    /// drives that get superblocks, what is current in the catalogue. False if a crash came in between.
    fn publish(&mut self, version: u64) -> bool {
        self.version = version;
        if !self.tell_catalogue(|state| !state.is_current()) {
            return false;
        }
        let table = self.live.clone().expect("running");
        for drive in table.drives(|state| !matches!(state, CopyState::Stale { .. })).iter() {
            if self.rng.chance(6) {
                return self.crash();
            }
            let disk = &mut self.disks[usize::from(drive.get())];
            (disk.table, disk.generation, disk.version) = (table.clone(), self.generation, version);
        }
        self.tell_catalogue(CopyState::is_current)
    }

    fn tell_catalogue(&mut self, which: impl Fn(CopyState) -> bool) -> bool {
        if self.rng.chance(6) {
            return self.crash();
        }
        let live = self.live.as_ref().expect("running");
        for (told, entry) in self.catalogue.entries.iter_mut().zip(live.entries()) {
            if which(entry.state) {
                *told = *entry;
            }
        }
        true
    }

    fn crash(&mut self) -> bool {
        self.live = None;
        false
    }

    fn write(&mut self) {
        let current = self.live.as_ref().expect("running").current();
        for (n, disk) in self.disks.iter_mut().enumerate() {
            disk.has.push(current.contains(DriveIx::new(n as u8)));
        }
        self.writes += 1;
    }

    fn fail(&mut self) {
        let n = DriveIx::new(self.rng.below(self.disks.len() as u64) as u8);
        let (place, version) = (self.place(), self.version + 1);
        let live = self.live.as_mut().expect("running");
        let current = live.current();
        match live.fail(n, AT, version, [place]) {
            Ok(()) => {
                self.publish(version);
            }
            Err(refused) => {
                assert_eq!(refused, Refused::LastCopy);
                assert_eq!(current, DriveSet::only(n));
            }
        }
    }

    fn resync(&mut self) {
        let live = self.live.as_mut().expect("running");
        let behind: Vec<_> = live.drives(|state| !state.is_current()).iter().collect();
        let Some(drive) = behind.first().copied() else { return };
        live.begin_resync(drive, self.version + 1).expect("stale");
        if !self.publish(self.version + 1) {
            return;
        }
        // The walk; then the checkpoint that makes it current.
        self.disks[usize::from(drive.get())].has = vec![true; self.writes];
        self.live.as_mut().expect("running").finish_resync(drive, self.version + 1).expect("resyncing");
        self.publish(self.version + 1);
    }

    /// Opens with some of the drives.
    fn open(&mut self) {
        let all = self.place();
        let absent = if self.rng.chance(50) { self.rng.below(u64::from(all.bits()) + 1) as u32 } else { 0 };
        let present = all.without(set(absent));
        let there: Vec<Disk> = present.iter().map(|n| self.disks[usize::from(n.get())].clone()).collect();
        let Some(newest) = there.iter().max_by_key(|disk| (disk.generation, disk.version)) else { return };
        let mut table = newest.table.clone();
        there.iter().for_each(|disk| table.merge(disk.table.entries()));
        let catalogue = self.rng.chance(80).then_some(&self.catalogue);
        if let Some(view) = catalogue {
            table.merge_catalogue(view.entries());
        }
        let inputs = OpenInputs { table: &table, present, catalogue: catalogue.is_some(), forced: false };
        let decision = decide_open(&inputs, [all]);
        let OpenDecision::Open { current, promoted } = decision else {
            let whole = present == all && catalogue.is_some();
            assert!(!whole, "everything is there, and it does not open: {decision:?}");
            return;
        };
        assert!(promoted.is_empty());
        for drive in current.iter() {
            let disk = &self.disks[usize::from(drive.get())];
            assert!(disk.has.iter().all(|has| *has), "{drive} is opened and lacks an acknowledged write");
        }
        self.activate(table, current, newest.version.max(self.known_version()));
    }

    fn known_version(&self) -> u64 {
        self.catalogue.newest_version()
    }

    fn activate(&mut self, mut table: CopyTable, current: DriveSet, newest: u64) {
        let mut found = Generations::new();
        self.disks.iter().for_each(|disk| found.found(Gen::new(disk.generation)));
        let generation = found.next().expect("few").get().max(self.generation + 1);
        let activation = Activation { generation: Gen::new(generation), id: Uuid::NIL, salt: [0; 16] };
        let version = activation.first_version(newest.max(table.newest_version()) + 1);
        let place = self.place();
        // What is absent, and what was being resynced, has failed.
        for drive in place.without(current).iter() {
            table.fail(drive, AT, version - 1, [place]).expect("a current one is there");
        }
        table.restamp(version);
        self.generation = generation;
        self.live = Some(table);
        self.opened += u32::from(self.publish(version));
    }

    fn step(&mut self) {
        if self.live.is_none() {
            return self.open();
        }
        match self.rng.below(10) {
            0..=4 => self.write(),
            5 | 6 => self.fail(),
            7 | 8 => self.resync(),
            _ => {
                self.crash();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000.max(ProptestConfig::default().cases), ..Default::default() })]

    #[test]
    fn no_copy_that_lacks_something_is_ever_opened(seed in any::<u64>()) {
        let mut world = World::new(seed);
        for _ in 0..150 {
            world.step();
        }
        prop_assert!(world.opened > 0 || world.writes == 0);
    }
}
