//! Drives that another has: who it is decides.
use super::*;
use crate::agent::testing::LoopDevice;
use crate::drives::label::write_label;
use base::{Blocks, Uuid};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

const BLOCKS: u64 = 65_536;
const GROUP: u64 = 0x8877_6655_4433_2211;

/// A drive in a file, with a label.
fn drive(folder: &Path) -> PathBuf {
    let path = folder.join("drive");
    File::create(&path).expect("creates").set_len(BLOCKS * 4096).expect("sizes");
    let label = volume::Label {
        pool: Uuid([1; 16]),
        pool_name: "p".into(),
        drive: Uuid([2; 16]),
        blocks: Blocks::new(BLOCKS),
        extent_blocks: 64,
        written: 1,
        node: String::new(),
        rack: String::new(),
        zone: String::new(),
        class: String::new(),
    };
    write_label(&Media::open(&path).expect("opens"), &label).expect("writes");
    path
}

fn take_among(path: &Path, processes: &Path) -> Result<Taken> {
    let (pool, id) = (Uuid([1; 16]).to_string(), Uuid([2; 16]).to_string());
    let wanted = Wanted { path, id: &id, pool: &pool, group: GROUP };
    wanted.take_within(Duration::ZERO, Duration::ZERO, processes)
}

fn take(path: &Path) -> Result<Taken> {
    take_among(path, Path::new("/proc"))
}

/// The open file of a drive where the kernel alone has it, as it has one with operations in flight whose process was killed:
/// under way from one end of a socket to the other.
fn kept_by_the_kernel(drive: Drive) -> (UnixStream, UnixStream) {
    let (from, to) = UnixStream::pair().expect("sockets");
    let file = [drive.as_fd().as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&file)];
    let sent = sendmsg::<()>(from.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(1));
    (from, to)
}

/// A leg hung, its target was killed, and the next one found the leg locked: it refused the whole group, again and again, for
/// as long as the leg hung, though the others had everything.
#[test]
fn a_drive_that_only_the_kernel_holds_is_gone_without() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = drive(folder.path());
    let Ok(Taken::Drive(former)) = take(&path) else { panic!("it is free") };
    let kept = kept_by_the_kernel(former);
    let nobody = processes(folder.path(), ALL_PROCESSES, "");
    match take_among(&path, &nobody) {
        Ok(Taken::Absent(error)) => assert!(error.message.contains("former target"), "{error}"),
        Ok(Taken::Drive(_)) => panic!("its lock is held"),
        Err(error) => panic!("{error}"),
    }
    let another = processes(folder.path(), ALL_PROCESSES, &lock_line("WRITE", &byte(), &byte()));
    let refused = take_among(&path, &another).err().expect("refused");
    assert_eq!(refused.kind, Kind::Refused, "{refused}");
    drop(kept);
    assert!(matches!(take(&path), Ok(Taken::Drive(_))), "the kernel has let go");
}

/// The byte that the group locks.
fn byte() -> String {
    drive::group_lock(GROUP).to_string()
}

/// What the kernel says of a lock of an open file.
fn lock_line(kind: &str, first: &str, last: &str) -> String {
    format!("lock:\t2: OFDLCK ADVISORY  {kind} -1 fe:00:4711 {first} {last}")
}

/// Whoever has the drive as a whole is no target, and the group waits for him.
#[test]
fn a_drive_in_use_as_a_whole_refuses_the_group() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = drive(folder.path());
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let tool = Drive::open(&path, access).expect("opens");
        let refused = take(&path).err().expect("refused");
        assert_eq!(refused.kind, Kind::Refused, "{refused}");
        drop(tool);
    }
}

/// It is no other target that has it, and the group goes on by its other drives.
#[test]
fn a_drive_that_is_claimed_by_something_above_it_is_gone_without() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(device) = LoopDevice::over(&drive(folder.path())) else { return };
    let claim = device.claim();
    assert!(matches!(take(&device.0), Ok(Taken::Absent(error)) if error.message.contains("multipath")));
    drop(claim);
    assert!(matches!(take(&device.0), Ok(Taken::Drive(_))));
}

#[test]
fn a_drive_that_is_gone_or_another_one_is_gone_without() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = drive(folder.path());
    assert!(matches!(take(&folder.path().join("none")), Ok(Taken::Absent(_))));
    File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("cuts");
    File::options().write(true).open(&path).and_then(|file| file.set_len(BLOCKS * 4096)).expect("sizes");
    assert!(matches!(take(&path), Ok(Taken::Absent(error)) if error.kind == Kind::NotFound));
}

/// A folder like /proc with one process, whose open file says this.
fn processes(folder: &Path, space: &str, says: &str) -> PathBuf {
    let all = folder.join("processes");
    let _ = std::fs::remove_dir_all(&all);
    std::fs::create_dir_all(all.join("self/ns")).expect("makes");
    std::os::unix::fs::symlink(space, all.join("self/ns/pid")).expect("links");
    // More than the kernel ever gives.
    let files = all.join("4194305/fdinfo");
    std::fs::create_dir_all(&files).expect("makes");
    std::fs::write(files.join("7"), format!("pos:\t0\nflags:\t02100002\n{says}\n")).expect("writes");
    all
}

#[test]
fn a_process_with_the_lock_is_seen_and_one_that_cannot_be_seen_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    for (says, seen) in [
        (lock_line("WRITE", &byte(), &byte()), true),
        (lock_line("WRITE", "17", "17"), false),
        (lock_line("READ ", "0", "EOF"), false),
        ("lock:\t1: FLOCK  ADVISORY  READ 16207 fe:00:4711 0 EOF".into(), false),
        (String::new(), false),
    ] {
        let all = processes(folder.path(), ALL_PROCESSES, &says);
        assert_eq!(is_locked(&all, GROUP), seen, "{says}");
    }
    // A process anywhere on the machine had a file with such a name open in a ring, and no group went on without a drive.
    let text =
        [b"UserFiles:\t1\n    0: /caf\xe9\n".as_slice(), lock_line("WRITE", &byte(), &byte()).as_bytes()]
            .concat();
    assert!(tells_lock(&text, &byte()) && !tells_lock(&text, "17"));
    let all = processes(folder.path(), ALL_PROCESSES, "");
    std::fs::write(all.join("4194305/fdinfo/8"), b"UserFiles:\t1\n    0: /caf\xe9\n").expect("writes");
    assert!(!is_locked(&all, GROUP), "none of its files has the lock");
    let inside = processes(folder.path(), "pid:[4026532201]", "");
    assert!(is_locked(&inside, GROUP), "others may be outside");
    assert!(is_locked(&folder.path().join("none"), GROUP));
    // What this kernel says of a lock is what is looked for.
    let path = drive(folder.path());
    let Ok(Taken::Drive(held)) = take(&path) else { panic!("it is free") };
    let about = format!("/proc/self/fdinfo/{}", held.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(about).expect("reads");
    assert!(text.lines().any(|line| is_lock(line, &byte())), "{text}");
}
