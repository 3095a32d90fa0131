//! `plinth fsck` on file drives, over the whole table of planted damage: it exits with 4, names the object, and says
//! what is wrong. The table is that of the check itself (`tools/check/tests/damage`).
#[path = "../../check/tests/damage/bitmaps.rs"]
mod bitmaps;
#[path = "../../check/tests/damage/data.rs"]
mod data;
#[path = "../../check/tests/damage/directory.rs"]
mod directory;
#[path = "../../check/tests/damage/headers.rs"]
mod headers;
#[path = "../../check/tests/damage/history.rs"]
mod history;
#[path = "../../check/tests/damage/images.rs"]
mod images;
#[path = "../../check/tests/damage/labels.rs"]
mod labels;
#[path = "../../check/tests/damage/map.rs"]
mod map;
#[path = "../../check/tests/damage/records.rs"]
mod records;
#[path = "../../check/tests/damage/ring.rs"]
mod ring;
#[path = "../../check/tests/damage/rows.rs"]
mod rows;
#[path = "../../check/tests/damage/slots.rs"]
mod slots;
#[path = "../../check/tests/damage/superblock.rs"]
mod superblock;
#[path = "../../check/tests/damage/table.rs"]
mod table;
#[path = "../../check/tests/damage/tools.rs"]
mod tools;
#[path = "../../check/tests/world/mod.rs"]
mod world;

use images::Image;
use plinth_check::MemoryMedia;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use world::Drives;

/// The exit code for damage that is left.
const DAMAGE_LEFT: i32 = 4;

/// An image as file drives.
struct Files {
    folder: TempDir,
    files: Vec<File>,
}

impl Files {
    fn new(good: &Drives) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |index: usize| {
            let path = folder.path().join(format!("d{index}"));
            let file = File::options().read(true).write(true).create_new(true).open(path).expect("a file");
            file.set_len(good.media[index].blocks * 4096).expect("room");
            file
        };
        let files: Vec<File> = (0..good.media.len()).map(make).collect();
        for (file, media) in files.iter().zip(&good.media) {
            put(file, &MemoryMedia { blocks: media.blocks, ..MemoryMedia::default() }, media);
        }
        Self { folder, files }
    }

    /// Makes the files that are `from` into `to`.
    fn change(&self, from: &Drives, to: &Drives) {
        for ((file, from), to) in self.files.iter().zip(&from.media).zip(&to.media) {
            put(file, from, to);
        }
    }

    fn fsck(&self) -> Output {
        let names = (0..self.files.len()).map(|index| format!("d{index}"));
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_plinth")));
        command.arg("fsck").args(names).current_dir(self.folder.path()).output().expect("plinth runs")
    }
}

/// Writes the blocks that differ.
fn put(file: &File, from: &MemoryMedia, to: &MemoryMedia) {
    const ZERO: [u8; 4096] = [0; 4096];
    let all = from.content.keys().chain(to.content.keys());
    for at in all {
        let block = |media: &MemoryMedia| media.content.get(at).map_or(ZERO, |block| **block);
        let wanted = block(to);
        if block(from) != wanted {
            file.write_all_at(&wanted, at * 4096).expect("a block is written");
        }
    }
}

/// Rows are tried by so many threads at once, each with files of its own: most of the time goes by in reading them.
const THREADS: usize = 4;

#[test]
fn every_kind_of_planted_damage_exits_with_4_and_is_named() {
    let rows: Vec<&table::Row> = table::ALL.iter().flat_map(|rows| rows.iter()).collect();
    let missed: Vec<String> = std::thread::scope(|scope| {
        let share = |i: usize| rows.iter().skip(i).step_by(THREADS).copied();
        let threads: Vec<_> = (0..THREADS).map(|i| scope.spawn(move || missed(share(i)))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(missed.is_empty(), "{} of {} kinds:\n{}", missed.len(), rows.len(), missed.join("\n"));
}

/// Tries rows; those that were not found, or not named, or ended otherwise.
fn missed<'r>(rows: impl Iterator<Item = &'r table::Row>) -> Vec<String> {
    let mut images: BTreeMap<u8, Files> = BTreeMap::new();
    let mut missed = Vec::new();
    for row in rows {
        let good = row.image.good();
        let files = images.entry(row.image as u8).or_insert_with(|| clean(row.image));
        let mut drives = good.clone();
        let object = (row.plant)(&mut drives);
        files.change(good, &drives);
        let output = files.fsck();
        files.change(&drives, good);
        let told = String::from_utf8(output.stdout).expect("text");
        let severity = format!("{}: ", row.severity);
        let named =
            |line: &str| line.starts_with(&severity) && line.contains(&object) && line.contains(row.says);
        let ended = told.lines().last() == Some("damage left");
        if output.status.code() != Some(DAMAGE_LEFT) || !ended || !told.lines().any(named) {
            let error = String::from_utf8_lossy(&output.stderr);
            missed.push(format!("{}: {:?} {error}{told}", row.name, output.status));
        }
    }
    for (image, files) in &images {
        assert_eq!(files.fsck().status.code(), Some(0), "image {image} is whole again");
    }
    missed
}

/// The image as files, on which the check finds nothing.
fn clean(image: Image) -> Files {
    let files = Files::new(image.good());
    let output = files.fsck();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{image:?}: {told}");
    assert!(told.ends_with("clean\n"), "{image:?}: {told}");
    files
}

/// Findings end with what to do, once for each severity.
#[test]
fn what_to_do_is_said_once() {
    let files = clean(Image::Closed);
    let good = Image::Closed.good();
    let mut drives = good.clone();
    let (_, data) = tools::some_data(&drives, 300);
    tools::flip_leg(&mut drives, data.pba, 1);
    files.change(good, &drives);
    let told = String::from_utf8(files.fsck().stdout).expect("text");
    let actions: Vec<&str> = told.lines().filter(|line| line.starts_with("what to do about ")).collect();
    assert_eq!(actions.len(), 1, "{told}");
    assert!(actions[0].contains("repairable: another copy is right: attach the volume"), "{told}");
}
