//! The images that damage is planted on, made by the engine.
use crate::tools::header_at;
use crate::world::{self, Drives, EXTENT, Rng, World};
use base::{DriveIx, Extent, ExtentNo, Op, Uuid};
use std::sync::LazyLock;
use volume::{Geometry, Names, create};

/// Another group on the same drives.
pub const OTHER: Uuid = Uuid([10; 16]);

/// Which image a row of the table damages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Image {
    /// Two legs, closed: rows, history pages, a map of several pages, old commits on the ring.
    Closed,
    /// Two legs of two columns, closed.
    Striped,
    /// Two legs, killed: a log to replay, most of it durable.
    Log,
    /// Two legs of two columns, killed.
    StripedLog,
    /// Two legs, closed, and a second group that was only made.
    Two,
}

impl Image {
    /// The image, without damage.
    pub fn good(self) -> &'static Drives {
        static CLOSED: LazyLock<Drives> = LazyLock::new(|| closed(2, 1));
        static STRIPED: LazyLock<Drives> = LazyLock::new(|| closed(2, 2));
        static LOG: LazyLock<Drives> = LazyLock::new(|| killed(CLOSED.clone()));
        static STRIPED_LOG: LazyLock<Drives> = LazyLock::new(|| killed(STRIPED.clone()));
        static TWO: LazyLock<Drives> = LazyLock::new(|| with_another(CLOSED.clone()));
        match self {
            Self::Closed => &CLOSED,
            Self::Striped => &STRIPED,
            Self::Log => &LOG,
            Self::StripedLog => &STRIPED_LOG,
            Self::Two => &TWO,
        }
    }
}

/// A closed group with names, rows, history pages, a log of old commits and a map of several pages.
pub fn closed(legs: u8, columns: u8) -> Drives {
    served(Drives::new(legs, columns))
}

/// The same of drives with an empty group.
pub fn served(mut drives: Drives) -> Drives {
    let mut rng = Rng(4242);
    put_names(&mut drives);
    for _ in 0..3 {
        let mut world = World::serve(drives);
        world.work(&mut rng, 120);
        drives = world.close();
    }
    assert!(drives.assert_clean("before the damage").findings.is_empty());
    drives
}

/// The names that the agent writes with the headers of a new group.
fn put_names(drives: &mut Drives) {
    let names = Names {
        written: 1,
        group: "g".into(),
        volume: "vol".into(),
        volume_id: Uuid([7; 16]),
        size_bytes: world::SECTORS * 512,
    };
    for drive in 0..drives.media.len() {
        let mut block = drives.get(drive, header_at(0));
        names.put(&mut block, None);
        drives.put(drive, header_at(0), &block);
    }
}

/// Commits 0 to 4 of the log are durable, 5 and 6 are not; 2 is a hole, the others are writes.
pub fn killed(drives: Drives) -> Drives {
    let mut world = World::serve(drives);
    world.write(80, 8, 1);
    world.write(160, 16, 2);
    world.ask(Op::Flush, 0, 0);
    world.ask(Op::WriteZeroes, 400, 80);
    world.write(240, 8, 3);
    world.write(320, 8, 4);
    world.ask(Op::Flush, 0, 0);
    world.write(4000, 8, 5);
    world.write(4080, 8, 6);
    let drives = world.kill();
    assert_eq!(drives.assert_clean("killed").counts.commits, 7);
    drives
}

/// A second group, whose home row is the next extent of every drive.
pub fn with_another(mut drives: Drives) -> Drives {
    let count = drives.legs * drives.columns;
    let home = |drive| Extent { drive: DriveIx::new(drive), extent: ExtentNo::new(drives.extents) };
    let new = create::NewGroup {
        pool: world::POOL,
        group: OTHER,
        geometry: Geometry::new(drives.legs, drives.columns, 8, EXTENT, 64),
        drives: (0..usize::from(count)).map(world::uuid).collect(),
        home: (0..count).map(home).collect(),
    };
    drives.make(&new);
    drives.extents += 1;
    assert!(drives.assert_clean("two groups").findings.is_empty());
    drives
}
