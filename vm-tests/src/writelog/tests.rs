//! Logs made by hand, with and without the marks of a kill, and one made by QEMU itself.

use super::*;
use crate::children::find_program;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const DRIVE_BYTES: u64 = 1 << 20;

/// Builds a log as QEMU would.
#[derive(Default)]
struct Maker {
    bytes: Vec<u8>,
}

impl Maker {
    fn new() -> Maker {
        let mut maker = Maker { bytes: vec![0; 512] };
        maker.bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        maker.bytes[8..16].copy_from_slice(&1u64.to_le_bytes());
        maker.bytes[24..28].copy_from_slice(&512u32.to_le_bytes());
        maker
    }

    fn entry(mut self, sector: u64, count: u64, flags: u64, fill: u8) -> Maker {
        let mut header = [0u8; 512];
        for (at, value) in [sector, count, flags, 0].into_iter().enumerate() {
            header[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        self.bytes.extend_from_slice(&header);
        if flags & DISCARD == 0 {
            self.bytes.resize(self.bytes.len() + usize::try_from(count * 512).expect("small"), fill);
        }
        self
    }

    fn gap(mut self, sectors: usize) -> Maker {
        self.bytes.resize(self.bytes.len() + sectors * 512, 0);
        self
    }
}

struct Place {
    folder: PathBuf,
}

impl Place {
    fn new(name: &str) -> Place {
        let folder = std::env::temp_dir().join(format!("plinth-writelog-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a scratch folder");
        Place { folder }
    }

    fn log(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join("log");
        fs::write(&path, bytes).expect("write the log");
        path
    }

    fn blank(&self) -> PathBuf {
        let path = self.folder.join("image");
        fs::write(&path, vec![0u8; usize::try_from(DRIVE_BYTES).expect("small")]).expect("write the image");
        path
    }

    fn rebuilt(&self, bytes: &[u8], seed: u64) -> (Vec<u8>, Fate) {
        let (path, image) = (self.log(bytes), self.blank());
        let log = Log::read(&path, DRIVE_BYTES).expect("a log");
        let fate = rebuild(&path, &log, &image, Manner::HONEST, seed).expect("rebuilt");
        (fs::read(image).expect("the image"), fate)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn what_was_flushed_is_there_whatever_the_seed() {
    let place = Place::new("flushed");
    let log = Maker::new().entry(0, 8, 0, 1).entry(0, 4, 0, 2).entry(0, 0, FLUSH, 0).entry(8, 8, 0, 3);
    for seed in 0..64 {
        let (image, fate) = place.rebuilt(&log.bytes, seed);
        assert!(image[..2048].iter().all(|b| *b == 2) && image[2048..4096].iter().all(|b| *b == 1));
        assert_eq!((fate.durable, fate.kept + fate.dropped + fate.torn), (3, 1));
    }
}

#[test]
fn a_drive_that_lies_loses_what_was_flushed() {
    let place = Place::new("lies");
    let maker = Maker::new().entry(0, 8, FUA, 1).entry(0, 0, FLUSH, 0);
    let (path, mut lost) = (place.log(&maker.bytes), 0);
    let log = Log::read(&path, DRIVE_BYTES).expect("a log");
    for seed in 0..64 {
        let image = place.blank();
        rebuild(&path, &log, &image, Manner { tears_at: 0, lies: true }, seed).expect("rebuilt");
        lost += usize::from(fs::read(image).expect("the image")[0] == 0);
    }
    assert!(lost > 5, "{lost}");
}

#[test]
fn a_write_at_risk_is_kept_dropped_or_torn_at_a_sector() {
    let place = Place::new("risk");
    let log = Maker::new().entry(0, 8, 0, 7);
    let mut seen = Fate::default();
    for seed in 0..64 {
        let (image, fate) = place.rebuilt(&log.bytes, seed);
        for sector in image[..4096].chunks(512) {
            assert!(sector.iter().all(|b| *b == sector[0]), "a sector is never torn");
        }
        let there = image[..4096].chunks(512).filter(|s| s[0] == 7).count();
        assert_eq!(fate.kept == 1, there == 8);
        assert_eq!(fate.dropped == 1, there == 0);
        assert_eq!(fate.torn == 1, (1..8).contains(&there));
        seen.kept += fate.kept;
        seen.dropped += fate.dropped;
        seen.torn += fate.torn;
        assert_eq!(place.rebuilt(&log.bytes, seed).0, image, "the same seed gives the same drive");
    }
    assert!(seen.kept > 5 && seen.dropped > 5 && seen.torn > 5, "{seen:?}");
}

#[test]
fn fua_survives_alone_and_protects_nothing_else() {
    let place = Place::new("fua");
    let log = Maker::new().entry(0, 1, 0, 1).entry(1, 1, FUA, 2);
    let mut lost = 0;
    for seed in 0..64 {
        let (image, _) = place.rebuilt(&log.bytes, seed);
        assert_eq!(image[512], 2);
        lost += usize::from(image[0] == 0);
    }
    assert!(lost > 5, "the write before it is still at risk");
}

#[test]
fn a_flushed_discard_reads_as_zeros() {
    let place = Place::new("discard");
    let log = Maker::new().entry(0, 16, 0, 9).entry(4, 8, DISCARD, 0).entry(0, 0, FLUSH, 0);
    let (image, _) = place.rebuilt(&log.bytes, 3);
    assert!(image[2048..6144].iter().all(|b| *b == 0));
    assert_eq!((image[0], image[8191]), (9, 9));
}

#[test]
fn the_marks_of_a_kill_are_stepped_over() {
    let place = Place::new("gap");
    let maker = Maker::new().entry(0, 2, 0, 1).gap(9).entry(2, 2, 0, 2).entry(0, 0, FLUSH, 0);
    let log = Log::read(&place.log(&maker.bytes), DRIVE_BYTES).expect("a log");
    assert_eq!((log.entries.len(), log.gaps, log.durable()), (3, 1, 3));
    // The last entry's data is cut off: it was never acknowledged.
    let mut bytes = Maker::new().entry(0, 2, 0, 1).entry(2, 8, 0, 2).bytes;
    bytes.truncate(bytes.len() - 700);
    let log = Log::read(&place.log(&bytes), DRIVE_BYTES).expect("a log");
    assert_eq!(log.entries.len(), 1);
    // Before the first flush there may be no superblock at all.
    let mut bytes = Maker::new().entry(0, 2, 0, 1).bytes;
    bytes[..512].fill(0);
    assert_eq!(Log::read(&place.log(&bytes), DRIVE_BYTES).expect("a log").entries.len(), 1);
    assert_eq!(Log::read(&place.log(&[]), DRIVE_BYTES).expect("a log"), Log::default());
}

#[test]
fn something_else_is_refused() {
    let place = Place::new("foreign");
    assert!(Log::read(&place.log(&[0xA5; 4096]), DRIVE_BYTES).is_err());
}

/// QEMU's own log of a few requests rebuilds into what QEMU itself wrote.
#[test]
fn qemu_writes_what_this_reads() {
    assert!(find_program("qemu-io").is_some(), "qemu-io is missing; run `cargo xtask setup`");
    let place = Place::new("qemu");
    let (log, image) = (place.log(&[]), place.blank());
    let options = format!(
        "driver=blklogwrites,file.driver=file,file.filename={},log.driver=file,log.filename={},\
         log-sector-size=512",
        image.display(),
        log.display()
    );
    let child = Command::new("qemu-io")
        .args(["--image-opts", &options])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let mut child = child.expect("qemu-io starts");
    let script = "write -P 1 0 64k\nwrite -P 2 8k 1k\nflush\nwrite -P 3 4k 4k\nwrite -z 128k 4k\n\
                  discard 16k 16k\nwrite -P 4 20k 4k\nflush\n";
    child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("the script is taken");
    assert!(child.wait().expect("qemu-io ends").success());
    let theirs = fs::read(&image).expect("the image");
    assert!(theirs[..4096].iter().all(|b| *b == 1), "qemu-io wrote the image");
    let read = Log::read(&log, DRIVE_BYTES).expect("a log");
    let ours = place.folder.join("ours");
    fs::write(&ours, vec![0u8; theirs.len()]).expect("a blank image");
    let fate = rebuild(&log, &read, &ours, Manner::HONEST, 1).expect("rebuilt");
    assert_eq!(read.gaps, 0);
    assert!(fate.durable >= 6, "{fate:?}");
    assert_eq!(fs::read(&ours).expect("the image"), theirs);
}
